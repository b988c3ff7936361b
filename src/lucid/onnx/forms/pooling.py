"""Pooling and resampling. ``ceil_mode`` is spelt out as padding: runtimes disagree on what hangs over the edge."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from lucid.core.geometry import Pads, PoolSpec, Sizes, window_extent
from lucid.kernels.columns import Band
from lucid.nn.functional.resampling import neighbours
from lucid.onnx.forms.matrices import along
from lucid.onnx.forms.table import form
from lucid.onnx.graph import At, Graph
from lucid.ops.pool import adaptive_windows
from lucid.ops.weighted import Bands


def _batched(g: Graph, s: At, rank: int, write: Callable[[str], str]) -> str:
    """``write`` of the input as (N, C, *size), its result with the axes before those of a window as they were."""
    x, lead = s.name(), len(s.shape()) - rank
    if lead == 2:
        return write(x)
    if lead == 1:
        return str(g.node("Squeeze", write(g.node("Unsqueeze", x, g.ints(0))), g.ints(0)))
    raise g.error(f"{s.step.op} of shape {s.shape()}: ONNX takes (N, C, …) with {rank} axes behind them")


def _reach(spec: PoolSpec, size: Sizes) -> Pads:
    """(low, high) samples around the input that the windows touch."""
    axes = zip(spec.out_size(size), size, spec.kernel, spec.stride, spec.dilation, spec.padding, strict=True)
    return tuple((low, max((o - 1) * s + window_extent(k, d) - n - low, 0)) for o, n, k, s, d, (low, _) in axes)


def _around(s: At, spec: PoolSpec) -> Pads:
    """The pads without ``ceil_mode`` that make the same windows."""
    if not spec.ceil_mode:
        return spec.padding
    rank = len(spec.kernel)
    pads: Pads = s.agreed("the padding with ceil_mode", [_reach(spec, shape[-rank:]) for shape in s.shapes()])
    return pads


def _flat(pads: Pads) -> list[int]:
    return [low for low, _ in pads] + [high for _, high in pads]


def _padded(g: Graph, s: At, x: str, pads: Pads, fill: float) -> str:
    counts = [0, 0, *(low for low, _ in pads), 0, 0, *(high for _, high in pads)]
    return str(g.node("Pad", x, g.ints(*counts), g.constant(fill, g.dtype_of(s.step.inputs[0]))))


def _windows(spec: PoolSpec, **more: Any) -> dict[str, Any]:
    return {"kernel_shape": spec.kernel, "strides": spec.stride, **more}


@form("max_pool", sized=True)
def _max_pool(g: Graph, s: At) -> str:
    spec: PoolSpec = s.agreed("the window", [run["spec"] for run in s.step.runs])
    if s.dtype.kind != "f":
        raise g.error(f"max_pool of {s.dtype.name}: runtimes have it for floating-point numbers only")
    pads = _around(s, spec)

    def write(x: str) -> str:
        given = pads
        if any(max(pair) >= k for pair, k in zip(pads, spec.kernel, strict=True)):
            x, given = _padded(g, s, x, pads, -np.inf), ((0, 0),) * len(pads)
        return str(g.node("MaxPool", x, **_windows(spec, dilations=spec.dilation, pads=_flat(given))))

    return _batched(g, s, len(spec.kernel), write)


@form("max_pool_indices", sized=True)
def _max_pool_indices(g: Graph, s: At) -> str:
    spec: PoolSpec = s.agreed("the window", [run["spec"] for run in s.step.runs])
    return _indices(g, s, spec, _around(s, spec))


def _indices(g: Graph, s: At, spec: PoolSpec, pads: Pads) -> str:
    """ONNX counts through the whole tensor, Lucid through each image."""
    rank = len(spec.kernel)
    count = s.agreed("the size of an image", [prod(shape[-rank:]) for shape in s.shapes()])

    def write(x: str) -> str:
        attributes = _windows(spec, dilations=spec.dilation, pads=_flat(pads))
        found = g.node("MaxPool", x, outputs=2, **attributes)[1]
        return str(g.node("Mod", found, g.ints(count)))

    return _batched(g, s, rank, write)


@form("adaptive_max_indices", sized=True)
def _adaptive_max_indices(g: Graph, s: At) -> str:
    out = s.params["out_size"]
    size = s.agreed("the window", [shape[-len(out) :] for shape in s.shapes()])
    if any(n % o for n, o in zip(size, out, strict=True)):
        raise g.error(f"adaptive maximum pooling from {size} to {out}: windows of unequal lengths have no ONNX form")
    kernel = tuple(n // o for n, o in zip(size, out, strict=True))
    none = ((0, 0),) * len(out)
    return _indices(g, s, PoolSpec(kernel, kernel, (1,) * len(out), none), none)


@form("avg_pool", sized=True)
def _avg_pool(g: Graph, s: At) -> str:
    """ONNX's own where nothing hangs over; else zeros put around, means of whole windows, their counts put right."""
    specs = [run["spec"] for run in s.step.runs]
    rank, included, divisor = len(specs[0].kernel), s.params["count_include_pad"], s.params["divisor"]
    sizes = [shape[-rank:] for shape in s.shapes()]
    whole = all(p.kernel == n and not any(map(any, p.padding)) for p, n in zip(specs, sizes, strict=True))
    if whole and divisor is None:
        return _batched(g, s, rank, lambda x: str(g.node("GlobalAveragePool", x)))
    spec: PoolSpec = s.agreed("the window", specs)
    hangs = spec.ceil_mode and any(
        pair[1] > given[1] for size in sizes for pair, given in zip(_reach(spec, size), spec.padding, strict=True)
    )
    if divisor is None and not hangs:
        counted = {"count_include_pad": int(included), "pads": _flat(spec.padding)}
        if spec.ceil_mode:
            counted["pads"] = _flat(_around(s, spec))
        if not spec.ceil_mode or not any(map(any, spec.padding)):
            return _batched(g, s, rank, lambda x: str(g.node("AveragePool", x, **_windows(spec, **counted))))
    pads = s.agreed("the padding", [_reach(spec, size) for size in sizes])
    factor = _factor(s, spec, included, divisor)

    def write(x: str) -> str:
        around = _padded(g, s, x, pads, 0) if any(map(any, pads)) else x
        mean = g.node("AveragePool", around, **_windows(spec, pads=[0] * 2 * rank))
        return str(g.node("Mul", mean, g.constant(factor.astype(s.dtype))))

    return _batched(g, s, rank, write)


