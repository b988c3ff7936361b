from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import special

from lucid.kernels import activations, target

Array = np.ndarray[Any, Any]
ISAS = [isa.name for isa in target.cpu().isas]


def sigmoid(x: Array) -> Array:
    return np.asarray(special.expit(x))


FORMULAS: dict[str, tuple[Callable[..., Array], dict[str, float]]] = {
    "relu": (lambda x: np.maximum(x, 0), {}),
    "relu6": (lambda x: np.clip(x, 0, 6), {}),
    "hardtanh": (lambda x, low, high: np.clip(x, low, high), {"low": -1.5, "high": 2.5}),
    "leaky_relu": (lambda x, slope: np.where(x > 0, x, slope * x), {"slope": 0.1}),
    "gelu": (lambda x: x * special.ndtr(x), {}),
    "gelu_tanh": (lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), {}),
    "silu": (lambda x: x * sigmoid(x), {}),
    "mish": (lambda x: x * np.tanh(np.log1p(np.exp(x))), {}),
    "softplus": (
        lambda x, beta, threshold: np.where(x * beta > threshold, x, np.log1p(np.exp(beta * x)) / beta),
        {"beta": 2.0, "threshold": 5.0},
    ),
    "elu": (lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x)), {"alpha": 0.7}),
    "selu": (lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)), {}),
    "hardswish": (lambda x: x * np.clip(x + 3, 0, 6) / 6, {}),
    "hardsigmoid": (lambda x: np.clip(x + 3, 0, 6) / 6, {}),
    "softsign": (lambda x: x / (1 + np.abs(x)), {}),
    "huber": (
        lambda x, delta: np.where(np.abs(x) < delta, x * x / 2, delta * (np.abs(x) - delta / 2)),
        {"delta": 2.5},
    ),
}
GRADIENTS = [n.removesuffix("_grad") for n in dir(activations) if n.endswith("_grad") and not n.startswith("_")]


def arguments(dtype: Any) -> Array:
    """Numbers of both signs, away from every kink by more than a difference step."""
    x = np.random.default_rng(0).uniform(-8, 8, 1003)
    kinks = np.array([-3, -2.5, -1.5, 0, 2.5, 3, 6])
    return x[(np.abs(x[:, None] - kinks) > 1e-3).all(1)].astype(dtype)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FORMULAS)
def test_forward(name: str, dtype: Any, isa: str) -> None:
    formula, numbers = FORMULAS[name]
    x = arguments(dtype)
    with target.using(isa):
        got = getattr(activations, name)(x, **numbers)
    want = formula(x.astype(np.float64), **numbers)
    unit = np.finfo(dtype).eps
    np.testing.assert_allclose(got, want, rtol=4 * unit, atol=8 * unit)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_is_the_slope(name: str, dtype: Any, isa: str) -> None:
    formula, numbers = FORMULAS[name]
    x, step = arguments(dtype), 1e-5
    g = np.random.default_rng(1).standard_normal(x.size).astype(dtype)
    with target.using(isa):
        got = getattr(activations, name + "_grad")(g, x, **numbers)
    wide = x.astype(np.float64)
    slope = (formula(wide + step, **numbers) - formula(wide - step, **numbers)) / (2 * step)
    np.testing.assert_allclose(got, g * slope, rtol=1e-5, atol=1e-6 if dtype is np.float32 else 1e-8)


@pytest.mark.parametrize("name", FORMULAS)
def test_nan_gives_nan(name: str) -> None:
    got = getattr(activations, name)(np.full(5, np.nan), **FORMULAS[name][1])
    assert np.isnan(got).all()


def test_kinks_are_pytorchs() -> None:
    at, one = np.array([-3.0, 3.0, -1.0, 1.0, np.nan]), np.ones(5)
    assert activations.hardswish_grad(one, at)[[0, 1, 4]].tolist() == [0, 1, 1]
    assert activations.hardtanh_grad(one, at, low=-1.0, high=1.0).tolist() == [0, 0, 0, 0, 1]
    assert activations.hardsigmoid_grad(one, at)[[0, 1, 4]].tolist() == [0, 0, 0]
    assert activations.relu_grad(one, np.array([0, -0.0, 1, -1, np.nan])).tolist() == [0, 0, 1, 0, 1]
