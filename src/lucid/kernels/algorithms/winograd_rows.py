"""Winograd convolution F(2, 3) down rows in place: 3×k kernels of small groups, forward and input gradient.

``winograd`` moves every patch into tiles, which pays where each is used for many channels. Here columns are in lanes
and rows are read where they lie, as in ``sliding``: transforms down are additions of whole vectors in registers, and
taps across are summed as they are. Two products take the place of three, and the additions take no time from them:
they have units of their own.

Errors are those of a sum over the rows of a step, times a constant: see ``error_growth``. A NaN or an infinity may
reach both rows of a step that reads it. Strict precision rules the algorithm out: see ``lucid.set_precision``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from math import ceil
from typing import Any

import numpy as np

from lucid.kernels import jit, target
from lucid.kernels.algorithms.base import (
    MOST_PRODUCTS,
    Executable,
    address,
    channels,
    memory_cycles,
    planned,
    priced,
    sum_type,
    turns_of,
    useful_threads,
)
from lucid.kernels.algorithms.correlation import Axis, axes_of, many_channels
from lucid.kernels.algorithms.row_boxes import RowBoxes
from lucid.kernels.algorithms.sliding_tile import WAITING
from lucid.kernels.algorithms.winograd_rows_kernel import FREQUENCIES, NUMBERS, ROWS, TAPS, RowPairs, write
from lucid.kernels.epilogue import is_short, sources
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, ByAlignment, Launch, in_order
from lucid.kernels.plan import Plan, Problem, Role

Array = np.ndarray[Any, Any]

name = "winograd_rows"
roles: tuple[Role, ...] = ("forward", "grad_input")
dtypes = ("float32", "float16", "bfloat16")

_LINE_BYTES = 64
_MOST_CHANNELS = 1024  # of a group's c_in x c_out
_MOST_ACROSS = 8  # taps
_RESULTS = (3, 4)  # of a tile; for fewer, rows are read and transformed for too few products
_MORE_RESULTS = (6, 8)  # of one whose sources are read twice, which pays where it saves conversions
_DEEP_RESULTS = 3  # of one of two pairs of rows, for the same reason: more do not fit
#: Cycles of one thread. Where a product takes one turn of its unit and not two nobody has measured it: there these
#: prices leave problems to others.
_COST = {
    "product": 1.04,
    "product of rows read twice": 1.04,
    "read": 0.74,
    "source": 7.6,
    "result": 4.4,
    "result of rows read twice": 4.4,
    "strip": 110.0,
    "pair": 4.0,  # of channels, whose weights are transformed
    "pair beyond first cache": 35.0,  # in addition, where the group's are more than it holds
    "task": 60.0,
    "rounded": 0.0,  # two vectors of results, to halves
    "waiting": WAITING,  # for memory
    "past": WAITING,  # the same where results go past the caches
    "alone": 0.0,  # a step of one source, whose few products hide no stores
    "call": 4200.0,
}
#: The same where they are others, on a Zen 4: 52 plans of random layers, nine tenths of them within a sixth but for
#: what waits for memory. Products are all that counts: loads, additions and shifts are beside them.
_HALVED = {
    "product": 1.14,
    "product of rows read twice": 1.12,
    "read": 0.0,
    "source": 0.0,
    "result": 6.2,
    "result of rows read twice": 2.0,
    "strip": 10.0,
    "pair": 1.0,
    "pair beyond first cache": 2.0,
    "rounded": 2.2,
    "waiting": 2.0,
    "past": 0.65,
    "alone": 9.0,
    "call": 5200.0,
}
#: The least that a byte past the caches takes: two threads write 26 GB/s in this order, and one is asked for half.
_PAST_CYCLES = 0.31
#: What sums of products may come to over direct summation's, at the largest of four neighbouring rows:
#: |g0| (|d0| + |d2|) + (|g0| + |g1| + |g2|) (|d1| + |d2|), of which each row's window has a part.
_GROWTH = 5.0


@dataclass(frozen=True, slots=True)
class Rows(RowBoxes):
    """A problem with its tile and its boxes of ``box_h`` rows of results."""

    problem: Problem
    axes: tuple[Axis, ...]
    tile: RowPairs
    lanes: int
    box_h: int

    @property
    def spare_elements(self) -> int:
        """A row of a strip, which a thread may throw away."""
        return max(self.lanes, 16)

    @property
    def private_elements(self) -> int:
        """A thread's workspace: the spare row, and the transformed weights of a group."""
        return self.spare_elements + self.sources * self.results * self.tile.pair

    @property
    def own_bytes(self) -> int:
        """The same in bytes."""
        return self.private_elements * sum_type(self.problem).bytes

    @property
    def streams(self) -> bool:
        """Whether results go past the caches: see ``_streams``."""
        return _streams(self.problem, self.lanes)

    @property
    def cycles(self) -> float:
        """Expected, of one thread."""
        tile, pairs = self.tile, self.sources * self.results
        strips = ceil(self.size[1] / self.lanes) * self.results / tile.results
        reads = FREQUENCIES * len(tile.row(self.lanes).reads)
        steps = self.tasks * strips * ceil(self.box_h / (ROWS * tile.deep))
        beyond = self.private_elements * sum_type(self.problem).bytes > target.cpu().l1_bytes
        work = {
            "product": steps * self.sources * tile.products * (not tile.twice),
            "product of rows read twice": steps * self.sources * tile.products * tile.twice,
            "read": steps * self.sources * reads,
            "source": steps * self.sources,
            "result": steps * tile.deep * tile.results * (not tile.twice),
            "result of rows read twice": steps * tile.results * tile.twice,
            "strip": self.tasks * strips,
            "pair": self.tasks * pairs,
            "pair beyond first cache": self.tasks * pairs * beyond,
            "task": self.tasks,
            "rounded": steps * tile.deep * tile.results * (self.problem.itemsize < sum_type(self.problem).bytes),
            "waiting": memory_cycles(self.problem.traffic_bytes) * (not self.streams),
            "past": memory_cycles(self.problem.traffic_bytes) * self.streams,
            "alone": steps * (self.sources == 1),
            "call": 1,
        }
        least = self.problem.written_bytes * _PAST_CYCLES * self.streams
        return max(priced(work, _COST, _HALVED, turns_of(self.lanes, sum_type(self.problem))), least)


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Other kernels than 3×k of planes, strides, groups of many channels, machines without masks."""
    spec = problem.spec
    if "avx512f" not in isa.requires:
        return f"it shifts registers and masks loads as {isa.name} cannot"
    if problem.size[0] * problem.out[0] * spec.kernel[0] != 1 or spec.padding[0] != (0, 0):
        return "it is one of planes"
    if spec.kernel[1] != TAPS or spec.dilation[1] != 1 or spec.kernel[2] > _MOST_ACROSS:
        return f"it has {TAPS} taps down beside each other, and at most {_MOST_ACROSS} across"
    if spec.stride != (1, 1, 1):
        return "rows of a stride share no taps"
    if many := many_channels(problem, _MOST_CHANNELS):
        return many
    lanes = isa.lanes(sum_type(problem))
    if problem.traffic_bytes > target.cpu().l3_bytes // 2 and not (_streams(problem, lanes) or _waits(problem, lanes)):
        return "rows are read twice, and the caches do not hold the arrays"
    return None if tiles(problem, isa) else "its tiles are of 3 or 4 of a group's results, and must fit in registers"


def _streams(problem: Problem, lanes: int) -> bool:
    """Whether results go past the caches, which hold the source: rows of whole lines."""
    written, room = problem.written_bytes, target.cpu().l3_bytes // 2
    width = (problem.out if problem.role == "forward" else problem.size)[2]
    whole = problem.itemsize == 4 and width * problem.itemsize % _LINE_BYTES == 0
    return whole and written > room >= problem.traffic_bytes - written and turns_of(lanes, sum_type(problem)) > 1


def _waits(problem: Problem, lanes: int) -> bool:
    """Whether results are halves, of which a strip writes half a line, beyond the caches, and the source is not."""
    far = problem.traffic_bytes - problem.written_bytes > target.cpu().l3_bytes // 2
    return problem.itemsize < 4 and not far and turns_of(lanes, sum_type(problem)) > 1


def fuses(problem: Problem) -> bool:
    """Short epilogues, as sums leave their registers."""
    return is_short(problem.epilogue)


def error_growth(plan: Plan) -> float:
    """A result is within so many times the bound of direct summation, where that is largest in or beside its channel.

    A sum of C taps across and seven roundings of transforms take the place of one of C taps; where sources are read
    twice, what is summed first is rounded with the others' sums too. It is never less than one:
    a result in half precision is rounded once more, as that of direct summation is.
    """
    taps = channels(plan.problem)[0] * plan.problem.spec.kernel[2]
    sums = 1 + (plan["results"] in _MORE_RESULTS)
    return max(1.0, _GROWTH * (taps * sums + 7) / (taps * TAPS))


def plan(problem: Problem, isa: ISA) -> Plan:
    """The tile that is expected to be fastest."""
    asked = min(tiles(problem, isa), key=lambda option: option.cycles)
    tile = asked.tile
    return planned(
        name,
        asked,
        isa,
        asked.tasks,
        tile=(("results", tile.results),),
        blocking=(("box_rows", asked.box_h), ("boxes", asked.boxes)),
        why=f"pixels in lanes, F({ROWS}, {TAPS}) down, {tile.products} products a step and source",
    )


def bind(plan: Plan, isa: ISA) -> Executable:
    """The kernel with every number of the shape fixed."""
    return bound(_rows(plan.problem, isa, axes_of(plan.problem), plan["results"]), isa)


@lru_cache(maxsize=64)
def tiles(problem: Problem, isa: ISA) -> list[Rows]:
    """All that the registers hold."""
    axes, results = axes_of(problem), channels(problem)[1]
    counts = _RESULTS + _MORE_RESULTS * _converts(problem, isa.lanes(sum_type(problem)))
    every = [_rows(problem, isa, axes, k) for k in counts if results % k == 0]
    return [
        one for one in every if one.tile.registers(one.lanes) <= isa.registers and one.tile.products <= MOST_PRODUCTS
    ]


def _converts(problem: Problem, lanes: int) -> bool:
    """Whether halves are widened by units that have other work: of a Zen 4, which adds there too."""
    return problem.itemsize < sum_type(problem).bytes and turns_of(lanes, sum_type(problem)) > 1


def _rows(problem: Problem, isa: ISA, axes: tuple[Axis, ...], results: int) -> Rows:
    lanes = isa.lanes(sum_type(problem))
    (downs,), (across,) = axes[1].phases, axes[2].phases
    by_place = tuple(t for t, _ in sorted(downs, key=lambda tap: tap[1]))
    taps = tuple((t, at - axes[2].low) for t, at in across)
    whole = max(problem.size[2], problem.out[2]) <= lanes
    slides, twice = problem.itemsize == 4 or whole, results in _MORE_RESULTS
    tile = RowPairs(results, by_place, taps, whole, slides=slides, twice=twice)
    if results == _DEEP_RESULTS and not slides and _converts(problem, lanes) and 2 * tile.products <= MOST_PRODUCTS:
        tile = replace(tile, deep=2)
    asked = Rows(problem, axes, tile, lanes, 1)
    return replace(asked, box_h=asked.box_rows(asked.sources * asked.source[1] * problem.itemsize, ROWS * tile.deep))


def bound(asked: Rows, isa: ISA) -> Executable:
    """One tile's kernel, likewise."""
    problem, element = asked.problem, BY_DTYPE[asked.problem.dtype]
    numbers = in_order(NUMBERS, asked.numbers | {
        "low_h": asked.axes[1].low, "private": asked.private_elements, "spare": asked.spare_elements,
    })  # fmt: skip
    no_bias, zeros = np.zeros(1), np.zeros(asked.source[1] * problem.itemsize, np.uint8)
    fields = (0, 0, 0 if problem.bias else address(no_bias), 0, 0, 0, 0, 0, address(zeros), *numbers)
    chunk = max(1, min(asked.tasks // 64, int(50_000 / (asked.cycles / asked.tasks + 1))))

    @cache
    def launch(tile: RowPairs) -> Launch:
        key = (name, problem.dtype, tile, problem.epilogue)
        code = jit.kernel(key, lambda isa: write(isa, element, tile, problem.epilogue))
        return Launch(
            [(code.address("slide"), asked.tasks, chunk)],
            fields,
            (0, 1, 2 if problem.bias else NOTHING, 3, *sources(problem.epilogue, NOTHING), WORKSPACE, NOTHING),
            own_bytes=asked.own_bytes,
            most_threads=useful_threads(asked.cycles, asked.tasks),
            keep=(no_bias, zeros),
        )

    plain = partial(launch, replace(asked.tile, asks=problem.written_bytes > target.cpu().l3_bytes // 4))
    return ByAlignment(launch(replace(asked.tile, stream=True)), plain) if asked.streams else plain()
