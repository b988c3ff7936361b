"""Winograd convolution: every tile on awkward geometries, its errors, when it is chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lucid.core.errors import PlanError
from lucid.core.geometry import ConvSpec
from lucid.kernels import conv_forward, conv_grad_input, convolution, precision, select, target
from lucid.kernels.algorithms import reference, winograd, winograd_cost, winograd_layout
from lucid.kernels.algorithms.tile import Tile
from lucid.kernels.algorithms.winograd_layout import MOST_TAPS
from lucid.kernels.isa import ISAS as MACHINES
from lucid.kernels.plan import Plan
from tests.kernels.convolution_fuzz import ROLES, Case, Role, error, expected, run_case, using_threads
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases

ISAS = [isa.name for isa in target.cpu().isas]
HALF_ISAS = [isa.name for isa in target.cpu().runnable]
KERNELS = [(3,), (4,), (5,), (3, 3), (4, 4), (1, 3), (3, 1), (5, 5), (3, 5), (3, 3, 3), (5, 3, 1), (1, 3, 3), (3, 1, 1)]
KERNELS += [(7,), (16,), (1, 9), (11, 1), (7, 6), (6, 1, 3)]  # in pieces
LONG = [(17, 3), (19, 9)]  #: down, where they are summed by definition; gradients of weights are left to others


def random_case(rng: np.random.Generator, kernel: tuple[int, ...] = (3, 3)) -> Case:
    """A case that the algorithm accepts: any padding, cut rows of tiles, groups, sizes around the vectors'."""
    longest = {1: 90, 2: 23, 3: 9}[len(kernel)]
    padding = tuple((int(rng.integers(0, k + 2)), int(rng.integers(0, k + 2))) for k in kernel)
    size = tuple(
        int(rng.integers(max(1, k - low - high), longest)) for k, (low, high) in zip(kernel, padding, strict=True)
    )
    groups, ones = int(rng.choice([1, 1, 2])), (1,) * len(kernel)
    return Case(
        ("forward", "grad_input")[rng.integers(2)], "float32", int(rng.integers(1, 4)),
        groups * int(rng.integers(1, 20)), groups * int(rng.integers(1, 40)), size,
        ConvSpec(kernel, ones, ones, padding, groups), bool(rng.random() < 0.5), int(rng.integers(1 << 30)),
    )  # fmt: skip


