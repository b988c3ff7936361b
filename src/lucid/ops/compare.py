"""Comparison, logic and choice."""

# mypy: disable-error-code="has-type"
# The gradient rows name functions defined further down.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lucid.autograd import Op, apply
from lucid.kernels import arithmetic
from lucid.ops import native
from lucid.ops.broadcast import sum_to
from lucid.ops.common import as_operand, cast, method, operands
from lucid.tensor.tensor import Tensor

Array = np.ndarray[Any, Any]
AB = ("a", "b")


def _comparison(name: str, ufunc: np.ufunc, doc: str, *methods: str) -> Callable[[Any, Any], Any]:
    op = Op(name, ufunc, inputs=AB)

    def function(input: Any, other: Any) -> Any:
        if isinstance(input, Tensor) and isinstance(other, Tensor):
            input, other = operands(input, other)
        elif not isinstance(other, Tensor | bool | int | float | complex):
            other = Tensor(other)
        return apply(op, as_operand(input), other)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return method(name, *methods)(function)


eq = _comparison("eq", np.equal, "input == other, element by element.")
ne = _comparison("ne", np.not_equal, "input != other, element by element.")
lt = _comparison("lt", np.less, "input < other, element by element.", "__lt__", "less")
le = _comparison("le", np.less_equal, "input <= other, element by element.", "__le__", "less_equal")
gt = _comparison("gt", np.greater, "input > other, element by element.", "__gt__", "greater")
ge = _comparison("ge", np.greater_equal, "input >= other, element by element.", "__ge__", "greater_equal")
logical_and = _comparison("logical_and", np.logical_and, "Whether both are not 0.")
logical_or = _comparison("logical_or", np.logical_or, "Whether any of two is not 0.")
logical_xor = _comparison("logical_xor", np.logical_xor, "Whether exactly one of two is not 0.")

_COMPARABLE = (Tensor, bool, int, float, complex, np.ndarray, np.generic, list, tuple)


@method("__eq__")
def _equals(a: Any, b: Any) -> Any:
    return eq(a, b) if isinstance(b, _COMPARABLE) else NotImplemented


@method("__ne__")
def _differs(a: Any, b: Any) -> Any:
    return ne(a, b) if isinstance(b, _COMPARABLE) else NotImplemented


def _bitwise(name: str, ufunc: np.ufunc, doc: str, symbol: str) -> Callable[[Any, Any], Any]:
    op = Op(name, ufunc, inputs=AB)

    def function(input: Any, other: Any) -> Any:
        input, other = operands(input, other)
        return apply(op, input, other)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return method(name, f"__{symbol}__", f"__r{symbol}__")(function)


bitwise_and = _bitwise("bitwise_and", np.bitwise_and, "input & other on integers or booleans.", "and")
bitwise_or = _bitwise("bitwise_or", np.bitwise_or, "input | other on integers or booleans.", "or")
bitwise_xor = _bitwise("bitwise_xor", np.bitwise_xor, "input ^ other on integers or booleans.", "xor")

_not = Op("logical_not", np.logical_not, inputs=("x",))
_invert = Op("bitwise_not", np.invert, inputs=("x",))
_isnan = Op("isnan", np.isnan, inputs=("x",))
_isinf = Op("isinf", np.isinf, inputs=("x",))
_isfinite = Op("isfinite", np.isfinite, inputs=("x",))


@method()
def logical_not(input: Any) -> Any:
    """Whether an element is 0."""
    return apply(_not, as_operand(input))


@method("bitwise_not", "__invert__")
def bitwise_not(input: Any) -> Any:
    """All bits flipped; for booleans, the opposite."""
    return apply(_invert, as_operand(input))


@method()
def isnan(input: Any) -> Any:
    """Whether an element is NaN."""
    return apply(_isnan, as_operand(input))


@method()
def isinf(input: Any) -> Any:
    """Whether an element is infinite."""
    return apply(_isinf, as_operand(input))


@method()
def isfinite(input: Any) -> Any:
    """Whether an element is neither infinite nor NaN."""
    return apply(_isfinite, as_operand(input))


def _close(a: Any, b: Any, rtol: float, atol: float, equal_nan: bool) -> Array:
    x, y = (np.asarray(t._array if isinstance(t, Tensor) else t) for t in (a, b))
    x, y = (t.astype(np.float64) if t.dtype.name in ("bfloat16", "float16") else t for t in (x, y))
    return np.asarray(np.isclose(x, y, rtol, atol, equal_nan))


@method()
def isclose(input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    """Whether |input - other| <= atol + rtol |other|, element by element."""
    return Tensor(_close(input, other, rtol, atol, equal_nan))


@method()
def allclose(input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether ``isclose`` holds everywhere."""
    return bool(_close(input, other, rtol, atol, equal_nan).all())


@method()
def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and the same elements."""
    return input.shape == other.shape and bool(np.array_equal(input._array, other._array))


def _where_forward(condition: Array, a: Array, b: Array) -> Array:
    large = a if a.size >= b.size else b
    if condition.dtype == np.bool_ and native.takes(native.ONE_PASS, large, a, b):
        chosen: Array = arithmetic.where(condition, a, b)
        return chosen
    return np.where(condition, a, b)


_where = Op("where", _where_forward, vjp={
    "a": lambda g, condition, a_shape: sum_to(where(condition, g, 0), a_shape),
    "b": lambda g, condition, b_shape: sum_to(where(condition, 0, g), b_shape),
})  # fmt: skip


def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    """Elements of ``input`` where ``condition`` holds, of ``other`` elsewhere; without both, where it is not 0."""
    if input is None and other is None:
        return nonzero(condition, as_tuple=True)
    input, other = operands(input, other)
    like = (input if isinstance(input, Tensor) else other)._array.dtype
    input, other = (x if isinstance(x, Tensor) else np.asarray(x, like) for x in (input, other))
    return apply(_where, as_operand(condition), input, other)


@method("where")
def _where_holds(input: Any, condition: Any, other: Any) -> Any:
    """The elements where ``condition`` holds, those of ``other`` elsewhere."""
    return where(condition, input, other)


@method()
def masked_fill(input: Tensor, mask: Any, value: Any) -> Any:
    """``value`` where ``mask`` holds, the input elsewhere."""
    value = cast(value, input.dtype) if isinstance(value, Tensor) else np.asarray(value).astype(input._array.dtype)
    return apply(_where, as_operand(mask), value, input)


def nonzero(input: Any, *, as_tuple: bool = False) -> Any:
    """Indices of the elements that are not 0: a row each, or with ``as_tuple`` a tensor per dimension."""
    array = as_operand(input)._array
    return tuple(map(Tensor, np.nonzero(np.atleast_1d(array)))) if as_tuple else Tensor(np.argwhere(array))


method()(nonzero)
