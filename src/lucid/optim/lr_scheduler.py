"""Learning rates that change from step to step.

A rate is a function of the step number alone, so a resumed run sees exactly the rates of an uninterrupted one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lucid.core.absent import missing
from lucid.optim.optimizer import Group, Optimizer

UNSAVED = ("optimizer", "lr_lambdas", "schedulers", "scale_fn")


class LRScheduler:
    """Sets the rate of every group when made and at each ``step``; ``last_epoch`` counts the steps.

    A subclass says in ``rate`` what the rate of a group is at a step, or in ``get_lr`` those of all groups now.

    >>> from lucid.optim import SGD
    >>> from lucid.tensor import Tensor
    >>> class Halved(LRScheduler):
    ...     def get_lr(self):
    ...         return [rate / 2**self.last_epoch for rate in self.base_lrs]
    >>> scheduler = Halved(SGD([Tensor([1.0], requires_grad=True)], lr=1.0))
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.5]
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__}: optimizer must be an Optimizer, not {type(optimizer).__name__}")
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self.step()

    def rate(self, index: int, epoch: int) -> float:
        """The rate of group ``index`` at a step."""
        raise NotImplementedError

    def get_lr(self) -> list[float]:
        """What ``step`` sets the rate of each group to."""
        return [self.rate(i, self.last_epoch) for i in range(len(self.optimizer.param_groups))]

    def step(self, epoch: int | None = None) -> None:
        """Go on by one, or to ``epoch``. Call it after ``optimizer.step()``."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._set_rates()

    def _set_rates(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate

    def get_last_lr(self) -> list[float]:
        """The rate of each group now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer (and functions, which are code)."""
        return {key: value for key, value in vars(self).items() if key not in UNSAVED}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to where another scheduler of this kind was, and set the rates of that step."""
        vars(self).update(state_dict)
        self._set_rates()


_LRScheduler = LRScheduler  # the name that PyTorch had for it, which subclasses are still made of


class LambdaLR(LRScheduler):
    """The initial rate times a function of the step: one for all groups, or one each."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        self.lr_lambdas = _one_each(type(self).__name__, "functions", lr_lambda, optimizer)
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: int) -> float:
        """The initial rate times the function's value."""
        return float(self.base_lrs[index] * self.lr_lambdas[index](epoch))


class MultiplicativeLR(LambdaLR):
    """The initial rate times the function's values at all steps from 1 on, multiplied."""

    def rate(self, index: int, epoch: int) -> float:
        """A product."""
        return float(self.base_lrs[index] * math.prod(map(self.lr_lambdas[index], range(1, epoch + 1))))


class StepLR(LRScheduler):
    """The rate times ``gamma`` after every ``step_size`` steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        if step_size < 1:
            raise ValueError(f"StepLR: step_size={step_size} must be at least 1")
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: int) -> float:
        """A staircase."""
        return float(self.base_lrs[index] * self.gamma ** (epoch // self.step_size))


class MultiStepLR(LRScheduler):
    """The rate times ``gamma`` at each of the ``milestones``."""

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones = sorted(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: int) -> float:
        """Down a stair at each milestone."""
        return float(self.base_lrs[index] * self.gamma ** bisect_right(self.milestones, epoch))


class ExponentialLR(LRScheduler):
    """The rate times ``gamma`` after every step."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: int) -> float:
        """A power."""
        return float(self.base_lrs[index] * self.gamma**epoch)


