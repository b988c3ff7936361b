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
from math import ceil
from typing import Any

import numpy as np

from lucid.kernels import jit
from lucid.kernels.algorithms import packed_weights, pixel_panels
from lucid.kernels.algorithms.dense_layout import (
    SHAPE,
    Blocking,
    Cut,
    PhaseRecord,
    Shape,
    packed_elements,
    phase_record,
    read_phase,
    read_shape,
    shape_numbers,
)
from lucid.kernels.algorithms.pixel_panels import Layout, Phase
from lucid.kernels.algorithms.tile import Tile, write_tile
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
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


class DenseConvolution:
    """A problem's phases bound to a kernel: call it with (x, w, bias or None, y)."""

    def __init__(self, dtype: str, shape: Shape, blocking: Blocking, phases: Sequence[Phase]) -> None:
        cuts = [Cut.of(Layout.of(phase, blocking.shared, shape.batch), blocking) for phase in phases]
        packed = 0
        records = []
        for cut in cuts:
            records.append(PhaseRecord(cut, shape, blocking, packed))
            packed += packed_elements(shape, blocking, cut.layout.taps)
        numbers = shape_numbers(shape, blocking, cuts)
        self._arrays = (
            np.array([numbers[name] for name in SHAPE], np.int64),
            np.array([record.numbers for record in records], np.int64),
            records,
        )
        self._constants = tuple(map(address, self._arrays[:2]))
        self._packed_bytes = ceil(packed * shape.itemsize / memory.ALIGN_BYTES) * memory.ALIGN_BYTES
        self._scratch_bytes = numbers["scratch_bytes"]
        self._weight_tasks = 0 if blocking.lazy else len(cuts) * shape.groups * numbers["row_blocks"]
        self._tasks = len(cuts) * numbers["spans"] * shape.groups * numbers["row_parts"]
        kind = pixel_panels.stride_class(phases[0][2].step, blocking.tile.lanes)
        code = kernel(dtype, blocking.tile, kind, shape.stack)
        self._weights, self._run = (code.address(name) for name in ("weights", "run"))

    def __call__(self, x: Array, w: Array, bias: Array | None, y: Array) -> None:
        crew = threads.get_num_threads() if self._tasks > 1 else 1
        scratch = _workspace(self._packed_bytes + self._scratch_bytes * crew)
        packed = address(scratch)
        fields = (ctypes.c_int64 * 8)(
            address(x), address(w), 0 if bias is None else address(bias), address(y), packed,
            packed + self._packed_bytes, *self._constants,
        )  # fmt: skip
        if self._weight_tasks:
            steps = (self._weights, fields, self._weight_tasks, 1), (self._run, fields, self._tasks, 1)
            threads.run_steps(steps, threads=crew)
        else:
            threads.run(self._run, fields, self._tasks, threads=crew)


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
    pack = packed_weights.write_pack(module, element, tile, stack, isa)
    packed_weights.write_entry(module, pack, tile, fields)
    _write_run(module, element, tile, kind, stack, pack, fields)
    return module


def _write_run(
    module: Module, element: Type, tile: Tile, kind: int, stack: int, pack_weights: Function, fields: dict[str, Type]
) -> None:
    """Adds the entry ``run``: a task is a phase's span of positions in one group, for a part of the rows."""
    table = pixel_panels.write_table(module, tile.lanes, kind)
    pack = pixel_panels.write_pack(module, element, tile.lanes, kind)
    multiply = _write_multiply(module, element, tile, stack, pack_weights)
    f = module.entry("run", **fields)
    a = f.args
    s = read_shape(
        a.shape,
        "scratch_bytes entries_at merges_at row_parts groups spans image channels channel_block group_input plane "
        "task_rows",
    )
    own = a.scratch.at(a.thread * s["scratch_bytes"])
    panel, entries, merges = own.cast(element), own.at(s["entries_at"]).cast(i64), own.at(s["merges_at"]).cast(i64)
    with f.loop(a.begin, a.end) as task:
        part, rest = task.i % s["row_parts"], task.i // s["row_parts"]
        group, rest = rest % s["groups"], rest // s["groups"]
        span, phase = rest % s["spans"], rest // s["spans"]
        record = phase_record(a.phases, phase)
        r = read_phase(
            record,
            "unit_spans span units unit halo gathered_unit per_panel slot gathered_taps x_step channel_stride",
        )
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
                    c.i, channels, own,
                )  # fmt: skip


