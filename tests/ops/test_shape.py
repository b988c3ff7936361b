"""Shapes: NumPy's values, gradients to second order, errors that name the sizes."""

from __future__ import annotations

import numpy as np
import pytest

import lucid
from lucid.autograd import check_grads
from lucid.core.errors import DeviceError, DTypeError, ShapeError

X = np.random.default_rng(2).standard_normal((2, 3, 4))

CASES = {
    "reshape": (lambda x: x.reshape(4, -1), lambda x: x.reshape(4, -1)),
    "reshape_tuple": (lambda x: x.reshape((3, 8)), lambda x: x.reshape(3, 8)),
    "reshape_copy": (lambda x: x.T.reshape(-1), lambda x: x.T.reshape(-1)),
    "reshape_as": (lambda x: x.reshape_as(lucid.ones(6, 4)), lambda x: x.reshape(6, 4)),
    "view": (lambda x: x.view(-1, 2), lambda x: x.reshape(-1, 2)),
    "view_as": (lambda x: x.view_as(lucid.ones(24)), lambda x: x.ravel()),
    "flatten": (lambda x: x.flatten(1), lambda x: x.reshape(2, 12)),
    "flatten_middle": (lambda x: x.flatten(0, 1), lambda x: x.reshape(6, 4)),
    "ravel": (lambda x: x.ravel(), lambda x: x.ravel()),
    "unflatten": (lambda x: x.unflatten(-1, (2, -1)), lambda x: x.reshape(2, 3, 2, 2)),
    "unsqueeze": (lambda x: x.unsqueeze(-1), lambda x: x[..., None]),
    "unsqueeze_0": (lambda x: x.unsqueeze(0), lambda x: x[None]),
    "squeeze": (lambda x: x[:1, :, :1].squeeze(), lambda x: x[0, :, 0]),
    "squeeze_dim": (lambda x: x[:1, :, :1].squeeze(0), lambda x: x[0, :, :1]),
    "squeeze_dims": (lambda x: x[:1, :, :1].squeeze((0, 1, 2)), lambda x: x[0, :, 0]),
    "permute": (lambda x: x.permute(2, 0, -2), lambda x: x.transpose(2, 0, 1)),
    "permute_tuple": (lambda x: lucid.permute(x, (1, 2, 0)), lambda x: x.transpose(1, 2, 0)),
    "transpose": (lambda x: x.transpose(0, -1), lambda x: x.swapaxes(0, 2)),
    "swapaxes": (lambda x: x.swapaxes(0, 1), lambda x: x.swapaxes(0, 1)),
    "T": (lambda x: x.T, lambda x: x.T),
    "mT": (lambda x: x.mT, lambda x: x.swapaxes(1, 2)),
    "t": (lambda x: x[0].t(), lambda x: x[0].T),
    "movedim": (lambda x: x.movedim(0, -1), lambda x: np.moveaxis(x, 0, -1)),
    "movedims": (lambda x: x.movedim((0, 2), (1, 0)), lambda x: np.moveaxis(x, (0, 2), (1, 0))),
    "flip": (lambda x: x.flip(0, -1), lambda x: np.flip(x, (0, -1))),
    "roll": (lambda x: x.roll((1, -2), (0, 2)), lambda x: np.roll(x, (1, -2), (0, 2))),
    "roll_flat": (lambda x: x.roll(5), lambda x: np.roll(x, 5)),
    "repeat": (lambda x: x.repeat(2, 1, 1, 3), lambda x: np.tile(x, (2, 1, 1, 3))),
    "tile": (lambda x: x.tile(2, 3), lambda x: np.tile(x, (2, 3))),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, 1), lambda x: np.repeat(x, 2, 1)),
    "repeat_interleave_flat": (lambda x: x.repeat_interleave(2), lambda x: np.repeat(x, 2)),
    "expand": (lambda x: x[:, :1].expand(5, -1, 3, 4), lambda x: np.broadcast_to(x[:, :1], (5, 2, 3, 4))),
    "expand_as": (lambda x: x[0].expand_as(lucid.ones(5, 3, 4)), lambda x: np.broadcast_to(x[0], (5, 3, 4))),
    "broadcast_to": (lambda x: lucid.broadcast_to(x, (3, 2, 3, 4)), lambda x: np.broadcast_to(x, (3, 2, 3, 4))),
    "cat": (lambda x: lucid.cat([x, x[:, :1], x], 1), lambda x: np.concatenate([x, x[:, :1], x], 1)),
    "cat_last": (lambda x: lucid.cat((x, x * 2), -1), lambda x: np.concatenate([x, x * 2], -1)),
    "stack": (lambda x: lucid.stack([x, x * 2], -2), lambda x: np.stack([x, x * 2], -2)),
    "split": (lambda x: x.split(3, 2)[1] * 2, lambda x: x[:, :, 3:] * 2),
    "split_sizes": (lambda x: lucid.split(x, [1, 0, 3], -1)[2], lambda x: x[:, :, 1:]),
    "chunk": (lambda x: x.chunk(2, 1)[0], lambda x: x[:, :2]),
    "unbind": (lambda x: x.unbind(1)[2], lambda x: x[:, 2]),
    "narrow": (lambda x: x.narrow(-1, -3, 2), lambda x: x[..., 1:3]),
    "select": (lambda x: x.select(1, -1), lambda x: x[:, -1]),
    "clone": (lambda x: x.clone(), lambda x: x),
    "contiguous": (lambda x: x.T.contiguous(), lambda x: x.T),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name):
    function, reference = CASES[name]
    got = function(lucid.tensor(X))
    np.testing.assert_array_equal(got.numpy(), reference(X))
    check_grads(lambda x: function(x) * function(x.exp()), lucid.tensor(X, requires_grad=True), rtol=1e-4)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: x.reshape(5, -1), r"24 elements of shape \(2, 3, 4\) do not fill the sizes \(5, -1\)"),
        (lambda x: x.reshape(-1, -1), "reshape: 24"),
        (lambda x: x.view(-24), "view: 24"),
        (lambda x: x.flatten(2, 1), "end_dim=1 lies before start_dim=2"),
        (lambda x: x.unsqueeze(4), r"dim=4 is out of range for 4 dimensions"),
        (lambda x: x.permute(0, 1), "each of 3 dimensions once"),
        (lambda x: x.permute(0, 1, 1), "once"),
        (lambda x: x.t(), "at most 2 dimensions"),
        (lambda x: x.expand(3, 3, 4), r"\(2, 3, 4\) does not broadcast"),
        (lambda x: x.expand(3, 4), r"cannot take the sizes \(3, 4\)"),
        (lambda x: x.roll((1, 2), 0), "one length"),
        (lambda x: x.expand(-1, 2, 3, 4), "cannot take"),
        (lambda x: x.movedim((0, 1), 0), "one length"),
        (
            lambda x: lucid.cat([x, x[:, :, :2]], 0),
            r"tensor 1 of shape \(2, 3, 2\) does not fit \(2, 3, 4\) along dim=0",
        ),
        (lambda x: lucid.cat([]), "at least one"),
        (lambda x: lucid.cat([x, x[0]]), "tensor 1"),
        (lambda x: lucid.stack([x, x[0]]), "tensor 1 has shape"),
        (lambda x: x.split(0), "split_size=0"),
        (lambda x: x.split([1, 2]), "add up to 3, dimension 0 has 2"),
        (lambda x: x.chunk(0), "chunks=0"),
        (lambda x: x.narrow(0, 1, 2), r"\[1, 3\) does not lie inside dimension 0 of size 2"),
        (lambda x: lucid.tensor(1.0).unbind(), "0-d"),
        (lambda x: lucid.cat([lucid.tensor(1.0)]), "does not fit"),
    ],
)
def test_errors(function, text):
    with pytest.raises(ShapeError, match=text):
        function(lucid.tensor(X))


