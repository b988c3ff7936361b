"""Weight gradients of kernels of one row on one channel, with a stride: x is dealt out, g is read where it lies.

::

    residues[r][j] = x[stride j + r - low], 0 where that is outside           of all rows, once, in the workspace
    for a part of a row, for results, some at a time, for segments:
        for taps, some at a time:                            sums in registers, kept in the first cache
            for 16 pixels at a time:
                sum[result][tap] += g[result][pixels] * residues[tap % stride][pixels + tap // stride]

The same as ``lines`` where a row is dealt out: a part's residues stay in the second cache for all results. All passes
over the taps ask for the next segment of g, each for rows of its own. Parts are added in order, so bits do not depend
on the number of threads.
"""

from __future__ import annotations

from functools import cached_property
from math import ceil, prod
from typing import Any

import numpy as np

from lucid.kernels import jit
from lucid.kernels.algorithms import lines_tile
from lucid.kernels.algorithms.base import Executable, address, memory_cycles, sum_type, useful_threads
from lucid.kernels.algorithms.depthwise_sums import arrays
from lucid.kernels.algorithms.lines_tile import HALVED, RowSums, Tile
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Type,
    computed,
    convert,
    fma,
    i32,
    i64,
    lane_sum,
    lanes_below,
    maximum,
    minimum,
    ptr,
    select,
    zeros,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, Launch, in_order
from lucid.kernels.plan import Problem

Array = np.ndarray[Any, Any]

_SEGMENT = 1024  # columns of g that are read at a time, at most
_NEAR_BYTES = 16 << 10  # of their residues, which passes read from the first cache
_PART = 8192  # columns of a part at most, whose residues stay in the second cache
_MOST_RESIDUE_BYTES = 5 << 19
_MOST_PART_BYTES = 1 << 20
_LINE_BYTES = 64
_SINGLE = 1.2  # times the cycles of the best tile, at most
#: Residues are read in whole lines more often than x is.
_HALVED = HALVED | {
    "load": 1.3,
    "pass": 1.0,  # a vector of sums, at a segment
    "dealt": 2.0,  # a sample of x
}
_PASS = 10  # vectors that a pass costs beside its sums


