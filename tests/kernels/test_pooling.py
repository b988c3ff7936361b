from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest

from lucid.core.geometry import PoolSpec
from lucid.kernels import pooling, target
from lucid.kernels.runtime import threads
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases

Array = np.ndarray[Any, Any]
ISAS = [isa.name for isa in target.cpu().isas]


def spec(kernel: Any, stride: Any, dilation: Any = 1, padding: Any = 0, ceil_mode: bool = False) -> PoolSpec:
    rank = len(kernel)
    stride, dilation, padding = ((n,) * rank if isinstance(n, int) else n for n in (stride, dilation, padding))
    return PoolSpec(kernel, stride, dilation, tuple((p, p) for p in padding), ceil_mode)


CASES = [  # planes, size, windows
    ((2, 3), (50,), spec((3,), 1, 2, 1)),
    ((2, 3), (101,), spec((3,), 3, 1, 1, True)),
    ((1, 1), (7,), spec((2,), 2)),
    ((3,), (33,), spec((4,), 2, 1, 2, True)),
    ((2, 2), (13, 29), spec((3, 3), 2, 1, 1)),
    ((2, 2), (14, 40), spec((2, 2), 2)),
    ((2, 2), (9, 19), spec((2, 2), 2, 1, 0, True)),
    ((2, 2), (12, 37), spec((3, 2), (1, 1), 1, (1, 1))),
    ((1, 2), (8, 70), spec((3, 5), (2, 4), (2, 3), (1, 2))),
    ((1, 2), (5, 5), spec((5, 5), 5)),
    ((2, 1), (6, 7, 18), spec((2, 3, 2), (2, 1, 2), 1, (1, 0, 1))),
    ((2, 1), (5, 5, 5), spec((3, 3, 3), 2, 1, 1, True)),
    ((), (6, 6), spec((2, 2), 2)),
]


