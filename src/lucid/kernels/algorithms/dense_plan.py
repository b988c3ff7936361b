"""Tile, blocks and expected time of dense convolutions as implicit matrix products, whatever their phases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import ceil, prod

from lucid.kernels import target
from lucid.kernels.algorithms import implicit_gemm, panels, pixel_panels
from lucid.kernels.algorithms.dense_layout import (
    Blocking,
    Cut,
    Shape,
    computed,
    packed_elements,
    row_blocks,
    scratch_layout,
)
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.pixel_panels import Layout, Phase
from lucid.kernels.algorithms.tile import AnyTile, ChannelTile, Tile, cover_products, fitting, fitting_channels
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA, ISAS
from lucid.kernels.launch import Launch
from lucid.kernels.plan import Plan, Problem

DTYPES = ("float32", "float64", "float16", "bfloat16")
#: Steps of a tile between visits to its sums: long enough to hide them, short enough for weights in the first cache.
_STEPS = (1280, 640, 320)
#: Spans for which weights are packed anew each, since the second reading costs as much.
_LAZY_SPANS = 2
_MANY_PIXELS = 60 << 10  # whole tiles of any width
_FEW_PIXELS = 1024  # of the whole batch
_TURNED_TILES = 2
#: Tiles that are weighed in full.
_TILES = 3
#: Tasks wanted of a problem that has work for them: enough that no core waits long for the last.
_TASKS = 16
#: Work below which a task is not worth a hand-over.
_TASK_FLOPS = 1 << 20
_MOST_TAPS = 16384
#: Axes whose taps may share samples; two must be neighbours.
_SHARED = ((), (0,), (1,), (2,), (0, 1), (1, 2))

# Least squares over the plans of 39 layers, rounded, on a core at 4 GHz that issues two vector products a cycle; root
# mean square of what they are off: 5 %.
_CALL_NS = 2000.0
#: A byte of x, w and y, up to half the third level cache and beyond.
_NEAR_BYTE_NS, _FAR_BYTE_NS = 0.003, 0.023
_PAIR_READS = 1.2  # two channels read at once, as so many
_COST_NS = {
    "product": 0.122,  # of vectors
    "panel": 0.05,  # a vector of a panel, read for a tile
    "gather": 0.7,  # a vector of a panel
    "read": 0.33,  # a vector of x for it, and a shuffle
    "copy": 3.5,  # a vector of single samples
    "entry": 3.0,
    "tile": 10.0,
    "visit": 0.1,  # a vector of sums, to memory or from it
    "visit from third cache": 3.0,  # where they wait for more channels and do not fit the second
    "round": 0.07,  # an element on its way out
    "interleave": 0.13,
    "scatter": 0.35,
    "scatter turned": 0.7,
    "task": 90.0,
    "weight from second cache": 0.016,
    "weight from memory": 0.06,
    "weight packed": 0.3,  # beforehand, to memory
    "weight turned": 0.23,  # by the task that reads it next
}


def shape(problem: Problem, isa: ISA, stack: int = 1) -> Shape:
    """The matrix product's rows, sum and strides for the problem's role."""
    taps = problem.spec.taps
    outward, inward = problem.group_in * taps, taps
    if problem.role == "forward":
        rows, channels, plane, out_plane = problem.group_out, problem.group_in, prod(problem.size), problem.pixels
        row_step, channel_step = outward, inward
    else:
        rows, channels, plane, out_plane = problem.group_in, problem.group_out, problem.pixels, prod(problem.size)
        row_step, channel_step = inward, outward
    stored = BY_DTYPE[problem.dtype]
    grain = Grain.of(stored, channels, isa)
    return Shape(
        problem.batch, problem.groups, rows * stack, channels, plane, out_plane, row_step, channel_step,
        problem.group_out * outward, grain.sums.bytes, grain, grain.sums == stored, stack,
    )  # fmt: skip


def refuses(problem: Problem, isa: ISA, phases: Sequence[Phase]) -> str | None:
    """Kernels so large that a panel of one channel would not fit; half precision without masks for its elements."""
    if problem.itemsize == 2 and not isa.masks_halves:
        return f"it loads {problem.dtype} with masks that {isa.name} does not have"
    most = max(map(pixel_panels.taps, phases), default=0)
    return f"it packs at most {_MOST_TAPS} taps, not {most}" if most > _MOST_TAPS else None


def _tiles(problem: Problem, sizes: Shape, isa: ISA, unit: int) -> list[AnyTile]:
    """The tiles of least waste for the rows, whatever the pixels: a new image size needs no new kernel.

    All residues of a channel are in one tile. Where pixels are few, tiles over channels are weighed too.
    """
    element = computed(BY_DTYPE[problem.dtype])
    fit = [
        tile
        for tile in fitting(isa, element)
        if tile.rows % sizes.stack == 0 and tile.rows <= max(sizes.rows, sizes.stack)
    ]
    best: list[AnyTile] = [*sorted(fit, key=lambda tile: waste(tile, sizes.rows))[:_TILES]]
    if sizes.stack == 1 and problem.batch * problem.pixels <= _FEW_PIXELS:
        turned = fitting_channels(isa, element, unit)
        best += sorted(turned, key=lambda tile: cover_products(tile, sizes.rows, unit))[:_TURNED_TILES]
    return best


def waste(tile: Tile, rows: int) -> tuple[float, int]:
    """Time of one k over many pixels; the same with fewer readings of a panel is better."""
    return cover_products(tile, rows, _MANY_PIXELS), ceil(rows / tile.rows) * tile.loads(_MANY_PIXELS)


def _layouts(phases: Sequence[Phase], batch: int) -> Iterator[list[Layout]]:
    """The ways to lay out the phases' samples: no taps share any, or those along axes where that saves some."""
    fewest: dict[tuple[int, ...], int] = {}
    for shared in _SHARED:
        layouts = [Layout.of(phase, shared, batch) for phase in phases]
        fewest[shared] = sum(layout.gathered_taps for layout in layouts)
        parts = [shared[:1], shared[1:]] if len(shared) > 1 else [()] * len(shared)
        if all(fewest[shared] < fewest[part] for part in parts):
            yield layouts


