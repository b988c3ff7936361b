"""Native code of ``folded``: the weights of all regions, and the loops over spans of their positions.

::

    for each image, group, part of the rows:              tasks: no two write the same
        for each span of a region's positions:
            for each block of channels:
                gather the span, sums of its ends         in the second level cache
                for each tile of rows, for each tile of positions: sums += weights * panel
            for each row: result += sums, wherever they belong; those of the first region go there alone

Half precision is widened as it is gathered, and results are rounded once, from sums in the workspace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lucid.kernels.algorithms import pixel_gather, pixel_panels
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.tile import Tile, write_tile
from lucid.kernels.ir import (
    Function,
    Module,
    Type,
    convert,
    i32,
    i64,
    lanes_below,
    minimum,
    ptr,
    select,
    splat,
)
from lucid.kernels.isa import ISA

ARRAYS = ("x", "w", "bias", "y", "packed", "own")
NUMBERS = (
    "groups", "rows", "channels", "blocks", "part_blocks", "parts", "plane", "row_step", "channel_step", "group_step",
    "spans", "own_elements", "panel_at", "results_at", "region_elements", "together",
)  # fmt: skip
#: Numbers of a span: its tables and how long they are, its region, its width, channels of a block.
REGION = ("fills", "fill_count", "adds", "add_count", "places", "runs", "run_count", "region", "columns", "block")
_TABLES = {"fills", "adds", "runs"}
_RUN = 3
_AHEAD = 8  # channels whose weights are asked for before they are read


@dataclass(frozen=True, slots=True)
class Form:
    """What the code depends on: the tile, and the taps of each region's weights with their signs."""

    tile: Tile
    taps: tuple[tuple[tuple[int, int], ...], ...]


