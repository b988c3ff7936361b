"""Sums, extremes and counts over dimensions. ``dim`` is one dimension, several, or None for all."""

# mypy: disable-error-code="has-type, call-overload"
# The gradient rows name functions defined further down; NumPy's stubs know ``reduce`` only with literal keepdims.

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lucid.autograd import Op, apply
from lucid.autograd.tracked import wrap
from lucid.core.dtypes import DTypeLike, as_dtype, computed, is_floating, widened
from lucid.core.errors import DTypeError, ShapeError
from lucid.kernels import columns, extremes, reduction, softmax
from lucid.kernels.reduction import Reduction
from lucid.ops import native
from lucid.ops.broadcast import broadcast_to
from lucid.ops.common import Dims, as_operand, axes, axis, cast, conj, floating, method
from lucid.ops.shape import flip, reshape
from lucid.tensor.tensor import Tensor

Array = np.ndarray[Any, Any]
Axes = tuple[int, ...] | None


class Extremes(NamedTuple):
    """Values, and the index of each along the dimension."""

    values: Any
    indices: Any


def _kept_shape(shape: tuple[int, ...], dims: Axes) -> tuple[int, ...]:
    return tuple(1 if dims is None or i in dims else n for i, n in enumerate(shape))


def _spread(reduced: Any, shape: tuple[int, ...], dims: Axes) -> Any:
    """A reduced tensor, read as often as its elements were reduced."""
    return broadcast_to(reduced if reduced._array.ndim == 0 else _kept(reduced, shape, dims), shape)


def _kept(reduced: Any, shape: tuple[int, ...], dims: Axes) -> Any:
    """A reduced tensor with its dimensions of size 1 back."""
    kept = _kept_shape(shape, dims)
    return reduced if reduced._array.shape == kept else reshape(reduced, kept)


def _count(shape: tuple[int, ...], dims: Axes) -> int:
    return math.prod(shape if dims is None else (shape[i] for i in dims))


def _wide(x: Array) -> Any:
    """The dtype to add up in: float32 for 16-bit floats, int64 for integers."""
    if x.dtype.kind in "biu":
        return np.int64
    return computed(x.dtype)


def _narrowed(out: Any, x: Array) -> Array:
    return np.asarray(out) if x.dtype.kind in "biu" else np.asarray(out, x.dtype)


def sum_forward(x: Array, *, dims: Axes, keepdim: bool) -> Array:
    """``sum`` of arrays."""
    if native.takes(native.ONE_PASS, x):
        return _native_sum(x, dims, keepdim)
    return _narrowed(np.add.reduce(x, axis=dims, dtype=_wide(x), keepdims=keepdim), x)


def _native_sum(x: Array, dims: Axes, keepdim: bool, factor: float = 1.0) -> Array:
    """factor times the sum: kept in float64, so it is rounded once."""
    axes = tuple(range(x.ndim)) if dims is None else tuple(sorted(dims))
    total: Array = reduction.scaled_sum(x, axes=axes, factor=factor)
    return total.reshape(_kept_shape(x.shape, dims)) if keepdim else total


def _mean_forward(x: Array, *, dims: Axes, keepdim: bool) -> Array:
    if native.takes(native.ONE_PASS, x):
        return _native_sum(x, dims, keepdim, 1.0 / _count(x.shape, dims))
    return _narrowed(np.add.reduce(x, axis=dims, dtype=_wide(x), keepdims=keepdim) / _count(x.shape, dims), x)


def _var_forward(x: Array, *, dims: Axes, keepdim: bool, correction: float) -> Array:
    wide = widened(x)
    count = _count(x.shape, dims)
    away = wide - np.add.reduce(wide, axis=dims, keepdims=True) / (count or 1)
    squares = (away * away.conj()).real if x.dtype.kind == "c" else away * away
    real = x.real.dtype if x.dtype.kind == "c" else x.dtype
    total = np.asarray(np.add.reduce(squares, axis=dims, keepdims=keepdim))
    return np.asarray(total / np.asarray(_left(count, correction), total.dtype), real)