def _factor(s: At, spec: PoolSpec, included: bool, divisor: int | None) -> Any:
    """Taps over what the sum of each window is to be divided by."""
    taps = prod(spec.kernel)
    if divisor is not None:
        return np.asarray(taps / divisor)
    rank = len(spec.kernel)
    size = s.agreed("the count of samples in a window", [shape[-rank:] for shape in s.shapes()])
    counts = []
    axes = zip(size, spec.out_size(size), spec.kernel, spec.stride, spec.padding, strict=True)
    for n, o, k, step, (low, high) in axes:
        first, last = (0, low + n + high) if included else (low, low + n)
        start = np.arange(o) * step
        counts.append(np.minimum(start + k, last) - np.maximum(start, first))
    return taps / prod(np.ix_(*counts), start=np.ones(()))


@form("avg_pool_grad", sized=True)
def _repeated(g: Graph, s: At) -> str:
    """As ``interpolate`` to the nearest: every sample some times over."""
    spec: PoolSpec = s.agreed("the factor", [run["spec"] for run in s.step.runs])
    if spec.kernel != spec.stride or s.params["divisor"] != 1 or any(map(any, spec.padding)):
        raise g.error("the gradient of average pooling has no ONNX form")
    return _batched(g, s, len(spec.kernel), lambda x: _enlarged(g, x, spec.kernel))


