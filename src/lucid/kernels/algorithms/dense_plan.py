"""Tile, blocks and expected time of dense convolutions as implicit matrix products, whatever their phases."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod

from lucid.kernels import target
from lucid.kernels.algorithms import pixel_panels
from lucid.kernels.algorithms.implicit_gemm import (
    Blocking,
    DenseConvolution,
    Shape,
    packed_elements,
    scratch_layout,
)
from lucid.kernels.algorithms.pixel_panels import Phase
from lucid.kernels.algorithms.tile import Tile, cover_products, fitting
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Plan, Problem

#: Steps of a tile between visits to its sums: long enough to hide them, short enough for weights in the first cache.
_STEPS = 640
#: Tasks wanted of a problem that has work for them: enough that no core waits long for the last.
_TASKS = 16
#: Work below which a task is not worth a hand-over.
_TASK_FLOPS = 1 << 20
_MOST_TAPS = 16384

# A core at 4 GHz that issues two products a cycle, and gathers a vector for the panel in one and a half.
_NS_PER_PRODUCT = 0.125
_NS_PER_PACKED_VECTOR = 0.4
_NS_PER_ENTRY = 2.0
_NS_PER_CALL = 3000.0


def shape(problem: Problem) -> Shape:
    """The matrix product's rows, sum and strides for the problem's role."""
    taps = problem.spec.taps
    outward, inward = problem.group_in * taps, taps
    if problem.role == "forward":
        rows, channels, plane, out_plane = problem.group_out, problem.group_in, prod(problem.size), problem.pixels
        row_step, channel_step = outward, inward
    else:
        rows, channels, plane, out_plane = problem.group_in, problem.group_out, problem.pixels, prod(problem.size)
        row_step, channel_step = inward, outward
    return Shape(
        problem.batch, problem.groups, rows, channels, plane, out_plane, row_step, channel_step,
        problem.group_out * outward,
    )  # fmt: skip


def refuses(phases: Sequence[Phase]) -> str | None:
    """Kernels so large that a panel of one channel would not fit."""
    most = max(map(pixel_panels.taps, phases))
    return f"it packs at most {_MOST_TAPS} taps, not {most}" if most > _MOST_TAPS else None


def blocking(problem: Problem, isa: ISA, phases: Sequence[Phase], tile: Tile) -> Blocking:
    """Spans whose panels take half the second level cache, and enough tasks."""
    sizes = shape(problem)
    most_taps = max(1, *map(pixel_panels.taps, phases))
    most = problem.batch * max(map(pixel_panels.positions, phases))
    blocks = max(1, round(sizes.channels * most_taps / _STEPS))
    channels = ceil(sizes.channels / min(blocks, sizes.channels))
    panel_bytes = channels * most_taps * tile.columns * problem.itemsize
    panels = max(1, min(target.cpu().l2_bytes // 2 // panel_bytes, ceil(most / tile.columns)))
    wanted = min(_TASKS, max(1, problem.flops // _TASK_FLOPS))
    tasks = len(phases) * problem.groups * ceil(most / (panels * tile.columns))
    row_parts = min(ceil(sizes.rows / tile.rows), ceil(wanted / tasks))
    spans_wanted = ceil(wanted / (len(phases) * problem.groups * row_parts))
    panels = max(1, min(panels, ceil(most / tile.columns / spans_wanted)))
    return Blocking(tile, channels, panels, row_parts)


def expected_ns(problem: Problem, phases: Sequence[Phase], cut: Blocking) -> float:
    """Time of one thread: products with the tile's edges, packing of panels and weights, the tables."""
    sizes, tile = shape(problem), cut.tile
    total = _NS_PER_CALL
    for phase in phases:
        columns, taps = problem.batch * pixel_panels.positions(phase), pixel_panels.taps(phase)
        vectors = ceil(columns / tile.lanes) * problem.groups * cut.row_parts
        total += _NS_PER_PRODUCT * problem.groups * sizes.channels * taps * cover_products(tile, sizes.rows, columns)
        total += _NS_PER_PACKED_VECTOR * vectors * taps * sizes.channels + _NS_PER_ENTRY * vectors * taps
        total += _NS_PER_PACKED_VECTOR * packed_elements(sizes, tile, phase)
    return total


def plan(name: str, problem: Problem, isa: ISA, phases: Sequence[Phase]) -> Plan:
    """The cheapest tile with its blocks."""
    element = BY_DTYPE[problem.dtype]
    cuts = [blocking(problem, isa, phases, tile) for tile in fitting(isa, element)]
    best = min(cuts, key=lambda cut: (expected_ns(problem, phases, cut), -cut.tile.rows * cut.tile.vectors))
    sizes, tile = shape(problem), best.tile
    packed = sum(packed_elements(sizes, tile, phase) for phase in phases) * problem.itemsize
    scratch = scratch_layout(sizes, best, phases, problem.itemsize)["scratch_bytes"]
    return Plan(
        name,
        problem,
        isa.name,
        expected_ns(problem, phases, best),
        tile=(("rows", tile.rows), ("vectors", tile.vectors), ("lanes", tile.lanes)),
        blocking=(("channels", best.channels), ("panels", best.panels), ("row_parts", best.row_parts)),
        workspace_bytes=packed + scratch,
        why=f"implicit matrix product, {tile.rows} channels x {tile.columns} pixels in registers",
    )


def bind(plan: Plan, isa: ISA, phases: Sequence[Phase]) -> DenseConvolution:
    """The kernel with the problem's numbers."""
    tile = Tile(plan["rows"], plan["vectors"], plan["lanes"])
    cut = Blocking(tile, plan["channels"], plan["panels"], plan["row_parts"])
    return DenseConvolution(plan.problem.dtype, isa, shape(plan.problem), cut, phases)
