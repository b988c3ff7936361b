"""A training run that can stop after any batch and go on later as if nothing had happened.

Everything the next batch depends on is in the checkpoint: weights, optimizer, schedule, random state and the position.
The order of an epoch's samples follows from the seed and the epoch's number. Results are the same bits for every thread
count, so a run may go on with another.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import lucid
from lucid import io, nn, optim
from lucid.cli.datasets import Data, FloatArray, IntArray
from lucid.cli.errors import CommandError
from lucid.cli.tasks import TASKS, Recipe, Task
from lucid.core.errors import FormatError

FORMAT = "lucid training run 1"
KEYS = {"format", "task", "recipe", "position", "history", "random", "model", "optimizer", "schedule"}
EVALUATION_BATCH = 256


@dataclass(slots=True)
class Tally:
    """Loss and hits, summed over samples."""

    loss: float = 0.0
    right: int = 0
    seen: int = 0

    def add(self, loss: float, right: int, count: int) -> None:
        self.loss += loss * count
        self.right += right
        self.seen += count

    @property
    def mean_loss(self) -> float:
        return self.loss / max(self.seen, 1)

    @property
    def accuracy(self) -> float:
        return self.right / max(self.seen, 1)


@dataclass(frozen=True, slots=True)
class Epoch:
    """A row of the table. Accuracies are shares; the training ones were taken while the weights moved."""

    number: int
    loss: float
    accuracy: float
    held_out_loss: float
    held_out_accuracy: float
    lr: float
    seconds: float


@dataclass(slots=True)
class Position:
    """Epochs finished, batches done of the next one, and what those batches added up to."""

    epoch: int = 0
    batch: int = 0
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0


class Run:
    """A network being trained on a task by a recipe."""

    def __init__(self, task: Task, recipe: Recipe, data: Data) -> None:
        lucid.manual_seed(recipe.seed)
        self.task, self.recipe, self.data = task, recipe, data
        self.network = task.network()
        self.optimizer = optim.AdamW(self.network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.schedule = optim.lr_scheduler.StepLR(self.optimizer, step_size=1, gamma=recipe.decay)
        self.criterion = nn.CrossEntropyLoss()
        self.position = Position()
        self.history: list[Epoch] = []

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.data.train_x) // self.recipe.batch_size)

    @property
    def finished(self) -> bool:
        return self.position.epoch >= self.recipe.epochs

    def steps(self) -> Iterator[Tally]:
        """Train on the batches left of this epoch; what they add up to so far, after each."""
        self.network.train()
        order = np.random.default_rng((self.recipe.seed, self.position.epoch)).permutation(len(self.data.train_x))
        size = self.recipe.batch_size
        while self.position.batch < self.batches:
            begin = time.perf_counter()
            chosen = order[self.position.batch * size :][:size]
            self._step(self.data.train_x[chosen], self.data.train_y[chosen])
            self.position.batch += 1
            self.position.seconds += time.perf_counter() - begin
            yield self.position.tally

    def _step(self, x: FloatArray, y: IntArray) -> None:
        truth = lucid.from_numpy(y)
        self.optimizer.zero_grad()
        scores = self.network(lucid.from_numpy(x))
        loss = self.criterion(scores, truth)
        loss.backward()
        self.optimizer.step()
        self.position.tally.add(loss.item(), int((scores.numpy(force=True).argmax(1) == y).sum()), len(y))

    def finish_epoch(self) -> Epoch:
        """Evaluate, lower the learning rate, and begin the next epoch."""
        held_out, _ = evaluate(self.network, self.data.test_x, self.data.test_y)
        done, lr = self.position, self.optimizer.param_groups[0]["lr"]
        row = Epoch(
            number=done.epoch + 1,
            loss=done.tally.mean_loss,
            accuracy=done.tally.accuracy,
            held_out_loss=held_out.mean_loss,
            held_out_accuracy=held_out.accuracy,
            lr=lr,
            seconds=done.seconds,
        )
        self.schedule.step()
        self.history.append(row)
        self.position = Position(epoch=done.epoch + 1)
        return row

    def save(self, path: Path) -> None:
        """Write the checkpoint; the old one stays until the new one is complete."""
        state = {
            "format": FORMAT,
            "task": self.task.name,
            "recipe": asdict(self.recipe),
            "position": asdict(self.position),
            "history": [asdict(row) for row in self.history],
            "random": lucid.get_rng_state(),
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        try:
            io.save(state, path)
        except OSError as error:
            raise CommandError(f"cannot write {path}: {error.strerror}; make room, or choose another --out") from None

    @classmethod
    def restored(cls, checkpoint: Checkpoint, data: Data, recipe: Recipe) -> Run:
        """The run as it was when the checkpoint was written; ``recipe`` may ask for more epochs."""
        run, state = cls(checkpoint.task, recipe, data), checkpoint.state
        checkpoint.load_into(run.network)
        run.optimizer.load_state_dict(state["optimizer"])
        run.schedule.load_state_dict(state["schedule"])
        position = state["position"]
        run.position = Position(**position | {"tally": Tally(**position["tally"])})
        run.history = [Epoch(**row) for row in state["history"]]
        lucid.set_rng_state(state["random"])
        return run


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file that a run wrote."""

    path: Path
    task: Task
    recipe: Recipe
    state: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        try:
            state = io.load(path)
        except FileNotFoundError:
            raise CommandError(f"there is no checkpoint {path}; train one with: lucid train digits") from None
        except IsADirectoryError:
            raise CommandError(f"{path} is a folder; name the checkpoint.safetensors in it") from None
        except FormatError as error:
            raise CommandError(f"{error}; train again, or name another checkpoint") from None
        whole = isinstance(state, dict) and state.keys() >= KEYS
        if not whole or state["format"] != FORMAT or state["task"] not in TASKS:
            raise CommandError(f"{path} was not written by lucid train; make such a file with: lucid train digits")
        return cls(path, TASKS[state["task"]], Recipe(**state["recipe"]), state)

    def network(self) -> nn.Module:
        """The trained network, ready to predict."""
        network = self.task.network()
        self.load_into(network)
        return network.eval()

    def load_into(self, network: nn.Module) -> None:
        """Give the network the weights of the checkpoint."""
        try:
            network.load_state_dict(self.state["model"])
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise CommandError(f"{self.path} is of another version: {reason}; train again") from None


def probabilities(network: nn.Module, x: FloatArray) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What the network gives each class of each sample; rows sum to one."""
    network.eval()
    with lucid.inference_mode():
        scores = [
            network(lucid.from_numpy(x[i : i + EVALUATION_BATCH])).numpy() for i in range(0, len(x), EVALUATION_BATCH)
        ]
    logits = np.concatenate(scores).astype(np.float64)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares: np.ndarray[Any, np.dtype[np.float64]] = powers / powers.sum(1, keepdims=True)
    return shares


def evaluate(network: nn.Module, x: FloatArray, y: IntArray) -> tuple[Tally, np.ndarray[Any, np.dtype[np.float64]]]:
    """Loss and hits on known samples, and the probabilities they come from."""
    found = probabilities(network, x)
    likelihood = found[np.arange(len(y)), y]
    tally = Tally()
    tally.add(float(-np.log(np.maximum(likelihood, 1e-300)).mean()), int((found.argmax(1) == y).sum()), len(y))
    return tally, found
