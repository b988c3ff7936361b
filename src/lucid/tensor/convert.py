"""Data from outside as arrays that a tensor can hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from lucid.autograd.tracked import Array, Tracked
from lucid.core import quiet
from lucid.core.dtypes import DTypeLike, as_dtype, is_floating, of_numpy
from lucid.core.errors import DTypeError, ShapeError
from lucid.kernels.casting import as_type

_DEFAULTS = {np.dtype(np.float64): np.dtype(np.float32), np.dtype(np.complex128): np.dtype(np.complex64)}


def as_array(data: Any, dtype: DTypeLike = None) -> Array:
    """``data`` as an array of a dtype Lucid holds: an array's own memory where possible, anything else copied.

    Arrays and NumPy scalars keep their dtype; Python floats become float32, ints int64, complex numbers complex64.

    Raises: DTypeError for elements Lucid cannot hold, ShapeError for nested lists of unequal length.
    """
    if isinstance(data, Tracked):
        array = data._array
    elif isinstance(data, np.ndarray | np.generic) or hasattr(data, "__array__"):
        array = np.asarray(data)
    elif hasattr(data, "__dlpack__"):
        array = np.from_dlpack(data)
    else:
        array = _from_python(data, None if dtype is None else as_dtype(dtype).numpy)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    wanted = of_numpy(array.dtype) if dtype is None else as_dtype(dtype)
    return array if array.dtype == wanted.numpy else cast_array(array, wanted.numpy)


def cast_array(array: Array, dtype: np.dtype[Any]) -> Array:
    """The values in another dtype. A complex number becomes its real part, as a gradient of a real tensor must."""
    if array.dtype.kind == "c" and dtype.kind not in "cb":
        array = array.real
    if is_floating(array.dtype) and is_floating(dtype):
        return as_type(array, dtype)
    with quiet.numpy():
        return array.astype(dtype)


def _from_python(data: Any, dtype: np.dtype[Any] | None) -> Array:
    try:
        array = np.array(data, dtype) if dtype is not None and dtype.kind != "V" else np.array(data)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ShapeError(f"Tensor: nested sequences of unequal lengths make no rectangle: {error}") from None
    except OverflowError as error:
        raise DTypeError(f"Tensor: a value does not fit the element type: {error}") from None
    if array.dtype.kind in "OUSMmV" and array.dtype.name != "bfloat16":
        raise DTypeError(f"Tensor: cannot hold elements of type {type(_first(data)).__name__}")
    if dtype is None and array.dtype in _DEFAULTS and not isinstance(_first(data), np.generic | np.ndarray | Tracked):
        return cast_array(array, _DEFAULTS[array.dtype])
    return array


def _first(data: Any) -> Any:
    """The first thing in nested sequences that is no sequence."""
    while isinstance(data, list | tuple) and data:
        data = data[0]
    return data
