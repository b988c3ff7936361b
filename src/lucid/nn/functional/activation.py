"""Activations."""

from __future__ import annotations

from lucid.ops import activation as ops
from lucid.ops import elementwise
from lucid.ops import loss as soft
from lucid.tensor import Tensor


def _kept(x: Tensor, result: Tensor, inplace: bool) -> Tensor:
    """The result; with ``inplace``, ``x`` itself holding it."""
    return x.copy_(result) if inplace else result


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0).

    >>> relu(Tensor([-1.0, 2.0]))
    Tensor([0., 2.])
    """
    return _kept(input, ops.relu(input), inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """x between 0 and 6."""
    return hardtanh(input, 0.0, 6.0, inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where positive, else negative_slope x."""
    return _kept(input, ops.leaky_relu(input, negative_slope), inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha (exp(x) - 1)."""
    return _kept(input, ops.elu(input, alpha), inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """A scaled ``elu`` that keeps mean 0 and variance 1.

    Source: Klambauer et al., arXiv:1706.02515.
    """
    return _kept(input, ops.selu(input), inplace)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x Φ(x), Φ the normal distribution function; "tanh" approximates it.

    Source: Hendrycks & Gimpel, arXiv:1606.08415.
    """
    forms = {"none": ops.gelu, "tanh": ops.gelu_tanh}
    if approximate not in forms:
        raise ValueError(f"gelu: approximate={approximate!r} must be one of {', '.join(map(repr, forms))}")
    return forms[approximate](input)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x sigmoid(x)."""
    return _kept(input, ops.silu(input), inplace)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x tanh(softplus(x))."""
    return _kept(input, ops.mish(input), inplace)


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    result: Tensor = elementwise.sigmoid(input)
    return result


def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    result: Tensor = elementwise.tanh(input)
    return result


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta; x itself where beta x > threshold."""
    return ops.softplus(input, beta, threshold)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x between two bounds."""
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val={min_val} must not be above max_val={max_val}")
    return _kept(input, ops.hardtanh(input, min_val, max_val), inplace)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """x / 6 + 1/2 between 0 and 1."""
    return _kept(input, ops.hardsigmoid(input), inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x hardsigmoid(x).

    Source: Howard et al., arXiv:1905.02244.
    """
    return _kept(input, ops.hardswish(input), inplace)


def softmax(input: Tensor, dim: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along ``dim``.

    >>> softmax(Tensor([0.0, 0.0]))
    Tensor([0.5000, 0.5000])
    """
    return soft.softmax(input, dim)


def log_softmax(input: Tensor, dim: int = -1) -> Tensor:
    """log(softmax(x)), without overflow."""
    return soft.log_softmax(input, dim)


def softmin(input: Tensor, dim: int = -1) -> Tensor:
    """softmax(-x)."""
    return soft.softmax(-input, dim)
