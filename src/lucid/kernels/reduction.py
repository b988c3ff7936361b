"""Sums, products of sums, largest and smallest elements along any axes, from formulas, in one pass over memory.

A reduction has two formulas. ``terms`` makes what is summed, of arrays that broadcast; ``finish`` makes of the sums
the results. Both may take numbers, keyword-only, that change from call to call::

    moments = Reduction(
        "moments",
        terms=lambda x: (x, x * x),
        finish=lambda s, q, *, inverse: (s * inverse, q * inverse - (s * inverse) * (s * inverse)),
    )
    mean, variance = moments(x, axes=(0, 2, 3), inverse=1 / 1000)

Sums are kept in float64, whatever the arrays are. What is summed is cut into segments by the shape alone; the segments'
sums are added in order with compensation. So the bits do not depend on the number of threads, and a sum of float32 is
right to the last bit but for rare ties.

Cost: the arrays are read once; 8 bytes of scratch a segment (16384 elements) and result.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from lucid.core.dtypes import as_dtype
from lucid.core.geometry import Sizes, broadcast_shape
from lucid.kernels import jit, target
from lucid.kernels.elementwise import Array, Formula, compute_type, number_values, read, stored_name
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    absolute,
    convert,
    extract,
    f64,
    i1,
    i64,
    lanes_below,
    maximum,
    minimum,
    ptr,
    select,
    shuffle,
    splat,
    vec,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import address
from lucid.kernels.runtime import threads
from lucid.kernels.runtime.memory import empty

SEGMENT_BYTES = 64 << 10  #: what one partial sum covers, of one array, where rows are summed along themselves
SEGMENT_ROWS = 256  #: rows of one partial sum, where rows are added to each other
BAND = 1024  #: neighbouring results of one task, where rows are added to each other
GRAIN = 16384  #: elements of a chunk of tasks, at least
_PLANS = 1024


@dataclass(frozen=True, slots=True)
class Axis:
    """Axes joined to one: its size, whether it is summed over, every operand's stride in elements."""

    size: int
    summed: bool
    strides: Sizes


def arrange(shape: Sizes, strides: Sequence[Sizes], axes: Sequence[int]) -> list[Axis]:
    """The axes of broadcast operands: those of size 1 dropped, neighbours of one kind joined where they can be."""
    joined: list[Axis] = []
    for k, n in enumerate(shape):
        step = tuple(s[k] for s in strides)
        last = joined[-1] if joined else None
        if n == 1:
            continue
        alike = last is not None and last.summed == (k in axes)
        if last and alike and all(b == a * n for b, a in zip(last.strides, step, strict=True)):
            joined[-1] = Axis(last.size * n, last.summed, step)
        else:
            joined.append(Axis(n, k in axes, step))
    return joined


def _fit(axes: Sequence[Axis], operands: int) -> tuple[bool, list[Axis]] | None:
    """Axes as (kept, summed, kept, summed[, kept]), missing ones of size 1; None if they do not alternate like that.

    The flag says whether the innermost is summed.
    """
    along = not axes or axes[-1].summed
    wanted = (False, True, False, True) if along else (False, True, False, True, False)
    slots, rest = [], list(axes)
    for summed in reversed(wanted):
        if rest and rest[-1].summed == summed:
            slots.append(rest.pop())
        else:
            slots.append(Axis(1, summed, (0,) * operands))
    if rest or any(s not in (0, 1) for s in slots[0].strides):
        return None
    return along, slots[::-1]


@dataclass(frozen=True, slots=True)
class _Combine:
    """How two partial results become one, and what changes nothing."""

    two: Callable[[Value, Value], Value]
    neutral: float
    exact: bool  # no rounding: needs neither float64 nor compensation


COMBINE = {
    "sum": _Combine(lambda a, b: a + b, 0.0, False),
    "max": _Combine(maximum, -np.inf, True),
    "top": _Combine(lambda a, b: select(a > b, a, b), -np.inf, True),  # one instruction; NaN may vanish
    "min": _Combine(minimum, np.inf, True),
}


def _same(*sums: Value) -> tuple[Value, ...]:
    return sums


