"""F(2, 3) down rows against the definition, between guard pages, and where it is chosen."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from lucid.kernels import jit, select, target
from lucid.kernels.algorithms import winograd_rows
from tests.kernels.algorithms.patches import HALF, OPERANDS, Case, bound, check_threads, expected, rounded, run
from tests.kernels.guard import run_guarded_cases

ISAS = [isa.name for isa in target.cpu().isas if "avx512f" in isa.requires]
pytestmark = pytest.mark.skipif(not ISAS, reason="slides on AVX-512 alone")
ROLES = ["forward", "grad_input"]

#: One strip and several, cut short by one column and by all but one; an odd row left over, one row, as many results as
#: sources and not; padding that is uneven, missing, or more than the window; one to eight taps across, or apart.
CASES = [
    Case(2, 8, 8, (13, 19), (3, 3), padding=1, groups=2, bias=True),
    Case(1, 3, 4, (6, 65), (3, 3), padding=1),
    Case(1, 8, 6, (5, 63), (3, 3), padding=((0, 2), (2, 0)), groups=2, bias=True),
    Case(1, 4, 3, (9, 16), (3, 3), padding=1, bias=True),
    Case(2, 4, 4, (8, 15), (3, 1)),
    Case(1, 4, 4, (1, 17), (3, 3), padding=1),
    Case(1, 4, 4, (3, 1), (3, 3), padding=1),
    Case(1, 6, 6, (7, 40), (3, 8), padding=((4, 3), (9, 1)), groups=2),
    Case(1, 4, 8, (9, 33), (3, 5), 1, (1, 2), 4, bias=True),
    Case(1, 24, 32, (10, 21), (3, 3), padding=1),
    Case(1, 6, 12, (7, 35), (3, 2), padding=((0, 1), (1, 2)), bias=True),
    Case(1, 16, 16, (4, 14), (3, 3), padding=1, groups=2),
]
#: Enough rows for several boxes of one plane, the last of fewer.
BOXED = Case(1, 4, 4, (91, 41), (3, 3), padding=1, bias=True)


def check(case, role, where="end"):
    """The algorithm is within its own bound, of the largest in a row's neighbourhood: all of the plane's."""
    arrays = case.arrays()
    plan = winograd_rows.plan(case.problem(role), target.isa())
    got, want = run(winograd_rows, case, role, arrays, where).astype(np.float64), expected(case, role, arrays)
    most = bound(case, role, arrays).max(axis=(2, 3), keepdims=True) * select.error_growth(plan)
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
        run_guarded_cases(one, [*CASES, BOXED])


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    "case", [Case(1, 3, 12, (91, 21), (3, 3), padding=((2, 0), (1, 1))), Case(1, 6, 9, (7, 35), (3, 2))], ids=str
)
def test_halves_are_widened_at_each_tap(case, dtype):
    """The same bits as if they slid, and as if rows were read for one pair of rows of results."""
    problem, isa, arrays = case.typed(dtype).problem("forward"), target.isa(), case.typed(dtype).arrays()
    for asked in winograd_rows.tiles(problem, isa):
        assert not asked.tile.slides
        each, slid = (np.full_like(arrays["g"], np.nan) for _ in range(2))
        for one, y in ((asked, each), (replace(asked, tile=replace(asked.tile, slides=True, deep=1)), slid)):
            winograd_rows.bound(one, isa)(arrays["x"], arrays["w"], None, y, None)
        np.testing.assert_array_equal(each, slid)


def test_every_tile_agrees():
    """Whatever the number of results: a sum has one order."""
    isa, case = target.isa(), Case(2, 12, 12, (20, 55), (3, 3), padding=1)
    for role in ROLES:
        arrays, results = case.arrays(), []
        out = "g" if role == "forward" else "x"
        for asked in winograd_rows.tiles(case.problem(role), isa):
            result = np.full_like(arrays[out], np.nan)
            winograd_rows.bound(asked, isa)(arrays[OPERANDS[role][0]], arrays["w"], None, result, None)
            results.append(result)
        assert len(results) == 2
        np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("role", ROLES)
def test_sources_are_read_twice_for_more_results(role, dtype, monkeypatch):
    """Of halves, where products take two turns: it is what is planned, and near the same without."""
    machine = target.CPU("znver4", target.cpu().runnable, 32 << 10, 1 << 20, 32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: machine)
    isa, case = target.isa(), Case(2, 24, 24, (20, 55), (3, 3), padding=1, groups=3).typed(dtype)
    arrays, problem, found = case.arrays(), case.problem(role), {}
    for asked in winograd_rows.tiles(problem, isa):
        result = np.full_like(arrays["g" if role == "forward" else "x"], np.nan)
        winograd_rows.bound(asked, isa)(arrays[OPERANDS[role][0]], arrays["w"], None, result, None)
        found[asked.tile.results] = result.astype(np.float64)
    assert winograd_rows.plan(problem, isa)["results"] == 8
    assert winograd_rows.plan(replace(problem, dtype="float32"), isa)["results"] == 4
    np.testing.assert_allclose(found[8], found[4], atol=np.abs(found[4]).max() * 2.0**-7)


@pytest.mark.parametrize("role", ROLES)
def test_bits_do_not_depend_on_threads(role):
    case = Case(2, 16, 16, (20, 55), (3, 3), padding=1, groups=4)
    arrays = case.arrays()
    check_threads(lambda: run(winograd_rows, case, role, arrays))


@pytest.mark.parametrize("role", ROLES)
def test_large_results_are_asked_for(role, monkeypatch):
    small = replace(target.cpu(), l3_bytes=3 * BOXED.problem(role).written_bytes)
    monkeypatch.setattr(target, "cpu", lambda: small)
    check(BOXED, role)


@pytest.mark.parametrize("role", ROLES)
def test_stores_past_the_caches(role, monkeypatch):
    """Rows of whole lines, which more than fill the last cache; the source does not."""

    def one(case):
        problem = case.problem(role)
        small = replace(target.cpu(), l3_bytes=2 * problem.written_bytes - 2)
        monkeypatch.setattr(target, "cpu", lambda: small)
        asked = winograd_rows.tiles(problem, target.isa())[0]
        assert asked.streams == (small.turns(target.isa()) > 1)
        for where in ("start", "end"):  # aligned to the page, and if the size is
            check(case, role, where)

    channels = (3, 8) if role == "forward" else (8, 3)
    run_guarded_cases(one, [Case(1, *channels, shape, (3, 3), padding=1) for shape in [(3, 16), (10, 64), (91, 48)]])


@pytest.mark.parametrize(
    ("dtype", "channels", "takes"), [("float16", 8, True), ("float16", 4, False), ("float32", 8, False)]
)
def test_halves_beyond_the_caches_are_taken_if_their_source_is_not(dtype, channels, takes, monkeypatch):
    """Rows of 41 are no whole lines, so in single precision they are refused."""
    problem = Case(1, 4, channels, (91, 41), (3, 3), padding=1).typed(dtype).problem("forward")
    small = replace(target.cpu(), l3_bytes=2 * problem.written_bytes - 2)
    monkeypatch.setattr(target, "cpu", lambda: small)
    refused = winograd_rows.refuses(problem, target.isa())
    assert (refused is None) == (takes and small.turns(target.isa()) > 1), refused


@pytest.mark.parametrize("role", ROLES)
def test_a_new_image_size_compiles_nothing(role):
    check(Case(1, 8, 8, (40, 40), (3, 3), padding=1, groups=2), role)
    before = jit.kernel_count()
    check(Case(3, 12, 12, (52, 44), (3, 3), padding=1, groups=3), role)
    assert jit.kernel_count() == before


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (Case(1, 4, 4, (5, 5, 5), (3, 3, 3)), "it is one of planes"),
        (Case(1, 4, 4, (40, 40), (5, 5)), "it has 3 taps down beside each other, and at most 8 across"),
        (Case(1, 4, 4, (40, 40), (3, 3), dilation=2), "it has 3 taps down beside each other, and at most 8 across"),
        (Case(1, 4, 4, (40, 40), (3, 3), 2), "rows of a stride share no taps"),
        (Case(1, 4, 2, (9, 9), (3, 3)), "its tiles are of 3 or 4 of a group's results, and must fit in registers"),
        (Case(64, 4, 4, (99, 99), (3, 3)), "rows are read twice, and the caches do not hold the arrays"),
    ],
)
def test_what_it_leaves_to_others(case, why):
    assert winograd_rows.refuses(case.problem("forward"), target.isa()) == why


@pytest.mark.parametrize(("name", "chosen"), [("znver4", "winograd_rows"), ("znver5", "sliding")])
def test_it_is_chosen_where_products_take_two_turns(name, chosen, monkeypatch):
    machine = target.CPU(name, target.cpu().runnable, 32 << 10, 1 << 20, 32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: machine)
    problem = Case(4, 256, 256, (28, 28), (3, 3), padding=1, groups=32).problem("forward")
    assert select.choose(problem, target.isa()).algorithm == chosen


def test_small_groups_in_bfloat16_are_no_matrix_product(monkeypatch):
    """Its pairs are half the products, but every tile of lines this short goes through memory."""
    machine = target.CPU("znver4", target.cpu().runnable, 32 << 10, 1 << 20, 32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: machine)
    problem = Case(4, 256, 256, (28, 28), (3, 3), padding=1, groups=32).problem("forward")
    chosen = select.choose(replace(problem, dtype="bfloat16"), target.isa())
    assert chosen.algorithm in ("winograd_rows", "sliding")


@pytest.mark.parametrize(
    ("dtype", "role", "chosen"), [("bfloat16", "forward", "winograd_rows"), ("float16", "grad_weight", "sliding")]
)
def test_halves_of_few_channels_go_where_they_cost_least(dtype, role, chosen, monkeypatch):
    """Sources that are read twice need no widened rows, and rows of g are widened once for all channels of x."""
    machine = target.CPU("znver4", target.cpu().runnable, 32 << 10, 1 << 20, 32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: machine)
    if not target.isa().bf16_dot:
        pytest.skip("the first is of machines that multiply pairs")
    problem = Case(64, 3, 16, (32, 32), (3, 3), padding=1, dtype=dtype).problem(role)
    assert select.choose(problem, target.isa()).algorithm == chosen
