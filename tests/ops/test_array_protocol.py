"""NumPy's operators and functions on tensors."""

from __future__ import annotations

import numpy as np
import pytest

import lucid
from lucid import Tensor
from lucid.core.errors import GradientError


def test_an_array_on_the_left():
    a, x = np.array([1.0, 2.0]), lucid.tensor([3.0, 4.0], dtype=lucid.float64, requires_grad=True)
    y = a * x + a - x / a
    assert isinstance(y, Tensor)
    y.backward()
    assert x.grad.tolist() == [0, 1.5]
    for got, want in (
        (a @ x, 11),
        (np.float64(2) * x, [6, 8]),
        (a < x, [True, True]),
        (2 - x, [-1, -2]),
        (a**x, [1, 16]),
    ):
        assert isinstance(got, Tensor) and got.tolist() == want
    assert (np.float32(2) * lucid.ones(1)).dtype is lucid.float32


def test_functions():
    x = lucid.ones(2, requires_grad=True)
    y = np.exp(x)
    assert isinstance(y, Tensor) and y.requires_grad
    assert isinstance(np.cbrt(x.detach()), Tensor)
    with pytest.raises(GradientError, match=r"np.cbrt"):
        np.cbrt(x)
    assert np.add.reduce(x.detach()).item() == 2


def test_writing_into_arrays():
    a = np.ones(2)
    a += lucid.tensor([1.0, 2.0])
    assert a.tolist() == [2, 3]
    with pytest.raises(TypeError, match="out="):
        np.add(a, a, out=lucid.ones(2))