class LinesStrided(RowSums):
    """Parts of all rows in chunks, and the residues that they read."""

    @property
    def pieces(self) -> int:
        """Parts of a row."""
        return ceil(self.problem.out[2] / _PART)

    @property
    def part(self) -> int:
        """Columns of one: whole vectors, and as even as may be."""
        return ceil(self.problem.out[2] / self.pieces / self.lanes) * self.lanes

    @property
    def segment(self) -> int:
        """Columns that are read at a time: whole vectors."""
        spec = self.problem.spec
        near = _NEAR_BYTES // (min(spec.stride[2], spec.kernel[2]) * self.element.bytes)
        return max(4, min(_SEGMENT, near) // self.lanes) * self.lanes

    @property
    def units(self) -> int:
        """Parts of all rows of a channel."""
        return self.problem.batch * prod(self.problem.out[:2]) * self.pieces

    @property
    def chunks(self) -> int:
        """Sums that are added up in the end."""
        each = self.problem.c_out * (self.problem.spec.kernel[2] + 1) * self.element.bytes
        return min(self.units, max(1, _MOST_PART_BYTES // each))

    @property
    def pitch(self) -> int:
        """Of a residue: all columns, and what the last ones read beyond."""
        spec = self.problem.spec
        beyond = (spec.kernel[2] - 1) * spec.dilation[2] // spec.stride[2]
        return ceil((self.problem.out[2] + beyond) / 16) * 16

    @property
    def rows(self) -> int:
        """Of x."""
        return self.problem.batch * self.problem.c_in * prod(self.problem.out[:2])

    @property
    def residue_elements(self) -> int:
        """All of x, dealt out."""
        return self.rows * self.problem.spec.stride[2] * self.pitch

    @property
    def part_elements(self) -> int:
        """Results of all chunks, with those of the bias."""
        return ceil(self.chunks * self.problem.c_out * (self.problem.spec.kernel[2] + 1) / 16) * 16

    @property
    def private_elements(self) -> int:
        """A thread's sums, with those of g; whole lines."""
        return (self.tile.sums + self.tile.results) * max(self.lanes, 16)

    @property
    def shared_bytes(self) -> int:
        """Residues and chunks."""
        return (self.residue_elements + self.part_elements) * self.element.bytes

    @property
    def workspace_bytes(self) -> int:
        """What is shared, and a thread's sums."""
        return self.shared_bytes + self.private_elements * self.element.bytes

    @cached_property
    def cycles(self) -> float:
        """Expected, of one thread of a machine whose vectors take two turns."""
        p, tile = self.problem, self.tile
        rows = p.batch * p.groups * self.blocks * prod(p.out[:2])
        vectors, segments = rows * ceil(p.out[2] / self.lanes), rows * ceil(p.out[2] / self.segment)
        work = {
            "product": vectors * tile.sums,
            "load": vectors * (tile.results * len(tile.passes) + sum(tile.passes)),
            "upstream": vectors * tile.results,
            "lane sum": self.tasks * tile.sums,
            "line": p.traffic_bytes / _LINE_BYTES,
            "waiting": memory_cycles(p.traffic_bytes),
            "pass": segments * (tile.sums + _PASS * len(tile.passes)),
            "dealt": self.residue_elements,
            "call": 1,
        }
        return sum(_HALVED[unit] * count for unit, count in work.items())


def refuses(problem: Problem, isa: ISA) -> str | None:
    """More samples than a workspace holds."""
    if lines_strided(problem, isa).residue_elements * sum_type(problem).bytes > _MOST_RESIDUE_BYTES:
        return "x is larger than what it deals out"
    return None


def lines_strided(problem: Problem, isa: ISA, chosen: Tile | None = None) -> LinesStrided:
    """With the tile that is expected to be fastest, unless one has been chosen."""
    return LinesStrided(problem, chosen or _fastest(problem, isa), isa.lanes(sum_type(problem)))


def _fastest(problem: Problem, isa: ISA) -> Tile:
    """The tile that is expected to be fastest, or one of a single pass, which reads g once, if it is not far behind."""
    best, single = (lines_tile.fastest(problem, isa, passes) for passes in (None, 1))
    assert best is not None, "one result of one tap fits any registers"
    if single is None:
        return best
    allowed = _SINGLE * lines_tile.each_cycles(best, problem, isa)
    return single if lines_tile.each_cycles(single, problem, isa) <= allowed else best


_NUMBERS = (
    "groups", "blocks", "rows", "w", "ow", "low", "stride", "pitch", "pieces", "part", "units", "chunks", "taps",
    "private", "segment", "has_bias", "weights", "channels",
)  # fmt: skip


def _fields(element: Type) -> dict[str, Type]:
    own = {"residues": ptr(computed(element)), "table": ptr(i32)}
    return arrays(element) | own | dict.fromkeys(_NUMBERS, i64)


def bound(asked: LinesStrided) -> Executable:
    """The kernel with every number of the shape fixed."""
    problem, spec, tile = asked.problem, asked.problem.spec, asked.tile
    element, itemsize, table = BY_DTYPE[problem.dtype], asked.element.bytes, _table(asked)
    code = jit.kernel(("lines_strided", problem.dtype, tile), lambda isa: _write(isa, element, tile))
    numbers = in_order(_NUMBERS, {
        "groups": problem.groups, "blocks": asked.blocks, "rows": prod(problem.out[:2]), "w": problem.size[2],
        "ow": problem.out[2], "low": spec.padding[2][0], "stride": spec.stride[2], "pitch": asked.pitch,
        "pieces": asked.pieces, "part": asked.part, "units": asked.units, "chunks": asked.chunks,
        "taps": spec.kernel[2], "private": asked.private_elements, "segment": asked.segment,
        "has_bias": int(problem.bias), "weights": problem.c_out * spec.kernel[2], "channels": problem.c_out,
    })  # fmt: skip
    parts_at = asked.residue_elements * itemsize
    bias_at = parts_at + asked.chunks * problem.c_out * spec.kernel[2] * itemsize
    return Launch(
        [
            (code.address("deal"), asked.rows * spec.stride[2], 1),
            (code.address("accumulate"), asked.tasks, max(1, asked.tasks // 64)),
            (code.address("finish"), 1, 1),
        ],
        (0, 0, 0, 0, parts_at, bias_at, asked.shared_bytes, 0, address(table), *numbers),
        (0, 1, 2, 3 if problem.bias else NOTHING, WORKSPACE, WORKSPACE, WORKSPACE, WORKSPACE),
        shared_bytes=ceil(asked.shared_bytes / 64) * 64,
        own_bytes=asked.private_elements * itemsize,
        most_threads=useful_threads(asked.cycles, asked.tasks),
        keep=table,
    )


def _table(asked: LinesStrided) -> Array:
    """Where in the residues each tap reads."""
    spec = asked.problem.spec
    at = np.arange(spec.kernel[2]) * spec.dilation[2]
    places: Array = (at % spec.stride[2] * asked.pitch + at // spec.stride[2]).astype(np.int32)
    return places


def _write(isa: ISA, element: Type, tile: Tile) -> Module:
    module, wide = Module("lines_strided", isa), computed(element)
    lanes = isa.lanes(wide)
    _write_deal(module, element, lanes)
    lines_tile.write_finish(module, element, lanes, _fields(element))
    kinds = {
        (count, first, edge) for n, count in enumerate(tile.passes) for first in (n == 0,) for edge in (False, True)
    }
    sums = {kind: _write_sums(module, element, lanes, tile, *kind) for kind in sorted(kinds)}
    f = module.entry("accumulate", **_fields(element))
    a, results = f.args, tile.results
    with f.loop(a.begin, a.end) as task:
        block, rest = task.i % a.blocks, task.i // a.blocks
        group, chunk = rest % a.groups, rest // a.groups
        acc = a.own.at(a.thread * a.private)
        of_g = acc.at(tile.sums * lanes)
        with f.loop(0, tile.sums + results) as i:
            acc.store(zeros(f, wide, lanes), i.i * lanes)
        channel, plane = (group * a.blocks + block) * results, a.rows * a.ow
        with f.loop(chunk * a.units // a.chunks, (chunk + 1) * a.units // a.chunks) as unit:
            start, line = unit.i % a.pieces * a.part, unit.i // a.pieces
            image, row = line // a.rows, line % a.rows
            stop = minimum(start + a.part, a.ow)
            x = a.residues.at(((image * a.groups + group) * a.rows + row) * a.stride * a.pitch)
            g = a.g.at((image * a.channels + channel) * plane + row * a.ow)
            with f.loop(start, stop, a.segment) as at:
                end = minimum(at.i + a.segment, stop)
                whole = at.i + (end - at.i) // lanes * lanes
                ahead = select(end.eq(stop), plane * results + start - at.i, a.segment)
                first = 0
                for n, count in enumerate(tile.passes):
                    asked = plane * min(tile.first_asks + max(n - 1, 0), results - 1)
                    shared = x, g, acc.at(first * results * lanes), of_g, plane, a.table.at(first)
                    f.call(sums[count, n == 0, False], *shared, at.i, whole, ahead, asked)
                    with f.when(whole < end):
                        f.call(sums[count, n == 0, True], *shared, whole, end, ahead, asked)
                    first += count
        to, first = a.parts.at(chunk * a.weights + channel * a.taps), 0
        for count in tile.passes:
            with f.loop(0, results) as k, f.loop(0, count) as c:
                to[k.i * a.taps + c.i + first] = lane_sum(
                    acc.load((k.i * count + c.i + first * results) * lanes, lanes)
                )
            first += count
        with f.loop(0, results * a.has_bias) as k:
            a.bias_parts[chunk * a.channels + channel + k.i] = lane_sum(of_g.load(k.i * lanes, lanes))
    return module


def _write_deal(module: Module, element: Type, lanes: int) -> None:
    """Adds the entry ``deal``: a task is one residue of a row of x."""
    wide = computed(element)
    f = module.entry("deal", **_fields(element))
    a, zero = f.args, f.const(wide, 0)
    with f.loop(a.begin, a.end) as task:
        residue = task.i % a.stride
        x, to, begin = a.x.at(task.i // a.stride * a.w), a.residues.at(task.i * a.pitch), residue - a.low
        low = minimum(a.pitch, maximum(0, (a.low - residue + (a.stride - 1)) // a.stride))
        high = maximum(low, minimum(a.pitch, (a.w - begin + (a.stride - 1)) // a.stride))
        for first, last in ((0, low), (high, a.pitch)):
            with f.loop(first, last) as j:
                to.store(zero, j.i)
        with f.loop(low, high) as j:
            to.store(convert(x.load(j.i * a.stride + begin), wide), j.i)


def _write_sums(module: Module, element: Type, lanes: int, tile: Tile, taps: int, first: bool, edge: bool) -> Function:
    """Adds a function: acc[result][tap] += the products of the columns from ``begin`` to ``end``.

    The ``first`` of a tile adds g itself to ``of_g``. At an ``edge`` the last vector is not a whole one.
    """
    wide = computed(element)
    f = module.function(
        f"{'first' if first else 'sums'}{taps}{'_edge' * edge}", x=ptr(wide), g=ptr(element), acc=ptr(wide),
        of_g=ptr(wide), plane=i64, table=ptr(i32), begin=i64, end=i64, ahead=i64, asked=i64,
    )  # fmt: skip
    a, results = f.args, tile.results
    sources = [a.x.at(convert(a.table.load(c), i64)) for c in range(taps)]
    planes = [a.plane * k if k else f.const(i64, 0) for k in range(results)]
    places = [a.acc.at(k * lanes) for k in range(results * taps)] + [
        a.of_g.at(k * lanes) for k in range(results * first)
    ]
    with f.loop(a.begin, a.end, lanes, carry=[place.load(0, lanes) for place in places]) as i:
        live = lanes_below(f, a.end - i.i, lanes, i32) if edge else None
        rows = [a.g.at(plane).at(i.i) for plane in planes]
        if not edge:
            for row in rows[: tile.first_asks] if first else [a.g.at(a.asked).at(i.i)]:
                row.prefetch(a.ahead, locality=2)
        upstream, sums = [convert(row.load(0, lanes, live), wide) for row in rows], list(i.values)
        for c, source in enumerate(sources):
            value = source.load(i.i, lanes, live)
            for k, one in enumerate(upstream):
                sums[k * taps + c] = fma(one, value, sums[k * taps + c])
        products = results * taps
        i.values = sums[:products] + [total + one for total, one in zip(sums[products:], upstream, strict=False)]
    for place, total in zip(places, i.values, strict=True):
        place.store(total)
    return f
