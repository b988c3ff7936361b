"""Dense convolution as an implicit matrix product: rows are result channels, columns positions, k = (c, tap).

::

    for each phase, span of positions, group, part of the rows:     tasks, in any order, on any thread
        write the table of the span                                 all geometry: see pixel_panels
        for each block of channels c:                               in this order on any number of threads
            pack the span's panels                                  in the second level cache
            for each tile of rows, for each panel:                  weights of the tile in the first level cache
                to += w[c, tap][row] * panel[c, tap][position]      one register tile: see tile
        store what could not be written in place

A phase is a set of result positions that meet the same taps. A forward convolution is one phase; a transposed one has
one for every residue of the stride. Residues of the last axis that meet the same samples are stacked: each is a row of
its own, beside the others of its channel, and they are interleaved on the way out.

Where a tile's positions lie in one image and the result is contiguous, sums are written in place; all others go to
``sums`` and from there, segment by segment, to the result.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from lucid.kernels import jit
from lucid.kernels.algorithms import panels, pixel_panels
from lucid.kernels.algorithms.pixel_panels import ENTRY_BYTES, GATHER, Layout, Phase
from lucid.kernels.algorithms.tile import Tile, write_tile
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    constant,
    i1,
    i8,
    i64,
    interleave,
    lanes_below,
    maximum,
    minimum,
    ptr,
    select,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import address
from lucid.kernels.runtime import memory, threads

Array = np.ndarray[Any, Any]

#: Numbers of a problem that all its phases share. Sizes are in elements but where they say bytes.
SHAPE = (
    "batch", "groups", "rows", "channels", "plane", "image", "group_input", "out_plane", "out_image", "row_step",
    "channel_step", "group_step", "row_blocks", "task_rows", "row_parts", "spans", "channel_block", "scratch_bytes",
    "entries_at", "merges_at", "sums_at", "weight_tasks", "tasks",
)  # fmt: skip

#: Numbers of a phase, behind those that the table reads.
PHASE = (
    "positions", "taps", "weight_offsets", "offsets", "packed", "units", "unit", "gathered_unit", "halo", "span",
    "unit_spans", "gathered_taps", "per_panel", "slot", "panel_step", "channel_stride", "panel_sums", "row_sums",
    "store_y", "store_x", "store_z_step", "store_y_step", "store_x_step", "store_start", "store_x_start",
    "store_width", "whole", "block", "runs", "run_length", "run_step",
)  # fmt: skip
_ARRAYS = {"weight_offsets", "offsets"}


@dataclass(frozen=True, slots=True)
class Shape:
    """What the kernels must know of a problem beside its phases."""

    batch: int
    groups: int
    rows: int  #: result channels of a group, times ``stack``
    channels: int  #: summed channels of a group
    plane: int
    out_plane: int
    row_step: int  #: in the weights, from a result channel of a group to the next
    channel_step: int
    group_step: int
    stack: int = 1  #: residues of the last axis that are rows side by side; their weights are neighbours


@dataclass(frozen=True, slots=True)
class Blocking:
    """How the loops are cut: ``channels`` a block, ``panels`` a span, ``row_parts`` tasks to a span's rows.

    ``shared`` is the axis whose taps share samples, or None; ``slack`` elements lie behind a tile's packed weights.
    """

    tile: Tile
    channels: int
    panels: int
    row_parts: int
    shared: int | None
    slack: int


@dataclass(frozen=True, slots=True)
class Cut:
    """A phase under a blocking: how its units are cut into spans and how wide its panels are."""

    layout: Layout
    span: int
    unit_spans: int
    width: int  #: positions of a panel: of one tile, or of a whole span with its halo
    panels: int  #: panels of that width

    @classmethod
    def of(cls, layout: Layout, blocking: Blocking) -> Cut:
        """Spans of at most ``blocking.panels`` tiles, all of a unit alike."""
        tile = blocking.tile
        unit_spans = ceil(layout.unit / (blocking.panels * tile.columns))
        span = ceil(layout.unit / unit_spans / tile.columns) * tile.columns
        unit_spans = ceil(layout.unit / span)
        if layout.shared is None:
            return cls(layout, span, unit_spans, tile.columns, span // tile.columns)
        return cls(layout, span, unit_spans, ceil((span + layout.halo) / tile.lanes) * tile.lanes, 1)

    @property
    def spans(self) -> int:
        """Spans of all units."""
        return self.layout.units * self.unit_spans

    @property
    def gathered_positions(self) -> int:
        """Samples of a channel and tap in all panels."""
        return self.width * self.panels


def row_blocks(shape: Shape, tile: Tile) -> int:
    """Tiles that cover the rows of a group."""
    return ceil(shape.rows / tile.rows)


def scratch_layout(shape: Shape, blocking: Blocking, cuts: Sequence[Cut], itemsize: int) -> dict[str, int]:
    """Where the parts of a thread's workspace start, in bytes, and how many there are."""
    tile = blocking.tile
    spans = max(cut.span for cut in cuts) // tile.columns
    blocks = ceil(row_blocks(shape, tile) / blocking.row_parts)
    tiles = blocks * spans if blocking.channels < shape.channels else 1
    vectors = max(cut.gathered_positions * cut.layout.gathered_taps for cut in cuts) // tile.lanes
    segments = max(pixel_panels.most_segments(cut.layout.gathered, tile.lanes) for cut in cuts)
    parts = {
        "entries_at": blocking.channels * vectors * tile.lanes * itemsize,
        "merges_at": vectors * ENTRY_BYTES,
        "sums_at": (vectors * (segments - 1) + 1) * ENTRY_BYTES,
        "scratch_bytes": ((tiles * tile.rows + 1 + shape.stack) * tile.columns + tile.lanes) * itemsize,
    }
    at, layout = 0, {}
    for name, size in parts.items():
        at = ceil((at + size) / 64) * 64
        layout[name] = at
    return layout


