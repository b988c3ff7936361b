"""Medians and quantiles: elements by their place in the order, found by sorting, so that gradients reach them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lucid.core.dtypes import is_floating, widened
from lucid.core.errors import DTypeError, ShapeError
from lucid.ops.common import axis, method
from lucid.ops.compare import isnan, where
from lucid.ops.index import gather, index_select, sort
from lucid.ops.reduction import Extremes
from lucid.ops.shape import reshape
from lucid.tensor.tensor import Tensor

Array = np.ndarray[Any, Any]

#: How far from the element below to the one above the result is, for a place between the two.
_SHARES: dict[str, Callable[[Array, Array], Array]] = {
    "linear": lambda place, low: place - low,
    "lower": lambda place, low: np.zeros_like(place),
    "higher": lambda place, low: np.ceil(place) - low,
    "midpoint": lambda place, low: np.where(place > low, 0.5, 0.0),
    "nearest": lambda place, low: np.round(place) - low,
}


@method()
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The middle element, the lower one of two; along a dimension ``(values, indices)``. NaN if there is one.

    >>> median(Tensor([3.0, 1.0, 2.0, 10.0]))
    Tensor(2.)
    """
    if dim is None:
        return median(reshape(input, (-1,)), 0).values
    d = axis("median", dim, input._array.ndim)
    input = reshape(input, (1,)) if input._array.ndim == 0 else input
    n = _count("median", input, d)
    values, indices = sort(input, d)
    middle = (n - 1) // 2
    place = np.full([1 if i == d else m for i, m in enumerate(input.shape)], middle, np.int64)
    if is_floating(input._array.dtype):
        lost = np.isnan(values._array).sum(d, keepdims=True)
        place = np.where(lost > 0, n - lost, place)  # the first NaN
    found = gather(indices, d, Tensor(place))
    values = gather(input, d, found)
    return Extremes(values, found) if keepdim else Extremes(values.squeeze(d), found.squeeze(d))


@method()
def quantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Any:
    """What a share ``q`` of the elements lies below; NaN if there is one. Several q have a first dimension.

    ``interpolation`` says what is between two elements: "linear", "lower", "higher", "midpoint" or "nearest".

    >>> quantile(Tensor([0.0, 1.0, 2.0, 3.0]), [0.5, 0.1])
    Tensor([1.5000, 0.3000])
    """
    if input._array.dtype.kind != "f":
        raise DTypeError(f"quantile: the tensor must be floating-point, not {input.dtype!r}")
    if interpolation not in _SHARES:
        raise ValueError(f"quantile: interpolation={interpolation!r} must be one of {', '.join(map(repr, _SHARES))}")
    asked = widened(q._array) if isinstance(q, Tensor) else np.asarray(q, np.float64)
    if asked.ndim > 1 or not np.all((asked >= 0) & (asked <= 1)):
        raise ValueError(f"quantile: q={q} must be a number or a list of numbers from 0 to 1")
    shape = input.shape
    if dim is None:
        input, d, kept = reshape(input, (-1,)), 0, (1,) * len(shape)
    else:
        d = axis("quantile", dim, len(shape))
        input, kept = reshape(input, shape or (1,)), (*shape[:d], 1, *shape[d + 1 :])
    n = _count("quantile", input, d)
    found = _between(sort(input, d).values, d, asked.reshape(-1) * asked.dtype.type(n - 1), interpolation)
    found = found.movedim(d, 0)  # the quantiles first
    rest = kept if keepdim else tuple(m for i, m in enumerate(kept) if i != d and dim is not None)
    return reshape(found, (*asked.shape, *rest))


def _between(ordered: Any, dim: int, place: Array, interpolation: str) -> Any:
    """Elements at places between whole ones, along ``dim``; NaN in lines that have one, which is last there."""
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, ordered.shape[dim] - 1)
    share = np.asarray(_SHARES[interpolation](place, low), ordered._array.dtype)
    below, above = (index_select(ordered, dim, Tensor(at)) for at in (low, high))
    share = share.reshape(-1, *(1,) * (ordered.ndim - dim - 1))
    between = where(Tensor(share == 0), below, below + (above - below) * Tensor(share))
    last = ordered.narrow(dim, ordered.shape[dim] - 1, 1)
    return where(isnan(last), last, between)


def _count(caller: str, x: Any, dim: int) -> int:
    n: int = x.shape[dim]
    if n == 0:
        raise ShapeError(f"{caller}: nothing to choose from in dimension {dim} of shape {x.shape}")
    return n