def _enlarged(g: Graph, x: str, factors: Sizes) -> str:
    scales = g.constant((1, 1, *factors), np.float32)
    how: dict[str, Any] = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return str(g.node("Resize", x, "", scales, **how))


@form("adaptive_avg_pool", sized=True)
def _adaptive_avg_pool(g: Graph, s: At) -> str:
    """Along each axis a product with a matrix of means."""
    out = s.params["out_size"]
    size = s.agreed("the window", [shape[-len(out) :] for shape in s.shapes()])
    x = s.name()
    for axis, (n, o) in enumerate(zip(size, out, strict=True), start=len(s.shape()) - len(out)):
        matrix = np.zeros((o, n))
        for i, window in enumerate(adaptive_windows(n, o)):
            matrix[i, window] = 1 / (window.stop - window.start)
        x = along(g, s, x, axis, matrix)
    return x


@form("weighted", sized=True)
def _weighted(g: Graph, s: At) -> str:
    """Interpolation where the weights are those of one whose factor every runtime has the same number for; else
    products with matrices, which hold for one length."""
    runs = [run["bands"] for run in s.step.runs]
    if found := _interpolation(runs):
        how, scales = found
        factors = [scales.get(axis, 1.0) for axis in range(len(s.shape()))]
        return str(g.node("Resize", s.name(), "", g.constant(factors, np.float32), **how))
    s.agreed("the length", [tuple((axis, band.m, band.n) for axis, band in bands) for bands in runs])
    x = s.name()
    for axis, band in runs[0]:
        x = along(g, s, x, axis % len(s.shape()), _matrix(band))
    return x


def _matrix(band: Band) -> Any:
    return band.apply(np.eye(band.n), 0)


#: The ways of ``interpolate`` that Resize has: whether aligned, whether by cubics, and its own words.
_WAYS: tuple[tuple[bool, bool, dict[str, Any]], ...] = (
    (False, False, {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}),
    (True, False, {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    (False, True, {"mode": "cubic", "coordinate_transformation_mode": "half_pixel"}),
    (True, True, {"mode": "cubic", "coordinate_transformation_mode": "align_corners"}),
)


def _interpolation(runs: list[Bands]) -> tuple[dict[str, Any], dict[int, float]] | None:
    """The way and the factor of each axis that all these bands are of, if they are."""
    bands = [band for run in runs for _, band in run]
    scales = {axis: band.m / band.n for axis, band in runs[0]}
    one = all({axis: band.m / band.n for axis, band in run} == scales for run in runs)
    if not one or any(float(np.float32(scale)) != scale for scale in scales.values()):
        return None
    ways = ((how, scales) for aligned, cubic, how in _WAYS if all(_is_between(band, aligned, cubic) for band in bands))
    return next(ways, None)


def _is_between(band: Band, aligned: bool, cubic: bool) -> bool:
    """Whether it interpolates that way."""
    expected = neighbours(band.m, band.n, band.n / band.m, aligned, cubic)
    return bool(np.array_equal(_matrix(band), _matrix(expected)))


@form("unfold", sized=True)
def _unfold(g: Graph, s: At) -> str:
    """A convolution with a kernel for every tap that is 1 there."""
    spec = s.agreed("the window", [run["spec"] for run in s.step.runs])
    channels, taps = s.shape()[-3], spec.taps
    weight = np.zeros((channels, taps, 1, taps), s.dtype)
    weight[:, np.arange(taps), 0, np.arange(taps)] = 1
    weight = weight.reshape(channels * taps, 1, *spec.kernel)
    attributes = {
        "kernel_shape": spec.kernel, "strides": spec.stride, "dilations": spec.dilation, "group": channels,
        "pads": _flat(spec.padding),
    }  # fmt: skip

    def write(x: str) -> str:
        y = g.node("Conv", x, g.constant(weight), **attributes)
        return str(g.node("Reshape", y, g.ints(0, channels * taps, -1)))

    return _batched(g, s, 2, write)
