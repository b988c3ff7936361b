"""Dense convolution as an implicit matrix product: rows are result channels, columns positions, k = (c, tap).

::

    for each phase, span of positions, group, block of rows:        tasks, in any order, on any thread
        write the table of the span                                 all geometry: see pixel_panels
        for each block of channels c:                               in this order on any number of threads
            pack the span's panels                                  in the second level cache
            for each tile of rows, for each panel:                  weights of the tile in the first level cache
                to += w[c, tap][row] * panel[c, tap][position]      one register tile: see tile
        store what could not be written in place

A phase is a set of result positions that meet the same taps. A forward convolution is one phase; a transposed one has
one for every residue of the stride. Where a panel lies in one image and the result is contiguous, tiles are written in
place; all others go to ``sums`` and from there, segment by segment, to the result.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lucid.kernels import jit
from lucid.kernels.algorithms import pixel_panels
from lucid.kernels.algorithms.base import address
from lucid.kernels.algorithms.pixel_panels import ENTRY_BYTES, RECORD, Phase, Record, read_record
from lucid.kernels.algorithms.tile import Tile, write_tile
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    constant,
    i8,
    i64,
    lanes_below,
    minimum,
    ptr,
    select,
)
from lucid.kernels.isa import ISA
from lucid.kernels.runtime import memory, threads

Array = np.ndarray[Any, Any]

#: Numbers of a problem that all its phases share. Sizes are in elements but where they say bytes.
SHAPE = (
    "batch", "groups", "rows", "channels", "plane", "image", "group_input", "out_plane", "out_image",
    "row_step", "channel_step", "group_step", "row_blocks", "task_rows", "row_parts", "span", "spans", "channel_block",
    "scratch_bytes", "entries_at", "merges_at", "sums_at", "panel_sums", "row_sums",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """What the kernels must know of a problem and its blocking, beside the phases."""

    batch: int
    groups: int
    rows: int  #: result channels of a group
    channels: int  #: summed channels of a group
    plane: int
    out_plane: int
    row_step: int  #: in the weights, from a result channel of a group to the next
    channel_step: int
    group_step: int


@dataclass(frozen=True, slots=True)
class Blocking:
    """How the loops are cut: ``channels`` a block, ``panels`` a span, ``row_parts`` tasks to a span's rows."""

    tile: Tile
    channels: int
    panels: int
    row_parts: int


