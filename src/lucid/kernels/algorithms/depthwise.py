"""Depthwise convolution and its two gradients, and groups of few channels: pixels in lanes, bound by memory."""

from __future__ import annotations

from lucid.kernels.algorithms import correlation, depthwise_grad, depthwise_grad_kernel
from lucid.kernels.algorithms.base import GHZ, Executable, shared_tasks
from lucid.kernels.algorithms.correlation_tile import Tile
from lucid.kernels.epilogue import is_short
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Plan, Problem

name = "depthwise"
dtypes = ("float32", "float64", "float16", "bfloat16")

#: Of a tile, in its own order.
_TILE_NUMBERS = ("rows", "vectors", "span", "step", "results", "phases", "taps", "group")
_SUMS_NUMBERS = ("results", "lines", "columns", "down", "long")


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Groups of many channels, long strides."""
    return correlation.many_channels(problem) or correlation.many_phases(problem)


def fuses(problem: Problem) -> bool:
    """Short epilogues, as sums leave their registers: of longer ones the arithmetic counts, wherever it is done."""
    return is_short(problem.epilogue)


def plan(problem: Problem, isa: ISA) -> Plan:
    """The tile and the cut of the role."""
    if problem.role == "grad_weight":
        return _plan_sums(depthwise_grad.sums(problem, isa), isa)
    return _plan_correlation(correlation.correlation(problem, isa), isa)


def bind(plan: Plan, isa: ISA) -> Executable:
    """The role's kernel with the geometry filled in."""
    problem = plan.problem
    if problem.role == "grad_weight":
        results, lines, columns, down, long = (plan[name] for name in _SUMS_NUMBERS)
        sums = depthwise_grad_kernel.Tile(results, lines, columns, down, bool(long))
        return depthwise_grad.bind(depthwise_grad.sums(problem, isa, sums), isa)
    rows, vectors, span, step, results, phases, taps, group = (plan[name] for name in _TILE_NUMBERS)
    tile = Tile(rows, vectors, span, step, results, phases, taps, group)
    return correlation.bind(correlation.correlation(problem, isa, tile), isa)


def _plan_correlation(asked: correlation.Correlation, isa: ISA) -> Plan:
    source = "read in place" if asked.tile.in_place else f"zero frames of {asked.cut.plane} elements"
    return Plan(
        name,
        asked.problem,
        isa.name,
        expected_ns=asked.cycles / GHZ,
        tasks=shared_tasks(asked.cycles, asked.tasks),
        tile=tuple((n, getattr(asked.tile, n)) for n in _TILE_NUMBERS),
        blocking=(("box_pixels", asked.cut.pixels), ("boxes", asked.cut.boxes)),
        workspace_bytes=asked.private_elements * asked.element.bytes,
        why=f"pixels in lanes, a load serves {asked.tile.span} taps, {source}",
    )


def _plan_sums(asked: depthwise_grad.Sums, isa: ISA) -> Plan:
    tile, problem = asked.tile, asked.problem
    return Plan(
        name,
        problem,
        isa.name,
        expected_ns=asked.cycles / GHZ,
        tasks=shared_tasks(asked.cycles, problem.groups * asked.chunks),
        tile=tuple((n, int(getattr(tile, n))) for n in _SUMS_NUMBERS),
        blocking=(("box_pixels", asked.cut.pixels), ("boxes", asked.cut.boxes), ("chunks", asked.chunks)),
        workspace_bytes=(asked.private_elements + asked.part_elements) * asked.element.bytes,
        why=f"pixels in lanes, {tile.sums} sums in registers, {asked.passes * asked.blocks} passes over each box",
        sums_upstream=True,
    )
