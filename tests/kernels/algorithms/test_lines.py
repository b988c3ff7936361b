"""Gradients of kernels of one row against the definitions, between guard pages."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from lucid.kernels import jit, target
from lucid.kernels.algorithms import lines, lines_input
from lucid.kernels.isa import AVX512
from lucid.kernels.runtime import threads
from tests.kernels.algorithms.patches import HALF, Case, check, check_both, check_infinity, check_threads, run, run_both
from tests.kernels.guard import run_guarded_cases

#: Rows of less than a vector, of one, of several segments; windows that leave x by a part of a vector, by several, by
#: all of it; taps apart; passes that are uneven; blocks of results and of none; rows of planes and
#: of volumes, and all of them one row.
CASES = [
    Case(2, 3, 3, (37,), (3,), padding=1, groups=3),
    Case(3, 1, 32, (70,), (15,), padding=7),
    Case(1, 2, 2, (5,), (5,), padding=4, groups=2),
    Case(1, 2, 10, (33,), (7,), padding=((0, 3),), groups=2),
    Case(1, 2, 2, (100,), (3,), dilation=32, padding=32, groups=2),
    Case(1, 2, 2, (20,), (3,), dilation=40, padding=((70, 10),), groups=2),
    Case(2, 1, 7, (64,), (10,)),
    Case(2, 1, 8, (3000,), (4,), padding=2),
    Case(1, 20, 20, (1030,), (1,), groups=20),
    Case(2, 1, 4, (5, 40), (1, 5), padding=((0, 0), (2, 2))),
    Case(2, 2, 2, (2, 3, 19), (1, 1, 32), padding=((0, 0), (0, 0), (16, 15)), groups=2),
    Case(2, 2, 6, (3, 5, 7), (1, 1, 1), groups=2),
    Case(2, 1, 3, (3, 5), (1, 1), padding=((0, 0), (2, 1))),
    Case(1, 1, 4, (90,), (45,), padding=((22, 30),)),
]
#: Input gradients: rows of less than a vector, of several tiles and segments; one tap, uneven passes, taps apart; g
#: shorter than x, longer, and met by parts of it only; weights that fill vectors and that do not; rows of volumes, one.
#: More channels than are read side by side; strides, with windows that leave gaps, taps apart, a residue without taps.
INPUTS = [
    Case(4, 1, 8, (16,), (3,), padding=1, bias=True),
    Case(2, 2, 10, (37,), (7,), padding=((0, 3),), groups=2, bias=True),
    Case(3, 1, 32, (70,), (15,), padding=7),
    Case(1, 1, 4, (5,), (5,), padding=4),
    Case(2, 3, 15, (1030,), (1,), groups=3, bias=True),
    Case(1, 1, 64, (2500,), (9,), padding=((8, 1),)),
    Case(1, 2, 8, (100,), (3,), dilation=32, groups=2),
    Case(1, 1, 5, (20,), (3,), dilation=40, padding=((70, 10),), bias=True),
    Case(2, 2, 8, (2, 3, 19), (1, 1, 32), padding=((0, 0), (0, 0), (16, 15)), groups=2, bias=True),
    Case(2, 2, 8, (3, 5, 7), (1, 1, 1), groups=2, bias=True),
    Case(1, 1, 130, (300,), (3,), padding=1),
    Case(1, 1, 67, (3000,), (10,), 5, padding=3, bias=True),
    Case(2, 2, 8, (61,), (4,), 3, padding=((5, 2),), groups=2, bias=True),
    Case(1, 1, 5, (50,), (3,), 4, bias=True),
    Case(2, 1, 4, (3, 90), (1, 5), (1, 2), (1, 3), padding=((0, 0), (7, 0))),
    Case(1, 1, 4, (70,), (4,), 4, 2, padding=((0, 3),)),
    Case(2, 1, 4, (33,), (1,), 2),
]
#: Weights of strides: rows of less than a vector, of several segments and parts; windows that leave gaps, taps apart,
#: more padding than samples; groups, rows of planes.
STRIDED = [
    Case(2, 1, 12, (300,), (10,), 5, padding=3),
    Case(2, 2, 6, (61,), (4,), 3, padding=((5, 2),), groups=2),
    Case(1, 1, 5, (50,), (3,), 4),
    Case(2, 1, 4, (3, 90), (1, 5), (1, 2), (1, 3), padding=((0, 0), (7, 0))),
    Case(1, 1, 8, (20011,), (3,), 2),
    Case(1, 1, 3, (9,), (9,), 2, padding=12),
    Case(3, 1, 7, (2100,), (16,), 2, padding=((0, 9),)),
]
ISAS, HALF_ISAS = ([isa.name for isa in isas] for isas in (target.cpu().isas, target.cpu().runnable))
TYPES = [*product(ISAS, ["float32", "float64"]), *product(HALF_ISAS, HALF)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_images_are_added_where_they_come_from_memory(dtype, monkeypatch):
    far = replace(target.cpu(), l3_bytes=0)
    monkeypatch.setattr(target, "cpu", lambda: far)
    case = Case(5, 18, 18, (70,), (3,), padding=1, groups=18, dtype=dtype)
    assert lines.plan(case.problem("grad_weight"), target.isa())["chunks"] == 5

    def one(where):
        check(lines, case, "grad_weight", where)
        check_both(lines, case, where)

    run_guarded_cases(one, ["end", "start"])


@pytest.mark.skipif(AVX512 not in target.cpu().runnable, reason="registers that take two turns are those of AVX-512")
@pytest.mark.parametrize(("taps", "length", "dtype", "tile"), [
    (15, 5000, "float16", (1, (8, 7))), (15, 5000, "bfloat16", (1, (8, 7))), (31, 5000, "float16", (1, (11, 10, 10))),
    (5, 5000, "float16", (4, (5,))), (7, 5000, "float16", (3, (7,))), (5, 30, "float16", (3, (5,))),
    (15, 5000, "float32", (2, (8, 7))),
])  # fmt: skip
def test_conversions_hide_beside_the_products_of_one_vector_or_of_most(taps, length, dtype, tile, monkeypatch):
    cpu, case = target.cpu(), Case(2, 1, 32, (length,), (taps,), padding=taps // 2, dtype=dtype)
    monkeypatch.setattr(target, "cpu", lambda: replace(cpu, name="znver4"))
    assert lines_input.lines_input(case.problem("grad_input"), AVX512).tile == lines_input.Tile(*tile)


@pytest.mark.skipif(AVX512 not in target.cpu().runnable, reason="registers that take two turns are those of AVX-512")
@pytest.mark.parametrize("dtype", HALF)
def test_segments_of_x_that_are_widened_once(dtype, monkeypatch):
    """Windows that leave x, rows of parts of vectors and of several segments, taps apart; on 1, 2, 3 threads."""
    cpu = target.cpu()
    monkeypatch.setattr(target, "cpu", lambda: replace(cpu, name="znver4"))
    halves = [case.typed(dtype) for case in CASES if case.c_out > case.c_in and case.kernel[-1] > 1]
    assert any(lines.lines(case.problem("grad_weight"), AVX512).widens for case in halves)

    def one(case):
        for where in ("end", "start"):
            check(lines, case, "grad_weight", where)
            check_both(lines, case, where)

    with target.using("avx512"):
        run_guarded_cases(one, halves)
        check_threads(lambda: run(lines, halves[0], "grad_weight", halves[0].arrays()))
        check_infinity(lines, halves[0], "grad_weight", (0, 0, 5))


@pytest.mark.parametrize(("isa", "dtype"), TYPES)
def test_definition(isa, dtype):
    def one(case):
        for where in ("end", "start"):
            check(lines, case.typed(dtype), "grad_weight", where)
            check_both(lines, case.typed(dtype), where)

    with target.using(isa):
        run_guarded_cases(one, [*CASES, *STRIDED])


@pytest.mark.parametrize(("isa", "dtype"), TYPES)
def test_input_gradients_on_any_number_of_threads(isa, dtype):
    def one(case):
        arrays, found = case.typed(dtype).arrays(), []
        for count in (1, 2, 3):
            threads.set_num_threads(count)
            for where in ("end", "start"):
                check(lines, case.typed(dtype), "grad_input", where)
            found.append(run(lines, case.typed(dtype), "grad_input", arrays).astype(np.float64))
        assert all(np.array_equal(one, found[0]) for one in found[1:])

    with target.using(isa):
        run_guarded_cases(one, INPUTS)


@pytest.mark.parametrize(
    "case", [Case(5, 1, 12, (300,), (9,), padding=4), Case(9, 3, 3, (700,), (3,), groups=3), *STRIDED[:2]], ids=str
)
def test_bits_do_not_depend_on_the_number_of_threads(case):
    check_threads(lambda: run_both(lines, case, case.arrays()))


@pytest.mark.parametrize("place", [(1, 1, 16), (0, 0, 0), (1, 0, 39)])
def test_an_infinity_reaches_only_what_reads_it(place):
    check_infinity(lines, Case(2, 2, 4, (40,), (3,), padding=((0, 1),), groups=2), "grad_weight", place)


@pytest.mark.parametrize("place", [(1, 1, 40), (0, 0, 33), (1, 0, 7)])
def test_an_infinity_reaches_only_what_reads_it_at_a_stride(place):
    check_infinity(lines, Case(2, 2, 4, (41,), (3,), 2, groups=2), "grad_weight", place)


def test_a_new_image_size_compiles_nothing():
    check(lines, Case(1, 8, 8, (400,), (3,), padding=1, groups=8), "grad_weight")
    check(lines, Case(1, 2, 2, (400,), (3,), padding=1, groups=2), "grad_weight")
    check(lines, Case(1, 1, 8, (400,), (9,), padding=4), "grad_input")
    before = jit.kernel_count()
    check(lines, Case(2, 2, 12, (1529,), (9,), padding=1, groups=2), "grad_input")
    check(lines, Case(3, 9, 9, (529,), (3,), dilation=2, padding=1, groups=9), "grad_weight")
    assert jit.kernel_count() == before


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (Case(1, 1, 1, (9, 9), (3, 3)), "a row of g meets several of x, or not every pixel of one"),
        (Case(1, 1, 1, (9, 9), (1, 3), stride=(2, 1)), "a row of g meets several of x, or not every pixel of one"),
        (
            Case(1, 1, 1, (9, 9), (1, 3), padding=((1, 0), (0, 0))),
            "a row of g meets several of x, or not every pixel of one",
        ),
        (Case(1, 2, 1, (9,), (3,)), "2 channels of x in a group"),
        (Case(1, 1, 1, (99,), (66,)), "66 taps are too many"),
    ],
)
def test_what_it_leaves_to_others(case, why):
    assert lines.refuses(case.problem("grad_weight"), target.isa()) == why


def test_strides_and_many_taps_are_for_machines_where_they_were_measured(monkeypatch):
    case, isa = Case(1, 1, 8, (90,), (4,), 2), AVX512
    for name, turns in (("znver4", 2), ("znver5", 1)):
        cpu = replace(target.cpu(), name=name)
        monkeypatch.setattr(target, "cpu", lambda cpu=cpu: cpu)
        assert cpu.turns(isa) == turns
        for role in ("grad_input", "grad_weight"):
            assert (lines.refuses(case.problem(role), isa) is None) == (turns == 2)
        many = Case(1, 1, 8, (90,), (65,), padding=32).problem("grad_weight")
        assert (lines.refuses(many, isa) is None) == (turns == 2)
    monkeypatch.undo()
    large = Case(8, 1, 4, (400_000,), (3,), 2).problem("grad_weight")
    assert lines.lines_strided.refuses(large, isa) == "x is larger than what it deals out"


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (Case(1, 4, 4, (40,), (3,), groups=4), "g has 1 channels a group"),
        (Case(1, 1, 8, (400,), (3,), dilation=150), "taps are far apart"),
    ],
)
def test_input_gradients_that_it_leaves_to_others(case, why):
    assert lines.refuses(case.problem("grad_input"), target.isa()) == why
