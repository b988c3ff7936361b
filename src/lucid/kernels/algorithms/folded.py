"""Dense convolution whose dilation is half an axis or more: its two ends are folded onto each other.

Of three taps then few meet samples: those of the last samples at the first positions, the other way round, and the one
in the middle. Where a are the first samples, b those a dilation further on, and m what lies between::

    size 8, dilation 5, padding 5         samples      a a a m m b b b
                                          core         w1 (a + b), w1 m
                                          ahead        (w2 - w1) b
                                          behind       (w0 - w1) a

    first results   w1 a + w2 b = w1 (a + b) + (w2 - w1) b
    between         w1 m
    last results    w0 a + w1 b = w1 (a + b) + (w0 - w1) a

Three products take the place of four, nine that of sixteen along two axes. Each combination of core, ahead and behind
along the axes is a region: positions, gathered with additions, that are multiplied with one matrix of weights, which
is made beforehand; its sums are added to the result wherever they belong. The input gradient is the same with w0 and w2
exchanged.

Errors are those of a sum over the regions that meet in a result: see ``error_growth``. A NaN or an infinity may reach
all results that share a region with its own. Strict precision rules the algorithm out: see ``lucid.set_precision``.

Source: Karatsuba's product of two terms by two, transposed, as of a Toeplitz matrix: Winograd, Arithmetic Complexity of
Computations, 1980.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise, product
from math import ceil, prod
from typing import Any

import numpy as np

from lucid.core.geometry import Sizes
from lucid.kernels import jit, target
from lucid.kernels.algorithms import dense_cost, dense_plan, folded_kernel
from lucid.kernels.algorithms.base import (
    GHZ,
    Executable,
    address,
    channels,
    planned,
    priced,
    sum_type,
    turns_of,
    useful_threads,
)
from lucid.kernels.algorithms.folded_kernel import ARRAYS, NUMBERS, REGION, Form, in_lines
from lucid.kernels.algorithms.pixel_gather import ENTRY_BYTES
from lucid.kernels.algorithms.tile import Tile, fitting, table_of
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA
from lucid.kernels.launch import KEPT, NOTHING, WORKSPACE, Launch, in_order
from lucid.kernels.plan import WORKSPACE_BYTES, Plan, Problem, Role
from lucid.kernels.runtime import memory

Array = np.ndarray[Any, Any]

name = "folded"
roles: tuple[Role, ...] = ("forward", "grad_input")
dtypes = ("float32", "float64", "float16", "bfloat16")

CORE, AHEAD, BEHIND = "core", "ahead", "behind"
_TASKS = 16  # wanted at most, since each gathers its samples anew
_MOST_POSITIONS = 1 << 16  # of an image: tables are made for each
_SPAN = 640  # positions, at most, whose sums wait
_MOST_STEPS = 1024
_TOGETHER = 16  # channels, whose weights lie side by side in a row
#: By how much the sums of products may exceed direct summation's along a folded axis, numbers being all alike.
_GROWTH = 2.0
#: Cycles of one thread, fitted to 26 plans on a Zen 4: all but those in 3-D are within a fifth.
_COST = {
    "product": 0.51,  # of vectors
    "gather": 8.0,  # a vector of samples, or one added to it, in two pieces at most
    "widen": 3.0,  # such a vector of half precision
    "visit": 0.8,  # a vector of sums, to memory or from it
    "run": 8.0,  # of sums, added to the result
    "spread": 2.0,  # a vector of them
    "term": 0.75,  # of a region's weight
    "call": 5000.0,
}
#: The same where a product takes two turns of its unit.
_HALVED = {"product": 1.2, "gather": 9.5, "visit": 1.6}


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of so many samples, of which the first and last ``ends`` are ``apart``; none where it is not folded."""

    size: int
    apart: int
    ends: int
    taps: Sizes  #: weights of the core, of what is ahead, of what is behind

    @property
    def kinds(self) -> tuple[str, ...]:
        """The parts that its positions are in."""
        return (CORE, AHEAD, BEHIND) if self.ends else (CORE,)

    def positions(self, kind: str) -> int:
        """Of such a part."""
        return self.size - self.ends if kind == CORE else self.ends

    def sources(self, kind: str) -> list[tuple[int, int]]:
        """Where the samples lie whose sum it is, and how many of its positions have each."""
        if kind == CORE:
            return [(0, self.positions(kind)), *([(self.apart, self.ends)] if self.ends else [])]
        return [(self.apart if kind == AHEAD else 0, self.ends)]

    def targets(self, kind: str) -> list[tuple[int, int]]:
        """Where its sums are added, and how many of them."""
        if kind == CORE:
            return self.sources(kind)
        return [(0 if kind == AHEAD else self.apart, self.ends)]

    def weights(self, kind: str) -> list[tuple[int, int]]:
        """The taps that its weights are a sum of, each with its sign."""
        core, ahead, behind = self.taps
        return [(core, 1)] if kind == CORE else [(ahead if kind == AHEAD else behind, 1), (core, -1)]


