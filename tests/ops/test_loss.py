"""Softmax and class likelihoods against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

import lucid
from lucid.autograd import check_grads
from lucid.ops.loss import cross_entropy, log_softmax, nll, softmax


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


@pytest.mark.parametrize("dtype", [lucid.float32, lucid.float64])
@pytest.mark.parametrize(("classes", "size"), [(10, ()), (1, ()), (40, ()), (5, (7,)), (3, (4, 9))])
@pytest.mark.parametrize("options", ["plain", "ignored", "weighted", "int32"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_cross_entropy_and_its_gradient(
    dtype, classes: int, size: tuple[int, ...], options: str, reduction: str
) -> None:
    rng = np.random.default_rng(classes)
    scores = (rng.standard_normal((6, classes, *size)) * 4).astype(dtype.numpy)
    target = rng.integers(0, classes, (6, *size))
    weight = rng.uniform(0.5, 2.0, classes).astype(dtype.numpy) if options == "weighted" else None
    if options in ("ignored", "weighted"):
        target[1] = -7
    kept = target >= 0
    index = np.where(kept, target, 0)
    factors = kept * (1.0 if weight is None else weight.astype(float)[index])
    log_p = special.log_softmax(scores.astype(np.float64), 1)
    loss = -factors * np.take_along_axis(log_p, index[:, None], 1)[:, 0]
    share = factors / factors.sum() if reduction == "mean" else factors
    wanted = loss if reduction == "none" else loss.sum() / (factors.sum() if reduction == "mean" else 1)
    here = np.arange(classes).reshape(-1, *(1,) * len(size)) == index[:, None]
    gradient = share[:, None] * (np.exp(log_p) - here)

    x = lucid.tensor(scores, requires_grad=True)
    given = lucid.tensor(target.astype(np.int32) if options == "int32" else target)
    got = cross_entropy(x, given, None if weight is None else lucid.tensor(weight), ignored=-7, reduction=reduction)
    got.backward(lucid.ones(*got.shape, dtype=dtype))
    # x - top, the logarithm and their difference round once each, at most at the size of the largest difference; a
    # sum adds a rounding per position.
    unit = np.finfo(dtype.numpy).eps * (4 + target.size)
    assert np.abs(got.detach().numpy() - wanted).max() <= unit * max(np.abs(scores).max() * 2, np.abs(loss).sum())
    assert np.abs(x.grad.numpy() - gradient).max() <= np.finfo(dtype.numpy).eps * 64 * share.max()


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("size", [(), (3,)])
def test_gradients_of_cross_entropy(reduction: str, size: tuple[int, ...]) -> None:
    target = lucid.tensor(np.arange(4 * max(1, *size, 1)).reshape(4, *size) % 5)
    x = lucid.tensor(drawn(4, 5, *size), requires_grad=True)
    weight = lucid.tensor(np.linspace(0.5, 1.5, 5))
    check_grads(lambda x: cross_entropy(x, target, None, ignored=-1, reduction=reduction), (x,), order=2)
    check_grads(lambda x: cross_entropy(x, target, weight, ignored=2, reduction=reduction), (x,), order=2)


def test_cross_entropy_at_the_edges() -> None:
    x = lucid.tensor(np.array([[0.0, -np.inf], [np.nan, 1.0], [1e30, -1e30]]), requires_grad=True)
    loss = cross_entropy(x, lucid.tensor([1, 0, 0]), None, ignored=-1, reduction="none").detach().numpy()
    assert loss[0] == np.inf and np.isnan(loss[1]) and loss[2] == 0
    nothing = cross_entropy(x, lucid.tensor([-1, -1, -1]), None, ignored=-1, reduction="mean")
    assert np.isnan(nothing.item())
    assert np.isnan(
        cross_entropy(lucid.zeros(0, 3), lucid.zeros(0, dtype=lucid.int64), None, ignored=-1, reduction="mean").item()
    )
    half = cross_entropy(x.detach().to(lucid.float16), lucid.tensor([1, 0, 0]), None, ignored=-1, reduction="none")
    assert half.dtype is lucid.float16
    for wrong in (-2, 2):
        with pytest.raises(IndexError, match=f"cross_entropy: target class {wrong} is out of range for 2 classes"):
            cross_entropy(x, lucid.tensor([0, wrong, 0]), None, ignored=-1, reduction="mean")
