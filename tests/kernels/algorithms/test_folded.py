"""Ends folded onto each other against the definition, between guard pages, and where that is chosen."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from lucid.kernels import select, target
from lucid.kernels.algorithms import folded
from lucid.kernels.algorithms.folded import AHEAD, BEHIND, CORE
from tests.kernels.algorithms.dense_cases import case, operands, wanted
from tests.kernels.algorithms.patches import Case, check_threads, check_within_channel, run
from tests.kernels.guard import guarded, run_guarded_cases

ISAS = [isa.name for isa in target.cpu().isas]
HALF_ISAS = [isa.name for isa in target.cpu().runnable]
ROLES = ["forward", "grad_input"]

#: All of the axis folded but for a sample, one sample, none between; axes of one tap, or whose only tap that meets
#: samples is the one in the middle; rows and channels that are no whole tiles, and several blocks of each; groups.
CASES = [
    Case(2, 5, 9, (8,), (3,), 1, 5, ((5, 5),), bias=True),
    Case(1, 3, 4, (12,), (3,), 1, 6, ((6, 6),)),
    Case(3, 9, 13, (50,), (3,), 1, 49, ((49, 49),), bias=True),
    Case(1, 700, 37, (30,), (3,), 1, 17, ((17, 17),)),
    Case(2, 6, 10, (9, 7), (3, 3), 1, (5, 4), ((5, 5), (4, 4)), 2, bias=True),
    Case(1, 40, 70, (33, 33), (3, 3), 1, 24, ((24, 24), (24, 24))),
    Case(1, 4, 5, (6, 40), (3, 3), 1, (9, 21), ((9, 9), (21, 21)), bias=True),
    Case(2, 5, 6, (12, 9), (3, 1), 1, (7, 1), ((7, 7), (0, 0))),
    Case(1, 4, 6, (7, 20), (1, 3), 1, (1, 13), ((0, 0), (13, 13)), 2),
    Case(1, 7, 9, (50, 46), (3, 3), 1, 26, ((26, 26), (26, 26)), bias=True),
    Case(1, 5, 6, (4, 5, 6), (3, 3, 3), 1, (2, 3, 4), ((2, 2), (3, 3), (4, 4)), bias=True),
]


@pytest.mark.parametrize(
    ("isa", "dtype"), [*product(ISAS, ["float32", "float64"]), *product(HALF_ISAS, ["float16", "bfloat16"])]
)
@pytest.mark.parametrize("role", ROLES)
def test_definition(role, isa, dtype):
    def one(asked):
        for where in ("end", "start"):
            check_within_channel(folded, asked.typed(dtype), role, where)

    with target.using(isa):
        run_guarded_cases(one, CASES)


@pytest.mark.parametrize("role", ROLES)
def test_every_cut(role, monkeypatch):
    """Parts of the rows, short spans, blocks of few channels, and weights that are kept."""
    c = case(2, 21, 40, (18, 23), 3, padding=(11, 12), dilation=(11, 12))
    arrays, problem, shape = operands(role, c, "float32")
    want, allowed = wanted(role, c, arrays)
    monkeypatch.setattr(folded, "_SPAN", 70)
    monkeypatch.setattr(folded, "_MOST_STEPS", 8)
    chosen = folded.fold(problem, target.isa())
    assert len(chosen.spans) > len(chosen.regions) == 9 and all(chosen.steps(span) <= 8 for span in chosen.spans)
    for parts in range(1, 6):
        with guarded(shape, np.float32) as result:
            region = folded.bound(replace(chosen, row_parts=parts))
            region(*arrays, result)
            assert np.all(abs(result - want) <= 2 * allowed.max()), parts
            first = result.copy()
            halves = region.halves()
            with guarded((halves.kept_bytes,), np.uint8) as kept:
                halves.make(None, *arrays[1:], None, kept)
                result[...] = np.nan
                halves.compute(*arrays, result, kept)
            np.testing.assert_array_equal(result, first)


@pytest.mark.parametrize("role", ROLES)
def test_bits_do_not_depend_on_threads(role):
    asked = Case(2, 64, 96, (20, 25), (3, 3), 1, 14, ((14, 14), (14, 14)), bias=True)
    arrays = asked.arrays()
    check_threads(lambda: run(folded, asked, role, arrays))


def test_the_drawing():
    """What is drawn in the module."""
    (axis,) = [axis for axis in folded.axes(CASES[0].problem("forward")) if axis.ends]
    assert [(kind, axis.positions(kind)) for kind in axis.kinds] == [(CORE, 5), (AHEAD, 3), (BEHIND, 3)]
    assert [axis.sources(kind) for kind in axis.kinds] == [[(0, 5), (5, 3)], [(5, 3)], [(0, 3)]]
    assert [axis.weights(kind) for kind in axis.kinds] == [[(1, 1)], [(2, 1), (1, -1)], [(0, 1), (1, -1)]]


@pytest.mark.parametrize(
    "spec",
    [
        {"dilation": 16, "padding": ((16, 16), (16, 16))},
        {"dilation": 24, "padding": ((24, 24), (24, 23))},
        {"dilation": 40, "padding": ((40, 40), (40, 40))},
        {"kernel": (1, 1)},
        {"kernel": (5, 5), "dilation": 20, "padding": ((40, 40), (40, 40))},
        {"stride": 2, "dilation": 20, "padding": ((20, 20), (20, 20))},
    ],
)
def test_what_it_leaves_to_others(spec):
    asked = Case(1, 8, 8, (33, 33), **{"kernel": (3, 3)} | spec)
    why = "no axis has three taps as far apart as half of its samples"
    assert folded.refuses(asked.problem("forward"), target.isa()) == why


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("dilation", [18, 24])
def test_it_is_chosen_in_deeplab(role, dilation):
    asked = Case(1, 2048, 256, (33, 33), (3, 3), 1, dilation, ((dilation, dilation),) * 2).problem(role)
    plan = select.choose(asked, target.isa())
    assert plan.algorithm == "folded"
    assert plan.workspace_bytes - plan.packed_bytes < 2 << 20


def test_halves_leave_large_results_to_others():
    """Of which a task's wait until all regions have been added."""
    asked = Case(1, 64, 256, (140, 140), (3, 3), 1, 80, ((80, 80), (80, 80)))
    assert folded.refuses(asked.problem("forward"), target.isa()) is None
    assert "workspace" in folded.refuses(asked.typed("float16").problem("forward"), target.isa())