def _terms(axis: Axis) -> float:
    """Of a region's weights along the axis, on average."""
    return sum(len(axis.weights(kind)) for kind in axis.kinds) / len(axis.kinds)


def axes(problem: Problem) -> list[Axis] | None:
    """The axes of a problem; None if one cannot be folded, and is more than a kernel of one tap."""
    spec, found = problem.spec, []
    for size, out, k, s, d, padding in zip(
        problem.size, problem.out, spec.kernel, spec.stride, spec.dilation, spec.padding, strict=True
    ):
        if s > 1 or size != out:
            return None
        if k == 1:
            found.append(Axis(size, 0, 0, (0, 0, 0)))
        elif k == 3 and padding == (d, d) and size <= 2 * d:
            ahead, behind = (2, 0) if problem.role == "forward" else (0, 2)
            found.append(Axis(size, d, max(0, size - d), (1, ahead, behind)))
        else:
            return None
    return found


def refuses(problem: Problem, isa: ISA) -> str | None:
    """All but kernels of three taps whose dilation, and padding, is half of the axis or more."""
    found = axes(problem)
    if found is None or not any(axis.ends for axis in found):
        return "no axis has three taps as far apart as half of its samples"
    if prod(axis.size + axis.ends for axis in found) > _MOST_POSITIONS:
        return f"it tells apart {_MOST_POSITIONS} positions"
    if fold(problem, isa).own_bytes > WORKSPACE_BYTES:
        return "its sums of half precision are more than its workspace"
    return None


def error_growth(plan: Plan) -> float:
    """A result is within so many times the bound of direct summation, where that is largest in its channel.

    Sums of C and some additions take the place of one of C taps.
    """
    folded = sum(axis.ends > 0 for axis in axes(plan.problem) or [])
    summed, taps = channels(plan.problem)[0], plan.problem.spec.taps
    return max(1.0, float(_GROWTH**folded * (summed + 4 * folded) / (summed * taps)))


@dataclass(frozen=True)
class Span:
    """Positions [first, end) of a region, whose kinds along the axes are given, and their tables."""

    number: int  #: of the region
    kinds: tuple[str, ...]
    first: int
    end: int
    axes: tuple[Axis, ...]
    lanes: int

    @property
    def columns(self) -> int:
        """Positions in whole vectors."""
        return ceil((self.end - self.first) / self.lanes) * self.lanes

    @cached_property
    def gathered(self) -> tuple[Array, Array]:
        """The entries that fill a panel's vectors, and those that add to it, as ``pixel_gather`` has them."""
        fills: list[_Pair] = []
        adds: list[_Pair] = []
        for number, pieces in enumerate(self._runs(Axis.sources)):
            vectors: dict[int, list[_Segment]] = {}
            for run in pieces:
                for segment in _segments(*run, self.lanes):
                    vectors.setdefault(segment.vector, []).append(segment)
            for own in vectors.values():
                first, *others = [tuple(own[k : k + 2]) for k in range(0, len(own), 2)]
                (adds if number else fills).append(first)
                adds += others
        return _entries(fills), _entries(adds)

    @cached_property
    def spread(self) -> Array:
        """Of every run of sums: where it begins, where it goes to, how long it is."""
        runs = [run for pieces in self._runs(Axis.targets) for run in pieces]
        return np.array(runs, np.int64).reshape(-1, 3)

    def _runs(self, ends: Any) -> Iterator[list[tuple[int, int, int]]]:
        """For each combination of ends along the axes, its runs: position in the span, place in the plane, count."""
        _, height, width = (axis.size for axis in self.axes)
        _, high, wide = (axis.positions(kind) for axis, kind in zip(self.axes, self.kinds, strict=True))
        each = [ends(axis, kind) for axis, kind in zip(self.axes, self.kinds, strict=True)]
        for (at_z, many_z), (at_y, many_y), (at_x, many_x) in product(*each):
            found = []
            for z, y in product(range(many_z), range(many_y)):
                start = (z * high + y) * wide
                low, end = max(start, self.first), min(start + many_x, self.end)
                place = ((at_z + z) * height + at_y + y) * width + at_x + low - start
                if low < end:
                    found.append((low - self.first, place, end - low))
            yield found


