"""Places of extremes against NumPy, on every machine, between forbidden pages, on several threads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lucid.kernels import extremes, target
from lucid.kernels.runtime import threads
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases

Array = np.ndarray[Any, Any]
ISAS = [isa.name for isa in target.cpu().runnable]
DTYPES = [np.dtype(t) for t in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)]
SHAPES = [(5, 7), (37, 41), (3, 17, 33), (2, 5, 130), (1, 9), (4, 1), (2, 3, 1037), (9,), (3, 16, 16)]
WINDOWS = [((2, 3, 9, 13), (2, 3)), ((3, 20, 20), (5, 7)), ((2, 7, 33), (7, 33)), ((1, 40, 70), (1, 2)),
           ((3, 17), (4,)), ((2, 1000), (1,)), ((2, 5, 6, 19), (2, 3, 4)), ((2, 3, 4, 5), (5, 6, 7))]  # fmt: skip


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def few_numbers(shape: tuple[int, ...], dtype: np.dtype[Any], kind: int) -> Array:
    """Many that are equal; with NaN, or nothing but infinities."""
    rng = np.random.default_rng(len(shape))
    x = rng.integers(-2, 3, shape).astype("f")
    if kind == 1:
        x[rng.random(shape) < 0.05] = np.nan
    return (x if kind < 2 else np.where(x > 0, -np.inf, np.inf if kind == 3 else -np.inf)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_places_along_axes_are_those_of_numpy(isa: str, dtype: np.dtype[Any]) -> None:
    def check(case: tuple[Any, ...]) -> None:
        shape, kind, (where, crew) = case
        threads.set_num_threads(crew)
        values = few_numbers(shape, dtype, kind)
        with guarded(values, where=where, readonly=True) as x, guarded_results(where):
            for axis in range(len(shape)):
                for smallest, wanted in ((False, np.argmax), (True, np.argmin)):
                    found = extremes.along(x, axis, smallest)
                    np.testing.assert_array_equal(found, wanted(values.astype("d"), axis))

    with target.using(isa):
        run_guarded_cases(check, list(product(SHAPES, range(4), (("end", 1), ("start", 3), ("end", 2)))))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_places_in_windows_are_the_first_of_a_scan(isa: str, dtype: np.dtype[Any]) -> None:
    def check(case: tuple[Any, ...]) -> None:
        (shape, out), kind, (where, crew) = case
        threads.set_num_threads(crew)
        values, size = few_numbers(shape, dtype, kind), shape[-len(out) :]
        places = np.arange(np.prod(size)).reshape(size)
        with guarded(values, where=where, readonly=True) as x, guarded_results(where):
            found = extremes.in_windows(x, out)
        assert found.shape == (*shape[: -len(out)], *out)
        for at in product(*map(range, out)):
            cut = tuple(slice(k * n // o, -(-(k + 1) * n // o)) for k, n, o in zip(at, size, out, strict=True))
            part = values[(..., *cut)].astype("d").reshape(*shape[: -len(out)], -1)
            np.testing.assert_array_equal(found[(..., *at)], places[cut].reshape(-1)[part.argmax(-1)])

    with target.using(isa):
        run_guarded_cases(check, list(product(WINDOWS, range(4), (("end", 1), ("start", 3), ("end", 2)))))


def test_other_layouts() -> None:
    x = few_numbers((6, 50), np.dtype("f"), 0)
    np.testing.assert_array_equal(extremes.along(x.T, 1), x.argmax(0))
    np.testing.assert_array_equal(extremes.in_windows(x[:, ::-1], (1,))[:, 0], x[:, ::-1].argmax(1))
    assert not extremes.fits(x[:, :0], 1) and not extremes.fits(x, 4)
