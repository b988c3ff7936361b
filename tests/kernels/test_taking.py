"""Elements read and added up at places, against NumPy: bit for bit, between forbidden pages, on several threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lucid.kernels import taking, target
from lucid.kernels.runtime import threads
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases

Array = np.ndarray[Any, Any]
ISAS = [isa.name for isa in target.cpu().runnable]
#: Shape, axis, places along it.
CASES = [((7,), 0, 11), ((5, 9), 1, 4), ((5, 9), 0, 21), ((3, 17, 33), 1, 5), ((2, 4, 2, 16), 1, 1), ((3, 1, 31), 1, 6),
         ((1, 6, 200), 1, 9), ((2, 3, 15), 2, 70), ((9, 130), 0, 3), ((2, 9000), 1, 9001)]  # fmt: skip
MOVED = [np.dtype(t) for t in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int32, np.complex64)]
ADDED = [np.dtype(t) for t in (np.float32, np.float64, np.int32, np.int64)]


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def numbers(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return (100 * np.random.default_rng(len(shape)).standard_normal(shape)).astype(dtype)


def some_places(shape: tuple[int, ...], axis: int, m: int, shared: bool) -> Array:
    """Places from both ends, many of them more than once."""
    n = shape[axis]
    sizes = (m,) if shared else (*shape[:axis], m, *shape[axis + 1 :])
    return np.random.default_rng(m).integers(-n, n, sizes)


def whole_index(shape: tuple[int, ...], axis: int, places: Array) -> tuple[Array, ...]:
    """The places as an index that NumPy takes."""
    if places.ndim < len(shape):
        places = places.reshape(-1, *(1,) * (len(shape) - axis - 1))
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    return tuple(places if k == axis else g for k, g in enumerate(grid))


def all_cases() -> list[tuple[Any, ...]]:
    return [
        (*case, shared, where, crew)
        for case in CASES
        for shared in (False, True)
        for where, crew in (("end", 1), ("start", 3), ("end", 2))
    ]


@pytest.mark.parametrize("dtype", MOVED, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_elements_are_read_at_their_places(isa: str, dtype: np.dtype[Any]) -> None:
    def check(case: tuple[Any, ...]) -> None:
        shape, axis, m, shared, where, crew = case
        threads.set_num_threads(crew)
        values, places = numbers(shape, dtype), some_places(shape, axis, m, shared)
        want = values[whole_index(shape, axis, places)]
        with guarded(values, where=where, readonly=True) as x, guarded(places, where=where, readonly=True) as index:
            with guarded_results(where):
                found = taking.taken(x, index, axis)
            assert found is not None and found.shape == want.shape and found.tobytes() == want.tobytes()

    with target.using(isa):
        run_guarded_cases(check, all_cases())


@pytest.mark.parametrize("dtype", ADDED, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_elements_are_added_in_order(isa: str, dtype: np.dtype[Any]) -> None:
    def check(case: tuple[Any, ...]) -> None:
        shape, axis, m, shared, where, crew = case
        threads.set_num_threads(crew)
        before, places = numbers(shape, dtype), some_places(shape, axis, m, shared)
        more = numbers((*shape[:axis], m, *shape[axis + 1 :]), dtype)
        want = before.copy()
        np.add.at(want, whole_index(shape, axis, places), more)
        with (
            guarded(before, where=where) as y,
            guarded(places, where=where, readonly=True) as index,
            guarded(more, where=where, readonly=True) as g,
        ):
            assert taking.add(y, index, g, axis) and y.tobytes() == want.tobytes()

    with target.using(isa):
        run_guarded_cases(check, all_cases())


@pytest.mark.parametrize("isa", ISAS)
def test_places_out_of_range_are_reported_and_touch_nothing(isa: str) -> None:
    def check(case: tuple[Any, ...]) -> None:
        shape, axis, m, shared, where, crew = case
        threads.set_num_threads(crew)
        values = numbers(shape, np.dtype(np.float32))
        for wrong in (shape[axis], -shape[axis] - 1, 2**62, -(2**63)):
            places = some_places(shape, axis, m, shared)
            places.reshape(-1)[-1] = wrong
            with guarded(values, where=where) as x, guarded_results(where):
                assert taking.taken(x, places, axis) is None
                assert not taking.add(x, places, numbers((*shape[:axis], m, *shape[axis + 1 :]), x.dtype), axis)

    with target.using(isa):
        run_guarded_cases(check, all_cases())


def test_nothing_to_read_and_nothing_to_read_from() -> None:
    x, none = np.ones((3, 0), np.float32), np.zeros(0, np.int64)
    found = taking.taken(x, none, 0)
    assert found is not None and found.shape == (0, 0)
    assert taking.taken(np.ones((0, 3), np.float32), np.zeros(1, np.int64), 0) is None
    found = taking.taken(np.ones((2, 3), np.float32).T, np.array([-1], np.int32), 0)
    assert found is not None and found.tolist() == [[1, 1]]
