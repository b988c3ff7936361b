"""Groups of few channels, pixel by pixel: products of rows as they lie.

In each group, with r a channel of y and s one of x::

    forward        y[r]     = sum over s of w[r][s] x[s]
    grad_input     gx[s]    = sum over r of w[r][s] g[r]
    grad_weight    gw[r][s] = sum over pixels of g[r] x[s]

Grouped 1x1 layers, and EEGNet's filters over all electrodes, whose rows count as channels (``Problem.canonical``).
Every row is read once for all results of a tile, in place: there is no frame. So weight gradients of float16 are these
products too where one side has some tens of rows and to widen costs (``_stages``): no sample is widened for one product
alone. Their sums wait in memory from one strip of pixels to the next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import numpy as np

from lucid.kernels import jit, target
from lucid.kernels.algorithms.base import (
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
from lucid.kernels.algorithms.depthwise_sums import rows_adder
from lucid.kernels.algorithms.mixing_kernel import (
    GRAD_NUMBERS,
    NUMBERS,
    STAGED_NUMBERS,
    MixGradTile,
    MixTile,
    write,
    write_grad,
    write_staged_grad,
)
from lucid.kernels.epilogue import is_short, sources
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, Launch, in_order
from lucid.kernels.plan import Plan, Problem

Array = np.ndarray[Any, Any]

name = "mixing"
dtypes = ("float32", "float64", "float16", "bfloat16")

#: Wanted at least, by the turns of a vector; rows are cut into strips until there are as many.
_TASKS = {1: 16, 2: 8}
_LEAST_TASKS = 8  # of a weight gradient, which are blocks of weights
_FEW, _MANY = 8, 128  # rows of either side of a product
_STAGED_FEW, _STAGED_MANY = 32, 256  # the same of a weight gradient whose sums wait in memory
_SET_BYTES, _WAYS = 4096, 8  # so many rows that far apart, or a multiple, have a place in the first cache
#: Where a vector takes two turns, rows of a tile by vectors: few enough that the last of a row is little, and that rows
#: a power of two apart stay in the first cache. Of all results of no fewer sources there are more: those are read once.
_TILE_ROWS, _TILE_VECTORS = 4, 4
_LINE_BYTES = 64

#: Cycles of one thread.
_COST = {
    "tile": 1.05,  # of what its products take
    "line": 1.0,  # of the sources or results, on its way from or to the second cache
    "task": 60.0,
    "waiting": 0.8,  # for memory
    "call": 4000.0,
}
#: The same where they are others, on a Zen 4: vectors of 64 bytes are computed in halves.
_HALVED = {"tile": 1.6, "line": 1.4, "waiting": 0.5, "call": 5500.0}
#: And of a product of rows there: 66 plans of random layers, half of them within a tenth, four fifths within a third.
_HALVED_ROWS = {
    "product": 1.03,
    "masked": 1.5,  # a vector of a tile that ends a row, in addition, whether there is any of it or not
    "run": 24.0,  # of a result, in a task: its first lines are waited for
    "line": 0.6,  # of the sources or results, on its way from or to the second cache
    "line from third cache": 1.0,
    "line again": 1.9,  # of sources that the first cache does not keep for the next results
    "waiting": 0.78,  # for memory
    "call": 8000.0,
}


#: Of a weight gradient whose sums wait, on a Zen 4: from 17 layers beside ``weight_grad``, whose price of halves that
#: are framed is as much too low.
_STAGED = {
    "tile": 0.95,  # of what its products take
    "visit": 60.0,  # of a tile's sums, once a strip
    "sum": 16.0,  # over lanes
    "waiting": 0.5,  # for memory
    "call": 5500.0,
}


@dataclass(frozen=True)
class Mix:
    """A forward role or an input gradient as products of rows, with its tile."""

    problem: Problem
    tile: MixTile
    lanes: int

    @property
    def ends(self) -> tuple[int, int]:
        """Rows of the source and of the result, in a group."""
        return channels(self.problem)

    @property
    def pixels(self) -> int:
        """Of a row."""
        return self.problem.pixels

    @property
    def strip(self) -> int:
        """Pixels of a task: whole tiles, few enough for the first cache if results come in several blocks."""
        unit, (count, results) = self.tile.vectors * self.lanes, self.ends
        wanted = _TASKS[turns_of(self.lanes, sum_type(self.problem))]
        pieces = ceil(wanted / (self.problem.batch * self.problem.groups))
        if results > self.tile.results:
            row_bytes = count * self.pixels * self.problem.itemsize
            pieces = max(pieces, ceil(row_bytes / (target.cpu().l1_bytes // 2)))
        return ceil(self.pixels / pieces / unit) * unit

    @property
    def strips(self) -> int:
        """Of a row."""
        return ceil(self.pixels / self.strip)

    @property
    def tasks(self) -> int:
        """Strips of all images and groups."""
        return self.problem.batch * self.problem.groups * self.strips

    @property
    def alike(self) -> int:
        """What lies alike in all rows, if they are whole lines apart: the source (1), or the result (2) if it is more.

        There columns begin on whole vectors.
        """
        if self.pixels * self.problem.itemsize % _LINE_BYTES:
            return 0
        count, results = self.ends
        return 1 if count >= results else 2

    @property
    def own_bytes(self) -> int:
        """A thread's weights of a group, where they are widened."""
        narrow = self.problem.itemsize < 4
        return ceil(prod(self.ends) / 16) * 16 * sum_type(self.problem).bytes if narrow else 0

    @property
    def cycles(self) -> float:
        """Expected, of one thread."""
        p, (count, results) = self.problem, self.ends
        if turns_of(self.lanes, sum_type(p)) > 1:
            return sum(_HALVED_ROWS[unit] * units for unit, units in self._work_in_turns().items())
        columns = ceil(self.strip / (self.tile.vectors * self.lanes)) + (self.alike > 0)
        blocks = ceil(results / self.tile.results)
        lines = (count + results) * self.strip * p.itemsize / _LINE_BYTES
        work = {
            "tile": self.tasks * columns * blocks * self.tile.cycles(count),
            "line": self.tasks * lines,
            "task": self.tasks,
            "waiting": memory_cycles(p.traffic_bytes),
            "call": 1,
        }
        return sum(_COST[unit] * units for unit, units in work.items())

    def _work_in_turns(self) -> dict[str, float]:
        """What one thread does where a vector takes two turns, in the units of ``_HALVED_ROWS``."""
        p, tile, (count, results), cpu = self.problem, self.tile, self.ends, target.cpu()
        wide, run = tile.vectors * self.lanes, min(self.strip, self.pixels)
        blocks, columns = ceil(results / tile.results), ceil(self.strip / wide) + (self.alike > 0)
        lines = run * p.itemsize / _LINE_BYTES
        again = count * run * p.itemsize > 3 * cpu.l1_bytes // 4
        ends = p.batch * p.groups * (self.pixels % wide > 0)
        return {
            "product": self.tasks * columns * blocks * count * max(tile.results * tile.vectors, 1.45 * tile.vectors),
            "masked": ends * blocks * tile.vectors * tile.results,
            "run": self.tasks * results,
            "line": self.tasks * (count + results) * lines,
            "line from third cache": max(0, p.traffic_bytes - cpu.l2_bytes // 2) / _LINE_BYTES,
            "line again": (blocks - 1) * self.tasks * count * lines * again,
            "waiting": memory_cycles(p.traffic_bytes),
            "call": 1,
        }


@dataclass(frozen=True)
class MixGrad:
    """A weight gradient as products of rows, with its tile."""

    problem: Problem
    tile: MixGradTile
    lanes: int

    @property
    def own_bytes(self) -> int:
        """A thread's sums, where they wait, and those of a channel of g."""
        if not self.tile.staged:
            return 0
        tiles = ceil(self.problem.group_out / self.tile.results)
        sums = tiles * self.tile.results * self.tile.sources + 1
        return ceil(sums * self.lanes / 16) * 16 * sum_type(self.problem).bytes

    @property
    def strip(self) -> int:
        """Pixels of a task's rows that the first cache holds beside those of g, whole lines of them."""
        most = target.cpu().l1_bytes // 2 // (self.tile.sources * self.problem.itemsize)
        return ceil(ceil(self.problem.pixels / ceil(self.problem.pixels / most)) / 32) * 32

    @property
    def blocks(self) -> int:
        """Of sources, in a group."""
        return ceil(self.problem.group_in / self.tile.sources)

    @property
    def tasks(self) -> int:
        """Blocks of all groups."""
        return self.problem.groups * self.blocks

    @property
    def cycles(self) -> float:
        """Expected, of one thread."""
        p = self.problem
        rounds = self.blocks * ceil(p.group_out / self.tile.results)
        vectors = ceil(p.pixels / self.lanes)
        if self.tile.staged:
            visits = p.groups * p.batch * rounds
            work = {
                "tile": visits * vectors * self.tile.cycles,
                "visit": visits * ceil(p.pixels / self.strip),
                "sum": p.groups * rounds * self.tile.results * self.tile.sources,
                "waiting": memory_cycles(p.traffic_bytes),
                "call": 1,
            }
            return sum(_STAGED[unit] * units for unit, units in work.items())
        lines = (p.group_in + p.group_out) * p.pixels * p.itemsize / _LINE_BYTES
        ended = p.groups * rounds * 16 * self.tile.results * (self.tile.sources + 1)
        work = {
            "tile": p.groups * p.batch * rounds * vectors * self.tile.cycles,
            "line": p.groups * p.batch * lines,
            "task": p.groups * rounds,
            "waiting": memory_cycles(p.traffic_bytes),
            "call": 1,
        }
        return ended + priced(work, _COST, _HALVED, turns_of(self.lanes, sum_type(p)))


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Windows that overlap or leave pixels out, many channels, few weights to sum."""
    if not problem.is_pointwise:
        return "a pixel of y does not meet one pixel of x"
    if not (_are_few(problem, _FEW, _MANY) or _stages(problem, isa)):
        return f"products of {problem.group_in} rows by {problem.group_out} are not few"
    if problem.role == "grad_weight" and (tasks := mixing_grad(problem, isa).tasks) < _LEAST_TASKS:
        return f"{tasks} blocks of weights are too few tasks"
    return None


def _are_few(problem: Problem, few: int, many: int) -> bool:
    least, most = sorted((problem.group_in, problem.group_out))
    return least <= few and most <= many


def _stages(problem: Problem, isa: ISA) -> bool:
    """Whether sums of a weight gradient wait in memory: of float16 that others frame, where widening costs."""
    halves = problem.role == "grad_weight" and problem.dtype == "float16" and target.cpu().turns(isa) > 1
    fits = min(problem.group_in, problem.group_out) >= _FEW and _are_few(problem, _STAGED_FEW, _STAGED_MANY)
    return halves and fits and not problem.transposed and not _are_few(problem, _FEW, _MANY)


def fuses(problem: Problem) -> bool:
    """Short epilogues, as sums leave their registers."""
    return is_short(problem.epilogue)


def plan(problem: Problem, isa: ISA) -> Plan:
    """The tile that covers the results with least waste."""
    if problem.role == "grad_weight":
        sums = mixing_grad(problem, isa)
        return planned(
            name,
            sums,
            isa,
            sums.tasks,
            tile=(("sources", sums.tile.sources), ("results", sums.tile.results), ("staged", int(sums.tile.staged))),
            blocking=(("blocks", sums.blocks),),
            why="pixels in lanes, rows read in place, sums in registers",
            sums_upstream=not problem.transposed,
        )
    asked = mixing(problem, isa)
    return planned(
        name,
        asked,
        isa,
        asked.tasks,
        tile=(("results", asked.tile.results), ("vectors", asked.tile.vectors)),
        blocking=(("strip", asked.strip),),
        why=f"pixels in lanes, rows read in place, {asked.ends[0]} to {asked.ends[1]}",
    )


def bind(plan: Plan, isa: ISA) -> Executable:
    """The kernel with every number of the shape fixed."""
    problem = plan.problem
    if problem.role == "grad_weight":
        return _bound_grad(
            mixing_grad(problem, isa, MixGradTile(plan["sources"], plan["results"], bool(plan["staged"])))
        )
    return _bound(mixing(problem, isa, MixTile(plan["results"], plan["vectors"])))


def mixing(problem: Problem, isa: ISA, chosen: MixTile | None = None) -> Mix:
    """The tile that takes least a column, unless one has been ``chosen``."""
    lanes, (count, results) = isa.lanes(sum_type(problem)), channels(problem)
    if turns_of(lanes, sum_type(problem)) > 1:
        return Mix(problem, chosen or _tile_in_turns(count, results), lanes)
    tiles = [MixTile(k, vectors) for k in range(1, min(results, 12) + 1) for vectors in (1, 2, 4, 8)]

    def cost(tile: MixTile) -> float:
        return ceil(results / tile.results) * tile.cycles(count) / tile.vectors

    best = chosen or min((tile for tile in tiles if tile.registers <= isa.registers), key=cost)
    return Mix(problem, best, lanes)


def _tile_in_turns(count: int, results: int) -> MixTile:
    """The tile where a vector takes two turns: it covers so many results, of ``count`` sources, with least waste."""
    if results == 1:
        return MixTile(1, 2 * _TILE_VECTORS)
    if _TILE_ROWS < results <= min(count, 2 * _TILE_ROWS):
        return MixTile(results, _TILE_VECTORS // 2)
    rows = min(range(2, min(_TILE_ROWS, results) + 1), key=lambda rows: (ceil(results / rows) * rows, -rows))
    return MixTile(rows, _TILE_VECTORS)


def mixing_grad(problem: Problem, isa: ISA, chosen: MixGradTile | None = None) -> MixGrad:
    """The tile that takes least a vector, unless one has been ``chosen``."""
    lanes, count, results = isa.lanes(sum_type(problem)), problem.group_in, problem.group_out
    tiles = [MixGradTile(s, k) for s in range(1, min(count, 24) + 1) for k in range(1, min(results, 8) + 1)]
    if _stages(problem, isa):
        tiles = [replace(tile, staged=True) for tile in tiles if ceil(count / tile.sources) >= _LEAST_TASKS]
        if problem.pixels * problem.itemsize % _SET_BYTES == 0:
            tiles = [tile for tile in tiles if tile.sources + tile.results <= _WAYS]

    def cost(tile: MixGradTile) -> float:
        return ceil(count / tile.sources) * ceil(results / tile.results) * tile.cycles

    best = chosen or min((tile for tile in tiles if tile.registers <= isa.registers), key=cost)
    return MixGrad(problem, best, lanes)


def _bound(asked: Mix) -> Launch:
    problem, tile = asked.problem, asked.tile
    element, row, (count, results) = BY_DTYPE[problem.dtype], problem.group_in, asked.ends
    code = jit.kernel(
        ("mixing", problem.dtype, tile, problem.epilogue), lambda isa: write(isa, element, tile, problem.epilogue)
    )
    w_source, w_result = (1, row) if problem.role == "forward" else (row, 1)
    no_bias = np.zeros(1)
    numbers = in_order(NUMBERS, {
        "groups": problem.groups, "sources": count, "results": results, "pixels": asked.pixels,
        "strip": asked.strip, "strips": asked.strips, "w_group": count * results, "w_source": w_source,
        "w_result": w_result, "bias_step": int(problem.bias), "alike": asked.alike,
        "private": asked.own_bytes // sum_type(problem).bytes,
    })  # fmt: skip
    chunk = max(1, min(asked.tasks // 64, int(50_000 / (asked.cycles / asked.tasks + 1))))
    return Launch(
        [(code.address("mix"), asked.tasks, chunk)],
        (0, 0, 0 if problem.bias else address(no_bias), *[0] * 5, *numbers),
        (0, 1, 2 if problem.bias else NOTHING, 3, *sources(problem.epilogue, NOTHING), WORKSPACE),
        own_bytes=asked.own_bytes,
        most_threads=useful_threads(asked.cycles, asked.tasks),
        keep=no_bias,
    )


def _bound_grad(asked: MixGrad) -> Launch:
    problem, tile = asked.problem, asked.tile
    element = BY_DTYPE[problem.dtype]
    writes = write_staged_grad if tile.staged else write_grad
    code = jit.kernel(("mixing_grad", problem.dtype, tile), lambda isa: writes(isa, element, tile))
    numbers = {
        "batch": problem.batch, "groups": problem.groups, "sources": problem.group_in, "results": problem.group_out,
        "pixels": problem.pixels, "blocks": asked.blocks, "has_bias": int(problem.bias),
    }  # fmt: skip
    arrays: tuple[int, ...] = (0, 1, 2, 3 if problem.bias else NOTHING)
    if tile.staged:
        arrays = (*arrays, WORKSPACE)
        private = asked.own_bytes // sum_type(problem).bytes
        numbers |= {"private": private, "strip": asked.strip, "add_rows": rows_adder(problem.dtype)}
    return Launch(
        [(code.address("mix_grad"), asked.tasks, 1)],
        (*[0] * len(arrays), *in_order(STAGED_NUMBERS if tile.staged else GRAD_NUMBERS, numbers)),
        arrays,
        own_bytes=asked.own_bytes,
        most_threads=useful_threads(asked.cycles, asked.tasks),
    )