class CosineAnnealingLR(LRScheduler):
    """Down to ``eta_min`` along half a cosine in ``T_max`` steps, then up again.

    Source: Loshchilov & Hutter, arXiv:1608.03983.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        if T_max < 1:
            raise ValueError(f"CosineAnnealingLR: T_max={T_max} must be at least 1")
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: int) -> float:
        """A cosine."""
        return _cosine(self.base_lrs[index], self.eta_min, epoch / self.T_max)


class CosineAnnealingWarmRestarts(LRScheduler):
    """Down to ``eta_min`` along half a cosine in ``T_0`` steps, then again in ``T_mult`` times as many, and so on.

    Source: Loshchilov & Hutter, arXiv:1608.03983.
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        for name, value in (("T_0", T_0), ("T_mult", T_mult)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"CosineAnnealingWarmRestarts: {name}={value!r} must be an int of at least 1")
        self.T_0 = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: int) -> float:
        """The cosine that the step is in."""
        length = self.T_0
        while epoch >= length and self.T_mult > 1:
            epoch, length = epoch - length, length * self.T_mult
        return _cosine(self.base_lrs[index], self.eta_min, epoch % length / length)

    def step(self, epoch: float | None = None) -> None:
        """Go on by one, or to ``epoch``, which may be between two: the epoch and the part of it that is done."""
        super().step(epoch)  # type: ignore[arg-type]
        self.last_epoch = math.floor(self.last_epoch)


class LinearLR(LRScheduler):
    """The rate times a factor that goes from ``start_factor`` to ``end_factor`` in ``total_iters`` steps: a warm-up."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1 or not 0 <= end_factor <= 1:
            raise ValueError(
                f"LinearLR: start_factor={start_factor} must be above 0, end_factor={end_factor} at least 0, "
                "both at most 1"
            )
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = _steps("LinearLR", total_iters)
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: int) -> float:
        """A slope, then level."""
        part = min(epoch, self.total_iters) / self.total_iters
        return float(self.base_lrs[index] * _line(self.start_factor, self.end_factor, part))


class ConstantLR(LRScheduler):
    """The rate times ``factor`` for ``total_iters`` steps, then as it was."""

    def __init__(self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5, last_epoch: int = -1) -> None:
        self.factor = factor
        self.total_iters = _steps("ConstantLR", total_iters)
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: int) -> float:
        """One stair."""
        return float(self.base_lrs[index] * (self.factor if epoch < self.total_iters else 1.0))


class PolynomialLR(LRScheduler):
    """Down to 0 in ``total_iters`` steps, as the ``power`` of the part that is left."""

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters = _steps("PolynomialLR", total_iters)
        self.power = power
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: int) -> float:
        """A power, then 0."""
        return float(self.base_lrs[index] * (1 - min(epoch, self.total_iters) / self.total_iters) ** self.power)


class SequentialLR(LRScheduler):
    """One scheduler after the other: the next takes over, from its own step 0, at each of the ``milestones``.

    >>> from lucid.optim import SGD
    >>> from lucid.tensor import Tensor
    >>> optimizer = SGD([Tensor([1.0], requires_grad=True)], lr=1.0)
    >>> warm_up, decay = LinearLR(optimizer, 0.25, total_iters=3), ExponentialLR(optimizer, 0.5)
    >>> scheduler, rates = SequentialLR(optimizer, [warm_up, decay], [3]), []
    >>> for _ in range(6):
    ...     rates += scheduler.get_last_lr()
    ...     scheduler.step()
    >>> rates
    [0.25, 0.5, 0.75, 1.0, 0.5, 0.25]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        if len(milestones) != len(schedulers) - 1 or list(milestones) != sorted(milestones):
            raise ValueError(
                f"SequentialLR: milestones={list(milestones)} must be the steps, in order, at which the second and "
                f"later ones of {len(schedulers)} schedulers take over"
            )
        for one in schedulers:
            if not isinstance(one, LRScheduler) or one.optimizer is not optimizer:
                raise ValueError(
                    f"SequentialLR: a {type(one).__name__} cannot be one of the schedulers: they must be functions of "
                    "the step, and of the same optimizer"
                )
        self.schedulers = list(schedulers)
        self.milestones = list(milestones)
        super().__init__(optimizer, last_epoch)

    def _set_rates(self) -> None:
        which = bisect_right(self.milestones, self.last_epoch)
        current = self.schedulers[which]
        current.last_epoch = self.last_epoch - (self.milestones[which - 1] if which else 0)
        current._set_rates()


