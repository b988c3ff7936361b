"""Depthwise correlation with channels in lanes: the native code of ``channel_lanes``, and what its gradient shares.

Planes are turned in registers, squares of pixels by channels, on their way into a frame of vectors and out of the sums.
In between a vector is one pixel of as many channels as there are lanes: rows and taps outside are not visited, no lane
is masked, and no load straddles a line. Where pixels lie, and which rows of a frame meet which taps, are tables of
numbers. Lanes beyond the last channel repeat it, and store its results again.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

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
    transpose,
    transpose_blocks,
    transpose_pieces,
    zeros,
)
from lucid.kernels.isa import ISA
from lucid.kernels.plan import PLAIN, Epilogue

_ARRAYS = ("x", "weights", "bias", "y", "scale", "shift", "residual")
_WIDE = ("kept", "own")
_TABLES = ("pixels", "taps_at", "results_at", "depths", "slices", "rows", "lines")
NUMBERS = (
    "channels", "blocks", "images", "each", "plane", "volume", "out_plane", "out_volume", "out_depth", "out_rows",
    "positions", "slot", "ring", "frame", "sums", "private", "result_row", "taps", "bias_step",
    "kept_block",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LaneTile:
    """``columns`` positions of a row, each with all phases of the result.

    ``across`` has the taps of every phase, as (tap, column of the frame from that of the position on).
    """

    columns: int
    across: tuple[tuple[tuple[int, int], ...], ...]
    stride: int  #: columns of the frame from one position to the next
    inside: tuple[int, int] | None = None  #: of a whole row, the column where the source begins, and its length

    @property
    def products(self) -> int:
        """Of a row of taps."""
        return len(self.meetings)

    @property
    def registers(self) -> int:
        """Sums, a row of taps, a pixel; or, of a whole row, its pixels and a tap where those are fewer."""
        taps = sum(map(len, self.across))
        return self.columns * len(self.across) + (min(taps, len(self.pixels)) if self.inside else taps) + 1

    @property
    def meetings(self) -> list[tuple[int, int, int]]:
        """(Column of the frame from the first position's on, tap, sum): all, or of a whole row those inside."""
        low, width = self.inside or (0, 0)
        found = [
            (q * self.stride + at - low, tap, q * len(self.across) + phase)
            for q in range(self.columns)
            for phase, taps in enumerate(self.across)
            for tap, at in taps
        ]
        return [each for each in found if 0 <= each[0] < width] if self.inside else found

    @property
    def pixels(self) -> list[int]:
        """Columns of the frame that are read, from the first position's on."""
        return sorted({place for place, _, _ in self.meetings})

    @property
    def cycles(self) -> float:
        """Of a row of taps: two products or two loads a cycle."""
        return max(self.products, len(self.pixels) + sum(map(len, self.across))) / 2


def fields(element: Type) -> dict[str, Type]:
    """What the entry points ``weights`` and ``correlate`` read."""
    arrays = {**dict.fromkeys(_ARRAYS, ptr(element)), **dict.fromkeys(_WIDE, ptr(computed(element)))}
    return {**arrays, **dict.fromkeys(_TABLES, ptr(i64)), **dict.fromkeys(NUMBERS, i64)}


def write(isa: ISA, element: Type, tile: LaneTile, epilogue: Epilogue) -> Module:
    """A task of ``correlate`` is a block of channels of some images, one of ``weights`` a block of w, to be kept."""
    module, wide = Module("channel_lanes", isa), computed(element)
    lanes = isa.lanes(wide)
    turn, back = write_turn(module, element, lanes), write_back(module, element, lanes, epilogue)
    prepare, add = _write_prepare(module, element, lanes, turn), _write_slice(module, wide, lanes, tile)
    _write_weights(module, element, lanes, prepare)
    f = module.entry("correlate", **fields(element))
    a = f.args
    arrays = Arrays.of(epilogue, a.y, a)
    frame = a.own.at(a.thread * a.private)
    sums = frame.at(a.frame)
    clear(f, frame, a.frame, lanes)
    with f.loop(a.begin, a.end) as task:
        block, first = task.i % a.blocks, task.i // a.blocks * a.each
        channel = block * lanes
        last = minimum(a.channels - channel, lanes) - 1
        weights = select(a.kept_block.ne(0), a.kept.at(block * a.kept_block), sums.at(a.sums))
        with f.when(a.kept_block.eq(0)):
            _prepared(f, prepare, a, weights, channel, last)
        bias = weights.at((a.taps + 1) * lanes)
        with f.loop(first, minimum(first + a.each, a.images)) as image:
            planes = image.i * a.channels + channel
            source, to = a.x.at(planes * a.volume), arrays.at(channel, planes * a.out_volume)
            with f.loop(0, a.out_depth, carry=[f.const(i64, 0)]) as d:
                begin, end, needed = (a.depths.load(d.i * 3 + k) for k in range(3))
                fill(f, turn, a, frame, source, d.values[0], needed, last)
                d.values = [maximum(d.values[0], needed)]
                f.call(
                    add, frame, weights, bias, sums, a.slices.at(begin * 2), end - begin, a.rows, a.lines, a.out_rows,
                    a.positions, a.result_row,
                )  # fmt: skip
                here = to.at(0, d.i * a.out_plane)
                f.call(back, sums, a.results_at, here.y, a.out_volume, a.out_plane, last, *here.given.values())
    return module


def _write_weights(module: Module, element: Type, lanes: int, prepare: Function) -> None:
    """The entry point ``weights``."""
    f = module.entry("weights", **fields(element))
    a = f.args
    with f.loop(a.begin, a.end) as task:
        channel = task.i * lanes
        last = minimum(a.channels - channel, lanes) - 1
        _prepared(f, prepare, a, a.kept.at(task.i * a.kept_block), channel, last)


def _prepared(f: Function, prepare: Function, a: Any, to: Pointer, channel: Value, last: Value) -> None:
    w, bias = a.weights.at(channel * a.taps), a.bias.at(channel * a.bias_step)
    f.call(prepare, to, w, a.taps_at, a.taps, bias, a.bias_step, last)


def _write_prepare(module: Module, element: Type, lanes: int, turn: Function) -> Function:
    """Adds ``prepare``: the taps of a block of channels as vectors, one that is thrown away, and their bias."""
    wide = computed(element)
    f = module.function(
        "prepare", to=ptr(wide), weights=ptr(element), taps_at=ptr(i64), taps=i64, bias=ptr(element), bias_step=i64,
        last=i64,
    )  # fmt: skip
    a = f.args
    f.call(turn, a.to, a.weights, a.taps, a.taps_at, a.taps, a.last)
    bias = a.to.at((a.taps + 1) * lanes)
    with f.loop(0, lanes) as k:
        bias.store(convert(a.bias.load(minimum(k.i, a.last) * a.bias_step), wide), k.i)
    return f


def clear(f: Function, to: Pointer, count: Any, lanes: int) -> None:
    """Zeros, so many numbers of them."""
    with f.loop(0, count, lanes) as i:
        to.store(zeros(f, to.pointee, lanes), i.i)


def fill(
    f: Function, turn: Function, a: Any, frame: Pointer, source: Pointer, done: Value, needed: Value, last: Value
) -> None:
    """Turns the slices that are needed next, each into its place in the ring."""
    with f.loop(maximum(done, needed - a.ring), needed) as s:
        f.call(turn, frame.at(s.i % a.ring * a.slot), source.at(s.i * a.plane), a.volume, a.pixels, a.plane, last)


def write_turn(module: Module, element: Type, lanes: int) -> Function:
    """Adds ``turn``: ``count`` numbers of every channel, ``pitch`` apart, become vectors at their ``places``.

    Those that do not fill a vector go by blocks of 128 bits: of a plane of 49 pixels one is left over.
    """
    wide = computed(element)
    f = module.function(
        "turn", to=ptr(wide), source=ptr(element), pitch=i64, places=ptr(i64), count=i64, last=i64
    )  # fmt: skip
    a, few = f.args, _block(wide)
    channels = [a.source.at(minimum(a.last, k) * a.pitch) for k in range(lanes)]

    def place(first: Value, columns: list[Value]) -> None:
        places = a.places.at(first)
        for k, column in enumerate(columns):
            a.to.at(places.load(k)).store(column)

    whole = a.count // lanes * lanes
    with f.loop(0, whole, lanes) as p:
        place(p.i, transpose([convert(channel.at(p.i).load(0, lanes), wide) for channel in channels]))
    with f.loop(whole, a.count, few) as p:
        some = lanes_below(f, a.count - p.i, few, i32)
        place(p.i, transpose_pieces([convert(channel.at(p.i).load(0, few, some), wide) for channel in channels]))
    return f


def write_back(module: Module, element: Type, lanes: int, epilogue: Epilogue = PLAIN) -> Function:
    """Adds ``back``: vectors at their ``places`` become ``count`` numbers of every channel, which end on the way."""
    f = module.function(
        "back", sums=ptr(computed(element)), places=ptr(i64), y=ptr(element), pitch=i64, count=i64, last=i64,
        **parameters(epilogue, element),
    )  # fmt: skip
    a, few = f.args, _block(computed(element))
    arrays, channels = Arrays.of(epilogue, a.y, a), [minimum(a.last, k) for k in range(lanes)]
    results = [arrays.destination(channel, channel * a.pitch) for channel in channels]

    def columns(first: Value, count: int) -> list[Value]:
        places = a.places.at(first)
        return [a.sums.at(places.load(k)).load(0, lanes) for k in range(count)]

    whole = a.count // lanes * lanes
    with f.loop(0, whole, lanes) as p:
        for result, value in zip(results, transpose(columns(p.i, lanes)), strict=True):
            result.at(p.i).store(value)
    with f.loop(whole, a.count, few) as p:
        some = lanes_below(f, a.count - p.i, few, i32)
        for result, value in zip(results, transpose_blocks(columns(p.i, few)), strict=True):
            result.at(p.i).store(value, 0, some)
    return f


def _block(wide: Type) -> int:
    """Numbers of 128 bits."""
    return 16 // wide.bytes


def _write_slice(module: Module, wide: Type, lanes: int, tile: LaneTile) -> Function:
    """Adds ``add``: a slice of results. ``slices`` and ``lines`` are pairs of a place in the frame and one in w.

    The last tile of a row begins where it ends with the row, and repeats what the one before has done.
    """
    data = ptr(wide)
    f = module.function(
        "add", frame=data, weights=data, bias=data, to=data, slices=ptr(i64), deep=i64, rows=ptr(i64), lines=ptr(i64),
        high=i64, positions=i64, result_row=i64,
    )  # fmt: skip
    a, phases = f.args, len(tile.across)
    start = [a.bias.load(0, lanes)] * (tile.columns * phases)
    with f.loop(0, a.high) as row, f.loop(0, a.positions, tile.columns) as q:
        first = minimum(q.i, a.positions - tile.columns)
        frame, lines = a.frame.at(first * (tile.stride * lanes)), a.rows.at(row.i * 2)
        with f.loop(0, a.deep, carry=start) as d:
            plane, w_plane = frame.at(a.slices.load(d.i * 2)), a.weights.at(a.slices.load(d.i * 2 + 1))
            with f.loop(lines.load(0), lines.load(1), carry=d.values) as line:
                x, w = plane.at(a.lines.load(line.i * 2)), w_plane.at(a.lines.load(line.i * 2 + 1))
                line.values = _added(tile, lanes, x, w, line.values)
            d.values = line.values
        to = a.to.at(row.i * a.result_row + first * (phases * lanes))
        for n, total in enumerate(d.values):
            to.store(total, n * lanes)
    return f


def _added(tile: LaneTile, lanes: int, x: Pointer, w: Pointer, sums: list[Value]) -> list[Value]:
    """With the products of a row of taps: every pixel and tap is loaded once, and meets all that it belongs to.

    The fewer of them wait in registers for the others, one after the other.
    """
    sums = list(sums)
    pixels_wait = tile.inside is not None and len(tile.pixels) < sum(map(len, tile.across))
    taps = sorted((at, tap) for tap, at in chain(*tile.across))
    order = {tap: n for n, (_, tap) in enumerate(taps)}
    of_pixel: dict[int, Value] = {}
    of_tap: dict[int, Value] = {}
    if not pixels_wait:
        of_tap = {tap: w.load(tap * lanes, lanes) for tap, _ in chain(*tile.across)}
    for place, tap, n in sorted(tile.meetings, key=lambda each: order[each[1]] if pixels_wait else each[0]):
        if place not in of_pixel:
            of_pixel[place] = x.load(place * lanes, lanes)
        if tap not in of_tap:
            of_tap[tap] = w.load(tap * lanes, lanes)
        sums[n] = fma(of_tap[tap], of_pixel[place], sums[n])
    return sums
