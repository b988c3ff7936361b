"""Every walk through two layouts against NumPy's copy: bit for bit, between forbidden pages, on several threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lucid.kernels import jit, moving, target
from lucid.kernels.moving import contiguous, move
from lucid.kernels.runtime import threads
from tests.kernels.guard import guarded, run_guarded_cases

Array = np.ndarray[Any, Any]
ISAS = [isa.name for isa in target.cpu().runnable]
DTYPES = [np.dtype(t) for t in (np.float32, np.float64, np.int16, ml_dtypes.bfloat16, np.int64, np.complex64)]

#: A shape that lies in memory as it is, and the view of it that is moved.
CASES: dict[str, tuple[tuple[int, ...], Callable[[Array], Array]]] = {
    "turned": ((37, 141), lambda a: a.T),
    "turned, whole blocks": ((128, 64), lambda a: a.T),
    "channels last": ((3, 33, 5, 17), lambda a: a.transpose(0, 2, 3, 1)),
    "channels first": ((3, 5, 17, 33), lambda a: a.transpose(0, 3, 1, 2)),
    "heads": ((2, 9, 3, 31), lambda a: a.transpose(0, 2, 1, 3)),
    "all reversed": ((7, 3, 19, 5), lambda a: a.transpose(3, 2, 1, 0)),
    "few down": ((3, 2, 501), lambda a: a.transpose(0, 2, 1)),
    "few across": ((501, 3), lambda a: a.T),
    "a part": ((4, 9, 70), lambda a: a[:, 2:7, 3:]),
    "a turned part": ((4, 40, 70), lambda a: a[:, 2:39, 3:].transpose(0, 2, 1)),
    "rows of one number": ((5, 41, 1), lambda a: np.broadcast_to(a, (5, 41, 23))),
    "one number": ((), lambda a: np.broadcast_to(a, (3, 417))),
    "backwards": ((21, 67), lambda a: a[::-1]),
    "backwards along rows": ((21, 67), lambda a: a[:, ::-1]),
    "backwards along long rows": ((2, 2 * moving._TASK + 5), lambda a: a[:, ::-1]),
    "backwards all ways": ((3, 5, 16), lambda a: a[::-1, ::-1, ::-1]),
    "a part backwards": ((4, 9, 70), lambda a: a[:, 2:7, 60:3:-1]),
    "every other": ((21, 67), lambda a: a[:, ::2]),
    "long rows": ((3, 2 * moving._TASK + 5), lambda a: a[:, :-1]),
    "five axes": ((2, 3, 4, 5, 6), lambda a: a.transpose(4, 1, 3, 0, 2)),
    "channels to pixels": ((2, 3, 2, 3, 5, 7), lambda a: a.transpose(0, 1, 4, 2, 5, 3)),
    "pixels to channels": ((2, 3, 5, 2, 7, 3), lambda a: a.transpose(0, 1, 3, 5, 2, 4)),
    "two rows in turns": ((2, 141), lambda a: a.T),
    "parts of rows in turns": ((3, 4, 40), lambda a: a[:, 1:4, 5:].transpose(0, 2, 1)),
    "long rows in turns": ((2, 2 * moving._TASK + 5), lambda a: a.T),
    "long rows taken apart": ((moving._TASK + 5, 4), lambda a: a.T),
    "backwards in turns": ((5, 3, 37), lambda a: a[::-1, ::-1].transpose(0, 2, 1)),
    "blocks to pixels": ((3, 5, 2, 2, 37), lambda a: a.transpose(1, 0, 2, 4, 3)),
    "pixels to blocks": ((3, 5, 2, 37, 4), lambda a: a.transpose(2, 1, 0, 4, 3)),
    "six axes": ((2, 3, 2, 3, 2, 5), lambda a: a.transpose(4, 1, 3, 5, 2, 0)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(moving, "LEAST", 1)
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def numbers(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """All bits at random, what stands for NaN among them."""
    words = np.random.default_rng(len(shape)).integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    return words.view(dtype).reshape(shape)


def same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_every_layout_stays_between_guard_pages(isa: str, dtype: np.dtype[Any]) -> None:
    def check(case: tuple[str, Any, int]) -> None:
        name, where, crew = case
        shape, cut = CASES[name]
        threads.set_num_threads(crew)
        a = numbers(shape, dtype)
        with guarded(a, where=where, readonly=True) as source, guarded(cut(a).shape, dtype, where) as to:
            move(cut(source), to)
            assert same(to, cut(a))

    with target.using(isa):
        run_guarded_cases(
            check, [(name, where, crew) for name in CASES for where in ("end", "start") for crew in (1, 3)]
        )


@pytest.mark.parametrize("isa", ISAS)
def test_parts_of_a_result_leave_the_rest_alone(isa: str) -> None:
    a = numbers((4, 11, 35), np.dtype(np.float32))
    with target.using(isa):
        for view in (a, a.transpose(0, 2, 1).copy().transpose(0, 2, 1)):
            to = np.zeros((4, 17, 40), np.float32)
            move(view, to[:, 3:14, 2:37])
            assert same(to[:, 3:14, 2:37], a)
            to[:, 3:14, 2:37] = 0
            assert not to.any()


def test_whole_arrays_are_not_copied_and_what_has_no_neighbours_is_numpys() -> None:
    a = np.ones((30, 40))
    assert contiguous(a) is a
    before = jit.kernel_count()
    assert same(contiguous(a[:, ::2]), a[:, ::2])
    odd = np.ones((9, 9), np.dtype([("x", "i1"), ("y", "f4")]))["y"]
    assert same(contiguous(odd.T), odd.T)
    assert jit.kernel_count() == before
