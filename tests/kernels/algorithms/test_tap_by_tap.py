"""The weight gradient that leaves padding out against its definition, on every instruction set, between guard pages."""

from itertools import product

import numpy as np
import pytest

from lucid.kernels import jit, select, target
from lucid.kernels.algorithms import tap_by_tap
from lucid.kernels.isa import AVX512
from tests.kernels.algorithms.patches import HALF, Case, check, check_both, check_infinity, check_threads, run, run_both
from tests.kernels.guard import run_guarded_cases

ISAS, HALF_ISAS = ([isa.name for isa in isas] for isas in (target.cpu().isas, target.cpu().runnable))
TYPES = [*product(ISAS, ["float32", "float64"]), *product(HALF_ISAS, HALF)]

CASES = [
    Case(1, 1, 1, (1,), (3,), padding=1),
    Case(2, 3, 5, (9,), (3,), 2, 2, ((1, 3),)),
    Case(2, 8, 6, (40,), (33,), padding=16, groups=2),
    Case(3, 4, 37, (13, 19), (3, 5), (2, 1), (1, 2), ((1, 0), (4, 2))),
    Case(6, 35, 50, (5, 6), (3, 3), padding=1),
    Case(1, 3, 16, (33, 31), (3, 3), 2, padding=((2, 5), (3, 1))),
    Case(3, 9, 20, (3, 4, 5), (3, 3, 3), padding=1),
    Case(2, 5, 15, (4, 5, 6), (3, 2, 3), padding=1),
    Case(2, 2, 3, (5, 4, 3), (3, 1, 1), padding=((1, 1), (0, 0), (0, 0))),
    Case(2, 70, 40, (9, 9), (3, 3), 1, 6, padding=6),
]
#: Planes of several boxes, and channels of several parts, the last of which has fewer.
CUT = [Case(1, 150, 70, (40, 44), (3, 3), 1, 20, padding=20), Case(2, 300, 130, (5, 9), (3, 3), 2, padding=1)]
#: Taps that meet nothing but padding, some or all of them.
NOTHING_MET = [Case(1, 2, 3, (4, 4), (3, 3), 1, 9, padding=9), Case(1, 2, 2, (3, 3), (2, 2), 5, padding=4)]


@pytest.mark.parametrize(("isa", "dtype"), TYPES)
def test_definition(isa, dtype):
    def one(case):
        for where in ("end", "start"):
            check(tap_by_tap, case.typed(dtype), "grad_weight", where)
            for transposed in (False, True):
                check_both(tap_by_tap, case.typed(dtype), where, transposed)

    with target.using(isa):
        run_guarded_cases(one, CASES + CUT + NOTHING_MET)


def test_taps_that_meet_only_padding_have_no_gradient():
    case = NOTHING_MET[0]
    got = run(tap_by_tap, case, "grad_weight", case.arrays())
    assert np.count_nonzero(got.sum((0, 1))) == 1


@pytest.mark.parametrize("case", CUT, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_bits_do_not_depend_on_threads(case, transposed):
    check_threads(lambda: run_both(tap_by_tap, case, case.arrays(), "end", transposed))


def test_several_boxes_and_parts_are_tested():
    splits = [tap_by_tap.split(case.problem("grad_weight"), target.isa()) for case in CUT]
    assert max(len(made.boxes) for made in splits) > 9
    assert all(made.problem.group_in % made.c_part and made.parts > 1 for made in splits)


@pytest.mark.parametrize("isa", ISAS)
def test_an_infinity_reaches_only_the_taps_that_read_it(isa):
    with target.using(isa):
        check_infinity(tap_by_tap, Case(2, 3, 5, (6, 7), (3, 3), padding=1), "grad_weight", (1, 1, 5, 6))


def test_it_is_chosen_where_padding_is_most_of_a_product():
    chosen = select.choose(Case(1, 512, 256, (33, 33), (3, 3), 1, 24, padding=24).problem("grad_weight"), AVX512)
    assert chosen.algorithm == "tap_by_tap"


def test_it_refuses_little_padding():
    for case in (Case(1, 8, 8, (99,), (3,), padding=1), Case(1, 8, 8, (9,), (3,))):
        assert "with padding" in tap_by_tap.refuses(case.problem("grad_weight"), AVX512)


def test_a_new_image_size_compiles_nothing():
    check(tap_by_tap, Case(1, 8, 20, (12, 12), (3, 3), padding=1), "grad_weight")
    before = jit.kernel_count()
    check(tap_by_tap, Case(3, 8, 20, (9, 15), (3, 3), padding=1), "grad_weight")
    assert jit.kernel_count() == before
