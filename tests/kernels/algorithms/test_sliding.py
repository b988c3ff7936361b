"""Rows that slide through registers against the definitions, between guard pages."""

from dataclasses import replace
from functools import partial
from itertools import product
from math import ceil

import numpy as np
import pytest

from lucid.core.geometry import ConvSpec
from lucid.kernels import jit, select, target
from lucid.kernels.algorithms import sliding, sliding_grad
from lucid.kernels.convolution import problem
from lucid.kernels.ir import f32
from lucid.kernels.isa import ISAS as MACHINES
from lucid.kernels.runtime import threads
from tests.kernels.algorithms.patches import HALF, Case, check, check_both, check_infinity, check_threads, run, run_both
from tests.kernels.guard import run_guarded_cases

ISAS = [isa.name for isa in target.cpu().isas if "avx512f" in isa.requires]
pytestmark = pytest.mark.skipif(not ISAS, reason="slides on AVX-512 alone")
ROLES = ["forward", "grad_input"]

#: One strip and several, cut short by one column and by all but one; taps that reach over neighbours; padding that is
#: uneven, missing, or as large as it may be; strides that leave rows and columns over; groups, and few rows; many
#: rows for numbers that are copied first, and last strips that end in half vectors, of which the source has no more, or
#: has.
CASES = [
    Case(2, 3, 3, (13, 19), (3, 3), padding=1, groups=3, bias=True),
    Case(1, 2, 2, (5, 65), (3, 3), padding=1, groups=2),
    Case(1, 2, 2, (4, 63), (3, 3), padding=((0, 2), (2, 0)), groups=2, bias=True),
    Case(1, 2, 2, (9, 49), (7, 7), padding=3, groups=2),
    Case(1, 1, 1, (2, 1), (5, 5), padding=2),
    Case(1, 2, 2, (3, 40), (3, 20), padding=((1, 1), (19, 19)), groups=2),
    Case(2, 4, 4, (17, 16), (5, 5), 2, padding=2, groups=4),
    Case(2, 4, 4, (16, 17), (4, 4), 2, padding=1, groups=4, bias=True),
    Case(1, 2, 2, (15, 34), (3, 3), 2, padding=((0, 1), (1, 0)), groups=2),
    Case(1, 2, 2, (11, 50), (5, 3), (3, 3), padding=1, groups=2),
    Case(1, 2, 2, (9, 40), (3, 5), (1, 4), padding=2, groups=2),
    Case(1, 2, 2, (10, 100), (5, 4), (4, 4), padding=((1, 1), (0, 1)), groups=2, bias=True),
    Case(1, 2, 4, (9, 28), (3, 4), (2, 3), padding=1, groups=2),
    Case(2, 2, 2, (9, 42), (5, 5), 5, padding=2, groups=2),
    Case(1, 2, 2, (12, 20), (3, 5), (1, 2), (2, 1), padding=2, groups=2),
    Case(2, 2, 2, (9, 10), (3, 3), 1, (1, 3), ((1, 1), (3, 3)), groups=2),
    Case(1, 6, 8, (9, 21), (3, 3), padding=1, groups=2, bias=True),
    Case(1, 3, 16, (8, 32), (3, 3), padding=1, bias=True),
    Case(1, 4, 2, (9, 18), (4, 4), 2, padding=1, groups=2),
    Case(2, 3, 6, (2, 40), (2, 3), padding=1, groups=3, bias=True),
    Case(1, 34, 36, (9, 21), (3, 3), 2, padding=1, groups=2, bias=True),
    Case(1, 24, 31, (7, 18), (3, 3), padding=1, bias=True),
    Case(1, 16, 16, (25, 56), (5, 5), padding=2, groups=16, bias=True),
    Case(1, 2, 2, (26, 39), (7, 7), padding=3, groups=2),
    Case(1, 16, 16, (50, 46), (4, 4), 2, padding=1, groups=16, bias=True),
    Case(1, 2, 2, (7, 24), (3, 17), padding=((1, 1), (4, 12)), groups=2),
    Case(1, 2, 2, (7, 7), (3, 3), padding=1, groups=2, bias=True),
    Case(1, 2, 2, (7, 26), (3, 3), padding=((1, 1), (0, 0)), groups=2),
]
#: Enough rows for several boxes of one plane.
BOXED = [Case(1, 1, 1, (90, 41), (3, 3), padding=1, bias=True), Case(1, 1, 1, (90, 41), (4, 4), 2, padding=1)]
TYPES = [*product(ISAS, ["float32", "float64", *HALF])]


@pytest.mark.parametrize(("isa", "dtype"), TYPES)
@pytest.mark.parametrize("role", ROLES)
def test_definition(role, isa, dtype):
    def one(case):
        check(sliding, case.typed(dtype), role, "end")
        check(sliding, case.typed(dtype), role, "start")

    with target.using(isa):
        run_guarded_cases(one, CASES + BOXED)


#: Kernels in one pass and in several, the last of one tap; strides that leave rows over; uneven padding, or as large as
#: the window; few rows, none of them whole; more channels than one in a group.
GRADIENTS = [
    Case(2, 9, 9, (13, 19), (3, 3), padding=1, groups=9),
    Case(1, 8, 8, (13, 40), (5, 5), padding=2, groups=8),
    Case(2, 8, 8, (9, 33), (7, 7), padding=3, groups=8),
    Case(1, 8, 8, (16, 17), (4, 4), 2, padding=1, groups=8),
    Case(1, 8, 8, (15, 34), (5, 5), 2, padding=((2, 1), (0, 2)), groups=8),
    Case(1, 8, 8, (11, 20), (2, 3), 3, padding=1, groups=8),
    Case(1, 8, 8, (2, 3), (5, 5), padding=4, groups=8),
    Case(1, 8, 8, (3, 16), (3, 3), padding=((5, 0), (1, 9)), groups=8),
    Case(2, 6, 16, (8, 21), (3, 3), padding=1, groups=2),
    Case(2, 66, 4, (5, 20), (3, 3), padding=1, groups=2),  # x's channels meet two of g in a task
    Case(1, 34, 5, (6, 18), (3, 3), padding=1),  # or five
    Case(2, 70, 1, (9, 18), (4, 4), padding=1),  # x's channels are dealt out, the last part has fewer
    Case(1, 33, 3, (12, 35), (3, 3), 2, padding=1),
    Case(2, 26, 4, (7, 20), (3, 5), padding=1, groups=2),
]
#: Pairs of pixels: one vector of them, half of one, several; an odd number of columns, and of what padding leaves.
PAIRED = [
    Case(2, 3, 3, (9, width), (3, taps), padding=padding, groups=3)
    for width, taps, padding in product((7, 15, 16, 33, 47, 48, 70), (2, 3, 7), (0, ((1, 1), (2, 0))))
]


