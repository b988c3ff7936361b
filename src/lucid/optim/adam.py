"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lucid.optim import updates
from lucid.optim.optimizer import Group, Optimizer, check_at_least_zero, check_betas, check_ways, gradients, values
from lucid.tensor import Tensor


class Adam(Optimizer):
    """Steps scaled by running means of the gradient and its square; the arithmetic is ``updates.adam``.

    ``weight_decay`` is added to the gradient; ``AdamW``, or ``decoupled_weight_decay``, shrinks the parameters.
    """

    decoupled: bool = False

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
        }
        check_ways(self._name, differentiable)
        self.decoupled = self.decoupled or decoupled_weight_decay
        super().__init__(params, options)

    def _check_options(self, group: Group) -> None:
        check_at_least_zero(self._name, group, "lr", "eps", "weight_decay")
        check_betas(self._name, group)

    def _update(self, group: Group, params: list[Tensor]) -> None:
        updates.adam(
            values(params),
            gradients(params),
            self._states(params, "exp_avg"),
            self._states(params, "exp_avg_sq"),
            self._states(params, "max_exp_avg_sq") if group["amsgrad"] else None,
            self._counted(params),
            lr=group["lr"],
            betas=tuple(group["betas"]),
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            decoupled=self.decoupled,
            maximize=group["maximize"],
        )


class AdamW(Adam):
    """Adam with weight decay that acts on the parameters themselves."""

    decoupled = True

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, differentiable=differentiable
        )
