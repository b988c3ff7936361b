"""What arguments are called: code that passes them by name carries over.

PyTorch's own table of overridable functions says what it calls them, and the heads of its descriptions, where these
know more. Where both are wrong, PyTorch itself is called by name.
"""

from __future__ import annotations

import re
from inspect import Parameter, signature

import numpy as np
import pytest
import torch
import torch.nn.functional
from torch.overrides import get_testing_overrides

import lucid
import lucid.nn.functional
from lucid import Tensor, nn

TABLE = get_testing_overrides()

OVERLOADED = "another overload, which the table has not"
WRONG = "so PyTorch's parser has it; the table and the description are wrong"
BY_LAYERS = "layers pass it: errors name them, and what they have computed is not computed again"
MODES = "layers have it, and so has the function"

#: Arguments of ours that the table has not, and why.
MORE = {
    **{name: ("unbiased", OVERLOADED) for name in ("std", "var", "std_mean", "var_mean", "Tensor.std", "Tensor.var")},
    **{name: ("other", OVERLOADED) for name in ("Tensor.max", "Tensor.min", "Tensor.where")},
    **{f"F.conv{d}d": ("padding_mode", MODES) for d in (1, 2, 3)},
    **{f"F.conv_transpose{d}d": ("padding_mode output_size", MODES) for d in (1, 2, 3)},
    "meshgrid": ("indexing", "the table has ``**kwargs``"),
    "F.batch_norm": ("caller limits", BY_LAYERS),
    "F.linear": ("caller", BY_LAYERS),
    "F.dropout": ("generator", "random numbers from a stream of one's own"),
    "F.group_norm": ("slope", "reads through a PReLU in the same pass"),
    "Tensor.copy_": ("other", WRONG),
    "Tensor.dot": ("tensor", WRONG),
    "Tensor.view": ("size", WRONG),
    "Tensor.split": ("split_size", "the table has the function's"),
    "Tensor.log_softmax": ("dtype", OVERLOADED),
    "Tensor.to": ("device", OVERLOADED),
    "Tensor.true_divide": ("rounding_mode", "it is ``div``"),
    "true_divide": ("rounding_mode", "it is ``div``"),
}

#: Arguments that the table says must be given, and that are not ours, and why.
LESS = {
    "Tensor.copy_": ("src", WRONG),
    "Tensor.dot": ("other", WRONG),
    "Tensor.view": ("shape", WRONG),
    "Tensor.split": ("split_size_or_sections", "the table has the function's"),
}


def named(function):
    """Parameters but for what is given one by one (``*sizes``)."""
    gathered = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return [p for p in signature(function).parameters.values() if p.kind not in gathered]


def described(function):
    """Names in the heads of a description: ``add(input, other, *, alpha=1, out=None) -> Tensor``."""
    head = rf"^\s*(?:\.\. function:: )?{getattr(function, '__name__', '')}\((.*?)\)\s*(?:->|$)"
    heads = re.findall(head, function.__doc__ or "", re.MULTILINE)
    return {re.split("[=:]", part)[0].strip(" *") for text in heads for part in re.sub(r"\(.*?\)", "", text).split(",")}


def pairs():
    for prefix, here, there in (
        ("", lucid, torch),
        ("F.", lucid.nn.functional, torch.nn.functional),
        ("Tensor.", Tensor, torch.Tensor),
    ):
        for name in getattr(here, "__all__", dir(here)):
            function, other = getattr(here, name), getattr(there, name, None)
            if not name.startswith("_") and callable(function) and not isinstance(function, type) and other in TABLE:
                yield pytest.param(prefix + name, function, other, id=prefix + name)


@pytest.mark.parametrize(("name", "function", "other"), list(pairs()))
def test_arguments_have_pytorchs_names(name, function, other):
    first = 1 if name.startswith("Tensor.") else 0  # a method's tensor is not passed by name
    ours = {p.name for p in named(function)[first:]}
    theirs = named(TABLE[other])
    heads = described(other)
    known = {p.name for p in theirs} | heads
    needed = {p.name for p in theirs[first:] if p.default is p.empty and (not heads - {""} or p.name in heads)}
    assert ours - known == set(MORE.get(name, ("", ""))[0].split())
    assert needed - ours == set(LESS.get(name, ("", ""))[0].split())


def test_the_table_is_large_enough_to_tell():
    assert len(list(pairs())) > 400


X, Y = np.array([[1.0, -2.0], [3.0, 0.5]]), np.array([[2.0, 1.0], [1.0, 4.0]])
V, W = np.array([1.0, 2.0]), np.array([3.0, -1.0])
I = np.array([[0, 1], [1, 0]])  # noqa: E741

