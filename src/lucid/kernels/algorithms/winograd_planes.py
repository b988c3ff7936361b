"""Winograd convolution F(2, 3) in depth, in place: depthwise 3×k×l kernels of volumes, forward and input gradient.

``channel_lanes`` turns every plane twice and sums all 27 products of a 3×3×3 window. Here columns are in lanes and
rows are read where they lie: a row of each of four planes, whose transforms in depth are additions of whole vectors in
registers, serves all rows in flight of two planes of results, as in ``sliding``. Two products take the place of three,
and the additions take no time from them: they have units of their own.

Errors are those of a sum over the taps of a plane, times a constant: see ``error_growth``. A NaN or an infinity may
reach both planes of a pair that reads it. Strict precision rules the algorithm out: see ``lucid.set_precision``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, prod
from typing import Any

import numpy as np

from lucid.core.geometry import Sizes
from lucid.kernels import jit, target
from lucid.kernels.algorithms.base import (
    MOST_PRODUCTS,
    Executable,
    address,
    memory_cycles,
    planned,
    priced,
    sum_type,
    turns_of,
    useful_threads,
)
from lucid.kernels.algorithms.correlation import Axis, axes_of
from lucid.kernels.algorithms.winograd_planes_kernel import NUMBERS, PlanePairs, write
from lucid.kernels.algorithms.winograd_rows_kernel import FREQUENCIES, ROWS, TAPS
from lucid.kernels.epilogue import is_short, sources
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, Launch, in_order
from lucid.kernels.plan import Plan, Problem, Role

Array = np.ndarray[Any, Any]

name = "winograd_planes"
roles: tuple[Role, ...] = ("forward", "grad_input")
dtypes = ("float32", "float16", "bfloat16")

_TASKS = 16  # wanted at least; volumes are cut into pieces of pairs of planes until there are as many
_MOST_ACROSS = 8  # taps, which reach no more than half a vector beyond one
_MOST_KEPT = 2  # times the first cache, of widened rows: from further away they take as long as to be widened again
#: Cycles of one thread, of a Zen 4.
_COST = {
    "product": 0.92,
    "read": 0.6,
    "read of halves": 1.3,
    "step": 7.0,
    "strip": 26.0,
    "task": 40.0,
    "waiting": 0.6,  # for memory
    "call": 5000.0,
}
#: What sums of products may come to over direct summation's, at the largest of four neighbouring planes, as down rows
#: in ``winograd_rows``.
_GROWTH = 5.0


@dataclass(frozen=True, slots=True)
class Planes:
    """A problem with its tile; a task is ``each`` planes of the results of a channel."""

    problem: Problem
    axes: tuple[Axis, ...]
    tile: PlanePairs
    lanes: int
    each: int

    @property
    def ends(self) -> tuple[Sizes, Sizes]:
        """Sizes of the source and of the result."""
        ends = self.problem.size, self.problem.out
        return ends if self.problem.role == "forward" else ends[::-1]

    @property
    def parts(self) -> int:
        """Tasks of a channel."""
        return ceil(self.ends[1][0] / self.each)

    @property
    def tasks(self) -> int:
        """Of all images and channels."""
        return self.problem.batch * self.problem.groups * self.parts

    @property
    def spare_elements(self) -> int:
        """A row of a strip, which a thread may throw away."""
        return max(self.lanes, 16)

    @property
    def private_elements(self) -> int:
        """A thread's workspace: the spare row, the transformed weights of a channel, and rows that are kept."""
        return ceil((self.spare_elements + self.tile.numbers + self.tile.keeps * self.kept_elements) / 16) * 16

    @property
    def kept_elements(self) -> int:
        """Two planes of the source, by strips."""
        return ceil(self.ends[1][2] / self.lanes) * self.ends[0][1] * self.tile.kept_row(self.lanes)

    @property
    def own_bytes(self) -> int:
        """The same in bytes."""
        return self.private_elements * sum_type(self.problem).bytes

    @property
    def cycles(self) -> float:
        """Expected, of one thread."""
        (depth, rows, columns), tile = self.ends[1], self.tile
        strips = self.problem.batch * self.problem.groups * ceil(depth / ROWS) * ceil(columns / self.lanes)
        steps = strips * min(self.ends[0][1], rows + len(tile.downs) - 1)
        reads = steps * FREQUENCIES * len(tile.row(self.lanes).reads)
        followed = 1 - self.parts / ceil(depth / ROWS)  # pairs of planes that read what the one before has kept
        halves = reads * (1 - followed / 2 * tile.keeps) * (self.problem.itemsize < 4)
        work = {
            "product": steps * tile.products,
            "read": reads - halves,
            "read of halves": halves,
            "step": steps,
            "strip": strips,
            "task": self.tasks,
            "waiting": memory_cycles(self.problem.traffic_bytes),
            "call": 1,
        }
        return priced(work, _COST, {}, 1)


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Other kernels than depthwise 3×k×l, strides, large planes, machines where its gain is not proven."""
    spec = problem.spec
    if "avx512f" not in isa.requires or turns_of(isa.lanes(sum_type(problem)), sum_type(problem)) == 1:
        return "its gain is proven where a product of vectors takes two turns"
    if problem.group_in * problem.group_out != 1:
        return f"groups of {problem.group_in} x {problem.group_out} channels are not depthwise"
    if spec.kernel[0] != TAPS or spec.kernel[1] == 1 or spec.kernel[2] > _MOST_ACROSS:
        return f"it has {TAPS} taps in depth, several down, and at most {_MOST_ACROSS} across"
    if spec.stride != (1, 1, 1) or spec.dilation != (1, 1, 1):
        return "planes of a stride or a dilation share no taps"
    if FREQUENCIES * prod(problem.size[1:]) * problem.itemsize > target.cpu().l2_bytes // 2:
        return "planes are read twice, and the second cache does not hold them"
    asked = planes(problem, isa)
    if asked.axes[1].low >= spec.kernel[1]:
        return "rows of results that meet nothing but padding are left to others"
    fits = asked.tile.registers(asked.lanes) <= isa.registers and asked.tile.products <= MOST_PRODUCTS
    return None if fits else "the rows in flight do not fit in registers"


def fuses(problem: Problem) -> bool:
    """Short epilogues, as sums leave their registers."""
    return is_short(problem.epilogue)


def error_growth(plan: Plan) -> float:
    """A result is within so many times the bound of direct summation, where that is largest in or beside its channel.

    A sum of a plane's taps and seven roundings of transforms take the place of one of all taps; never less than one: a
    result in half precision is rounded once more, as that of direct summation is.
    """
    taps = prod(plan.problem.spec.kernel[1:])
    return max(1.0, _GROWTH * (taps + 7) / (taps * TAPS))


def plan(problem: Problem, isa: ISA) -> Plan:
    """The one way there is."""
    asked = planes(problem, isa)
    return planned(
        name,
        asked,
        isa,
        asked.tasks,
        tile=(("rows", len(asked.tile.downs)),),
        blocking=(("planes", asked.each),),
        why=f"pixels in lanes, F({ROWS}, {TAPS}) in depth, {asked.tile.products} products a step",
    )


def bind(plan: Plan, isa: ISA) -> Executable:
    """The kernel with every number of the shape fixed."""
    asked = planes(plan.problem, isa)
    problem, tile = asked.problem, asked.tile
    tile = replace(tile, asks=problem.written_bytes > target.cpu().l3_bytes // 4)
    element, (source, result) = BY_DTYPE[problem.dtype], asked.ends
    numbers = in_order(NUMBERS, {
        "channels": problem.groups, "parts": asked.parts, "each": asked.each,
        **dict(zip(("d", "h", "w"), source, strict=True)),
        **dict(zip(("size_d", "size_h", "size_w"), result, strict=True)),
        "low_d": asked.axes[0].low, "low_h": asked.axes[1].low, "bias_step": int(problem.bias),
        "private": asked.private_elements, "spare": asked.spare_elements,
    })  # fmt: skip
    no_bias, zeros = np.zeros(1), np.zeros(source[2] * problem.itemsize, np.uint8)
    fields = (0, 0, 0 if problem.bias else address(no_bias), 0, 0, 0, 0, 0, address(zeros), *numbers)
    key = (name, problem.dtype, tile, problem.epilogue)
    code = jit.kernel(key, lambda isa: write(isa, element, tile, problem.epilogue))
    chunk = max(1, min(asked.tasks // 64, int(50_000 / (asked.cycles / asked.tasks + 1))))
    return Launch(
        [(code.address("slide"), asked.tasks, chunk)],
        fields,
        (0, 1, 2 if problem.bias else NOTHING, 3, *sources(problem.epilogue, NOTHING), WORKSPACE, NOTHING),
        own_bytes=asked.own_bytes,
        most_threads=useful_threads(asked.cycles, asked.tasks),
        keep=(no_bias, zeros),
    )


@lru_cache(maxsize=64)
def planes(problem: Problem, isa: ISA) -> Planes:
    """The problem with its tile, in as many pieces as there should be tasks."""
    axes, lanes = axes_of(problem), isa.lanes(sum_type(problem))
    (depths,), (downs,), (across,) = (axis.phases for axis in axes)
    in_depth, down = (tuple(t for t, _ in sorted(axis, key=lambda tap: tap[1])) for axis in (depths, downs))
    taps = tuple((t, at - axes[2].low) for t, at in across)
    tile = PlanePairs(in_depth, down, taps, whole=max(problem.size[2], problem.out[2]) <= lanes)
    asked = Planes(problem, axes, tile, lanes, 1)
    pairs = ceil(asked.ends[1][0] / ROWS)
    pieces = min(pairs, ceil(_TASKS / asked.tasks * asked.parts))
    asked = replace(asked, each=ceil(pairs / pieces) * ROWS)
    keeps = problem.itemsize < 4 and asked.each > ROWS
    keeps = keeps and asked.kept_elements * sum_type(problem).bytes <= _MOST_KEPT * target.cpu().l1_bytes
    return replace(asked, tile=replace(tile, keeps=keeps))
