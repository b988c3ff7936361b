"""Native code of the matrix product C = A B that reads A where it lies: a tile broadcasts its numbers one by one.

::

    for task in (block of rows, block of columns):                 # threads take tasks; no two write the same
        for k0 in k, depth at a time:
            pack B[k0:, columns]                                   # in the second level cache
            for some rows of the block:                            # A[rows, k0:] is in the second level cache, too
                copy or pack A[rows, k0:], only where its lines drive each other out, or are halves
                for panel of B: for tile of rows:
                    C[mr, nr] += A rows * B panel                  # the tile

A sum over k runs from first to last, so its bits depend on ``depth`` only. Beside a product that packs both operands
(``product``), A costs nothing, so blocks may be tall and B is packed a few times only; and C begins in registers, with
a bias or without.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from typing import cast

from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.panels import either, slack, write_deal, write_packs
from lucid.kernels.algorithms.product import BIAS, EARLIER, FRESH, pack, tile_for, write_move
from lucid.kernels.algorithms.tile import Tile
from lucid.kernels.ir import Function, Module, Pointer, Type, Value, convert, i64, minimum, ptr, select, splat
from lucid.kernels.isa import ISA

#: Numbers that stay the same from call to call, in the order of their slots behind the field ``shape``.
SHAPE = (
    "m", "n", "k", "a_m", "a_k", "b_k", "b_n", "rows", "columns", "column_blocks", "depth", "near", "way", "pitch",
    "asks", "work_items", "block", "panels",
)  # fmt: skip
_ROWS_AHEAD = 4  #: rows of A that are asked for while others are copied: the machine follows none to the next
#: The ways to A: read where it lies, packed into panels, or its rows copied a ``row_pitch`` apart.
IN_PLACE, PACKED, COPIED = range(3)


#: Heights of a tile for few rows of 32 registers' tiles, and what a tile takes beside its rows, in rows.
_HEIGHTS, _BESIDE, _WORTH = (10, 11, 13), 0.3, 0.97


def tile_of(isa: ISA, element: Type, m: int) -> Tile:
    """The register tile for so many rows: another height where that leaves fewer rows of tiles empty."""
    usual = tile_for(isa, element)
    if isa.registers != 32:
        return usual

    def cost(rows: int) -> float:
        return -(-m // rows) * (rows + _BESIDE)

    best = min(_HEIGHTS, key=cost)
    return replace(usual, rows=best) if cost(best) < _WORTH * cost(usual.rows) else usual


def row_pitch(isa: ISA, grain: Grain, depth: int) -> int:
    """Elements from one copied row of A to the next: an odd number of vectors, which share no set of a cache."""
    lanes = isa.lanes(grain.packed)
    return (-(-depth // lanes) | 1) * lanes


def block_items(grain: Grain, rows: int, columns: int, whole: bool) -> int:
    """Elements of a block's sums, where they are not in C: those of halves that a tile does not sum ``whole``."""
    return 0 if whole or grain.stored == grain.sums else rows * columns


