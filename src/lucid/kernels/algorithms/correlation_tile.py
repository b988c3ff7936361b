"""A correlation's tile of sums in registers, and how it reads its source.

``results`` by ``rows`` by ``vectors`` of sums. If neighbouring rows share source rows (``span`` taps down, next to each
other in the source), a load serves up to ``span`` of them. Few taps are written out.

A source row is read in one of two ways. From a *frame*, a copy with zeros around it, whose rows are a pitch apart. Or
*in place*: a table has the address of every row, those outside lead to a row of zeros, and columns outside are masked.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import product

from lucid.kernels.algorithms import toeplitz
from lucid.kernels.epilogue import Arrays, Destination, parameters
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    computed,
    fma,
    i64,
    interleave,
    lanes_below,
    lanes_inside,
    ptr,
)
from lucid.kernels.plan import Epilogue

#: How far before it is read memory is asked for: the machine's own guesses end with a page.
_AHEAD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Tile:
    """``results`` by ``rows`` by ``vectors`` of sums in registers, for each of ``phases`` side by side."""

    rows: int
    vectors: int
    span: int = 1  #: taps down that a source row serves
    step: int = 1  #: source rows from one row of results to the next, if it serves several
    results: int = 1
    phases: int = 1
    taps: int = 0  #: heads that are written out, the same number for every phase; 0: counted at run time
    group: int = 0  #: if positive, taps of a row are many and next to each other, and so many are held
    in_place: bool = False  #: the source is read where it lies, not from a frame
    stream: bool = False  #: whole vectors go past the caches
    rest: int = 0  #: taps down that are left where ``span`` serves a part of them at a time

    @property
    def sums(self) -> int:
        """Vectors of one phase."""
        return self.results * self.rows * self.vectors

    @property
    def sources(self) -> int:
        """Rows of the source that a head reads."""
        return (self.rows - 1) * self.step + self.span

    @property
    def registers(self) -> int:
        """How many its inner loop holds."""
        if self.group:
            return self.vectors + self.group + 1
        return self.phases * self.sums + self.vectors + self.results * self.span + 1

    @property
    def lines(self) -> int:
        """Of LLVM text, all taps written out."""
        head = self.sources * (self.vectors * 2 + 1) + self.results * self.span * (self.rows * self.vectors + 4)
        return self.phases * self.taps * (head + 4)

    def cycles(self, heads: float, row_taps: int, lanes: int, element: Type) -> float:
        """Of one tile with so many taps of all phases: two products or lines of the cache a cycle."""
        touched = toeplitz.straddle(lanes * element.bytes)
        if self.group:
            rows = heads / row_taps
            return rows * toeplitz.cycles(row_taps, lanes, self.vectors, self.group, touched) + 1.5 * self.vectors + 16
        products = self.sums * self.span
        lines = touched * self.sources * self.vectors + self.results * self.span + 2
        each = max(products, lines) / 2 if self.taps else max(products, lines, 8) / 2 + 1
        return heads / self.span * each + 1.5 * self.phases * self.sums + (6 if self.taps else 16 * self.phases)


def source_type(tile: Tile, element: Type) -> Type:
    """What a tile is given as its source: a place in a frame, or in a table of rows."""
    return ptr(ptr(element)) if tile.in_place else ptr(computed(element))


def write_tile(module: Module, element: Type, lanes: int, tile: Tile, stored: Type, epilogue: Epilogue) -> Function:
    """Adds ``tile``: sums of ``rows`` rows of ``columns`` elements, a tile at a time; what is beyond is not stored.

    It begins at column ``left`` of the source, whose rows, in place, are ``width`` long. From one row of results to the
    next, the source is ``source_row`` further on.
    """
    table, to = ptr(i64), ptr(stored)
    f = module.function(
        "tile", source=source_type(tile, element), source_row=i64, pitch=i64, begins=table, offsets=table,
        columns_in=table, places=table, row_taps=i64, w=ptr(computed(element)), w_step=i64, w_result=i64,
        bias=ptr(element), bias_step=i64, to=to, row_step=i64, plane=i64, rows=i64, columns=i64, left=i64, width=i64,
        spare=to, ahead_y=i64, **parameters(epilogue, element),
    )  # fmt: skip
    a, wide = f.args, tile.vectors * lanes * tile.phases
    with f.loop(0, a.rows, tile.rows) as row:
        results = Arrays.of(epilogue, a.to, a).at(0, row.i * a.row_step)
        source, rows = a.source.at(row.i * a.source_row), a.rows - row.i
        targets = [
            results.destination(k, a.row_step * r + (a.plane * k if k else 0)).unless(rows <= r, a.spare)
            for k in range(tile.results)
            for r in range(tile.rows)
        ]
        with f.loop(0, a.columns, wide) as c:
            column = a.left + c.i // tile.phases
            phases = [_phase_sums(f, tile, lanes, source, column, phase) for phase in range(tile.phases)]
            if tile.in_place:
                _ask_ahead(f, tile, lanes, source, column)
            lines = [
                (_interleaved(tile, phases, r), target.at(c.i), rows > r % tile.rows)
                for r, target in enumerate(targets)
            ]
            _store(f, tile, lanes, lines, a.columns - c.i)
    return f


def _store(
    f: Function, tile: Tile, lanes: int, lines: list[tuple[list[Value], Destination, Value]], left: Value
) -> None:
    """Puts ``left`` elements of each of some lines: its vectors, where it begins, and whether there is such a row."""

    def whole() -> list[Value]:
        for values, to, there in lines:
            with f.when(there) if tile.stream else nullcontext():
                for k, value in enumerate(values):
                    if not tile.stream:
                        to.y.prefetch(f.args.ahead_y + k * lanes, write=True)
                    to.store(value, k * lanes, nontemporal=tile.stream)
        return []

    def edge() -> list[Value]:
        masks = [] if tile.stream else [lanes_below(f, left - k * lanes, lanes) for k in every]
        for values, to, there in lines:
            for k, value in enumerate(values):
                if tile.stream:  # rows are whole vectors; a store of no lanes would fetch its line all the same
                    with f.when(there & (left > k * lanes)):
                        to.store(value, k * lanes, nontemporal=True)
                else:
                    to.y.prefetch(f.args.ahead_y + k * lanes, write=True)
                    to.store(value, k * lanes, masks[k])
        return []

    every = range(tile.vectors * tile.phases)
    f.choose(left >= len(every) * lanes, whole, edge)


def _interleaved(tile: Tile, phases: list[list[Value]], row: int) -> list[Value]:
    """A row of sums, its phases side by side."""
    at = row * tile.vectors
    return [value for v in range(tile.vectors) for value in interleave([sums[at + v] for sums in phases])]


def _ask_ahead(f: Function, tile: Tile, lanes: int, source: Pointer, column: Value) -> None:
    """Of what is read once, as much as this tile's rows are new."""
    a = f.args
    distance = _AHEAD_BYTES // a.w.pointee.bytes
    for r in range(tile.rows):
        row = _row(source, a.pitch * (r * tile.step)).at(column + distance)
        for v in range(tile.vectors):
            row.prefetch(v * lanes)