def test_joining_promotes():
    assert lucid.cat([lucid.ones(2, dtype=int), lucid.ones(1, dtype=lucid.float16)]).dtype is lucid.float16
    assert lucid.stack([lucid.ones(2), lucid.ones(2).double()]).dtype is lucid.float64
    assert lucid.cat([lucid.zeros(0), lucid.ones(2, 3)]).shape == (2, 3)
    assert lucid.cat([lucid.zeros(0), lucid.zeros(0)]).shape == (0,)


def test_cuts_are_views():
    x = lucid.tensor(X)
    for part in (*x.split(1, 2), *x.chunk(3, 1), *x.unbind(0), *x):
        assert np.shares_memory(part.numpy(), x.numpy())
    assert [c.shape[0] for c in lucid.arange(10).chunk(4)] == [3, 3, 3, 1]


def test_empty_and_scalar_tensors():
    assert lucid.zeros(0, 3).reshape(3, 0).shape == (3, 0)
    assert lucid.tensor(1.0).flatten().shape == lucid.tensor(1.0).unsqueeze(0).shape == (1,)
    assert lucid.tensor(1.0).T.shape == () and lucid.zeros(0, 2).flip(1).shape == (0, 2)


SHORT = {
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "bfloat16": "bfloat16",
    "int": "int32",
    "long": "int64",
    "short": "int16",
    "char": "int8",
    "byte": "uint8",
    "bool": "bool",
    "cfloat": "complex64",
    "cdouble": "complex128",
}


