"""Broadcasting and its adjoint, summing back."""

# mypy: disable-error-code="has-type"
# The gradient rows name functions defined further down.

from __future__ import annotations

from typing import Any

import numpy as np

from lucid.autograd import Op, apply, is_grad_enabled
from lucid.core.dtypes import computed
from lucid.core.errors import ShapeError
from lucid.kernels import reduction
from lucid.ops import native
from lucid.ops.checked import check_tensor
from lucid.ops.common import conj, method, sizes_of
from lucid.tensor.tensor import Tensor

Array = np.ndarray[Any, Any]


def sum_forward_to(x: Array, shape: tuple[int, ...]) -> Array:
    """``sum_to`` of arrays."""
    grown = _grown(x.shape, shape)
    if native.takes(native.ONE_PASS, x):
        summed: Array = reduction.scaled_sum(x, axes=grown, factor=1.0)
        return summed.reshape(shape)
    total: Array = np.add.reduce(x, axis=grown, dtype=computed(x.dtype))
    return total.astype(x.dtype, copy=False).reshape(shape)


def _grown(to: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes along which broadcasting from ``shape`` repeats."""
    lead = len(to) - len(shape)
    return (*range(lead), *(lead + i for i, n in enumerate(shape) if n == 1 and to[lead + i] != 1))


def _products_forward(g: Array, other: Array, *, shape: tuple[int, ...]) -> Array:
    total: Array = reduction.sum_of_products(g, other, axes=_grown(g.shape, shape))
    return total.reshape(shape)


_products = Op("sum_of_products_to", _products_forward)
_broadcast_to = Op("broadcast_to", lambda x, *, shape: np.broadcast_to(x, shape), view=True, vjp={
    "x": lambda g, x_shape: sum_to(g, x_shape),
})  # fmt: skip
_sum = Op(
    "sum_to", lambda x, *, shape: sum_forward_to(x, shape), vjp={"x": lambda g, x_shape: broadcast_to(g, x_shape)}
)


@method()
def broadcast_to(input: Tensor, size: tuple[int, ...]) -> Any:
    """The tensor as if repeated to ``size``, without a copy."""
    try:
        return apply(_broadcast_to, input, shape=tuple(size))
    except ValueError:
        raise ShapeError(f"broadcast_to: shape {input.shape} does not broadcast to {tuple(size)}") from None


def sum_to(x: Any, shape: tuple[int, ...]) -> Any:
    """The adjoint of broadcasting: sum over what broadcasting from ``shape`` has repeated."""
    return x if x._array.shape == shape else apply(_sum, x, shape=shape)


def product_sum_to(g: Any, other: Any, shape: tuple[int, ...]) -> Any:
    """``sum_to`` of g conj(other): one pass without a product in memory, where nobody differentiates it."""
    alone = g._array.shape != shape and not is_grad_enabled()
    if alone and native.takes(native.ONE_PASS, g._array, other._array):
        return apply(_products, g, other, shape=shape)
    return sum_to(g * conj(other), shape)


@method()
def expand(input: Any, *sizes: Any, size: Any = None) -> Any:
    """``broadcast_to`` with -1 for a size that stays."""
    wanted = sizes_of(sizes, size)
    lead = len(wanted) - input._array.ndim
    if lead < 0 or any(n == -1 for n in wanted[:lead]):
        raise ShapeError(f"expand: shape {input.shape} cannot take the sizes {wanted}")
    own = (0,) * lead + input._array.shape
    return broadcast_to(input, tuple(m if n == -1 else n for n, m in zip(wanted, own, strict=True)))


@method()
def expand_as(input: Any, other: Tensor) -> Any:
    """``broadcast_to`` the shape of another tensor."""
    return broadcast_to(input, other.shape)


def broadcast_tensors(*tensors: Any) -> tuple[Any, ...]:
    """All tensors in the shape they broadcast to."""
    for t in tensors:
        check_tensor("broadcast_tensors", "tensors", t)
    shape = np.broadcast_shapes(*(t.shape for t in tensors))
    return tuple(broadcast_to(t, shape) for t in tensors)
