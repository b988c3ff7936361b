"""Rows that meet three taps down by F(2, 3): the native code of ``winograd_rows``.

A step makes two rows of results of the four rows of the source that they read. Where a vector holds columns, transforms
down are additions of whole vectors, and taps across are shifts between neighbours, in registers. ::

    t0 = d0 - d2    t1 = d1 + d2    t2 = d2 - d1    t3 = d3 - d1            every source, once for its taps across
    m[i] += u[i, t] * shifted(t[i], t)                                      4 products for 6, in registers
    y0 = m0 + m1 + m2    y1 = m1 - m2 + m3                                  once for all sources

With t3 of the other sign what is left to add to both rows has none. So twice as many results fit where sources are read
twice: m1 and m2 are summed first, and what they give the two rows is what m0 and m3 are added to.

Source: Lavin and Gray, arXiv:1509.09308.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lucid.kernels.algorithms.correlation_kernel import widened
from lucid.kernels.algorithms.sliding_kernel import AHEAD_ROWS, Row
from lucid.kernels.epilogue import Arrays, parameters
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    computed,
    convert,
    fma,
    i32,
    i64,
    lanes_below,
    lanes_inside,
    maximum,
    minimum,
    ptr,
    select,
    splat,
    zeros,
)
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Epilogue

FREQUENCIES = 4  #: products that take the place of
TAPS = 3  #: taps down, for
ROWS = 2  #: rows of results

_ARRAYS = ("x", "weights", "bias", "y", "scale", "shift", "residual", "own", "zeros")
_NUMBERS = (
    "groups", "sources", "results", "boxes", "box_h", "columns", "h", "w", "size_h", "size_w", "low_h", "w_group",
    "w_source", "w_result", "bias_step", "private", "spare", "frame",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RowPairs:
    """A vector of sums of each of so many ``results`` for each of the frequencies, or for two at a time.

    One vector, as numbers are read by the products themselves, each in half a turn of a load; for two they would be
    loads of their own. ``downs`` are the taps by their place below a step's first row, ``across`` (tap, place in the
    source).
    """

    results: int
    downs: tuple[int, ...]
    across: tuple[tuple[int, int], ...]
    whole: bool = False  #: one strip is a row of the source and of the result
    asks: bool = False  #: lines that will be written are asked for
    framed: bool = False  #: halves of a task are widened once, not by every strip that reads them
    slides: bool = True  #: taps across are met by shifts in registers, not each by a load of its own
    twice: bool = False  #: sources are read twice, for two frequencies each time

    def row(self, lanes: int) -> Row:
        """How a row of the source is read."""
        return Row(tuple(at for _, at in self.across), 1, 1, lanes, self.whole)

    @property
    def products(self) -> int:
        """Of one step and source."""
        return FREQUENCIES * len(self.across) * self.results

    @property
    def pitch(self) -> int:
        """Numbers of one frequency of a pair of channels: a row of taps, filled up to what one load brings."""
        return 4 if len(self.across) <= 4 else 8

    @property
    def pair(self) -> int:
        """Numbers of a pair of channels."""
        return FREQUENCIES * self.pitch

    def registers(self, lanes: int) -> int:
        """Sums, the transformed rows, one that is shifted and one of nothing."""
        read = len(self.row(lanes).reads) if self.slides else 1
        return FREQUENCIES // (1 + self.twice) * self.results + FREQUENCIES * read + 2


def fields(element: Type) -> dict[str, Type]:
    """What the entry point ``slide`` reads."""
    arrays = {**dict.fromkeys(_ARRAYS, ptr(element)), "own": ptr(computed(element))}
    return {**arrays, **dict.fromkeys(_NUMBERS, i64)}


def write(isa: ISA, element: Type, tile: RowPairs, epilogue: Epilogue) -> Module:
    """A task is a box of rows of the results of one image and group."""
    module, lanes = Module("winograd_rows", isa), isa.lanes(computed(element))
    strip = _Strip(module, element, lanes, tile, epilogue).function
    f = module.entry("slide", **fields(element))
    a = f.args
    arrays, plane = Arrays.of(epilogue, a.y, a), a.size_h * a.size_w
    with f.loop(a.begin, a.end) as task:
        image_group, first = task.i // a.boxes, task.i % a.boxes * a.box_h
        group, source = image_group % a.groups, a.x.at(image_group * a.sources * (a.h * a.w))
        end, spare = minimum(first + a.box_h, a.size_h), a.own.at(a.thread * a.private)
        numbers = spare.at(a.spare)
        _transform(f, tile, a, a.weights.at(group * a.w_group), numbers)
        if tile.framed:
            source = _widened_rows(f, a, source, spare.at(a.frame), first, end, lanes)
        with f.loop(0, a.results, tile.results) as result, f.loop(0, a.columns, lanes) as column:
            channel = group * a.results + result.i
            to = arrays.at(channel, (image_group * a.results + result.i) * plane + column.i)
            f.call(
                strip, spare.cast(element), source, a.sources, a.h, a.w, column.i, a.low_h,
                numbers.at(result.i * tile.pair), a.results * tile.pair,
                a.bias.at(channel * a.bias_step), a.bias_step, a.zeros.cast(source.pointee), to.y, a.size_h, a.size_w,
                a.size_w - column.i, first, end, *to.given.values(),
            )  # fmt: skip
    return module


def _transform(f: Function, tile: RowPairs, a: Any, w: Pointer, to: Pointer) -> None:
    """A group's weights, by source, result, frequency and tap across."""
    wide, taps, there = to.pointee, len(tile.across), lanes_below(f, len(tile.across), tile.pitch, i32)
    with f.loop(0, a.sources) as s, f.loop(0, a.results) as k:
        pair = w.at(s.i * a.w_source + k.i * a.w_result)
        first, second, third = (convert(pair.load(h * taps, tile.pitch, there), wide) for h in tile.downs)
        ends = first + third
        for n, value in enumerate((first, (ends + second) * 0.5, (ends - second) * 0.5, third)):
            to.store(value, (s.i * a.results + k.i) * tile.pair + n * tile.pitch)


