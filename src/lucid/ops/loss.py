"""Softmax, its logarithm, and the likelihood of one class per position."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from lucid.autograd import Op, apply, is_grad_enabled
from lucid.core.dtypes import DTypeLike, as_dtype, computed, widened
from lucid.core.errors import DTypeError
from lucid.kernels import softmax as kernels
from lucid.kernels.rows import Rows
from lucid.ops import native
from lucid.ops.common import axis, cast, method
from lucid.tensor import Tensor

Array = np.ndarray[Any, Any]

_LEAST = native.SEVERAL_PASSES // 4
_MOST_CLASSES = 1 << 24  # above, float32 cannot count them


@method()
def softmax(input: Tensor, dim: int, dtype: DTypeLike = None) -> Tensor:
    """exp(x) / sum(exp(x)) along ``dim``, without overflow; of the input as ``dtype``, if given."""
    input = input if dtype is None else cast(input, as_dtype(dtype))
    result: Tensor = apply(_softmax, input, axis=_checked("softmax", input, dim))
    return result


@method()
def log_softmax(input: Tensor, dim: int, dtype: DTypeLike = None) -> Tensor:
    """The logarithm of ``softmax``, without overflow and without log(0)."""
    input = input if dtype is None else cast(input, as_dtype(dtype))
    result: Tensor = apply(_log_softmax, input, axis=_checked("log_softmax", input, dim))
    return result


def nll(log_p: Tensor, target: Tensor, weight: Tensor | None, *, ignored: int, reduction: str, caller: str) -> Tensor:
    """-weight[c] log_p[n, c, p] for the class c = target[n, p] of every position, 0 where it is ``ignored``.

    "sum" adds them up, "mean" also divides by the sum of the weights that took part. Errors name ``caller``.

    Raises: IndexError for a class that does not exist, rather than a stray read.
    """
    result: Tensor = apply(_nll, log_p, target, weight, ignored=ignored, reduction=reduction, caller=caller)
    return result


def cross_entropy(x: Tensor, target: Tensor, weight: Tensor | None, *, ignored: int, reduction: str) -> Tensor:
    """``nll`` of ``log_softmax`` along axis 1, which is never written to memory."""
    _checked("cross_entropy", x, 1)
    result: Tensor = apply(_cross_entropy, x, target, weight, ignored=ignored, reduction=reduction)
    return result


def _checked(caller: str, x: Tensor, dim: int) -> int:
    if not x.dtype.is_floating_point:
        raise DTypeError(f"{caller}: the input is {x.dtype.name}, but must be floating-point")
    return axis(caller, dim, x.ndim)


def _row(kernel: Rows, *arrays: Array, axis: int) -> Array:
    result: Array = kernel(*arrays, axes=(axis % arrays[0].ndim,))
    return result


def _softmax_forward(x: Array, *, axis: int) -> Array:
    if native.takes(_LEAST, x):
        return _row(kernels.softmax, x, axis=axis)
    wide = widened(x)
    y: Array = np.exp(wide - wide.max(axis, keepdims=True, initial=-np.inf))
    y /= y.sum(axis, keepdims=True)
    return y.astype(x.dtype, copy=False)


def _log_softmax_forward(x: Array, *, axis: int) -> Array:
    if native.takes(_LEAST, x):
        return _row(kernels.log_softmax, x, axis=axis)
    wide = widened(x)
    y: Array = wide - wide.max(axis, keepdims=True, initial=-np.inf)
    y -= np.log(np.exp(y).sum(axis, keepdims=True))
    return y.astype(x.dtype, copy=False)


def _log_softmax_grad_forward(h: Array, y: Array, *, axis: int) -> Array:
    if native.takes(_LEAST, h, y):
        return _row(kernels.log_softmax_grad, h, y, axis=axis)
    g = widened(h)
    result: Array = (g - np.exp(widened(y)) * g.sum(axis, keepdims=True)).astype(h.dtype, copy=False)
    return result


def _positions(target: Array, classes: int, ignored: int, caller: str) -> tuple[tuple[Array, ...], Array]:
    """Where the class of every position is in (N, C, P), and whether the position takes part."""
    index = target.reshape(target.shape[0], prod(target.shape[1:]))
    kept = index != ignored
    if not kept.all():
        index = np.where(kept, index, 0)
    if index.size and not 0 <= index.min() <= index.max() < classes:
        wrong = index[(index < 0) | (index >= classes)][0]
        raise IndexError(f"{caller}: target class {wrong} is out of range for {classes} classes, 0 … {classes - 1}")
    return (np.arange(index.shape[0])[:, None], index, np.arange(index.shape[1])), kept


def _factors(where: tuple[Array, ...], kept: Array, weight: Array | None, dtype: np.dtype[Any]) -> Array:
    return kept.astype(dtype) if weight is None else np.where(kept, weight[where[1]], weight.dtype.type(0))


def _nll_forward(
    log_p: Array, target: Array, weight: Array | None, *, ignored: int, reduction: str, caller: str
) -> Array:
    where, kept = _positions(target, log_p.shape[1], ignored, caller)
    factors = _factors(where, kept, weight, log_p.dtype)
    picked = log_p.reshape(*log_p.shape[:2], kept.shape[1])[where]
    # A product with 0 would let an infinity at an ignored position through as NaN.
    loss = np.where(kept, -factors * picked, log_p.dtype.type(0))
    if reduction == "none":
        return loss.reshape(target.shape)
    total: Array = loss.sum(dtype=computed(loss.dtype))
    return (total / factors.sum(dtype=total.dtype) if reduction == "mean" else total).astype(log_p.dtype)


def _nll_grad_forward(
    h: Array, target: Array, weight: Array | None, *, classes: int, ignored: int, reduction: str, caller: str
) -> Array:
    where, kept = _positions(target, classes, ignored, caller)
    factors = _factors(where, kept, weight, h.dtype)
    scale = h.reshape(kept.shape) if reduction == "none" else h
    if reduction == "mean":
        scale = (h / factors.sum(dtype=computed(factors.dtype))).astype(h.dtype)
    g = np.zeros((kept.shape[0], classes, kept.shape[1]), h.dtype)
    g[where] = np.where(kept, -factors * scale, h.dtype.type(0))
    return g.reshape(target.shape[0], classes, *target.shape[1:])


def _cross_entropy_forward(x: Array, target: Array, weight: Array | None, *, ignored: int, reduction: str) -> Array:
    if not _fused(x, weight):
        return _nll_forward(
            _log_softmax_forward(x, axis=1),
            target,
            weight,
            ignored=ignored,
            reduction=reduction,
            caller="cross_entropy",
        )
    classes, factors = _classes(x, target, weight, ignored)
    loss: Array = kernels.cross_entropy(x, _columns(x), classes, axes=(1,)).reshape(target.shape)
    if factors is not None:
        loss = loss * factors
    if reduction == "none":
        return loss.astype(x.dtype, copy=False)
    total = loss.sum()
    return np.asarray(total / _taking_part(target, factors) if reduction == "mean" else total, x.dtype)


def _cross_entropy_grad_forward(
    h: Array, x: Array, target: Array, weight: Array | None, *, ignored: int, reduction: str
) -> Array:
    if not _fused(x, weight) or h.dtype != x.dtype:
        options: dict[str, Any] = {"ignored": ignored, "reduction": reduction, "caller": "cross_entropy"}
        g = _nll_grad_forward(h, target, weight, classes=x.shape[1], **options)
        return _log_softmax_grad_forward(g, _log_softmax_forward(x, axis=1), axis=1)
    classes, factors = _classes(x, target, weight, ignored)
    scale = h.astype(computed(h.dtype), copy=False)
    if reduction == "mean":
        scale = scale / _taking_part(target, factors)
    if factors is not None:
        scale = np.where(classes.reshape(target.shape) < 0, scale.dtype.type(0), scale * factors)
    scale = np.asarray(scale, computed(x.dtype))
    if scale.ndim:
        scale = scale.reshape(classes.shape)
    result: Array = kernels.cross_entropy_grad(x, _columns(x), classes, scale, axes=(1,))
    return result


def _fused(x: Array, weight: Array | None) -> bool:
    """Whether the kernels of cross entropy are for these arrays; they count classes in float32 or float64."""
    return native.takes(1, x, weight) and x.shape[1] < _MOST_CLASSES


def _classes(x: Array, target: Array, weight: Array | None, ignored: int) -> tuple[Array, Array | None]:
    """The class of every position, -1 where it is ignored, as numbers that count, along an axis 1 of one element.

    And the factors of the positions, None where all are 1.
    """
    along = (target.shape[0], 1, *target.shape[1:])
    count = x.shape[1]
    plain = weight is None and target.dtype == np.int64 and not 0 <= ignored < count
    if plain and target.size and target.view(np.uint64).max() < count:  # a negative number is a large one
        return target.astype(computed(x.dtype)).reshape(along), None
    where, kept = _positions(target, count, ignored, "cross_entropy")
    classes = np.where(kept, where[1], -1).astype(computed(x.dtype))
    return classes.reshape(along), _factors(where, kept, weight, x.dtype).reshape(target.shape)


def _taking_part(target: Array, factors: Array | None) -> Any:
    """What "mean" divides by."""
    return target.size if factors is None else factors.sum(dtype=computed(factors.dtype))


@lru_cache(maxsize=64)
def _counted(count: int, axes: int, dtype: np.dtype[Any]) -> Array:
    return np.arange(count, dtype=dtype).reshape(count, *(1,) * axes)


def _columns(x: Array) -> Array:
    return _counted(x.shape[1], x.ndim - 2, computed(x.dtype))


def _softmax_row(g: Tensor, out: Tensor, axis: int) -> Tensor:
    """One pass where nobody differentiates the gradient, else the steps, which have gradients of their own."""
    result: Tensor
    if not is_grad_enabled():
        result = apply(_softmax_grad, g, out, axis=axis)
        return result
    along = g * out
    result = along - out * along.sum(axis, keepdim=True)
    return result


def _softmax_grad_forward(h: Array, y: Array, *, axis: int) -> Array:
    if native.takes(_LEAST, h, y):
        return _row(kernels.softmax_grad, h, y, axis=axis)
    along: Array = widened(h) * widened(y)
    along -= widened(y) * along.sum(axis, keepdims=True)
    result: Array = along.astype(h.dtype, copy=False)
    return result


def _log_softmax_grad_rows(g: Tensor, h: Tensor, y: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Of h - exp(y) sum(h), in h and in y."""
    p = y.exp()
    return g - (g * p).sum(axis, keepdim=True), -(g * p * h.sum(axis, keepdim=True))


