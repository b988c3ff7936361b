"""A table of measured choices: as text and back, and what the selection makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from lucid import kernels
from lucid.core.errors import FormatError
from lucid.core.geometry import ConvSpec
from lucid.kernels import precision, select, target, trial, tuning
from lucid.kernels.convolution import observed, problem
from lucid.kernels.tuning import Choice

SPEC = ConvSpec((3,), (1,), (2,), ((1, 2),))
PROBLEM = problem("forward", SPEC, (1, 4, 20), (1, 8, 19), "float32", True)


@pytest.fixture(autouse=True)
def no_table_is_left() -> Iterator[None]:
    yield
    tuning.use(None)


def table(algorithm: str = "reference") -> tuning.Tuning:
    return tuning.here({PROBLEM: Choice(algorithm, {algorithm: 100.5, "gemm": 2e3})}, "here.json")


def conv() -> np.ndarray:
    rng = np.random.default_rng(0)
    x, w, bias = (rng.standard_normal(s).astype(np.float32) for s in ((1, 4, 20), (8, 4, 3), (8,)))
    return kernels.conv_forward(x, w, bias, SPEC)


def test_text_brings_the_table_back() -> None:
    wrote = table()
    read = tuning.from_text(tuning.to_text(wrote), "there.json")
    assert read.choices == wrote.choices
    assert (read.cpu, read.isa, read.version, read.source) == (wrote.cpu, wrote.isa, wrote.version, "there.json")
    assert json.loads(tuning.to_text(tuning.here({})))["choices"] == []


@pytest.mark.parametrize("name", ["format", "lucid", "cpu", "isa"])
def test_a_table_of_elsewhere_says_what_differs(name: str) -> None:
    data = json.loads(tuning.to_text(table()))
    data[name] = "other"
    with pytest.raises(FormatError, match=rf"here.json is for {name} other, this is .*; tune here again"):
        tuning.from_text(json.dumps(data), "here.json")


def test_any_cut_and_any_changed_digit_is_found() -> None:
    text = tuning.to_text(table())
    for broken in (text[: len(text) // 2], "[]", "", "null", text.replace('"groups": 1', '"groups": 2'), "{}"):
        with pytest.raises(FormatError, match=r"here\.json is damaged"):
            tuning.from_text(broken, "here.json")


def test_the_selection_asks_the_table_first() -> None:
    isa = target.isa()
    before = select.choose(PROBLEM, isa)
    assert before.algorithm != "reference"
    tuning.use(table())
    chosen = select.choose(PROBLEM, isa)
    assert chosen.algorithm == "reference"
    assert "tuning file here.json" in chosen.why
    assert "reference took 0.1005 us, gemm 2 us" in chosen.why
    assert select.choose(PROBLEM, isa, before.algorithm).algorithm == before.algorithm
    tuning.use(None)
    assert select.choose(PROBLEM, isa) == before


def test_calls_follow_the_table_from_the_next_one_on() -> None:
    before = conv()
    with kernels.algorithm("reference"):
        reference = conv()
    tuning.use(table())
    bound = select.executable(PROBLEM)
    with observed() as problems:
        tuned = conv()
    assert problems == [PROBLEM]
    np.testing.assert_array_equal(tuned, reference)
    tuning.use(None)
    assert select.executable(PROBLEM) is not bound
    np.testing.assert_array_equal(conv(), before)


def test_another_instruction_set_is_left_to_the_model() -> None:
    isas = target.cpu().isas
    tuning.use(table())
    other = next(isa for isa in isas if isa is not target.isa())
    assert select.choose(PROBLEM, other).algorithm != "reference"


def test_a_winner_that_is_not_allowed_now_is_passed_over() -> None:
    big = problem(
        "forward", ConvSpec((3, 3), (1, 1), (1, 1), ((1, 1),) * 2), (1, 64, 32, 32), (1, 64, 32, 32), "float32", False
    )
    tuning.use(tuning.here({big: Choice("winograd", {"winograd": 1.0})}))
    assert select.choose(big, target.isa()).algorithm == "winograd"
    precision.set_precision("strict")
    try:
        assert select.choose(big, target.isa()).algorithm != "winograd"
    finally:
        precision.set_precision("default")


def test_a_race_times_every_contender_on_arrays_of_the_problems_shapes() -> None:
    names = trial.contenders(PROBLEM)
    assert names[0] == select.choose(PROBLEM, target.isa()).algorithm
    times = trial.race(PROBLEM, names, seconds=0.0)
    assert set(times) == set(names) and all(ns > 0 for ns in times.values())
    x, w, bias, y = trial.arrays(PROBLEM)
    assert [a is not None and a.shape[1:] for a in (x, w, bias, y)] == [(4, 1, 1, 20), (4, 1, 1, 3), (), (8, 1, 1, 19)]
    assert x is not None and x.dtype == np.float32 and abs(float(x.mean())) < 1


def test_a_problem_that_this_version_does_not_know_is_a_format_error() -> None:
    data = json.loads(tuning.to_text(table()))
    data["choices"][0]["problem"]["tiling"] = 1
    data["sha256"] = tuning._digest([json.dumps(row) for row in data["choices"]])
    with pytest.raises(FormatError, match=r"odd\.json names a problem that this Lucid does not know.*tiling"):
        tuning.from_text(json.dumps(data), "odd.json")
