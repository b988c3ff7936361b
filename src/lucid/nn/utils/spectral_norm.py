"""Weights divided by their largest singular value: ``parametrizations.spectral_norm`` with the names of old."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from lucid.nn import init
from lucid.nn.modules.computed import Computed
from lucid.nn.modules.conv import _ConvTranspose
from lucid.nn.modules.module import Module
from lucid.nn.parameter import Parameter
from lucid.nn.utils.parametrizations import power_steps, rank_one, rows_of
from lucid.tensor import Tensor

M = TypeVar("M", bound=Module)


class _Spectral(Computed):
    """W / uᵀ W v, W the parameter ``weight_orig``, u and v the buffers ``weight_u`` and ``weight_v``."""

    def __init__(self, name: str, dim: int, n_power_iterations: int, eps: float) -> None:
        self.name, self.dim, self.n_power_iterations, self.eps = name, dim, n_power_iterations, eps
        self.parts = f"{name}_orig", f"{name}_u", f"{name}_v"

    def get(self, module: Any) -> Tensor:
        """The weight with the vectors of now."""
        weight, u, v = (getattr(module, part) for part in self.parts)
        result: Tensor = weight / (weight * rank_one(weight, u, v, self.dim)).sum()
        return result

    def set(self, module: Any, value: Tensor) -> None:
        """The value becomes the weight before it is divided."""
        original = getattr(module, self.parts[0])
        original.data = value.detach().to(original.dtype).clone()

    def fix(self, module: Any) -> None:
        """The weight for the three."""
        remove_spectral_norm(module, self.name)

    def __call__(self, module: Any, args: Any) -> None:
        """Before each call in training, steps of the power method."""
        if module.training:
            weight, u, v = (getattr(module, part) for part in self.parts)
            power_steps(rows_of(weight, self.dim).conj().T, v, u, self.n_power_iterations, self.eps)


def spectral_norm(
    module: M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> M:
    """The module with its weight divided by its largest singular value, followed by the power method as it trains.

    The weight before that is ``weight_orig``. PyTorch's later form, with other names, is
    ``parametrizations.spectral_norm``.

    Source: Miyato et al., arXiv:1802.05957.

    >>> from lucid.nn import Conv2d
    >>> sorted(spectral_norm(Conv2d(4, 8, 3)).state_dict())
    ['bias', 'weight_orig', 'weight_u', 'weight_v']
    """
    weight = getattr(module, name)
    if not isinstance(weight, Parameter):
        raise ValueError(
            f"spectral_norm: {name!r} of {type(module).__name__} must be a parameter; is it normed already?"
        )
    if n_power_iterations < 1:
        raise ValueError(f"spectral_norm: n_power_iterations={n_power_iterations} must be at least 1")
    if dim is None:
        dim = 1 if isinstance(module, _ConvTranspose) else 0
    computed = _Spectral(name, dim, n_power_iterations, eps)
    module._compute(name, computed)
    original, *vectors = computed.parts
    module.register_parameter(original, weight)
    for vector, size in zip(vectors, rows_of(weight, dim).shape, strict=True):
        drawn = init.normal_(Tensor(np.empty(size, weight.dtype.numpy)))
        module.register_buffer(vector, drawn / max(float((drawn * drawn).sum()) ** 0.5, eps))
    module.register_forward_pre_hook(computed, prepend=True)
    return module


def remove_spectral_norm(module: M, name: str = "weight") -> M:
    """The module with the divided weight as one parameter again."""
    computed = module._computed.get(name)
    if not isinstance(computed, _Spectral):
        raise ValueError(f"remove_spectral_norm: {name!r} of {type(module).__name__} is not normed")
    weight = computed.get(module).detach()
    for part in computed.parts:
        delattr(module, part)
    for key in [key for key, watcher in module._watchers.items() if watcher.call is computed]:
        del module._watchers[key]
    module._compute_no_more(name, Parameter(weight))
    return module
