from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lucid.core.geometry import PoolSpec
from lucid.kernels import pool_tiles, pooling, target
from lucid.kernels.runtime import threads
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases

Array = np.ndarray[Any, Any]
ISAS = [isa.name for isa in target.cpu().isas]


def tiles(*window: int) -> PoolSpec:
    return PoolSpec(window, window, (1,) * len(window), ((0, 0),) * len(window))


CASES = [  # planes, size, window: rows of 1, 2, 4, 8 and 16 outputs share vectors, others do not
    ((3, 5), (8, 8), (2, 2)),
    ((70, 1), (4, 4), (2, 2)),
    ((5,), (2, 2), (2, 2)),
    ((2, 3), (6, 16), (2, 2)),
    ((2, 2), (4, 64), (2, 2)),
    ((2, 2), (14, 14), (2, 2)),
    ((1, 3), (4, 70), (2, 2)),
    ((2, 2), (6, 12), (3, 2)),
    ((2, 2), (8, 4), (4, 1)),
    ((2, 3), (6, 24), (1, 3)),
    ((2, 3), (4, 30), (2, 3)),
    ((7, 2), (32,), (2,)),
    ((7, 2), (9,), (3,)),
    ((600,), (8,), (4,)),
    ((2, 2), (3, 4, 8), (1, 2, 2)),
    ((), (6, 4), (2, 2)),
]


def by_window(x: Array, window: tuple[int, ...]) -> Array:
    """(…, *size) as (planes, outputs, taps), taps in row-major order."""
    rank = len(window)
    size = x.shape[x.ndim - rank :]
    split = [n for s, k in zip(size, window, strict=True) for n in (s // k, k)]
    axes = [0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2)]
    return x.reshape(-1, *split).transpose(axes).reshape(x.size // max(int(np.prod(size)), 1), -1, np.prod(window))


def winners(taps: Array) -> Array:
    """PyTorch's rule: a larger one wins, and so does a NaN."""
    index = np.zeros(taps.shape[:-1], np.int64)
    for place in np.ndindex(index.shape):
        for k, value in enumerate(taps[place]):
            if value > taps[place][index[place]] or np.isnan(value):
                index[place] = k
    return index


def samples(shape: tuple[int, ...], dtype: Any) -> Array:
    """Few different values, so that there are ties; infinities and NaNs."""
    rng = np.random.default_rng(sum(shape))
    return rng.choice(np.array([-2, -1, 0, 1, 2, np.nan, np.inf, -np.inf], dtype), shape)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("lead", "size", "window"), CASES)
def test_maximum_and_its_gradient(lead: Any, size: Any, window: Any, dtype: Any, isa: str) -> None:
    spec, x = tiles(*window), samples((*lead, *size), dtype)
    assert pool_tiles.fit(spec, size)
    taps = by_window(x, window)
    index = winners(taps)[..., None]
    with target.using(isa):
        y = pooling.max_pool(x, spec)
        h = np.random.default_rng(0).standard_normal(y.shape).astype(dtype)
        gradient = pooling.max_pool_grad(h, x, spec)
    want = np.zeros_like(taps)
    np.put_along_axis(want, index, h.reshape(index.shape), -1)
    np.testing.assert_array_equal(y.reshape(index.shape), np.take_along_axis(taps, index, -1))
    np.testing.assert_array_equal(by_window(gradient, window), want)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("divisor", [None, 5])
@pytest.mark.parametrize(("lead", "size", "window"), CASES)
def test_average_and_its_gradient(lead: Any, size: Any, window: Any, divisor: int | None, isa: str) -> None:
    spec, x = tiles(*window), np.random.default_rng(0).standard_normal((*lead, *size))
    taps, count = by_window(x, window), divisor or int(np.prod(window))
    with target.using(isa):
        y = pooling.avg_pool(x, spec, True, divisor)
        h = np.random.default_rng(1).standard_normal(y.shape)
        gradient = pooling.avg_pool_grad(h, spec, size, False, divisor)
    # A sum of k terms and a quotient: k roundings of what is at most the sum of the absolute values.
    bound = taps.shape[-1] * 2.0**-53 * np.abs(taps).sum(-1) / count
    assert (np.abs(y.reshape(bound.shape) - taps.sum(-1) / count) <= 2 * bound).all()
    want = np.broadcast_to((h / count).reshape(bound.shape)[..., None], taps.shape)
    np.testing.assert_array_equal(by_window(gradient, window), want)


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (PoolSpec((2, 2), (2, 2), (1, 1), ((0, 0), (1, 1))), (4, 4)),
        (PoolSpec((3, 3), (2, 2), (1, 1), ((0, 0), (0, 0))), (9, 9)),
        (PoolSpec((2, 2), (2, 2), (1, 2), ((0, 0), (0, 0))), (4, 4)),
        (tiles(2, 2), (5, 4)),
        (tiles(2, 2), (4, 5)),
        (tiles(2, 2, 2), (4, 4, 4)),
        (tiles(7, 7), (7, 7)),
    ],
)
def test_what_is_no_tiling(spec: PoolSpec, size: tuple[int, ...]) -> None:
    assert not pool_tiles.fit(spec, size)


@pytest.mark.parametrize("isa", ISAS)
def test_stays_between_guard_pages(isa: str) -> None:
    def check(case: tuple[Any, Any]) -> None:
        (lead, size, window), where = case
        spec, x = tiles(*window), samples((*lead, *size), np.float32)
        with guarded(x, where=where, readonly=True) as g, guarded_results(where):
            y = pooling.max_pool(g, spec)
            with guarded(y, where=where, readonly=True) as h:
                np.testing.assert_array_equal(pooling.max_pool_grad(h, g, spec), pooling.max_pool_grad(y, x, spec))
                assert not np.isnan(pooling.avg_pool_grad(np.ones_like(h), spec, size, True, None)).any()
            pooling.avg_pool(g, spec, True, None)

    with target.using(isa):
        run_guarded_cases(check, [(case, where) for case in CASES for where in ("end", "start")])


def test_the_same_bits_on_any_number_of_threads() -> None:
    before, results = threads.get_num_threads(), []
    x = np.random.default_rng(0).standard_normal((64, 16, 8, 8)).astype(np.float32)
    for count in (1, 2, 3):
        threads.set_num_threads(count)
        y = pooling.max_pool(x, tiles(2, 2))
        results.append(y.tobytes() + pooling.max_pool_grad(y, x, tiles(2, 2)).tobytes())
    threads.set_num_threads(before)
    assert len(set(results)) == 1
