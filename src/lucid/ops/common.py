"""What every family of operations needs: attaching methods, meeting dtypes, naming dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import index
from sys import getrefcount
from typing import Any, TypeVar

import numpy as np

from lucid.autograd import Op, apply
from lucid.autograd.tracked import Node, wrap
from lucid.core.dtypes import DType, float32, of_numpy, promote_types, scalar_dtype, weak_result_type
from lucid.core.errors import DTypeError, ShapeError
from lucid.kernels import kept
from lucid.kernels.runtime import memory
from lucid.ops.checked import checked
from lucid.tensor.convert import cast_array
from lucid.tensor.tensor import Tensor

F = TypeVar("F", bound=Callable[..., Any])

Dims = int | Iterable[int] | None


def method(*names: str) -> Callable[[F], F]:
    """Attach a function to ``Tensor`` under its own name, or under ``names``; its first parameter is the tensor.

    Where further ones must be tensors, the method looks at them.
    """

    def attach(function: F) -> F:
        for name in names or (function.__name__,):
            setattr(Tensor, name, checked(function, name, given=1))
        return function

    return attach


def attribute(name: str) -> Callable[[F], F]:
    """Attach a function of a tensor as an attribute that is computed when read."""

    def attach(function: F) -> F:
        setattr(Tensor, name, property(function))
        return function

    return attach


def _holders(tensor: Any) -> int:
    return getrefcount(tensor._array)


SOLE = _holders(wrap(np.empty(0)))  #: what ``getrefcount(x._array)`` says where nobody but the tensor has the array


def owns_alone(x: Any) -> bool:
    """Whether nobody but the tensor could read or write its memory: there is no other array on it, nor an address."""
    return getrefcount(x._array) == SOLE and memory.owns_memory(x._array) and not kept.is_excluded(x._array)


def _all_holders(arrays: Sequence[np.ndarray[Any, Any]]) -> list[int]:
    return list(map(getrefcount, arrays))


_SOLE_LISTED = (lambda tensor: _all_holders([tensor._array])[0])(wrap(np.empty(0)))


def held_alone(arrays: Sequence[np.ndarray[Any, Any]]) -> bool:
    """Whether a tensor and this list hold each, nobody else: ``owns_alone``, for memory that is known to be theirs."""
    return _all_holders(arrays).count(_SOLE_LISTED) == len(arrays)


def owns_with_origin(x: Any) -> bool:
    """The same but for the operation that it is the result of, which saved it for its gradient."""
    return _holders(x) == SOLE + 1 and is_saved(x) and _is_hidden(x._array)


def is_saved(x: Any) -> bool:
    """Whether the operation that a tensor is the result of has saved it."""
    edge = x._edge
    return edge is not None and isinstance(edge[0], Node) and edge[0].saved_result(edge[1]) is x._array


def _is_hidden(array: np.ndarray[Any, Any]) -> bool:
    return memory.owns_memory(array) and not kept.is_excluded(array)


def versions_alone(tensors: Iterable[Any]) -> tuple[int, ...] | None:
    """What would tell of any change of these tensors; None if one of them could change unseen."""
    versions = []
    for x in tensors:
        if not owns_alone(x):
            return None
        versions.append(x._version[0])
    return tuple(versions)


def as_operand(x: Any) -> Any:
    """A tensor, made of arrays and lists where need be."""
    return x if isinstance(x, Tensor) else Tensor(x)


def _cast_forward(x: np.ndarray[Any, Any], *, dtype: np.dtype[Any], source: np.dtype[Any]) -> np.ndarray[Any, Any]:
    return cast_array(x, dtype)


_cast = Op("cast", _cast_forward, vjp={"x": lambda g, source: cast(g, of_numpy(source))})
_cast_exact = Op("cast", _cast_forward)  # to a type without gradients


def cast(x: Any, dtype: DType) -> Any:
    """The values in another element type; the tensor itself if it has that type already."""
    source, target = x._array.dtype, dtype.numpy
    if source == target:
        return x
    return apply(_cast if dtype.is_differentiable else _cast_exact, x, dtype=target, source=source)


_WEAK = {float: "fc", int: "iufc", complex: "c", bool: "biufc"}
"""Kinds of arrays that NumPy meets with a Python scalar in the array's own type, as PyTorch does."""


def operands(a: Any, b: Any) -> tuple[Any, Any]:
    """Two operands in their common type: tensors of one dtype, or one tensor and a Python scalar that adapts to it."""
    if isinstance(a, Tensor):
        if isinstance(b, Tensor):
            if a._array.dtype is b._array.dtype:
                return a, b
        elif a._array.dtype.kind in _WEAK.get(type(b), ""):
            return a, b
    elif isinstance(b, Tensor) and b._array.dtype.kind in _WEAK.get(type(a), ""):
        return a, b
    return _meet(_known(a), _known(b))


