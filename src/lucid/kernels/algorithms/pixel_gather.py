"""The gather of dense kernels: samples of x into panels, as a table says that is written once for a span of positions.

All geometry is in the table, which is read for every channel: (tap, segment of a row) -> (offset in x, offset in the
panel, lanes that exist). Stride, dilation, padding, edges, batch: what gathers knows none of them.

An entry is 32 bytes and holds two segments of a vector: their offsets in x (of lane 0, i64 each), i32 offset in the
panel, i32 lanes of the first, i32 lanes of the second, i32 from its vector to that of the next tap, where an entry
stands for several (see ``Reading``). Lanes [low, high) are ``low | high << 16``. Entries that fill a vector, zeros
where it has no lanes, come first; those that add more segments to it are in a second list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.pixel_panels import (
    GATHER,
    GATHER_ARRAYS,
    ONE_AT_A_TIME,
    SIDE_BY_SIDE,
    TAP,
    Reading,
    read_numbers,
)
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
    loaded_as,
    maximum,
    minimum,
    ptr,
    select,
    splat,
    vec,
)

ENTRY_BYTES = 32
_SLOTS = 4
_TOGETHER = (4, 3, 1)  #: channels gathered for every look at an entry; an image has three
_WIDENED_TOGETHER = 4  # vectors
_READ_CHANNELS = 8  # for one look at all entries


def write_table(module: Module, lanes: int) -> Function:
    """Adds ``table(gather, entries, merges, image_size, p, limit, vectors, per_panel, slot)``; gives merges' number.

    ``vectors`` vectors of positions from p on, below ``limit``; ``per_panel`` of them side by side in each panel, whose
    size is ``slot`` elements. Where the first position lies takes divisions, all others follow from the one before;
    the whole vectors of a row are written together, tap by tap.
    """
    p64 = ptr(i64)
    f = module.function(
        "table", i64, gather=p64, entries=p64, merges=p64, image_size=i64, p=i64, limit=i64, vectors=i64,
        per_panel=i64, slot=i64,
    )  # fmt: skip
    a, r = f.args, read_numbers(f.args.gather, GATHER, GATHER_ARRAYS, GATHER)
    scale, tap_step = r["scale"], a.per_panel * lanes
    z_table, y_table, x_table = r["z_table"], r["y_table"], r["x_table"]
    taps_count, zero = r["z_taps"] * r["y_taps"] * r["x_taps"], f.const(i64, 0)
    image, inner = a.p // r["image_positions"], a.p % r["image_positions"]
    row, column = inner // r["x_positions"], inner % r["x_positions"]
    z_positions = r["image_positions"] // (r["y_positions"] * r["x_positions"])
    where = [image, row // r["y_positions"], row % r["y_positions"], column]
    with f.loop(0, a.vectors, carry=[zero, zero, zero, *where]) as u:  # its step is how many are written together
        merges, panel, in_panel, *where = u.values
        left, panel_offset = a.limit - a.p - u.i * lanes, panel + in_panel * lanes
        room = minimum(f.const(i64, lanes), left)
        whole = minimum(minimum(left, r["x_positions"] - where[-1]) // lanes, a.per_panel - in_panel)
        together = maximum(whole, 1)
        with f.loop(0, room, carry=[merges, zero, zero, *where]) as segment:  # its step is the length of the segment
            lane, (merges, opened, number, image, oz, oy, ox) = segment.i, segment.values
            second, in_fills = (number & 1).ne(0), number < 2
            opened = select(second, opened, select(in_fills, u.i * taps_count, merges))
            run = minimum(r["x_positions"] - ox, room - lane)
            origin = image * a.image_size + oz * r["z_step"] + oy * r["y_step"] + (ox - lane) * r["x_step"]
            target = select(in_fills, a.entries, a.merges)
            assert isinstance(target, Pointer)
            with f.loop(0, r["z_taps"], carry=[opened, panel_offset]) as z:
                source_z, in_z = origin + z_table.load(z.i * TAP), _within(oz, z_table, z.i)
                at_y = oy + oz * r["z_along"] + z_table.load(z.i * TAP + 3)
                with f.loop(0, r["y_taps"], carry=z.values) as y:
                    source_y = source_z + y_table.load(y.i * TAP)
                    exists = in_z & _within(at_y, y_table, y.i)
                    end = select(exists, (lane + run) * scale, zero)
                    at_x = ox + oy * r["y_along"] + y_table.load(y.i * TAP + 3)
                    with f.loop(0, r["x_taps"], carry=y.values) as x:
                        index, to = x.values
                        source, entry = source_y + x_table.load(x.i * TAP), target.at(index * _SLOTS)
                        inside = [(lane - at_x) * scale + x_table.load(x.i * TAP + n) for n in (1, 2)]
                        with f.loop(0, select(number.eq(0), together, 1)) as v:  # only the first segment has several
                            ahead = v.i * lanes
                            low = maximum(lane * scale, inside[0] - ahead * scale)
                            high = minimum(end, inside[1] - ahead * scale)
                            lane_set = select(low < high, low | high << 16, zero)
                            here = entry.at(v.i * taps_count * _SLOTS)
                            _write_half(here, second, source + ahead * r["x_step"], to + ahead, lane_set, tap_step)
                        x.values = [index + 1, to + tap_step * r["read_taps"]]
                    y.values = x.values
                z.values = y.values
            more = select(second | in_fills, zero, taps_count)
            segment.step, behind = run, ox + run + select(number.eq(0), (together - 1) * lanes, 0)
            ends = behind.eq(r["x_positions"])
            lines = zip(next_line(image, oz, oy, z_positions, r["y_positions"]), (image, oz, oy), strict=True)
            following = [select(ends, after, same) for after, same in lines]
            segment.values = [merges + more, opened, number + 1, *following, select(ends, 0, behind)]
        full = (in_panel + together).eq(a.per_panel)
        merges, _, _, *where = segment.values
        u.values = [merges, panel + select(full, a.slot, 0), select(full, 0, in_panel + together), *where]
        u.step = together
    f.ret(u.values[0])
    return f


def next_line(image: Value, z: Value, y: Value, lines_z: Value, lines_y: Value) -> list[Value]:
    """The line behind another, counted without a division."""
    last_y = (y + 1).eq(lines_y)
    last_z = last_y & (z + 1).eq(lines_z)
    further = [convert(last, i64, signed=False) for last in (last_z, last_y)]
    return [image + further[0], select(last_z, 0, z + further[1]), select(last_y, 0, y + 1)]


def _write_half(entry: Pointer, second: Value, source: Value, to: Value, lane_set: Value, tap_step: Value) -> None:
    """A segment into an entry. A first one stands for an empty second one too."""
    entry.store(source, 1)
    entry.store(select(second, lane_set, 0) | tap_step << 32, 3)
    with entry.fn.when(~second):
        entry.store(source)
        entry.store(to | lane_set << 32, 2)


def _within(position: Value, table: Pointer, tap: Value) -> Value:
    return (position >= table.load(tap * TAP + 1)) & (position < table.load(tap * TAP + 2))


def write_pack(
    module: Module, grain: Grain, lanes: int, reading: Reading = SIDE_BY_SIDE, adds: bool = False
) -> Function:
    """Adds ``pack(entries, fills, merges, merge_count, x, x_step, panel, channels, plane, stride)``.

    ``panel[c * stride + ...]`` is gathered from ``x[c * plane + ...]`` for every entry, or from the channels of an
    element of the grain. What is merged into a vector, one number at a lane, ``adds`` up where it is to be a sum.
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
                    _load_lanes(grain, sources, places, segments[: min(2, lanes)], lanes, merging, adds)

    done: Any = 0
    for together in _TOGETHER:
        elements = a.channels // grain.depth if together > 1 else grain.count(a.channels)
        end = elements - (elements - done) % together
        with f.loop(done, end, together) as c:
            some(c.i, together)
        done = end
    return f


