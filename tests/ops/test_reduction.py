"""Reductions: values of NumPy and SciPy over every choice of dimensions, gradients to second order."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

import lucid
from lucid.autograd import check_grads
from lucid.core.errors import DTypeError, ShapeError

RNG = np.random.default_rng(1)
X = RNG.standard_normal((2, 3, 4))

REDUCTIONS = {
    "sum": np.sum,
    "mean": np.mean,
    "amax": np.max,
    "amin": np.min,
    "logsumexp": special.logsumexp,
    "norm": lambda x, axis=None, keepdims=False: np.sqrt(np.sum(x * x, axis, keepdims=keepdims)),
    "var": lambda x, axis=None, keepdims=False: np.var(x, axis, ddof=1, keepdims=keepdims),
    "std": lambda x, axis=None, keepdims=False: np.std(x, axis, ddof=1, keepdims=keepdims),
}


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("dim", [None, 0, -1, (0, 2), (2, 1, 0)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_over_dimensions(name, dim, keepdim):
    def function(x):
        return getattr(x, name)(dim=dim, keepdim=keepdim)

    want = REDUCTIONS[name](X, axis=dim, keepdims=keepdim)
    got = function(lucid.tensor(X))
    assert got.shape == want.shape
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-13)
    check_grads(function, lucid.tensor(X, requires_grad=True), rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_types_add_up_in_float32(dtype):
    x = lucid.full((4096,), 1.0, dtype=dtype)
    assert x.sum().item() == 4096 and x.sum().dtype is x.dtype
    assert x.mean().item() == 1 and x.cumsum(0)[-1].item() == 4096


def test_integers_add_up_as_int64():
    x = lucid.full((1000,), 100, dtype=lucid.uint8)
    assert (x.sum().dtype, x.sum().item(), x.cumsum(0).dtype) == (lucid.int64, 100_000, lucid.int64)
    assert lucid.tensor([True, True]).sum().item() == 2
    assert lucid.full((3,), 100, dtype=lucid.int8).prod().item() == 1_000_000
    assert x.sum(dtype=lucid.float32).dtype is lucid.float32 and x.mean(dtype=float).item() == 100
    for name in ("mean", "var", "std"):
        with pytest.raises(DTypeError, match=f"{name}: a floating point"):
            getattr(x, name)()


@pytest.mark.parametrize("dim", [None, 0, 1, -1])
@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_products(dim, zeros):
    x = X.copy()
    x.reshape(-1)[: zeros * 5 : 5] = 0
    np.testing.assert_allclose(lucid.tensor(x).prod(dim).numpy(), x.prod(dim), rtol=1e-13)
    check_grads(lambda t: t.prod(dim), lucid.tensor(x, requires_grad=True), order=1 if zeros else 2, rtol=1e-4)


@pytest.mark.parametrize("correction", [0, 1, 2])
def test_variance(correction):
    x = lucid.tensor(X)
    np.testing.assert_allclose(x.var((0, 1), correction=correction).numpy(), X.var((0, 1), ddof=correction), rtol=1e-13)
    np.testing.assert_allclose(x.std(2, correction=correction).numpy(), X.std(2, ddof=correction), rtol=1e-13)
    assert x.var(unbiased=False).item() == pytest.approx(X.var())
    assert lucid.ones(1).var().isnan().item()


def test_gradients_at_corners_are_subgradients():
    for name in ("norm", "std"):
        x = lucid.ones(3, requires_grad=True)
        getattr(x * 0, name)().backward()
        assert x.grad.tolist() == [0, 0, 0]
    x = lucid.tensor([2.0, 5.0, 5.0], requires_grad=True)
    x.amax().backward()
    assert x.grad.tolist() == [0, 0.5, 0.5]
    x.grad = None
    x.max(0).values.backward()
    assert x.grad.tolist() == [0, 1, 0]


@pytest.mark.parametrize("p", [1, 2, 3, 0.5, "fro", float("inf"), -float("inf"), 0])
def test_norms(p):
    want = np.linalg.norm(X.reshape(-1), 2 if p == "fro" else p)
    assert lucid.tensor(X).norm(p).item() == pytest.approx(want, rel=1e-12)
    if p != 0:
        check_grads(lambda x: x.norm(p, dim=1), lucid.tensor(X, requires_grad=True), rtol=1e-4)


def test_extremes_with_indices():
    x = lucid.tensor(X)
    for name, reference, where in (("max", np.max, np.argmax), ("min", np.min, np.argmin)):
        found = getattr(x, name)(1)
        np.testing.assert_array_equal(found.values.numpy(), reference(X, 1))
        np.testing.assert_array_equal(found.indices.numpy(), where(X, 1))
        assert found.indices.dtype is lucid.int64 and found[0] is found.values
        assert getattr(x, name)(-1, keepdim=True).values.shape == (2, 3, 1)
        assert getattr(x, name)().item() == reference(X)
        assert getattr(lucid, name)(x, lucid.zeros(4).double()).shape == X.shape
        assert getattr(x, f"arg{name}")().item() == where(X)
    assert lucid.tensor(3.0).max(0).values.item() == 3
    check_grads(lambda t: t.max(1).values * t.min(1)[0], lucid.tensor(X, requires_grad=True))


def test_nan_is_the_extreme():
    x = lucid.tensor([1.0, float("nan"), 3.0])
    assert x.max().isnan().item() and x.amin().isnan().item() and x.argmax().item() == 1


def test_logsumexp_of_large_and_infinite_numbers():
    assert lucid.tensor([1000.0, 1000.0]).logsumexp(0).item() == pytest.approx(1000 + np.log(2))
    inf = float("inf")
    assert lucid.tensor([-inf, -inf]).logsumexp(0).item() == -inf
    assert lucid.tensor([inf, 1.0]).logsumexp(0).item() == inf


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_running_sums_and_products(dim):
    np.testing.assert_allclose(lucid.tensor(X).cumsum(dim).numpy(), X.cumsum(dim), rtol=1e-13)
    np.testing.assert_allclose(lucid.tensor(X).cumprod(dim).numpy(), X.cumprod(dim), rtol=1e-13)
    check_grads(lambda x: x.cumsum(dim) ** 2, lucid.tensor(X, requires_grad=True), rtol=1e-4)
    check_grads(lambda x: x.cumprod(dim), lucid.tensor(X, requires_grad=True), rtol=1e-4)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("name", ["prod", "cumprod"])
def test_products_of_zeros_have_gradients(dim: int, name: str) -> None:
    x = X.copy()
    x[0, 1], x[:, 2] = 0, 0
    check_grads(lambda x: getattr(x, name)(dim), lucid.tensor(x, requires_grad=True), rtol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 9])
def test_the_gradient_of_cumprod_is_its_definition(count: int) -> None:
    rng = np.random.default_rng(count)
    x, g = rng.standard_normal((2, count))
    x[1::3] = 0
    given = lucid.tensor(x, requires_grad=True)
    given.cumprod(0).backward(lucid.tensor(g))
    others = [[np.prod(np.delete(x[: i + 1], k)) if k <= i else 0.0 for i in range(count)] for k in range(count)]
    np.testing.assert_allclose(given.grad.numpy(), np.reshape(others, (count, count)) @ g, rtol=1e-12, atol=1e-15)


def test_truth():
    x = lucid.tensor([[0.0, 1.0], [2.0, 3.0]])
    assert (x.any().item(), x.all().item(), x.any(1).tolist(), x.all(0).tolist()) == (
        True,
        False,
        [True, True],
        [False, True],
    )
    assert lucid.count_nonzero(x).item() == 3 and lucid.count_nonzero(x, 0).tolist() == [1, 2]
    assert lucid.zeros(0).all().item() and not lucid.zeros(0).any().item()


def test_empty_dimensions():
    x = lucid.zeros(0, 3)
    assert x.sum().item() == 0 and x.sum(0).tolist() == [0, 0, 0] and x.prod().item() == 1
    assert x.mean().isnan().item()
    for name in ("amax", "amin", "argmax"):
        with pytest.raises(ShapeError, match=f"{name}: nothing to choose"):
            getattr(x, name)()
    assert x.amax(1).shape == (0,)


@pytest.mark.parametrize(
    ("dim", "text"), [(3, r"dim=3 is out of range for 3 dimensions, \[-3, 2\]"), ((0, -3), "twice")]
)
def test_wrong_dimensions(dim, text):
    with pytest.raises(ShapeError, match=text):
        lucid.tensor(X).sum(dim)


def test_0_d_tensors_answer_to_dimension_0():
    x = lucid.tensor(3.0)
    assert x.sum(0).item() == x.mean(-1).item() == x.amax(0).item() == x.argmax(0).item() + 3
