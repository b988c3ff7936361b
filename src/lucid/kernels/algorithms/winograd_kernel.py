"""The kernels of Winograd convolution: a span of tiles is transformed, multiplied and stored while it is in cache.

::

    for each group, tile of rows:                               tasks of the first step
        filters[f][row][c] = G w G^T                            f: products of a tile, one for every place in a patch
    for each span of tiles, group, part of the rows:            tasks of the second, in any order, on any thread
        write the tables of the span                            all geometry: see pixel_panels
        for each block of channels c:
            gather the patches                                  rows of pixels, zeros outside
            v[f][c][tile] = B^T x B                             lanes are tiles: pixels are dealt out by their column
        for each block of rows:
            for each f, tile of rows: m[f][row][tile] = sum over c of filters[f][row][c] * v[f][c][tile]
            for each row: y = A^T m A + bias                    dealt back into rows of pixels, clipped by a table

Filters are larger than patches where there are few tiles and many channels. The loops are then the other way round, and
it is filters that never leave the cache::

    for each span of tiles, group: v                            tasks of the first step
    for each group, tile of rows: filters, then                 tasks of the second
        for each span: m, y

A task computes whole sums in a fixed order, so the bits do not depend on how many threads there are. Tiles are numbered
over the whole batch: only the last span of all has lanes to spare.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np

from lucid.kernels import jit
from lucid.kernels.algorithms import panels, pixel_panels
from lucid.kernels.algorithms.frames import read_fields
from lucid.kernels.algorithms.pixel_panels import ENTRY_BYTES, Axis, Phase
from lucid.kernels.algorithms.tile import Tile, write_tile
from lucid.kernels.algorithms.winograd_transforms import Minimal, Place, along, split
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    bitcast,
    constant,
    convert,
    f32,
    i1,
    i8,
    i64,
    interleave,
    minimum,
    ptr,
    select,
    splat,
    vec,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import address
from lucid.kernels.runtime import memory, threads

Array = np.ndarray[Any, Any]

_ITEM_BYTES = 4
#: Elements between two products' slices beyond their size: slices a power of two apart would share a few cache sets.
_APART = 16
#: Channels that are gathered, or whose filters are packed, at once: they stay in the first level cache.
GATHERED, PACKED = 8, 32
#: Channels whose filters are asked for in advance: they may lie a page apart.
_AHEAD = 8


@dataclass(frozen=True, slots=True)
class Form:
    """F(m, r) on each of the three axes."""

    z: Minimal
    y: Minimal
    x: Minimal

    @property
    def axes(self) -> tuple[Minimal, Minimal, Minimal]:
        """In the order of a grid's places."""
        return self.z, self.y, self.x

    @property
    def products(self) -> int:
        """Of one tile and channel."""
        return prod(axis.samples for axis in self.axes)

    @property
    def outputs(self) -> int:
        """Of one tile."""
        return prod(axis.outputs for axis in self.axes)

    @property
    def reads(self) -> int:
        """Runs of ``x.outputs`` samples that are gathered for a patch."""
        return self.z.samples * self.y.samples * self.x.reads


@dataclass(frozen=True, slots=True)
class Side:
    """One axis of a problem, whichever its role: the gathered array's size, the result's, zeros before."""

    size: int
    out: int
    low: int

    def gathered(self, minimal: Minimal, runs: bool) -> Axis:
        """Patches: a position for each sample of a run, or for each tile."""
        each, count = minimal.outputs, ceil(self.out / minimal.outputs)
        if runs:
            return Axis(count * each, self.size, 1, tuple(k * each - self.low for k in range(minimal.reads)), (), 1)
        offsets = tuple(k - self.low for k in range(minimal.samples))
        return Axis(count, self.size, each, offsets, (), 1)

    def stored(self, minimal: Minimal, runs: bool) -> Axis:
        """Outputs, in the same positions."""
        each, count = minimal.outputs, ceil(self.out / minimal.outputs)
        if runs:
            return Axis(count * each, self.out, 1, (0,), (), 1)
        return Axis(count, self.out, each, tuple(range(each)), (), 1)


