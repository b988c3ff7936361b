"""Channels mixed pixel by pixel against the definitions, between guard pages."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from lucid.kernels import jit, select, target
from lucid.kernels.algorithms import mixing
from lucid.kernels.algorithms.mixing_kernel import MixGradTile, MixTile
from tests.kernels.algorithms.patches import HALF, Case, check, check_both, check_infinity, check_threads, run
from tests.kernels.guard import run_guarded_cases

ISAS = [isa.name for isa in target.cpu().isas]
WIDE = [isa.name for isa in target.cpu().isas if "avx512f" in isa.requires]
ROLES = ["forward", "grad_input", "grad_weight"]

#: Kernels that span rows, slices, or both, or nothing; results in one block, in several, one of them not full; rows of
#: whole lines, with masks at both ends where they begin beside one, and other rows; several strips; one pixel.
CASES = [
    Case(2, 8, 16, (22, 64), (22, 1), groups=8, bias=True),
    Case(1, 8, 16, (22, 37), (22, 1), groups=8, bias=True),
    Case(3, 9, 9, (5, 200), (5, 1), groups=9),
    Case(1, 8, 40, (7, 160), (7, 1), groups=8, bias=True),
    Case(2, 8, 16, (3, 4, 50), (3, 4, 1), groups=8),
    Case(1, 8, 8, (3, 6, 19), (3, 1, 1), 1, (1, 1, 1), groups=8, bias=True),
    Case(2, 16, 24, (9, 33), (1, 1), groups=8, bias=True),
    Case(1, 24, 48, (300,), (1,), groups=8, bias=True),
    Case(1, 16, 88, (333,), (1,), groups=8, bias=True),
    Case(1, 26, 2, (700,), (1,), bias=True),
    Case(1, 8, 8, (4, 1), (4, 1), groups=8),
    Case(1, 8, 8, (1, 1), (1, 1), groups=8, bias=True),
]
TYPES = [*product(ISAS, ["float32", "float64"]), *product([i.name for i in target.cpu().runnable], HALF)]


@pytest.mark.parametrize(("isa", "dtype"), TYPES)
@pytest.mark.parametrize("role", ROLES)
def test_definition(role, isa, dtype):
    def one(case):
        typed = case.typed(dtype)
        if mixing.refuses(typed.problem(role), target.isa()) is not None:
            return
        for where in ("end", "start"):
            check(mixing, typed, role, where)
            if role == "grad_weight":
                check_both(mixing, typed, where)

    with target.using(isa):
        run_guarded_cases(one, CASES)


#: Results and sources that end with a whole tile and with one that has some again; strips and vectors that are not
#: full, one pixel, several images, groups.
STAGED = [
    Case(2, 48, 16, (1700,), (1,), bias=True),
    Case(1, 50, 19, (37, 41), (1, 1), bias=True),
    Case(1, 129, 16, (1,), (1,), bias=True),
    Case(3, 60, 18, (9, 9), (1, 1), groups=2, bias=True),
]


@pytest.mark.skipif(not WIDE, reason="registers that take two turns are those of AVX-512")
def test_sums_of_float16_that_wait_in_memory(zen4):
    halves = [case.typed("float16") for case in STAGED]

    def one(case):
        for where in ("end", "start"):
            check(mixing, case, "grad_weight", where)
            check_both(mixing, case, where)

    with target.using(WIDE[0]) as isa:
        tiles = [mixing.mixing_grad(case.problem("grad_weight"), isa).tile for case in halves]
        assert all(tile.staged for tile in tiles)
        assert all(mixing.refuses(case.problem("grad_weight"), isa) is None for case in halves)
        run_guarded_cases(one, halves)
        check_threads(lambda: run(mixing, halves[1], "grad_weight", halves[1].arrays()))
        check_infinity(mixing, halves[-1], "grad_weight", (1, 20, 8, 8))


@pytest.mark.skipif(not WIDE, reason="registers that take two turns are those of AVX-512")
@pytest.mark.parametrize(("change", "staged"), [
    ({}, True), ({"dtype": "float32"}, False), ({"dtype": "bfloat16"}, False), ({"c_out": 40}, False),
    ({"c_in": 300}, False),
])  # fmt: skip
def test_sums_wait_where_float16_is_framed_elsewhere(change, staged, monkeypatch):
    cpu, case = target.cpu(), replace(Case(4, 128, 16, (56, 56), (1, 1), dtype="float16"), **change)
    for name in ("znver4", "znver5"):
        monkeypatch.setattr(target, "cpu", lambda name=name: replace(cpu, name=name))
        with target.using(WIDE[0]) as isa:
            taken = mixing.refuses(case.problem("grad_weight"), isa) is None
        assert taken == (staged and name == "znver4")


@pytest.mark.skipif(not WIDE, reason="registers that take two turns are those of AVX-512")
@pytest.mark.parametrize(("c_in", "size", "tile"), [
    (128, (56, 56), (5, 4)), (128, (64, 64), (4, 4)), (24, (56, 56), (3, 6)),
])  # fmt: skip
def test_tiles_whose_sums_wait_leave_enough_tasks_and_have_room_in_the_first_cache(c_in, size, tile, zen4):
    with target.using(WIDE[0]) as isa:
        asked = mixing.mixing_grad(Case(4, c_in, 16, size, (1, 1), dtype="float16").problem("grad_weight"), isa)
    assert (asked.tile.sources, asked.tile.results) == tile


def test_it_takes_the_cases():
    """All of them, but for sums of too few weights and rows of a channel that would share a bias."""
    refused = {
        (role, k) for role in ROLES for k, c in enumerate(CASES) if mixing.refuses(c.problem(role), target.isa())
    }
    shared = {("grad_input", k) for k, case in enumerate(CASES) if case.bias and case.spec.taps > 1}
    assert refused == shared | {("grad_weight", 9)}


def test_every_tile_agrees():
    """Whatever the results and vectors of a tile: a sum has one order."""
    case, isa = Case(2, 16, 40, (5, 70), (5, 1), groups=8), target.isa()
    for role, tiles in {
        "forward": [MixTile(k, v) for k in (1, 2, 3, 5) for v in (1, 2, 4)],
        "grad_input": [MixTile(k, v) for k in (1, 3, 7) for v in (1, 2)],
        "grad_weight": [MixGradTile(s, k) for s in (1, 3, 10) for k in (1, 2)],
    }.items():
        names = {"forward": ("x", "w", "g"), "grad_input": ("g", "w", "x"), "grad_weight": ("x", "g", "w")}[role]
        problem, arrays, results = case.problem(role), case.arrays(), []
        plan = mixing.plan(problem, isa)
        for tile in tiles:
            given = replace(plan, tile=tuple((n, getattr(tile, n)) for n, _ in plan.tile))
            result = np.full_like(arrays[names[2]], np.nan)
            none = () if role == "grad_weight" else (None,)
            mixing.bind(given, isa)(*(arrays[n] for n in names[:2]), *none, result)
            results.append(result)
        assert all((result == results[0]).all() for result in results)


@pytest.mark.parametrize("role", ROLES)
def test_an_infinity_reaches_only_what_reads_it(role):
    check_infinity(mixing, Case(2, 8, 16, (6, 37), (6, 1), groups=8), role, (1, 1, 0, 36))


@pytest.mark.parametrize("role", ROLES)
def test_a_new_image_size_compiles_nothing(role):
    check(mixing, Case(1, 8, 16, (22, 128), (22, 1), groups=8), role)
    before = jit.kernel_count()
    check(mixing, Case(3, 9, 18, (22, 77), (22, 1), groups=9), role)
    assert jit.kernel_count() == before


@pytest.mark.parametrize(
    ("case", "role", "why"),
    [
        (Case(1, 8, 8, (9, 9), (8, 1), groups=8), "forward", "a pixel of y does not meet one pixel of x"),
        (Case(1, 8, 8, (9, 9), (1, 9), groups=8), "forward", "a pixel of y does not meet one pixel of x"),
        (
            Case(1, 8, 8, (9, 9), (9, 1), padding=((0, 0), (1, 0)), groups=8),
            "forward",
            "a pixel of y does not meet one pixel of x",
        ),
        (Case(1, 8, 8, (9, 9), (1, 1), 2, groups=8), "forward", "a pixel of y does not meet one pixel of x"),
        *(
            (
                Case(1, 8, 8, (n, n), (1, 1), n + 1, padding=((n, 0),) * 2, groups=8),
                role,
                "a pixel of y does not meet one pixel of x",
            )
            for role in ROLES
            for n in (1, 2)
        ),  # as many results as samples, of which some meet padding
        (Case(1, 16, 16, (9, 9), (1, 1)), "forward", "products of 16 rows by 16 are not few"),
        (Case(1, 2, 2, (9, 9), (1, 1)), "grad_weight", "1 blocks of weights are too few tasks"),
        (
            Case(1, 8, 8, (9, 9), (9, 1), groups=8, bias=True),
            "grad_input",
            "a pixel of y does not meet one pixel of x",
        ),
    ],
)
def test_what_it_leaves_to_others(case, role, why):
    assert mixing.refuses(case.problem(role), target.isa()) == why


def test_the_gradient_of_a_transposed_layers_bias_is_left_to_a_pass_of_its_own():
    """It is the sum of x, of which a row is not a channel."""
    problem = replace(CASES[0].problem("grad_weight"), bias=True)
    plans = [mixing.plan(replace(problem, transposed=transposed), target.isa()) for transposed in (False, True)]
    assert [plan.sums_upstream for plan in plans] == [True, False]


@pytest.mark.parametrize("role", ROLES)
def test_filters_over_all_electrodes_are_its(role):
    problem = Case(4, 8, 16, (22, 512), (22, 1), groups=8).problem(role)
    assert select.choose(problem, target.isa()).algorithm == "mixing"
