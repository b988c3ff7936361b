"""Activation functions and their gradients, each a formula.

A gradient takes the upstream gradient ``g`` and the argument ``x``. NaN gives NaN. At a kink the gradient is PyTorch's.
"""

from __future__ import annotations

from math import pi, sqrt

from lucid.kernels import functions as fn
from lucid.kernels.elementwise import Elementwise
from lucid.kernels.ir import Value, absolute, select
from lucid.kernels.reduction import Reduction

_DENSITY = 1.0 / sqrt(2.0 * pi)  # of the normal distribution at 0
_TANH_GELU = sqrt(2.0 / pi)
_CUBIC = 0.044715
_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


def clamp(x: Value, low: Value | float, high: Value | float) -> Value:
    """x held between two bounds; NaN stays."""
    x = select(x < low, low, x)
    return select(x > high, high, x)


def _gelu_grad(g: Value, x: Value) -> Value:
    return g * (fn.normal_cdf(x) + x * (fn.exp(x * x * -0.5) * _DENSITY))


def _tanh_gelu_argument(x: Value) -> Value:
    return (x * x * _CUBIC + 1.0) * x * _TANH_GELU


def _gelu_tanh_grad(g: Value, x: Value) -> Value:
    u = _tanh_gelu_argument(x)
    small = fn.sigmoid(absolute(u) * -2.0)  # the smaller of s and 1 - s, neither of which may cancel
    s = select(u < 0.0, small, 1.0 - small)
    slope = (x * x * (3.0 * _CUBIC) + 1.0) * (2.0 * _TANH_GELU)
    return g * (s + x * (small * (1.0 - small)) * slope)


def _silu_grad(g: Value, x: Value) -> Value:
    s = fn.sigmoid(x)
    return g * s * (x * (1.0 - s) + 1.0)


def _softplus(x: Value, *, beta: Value, threshold: Value) -> Value:
    scaled = x * beta
    return select(scaled > threshold, x, fn.softplus(scaled) / beta)


def _softplus_grad(g: Value, x: Value, *, beta: Value, threshold: Value) -> Value:
    scaled = x * beta
    return select(scaled > threshold, g, g * fn.sigmoid(scaled))


def _elu(x: Value, *, alpha: Value) -> Value:
    return select(x > 0.0, x, alpha * fn.expm1(x))


def _elu_grad(g: Value, x: Value, *, alpha: Value) -> Value:
    return select(x > 0.0, g, g * alpha * fn.exp(x))


def _selu(x: Value) -> Value:
    return select(x > 0.0, x, fn.expm1(x) * _SELU_ALPHA) * _SELU_SCALE


def _mish(x: Value) -> Value:
    return x * fn.tanh(fn.softplus(x))


def _mish_grad(g: Value, x: Value) -> Value:
    t = fn.tanh(fn.softplus(x))
    return g * (t + x * (1.0 - t * t) * fn.sigmoid(x))


def _hardswish_grad(g: Value, x: Value) -> Value:
    return select(x <= -3.0, 0.0, select(x < 3.0, g * (x * (1.0 / 3.0) + 0.5), g))


def _hardsigmoid_grad(g: Value, x: Value) -> Value:
    return select(x > -3.0, select(x < 3.0, g * (1.0 / 6.0), 0.0), 0.0)


def _softsign_grad(g: Value, x: Value) -> Value:
    d = absolute(x) + 1.0
    return g / (d * d)


def _huber(x: Value, *, delta: Value) -> Value:
    size = absolute(x)
    return select(size < delta, x * x * 0.5, delta * (size - delta * 0.5))


relu = Elementwise("relu", lambda x: select(x < 0.0, 0.0, x))
relu_grad = Elementwise("relu_grad", lambda g, x: select(x <= 0.0, 0.0, g))
relu6 = Elementwise("relu6", lambda x: clamp(x, 0.0, 6.0))
hardtanh = Elementwise("hardtanh", lambda x, *, low, high: clamp(x, low, high))
hardtanh_grad = Elementwise(
    "hardtanh_grad", lambda g, x, *, low, high: select(x <= low, 0.0, select(x >= high, 0.0, g))
)
leaky_relu = Elementwise("leaky_relu", lambda x, *, slope: select(x > 0.0, x, slope * x))
leaky_relu_grad = Elementwise("leaky_relu_grad", lambda g, x, *, slope: select(x > 0.0, g, slope * g))
prelu = Elementwise("prelu", lambda x, slope: select(x > 0.0, x, slope * x))
prelu_pull = Elementwise("prelu_pull", lambda g, x, slope: select(x > 0.0, g, slope * g))
prelu_pull_slope = Reduction("prelu_pull_slope", terms=lambda g, x: select(x > 0.0, 0.0, g * x))
gelu = Elementwise("gelu", lambda x: x * fn.normal_cdf(x))
gelu_grad = Elementwise("gelu_grad", _gelu_grad)
gelu_tanh = Elementwise("gelu_tanh", lambda x: x * fn.sigmoid(_tanh_gelu_argument(x) * 2.0))
gelu_tanh_grad = Elementwise("gelu_tanh_grad", _gelu_tanh_grad)
silu = Elementwise("silu", lambda x: x * fn.sigmoid(x))
silu_grad = Elementwise("silu_grad", _silu_grad)
mish = Elementwise("mish", _mish)
mish_grad = Elementwise("mish_grad", _mish_grad)
softplus = Elementwise("softplus", _softplus)
softplus_grad = Elementwise("softplus_grad", _softplus_grad)
elu = Elementwise("elu", _elu)
elu_grad = Elementwise("elu_grad", _elu_grad)
selu = Elementwise("selu", _selu)
selu_grad = Elementwise("selu_grad", lambda g, x: select(x > 0.0, g, g * (fn.exp(x) * _SELU_ALPHA)) * _SELU_SCALE)
hardswish = Elementwise("hardswish", lambda x: x * clamp(x + 3.0, 0.0, 6.0) * (1.0 / 6.0))
hardswish_grad = Elementwise("hardswish_grad", _hardswish_grad)
hardsigmoid = Elementwise("hardsigmoid", lambda x: clamp(x + 3.0, 0.0, 6.0) * (1.0 / 6.0))
hardsigmoid_grad = Elementwise("hardsigmoid_grad", _hardsigmoid_grad)
softsign = Elementwise("softsign", lambda x: x / (absolute(x) + 1.0))
softsign_grad = Elementwise("softsign_grad", _softsign_grad)
huber = Elementwise("huber", _huber)
huber_grad = Elementwise("huber_grad", lambda g, x, *, delta: g * clamp(x, -delta, delta))
