"""Changing the resolution: interpolation, pixels to channels and back, patches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from lucid.core.errors import ShapeError
from lucid.core.geometry import ConvSpec, Sizes
from lucid.kernels.columns import Band
from lucid.nn.functional._arguments import SizeArgument, as_pairs, sizes
from lucid.ops import pool as ops
from lucid.ops.checked import check_tensor
from lucid.ops.weighted import weighted
from lucid.tensor import Tensor

#: Modes that weigh neighbours, and how many spatial axes each is for.
SMOOTH = {"linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2}
NEAREST = {"nearest": 0.0, "nearest-exact": 0.5}  # and the place in an output sample that is looked up
_CUBIC = -0.75  # the slope of bicubic weights one sample away, as PyTorch has it


def interpolate(
    input: Tensor,
    size: SizeArgument | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """The input at another resolution, along each axis on its own.

    "nearest": output i of n takes input floor(i · m / n), or floor(i / scale) if scaled; "nearest-exact" has i + ½.
    "linear", "bilinear" and "trilinear", for one, two and three axes, weigh the two inputs beside (i + ½) m / n - ½;
    with ``align_corners`` beside i (m - 1) / (n - 1), so that the first and last samples stay where they are.
    "bicubic" weighs four, by cubics of slope -0.75; the ends repeat. "area" takes the mean of the inputs that an output
    covers, as ``adaptive_avg_pool``. ``recompute_scale_factor`` takes m / n for 1 / scale where sizes were rounded.

    Shape:
        input (N, C, *m), result (N, C, *n), n = size or floor(m · scale_factor).

    Source: Keys, IEEE Trans. ASSP 29 (1981), for the cubics.

    >>> interpolate(Tensor([[[1.0, 2.0]]]), scale_factor=2).tolist()
    [[[1.0, 1.0, 2.0, 2.0]]]
    >>> interpolate(Tensor([[[1.0, 2.0]]]), scale_factor=2, mode="linear").tolist()
    [[[1.0, 1.25, 1.75, 2.0]]]
    >>> interpolate(Tensor([[[[0.0, 1.0], [2.0, 3.0]]]]), size=(1, 3), mode="bicubic", align_corners=True).tolist()
    [[[[0.0, 0.5, 1.0]]]]
    """
    check_tensor("interpolate", "input", input)
    if input.ndim not in (3, 4, 5):
        raise ShapeError(f"interpolate: the input {input.shape} must be (N, C, …) with 1 to 3 spatial axes")
    _check_mode(mode, input.ndim - 2, align_corners, antialias)
    old = input.shape[2:]
    wanted, steps = _resolution(old, size, scale_factor)
    if 0 in (*old, *wanted):
        raise ShapeError(f"interpolate: neither the input's sizes {old} nor the result's {wanted} may be 0")
    if recompute_scale_factor:
        if scale_factor is None:
            raise ValueError("interpolate: recompute_scale_factor=True needs a scale_factor, not a size")
        steps = [m / n for m, n in zip(old, wanted, strict=True)]
    if mode in NEAREST:
        return _nearest(input, wanted, steps, mode)
    if mode == "area":
        return ops.adaptive_avg_pool(input, wanted)
    places = enumerate(zip(wanted, old, steps, strict=True), start=2)
    bands = tuple(
        (axis, neighbours(n, m, step, bool(align_corners), mode == "bicubic"))
        for axis, (n, m, step) in places
        if n != m or step != 1
    )
    return weighted("interpolate", input, bands) if bands else input.clone()


def _check_mode(mode: str, rank: int, align_corners: bool | None, antialias: bool) -> None:
    if mode not in (*NEAREST, *SMOOTH, "area"):
        raise ValueError(
            f"interpolate: mode={mode!r} must be one of {', '.join(map(repr, (*NEAREST, *SMOOTH)))}, 'area'"
        )
    if antialias:
        raise ValueError(
            "interpolate: antialias=True is not there; shrink with mode='area', or smooth with a convolution before"
        )
    if mode not in SMOOTH and align_corners is not None:
        raise ValueError(
            f"interpolate: align_corners={align_corners} is for the linear and cubic modes, not mode={mode!r}"
        )
    if mode in SMOOTH and SMOOTH[mode] != rank:
        fitting = next(name for name, axes in SMOOTH.items() if axes == rank)
        raise ValueError(f"interpolate: mode={mode!r} is for {SMOOTH[mode]} spatial axes; for {rank} it is {fitting!r}")


def _nearest(x: Tensor, wanted: Sizes, steps: Sequence[float], mode: str) -> Tensor:
    """Every output the input at its place, rounded as PyTorch rounds it: some steps make a whole, or all but one."""
    kind: Any = np.float64 if x._array.dtype == np.float64 else np.float32
    if x.dtype.is_floating_point and _repeats(wanted, x.shape[2:], steps):
        return ops.repeated(x, tuple(n // m for n, m in zip(wanted, x.shape[2:], strict=True)))
    for axis, (n, m, step) in enumerate(zip(wanted, x.shape[2:], steps, strict=True), start=2):
        if n != m or step != 1:
            middle = kind(NEAREST[mode])
            place = (np.arange(n).astype(kind) + middle) * kind(step) - middle + middle
            index = np.minimum(place.astype(np.float32).astype(np.int64), m - 1)
            x = x.index_select(axis, Tensor(index))
    return x


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


@lru_cache(maxsize=256)
def neighbours(n: int, m: int, step: float, align_corners: bool, cubic: bool) -> Band:
    """The weights (n, m) of m samples in n samples between them."""
    place = (np.arange(n) + 0.5) * step - 0.5
    if align_corners:
        place = np.arange(n) * ((m - 1) / (n - 1) if n > 1 else 0.0)
    if not cubic:
        place = np.clip(place, 0.0, m - 1)
    left = np.floor(place).astype(np.int64)
    part = place - left
    weights = _cubics(part) if cubic else [1 - part, part]
    taps = np.arange(len(weights)) - (1 if cubic else 0)
    columns = np.clip(left[:, None] + taps, 0, m - 1)
    return Band(n, m, np.repeat(np.arange(n), len(taps)), columns, np.stack(weights, axis=1))


def _cubics(t: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """The weights of the samples at -1, 0, 1 and 2 in one at 0 <= t < 1."""
    a = _CUBIC

    def near(d: Any) -> Any:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Any) -> Any:
        return a * (((d - 5) * d + 8) * d - 4)

    return [far(1 + t), near(t), near(1 - t), far(2 - t)]


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
    spec = _windows("unfold", kernel_size, dilation, padding, stride)
    _, h, w = _image("unfold", input)
    if min(spec.out_size((h, w))) < 1:
        raise ShapeError(
            f"unfold: kernel_size={spec.kernel} with dilation={spec.dilation} does not fit the input {input.shape}"
        )
    return ops.unfold(input, spec)


def fold(
    input: Tensor,
    output_size: SizeArgument,
    kernel_size: SizeArgument,
    dilation: SizeArgument = 1,
    padding: SizeArgument = 0,
    stride: SizeArgument = 1,
) -> Tensor:
    """The columns of ``unfold`` added up where they came from.

    Shape:
        input (N, C · K_h · K_w, windows) or without N, result (N, C, H, W) with output_size = (H, W).
    """
    check_tensor("fold", "input", input)
    spec = _windows("fold", kernel_size, dilation, padding, stride)
    size = sizes("fold", "output_size", output_size, 2)
    rows, windows = prod(spec.kernel), prod(spec.out_size(size))
    if input.ndim not in (2, 3) or input.shape[-2] % rows or input.shape[-1] != windows:
        raise ShapeError(
            f"fold: the input {input.shape} must be (N, a multiple of {rows}, {windows}) for kernel_size={spec.kernel} "
            f"and output_size={size}"
        )
    whole = ops.fold(input if input.ndim == 3 else input.unsqueeze(0), spec, size)
    return whole if input.ndim == 3 else whole.squeeze(0)


def _windows(
    caller: str, kernel_size: SizeArgument, dilation: SizeArgument, padding: SizeArgument, stride: SizeArgument
) -> ConvSpec:
    return ConvSpec(
        sizes(caller, "kernel_size", kernel_size, 2),
        sizes(caller, "stride", stride, 2),
        sizes(caller, "dilation", dilation, 2),
        as_pairs(sizes(caller, "padding", padding, 2, least=0)),
    )


def _image(caller: str, x: Tensor) -> tuple[int, int, int]:
    check_tensor(caller, "input", x)
    if x.ndim < 3:
        raise ShapeError(f"{caller}: the input {x.shape} must be (…, C, H, W)")
    return x.shape[-3], x.shape[-2], x.shape[-1]


def _moved(x: Tensor, lead: int, order: Sizes, shape: Sizes) -> Tensor:
    """The axes after the first ``lead`` in another order, and then as ``shape``."""
    result: Tensor = x.permute(*range(lead), *(lead + axis for axis in order)).reshape(*x.shape[:lead], *shape)
    return result
