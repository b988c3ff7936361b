"""Changing the resolution: nearest-neighbour interpolation, pixels to channels and back, patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lucid.core.errors import ShapeError
from lucid.core.geometry import ConvSpec, Sizes
from lucid.nn.functional._arguments import SizeArgument, as_pairs, sizes
from lucid.ops import pool as ops
from lucid.tensor import Tensor


def interpolate(
    input: Tensor,
    size: SizeArgument | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
) -> Tensor:
    """The input at another resolution: output i of n takes input floor(i · m / n), or floor(i / scale) if scaled.

    Shape:
        input (N, C, *m), result (N, C, *n), n = size or floor(m · scale_factor).

    >>> interpolate(Tensor([[[1.0, 2.0]]]), scale_factor=2).tolist()
    [[[1.0, 1.0, 2.0, 2.0]]]
    """
    if mode != "nearest":
        raise ValueError(f"interpolate: mode={mode!r} must be 'nearest'")
    if input.ndim not in (3, 4, 5):
        raise ShapeError(f"interpolate: the input {input.shape} must be (N, C, …) with 1 to 3 spatial axes")
    rank = input.ndim - 2
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: exactly one of size and scale_factor must be given")
    if scale_factor is None:
        wanted = sizes("interpolate", "size", size, rank)
        steps = [m / n for m, n in zip(input.shape[2:], wanted, strict=True)]
    else:
        factors = [scale_factor] * rank if isinstance(scale_factor, (int, float)) else list(scale_factor)
        if len(factors) != rank or min(factors) <= 0:
            raise ShapeError(f"interpolate: scale_factor={scale_factor} must be above 0, one for all or {rank}")
        wanted = tuple(int(m * f) for m, f in zip(input.shape[2:], factors, strict=True))
        steps = [1 / f for f in factors]
    for axis, (n, m, step) in enumerate(zip(wanted, input.shape[2:], steps, strict=True), start=2):
        if n != m or step != 1:
            index = np.minimum((np.arange(n) * step).astype(np.int64), m - 1)
            input = input.index_select(axis, Tensor(index))
    return input


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(*, C r², H, W) to (*, C, H r, W r): channels become the pixels of r × r squares.

    Source: Shi et al., arXiv:1609.05158.
    """
    r, (channels, h, w) = upscale_factor, _image("pixel_shuffle", input)
    if r < 1 or channels % (r * r):
        raise ShapeError(
            f"pixel_shuffle: the {channels} channels of {input.shape} must be a multiple of upscale_factor² = {r * r}"
        )
    lead = input.shape[:-3]
    split = input.reshape(*lead, channels // (r * r), r, r, h, w)
    return _moved(split, len(lead), (0, 3, 1, 4, 2), (channels // (r * r), h * r, w * r))


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(*, C, H r, W r) to (*, C r², H, W): the inverse of ``pixel_shuffle``."""
    r, (channels, h, w) = downscale_factor, _image("pixel_unshuffle", input)
    if r < 1 or h % r or w % r:
        raise ShapeError(f"pixel_unshuffle: height {h} and width {w} must be multiples of downscale_factor={r}")
    lead = input.shape[:-3]
    split = input.reshape(*lead, channels, h // r, r, w // r, r)
    return _moved(split, len(lead), (0, 2, 4, 1, 3), (channels * r * r, h // r, w // r))


def unfold(
    input: Tensor,
    kernel_size: SizeArgument,
    dilation: SizeArgument = 1,
    padding: SizeArgument = 0,
    stride: SizeArgument = 1,
) -> Tensor:
    """Every window of an image as a column.

    Shape:
        input (N, C, H, W) or (C, H, W), result (N, C · K_h · K_w, windows).
    """
    spec = ConvSpec(
        sizes("unfold", "kernel_size", kernel_size, 2),
        sizes("unfold", "stride", stride, 2),
        sizes("unfold", "dilation", dilation, 2),
        as_pairs(sizes("unfold", "padding", padding, 2, least=0)),
    )
    _, h, w = _image("unfold", input)
    if min(spec.out_size((h, w))) < 1:
        raise ShapeError(
            f"unfold: kernel_size={spec.kernel} with dilation={spec.dilation} does not fit the input {input.shape}"
        )
    return ops.unfold(input, spec)


def _image(caller: str, x: Tensor) -> tuple[int, int, int]:
    if x.ndim < 3:
        raise ShapeError(f"{caller}: the input {x.shape} must be (…, C, H, W)")
    return x.shape[-3], x.shape[-2], x.shape[-1]


def _moved(x: Tensor, lead: int, order: Sizes, shape: Sizes) -> Tensor:
    """The axes after the first ``lead`` in another order, and then as ``shape``."""
    result: Tensor = x.permute(*range(lead), *(lead + axis for axis in order)).reshape(*x.shape[:lead], *shape)
    return result
