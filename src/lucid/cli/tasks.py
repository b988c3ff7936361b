"""What ``lucid train`` can train, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lucid.cli import datasets
from lucid.cli.datasets import Data, FloatArray
from lucid.models import DigitsNet, VowelsNet
from lucid.nn import Module


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. The learning rate shrinks by ``decay`` after every epoch, however many there will be."""

    epochs: int
    lr: float
    batch_size: int
    seed: int = 0
    decay: float = 0.9
    weight_decay: float = 0.01


@dataclass(frozen=True, slots=True)
class Task:
    """A data set, the network for it and how to train that. ``encode`` makes a user's array a batch."""

    name: str
    title: str
    load: Callable[[], Data]
    encode: Callable[[np.ndarray[Any, Any]], FloatArray]
    network: Callable[[], Module]
    recipe: Recipe
    classes: tuple[str, ...]
    kind: str


TASKS = {
    task.name: task
    for task in (
        Task(
            name="digits",
            title="handwritten digits, 8×8 images",
            load=datasets.digits,
            encode=datasets.digit_images,
            network=DigitsNet,
            recipe=Recipe(epochs=15, lr=3e-3, batch_size=64, decay=0.85),
            classes=tuple("0123456789"),
            kind="digit",
        ),
        Task(
            name="vowels",
            title="nine speakers saying /ae/, 12-channel signals",
            load=datasets.vowels,
            encode=datasets.utterance,
            network=VowelsNet,
            recipe=Recipe(epochs=30, lr=3e-3, batch_size=16, decay=0.9),
            classes=tuple("123456789"),
            kind="speaker",
        ),
    )
}