def block_elements(shape: Shape, blocking: Blocking, taps: int) -> int:
    """Elements of the packed weights of one tile of rows: its biases, its weights, and what packing overwrites."""
    return blocking.tile.rows * (1 + shape.channels * taps) + blocking.slack


def packed_elements(shape: Shape, blocking: Blocking, taps: int) -> int:
    """Elements of a phase's packed weights."""
    return shape.groups * row_blocks(shape, blocking.tile) * block_elements(shape, blocking, taps)


def _weight_runs(shape: Shape, weights: tuple[int, ...]) -> tuple[int, int, int]:
    """How a phase's weights of one row lie in memory: so many runs, of so many elements, so far apart.

    No runs if taps are left out in between.
    """
    count = len(weights)
    if count == 1:
        return 1, shape.channels, shape.channel_step
    if weights != tuple(range(weights[0], weights[0] + count)) if count else True:
        return 0, 0, 0
    if shape.channel_step == count:
        return 1, shape.channels * count, 1
    return shape.channels, count, 1


def _shape_numbers(shape: Shape, blocking: Blocking, cuts: Sequence[Cut], itemsize: int) -> dict[str, int]:
    blocks, rows = row_blocks(shape, blocking.tile), blocking.tile.rows
    task_rows = ceil(blocks / blocking.row_parts) * rows
    row_parts, spans = ceil(shape.rows / task_rows), max(cut.spans for cut in cuts)
    return {
        "batch": shape.batch, "groups": shape.groups, "rows": shape.rows, "channels": shape.channels,
        "plane": shape.plane, "image": shape.groups * shape.channels * shape.plane,
        "group_input": shape.channels * shape.plane, "out_plane": shape.out_plane,
        "out_image": shape.groups * shape.rows // shape.stack * shape.out_plane,
        "row_step": shape.row_step, "channel_step": shape.channel_step, "group_step": shape.group_step,
        "row_blocks": blocks, "task_rows": task_rows, "row_parts": row_parts, "spans": spans,
        "channel_block": blocking.channels, **scratch_layout(shape, blocking, cuts, itemsize),
        "weight_tasks": len(cuts) * shape.groups * blocks,
        "tasks": len(cuts) * spans * shape.groups * row_parts,
    }  # fmt: skip


