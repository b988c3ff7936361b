"""Winograd convolution in numbers: tiles and axes of a problem, blocks, and where everything lies for native code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import ceil, prod
from typing import NamedTuple

import numpy as np

from lucid.kernels import target
from lucid.kernels.algorithms import pixel_panels
from lucid.kernels.algorithms.base import far_bytes, turns_of
from lucid.kernels.algorithms.pixel_gather import ENTRY_BYTES
from lucid.kernels.algorithms.pixel_panels import SIDE_BY_SIDE, Axis, Phase, Reading
from lucid.kernels.algorithms.tile import Tile
from lucid.kernels.algorithms.winograd_passes import Matrices, lines, most_places
from lucid.kernels.algorithms.winograd_transforms import (
    Minimal,
    Nested,
    Pieces,
    Planes,
    Size,
    Spread,
    Strided,
    Summed,
)
from lucid.kernels.ir import f32
from lucid.kernels.launch import address
from lucid.kernels.runtime import memory

_ITEM_BYTES = 4
#: Elements between two products' slices beyond their size: slices a power of two apart would share a few cache sets.
_APART = 16
#: Channels that are gathered, or whose filters are packed, at once: they stay in the first level cache.
GATHERED, PACKED = 8, 32
#: Calls for so many where vectors take two turns: beside each some of the next filters' lines are asked for.
_CALLS = 8
#: Spans of a row from which on the next one's samples mostly lie behind this one's.
_LONG = 4
#: Tasks wanted of the gathering of all patches: of few spans, each is a part of the channels.
_GATHERERS = 8

#: Outputs of a tile along an axis, by the taps of a residue there, of that with the most.
_OUTPUTS = {1: (1,), 2: (2, 3, 4), 3: (2, 4), 4: (2, 3), 5: (2, 4)}
#: The same of more taps than those, which are taken in pieces, and the most taps.
_OF_PIECES, MOST_TAPS = (2, 4), 16
_MOST_UNEVEN_TAPS = 3  #: of two residues that are one form: more are filled up
#: One more where it takes fewer products than those: 14 outputs are 3 tiles of 7 products, not 4 of 6; 28 are even.
_MORE_OUTPUTS = {3: (5,)}
#: Of a kernel along this axis alone, where they take fewer products: others would add to its errors.
_LONE_OUTPUTS = {2: (6,), 3: (5, 6, 7), 4: (4, 5, 6), 5: (5,)}
_OF_BLOCKS = (8, 12, 16)  #: the same of more taps
#: ``large`` ones, likewise: of two taps, and of a stride that does not divide the taps.
_LARGE_OUTPUTS, _UNEVEN_OUTPUTS = {2: (5,)}, (5, 6, 7)
#: Beyond these what a tile is on the way outgrows the caches, or errors grow too large to be the default.
MOST_POINTS, MOST_GROWTH = 128, 256.0


@lru_cache(maxsize=64)
def _minimal(outputs: int, taps: int, stride: int, first: int | None) -> Minimal:
    """An axis, which keeps its matrices of fractions."""
    if stride == 1:
        if taps in _OUTPUTS:
            return Minimal(outputs, taps)
        return Pieces(outputs, taps) if outputs in _OF_PIECES else Nested(outputs, taps)
    return Strided(outputs, taps, stride) if first is None else Spread(outputs, taps, stride, first)


def divided(kernel: int, stride: int) -> tuple[int, int]:
    """A stride as one whose residues, with as many taps each, are channels of their own, and as one of the form's."""
    return (stride, 1) if kernel % stride == 0 else (1, stride)


def taken_apart(kernel: int, stride: int) -> tuple[int, int]:
    """As ``divided``, of a kernel that may be filled up with zeros: two residues of up to three taps have a form."""
    return divided(kernel, stride) if stride == 2 and kernel <= 2 * _MOST_UNEVEN_TAPS else (stride, 1)