def test_few_channels_of_g_deal_x_out():
    with target.using(ISAS[0]) as isa:
        asked = [sliding_grad.sliding_grad(case.problem("grad_weight"), isa) for case in GRADIENTS[-3:]]
        head = Case(1, 512, 1, (32, 32), (4, 4), padding=1).problem("grad_weight")
        assert select.choose(head, isa).algorithm == "sliding"
    assert [each.tasks for each in asked] == [35, 33, 52]


def test_few_channels_of_g_meet_a_channel_of_x_in_one_task():
    """Where those of x are tasks enough; and from beyond the caches too, where the lanes of others were empty."""
    with target.using(ISAS[0]) as isa:
        for case, results in ((GRADIENTS[-2], 3), (Case(1, 31, 3, (12, 35), (3, 3)), 1)):
            assert sliding_grad.sliding_grad(case.problem("grad_weight"), isa).results == results
        far = Case(1, 64, 3, (384, 384), (9, 9), padding=4).problem("grad_weight")
        assert select.choose(far, isa).algorithm == "sliding"


@pytest.mark.parametrize(("name", "size", "groups", "asked"), [
    ("znver5", 56, 96, False), ("znver4", 56, 96, True), ("znver4", 28, 32, False), ("znver4", 512, 96, False),
])  # fmt: skip
def test_next_planes_are_asked_for_where_the_second_cache_holds_them(name, size, groups, asked, monkeypatch):
    cpu = replace(target.cpu(), name=name, l1_bytes=32 << 10, l2_bytes=1 << 20)
    problem = Case(4, 96, 96, (size, size), (3, 3), padding=1, groups=groups).problem("grad_weight")
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    with target.using(ISAS[0]) as isa:
        assert sliding_grad.sliding_grad(problem, isa).tile.by_planes == asked


@pytest.mark.parametrize(("kernel", "stride", "downs", "passes"), [
    (7, 1, 3, [3, 2, 2]), (5, 1, 4, [3, 2]), (5, 2, 3, [3, 2]), (5, 2, 2, [2, 1, 2]), (3, 1, 1, [1, 1, 1]),
    (2, 4, 1, [1, 1]),
])  # fmt: skip
def test_passes_share_taps_down_evenly(kernel, stride, downs, passes):
    problem = Case(1, 8, 8, (20, 20), (kernel, 3), (stride, 1), groups=8).problem("grad_weight")
    with target.using(ISAS[0]) as isa:
        asked = sliding_grad.sliding_grad(problem, isa, downs)
    assert [count for *_, count in asked.passes] == passes
    taps = [(first + k) * stride + phase for phase, first, count in asked.passes for k in range(count)]
    assert sorted(taps) == list(range(kernel))
    assert asked.tile.sizes == tuple((count, False) for count in sorted(set(passes)))


@pytest.mark.parametrize("transposed", [False, True])
def test_bits_of_both_sums_do_not_depend_on_threads(transposed):
    case, results, before = GRADIENTS[-3], [], threads.get_num_threads()
    arrays = case.arrays()
    try:
        for count in (1, 2, 3, 4):
            threads.set_num_threads(count)
            results.append(run_both(sliding, case, arrays, "end", transposed))
    finally:
        threads.set_num_threads(before)
    for gw, gb in results[1:]:
        np.testing.assert_array_equal(results[0][0], gw)
        np.testing.assert_array_equal(results[0][1], gb)


@pytest.mark.parametrize(("isa", "dtype"), TYPES)
def test_gradients_of_the_weight_and_the_bias(isa, dtype):
    def one(case):
        for where in ("end", "start"):
            check(sliding, case.typed(dtype), "grad_weight", where)
            for transposed in (False, True):
                check_both(sliding, case.typed(dtype), where, transposed)

    with target.using(isa):
        run_guarded_cases(one, GRADIENTS)


#: One strip of whole vectors, of half a one and of more, and several; other strides down, and taps; padding that is
#: uneven, missing, or as wide as it may be; several boxes of a plane, and rows that are all at an edge.
FOLDED = [
    Case(2, 2, 2, (11, 64), (4, 4), 2, padding=1, groups=2, bias=True),
    Case(1, 2, 2, (14, 112), (4, 4), 2, padding=1, groups=2),
    Case(1, 2, 2, (10, 15), (4, 4), 2, padding=1, groups=2, bias=True),
    Case(1, 2, 2, (13, 45), (2, 6), (2, 2), padding=((1, 0), (5, 2)), groups=2),
    Case(1, 2, 2, (9, 83), (3, 4), (1, 2), padding=((0, 1), (0, 3)), groups=2, bias=True),
    Case(1, 2, 2, (20, 51), (6, 4), (3, 2), groups=2),
    Case(1, 1, 1, (181, 66), (4, 4), 2, padding=1),
    Case(1, 2, 2, (3, 9), (4, 4), 2, padding=((2, 1), (1, 3)), groups=2),
]


@pytest.mark.parametrize(("isa", "dtype"), [*product(ISAS, ["float32", "float64"])])
@pytest.mark.parametrize("l3_bytes", [32 << 20, 0])
def test_columns_that_are_folded(isa, dtype, l3_bytes, monkeypatch):
    halves = replace(target.cpu(), name="znver4", l3_bytes=l3_bytes)
    monkeypatch.setattr(target, "cpu", lambda: halves)
    sliding.tiles.cache_clear()

    def one(case):
        asked = sliding.tiles(case.typed(dtype).problem("forward"), target.isa())
        assert asked and all(option.tile.folds for option in asked)
        for where in ("end", "start"):
            check(sliding, case.typed(dtype), "forward", where)

    with target.using(isa):
        run_guarded_cases(one, FOLDED)
        check_threads(lambda: run(sliding, FOLDED[1].typed(dtype), "forward", FOLDED[1].typed(dtype).arrays()))
        for case, place in product(FOLDED[:3], [(0, 0, 0, 0), (0, 1, 5, 13), (0, 1, 9, 14)]):
            check_infinity(sliding, case.typed(dtype), "forward", place)
    sliding.tiles.cache_clear()