def _widened_rows(
    f: Function, a: Any, source: Pointer, to: Pointer, first: Value, end: Value, lanes: int
) -> Pointer:  # fmt: skip
    """The rows that a box of results reads, as float32 and where they lie in their planes; others are left out."""
    begin = maximum(first - a.low_h, 0) * a.w
    count = minimum(end + (FREQUENCIES - 1) - a.low_h, a.h) * a.w - begin
    with f.loop(0, a.sources) as s:
        place = s.i * (a.h * a.w) + begin
        widened(f, source.at(place), to.at(place), count, lanes)
    return to


#: The rows that each frequency is made of: the first without the second, or with it.
_PAIRS = ((0, 2), (1, 2), (2, 1), (3, 1))


def _combined(frequency: int, first: Value, second: Value) -> Value:
    """A row of a frequency."""
    return first + second if frequency == 1 else first - second


class _Strip:
    """Writes ``strip``: a vector of columns, all rows of a box, from ``first`` to ``end``.

    ``column`` is that of the source's which tap 0 without padding meets first; ``y`` is the strip's place in the first
    row, and ``left`` how many columns of it there are.
    """

    def __init__(self, module: Module, element: Type, lanes: int, tile: RowPairs, epilogue: Epilogue) -> None:
        data, read = ptr(element), ptr(computed(element) if tile.framed else element)
        self.tile, self.lanes, self.wide = tile, lanes, computed(element)
        self.function = f = module.function(
            "strip", spare=data, source=read, sources=i64, h=i64, w=i64, column=i64, low_h=i64,
            numbers=ptr(self.wide), w_source=i64, bias=data, bias_step=i64, zeros=read, y=data,
            size_h=i64, size_w=i64, left=i64, first=i64, end=i64, **parameters(epilogue, element),
        )  # fmt: skip
        self.a = a = f.args
        self.to = Arrays.of(epilogue, a.y, a)
        self.reading = tile.row(lanes)
        if tile.slides:
            self.masks = self.reading.masks(f, a.column, a.w)
        else:
            self.inside = {at: lanes_inside(f, a.column + at, a.w, lanes) for _, at in tile.across}
        self.stored = lanes_below(f, a.left, lanes, i32)
        self.nothing = zeros(f, self.wide, lanes)
        self.biases = [splat(convert(a.bias.load(a.bias_step * k), self.wide), lanes) for k in range(tile.results)]
        with f.loop(a.first, a.end, ROWS) as step:
            self._step(step.i)

    def _step(self, row: Value) -> None:
        """Two rows of results, from ``row`` on."""
        rows = [self._row(row + (n - self.a.low_h), n) for n in range(FREQUENCIES)]
        for k, (above, below) in enumerate(self._twice(rows) if self.tile.twice else self._at_once(rows)):
            self._store(row, k, above)
            self._store(row + 1, k, below, missing=~(row + 1 < self.a.end))

    def _at_once(self, rows: list[tuple[Pointer, Value]]) -> list[tuple[Value, Value]]:
        """Two rows of each result, of the sums of all frequencies."""
        nothing = [self.nothing] * self.tile.results
        m0, m1, m2, m3 = self._summed(rows, range(FREQUENCIES), [nothing, self.biases, nothing, nothing])
        return [(a + b + c, b - c + d) for a, b, c, d in zip(m0, m1, m2, m3, strict=True)]

    def _twice(self, rows: list[tuple[Pointer, Value]]) -> list[tuple[Value, Value]]:
        """The same in half the registers: the sums that both rows have are made first, and the others are added to."""
        m1, m2 = self._summed(rows, (1, 2), [self.biases, [self.nothing] * self.tile.results])
        both = [(b + c, b - c) for b, c in zip(m1, m2, strict=True)]
        above, below = self._summed(rows, (0, 3), [list(sums) for sums in zip(*both, strict=True)])
        return list(zip(above, below, strict=True))

    def _summed(
        self, rows: list[tuple[Pointer, Value]], frequencies: Sequence[int], start: list[list[Value]]
    ) -> list[list[Value]]:
        """With the products of all sources, by frequency and result."""
        f, count = self.function, self.tile.results
        with f.loop(0, self.a.sources, carry=[value for sums in start for value in sums]) as s:
            s.values = self._added([first.at(s.i * plane) for first, plane in rows], s.i, frequencies, s.values)
        return [s.values[at : at + count] for at in range(0, len(s.values), count)]

    def _row(self, row: Value, number: int) -> tuple[Pointer, Value]:
        """A row of the first source and how far it is to that of the next; one of zeros, if it lies outside."""
        a, here = self.a, self.a.source.at(row * self.a.w)
        there = row.ult(a.h)
        place = select(there, here, a.zeros).at(a.column)
        if number >= ROWS and not self.tile.framed:
            here.at(a.column).prefetch(a.w * AHEAD_ROWS)
        return place, select(there, a.h * a.w, 0)

    def _added(
        self, rows: list[Pointer], source: Value, frequencies: Sequence[int], sums: Sequence[Value]
    ) -> list[Value]:
        """With the products of a source."""
        tile, a = self.tile, self.a
        weights, sums = a.numbers.at(source * a.w_source), list(sums)
        for frequency, t, vector in self._met(rows, frequencies):
            for k in range(tile.results):
                number = k * tile.pair + frequency * tile.pitch + t
                n = frequencies.index(frequency) * tile.results + k
                sums[n] = fma(splat(weights.load(number), self.lanes), vector, sums[n])
        return sums

    def _met(self, rows: list[Pointer], frequencies: Sequence[int]) -> Iterator[tuple[int, int, Value]]:
        """A source's transformed rows by frequency and tap across: slid there, or loaded and widened at each tap."""
        needed = sorted({r for n in frequencies for r in _PAIRS[n]})
        if not self.tile.slides:
            for t, at in self.tile.across:
                d = {r: convert(rows[r].load(at, self.lanes, self.inside[at]), self.wide) for r in needed}
                for n in frequencies:
                    yield n, t, _combined(n, *(d[r] for r in _PAIRS[n]))
            return
        loaded = {r: self.reading.loaded(rows[r], self.masks, self.wide) for r in needed}
        for n in frequencies:
            p, q = _PAIRS[n]
            made = {i: _combined(n, loaded[p][i], loaded[q][i]) for i in loaded[p]}
            shifted = self.reading.shifted({(0, i): made.get(i, self.nothing) for i in self.reading.places})
            for t, at in self.tile.across:
                yield n, t, shifted(at, 0)

    def _store(self, row: Value, result: int, value: Value, missing: Value | None = None) -> None:
        a, plane = self.a, self.a.size_h * self.a.size_w
        to = self.to.destination(result, row * a.size_w + (plane * result if result else 0))
        if self.tile.asks:
            to.y.prefetch(a.size_w * AHEAD_ROWS, write=True)
        (to if missing is None else to.unless(missing, a.spare)).store(value, 0, self.stored)