class OneCycleLR(LRScheduler):
    """Up from ``max_lr / div_factor`` to ``max_lr``, then down to the start divided by ``final_div_factor``.

    The momentum (of Adam, the first beta) goes the opposite way. Give ``total_steps``, or ``epochs`` and
    ``steps_per_epoch``.
    Source: Smith & Topin, arXiv:1708.07120.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: give total_steps, or both epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        if total_steps < 1:
            raise ValueError(f"OneCycleLR: total_steps={total_steps} must be at least 1")
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: pct_start={pct_start} must be in 0 … 1")
        if anneal_strategy not in CURVES:
            raise ValueError(f"OneCycleLR: anneal_strategy={anneal_strategy!r} must be one of {list(CURVES)}")
        self.total_steps = total_steps
        self.anneal_strategy = anneal_strategy
        self.max_lrs = _one_each("OneCycleLR", "values of max_lr", max_lr, optimizer)
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        self.momenta = (base_momentum, max_momentum) if cycle_momentum else None
        self.ends = _cycle_ends(total_steps, pct_start, three_phase)
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: int) -> float:
        """A rise, and one or two falls."""
        top = self.max_lrs[index]
        start = top / self.div_factor
        levels = [start, top, *([start] if len(self.ends) == 3 else []), start / self.final_div_factor]
        return self._along(levels, epoch)

    def step(self, epoch: int | None = None) -> None:
        """Go on by one, or to ``epoch``."""
        following = self.last_epoch + 1 if epoch is None else epoch
        if following >= self.total_steps:
            raise ValueError(f"OneCycleLR: step {following + 1} of {self.total_steps}: the cycle is over")
        super().step(epoch)

    def _set_rates(self) -> None:
        super()._set_rates()
        if self.momenta is not None:
            low, high = self.momenta
            levels = [high, low, *([high] if len(self.ends) == 3 else []), high]
            for group in self.optimizer.param_groups:
                _set_momentum("OneCycleLR", group, self._along(levels, self.last_epoch))

    def _along(self, levels: list[float], epoch: int) -> float:
        """Between the two levels whose phase holds the step."""
        begin = 0.0
        for before, after, end in zip(levels, levels[1:], self.ends, strict=True):
            if epoch <= end or end == self.ends[-1]:
                return CURVES[self.anneal_strategy](
                    before, after, (epoch - begin) / (end - begin) if end > begin else 1.0
                )
            begin = end
        raise AssertionError("the last phase holds every step that is left")


class CyclicLR(LRScheduler):
    """Up and down between ``base_lr`` and ``max_lr``, in ``step_size_up`` and ``step_size_down`` steps, for ever.

    Peaks are as high each time ("triangular"), half as high ("triangular2"), fall by ``gamma`` a step ("exp_range"), or
    are scaled by ``scale_fn`` of the cycle or of the step, as ``scale_mode`` says ("cycle", "iterations"). The momentum
    (of Adam, the first beta) goes the opposite way.

    Source: Smith, arXiv:1506.01186.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | Sequence[float],
        max_lr: float | Sequence[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float = 0.8,
        max_momentum: float = 0.9,
        last_epoch: int = -1,
    ) -> None:
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError(f"CyclicLR: mode={mode!r} must be 'triangular', 'triangular2' or 'exp_range'")
        if scale_mode not in ("cycle", "iterations"):
            raise ValueError(f"CyclicLR: scale_mode={scale_mode!r} must be 'cycle' or 'iterations'")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"CyclicLR: optimizer must be an Optimizer, not {type(optimizer).__name__}")
        low = _one_each("CyclicLR", "values of base_lr", base_lr, optimizer)
        if last_epoch == -1:
            for group, rate in zip(optimizer.param_groups, low, strict=True):
                group["lr"] = group["initial_lr"] = rate
        self.max_lrs = _one_each("CyclicLR", "values of max_lr", max_lr, optimizer)
        self.up, self.down = step_size_up, step_size_up if step_size_down is None else step_size_down
        if self.up < 1 or self.down < 0:
            raise ValueError(f"CyclicLR: step_size_up={self.up} must be at least 1, step_size_down={self.down} 0")
        self.mode, self.gamma, self.scale_fn, self.scale_mode = mode, gamma, scale_fn, scale_mode
        self.momenta = (base_momentum, max_momentum) if cycle_momentum else None
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: int) -> float:
        """A saw."""
        return _line(self.base_lrs[index], self.max_lrs[index], self._height(epoch))

    def _set_rates(self) -> None:
        super()._set_rates()
        if self.momenta is not None:
            low, high = self.momenta
            for group in self.optimizer.param_groups:
                _set_momentum("CyclicLR", group, _line(high, low, self._height(self.last_epoch)))

    def _height(self, epoch: int) -> float:
        """The part of the way from base to max."""
        cycle, inside = divmod(epoch, self.up + self.down)
        part = inside / self.up if inside <= self.up else (self.up + self.down - inside) / self.down
        return part * self._scale(cycle + 1, epoch)

    def _scale(self, cycle: int, epoch: int) -> float:
        if self.scale_fn is not None:
            return self.scale_fn(cycle if self.scale_mode == "cycle" else epoch)
        powers = {"triangular": 1.0, "triangular2": 0.5 ** (cycle - 1), "exp_range": self.gamma**epoch}
        return float(powers[self.mode])


