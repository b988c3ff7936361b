"""Depthwise convolution of small planes with channels in lanes, and both gradients.

Rows shorter than a vector leave lanes empty, and padding as wide as a plane makes products of zeros. Here planes of as
many channels as there are lanes are turned, a slice of a volume at a time, into a ring of slices that a window spans::

    for depth of the result:
        turn the slices of the source that are new
        for row, for columns in a tile:                     sums in registers
            for slice, row of taps inside the source:       loops
                sums += weights * pixels                    every pixel loaded once
        turn the results back

Only columns outside are zeros, of the frame. Turning costs about as much as four products a pixel and channel, so it
pays for small planes and many taps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import ceil, prod
from typing import Any

import numpy as np

from lucid.core.geometry import Sizes
from lucid.kernels import jit
from lucid.kernels.algorithms import channel_lanes_grad
from lucid.kernels.algorithms.base import (
    MOST_PRODUCTS,
    Executable,
    address,
    memory_cycles,
    planned,
    sum_type,
    turns_of,
    useful_threads,
)
from lucid.kernels.algorithms.channel_lanes_frame import COLUMNS, LaneFrame, most_bytes, turned
from lucid.kernels.algorithms.channel_lanes_kernel import NUMBERS, LaneTile, write
from lucid.kernels.algorithms.correlation import axes_of, many_phases
from lucid.kernels.epilogue import is_short, sources
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA
from lucid.kernels.launch import KEPT, NOTHING, WORKSPACE, Launch, in_order
from lucid.kernels.plan import RANK, Plan, Problem

Array = np.ndarray[Any, Any]

name = "channel_lanes"
dtypes = ("float32", "float64", "float16", "bfloat16")

_TASKS = 16  # wanted at least; images are shared out until there are as many
_CLAIMS = 16  # that threads make at most of a call's tasks: each clears its frame once
_LEAST_CHANNELS = 4  # with fewer, most lanes repeat the last
#: Products of a tile of a whole row, which leaves those with zeros out, and the part of all that is worth a kernel.
_MOST_OF_ROW, _SAVES = 256, 0.875

#: Cycles of one thread; of 46 problems on a Zen 5 with AVX-512, 39 are within 15 %.
_COST = {
    "product": 0.5,  # a vector
    "line": 1.0,  # a row of taps that a tile meets
    "tile": 1.0,
    "image": 60.0,  # of a block of channels
    "task": 100.0,
    "waiting": 0.8,  # for memory
    "call": 4000.0,
}


@dataclass(frozen=True)
class ChannelLanes:
    """A forward role or an input gradient with its frame and tile; a task computes ``each`` images."""

    problem: Problem
    frame: LaneFrame
    tile: LaneTile
    each: int

    @property
    def result(self) -> Sizes:
        """Sizes of the result."""
        return self.problem.out if self.problem.role == "forward" else self.problem.size

    @property
    def result_row(self) -> int:
        """Numbers of a row of sums."""
        return self.frame.positions[2] * len(self.tile.across) * self.frame.lanes

    @property
    def sums_elements(self) -> int:
        """Of a slice of results."""
        return self.result[1] * self.result_row

    @property
    def weight_elements(self) -> int:
        """Of a block: its taps, a vector that is thrown away, the bias."""
        return (self.problem.spec.taps + 2) * self.frame.lanes

    @property
    def own_bytes(self) -> int:
        """A thread's frame, sums and weights, whole lines."""
        return _lines_of(self.frame.elements + self.sums_elements + self.weight_elements, self.problem)

    @property
    def blocks(self) -> int:
        """Of channels."""
        return ceil(self.problem.c_in / self.frame.lanes)

    @property
    def tasks(self) -> int:
        """Blocks of channels, of some images."""
        return self.blocks * ceil(self.problem.batch / self.each)

    def places(self) -> Array:
        """Where the results of a slice lie among its sums, in whole vectors."""
        rows, columns = np.divmod(np.arange(prod(self.result[1:])), self.result[2])
        return self.frame.whole(rows * (self.result_row // self.frame.lanes) + columns, 0)

    @property
    def row_cycles(self) -> float:
        """Of all its rows of sums, a block's."""
        frame, tile = self.frame, self.tile
        tiles = ceil(frame.positions[2] / tile.columns)
        lines = frame.meetings(0, self.result[0]) * frame.meetings(1, self.result[1])
        each = _COST["product"] * turns_of(frame.lanes, sum_type(self.problem)) * tile.products + _COST["line"]
        return tiles * (lines * each + prod(self.result[:2]) * _COST["tile"])

    @property
    def cycles(self) -> float:
        """Expected, of one thread."""
        p, (source, result) = self.problem, (self.frame.source, self.result)
        image = source[0] * self.turned(source) + result[0] * self.turned(result)
        image += self.row_cycles + _COST["image"]
        task = _COST["task"] + self.turned((1, 1, p.spec.taps))
        waiting = _COST["waiting"] * memory_cycles(p.traffic_bytes)
        return self.blocks * p.batch * image + self.tasks * task + waiting + _COST["call"]

    def turned(self, sizes: Sizes) -> float:
        """Cycles to turn planes of such ``sizes``, of a block of channels."""
        return turned(prod(sizes[1:]), self.frame.lanes, sum_type(self.problem).bytes)


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Groups of several channels, few of them, planes that do not fit, machines without vectors."""
    lanes = isa.lanes(sum_type(problem))
    if problem.group_in * problem.group_out != 1:
        return f"groups of {problem.group_in} x {problem.group_out} channels are not depthwise"
    if lanes == 1 or problem.groups < _LEAST_CHANNELS:
        return f"{problem.groups} channels do not fill the lanes of a vector"
    if problem.role == "grad_weight":
        return channel_lanes_grad.refuses(problem, isa)
    if many := many_phases(problem):
        return many
    asked = channel_lanes(problem, isa)
    if asked is None:
        return "a row of taps does not fit in registers"
    return None if asked.own_bytes <= most_bytes() else "its planes do not fit in the second cache"


def fuses(problem: Problem) -> bool:
    """Short epilogues, as planes are turned back."""
    return is_short(problem.epilogue)


def plan(problem: Problem, isa: ISA) -> Plan:
    """The tile that is expected to be fastest."""
    if problem.role == "grad_weight":
        return _plan_grad(problem, isa)
    asked = channel_lanes(problem, isa)
    assert asked is not None, "it is not refused"
    return planned(
        name,
        asked,
        isa,
        asked.tasks,
        tile=(("columns", asked.tile.columns),),
        blocking=(("images", asked.each), ("blocks", asked.blocks)),
        why=f"channels in lanes, {asked.tile.products} products a row of taps",
    )


def bind(plan: Plan, isa: ISA) -> Executable:
    """The kernel with every number of the shape fixed."""
    problem = plan.problem
    if problem.role == "grad_weight":
        gradient = channel_lanes_grad.channel_lanes_grad(problem, isa)
        assert gradient is not None, "it was planned"
        return channel_lanes_grad.bind(gradient)
    asked = channel_lanes(problem, isa, plan["columns"])
    assert asked is not None, "it was planned"
    return _bound(asked)


def _plan_grad(problem: Problem, isa: ISA) -> Plan:
    asked = channel_lanes_grad.channel_lanes_grad(problem, isa)
    assert asked is not None, "it is not refused"
    return planned(
        name,
        asked,
        isa,
        asked.blocks,
        tile=(("columns", asked.tile.columns), ("copies", asked.tile.copies)),
        blocking=(("blocks", asked.blocks),),
        why="channels in lanes, a row of taps in registers",
        sums_upstream=not problem.transposed,
    )


def channel_lanes(problem: Problem, isa: ISA, columns: int | None = None) -> ChannelLanes | None:
    """The tile that is expected to be fastest, if any fits; or that of so many columns."""
    forward, spec = problem.role == "forward", problem.spec
    axes, lanes = axes_of(problem), isa.lanes(sum_type(problem))
    result, source = (problem.out, problem.size) if forward else (problem.size, problem.out)
    stride = spec.stride if forward else (1,) * RANK
    positions = tuple(ceil(n / len(axis.phases)) for n, axis in zip(result, axes, strict=True))
    frame = LaneFrame(axes, source, positions, stride, spec.kernel, lanes)
    every = {LaneTile(n, axes[2].phases, stride[2]): frame for n in COLUMNS if n <= positions[2]}
    whole = LaneTile(positions[2], axes[2].phases, stride[2])
    clipped = replace(whole, inside=(axes[2].low, source[2])) if whole.columns <= COLUMNS[-1] else whole
    if clipped.products <= _SAVES * whole.products:
        every.pop(whole, None)
        every[clipped] = replace(frame, bare=True)
    blocks = ceil(problem.c_in / lanes)
    pieces = min(problem.batch, ceil(_TASKS / blocks))
    options = [
        ChannelLanes(problem, its, tile, ceil(problem.batch / pieces))
        for tile, its in every.items()
        if columns in (None, tile.columns) and _fits(tile, isa)
    ]
    return min(options, key=lambda option: option.row_cycles, default=None)


def _fits(tile: LaneTile, isa: ISA) -> bool:
    most = _MOST_OF_ROW if tile.inside else MOST_PRODUCTS
    return tile.products <= most and tile.registers <= isa.registers


def _bound(asked: ChannelLanes, keeps: bool = False) -> Launch:
    """Turns weights as it goes, or ``keeps`` those that a first step has turned."""
    problem, spec, tile, frame = asked.problem, asked.problem.spec, asked.tile, asked.frame
    element, result = BY_DTYPE[problem.dtype], asked.result
    key = ("channel_lanes", problem.dtype, tile, problem.epilogue)
    code = jit.kernel(key, lambda isa: write(isa, element, tile, problem.epilogue))
    tables = (
        frame.pixels(), frame.whole(np.arange(spec.taps), spec.taps), asked.places(), *frame.depths(result[0]),
        *frame.rows(result[1]),
    )  # fmt: skip
    no_bias, kept_block = np.zeros(frame.lanes), asked.weight_elements if keeps else 0
    numbers = in_order(NUMBERS, {
        "channels": problem.c_in, "blocks": asked.blocks, "images": problem.batch, "each": asked.each,
        "plane": prod(frame.source[1:]), "volume": prod(frame.source), "out_plane": prod(result[1:]),
        "out_volume": prod(result), "out_depth": result[0], "out_rows": result[1], "positions": frame.positions[2],
        "slot": frame.slot, "ring": frame.ring, "frame": frame.elements, "sums": asked.sums_elements,
        "private": asked.own_bytes // sum_type(problem).bytes, "result_row": asked.result_row, "taps": spec.taps,
        "bias_step": int(problem.bias), "kept_block": kept_block,
    })  # fmt: skip
    steps = [(code.address("correlate"), asked.tasks, max(1, asked.tasks // _CLAIMS))]
    return Launch(
        [(code.address("weights"), asked.blocks, asked.blocks), *steps] if keeps else steps,
        (0, 0, 0 if problem.bias else address(no_bias), 0, 0, 0, 0, 0, 0, *map(address, tables), *numbers),
        (
            0, 1, 2 if problem.bias else NOTHING, 3, *sources(problem.epilogue, NOTHING), KEPT if keeps else NOTHING,
            WORKSPACE,
        ),
        kept_bytes=_lines_of(asked.blocks * kept_block, problem),
        own_bytes=asked.own_bytes,
        most_threads=useful_threads(asked.cycles, asked.tasks),
        keep=(tables, no_bias),
        in_advance=None if keeps else partial(_bound, asked, keeps=True),
    )  # fmt: skip


def _lines_of(elements: int, problem: Problem) -> int:
    """Bytes of so many sums, whole lines."""
    return ceil(elements * sum_type(problem).bytes / 64) * 64
