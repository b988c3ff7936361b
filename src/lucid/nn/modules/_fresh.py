"""Parameters and buffers before they have values."""

from __future__ import annotations

import numpy as np

from lucid.core.dtypes import DTypeLike, as_dtype, float32
from lucid.core.errors import DTypeError
from lucid.core.geometry import Sizes
from lucid.nn.parameter import Parameter
from lucid.tensor import Device, Tensor


def fresh_tensor(shape: Sizes, device: Device | str | None, dtype: DTypeLike, fill: float = 0.0) -> Tensor:
    """A tensor of one value; float32 unless said otherwise."""
    if device is not None:
        Device(device)
    wanted = float32 if dtype is None else as_dtype(dtype)
    if not wanted.is_differentiable:
        raise DTypeError(f"a layer's dtype={wanted!r} must be floating-point or complex")
    tensor: Tensor = Tensor(np.full(shape, fill, wanted.numpy))
    return tensor


def fresh_parameter(shape: Sizes, device: Device | str | None, dtype: DTypeLike, fill: float = 0.0) -> Parameter:
    """A parameter of one value, to be drawn by the layer's ``reset_parameters``."""
    parameter: Parameter = Parameter(fresh_tensor(shape, device, dtype, fill))
    return parameter
