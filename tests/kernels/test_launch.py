from __future__ import annotations

import gc
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from lucid.core.errors import PlanError
from lucid.kernels import jit, select, target
from lucid.kernels.algorithms import weight_grad_kernel
from lucid.kernels.isa import AVX512
from lucid.kernels.launch import KEPT, WORKSPACE, Launch, address, in_order
from lucid.kernels.runtime import threads
from tests.kernels.algorithms.patches import Case
from tests.kernels.convolution_fuzz import tasks_backwards, using_threads
from tests.kernels.entry import entry


def test_address_is_where_the_first_element_lies() -> None:
    a = np.zeros((4, 6))
    for view in (a, a[2:], a[:, ::-1], a[1:1], a.T, np.asarray(3.0)):
        assert address(view) == view.ctypes.data


def test_a_kernel_s_numbers_are_told_by_name() -> None:
    assert in_order(("rows", "columns"), {"columns": 3, "rows": 2}) == [2, 3]
    with pytest.raises(PlanError, match=r"lack \['columns'\] and have \[\]"):
        in_order(("rows", "columns"), {"rows": 2})
    with pytest.raises(PlanError, match=r"lack \[\] and have \['lines'\]"):
        in_order(("rows",), {"rows": 2, "lines": 3})


@pytest.mark.parametrize("algorithm", ["weight_grad", "tap_by_tap"])
def test_a_number_that_no_kernel_reads_ends_the_plan(monkeypatch: pytest.MonkeyPatch, algorithm: str) -> None:
    problem = Case(2, 3, 4, (5, 5), (3, 3), dilation=2, padding=2).problem("grad_weight")
    select.bound(problem, algorithm)
    fewer = tuple(name for name in weight_grad_kernel.FIELDS if name != "swapped")
    monkeypatch.setattr(weight_grad_kernel, "FIELDS", fewer)
    with pytest.raises(PlanError, match=r"have \['swapped'\]"):
        select.bound(problem, algorithm)


def test_a_scalar_has_no_address() -> None:
    with pytest.raises(TypeError, match="address: float64 is no array"):
        address(np.float64(1))  # type: ignore[arg-type]


# Two steps: kept[i] = w[i] + bias[i], then y[i] = kept[i] * factor, through the thread's own.
FIELDS = ("ptr w", "ptr bias", "ptr y", "ptr kept", "ptr all", "i64 factor")
MAKE = """
  %w_i = getelementptr i64, ptr %w, i64 %i
  %bias_i = getelementptr i64, ptr %bias, i64 %i
  %kept_i = getelementptr i64, ptr %kept, i64 %i
  %a = load i64, ptr %w_i
  %b = load i64, ptr %bias_i
  %sum = add i64 %a, %b
  store i64 %sum, ptr %kept_i
"""
COMPUTE = """
  %own = getelementptr [8 x i64], ptr %all, i64 %thread
  %kept_i = getelementptr i64, ptr %kept, i64 %i
  %k = load i64, ptr %kept_i
  store i64 %k, ptr %own
  %again = load i64, ptr %own
  %product = mul i64 %again, %factor
  %y_i = getelementptr i64, ptr %y, i64 %i
  store i64 %product, ptr %y_i
"""
KERNELS = entry("make", *FIELDS, body=MAKE) + entry("compute", *FIELDS, body=COMPUTE)
FACTOR = 7


WAKES = 6  #: where a region's record says whether it wakes anybody


