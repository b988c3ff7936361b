"""A library in a process of its own: stopped between turns, and honest about what it raised."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lucid.cli.bench.problem import suite
from lucid.cli.bench.turns import Effort, take_turns
from lucid.cli.bench.worker import Worker, WorkerError


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker("lucid", threads=1)
    yield made
    made.close()


def state(worker: Worker) -> str:
    """The process's state letter, once it has had time to change."""
    time.sleep(0.05)
    text = Path(f"/proc/{worker.process_id}/stat").read_text()
    return text.rpartition(")")[2].split()[0]


def test_a_paused_process_is_stopped_and_goes_on(worker: Worker) -> None:
    worker.pause()
    assert state(worker) == "T"
    worker.resume()
    assert state(worker) != "T"
    assert worker.ask("version")


def test_turns_take_the_rounds_asked_for_and_leave_the_process_running(worker: Worker) -> None:
    (layer,) = suite("conv1d tiny")
    worker.ask("prepare", layer, False)
    times = take_turns({"lucid": worker}, Effort(rounds=4, seconds=0.0, ceiling_s=20.0, turn_s=0.001))
    assert len(times["lucid"]) == 4 and all(0 < seconds < 0.1 for seconds in times["lucid"])
    assert state(worker) != "T"


def test_what_the_library_raises_is_the_parents_to_hear(worker: Worker) -> None:
    with pytest.raises(WorkerError, match=r"lucid: (?s:.*)AttributeError"):
        worker.ask("prepare", None, False)
    assert worker.ask("version")


def test_a_process_that_died_says_so() -> None:
    dead = Worker("lucid", threads=1)
    os.kill(dead.process_id, signal.SIGKILL)
    with pytest.raises(WorkerError, match="lucid died with status -9"):
        dead.ask("version")
    dead.close()