class _PhaseRecord:
    """A phase as numbers for native code, and the arrays that they point to."""

    def __init__(self, cut: Cut, shape: Shape, blocking: Blocking, packed: int) -> None:
        tile, layout = blocking.tile, cut.layout
        phase, gathered = layout.phase, layout.gathered
        z, y, x = phase
        self._tables = [np.array(rows, np.int64) for rows in pixel_panels.tap_tables(gathered)]
        weights = tuple(a + b + c for a in z.weights for b in y.weights for c in x.weights)
        self._weights = np.array(weights, np.int64)
        channel_stride = layout.gathered_taps * cut.width
        reads = [tap * cut.width + shift for tap, shift in layout.reads()]
        self._offsets = np.array([c * channel_stride + r for c in range(blocking.channels) for r in reads], np.int64)
        whole = all(axis.contiguous for axis in phase)
        scales = (y.out_size * x.out_size, x.out_size, 1)
        steps = [axis.out_step * n for axis, n in zip(phase, scales, strict=True)]
        start = z.out_start * scales[0] + y.out_start * scales[1]
        one_row = (1, pixel_panels.positions(phase), 0, 0, 1, 0, 0, 0, 1)
        rows = (y.positions, x.positions, *steps, start, x.out_start, x.out_size, 0)
        slot = blocking.channels * channel_stride
        single = blocking.channels >= shape.channels
        numbers = (
            pixel_panels.positions(phase), pixel_panels.taps(phase), self._weights.ctypes.data,
            self._offsets.ctypes.data, packed, layout.units, layout.unit, layout.unit + layout.halo,
            layout.halo, cut.span, cut.unit_spans, layout.gathered_taps, cut.width // tile.lanes, slot,
            slot if layout.shared is None else tile.columns, channel_stride,
            0 if single else tile.rows * tile.columns, 0 if single else tile.rows * cut.span,
            *(one_row if whole else rows), block_elements(shape, blocking, layout.taps), *_weight_runs(shape, weights),
        )  # fmt: skip
        tables = [table.ctypes.data for table in self._tables]
        self.numbers = (*pixel_panels.gather_numbers(gathered, tables), *numbers)


class DenseConvolution:
    """A problem's phases bound to a kernel: call it with (x, w, bias or None, y)."""

    def __init__(self, dtype: str, shape: Shape, blocking: Blocking, phases: Sequence[Phase]) -> None:
        itemsize = np.dtype(dtype).itemsize
        cuts = [Cut.of(Layout.of(phase, blocking.shared, shape.batch), blocking) for phase in phases]
        packed = 0
        records = []
        for cut in cuts:
            records.append(_PhaseRecord(cut, shape, blocking, packed))
            packed += packed_elements(shape, blocking, cut.layout.taps)
        numbers = _shape_numbers(shape, blocking, cuts, itemsize)
        self._arrays = (
            np.array([numbers[name] for name in SHAPE], np.int64),
            np.array([record.numbers for record in records], np.int64),
            records,
        )
        self._constants = tuple(map(address, self._arrays[:2]))
        self._packed_bytes = ceil(packed * itemsize / memory.ALIGN_BYTES) * memory.ALIGN_BYTES
        self._scratch_bytes = numbers["scratch_bytes"]
        self._weight_tasks, self._tasks = numbers["weight_tasks"], numbers["tasks"]
        kind = pixel_panels.stride_class(phases[0][2].step, blocking.tile.lanes)
        code = kernel(dtype, blocking.tile, kind, shape.stack)
        self._weights, self._run, self._alone = (code.address(name) for name in ("weights", "run", "alone"))

    def __call__(self, x: Array, w: Array, bias: Array | None, y: Array) -> None:
        crew = threads.get_num_threads() if self._tasks > 1 else 1
        scratch = _workspace(self._packed_bytes + self._scratch_bytes * crew)
        packed = address(scratch)
        fields = (ctypes.c_int64 * 8)(
            address(x), address(w), 0 if bias is None else address(bias), address(y), packed,
            packed + self._packed_bytes, *self._constants,
        )  # fmt: skip
        if self._tasks == 1:
            threads.run(self._alone, fields, 1, threads=1)
        else:
            steps = (self._weights, fields, self._weight_tasks, 1), (self._run, fields, self._tasks, 1)
            threads.run_steps(steps, threads=crew)


def _workspace(size_bytes: int) -> Array:
    """Small ones come from malloc, which is ten times as fast."""
    if size_bytes < memory.POOLED_FROM_BYTES:
        return memory.empty(size_bytes, np.uint8)
    return memory.workspace(size_bytes, 1)


