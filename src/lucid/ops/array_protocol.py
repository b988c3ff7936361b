"""NumPy's functions on tensors: ``array * tensor`` and ``np.exp(tensor)`` are Lucid's operations."""

from __future__ import annotations

from typing import Any

import numpy as np

from lucid.core.errors import GradientError
from lucid.ops import compare, elementwise, linalg
from lucid.ops.common import method
from lucid.tensor.tensor import Tensor

_OPERATIONS: dict[np.ufunc, Any] = {
    np.add: elementwise.add,
    np.subtract: elementwise.sub,
    np.multiply: elementwise.mul,
    np.true_divide: elementwise.div,
    np.floor_divide: elementwise.floor_divide,
    np.remainder: elementwise.remainder,
    np.power: elementwise.pow,
    np.maximum: elementwise.maximum,
    np.minimum: elementwise.minimum,
    np.negative: elementwise.neg,
    np.absolute: elementwise.abs,
    np.exp: elementwise.exp,
    np.log: elementwise.log,
    np.sqrt: elementwise.sqrt,
    np.sin: elementwise.sin,
    np.cos: elementwise.cos,
    np.tanh: elementwise.tanh,
    np.matmul: linalg.matmul,
    np.equal: compare.eq,
    np.not_equal: compare.ne,
    np.less: compare.lt,
    np.less_equal: compare.le,
    np.greater: compare.gt,
    np.greater_equal: compare.ge,
    np.logical_and: compare.logical_and,
    np.logical_or: compare.logical_or,
    np.bitwise_and: compare.bitwise_and,
    np.bitwise_or: compare.bitwise_or,
    np.bitwise_xor: compare.bitwise_xor,
}


@method("__array_ufunc__")
def array_ufunc(x: Any, ufunc: np.ufunc, how: str, *inputs: Any, **options: Any) -> Any:
    """Called by NumPy. Ufuncs that are no operation here, or with options, work on the arrays, without gradients."""
    if how == "__call__" and not options and ufunc in _OPERATIONS:
        return _OPERATIONS[ufunc](*inputs)
    tensors = [i for i in inputs if isinstance(i, Tensor)]
    if any(t.requires_grad for t in tensors):
        raise GradientError(f"np.{ufunc.__name__}: no gradient passes through this call; detach() the tensor first")
    if any(isinstance(o, Tensor) for o in options.get("out", ())):
        raise TypeError(f"np.{ufunc.__name__}: out= must be an array; use the in-place methods of Tensor")
    out = getattr(ufunc, how)(*(i._array if isinstance(i, Tensor) else i for i in inputs), **options)
    return out if "out" in options or out is None else Tensor(out)