@pytest.mark.parametrize("name", SHORT)
def test_short_forms(name):
    x = lucid.tensor([1.0, 0.0])
    dtype = getattr(lucid, SHORT[name])
    for y in (
        getattr(x, name)(),
        x.to(dtype),
        x.to(SHORT[name]),
        x.astype(dtype),
        x.type_as(lucid.ones(1, dtype=dtype)),
    ):
        assert y.dtype is dtype and y.tolist() == [1, 0]


def test_to():
    x = lucid.ones(2, requires_grad=True)
    assert x.to("cpu") is x.to(lucid.float32) is x.to(device="cpu", dtype=float) is x.cpu() is x
    assert x.to(x, copy=True) is not x
    assert x.to(lucid.ones(1, dtype=lucid.float64)).dtype is lucid.float64
    assert not x.long().requires_grad
    x.double().sum().backward()
    assert x.grad.dtype is lucid.float32
    with pytest.raises(DeviceError, match="'cuda'"):
        x.to("cuda")
    with pytest.raises(DTypeError, match="not an element type"):
        x.to(dtype="cpu")


def test_gradients_of_parts_are_joined_in_one_pass_with_zeros_where_none_arrive() -> None:
    x = lucid.Tensor(np.arange(24.0).reshape(2, 6, 2), requires_grad=True)
    first, _, last = x.split([1, 3, 2], 1)
    (g,) = lucid.autograd.grad((first * 2).sum() + (last**2).sum(), x, create_graph=True)
    want = np.zeros((2, 6, 2))
    want[:, :1], want[:, 4:] = 2, 2 * x.detach().numpy()[:, 4:]
    np.testing.assert_array_equal(g.detach().numpy(), want)
    (second,) = lucid.autograd.grad(g.sum(), x)
    np.testing.assert_array_equal(second.numpy(), np.where(np.arange(6)[:, None] >= 4, 2.0, 0.0) * np.ones((2, 6, 2)))
    assert g._edge[0].name == "cat"


def test_a_part_that_is_written_to_is_seen_in_the_whole_and_in_the_graph() -> None:
    x = lucid.Tensor(np.arange(8.0).reshape(2, 4), requires_grad=True)
    y = x * 1
    left, right = y.chunk(2, 1)
    left *= 3
    np.testing.assert_array_equal(y.detach().numpy(), [[0, 3, 2, 3], [12, 15, 6, 7]])
    (right * y[:, :2]).sum().backward()
    a, b = np.split(np.arange(8.0).reshape(2, 4), 2, 1)
    np.testing.assert_array_equal(x.grad.numpy(), np.concatenate([3 * b, 3 * a], 1))


@pytest.mark.parametrize("dims", [(0,), (2,), (0, 1, 2), ()])
def test_flip_is_numpys_and_a_copy(dims):
    for shape in ((3, 5, 7), (2, 90, 130), (1, 1, 1), (0, 2, 3)):
        values = np.random.default_rng(0).standard_normal(shape).astype("f")
        x = lucid.tensor(values)
        y = x.flip(dims)
        np.testing.assert_array_equal(y.numpy(), np.flip(values, dims))
        y.zero_()
        np.testing.assert_array_equal(x.numpy(), values)
