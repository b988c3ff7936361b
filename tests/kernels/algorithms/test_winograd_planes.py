"""F(2, 3) in depth against the definition, between guard pages, and where it is chosen."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from lucid.kernels import jit, select, target
from lucid.kernels.algorithms import winograd_planes
from lucid.kernels.plan import Epilogue
from tests.kernels.algorithms.patches import HALF, Case, bound, check_threads, expected, rounded, run
from tests.kernels.convolution_fuzz import Case as Random
from tests.kernels.convolution_fuzz import run_case
from tests.kernels.guard import run_guarded_cases

ISAS = [isa.name for isa in target.cpu().isas if "avx512f" in isa.requires]
pytestmark = [pytest.mark.skipif(not ISAS, reason="slides on AVX-512 alone"), pytest.mark.usefixtures("zen4")]
ROLES = ["forward", "grad_input"]

#: Rows of one strip and of several, cut short by one column and by all but one; planes in pairs and one left over, one
#: plane, one row; padding that is uneven, missing, or more than the window has; taps across from one to more than half
#: a vector's reach, taps down from two to five.
CASES = [
    Case(2, 3, 3, (6, 9, 14), (3, 3, 3), padding=1, groups=3, bias=True),
    Case(1, 5, 5, (5, 7, 43), (3, 3, 3), padding=1, groups=5),
    Case(1, 2, 2, (1, 5, 16), (3, 3, 3), padding=1, groups=2, bias=True),
    Case(1, 2, 2, (4, 1, 17), (3, 3, 3), padding=1, groups=2),
    Case(1, 3, 3, (7, 4, 1), (3, 3, 3), padding=1, groups=3),
    Case(2, 2, 2, (4, 6, 33), (3, 3, 3), groups=2, bias=True),
    Case(1, 4, 4, (3, 5, 15), (3, 3, 1), padding=((1, 1), (1, 1), (0, 0)), groups=4),
    Case(1, 2, 2, (3, 5, 39), (3, 2, 1), padding=((1, 1), (1, 1), (0, 2)), groups=2),
    Case(1, 2, 2, (4, 8, 40), (3, 5, 2), padding=((0, 2), (4, 1), (0, 1)), groups=2, bias=True),
    Case(1, 2, 2, (4, 8, 40), (3, 2, 8), padding=((4, 3), (1, 0), (9, 1)), groups=2),
    Case(1, 2, 2, (3, 6, 7), (3, 4, 5), padding=((2, 0), (0, 3), (2, 2)), groups=2),
]


def check(case, role, where="end"):
    """The algorithm is within its own bound, of the largest in the channel."""
    arrays = case.arrays()
    plan = winograd_planes.plan(case.problem(role), target.isa())
    got, want = run(winograd_planes, case, role, arrays, where).astype(np.float64), expected(case, role, arrays)
    most = bound(case, role, arrays).max(axis=(2, 3, 4), keepdims=True) * select.error_growth(plan)
    assert not np.isnan(got).any(), f"{role} {case}: {np.isnan(got).sum()} results were not written"
    worst = (np.abs(got - want) - most - rounded(case, np.abs(want))).max()
    assert worst <= 0, f"{role} {case}: off by {np.abs(got - want).max():.1e}, {worst:.1e} beyond the bound"


@pytest.mark.parametrize(("isa", "dtype"), [*product(ISAS, ["float32", *HALF])])
@pytest.mark.parametrize("role", ROLES)
def test_definition(role, isa, dtype):
    def one(case):
        for where in ("end", "start"):
            check(case.typed(dtype), role, where)

    with target.using(isa):
        run_guarded_cases(one, CASES)


@pytest.mark.parametrize("role", ROLES)
def test_few_channels_are_cut_in_depth(role):
    """The bits are those of whole volumes, on any number of threads."""
    case = Case(1, 3, 3, (21, 5, 20), (3, 3, 3), padding=1, groups=3, bias=True)
    arrays, problem, isa = case.arrays(), case.problem(role), target.isa()
    assert winograd_planes.planes(problem, isa).parts > 1
    check(case, role)
    check_threads(lambda: run(winograd_planes, case, role, arrays))


@pytest.mark.parametrize(("role", "dtype"), [*product(ROLES, HALF)])
def test_rows_that_are_kept_give_the_same_bits(role, dtype, monkeypatch):
    """Of whole rows, of several strips, and of planes in pieces; on any number of threads."""
    for size in ((33, 6, 14), (22, 5, 43)):
        case = Case(1, 4, 4, size, (3, 3, 3), padding=1, groups=4, bias=True).typed(dtype)
        arrays, got = case.arrays(), {}
        for most in (winograd_planes._MOST_KEPT, 0):
            monkeypatch.setattr(winograd_planes, "_MOST_KEPT", most)
            winograd_planes.planes.cache_clear()
            assert winograd_planes.planes(case.problem(role), target.isa()).tile.keeps == (most > 0)
            check_threads(lambda case=case, arrays=arrays: run(winograd_planes, case, role, arrays))
            got[most > 0] = run(winograd_planes, case, role, arrays)
        assert np.array_equal(got[True], got[False])
        monkeypatch.undo()


@pytest.mark.parametrize("role", ROLES)
def test_large_results_are_asked_for(role, zen4, monkeypatch):
    small = replace(zen4, l3_bytes=3 * CASES[1].problem(role).written_bytes)
    monkeypatch.setattr(target, "cpu", lambda: small)
    check(CASES[1], role)


@pytest.mark.parametrize("role", ROLES)
def test_a_new_size_compiles_nothing(role):
    check(Case(1, 8, 8, (4, 10, 40), (3, 3, 3), padding=1, groups=8), role)
    before = jit.kernel_count()
    check(Case(3, 12, 12, (7, 12, 44), (3, 3, 3), padding=1, groups=12), role)
    assert jit.kernel_count() == before


@pytest.mark.parametrize("dtype", ["float32", *HALF])
def test_it_ends_its_sums(dtype):
    """An epilogue is done as sums leave, with a bias."""
    case = CASES[0]
    ending = Epilogue(affine=True, residual=True, activation="relu")
    asked = Random("forward", dtype, case.batch, case.c_in, case.c_out, case.size, case.spec, True, epilogue=ending)
    outcome = run_case(asked, ISAS[-1], "winograd_planes", "end")
    assert outcome.right, str(outcome)


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (Case(1, 4, 4, (5, 5, 5), (3, 3, 3)), "groups of 4 x 4 channels are not depthwise"),
        (
            Case(1, 4, 4, (9, 9, 9), (5, 3, 3), groups=4),
            "it has 3 taps in depth, several down, and at most 8 across",
        ),
        (
            Case(1, 4, 4, (9, 9, 9), (3, 3, 3), 2, groups=4),
            "planes of a stride or a dilation share no taps",
        ),
        (
            Case(1, 4, 4, (9, 200, 200), (3, 3, 3), groups=4),
            "planes are read twice, and the second cache does not hold them",
        ),
        (
            Case(1, 4, 4, (9, 9, 9), (3, 3, 3), padding=((1, 1), (3, 1), (1, 1)), groups=4),
            "rows of results that meet nothing but padding are left to others",
        ),
        (Case(1, 4, 4, (9, 9, 40), (3, 6, 3), groups=4), "the rows in flight do not fit in registers"),
    ],
)
def test_what_it_leaves_to_others(case, why):
    assert winograd_planes.refuses(case.problem("forward"), target.isa()) == why


@pytest.mark.parametrize(("name", "chosen"), [("znver4", "winograd_planes"), ("znver5", "channel_lanes")])
def test_it_is_chosen_where_products_take_two_turns(name, chosen, monkeypatch):
    machine = target.CPU(name, target.cpu().runnable, 32 << 10, 1 << 20, 32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: machine)
    problem = Case(4, 216, 216, (16, 14, 14), (3, 3, 3), padding=1, groups=216).problem("forward")
    assert select.choose(problem, target.isa()).algorithm == chosen
