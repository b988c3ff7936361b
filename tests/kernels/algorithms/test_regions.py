"""Regions of axes: whatever the cut, all pairs that meet a sample are there once, and few others."""

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucid.kernels import select, target
from lucid.kernels.algorithms import dense_plan, gemm, regions
from lucid.kernels.algorithms.dense_layout import Blocking
from lucid.kernels.algorithms.pixel_panels import AS_LINES, Axis, Layout
from lucid.kernels.algorithms.tile import ChannelTile
from lucid.kernels.isa import AVX512
from tests.kernels.algorithms.dense_cases import case, operands

POINT = Axis(1, 1, 1, (0,), (0,), 1)


@st.composite
def axes(draw):
    size, kernel, step, dilation = (draw(st.integers(1, most)) for most in (20, 9, 3, 5))
    low = draw(st.integers(0, dilation * kernel))
    positions = draw(st.integers(1, 30))
    offsets = tuple(t * dilation - low for t in range(kernel))
    return Axis(positions, size, step, offsets, tuple(range(kernel)), positions)


def pairs(axis):
    """(where the result goes, which weight, which sample), for every pair of a position and a tap."""
    for p, (offset, weight) in product(range(axis.positions), zip(axis.offsets, axis.weights, strict=True)):
        yield axis.out_start + p * axis.out_step, weight, p * axis.step + offset


@given(axes(), st.integers(1, 9))
def test_every_pair_that_meets_a_sample_is_in_one_region(axis, count):
    def meeting(axis):
        return [pair for pair in pairs(axis) if 0 <= pair[2] < axis.size]

    phases = regions.phases([[POINT], [POINT], [axis]], (1, 1, count))
    found = Counter(pair for _, _, x in phases for pair in meeting(x))
    assert found == Counter(meeting(axis))
    assert sum(x.positions for _, _, x in phases) == axis.positions
    assert sum(x.positions * len(x.offsets) for _, _, x in phases) <= len(list(pairs(axis)))


def test_regions_have_the_taps_that_they_need():
    """What is drawn in the module."""
    axis = Axis(8, 8, 1, (-4, 0, 4), (0, 1, 2), 8)
    found = {(x.out_start, x.positions): x.weights for _, _, x in regions.phases([[POINT], [POINT], [axis]], (1, 1, 9))}
    assert found == {(0, 4): (1, 2), (4, 4): (0, 1)}


def test_a_usual_layer_is_in_one_piece():
    """So that weighing it takes no longer."""
    axis = Axis(14, 14, 1, (-1, 0, 1), (0, 1, 2), 14)
    assert [cut for cut, _, _ in regions.cuts([[POINT], [axis], [axis]])] == [regions.WHOLE]


def test_a_kernel_of_which_one_tap_meets_samples_is_a_product():
    _, asked, _ = operands("forward", case(1, 64, 64, (33, 33), 3, padding=36, dilation=36), "float32")
    pointwise = operands("forward", case(1, 64, 64, (33, 33), 1), "float32")[1]
    taken, alone = (select.choose(each, target.isa(), "gemm") for each in (asked, pointwise))
    assert taken.tile == alone.tile
    assert taken.expected_ns < 1.3 * alone.expected_ns


def test_the_plan_cuts_where_most_products_are_with_padding():
    _, asked, _ = operands("forward", case(1, 256, 64, (33, 33), 3, padding=24, dilation=24), "float32")
    plan = select.choose(asked, target.isa(), "gemm")
    assert (plan["z_regions"], plan["y_regions"], plan["x_regions"]) == (1, 3, 3)
    assert "1 x 3 x 3 regions" in plan.why
    weights_bytes = 256 * 64 * 9 * 4
    assert plan.packed_bytes < 1.1 * weights_bytes, "regions share packed weights"


@given(axes(), axes(), st.sampled_from([(1, 2), (0, 1), AS_LINES]))
def test_lines_leave_out_the_taps_that_they_do_not_meet(outer, inner, shared):
    phase = (outer, inner, POINT)
    layout = Layout.of(phase, shared, 1)
    around = phase[: shared[-1] % 3]
    lines = list(product(*(range(axis.positions) for axis in around)))
    taps = list(product(*(range(len(axis.offsets)) for axis in phase)))

    def meets(line, tap):
        return all(
            0 <= p * axis.step + axis.offsets[t] < axis.size for axis, p, t in zip(around, line, tap, strict=False)
        )

    expected = [tuple(n for n, tap in enumerate(taps) if meets(line, tap)) for line in lines]
    assert layout.met() == expected
    assert layout.met_part == pytest.approx(sum(map(len, expected)) / (len(lines) * len(taps)))


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize(("cpu", "l2_bytes", "asks"), [
    ("znver4", 1 << 20, True), ("znver4", 4 << 20, False), ("znver5", 1 << 20, False),
])  # fmt: skip
def test_turned_tiles_ask_for_many_weights_where_vectors_take_two_turns(cpu, l2_bytes, asks, lazy, monkeypatch):
    this = replace(target.cpu(), name=cpu, l2_bytes=l2_bytes)
    monkeypatch.setattr(target, "cpu", lambda: this)
    _, asked, _ = operands("forward", case(1, 512, 256, (7, 7), 3, padding=1), "float32")
    cut = Blocking(ChannelTile(7, 2, 16), 64, 7, 1, AS_LINES, lazy=lazy, slack=0)
    sizes, whole = dense_plan.shape(asked, AVX512), regions.phases(gemm.axes(asked))
    assert dense_plan._asks(sizes, cut, whole) == asks
