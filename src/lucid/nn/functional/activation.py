"""Activations."""

from __future__ import annotations

from collections.abc import Callable

from lucid.core.dtypes import DTypeLike
from lucid.core.errors import ShapeError
from lucid.ops import activation as ops
from lucid.ops import elementwise
from lucid.ops import loss as soft
from lucid.ops.autocast import is_lowering, raised
from lucid.ops.checked import check_tensor
from lucid.ops.inplace import update
from lucid.tensor import Tensor


def _applied(function: Callable[..., Tensor], inplace: bool, x: Tensor, *params: float) -> Tensor:
    """The function's result; with ``inplace``, ``x`` itself holding it."""
    check_tensor(function.__name__, "input", x)
    if inplace:
        kept: Tensor = update(x, f"{function.__name__}_", function, *params)
        return kept
    return function(x, *params)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0).

    >>> relu(Tensor([-1.0, 2.0]))
    Tensor([0., 2.])
    """
    return _applied(ops.relu, inplace, input)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """x between 0 and 6."""
    check_tensor("relu6", "input", input)
    return hardtanh(input, 0.0, 6.0, inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where positive, else negative_slope x."""
    return _applied(ops.leaky_relu, inplace, input, negative_slope)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where positive, else weight x; ``weight`` has one number, or one for each channel (axis 1).

    Source: He et al., arXiv:1502.01852.

    >>> prelu(Tensor([[-1.0, 2.0]]), Tensor([0.25]))
    Tensor([[-0.2500,  2.0000]])
    """
    check_tensor("prelu", "input", input)
    check_tensor("prelu", "weight", weight)
    if is_lowering():
        weight = weight.to(input.dtype)
    channels = input.shape[1] if input.ndim > 1 else 1
    if weight.ndim > 1 or weight.numel() not in (1, channels):
        raise ShapeError(
            f"prelu: weight {weight.shape} must hold 1 number, or {channels}: one a channel of the input {input.shape}"
        )
    slope = weight.reshape(-1, *(1,) * (input.ndim - 2)) if weight.numel() != 1 else weight
    return ops.prelu(input, slope)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha (exp(x) - 1)."""
    return _applied(ops.elu, inplace, input, alpha)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """A scaled ``elu`` that keeps mean 0 and variance 1.

    Source: Klambauer et al., arXiv:1706.02515.
    """
    return _applied(ops.selu, inplace, input)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x Φ(x), Φ the normal distribution function; "tanh" approximates it.

    Source: Hendrycks & Gimpel, arXiv:1606.08415.
    """
    check_tensor("gelu", "input", input)
    forms = {"none": ops.gelu, "tanh": ops.gelu_tanh}
    if approximate not in forms:
        raise ValueError(f"gelu: approximate={approximate!r} must be one of {', '.join(map(repr, forms))}")
    return forms[approximate](input)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x sigmoid(x)."""
    return _applied(ops.silu, inplace, input)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x tanh(softplus(x))."""
    return _applied(ops.mish, inplace, input)


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    check_tensor("sigmoid", "input", input)
    result: Tensor = elementwise.sigmoid(input)
    return result


def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    check_tensor("tanh", "input", input)
    result: Tensor = elementwise.tanh(input)
    return result


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta; x itself where beta x > threshold."""
    check_tensor("softplus", "input", input)
    return ops.softplus(input, beta, threshold)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x between two bounds."""
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val={min_val} must not be above max_val={max_val}")
    return _applied(ops.hardtanh, inplace, input, min_val, max_val)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """x / 6 + 1/2 between 0 and 1."""
    return _applied(ops.hardsigmoid, inplace, input)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x hardsigmoid(x).

    Source: Howard et al., arXiv:1905.02244.
    """
    return _applied(ops.hardswish, inplace, input)


def softmax(input: Tensor, dim: int = -1, *, dtype: DTypeLike = None) -> Tensor:
    """exp(x) / sum(exp(x)) along ``dim``, of the input as ``dtype``, if given.

    >>> softmax(Tensor([0.0, 0.0]))
    Tensor([0.5000, 0.5000])
    """
    check_tensor("softmax", "input", input)
    (input,) = raised(input)
    return soft.softmax(input, dim, dtype)


def log_softmax(input: Tensor, dim: int = -1, *, dtype: DTypeLike = None) -> Tensor:
    """log(softmax(x)), without overflow."""
    check_tensor("log_softmax", "input", input)
    (input,) = raised(input)
    return soft.log_softmax(input, dim, dtype)


def softmin(input: Tensor, dim: int = -1, *, dtype: DTypeLike = None) -> Tensor:
    """softmax(-x)."""
    check_tensor("softmin", "input", input)
    return softmax(-input, dim, dtype=dtype)
