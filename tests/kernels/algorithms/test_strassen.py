"""Strassen's product against the definition, between guard pages, and where it is chosen."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from lucid.kernels import select, target
from lucid.kernels.algorithms import strassen
from lucid.kernels.ir import f32
from lucid.kernels.isa import AVX512
from lucid.kernels.plan import Epilogue
from tests.kernels.algorithms.patches import Case, bound, check_threads, check_within_channel, expected, run
from tests.kernels.convolution_fuzz import Case as Random
from tests.kernels.convolution_fuzz import run_case
from tests.kernels.guard import guarded, run_guarded_cases

NAMES = [isa.name for isa in target.cpu().isas]
HALF_NAMES = [isa.name for isa in target.cpu().runnable]
ROLES = ["forward", "grad_input"]

#: Fewer positions than a vector, whole vectors, one more; rows that are no whole tiles, fewer than one, one more than
#: two; two channels, fewer than are turned at once, no multiple of those; groups; images whose last vector is short.
CASES = [
    Case(1, 16, 16, (96,), (1,)),
    Case(2, 34, 22, (100,), (1,), bias=True),
    Case(3, 40, 70, (7, 7), (1, 1)),
    Case(2, 64, 48, (11,), (1,), groups=2, bias=True),
    Case(1, 2, 4, (1,), (1,), bias=True),
    Case(5, 18, 36, (3, 5, 17), (1, 1, 1)),
    Case(2, 90, 34, (129,), (1,), groups=1, bias=True),
]


@pytest.mark.parametrize(
    ("isa", "dtype"), [*product(NAMES, ["float32", "float64"]), *product(HALF_NAMES, ["float16", "bfloat16"])]
)
@pytest.mark.parametrize("role", ROLES)
def test_definition(role, isa, dtype):
    def one(asked):
        for where in ("end", "start"):
            check_within_channel(strassen, asked.typed(dtype), role, where)

    with target.using(isa):
        run_guarded_cases(one, CASES)


@pytest.mark.parametrize("role", ROLES)
def test_every_cut(role):
    """Spans of a tile and of some, narrow ones, vectors that hold nothing, parts of the rows; weights that are kept."""
    asked = Case(3, 44, 90, (75,), (1,), bias=True)
    arrays, problem, isa = asked.arrays(), asked.problem(role), target.isa()
    want = expected(asked, role, arrays)
    most = bound(asked, role, arrays).max() * select.error_growth(strassen.plan(problem, isa))
    x, bias = ("x", "b_out") if role == "forward" else ("g", "b_in")
    given, chosen = (arrays[x], arrays["w"], arrays[bias]), strassen.strassen(problem, isa)
    least = chosen.tile.vectors - 1
    for half, parts in product([least, *range(least + 1, 9)], (1, 2, 3)):
        region = strassen.bound(replace(chosen, half=half, row_parts=parts))
        with guarded(want.shape, np.float32) as result:
            region(*given, result)
            assert np.all(abs(result - want) <= most), (half, parts)
            first, halves = result.copy(), region.halves()
            with guarded((halves.kept_bytes,), np.uint8) as kept:
                halves.make(None, *given[1:], None, kept)
                result[...] = np.nan
                halves.compute(*given, result, kept)
            np.testing.assert_array_equal(result, first)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_quiet_loses_nothing_to_what_is_loud(dtype, role):
    """Channels of the result and images of any size, each within its own bound; no NaN reaches another image."""
    asked = Case(3, 48, 48, (70,), (1,)).typed(dtype)
    arrays, rng = asked.arrays(), np.random.default_rng(0)
    rows, source = (0, "x") if role == "forward" else (1, "g")
    sizes = (10.0 ** rng.uniform(-12, 12, 48)).astype(dtype)
    arrays["w"] = arrays["w"] * np.expand_dims(sizes, (1 - rows, 2))
    arrays[source] = arrays[source] * np.array([1, 1e-9, 1e9], dtype).reshape(3, 1, 1)
    check_within_channel(strassen, asked, role, arrays=arrays)
    arrays[source][1] = np.nan
    got = run(strassen, asked, role, arrays)
    assert np.isnan(got[1]).all()
    assert not np.isnan(got[[0, 2]]).any()


@pytest.mark.parametrize("value", [0.0, 1e-41, 1e-37, 1e36, np.inf, np.nan])
def test_a_row_of_one_number(value):
    """Rows of zeros, which leave zeros, of numbers at both ends of a type's, of none."""
    asked = Case(1, 32, 32, (20,), (1,))
    arrays = asked.arrays()
    arrays["w"][5] = value
    got = run(strassen, asked, "forward", arrays)[0, 5].astype(np.float64)
    if not np.isfinite(value):
        assert not np.isfinite(got).any()
    elif value < 1e-38:
        np.testing.assert_array_equal(got, 0)
    else:
        want = expected(asked, "forward", arrays)[0, 5]
        assert np.all(abs(got - want) <= bound(asked, "forward", arrays)[0, 5].max() * strassen._GROWTH)


@pytest.mark.parametrize("role", ROLES)
def test_bits_do_not_depend_on_threads(role):
    asked = Case(2, 160, 144, (300,), (1,), bias=True)
    arrays = asked.arrays()
    check_threads(lambda: run(strassen, asked, role, arrays))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("epilogue", [Epilogue("relu"), Epilogue("relu", affine=True, residual=True)], ids=str)
def test_epilogues(epilogue, dtype, monkeypatch, zen4):
    """In its stores, and in a pass of its own."""
    isa = target.cpu().isas[-1]
    if isa.lanes(f32) < 16:
        pytest.skip("only where a vector takes two turns")
    spec = CASES[0].problem("forward").spec
    each = Random("forward", dtype, 2, 128, 130, (1, 1, 70), spec, True, epilogue=epilogue)
    select._executable.cache_clear()
    with target.using(isa.name):
        run_guarded_cases(lambda where: _right(run_case(each, isa.name, "strassen", where)), ["end", "start"])
    select._executable.cache_clear()


def _right(outcome):
    assert outcome.right, outcome


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kernel": (3,)}, "kernels of one tap"),
        ({"stride": 2}, "kernels of one tap"),
        ({"padding": 1}, "kernels of one tap"),
        ({"c_in": 513}, "in pairs"),
        ({"c_out": 64}, "less than 96 channels"),
    ],
)
def test_what_it_leaves_to_others(change, why, zen4):
    asked = Case(**{"batch": 4, "c_in": 512, "c_out": 512, "size": (400,), "kernel": (1,)} | change)
    assert why in strassen.refuses(asked.problem("forward"), AVX512)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "asked",
    [Case(1, 512, 512, (16000,), (1,)), Case(4, 256, 512, (24, 24), (1, 1)), Case(4, 1024, 256, (19, 19), (1, 1))],
)
def test_it_is_chosen_on_a_zen4(asked, role, dtype, zen4):
    assert select.choose(asked.typed(dtype).problem(role), AVX512).algorithm == "strassen"


@pytest.mark.parametrize("asked", [Case(1, 64, 256, (56, 56), (1, 1)), Case(1, 512, 1024, (14, 14), (1, 1))])
def test_it_is_not_where_it_gains_nothing(asked, zen4):
    assert select.choose(asked.problem("forward"), AVX512).algorithm == "gemm"


def test_it_is_not_elsewhere(monkeypatch):
    cpu = replace(target.cpu(), name="znver5")
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    strassen.strassen.cache_clear()
    asked = Case(1, 512, 512, (16000,), (1,))
    assert "two turns" in strassen.refuses(asked.problem("forward"), AVX512)