def bound(count: int, own_bytes: int = 64, most_threads: int = 3) -> Launch:
    code = jit.compile_text(KERNELS)
    return Launch(
        [(code.address("make"), count, 3), (code.address("compute"), count, 2)],
        (0, 0, 0, 0, 0, FACTOR),
        (1, 2, 3, KEPT, WORKSPACE),
        kept_bytes=-(-count * 8 // 64) * 64,
        own_bytes=own_bytes,
        most_threads=most_threads,
    )


@pytest.fixture(params=["native", "python"])
def pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_pool", {"native": threads._pool, "python": threads.PythonPool()}[request.param])


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("count", [1, 5, 64, 1000])
@pytest.mark.parametrize("own_bytes", [64, 1 << 16])
def test_steps_see_their_arrays_and_their_workspace(count: int, own_bytes: int) -> None:
    w, bias, y = (np.arange(count) * n for n in (1, 10, 0))
    bound(count, own_bytes)(None, w, bias, y)
    assert (y == 11 * FACTOR * np.arange(count)).all()


@pytest.mark.usefixtures("pool")
def test_the_halves_are_the_whole() -> None:
    w, bias, y, kept = np.arange(50), np.ones(50, np.int64), np.zeros(50, np.int64), np.zeros(56, np.int64)
    halves = bound(50).halves()
    assert halves is not None
    assert halves.kept_bytes == kept.nbytes
    halves.make(None, w, bias, None, kept)
    halves.compute(None, w, bias, y, kept)
    assert (kept[:50] == w + 1).all()
    assert (y == FACTOR * (w + 1)).all()


def test_what_keeps_nothing_has_no_halves() -> None:
    assert Launch([(0, 1, 1)], (0,), (3,), most_threads=1).halves() is None


def test_too_few_arrays_are_refused() -> None:
    with pytest.raises(TypeError, match="launch: 4 arrays are needed, not 3"):
        bound(5)(None, np.arange(5), np.arange(5))


WRONG = {
    "None": (None, "not NoneType"),
    "a number": (3, "not int"),
    "every other": (np.arange(10)[::2], "not one of other strides"),
}


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("place", [1, 2, 3])
def test_what_is_no_contiguous_array_is_refused(kind: str, place: int) -> None:
    wrong, told = WRONG[kind]
    arrays: list[Any] = [None, np.arange(5), np.arange(5), np.full(5, -1)]
    kept = arrays[3]
    arrays[place] = wrong
    with pytest.raises(TypeError, match=f"launch: argument {place} must be a C-contiguous array, {told}"):
        bound(5)(*arrays)
    assert (kept == -1).all()


class Derived(np.ndarray[Any, Any]):
    pass


@pytest.mark.usefixtures("pool")
def test_arrays_of_derived_types_are_taken() -> None:
    y = np.zeros(5, np.int64)
    bound(5)(None, np.arange(5).view(Derived), np.zeros(5, np.int64), y.view(Derived))
    assert (y == FACTOR * np.arange(5)).all()


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("size", ["small", "large", "shared"])
def test_a_method_runs_what_the_region_runs_and_leaves_the_rest_to_another(size: str) -> None:
    """Regions that find workers and workspace run in native code alone; of others nothing but what is called."""
    region = bound(50, *{"small": (64, 1), "large": (1 << 18, 1), "shared": (64, 3)}[size])
    others: list[Any] = []

    def otherwise(*arrays: Any) -> None:
        others.append(arrays)
        region(*(None if a is None else np.ascontiguousarray(a) for a in arrays))

    run = region.method(otherwise)
    w, bias, y = np.arange(50), np.ones(50, np.int64), np.zeros(50, np.int64)
    region(None, w, bias, y)  # hires
    y[...] = 0
    run(None, w, bias, y)
    assert (y == FACTOR * (w + 1)).all()
    assert len(others) == (size == "large" or isinstance(threads._pool, threads.PythonPool))
    others.clear()
    run(None, np.arange(100)[::2], bias, y)
    assert len(others) == 1
    assert (y == FACTOR * (2 * w + 1)).all()
    for wrong in ((None, w, bias), (None, w, bias, None)):
        with pytest.raises(TypeError, match="launch: "):
            run(*wrong)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_method_follows_the_number_of_threads(count: int) -> None:
    """Who must hire first is Python, after a change of number as after a fork; then native code goes on alone."""
    others: list[Any] = []
    region = bound(50)

    def otherwise(*arrays: Any) -> None:
        others.append(arrays)
        region(*arrays)

    run = region.method(otherwise)
    w, bias, y = np.arange(50), np.ones(50, np.int64), np.zeros(50, np.int64)
    with using_threads(1), using_threads(count):  # by one thread fewer, the workers go home
        for _ in range(3):
            y[...] = 0
            run(None, w, bias, y)
            assert (y == FACTOR * (w + 1)).all()
    assert len(others) == (count > 1)


def test_a_method_holds_no_more_than_it_is_given() -> None:
    """Calls that fail and calls that do not leave reference counts as they were."""
    y, w = np.zeros(5, np.int64), np.arange(5)
    run = bound(5, most_threads=1).method(lambda *arrays: 1 / 0)
    gc.collect()  # what other tests left holds None too
    before = [sys.getrefcount(x) for x in (None, y, w)]
    for _ in range(1000):
        run(None, w, w, y)
        with pytest.raises(ZeroDivisionError):
            run(None, w, None, y)
    assert [sys.getrefcount(x) - n for x, n in zip((None, y, w), before, strict=True)] == pytest.approx([0] * 3, abs=20)


def _sleeps() -> list[str]:
    """How often each of the pool's workers went to sleep, once all do."""
    while True:
        folders = sorted(Path("/proc/self/task").iterdir())
        workers = [folder for folder in folders if (folder / "comm").read_text().startswith("lucid")]
        every = [(folder / "status").read_text() for folder in workers]
        if all("State:\tS" in status for status in every):
            return [status.split("\nvoluntary_ctxt_switches:")[1].split()[0] for status in every]
        time.sleep(1e-3)


def test_few_tasks_are_not_little_work() -> None:
    made, computed = (step[0] for step in bound(64).steps)

    def wakes(threads_at_most: int, tasks: int) -> bool:
        steps = [(made, 64, 3), (computed, tasks, 2)]
        region = Launch(steps, (0,) * 6, (1, 2, 3, KEPT, WORKSPACE), most_threads=threads_at_most)
        return bool(region.bound[0][WAKES])

    assert wakes(3, 3), "as many threads as the step has tasks"
    assert not wakes(2, 3), "fewer, as it is worth no more"


@pytest.mark.parametrize(
    ("name", "worth", "tasks", "chunk"),
    [
        ("znver4", 11, 36, 6), ("znver4", 11, 60, 10), ("znver4", 11, 32, 4), ("znver4", 11, 5, 1),
        ("znver4", 12, 36, 1), ("znver5", 2, 36, 1),
    ],
)  # fmt: skip
def test_little_work_goes_by_few_chunks(
    name: str, worth: int, tasks: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which two threads have as many tasks each; other work, and other CPUs', by the chunks that are asked for."""
    monkeypatch.setattr(target, "cpu", lambda: target.CPU(name, (AVX512,), 32 << 10, 1 << 20, 32 << 20))
    monkeypatch.setattr(target, "isa", lambda: AVX512)
    region = Launch([(0, tasks, 1), (0, 40, 20)], (), (), most_threads=4, worth=worth)
    assert [step[2] for step in region.steps] == [chunk, 20]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_little_work_wakes_nobody_until_there_is_a_row_of_it() -> None:
    w, bias, y = (np.ones(64, np.int64) for _ in range(3))
    little, large = bound(64, most_threads=2), bound(64, most_threads=64)

    def wakes(region: Launch) -> bool:
        before = _sleeps()
        region(None, w, bias, y)
        assert (y == 2 * FACTOR).all()
        return _sleeps() != before

    with using_threads(2):
        assert wakes(large)
        while not wakes(little):
            pass
        assert [wakes(little) for _ in range(16)] == [False] * 15 + [True]
    threads._pool.shrink()


def test_tasks_run_backwards_where_tests_ask_for_it() -> None:
    body = """
  store i64 %i, ptr %last
"""
    code = jit.compile_text(entry("note", "ptr last", body=body))
    region = Launch([(code.address("note"), 10, 3)], (0,), (0,), most_threads=2)
    last = np.zeros(1, np.int64)
    with tasks_backwards():
        region(last)
    assert last[0] == 2  # of the chunk that is first


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("most_threads", [1, 3])
def test_python_threads_call_at_once(most_threads: int) -> None:
    region, wrong = bound(200, most_threads=most_threads), []
    run = region.method(region)

    def work(n: int) -> None:
        w, bias, y = np.full(200, n), np.zeros(200, np.int64), np.zeros(200, np.int64)
        for _ in range(200):
            y[...] = 0
            run(None, w, bias, y)
            wrong.extend(y[y != n * FACTOR])

    workers = [Thread(target=work, args=(n,)) for n in range(1, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
