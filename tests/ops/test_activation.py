"""Activations against SciPy and their definitions in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import special

import lucid
from lucid.autograd import check_grads
from lucid.ops import activation

SELU = 1.0507009873554805, 1.6732632423543772
DEFINITIONS: dict[str, tuple[tuple[float, ...], Callable[..., np.ndarray]]] = {
    "relu": ((), lambda x: x * (x > 0)),
    "leaky_relu": ((0.1,), lambda x, a: np.where(x > 0, x, a * x)),
    "elu": ((0.7,), lambda x, a: np.where(x > 0, x, a * np.expm1(x))),
    "selu": ((), lambda x: SELU[0] * np.where(x > 0, x, SELU[1] * np.expm1(x))),
    "silu": ((), lambda x: x * special.expit(x)),
    "gelu": ((), lambda x: x * special.ndtr(x)),
    "gelu_tanh": ((), lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
    "mish": ((), lambda x: x * np.tanh(np.logaddexp(0, x))),
    "softplus": ((2.0, 5.0), lambda x, b, t: np.where(x * b > t, x, np.logaddexp(0, b * x) / b)),
    "hardtanh": ((-0.5, 1.5), lambda x, a, b: np.minimum(np.maximum(x, a), b)),
    "hardsigmoid": ((), lambda x: np.minimum(np.maximum(x / 6 + 0.5, 0), 1)),
    "hardswish": ((), lambda x: x * np.minimum(np.maximum(x / 6 + 0.5, 0), 1)),
    "huber": ((0.7,), lambda x, d: np.where(np.abs(x) < d, x * x / 2, d * (np.abs(x) - d / 2))),
}
NAMES = list(DEFINITIONS)
VALUES = np.concatenate([np.linspace(-12, 12, 97), [-700.0, 700.0, 1e-9, -1e-9]])


@pytest.mark.parametrize("name", NAMES)
def test_the_definition(name: str) -> None:
    params, define = DEFINITIONS[name]
    y = getattr(activation, name)(lucid.tensor(VALUES), *params).numpy()
    np.testing.assert_allclose(y, define(VALUES, *params), rtol=1e-13, atol=1e-300)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_close_to_float64_rounded(name: str) -> None:
    params, define = DEFINITIONS[name]
    x = VALUES.astype(np.float32)
    y = getattr(activation, name)(lucid.tensor(x), *params)
    assert y.dtype == lucid.float32
    np.testing.assert_allclose(y.numpy(), define(x.astype(np.float64), *params), rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_to_second_order(name: str) -> None:
    params, _ = DEFINITIONS[name]
    x = np.random.default_rng(0).standard_normal((4, 5)) * 3
    check_grads(lambda x: getattr(activation, name)(x, *params), lucid.tensor(x, requires_grad=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_fused_gradient_is_the_recorded_one(name: str) -> None:
    params, _ = DEFINITIONS[name]
    x = lucid.tensor(VALUES, requires_grad=True)
    y = getattr(activation, name)(x, *params)
    (recorded,) = lucid.autograd.grad(y, x, create_graph=True)
    (fused,) = lucid.autograd.grad(y, x)
    np.testing.assert_allclose(fused.numpy(), recorded.detach().numpy(), rtol=1e-12, atol=1e-300)


def test_relu_lets_nan_through_and_stops_infinite_gradients() -> None:
    x = lucid.tensor([-1.0, float("nan"), 2.0], requires_grad=True)
    y = activation.relu(x)
    assert np.isnan(y.detach().numpy()).tolist() == [False, True, False]
    y.backward(lucid.tensor([float("inf"), 1.0, 1.0]))
    assert x.grad.tolist() == [0.0, 1.0, 1.0]


def test_integers() -> None:
    assert activation.relu(lucid.tensor([-1, 2])).tolist() == [0, 2]
    with pytest.raises(lucid.DTypeError, match="gelu: the input is int64"):
        activation.gelu(lucid.tensor([1]))


@pytest.mark.parametrize("slope", [(1,), (3, 1, 1), (3, 1, 5)])
def test_prelu_to_second_order(slope: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, a = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal(slope)
    leaves = [lucid.tensor(v, requires_grad=True) for v in (x, a)]
    check_grads(activation.prelu, leaves)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (4, 3, 20, 30)], ids=["small", "native"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("slope", [(1,), (3, 1, 1)])
def test_prelu_by_its_definition(slope: tuple[int, ...], dtype: type, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, g, a = (rng.standard_normal(s).astype(dtype) for s in (shape, shape, slope))
    x[0, :, 0, 0] = 0, -1, np.nan
    leaf, weight = lucid.tensor(x, requires_grad=True), lucid.tensor(a, requires_grad=True)
    y = activation.prelu(leaf, weight)
    y.backward(lucid.tensor(g))
    x, g, a = (v.astype(np.float64) for v in (x, g, a))
    axes = (0, 1, 2, 3) if slope == (1,) else (0, 2, 3)
    near = {"rtol": 4e-3, "atol": 1e-2} if dtype is np.float16 else {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(y.detach().numpy(), np.where(x > 0, x, a * x), **near)
    np.testing.assert_allclose(leaf.grad.numpy(), np.where(x > 0, g, a * g), **near)
    want = np.where(x > 0, 0, g * x).sum(axes).reshape(slope)
    np.testing.assert_allclose(weight.grad.numpy(), want, **{**near, "atol": 1e-1 if dtype is np.float16 else 1e-4})


def test_prelu_of_two_types() -> None:
    with pytest.raises(lucid.DTypeError, match="prelu"):
        activation.prelu(lucid.ones(3), lucid.ones(1, dtype=lucid.float64))


@pytest.mark.parametrize(("slope", "by_result"), [(0.1, True), (0.0, True), (-0.1, False)])
def test_a_leaky_relu_saves_its_result_where_that_tells_the_side(slope: float, by_result: bool) -> None:
    x = lucid.tensor(np.linspace(-2, 2, 9), requires_grad=True)
    y = activation.leaky_relu(x, slope)
    assert (y._edge[0].saved_result(0) is y._array) is by_result
    y.backward(lucid.ones_like(y))
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), np.where(x.detach().numpy() > 0, 1.0, slope))
