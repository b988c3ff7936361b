"""Lines of few channels filtered by many taps: even and odd results share a third of their products.

Where e and o are the even and the odd samples of a row that is read from its padding on, and a and b the even and the
odd taps::

    even results   a e + b o        = (a + b) o + a (e - o)
    odd results    a o + b e'       = (a + b) o + b (e' - o)          e' the next even sample

Three filters of half the taps take the place of four, and their sums begin where that of the core ended, so there is no
addition. Differences of samples are made once for all channels of the result: a line each of o, e - o and e' - o, which
stay in the first caches. Along other axes a result is a sum over lines of x, whatever their stride and dilation.

Errors are those of a sum as long whose samples and weights are twice as large: see ``error_growth``. A NaN or an
infinity may reach its neighbours' results. Strict precision rules the algorithm out: see ``lucid.set_precision``.

Source: the fast FIR algorithm of two phases, transposed: Mou and Duhamel, Short-length FIR filters and their use in
fast nonrecursive filtering, 1991; Parhi, VLSI Digital Signal Processing Systems, chapter 9.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil, prod
from typing import Any

import numpy as np

from lucid.kernels import jit, target
from lucid.kernels.algorithms import dense_cost, fast_fir_kernel
from lucid.kernels.algorithms.base import GHZ, Executable, address, planned, priced, sum_type, useful_threads
from lucid.kernels.algorithms.fast_fir_kernel import ARRAYS, LINES, NUMBERS, Form
from lucid.kernels.algorithms.past_caches import gains, kept_rows
from lucid.kernels.epilogue import in_registers
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA
from lucid.kernels.launch import KEPT, NOTHING, WORKSPACE, Launch, in_order
from lucid.kernels.plan import Plan, Problem, Role
from lucid.kernels.runtime import memory

Array = np.ndarray[Any, Any]

name = "fast_fir"
roles: tuple[Role, ...] = ("forward",)
dtypes = ("float32", "float64", "float16", "bfloat16")

#: Rows and vectors of a tile: twelve sums of the core, or fewer, then as many of each phase.
_TILES = ((4, 3), (3, 4), (6, 2), (2, 6), (5, 2))
_FEWEST_PRODUCTS = 9  # of a sum: with 7 and 8 1.0 to 1.1 of the time of the usual product
_FEWEST_ACROSS = 7  # taps of a line of several: with 3 and 5 1.0 to 1.2 of the time of others
_MOST_FILTERS = 64  # lines that are made ready for each line of results
_MOST_CHANNELS = 4  # of a sum: with more, transforms of tiles or spectra save more
_TASKS = 16  # wanted at least
_LONG_RUN = 16  # tiles of a piece, at least, that go past the caches
_SHORT_RUN = 4  # of others
_ASKS_BYTES = 2 << 20  # of results, from which on the lines of a tile are asked for before they are due
_CHAINS = 4  # sums that hide how long a product takes: of a tile of one vector, its rows
_GROWTH = 2.0  #: of the bound of a sum, numbers being all alike
#: Cycles of one thread, fitted on a Zen 4.
_COST = {"product": 1.09, "store": 3.1, "tile": 10.0, "samples": 50.0, "task": 200.0, "call": 6500.0}


def refuses(problem: Problem, isa: ISA) -> str | None:
    """All but rows along one axis with neighbouring taps, of machines whose vectors take two turns of a unit."""
    if target.cpu().turns(isa) == 1:
        return "its gain is proven where a product of vectors takes two turns"
    spec = problem.spec
    if spec.stride[2] * spec.dilation[2] > 1:
        return "it filters rows along the last axis, by neighbouring taps"
    if spec.kernel[2] < 3 or problem.group_in * spec.taps < _FEWEST_PRODUCTS:
        return "its sums are so short that they wait to be stored, not for products"
    if prod(spec.kernel[:2]) > 1 and spec.kernel[2] < _FEWEST_ACROSS:
        return "kernels of several lines and few taps in each are left to others"
    if _filters(problem) > _MOST_FILTERS:
        return f"its results are sums over more than {_MOST_FILTERS} lines"
    if problem.group_in > _MOST_CHANNELS:
        return f"it sums over more than {_MOST_CHANNELS} channels"
    if problem.group_out < min(rows for rows, _ in _TILES):
        return "one channel of the result leaves most of its tile empty"
    return None


def _filters(problem: Problem) -> int:
    """Lines of samples that a result is a sum over."""
    return problem.group_in * prod(problem.spec.kernel[:2])


def fuses(problem: Problem) -> bool:
    """An activation of a few instructions, as sums leave."""
    return in_registers(problem.epilogue)


def error_growth(plan: Plan) -> float:
    """A result is within so many times the bound of direct summation, where that is largest in its channel."""
    problem = plan.problem
    summed = problem.group_in * problem.spec.taps
    return _GROWTH * (summed + _filters(problem) + 4) / summed


@dataclass(frozen=True)
class FastFir:
    """A problem with its tile and pieces of rows of so many results."""

    problem: Problem
    rows: int
    vectors: int
    lanes: int
    piece: int

    @property
    def columns(self) -> int:
        """Results of a row of a tile."""
        return 2 * self.vectors * self.lanes

    @property
    def steps(self) -> tuple[int, int, int]:
        """Products of a sum: of the core, of even results, of odd ones."""
        filters, taps = _filters(self.problem), self.problem.spec.kernel[2]
        return filters * ceil(taps / 2), filters * ceil(taps / 2), filters * (taps // 2)

    @property
    def pieces(self) -> int:
        """Of a row."""
        return ceil(self.problem.out[2] / self.piece)

    @property
    def lines(self) -> int:
        """Rows of an image."""
        return prod(self.problem.out[:2])

    @property
    def blocks(self) -> int:
        """Tiles that cover the channels of a group."""
        return ceil(self.problem.group_out / self.rows)

    @property
    def tasks(self) -> int:
        """One for each piece of a row."""
        return self.problem.batch * self.problem.groups * self.lines * self.pieces

    @property
    def pitch(self) -> int:
        """Numbers of a line of samples: as many as the last, narrow tile reads."""
        results = ceil(min(self.piece, self.problem.out[2]) / (2 * self.lanes)) * self.lanes
        return ceil((results + ceil(self.problem.spec.kernel[2] / 2)) / self.lanes) * self.lanes

    @property
    def own_elements(self) -> int:
        """A thread's lines."""
        return ceil(_filters(self.problem) * LINES * self.pitch / 16) * 16

    @property
    def own_bytes(self) -> int:
        """The same in bytes."""
        return self.own_elements * sum_type(self.problem).bytes

    @property
    def kept_bytes(self) -> int:
        """Weights, and what sums start from."""
        elements = self.problem.groups * self.blocks * (sum(self.steps) + 1) * self.rows
        return ceil(elements * sum_type(self.problem).bytes / memory.ALIGN_BYTES) * memory.ALIGN_BYTES

    @cached_property
    def cycles(self) -> float:
        """Expected, of one thread."""
        rows = self.problem.batch * self.problem.groups * self.lines
        whole, left = divmod(self.problem.out[2], self.columns)
        tiles, narrow = (rows * self.blocks * count for count in (whole, ceil(left / (2 * self.lanes))))
        vectors = self.rows * (tiles * self.vectors + narrow * max(1.0, _CHAINS / self.rows))
        work = {
            "product": sum(self.steps) * vectors,
            "store": 2 * vectors,
            "tile": tiles + narrow,
            "samples": self.tasks * _filters(self.problem) * self.pitch / self.lanes,
            "task": self.tasks,
            "call": 1,
        }
        return priced(work, _COST, {}, 1) + dense_cost.traffic_ns(self.problem) * GHZ


