"""Exported models in ONNX Runtime give Lucid's results: every case, and networks that people train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest

import lucid
from lucid.cli.bench.networks import NETWORKS
from tests.onnx.cases import ALL, BATCH, CASES, Case, with_statistics
from tests.onnx.roundtrip import check_roundtrip

_OPTIONS = onnxruntime.SessionOptions()
_OPTIONS.intra_op_num_threads = 2
_OPTIONS.log_severity_level = 3


def run(path: Path, feeds: dict[str, Any]) -> list[Any]:
    """What ONNX Runtime makes of a file."""
    session = onnxruntime.InferenceSession(path, _OPTIONS, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


# It has no convolution in float64.
@pytest.mark.parametrize("name", [name for name in CASES if name != "float64"])
def test_round_trip(name: str, tmp_path: Path) -> None:
    check_roundtrip(CASES[name], tmp_path / "model.onnx", run)


@pytest.mark.parametrize(
    ("name", "shape", "dynamic"),
    [
        ("ResNet-18, batch 8, 224²", (1, 3, 64, 64), ALL[2]),
        ("MobileNetV2, batch 8, 224²", (1, 3, 64, 64), ALL[2]),
        ("1-D ResNet, 32 × 5000", (1, 12, 500), ALL[1]),
        ("HiFi-GAN generator, 100 frames", (1, 80, 12), ALL[1]),
        ("Conv-TasNet-like, 4 × 1 s at 16 kHz", (1, 1, 800), BATCH),
    ],
)
def test_networks(name: str, shape: tuple[int, ...], dynamic: Any, tmp_path: Path) -> None:
    case = Case(lambda: with_statistics(NETWORKS[name].build(lucid)), (shape,), dynamic)
    check_roundtrip(case, tmp_path / "model.onnx", run)
