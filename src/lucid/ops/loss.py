"""Softmax, its logarithm, and the likelihood of one class per position."""

from __future__ import annotations

from typing import Any

import numpy as np

from lucid.autograd import Op, apply
from lucid.core.errors import DTypeError
from lucid.kernels import softmax as kernels
from lucid.kernels.rows import Rows
from lucid.ops import native
from lucid.ops.common import axis, method
from lucid.tensor import Tensor

Array = np.ndarray[Any, Any]

_LEAST = native.SEVERAL_PASSES // 4


@method()
def softmax(x: Tensor, dim: int) -> Tensor:
    """exp(x) / sum(exp(x)) along ``dim``, without overflow."""
    result: Tensor = apply(_softmax, x, axis=_checked("softmax", x, dim))
    return result


@method()
def log_softmax(x: Tensor, dim: int) -> Tensor:
    """The logarithm of ``softmax``, without overflow and without log(0)."""
    result: Tensor = apply(_log_softmax, x, axis=_checked("log_softmax", x, dim))
    return result


def pick_class(x: Tensor, target: Tensor) -> Tensor:
    """x[n, target[n, p], p] for every position; 0 where the target is negative, which stands for "ignore"."""
    result: Tensor = apply(_pick, x, target, classes=x.shape[1])
    return result


def _checked(caller: str, x: Tensor, dim: int) -> int:
    if not x.dtype.is_floating_point:
        raise DTypeError(f"{caller}: the input is {x.dtype.name}, but must be floating-point")
    return axis(caller, dim, x.ndim)


def class_index(target: Tensor, classes: int, ignored: int, caller: str) -> Tensor:
    """Class numbers, with -1 for those to ignore.

    Raises: IndexError for any other number outside 0 … classes - 1, rather than a stray read.
    """
    result: Tensor = apply(_class_index, target, classes=classes, ignored=ignored, caller=caller)
    return result


def _class_index_forward(target: Array, *, classes: int, ignored: int, caller: str) -> Array:
    kept = target != ignored
    wrong = target[kept & ((target < 0) | (target >= classes))]
    if wrong.size:
        raise IndexError(
            f"{caller}: target class {wrong.flat[0]} is out of range for {classes} classes, 0 … {classes - 1}"
        )
    return np.where(kept, target.astype(np.int64, copy=False), -1)


def _wide(x: Array) -> Array:
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x


def _row(kernel: Rows, *arrays: Array, axis: int) -> Array:
    result: Array = kernel(*arrays, axes=(axis % arrays[0].ndim,))
    return result


def _softmax_forward(x: Array, *, axis: int) -> Array:
    if native.takes(_LEAST, x):
        return _row(kernels.softmax, x, axis=axis)
    wide = _wide(x)
    y: Array = np.exp(wide - wide.max(axis, keepdims=True))
    y /= y.sum(axis, keepdims=True)
    return y.astype(x.dtype, copy=False)


def _log_softmax_forward(x: Array, *, axis: int) -> Array:
    if native.takes(_LEAST, x):
        return _row(kernels.log_softmax, x, axis=axis)
    wide = _wide(x)
    y: Array = wide - wide.max(axis, keepdims=True)
    y -= np.log(np.exp(y).sum(axis, keepdims=True))
    return y.astype(x.dtype, copy=False)


def _log_softmax_grad_forward(h: Array, y: Array, *, axis: int) -> Array:
    if native.takes(_LEAST, h, y):
        return _row(kernels.log_softmax_grad, h, y, axis=axis)
    g = _wide(h)
    result: Array = (g - np.exp(_wide(y)) * g.sum(axis, keepdims=True)).astype(h.dtype, copy=False)
    return result


def _pick_forward(x: Array, target: Array, *, classes: int) -> Array:
    index = np.maximum(target, 0)[:, None]
    picked = np.take_along_axis(x, index, 1)[:, 0]
    return np.where(target >= 0, picked, np.zeros((), x.dtype))


def _put_forward(h: Array, target: Array, *, classes: int) -> Array:
    y = np.zeros((target.shape[0], classes, *target.shape[1:]), h.dtype)
    kept = np.where(target >= 0, h, np.zeros((), h.dtype))
    np.put_along_axis(y, np.maximum(target, 0)[:, None], kept[:, None], 1)
    return y


def _softmax_row(g: Tensor, out: Tensor, axis: int) -> Tensor:
    along = g * out
    result: Tensor = along - out * along.sum(axis, keepdim=True)
    return result


def _log_softmax_grad_rows(g: Tensor, h: Tensor, y: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Of h - exp(y) sum(h), in h and in y."""
    p = y.exp()
    return g - (g * p).sum(axis, keepdim=True), -(g * p * h.sum(axis, keepdim=True))


_class_index = Op("class_index", _class_index_forward)

_softmax = Op("softmax", _softmax_forward, vjp={"x": _softmax_row})

_log_softmax = Op(
    "log_softmax",
    _log_softmax_forward,
    vjp={"x": lambda g, out, axis: apply(_log_softmax_grad, g, out, axis=axis)},
)

_log_softmax_grad: Op = Op("log_softmax_grad", _log_softmax_grad_forward, vjp={("h", "y"): _log_softmax_grad_rows})

_pick = Op(
    "pick_class",
    _pick_forward,
    vjp={"x": lambda g, target, classes: apply(_put_class, g, target, classes=classes)},
)

_put_class: Op = Op(
    "put_class",
    _put_forward,
    vjp={"h": lambda g, target, classes: apply(_pick, g, target, classes=classes)},
)