@lru_cache(maxsize=64)
def fast_fir(problem: Problem, isa: ISA) -> FastFir:
    """The tile that is expected to be fastest."""
    lanes = isa.lanes(sum_type(problem))
    fit = [tile for tile in _TILES if tile[0] <= problem.group_out]
    ways = [FastFir(problem, *tile, lanes, _piece(problem, tile, isa)) for tile in fit]
    return min(ways, key=lambda way: way.cycles * (1 + 0.5 / min(_TASKS, way.tasks)))


def _piece(problem: Problem, tile: tuple[int, int], isa: ISA) -> int:
    """Results of a piece of a row: whole tiles, whose samples stay in the second cache, and some tasks."""
    columns, width = 2 * tile[1] * isa.lanes(sum_type(problem)), problem.out[2]
    run = _LONG_RUN if gains(problem.written_bytes, BY_DTYPE[problem.dtype], isa) else _SHORT_RUN
    room = target.cpu().l2_bytes // 4 // (LINES * _filters(problem) * sum_type(problem).bytes) * 2
    rows = problem.batch * problem.groups * prod(problem.out[:2])
    pieces = max(ceil(width / room), min(ceil(_TASKS / rows), width // (run * columns)), 1)
    return ceil(width / pieces / columns) * columns


def least_ns(problem: Problem, isa: ISA) -> float:
    """Its products at the full rate."""
    products = problem.batch * problem.c_out * problem.group_in * problem.pixels * problem.spec.taps * 3 / 4
    return products / isa.lanes(sum_type(problem)) / GHZ


def plan(problem: Problem, isa: ISA) -> Plan:
    """The tile that is expected to be fastest."""
    chosen = fast_fir(problem, isa)
    return planned(
        name,
        chosen,
        isa,
        chosen.tasks,
        tile=(("rows", chosen.rows), ("vectors", chosen.vectors)),
        blocking=(("piece", chosen.piece),),
        why="three products of half the taps for four",
    )


def bind(plan: Plan, isa: ISA) -> Executable:
    """The kernels with every number of the shape fixed."""
    lanes = isa.lanes(sum_type(plan.problem))
    return bound(FastFir(plan.problem, plan["rows"], plan["vectors"], lanes, plan["piece"]), isa)


def bound(asked: FastFir, isa: ISA) -> Executable:
    """The same of a tile and a piece that have been chosen."""
    problem, element = asked.problem, BY_DTYPE[asked.problem.dtype]
    asks = problem.written_bytes > _ASKS_BYTES
    form = Form(asked.rows, asked.vectors, asked.lanes, _past(asked, isa), asks, problem.epilogue)
    code = jit.kernel((name, problem.dtype, form), lambda isa: fast_fir_kernel.write(isa, element, form))
    table, spec = _table(asked), problem.spec
    numbers = dict(zip(("core", "ahead", "behind"), asked.steps, strict=True)) | {
        "groups": problem.groups, "channels": problem.group_in, "rows": problem.group_out, "blocks": asked.blocks,
        "taps": spec.kernel[2], "filters": _filters(problem), "low": spec.padding[2][0], "width": problem.size[2],
        "plane": prod(problem.size), "out_width": problem.out[2], "out_plane": problem.pixels, "lines": asked.lines,
        "pieces": asked.pieces, "piece": asked.piece, "pitch": asked.pitch, "own_elements": asked.own_elements,
        "has_bias": int(problem.bias), "depth": problem.size[0], "height": problem.size[1],
        "out_height": problem.out[1], "kernel_d": spec.kernel[0], "kernel_h": spec.kernel[1], "step_d": spec.stride[0],
        "step_h": spec.stride[1], "apart_d": spec.dilation[0], "apart_h": spec.dilation[1],
        "low_d": spec.padding[0][0], "low_h": spec.padding[1][0],
    }  # fmt: skip
    return Launch(
        [(code.address("weights"), problem.groups * asked.blocks, 1), (code.address("run"), asked.tasks, 1)],
        (*[0] * len(ARRAYS), address(table), *in_order(NUMBERS, numbers)),
        (0, 1, 2 if problem.bias else NOTHING, 3, KEPT, WORKSPACE),
        kept_bytes=asked.kept_bytes,
        own_bytes=asked.own_bytes,
        most_threads=useful_threads(asked.cycles, asked.tasks),
        keep=table,
    )


def _past(asked: FastFir, isa: ISA) -> int:
    """How many rows of a tile go past the caches."""
    problem = asked.problem
    long = min(asked.piece, problem.out[2]) >= _LONG_RUN * asked.columns
    if not long or problem.group_out % asked.rows or not gains(problem.written_bytes, BY_DTYPE[problem.dtype], isa):
        return 0
    return asked.rows - kept_rows(asked.rows, problem.written_bytes, problem.traffic_bytes - problem.written_bytes)


def _table(asked: FastFir) -> Array:
    """Where the samples of every step lie."""
    half, odd = ceil(asked.problem.spec.kernel[2] / 2), asked.problem.spec.kernel[2] // 2
    filters = np.arange(_filters(asked.problem))[:, None] * (LINES * asked.pitch)
    stages = [(filters + line * asked.pitch + np.arange(n)).ravel() for line, n in enumerate((half, half, odd))]
    table: Array = np.concatenate(stages).astype(np.int32)
    return table