def _blockings(
    problem: Problem, sizes: Shape, layouts: Sequence[Layout], tile: AnyTile, isa: ISA
) -> Iterator[tuple[Blocking, int]]:
    """Ways to cut the loops, and how many tasks each makes of those wanted.

    Panels fit half the second level cache, or are smaller so that there are more of them.
    """
    most_taps = max(1, *(layout.taps for layout in layouts))
    unit = max(layout.lines * ceil(layout.line / tile.columns) for layout in layouts)
    units = max(layout.units for layout in layouts)
    wanted = min(_TASKS, max(1, problem.flops // _TASK_FLOPS))
    slack = panels.slack(isa, computed(BY_DTYPE[problem.dtype]), tile.rows)
    for steps in _STEPS:
        blocks = min(max(1, round(sizes.elements * most_taps / steps)), sizes.elements)
        elements = ceil(sizes.elements / blocks)
        room = target.cpu().l2_bytes // 2 // (elements * sizes.itemsize)
        fitting = min(_fitting(layout, tile, room // max(1, layout.gathered_taps)) for layout in layouts)
        if fitting < 1 and len(layouts[0].shared) > 1:
            continue
        spans = ceil(unit / max(1, fitting))
        for finer in (1, 2, 4):
            width = ceil(unit / min(unit, spans * finer))
            unit_spans = ceil(unit / width)
            others = len(layouts) * sizes.groups * units * unit_spans
            lazy = units * unit_spans <= _LAZY_SPANS
            most_parts = min(row_blocks(sizes, tile), ceil(wanted / others))
            for row_parts in sorted({most_parts, ceil(most_parts / 2), ceil(most_parts / 4)}):
                tasks = min(wanted, others * row_parts)
                yield (
                    Blocking(tile, elements * sizes.grain.depth, width, row_parts, layouts[0].shared, lazy, slack),
                    tasks,
                )
            if others >= wanted or width == 1:
                break


def _fitting(layout: Layout, tile: AnyTile, width: int) -> int:
    """Tiles whose samples fit a panel of that width."""
    if len(layout.shared) < 2:
        return (width - layout.halo) // tile.columns
    return (width - layout.halo - tile.columns) // layout.pitch * ceil(layout.line / tile.columns)


def _work(sizes: Shape, layout: Layout, cut_up: Blocking) -> dict[str, float]:
    """What one thread does for a phase, counted in the units of ``_COST_NS``."""
    tile, cut, gathered_x = cut_up.tile, Cut.of(layout, cut_up), layout.gathered[2]
    blocks, heights = ceil(sizes.channels / cut_up.channels), row_blocks(sizes, tile)
    run = min(cut.span, layout.line)
    last = layout.unit - (cut.unit_spans - 1) * cut.span if run == cut.span else run
    across = cover_products(tile, tile.rows, last)
    across += (ceil(layout.unit / run) - 1) * cover_products(tile, tile.rows, run)
    tiles = layout.units * layout.lines * ceil(layout.line / tile.columns) * heights
    vectors = layout.units * (layout.lines * layout.pitch + cut.unit_spans * layout.halo) / tile.lanes
    passes = max(1.0, 0.5 + 0.5 * tile.lanes / gathered_x.positions)
    entries = vectors * layout.gathered_taps * passes * cut_up.row_parts
    whole = not tile.over_channels and all(axis.contiguous for axis in layout.phase)
    steps, groups = sizes.elements * layout.taps, sizes.groups
    read = pixel_panels.reading(gathered_x, tile.lanes)
    stored, weights = tiles * tile.accumulators, heights * tile.rows * steps
    home = "second cache" if weights * sizes.itemsize < target.cpu().l2_bytes else "memory"
    waiting = cut.span * ceil(heights / cut_up.row_parts) * tile.rows * sizes.itemsize
    far = waiting > target.cpu().l2_bytes // 2
    strided = "interleave" if sizes.stack > 1 else "scatter turned" if tile.over_channels else "scatter"
    outward = "round" if whole else strided
    reads = sizes.elements * (_PAIR_READS if sizes.grain.depth > 1 else 1)
    return {
        "product": groups * layout.units * heights * across * steps,
        "panel": groups * layout.units * heights * tile.loads(layout.unit) * steps,
        "gather": groups * entries * reads,
        "read": groups * entries * reads * read.step / read.taps,
        "copy": 0 if read.step else groups * entries * reads,
        "entry": groups * entries / read.taps,
        "tile": groups * tiles * blocks,
        "visit": groups * stored * (2 * blocks - 1),
        "visit from third cache": groups * stored * (blocks - 1) if far else 0,
        outward: 0 if whole and sizes.stored_whole else groups * stored * tile.lanes,
        "task": groups * cut.spans * cut_up.row_parts,
        f"weight from {home}": groups * cut.spans * weights,
        "weight packed": packed_elements(sizes, cut_up, layout.taps),
        "weight turned": groups * cut.spans * weights if cut_up.lazy else 0,
    }


def _expected_ns(sizes: Shape, layouts: Counter[Layout], cut_up: Blocking) -> float:
    """Time of one thread."""
    return _CALL_NS + sum(
        times * count * _COST_NS[unit]
        for layout, times in layouts.items()
        for unit, count in _work(sizes, layout, cut_up).items()
    )


def _profile(layout: Layout) -> tuple[object, ...]:
    """What the expected time depends on; phases of a stride are mostly alike in it."""
    return layout.taps, layout.unit, layout.units, layout.halo, layout.gathered_taps, layout.line, layout.pitch


def plan(name: str, problem: Problem, isa: ISA, phases: Sequence[Phase], stack: int = 1) -> Plan:
    """The cheapest tile with its blocks."""
    sizes = shape(problem, isa, stack)
    expected_ns, best, layouts = _best(problem, sizes, isa, phases)
    tile = best.tile
    packed = sum(packed_elements(sizes, best, layout.taps) for layout in layouts) * sizes.itemsize
    scratch = scratch_layout(sizes, best, [Cut.of(layout, best) for layout in layouts])["scratch_bytes"]
    return Plan(
        name,
        problem,
        isa.name,
        expected_ns,
        tile=(
            ("rows", tile.rows),
            ("columns", tile.columns),
            ("vectors", tile.vectors),
            ("lanes", tile.lanes),
            ("turned", int(tile.over_channels)),
        ),
        blocking=(
            ("channels", best.channels),
            ("panels", best.panels),
            ("row_parts", best.row_parts),
            ("shared", _SHARED.index(best.shared)),
            ("lazy", int(best.lazy)),
            ("slack", best.slack),
        ),
        workspace_bytes=packed + scratch,
        packed_bytes=packed,
        why=_why(sizes, best),
    )


def traffic_ns(problem: Problem) -> float:
    """Time of one thread for x, w and y, beyond what the gather and the tiles take."""
    near = min(problem.traffic_bytes, target.cpu().l3_bytes // 2)
    return near * _NEAR_BYTE_NS + (problem.traffic_bytes - near) * _FAR_BYTE_NS


def _best(
    problem: Problem, sizes: Shape, isa: ISA, phases: Sequence[Phase]
) -> tuple[float, Blocking, Sequence[Layout]]:
    """The expected time, the blocks and the layouts of the cheapest plan."""
    found = []
    memory_ns = traffic_ns(problem)
    for layouts in _layouts(phases, sizes.batch):
        kinds = {_profile(layout): layout for layout in layouts}
        alike = Counter(kinds[_profile(layout)] for layout in layouts)
        for tile in _tiles(problem, sizes, isa, max(layout.unit for layout in layouts)):
            for cut_up, tasks in _blockings(problem, sizes, layouts, tile, isa):
                time = _expected_ns(sizes, alike, cut_up) + memory_ns
                found.append((time * (1 + 0.5 / tasks), time, cut_up, layouts))  # the last task keeps others waiting
    return min(found, key=lambda entry: entry[0])[1:]


def _why(sizes: Shape, blocking: Blocking) -> str:
    axes = " and ".join(f"axis {axis - 3}" for axis in blocking.shared)
    shared = f", taps along {axes} read the same samples" if axes else ""
    stacked = "" if sizes.stack == 1 else f", {sizes.stack} phases side by side"
    return f"products of {blocking.tile.rows} channels x {blocking.tile.columns} pixels in registers{shared}{stacked}"


def bind(plan: Plan, phases: Sequence[Phase], stack: int = 1) -> Launch:
    """The kernel with the problem's numbers."""
    rows, columns, vectors, lanes = (plan[name] for name in ("rows", "columns", "vectors", "lanes"))
    tile: AnyTile = ChannelTile(columns, vectors, lanes) if plan["turned"] else Tile(rows, vectors, lanes)
    shared, lazy = _SHARED[plan["shared"]], bool(plan["lazy"])
    cut = Blocking(tile, plan["channels"], plan["panels"], plan["row_parts"], shared, lazy, plan["slack"])
    asked = plan.problem
    return implicit_gemm.bind(shape(asked, ISAS[plan.isa], stack), cut, phases, asked.bias, asked.epilogue)
