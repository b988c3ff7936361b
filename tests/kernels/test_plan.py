"""Problems and plans as values, and how one is chosen."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lucid.core.errors import PlanError
from lucid.core.geometry import ConvSpec
from lucid.kernels import select, target
from lucid.kernels.algorithms import gemm, strassen, tap_by_tap, weight_grad_split, winograd_grad
from lucid.kernels.convolution import problem
from lucid.kernels.isa import AVX2, AVX512, ISA, SCALAR
from lucid.kernels.plan import PLAIN, Plan, Problem

SPEC = ConvSpec((3, 5), (1, 2), (1, 1), ((1, 1), (2, 2)), 2)


def asked(role: Any = "forward", dtype: str = "float32") -> Problem:
    return problem(role, SPEC, (3, 4, 8, 9), (3, 6, *SPEC.out_size((8, 9))), dtype, True)


def test_a_problem_s_numbers() -> None:
    p = asked()
    assert (p.size, p.out, p.spec.kernel) == ((1, 8, 9), (1, 8, 5), (1, 3, 5))
    assert (p.groups, p.group_in, p.group_out, p.pixels) == (2, 2, 3, 40)
    assert p.flops == 2 * 3 * 6 * 2 * 15 * 40
    assert p.traffic_bytes == 4 * (3 * 4 * 72 + 3 * 6 * 40 + 6 * 2 * 15)
    assert [asked(dtype=d).itemsize for d in ("float64", "float32", "float16", "bfloat16")] == [8, 4, 2, 2]


def test_flops_are_counted_by_the_definition() -> None:
    """The same in all three roles, counted by a convolution of ones without padding."""
    spec = ConvSpec((3,), (2,), (2,), ((0, 0),), 2)
    x, w = np.ones((3, 4, 12)), np.ones((6, 2, 3))
    from lucid.kernels.algorithms.reference import conv_forward

    y = conv_forward(x, w, None, spec)
    for role in ("forward", "grad_input", "grad_weight"):
        assert problem(role, spec, x.shape, y.shape, "float32", False).flops == 2 * y.sum()


def test_problems_are_values() -> None:
    assert asked() == asked()
    assert len({asked(), asked(), asked(dtype="float64")}) == 2


@pytest.mark.parametrize("role", ["forward", "grad_input", "grad_weight"])
def test_rows_that_a_kernel_spans_are_channels(role: Any) -> None:
    """Of the first axes only, without padding, and where nothing has one number for all rows of a channel."""

    def of(kernel: Any, padding: Any = ((0, 0), (0, 0)), bias: bool = False, transposed: bool = False) -> Problem:
        spec = ConvSpec(kernel, (3, 2), (1, 2), padding, 2)
        return problem(role, spec, (1, 4, 8, 9), (1, 6, *spec.out_size((8, 9))), "float32", bias, PLAIN, transposed)

    spanned = of((8, 3))
    assert (spanned.c_in, spanned.size, spanned.spec.kernel) == (32, (1, 1, 9), (1, 1, 3))
    assert (spanned.out, spanned.spec.stride, spanned.spec.dilation) == ((1, 1, 3), (1, 1, 2), (1, 1, 2))
    assert (spanned.flops, spanned.traffic_bytes) == (2 * 6 * 16 * 3 * 3, 4 * (4 * 72 + 6 * 3 + 6 * 2 * 24))
    left = [of((7, 3)), of((3, 5)), of((8, 3), ((0, 1), (0, 0))), of((1, 5))]
    assert {p.c_in for p in left} == {4}
    assert of((8, 3), bias=True).c_in == (4 if role == "grad_input" else 32)
    assert of((8, 3), bias=True, transposed=True).c_in == (32 if role == "forward" else 4)


def test_axes_that_no_kernel_joins_are_one() -> None:
    """Those of one sample are none; a stride, padding or kernel keeps neighbours apart."""

    def told(kernel: Any, size: Any, stride: Any = (1, 1, 1), padding: Any = ((0, 0),) * 3) -> Any:
        spec = ConvSpec(kernel, stride, (1, 1, 1), padding)
        p = problem("forward", spec, (1, 4, *size), (1, 6, *spec.out_size(size)), "float32", False)
        return p.spec.kernel, p.size, p.out

    assert told((3, 1, 1), (5, 6, 7)) == ((1, 3, 1), (1, 5, 42), (1, 3, 42))
    assert told((1, 1, 1), (5, 6, 7)) == ((1, 1, 1), (1, 1, 210), (1, 1, 210))
    assert told((1, 1, 3), (5, 6, 7)) == ((1, 1, 3), (1, 30, 7), (1, 30, 5))
    assert told((3, 1, 1), (5, 6, 1), (1, 1, 2)) == ((1, 3, 1), (1, 5, 6), (1, 3, 6))
    assert told((5, 1, 3), (5, 1, 7)) == ((1, 1, 3), (1, 1, 7), (1, 1, 5))
    assert told((3, 1, 1), (5, 6, 7), (1, 1, 2)) == ((3, 1, 1), (5, 6, 7), (3, 6, 4))
    assert told((3, 1, 1), (5, 6, 7), padding=((0, 0), (1, 0), (0, 0))) == ((3, 1, 1), (5, 6, 7), (3, 7, 7))


def test_a_plan_s_numbers_by_name() -> None:
    plan = Plan("x", asked(), "avx2", 1.0, tile=(("rows", 6),), blocking=(("depth", 256),), why="because")
    assert (plan["rows"], plan["depth"]) == (6, 256)
    with pytest.raises(KeyError, match="columns"):
        plan["columns"]
    assert plan == replace(plan, why="for another reason")
    assert hash(plan) == hash(replace(plan, why=""))


@pytest.mark.parametrize("isa", target.cpu().isas)
@pytest.mark.parametrize("role", ["forward", "grad_input", "grad_weight"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_fastest_expected_is_chosen(isa: Any, role: Any, dtype: str) -> None:
    plans, refusals = select.candidates(asked(role, dtype), isa)
    assert [p.shared_ns for p in plans] == sorted(p.shared_ns for p in plans)
    assert select.choose(asked(role, dtype), isa) == plans[0]
    assert {p.algorithm for p in plans} | set(refusals) == {
        name for name in select.ALGORITHMS if role in getattr(select.algorithm_named(name), "roles", [role])
    }
    assert plans[0].algorithm != "reference"
    assert all(p.isa == isa.name and p.problem == asked(role, dtype) for p in plans)
    assert all(p.expected_ns > 0 and p.workspace_bytes >= 0 for p in plans)
    assert all(reason for reason in refusals.values())
    for plan in plans:
        assert select.choose(asked(role, dtype), isa, plan.algorithm) == plan


def test_a_module_bears_its_algorithms_name() -> None:
    assert tuple(select.algorithm_named(name).name for name in select.ALGORITHMS) == select.ALGORITHMS


def algorithm(name: str, expected_ns: float, refusal: str | None = None) -> Any:
    return SimpleNamespace(
        name=name, refuses=lambda problem, isa: refusal,
        plan=lambda problem, isa: Plan(name, problem, isa.name, expected_ns),
    )  # fmt: skip


def test_on_a_tie_the_first_wins_and_refusals_name_their_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    isa = target.cpu().isas[0]
    made = [algorithm("a", 2), algorithm("b", 1), algorithm("c", 1), algorithm("d", 0, "it is a Tuesday")]
    algorithms = {a.name: a for a in made}
    monkeypatch.setattr(select, "ALGORITHMS", tuple(algorithms))
    monkeypatch.setattr(select, "algorithm_named", algorithms.__getitem__)
    assert select.choose(asked(), isa).algorithm == "b"
    assert select.choose(asked(), isa, "c").algorithm == "c"
    with pytest.raises(PlanError, match="algorithm='d' cannot compute this: it is a Tuesday"):
        select.choose(asked(), isa, "d")
    with pytest.raises(PlanError, match="algorithm='e' does not exist; there are a, b, c, d"):
        select.choose(asked(), isa, "e")


@pytest.mark.parametrize("role", ["forward", "grad_input", "grad_weight"])
def test_where_registers_are_wider_than_units_only_those_vectors_cost_more(
    role: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some two times as much, and no other CPU's or narrower vectors' times change."""
    spec = ConvSpec((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 1)
    wide = problem(role, spec, (4, 64, 56, 56), (4, 64, 56, 56), "float32", False)

    def expected(name: str, isa: ISA) -> dict[str, float]:
        cpu = target.CPU(name, (SCALAR, AVX2, AVX512), 32 << 10, 1 << 20, 32 << 20)
        monkeypatch.setattr(target, "cpu", lambda: cpu)
        for remembered in (tap_by_tap.split, weight_grad_split.split, winograd_grad.best):
            remembered.cache_clear()
        return {plan.algorithm: plan.expected_ns for plan in select.candidates(wide, isa)[0]}

    assert expected("znver4", AVX2) == expected("znver5", AVX2) == expected("some", AVX2)
    usual, halved = expected("znver5", AVX512), expected("znver4", AVX512)
    assert usual == expected("some", AVX512)
    assert all(1.5 < halved[name] / usual[name] < 3 for name in usual if name != "reference")
    assert halved["reference"] == usual["reference"]


@pytest.mark.parametrize(
    ("name", "isas", "channels", "gathers"),
    [("znver4", 3, 64, True), ("znver4", 3, 48, False), ("some", 2, 64, True), ("znver5", 3, 64, False)],
)
def test_short_steps_gather_channels_of_more_pages_than_are_at_hand(
    name: str, isas: int, channels: int, gathers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a 1 x 1, by vectors that are half a line and a whole unit; the last kind of CPU is left as it was."""
    cpu = target.CPU(name, (SCALAR, AVX2, AVX512)[:isas], 32 << 10, 1 << 20, 32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    spec = ConvSpec((1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), 1)
    p = problem("forward", spec, (4, channels, 56, 56), (4, 256, 56, 56), "float32", False)
    assert (", read where they lie" not in gemm.plan(p, AVX2).why) == gathers


@pytest.mark.parametrize(
    ("name", "size", "whole"), [("znver4", 56, True), ("znver4", 28, False), ("znver5", 56, False)]
)
def test_rows_stay_together_where_threads_would_all_read_a_large_x(
    name: str, size: int, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a 1 x 1 whose x outgrows a second cache; the last kind of CPU is left as it was."""
    cpu = target.CPU(name, (SCALAR, AVX2, AVX512), 32 << 10, 1 << 20, 32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    spec = ConvSpec((1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), 1)
    p = problem("forward", spec, (1, 144, size, size), (1, 24, size, size), "float32", True)
    assert (gemm.plan(p, AVX512)["row_parts"] == 1) == whole


@pytest.mark.parametrize(("name", "batch", "parts"), [("znver4", 1, 2), ("znver4", 2, 1), ("znver5", 1, 1)])
def test_two_threads_do_not_meet_within_rows_of_the_result(
    name: str, batch: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one image each has rows of its own; of two each has one; the last kind of CPU is left as it was."""
    cpu = target.CPU(name, (SCALAR, AVX2, AVX512), 32 << 10, 1 << 20, 32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    spec = ConvSpec((8,), (1,), (1,), ((3, 3),), 1)
    p = problem("forward", spec, (batch, 1, 500), (batch, 128, 499), "float32", True)
    assert gemm.plan(p, AVX512)["row_parts"] == parts


@pytest.mark.parametrize(("name", "chosen"), [("znver4", "strassen"), ("znver5", "phase_split")])
def test_weights_whose_rows_are_pages_apart_cost_a_line_for_each_step(
    name: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a 1 x 1's input gradient, which packs them once or for every tile; the last kind of CPU is left as it was."""
    cpu = target.CPU(name, (SCALAR, AVX2, AVX512), 32 << 10, 1 << 20, 32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    strassen.strassen.cache_clear()
    spec = ConvSpec((1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), 1)
    p = problem("grad_input", spec, (4, 2048, 8, 8), (4, 320, 8, 8), "float32", False)
    assert select.candidates(p, AVX512)[0][0].algorithm == chosen
    strassen.strassen.cache_clear()


def test_phases_that_follow_each_other_find_their_lines_near_where_vectors_take_turns(zen4: target.CPU) -> None:
    """Of a result of 16 MB, which each of four phases would fetch from memory anew."""
    spec = ConvSpec((31,), (4,), (2,), ((30, 30),), 4)
    p = problem("grad_input", spec, (16, 16, 16000), (16, 8, 4000), "float32", False)
    assert select.candidates(p, AVX512)[0][0].algorithm == "phase_split"


def test_plans_do_not_depend_on_the_number_of_threads() -> None:
    from lucid.kernels.runtime import threads

    before, plans = threads.get_num_threads(), []
    try:
        for count in (1, 3):
            threads.set_num_threads(count)
            plans.append([select.candidates(asked(role), target.isa())[0] for role in ("forward", "grad_weight")])
    finally:
        threads.set_num_threads(before)
    assert plans[0] == plans[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_read_by_the_algorithm_of_float32_if_it_can(dtype: str) -> None:
    isa = target.isa()
    for role in ("forward", "grad_input", "grad_weight"):
        narrow = asked(role=role, dtype=dtype)
        taken = select.choose(asked(role=role), isa).algorithm
        reads = taken in [plan.algorithm for plan in select.candidates(narrow, isa)[0]]
        assert select.narrow_pays(narrow, isa) or not reads


@pytest.mark.parametrize(("promised", "taken"), [(0.97, "usual"), (0.9, "other")])
def test_half_precision_keeps_the_algorithm_of_float32_unless_another_is_surely_faster(
    promised: float, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(name: str, in_half: float) -> SimpleNamespace:
        def plan(problem: Problem, isa: Any) -> Plan:
            return Plan(name, problem, isa.name, 1e6 if problem.dtype == "float32" else in_half * 1e6)

        return SimpleNamespace(name=name, refuses=lambda *_: None, plan=plan, dtypes=("float32", "float16"))

    made = {"usual": named("usual", 1.0), "other": named("other", promised)}
    monkeypatch.setattr(select, "ALGORITHMS", tuple(made))
    monkeypatch.setattr(select, "algorithm_named", made.__getitem__)
    assert select.choose(asked().plain, target.isa()).algorithm == "usual"
    assert select.choose(asked(dtype="float16").plain, target.isa()).algorithm == taken


def test_a_second_thread_counts_for_what_it_gains_where_vectors_take_turns(zen4: target.CPU) -> None:
    plan = Plan("gemm", asked(), "avx512", expected_ns=100e3, tasks=2)
    lone, odd = replace(plan, tasks=1), replace(plan, tasks=3)
    assert plan.shared_ns < replace(plan, alone_ns=50e3).shared_ns < lone.shared_ns
    assert plan.shared_ns < odd.shared_ns < lone.shared_ns < replace(lone, handed_ns=5e3).shared_ns
    small = replace(plan, expected_ns=8e3)
    assert replace(small, tasks=1).shared_ns / small.shared_ns < lone.shared_ns / plan.shared_ns
