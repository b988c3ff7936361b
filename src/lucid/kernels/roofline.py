"""What this machine can do at most: its multiply-add rate and its copy bandwidth, measured by kernels of their own.

Source: Williams, Waterman & Patterson, "Roofline", CACM 52(4), 2009.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lucid.kernels import jit
from lucid.kernels.algorithms.base import address, launch
from lucid.kernels.ir import BY_DTYPE, Module, Type, fma, i64, ptr, splat
from lucid.kernels.isa import ISA
from lucid.kernels.runtime import threads

_CHAINS = 12  #: independent accumulators: more than latency (4) times ports (2), fewer than any machine's registers
_TURNS = 200_000
_COPY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Roofline:
    """Peaks of ``threads`` threads together."""

    threads: int
    gflop_per_s: float
    copy_gb_per_s: float

    def bound_ns(self, flops: float, traffic_bytes: float) -> float:
        """The least time for so much arithmetic and so much traffic, whichever takes longer."""
        return max(flops / self.gflop_per_s, traffic_bytes / self.copy_gb_per_s)


def _peak_module(element: Type) -> Callable[[ISA], Module]:
    def write(isa: ISA) -> Module:
        lanes = isa.lanes(element)
        module = Module("multiply-add peak", isa)
        f = module.entry("peak", factor=ptr(element), out=ptr(element), turns=i64)
        factor = splat(f.args.factor.load(), lanes)
        with f.loop(f.args.begin, f.args.end) as task:
            with f.loop(0, f.args.turns, carry=[factor] * _CHAINS) as loop:
                loop.values = [fma(v, factor, factor) for v in loop.values]
            for k, value in enumerate(loop.values):
                f.args.out.store(value, (task.i * _CHAINS + k) * lanes)
        return module

    return write


def _copy_module(isa: ISA) -> Module:
    element = BY_DTYPE["float32"]
    lanes = isa.lanes(element)
    module = Module("copy", isa)
    f = module.entry("copy", x=ptr(element), y=ptr(element), span=i64)
    with f.loop(f.args.begin * f.args.span, f.args.end * f.args.span, 4 * lanes) as loop:
        for k in range(4):
            value = f.args.x.load(loop.i + k * lanes, lanes)
            f.args.y.store(value, loop.i + k * lanes, nontemporal=lanes > 1)
    return module


def _best_s(call: Callable[[], None], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(dtype: str = "float32", repeats: int = 5) -> Roofline:
    """Measures both peaks with the pool's current number of threads.

    Cost: about 0.1 s. The copy reads and writes 64 MiB with stores that go past the caches.
    """
    element, workers = BY_DTYPE[dtype], threads.get_num_threads()
    code = jit.kernel(("roofline", dtype), _peak_module(element))
    lanes = code.isa.lanes(element)
    factor = np.full(1, 0.5, dtype)
    out = np.empty(workers * _CHAINS * lanes, dtype)
    peak = code.address("peak")
    copy = jit.kernel("roofline copy", _copy_module).address("copy")
    jit.settle()
    spent = _best_s(lambda: launch(peak, (address(factor), address(out), _TURNS), workers), repeats)
    flops = 2 * workers * _CHAINS * lanes * _TURNS

    count = _COPY_BYTES // 4
    padded = np.ones((2, count + 16), np.float32)  # written once, so that no page is the shared page of zeros
    x, y = (row[-(address(row) // 4) % 16 :][:count] for row in padded)
    tasks = 64
    moved = _best_s(lambda: launch(copy, (address(x), address(y), count // tasks), tasks), repeats)
    return Roofline(workers, flops / spent / 1e9, 2 * _COPY_BYTES / moved / 1e9)