def kernel(dtype: str, tile: Tile, kind: int, stack: int) -> jit.Code:
    """The kernel for a tile, a class of horizontal strides and a number of stacked residues."""
    element = BY_DTYPE[dtype]
    return jit.kernel(("implicit gemm", dtype, tile, kind, stack), lambda isa: _write(element, tile, kind, stack, isa))


def _write(element: Type, tile: Tile, kind: int, stack: int, isa: ISA) -> Module:
    module = Module("implicit_gemm", isa.fma)
    data, p64 = ptr(element), ptr(i64)
    fields = {"x": data, "w": data, "bias": data, "y": data, "packed": data, "scratch": ptr(i8), "shape": p64,
              "phases": p64}  # fmt: skip
    weights = _write_weights(module, element, tile, stack, fields, isa)
    run = _write_run(module, element, tile, kind, stack, fields)
    alone = module.entry("alone", **fields)
    s = _read_shape(alone.args.shape)
    alone.call(weights, alone.args.fields, 0, s["weight_tasks"], 0)
    alone.call(run, alone.args.fields, 0, s["tasks"], 0)
    return module


def _read_shape(shape: Pointer) -> dict[str, Value]:
    return pixel_panels.read_numbers(shape, SHAPE, set())


def _phase(phases: Pointer, index: Value) -> tuple[Pointer, dict[str, Any]]:
    record = phases.at(index * (len(GATHER) + len(PHASE)))
    return record, _read_phase(record)


def _read_phase(record: Pointer) -> dict[str, Any]:
    numbers = pixel_panels.read_numbers(record, PHASE, _ARRAYS, len(GATHER))
    return {**numbers, "x_step": record.load(GATHER.index("x_step"))}


