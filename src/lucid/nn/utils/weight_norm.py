"""Weights as a direction and a length, which are trained apart."""

from __future__ import annotations

from typing import Any

from lucid.nn.modules.module import Module
from lucid.nn.parameter import Parameter
from lucid.tensor import Tensor


class _WeightNorm:
    """Hooks that set a weight before each call and take it out of the graph after it, so that modules can be copied."""

    def __init__(self, name: str, dim: int | None) -> None:
        self.name = name
        self.dim = None if dim == -1 else dim

    def norm(self, v: Tensor) -> Tensor:
        """The length of each slice along ``dim``, of all if there is none, shaped to multiply them."""
        axes = [axis for axis in range(v.ndim) if self.dim is None or axis != self.dim % v.ndim]
        result: Tensor = (v * v).sum(axes, keepdim=True).sqrt()
        return result if self.dim is not None else result.reshape(())

    def weight(self, module: Module) -> Tensor:
        """The weight that length and direction make."""
        g, v = getattr(module, f"{self.name}_g"), getattr(module, f"{self.name}_v")
        result: Tensor = v * (g / self.norm(v))
        return result

    def before(self, module: Module, args: Any) -> None:
        """Set the weight."""
        setattr(module, self.name, self.weight(module))

    def after(self, module: Module, args: Any, result: Any) -> None:
        """Take it out of the graph."""
        setattr(module, self.name, getattr(module, self.name).detach())


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """The module with its weight as ``weight_g`` v / |v|, v = ``weight_v``; a length for each slice along ``dim``.

    None or -1 stand for one length of all.

    Source: Salimans & Kingma, arXiv:1602.07868.

    >>> from lucid.nn import Conv1d
    >>> layer = weight_norm(Conv1d(4, 8, 3))
    >>> [(name, p.shape) for name, p in layer.named_parameters()]
    [('bias', (8,)), ('weight_g', (8, 1, 1)), ('weight_v', (8, 4, 3))]
    """
    weight = getattr(module, name)
    if not isinstance(weight, Parameter):
        raise ValueError(f"weight_norm: {name!r} of {type(module).__name__} must be a parameter; is it normed already?")
    hook = _WeightNorm(name, dim)
    delattr(module, name)
    module.register_parameter(f"{name}_g", Parameter(hook.norm(weight.detach())))
    module.register_parameter(f"{name}_v", Parameter(weight.detach()))
    setattr(module, name, hook.weight(module).detach())
    module.register_forward_pre_hook(hook.before)
    module.register_forward_hook(hook.after)
    return module


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """The module with the weight as one parameter again."""
    hung = [
        (key, hook)
        for key, watcher in module._watchers.items()
        if isinstance(hook := getattr(watcher.call, "__self__", None), _WeightNorm) and hook.name == name
    ]
    if not hung:
        raise ValueError(f"remove_weight_norm: {name!r} of {type(module).__name__} is not normed")
    weight = hung[0][1].weight(module).detach()
    for key, _ in hung:
        del module._watchers[key]
    for part in (name, f"{name}_g", f"{name}_v"):
        delattr(module, part)
    module.register_parameter(name, Parameter(weight))
    return module
