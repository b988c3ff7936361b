"""Tensors from data, constants and ranges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lucid.autograd.tracked import wrap
from lucid.core.dtypes import DTypeLike, as_dtype, float32, of_numpy, scalar_dtype
from lucid.ops.checked import check_tensor
from lucid.ops.common import as_operand, new_sizes
from lucid.tensor.convert import as_array
from lucid.tensor.device import Device
from lucid.tensor.layout import MemoryFormat, check_memory_format
from lucid.tensor.tensor import Tensor


def tensor(data: Any, *, dtype: DTypeLike = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A new leaf with a copy of ``data``."""
    array = as_array(data, dtype)
    shared = isinstance(data, Tensor | np.ndarray) or hasattr(data, "__array__") or hasattr(data, "__dlpack__")
    return Tensor(np.array(array) if shared else array, requires_grad=requires_grad, device=device)


def as_tensor(data: Any, dtype: DTypeLike = None, device: Any = None) -> Tensor:
    """``data`` as a tensor, sharing memory where possible."""
    if isinstance(data, Tensor):
        return data.to(dtype=dtype, device=device)  # type: ignore[no-any-return]
    return Tensor(data, dtype=dtype, device=device)


def from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor that shares the memory of an array."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: a NumPy array is needed, not {type(array).__name__}")
    return Tensor(array)


def from_dlpack(ext_tensor: Any) -> Tensor:
    """A tensor that shares the memory of anything with ``__dlpack__``: a PyTorch tensor, a JAX array."""
    from lucid.tensor.dlpack import import_array

    if not hasattr(ext_tensor, "__dlpack__"):
        raise TypeError(
            f"from_dlpack: the ext_tensor must have __dlpack__, as arrays have, not {type(ext_tensor).__name__}"
        )
    return Tensor(import_array(ext_tensor))


def _new(array: np.ndarray[Any, Any], requires_grad: bool, device: Any) -> Tensor:
    if requires_grad or device is not None:
        return Tensor(array, requires_grad=requires_grad, device=device)
    return wrap(array)  # type: ignore[no-any-return]


def _dtype(dtype: DTypeLike) -> np.dtype[Any]:
    return float32.numpy if dtype is None else as_dtype(dtype).numpy


