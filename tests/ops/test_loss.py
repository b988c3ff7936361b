"""Softmax and class likelihoods against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

import lucid
from lucid.autograd import check_grads
from lucid.ops.loss import log_softmax, nll, softmax


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


@pytest.mark.parametrize("size", [(), (5,), (2, 3)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_the_likelihood_of_the_class_of_every_position(size: tuple[int, ...], weighted: bool, reduction: str) -> None:
    x, target = drawn(4, 3, *size), np.random.default_rng(1).integers(-1, 3, (4, *size))
    weight = np.array([0.5, 2.0, 1.0]) if weighted else np.ones(3)
    losses, total = np.zeros(target.shape), 0.0
    for n, *p in np.ndindex(*target.shape):
        c = target[(n, *p)]
        if c >= 0:
            losses[(n, *p)] = -weight[c] * x[(n, c, *p)]
            total += weight[c]
    expected = {"none": losses, "sum": losses.sum(), "mean": losses.sum() / total}[reduction]
    given = lucid.tensor(weight) if weighted else None

    def run(x: lucid.Tensor) -> lucid.Tensor:
        return nll(x, lucid.tensor(target), given, ignored=-1, reduction=reduction, caller="loss")

    np.testing.assert_allclose(run(lucid.tensor(x)).numpy(), expected, rtol=1e-13)
    check_grads(lambda x: run(x * x), lucid.tensor(x, requires_grad=True))


def test_infinities_at_ignored_positions_do_not_show() -> None:
    x = lucid.tensor([[-np.inf, 0.0], [1.0, 2.0]], requires_grad=True)
    loss = nll(x, lucid.tensor([-100, 1]), None, ignored=-100, reduction="mean", caller="loss")
    loss.backward()
    assert loss.item() == -2 and x.grad.tolist() == [[0, 0], [0, -1]]
    nothing = nll(x, lucid.tensor([-100, -100]), None, ignored=-100, reduction="mean", caller="loss")
    assert np.isnan(nothing.item())


def test_class_numbers_are_checked() -> None:
    for wrong in (3, -1):
        with pytest.raises(IndexError, match=f"loss: target class {wrong} is out of range for 3 classes, 0 … 2"):
            nll(lucid.zeros(2, 3), lucid.tensor([0, wrong]), None, ignored=9, reduction="sum", caller="loss")
