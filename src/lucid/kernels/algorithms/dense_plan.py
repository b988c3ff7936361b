"""Tile, blocks and expected time of dense convolutions as implicit matrix products, whatever their phases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, prod

from lucid.kernels import target
from lucid.kernels.algorithms import pixel_panels
from lucid.kernels.algorithms.implicit_gemm import (
    Blocking,
    Cut,
    DenseConvolution,
    Shape,
    packed_elements,
    row_blocks,
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
_NOT_SHARED = 3

# A core at 4 GHz that issues two products a cycle.
_NS_PER_PRODUCT = 0.125
_NS_PER_PACKED_VECTOR = 0.8
_NS_PER_COPIED_VECTOR = 6.0
_NS_PER_PACKED_WEIGHT = 0.25
_NS_PER_ENTRY = 2.0
_NS_PER_TILE = 10.0
_NS_PER_STORED_VECTOR = 0.5
_NS_PER_TASK = 100.0
_NS_PER_CALL = 3000.0


def shape(problem: Problem, stack: int = 1) -> Shape:
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
        problem.batch, problem.groups, rows * stack, channels, plane, out_plane, row_step, channel_step,
        problem.group_out * outward, stack,
    )  # fmt: skip


def refuses(phases: Sequence[Phase]) -> str | None:
    """Kernels so large that a panel of one channel would not fit."""
    most = max(map(pixel_panels.taps, phases))
    return f"it packs at most {_MOST_TAPS} taps, not {most}" if most > _MOST_TAPS else None


def shareable(phases: Sequence[Phase]) -> Iterator[int]:
    """Axes along which taps can share samples."""
    for axis in range(3):
        if any(len(phase[axis].shared()[0].offsets) < len(phase[axis].offsets) for phase in phases):
            yield axis


def blocking(
    sizes: Shape, flops: int, itemsize: int, phases: Sequence[Phase], tile: Tile, shared: int | None
) -> Blocking:
    """Spans whose panels take half the second level cache, and enough tasks."""
    most_taps = max(1, *map(pixel_panels.taps, phases))
    blocks = max(1, round(sizes.channels * most_taps / _STEPS))
    channels = ceil(sizes.channels / min(blocks, sizes.channels))
    room = target.cpu().l2_bytes // 2 // (channels * itemsize)
    cuts = [Cut.of(phase, sizes.batch, Blocking(tile, channels, 1 << 30, 1, shared)) for phase in phases]
    panels = min(
        (room // max(1, cut.gathered_taps) - (cut.layout.halo if shared is not None else 0)) // tile.columns
        for cut in cuts
    )
    unit = max(ceil(cut.unit / tile.columns) for cut in cuts)
    panels = max(1, min(panels, unit))
    wanted = min(_TASKS, max(1, flops // _TASK_FLOPS))
    others = len(phases) * sizes.groups * max(cut.units for cut in cuts)
    if others * ceil(unit / panels) < wanted:
        panels = max(min(panels, 4), ceil(unit / ceil(wanted / others)))
    row_parts = min(row_blocks(sizes, tile), ceil(wanted / (others * ceil(unit / panels))))
    return Blocking(tile, channels, panels, row_parts, shared)


def expected_ns(sizes: Shape, itemsize: int, phases: Sequence[Phase], cut_up: Blocking) -> float:
    """Time of one thread: products with the tile's edges, gathering, tables, packing of weights, stores."""
    tile, total = cut_up.tile, _NS_PER_CALL
    blocks = ceil(sizes.channels / cut_up.channels)
    kind = pixel_panels.stride_class(phases[0][2].step, tile.lanes)
    gather_ns = {0: _NS_PER_COPIED_VECTOR, 1: _NS_PER_PACKED_VECTOR, 2: 1.5 * _NS_PER_PACKED_VECTOR}[kind]
    for phase in phases:
        cut, taps = Cut.of(phase, sizes.batch, cut_up), pixel_panels.taps(phase)
        spans = sizes.groups * cut.spans
        last = cut.unit - (cut.unit_spans - 1) * cut.span
        products = cut.units * (
            (cut.unit_spans - 1) * cover_products(tile, sizes.rows, cut.span) + cover_products(tile, sizes.rows, last)
        )
        tiles = sizes.groups * cut.units * ceil(cut.unit / tile.columns) * row_blocks(sizes, tile)
        gathered = sizes.groups * (cut.units * (cut.unit + cut.unit_spans * cut.layout.halo)) / tile.lanes
        entries = gathered * cut.gathered_taps * (1 + tile.lanes / cut.layout.gathered[2].positions)
        in_place = all(axis.contiguous for axis in phase)
        stores = tiles * tile.rows * tile.vectors * (2 * blocks - 1 + (0 if in_place else 2 if sizes.stack > 1 else 4))
        total += _NS_PER_PRODUCT * products * sizes.groups * sizes.channels * taps
        total += entries * cut_up.row_parts * (gather_ns * sizes.channels + _NS_PER_ENTRY)
        total += _NS_PER_PACKED_WEIGHT * packed_elements(sizes, tile, phase)
        total += (
            _NS_PER_TILE * tiles * blocks + _NS_PER_STORED_VECTOR * stores + _NS_PER_TASK * spans * cut_up.row_parts
        )
    return total


def plan(name: str, problem: Problem, isa: ISA, phases: Sequence[Phase], stack: int = 1) -> Plan:
    """The cheapest tile with its blocks."""
    sizes, size = shape(problem, stack), problem.itemsize
    tiles = [tile for tile in fitting(isa, BY_DTYPE[problem.dtype]) if tile.rows % stack == 0]
    cuts = [
        blocking(sizes, problem.flops, size, phases, tile, shared)
        for tile in tiles
        for shared in (None, *shareable(phases))
    ]
    best = min(cuts, key=lambda cut: expected_ns(sizes, size, phases, cut))
    tile = best.tile
    packed = sum(packed_elements(sizes, tile, phase) for phase in phases) * size
    spans = [Cut.of(phase, sizes.batch, best) for phase in phases]
    return Plan(
        name,
        problem,
        isa.name,
        expected_ns(sizes, size, phases, best),
        tile=(("rows", tile.rows), ("vectors", tile.vectors), ("lanes", tile.lanes)),
        blocking=(
            ("channels", best.channels),
            ("panels", best.panels),
            ("row_parts", best.row_parts),
            ("shared", _NOT_SHARED if best.shared is None else best.shared),
        ),
        workspace_bytes=packed + scratch_layout(sizes, best, spans, size)["scratch_bytes"],
        why=f"implicit matrix product, {tile.rows} channels x {tile.columns} pixels in registers",
    )


def bind(plan: Plan, phases: Sequence[Phase], stack: int = 1) -> DenseConvolution:
    """The kernel with the problem's numbers."""
    tile = Tile(plan["rows"], plan["vectors"], plan["lanes"])
    shared = None if plan["shared"] == _NOT_SHARED else plan["shared"]
    cut = Blocking(tile, plan["channels"], plan["panels"], plan["row_parts"], shared)
    return DenseConvolution(plan.problem.dtype, shape(plan.problem, stack), cut, phases)
