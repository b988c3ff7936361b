"""Packing of matrices into panels: what a register tile reads from first to last, one element after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lucid.kernels.ir import (
    Function,
    Module,
    Type,
    Value,
    convert,
    i64,
    interleave,
    lanes_below,
    minimum,
    ptr,
    transpose,
)
from lucid.kernels.isa import ISA

_LINE_BYTES = 64
_AHEAD = 12  #: rows asked for in advance: their distance is no pattern that the machine would guess


def slack(isa: ISA, element: Type, width: int) -> int:
    """Elements behind the last panel that packing may overwrite: it stores whole vectors, panel after panel."""
    lanes = isa.lanes(element)
    return lanes * (width + 1)


def write_packs(
    m: Module, isa: ISA, element: Type, widths: Iterable[int], stored: Type | None = None
) -> dict[int, Function]:
    """By width, functions ``pack(source, row_step, k_step, rows, depth, panel)`` for panels of so many rows.

    panel[k][r] = source[r row_step + k k_step] for r < rows and k < depth; what stands in further rows is any number.
    The source is of type ``stored``, if that is another. Panels must be packed in the order of their addresses, with
    ``slack`` behind the last.
    """
    lanes, packs = isa.lanes(element), {}
    turn = None
    for width in sorted(set(widths)):
        if lanes > 1 and not _weaves(width, lanes):
            turn = turn or write_turn(m, isa, element, stored)
        packs[width] = _write_pack(m, isa, element, stored or element, width, turn)
    return packs


def _weaves(width: int, lanes: int) -> bool:
    """Whether rows can be interleaved whole vectors at a time."""
    return lanes > 1 and width <= lanes and width & (width - 1) == 0


def _write_pack(m: Module, isa: ISA, element: Type, stored: Type, width: int, turn: Function | None) -> Function:
    lanes = isa.lanes(element)
    f = m.function(
        f"pack{width}", source=ptr(stored), row_step=i64, k_step=i64, rows=i64, depth=i64, panel=ptr(element)
    )
    a = f.args

    def turns() -> None:
        if _weaves(width, lanes):
            _weave_rows(f, lanes, width)
            return
        assert turn is not None, "a machine without vectors has nothing to turn"
        # Last group first: its vectors reach into the next k's first rows, which are written after it.
        for first in reversed(range(0, width, lanes)):
            with f.when(a.rows > first):
                rows, panel = a.rows - first, a.panel.at(first)
                f.call(turn, a.source.at(a.row_step * first), a.row_step, rows, a.depth, panel, width)

    def others() -> None:
        if lanes == 1:
            _copy_elements(f, width)
        else:
            either(f, a.k_step.eq(1), turns, lambda: _copy_elements(f, width))

    either(f, a.row_step.eq(1), lambda: _copy_runs(f, lanes, width), others)
    return f


def either(f: Function, condition: Value, yes: Callable[[], None], no: Callable[[], None]) -> None:
    """One of two pieces of code."""

    def nothing(piece: Callable[[], None]) -> list[Value]:
        piece()
        return []

    f.choose(condition, lambda: nothing(yes), lambda: nothing(no))


def _copy_runs(f: Function, lanes: int, width: int) -> None:
    """Rows side by side in memory: vectors straight across."""
    a = f.args
    masks = [lanes_below(f, a.rows - first, lanes) for first in range(0, width, lanes)]
    with f.loop(0, a.depth) as k:
        source, panel = a.source.at(k.i * a.k_step), a.panel.at(k.i * width)
        for line in range(0, width, _LINE_BYTES // source.pointee.bytes):
            source.at(a.k_step * _AHEAD).prefetch(line)
        for v, mask in enumerate(masks):
            panel.store(convert(source.load(v * lanes, lanes, mask), panel.pointee), v * lanes)


def _copy_elements(f: Function, width: int) -> None:
    """Neither axis has unit steps: element by element."""
    a = f.args
    with f.loop(0, a.depth) as k, f.loop(0, a.rows) as r:
        number = a.source.load(k.i * a.k_step + r.i * a.row_step)
        a.panel.store(convert(number, a.panel.pointee), k.i * width + r.i)


def _weave_rows(f: Function, lanes: int, width: int) -> None:
    """Rows that run along k, a power of two of them: interleaved in registers, a third of the shuffles of a turn."""
    a = f.args
    starts = [a.source.at(minimum(a.rows - 1, r) * a.row_step) for r in range(width)]
    with f.loop(0, a.depth, lanes) as k:
        mask = lanes_below(f, a.depth - k.i, lanes)
        for v, woven in enumerate(
            interleave([convert(start.load(k.i, lanes, mask), a.panel.pointee) for start in starts])
        ):
            a.panel.store(woven, k.i * width + v * lanes)


def write_turn(m: Module, isa: ISA, element: Type, stored: Type | None = None) -> Function:
    """Adds ``turn(source, row_step, rows, depth, panel, width)``: panel[k][r] = source[r][k] for as many r as lanes.

    One square after the other is turned in registers: what stands behind ``rows`` repeats the last row, and up to a
    vector's width of k is written behind ``depth``.
    """
    lanes = isa.lanes(element)
    f = m.function(
        "turn", source=ptr(stored or element), row_step=i64, rows=i64, depth=i64, panel=ptr(element), width=i64
    )
    a = f.args
    starts = [a.source.at(minimum(a.rows - 1, r) * a.row_step) for r in range(lanes)]
    with f.loop(0, a.depth, lanes) as k:
        mask = lanes_below(f, a.depth - k.i, lanes)
        columns = transpose([convert(start.load(k.i, lanes, mask), element) for start in starts])
        for c, column in enumerate(columns):
            a.panel.store(column, (k.i + c) * a.width)
    return f
