"""What all families share: dimensions, sizes, dtypes, and what is attached to ``Tensor``."""

from __future__ import annotations

import numpy as np
import pytest

import lucid
from lucid.core.errors import DTypeError, ShapeError
from lucid.ops.common import axes, axis, result_type, same_dtype, sizes_of


def test_dimensions_count_from_either_end():
    assert [axis("f", d, 3) for d in (0, 2, -1, -3)] == [0, 2, 2, 0]
    assert axis("f", -1, 0) == 0
    with pytest.raises(ShapeError, match=r"f: dim=-4 is out of range for 3 dimensions, \[-3, 2\]"):
        axis("f", -4, 3)
    assert axes("f", None, 3) is None and axes("f", (0, -1), 3) == (0, 2) and axes("f", 1, 3) == (1,)
    with pytest.raises(ShapeError, match="twice"):
        axes("f", (1, -2), 3)


def test_sizes():
    assert sizes_of((2, 3)) == sizes_of(((2, 3),)) == sizes_of(([2, 3],)) == (2, 3) and sizes_of(()) == ()


@pytest.mark.parametrize("bad", [2.5, "3", None, [2, 3.0]])
def test_sizes_are_integers(bad):
    with pytest.raises(TypeError, match="must be ints, not "):
        lucid.zeros(bad)
    with pytest.raises(TypeError, match="must be ints, not "):
        lucid.ones(6).reshape(bad)


def test_one_dtype():
    same_dtype("f", x=lucid.ones(1), y=None)
    with pytest.raises(DTypeError, match=r"f: all of one dtype, not x lucid\.float32, y lucid\.int64"):
        same_dtype("f", x=lucid.ones(1), y=lucid.ones(1, dtype=int))


def test_result_types():
    f, d, i = lucid.ones(2), lucid.tensor(1.0, dtype=lucid.float64), lucid.ones(2, dtype=int)
    assert result_type(f, d) is lucid.float32 and result_type(i, d) is lucid.float64
    assert result_type(i, 1.5) is lucid.float32 and result_type(2, 1.5) is lucid.float32


def test_functions_take_arrays_and_lists():
    assert lucid.exp([0.0]).dtype is lucid.float32 and lucid.add([1.0], 2).tolist() == [3]
    assert lucid.sum([1, 2]).item() == 3


@pytest.mark.parametrize("name", sorted(lucid.__all__))
def test_the_public_page_is_documented(name):
    value = getattr(lucid, name)
    assert callable(value) is False or value.__doc__


NARROW = {
    "sum": lambda x: x.sum(1),
    "mean": lambda x: x.mean(),
    "var": lambda x: x.var(0),
    "std": lambda x: x.std(),
    "prod": lambda x: x.prod(1),
    "amax": lambda x: x.amax(0),
    "max": lambda x: x.max(1).values,
    "norm": lambda x: x.norm(),
    "logsumexp": lambda x: x.logsumexp(1),
    "cumsum": lambda x: x.cumsum(0),
    "cumprod": lambda x: x.cumprod(0),
    "clamp": lambda x: x.clamp(0.5, 1.0),
    "sort": lambda x: x.sort(1).values,
    "topk": lambda x: x.topk(2).values,
    "matmul": lambda x: x @ x.T,
    "einsum": lambda x: lucid.einsum("ij,kj->ik", x, x),
    "where": lambda x: lucid.where(x > 1, x, 0.5),
    "masked_fill": lambda x: x.masked_fill(x > 1, 0.5),
    "gather": lambda x: x.gather(0, lucid.zeros(1, 4, dtype=int)),
    "scatter_add": lambda x: x.scatter_add(0, lucid.zeros(1, 4, dtype=int), x),
    "index": lambda x: x[[0, 0]],
    "cat": lambda x: lucid.cat([x, x]),
    "pow": lambda x: x**2 + 2.0**x + x**x,
    "arithmetic": lambda x: (1 / x) % 0.7 - x / 3,
    "in place": lambda x: (x * 1).add_(1.5).mul_(2),
    "triangle": lambda x: x.tril() + x.roll(1, 0).flip(0),
}


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize(("dtype", "rtol"), [("float16", 4e-3), ("bfloat16", 3e-2)])
def test_every_family_works_in_16_bits(name, dtype, rtol):
    data = np.random.default_rng(7).uniform(0.3, 2.0, (3, 4))
    x = lucid.tensor(data, dtype=dtype, requires_grad=True)
    wide = x.detach().double().requires_grad_()
    got, want = NARROW[name](x), NARROW[name](wide)
    assert got.dtype is x.dtype
    np.testing.assert_allclose(got.detach().double().numpy(), want.detach().numpy(), rtol=rtol, atol=rtol)
    got.backward()
    want.backward()
    assert x.grad.dtype is x.dtype
    np.testing.assert_allclose(x.grad.double().numpy(), wide.grad.numpy(), rtol=rtol, atol=4 * rtol)


def test_arguments_given_twice_or_not_at_all_are_named():
    with pytest.raises(TypeError, match=r"given twice, as \(2, 3\) and as \(3, 2\)"):
        lucid.ones(6).reshape(2, 3, shape=(3, 2))
    with pytest.raises(TypeError, match="scatter: either src or value must be given"):
        lucid.ones(2).scatter(0, lucid.tensor([0]))
    with pytest.raises(TypeError, match="arange: the end must be given"):
        lucid.arange(start=None)
