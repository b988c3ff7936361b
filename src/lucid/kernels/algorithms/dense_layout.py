"""How a dense convolution is cut up: blocks, spans, records of numbers that the kernels read, the workspace's parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np

from lucid.core.geometry import Sizes
from lucid.kernels import target
from lucid.kernels.algorithms import pixel_panels
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.pixel_gather import ENTRY_BYTES
from lucid.kernels.algorithms.pixel_panels import GATHER, Layout, Phase
from lucid.kernels.algorithms.tile import AnyTile, table_of
from lucid.kernels.algorithms.woven import PLACE, weaves
from lucid.kernels.ir import Pointer, Value, i8, i64, ptr
from lucid.kernels.launch import address

#: Numbers of a problem that all its phases share, and where the kernel's parts are. Sizes are in elements but where
#: they say bytes.
SHAPE = (
    "batch", "groups", "rows", "channels", "plane", "image", "group_input", "out_plane", "out_image", "row_step",
    "channel_step", "group_step", "row_blocks", "task_rows", "row_parts", "spans", "kinds", "channel_block", "lazy",
    "span_tasks", "kind_tasks",
    "scratch_bytes", "entries_at", "merges_at", "weights_at", "sums_at", "places_at", "packings", "stack", "tile_rows",
    "tile_columns", "widths", "unit", "pitch", "turned", "line_items", "vector_places", "tail_places", "asks",
    "table", "pack", "widen", "pack_weights", "finish", "ending", "places",
    "tile_1", "tile_2", "tile_3", "tile_4", "tile_5", "tile_6",
    "last_1", "last_2", "last_3", "last_4", "last_5", "last_6",
)  # fmt: skip

#: Of a call: arrays, what is packed of the weights, the threads' workspaces, an epilogue's arrays, then the numbers.
FIELDS = ("x", "w", "bias", "y", "packed", "scratch", "scale", "shift", "residual", "shape", "phases")

#: Numbers of a phase, behind those that the table reads.
PHASE = (
    "positions", "packing", "steps", "image_lines", "units", "unit", "gathered_unit", "halo", "span",
    "unit_spans", "fills", "per_panel", "slot", "panel_step", "channel_stride", "panel_sums", "row_sums",
    "store_y", "store_x", "store_z", "store_z_step", "store_y_step", "store_x_step", "store_start", "store_x_start",
    "store_width", "in_place", "gathered_span", "line", "line_pitch", "line_tiles",
    "halved_below", "reads_x", "column_step", "aligned", "depth", "span_apart", "span_units", "unit_lines",
    "widened_pitch", "met_of_line",
)  # fmt: skip

#: Numbers of weights as they are packed: how many taps, where their weights lie in the kernel, where the first tile's
#: are packed, elements of each tile's, and whether they lie in runs.
PACKING = ("taps", "weight_offsets", "packed", "block", "run_length", "run_step")
_ARRAYS = {"weight_offsets", "steps", "packing"}

Array = np.ndarray[Any, Any]

_LINE_BYTES = 64
_LONG = 100  #: vectors of a line


@dataclass(frozen=True, slots=True)
class Shape:
    """What the kernels must know of a problem beside its phases."""

    batch: int
    groups: int
    rows: int  #: result channels of a group, times ``stack``
    channels: int  #: summed channels of a group
    plane: int
    out_plane: int
    row_step: int  #: in the weights, from a result channel of a group to the next
    channel_step: int
    group_step: int
    itemsize: int  #: of sums, panels and packed weights
    grain: Grain
    stored_whole: bool = True  #: whether sums may wait in the result, which has their type
    residues: Sizes = (1, 1, 1)  #: of each axis, those that are rows side by side; their weights are neighbours

    @property
    def stack(self) -> int:
        """Rows of a result channel."""
        return prod(self.residues)

    @property
    def elements(self) -> int:
        """Of the grain, for all channels."""
        return int(self.grain.count(self.channels))


@dataclass(frozen=True, slots=True)
class Blocking:
    """How the loops are cut: ``channels`` a block, ``panels`` a span, ``row_parts`` tasks to a span's rows.

    ``shared`` are the axes whose taps share samples, or ``IN_PLACE``. With ``lazy`` a task packs the weights of a
    tile when it comes to them, instead of finding all of them packed; ``slack`` elements lie behind a tile's packed
    weights. Of lines that are gathered, and of images that turned tiles read in place, ``units`` may be one span, which
    reads weights once for all of them.
    """

    tile: AnyTile
    channels: int
    panels: int
    row_parts: int
    shared: tuple[int, ...]
    lazy: bool
    slack: int
    units: int = 1


@dataclass(frozen=True, slots=True)
class Cut:
    """A phase under a blocking: how its units are cut into spans and how wide its panels are."""

    layout: Layout
    span: int
    unit_spans: int
    width: int  #: positions of a panel: of one tile, or of a whole span with its halo
    panels: int  #: panels of that width
    gathered_span: int  #: from the samples of a span to the next one's
    tiles: int
    units: int = 1  #: of a span

    @classmethod
    def of(cls, layout: Layout, blocking: Blocking) -> Cut:
        """Spans of at most ``blocking.panels`` tiles, all of a unit alike.

        In place what is left, if less than a tile, belongs to the span before.
        """
        tile = blocking.tile
        if len(layout.shared) > 1:
            return cls._of_lines(layout, blocking)
        if blocking.units > 1:
            images = blocking.units
            return cls(layout, images * layout.unit, 1, 0, 1, 0, images * ceil(layout.unit / tile.columns), images)
        unit_spans = ceil(layout.unit / (blocking.panels * tile.columns))
        span = ceil(layout.unit / unit_spans / tile.columns) * tile.columns
        unit_spans, tiles = ceil(layout.unit / span), span // tile.columns
        if layout.in_place and 0 < layout.unit % span < tile.columns and unit_spans > 1:
            unit_spans, tiles = unit_spans - 1, tiles + 1
        if not layout.shared and not tile.over_channels:
            return cls(layout, span, unit_spans, tile.columns, tiles, span, tiles)
        width = ceil((span + layout.halo) / tile.lanes) * tile.lanes
        return cls(layout, span, unit_spans, width, 1, 0 if layout.in_place else span, tiles)

    @classmethod
    def _of_lines(cls, layout: Layout, blocking: Blocking) -> Cut:
        """Spans of whole lines. The last tile of a line reads on, so there is room for one behind the last line."""
        tile, line_tiles = blocking.tile, ceil(layout.line / blocking.tile.columns)
        unit_spans = ceil(layout.lines / max(1, blocking.panels // line_tiles))
        lines = ceil(layout.lines / unit_spans)
        if layout.in_place:
            return cls(layout, lines * layout.line, ceil(layout.lines / lines), 0, 1, 0, lines * line_tiles)
        units = blocking.units
        gathered = units * layout.gathered_unit - layout.halo if units > 1 else lines * layout.pitch
        width = ceil((gathered + layout.halo + tile.columns * layout.column_step) / tile.lanes) * tile.lanes
        span, tiles = units * lines * layout.line, units * lines * line_tiles
        return cls(layout, span, ceil(layout.lines / lines), width, 1, gathered, tiles, units)

    @property
    def spans(self) -> int:
        """Spans of all units."""
        return ceil(self.layout.units / self.units) * self.unit_spans

    @property
    def shortest(self) -> int:
        """Positions of the last span, of a unit or of all; where it joins what is left, it is longer than others."""
        if self.units > 1:
            return self.layout.units * self.layout.unit - (self.spans - 1) * self.span
        return self.layout.unit - (self.unit_spans - 1) * self.span

    @property
    def longest(self) -> int:
        """Positions of the longest span."""
        return max(self.span, self.shortest)

    @property
    def joins(self) -> bool:
        """Whether the last span is longer than the others."""
        return self.units == 1 and self.shortest > self.span

    @property
    def copied(self) -> int:
        """Elements of a channel of x that a span copies: from the first to the last that it meets."""
        layout = self.layout
        return (self.span // layout.line - 1) * layout.pitch + layout.met_of_line if layout.widened else 0

    def widened_pitch(self, lanes: int) -> int:
        """From a channel to the next in a copy of x: an odd number of vectors, so that they share no set of a cache."""
        return (ceil(self.copied / lanes) | 1) * lanes if self.copied else 0

    @property
    def samples(self) -> int:
        """Positions that are gathered, or elements of a copy, for all spans of a unit."""
        if self.copied:
            return self.unit_spans * self.copied
        return self.layout.lines * self.layout.pitch + self.unit_spans * self.layout.halo

    @property
    def gathered_positions(self) -> int:
        """Samples of a channel and tap in all panels."""
        return self.width * self.panels


def row_blocks(shape: Shape, tile: AnyTile) -> int:
    """Tiles that cover the rows of a group."""
    return ceil(shape.rows / tile.rows)


def line_items(tile: AnyTile) -> int:
    """Elements of a line in which sums wait between registers: a tile's row, or a vector of turned ones."""
    return max(tile.columns, tile.lanes)


