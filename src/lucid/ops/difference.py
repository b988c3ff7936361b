"""Sums and means of what is made of the differences of two tensors: losses that compare numbers, in one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lucid.autograd import Op, apply, is_grad_enabled
from lucid.core.dtypes import is_floating, widened
from lucid.kernels import difference as kernels
from lucid.kernels.elementwise import Elementwise
from lucid.kernels.reduction import Reduction
from lucid.ops import elementwise, native
from lucid.tensor import Tensor

Array = np.ndarray[Any, Any]

#: Elements from which the kernel of the sum wins.
_LEAST = native.ONE_PASS // 2


def takes(x: Tensor, y: Tensor) -> bool:
    """Whether the losses here are for these: of one shape and one real floating-point type."""
    return is_floating(x._array.dtype) and x._array.dtype == y._array.dtype and x._array.shape == y._array.shape


def _loss(name: str, measure: Callable[[Array], Array], slope: Callable[[Any], Any]) -> Callable[..., Tensor]:
    """Of x, y and ``mean``: mean or sum of the even function ``measure`` of x - y, whose derivative is ``slope``."""
    total: Reduction = getattr(kernels, name)
    to_x: Elementwise = getattr(kernels, f"{name}_to_x")
    to_both: Elementwise = getattr(kernels, f"{name}_to_both")

    def forward(x: Array, y: Array, *, count: int) -> Array:
        if native.takes(_LEAST, x, y):
            loss: Array = total(x, y, axes=tuple(range(x.ndim)), factor=1 / count)
            return loss
        return np.asarray(np.add.reduce(measure(widened(x) - widened(y)), axis=None) / count, x.dtype)

    def slopes(h: Array, x: Array, y: Array, *, count: int) -> Array:
        if native.takes(native.SEVERAL_PASSES, x, y, h):
            found: Array = to_x(h, x, y, factor=1 / count)
            return found
        return np.asarray(slope(widened(x) - widened(y)) * (widened(h) / (count or 1)), x.dtype)

    def both_slopes(h: Array, x: Array, y: Array, *, count: int) -> tuple[Array, Array]:
        if native.takes(native.SEVERAL_PASSES, x, y, h):
            found: tuple[Array, Array] = to_both(h, x, y, factor=1 / count)
            return found
        one = slopes(h, x, y, count=count)
        return one, np.negative(one, out=np.empty_like(one))

    def row(g: Tensor, x: Tensor, y: Tensor, count: int) -> Tensor:
        """One pass where nobody differentiates the gradient, else steps, which have gradients of their own."""
        found: Tensor = slope(x - y) * (g / count) if is_grad_enabled() else apply(gradient, g, x, y, count=count)
        return found

    def rows(g: Tensor, x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
        if is_grad_enabled():
            one = row(g, x, y, count)
            return one, -one
        found: tuple[Tensor, Tensor] = apply(gradients, g, x, y, count=count)
        return found

    gradient = Op(f"{name}_to_x", slopes)
    gradients = Op(f"{name}_to_both", both_slopes, outputs=("to_x", "to_y"))
    op = Op(name, forward, vjp={
        ("x", "y"): rows,
        "x": row,
        "y": lambda g, x, y, count: row(g, y, x, count),
    })  # fmt: skip

    def loss(x: Tensor, y: Tensor, mean: bool) -> Tensor:
        result: Tensor = apply(op, x, y, count=x._array.size if mean else 1)
        return result

    return loss


def _sign(d: Any) -> Any:
    return elementwise.sign(d) if isinstance(d, Tensor) else np.sign(d)


squared_error = _loss("squares", np.square, lambda d: d * 2)
absolute_error = _loss("sizes", np.abs, _sign)
