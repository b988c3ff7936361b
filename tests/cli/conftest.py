"""A task small enough to train in a test, and the command run on it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lucid.cli import tasks
from lucid.cli.datasets import Data
from lucid.cli.main import main
from lucid.cli.tasks import Task

BATCHES = 5


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Task:
    """The digits, cut to five batches an epoch."""
    full = tasks.TASKS["digits"]
    data = full.load()
    few = Data(data.train_x[: 64 * BATCHES - 7], data.train_y[: 64 * BATCHES - 7], data.test_x[:50], data.test_y[:50])
    small = replace(full, load=lambda: few, recipe=replace(full.recipe, epochs=2))
    monkeypatch.setitem(tasks.TASKS, "digits", small)
    return small


@pytest.fixture
def lucid_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task) -> Callable[[str], int]:
    """The command in an empty folder, given as a line of words. It draws nothing: that takes longer than the runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "lucid.viz.report", None)
    return lambda line: main(line.split())
