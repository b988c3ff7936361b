"""The first operation that makes a NaN is named, in both directions."""

from __future__ import annotations

import numpy as np
import pytest

import lucid
from lucid import nn
from lucid.autograd import Function, detect_anomaly


def leaf(*values: float) -> lucid.Tensor:
    return lucid.tensor(values, requires_grad=True)


def test_the_operation_that_makes_a_nan_is_named() -> None:
    with detect_anomaly():
        with pytest.raises(FloatingPointError, match=r"sqrt: NaN in the result of shape \(2,\); its inputs hold none"):
            (leaf(1.0, -1.0).sqrt() * 2).sum()
        with pytest.raises(FloatingPointError, match=r"mul: .*; input 1 of shape \(2,\) holds one"):
            leaf(1.0, 2.0) * lucid.tensor([1.0, np.nan])
    assert leaf(-1.0).sqrt().isnan().all()


def test_a_nan_that_only_the_gradient_has() -> None:
    x = leaf(0.0, 4.0)
    with (
        detect_anomaly(),
        pytest.raises(FloatingPointError, match=r"sqrt: NaN in the gradient of input 0 .* holds none"),
    ):
        (x.sqrt() * 0.0).sum().backward()
    assert x.grad is None


def test_whole_numbers_halves_and_functions_are_looked_through() -> None:
    class Worse(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * float("nan")

    x = lucid.ones(3, dtype="bfloat16", requires_grad=True)
    with detect_anomaly():
        assert (lucid.tensor([1, 2]) + 1).tolist() == [2, 3] and lucid.max(x, 0).values.item() == 1
        with pytest.raises(FloatingPointError, match="log: NaN"):
            lucid.log(-x)
        with pytest.raises(FloatingPointError, match=r"NaN in the gradient of input 0 of shape \(3,\)"):
            Worse.apply(x).sum().backward()


def test_blocks_nest_and_the_way_to_the_layer_is_told() -> None:
    net = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Sequential(nn.Conv1d(1, 2, 1)))
    watched = detect_anomaly()
    with watched:
        with watched:
            pass
        with pytest.raises(FloatingPointError, match="input 0 of shape") as caught:
            net(lucid.full((1, 1, 4), np.nan))
    assert caught.value.__notes__ == ["in Sequential: 0"]
    net(lucid.full((1, 1, 4), np.nan))
