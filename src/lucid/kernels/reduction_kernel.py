"""The native code of a reduction: sums of segments, then of the segments' sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lucid.kernels.elementwise import Formula, compute_type, number_values, read, stored_name
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
    fma,
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

BAND = 1024  #: neighbouring results of one task, where rows are added to each other
_AHEAD_BYTES = 2048  #: how far ahead a row is asked for, where it is summed along itself


@dataclass(frozen=True, slots=True)
class Combine:
    """How two partial results become one, and what changes nothing."""

    two: Callable[[Value, Value], Value]
    neutral: float
    exact: bool  # no rounding: needs no float64
    compensated: bool = False
    factors: int = 1  #: formulas that make a term: with two it is their product


COMBINE = {
    "sum": Combine(lambda a, b: a + b, 0.0, False, compensated=True),
    "products": Combine(lambda a, b: a + b, 0.0, False, compensated=True, factors=2),
    "product": Combine(lambda a, b: a * b, 1.0, False),
    "max": Combine(maximum, -np.inf, True),
    "top": Combine(lambda a, b: select(a > b, a, b), -np.inf, True),  # one instruction; NaN may vanish
    "min": Combine(minimum, np.inf, True),
}


@dataclass(frozen=True)
class Formulas:
    """What is summed, how, and what becomes of the sums; whether that is for ``more`` computing."""

    terms: Formula
    finish: Formula
    combine: Combine
    more: bool

    @property
    def numbers(self) -> tuple[str, ...]:
        """What both take beside arrays and sums."""
        return tuple(dict.fromkeys((*self.terms.numbers, *self.finish.numbers)))


#: Of the cut of the summed axes into segments, in every kernel's fields.
GEOMETRY = ("outer", "kept1", "inner", "across", "group", "piece", "pieces", "segments", "bands", "outs")


@dataclass(frozen=True)
class Kernel:
    """A reduction of arrays of these dtypes, summed ``along`` the inner axis or across it; ``inner`` strides 0 or 1."""

    formulas: Formulas
    dtypes: tuple[str, ...]
    along: bool
    inner: tuple[int, ...]

    @property
    def terms(self) -> int:
        """How many sums there are."""
        return len(self.formulas.terms.result_types(self.dtypes)) // self.formulas.combine.factors

    @property
    def results(self) -> int:
        """How many results there are."""
        return len(self.formulas.finish.result_types(("float64",) * self.terms))

    @property
    def element(self) -> Type:
        """The arrays' element type."""
        return compute_type(self.dtypes)

    @property
    def result_dtype(self) -> str:
        """Of the results."""
        return f"float{self.element.bits}" if self.formulas.more else stored_name(self.dtypes)

    @property
    def sums(self) -> Type:
        """The element type of the sums."""
        return self.element if self.formulas.combine.exact else f64

    @property
    def slots(self) -> str:
        """The slots of the entry points in the spelling of ``struct``: arrays, results, scratch, numbers, geometry."""
        strides = len(self.dtypes) * (3 if self.along else 4)
        arrays = len(self.dtypes) + self.results + 1
        return f"{arrays}q{len(self.formulas.numbers)}d{len(GEOMETRY) + strides}q"

    def _unroll(self, isa: ISA) -> int:
        """Vectors that are summed apart from each other, so that an addition need not wait for the one before: as many
        as leave a quarter of the registers free."""
        each = self.terms * self.sums.bytes // self.element.bytes
        return min(isa.registers // 8, max(1, isa.registers * 3 // 4 // each))

    def write(self, isa: ISA) -> Module:
        """Two entry points over the same fields: sums of segments, then of their sums."""
        m = Module(f"{self.formulas.terms.name}_{'_'.join(self.dtypes)}", isa)
        names = self.formulas.terms.arrays
        fields: dict[str, Type] = {n: ptr(BY_DTYPE[d]) for n, d in zip(names, self.dtypes, strict=True)}
        fields |= {f"out{k}": ptr(BY_DTYPE[self.result_dtype]) for k in range(self.results)}
        fields |= {"scratch": ptr(self.sums), **dict.fromkeys(self.formulas.numbers, f64)}
        axes = ("kept0", "outer", "kept1", "inner")[: 3 if self.along else 4]
        fields |= dict.fromkeys((*GEOMETRY, *(f"{n}_{axis}" for n in names for axis in axes)), i64)
        lanes = isa.lanes(self.element)
        _Partial(self, m.entry("partial", **fields), lanes, unroll=self._unroll(isa)).write()
        _write_finish(self, m.entry("finish", **fields), lanes)
        return m


class _Partial:
    """The entry point that sums segments. A task is a segment of a result, or of a band of neighbouring ones."""

    def __init__(self, kernel: Kernel, f: Function, lanes: int, unroll: int) -> None:
        self.kernel, self.f, self.lanes, self.combine = kernel, f, lanes, kernel.formulas.combine
        self.unroll = unroll
        self.computed = kernel.sums if self.combine.factors == 1 else kernel.element  # what formulas compute in
        self.numbers = number_values(f, self.computed, lanes, kernel.formulas.terms.numbers)

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
                for n in self.kernel.formulas.terms.arrays
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
        given = [v if v.type.element is i1 else convert(v, self.computed) for v in inputs]
        made = self.kernel.formulas.terms(given, self.numbers)
        if mask is not None:
            made = tuple(select(mask, v, self.combine.neutral) for v in made)
        out, first = list(totals), vector * self.kernel.terms
        for t, total in enumerate(out[first : first + self.kernel.terms], first):
            if self.combine.factors == 2:
                one, other = (convert(v, self.kernel.sums) for v in made[2 * (t - first) : 2 * (t - first) + 2])
                out[t] = fma(one, other, total)
            else:
                out[t] = self.combine.two(total, made[t - first])
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
        names = self.kernel.formulas.terms.arrays
        with f.loop(*rows, carry=self._start(self.unroll)) as row:
            operands = self._row([p.at(row.i * self._step(n, "outer")) for p, n in zip(first, names, strict=True)])
            with f.loop(start, fast, lanes * self.unroll, carry=row.values) as loop:
                self._prefetch(operands, loop.i, self.unroll, _AHEAD_BYTES)
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
        f, a, names = self.f, self.f.args, self.kernel.formulas.terms.arrays
        with f.loop(*rows, carry=self._start(vectors)) as outer:
            outers = [p.at(outer.i * self._step(n, "outer")) for p, n in zip(first, names, strict=True)]
            with f.loop(*columns, carry=outer.values) as inner:
                pointers = [p.at(inner.i * self._step(n, "inner")) for p, n in zip(outers, names, strict=True)]
                operands = self._row(pointers)
                if vectors > 1:
                    self._prefetch(operands, column + vectors * self.lanes, vectors)
                for u in range(vectors):
                    at_u = column + u * self.lanes
                    inner.values = self._add(inner.values, self._inputs(operands, at_u, mask), mask, u)
            outer.values = inner.values
        for u in range(vectors):
            for t in range(self.kernel.terms):
                place = at + a.segments * a.outs * t + column + u * self.lanes
                a.scratch.store(outer.values[u * self.kernel.terms + t], place, mask)

    def _prefetch(self, operands: Sequence[Pointer | Value], column: Value, vectors: int, ahead_bytes: int = 0) -> None:
        """Asks for columns of every row: rows far apart are more streams than a machine foresees."""
        for row in operands:
            if isinstance(row, Pointer):
                each = row.pointee.bytes
                for u in range(0, vectors * self.lanes, max(1, 64 // each)):
                    row.prefetch(column + (u + ahead_bytes // each), locality=2)


def across_lanes(value: Value, two: Callable[[Value, Value], Value]) -> Value:
    """The lanes of a vector combined, halves with halves: a fixed tree."""
    while value.type.lanes > 1:
        half = value.type.lanes // 2
        if half == 1:
            return two(extract(value, 0), extract(value, 1))
        value = two(shuffle(value, None, range(half)), shuffle(value, None, range(half, 2 * half)))
    return value


def _write_finish(kernel: Kernel, f: Function, lanes: int) -> None:
    """The entry point that sums the segments' sums. A task is a vector of results."""
    a, combine = f.args, kernel.formulas.combine
    numbers = number_values(f, kernel.sums, lanes, kernel.formulas.finish.numbers)
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
                values += _two_sum(total, part, lost) if combine.compensated else [combine.two(total, part), lost]
            loop.values = values
        sums = []
        for total, lost in zip(loop.values[::2], loop.values[1::2], strict=True):
            sums.append(select(absolute(total) < np.inf, total + lost, total) if combine.compensated else total)
        for k, result in enumerate(kernel.formulas.finish(sums, numbers)):
            out = getattr(a, f"out{k}")
            out.store(convert(convert(result, kernel.element), out.pointee), at, mask)


def _two_sum(a: Value, b: Value, lost: Value) -> list[Value]:
    """a + b rounded, and ``lost`` with what the rounding lost.

    Source: Knuth, The Art of Computer Programming 2, 4.2.2, theorem B.
    """
    s = a + b
    bb = s - a
    return [s, lost + ((a - (s - bb)) + (b - bb))]