def _known(x: Any) -> Any:
    """A tensor or a Python scalar."""
    if isinstance(x, Tensor | bool | int | float | complex) and not isinstance(x, np.generic):
        return x
    return x.item() if isinstance(x, np.generic) else Tensor(x)


def _meet(a: Any, b: Any) -> tuple[Any, Any]:
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        a = Tensor(a)
    dtype = result_type(a, b)
    return _brought(a, dtype), _brought(b, dtype)


def _brought(x: Any, dtype: DType) -> Any:
    return cast(x, dtype) if isinstance(x, Tensor) else np.asarray(x).astype(dtype.numpy)


def result_type(tensor: Any, other: Any) -> DType:
    """The type of ``tensor + other``. Python scalars are weak, and so are 0-d tensors beside tensors with dimensions.

    >>> import lucid
    >>> result_type(lucid.zeros(2, dtype=lucid.int64), 1.5), result_type(lucid.zeros(2), lucid.zeros((), dtype=float))
    (lucid.float32, lucid.float32)
    """
    da, db = (x.dtype if isinstance(x, Tensor) else scalar_dtype(x) for x in (tensor, other))
    ra, rb = ((2 if x._array.ndim else 1) if isinstance(x, Tensor) else 0 for x in (tensor, other))
    if ra == rb:
        return promote_types(da, db)
    return weak_result_type(da, db) if ra > rb else weak_result_type(db, da)


def floating(x: Any) -> Any:
    """The tensor itself if it is floating point or complex, else as float32."""
    if not isinstance(x, Tensor):
        x = Tensor(x)
    return cast(x, float32) if x._array.dtype.kind in "biu" else x


def conj(x: Any) -> Any:
    """The conjugate where that is another number: gradients of complex operands need it."""
    if isinstance(x, Tensor):
        return x.conj() if x._array.dtype.kind == "c" else x
    return x.conjugate() if isinstance(x, complex | np.ndarray) else x


def axis(caller: str, dim: int, ndim: int) -> int:
    """A dimension counted from the front.

    Raises: ShapeError if there is no such dimension.
    """
    rank = max(ndim, 1)  # a 0-d tensor answers to 0 and -1
    if not -rank <= dim < rank:
        raise ShapeError(f"{caller}: dim={dim} is out of range for {ndim} dimensions, [{-rank}, {rank - 1}]")
    return dim % rank


def axes(caller: str, dim: Dims, ndim: int) -> tuple[int, ...] | None:
    """Dimensions counted from the front, or None for all of them."""
    if dim is None:
        return None
    if isinstance(dim, int | np.integer):
        return () if ndim == 0 and axis(caller, int(dim), 0) == 0 else (axis(caller, int(dim), ndim),)
    found = tuple(axis(caller, d, ndim) for d in dim)
    if len(set(found)) != len(found):
        raise ShapeError(f"{caller}: dim={tuple(dim)} names a dimension twice")
    return found if ndim and found else None


def sizes_of(sizes: tuple[Any, ...], named: Any = None) -> tuple[int, ...]:
    """Sizes given one by one, as one sequence, or as an argument with a name.

    Raises: TypeError for what is no integer: 2.5 is not 2, nor is "2"; for sizes given twice.
    """
    if named is not None:
        if sizes:
            raise TypeError(f"sizes and dimensions are given twice, as {sizes!r} and as {named!r}")
        sizes = (named,)
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list | np.ndarray):
        sizes = tuple(sizes[0])
    try:
        return tuple(map(index, sizes))
    except TypeError:
        raise TypeError(f"sizes and dimensions must be ints, not {sizes!r}") from None


def new_sizes(sizes: tuple[Any, ...], named: Any = None) -> tuple[int, ...]:
    """Sizes of a tensor to be made, as in ``sizes_of``.

    Raises: ShapeError for a negative one.
    """
    found = sizes_of(sizes, named)
    if found and min(found) < 0:
        raise ShapeError(f"a tensor cannot have the sizes {found}: none may be negative")
    return found


def same_dtype(caller: str, **tensors: Any) -> None:
    """Refuse tensors (or None) of different element types.

    Raises: DTypeError naming every argument with its type.
    """
    found = None
    for x in tensors.values():
        if x is not None:
            dtype = x._array.dtype
            if found is not None and dtype is not found and dtype != found:
                present = ", ".join(f"{name} {x.dtype!r}" for name, x in tensors.items() if x is not None)
                raise DTypeError(f"{caller}: all of one dtype, not {present}")
            found = dtype
