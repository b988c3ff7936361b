"""Elements moved from one layout to another on all threads: views laid out in order, parts put beside each other.

Three walks serve every pair of layouts in which each side has neighbours somewhere::

    rows     both have neighbours along one axis: rows are copied, as they are or backwards, or one element along a row
    mixed    some few rows of one side take turns in a row of the other: pixels of channels, and back
    turned   each along an axis of its own: blocks of as many rows as a vector has lanes are transposed in registers
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from lucid.core import quiet
from lucid.core.geometry import Sizes
from lucid.kernels import jit, target
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    deinterleave,
    f32,
    f64,
    i16,
    i64,
    interleave,
    lanes_below,
    minimum,
    ptr,
    select,
    shuffle,
    splat,
    transpose,
)
from lucid.kernels.isa import ISA
from lucid.kernels.runtime import threads
from lucid.kernels.runtime.memory import address, empty

Array = np.ndarray[Any, Any]

#: Elements below which NumPy's copy costs less than a call of ours.
LEAST = 16384
#: Elements of a task.
_TASK = 8192
#: A task of turned blocks: neighbours in the result, neighbours in the source.
_TURNED = (128, 64)
#: Rows that are mixed; of more, turned blocks have enough columns.
_MIXED = (2, 3, 4)
#: By bytes of an element. Bits move as they are, whatever they stand for.
_TYPES: dict[int, Type] = {2: i16, 4: f32, 8: f64}
_PLANS = 1024


def contiguous(a: Array) -> Array:
    """The array itself if its elements lie in row-major order, else a copy in that order.

    >>> contiguous(np.arange(6).reshape(2, 3).T)
    array([[0, 3],
           [1, 4],
           [2, 5]])
    """
    if a.flags.c_contiguous:
        return a
    if a.size < LEAST:
        return np.ascontiguousarray(a)
    to: Array = empty(a.shape, a.dtype)
    move(a, to)
    return to


def move(source: Array, to: Array) -> None:
    """to[...] = source, which broadcasts to it; of one dtype, and apart in memory.

    Cost: that of memory, on all threads; NumPy's where arrays are small, or an element has neighbours on neither side.
    """
    plan = None
    if to.size >= LEAST and source.dtype == to.dtype and to.itemsize in _TYPES:
        key = (target.isa().name, source.shape, source.strides, to.shape, to.strides, to.itemsize)
        if key not in _plans:
            if len(_plans) >= _PLANS:
                _plans.clear()
            _plans[key] = _plan(source, to)
        plan = _plans[key]
    if plan is None:
        noise = quiet.begin()
        try:
            to[...] = source
        finally:
            quiet.end(noise)
        return
    threads.run(plan.entry, plan.pack(address(source), address(to), *plan.geometry), plan.tasks)


def join(shape: Sizes, strides: Sequence[Sizes]) -> tuple[Sizes, list[Sizes]]:
    """Drops axes of size 1, and joins neighbours that every operand walks through as through one."""
    axes: list[tuple[int, Sizes]] = []
    for n, *step in zip(shape, *strides, strict=True):
        if n == 1:
            continue
        if axes and all(before == after * n for before, after in zip(axes[-1][1], step, strict=True)):
            axes[-1] = (axes[-1][0] * n, tuple(step))
        else:
            axes.append((n, tuple(step)))
    if not axes:
        axes = [(1, (0,) * len(strides))]
    sizes = tuple(n for n, _ in axes)
    return sizes, [tuple(step[k] for _, step in axes) for k in range(len(strides))]


class _Plan(NamedTuple):
    """All that a call with arrays of known shapes and strides needs."""

    entry: int
    pack: Any
    geometry: tuple[int, ...]
    tasks: int


_plans: dict[Any, _Plan | None] = {}


def _plan(source: Array, to: Array) -> _Plan | None:
    """What to run; None where neither walk serves."""
    steps = [np.broadcast_to(source, to.shape).strides, to.strides]
    if any(step % to.itemsize for side in steps for step in side):
        return None
    order = sorted(range(to.ndim), key=lambda k: -abs(to.strides[k]))
    spread = [tuple(side[k] // to.itemsize for k in order) for side in steps]
    sizes, (first, last) = join(tuple(to.shape[k] for k in order), spread)
    element, rows = _TYPES[to.itemsize], first[-1] in (-1, 0, 1)
    if last[-1] != 1 or len(sizes) > (4 if rows else 5):
        return None
    if rows:
        return _rows(element, first[-1], sizes, first, last)
    if 1 not in first:
        return None
    down = first.index(1)
    if sizes[-1] in _MIXED and last[down] == sizes[-1]:
        return _mixed(element, "together", sizes, first, last)
    if sizes[down] in _MIXED and first[-1] == sizes[down]:
        return _mixed(element, "apart", sizes, first, last)
    if target.isa().lanes(element) == 1 or element == i16:
        return None
    return _turned(element, sizes, first, last)


def _rows(element: Type, inner: int, sizes: Sizes, first: Sizes, last: Sizes) -> _Plan:
    lead = 4 - len(sizes)
    sizes, first, last = (1,) * lead + sizes, (0,) * lead + first, (0,) * lead + last
    piece = min(sizes[3], _TASK)
    lines = max(1, min(sizes[2], _TASK // piece))
    parts = -(-sizes[2] // lines), -(-sizes[3] // piece)
    return _bound(
        ("move", "rows", element.bytes, inner), lambda isa: _write_rows(isa, element, inner),
        (*sizes[1:], lines, piece, *parts, *first[:3], *last[:3]), sizes[0] * sizes[1] * prod(parts),
    )  # fmt: skip


def _mixed(element: Type, way: str, sizes: Sizes, first: Sizes, last: Sizes) -> _Plan:
    """Rows of the source put "together" into one of the result, or a row of the source taken "apart" into some."""
    down, together = first.index(1), way == "together"
    count, n, step = (sizes[-1], sizes[down], first[-1]) if together else (sizes[down], sizes[-1], last[down])
    others = [k for k in range(len(sizes) - 1) if k != down]
    lead = 3 - len(others)
    outer = [*(1,) * lead, *(sizes[k] for k in others)]
    steps = [(*(0,) * lead, *(side[k] for k in others)) for side in (first, last)]
    piece = min(n, _TASK // count)
    lines = max(1, min(outer[2], _TASK // (count * piece)))
    groups = max(1, min(outer[1], _TASK // (count * piece * lines)))
    parts = -(-outer[1] // groups), -(-outer[2] // lines), -(-n // piece)
    return _bound(
        ("move", way, element.bytes, count), lambda isa: _write_mixed(isa, element, way, count),
        (*outer[1:], n, groups, lines, piece, *parts, step, *steps[0], *steps[1]), outer[0] * prod(parts),
    )  # fmt: skip


def _turned(element: Type, sizes: Sizes, first: Sizes, last: Sizes) -> _Plan:
    """``down`` is the axis along which the source has neighbours."""
    down = first.index(1)
    others = [k for k in range(len(sizes) - 1) if k != down]
    lead = 3 - len(others)
    outer = [*(1,) * lead, *(sizes[k] for k in others)]
    steps = [(*(0,) * lead, *(side[k] for k in others)) for side in (first, last)]
    n, height = sizes[-1], sizes[down]
    parts = -(-height // _TURNED[1]), -(-n // _TURNED[0])
    return _bound(
        ("move", "turned", element.bytes), lambda isa: _write_turned(isa, element),
        (*outer[1:], height, n, *parts, *steps[0], first[-1], *steps[1], last[down]), prod(outer) * prod(parts),
    )  # fmt: skip


def _bound(key: Any, write: Any, geometry: tuple[int, ...], tasks: int) -> _Plan:
    return _Plan(jit.kernel(key, write).address("run"), struct.Struct(f"{2 + len(geometry)}q").pack, geometry, tasks)


def _write_rows(isa: ISA, element: Type, inner: int) -> Module:
    """A task is some pieces of neighbouring rows."""
    m, lanes = Module("move_rows", isa), isa.lanes(element)
    names = (
        "second", "third", "n", "lines", "piece", "line_parts", "pieces",
        *(f"{side}_{k}" for side in ("source", "to") for k in range(3)),
    )  # fmt: skip
    f = m.entry("run", source=ptr(element), to=ptr(element), **dict.fromkeys(names, i64))
    a = f.args
    with f.loop(a.begin, a.end) as task:
        start, rest = task.i % a.pieces * a.piece, task.i // a.pieces
        line, rest = rest % a.line_parts * a.lines, rest // a.line_parts
        first, second = rest // a.second, rest % a.second
        stop = minimum(start + a.piece, a.n)
        whole = stop - (stop - start) % lanes
        source = a.source.at(first * a.source_0 + second * a.source_1)
        to = a.to.at(first * a.to_0 + second * a.to_1)
        with f.loop(line, minimum(line + a.lines, a.third)) as k:
            copy = _copy_backwards if inner < 0 else _copy
            copy(f, source.at(k.i * a.source_2), to.at(k.i * a.to_2), (start, whole, stop), lanes, inner)
    return m


def _copy(f: Function, source: Pointer, to: Pointer, ends: tuple[Value, ...], lanes: int, inner: int) -> None:
    """A piece of a row: whole vectors, then one under a mask; where ``inner`` is 0, its one element everywhere."""
    start, whole, stop = ends
    one = None if inner else source.load()

    def vector(i: Value, mask: Value | None) -> None:
        to.store(source.load(i, lanes, mask) if one is None else splat(one, lanes), i, mask)

    with f.loop(start, whole, lanes) as i:
        vector(i.i, None)
    if lanes > 1:
        with f.when(whole < stop):
            vector(whole, lanes_below(f, stop - whole, lanes))


def _copy_backwards(f: Function, source: Pointer, to: Pointer, ends: tuple[Value, ...], lanes: int, inner: int) -> None:
    """A piece of a row whose elements lie the other way round: vectors turned about, the last elements one by one."""
    start, whole, stop = ends
    with f.loop(start, whole, lanes) as i:
        found = source.load(1 - lanes - i.i, lanes)
        to.store(found if lanes == 1 else shuffle(found, None, range(lanes - 1, -1, -1)), i.i)
    with f.loop(whole, stop) as i:
        to.store(source.load(-i.i), i.i)


def _write_mixed(isa: ISA, element: Type, way: str, count: int) -> Module:
    """A task is some pieces of ``count`` rows, ``step`` apart, and of the row in which they take turns."""
    m, lanes = Module(f"move_{way}_{count}", isa), isa.lanes(element)
    names = (
        "second", "third", "n", "groups", "lines", "piece", "group_parts", "line_parts", "pieces", "step",
        *(f"{side}_{k}" for side in ("source", "to") for k in range(3)),
    )  # fmt: skip
    f = m.entry("run", source=ptr(element), to=ptr(element), **dict.fromkeys(names, i64))
    a = f.args
    mix = _together if way == "together" else _apart
    with f.loop(a.begin, a.end) as task:
        start, rest = task.i % a.pieces * a.piece, task.i // a.pieces
        line, rest = rest % a.line_parts * a.lines, rest // a.line_parts
        first, group = rest // a.group_parts, rest % a.group_parts * a.groups
        stop = minimum(start + a.piece, a.n)
        whole = stop - (stop - start) % lanes
        with (
            f.loop(group, minimum(group + a.groups, a.second)) as j,
            f.loop(line, minimum(line + a.lines, a.third)) as k,
        ):
            source = a.source.at(first * a.source_0 + j.i * a.source_1 + k.i * a.source_2)
            to = a.to.at(first * a.to_0 + j.i * a.to_1 + k.i * a.to_2)
            with f.loop(start, whole, lanes) as i:
                mix(source, to, a.step, i.i, lanes, count, None)
            if lanes > 1:
                with f.when(whole < stop):
                    mix(source, to, a.step, whole, lanes, count, stop - whole)
    return m


def _together(source: Pointer, to: Pointer, step: Value, i: Value, lanes: int, count: int, left: Value | None) -> None:
    """From i on a vector of each row, of which ``left`` elements, one after the other."""
    rows, mixed = _ends(source.fn, left, lanes, count)
    vectors = interleave([source.at(r * step).load(i, lanes, rows) for r in range(count)])
    for k, (vector, mask) in enumerate(zip(vectors, mixed, strict=True)):
        to.store(vector, i * count + k * lanes, mask)


def _apart(source: Pointer, to: Pointer, step: Value, i: Value, lanes: int, count: int, left: Value | None) -> None:
    """The inverse of ``_together``."""
    rows, mixed = _ends(source.fn, left, lanes, count)
    vectors = [source.load(i * count + k * lanes, lanes, mask) for k, mask in enumerate(mixed)]
    for r, vector in enumerate(deinterleave(vectors, count)):
        to.at(r * step).store(vector, i, rows)


def _ends(f: Function, left: Value | None, lanes: int, count: int) -> tuple[Value | None, list[Value | None]]:
    """The masks of vectors along rows of which so many elements are left, and of those in which they take turns."""
    if left is None:
        return None, [None] * count
    return lanes_below(f, left, lanes), [lanes_below(f, left * count - k * lanes, lanes) for k in range(count)]


def _write_turned(isa: ISA, element: Type) -> Module:
    """A task is some blocks of rows, which lie along memory in the source and across it in the result."""
    m, lanes = Module("move_turned", isa), isa.lanes(element)
    names = (
        "second", "third", "height", "n", "down_parts", "parts", *(f"source_{k}" for k in range(3)), "source_n",
        *(f"to_{k}" for k in range(3)), "to_down",
    )  # fmt: skip
    block = write_block(m, element, lanes)
    f = m.entry("run", source=ptr(element), to=ptr(element), **dict.fromkeys(names, i64))
    a = f.args
    with f.loop(a.begin, a.end) as task:
        left, rest = task.i % a.parts * _TURNED[0], task.i // a.parts
        top, rest = rest % a.down_parts * _TURNED[1], rest // a.down_parts
        third, rest = rest % a.third, rest // a.third
        first, second = rest // a.second, rest % a.second
        source = a.source.at(first * a.source_0 + second * a.source_1 + third * a.source_2)
        to = a.to.at(first * a.to_0 + second * a.to_1 + third * a.to_2)
        with f.loop(left, minimum(left + _TURNED[0], a.n), lanes) as i:
            f.call(
                block, source.at(i.i * a.source_n), to.at(i.i), a.source_n, a.to_down, top,
                minimum(top + _TURNED[1], a.height), a.n - i.i,
            )  # fmt: skip
    return m


def write_block(m: Module, element: Type, lanes: int) -> Function:
    """Adds ``block``: from ``top`` to ``stop`` of ``count`` rows of the source, or of as many as there are lanes."""
    f = m.function(
        "block", source=ptr(element), to=ptr(element), apart=i64, to_apart=i64, top=i64, stop=i64, count=i64
    )  # fmt: skip
    a = f.args
    last = minimum(a.count, lanes) - 1
    rows = [a.source.at(minimum(last, k) * a.apart) for k in range(lanes)]
    some = lanes_below(f, a.count, lanes)
    whole = select(a.count < lanes, a.top, a.stop - (a.stop - a.top) % lanes)
    with f.loop(a.top, whole, lanes) as k:
        for lane, column in enumerate(transpose([row.load(k.i, lanes) for row in rows])):
            a.to.store(column, (k.i + lane) * a.to_apart)
    with f.loop(whole, a.stop, lanes) as k:
        inside = lanes_below(f, a.stop - k.i, lanes)
        columns = transpose([row.load(k.i, lanes, inside) for row in rows])
        for lane, column in enumerate(columns):
            with f.when(k.i + lane < a.stop):
                a.to.store(column, (k.i + lane) * a.to_apart, some)
    return f
