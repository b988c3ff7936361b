"""Where the largest or smallest elements are: along an axis, and in adaptive windows. The first of equals; NaN wins.

    across    (outer, n, inner): as many lines side by side as a vector has lanes
    windows   (outer, *size): a window's rows in vectors, whose lanes meet at its end

Cost: the array is read once, where windows share no samples.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lucid.core.geometry import Sizes
from lucid.kernels import jit, target
from lucid.kernels.elementwise import compute_type, read
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    convert,
    extract,
    i32,
    i64,
    lane_numbers,
    lanes_below,
    minimum,
    ptr,
    select,
    shuffle,
    splat,
    vec,
)
from lucid.kernels.isa import ISA
from lucid.kernels.moving import contiguous
from lucid.kernels.runtime import threads
from lucid.kernels.runtime.memory import address, empty

Array = np.ndarray[Any, Any]
State = Sequence[Value]

_RANK = 3  #: axes of a window, at most
_BAND = 64  #: neighbouring lines of a task
_GRAIN = 16384  #: elements of a chunk of tasks, at least
_MOST = 2**31  #: places are counted in 32 bits


def fits(x: Array, rank: int) -> bool:
    """Whether windows of so many axes, or an axis, are few and short enough."""
    return rank <= _RANK and x.size > 0 and prod(x.shape[x.ndim - rank :]) < _MOST


def along(x: Array, axis: int, smallest: bool = False) -> Array:
    """The place of the largest element along an axis, which is gone; ask ``fits`` first.

    >>> along(np.array([[1.0, 5.0], [4.0, 5.0]], "f"), 0)
    array([1, 0])
    """
    after = x.shape[axis + 1 :]
    if prod(after) == 1:
        return _windows(x, (x.shape[axis],), (1,), smallest).reshape((*x.shape[:axis], *after))
    y = empty((*x.shape[:axis], *after), np.int64)
    sizes = prod(x.shape[:axis]), x.shape[axis], prod(after)
    return _run(_Across(x.dtype.name, smallest), x, y, sizes)


def in_windows(x: Array, out: Sizes) -> Array:
    """The place of the largest sample of each adaptive window of the last axes, in its image; ask ``fits`` first."""
    return _windows(x, x.shape[x.ndim - len(out) :], out, False).reshape((*x.shape[: x.ndim - len(out)], *out))


def _windows(x: Array, size: Sizes, out: Sizes, smallest: bool) -> Array:
    ones = (1,) * (_RANK - len(size))
    lead = x.size // prod(size)
    return _run(_Windows(x.dtype.name, smallest), x, empty((lead, *out), np.int64), (lead, *ones, *size, *ones, *out))


def _run(kernel: _Kernel, x: Array, y: Array, sizes: Sizes) -> Array:
    x = contiguous(x)
    plan = _plan(kernel, sizes, target.isa().name)
    threads.run(plan.entry, plan.pack(address(x), address(y), *plan.geometry), plan.tasks, chunk=plan.chunk)
    return y


class _Plan(NamedTuple):
    """All that a call with arrays of known sizes needs."""

    entry: int
    pack: Callable[..., bytes]
    geometry: Sizes
    tasks: int
    chunk: int


@lru_cache(maxsize=1024)
def _plan(kernel: _Kernel, sizes: Sizes, isa: str) -> _Plan:
    tasks = kernel.tasks(sizes)
    work = prod(sizes[: _RANK + 1]) // tasks
    pack = struct.Struct(f"{2 + len(sizes)}q").pack
    entry = jit.kernel(kernel, kernel.write).address("run")
    return _Plan(entry, pack, sizes, tasks, max(1, _GRAIN // max(work, 1)))


@dataclass(frozen=True)
class _Kernel:
    """A search of arrays of this dtype. A state is the best elements so far, and their places, a lane for each."""

    dtype: str
    smallest: bool
    name: ClassVar[str]
    sizes: ClassVar[tuple[str, ...]]

    @property
    def element(self) -> Type:
        """What elements are compared in."""
        return compute_type((self.dtype,))

    def tasks(self, sizes: Sizes) -> int:
        """How many there are."""
        raise NotImplementedError

    def task(self, f: Function, lanes: int, task: Value) -> None:
        """The code of a task."""
        raise NotImplementedError

    def write(self, isa: ISA) -> Module:
        """One entry point."""
        m = Module(f"{self.name}_{self.dtype}", isa)
        f = m.entry("run", x=ptr(BY_DTYPE[self.dtype]), y=ptr(i64), **dict.fromkeys(self.sizes, i64))
        with f.loop(f.args.begin, f.args.end) as task:
            self.task(f, isa.lanes(self.element), task.i)
        return m

    @property
    def worst(self) -> float:
        """What every element is as good as."""
        return np.inf if self.smallest else -np.inf

    def beats(self, value: Value, best: Value) -> Value:
        """Whether a value comes before another one of a lower place: NaN before numbers, the first of equals."""
        better = value.ult(best) if self.smallest else best.ult(value)
        return better & best.eq(best)

    def met(self, state: State, value: Value, place: Value) -> list[Value]:
        """A state that has seen one vector more, of higher places."""
        better = self.beats(value, state[0])
        return [select(better, new, old) for new, old in zip((value, place), state, strict=True)]


@dataclass(frozen=True)
class _Across(_Kernel):
    """Lines that lie across memory. A task is a band of neighbouring ones."""

    name = "extremes_across"
    sizes = ("outer", "n", "inner")

    def tasks(self, sizes: Sizes) -> int:
        """How many there are."""
        return sizes[0] * -(-sizes[2] // _BAND)

    def task(self, f: Function, lanes: int, task: Value) -> None:
        """The code of a task."""
        a = f.args
        bands = (a.inner + (_BAND - 1)) // _BAND
        outer, start = task // bands, task % bands * _BAND
        stop = minimum(start + _BAND, a.inner)
        x, y = a.x.at(outer * a.n * a.inner), a.y.at(outer * a.inner)
        first = [f.const(vec(self.element, lanes), self.worst), f.const(vec(i32, lanes), 0)]
        with f.loop(start, stop, lanes) as column:
            mask = None if lanes == 1 else lanes_below(f, stop - column.i, lanes)
            with f.loop(0, a.n, carry=first) as k:
                value = read(x.at(k.i * a.inner), column.i, lanes, mask)
                k.values = self.met(k.values, value, splat(convert(k.i, i32), lanes))
            y.store(convert(k.values[1], i64), column.i, mask)


@dataclass(frozen=True)
class _Windows(_Kernel):
    """Adaptive windows of up to three axes. A task is a row of them."""

    name = "extremes_windows"
    sizes = ("outer", *(f"{kind}_{axis}" for kind in ("size", "out") for axis in "dhw"))

    def tasks(self, sizes: Sizes) -> int:
        """How many there are."""
        return sizes[0] * prod(sizes[1 + _RANK : -1])

    def task(self, f: Function, lanes: int, task: Value) -> None:
        """The code of a task."""
        a = f.args
        above, line = task // a.out_h, task % a.out_h
        image, slab = above // a.out_d, above % a.out_d
        x = a.x.at(image * a.size_d * a.size_h * a.size_w)
        deep, down = self._span(slab, a.size_d, a.out_d), self._span(line, a.size_h, a.out_h)
        with f.loop(0, a.out_w) as column:
            across = self._span(column.i, a.size_w, a.out_w)
            first = (deep[0] * a.size_h + down[0]) * a.size_w + across[0]
            state: State = [
                f.const(vec(self.element, lanes), self.worst),
                splat(convert(first, i32), lanes),
            ]
            with f.loop(*deep, carry=state) as d:
                with f.loop(*down, carry=d.values) as h:
                    row = (d.i * a.size_h + h.i) * a.size_w
                    h.values = self._row(f, x, row, across, h.values, lanes)
                d.values = h.values
            a.y.store(convert(self._joined(d.values), i64), task * a.out_w + column.i)

    def _span(self, k: Value, n: Value, out: Value) -> tuple[Value, Value]:
        """Where window k of ``out`` begins and ends."""
        return k * n // out, ((k + 1) * n + out - 1) // out

    def _row(
        self, f: Function, x: Pointer, row: Value, span: tuple[Value, Value], state: State, lanes: int
    ) -> list[Value]:
        """A row of a window: whole vectors, then one masked."""
        start, stop = span
        full = stop - (stop - start) % lanes
        numbers = lane_numbers(f, lanes, element=i32)

        def seen(state: State, at: Value, mask: Value | None) -> list[Value]:
            value = read(x, row + at, lanes, mask)
            value = value if mask is None else select(mask, value, self.worst)
            return self.met(state, value, splat(convert(row + at, i32), lanes) + numbers)

        with f.loop(start, full, lanes, carry=list(state)) as i:
            i.values = seen(i.values, i.i, None)
        if lanes == 1:
            return i.values
        rest = lanes_below(f, stop - full, lanes)
        return f.choose(full < stop, lambda: seen(i.values, full, rest), lambda: i.values)

    def _joined(self, state: State) -> Value:
        """The place of the best of all lanes; of those as good the lowest."""
        value, place = state
        while value.type.lanes > 1:
            half = value.type.lanes // 2
            (a, b), (p, q) = ([_part(v, k * half, half) for k in range(2)] for v in (value, place))
            second = self.beats(b, a) | (~self.beats(a, b) & (q < p))
            value, place = select(second, b, a), select(second, q, p)
        return place


def _part(value: Value, start: int, count: int) -> Value:
    return extract(value, start) if count == 1 else shuffle(value, None, range(start, start + count))