class Reduction:
    """A kernel that sums the terms of one formula and makes the results of another.

    They have the dtype of the arrays, or where they are for ``more`` computing that in which these are computed with.

    >>> total = Reduction("total", terms=lambda x, y: x * y)
    >>> total(np.ones((2, 3), "f"), np.arange(3, dtype="f"), axes=(1,))
    array([3., 3.], dtype=float32)
    """

    def __init__(
        self,
        name: str,
        terms: Callable[..., Any],
        finish: Callable[..., Any] | None = None,
        combine: str = "sum",
        more: bool = False,
    ) -> None:
        self.terms, self.combine, self.more = Formula(name, terms), COMBINE[combine], more
        self.finish = Formula(name, finish or _same)
        self.numbers = tuple(dict.fromkeys((*self.terms.numbers, *self.finish.numbers)))
        self._plans: dict[Any, _Plan] = {}

    def __repr__(self) -> str:
        return f"Reduction({self.terms.name})"

    def __call__(self, *arrays: Array, axes: tuple[int, ...], **numbers: float) -> Any:
        """Sums over ``axes`` (not negative) of what the arrays broadcast to. The results have the other axes."""
        key = (target.isa().name, axes, *[(a.shape, a.strides, a.dtype) for a in arrays])
        plan = self._plans.get(key) or self._plan(key, arrays, axes)
        if plan.order:
            arrays = tuple(np.ascontiguousarray(np.broadcast_to(a, plan.shape).transpose(plan.order)) for a in arrays)
        results = [empty(plan.kept, plan.dtype) for _ in range(plan.results)]
        scratch = empty(plan.scratch, plan.scratch_dtype)
        packed = plan.pack(
            *[address(a) for a in arrays],
            *[address(a) for a in results],
            address(scratch),
            *[numbers[n] for n in self.numbers],
            *plan.geometry,
        )
        slots = (ctypes.c_int64 * (len(packed) // 8)).from_buffer_copy(packed)
        partial, finish = plan.entries
        threads.run_steps(((partial, slots, plan.tasks, plan.chunk), (finish, slots, plan.blocks, 16)))
        return results[0] if len(results) == 1 else tuple(results)

    def _plan(self, key: Any, arrays: Sequence[Array], axes: tuple[int, ...]) -> _Plan:
        dtypes = tuple(a.dtype.name for a in arrays)
        element = compute_type(dtypes)
        shape = broadcast_shape(*(a.shape for a in arrays))
        spread = [np.broadcast_to(a, shape) for a in arrays]
        fitted = _fit(arrange(shape, [_strides(a) for a in spread], axes), len(arrays))
        order: tuple[int, ...] = ()
        if fitted is None:
            order = tuple(k for k in range(len(shape)) if k not in axes) + tuple(sorted(axes))
            sizes = tuple(shape[k] for k in order)
            step = tuple(prod(sizes[k + 1 :]) for k in range(len(sizes)))
            inside = range(len(shape) - len(axes), len(shape))
            fitted = _fit(arrange(sizes, [step] * len(arrays), inside), len(arrays))
            assert fitted is not None, "kept axes before summed ones always fit"
        along, slots = fitted
        made = _Kernel(self, dtypes, along, tuple(slots[-1].strides))
        code = jit.kernel(made, made.write)
        cut = _Cut.of(along, slots, element.bytes)
        kept = tuple(n for k, n in enumerate(shape) if k not in axes)
        lanes = target.isa().lanes(element)
        if len(self._plans) >= _PLANS:
            self._plans.clear()
        plan = self._plans[key] = _Plan(
            entries=(code.address("partial"), code.address("finish")),
            pack=struct.Struct(made.slots).pack,
            geometry=(*cut.geometry, *(axis.strides[k] for k in range(len(arrays)) for axis in slots[:-1])),
            order=order,
            shape=shape,
            kept=kept,
            dtype=as_dtype(made.result_dtype).numpy,
            results=made.results,
            scratch=made.terms * cut.segments * prod(kept),
            scratch_dtype=np.dtype(f"float{made.sums.bits}"),
            tasks=cut.tasks,
            chunk=cut.chunk,
            blocks=-(-prod(kept) // lanes),
        )
        return plan


def _strides(a: Array) -> Sizes:
    return tuple(0 if n == 1 else s // a.itemsize for n, s in zip(a.shape, a.strides, strict=True))


@dataclass(frozen=True, slots=True)
class _Cut:
    """What is summed, cut into segments: groups of outer steps, or pieces of the inner axis; and the grid of tasks."""

    geometry: tuple[int, ...]
    segments: int
    tasks: int
    chunk: int

    @staticmethod
    def of(along: bool, slots: Sequence[Axis], element_bytes: int) -> _Cut:
        """The cut of (kept, summed, kept, summed[, kept]) axes; it depends on nothing else."""
        kept0, outer, kept1, inner = (a.size for a in slots[:4])
        across = 1 if along else slots[4].size
        most = SEGMENT_BYTES // element_bytes if along else SEGMENT_ROWS
        piece, group = min(max(inner, 1), most), max(1, most // max(inner, 1))
        pieces, groups, bands = -(-inner // piece), -(-outer // group), -(-across // BAND)
        segments = pieces * groups
        work = max(1, piece * min(group, max(outer, 1)) * min(across, BAND))
        return _Cut(
            (outer, kept1, inner, across, group, piece, pieces, segments, bands, kept0 * kept1 * across),
            segments,
            kept0 * kept1 * segments * bands,
            max(1, GRAIN // work),
        )


_GEOMETRY = ("outer", "kept1", "inner", "across", "group", "piece", "pieces", "segments", "bands", "outs")


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that a call with arrays of known shapes and strides needs."""

    entries: tuple[int, int]
    pack: Callable[..., bytes]
    geometry: tuple[int, ...]
    order: tuple[int, ...]
    shape: Sizes
    kept: Sizes
    dtype: np.dtype[Any]
    results: int
    scratch: int
    scratch_dtype: np.dtype[Any]
    tasks: int
    chunk: int
    blocks: int


@dataclass(frozen=True)
class _Kernel:
    """A reduction of arrays of these dtypes, summed ``along`` the inner axis or across it; ``inner`` strides 0 or 1."""

    reduction: Reduction
    dtypes: tuple[str, ...]
    along: bool
    inner: tuple[int, ...]

    @property
    def terms(self) -> int:
        """How many sums there are."""
        return len(self.reduction.terms.result_types(self.dtypes))

    @property
    def results(self) -> int:
        """How many results there are."""
        return len(self.reduction.finish.result_types(("float64",) * self.terms))

    @property
    def element(self) -> Type:
        """The arrays' element type."""
        return compute_type(self.dtypes)

    @property
    def result_dtype(self) -> str:
        """Of the results."""
        return f"float{self.element.bits}" if self.reduction.more else stored_name(self.dtypes)

    @property
    def sums(self) -> Type:
        """The element type of the sums."""
        return self.element if self.reduction.combine.exact else f64

    @property
    def slots(self) -> str:
        """The slots of the entry points in the spelling of ``struct``: arrays, results, scratch, numbers, geometry."""
        strides = len(self.dtypes) * (3 if self.along else 4)
        arrays = len(self.dtypes) + self.results + 1
        return f"{arrays}q{len(self.reduction.numbers)}d{len(_GEOMETRY) + strides}q"

    def write(self, isa: ISA) -> Module:
        """Two entry points over the same fields: sums of segments, then of their sums."""
        m = Module(f"{self.reduction.terms.name}_{'_'.join(self.dtypes)}", isa)
        names = self.reduction.terms.arrays
        fields: dict[str, Type] = {n: ptr(BY_DTYPE[d]) for n, d in zip(names, self.dtypes, strict=True)}
        fields |= {f"out{k}": ptr(BY_DTYPE[self.result_dtype]) for k in range(self.results)}
        fields |= {"scratch": ptr(self.sums), **dict.fromkeys(self.reduction.numbers, f64)}
        axes = ("kept0", "outer", "kept1", "inner")[: 3 if self.along else 4]
        fields |= dict.fromkeys((*_GEOMETRY, *(f"{n}_{axis}" for n in names for axis in axes)), i64)
        lanes = isa.lanes(self.element)
        _Partial(self, m.entry("partial", **fields), lanes, unroll=isa.registers // 8).write()
        _write_finish(self, m.entry("finish", **fields), lanes)
        return m


class _Partial:
    """The entry point that sums segments. A task is a segment of a result, or of a band of neighbouring ones."""

    def __init__(self, kernel: _Kernel, f: Function, lanes: int, unroll: int) -> None:
        self.kernel, self.f, self.lanes, self.combine = kernel, f, lanes, kernel.reduction.combine
        self.unroll = unroll  # vectors summed apart from each other: an addition need not wait for the one before
        self.numbers = number_values(f, kernel.sums, lanes, kernel.reduction.terms.numbers)

    def write(self) -> None:
        a = self.f.args
        with self.f.loop(a.begin, a.end) as task:
            band, rest = task.i % a.bands, task.i // a.bands
            segment, kept = rest % a.segments, rest // a.segments
            group, piece = segment // a.pieces * a.group, segment % a.pieces * a.piece
            rows = (group, minimum(group + a.group, a.outer))
            columns = (piece, minimum(piece + a.piece, a.inner))
            k0, k1 = kept // a.kept1, kept % a.kept1
            first = [
                getattr(a, n).at(k0 * getattr(a, f"{n}_kept0") + k1 * getattr(a, f"{n}_kept1"))
                for n in self.kernel.reduction.terms.arrays
            ]
            target_at = segment * a.outs + kept * a.across
            if self.kernel.along:
                self._along(first, rows, columns, target_at)
            else:
                self._across(first, rows, columns, target_at, band * BAND)

    def _step(self, name: str, axis: str) -> Value:
        value: Value = getattr(self.f.args, f"{name}_{axis}")
        return value

    def _start(self, vectors: int) -> list[Value]:
        """What nothing was added to, for every term and vector."""
        neutral = self.f.const(vec(self.kernel.sums, self.lanes), self.combine.neutral)
        return [neutral] * (vectors * self.kernel.terms)

    def _add(self, totals: list[Value], inputs: list[Value], mask: Value | None, vector: int) -> list[Value]:
        """Totals with the terms of one vector of every array."""
        wide = [v if v.type.element is i1 else convert(v, self.kernel.sums) for v in inputs]
        out = list(totals)
        for t, term in enumerate(self.kernel.reduction.terms(wide, self.numbers)):
            k = vector * self.kernel.terms + t
            out[k] = self.combine.two(out[k], term if mask is None else select(mask, term, self.combine.neutral))
        return out

    def _inputs(self, rows: list[Pointer | Value], i: Value, mask: Value | None) -> list[Value]:
        return [read(r, i, self.lanes, mask) if isinstance(r, Pointer) else r for r in rows]

    def _row(self, pointers: Sequence[Pointer]) -> list[Pointer | Value]:
        """Operands of a row: where it begins, or the number that it has everywhere."""
        return [
            p if step else splat(read(p, 0, 1, None), self.lanes)
            for p, step in zip(pointers, self.kernel.inner, strict=True)
        ]

    def _along(self, first: list[Pointer], rows: tuple[Value, Value], columns: tuple[Value, Value], at: Value) -> None:
        f, lanes = self.f, self.lanes
        start, stop = columns
        whole = stop - (stop - start) % lanes
        fast = stop - (stop - start) % (lanes * self.unroll)
        names = self.kernel.reduction.terms.arrays
        with f.loop(*rows, carry=self._start(self.unroll)) as row:
            operands = self._row([p.at(row.i * self._step(n, "outer")) for p, n in zip(first, names, strict=True)])
            with f.loop(start, fast, lanes * self.unroll, carry=row.values) as loop:
                for u in range(self.unroll):
                    loop.values = self._add(loop.values, self._inputs(operands, loop.i + u * lanes, None), None, u)
            with f.loop(fast, whole, lanes, carry=loop.values) as single:
                single.values = self._add(single.values, self._inputs(operands, single.i, None), None, 0)
            row.values = single.values
            if lanes > 1:
                mask, before = lanes_below(f, stop - whole, lanes), row.values
                row.values = f.choose(
                    whole < stop,
                    lambda: self._add(before, self._inputs(operands, whole, mask), mask, 0),
                    lambda: before,
                )
        terms, a = self.kernel.terms, f.args
        for t in range(terms):
            total = row.values[t]
            for u in range(1, self.unroll):
                total = self.combine.two(total, row.values[u * terms + t])
            a.scratch.store(across_lanes(total, self.combine.two), at + a.segments * a.outs * t)

    def _across(
        self,
        first: list[Pointer],
        rows: tuple[Value, Value],
        columns: tuple[Value, Value],
        at: Value,
        start: Value,
    ) -> None:
        f, lanes, a = self.f, self.lanes, self.f.args
        stop = minimum(start + BAND, a.across)
        whole = stop - (stop - start) % lanes
        fast = stop - (stop - start) % (lanes * self.unroll)
        with f.loop(start, fast, lanes * self.unroll) as loop:
            self._columns(first, rows, columns, at, loop.i, self.unroll, None)
        with f.loop(fast, whole, lanes) as loop:
            self._columns(first, rows, columns, at, loop.i, 1, None)
        if lanes > 1:
            with f.when(whole < stop):
                self._columns(first, rows, columns, at, whole, 1, lanes_below(f, stop - whole, lanes))

    def _columns(
        self,
        first: list[Pointer],
        rows: tuple[Value, Value],
        columns: tuple[Value, Value],
        at: Value,
        column: Value,
        vectors: int,
        mask: Value | None,
    ) -> None:
        f, a, names = self.f, self.f.args, self.kernel.reduction.terms.arrays
        with f.loop(*rows, carry=self._start(vectors)) as outer:
            outers = [p.at(outer.i * self._step(n, "outer")) for p, n in zip(first, names, strict=True)]
            with f.loop(*columns, carry=outer.values) as inner:
                pointers = [p.at(inner.i * self._step(n, "inner")) for p, n in zip(outers, names, strict=True)]
                operands = self._row(pointers)
                if vectors > 1:
                    self._prefetch(pointers, column + vectors * self.lanes, vectors)
                for u in range(vectors):
                    at_u = column + u * self.lanes
                    inner.values = self._add(inner.values, self._inputs(operands, at_u, mask), mask, u)
            outer.values = inner.values
        for u in range(vectors):
            for t in range(self.kernel.terms):
                place = at + a.segments * a.outs * t + column + u * self.lanes
                a.scratch.store(outer.values[u * self.kernel.terms + t], place, mask)

    def _prefetch(self, pointers: Sequence[Pointer], column: Value, vectors: int) -> None:
        """Asks for the columns that come after these: rows far apart are more streams than a machine foresees."""
        for p, step in zip(pointers, self.kernel.inner, strict=True):
            for u in range(0, vectors * self.lanes if step else 0, max(1, 64 // p.pointee.bytes)):
                p.prefetch(column + u, locality=2)


def across_lanes(value: Value, two: Callable[[Value, Value], Value]) -> Value:
    """The lanes of a vector combined, halves with halves: a fixed tree."""
    while value.type.lanes > 1:
        half = value.type.lanes // 2
        if half == 1:
            return two(extract(value, 0), extract(value, 1))
        value = two(shuffle(value, None, range(half)), shuffle(value, None, range(half, 2 * half)))
    return value


def _write_finish(kernel: _Kernel, f: Function, lanes: int) -> None:
    """The entry point that sums the segments' sums. A task is a vector of results."""
    a, combine = f.args, kernel.reduction.combine
    numbers = number_values(f, kernel.sums, lanes, kernel.reduction.finish.numbers)
    zero = f.const(vec(kernel.sums, lanes), 0.0)
    neutral = f.const(vec(kernel.sums, lanes), combine.neutral)
    with f.loop(a.begin, a.end) as task:
        at = task.i * lanes
        mask = lanes_below(f, a.outs - at, lanes)
        with f.loop(0, a.segments, carry=[neutral, zero] * kernel.terms) as loop:
            values = []
            for t in range(kernel.terms):
                part = a.scratch.load((loop.i + a.segments * t) * a.outs + at, lanes, mask)
                total, lost = loop.values[2 * t : 2 * t + 2]
                values += [combine.two(total, part), lost] if combine.exact else _two_sum(total, part, lost)
            loop.values = values
        sums = []
        for total, lost in zip(loop.values[::2], loop.values[1::2], strict=True):
            sums.append(total if combine.exact else select(absolute(total) < np.inf, total + lost, total))
        for k, result in enumerate(kernel.reduction.finish(sums, numbers)):
            out = getattr(a, f"out{k}")
            out.store(convert(convert(result, kernel.element), out.pointee), at, mask)


def _two_sum(a: Value, b: Value, lost: Value) -> list[Value]:
    """a + b rounded, and ``lost`` with what the rounding lost.

    Source: Knuth, The Art of Computer Programming 2, 4.2.2, theorem B.
    """
    s = a + b
    bb = s - a
    return [s, lost + ((a - (s - bb)) + (b - bb))]


#: factor times the sum over the axes; with factor 1 / n their mean.
scaled_sum = Reduction("scaled_sum", terms=lambda x: x, finish=lambda total, *, factor: total * factor)
