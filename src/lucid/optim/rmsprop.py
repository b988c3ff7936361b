"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lucid.optim import updates
from lucid.optim.optimizer import Group, Optimizer, check_at_least_zero, check_ways, gradients, values
from lucid.tensor import Tensor


class RMSprop(Optimizer):
    """Steps divided by the root of the running mean of squared gradients; the arithmetic is ``updates.rmsprop``."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        options = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
        }
        check_ways(self._name, differentiable)
        super().__init__(params, options)

    def _check_options(self, group: Group) -> None:
        check_at_least_zero("RMSprop", group, "lr", "alpha", "eps", "weight_decay", "momentum")

    def _update(self, group: Group, params: list[Tensor]) -> None:
        updates.rmsprop(
            values(params),
            gradients(params),
            self._states(params, "square_avg"),
            self._states(params, "momentum_buffer") if group["momentum"] else None,
            self._states(params, "grad_avg") if group["centered"] else None,
            lr=group["lr"],
            alpha=group["alpha"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            maximize=group["maximize"],
        )
