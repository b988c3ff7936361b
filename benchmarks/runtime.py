"""What the kernel runtime costs: parallel regions, waking, result memory. Run: ``python benchmarks/runtime.py``.

Figures are medians of calls measured in turns, and the range without the outer tenths: the machine may be shared. A
call of ``perf_counter_ns``, some 0.05 us, is part of each.
"""

from __future__ import annotations

import ctypes
import resource
import time
from collections.abc import Callable

import numpy as np

from lucid.kernels import jit
from lucid.kernels.runtime import memory, threads

ROUNDS, CALLS = 15, 500

# fields[0] dependent multiplications a task: work that takes time and touches no memory.
BUSY = """
define void @busy(ptr %fields, i64 %begin, i64 %end, i64 %thread) {
entry:
  %each = load i64, ptr %fields
  %tasks = sub i64 %end, %begin
  %count = mul i64 %tasks, %each
  br label %check
check:
  %i = phi i64 [0, %entry], [%next, %loop]
  %x = phi double [1.0, %entry], [%y, %loop]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %loop, label %out
loop:
  %y = fmul double %x, 0x3FF0000000000001
  %next = add i64 %i, 1
  br label %check
out:
  %odd = fcmp oeq double %x, 0.0
  br i1 %odd, label %never, label %done
never:
  store i64 0, ptr %fields
  br label %done
done:
  ret void
}
"""


def microseconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e3


def report(name: str, times: list[float]) -> None:
    low, middle, high = np.percentile(times, [10, 50, 90])
    print(f"  {name:<44} {middle:9.2f} us   ({low:.2f} to {high:.2f})")


def compare(title: str, cases: dict[str, Callable[[], object]]) -> None:
    """Prints the median, and the range without the outer tenths, of cases measured in turns."""
    print(f"\n{title}")
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, call in cases.items():
            times[name] += [microseconds(call) for _ in range(CALLS)][CALLS // 10 :]
    for name in cases:
        report(name, times[name])


def regions(busy: int) -> None:
    cores = threads.get_num_threads()
    empty_task, short = (ctypes.c_int64 * 1)(0), (ctypes.c_int64 * 1)(4000)
    python_pool = threads.PythonPool()
    step = (busy, short, 2 * cores, 1)
    compare(
        "a region, workers awake",
        {
            "one thread": lambda: threads.run(busy, empty_task, 2, threads=1),
            f"{cores} threads, {cores} empty tasks": lambda: threads.run(busy, empty_task, cores),
            f"{cores} threads, 64 empty tasks": lambda: threads.run(busy, empty_task, 64),
            f"{cores + 1} threads, 64 empty tasks": lambda: threads.run(busy, empty_task, 64, threads=cores + 1),
        },
    )
    compare(
        f"{2 * cores} tasks of a few microseconds",
        {
            "one thread": lambda: threads.run(busy, short, 2 * cores, threads=1),
            f"{cores} threads": lambda: threads.run(busy, short, 2 * cores),
            f"{cores} threads, three steps in one region": lambda: threads.run_steps([step] * 3),
            f"{cores} threads, three regions": lambda: [threads.run(*step[:3]) for _ in range(3)],
            f"{cores} Python threads": lambda: python_pool.run(busy, short, 2 * cores, 1, cores),
        },
    )
    python_pool.shrink()
    print("\nafter 5 ms of rest")
    for name, fields in (("empty tasks", empty_task), (f"{2 * cores} short tasks", short)):
        times = []
        for _ in range(100):
            time.sleep(0.005)
            times.append(microseconds(lambda fields=fields: threads.run(busy, fields, 2 * cores)))
        report(name, times)


def results() -> None:
    f32 = np.dtype(np.float32)
    compare(
        "an array, made and dropped",
        {
            "numpy.empty, 2 KiB": lambda: np.empty((8, 64), f32),
            "empty, 2 KiB": lambda: memory.empty((8, 64), f32),
            "numpy.empty, 1 MiB": lambda: np.empty((64, 64, 64), f32),
            "empty, 1 MiB": lambda: memory.empty((64, 64, 64), f32),
            "workspace, 2 x 1 MiB": lambda: memory.workspace(1 << 20, 2),
        },
    )
    print("\na 64 MiB result, filled")
    makers = {"numpy.empty": np.empty, "empty": memory.empty}
    for name, make in (*makers.items(), *makers.items(), *makers.items()):
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = time.perf_counter()
        make((16, 1 << 20), f32).fill(1)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        print(f"  {name:<44} {(time.perf_counter() - start) * 1e3:9.2f} ms   {faults} page faults")
    print(f"\n{memory.stats()}")


if __name__ == "__main__":
    code = jit.compile_text(BUSY)
    regions(code.address("busy"))
    results()