def _left(count: int, correction: float) -> float:
    """What the sum of squares is divided by: NaN, for a variance of NaN, where nothing is left."""
    return count - correction if count > correction else math.nan


def _centred(x: Any, dims: Axes) -> Any:
    return x - apply(_mean, x, dims=dims, keepdim=True)


_sum = Op("sum", sum_forward, vjp={"x": lambda g, x_shape, dims: _spread(g, x_shape, dims)})
_mean = Op("mean", _mean_forward, vjp={
    "x": lambda g, x_shape, dims: _spread(g / _count(x_shape, dims), x_shape, dims),
})  # fmt: skip
_var = Op("var", _var_forward, vjp={
    "x": lambda g, x, dims, correction: (
        _kept(g * 2 / _left(_count(x.shape, dims), correction), x.shape, dims) * _centred(x, dims)
    ),
})  # fmt: skip


def _extreme_row(g: Any, out: Any, x: Any, dims: Axes) -> Any:
    """Elements that reach the extreme share its gradient."""
    there = cast(x == _kept(out, x.shape, dims), x.dtype)
    return _kept(g, x.shape, dims) * (there / apply(_sum, there, dims=dims, keepdim=True))


def _reduced_forward(kernel: Reduction, plain: Callable[..., Any]) -> Callable[..., Array]:
    def forward(x: Array, *, dims: Axes, keepdim: bool) -> Array:
        if native.takes(native.ONE_PASS, x):
            axes = tuple(range(x.ndim)) if dims is None else tuple(sorted(dims))
            reduced: Array = kernel(x, axes=axes)
            return reduced.reshape(_kept_shape(x.shape, dims)) if keepdim else reduced
        return np.asarray(plain(x, axis=dims, keepdims=keepdim))

    return forward


_amax = Op("amax", _reduced_forward(reduction.largest, np.maximum.reduce), vjp={"x": _extreme_row})
_amin = Op("amin", _reduced_forward(reduction.smallest, np.minimum.reduce), vjp={"x": _extreme_row})
_prod = Op("prod", _reduced_forward(reduction.product, np.multiply.reduce), vjp={
    "x": lambda g, x, dims: _kept(g, x.shape, dims) * conj(_product_of_others(x, dims[0])),
})  # fmt: skip


def _logsumexp_forward(x: Array, *, dims: Axes, keepdim: bool) -> Array:
    if native.takes(native.SEVERAL_PASSES, x):
        along = tuple(range(x.ndim)) if dims is None else tuple(sorted(dims))
        found: Array = softmax.logsumexp(x, axes=along)
        return (found if keepdim else found.squeeze(along)).astype(x.dtype, copy=False)
    wide = widened(x)
    top = np.maximum.reduce(wide, axis=dims, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, wide.dtype.type(0))
    out = np.log(np.add.reduce(np.exp(wide - top), axis=dims, keepdims=True)) + top
    return np.asarray(out if keepdim else out.squeeze(dims)).astype(x.dtype, copy=False)


_logsumexp = Op("logsumexp", _logsumexp_forward, vjp={
    "x": lambda g, x, out, dims: _kept(g, x.shape, dims) * (x - _kept(out, x.shape, dims)).exp(),
})  # fmt: skip


def _cumsum_forward(x: Array, *, dim: int, reverse: bool = False) -> Array:
    if _walks(x, dim):
        return columns.running_sum(widened(x), dim, reverse).astype(x.dtype, copy=False)
    turned = np.flip(x, dim) if reverse else x
    out = np.cumsum(turned, axis=dim, dtype=_running(x))
    return _narrowed(np.flip(out, dim) if reverse else out, x)


def _cumprod_forward(x: Array, *, dim: int) -> Array:
    if _walks(x, dim):
        return columns.running_product(widened(x), dim).astype(x.dtype, copy=False)
    return _narrowed(np.cumprod(x, axis=dim, dtype=_running(x)), x)


