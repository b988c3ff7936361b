"""Each demo task learns what it should from seed 0, in its own number of epochs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lucid.cli.main import main
from lucid.cli.run import Checkpoint


@pytest.mark.parametrize(("task", "samples", "least"), [("digits", 450, 0.99), ("vowels", 370, 0.97)])
def test_held_out_accuracy(task: str, samples: int, least: float, tmp_path: Path) -> None:
    assert main(["train", task, "--out", str(tmp_path)]) == 0
    checkpoint = Checkpoint.read(tmp_path / "checkpoint.safetensors")
    assert len(checkpoint.task.load().test_y) == samples
    assert checkpoint.state["history"][-1]["held_out_accuracy"] >= least