def _shape_numbers(shape: Shape, blocking: Blocking, phases: Sequence[Phase], itemsize: int) -> dict[str, int]:
    tile = blocking.tile
    row_blocks = -(-shape.rows // tile.rows)
    task_rows = -(-row_blocks // blocking.row_parts) * tile.rows
    span = blocking.panels * tile.columns
    most = max(shape.batch * pixel_panels.positions(phase) for phase in phases)
    layout = scratch_layout(shape, blocking, phases, itemsize)
    single = blocking.channels >= shape.channels
    return {
        "batch": shape.batch, "groups": shape.groups, "rows": shape.rows, "channels": shape.channels,
        "plane": shape.plane, "image": shape.groups * shape.channels * shape.plane,
        "group_input": shape.channels * shape.plane, "out_plane": shape.out_plane,
        "out_image": shape.groups * shape.rows * shape.out_plane,
        "row_step": shape.row_step, "channel_step": shape.channel_step, "group_step": shape.group_step,
        "row_blocks": row_blocks, "task_rows": task_rows, "row_parts": -(-shape.rows // task_rows),
        "span": span, "spans": -(-most // span), "channel_block": blocking.channels, **layout,
        "panel_sums": 0 if single else tile.rows * tile.columns,
        "row_sums": 0 if single else tile.rows * span,
    }  # fmt: skip


def scratch_layout(shape: Shape, blocking: Blocking, phases: Sequence[Phase], itemsize: int) -> dict[str, int]:
    """Where the parts of a thread's workspace start, in bytes, and how many there are."""
    tile, vectors = blocking.tile, blocking.tile.vectors * blocking.panels
    row_blocks = -(-shape.rows // tile.rows)
    tiles = -(-row_blocks // blocking.row_parts) * blocking.panels if blocking.channels < shape.channels else 1
    taps = max(map(pixel_panels.taps, phases))
    segments = max(pixel_panels.most_segments(phase, tile.lanes) for phase in phases)
    parts = {
        "entries_at": blocking.channels * taps * blocking.panels * tile.columns * itemsize,
        "merges_at": vectors * taps * ENTRY_BYTES,
        "sums_at": (vectors * taps * max(0, segments - 1) + 1) * ENTRY_BYTES,
        "scratch_bytes": (tiles * tile.rows + 1) * tile.columns * itemsize,
    }
    at, layout = 0, {}
    for name, size in parts.items():
        at = -(-(at + size) // 64) * 64
        layout[name] = at
    return layout


def packed_elements(shape: Shape, tile: Tile, phase: Phase) -> int:
    """Elements of a phase's packed weights."""
    blocks = shape.groups * -(-shape.rows // tile.rows)
    return blocks * tile.rows * (1 + shape.channels * pixel_panels.taps(phase))


class DenseConvolution:
    """A problem's phases bound to a kernel: call it with (x, w, bias or None, y)."""

    def __init__(self, dtype: str, isa: ISA, shape: Shape, blocking: Blocking, phases: Sequence[Phase]) -> None:
        itemsize = np.dtype(dtype).itemsize
        packed, records = 0, []
        for phase in phases:
            records.append(Record(phase, packed))
            packed += packed_elements(shape, blocking.tile, phase)
        numbers = _shape_numbers(shape, blocking, phases, itemsize)
        self._arrays = (
            records,
            np.array([numbers[name] for name in SHAPE], np.int64),
            np.array([record.numbers for record in records], np.int64),
        )
        self._constants = tuple(map(address, self._arrays[1:]))
        self._packed_bytes = -(-packed * itemsize // memory.ALIGN_BYTES) * memory.ALIGN_BYTES
        self._scratch_bytes = numbers["scratch_bytes"]
        weight_tasks = len(phases) * shape.groups * numbers["row_blocks"]
        self._tasks = weight_tasks, len(phases) * numbers["spans"] * shape.groups * numbers["row_parts"]
        kind = pixel_panels.stride_class(phases[0][2].step, blocking.tile.lanes)
        self._code = kernel(dtype, blocking.tile, kind)
        self._entries = self._code.address("weights"), self._code.address("run")

    def __call__(self, x: Array, w: Array, bias: Array | None, y: Array) -> None:
        crew = threads.get_num_threads()
        scratch = memory.workspace(self._packed_bytes + self._scratch_bytes * crew, 1)
        packed = address(scratch)
        fields = (ctypes.c_int64 * 8)(
            address(x), address(w), 0 if bias is None else address(bias), address(y), packed,
            packed + self._packed_bytes, *self._constants,
        )  # fmt: skip
        weights, run = self._entries
        weight_tasks, tasks = self._tasks
        threads.run_steps(((weights, fields, weight_tasks, 1), (run, fields, tasks, 1)), threads=crew)


def kernel(dtype: str, tile: Tile, kind: int) -> jit.Code:
    """The kernel for a tile and a class of horizontal strides."""
    return jit.kernel(("implicit gemm", dtype, tile, kind), lambda isa: _write(BY_DTYPE[dtype], tile, kind, isa))


def _write(element: Type, tile: Tile, kind: int, isa: ISA) -> Module:
    module = Module("implicit_gemm", isa.fma)
    data, p64 = ptr(element), ptr(i64)
    fields = {"x": data, "w": data, "bias": data, "y": data, "packed": data, "scratch": ptr(i8), "shape": p64,
              "phases": p64}  # fmt: skip
    _write_weights(module, element, tile, fields)
    _write_run(module, element, tile, kind, fields)
    return module


def _read_shape(shape: Pointer) -> dict[str, Value]:
    return {name: shape.load(slot) for slot, name in enumerate(SHAPE)}


def _write_weights(module: Module, element: Type, tile: Tile, fields: dict[str, Type]) -> None:
    """Adds the entry ``weights``: a task packs the weights of one tile of rows, [bias of each row][c][tap][row].

    Rows that do not exist repeat the last one: their sums go nowhere.
    """
    f = module.entry("weights", **fields)
    a, s = f.args, _read_shape(f.args.shape)
    with f.loop(a.begin, a.end) as task:
        block, rest = task.i % s["row_blocks"], task.i // s["row_blocks"]
        group = rest % s["groups"]
        r = read_record(a.phases.at(rest // s["groups"] * len(RECORD)))
        rows = [minimum(block * tile.rows + m, s["rows"] - 1) for m in range(tile.rows)]
        sources = [a.w.at(group * s["group_step"] + row * s["row_step"]) for row in rows]
        size = (s["channels"] * r["taps"] + 1) * tile.rows
        to = a.packed.at(r["packed"] + (group * s["row_blocks"] + block) * size)
        none = constant(f, element, 0)
        with_bias = f.emit(i64, f"ptrtoint ptr {a.bias.text} to i64").ne(0)
        for m, row in enumerate(rows):
            to.store(a.bias.load(group * s["rows"] + row, 1, with_bias, none), m)
        with f.loop(0, s["channels"]) as c, f.loop(0, r["taps"]) as t:
            offset = c.i * s["channel_step"] + r["weight_offsets"].load(t.i)
            place = to.at((c.i * r["taps"] + t.i + 1) * tile.rows)
            for m, source in enumerate(sources):
                place.store(source.load(offset), m)


def _write_run(module: Module, element: Type, tile: Tile, kind: int, fields: dict[str, Type]) -> None:
    """Adds the entry ``run``: a task is a phase's span of positions in one group, for a part of the rows."""
    table = pixel_panels.write_table(module, tile.lanes, kind)
    pack = pixel_panels.write_pack(module, element, tile.lanes, kind)
    finish = _write_finish(module, element, tile)
    tiles = [
        write_tile(module, element, Tile(tile.rows, v, tile.lanes), tile.columns, f"tile{v}")
        for v in range(1, tile.vectors + 1)
    ]
    f = module.entry("run", **fields)
    a, s = f.args, _read_shape(f.args.shape)
    own = a.scratch.at(a.thread * s["scratch_bytes"])
    panel, entries, merges = own.cast(element), own.at(s["entries_at"]).cast(i64), own.at(s["merges_at"]).cast(i64)
    spare = own.at(s["sums_at"]).cast(element)
    sums = spare.at(tile.columns)
    with f.loop(a.begin, a.end) as task:
        part, rest = task.i % s["row_parts"], task.i // s["row_parts"]
        group, rest = rest % s["groups"], rest // s["groups"]
        span, phase = rest % s["spans"], rest // s["spans"]
        record = a.phases.at(phase * len(RECORD))
        r = read_record(record)
        p, limit = span * s["span"], s["batch"] * r["positions"]
        count = minimum(s["span"], limit - p)
        stride = r["taps"] * tile.columns
        slot = s["channel_block"] * stride
        with f.when(count > 0):
            vectors = (count + (tile.lanes - 1)) // tile.lanes
            merge_count = f.call(table, record, entries, merges, s["image"], p, limit, vectors, tile.vectors, slot)
            first, end = part * s["task_rows"], minimum((part + 1) * s["task_rows"], s["rows"])
            with f.loop(0, s["channels"], s["channel_block"]) as c:
                channels = minimum(s["channel_block"], s["channels"] - c.i)
                x = a.x.at(group * s["group_input"] + c.i * s["plane"])
                fills = vectors * r["taps"]
                f.call(pack, entries, fills, merges, merge_count, x, r["x_step"], panel, channels, s["plane"], stride)
                last = c.i + s["channel_block"] >= s["channels"]
                with f.loop(first, end, tile.rows) as o:
                    rows = s["rows"] - o.i
                    size = (s["channels"] * r["taps"] + 1) * tile.rows
                    bias = a.packed.at(r["packed"] + (group * s["row_blocks"] + o.i // tile.rows) * size)
                    w = bias.at((c.i * r["taps"] + 1) * tile.rows)
                    y = a.y.at((group * s["rows"] + o.i) * s["out_plane"])
                    row_sums = sums.at((o.i - first) // tile.rows * s["row_sums"])
                    with f.loop(0, count, tile.columns) as j:
                        room = count - j.i
                        width = minimum((room + (tile.lanes - 1)) // tile.lanes, f.const(i64, tile.vectors))
                        position = p + j.i
                        image, inner = position // r["positions"], position % r["positions"]
                        covered = width * tile.lanes
                        in_place = r["whole"].ne(0) & (covered <= room) & (inner + covered <= r["positions"])
                        buffer = row_sums.at(j.i // tile.columns * s["panel_sums"])
                        to = select(in_place, y.at(image * s["out_image"] + inner), buffer)
                        step = select(in_place, s["out_plane"], f.const(i64, tile.columns))
                        exist = select(in_place, rows, f.const(i64, tile.rows))
                        source = panel.at(j.i // tile.columns * slot)
                        operands = (channels * r["taps"], w, source, bias, c.i, to, step, exist, spare)
                        for v, function in enumerate(tiles, 1):
                            with f.when(width.eq(v)):
                                f.call(function, *operands)
                        with f.when(last & ~in_place):
                            f.call(
                                finish, record, buffer, y, s["out_plane"], s["out_image"], position,
                                minimum(room, covered), minimum(rows, f.const(i64, tile.rows)),
                            )  # fmt: skip


def _write_finish(module: Module, element: Type, tile: Tile) -> Function:
    """Adds ``finish(record, sums, y, out_plane, out_image, position, room, rows)``: sums to their places in y."""
    data = ptr(element)
    f = module.function(
        "finish", record=ptr(i64), sums=data, y=data, out_plane=i64, out_image=i64, position=i64, room=i64, rows=i64
    )
    a, r, lanes = f.args, read_record(f.args.record), tile.lanes
    step = r["store_x_step"]
    with f.loop(0, a.room) as segment:  # its step is the length of the segment
        position = a.position + segment.i
        image, inner = position // r["positions"], position % r["positions"]
        row, ox = inner // r["store_x"], inner % r["store_x"]
        oz, oy = row // r["store_y"], row % r["store_y"]
        run = minimum(r["store_x"] - ox, a.room - segment.i)
        place = image * a.out_image + oz * r["store_z_step"] + oy * r["store_y_step"] + ox * step + r["store_start"]
        with f.loop(0, a.rows) as m:
            source, to = a.sums.at(m.i * tile.columns + segment.i), a.y.at(place + m.i * a.out_plane)
            with f.when(step.eq(1)), f.loop(0, run, lanes) as lane:
                mask = lanes_below(f, run - lane.i, lanes)
                to.store(source.load(lane.i, lanes, mask), lane.i, mask)
            with f.when(step.ne(1)), f.loop(0, run) as lane:
                to.store(source.load(lane.i), lane.i * step)
        segment.step = run
    return f
