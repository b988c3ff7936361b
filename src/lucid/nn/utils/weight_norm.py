"""Weights as a direction and a length beside them: ``parametrizations.weight_norm`` with the names of old."""

from __future__ import annotations

from typing import Any

from lucid.autograd import no_grad
from lucid.nn.modules.computed import Computed
from lucid.nn.modules.module import Module
from lucid.nn.parameter import Parameter
from lucid.nn.utils.parametrizations import _WeightNorm
from lucid.tensor import Tensor


class _Normed(Computed):
    """A weight of the module's parameters ``weight_g`` and ``weight_v``."""

    def __init__(self, name: str, dim: int | None) -> None:
        self.name, self.norm = name, _WeightNorm(dim)
        self.parts = f"{name}_g", f"{name}_v"

    def get(self, module: Any) -> Tensor:
        """g v / |v|."""
        return self.norm.forward(*(getattr(module, part) for part in self.parts))

    def set(self, module: Any, value: Tensor) -> None:
        """Length and direction of the value."""
        with no_grad():
            for part, made in zip(self.parts, self.norm.right_inverse(value), strict=True):
                getattr(module, part).copy_(made)

    def fix(self, module: Any) -> None:
        """The weight for the two."""
        remove_weight_norm(module, self.name)


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """The module with its weight as ``weight_g`` v / |v|, v = ``weight_v``; a length for each slice along ``dim``.

    None or -1 stand for one length of all. PyTorch's later form, with other names, is ``parametrizations.weight_norm``.

    Source: Salimans & Kingma, arXiv:1602.07868.

    >>> from lucid.nn import Conv1d
    >>> layer = weight_norm(Conv1d(4, 8, 3))
    >>> [(name, p.shape) for name, p in layer.named_parameters()]
    [('bias', (8,)), ('weight_g', (8, 1, 1)), ('weight_v', (8, 4, 3))]
    """
    weight = getattr(module, name)
    if not isinstance(weight, Parameter):
        raise ValueError(f"weight_norm: {name!r} of {type(module).__name__} must be a parameter; is it normed already?")
    computed = _Normed(name, dim)
    parts = computed.norm.right_inverse(weight.detach())
    module._compute(name, computed)
    for part, value in zip(computed.parts, parts, strict=True):
        module.register_parameter(part, Parameter(value))
    return module


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """The module with the weight as one parameter again."""
    computed = module._computed.get(name)
    if not isinstance(computed, _Normed):
        raise ValueError(f"remove_weight_norm: {name!r} of {type(module).__name__} is not normed")
    weight = computed.get(module).detach()
    for part in computed.parts:
        delattr(module, part)
    module._compute_no_more(name, Parameter(weight))
    return module