class ReduceLROnPlateau:
    """The rate times ``factor`` when a figure has not got better for more than ``patience`` steps."""

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if not 0 <= factor < 1:
            raise ValueError(f"ReduceLROnPlateau: factor={factor} must be in 0 … 1, without 1")
        if mode not in ("min", "max"):
            raise ValueError(f"ReduceLROnPlateau: mode={mode!r} must be 'min' or 'max'")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"ReduceLROnPlateau: threshold_mode={threshold_mode!r} must be 'rel' or 'abs'")
        self.optimizer = optimizer
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.min_lr = min_lr
        self.eps = eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0
        self.last_epoch = 0

    def step(self, metrics: float) -> None:
        """Go on by one with the figure of this step."""
        value = float(metrics)
        self.last_epoch += 1
        is_better = self._is_better(value)
        self.best = value if is_better else self.best
        self.num_bad_epochs = 0 if is_better else self.num_bad_epochs + 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0

    def _is_better(self, value: float) -> bool:
        sign = 1 if self.mode == "min" else -1
        if self.threshold_mode == "abs":
            return sign * value < sign * self.best - self.threshold
        # PyTorch's rule, which for negative figures moves the bar the other way.
        return sign * value < sign * self.best * (1 - sign * self.threshold)

    def _reduce(self) -> None:
        for group in self.optimizer.param_groups:
            rate = max(group["lr"] * self.factor, self.min_lr)
            if group["lr"] - rate > self.eps:
                group["lr"] = rate

    def get_last_lr(self) -> list[float]:
        """The rate of each group now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer."""
        return {key: value for key, value in vars(self).items() if key != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to where another scheduler was. The rates themselves are the optimizer's state."""
        vars(self).update(state_dict)


def _one_each(caller: str, what: str, given: Any, optimizer: Optimizer) -> list[Any]:
    """One value for each group: those given, or the same for all."""
    count = len(optimizer.param_groups)
    found = list(given) if isinstance(given, Sequence) else [given] * count
    if len(found) != count:
        raise ValueError(f"{caller}: {len(found)} {what} for {count} groups of parameters")
    return found


def _steps(caller: str, total_iters: int) -> int:
    if total_iters < 1:
        raise ValueError(f"{caller}: total_iters={total_iters} must be at least 1")
    return total_iters


def _cosine(before: float, after: float, part: float) -> float:
    return after + (before - after) * (1 + math.cos(math.pi * part)) / 2


def _line(before: float, after: float, part: float) -> float:
    return before + (after - before) * part


CURVES = {"cos": _cosine, "linear": _line}


def _cycle_ends(total_steps: int, pct_start: float, three_phase: bool) -> list[float]:
    """The steps at which the phases end."""
    rise = pct_start * total_steps - 1
    return [rise, 2 * rise, total_steps - 1] if three_phase else [rise, total_steps - 1]


def _set_momentum(caller: str, group: Group, momentum: float) -> None:
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    elif "momentum" in group:
        group["momentum"] = momentum
    else:
        raise ValueError(f"{caller}: cycle_momentum=True needs an optimizer with momentum or betas")


__getattr__ = missing("lucid.optim.lr_scheduler")