@dataclass(frozen=True, slots=True)
class Shape:
    """What the kernels must know of a problem, whichever its role."""

    sides: tuple[Side, Side, Side]
    batch: int
    groups: int
    rows: int  #: result channels of a group
    channels: int  #: summed channels of a group
    row_step: int  #: in the weights, from a result channel of a group to the next
    channel_step: int
    group_step: int
    taps: int
    flipped: bool  #: taps run backwards

    def tiles(self, form: Form) -> int:
        """Tiles of the whole batch."""
        return self.batch * prod(
            ceil(side.out / axis.outputs) for side, axis in zip(self.sides, form.axes, strict=True)
        )

    def phases(self, form: Form) -> tuple[Phase, Phase]:
        """Positions as the table for patches sees them, and as the one for outputs does."""
        (z, y, x), (fz, fy, fx) = self.sides, form.axes
        return (
            (z.gathered(fz, False), y.gathered(fy, False), x.gathered(fx, True)),
            (z.stored(fz, False), y.stored(fy, False), x.stored(fx, True)),
        )


@dataclass(frozen=True, slots=True)
class Blocking:
    """``row_block`` result channels between products and outputs; ``row_parts`` tasks to a span's rows.

    With ``rows_first``, a task is a tile of rows, for all spans.
    """

    tile: Tile
    row_block: int
    row_parts: int
    rows_first: bool


_POINTERS = ("x", "w", "bias", "y", "shared", "scratch", "none")
_RECORDS = ("patches", "results")
_NUMBERS = (
    "tiles", "spans", "groups", "rows", "channels", "x_plane", "x_image", "y_plane", "y_image", "row_step",
    "channel_step", "group_step", "first_tap", "tap_step", "blocks", "block", "filter_step", "row_block", "row_parts",
    "part_rows", "v_step", "v_size", "m_step", "own", "v_at", "m_at", "line_at", "fills_at", "merges_at", "stores_at",
    "more_stores_at",
)  # fmt: skip


def _fields() -> dict[str, Type]:
    pointers = {name: ptr(f32) for name in _POINTERS} | {"scratch": ptr(i8)}
    return {**pointers, **dict.fromkeys(_RECORDS, ptr(i64)), **dict.fromkeys(_NUMBERS, i64)}


def _numbers(shape: Shape, form: Form, cut: Blocking, slack: int) -> dict[str, int]:
    """The values of ``_NUMBERS``. Where a thread's parts start is in bytes, all other sizes are in elements."""
    tile, (x_size, y_size) = cut.tile, (prod(s.size for s in shape.sides), prod(s.out for s in shape.sides))
    tiles, blocks = shape.tiles(form), ceil(shape.rows / tile.rows)
    block = shape.channels * tile.rows + _APART
    part_rows = ceil(ceil(shape.rows / cut.row_parts) / tile.rows) * tile.rows
    row_block = tile.rows if cut.rows_first else min(cut.row_block, part_rows)
    v_step, m_step = (n * tile.columns + _APART for n in (shape.channels, row_block))
    numbers = {
        "tiles": tiles, "spans": ceil(tiles / tile.columns), "groups": shape.groups, "rows": shape.rows,
        "channels": shape.channels, "x_plane": x_size, "x_image": shape.groups * shape.channels * x_size,
        "y_plane": y_size, "y_image": shape.groups * shape.rows * y_size, "row_step": shape.row_step,
        "channel_step": shape.channel_step, "group_step": shape.group_step,
        "first_tap": shape.taps - 1 if shape.flipped else 0, "tap_step": -1 if shape.flipped else 1,
        "blocks": blocks, "block": block,
        "filter_step": block if cut.rows_first else shape.groups * blocks * block + _APART,
        "row_block": row_block, "row_parts": ceil(shape.rows / part_rows), "part_rows": part_rows, "v_step": v_step,
        "v_size": form.products * v_step, "m_step": m_step,
    }  # fmt: skip
    own_operand = form.products * (block if cut.rows_first else v_step)
    numbers |= _scratch(shape, form, tile, own_operand, m_step, slack)
    assert tuple(sorted(numbers)) == tuple(sorted(_NUMBERS)), "every number has its slot"
    return numbers


