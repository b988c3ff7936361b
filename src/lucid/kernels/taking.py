"""Elements read, or added up, at places along one axis that an index names.

Arrays are (outer, n, inner), the index has m places below n for each outer and inner, or the same m for all of them::

    taken    y[o, k, i] = x[o, index[o, k, i], i]
    added    y[o, index[o, k, i], i] += g[o, k, i], k in order

What is added to one element is one task's, so the bits do not depend on the number of threads. A place from -n on
counts from the end. One out of range reads and writes nothing outside the arrays, and is reported.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from lucid.core.geometry import Sizes
from lucid.kernels import jit, target
from lucid.kernels.ir import (
    BY_DTYPE,
    Module,
    Pointer,
    Type,
    Value,
    all_of,
    f32,
    f64,
    i16,
    i64,
    lanes_below,
    minimum,
    ptr,
    select,
    splat,
)
from lucid.kernels.isa import ISA
from lucid.kernels.moving import contiguous
from lucid.kernels.runtime import threads
from lucid.kernels.runtime.memory import address, empty

Array = np.ndarray[Any, Any]
Does = Literal["take", "add"]
Span = tuple[Value, Value]

_TASK = 8192  #: elements of a task, about
_BAND = 64  #: neighbours that a task adds up, at least
_SOME_TASKS = 8  #: as many as make two threads' shares alike
#: By bytes of an element: what is read moves as it is.
_MOVED: dict[int, Type] = {2: i16, 4: f32, 8: f64}
_ADDED = ("float32", "float64", "int32", "int64")
_TURN = 8  #: places looked at together
_GEOMETRY = ("n", "m", "inner", "pieces", "piece", "by_outer", "by_place")


def takes(x: Array) -> bool:
    """Whether ``taken`` is for such elements."""
    return x.itemsize in _MOVED and not x.dtype.hasobject


def adds(y: Array) -> bool:
    """Whether ``add`` is for such an array."""
    return y.dtype.name in _ADDED and y.flags.c_contiguous


def taken(x: Array, index: Array, axis: int) -> Array | None:
    """Elements of x along an axis; None if a place is out of range.

    Shape: the index (m,), or that of x but for the axis, where it has m.

    >>> taken(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0, -1], [1, 1]]), 1)
    array([[1., 2.],
           [4., 4.]])
    """
    m = len(index) if index.ndim < x.ndim else index.shape[axis]
    y = empty((*x.shape[:axis], m, *x.shape[axis + 1 :]), x.dtype)
    return y if _run("take", contiguous(x), index, y, axis) else None


def add(y: Array, index: Array, g: Array, axis: int) -> bool:
    """Adds g to y at places along an axis, which y, contiguous, has n of and g m; whether all are in range."""
    return _run("add", y, index, contiguous(g), axis)


def _run(does: Does, whole: Array, index: Array, part: Array, axis: int) -> bool:
    """``whole`` is what the index points into, ``part`` what has an element for each of its places."""
    if not part.size:
        return True
    if not whole.size:
        return False
    index = contiguous(index.astype(np.int64, copy=False))
    shared = index.ndim < whole.ndim or whole.ndim == 1
    plan = _plan(does, whole.dtype, whole.shape, part.shape[axis], axis, shared, target.isa().name)
    wrong = np.zeros(1, np.int64)
    slots = plan.pack(*(address(a) for a in (whole, index, part, wrong)), *plan.geometry)
    threads.run(plan.entry, slots, plan.tasks, chunk=plan.chunk)
    return not wrong[0]


class _Plan(NamedTuple):
    """All that a call with arrays of known shapes needs."""

    entry: int
    pack: Callable[..., bytes]
    geometry: tuple[int, ...]
    tasks: int
    chunk: int


@lru_cache(maxsize=1024)
def _plan(does: Does, dtype: np.dtype[Any], shape: Sizes, m: int, axis: int, shared: bool, isa: str) -> _Plan:
    outer, n, inner = prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
    element = BY_DTYPE[dtype.name] if does == "add" else _MOVED[dtype.itemsize]
    kernel = _Kernel(does, element, inner == 1, shared)
    if does == "take":  # pieces of the places
        piece = max(1, _TASK // inner)
        pieces = -(-m // piece)
    else:  # pieces of the neighbours
        wanted = max(1, min(_SOME_TASKS // outer, inner // _BAND))
        piece = -(-inner // (wanted * _BAND)) * _BAND
        pieces = -(-inner // piece)
    work = m * piece if does == "add" else piece * inner
    steps = (0, 1) if shared else (m * inner, inner)
    pack = struct.Struct(f"{4 + len(_GEOMETRY)}q").pack
    geometry = (n, m, inner, pieces, piece, *steps)
    return _Plan(jit.kernel(kernel, kernel.write).address("run"), pack, geometry, outer * pieces, max(1, _TASK // work))


@dataclass(frozen=True)
class _Kernel:
    """Elements of a type, ``lone`` where they have no neighbours, a place ``shared`` by all neighbours or not."""

    does: Does
    element: Type
    lone: bool
    shared: bool

    def write(self, isa: ISA) -> Module:
        """A task is a piece of an outer step: of its places, or of its neighbours where they are added up."""
        m = Module(f"taking_{self.does}_{self.element}", isa)
        fields = {"whole": ptr(self.element), "index": ptr(i64), "part": ptr(self.element), "wrong": ptr(i64)}
        f = m.entry("run", **fields, **dict.fromkeys(_GEOMETRY, i64))
        a = f.args
        with f.loop(a.begin, a.end) as task:
            outer, start = task.i // a.pieces, task.i % a.pieces * a.piece
            whole, index = a.whole.at(outer * a.n * a.inner), a.index.at(outer * a.by_outer)
            places, band = (f.const(i64, 0), a.m), (f.const(i64, 0), a.inner)
            if self.does == "take":
                places = start, minimum(start + a.piece, a.m)
            else:
                band = start, minimum(start + a.piece, a.inner)
            part, nothing = a.part.at(outer * a.m * a.inner), f.const(i64, 0)
            lanes = isa.lanes(self.element)
            if self.lone:
                wrong = self._line(whole, index, part, places, nothing)
            else:
                with f.loop(*places, carry=[nothing]) as k:
                    row, at = part.at(k.i * a.inner), index.at(k.i * a.by_place)
                    k.values = [(self._row if self.shared else self._each)(whole, at, row, band, k.values[0], lanes)]
                wrong = k.values[0]
            with f.when(wrong.ne(0)):
                a.wrong.store(f.const(i64, 1))
        return m

    def _one(
        self, whole: Pointer, there: Value, part: Pointer, i: Value, lanes: int = 1, mask: Value | None = None
    ) -> None:
        """Some elements of the part, and where they come from or go to."""
        if self.does == "take":
            part.store(whole.load(there, lanes, mask), i, mask)
        else:
            whole.store(whole.load(there, lanes, mask) + part.load(i, lanes, mask), there, mask)

    def _line(self, whole: Pointer, index: Pointer, part: Pointer, places: Span, wrong: Value) -> Value:
        """Places one after the other; with what is wrong by then."""
        return _each_place(index, places, wrong, lambda place, i: self._one(whole, place, part, i))

    def _row(self, whole: Pointer, at: Pointer, part: Pointer, band: Span, wrong: Value, lanes: int) -> Value:
        """Neighbours at one place, in vectors."""
        f, (start, stop) = whole.fn, band
        place, wrong = _inside(at.load(), f.args.n, wrong)
        there, full = whole.at(place * f.args.inner), stop - (stop - start) % lanes
        with f.loop(start, full, lanes) as i:
            self._one(there, i.i, part, i.i, lanes)
        if lanes > 1:
            with f.when(full < stop):
                self._one(there, full, part, full, lanes, lanes_below(f, stop - full, lanes))
        return wrong

    def _each(self, whole: Pointer, at: Pointer, part: Pointer, band: Span, wrong: Value, lanes: int) -> Value:
        """Neighbours, each at a place of its own."""
        inner = whole.fn.args.inner
        return _each_place(at, band, wrong, lambda place, i: self._one(whole, place * inner + i, part, i))


def _each_place(index: Pointer, span: Span, wrong: Value, one: Callable[[Value, Value], None]) -> Value:
    """``one`` for every place of a stretch of the index; with what is wrong by then.

    Places that are all in range and counted from the front, as most are, are looked at together.
    """
    f, n, (start, stop) = index.fn, index.fn.args.n, span
    full = stop - (stop - start) % _TURN

    def as_they_are(first: Value) -> list[Value]:
        for i in (first + u for u in range(_TURN)):
            one(index.load(i), i)
        return [first.const(0)]

    def one_by_one(first: Value, count: int) -> list[Value]:
        found = first.const(0)
        for i in (first + u for u in range(count)):
            place, found = _inside(index.load(i), n, found)
            one(place, i)
        return [found]

    with f.loop(start, full, _TURN, carry=[wrong]) as turn:
        first, inside = turn.i, all_of(index.load(turn.i, _TURN).ult(splat(n, _TURN)))
        (found,) = f.choose(inside, lambda: as_they_are(first), lambda: one_by_one(first, _TURN))
        turn.values = [turn.values[0] | found]
    with f.loop(full, stop, carry=turn.values) as last:
        (found,) = one_by_one(last.i, 1)
        last.values = [last.values[0] | found]
    return last.values[0]


def _inside(place: Value, n: Value, wrong: Value) -> tuple[Value, Value]:
    """A place counted from the front, the first if there is none; and what is not 0 if one was out of range."""
    front = select(place < 0, place + n, place)
    held = select(front.ult(n), front, 0)
    return held, wrong | (front ^ held)
