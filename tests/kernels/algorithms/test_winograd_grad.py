"""Winograd's weight gradient: every tile and way to cut the work on awkward geometries, its errors, its selection."""

from __future__ import annotations

from dataclasses import replace
from math import isqrt
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lucid.core.geometry import ConvSpec
from lucid.kernels import conv_forward, conv_grad_weight, conv_grad_weight_bias, convolution, precision, select, target
from lucid.kernels.algorithms import winograd, winograd_grad
from lucid.kernels.algorithms.tile import Tile
from lucid.kernels.algorithms.winograd_grad import Split
from lucid.kernels.isa import ISAS
from lucid.kernels.plan import Plan
from tests.kernels.algorithms.test_winograd import (
    KERNELS,
    STRIDED,
    bound_of,
    layer,
    random_case,
    strided_case,
)
from tests.kernels.convolution_fuzz import Case, error, expected, run_case
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases

NAMES = [isa.name for isa in target.cpu().isas]
HALF_ISAS = [isa.name for isa in target.cpu().runnable]


def gradient_case(rng: np.random.Generator, kernel: tuple[int, ...] = (3, 3)) -> Case:
    return replace(random_case(rng, kernel), role="grad_weight")


def dilated_case(rng: np.random.Generator, kernel: tuple[int, ...]) -> Case:
    """A gradient of any dilation, mostly of sizes that are no multiples of it."""
    case, dilation = gradient_case(rng, kernel), tuple(int(rng.integers(1, 6)) for _ in kernel)
    extents, more = (d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)), {1: 40, 2: 12, 3: 3}[len(kernel)]
    size = tuple(extent + int(rng.integers(more)) for extent in extents)
    spec = ConvSpec(kernel, case.spec.stride, dilation, case.spec.padding, case.spec.groups)
    return replace(case, size=size, spec=spec)