def _scratch(shape: Shape, form: Form, tile: Tile, own_operand: int, m_step: int, slack: int) -> dict[str, int]:
    """Where the parts of a thread's workspace start, in bytes, and how many bytes there are.

    ``own_operand`` elements at ``v_at`` are the patches of a span, or the filters of a tile of rows.
    """
    patches, results = shape.phases(form)
    vectors = tile.vectors * form.x.outputs
    run = vectors * tile.lanes
    panel = max(GATHERED * form.reads * run, PACKED * shape.taps * tile.rows + slack)
    stores = form.z.outputs * form.y.outputs
    passes = pixel_panels.most_passes(patches, tile.lanes)
    sizes = {
        "v_at": panel * _ITEM_BYTES,
        "m_at": own_operand * _ITEM_BYTES,
        "line_at": form.products * m_step * _ITEM_BYTES,
        "fills_at": stores * run * _ITEM_BYTES,
        "merges_at": vectors * form.reads * ENTRY_BYTES,
        "stores_at": vectors * form.reads * (passes - 1) * ENTRY_BYTES,
        "more_stores_at": vectors * stores * ENTRY_BYTES,
        "own": vectors * stores * (pixel_panels.most_passes(results, tile.lanes) - 1) * ENTRY_BYTES,
    }
    at, starts = 0, {}
    for name, size in sizes.items():
        at = ceil((at + size) / memory.ALIGN_BYTES) * memory.ALIGN_BYTES
        starts[name] = at
    return starts


def workspace_bytes(shape: Shape, form: Form, cut: Blocking, slack: int) -> int:
    """What all threads share, and one thread's part."""
    numbers = _numbers(shape, form, cut, slack)
    return _shared_bytes(form, cut, numbers) + numbers["own"]


def filter_bytes(shape: Shape, form: Form, cut: Blocking, slack: int) -> int:
    """Of those, the transformed filters, if they are what is shared."""
    return 0 if cut.rows_first else _shared_bytes(form, cut, _numbers(shape, form, cut, slack))


def _shared_bytes(form: Form, cut: Blocking, numbers: dict[str, int]) -> int:
    """What the first step makes: all filters, or all patches."""
    patches, filters = numbers["spans"] * numbers["groups"] * numbers["v_size"], form.products * numbers["filter_step"]
    lines = ceil((patches if cut.rows_first else filters) * _ITEM_BYTES / memory.ALIGN_BYTES)
    return lines * memory.ALIGN_BYTES


class Record:
    """A phase as the table's writer reads it, and the arrays that it points to."""

    def __init__(self, phase: Phase) -> None:
        self._tables = [np.array(rows, np.int64) for rows in pixel_panels.tap_tables(phase)]
        self._numbers = np.array(pixel_panels.gather_numbers(phase, [address(t) for t in self._tables]), np.int64)
        self.address = address(self._numbers)


