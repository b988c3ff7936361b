"""``lucid export``: the file, the table, and what is said where it cannot be."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from lucid.cli import export as command
from lucid.cli.run import Checkpoint

Command = Callable[[str], int]
CHECKPOINT = "runs/digits/checkpoint.safetensors"


@pytest.fixture
def trained(lucid_command: Command, capsys: pytest.CaptureFixture[str]) -> Command:
    lucid_command("train digits --epochs 1")
    capsys.readouterr()
    return lucid_command


def test_a_file_and_a_table(trained: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained(f"export {CHECKPOINT}") == 0
    out = Path("runs/digits/checkpoint.onnx")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        f"file     {out}, {out.stat().st_size:,} bytes",
        "format   ONNX, opset 18",
        "input    samples (batch, 1, 8, 8), float32",
        "output   scores (batch, 10), float32",
    ]
    assert lines[4] == "nodes    10: 3 Conv, 3 Relu, 2 MaxPool, 1 Reshape, 1 Gemm"
    assert lines[6].startswith("checked by onnx.reference: ") and "of 50 held-out samples right" in lines[6]
    onnx.checker.check_model(out)


def test_another_place_and_opset(trained: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained(f"export {CHECKPOINT} --out new/place/digits.onnx --opset 20") == 0
    assert onnx.load("new/place/digits.onnx").opset_import[0].version == 20


def test_a_difference_is_told(
    trained: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "TOLERANCE", 0.0)
    assert trained(f"export {CHECKPOINT}") == 1
    assert "scores differ by" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("missing.safetensors", "there is no checkpoint missing.safetensors"),
        (f"{CHECKPOINT} --opset 3", "opset_version=3 must be an int from 18"),
        (f"{CHECKPOINT} --out {CHECKPOINT}", "is the checkpoint itself"),
    ],
)
def test_what_cannot_be_is_one_line(
    trained: Command, capsys: pytest.CaptureFixture[str], words: str, complaint: str
) -> None:
    assert trained(f"export {words}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lucid export: ") and complaint in line
    assert Checkpoint.read(Path(CHECKPOINT))


def test_without_the_package(
    trained: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "onnx":
            raise ModuleNotFoundError("No module named 'onnx'")
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert trained(f"export {CHECKPOINT}") == 2
    assert "pip install 'lucid-conv[onnx]'" in capsys.readouterr().err
