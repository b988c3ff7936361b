"""Weights of a dense convolution as its tiles read them: [bias of each row][c][tap][row], a tile of rows at a time."""

from __future__ import annotations

from typing import Any

from lucid.kernels.algorithms.dense_layout import part, phase_record, read_phase, read_shape
from lucid.kernels.algorithms.panels import either
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    constant,
    convert,
    i64,
    interleave,
    lanes_below,
    minimum,
    ptr,
    transpose,
)


def woven(rows: int, lanes: int, stack: int) -> int:
    """How many rows are interleaved whole vectors at a time, a third of the shuffles of a turn; 0 if they are turned.

    Rows must be a power of two.
    """
    return rows if stack == 1 and rows & (rows - 1) == 0 and rows <= lanes else 0


def write_pack(module: Module, element: Type, lanes: int, stack: int, weave: int, stored: Type) -> Function:
    """Adds ``pack_weights(w, bias, shape, record, group, first, c, channels, to)``: some channels of a tile's weights.

    They are those from c on; ``first`` is the tile's first row. Rows that do not exist hold any number, since their
    sums go nowhere, and so does a vector's width times the tile's rows behind the last weight.
    """
    data, p64 = ptr(stored), ptr(i64)
    turn = _write_turn(module, element, lanes, weave, stored) if stack == 1 and lanes > 1 else None
    f = module.function(
        "pack_weights", w=data, bias=data, shape=p64, record=p64, group=i64, first=i64, c=i64, channels=i64,
        to=ptr(element),
    )  # fmt: skip
    a = f.args
    s = read_shape(a.shape, "rows group_step row_step channel_step tile_rows")
    r = read_phase(a.record, "taps weight_offsets run_length run_step")
    rows, last = s["tile_rows"], s["rows"] - 1 - a.first
    source = a.w.at(a.group * s["group_step"] + a.first // stack * s["row_step"] + a.c * s["channel_step"])
    biases, none = a.bias.at((a.group * s["rows"] + a.first) // stack), constant(f, stored, 0)
    with_bias = f.emit(i64, f"ptrtoint ptr {a.bias.text} to i64").ne(0)
    with f.loop(0, rows) as m:
        bias = biases.load(minimum(last, m.i) // stack, 1, with_bias, none)
        a.to.store(convert(bias, element), m.i)
    weights = a.to.at(rows)

    def by_taps() -> None:
        _pack_taps(source, weights, last, a.channels, s, r, stack, weave)

    if turn is None:
        by_taps()
    else:
        step, exist = r["run_step"], minimum(last + 1, rows)
        runs = r["run_length"].ne(0) & (step.eq(1) | s["row_step"].eq(1))
        either(f, runs, lambda: _pack_runs(turn, source, weights, exist, a.channels, s, r, lanes), by_taps)
    return f


def _pack_runs(
    turn: Function, source: Pointer, to: Pointer, exist: Value, channels: Value, s: dict[str, Value],
    r: dict[str, Any], lanes: int,
) -> None:  # fmt: skip
    """Weights that lie side by side: of all channels at once, or of one after the other."""
    f = to.fn
    rows, length, step = s["tile_rows"], r["run_length"], r["run_step"]
    together = (length * step).eq(s["channel_step"])
    runs, depth = (f.choose(together, lambda: [f.const(i64, 1)], lambda: [channels])[0],
                   f.choose(together, lambda: [channels * length], lambda: [length + 0])[0])  # fmt: skip
    groups = (exist + (lanes - 1)) // lanes
    with f.loop(0, runs) as c:
        start = source.at(c.i * s["channel_step"] + r["weight_offsets"].load())
        panel = to.at(c.i * length * rows)

        def across() -> None:
            _copy_rows(start, step, exist, depth, panel, rows, lanes)

        def along() -> None:
            # The last group first: its vectors reach into the next step's first rows, which are written after it.
            with f.loop(0, groups) as back:
                first = (groups - 1 - back.i) * lanes
                group = start.at(s["row_step"] * first)
                f.call(turn, group, s["row_step"], exist - first, depth, panel.at(first), rows)

        either(f, s["row_step"].eq(1), across, along)


def _copy_rows(source: Pointer, step: Value, exist: Value, depth: Value, to: Pointer, rows: Value, lanes: int) -> None:
    """Rows side by side in memory: vectors straight across."""
    f = to.fn
    with f.loop(0, depth) as k, f.loop(0, exist, lanes) as v:
        row = source.at(k.i * step + v.i).load(0, lanes, lanes_below(f, exist - v.i, lanes))
        to.store(convert(row, to.pointee), k.i * rows + v.i)


def _write_turn(module: Module, element: Type, lanes: int, weave: int, stored: Type) -> Function:
    """Adds ``turn(source, row_step, rows, depth, panel, width)``: rows that run along k become columns.

    They are ``weave``, which is the width, or as many as lanes.
    """
    f = module.function("turn", source=ptr(stored), row_step=i64, rows=i64, depth=i64, panel=ptr(element), width=i64)
    a = f.args
    starts = [a.source.at(minimum(a.rows - 1, r) * a.row_step) for r in range(weave or lanes)]
    with f.loop(0, a.depth, lanes) as k:
        mask = lanes_below(f, a.depth - k.i, lanes)
        rows = [convert(start.load(k.i, lanes, mask), element) for start in starts]
        for n, column in enumerate(interleave(rows) if weave else transpose(rows)):
            a.panel.store(column, k.i * weave + n * lanes if weave else (k.i + n) * a.width)
    return f


def _pack_taps(
    source: Pointer, to: Pointer, last: Value, channels: Value, s: dict[str, Value], r: dict[str, Any], stack: int,
    weave: int,
) -> None:  # fmt: skip
    """Weights tap by tap, of a known number of rows or of any; the residues of a channel lie side by side already."""
    f, rows = to.fn, s["tile_rows"]
    starts = [source.at(minimum(last, m) * s["row_step"]) for m in range(weave)]
    with f.loop(0, channels) as c, f.loop(0, r["taps"]) as t:
        offset = c.i * s["channel_step"] + r["weight_offsets"].load(t.i)
        place = to.at((c.i * r["taps"] + t.i) * rows)
        for known, row in enumerate(starts):
            place.store(convert(row.load(offset), to.pointee), known)
        if not starts:
            with f.loop(0, rows, stack) as m:
                channel = source.at(minimum(last, m.i) // stack * s["row_step"] + offset)
                place.store(convert(channel.load(0, stack), to.pointee), m.i)


def write_entry(module: Module, fields: dict[str, Type]) -> Function:
    """Adds the entry ``weights``: a task packs all channels of a tile of rows, beforehand."""
    f = module.entry("weights", **fields)
    a, s = f.args, read_shape(f.args.shape, "row_blocks groups channels tile_rows")
    pack = part(a.shape, "pack_weights")
    with f.loop(a.begin, a.end) as task:
        block, rest = task.i % s["row_blocks"], task.i // s["row_blocks"]
        group = rest % s["groups"]
        record = phase_record(a.phases, rest // s["groups"])
        r = read_phase(record, "packed block")
        to = a.packed.at(r["packed"] + (group * s["row_blocks"] + block) * r["block"])
        f.call(pack, a.w, a.bias, a.shape, record, group, block * s["tile_rows"], 0, s["channels"], to)
    return f
