"""Maximum and average over windows, each closed under differentiation.

Arrays are (..., *size) with one trailing axis per axis of the ``PoolSpec``. A window is visited tap by tap: one tap of
every window is one strided slice, so the Python loop runs over the kernel's positions only.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, product
from math import prod
from typing import Any

import numpy as np

from lucid.autograd import Op, apply
from lucid.core.dtypes import computed, is_floating
from lucid.core.geometry import ConvSpec, Pads, PoolSpec, Sizes, window_extent
from lucid.kernels import extremes, pooling, reduction
from lucid.kernels.columns import Band
from lucid.ops import native
from lucid.ops.weighted import Bands, transposed, weighted_forward
from lucid.tensor import Tensor

Array = np.ndarray[Any, Any]


def max_pool(x: Tensor, spec: PoolSpec) -> Tensor:
    """The largest sample of each window; padding never wins, NaN always does."""
    result: Tensor = apply(_max_pool, x, spec=spec)
    return result


def max_pool_indices(x: Tensor, spec: PoolSpec) -> Tensor:
    """Where in its image each window's largest sample is, as flat index (int64); the first one on a tie."""
    result: Tensor = apply(_max_pool_indices, x, spec=spec)
    return result


def avg_pool(x: Tensor, spec: PoolSpec, count_include_pad: bool = True, divisor: int | None = None) -> Tensor:
    """The mean of each window, over the padded samples too if asked; ``divisor`` replaces the count."""
    size = x.shape[x.ndim - len(spec.kernel) :]
    result: Tensor = apply(_avg_pool, x, spec=spec, size=size, count_include_pad=count_include_pad, divisor=divisor)
    return result


def repeated(x: Tensor, counts: Sizes) -> Tensor:
    """Every sample ``counts`` times along each trailing axis: the adjoint of sums over windows side by side."""
    spec = PoolSpec(counts, counts, (1,) * len(counts), ((0, 0),) * len(counts))
    size = tuple(n * count for n, count in zip(x.shape[x.ndim - len(counts) :], counts, strict=True))
    result: Tensor = apply(_avg_pool_grad, x, spec=spec, size=size, count_include_pad=True, divisor=1)
    return result


def adaptive_avg_pool(x: Tensor, out: Sizes) -> Tensor:
    """Means over ``out`` windows per trailing axis, window i from floor(i n / out) to ceil((i + 1) n / out)."""
    size = x.shape[x.ndim - len(out) :]
    result: Tensor = apply(_adaptive_avg_pool, x, size=size, out_size=out)
    return result


def unfold(x: Tensor, spec: ConvSpec) -> Tensor:
    """Every window of the two trailing axes as a column: (…, C, H, W) gives (…, C · taps, windows)."""
    result: Tensor = apply(_unfold, x, spec=spec)
    return result