def outputs_of(
    taps: int, positions: int, stride: int = 1, spreads: bool = False, lone: bool = False, large: bool = False
) -> tuple[int, ...]:
    """Outputs of the tiles that so many positions of an axis may be cut into; none where there is no tile.

    More where the kernel has taps along this axis alone, or where ``large`` tiles are wanted too.
    """
    each = stride if spreads else 1
    usual = tuple(outputs * each for outputs in _OUTPUTS.get(ceil(taps / stride), ()))
    if stride == 1 and not usual and taps <= MOST_TAPS:
        usual = _OF_PIECES

    def products(outputs: int) -> int:
        return ceil(positions / outputs) * _minimal(outputs, taps, stride, 0 if spreads else None).products

    for outputs in _more_outputs(taps, stride, lone, large) if usual else ():
        outputs *= each
        if products(outputs) < min(map(products, usual)):
            usual = (*usual, outputs)
    return usual


def _more_outputs(taps: int, stride: int, lone: bool, large: bool) -> tuple[int, ...]:
    """Those that are weighed where they take fewer products than the usual ones."""
    if stride > 1:
        return _UNEVEN_OUTPUTS if large else ()
    if lone and 1 < taps <= MOST_TAPS:
        return _LONE_OUTPUTS.get(taps, _OF_BLOCKS)
    return (*_MORE_OUTPUTS.get(taps, ()), *(_LARGE_OUTPUTS.get(taps, ()) if large else ()))


@dataclass(frozen=True, slots=True)
class Form:
    """F(m, r) on each of the three axes. The first may be summed as it is, the last may be dilated."""

    z: Minimal
    y: Minimal
    x: Minimal
    apart: int = 1  #: along x, neighbouring samples of a tile: its dilation, a divisor of the lanes

    @classmethod
    def of(
        cls, outputs: Sequence[int], taps: Sequence[int], apart: int = 1, summed: bool = False,
        strides: Sequence[int] = (1, 1, 1), firsts: Sequence[int | None] = (None, None, None),
    ) -> Form:  # fmt: skip
        """The form with so many outputs and taps on each axis, of which the first is ``summed``.

        Strides are those that do not divide the taps: of the samples, or of the outputs, of which the first is of the
        given residue.
        """
        z, y, x = (_minimal(*axis) for axis in zip(outputs, taps, strides, firsts, strict=True))
        return cls(Summed(z.outputs, z.taps, strides[0]) if summed else z, y, x, apart)

    @property
    def axes(self) -> tuple[Minimal, Minimal, Minimal]:
        """In the order of a grid's places."""
        return self.z, self.y, self.x

    @property
    def uneven(self) -> bool:
        """Whether an axis has a stride that does not divide its taps."""
        return any(axis.advance != axis.outputs for axis in self.axes)

    def matrices(self, name: str) -> Matrices:
        """The matrices of that name, see ``Minimal``."""
        z, y, x = (getattr(axis, name) for axis in self.axes)
        return z, y, x

    def sizes(self, name: str) -> tuple[Size, Size, Size]:
        """Their rows and columns, for which no fraction is computed."""
        return self.z.size(name), self.y.size(name), self.x.size(name)

    def lines(self, name: str) -> int:
        """Vectors read and written on the way of one grid through the matrices of that name."""
        return _lines(self, name)

    @property
    def planes(self) -> Planes:
        """How many transforms a tile has."""
        return self.z.planes

    @property
    def points(self) -> int:
        """Numbers of one transformed plane."""
        return prod(axis.products for axis in self.axes)

    @property
    def products(self) -> int:
        """Of one tile and channel."""
        return self.points * self.planes.filter * self.planes.result

    @property
    def outputs(self) -> int:
        """Of one tile."""
        return prod(axis.outputs for axis in self.axes)

    @property
    def samples(self) -> int:
        """Of a patch."""
        return prod(axis.samples for axis in self.axes)

    @property
    def taps(self) -> int:
        """Of an output, and of a residue of the stride."""
        return prod(axis.taps for axis in self.axes)

    @property
    def reads(self) -> int:
        """Runs of ``x.advance`` samples that are gathered for a patch."""
        return self.z.samples * self.y.samples * self.x.reads


