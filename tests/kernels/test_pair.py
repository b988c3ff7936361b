"""Two gradients in one region: the bits that they have apart, between guard pages, on any number of threads."""

from dataclasses import replace

import numpy as np
import pytest

from lucid.core.geometry import ConvSpec
from lucid.kernels import convolution, pair, target
from lucid.kernels.algorithms import depthwise, lines, sliding
from tests.kernels.algorithms.patches import Case, check_threads
from tests.kernels.guard import guarded, run_guarded_cases

SLIDES = "avx512f" in target.isa().requires
needs_sliding = pytest.mark.skipif(not SLIDES, reason="slides on AVX-512 alone")

ROWS = Case(3, 16, 16, (70,), (3,), padding=1, groups=16)
APART = Case(2, 16, 32, (80,), (3,), dilation=9, padding=9, groups=16)
BANK = Case(3, 2, 8, (70,), (5,), padding=2, groups=2)
PLANES = Case(3, 8, 8, (13, 40), (3, 3), padding=1, groups=8)
UP = Case(2, 8, 8, (12, 36), (4, 4), 2, padding=1, groups=8)
GROUPS = Case(2, 12, 18, (9, 21), (3, 3), padding=1, groups=6)
PAIRS = [
    (depthwise, lines, ROWS, False),
    (depthwise, depthwise, ROWS, False),
    (depthwise, lines, APART, False),
    (lines, lines, BANK, False),
    (depthwise, depthwise, PLANES, True),
    *[(sliding, sliding, case, turned) for case in (PLANES, UP, GROUPS) for turned in (False, True)],
]


@pytest.fixture(params=[False, True], ids=["near", "far"])
def caches(request, monkeypatch):
    """Nothing is held by the last cache; or by none, and then tasks are of one image."""
    cpu = target.cpu()
    small = replace(cpu, l3_bytes=0 if request.param else 2 * 4 * PLANES.problem("forward").traffic_bytes)
    monkeypatch.setattr(target, "cpu", lambda: small)
    monkeypatch.setattr(pair, "_held_bytes", lambda: 0)


def bound(algorithm, problem):
    isa = target.isa()
    return algorithm.bind(algorithm.plan(problem, isa), isa)


def regions(first, second, case, transposed):
    """The problem of the first, both apart, and both in one."""
    problem = case.problem("forward" if transposed else "grad_input")
    weights = replace(case.problem("grad_weight"), bias=second is not lines or not transposed, transposed=transposed)
    apart = bound(first, problem), bound(second, weights)
    return problem, weights, apart, pair.paired(problem, *apart)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("first", "second", "case", "transposed"),
    [pytest.param(*given, marks=needs_sliding if given[0] is sliding else ()) for given in PAIRS],
)
def test_the_same_bits_as_apart(first, second, case, transposed, dtype, caches):
    case = case.typed(dtype)
    _, weights, (input_gradient, weight_gradient), together = regions(first, second, case, transposed)
    assert together is not None
    arrays = case.arrays()
    x, g, w = arrays["x"], arrays["g"], arrays["w"]
    source, like = (x, g) if transposed else (g, x)
    result, gw, gb = np.empty_like(like), np.empty_like(w), np.empty(weights.summed_channels, w.dtype)
    input_gradient(source, w, None, result)
    weight_gradient(x, g, gw, gb)

    def one(where):
        with (
            guarded(x, where=where, readonly=True) as x_there,
            guarded(g, where=where, readonly=True) as g_there,
            guarded(w, where=where, readonly=True) as w_there,
            guarded(like.shape, w.dtype, where=where) as to,
            guarded(w.shape, w.dtype, where=where) as to_w,
            guarded(gb.shape, w.dtype, where=where) as to_b,
        ):

            def compute():
                source_there = x_there if transposed else g_there
                together(source_there, w_there, None, to, x_there, g_there, to_w, to_b)
                return to.copy(), to_w.copy(), to_b.copy()

            check_threads(compute)
            for found, wanted in zip(compute(), (result, gw, gb), strict=True):
                np.testing.assert_array_equal(found, wanted)

    run_guarded_cases(one, ["start"] if to_lines(first) else ["start", "end"])


def to_lines(algorithm):
    """Whether results must begin with a line, as those do that go past the caches."""
    return algorithm in (sliding, depthwise) and target.cpu().l3_bytes == 0


def test_what_caches_hold_stays_apart():
    problem, _, apart, together = regions(depthwise, lines, ROWS, False)
    assert together is None
    assert pair.paired(problem, *apart) is None


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_one_call_gives_all_gradients(bias, transposed, monkeypatch):
    monkeypatch.setattr(pair, "_held_bytes", lambda: 0)
    monkeypatch.setattr(convolution, "_near_bytes", lambda: 0)
    convolution._pair.cache_clear()
    arrays, spec = PLANES.arrays(), PLANES.spec
    x, g, w = arrays["x"], arrays["g"], arrays["w"]
    found = convolution.conv_gradients(x, g, w, spec, bias, transposed)
    convolution._pair.cache_clear()
    if not SLIDES:
        return
    assert found is not None
    if transposed:
        wanted = convolution.conv_forward(x, w, None, spec)
    else:
        wanted = convolution.conv_grad_input(g, w, None, spec, x.shape[2:])
    np.testing.assert_array_equal(found[0], wanted)
    np.testing.assert_array_equal(found[1], convolution.conv_grad_weight(x, g, spec))
    if bias:
        np.testing.assert_allclose(found[2], (x if transposed else g).sum((0, 2, 3), np.float64), rtol=1e-4, atol=1e-3)
    assert len(found) == 2 + bias


def test_complex_numbers_and_small_arrays_have_no_pair():
    spec = ConvSpec((3,), (1,), (1,), ((1, 1),), 2)
    x, w = np.ones((1, 2, 8)), np.ones((2, 1, 3))
    assert convolution.conv_gradients(x, x, w, spec, True) is None
    x = np.zeros((4, 2, 2_000_000), np.complex64)
    assert convolution.conv_gradients(x, x, w.astype(np.complex64), spec, True) is None
