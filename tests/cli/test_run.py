"""A run that stops anywhere and goes on ends in the same bits as one that never stopped."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lucid
from lucid.cli.errors import CommandError
from lucid.cli.run import FORMAT, KEYS, Checkpoint, Run, Tally, evaluate, probabilities
from lucid.cli.tasks import Task
from lucid.io import save
from tests.cli.conftest import BATCHES


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested dicts and lists, arrays as bytes."""
    if isinstance(tree, dict):
        return {k: v for key, value in tree.items() for k, v in flat(value, f"{path}.{key}").items()}
    if isinstance(tree, list | tuple):
        return {k: v for i, value in enumerate(tree) for k, v in flat(value, f"{path}.{i}").items()}
    return {path: np.asarray(tree.detach()).tobytes() if isinstance(tree, lucid.Tensor) else tree}


def everything(run: Run) -> dict[str, Any]:
    """All that later steps depend on, and the table but for its seconds."""
    return flat(
        {
            "model": run.network.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "schedule": run.schedule.state_dict(),
            "random": lucid.get_rng_state(),
            "history": [replace(row, seconds=0.0).__repr__() for row in run.history],
        }
    )


def advance(run: Run, batches: int) -> None:
    """So many batches on, finishing the epochs on the way."""
    while batches and not run.finished:
        for _ in run.steps():
            batches -= 1
            if not batches:
                break
        if run.position.batch == run.batches:
            run.finish_epoch()


@pytest.fixture(scope="module")
def straight() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize("stops", [(1,), (BATCHES - 1,), (BATCHES,), (BATCHES + 2,), (2, 1, 4)])
def test_resumed_is_straight_to_the_bit(
    task: Task, tmp_path: Path, stops: tuple[int, ...], straight: dict[str, Any]
) -> None:
    data, path = task.load(), tmp_path / "c.safetensors"
    if not straight:
        run = Run(task, task.recipe, data)
        advance(run, 2 * BATCHES)
        straight.update(everything(run))
    run = Run(task, task.recipe, data)
    for batches in stops:
        advance(run, batches)
        run.save(path)
        lucid.manual_seed(99)  # what happens in between must not matter
        run = Run.restored(Checkpoint.read(path), data, task.recipe)
    advance(run, 2 * BATCHES)
    assert everything(run) == straight


def test_a_seed_decides_everything(task: Task) -> None:
    found = []
    for seed in (0, 0, 1):
        run = Run(task, replace(task.recipe, seed=seed), task.load())
        advance(run, 3)
        found.append(everything(run))
    assert found[0] == found[1]
    assert found[0][".model.0.weight"] != found[2][".model.0.weight"]


def test_threads_change_no_bit(task: Task) -> None:
    before, found = lucid.get_num_threads(), []
    for threads in (1, 2, 3):
        lucid.set_num_threads(threads)
        run = Run(task, task.recipe, task.load())
        advance(run, 3)
        found.append(everything(run))
    lucid.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_every_sample_is_seen_once_an_epoch(task: Task) -> None:
    run = Run(task, task.recipe, task.load())
    *_, tally = run.steps()
    assert tally.seen == len(run.data.train_x)
    assert run.position.batch == run.batches == BATCHES


def test_the_learning_rate_falls_every_epoch(task: Task) -> None:
    run = Run(task, task.recipe, task.load())
    advance(run, 2 * BATCHES)
    assert [row.lr for row in run.history] == pytest.approx([3e-3, 3e-3 * 0.85])


def test_tally_weighs_by_samples() -> None:
    tally = Tally()
    tally.add(1.0, 1, 1)
    tally.add(2.0, 0, 3)
    assert (tally.mean_loss, tally.accuracy) == (1.75, 0.25)


def test_probabilities_agree_with_softmax(task: Task) -> None:
    run = Run(task, task.recipe, task.load())
    x = np.concatenate([run.data.test_x] * 6)  # more than one evaluation batch
    scores = run.network.eval()(lucid.from_numpy(x)).detach().numpy().astype(np.float64)
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities(run.network, x), expected, rtol=1e-5)
    tally, _ = evaluate(run.network, run.data.test_x, run.data.test_y)
    assert tally.mean_loss == pytest.approx(-np.log(expected[np.arange(50), run.data.test_y]).mean(), rel=1e-5)
    assert tally.right == (expected[:50].argmax(1) == run.data.test_y).sum()


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="there is no checkpoint"):
        Checkpoint.read(tmp_path / "none.safetensors")
    with pytest.raises(CommandError, match="is a folder"):
        Checkpoint.read(tmp_path)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(CommandError, match=r"broken\.safetensors"):
        Checkpoint.read(broken)
    foreign = tmp_path / "foreign.safetensors"
    for state in ({"weight": lucid.zeros(2)}, {"format": FORMAT}, dict.fromkeys(KEYS, "chess")):
        save(state, foreign)
        with pytest.raises(CommandError, match="was not written by lucid train"):
            Checkpoint.read(foreign)


def test_weights_of_another_network_are_refused(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    run = Run(task, task.recipe, task.load())
    run.network = lucid.nn.Sequential(lucid.nn.Linear(3, 4))
    run.save(path)
    with pytest.raises(CommandError, match=r"is of another version: .*Missing key.*; train again"):
        Checkpoint.read(path).network()


def test_a_failing_disk_leaves_the_old_checkpoint(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    run = Run(task, task.recipe, task.load())
    run.save(path)
    before = path.read_bytes()
    advance(run, 1)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CommandError, match=r"cannot write .*c\.safetensors: No space left on device"):
        run.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