def _running(x: Array) -> Any:
    """The dtype of sums and products that grow element by element."""
    return np.float64 if is_floating(x.dtype) else _wide(x)


def _walks(x: Array, dim: int) -> bool:
    """Whether there are lines enough along a dimension to be walked side by side."""
    large = is_floating(x.dtype) and x.size >= native.SEVERAL_PASSES
    return large and x.size >= _FEWEST_LINES * x.shape[dim]


_FEWEST_LINES = 4
_cumsum = Op("cumsum", _cumsum_forward, vjp={
    "x": lambda g, dim, reverse: apply(_cumsum, g, dim=dim, reverse=not reverse),
})  # fmt: skip
_cumprod = Op("cumprod", _cumprod_forward, vjp={
    "x": lambda g, x, dim: _products_before(conj(x), dim) * _later_products(g, conj(x), dim),
})  # fmt: skip


def _length(x: Array, *, axis: Axes, keepdims: bool) -> Array:
    wide = widened(x)
    squares = (wide * wide.conj()).real if x.dtype.kind == "c" else wide * wide
    out = np.sqrt(np.add.reduce(squares, axis=axis, keepdims=keepdims))
    return np.asarray(out) if x.dtype.kind == "c" else _narrowed(out, x)


_norm = Op("norm", _reduced_forward(reduction.length, _length), vjp={
    "x": lambda g, x, out, dims: x * _direction(_kept(g, x.shape, dims), _kept(out, x.shape, dims)),
})  # fmt: skip


def _direction(g: Any, length: Any) -> Any:
    """g / length, and 0 where the length is 0: the subgradient PyTorch takes."""
    return (g / length).masked_fill(length == 0, 0)


def _product_of_others(x: Any, dim: int) -> Any:
    """For each element the product of all others along ``dim``: products from the left times those from the right."""
    return _products_before(x, dim) * flip(_products_before(flip(x, dim), dim), dim)


def _products_before(x: Any, dim: int) -> Any:
    """For each element the product of those before it."""
    return apply(_cumprod, _shifted(x, dim, -1, 1), dim=dim)


def _later_products(g: Any, x: Any, dim: int) -> Any:
    """s[k] = g[k] + x[k + 1] s[k + 1], which divides by nothing.

    In steps of doubled length: s[k] = s'[k] + f[k] s[k + step], where f is the product of ``step`` elements after k.
    """
    s, f, step = g, _shifted(x, dim, 1, 0), 1
    while step < x.shape[dim]:
        s = s + f * _shifted(s, dim, step, 0)
        f = f * _shifted(f, dim, step, 0)
        step *= 2
    return s


def _shifted(x: Any, dim: int, by: int, fill: int) -> Any:
    """x[k + by] along ``dim``, and ``fill`` where there is none."""
    from lucid.ops.shape import cat

    shape = x.shape
    missing = abs(by) if shape[dim] else 0
    kept = x.narrow(dim, missing if by > 0 else 0, shape[dim] - missing)
    ends = wrap(np.full((*shape[:dim], missing, *shape[dim + 1 :]), fill, x._array.dtype))
    return cat([kept, ends] if by > 0 else [ends, kept], dim)


def _real_numbers(name: str, x: Any, dtype: DTypeLike) -> Any:
    x = as_operand(x)
    if dtype is not None:
        return cast(x, as_dtype(dtype))
    if x._array.dtype.kind in "biu":
        raise DTypeError(f"{name}: a floating point or complex tensor is needed, not {x.dtype!r}; pass dtype=")
    return x


@method()
def sum(input: Any, dim: Dims = None, keepdim: bool = False, *, dtype: DTypeLike = None) -> Any:
    """The sum; of integers and booleans as int64."""
    input = as_operand(input) if dtype is None else cast(as_operand(input), as_dtype(dtype))
    return apply(_sum, input, dims=axes("sum", dim, input._array.ndim), keepdim=keepdim)


