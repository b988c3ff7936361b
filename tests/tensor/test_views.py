"""Views: shared memory, shared versions, and writing through them."""

from __future__ import annotations

import numpy as np
import pytest

import lucid
from lucid.autograd import check_grads
from lucid.core.errors import GradientError, ShapeError

VIEWS = {
    "reshape": lambda x: x.reshape(6, 2),
    "flatten": lambda x: x.flatten(),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "squeeze": lambda x: x.unsqueeze(1).squeeze(1),
    "permute": lambda x: x.permute(1, 0),
    "T": lambda x: x.T,
    "slice": lambda x: x[1:, ::2],
    "integer": lambda x: x[1],
    "element": lambda x: x[1, 2],
    "none": lambda x: x[None, ..., None],
    "narrow": lambda x: x.narrow(1, 1, 2),
    "split": lambda x: x.split(2, 1)[1],
    "chain": lambda x: x.T[1:].unsqueeze(0)[0, :, 1:],
    "detach": lambda x: x.detach(),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_shares_memory_and_version(name):
    x = lucid.arange(12.0).reshape(3, 4)
    view = VIEWS[name](x)
    assert np.shares_memory(view.numpy(), x.numpy())
    view.add_(100)
    assert x.version == view.version == 1
    assert (x >= 100).sum().item() == view.numel()


@pytest.mark.parametrize(
    "copy", [lambda x: x.clone(), lambda x: x[[0, 1]], lambda x: x.T.reshape(-1), lambda x: x.flip(0)]
)
def test_a_copy_shares_nothing(copy):
    x = lucid.arange(12.0).reshape(3, 4)
    other = copy(x)
    other.add_(100)
    assert x.version == 0 and x.max().item() == 11


def test_view_never_copies():
    with pytest.raises(ShapeError, match="use reshape"):
        lucid.ones(3, 4).T.view(12)


@pytest.mark.parametrize("name", [n for n in VIEWS if n != "detach"])
def test_gradients_through_a_written_view(name):
    def function(x, y):
        base = x * 1
        view = VIEWS[name](base)
        view.mul_(y)
        return base * base + VIEWS[name](base).sum()

    x = lucid.randn(3, 4, dtype=lucid.float64, requires_grad=True)
    check_grads(function, (x, lucid.tensor(1.5, dtype=lucid.float64, requires_grad=True)))


@pytest.mark.parametrize("name", [n for n in VIEWS if n != "detach"])
def test_a_view_follows_its_written_base(name):
    def function(x, y):
        base = x * 1
        view = VIEWS[name](base)
        base.mul_(y)
        base[1] = base[0] * 3
        return view.exp()

    x = lucid.randn(3, 4, dtype=lucid.float64, requires_grad=True)
    check_grads(function, (x, lucid.tensor(1.5, dtype=lucid.float64, requires_grad=True)))


def test_a_view_follows_another_view():
    def function(x):
        base = x * 1
        first, second = base[0], base[:, 0]
        first.mul_(2)
        second.add_(first[1])
        first.exp_()
        return base.sum(1) * second

    check_grads(function, lucid.randn(3, 4, dtype=lucid.float64, requires_grad=True))


def test_a_constant_base_joins_the_graph_through_a_view():
    x = lucid.ones(2, requires_grad=True)
    base = lucid.zeros(3, 2)
    row, other = base[1], base[2]
    row.copy_(x)
    assert base.requires_grad and row.requires_grad and other.requires_grad
    (base * 3).backward()
    assert x.grad.tolist() == [3, 3]


def test_views_of_leaves_are_not_written():
    x = lucid.ones(2, 2, requires_grad=True)
    with pytest.raises(GradientError, match="view of a leaf"):
        x[0].mul_(2)
    with lucid.no_grad():
        x[0].mul_(2)
    assert x.tolist() == [[2, 2], [1, 1]]


def test_views_made_under_no_grad_are_not_written_while_recording():
    base = lucid.ones(2, 2, requires_grad=True) * 1
    with lucid.no_grad():
        row = base[0]
    with pytest.raises(GradientError, match="made under no_grad"):
        row.mul_(2)


def test_expanded_tensors_are_not_written():
    with pytest.raises(ValueError, match="share one place"):
        lucid.ones(1, 2).expand(3, 2).add_(1)


def test_a_view_keeps_its_base_alive():
    row = (lucid.arange(4.0) * 1).reshape(2, 2)[1]
    assert row.tolist() == [2, 3]
