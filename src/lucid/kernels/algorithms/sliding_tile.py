"""The tiles of ``sliding``: how a row is read and shifted, what a step holds, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil

from lucid.kernels.ir import (
    Function,
    Pointer,
    Type,
    Value,
    bitcast,
    convert,
    deinterleave,
    f32,
    f64,
    i32,
    i64,
    lanes_inside,
    loaded_as,
    shuffle,
    slid,
    told_apart,
    vec,
    zeros,
)

#: Numbers of w that are held in registers through all steps; more are read where they are used.
HELD = 12

WAITING = 0.8  #: for memory, of what one stream waits

#: Cycles of a product, in one turn of the units and in two.
_PRODUCT = {1: 0.29, 2: 0.93}

ROOMY = 26  # registers: a tile of more moves some of them to the stack and back

_LATENCY = 3.8  # cycles of a product: short rows wait for the one before, and the next row is a step of its own
_DOT_LATENCY = 1.5  # times that of one, of a pair
_OVERLAP = 64  # cycles of that in which the next strip begins

#: How many rows before it is read a vector is asked for: farther than the machine's own guesses, where rows are long.
AHEAD_ROWS = 16

#: Vectors of a ring, and how many before it is read a row is put there: longer than stores take to reach the cache.
_RING_VECTORS, _RING_AHEAD = 32, 16

#: Whole numbers of as many bits.
_WORDS = {f32: i32, f64: i64}


@dataclass(frozen=True, slots=True)
class Row:
    """A row that is read once, in ``vectors``, and met at ``shifts`` columns from each lane's own, ``step`` apart.

    In a ``whole`` one they are all there is, and only the last has lanes that are not loaded.
    """

    shifts: tuple[int, ...]
    step: int
    vectors: int
    lanes: int
    whole: bool = False
    in_turns: bool = False  #: a unit takes an instruction in two turns
    half: bool = False  #: of the last vector of every ``step``-th column only the first half is read
    apart: bool = False  #: what lies partly before or behind its vectors is loaded where it is met, not slid
    unread: int = 0  #: of a ``whole`` one, vectors in memory at the end of the last step that have no lane of it

    @property
    def places(self) -> range:
        """Vectors of every ``step``-th column that are read, by number."""
        firsts = min((at // self.step) // self.lanes for at in self.shifts)
        lasts = max(-(-(at // self.step) // self.lanes) for at in self.shifts)
        return range(firsts, self.vectors + lasts)

    @property
    def reads(self) -> range:
        """Vectors in memory that are read, by number."""
        places = range(self.vectors) if self.whole or self.apart else self.places
        return range(places.start * self.step, places.stop * self.step - self.half * (self.step // 2) - self.unread)

    def masks(self, f: Function, column: Value, width: Value) -> dict[int, Value | None]:
        """Which lanes of each vector in memory lie in a row of a ``width``, if the first begins at a ``column``."""
        masked = self.reads[-1:] if self.whole else self.reads
        masks = {i: lanes_inside(f, column + i * self.lanes, width, self.lanes_read(i)) for i in masked}
        return {i: masks.get(i) for i in self.reads}

    def read(self, row: Pointer, masks: dict[int, Value | None], wide: Type) -> Callable[[int, int], Value]:
        """Loads it; gives its vector ``v`` from a shift on, by registers that are shifted when they are wanted."""
        if row.pointee == wide and self.step > 1 and self.in_turns:  # as LLVM slides whole numbers by one instruction
            found = self._shifted(row.cast(_WORDS[wide]), masks, _WORDS[wide])
            return lambda at, v: bitcast(found(at, v), vec(wide, self.lanes))
        return self._shifted(row, masks, wide)

    def _shifted(self, row: Pointer, masks: dict[int, Value | None], wide: Type) -> Callable[[int, int], Value]:
        element = wide if self.step == 1 else row.pointee
        nothing, loaded = zeros(row.fn, element, self.lanes), self.loaded(row, masks, element)
        parts = {  # halves are told apart before they are widened, as vectors of half the bits
            (e, p): self.filled(convert(part, wide))
            for p in self.places
            for e, part in enumerate(self._told_apart(p, loaded, nothing))
        }
        return self.shifted(parts, merges=self.step > 1 and row.pointee == wide)

    def loaded(self, row: Pointer, masks: dict[int, Value | None], wide: Type) -> dict[int, Value]:
        """Its vectors in memory, by number."""
        places = [(i, i * self.lanes, self.lanes_read(i), mask) for i, mask in masks.items()]
        return {
            i: convert(row.load(at, lanes), wide) if mask is None else loaded_as(wide, row, at, lanes, mask)
            for i, at, lanes, mask in places
        }

    def _told_apart(self, place: int, loaded: dict[int, Value], nothing: Value) -> list[Value]:
        """The columns of a step, of one of ``places``: vectors, or halves of them."""
        first, step = place * self.step, self.step
        if self.half and step == 2 and place == self.reads[-1] // step:
            return [shuffle(loaded[first], None, range(e, self.lanes, step)) for e in range(step)]
        columns = [loaded.get(i, nothing) for i in range(first, first + step)]
        there = any(i in loaded for i in range(first, first + step))
        return told_apart(*columns) if there else deinterleave(columns, step)

    def lanes_read(self, number: int) -> int:
        """Of a vector in memory."""
        return self.lanes // 2 if self.half and self.step == 1 and number == self.reads[-1] else self.lanes

    def filled(self, part: Value) -> Value:
        """A vector; of half of one the rest is zeros."""
        if part.type.lanes == self.lanes:
            return part
        return shuffle(part, zeros(part.fn, part.type.element, part.type.lanes), range(self.lanes))

    def shifted(self, parts: dict[tuple[int, int], Value], merges: bool = False) -> Callable[[int, int], Value]:
        """Vector ``v`` from a shift on, of the ``parts`` by column of a step and vector.

        By a shuffle where LLVM ``merges`` it with the one before.
        """
        made: dict[tuple[int, int], Value] = {}

        def vector(at: int, v: int) -> Value:
            if (at, v) not in made:
                e, (p, r) = at % self.step, divmod(at // self.step, self.lanes)
                first = parts[e, v + p]
                if self.half and self.step == 1 and v + p == self.reads[-1] and 0 < r < self.lanes // 2:
                    made[at, v] = self._behind_half(first, r)
                else:
                    made[at, v] = self._between(first, parts[e, v + p + 1], r, merges) if r else first
            return made[at, v]

        return vector

    def _behind_half(self, vector: Value, lane: int) -> Value:
        """The vector from a lane on of one whose second half is zeros, as are those behind it."""
        half = shuffle(vector, None, range(self.lanes // 2))
        return self.filled(slid(half, zeros(half.fn, half.type.element, half.type.lanes), lane))

    def _between(self, first: Value, second: Value, lane: int, merges: bool) -> Value:
        """The vector from a lane on."""
        if not merges:
            return slid(first, second, lane)
        return shuffle(first, second, range(lane, lane + self.lanes))


@dataclass(frozen=True)
class Slide:
    """``results`` by ``vectors`` of sums for every phase and for every row of results that is in flight.

    ``downs`` and ``across`` are, for every phase of the result's rows and columns, its taps as (tap, place in the
    source): rows from the step's first on, columns from that of the first lane on, negative before it.
    """

    results: int
    vectors: int
    downs: tuple[tuple[tuple[int, int], ...], ...]
    across: tuple[tuple[tuple[int, int], ...], ...]
    stride: tuple[int, int]  #: steps in the source, of rows and columns
    kernel_w: int
    several: bool  #: a group has more than one source
    whole: bool = False  #: one strip is a row of the source and of the result, and only its last vector is not full
    stream: bool = False  #: whole vectors go past the caches
    asks: bool = False  #: lines that will be written are asked for
    in_turns: bool = False  #: a unit takes an instruction in two turns, and half a vector in one
    spreads: bool = False  #: numbers of w are copied into all lanes of vectors first
    tail: int = 0  #: half vectors of the last strip, if they are fewer than of the others
    alone: bool = False  #: there is no other strip than that
    half: bool = False  #: and of the source's last vector, or last two of a stride of 2, only the first half is read
    pairs: bool = False  #: both phases of columns are in one vector of sums, by turns
    ring: bool = False  #: rows are widened some steps before they are read, at each shift, from a ring of them
    apart: bool = False  #: what lies partly before or behind a strip is loaded where it is met, not slid
    dots: bool = False  #: bfloats side by side are multiplied in pairs, as they lie
    #: Of whole planes, steps at the top and at the bottom that are written apart, without products for rows of results
    #: that are not there.
    edges: tuple[int, int] = (0, 0)
    unread: int = 0  #: of a longer stride, vectors of a ``whole`` row's last step that have no column of it
    folds: bool = False  #: a stride of 2: even and odd columns are summed apart, as they lie, and added last

    @cached_property
    def lags(self) -> list[range]:
        """For every phase of rows, in how many steps from now its rows in flight began, where the last is finished."""
        found = [[place // self.stride[0] for _, place in phase] for phase in self.downs]
        return [range(min(lags), max(lags) + 1) for lags in found]

    @property
    def ends_first(self) -> bool:
        """Whether rows of results are stored before other products of their last step, whose first row alone ends them.

        Stored amid those, numbers of w that are read before and used behind went by the stack.
        """
        stride, several_rows = self.stride[0], self.stride[0] > 1 or len(self.downs) > 1
        plain = self.in_turns and not (self.several or self.pairs or self.dots or self.folds or self.ring)
        taps = [(at, lags[-1]) for phase, lags in zip(self.downs, self.lags, strict=True) for _, at in phase]
        return plain and several_rows and all(at % stride == 0 for at, last in taps if at // stride == last)

    @property
    def phases(self) -> int:
        """Of the result's columns, each with vectors of sums of its own: pairs of a stride of 1 make two of one."""
        return 2 if self.dots and self.stride[1] == 1 else len(self.across)

    def widths(self, lanes: int) -> list[int]:
        """Lanes of the vectors of sums of a row's phase: the last may be half of one."""
        halves, merged = self.tail or 2 * self.vectors, self.phases // len(self.across)
        count = ceil(halves / (2 * merged))
        left = halves - (count - 1) * 2 * merged
        return [lanes] * (count - 1) + [lanes // 2 if left <= merged else lanes]

    @property
    def each(self) -> int:
        """Vectors of sums of one row."""
        return self.results * (self.halves if self.folds else self.phases * len(self.widths(2)))

    @property
    def halves(self) -> int:
        """Half vectors of a row of results in the last strip."""
        return self.tail or 2 * self.vectors

    @cached_property
    def twos(self) -> list[tuple[int | None, int, int]]:
        """Taps across that are multiplied together: the first, the second, and the place of the first.

        Of an odd number the last is a second one without a first, both of whose numbers are 0.
        """
        taps = sorted((at, t) for t, at in self.across[0])
        both: list[tuple[int | None, int, int]] = [
            (first, second, at) for (at, first), (_, second) in zip(taps[0::2], taps[1::2], strict=False)
        ]
        return [*both, (None, taps[-1][1], taps[-2][0])] if len(taps) % 2 else both

    def row(self, lanes: int) -> Row:
        """How a row of the source is read."""
        shifts = tuple(at for phase in self.across for _, at in phase)
        read = self.whole, self.in_turns, self.half, self.apart, self.unread
        return Row(shifts, self.stride[1], self.vectors, lanes, *read)

    @property
    def ring_rows(self) -> int:
        """Of the ring: a power of two."""
        return _RING_VECTORS >> (self.vectors - 1).bit_length()

    @property
    def ahead(self) -> int:
        """How many steps before it is read a row is put there."""
        return self.ring_rows * _RING_AHEAD // _RING_VECTORS

    def ring_row(self, lanes: int) -> int:
        """Elements of a row in the ring, with a vector of zeros behind it, which is before the next."""
        return (self.vectors + 1) * lanes

    @property
    def last(self) -> Slide:
        """The last strip's, of the vectors that it begins."""
        return replace(self, vectors=(self.tail + 1) // 2) if self.tail else self

    @property
    def products(self) -> float:
        """Vectors of them in one step and source, or of pairs."""
        if self.dots:
            return sum(map(len, self.downs)) * len(self.twos) * self.results * self.phases * sum(self.widths(2)) / 2
        return sum(map(len, self.downs)) * sum(map(len, self.across)) * self.results * self.vectors

    @property
    def numbers(self) -> int:
        """Of w, or vectors of two of them, that a step and source reads."""
        across = len(self.across[0]) if self.pairs else sum(map(len, self.across))
        across = len(self.twos) if self.dots or self.folds else across
        return sum(map(len, self.downs)) * across * self.results

    @property
    def holds(self) -> bool:
        """Whether numbers of w are in registers through all steps, and are read where they lie."""
        return not self.several and self.numbers <= HELD

    @property
    def first(self) -> int:
        """The least place of a tap across."""
        return min(at for phase in self.across for _, at in phase)

    def cycles(self, steps: int, sources: int, lanes: int, turns: int) -> float:
        """Of so many steps; fitted to 205 tiles of 38 problems in the second cache, 92 % of them within 10 %."""
        registers, parts = self.registers(lanes), self._parts(lanes) * self.stride[0]
        split, merged = min(self.stride[1] - 1, 2), 0 if self.pairs else min(self.phases - 1, 2)
        split = 0 if self.dots or self.folds else split
        loaded = self.numbers if self.several or self.numbers > HELD else 0
        if self.in_turns and self.several and self.vectors == 1:  # products read them, which takes them no time
            loaded = 0
        halved = self.tail / (2 * self.vectors) if self.tail and not self.dots else 1.0
        source = (
            _PRODUCT[turns] * self.products * halved
            + 0.15 * loaded
            + (0.49 + 0.64 * split) * parts
            + 2.1 * self.several
        )
        source += 0.72 * max(0, registers - ROOMY)
        moved = sum(len(lags) - 1 for lags in self.lags) * self.each
        ended = 0.75 * moved + (0.28 + 1.27 * merged + self.folds) * self.each * len(self.downs)
        waiting = _LATENCY * (len(self.twos) * _DOT_LATENCY if self.dots else max(map(len, self.across)))
        return max(steps * (sources * source + ended), steps * (sources * max(source, waiting) + ended) - _OVERLAP)

    def registers(self, lanes: int) -> int:
        """How many a step holds."""
        sums = sum(len(lags) for lags in self.lags) * self.each
        if self.folds:
            return sums + self.numbers + self.halves + 6
        return sums + (4 if self.pairs or self.dots else self._slid(lanes)) + min(self.numbers, 2)

    def _slid(self, lanes: int) -> int:
        """Vectors of a row that are loaded, or would be if none is loaded apart or unread, which has its price."""
        whole = self.whole and not self.unread
        return len(replace(self.row(lanes), apart=False, whole=whole, unread=0).reads)

    def _parts(self, lanes: int) -> int:
        """Vectors that are loaded of a row."""
        if self.dots:
            return len({at + c for *_, at in self.twos for c in range(self.phases)}) * len(self.widths(lanes))
        return 2 * self.vectors if self.pairs else self._slid(lanes)