def in_lines(elements: int) -> int:
    """Elements in whole lines of the cache."""
    return -(-elements // 16) * 16


def fields(grain: Grain) -> dict[str, Type]:
    """Of both entry points."""
    arrays = dict.fromkeys(ARRAYS, ptr(grain.stored)) | dict.fromkeys(("packed", "own"), ptr(grain.sums))
    return {**arrays, "records": ptr(i64), **dict.fromkeys(NUMBERS, i64)}


def write(isa: ISA, stored: Type, form: Form) -> Module:
    """The module with the entry points ``weights`` and ``run``."""
    m, grain = Module("folded", isa), Grain(stored)
    pack = pixel_gather.write_pack(m, grain, form.tile.lanes, adds=True)
    tiles = [
        write_tile(m, Grain(grain.sums), Tile(form.tile.rows, v, form.tile.lanes), None, f"tile_{v}")
        for v in range(1, form.tile.vectors + 1)
    ]
    spread = _write_spread(m, grain.sums, form.tile.lanes)
    _write_weights(m, grain, form)
    _write_run(m, grain, form, pack, _write_multiply(m, grain.sums, form, tiles), spread)
    return m


def _write_weights(m: Module, grain: Grain, form: Form) -> None:
    """Adds the entry ``weights``: a task makes those of a tile of rows, [region][channel][row].

    Of ``together`` channels, which lie side by side, or one; those to come are asked for where they do not.
    """
    f = m.entry("weights", **fields(grain))
    a, rows = f.args, form.tile.rows
    with f.loop(a.begin, a.end) as task:
        group, first = task.i // a.blocks, task.i % a.blocks * rows
        to, last = a.packed.at(task.i * len(form.taps) * a.region_elements), a.rows - 1 - first
        w = a.w.at(group * a.group_step + first * a.row_step)
        with (
            f.loop(0, a.channels, a.together) as block,
            f.loop(0, rows) as row,
            f.loop(block.i, minimum(block.i + a.together, a.channels)) as c,
        ):
            source = w.at(minimum(row.i, last) * a.row_step + c.i * a.channel_step)
            source.prefetch(a.channel_step * _AHEAD)
            place = to.at(c.i * rows + row.i)
            taps = sorted({tap for region in form.taps for tap, _ in region})
            read = {tap: convert(source.load(tap), grain.sums) for tap in taps}
            for number, ((first_tap, _), *others) in enumerate(form.taps):
                value = read[first_tap]
                for tap, sign in others:
                    value = value + read[tap] if sign > 0 else value - read[tap]
                place.store(value, a.region_elements * number)


def _write_multiply(m: Module, element: Type, form: Form, tiles: Sequence[Function]) -> Function:
    """Adds ``multiply``: so many rows by a panel of ``columns``, for channels that come ``again`` or for the first."""
    data, tile = ptr(element), form.tile
    f = m.function(
        "multiply", steps=i64, w=data, block=i64, panel=data, columns=i64, again=i64, sums=data, heights=i64,
        zeros=data, spare=data, places=ptr(i32),
    )  # fmt: skip
    a = f.args
    with f.loop(0, a.heights) as o:
        w, sums = a.w.at(o.i * a.block), a.sums.at(o.i * tile.rows * a.columns)
        whole, rest = a.columns // tile.columns, a.columns % tile.columns
        ahead, done = a.block, whole * tile.columns

        def shared(function: Function, at: Any, count: Any) -> None:
            f.call(
                function, a.steps, w, a.panel.at(at), a.zeros, a.again, sums.at(at), a.columns, tile.rows, a.spare,
                a.places, ahead, count, tile.columns, 0, 0,
            )  # fmt: skip

        with f.when(whole.ne(0)):
            shared(tiles[-1], 0, whole)
        for vectors, function in enumerate(tiles[:-1], 1):
            with f.when(rest.eq(vectors * tile.lanes)):
                shared(function, done, 1)
    return f


def _write_spread(m: Module, element: Type, lanes: int) -> Function:
    """Adds ``spread``: to += sums, run by run, or to = bias + sums of the first region, which has all places."""
    data = ptr(element)
    f = m.function("spread", sums=data, to=data, runs=ptr(i64), count=i64, region=i64, bias=element)
    a = f.args
    start, first = splat(a.bias, lanes), splat(a.region.eq(0), lanes)
    with f.loop(0, a.count) as k:
        run = a.runs.at(k.i * _RUN)
        source, to, length = a.sums.at(run.load(0)), a.to.at(run.load(1)), run.load(2)
        with f.loop(0, length, lanes) as v:
            mask = lanes_below(f, length - v.i, lanes)
            old = to.load(v.i, lanes, mask & ~first)
            to.store(select(first, start, old) + source.load(v.i, lanes, mask), v.i, mask)
    return f


def _write_run(
    m: Module, grain: Grain, form: Form, pack: Function, multiply: Function, spread: Function
) -> None:  # fmt: skip
    """Adds the entry ``run``: a task is an image, a group and a part of the rows."""
    f = m.entry("run", **fields(grain))
    a, tile = f.args, form.tile
    zeros = a.own.at(a.thread * a.own_elements)
    spare = zeros.at(in_lines(tile.rows))
    sums, panel = spare.at(in_lines(tile.columns)), zeros.at(a.panel_at)
    for number in range(tile.rows):
        zeros.store(0.0, number)
    has_bias = f.emit(i64, f"ptrtoint ptr {a.bias.text} to i64").ne(0)
    block = a.region_elements * len(form.taps)
    with f.loop(a.begin, a.end) as task:
        part, rest = task.i % a.parts, task.i // a.parts
        group, image = rest % a.groups, rest // a.groups
        low = part * a.part_blocks
        heights, first_row = minimum(a.part_blocks, a.blocks - low), low * tile.rows
        x = a.x.at((image * a.groups + group) * a.channels * a.plane)
        w = a.packed.at((group * a.blocks + low) * block)
        y = a.y.at(((image * a.groups + group) * a.rows + first_row) * a.plane)
        rows = minimum(heights * tile.rows, a.rows - first_row)
        results = y if grain.stored == grain.sums else zeros.at(a.results_at)
        with f.loop(0, a.spans) as s:
            r: dict[str, Any] = pixel_panels.read_numbers(a.records.at(s.i * len(REGION)), REGION, _TABLES, REGION)
            places = a.records.at(s.i * len(REGION) + REGION.index("places")).cast(ptr(i32)).load()
            own = w.at(r["region"] * a.region_elements)
            with f.loop(0, a.channels, r["block"]) as c:
                steps = minimum(r["block"], a.channels - c.i)
                f.call(
                    pack, r["fills"], r["fill_count"], r["adds"], r["add_count"], x.at(c.i * a.plane), 1, panel, steps,
                    a.plane, r["columns"],
                )  # fmt: skip
                f.call(
                    multiply, steps, own.at(c.i * tile.rows), block, panel, r["columns"], c.i, sums, heights, zeros,
                    spare, places,
                )  # fmt: skip
            with f.loop(0, rows) as row:
                channel = group * a.rows + first_row + row.i
                bias = convert(a.bias.load(channel, 1, has_bias), grain.sums)
                f.call(
                    spread, sums.at(row.i * r["columns"]), results.at(row.i * a.plane), r["runs"], r["run_count"],
                    r["region"], bias,
                )  # fmt: skip
        if grain.stored != grain.sums:
            with f.loop(0, rows * a.plane, tile.lanes) as v:
                mask = lanes_below(f, rows * a.plane - v.i, tile.lanes)
                y.store(convert(results.load(v.i, tile.lanes, mask), grain.stored), v.i, mask)