def _cross_entropy_row(
    g: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, ignored: int, reduction: str
) -> Tensor:
    """One pass where nobody differentiates the gradient, else the two steps, which have gradients of their own."""
    result: Tensor
    if not is_grad_enabled():
        result = apply(_cross_entropy_grad, g, x, target, weight, ignored=ignored, reduction=reduction)
        return result
    options: dict[str, Any] = {"ignored": ignored, "reduction": reduction, "caller": "cross_entropy"}
    h = apply(_nll_grad, g, target, weight, classes=x.shape[1], **options)
    result = apply(_log_softmax_grad, h, apply(_log_softmax, x, axis=1), axis=1)
    return result


_softmax_grad = Op("softmax_grad", _softmax_grad_forward)
_softmax = Op("softmax", _softmax_forward, vjp={"x": _softmax_row})

_log_softmax = Op(
    "log_softmax",
    _log_softmax_forward,
    vjp={"x": lambda g, out, axis: apply(_log_softmax_grad, g, out, axis=axis)},
)

_log_softmax_grad: Op = Op("log_softmax_grad", _log_softmax_grad_forward, vjp={("h", "y"): _log_softmax_grad_rows})

_nll = Op("nll", _nll_forward, vjp={
    "log_p": lambda g, log_p_shape, target, weight, ignored, reduction, caller: apply(
        _nll_grad, g, target, weight, classes=log_p_shape[1], ignored=ignored, reduction=reduction, caller=caller
    ),
})  # fmt: skip

# Both are linear, and each is the other's adjoint.
_nll_grad: Op = Op("nll_grad", _nll_grad_forward, vjp={
    "h": lambda g, target, weight, ignored, reduction, caller: apply(
        _nll, g, target, weight, ignored=ignored, reduction=reduction, caller=caller
    ),
})  # fmt: skip

_cross_entropy = Op("cross_entropy", _cross_entropy_forward, vjp={"x": _cross_entropy_row})

_cross_entropy_grad = Op("cross_entropy_grad", _cross_entropy_grad_forward)