@lru_cache(maxsize=1024)
def _lines(form: Form, name: str) -> int:
    return lines(form.sizes(name))


class Side(NamedTuple):
    """One axis of a problem, whichever its role: the gathered array's size, positions, zeros before.

    With a stride, samples of the gathered array that are as many apart belong to channels of their own, or so many
    results stand for a position, each of a row of its own: see ``winograd``.
    """

    size: int
    out: int
    low: int
    step: int = 1  #: samples from a position to the next
    spread: int = 1  #: results of a position
    trim: tuple[int, int] = (0, 0)  #: of them, those before the first and behind the last that there is
    lines: tuple[int, int] = (0, 0)  #: gathered and result, of which it is a piece: see ``pixel_panels.Axis``

    @property
    def width(self) -> int:
        """Of the result."""
        return self.out * self.spread - sum(self.trim)

    def tiles(self, minimal: Minimal, apart: int) -> int:
        """Tiles of one line, of all residues."""
        return ceil(self.out / (minimal.outputs * apart)) * apart

    def runs_gathered(self, minimal: Minimal, apart: int) -> Axis:
        """Patches as runs of samples, with a position for each."""
        each, count = minimal.advance, self.tiles(minimal, apart)
        starts = (k * each * apart * self.step - self.low for k in range(minimal.reads))
        offsets = tuple(start + residue for start in starts for residue in range(self.step))
        return Axis(count * each, self.size, self.step, offsets, (), 1, line=self.lines[0])

    def runs_stored(self, minimal: Minimal, apart: int) -> Axis:
        """Outputs, in the same positions."""
        offsets = tuple(residue - self.trim[0] for residue in range(self.spread))
        count = self.tiles(minimal, apart) * minimal.outputs
        return Axis(count, self.width, self.spread, offsets, (), 1, line=self.lines[1])

    def gathered(self, minimal: Minimal) -> Axis:
        """Patches, with a position for each tile."""
        count = self.tiles(minimal, 1)
        offsets = tuple(k - self.low for k in range(minimal.samples * self.step))
        return Axis(count, self.size, minimal.advance * self.step, offsets, (), 1, line=self.lines[0])

    def stored(self, minimal: Minimal) -> Axis:
        """Outputs, in the same positions."""
        count, each = self.tiles(minimal, 1), minimal.outputs * self.spread
        return Axis(count, self.width, each, tuple(k - self.trim[0] for k in range(each)), (), 1, line=self.lines[1])


@dataclass(frozen=True, slots=True)
class Shape:
    """What the kernels must know of a problem, whichever its role."""

    sides: tuple[Side, Side, Side]
    planes: tuple[int, int]  #: samples of a gathered channel, and of one of the result
    batch: int
    groups: int
    rows: int  #: result channels of a group, times ``spread``
    channels: int  #: summed channels of a group, times ``step``
    row_step: int  #: in the weights, from a row's result channel to the next
    channel_step: int  #: from one that is gathered to the next
    group_step: int
    kernel: tuple[int, int, int]  #: filled up where strides do not divide it
    stored_kernel: tuple[int, int, int]
    flipped: bool  #: taps run backwards

    @property
    def step(self) -> tuple[int, int, int]:
        """Residues along each axis that are channels."""
        z, y, x = (side.step for side in self.sides)
        return z, y, x

    @property
    def spread(self) -> tuple[int, int, int]:
        """Residues along each axis that are rows."""
        z, y, x = (side.spread for side in self.sides)
        return z, y, x

    @property
    def sources(self) -> int:
        """Channels of a group as they lie in memory."""
        return self.channels // prod(self.step)

    @property
    def filled(self) -> bool:
        """Whether the kernel has taps that no weight is stored for."""
        return self.kernel != self.stored_kernel

    @property
    def packed_taps(self) -> int:
        """Numbers of a row and channel that lie side by side in the weights once they are put in order."""
        return prod(self.kernel) // prod(self.spread)

    def tiles(self, form: Form) -> int:
        """Tiles of the whole batch."""
        apart = 1, 1, form.apart
        return self.batch * prod(map(Side.tiles, self.sides, form.axes, apart))

    def phases(self, form: Form) -> tuple[Phase, Phase]:
        """Positions as the table for patches sees them, and as the one for outputs does."""
        (z, y, x), (fz, fy, fx) = self.sides, form.axes
        return (
            (z.gathered(fz), y.gathered(fy), x.runs_gathered(fx, form.apart)),
            (z.stored(fz), y.stored(fy), x.runs_stored(fx, form.apart)),
        )


