"""The dense weight gradient against its definition, on every instruction set, between guard pages."""

import ctypes
from dataclasses import replace
from itertools import product
from math import prod

import numpy as np
import pytest

from lucid.core.dtypes import as_dtype
from lucid.core.errors import PlanError
from lucid.kernels import select, target
from lucid.kernels.algorithms import weight_grad, weight_grad_kernel
from lucid.kernels.algorithms.base import address
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.weight_grad_kernel import BOX
from lucid.kernels.algorithms.weight_grad_split import Tile, boxes, narrower_tile, split, swapped, tiles
from lucid.kernels.ir import f32
from lucid.kernels.isa import AVX512, AVX512_BF16
from tests.kernels.algorithms.dense_cases import HALF
from tests.kernels.algorithms.patches import (
    Case,
    bound,
    check,
    check_both,
    check_infinity,
    check_threads,
    expected,
    run,
    run_both,
)
from tests.kernels.guard import run_guarded_cases

ISAS = [isa.name for isa in target.cpu().isas]
HALF_ISAS = [isa.name for isa in target.cpu().runnable]

CASES = [
    Case(1, 1, 1, (1,), (1,)),
    Case(4, 1, 8, (16,), (3,), padding=1),
    Case(2, 3, 5, (9,), (3,), 2, 2, ((1, 3),)),
    Case(1, 2, 17, (300,), (31,), 5, 1, ((0, 7),)),
    Case(1, 1, 40, (400,), (120,), 40),
    Case(2, 5, 33, (7, 7), (1, 1)),
    Case(2, 5, 31, (9, 8), (1, 1), 2),
    Case(3, 4, 37, (13, 19), (3, 5), (2, 1), (1, 2), ((1, 0), (4, 2))),
    Case(3, 8, 12, (13, 9), (3, 3), padding=1, groups=4),
    Case(6, 35, 50, (5, 6), (3, 3), padding=1),
    Case(1, 3, 16, (33, 31), (3, 3), 2, padding=1),
    Case(2, 5, 15, (4, 5, 6), (3, 2, 3), padding=1),
    Case(2, 2, 3, (5, 4, 3), (3, 1, 1), padding=((1, 1), (0, 0), (0, 0))),
    Case(1, 2, 2, (3, 3), (2, 2), 5, padding=4),
    Case(1, 3, 16, (5, 6, 7), (2, 3, 5), padding=2),
    Case(2, 1, 7, (90,), (65,)),
    Case(1, 7, 12, (6, 20), (3, 3), 1, (1, 2), padding=1),
    Case(2, 3, 5, (9, 2), (3, 2), padding=1),
]
#: Enough pixels for several chunks, and channels for several parts.
CHUNKED = [Case(3, 3, 9, (30, 57), (3, 3), padding=1), Case(2, 130, 70, (12, 12), (2, 2))]
#: More results than sources, or vectors that these fill better: they are packed, in one chunk or several.
SWAPPED = [
    Case(2, 16, 36, (9, 5), (1, 1)), Case(3, 32, 50, (50, 31), (1, 1)), Case(1, 16, 36, (1200,), (1,)),
    Case(6, 64, 144, (11, 7), (1, 1), groups=4), Case(2, 141, 49, (14, 7), (1, 1)),
]  # fmt: skip
#: One box each, so that whole tiles may leave their sums in gw: steps or lanes left over, in several pieces of pixels.
STRAIGHT = [
    Case(2, 70, 100, (7, 7), (1, 1)), Case(1, 64, 131, (14, 14), (1, 1)), Case(1, 256, 62, (9, 11), (1, 1)),
    Case(1, 131, 67, (49,), (1,)), Case(3, 140, 200, (5, 5), (1, 1), groups=2),
]  # fmt: skip
#: Strides leave most samples out.
GAPS = [Case(2, 7, 30, (17, 13), (1, 1), 3), Case(1, 9, 12, (6, 7, 9), (1, 1, 1), 2), Case(1, 20, 31, (65,), (1,), 5)]
#: One tap and few channels on a side: runs of pixels that end with rows, images or pieces of a panel.
STAGED = [
    Case(4, 32, 192, (14, 14), (1, 1)), Case(4, 16, 8, (28, 28), (1, 1)), Case(2, 32, 16, (56, 56), (1, 1), 2),
    Case(2, 64, 128, (15, 10), (1, 1), groups=4), Case(4, 16, 250, (7, 7), (1, 1)), Case(1, 24, 15, (1001,), (1,)),
    Case(2, 16, 20, (9, 40), (1, 1), (2, 1)), Case(2, 32, 16, (57, 57), (1, 1), 2), Case(1, 24, 15, (1001,), (1,), 2),
]  # fmt: skip
#: Odd rows so long that they are cut, for pairs of pixels: what is cut short ends in one that is alone.
CUT = [Case(1, 2, 40, (3001,), (5,), padding=2), Case(1, 40, 70, (2049,), (3,)), Case(1, 3, 64, (4501,), (10,), 5)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("isa", ISAS)
def test_definition(isa, dtype):
    def one(case):
        check(weight_grad, case.typed(dtype), "grad_weight", "end")
        check(weight_grad, case.typed(dtype), "grad_weight", "start")

    with target.using(isa):
        run_guarded_cases(one, CASES + CHUNKED + SWAPPED + STRAIGHT)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("isa", ISAS)
def test_sums_of_g_or_x_in_the_same_pass(isa, dtype):
    def one(case):
        for where, transposed in product(("end", "start"), (False, True)):
            check_both(weight_grad, case.typed(dtype), where, transposed)

    with target.using(isa):
        run_guarded_cases(one, CASES + CHUNKED + SWAPPED + STRAIGHT)


@pytest.mark.parametrize("case", CASES + CHUNKED + CUT, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_number_of_x_is_one_box_s(case, dtype):
    """Where windows overlap, leave gaps, or end before x does."""
    problem = replace(case.typed(dtype).problem("grad_weight"), bias=True, transposed=True)
    made = split(problem, AVX512_BF16)
    counts = np.zeros(problem.batch * problem.c_in * prod(problem.size), int)
    _, height, width = made.cut.window.size
    for row in boxes(problem, made)[:-1]:
        own, images, planes, rows, length = row[BOX.index("own") :]
        for n, z, y in product(range(images), range(planes), range(rows)):
            first = own + n * problem.c_in * prod(problem.size) + (z * height + y) * width
            counts[first : first + length] += 1
    of_first_channel = counts.reshape(problem.batch, problem.c_in, -1)[:, 0]
    assert (of_first_channel == 1).all()


@pytest.mark.parametrize("dtype", sorted(HALF))
@pytest.mark.parametrize("isa", HALF_ISAS)
def test_half_precision_is_summed_in_float32_and_rounded_once(isa, dtype):
    unit, tiny = HALF[dtype]

    def one(case):
        arrays = {name: a.astype(as_dtype(dtype).numpy) for name, a in case.arrays().items()}
        want = expected(case, "grad_weight", arrays)
        sum_of_g = np.moveaxis(arrays["g"].astype(np.float64), 1, 0).reshape(case.c_out, -1).sum(1)
        off = bound(case, "grad_weight", arrays) * (1 + unit) + unit * np.abs(want) + tiny
        for where in ("end", "start"):
            gw, gb = run_both(weight_grad, case.typed(dtype), arrays, where)
            assert (np.abs(gw.astype(np.float64) - want) <= off).all()
            np.testing.assert_allclose(gb.astype(np.float64), sum_of_g, rtol=unit, atol=1e-3)
            check_both(weight_grad, case.typed(dtype), where, transposed=True)

    with target.using(isa):
        run_guarded_cases(one, CASES + CHUNKED + CUT + STRAIGHT + GAPS + STAGED)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", [1, 7, 8, 9, 15, 16, 17, 31, 33])
def test_sizes_about_the_vector_width(isa, width):
    with target.using(isa):
        check(weight_grad, Case(2, 2, width, (width,), (3,), padding=1), "grad_weight")
        check(weight_grad, Case(1, width, 3, (3, width), (2, 1)), "grad_weight")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("vectors", [5, 6, 7])
def test_several_vectors_of_channels(isa, vectors):
    """Panels wider than four vectors, the last one cut short."""
    with target.using(isa):
        channels = vectors * max(target.isa().lanes(f32), 4) - 1
        check(weight_grad, Case(2, 5, channels, (9, 13), (3, 3), padding=1), "grad_weight")
        check(weight_grad, Case(1, 26, channels, (11,), (1,)), "grad_weight")


@pytest.mark.parametrize("case", CHUNKED + SWAPPED[2:3] + STRAIGHT[:2], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_bits_do_not_depend_on_threads(case, transposed):
    check_threads(lambda: run_both(weight_grad, case, case.arrays(), "end", transposed))


def test_pixels_of_cut_rows_are_paired():
    splits = [split(case.typed("bfloat16").problem("grad_weight"), AVX512_BF16) for case in CUT]
    assert all(made.grain.depth == 2 and made.cut.boxes > 1 and made.cut.box[3] % 2 == 0 for made in splits)
    assert sum(made.tail > 0 for made in splits) > 1


def test_whole_tiles_leave_their_sums_in_gw_where_vectors_take_turns(monkeypatch):
    def straight(case, dtype="float32", turned=True):
        problem = swapped(case.typed(dtype).problem("grad_weight"))
        return split(problem, AVX512, turned).straight

    zen4, zen5 = (replace(target.cpu(), name=name, runnable=(AVX512,)) for name in ("znver4", "znver5"))
    monkeypatch.setattr(target, "cpu", lambda: zen4)
    split.cache_clear()
    assert all(map(straight, STRAIGHT))
    assert all(weight_grad.plan(case.problem("grad_weight"), AVX512)["swapped"] for case in STRAIGHT)
    assert not straight(STRAIGHT[0], turned=False), "rows of gw are not the sums' as they lie"
    assert all(straight(case, dtype) for case in STRAIGHT for dtype in HALF)
    assert not straight(Case(8, 256, 256, (56, 56), (1, 1))), "several boxes add to the same sums"
    monkeypatch.setattr(target, "cpu", lambda: zen5)
    split.cache_clear()
    assert not any(map(straight, STRAIGHT))
    split.cache_clear()


@pytest.mark.parametrize("dtype", sorted(HALF))
def test_halves_are_not_framed_where_strides_leave_most_samples_out(monkeypatch, dtype):
    def in_place(case):
        made = split(case.typed(dtype).problem("grad_weight"), AVX512_BF16)
        return made.in_place and not made.staged

    def on(name):
        machine = replace(target.cpu(), name=name, runnable=(AVX512_BF16,))
        monkeypatch.setattr(target, "cpu", lambda: machine)
        split.cache_clear()

    on("znver4")
    assert all(map(in_place, GAPS))
    assert not in_place(replace(GAPS[0], stride=1)), "each number of a frame is used"
    assert not in_place(replace(GAPS[0], kernel=(3, 3))), "by several taps"
    assert not in_place(replace(GAPS[0], padding=1))
    on("znver5")
    assert not any(map(in_place, GAPS))
    split.cache_clear()


def test_halves_of_one_tap_are_widened_before_a_tile_where_vectors_take_turns(monkeypatch):
    def staged(case, dtype="float16"):
        return weight_grad.plan(case.typed(dtype).problem("grad_weight"), AVX512)["staged"]

    zen4, zen5 = (replace(target.cpu(), name=name, runnable=(AVX512,)) for name in ("znver4", "znver5"))
    monkeypatch.setattr(target, "cpu", lambda: zen4)
    split.cache_clear()
    assert all(staged(case, dtype) for case in STAGED for dtype in HALF)
    assert not any(staged(case, "float32") for case in STAGED)
    assert not staged(replace(STAGED[2], stride=3))
    monkeypatch.setattr(target, "cpu", lambda: zen5)
    split.cache_clear()
    assert not any(map(staged, STAGED))
    split.cache_clear()


@pytest.mark.parametrize("case", STAGED[:4], ids=str)
def test_bits_of_halves_do_not_depend_on_threads(case):
    case = case.typed("float16")
    arrays = {name: a.astype(np.float16) for name, a in case.arrays().items()}
    check_threads(lambda: run_both(weight_grad, case, arrays, "end", False))


def test_fewer_channels_are_packed():
    def is_swapped(case, **changed):
        return weight_grad.plan(replace(case.problem("grad_weight"), **changed), AVX512)["swapped"]

    assert all(map(is_swapped, SWAPPED))
    turned = [replace(case, c_in=case.c_out, c_out=case.c_in) for case in SWAPPED]
    assert not any(map(is_swapped, turned))
    first = SWAPPED[0]
    assert not any(
        map(is_swapped, (replace(first, stride=2), replace(first, padding=1), replace(first, kernel=(1, 3))))
    )
    plans = [weight_grad.plan(case.problem("grad_weight"), AVX512) for case in SWAPPED]
    assert max(plan["chunks"] for plan in plans) > 1


def test_where_vectors_take_turns_a_tile_may_be_narrower():
    plain = Case(1, 1, 1, (1, 1, 1), (1, 1, 1))

    def narrower(usual, c_out, sums):
        return narrower_tile(usual, tiles(AVX512, plain.spec), 16, c_out, sums, 64)

    assert narrower(Tile(4, 5), 512, 10) == Tile(2, 5), "rows of g are packed for few products"
    assert narrower(Tile(4, 6), 512, 512) == Tile(4, 6), "what it gains is not sure"


def test_several_chunks_are_tested():
    plans = [weight_grad.plan(case.problem("grad_weight"), target.isa()) for case in CHUNKED]
    assert max(plan["chunks"] for plan in plans) > 1
    assert max(-(-plan.problem.c_in // plan["c_part"]) for plan in plans) > 1


def test_neighbouring_taps_share_an_offset_in_tiles_of_one_vector():
    def tile(case):
        return split(case.problem("grad_weight"), AVX512).tile

    assert tile(Case(1, 16, 16, (64, 64), (5, 5), padding=2)) == Tile(1, 5, 5)
    assert tile(Case(1, 16, 16, (64, 64), (5, 5), 1, 2, padding=4)).columns == 1
    assert tile(Case(1, 16, 32, (64, 64), (5, 5), padding=2)).columns == 1


def test_an_odd_vector_joins_a_wide_tile():
    def tile(c_in, c_out):
        return split(Case(1, c_in, c_out, (14, 14), (1, 1)).problem("grad_weight"), AVX512).tile

    assert [tile(480, c_out) for c_out in (64, 80, 112)] == [Tile(4, 6), Tile(5, 4), Tile(7, 3)]
    assert tile(100, 160).vectors < 5, "wider panels cost more than the few products that they save"


def test_x_is_read_in_place_where_there_is_neither_padding_nor_another_type():
    def in_place(case):
        return split(case.problem("grad_weight"), AVX512).in_place

    plain = Case(1, 3, 9, (30, 17), (3, 3), 2)
    assert in_place(plain)
    assert not in_place(replace(plain, padding=((0, 0), (0, 1))))
    assert not in_place(plain.typed("float16"))


@pytest.mark.parametrize("isa", ISAS)
def test_an_infinity_reaches_only_the_taps_that_read_it(isa):
    with target.using(isa):
        check_infinity(weight_grad, Case(2, 3, 5, (6, 7), (3, 3), padding=1), "grad_weight", (1, 1, 5, 6))


@pytest.mark.parametrize("dtype", sorted(HALF))
@pytest.mark.parametrize("isa", HALF_ISAS)
@pytest.mark.parametrize("case", [
    Case(1, 2, 3, (3, 7), (3, 3), padding=1), Case(1, 2, 3, (3, 8), (1, 3), 2), Case(1, 1, 2, (9,), (1,)),
], ids=str)  # fmt: skip
def test_an_infinity_in_half_precision_reaches_only_the_taps_that_read_it(case, isa, dtype):
    for place in np.ndindex(case.size):
        arrays = {name: a.astype(as_dtype(dtype).numpy) for name, a in case.arrays().items()}
        arrays["x"][(0, 0, *place)] = np.inf
        with target.using(isa):
            got = run(weight_grad, case.typed(dtype), "grad_weight", arrays)
        want = expected(case, "grad_weight", arrays)
        np.testing.assert_array_equal(np.isfinite(got.astype(np.float32)), np.isfinite(want))


def test_a_new_image_size_compiles_nothing():
    from lucid.kernels import jit

    check(weight_grad, Case(1, 8, 20, (12, 12), (3, 3)), "grad_weight")
    before = jit.kernel_count()
    check(weight_grad, Case(3, 8, 20, (9, 15), (3, 3), padding=1), "grad_weight")
    assert jit.kernel_count() == before


def test_other_roles_are_refused():
    with pytest.raises(PlanError, match="it computes grad_weight, not forward"):
        select.choose(CASES[1].problem("forward"), target.isa(), "weight_grad")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 9])
@pytest.mark.parametrize("again", [0, 1])
def test_tiles_sum_over_any_number_of_pixels(isa, count, again):
    rng, (vectors, rows) = np.random.default_rng(count), (3, 4)
    with target.using(isa) as machine:
        wide = vectors * machine.lanes(f32)
        entry = weight_grad_kernel.tile_address(Grain(f32), True, vectors, rows, 1, None)
        panel, frame = rng.standard_normal((count, wide)).astype("f4"), rng.standard_normal(99).astype("f4")
        starts, offsets = rng.integers(0, 40, count), rng.integers(0, 50, rows)
        to, asks = rng.standard_normal((rows, wide + 1)).astype("f4"), np.zeros(count, np.int64)
        met = frame[np.add.outer(starts, offsets)].astype("f8")
        want = met.T @ panel + again * to[:, :wide]
        arrays = [address(a) for a in (panel, frame, starts, offsets, to)]
        call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 10)(entry)
        call(count, *arrays, wide + 1, again, address(asks), address(frame))
        assert np.allclose(to[:, :wide], want, rtol=1e-5, atol=1e-5)