def strided_case(rng: np.random.Generator, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Case:
    """A case of a stride within the kernel; input gradients of long ones and of some volumes are left to others."""
    case = random_case(rng, kernel)
    case = replace(case, spec=replace(case.spec, stride=stride))
    return case if max(kernel) <= MOST_TAPS and winograd.forms(case.problem) else replace(case, role="forward")


def dilated_case(rng: np.random.Generator, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> Case:
    """A case of which sizes and padding are multiples of the dilation, or, every second one, are not."""
    case, even = random_case(rng, kernel), bool(rng.random() < 0.5)
    low, size = [], []
    for k, d in zip(kernel, dilation, strict=True):
        each = d if even else 1
        low.append(int(rng.integers(0, k * d // each + 1)) * each)
        size.append(int(rng.integers(k * d // each, max(70 // each, k * d // each + 9))) * each)
    spec = ConvSpec(kernel, (1,) * len(kernel), dilation, tuple((p, p) for p in low), case.spec.groups)
    return replace(case, size=tuple(size), spec=spec)


def plans(case: Case, isa: str, copy: int) -> list[Plan]:
    """Plans for tiles of outputs, each with another register tile: every second one, and of many every fourth.

    So two copies of a case, of sizes of their own, have all tiles of a few.
    """
    machine = MACHINES[isa]
    sizes, forms, found = winograd.shape(case.problem), winograd.forms(case.problem), []
    for number, form in enumerate(forms[copy::2] if len(forms) < 5 else forms[(case.seed + copy) % 4 :: 4]):
        options = list(winograd._blockings(sizes, form, machine))
        options += [replace(cut, row_parts=1, halved=1) for cut in options if not cut.rows_first]
        found.append(winograd._planned(case.problem, machine, form, options[number % len(options)]))
    return found


def computed(case: Case, plan: Plan, isa: str, inputs: list[Any]) -> np.ndarray[Any, Any]:
    y = np.full(case.y_shape if case.role == "forward" else case.x_shape, np.nan, inputs[0].dtype)
    with target.using(isa) as machine, guarded(y) as result:
        winograd.bind(plan, machine)(*inputs[:3], result)
        return result.copy()


def bound_of(plan: Plan, bound: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return winograd.error_growth(plan) * bound.max(axis=tuple(range(2, bound.ndim)), keepdims=True)


#: Residues in lanes, in rows, both; of one axis or two.
DILATED = [
    ((3,), (2,)), ((3,), (4,)), ((5,), (8,)), ((3,), (3,)), ((3,), (16,)), ((5,), (21,)), ((3, 3), (2, 2)),
    ((3, 3), (4, 4)), ((3, 5), (3, 1)), ((3, 3), (1, 4)), ((5, 3), (4, 8)), ((1, 3), (1, 5)), ((3, 3, 3), (1, 1, 2)),
    ((1, 3, 3), (1, 1, 4)), ((7,), (3,)), ((11,), (8,)),
]  # fmt: skip


#: With one, two and three taps a residue, on some axes or all, or different ones.
STRIDED = [
    ((4,), (2,)), ((16,), (8,)), ((6,), (3,)), ((9,), (3,)), ((8,), (4,)), ((2,), (1,)), ((4, 4), (2, 2)),
    ((3, 4), (1, 2)), ((6, 2), (2, 1)), ((2, 4), (2, 2)), ((4, 4, 4), (2, 2, 2)), ((3, 4, 2), (3, 2, 1)),
    ((3,), (2,)), ((3, 3), (2, 2)), ((5, 5), (2, 2)), ((3, 4), (2, 2)), ((4, 3, 1), (2, 2, 1)),
    ((7,), (4,)), ((5,), (3,)), ((7, 7), (2, 2)), ((11, 5), (4, 4)), ((3, 7), (1, 2)), ((9, 7), (8, 2)),
    ((4, 3, 2), (3, 2, 1)), ((12,), (2,)), ((16, 1), (2, 1)), ((3, 3, 3), (1, 2, 2)), ((3, 4, 6), (1, 3, 2)),
    ((5, 7, 7), (1, 2, 2)), ((5, 5, 5), (2, 2, 2)), ((7, 7, 7), (2, 2, 2)),
]  # fmt: skip


LONG_STRIDED = [((17, 3), (2, 1)), ((21, 11), (2, 2)), ((18, 7), (5, 3))]


def every_case(rng: np.random.Generator, isa: str) -> list[Case]:
    """One of every geometry that the algorithm takes on a machine."""
    plain = [random_case(rng, kernel) for kernel in KERNELS + LONG]
    dilated = [dilated_case(rng, *shape) for shape in DILATED]
    strided = [strided_case(rng, *shape) for shape in STRIDED + LONG_STRIDED]
    return plain + [case for case in dilated + strided if winograd.refuses(case.problem, MACHINES[isa]) is None]


@pytest.mark.parametrize("stride", [1, 2])
def test_lines_asked_for_beside_products_change_no_bit(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, machine = ConvSpec((3, 3), (stride, stride), (1, 1), ((1, 1), (1, 1))), target.isa()
    case = Case("grad_input", "float32", 2, 40, 33, (19, 35), spec, False, 1)
    plan, (g, w, *_) = winograd.plan(case.problem, machine), case.inputs()
    results = []
    for asks in (False, True):
        monkeypatch.setattr(winograd_layout, "_asks", lambda *_, asks=asks: asks)
        with guarded(np.full(case.x_shape, np.nan, np.float32)) as result:
            winograd.bind(plan, machine)(g, w, None, result)
            results.append(result.copy())
    assert np.array_equal(*results) and not np.isnan(results[0]).any()


@pytest.mark.parametrize("name", ["znver4", "znver5"])
def test_lines_are_asked_for_where_results_come_from_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = MACHINES["avx512"]
    cpu = replace(target.cpu(), name=name, runnable=(machine,), l3_bytes=1 << 20)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    for size, far in (((64, 64), False), ((65, 64), True)):
        case = Case("forward", "float32", 1, 16, 16, size, ConvSpec((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))), False, 1)
        asks = winograd_layout._asks(winograd.shape(case.problem), Tile(8, 3, 16))
        assert asks == (far and name == "znver4")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("groups", [1, 2])
def test_samples_asked_for_beside_products_change_no_bit(
    dtype: str, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, machine = ConvSpec((3, 1), (1, 1), (1, 1), ((1, 1), (0, 0)), groups), target.isa()
    case = Case("forward", dtype, 2, 6, 34, (17, 331), spec, True, 1)
    sizes, form = winograd.shape(case.problem), winograd.forms(case.problem)[0]
    asked = replace(case.problem, dtype=dtype)
    plan = winograd._planned(asked, machine, form, next(winograd._blockings(sizes, form, machine)))
    assert not plan["rows_first"]
    results = []
    for asks in (False, True):
        monkeypatch.setattr(winograd_layout, "_asks_samples", lambda *_, asks=asks: asks)
        results.append(computed(case, plan, machine.name, case.inputs()))
    assert np.array_equal(*results)


@pytest.mark.parametrize(
    ("kernel", "size", "c_out", "name", "asked"),
    [
        ((3, 1), (16, 1000), 16, "znver4", True),
        ((3, 1), (16, 1000), 16, "znver5", False),
        ((3, 1), (4, 1000), 16, "znver4", False),  # near
        ((3, 1), (160, 100), 16, "znver4", False),  # short rows
        ((1, 3), (16, 1000), 16, "znver4", False),  # long runs
        ((3, 1), (16, 1000), 4096, "znver4", False),  # filters fill the second cache
    ],
)  # fmt: skip
def test_samples_are_asked_for_where_nothing_else_would(
    kernel: tuple[int, int], size: tuple[int, int], c_out: int, name: str, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = MACHINES["avx512"]
    cpu = replace(target.cpu(), name=name, runnable=(machine,), l2_bytes=1 << 20, l3_bytes=4 << 20)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    padding = tuple((k // 2, k // 2) for k in kernel)
    case = Case("forward", "float32", 1, 16, c_out, size, ConvSpec(kernel, (1, 1), (1, 1), padding), False, 1)
    sizes, form = winograd.shape(case.problem), winograd.forms(case.problem)[0]
    cut = winograd.Blocking(Tile(8, 3, 16), 8, 1, False, 16)
    assert winograd_layout._asks_samples(sizes, form, cut) is asked


@pytest.mark.parametrize("isa", ISAS)
def test_every_tile_between_forbidden_pages(isa: str) -> None:
    rng = np.random.default_rng(0)
    cases = every_case(rng, isa) + every_case(rng, isa)
    least = 2 * len(KERNELS + STRIDED + LONG + LONG_STRIDED) + 8
    assert len(cases) >= least, "on one lane, dilations that fit in none are refused"
    assert 5 in {form.x.outputs for case in cases for form in winograd.forms(case.problem)}
    assert {case.role for case in cases} == {"forward", "grad_input"}
    assert {case.spec.groups for case in cases} == {1, 2}

    def check(run: tuple[int, Case]) -> None:
        number, case = run
        where = ("end", "start")[number % 2]
        inputs = case.inputs()
        exact, bound = expected(case, inputs)
        for plan in plans(case, isa, number * 2 // len(cases)):
            with guarded_results(where):
                got = computed(case, plan, isa, inputs)
            assert error(got, exact, bound_of(plan, bound)) <= 1, plan

    run_guarded_cases(check, list(enumerate(cases)))


def displaced_case(rng: np.random.Generator, kernel: tuple[int, ...], dtype: str) -> Case:
    """An input gradient of a stride of 2, with padding of even and odd numbers."""
    case = random_case(rng, kernel)
    return replace(case, role="grad_input", dtype=dtype, spec=replace(case.spec, stride=(2,) * len(kernel)))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("isa", [name for name in ISAS if "avx512f" in MACHINES[name].requires])
def test_displaced_residues_between_forbidden_pages(isa: str, dtype: str, zen4: target.CPU) -> None:
    rng, machine = np.random.default_rng(0), MACHINES[isa]
    cases = [displaced_case(rng, kernel, dtype) for kernel in [(4, 4), (6, 4), (4, 6), (6, 6)] * 2]

    def check(case: Case) -> None:
        inputs, problem = case.inputs(), replace(case.problem, dtype=dtype)
        exact, bound = expected(case, inputs)
        sizes, forms = winograd.shape(problem, True), winograd.forms(problem, True)
        assert winograd.displaces(problem, machine) and forms
        for number, form in enumerate(forms):
            options = list(winograd._blockings(sizes, form, machine))
            plan = winograd._planned(problem, machine, form, options[number % len(options)])
            assert plan["displaced"]
            with guarded_results(("end", "start")[number % 2]):
                got = computed(case, plan, isa, inputs)
            assert error(got, exact, bound_of(plan, bound)) <= 1, plan

    run_guarded_cases(check, cases)


@pytest.mark.parametrize(("name", "displaced"), [("znver4", 1), ("znver5", 0)])
def test_residues_are_displaced_where_positions_would_be_cut(
    name: str, displaced: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pose network's transposed layer: 16 × 12 positions are 32 tiles of 4 × 3, not 50."""
    cpu = target.CPU(name, target.cpu().runnable, 32 << 10, 1 << 20, 32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    spec = ConvSpec((4, 4), (2, 2), (1, 1), ((1, 1), (1, 1)))
    case = Case("grad_input", "float32", 2, 256, 256, (32, 24), spec, True, 1)
    assert winograd.plan(case.problem, MACHINES["avx512"])["displaced"] == displaced
    with target.using("avx512"):
        assert not winograd.displaces(replace(case, role="forward").problem, target.isa())


def test_kernels_longer_down_than_tiles_are_for_are_summed_there() -> None:
    """DeepSpeech's first layer: its samples' rows are transformed along the other axis, whatever the strides."""
    spec = ConvSpec((41, 11), (2, 2), (1, 1), ((20, 20), (5, 5)), 1)
    case = Case("forward", "float32", 1, 1, 32, (161, 400), spec, True, 0)
    found = winograd.forms(case.problem)
    assert {(form.z.outputs, form.z.samples, form.planes) for form in found} == {
        (4, 47, (47, 41, 4)),
        (8, 55, (55, 41, 8)),
    }
    assert not winograd.forms(replace(case, role="grad_input").problem), "its phases would be forms of their own"


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)])
@pytest.mark.parametrize("isa", HALF_ISAS)
def test_half_precision_is_float32_rounded_once(isa: str, dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(2)
    cases = every_case(rng, isa)

    def check(run: tuple[int, Case]) -> None:
        number, case = run
        narrow = [None if a is None else a.astype(dtype) for a in case.inputs()]
        wide = [None if a is None else a.astype(np.float32) for a in narrow]
        for plan in plans(case, isa, number % 2):
            want = computed(case, plan, isa, wide)
            asked = replace(plan, problem=replace(plan.problem, dtype=dtype.name))
            with guarded_results(("end", "start")[number % 2]):
                got = computed(case, asked, isa, narrow)
            with np.errstate(over="ignore"):
                assert np.array_equal(got, want.astype(dtype)), plan

    run_guarded_cases(check, list(enumerate(cases)))


@pytest.mark.parametrize("isa", ISAS)
def test_bits_do_not_depend_on_threads_or_on_the_order_of_tasks(isa: str) -> None:
    rng = np.random.default_rng(1)
    for case in [random_case(rng) for _ in range(4)] + [CUT]:
        outcome = run_case(case, isa, "winograd")
        assert outcome.right, str(outcome)


@pytest.mark.parametrize("isa", ISAS)
def test_either_order_of_the_loops_gives_the_same_bits(isa: str) -> None:
    inputs = CUT.inputs()
    machine = next(machine for machine in target.cpu().isas if machine.name == isa)
    form = winograd.forms(CUT.problem)[0]
    cuts = list(winograd._blockings(winograd.shape(CUT.problem), form, machine))
    tiles_first, rows_first = (next(cut for cut in cuts if cut.rows_first is first) for first in (False, True))
    results = [
        computed(CUT, winograd._planned(CUT.problem, machine, form, cut), isa, inputs)
        for cut in (
            tiles_first,
            replace(tiles_first, row_block=tiles_first.tile.rows, row_parts=7),
            replace(tiles_first, row_parts=1, halved=1),
            replace(tiles_first, row_parts=1, halved=2),
            rows_first,
            replace(rows_first, chunk=32),
        )
    ]
    assert all(np.array_equal(result, results[0]) for result in results[1:])


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("isa", ISAS)
def test_threads_that_work_together_or_apart_give_the_same_bits(
    apart: bool, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, machine = np.random.default_rng(3), MACHINES[isa]
    for case in (CUT, replace(CUT, spec=replace(CUT.spec, groups=2)), random_case(rng), random_case(rng)):
        sizes, form = winograd.shape(case.problem), winograd.forms(case.problem)[-1]
        cuts = list(winograd._blockings(sizes, form, machine))
        first, rows = (next(cut for cut in cuts if cut.rows_first is by_rows) for by_rows in (False, True))
        inputs = case.inputs()
        monkeypatch.setattr(winograd_cost, "works_apart", lambda *_: False)
        want = computed(case, winograd._planned(case.problem, machine, form, first), isa, inputs)
        monkeypatch.setattr(winograd_cost, "works_apart", lambda *_: apart)
        for cut in (first, rows, replace(first, row_parts=1, halved=1)):
            plan = winograd._planned(case.problem, machine, form, cut)
            for threads in (1, 2, 3):
                with using_threads(threads):
                    assert np.array_equal(computed(case, plan, isa, inputs), want)


@pytest.mark.parametrize("rows_first", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_kept_filters_give_the_same_bits(rows_first: bool, apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd_cost, "works_apart", lambda *_: apart)
    machine, inputs = target.isa(), CUT.inputs()[:3]
    form = winograd.forms(CUT.problem)[0]
    cuts = winograd._blockings(winograd.shape(CUT.problem), form, machine)
    cut = next(cut for cut in cuts if cut.rows_first is rows_first)
    plan = winograd._planned(CUT.problem, machine, form, replace(cut, chunk=32) if rows_first else cut)
    halves = winograd.bind(plan, machine).halves()  # type: ignore[attr-defined]
    assert (halves.kept_bytes == plan.packed_bytes) is not rows_first, "rows first need none of them at once"
    with guarded_results(), guarded((halves.kept_bytes,), np.uint8) as kept, guarded(CUT.y_shape, np.float32) as y:
        halves.make(None, *inputs[1:], None, kept)
        halves.compute(inputs[0], np.full_like(inputs[1], np.nan), inputs[2], y, kept)
        assert np.array_equal(y, computed(CUT, plan, machine.name, inputs))


def layer(c_in: int, c_out: int, size: int, batch: int = 1, role: str = "forward", kernel: int = 3) -> Case:
    spec = ConvSpec((kernel,) * 2, (1, 1), (1, 1), ((kernel // 2,) * 2,) * 2, 1)
    return Case(role, "float32", batch, c_in, c_out, (size, size), spec, True)  # type: ignore[arg-type]


def generator(role: Role) -> Case:
    """A transposed convolution as generators have them, or the convolution that it is the adjoint of."""
    return Case(role, "float32", 8, 64, 128, (64, 64), ConvSpec((4, 4), (2, 2), (1, 1), ((1, 1), (1, 1))), True)


#: Rows are cut into several parts, there are several spans and several blocks of rows.
CUT = layer(80, 150, 21, 2)


@pytest.mark.parametrize(("outputs", "most"), [(2, 4e-7), (4, 4e-6)])
@pytest.mark.parametrize("role", ["forward", "grad_input"])
def test_errors_are_what_the_docstring_says(role: str, outputs: int, most: float) -> None:
    """Root of the mean square, relative to the result's: algorithms.md has 1.5e-7 and 9e-7 for 64 channels."""
    case = layer(64, 64, 24, role=role)
    inputs = case.inputs()
    exact, _ = expected(case, inputs)
    machine = target.isa()
    form = next(f for f in winograd.forms(case.problem) if (f.y.outputs, f.x.outputs) == (outputs, outputs))
    cut = next(winograd._blockings(winograd.shape(case.problem), form, machine))
    got = computed(case, winograd._planned(case.problem, machine, form, cut), machine.name, inputs)
    assert np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2)) < most


@pytest.mark.parametrize(("outputs", "most"), [(2, 8e-7), (3, 7e-7), (4, 3e-6)])
@pytest.mark.parametrize("role", ["forward", "grad_input"])
def test_errors_of_two_taps(role: Role, outputs: int, most: float) -> None:
    """F(3, 2) needs no points but 0, 1 and -1, so it is as exact as F(2, 3): direct summation has 6e-7."""
    case = generator(role)
    case, machine = replace(case, batch=1, size=(26, 26)), target.isa()
    inputs = case.inputs()
    exact, _ = expected(case, inputs)
    form = next(f for f in winograd.forms(case.problem) if (f.y.outputs, f.x.outputs) == (outputs, outputs))
    cut = next(winograd._blockings(winograd.shape(case.problem), form, machine))
    got = computed(case, winograd._planned(case.problem, machine, form, cut), machine.name, inputs)
    assert np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2)) < most


DOWN = replace(layer(24, 40, 19), spec=ConvSpec((3, 3), (2, 2), (1, 1), ((1, 1), (1, 1))))


@pytest.mark.parametrize("case", [layer(24, 40, 19), replace(generator("forward"), size=(18, 18)), DOWN])
def test_the_input_gradient_is_the_adjoint(case: Case) -> None:
    x, w, *_ = case.inputs()
    g = np.random.default_rng(1).standard_normal(case.y_shape).astype(np.float32)
    with convolution.algorithm("winograd"):
        y, gx = conv_forward(x, w, None, case.spec), conv_grad_input(g, w, None, case.spec, case.size)
    forward, backward = np.vdot(y.astype(float), g), np.vdot(x.astype(float), gx)
    assert abs(forward - backward) < 1e-5 * np.linalg.norm(y) * np.linalg.norm(g)


def test_nan_stays_in_the_tiles_that_read_it() -> None:
    case = layer(3, 5, 40)
    x, w, bias, *_ = case.inputs()
    x[0, 1, 20, 20] = np.nan
    with convolution.algorithm("winograd"):
        bad = np.isnan(conv_forward(x, w, bias, case.spec))
    assert bad[:, :, 19:22, 19:22].all()
    assert not bad[:, :, :15].any() and not bad[:, :, 26:].any()
    assert not bad[..., :15].any() and not bad[..., 26:].any()


def test_strict_precision_rules_it_out() -> None:
    case = layer(64, 64, 30)
    x, w, bias, *_ = case.inputs()
    usual = conv_forward(x, w, bias, case.spec)
    with convolution.algorithm("gemm"):
        direct = conv_forward(x, w, bias, case.spec)
    precision.set_precision("strict")
    try:
        assert np.array_equal(conv_forward(x, w, bias, case.spec), direct)
        with convolution.algorithm("winograd"), pytest.raises(PlanError, match="the precision is strict"):
            conv_forward(x, w, bias, case.spec)
    finally:
        precision.set_precision("default")
    assert not np.array_equal(usual, direct)
    assert np.array_equal(conv_forward(x, w, bias, case.spec), usual)


def test_chosen_where_it_pays() -> None:
    """The model decides; these are far from the border."""
    isa = target.isa()

    def chosen(case: Case) -> str:
        return select.choose(case.problem, isa).algorithm

    assert chosen(layer(64, 64, 56)) == chosen(layer(128, 128, 28, 4)) == "winograd"
    assert chosen(layer(64, 64, 56, role="grad_input")) == "winograd"
    assert {chosen(generator(role)) for role in ROLES} == {"winograd"}
    down = replace(DOWN, batch=4, c_in=128, c_out=128, size=(56, 56))
    assert {chosen(replace(down, role=role)) for role in ROLES} == {"winograd"}
    stem = replace(DOWN, c_in=3, c_out=64, size=(112, 112), spec=replace(DOWN.spec, kernel=(7, 7)))
    assert {chosen(replace(stem, role=role)) for role in ("forward", "grad_input")} == {"winograd"}
    assert {chosen(replace(layer(64, 64, 56, kernel=7), role=role)) for role in ROLES} == {"winograd"}
    assert "winograd" not in {chosen(layer(1, 16, 28)), chosen(layer(8, 8, 12))}
    plan = select.choose(layer(64, 64, 56).problem, isa)
    assert (plan["outputs_y"], plan["outputs_x"]) == (4, 4)
    assert 0 < plan.workspace_bytes < 4 << 20


@pytest.mark.parametrize(("c_in", "c_out", "size"), [(64, 64, 56), (128, 32, 28), (64, 96, 35)])
def test_few_tasks_keep_no_thread_waiting(c_in: int, c_out: int, size: int) -> None:
    for role in ("forward", "grad_input"):
        plan = winograd.plan(layer(c_in, c_out, size, role=role).problem, MACHINES["avx512"])
        assert plan.tasks % 2 == 0 or plan.tasks > 8


@pytest.mark.parametrize(
    ("c_out", "size", "batch", "halved"),
    [(64, 48, 1, 1), (64, 56, 4, 1), (64, 92, 1, 2), (64, 72, 2, 2), (12, 48, 1, 0), (64, 400, 1, 0)],
)
def test_two_threads_end_together_where_vectors_take_turns(
    c_out: int, size: int, batch: int, halved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = target.cpu()
    for name in ("znver4", "znver5"):
        monkeypatch.setattr(target, "cpu", lambda name=name: replace(cpu, name=name))
        plan = winograd.plan(layer(64, c_out, size, batch).problem, MACHINES["avx512"])
        assert plan["halved"] == halved * (name == "znver4")
        assert plan.tasks % 2 == 0 or not plan["halved"]


@pytest.mark.parametrize(
    ("kernel", "size", "outputs"),
    [
        ((8,), (64,), {2, 4, 8, 16}), ((8,), (11,), {2, 4, 12}), ((8,), (4,), {2, 4}), ((3, 8), (64, 64), {2, 4}),
        ((3,), (28,), {2, 4, 6, 7}), ((3,), (30,), {2, 4, 5, 6}), ((1, 3), (1, 70), {2, 4, 5, 6, 7}),
        ((3, 3), (70, 70), {2, 4, 5}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("role", ["forward", "grad_weight"])
def test_a_lone_axis_has_larger_tiles_where_they_take_fewer_products(
    role: Role, kernel: tuple[int, ...], size: tuple[int, ...], outputs: set[int]
) -> None:
    padding = tuple(((k - 1) // 2, k // 2) for k in kernel)
    spec = ConvSpec(kernel, (1,) * len(kernel), (1,) * len(kernel), padding)
    problem = Case(role, "float32", 1, 32, 32, size, spec, False).problem
    assert {form.x.outputs for form in winograd.forms(problem)} == outputs


@pytest.mark.parametrize(
    ("kernel", "stride", "size", "outputs"),
    [
        (3, 2, 28, {2, 3, 4, 7}), (3, 2, 99, {2, 3, 4, 5}), (3, 2, 24, {2, 3, 4, 6}), (5, 2, 5, {2, 4, 5}),
        (4, 2, 20, {2, 3, 4, 5}), (4, 2, 16, {2, 3, 4}), (3, 1, 28, {2, 4}),
    ],
)  # fmt: skip
def test_large_tiles_of_strides_and_of_two_taps_where_they_take_fewer_products(
    kernel: int, stride: int, size: int, outputs: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ConvSpec((kernel, kernel), (stride, stride), (1, 1), (((kernel - 1) // 2, (kernel - 1) // 2),) * 2)
    problem = Case("forward", "float32", 1, 32, 32, (64, size * stride), spec, False).problem
    cpu = target.cpu()
    for name in ("znver4", "znver5"):
        monkeypatch.setattr(target, "cpu", lambda name=name: replace(cpu, name=name))
        monkeypatch.setattr(target, "isa", lambda: MACHINES["avx512"])
        found = {form.x.outputs for form in winograd.forms(problem)}
        assert found == (outputs if name == "znver4" else outputs & {2, 3, 4}), "where a vector takes two turns"


def test_in_three_dimensions_the_outer_axis_may_be_summed() -> None:
    spec, size = ConvSpec((5, 5, 5), (1,) * 3, (1,) * 3, ((2, 2),) * 3), (16, 32, 32)
    plan = select.choose(Case("forward", "float32", 1, 16, 16, size, spec, False).problem, target.isa())
    assert (plan.algorithm, plan["summed"]) == ("winograd", 1)
    assert {form.planes.result for form in winograd.forms(plan.problem)} == {2, 4}, "F(2, 5) thrice grows too much"


@pytest.mark.parametrize(("kernel", "stride"), [((5, 7, 7), (1, 2, 2)), ((7, 7, 7), (2, 2, 2))])
def test_stems_of_volumes_are_summed_along_the_outer_axis(kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
    """SlowFast's fast path and I3D: six points twice are 36, thrice would be more than a tile has."""
    spec = ConvSpec(kernel, stride, (1,) * 3, tuple((k // 2, k // 2) for k in kernel))
    plan = select.choose(Case("forward", "float32", 1, 3, 16, (16, 112, 112), spec, False).problem, target.isa())
    assert (plan.algorithm, plan["summed"]) == ("winograd", 1)
    assert {form.points for form in winograd.forms(plan.problem) if form.planes.result > 1} == {25, 30, 36}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dtype": "float64"}, "bfloat16, not float64"),
        ({"spec": ConvSpec((3, 3), (1, 4), (1, 1), ((1, 1), (1, 1)))}, "cannot split kernels of"),
        ({"role": "grad_input", "spec": ConvSpec((16, 16), (8, 8), (1, 1), ((4, 4),) * 2)}, "a row for each residue"),
        ({"c_in": 700, "spec": ConvSpec((16, 16), (8, 8), (1, 1), ((4, 4),) * 2)}, "more than its workspace"),
        ({"spec": ConvSpec((3, 3), (1, 1), (3, 3), ((3, 3), (3, 3)))}, "cannot take a dilation of"),
        ({"spec": ConvSpec((17, 17), (1, 1), (1, 1), ((8, 8), (8, 8)))}, "no tiles for kernels of"),
        ({"spec": ConvSpec((1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)))}, "no tiles for kernels of"),
    ],
)
def test_refusals_are_told(change: dict[str, Any], why: str) -> None:
    case = replace(layer(8, 8, 20), **change)
    with pytest.raises(PlanError, match=why):
        select.choose(case.problem, target.isa(), "winograd")


def test_a_shift_by_a_whole_tile_shifts_the_result() -> None:
    case = layer(6, 9, 28)
    x, w, bias, *_ = case.inputs()
    with convolution.algorithm("winograd"):
        y, shifted = (conv_forward(a, w, bias, case.spec) for a in (x, np.roll(x, -8, axis=3)))
    assert np.array_equal(shifted[..., 4:16], y[..., 12:24])


def test_integers_of_few_bits_are_exact_with_small_tiles() -> None:
    """F(2, 3) has halves and quarters only: what a sum holds exactly, it does too."""
    case = replace(layer(16, 8, 10), bias=False)
    rng = np.random.default_rng(0)
    x = rng.integers(-8, 9, case.x_shape).astype(np.float32)
    w = rng.integers(-8, 9, case.w_shape).astype(np.float32)
    machine = target.isa()
    form = next(f for f in winograd.forms(case.problem) if (f.y.outputs, f.x.outputs) == (2, 2))
    cut = next(winograd._blockings(winograd.shape(case.problem), form, machine))
    got = computed(case, winograd._planned(case.problem, machine, form, cut), machine.name, [x, w, None])
    assert np.array_equal(got, reference.conv_forward(x, w, None, case.spec))


def test_what_two_threads_wait_for_has_a_price_where_vectors_take_turns(zen4: None) -> None:
    wide = MACHINES["avx512"]
    asked = convolution.problem(
        "grad_input", ConvSpec((15,), (1,), (1,), ((7, 7),), 1), (1, 3, 200), (1, 256, 200), "float32", False
    )
    few, many, large = layer(128, 32, 14, 4), layer(128, 128, 28, 4), layer(512, 512, 14)
    plans = [winograd.plan(case.problem, wide) for case in (few, many, large)]
    assert [plan["rows_first"] for plan in plans] == [1, 0, 1]
    assert [plan.handed_ns > 0 for plan in plans] == [False, False, False], "each thread makes patches or filters"
    assert all(plan.alone_ns > 0 for plan in plans), "which takes as long as of one thread"
    short = winograd.Blocking(Tile(7, 3, 16), 7, 1, False, 256)  # 50 vectors' tiles of four: spans of 48 and of 2
    even = winograd.Blocking(Tile(7, 2, 16), 7, 1, False, 256)
    sizes, form = winograd.shape(asked), next(f for f in winograd.forms(asked) if f.x.outputs == 4)
    alone = [winograd_cost.waits_ns(sizes, form, cut, wide)[0] for cut in (short, even)]
    assert alone[0] > 3 * alone[1] > 0
    parts = replace(even, row_parts=2)
    assert winograd_cost.waits_ns(sizes, form, parts, wide)[1] > 1e3, (
        "filters, of which a part of the rows needs its own"
    )


def test_threads_work_apart_where_copies_are_small_and_the_wait_is_worth_it(zen4: None) -> None:
    wide = MACHINES["avx512"]
    few, large, many = layer(128, 128, 28, 4), layer(512, 512, 28, 4), layer(64, 64, 224)
    apart = []
    for case in (few, large, many):
        sizes, form = winograd.shape(case.problem), winograd.forms(case.problem)[-1]
        cut = next(cut for cut in winograd._blockings(sizes, form, wide) if not cut.rows_first)
        apart.append(winograd_cost.works_apart(sizes, form, replace(cut, row_parts=1), wide))
    assert apart == [True, False, False], "38 MB of filters are one copy; a wait of 4 % is less than an uneven share"