def woven(shape: Shape, layout: Layout, lanes: int) -> bool:
    """Whether rows of stacked residues may be interleaved as they leave the tile; lines of a panel begin anywhere."""
    return len(layout.shared) < 2 and weaves(shape.residues, lanes, layout.phase[2].positions)


def vector_places(shape: Shape) -> int:
    """Numbers that say where a vector of positions goes, if its rows are interleaved; otherwise none."""
    return shape.residues[2] * PLACE if shape.stack > 1 else 0


def tail_places(shape: Shape, tile: AnyTile) -> int:
    """The same of the last tile of a span, which may end with it."""
    return ceil(tile.columns / tile.lanes) * vector_places(shape)


def scratch_layout(shape: Shape, blocking: Blocking, cuts: Sequence[Cut]) -> dict[str, int]:
    """Where the parts of a thread's workspace start, in bytes, and how many there are."""
    tile = blocking.tile
    spans = max(cut.tiles for cut in cuts)
    blocks = ceil(row_blocks(shape, tile) / blocking.row_parts)
    tiles = spans if tile.over_channels else 1
    if blocking.channels < shape.channels:
        tiles = blocks * spans
    vectors = max(cut.gathered_positions * cut.layout.gathered_taps for cut in cuts) // tile.lanes
    taps, channels = max(cut.layout.taps for cut in cuts), shape.grain.count(blocking.channels)
    passes = max(pixel_panels.most_passes(cut.layout.gathered, tile.lanes) for cut in cuts)
    widened = max(cut.widened_pitch(tile.lanes) for cut in cuts)
    parts = {
        "entries_at": channels * max(vectors * tile.lanes, widened) * shape.itemsize,
        "merges_at": vectors * ENTRY_BYTES,
        "weights_at": vectors * (passes - 1) * ENTRY_BYTES,
        "sums_at": (tile.rows * (1 + channels * taps) + blocking.slack) * shape.itemsize if blocking.lazy else 0,
        "places_at": ((1 + shape.stack) * line_items(tile) + tiles * tile.rows * tile.columns + tile.lanes)
        * shape.itemsize,
        "scratch_bytes": max(ceil(cut.longest / tile.lanes) for cut in cuts) * vector_places(shape) * 8
        + tail_places(shape, tile) * 8,
    }
    at, layout = 0, {}
    for name, size in parts.items():
        at = ceil((at + size) / 64) * 64
        layout[name] = at
    return layout


