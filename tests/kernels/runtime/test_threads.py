"""The pool: every task once, in every circumstance; nothing hangs, nothing crashes, nothing of the caller's changes."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lucid.kernels import jit
from lucid.kernels.runtime import threads
from tests.kernels.entry import entry
from tests.kernels.guard import run_guarded

REST = """
define internal void @rest(i64 %pauses) {
entry:
  br label %check
check:
  %n = phi i64 [0, %entry], [%m, %again]
  %more = icmp ult i64 %n, %pauses
  br i1 %more, label %again, label %out
again:
  call void @llvm.x86.sse2.pause()
  %m = add i64 %n, 1
  br label %check
out:
  ret void
}
declare void @llvm.x86.sse2.pause()
"""

# Counts every task, and notes which slot did it; task i takes i mod 2 times `pauses`.
MARK = """
  %odd = and i64 %i, 1
  %long = mul i64 %odd, %pauses
  call void @rest(i64 %long)
  %count = getelementptr i64, ptr %counts, i64 %i
  %old = atomicrmw add ptr %count, i64 1 seq_cst
  %slot = getelementptr i64, ptr %slots, i64 %i
  store i64 %thread, ptr %slot
"""

# Each call waits until so many are inside at once, or notes after a second it did not.
MEET = """
  %old = atomicrmw add ptr %count, i64 1 seq_cst
  br label %loop
loop:
  %n = phi i64 [0, %task], [%m, %again]
  %now = load atomic i64, ptr %count acquire, align 8
  %met = icmp uge i64 %now, %many
  br i1 %met, label %met_, label %again
again:
  call void @rest(i64 100)
  %m = add i64 %n, 1
  %late = icmp ugt i64 %m, 400000
  br i1 %late, label %miss, label %loop
miss:
  store i64 1, ptr %missed
  br label %met_
met_:
"""

# target[i] = 3 source[(7 i + 1) mod how many] + 1: every task reads others' results.
MIX = """
  %i7 = mul i64 %i, 7
  %j7 = add i64 %i7, 1
  %j = urem i64 %j7, %many
  %from = getelementptr i64, ptr %source, i64 %j
  %value = load i64, ptr %from
  %three = mul i64 %value, 3
  %result = add i64 %three, 1
  %to = getelementptr i64, ptr %target, i64 %i
  store i64 %result, ptr %to
"""

# y = 2 (x / 2) with denormals as this thread treats them, once all threads are there.
SCALE = """
  call void @meet(ptr %fields, i64 0, i64 1, i64 %thread)
  %from = getelementptr float, ptr %x, i64 %i
  %v = load volatile float, ptr %from
  %w = fmul float %v, 0.5
  %z = fmul float %w, 2.0
  %to = getelementptr float, ptr %y, i64 %i
  store float %z, ptr %to
"""
# Which slot did a task, of as many as there are threads: each waits for the others', so a thread does one.
SEAT = """
  call void @meet(ptr %fields, i64 0, i64 1, i64 %thread)
  %slot = getelementptr i64, ptr %slots, i64 %i
  store i64 %thread, ptr %slot
"""
ROOM = ("ptr count", "i64 many", "ptr missed")
KERNELS = (
    REST
    + entry("mark", "ptr counts", "ptr slots", "i64 pauses", body=MARK)
    + entry("meet", *ROOM, body=MEET)
    + entry("mix", "ptr source", "ptr target", "i64 many", body=MIX)
    + entry("seat", *ROOM, "ptr slots", body=SEAT)
    + entry("scale", *ROOM, "ptr x", "ptr y", body=SCALE)
)

CONTROL = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
define void @get(ptr %cell) {
  call void @llvm.x86.sse.stmxcsr(ptr %cell)
  ret void
}
define void @set(ptr %cell) {
  call void @llvm.x86.sse.ldmxcsr(ptr %cell)
  ret void
}
"""

native = pytest.mark.parametrize("pool", ["native"], indirect=True)


@cache
def kernels():
    return jit.compile_text(KERNELS)


