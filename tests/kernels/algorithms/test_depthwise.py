"""Depthwise convolution and its gradients against their definitions, on every instruction set, between guard pages."""

from dataclasses import replace
from itertools import product

import pytest

from lucid.kernels import jit, target
from lucid.kernels.algorithms import depthwise
from tests.kernels.algorithms.patches import HALF, Case, check, check_both, check_infinity, check_threads, run, run_both
from tests.kernels.guard import run_guarded_cases

ISAS = [isa.name for isa in target.cpu().isas]
HALF_ISAS = [isa.name for isa in target.cpu().runnable]
ROLES = ["forward", "grad_input", "grad_weight"]

CASES = [
    Case(1, 1, 1, (1,), (1,)),
    Case(2, 3, 3, (9,), (3,), padding=1, groups=3),
    Case(2, 3, 6, (40,), (3,), padding=1, groups=3, bias=True),
    Case(1, 2, 2, (300,), (31,), padding=15, groups=2),
    Case(2, 2, 4, (150,), (75,), padding=((40, 20),), groups=2, bias=True),
    Case(1, 2, 2, (60,), (300,), padding=150, groups=2),
    Case(1, 2, 4, (7, 80), (1, 60), (2, 1), padding=((1, 0), (20, 9)), groups=2),
    Case(1, 2, 2, (99,), (3,), 1, 16, 16, groups=2),
    Case(1, 2, 2, (99,), (4,), 2, 1, 1, groups=2),
    Case(1, 2, 2, (99,), (4,), 3, 2, ((5, 0),), groups=2),
    Case(1, 2, 2, (99,), (2,), 5, groups=2),
    Case(1, 2, 2, (300,), (31,), 4, 1, 15, groups=2),
    Case(1, 2, 4, (13, 70), (3, 5), (1, 4), padding=((1, 1), (2, 0)), groups=2),
    Case(1, 2, 2, (9, 50), (3, 3), 3, 2, 1, groups=2),
    Case(1, 2, 2, (9,), (3,), padding=5, groups=2, bias=True),
    Case(2, 3, 3, (13, 19), (3, 3), padding=1, groups=3, bias=True),
    Case(2, 3, 3, (13, 19), (3, 5), (2, 1), (1, 2), ((1, 0), (4, 2)), groups=3),
    Case(2, 4, 8, (17, 33), (7, 7), padding=3, groups=4),
    Case(2, 4, 4, (17, 16), (5, 5), 2, padding=2, groups=4),
    Case(2, 4, 6, (9, 10), (4, 4), 2, padding=1, groups=2, bias=True),
    Case(1, 2, 2, (9, 10), (3, 3), 1, 2, 2, groups=2),
    Case(2, 2, 4, (4, 5, 6), (3, 2, 3), (1, 2, 1), padding=1, groups=2, bias=True),
    Case(1, 2, 2, (4, 5, 6), (3, 3, 3), padding=1, groups=2),
    Case(1, 2, 2, (2, 2), (1, 1), 3, groups=2),
    Case(2, 2, 2, (23, 37), (9, 9), padding=4, groups=2, bias=True),
    Case(1, 2, 4, (30, 19), (13, 3), (2, 1), padding=((6, 5), (1, 1)), groups=2),
    Case(1, 2, 2, (5, 21, 50), (3, 15, 5), padding=((1, 1), (7, 7), (0, 2)), groups=2),
]
#: Enough pixels for several boxes of one image.
BOXED = [Case(2, 2, 2, (90, 81), (3, 3), padding=1, groups=2), Case(1, 1, 1, (14000,), (2,), 2)]
#: Enough work for several chunks.
CHUNKED = [Case(3, 1, 9, (20000,), (9,), padding=1)]


TYPES = [*product(ISAS, ["float32", "float64"]), *product(HALF_ISAS, HALF)]


@pytest.mark.parametrize(("isa", "dtype"), TYPES)
@pytest.mark.parametrize("role", ROLES)
def test_definition(role, isa, dtype):
    def one(case):
        check(depthwise, case.typed(dtype), role, "end")
        check(depthwise, case.typed(dtype), role, "start")

    with target.using(isa):
        run_guarded_cases(one, CASES)


