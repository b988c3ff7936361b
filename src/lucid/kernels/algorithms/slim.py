"""Matrix products with a side of few rows: nothing is packed, since every number of the other side is used once.

The result is out[f][r] = sum over k of few[f][k] * many[k][r], with f < 4 or so and many r. There are two ways to read
``many`` in its order in memory: *across*, where r has unit steps and the lanes are neighbouring r; *along*, where k has
unit steps and the lanes are neighbouring k, added up at the end.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from lucid.kernels.ir import (
    Function,
    Module,
    Type,
    Value,
    computed,
    convert,
    fma,
    i64,
    lane_sum,
    lanes_below,
    minimum,
    ptr,
    splat,
    zeros,
)
from lucid.kernels.isa import ISA

#: Numbers that stay the same from call to call, in the order of their slots behind the field ``shape``.
SHAPE = (
    "few_rows", "many_rows", "k", "few_row", "few_k", "many_k", "many_row", "out_row", "out_column", "block", "blocks",
)  # fmt: skip

#: Rows of the few that are done at a time, by registers: each has 4 accumulators.
ROWS = {32: 4, 16: 2}
_VECTORS = 4
#: Vectors of a single row across, by registers: each k may be a page of its own, of which more is read at once.
_ALONE = {32: 16, 16: 8}
_AHEAD = 12  # rows of ``many`` asked for in advance: their distance is no pattern that the machine would guess


def unit(isa: ISA, element: Type, name: str) -> int:
    """How many r are done at a time."""
    wide = isa.lanes(computed(element))
    return {"along": _VECTORS, "across": _VECTORS * wide, "alone": _ALONE[isa.registers] * wide}[name]


def write(isa: ISA, element: Type, name: str) -> Module:
    """The module with the entry point ``across``, ``along``, or ``alone``, which is a single row across."""
    m = Module(f"slim product of {element}, {name}", isa)
    if name == "alone":
        tiles = {1: _write_across(m, isa, element, 1, _ALONE[isa.registers])}
    else:
        tile = {"across": _write_across, "along": _write_along}[name]
        tiles = {rows: tile(m, isa, element, rows) for rows in sorted({1, ROWS[isa.registers]}, reverse=True)}
    _write_entry(m, isa, element, name, tiles)
    return m


def _write_entry(m: Module, isa: ISA, element: Type, name: str, tiles: dict[int, Function]) -> None:
    """A task is a block of r of an item. ``start`` is what a sum starts from: its steps may be 0."""
    data = ptr(element)
    f = m.entry(
        name, few=data, many=data, out=data, start=data, start_item=i64, start_row=i64,
        start_column=i64, shape=ptr(i64), offsets=ptr(i64),
    )  # fmt: skip
    s = SimpleNamespace(**{field: f.args.shape.load(slot) for slot, field in enumerate(SHAPE)})
    with f.loop(f.args.begin, f.args.end) as task:
        item, first = task.i // s.blocks, task.i % s.blocks * s.block
        at = f.args.offsets.at(item * 2)
        few, many = f.args.few.at(at.load(0)), f.args.many.at(at.load(1))
        out = f.args.out.at(item * s.few_rows * s.many_rows)
        start = f.args.start.at(item * f.args.start_item)

        def row(i: Value, function: Function, r: Value, end: Value) -> None:
            f.call(
                function, s.k, few.at(i * s.few_row), s.few_row, s.few_k, many.at(r * s.many_row), s.many_k,
                s.many_row, out.at(i * s.out_row + r * s.out_column), s.out_row, s.out_column,
                start.at(i * f.args.start_row + r * f.args.start_column), f.args.start_row,
                f.args.start_column, end - r,
            )  # fmt: skip

        end = minimum(first + s.block, s.many_rows)
        with f.loop(first, end, unit(isa, element, name)) as r:
            done: Any = 0
            for rows, function in tiles.items():
                stop = s.few_rows - s.few_rows % rows
                with f.loop(done, stop, rows) as i:
                    row(i.i, function, r.i, end)
                done = stop


def _tile_function(m: Module, name: str, element: Type) -> Function:
    data = ptr(element)
    return m.function(
        name, k=i64, few=data, few_row=i64, few_k=i64, many=data, many_k=i64, many_row=i64, out=data, out_row=i64,
        out_column=i64, start=data, start_row=i64, start_column=i64, count=i64,
    )  # fmt: skip


def _write_across(m: Module, isa: ISA, element: Type, rows: int, vectors: int = _VECTORS) -> Function:
    """Rows by vectors of neighbouring r."""
    wide = computed(element)
    lanes = isa.lanes(wide)
    f = _tile_function(m, f"across{rows}", element)
    a = f.args
    masks = [lanes_below(f, a.count - v * lanes, lanes) for v in range(vectors)]

    def first(i: int, v: int) -> list[Value]:
        at = a.start.at(a.start_row * i + a.start_column * (v * lanes))
        return f.choose(
            a.start_column.eq(1),
            lambda: [convert(at.load(0, lanes, masks[v]), wide)],
            lambda: [splat(convert(at.load(), wide), lanes)],
        )

    sums = [value for i in range(rows) for v in range(vectors) for value in first(i, v)]
    with f.loop(0, a.k, carry=sums) as k:
        line = a.many.at(k.i * a.many_k)
        for v in range(0, vectors * lanes * element.bytes, 64):
            line.at(a.many_k * _AHEAD).prefetch(v // element.bytes)
        columns = [convert(line.load(v * lanes, lanes, mask), wide) for v, mask in enumerate(masks)]
        few = [a.few.load(a.few_row * i + k.i * a.few_k) for i in range(rows)]
        weights = [splat(convert(number, wide), lanes) for number in few]
        k.values = _products(weights, columns, k.values)
    for i in range(rows):
        for v, mask in enumerate(masks):
            a.out.store(convert(k.values[i * vectors + v], element), a.out_row * i + v * lanes, mask)
    return f


def _products(weights: list[Value], columns: list[Value], sums: list[Value]) -> list[Value]:
    pairs = [(w, c) for w in weights for c in columns]
    return [fma(w, c, s) for (w, c), s in zip(pairs, sums, strict=True)]


def _write_along(m: Module, isa: ISA, element: Type, rows: int) -> Function:
    """rows x 4 numbers, each a vector of partial sums until the end. Rows past the last are the last again."""
    wide = computed(element)
    lanes = isa.lanes(wide)
    f = _tile_function(m, f"along{rows}", element)
    a = f.args
    lefts = [a.few.at(a.few_row * i) for i in range(rows)]
    rights = [a.many.at(minimum(a.count - 1, r) * a.many_row) for r in range(_VECTORS)]
    whole = a.k - a.k % lanes

    def step(at: Value, sums: list[Value], mask: Value | None) -> list[Value]:
        left, right = ([convert(x.load(at, lanes, mask), wide) for x in side] for side in (lefts, rights))
        return _products(left, right, sums)

    with f.loop(0, whole, lanes, carry=[zeros(f, wide, lanes)] * (rows * _VECTORS)) as k:
        k.values = step(k.i, k.values, None)
    sums = k.values
    if lanes > 1:
        sums = f.choose(a.k > whole, lambda: step(whole, sums, lanes_below(f, a.k - whole, lanes)), lambda: sums)
    for n, total in enumerate(sums):
        i, r = divmod(n, _VECTORS)
        with f.when(a.count > r):
            start = convert(a.start.load(a.start_row * i + a.start_column * r), wide)
            a.out.store(convert(start + lane_sum(total), element), a.out_row * i + a.out_column * r)
    return f
