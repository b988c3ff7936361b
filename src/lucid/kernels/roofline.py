"""What this machine can do at most: its multiply-add rate, how fast it copies and how fast it fills memory, measured.

Source: Williams, Waterman & Patterson, "Roofline", CACM 52(4), 2009.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import partial

import numpy as np

from lucid.kernels import jit
from lucid.kernels.algorithms.base import address, launch
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.ir import BY_DTYPE, Module, Type, i64, ptr, splat
from lucid.kernels.isa import ISA
from lucid.kernels.runtime import threads

_CHAINS = 12  #: independent accumulators: more than latency (4) times ports (2), fewer than any machine's registers
_TURNS = 200_000
_MOVED_BYTES = 64 << 20
_TASKS = 64


@dataclass(frozen=True, slots=True)
class Roofline:
    """Peaks of ``threads`` threads together."""

    threads: int
    gflop_per_s: float
    copy_gb_per_s: float  #: read and written, half of it each
    fill_gb_per_s: float  #: written alone

    def bound_ns(self, flops: float, traffic_bytes: float, written_bytes: float = 0.0) -> float:
        """The least time for so much arithmetic, and traffic, and what of it is written, whichever takes longest.

        Writing alone is slower than reading and writing by turns; without ``written_bytes`` the bound is a copy's.
        """
        return max(flops / self.gflop_per_s, traffic_bytes / self.copy_gb_per_s, written_bytes / self.fill_gb_per_s)

    def best(self, other: Roofline) -> Roofline:
        """The higher of each peak."""
        peaks = zip(astuple(self)[1:], astuple(other)[1:], strict=True)
        return Roofline(self.threads, *(max(pair) for pair in peaks))


def _peak_module(stored: Type) -> Callable[[ISA], Module]:
    """What dense kernels do with numbers of a type: fused products, or pairs of them where the machine has those."""

    def write(isa: ISA) -> Module:
        grain = _grain(stored, isa)
        lanes = isa.lanes(grain.sums)
        module = Module("multiply-add peak", isa)
        f = module.entry("peak", factor=ptr(grain.packed), out=ptr(grain.sums), turns=i64)
        factor, begun = splat(f.args.factor.load(), lanes), f.args.out.load(0, lanes)
        with f.loop(f.args.begin, f.args.end) as task:
            with f.loop(0, f.args.turns, carry=[begun] * _CHAINS) as loop:
                loop.values = [grain.multiply_add(factor, factor, v) for v in loop.values]
            for k, value in enumerate(loop.values):
                f.args.out.store(value, (task.i * _CHAINS + k) * lanes)
        return module

    return write


def _grain(stored: Type, isa: ISA) -> Grain:
    return Grain.of(stored, 2, isa)


def _traffic_module(isa: ISA) -> Module:
    """``copy`` past the caches; ``fill`` by ordinary stores, ``fill_past`` them, which machines rank differently."""
    element = BY_DTYPE["float32"]
    lanes = isa.lanes(element)
    module = Module("traffic", isa)
    for name, past in (("copy", True), ("fill", False), ("fill_past", True)):
        f = module.entry(name, x=ptr(element), y=ptr(element), span=i64)
        x, y = f.args.x, f.args.y
        first = splat(x.load(), lanes)
        with f.loop(f.args.begin * f.args.span, f.args.end * f.args.span, 4 * lanes) as loop:
            for at in (loop.i + k * lanes for k in range(4)):
                value = x.load(at, lanes) if name == "copy" else first
                y.store(value, at, nontemporal=past and lanes > 1)
    return module


def _best_s(call: Callable[[], None], seconds: float) -> float:
    """The least time of a call, of all that begin in so many seconds."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(dtype: str = "float32", seconds: float = 0.1) -> Roofline:
    """Measures all peaks with the pool's current number of threads.

    They belong to the moment: on a virtual machine two cores may share one path to memory now and have one each a
    minute later, which is a factor of two.

    Cost: ``seconds`` for each of four kernels. Less would mislead: threads that were asleep may wake on one core, and
    it takes the system some ms to part them. 64 MiB are copied with stores that go past the caches, and filled.
    """
    element, workers = BY_DTYPE[dtype], threads.get_num_threads()
    code = jit.kernel(("roofline", dtype), _peak_module(element))
    grain = _grain(element, code.isa)
    lanes, factor = code.isa.lanes(grain.sums), np.zeros(1)
    out = np.zeros(workers * _CHAINS * lanes)
    peak = code.address("peak")
    traffic = jit.kernel("roofline traffic", _traffic_module)
    jit.settle()
    spent = _best_s(lambda: launch(peak, (address(factor), address(out), _TURNS), workers), seconds)
    flops = 2 * grain.depth * workers * _CHAINS * lanes * _TURNS

    count = _MOVED_BYTES // 4
    padded = np.ones((2, count + 16), np.float32)  # written once, so that no page is the shared page of zeros
    x, y = (row[-(address(row) // 4) % 16 :][:count] for row in padded)
    fields = address(x), address(y), count // _TASKS
    moved = {
        name: _best_s(partial(launch, traffic.address(name), fields, _TASKS), seconds)
        for name in ("copy", "fill", "fill_past")
    }
    copy, fill = 2 * _MOVED_BYTES / moved["copy"], _MOVED_BYTES / min(moved["fill"], moved["fill_past"])
    return Roofline(workers, flops / spent / 1e9, copy / 1e9, fill / 1e9)
