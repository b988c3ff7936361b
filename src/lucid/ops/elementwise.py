"""Arithmetic and functions of one element: each op a row, with NumPy's rule forward and its gradients beside it."""

# mypy: disable-error-code="has-type"
# The gradient rows name functions defined further down.

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from lucid.autograd import Op, apply, is_grad_enabled
from lucid.core.errors import DTypeError
from lucid.kernels import activations, arithmetic
from lucid.ops import native, special
from lucid.ops.broadcast import product_sum_to, sum_to
from lucid.ops.common import as_operand, attribute, conj, floating, method, operands
from lucid.tensor.tensor import Tensor

Array = np.ndarray[Any, Any]
AB = ("a", "b")
X = ("x",)

# Two operands. ``sum_to`` undoes the broadcasting.

_add = Op("add", native.binary("add", np.add), inputs=AB, vjp={
    "a": lambda g, a_shape: sum_to(g, a_shape),
    "b": lambda g, b_shape: sum_to(g, b_shape),
})  # fmt: skip
_sub = Op("sub", native.binary("sub", np.subtract), inputs=AB, vjp={
    "a": lambda g, a_shape: sum_to(g, a_shape),
    "b": lambda g, b_shape: sum_to(-g, b_shape),
})  # fmt: skip
_mul = Op("mul", native.binary("mul", np.multiply), inputs=AB, vjp={
    "a": lambda g, b, a_shape: product_sum_to(g, b, a_shape),
    "b": lambda g, a, b_shape: product_sum_to(g, a, b_shape),
})  # fmt: skip
_div = Op("div", native.binary("div", np.true_divide), inputs=AB, vjp={
    "a": lambda g, b, a_shape: sum_to(g / conj(b), a_shape),
    "b": lambda g, out, b, b_shape: sum_to(-g * conj(out / b), b_shape),
})  # fmt: skip


def _power(a: Any, b: Any) -> Any:
    """a^b; a cube by products, which NumPy's power of a negative number takes 100 times as long as."""
    if isinstance(a, np.ndarray) and a.dtype.kind == "f" and type(b) in (int, float) and b == 3:
        return _cube(a)
    return operator.pow(a, b)


_cube = native.unary("cube", lambda x: x * x * x)
_pow = Op("pow", _power, inputs=AB, vjp={
    "a": lambda g, a, b, a_shape: sum_to(g * conj(_pow_slope(a, b)), a_shape),
    "b": lambda g, out, a, b, b_shape: sum_to(g * conj(_log_times(out, a, b)), b_shape),
})  # fmt: skip


def _of_integers(name: str, function: np.ufunc) -> Callable[[Any, Any], Any]:
    """A division with a remainder: by 0 it has none, where there is no NaN to say so."""

    def forward(a: Any, b: Any) -> Any:
        made = function(a, b)
        if made.dtype.kind in "biu" and not np.all(b):
            raise ZeroDivisionError(f"{name}: an integer divided by 0")
        return made

    return forward


_remainder = Op("remainder", _of_integers("remainder", np.remainder), inputs=AB, vjp={
    "a": lambda g, a_shape: sum_to(g, a_shape),
    "b": lambda g, a, b, b_shape: sum_to(-g * floor(a / b), b_shape),
})  # fmt: skip
_fmod = Op("fmod", _of_integers("fmod", np.fmod), inputs=AB, vjp={
    "a": lambda g, a_shape: sum_to(g, a_shape),
    "b": lambda g, a, b, b_shape: sum_to(-g * trunc(a / b), b_shape),
})  # fmt: skip
_floor_divide = Op("floor_divide", _of_integers("floor_divide", np.floor_divide), inputs=AB, vjp={
    "a": lambda g, a_shape: sum_to(g * 0, a_shape),
    "b": lambda g, b_shape: sum_to(g * 0, b_shape),
})  # fmt: skip
_maximum = Op("maximum", native.binary("maximum", np.maximum), inputs=AB, vjp={
    "a": lambda g, a, b, a_shape: sum_to(g * _share(a, b), a_shape),
    "b": lambda g, a, b, b_shape: sum_to(g * _share(b, a), b_shape),
})  # fmt: skip
_minimum = Op("minimum", native.binary("minimum", np.minimum), inputs=AB, vjp={
    "a": lambda g, a, b, a_shape: sum_to(g * _share(b, a), a_shape),
    "b": lambda g, a, b, b_shape: sum_to(g * _share(a, b), b_shape),
})  # fmt: skip
_atan2 = Op("atan2", np.arctan2, inputs=AB, vjp={
    "a": lambda g, a, b, a_shape: sum_to(g * b / (a * a + b * b), a_shape),
    "b": lambda g, a, b, b_shape: sum_to(-g * a / (a * a + b * b), b_shape),
})  # fmt: skip


