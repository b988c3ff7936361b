"""Averages of a network's weights along its training, and what goes with them.

>>> import lucid
>>> from lucid import nn, optim
>>> model = nn.Linear(1, 1, bias=False)
>>> average = optim.swa_utils.AveragedModel(model, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.75))
>>> for weight in (0.0, 4.0, 4.0):
...     _ = nn.init.constant_(model.weight, weight)  # in place of a training step
...     average.update_parameters(model)
>>> average(lucid.ones(1)).item()
1.75
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

from lucid.autograd import no_grad
from lucid.core import quiet
from lucid.nn.modules.module import Module
from lucid.nn.modules.normalization import _BatchNorm
from lucid.optim.lr_scheduler import CURVES, LRScheduler
from lucid.optim.optimizer import Optimizer, values
from lucid.optim.updates import sgd
from lucid.tensor import Device, Tensor

Average = Callable[[Tensor, Tensor, Any], Tensor]
"""From an average, a current value and how many were averaged to the next average."""
Averages = Callable[[Sequence[Tensor], Sequence[Tensor], Any], None]
"""The same for many tensors of one dtype, in place."""

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """The exponential moving average: ``decay`` times the average and the rest of the current value."""
    _check_decay("get_ema_avg_fn", decay)
    return no_grad()(lambda average, current, count: decay * average + (1 - decay) * current)


def get_ema_multi_avg_fn(decay: float = 0.999) -> Averages:
    """The same on lists, all tensors in one kernel."""
    _check_decay("get_ema_multi_avg_fn", decay)
    return lambda averages, currents, count: _move(averages, currents, 1 - decay)


def get_swa_avg_fn() -> Average:
    """The mean of all values."""
    return no_grad()(lambda average, current, count: average + (current - average) / (count + 1))


def get_swa_multi_avg_fn() -> Averages:
    """The same on lists, all tensors in one kernel."""
    return lambda averages, currents, count: _move(averages, currents, 1 / (int(count) + 1))


def _check_decay(caller: str, decay: float) -> None:
    if not 0 <= decay <= 1:
        raise ValueError(f"{caller}: decay={decay} must be in 0 … 1")


@no_grad()
def _move(averages: Sequence[Tensor], currents: Sequence[Tensor], part: float) -> None:
    """Move each average that part of the way to its current value: a step down the slope of half their distance²."""
    if not averages[0].dtype.is_differentiable:
        for average, current in zip(averages, currents, strict=True):
            average.copy_(average + part * (current - average))
        return
    first = [False] * len(averages)
    options = {"momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 1.0, "maximize": True}
    with quiet.numpy():
        sgd(values(list(averages)), values(list(currents)), None, first, lr=part, **options)
    for average in averages:
        average._version[0] += 1


class AveragedModel(Module):
    """A copy of a model whose parameters are averages of those the model had at each ``update_parameters``.

    The mean, or what ``avg_fn`` (tensor by tensor) or ``multi_avg_fn`` (lists of tensors of one dtype, in place) makes
    of average, current value and number of values so far. Buffers are the model's latest, with ``use_buffers`` averages
    too. The state has the names of the model behind "module.", and "n_averaged".

    Source: Izmailov et al., arXiv:1803.05407.
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: Module,
        device: Device | str | None = None,
        avg_fn: Average | None = None,
        multi_avg_fn: Averages | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise ValueError("AveragedModel: give avg_fn or multi_avg_fn, not both")
        if not isinstance(model, Module):
            raise TypeError(f"AveragedModel: model must be an nn.Module, not {type(model).__name__}")
        self.module = deepcopy(model).to(device=device)
        self.register_buffer("n_averaged", Tensor(0))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model with the averages computes."""
        return self.module(*args, **kwargs)

    @no_grad()
    def update_parameters(self, model: Module) -> None:
        """Take the model's parameters, as they are now, into the average; the first ones are it."""
        pairs = list(zip(self._averaged(self.module), self._averaged(model), strict=True))
        if int(self.n_averaged) == 0:
            _copy(pairs)
        elif self.avg_fn is not None:
            _copy([(mine, self.avg_fn(mine, theirs, self.n_averaged)) for mine, theirs in pairs])
        else:
            average = self.multi_avg_fn or get_swa_multi_avg_fn()
            for dtype in dict.fromkeys(mine.dtype for mine, _ in pairs):
                alike = [pair for pair in pairs if pair[0].dtype is dtype]
                average([mine for mine, _ in alike], [theirs.to(dtype) for _, theirs in alike], self.n_averaged)
        if not self.use_buffers:
            _copy(zip(self.module.buffers(), model.buffers(), strict=True))
        self.n_averaged += 1

    def _averaged(self, model: Module) -> list[Tensor]:
        buffers = model.buffers() if self.use_buffers else ()
        return [x.detach() for x in chain(model.parameters(), buffers)]


def _copy(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    for target, source in pairs:
        target.detach().copy_(source)


@no_grad()
def update_bn(loader: Iterable[Any], model: Module, device: Device | str | None = None) -> None:
    """Give all batch norms of a model the statistics of the data: after averaging, they have none of their own.

    ``loader`` gives inputs, or lists or tuples that begin with one.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    momenta, trains = [norm.momentum for norm in norms], model.training
    model.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # all batches weigh alike
    for batch in loader:
        x = batch[0] if isinstance(batch, list | tuple) else batch
        model(x if device is None else x.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(trains)


class SWALR(LRScheduler):
    """From the rate at the first step to ``swa_lr`` (one, or one for each group) in ``anneal_epochs``, then level.

    Until its first ``step`` it changes nothing, so that another scheduler may lead up to it.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | Sequence[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        if anneal_strategy not in CURVES:
            raise ValueError(f"SWALR: anneal_strategy={anneal_strategy!r} must be one of {list(CURVES)}")
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"SWALR: anneal_epochs={anneal_epochs!r} must be an int of at least 0")
        groups = optimizer.param_groups
        rates = list(swa_lr) if isinstance(swa_lr, Sequence) else [swa_lr] * len(groups)
        if len(rates) != len(groups):
            raise ValueError(f"SWALR: {len(rates)} values of swa_lr for {len(groups)} groups of parameters")
        for group, rate in zip(groups, rates, strict=True):
            group["swa_lr"] = rate
        self.anneal_epochs = anneal_epochs
        self.anneal_strategy = anneal_strategy
        self.start_lrs = [group["lr"] for group in groups]
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: int) -> float:
        """A slope, then level."""
        part = min(epoch / self.anneal_epochs, 1.0) if self.anneal_epochs else 1.0
        return CURVES[self.anneal_strategy](self.start_lrs[index], self.optimizer.param_groups[index]["swa_lr"], part)

    def step(self, epoch: int | None = None) -> None:
        """Go on by one; the first one begins at the rates of that time."""
        if self.last_epoch == 0 and self.anneal_epochs:
            self.start_lrs = self.get_last_lr()
        super().step(epoch)
