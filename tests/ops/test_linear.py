"""The linear map against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import lucid
from lucid.autograd import check_grads
from lucid.ops.linear import linear


@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (0,), (2, 0, 3)])
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients(lead: tuple[int, ...], biased: bool) -> None:
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(s) for s in ((*lead, 5), (3, 5), (3,)))
    inputs = [lucid.tensor(a, requires_grad=True) for a in ((x, w, b) if biased else (x, w))]
    y = linear(*inputs) if biased else linear(*inputs, None)
    np.testing.assert_allclose(y.detach().numpy(), x @ w.T + (b if biased else 0), atol=1e-13)
    check_grads(lambda *a: linear(*a) if biased else linear(*a, None), inputs)


def test_strided_input() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((5, 8))[::-1, ::2], rng.standard_normal((4, 3)).T
    np.testing.assert_allclose(linear(lucid.tensor(x), lucid.tensor(w), None).numpy(), x @ w.T, atol=1e-13)
