"""Pooling whose windows tile the planes: no padding, no overlap, nothing left over, as in every ``MaxPool2d(2)``.

Each input then belongs to one window, so gradients are written once, in order, with nothing to clear or to add to. A
group is as many outputs as a vector has lanes; the vectors of its inputs hold all of its taps, and a tap is a fixed
choice of their lanes. Rows of outputs that fit into a vector a whole number of times share it: inputs of such rows lie
in memory one after the other, plane after plane, and only the choice of lanes knows where a row ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from lucid.core.geometry import PoolSpec, Sizes
from lucid.kernels import jit, target
from lucid.kernels.elementwise import compute_type, over_vectors, read, write
from lucid.kernels.ir import (
    BY_DTYPE,
    Module,
    Pointer,
    Value,
    convert,
    i32,
    i64,
    lanes_below,
    minimum,
    ptr,
    select,
    shuffle,
    splat,
    vec,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, Launch

Array = np.ndarray[Any, Any]
Mode = Literal["max", "max_grad", "avg", "avg_grad"]

#: Outputs of a task where rows share vectors, and of a chunk of tasks.
BLOCK = 2048
_MOST = 4  #: vectors of inputs that a choice of lanes is made from, and lines of a window


def fit(spec: PoolSpec, size: Sizes) -> bool:
    """Whether windows tile planes of ``size``, and are small enough to be written out."""
    rows = spec.kernel[-2:-1] or (1,)
    return (
        spec.kernel == spec.stride
        and not any(map(any, spec.padding))
        and all(n % k == 0 for n, k in zip(size, spec.kernel, strict=True))
        and all(d == 1 for d, k in zip(spec.dilation, spec.kernel, strict=True) if k > 1)
        and all(k == 1 for k in spec.kernel[:-2])
        and prod(rows) * spec.kernel[-1] <= 2 * _MOST
        and max(rows[0], spec.kernel[-1]) <= _MOST
    )


def region(mode: Mode, spec: PoolSpec, lead: Sizes, size: Sizes, dtype: str, divisor: int) -> Launch:
    """A mode for contiguous arrays that are not empty, called with x, h and the result. Ask ``fit`` first."""
    out = spec.out_size(size)
    window = (spec.kernel[-2] if len(size) > 1 else 1, spec.kernel[-1])
    lanes = target.isa().lanes(compute_type((dtype,)))
    width, outputs = out[-1], prod(lead) * prod(out)
    shared = width < lanes and lanes % width == 0 and prod(window) <= _MOST
    kernel = _Kernel(mode, dtype, window, width if shared else 0)
    line = BLOCK if shared else width
    tasks = -(-outputs // line)
    return Launch(
        [(jit.kernel(kernel, kernel.write).address("run"), tasks, max(1, BLOCK // line))],
        [0, 0, 0, divisor, line, outputs],
        sources(mode),
        most_threads=tasks,
        worth=-(-outputs // BLOCK),
    )


def sources(mode: str) -> list[int]:
    """Which of x, h and the result a mode has."""
    return [NOTHING if mode == "avg_grad" else 0, NOTHING if mode in ("max", "avg", "indices") else 1, 2]


@dataclass(frozen=True)
class _Kernel:
    """A pooling of tiles. ``width`` is how many outputs a row has where rows share a vector, else 0."""

    mode: Mode
    dtype: str
    window: tuple[int, int]
    width: int

    def write(self, isa: ISA) -> Module:
        """A task is a line: a row of outputs, or a block of them where rows share vectors."""
        element = compute_type((self.dtype,))
        m = Module(f"pool_tiles_{self.mode}_{self.dtype}", isa)
        p = ptr(BY_DTYPE[self.dtype])
        f = m.entry("run", x=p, h=p, y=p, divisor=i64, line=i64, outputs=i64)
        a, lanes, taps = f.args, isa.lanes(element), self.window[0] * self.window[1]
        count = splat(convert(a.divisor, element), lanes)
        with f.loop(a.begin, a.end) as task:
            first = task.i * a.line
            n = minimum(a.line, a.outputs - first)
            x, h, y = (array.at(first * step) for array, step in self._arrays(a, taps))

            def group(i: Value, mask: Value | None) -> None:
                inputs = _Inputs(self, n, i, lanes, mask is not None)
                if self.mode == "max":
                    write(y, _best(inputs.taps(x))[0], i, mask)
                elif self.mode == "avg":
                    total = f.const(vec(element, lanes), 0.0)
                    for tap in inputs.taps(x):
                        total = total + tap
                    write(y, total / count, i, mask)
                elif self.mode == "avg_grad":
                    inputs.put(y, [read(h, i, lanes, mask) / count] * taps)
                else:
                    winner, value = _best(inputs.taps(x))[1], read(h, i, lanes, mask)
                    inputs.put(y, [select(winner.eq(k), value, 0.0) for k in range(taps)])

            over_vectors(f, n.fn.const(i64, 0), n, lanes, group)
        return m

    def _arrays(self, a: Any, taps: int) -> list[tuple[Pointer, int]]:
        return [(a.x, taps), (a.h, 1), (a.y, taps if self.mode.endswith("grad") else 1)]


def _best(taps: Sequence[Value]) -> tuple[Value, Value]:
    """The largest tap, the first of equals or the last NaN, and its number."""
    best = taps[0]
    winner = best.fn.const(vec(i32, best.type.lanes), 0)
    for number, value in enumerate(taps[1:], 1):
        better = (value > best) | value.ne(value)
        best, winner = select(better, value, best), select(better, number, winner)
    return best, winner


class _Inputs:
    """The inputs of the group of outputs that begins at ``start`` of a line of ``n``: vectors in memory, and taps.

    Where rows share vectors, a group's inputs are one run; otherwise they are one run in each line of the window.
    """

    def __init__(self, kernel: _Kernel, n: Value, start: Value, lanes: int, partial: bool) -> None:
        high, wide = kernel.window
        self.lanes, self.width = lanes, kernel.width
        self.window = kernel.window
        self.runs, self.vectors = (1, high * wide) if kernel.width else (high, wide)
        self.places = [
            [n * self.vectors * run + start * self.vectors + v * lanes for v in range(self.vectors)]
            for run in range(self.runs)
        ]
        self.masks: list[Value | None] = [None] * self.vectors
        if partial:
            left = (n - start) * self.vectors
            self.masks = [lanes_below(n.fn, left - v * lanes, lanes) for v in range(self.vectors)]

    def taps(self, x: Pointer) -> list[Value]:
        """A vector of every tap, in row-major order."""
        loaded = [
            [read(x, place, self.lanes, mask) for place, mask in zip(run, self.masks, strict=True)]
            for run in self.places
        ]
        return [
            chosen(loaded[row % self.runs], [self._at(row, column, q) for q in range(self.lanes)])
            for row in range(self.window[0])
            for column in range(self.window[1])
        ]

    def put(self, y: Pointer, taps: Sequence[Value]) -> None:
        """Stores a value for every tap where the taps lie."""
        high, wide = self.window
        for run, places in enumerate(self.places):
            rows = range(high) if self.width else [run]
            source = [(row, column, q) for row in rows for column in range(wide) for q in range(self.lanes)]
            order = sorted(range(len(source)), key=[self._at(*one) for one in source].__getitem__)
            own = taps[rows[0] * wide : (rows[-1] + 1) * wide]
            for v, (place, mask) in enumerate(zip(places, self.masks, strict=True)):
                write(y, chosen(own, order[v * self.lanes : (v + 1) * self.lanes]), place, mask)

    def _at(self, row: int, column: int, output: int) -> int:
        """Where in its run a tap of an output of the group lies."""
        wide = self.window[1]
        if not self.width:
            return output * wide + column
        line, w = divmod(output, self.width)
        return ((line * self.window[0] + row) * self.width + w) * wide + column


def chosen(vectors: Sequence[Value], lanes: Sequence[int]) -> Value:
    """Lanes of several vectors, counted through: pairs first, then what came of them."""
    n = len(lanes)
    if n == 1:
        return vectors[lanes[0]]
    if len(vectors) <= 2:
        return shuffle(vectors[0], vectors[1] if len(vectors) > 1 else None, lanes)
    half = 2 if len(vectors) <= 4 else 4
    low = chosen(vectors[:half], [k if k < half * n else 0 for k in lanes])
    high = chosen(vectors[half:], [max(k - half * n, 0) for k in lanes])
    return shuffle(low, high, [q if k < half * n else q + n for q, k in enumerate(lanes)])
