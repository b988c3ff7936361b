"""What is on record is not decided again; what cannot be read or written costs time and nothing else."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from lucid.core.geometry import ConvSpec
from lucid.kernels import cache, ledger, select, target, trial
from lucid.kernels.convolution import problem
from lucid.kernels.plan import Epilogue, Problem, Role

PATH = ledger._path  # which tests have not, but these


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A ledger of its own, not made yet."""
    path = tmp_path / "kept"
    monkeypatch.setenv("LUCID_CACHE_DIR", str(path))
    monkeypatch.setattr(ledger, "_path", PATH)
    for memo in (cache._refusal, ledger._lines):
        memo.cache_clear()
    yield path
    for memo in (cache._refusal, ledger._lines):
        memo.cache_clear()


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of its own, beside kernels that may be found where they always are."""
    monkeypatch.setattr(ledger, "_path", lambda: tmp_path / "ledger")


def asked(question: object, answer: Any = "anew") -> Any:
    """As a new process that asks."""
    ledger._lines.cache_clear()
    return ledger.decided(question, lambda: answer)


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.exists() else []


@pytest.mark.usefixtures("directory")
def test_decided_once() -> None:
    questions = [("a", 1), ("a", 1.0), ("a", "1"), ("a",), "a", 1, (True, 1)]
    answers = [{"x": 0.1 + 0.2, "y": [["n", 3]]}, 1, True, None, "ü", [1, [2]], 1e300]
    for question, answer in zip(questions, answers, strict=True):
        assert asked(question, answer) == answer
    assert [asked(question) for question in questions] == answers


@pytest.mark.usefixtures("directory")
def test_in_one_process_too() -> None:
    assert asked("a", 1) == ledger.decided("a", lambda: 2) == 1


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("change", ["sources", "cpu"])
def test_of_other_sources_or_another_cpu(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked("a", 1) == 1
    with monkeypatch.context() as patch:
        if change == "sources":
            patch.setattr(cache, "source_digest", lambda: "edited")
        else:
            patch.setattr(target, "cpu", lambda: "another")
        assert asked("a", 2) == 2
        assert asked("a") == 2
    assert asked("a") == 1


@pytest.mark.parametrize("damage", [
    lambda whole: whole[:-3], lambda whole: whole[:30], lambda whole: b"", lambda whole: b"\xff\n" * 9 + whole[5:],
    lambda whole: whole.replace(b"1234", b"1235"), lambda whole: b"\n\n" + whole[::-1], lambda whole: whole[80:],
], ids=["end", "head only", "empty", "foreign", "one number", "turned", "answer only"])  # fmt: skip
def test_damaged_lines_are_decided_again(directory: Path, damage: Callable[[bytes], bytes]) -> None:
    asked("a", 1234)
    (file,) = files(directory)
    file.write_bytes(damage(file.read_bytes()))
    assert asked("a", 5) == 5
    assert asked("b", 6) == 6
    assert (asked("a", 7), asked("b")) in ((5, 6), (7, 6))  # a line added to half a line is lost with it
    assert asked("a") in (5, 7)


def test_begun_anew_when_it_is_large(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "LIMIT_BYTES", 1000)
    for k in range(50):
        asked(k, k)
    (file,) = files(directory)
    assert file.stat().st_size < 1200
    assert asked(49) == 49
    assert asked(0) == "anew"


@pytest.mark.usefixtures("directory")
def test_lines_of_many_at_once() -> None:
    def work(k: int) -> None:
        for n in range(40):
            ledger.decided((k, n), partial(str.__mul__, "x", n))

    started = [Thread(target=work, args=(k,)) for k in range(8)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert all(asked((k, n)) == "x" * n for k in range(8) for n in range(40))


@pytest.mark.parametrize("unusable", ["open to others", "a file", "read-only", "unknown sources"])
def test_without_a_file_all_is_decided(unusable: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if unusable == "open to others":
        directory.mkdir()
        directory.chmod(0o777)
    elif unusable == "a file":
        directory.write_text("a file")
    elif unusable == "read-only":

        def refuse(*_: Any) -> Any:
            raise PermissionError

        monkeypatch.setattr(os, "open", refuse)
    else:
        monkeypatch.setattr(cache, "source_digest", lambda: None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "lucid: LUCID_CACHE_DIR")
        assert [asked("a", 1), asked("a", 2)] == [1, 2]


ONE, TWO = ((300,), (31,), 1), ((14, 14), (3, 3), 16)


@pytest.mark.usefixtures("record")
@pytest.mark.parametrize(("size", "kernel", "groups"), [ONE, TWO, ((14, 14), (3, 3), 1), ((9, 9), (4, 4), 1)])
@pytest.mark.parametrize("role", ["forward", "grad_input", "grad_weight"])
def test_a_plan_on_record_is_bound_as_it_was_chosen(
    size: tuple[int, ...], kernel: tuple[int, ...], groups: int, role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every algorithm, and nothing is weighed."""
    isa, spec = target.isa(), _spec(kernel, groups)
    p = problem(role, spec, (2, 16, *size), (2, 16, *spec.out_size(size)), "float32", False)
    plans = select.candidates(p, isa)[0]
    fresh = [results(p, plan.algorithm) for plan in plans]
    monkeypatch.setattr(select, "candidates", None)
    ledger._lines.cache_clear()
    for plan, result in zip(plans, fresh, strict=True):
        found = select.decided(p, isa, plan.algorithm)
        assert repr(found) == repr(plan)
        np.testing.assert_array_equal(results(p, plan.algorithm), result)


def _spec(kernel: tuple[int, ...], groups: int) -> ConvSpec:
    ones = (1,) * len(kernel)
    return ConvSpec(kernel, ones, ones, tuple((k // 2, k // 2) for k in kernel), groups)


def results(p: Problem, algorithm: str) -> Any:
    data = trial.arrays(p)
    select.bound(p, algorithm)(*data)
    return data[-1]


@pytest.mark.usefixtures("record")
def test_a_tuning_table_and_the_precision_are_asked_first() -> None:
    from lucid.kernels import precision, tuning

    p, isa = _winograd(), target.isa()
    assert select.decided(p, isa).algorithm == "winograd"
    precision.set_precision("strict")
    try:
        assert select.decided(p, isa).algorithm != "winograd"
    finally:
        precision.set_precision("default")
    table = tuning.Tuning("cpu", isa.name, "0", {p: tuning.Choice("gemm", {"gemm": 1.0})})
    tuning.use(table)
    try:
        assert select.decided(p, isa).algorithm == "gemm"
    finally:
        tuning.use(None)
    assert select.decided(p, isa).algorithm == "winograd"


@pytest.mark.usefixtures("record")
def test_an_epilogue_is_part_of_the_question() -> None:
    isa = target.isa()
    ended = _winograd(Epilogue("relu"))
    assert select.decided(_winograd(), isa).problem != select.decided(ended, isa).problem == ended


def _winograd(epilogue: Epilogue | None = None) -> Problem:
    return problem(
        "forward", _spec((3, 3), 1), (1, 64, 56, 56), (1, 64, 56, 56), "float32", False, epilogue or Epilogue()
    )
