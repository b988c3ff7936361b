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

    for each span of tiles, group, part of the channels: v      tasks of the first step
    for each group, tile of rows: filters, then                 tasks of the second
        for each span: m, y

Few threads may each make all that the first step would, at the beginning of their tasks: to wait for a line that one
has written and another reads takes as long as to make it, or several times as long, most where cores have last caches
of their own.

In inference they are made in advance and read as a stream, once in a call, by the task that needs them.

A task computes whole sums in a fixed order, so the bits do not depend on how many threads there are. Tiles are numbered
over the whole batch: only the last span of all has lanes to spare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lucid.kernels import jit
from lucid.kernels.algorithms import panels
from lucid.kernels.algorithms.frames import read_fields
from lucid.kernels.algorithms.implicit_gemm import alone
from lucid.kernels.algorithms.pixel_gather import ENTRY_BYTES
from lucid.kernels.algorithms.winograd_layout import (
    CODE,
    NUMBERS,
    PACKED,
    POINTERS,
    STEPS,
    TABLES,
    Blocking,
    Form,
    Record,
    Shape,
    advance_bytes,
    numbers_of,
    reading,
    residues,
    run_places,
    shared_bytes,
    with_own_copy,
)
from lucid.kernels.algorithms.winograd_parts import parts, tile_addresses
from lucid.kernels.epilogue import sources
from lucid.kernels.ir import (
    ENTRY,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    constant,
    convert,
    f32,
    i8,
    i64,
    minimum,
    ptr,
    select,
    vec,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import A_RUN_EACH, KEPT, NOTHING, WORKSPACE, Launch, address
from lucid.kernels.plan import Epilogue
from lucid.kernels.runtime import memory, threads

#: Channels whose filters are asked for in advance: they may lie a page apart.
_AHEAD = 8
#: Elements of filters that are asked for in advance where they come from memory: two pages.
_STREAM_AHEAD = 2048
#: Threads of which each may make all patches, or all filters; more share them.
_MAKING_THREADS = 3


def bind(
    shape: Shape, form: Form, cut: Blocking, isa: ISA, stored: Type, bias: bool, epilogue: Epilogue, worth: int,
    apart: bool = False,
) -> Launch:  # fmt: skip
    """A problem bound to its kernels: call it with (x, w, bias or None, y), and what an epilogue takes.

    Its work is ``worth`` so many threads. Few of them may work ``apart``: each makes all patches itself, where rows
    come first, or all filters.
    """
    tile = cut.tile
    slack = panels.slack(isa, f32, tile.rows)
    numbers = numbers_of(shape, form, cut, slack)
    reads = [reading(stride, tile.lanes) for stride in (shape.step[2], shape.spread[2])]
    patches, results = map(Record, shape.phases(form), reads)
    none = np.zeros(tile.rows, np.float32)
    weights, panels_at, lines_at = (np.array(places, np.int64) for places in residues(shape, form, tile))
    runs_at = np.array(run_places(shape, numbers), np.int64)
    starts = np.add.outer(np.arange(PACKED) * numbers["taps"], weights).ravel() * tile.rows
    fixed = {
        "none": address(none), "patches": patches.address, "results": results.address, "starts": address(starts),
        "run_places": address(runs_at), "panels": address(panels_at), "lines": address(lines_at),
        **parts(shape, form, tile, epilogue, stored), **steps(stored),
    }  # fmt: skip
    by_rows, by_tiles = (shape.groups * numbers[n] for n in ("blocks", "spans"))

    def region(
        entries: list[tuple[str, int, int]], numbers: dict[str, int], kept: int, shared: int, ahead: int = 0,
        in_advance: Callable[[], Launch] | None = None,
    ) -> Launch:  # fmt: skip
        """Entry points with their tasks and chunks, the bytes of filters to keep and of what else threads share."""
        least = numbers["channels"] % numbers["chunk"] or numbers["chunk"]  # of the last chunk, which may be short
        code, tiles = loops(), np.array(tile_addresses(tile, least, ahead), np.int64)
        values, places = fixed | numbers | {"tiles": address(tiles)}, {"scratch": shared}
        return Launch(
            [(code.address(name), tasks, chunk) for name, tasks, chunk in entries],
            [places.get(name, 0) for name in POINTERS] + [values[name] for name in (*TABLES, *CODE, *STEPS, *NUMBERS)],
            (
                0, 1, 2 if bias else NOTHING, 3, KEPT if kept else NOTHING, WORKSPACE if shared else NOTHING,
                WORKSPACE, *sources(epilogue, NOTHING),
            ),
            kept_bytes=kept, shared_bytes=shared, own_bytes=numbers["own"],
            most_threads=max(tasks for _, tasks, _ in entries), worth=worth,
            keep=(none, patches, results, tiles, starts, runs_at, panels_at, lines_at), in_advance=in_advance,
        )  # fmt: skip

    filters, shared = ("transform_filters", by_rows, 1), shared_bytes(form, cut, numbers)
    apart = apart and threads.get_num_threads() <= _MAKING_THREADS
    if not cut.rows_first:
        tasks = numbers["whole"] + numbers["in_parts"] * numbers["row_parts"]

        def together() -> Launch:
            return region([filters, ("multiply_tiles", tasks, 1)], numbers, shared, 0)

        own = with_own_copy(form, cut, numbers)
        return region([("multiply_tiles", tasks, A_RUN_EACH)], own, 0, 0, in_advance=together) if apart else together()
    whole = numbers_of(shape, form, replace(cut, chunk=shape.channels), slack)
    gathered, chunk = [("transform_patches", by_tiles * numbers["source_parts"], 1)], 1
    if apart:
        numbers, whole = (with_own_copy(form, cut, n) for n in (numbers, whole))
        gathered, chunk, shared = [], A_RUN_EACH, 0

    def in_advance() -> Launch:
        entries = [filters, *gathered, ("multiply_kept", by_rows, chunk)]
        return region(entries, whole, advance_bytes(whole), shared, _STREAM_AHEAD)

    return region([*gathered, ("multiply_rows", by_rows, chunk)], numbers, 0, shared, in_advance=in_advance)


# -- the kernels ------------------------------------------------------------------------------------------------------


def _fields(stored: Type) -> dict[str, Type]:
    return {
        **dict.fromkeys(POINTERS, ptr(stored)), **dict.fromkeys(("kept", "shared"), ptr(f32)), "scratch": ptr(i8),
        **dict.fromkeys(TABLES, ptr(i64)), "none": ptr(f32), **dict.fromkeys((*CODE, *STEPS), ptr(i8)),
        **dict.fromkeys(NUMBERS, i64),
    }  # fmt: skip


def loops() -> jit.Code:
    """The entry points, for any form, tile and size."""

    def written(isa: ISA) -> Module:
        module, lanes = Module("winograd", isa), isa.lanes(f32)
        f, a = _entry(module, "transform_filters", "kept filters filters_size sources")
        with f.loop(f.args.begin, f.args.end) as task:
            to = a.kept.at(task.i * a.filters_size)
            f.call(a.filters, f.args.fields, f.args.thread, task.i, 0, a.sources, to)
        f, a = _entry(module, "transform_patches", "shared span_patches v_size sources source_parts part_sources")
        with f.loop(f.args.begin, f.args.end) as task:
            span, first = task.i // a.source_parts, task.i % a.source_parts * a.part_sources
            last = minimum(first + a.part_sources, a.sources)
            f.call(a.span_patches, f.args.fields, f.args.thread, span, a.shared.at(span * a.v_size), first, last)
        _write_multiply_tiles(module, lanes)
        for entry, in_advance in (("multiply_rows", False), ("multiply_kept", True)):
            _write_multiply_rows(module, entry, in_advance, lanes)
        return module

    return jit.kernel(("winograd loops",), written)


def steps(stored: Type) -> dict[str, int]:
    """Addresses of what they call, in a module of its own: all together take longer to compile than a kernel should."""

    def write(module: Module, isa: ISA) -> None:
        lanes = isa.lanes(f32)
        _write_filters(module, lanes, stored)
        _write_patches(module, lanes, stored)
        _write_multiply(module, lanes, stored)
        _write_results(module, stored)

    code = alone(("winograd steps", stored), write)
    return {name: code.address(name) for name in STEPS}


def _entry(module: Module, name: str, names: str) -> tuple[Function, Any]:
    """An entry point, and the fields that it needs."""
    f = module.function(name, export=True, **ENTRY)
    return f, read_fields(f, _fields(f32), names.split())


#: What the functions below read: of a thread's workspace, of a span, of the table of its stores.
_OWN, _SPAN = "scratch own", "tiles_count columns"
_STORES = "across table results y_image stores_at more_stores_at"


def _write_multiply_tiles(module: Module, lanes: int) -> None:
    """Adds the entry ``multiply_tiles``: a task is a span of tiles in one group, for all of the rows or a part.

    First parts come first, then spans that are whole, then other parts: of two, each thread begins with its own half of
    the tasks, which has the same work and, where all spans are in parts, reads the same half of the filters.

    Where filters are its own they are made before the first task.
    """
    f, a = _entry(
        module, "multiply_tiles", f"{_OWN} {_SPAN} {_STORES} span_patches multiply span_results kept in_parts "
        "whole groups sources v_at m_at part_rows rows row_block tile_rows blocks block channels stores asks "
        "asks_samples samples_on x_plane fills fills_at advance filters filters_size own_copy copy_at",
    )  # fmt: skip
    p = f.args
    own = a.scratch.at(p.thread * a.own)
    v, m, makes = own.at(a.v_at).cast(f32), own.at(a.m_at).cast(f32), a.own_copy.ne(0)
    all_filters = select(makes, own.at(a.copy_at).cast(f32), a.kept)
    assert isinstance(all_filters, Pointer)
    with f.when(makes), f.loop(0, a.groups * a.blocks) as block:
        f.call(a.filters, p.fields, p.thread, block.i, 0, a.sources, all_filters.at(block.i * a.filters_size))
    with f.loop(p.begin, p.end) as task:
        place = task.i - a.in_parts
        later = place - a.whole
        entire = (place >= 0) & (later < 0)
        in_part = select(later < 0, task.i, task.i - a.whole)
        part, number = in_part // a.in_parts, select(entire, place, a.whole + in_part % a.in_parts)
        group = number % a.groups
        f.call(a.span_patches, p.fields, p.thread, number, v, 0, a.sources)
        span = _span(a, number // a.groups, a.across, lanes)
        more = _table_of_stores(f, a, own, span, lanes)
        stores, asked = own.at(a.stores_at).cast(i64), span.vectors * a.stores * a.asks
        samples, fills = group * a.sources * a.x_plane + a.samples_on, own.at(a.fills_at).cast(i64)
        met = (span.count * a.advance + (lanes - 1)) // lanes * a.fills * a.asks_samples
        first = select(entire, 0, part * a.part_rows)
        last = select(entire, a.rows, minimum(first + a.part_rows, a.rows))
        with f.loop(first, last, a.row_block) as o:
            rows = minimum(last - o.i, a.row_block)
            filters = all_filters.at((group * a.blocks + o.i // a.tile_rows) * a.block)
            row = group * a.rows + o.i
            f.call(
                a.multiply, p.fields, filters, v, m, rows, span.count, a.channels, 0, row, stores, asked, samples,
                fills, select(o.i.eq(first), met, 0),
            )  # fmt: skip
            f.call(a.span_results, p.fields, own, m, row, rows, span.count, span.vectors, more)


def _write_multiply_rows(module: Module, entry: str, in_advance: bool, lanes: int) -> None:
    """Adds an entry of which a task is a tile of rows in one group, for all spans, with filters its own or ready.

    Where patches are its own they are gathered before the first tile of rows of a group.
    """
    f, a = _entry(
        module, entry, f"{_OWN} {_SPAN} {_STORES} filters multiply span_results kept filters_size shared groups v_at "
        "m_at rows tile_rows blocks spans v_span v_group own_copy copy_at span_patches sources channels steps chunk "
        "m_span",
    )  # fmt: skip
    p = f.args
    own = a.scratch.at(p.thread * a.own)
    m, gathers = own.at(a.m_at).cast(f32), a.own_copy.ne(0)
    patches = select(gathers, own.at(a.copy_at).cast(f32), a.shared)
    assert isinstance(patches, Pointer)
    with f.loop(p.begin, p.end) as task:
        group, first = task.i // a.blocks, task.i % a.blocks * a.tile_rows
        with f.when(gathers & (task.i.eq(p.begin) | first.eq(0))), f.loop(0, a.spans) as number:
            v = patches.at(number.i * a.v_span)
            f.call(a.span_patches, p.fields, p.thread, number.i * a.groups + group, v, 0, a.sources)
        rows = minimum(a.rows - first, a.tile_rows)
        filters = a.kept.at(task.i * a.filters_size) if in_advance else own.at(a.v_at).cast(f32)
        with f.loop(0, a.channels, a.chunk) as c:
            channels = minimum(a.channels - c.i, a.chunk)
            if not in_advance:
                f.call(a.filters, p.fields, p.thread, task.i, c.i // a.steps, channels // a.steps, filters)
            with f.loop(0, a.spans) as number:
                span, here = _span(a, number.i, a.across, lanes), m.at(number.i * a.m_span)
                v = patches.at(number.i * a.v_span + group * a.v_group + c.i * a.columns)
                stores = own.at(a.stores_at).cast(i64)
                f.call(
                    a.multiply, p.fields, filters, v, here, rows, span.count, channels, c.i, 0, stores, 0, 0,
                    stores, 0,
                )  # fmt: skip
                with f.when((c.i + channels).eq(a.channels)):
                    more = _table_of_stores(f, a, own, span, lanes)
                    channel = group * a.rows + first
                    f.call(a.span_results, p.fields, own, here, channel, rows, span.count, span.vectors, more)


@dataclass(frozen=True, slots=True)
class _Span:
    """A span's tiles, and its pixels as positions: a multiple of whole tiles, in vectors."""

    count: Value
    begin: Value
    limit: Value
    vectors: Value


def _span(a: Any, span: Value, across: Value, lanes: int) -> _Span:
    """Of tiles that are so many pixels wide."""
    count = minimum(a.tiles_count - span * a.columns, a.columns)
    begin, length = span * (a.columns * across), count * across
    return _Span(count, begin, begin + length, (length + (lanes - 1)) // lanes)


def _table_of_stores(f: Function, a: Any, own: Pointer, span: _Span, lanes: int) -> Value:
    """Calls ``table`` for the results of a span; the number of entries in the second list."""
    stores, more_stores = own.at(a.stores_at).cast(i64), own.at(a.more_stores_at).cast(i64)
    more: Value = f.call(
        a.table, a.results, stores, more_stores, a.y_image, span.begin, span.limit, span.vectors,
        a.columns * a.across // lanes, 0, returns=i64,
    )  # fmt: skip
    return more


def _write_filters(module: Module, lanes: int, stored: Type) -> None:
    """Adds ``filters(fields, thread, block, channel, channels, to)``: a tile of rows of one group, from a channel on.

    ``block`` counts both groups and tiles of rows.

    Lines of the next run of weights are asked for all at once or, where filters take several calls, some beside each.

    Weights are first turned so that rows are lanes. Whole vectors are stored, the last rows' first: what lies beyond
    the tile's rows is stored over, or lies between blocks.
    """
    f = module.function("filters", fields=ptr(i64), thread=i64, block=i64, channel=i64, channels=i64, to=ptr(f32))
    p = f.args
    a = read_fields(f, _fields(stored), [
        "w", "scratch", "own", "blocks", "rows", "sources", "steps", "spreads", "group_step", "row_step",
        "channel_step", "taps", "tap_runs", "run_taps", "run_places", "first_tap", "tap_z", "tap_y", "tap_x",
        "first_plane", "plane_step", "tile_rows", "pack_weights", "filter", "starts", "spare_at", "filter_step",
        "filter_y", "filter_z", "filter_plane", "filter_planes", "filters_a_call",
    ])  # fmt: skip
    group, first = p.block // a.blocks, p.block % a.blocks * a.tile_rows
    own = a.scratch.at(p.thread * a.own)
    panel, spare = own.cast(f32), own.at(a.spare_at).cast(f32)
    source = a.w.at(group * a.group_step + first // a.spreads * a.row_step + p.channel * a.channel_step + a.first_plane)
    size = a.taps * a.tile_rows
    rows, together = minimum(a.rows - first, a.tile_rows), a.channel_step.eq(a.taps) & a.tap_runs.eq(1)
    taps, in_line = [tap * a.tile_rows for tap in (a.tap_z, a.tap_y, a.tap_x)], memory.ALIGN_BYTES // stored.bytes
    with f.loop(0, a.filter_planes) as plane, f.loop(0, p.channels, PACKED) as block:
        count = minimum(p.channels - block.i, PACKED)
        runs, depth = select(together, f.const(i64, 1), count), select(together, count * a.taps, a.run_taps)
        next_run = source.at((block.i + count) * a.channel_step + plane.i * a.plane_step)
        asked, each = select(together, rows, 0), a.filters_a_call
        spread = each < PACKED * a.steps
        with f.loop(0, select(spread, 0, asked)) as row, f.loop(0, depth, in_line) as line:
            next_run.prefetch(row.i * a.row_step + line.i)
        with f.loop(0, runs) as c:
            start = source.at((block.i + c.i) * a.channel_step + plane.i * a.plane_step)
            with f.loop(0, select(together, 0, size), in_line) as line:
                start.at(a.channel_step * _AHEAD + line.i).prefetch()
            _pack_runs(f, a, start, rows, depth, panel.at(c.i * size), lanes)
        with f.loop(0, a.tile_rows, lanes) as back:
            lane = (a.tile_rows - 1) // lanes * lanes - back.i
            to = p.to.at(plane.i * a.filter_plane + block.i * a.steps * a.tile_rows + lane)
            parts = count * a.steps
            calls = (parts + (each - 1)) // each
            with f.loop(0, calls) as call:
                beside = select(spread & back.i.eq(0), asked, 0)
                with f.loop(call.i, beside, calls) as row, f.loop(0, depth, in_line) as line:
                    next_run.prefetch(row.i * a.row_step + line.i)
                t = call.i * each
                f.call(
                    a.filter, panel.at(a.first_tap * a.tile_rows + lane), a.starts.at(t), minimum(parts - t, each),
                    to.at(t * a.tile_rows), a.tile_rows, spare, *taps, a.filter_z, a.filter_y, a.filter_step,
                )  # fmt: skip


def _pack_runs(f: Function, a: Any, start: Pointer, rows: Value, depth: Value, to: Pointer, lanes: int) -> None:
    """The runs of a channel's weights, or one of several channels', with zeros from a run's end to the next's place."""
    with f.loop(0, a.tap_runs) as run:
        first, following = (a.run_places.load(run.i + k) * a.tile_rows for k in range(2))
        f.call(a.pack_weights, start.at(run.i * a.run_taps), a.row_step, 1, rows, depth, to.at(first))
        with f.loop(first + a.run_taps * a.tile_rows, following, lanes) as missing:
            to.store(constant(f, vec(f32, lanes), 0), missing.i)


def _write_patches(module: Module, lanes: int, stored: Type) -> None:
    """Adds ``span_patches(fields, thread, span, v, first, last)``: v[f][c][tile] of a span of one group.

    ``span`` counts both. Of the channels that are gathered, those from ``first`` on: each is as many of v as there are
    residues of the stride.
    """
    f = module.function("span_patches", fields=ptr(i64), thread=i64, span=i64, v=ptr(f32), first=i64, last=i64)
    p = f.args
    a = read_fields(f, _fields(stored), [
        *_OWN.split(), *_SPAN.split(), "advance", "x", "groups", "sources", "steps", "gathered", "fills_at",
        "merges_at", "spare_at", "table", "patches", "x_image", "x_plane", "pack", "reads", "fills", "deal", "v_step",
        "v_plane", "panels", "panel_z", "panel_y", "panel_x",
    ])  # fmt: skip
    own, group = a.scratch.at(p.thread * a.own), p.span % a.groups
    panel, spare = own.cast(f32), own.at(a.spare_at).cast(f32)
    fills, merges = own.at(a.fills_at).cast(i64), own.at(a.merges_at).cast(i64)
    span, run = _span(a, p.span // a.groups, a.advance, lanes), a.columns * a.advance
    more = f.call(
        a.table, a.patches, fills, merges, a.x_image, span.begin, span.limit, span.vectors, run // lanes, 0, returns=i64
    )
    with f.loop(p.first, p.last, a.gathered) as c:
        channels, channel_step = minimum(p.last - c.i, a.gathered), a.steps * a.columns
        x, v = a.x.at((group * a.sources + c.i) * a.x_plane), p.v.at(c.i * channel_step)
        f.call(a.pack, fills, span.vectors * a.fills, merges, more, x, 1, panel, channels, a.x_plane, a.reads * run)
        with f.loop(0, a.steps) as residue:
            f.call(
                a.deal, panel.at(a.panels.load(residue.i)), a.reads * run, a.panel_z, a.panel_y, a.panel_x,
                v.at(residue.i * a.columns), channel_step, a.v_step, a.v_plane, channels, span.count, spare,
            )  # fmt: skip


def _write_multiply(module: Module, lanes: int, stored: Type) -> None:
    """Adds ``multiply(fields, filters, v, m, rows, count, channels, again, row, stores, asked)``: m[f][row][tile].

    Of a block of rows, a count of tiles; sums over so many channels, added to those in m if ``again`` is not 0. Beside
    each product's sums a part of the lines is asked for that the block's results, from ``row`` over all groups on, go
    to by the first ``asked`` of the ``stores``: they come from far, and nothing else hides that. So do the next span's
    samples, which lie in every channel from ``samples`` on as the first ``met`` of the ``fills`` say of this one's.
    """
    data = ptr(f32)
    f = module.function(
        "multiply", fields=ptr(i64), filters=data, v=data, m=data, rows=i64, count=i64, channels=i64, again=i64,
        row=i64, stores=ptr(i64), asked=i64, samples=i64, fills=ptr(i64), met=i64,
    )  # fmt: skip
    p = f.args
    a = read_fields(f, _fields(stored), [
        "none", "tiles", "block", "filter_step", "v_step", "v_result", "m_step", "points", "filter_planes",
        "result_planes", "tile_rows", "columns", "y", "y_plane", "spreads", "store_run", "x", "sources", "x_plane",
    ])  # fmt: skip
    tile = a.tiles.at((p.count + (lanes - 1)) // lanes - 1).cast(ptr(i8)).load()
    blocks, size = (p.rows + (a.tile_rows - 1)) // a.tile_rows, a.tile_rows * a.columns
    depth, slots, results = p.channels * a.filter_planes, ENTRY_BYTES // 8, p.rows // a.spreads
    y = a.y.at(p.row // a.spreads * a.y_plane)
    with f.loop(0, a.points) as k, f.loop(0, a.result_planes) as z, f.loop(0, blocks) as r:
        with f.when(z.i.eq(0) & p.asked.ne(0)):
            entries, channels = _share(p.asked, k.i, a.points), _share(results, r.i, blocks)
            with f.loop(*entries) as entry, f.loop(*channels) as channel, f.loop(0, a.store_run, lanes) as vector:
                y.prefetch(channel.i * a.y_plane + p.stores.load(entry.i * slots) + vector.i, locality=2)
        with f.when(z.i.eq(0) & p.met.ne(0)):
            entries, channels = _share(p.met, k.i, a.points), _share(a.sources, r.i, blocks)
            with f.loop(*entries) as entry, f.loop(*channels) as channel:
                a.x.prefetch(p.samples + channel.i * a.x_plane + p.fills.load(entry.i * slots), locality=2)
        filters, v = p.filters.at(k.i * a.filter_step + r.i * a.block), p.v.at(k.i * a.v_step + z.i * a.v_result)
        to = p.m.at((z.i * a.points + k.i) * a.m_step + r.i * size)
        f.call(tile, depth, filters, v, a.none, p.again, to, a.columns, a.tile_rows, to)


def _share(count: Value, number: Value, parts: Value) -> tuple[Value, Value]:
    """The ends of one of so many parts of a count."""
    return count * number // parts, count * (number + 1) // parts


def _write_results(module: Module, stored: Type) -> None:
    """Adds ``span_results(fields, own, m, first, rows, count, vectors, more)``: y from the m of a block of rows.

    ``first`` is the first row over all groups; ``more`` entries of the second list of stores.
    """
    f = module.function(
        "span_results", fields=ptr(i64), own=ptr(i8), m=ptr(f32), first=i64, rows=i64, count=i64, vectors=i64, more=i64
    )
    p = f.args
    a = read_fields(f, _fields(stored), [
        "bias", "y", "scale", "shift", "residual", "y_plane", "m_step", "line_at", "spare_at", "stores_at",
        "more_stores_at", "columns", "collect", "spread", "stores", "spreads", "lines", "line_z", "line_y",
    ])  # fmt: skip
    line, spare = (p.own.at(at).cast(f32) for at in (a.line_at, a.spare_at))
    stores, more_stores = p.own.at(a.stores_at).cast(i64), p.own.at(a.more_stores_at).cast(i64)
    given = [
        (pointer, f.emit(i64, f"ptrtoint ptr {pointer.text} to i64").ne(0)) for pointer in (a.bias, a.scale, a.shift)
    ]
    with f.loop(0, p.rows, a.spreads) as row:
        channel = (p.first + row.i) // a.spreads
        numbers = [convert(pointer.load(channel, 1, there), f32) for pointer, there in given]
        with f.loop(0, a.spreads) as residue:
            f.call(
                a.collect, p.m.at((row.i + residue.i) * a.columns), a.m_step, p.count, *numbers,
                line.at(a.lines.load(residue.i)), a.line_z, a.line_y, spare,
            )  # fmt: skip
        to = (line, a.y.at(channel * a.y_plane), a.y_plane, *numbers[1:], a.residual.at(channel * a.y_plane))
        f.call(a.spread, stores, p.vectors * a.stores, *to)
        f.call(a.spread, more_stores, p.more, *to)
