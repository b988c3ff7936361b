"""Adagrad and Adadelta: steps divided by what the squares of all gradients so far come to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lucid.optim import updates
from lucid.optim.optimizer import Group, Optimizer, check_at_least_zero, check_ways, gradients, values
from lucid.tensor import Tensor


class Adagrad(Optimizer):
    """Steps divided by the root of the sum of squared gradients; the arithmetic is ``updates.adagrad``.

    Source: Duchi et al., JMLR 2011.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        options = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "maximize": maximize,
        }
        check_ways(self._name, differentiable)
        super().__init__(params, options)

    def _check_options(self, group: Group) -> None:
        check_at_least_zero("Adagrad", group, "lr", "lr_decay", "eps", "weight_decay", "initial_accumulator_value")

    def _update(self, group: Group, params: list[Tensor]) -> None:
        for p in params:
            if "sum" not in self.state[p]:
                self.state[p]["sum"] = Tensor(np.full_like(p._array, group["initial_accumulator_value"]))
        updates.adagrad(
            values(params),
            gradients(params),
            self._states(params, "sum"),
            self._counted(params),
            lr=group["lr"],
            lr_decay=group["lr_decay"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            maximize=group["maximize"],
        )


class Adadelta(Optimizer):
    """Steps as large as the ones before, divided by the gradients' running size; see ``updates.adadelta``.

    Source: Zeiler, arXiv:1212.5701.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        options = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        check_ways(self._name, differentiable)
        super().__init__(params, options)

    def _check_options(self, group: Group) -> None:
        check_at_least_zero("Adadelta", group, "lr", "eps", "weight_decay")
        if not 0 <= group["rho"] <= 1:
            raise ValueError(f"Adadelta: rho={group['rho']} must be in 0 … 1")

    def _update(self, group: Group, params: list[Tensor]) -> None:
        self._counted(params)
        updates.adadelta(
            values(params),
            gradients(params),
            self._states(params, "square_avg"),
            self._states(params, "acc_delta"),
            lr=group["lr"],
            rho=group["rho"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            maximize=group["maximize"],
        )
