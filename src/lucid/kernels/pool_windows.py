"""Pooling whose windows overlap and leave no gaps: ``MaxPool2d(3, 2, 1)`` and its like.

A group is as many outputs as a vector has lanes. Its inputs of one row are a few vectors, which fall apart into a
vector for every tap. Gradients are gathered, so nothing is cleared or read again: an input belongs to the taps of one
phase, its place modulo the stride, and what windows left of the group give it is found from their winners, which are
kept from the group before. Rows that the next window has too wait in workspace, so sums are rounded once::

    columns of a group, stride 2, 3 taps        rows of a window, stride 2, 3 taps
    0 1 2 3 4 5 6 …                             waiting + tap 0  ->  done
    a   b   c   d     taps 0 and, a lane on, 2            tap 1  ->  done
      a   b   c       tap 1                               tap 2  ->  waiting
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import add
from typing import Any, Literal

import numpy as np

from lucid.core.geometry import PoolSpec, Sizes
from lucid.kernels import jit, target
from lucid.kernels.elementwise import compute_type, read, write
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    convert,
    deinterleave,
    i32,
    i64,
    interleave,
    lane_numbers,
    lanes_below,
    lanes_inside,
    maximum,
    minimum,
    picked,
    ptr,
    select,
    splat,
    vec,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, Launch
from lucid.kernels.pool_tiles import sources
from lucid.kernels.runtime.memory import ALIGN_BYTES

Array = np.ndarray[Any, Any]
Mode = Literal["max", "max_grad", "avg", "avg_grad"]

#: What a kernel is told of each axis, beside what is written into it.
PER_AXIS = ("size", "out", "kernel", "stride", "low", "first", "last", "steps")
_AXES = ("h", "w")
_GRAIN = 8192  #: taps of a chunk of tasks, at least
_AHEAD_ROWS = 8  #: how far from a row are those to ask memory for, which sees streams of a row's length
_MOST_TAPS, _MOST_STRIDE = 7, 4  #: of a row, which are written out


def fit(spec: PoolSpec, size: Sizes) -> bool:
    """Whether windows leave no gaps, every window has a sample of the input, and a row of taps can be written out."""
    axes = zip(size, spec.out_size(size), spec.kernel, spec.stride, spec.dilation, spec.padding, strict=True)
    return (
        len(size) <= len(_AXES)
        and spec.kernel[-1] <= _MOST_TAPS
        and spec.stride[-1] <= _MOST_STRIDE
        and all(
            s <= k and low < k and (d == 1 or k == 1) and o <= _steps(n, low, s) for n, o, k, s, d, (low, _) in axes
        )
    )


def _steps(size: int, low: int, stride: int) -> int:
    """Windows until the whole axis is behind them."""
    return -(-(size + low) // stride)


def region(
    mode: Mode, spec: PoolSpec, lead: Sizes, size: Sizes, dtype: str, count_include_pad: bool, divisor: int | None
) -> Launch:
    """A mode for contiguous arrays that are not empty, called with x, h and the result. Ask ``fit`` first."""
    out, scatters = spec.out_size(size), mode.endswith("grad")
    kernel = _Kernel(mode, dtype, spec.kernel[-1], spec.stride[-1], divisor is not None)
    axes = _geometry(spec, size, count_include_pad)
    tasks = prod(lead) * (1 if scatters else prod(out[:-1]))
    taps = prod(spec.kernel) * (prod(out) if scatters else out[-1])
    width, item = kernel.width(axes[-1]["steps"]), kernel.element.bytes
    own = (axes[0]["kernel"] - axes[0]["stride"]) * width * item if scatters else 0
    own += -own % ALIGN_BYTES
    return Launch(
        [(jit.kernel(kernel, kernel.write).address("run"), tasks, max(1, _GRAIN // taps))],
        [0, 0, 0, 0, own // item, width, divisor or 0, *(axis[name] for axis in axes for name in PER_AXIS)],
        [*sources(mode), WORKSPACE if own else NOTHING],
        own_bytes=own,
        most_threads=tasks,
        worth=-(-tasks * taps // _GRAIN),
    )


def _geometry(spec: PoolSpec, size: Sizes, count_include_pad: bool) -> list[dict[str, int]]:
    """The numbers of ``PER_AXIS`` for every axis, with one of size 1 before a single one."""
    axes = [(1, 1, 1, 1, (0, 0))] * (len(_AXES) - len(size))
    axes += zip(size, spec.out_size(size), spec.kernel, spec.stride, spec.padding, strict=True)
    found = []
    for n, o, k, s, (low, high) in axes:
        ends = (0, low + n + high) if count_include_pad else (low, low + n)
        found.append(dict(zip(PER_AXIS, (n, o, k, s, low, *ends, _steps(n, low, s)), strict=True)))
    return found


@dataclass(frozen=True)
class _Kernel:
    """A pooling of one dtype, with ``taps`` and ``stride`` along the last axis; ``fixed`` is the divisor."""

    mode: Mode
    dtype: str
    taps: int
    stride: int
    fixed: bool

    @property
    def element(self) -> Type:
        """What it computes in."""
        return compute_type((self.dtype,))

    def width(self, steps: int) -> int:
        """Elements of a row that waits: whole groups."""
        lanes = target.isa().lanes(self.element)
        return -(-steps // lanes) * lanes * self.stride

    def write(self, isa: ISA) -> Module:
        """A task is a row of outputs, or a plane where the mode scatters."""
        stored = ptr(BY_DTYPE[self.dtype])
        m = Module(f"pool_windows_{self.mode}_{self.dtype}", isa)
        numbers = ("share", "width", "divisor", *(f"{n}_{axis}" for axis in _AXES for n in PER_AXIS))
        f = m.entry("run", x=stored, h=stored, y=stored, waiting=ptr(self.element), **dict.fromkeys(numbers, i64))
        writer = _Writer(self, f, isa.lanes(self.element))
        with f.loop(f.args.begin, f.args.end) as task:
            (writer.plane if self.mode.endswith("grad") else writer.outputs)(task.i)
        return m


@dataclass(frozen=True, slots=True)
class _Group:
    """Outputs from ``at`` on of a row, whose first tap is at ``start``. Without masks all of it is inside.

    ``there`` are the outputs that exist, ``inside`` the inputs, by how far they are from ``start``.
    """

    at: Value
    start: Value
    there: Value | None
    inside: dict[int, Value]


class _Writer:
    """The code of a pooling's task."""

    def __init__(self, kernel: _Kernel, f: Function, lanes: int) -> None:
        self.kernel, self.f, self.a, self.lanes, self.element = kernel, f, f.args, lanes, kernel.element
        self.shifts = (kernel.taps - 1) // kernel.stride  #: how many outputs further on a tap may meet an input
        #: Where the vectors of inputs begin, a tuple for the taps of each shift.
        self.vectors = [
            tuple(
                first + v * lanes
                for v in range(kernel.stride if lanes > 1 else min(kernel.stride, kernel.taps - first))
            )
            for first in range(0, kernel.taps, kernel.stride)
        ]

    def outputs(self, row: Value) -> None:
        """A row of results."""
        f, a = self.f, self.a
        plane, line = row // a.out_h, row % a.out_h
        y = a.y.at(row * a.out_w)
        with f.loop(0, a.out_w, self.lanes) as column:

            def made(group: _Group) -> Sequence[Value]:
                (value, *_) = self._window(a.x.at(plane * a.size_h * a.size_w), line, group)
                if self.kernel.mode == "avg":
                    value = value / self._count(line, group)
                write(y, value, group.at, group.there)
                return []

            self._in_group(column.i, a.out_w, made)

    def _in_group(self, at: Value, end: Value, made: Callable[[_Group], Sequence[Value]]) -> list[Value]:
        """What is made of a group of outputs, of which those before ``end`` exist. Whole groups have their own code."""
        f, a, lanes = self.f, self.a, self.lanes
        start = at * self.kernel.stride - a.low_w

        def masked() -> Sequence[Value]:
            places = {place for vectors in self.vectors for place in vectors}
            inside = {place: lanes_inside(f, start + place, a.size_w, lanes) for place in sorted(places)}
            return made(_Group(at, start, lanes_below(f, end - at, lanes), inside))

        if lanes == 1:
            return list(masked())
        whole = (start >= 0) & (start + self.vectors[-1][-1] + lanes <= a.size_w) & (at + lanes <= end)
        return f.choose(whole, lambda: made(_Group(at, start, None, {})), masked)

    def _window(self, plane: Pointer, line: Value, group: _Group) -> list[Value]:
        """The mean's sum, or the maximum and the number of its tap."""
        f, a = self.f, self.a
        top = line * a.stride_h - a.low_h
        above, below = maximum(0 - top, 0), minimum(a.kernel_h, a.size_h - top)
        outside = 0.0 if self.kernel.mode == "avg" else -np.inf
        state = [f.const(vec(self.element, self.lanes), outside)]
        if self.kernel.mode == "max_grad":  # the first tap inside wins where all are minus infinity
            nearest = maximum(0 - splat(convert(group.start, i32), self.lanes) - self._along(), 0)
            state.append(nearest + self._number(above))
        with f.loop(above, below, carry=state) as row:
            taps = self._taps(plane.at((top + row.i) * a.size_w), group, outside)
            if self.kernel.mode == "avg":
                row.values = [row.values[0] + reduce(add, taps)]
            elif self.kernel.mode == "max":
                row.values = [reduce(_larger, taps, row.values[0])]
            else:
                best, tap = taps[0], nearest
                for k, value in enumerate(taps[1:], 1):
                    best, tap = _chosen(_better(value, best), (value, k), (best, tap))
                found, before = (best, tap + self._number(row.i)), row.values
                row.values = _chosen(_better(best, before[0]), found, before)
        return row.values

    def _taps(self, row: Pointer, group: _Group, outside: float) -> list[Value]:
        """A vector of every tap."""
        taps: list[Value] = []
        for vectors in self.vectors:
            loaded = []
            for place in vectors:
                mask = group.inside.get(place)
                value = read(row, group.start + place, self.lanes, mask)
                if not taps:
                    row.prefetch(group.start + place + self.a.size_w * _AHEAD_ROWS)
                loaded.append(value if mask is None or not outside else select(mask, value, outside))
            taps += deinterleave(loaded, min(self.kernel.stride, self.kernel.taps - len(taps)))
        return taps

    def _along(self) -> Value:
        return lane_numbers(self.f, self.lanes, self.kernel.stride, i32)

    def _number(self, row: Value) -> Value:
        """The number of a row's first tap, in every lane."""
        return splat(convert(row * self.kernel.taps, i32), self.lanes)

    def _count(self, line: Value, group: _Group) -> Value:
        """What sums are divided by, in every lane."""
        if self.kernel.fixed:
            return splat(convert(self.a.divisor, self.element), self.lanes)
        return window_count(self.f, self.lanes, self.element, h=line, w=group.at)

    def plane(self, plane: Value) -> None:
        """All gradients of a plane, window by window, until the last row and column are behind them."""
        f, a = self.f, self.a
        nothing = [f.const(vec(i32, self.lanes), -1)] * (self.kernel.mode == "max_grad")
        nothing.append(f.const(vec(self.element, self.lanes), 0.0))
        groups = -(-self.shifts // self.lanes)  # that hold as many windows
        with f.loop(0, a.steps_h) as line:
            end = select(line.i < a.out_h, a.out_w, 0)
            with f.loop(0, a.steps_w, self.lanes, carry=nothing * groups) as column:
                found = self._in_group(column.i, end, lambda group: self._found(plane, line.i, group))
                known = [*column.values, *found]
                shifted = [self._shifted(known, len(found), shift) for shift in range(self.shifts + 1)]
                self._give(plane, line.i, column.i, shifted)
                column.values = known[len(found) :] if groups else []

    def _found(self, plane: Value, line: Value, group: _Group) -> list[Value]:
        """What a group's windows give: h and the winner's number, or what every tap gets."""
        a = self.a
        h = read(a.h, (plane * a.out_h + line) * a.out_w + group.at, self.lanes, group.there)
        if self.kernel.mode == "max_grad":
            return [self._window(a.x.at(plane * a.size_h * a.size_w), line, group)[1], h]
        share = h / self._count(line, group)
        return [share if group.there is None else select(group.there, share, 0.0)]

    def _shifted(self, known: Sequence[Value], kinds: int, count: int) -> list[Value]:
        """What the windows ``count`` before those of the last group give; groups lie one after the other."""
        if count == 0:
            return list(known[-kinds:])
        groups = len(known) // kinds
        places = [divmod((groups - 1) * self.lanes + lane - count, self.lanes) for lane in range(self.lanes)]
        return [picked(known[kind::kinds], places)[0] for kind in range(kinds)]

    def _give(self, plane: Value, line: Value, at: Value, found: Sequence[Sequence[Value]]) -> None:
        """Adds up a group's inputs, row after row; ``found`` is of the windows of every shift."""
        f, a, lanes, stride = self.f, self.a, self.lanes, self.kernel.stride
        top, start = line * a.stride_h - a.low_h, at * stride - a.low_w
        before = select(line > 0, a.kernel_h - a.stride_h, 0)
        with f.loop(0, a.kernel_h) as row:
            pieces = interleave([self._phase(found, row.i, phase) for phase in range(stride)])
            wait = a.waiting.at(a.thread * a.share + row.i * a.width + at * stride)
            sums = f.choose(
                row.i < before,
                lambda: [v + wait.load(k * lanes, lanes) for k, v in enumerate(pieces)],
                lambda: pieces,
            )
            done, place = row.i < a.stride_h, top + row.i
            with f.when(row.i >= a.stride_h):
                for k, v in enumerate(sums):
                    wait.store(v, k * lanes - a.width * a.stride_h)
            with f.when(done & (place >= 0) & (place < a.size_h)):
                self._put(a.y.at((plane * a.size_h + place) * a.size_w), start, sums)

    def _put(self, row: Pointer, start: Value, sums: Sequence[Value]) -> None:
        """Stores a group's inputs, those inside."""
        f, a, lanes = self.f, self.a, self.lanes
        places = [start + k * lanes for k in range(len(sums))]

        def stored(masks: Sequence[Value | None]) -> list[Value]:
            for value, place, mask in zip(sums, places, masks, strict=True):
                write(row, value, place, mask)
            return []

        whole = (start >= 0) & (places[-1] + lanes <= a.size_w)
        f.choose(
            whole,
            lambda: stored([None] * len(sums)),
            lambda: stored([lanes_inside(f, place, a.size_w, lanes) for place in places]),
        )

    def _phase(self, found: Sequence[Sequence[Value]], row: Value, phase: int) -> Value:
        """What inputs ``phase`` after the first tap of each window get from this row of the windows' taps."""
        given = []
        for shift, tap in enumerate(range(phase, self.kernel.taps, self.kernel.stride)):
            *winner, h = found[shift]
            given.append(select((winner[0] - self._number(row)).eq(tap), h, 0.0) if winner else h)
        return reduce(add, given)


def window_count(f: Function, lanes: int, element: Type, **place: Value) -> Value:
    """How many samples count of the windows at a place, and of those after it along w, one a lane."""
    count = f.const(vec(i32, lanes), 1)
    for axis, at in place.items():
        start, first, last, kernel = (
            splat(convert(v, i32), lanes)
            for v in (
                at * getattr(f.args, f"stride_{axis}"),
                *(getattr(f.args, f"{n}_{axis}") for n in ("first", "last", "kernel")),
            )
        )
        if axis == "w":
            start = start + lane_numbers(f, lanes, element=i32) * splat(convert(f.args.stride_w, i32), lanes)
        count = count * (minimum(start + kernel, last) - maximum(start, first))
    return convert(count, element)


def _better(value: Value, best: Value) -> Value:
    return (value > best) | value.ne(value)


def _larger(best: Value, value: Value) -> Value:
    return select(_better(value, best), value, best)


def _chosen(condition: Value, yes: Sequence[Any], no: Sequence[Value]) -> list[Value]:
    return [select(condition, a, b) for a, b in zip(yes, no, strict=True)]