@dataclass(frozen=True, slots=True)
class Blocking:
    """``row_block`` result channels between products and outputs; ``row_parts`` tasks to a span's rows.

    Where those are one, the rows of the last ``halved`` spans are two, so that two threads end together.
    With ``rows_first``, a task is a tile of rows, for all spans, and filters are made of ``chunk`` channels at a time.
    """

    tile: Tile
    row_block: int
    row_parts: int
    rows_first: bool
    chunk: int
    halved: int = 0


def reading(stride: int, lanes: int) -> Reading:
    """How rows of which neighbours belong to different channels or rows are dealt out and put together."""
    return Reading(stride, stride) if stride > 1 and lanes > 1 else SIDE_BY_SIDE


def numbers_of(shape: Shape, form: Form, cut: Blocking, slack: int) -> dict[str, int]:
    """The values of ``NUMBERS``. Where a thread's parts start is in bytes, all other sizes are in elements."""
    tile, (x_size, y_size) = cut.tile, shape.planes
    tiles, blocks, spreads = shape.tiles(form), ceil(shape.rows / tile.rows), prod(shape.spread)
    planes, v_plane, filter_plane = form.planes, shape.channels * tile.columns, cut.chunk * tile.rows
    block = planes.filter * filter_plane + _APART
    part_rows = ceil(ceil(shape.rows / (2 if cut.halved else cut.row_parts)) / tile.rows) * tile.rows
    most_rows = ceil(shape.rows / tile.rows) * tile.rows if cut.halved else part_rows  # of a task
    row_block = tile.rows if cut.rows_first else min(cut.row_block, most_rows)
    v_step, m_step = planes.patch * v_plane + _APART, row_block * tile.columns + _APART
    spans, gathered = ceil(tiles / tile.columns), max(4, GATHERED // prod(shape.step))
    in_parts = cut.halved or spans * shape.groups
    part_sources = ceil(shape.sources / ceil(_GATHERERS / (spans * shape.groups)) / gathered) * gathered
    numbers = {
        "tiles_count": tiles, "spans": spans, "groups": shape.groups, "rows": shape.rows,
        "channels": shape.channels, "sources": shape.sources, "steps": prod(shape.step), "spreads": spreads,
        "gathered": gathered, "source_parts": ceil(shape.sources / part_sources), "part_sources": part_sources,
        "x_plane": x_size,
        "x_image": shape.groups * shape.sources * x_size, "y_plane": y_size,
        "y_image": shape.groups * shape.rows // spreads * y_size, "row_step": shape.row_step,
        "channel_step": shape.channel_step, "group_step": shape.group_step, "blocks": blocks, "block": block,
        "filter_step": block if cut.rows_first else shape.groups * blocks * block + _APART,
        "row_block": row_block, "row_parts": ceil(shape.rows / part_rows), "part_rows": part_rows,
        "in_parts": in_parts, "whole": spans * shape.groups - in_parts, "v_step": v_step,
        "v_size": form.points * v_step, "v_span": shape.groups * form.points * v_step, "v_group": form.points * v_step,
        "own_copy": 0, "copy_at": 0, "v_plane": v_plane, "m_step": m_step,
        "m_span": form.points * planes.result * m_step if cut.chunk < shape.channels else 0, "chunk": cut.chunk,
        "filters_size": form.points * block if cut.rows_first else block, "filter_plane": filter_plane,
        "filter_planes": planes.filter, "result_planes": planes.result,
        "v_result": v_plane * (form.z.advance // form.z.outputs),
    }  # fmt: skip
    own_operand, (_, y, x) = form.points * (block if cut.rows_first else v_step), (a.products for a in form.axes)
    numbers |= {
        "filter_y": numbers["filter_step"] * x, "filter_z": numbers["filter_step"] * x * y,
        "points": form.points, "across": form.x.outputs, "advance": form.x.advance, "tile_rows": tile.rows,
        "columns": tile.columns,
        "asks": int(_asks(shape, tile)), "store_run": reading(shape.spread[2], tile.lanes).taps * tile.lanes,
        "asks_samples": int(_asks_samples(shape, form, cut)), "samples_on": tile.columns * form.x.advance,
        "filters_a_call": PACKED // (_CALLS if turns_of(tile.lanes, f32) > 1 else 1) * prod(shape.step),
    }  # fmt: skip
    m_steps = m_step * (numbers["spans"] if numbers["m_span"] else 1)
    numbers |= _stored_runs(shape, form) | _taps(shape, form) | _runs(shape, form, tile)
    numbers |= _scratch(shape, form, tile, numbers, own_operand, m_steps, slack)
    assert tuple(sorted(numbers)) == tuple(sorted(NUMBERS)), "every number has its slot"
    return numbers


def _asks(shape: Shape, tile: Tile) -> bool:
    """Whether results' lines are asked for beside the products: those that come from memory, elsewhere it costs 1 %."""
    results = shape.batch * shape.groups * shape.rows // prod(shape.spread) * shape.planes[1]
    return turns_of(tile.lanes, f32) > 1 and far_bytes(results * _ITEM_BYTES) > 0


def _asks_samples(shape: Shape, form: Form, cut: Blocking) -> bool:
    """Whether the next span's samples are asked for beside the products of this one.

    They come from memory, in short runs of many rows, which no machine would guess, follow this one's in long rows, and
    fit the second cache beside filters and patches.
    """
    tile, (x_size, y_size) = cut.tile, shape.planes
    run, fits = tile.columns * form.x.advance, target.cpu().l2_bytes // _ITEM_BYTES
    moved = shape.sources * x_size + shape.rows // prod(shape.spread) * y_size
    far = far_bytes(shape.batch * shape.groups * moved * _ITEM_BYTES) > 0
    samples = shape.sources * form.reads * prod(shape.step) * tile.columns * form.x.advance
    patches, filters = (form.points * shape.channels * n for n in (tile.columns, shape.rows))
    spans, across = not cut.rows_first and cut.row_parts == 1, form.x.products == shape.step[2] == 1
    long = shape.sides[2].size >= _LONG * run and samples + patches + filters <= fits
    return turns_of(tile.lanes, f32) > 1 and far and spans and across and long


def _stored_runs(shape: Shape, form: Form) -> dict[str, int]:
    """Weights of a channel that lie side by side and belong side by side: all, or a line of a kernel that is filled."""
    if shape.filled and prod(shape.spread) == 1:
        lines = prod(shape.stored_kernel[:2]) // form.planes.filter
        return {"tap_runs": lines, "run_taps": shape.stored_kernel[2]}
    return {"tap_runs": 1, "run_taps": shape.packed_taps // form.planes.filter}


def run_places(shape: Shape, numbers: dict[str, int]) -> list[int]:
    """The tap that each of those runs starts at, and the one behind the last."""
    (_, y, x), (stored_z, stored_y, _) = shape.kernel, shape.stored_kernel
    starts = [(i * y + j) * x for i in range(stored_z) for j in range(stored_y)]
    return [*starts[: numbers["tap_runs"]], numbers["taps"]]


def _taps(shape: Shape, form: Form) -> dict[str, int]:
    """Those that are packed at once, and steps from one that a transform reads to the next, and between planes."""
    _, y, x = (kernel // spread for kernel, spread in zip(shape.kernel, shape.spread, strict=True))
    count, sign = shape.packed_taps // form.planes.filter, -1 if shape.flipped else 1
    stored = prod(shape.stored_kernel) // prod(shape.spread) // form.planes.filter
    steps = [step * inner for step, inner in zip(shape.step, (y * x, x, 1), strict=True)]
    last = sum((length - 1) * step for (_, length), step in zip(form.sizes("filter"), steps, strict=True))
    first, first_plane = (last, (form.planes.filter - 1) * stored) if shape.flipped else (0, 0)
    return {
        "taps": count, "first_tap": first, **{f"tap_{a}": sign * n for a, n in zip("zyx", steps, strict=True)},
        "first_plane": first_plane, "plane_step": sign * stored,
    }  # fmt: skip


def _runs(shape: Shape, form: Form, tile: Tile) -> dict[str, int]:
    """Runs of pixels of a channel: in a panel, on the way out, and steps to the next ones of the same residue."""
    run, out, (_, step_y, step_x) = tile.columns * form.x.advance, tile.columns * form.x.outputs, shape.step
    _, spread_y, spread_x = shape.spread
    reads, stores = form.reads * prod(shape.step), form.z.outputs * form.y.outputs * prod(shape.spread)
    row, line = form.x.reads * step_x, spread_x
    steps = {
        "panel_x": run * step_x, "panel_y": run * row * step_y,
        "panel_z": run * row * step_y * form.y.samples * shape.step[0],
        "line_y": out * line * spread_y, "line_z": out * line * spread_y * form.y.outputs * shape.spread[0],
    }  # fmt: skip
    fills, entries = (
        count // reading(s, tile.lanes).taps for count, s in ((reads, step_x), (stores, spread_x))
    )  # fmt: skip
    return {"reads": reads, "fills": fills, "stores": entries, **steps}


def residues(shape: Shape, form: Form, tile: Tile) -> tuple[list[int], list[int], list[int]]:
    """Where each residue starts: in a row's weights, in a panel, on the way out."""
    run, out, (_, kernel_y, kernel_x) = tile.columns * form.x.advance, tile.columns * form.x.outputs, shape.kernel
    (_, step_y, step_x), (_, spread_y, spread_x) = shape.step, shape.spread
    panel = _places(shape.step, step_y * form.y.samples, step_x * form.x.reads)
    line = _places(shape.spread, spread_y * form.y.outputs, spread_x)
    return _places(shape.step, kernel_y, kernel_x), [place * run for place in panel], [place * out for place in line]


def _places(counts: tuple[int, int, int], y: int, x: int) -> list[int]:
    """Of the first few along each axis of a grid, of y by x in its inner axes."""
    return [(i * y + j) * x + k for i, j, k in product(*map(range, counts))]


def _scratch(
    shape: Shape, form: Form, tile: Tile, numbers: dict[str, int], own_operand: int, m_steps: int, slack: int
) -> dict[str, int]:
    """Where the parts of a thread's workspace start, in bytes, and how many bytes there are.

    ``own_operand`` elements at ``v_at`` are the patches of a span, or the filters of a tile of rows.
    """
    patches, results = shape.phases(form)
    vectors, out_vectors = tile.vectors * form.x.advance, tile.vectors * form.x.outputs
    panel = max(
        numbers["gathered"] * numbers["reads"] * vectors * tile.lanes,
        min(PACKED, shape.sources) * shape.packed_taps * tile.rows + slack,
    )
    lines = form.z.outputs * form.y.outputs * prod(shape.spread)
    most = max(most_places(form.sizes(name)) for name in ("patch", "filter", "inverse"))
    passes = pixel_panels.most_passes(patches, tile.lanes)
    more = pixel_panels.most_passes(results, tile.lanes) - 1
    sizes = {
        "v_at": panel * _ITEM_BYTES,
        "m_at": own_operand * _ITEM_BYTES,
        "line_at": form.points * form.planes.result * m_steps * _ITEM_BYTES,
        "spare_at": lines * out_vectors * tile.lanes * _ITEM_BYTES,
        "fills_at": 2 * most * tile.lanes * _ITEM_BYTES,
        "merges_at": vectors * numbers["fills"] * ENTRY_BYTES,
        "stores_at": vectors * numbers["fills"] * (passes - 1) * ENTRY_BYTES,
        "more_stores_at": out_vectors * numbers["stores"] * ENTRY_BYTES,
        "own": out_vectors * numbers["stores"] * more * ENTRY_BYTES,
    }
    at, starts = 0, {}
    for name, size in sizes.items():
        at = ceil((at + size) / memory.ALIGN_BYTES) * memory.ALIGN_BYTES
        starts[name] = at
    return starts


def workspace_bytes(shape: Shape, form: Form, cut: Blocking, slack: int) -> int:
    """What all threads share, and one thread's part."""
    numbers = numbers_of(shape, form, cut, slack)
    return shared_bytes(form, cut, numbers) + numbers["own"]


def filter_bytes(shape: Shape, form: Form, cut: Blocking, slack: int) -> int:
    """Of those, the transformed filters, if they are what is shared."""
    return 0 if cut.rows_first else shared_bytes(form, cut, numbers_of(shape, form, cut, slack))


def shared_bytes(form: Form, cut: Blocking, numbers: dict[str, int]) -> int:
    """What the first step makes: all filters, or all patches."""
    if cut.rows_first:
        return _whole_lines(numbers["spans"] * numbers["groups"] * numbers["v_size"])
    return _whole_lines(form.points * numbers["filter_step"])


def with_own_copy(form: Form, cut: Blocking, numbers: dict[str, int]) -> dict[str, int]:
    """The numbers where every thread has what they would share, which it makes itself: patches only of a group."""
    size, at = shared_bytes(form, cut, numbers), numbers["own"]
    if cut.rows_first:
        size = ceil(size // numbers["groups"] / memory.ALIGN_BYTES) * memory.ALIGN_BYTES
        numbers = numbers | {"v_span": numbers["v_size"], "v_group": 0}
    return numbers | {"own_copy": 1, "copy_at": at, "own": at + size}


def advance_bytes(numbers: dict[str, int]) -> int:
    """All filters, where rows come first and filters are made in advance."""
    return _whole_lines(numbers["groups"] * numbers["blocks"] * numbers["filters_size"])


def _whole_lines(elements: int) -> int:
    return ceil(elements * _ITEM_BYTES / memory.ALIGN_BYTES) * memory.ALIGN_BYTES


POINTERS = ("x", "w", "bias", "y", "kept", "shared", "scratch", "scale", "shift", "residual")
TABLES = ("none", "patches", "results", "tiles", "starts", "run_places", "panels", "lines")
CODE = ("table", "pack", "pack_weights", "filter", "deal", "collect", "spread")
STEPS = ("filters", "span_patches", "multiply", "span_results")
NUMBERS = (
    "tiles_count", "spans", "groups", "rows", "channels", "sources", "steps", "spreads", "gathered",
    "source_parts", "part_sources", "x_plane",
    "x_image", "y_plane", "y_image", "row_step", "channel_step", "group_step", "taps", "tap_runs", "run_taps",
    "first_tap", "tap_z", "tap_y", "tap_x", "first_plane",
    "plane_step", "blocks", "block", "chunk", "filters_size", "filter_step", "filter_y",
    "filter_z", "filter_plane", "filter_planes", "row_block", "row_parts", "part_rows", "in_parts", "whole", "points",
    "result_planes",
    "across", "advance", "reads", "fills", "stores", "panel_z", "panel_y", "panel_x", "line_z", "line_y", "tile_rows",
    "columns", "v_step", "v_plane", "v_result", "v_size", "v_span", "v_group", "own_copy", "copy_at", "m_step",
    "m_span", "own", "v_at", "m_at", "line_at",
    "spare_at", "fills_at", "merges_at", "stores_at", "more_stores_at", "filters_a_call", "asks", "store_run",
    "asks_samples", "samples_on",
)  # fmt: skip


class Record:
    """A phase as the table's writer reads it, and the arrays that it points to."""

    def __init__(self, phase: Phase, read: Reading) -> None:
        self._tables = [np.array(rows, np.int64) for rows in pixel_panels.tap_tables(phase, read)]
        numbers = pixel_panels.gather_numbers(phase, [address(table) for table in self._tables], read)
        self._numbers = np.array(numbers, np.int64)
        self.address = address(self._numbers)
