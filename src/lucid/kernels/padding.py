"""Arrays continued over the ends of their trailing axes, and the adjoint of that, a row at a time.

An axis is a table: which sample each of the result's is, or none, where the result is filled. The tables of all axes
but the last are joined to one of rows. A row's inside moves in vectors, its ends element by element::

    low | inside | high           padded    y[r] = ends and inside of x[rows[r]]
    2 1 | 0 1 2 3 | 2             added     x[s] = the sum of all y[r] with rows[r] = s, their ends folded back

What is added to one row is one task's, in order, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from lucid.core.dtypes import is_floating
from lucid.core.geometry import Sizes
from lucid.kernels import jit, target
from lucid.kernels.elementwise import compute_type, read, write
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    f32,
    f64,
    i16,
    i64,
    lanes_below,
    minimum,
    ptr,
    splat,
    vec,
)
from lucid.kernels.isa import ISA
from lucid.kernels.moving import contiguous
from lucid.kernels.runtime import threads
from lucid.kernels.runtime.memory import address, empty

Array = np.ndarray[Any, Any]
_TASK = 8192  #: elements of a task, about
#: By bytes of an element: what is moved has no type.
_MOVED: dict[int, Type] = {2: i16, 4: f32, 8: f64}
_GEOMETRY = ("height", "width", "out_height", "out_width", "start", "stop", "shift", "piece", "pieces")


class Table(NamedTuple):
    """An axis: the samples that come before the inside, where the inside begins and ends, those behind; -1 for none."""

    low: tuple[int, ...]
    first: int
    stop: int
    high: tuple[int, ...]

    @property
    def length(self) -> int:
        """Of the axis that it makes."""
        return len(self.low) + self.stop - self.first + len(self.high)

    @property
    def places(self) -> Array:
        """The sample that each is."""
        return np.array([*self.low, *range(self.first, self.stop), *self.high], np.int64)


def moves(x: Array) -> bool:
    """Whether ``padded`` is for such elements."""
    return x.itemsize in _MOVED and not x.dtype.hasobject


def padded(x: Array, tables: Sequence[Table], fill: float = 0.0) -> Array:
    """x by a table for each of its last axes; where they say -1 it is ``fill``.

    >>> padded(np.array([1.0, 2.0, 3.0]), [Table((1,), 0, 3, (-1,))], 7.0)
    array([2., 1., 2., 3., 7.])
    """
    plan = _plan(x.dtype, x.shape, tuple(tables), False, target.isa().name)
    return _run(plan, contiguous(x), (), np.array(fill, x.dtype))


def adds(h: Array) -> bool:
    """Whether ``added`` is for such an array."""
    return is_floating(h.dtype)


def added(h: Array, tables: Sequence[Table], size: Sizes) -> Array:
    """The adjoint of ``padded``: what was copied is added to the samples, of ``size``, that it came from.

    >>> added(np.array([1.0, 10.0, 100.0]), [Table((0,), 0, 2, ())], (2,))
    array([ 11., 100.])
    """
    shape = (*h.shape[: h.ndim - len(size)], *size)
    plan = _plan(h.dtype, shape, tuple(tables), True, target.isa().name)
    return _run(plan, contiguous(h), plan.more, np.zeros((), h.dtype))


class _Plan(NamedTuple):
    """All that a call with arrays of known shapes needs; the tables are of rows, of columns and what is ``more``."""

    entry: int
    pack: Callable[..., bytes]
    geometry: tuple[int, ...]
    tasks: int
    chunk: int
    shape: Sizes
    rows: Array
    columns: Array
    more: tuple[Array, ...]


def _run(plan: _Plan, given: Array, more: Sequence[Array], fill: Array) -> Array:
    made = empty(plan.shape, given.dtype)
    if made.size:
        tables = [address(a) for a in (plan.rows, plan.columns, *more)]
        slots = plan.pack(address(given), address(made), address(fill), *tables, *plan.geometry)
        threads.run(plan.entry, slots, plan.tasks, chunk=plan.chunk)
    return made


@lru_cache(maxsize=256)
def _plan(dtype: np.dtype[Any], shape: Sizes, tables: tuple[Table, ...], adjoint: bool, isa: str) -> _Plan:
    """``shape`` is that of what has no padding."""
    still = len(shape) - len(tables)
    planes, height, width = prod(shape[:still]), prod(shape[still:-1]), shape[-1]
    rows, line = _joined(tables[:-1], shape[still:-1]), tables[-1]
    columns, start = np.array([*line.low, *line.high], np.int64), len(line.low)
    stop = line.length - len(line.high)
    kernel = _Added(dtype.name) if adjoint else _Padded(_MOVED[dtype.itemsize])
    lines = height if adjoint else len(rows)
    piece = max(1, min(_TASK // max(line.length, 1), lines))
    pieces = -(-lines // piece)
    more = _sources(rows, height) if adjoint else ()
    geometry = (height, width, len(rows), line.length, start, stop, line.first - start, piece, pieces)
    return _Plan(
        entry=jit.kernel(kernel, kernel.write).address("run"),
        pack=struct.Struct(f"{5 + len(more) + len(_GEOMETRY)}q").pack,
        geometry=geometry,
        tasks=planes * pieces,
        chunk=max(1, _TASK // max(piece * line.length, 1)),
        shape=shape if adjoint else (*shape[:still], *[table.length for table in tables]),
        rows=rows,
        columns=columns,
        more=more,
    )


def _joined(tables: Sequence[Table], size: Sizes) -> Array:
    """One table of the rows that several axes make."""
    rows: Array = np.zeros(1, np.int64)
    for table, n in zip(tables, size, strict=True):
        axis = table.places
        both = rows[:, None] * n + axis
        rows = np.where((rows[:, None] < 0) | (axis < 0), -1, both).reshape(-1)
    return rows


def _sources(rows: Array, height: int) -> tuple[Array, Array]:
    """Where each row's list begins, and the lists: of the result's rows that are it."""
    order = np.argsort(rows, kind="stable")
    return np.searchsorted(rows[order], np.arange(height + 1)).astype(np.int64), order.astype(np.int64)


@dataclass(frozen=True)
class _Padded:
    """Rows of a result, moved."""

    element: Type

    def write(self, isa: ISA) -> Module:
        """A task is a piece of a plane's rows."""
        m, lanes = Module(f"padded_{self.element}", isa), isa.lanes(self.element)
        f = _entry(m, self.element, ())
        a = f.args
        fill = a.fill.load()
        with f.loop(a.begin, a.end) as task:
            plane, line = task.i // a.pieces, task.i % a.pieces * a.piece
            x, y = a.given.at(plane * a.height * a.width), a.made.at(plane * a.out_height * a.out_width)
            with f.loop(line, minimum(line + a.piece, a.out_height)) as r:
                source, to = a.rows.load(r.i), y.at(r.i * a.out_width)

                def filled(to: Pointer = to) -> list[Value]:
                    with f.loop(0, a.out_width, lanes) as i:
                        to.store(splat(fill, lanes), i.i, _below(f, a.out_width - i.i, lanes))
                    return []

                def copied(to: Pointer = to, source: Value = source) -> list[Value]:
                    row = x.at(source * a.width)
                    _vectors(f, lanes, lambda i, mask: to.store(row.load(i + a.shift, lanes, mask), i, mask))
                    for end, column in _ends(f):
                        (value,) = f.choose(column < 0, lambda: [fill], partial(_one, row, column))
                        to.store(value, end)
                    return []

                f.choose(source < 0, filled, copied)
        return m