#: Strides that end rows of results by the first of their rows alone, weights in registers, in memory and copied first.
ENDED = [
    Case(1, 16, 16, (51, 56), (5, 5), 2, padding=2, groups=16, bias=True),
    Case(2, 4, 4, (17, 16), (5, 5), 2, padding=2, groups=4),
    Case(1, 2, 2, (15, 34), (3, 3), 2, padding=((0, 1), (1, 0)), groups=2),
    Case(1, 2, 2, (58, 37), (7, 7), 2, padding=3, groups=2, bias=True),
    Case(1, 2, 2, (33, 20), (4, 5), (3, 1), padding=2, groups=2),
]


@pytest.mark.parametrize(("isa", "dtype"), [*product(ISAS, ["float32", "float64", "float16"])])
@pytest.mark.parametrize("role", ROLES)
def test_rows_that_are_stored_before_other_products(role, isa, dtype, monkeypatch):
    halves = replace(target.cpu(), name="znver4")
    monkeypatch.setattr(target, "cpu", lambda: halves)
    sliding.tiles.cache_clear()

    def one(case):
        asked = sliding.tiles(case.typed(dtype).problem(role), target.isa())
        assert asked and all(option.tile.ends_first for option in asked)
        for where in ("end", "start"):
            check(sliding, case.typed(dtype), role, where)

    with target.using(isa):
        run_guarded_cases(one, ENDED)
        check_threads(lambda: run(sliding, ENDED[0].typed(dtype), role, ENDED[0].typed(dtype).arrays()))
    sliding.tiles.cache_clear()


@pytest.mark.parametrize(
    ("name", "size", "sources", "boxes"),
    [("znver4", 31, 512, 2), ("znver4", 224, 2, 8), ("znver5", 31, 512, 4), ("znver5", 224, 2, 16)],
)
def test_boxes_are_fewer_where_they_read_many_rows_again(name, size, sources, boxes, monkeypatch):
    cpu = replace(target.cpu(), name=name)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    problem = Case(4 if size < 100 else 1, sources, 1, (size, size), (4, 4), padding=1).problem("forward")
    with target.using(ISAS[0]) as isa:
        assert sliding._sliding(problem, isa, sliding.axes_of(problem), 1, 2).boxes == boxes


@pytest.mark.parametrize(("name", "tile"), [("znver4", (8, 1)), ("znver5", (4, 2))])
def test_groups_have_one_vector_where_broadcasts_take_time(name, tile, monkeypatch):
    cpu = replace(target.cpu(), name=name)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    sliding.tiles.cache_clear()
    with target.using(ISAS[0]) as isa:
        plan = sliding.plan(Case(1, 104, 104, (56, 56), (3, 3), 2, padding=1, groups=13).problem("forward"), isa)
    sliding.tiles.cache_clear()
    assert (plan["results"], plan["vectors"]) == tile


#: Rows of one vector and of several, whole or not, whose first and last lanes meet nothing, or something; taps across
#: that are even, or odd, of which one has no partner; other strides down; rows of g that are odd, and that are all at
#: an edge; groups; padding that is uneven or wider than a window.
DEALT = [
    Case(3, 8, 8, (14, 112), (4, 4), 2, padding=1, groups=8, bias=True),
    Case(2, 8, 8, (13, 64), (3, 3), 2, padding=1, groups=8, bias=True),
    Case(1, 8, 8, (13, 65), (3, 3), 2, groups=8),
    Case(1, 8, 8, (15, 33), (5, 5), 2, padding=2, groups=8),
    Case(1, 8, 8, (12, 47), (4, 4), (1, 2), padding=((2, 1), (0, 3)), groups=8),
    Case(1, 8, 8, (17, 50), (4, 3), (3, 2), padding=((0, 2), (3, 0)), groups=8),
    Case(1, 8, 8, (4, 16), (4, 4), 2, padding=1, groups=8),
    Case(2, 16, 16, (9, 40), (3, 4), 2, padding=1, groups=4, bias=True),
]


@pytest.mark.parametrize(("isa", "dtype"), [*product(ISAS, ["float32", "float64", *HALF])])
@pytest.mark.parametrize("l3_bytes", [32 << 20, 0])
def test_gradients_of_rows_that_are_dealt_out(isa, dtype, l3_bytes, monkeypatch):
    halves = replace(target.cpu(), name="znver4", l3_bytes=l3_bytes)
    monkeypatch.setattr(target, "cpu", lambda: halves)
    for unit in sliding_grad._HALVED:
        monkeypatch.setitem(sliding_grad._HALVED, unit, 0.0 if unit.startswith("dealt") else 1.0)

    def one(case):
        case = case.typed(dtype)
        assert sliding_grad.sliding_grad(case.problem("grad_weight"), target.isa()).tile.dealt
        for where in ("end", "start"):
            check(sliding, case, "grad_weight", where)
            for transposed in (False, True):
                check_both(sliding, case, where, transposed)

    with target.using(isa):
        run_guarded_cases(one, DEALT)
        check_threads(lambda: run(sliding, DEALT[0].typed(dtype), "grad_weight", DEALT[0].typed(dtype).arrays()))
        for case, place in product(DEALT[:4], [(0, 0, 0, 0), (0, 7, 5, 15), (0, 3, 12, 32)]):
            check_infinity(sliding, case.typed(dtype), "grad_weight", place)


@pytest.mark.parametrize(("isa", "dtype"), [*product(ISAS, HALF)])
def test_gradients_of_columns_in_pairs(isa, dtype):
    def one(case):
        for where in ("end", "start"):
            check(sliding, case.typed(dtype), "grad_weight", where)

    with target.using(isa):
        run_guarded_cases(one, PAIRED)
        check_threads(lambda: run(sliding, PAIRED[-1].typed(dtype), "grad_weight", PAIRED[-1].typed(dtype).arrays()))


