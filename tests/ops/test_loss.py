"""Softmax and class likelihoods against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

import lucid
from lucid.autograd import check_grads
from lucid.ops.loss import class_index, log_softmax, pick_class, softmax


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("scale", [1.0, 500.0])
def test_against_scipy(dim: int, scale: float) -> None:
    x = scale * drawn(3, 4, 5)
    np.testing.assert_allclose(softmax(lucid.tensor(x), dim).numpy(), special.softmax(x, dim), rtol=1e-12)
    np.testing.assert_allclose(log_softmax(lucid.tensor(x), dim).numpy(), special.log_softmax(x, dim), rtol=1e-12)


@pytest.mark.parametrize("verb", [softmax, log_softmax])
def test_gradients_to_third_order(verb) -> None:
    check_grads(lambda x: verb(x, 1), lucid.tensor(drawn(3, 4), requires_grad=True), order=3, rtol=1e-4)


def test_methods() -> None:
    x = lucid.tensor(drawn(3, 4))
    assert (x.softmax(dim=1).sum(1) - 1).abs().max().item() < 1e-12
    np.testing.assert_allclose(x.log_softmax(1).exp().numpy(), x.softmax(1).numpy())


def test_rows_that_overflow_or_are_empty() -> None:
    assert softmax(lucid.tensor([1e5, 0.0, -1e5]), 0).tolist() == [1.0, 0.0, 0.0]
    assert np.isnan(softmax(lucid.tensor([float("nan"), 0.0]), 0).numpy()).all()
    assert softmax(lucid.zeros(0, 3), 1).shape == (0, 3)


def test_wrong_input_is_named() -> None:
    with pytest.raises(lucid.DTypeError, match="softmax: the input is int64"):
        softmax(lucid.tensor([1, 2]), 0)
    with pytest.raises(lucid.ShapeError, match="log_softmax: dim=2 is out of range"):
        log_softmax(lucid.zeros(2, 2), 2)


def test_the_class_of_every_position_is_picked() -> None:
    x, target = drawn(4, 3, 5), np.random.default_rng(1).integers(-1, 3, (4, 5))
    y = pick_class(lucid.tensor(x), lucid.tensor(target)).numpy()
    for n, p in np.ndindex(4, 5):
        assert y[n, p] == (x[n, target[n, p], p] if target[n, p] >= 0 else 0)
    check_grads(lambda x: pick_class(x * x, lucid.tensor(target)), lucid.tensor(x, requires_grad=True))


def test_class_numbers_are_checked() -> None:
    assert class_index(lucid.tensor([0, 2, 9]), 3, 9, "loss").tolist() == [0, 2, -1]
    for wrong in (3, -1):
        with pytest.raises(IndexError, match=f"loss: target class {wrong} is out of range for 3 classes, 0 … 2"):
            class_index(lucid.tensor([0, wrong]), 3, 9, "loss")
