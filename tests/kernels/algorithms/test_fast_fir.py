"""Fast FIR filters against the definition, between guard pages, and where they are chosen."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from lucid.kernels import select, target
from lucid.kernels.algorithms import fast_fir
from lucid.kernels.ir import f32
from lucid.kernels.isa import AVX512
from lucid.kernels.plan import Epilogue
from tests.kernels.algorithms.patches import Case, bound, check_threads, check_within_channel, expected, run
from tests.kernels.convolution_fuzz import Case as Random
from tests.kernels.convolution_fuzz import run_case
from tests.kernels.guard import guarded, run_guarded_cases

NAMES = [isa.name for isa in target.cpu().isas]
HALF_NAMES = [isa.name for isa in target.cpu().runnable]

#: Odd and even taps; rows shorter than a vector, of whole tiles, and a result more or less; more padding than the row
#: has samples, and on one side alone; channels that are no whole tiles; groups, lines of an image, kernels of several.
CASES = [
    Case(2, 1, 4, (96,), (15,), padding=7, bias=True),
    Case(1, 1, 5, (500,), (16,), padding=3),
    Case(3, 2, 7, (97,), (9,), padding=((8, 0),), bias=True),
    Case(1, 4, 9, (191,), (5,), padding=((0, 4),)),
    Case(1, 3, 2, (7,), (3,), padding=12, bias=True),
    Case(1, 1, 12, (33,), (33,)),
    Case(2, 1, 3, (1000,), (40,), padding=20),
    Case(1, 1, 4, (5,), (12,), padding=9),
    Case(2, 6, 10, (64,), (7,), padding=3, groups=2, bias=True),
    Case(2, 1, 6, (5, 70), (1, 11), padding=((0, 0), (5, 5)), bias=True),
    Case(1, 2, 5, (9, 70), (3, 9), (2, 1), (2, 1), ((3, 1), (4, 4)), bias=True),
    Case(2, 1, 4, (4, 7, 40), (2, 3, 8), (1, 2, 1), (2, 1, 1), ((1, 2), (1, 0), (3, 3))),
    Case(1, 2, 8, (2, 3, 210), (1, 1, 10), padding=((0, 0), (0, 0), (4, 2))),
]


@pytest.mark.parametrize(
    ("isa", "dtype"), [*product(NAMES, ["float32", "float64"]), *product(HALF_NAMES, ["float16", "bfloat16"])]
)
def test_definition(isa, dtype):
    def one(asked):
        for where in ("end", "start"):
            check_within_channel(fast_fir, asked.typed(dtype), "forward", where)

    with target.using(isa):
        run_guarded_cases(one, CASES)


@pytest.mark.parametrize("tile", fast_fir._TILES)
def test_every_tile_and_cut(tile):
    """Pieces of a tile, of some, of all; weights that are kept."""
    asked = Case(2, 2, 13, (700,), (15,), padding=7, bias=True)
    arrays, problem, isa = asked.arrays(), asked.problem("forward"), target.isa()
    want = expected(asked, "forward", arrays)
    most = bound(asked, "forward", arrays).max() * select.error_growth(fast_fir.plan(problem, isa))
    given = arrays["x"], arrays["w"], arrays["b_out"]
    for tiles in (1, 3, 50):
        chosen = fast_fir.FastFir(problem, *tile, isa.lanes(f32), 1)
        region = fast_fir.bound(replace(chosen, piece=tiles * chosen.columns), isa)
        with guarded(want.shape, np.float32) as result:
            region(*given, result)
            assert np.all(abs(result - want) <= most), tiles
            first, halves = result.copy(), region.halves()
            with guarded((halves.kept_bytes,), np.uint8) as kept:
                halves.make(None, *given[1:], None, kept)
                result[...] = np.nan
                halves.compute(*given, result, kept)
            np.testing.assert_array_equal(result, first)


@pytest.mark.skipif("avx512f" not in target.cpu().isas[-1].requires, reason="only with AVX-512")
@pytest.mark.parametrize("epilogue", [Epilogue(), Epilogue("relu")], ids=["plain", "in registers"])
@pytest.mark.parametrize("kept", [0, 1, 3])
def test_results_past_the_caches(epilogue, kept, monkeypatch, zen4):
    """Whole lines, and nothing of their neighbours' at both ends of a row; on 1, 2 and 3 threads."""
    monkeypatch.setattr(fast_fir, "gains", lambda written_bytes, stored, isa: stored == f32)
    monkeypatch.setattr(fast_fir, "kept_rows", lambda *asked: kept)
    monkeypatch.setattr(fast_fir, "_LONG_RUN", 1)
    select._executable.cache_clear()
    isa = target.cpu().isas[-1]

    def one(shape):
        n, c_in, c_out, size, taps = shape
        spec = Case(n, c_in, c_out, (size,), (taps,), padding=taps // 2).problem("forward").spec
        each = Random("forward", "float32", n, c_in, c_out, (1, 1, size), spec, True, epilogue=epilogue)
        assert fast_fir._past(fast_fir.fast_fir(each.problem, isa), isa) > 0
        for where in ("end", "start"):
            outcome = run_case(each, isa.name, "fast_fir", where)
            assert outcome.right, outcome

    with target.using(isa.name):
        run_guarded_cases(one, [(2, 1, 4, 503, 15), (1, 3, 8, 1000, 12), (3, 1, 12, 193, 9)])
    select._executable.cache_clear()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_lines_that_are_asked_for(dtype, monkeypatch):
    """Of large results."""
    monkeypatch.setattr(fast_fir, "_ASKS_BYTES", 0)
    run_guarded_cases(
        lambda case: check_within_channel(fast_fir, case, "forward"),
        [Case(2, 1, 4, (500,), (15,), padding=7, dtype=dtype)],
    )


def test_bits_do_not_depend_on_threads():
    asked = Case(3, 2, 32, (3000,), (21,), padding=10, bias=True)
    arrays = asked.arrays()
    check_threads(lambda: run(fast_fir, asked, "forward", arrays))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"stride": 2}, "neighbouring taps"),
        ({"dilation": 2}, "neighbouring taps"),
        ({"kernel": (5, 5), "size": (9, 400)}, "few taps in each"),
        ({"kernel": (17, 15), "size": (20, 400), "c_in": 4}, "more than 64 lines"),
        ({"kernel": (8,)}, "so short"),
        ({"c_in": 5}, "more than 4 channels"),
        ({"c_out": 1}, "one channel"),
    ],
)
def test_what_it_leaves_to_others(change, why, zen4):
    asked = Case(**{"batch": 4, "c_in": 1, "c_out": 8, "size": (400,), "kernel": (15,)} | change)
    assert why in fast_fir.refuses(asked.problem("forward"), AVX512)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "asked",
    [
        Case(64, 1, 32, (5000,), (15,), padding=7),
        Case(16, 1, 8, (64, 256), (1, 65)),
        Case(8, 1, 16, (4000,), (31,), padding=15),
        Case(2, 1, 64, (128, 128), (9, 9), padding=4),
        Case(2, 2, 64, (3000,), (9,), padding=4),
    ],
)
def test_it_is_chosen_on_a_zen4(asked, dtype, zen4):
    problem = asked.typed(dtype).problem("forward")
    assert select.choose(problem, AVX512).algorithm == "fast_fir"


@pytest.mark.parametrize("asked", [Case(64, 1, 32, (5000,), (15,), padding=7)])
def test_it_is_not_elsewhere(asked, monkeypatch):
    cpu = replace(target.cpu(), name="znver5")
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    assert "two turns" in fast_fir.refuses(asked.problem("forward"), AVX512)
