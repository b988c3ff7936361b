"""Element types as values, and PyTorch's rules for mixing them.

A ``DType`` is named, compared by identity and printed as ``lucid.float32``. Promotion works by category
(bool < integer < floating < complex): the higher category decides, and only inside a category does width count, so
``int64`` with ``float16`` is ``float16``. Python scalars are weak: they bring their category and no width.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from lucid.core.errors import DTypeError

BOOL, INTEGER, FLOATING, COMPLEX = range(4)


class DType:
    """An element type: its ``name``, ``category`` and size in bytes."""

    __slots__ = ("_numpy", "category", "itemsize", "name")

    def __init__(self, name: str, category: int, itemsize: int) -> None:
        self.name = name
        self.category = category
        self.itemsize = itemsize
        self._numpy: np.dtype[Any] | None = None

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype. bfloat16 loads ``ml_dtypes`` when first asked."""
        if self._numpy is None:
            self._numpy = _numpy_bfloat16() if self.name == "bfloat16" else np.dtype(self.name)
        return self._numpy

    @property
    def is_floating_point(self) -> bool:
        """Whether values are real floating point numbers."""
        return self.category == FLOATING

    @property
    def is_complex(self) -> bool:
        """Whether values are complex numbers."""
        return self.category == COMPLEX

    @property
    def is_differentiable(self) -> bool:
        """Whether tensors of this type may require gradients."""
        return self.category >= FLOATING

    def __repr__(self) -> str:
        return f"lucid.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return as_dtype, (self.name,)


def _numpy_bfloat16() -> np.dtype[Any]:
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


bool_ = DType("bool", BOOL, 1)
uint8 = DType("uint8", INTEGER, 1)
int8 = DType("int8", INTEGER, 1)
int16 = DType("int16", INTEGER, 2)
int32 = DType("int32", INTEGER, 4)
int64 = DType("int64", INTEGER, 8)
float16 = DType("float16", FLOATING, 2)
bfloat16 = DType("bfloat16", FLOATING, 2)
float32 = DType("float32", FLOATING, 4)
float64 = DType("float64", FLOATING, 8)
complex64 = DType("complex64", COMPLEX, 8)
complex128 = DType("complex128", COMPLEX, 16)

DTYPES = (
    bool_, uint8, int8, int16, int32, int64, float16, bfloat16, float32, float64, complex64, complex128,
)  # fmt: skip

_BY_NAME: dict[str, DType] = {d.name: d for d in DTYPES}
_BY_PYTHON: dict[type, DType] = {bool: bool_, int: int64, float: float32, complex: complex64}
_BY_NUMPY: dict[np.dtype[Any], DType] = {d.numpy: d for d in DTYPES if d is not bfloat16}

DTypeLike = Any
"""A ``DType``, its name, a NumPy dtype or scalar type, or one of Python's ``bool``, ``int``, ``float``, ``complex``."""


def of_numpy(dtype: np.dtype[Any]) -> DType:
    """The ``DType`` of an array's dtype.

    Raises: DTypeError for one that Lucid does not hold.
    """
    found = _BY_NUMPY.get(dtype)
    if found is not None:
        return found
    if dtype.name == "bfloat16":
        return _BY_NUMPY.setdefault(dtype, bfloat16)
    raise DTypeError(f"dtype {dtype} is not supported; there are {', '.join(_BY_NAME)}")


def as_dtype(dtype: DTypeLike) -> DType:
    """Whatever names an element type, as a ``DType``.

    >>> as_dtype("float16"), as_dtype(float), as_dtype(np.int32)
    (lucid.float16, lucid.float32, lucid.int32)
    """
    if isinstance(dtype, DType):
        return dtype
    if isinstance(dtype, str):
        found = _BY_NAME.get(dtype.removeprefix("lucid."))
    elif isinstance(dtype, type) and dtype in _BY_PYTHON:
        found = _BY_PYTHON[dtype]
    else:
        try:
            return of_numpy(np.dtype(dtype))
        except TypeError:
            found = None
    if found is None:
        raise DTypeError(f"dtype={dtype!r} is not an element type; there are {', '.join(_BY_NAME)}")
    return found


@cache
def promote_types(type1: DType, type2: DType) -> DType:
    """The type two tensors with dimensions meet in.

    >>> promote_types(int64, float16), promote_types(uint8, int8), promote_types(float16, bfloat16)
    (lucid.float16, lucid.int16, lucid.float32)
    """
    if type1 is type2:
        return type1
    low, high = sorted((type1, type2), key=lambda d: (d.category, d.itemsize))
    if high is complex64 and low is float64:
        return complex128
    if high.category != low.category:
        return high
    if {type1, type2} == {float16, bfloat16}:
        return float32
    if uint8 in (type1, type2):
        return int16 if high.itemsize == 1 else high
    return high


@cache
def weak_result_type(strong: DType, weak: DType) -> DType:
    """The type when ``weak`` (a Python scalar's, or a 0-d tensor's beside one with dimensions) brings a category only.

    >>> weak_result_type(float16, float64), weak_result_type(int8, float32), weak_result_type(bool_, int64)
    (lucid.float16, lucid.float32, lucid.int64)
    """
    if weak.category <= strong.category and strong is not bool_:
        return strong
    if weak.is_complex and strong.is_floating_point:
        return complex128 if strong is float64 else complex64
    return promote_types(strong, weak)


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether an array's elements are real floating point numbers. bfloat16 is one of NumPy's "V"."""
    return dtype.kind in "fV"


def computed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What an array's numbers are computed in: float32 for half precision."""
    return float32.numpy if dtype.itemsize == 2 and is_floating(dtype) else dtype


def widened(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array in the type that its numbers are computed in; itself where that is its own."""
    wide = computed(array.dtype)
    return array if wide is array.dtype else array.astype(wide, copy=False)


def scalar_dtype(value: bool | int | float | complex) -> DType:
    """The type a Python scalar becomes.

    Raises: DTypeError for what is none.
    """
    found = _BY_PYTHON.get(bool if isinstance(value, bool) else type(value))
    if found is None:
        raise DTypeError(f"a Python number or a Tensor is needed, not {type(value).__name__}")
    return found


def finfo(dtype: DTypeLike) -> Any:
    """Limits of a floating point or complex type: ``max``, ``min``, ``eps``, ``tiny`` and ``bits``.

    >>> float(finfo(float32).eps)
    1.1920928955078125e-07
    """
    found = as_dtype(dtype)
    if found is bfloat16:
        import ml_dtypes

        return ml_dtypes.finfo(found.numpy)  # type: ignore[no-untyped-call]
    return np.finfo(found.numpy)


def iinfo(dtype: DTypeLike) -> Any:
    """Limits of an integer type: ``max``, ``min`` and ``bits``.

    >>> iinfo(uint8).max
    255
    """
    return np.iinfo(as_dtype(dtype).numpy)
