"""What this machine is and what it can do at most: its fused multiply-adds and its copies, a second."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np

ROOT = Path(__file__).parents[1]
ACCUMULATORS = 12
STEPS = 1 << 21
COPY_FLOATS = 16 << 20


def cpu_name() -> str:
    """The processor as the system names it, with its vector extension."""
    features = llvm.get_host_cpu_features()
    vectors = next((name for name in ("avx512f", "avx2", "neon") if features.get(name)), "scalar")
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()} ({llvm.get_host_cpu_name()}, {vectors})"
    return f"{platform.machine()} ({llvm.get_host_cpu_name()}, {vectors})"


def commit() -> str:
    """The commit the working tree is at, marked where the tree differs from it."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def on_threads(work: Callable[[int], None], threads: int) -> float:
    """Seconds until ``work`` is done on every thread. The work must release the interpreter's lock."""
    crew = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    begin = time.perf_counter()
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    return time.perf_counter() - begin


class Peaks:
    """The two ceilings of the roofline, to be measured again beside every row: they move with the machine's load."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._lanes = 16 if llvm.get_host_cpu_features().get("avx512f") else 8 if os.uname().machine == "x86_64" else 4
        self._fma, self._keep = _compile_fma(self._lanes)
        self._source = [np.ones(COPY_FLOATS // threads, np.float32) for _ in range(threads)]
        self._target = [np.zeros_like(part) for part in self._source]

    def flop_per_s(self) -> float:
        """Multiplications and additions a second of independent fused multiply-adds that touch no memory."""
        seconds = min(on_threads(lambda _: self._fma(STEPS), self._threads) for _ in range(2))
        return 2 * ACCUMULATORS * self._lanes * STEPS * self._threads / seconds

    def bytes_per_s(self) -> float:
        """Bytes read and written a second by a copy far larger than the caches."""

        def copy(i: int) -> None:
            np.copyto(self._target[i], self._source[i])

        return 2 * 4 * COPY_FLOATS / min(on_threads(copy, self._threads) for _ in range(2))


def _compile_fma(lanes: int) -> tuple[Callable[[int], None], object]:
    """A loop of independent fused multiply-adds, enough of them to hide their latency."""
    vector = f"<{lanes} x float>"
    phis = "\n".join(
        f"  %a{i} = phi {vector} [ zeroinitializer, %entry ], [ %b{i}, %loop ]" for i in range(ACCUMULATORS)
    )
    fmas = "\n".join(
        f"  %b{i} = call {vector} @llvm.fma.v{lanes}f32({vector} %x, {vector} %x, {vector} %a{i})"
        for i in range(ACCUMULATORS)
    )
    sums = "\n".join(
        f"  %s{i} = fadd {vector} {'%b0' if i == 1 else f'%s{i - 1}'}, %b{i}" for i in range(1, ACCUMULATORS)
    )
    text = f"""
declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})
@sink = global {vector} zeroinitializer
define void @fma(i64 %steps) {{
entry:
  %x = load volatile {vector}, ptr @sink
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{phis}
{fmas}
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %steps
  br i1 %more, label %loop, label %exit
exit:
{sums}
  store volatile {vector} %s{ACCUMULATORS - 1}, ptr @sink
  ret void
}}
"""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(text)
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        features["prefer-256-bit"] = False
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=2
    )
    engine = llvm.create_mcjit_compiler(module, target)
    engine.finalize_object()
    # ctypes releases the interpreter's lock around a call.
    return ctypes.CFUNCTYPE(None, ctypes.c_int64)(engine.get_function_address("fma")), (engine, module)