@pytest.fixture(params=["native", "python"], autouse=True)
def pool(request, monkeypatch):
    """Every test runs on the pool of futexes and on the one for systems without."""
    made = {"native": threads._pool, "python": threads.PythonPool()}[request.param]
    monkeypatch.setattr(threads, "_pool", made)
    yield made
    made.shrink()
    assert workers_alive([]) == []


def workers_alive(expected):
    """Names of the pool's threads in the system's eyes, which sees one for a moment after it was joined."""
    names = None
    for _ in range(1000):
        names = sorted(n for n in map(thread_name, os.listdir("/proc/self/task")) if n.startswith("lucid"))
        if names == expected:
            break
        time.sleep(1e-3)
    return names


def thread_name(task):
    try:
        return Path(f"/proc/self/task/{task}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def fields(*arrays):
    return (ctypes.c_int64 * len(arrays))(*(a.ctypes.data if isinstance(a, np.ndarray) else a for a in arrays))


def marked(tasks, pauses=0, **how):
    """Counts of every task and the slots that did them, with room around to see overruns."""
    counts, slots = np.zeros(tasks + 16, np.int64), np.full(tasks + 16, -1)
    threads.run(kernels().address("mark"), fields(counts, slots, pauses), tasks, **how)
    assert not counts[tasks:].any()
    return counts[:tasks], slots[:tasks]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # one pool for all examples is meant
@given(tasks=st.integers(0, 200), chunk=st.integers(0, 250), workers=st.integers(1, 5))
def test_every_task_runs_once(tasks, chunk, workers):
    counts, slots = marked(tasks, chunk=chunk, threads=workers)
    assert (counts == 1).all()
    assert ((slots >= 0) & (slots < workers)).all()


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("tasks, chunk", [(1, 1), (7, 7), (7, 8), (1000, 1), (1000, 64), (3, 1 << 62)])
def test_every_task_runs_once_at_the_edges(tasks, chunk, workers):
    counts, slots = marked(tasks, chunk=chunk, threads=workers)
    assert (counts == 1).all() and (slots < workers).all()
    if chunk >= tasks:
        assert (slots == 0).all()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_chunk_of_none_is_a_run_for_each_thread(workers):
    counts, slots = marked(100, chunk=0, threads=workers, pauses=100)
    assert (counts == 1).all()
    changes = [n for n in range(1, 100) if slots[n] != slots[n - 1]]
    assert set(changes) <= {-(-100 // workers) * n for n in range(1, workers)}


def test_fields_may_be_an_address():
    counts, slots = np.zeros(5, np.int64), np.zeros(5, np.int64)
    table = fields(counts, slots, 0)
    threads.run(kernels().address("mark"), ctypes.addressof(table), 5)
    assert (counts == 1).all()


def meets(workers):
    """Whether so many threads take part in one region."""
    count, missed = np.zeros(1, np.int64), np.zeros(1, np.int64)
    threads.run(kernels().address("meet"), fields(count, workers, missed), workers, threads=workers)
    return count[0] == workers and not missed[0]


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_threads_really_run_at_once_also_more_than_cores_and_after_a_sleep(workers):
    for _ in range(3):
        assert meets(workers)
        time.sleep(0.005)


@native
def test_no_more_threads_take_part_than_asked_even_if_more_wake_up(pool):
    assert meets(4)
    time.sleep(0.005)
    pool._native["hire"](1)  # the pool takes its three sleepers for one, and so wakes them all
    for _ in range(20):
        _, slots = marked(40, pauses=2000, threads=2)
        assert set(slots) <= {0, 1}
        time.sleep(0.001)


@native
def test_who_meets_its_caller_on_a_core_leaves_it_and_is_free_to_come_back():
    part = threads._functions(True, {"part": (None, ctypes.c_int32)})["part"]
    here, allowed = ctypes.CDLL(None).sched_getcpu, os.sched_getaffinity(0)
    left = []
    for core in sorted(allowed):
        os.sched_setaffinity(0, {core})
        os.sched_setaffinity(0, allowed)
        before = here()
        part(before)
        left.append(here() != before)
        assert os.sched_getaffinity(0) == allowed
    assert any(left) == (len(allowed) > 1)  # the system may send one back at any time


@native
def test_who_has_one_core_stays_there():
    part = threads._functions(True, {"part": (None, ctypes.c_int32)})["part"]
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        part(min(allowed))
        assert os.sched_getaffinity(0) == {min(allowed)}
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("bad", [{"tasks": -1}, {"tasks": 1, "chunk": -1}, {"tasks": -2, "chunk": 0}])
def test_bad_sizes_are_refused(bad):
    with pytest.raises(ValueError, match=r"run: tasks=.* and chunk=.* must be at least 0"):
        threads.run(kernels().address("mark"), 0, **bad)
    with pytest.raises(ValueError, match=r"run_steps: tasks=.* and chunk=.* must be at least 0"):
        threads.run_steps([(kernels().address("mark"), 0, bad["tasks"], bad.get("chunk", 1))])


@pytest.mark.parametrize("bad", [0, -1])
def test_bad_thread_counts_are_refused(bad):
    with pytest.raises(ValueError, match=f"set_num_threads: threads={bad} must be at least 1"):
        threads.set_num_threads(bad)
    with pytest.raises(ValueError, match=f"run: threads={bad} must be at least 1"):
        threads.run(kernels().address("mark"), 0, 0, threads=bad)


def test_a_thread_count_is_an_integer():
    with pytest.raises(TypeError, match="set_num_threads: threads='2' must be an int"):
        threads.set_num_threads("2")


# Steps


def mixed(values, rounds):
    many = len(values)
    for _ in range(rounds):
        values = 3 * values[(7 * np.arange(many) + 1) % many] + 1
    return values


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("many, chunk", [(1, 1), (64, 1), (1000, 16), (5000, 5000)])
def test_a_step_sees_all_of_the_one_before(many, chunk, workers):
    first = np.random.default_rng(0).integers(0, 9, many)
    buffers = [first.copy(), np.empty(many, np.int64)]
    tables = [fields(buffers[i % 2], buffers[(i + 1) % 2], many) for i in range(6)]
    mix = kernels().address("mix")
    threads.run_steps([(mix, table, many, chunk) for table in tables], threads=workers)
    np.testing.assert_array_equal(buffers[0], mixed(first, 6))


@native
@pytest.mark.parametrize("workers", [2, 3])
def test_a_thread_begins_with_the_same_share_of_every_step(pool, workers):
    count, missed = np.zeros((50, 8), np.int64), np.zeros(1, np.int64)
    slots = np.full((50, workers), -1)
    seats = [fields(place, workers, missed, row) for place, row in zip(count, slots, strict=True)]
    threads.run_steps([(kernels().address("seat"), seat, workers, 1) for seat in seats], threads=workers)
    assert not missed[0]
    assert slots[0, 0] == 0 and (slots == slots[0]).all()


@pytest.mark.parametrize("pauses", [100, 20_000])  # short enough to spin, long enough to sleep
def test_who_is_early_waits_for_who_is_late(pauses):
    for _ in range(20):
        count, missed = np.zeros(1, np.int64), np.zeros(1, np.int64)
        counts, slots, copy = np.zeros(2, np.int64), np.zeros(2, np.int64), np.zeros(2, np.int64)
        together = kernels().address("meet"), fields(count, 2, missed), 2, 1
        slowly = kernels().address("mark"), fields(counts, slots, pauses), 2, 1
        look = kernels().address("mix"), fields(counts, copy, 2), 2, 1
        threads.run_steps([together, slowly, look], threads=2)
        assert list(copy) == [4, 4]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_steps_may_differ_in_size_and_be_empty(workers):
    counts, slots = np.zeros(300, np.int64), np.zeros(300, np.int64)
    mark, table = kernels().address("mark"), fields(counts, slots, 0)
    steps = [(mark, table, n, c) for n, c in [(0, 1), (300, 7), (0, 5), (1, 1), (299, 1), (0, 1)]]
    threads.run_steps(steps, threads=workers)
    np.testing.assert_array_equal(counts, [3] + [2] * 298 + [1])
    threads.run_steps([], threads=workers)


# Many callers


def test_python_threads_may_compute_at_once():
    failures = []

    def compute(seed):
        rng = np.random.default_rng(seed)
        for _ in range(300):
            tasks, chunk, workers = (int(rng.integers(1, n)) for n in (100, 20, 4))
            counts, slots = marked(tasks, chunk=chunk, threads=workers)
            if (counts != 1).any() or (slots >= workers).any():
                failures.append((tasks, chunk, workers))

    callers = [threading.Thread(target=compute, args=(seed,)) for seed in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failures


def test_who_finds_the_pool_busy_computes_alone():
    count, missed = np.zeros(1, np.int64), np.zeros(1, np.int64)
    table = fields(count, 100, missed)
    owner = threading.Thread(target=threads.run, args=(kernels().address("meet"), table, 2), kwargs={"threads": 2})
    owner.start()
    while count[0] < 2:
        time.sleep(0)
    _, slots = marked(100, pauses=100, threads=2)
    count[0] = 100
    owner.join()
    assert (slots == 0).all()


def test_many_regions_in_a_row_and_after_sleeps():
    counts, slots = np.zeros(8, np.int64), np.zeros(8, np.int64)
    mark, table = kernels().address("mark"), fields(counts, slots, 0)
    for _ in range(2000):
        threads.run(mark, table, 8, threads=2)
    for _ in range(20):
        time.sleep(0.002)
        threads.run(mark, table, 8, threads=3)
    assert (counts == 2020).all()


# Settings


def test_the_number_of_threads_can_change():
    before = threads.get_num_threads()
    try:
        for n in (1, 3, 2, 5, 1, 2):
            threads.set_num_threads(n)
            assert threads.get_num_threads() == n
            counts, slots = marked(200, chunk=3)
            assert (counts == 1).all() and (slots < n).all()
    finally:
        threads.set_num_threads(before)


@native
def test_fewer_threads_send_workers_home(pool):
    before = threads.get_num_threads()
    try:
        threads.set_num_threads(4)
        marked(100)
        assert workers_alive(three := ["lucid-1", "lucid-2", "lucid-3"]) == three
        threads.set_num_threads(2)
        marked(100)
        assert workers_alive(["lucid-1"]) == ["lucid-1"]
    finally:
        threads.set_num_threads(before)


@native
def test_no_more_threads_start_than_there_are_chunks(pool):
    marked(10, chunk=10, threads=3)
    assert workers_alive([]) == []
    marked(20, chunk=10, threads=1000)
    assert workers_alive(["lucid-1"]) == ["lucid-1"]


@native
def test_signals_go_to_pythons_threads_but_faults_to_who_faults(pool):
    assert meets(2)
    blocked = [blocked_signals(task) for task in os.listdir("/proc/self/task") if thread_name(task) == "lucid-1"]
    assert len(blocked) == 1
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD} <= blocked[0]
    assert not {signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGBUS} & blocked[0]


def blocked_signals(task):
    lines = Path(f"/proc/self/task/{task}/status").read_text().splitlines()
    mask = int(next(line.split()[1] for line in lines if line.startswith("SigBlk")), 16)
    return {number for number in signal.valid_signals() if mask >> (number - 1) & 1}


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("asked, want", [("1", 1), ("", None), ("100000", None)])
@native
def test_the_environment_bounds_the_default(pool, asked, want):
    code = "from lucid.kernels.runtime import get_num_threads; print(get_num_threads())"
    assert int(python(code, LUCID_NUM_THREADS=asked).stdout) == (want or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("asked", ["0", "-2", "two", "1.5"])
@native
def test_a_wrong_environment_is_refused(pool, asked):
    done = python("from lucid.kernels.runtime import get_num_threads; get_num_threads()", LUCID_NUM_THREADS=asked)
    assert f"LUCID_NUM_THREADS={asked!r} must be a number of threads, at least 1" in done.stderr


@native
def test_importing_loads_no_llvm_and_starts_nothing(pool):
    code = "import sys, lucid.kernels.runtime, threading; print('llvmlite' in sys.modules, threading.active_count())"
    assert python(code).stdout.split() == ["False", "1"]


# Fork and exit


def compute():
    for workers in (2, 3, 1, 2):
        for _ in range(20):
            assert (marked(50, threads=workers)[0] == 1).all()
    assert meets(2)


def test_a_child_computes_after_the_parent_did_and_the_parent_after_it():
    for _ in range(5):
        compute()
        run_guarded(compute, seconds=20)
    run_guarded(lambda: run_guarded(compute), seconds=20)
    compute()


@native
def test_fork_while_other_threads_compute(pool):
    going = True

    def go():
        while going:
            marked(100, threads=2)

    callers = [threading.Thread(target=go) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        for _ in range(10):
            run_guarded(compute, seconds=20)
    finally:
        going = False
        for caller in callers:
            caller.join()


FIRST = """
import sys, threading
sys.path[:0] = {path!r}
from tests.kernels.runtime.test_threads import kernels, compute, run_guarded, marked
from tests.kernels import guard
kernels(), guard._handler()
threading.Thread(target=marked, args=(100,), kwargs=dict(threads=2)).start()
for _ in range(5):
    run_guarded(compute, seconds=20)
"""


@native
def test_fork_while_another_thread_starts_the_pool(pool):
    for _ in range(3):
        done = python(FIRST.format(path=sys.path))
        assert (done.returncode, done.stderr) == (0, "")


@native
def test_a_fork_that_python_does_not_know_of(pool):
    """The child's pool believes in workers that are not there: nobody waits for them."""
    compute()
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        try:
            os._exit(0 if (marked(50, threads=3)[0] == 1).all() else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def total(n):
    return int(marked(n, threads=2)[0].sum())


@native
def test_multiprocessing_by_fork(pool):
    assert total(10) == 10
    with multiprocessing.get_context("fork").Pool(2) as processes:
        assert processes.map(total, range(1, 20)) == list(range(1, 20))


EXIT = """
import ctypes, sys, threading
sys.path[:0] = {path!r}
from tests.kernels.runtime.test_threads import kernels, fields, marked, threads, np
def forever():
    while True:
        marked(100, threads=3)
kernels()
for _ in range({daemons}):
    threading.Thread(target=forever, daemon=True).start()
for _ in range(50):
    assert (marked(100, threads=3)[0] == 1).all()
{last}
"""


@pytest.mark.parametrize("last, status", [("", 0), ("sys.exit(3)", 3), ("1 / 0", 1), ("import os; os._exit(4)", 4)])
@pytest.mark.parametrize("daemons", [0, 2])
@native
def test_exit_is_clean(pool, daemons, last, status):
    done = python(EXIT.format(path=sys.path, daemons=daemons, last=last))
    assert done.returncode == status, done.stderr
    assert done.stderr == "" or "ZeroDivisionError" in done.stderr


# Numerics


FLAGS = 0x3F


def control(code, name, value=0):
    cell = (ctypes.c_uint32 * 4)(value)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.address(name))(cell)
    return cell[0]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("mxcsr", [0x1F80, 0x7F80, 0x5FBF])  # as Python has it, rounding to zero, flags raised
def test_the_callers_control_word_comes_back(mxcsr, workers):
    code, mark = jit.compile_text(CONTROL), kernels().address("mark")
    table = fields(np.zeros(100, np.int64), np.zeros(100, np.int64), 0)
    before = control(code, "get")
    try:
        control(code, "set", mxcsr)
        threads.run(mark, table, 100, threads=workers)
        after = control(code, "get")
    finally:
        control(code, "set", before)
    assert after & mxcsr == mxcsr
    assert after & ~FLAGS == mxcsr & ~FLAGS  # Python's own arithmetic may raise more flags


@pytest.mark.parametrize("workers", [1, 3])
def test_denormals_are_zero_in_every_thread_and_only_there(workers):
    count, missed = np.zeros(1, np.int64), np.zeros(1, np.int64)
    x, y = np.full(workers, 1e-40, np.float32), np.full(workers, -1, np.float32)
    threads.run(kernels().address("scale"), fields(count, workers, missed, x, y), workers, threads=workers)
    assert not missed[0] and (y == 0).all()
    assert (x * np.float32(0.5) > 0).all()
