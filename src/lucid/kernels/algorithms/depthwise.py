"""Depthwise convolution and its two gradients, and groups of few channels: pixels in lanes, bound by memory."""

from __future__ import annotations

from lucid.kernels.algorithms import correlation
from lucid.kernels.algorithms.base import Executable
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Plan, Problem

name = "depthwise"

_MOST_CHANNELS = 64  # of a group's c_in x c_out: beyond, a load should serve more than one result
_GHZ = 4.0


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Groups of many channels."""
    if problem.role == "grad_weight":
        return "not yet"
    if problem.group_in * problem.group_out > _MOST_CHANNELS:
        return f"groups of {problem.group_in} x {problem.group_out} channels are not depthwise"
    return None


def plan(problem: Problem, isa: ISA) -> Plan:
    """The tile and the cut of the role."""
    asked = correlation.correlation(problem, isa)
    return Plan(
        name,
        problem,
        isa.name,
        expected_ns=asked.cycles / _GHZ,
        tile=(("rows", asked.tile.rows), ("vectors", asked.tile.vectors), ("span", asked.tile.span)),
        blocking=(("box_pixels", asked.cut.pixels), ("boxes", asked.cut.boxes)),
        workspace_bytes=asked.private_elements * problem.itemsize,
        why="pixels in lanes, taps from a zero frame in the first cache",
    )


def bind(plan: Plan, isa: ISA) -> Executable:
    """The role's kernel with the geometry filled in."""
    return correlation.bind(correlation.correlation(plan.problem, isa), isa)