def zeros(
    *sizes: Any, size: Any = None, dtype: DTypeLike = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """All 0."""
    return _new(np.zeros(new_sizes(sizes, size), _dtype(dtype)), requires_grad, device)


def ones(
    *sizes: Any, size: Any = None, dtype: DTypeLike = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """All 1."""
    return _new(np.ones(new_sizes(sizes, size), _dtype(dtype)), requires_grad, device)


def empty(
    *sizes: Any, size: Any = None, dtype: DTypeLike = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Whatever the memory holds."""
    return _new(np.empty(new_sizes(sizes, size), _dtype(dtype)), requires_grad, device)


def full(
    size: Any, fill_value: Any, *, dtype: DTypeLike = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """All ``fill_value``, whose type decides the element type unless ``dtype`` does."""
    value = fill_value.item() if isinstance(fill_value, Tensor | np.generic) else fill_value
    found = scalar_dtype(value) if dtype is None else as_dtype(dtype)
    shape = new_sizes((size,) if isinstance(size, int) else tuple(size))
    return _new(np.full(shape, value, found.numpy), requires_grad, device)


def arange(
    start: Any = None,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: DTypeLike = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """From ``start`` (0 if one number is given) in steps, up to and without ``end``. Integers give int64."""
    start, end = (None, start) if end is None else (start, end)
    if end is None:
        raise TypeError("arange: the end must be given")
    start = 0 if start is None else start
    start, end, step = (x.item() if isinstance(x, Tensor) else x for x in (start, end, step))
    if step == 0 or (end - start) * step < 0:
        raise ValueError(f"arange: step={step} does not lead from {start} to {end}")
    whole = all(isinstance(x, int | np.integer) for x in (start, end, step))
    found = (as_dtype("int64") if whole else float32) if dtype is None else as_dtype(dtype)
    count = math.ceil((end - start) / step) if not whole else -((start - end) // step)
    wide = np.int64 if whole else np.float64
    return _new((start + step * np.arange(count, dtype=wide)).astype(found.numpy), requires_grad, device)


def linspace(
    start: float, end: float, steps: int, *, dtype: DTypeLike = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """``steps`` numbers at equal distances, both ends included."""
    if steps < 0:
        raise ValueError(f"linspace: steps={steps} must not be negative")
    return _new(np.linspace(start, end, steps).astype(_dtype(dtype)), requires_grad, device)


def logspace(
    start: float,
    end: float,
    steps: int,
    base: float = 10.0,
    *,
    dtype: DTypeLike = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Powers of ``base`` with exponents at equal distances."""
    return _new((base ** np.linspace(start, end, steps)).astype(_dtype(dtype)), requires_grad, device)


def eye(
    n: int, m: int | None = None, *, dtype: DTypeLike = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """1 on the diagonal, 0 elsewhere."""
    return _new(np.eye(n, m, dtype=np.uint8).astype(_dtype(dtype)), requires_grad, device)


def zeros_like(
    input: Tensor, *, dtype: DTypeLike = None, device: Any = None, requires_grad: bool = False,
    memory_format: MemoryFormat | None = None,
) -> Tensor:  # fmt: skip
    """All 0, in the shape and type of a tensor."""
    check_memory_format("zeros_like", memory_format)
    return zeros(input.shape, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)


def ones_like(
    input: Tensor, *, dtype: DTypeLike = None, device: Any = None, requires_grad: bool = False,
    memory_format: MemoryFormat | None = None,
) -> Tensor:  # fmt: skip
    """All 1, in the shape and type of a tensor."""
    check_memory_format("ones_like", memory_format)
    return ones(input.shape, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)


def empty_like(
    input: Tensor, *, dtype: DTypeLike = None, device: Any = None, requires_grad: bool = False,
    memory_format: MemoryFormat | None = None,
) -> Tensor:  # fmt: skip
    """Whatever the memory holds, in the shape and type of a tensor."""
    check_memory_format("empty_like", memory_format)
    return empty(input.shape, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)


def full_like(
    input: Tensor, fill_value: Any, *, dtype: DTypeLike = None, device: Any = None, requires_grad: bool = False,
    memory_format: MemoryFormat | None = None,
) -> Tensor:  # fmt: skip
    """All ``fill_value``, in the shape and type of a tensor."""
    check_memory_format("full_like", memory_format)
    return full(input.shape, fill_value, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Any, ...]:
    """Coordinates of every point of a grid, one tensor per dimension."""
    xs = list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], list | tuple) else list(tensors)
    for x in xs:
        check_tensor("meshgrid", "tensors", x)
    grids = np.meshgrid(*(x._array for x in xs), indexing=indexing)  # type: ignore[call-overload]
    return tuple(map(Tensor, grids))


def complex(real: Any, imag: Any) -> Any:
    """real + i imag."""
    return as_operand(real) + as_operand(imag) * 1j


def _method_like(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def new(x: Any, *sizes: Any, **options: Any) -> Tensor:
        options["dtype"] = options.get("dtype") or of_numpy(x._array.dtype)
        return make(*sizes, **options)

    new.__name__ = f"new_{make.__name__}"
    new.__doc__ = f"``{make.__name__}`` in the type of this tensor."
    return new


_STATIC: tuple[Callable[..., Tensor], ...] = (zeros, ones, empty, full, arange, linspace, eye)
_NEW: tuple[Callable[..., Tensor], ...] = (zeros, ones, empty, full, tensor)
for _make in _STATIC:
    setattr(Tensor, _make.__name__, staticmethod(_make))
for _make in _NEW:
    setattr(Tensor, f"new_{_make.__name__}", _method_like(_make))

__all__ = [
    "Device", "arange", "as_tensor", "complex", "empty", "empty_like", "eye", "from_dlpack", "from_numpy", "full",
    "full_like", "linspace", "logspace", "meshgrid", "ones", "ones_like", "tensor", "zeros", "zeros_like",
]  # fmt: skip


class _Typed(type):
    """The element type is part of the name: ``LongTensor([1, 2])``, ``isinstance(x, LongTensor)``."""

    dtype: np.dtype[Any]

    def __call__(cls, *data: Any) -> Any:
        """A tensor of nested lists, another tensor or an array; of ints as sizes, 0 everywhere."""
        if data and all(type(size) is int for size in data):
            return Tensor(np.zeros(data, cls.dtype))
        if len(data) > 1:
            raise TypeError(f"{cls.__name__}: one list, array or tensor is needed, or sizes, not {data!r}")
        return tensor(*(data or [()]), dtype=of_numpy(cls.dtype))

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Tensor) and instance._array.dtype == cls.dtype


class FloatTensor(metaclass=_Typed):
    """float32."""

    dtype = np.dtype("float32")


class DoubleTensor(metaclass=_Typed):
    """float64."""

    dtype = np.dtype("float64")


class HalfTensor(metaclass=_Typed):
    """float16."""

    dtype = np.dtype("float16")


class LongTensor(metaclass=_Typed):
    """int64."""

    dtype = np.dtype("int64")


class IntTensor(metaclass=_Typed):
    """int32."""

    dtype = np.dtype("int32")


class ShortTensor(metaclass=_Typed):
    """int16."""

    dtype = np.dtype("int16")


class CharTensor(metaclass=_Typed):
    """int8."""

    dtype = np.dtype("int8")


class ByteTensor(metaclass=_Typed):
    """uint8."""

    dtype = np.dtype("uint8")


class BoolTensor(metaclass=_Typed):
    """bool."""

    dtype = np.dtype("bool")
