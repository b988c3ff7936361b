"""Tile, blocks and expected time of dense convolutions as implicit matrix products, whatever their phases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import count
from math import ceil, inf, log2, prod
from typing import NamedTuple

from lucid.core.geometry import Sizes
from lucid.kernels import target
from lucid.kernels.algorithms import implicit_gemm, panels, pixel_panels
from lucid.kernels.algorithms.dense_layout import (
    Blocking,
    Cut,
    Shape,
    packed_elements,
    row_blocks,
    scratch_layout,
)
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.pixel_panels import Layout, Phase
from lucid.kernels.algorithms.tile import AnyTile, ChannelTile, Tile, cover_products, fitting, fitting_channels
from lucid.kernels.ir import BY_DTYPE, Type, computed
from lucid.kernels.isa import ISA, ISAS
from lucid.kernels.launch import Launch
from lucid.kernels.plan import Plan, Problem

ALONE = (1, 1, 1)  #: no residues of any axis are rows side by side
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
    "pick": 0.5,  # a shuffle more for every doubling of the taps that are read at once
    "copy": 3.5,  # a vector of single samples
    "entry": 3.0,
    "tile": 10.0,
    "visit": 0.1,  # a vector of sums, to memory or from it
    "visit from third cache": 3.0,  # where they wait for more channels and do not fit the second
    "round": 0.07,  # an element on its way out
    "interleave": 0.07,
    "scatter": 0.35,
    "scatter turned": 0.2,
    "task": 90.0,
    "weight from second cache": 0.016,
    "weight from memory": 0.06,
    "weight packed": 0.3,  # beforehand, to memory
    "weight turned": 0.23,  # by the task that reads it next
}


def shape(problem: Problem, isa: ISA, residues: Sizes = ALONE) -> Shape:
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
        problem.batch, problem.groups, rows * prod(residues), channels, plane, out_plane, row_step, channel_step,
        problem.group_out * outward, grain.sums.bytes, grain, grain.sums == stored, residues,
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
    best: list[AnyTile] = [*_least_waste(isa, element, sizes.rows, sizes.stack)]
    if sizes.stack == 1 and problem.batch * problem.pixels <= _FEW_PIXELS:
        turned = fitting_channels(isa, element, unit)
        best += sorted(turned, key=lambda tile: cover_products(tile, sizes.rows, unit))[:_TURNED_TILES]
    return best


@lru_cache(maxsize=256)
def _least_waste(isa: ISA, element: Type, rows: int, stack: int) -> list[Tile]:
    fit = [tile for tile in fitting(isa, element) if tile.rows % stack == 0 and tile.rows <= max(rows, stack)]
    return sorted(fit, key=lambda tile: waste(tile, rows))[:_TILES]


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
) -> Iterator[tuple[Blocking, dict[int, int]]]:
    """Ways to cut the loops, with parts that the rows may have, and how many tasks each makes of those wanted.

    Panels fit half the second level cache, or are smaller so that there are more of them.
    """
    most_taps = max(1, *(layout.taps for layout in layouts))
    unit = max(layout.lines * ceil(layout.line / tile.columns) for layout in layouts)
    units = max(layout.units for layout in layouts)
    wanted = min(_TASKS, max(1, problem.flops // _TASK_FLOPS))
    slack = panels.slack(isa, computed(BY_DTYPE[problem.dtype]), tile.rows)
    blocks = (min(max(1, round(sizes.elements * most_taps / steps)), sizes.elements) for steps in _STEPS)
    for elements in dict.fromkeys(ceil(sizes.elements / parts) for parts in blocks):
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
            parts = sorted({most_parts, ceil(most_parts / 2), ceil(most_parts / 4)})
            cut_up = Blocking(tile, elements * sizes.grain.depth, width, 1, layouts[0].shared, lazy, slack)
            yield cut_up, {row_parts: min(wanted, others * row_parts) for row_parts in parts}
            if others >= wanted or width == 1:
                break


def _fitting(layout: Layout, tile: AnyTile, width: int) -> int:
    """Tiles whose samples fit a panel of that width."""
    if len(layout.shared) < 2:
        return (width - layout.halo) // tile.columns
    return (width - layout.halo - tile.columns) // layout.pitch * ceil(layout.line / tile.columns)


class _Times(NamedTuple):
    """What a phase takes one thread, in ns: once, for every part of the rows, and if sums wait in the third cache."""

    once: float
    part: float
    far: float
    heights: int
    waiting_bytes: int  #: of each height

    def of(self, row_parts: int) -> float:
        """With the rows in so many parts."""
        far = self.waiting_bytes * ceil(self.heights / row_parts) > target.cpu().l2_bytes // 2
        return self.once + row_parts * self.part + far * self.far


class _Rates(NamedTuple):
    """What a phase takes one thread with a tile, in ns, however its loops are cut."""

    sizes: Shape
    layout: Layout
    tile: AnyTile
    heights: int
    once: float
    across: float  #: a vector product of each row of tiles
    block: float  #: a block of channels
    far: float  #: the same, if sums wait in the third cache
    gathered: float  #: a position of a line, or of a halo
    span: float
    lazy_span: float

    @classmethod
    def of(cls, sizes: Shape, layout: Layout, tile: AnyTile) -> _Rates:
        """From the units of ``_COST_NS``."""
        gathered_x, heights, groups = layout.gathered[2], row_blocks(sizes, tile), sizes.groups
        tiles = layout.units * layout.lines * ceil(layout.line / tile.columns) * heights
        passes = max(1.0, 0.5 + 0.5 * tile.lanes / gathered_x.positions)
        entries = groups * layout.units * layout.gathered_taps * passes / tile.lanes
        whole = not tile.over_channels and all(axis.contiguous for axis in layout.phase)
        steps, read = sizes.elements * layout.taps, pixel_panels.reading(gathered_x, tile.lanes)
        stored, weights = groups * tiles * tile.accumulators, groups * heights * tile.rows * steps
        home = "second cache" if weights * sizes.itemsize < target.cpu().l2_bytes * groups else "memory"
        strided = "interleave" if sizes.stack > 1 else "scatter turned" if tile.over_channels else "scatter"
        at_once = sizes.stored_whole or steps <= _STEPS[0]  # no sums wait for more channels before they are rounded
        leaving = {"round" if whole else strided: 0 if whole and at_once else stored * tile.lanes}
        reads = sizes.elements * (_PAIR_READS if sizes.grain.depth > 1 else 1)
        rows = groups * layout.units * heights * steps
        samples = {
            "gather": 1.0,
            "read": read.step / read.taps,
            "pick": log2(read.taps),
            "copy": 0.0 if read.step else 1.0,
        }
        return cls(
            sizes,
            layout,
            tile,
            heights,
            once=_ns({"panel": rows * tile.loads(layout.unit), "visit": -stored, **leaving}),
            across=_ns({"product": rows}),
            block=_ns({"tile": groups * tiles, "visit": 2 * stored}),
            far=_ns({"visit from third cache": stored}),
            gathered=entries * (reads * _ns(samples) + _ns({"entry": 1 / read.taps})),
            span=_ns({f"weight from {home}": weights}),
            lazy_span=_ns({f"weight from {home}": weights, "weight turned": weights}),
        )

    @property
    def least(self) -> float:
        """What every cut takes."""
        tile, layout = self.tile, self.layout
        across = cover_products(tile, tile.rows, layout.unit)
        samples = self.gathered * layout.lines * layout.pitch
        return self.once + self.across * across + self.block + samples + self.span * layout.units

    def times(self, cut_up: Blocking) -> _Times:
        """Whatever the parts of the rows."""
        tile, layout, cut, sizes = self.tile, self.layout, Cut.of(self.layout, cut_up), self.sizes
        run, blocks = min(cut.span, layout.line), ceil(sizes.channels / cut_up.channels)
        last = layout.unit - (cut.unit_spans - 1) * cut.span if run == cut.span else run
        across = cover_products(tile, tile.rows, last)
        across += (ceil(layout.unit / run) - 1) * cover_products(tile, tile.rows, run)
        spans = cut.spans * (self.lazy_span if cut_up.lazy else self.span)
        packed = packed_elements(sizes, cut_up, layout.taps) * _COST_NS["weight packed"]
        samples = layout.lines * layout.pitch + cut.unit_spans * layout.halo
        return _Times(
            self.once + self.across * across + self.block * blocks + spans + packed,
            self.gathered * samples + sizes.groups * cut.spans * _COST_NS["task"],
            self.far * (blocks - 1),
            self.heights,
            cut.span * tile.rows * sizes.itemsize,
        )


def _ns(work: dict[str, float]) -> float:
    """Time of one thread for so many of the units of ``_COST_NS``."""
    return sum(count * _COST_NS[unit] for unit, count in work.items())


def _profile(layout: Layout) -> tuple[object, ...]:
    """What the expected time depends on; phases of a stride are mostly alike in it."""
    return layout.taps, layout.unit, layout.units, layout.halo, layout.gathered_taps, layout.line, layout.pitch


def plan(name: str, problem: Problem, isa: ISA, phases: Sequence[Phase], residues: Sizes = ALONE) -> Plan:
    """The cheapest tile with its blocks."""
    sizes = shape(problem, isa, residues)
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


def least_ns(problem: Problem, isa: ISA, pairs: int) -> float:
    """What every plan takes where so many pairs of a position and a tap meet in an image and two channels."""
    sizes = shape(problem, isa)
    products = sizes.batch * sizes.groups * sizes.rows * sizes.elements * pairs / isa.lanes(sizes.grain.sums)
    return _CALL_NS + traffic_ns(problem) + _ns({"product": products})


class _Group(NamedTuple):
    """A tile and a way to lay out samples, with the rates of each kind of phase and how many there are."""

    number: int
    layouts: Sequence[Layout]
    rates: Sequence[tuple[int, _Rates]]
    least: float  #: ns that every cut takes

    @property
    def tile(self) -> AnyTile:
        return self.rates[0][1].tile


def _groups(problem: Problem, sizes: Shape, isa: ISA, phases: Sequence[Phase]) -> Iterator[_Group]:
    number = count()
    for layouts in _layouts(phases, sizes.batch):
        kinds = {_profile(layout): layout for layout in layouts}
        alike = Counter(_profile(layout) for layout in layouts)
        for tile in _tiles(problem, sizes, isa, max(layout.unit for layout in layouts)):
            rates = [(n, _Rates.of(sizes, kinds[profile], tile)) for profile, n in alike.items()]
            yield _Group(next(number), layouts, rates, sum(n * each.least for n, each in rates))


def _best(
    problem: Problem, sizes: Shape, isa: ISA, phases: Sequence[Phase]
) -> tuple[float, Blocking, Sequence[Layout]]:
    """The expected time, the blocks and the layouts of the cheapest plan."""
    always_ns, found, fastest = _CALL_NS + traffic_ns(problem), [], inf
    for group in sorted(_groups(problem, sizes, isa, phases), key=lambda group: group.least):
        if always_ns + group.least > fastest:
            break
        for cut_up, parts in _blockings(problem, sizes, group.layouts, group.tile, isa):
            times = [(n, rates.times(cut_up)) for n, rates in group.rates]
            for row_parts, tasks in parts.items():
                time = always_ns + sum(n * each.of(row_parts) for n, each in times)
                weighed = time * (1 + 0.5 / tasks)  # the last task keeps others waiting
                fastest = min(fastest, weighed)
                found.append((weighed, group.number, time, cut_up, row_parts, group.layouts))
    _, _, time, cut_up, row_parts, layouts = min(found, key=lambda entry: entry[:2])
    return time, replace(cut_up, row_parts=row_parts), layouts


def _why(sizes: Shape, blocking: Blocking) -> str:
    axes = " and ".join(f"axis {axis - 3}" for axis in blocking.shared)
    shared = f", taps along {axes} read the same samples" if axes else ""
    stacked = "" if sizes.stack == 1 else f", {sizes.stack} phases side by side"
    return f"products of {blocking.tile.rows} channels x {blocking.tile.columns} pixels in registers{shared}{stacked}"


def bind(plan: Plan, phases: Sequence[Phase], residues: Sizes = ALONE) -> Launch:
    """The kernel with the problem's numbers."""
    rows, columns, vectors, lanes = (plan[name] for name in ("rows", "columns", "vectors", "lanes"))
    tile: AnyTile = ChannelTile(columns, vectors, lanes) if plan["turned"] else Tile(rows, vectors, lanes)
    shared, lazy = _SHARED[plan["shared"]], bool(plan["lazy"])
    cut = Blocking(tile, plan["channels"], plan["panels"], plan["row_parts"], shared, lazy, plan["slack"])
    asked = plan.problem
    return implicit_gemm.bind(shape(asked, ISAS[plan.isa], residues), cut, phases, asked.bias, asked.epilogue)