def panel_items(isa: ISA, grain: Grain, columns: int, depth: int) -> int:
    """Elements of a block's packed columns, in whole cache lines."""
    unit, line = tile_for(isa, grain.sums).columns, 64 // grain.packed.bytes
    return -(-(columns * int(grain.count(depth)) + slack(isa, grain.packed, unit)) // line) * line


def work_items(isa: ISA, grain: Grain, tile: Tile, near: int, rows: int, columns: int, depth: int, whole: bool) -> int:
    """Elements of a thread's workspace: a row to throw away, a tile, what sums start from, a block's sums, packed B and
    A, of which ``near`` rows are packed at a time."""
    rows_of_a = max(panel_items(isa, grain, near, depth), near * row_pitch(isa, grain, depth))
    packed = panel_items(isa, grain, columns, depth) + rows_of_a
    line = 64 // grain.sums.bytes
    return -(-(_starts_at(tile) + columns + block_items(grain, rows, columns, whole) + packed) // line) * line


def _starts_at(tile: Tile) -> int:
    return (1 + tile.rows) * tile.columns


def write(isa: ISA, grain: Grain, tile: Tile, whole: bool) -> Module:
    """The module with the entry point ``multiply``, of sums that are ``whole`` within a tile or not."""
    m = Module(f"matrix product of {grain.stored}, rows in place", isa)
    packs = write_packs(m, isa, grain, (tile.rows, tile.columns))
    _write_multiply(m, isa, grain, tile, packs, grain.stored if whole else grain.sums)
    return m


def _fields(grain: Grain) -> dict[str, Type]:
    data = ptr(grain.stored)
    return {
        "a": data, "b": data, "c": data, "bias": data, "work": ptr(grain.sums),
        "shape": ptr(i64), "start": i64,
    }  # fmt: skip


class _Shape:
    """The numbers of ``SHAPE`` as values."""

    def __init__(self, pointer: Pointer) -> None:
        self._values = {name: pointer.load(slot) for slot, name in enumerate(SHAPE)}

    def __getattr__(self, name: str) -> Value:
        return self._values[name]


def _write_multiply(
    m: Module, isa: ISA, grain: Grain, tile: Tile, packs: dict[int, Function], left: Type
) -> None:  # fmt: skip
    """Tiles leave numbers of the type ``left``: C's in C, others in the workspace until they are rounded."""
    stored, sums_type, same, in_c = grain.stored, grain.sums, grain.stored == grain.sums, grain.stored == left
    read, copy = write_move(m, isa, stored, sums_type), write_move(m, isa, stored, sums_type, _ROWS_AHEAD)
    put = None if in_c else write_move(m, isa, sums_type, stored)
    move = read if left == stored == sums_type else write_move(m, isa, left, left)
    corner, deal = _write_corner(m, grain, tile, move, left), write_deal(m, isa, grain, tile.columns)
    f = m.entry("multiply", **_fields(grain))
    s = _Shape(f.args.shape)
    spare = f.args.work.at(f.args.thread * s.work_items)
    starts, aside = spare.at(_starts_at(tile)), spare.cast(left)
    block = starts.at(s.columns)
    panels = block.at(s.block).cast(grain.packed)
    packed = panels.at(s.panels)
    with f.loop(0, s.columns, tile.lanes) as j:
        starts.store(splat(f.const(sums_type, 0.0), tile.lanes), j.i)
    with f.loop(f.args.begin, f.args.end) as task:
        first, i0 = task.i % s.column_blocks * s.columns, task.i // s.column_blocks * s.rows
        rows, columns = minimum(s.rows, s.m - i0), minimum(s.columns, s.n - first)
        result = f.args.c.at(i0 * s.n + first)
        c, step = (result, s.n) if in_c else (block, s.columns)
        with f.when(f.args.start.eq(BIAS)):
            f.call(read, f.args.bias.at(first), 0, starts, 0, 1, columns)
        if not in_c:
            with f.when(f.args.start.eq(EARLIER)):
                f.call(read, result, s.n, c, step, rows, columns)
        begun = select(f.args.start.eq(EARLIER), f.args.start, FRESH)
        with f.loop(0, s.k, s.depth) as k:
            steps = minimum(s.depth, s.k - k.i)
            deep = grain.count(steps)
            again = select(k.i.eq(0), begun, EARLIER)
            b, a = f.args.b.at(first * s.b_n + k.i * s.b_k), f.args.a.at(i0 * s.a_m + k.i * s.a_k)
            turned = partial(pack, f, packs[tile.columns], b, s.b_n, s.b_k, columns, steps, panels, tile.columns, deep)
            dealt = partial(f.call, deal, b, s.b_k, columns, steps, panels, deep * tile.columns)
            either(f, s.b_n.eq(1), dealt, turned)
            with f.loop(0, rows, s.near) as r:
                end = minimum(rows, r.i + s.near)
                here = a.at(r.i * s.a_m)
                with f.when(s.way.eq(PACKED)):
                    pack(f, packs[tile.rows], here, s.a_m, s.a_k, end - r.i, steps, packed, tile.rows, deep)
                if grain.depth == 1:
                    with f.when(s.way.eq(COPIED)):
                        f.call(copy, here, s.a_m, packed, s.pitch, end - r.i, steps)
                with f.loop(0, columns, tile.columns) as j, f.loop(r.i, end, tile.rows) as i:
                    w = packed.at((i.i - r.i) * select(s.way.eq(PACKED), deep, s.pitch))
                    w_row, w_k = (
                        select(s.way.eq(PACKED), f.const(i64, 1), s.pitch),
                        select(s.way.eq(PACKED), f.const(i64, tile.rows), 1),
                    )
                    if same:
                        there = s.way.eq(IN_PLACE)
                        w = cast(Pointer, select(there, a.at(i.i * s.a_m), w))
                        w_row, w_k = select(there, s.a_m, w_row), select(there, s.a_k, w_k)
                    to = c.at(i.i * step + j.i)
                    exist = minimum(tile.rows, rows - i.i), minimum(tile.columns, columns - j.i)
                    panel = panels.at(j.i * deep)
                    f.call(corner, deep, w, w_row, w_k, panel, starts.at(j.i), again, to, step, *exist, aside, s.asks)
                    if put is not None:
                        with f.when(k.i + steps >= s.k):
                            f.call(put, to, step, result.at(i.i * s.n + j.i), s.n, *exist)


def _write_corner(m: Module, grain: Grain, tile: Tile, move: Function, left: Type) -> Function:
    """A tile of which only rows x columns exist. A vector that is not whole goes through a tile behind ``spare``."""
    data, packed = ptr(left), ptr(grain.packed)
    widths = [Tile(tile.rows, v, tile.lanes) for v in (1, tile.vectors)]
    functions = [_write_tile(m, grain, t, tile.columns, left) for t in widths]
    f = m.function(
        "corner", steps=i64, w=packed, w_row=i64, w_k=i64, panel=packed, start=ptr(grain.sums), again=i64, to=data,
        stride=i64, rows=i64, columns=i64, spare=data, asks=i64,
    )  # fmt: skip
    a = f.args
    operands = a.steps, a.w, a.w_row, a.w_k, a.panel, a.start, a.again
    scratch = a.spare.at(tile.columns)

    def run(function: Function, width: Tile) -> None:
        def direct() -> None:
            f.call(function, *operands, a.to, a.stride, a.rows, a.spare, a.asks)

        def indirect() -> None:
            with f.when(a.again.ne(0)):
                f.call(move, a.to, a.stride, scratch, width.columns, a.rows, a.columns)
            f.call(function, *operands, scratch, width.columns, a.rows, a.spare, 0)
            f.call(move, scratch, width.columns, a.to, a.stride, a.rows, a.columns)

        either(f, a.columns.eq(width.columns), direct, indirect)

    narrow, wide = widths
    either(f, a.columns <= narrow.columns, lambda: run(functions[0], narrow), lambda: run(functions[1], wide))
    return f


def _write_tile(m: Module, grain: Grain, tile: Tile, pitch: int, left: Type) -> Function:
    """Adds ``tile(steps, w, w_row, w_k, panel, start, again, to, stride, rows, spare, asks)``.

    to[r][n] = start[n], or what is there ``again``, + the sum over k of w[r w_row + k w_k] panel[k pitch + n]. Rows
    from ``rows`` on are the last one again, and go to ``spare``. A tile that ``asks`` wants the lines of its results
    before its loop.
    """
    data, packed = ptr(left), ptr(grain.packed)
    f = m.function(
        f"tile_{tile.rows}x{tile.vectors}", steps=i64, w=packed, w_row=i64, w_k=i64, panel=packed,
        start=ptr(grain.sums), again=i64, to=data, stride=i64, rows=i64, spare=data, asks=i64,
    )  # fmt: skip
    a, lanes, across = f.args, tile.lanes, range(tile.vectors)
    targets = [cast(Pointer, select(a.rows > r, a.to.at(a.stride * r), a.spare)) for r in range(tile.rows)]
    with f.when(a.asks.ne(0)):
        for row, v in product(targets, across):
            row.prefetch(v * lanes, write=True)

    def fresh() -> list[Value]:
        return [a.start.load(v * lanes, lanes) for v in across] * tile.rows

    def earlier() -> list[Value]:
        return [convert(row.load(v * lanes, lanes), grain.sums) for row in targets for v in across]

    weights = [a.w.at(minimum(a.rows - 1, r) * a.w_row) for r in range(tile.rows)]
    with f.loop(0, a.steps, carry=f.choose(a.again.eq(0), fresh, earlier)) as k:
        panel, at, sums = a.panel.at(k.i * pitch), k.i * a.w_k, iter(k.values)
        columns = [convert(panel.load(v * lanes, lanes), grain.packed) for v in across]
        following: list[Value] = []
        for row in weights:
            weight = splat(row.load(at), lanes)
            following += [grain.multiply_add(weight, column, next(sums)) for column in columns]
        k.values = following
    results = iter(k.values)
    for row in targets:
        for v in across:
            row.store(convert(next(results), left), v * lanes)
    return f