def write_widen(module: Module, grain: Grain, lanes: int) -> Function:
    """Adds ``widen(x, panel, channels, plane, pitch, count)``: ``count`` numbers of each channel, ``pitch`` apart.

    Behind the last numbers zeros fill their vector.
    """
    f = module.function(
        "widen", x=ptr(grain.stored), panel=ptr(grain.packed), channels=i64, plane=i64, pitch=i64, count=i64
    )
    a, together = f.args, _WIDENED_TOGETHER * lanes
    many, whole = a.count - a.count % together, a.count - a.count % lanes
    with f.loop(0, a.channels) as c:
        x, panel = a.x.at(c.i * a.plane), a.panel.at(c.i * a.pitch)
        for begin, end, vectors in ((0, many, _WIDENED_TOGETHER), (many, whole, 1)):
            with f.loop(begin, end, vectors * lanes) as n:
                for v in range(vectors):
                    panel.store(convert(x.load(n.i + v * lanes, lanes), grain.packed), n.i + v * lanes)
        with f.when(whole < a.count):
            there = lanes_below(f, a.count - whole, lanes)
            panel.store(loaded_as(grain.packed, x, whole, lanes, there), whole)
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
    grain: Grain, sources: list[list[_Channel]], places: list[Pointer], segments: _Segments, lanes: int, merging: bool,
    adds: bool,
) -> None:  # fmt: skip
    """Vectors made of the lanes of each segment."""
    channels = list(chain(*sources))

    def read(number: int, vectors: Sequence[Value | None]) -> list[Value]:
        offset, lane_set = segments[number]
        mask = lane_mask(lane_set, lanes)
        return [c.x.load(offset, lanes, c.masked(mask), v) for c, v in zip(channels, vectors, strict=True)]

    values = iter(_in_turn(segments, read, len(channels)))
    for several, to in zip(sources, places, strict=True):
        value = grain.element([next(values) for _ in several])
        if merging:
            value = value + to.load(0, lanes) if adds else _merged(value, to.load(0, lanes))
        to.store(value)


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
