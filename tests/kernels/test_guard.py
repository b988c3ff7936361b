"""The guard catches what it is there to catch."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from functools import cache

import numpy as np
import pytest

from lucid.kernels import jit
from lucid.kernels.runtime import memory, threads
from tests.kernels.guard import guarded, guarded_results, run_guarded, run_guarded_cases

POKE = """
define void @poke(ptr %fields, i64 %begin, i64 %end, i64 %thread) {
  %at = load ptr, ptr %fields
  store i8 7, ptr %at
  ret void
}
"""


@cache
def poker():
    return jit.compile_text(POKE)


def poke(address: int, workers: int = 1) -> None:
    """Writes a byte."""
    fields = (ctypes.c_int64 * 1)(address)
    threads.run(poker().address("poke"), fields, 100 * workers, threads=workers)


@pytest.mark.parametrize("where", ["end", "start"])
def test_an_array_inside_is_usable(where):
    def check():
        with guarded((3, 5), np.float32, where) as array:
            assert array.shape == (3, 5) and array.dtype == np.float32 and np.isnan(array).all()
            array[...] = 1
            poke(array.ctypes.data)
            poke(array.ctypes.data + array.nbytes - 1)

    run_guarded(check)


@pytest.mark.parametrize("size", [1, 7, 1023, 1024, 1025])
def test_one_byte_past_the_end_is_caught(size):
    def check():
        with guarded(size, np.float32, name="y") as array:
            poke(array.ctypes.data + array.nbytes)

    with pytest.raises(AssertionError, match=rf"SIGSEGV at byte 0 past the end of y float32\[{size}\]"):
        run_guarded(check)


@pytest.mark.parametrize("size", [0, 1, 7, 1023, 1024, 1025])
def test_one_byte_before_the_start_is_caught(size):
    def check():
        with guarded(size, np.float32, "start", name="y") as array:
            poke(array.ctypes.data - 1)

    with pytest.raises(AssertionError, match=rf"SIGSEGV at byte 1 before the start of y float32\[{size}\]"):
        run_guarded(check)


@pytest.mark.parametrize("make, name", [(memory.empty, "result"), (memory.workspace, "workspace")])
@pytest.mark.parametrize("where, off, words", [("end", 64, "byte 0 past the end"), ("start", -1, "byte 1 before")])
def test_results_and_workspaces_can_be_guarded(make, name, where, off, words):
    def check():
        with guarded_results(where):
            array = make(64, "u1") if make is memory.empty else make(64, 1)
            poke(array.ctypes.data)
            poke(array.ctypes.data + off)

    with pytest.raises(AssertionError, match=f"SIGSEGV at {words}.*{name} uint8"):
        run_guarded(check)
    assert memory.empty(5, "f4").base is None


def test_the_layout_forgets_arrays_that_died():
    def check():
        with guarded_results():
            for _ in range(2000):
                memory.empty(3, "f4")
            array = memory.empty(4, "f4")
            poke(array.ctypes.data + 20)

    with pytest.raises(AssertionError, match=r"byte 4 past the end of result float32\[4\]"):
        run_guarded(check)


def test_the_nearest_array_is_named():
    def check():
        with guarded(10, "u1", name="x"), guarded(9, "u1", name="w") as w, guarded(8, "u1", name="y"):
            poke(w.ctypes.data + 12)

    with pytest.raises(AssertionError, match=r"byte 3 past the end of w uint8\[9\]"):
        run_guarded(check)


def test_a_read_only_array_holds_the_values_and_refuses_writes():
    values = np.arange(12.0).reshape(3, 4)

    def check():
        with guarded(values, readonly=True, name="x") as array:
            np.testing.assert_array_equal(array, values)
            poke(array.ctypes.data + 5)

    with pytest.raises(AssertionError, match=r"SIGSEGV writing byte 5 of x float64\[3, 4\], which is read-only"):
        run_guarded(check)


def test_a_fault_on_a_worker_is_caught():
    def check():
        with guarded(4, "u1", name="y") as array:
            poke(array.ctypes.data + 4, workers=3)

    with pytest.raises(AssertionError, match="past the end of y"):
        run_guarded(check)


def test_an_exception_is_told_with_its_traceback():
    def check():
        raise ValueError("seven is too many")

    with pytest.raises(AssertionError, match=r"(?s)in check.*ValueError: seven is too many"):
        run_guarded(check)


def test_a_child_that_hangs_or_is_killed_is_reported():
    with pytest.raises(AssertionError, match="not done after 1 s"):
        run_guarded(lambda: time.sleep(30), seconds=1)
    with pytest.raises(AssertionError, match="killed by SIGKILL"):
        run_guarded(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_every_failing_case_is_named_and_the_others_run(tmp_path):
    def check(case):
        (tmp_path / str(case)).touch()
        with guarded(8, "u1", name="y") as array:
            poke(array.ctypes.data + (8 if case in (3, 5) else 0))
        assert case != 7

    with pytest.raises(AssertionError) as caught:
        run_guarded_cases(check, range(10))
    lines = [line for line in str(caught.value).splitlines() if line[:1].isdigit()]
    assert [line[:2] for line in lines] == ["3:", "5:", "7:"]
    assert len(list(tmp_path.iterdir())) == 10


def test_hundreds_of_cases_take_one_fork(monkeypatch):
    forks = []
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: forks.append(1) or fork())

    def check(size):
        with guarded(size, "f4") as end, guarded(size, "f4", "start", readonly=True) as start:
            assert end.shape == start.shape

    run_guarded_cases(check, range(500))
    assert len(forks) == 1