@pytest.mark.parametrize(("isa", "dtype"), TYPES)
def test_gradients_of_images_are_added_where_they_come_from_memory(isa, dtype, monkeypatch):
    far = replace(target.cpu(), l3_bytes=0)
    monkeypatch.setattr(target, "cpu", lambda: far)

    def one(case):
        check(sliding, case.typed(dtype), "grad_weight", "end")
        for transposed in (False, True):
            check_both(sliding, case.typed(dtype), "start", transposed)

    with target.using(isa):
        run_guarded_cases(one, [replace(case, batch=3) for case in GRADIENTS])
        check_threads(lambda: run_both(sliding, GRADIENTS[0], GRADIENTS[0].arrays()))


@pytest.mark.parametrize("dtype", ["float32", *HALF])
def test_every_tile_agrees(dtype):
    """Whatever the number of results and of vectors: a sum has one order."""
    isa = target.isa()
    for case in (
        Case(2, 4, 4, (20, 70), (3, 3), padding=1),
        Case(2, 4, 4, (20, 55), (3, 3), padding=1),
        Case(2, 2, 2, (20, 70), (4, 4), 2, padding=1, groups=2),
        Case(2, 2, 6, (7, 55), (3, 3), padding=1, groups=2),
    ):
        for role in ROLES:
            problem, arrays, results = case.typed(dtype).problem(role), case.typed(dtype).arrays(), []
            first, out = ("x", "g") if role == "forward" else ("g", "x")
            for asked in sliding.tiles(problem, isa):
                result = np.full_like(arrays[out], np.nan)
                sliding.bound(asked, isa)(arrays[first], arrays["w"], None, result, None)
                results.append(result)
            assert len(results) > 2
            assert all((result == results[0]).all() for result in results)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("case", BOXED, ids=str)
def test_several_boxes(case, role):
    assert sliding.plan(case.problem(role), target.isa())["boxes"] > 1


@pytest.mark.parametrize("role", ROLES)
def test_stores_past_the_caches(role, monkeypatch):
    small = replace(target.cpu(), l3_bytes=0)
    monkeypatch.setattr(target, "cpu", lambda: small)

    def one(case):
        for dtype in ("float32", "float64", "float16"):
            check(sliding, case.typed(dtype), role, "start")  # aligned to the page
            check(sliding, case.typed(dtype), role, "end")  # and if the size is

    cases = [Case(1, 2, 2, (10, width), (3, 3), padding=1, groups=2, bias=True) for width in (16, 32, 80, 112)]
    run_guarded_cases(one, [*cases, Case(1, 2, 2, (10, 64), (4, 4), 2, padding=1, groups=2)])


@pytest.mark.parametrize("place", [(1, 1, 5, 16), (0, 0, 0, 0), (0, 0, 2, 9)])
@pytest.mark.parametrize("role", [*ROLES, "grad_weight"])
def test_an_infinity_reaches_only_what_reads_it(role, place):
    check_infinity(sliding, Case(2, 8, 8, (6, 18), (3, 3), padding=1, groups=8), role, place)


