"""The linear map of a layer: one matrix product and a bias."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from lucid.autograd import Op, apply
from lucid.core.dtypes import is_floating
from lucid.ops.linalg import matmul, native_matmul
from lucid.tensor import Tensor

Array = np.ndarray[Any, Any]


def linear(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """x wᵀ + bias: (…, in) and (out, in) give (…, out)."""
    result: Tensor = apply(_linear, x, w, bias)
    return result


def _forward(x: Array, w: Array, bias: Array | None) -> Array:
    if is_floating(x.dtype):
        return native_matmul()(x, w.T, bias)
    y = x @ w.T
    return y if bias is None else y + bias


def _flat(x: Tensor) -> Tensor:
    """All but the last axis as one."""
    result: Tensor = x if x.ndim == 2 else x.reshape(prod(x.shape[:-1]), x.shape[-1])
    return result


_linear = Op(
    "linear",
    _forward,
    vjp={
        "x": lambda g, w: matmul(g, w),
        "w": lambda g, x: matmul(_flat(g).t(), _flat(x)),
        "bias": lambda g: _flat(g).sum(0),
    },
)
