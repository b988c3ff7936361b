"""Mixed precision under PyTorch's names: ``autocast``, and a ``GradScaler`` that keeps small gradients in float16.

>>> import lucid
>>> w = lucid.tensor([1.0], requires_grad=True)
>>> optimizer, scaler = lucid.optim.SGD([w], lr=0.5), GradScaler(init_scale=1024.0)
>>> scaler.scale((2 * w).sum()).backward()
>>> w.grad
Tensor([2048.])
>>> scaler.step(optimizer)
>>> scaler.update()
>>> w
Tensor([0.], requires_grad=True)
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np

from lucid import cuda
from lucid.core import quiet
from lucid.core.dtypes import DTypeLike
from lucid.ops.autocast import autocast, is_autocast_enabled
from lucid.tensor import Device, Tensor

__all__ = ["GradScaler", "autocast", "is_autocast_enabled"]


class GradScaler:
    """Multiplies losses by a number that is as large as gradients in float16 allow, and divides the gradients by it.

    Where a gradient is not finite the step is left out and the number is multiplied by ``backoff_factor``; after
    ``growth_interval`` steps in a row that were not, by ``growth_factor``. bfloat16, which ``autocast`` takes by
    default, needs none of it; with ``enabled=False`` nothing is done.

    Source: Micikevicius et al., arXiv:1710.03740.
    """

    def __init__(
        self,
        device: Device | str = "cpu",
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if enabled:
            Device(device)
        if not growth_factor > 1 > backoff_factor:
            raise ValueError(
                f"GradScaler: growth_factor={growth_factor} must be above 1, backoff_factor={backoff_factor} below"
            )
        self._enabled = enabled
        self._scale = float(init_scale)
        self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
        self._growth_interval, self._growth_tracker = growth_interval, 0
        self._finite: dict[int, bool] = {}  # the optimizers whose gradients are divided already
        self._stepped: set[int] = set()

    def is_enabled(self) -> bool:
        """Whether it does anything."""
        return self._enabled

    def get_scale(self) -> float:
        """What losses are multiplied by."""
        return self._scale if self._enabled else 1.0

    def scale(self, outputs: Any) -> Any:
        """A loss, or several, times the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return outputs * self._scale
        return type(outputs)(self.scale(one) for one in outputs)

    def unscale_(self, optimizer: Any) -> None:
        """Divide the gradients of an optimizer's parameters by the scale: before they are clipped, once a step."""
        if not self._enabled:
            return
        if id(optimizer) in self._finite:
            raise RuntimeError("GradScaler: unscale_() was called twice for this optimizer since the last update()")
        finite = True
        with quiet.numpy():
            for gradient in _gradients(optimizer):
                array = gradient._array
                np.multiply(array, array.dtype.type(1 / self._scale), out=array)
                gradient._version[0] += 1
                finite = finite and bool(np.isfinite(array).all())
        self._finite[id(optimizer)] = finite

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """``optimizer.step``, unless a gradient is not finite; the gradients are divided first if they are not yet."""
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if id(optimizer) in self._stepped:
            raise RuntimeError("GradScaler: step() was called twice for this optimizer since the last update()")
        if id(optimizer) not in self._finite:
            self.unscale_(optimizer)
        self._stepped.add(id(optimizer))
        return optimizer.step(*args, **kwargs) if self._finite[id(optimizer)] else None

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Change the scale by what the steps since the last call met, or to ``new_scale``."""
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale = float(new_scale)
        elif not self._finite:
            raise RuntimeError("GradScaler: update() needs a step() or unscale_() before it")
        elif all(self._finite.values()):
            self._growth_tracker += 1
            if self._growth_tracker == self._growth_interval:
                self._scale, self._growth_tracker = self._scale * self._growth_factor, 0
        else:
            self._scale, self._growth_tracker = self._scale * self._backoff_factor, 0
        self._finite.clear()
        self._stepped.clear()

    def state_dict(self) -> dict[str, Any]:
        """The scale and how it changes; empty where nothing is done."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what another one was."""
        if not self._enabled:
            return
        if not state_dict:
            raise ValueError("GradScaler: the state is empty, as that of one with enabled=False is")
        self._scale = float(state_dict["scale"])
        self._growth_factor, self._backoff_factor = state_dict["growth_factor"], state_dict["backoff_factor"]
        self._growth_interval, self._growth_tracker = state_dict["growth_interval"], state_dict["_growth_tracker"]


def _gradients(optimizer: Any) -> Iterable[Any]:
    return (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)


class _OfCuda(GradScaler):
    """``cuda.amp.GradScaler``: there is no GPU, so nothing is done, as in PyTorch without one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(enabled=False)


class _AutocastOfCuda(autocast):
    """``cuda.amp.autocast``: likewise."""

    def __init__(self, enabled: bool = True, dtype: DTypeLike = None, cache_enabled: bool = True) -> None:
        super().__init__("cpu", None, False, cache_enabled)


def _module(name: str, parent: Any, **content: Any) -> None:
    """What ``import`` finds under the name, too."""
    full = f"{parent.__name__}.{name}"
    made = sys.modules[full] = ModuleType(full, __doc__)
    vars(made).update(content)
    vars(parent)[name] = made


_module("autocast_mode", sys.modules[__name__], autocast=autocast)
_module("grad_scaler", sys.modules[__name__], GradScaler=GradScaler)
_module("amp", cuda, GradScaler=_OfCuda, autocast=_AutocastOfCuda)
