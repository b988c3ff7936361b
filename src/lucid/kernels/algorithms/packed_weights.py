"""Weights of a dense convolution as its tiles read them: [bias of each row][c][tap][row], a tile of rows at a time."""

from __future__ import annotations

from typing import Any

from lucid.kernels.algorithms import panels
from lucid.kernels.algorithms.dense_layout import phase_record, read_phase, read_shape
from lucid.kernels.algorithms.tile import Tile
from lucid.kernels.ir import Function, Module, Pointer, Type, Value, constant, i64, minimum, ptr
from lucid.kernels.isa import ISA


def write_pack(module: Module, element: Type, tile: Tile, stack: int, isa: ISA) -> Function:
    """Adds ``pack_weights(w, bias, shape, record, group, first, c, channels, to)``: some channels of a tile's weights.

    They are those from c on; ``first`` is the tile's first row. Rows that do not exist hold any number, since their
    sums go nowhere.
    """
    data, p64 = ptr(element), ptr(i64)
    rows_pack = panels.write_packs(module, isa, element, [tile.rows])[tile.rows] if stack == 1 else None
    f = module.function(
        "pack_weights", w=data, bias=data, shape=p64, record=p64, group=i64, first=i64, c=i64, channels=i64, to=data
    )
    a = f.args
    s = read_shape(a.shape, "rows group_step row_step channel_step")
    r = read_phase(a.record, "taps weight_offsets run_length run_step")
    last = s["rows"] - 1 - a.first
    source = a.w.at(a.group * s["group_step"] + a.first // stack * s["row_step"] + a.c * s["channel_step"])
    biases, none = a.bias.at((a.group * s["rows"] + a.first) // stack), constant(f, element, 0)
    with_bias = f.emit(i64, f"ptrtoint ptr {a.bias.text} to i64").ne(0)
    for m in range(tile.rows):
        a.to.store(biases.load(minimum(last, m) // stack, 1, with_bias, none), m)
    weights = a.to.at(tile.rows)
    if rows_pack is None:
        _pack_taps(source, weights, last, a.channels, s, r, tile.rows, stack)
        return f
    with f.when(r["run_length"].ne(0)):
        _pack_runs(rows_pack, source, weights, minimum(last + 1, tile.rows), a.channels, s, r, tile.rows)
    with f.when(r["run_length"].eq(0)):
        _pack_taps(source, weights, last, a.channels, s, r, tile.rows, stack)
    return f


def _pack_runs(
    pack: Function, source: Pointer, to: Pointer, exist: Value, channels: Value, s: dict[str, Value],
    r: dict[str, Any], rows: int,
) -> None:  # fmt: skip
    """Weights that lie side by side: of all channels at once, or of one after the other."""
    f = to.fn
    length, step = r["run_length"], r["run_step"]
    together = (length * step).eq(s["channel_step"])
    runs, depth = (f.choose(together, lambda: [f.const(i64, 1)], lambda: [channels])[0],
                   f.choose(together, lambda: [channels * length], lambda: [length + 0])[0])  # fmt: skip
    with f.loop(0, runs) as c:
        start = source.at(c.i * s["channel_step"] + r["weight_offsets"].load())
        f.call(pack, start, s["row_step"], step, exist, depth, to.at(c.i * length * rows))


def _pack_taps(
    source: Pointer, to: Pointer, last: Value, channels: Value, s: dict[str, Value], r: dict[str, Any], rows: int,
    stack: int,
) -> None:  # fmt: skip
    """Weights tap by tap; the residues of a channel lie side by side already."""
    f = to.fn
    sources = [source.at(minimum(last, m) // stack * s["row_step"]) for m in range(0, rows, stack)]
    with f.loop(0, channels) as c, f.loop(0, r["taps"]) as t:
        offset = c.i * s["channel_step"] + r["weight_offsets"].load(t.i)
        place = to.at((c.i * r["taps"] + t.i) * rows)
        for m, channel in enumerate(sources):
            place.store(channel.load(offset, stack), m * stack)


def write_entry(module: Module, pack: Function, tile: Tile, fields: dict[str, Type]) -> Function:
    """Adds the entry ``weights``: a task packs all channels of a tile of rows, beforehand."""
    f = module.entry("weights", **fields)
    a, s = f.args, read_shape(f.args.shape, "row_blocks groups channels")
    with f.loop(a.begin, a.end) as task:
        block, rest = task.i % s["row_blocks"], task.i // s["row_blocks"]
        group = rest % s["groups"]
        record = phase_record(a.phases, rest // s["groups"])
        r = read_phase(record, "packed block")
        to = a.packed.at(r["packed"] + (group * s["row_blocks"] + block) * r["block"])
        f.call(pack, a.w, a.bias, a.shape, record, group, block * tile.rows, 0, s["channels"], to)
    return f
