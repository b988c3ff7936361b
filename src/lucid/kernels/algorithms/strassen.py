"""Pointwise convolution by Strassen's product: seven products of halves take the place of eight.

Rows of the result, channels and positions are each in two: tiles of rows side by side, neighbouring channels,
neighbouring vectors of positions. With w = (a11 a12; a21 a22) and x = (b11 b12; b21 b22)::

    s1 = a21 + a22    t1 = b12 - b11        u2 = a11 b11 + s2 t2        y11 = a11 b11 + a12 b21
    s2 = s1 - a11     t2 = b22 - t1         u3 = u2 + s3 t3             y12 = u2 + s1 t1 + s4 b22
    s3 = a11 - a21    t3 = b22 - b12        u4 = u2 + s1 t1             y21 = u3 - a22 t4
    s4 = a12 - s2     t4 = t2 - b21                                     y22 = u3 + s1 t1

The sums of w are made once, those of x as a span is gathered; sums of products go on in registers, so y needs one
addition. The input gradient is the same with w turned.

Rows of w are divided by the power of two of their largest weight, and their results multiplied by it, so that quiet
channels lose nothing to the louder ones they share sums with. Errors are those of sums of larger numbers: see
``error_growth``. A result loses digits where the samples of its partner, up to two vectors away in the same image, are
larger; a NaN or an infinity reaches the partner's results. Strict precision rules the algorithm out: see
``lucid.set_precision``.

Source: Strassen, Gaussian elimination is not optimal, 1969; seven products with fifteen additions: Winograd 1971, in
Higham, Accuracy and Stability of Numerical Algorithms, chapter 23.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import ceil

from lucid.kernels import jit, target
from lucid.kernels.algorithms import dense_cost, strassen_kernel
from lucid.kernels.algorithms.base import (
    GHZ,
    Executable,
    channels,
    planned,
    sum_type,
    turns_of,
    useful_threads,
)
from lucid.kernels.algorithms.strassen_kernel import ARRAYS, HEADS, NUMBERS, PLACE, TERMS, Form, in_lines
from lucid.kernels.algorithms.tile import Tile, fitting, last_steps
from lucid.kernels.epilogue import in_registers
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA
from lucid.kernels.launch import KEPT, NOTHING, WORKSPACE, Launch, in_order
from lucid.kernels.plan import WORKSPACE_BYTES, Plan, Problem, Role
from lucid.kernels.runtime import memory

name = "strassen"
roles: tuple[Role, ...] = ("forward", "grad_input")
dtypes = ("float32", "float64", "float16", "bfloat16")

_LEAST_CHANNELS = 96  # with fewer, what stands between two products takes what is saved
_TASKS = 16  # wanted at most, since each gathers its samples anew
_MOST_TILES = 4  # of a span
#: By how much products with signs left out may exceed direct summation's, and their sums be longer, numbers being all
#: alike: y12 is four sums of half as many products, of 1, 3 x 3, 2 x 2 and 4 numbers each.
_GROWTH = 9 * 2
#: Cycles of one thread, fitted on a Zen 4.
_COST = {
    "product": 1.11,  # of vectors
    "tile": 50.0,  # a sum of products, beside them
    "visit": 1.2,  # a vector of sums or results
    "gather": 60.0,  # four vectors of samples, of which seven are made
    "term": 10.0,  # four weights, of which seven are made
    "task": 2000.0,
    "call": 12000.0,
}


def refuses(problem: Problem, isa: ISA) -> str | None:
    """All but kernels of one tap that meet every sample; few channels; machines that were not measured."""
    if not problem.is_pointwise:
        return "it computes kernels of one tap that meet every sample"
    if channels(problem)[0] % 2:
        return "its channels are in pairs"
    if turns_of(_lanes(problem, isa), sum_type(problem)) == 1:
        return "it was measured where a vector takes two turns"
    if min(channels(problem)) < _LEAST_CHANNELS:
        return f"it gains nothing with less than {_LEAST_CHANNELS} channels"
    if strassen(problem, isa).own_bytes > WORKSPACE_BYTES:
        return "its sums of samples are more than its workspace"
    return None


def fuses(problem: Problem) -> bool:
    """An activation of a few instructions, as sums leave."""
    return in_registers(problem.epilogue)


def error_growth(plan: Plan) -> float:
    """A result is within so many times the bound of direct summation, where that is largest in its channel."""
    summed = channels(plan.problem)[0]
    return _GROWTH * (summed + 4) / summed


@dataclass(frozen=True)
class Strassen:
    """A problem with its tile, the vectors of half a span, and the parts of its rows."""

    problem: Problem
    tile: Tile
    half: int
    row_parts: int

    @property
    def rows(self) -> int:
        """Of a group."""
        return channels(self.problem)[1]

    @property
    def pairs(self) -> int:
        """Of channels that are summed, of a group."""
        return channels(self.problem)[0] // 2

    @property
    def image_couples(self) -> int:
        """Of neighbouring vectors of an image, which share errors: no two are of different images."""
        return ceil(ceil(self.problem.pixels / self.tile.lanes) / 2)

    @property
    def couples(self) -> int:
        """Those of all images."""
        return self.problem.batch * self.image_couples

    @property
    def spans(self) -> int:
        """Of positions."""
        return ceil(self.couples / self.half)

    @property
    def tiles(self) -> int:
        """Of half a span, the narrow ones too."""
        return ceil(self.half / self.tile.vectors)

    @property
    def narrow(self) -> int:
        """Tiles that are a vector narrower."""
        return self.tiles * self.tile.vectors - self.half

    @property
    def blocks(self) -> int:
        """Pairs of tiles that cover the rows of a group."""
        return ceil(self.rows / (2 * self.tile.rows))

    @property
    def part_blocks(self) -> int:
        """Those of a task."""
        return ceil(self.blocks / self.row_parts)

    @property
    def parts(self) -> int:
        """Of the rows."""
        return ceil(self.blocks / self.part_blocks)

    @property
    def tasks(self) -> int:
        """One for each group, part of the rows, span."""
        return self.problem.groups * self.parts * self.spans

    @property
    def term(self) -> int:
        """Elements from a left factor to the next: a line further on than it is long, as all are written at once."""
        return in_lines(self.pairs * self.tile.rows) + in_lines(1)

    @property
    def block(self) -> int:
        """Elements of the weights of two tiles of rows, and of each row's bias, scale and reciprocal."""
        return HEADS * in_lines(2 * self.tile.rows) + TERMS * self.term

    @property
    def panel_term(self) -> int:
        """Elements from a right factor to the next."""
        return in_lines(self.pairs * self.tile.columns) + in_lines(1)

    @property
    def panels_at(self) -> int:
        """Elements of a thread's workspace before its panels: zeros, sums on their way, a spare row, places."""
        places = 2 * self.half * PLACE * 8 // sum_type(self.problem).bytes
        return 3 * in_lines(self.tile.rows * self.tile.columns) + in_lines(self.tile.columns) + in_lines(places)

    @property
    def own_bytes(self) -> int:
        """A thread's workspace."""
        elements = self.panels_at + self.tiles * TERMS * self.panel_term
        return ceil(elements * sum_type(self.problem).bytes / memory.ALIGN_BYTES) * memory.ALIGN_BYTES

    @property
    def kept_bytes(self) -> int:
        """The left factors."""
        elements = self.problem.groups * self.blocks * self.block
        return ceil(elements * sum_type(self.problem).bytes / memory.ALIGN_BYTES) * memory.ALIGN_BYTES

    @property
    def work(self) -> dict[str, float]:
        """What one thread does, in the units of ``_COST``."""
        halves = self.problem.groups * self.spans * self.half
        quads, tall = self.problem.groups * self.spans * self.tiles * self.blocks, self.blocks * self.tile.rows
        return {
            "product": TERMS * halves * tall * self.pairs,
            "tile": TERMS * quads,
            "visit": 13 * halves * tall,
            "gather": self.parts * halves * self.pairs,
            "term": self.problem.groups * tall * self.pairs,
            "task": self.tasks,
            "call": 1,
        }

    @cached_property
    def cycles(self) -> float:
        """Expected, of one thread."""
        own = sum(_COST[unit] * count for unit, count in self.work.items())
        return own + dense_cost.traffic_ns(self.problem) * GHZ