@method()
def mean(input: Any, dim: Dims = None, keepdim: bool = False, *, dtype: DTypeLike = None) -> Any:
    """The arithmetic mean."""
    input = _real_numbers("mean", input, dtype)
    return apply(_mean, input, dims=axes("mean", dim, input._array.ndim), keepdim=keepdim)


@method()
def var(
    input: Any, dim: Dims = None, *, correction: float = 1, unbiased: bool | None = None, keepdim: bool = False
) -> Any:
    """The variance, the sum of squares divided by n - ``correction``."""
    input = _real_numbers("var", input, None)
    correction = correction if unbiased is None else int(unbiased)
    return apply(_var, input, dims=axes("var", dim, input._array.ndim), keepdim=keepdim, correction=correction)


_std = Op("std", lambda x, *, dims, keepdim, correction: np.sqrt(_var_forward(
    x, dims=dims, keepdim=keepdim, correction=correction)), vjp={
    "x": lambda g, out, x, dims, correction: _direction(_kept(g, x.shape, dims), _kept(out, x.shape, dims))
    * _centred(x, dims) / _left(_count(x.shape, dims), correction),
})  # fmt: skip


@method()
def std(
    input: Any, dim: Dims = None, *, correction: float = 1, unbiased: bool | None = None, keepdim: bool = False
) -> Any:
    """The standard deviation, the root of ``var``; its gradient is 0 where it is 0."""
    input = _real_numbers("std", input, None)
    correction = correction if unbiased is None else int(unbiased)
    return apply(_std, input, dims=axes("std", dim, input._array.ndim), keepdim=keepdim, correction=correction)


@method()
def prod(input: Any, dim: int | None = None, keepdim: bool = False, *, dtype: DTypeLike = None) -> Any:
    """The product, over one dimension or all elements."""
    input = as_operand(input) if dtype is None else cast(as_operand(input), as_dtype(dtype))
    if input._array.dtype.kind in "biu":
        input = cast(input, as_dtype("int64"))
    dims = axes("prod", dim, input._array.ndim)
    if not dims:
        shape = (1,) * input._array.ndim if keepdim else ()
        return reshape(apply(_prod, reshape(input, -1), dims=(0,), keepdim=False), shape)
    return apply(_prod, input, dims=dims, keepdim=keepdim)


@method()
def cumsum(input: Tensor, dim: int, *, dtype: DTypeLike = None) -> Any:
    """Sums of the first 1, 2, … elements along a dimension."""
    input = as_operand(input) if dtype is None else cast(as_operand(input), as_dtype(dtype))
    return _along(_cumsum, input, axis("cumsum", dim, input._array.ndim))


@method()
def cumprod(input: Tensor, dim: int, *, dtype: DTypeLike = None) -> Any:
    """Products of the first 1, 2, … elements along a dimension."""
    input = as_operand(input) if dtype is None else cast(as_operand(input), as_dtype(dtype))
    return _along(_cumprod, input, axis("cumprod", dim, input._array.ndim))


def _along(op: Op, x: Any, dim: int) -> Any:
    """Applied along a dimension; a 0-d tensor is a line of one."""
    return apply(op, x, dim=dim) if x._array.ndim else reshape(apply(op, reshape(x, 1), dim=0), ())


def _not_empty(name: str, x: Any, dims: Axes) -> None:
    if _count(x._array.shape, dims) == 0:
        raise ShapeError(f"{name}: nothing to choose from in dimensions {dims} of shape {x.shape}")


