"""Rows of results that go past the caches in whole lines, wherever they begin.

::

    vectors of a row         a0 a1 a2 a3   b0 b1 b2 b3   c0 c1 c2 c3
    lines of the cache     ··a0  a1 a2 a3 b0  b1 b2 b3 c0  c1 c2 c3··      whole ones are made of two vectors' lanes

A store that leaves in a whole line fetches nothing. What a row has of its first and last line is stored as usual, since
the others of those lines' numbers belong to another tile. The order among threads is kept by the pool, whose counters
change by locked instructions, behind which no such store waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from lucid.kernels import target
from lucid.kernels.algorithms.panels import either
from lucid.kernels.ir import (
    Function,
    Pointer,
    Type,
    Value,
    convert,
    f32,
    i32,
    lane_numbers,
    splat,
    to_whole_vector,
    vec,
    zeros,
)
from lucid.kernels.isa import ISA

_LANES = 16  #: of the only instruction set and type that have it: two vectors' lanes picked by numbers in a third
_PICK = "llvm.x86.avx512.vpermi2var.ps.512"


def gains(written_bytes: int, stored: Type, isa: ISA) -> bool:
    """Whether results of so many bytes should leave so.

    They would not stay in the last cache, and this machine fetches lines before it overwrites them whole.
    """
    cpu = target.cpu()
    able = "avx512f" in isa.requires and stored == f32
    return able and cpu.fetches_overwritten and written_bytes > cpu.l3_bytes // 2


def kept_rows(rows: int, written_bytes: int, read_bytes: int) -> int:
    """How many of a tile's rows stay in the last cache nevertheless: what half of it holds beside all that is read.

    Memory takes lines that go past the caches no faster than those that are thrown out of one; a line that is there
    already, from the call before, or will be read there by the next layer, never goes.
    """
    room = max(0, target.cpu().l3_bytes // 2 - read_bytes)
    return min(rows - 1, round(rows * room / written_bytes))


@dataclass(frozen=True, slots=True)
class PastRow:
    """A row from ``to`` on, of which so many numbers of its first line belong to what is ``before`` it."""

    to: Pointer
    before: Value
    picks: Value

    @classmethod
    def of(cls, to: Pointer) -> PastRow:
        """The row that begins there."""
        before = (-to_whole_vector(to, _LANES)) & (_LANES - 1)
        numbers = lane_numbers(to.fn, _LANES, element=i32)
        return cls(to, before, numbers + (_LANES - splat(convert(before, i32), _LANES)))

    def ask(self, count: Value) -> None:
        """Asks for the first and the last line of ``count`` numbers, which are stored as usual, before either is due.

        Stores leave in order: behind one that waits for memory all others would wait, and every row begins with one.
        """
        for at in (0, count - self.before):
            self.to.prefetch(at, write=True)

    def line(self, last: Value, value: Value) -> Value:
        """A line: the end of the ``last`` vector and the beginning of this one."""
        return self.to.fn.intrinsic(_PICK, vec(f32, _LANES), "", last, self.picks, value)

    def store(self, last: Value, values: Sequence[Value], first: bool) -> None:
        """Puts vectors from ``to`` on behind the ``last`` one, but for what is left of their end.

        The ``first`` of a row have none before them.
        """
        start, inside = -self.before, lane_numbers(self.to.fn, _LANES, element=i32)
        for k, (earlier, value) in enumerate(zip([last, *values], values, strict=False)):
            line, at = self.line(earlier, value), start + k * _LANES
            if first and not k:
                self.to.store(line, at, inside >= splat(convert(self.before, i32), _LANES))
            else:
                self.to.store(line, at, nontemporal=True)

    def end(self, count: Value, last: Value) -> None:
        """Puts what is left of the ``last`` of ``count`` numbers."""
        inside = lane_numbers(self.to.fn, _LANES, element=i32)
        mask = inside < splat(convert(self.before, i32), _LANES)
        with self.to.fn.when(self.before.ne(0)):
            self.to.store(self.line(last, last), count - self.before, mask)


def store_side_by_side(
    f: Function, targets: Sequence[Pointer], past: int, count: Value, vectors: int,
    lines: Callable[[Value], Sequence[Sequence[Value]]],
) -> None:  # fmt: skip
    """Writes ``count`` tiles side by side, whose last rows go ``past`` the caches.

    ``lines`` are the rows of a tile, of so many ``vectors`` each. A vector waits for the next tile's first one. The
    lines of the other rows are asked for before they are due.
    """
    columns, kept = vectors * _LANES, targets[: len(targets) - past]
    rows = [PastRow.of(to) for to in targets[len(kept) :]]
    for row in rows:
        row.ask(count * columns)
    with f.loop(0, count, carry=[zeros(f, f32, _LANES)] * past) as n:
        column = n.i * columns
        for to, v in product(kept, range(vectors)):
            to.prefetch(column + v * _LANES, write=True)
        made = lines(n.i)
        for to, line in zip(kept, made, strict=False):
            for v, value in enumerate(line):
                to.store(value, column + v * _LANES)
        leaving = made[len(kept) :]

        def store(first: bool) -> None:
            for row, last, line in zip(rows, n.values, leaving, strict=True):
                PastRow(row.to.at(column), row.before, row.picks).store(last, line, first)

        either(f, n.i.eq(0), lambda: store(True), lambda: store(False))
        n.values = [line[-1] for line in leaving]
    for row, last in zip(rows, n.values, strict=True):
        row.end(count * columns, last)
