"""Changing the resolution: interpolation, pixels to channels and back, patches."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from lucid.core.errors import ShapeError
from lucid.core.geometry import ConvSpec, Sizes
from lucid.nn.functional._arguments import SizeArgument, as_pairs, sizes
from lucid.ops import pool as ops
from lucid.tensor import Tensor

LINEAR = {"linear": 1, "bilinear": 2, "trilinear": 3}  # and how many spatial axes each is for


def interpolate(
    input: Tensor,
    size: SizeArgument | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """The input at another resolution, along each axis on its own.

    "nearest": output i of n takes input floor(i · m / n), or floor(i / scale) if scaled. "linear", "bilinear" and
    "trilinear", for one, two and three axes, weigh the two inputs beside (i + ½) m / n - ½; with ``align_corners``
    beside i (m - 1) / (n - 1), so that the first and last samples stay where they are.

    Shape:
        input (N, C, *m), result (N, C, *n), n = size or floor(m · scale_factor).

    >>> interpolate(Tensor([[[1.0, 2.0]]]), scale_factor=2).tolist()
    [[[1.0, 1.0, 2.0, 2.0]]]
    >>> interpolate(Tensor([[[1.0, 2.0]]]), scale_factor=2, mode="linear").tolist()
    [[[1.0, 1.25, 1.75, 2.0]]]
    """
    if input.ndim not in (3, 4, 5):
        raise ShapeError(f"interpolate: the input {input.shape} must be (N, C, …) with 1 to 3 spatial axes")
    rank = input.ndim - 2
    _check_mode(mode, rank, align_corners)
    wanted, steps = _resolution(input.shape[2:], size, scale_factor)
    if mode == "nearest" and input.dtype.is_floating_point and _repeats(wanted, input.shape[2:], steps):
        return ops.repeated(input, tuple(n // m for n, m in zip(wanted, input.shape[2:], strict=True)))
    for axis, (n, m, step) in enumerate(zip(wanted, input.shape[2:], steps, strict=True), start=2):
        if n == m and step == 1:
            continue
        if mode == "nearest":
            index = np.minimum((np.arange(n) * step).astype(np.int64), m - 1)
            input = input.index_select(axis, Tensor(index))
        else:
            input = _mixed(input, axis, _neighbours(n, m, step, bool(align_corners)))
    return input


def _check_mode(mode: str, rank: int, align_corners: bool | None) -> None:
    if mode != "nearest" and mode not in LINEAR:
        raise ValueError(f"interpolate: mode={mode!r} must be one of 'nearest', {', '.join(map(repr, LINEAR))}")
    if mode == "nearest" and align_corners is not None:
        raise ValueError(f"interpolate: align_corners={align_corners} is for the linear modes, not mode='nearest'")
    if mode != "nearest" and LINEAR[mode] != rank:
        fitting = next(name for name, axes in LINEAR.items() if axes == rank)
        raise ValueError(f"interpolate: mode={mode!r} is for {LINEAR[mode]} spatial axes; for {rank} it is {fitting!r}")


def _resolution(
    size: Sizes, wanted: SizeArgument | None, scale_factor: float | Sequence[float] | None
) -> tuple[Sizes, list[float]]:
    """The size to make of ``size``, and the input samples that one output sample stands for, along each axis."""
    rank = len(size)
    if (wanted is None) == (scale_factor is None):
        raise ValueError("interpolate: exactly one of size and scale_factor must be given")
    if scale_factor is None:
        made = sizes("interpolate", "size", wanted, rank)
        return made, [m / n for m, n in zip(size, made, strict=True)]
    factors = [scale_factor] * rank if isinstance(scale_factor, (int, float)) else list(scale_factor)
    if len(factors) != rank or min(factors) <= 0:
        raise ShapeError(f"interpolate: scale_factor={scale_factor} must be above 0, one for all or {rank}")
    return tuple(int(m * f) for m, f in zip(size, factors, strict=True)), [1 / f for f in factors]


def _repeats(wanted: Sizes, size: Sizes, steps: Sequence[float]) -> bool:
    """Whether along each axis every sample comes equally often, in order."""
    return all(m and n and n % m == 0 and step * n == m for n, m, step in zip(wanted, size, steps, strict=True))


def _neighbours(n: int, m: int, step: float, align_corners: bool) -> np.ndarray[Any, Any]:
    """The weights (n, m) of m samples in n samples between them."""
    if align_corners:
        place = np.arange(n) * ((m - 1) / (n - 1) if n > 1 else 0.0)
    else:
        place = np.maximum((np.arange(n) + 0.5) * step - 0.5, 0.0)
    left = np.minimum(place.astype(np.int64), m - 1)
    part = np.minimum(place - left, 1.0)
    weights = np.zeros((n, m))
    weights[np.arange(n), left] = 1 - part
    weights[np.arange(n), np.minimum(left + 1, m - 1)] += part
    return weights


def _mixed(x: Tensor, axis: int, weights: np.ndarray[Any, Any]) -> Tensor:
    """The samples along one axis, mixed by ``weights`` (new, old): a matrix product, and so is its gradient."""
    n, m = weights.shape
    matrix = Tensor(weights.astype(x.dtype.numpy))
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    mixed = matrix @ x.reshape(prod(before), m, prod(after)) if after else x.reshape(-1, m) @ matrix.t()
    result: Tensor = mixed.reshape(*before, n, *after)
    return result


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