@pytest.mark.parametrize("role", ROLES[:2])
def test_many_taps_down_are_served_in_parts(role):
    """Where a vector takes two turns, all but as many as are left."""
    plan = depthwise.plan(CASES[-3].problem(role), target.isa())
    assert plan["span"] in ((4, 5) if target.cpu().turns(target.isa()) > 1 else (1,))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("case", BOXED, ids=str)
def test_several_boxes(case, role):
    assert depthwise.plan(case.problem(role), target.isa())["boxes"] > 1
    check(depthwise, case, role)


#: Rows of whole lines and others, read in place or framed: one vector, tiles cut short both ways, phases, depth.
STREAMED = [
    *(Case(2, 2, 2, (width,), (3,), padding=1, groups=2) for width in (16, 160, 288, 17, 161, 289)),
    Case(1, 1, 1, (156,), (3,), padding=1),
    Case(1, 2, 2, (160,), (5,), 1, 40, 80, groups=2, bias=True),
    Case(2, 2, 4, (144,), (3,), padding=((2, 0),), groups=2, bias=True),
    Case(1, 2, 2, (16,), (3,), padding=30, groups=2),
    Case(1, 4, 4, (96,), (3,), padding=1, groups=2),
    Case(1, 2, 2, (80,), (4,), 2, padding=1, groups=2),
    Case(1, 2, 2, (10, 112), (3, 3), padding=1, groups=2, bias=True),
    Case(1, 2, 2, (10, 32), (4, 4), 2, padding=1, groups=2),
    Case(1, 2, 2, (5, 1, 144), (3, 1, 3), padding=1, groups=2),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("role", ROLES[:2])
def test_stores_past_the_caches(role, isa, monkeypatch):
    small = replace(target.cpu(), l3_bytes=0)
    monkeypatch.setattr(target, "cpu", lambda: small)

    def one(case):
        for dtype in ("float32", "float64"):
            check(depthwise, case.typed(dtype), role, "start")  # aligned to the page
            check(depthwise, case.typed(dtype), role, "end")  # and if the size is

    with target.using(isa):
        in_place = "read in place" in depthwise.plan(STREAMED[0].problem(role), target.isa()).why
        assert in_place == isa.startswith("avx512")
        run_guarded_cases(one, STREAMED)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", [1, 7, 8, 9, 15, 16, 17, 31, 33])
def test_sizes_about_the_vector_width(isa, width):
    with target.using(isa):
        for role in ROLES:
            check(depthwise, Case(1, 2, 2, (width,), (3,), padding=1, groups=2), role)
            check(depthwise, Case(1, 2, 2, (5, width), (3, 2), 2, padding=1, groups=2), role)


@pytest.mark.parametrize("role", ROLES)
def test_bits_do_not_depend_on_threads(role):
    check_threads(lambda: run(depthwise, BOXED[0], role, BOXED[0].arrays()))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("role", ROLES)
def test_an_infinity_reaches_only_what_reads_it(role, isa):
    with target.using(isa):
        check_infinity(depthwise, Case(2, 2, 2, (6, 7), (3, 3), padding=1, groups=2), role, (1, 1, 5, 6))


@pytest.mark.parametrize("role", ROLES)
def test_a_new_image_size_compiles_nothing(role):
    check(depthwise, Case(1, 2, 2, (40, 40), (3, 3), groups=2), role)
    before = jit.kernel_count()
    check(depthwise, Case(3, 4, 4, (52, 44), (3, 3), padding=1, groups=4), role)
    assert jit.kernel_count() == before


def test_large_groups_are_refused():
    problem = Case(1, 32, 32, (9,), (3,)).problem("forward")
    assert depthwise.refuses(problem, target.isa()) == "groups of 32 x 32 channels have more than 64 pairs"


@pytest.mark.parametrize(("isa", "dtype"), TYPES)
def test_sums_of_g_or_x_in_the_same_pass(isa, dtype):
    def one(case):
        for where, transposed in product(("end", "start"), (False, True)):
            check_both(depthwise, case.typed(dtype), where, transposed)

    with target.using(isa):
        run_guarded_cases(one, CASES + CHUNKED)


@pytest.mark.parametrize("transposed", [False, True])
def test_bits_of_both_sums_do_not_depend_on_threads(transposed):
    case = CHUNKED[0]
    assert depthwise.plan(case.problem("grad_weight"), target.isa())["chunks"] > 1
    check_threads(lambda: run_both(depthwise, case, case.arrays(), "end", transposed))
