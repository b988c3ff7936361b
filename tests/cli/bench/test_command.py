"""`lucid bench` as a user runs it, without any peer installed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from lucid.cli.bench.options import EXAMPLES
from lucid.cli.bench.peers import PEERS, Peer
from lucid.cli.bench.picture import save
from lucid.cli.bench.problem import SUITES, suite
from lucid.cli.main import main
from lucid.kernels import target

ABSENT = Peer("nowhere", "Absent", {"absent-library": "no_such_module_of_any_name"})


def test_one_layer_alone_is_checked_timed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "tiny"
    line = ["bench", "--quick", "--only", "conv1d tiny", "--peers", "", "--threads", "1", "--out", str(out)]
    assert main(line) == 0
    printed, progress = capsys.readouterr()
    assert "forward+backward" in printed and "conv1d tiny seed" in printed and "workspace" in printed
    assert "[1/2] conv1d tiny seed, forward: " in progress
    data = json.loads(out.with_suffix(".json").read_text("utf-8"))
    assert [row["mode"] for row in data["rows"]] == ["forward", "forward+backward"]
    for row in data["rows"]:
        assert row["median_s"]["lucid"] > 0 and row["roofline"] > 0 and row["reached"] > 0 and not row["faults"]
        assert row["flop_per_byte"] == pytest.approx(2 * 4 * 8 * 3 * 16 / (4 * (4 * 16 + 8 * 3 + 4 * 8 * 16)))
    assert out.with_suffix(".md").read_text("utf-8").startswith("# Layers\n")


def test_the_examples_of_the_help_name_layers() -> None:
    named = [shlex.split(line)[:6] for line in EXAMPLES.splitlines() if "--only" in line]
    assert named
    for words in named:
        assert list(suite(words[words.index("--only") + 1], "layers"))


def test_a_peer_that_is_not_installed_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PEERS, "absent", ABSENT)
    line = ["bench", "--quick", "--forward-only", "--threads", "1", "--peers", "absent", "--only"]
    assert main([*line, "conv1d tiny"]) == 0
    assert "without Absent, not installed: pip install absent-library" in capsys.readouterr().err


@pytest.mark.skipif(
    "avx2" not in [isa.name for isa in target.cpu().isas], reason="this machine has no such instructions"
)
def test_an_instruction_set_holds_lucid_and_leaves_out_what_nothing_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PEERS, "absent", Peer("nowhere", "Unheld"))
    line = ["bench", "--quick", "--forward-only", "--threads", "1", "--isa", "avx2", "--peers", "absent", "--only"]
    assert main([*line, "conv1d tiny"]) == 0
    printed, progress = capsys.readouterr()
    assert "held to avx2" in printed and "without Unheld, which nothing holds to avx2" in progress


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--peers mystery", "there is no peer mystery; choose from lucid"),
        ("--only nonesuch", "no layer's name contains 'nonesuch'"),
        ("--base absent", "Absent is not installed; get it with: pip install absent-library"),
    ],
)
def test_what_cannot_be_done_is_said(
    words: str, complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PEERS, "absent", ABSENT)
    assert main(["bench", *words.split()]) == 2
    assert complaint in capsys.readouterr().err


OTHERS = pytest.mark.parametrize("others", [name for name in SUITES if name != "layers"])


@OTHERS
def test_the_list_names_every_layer_of_another_suite(others: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--list", "--suite", others]) == 0
    assert capsys.readouterr().out.splitlines() == [layer.name for layer in suite(name=others)]


@OTHERS
def test_other_suites_have_other_layers_and_say_where_they_are_from(others: str) -> None:
    rows = {name: json.loads(file.read_text("utf-8"))["layers"] for name, file in SUITES.items()}
    assert len(rows[others]) >= 20
    assert all(row["from"] for row in rows[others])
    known = [_geometry(row) for name in rows if name != others for row in rows[name]]
    assert not [row["name"] for row in rows[others] if _geometry(row) in known]


def _geometry(row: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in row.items() if key not in ("name", "from")}


def test_the_picture_of_many_rows_is_drawn(tmp_path: Path) -> None:
    ratio = {"median": 2.0, "low": 1.5, "high": 3.0}
    rows = [
        {
            "layer": f"conv {i}", "mode": mode, "gflop": 1.0, "flop_per_byte": 2.0**i, "peak_gflop_per_s": 200.0,
            "copy_gb_per_s": 20.0, "median_s": {"lucid": 0.01, "torch": 0.02}, "faults": {},
            "ratio": {"torch": ratio} if mode == "forward+backward" else {"torch": ratio, "ort": ratio},
        }
        for mode in ("forward", "forward+backward")
        for i in range(5)
    ]  # fmt: skip
    header = {"cpu": "a CPU", "threads": 2, "versions": {"lucid": "1", "torch": "2"}, "date": "2026-01-01"}
    file = save({"header": header, "base": "lucid", "rows": rows}, tmp_path / "drawn")
    assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
