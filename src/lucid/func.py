"""Modules as functions of their parameters: ``functional_call``, of ``torch.func``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lucid.core.absent import missing
from lucid.nn.modules.module import Module
from lucid.tensor import Tensor

__all__ = ["functional_call"]


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Mapping[str, Tensor] | tuple[Mapping[str, Tensor], ...],
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """What the module computes with these tensors in the place of its parameters and buffers of the same names.

    Gradients go to the tensors given; those not named are the module's own.

    >>> from lucid.nn import Linear
    >>> layer, w = Linear(2, 1, bias=False), Tensor([[3.0, 4.0]], requires_grad=True)
    >>> functional_call(layer, {"weight": w}, Tensor([1.0, 2.0])).backward()
    >>> w.grad
    Tensor([[1., 2.]])
    """
    given = parameter_and_buffer_dicts
    dicts = given if isinstance(given, tuple) else (given,)
    tensors = {name: value for one in dicts for name, value in one.items()}
    with _replaced(module, tensors):
        return module(*(args if isinstance(args, tuple) else (args,)), **(kwargs or {}))


@contextmanager
def _replaced(module: Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """The module's attributes are these tensors inside the block."""
    places = []
    for name in tensors:
        path, _, attribute = name.rpartition(".")
        owner = module.get_submodule(path)
        if attribute not in owner._parameters and attribute not in owner._buffers:
            raise KeyError(f"functional_call: {type(module).__name__} has no parameter or buffer {name!r}")
        places.append((owner, attribute, owner.__dict__[attribute]))
    try:
        for (owner, attribute, _), tensor in zip(places, tensors.values(), strict=True):
            owner.__dict__[attribute] = tensor
        yield
    finally:
        for owner, attribute, before in places:
            owner.__dict__[attribute] = before


__getattr__ = missing("lucid.func")
