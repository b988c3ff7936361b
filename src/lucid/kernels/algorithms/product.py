"""Native code of the matrix product C = A B: a grid of blocks, each packed into panels and done by the register tile.

::

    for task in (item, split, block of rows, block of columns):        # threads take tasks; no two write the same
        for k0 in k of this split, depth at a time:
            pack B[k0:, columns] into panels of nr columns              # in the second level cache
            pack A[rows, k0:] into panels of mr rows                    # likewise
            for panel of B: for panel of A:                             # the panel of B stays in the first level cache
                C[mr, nr] += A panel * B panel                          # the tile

A sum over k runs from first to last inside a split, and the splits are added in their order, so the bits depend on
``depth`` and the splits only, never on the grid or on who computes what.

Half precision is packed as a ``Grain``, and a task's sums are in its workspace until each tile is rounded into C.
Source: Goto & van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.panels import either, slack, write_packs
from lucid.kernels.algorithms.tile import Tile, write_tile
from lucid.kernels.ir import Function, Module, Pointer, Type, Value, convert, i64, lanes_below, minimum, ptr, select
from lucid.kernels.isa import ISA

#: Numbers that stay the same from call to call, in the order of their slots behind the field ``shape``.
SHAPE = (
    "m", "n", "k", "a_m", "a_k", "b_k", "b_n", "rows", "columns", "row_blocks", "column_blocks", "splits", "split",
    "depth", "work_items", "block",
)  # fmt: skip

#: What C starts from: nothing, what is there, a bias for every column.
FRESH, EARLIER, BIAS = range(3)

_TILE = {32: (12, 2), 16: (6, 2)}  # rows, vectors by registers: accumulators, two panel vectors, a broadcast


def tile_for(isa: ISA, element: Type) -> Tile:
    """The register tile."""
    rows, vectors = _TILE[isa.registers]
    return Tile(rows, vectors, isa.lanes(element))


def scratch_items(isa: ISA, element: Type) -> int:
    """Elements at the head of a thread's workspace: zeros, a row to throw away, a whole tile; in whole cache lines."""
    tile = tile_for(isa, element)
    return _lines(tile.rows, element) + _lines(tile.columns, element) + _lines(tile.rows * tile.columns, element)


def block_items(grain: Grain, rows: int, columns: int) -> int:
    """Elements of a block's sums, where they are not in C."""
    return _lines(rows * columns, grain.sums) if grain.stored != grain.sums else 0


