"""Weights as lengths and directions: the same layer, which can be copied, saved and undone."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import lucid
from lucid import nn, optim
from lucid.nn.utils import remove_weight_norm, weight_norm

X = lucid.linspace(-1, 1, 2 * 4 * 9).reshape(2, 4, 9)


@pytest.mark.parametrize("dim", [0, 1, None])
def test_the_layer_computes_what_it_did(dim: int | None) -> None:
    layer = nn.Conv1d(4, 6, 3)
    before = layer(X).detach().numpy()
    normed = weight_norm(layer, dim=dim)
    np.testing.assert_allclose(normed(X).detach().numpy(), before, rtol=1e-5, atol=1e-6)
    optim.SGD(normed.parameters(), lr=0.1).zero_grad()
    normed(X).sum().backward()
    optim.SGD(normed.parameters(), lr=0.1).step()
    after = normed(X).detach().numpy()
    assert not np.allclose(after, before)
    undone = remove_weight_norm(normed)
    assert sorted(undone.state_dict()) == ["bias", "weight"] and not undone.is_watched
    np.testing.assert_array_equal(undone(X).detach().numpy(), after)


def test_lengths_are_what_they_say() -> None:
    layer = weight_norm(nn.Conv1d(4, 6, 3))
    with lucid.no_grad():
        layer.weight_g.fill_(2.0)
    layer(X)
    lengths = np.sqrt((layer.weight.detach().numpy() ** 2).sum((1, 2)))
    np.testing.assert_allclose(lengths, 2.0, rtol=1e-6)


def test_a_normed_layer_can_be_copied_and_pickled_after_a_call() -> None:
    net = nn.Sequential(weight_norm(nn.Conv1d(4, 6, 3)), nn.ReLU())
    y = net(X).detach().numpy()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        with lucid.no_grad():
            net[0].weight_g.mul_(1.0)
            other[0].weight_g.mul_(2.0)
            other[0].bias.mul_(2.0)
        np.testing.assert_allclose(other(X).detach().numpy(), 2 * y, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(net(X).detach().numpy(), y)


def test_the_weight_is_that_of_its_parts_at_any_time_and_nobody_watches_the_layer() -> None:
    layer = weight_norm(nn.Conv1d(4, 6, 3))
    with lucid.no_grad():
        layer.weight_g.fill_(2.0)
        np.testing.assert_allclose((layer.weight**2).sum((1, 2)).numpy(), 4.0, rtol=1e-6)
        layer.weight = 3 * layer.weight
        np.testing.assert_allclose(layer.weight_g.reshape(-1).numpy(), 6.0, rtol=1e-6)
    assert not layer.is_watched


def test_errors() -> None:
    layer = weight_norm(nn.Conv1d(4, 6, 3))
    with pytest.raises(ValueError, match="'weight' of Conv1d must be a parameter; is it normed already"):
        weight_norm(layer)
    with pytest.raises(ValueError, match="remove_weight_norm: 'weight' of Linear is not normed"):
        remove_weight_norm(nn.Linear(1, 1))
