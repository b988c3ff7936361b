"""Activations: elementwise functions with a parameter or two, each with its gradient.

A gradient is written once, over a namespace ``m`` that is NumPy or the operations on tensors. The first is one pass for
a backward pass that nobody differentiates, the second carries gradients of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt
from types import SimpleNamespace
from typing import Any

import numpy as np

from lucid.autograd import Op, apply, is_grad_enabled
from lucid.core.dtypes import widened
from lucid.core.errors import DTypeError
from lucid.kernels import activations
from lucid.kernels.elementwise import Elementwise
from lucid.ops import elementwise, native, special
from lucid.ops.broadcast import sum_forward_to, sum_to
from lucid.ops.common import method, same_dtype
from lucid.ops.compare import where
from lucid.tensor import Tensor

Array = np.ndarray[Any, Any]

SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946
GELU_CUBIC = 0.044715


ARRAYS = SimpleNamespace(
    abs=np.abs, erf=special.erf, exp=np.exp, log1p=np.log1p, sigmoid=special.sigmoid, tanh=np.tanh, where=np.where
)
TENSORS = SimpleNamespace(
    abs=elementwise.abs, erf=elementwise.erf, exp=elementwise.exp, log1p=elementwise.log1p,
    sigmoid=elementwise.sigmoid, tanh=elementwise.tanh, where=where,
)  # fmt: skip


#: The kernels that are whole activations, and elements from which on: what a write in place may do at once.
KERNELS: dict[Callable[..., Tensor], tuple[Elementwise, int]] = {}
_DOUBLE_BYTES = 8
_EXACT = ("relu", "hardtanh")  # these make no fractions, so integers may stay what they are


#: Of activations whose result may tell its gradient: for which parameters, and g f'(x) of g, f(x) and the parameters.
BY_RESULT: dict[str, tuple[Callable[..., bool], Callable[[Tensor, Tensor, tuple[Any, ...]], Any]]] = {}


def _activation(
    name: str,
    value: Callable[..., Array],
    pull: Callable[..., Any],
    result_tells: Callable[..., bool] | None = None,
) -> Callable[..., Tensor]:
    """An operation ``f(x, *params)`` from ``value(x, *params)`` and ``pull(m, g, x, *params)`` = g f'(x).

    Where arrays are large, the kernels of that name take the place of both, and where they are small too unless they
    are float64, or it is one pass in NumPy. Where ``result_tells(*params)``, ``pull`` gives the same of f(x) as of x:
    then the result is saved, which what follows mostly saves anyway, and not x.
    """
    kernel: Elementwise = getattr(activations, name)
    kernel_grad: Elementwise = getattr(activations, f"{name}_grad")
    least = native.ONE_PASS if name in _EXACT else native.SEVERAL_PASSES

    def takes(*arrays: Array) -> bool:
        small = name not in _EXACT and arrays[0].dtype.itemsize < _DOUBLE_BYTES and native.takes(native.ALWAYS, *arrays)
        return small or native.takes(least, *arrays)

    def backward_pass(h: Array, x: Array, *, params: tuple[Any, ...]) -> Array:
        if takes(h, x):
            made: Array = kernel_grad.of((h, x), params)
            return made
        return _rounded_once(lambda h, x: pull(ARRAYS, h, x, *params), h, x)

    def row(g: Tensor, x: Tensor, params: tuple[Any, ...]) -> Any:
        return pull(TENSORS, g, x, *params) if is_grad_enabled() else apply(gradient, g, x, params=params)

    def forward(x: Array, *, params: tuple[Any, ...]) -> Array:
        if takes(x):
            made: Array = kernel.of((x,), params)
            return made
        return _rounded_once(lambda x: value(x, *params), x)

    def verb(input: Tensor, *params: Any) -> Tensor:
        if input._array.dtype.kind in "biu" and name not in _EXACT:
            raise DTypeError(f"{name}: the input is {input.dtype.name}, but must be floating-point")
        told = result_tells is not None and result_tells(*params)
        result: Tensor = apply(of_result if told else op, input, params=params)
        return result

    gradient = Op(f"{name}_grad", backward_pass)
    op = Op(name, forward, vjp={"x": row})
    of_result = Op(name, forward, vjp={"x": lambda g, out, params: row(g, out, params)})
    if result_tells is not None:
        BY_RESULT[name] = result_tells, row
    verb.__name__ = verb.__qualname__ = name
    KERNELS[verb] = kernel, least
    return verb


def _rounded_once(function: Callable[..., Array], *arrays: Array) -> Array:
    """The 16-bit types go through float32."""
    made, dtype = function(*map(widened, arrays)), arrays[0].dtype
    return made if made.dtype is dtype else made.astype(dtype)


def _gelu(x: Array) -> Array:
    return 0.5 * x * special.erfc(x * -sqrt(0.5))


def _gelu_pull(m: Any, g: Any, x: Any) -> Any:
    return g * (0.5 * (1 + m.erf(x * sqrt(0.5))) + x * m.exp(-0.5 * x * x) / sqrt(2 * pi))


def _gelu_tanh_inner(x: Any) -> Any:
    return sqrt(2 / pi) * (x + GELU_CUBIC * x * x * x)


def _gelu_tanh_pull(m: Any, g: Any, x: Any) -> Any:
    t = m.tanh(_gelu_tanh_inner(x))
    return g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * sqrt(2 / pi) * (1 + 3 * GELU_CUBIC * x * x))


def _silu_pull(m: Any, g: Any, x: Any) -> Any:
    s = m.sigmoid(x)
    return g * (s * (1 + x * (1 - s)))


def _softplus(x: Array, beta: float, threshold: float) -> Array:
    z = beta * x
    return np.where(z > threshold, x, (np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))) / beta)


def _mish_pull(m: Any, g: Any, x: Any) -> Any:
    s = m.sigmoid(x)
    t = m.tanh(m.where(x > 0, x, 0) + m.log1p(m.exp(-m.abs(x))))
    return g * (t + x * s * (1 - t * t))


def _inside(m: Any, g: Any, x: Any, low: float, high: float, slope: float = 1.0) -> Any:
    """The gradient of something that is straight between two bounds and flat outside."""
    return m.where((x <= low) | (x >= high), 0, g * slope)


relu = _activation("relu", lambda x: np.maximum(x, 0), lambda m, g, x: m.where(x <= 0, 0, g), lambda: True)
method()(relu)
relu.__doc__ = "max(x, 0)."

leaky_relu = _activation(
    "leaky_relu",
    lambda x, slope: np.where(x > 0, x, slope * x),
    lambda m, g, x, slope: m.where(x > 0, g, g * slope),
    lambda slope: slope >= 0,  # below 0 the result would be positive there
)


def prelu_forward(x: Array, slope: Array) -> Array:
    if native.takes(native.SEVERAL_PASSES, x, slope):
        y: Array = activations.prelu(x, slope)
        return y
    return _rounded_once(lambda x, slope: np.where(x > 0, x, slope * x), x, slope)


def prelu_pull(g: Tensor, x: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    if not is_grad_enabled():
        both: tuple[Tensor, Tensor] = apply(_prelu_grad, g, x, slope)
        return both
    return where(x > 0, g, g * slope), sum_to(where(x > 0, 0, g * x), slope.shape)


def _prelu_grad_forward(g: Array, x: Array, slope: Array) -> tuple[Array, Array]:
    if native.takes(native.SEVERAL_PASSES, g, x, slope):
        lone = (1,) * (x.ndim - slope.ndim) + slope.shape
        total = activations.prelu_pull_slope(g, x, axes=tuple(k for k, n in enumerate(lone) if n == 1))
        return activations.prelu_pull(g, x, slope), total.reshape(slope.shape)
    to_x = _rounded_once(lambda g, x, slope: np.where(x > 0, g, slope * g), g, x, slope)
    return to_x, sum_forward_to(np.where(x > 0, 0, g * x), slope.shape)


_prelu_grad = Op("prelu_grad", _prelu_grad_forward, outputs=("gx", "g_slope"))  # of what nobody differentiates again
_prelu = Op("prelu", prelu_forward, vjp={
    ("x", "slope"): prelu_pull,
    "x": lambda g, x, slope: where(x > 0, g, g * slope),
    "slope": lambda g, x, slope_shape: sum_to(where(x > 0, 0, g * x), slope_shape),
})  # fmt: skip


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """x where positive, else slope x; the slope broadcasts to the shape of x.

    Raises: DTypeError unless both have one element type.
    """
    same_dtype("prelu", x=x, slope=slope)
    result: Tensor = apply(_prelu, x, slope)
    return result


elu = _activation(
    "elu",
    lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    lambda m, g, x, alpha: m.where(x > 0, g, g * alpha * m.exp(m.where(x > 0, 0, x))),
)

selu = _activation(
    "selu",
    lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0))),
    lambda m, g, x: SELU_SCALE * m.where(x > 0, g, g * SELU_ALPHA * m.exp(m.where(x > 0, 0, x))),
)

silu = _activation("silu", lambda x: x * special.sigmoid(x), _silu_pull)

gelu = _activation("gelu", _gelu, _gelu_pull)

gelu_tanh = _activation("gelu_tanh", lambda x: 0.5 * x * (1 + np.tanh(_gelu_tanh_inner(x))), _gelu_tanh_pull)

mish = _activation("mish", lambda x: x * np.tanh(_softplus(x, 1.0, np.inf)), _mish_pull)

softplus = _activation(
    "softplus",
    _softplus,
    lambda m, g, x, beta, threshold: m.where(x * beta > threshold, g, g * m.sigmoid(x * beta)),
)

hardtanh = _activation("hardtanh", lambda x, low, high: np.clip(x, low, high), _inside)

hardsigmoid = _activation(
    "hardsigmoid",
    lambda x: np.clip(x + 3, 0, 6) / 6,
    lambda m, g, x: _inside(m, g, x, -3.0, 3.0, 1 / 6),
)

hardswish = _activation(
    "hardswish",
    lambda x: x * np.clip(x + 3, 0, 6) / 6,
    lambda m, g, x: m.where(x <= -3, 0, m.where(x < 3, g * (x / 3 + 0.5), g)),
)

#: Of a difference: x²/2 where |x| < delta, else delta (|x| - delta/2).
huber = _activation(
    "huber",
    lambda x, delta: np.where(np.abs(x) < delta, x * x * 0.5, delta * (np.abs(x) - 0.5 * delta)),
    lambda m, g, x, delta: m.where(x >= delta, g * delta, m.where(x <= -delta, g * -delta, g * x)),
)
