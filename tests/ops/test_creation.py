"""Constants and ranges."""

from __future__ import annotations

import numpy as np
import pytest

import lucid
from lucid.core.errors import DTypeError, ShapeError


@pytest.mark.parametrize("name", ["zeros", "ones", "empty"])
def test_constants(name):
    make = getattr(lucid, name)
    assert make(2, 3).shape == make((2, 3)).shape == make([2, 3]).shape == (2, 3)
    assert make().shape == () and make(0).shape == (0,)
    assert make(2).dtype is lucid.float32 and make(2, dtype=lucid.int8).dtype is lucid.int8
    assert make(2, requires_grad=True).requires_grad
    like = getattr(lucid, f"{name}_like")(lucid.ones(2, 3, dtype=lucid.float64))
    assert like.shape == (2, 3) and like.dtype is lucid.float64
    new = getattr(lucid.ones(1, dtype=lucid.int16), f"new_{name}")(4)
    assert new.shape == (4,) and new.dtype is lucid.int16


def test_values():
    assert lucid.zeros(2).tolist() == [0, 0] and lucid.ones(2).tolist() == [1, 1]
    assert lucid.full((2,), 7).dtype is lucid.int64 and lucid.full(2, 7.5).tolist() == [7.5, 7.5]
    assert lucid.full((1,), True).dtype is lucid.bool and lucid.full((1,), 1j).dtype is lucid.complex64
    assert lucid.full_like(lucid.ones(2), 3).tolist() == [3, 3]
    assert lucid.eye(2, 3).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert lucid.ones(1).new_tensor([1, 2]).dtype is lucid.float32
    assert lucid.complex(lucid.tensor(1.0), lucid.tensor(2.0)).item() == 1 + 2j


@pytest.mark.parametrize(
    "args", [(5,), (2, 5), (0, 10, 3), (5, 0, -2), (0, 1, 0.25), (0.5, 3), (3, 3), (1, 2, 0.3), (0, -7, -3)]
)
def test_arange(args):
    want = np.arange(*args)
    got = lucid.arange(*args)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)
    assert got.dtype is (lucid.int64 if want.dtype.kind == "i" else lucid.float32)


def test_negative_sizes():
    for make in (lucid.zeros, lucid.ones, lucid.randn, lambda *s: lucid.full(s, 1.0)):
        with pytest.raises(ShapeError, match=r"\(2, -1\): none may be negative"):
            make(2, -1)


def test_arange_that_leads_nowhere():
    for args in ((5, 0), (0, 5, -1), (0, 5, 0)):
        with pytest.raises(ValueError, match="does not lead"):
            lucid.arange(*args)


def test_spaces():
    np.testing.assert_allclose(lucid.linspace(-1, 2, 7).numpy(), np.linspace(-1, 2, 7), rtol=1e-6)
    np.testing.assert_allclose(lucid.logspace(0, 2, 3).numpy(), [1, 10, 100], rtol=1e-6)
    assert lucid.linspace(0, 1, 0).shape == (0,)
    with pytest.raises(ValueError, match="steps=-1"):
        lucid.linspace(0, 1, -1)


def test_grids():
    x, y = lucid.meshgrid(lucid.arange(2), lucid.arange(3))
    assert x.tolist() == [[0, 0, 0], [1, 1, 1]] and y.tolist() == [[0, 1, 2]] * 2


def test_tensor_copies_and_as_tensor_shares():
    a = np.ones(2)
    x = lucid.tensor(a)
    a[0] = 5
    assert x.tolist() == [1, 1] and lucid.as_tensor(a).tolist() == [5, 1]
    y = lucid.ones(2)
    assert lucid.as_tensor(y) is y and lucid.tensor(y).data_ptr() != y.data_ptr()
    assert lucid.as_tensor(y, dtype=lucid.float64).dtype is lucid.float64
    assert lucid.tensor([1.0], requires_grad=True).requires_grad
    with pytest.raises(DTypeError, match="gradients"):
        lucid.tensor([1], requires_grad=True)
