"""Weights of a dense convolution as its tiles read them: [bias of each row][c][tap][row], a tile of rows at a time.

c counts elements of the grain: each holds the weights of its channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lucid.kernels.algorithms.dense_layout import packing_record, part, read_packing, read_shape
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.panels import either
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    bitcast,
    constant,
    convert,
    i16,
    i32,
    i64,
    interleave,
    joined,
    lane_numbers,
    lanes_below,
    minimum,
    ptr,
    select,
    splat,
    transpose,
    vec,
)

_LINE_BYTES = 64
#: Channels asked for before they are read: the next one's weights are pages away where rows lie side by side.
_AHEAD = 8
#: How far apart rows are at most, of which two vectors of words hold a tap's weights for as many as there are lanes.
_NEAR = 4
_PARTS = 1024  #: of one, by which places among the taps of some pairs are divided: more than places times taps


def woven(rows: int, lanes: int, stack: int) -> int:
    """How many rows are interleaved whole vectors at a time, a third of the shuffles of a turn; 0 if they are turned.

    Rows must be a power of two.
    """
    return rows if stack == 1 and rows & (rows - 1) == 0 and rows <= lanes else 0


def write_pack(module: Module, grain: Grain, lanes: int, stack: int, weave: int) -> Function:
    """Adds ``pack_weights(w, bias, shape, packing, group, first, c, channels, to)``: some channels of a tile's.

    They are those from c on; ``first`` is the tile's first row. Rows that do not exist hold any number, since their
    sums go nowhere, and so does a vector's width times the tile's rows behind the last weight.
    """
    data, p64 = ptr(grain.stored), ptr(i64)
    turn = _write_turn(module, grain, lanes, weave) if stack == 1 and lanes > 1 else None
    f = module.function(
        "pack_weights", w=data, bias=data, shape=p64, packing=p64, group=i64, first=i64, c=i64, channels=i64,
        to=ptr(grain.packed),
    )  # fmt: skip
    a = f.args
    s = read_shape(a.shape, "rows group_step row_step channel_step tile_rows")
    r = read_packing(a.packing, "taps weight_offsets run_length run_step")
    rows, last = s["tile_rows"], s["rows"] - 1 - a.first
    source = a.w.at(a.group * s["group_step"] + a.first // stack * s["row_step"] + a.c * s["channel_step"])
    biases, none = a.bias.at((a.group * s["rows"] + a.first) // stack), constant(f, grain.stored, 0)
    with_bias = f.emit(i64, f"ptrtoint ptr {a.bias.text} to i64").ne(0)
    with f.loop(0, rows) as m:
        bias = biases.load(minimum(last, m.i) // stack, 1, with_bias, none)
        a.to.cast(grain.sums).store(convert(bias, grain.sums), m.i)
    weights = a.to.at(rows)

    def by_taps() -> None:
        _pack_taps(grain, source, weights, last, a.channels, s, r, stack, weave, lanes)

    if turn is None:
        by_taps()
    else:
        step, exist = r["run_step"], minimum(last + 1, rows)
        runs = r["run_length"].ne(0) & (step.eq(1) | s["row_step"].eq(1))

        def by_runs() -> None:
            _pack_runs(grain, turn, source, weights, exist, a.channels, s, r, lanes)

        def far() -> None:
            either(f, runs, by_runs, by_taps)

        if grain.depth == 1:
            far()
        else:
            near = (s["row_step"] > 1) & (s["row_step"] <= _NEAR)
            either(f, near, lambda: _pack_near(grain, source, weights, exist, a.channels, s, r, lanes), far)
    return f


class _Run(NamedTuple):
    """Elements side by side in a row's weights: ``depth`` of them, ``step`` apart.

    The first ``whole`` have a second channel, whose weight is ``second`` further on. Where there are more than that
    they are those of several pairs of channels, each of ``second`` taps.
    """

    depth: Value
    step: Value
    second: Value
    whole: Value


def _pack_runs(
    grain: Grain, turn: Function, source: Pointer, to: Pointer, exist: Value, channels: Value, s: dict[str, Value],
    r: dict[str, Any], lanes: int,
) -> None:  # fmt: skip
    """Weights that lie side by side: of all channels at once, or of one element after the other.

    Where elements hold several channels, all are at once only if taps are few.
    """
    f, elements, one = to.fn, grain.count(channels), to.fn.const(i64, 1)
    rows, length, step, second = s["tile_rows"], r["run_length"], r["run_step"], s["channel_step"]
    together = (length * step).eq(second)
    if grain.depth > 1:
        together = together & (length <= lanes + 1)
    runs, groups = select(together, one, elements), (exist + (lanes - 1)) // lanes
    with f.loop(0, runs) as c:
        channel = source.at(c.i * grain.depth * second)
        start = channel.at(r["weight_offsets"].load())
        with f.when(~together):
            _ask(channel, s, grain.depth)
        panel, two = to.at(c.i * length * rows), c.i * grain.depth + 1 < channels
        run = _Run(
            select(together, elements * length, length),
            select(together, step * grain.depth, step),
            second,
            select(together, channels // grain.depth * length, select(two, length, 0)),
        )

        def across() -> None:
            _copy_rows(grain, start, run, exist, panel, rows, lanes)

        def along() -> None:
            # The last group first: its vectors reach into the next step's first rows, which are written after it.
            with f.loop(0, groups) as back:
                first = (groups - 1 - back.i) * lanes
                group = start.at(s["row_step"] * first)
                f.call(turn, group, s["row_step"], exist - first, panel.at(first), rows, *run)

        either(f, s["row_step"].eq(1), across, along)


def _copy_rows(grain: Grain, source: Pointer, run: _Run, exist: Value, to: Pointer, rows: Value, lanes: int) -> None:
    """Rows side by side in memory: vectors straight across."""
    f = to.fn
    with f.loop(0, run.depth) as k, f.loop(0, exist, lanes) as v:
        row, there = source.at(k.i * run.step + v.i), exist - v.i
        counts = [there, select(k.i < run.whole, there, 0)][: grain.depth]
        numbers = [row.load(run.second * n, lanes, lanes_below(f, count, lanes)) for n, count in enumerate(counts)]
        to.store(grain.element(numbers), k.i * rows + v.i)


def _write_turn(module: Module, grain: Grain, lanes: int, weave: int) -> Function:
    """Adds ``turn(source, row_step, rows, panel, width, *run)``: rows that run along k become columns.

    They are ``weave``, which is the width, or as many as lanes. Channels of an element that lie side by side are read
    as one vector, others as one each.
    """
    f = module.function(
        "turn", source=ptr(grain.stored), row_step=i64, rows=i64, panel=ptr(grain.packed), width=i64,
        depth=i64, step=i64, second=i64, whole=i64,
    )  # fmt: skip
    a = f.args
    starts = [a.source.at(minimum(a.rows - 1, r) * a.row_step) for r in range(weave or lanes)]
    turned = interleave if weave else transpose
    with f.loop(0, a.depth, lanes) as k:
        if grain.depth == 1:  # halves that are widened are turned first, by shuffles of half the bits
            mask = lanes_below(f, a.depth - k.i, lanes)
            columns = [grain.element([column]) for column in turned([start.load(k.i, lanes, mask) for start in starts])]
        else:
            columns = turned(_pairs_of_rows(grain, starts, k.i, lanes))
        for n, column in enumerate(columns):
            a.panel.store(column, k.i * weave + n * lanes if weave else (k.i + n) * a.width)
    return f


def _pairs_of_rows(grain: Grain, starts: Sequence[Pointer], k: Value, lanes: int) -> list[Value]:
    """A vector of each row's elements from k on, which are pairs of channels: see ``_Run``."""
    f, words, pairs = k.fn, vec(i16, 2 * lanes), vec(i32, lanes)
    a = f.args

    def apart() -> list[Value]:
        masks = [lanes_below(f, count - k, lanes) for count in (a.depth, a.whole)]
        halves = [[start.load(a.second * n + k, lanes, mask) for start in starts] for n, mask in enumerate(masks)]
        return [grain.element(each) for each in zip(*halves, strict=True)]

    def side_by_side() -> list[Value]:
        mask = lanes_below(f, a.depth + a.whole - k * 2, 2 * lanes, i32)
        return [bitcast(start.load(k * 2, 2 * lanes, mask), pairs) for start in starts]

    def picked() -> list[Value]:
        """Several pairs of channels: two vectors from the first element's first weight on have all weights."""
        first = k + k // a.second * a.second
        taps, tap = (convert(number, i32) for number in (a.second, k % a.second))
        place = lane_numbers(f, lanes, element=i32) + splat(tap, lanes)
        pair = place * splat(f.const(i32, _PARTS) // taps + 1, lanes) // _PARTS
        low = place + pair * splat(taps, lanes) - splat(tap, lanes)
        places = bitcast(low * 0x10001 + splat(taps << 16, lanes), words)
        masks = [lanes_below(f, a.depth + a.whole - first - n * 2 * lanes, 2 * lanes, i32) for n in range(2)]
        rows = []
        for start in starts:
            row = start.at(first)
            near, far = (bitcast(row.load(n * 2 * lanes, 2 * lanes, mask), words) for n, mask in enumerate(masks))
            rows.append(bitcast(_looked_up(near, places, far), pairs))
        return rows

    several = (a.second > 1) & (a.depth > a.second)
    return f.choose(several, picked, lambda: f.choose(a.second.eq(1), side_by_side, apart))


def _looked_up(near: Value, places: Value, far: Value) -> Value:
    """Of the words of two vectors side by side those at so many places."""
    name = f"llvm.x86.avx512.vpermi2var.hi.{near.type.lanes * near.type.element.bits}"
    return near.fn.intrinsic(name, near.type, "", near, places, far)


def _pack_taps(
    grain: Grain, source: Pointer, to: Pointer, last: Value, channels: Value, s: dict[str, Value], r: dict[str, Any],
    stack: int, weave: int, lanes: int,
) -> None:  # fmt: skip
    """Weights tap by tap, a vector of rows at once, or the residues of a channel, which lie side by side.

    The last vector first: it reaches into the next tap's first rows, which are written after it.
    """
    f, rows = to.fn, s["tile_rows"]
    together = weave or (lanes if stack == 1 else 0)
    groups = (minimum(last + 1, rows) + (together - 1)) // together if together and not weave else f.const(i64, 1)
    with f.loop(0, groups) as back:
        m = (groups - 1 - back.i) * together
        starts = [source.at(minimum(last, m + k) * s["row_step"]) for k in range(together)]
        _pack_rows(grain, source, to, last, channels, s, r, stack, starts, m)


def _pack_rows(
    grain: Grain, source: Pointer, to: Pointer, last: Value, channels: Value, s: dict[str, Value], r: dict[str, Any],
    stack: int, starts: Sequence[Pointer], first_row: Value,
) -> None:  # fmt: skip
    """Tap by tap those of rows from ``starts`` on, or else of all."""
    f, rows, step = to.fn, s["tile_rows"], s["channel_step"]
    with f.loop(0, grain.count(channels)) as c:
        first = c.i * grain.depth
        two = first + 1 < channels
        _ask(source.at(first * step), s, grain.depth)
        with f.loop(0, r["taps"]) as t:
            offset, place = first * step + r["weight_offsets"].load(t.i), to.at((c.i * r["taps"] + t.i) * rows)

            def element(read: Callable[[Value], Value]) -> Value:
                numbers = [read(offset)]
                if grain.depth > 1:  # of a channel that is missing, the one before is read
                    numbers.append(select(two, read(offset + select(two, step, 0)), 0))
                return grain.element(numbers)

            if starts:
                place.store(element(lambda at: joined([row.load(at) for row in starts])), first_row)
            else:
                with f.loop(0, rows, stack) as m:
                    row = source.at(minimum(last, m.i) // stack * s["row_step"])
                    place.store(element(lambda at: row.load(at, stack)), m.i)


def _pack_near(
    grain: Grain, source: Pointer, to: Pointer, exist: Value, channels: Value, s: dict[str, Value], r: dict[str, Any],
    lanes: int,
) -> None:  # fmt: skip
    """Pairs of channels of rows so near each other that two vectors meet as many as there are lanes.

    The last group of rows first: its vectors reach into the next tap's first rows, which are written after it.
    """
    f, rows, step, row_step, width = to.fn, s["tile_rows"], s["channel_step"], s["row_step"], 2 * lanes
    words = vec(i16, width)
    places = bitcast(lane_numbers(f, lanes, element=i32) * splat(convert(row_step * 0x10001, i32), lanes), words)
    second = (lane_numbers(f, width, element=i16) & 1).ne(0)
    groups = (exist + (lanes - 1)) // lanes
    with f.loop(0, groups) as back:
        m = (groups - 1 - back.i) * lanes
        count = (minimum(exist - m, lanes) - 1) * row_step + 1
        inside = [lanes_below(f, count - n * width, width, i32) for n in range(2)]
        with f.loop(0, grain.count(channels)) as c:
            first = source.at(c.i * 2 * step)
            _ask(first, s, grain.depth)
            there = splat(c.i * 2 + 1 < channels, width)
            with f.loop(0, r["taps"]) as t:
                start = first.at(r["weight_offsets"].load(t.i) + m * row_step)
                picked = []
                for row, masks in ((start, inside), (start.at(step), [mask & there for mask in inside])):
                    near, far = (bitcast(row.load(n * width, width, k), words) for n, k in enumerate(masks))
                    picked.append(_looked_up(near, places, far))
                pairs = bitcast(select(second, picked[1], picked[0]), vec(i32, lanes))
                to.store(pairs, (c.i * r["taps"] + t.i) * rows + m)


def _ask(channel: Pointer, s: dict[str, Value], channels: int) -> None:
    """Asks for the rows' weights of so many channels, some ahead: where rows lie side by side they are far."""
    step, row_step, line_elements = s["channel_step"], s["row_step"], _LINE_BYTES // channel.pointee.bytes
    with channel.fn.loop(0, select(row_step < step, s["tile_rows"] * row_step, 0), line_elements) as line:
        for n in range(channels):
            channel.prefetch((_AHEAD + n) * step + line.i)


def write_entry(module: Module, fields: dict[str, Type]) -> Function:
    """Adds the entry ``weights``: a task packs all channels of a tile of rows, beforehand."""
    f = module.entry("weights", **fields)
    a, s = f.args, read_shape(f.args.shape, "row_blocks groups channels tile_rows")
    pack = part(a.shape, "pack_weights")
    with f.loop(a.begin, a.end) as task:
        block, rest = task.i % s["row_blocks"], task.i // s["row_blocks"]
        group = rest % s["groups"]
        packing = packing_record(a.shape, rest // s["groups"])
        r = read_packing(packing, "packed block")
        to = a.packed.at(r["packed"] + (group * s["row_blocks"] + block) * r["block"])
        f.call(pack, a.w, a.bias, a.shape, packing, group, block * s["tile_rows"], 0, s["channels"], to)
    return f
