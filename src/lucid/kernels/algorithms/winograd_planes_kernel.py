"""Planes that meet three taps in depth by F(2, 3), rows in flight: the native code of ``winograd_planes``.

Two planes of results are made of the four planes of a channel that they read. A step reads a row of each. Transforms in
depth are additions of whole vectors, taps across are shifts between neighbours, and a row of taps is added to the sums
of the row of results that it meets, of which as many are held as there are taps down::

    t0 = d0 - d2    t1 = d1 + d2    t2 = d2 - d1    t3 = d3 - d1            rows of four planes, once
    m[i][q] += u[i, h, t] * shifted(t[i], t)                                for rows q = row - h: 4 products for 6
    y0 = m0 + m1 + m2    y1 = m1 - m2 + m3                                  of the row that has met all taps down

Source: Lavin and Gray, arXiv:1509.09308.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lucid.kernels.algorithms.sliding_tile import AHEAD_ROWS, Row
from lucid.kernels.algorithms.winograd_rows_kernel import FREQUENCIES, PAIRS, ROWS, combined, transformed
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
    maximum,
    minimum,
    ptr,
    select,
    splat,
    zeros,
)
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Epilogue

_ARRAYS = ("x", "weights", "bias", "y", "scale", "shift", "residual", "own", "zeros")
NUMBERS = (
    "channels", "parts", "each", "d", "h", "w", "size_d", "size_h", "size_w", "low_d", "low_h", "bias_step", "private",
    "spare",
)  # fmt: skip

#: Sums of one row of results, by frequency.
Sums = list[Value]


@dataclass(frozen=True, slots=True)
class PlanePairs:
    """A vector of sums for each of the frequencies and each of ``downs`` rows of results in flight.

    ``depths`` and ``downs`` are the taps by their place from a result's first source on, ``across`` (tap, place).
    """

    depths: tuple[int, ...]
    downs: tuple[int, ...]
    across: tuple[tuple[int, int], ...]
    whole: bool = False  #: one strip is a row of the source and of the result
    asks: bool = False  #: lines that will be written are asked for
    keeps: bool = False  #: rows that the next pair of planes reads again are kept as they were widened

    @property
    def first(self) -> int:
        """Where the first vector of a row is read: at the least tap, or else it takes three to slide to either side."""
        return 0 if self.whole else min(at for _, at in self.across)

    def row(self, lanes: int) -> Row:
        """How a row of the source is read: what few taps reach beyond a vector is half of one."""
        shifts = tuple(at - self.first for _, at in self.across)
        return Row(shifts, 1, 1, lanes, self.whole, half=not self.whole and max(shifts) > 0)

    @property
    def products(self) -> int:
        """Of one step."""
        return FREQUENCIES * len(self.downs) * len(self.across)

    @property
    def pitch(self) -> int:
        """Numbers of one frequency of a row of taps, filled up to what one load brings."""
        return 4 if len(self.across) <= 4 else 8

    @property
    def numbers(self) -> int:
        """Transformed, of a channel."""
        return FREQUENCIES * self.pitch * len(self.downs)

    def kept_row(self, lanes: int) -> int:
        """Elements of a row of two planes, each vector in a place of its own."""
        return ROWS * len(self.row(lanes).reads) * lanes

    def registers(self, lanes: int) -> int:
        """Sums, the rows that are transformed, one that is shifted, one of nothing."""
        return FREQUENCIES * (len(self.downs) + len(self.row(lanes).reads)) + 2


def fields(element: Type) -> dict[str, Type]:
    """What the entry point ``slide`` reads."""
    arrays = {**dict.fromkeys(_ARRAYS, ptr(element)), "own": ptr(computed(element))}
    return {**arrays, **dict.fromkeys(NUMBERS, i64)}


def write(isa: ISA, element: Type, tile: PlanePairs, epilogue: Epilogue) -> Module:
    """A task is some pairs of planes of the results of one image and channel."""
    module, lanes = Module("winograd_planes", isa), isa.lanes(computed(element))
    begins = _Strip(module, element, lanes, tile, epilogue, begins=True).function  # the first pair of a task
    follows = _Strip(module, element, lanes, tile, epilogue, begins=False).function if tile.keeps else begins
    f = module.entry("slide", **fields(element))
    a = f.args
    arrays, plane, taps = Arrays.of(epilogue, a.y, a), a.size_h * a.size_w, len(tile.downs) * len(tile.across)
    with f.loop(a.begin, a.end) as task:
        volume, first = task.i // a.parts, task.i % a.parts * a.each
        channel, spare = volume % a.channels, a.own.at(a.thread * a.private)
        numbers, source = spare.at(a.spare), a.x.at(volume * (a.d * a.h * a.w))
        _transform(f, tile, a.weights.at(channel * (len(tile.depths) * taps)), numbers)

        def strips(which: Function, depth: Value) -> None:
            with f.loop(0, a.size_w, lanes) as column:
                to = arrays.at(channel, (volume * a.size_d + depth) * plane + column.i)
                kept = numbers.at(tile.numbers + column.i // lanes * (a.h * tile.kept_row(lanes)))
                f.call(
                    which, spare.cast(element), source, a.d, a.h, a.w, depth - a.low_d, column.i + tile.first,
                    a.low_h, numbers, kept,
                    a.bias.at(channel * a.bias_step), a.zeros, to.y, a.size_h, a.size_w, a.size_w - column.i,
                    a.size_d - depth, *to.given.values(),
                )  # fmt: skip

        strips(begins, first)
        with f.loop(first + ROWS, minimum(first + a.each, a.size_d), ROWS) as depth:
            strips(follows, depth.i)
    return module


def _transform(f: Function, tile: PlanePairs, w: Pointer, to: Pointer) -> None:
    """A channel's weights, by place down, frequency and tap across."""
    across, there = len(tile.across), lanes_below(f, len(tile.across), tile.pitch, i32)
    for place, down in enumerate(tile.downs):
        rows = [w.at((depth * len(tile.downs) + down) * across).load(0, tile.pitch, there) for depth in tile.depths]
        for n, value in enumerate(transformed(*(convert(row, to.pointee) for row in rows))):
            to.store(value, (place * FREQUENCIES + n) * tile.pitch)


