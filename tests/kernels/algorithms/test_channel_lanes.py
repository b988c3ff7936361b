"""Depthwise convolution with channels in lanes against the definitions, between guard pages."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from lucid.kernels import jit, select, target
from lucid.kernels.algorithms import channel_lanes
from lucid.kernels.algorithms.channel_lanes_frame import COLUMNS
from lucid.kernels.runtime import threads
from tests.kernels.algorithms.patches import HALF, Case, check, check_both, check_infinity
from tests.kernels.guard import guarded, run_guarded_cases

ISAS = [isa.name for isa in target.cpu().isas if isa.name != "scalar"]
pytestmark = pytest.mark.skipif(not ISAS, reason="a scalar has no lanes")
ROLES = ["forward", "grad_input", "grad_weight"]

#: Full and partial blocks of channels; fewer pixels than lanes, as many, some more; padding that is uneven, missing, or
#: wider than the plane; rows in several tiles; strides that skip slices and leave pixels over; dilations; volumes,
#: whose slices come round in the ring; lines; more images than one for a task.
CASES = [
    Case(1, 16, 16, (7, 7), (7, 7), padding=3, groups=16, bias=True),
    Case(2, 5, 5, (3, 2), (3, 3), padding=1, groups=5),
    Case(3, 33, 33, (4, 4), (3, 3), padding=1, groups=33, bias=True),
    Case(1, 18, 18, (5, 17), (3, 3), padding=((0, 2), (2, 0)), groups=18, bias=True),
    Case(2, 17, 17, (14, 14), (5, 5), 2, padding=2, groups=17, bias=True),
    Case(1, 16, 16, (8, 9), (4, 4), 2, padding=1, groups=16),
    Case(1, 16, 16, (11, 13), (2, 3), 3, padding=1, groups=16),
    Case(1, 16, 16, (2, 3), (5, 5), padding=4, groups=16, bias=True),
    Case(1, 16, 16, (9, 10), (3, 3), 1, (2, 3), ((2, 2), (3, 3)), groups=16),
    Case(2, 20, 20, (5, 4, 3), (3, 3, 3), padding=1, groups=20, bias=True),
    Case(1, 16, 16, (9, 4, 5), (2, 3, 3), (3, 2, 2), padding=1, groups=16),
    Case(1, 16, 16, (8, 5, 5), (3, 2, 3), (2, 1, 1), (3, 1, 1), padding=((3, 2), (1, 0), (1, 1)), groups=16),
    Case(2, 16, 16, (40,), (16,), padding=((7, 8),), groups=16),
    Case(1, 18, 18, (5, 14), (3, 27), padding=((1, 1), (13, 13)), groups=18, bias=True),
    Case(2, 16, 16, (6, 9), (5, 9), (1, 2), padding=((2, 2), (5, 3)), groups=16, bias=True),
    Case(1, 16, 16, (3, 7), (2, 5), 1, (1, 3), ((0, 1), (7, 5)), groups=16),
]
TYPES = [*product(ISAS, ["float32", "float64", *HALF])]


@pytest.mark.parametrize(("isa", "dtype"), TYPES)
@pytest.mark.parametrize("role", ROLES)
def test_definition(role, isa, dtype):
    def one(case):
        typed = case.typed(dtype)
        if channel_lanes.refuses(typed.problem(role), target.isa()) is None:
            check(channel_lanes, typed, role, "end")
            check(channel_lanes, typed, role, "start")
            if role == "grad_weight":
                check_both(channel_lanes, typed)

    with target.using(isa):
        run_guarded_cases(one, CASES)


@pytest.mark.parametrize(("isa", "dtype"), TYPES)
@pytest.mark.parametrize("role", ROLES[:2])
def test_the_same_bits_from_kept_weights(role, isa, dtype, monkeypatch):
    """What is kept lies against a forbidden page, at its end and at its start."""
    monkeypatch.setattr(threads, "STACK_BYTES", -1)

    def one(case):
        typed = case.typed(dtype)
        problem, given = typed.problem(role), typed.arrays()
        if channel_lanes.refuses(problem, target.isa()) is not None:
            return
        source, bias, out = ("x", "b_out", "g") if role == "forward" else ("g", "b_in", "x")
        x, w, b = given[source], given["w"], given[bias] if problem.bias else None
        region = channel_lanes.bind(channel_lanes.plan(problem, target.isa()), target.isa())
        halves, usual, wide = region.halves(), np.empty_like(given[out]), (None,) * 4
        region(x, w, b, usual, *wide)
        for where, crew in (("end", 1), ("start", 2), ("end", 3)):
            threads.set_num_threads(crew)
            with guarded((halves.kept_bytes,), np.uint8, where) as made, guarded(usual.shape, usual.dtype, where) as y:
                halves.make(None, w, b, None, made)
                halves.compute(x, w, b, y, made, *wide[1:])
                assert (y.view(np.uint8) == usual.view(np.uint8)).all()

    with target.using(isa):
        run_guarded_cases(one, CASES)


@pytest.mark.parametrize("role", ROLES)
def test_it_takes_the_cases(role):
    """All of them, with as many registers as the widest vectors have."""
    with target.using(ISAS[-1]):
        refused = [channel_lanes.refuses(case.problem(role), target.isa()) for case in CASES]
        assert target.isa().registers < 32 or refused == [None] * len(CASES)


def test_every_tile_agrees():
    """Whatever the columns of a tile: a sum has one order."""
    case = Case(2, 20, 20, (9, 14), (3, 3), padding=1, groups=20, bias=True)
    for role, (source, bias, out) in {"forward": ("x", "b_out", "g"), "grad_input": ("g", "b_in", "x")}.items():
        problem, arrays, results = case.problem(role), case.arrays(), []
        plan = channel_lanes.plan(problem, target.isa())
        for columns in (n for n in COLUMNS if n <= 8):
            result = np.full_like(arrays[out], np.nan)
            bound = channel_lanes.bind(replace(plan, tile=(("columns", columns),)), target.isa())
            bound(arrays[source], arrays["w"], arrays[bias], result)
            results.append(result)
        assert all((result == results[0]).all() for result in results)


@pytest.mark.parametrize("role", ROLES[:2])
def test_whole_rows_leave_out_products_with_padding(role):
    """Of 27 taps a row of 14 meets 14 for each result; where padding is little, tiles read it."""
    wide = Case(1, 16, 16, (14, 14), (27, 27), padding=13, groups=16)
    small = Case(1, 16, 16, (14, 14), (3, 3), padding=1, groups=16)
    with target.using(ISAS[-1]):
        if target.isa().registers == 32:
            plans = [channel_lanes.channel_lanes(case.problem(role), target.isa()) for case in (wide, small)]
            assert [plan and plan.tile.products for plan in plans] == [14 * 14, plans[1].tile.columns * 3]
            assert [plan and plan.frame.width for plan in plans] == [14, 16]


@pytest.mark.parametrize("place", [(1, 1, 5, 6), (0, 0, 0, 0)])
@pytest.mark.parametrize("role", ROLES)
def test_an_infinity_reaches_only_what_reads_it(role, place):
    check_infinity(channel_lanes, Case(2, 18, 18, (6, 7), (3, 3), padding=1, groups=18), role, place)


@pytest.mark.parametrize("role", ROLES)
def test_a_new_image_size_compiles_nothing(role):
    """Nothing but a tile of other columns, of which there are a dozen."""

    def tile(case):
        return channel_lanes.plan(case.problem(role), target.isa()).tile

    first = Case(1, 16, 16, (14, 14), (3, 3), padding=1, groups=16)
    others = [Case(3, 40, 40, (9, width), (3, 3), padding=1, groups=40) for width in range(15, 60)]
    alike = [case for case in others if tile(case) == tile(first)]
    assert alike and {n for case in others for name, n in tile(case) if name == "columns"} <= {*COLUMNS}
    check(channel_lanes, first, role)
    before = jit.kernel_count()
    for case in alike[-2:]:
        check(channel_lanes, case, role)
    assert jit.kernel_count() == before


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (Case(1, 16, 32, (7, 7), (3, 3), groups=16), "groups of 1 x 2 channels are not depthwise"),
        (Case(1, 3, 3, (7, 7), (3, 3), groups=3), "3 channels do not fill the lanes of a vector"),
        (Case(1, 16, 16, (3, 90), (1, 65), groups=16), "a row of taps does not fit in registers"),
        (Case(1, 16, 16, (90, 400), (3, 3), groups=16), "its planes do not fit in the second cache"),
    ],
)
@pytest.mark.parametrize("role", ROLES)
def test_what_it_leaves_to_others(role, case, why):
    assert channel_lanes.refuses(case.problem(role), target.isa()) == why


@pytest.mark.parametrize("role", ROLES)
def test_small_planes_and_short_volumes_are_its(role):
    small = Case(1, 768, 768, (7, 7), (7, 7), padding=3, groups=768)
    volume = Case(1, 64, 64, (8, 7, 7), (3, 3, 3), padding=1, groups=64)
    if target.isa().registers == 32:
        chosen = [select.choose(case.problem(role), target.isa()).algorithm for case in (small, volume)]
        assert chosen == ["channel_lanes"] * 2
