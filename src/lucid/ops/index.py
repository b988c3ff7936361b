"""Choosing elements, writing elements, sorting."""

# mypy: disable-error-code="has-type"
# The gradient rows name functions defined further down.

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from lucid.autograd import Op, apply
from lucid.core.errors import DTypeError, ShapeError
from lucid.kernels import empty, moving, taking
from lucid.ops import native, order
from lucid.ops.broadcast import sum_to
from lucid.ops.common import as_operand, axis, cast, method
from lucid.ops.reduction import Extremes
from lucid.tensor.tensor import Tensor

Array = np.ndarray[Any, Any]
Index = tuple[Any, ...]


def as_index(index: Any) -> tuple[Index, bool]:
    """An index in NumPy's terms, and whether it is basic: integers, slices, None and ``...`` select a view."""
    parts = list(index) if isinstance(index, tuple) else [index]
    basic = True
    for i, part in enumerate(parts):
        if part is None or part is Ellipsis or type(part) is int:
            continue
        if isinstance(part, slice):
            if any(isinstance(end, Tensor) for end in (part.start, part.stop, part.step)):
                ends = (part.start, part.stop, part.step)
                parts[i] = slice(*(None if end is None else int(end) for end in ends))
            continue
        if isinstance(part, np.integer) or (isinstance(part, Tensor) and _is_integer(part)):
            parts[i] = int(part)
            continue
        parts[i] = _index_array(part)
        basic = False
    if basic and Ellipsis not in parts:
        parts.append(Ellipsis)  # so that a single element, too, is a view
    return tuple(parts), basic


def integers_first(index: Index) -> tuple[Index, Index]:
    """An index that copies in two: what its integers choose, which is a view, and the rest of it on that.

    NumPy takes an integer beside arrays for an array, and moves their axes to the front if others are in between.
    Empty where the index is whole.

    >>> integers_first((0, slice(1), np.array([1, 2])))
    ((0, slice(None, 1, None), slice(None, None, None)), (slice(None, None, None), array([1, 2])))
    """
    if not any(type(part) is int for part in index):
        return (), index
    first: list[Any] = []
    rest: list[Any] = []
    for part in index:
        if isinstance(part, np.ndarray):
            first += [slice(None)] * (part.ndim if part.dtype == np.bool_ else 1)
            rest.append(part)
        else:
            first.append(part)
            rest += [] if type(part) is int else [part if part is Ellipsis else slice(None)]
    return tuple(first), tuple(rest)


def _is_integer(x: Tensor) -> bool:
    return x._array.ndim == 0 and x._array.dtype.kind in "iu"


def _index_array(part: Any) -> Array:
    array = part._array if isinstance(part, Tensor) else np.asarray(part)
    if array.size == 0 and array.dtype.kind == "f" and not isinstance(part, Tensor | np.ndarray):
        array = array.astype(np.int64)  # an empty list
    if array.dtype.kind not in "biu":
        raise DTypeError(f"index: integers, booleans, slices, None or ..., not elements of {array.dtype}")
    return array


_getitem_view = Op("getitem", lambda x, *, index: x[index], view=True, vjp={
    "x": lambda g, x_shape, index: apply(_placed, g, shape=x_shape, index=index),
})  # fmt: skip
_getitem_copy = Op("getitem", lambda x, *, index: _chosen(x, index), vjp={
    "x": lambda g, x_shape, index: apply(_added, g, shape=x_shape, index=index),
})  # fmt: skip


def _chosen(x: Array, index: Index) -> Array:
    axis = _lone_axis(index)
    if axis is not None and x.size >= native.SEVERAL_PASSES and taking.takes(x):
        rows = taking.taken(x, index[axis], axis)
        if rows is not None:
            return rows
    flat = _flat(x, index)
    chosen: Array = x[index] if flat is None else x.reshape(-1)[flat]
    return chosen


def _flat(x: Array, index: Index) -> Array | None:
    """One index in place of an array for each axis, which NumPy follows faster; None for others, or out of range."""
    if x.ndim < 2 or len(index) != x.ndim or not x.flags.c_contiguous:
        return None
    flat: Any = 0
    for i, (part, n) in enumerate(zip(index, x.shape, strict=True)):
        if not isinstance(part, np.ndarray) or part.dtype.kind not in "iu" or part.size == 0:
            return None
        least = part.min()
        if least < -n or part.max() >= n:
            return None
        step = prod(x.shape[i + 1 :])
        part = part.astype(np.int64, copy=False)
        part = np.where(part < 0, part + n, part) if least < 0 else part
        flat = flat + (part * step if step > 1 else part)
    return np.asarray(flat)


