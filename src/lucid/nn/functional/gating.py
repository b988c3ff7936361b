"""Activations that are a line of others, gates, and lookups in tables."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np

from lucid.core.errors import DTypeError, ShapeError
from lucid.nn.functional import activation
from lucid.nn.functional.convolution import conv1d
from lucid.ops import elementwise
from lucid.ops.checked import check_tensor
from lucid.ops.common import axis
from lucid.ops.compare import where
from lucid.ops.inplace import update
from lucid.ops.random import rand
from lucid.tensor import Tensor


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """The first half along ``dim``, times the sigmoid of the second.

    Source: Dauphin et al., arXiv:1612.08083.

    >>> glu(Tensor([2.0, 0.0]))
    Tensor([1.])
    """
    check_tensor("glu", "input", input)
    d = axis("glu", dim, input.ndim)
    if input.ndim == 0 or input.shape[d] % 2:
        raise ShapeError(f"glu: axis {dim} of the input {input.shape} must be of an even length")
    value, gate = input.chunk(2, d)
    result: Tensor = value * elementwise.sigmoid(gate)
    return result


def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(x)), without overflow."""
    check_tensor("logsigmoid", "input", input)
    result: Tensor = -activation.softplus(-input, 1.0, inf)
    return result


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    check_tensor("softsign", "input", input)
    result: Tensor = input / (1 + elementwise.abs(input))
    return result


def tanhshrink(input: Tensor) -> Tensor:
    """x - tanh(x)."""
    check_tensor("tanhshrink", "input", input)
    result: Tensor = input - elementwise.tanh(input)
    return result


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x moved towards 0 by ``lambd``, 0 at most."""
    check_tensor("softshrink", "input", input)
    result: Tensor = input - elementwise.clamp(input, -lambd, lambd)
    return result


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x where |x| > lambd, else 0."""
    check_tensor("hardshrink", "input", input)
    result: Tensor = where(elementwise.abs(input) <= lambd, 0.0, input)
    return result


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha (exp(x / alpha) - 1)."""
    check_tensor("celu", "input", input)
    return _placed("celu_", inplace, input, lambda x: activation.elu(x / alpha) * alpha)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where above ``threshold``, else ``value``."""
    check_tensor("threshold", "input", input)
    return _placed("threshold_", inplace, input, lambda x: where(x > threshold, x, value))


def gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """A draw of softmax(logits) that has gradients; with ``hard`` of ones and zeros, its gradients those of the soft.

    Source: Jang et al., arXiv:1611.01144.
    """
    check_tensor("gumbel_softmax", "logits", logits)
    draws = elementwise.clamp(rand(*logits.shape, dtype=logits.dtype), min=float(np.finfo(np.float32).tiny))
    soft = activation.softmax((logits - elementwise.log(-elementwise.log(draws))) / tau, dim)
    if not hard:
        return soft
    chosen = soft.detach().argmax(dim, keepdim=True)
    ones = (soft.detach() * 0).scatter(dim, chosen, value=1.0)
    result: Tensor = ones - soft.detach() + soft
    return result


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """The rows of a table at the numbers in ``input``; the row ``padding_idx`` gets no gradient.

    Shape:
        input (*) of integers, weight (rows, features), result (*, features).

    >>> embedding(Tensor([1, 0]), Tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[3.0, 4.0], [1.0, 2.0]]
    """
    check_tensor("embedding", "input", input)
    check_tensor("embedding", "weight", weight)
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise ValueError("embedding: max_norm, scale_grad_by_freq and sparse are not there")
    if input.dtype.is_differentiable or input.dtype.name == "bool":
        raise DTypeError(f"embedding: the input is {input.dtype.name}; row numbers must be integers")
    rows, numbers = weight.shape[0], input._array
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < rows:
        wrong = numbers[(numbers < 0) | (numbers >= rows)][0]
        raise IndexError(f"embedding: number {wrong} is out of range for a table of {rows} rows, 0 … {rows - 1}")
    picked: Tensor = weight[numbers]
    if padding_idx is None or not weight.requires_grad:
        return picked
    padding = Tensor((numbers == padding_idx % rows)[..., None])
    result: Tensor = where(padding, picked.detach(), picked)
    return result


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """x / (k + alpha · mean of x² over ``size`` channels around) ^ beta.

    Source: Krizhevsky et al., NeurIPS 2012.
    """
    check_tensor("local_response_norm", "input", input)
    if input.ndim < 3:
        raise ShapeError(f"local_response_norm: the input {input.shape} must be (N, C, *size)")
    channels = input.shape[1]
    rows = elementwise.square(input).movedim(1, -1).reshape(-1, 1, channels)
    window = Tensor(np.full((1, 1, size), 1 / size, rows.dtype.numpy))
    summed = conv1d(rows, window, padding=((size // 2, (size - 1) // 2),))
    summed = summed.reshape(input.shape[0], *input.shape[2:], channels).movedim(-1, 1)
    result: Tensor = input / (summed * alpha + k) ** beta
    return result


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Channels dealt out: first those that are first in their groups, then the second ones, and so on.

    Source: Zhang et al., arXiv:1707.01083.
    """
    check_tensor("channel_shuffle", "input", input)
    if input.ndim < 3 or groups < 1 or input.shape[1] % groups:
        raise ShapeError(f"channel_shuffle: the channels of {input.shape} must be a multiple of groups={groups}")
    n, c, *size = input.shape
    result: Tensor = input.reshape(n, groups, c // groups, *size).transpose(1, 2).reshape(input.shape)
    return result


def rms_norm(
    input: Tensor, normalized_shape: tuple[int, ...], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """x / √(mean of x² over the last axes + eps), times the weight.

    Source: Zhang & Sennrich, arXiv:1910.07467.
    """
    check_tensor("rms_norm", "input", input)
    count = len(normalized_shape)
    if input.shape[input.ndim - count :] != tuple(normalized_shape):
        raise ShapeError(f"rms_norm: the input {input.shape} must end in normalized_shape={tuple(normalized_shape)}")
    eps = float(np.finfo(np.float32).eps) if eps is None else eps
    mean = elementwise.square(input).mean(tuple(range(-count, 0)), keepdim=True)
    result: Tensor = input * elementwise.rsqrt(mean + eps)
    return result if weight is None else result * weight


def _placed(name: str, inplace: bool, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The function's value; with ``inplace``, ``x`` itself holding it."""
    if inplace:
        kept: Tensor = update(x, name, function)
        return kept
    return function(x)