def plans(case: Case, isa: str, number: int) -> list[Plan]:
    """A plan for every third form, each cut another way: several boxes, chunks and parts, operands prepared or not."""
    machine, problem, found = ISAS[isa], case.problem, []
    lanes, every = machine.vector_bytes // 4 or 1, winograd.forms(case.problem)
    for k, form in list(enumerate(every))[number % min(3, len(every)) :: 3]:
        tile = Tile({32: 8, 16: 4}[machine.registers], 1 + (k + number) % 2, lanes)
        k_part, c_part = min(tile.columns, problem.group_out), min(max(lanes, tile.rows), problem.group_in)
        boxes = winograd_grad._cuts(problem, form, 5)[0].boxes
        splits = [
            Split(tile, 5, k_part, problem.group_in, min(2, boxes), False),
            Split(tile, 5, k_part, c_part, 1, True),
            Split(tile, 1000, problem.group_out, c_part, 1, False),
        ]
        found.append(winograd_grad.planned(problem, machine, form, splits[(k + number // 3) % 3]))
    return found


def computed(case: Case, plan: Plan, isa: str, inputs: list[Any], transposed: bool = False) -> tuple[Any, Any]:
    problem = replace(plan.problem, bias=True, transposed=transposed)
    with (
        target.using(isa) as machine,
        guarded(case.w_shape, inputs[0].dtype) as gw,
        guarded((problem.summed_channels,), inputs[0].dtype) as gb,
    ):
        winograd.bind(replace(plan, problem=problem), machine)(*inputs[:2], gw, gb)
        return gw.copy(), gb.copy()


@pytest.mark.parametrize(("name", "offered"), [("znver5", False), ("znver4", True)])
def test_a_quarter_fewer_products_pay_where_they_take_two_turns(
    name: str, offered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = ISAS["avx512"]
    cpu = replace(target.cpu(), name=name, runnable=(machine,))
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    spec = ConvSpec((3,), (2,), (1,), ((1, 1),))
    problem = Case("grad_weight", "float32", 1, 37, 41, (801,), spec, False).problem
    winograd_grad.best.cache_clear()
    refusal = winograd.refuses(problem, machine)
    winograd_grad.best.cache_clear()
    assert (refusal is None) == offered, refusal


@pytest.mark.parametrize("isa", NAMES)
def test_every_tile_between_forbidden_pages(isa: str) -> None:
    rng = np.random.default_rng(0)
    cases = [gradient_case(rng, kernel) for kernel in KERNELS * 3]
    strided = [replace(strided_case(rng, *shape), role="grad_weight") for shape in STRIDED]
    cases += [case for case in strided if winograd_grad.forms(case.problem)]
    cases += [dilated_case(rng, kernel) for kernel in [(3,), (5,), (3, 3), (3, 1), (5, 3), (3, 3, 3)] * 2]
    both = ConvSpec((4, 3), (2, 1), (1, 3), ((1, 2), (4, 0)))
    cases.append(Case("grad_weight", "float32", 2, 10, 20, (15, 17), both, True))
    deep = [ConvSpec(kernel, (1,) * 3, (1, 1, d), ((2, 1),) * 3, 1) for kernel, d in (((5, 5, 5), 1), ((3, 3, 3), 2))]
    cases += [Case("grad_weight", "float32", 2, 5, 9, (13, 9, 14), spec, True, k) for spec in deep for k in range(3)]
    assert {case.spec.groups for case in cases} == {1, 2}

    def check(run: tuple[int, Case]) -> None:
        number, case = run
        inputs: list[Any] = case.inputs()
        exact, bound = expected(case, inputs)
        for turn, plan in enumerate(plans(case, isa, number // len(KERNELS))):
            transposed = (number + turn) % 2 == 0
            summed = inputs[0 if transposed else 1].astype(float)
            sums = summed.sum(axis=(0, *range(2, summed.ndim)))
            with guarded_results(("end", "start")[number % 2]):
                gw, gb = computed(case, plan, isa, inputs, transposed)
            assert error(gw, exact, bound_of(plan, bound)) <= 1, plan
            assert np.allclose(gb, sums, rtol=1e-5, atol=1e-4), plan

    run_guarded_cases(check, list(enumerate(cases)))


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)])
@pytest.mark.parametrize("isa", HALF_ISAS)
def test_half_precision_is_float32_rounded_once(isa: str, dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(2)

    def check(run: tuple[int, Case]) -> None:
        number, case = run
        narrow = [None if a is None else a.astype(dtype) for a in case.inputs()]
        wide = [None if a is None else a.astype(np.float32) for a in narrow]
        for plan in plans(case, isa, number):
            want = computed(case, plan, isa, wide)
            asked = replace(plan, problem=replace(plan.problem, dtype=dtype.name))
            with guarded_results(("end", "start")[number % 2]):
                got = computed(case, asked, isa, narrow)
            with np.errstate(over="ignore"):
                assert all(np.array_equal(g, w.astype(dtype)) for g, w in zip(got, want, strict=True)), plan

    run_guarded_cases(check, [(number, gradient_case(rng, kernel)) for number, kernel in enumerate(KERNELS)])


@pytest.mark.parametrize("isa", NAMES)
def test_bits_do_not_depend_on_threads_or_on_the_order_of_tasks(isa: str) -> None:
    rng = np.random.default_rng(1)
    strided = replace(strided_case(rng, (4, 4), (2, 2)), role="grad_weight")
    for case in [*(gradient_case(rng) for _ in range(3)), layer(20, 40, 30, 3, "grad_weight"), strided]:
        outcome = run_case(case, isa, "winograd")
        assert outcome.right, str(outcome)


def test_in_three_dimensions_the_outer_axis_may_be_summed() -> None:
    spec = ConvSpec((5, 5, 5), (1,) * 3, (1,) * 3, ((2, 2),) * 3)
    problem = Case("grad_weight", "float32", 1, 16, 16, (16, 32, 32), spec, False).problem
    plan = select.choose(problem, target.isa())
    assert (plan.algorithm, plan["summed"], plan["outputs_z"]) == ("winograd", 1, 1)
    assert {form.planes.filter for form in winograd.forms(problem)} == {5}, "F(2, 5) thrice grows too much"


def test_few_tiles_are_prepared_and_many_are_cut_into_chunks() -> None:
    few, many = layer(256, 256, 14, 4, "grad_weight"), layer(64, 64, 56, 4, "grad_weight")
    assert winograd.plan(few.problem, ISAS["avx512"])["prepared"] == 1
    assert winograd.plan(many.problem, ISAS["avx512"])["chunks"] > 1


@pytest.mark.parametrize(("outputs", "most"), [(2, 1.2e-6), (4, 4e-6)])
def test_errors_are_what_the_design_says(outputs: int, most: float) -> None:
    """Root of the mean square, relative to the result's."""
    case, machine = layer(32, 48, 40, 2, role="grad_weight"), target.isa()
    inputs: list[Any] = case.inputs()
    exact, _ = expected(case, inputs)
    form = next(f for f in winograd.forms(case.problem) if (f.y.outputs, f.x.outputs) == (outputs, outputs))
    _, split = winograd_grad.best(case.problem, machine)
    got, _ = computed(case, winograd_grad.planned(case.problem, machine, form, split), machine.name, inputs)
    assert np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2)) < most


def test_it_is_the_adjoint_in_the_weights_and_sums_g_in_the_same_pass() -> None:
    case = layer(24, 40, 19, 2)
    inputs: list[Any] = case.inputs()
    x, w, *_ = inputs
    g = np.random.default_rng(1).standard_normal(case.y_shape).astype(np.float32)
    with convolution.algorithm("winograd"):
        y, alone = conv_forward(x, w, None, case.spec), conv_grad_weight(x, g, case.spec)
        assert convolution.gives_both(x, g, case.spec)
        gw, gb = conv_grad_weight_bias(x, g, case.spec)
    assert np.array_equal(gw, alone)
    assert np.allclose(gb, g.sum(axis=(0, 2, 3)), atol=1e-4)
    forward, backward = np.vdot(y.astype(float), g), np.vdot(w.astype(float), gw)
    assert abs(forward - backward) < 1e-5 * np.linalg.norm(y) * np.linalg.norm(g)


def test_an_infinity_reaches_its_channel_only() -> None:
    case = layer(20, 40, 12, role="grad_weight")
    inputs: list[Any] = case.inputs()
    x, g, *_ = inputs
    x[0, 3, 5, 5] = np.inf
    with convolution.algorithm("winograd"):
        bad = ~np.isfinite(conv_grad_weight(x, g, case.spec))
    assert bad[:, 3].all() and not bad[:, :3].any() and not bad[:, 4:].any()


def test_chosen_where_it_pays_and_not_in_strict_precision() -> None:
    def chosen(case: Case) -> str:
        return select.choose(case.problem, target.isa()).algorithm

    wide = layer(64, 64, 56, role="grad_weight")
    assert chosen(wide) == chosen(layer(256, 256, 14, 4, "grad_weight")) == "winograd"
    assert chosen(layer(3, 16, 32, 8, "grad_weight")) != "winograd"
    apart = replace(wide, spec=ConvSpec((3, 3), (1, 1), (4, 4), ((4, 4), (4, 4))))
    assert chosen(apart) == "winograd"
    far = replace(wide, size=(500, 500), spec=ConvSpec((3, 3), (1, 1), (200, 200), ((0, 0), (0, 0))))
    assert "more than its workspace" in select.candidates(far.problem, target.isa())[1]["winograd"]
    assert 0 < select.choose(wide.problem, target.isa()).workspace_bytes < 12 << 20
    precision.set_precision("strict")
    try:
        assert chosen(wide) != "winograd"
    finally:
        precision.set_precision("default")


def test_integers_of_few_bits_are_exact_with_small_tiles() -> None:
    """F(2, 3) has halves and quarters only: what a sum holds exactly, it does too."""
    spec = ConvSpec((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
    case = Case("grad_weight", "float32", 2, 8, 24, (9, 10), spec, False)
    rng = np.random.default_rng(0)
    x, g = (rng.integers(-8, 9, shape).astype(np.float32) for shape in (case.x_shape, case.y_shape))
    machine = target.isa()
    form = next(f for f in winograd.forms(case.problem) if (f.y.outputs, f.x.outputs) == (2, 2))
    _, split = winograd_grad.best(case.problem, machine)
    got, sums = computed(case, winograd_grad.planned(case.problem, machine, form, split), machine.name, [x, g])
    with convolution.algorithm("reference"):
        assert np.array_equal(got, conv_grad_weight(x.astype(float), g.astype(float), spec))
    assert np.array_equal(sums, g.sum(axis=(0, 2, 3)))


@pytest.mark.parametrize(("name", "boxes"), [("znver4", 8), ("znver5", 7)])
def test_two_threads_have_as_many_boxes_where_vectors_take_two_turns(
    name: str, boxes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = target.CPU(name, tuple(ISAS.values()), 32 << 10, 1 << 20, 32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: machine)
    monkeypatch.setattr(winograd_grad, "best", winograd_grad.best.__wrapped__)
    spec = ConvSpec((3,), (1,), (1,), ((1, 1),))
    problem = Case("grad_weight", "float32", 1, 64, 64, (7200,), spec, False).problem
    found = winograd_grad.best(problem, ISAS["avx512"])
    assert found is not None
    form, split = found
    cut = winograd_grad.Layout.of(problem, form, split, ISAS["avx512"]).x_cut
    assert (split.chunks, cut.boxes) == (2, boxes)


def test_every_pass_over_far_operands_counts() -> None:
    """Of operands that the second level cache holds none does; a second pass over g reads its lines again."""
    isa, spec = ISAS["avx512"], ConvSpec((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))

    def far_lines(size: int, c_part: int) -> float:
        problem = Case("grad_weight", "float32", 1, 64, 64, (size, size), spec, False).problem
        form = next(form for form in winograd_grad.forms(problem) if (form.y.outputs, form.x.outputs) == (4, 4))
        split = Split(Tile(8, 2, 16), 64, 64, c_part, 1, False)
        return winograd_grad.work(problem, form, split, winograd_grad.Layout.of(problem, form, split, isa))["operand"]

    l2_bytes = target.cpu().l2_bytes
    near, far = isqrt(l2_bytes // (4 * 128)), 2 * isqrt(l2_bytes // (4 * 128))
    assert far_lines(near, 32) == 0
    assert far_lines(far, 32) == pytest.approx(1.5 * far_lines(far, 64))
    assert far_lines(far, 64) == pytest.approx((2 * 64 * far**2 * 4 - l2_bytes) / 64)


@pytest.mark.parametrize(("name", "chosen"), [("znver4", "weight_grad"), ("znver5", "winograd")])
def test_few_saved_products_do_not_pay_for_frames_where_vectors_take_two_turns(
    name: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = target.CPU(name, tuple(ISAS.values()), 32 << 10, 1 << 20, 32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: machine)
    monkeypatch.setattr(winograd_grad, "best", winograd_grad.best.__wrapped__)
    spec = ConvSpec((3, 3), (2, 2), (1, 1), ((1, 1), (1, 1)))
    problem = Case("grad_weight", "float32", 4, 48, 48, (112, 112), spec, False).problem
    assert select.candidates(problem, ISAS["avx512"])[0][0].algorithm == chosen
