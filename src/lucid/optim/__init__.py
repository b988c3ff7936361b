"""Optimizers and learning-rate schedules."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lucid.core.absent import missing
from lucid.optim import lr_scheduler
from lucid.optim.adagrad import Adadelta, Adagrad
from lucid.optim.adam import Adam, AdamW
from lucid.optim.adam_variants import Adamax, NAdam, RAdam
from lucid.optim.optimizer import Optimizer
from lucid.optim.rmsprop import RMSprop
from lucid.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "lr_scheduler",
    "swa_utils",
]


def _loaded(name: str) -> Any:
    """``swa_utils`` knows layers, which optimizers do not: loaded when first used."""
    if name == "swa_utils":
        return import_module("lucid.optim.swa_utils")
    raise AttributeError(f"module 'lucid.optim' has no attribute {name!r}")


__getattr__ = missing("lucid.optim", _loaded)
