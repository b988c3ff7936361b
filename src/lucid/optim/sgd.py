"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lucid.optim import updates
from lucid.optim.optimizer import Group, Optimizer, check_at_least_zero, check_ways, gradients, values
from lucid.tensor import Tensor


class SGD(Optimizer):
    """Gradient descent, with momentum if asked; the arithmetic is ``updates.sgd``.

    >>> w = Tensor([1.0], requires_grad=True)
    >>> optimizer = SGD([w], lr=0.1)
    >>> (w * w).backward()
    >>> optimizer.step()
    >>> w
    Tensor([0.8000], requires_grad=True)
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        options = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        check_ways(self._name, differentiable)
        super().__init__(params, options)

    def _check_options(self, group: Group) -> None:
        check_at_least_zero("SGD", group, "lr", "momentum", "weight_decay")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("SGD: nesterov=True needs a momentum above 0 and dampening=0")

    def _update(self, group: Group, params: list[Tensor]) -> None:
        is_first = ["momentum_buffer" not in self.state.get(p, {}) for p in params]
        updates.sgd(
            values(params),
            gradients(params),
            self._states(params, "momentum_buffer") if group["momentum"] else None,
            is_first,
            lr=group["lr"],
            momentum=group["momentum"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            weight_decay=group["weight_decay"],
            maximize=group["maximize"],
        )
