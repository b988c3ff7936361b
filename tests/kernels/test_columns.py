"""Walks along an axis against NumPy in float64, on every machine, between forbidden pages, on several threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lucid.kernels import columns, target
from lucid.kernels.columns import Band
from lucid.kernels.runtime import threads
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases

Array = np.ndarray[Any, Any]
ISAS = [isa.name for isa in target.cpu().runnable]
SHAPES = [(5, 7), (37, 41), (3, 17, 33), (2, 5, 300), (1, 9), (16, 8, 3), (4, 1), (2, 3, 1037), (9,), (3, 16, 16)]
CASES = [(shape, axis) for shape in SHAPES for axis in range(len(shape))]
DTYPES = [np.dtype(np.float32), np.dtype(np.float64)]


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def normal(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(dtype)


def some_band(n: int, m: int) -> tuple[Band, Array]:
    """A band of up to three samples a result, one result without any, and the matrix that it is."""
    rng = np.random.default_rng(n)
    entries = [
        (o, c, rng.standard_normal())
        for o in range(m)
        for c in range(o * n // m, min(n, o * n // m + 1 + o % 3))
        if o != m // 2
    ]
    matrix = np.zeros((m, n))
    for o, c, value in entries:
        matrix[o, c] += value
    return Band(m, n, *zip(*entries, strict=True)) if entries else Band(m, n, [], [], []), matrix


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_running_sums_and_products_are_those_of_float64(isa: str, dtype: np.dtype[Any]) -> None:
    def check(case: tuple[tuple[int, ...], int, str, int]) -> None:
        shape, axis, where, crew = case
        threads.set_num_threads(crew)
        values = normal(shape, dtype)
        wide, unit = values.astype(np.float64), np.finfo(dtype).eps
        bound = unit * np.cumsum(np.abs(wide), axis) + shape[axis] * 2e-16 * np.abs(wide).sum(axis, keepdims=True)
        with guarded(values, where=where, readonly=True) as x, guarded_results(where):
            assert (np.abs(columns.running_sum(x, axis) - np.cumsum(wide, axis)) <= bound).all()
            back = np.flip(np.cumsum(np.flip(wide, axis), axis), axis)
            bound = unit * np.abs(wide).sum(axis, keepdims=True) * (1 + shape[axis] * (dtype.itemsize == 8))
            assert (np.abs(columns.running_sum(x, axis, reverse=True) - back) <= bound).all()
            product = np.cumprod(wide, axis)
            bound = np.abs(product) * unit * (1 + shape[axis] * (dtype.itemsize == 8)) + np.finfo(dtype).tiny
            assert (np.abs(columns.running_product(x, axis) - product) <= bound).all()

    with target.using(isa):
        run_guarded_cases(check, [(*case, where, crew) for case in CASES for where, crew in (("end", 1), ("start", 3))])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_bands_are_their_matrices(isa: str, dtype: np.dtype[Any]) -> None:
    def check(case: tuple[tuple[int, ...], int, str, int]) -> None:
        shape, axis, where, crew = case
        threads.set_num_threads(crew)
        n, unit = shape[axis], np.finfo(dtype).eps
        for m in (n + 5, max(n // 3, 1)):
            band, matrix = some_band(n, m)
            for one, dense in ((band, matrix), (band.transposed, matrix.T)):
                values = normal((*shape[:axis], dense.shape[1], *shape[axis + 1 :]), dtype)
                wide = values.astype(np.float64)
                for part in one.tables(dtype):
                    assert part.flags.c_contiguous
                with guarded(values, where=where, readonly=True) as x, guarded_results(where):
                    got = one.apply(x, axis)
                want = np.moveaxis(np.tensordot(dense, wide, (1, axis)), 0, axis)
                sizes = np.moveaxis(np.tensordot(np.abs(dense), np.abs(wide), (1, axis)), 0, axis)
                taps = 2 + (dense != 0).sum(1).max(initial=0)
                assert got.shape == want.shape and (np.abs(got - want) <= taps * unit * sizes).all()

    with target.using(isa):
        run_guarded_cases(check, [(*case, where, crew) for case in CASES for where, crew in (("end", 1), ("start", 3))])


@pytest.mark.parametrize("shape", [(70, 900), (3, 300, 70)])
def test_the_bits_do_not_depend_on_the_threads(shape: tuple[int, ...]) -> None:
    x, made = normal(shape, np.dtype(np.float32)), []
    for crew in (1, 2, 3):
        threads.set_num_threads(crew)
        band, _ = some_band(shape[1], 77)
        made.append([columns.running_sum(x, 1).tobytes(), band.apply(x, 1).tobytes()])
    assert made[0] == made[1] == made[2]


def test_nothing_along_an_axis_sums_to_nothing() -> None:
    assert columns.running_sum(np.zeros((3, 0), np.float32), 1).shape == (3, 0)
    assert (Band(2, 0, [], [], []).apply(np.zeros((3, 0), np.float32), 1) == np.zeros((3, 2))).all()