def _share_forward(a: Any, b: Any, *, like: np.dtype[Any]) -> Array:
    return np.asarray(np.add(np.greater(a, b), 0.5 * np.equal(a, b), dtype=np.float32), like)


_share_op = Op("share", _share_forward)


def _share(a: Any, b: Any) -> Any:
    """1 where a > b, a half at a tie (each side takes its part), 0 elsewhere."""
    like = (a if isinstance(a, Tensor) else b)._array.dtype
    return apply(_share_op, a, b, like=like)


def _pow_slope(a: Any, b: Any) -> Any:
    """b a^(b-1), and 0 where b is 0, whatever a is."""
    if not isinstance(b, Tensor):
        return b * a ** (b - 1) if b != 0 else a * 0
    return (b * a ** (b - 1)).masked_fill(b == 0, 0)


def _log_times(out: Any, a: Any, b: Any) -> Any:
    """out log(a), and 0 where a is 0 and b is not negative, the limit."""
    if not isinstance(a, Tensor):
        return out * math.log(a) if a > 0 else out * (0.0 if a == 0 else math.nan)
    return (out * log(a)).masked_fill((a == 0) & (b >= 0), 0)


def _numbers(name: str, a: Any, b: Any) -> tuple[Any, Any]:
    """Operands that are no booleans: subtraction has no meaning for those."""
    a, b = operands(a, b)
    x = a if isinstance(a, Tensor) else b
    if x._array.dtype.kind == "b":
        raise DTypeError(f"{name}: boolean tensors cannot be subtracted; use logical_xor or logical_not")
    return a, b


def _fractions(a: Any, b: Any) -> tuple[Any, Any]:
    """Operands for true division: integers as float32."""
    a, b = operands(a, b)
    if isinstance(a, Tensor) and a._array.dtype.kind in "biu":
        a = floating(a)
    if isinstance(b, Tensor) and b._array.dtype.kind in "biu":
        b = floating(b)
    return (a, b) if isinstance(a, Tensor) or isinstance(b, Tensor) else operands(a, b)


