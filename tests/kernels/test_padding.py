"""Padding and its adjoint against NumPy, on every machine, between forbidden pages, on several threads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lucid.kernels import padding, target
from lucid.kernels.runtime import threads
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases

Array = np.ndarray[Any, Any]
ISAS = [isa.name for isa in target.cpu().runnable]
MOVED = [np.dtype(t) for t in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int32, np.complex64)]
ADDED = [np.dtype(t) for t in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)]
#: A shape, and how far its last axes are continued.
CASES = [((7,), ((2, 3),)), ((5, 40), ((3, 1),)), ((2, 3, 4, 5), ((2, 1), (0, 4))), ((3, 9, 33), ((1, 1), (2, 2))),
         ((2, 4, 3, 17), ((1, 2), (2, 0), (3, 1))), ((1, 130, 70), ((1, 1), (1, 1))), ((2, 1, 1), ((0, 0), (0, 0))),
         ((0, 3, 4), ((1, 1), (1, 0)))]  # fmt: skip
MODES = {"reflect": "reflect", "edge": "edge", "wrap": "wrap", "fill": "constant", "cut": "constant"}


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def some_table(n: int, low: int, high: int, mode: str) -> padding.Table:
    """As NumPy continues an axis; "cut" takes samples away at its start."""
    fill = {"constant_values": -1} if MODES[mode] == "constant" else {}
    places = np.pad(np.arange(n), (low, high), MODES[mode], **fill).tolist()  # type: ignore[call-overload]
    if mode == "cut":
        return padding.Table((), n // 2, n, tuple(places[low + n :]))
    return padding.Table(tuple(places[:low]), 0, n, tuple(places[low + n :]))


def cases() -> list[tuple[Any, ...]]:
    return list(product(CASES, MODES, (("end", 1), ("start", 3), ("end", 2))))


def tables_of(shape: tuple[int, ...], pads: Any, mode: str) -> list[padding.Table]:
    size = shape[len(shape) - len(pads) :]
    return [some_table(n, low, high, mode) for n, (low, high) in zip(size, pads, strict=True)]


def taken(x: Array, tables: list[padding.Table], fill: float) -> Array:
    for axis, table in enumerate(tables, start=x.ndim - len(tables)):
        places = table.places
        shape = [-1 if k == axis else 1 for k in range(x.ndim)]
        x = np.where((places < 0).reshape(shape), x.dtype.type(fill), x.take(places, axis))
    return x


@pytest.mark.parametrize("dtype", MOVED, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_every_sample_is_the_one_that_its_table_names(isa: str, dtype: np.dtype[Any]) -> None:
    def check(case: tuple[Any, ...]) -> None:
        (shape, pads), mode, (where, crew) = case
        threads.set_num_threads(crew)
        values = (9 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
        tables = tables_of(shape, pads, mode)
        with guarded(values, where=where, readonly=True) as x, guarded_results(where):
            found = padding.padded(x, tables, 3.0)
        want = taken(values, tables, 3.0)
        assert found.shape == want.shape and found.tobytes() == want.astype(dtype).tobytes()

    with target.using(isa):
        run_guarded_cases(check, cases())


@pytest.mark.parametrize("dtype", ADDED, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_the_adjoint_adds_up_what_was_copied(isa: str, dtype: np.dtype[Any]) -> None:
    def check(case: tuple[Any, ...]) -> None:
        (shape, pads), mode, (where, crew) = case
        threads.set_num_threads(crew)
        tables = tables_of(shape, pads, mode)
        out = (*shape[: len(shape) - len(pads)], *[table.length for table in tables])
        values = np.random.default_rng(0).integers(-8, 9, out).astype(dtype)  # whose sums are exact
        wide = values.astype(np.float64)
        for axis, table in enumerate(tables, start=len(shape) - len(pads)):
            matrix = np.zeros((shape[axis], table.length))
            for k, place in enumerate(table.places):
                matrix[place, k] = place >= 0
            wide = np.moveaxis(np.tensordot(matrix, wide, (1, axis)), 0, axis)
        with guarded(values, where=where, readonly=True) as h, guarded_results(where):
            found = padding.added(h, tables, shape[len(shape) - len(pads) :])
        assert found.dtype == dtype and found.shape == shape
        np.testing.assert_array_equal(found.astype(np.float64), wide)

    with target.using(isa):
        run_guarded_cases(check, cases())


def test_other_layouts_and_the_same_bits_on_any_threads() -> None:
    x = np.random.default_rng(1).standard_normal((40, 30, 50)).astype("f")
    tables = [some_table(30, 2, 2, "reflect"), some_table(50, 1, 3, "reflect")]
    np.testing.assert_array_equal(padding.padded(x[:, ::-1], tables), taken(x[:, ::-1], tables, 0))
    h, made = taken(x, tables, 0), []
    for crew in (1, 2, 3):
        threads.set_num_threads(crew)
        made.append(padding.added(h, tables, (30, 50)).tobytes())
    assert made[0] == made[1] == made[2]
