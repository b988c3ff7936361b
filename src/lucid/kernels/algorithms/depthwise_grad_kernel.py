"""Weight gradient with pixels in lanes: the native code of ``depthwise_grad``, whose loops are drawn there.

A box is a zero frame of x and the rows of g that meet it. ``add_box`` does all passes over it; the tile is one loop
with its sums in registers, ``whole`` for full vectors and ``edge`` under masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lucid.kernels.algorithms import depthwise_sums, toeplitz
from lucid.kernels.algorithms.frames import call_fill_frame, open_box, read_fields
from lucid.kernels.ir import (
    Function,
    Module,
    Type,
    Value,
    computed,
    convert,
    fma,
    i32,
    i64,
    lane_sum,
    lanes_below,
    minimum,
    ptr,
    select,
    zeros,
)
from lucid.kernels.isa import ISA


@dataclass(frozen=True, slots=True)
class Tile:
    """Sums in flight: ``results`` channels of g by ``down`` taps down by ``lines`` by ``columns``."""

    results: int
    lines: int
    columns: int
    down: int = 1  #: taps of neighbouring rows, which meet the same row of x with different rows of g
    long: bool = False  #: lanes are taps, since there are many in one row; ``columns`` counts their vectors

    @property
    def sums(self) -> int:
        """Vectors of them."""
        return self.upstreams * self.lines * self.columns

    @property
    def upstreams(self) -> int:
        """Vectors of g at a time."""
        return self.results * self.down

    @property
    def cycles(self) -> float:
        """Of one vector of pixels; most loads of x straddle two cache lines."""
        return max(self.sums, 2 * (self.lines * self.columns + self.upstreams) - self.results, 8) / 2


def write(isa: ISA, element: Type, tile: Tile, widens: bool) -> Module:
    """A task is a chunk of one group's boxes; ``widens`` says whether rows of g are copied as sums are computed."""
    wide, fields = computed(element), depthwise_sums.fields(element)
    module, lanes = Module("depthwise_grad", isa), isa.lanes(wide)
    write_box = _write_long_box if tile.long else _write_box
    add_box = write_box(module, isa, wide if widens else element, tile, fields)
    widen = _write_widen(module, element, lanes) if widens else None
    f = module.entry("accumulate", **fields)
    a = f.args
    with f.loop(a.begin, a.end) as task:
        group, chunk = task.i % a.groups, task.i // a.groups
        frame = a.own.at(a.thread * a.private)
        acc = frame.at(a.frame)
        vectors = (a.group_out + (tile.results - 1)) // tile.results * a.passes * tile.sums
        bias_acc = acc.at(vectors * lanes)
        _clear(f, wide, lanes, acc, vectors + (a.sums_g + a.sums_x))
        if widens and tile.down > 1:  # to load nothing from a page that was never written takes hundreds of cycles
            behind = a.dilation_h * (tile.down - 1) * ((a.box_w + 15) // 16 * 16)
            _clear(f, wide, lanes, frame.at(a.private - behind), behind // lanes)
        with f.loop(chunk * a.all_boxes // a.chunks, (chunk + 1) * a.all_boxes // a.chunks) as b:
            image, box = b.i // a.boxes * a.groups + group, open_box(f, a, b.i % a.boxes)
            source = a.x.at(image * a.group_in * (a.d * a.h * a.w))
            call_fill_frame(f, element, fields, frame, source, a.group_in, 1, 0, box.d, box.h, box.w)
            with f.loop(0, a.sums_x) as s:
                channel = source.at(s.i * (a.d * a.h * a.w))
                depthwise_sums.add_owned(f, a, a.add_rows, box, channel, bias_acc.at(s.i * lanes))
            rows, width = minimum(a.box_h, a.oh - box.h), minimum(a.box_w, a.ow - box.w)
            plane = a.od * a.oh * a.ow
            with f.loop(0, minimum(a.box_d, a.od - box.d)) as depth, f.loop(0, a.group_out, tile.results) as k:
                inside = ((box.d + depth.i) * a.oh + box.h) * a.ow + box.w
                g = a.g.at((image * a.group_out + k.i) * plane + inside)
                here = frame.at(depth.i * a.stride_d * (a.frame_h * a.frame_w))
                to = acc.at(k.i // tile.results * a.passes * (tile.sums * lanes))
                results, upstream = minimum(tile.results, a.group_out - k.i), (g, plane, a.ow, a.ahead_g)
                if widen is not None:
                    pitch, copy = (a.box_w + 15) // 16 * 16, frame.at(a.upstream)
                    with f.loop(0, results) as one:
                        place = copy.at(one.i * a.box_h * pitch)
                        f.call(widen, place, g.at(one.i * plane), pitch, a.ow, rows, width, a.ahead_g)
                    upstream = copy, a.box_h * pitch, pitch, f.const(i64, 0)
                f.call(add_box, a.fields, *upstream, here, to, rows, width, results - 1)
                with f.when(a.sums_g.ne(0)), f.loop(0, results) as one:
                    f.call(a.add_rows, g.at(one.i * plane), a.ow, rows, width, bias_acc.at((k.i + one.i) * lanes))
        f.call(a.reduce, a.fields, acc, a.parts.cast(i64), task.i * a.group_weights)
        with f.loop(0, a.sums_g + a.sums_x) as k:
            a.bias_parts[task.i * (a.sums_g + a.sums_x) + k.i] = lane_sum(bias_acc.load(k.i * lanes, lanes))
    return module


def _clear(f: Function, element: Type, lanes: int, to: Any, vectors: Value) -> None:
    with f.loop(0, vectors) as i:
        to.store(zeros(f, element, lanes), i.i * lanes)


def _box_function(module: Module, element: Type) -> Function:
    """``add_box(fields, g, plane, row, ahead, frame, acc, rows, width, reach)``: a slice of a box.

    For results up to ``reach``, whose g are ``plane`` apart, and their rows ``row``.
    """
    data, wide = ptr(element), ptr(computed(element))
    return module.function(
        "add_box", fields=ptr(i64), g=data, plane=i64, row=i64, ahead=i64, frame=wide, acc=wide, rows=i64, width=i64,
        reach=i64,
    )  # fmt: skip


def _write_widen(module: Module, element: Type, lanes: int) -> Function:
    """Adds ``widen(to, source, to_row, row, rows, width, ahead)``: rows as numbers that are computed with."""
    wide = computed(element)
    f = module.function("widen", to=ptr(wide), source=ptr(element), to_row=i64, row=i64, rows=i64, width=i64, ahead=i64)
    a = f.args
    full = a.width // lanes * lanes
    with f.loop(0, a.rows) as y:
        to, source = a.to.at(y.i * a.to_row), a.source.at(y.i * a.row)
        with f.loop(0, full, lanes) as i:
            source.prefetch(i.i + a.ahead, locality=2)
            to.store(convert(source.load(i.i, lanes), wide), i.i)
        with f.loop(full, a.width, lanes) as rest:
            to.store(convert(source.load(rest.i, lanes, lanes_below(f, a.width - rest.i, lanes)), wide), rest.i)
    return f


def _write_box(module: Module, isa: ISA, element: Type, tile: Tile, fields: dict[str, Type]) -> Function:
    """Adds ``add_box``: all passes over the whole vectors of the rows, then over what is left of them."""
    lanes = isa.lanes(computed(element))
    whole = _write_tile(module, element, lanes, tile, masked=False)
    edge = _write_tile(module, element, lanes, tile, masked=True)
    f = _box_function(module, element)
    p = f.args
    a, full = read_fields(f, fields, ["passes", "offsets", "stride_h", "frame_w", "dilation_h"]), p.width // lanes
    done, pitch = full * lanes, a.stride_h * a.frame_w
    over = a.dilation_h * (tile.down - 1)  # rows of x before the last tap down sees the first row of g
    with f.loop(0, a.passes) as turn:
        to, offsets = p.acc.at(turn.i * (tile.sums * lanes)), a.offsets.at(turn.i * tile.lines)

        def add(tile: Function, column: Any, first: Any, last: Any, across: Any, live: Any) -> None:
            """The vectors of some rows of x from a column on."""
            g, frame = p.g.at(first * p.row + column), p.frame.at(first * pitch + column)
            shared = (p.plane, p.reach, a.dilation_h, offsets, to, p.row, pitch, p.ahead, p.rows)
            f.call(tile, g, frame, *shared, first, (last - first) * across, across, live)

        begin = minimum(over, p.rows) if tile.down > 1 else f.const(i64, 0)
        if tile.down > 1:
            add(edge, 0, f.const(i64, 0), begin, full, lanes)
        add(whole, 0, begin, p.rows, full, lanes)
        if tile.down > 1:
            add(edge, 0, p.rows, p.rows + over, full, lanes)
        if lanes > 1:
            with f.when(done < p.width):
                add(edge, done, f.const(i64, 0), p.rows + over, f.const(i64, 1), p.width - done)
    return f


def _write_long_box(module: Module, isa: ISA, element: Type, tile: Tile, fields: dict[str, Type]) -> Function:
    """Adds ``add_box`` for taps in lanes: a row of g is the taps of a correlation, its results are dw."""
    lanes, wide = isa.lanes(computed(element)), ptr(computed(element))
    f = _box_function(module, element)
    p, a = f.args, read_fields(f, fields, ["passes", "stride_h", "frame_w"])
    add = module.function("add", frame=wide, g=ptr(element), count=i64, to=wide)
    t, across = add.args, [v * lanes for v in range(tile.columns)]
    start = [t.to.load(at, lanes) for at in across]
    sums = toeplitz.toeplitz(add, t.frame, t.g, add.const(i64, 1), t.count, lanes, toeplitz.group_of(isa), start)
    for at, total in zip(across, sums, strict=True):
        t.to.store(total, at)
    with f.loop(0, p.rows) as row, f.loop(0, a.passes) as turn:
        first = turn.i * (tile.columns * lanes)
        x = p.frame.at(row.i * a.stride_h * a.frame_w + first)
        f.call(add, x, p.g.at(row.i * p.row), p.width, p.acc.at(first))
    return f


def _write_tile(module: Module, element: Type, lanes: int, tile: Tile, masked: bool) -> Function:
    """Adds ``whole`` or ``edge``: acc[k][down][line][column] += the products of ``count`` vectors.

    ``across`` of them a row, from row ``first`` of x on. ``edge`` takes ``live`` lanes of each, and of the taps down
    those whose row of g is one of ``rows``; in ``whole`` they all are. Results beyond ``reach`` repeat the last.
    """
    wide = computed(element)
    f = module.function(
        "edge" if masked else "whole", g=ptr(element), frame=ptr(wide), plane=i64, reach=i64, dilation=i64,
        offsets=ptr(i64), acc=ptr(wide), row_g=i64, row_x=i64, ahead=i64, rows=i64, first=i64, count=i64, across=i64,
        live=i64,
    )  # fmt: skip
    a = f.args
    offsets = [a.offsets.load(line) for line in range(tile.lines)]
    shifts = [a.dilation * down if down else f.const(i64, 0) for down in range(tile.down)]
    planes = [
        (minimum(a.reach, k) * a.plane if k else f.const(i64, 0)) - shift * a.row_g
        for k in range(tile.results)
        for shift in shifts
    ]
    turn_g, turn_x = a.row_g - (a.across - 1) * lanes, a.row_x - (a.across - 1) * lanes
    start = [a.acc.load(k * lanes, lanes) for k in range(tile.sums)]
    zero = f.const(i64, 0)
    with f.loop(0, a.count, carry=[zero, a.first, zero, zero, *start]) as i:
        column, row, at_g, at_x, *totals = i.values
        here, g = a.frame.at(at_x), a.g.at(at_g)
        g.prefetch(a.ahead, locality=2)
        masks: list[Value | None] = [None] * tile.upstreams
        if masked and tile.down == 1:
            masks = [lanes_below(f, a.live, lanes, i32)] * tile.upstreams
        elif masked:
            live = [select((row - shift).ult(a.rows), a.live, 0) for shift in shifts]
            masks = [lanes_below(f, count, lanes, i32) for _ in range(tile.results) for count in live]
        upstream = [convert(g.at(plane).load(0, lanes, mask), wide) for plane, mask in zip(planes, masks, strict=True)]
        places = [(offset, c) for offset in offsets for c in range(tile.columns)]
        values = [here.at(offset).load(c, lanes) for offset, c in places]
        sums = []
        for total, (one, mask), value in zip(
            totals,
            [pair for pair in zip(upstream, masks, strict=True) for _ in values],
            values * tile.upstreams,
            strict=True,
        ):
            added = fma(one, value, total)
            sums.append(added if mask is None else select(mask, added, total))
        last = column.eq(a.across - 1)
        i.values = [
            select(last, 0, column + 1),
            select(last, row + 1, row),
            at_g + select(last, turn_g, lanes),
            at_x + select(last, turn_x, lanes),
            *sums,
        ]
    for k, total in enumerate(i.values[4:]):
        a.acc.store(total, k * lanes)
    return f