@dataclass(frozen=True)
class _Added:
    """Rows of what was padded, of the sums of those that they became."""

    dtype: str

    def write(self, isa: ISA) -> Module:
        """A task is a piece of a plane's rows."""
        element, stored = compute_type((self.dtype,)), BY_DTYPE[self.dtype]
        m, lanes = Module(f"pad_added_{self.dtype}", isa), isa.lanes(element)
        f = _entry(m, stored, ("lists", "members"))
        a = f.args
        with f.loop(a.begin, a.end) as task:
            plane, line = task.i // a.pieces, task.i % a.pieces * a.piece
            h, y = a.given.at(plane * a.out_height * a.out_width), a.made.at(plane * a.height * a.width)
            with f.loop(line, minimum(line + a.piece, a.height)) as r:
                to, first, last = y.at(r.i * a.width), a.lists.load(r.i), a.lists.load(r.i + 1)

                def row(k: Value) -> Pointer:
                    found: Pointer = h.at(a.members.load(k) * a.out_width)
                    return found

                def summed(i: Value, mask: Value | None, first: Value = first, last: Value = last) -> Value:
                    with f.loop(first, last, carry=[f.const(vec(element, lanes), 0.0)]) as k:
                        k.values = [k.values[0] + read(row(k.i), i, lanes, mask)]
                    return k.values[0]

                with f.when(a.stop - a.start < a.width), f.loop(0, a.width, lanes) as i:
                    write(to, f.const(vec(element, lanes), 0.0), i.i, _below(f, a.width - i.i, lanes))

                def put(i: Value, mask: Value | None, to: Pointer = to) -> None:
                    write(to, summed(i, mask), i + a.shift, mask)

                _vectors(f, lanes, put)
                for end, column in _ends(f):
                    with f.when(column >= 0):
                        with f.loop(first, last, carry=[read(to, column, 1, None)]) as k:
                            k.values = [k.values[0] + read(row(k.i), end, 1, None)]
                        write(to, k.values[0], column, None)
        return m


def _entry(m: Module, element: Type, tables: Sequence[str]) -> Function:
    fields = {"given": ptr(element), "made": ptr(element), "fill": ptr(element)}
    named = dict.fromkeys(("rows", "columns", *tables), ptr(i64))
    return m.entry("run", **fields, **named, **dict.fromkeys(_GEOMETRY, i64))


def _below(f: Function, count: Value, lanes: int) -> Value | None:
    return None if lanes == 1 else lanes_below(f, count, lanes)


def _ends(f: Function) -> Iterator[tuple[Value, Value]]:
    """Every place of a row before the inside and behind it, and its column."""
    a = f.args
    for first, stop, past in ((f.const(i64, 0), a.start, f.const(i64, 0)), (a.stop, a.out_width, a.stop - a.start)):
        with f.loop(first, stop) as i:
            yield i.i, a.columns.load(i.i - past)


def _one(row: Pointer, place: Value) -> list[Value]:
    return [row.load(place)]


def _vectors(f: Function, lanes: int, one: Callable[[Value, Value | None], None]) -> None:
    """The inside of a row: whole vectors, then one under a mask."""
    start, stop = f.args.start, f.args.stop
    full = stop - (stop - start) % lanes
    with f.loop(start, full, lanes) as i:
        one(i.i, None)
    if lanes > 1:
        with f.when(full < stop):
            one(full, lanes_below(f, stop - full, lanes))
