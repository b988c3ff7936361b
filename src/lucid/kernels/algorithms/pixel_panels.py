"""Panels of pixels: what a dense kernel multiplies with its weights, gathered from x a block of channels at a time.

A panel is ``panel[c][tap][position]``, the sample of x that an output position meets at that tap, or 0 outside x.
Positions are flat over the batch and the spatial axes. All geometry is in one table, written once for a span of
positions and read for every channel: (tap, segment of a row) -> (offset in x, offset in the panel, lanes that exist).
Stride, dilation of either sign, padding, edges, batch: no other place knows of them.

An entry is 32 bytes and holds two segments of a vector: their offsets in x (of lane 0, i64 each), i32 offset in the
panel, i32 lanes of the first, i32 lanes of the second, i32 from its vector to that of the next tap, where an entry
stands for several (see ``Reading``). Lanes [low, high) are ``low | high << 16``. Entries that fill a vector, zeros
where it has no lanes, come first; those that add more segments to it are in a second list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import gcd, prod
from typing import Any, NamedTuple

from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    bitcast,
    constant,
    convert,
    deinterleave,
    i1,
    i16,
    i32,
    i64,
    lanes_below,
    maximum,
    minimum,
    ptr,
    select,
    splat,
    vec,
)

ENTRY_BYTES = 32
_SLOTS = 4
_TAP = 4  #: numbers of a tap in its axis's table
_TOGETHER = (4, 3, 1)  #: channels gathered for every look at an entry; an image has three


class Reading(NamedTuple):
    """How the samples of a vector, ``step`` apart, are read: for so many neighbouring ``taps`` at once.

    ``step`` vectors lie side by side, and each tap picks its lanes from them. With step 0 samples come one at a time.
    """

    step: int
    taps: int

    @property
    def scale(self) -> int:
        """Elements that stand side by side for a lane."""
        return max(1, self.step)


SIDE_BY_SIDE, ONE_AT_A_TIME = Reading(1, 1), Reading(0, 1)
#: Vectors that are read at once, at most, and for each tap: beyond, single samples are as fast.
_MOST_READ, _MOST_READ_TAP = 16, 8
_LEAST_PIECE, _MOST_PIECE = 4, 16  # vectors
_READ_CHANNELS = 8  # for one look at all entries


def reading(axis: Axis, lanes: int) -> Reading:
    """How the samples of the last axis are read."""
    step, offsets = axis.step, axis.offsets
    if lanes == 1 or step == 1 or not offsets:
        return SIDE_BY_SIDE
    neighbours = offsets == tuple(range(offsets[0], offsets[0] + len(offsets)))
    taps = min(step, len(offsets)) if neighbours else 1
    return Reading(step, taps) if step <= min(_MOST_READ, _MOST_READ_TAP * taps) else ONE_AT_A_TIME


def _in_groups(axis: Axis) -> Axis:
    """The axis with more taps at the end, so that all are read as many at once."""
    taps = reading(axis, 2).taps
    more = -len(axis.offsets) % taps
    return replace(axis, offsets=(*axis.offsets, *(axis.offsets[-1] + 1 + k for k in range(more))))


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis of a dense convolution: position p meets sample ``p * step + offsets[t]`` at tap t.

    Position p is written to ``out_start + p * out_step`` of ``out_size``; tap t's weight is ``weights[t]`` elements
    into the kernel.

    An axis may be a piece of a ``line`` of so many samples, ``size`` of them for each of the axis around it. The last
    piece may be short, and with an offset a piece begins in the one before.

    Samples that lie otherwise than one after the other with the axes inside are so many elements ``apart``, and so are
    the results.
    """

    positions: int
    size: int
    step: int
    offsets: tuple[int, ...]
    weights: tuple[int, ...]
    out_size: int
    out_start: int = 0
    out_step: int = 1
    line: int = 0
    apart: int = 0

    def inside(self, offset: int) -> tuple[int, int]:
        """Positions [first, end) whose sample at that offset lies in x, counted from the start of a line."""
        if self.line:
            return -offset, self.line - offset
        first = max(0, -(offset // self.step))
        end = min(self.positions, -((offset - self.size) // self.step))
        return first, max(first, end)

    @property
    def plain(self) -> bool:
        """Whether every position meets its own sample and nothing else."""
        return self.offsets == (0,) and self.step == 1 and self.positions == self.size and self.contiguous

    @property
    def contiguous(self) -> bool:
        """Whether the positions are the whole axis of the result."""
        return self.positions == self.out_size and self.out_step == 1

    def over(self, inner: Axis) -> Axis:
        """This axis and a plain one inside it as a single long one."""
        n = inner.size
        return Axis(
            self.positions * n,
            self.size * n,
            1,
            tuple(o * n for o in self.offsets),
            tuple(w + inner.weights[0] for w in self.weights),
            self.out_size * n,
            self.out_start * n,
        )

    def shared(self) -> tuple[Axis, tuple[tuple[int, int], ...]]:
        """The axis with taps that are whole steps apart read from the same samples, and (tap, positions on) of each.

        Tap t at position p meets what tap ``first`` of its residue meets at ``p + (offsets[t] - first) / step``::

            step 1, three taps          one tap, two positions more
            tap 0   a b c d             a b c d e f
            tap 1     b c d e             tap 1 starts here
            tap 2       c d e f             tap 2 here
        """
        first: dict[int, int] = {}
        for offset in sorted(self.offsets):
            first.setdefault(offset % self.step, offset)
        residues = list(first)
        reads = tuple((residues.index(o % self.step), (o - first[o % self.step]) // self.step) for o in self.offsets)
        more = max((shift for _, shift in reads), default=0)
        return replace(self, positions=self.positions + more, offsets=tuple(first.values()), weights=()), reads


_POINT = Axis(1, 1, 1, (0,), (0,), 1)

Phase = tuple[Axis, Axis, Axis]

#: Instead of axes whose taps share samples: samples are read where they lie in x.
IN_PLACE = (-1,)


def joined(axes: Sequence[Axis]) -> Phase:
    """The same phase with plain inner axes merged into the ones around them, so that rows are long.

    A 1 x 1 convolution of stride 1 becomes one row an image.
    """
    outer, axes = list(axes), []
    while outer:
        axis = outer.pop()
        while outer and axis.plain and outer[-1].step == 1 and outer[-1].out_step == 1:
            axis = outer.pop().over(axis)
        axes.insert(0, axis)
    z, y, x = [_POINT] * (3 - len(axes)) + axes
    return z, y, x


def in_pieces(phase: Phase, count: int) -> Phase:
    """The same phase with the plain axis inside its taps cut into so many pieces, which come outermost.

    All positions of the axis around it are then near each other, and each sample is gathered once for all of them::

        time 0   a b c d e f g h i j k l        a b c d | time 0 e f g h | time 0 i j k l
        time 1   m n o p q r s t u v w x        m n o p | time 1 q r s t | time 1 u v w x
    """
    if count == 1:
        return phase
    z, y, x = _parted(phase)
    length = x.size // count
    outer = replace(z, positions=count, size=count, out_size=count, apart=length)
    return outer, replace(y, apart=x.size), replace(x, positions=length, size=length, out_size=length)


def piece_counts(phase: Phase, lanes: int) -> list[int]:
    """Into how many pieces of whole vectors a phase may be cut."""
    z, y, x = _parted(phase)
    if not (z.plain and z.size == 1 and x.plain and len(y.offsets) > 1) or lanes == 1:
        return []
    lengths = range(_LEAST_PIECE * lanes, min(_MOST_PIECE * lanes, x.size // 2) + 1, lanes)
    return [x.size // length for length in lengths if x.size % length == 0]


def _parted(phase: Phase) -> Phase:
    """The phase as it was before a plain axis was merged into one with taps: they are whole lines of it apart."""
    z, y, x = phase
    line = gcd(x.positions, x.size, x.out_size, x.out_start, *x.offsets)
    if not (z.size == y.size == x.step == x.out_step == 1 and len(x.offsets) > 1 and line > 1):
        return phase
    count, size, out_size, start = (n // line for n in (x.positions, x.size, x.out_size, x.out_start))
    outer = Axis(count, size, 1, tuple(o // line for o in x.offsets), x.weights, out_size, start)
    return z, outer, Axis(line, line, 1, (0,), (0,), line)


def pieces(phase: Phase) -> int:
    """How many the last axis is cut into."""
    return phase[0].positions if phase[0].apart else 1


def contiguous(phase: Phase) -> bool:
    """Whether the positions, in their order, are the whole result."""
    return all(axis.contiguous and not axis.apart for axis in phase)


def plain(phase: Phase) -> bool:
    """Whether every position meets its own sample and nothing else, in one row: a 1 x 1 convolution of stride 1."""
    z, y, x = phase
    return z == y == _POINT and x.plain and not x.line


def taps(phase: Phase) -> int:
    """Taps of all axes together."""
    return prod(len(axis.offsets) for axis in phase)


def positions(phase: Phase) -> int:
    """Positions in one image."""
    return prod(axis.positions for axis in phase)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a phase's samples lie in its panels.

    Where no axis is ``shared`` every tap has vectors of its own, and a unit of positions is the whole batch. Otherwise
    taps along that axis share them, and a unit is what lies inside the axis: no span crosses its end. With two axes,
    neighbours, a span is whole lines of the inner one, each followed in the panel by the samples that only its last
    positions meet.

    Of a plain phase x itself may be the panel, ``IN_PLACE``: nothing is gathered, and a unit is an image.
    """

    phase: Phase
    shared: tuple[int, ...]
    gathered: Phase  #: the phase as the table sees it: fewer taps, more positions
    taps: int
    gathered_taps: int
    units: int
    unit: int  #: positions of a unit
    halo: int  #: positions gathered beyond those of a span's lines
    line: int  #: positions that lie side by side in a panel: a whole unit's but where two axes are shared
    pitch: int  #: from one line in a panel to the next

    @classmethod
    def of(cls, phase: Phase, shared: tuple[int, ...], batch: int) -> Layout:
        """The layout of a phase whose taps share samples along some axes."""
        if not shared:
            count, unit = taps(phase), batch * positions(phase)
            z, y, x = phase
            gathered = z, y, _in_groups(x)
            return cls(phase, shared, gathered, count, taps(gathered), 1, unit, 0, unit, unit)
        if shared == IN_PLACE:
            return cls(phase, shared, phase, 1, 0, batch, positions(phase), 0, positions(phase), 0)
        z, y, x = (axis.shared()[0] if k in shared else axis for k, axis in enumerate(phase))
        gathered = z, y, _in_groups(x)
        first, last = shared[0], shared[-1]
        unit, gathered_unit = (prod(axis.positions for axis in axes[first:]) for axes in (phase, gathered))
        line, pitch = (prod(axis.positions for axis in axes[last:]) for axes in (phase, gathered))
        if first == last:
            pitch = line
        units = batch * prod(axis.positions for axis in phase[:first])
        halo = gathered_unit - unit // line * pitch
        return cls(phase, shared, gathered, taps(phase), taps(gathered), units, unit, halo, line, pitch)

    @property
    def lines(self) -> int:
        """Lines of a unit."""
        return self.unit // self.line

    @property
    def in_place(self) -> bool:
        """Whether x is the panel."""
        return self.shared == IN_PLACE

    def reads(self) -> list[tuple[int, int]]:
        """For every tap, the gathered tap and how many positions further on it reads."""
        each = []
        for k, axis in enumerate(self.phase):
            inner = prod(further.positions for further in self.gathered[k + 1 :])
            of_axis = axis.shared()[1] if k in self.shared else tuple((t, 0) for t in range(len(axis.offsets)))
            each.append([(tap, shift * inner) for tap, shift in of_axis])
        _, y, x = (len(axis.offsets) for axis in self.gathered)
        return [((a * y + b) * x + c, i + j + k) for a, i in each[0] for b, j in each[1] for c, k in each[2]]


def most_passes(phase: Phase, lanes: int) -> int:
    """Entries for the rows that a vector of positions can touch."""
    segments = min(lanes, (lanes - 2) // phase[2].positions + 2) if lanes > 1 else 1
    return (segments + 1) // 2


#: What the table's writer reads of a gathered phase. Offsets and steps are in elements.
GATHER = (
    "image_positions", "y_positions", "x_positions", "z_step", "y_step", "x_step", "z_taps", "y_taps", "x_taps",
    "z_table", "y_table", "x_table", "scale", "read_taps", "z_along", "y_along",
)  # fmt: skip
_ARRAYS = {"z_table", "y_table", "x_table"}


def gather_numbers(phase: Phase, table_at: Sequence[int], reading: Reading = SIDE_BY_SIDE) -> tuple[int, ...]:
    """The numbers of ``GATHER``; ``table_at`` says where the arrays of ``tap_tables`` lie."""
    z, y, x = phase
    counts = len(z.offsets), len(y.offsets), len(x.offsets) // reading.taps
    along = z.step * _piece(y), y.step * _piece(x)
    steps = (axis.step * n for axis, n in zip(phase, _apart(phase), strict=True))
    return positions(phase), y.positions, x.positions, *steps, *counts, *table_at, reading.scale, reading.taps, *along


def _apart(phase: Phase) -> tuple[int, int, int]:
    """Elements from one sample of each axis to the next."""
    z, y, x = phase
    return z.apart or x.line or y.size * x.size, y.apart or x.size, 1


def _piece(axis: Axis) -> int:
    """How far along its line the next piece begins."""
    return axis.size if axis.line else 0


def tap_tables(phase: Phase, reading: Reading = SIDE_BY_SIDE) -> list[list[tuple[int, int, int, int]]]:
    """For every tap of each axis: its offset in elements, and the positions [first, end) where it meets x.

    Then how much further along its line it is, if the axis inside is a piece of one.
    On the last axis the taps that are read at once are one, and instead of positions the elements behind its first.
    """
    z, y, x = phase
    tables = [
        [(o * scale, *axis.inside(o), o * _piece(inner)) for o in axis.offsets]
        for axis, inner, scale in zip((z, y), (y, x), _apart(phase), strict=False)
    ]
    if reading.step < 2:
        return [*tables, [(o, *x.inside(o), 0) for o in x.offsets]]
    return [*tables, [(o, max(0, -o), max(0, -o, x.size - o), 0) for o in x.offsets[:: reading.taps]]]


def read_numbers(record: Pointer, slots: Sequence[str], arrays: set[str], names: Sequence[str]) -> dict[str, Any]:
    """Some of a record's slots by name: numbers, and pointers to arrays of numbers."""
    return {name: record.at(slots.index(name)).cast(ptr(i64) if name in arrays else i64).load() for name in names}


def write_table(module: Module, lanes: int) -> Function:
    """Adds ``table(gather, entries, merges, image_size, p, limit, vectors, per_panel, slot)``; gives merges' number.

    ``vectors`` vectors of positions from p on, below ``limit``; ``per_panel`` of them side by side in each panel, whose
    size is ``slot`` elements.
    """
    p64 = ptr(i64)
    f = module.function(
        "table", i64, gather=p64, entries=p64, merges=p64, image_size=i64, p=i64, limit=i64, vectors=i64,
        per_panel=i64, slot=i64,
    )  # fmt: skip
    a, r = f.args, read_numbers(f.args.gather, GATHER, _ARRAYS, GATHER)
    scale, tap_step = r["scale"], a.per_panel * lanes
    z_table, y_table, x_table = r["z_table"], r["y_table"], r["x_table"]
    taps_count, zero = r["z_taps"] * r["y_taps"] * r["x_taps"], f.const(i64, 0)
    with f.loop(0, a.vectors, carry=[zero]) as u:
        at = a.p + u.i * lanes
        room = minimum(f.const(i64, lanes), a.limit - at)
        panel_offset = u.i // a.per_panel * a.slot + u.i % a.per_panel * lanes
        with f.loop(0, room, carry=[*u.values, zero, zero]) as segment:  # its step is the length of the segment
            lane, (merges, opened, number) = segment.i, segment.values
            second, in_fills = (number & 1).ne(0), number < 2
            opened = select(second, opened, select(in_fills, u.i * taps_count, merges))
            position = at + lane
            image, inner = position // r["image_positions"], position % r["image_positions"]
            row, ox = inner // r["x_positions"], inner % r["x_positions"]
            oz, oy = row // r["y_positions"], row % r["y_positions"]
            run = minimum(r["x_positions"] - ox, room - lane)
            origin = image * a.image_size + oz * r["z_step"] + oy * r["y_step"] + (ox - lane) * r["x_step"]
            target = select(in_fills, a.entries, a.merges)
            assert isinstance(target, Pointer)
            with f.loop(0, r["z_taps"], carry=[opened, panel_offset]) as z:
                source_z, in_z = origin + z_table.load(z.i * _TAP), _within(oz, z_table, z.i)
                at_y = oy + oz * r["z_along"] + z_table.load(z.i * _TAP + 3)
                with f.loop(0, r["y_taps"], carry=z.values) as y:
                    source_y = source_z + y_table.load(y.i * _TAP)
                    exists = in_z & _within(at_y, y_table, y.i)
                    end = select(exists, (lane + run) * scale, zero)
                    at_x = ox + oy * r["y_along"] + y_table.load(y.i * _TAP + 3)
                    with f.loop(0, r["x_taps"], carry=y.values) as x:
                        index, to = x.values
                        low = maximum(lane * scale, (lane - at_x) * scale + x_table.load(x.i * _TAP + 1))
                        high = minimum(end, (lane - at_x) * scale + x_table.load(x.i * _TAP + 2))
                        lane_set = select(low < high, low | high << 16, zero)
                        entry = target.at(index * _SLOTS)
                        _write_half(entry, second, source_y + x_table.load(x.i * _TAP), to, lane_set, tap_step)
                        x.values = [index + 1, to + tap_step * r["read_taps"]]
                    y.values = x.values
                z.values = y.values
            more = select(second | in_fills, zero, taps_count)
            segment.values = [merges + more, opened, number + 1]
            segment.step = run
        u.values = segment.values[:1]
    f.ret(u.values[0])
    return f


def _write_half(entry: Pointer, second: Value, source: Value, to: Value, lane_set: Value, tap_step: Value) -> None:
    """A segment into an entry. A first one stands for an empty second one too."""
    entry.store(source, 1)
    entry.store(select(second, lane_set, 0) | tap_step << 32, 3)
    with entry.fn.when(~second):
        entry.store(source)
        entry.store(to | lane_set << 32, 2)


def _within(position: Value, table: Pointer, tap: Value) -> Value:
    return (position >= table.load(tap * _TAP + 1)) & (position < table.load(tap * _TAP + 2))


def write_pack(module: Module, grain: Grain, lanes: int, reading: Reading = SIDE_BY_SIDE) -> Function:
    """Adds ``pack(entries, fills, merges, merge_count, x, x_step, panel, channels, plane, stride)``.

    ``panel[c * stride + ...]`` is gathered from ``x[c * plane + ...]`` for every entry, or from the channels of an
    element of the grain.
    """
    p64 = ptr(i64)
    f = module.function(
        "pack", entries=p64, fills=i64, merges=p64, merge_count=i64, x=ptr(grain.stored), x_step=i64,
        panel=ptr(grain.packed), channels=i64, plane=i64, stride=i64,
    )  # fmt: skip
    a = f.args
    if reading.step > 1:
        _pack_apart(f, grain, lanes, reading)
        return f

    def some(first: Value, count: int) -> None:
        sources = [_channels(f, grain, first + k, whole=count > 1) for k in range(count)]
        targets = [a.panel.at((first + k) * a.stride) for k in range(count)]
        for entries, size, merging in ((a.entries, a.fills, False), (a.merges, a.merge_count, True)):
            with f.loop(0, size) as t:
                entry = entries.at(t.i * _SLOTS)
                to, _, segments = read_entry(entry)
                places = [panel.at(to) for panel in targets]
                if not merging and count > 1:  # the next channels are a plane away, which no machine would guess
                    for channel in chain(*sources):
                        channel.x.at(a.plane * (count * grain.depth) + segments[0][0]).prefetch()
                if reading == ONE_AT_A_TIME:
                    _copy_lanes(grain, sources, places, segments, lanes, merging, a.x_step)
                else:
                    _load_lanes(grain, sources, places, segments[: min(2, lanes)], lanes, merging)

    done: Any = 0
    for together in _TOGETHER:
        elements = a.channels // grain.depth if together > 1 else grain.count(a.channels)
        end = elements - (elements - done) % together
        with f.loop(done, end, together) as c:
            some(c.i, together)
        done = end
    return f


_Segments = list[tuple[Value, Value]]


class _Channel(NamedTuple):
    """A channel of x, and whether it is there, unless it is in any case."""

    x: Pointer
    there: Value | None

    def masked(self, mask: Value) -> Value:
        """The lanes of a mask, if it is there."""
        return mask if self.there is None else mask & splat(self.there, mask.type.lanes)


def _channels(f: Function, grain: Grain, element: Value, whole: bool = False) -> list[_Channel]:
    """Those of an element, which is the last one that may lack some unless it is ``whole``."""
    a, first = f.args, element * grain.depth
    return [
        _Channel(a.x.at((first + k) * a.plane), first + k < a.channels if k and not whole else None)
        for k in range(grain.depth)
    ]


def read_entry(entry: Pointer) -> tuple[Value, Value, _Segments]:
    """Where its vector is, how far on the next tap's, and offset and lanes of both segments."""
    first, second = entry.load(2), entry.load(3)
    segments = [(entry.load(), first >> 32), (entry.load(1), second & 0xFFFFFFFF)]
    return first & 0xFFFFFFFF, second >> 32, segments


_Read = Callable[[int, Sequence[Value | None]], list[Value]]


def _load_lanes(
    grain: Grain, sources: list[list[_Channel]], places: list[Pointer], segments: _Segments, lanes: int, merging: bool
) -> None:
    """Vectors made of the lanes of each segment."""
    channels = list(chain(*sources))

    def read(number: int, vectors: Sequence[Value | None]) -> list[Value]:
        offset, lane_set = segments[number]
        mask = lane_mask(lane_set, lanes)
        return [c.x.load(offset, lanes, c.masked(mask), v) for c, v in zip(channels, vectors, strict=True)]

    values = iter(_in_turn(segments, read, len(channels)))
    for several, to in zip(sources, places, strict=True):
        value = grain.element([next(values) for _ in several])
        to.store(_merged(value, to.load(0, lanes)) if merging else value)


def _in_turn(segments: _Segments, read: _Read, count: int) -> list[Value]:
    """So many vectors with the lanes of the first segment, and with those of the second, which few entries have.

    From one piece of code to another they go as whole numbers: LLVM would make floats of bfloats.
    """
    first, (_, lane_set) = read(0, [None] * count), segments[-1]
    if len(segments) == 1:
        return first
    loaded = first[0].type
    words = vec({16: i16, 32: i32, 64: i64}[loaded.bits], loaded.lanes)
    alone = [bitcast(value, words) for value in first]

    def both() -> list[Value]:
        return [bitcast(value, words) for value in read(1, [bitcast(value, loaded) for value in alone])]

    return [bitcast(value, loaded) for value in lane_set.fn.choose(lane_set.eq(0), lambda: alone, both)]


def _pack_apart(f: Function, grain: Grain, lanes: int, reading: Reading) -> None:
    """Samples some steps apart: whole vectors of x, from which each tap picks its lanes.

    Both lists go through the same code, which is long: where nothing is to be merged, nothing is loaded.
    """
    a, elements, together = f.args, grain.count(f.args.channels), _READ_CHANNELS // grain.depth
    with f.loop(0, elements, together) as block, f.loop(0, 2) as second:
        end, merging = minimum(block.i + together, elements), second.i.ne(0)
        entries, old_lanes = select(merging, a.merges, a.entries), splat(merging, lanes)
        further = end < elements  # an image's three channels are all read at once
        with f.loop(0, select(merging, a.merge_count, a.fills)) as t:
            entry = entries.at(t.i * _SLOTS)
            to, tap_step, segments = read_entry(entry)
            masks = [ranges(f, elements, reading.step, lanes) for _, elements in segments]
            with f.loop(block.i, end) as c:
                channels, panel = _channels(f, grain, c.i), a.panel.at(c.i * a.stride + to)
                with f.when(further):
                    for channel in channels:
                        ahead = channel.x.at(a.plane * _READ_CHANNELS + segments[0][0])
                        for v in range(reading.step):
                            ahead.prefetch(v * lanes)

                def read(number: int, vectors: Sequence[Value | None]) -> list[Value]:
                    old, loaded = iter(vectors), []
                    for channel in channels:
                        row = channel.x.at(segments[number][0])
                        loaded += [
                            row.load(v * lanes, lanes, channel.masked(mask), next(old))
                            for v, mask in enumerate(masks[number])
                        ]
                    return loaded

                vectors = _in_turn(segments, read, len(channels) * reading.step)
                rows = [vectors[k : k + reading.step] for k in range(0, len(vectors), reading.step)]
                elements_read = [grain.element(numbers) for numbers in zip(*rows, strict=True)]
                for tap, value in enumerate(deinterleave(elements_read, reading.taps)):
                    place = panel.at(tap_step * tap)
                    place.store(_merged(value, place.load(0, lanes, old_lanes)))


def ranges(f: Function, elements: Value, vectors: int, lanes: int) -> list[Value]:
    """Masks of vectors side by side, for the elements [low, high) of ``low | high << 16``."""
    low, high = elements & 0xFFFF, elements >> 16
    return [
        lanes_below(f, high - v * lanes, lanes, i32) & ~lanes_below(f, low - v * lanes, lanes, i32)
        for v in range(vectors)
    ]


def _merged(value: Value, old: Value) -> Value:
    """Two vectors of which one is 0 in every lane, lane by lane the other: by bits, since -0 + 0 is 0."""
    whole = vec(i32 if value.type.bits == 32 else i64, value.type.lanes)
    return bitcast(bitcast(value, whole) | bitcast(old, whole), value.type)


def lane_mask(lane_set: Value, lanes: int) -> Value:
    """Lanes [low, high) of ``low | high << 16``."""
    one = lane_set.const(1)
    bits = (one << (lane_set >> 16)) - (one << (lane_set & 0xFFFF))
    word = Type(f"i{lanes}", "int", lanes)
    return bitcast(convert(bits, word), vec(i1, lanes)) if lanes > 1 else bits.ne(0)


def _copy_lanes(
    grain: Grain, sources: list[list[_Channel]], places: list[Pointer], segments: _Segments, lanes: int, merging: bool,
    x_step: Value,
) -> None:  # fmt: skip
    f = x_step.fn
    if not merging:
        for to in places:
            to.store(constant(f, vec(to.pointee, lanes), 0))
    for offset, lane_set in segments:
        rows = [[_Channel(x.at(offset), there) for x, there in channels] for channels in sources]
        with f.loop(lane_set & 0xFFFF, lane_set >> 16) as lane:
            for row, to in zip(rows, places, strict=True):
                numbers = [x.load(lane.i * x_step, 1, there) for x, there in row]
                to.store(grain.element(numbers), lane.i)