@lru_cache(maxsize=64)
def strassen(problem: Problem, isa: ISA) -> Strassen:
    """The spans that leave few vectors idle, and parts of the rows for some tasks."""
    rows = channels(problem)[1]
    fit = [tile for tile in fitting(isa, sum_type(problem)) if tile.vectors in (2, 3)]
    tile = min(fit, key=lambda tile: (ceil(rows / (2 * tile.rows)) * 2 * tile.rows, -tile.accumulators, tile.rows))
    ways = [
        Strassen(problem, tile, half, parts)
        for half in range(tile.vectors - 1, _MOST_TILES * tile.vectors + 1)
        for parts in (1, 2, 4, 8)
        if parts <= ceil(rows / (2 * tile.rows))
    ]
    room = target.cpu().l2_bytes * 3 // 4
    near = [way for way in ways if way.own_bytes <= room] or ways[:1]
    return min(near, key=lambda way: way.cycles * (1 + 0.5 / min(_TASKS, way.tasks)))


def least_ns(problem: Problem, isa: ISA) -> float:
    """The time of its products at the full rate."""
    products = problem.flops / 2 / _lanes(problem, isa) * TERMS / (TERMS + 1)
    return products * _COST["product"] / GHZ


def _lanes(problem: Problem, isa: ISA) -> int:
    return isa.lanes(sum_type(problem))


