"""Medians and quantiles beside NumPy's, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest

import lucid
from lucid.autograd import check_grads
from lucid.core.errors import DTypeError, ShapeError

SHAPES = [(1,), (2,), (9,), (10,), (3, 33), (4, 5, 6), (700, 3)]


def _values(*shape):
    return np.random.default_rng(sum(shape)).integers(-9, 9, shape).astype(np.float32) / 2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("keepdim", [False, True])
def test_median_is_the_lower_one_of_two(shape, keepdim):
    x = _values(*shape)
    assert lucid.median(lucid.tensor(x)).item() == np.quantile(x, 0.5, method="lower")
    for dim in range(-1, len(shape)):
        values, places = lucid.tensor(x).median(dim, keepdim)
        want = np.quantile(x, 0.5, axis=dim, method="lower", keepdims=keepdim)
        np.testing.assert_array_equal(values.numpy(), want, strict=True)
        wide = places.numpy() if keepdim else np.expand_dims(places.numpy(), dim)
        np.testing.assert_array_equal(np.take_along_axis(x, wide, dim).reshape(want.shape), want)


@pytest.mark.parametrize("how", ["linear", "lower", "higher", "midpoint", "nearest"])
@pytest.mark.parametrize("shape", SHAPES)
def test_quantiles_are_numpys(shape, how):
    x, q = _values(*shape), [0.0, 0.25, 0.4, 0.5, 0.99, 1.0]
    for dim in (None, *range(len(shape))):
        for keepdim in (False, True):
            for asked in (q, 0.3):
                got = lucid.quantile(lucid.tensor(x), asked, dim, keepdim, interpolation=how)
                want = np.quantile(x.astype(np.float64), asked, axis=dim, keepdims=keepdim, method=how)
                assert got.shape == want.shape and got.dtype is lucid.float32
                np.testing.assert_allclose(got.numpy(), want, rtol=1e-6, atol=1e-6)


def test_shares_given_as_a_tensor_are_multiplied_in_its_type():
    x = lucid.arange(6, dtype=lucid.float32)
    assert lucid.quantile(x, lucid.tensor([0.4, 0.6]), interpolation="higher").tolist() == [2, 3]


def test_nan_is_told():
    x = lucid.tensor([[1.0, float("nan"), 2.0, float("nan")], [3.0, 1.0, 2.0, 0.0]])
    values, places = x.median(1)
    assert np.isnan(values.numpy()).tolist() == [True, False] and places.tolist() == [1, 1]
    assert np.isnan(lucid.quantile(x, [0.0, 0.5], 1).numpy()).tolist() == [[True, False]] * 2
    assert np.isnan(x.median().item())


def test_infinities_are_themselves():
    x = lucid.tensor([float("-inf"), 0.0, float("inf")])
    assert lucid.quantile(x, [0.0, 0.5, 1.0]).tolist() == [float("-inf"), 0.0, float("inf")]


def test_integers_and_single_elements_have_a_median():
    assert lucid.median(lucid.tensor([3, 1, 2])).item() == 2 and lucid.median(lucid.tensor(5.0)).item() == 5
    assert lucid.tensor(5.0).median(0).indices.item() == 0 and lucid.quantile(lucid.tensor(5.0), 0.3).item() == 5


def test_gradients_reach_the_elements():
    x = lucid.tensor(np.random.default_rng(0).permutation(15).reshape(3, 5) / 4, requires_grad=True)
    check_grads(lambda x: x.median(1).values, (x,))
    check_grads(lambda x: lucid.quantile(x, [0.1, 0.7], 1), (x,))
    x.median().backward()
    assert x.grad.sum().item() == 1


def test_errors():
    with pytest.raises(ValueError, match=r"quantile: q=1\.5 must be a number or a list of numbers from 0 to 1"):
        lucid.quantile(lucid.ones(3), 1.5)
    with pytest.raises(ValueError, match="interpolation='cubic' must be one of 'linear'"):
        lucid.quantile(lucid.ones(3), 0.5, interpolation="cubic")
    with pytest.raises(DTypeError, match="must be floating-point"):
        lucid.quantile(lucid.tensor([1, 2]), 0.5)
    with pytest.raises(ShapeError, match="median: nothing to choose from"):
        lucid.median(lucid.zeros(0))
