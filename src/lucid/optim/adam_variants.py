"""Variants of Adam: by the largest gradient, with Nesterov's momentum, and with the early steps rectified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lucid.optim import updates
from lucid.optim.optimizer import Group, Optimizer, check_at_least_zero, check_betas, check_ways, gradients, values
from lucid.tensor import Tensor


class _Variant(Optimizer):
    """What they share: two betas, and a running mean of the gradient."""

    def _check_options(self, group: Group) -> None:
        check_at_least_zero(self._name, group, "lr", "eps", "weight_decay")
        check_betas(self._name, group)

    def _shared(self, group: Group, *names: str) -> dict[str, Any]:
        return {name: group[name] for name in ("lr", "betas", "eps", "weight_decay", "maximize", *names)}


class Adamax(_Variant):
    """Steps divided by the largest gradient of late; the arithmetic is ``updates.adamax``.

    Source: Kingma & Ba, arXiv:1412.6980.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_ways(self._name, differentiable)
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, options)

    def _update(self, group: Group, params: list[Tensor]) -> None:
        updates.adamax(
            values(params),
            gradients(params),
            self._states(params, "exp_avg"),
            self._states(params, "exp_inf"),
            self._counted(params),
            **self._shared(group),
        )


class NAdam(_Variant):
    """Adam with Nesterov's momentum; the arithmetic is ``updates.nadam``.

    Source: Dozat, ICLR workshop 2016.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        check_ways(self._name, differentiable)
        super().__init__(params, options)

    def _check_options(self, group: Group) -> None:
        super()._check_options(group)
        check_at_least_zero("NAdam", group, "momentum_decay")

    def _update(self, group: Group, params: list[Tensor]) -> None:
        beta1, decay = group["betas"][0], group["momentum_decay"]
        steps = self._counted(params)
        momenta = [[updates.nadam_momentum(beta1, decay, step + ahead) for ahead in (0, 1)] for step in steps]
        for p, (now, _) in zip(params, momenta, strict=True):
            self.state[p]["mu_product"] = self.state[p].get("mu_product", 1.0) * now
        updates.nadam(
            values(params),
            gradients(params),
            self._states(params, "exp_avg"),
            self._states(params, "exp_avg_sq"),
            steps,
            momenta,
            [self.state[p]["mu_product"] for p in params],
            decoupled=group["decoupled_weight_decay"],
            **self._shared(group),
        )


class RAdam(_Variant):
    """Adam whose first steps, of which too few squares are known, are by momentum alone; see ``updates.radam``.

    Source: Liu et al., arXiv:1908.03265.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        check_ways(self._name, differentiable)
        super().__init__(params, options)

    def _update(self, group: Group, params: list[Tensor]) -> None:
        updates.radam(
            values(params),
            gradients(params),
            self._states(params, "exp_avg"),
            self._states(params, "exp_avg_sq"),
            self._counted(params),
            decoupled=group["decoupled_weight_decay"],
            **self._shared(group),
        )