@method("add", "__add__")
def add(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """input + alpha other."""
    if alpha != 1:
        other = as_operand(other) * alpha
    input, other = operands(input, other)
    return apply(_add, input, other)


@method("sub", "__sub__", "subtract")
def sub(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """input - alpha other."""
    if alpha != 1:
        other = as_operand(other) * alpha
    input, other = _numbers("sub", input, other)
    return apply(_sub, input, other)


@method("mul", "__mul__", "multiply")
def mul(input: Any, other: Any) -> Any:
    """input other, element by element."""
    input, other = operands(input, other)
    return apply(_mul, input, other)


@method("div", "__truediv__", "divide", "true_divide")
def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """input / other; integers are divided as float32. ``rounding_mode`` is "floor", "trunc" or None."""
    if rounding_mode == "floor":
        return floor_divide(input, other)
    input, other = _fractions(input, other)
    return apply(_div, input, other) if rounding_mode is None else trunc(apply(_div, input, other))


@method("pow", "__pow__")
def pow(input: Any, exponent: Any) -> Any:
    """input to the power exponent."""
    input, exponent = operands(input, exponent)
    return apply(_pow, input, exponent)


@method("remainder", "__mod__")
def remainder(input: Any, other: Any) -> Any:
    """input - other floor(input / other): the sign of the divisor."""
    input, other = operands(input, other)
    return apply(_remainder, input, other)


@method()
def fmod(input: Any, other: Any) -> Any:
    """input - other trunc(input / other): the sign of the dividend."""
    input, other = operands(input, other)
    return apply(_fmod, input, other)


@method("floor_divide", "__floordiv__")
def floor_divide(input: Any, other: Any) -> Any:
    """floor(input / other)."""
    input, other = operands(input, other)
    return apply(_floor_divide, input, other)


@method()
def maximum(input: Any, other: Any) -> Any:
    """The larger of two elements; NaN if either is. The gradient of a tie is shared."""
    input, other = operands(input, other)
    return apply(_maximum, input, other)


@method()
def minimum(input: Any, other: Any) -> Any:
    """The smaller of two elements; NaN if either is. The gradient of a tie is shared."""
    input, other = operands(input, other)
    return apply(_minimum, input, other)


@method("atan2", "arctan2")
def atan2(input: Any, other: Any) -> Any:
    """The angle of the point (other, input)."""
    input, other = _fractions(input, other)
    return apply(_atan2, input, other)


def _reflected(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda b, a: function(a, b)


method("__radd__")(add)
method("__rmul__")(mul)
_REFLECTED: dict[str, Callable[[Any, Any], Any]] = {
    "sub": sub,
    "truediv": div,
    "pow": pow,
    "mod": remainder,
    "floordiv": floor_divide,
}
for _name, _function in _REFLECTED.items():
    method(f"__r{_name}__")(_reflected(_function))


# One operand

_ROOT_PI_INVERSE_TWICE = 2 / math.sqrt(math.pi)

Row = tuple[Callable[..., Any], Callable[..., Any] | None]


def _zero(g: Any) -> Any:
    return g * 0


def _told(name: str, steps: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The row of a function whose result tells its gradient: one pass where nobody differentiates it, else steps."""
    kernel = arithmetic.BY_RESULT[name]
    op = Op(f"{name}_grad", lambda h, out: kernel(h, out))

    def row(g: Any, out: Any) -> Any:
        alone = not is_grad_enabled() and native.takes(native.ONE_PASS, g._array, out._array)
        return apply(op, g, out) if alone else steps(g, out)

    return row


_FUNCTIONS: dict[str, Row] = {
    # name: (forward, gradient); integers become float32 first
    "exp": (np.exp, lambda g, out: g * conj(out)),
    "exp2": (np.exp2, lambda g, out: g * out * math.log(2)),
    "expm1": (np.expm1, lambda g, out: g * conj(out + 1)),
    "log": (np.log, lambda g, x: g / conj(x)),
    "log2": (np.log2, lambda g, x: g / (x * math.log(2))),
    "log10": (np.log10, lambda g, x: g / (x * math.log(10))),
    "log1p": (np.log1p, lambda g, x: g / conj(x + 1)),
    "sqrt": (np.sqrt, lambda g, out: g / conj(out * 2)),
    "rsqrt": (lambda x: 1 / np.sqrt(x), lambda g, out: g * conj(out * out * out * -0.5)),
    "reciprocal": (lambda x: 1 / x, lambda g, out: -g * conj(out * out)),
    "sin": (np.sin, lambda g, x: g * conj(cos(x))),
    "cos": (np.cos, lambda g, x: -g * conj(sin(x))),
    "tan": (np.tan, lambda g, out: g * conj(out * out + 1)),
    "asin": (np.arcsin, lambda g, x: g * rsqrt(1 - x * x)),
    "acos": (np.arccos, lambda g, x: -g * rsqrt(1 - x * x)),
    "atan": (np.arctan, lambda g, x: g / (x * x + 1)),
    "sinh": (np.sinh, lambda g, x: g * conj(cosh(x))),
    "cosh": (np.cosh, lambda g, x: g * conj(sinh(x))),
    "tanh": (np.tanh, _told("tanh", lambda g, out: g * conj(1 - out * out))),
    "asinh": (np.arcsinh, lambda g, x: g * rsqrt(x * x + 1)),
    "acosh": (np.arccosh, lambda g, x: g * rsqrt(x * x - 1)),
    "atanh": (np.arctanh, lambda g, x: g / (1 - x * x)),
    "sigmoid": (special.sigmoid, _told("sigmoid", lambda g, out: g * out * (1 - out))),
    "erf": (special.erf, lambda g, x: g * exp(-x * x) * _ROOT_PI_INVERSE_TWICE),
    "erfc": (special.erfc, lambda g, x: g * exp(-x * x) * -_ROOT_PI_INVERSE_TWICE),
}

_EXACT: dict[str, Row] = {
    # the same, on integers as they are
    "neg": (np.negative, lambda g: -g),
    "positive": (np.positive, lambda g: g),
    "square": (lambda x: np.square(x if x.dtype != np.bool_ else x.astype(np.int64)), lambda g, x: g * conj(x * 2)),
    "abs": (np.absolute, lambda g, x: g * sign(x)),
    "sign": (np.sign, _zero),
    "floor": (np.floor, _zero),
    "ceil": (np.ceil, _zero),
    "trunc": (np.trunc, _zero),
}

_DOCS = {
    "exp": "e to the power x.",
    "exp2": "2 to the power x.",
    "expm1": "exp(x) - 1, without cancellation near 0.",
    "log": "Natural logarithm.",
    "log2": "Logarithm to base 2.",
    "log10": "Logarithm to base 10.",
    "log1p": "log(1 + x), without cancellation near 0.",
    "sqrt": "Square root.",
    "rsqrt": "1 / sqrt(x).",
    "reciprocal": "1 / x.",
    "sin": "Sine.",
    "cos": "Cosine.",
    "tan": "Tangent.",
    "asin": "Inverse sine.",
    "acos": "Inverse cosine.",
    "atan": "Inverse tangent.",
    "sinh": "Hyperbolic sine.",
    "cosh": "Hyperbolic cosine.",
    "tanh": "Hyperbolic tangent.",
    "asinh": "Inverse hyperbolic sine.",
    "acosh": "Inverse hyperbolic cosine.",
    "atanh": "Inverse hyperbolic tangent.",
    "sigmoid": "1 / (1 + exp(-x)).",
    "erf": "Error function, within 1 ulp of float64.",
    "erfc": "1 - erf(x), without cancellation for large x.",
    "neg": "-x.",
    "positive": "x.",
    "square": "x squared.",
    "abs": "Distance from 0.",
    "sign": "-1, 0 or 1.",
    "floor": "The largest integer that is not above x.",
    "ceil": "The smallest integer that is not below x.",
    "trunc": "x without its fraction.",
}


def _unary(name: str, row: Row, prepare: Callable[[Any], Any]) -> Callable[[Any], Any]:
    forward, gradient = row
    op = Op(name, native.unary(name, forward), vjp={"x": gradient} if gradient else None, inputs=X)

    def function(input: Any) -> Any:
        return apply(op, prepare(input))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = _DOCS[name]
    return method()(function)


exp, exp2, expm1, log, log2, log10, log1p, sqrt, rsqrt, reciprocal = (
    _unary(n, _FUNCTIONS[n], floating)
    for n in ("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal")
)
sin, cos, tan, asin, acos, atan = (
    _unary(n, _FUNCTIONS[n], floating) for n in ("sin", "cos", "tan", "asin", "acos", "atan")
)
sinh, cosh, tanh, asinh, acosh, atanh = (
    _unary(n, _FUNCTIONS[n], floating) for n in ("sinh", "cosh", "tanh", "asinh", "acosh", "atanh")
)
sigmoid, erf, erfc = (_unary(n, _FUNCTIONS[n], floating) for n in ("sigmoid", "erf", "erfc"))
neg, positive, square, abs, _sign, floor, ceil, trunc = (
    _unary(n, _EXACT[n], as_operand) for n in ("neg", "positive", "square", "abs", "sign", "floor", "ceil", "trunc")
)


@method("sign", "sgn")
def sign(input: Any) -> Any:
    """-1, 0 or 1; for a complex number, the number of length 1 in its direction."""
    input = as_operand(input)
    return (input / abs(input)).masked_fill(input == 0, 0) if input._array.dtype.kind == "c" else _sign(input)


method("__neg__")(neg)
method("__pos__")(positive)
method("__abs__")(abs)

_round = Op("round", lambda x, *, decimals: np.round(x, decimals), vjp={"x": _zero})
_conj = Op("conj", np.conjugate, inputs=X, vjp={"x": lambda g: g.conj()})
_real = Op("real", lambda x: x.real, view=True, vjp={"x": lambda g: g + 0j})
_imag = Op("imag", lambda x: x.imag, view=True, vjp={"x": lambda g: g * 1j})
_angle = Op("angle", np.angle, inputs=X, vjp={"x": lambda g, x: g * x * 1j / (x * conj(x))})


@method()
def round(input: Any, *, decimals: int = 0) -> Any:
    """The nearest integer, or multiple of 10^-decimals; halves go to the even one."""
    return apply(_round, as_operand(input), decimals=decimals)


@method("__round__")
def _rounded(x: Any, decimals: int = 0) -> Any:
    return round(x, decimals=decimals)


@method()
def conj_physical(input: Tensor) -> Any:
    """The complex conjugate, as a new tensor."""
    return apply(_conj, input)


@method("conj")
def _conjugate(x: Any) -> Any:
    """The complex conjugate; a real tensor itself."""
    return apply(_conj, x) if x._array.dtype.kind == "c" else x


@attribute("real")
def real(input: Tensor) -> Any:
    """The real part, a view."""
    return apply(_real, input) if input._array.dtype.kind == "c" else input


@attribute("imag")
def imag(input: Tensor) -> Any:
    """The imaginary part, a view.

    Raises: DTypeError for a real tensor.
    """
    if input._array.dtype.kind != "c":
        raise DTypeError(f"imag: a complex tensor is needed, not {input.dtype!r}")
    return apply(_imag, input)


@method()
def angle(input: Any) -> Any:
    """The argument of complex numbers, in radians."""
    return apply(_angle, floating(input))


def _clamp_forward(x: Array, low: Any, high: Any) -> Array:
    if native.takes(native.ONE_PASS, x):
        bounds = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
        held: Array = activations.hardtanh.of((x,), bounds)
        return held
    out: Array = x if low is None else np.maximum(x, low)
    return out if high is None else np.minimum(out, high)


def _inside_forward(x: Array, low: Any, high: Any) -> Array:
    inside = np.ones(np.shape(x), bool)
    if low is not None:
        inside = inside & (x >= low)
    if high is not None:
        inside = inside & (x <= high)
    return inside.astype(x.dtype)


_inside = Op("inside", _inside_forward)
_clamp = Op("clamp", _clamp_forward, vjp={
    "x": lambda g, x, low, high: g * apply(_inside, x, low, high),
})  # fmt: skip


@method("clamp", "clip")
def clamp(input: Any, min: Any = None, max: Any = None) -> Any:
    """Elements below ``min`` become ``min``, above ``max`` become ``max``; the gradient is 0 there."""
    input = as_operand(input)
    if min is None and max is None:
        raise ValueError("clamp: at least one of min and max is needed")
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        input = input if min is None else maximum(input, min)
        return input if max is None else minimum(input, max)
    for bound in (min, max):
        if bound is not None:
            input, _ = operands(input, bound)
    low, high = (None if bound is None else operands(input, bound)[1] for bound in (min, max))
    return apply(_clamp, input, low, high)


@method()
def lerp(input: Any, end: Any, weight: Any) -> Any:
    """input + weight (end - input)."""
    return add(input, mul(weight, sub(end, input)))


@method()
def addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Any:
    """input + value tensor1 tensor2."""
    return add(input, mul(tensor1, tensor2), alpha=value)


@method()
def addcdiv(input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Any:
    """input + value tensor1 / tensor2."""
    return add(input, div(tensor1, tensor2), alpha=value)