@method()
def amax(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Any:
    """The largest element; equal ones share the gradient."""
    dims = axes("amax", dim, input._array.ndim)
    _not_empty("amax", input, dims)
    return apply(_amax, input, dims=dims, keepdim=keepdim)


@method()
def amin(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Any:
    """The smallest element; equal ones share the gradient."""
    dims = axes("amin", dim, input._array.ndim)
    _not_empty("amin", input, dims)
    return apply(_amin, input, dims=dims, keepdim=keepdim)


def _extremes(whole: Callable[..., Any], index: Callable[..., Any], pair: Callable[..., Any]) -> Callable[..., Any]:
    def extreme(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            return whole(input)
        if isinstance(dim, Tensor):
            return pair(input, dim)
        indices = index(input, dim, keepdim=True)
        values = input.gather(dim, indices)
        return Extremes(values, indices) if keepdim else Extremes(values.squeeze(dim), indices.squeeze(dim))

    return extreme


def _searches(x: Array, dim: int) -> bool:
    """Whether a kernel finds places along a dimension sooner than NumPy, which is fast along rows of its own types."""
    along_rows = dim == x.ndim - 1 and x.itemsize > 2 and x.flags.c_contiguous
    return not along_rows and native.takes(native.SEVERAL_PASSES, x) and extremes.fits(x, 1)


def _arg(name: str, choose: Callable[..., Any], smallest: bool, doc: str) -> Callable[..., Any]:
    def forward(x: Array, *, dim: int | None, keepdim: bool) -> Array:
        if dim is not None and _searches(x, dim):
            found = extremes.along(x, dim, smallest)
            return np.expand_dims(found, dim) if keepdim else found
        return np.asarray(choose(x, axis=dim, keepdims=keepdim), np.int64)

    op = Op(name, forward)

    def function(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
        dims = axes(name, dim, input._array.ndim)
        _not_empty(name, input, dims)
        return apply(op, input, dim=dims[0] if dims else None, keepdim=keepdim)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return method()(function)


argmax = _arg(
    "argmax", np.argmax, False, "The index of the largest element along a dimension, or in the flattened tensor."
)
argmin = _arg(
    "argmin", np.argmin, True, "The index of the smallest element along a dimension, or in the flattened tensor."
)


@method()
def max(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Tensor | None = None) -> Any:
    """The largest element; along a dimension ``(values, indices)``; of two tensors, ``maximum``."""
    return _max(input, dim if other is None else other, keepdim)


@method()
def min(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Tensor | None = None) -> Any:
    """The smallest element; along a dimension ``(values, indices)``; of two tensors, ``minimum``."""
    return _min(input, dim if other is None else other, keepdim)


_max = _extremes(amax, argmax, lambda x, other: x.maximum(other))
_min = _extremes(amin, argmin, lambda x, other: x.minimum(other))

_all = Op("all", lambda x, *, dims, keepdim: np.logical_and.reduce(x, axis=dims, keepdims=keepdim))
_any = Op("any", lambda x, *, dims, keepdim: np.logical_or.reduce(x, axis=dims, keepdims=keepdim))


@method()
def all(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Any:
    """Whether no element is 0."""
    return apply(_all, input, dims=axes("all", dim, input._array.ndim), keepdim=keepdim)


@method()
def any(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Any:
    """Whether some element is not 0."""
    return apply(_any, input, dims=axes("any", dim, input._array.ndim), keepdim=keepdim)


@method()
def count_nonzero(input: Any, dim: Dims = None) -> Any:
    """How many elements are not 0."""
    return sum(input != 0, dim)


@method()
def logsumexp(input: Any, dim: Dims, keepdim: bool = False) -> Any:
    """log(sum(exp(x))), without overflow."""
    input = floating(input)
    return apply(_logsumexp, input, dims=axes("logsumexp", dim, input._array.ndim), keepdim=keepdim)


@method()
def norm(input: Any, p: float | str = 2, dim: Dims = None, keepdim: bool = False) -> Any:
    """The p-norm of the elements; ``p`` is 2 (or "fro"), 1, 0, infinite or any other number."""
    input = floating(input)
    if p in (2, "fro"):
        return apply(_norm, input, dims=axes("norm", dim, input._array.ndim), keepdim=keepdim)
    size = input.abs()
    if p == math.inf:
        return amax(size, dim, keepdim)
    if p == -math.inf:
        return amin(size, dim, keepdim)
    if p == 0:
        return sum(cast(size != 0, size.dtype), dim, keepdim)
    return sum(size, dim, keepdim) if p == 1 else sum(size**p, dim, keepdim) ** (1 / float(p))