def windows(x: Array, windows: PoolSpec) -> Iterator[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """Every output's index, and the places of its window that lie inside the input, in row-major order."""
    size = x.shape[x.ndim - len(windows.kernel) :]
    for out in np.ndindex(windows.out_size(size)):
        axes = []
        for o, n, k, s, d, (low, _) in zip(
            out, size, windows.kernel, windows.stride, windows.dilation, windows.padding, strict=True
        ):
            axes.append([p for t in range(k) if 0 <= (p := o * s - low + t * d) < n])
        yield out, list(product(*axes))


def winners(plane: Array, pool: PoolSpec) -> Array:
    """PyTorch's rule, sample after sample: larger wins, and so does a NaN."""
    index = np.zeros(pool.out_size(plane.shape), np.int64)
    for out, places in windows(plane, pool):
        best = places[0]
        for place in places:
            if plane[place] > plane[best] or np.isnan(plane[place]):
                best = place
        index[out] = np.ravel_multi_index(best, plane.shape)
    return index


def counts(size: tuple[int, ...], pool: PoolSpec, count_include_pad: bool) -> Array:
    result = np.zeros(pool.out_size(size))
    for out in np.ndindex(result.shape):
        lengths = []
        for o, n, k, s, (low, high) in zip(out, size, pool.kernel, pool.stride, pool.padding, strict=True):
            first, last = (0, low + n + high) if count_include_pad else (low, low + n)
            lengths.append(min(o * s + k, last) - max(o * s, first))
        result[out] = np.prod(lengths)
    return result


def samples(shape: tuple[int, ...], dtype: Any) -> Array:
    """Few different values, so that there are ties; an infinity and a NaN somewhere."""
    rng = np.random.default_rng(sum(shape))
    x = rng.integers(-3, 4, shape).astype(dtype)
    flat = x.reshape(-1)
    flat[rng.integers(0, flat.size, 3)] = [np.nan, np.inf, -np.inf]
    return x


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("lead", "size", "pool"), CASES)
def test_maximum(lead: Any, size: Any, pool: PoolSpec, dtype: Any, isa: str) -> None:
    x = samples((*lead, *size), dtype)
    planes = x.reshape(-1, *size)
    index = np.stack([winners(p, pool) for p in planes])
    with target.using(isa):
        y, got = pooling.max_pool(x, pool), pooling.max_pool_indices(x, pool)
    assert y.shape == (*lead, *pool.out_size(size)) and got.dtype == np.int64
    np.testing.assert_array_equal(got.reshape(index.shape), index)
    flat = planes.reshape(len(planes), -1)
    np.testing.assert_array_equal(y.reshape(len(planes), -1), np.take_along_axis(flat, index.reshape(len(flat), -1), 1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("lead", "size", "pool"), CASES)
def test_gradient_of_the_maximum_and_its_adjoint(lead: Any, size: Any, pool: PoolSpec, dtype: Any, isa: str) -> None:
    x = samples((*lead, *size), dtype)
    rng = np.random.default_rng(0)
    h = rng.integers(-4, 5, (*lead, *pool.out_size(size))).astype(dtype)
    other = rng.integers(-4, 5, x.shape).astype(dtype)
    want, picked = np.zeros_like(x), np.zeros_like(h)
    for plane, gx, gy, values, y in zip(
        *(a.reshape(-1, *size) for a in (x, want)),
        h.reshape(-1, *h.shape[len(lead) :]),
        other.reshape(-1, *size),
        picked.reshape(-1, *h.shape[len(lead) :]),
        strict=True,
    ):
        index = winners(plane, pool)
        np.add.at(gx.reshape(-1), index, gy)
        y[...] = values.reshape(-1)[index]
    with target.using(isa):
        np.testing.assert_array_equal(pooling.max_pool_grad(h, x, pool), want)
        np.testing.assert_array_equal(pooling.max_pool_pick(other, x, pool), picked)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("options", [(True, None), (False, None), (True, 3)])
@pytest.mark.parametrize(("lead", "size", "pool"), [c for c in CASES if set(c[2].dilation) == {1}])
def test_average_and_its_adjoint(lead: Any, size: Any, pool: PoolSpec, options: Any, isa: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((*lead, *size))
    h = rng.standard_normal((*lead, *pool.out_size(size)))
    include, divisor = options
    divisors = counts(size, pool, include) if divisor is None else np.full(pool.out_size(size), divisor)
    want, gradient = np.zeros_like(h), np.zeros_like(x)
    for out, places in windows(x, pool):
        for place in places:
            want[(..., *out)] += x[(..., *place)] / divisors[out]
            gradient[(..., *place)] += h[(..., *out)] / divisors[out]
    with target.using(isa):
        np.testing.assert_allclose(pooling.avg_pool(x, pool, *options), want, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(pooling.avg_pool_grad(h, pool, size, *options), gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("isa", ISAS)
def test_stays_between_guard_pages(isa: str) -> None:
    pools = [spec((3,), 1, 1, 1), spec((3,), 2, 1, 1), spec((2,), 2), spec((3,), 3, 1, 1, True)]

    def check(case: tuple[int, PoolSpec, Any]) -> None:
        n, pool, where = case
        x = samples((2, n), np.float32)
        with guarded(x, where=where, readonly=True) as g, guarded_results(where):
            y = pooling.max_pool(g, pool)
            np.testing.assert_array_equal(y, pooling.max_pool(x, pool))
            with guarded(y, where=where, readonly=True) as h:
                np.testing.assert_array_equal(pooling.max_pool_grad(h, g, pool), pooling.max_pool_grad(y, x, pool))
                pooling.avg_pool(g, pool, True, None)
                pooling.avg_pool_grad(h, pool, (n,), True, None)

    with target.using(isa):
        sizes = (2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 65)
        run_guarded_cases(check, [(n, pool, where) for n in sizes for pool in pools for where in ("end", "start")])


def test_the_same_bits_on_any_number_of_threads() -> None:
    before, pool, results = threads.get_num_threads(), spec((3, 3), 2, 1, 1), []
    x = np.random.default_rng(0).standard_normal((2, 8, 40, 40))
    for count in (1, 2, 3):
        threads.set_num_threads(count)
        y = pooling.max_pool(x, pool)
        results.append(
            b"".join(a.tobytes() for a in (y, pooling.max_pool_grad(y, x, pool), pooling.avg_pool(x, pool, True, None)))
        )
    threads.set_num_threads(before)
    assert len(set(results)) == 1


def test_strided_planes_and_empty_batches() -> None:
    pool = spec((2, 2), 2)
    x = np.random.default_rng(0).standard_normal((6, 8, 3)).transpose(2, 0, 1)
    np.testing.assert_array_equal(pooling.max_pool(x, pool), x.reshape(3, 3, 2, 4, 2).max((2, 4)))
    assert pooling.max_pool(np.zeros((0, 3, 4, 4)), pool).shape == (0, 3, 2, 2)
    assert pooling.avg_pool_grad(np.zeros((0, 3, 2, 2)), pool, (4, 4), True, None).shape == (0, 3, 4, 4)
