"""Pooling against loops over windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lucid
from lucid.autograd import check_grads
from lucid.core.geometry import ConvSpec, PoolSpec
from lucid.ops import pool

SPECS = {
    "plain": PoolSpec((2,), (2,), (1,), ((0, 0),)),
    "overlapping": PoolSpec((3,), (1,), (1,), ((1, 1),)),
    "dilated": PoolSpec((3,), (2,), (2,), ((2, 1),)),
    "hanging over": PoolSpec((3,), (3,), (1,), ((1, 1),), ceil_mode=True),
    "two axes": PoolSpec((2, 3), (2, 1), (1, 2), ((1, 0), (1, 2))),
    "two axes, ceiling": PoolSpec((3, 2), (2, 3), (1, 1), ((1, 1), (0, 1)), ceil_mode=True),
    "three axes": PoolSpec((2, 2, 2), (2, 1, 2), (1, 1, 1), ((0, 1), (1, 0), (1, 1))),
}
UNDILATED = {name: spec for name, spec in SPECS.items() if set(spec.dilation) == {1}}


def drawn(spec: PoolSpec, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, 3, *(7, 6, 5)[: len(spec.kernel)]))


def windows(x: np.ndarray, spec: PoolSpec) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """For each output position, the input positions that its window touches."""
    size = x.shape[x.ndim - len(spec.kernel) :]
    touched = {}
    for p in np.ndindex(*spec.out_size(size)):
        starts = [i * s - low for i, s, (low, _) in zip(p, spec.stride, spec.padding, strict=True)]
        places = (
            tuple(a + t * d for a, t, d in zip(starts, tap, spec.dilation, strict=True))
            for tap in np.ndindex(*spec.kernel)
        )
        touched[p] = [q for q in places if all(0 <= i < n for i, n in zip(q, size, strict=True))]
    return touched


@pytest.mark.parametrize("name", SPECS)
def test_maximum_by_loops(name: str) -> None:
    spec = SPECS[name]
    x = drawn(spec)
    size = x.shape[2:]
    y, indices = pool.max_pool(lucid.tensor(x), spec).numpy(), pool.max_pool_indices(lucid.tensor(x), spec).numpy()
    g = np.random.default_rng(1).standard_normal(y.shape)
    expected, at, back = np.empty(y.shape), np.empty(y.shape, np.int64), np.zeros(x.shape)
    for p, places in windows(x, spec).items():
        for lead in np.ndindex(*x.shape[:2]):
            best = max(places, key=lambda q: x[(*lead, *q)])
            expected[(*lead, *p)] = x[(*lead, *best)]
            at[(*lead, *p)] = np.ravel_multi_index(best, size)
            back[(*lead, *best)] += g[(*lead, *p)]
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(indices, at)
    leaf = lucid.tensor(x, requires_grad=True)
    pool.max_pool(leaf, spec).backward(lucid.tensor(g))
    np.testing.assert_allclose(leaf.grad.numpy(), back, atol=1e-13)


@pytest.mark.parametrize("name", UNDILATED)
@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("divisor", [None, 3])
def test_average_by_loops(name: str, count_include_pad: bool, divisor: int | None) -> None:
    spec = SPECS[name]
    x = drawn(spec)
    y = pool.avg_pool(lucid.tensor(x), spec, count_include_pad, divisor).numpy()
    for p, places in windows(x, spec).items():
        count = len(places)
        if count_include_pad:
            ends = zip(p, spec.stride, spec.kernel, spec.padding, x.shape[2:], strict=True)
            count = int(np.prod([min(i * s + k, n + low + high) - i * s for i, s, k, (low, high), n in ends]))
        total = sum(x[(..., *q)] for q in places)
        np.testing.assert_allclose(y[(..., *p)], total / (divisor or count), atol=1e-13)


@pytest.mark.parametrize("name", SPECS)
def test_gradients_to_second_order(name: str) -> None:
    spec = SPECS[name]
    x = lucid.tensor(drawn(spec), requires_grad=True)
    check_grads(lambda x: pool.max_pool(x, spec) ** 2, x)
    if name in UNDILATED:
        check_grads(lambda x: pool.avg_pool(x, spec, False) ** 2, x)


@pytest.mark.parametrize(("n", "out"), [(7, 3), (5, 5), (4, 6), (9, 1), (8, 4)])
def test_adaptive_windows_by_loops(n: int, out: int) -> None:
    x = np.random.default_rng(0).standard_normal((2, n, n + 1))
    expected = np.empty((2, out, 2))
    chosen = np.empty((2, out, 2), np.int64)
    for i, j in np.ndindex(out, 2):
        rows = slice(int(np.floor(i * n / out)), int(np.ceil((i + 1) * n / out)))
        columns = slice(int(np.floor(j * (n + 1) / 2)), int(np.ceil((j + 1) * (n + 1) / 2)))
        expected[:, i, j] = x[:, rows, columns].mean((1, 2))
        for b in range(2):
            window = np.full((n, n + 1), -np.inf)
            window[rows, columns] = x[b, rows, columns]
            chosen[b, i, j] = window.argmax()
    np.testing.assert_allclose(pool.adaptive_avg_pool(lucid.tensor(x), (out, 2)).numpy(), expected, atol=1e-13)
    np.testing.assert_array_equal(pool.adaptive_max_indices(lucid.tensor(x), (out, 2)).numpy(), chosen)
    check_grads(lambda x: pool.adaptive_avg_pool(x * x, (out, 2)), lucid.tensor(x, requires_grad=True))


def test_ties_go_to_the_first_and_nan_to_itself() -> None:
    spec = PoolSpec((3,), (3,), (1,), ((0, 0),))
    x = lucid.tensor([[1.0, 1.0, 0.0, 2.0, float("nan"), 3.0]])
    assert pool.max_pool_indices(x, spec).tolist() == [[0, 4]]
    assert np.isnan(pool.max_pool(x, spec).numpy()).tolist() == [[False, True]]


def test_minus_infinity_is_found_inside_the_input() -> None:
    spec = PoolSpec((2, 2), (2, 2), (1, 1), ((1, 1), (1, 1)))
    x = lucid.full((1, 2, 2), -np.inf)
    assert pool.max_pool(x, spec).tolist() == [[[-np.inf] * 2] * 2]
    assert pool.max_pool_indices(x, spec).tolist() == [[[0, 1], [2, 3]]]


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float16", "bfloat16", "float32"])
def test_other_element_types(dtype: str) -> None:
    x = lucid.tensor([[1, 5, 3, 2]]).to(dtype)
    y = pool.max_pool(x, PoolSpec((2,), (1,), (1,), ((1, 1),)))
    assert y.dtype == x.dtype and y.tolist() == [[1, 5, 5, 3, 2]]
    if x.is_floating_point():
        mean = pool.avg_pool(x, PoolSpec((2,), (2,), (1,), ((0, 0),)))
        assert mean.dtype == x.dtype and mean.tolist() == [[3.0, 2.5]]


def test_unfolded_windows_times_a_weight_are_a_convolution() -> None:
    spec = ConvSpec((2, 3), (2, 1), (1, 2), ((1, 0), (2, 1)))
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 5, 6)), rng.standard_normal((4, 3, 2, 3))
    columns = pool.unfold(lucid.tensor(x), spec).numpy()
    from lucid.nn.functional import conv2d

    y = conv2d(lucid.tensor(x), lucid.tensor(w), None, spec.stride, spec.padding, spec.dilation).numpy()
    np.testing.assert_allclose((w.reshape(4, -1) @ columns).reshape(y.shape), y, atol=1e-12)
    check_grads(lambda x: pool.unfold(x * x, spec), lucid.tensor(x, requires_grad=True))


@pytest.mark.parametrize(
    ("shape", "kernel"), [((2, 8, 40, 40), (8, 5)), ((4, 9, 320), (16,)), ((2, 8, 8, 8, 12), (4, 4, 3))]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_wide_tiles_are_means_by_loops(shape: tuple[int, ...], kernel: tuple[int, ...], dtype: Any) -> None:
    rank = len(kernel)
    x = lucid.Tensor(np.random.default_rng(0).standard_normal(shape).astype(dtype), requires_grad=True)
    y = pool.avg_pool(x, PoolSpec(kernel, kernel, (1,) * rank, ((0, 0),) * rank))
    cut = [part for n, k in zip(shape[2:], kernel, strict=True) for part in (n // k, k)]
    wide = x.detach().numpy().astype(np.float64).reshape(*shape[:2], *cut)
    unit = float(np.finfo(dtype).eps)
    want = wide.mean(tuple(range(3, 3 + 2 * rank, 2)))
    np.testing.assert_allclose(y.detach().numpy(), want, rtol=unit, atol=16 * unit / np.sqrt(np.prod(kernel)))
    g = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
    y.backward(lucid.Tensor(g))
    spread = g.astype(np.float64) / np.prod(kernel)
    for axis, k in enumerate(kernel, start=2):
        spread = spread.repeat(k, axis)
    np.testing.assert_allclose(x.grad.numpy(), spread, rtol=4 * unit, atol=1e-7)