def _write_weights(
    module: Module, element: Type, tile: Tile, stack: int, fields: dict[str, Type], isa: ISA
) -> Function:
    """Adds the entry ``weights``: a task packs the weights of one tile of rows, [bias of each row][c][tap][row].

    Rows that do not exist hold any number: their sums go nowhere.
    """
    pack = panels.write_pack(module, isa, element, tile.rows) if stack == 1 else None
    f = module.entry("weights", **fields)
    a, s = f.args, _read_shape(f.args.shape)
    with f.loop(a.begin, a.end) as task:
        block, rest = task.i % s["row_blocks"], task.i // s["row_blocks"]
        group = rest % s["groups"]
        _, r = _phase(a.phases, rest // s["groups"])
        first = block * tile.rows
        source = a.w.at(group * s["group_step"] + first // stack * s["row_step"])
        to = a.packed.at(r["packed"] + (group * s["row_blocks"] + block) * r["block"])
        last = s["rows"] - 1 - first
        none = constant(f, element, 0)
        with_bias = f.emit(i64, f"ptrtoint ptr {a.bias.text} to i64").ne(0)
        biases = a.bias.at((group * s["rows"] + first) // stack)
        for m in range(tile.rows):
            to.store(biases.load(minimum(last, m) // stack, 1, with_bias, none), m)
        weights = to.at(tile.rows)
        if pack is not None:
            rows = minimum(last + 1, f.const(i64, tile.rows))
            with f.loop(0, r["runs"]) as run:
                place = weights.at(run.i * r["run_length"] * tile.rows)
                f.call(
                    pack, source.at(run.i * s["channel_step"] + r["weight_offsets"].load()), s["row_step"],
                    r["run_step"], rows, r["run_length"], place,
                )  # fmt: skip
        with f.when(r["runs"].eq(0) if pack is not None else f.const(i1, 1)):
            _pack_taps(source, weights, last, s, r, tile.rows, stack)
    return f


def _pack_taps(
    source: Pointer, to: Pointer, last: Value, s: dict[str, Value], r: dict[str, Any], rows: int, stack: int
) -> None:
    """Weights tap by tap; the residues of a channel lie side by side already."""
    f = to.fn
    sources = [source.at(minimum(last, m) // stack * s["row_step"]) for m in range(0, rows, stack)]
    with f.loop(0, s["channels"]) as c, f.loop(0, r["taps"]) as t:
        offset = c.i * s["channel_step"] + r["weight_offsets"].load(t.i)
        place = to.at((c.i * r["taps"] + t.i) * rows)
        for m, channel in enumerate(sources):
            place.store(channel.load(offset, stack), m * stack)


def _write_run(module: Module, element: Type, tile: Tile, kind: int, stack: int, fields: dict[str, Type]) -> Function:
    """Adds the entry ``run``: a task is a phase's span of positions in one group, for a part of the rows."""
    table = pixel_panels.write_table(module, tile.lanes, kind)
    pack = pixel_panels.write_pack(module, element, tile.lanes, kind)
    multiply = _write_multiply(module, element, tile, stack)
    f = module.entry("run", **fields)
    a, s = f.args, _read_shape(f.args.shape)
    own = a.scratch.at(a.thread * s["scratch_bytes"])
    panel, entries, merges = own.cast(element), own.at(s["entries_at"]).cast(i64), own.at(s["merges_at"]).cast(i64)
    with f.loop(a.begin, a.end) as task:
        part, rest = task.i % s["row_parts"], task.i // s["row_parts"]
        group, rest = rest % s["groups"], rest // s["groups"]
        span, phase = rest % s["spans"], rest // s["spans"]
        record, r = _phase(a.phases, phase)
        unit, start = span // r["unit_spans"], span % r["unit_spans"] * r["span"]
        with f.when(unit < r["units"]):
            count = minimum(r["span"], r["unit"] - start)
            gathered = count + r["halo"]
            p = unit * r["gathered_unit"] + start
            vectors = (gathered + (tile.lanes - 1)) // tile.lanes
            merge_count = f.call(
                table, record, entries, merges, s["image"], p, p + gathered, vectors, r["per_panel"], r["slot"]
            )
            fills = r["gathered_taps"] * vectors
            with f.loop(0, s["channels"], s["channel_block"]) as c:
                channels = minimum(s["channel_block"], s["channels"] - c.i)
                x = a.x.at(group * s["group_input"] + c.i * s["plane"])
                f.call(
                    pack, entries, fills, merges, merge_count, x, r["x_step"], panel, channels, s["plane"],
                    r["channel_stride"],
                )  # fmt: skip
                f.call(
                    multiply, a.fields, record, panel, group, unit * r["unit"] + start, count, part * s["task_rows"],
                    c.i, channels, own.at(s["sums_at"]).cast(element),
                )  # fmt: skip
    return f


def _write_multiply(module: Module, element: Type, tile: Tile, stack: int) -> Function:
    """Adds ``multiply``: a span's panels by a part of the rows, for one block of channels.

    Sums wait in place or in ``sums`` for the next block; after the last they are all in the result.
    """
    data, p64 = ptr(element), ptr(i64)
    finish = _write_finish(module, element, tile, stack)
    tiles = [
        write_tile(module, element, Tile(tile.rows, v, tile.lanes), None, f"tile{v}")
        for v in range(1, tile.vectors + 1)
    ]
    f = module.function(
        "multiply", fields=p64, record=p64, panel=data, group=i64, position=i64, count=i64, first=i64, c=i64,
        channels=i64, spare=data,
    )  # fmt: skip
    a = f.args
    packed, result, shape = (a.fields.at(slot).cast(t).load() for slot, t in ((4, data), (3, data), (6, p64)))
    s, r = _read_shape(shape), _read_phase(a.record)
    last, steps = a.c + s["channel_block"] >= s["channels"], a.channels * r["taps"]
    buffers = a.spare.at((1 + stack) * tile.columns)
    with f.loop(a.first, minimum(a.first + s["task_rows"], s["rows"]), tile.rows) as o:
        rows = minimum(s["rows"] - o.i, f.const(i64, tile.rows))
        bias = packed.at(r["packed"] + (a.group * s["row_blocks"] + o.i // tile.rows) * r["block"])
        w = bias.at((a.c * r["taps"] + 1) * tile.rows)
        y = result.at((a.group * s["rows"] + o.i) // stack * s["out_plane"])
        row_sums = buffers.at((o.i - a.first) // tile.rows * r["row_sums"])
        with f.loop(0, a.count, tile.columns) as j:
            room, number = a.count - j.i, j.i // tile.columns
            width = minimum((room + (tile.lanes - 1)) // tile.lanes, f.const(i64, tile.vectors))
            position, covered = a.position + j.i, width * tile.lanes
            image, inner = position // r["positions"], position % r["positions"]
            in_place = r["whole"].ne(0) & (covered <= room) & (inner + covered <= r["positions"])
            buffer = row_sums.at(number * r["panel_sums"])
            to = select(in_place, y.at(image * s["out_image"] + inner), buffer)
            step = select(in_place, s["out_plane"], f.const(i64, tile.columns))
            exist = select(in_place, rows, f.const(i64, tile.rows))
            source = a.panel.at(number * r["panel_step"])
            for v, function in enumerate(tiles, 1):
                with f.when(width.eq(v)):
                    f.call(function, steps, w, source, bias, a.c, to, step, exist, a.spare, r["offsets"])
            with f.when(last & ~in_place):
                f.call(
                    finish, a.record, buffer, y, s["out_plane"], s["out_image"], position, minimum(room, covered),
                    rows, a.spare.at(tile.columns),
                )  # fmt: skip
    return f


def _write_finish(module: Module, element: Type, tile: Tile, stack: int) -> Function:
    """Adds ``finish(record, sums, y, out_plane, out_image, position, room, rows, line)``: sums to their places in y.

    ``line`` has room for a row of every residue that is stacked.
    """
    data = ptr(element)
    f = module.function(
        "finish", record=ptr(i64), sums=data, y=data, out_plane=i64, out_image=i64, position=i64, room=i64, rows=i64,
        line=data,
    )  # fmt: skip
    a, r = f.args, _read_phase(f.args.record)
    with f.loop(0, a.room) as segment:  # its step is the length of the segment
        position = a.position + segment.i
        image, inner = position // r["positions"], position % r["positions"]
        row, ox = inner // r["store_x"], inner % r["store_x"]
        oz, oy = row // r["store_y"], row % r["store_y"]
        run = minimum(r["store_x"] - ox, a.room - segment.i)
        place = image * a.out_image + oz * r["store_z_step"] + oy * r["store_y_step"] + r["store_start"]
        with f.loop(0, a.rows, stack) as m:
            source, to = a.sums.at(m.i * tile.columns + segment.i), a.y.at(place + m.i // stack * a.out_plane)
            first = r["store_x_start"] + ox * r["store_x_step"]
            if stack == 1:
                _store_run(source, to.at(first), run, r["store_x_step"], tile.lanes)
            else:
                _interleave_run(source, a.line, run, stack, tile)
                _store_clipped(a.line, to, first, run * stack, r["store_width"], tile.lanes)
        segment.step = run
    return f


def _store_run(source: Pointer, to: Pointer, run: Value, step: Value, lanes: int) -> None:
    f = run.fn
    with f.when(step.eq(1)):
        _copy(source, to, run, lanes)
    with f.when(step.ne(1)), f.loop(0, run) as lane:
        to.store(source.load(lane.i), lane.i * step)


def _copy(source: Pointer, to: Pointer, count: Value, lanes: int) -> None:
    with count.fn.loop(0, count, lanes) as lane:
        mask = lanes_below(count.fn, count - lane.i, lanes)
        to.store(source.load(lane.i, lanes, mask), lane.i, mask)


def _interleave_run(source: Pointer, line: Pointer, run: Value, stack: int, tile: Tile) -> None:
    """Rows ``stack`` side by side become one line, sample by sample; samples beyond the run are any number."""
    f, lanes = run.fn, tile.lanes
    if stack & (stack - 1) or lanes == 1:
        with f.loop(0, run) as lane:
            for residue in range(stack):
                line.store(source.load(lane.i + residue * tile.columns), lane.i * stack + residue)
        return
    with f.loop(0, run, lanes) as lane:
        vectors = [source.load(lane.i + residue * tile.columns, lanes) for residue in range(stack)]
        for v, mixed in enumerate(interleave(vectors)):
            line.store(mixed, lane.i * stack + v * lanes)


def _store_clipped(line: Pointer, to: Pointer, first: Value, count: Value, width: Value, lanes: int) -> None:
    """The part of a line that lies in its row of the result; the line's sample 0 belongs at ``first``."""
    low, high = maximum(-first, 0), minimum(count, width - first)
    _copy(line.at(low), to.at(first + low), high - low, lanes)
