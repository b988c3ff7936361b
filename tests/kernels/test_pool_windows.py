from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lucid.core.geometry import PoolSpec
from lucid.kernels import pool_windows, pooling, target
from lucid.kernels.runtime import threads
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases
from tests.kernels.test_pooling import counts, samples, spec, windows, winners

Array = np.ndarray[Any, Any]
ISAS = [isa.name for isa in target.cpu().isas]

CASES = [  # planes, size, windows: rows of several groups, groups that end with a row, rows shorter than a window
    ((3,), (40,), spec((3,), 2, 1, 1)),
    ((2,), (67,), spec((7,), 1, 1, 3)),
    ((2,), (50,), spec((7,), 2, 1, 3)),
    ((2,), (75,), spec((7,), 4, 1, 2)),
    ((2,), (48,), spec((3,), 3)),
    ((1,), (2,), spec((3,), 2, 1, 1)),
    ((2, 2), (7, 34), spec((3, 3), 2, 1, 1)),
    ((2, 1), (8, 33), spec((3, 3), 2, 1, 0, True)),
    ((2, 1), (9, 66), spec((5, 5), 1, 1, 2)),
    ((1, 2), (11, 9), spec((5, 4), (2, 3), 1, (1, 1), True)),
    ((1, 2), (6, 20), spec((4, 2), (1, 1), 1, (3, 1))),
    ((), (3, 1), spec((3, 3), 1, 1, 1)),
    ((4,), (1, 18), spec((3, 2), (2, 1), 1, (1, 0))),
]


def gradient(h: Array, x: Array, pool: PoolSpec) -> Array:
    """Every element of h added, in float64, where its window's maximum is."""
    result = np.zeros(x.shape)
    for plane, g, sums in zip(
        *(a.reshape(-1, *a.shape[a.ndim - len(pool.kernel) :]) for a in (x, h, result)), strict=True
    ):
        np.add.at(sums.reshape(-1), winners(plane, pool), g)
    return result


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("lead", "size", "pool"), CASES)
def test_maximum_and_its_gradient(lead: Any, size: Any, pool: PoolSpec, dtype: Any, isa: str) -> None:
    assert pool_windows.fit(pool, size)
    x = samples((*lead, *size), dtype)
    h = np.random.default_rng(0).integers(-4, 5, (*lead, *pool.out_size(size))).astype(dtype)
    want = np.stack([p.reshape(-1)[winners(p, pool)] for p in x.reshape(-1, *size)]).reshape(h.shape)
    with target.using(isa):
        np.testing.assert_array_equal(pooling.max_pool(x, pool), want)
        np.testing.assert_array_equal(pooling.max_pool_grad(h, x, pool), gradient(h, x, pool))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("options", [(True, None), (False, None), (True, 3)])
@pytest.mark.parametrize(("lead", "size", "pool"), CASES)
def test_average_and_its_gradient(lead: Any, size: Any, pool: PoolSpec, options: Any, isa: str) -> None:
    rng, (include, divisor) = np.random.default_rng(1), options
    x, h = rng.standard_normal((*lead, *size)), rng.standard_normal((*lead, *pool.out_size(size)))
    divisors = counts(size, pool, include) if divisor is None else np.full(pool.out_size(size), divisor)
    want, given = np.zeros_like(h), np.zeros_like(x)
    for out, places in windows(x, pool):
        for place in places:
            want[(..., *out)] += x[(..., *place)] / divisors[out]
            given[(..., *place)] += h[(..., *out)] / divisors[out]
    with target.using(isa):
        np.testing.assert_allclose(pooling.avg_pool(x, pool, *options), want, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(pooling.avg_pool_grad(h, pool, size, *options), given, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("pool", "size"),
    [
        (spec((3,), 1, 2), (9,)),
        (spec((2,), 3), (9,)),
        (spec((8,), 2), (19,)),
        (spec((5,), 5), (15,)),
        (spec((3, 3, 3), 2), (7, 7, 7)),
        (PoolSpec((3,), (1,), (1,), ((3, 0),)), (9,)),
        (PoolSpec((3,), (1,), (1,), ((0, 4),)), (9,)),
    ],
)
def test_what_is_left_to_others(pool: PoolSpec, size: tuple[int, ...]) -> None:
    assert not pool_windows.fit(pool, size)


@pytest.mark.parametrize("isa", ISAS)
def test_stays_between_guard_pages(isa: str) -> None:
    def check(case: tuple[Any, Any]) -> None:
        (lead, size, pool), where = case
        x = samples((*lead, *size), np.float32)
        with guarded(x, where=where, readonly=True) as g, guarded_results(where):
            y = pooling.max_pool(g, pool)
            with guarded(y, where=where, readonly=True) as h:
                np.testing.assert_array_equal(pooling.max_pool_grad(h, g, pool), pooling.max_pool_grad(y, x, pool))
                assert not np.isnan(pooling.avg_pool_grad(np.ones_like(h), pool, size, False, None)).any()
            pooling.avg_pool(g, pool, True, None)

    with target.using(isa):
        run_guarded_cases(check, [(case, where) for case in CASES for where in ("end", "start")])


def test_the_same_bits_on_any_number_of_threads() -> None:
    before, results, pool = threads.get_num_threads(), [], spec((3, 3), 2, 1, 1)
    x = np.random.default_rng(0).standard_normal((64, 2, 30, 30)).astype(np.float32)
    for count in (1, 2, 3):
        threads.set_num_threads(count)
        y = pooling.max_pool(x, pool)
        made = (y, pooling.max_pool_grad(y, x, pool), pooling.avg_pool_grad(y, pool, (30, 30), False, None))
        results.append(b"".join(a.tobytes() for a in made))
    threads.set_num_threads(before)
    assert len(set(results)) == 1