class _Strip:
    """Writes ``begins`` or ``follows``: a vector of columns of two planes of results, all rows.

    ``depth`` is the first plane of the source that they meet, ``column`` that of the source's which is read first;
    ``y`` is the strip's place in the first row, ``left`` how many columns and ``planes`` how many planes of it there
    are. Where rows are kept, those of the first two planes are read from ``kept``, unless a task ``begins``, and those
    of the others are put there.
    """

    def __init__(
        self, module: Module, element: Type, lanes: int, tile: PlanePairs, epilogue: Epilogue, begins: bool
    ) -> None:
        data = ptr(element)
        self.tile, self.lanes, self.wide, self.begins = tile, lanes, computed(element), begins
        self.function = f = module.function(
            "begins" if begins else "follows", spare=data, source=data, d=i64, h=i64, w=i64, depth=i64, column=i64,
            low_h=i64, numbers=ptr(self.wide), kept=ptr(self.wide), bias=data, zeros=data, y=data, size_h=i64,
            size_w=i64, left=i64, planes=i64,
            **parameters(epilogue, element),
        )  # fmt: skip
        self.a = a = f.args
        self.to = Arrays.of(epilogue, a.y, a)
        self.reading = tile.row(lanes)
        self.masks = self.reading.masks(f, a.column, a.w)
        self.stored = lanes_below(f, a.left, lanes, i32)
        self.nothing = zeros(f, self.wide, lanes)
        bias = splat(convert(a.bias.load(0), self.wide), lanes)
        self.start = [self.nothing, bias, self.nothing, self.nothing]
        self.planes = [self._plane(n) for n in range(FREQUENCIES)]
        self._write()

    def _plane(self, number: int) -> tuple[Pointer, Value]:
        """A plane of the source and how far its rows are apart; a row of zeros, if it lies outside."""
        a, plane = self.a, self.a.depth + number
        there = plane.ult(a.d)
        here = select(there, a.source.at(plane * (a.h * a.w)), a.zeros)
        assert isinstance(here, Pointer)
        return here.at(a.column), select(there, a.w, 0)

    def _write(self) -> None:
        """The steps that read rows, then those that only finish sums."""
        f, a, reach = self.function, self.a, len(self.tile.downs) - 1
        end = a.size_h + reach
        begin, below = maximum(a.low_h, 0), minimum(end, a.h + a.low_h)
        with f.loop(begin, below, carry=self.start * reach) as steps:
            steps.values = self._finished(steps.i, self._added(steps.i - a.low_h, self._in_flight(steps.values)))
        with f.loop(maximum(begin, below), end, carry=steps.values) as rest:
            rest.values = self._finished(rest.i, self._in_flight(rest.values))

    def _in_flight(self, carried: list[Value]) -> list[Sums]:
        """The sums of rows by how many steps ago they began."""
        count = len(self.start)
        return [list(self.start), *(carried[at : at + count] for at in range(0, len(carried), count))]

    def _added(self, row: Value, rows: list[Sums]) -> list[Sums]:
        """With the products of a row of the source."""
        numbers = self.a.numbers
        for frequency, t, vector in self._met(row):
            for place, sums in enumerate(rows):
                weight = numbers.load((place * FREQUENCIES + frequency) * self.tile.pitch + t)
                sums[frequency] = fma(splat(weight, self.lanes), vector, sums[frequency])
        return rows

    def _met(self, row: Value) -> Iterator[tuple[int, int, Value]]:
        """Transformed rows by frequency and tap across."""
        for plane, pitch in self.planes[ROWS:]:  # the planes that are new come next in memory for the next pair
            plane.at(row * pitch).prefetch(self.a.h * self.a.w * ROWS)
        loaded = [*self._known(row), *(self._loaded(row, plane) for plane in self.planes[ROWS:])]
        if self.tile.keeps:
            self._keep(row, loaded[ROWS:])
        for frequency, (first, second) in enumerate(PAIRS):
            made = {i: combined(frequency, loaded[first][i], loaded[second][i]) for i in loaded[0]}
            parts = {i: self.reading.filled(value) for i, value in made.items()}
            shifted = self.reading.shifted({(0, i): parts.get(i, self.nothing) for i in self.reading.places})
            for t, at in self.tile.across:
                yield frequency, t, shifted(at - self.tile.first, 0)

    def _loaded(self, row: Value, plane: tuple[Pointer, Value]) -> dict[int, Value]:
        """A row of a plane, widened."""
        place, pitch = plane
        return self.reading.loaded(place.at(row * pitch), self.masks, self.wide)

    def _known(self, row: Value) -> list[dict[int, Value]]:
        """A row of the planes that the pair before has read, if there was one."""
        if self.begins:
            return [self._loaded(row, plane) for plane in self.planes[:ROWS]]
        return [{i: place.load(0, lanes) for i, (place, lanes) in plane.items()} for plane in self._kept(row)]

    def _keep(self, row: Value, planes: list[dict[int, Value]]) -> None:
        """A row of the planes that the next pair reads again."""
        for places, vectors in zip(self._kept(row), planes, strict=True):
            for i, (place, _) in places.items():
                place.store(vectors[i], 0)

    def _kept(self, row: Value) -> list[dict[int, tuple[Pointer, int]]]:
        """Where the vectors of a row of each of the planes that meet again are kept, and their lanes."""
        reads, at = self.reading.reads, row * self.tile.kept_row(self.lanes)
        return [
            {
                i: (self.a.kept.at(at + (n * len(reads) + j) * self.lanes), self.reading.lanes_read(i))
                for j, i in enumerate(reads)
            }
            for n in range(ROWS)
        ]

    def _finished(self, step: Value, rows: list[Sums]) -> list[Value]:
        """Stores the row that has met all taps down, if it is one of the result; the sums of the others."""
        a, row = self.a, step - (len(rows) - 1)
        m0, m1, m2, m3 = rows[-1]
        missing = ~row.ult(a.size_h)
        for n, value in enumerate((m0 + m1 + m2, m1 - m2 + m3)):
            to = self.to.destination(0, row * a.size_w + (a.size_h * a.size_w if n else 0))
            if self.tile.asks:
                to.y.prefetch(a.size_w * AHEAD_ROWS, write=True)
            to.unless(missing | (a.planes <= n) if n else missing, a.spare).store(value, 0, self.stored)
        return [value for sums in rows[:-1] for value in sums]
