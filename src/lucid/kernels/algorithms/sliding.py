"""Correlation by rows that slide through registers: small kernels and strides, depthwise or of small groups.

The same sums as ``correlation``, of two axes, without frames: the source is read where it lies, once for every strip
of columns and every few results. What does not fit in registers, or pads more than a window, is left to that one.
Weight gradients are in ``sliding_grad``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from itertools import product
from math import ceil

import numpy as np

from lucid.kernels import jit, target
from lucid.kernels.algorithms import sliding_grad
from lucid.kernels.algorithms.base import (
    MOST_PRODUCTS,
    Executable,
    address,
    channels,
    memory_cycles,
    planned,
    sum_type,
    turns_of,
    useful_threads,
)
from lucid.kernels.algorithms.correlation import Axis, axes_of, many_channels, many_phases
from lucid.kernels.algorithms.row_boxes import RowBoxes
from lucid.kernels.algorithms.sliding_kernel import NUMBERS, write
from lucid.kernels.algorithms.sliding_tile import HELD, WAITING, Slide
from lucid.kernels.epilogue import is_short, sources
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, ByAlignment, Launch, in_order
from lucid.kernels.plan import Plan, Problem

name = "sliding"
dtypes = ("float32", "float64", "float16", "bfloat16")

_LINE_BYTES = 64
_MORE_CHANNELS = 1024  # of a group's c_in x c_out
#: Channels of g in a group, which would fill a quarter of a vector of them; where units take one in two turns, so that
#: products are what counts, a few more.
_FEW_UPSTREAM = {1: 4, 2: 6}
#: Of the time that memory takes, what a Zen 4 waits; in addition, of what half of the last cache does not hold. Planes
#: of more than a few sources are as many streams, so slow that products hide behind them.
_NEAR_WAITING, _FAR_WAITING, _STREAMS = 0.3, 1.0, 3.5
_FEW_SOURCES = 8
_STRIP_CYCLES = 40  # to begin one
#: A ring is filled anew in each chunk of tasks, which takes 300 cycles: few chunks, as many for either of two threads,
#: and so many again for every so many cycles.
_RING_CHUNKS, _RING_CYCLES = 16, 1_600_000
_EDGES_PAY = 50  # rows of taps, of which one is left out
_SPREAD_STEPS = 24  # of a task, that read a number before it is worth a vector of its own


@dataclass(frozen=True, slots=True)
class Sliding(RowBoxes):
    """A problem with its tile and its boxes of ``box_h`` rows of positions."""

    problem: Problem
    axes: tuple[Axis, ...]
    tile: Slide
    lanes: int
    box_h: int

    @property
    def positions(self) -> tuple[int, int]:
        """Rows and columns of positions, each with all phases of the result."""
        return ceil(self.size[0] / len(self.tile.downs)), ceil(self.size[1] / len(self.tile.across))

    @property
    def spare_elements(self) -> int:
        """A row of a strip, which a thread may throw away, and a ring of rows."""
        ring = self.tile.ring_rows * self.tile.ring_row(self.lanes) + self.lanes if self.tile.ring else 0
        return ceil(len(self.tile.across) * self.tile.vectors * self.lanes / 16) * 16 + ring

    @property
    def private_elements(self) -> int:
        """A thread's workspace: the spare row, and weights of a group where they are copied."""
        weights = self.sources * self.results * self.problem.spec.taps
        apart = self.problem.itemsize < 4 and not self.tile.holds
        copied = weights * self.lanes if self.tile.spreads else weights * apart
        return self.spare_elements + ceil(copied / 16) * 16

    @property
    def own_bytes(self) -> int:
        """The same in bytes."""
        return self.private_elements * sum_type(self.problem).bytes

    @property
    def cycles(self) -> float:
        """Expected, of one thread."""
        strips, groups = ceil(self.positions[1] / (self.tile.vectors * self.lanes)), self.results / self.tile.results
        work = strips * groups * self._strip_cycles(replace(self.tile, tail=0))
        if self.tile.tail:
            work = groups * self._strip_cycles(self.tile.last) + work * (strips - 1) / strips
        traffic_bytes, work = self.problem.traffic_bytes, self.tasks * (work + 40)
        memory = memory_cycles(traffic_bytes)
        if turns_of(self.lanes, sum_type(self.problem)) == 1:
            return work + WAITING * memory + 4200
        if self.sources > _FEW_SOURCES:
            return max(work + _NEAR_WAITING * memory, _STREAMS * memory) + 4200
        beyond = max(0, traffic_bytes - target.cpu().l3_bytes // 2)
        return work + _NEAR_WAITING * memory + _FAR_WAITING * beyond / 6 + 4200

    def _strip_cycles(self, tile: Slide) -> float:
        reach, turns = max(lags[-1] for lags in tile.lags), turns_of(self.lanes, sum_type(self.problem))
        steps = self.box_h + (reach if self.boxes > 1 else 0)
        if turns > 1:  # rows of the source alone are steps: without padding more than of the result, or fewer
            read = min(self.box_h + reach, ceil(self.source[0] / tile.stride[0]))
            steps = max(read, self.box_h) if self.tile.tail else read  # with half vectors fewer take no less
        return tile.cycles(steps, self.sources, self.lanes, turns) + _STRIP_CYCLES


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Volumes, lines, groups of many channels, machines without masks, and what no tile holds."""
    if "avx512f" not in isa.requires:
        return f"it shifts registers and masks loads as {isa.name} cannot"
    if problem.size[0] * problem.out[0] * problem.spec.kernel[0] != 1 or problem.spec.padding[0] != (0, 0):
        return "it slides along one of two axes, not three"
    if 1 in (problem.size[1], problem.out[1], problem.spec.kernel[1]):
        return "one row does not slide, and what is set up for it takes longer than the row"
    if many := many_channels(problem, *_more_channels(problem, isa)) or many_phases(problem):
        return many
    if problem.role == "grad_weight":
        return sliding_grad.refuses(problem, isa)
    return None if tiles(problem, isa) else "the rows in flight do not fit in registers, or read nothing"


def _more_channels(problem: Problem, isa: ISA) -> tuple[int, ...]:
    """How many a group may have, if more than usual.

    In a weight gradient each pair has sums of its own, which pays with few channels of g, whose lanes ``weight_grad``
    would leave empty. Of others, planes of many sources beyond the caches are waited for.
    """
    near = problem.traffic_bytes <= target.cpu().l3_bytes // 2
    few = problem.group_out <= _FEW_UPSTREAM[target.cpu().turns(isa)]
    pays = few if problem.role == "grad_weight" else near
    return (_MORE_CHANNELS,) if pays else ()


def fuses(problem: Problem) -> bool:
    """Short epilogues, as sums leave their registers."""
    return is_short(problem.epilogue)


def plan(problem: Problem, isa: ISA) -> Plan:
    """The tile that is expected to be fastest."""
    if problem.role == "grad_weight":
        return _plan_grad(problem, isa)
    asked = min(tiles(problem, isa), key=_preference)
    tile = asked.tile
    return planned(
        name,
        asked,
        isa,
        asked.tasks,
        tile=(("results", tile.results), ("vectors", tile.vectors), ("rows", sum(map(len, tile.lags)))),
        blocking=(("box_rows", asked.box_h), ("boxes", asked.boxes)),
        why=f"pixels in lanes, rows slide through registers, {tile.products:g} products a step and source",
    )


def _preference(option: Sliding) -> tuple[float, bool, int]:
    """Least first. Strips of one row that differ in vectors they do not use take equally long: whole ones have fewer
    masks."""
    tile = option.tile
    return option.cycles, not (tile.in_turns and tile.whole), -tile.vectors


def bind(plan: Plan, isa: ISA) -> Executable:
    """The kernel with every number of the shape fixed."""
    problem = plan.problem
    if problem.role == "grad_weight":
        asked = sliding_grad.sliding_grad(problem, isa, plan["downs"])
        assert asked is not None, "it was planned"
        return sliding_grad.bind(asked, isa)
    return bound(_sliding(problem, isa, axes_of(problem), plan["results"], plan["vectors"]), isa)


def _plan_grad(problem: Problem, isa: ISA) -> Plan:
    asked = sliding_grad.sliding_grad(problem, isa)
    assert asked is not None, "it is not refused"
    return planned(
        name,
        asked,
        isa,
        asked.tasks,
        tile=(("downs", asked.tile.downs), ("across", len(asked.tile.across))),
        blocking=(("passes", len(asked.passes)),),
        why="pixels in lanes, rows slide through registers",
        sums_upstream=True,
    )


@lru_cache(maxsize=64)
def tiles(problem: Problem, isa: ISA) -> list[Sliding]:
    """All that the registers hold."""
    axes, results = axes_of(problem), channels(problem)[1]
    if not all(phase for axis in axes for phase in axis.phases):
        return []
    every = [
        _sliding(problem, isa, axes, k, vectors)
        for k, vectors in product((1, 2, 3, 4, 8), (1, 2, 3, 4))
        if results % k == 0
    ]
    skips = axes[1].low // every[0].tile.stride[0]  # steps that read nothing but zeros must not finish a row
    return [
        one
        for one in every
        if one.tile.registers(one.lanes) <= isa.registers
        and one.tile.products <= MOST_PRODUCTS
        and all(skips <= lags[-1] for lags in one.tile.lags)
    ]


def _widths(problem: Problem) -> tuple[int, int]:
    """Columns of the source and of the result."""
    ends = problem.size[2], problem.out[2]
    return ends if problem.role == "forward" else ends[::-1]


def _sliding(problem: Problem, isa: ISA, axes: tuple[Axis, ...], results: int, vectors: int) -> Sliding:
    spec = problem.spec
    stride = (spec.stride[1], spec.stride[2]) if problem.role == "forward" else (1, 1)
    across = tuple(tuple((t, at - axes[2].low) for t, at in phase) for phase in axes[2].phases)
    several = channels(problem)[0] > 1
    lanes, (source, result) = isa.lanes(sum_type(problem)), _widths(problem)
    whole = ceil(source / lanes) == vectors * stride[1] and ceil(result / lanes) == vectors * len(across)
    dots = problem.dtype == "bfloat16" and isa.bf16_dot and _side_by_side(across, stride[1]) and result > lanes // 2
    tile = Slide(results, vectors, axes[1].phases, across, stride, spec.kernel[2], several, whole, dots=dots)
    asked = Sliding(problem, axes, tile, lanes, 1)
    turns, reach = target.cpu().turns(isa), max(lags[-1] for lags in tile.lags)
    once = turns > 1 and asked.results == results and asked.positions[1] <= vectors * lanes
    row_bytes = 0 if once else asked.sources * asked.source[1] * stride[0] * problem.itemsize
    asked = replace(asked, box_h=asked.box_rows(row_bytes, again=reach if turns > 1 else 0))
    return replace(asked, tile=_in_turns(asked)) if turns > 1 else asked


def _side_by_side(across: tuple[tuple[tuple[int, int], ...], ...], stride: int) -> bool:
    """Whether taps across are neighbours, all of them those of each result."""
    places = sorted(at for phase in across for _, at in phase)
    return len(across) == 1 and stride < 3 and len(places) > 1 and places[-1] - places[0] == len(places) - 1


def _in_turns(asked: Sliding) -> Slide:
    """The tile for a machine whose units take an instruction in turns: half a vector costs half of one.

    And numbers that are broadcast as they are loaded keep a unit busy that shifts and multiplies, whole vectors do not:
    they are copied once a task, if enough steps read them.
    """
    tile, lanes, columns = asked.tile, asked.lanes, asked.positions[1]
    strips = ceil(columns / (tile.vectors * lanes))
    halves = ceil((columns - (strips - 1) * tile.vectors * lanes) / (lanes // 2))
    tail = halves if halves < 2 * tile.vectors else 0
    if _pairs(asked):
        return replace(tile, in_turns=True, tail=tail, alone=tail > 0 and strips == 1, pairs=True, whole=False)
    if _folds(asked):
        return replace(tile, in_turns=True, tail=tail, alone=tail > 0 and strips == 1, folds=True, whole=False)
    spreads = not tile.several and not tile.holds and asked.box_h * strips >= _SPREAD_STEPS
    alone = tail > 0 and strips == 1
    half = alone and not tile.dots and _ends_in_half(asked)
    unread = _unread(asked)
    whole = tile.whole or half or unread > 0
    tile = replace(tile, in_turns=True, spreads=spreads, tail=tail, alone=alone, half=half, unread=unread, whole=whole)
    apart = asked.problem.itemsize < 4 and tile.holds and not tile.dots and not tile.whole and tile.stride[1] == 1
    return replace(tile, ring=_rings(asked), edges=_edges(asked), apart=apart)


def _ends_in_half(asked: Sliding) -> bool:
    """Whether a strip is a row, and of what its last vectors read, which a stride may be two of, half is there."""
    tile, lanes, halves = asked.tile, asked.lanes, ceil(asked.source[1] / (asked.lanes // 2))
    if tile.stride[1] == 1:
        return tile.whole and halves < 2 * tile.vectors
    odd = tile.stride[1] == 2 and ceil(halves / 2) == 2 * tile.vectors - 1
    return odd and len(tile.across) == 1 and ceil(asked.size[1] / lanes) == tile.vectors


def _unread(asked: Sliding) -> int:
    """Vectors that a strip's last step of a stride would read behind a row, where that strip is all of it."""
    tile, lanes, step = asked.tile, asked.lanes, asked.tile.stride[1]
    strip = step > 2 and len(tile.across) == 1 and ceil(asked.size[1] / lanes) == tile.vectors
    return max(0, tile.vectors * step - ceil(asked.source[1] / lanes)) if strip else 0


def _edges(asked: Sliding) -> tuple[int, int]:
    """Steps at the top and the bottom of a whole plane during which rows beyond the results would be in flight.

    Of few taps these are written apart: 4 or 5 ms more to compile, of 16 to 21. Halves that are widened gain by any,
    others where a fiftieth of the products or more is left out.
    """
    tile = asked.tile
    if len(tile.lags) > 1 or tile.stride[0] > 1 or not tile.holds or tile.dots:
        return 0, 0
    (lags,), low, rows = tile.lags, asked.axes[1].low, asked.source[0]
    top, bottom = lags[-1] - low, rows + low - asked.size[0]
    fits = min(low, top, bottom) >= 0 and max(top, bottom) <= lags[-1] and top + bottom < rows
    left_out = (top * (top + 1) + bottom * (bottom + 1)) / 2
    pays = asked.problem.itemsize < 4 or _EDGES_PAY * left_out >= len(tile.downs[0]) * rows
    return (top, bottom) if fits and pays and asked.boxes == 1 and lags[0] == 0 else (0, 0)


def _rings(asked: Sliding) -> bool:
    """Whether halves are widened ahead of their steps: in rows of several vectors that one strip holds.

    There few products a vector hide slides or conversions, and not both; a short row's stores are read too soon. No tap
    is farther away than the vector of zeros at either end of a row.
    """
    tile = asked.tile
    row = tile.whole and tile.vectors > 1 and tile.stride == (1, 1) and len(tile.across) == 1
    row = row and all(abs(at) <= asked.lanes for _, at in tile.across[0])
    return row and tile.holds and not tile.dots and asked.problem.itemsize < 4


def _pairs(asked: Sliding) -> bool:
    """Whether two phases of columns are computed in one vector: what they read lies in one, and w in registers."""
    tile = asked.tile
    alike = len(tile.across) == 2 and len(tile.across[0]) == len(tile.across[1]) > 0
    if not alike or tile.several or asked.problem.itemsize < 4:
        return False
    reach = max(at for phase in tile.across for _, at in phase) - tile.first
    return reach <= asked.lanes // 2 and replace(tile, pairs=True).numbers <= HELD


def _folds(asked: Sliding) -> bool:
    """Whether columns of a stride of 2 are not taken apart: neighbouring taps, several twos of them, in registers."""
    tile = asked.tile
    even = tile.stride[1] == 2 and _side_by_side(tile.across, 2) and len(tile.across[0]) in (4, 6)
    return even and asked.problem.itemsize >= 4 and replace(tile, folds=True).holds


def _streams(asked: Sliding) -> bool:
    """Whether results go past the caches: rows of whole lines, and more than the last cache holds."""
    whole = asked.size[1] * asked.problem.itemsize % _LINE_BYTES == 0
    return asked.problem.written_bytes > target.cpu().l3_bytes // 2 and whole


def bound(asked: Sliding, isa: ISA) -> Executable:
    """One tile's kernel, likewise."""
    problem, tile = asked.problem, asked.tile
    element = BY_DTYPE[problem.dtype]
    numbers = in_order(NUMBERS, asked.numbers | {
        "rows": asked.positions[0], "low_h": asked.axes[1].low,
        "private": asked.private_elements, "spare": asked.spare_elements,
    })  # fmt: skip
    no_bias, zeros = np.zeros(1), np.zeros(asked.source[1] * problem.itemsize, np.uint8)
    fields = (0, 0, 0 if problem.bias else address(no_bias), 0, 0, 0, 0, 0, address(zeros), *numbers)
    chunk = max(1, min(asked.tasks // 64, int(50_000 / (asked.cycles / asked.tasks + 1))))
    if tile.ring:
        chunk = ceil(asked.tasks / (_RING_CHUNKS * ceil(asked.cycles / _RING_CYCLES)))

    @cache
    def launch(tile: Slide) -> Launch:
        key = ("sliding", problem.dtype, tile, problem.epilogue)
        code = jit.kernel(key, lambda isa: write(isa, element, tile, problem.epilogue))
        return Launch(
            [(code.address("slide"), asked.tasks, chunk)],
            fields,
            (0, 1, 2 if problem.bias else NOTHING, 3, *sources(problem.epilogue, NOTHING), WORKSPACE, NOTHING),
            own_bytes=asked.own_bytes,
            most_threads=useful_threads(asked.cycles, asked.tasks),
            keep=(no_bias, zeros),
            batch_parts=problem.batch,
        )

    plain = partial(launch, replace(tile, asks=problem.written_bytes > target.cpu().l3_bytes // 4))
    return ByAlignment(launch(replace(tile, stream=True)), plain) if _streams(asked) else plain()