class WinogradConvolution:
    """A problem bound to its kernels: call it with (x, w, bias or None, y)."""

    def __init__(self, shape: Shape, form: Form, cut: Blocking, isa: ISA) -> None:
        slack = panels.slack(isa, f32, cut.tile.rows)
        numbers = _numbers(shape, form, cut, slack)
        code = jit.kernel(("winograd", form, cut.tile), lambda isa: _write(form, cut.tile, isa))
        by_rows, by_tiles = (numbers["groups"] * numbers[name] for name in ("blocks", "spans"))
        self._steps: tuple[tuple[int, int], tuple[int, int]] = (
            (code.address("transform_filters"), by_rows),
            (code.address("multiply_tiles"), by_tiles * numbers["row_parts"]),
        )
        if cut.rows_first:
            self._steps = (code.address("transform_patches"), by_tiles), (code.address("multiply_rows"), by_rows)
        self._shared_bytes, self._own = _shared_bytes(form, cut, numbers), numbers["own"]
        self._records = [Record(phase) for phase in shape.phases(form)]
        self._none = np.zeros(cut.tile.rows, np.float32)
        self._template = (ctypes.c_int64 * len(_fields()))(
            *[0] * (len(_POINTERS) - 1), address(self._none), *(record.address for record in self._records),
            *(numbers[name] for name in _NUMBERS),
        )  # fmt: skip

    def __call__(self, x: Array, w: Array, bias: Array | None, y: Array) -> None:
        crew = threads.get_num_threads() if max(tasks for _, tasks in self._steps) > 1 else 1
        workspace = memory.workspace(self._shared_bytes + crew * self._own, 1)
        shared = address(workspace)
        fields = type(self._template).from_buffer_copy(self._template)
        fields[: len(_POINTERS) - 1] = [
            address(x), address(w), 0 if bias is None else address(bias), address(y), shared,
            shared + self._shared_bytes,
        ]  # fmt: skip
        threads.run_steps([(entry, fields, tasks, 1) for entry, tasks in self._steps], threads=crew)


# -- the kernels ------------------------------------------------------------------------------------------------------


def _write(form: Form, tile: Tile, isa: ISA) -> Module:
    module = Module("winograd", isa.fma)
    fields, table = _fields(), pixel_panels.write_table(module, tile.lanes)
    filters = _write_filters(module, form, tile, fields, isa)
    patches = _write_patches(module, form, tile, fields, table)
    multiply = _write_multiply(module, form, tile, fields)
    results = _write_results(module, form, tile, fields)
    for entry, function, size in (("transform_filters", filters, "block"), ("transform_patches", patches, "v_size")):
        f = module.entry(entry, **fields)
        with f.loop(f.args.begin, f.args.end) as task:
            to = f.args.shared.at(task.i * getattr(f.args, size))
            f.call(function, f.args.fields, f.args.thread, task.i, to)
    _write_multiply_tiles(module, form, tile, fields, patches, (table, multiply, results))
    _write_multiply_rows(module, form, tile, fields, filters, (table, multiply, results))
    return module


def _grid(sizes: tuple[int, ...]) -> list[Place]:
    """All places of a grid, the last axis fastest."""
    z, y, x = (range(n) for n in sizes)
    return list(product(z, y, x))


def _transformed(form: Form, which: str, grid: dict[Place, Value]) -> list[Value]:
    """A grid multiplied along every axis, the last axis first, with the matrix of that name; the last place fastest."""
    for axis in (2, 1, 0):
        grid = along(getattr(form.axes[axis], which), grid, axis)
    return [grid[place] for place in sorted(grid)]


