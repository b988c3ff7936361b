"""``lucid train`` as a user meets it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lucid.cli import train
from lucid.cli.run import Checkpoint
from lucid.io import load_file

Command = Callable[[str], int]
CHECKPOINT = Path("runs/digits/checkpoint.safetensors")


def weights(path: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in load_file(path).items() if name.startswith("model.")}


def test_a_run_leaves_a_table_a_checkpoint_and_a_picture(
    lucid_command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "lucid.viz.report")
    assert lucid_command("train digits") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "handwritten digits, 8×8 images: 313 to learn from, 50 held out"
    assert [line.split()[0] for line in lines[4:6]] == ["1", "2"]
    assert lines[7].startswith("held-out accuracy ")
    assert lines[8:] == [f"wrote {CHECKPOINT}", f"wrote {CHECKPOINT.with_name('report.png')}"]
    assert CHECKPOINT.with_name("report.png").read_bytes().startswith(b"\x89PNG")
    assert len(Checkpoint.read(CHECKPOINT).state["history"]) == 2


def test_options_reach_the_run(lucid_command: Command) -> None:
    assert lucid_command("train digits --epochs 1 --lr 0.01 --batch-size 32 --seed 5 --threads 2 --out elsewhere") == 0
    recipe = Checkpoint.read(Path("elsewhere/checkpoint.safetensors")).recipe
    assert (recipe.epochs, recipe.lr, recipe.batch_size, recipe.seed) == (1, 0.01, 32, 5)


def test_more_epochs_are_the_longer_run(lucid_command: Command) -> None:
    assert lucid_command("train digits --epochs 2 --out straight") == 0
    assert lucid_command("train digits --epochs 1 --out parts") == 0
    assert lucid_command("train digits --epochs 2 --out parts --resume") == 0
    straight, parts = (weights(Path(out) / "checkpoint.safetensors") for out in ("straight", "parts"))
    assert straight == parts


def test_a_file_to_resume_names_the_folder(lucid_command: Command) -> None:
    assert lucid_command("train digits --epochs 1 --out here") == 0
    assert lucid_command("train digits --epochs 2 --resume here/checkpoint.safetensors") == 0
    assert len(Checkpoint.read(Path("here/checkpoint.safetensors")).state["history"]) == 2
    assert not Path("runs").exists()


def test_resuming_a_finished_run_shows_it_again(lucid_command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    lucid_command("train digits --epochs 1")
    before = weights(CHECKPOINT)
    capsys.readouterr()
    assert lucid_command("train digits --resume") == 0
    assert "resumed after epoch 1 of 1" in capsys.readouterr().out
    assert weights(CHECKPOINT) == before


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("train digits --resume --lr 0.5", "has --lr 0.003, not 0.5"),
        ("train digits --resume --batch-size 8", "has --batch-size 64, not 8"),
        ("train digits --resume --seed 8", "has --seed 0, not 8"),
        ("train digits --resume --epochs 1", "has done 2 epochs already"),
        ("train vowels --resume runs/digits/checkpoint.safetensors", "lucid train digits --resume"),
        ("train digits --resume nowhere.safetensors", "there is no checkpoint nowhere.safetensors"),
        ("train vowels --resume", "there is no checkpoint runs/vowels/checkpoint.safetensors"),
        ("train digits --out runs/digits/checkpoint.safetensors/x", "choose another place"),
    ],
)
def test_a_mistake_is_one_line(
    lucid_command: Command, capsys: pytest.CaptureFixture[str], line: str, complaint: str
) -> None:
    lucid_command("train digits")
    before = CHECKPOINT.read_bytes()
    capsys.readouterr()
    assert lucid_command(line) == 2
    printed = capsys.readouterr().err
    assert complaint in printed
    assert printed.count("\n") == 1 and printed.startswith("lucid train: ")
    assert CHECKPOINT.read_bytes() == before


def test_a_stop_within_an_epoch_goes_on_to_the_same_bits(
    lucid_command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lucid_command("train digits --out straight")

    class StopAtThird(train.Screen):
        shown = 0

        def bar(self, label: str, share: float, note: str = "") -> None:
            StopAtThird.shown += 1
            if StopAtThird.shown == 3:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(train, "Screen", StopAtThird)
    capsys.readouterr()
    assert lucid_command("train digits --out stopped") == train.INTERRUPTED
    printed = capsys.readouterr().out
    assert "stopped after batch 3 of 5 of epoch 1 of 2; wrote stopped/checkpoint.safetensors" in printed
    advice = printed.splitlines()[-1].removeprefix("go on with: lucid ")
    assert lucid_command("predict stopped/checkpoint.safetensors") == 0
    assert lucid_command(advice) == 0
    straight, stopped = (weights(Path(out) / "checkpoint.safetensors") for out in ("straight", "stopped"))
    assert straight == stopped


def test_ctrl_c_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lucid", "train", "digits", "--epochs", "500", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while not process.stdout.readline().strip().startswith("1 "):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert "go on with: lucid train digits --resume" in out
    assert Checkpoint.read(tmp_path / "checkpoint.safetensors").state["history"]


def test_a_run_that_diverges_says_what_to_do(lucid_command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert lucid_command("train digits --lr 1e20 --epochs 1") == 0
    assert "a smaller --lr" in capsys.readouterr().out


def test_without_matplotlib_the_run_still_ends_well(lucid_command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert lucid_command("train digits --epochs 1") == 0
    assert "pip install 'lucid-conv[demo]'" in capsys.readouterr().out
    assert CHECKPOINT.exists()