@pytest.mark.parametrize("place", [(1, 1, 5, 16), (0, 0, 0, 0), (0, 0, 2, 9)])
@pytest.mark.parametrize("role", [*ROLES, "grad_weight"])
def test_an_infinity_meets_no_zero_of_a_pair(role, place):
    for kernel in ((3, 3), (2, 2), (5, 5)):
        case = Case(2, 8, 8, (6, 18), kernel, padding=kernel[0] // 2, groups=8, dtype="bfloat16")
        check_infinity(sliding, case, role, place)


@pytest.mark.parametrize("place", [(1, 1, 5, 17), (0, 0, 0, 17)])
def test_an_infinity_beside_an_odd_row_of_g_meets_no_zero_of_a_pair(place):
    check_infinity(sliding, Case(2, 8, 8, (6, 18), (3, 2), groups=8, dtype="bfloat16"), "grad_weight", place)


#: One vector of sums and several, the last of half a one; more columns than that and fewer; a stride of two, whose
#: pairs are of one result, of both axes or one; several sources and results; numbers that are copied first.
DOTTED = [
    Case(2, 2, 2, (9, 56), (3, 3), padding=1, groups=2, bias=True),
    Case(1, 2, 2, (9, 57), (3, 3), padding=((1, 1), (2, 0)), groups=2),
    Case(1, 2, 2, (7, 14), (5, 5), padding=2, groups=2),
    Case(1, 2, 2, (7, 28), (2, 4), padding=1, groups=2),
    Case(1, 2, 2, (9, 130), (3, 2), (2, 1), padding=1, groups=2, bias=True),
    Case(1, 6, 4, (9, 33), (3, 3), padding=1, groups=2, bias=True),
    Case(1, 4, 4, (40, 56), (7, 7), padding=3, groups=4, bias=True),
]
STRIDED = [
    Case(1, 2, 2, (12, 20 + 2 * n), (3 + n % 3, 2 + n % 4), (1 + n % 2, 2), (1, 1), n % 3, groups=2, bias=True)
    for n in range(0, 30, 3)
]


@pytest.mark.parametrize(("dtype", "kernel", "stride", "apart"), [
    ("bfloat16", 7, 1, (True, True)), ("bfloat16", 3, 2, (False, False)), ("float16", 3, 1, (True, False)),
    ("float16", 5, 1, (False, False)), ("float32", 3, 1, (False, False)),
])  # fmt: skip
def test_weight_gradients_of_halves_load_x_at_each_tap(dtype, kernel, stride, apart, monkeypatch):
    """Bfloats wherever there are instructions for pairs of them, and they are neighbours."""
    cpu = target.cpu()
    for name, asked in zip(("znver4", "znver5"), apart, strict=True):
        monkeypatch.setattr(target, "cpu", lambda name=name: replace(cpu, name=name))
        with target.using(ISAS[0]) as isa:
            problem = Case(2, 8, 8, (20, 21), (kernel, kernel), stride, groups=8, dtype=dtype).problem("grad_weight")
            tile = sliding_grad.sliding_grad(problem, isa).tile
            pairs = dtype == "bfloat16" and isa.bf16_dot
            assert (tile.apart, tile.dots) == ((asked and (pairs or dtype == "float16")), asked and pairs)


#: Taps across from one column of a step on, up to as many as half a vector has, and more; strips of half a vector.
EVERY_OTHER = [
    Case(1, 8, 8, (9, 35 + 6 * taps), (3, taps), 2, padding=((1, 1), (taps // 2, 0)), groups=8, bias=True)
    for taps in (1, 2, 3, 5, 8, 9)
]


@pytest.mark.parametrize(("isa", "dtype"), [*product(ISAS, HALF)])
def test_weight_gradients_of_halves_with_a_stride_read_half_of_the_last_columns(isa, dtype, monkeypatch):
    cpu = replace(target.cpu(), name="znver4")
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    halves = [case.typed(dtype) for case in EVERY_OTHER]

    def one(case):
        for where in ("end", "start"):
            check(sliding, case, "grad_weight", where)
            check_both(sliding, case, where)

    with target.using(isa) as chosen:
        tiles = [sliding_grad.sliding_grad(case.problem("grad_weight"), chosen).tile for case in halves]
        assert [len(tile.row(16).reads) for tile in tiles] == [2, 2, 3, 3, 3, 3]
        run_guarded_cases(one, halves)
        check_threads(lambda: run(sliding, halves[2], "grad_weight", halves[2].arrays()))
        check_infinity(sliding, halves[3], "grad_weight", (0, 1, 4, 31))


#: Half a strip more than whole ones, less, and more; rows that the first pass leaves out, of x or of g, at either end
#: or both; fewer rows than taps, of g than a pass; one column of taps, two vectors of them; groups of several channels,
#: all in one task.
KEPT = [
    Case(2, 8, 8, (13, 24), (7, 7), padding=3, groups=8, bias=True),
    Case(2, 8, 8, (20, 39), (7, 7), groups=8, bias=True),
    Case(1, 8, 8, (12, 31), (5, 5), padding=((4, 0), (0, 4)), groups=8),
    Case(1, 8, 8, (12, 17), (5, 5), padding=((0, 4), (4, 0)), groups=8, bias=True),
    Case(1, 8, 8, (3, 20), (9, 9), padding=((6, 5), (4, 4)), groups=8),
    Case(1, 8, 8, (2, 9), (7, 3), padding=((6, 6), (1, 1)), groups=8),
    Case(1, 8, 8, (8, 20), (7, 7), padding=((0, 0), (3, 3)), groups=8),
    Case(1, 8, 8, (3, 20), (7, 7), padding=((0, 6), (3, 3)), groups=8),
    Case(1, 8, 8, (19, 21), (9, 1), padding=((2, 0), (0, 0)), groups=8, bias=True),
    Case(1, 8, 8, (17, 50), (4, 17), padding=((1, 2), (8, 8)), groups=8),
    Case(2, 16, 16, (9, 18), (7, 7), padding=3, groups=4, bias=True),
    Case(2, 64, 3, (9, 18), (7, 7), padding=3, bias=True),
]
#: One strip and several, the last a half one; rows that meet nothing; channels of x in several tasks.
KEPT_OF_G = [
    Case(2, 16, 16, (9, 14), (3, 3), padding=1, groups=4, bias=True),
    Case(1, 6, 8, (9, 39), (3, 3), groups=2, bias=True),
    Case(1, 3, 16, (7, 36), (2, 5), padding=((1, 0), (4, 2)), bias=True),
    Case(2, 16, 16, (5, 17), (3, 3), padding=((4, 3), (5, 3)), groups=8),
    Case(1, 3, 8, (1, 20), (3, 3), padding=((1, 2), (1, 1)), bias=True),
]


@pytest.mark.parametrize(("isa", "cases", "of_x"), [
    *((isa, cases, of_x) for isa in ISAS for cases, of_x in ((KEPT, True), (KEPT_OF_G, False))),
])  # fmt: skip
def test_weight_gradients_of_float16_read_again_what_has_been_widened(isa, cases, of_x, monkeypatch):
    cpu = replace(target.cpu(), name="znver4")
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    halves = [case.typed("float16") for case in cases]

    def one(case):
        for where in ("end", "start"):
            check(sliding, case, "grad_weight", where)
            for transposed in (False, True):
                check_both(sliding, case, where, transposed)

    with target.using(isa) as chosen:
        tiles = [sliding_grad.sliding_grad(case.problem("grad_weight"), chosen).tile for case in halves]
        assert all((tile.keeps, tile.keeps_x) == (True, of_x) for tile in tiles)
        run_guarded_cases(one, halves)
        check_threads(lambda: run(sliding, halves[-1], "grad_weight", halves[-1].arrays()))
        case = halves[-2]
        for place in ((0, 0, 0, 0), (1, 1, case.size[0] - 1, case.size[1] - 1), (0, 5, 4, 15)):
            check_infinity(sliding, case, "grad_weight", place)


@pytest.mark.parametrize(("change", "keeps"), [
    ({}, True), ({"dtype": "float32"}, False), ({"dtype": "bfloat16"}, False), ({"kernel": (3, 3)}, False),
    ({"stride": 2}, False), ({"size": (1600, 20)}, False), ({"kernel": (3, 3), "groups": 4}, True),
    ({"kernel": (3, 3), "groups": 4, "size": (90, 90)}, False),
])  # fmt: skip
def test_rows_are_kept_where_they_are_converted_several_times_and_stay_near(change, keeps, monkeypatch):
    cpu, case = (
        replace(target.cpu(), l1_bytes=1 << 15, l2_bytes=1 << 20),
        Case(1, 8, 8, (20, 20), (7, 7), groups=8, dtype="float16"),
    )
    for name in ("znver4", "znver5"):
        monkeypatch.setattr(target, "cpu", lambda name=name: replace(cpu, name=name))
        with target.using(ISAS[0]) as isa:
            asked = sliding_grad.sliding_grad(replace(case, **change).problem("grad_weight"), isa)
        assert asked.tile.keeps == (keeps and name == "znver4")


@pytest.mark.parametrize(("name", "dtype", "kernel", "count"), [
    ("znver5", "float32", 3, 3), ("znver4", "float32", 3, 2), ("znver4", "float32", 7, 3), ("znver4", "float16", 7, 2),
])  # fmt: skip
def test_weight_gradients_read_no_vector_before_the_first_tap_where_it_pays(name, dtype, kernel, count, monkeypatch):
    cpu = replace(target.cpu(), name=name)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    case = Case(2, 8, 8, (20, 21), (kernel, kernel), padding=kernel // 2, groups=8, dtype=dtype)
    with target.using(ISAS[0]) as isa:
        asked = sliding_grad.sliding_grad(case.problem("grad_weight"), isa)
    assert len(asked.tile.row(asked.lanes).places) == count


@pytest.mark.skipif("avx512_bf16" not in ISAS, reason="multiplies pairs of bfloats")
@pytest.mark.parametrize("name", ["znver4", "znver5"])
@pytest.mark.parametrize("role", ROLES)
def test_bfloats_side_by_side_are_multiplied_in_pairs(role, name, monkeypatch):
    cpu = replace(target.cpu(), name=name)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    sliding.tiles.cache_clear()

    def one(case):
        for where in ("end", "start"):
            check(sliding, case.typed("bfloat16"), role, where)

    with target.using("avx512_bf16"):
        cases = DOTTED + STRIDED * (role == "forward")
        assert all(_tile(case.typed("bfloat16"), role).dots for case in cases)
        assert not any(_tile(case.typed("float16"), role).dots for case in cases)
        assert not _tile(Case(1, 2, 2, (9, 40), (3, 3), dilation=2, groups=2, dtype="bfloat16"), role).dots
        run_guarded_cases(one, cases)
    sliding.tiles.cache_clear()


@pytest.mark.parametrize("role", [*ROLES, "grad_weight"])
def test_a_new_image_size_compiles_nothing(role):
    check(sliding, Case(1, 8, 8, (40, 40), (3, 3), padding=1, groups=8), role)
    before = jit.kernel_count()
    check(sliding, Case(3, 9, 9, (52, 37), (3, 3), padding=1, groups=9), role)  # of as many half vectors
    assert jit.kernel_count() == before


@pytest.mark.parametrize(("name", "tail", "spreads"), [("znver5", 0, False), ("znver4", 3, True)])
def test_half_vectors_where_units_take_an_instruction_in_turns(name, tail, spreads, monkeypatch):
    cpu = replace(target.cpu(), name=name)
    problem = Case(4, 4, 4, (40, 56), (7, 7), padding=3, groups=4).problem("forward")
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    with target.using(ISAS[0]) as isa:
        tile = sliding._sliding(problem, isa, sliding.axes_of(problem), 1, 2).tile
    assert (tile.tail, tile.spreads, tile.in_turns) == (tail, spreads, spreads)


@pytest.mark.parametrize(
    ("columns", "padding", "half"), [(56, 1, True), (57, 1, False), (58, 0, False), (64, 1, False)]
)
def test_half_vectors_are_read_where_a_row_has_no_more(columns, padding, half, monkeypatch):
    cpu = replace(target.cpu(), name="znver4")
    problem = Case(4, 4, 4, (40, columns), (3, 3), padding=padding, groups=4).problem("forward")
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    with target.using(ISAS[0]) as isa:
        assert sliding._sliding(problem, isa, sliding.axes_of(problem), 1, 4).tile.half == half


#: Padding on both sides, on one, none; taps that reach beyond; all columns of the last vector, or few; several sources.
HALVED = [
    Case(2, 3, 3, (9, 112), (3, 3), 2, padding=1, groups=3, bias=True),
    Case(1, 2, 2, (8, 80), (5, 5), 2, padding=2, groups=2),
    Case(1, 2, 2, (7, 47), (3, 5), (1, 2), padding=((1, 1), (0, 4)), groups=2, bias=True),
    Case(2, 2, 2, (7, 66), (2, 3), 2, padding=((0, 0), (2, 0)), groups=2),
    Case(1, 4, 6, (6, 106), (3, 3), 2, padding=1, groups=2),
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(("name", "half"), [("znver5", False), ("znver4", True)])
def test_rows_of_a_stride_end_in_half_of_two_vectors(name, half, dtype, monkeypatch):
    cpu, cases = replace(target.cpu(), name=name), [case.typed(dtype) for case in HALVED]
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    with target.using(ISAS[0]) as isa:
        asked = [(p := case.problem("forward"), ceil(p.out[-1] / isa.lanes(f32))) for case in cases]
        tiles = [sliding._sliding(p, isa, sliding.axes_of(p), 1, vectors).tile for p, vectors in asked]
        assert dtype == "float64" or all(tile.half == tile.whole == half for tile in tiles)
        run_guarded_cases(lambda case: check(sliding, case, "forward", "end"), cases)


#: Of the last step two vectors, three, one; one step or two; rows of several strides.
UNREAD = [
    Case(2, 3, 3, (9, 56), (3, 3), 3, padding=1, groups=3, bias=True),
    Case(1, 2, 2, (10, 80), (5, 5), 4, padding=2, groups=2),
    Case(1, 2, 2, (9, 40), (3, 5), (1, 4), padding=2, groups=2, bias=True),
    Case(1, 2, 2, (10, 100), (5, 4), 4, padding=((1, 1), (0, 1)), groups=2),
    Case(1, 2, 2, (9, 28), (3, 4), (2, 3), padding=((0, 1), (3, 0)), groups=2),
]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("name", "there"), [("znver5", False), ("znver4", True)])
def test_vectors_behind_a_row_of_a_longer_stride_are_not_read(name, there, dtype, monkeypatch):
    cpu, cases = replace(target.cpu(), name=name), [case.typed(dtype) for case in UNREAD]
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    with target.using(ISAS[0]) as isa:
        planned = [(p := case.problem("forward"), sliding.plan(p, isa)) for case in cases]
        tiles = [sliding._sliding(p, isa, sliding.axes_of(p), q["results"], q["vectors"]).tile for p, q in planned]
        assert [tile.unread for tile in tiles] == ([2, 3, 1, 1, 1] if there else [0] * 5)
        run_guarded_cases(lambda case: check(sliding, case, "forward", "end"), cases)


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (Case(1, 1, 1, (5, 5, 5), (3, 3, 3)), "it slides along one of two axes, not three"),
        (Case(1, 1, 1, (40,), (3,)), "one row does not slide, and what is set up for it takes longer than the row"),
        (Case(1, 1, 1, (40, 40), (31, 31)), "the rows in flight do not fit in registers, or read nothing"),
        (Case(1, 1, 1, (9, 9), (3, 3), padding=5), "the rows in flight do not fit in registers, or read nothing"),
    ],
)
def test_what_it_leaves_to_others(case, why):
    assert sliding.refuses(case.problem("forward"), target.isa()) == why


def test_groups_of_many_channels_slide_where_the_caches_hold_them():
    def refused(case, role):
        return "have more than" in (sliding.refuses(case.problem(role), target.isa()) or "")

    near = Case(1, 512, 512, (28, 28), (3, 3), 2, padding=1, groups=32)
    assert [refused(near, role) for role in (*ROLES, "grad_weight")] == [False, False, True]
    assert all(refused(Case(64, 512, 512, (28, 28), (3, 3), 2, padding=1, groups=32), role) for role in ROLES)


@pytest.mark.parametrize(("name", "slides"), [("znver5", False), ("znver4", True)])
def test_where_products_count_a_few_more_channels_slide_and_rows_without_a_source_are_free(name, slides, monkeypatch):
    cpu = replace(target.cpu(), name=name, l1_bytes=32 << 10, l2_bytes=1 << 20, l3_bytes=32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    head, unpadded = Case(1, 128, 5, (64, 64), (3, 3), padding=1), Case(64, 6, 16, (14, 14), (5, 5))
    with target.using(ISAS[0]) as isa:
        for case, role in ((head, "grad_weight"), (unpadded, "grad_input")):
            chosen = select.choose(case.problem(role), isa)
            assert (chosen.algorithm == "sliding") == slides, role


def test_gradients_that_it_leaves_to_others():
    few, apart = Case(1, 4, 4, (9, 9), (3, 3), groups=4), Case(1, 8, 8, (9, 9), (3, 3), dilation=2, groups=8)
    assert sliding.refuses(few.problem("grad_weight"), target.isa()) == "4 pairs of channels are too few tasks"
    assert sliding.refuses(apart.problem("grad_weight"), target.isa()) == "taps are apart"


def test_gradients_of_halves_in_groups_of_several_channels_are_left_to_who_widens_once():
    """But where x is loaded at each tap."""
    groups, alone = (
        Case(16, 128, 128, (28, 28), (3, 3), padding=1, groups=32),
        Case(1, 96, 96, (56, 56), (3, 3), padding=1, groups=96),
    )

    def chosen(case):
        with target.using(ISAS[0]):
            return select.choose(case.problem("grad_weight"), target.isa()).algorithm

    assert chosen(groups) == chosen(alone) == chosen(alone.typed("float16")) == "sliding"
    with target.using(ISAS[0]) as isa:
        apart = sliding_grad.sliding_grad(groups.typed("float16").problem("grad_weight"), isa).tile.apart
    assert chosen(groups.typed("float16")) == ("sliding" if apart else "depthwise")


#: One strip, several, the last of half a vector or more; columns left over; taps that reach far; results of one source.
PHASES = [
    Case(2, 3, 3, (16, 34), (4, 4), 2, padding=1, groups=3, bias=True),
    Case(1, 2, 2, (13, 112), (4, 4), 2, padding=1, groups=2),
    Case(1, 2, 2, (9, 131), (2, 2), 2, groups=2, bias=True),
    Case(1, 2, 2, (7, 65), (3, 4), 2, padding=((1, 1), (0, 3)), groups=2),
    Case(1, 4, 2, (12, 50), (4, 2), (3, 2), padding=((1, 1), (1, 1)), groups=2),
    Case(1, 2, 2, (8, 40), (2, 2), 2, (1, 5), padding=((0, 0), (3, 3)), groups=2),
    Case(1, 1, 1, (4, 2), (4, 4), 2, padding=1),
]


def _tile(case, role="grad_input"):
    problem, isa = case.problem(role), target.isa()
    return sliding._sliding(problem, isa, sliding.axes_of(problem), 1, 1).tile


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "pairs"), [("znver5", False), ("znver4", True)])
def test_two_phases_of_columns_in_one_vector(name, pairs, dtype, monkeypatch):
    cpu = replace(target.cpu(), name=name)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    sliding.tiles.cache_clear()

    def one(case):
        for where in ("end", "start"):
            check(sliding, case.typed(dtype), "grad_input", where)
        check_infinity(sliding, case.typed(dtype), "grad_input", (0, 0, 1, 0))

    with target.using(ISAS[0]):
        assert [_tile(case.typed(dtype)).pairs for case in PHASES] == [pairs] * len(PHASES)
        assert not _tile(Case(1, 2, 2, (16, 34), (3, 3), 2, padding=1, groups=2)).pairs
        assert not _tile(PHASES[0], "forward").pairs
        run_guarded_cases(one, PHASES)
    sliding.tiles.cache_clear()


#: Rows of two to four vectors, the last whole, half, or of one column; few rows and many; several boxes of a plane;
#: planes one behind the other, of fewer rows than are put ahead, or with rows that nothing reads.
RINGED = [
    Case(2, 2, 2, (9, 56), (3, 3), padding=1, groups=2, bias=True),
    Case(1, 2, 2, (2, 33), (3, 3), padding=1, groups=2),
    Case(1, 2, 2, (1, 64), (2, 3), padding=1, groups=2),
    Case(1, 2, 2, (12, 49), (3, 3), padding=((0, 2), (1, 1)), groups=2, bias=True),
    Case(1, 2, 2, (5, 40), (4, 3), (1, 1), (1, 3), padding=((1, 1), (3, 3)), groups=2),
    Case(1, 1, 1, (90, 56), (3, 3), padding=1, bias=True),
    Case(2, 7, 7, (1, 64), (2, 3), padding=1, groups=7),
    Case(1, 9, 9, (3, 56), (3, 3), padding=((2, 3), (1, 1)), groups=9, bias=True),
    Case(1, 5, 5, (11, 34), (2, 3), padding=((0, 0), (1, 1)), groups=5),
    Case(1, 150, 150, (4, 40), (3, 3), padding=1, groups=150),
    Case(1, 9, 9, (28, 28), (3, 3), padding=1, groups=9, bias=True),
    Case(1, 40, 40, (5, 17), (3, 3), padding=1, groups=40),
    Case(2, 7, 7, (1, 32), (2, 3), padding=1, groups=7),
    Case(1, 2, 2, (3, 57), (3, 3), 1, (1, 16), padding=((1, 1), (16, 16)), groups=2),
]


@pytest.mark.parametrize(("name", "rings"), [("znver5", False), ("znver4", True)])
@pytest.mark.parametrize("role", ROLES)
def test_halves_are_widened_into_a_ring_of_rows(role, name, rings, monkeypatch):
    cpu = replace(target.cpu(), name=name)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    sliding.tiles.cache_clear()

    def tile(case):
        vectors = -(-case.size[1] // 16)
        return sliding._sliding(case.problem(role), target.isa(), sliding.axes_of(case.problem(role)), 1, vectors).tile

    def one(case):
        for where in ("end", "start"):
            check(sliding, case.typed("float16"), role, where)

    with target.using(ISAS[0]):
        assert [tile(case.typed("float16")).ring for case in RINGED] == [rings] * len(RINGED)
        assert not any(tile(case).ring for case in RINGED)
        unread = Case(1, 5, 5, (7, 56), (2, 3), padding=((2, 0), (1, 1)), groups=5)  # rows of g before the first
        far = [Case(2, 2, 2, (3, 57), (3, 3), 1, (1, d), padding=((1, 1), (d, d)), groups=2) for d in (17, 30)]
        assert not any(tile(case.typed("float16")).ring for case in far)
        run_guarded_cases(one, [*RINGED, *far, *[unread] * (role == "grad_input")])
        if role == "forward":
            check_infinity(sliding, RINGED[0].typed("float16"), role, (0, 1, 4, 55))
        for case in (RINGED[0].typed("float16"), RINGED[-1].typed("float16")):
            arrays = case.arrays()
            check_threads(partial(run, sliding, case, role, arrays))
    sliding.tiles.cache_clear()


#: Rows of several strips, the last whole, half or of one column; taps beyond both ends of a strip; several planes,
#: boxes of one; dilated columns that meet what is two vectors away.
APART = [
    Case(2, 3, 3, (9, 112), (3, 3), padding=1, groups=3, bias=True),
    Case(1, 2, 2, (5, 65), (3, 3), padding=1, groups=2),
    Case(1, 2, 2, (4, 81), (2, 5), padding=((0, 1), (2, 2)), groups=2),
    Case(1, 1, 1, (70, 128), (3, 3), padding=1, bias=True),
    Case(1, 2, 2, (6, 97), (2, 2), padding=((1, 0), (1, 0)), groups=2),
    Case(1, 2, 2, (3, 90), (3, 3), 1, (1, 20), padding=((1, 1), (20, 20)), groups=2),
    Case(1, 2, 2, (5, 75), (3, 3), (2, 1), padding=1, groups=2),
]


@pytest.mark.parametrize(("name", "apart"), [("znver5", False), ("znver4", True)])
@pytest.mark.parametrize("role", ROLES)
def test_halves_beyond_a_strip_are_loaded_where_they_are_met(role, name, apart, monkeypatch):
    cpu = replace(target.cpu(), name=name)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    sliding.tiles.cache_clear()

    def one(case):
        for where in ("end", "start"):
            check(sliding, case.typed("float16"), role, where)

    with target.using(ISAS[0]):
        assert [_tile(case.typed("float16"), role).apart for case in APART] == [apart] * len(APART)
        assert not any(_tile(case, role).apart for case in APART)
        run_guarded_cases(one, APART)
        check_infinity(sliding, APART[0].typed("float16"), role, (0, 1, 4, 64))
        check_threads(partial(run, sliding, APART[0].typed("float16"), role, APART[0].typed("float16").arrays()))
    sliding.tiles.cache_clear()


#: Whole planes: rows beyond either end, two of them, more above or below, on one end alone; of dilated taps; a stride
#: across; one row of all taps, and none, where nothing is left out.
EDGED = [
    Case(2, 9, 9, (7, 56), (3, 3), padding=1, groups=9, bias=True),
    Case(1, 16, 16, (9, 20), (3, 3), groups=16),
    Case(1, 16, 16, (8, 100), (4, 3), padding=((1, 2), (1, 1)), groups=16, bias=True),
    Case(1, 16, 16, (9, 34), (3, 3), padding=((0, 2), (1, 1)), groups=16),
    Case(1, 17, 17, (6, 14), (3, 3), 1, (2, 1), padding=((2, 2), (1, 1)), groups=17),
    Case(1, 16, 16, (7, 40), (3, 3), (1, 2), padding=1, groups=16, bias=True),
    Case(1, 16, 16, (3, 33), (3, 3), padding=1, groups=16),
    Case(1, 16, 16, (2, 33), (3, 3), padding=1, groups=16),
]


@pytest.mark.parametrize(("name", "written"), [("znver5", False), ("znver4", True)])
@pytest.mark.parametrize("role", ROLES)
def test_rows_beyond_a_plane_have_no_products(role, name, written, monkeypatch):
    cpu = replace(target.cpu(), name=name)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    sliding.tiles.cache_clear()

    def one(case):
        for where, dtype in product(("end", "start"), ["float32", "float64", *HALF]):
            check(sliding, case.typed(dtype), role, where)

    with target.using(ISAS[0]):
        edges = [_tile(case.typed("float16"), role).edges for case in EDGED]
        full = role == "grad_input"  # without padding, every row of the source meets as many
        assert [any(one) for one in edges] == [written, written and not full, *[written] * 5, False]
        assert edges[:2] == ([(1, 1), (0, 0) if full else (2, 2)] if written else [(0, 0)] * 2)
        assert any(_tile(EDGED[0], role).edges) == written
        assert not any(_tile(Case(1, 16, 16, (56, 56), (3, 3), padding=1, groups=16), role).edges)
        run_guarded_cases(one, EDGED)
        check_threads(partial(run, sliding, EDGED[0].typed("float16"), role, EDGED[0].typed("float16").arrays()))
    sliding.tiles.cache_clear()


@pytest.mark.parametrize(("kernel", "size", "batch"), [(5, 112, 16), (3, 180, 6), (3, 112, 16)])
def test_products_hide_behind_many_planes_from_memory(kernel, size, batch, monkeypatch):
    cpu = replace(target.cpu(), name="znver4", l1_bytes=32 << 10, l2_bytes=1 << 20, l3_bytes=32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    sliding.tiles.cache_clear()
    spec = ConvSpec((kernel,) * 2, (1, 1), (1, 1), ((kernel // 2,) * 2,) * 2, 1)
    asked = problem("forward", spec, (batch, 64, size, size), (batch, 1, size, size), "float32", True)
    assert select.choose(asked, MACHINES["avx512"]).algorithm == "sliding"
    sliding.tiles.cache_clear()