def _phase_sums(f: Function, tile: Tile, lanes: int, source: Pointer, column: Value, phase: int) -> list[Value]:
    """One phase's sums of a tile that begins at a ``column``: of all results, rows and vectors."""
    a = f.args
    wide, begin = a.w.pointee, a.begins.load(phase)
    each = [toeplitz.spread(a.bias, a.bias_step * k if k else 0, wide, lanes) for k in range(tile.results)]
    sums = [start for start in each for _ in range(tile.rows * tile.vectors)]

    def tap(j: Value, values: list[Value], tile: Tile = tile) -> list[Value]:
        w = a.w.at(a.places.load(j))
        if tile.group:
            x = source.at(column).at(a.offsets.load(j))
            return toeplitz.toeplitz(f, x, w, a.w_step, a.row_taps, lanes, tile.group, values)
        read = _in_place if tile.in_place else _framed
        return _tap(f, tile, lanes, read(f, tile, lanes, source, column, j), w, values)

    if tile.taps:
        for j in range(tile.taps):
            sums = tap(begin + j, sums)
        return sums
    with f.loop(begin, a.begins.load(phase + 1), carry=sums) as many:
        many.values = tap(many.i, many.values)
    if not tile.rest:
        return many.values
    with f.loop(a.begins.load(1), a.begins.load(2), carry=many.values) as left:
        left.values = tap(left.i, left.values, replace(tile, span=tile.rest))
    return left.values


def _framed(
    f: Function, tile: Tile, lanes: int, source: Pointer, column: Value, j: Value
) -> Callable[[int], list[Value]]:
    """Reads vectors of a source row that head ``j`` meets, by its number."""
    a = f.args
    first = source.at(column).at(a.offsets.load(j))

    def row(i: int) -> list[Value]:
        here = first.at(a.pitch * i if i else 0)
        return [here.load(v * lanes, lanes) for v in range(tile.vectors)]

    return row


def _in_place(
    f: Function, tile: Tile, lanes: int, source: Pointer, column: Value, j: Value
) -> Callable[[int], list[Value]]:
    """Likewise, from a table of rows."""
    a = f.args
    rows, first = source.at(a.offsets.load(j)), column + a.columns_in.load(j)
    masks = [lanes_inside(f, first + v * lanes, a.width, lanes) for v in range(tile.vectors)]

    def row(i: int) -> list[Value]:
        here = _row(rows, a.pitch * i if i else 0).at(first)
        return [here.load(v * lanes, lanes, mask) for v, mask in enumerate(masks)]

    return row


def _row(table: Pointer, index: Value | int) -> Pointer:
    """Where a row of the source lies."""
    row = table.at(index).load()
    assert isinstance(row, Pointer)
    return row


def _tap(
    f: Function, tile: Tile, lanes: int, source: Callable[[int], list[Value]], w: Pointer, values: list[Value]
) -> list[Value]:
    """The sums after one more tap, or ``span`` taps down."""
    a = f.args
    weights = [
        [w.at(a.w_result * k if k else 0).splat(a.w_step * t if t else 0, lanes) for t in range(tile.span)]
        for k in range(tile.results)
    ]
    sums = list(values)
    for i in range(tile.sources):
        vectors = source(i)
        for r in range(tile.rows):
            if 0 <= i - r * tile.step < tile.span:
                for k, v in product(range(tile.results), range(tile.vectors)):
                    at = (k * tile.rows + r) * tile.vectors + v
                    sums[at] = fma(weights[k][i - r * tile.step], vectors[v], sums[at])
    return sums