def _write_multiply(module: Module, element: Type, tile: Tile, stack: int, pack_weights: Function) -> Function:
    """Adds ``multiply``: a span's panels by a part of the rows, for one block of channels.

    Sums wait in place or in ``sums`` for the next block; after the last they are all in the result.
    """
    data, p64 = ptr(element), ptr(i64)
    panel_product = _write_panel_product(module, element, tile, stack)
    f = module.function(
        "multiply", fields=p64, record=p64, panel=data, group=i64, position=i64, count=i64, first=i64, c=i64,
        channels=i64, own=ptr(i8),
    )  # fmt: skip
    a = f.args
    w, bias, result, packed = (a.fields.at(slot).cast(data).load() for slot in (1, 2, 3, 4))
    shape = a.fields.at(6).cast(p64).load()
    s = read_shape(shape, "sums_at lazy weights_at task_rows rows row_blocks out_plane")
    r = read_phase(a.record, "taps packed block row_sums panel_sums panel_step")
    own_weights, lazy = a.own.at(s["weights_at"]).cast(element), s["lazy"].ne(0)
    spare = a.own.at(s["sums_at"]).cast(element)
    sums = spare.at((1 + stack) * tile.columns)
    with f.loop(a.first, minimum(a.first + s["task_rows"], s["rows"]), tile.rows) as o:
        with f.when(lazy):
            f.call(pack_weights, w, bias, shape, a.record, a.group, o.i, a.c, a.channels, own_weights)
        block = packed.at(r["packed"] + (a.group * s["row_blocks"] + o.i // tile.rows) * r["block"])
        start = select(lazy, own_weights, block)
        weights = start.at((select(lazy, 0, a.c) * r["taps"] + 1) * tile.rows)
        y = result.at((a.group * s["rows"] + o.i) // stack * s["out_plane"])
        row_sums = sums.at((o.i - a.first) // tile.rows * r["row_sums"])
        with f.loop(0, a.count, tile.columns) as j:
            number = j.i // tile.columns
            f.call(
                panel_product, shape, a.record, weights, start, a.panel.at(number * r["panel_step"]), y,
                row_sums.at(number * r["panel_sums"]), spare, a.position + j.i, a.count - j.i, s["rows"] - o.i, a.c,
                a.channels,
            )  # fmt: skip
    return f


def _write_panel_product(module: Module, element: Type, tile: Tile, stack: int) -> Function:
    """Adds ``panel_product``: one tile of rows by up to a tile's columns of positions, ``room`` of which exist."""
    data, p64 = ptr(element), ptr(i64)
    finish = _write_finish(module, element, tile, stack)
    tiles = [
        write_tile(module, element, Tile(tile.rows, v, tile.lanes), None, f"tile{v}")
        for v in range(1, tile.vectors + 1)
    ]
    f = module.function(
        "panel_product", shape=p64, record=p64, weights=data, start=data, panel=data, y=data, sums=data, spare=data,
        position=i64, room=i64, rows=i64, c=i64, channels=i64,
    )  # fmt: skip
    a = f.args
    s = read_shape(a.shape, "channels out_plane out_image")
    r = read_phase(a.record, "taps positions whole offsets")
    whole_rows = f.const(i64, tile.rows)
    width = minimum((a.room + (tile.lanes - 1)) // tile.lanes, tile.vectors)
    covered, image, inner = width * tile.lanes, a.position // r["positions"], a.position % r["positions"]
    in_place = r["whole"].ne(0) & (covered <= a.room) & (inner + covered <= r["positions"])
    to = select(in_place, a.y.at(image * s["out_image"] + inner), a.sums)
    step = select(in_place, s["out_plane"], f.const(i64, tile.columns))
    rows = minimum(a.rows, whole_rows)
    exist, steps = select(in_place, rows, whole_rows), a.channels * r["taps"]
    for v, function in enumerate(tiles, 1):
        with f.when(width.eq(v)):
            f.call(function, steps, a.weights, a.panel, a.start, a.c, to, step, exist, a.spare, r["offsets"])
    with f.when((a.c + a.channels >= s["channels"]) & ~in_place):
        f.call(
            finish, a.record, a.sums, a.y, s["out_plane"], s["out_image"], a.position, minimum(a.room, covered), rows,
            a.spare.at(tile.columns),
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
    a = f.args
    r = read_phase(
        a.record,
        "positions store_x store_y store_z_step store_y_step store_start store_x_start store_x_step store_width",
    )
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
