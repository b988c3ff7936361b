"""Sums of neighbours with weights, along one axis after the other: interpolation and means over uneven windows."""

# mypy: disable-error-code="has-type"
# The gradient row names the operation itself.

from __future__ import annotations

from typing import Any

import numpy as np

from lucid.autograd import Op, apply
from lucid.core.dtypes import is_floating, widened
from lucid.core.errors import DTypeError
from lucid.kernels.columns import Band
from lucid.tensor import Tensor

Array = np.ndarray[Any, Any]
Bands = tuple[tuple[int, Band], ...]


def weighted(caller: str, x: Tensor, bands: Bands) -> Tensor:
    """``x`` with every (axis, matrix) of ``bands`` applied to its lines along that axis; rounded once.

    Raises: DTypeError, naming the caller, for integers.
    """
    if x._array.dtype.kind in "biu":
        raise DTypeError(f"{caller}: the input is {x.dtype.name}, but must be floating-point")
    result: Tensor = apply(_weighted, x, bands=bands)
    return result


def weighted_forward(x: Array, *, bands: Bands) -> Array:
    """The same of arrays. Axes that become shortest come first."""
    if not is_floating(x.dtype):
        parts = np.ascontiguousarray(x)[..., None].view(x.real.dtype)
        made = weighted_forward(parts, bands=tuple((axis % x.ndim, band) for axis, band in bands))
        return made.view(x.dtype)[..., 0]
    y = widened(x)
    for axis, band in sorted(bands, key=lambda entry: entry[1].m / max(entry[1].n, 1)):
        y = band.apply(y, axis)
    return y.astype(x.dtype, copy=False)


def transposed(bands: Bands) -> Bands:
    """The bands of the adjoint."""
    return tuple((axis, band.transposed) for axis, band in bands)


_weighted = Op("weighted", weighted_forward, vjp={
    "x": lambda g, bands: apply(_weighted, g, bands=transposed(bands)),
})  # fmt: skip