def _zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Zeros in memory from the pool, whose pages are there already."""
    out: Array = empty(shape, dtype)
    moving.move(np.zeros((), dtype), out)
    return out


def _placed_forward(g: Array, *, shape: tuple[int, ...], index: Index) -> Array:
    out = _zeros(shape, g.dtype)
    moving.move(g, out[index])
    return out


def _lone_axis(index: Index) -> int | None:
    """The axis that is all an index chooses along, by whole numbers in a row."""
    chosen = [k for k, part in enumerate(index) if not (isinstance(part, slice) and part == slice(None))]
    part = index[chosen[0]] if len(chosen) == 1 else None
    return chosen[0] if isinstance(part, np.ndarray) and part.ndim == 1 and part.dtype.kind in "iu" else None


def _added_forward(g: Array, *, shape: tuple[int, ...], index: Index) -> Array:
    """As ``_placed_forward``, for indices that may repeat."""
    out = _zeros(shape, g.dtype)
    if all(not isinstance(part, np.ndarray) or part.dtype.kind == "b" for part in index):
        out[index] = g
    else:
        _add_at(out, index, g)
    return out


def _add_at(out: Array, index: Index, g: Any) -> None:
    """Adds g at indices that may repeat."""
    axis = _lone_axis(index)
    if axis is not None and isinstance(g, np.ndarray) and taking.adds(out) and g.dtype == out.dtype:
        part = np.broadcast_to(g, (*out.shape[:axis], len(index[axis]), *out.shape[axis + 1 :]))
        if taking.add(out, index[axis], part, axis):
            return
    if (flat := _flat(out, index)) is not None:
        np.add.at(out.reshape(-1), flat.reshape(-1), np.broadcast_to(g, flat.shape).reshape(-1))
    else:
        np.add.at(out, index, g)


_placed = Op("place", _placed_forward, vjp={"g": lambda g, index: apply(_getitem_view, g, index=index)})
_added = Op("place_add", _added_forward, vjp={"g": lambda g, index: apply(_getitem_copy, g, index=index)})


@method("__getitem__")
def getitem(x: Any, index: Any) -> Any:
    """``x[index]``: a view for integers, slices, None and ``...``, else a copy."""
    index, basic = as_index(index)
    try:
        if not basic:
            integers, index = integers_first(index)
            x = apply(_getitem_view, x, index=integers) if integers else x
        return apply(_getitem_view if basic else _getitem_copy, x, index=index)
    except IndexError as error:
        raise IndexError(f"getitem: {error}; the tensor has shape {x.shape}") from None


def _written(x: Array, value: Any, *, index: Index) -> Array:
    out = x.copy()
    out[index] = value
    return out


def _zeroed(g: Any, index: Index) -> Any:
    return apply(write, g, 0, index=index)


write = Op("setitem", _written, vjp={
    "x": lambda g, index: _zeroed(g, index),
    "value": lambda g, value_shape, index: sum_to(getitem(g, index), value_shape),
})  # fmt: skip
"""``x`` with ``x[index]`` replaced. Where an index repeats, which value stays is not defined."""


def _mesh(index: Array, dim: int) -> Index:
    """Indices of every element of ``index`` in a tensor, with ``index`` itself along ``dim``."""
    grid = np.ogrid[tuple(slice(n) for n in index.shape)]
    return tuple(index if i == dim else g for i, g in enumerate(grid))


def _check_gather(name: str, x: Any, dim: int, index: Any) -> int:
    d = axis(name, dim, x._array.ndim)
    if index._array.dtype.kind not in "iu":
        raise DTypeError(f"{name}: index must be an integer tensor, not {index.dtype!r}")
    if index._array.ndim != x._array.ndim:
        raise ShapeError(f"{name}: index of shape {index.shape} and tensor of shape {x.shape} must have one rank")
    return d


def _check_places(name: str, x: Array, dim: int, index: Array) -> None:
    n = x.shape[dim] if x.ndim else 1
    if index.size and not (-n <= index.min() and index.max() < n):
        raise IndexError(f"{name}: an index is out of range for dimension {dim} of size {n}")


def _within(x: Array, index: Array, dim: int) -> Array | None:
    """The part of x that an index along ``dim`` speaks of; None if there is no such part."""
    if x.ndim != index.ndim or not x.ndim:
        return None
    sizes = [n if k == dim else m for k, (n, m) in enumerate(zip(x.shape, index.shape, strict=True))]
    fits = all(m <= n for m, n in zip(sizes, x.shape, strict=True))
    return x[tuple(map(slice, sizes))] if fits else None


def _gather_forward(x: Array, *, dim: int, index: tuple[Array]) -> Array:
    places = index[0]
    part = _within(x, places, dim) if taking.takes(x) else None
    found = None if part is None else taking.taken(part, places, dim)
    if found is not None:
        return found
    _check_places("gather", x, dim, places)
    return _chosen(x, _mesh(places, dim) or (Ellipsis,))


def _add_along(out: Array, source: Array, dim: int, places: Array) -> Array:
    """``out`` with every element of ``source`` added at its place along ``dim``."""
    part = _within(out, places, dim) if taking.adds(out) and out.dtype == source.dtype else None
    if part is None or part.shape != out.shape or not taking.add(out, places, source, dim):
        np.add.at(out, _mesh(places, dim) or (Ellipsis,), source)
    return out


_gather = Op("gather", _gather_forward, vjp={
    "x": lambda g, x_shape, dim, index: apply(_gather_grad, g, shape=x_shape, dim=dim, index=index),
})  # fmt: skip
_gather_grad = Op(
    "gather_grad", lambda g, *, shape, dim, index: _add_along(_zeros(shape, g.dtype), g, dim, index[0]),
    vjp={"g": lambda g, dim, index: apply(_gather, g, dim=dim, index=index)},
)  # fmt: skip
_scatter_add = Op(
    "scatter_add", lambda x, source, *, dim, index: _add_along(x.copy(), source, dim, index[0]),
    vjp={"x": lambda g: g, "source": lambda g, dim, index: apply(_gather, g, dim=dim, index=index)},
)  # fmt: skip
_index_add = Op("index_add", lambda x, source, *, index: _added_to(x, source, index), vjp={
    "x": lambda g: g,
    "source": lambda g, source_shape, index: sum_to(apply(_getitem_copy, g, index=index), source_shape),
})  # fmt: skip


def _added_to(x: Array, source: Any, index: Index) -> Array:
    out = x.copy()
    _add_at(out, index, source)
    return out


@method()
def gather(input: Tensor, dim: int, index: Any) -> Any:
    """Elements of ``input`` at ``index`` along ``dim``: out[i][j] = x[index[i][j]][j] for dim=0."""
    index = as_operand(index)
    d = _check_gather("gather", input, dim, index)
    return apply(_gather, input, dim=d, index=(index._array,))


@method()
def scatter_add(input: Tensor, dim: int, index: Any, src: Tensor) -> Any:
    """``input`` with every element of ``src`` added at its ``index`` along ``dim``; the adjoint of ``gather``."""
    index = as_operand(index)
    d = _check_gather("scatter_add", input, dim, index)
    _check_places("scatter_add", input._array, d, index._array)
    own = src[tuple(slice(n) for n in index.shape)]
    return apply(_scatter_add, input, cast(own, input.dtype), dim=d, index=(index._array,))


@method()
def scatter(input: Tensor, dim: int, index: Any, src: Any = None, *, value: Any = None) -> Any:
    """``input`` with the elements at ``index`` along ``dim`` replaced by those of ``src``, or by one ``value``."""
    if (src is None) == (value is None):
        raise TypeError("scatter: either src or value must be given")
    src = value if src is None else src
    index = as_operand(index)
    d = _check_gather("scatter", input, dim, index)
    _check_places("scatter", input._array, d, index._array)
    if isinstance(src, Tensor):
        src = cast(src[tuple(slice(n) for n in index.shape)], input.dtype)
    return apply(write, input, src, index=_mesh(index._array, d))


@method("take_along_dim")
def take_along_dim(input: Tensor, indices: Any, dim: int | None = None) -> Any:
    """``gather`` with broadcasting; without ``dim`` of all elements in a row."""
    indices = as_operand(indices)
    if dim is None:
        input, indices, dim = input.reshape(-1), indices.reshape(-1), 0
    d = axis("take_along_dim", dim, input._array.ndim)
    sizes = list(np.broadcast_shapes(*((*t[:d], 1, *t[d + 1 :]) for t in (input.shape, indices.shape))))
    wide, along = list(sizes), list(sizes)
    wide[d], along[d] = input.shape[d], indices.shape[d]
    return gather(input.broadcast_to(tuple(wide)), d, indices.broadcast_to(tuple(along)))


@method()
def index_select(input: Tensor, dim: int, index: Any) -> Any:
    """The given indices of one dimension."""
    d = axis("index_select", dim, input._array.ndim)
    return getitem(input, (slice(None),) * d + (as_operand(index),))


@method()
def index_add(input: Tensor, dim: int, index: Any, source: Tensor, *, alpha: float = 1) -> Any:
    """``input`` with slices of ``source``, times ``alpha``, added at ``index`` of one dimension."""
    source = source if alpha == 1 else source * alpha
    d = axis("index_add", dim, input._array.ndim)
    index = as_operand(index)
    check_slices("index_add", input, d, index, source)
    return apply(_index_add, input, cast(source, input.dtype), index=(slice(None),) * d + (index._array,))


def check_slices(caller: str, input: Tensor, dim: int, index: Tensor, source: Tensor) -> None:
    """``source`` must hold a slice of ``input`` for each index of a dimension; a number stands for them all."""
    wanted = (*input.shape[:dim], index.numel(), *input.shape[dim + 1 :])
    if source.ndim and source.shape != wanted:
        raise ShapeError(
            f"{caller}: source {source.shape} must be {wanted}, a slice of the input {input.shape} for each index"
        )


@method()
def masked_select(input: Tensor, mask: Any) -> Any:
    """The elements where ``mask`` holds, in one dimension."""
    mask = as_operand(mask)
    shape = np.broadcast_shapes(input.shape, mask.shape)
    return getitem(input.broadcast_to(shape), mask.broadcast_to(shape))


# Sorting: the order is found on arrays, the values are gathered, so gradients need no row of their own


_argsort = Op("argsort", lambda x, *, dim, descending: _along_last(x, dim, lambda t: order.order(t, descending)))
_first = Op("topk", lambda x, *, k, dim, largest: _along_last(x, dim, lambda t: order.first(t, k, largest)))


def _along_last(x: Array, dim: int, find: Callable[[Array], Array]) -> Array:
    """What is found along the last axis, along another one."""
    found = find(moving.contiguous(np.moveaxis(x, dim, -1)))
    return moving.contiguous(np.moveaxis(found, -1, dim))


@method()
def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """Indices that sort along a dimension; equal elements keep their order."""
    d = axis("argsort", dim, input._array.ndim)
    if input._array.ndim == 0:
        return Tensor(np.zeros((), np.int64))
    return apply(_argsort, input, dim=d, descending=descending)


@method()
def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> Extremes:
    """``(values, indices)`` in order along a dimension; equal elements keep theirs, NaN counts as largest."""
    indices = argsort(input, dim, descending)
    return Extremes(gather(input, dim, indices), indices)


@method()
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Extremes:
    """The ``k`` largest (or smallest) elements along a dimension, in order, and their indices."""
    d = axis("topk", dim, input._array.ndim)
    n = input._array.shape[d] if input._array.ndim else 1
    if not 0 <= k <= n:
        raise ShapeError(f"topk: k={k} is out of range for dimension {dim} of size {n}")
    indices = apply(_first, input, k=k, dim=d, largest=largest) if input._array.ndim else argsort(input)
    return Extremes(gather(input, d, indices), indices)


def unique(input: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False) -> Any:
    """The different elements in order, with ``return_inverse`` and ``return_counts`` as further results."""
    found: Any = np.unique(  # type: ignore[call-overload]
        input._array, return_inverse=return_inverse, return_counts=return_counts
    )
    return tuple(map(Tensor, found)) if isinstance(found, tuple) else Tensor(found)


method()(unique)
