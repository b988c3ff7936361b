"""Parameters: tensors that a module trains."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from lucid.autograd.tracked import Tracked
from lucid.core.dtypes import DType, DTypeLike, as_dtype, float32, of_numpy
from lucid.core.geometry import Sizes
from lucid.tensor import Tensor

_slot: Any = Tracked.__dict__["_array"]  # where a tensor keeps its array


class Parameter(Tensor):
    """A tensor that becomes part of the module it is assigned to, and that optimizers find there.

    It shares memory with ``data`` and nothing of its graph.

    >>> Parameter(Tensor([1.0, 2.0]))
    Tensor([1., 2.], requires_grad=True)
    """

    def __new__(cls, data: Any = (), requires_grad: bool = True) -> Any:
        return super().__new__(cls, data, requires_grad)


class _Uninitialized(Tensor):
    """A tensor of a lazy layer before its first input: of a dtype, without a shape. Any use says so."""

    __slots__ = ()

    becomes: ClassVar[type[Tensor]]

    @property
    def _array(self) -> Any:
        raise ValueError(
            "a parameter or buffer of a lazy layer has no shape yet: call the network once with an input, or load a "
            "state dict, before its values are used or an optimizer is made"
        )

    @_array.setter
    def _array(self, array: Any) -> None:
        _slot.__set__(self, array)

    @property
    def dtype(self) -> DType:
        """Element type that it will have."""
        return of_numpy(_slot.__get__(self).dtype)

    def recast(self, dtype: DType) -> None:
        """Another element type to have."""
        self._array = np.empty(0, dtype.numpy)

    def materialize(self, shape: Sizes) -> None:
        """Become an ordinary one, of zeros in this shape: the same object, so who knows it knows the new one."""
        self._array = np.zeros(shape, self.dtype.numpy)
        self.__class__ = self.becomes  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = memo[id(self)] = type(self)(dtype=self.dtype)
        made._requires_grad = self._requires_grad
        return made

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _waiting, (type(self), self.dtype.name, self._requires_grad)


def _waiting(kind: type[Tensor], dtype: str, requires_grad: bool) -> Any:
    made: Any = kind(dtype=dtype)
    made._requires_grad = requires_grad
    return made


class UninitializedParameter(Parameter, _Uninitialized):
    """A parameter of a lazy layer, before its first input."""

    __slots__ = ()

    becomes = Parameter

    def __new__(cls, requires_grad: bool = True, dtype: DTypeLike = None) -> Any:
        return super().__new__(cls, np.empty(0, _numpy(dtype)), requires_grad)


class UninitializedBuffer(_Uninitialized):
    """A buffer of a lazy layer, before its first input."""

    __slots__ = ()

    becomes = Tensor

    def __new__(cls, requires_grad: bool = False, dtype: DTypeLike = None) -> Any:
        return super().__new__(cls, np.empty(0, _numpy(dtype)), requires_grad)


def _numpy(dtype: DTypeLike) -> np.dtype[Any]:
    return (float32 if dtype is None else as_dtype(dtype)).numpy


def is_uninitialized(value: Any) -> bool:
    """Whether it is a parameter or buffer of a lazy layer that has had no input."""
    return isinstance(value, _Uninitialized)