@dataclass(frozen=True, slots=True)
class _Segment:
    """Lanes [low, high) of a vector that begins at a position, and where the sample of its lane 0 would lie."""

    vector: int
    source: int
    low: int
    high: int


_Pair = tuple[_Segment, ...]  #: one or two of the same vector, of which no lane is in both


def _segments(at: int, place: int, count: int, lanes: int) -> Iterator[_Segment]:
    """A run of samples as parts of vectors."""
    edges = sorted({at, at + count, *range(ceil(at / lanes) * lanes, at + count, lanes)})
    for low, high in pairwise(edges):
        vector = low // lanes * lanes
        yield _Segment(vector, place + vector - at, low - vector, high - vector)


def _entries(pairs: list[_Pair]) -> Array:
    """As ``pixel_gather`` reads them."""
    rows = []
    for pair in pairs:
        lanes = [segment.low | segment.high << 16 for segment in pair]
        sources = [segment.source for segment in pair]
        rows.append((sources[0], sources[-1], pair[0].vector | lanes[0] << 32, lanes[1] if len(pair) > 1 else 0))
    return np.array(rows, np.int64).reshape(-1, ENTRY_BYTES // 8)


@dataclass(frozen=True)
class Fold:
    """A problem with its tile and the parts of its rows."""

    problem: Problem
    tile: Tile
    row_parts: int

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """Along which it is folded, or not."""
        return tuple(axes(self.problem) or ())

    @cached_property
    def regions(self) -> list[tuple[str, ...]]:
        """The core of all axes first."""
        return list(product(*(axis.kinds for axis in self.axes)))

    @cached_property
    def spans(self) -> list[Span]:
        """All regions, each in pieces of some positions."""
        found = []
        for number, kinds in enumerate(self.regions):
            count = prod(axis.positions(kind) for axis, kind in zip(self.axes, kinds, strict=True))
            vectors = ceil(count / self.tile.lanes)
            pieces = ceil(count / _SPAN)
            edges = [min(count, vectors * n // pieces * self.tile.lanes) for n in range(pieces)]
            found += [Span(number, kinds, *ends, self.axes, self.tile.lanes) for ends in pairwise([*edges, count])]
        return found

    @property
    def rows(self) -> int:
        """Of a group."""
        return channels(self.problem)[1]

    @property
    def channels(self) -> int:
        """Summed, of a group."""
        return channels(self.problem)[0]

    @property
    def blocks(self) -> int:
        """Tiles that cover the rows of a group."""
        return ceil(self.rows / self.tile.rows)

    @property
    def part_blocks(self) -> int:
        """Those of a task."""
        return ceil(self.blocks / self.row_parts)

    @property
    def tasks(self) -> int:
        """One for each image, group and part of the rows."""
        return self.problem.batch * self.problem.groups * ceil(self.blocks / self.part_blocks)

    def steps(self, span: Span) -> int:
        """Channels whose samples fill a third of the second cache."""
        room = target.cpu().l2_bytes * 2 // 5 // (span.columns * self.sum_bytes)
        count = ceil(self.channels / max(1, min(room, _MOST_STEPS)))
        return ceil(self.channels / count)

    @property
    def panel_elements(self) -> int:
        """Of the largest."""
        return max(self.steps(span) * span.columns for span in self.spans)

    @property
    def sums_elements(self) -> int:
        """Of the widest span's sums."""
        return self.part_blocks * self.tile.rows * max(span.columns for span in self.spans)

    @property
    def results_elements(self) -> int:
        """Of a task's rows, where they are rounded once all regions have been added."""
        return self.part_blocks * self.tile.rows * self.problem.pixels * (self.problem.itemsize < self.sum_bytes)

    @property
    def sum_bytes(self) -> int:
        """Of a number as it is summed."""
        return sum_type(self.problem).bytes

    @property
    def own_elements(self) -> int:
        """A thread's workspace: zeros, a row to throw away, sums, a panel, results; whole lines of the cache."""
        parts = self.tile.rows, self.tile.columns, self.sums_elements, self.panel_elements, self.results_elements
        return sum(map(in_lines, parts))

    @property
    def own_bytes(self) -> int:
        """The same in bytes."""
        return self.own_elements * self.sum_bytes

    @property
    def region_elements(self) -> int:
        """From a tile's weights of one region to the next one's: a line further on than they are long.

        All are written at once, and a first level cache has fewer places than there are regions.
        """
        return in_lines(self.channels * self.tile.rows) + in_lines(1)

    @property
    def kept_bytes(self) -> int:
        """The weights of all regions."""
        elements = self.problem.groups * self.blocks * len(self.regions) * self.region_elements
        return ceil(elements * self.sum_bytes / memory.ALIGN_BYTES) * memory.ALIGN_BYTES

    @property
    def work(self) -> dict[str, float]:
        """What one thread does, in the units of ``_COST``."""
        problem, tile = self.problem, self.tile
        many, vectors = problem.batch * problem.groups, sum(span.columns for span in self.spans) // tile.lanes
        entries = sum(len(table) for span in self.spans for table in span.gathered)
        visits = sum(span.columns // tile.lanes * ceil(self.channels / self.steps(span)) for span in self.spans)
        return {
            "product": many * self.blocks * self.channels * sum(tile.across(span.columns) for span in self.spans),
            "gather": many * self.row_parts * self.channels * entries,
            "visit": many * self.blocks * tile.rows * visits,
            "run": many * self.rows * sum(len(span.spread) for span in self.spans),
            "spread": many * self.rows * vectors,
            "widen": many * self.row_parts * self.channels * entries * (problem.itemsize < self.sum_bytes),
            "term": self.kept_bytes / self.sum_bytes * prod(map(_terms, self.axes)),
            "call": 1,
        }

    @cached_property
    def cycles(self) -> float:
        """Expected, of one thread."""
        turns = turns_of(self.tile.lanes, sum_type(self.problem))
        return priced(self.work, _COST, _HALVED, turns) + dense_cost.traffic_ns(self.problem) * GHZ


@lru_cache(maxsize=64)
def fold(problem: Problem, isa: ISA) -> Fold:
    """The tile of least waste for the rows; parts of these for some tasks."""
    rows = channels(problem)[1]
    fit = [tile for tile in fitting(isa, sum_type(problem)) if tile.vectors > 1 and tile.rows <= max(rows, 2)]
    tile = min(fit, key=lambda tile: dense_plan.waste(tile, rows))
    ways = [Fold(problem, tile, parts) for parts in (1, 2, 4) if parts <= ceil(rows / tile.rows)]
    return min(ways, key=lambda way: way.cycles * (1 + 0.5 / min(_TASKS, way.tasks)))


def least_ns(problem: Problem, isa: ISA) -> float:
    """The time of its products at the full rate."""
    lanes, found = _lanes(problem, isa), axes(problem)
    if found is None:
        return 0.0
    products = problem.batch * problem.c_out * problem.group_in * prod(axis.size + axis.ends for axis in found) / lanes
    return priced({"product": products}, _COST, _HALVED, turns_of(lanes, sum_type(problem))) / GHZ


def plan(problem: Problem, isa: ISA) -> Plan:
    """The tile of least waste."""
    chosen = fold(problem, isa)
    left = prod(axis.size + axis.ends for axis in chosen.axes)
    made = planned(
        name,
        chosen,
        isa,
        chosen.tasks,
        tile=(("rows", chosen.tile.rows), ("vectors", chosen.tile.vectors)),
        blocking=(("row_parts", chosen.row_parts),),
        packed_bytes=chosen.kept_bytes,
        why=f"{left / problem.spec.pairs(problem.size):.0%} of the products with samples: ends are folded",
    )
    return replace(made, workspace_bytes=made.workspace_bytes + made.packed_bytes)


def bind(plan: Plan, isa: ISA) -> Executable:
    """The kernels with every number and table of the shape fixed."""
    return bound(Fold(plan.problem, Tile(plan["rows"], plan["vectors"], _lanes(plan.problem, isa)), plan["row_parts"]))


def _lanes(problem: Problem, isa: ISA) -> int:
    return isa.lanes(sum_type(problem))


def bound(asked: Fold) -> Executable:
    """The same of a tile and parts that have been chosen."""
    problem, tile, taps = asked.problem, asked.tile, asked.problem.spec.taps
    form = Form(tile, tuple(_taps(asked, kinds) for kinds in asked.regions))
    code = jit.kernel((name, problem.dtype, form), lambda isa: folded_kernel.write(isa, BY_DTYPE[problem.dtype], form))
    records, tables = _records(asked)
    steps = (problem.group_in * taps, taps) if problem.role == "forward" else (taps, problem.group_in * taps)
    numbers = {
        "groups": problem.groups, "rows": asked.rows, "channels": asked.channels, "blocks": asked.blocks,
        "part_blocks": asked.part_blocks, "parts": ceil(asked.blocks / asked.part_blocks), "plane": problem.pixels,
        "row_step": steps[0], "channel_step": steps[1], "group_step": problem.group_out * problem.group_in * taps,
        "spans": len(asked.spans), "own_elements": asked.own_elements,
        "panel_at": asked.own_elements - in_lines(asked.panel_elements) - in_lines(asked.results_elements),
        "results_at": asked.own_elements - in_lines(asked.results_elements), "region_elements": asked.region_elements,
        "together": _TOGETHER if problem.role == "forward" else 1,
    }  # fmt: skip
    return Launch(
        [(code.address("weights"), problem.groups * asked.blocks, 1), (code.address("run"), asked.tasks, 1)],
        (*[0] * len(ARRAYS), address(records), *in_order(NUMBERS, numbers)),
        (0, 1, 2 if problem.bias else NOTHING, 3, KEPT, WORKSPACE),
        kept_bytes=asked.kept_bytes,
        own_bytes=asked.own_bytes,
        most_threads=useful_threads(asked.cycles, asked.tasks),
        keep=(records, tables),
    )


def _taps(asked: Fold, kinds: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Of a region's weights: places in the kernel, and signs."""
    _, height, width = asked.problem.spec.kernel
    each = product(*(axis.weights(kind) for axis, kind in zip(asked.axes, kinds, strict=True)))
    return tuple(((z * height + y) * width + x, a * b * c) for (z, a), (y, b), (x, c) in each)


def _records(asked: Fold) -> tuple[Array, list[Array]]:
    """The numbers of all spans, and the tables that they point to."""
    tables, rows = [], []
    for span in asked.spans:
        steps = asked.steps(span)
        each = np.arange(steps)
        places = table_of(each * span.columns, each * asked.tile.rows)
        fills, adds = span.gathered
        tables += [fills, adds, places, span.spread]
        numbers = {
            "fills": address(fills), "fill_count": len(fills), "adds": address(adds), "add_count": len(adds),
            "places": address(places), "runs": address(span.spread), "run_count": len(span.spread),
            "region": span.number, "columns": span.columns, "block": steps,
        }  # fmt: skip
        rows.append([numbers[name] for name in REGION])
    return np.array(rows, np.int64), tables
