"""Tile, blocks and expected time of dense convolutions as implicit matrix products, whatever their phases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import count
from math import ceil, inf, prod
from typing import NamedTuple

from lucid.core.geometry import Sizes
from lucid.kernels import target
from lucid.kernels.algorithms import dense_cost, implicit_gemm, panels, pixel_panels, regions
from lucid.kernels.algorithms.base import GHZ, far_bytes, shared_tasks, sum_type, turns_of
from lucid.kernels.algorithms.dense_cost import MOST_STEPS, Rates
from lucid.kernels.algorithms.dense_layout import (
    Blocking,
    Cut,
    Packings,
    Shape,
    packed_elements,
    row_blocks,
    scratch_layout,
)
from lucid.kernels.algorithms.grain import HIDE_WIDENING, Grain
from lucid.kernels.algorithms.past_caches import gains
from lucid.kernels.algorithms.pixel_panels import AS_LINES, IN_PLACE, LINES_IN_PLACE, LINES_WIDENED, Axis, Layout, Phase
from lucid.kernels.algorithms.tile import (
    MOST_REACHED,
    AnyTile,
    ChannelTile,
    Tile,
    cover_products,
    fitting,
    fitting_channels,
    fitting_few,
)
from lucid.kernels.ir import BY_DTYPE, Type
from lucid.kernels.isa import ISA, ISAS
from lucid.kernels.launch import Launch
from lucid.kernels.plan import Plan, Problem

ALONE = (1, 1, 1)  #: no residues of any axis are rows side by side
DTYPES = ("float32", "float64", "float16", "bfloat16")
_STEPS = (MOST_STEPS, MOST_STEPS // 2, MOST_STEPS // 4)
#: Spans for which weights are packed anew each, since the second reading costs as much.
_LAZY_SPANS = 2
_MANY_PIXELS = 60 << 10  # whole tiles of any width
_FEW_PIXELS = 1024  # of the whole batch
_TURNED_TILES = 2
_TURNED_TOGETHER = 3  # where images may be one span
_ENOUGH_TILES = 4  # of a span, beside whose products its weights are read
#: Tiles that are weighed in full.
_TILES = 3
_FEW_STEPS = 32  # with more, what sums hold up on their way out is little
_FEW_PAY = 2048  # positions of an image: with fewer, beginning and ending twice as many rows of tiles costs more
#: Tasks wanted of a problem that has work for them: enough that no core waits long for the last.
_TASKS = 16
#: Part of the usual wait for the last task where all are alike and each thread has as many.
_EVEN_WAIT = 0.2
#: Work below which a task is not worth a hand-over, by the turns of a vector.
_TASK_FLOPS = {1: 1 << 20, 2: 1 << 18}
#: A line of the result that two threads write to, on a Zen 4: 30 where both lie close, 200 in a machine whose host
#: keeps them apart.
_HANDED_NS = 60.0
_MOST_TAPS = 16384
#: Axes whose taps may share samples; two must be neighbours.
_SHARED = ((), (0,), (1,), (2,), (0, 1), (1, 2))
_ARRANGED = (*_SHARED, IN_PLACE, AS_LINES, LINES_IN_PLACE, LINES_WIDENED)  #: as a plan numbers them
_REGIONS = ("z_regions", "y_regions", "x_regions")


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


def refuses(axes: Sequence[Sequence[Axis]]) -> str | None:
    """Kernels so large that a panel of one channel would not fit."""
    most = max(map(pixel_panels.taps, regions.phases(axes)), default=0)
    return f"it packs at most {_MOST_TAPS} taps, not {most}" if most > _MOST_TAPS else None


def _tiles(problem: Problem, sizes: Shape, isa: ISA, unit: int) -> list[AnyTile]:
    """The tiles of least waste for the rows, whatever the pixels: a new image size needs no new kernel.

    All residues of a channel are in one tile. Where pixels are few, tiles over channels are weighed too.
    """
    least = _least_waste(isa, sum_type(problem), sizes.rows, sizes.stack)
    return [*least, *_few(problem, sizes, isa), *_turned(problem, sizes, isa, unit)]


def _few(problem: Problem, sizes: Shape, isa: ISA) -> list[Tile]:
    """The tile of few sums of least waste, where they leave after few steps and that holds up products.

    Of 1 x 1s it reads x too often.
    """
    long, short = problem.pixels >= _FEW_PAY, sizes.elements * problem.spec.taps <= _FEW_STEPS
    if target.cpu().turns(isa) == 1 or problem.is_pointwise or not (long and short):
        return []
    fit = [
        tile for tile in fitting_few(isa, sum_type(problem)) if tile.rows % sizes.stack == 0 and tile.rows <= sizes.rows
    ]
    return sorted(fit, key=lambda tile: waste(tile, sizes.rows))[:1]


def _turned(problem: Problem, sizes: Shape, isa: ISA, unit: int) -> list[ChannelTile]:
    """Tiles over channels of least waste for so many positions side by side, where pixels are few.

    One of them may read halves where they lie.
    """
    if sizes.stack > 1 or problem.batch * problem.pixels > _FEW_PIXELS:
        return []
    return _best_turned(problem, sizes, isa, unit)


def _best_turned(problem: Problem, sizes: Shape, isa: ISA, unit: int) -> list[ChannelTile]:
    fit = fitting_channels(isa, sum_type(problem), unit)
    best = sorted(fit, key=lambda tile: ceil(sizes.rows / tile.rows) * tile.read(unit))
    readers = [tile for tile in best if tile.vectors >= HIDE_WIDENING] if sizes.grain.widened else []
    together = unit == problem.pixels and _joins_images(problem, sizes, isa)
    most = _TURNED_TOGETHER if together else _TURNED_TILES
    return list(dict.fromkeys([*best[:most], *readers[:1]]))


def _line_tiles(problem: Problem, sizes: Shape, isa: ISA, layouts: Sequence[Layout]) -> list[ChannelTile]:
    """Tiles for lines as x has them: over channels, since only broadcasts may be steps apart."""
    find = _best_turned if layouts[0].in_place else _turned
    tiles = find(problem, sizes, isa, max(layout.line for layout in layouts))
    return [replace(tile, step=layouts[0].column_step) for tile in tiles]


@lru_cache(maxsize=256)
def _least_waste(isa: ISA, element: Type, rows: int, stack: int) -> list[Tile]:
    """Of residues only tiles of several vectors, if there are any: one has as many broadcasts as products."""
    fit = [tile for tile in fitting(isa, element) if tile.rows % stack == 0 and tile.rows <= max(rows, stack)]
    if stack > 1:
        fit = [tile for tile in fit if tile.vectors > 1] or fit
    return sorted(fit, key=lambda tile: waste(tile, rows))[:_TILES]


def waste(tile: Tile, rows: int) -> tuple[float, int]:
    """Time of one k over many pixels; the same with fewer readings of a panel is better."""
    return cover_products(tile, rows, _MANY_PIXELS), ceil(rows / tile.rows) * tile.loads(_MANY_PIXELS)


def _layouts(phases: Sequence[Phase], sizes: Shape, lanes: int) -> Iterator[list[Layout]]:
    """The ways to lay out the phases' samples: no taps share any, or those along axes where that saves some.

    Where the axis around the last is one of them, the last may be cut into pieces. Flat phases may be read from x, and
    strided lines be gathered as they are.
    """
    batch = sizes.batch
    fewest: dict[tuple[int, ...], int] = {}
    for shared in _SHARED:
        layouts = [Layout.of(phase, shared, batch) for phase in phases]
        fewest[shared] = sum(layout.gathered_taps for layout in layouts)
        parts = [shared[:1], shared[1:]] if len(shared) > 1 else [()] * len(shared)
        if all(fewest[shared] < fewest[part] for part in parts):
            yield layouts
    if all(map(pixel_panels.flat, phases)) and sizes.grain.depth == 1:
        yield [Layout.of(phase, IN_PLACE, batch) for phase in phases]
    several = any(y.positions > 1 and max(y.step, x.step) > 1 for _, y, x in phases)  # a single line is not cut
    if several and len({x.step for _, _, x in phases}) == 1:
        yield [Layout.of(phase, AS_LINES, batch) for phase in phases]
    if sizes.grain.depth == 1 and all(map(_strided_within, phases)):
        yield [Layout.of(phase, LINES_IN_PLACE, batch) for phase in phases]
        if _widens(phases, sizes, lanes):
            yield [Layout.of(phase, LINES_WIDENED, batch) for phase in phases]
    counts = [set(pixel_panels.piece_counts(phase, lanes)) for phase in phases]
    for pieces in sorted(set.intersection(*counts)) if counts else ():
        yield [Layout.of(pixel_panels.in_pieces(phase, pieces), (1,), batch) for phase in phases]


def _widens(phases: Sequence[Phase], sizes: Shape, lanes: int) -> bool:
    """Whether halves of lines are copied before they are read in place: where no sample is copied in vain.

    Offered where vectors take two turns; nothing else is measured.
    """
    dense = all(axis.step <= len(axis.offsets) for phase in phases for axis in phase)
    return dense and sizes.grain.widened and turns_of(lanes, sizes.grain.sums) > 1


def _strided_within(phase: Phase) -> bool:
    """Whether lines of samples some steps apart can be read from x: no position meets padding."""
    _, y, x = phase
    return max(y.step, x.step) > 1 and all(axis.unpadded for axis in phase)


def _blockings(
    problem: Problem, sizes: Shape, layouts: Sequence[Layout], whole: int, tile: AnyTile, isa: ISA
) -> Iterator[tuple[Blocking, dict[int, float]]]:
    """Ways to cut the loops, with parts that the rows may have, and how much longer threads wait for each at the end.

    Regions, which are more than the ``whole`` phases, share packed weights. Panels fit half the second level cache, or
    are smaller so that there are more of them.
    """
    most_taps = max(1, *(layout.taps for layout in layouts))
    unit = max(layout.lines * ceil(layout.line / tile.columns) for layout in layouts)
    units = max(layout.units for layout in layouts)
    of_lines = len(layouts[0].shared) > 1 and all(layout.lines > 1 for layout in layouts)  # of which spans are whole
    line_tiles = max(ceil(layout.line / tile.columns) for layout in layouts) if of_lines else 1
    wanted = min(_TASKS, max(1, problem.flops // _TASK_FLOPS[target.cpu().turns(isa)]))
    slack = panels.slack(isa, sum_type(problem), tile.rows)
    blocks = (min(max(1, round(sizes.elements * most_taps / steps)), sizes.elements) for steps in _STEPS)
    for elements in dict.fromkeys(ceil(sizes.elements / parts) for parts in blocks):
        row_bytes = elements * sizes.itemsize
        room = _panels_bytes(problem, layouts[0], tile.columns * row_bytes, isa) // row_bytes
        fitting = min(_fitting(layout, tile, room // max(1, layout.gathered_taps)) for layout in layouts)
        if fitting < 1 and len(layouts[0].shared) > 1:
            continue
        spans = ceil(unit / max(1, fitting))
        for finer in (1, 2, 4):
            width = ceil(unit / min(unit, spans * finer) / line_tiles) * line_tiles
            unit_spans = ceil(unit / width)
            others = len(layouts) * sizes.groups * units * unit_spans
            lazy = len(layouts) == whole and units * unit_spans <= _LAZY_SPANS
            heights = row_blocks(sizes, tile)
            most_parts = min(heights, ceil(wanted / others))
            parts = sorted({ceil(heights / ceil(heights / ceil(most_parts / n))) for n in (1, 2, 4)})
            cut_up = Blocking(tile, elements * sizes.grain.depth, width, 1, layouts[0].shared, lazy, slack)
            if not layouts[0].in_place or _readable(sizes, cut_up, layouts):
                yield cut_up, {row_parts: _waiting(others, heights, row_parts, wanted) for row_parts in parts}
            if others >= wanted or width == 1:
                break
        weights = sizes.groups * row_blocks(sizes, tile) * tile.rows * sizes.elements * most_taps
        if target.cpu().turns(isa) > 1 and dense_cost.far(sizes, weights):
            yield from _several_units(sizes, layouts, tile, elements, room, slack, wanted)
        in_place = layouts[0].shared == IN_PLACE and tile.over_channels and elements == sizes.elements
        if in_place and _joins_images(problem, sizes, isa):
            yield from _images_together(sizes, layouts[0], tile, room, slack, wanted)
        if layouts[0].lines_in_place and fitting >= _ENOUGH_TILES:
            return  # with fewer channels only sums would wait


def _several_units(
    sizes: Shape, layouts: Sequence[Layout], tile: AnyTile, elements: int, room: int, slack: int, wanted: int
) -> Iterator[tuple[Blocking, dict[int, float]]]:
    """Spans of several units where lines are gathered: weights from beyond the caches are read once for all of them.

    Offered where vectors take two turns; nothing else is measured.
    """
    shared, units, heights = layouts[0].shared, max(layout.units for layout in layouts), row_blocks(sizes, tile)
    if len(shared) < 2 or layouts[0].in_place or len({layout.units for layout in layouts}) > 1:
        return
    panel = max(layout.gathered_taps * layout.gathered_unit for layout in layouts)
    behind = max(layout.gathered_taps * tile.columns * layout.column_step for layout in layouts)
    tiles = max(layout.lines * ceil(layout.line / tile.columns) for layout in layouts)
    for together in dict.fromkeys(ceil(units / n) for n in (1, 2, 4, 8)):
        if together < 2 or together * panel + behind > room:
            continue
        others = len(layouts) * sizes.groups * ceil(units / together)
        most_parts = min(heights, ceil(wanted / others))
        parts = sorted({ceil(heights / ceil(heights / ceil(most_parts / n))) for n in (1, 2, 4, 8)})
        cut_up = Blocking(tile, elements * sizes.grain.depth, tiles, 1, shared, False, slack, together)
        yield cut_up, {row_parts: _waiting(others, heights, row_parts, wanted) for row_parts in parts}


def _joins_images(problem: Problem, sizes: Shape, isa: ISA) -> bool:
    """Whether several images in place may be one span: where vectors take two turns, since nothing else is measured."""
    alike = problem.is_pointwise and sizes.grain.packed == sizes.grain.stored
    return alike and sizes.batch > 1 and target.cpu().turns(isa) > 1


def _waits_for_weights(sizes: Shape, whole: Sequence[Phase], isa: ISA) -> bool:
    """Whether it counts in any choice that another thread packed half of the weights: of one phase of halves.

    Of several phases to count it chose slower cuts; of float32 it is not measured.
    """
    return len(whole) == 1 and sizes.grain.packed != sizes.grain.stored and target.cpu().turns(isa) > 1


def _images_together(
    sizes: Shape, layout: Layout, tile: AnyTile, room: int, slack: int, wanted: int
) -> Iterator[tuple[Blocking, dict[int, float]]]:
    """Spans of several images that turned tiles read in place, whose tasks are parts of the rows.

    Each task then packs its own weights, once: no thread reads what another packed. In blocks of channels there would
    be more of them, and more visits to sums.
    """
    heights = row_blocks(sizes, tile)
    for together in dict.fromkeys(ceil(layout.units / n) for n in range(1, _LAZY_SPANS + 1)):
        if together < 2 or together * layout.unit > room:
            continue
        others, tiles = sizes.groups * ceil(layout.units / together), ceil(layout.unit / tile.columns)
        most_parts = min(heights, ceil(wanted / others))
        parts = sorted({ceil(heights / ceil(heights / ceil(most_parts / n))) for n in (1, 2, 4)})
        cut_up = Blocking(tile, sizes.channels, tiles, 1, layout.shared, True, slack, together)
        if _readable(sizes, cut_up, [layout]):
            yield cut_up, {row_parts: _waiting(others, heights, row_parts, wanted) for row_parts in parts}


def _panels_bytes(problem: Problem, layout: Layout, tile_bytes: int, isa: ISA) -> int:
    """Bytes of a span's panels, which stay in the second cache while weights and results go through it.

    Of large arrays read in place the next span's samples are there too, where tiles ask for them; but results that go
    past the caches want long spans.
    """
    half, large = target.cpu().l2_bytes // 2, far_bytes(problem.traffic_bytes) > 0
    if target.cpu().turns(isa) == 1 or not layout.in_place or not large:
        return half
    fewer = target.cpu().l2_bytes // 5
    long = implicit_gemm.LONG_RUN * tile_bytes
    past = gains(problem.written_bytes, BY_DTYPE[problem.dtype], isa)
    return half if past and fewer < long <= half else fewer


def _waiting(others: int, heights: int, row_parts: int, wanted: int) -> float:
    """How much of the time threads wait for the last task, where ``others`` have their rows in so many parts each.

    A part is as high as the first or, the last one, less. On average over one thread and two, which share evenly unless
    others are odd, and half of a task for more threads than that.
    """
    height = ceil(heights / row_parts)
    most = (row_parts + 1) // 2 * height - row_parts % 2 * (row_parts * height - heights)  # of the odd one
    idle = (2 * most / heights - 1) / others if wanted > 1 and others % 2 else 0.0
    return idle / 2 + 0.5 / min(wanted, others * row_parts)


def _readable(sizes: Shape, blocking: Blocking, layouts: Sequence[Layout]) -> bool:
    """Whether tiles may read x itself: the last of a span moves back to end with it, so it must be the first to do so.

    Sums that wait for more channels in the result would be continued twice where tiles meet; a turned tile's have a
    buffer of their own, but it widens every sample alone. All must be in reach of a table.
    """
    if blocking.tile.over_channels:
        refused = sizes.grain.widened and not layouts[0].widened and blocking.tile.vectors < HIDE_WIDENING
    else:
        refused = blocking.channels < sizes.channels
    if refused or blocking.channels * sizes.plane >= MOST_REACHED:
        return False
    cuts = [Cut.of(layout, blocking) for layout in layouts]
    copied = max(cut.widened_pitch(blocking.tile.lanes) for cut in cuts) * blocking.channels
    if copied * sizes.itemsize > target.cpu().l2_bytes // 2:
        return False
    if any(cut.joins for cut in cuts) and not _may_join(sizes, blocking.tile):
        return False
    return all(min(cut.shortest, cut.layout.line) >= blocking.tile.columns for cut in cuts)


def _may_join(sizes: Shape, tile: AnyTile) -> bool:
    """Whether the last span in place may be longer than others, which are then as short as may be.

    Offered where vectors take two turns and lie in a line of the cache each: others fetch a third more, 0.93 to 0.95.
    """
    return turns_of(tile.lanes, sizes.grain.sums) > 1 and not tile.over_channels and sizes.plane % tile.lanes == 0


def _fitting(layout: Layout, tile: AnyTile, width: int) -> int:
    """Tiles whose samples fit a panel of that width."""
    if len(layout.shared) < 2:
        return (width - layout.halo) // tile.columns
    return (width - layout.halo - tile.columns * layout.column_step) // layout.pitch * ceil(layout.line / tile.columns)


def _profile(sizes: Shape, layout: Layout) -> tuple[object, ...]:
    """What the expected time depends on; phases of a stride are mostly alike in it."""
    positions, packed = [axis.positions for axis in layout.phase], dense_cost.packed_by(sizes, layout.phase)
    numbers = layout.taps, layout.met_part, layout.units, layout.halo, layout.gathered_taps, layout.line, layout.pitch
    return *numbers, *positions, packed


def plan(name: str, problem: Problem, isa: ISA, axes: Sequence[Sequence[Axis]], residues: Sizes = ALONE) -> Plan:
    """The cheapest tile with its blocks, and regions; each axis comes as those of all phases."""
    sizes = shape(problem, isa, residues)
    (expected_ns, best, layouts), cut = _cheapest(problem, sizes, isa, axes)
    tile = best.tile
    phases = [layout.phase for layout in layouts]
    packed = Packings(phases, regions.phases(axes), sizes, best).elements * sizes.itemsize
    scratch = scratch_layout(sizes, best, [Cut.of(layout, best) for layout in layouts])["scratch_bytes"]
    past = implicit_gemm.goes_past(sizes, best, phases, problem.epilogue, isa)
    return Plan(
        name,
        problem,
        isa.name,
        expected_ns - (past > 0) * dense_cost.saved_ns(problem),
        *_shared(sizes, best, layouts, regions.phases(axes), expected_ns),
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
            ("shared", _ARRANGED.index(best.shared)),
            ("lazy", int(best.lazy)),
            ("slack", best.slack),
            ("units", best.units),
            ("pieces", pixel_panels.pieces(layouts[0].phase)),
            *zip(_REGIONS, cut, strict=True),
        ),
        workspace_bytes=packed + scratch,
        packed_bytes=packed,
        why=_why(sizes, best, cut) + ", results past the caches" * (past > 0),
    )


def _shared(
    sizes: Shape, cut_up: Blocking, layouts: Sequence[Layout], whole: Sequence[Phase], expected_ns: float
) -> tuple[int, float]:
    """The tasks that a plan tells of, and the time of weights that one thread packs while others wait."""
    tile = cut_up.tile
    if turns_of(tile.lanes, sizes.grain.sums) == 1:
        return 0, 0.0
    tasks = sizes.groups * sum(Cut.of(layout, cut_up).spans for layout in layouts) * cut_up.row_parts
    alone = not cut_up.lazy and sizes.groups * len(whole) * row_blocks(sizes, tile) == 1
    packing = dense_cost.packing_ns(sizes, whole[0], tile) if alone else 0.0
    return shared_tasks(expected_ns * GHZ, tasks), packing


def least_ns(problem: Problem, isa: ISA) -> float:
    """What every plan takes: the products that are not with padding, at the full rate."""
    sizes, pairs = shape(problem, isa), problem.spec.pairs(problem.size)
    products = sizes.batch * sizes.groups * sizes.rows * sizes.elements * pairs / isa.lanes(sizes.grain.sums)
    turns = target.cpu().turns(isa)
    always = dense_cost.CALL_NS[turns] + dense_cost.traffic_ns(problem) - dense_cost.saved_ns(problem)
    return always + dense_cost.ns({"product": products}, turns)


class _Group(NamedTuple):
    """A tile and a way to lay out samples, with the rates of each kind of phase and how many there are."""

    number: int
    layouts: Sequence[Layout]
    rates: Sequence[tuple[int, Rates]]
    packing: float  #: ns for weights that regions share
    least: float  #: ns that every cut takes

    @property
    def tile(self) -> AnyTile:
        return self.rates[0][1].tile


def _groups(
    problem: Problem, sizes: Shape, isa: ISA, phases: Sequence[Phase], whole: Sequence[Phase]
) -> Iterator[_Group]:
    number, alone = count(), len(whole) == len(phases)
    for layouts in _layouts(phases, sizes, isa.lanes(sizes.grain.sums)):
        kinds = {_profile(sizes, layout): layout for layout in layouts}
        alike = Counter(_profile(sizes, layout) for layout in layouts)
        if layouts[0].shared == AS_LINES or layouts[0].lines_in_place:
            tiles: Sequence[AnyTile] = _line_tiles(problem, sizes, isa, layouts)
        else:
            tiles = _tiles(problem, sizes, isa, max(layout.unit for layout in layouts))
        for tile in tiles:
            rates = [(n, Rates.of(sizes, kinds[profile], tile, alone)) for profile, n in alike.items()]
            packing = 0.0 if alone else dense_cost.shared_packing_ns(sizes, whole, tile)
            yield _Group(next(number), layouts, rates, packing, packing + sum(n * each.least for n, each in rates))


def _cheapest(
    problem: Problem, sizes: Shape, isa: ISA, axes: Sequence[Sequence[Axis]]
) -> tuple[tuple[float, Blocking, Sequence[Layout]], Sizes]:
    """The cheapest plan, and how it cuts the axes: not at all, or in the way of least products and weights to read."""
    lanes, rows = isa.lanes(sizes.grain.sums), sizes.groups * sizes.rows * sizes.elements
    home, turns = dense_cost.weights_home(sizes, rows), target.cpu().turns(isa)
    rough = {
        cut: dense_cost.ns({"product": rows * sizes.batch * products / lanes, home: rows * weights}, turns)
        for cut, products, weights in regions.cuts(axes)
    }
    tried = dict.fromkeys((regions.WHOLE, min(rough, key=rough.__getitem__)))
    whole = regions.phases(axes)
    plans = ((_best(problem, sizes, isa, regions.phases(axes, cut), whole), cut) for cut in tried)
    return min(plans, key=lambda entry: entry[0][0])


def _best(
    problem: Problem, sizes: Shape, isa: ISA, phases: Sequence[Phase], whole: Sequence[Phase]
) -> tuple[float, Blocking, Sequence[Layout]]:
    """The expected time, the blocks and the layouts of the cheapest plan; ``whole`` are the phases before any cut."""
    call_ns = dense_cost.CALL_NS[target.cpu().turns(isa)]
    always, found, fastest = call_ns + dense_cost.traffic_ns(problem), [], inf
    waits = _joins_images(problem, sizes, isa) or _waits_for_weights(sizes, whole, isa)
    for group in sorted(_groups(problem, sizes, isa, phases, whole), key=lambda group: group.least):
        if always + group.least > fastest:
            break
        for cut_up, parts in _blockings(problem, sizes, group.layouts, len(whole), group.tile, isa):
            of_phases, once = [(n, rates.times(cut_up)) for n, rates in group.rates], always + group.packing
            times = {n: once + sum(alike * each.of(n) for alike, each in of_phases) for n in parts}
            packed = dense_cost.awaited_weights_ns(sizes, cut_up, whole) if waits else 0.0
            handed = {n: packed + _handed_ns(sizes, replace(cut_up, row_parts=n), group.layouts) for n in parts}
            weighed = min(times[n] * (1 + waiting) + handed[n] for n, waiting in parts.items())
            fastest = min(fastest, weighed)
            found.append((weighed, group.number, cut_up, parts, times, handed, group.layouts))
    _, _, cut_up, parts, times, handed, layouts = min(found, key=lambda entry: entry[:2])
    usual = min(parts, key=lambda n: times[n] * (1 + parts[n]) + handed[n])
    cuts = {n: replace(cut_up, row_parts=n) for n in parts if n <= usual}
    row_parts = min(cuts, key=lambda n: times[n] * (1 + parts[n] * _wait(sizes, cuts[n], layouts)) + handed[n])
    return times[row_parts], cuts[row_parts], layouts


def _handed_ns(sizes: Shape, blocking: Blocking, layouts: Sequence[Layout]) -> float:
    """Two threads' wait for lines of the result that both write to, where their shares meet within rows.

    They do unless each has whole units, or whole parts of the rows.
    """
    if turns_of(blocking.tile.lanes, sizes.grain.sums) == 1:
        return 0.0
    cuts = [Cut.of(layout, blocking) for layout in layouts]
    apart = sizes.groups * blocking.row_parts * max(layout.units for layout in layouts)
    if apart % 2 == 0 or max(cut.unit_spans for cut in cuts) == 1:
        return 0.0
    return sizes.rows / sizes.stack / blocking.row_parts * _HANDED_NS


def _wait(sizes: Shape, blocking: Blocking, layouts: Sequence[Layout]) -> float:
    """What part of the usual wait for the last task there is: little where two or four threads share alike ones evenly.

    Only for fewer row parts, each of which gathers its samples anew: what else differs matters more than this.
    """
    cuts, heights = [Cut.of(layout, blocking) for layout in layouts], row_blocks(sizes, blocking.tile)
    tasks = sizes.groups * sum(cut.spans for cut in cuts) * blocking.row_parts
    halves = len(blocking.shared) > 1 and blocking.row_parts % 2 == 0  # each goes through the same lines
    alike = halves or all(abs(cut.span - cut.shortest) < blocking.tile.columns for cut in cuts)
    return _EVEN_WAIT if alike and heights % blocking.row_parts == 0 and tasks % 4 == 0 else 1.0


def _why(sizes: Shape, blocking: Blocking, cut: Sizes) -> str:
    axes = " and ".join(f"axis {axis if axis < 0 else axis - 3}" for axis in blocking.shared)
    shared = f", taps along {axes} read the same samples" if axes else ""
    if blocking.shared in (IN_PLACE, LINES_IN_PLACE):
        shared = ", read where they lie"
    if blocking.shared == LINES_WIDENED:
        shared = ", read from a copy of x that is widened"
    stacked = "" if sizes.stack == 1 else f", {sizes.stack} phases side by side"
    apart = "" if cut == regions.WHOLE else f", {' x '.join(map(str, cut))} regions without taps that meet only padding"
    tile = f"{blocking.tile.rows} channels x {blocking.tile.columns} pixels"
    return f"products of {tile} in registers{shared}{stacked}{apart}"


def bind(plan: Plan, axes: Sequence[Sequence[Axis]], residues: Sizes = ALONE) -> Launch:
    """The kernel with the problem's numbers."""
    rows, columns, vectors, lanes = (plan[name] for name in ("rows", "columns", "vectors", "lanes"))
    shared, lazy = _ARRANGED[plan["shared"]], bool(plan["lazy"])
    apart = regions.phases(axes, tuple(plan[name] for name in _REGIONS))
    asked, phases = plan.problem, [pixel_panels.in_pieces(phase, plan["pieces"]) for phase in apart]
    step = phases[0][2].step if shared in (AS_LINES, LINES_IN_PLACE, LINES_WIDENED) else 1
    tile: AnyTile = ChannelTile(columns, vectors, lanes, step) if plan["turned"] else Tile(rows, vectors, lanes)
    channels, span_tiles, row_parts, slack, units = (
        plan[name] for name in ("channels", "panels", "row_parts", "slack", "units")
    )
    cut = Blocking(tile, channels, span_tiles, row_parts, shared, lazy, slack, units)
    isa = ISAS[plan.isa]
    sizes, whole = shape(asked, isa, residues), regions.phases(axes)
    if isinstance(tile, ChannelTile):
        cut = replace(cut, tile=replace(tile, asks=_asks(sizes, cut, whole)))
    past = implicit_gemm.goes_past(sizes, cut, phases, asked.epilogue, isa)
    return implicit_gemm.bind(sizes, cut, phases, whole, asked.bias, asked.epilogue, plan.expected_ns, past)


def _asks(sizes: Shape, cut: Blocking, whole: Sequence[Phase]) -> bool:
    """Whether turned tiles ask for the next rows' weights: of many, where products leave time for it."""
    weights = packed_elements(sizes, replace(cut, lazy=False), sum(map(pixel_panels.taps, whole)))
    return turns_of(cut.tile.lanes, sizes.grain.sums) > 1 and dense_cost.many(sizes, weights)
