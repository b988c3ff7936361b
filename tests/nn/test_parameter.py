"""Parameters."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import lucid
from lucid import nn


def test_a_parameter_is_a_leaf_of_its_own() -> None:
    x = lucid.ones(2, requires_grad=True)
    p = nn.Parameter(x * 2)
    assert p.is_leaf and p.requires_grad and p.tolist() == [2, 2] and isinstance(p, lucid.Tensor)
    assert not nn.Parameter(lucid.ones(1), requires_grad=False).requires_grad
    assert repr(p) == "Tensor([2., 2.], requires_grad=True)"
    array = np.zeros(2)
    assert np.shares_memory(nn.Parameter(array).detach().numpy(), array)
    assert not isinstance(p * 2, nn.Parameter)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_are_parameters(copied) -> None:
    p = nn.Parameter(lucid.ones(2))
    other = copied(p)
    assert isinstance(other, nn.Parameter) and other.requires_grad
    with lucid.no_grad():
        other += 1
    assert p.tolist() == [1, 1]
