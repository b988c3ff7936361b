"""``lucid predict`` on held-out samples, on one of them, and on files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lucid.cli.run import Checkpoint, probabilities
from lucid.cli.tasks import Task

Command = Callable[[str], int]
CHECKPOINT = "runs/digits/checkpoint.safetensors"


@pytest.fixture
def trained(lucid_command: Command, capsys: pytest.CaptureFixture[str]) -> Command:
    lucid_command("train digits")
    capsys.readouterr()
    return lucid_command


def test_held_out_samples(trained: Command, task: Task, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained(f"predict {CHECKPOINT}") == 0
    first, *rest = capsys.readouterr().out.splitlines()
    data = task.load()
    guess = probabilities(Checkpoint.read(Path(CHECKPOINT)).network(), data.test_x).argmax(1)
    right = int((guess == data.test_y).sum())
    assert first == f"{task.title}: {right} of 50 held-out samples right, {right / 50:.2%}".replace("%", " %")
    assert len(rest) == min(50 - right, 10) + (right < 50)


def test_one_held_out_sample(trained: Command, task: Task, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained(f"predict {CHECKPOINT} 3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"held-out sample 3: digit {task.load().test_y[3]}"
    assert all(len(line) == 2 + 16 for line in lines[1:9])
    assert len(lines) == 1 + 8 + 10 + 1


def test_a_file_agrees_with_the_sample_in_it(trained: Command, task: Task, capsys: pytest.CaptureFixture[str]) -> None:
    image = task.load().test_x[3, 0] * 16
    np.save("image.npy", image)
    np.savetxt("image.csv", image, delimiter=",")
    trained(f"predict {CHECKPOINT} 3")
    expected = capsys.readouterr().out.splitlines()[1:]
    for name in ("image.npy", "image.csv"):
        assert trained(f"predict {CHECKPOINT} {name}") == 0
        assert capsys.readouterr().out.splitlines() == expected


def test_many_samples_take_a_line_each(trained: Command, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("many.npy", np.zeros((23, 8, 8)))
    assert trained(f"predict {CHECKPOINT} many.npy") == 0
    lines = capsys.readouterr().out.splitlines()
    assert (len(lines), lines[-1]) == (21, "… and 3 more")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("none.npy", None, "there is no file none.npy"),
        ("text.csv", b"a,b\n", "does not hold an array"),
        ("broken.npy", b"x", "does not hold an array"),
        ("empty.npy", b"", "does not hold an array"),
        ("flat.csv", b"1,2,3\n", "8×8 image"),
        ("nan.csv", b"\n".join([b",".join([b"nan"] * 8)] * 8), "finite numbers"),
    ],
)
def test_a_bad_file_is_one_line(
    trained: Command, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, complaint: str
) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    assert trained(f"predict {CHECKPOINT} {name}") == 2
    printed = capsys.readouterr().err
    assert complaint in printed and printed.count("\n") == 1


def test_a_number_too_large_is_told_the_range(trained: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained(f"predict {CHECKPOINT} 50") == 2
    assert "they are 0 … 49" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error(trained: Command) -> None:
    command = [sys.executable, "-m", "lucid", "predict", CHECKPOINT, "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)


def test_a_missing_checkpoint_is_told_how_to_make_one(
    lucid_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lucid_command("predict nothing.safetensors") == 2
    assert "train one with: lucid train digits" in capsys.readouterr().err
