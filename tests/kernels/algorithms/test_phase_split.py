from dataclasses import replace

import numpy as np
import pytest

import lucid
from lucid.core.errors import PlanError
from lucid.core.geometry import ConvSpec
from lucid.kernels import select, target
from lucid.kernels.algorithms import channel_lanes, depthwise, phase_split, sliding
from lucid.kernels.algorithms.dense_layout import SHAPE
from lucid.kernels.algorithms.phase_split import axis_phases
from lucid.kernels.convolution import problem
from lucid.kernels.ir import f32
from lucid.kernels.runtime import threads
from tests.kernels.algorithms.dense_cases import case, operands, wanted

ISAS = [isa.name for isa in target.cpu().isas]


def test_phases_of_the_drawing():
    even, odd = axis_phases(size=7, out=4, kernel=3, stride=2, dilation=1, low=1, weight_step=1)
    assert (even.out_start, even.weights, even.offsets) == (1, (0, 2), (1, 0))
    assert (odd.out_start, odd.weights, odd.offsets) == (0, (1,), (0,))
    assert (even.positions, odd.positions) == (3, 4)


def test_samples_past_the_last_window_get_the_bias():
    c = case(1, 2, 3, (11,), 2, stride=4)
    (g, w, bias), asked, shape = operands("grad_input", c, "float32")
    gx = np.empty(shape, "float32")
    select.executable(asked, "phase_split")(g, w, bias, gx)
    untouched = [2, 3, 6, 7, 10]
    assert np.array_equal(gx[0][:, untouched], np.tile(bias[:, None], 5))


@pytest.mark.parametrize("isa", ISAS)
def test_adjoint_of_the_forward_convolution(isa):
    c = case(2, 5, 7, (23, 18), 3, stride=(2, 3), padding=2, dilation=(1, 2))
    (x, w, _), forward, y_shape = operands("forward", c, "float64")
    (g, _, _), backward, x_shape = operands("grad_input", c, "float64", seed=1)
    y, gx = np.empty(y_shape), np.empty(x_shape)
    with target.using(isa):
        select.executable(replace(forward, bias=False), "gemm")(x, w, None, y)
        select.executable(replace(backward, bias=False), "phase_split")(g, w, None, gx)
    assert np.sum(y * g) == pytest.approx(np.sum(x * gx), rel=1e-12)


def test_bits_do_not_depend_on_threads():
    c = case(2, 33, 70, (40, 21), 4, stride=2, padding=1)
    arrays, asked, shape = operands("grad_input", c, "float32")
    want, bound = wanted("grad_input", c, arrays)
    results = []
    before = threads.get_num_threads()
    try:
        for count in (1, 2, 3):
            threads.set_num_threads(count)
            results.append(np.empty(shape, "float32"))
            select.executable(asked, "phase_split")(*arrays, results[-1])
    finally:
        threads.set_num_threads(before)
    assert np.all(abs(results[0] - want) <= bound)
    assert all(np.array_equal(results[0], r) for r in results[1:])


def test_infinity_reaches_only_the_positions_it_meets():
    c = case(1, 3, 5, (24,), 5, stride=2, padding=2)
    (g, w, bias), asked, shape = operands("grad_input", c, "float32")
    g[0, 1, 4], g[0, 3, 0] = np.inf, np.nan
    gx = np.empty(shape, "float32")
    select.executable(asked, "phase_split")(g, w, bias, gx)
    want, _ = wanted("grad_input", c, (g, w, bias))
    assert np.array_equal(np.isfinite(gx), np.isfinite(want)) and np.array_equal(np.isnan(gx), np.isnan(want))


def test_refusals_are_told():
    _, asked, _ = operands("forward", case(1, 1, 1, (20,), 3), "float32")
    with pytest.raises(PlanError, match="it computes grad_input, not forward"):
        select.choose(asked, target.isa(), "phase_split")


def test_long_strides_are_left_to_others_before_their_phases_are_counted():
    isa, stride = target.isa(), 1 << 30
    line = ConvSpec((3,), (stride,), (1,), ((0, 0),))
    plane = ConvSpec((3, 3), (stride, 2), (1, 1), ((0, 0), (0, 0)), groups=32)
    lines = problem("grad_input", line, (1, 2, 2 * stride), (1, 2, 2), "float32", False)
    planes = problem("grad_input", plane, (1, 32, 2 * stride, 9), (1, 32, 2, 4), "float32", False)
    assert all(algorithm.refuses(lines, isa).endswith("1073741824 phases") for algorithm in (phase_split, depthwise))
    assert "2147483648 phases" in (channel_lanes.refuses(planes, isa) or "") or isa.lanes(f32) == 1
    assert "2147483648 phases" in (sliding.refuses(planes, isa) or "") or "avx512f" not in isa.requires


def test_a_stride_far_beyond_the_kernel_is_computed():
    stride, w = 1 << 20, np.arange(1.0, 4.0, dtype=np.float32)
    y = lucid.nn.functional.conv_transpose1d(lucid.ones(1, 1, 2), lucid.tensor(w.reshape(1, 1, 3)), stride=stride)
    wanted = np.zeros(stride + 3, np.float32)
    wanted[:3] = wanted[stride:] = w
    assert np.array_equal(y.numpy().ravel(), wanted)


def test_phases_of_a_span_are_neighbours_unless_their_weights_are_far(monkeypatch):
    c = case(3, 8, 40, (4021,), 5, stride=4)
    arrays, asked, shape = operands("grad_input", c, "float32")
    plan = select.choose(asked, target.isa(), "phase_split")
    plan = replace(plan, blocking=tuple((name, 0 if name == "lazy" else number) for name, number in plan.blocking))
    cpu, results = target.cpu(), []
    for l2_bytes, near in ((cpu.l2_bytes, True), (64, False)):
        machine = replace(cpu, l2_bytes=l2_bytes)
        monkeypatch.setattr(target, "cpu", lambda machine=machine: machine)
        run = phase_split.bind(plan, target.isa())
        numbers = dict(zip(SHAPE, run._given[4][0][0], strict=True))
        every, spans = (numbers["span_tasks"], numbers["kind_tasks"]), numbers["spans"]
        assert numbers["kinds"] == 4 and spans > 2
        assert every == ((4, 1) if near else (1, spans))
        results.append(np.empty(shape, "float32"))
        run(*arrays, results[-1])
    want, bound = wanted("grad_input", c, arrays)
    assert np.array_equal(*results)
    assert np.all(np.abs(results[0] - want) <= bound)
