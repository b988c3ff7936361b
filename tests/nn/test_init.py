"""Initial values: their spread, their bounds, their structure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import lucid
from lucid import nn
from lucid.nn import init


def filled(name: str, *args: Any, shape: tuple[int, ...] = (60, 40, 5), **options: Any) -> np.ndarray:
    x = lucid.zeros(shape, requires_grad=True)
    version = x.version
    assert getattr(init, name)(x, *args, generator=lucid.Generator().manual_seed(0), **options) is x
    assert x.requires_grad and x.is_leaf and x.version > version
    return x.detach().numpy()


@pytest.mark.parametrize(("name", "options", "bound"), [
    ("uniform_", {"a": -2.0, "b": 2.0}, 2.0),
    ("xavier_uniform_", {"gain": 2.0}, 2 * math.sqrt(6 / (40 * 5 + 60 * 5))),
    ("kaiming_uniform_", {"a": math.sqrt(5)}, 1 / math.sqrt(40 * 5)),
    ("kaiming_uniform_", {"mode": "fan_out", "nonlinearity": "relu"}, math.sqrt(6 / (60 * 5))),
])  # fmt: skip
def test_uniform(name: str, options: dict[str, Any], bound: float) -> None:
    x = filled(name, **options)
    assert bound * 0.99 < np.abs(x).max() <= bound
    assert x.std() == pytest.approx(bound / math.sqrt(3), rel=0.02) and x.mean() == pytest.approx(0, abs=bound / 50)


@pytest.mark.parametrize(("name", "options", "std"), [
    ("normal_", {"std": 3.0}, 3.0),
    ("xavier_normal_", {}, math.sqrt(2 / (40 * 5 + 60 * 5))),
    ("kaiming_normal_", {"nonlinearity": "relu"}, math.sqrt(2 / (40 * 5))),
])  # fmt: skip
def test_normal(name: str, options: dict[str, Any], std: float) -> None:
    x = filled(name, **options)
    assert x.std() == pytest.approx(std, rel=0.03) and np.abs(x).max() > 3 * std


def test_truncated_normal() -> None:
    x = filled("trunc_normal_", 1.0, 2.0, 0.0, 2.0)
    assert x.min() >= 0 and x.max() <= 2 and x.mean() == pytest.approx(1, abs=0.02)
    for a, b, text in ((1.0, 1.0, "a=1.0 must be below b=1.0"), (50.0, 51.0, "more than 5 std away")):
        with pytest.raises(ValueError, match=text):
            init.trunc_normal_(lucid.zeros(3), a=a, b=b)


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (4, 2, 3)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    x = filled("orthogonal_", 2.0, shape=shape).reshape(shape[0], -1)
    product = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-5)


def test_orthogonal_matrices_are_drawn_without_a_preferred_sign() -> None:
    generator = lucid.Generator().manual_seed(0)
    signs = [
        init.orthogonal_(lucid.zeros(2, 2), generator=generator)[i, i].item() > 0 for i in (0, 1) for _ in range(50)
    ]
    assert 30 < sum(signs) < 70


@pytest.mark.parametrize(("rank", "groups"), [(1, 1), (2, 1), (3, 2)])
def test_dirac_passes_the_input_on(rank: int, groups: int) -> None:
    conv = getattr(nn, f"Conv{rank}d")(4, 4, 3, padding=1, groups=groups, bias=False)
    init.dirac_(conv.weight, groups)
    x = lucid.randn(2, 4, *(5,) * rank)
    np.testing.assert_allclose(conv(x).detach().numpy(), x.numpy(), rtol=1e-6)


def test_constants() -> None:
    x = lucid.empty(2, 3)
    assert init.constant_(x, 2.5).tolist() == [[2.5] * 3] * 2
    assert init.ones_(x).sum().item() == 6 and init.zeros_(x).sum().item() == 0
    assert init.eye_(x).tolist() == [[1, 0, 0], [0, 1, 0]]


def test_gains() -> None:
    assert init.calculate_gain("relu") == math.sqrt(2) and init.calculate_gain("tanh") == 5 / 3
    assert init.calculate_gain("leaky_relu", 1.0) == 1.0 and init.calculate_gain("conv2d") == 1.0


def test_wrong_arguments_are_named() -> None:
    for call, error, text in (
        (lambda: init.calculate_gain("wave"), ValueError, "nonlinearity='wave' must be one of 'linear'"),
        (lambda: init.xavier_normal_(lucid.zeros(3)), lucid.ShapeError, r"xavier_normal_: the tensor \(3,\)"),
        (lambda: init.kaiming_normal_(lucid.zeros(3, 3), mode="fan"), ValueError, "mode='fan'"),
        (lambda: init.orthogonal_(lucid.zeros(3)), lucid.ShapeError, "at least 2 axes"),
        (lambda: init.eye_(lucid.zeros(3)), lucid.ShapeError, "must have 2 axes"),
        (lambda: init.dirac_(lucid.zeros(3, 3)), lucid.ShapeError, "1 to 3 spatial axes"),
        (lambda: init.dirac_(lucid.zeros(3, 3, 3), 2), lucid.ShapeError, "multiple of groups=2"),
    ):
        with pytest.raises(error, match=text):
            call()


def test_what_begins_by_icnr_shuffles_to_even_squares() -> None:
    weight = init.icnr_(lucid.empty(12, 5, 3, 3), 2)
    image = nn.functional.pixel_shuffle(nn.functional.conv2d(lucid.randn(1, 5, 6, 6), weight), 2).numpy()
    for corner in (image[..., ::2, 1::2], image[..., 1::2, ::2], image[..., 1::2, 1::2]):
        np.testing.assert_allclose(corner, image[..., ::2, ::2], rtol=1e-4, atol=1e-4)
    assert image.std() > 0.1
    assert init.icnr_(lucid.empty(4, 1, 1), 1, init.ones_).numpy().all()
    with pytest.raises(lucid.ShapeError, match=r"icnr_: .* must be a multiple of upscale_factor² = 4"):
        init.icnr_(lucid.empty(6, 5, 3, 3))
