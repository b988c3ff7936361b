"""`lucid.tune` leaves the model alone and writes a file that brings the choices back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import lucid
import lucid.nn as nn
from lucid.kernels import tuning
from lucid.kernels.convolution import observed
from lucid.kernels.plan import Problem


@pytest.fixture(autouse=True)
def no_table_is_left() -> Iterator[None]:
    yield
    lucid.load_tuning(None)


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.ConvTranspose1d(8, 4, 4, stride=2))


def test_every_problem_of_every_shape_is_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tuning.json"
    table = lucid.tune(model(), [(1, 4, 30), (2, 4, 40)], path, seconds=0.0)
    assert tuning.in_force() is table
    assert [(p.role, p.batch) for p in table.choices].count(("grad_weight", 2)) == 2
    assert len(table.choices) == 2 * (3 + 3 + 1)  # in inference the first one ends with what follows it
    for choice in table.choices.values():
        assert choice.algorithm in choice.measured_ns
    assert "tune: [14/14] " in capsys.readouterr().err
    lucid.load_tuning(None)
    assert tuning.in_force() is None
    loaded = lucid.load_tuning(path)
    assert loaded is tuning.in_force() and loaded.choices == table.choices


def test_a_fused_model_is_tuned_as_it_infers_and_as_it_trains(tmp_path: Path) -> None:
    net = nn.Sequential(nn.FusedConv1d(4, 8, 3, activation=nn.GELU()), nn.Conv1d(8, 4, 3))
    table = lucid.tune(net, (1, 4, 30), tmp_path / "t.json", seconds=0.0)
    asked = [(p.role, p.epilogue.activation) for p in table.choices]
    assert sorted(asked) == sorted([
        *[("forward", ""), ("grad_input", ""), ("grad_weight", "")] * 2,
        ("forward", "gelu"),
    ])  # fmt: skip
    with lucid.no_grad():
        assert table.choices.keys() >= set(problems_of(net))
    alone = lucid.tune(net, (1, 4, 30), tmp_path / "t.json", gradients=False, seconds=0.0)
    assert [(p.role, p.epilogue.activation) for p in alone.choices] == [("forward", "gelu"), ("forward", "")]


def problems_of(net: nn.Module) -> list[Problem]:
    with observed() as problems:
        net(lucid.randn(1, 4, 30))
    return problems


def test_the_model_its_modes_and_the_random_state_stay(tmp_path: Path) -> None:
    net = model()
    net[2].eval()
    before = {name: value.detach().numpy().copy() for name, value in net.state_dict().items()}
    state = lucid.get_rng_state().numpy().copy()
    lucid.tune(net, (2, 4, 30), tmp_path / "t.json", gradients=False, seconds=0.0)
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value.detach().numpy(), before[name])
    assert [m.training for m in net] == [True, True, False, True] and net.training
    assert all(p.grad is None for p in net.parameters())
    np.testing.assert_array_equal(lucid.get_rng_state().numpy(), state)


def test_results_stay_within_rounding(tmp_path: Path) -> None:
    net = model().eval()
    x = lucid.randn(1, 4, 30)
    with lucid.no_grad():
        before = net(x).numpy().copy()
        lucid.tune(net, (1, 4, 30), tmp_path / "t.json", gradients=False, seconds=0.0)
        np.testing.assert_allclose(net(x).numpy(), before, rtol=1e-5, atol=1e-5)


def test_explain_says_when_a_file_chose(tmp_path: Path) -> None:
    net, path = nn.Conv1d(4, 8, 3), tmp_path / "mine.json"
    lucid.tune(net, (1, 4, 30), path, seconds=0.0)
    told = " ".join(str(lucid.explain(net, (1, 4, 30))).split())  # lines are broken to fit a terminal
    assert told.count(f"measured, says the tuning file {path}: ") == 3
    lucid.load_tuning(None)
    assert "tuning file" not in str(lucid.explain(net, (1, 4, 30)))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b'{"format": "lucid tuning 1"}'])
def test_a_damaged_file_is_refused_and_what_was_in_force_stays(tmp_path: Path, content: bytes) -> None:
    table = tuning.here({})
    tuning.use(table)
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(lucid.FormatError, match=r"load_tuning: .*broken\.json is damaged or no tuning file"):
        lucid.load_tuning(path)
    assert tuning.in_force() is table


def test_an_unwritable_place_leaves_the_choices_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FileNotFoundError, match=r"tune: path='.*/no/t\.json' is in a directory that does not exist"):
        lucid.tune(nn.Conv1d(1, 1, 1), (1, 1, 4), tmp_path / "no" / "t.json", seconds=0.0)
    assert tuning.in_force() is None
    assert not capsys.readouterr().err  # before anything is measured


def test_no_shape_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shapes is empty"):
        lucid.tune(nn.Conv1d(1, 1, 1), [], tmp_path / "t.json")


def test_what_is_no_model_or_no_shape_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="tune: model must be a Module, not str"):
        lucid.tune("Conv1d", (1, 1, 4), tmp_path / "t.json")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tune: shapes='1, 1, 4' must be an input shape"):
        lucid.tune(nn.Conv1d(1, 1, 1), "1, 1, 4", tmp_path / "t.json")  # type: ignore[arg-type]


def test_another_process_computes_the_same_bits_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    code = (
        "import sys, lucid, lucid.nn as nn; lucid.load_tuning(sys.argv[1]); lucid.manual_seed(0); "
        "net, x = nn.Conv2d(8, 8, 3), lucid.randn(1, 8, 9, 9); print(net(x).detach().numpy().tobytes().hex())"
    )
    lucid.tune(nn.Conv2d(8, 8, 3), (1, 8, 9, 9), path, seconds=0.0)
    lucid.manual_seed(0)
    net, x = nn.Conv2d(8, 8, 3), lucid.randn(1, 8, 9, 9)
    there = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == net(x).detach().numpy().tobytes().hex()
