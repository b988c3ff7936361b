"""Padding against NumPy's, and its adjoint by the inner product."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import lucid
from lucid.autograd import check_grads
from lucid.ops.pad import pad, pad_adjoint

NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
CASES = [
    ((5,), ((2, 3),)),
    ((5,), ((4, 0),)),
    ((1, 4), ((0, 1),)),
    ((2, 3, 4, 5), ((2, 1), (0, 4))),
    ((2, 4, 3, 5), ((1, 2), (2, 0), (3, 1))),
    ((0, 3, 4), ((1, 1),)),
    ((2, 1, 4), ((0, 0), (1, 2))),
]


@pytest.mark.parametrize("mode", NUMPY_MODES)
@pytest.mark.parametrize(("shape", "pads"), CASES)
def test_against_numpy(mode: str, shape: tuple[int, ...], pads: tuple[tuple[int, int], ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape)
    still = ((0, 0),) * (x.ndim - len(pads))
    y = pad(lucid.tensor(x), pads, mode)
    np.testing.assert_array_equal(y.numpy(), np.pad(x, still + pads, mode=NUMPY_MODES[mode]))


@pytest.mark.parametrize("mode", NUMPY_MODES)
@pytest.mark.parametrize(("shape", "pads"), CASES)
def test_the_adjoint_adds_back_what_was_copied(
    mode: str, shape: tuple[int, ...], pads: tuple[tuple[int, int], ...]
) -> None:
    """Column by column of the matrix that padding is."""
    rng = np.random.default_rng(1)
    x = lucid.tensor(rng.standard_normal(shape), requires_grad=True)
    y = pad(x, pads, mode)
    g = lucid.tensor(rng.standard_normal(y.shape))
    expected = np.zeros(shape)
    for place in product(*map(range, shape)):
        unit = np.zeros(shape)
        unit[place] = 1
        still = ((0, 0),) * (len(shape) - len(pads))
        expected[place] = (np.pad(unit, still + pads, mode=NUMPY_MODES[mode]) * g.numpy()).sum()
    np.testing.assert_allclose(pad_adjoint(g, pads, mode).numpy(), expected, atol=1e-12)
    y.backward(g)
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [lucid.float32, lucid.float16, lucid.bfloat16, lucid.int64, lucid.int8, lucid.bool])
@pytest.mark.parametrize("mode", NUMPY_MODES)
def test_other_types_long_pads_and_other_layouts(mode: str, dtype: lucid.DType) -> None:
    values = np.random.default_rng(3).integers(0, 2, (3, 2, 5000))
    x = lucid.tensor(values, dtype=dtype)
    for pads in (((3, 4999),), ((1, 1), (40, 2)), ((0, 0), (0, 0))):
        want = np.pad(values, ((0, 0),) * (3 - len(pads)) + pads, mode=NUMPY_MODES[mode])
        np.testing.assert_array_equal(pad(x, pads, mode).numpy().astype(int), want)
    turned = np.pad(values.transpose(2, 0, 1), ((0, 0), (0, 1), (1, 0)), mode=NUMPY_MODES[mode])
    np.testing.assert_array_equal(pad(x.permute(2, 0, 1), ((0, 1), (1, 0)), mode).numpy().astype(int), turned)


@pytest.mark.parametrize("mode", NUMPY_MODES)
def test_long_pads_are_added_back_as_short_ones_are(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = lucid.randn(2, 3, 6, dtype=lucid.float64).requires_grad_()
    g = lucid.randn(2, 6, 11, dtype=lucid.float64)
    (short,) = lucid.autograd.grad(pad(x, ((1, 2), (5, 0)), mode), x, g)
    monkeypatch.setattr("lucid.ops.pad._MOST_BEYOND", 3)
    (long,) = lucid.autograd.grad(pad(x, ((1, 2), (5, 0)), mode), x, g)
    terms = np.abs(g.numpy()).sum((1, 2)).max()  # at most all of an image's, added up in two orders
    np.testing.assert_allclose(long.numpy(), short.numpy(), rtol=0, atol=2 * g[0].numel() * np.finfo(float).eps * terms)


def test_zeros_with_another_value_and_with_negative_counts() -> None:
    x = lucid.tensor([[1.0, 2.0, 3.0]])
    assert pad(x, ((1, 2),), value=7.0).tolist() == [[7.0, 1.0, 2.0, 3.0, 7.0, 7.0]]
    assert pad(x, ((-1, 1),)).tolist() == [[2.0, 3.0, 0.0]]
    assert pad(x, ((-2, -1),)).shape == (1, 0)


@pytest.mark.parametrize("mode", NUMPY_MODES)
def test_gradients_to_second_order(mode: str) -> None:
    x = lucid.tensor(np.random.default_rng(2).standard_normal((2, 4, 3)), requires_grad=True)
    check_grads(lambda x: pad(x * x, ((2, 1), (1, 2)), mode), x)
    check_grads(lambda x: pad_adjoint(x * x, ((1, 1), (1, 0)), mode), x)
