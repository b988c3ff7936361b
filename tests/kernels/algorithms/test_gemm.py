from dataclasses import replace
from itertools import product

import ml_dtypes
import numpy as np
import pytest

from lucid.core.dtypes import as_dtype
from lucid.core.errors import PlanError
from lucid.core.geometry import ConvSpec
from lucid.kernels import select, target
from lucid.kernels.algorithms import dense_plan, gemm
from lucid.kernels.convolution import problem
from lucid.kernels.isa import AVX512
from lucid.kernels.runtime import threads
from tests.kernels.algorithms.dense_cases import case, operands, wanted

ISAS = [isa.name for isa in target.cpu().isas]

HALF_ISAS = [isa.name for isa in target.cpu().runnable]
TYPES = [*product(ISAS, ["float32"]), *product(HALF_ISAS, ["bfloat16"])]


def test_tasks_pack_their_own_weights_of_halves_where_vectors_take_turns(monkeypatch):
    _, asked, _ = operands("forward", case(1, 128, 256, (7, 7), 1), "bfloat16")

    machine = replace(target.cpu(), name="znver4", runnable=(AVX512,))
    monkeypatch.setattr(target, "cpu", lambda: machine)

    def packs_alone():
        return gemm.plan(replace(asked, dtype="float16"), AVX512)["lazy"]

    assert packs_alone()
    monkeypatch.setattr(dense_plan, "_waits_for_weights", lambda *_: False)
    assert not packs_alone()


@pytest.mark.parametrize(("isa", "dtype"), TYPES)
def test_bits_do_not_depend_on_threads(isa, dtype):
    c = case(3, 70, 33, (19, 21), 3, padding=1)
    arrays, asked, shape = operands("forward", c, dtype)
    want, bound = wanted("forward", c, arrays)
    results = []
    before = threads.get_num_threads()
    try:
        with target.using(isa):
            for count in (1, 2, 3):
                threads.set_num_threads(count)
                results.append(np.empty(shape, as_dtype(dtype).numpy))
                select.executable(asked, "gemm")(*arrays, results[-1])
    finally:
        threads.set_num_threads(before)
    assert np.all(abs(results[0] - want) <= bound)
    assert all(np.array_equal(results[0], r) for r in results[1:])


def test_no_bias():
    c = case(2, 3, 5, (9,), 3)
    (x, w, bias), asked, shape = operands("forward", c, "float64")
    y = np.empty(shape)
    select.executable(replace(asked, bias=False), "gemm")(x, w, None, y)
    want, bound = wanted("forward", c, (x, w, 0 * bias))
    assert np.all(abs(y - want) <= bound)


@pytest.mark.parametrize(("isa", "dtype"), TYPES)
@pytest.mark.parametrize(("padding", "stride"), [(1, 1), (2, 2), (1, 3)])
def test_nan_and_infinity_reach_only_their_windows(isa, dtype, padding, stride):
    """Nor do those of another group, next to its last channel, which is one of a pair."""
    c = case(2, 6, 10, (20,), 3, padding=padding, stride=stride, groups=2)
    (x, w, bias), asked, shape = operands("forward", c, dtype)
    x[0, 1, 7], x[1, 2, 0], x[1, 0, 19], x[:, 3] = np.nan, np.inf, -np.inf, np.inf
    y = np.empty(shape, x.dtype)
    with target.using(isa):
        select.executable(asked, "gemm")(x, w, bias, y)
    with np.errstate(invalid="ignore"):
        want, _ = wanted("forward", c, (x, w, bias))
    assert np.array_equal(np.isnan(y), np.isnan(want))
    assert np.array_equal(np.isposinf(y), np.isposinf(want)) and np.array_equal(np.isneginf(y), np.isneginf(want))


def test_shift_of_the_input_shifts_the_output():
    c = case(1, 4, 6, (70,), 5)
    (x, w, bias), asked, shape = operands("forward", c, "float32")
    y, shifted = np.empty(shape, "float32"), np.empty(shape, "float32")
    run = select.executable(asked, "gemm")
    run(x, w, bias, y)
    run(np.roll(x, -1, axis=2), w, bias, shifted)
    assert np.array_equal(shifted[..., :-1], y[..., 1:])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_special_numbers_of_half_precision(dtype):
    """NaN and infinity stay, what is too large becomes infinity, and halves go to the even neighbour."""
    kind, isa = as_dtype(dtype).numpy, target.isa()
    top, eps = float(ml_dtypes.finfo(kind).max), float(ml_dtypes.finfo(kind).eps)
    samples = [np.nan, np.inf, -np.inf, top, -0.0, 1.0, 1 + eps, 1 + 2 * eps, float(ml_dtypes.finfo(kind).tiny)]
    x, w = np.array(samples * 4).astype(kind)[None, None], np.array([[[1.0]], [[2.0]]]).astype(kind)
    bias, y = np.array([eps / 2, 0.0]).astype(kind), np.empty((1, 2, x.size), kind)
    asked = problem("forward", ConvSpec((1,), (1,), (1,), ((0, 0),)), x.shape, y.shape, dtype, True)
    if isa.name in HALF_ISAS:
        select.executable(asked, "gemm")(x, w, bias, y)
        with np.errstate(over="ignore"):
            want = [(x[0, 0].astype("f4") * m + b).astype(kind) for m, b in ((1, np.float32(bias[0])), (2, 0))]
        assert np.array_equal(y[0].astype("f4"), np.array(want).astype("f4"), equal_nan=True)


@pytest.mark.parametrize(("size", "weights_packed"), [((7, 7), 0), ((28, 28), 1)])
def test_plan_says_what_it_takes(size, weights_packed):
    _, asked, _ = operands("forward", case(4, 256, 256, size, 3, padding=1), "float32")
    plan = select.choose(asked, target.isa(), "gemm")
    packed_bytes = weights_packed * 4 * asked.c_out * asked.c_in * 9
    assert packed_bytes < plan.workspace_bytes < 1.1 * packed_bytes + (4 << 20)
    each = plan.expected_ns / target.cpu().turns(target.isa())
    assert asked.flops / 600 < each < asked.flops / 100


def test_refusals_are_told():
    _, asked, _ = operands("forward", case(1, 1, 1, (20000,), 17000), "float32")
    with pytest.raises(PlanError, match="at most 16384 taps, not 17000"):
        select.choose(asked, target.isa(), "gemm")
    _, asked, _ = operands("grad_input", case(1, 1, 1, (20,), 3), "float32")
    with pytest.raises(PlanError, match="it computes forward, not grad_input"):
        select.choose(asked, target.isa(), "gemm")
