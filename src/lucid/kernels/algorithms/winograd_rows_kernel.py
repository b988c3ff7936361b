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
from itertools import product
from typing import Any

from lucid.kernels.algorithms.sliding_tile import AHEAD_ROWS, Row
from lucid.kernels.epilogue import Arrays, Destination, parameters
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
    loaded_as,
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
NUMBERS = (
    "groups", "sources", "results", "boxes", "box_h", "columns", "h", "w", "size_h", "size_w", "low_h", "w_group",
    "w_source", "w_result", "bias_step", "private", "spare",
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
    stream: bool = False  #: results go past the caches, in whole vectors
    slides: bool = True  #: taps across are met by shifts in registers, not each by a load of its own
    twice: bool = False  #: sources are read twice, for two frequencies each time
    deep: int = 1  #: pairs of rows of results, which share rows of the source

    def row(self, lanes: int) -> Row:
        """How a row of the source is read."""
        return Row(tuple(at for _, at in self.across), 1, 1, lanes, self.whole)

    @property
    def rows(self) -> int:
        """Of a source, that a step reads."""
        return FREQUENCIES + (self.deep - 1) * ROWS

    @property
    def sums(self) -> int:
        """Vectors that products are added to."""
        return FREQUENCIES // (1 + self.twice) * self.results * self.deep

    @property
    def products(self) -> int:
        """Of one step and source."""
        return FREQUENCIES * len(self.across) * self.results * self.deep

    @property
    def pitch(self) -> int:
        """Numbers of one frequency of a pair of channels: a row of taps, filled up to what one load brings."""
        return 4 if len(self.across) <= 4 else 8

    @property
    def pair(self) -> int:
        """Numbers of a pair of channels, for each pair of rows: LLVM would keep in registers what it reads again."""
        return FREQUENCIES * self.pitch * self.deep

    def registers(self, lanes: int) -> int:
        """Sums, the rows that are transformed, one that is shifted and one of nothing."""
        return self.sums + self.rows * (len(self.row(lanes).reads) if self.slides else 1) + 2


def fields(element: Type) -> dict[str, Type]:
    """What the entry point ``slide`` reads."""
    arrays = {**dict.fromkeys(_ARRAYS, ptr(element)), "own": ptr(computed(element))}
    return {**arrays, **dict.fromkeys(NUMBERS, i64)}


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
        with f.loop(0, a.results, tile.results) as result, f.loop(0, a.columns, lanes) as column:
            channel = group * a.results + result.i
            to = arrays.at(channel, (image_group * a.results + result.i) * plane + column.i)
            f.call(
                strip, spare.cast(element), source, a.sources, a.h, a.w, column.i, a.low_h,
                numbers.at(result.i * tile.pair), a.results * tile.pair,
                a.bias.at(channel * a.bias_step), a.bias_step, a.zeros, to.y, a.size_h, a.size_w,
                a.size_w - column.i, first, end, *to.given.values(),
            )  # fmt: skip
    return module


def _transform(f: Function, tile: RowPairs, a: Any, w: Pointer, to: Pointer) -> None:
    """A group's weights, by source, result, frequency and tap across."""
    wide, taps, there = to.pointee, len(tile.across), lanes_below(f, len(tile.across), tile.pitch, i32)
    with f.loop(0, a.sources) as s, f.loop(0, a.results) as k:
        pair = w.at(s.i * a.w_source + k.i * a.w_result)
        first, second, third = (convert(pair.load(h * taps, tile.pitch, there), wide) for h in tile.downs)
        for n, value in enumerate(transformed(first, second, third)):
            for copy in range(0, tile.pair, FREQUENCIES * tile.pitch):
                to.store(value, (s.i * a.results + k.i) * tile.pair + (copy + n * tile.pitch))


def transformed(first: Value, second: Value, third: Value) -> tuple[Value, Value, Value, Value]:
    """Weights of three taps by frequency."""
    ends = first + third
    return first, (ends + second) * 0.5, (ends - second) * 0.5, third


#: The rows that each frequency is made of: the first without the second, or with it.
PAIRS = ((0, 2), (1, 2), (2, 1), (3, 1))


def combined(frequency: int, first: Value, second: Value) -> Value:
    """A row of a frequency."""
    return first + second if frequency == 1 else first - second


class _Strip:
    """Writes ``strip``: a vector of columns, all rows of a box, from ``first`` to ``end``.

    ``column`` is that of the source's which tap 0 without padding meets first; ``y`` is the strip's place in the first
    row, and ``left`` how many columns of it there are.
    """

    def __init__(self, module: Module, element: Type, lanes: int, tile: RowPairs, epilogue: Epilogue) -> None:
        data = ptr(element)
        self.tile, self.lanes, self.wide = tile, lanes, computed(element)
        self.function = f = module.function(
            "strip", spare=data, source=data, sources=i64, h=i64, w=i64, column=i64, low_h=i64,
            numbers=ptr(self.wide), w_source=i64, bias=data, bias_step=i64, zeros=data, y=data,
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
        with f.loop(a.first, a.end, ROWS * tile.deep) as step:
            self._step(step.i)

    def _step(self, row: Value) -> None:
        """Two rows of results for each pair of rows, from ``row`` on."""
        rows = [self._row(row + (n - self.a.low_h), n) for n in range(self.tile.rows)]
        ends = self._twice(rows) if self.tile.twice else self._at_once(rows)
        for (pair, n), values in zip(product(range(self.tile.deep), range(ROWS)), ends, strict=True):
            here = row + (pair * ROWS + n)
            if self.tile.stream:
                with self.function.when(here < self.a.end):
                    for k, value in enumerate(values):
                        self._destination(here, k).store(value, 0, nontemporal=True)
                continue
            for k, value in enumerate(values):
                self._store(here, k, value, missing=~(here < self.a.end) if pair + n else None)

    def _at_once(self, rows: list[tuple[Pointer, Value]]) -> Iterator[list[Value]]:
        """Rows of each result, of the sums of all frequencies."""
        nothing = [self.nothing] * self.tile.results
        sums = self._summed(rows, range(FREQUENCIES), [nothing, self.biases, nothing, nothing])
        for pair in range(self.tile.deep):
            m0, m1, m2, m3 = sums[pair * FREQUENCIES : (pair + 1) * FREQUENCIES]
            yield [a + b + c for a, b, c in zip(m0, m1, m2, strict=True)]
            yield [b - c + d for b, c, d in zip(m1, m2, m3, strict=True)]

    def _twice(self, rows: list[tuple[Pointer, Value]]) -> list[list[Value]]:
        """The same in half the registers: the sums that both rows have are made first, and the others are added to."""
        m1, m2 = self._summed(rows, (1, 2), [self.biases, [self.nothing] * self.tile.results])
        both = [[b + c for b, c in zip(m1, m2, strict=True)], [b - c for b, c in zip(m1, m2, strict=True)]]
        return self._summed(rows, (0, 3), both)

    def _summed(
        self, rows: list[tuple[Pointer, Value]], frequencies: Sequence[int], start: list[list[Value]]
    ) -> list[list[Value]]:
        """With the products of all sources, by pair of rows, frequency and result."""
        f, count = self.function, self.tile.results
        carried = [value for sums in start * self.tile.deep for value in sums]
        with f.loop(0, self.a.sources, carry=carried) as s:
            s.values = self._added([first.at(s.i * plane) for first, plane in rows], s.i, frequencies, s.values)
        return [s.values[at : at + count] for at in range(0, len(carried), count)]

    def _row(self, row: Value, number: int) -> tuple[Pointer, Value]:
        """A row of the first source and how far it is to that of the next; one of zeros, if it lies outside."""
        a, here = self.a, self.a.source.at(row * self.a.w)
        there = row.ult(a.h)
        place = select(there, here, a.zeros).at(a.column)
        if number >= ROWS:
            here.at(a.column).prefetch(a.w * AHEAD_ROWS)
        return place, select(there, a.h * a.w, 0)

    def _added(
        self, rows: list[Pointer], source: Value, frequencies: Sequence[int], sums: Sequence[Value]
    ) -> list[Value]:
        """With the products of a source."""
        tile, a = self.tile, self.a
        weights, sums = a.numbers.at(source * a.w_source), list(sums)
        for pair, frequency, t, vector in self._met(rows, frequencies):
            for k in range(tile.results):
                number = k * tile.pair + (pair * FREQUENCIES + frequency) * tile.pitch + t
                n = (pair * len(frequencies) + frequencies.index(frequency)) * tile.results + k
                sums[n] = fma(splat(weights.load(number), self.lanes), vector, sums[n])
        return sums

    def _met(self, rows: list[Pointer], frequencies: Sequence[int]) -> Iterator[tuple[int, int, int, Value]]:
        """A source's transformed rows by pair of rows, frequency and tap: slid there, or loaded at each tap."""
        tile = self.tile
        if not tile.slides:
            for t, at in tile.across:
                d = [self._widened(row, at) for row in rows]
                for pair, n in product(range(tile.deep), frequencies):
                    yield pair, n, t, combined(n, *(d[pair * ROWS + r] for r in PAIRS[n]))
            return
        loaded = [self.reading.loaded(row, self.masks, self.wide) for row in rows]
        for pair, n in product(range(tile.deep), frequencies):
            first, second = (loaded[pair * ROWS + r] for r in PAIRS[n])
            made = {i: combined(n, first[i], second[i]) for i in first}
            shifted = self.reading.shifted({(0, i): made.get(i, self.nothing) for i in self.reading.places})
            for t, at in tile.across:
                yield pair, n, t, shifted(at, 0)

    def _widened(self, row: Pointer, at: int) -> Value:
        """A row from a column on: by two instructions where rows are read twice, which LLVM puts far before products.

        A core that waits for the second cache takes 0.87 of the time so; of others one instruction saves 3 to 5 %.
        """
        if self.tile.twice:
            return convert(row.load(at, self.lanes, self.inside[at]), self.wide)
        return loaded_as(self.wide, row, at, self.lanes, self.inside[at])

    def _destination(self, row: Value, result: int) -> Destination:
        plane = self.a.size_h * self.a.size_w
        return self.to.destination(result, row * self.a.size_w + (plane * result if result else 0))

    def _store(self, row: Value, result: int, value: Value, missing: Value | None = None) -> None:
        to = self._destination(row, result)
        if self.tile.asks:
            to.y.prefetch(self.a.size_w * AHEAD_ROWS, write=True)
        (to if missing is None else to.unless(missing, self.a.spare)).store(value, 0, self.stored)