def fold(h: Tensor, spec: ConvSpec, size: Sizes) -> Tensor:
    """The columns of ``unfold`` added up where they came from, in an image of this size."""
    shape = (h.shape[0], h.shape[1] // prod(spec.kernel), *size)
    result: Tensor = apply(_fold, h, spec=spec, x_shape=shape)
    return result


def adaptive_max_indices(x: Tensor, out: Sizes) -> Tensor:
    """Where in its image the largest sample of each adaptive window is, as flat index (int64)."""
    result: Tensor = apply(_adaptive_max_indices, x, out_size=out)
    return result


def adaptive_windows(n: int, out: int) -> list[slice]:
    """The windows that divide ``n`` samples into ``out`` parts, as even as can be; neighbours may share a sample.

    >>> adaptive_windows(5, 2)
    [slice(0, 3, None), slice(2, 5, None)]
    """
    return [slice(i * n // out, -(-(i + 1) * n // out)) for i in range(out)]


# Windows


def _reach(size: Sizes, spec: PoolSpec) -> Pads:
    """(low, high) samples that the windows need around the input; high grows where ``ceil_mode`` hangs over."""
    need = (
        (o - 1) * s + window_extent(k, d)
        for o, s, k, d in zip(spec.out_size(size), spec.stride, spec.kernel, spec.dilation, strict=True)
    )
    return tuple((low, max(m - n - low, 0)) for m, n, (low, _) in zip(need, size, spec.padding, strict=True))


def _surrounded(x: Array, spec: PoolSpec, fill: Any) -> Array:
    """``x`` with as much around it as the windows touch; ``x`` itself where that is nothing."""
    pads = _reach(x.shape[x.ndim - len(spec.kernel) :], spec)
    if not any(map(any, pads)):
        return x
    still = x.ndim - len(pads)
    return np.pad(x, ((0, 0),) * still + pads, constant_values=fill)


def _taps(spec: PoolSpec | ConvSpec, out: Sizes) -> Iterator[tuple[Any, ...]]:
    """For each tap, in row-major order, where all windows have it."""
    for tap in product(*map(range, spec.kernel)):
        places = zip(tap, spec.dilation, spec.stride, out, strict=True)
        yield (..., *(slice(t * d, t * d + s * (o - 1) + 1, s) for t, d, s, o in places))


def _trailing(x: Array, spec: PoolSpec) -> Sizes:
    size: Sizes = x.shape[x.ndim - len(spec.kernel) :]
    return size


def _scattered(pieces: Iterator[Array] | list[Array], size: Sizes, spec: PoolSpec, out: Sizes) -> Array:
    """The sum of one piece per tap, each put back where the tap read; the adjoint of reading the taps."""
    pads = _reach(size, spec)
    around = tuple(n + low + high for n, (low, high) in zip(size, pads, strict=True))
    total: Array | None = None
    for where, piece in zip(_taps(spec, out), pieces, strict=True):
        if total is None:
            total = np.zeros((*piece.shape[: piece.ndim - len(size)], *around), piece.dtype)
        total[where] += piece
    assert total is not None, "a kernel has at least one tap"
    inside: tuple[Any, ...] = tuple(slice(low, low + n) for n, (low, _) in zip(size, pads, strict=True))
    result: Array = total[(Ellipsis, *inside)]
    return result


# Maximum


def _lowest(dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "b":
        return False
    return np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf


def _max_forward(x: Array, *, spec: PoolSpec) -> Array:
    if native.takes(native.ALWAYS, x):
        return pooling.max_pool(x, spec)
    around = _surrounded(x, spec, _lowest(x.dtype))
    taps = _taps(spec, spec.out_size(_trailing(x, spec)))
    best: Array = around[next(taps)].copy()
    for where in taps:
        np.maximum(best, around[where], out=best)
    return best


def _winners(x: Array, spec: PoolSpec) -> Array:
    """The number of the tap that gives each window its maximum: the first on a tie, a NaN before all."""
    out = spec.out_size(_trailing(x, spec))
    around = _surrounded(x, spec, _lowest(x.dtype))
    winner = np.broadcast_to(_first_taps(spec, out), (*x.shape[: x.ndim - len(out)], *out)).copy()
    best = np.full(winner.shape, _lowest(x.dtype), x.dtype)
    for number, where in enumerate(_taps(spec, out)):
        value = around[where]
        better = (value > best) | (value != value)
        winner[better] = number
        np.maximum(best, value, out=best)
    return winner


def _first_taps(spec: PoolSpec, out: Sizes) -> Array:
    """The first tap of each window that lies inside the input: the winner if all samples are minus infinity."""
    axes = []
    for o, s, d, (low, _) in zip(out, spec.stride, spec.dilation, spec.padding, strict=True):
        axes.append(np.maximum(-(-(low - np.arange(o) * s) // d), 0))
    dtype = np.min_scalar_type(prod(spec.kernel))
    return np.ravel_multi_index(np.ix_(*axes), spec.kernel).astype(dtype)


def _max_indices(x: Array, *, spec: PoolSpec) -> Array:
    if native.takes(native.ALWAYS, x):
        return pooling.max_pool_indices(x, spec)
    size = _trailing(x, spec)
    taps = np.unravel_index(_winners(x, spec), spec.kernel)
    flat = np.zeros(taps[0].shape, np.int64)
    places = zip(taps, size, spec.out_size(size), spec.stride, spec.dilation, spec.padding, strict=True)
    for axis, (tap, n, o, s, d, (low, _)) in enumerate(places, start=-len(size)):
        start = (np.arange(o) * s - low).reshape(-1, *(1,) * (-axis - 1))
        flat = flat * n + start + tap * d
    return flat


def _max_grad_forward(h: Array, x: Array, *, spec: PoolSpec) -> Array:
    if native.takes(native.ALWAYS, x, h):
        return pooling.max_pool_grad(h, x, spec)
    winner, zero = _winners(x, spec), np.zeros((), h.dtype)
    pieces = [np.where(winner == number, h, zero) for number in range(prod(spec.kernel))]
    size = _trailing(x, spec)
    return _scattered(pieces, size, spec, spec.out_size(size))


def _max_pick_forward(h: Array, x: Array, *, spec: PoolSpec) -> Array:
    if native.takes(native.ALWAYS, x, h):
        return pooling.max_pool_pick(h, x, spec)
    winner, around = _winners(x, spec), _surrounded(h, spec, 0)
    y = np.zeros(winner.shape, h.dtype)
    for number, where in enumerate(_taps(spec, spec.out_size(_trailing(x, spec)))):
        np.copyto(y, around[where], where=winner == number)
    return y


_max_pool = Op("max_pool", _max_forward, vjp={"x": lambda g, x, spec: apply(_max_pool_grad, g, x, spec=spec)})

# Adds each h to the place its window's maximum of x came from. Piecewise constant in x: no row.
_max_pool_grad: Op = Op(
    "max_pool_grad", _max_grad_forward, vjp={"h": lambda g, x, spec: apply(_max_pool_pick, g, x, spec=spec)}
)

# Reads h where each window's maximum of x is: the adjoint of max_pool_grad.
_max_pool_pick: Op = Op(
    "max_pool_pick", _max_pick_forward, vjp={"h": lambda g, x, spec: apply(_max_pool_grad, g, x, spec=spec)}
)

_max_pool_indices = Op("max_pool_indices", _max_indices)


# Average


def _divisors(size: Sizes, spec: PoolSpec, count_include_pad: bool, divisor: int | None) -> Any:
    """What the sum of each window is divided by. What hangs over the padding is never counted."""
    if divisor is not None:
        return divisor
    counts = []
    places = zip(size, spec.out_size(size), spec.kernel, spec.stride, spec.padding, strict=True)
    for n, o, k, s, (low, high) in places:
        start = np.arange(o) * s
        first, last = (0, low + n + high) if count_include_pad else (low, low + n)
        counts.append(np.minimum(start + k, last) - np.maximum(start, first))
    divisors = prod(np.ix_(*counts), start=np.ones((), np.int64))
    return divisors if np.ptp(divisors) else int(divisors.flat[0])


def _are_wide_tiles(size: Sizes, spec: PoolSpec) -> bool:
    """Whether windows lie side by side and are so wide that their means are made sooner axis by axis."""
    tiles = spec.kernel == spec.stride and not any(map(any, spec.padding)) and set(spec.dilation) == {1}
    wide = max(spec.kernel) > _WIDEST or prod(spec.kernel) > _WIDEST**2
    return tiles and wide and not any(n % k for n, k in zip(size, spec.kernel, strict=True))


_WIDEST = 4


def _avg_forward(x: Array, *, spec: PoolSpec, size: Sizes, count_include_pad: bool, divisor: int | None) -> Array:
    if native.takes(native.ALWAYS, x):
        if divisor is None and _are_wide_tiles(size, spec):
            return _adaptive_forward(x, size=size, out_size=spec.out_size(size))
        return pooling.avg_pool(x, spec, count_include_pad, divisor)
    around = _surrounded(x, spec, 0)
    taps = _taps(spec, spec.out_size(size))
    total: Array = around[next(taps)].astype(computed(x.dtype))
    for where in taps:
        total += around[where]
    total /= _divisors(size, spec, count_include_pad, divisor)
    return total.astype(x.dtype, copy=False)


def _avg_grad_forward(h: Array, *, spec: PoolSpec, size: Sizes, count_include_pad: bool, divisor: int | None) -> Array:
    if native.takes(native.ALWAYS, h):
        if divisor is None and _are_wide_tiles(size, spec):
            return _adaptive_grad_forward(h, size=size, out_size=spec.out_size(size))
        return pooling.avg_pool_grad(h, spec, size, count_include_pad, divisor)
    share = (h / _divisors(size, spec, count_include_pad, divisor)).astype(computed(h.dtype), copy=False)
    pieces = [share] * prod(spec.kernel)
    return _scattered(pieces, size, spec, spec.out_size(size)).astype(h.dtype, copy=False)


_avg_pool = Op(
    "avg_pool", _avg_forward,
    vjp={"x": lambda g, spec, size, count_include_pad, divisor: apply(
        _avg_pool_grad, g, spec=spec, size=size, count_include_pad=count_include_pad, divisor=divisor)},
)  # fmt: skip

_avg_pool_grad: Op = Op(
    "avg_pool_grad", _avg_grad_forward,
    vjp={"h": lambda g, spec, size, count_include_pad, divisor: apply(
        _avg_pool, g, spec=spec, size=size, count_include_pad=count_include_pad, divisor=divisor)},
)  # fmt: skip


# Average over windows of different lengths


def _even(size: Sizes, out_size: Sizes) -> PoolSpec | None:
    """The windows as those of a common pooling, if they are all of one length."""
    if any(n % o for n, o in zip(size, out_size, strict=True)):
        return None
    window = tuple(n // o for n, o in zip(size, out_size, strict=True))
    return PoolSpec(window, window, (1,) * len(size), ((0, 0),) * len(size))


@lru_cache(maxsize=256)
def _means(n: int, out: int) -> Band:
    """The matrix (out, n) of means over adaptive windows."""
    windows = adaptive_windows(n, out)
    lengths = [w.stop - w.start for w in windows]
    places = [range(w.start, w.stop) for w in windows]
    rows, values = (np.repeat(a, lengths) for a in (np.arange(out), 1 / np.array(lengths, np.float64)))
    return Band(out, n, rows, list(chain.from_iterable(places)), values)


def _mean_bands(size: Sizes, out_size: Sizes) -> Bands:
    pairs = enumerate(zip(size, out_size, strict=True), start=-len(size))
    return tuple((axis, _means(n, o)) for axis, (n, o) in pairs)


def _adaptive_forward(x: Array, *, size: Sizes, out_size: Sizes) -> Array:
    if native.takes(native.ALWAYS, x) and (windows := _even(size, out_size)):
        if prod(out_size) == 1:
            axes = tuple(range(x.ndim - len(size), x.ndim))
            mean: Array = reduction.scaled_sum(x, axes=axes, factor=1.0 / prod(size))
            return mean.reshape(*mean.shape, *out_size)
        if not _are_wide_tiles(size, windows):
            return pooling.avg_pool(x, windows, True, None)
    return weighted_forward(x, bands=_mean_bands(size, out_size))


def _adaptive_grad_forward(h: Array, *, size: Sizes, out_size: Sizes) -> Array:
    windows = _even(size, out_size) if native.takes(native.ALWAYS, h) and prod(out_size) > 1 else None
    if windows and not _are_wide_tiles(size, windows):
        return pooling.avg_pool_grad(h, windows, size, True, None)
    return weighted_forward(h, bands=transposed(_mean_bands(size, out_size)))


def _adaptive_indices(x: Array, *, out_size: Sizes) -> Array:
    """The first maximum among equals, as a scan in row-major order finds it."""
    if is_floating(x.dtype) and extremes.fits(x, len(out_size)):
        return extremes.in_windows(x, out_size)
    # One axis after the other from the last.
    size = x.shape[x.ndim - len(out_size) :]
    index = np.broadcast_to(np.arange(prod(size), dtype=np.int64).reshape(size), x.shape)
    for axis in range(-1, -len(size) - 1, -1):
        parts = []
        for window in adaptive_windows(size[axis], out_size[axis]):
            values = x[_along(axis, window)]
            first = np.argmax(values, axis, keepdims=True)
            parts.append([np.take_along_axis(a, first, axis) for a in (values, index[_along(axis, window)])])
        x, index = (np.concatenate(part, axis) for part in zip(*parts, strict=True))
    return index


def _along(axis: int, window: slice) -> tuple[Any, ...]:
    """An index of one (negative) axis."""
    return (..., window, *(slice(None),) * (-axis - 1))


_adaptive_avg_pool = Op(
    "adaptive_avg_pool", _adaptive_forward,
    vjp={"x": lambda g, size, out_size: apply(_adaptive_avg_pool_grad, g, size=size, out_size=out_size)},
)  # fmt: skip

_adaptive_avg_pool_grad: Op = Op(
    "adaptive_avg_pool_grad", _adaptive_grad_forward,
    vjp={"h": lambda g, size, out_size: apply(_adaptive_avg_pool, g, size=size, out_size=out_size)},
)  # fmt: skip

_adaptive_max_indices = Op("adaptive_max_indices", _adaptive_indices)


# Windows as columns


def _unfold_forward(x: Array, *, spec: ConvSpec) -> Array:
    lead, channels, size = x.shape[:-3], x.shape[-3], x.shape[-2:]
    around = np.pad(x, ((0, 0),) * (x.ndim - 2) + spec.padding)
    columns = np.stack([around[where] for where in _taps(spec, spec.out_size(size))], axis=-3)
    return columns.reshape(*lead, channels * spec.taps, -1)


def _fold_forward(h: Array, *, spec: ConvSpec, x_shape: Sizes) -> Array:
    out = spec.out_size(x_shape[-2:])
    columns = h.reshape(*x_shape[:-2], spec.taps, *out)
    (top, bottom), (left, right) = spec.padding
    y = np.zeros((*x_shape[:-2], x_shape[-2] + top + bottom, x_shape[-1] + left + right), h.dtype)
    for tap, where in enumerate(_taps(spec, out)):
        y[where] += columns[..., tap, :, :]
    return y[..., top : top + x_shape[-2], left : left + x_shape[-1]]


_unfold = Op("unfold", _unfold_forward, vjp={"x": lambda g, spec, x_shape: apply(_fold, g, spec=spec, x_shape=x_shape)})

_fold: Op = Op("fold", _fold_forward, vjp={"h": lambda g, spec: apply(_unfold, g, spec=spec)})
