"""Padding in four modes and its adjoint, over the trailing axes.

::

    reflect    3 2 | 1 2 3 4 | 3 2        replicate  1 1 | 1 2 3 4 | 4 4
    circular   3 4 | 1 2 3 4 | 1 2        zeros      0 0 | 1 2 3 4 | 0 0

``pads`` is (low, high) samples per trailing axis; with zeros, negative counts cut off.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from lucid.autograd import Op, apply
from lucid.core.geometry import Pads, Sizes
from lucid.kernels import empty, moving, padding
from lucid.tensor import Tensor

Array = np.ndarray[Any, Any]
Where = tuple[slice, ...]


def pad(x: Tensor, pads: Pads, mode: str = "zeros", value: float = 0.0) -> Tensor:
    """``x`` continued over the ends of its trailing axes; ``value`` is what "zeros" fills in."""
    result: Tensor = apply(_pad, x, pads=pads, mode=mode, value=value)
    return result


def pad_adjoint(g: Tensor, pads: Pads, mode: str = "zeros") -> Tensor:
    """The adjoint of ``pad``: what was copied to the border is added back where it came from."""
    result: Tensor = apply(_pad_adjoint, g, pads=pads, mode=mode)
    return result


def _pad_forward(x: Array, *, pads: Pads, mode: str, value: float) -> Array:
    if padding.moves(x) and _are_short(pads):
        return padding.padded(x, _tables(x.shape[x.ndim - len(pads) :], pads, mode), value)
    if mode == "zeros":
        return _resized(x, pads, value)
    y = _resized(x, pads, None)
    for border, source, _ in _copies(y.shape, pads, mode):
        y[border] = y[source]
    return y


def _adjoint_forward(h: Array, *, pads: Pads, mode: str) -> Array:
    if mode != "zeros" and padding.adds(h) and _are_short(pads):
        size = tuple(n - low - high for n, (low, high) in zip(h.shape[h.ndim - len(pads) :], pads, strict=True))
        return padding.added(h, _tables(size, pads, mode), size)
    if mode != "zeros":
        h = h.copy()
        # Later copies read what earlier ones wrote (the corners), so they are undone first.
        for border, source, axis in reversed(list(_copies(h.shape, pads, mode))):
            h[source] += h[border].sum(axis, keepdims=True) if mode == "replicate" else h[border]
    return _resized(h, tuple((-low, -high) for low, high in pads), 0.0)


#: Samples beyond an axis that are told one by one.
_MOST_BEYOND = 4096


def _are_short(pads: Pads) -> bool:
    return bool(pads) and max(map(max, pads)) <= _MOST_BEYOND


def _tables(size: Sizes, pads: Pads, mode: str) -> list[padding.Table]:
    """Which sample each padded one is, along every axis."""
    return [_table(n, low, high, mode) for n, (low, high) in zip(size, pads, strict=True)]


@lru_cache(maxsize=1024)
def _table(n: int, low: int, high: int, mode: str) -> padding.Table:
    if mode == "zeros":
        return padding.Table((-1,) * max(low, 0), max(-low, 0), n + min(high, 0), (-1,) * max(high, 0))
    before, behind = ([*range(n + low + high)[source]] for _, source in _SOURCES[mode](n, low, high))
    if mode == "replicate":
        before, behind = before * low, behind * high
    return padding.Table(tuple(p - low for p in before), 0, n, tuple(p - low for p in behind))


def _resized(x: Array, pads: Pads, fill: float | None) -> Array:
    """``x`` inside a larger array, or cut; the border is left as it comes where ``fill`` is None."""
    still = x.ndim - len(pads)
    sizes = tuple(n + low + high for n, (low, high) in zip(x.shape[still:], pads, strict=True))
    shape = (*x.shape[:still], *sizes)
    y: Array = empty(shape, x.dtype)
    if fill is not None:
        moving.move(np.asarray(fill, x.dtype), y)
    inner: tuple[Any, ...] = tuple(
        slice(max(low, 0), n - max(high, 0)) for n, (low, high) in zip(sizes, pads, strict=True)
    )
    outer: tuple[Any, ...] = tuple(
        slice(max(-low, 0), n - max(-high, 0)) for n, (low, high) in zip(x.shape[still:], pads, strict=True)
    )
    moving.move(x[(Ellipsis, *outer)], y[(Ellipsis, *inner)])
    return y


def _copies(shape: tuple[int, ...], pads: Pads, mode: str) -> Iterator[tuple[Where, Where, int]]:
    """(border, source, axis) slices of the padded array, whole slabs, in an order in which each source is complete.

    A slab runs over the full extent of the axes before it and over the inside of the axes after it, which are still
    unfilled.
    """
    first = len(shape) - len(pads)
    inside = [slice(None)] * first
    inside += [slice(low, n - high) for n, (low, high) in zip(shape[first:], pads, strict=True)]
    for axis, (low, high) in enumerate(pads, start=first):
        n = shape[axis] - low - high
        for border, source in _SOURCES[mode](n, low, high):
            if border.stop > border.start:
                before: list[slice] = [slice(None)] * axis
                after = inside[axis + 1 :]
                yield (*before, border, *after), (*before, source, *after), axis


def _reflect(n: int, low: int, high: int) -> tuple[tuple[slice, slice], ...]:
    return (
        (slice(0, low), slice(2 * low, low, -1)),
        (slice(low + n, low + n + high), _down(low + n - 2, high)),
    )


def _replicate(n: int, low: int, high: int) -> tuple[tuple[slice, slice], ...]:
    return (
        (slice(0, low), slice(low, low + 1)),
        (slice(low + n, low + n + high), slice(low + n - 1, low + n)),
    )


def _circular(n: int, low: int, high: int) -> tuple[tuple[slice, slice], ...]:
    return (
        (slice(0, low), slice(n, n + low)),
        (slice(low + n, low + n + high), slice(low, low + high)),
    )


def _down(start: int, count: int) -> slice:
    """``count`` positions from ``start`` downward; a start or a stop of -1 would mean the last one."""
    stop = start - count
    return slice(start, stop if stop >= 0 else None, -1) if count else slice(0, 0)


_SOURCES = {"reflect": _reflect, "replicate": _replicate, "circular": _circular}

_pad = Op(
    "pad",
    _pad_forward,
    vjp={"x": lambda g, pads, mode: pad_adjoint(g, pads, mode)},
)

_pad_adjoint = Op(
    "pad_adjoint",
    _adjoint_forward,
    vjp={"h": lambda g, pads, mode: pad(g, pads, mode)},
)
