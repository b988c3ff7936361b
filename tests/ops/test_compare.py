"""Comparison, logic and choice."""

from __future__ import annotations

import operator

import numpy as np
import pytest

import lucid
from lucid.autograd import check_grads

X, Y = np.random.default_rng(4).integers(-2, 3, (2, 3, 4))
SYMBOLS = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


@pytest.mark.parametrize("name", SYMBOLS)
def test_comparisons(name):
    symbol = SYMBOLS[name]
    x, y = lucid.tensor(X), lucid.tensor(Y)
    for got, want in (
        (symbol(x, y), symbol(X, Y)),
        (symbol(x, 1), symbol(X, 1)),
        (symbol(1, x), symbol(1, X)),
        (getattr(lucid, name)(x, y[0]), symbol(X, Y[0])),
        (getattr(x.float(), name)(y), symbol(X, Y)),
        (symbol(x, Y), symbol(X, Y)),
    ):
        assert got.dtype is lucid.bool and not got.requires_grad
        np.testing.assert_array_equal(got.numpy(), want)


def test_comparing_records_nothing():
    x = lucid.ones(2, requires_grad=True)
    assert not (x > 0).requires_grad and not (x == x).requires_grad


def test_integers_beside_numbers_that_do_not_fit():
    x = lucid.tensor([1, 255], dtype=lucid.uint8)
    assert (x < 300).all().item() and (x > -1).all().item() and not (x == 256).any().item()
    assert (lucid.tensor([1, 2]) < 1.5).tolist() == [True, False]


@pytest.mark.parametrize("name", ["and", "or", "xor"])
def test_logic_and_bits(name):
    x, y = lucid.tensor(X), lucid.tensor(Y)
    np.testing.assert_array_equal(getattr(lucid, f"logical_{name}")(x, y).numpy(), getattr(np, f"logical_{name}")(X, Y))
    symbol = getattr(operator, f"{name}_" if name != "xor" else name)
    np.testing.assert_array_equal(symbol(x, y).numpy(), symbol(X, Y))
    np.testing.assert_array_equal(symbol(x > 0, y > 0).numpy(), symbol(X > 0, Y > 0))
    mask = x > 0
    written = getattr(operator, f"i{name}")(mask, y > 0)
    assert written is mask and written.tolist() == symbol(X > 0, Y > 0).tolist()


def test_opposites():
    x = lucid.tensor(X)
    np.testing.assert_array_equal((~x).numpy(), ~X)
    np.testing.assert_array_equal((~(x > 0)).numpy(), ~(X > 0))
    np.testing.assert_array_equal(lucid.logical_not(x).numpy(), X == 0)


def test_what_numbers_are():
    x = lucid.tensor([1.0, float("nan"), float("inf"), -float("inf")])
    assert x.isnan().tolist() == [False, True, False, False]
    assert x.isinf().tolist() == [False, False, True, True]
    assert x.isfinite().tolist() == [True, False, False, False]


def test_closeness():
    x = lucid.tensor([1.0, float("nan")])
    assert not lucid.allclose(x, x) and lucid.allclose(x, x, equal_nan=True)
    assert lucid.isclose(x, x + 1e-7).tolist() == [True, False]
    assert lucid.tensor([1.0], dtype="bfloat16").allclose(lucid.tensor([1.004], dtype="bfloat16"), rtol=0.01)
    assert lucid.equal(lucid.ones(2), lucid.ones(2)) and not lucid.equal(lucid.ones(2), lucid.ones(1, 2))


def test_where():
    x, y, c = (lucid.tensor(a, dtype=lucid.float64) for a in (X, Y, X > Y))
    condition = c > 0
    np.testing.assert_array_equal(lucid.where(condition, x, y).numpy(), np.where(X > Y, X, Y))
    np.testing.assert_array_equal(x.where(condition, 5).numpy(), np.where(X > Y, X, 5))
    assert lucid.where(condition, lucid.ones(4), 0.0).dtype is lucid.float32
    assert lucid.where(condition, 1, 0).dtype is lucid.int64
    assert [i.tolist() for i in lucid.where(condition)] == [i.tolist() for i in np.nonzero(X > Y)]
    x.requires_grad_()
    check_grads(
        lambda a, b: lucid.where(condition, a * a, b.exp()), (x, lucid.randn(4, dtype=float).double().requires_grad_())
    )


def test_masked_fill():
    x = lucid.tensor(X)
    np.testing.assert_array_equal(x.masked_fill(x > 0, 9).numpy(), np.where(X > 0, 9, X))
    assert x.masked_fill(x > 0, 1.5).dtype is lucid.int64
    assert x.masked_fill(x > 0, lucid.tensor(9.0)).max().item() == 9
    check_grads(lambda t: t.masked_fill(x > 0, 2.0) ** 2, lucid.tensor(X, dtype=lucid.float64, requires_grad=True))


def test_nonzero():
    np.testing.assert_array_equal(lucid.nonzero(lucid.tensor(X)).numpy(), np.argwhere(X))
    assert lucid.tensor(3.0).nonzero().shape == (1, 0) and lucid.zeros(0).nonzero().shape == (0, 1)
