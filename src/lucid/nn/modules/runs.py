"""Layers one after the other, where nobody sees what passes between them."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

from lucid.autograd.mode import mode
from lucid.nn.functional.fused import finish_of
from lucid.nn.modules.activation import LeakyReLU, PReLU, ReLU, ReLU6
from lucid.nn.modules.conv import Weights, _Convolution
from lucid.nn.modules.fused import FUSED, FUSIBLE, fusible_activation
from lucid.nn.modules.module import Module, locate
from lucid.nn.modules.normalization import BatchNorm1d, BatchNorm2d, BatchNorm3d, GroupNorm, _BatchNorm
from lucid.ops.autocast import is_lowering
from lucid.ops.conv import Finish
from lucid.ops.norm import folded, taken_in
from lucid.tensor import Tensor

_BATCH_NORMS = (BatchNorm1d, BatchNorm2d, BatchNorm3d)
#: Activations that only cut off, and where: numbers that every precision has, so rounding changes nothing about it.
_LIMITS: dict[type[Module], tuple[float, float]] = {ReLU: (0.0, inf), ReLU6: (0.0, 6.0)}
#: Activations whose result tells their gradient: a convolution ends with them where one is recorded, too.
_TOLD = (ReLU, LeakyReLU)


def run(layers: Sequence[Module], x: Any) -> Any:
    """What the last layer gives, each fed with what the one before gives.

    Where no gradient is recorded, a convolution also does what the layers behind it would: a batch norm in evaluation,
    an activation, or both. Where one is, it ends with a ReLU or LeakyReLU behind it, and a batch norm in
    training also cuts off what a ReLU behind that would. A group norm behind a PReLU reads through it. Results differ
    by roundings only.
    """
    at = 0
    while at < len(layers):
        try:
            taken, x = _step(layers[at : at + 3], x)
        except Exception as error:
            locate(error, layers[at])
            raise
        at += taken
    return x


def _step(layers: Sequence[Module], x: Any) -> tuple[int, Any]:
    """How many of the layers from the first on are done at once, and their result."""
    first, *rest = layers
    if mode.recording and rest and _cuts_off(first, rest[0], x):
        assert isinstance(first, _BatchNorm), "only those do"
        return 2, first.clamped(x, _LIMITS[type(rest[0])])
    if type(first) is PReLU and rest and _reads_through(first, rest[0], x):
        assert isinstance(rest[0], GroupNorm), "only those do"
        return 2, rest[0].leaked(x, first.weight)
    if type(first) not in FUSED or first.is_watched or not isinstance(x, Tensor) or is_lowering():
        return 1, first(x)
    if mode.recording and not (rest and type(rest[0]) in _TOLD and not rest[0].is_watched):
        return 1, first(x)
    assert isinstance(first, _Convolution), "what can be fused is a convolution"
    norm = rest.pop(0) if rest and not mode.recording and _folds(first, rest[0], x) else None
    activation = rest[0] if rest and fusible_activation(rest[0]) else None
    taken = 1 + (norm is not None) + (activation is not None)
    return (1, first(x)) if taken == 1 else (taken, _finished(first, x, norm, activation))


def _cuts_off(norm: Module, activation: Module, x: Any) -> bool:
    """Whether the activation's limits can be the batch norm's."""
    known = type(norm) in _BATCH_NORMS and norm.training and type(activation) in _LIMITS
    return known and not norm.is_watched and not activation.is_watched and isinstance(x, Tensor)


def _reads_through(activation: PReLU, norm: Module, x: Any) -> bool:
    """Whether the norm can read what a PReLU would write, with the same numbers and no error of its own."""
    if type(norm) is not GroupNorm or activation.is_watched or norm.is_watched:
        return False
    fits = isinstance(x, Tensor) and x.ndim > 1 and x.dtype is activation.weight.dtype
    return fits and x.shape[1] == norm.num_channels and activation.weight.shape in ((1,), x.shape[1:2])


def _folds(conv: _Convolution, norm: Module, x: Tensor) -> bool:
    """Whether the layer scales and shifts the channels that the convolution of ``x`` has, by numbers known before."""
    if type(norm) not in _BATCH_NORMS or norm.training or not foldable(conv, norm):
        return False
    assert isinstance(norm, _BatchNorm), "one of them"
    rank, dtype, weight, bias = x._array.ndim, x._array.dtype, norm.weight, norm.bias
    alike = (weight is None or weight._array.dtype is dtype) and (bias is None or bias._array.dtype is dtype)
    return alike and rank == conv.rank + 2 and rank in norm.ranks


def foldable(conv: _Convolution, norm: Module) -> bool:
    """Whether a batch norm in evaluation can be taken into the convolution before it, and nobody would notice."""
    known = isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.num_features == conv.out_channels
    return known and not norm.is_watched


def _finished(conv: _Convolution, x: Tensor, norm: Any, activation: Module | None) -> Tensor:
    """The convolution of x and what follows: a batch norm in its weights, which costs kernels nothing, or its sums."""
    scale = shift = None
    weight, bias = conv.weight, conv.bias  # once, since a weight may be computed at every access
    weights: Weights = weight, bias
    if norm is not None:
        parts = norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps
        taken = taken_in(weight, bias, conv.is_transposed, *parts)
        if taken is None:
            scale, shift = folded(*parts, weight.dtype)
        weights = taken or weights
    return conv.finished(x, _finish(conv, activation, scale, shift), weights=weights)


def _finish(conv: _Convolution, activation: Module | None, scale: Tensor | None, shift: Tensor | None) -> Finish | None:
    name, parameters = FUSIBLE[type(activation)] if activation is not None else (None, ())
    return finish_of(type(conv).__name__, name, {p: getattr(activation, p) for p in parameters}, scale, shift)