def block_elements(shape: Shape, blocking: Blocking, taps: int) -> int:
    """Elements of the packed weights of one tile of rows: its biases, its weights, and what packing overwrites."""
    return blocking.tile.rows * (1 + shape.elements * taps) + blocking.slack


def packed_elements(shape: Shape, blocking: Blocking, taps: int) -> int:
    """Elements of a phase's packed weights, where they are packed beforehand."""
    if blocking.lazy:
        return 0
    return shape.groups * row_blocks(shape, blocking.tile) * block_elements(shape, blocking, taps)


def weight_run(shape: Shape, weights: tuple[int, ...]) -> tuple[int, int]:
    """How many weights of a row and channel lie in a regular run, and their step; none if taps are left out in between.

    A run goes on from channel to channel where the channels are as far apart as they are long.
    """
    count = len(weights)
    if count == 1:
        return 1, shape.channel_step
    if not count or weights != tuple(range(weights[0], weights[0] + count)):
        return 0, 0
    return count, 1


def shape_numbers(shape: Shape, blocking: Blocking, cuts: Sequence[Cut], packings: Packings) -> dict[str, int]:
    blocks, rows = row_blocks(shape, blocking.tile), blocking.tile.rows
    task_rows = ceil(blocks / blocking.row_parts) * rows
    row_parts, spans = ceil(shape.rows / task_rows), max(cut.spans for cut in cuts)
    by_kind = blocking.lazy or phases_follow(packings.elements // shape.groups // row_parts * shape.itemsize)
    return {
        "batch": shape.batch, "groups": shape.groups, "rows": shape.rows, "channels": shape.channels,
        "plane": shape.plane, "image": shape.groups * shape.channels * shape.plane,
        "group_input": shape.channels * shape.plane, "out_plane": shape.out_plane,
        "out_image": shape.groups * shape.rows // shape.stack * shape.out_plane,
        "row_step": shape.row_step, "channel_step": shape.channel_step, "group_step": shape.group_step,
        "row_blocks": blocks, "task_rows": task_rows, "row_parts": row_parts, "spans": spans, "kinds": len(cuts),
        "span_tasks": len(cuts) if by_kind else 1, "kind_tasks": 1 if by_kind else spans,
        "channel_block": blocking.channels, "lazy": int(blocking.lazy),
        **scratch_layout(shape, blocking, cuts), "packings": address(packings.numbers),
        "stack": shape.stack, "tile_rows": rows, "tile_columns": blocking.tile.columns,
        "widths": blocking.tile.widths, "unit": blocking.tile.unit, "pitch": blocking.tile.pitch,
        "turned": int(blocking.tile.over_channels), "line_items": line_items(blocking.tile),
        "vector_places": vector_places(shape), "tail_places": tail_places(shape, blocking.tile),
        "asks": int(_asks(shape.groups * shape.rows // shape.stack * shape.out_plane, shape)),
        "reaches": int(_asks(shape.groups * shape.channels * shape.plane, shape)),
    }  # fmt: skip


def phases_follow(weights_bytes: int) -> bool:
    """Whether the second cache keeps so many weights: all phases of a span one after the other then read them.

    They meet the same lines of the result, which otherwise two threads would write to, or come to twice.
    """
    return weights_bytes <= target.cpu().l2_bytes // 2


def latest(cut: Cut, shape: Shape, tile: AnyTile) -> int:
    """How far spans may be put off so that tiles read whole vectors of x; the last one must still hold a tile.

    A vector across two lines of the cache takes both, of which the next tile's finds one in the first level cache if
    that holds a tile's samples, each channel's in lines of its own. The positions before a line's first whole vector
    are a tile of their own, little beside many. Vectors that are interleaved have their places from the first on.
    """
    if not cut.layout.in_place or tile.over_channels or tile.vectors == 1 or shape.stack > 1:
        return 0
    if shape.plane % tile.lanes:
        return 0
    lines_bytes = shape.channels * (tile.vectors + 1) * _LINE_BYTES
    fits = lines_bytes <= 2 * target.cpu().l1_bytes or cut.layout.unit < _LONG * tile.lanes
    return 0 if fits or cut.shortest < tile.columns + tile.lanes else tile.lanes - 1


def _asks(image: int, shape: Shape) -> bool:
    """Whether tiles ask ahead for lines of the result, or of x, of so many elements an image: beyond all second caches.

    A machine whose products take two turns has time for it.
    """
    far = shape.batch * image * shape.grain.stored.bytes > 2 * target.cpu().l2_bytes
    return far and target.cpu().turns(target.isa()) > 1


class Packings:
    """Packed weights as numbers for native code: those of a phase once for all its regions, if not packed as one goes.

    ``whole`` are the phases before they were cut into regions.
    """

    def __init__(self, phases: Sequence[Phase], whole: Sequence[Phase], shape: Shape, blocking: Blocking) -> None:
        self._shared = not blocking.lazy
        taps = [pixel_panels.weights(phase) for phase in (whole if self._shared else phases)]
        self._offsets = [np.array(offsets, np.int64) for offsets in taps]
        self._places = [{weight: place for place, weight in enumerate(offsets)} for offsets in taps]
        self._homes = {weight: number for number, offsets in enumerate(taps) for weight in offsets}
        self.elements, rows = 0, []
        for offsets, array in zip(taps, self._offsets, strict=True):
            block = block_elements(shape, blocking, len(offsets))
            rows.append((len(offsets), array.ctypes.data, self.elements, block, *weight_run(shape, offsets)))
            self.elements += packed_elements(shape, blocking, len(offsets))
        self.numbers = np.array(rows, np.int64)

    def of(self, number: int, phase: Phase) -> tuple[int, int, list[int]]:
        """Of a phase: where its numbers lie, how many taps are packed, and which of them are its own."""
        own = pixel_panels.weights(phase)
        home = self._homes[own[0]] if self._shared and own else number if own else 0
        places = self._places[home]
        return address(self.numbers) + home * self.numbers.strides[0], len(places), [places[weight] for weight in own]


class PhaseRecord:
    """A phase as numbers for native code, and the arrays that they point to.

    ``packing`` is what ``Packings`` says of it. ``in_place``: sums of neighbouring positions may be written to the
    result.
    """

    def __init__(
        self, cut: Cut, shape: Shape, blocking: Blocking, packing: tuple[int, int, list[int]], in_place: bool
    ) -> None:
        tile, layout = blocking.tile, cut.layout
        phase, gathered = layout.phase, layout.gathered
        z, y, x = phase
        read = pixel_panels.reading(gathered[2], tile.lanes)
        self._tables = [np.array(rows, np.int64) for rows in pixel_panels.tap_tables(gathered, read)]
        channel_stride = shape.plane if layout.in_place else layout.gathered_taps * cut.width
        widened_pitch = cut.widened_pitch(tile.lanes)
        channels, packed_at = shape.grain.count(blocking.channels), packing[0]
        self._steps, self._line_steps = _steps(cut, channels, widened_pitch or channel_stride, *packing[1:], tile.rows)
        whole, neighbours = pixel_panels.contiguous(phase), x.out_step == 1 and shape.stack == 1
        scales = (z.apart or y.out_size * x.out_size, y.apart or x.out_size, 1)
        steps = [axis.out_step * n for axis, n in zip(phase, scales, strict=True)]
        start = z.out_start * scales[0] + y.out_start * scales[1]
        one_row = (1, pixel_panels.positions(phase), 1, 0, 0, 1, 0, 0, 0)
        rows = (y.positions, x.positions, z.positions, *steps, start, x.out_start, x.out_size)
        slot = channels * channel_stride
        single, waiting = blocking.channels >= shape.channels, tile.rows * tile.columns
        late = latest(cut, shape, tile)
        lines, apart = (cut.longest + late, 0, 0), cut.span  # all of a span is one
        if cut.units > 1:  # of images in place, each is
            image = shape.groups * shape.channels * shape.plane
            lines = layout.unit, image, cut.tiles // cut.units
        if len(layout.shared) > 1:
            lines = layout.line, layout.pitch, ceil(layout.line / tile.columns)
            apart = cut.span // layout.line * layout.pitch
        numbers = (
            pixel_panels.positions(phase), packed_at, self._line_steps.ctypes.data, len(self._line_steps),
            layout.units, layout.unit, layout.gathered_unit,
            layout.halo, cut.span, cut.unit_spans, layout.gathered_taps // read.taps, cut.width // tile.lanes, slot,
            slot if cut.panels > 1 else tile.columns * layout.column_step, channel_stride,
            waiting if tile.over_channels or not single else 0, 0 if single else waiting * cut.tiles,
            *(one_row if whole else rows), int(in_place and neighbours and not tile.over_channels),
            cut.gathered_span, *lines, 0 if cut.panels > 1 else 2 * tile.columns, int(layout.in_place),
            layout.column_step, late, layout.depth, apart, cut.units, layout.lines,
            widened_pitch, layout.met_of_line if widened_pitch else 0,
        )  # fmt: skip
        tables = [table.ctypes.data for table in self._tables]
        self.numbers = (*pixel_panels.gather_numbers(gathered, tables, read), *numbers)
        self.least_taps = int(self._line_steps[:, 0].min())  #: of a line of an image


def _steps(
    cut: Cut, channels: int, channel_stride: int, packed: int, places: list[int], rows: int
) -> tuple[list[Array], Array]:
    """The tables of a tile's steps, and for every line of an image its taps and where its table lies.

    Of so many ``packed`` taps those at ``places`` are the phase's.
    """
    reads = np.array([tap * cut.width + shift for tap, shift in cut.layout.reads()], np.int64)
    met, each, in_weights = cut.layout.met(), np.arange(channels), np.array(places, np.int64)
    tables = {}
    for own in set(met):
        taps = list(own)
        panel = np.add.outer(each * channel_stride, reads[taps])
        tables[own] = table_of(panel, np.add.outer(each * packed, in_weights[taps]) * rows)
    return list(tables.values()), np.array([(len(own), tables[own].ctypes.data) for own in met], np.int64)


def read_shape(shape: Pointer, names: str) -> dict[str, Value]:
    """Numbers of ``SHAPE`` by name; the names stand side by side."""
    return pixel_panels.read_numbers(shape, SHAPE, set(), names.split())


def part(shape: Pointer, name: str) -> Pointer:
    """The address of a part of the kernel."""
    code = shape.at(SHAPE.index(name)).cast(ptr(i8)).load()
    assert isinstance(code, Pointer)
    return code


def phase_record(phases: Pointer, index: Value) -> Pointer:
    """Where a phase's record starts."""
    return phases.at(index * (len(GATHER) + len(PHASE)))


def packing_record(shape: Pointer, index: Value) -> Pointer:
    """Where the numbers of packed weights start."""
    return part(shape, "packings").cast(i64).at(index * len(PACKING))


def read_packing(record: Pointer, names: str) -> dict[str, Any]:
    """Numbers of ``PACKING`` by name; the names stand side by side."""
    return pixel_panels.read_numbers(record, PACKING, _ARRAYS, names.split())


def read_phase(record: Pointer, names: str) -> dict[str, Any]:
    """Numbers of ``PHASE``, or of ``GATHER``, by name; the names stand side by side."""
    return pixel_panels.read_numbers(record, (*GATHER, *PHASE), _ARRAYS, names.split())