def _write_multiply_tiles(
    module: Module, form: Form, tile: Tile, fields: dict[str, Type], patches: Function, rest: tuple[Function, ...]
) -> None:
    """Adds the entry ``multiply_tiles``: a task is a span of tiles in one group, for a part of the rows."""
    table, multiply, results = rest
    f = module.entry("multiply_tiles", **fields)
    a = f.args
    with f.loop(a.begin, a.end) as task:
        part, number = task.i % a.row_parts, task.i // a.row_parts
        group, own = number % a.groups, a.scratch.at(a.thread * a.own)
        v, m = own.at(a.v_at).cast(f32), own.at(a.m_at).cast(f32)
        f.call(patches, a.fields, a.thread, number, v)
        span = _span(a, number // a.groups, form, tile)
        more = _table_of_stores(f, table, own, span, form, tile)
        first = part * a.part_rows
        last = minimum(first + a.part_rows, a.rows)
        with f.loop(first, last, a.row_block) as o:
            rows = minimum(last - o.i, a.row_block)
            filters = a.shared.at((group * a.blocks + o.i // tile.rows) * a.block)
            f.call(multiply, a.fields, filters, v, m, rows, span.count)
            f.call(results, a.fields, own, group * a.rows + o.i, rows, span.count, span.vectors, more)


def _write_multiply_rows(
    module: Module, form: Form, tile: Tile, fields: dict[str, Type], filters: Function, rest: tuple[Function, ...]
) -> None:
    """Adds the entry ``multiply_rows``: a task is a tile of rows in one group, for all spans."""
    table, multiply, results = rest
    f = module.entry("multiply_rows", **fields)
    a = f.args
    with f.loop(a.begin, a.end) as task:
        group, first, own = task.i // a.blocks, task.i % a.blocks * tile.rows, a.scratch.at(a.thread * a.own)
        kept, m = own.at(a.v_at).cast(f32), own.at(a.m_at).cast(f32)
        rows = minimum(a.rows - first, tile.rows)
        f.call(filters, a.fields, a.thread, task.i, kept)
        with f.loop(0, a.spans) as number:
            span = _span(a, number.i, form, tile)
            more = _table_of_stores(f, table, own, span, form, tile)
            v = a.shared.at((number.i * a.groups + group) * a.v_size)
            f.call(multiply, a.fields, kept, v, m, rows, span.count)
            f.call(results, a.fields, own, group * a.rows + first, rows, span.count, span.vectors, more)


@dataclass(frozen=True, slots=True)
class _Span:
    """A span's tiles, and its pixels as positions: a multiple of whole tiles, in vectors."""

    count: Value
    begin: Value
    limit: Value
    vectors: Value


def _span(a: Any, span: Value, form: Form, tile: Tile) -> _Span:
    across = form.x.outputs
    count = minimum(a.tiles - span * tile.columns, tile.columns)
    begin, length = span * (tile.columns * across), count * across
    return _Span(count, begin, begin + length, (length + (tile.lanes - 1)) // tile.lanes)


def _table_of_stores(f: Function, table: Function, own: Pointer, span: _Span, form: Form, tile: Tile) -> Value:
    """Calls ``table`` for the results of a span; the number of entries in the second list."""
    a = f.args
    stores, more_stores = own.at(a.stores_at).cast(i64), own.at(a.more_stores_at).cast(i64)
    more: Value = f.call(
        table, a.results, stores, more_stores, a.y_image, span.begin, span.limit, span.vectors,
        tile.vectors * form.x.outputs, 0,
    )  # fmt: skip
    return more


def _write_filters(module: Module, form: Form, tile: Tile, fields: dict[str, Type], isa: ISA) -> Function:
    """Adds ``filters(fields, thread, block, to)``: a tile of rows of one group, all channels; ``block`` counts both.

    Weights are first turned so that rows are lanes. Whole vectors are stored, and what lies beyond the tile's rows is
    stored over, or lies between blocks.
    """
    pack = panels.write_packs(module, isa, f32, [tile.rows])[tile.rows]
    f = module.function("filters", fields=ptr(i64), thread=i64, block=i64, to=ptr(f32))
    p, a, taps = f.args, read_fields(f, fields, fields), prod(axis.taps for axis in form.axes)
    places = _grid(tuple(axis.taps for axis in form.axes))
    group, first = p.block // a.blocks, p.block % a.blocks * tile.rows
    panel = a.scratch.at(p.thread * a.own).cast(f32)
    source = a.w.at(group * a.group_step + first * a.row_step)
    rows, together = minimum(a.rows - first, tile.rows), a.channel_step.eq(taps)
    with f.loop(0, a.channels, PACKED) as block:
        count = minimum(a.channels - block.i, PACKED)
        runs, depth = select(together, f.const(i64, 1), count), select(together, count * taps, f.const(i64, taps))
        with f.loop(0, runs) as c:
            start = source.at((block.i + c.i) * a.channel_step)
            for line in range(0, taps * tile.rows, memory.ALIGN_BYTES // _ITEM_BYTES):
                start.at(a.channel_step * _AHEAD).prefetch(line)
            f.call(pack, start, a.row_step, 1, rows, depth, panel.at(c.i * (taps * tile.rows)))
        with f.loop(0, count) as c:
            for lane in range(0, tile.rows, tile.lanes):
                packed = panel.at(c.i * (taps * tile.rows) + lane)
                grid = {
                    place: packed.load((a.first_tap + a.tap_step * t) * tile.rows, tile.lanes)
                    for t, place in enumerate(places)
                }
                here = p.to.at((block.i + c.i) * tile.rows + lane)
                for k, value in enumerate(_transformed(form, "filter", grid)):
                    here.store(value, a.filter_step * k)
    return f


def _write_patches(module: Module, form: Form, tile: Tile, fields: dict[str, Type], table: Function) -> Function:
    """Adds ``patches(fields, thread, span, v)``: v[f][c][tile] of a span of one group; ``span`` counts both."""
    gather = pixel_panels.write_pack(module, f32, tile.lanes)
    transform = _write_transform(module, form, tile)
    f = module.function("patches", fields=ptr(i64), thread=i64, span=i64, v=ptr(f32))
    p, a, run = f.args, read_fields(f, fields, fields), tile.columns * form.x.outputs
    own, group = a.scratch.at(p.thread * a.own), p.span % a.groups
    panel, fills, merges = own.cast(f32), own.at(a.fills_at).cast(i64), own.at(a.merges_at).cast(i64)
    span = _span(a, p.span // a.groups, form, tile)
    more = f.call(
        table, a.patches, fills, merges, a.x_image, span.begin, span.limit, span.vectors, run // tile.lanes, 0
    )
    with f.loop(0, a.channels, GATHERED) as c:
        channels = minimum(a.channels - c.i, GATHERED)
        x = a.x.at((group * a.channels + c.i) * a.x_plane)
        f.call(
            gather, fills, span.vectors * form.reads, merges, more, x, 1, panel, channels, a.x_plane, form.reads * run
        )
        f.call(transform, panel, p.v.at(c.i * tile.columns), channels, span.count, a.v_step)
    return f


def _write_transform(module: Module, form: Form, tile: Tile) -> Function:
    """Adds ``transform(panel, v, channels, count, v_step)``: v[f][c][tile] from panel[c][read][pixel]."""
    data, across = ptr(f32), form.x.outputs
    f = module.function("transform", panel=data, v=data, channels=i64, count=i64, v_step=i64)
    a, run = f.args, tile.columns * across
    with f.loop(0, a.channels) as c, f.loop(0, a.count, tile.lanes) as t:
        source = a.panel.at(c.i * (form.reads * run) + t.i * across)
        to = a.v.at(c.i * tile.columns + t.i)
        grid: dict[Place, Value] = {}
        for k, (z, y) in enumerate(product(range(form.z.samples), range(form.y.samples))):
            samples: list[Value] = []
            for read in range(form.x.reads):
                row = source.at((k * form.x.reads + read) * run)
                samples += split([row.load(p * tile.lanes, tile.lanes) for p in range(across)])
            grid |= {(z, y, x): samples[x] for x in range(form.x.samples)}
        for k, value in enumerate(_transformed(form, "patch", grid)):
            to.store(value, a.v_step * k)
    return f


def _write_multiply(module: Module, form: Form, tile: Tile, fields: dict[str, Type]) -> Function:
    """Adds ``multiply(fields, filters, v, m, rows, count)``: m[f][row][tile] of a block of rows, a count of tiles."""
    products = [
        write_tile(module, f32, Tile(tile.rows, width, tile.lanes), tile.columns, f"tile{width}")
        for width in range(1, tile.vectors + 1)
    ]
    data = ptr(f32)
    f = module.function("multiply", fields=ptr(i64), filters=data, v=data, m=data, rows=i64, count=i64)
    p, a = f.args, read_fields(f, fields, ["none", "channels", "block", "filter_step", "v_step", "m_step"])
    width = (p.count + (tile.lanes - 1)) // tile.lanes
    for vectors, function in enumerate(products, 1):
        with f.when(width.eq(vectors)), f.loop(0, form.products) as k, f.loop(0, p.rows, tile.rows) as r:
            filters = p.filters.at(k.i * a.filter_step + r.i // tile.rows * a.block)
            to = p.m.at(k.i * a.m_step + r.i * tile.columns)
            f.call(function, a.channels, filters, p.v.at(k.i * a.v_step), a.none, 0, to, tile.columns, tile.rows, to)
    return f


def _write_results(module: Module, form: Form, tile: Tile, fields: dict[str, Type]) -> Function:
    """Adds ``results(fields, own, first, rows, count, vectors, more)``: y from the m of a block of rows.

    ``first`` is the first row over all groups; ``more`` entries of the second list of stores.
    """
    invert = _write_invert(module, form, tile)
    spread = _write_spread(module, tile)
    f = module.function("results", fields=ptr(i64), own=ptr(i8), first=i64, rows=i64, count=i64, vectors=i64, more=i64)
    p = f.args
    a = read_fields(f, fields, ["bias", "y", "y_plane", "m_step", "m_at", "line_at", "stores_at", "more_stores_at"])
    m, line = p.own.at(a.m_at).cast(f32), p.own.at(a.line_at).cast(f32)
    stores, more_stores = p.own.at(a.stores_at).cast(i64), p.own.at(a.more_stores_at).cast(i64)
    with_bias = f.emit(i64, f"ptrtoint ptr {a.bias.text} to i64").ne(0)
    taps = form.z.outputs * form.y.outputs
    with f.loop(0, p.rows) as row:
        channel = p.first + row.i
        bias = a.bias.load(channel, 1, with_bias, constant(f, f32, 0))
        f.call(invert, m.at(row.i * tile.columns), a.m_step, p.count, bias, line)
        y = a.y.at(channel * a.y_plane)
        f.call(spread, stores, p.vectors * taps, line, y)
        f.call(spread, more_stores, p.more, line, y)
    return f


def _write_invert(module: Module, form: Form, tile: Tile) -> Function:
    """Adds ``invert(m, m_step, count, bias, line)``: line[row of a tile][pixel] of one channel."""
    f = module.function("invert", m=ptr(f32), m_step=i64, count=i64, bias=f32, line=ptr(f32))
    a, across = f.args, form.x.outputs
    bias = splat(a.bias, tile.lanes)
    with f.loop(0, a.count, tile.lanes) as t:
        source, to = a.m.at(t.i), a.line.at(t.i * across)
        places = _grid(tuple(axis.samples for axis in form.axes))
        grid = {place: source.load(a.m_step * k, tile.lanes) for k, place in enumerate(places)}
        values = _transformed(form, "inverse", grid)
        for k in range(form.z.outputs * form.y.outputs):
            pixels = interleave([value + bias for value in values[k * across : (k + 1) * across]])
            for p, vector in enumerate(pixels):
                to.store(vector, k * tile.columns * across + p * tile.lanes)
    return f


def _write_spread(module: Module, tile: Tile) -> Function:
    """Adds ``spread(entries, count, line, y)``: a packer's entries read backwards, from a panel to where it was."""
    f = module.function("spread", entries=ptr(i64), count=i64, line=ptr(f32), y=ptr(f32))
    a, lanes = f.args, tile.lanes
    with f.loop(0, a.count) as t:
        entry = a.entries.at(t.i * (ENTRY_BYTES // 8))
        packed = entry.load(2)
        value = a.line.load(packed & 0xFFFFFFFF, lanes)
        for offset, lane_set in [(entry.load(), packed >> 32), (entry.load(1), entry.load(3))]:
            with f.when(lane_set.ne(0)):
                a.y.at(offset).store(value, 0, _mask(lane_set, lanes))
    return f


def _mask(bits: Value, lanes: int) -> Value:
    if lanes == 1:
        return (bits & 1).ne(0)
    return bitcast(convert(bits, Type(f"i{lanes}", "int", lanes)), vec(i1, lanes))
