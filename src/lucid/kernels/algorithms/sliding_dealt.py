"""Weight gradients of a column stride of 2 with x read as it lies and g dealt out to its lanes.

Even and odd columns of x meet taps of their own, so a vector of x has two taps' products in its lanes, and what is
slid and taken apart is not x but g, of which there is a quarter::

    x                 x0 x1   x2 x3   x4 x5   x6 x7             as it lies, for every tap down; taps 1 and 2 of 4
    times             g0 g0   g1 g1   g2 g2   g3 g3             taps 1, 2 (padding of one)
    times             .. g1   g0 g2   g1 g3   g2 ..             taps 3, 0

A row of g is dealt out by one shuffle of one vector for each pair of taps, for all taps down, so that a plane is read
in one pass, row by row; two rows of g share the rows of x that both meet. Where the taps across are odd, a tap has no
partner, and the sums of the other lanes are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product, zip_longest
from math import ceil

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
    lane_numbers,
    lanes_below,
    lanes_inside,
    loaded_as,
    maximum,
    minimum,
    ptr,
    select,
    shuffle,
    splat,
    vector_of,
    zeros,
)

#: Which lanes there are of a vector of x, of those of g that it meets, and which of each pair meet some.
End = tuple[Value | None, Value, Sequence[Value | None]]

STEP = 2  #: columns of x from one of g to the next
_DEEP = 2  # rows of g at a time, which share rows of x


@dataclass(frozen=True)
class Dealt:
    """``downs`` taps down by ``across``, the columns of x that g's first one meets."""

    downs: int
    across: tuple[int, ...]
    stride_h: int
    lanes: int
    before: int  #: vectors of x, of which lanes meet nothing, before those that are whole
    behind: int  #: and behind them

    @cached_property
    def pairs(self) -> list[tuple[int | None, int | None]]:
        """Taps of even columns and of odd ones that are computed together."""
        even, odd = ([t for t, at in enumerate(self.across) if at % STEP == e] for e in range(STEP))
        return list(zip_longest(even, odd))

    @property
    def sums(self) -> int:
        """Vectors of them."""
        return self.downs * len(self.pairs)

    @property
    def loads(self) -> float:
        """Vectors of x and of g that are loaded for a row of g and a vector of x."""
        return (self.downs + self.stride_h * (_DEEP - 1)) / _DEEP + 1

    @property
    def registers(self) -> int:
        """Sums, rows of g dealt out and how, and a vector of x."""
        return self.sums + (_DEEP + 1) * len(self.pairs) + 1

    @property
    def reach(self) -> tuple[int, int]:
        """The first and the last column of g that the first column of x meets, and the one beside it."""
        places = [-(at // STEP) for at in self.across]
        return min(places), max(places)

    def place(self, pair: int, lane: int) -> int:
        """The column of g that a lane meets, of those that its vector does."""
        tap = self.pairs[pair][lane % STEP]
        return lane // STEP - (self.across[tap] // STEP if tap is not None else -self.reach[0])

    @classmethod
    def of(cls, downs: int, across: tuple[int, ...], stride_h: int, lanes: int, width: int, upstream: int) -> Dealt:
        """That of rows of x and of g of such widths."""
        first, last = cls(downs, across, stride_h, lanes, 0, 0).reach
        vectors, each = ceil(width / lanes), lanes // STEP
        before = min(vectors, max(0, ceil(-first / each)))
        whole = max(0, min(width // lanes, (upstream - last) // each) - before)
        return cls(downs, across, stride_h, lanes, before, vectors - before - whole)


def write_dealt(module: Module, element: Type, tile: Dealt) -> Function:
    """Adds a function: acc[down][across] += the products of all rows of g and those of x that they meet.

    Row ``q`` of g meets row ``q stride_h + down - low_h`` of x. A vector of x asks for ``each_x`` elements more of
    ``next_x``, and of ``next_g``.
    """
    data, wide, lanes = ptr(element), computed(element), tile.lanes
    f = module.function(
        "run_dealt", x=data, g=data, acc=ptr(wide), h=i64, w=i64, oh=i64, ow=i64, low_h=i64,
        next_x=data, next_g=data, each_x=i64, each_g=i64,
    )  # fmt: skip
    a = f.args
    run = _Run(f, tile, wide)
    begin = minimum((a.low_h + (tile.stride_h - 1)) // tile.stride_h, a.oh)
    end = minimum(maximum((a.h + a.low_h + (tile.stride_h - tile.downs)) // tile.stride_h, begin), a.oh)
    sums = [zeros(f, wide, lanes)] * tile.sums
    end = end - (end - begin) % _DEEP
    sums = run.rows(f.const(i64, 0), begin, sums)
    sums = run.rows(begin, end, sums, _DEEP)
    sums = run.rows(end, a.oh, sums)
    odd = (lane_numbers(f, lanes, element=i32) & 1).ne(0)
    nothing = zeros(f, wide, lanes)
    for (down, pair), total in zip(product(range(tile.downs), tile.pairs), sums, strict=True):
        for tap, kept in zip(pair, ((nothing, total), (total, nothing)), strict=True):
            if tap is not None:
                to = a.acc.at((down * len(tile.across) + tap) * lanes)
                to.store(to.load(0, lanes) + select(odd, *kept))
    return f


class _Run:
    """A plane's rows."""

    def __init__(self, f: Function, tile: Dealt, wide: Type) -> None:
        self.f, self.a, self.tile, self.wide, lanes = f, f.args, tile, wide, tile.lanes
        first, last = tile.reach
        self.read = lanes_below(f, lanes // STEP + last - first, lanes, i32)  # of g, for a whole vector of x
        self.vectors = (self.a.w + (lanes - 1)) // lanes
        ends = {*range(tile.before), *range(-tile.behind, 0)}
        self.ends = {n: self._end(f.const(i64, n) if n >= 0 else self.vectors + n) for n in sorted(ends)}

    def _end(self, v: Value) -> End:
        """Which lanes there are of a vector of x, of those of g that it meets, and which of each pair meet some."""
        f, a, tile, lanes = self.f, self.a, self.tile, self.tile.lanes
        of_x = lanes_inside(f, v * lanes, a.w, lanes)
        at = v * (lanes // STEP)
        of_g, wide = lanes_inside(f, at + tile.reach[0], a.ow, lanes), splat(convert(a.ow, i32), lanes)
        met = []
        for pair in range(len(tile.pairs)):
            places = vector_of(f, i32, [tile.place(pair, lane) for lane in range(lanes)])
            met.append((places + splat(convert(at, i32), lanes)).ult(wide) & of_x)
        return of_x, of_g, met

    def rows(self, first: Value, stop: Value, sums: list[Value], deep: int = 0) -> list[Value]:
        """The sums after some rows of g, so many at a time, all of whose taps down meet a row of x; or one, if 0."""
        tile, a = self.tile, self.a
        with self.f.loop(first, stop, max(deep, 1), carry=sums) as q:
            row = q.i * tile.stride_h - a.low_h
            there = None if deep else [(row + down).ult(a.h) for down in range(tile.downs)]
            pixels = [a.g.at((q.i + n) * a.ow) for n in range(max(deep, 1))]
            values, asked = q.values, q.i * self.vectors
            for n in range(tile.before):
                values = self._added(self.f.const(i64, n), asked, row, pixels, values, there, self.ends[n])
            with self.f.loop(tile.before, self.vectors - tile.behind, carry=values) as v:
                v.values = self._added(v.i, asked, row, pixels, v.values, there)
            values = v.values
            for n in range(-tile.behind, 0):
                values = self._added(self.vectors + n, asked, row, pixels, values, there, self.ends[n])
            q.values = values
        return q.values

    def _added(
        self, v: Value, asked: Value, row: Value, pixels: list[Pointer], sums: Sequence[Value],
        there: list[Value] | None, end: End | None = None,
    ) -> list[Value]:  # fmt: skip
        """With the products of a vector of columns of x, whose first ``row`` the first rows of ``pixels`` meet."""
        f, a, tile, lanes = self.f, self.a, self.tile, self.tile.lanes
        for n in range(len(pixels)):
            self._ask(asked + n * self.vectors + v)
        whole: End = (None, self.read, [None] * len(tile.pairs))
        of_x, of_g, met = end or whole
        at = v * (lanes // STEP) + tile.reach[0]
        windows = [self._loaded(one, at, of_g) for one in pixels]
        dealt = [[self._dealt(window, pair) for pair in range(len(tile.pairs))] for window in windows]
        sums = list(sums)
        for down in range(tile.downs + tile.stride_h * (len(pixels) - 1)):
            here = row + down if there is None else select(there[down], row + down, 0)
            x = self._loaded(a.x.at(here * a.w), v * lanes, of_x)
            for n, each in enumerate(dealt):
                tap = down - n * tile.stride_h
                for pair, (one, mask) in enumerate(zip(each, met, strict=True)) if 0 <= tap < tile.downs else ():
                    if there is not None:
                        live = lanes_below(f, select(there[tap], f.const(i64, lanes), 0), lanes, i32)
                        mask = live if mask is None else live & mask
                    at_sum = tap * len(each) + pair
                    both = fma(one, x, sums[at_sum])
                    sums[at_sum] = both if mask is None else select(mask, both, sums[at_sum])
        return sums

    def _loaded(self, row: Pointer, at: Value, there: Value | None) -> Value:
        """A vector of a row, in the type of the sums."""
        if there is None:
            return convert(row.load(at, self.tile.lanes), self.wide)
        return loaded_as(self.wide, row, at, self.tile.lanes, there)

    def _dealt(self, window: Value, pair: int) -> Value:
        """The columns of g that lanes of x meet at a pair of taps."""
        tile = self.tile
        return shuffle(window, None, [tile.place(pair, lane) - tile.reach[0] for lane in range(tile.lanes)])

    def _ask(self, number: Value) -> None:
        """For what comes next, of which a vector of x asks for two lines at most."""
        a = self.a
        for line in range(STEP):
            a.next_x.prefetch(number * a.each_x + line * self.tile.lanes, locality=2)
        a.next_g.prefetch(number * a.each_g, locality=2)