def work_items(isa: ISA, grain: Grain, rows: int, columns: int, depth: int) -> int:
    """Elements of a thread's workspace: scratch, a block's sums, its packed columns, its packed rows."""
    element, steps = grain.sums, int(grain.count(depth))
    tile = tile_for(isa, element)
    packed = [
        _lines(-(-size // unit) * unit * steps + slack(isa, element, unit), element)
        for size, unit in ((columns, tile.columns), (rows, tile.rows))
    ]
    return scratch_items(isa, element) + block_items(grain, rows, columns) + sum(packed)


def _lines(items: int, element: Type) -> int:
    line = 64 // element.bytes
    return -(-items // line) * line


def write(isa: ISA, grain: Grain) -> Module:
    """The module with the entry point ``multiply``."""
    m, stored, sums = Module(f"matrix product of {grain.stored}", isa), grain.stored, grain.sums
    tile = tile_for(isa, sums)
    packs = write_packs(m, isa, grain, (tile.rows, tile.columns))
    move = write_move(m, isa, sums, sums)
    corner = _write_corner(m, grain, tile, move)
    read, put = move, None
    if stored != sums:
        read, put = write_move(m, isa, stored, sums), write_move(m, isa, sums, stored)
    _write_multiply(m, isa, grain, Parts(tile, packs[tile.rows], packs[tile.columns], read, put, corner))
    return m


def write_combine(isa: ISA, stored: Type) -> Module:
    """The module with the entry point ``combine``."""
    m = Module(f"sum of splits of {stored}", isa)
    _write_combine(m, isa, Grain(stored))
    return m


@dataclass(frozen=True, slots=True)
class Parts:
    """What the entry point calls."""

    tile: Tile
    pack_rows: Function
    pack_columns: Function
    read: Function  #: from C or a bias to sums
    put: Function | None  #: from sums to C, where they are not there already
    corner: Function


def write_move(m: Module, isa: ISA, given: Type, wanted: Type, ahead: int = 0) -> Function:
    """Copies rows x columns elements, rows ``step`` apart: edges of C to and from scratch, a bias into every row.

    Rows that come from far are asked for so many rows ``ahead``.
    """
    lanes = min(isa.lanes(given), isa.lanes(wanted))
    f = m.function(
        f"{given}_to_{wanted}" + "_ahead" * bool(ahead),
        source=ptr(given),
        source_step=i64,
        to=ptr(wanted),
        to_step=i64,
        rows=i64,
        columns=i64,
    )
    a = f.args
    with f.loop(0, a.rows) as r:
        source, to = a.source.at(r.i * a.source_step), a.to.at(r.i * a.to_step)
        with f.loop(0, a.columns, lanes) as j:
            if ahead:
                source.at(a.source_step * ahead).prefetch(j.i)
            mask = lanes_below(f, a.columns - j.i, lanes)
            to.store(convert(source.load(j.i, lanes, mask), wanted), j.i, mask)
    return f


def _write_corner(m: Module, grain: Grain, tile: Tile, move: Function) -> Function:
    """``corner(steps, w, panel, zeros, again, to, stride, rows, columns, spare)``: a tile of which only rows x columns
    exist. As few vectors as needed; a last vector that is not whole goes through scratch, behind ``spare``."""
    element, packed, data = grain.sums, ptr(grain.packed), ptr(grain.sums)
    widths = [Tile(tile.rows, v, tile.lanes) for v in (1, tile.vectors)]
    functions = [write_tile(m, grain, t, tile.columns, name=f"tile_{t.rows}x{t.vectors}") for t in widths]
    f = m.function(
        "corner", steps=i64, w=packed, panel=packed, zeros=data, again=i64, to=data, stride=i64, rows=i64,
        columns=i64, spare=data,
    )  # fmt: skip
    a = f.args

    scratch = a.spare.at(_lines(tile.columns, element))

    def run(function: Function, width: Tile) -> None:
        def direct() -> None:
            f.call(function, a.steps, a.w, a.panel, a.zeros, a.again, a.to, a.stride, a.rows, a.spare)

        def indirect() -> None:
            with f.when(a.again.ne(0)):
                f.call(move, a.to, a.stride, scratch, width.columns, a.rows, a.columns)
            f.call(function, a.steps, a.w, a.panel, a.zeros, a.again, scratch, width.columns, width.rows, a.spare)
            f.call(move, scratch, width.columns, a.to, a.stride, a.rows, a.columns)

        either(f, a.columns.eq(width.columns), direct, indirect)

    narrow, wide = widths[0], widths[-1]
    narrow_tile, wide_tile = functions[0], functions[-1]
    either(f, a.columns <= narrow.columns, lambda: run(narrow_tile, narrow), lambda: run(wide_tile, wide))
    return f


def _fields(grain: Grain) -> dict[str, Type]:
    """Of both entry points. ``offsets`` has two numbers an item: where its A and its B start. C is contiguous; ``sums``
    is C, or if there are splits, all of their C one after the other, item by item."""
    data, sums = ptr(grain.stored), ptr(grain.sums)
    return {
        "a": data, "b": data, "c": data, "bias": data, "sums": sums, "work": sums, "shape": ptr(i64),
        "offsets": ptr(i64), "start": i64,
    }  # fmt: skip


def _shape(pointer: Pointer) -> Any:
    return SimpleNamespace(**{name: pointer.load(slot) for slot, name in enumerate(SHAPE)})


def _task(f: Function, s: Any, number: Value) -> Any:
    """Which item, split, rows and columns a task is. Columns run fastest."""
    t = SimpleNamespace()
    column, rest = number % s.column_blocks, number // s.column_blocks
    row, rest = rest % s.row_blocks, rest // s.row_blocks
    t.split, t.item = rest % s.splits, rest // s.splits
    t.i, t.j, t.k = row * s.rows, column * s.columns, t.split * s.split
    t.rows, t.columns = minimum(s.rows, s.m - t.i), minimum(s.columns, s.n - t.j)
    t.steps = minimum(s.split, s.k - t.k)
    return t


def _write_multiply(m: Module, isa: ISA, grain: Grain, parts: Parts) -> None:
    f, element, put = m.entry("multiply", **_fields(grain)), grain.sums, parts.put
    s, tile = _shape(f.args.shape), parts.tile
    zeros = f.args.work.at(f.args.thread * s.work_items)
    spare = zeros.at(_lines(tile.rows, element))
    block = zeros.at(scratch_items(isa, element))
    packed_b = block.at(s.block).cast(grain.packed)
    packed_a = packed_b.at(_panel_room(isa, grain, s))
    for r in range(tile.rows):
        zeros.store(0.0, r)
    with f.loop(f.args.begin, f.args.end) as number:
        t = _task(f, s, number.i)
        at = f.args.offsets.at(t.item * 2)
        a = f.args.a.at(at.load(0) + t.i * s.a_m + t.k * s.a_k)
        b = f.args.b.at(at.load(1) + t.j * s.b_n + t.k * s.b_k)
        alone, step = s.splits.eq(1), s.n
        result = f.args.c.at((t.item * s.m + t.i) * s.n + t.j)
        c = f.args.sums.at(((t.item * s.splits + t.split) * s.m + t.i) * s.n + t.j)
        if put is not None:
            c, step = cast(Pointer, select(alone, block, c)), select(alone, s.columns, s.n)
            with f.when(alone & f.args.start.eq(EARLIER)):
                f.call(parts.read, result, s.n, c, step, t.rows, t.columns)
        with f.when(alone & f.args.start.eq(BIAS)):
            f.call(parts.read, f.args.bias.at(t.j), 0, c, step, t.rows, t.columns)
        begun = select(alone, f.args.start, FRESH)
        with f.loop(0, t.steps, s.depth) as k:
            steps = minimum(s.depth, t.steps - k.i)
            again = select(k.i.eq(0), begun, EARLIER)
            deep, to_b, to_a = grain.count(steps), (packed_b, tile.columns), (packed_a, tile.rows)
            pack(f, parts.pack_columns, b.at(k.i * s.b_k), s.b_n, s.b_k, t.columns, steps, *to_b, deep)
            pack(f, parts.pack_rows, a.at(k.i * s.a_k), s.a_m, s.a_k, t.rows, steps, *to_a, deep)
            with f.loop(0, t.columns, tile.columns) as j, f.loop(0, t.rows, tile.rows) as i:
                sums = c.at(i.i * step + j.i)
                exist = minimum(tile.rows, t.rows - i.i), minimum(tile.columns, t.columns - j.i)
                f.call(
                    parts.corner, deep, packed_a.at(i.i * deep), packed_b.at(j.i * deep), zeros, again, sums, step,
                    *exist, spare,
                )  # fmt: skip
                if put is not None:
                    with f.when(alone & (k.i + steps >= t.steps)):
                        f.call(put, sums, step, result.at(i.i * s.n + j.i), s.n, *exist)


def _panel_room(isa: ISA, grain: Grain, s: Any) -> Value:
    """Elements from the packed columns to the packed rows; Python's ``panel_items`` in instructions."""
    element = grain.sums
    unit, line = tile_for(isa, element).columns, 64 // element.bytes
    wide: Value = (s.columns + (unit - 1)) // unit * unit * grain.count(s.depth) + slack(isa, element, unit)
    room: Value = (wide + (line - 1)) // line * line
    return room


def pack(
    f: Function, pack: Function, source: Pointer, row_step: Value, k_step: Value, rows: Value, steps: Value,
    to: Pointer, width: int, deep: Value,
) -> None:  # fmt: skip
    """Panels of ``width`` rows, one after the other."""
    with f.loop(0, rows, width) as r:
        f.call(pack, source.at(r.i * row_step), row_step, k_step, minimum(width, rows - r.i), steps, to.at(r.i * deep))


def _write_combine(m: Module, isa: ISA, grain: Grain) -> None:
    """Adds the splits' sums, first to last, onto what C starts from. A task is a row of an item."""
    lanes = isa.lanes(grain.sums)
    f = m.entry("combine", **_fields(grain))
    s = _shape(f.args.shape)
    with f.loop(f.args.begin, f.args.end) as task:
        item, row = task.i // s.m, task.i % s.m
        c = f.args.c.at(task.i * s.n)
        sums = f.args.sums.at((item * s.splits * s.m + row) * s.n)
        start = cast(Pointer, select(f.args.start.eq(BIAS), f.args.bias, c))
        with f.loop(0, s.n, lanes) as j:
            left = s.n - j.i
            mask = lanes_below(f, left, lanes)
            begun = lanes_below(f, select(f.args.start.eq(FRESH), 0, left), lanes)
            first = convert(start.load(j.i, lanes, begun), grain.sums)
            with f.loop(0, s.splits, carry=[first]) as p:
                p.values = [p.values[0] + sums.load(p.i * s.m * s.n + j.i, lanes, mask)]
            c.store(convert(p.values[0], grain.stored), j.i, mask)
