"""Orders of elements: as a stable sort of (value, place) pairs finds them, NaN last."""

from __future__ import annotations

from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import lucid
from lucid.ops import order

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.int8, np.uint8, np.int16, np.int32, np.int64, bool]
SIZES = [0, 1, 2, 15, 17, 33, 100, 700]


def _values(size: int, dtype: Any) -> Any:
    """Many that are equal, both zeros, the ends of the range, infinities and NaN of both signs."""
    rng = np.random.default_rng(size)
    x = rng.integers(-20, 20, (3, size)).astype(dtype)
    kind = np.dtype(dtype).kind
    if kind not in "biu":
        x = (x / np.asarray(4, dtype)).astype(dtype)
        x[rng.random(x.shape) < 0.1] = -0.0
        x[1, ::7], x[1, 3::9], x[2, 1::5], x[2, 2::5] = np.inf, -np.inf, np.nan, -np.asarray(np.nan, dtype)
    elif kind in "iu":
        x[1, ::7], x[1, 3::9] = np.iinfo(dtype).max, np.iinfo(dtype).min
    return x


def _expected(x: Any, descending: bool) -> Any:
    """Python's stable sort of each row, by (is NaN, value)."""

    def key(v: float) -> tuple[bool, float]:
        return (v != v, 0.0 if v != v else v)

    rows = [[v.item() if x.dtype.kind in "biu" else float(v) for v in row] for row in x]
    turned = [[(-a, -b) for a, b in map(key, row)] if descending else list(map(key, row)) for row in rows]
    return np.array([sorted(range(len(row)), key=row.__getitem__) for row in turned], np.int64).reshape(x.shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("size", SIZES)
def test_orders(size, dtype):
    x = _values(size, dtype)
    for descending in (False, True):
        want = _expected(x, descending)
        np.testing.assert_array_equal(order.order(x, descending), want)
        for k in {0, 1, 2, size // 9, size // 3, size - 1, size} & set(range(size + 1)):
            np.testing.assert_array_equal(order.first(x, k, descending), want[:, :k], f"{k} of {size}")


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_any_dimension_and_what_lies_elsewhere(dim):
    x = lucid.tensor(np.random.default_rng(dim).standard_normal((40, 50, 60)).astype("f")).transpose(0, 2)
    values, places = lucid.topk(x, 3, dim)
    every, ordered = lucid.sort(x, dim, descending=True)
    assert lucid.equal(places, ordered.narrow(dim, 0, 3)) and lucid.equal(values, every.narrow(dim, 0, 3))
    np.testing.assert_array_equal(every.numpy(), -np.sort(-x.numpy(), dim))


def test_elements_that_are_gathered_pass_their_gradients_back():
    x = lucid.randn(4, 80, requires_grad=True)
    lucid.topk(x, 3).values.sum().backward()
    assert x.grad.sum().item() == 12 and x.grad.amax().item() == 1


@pytest.mark.parametrize(("size", "wanted"), list(product([(9, 13), (20, 20)], [(2, 3), (5, 7), (20, 20)])))
def test_adaptive_maxima_are_the_first_of_their_windows(size, wanted):
    """Windows one by one, and for many an axis after the other, which finds the same."""
    wanted = tuple(map(min, wanted, size))
    x = np.random.default_rng(1).integers(0, 4, (2, 3, *size)).astype("f")
    got, at = lucid.nn.functional.adaptive_max_pool2d(lucid.tensor(x), wanted, return_indices=True)
    for i, j in product(*map(range, wanted)):
        h, w = (slice(k * n // o, -(-(k + 1) * n // o)) for k, n, o in zip((i, j), size, wanted, strict=True))
        part = x[:, :, h, w].reshape(2, 3, -1)
        inside = part.argmax(-1)
        flat = (h.start + inside // (w.stop - w.start)) * size[1] + w.start + inside % (w.stop - w.start)
        np.testing.assert_array_equal(at.numpy()[:, :, i, j], flat)
        np.testing.assert_array_equal(got.numpy()[:, :, i, j], part.max(-1))