#: What the table does not know, or knows wrongly: both libraries are called by these names.
CALLS = {
    "where": lambda t, x, y, v, w, i: t.where(condition=x > 0, input=x, other=y),
    "where, method": lambda t, x, y, v, w, i: x.where(condition=x > 0, other=y),
    "dot": lambda t, x, y, v, w, i: t.dot(input=v, tensor=w) + v.dot(tensor=w),
    "mv": lambda t, x, y, v, w, i: t.mv(input=x, vec=v),
    "pow": lambda t, x, y, v, w, i: t.pow(input=y, exponent=x),
    "max": lambda t, x, y, v, w, i: t.max(input=x, other=y) + x.min(other=y),
    "isfinite": lambda t, x, y, v, w, i: t.isfinite(input=x) & ~t.isinf(input=x),
    "reshape": lambda t, x, y, v, w, i: t.reshape(input=x, shape=(4,)) + x.reshape(shape=(4,)),
    "view": lambda t, x, y, v, w, i: x.view(size=(4, 1)),
    "permute": lambda t, x, y, v, w, i: t.permute(input=x, dims=(1, 0)) + x.permute(dims=(1, 0)),
    "flip": lambda t, x, y, v, w, i: t.flip(input=x, dims=(0,)) + x.flip(dims=(1,)),
    "tile": lambda t, x, y, v, w, i: t.tile(input=v, dims=(2, 2)) + v.tile(dims=(2, 2)),
    "repeat": lambda t, x, y, v, w, i: v.repeat(repeats=(2, 1)),
    "expand": lambda t, x, y, v, w, i: v.expand(size=(3, -1)),
    "broadcast_to": lambda t, x, y, v, w, i: t.broadcast_to(input=v, size=(3, 2)) + v.broadcast_to(size=(3, 2)),
    "swapaxes": lambda t, x, y, v, w, i: x.swapaxes(axis0=0, axis1=1) + x.swapdims(dim0=0, dim1=1),
    "split": lambda t, x, y, v, w, i: t.split(tensor=x, split_size_or_sections=1)[0] + x.split(split_size=1)[1],
    "scatter": lambda t, x, y, v, w, i: x.scatter(dim=0, index=i, src=y) + x.scatter(dim=0, index=i, value=2.0),
    "scatter_": lambda t, x, y, v, w, i: x.scatter_(dim=1, index=i, value=2.0),
    "index_add": lambda t, x, y, v, w, i: x.index_add(dim=0, index=i[0], source=y, alpha=2),
    "take_along_dim": lambda t, x, y, v, w, i: t.take_along_dim(input=x, indices=i),
    "cumsum": lambda t, x, y, v, w, i: t.cumsum(input=x, dim=0, dtype=t.float32).cumprod(dim=1, dtype=t.float64),
    "softmax": lambda t, x, y, v, w, i: t.softmax(input=x, dim=1, dtype=t.float32),
    "F.softmax": lambda t, x, y, v, w, i: t.nn.functional.log_softmax(input=x, dim=1, dtype=t.float32),
    "unique": lambda t, x, y, v, w, i: t.unique(x, True, True)[1],
    "copy_": lambda t, x, y, v, w, i: x.copy_(other=y, non_blocking=True),
    "add_": lambda t, x, y, v, w, i: x.add_(other=y, alpha=2).mul_(other=x).clamp_(min=0),
    "uniform_": lambda t, x, y, v, w, i: x.uniform_(3, to=3),
    "zeros": lambda t, x, y, v, w, i: t.zeros(size=(2, 3)) + t.ones(size=(3,)) + 0 * t.rand(size=(2, 1)),
    "new_zeros": lambda t, x, y, v, w, i: x.new_zeros(size=(2, 3)) + x.new_full(size=(3,), fill_value=2),
    "arange": lambda t, x, y, v, w, i: t.arange(end=5) + t.arange(start=5, end=10),
    "randint": lambda t, x, y, v, w, i: t.randint(high=1, size=(3,)),
    "normal": lambda t, x, y, v, w, i: 0 * t.normal(mean=x, std=y) + 0 * t.normal(mean=x),
    "from_dlpack": lambda t, x, y, v, w, i: t.from_dlpack(ext_tensor=V),
    "promote_types": lambda t, x, y, v, w, i: t.zeros(2, dtype=t.promote_types(type1=t.int32, type2=t.float32)),
    "result_type": lambda t, x, y, v, w, i: t.zeros(2, dtype=t.result_type(tensor=x, other=2)),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_by_name_are_the_same(name):
    results = [
        CALLS[name](library, *(library.tensor(array) for array in (X, Y, V, W, I))) for library in (torch, lucid)
    ]
    theirs, ours = (np.asarray(r.numpy()) for r in results)
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_an_operand_by_name_gets_its_gradient_in_place():
    x, y = lucid.ones(3) * 1, lucid.ones(3, requires_grad=True)
    x.mul_(other=y)
    x.mul_(other=x)
    x.sum().backward()
    assert y.grad.tolist() == [2.0, 2.0, 2.0]


DEPRECATED = {"size_average", "reduce", "min_value", "max_value"}


@pytest.mark.parametrize("name", [n for n in nn.__all__ if isinstance(getattr(torch.nn, n, None), type)])
def test_layers_arguments_have_pytorchs_names(name):
    ours, theirs = ({p.name for p in named(getattr(library, name).__init__)} for library in (nn, torch.nn))
    assert ours == theirs - DEPRECATED