def plan(problem: Problem, isa: ISA) -> Plan:
    """The cut that is expected to be fastest."""
    chosen = strassen(problem, isa)
    made = planned(
        name,
        chosen,
        isa,
        chosen.tasks,
        tile=(("rows", chosen.tile.rows), ("vectors", chosen.tile.vectors)),
        blocking=(("half", chosen.half), ("row_parts", chosen.row_parts)),
        packed_bytes=chosen.kept_bytes,
        why="seven products of halves for eight",
    )
    return replace(made, workspace_bytes=made.workspace_bytes + made.packed_bytes)


def bind(plan: Plan, isa: ISA) -> Executable:
    """The kernels with every number of the shape fixed."""
    tile = Tile(plan["rows"], plan["vectors"], _lanes(plan.problem, isa))
    return bound(Strassen(plan.problem, tile, plan["half"], plan["row_parts"]))


def bound(asked: Strassen) -> Executable:
    """The same of a tile and a cut that have been chosen."""
    problem, tile = asked.problem, asked.tile
    last = last_steps(tile, asked.pairs, turns_of(tile.lanes, sum_type(problem)))
    form = Form(tile, _packing(asked), problem.epilogue, last)
    code = jit.kernel(
        (name, problem.dtype, form), lambda isa: strassen_kernel.write(isa, BY_DTYPE[problem.dtype], form)
    )
    forward = problem.role == "forward"
    steps = (problem.group_in, 1) if forward else (1, problem.group_in)
    numbers = {
        "groups": problem.groups, "rows": asked.rows, "pairs": asked.pairs, "blocks": asked.blocks,
        "part_blocks": asked.part_blocks, "parts": asked.parts, "plane": problem.pixels, "couples": asked.couples,
        "image_couples": asked.image_couples, "half": asked.half, "tiles": asked.tiles, "narrow": asked.narrow,
        "spans": asked.spans, "row_step": steps[0], "channel_step": steps[1],
        "group_step": problem.group_out * problem.group_in,
        "term": asked.term, "block": asked.block, "panel_term": asked.panel_term,
        "panel_tile": TERMS * asked.panel_term, "panels_at": asked.panels_at,
        "own_elements": asked.own_bytes // sum_type(problem).bytes,
    }  # fmt: skip
    return Launch(
        [(code.address("weights"), problem.groups * asked.blocks, 1), (code.address("run"), asked.tasks, 1)],
        (*[0] * len(ARRAYS), *in_order(NUMBERS, numbers)),
        (0, 1, 2 if problem.bias else NOTHING, 3, KEPT, WORKSPACE),
        kept_bytes=asked.kept_bytes,
        own_bytes=asked.own_bytes,
        most_threads=useful_threads(asked.cycles, asked.tasks),
    )


def _packing(asked: Strassen) -> str:
    """How weights are read."""
    if 2 * asked.tile.rows != asked.tile.lanes:
        return "one by one"
    if asked.problem.role == "grad_input":
        return "side by side"
    return "turned" if 2 * asked.pairs >= asked.tile.lanes else "one by one"
