"""Packing of matrices into panels: what a register tile reads from first to last, one element after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from itertools import product
from typing import Any

from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    i64,
    interleave,
    joined,
    lanes_below,
    minimum,
    ptr,
    select,
    transpose,
)
from lucid.kernels.isa import ISA

Turned = Callable[[Sequence[Value]], list[Value]]

_LINE_BYTES = 64
_TOGETHER = 4  #: columns of a square that are stored if the first of them exists
_AHEAD = 12  #: rows asked for in advance: their distance is no pattern that the machine would guess


def slack(isa: ISA, element: Type, width: int) -> int:
    """Elements behind the last panel that packing may overwrite: it stores whole vectors, panel after panel."""
    lanes = isa.lanes(element)
    return lanes * (width + 1)


def write_packs(m: Module, isa: ISA, grain: Grain, widths: Iterable[int]) -> dict[int, Function]:
    """By width, functions ``pack(source, row_step, k_step, rows, depth, panel)`` for panels of so many rows.

    panel[k][r] = source[r row_step + k k_step] for r < rows and k < depth, or elements made of neighbouring k; what
    stands in further rows is any number. Panels must be packed in the order of their addresses, with ``slack`` behind
    the last.
    """
    lanes, packs = isa.lanes(grain.packed), {}
    turn = None
    for width in sorted(set(widths)):
        if lanes > 1 and not _weaves(width, lanes):
            turn = turn or write_turn(m, isa, grain)
        packs[width] = _write_pack(m, isa, grain, width, turn)
    return packs


def _weaves(width: int, lanes: int) -> bool:
    """Whether rows can be interleaved whole vectors at a time."""
    return lanes > 1 and width <= lanes and width & (width - 1) == 0


def _write_pack(m: Module, isa: ISA, grain: Grain, width: int, turn: Function | None) -> Function:
    lanes = isa.lanes(grain.packed)
    f = m.function(
        f"pack{width}", source=ptr(grain.stored), row_step=i64, k_step=i64, rows=i64, depth=i64, panel=ptr(grain.packed)
    )
    a = f.args

    def turns() -> None:
        if _weaves(width, lanes):
            _weave_rows(f, grain, lanes, width)
            return
        assert turn is not None, "a machine without vectors has nothing to turn"
        # Last group first: its vectors reach into the next k's first rows, which are written after it.
        for first in reversed(range(0, width, lanes)):
            with f.when(a.rows > first):
                rows, panel = a.rows - first, a.panel.at(first)
                f.call(turn, a.source.at(a.row_step * first), a.row_step, rows, a.depth, panel, width)

    def others() -> None:
        if lanes == 1:
            _copy_elements(f, grain, width)
        else:
            either(f, a.k_step.eq(1), turns, lambda: _copy_elements(f, grain, width))

    either(f, a.row_step.eq(1), lambda: _copy_runs(f, grain, lanes, width), others)
    return f


def either(f: Function, condition: Value, yes: Callable[[], None], no: Callable[[], None]) -> None:
    """One of two pieces of code."""

    def nothing(piece: Callable[[], None]) -> list[Value]:
        piece()
        return []

    f.choose(condition, lambda: nothing(yes), lambda: nothing(no))


def _copy_runs(f: Function, grain: Grain, lanes: int, width: int) -> None:
    """Rows side by side in memory: vectors straight across, one of each k of an element."""
    a = f.args
    rows = [a.rows - first for first in range(0, width, lanes)]
    with f.loop(0, grain.count(a.depth)) as k:
        _copy_run(f, grain, lanes, width, k.i, a.source.at(k.i * grain.depth * a.k_step), rows, a.panel.at(k.i * width))


def _copy_run(
    f: Function, grain: Grain, lanes: int, width: int, k: Value, source: Pointer, rows: list[Value], panel: Pointer
) -> None:  # fmt: skip
    """One k of a panel; ``rows`` are how many there are from each vector on."""
    a = f.args
    for n, line in product(range(grain.depth), range(0, width, _LINE_BYTES // source.pointee.bytes)):
        source.at(a.k_step * (_AHEAD * grain.depth + n)).prefetch(line)
    for v, left in enumerate(rows):
        counts = [left, select(k * grain.depth + 1 < a.depth, left, 0)][: grain.depth]
        numbers = [
            source.at(a.k_step * n).load(v * lanes, lanes, lanes_below(f, count, lanes))
            for n, count in enumerate(counts)
        ]
        panel.store(grain.element(numbers), v * lanes)


def write_deal(m: Module, isa: ISA, grain: Grain, width: int) -> Function:
    """Adds ``deal(source, k_step, rows, depth, panels, apart)``: rows side by side in memory, all panels at once.

    Each k is read in one piece, where panel after panel would meet a page of each k again for every one of them.
    """
    lanes = isa.lanes(grain.packed)
    f = m.function(
        "deal", source=ptr(grain.stored), k_step=i64, rows=i64, depth=i64, panels=ptr(grain.packed), apart=i64
    )
    a = f.args
    with f.loop(0, grain.count(a.depth)) as k, f.loop(0, a.rows, width) as r:
        source = a.source.at(k.i * grain.depth * a.k_step + r.i)
        panel = a.panels.at(r.i // width * a.apart + k.i * width)
        _copy_run(f, grain, lanes, width, k.i, source, [a.rows - r.i - v for v in range(0, width, lanes)], panel)
    return f


def _copy_elements(f: Function, grain: Grain, width: int) -> None:
    """Neither axis has unit steps: number by number."""
    a = f.args
    with f.loop(0, grain.count(a.depth)) as k, f.loop(0, a.rows) as r:
        first = k.i * grain.depth
        source = a.source.at(first * a.k_step + r.i * a.row_step)
        there = [None, first + 1 < a.depth][: grain.depth]
        numbers = [source.load(a.k_step * n, 1, exists) for n, exists in enumerate(there)]
        a.panel.store(grain.element(numbers), k.i * width + r.i)


def _squares(
    f: Function, grain: Grain, lanes: int, starts: Sequence[Pointer], width: Any,
    square: Callable[[Value, Value | None], None],
) -> None:  # fmt: skip
    """Calls ``square(k, depth)`` for as many elements from k on as lanes, up to the ``depth`` of all.

    Where masks of halves are dear the last square begins so much earlier that it needs none, and no depth: what it
    shares with the one before is written twice. Fewer numbers than lanes are picked one by one.
    """
    a, count = f.args, grain.count(f.args.depth)

    def whole() -> None:
        with f.loop(0, count, lanes) as k:
            square(minimum(k.i, count - lanes), None)

    def few() -> None:
        with f.loop(0, count) as k:
            a.panel.store(grain.element([joined([start.load(k.i) for start in starts])]), k.i * width)

    if grain.depth == 1 and grain.stored.bits == 16 and not f.module.masks_halves:
        either(f, count >= lanes, whole, few)
        return
    with f.loop(0, count, lanes) as k:
        square(k.i, a.depth)


def _along(
    grain: Grain, starts: Sequence[Pointer], k: Value, depth: Value | None, lanes: int, turned: Turned
) -> list[Value]:
    """Elements of rows that run along k, from the element ``k`` on, ``turned``; nothing beyond ``depth``, if any.

    Halves that are widened are turned first, by shuffles of half the bits.
    """
    first = k * grain.depth
    mask = None if depth is None else lanes_below(k.fn, depth - first, lanes * grain.depth)
    numbers = [start.load(first, lanes * grain.depth, mask) for start in starts]
    if grain.depth == 1:
        return [grain.side_by_side(column) for column in turned(numbers)]
    return turned([grain.side_by_side(row) for row in numbers])


def _weave_rows(f: Function, grain: Grain, lanes: int, width: int) -> None:
    """Rows that run along k, a power of two of them: interleaved in registers, a third of the shuffles of a turn."""
    a = f.args
    starts = [a.source.at(minimum(a.rows - 1, r) * a.row_step) for r in range(width)]

    def square(k: Value, depth: Value | None) -> None:
        for v, woven in enumerate(_along(grain, starts, k, depth, lanes, interleave)):
            a.panel.store(woven, k * width + v * lanes)

    _squares(f, grain, lanes, starts, width, square)


def _ask_behind(f: Function, source: Pointer, rows: int) -> None:
    """Asks for the lines where rows begin, unless they share them. In a loop, which keeps no address of each row."""
    a = f.args
    apart = a.row_step * source.pointee.bytes >= _LINE_BYTES
    with f.loop(0, select(apart, f.const(i64, rows), 0)) as r:
        source.prefetch(r.i * a.row_step, locality=2)


def write_turn(m: Module, isa: ISA, grain: Grain) -> Function:
    """Adds ``turn(source, row_step, rows, depth, panel, width)``: panel[k][r] = source[r][k] for as many r as lanes.

    One square after the other is turned in registers: what stands behind ``rows`` repeats the last row, and up to a
    vector's width of k is written behind ``depth``. Of halves the rows behind these are asked for: the machine, which
    looks for one stream a page, finds two.
    """
    lanes = isa.lanes(grain.packed)
    f = m.function(
        "turn", source=ptr(grain.stored), row_step=i64, rows=i64, depth=i64, panel=ptr(grain.packed), width=i64
    )
    a = f.args
    starts = [a.source.at(minimum(a.rows - 1, r) * a.row_step) for r in range(lanes)]

    def square(k: Value, depth: Value | None) -> None:
        if grain.stored.bits == 16:
            _ask_behind(f, a.source.at(a.rows * a.row_step + k * grain.depth), lanes)
        columns = _along(grain, starts, k, depth, lanes, transpose)
        for first in range(0, lanes, _TOGETHER):
            with f.when(k + first < grain.count(depth)) if first and depth is not None else nullcontext():
                for c, column in enumerate(columns[first : first + _TOGETHER], first):
                    a.panel.store(column, (k + c) * a.width)

    _squares(f, grain, lanes, starts, a.width, square)
    return f
