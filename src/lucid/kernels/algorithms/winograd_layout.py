"""Winograd convolution in numbers: tiles and axes of a problem, blocks, and where everything lies for native code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import NamedTuple

import numpy as np

from lucid.kernels.algorithms import pixel_panels
from lucid.kernels.algorithms.pixel_panels import ENTRY_BYTES, Axis, Phase
from lucid.kernels.algorithms.tile import Tile
from lucid.kernels.algorithms.winograd_passes import Matrices, most_places
from lucid.kernels.algorithms.winograd_transforms import Minimal, Planes, Summed
from lucid.kernels.launch import address
from lucid.kernels.runtime import memory

_ITEM_BYTES = 4
#: Elements between two products' slices beyond their size: slices a power of two apart would share a few cache sets.
_APART = 16
#: Channels that are gathered, or whose filters are packed, at once: they stay in the first level cache.
GATHERED, PACKED = 8, 32


@dataclass(frozen=True, slots=True)
class Form:
    """F(m, r) on each of the three axes. The first may be summed as it is, the last may be dilated."""

    z: Minimal
    y: Minimal
    x: Minimal
    apart: int = 1  #: along x, neighbouring samples of a tile: its dilation, a divisor of the lanes

    @classmethod
    def of(cls, outputs: Sequence[int], taps: Sequence[int], apart: int = 1, summed: bool = False) -> Form:
        """The form with so many outputs and taps on each axis, of which the first is ``summed``."""
        z, y, x = map(Minimal, outputs, taps)
        return cls(Summed(z.outputs, z.taps) if summed else z, y, x, apart)

    @property
    def axes(self) -> tuple[Minimal, Minimal, Minimal]:
        """In the order of a grid's places."""
        return self.z, self.y, self.x

    def matrices(self, name: str) -> Matrices:
        """The matrices of that name, see ``Minimal``."""
        z, y, x = (getattr(axis, name) for axis in self.axes)
        return z, y, x

    @property
    def planes(self) -> Planes:
        """How many transforms a tile has."""
        return self.z.planes

    @property
    def points(self) -> int:
        """Numbers of one transformed plane."""
        return prod(len(axis.patch) for axis in self.axes)

    @property
    def products(self) -> int:
        """Of one tile and channel."""
        return self.points * self.planes.filter * self.planes.result

    @property
    def outputs(self) -> int:
        """Of one tile."""
        return prod(axis.outputs for axis in self.axes)

    @property
    def reads(self) -> int:
        """Runs of ``x.outputs`` samples that are gathered for a patch."""
        return self.z.samples * self.y.samples * self.x.reads


class Side(NamedTuple):
    """One axis of a problem, whichever its role: the gathered array's size, the result's, zeros before."""

    size: int
    out: int
    low: int

    def tiles(self, minimal: Minimal, apart: int) -> int:
        """Tiles of one line, of all residues."""
        return ceil(self.out / (minimal.outputs * apart)) * apart

    def runs_gathered(self, minimal: Minimal, apart: int) -> Axis:
        """Patches as runs of samples, with a position for each."""
        each, count = minimal.outputs, self.tiles(minimal, apart)
        offsets = tuple(k * each * apart - self.low for k in range(minimal.reads))
        return Axis(count * each, self.size, 1, offsets, (), 1)

    def runs_stored(self, minimal: Minimal, apart: int) -> Axis:
        """Outputs, in the same positions."""
        return Axis(self.tiles(minimal, apart) * minimal.outputs, self.out, 1, (0,), (), 1)

    def gathered(self, minimal: Minimal) -> Axis:
        """Patches, with a position for each tile."""
        each, count = minimal.outputs, self.tiles(minimal, 1)
        offsets = tuple(k - self.low for k in range(minimal.samples))
        return Axis(count, self.size, each, offsets, (), 1)

    def stored(self, minimal: Minimal) -> Axis:
        """Outputs, in the same positions."""
        each, count = minimal.outputs, self.tiles(minimal, 1)
        return Axis(count, self.out, each, tuple(range(each)), (), 1)


@dataclass(frozen=True, slots=True)
class Shape:
    """What the kernels must know of a problem, whichever its role."""

    sides: tuple[Side, Side, Side]
    batch: int
    groups: int
    rows: int  #: result channels of a group
    channels: int  #: summed channels of a group
    row_step: int  #: in the weights, from a result channel of a group to the next
    channel_step: int
    group_step: int
    taps: int
    flipped: bool  #: taps run backwards

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

    With ``rows_first``, a task is a tile of rows, for all spans.
    """

    tile: Tile
    row_block: int
    row_parts: int
    rows_first: bool


def numbers_of(shape: Shape, form: Form, cut: Blocking, slack: int) -> dict[str, int]:
    """The values of ``NUMBERS``. Where a thread's parts start is in bytes, all other sizes are in elements."""
    tile, (x_size, y_size) = cut.tile, (prod(s.size for s in shape.sides), prod(s.out for s in shape.sides))
    tiles, blocks = shape.tiles(form), ceil(shape.rows / tile.rows)
    planes, taps = form.planes, shape.taps // form.planes.filter
    v_plane, filter_plane = shape.channels * tile.columns, shape.channels * tile.rows
    block = planes.filter * filter_plane + _APART
    part_rows = ceil(ceil(shape.rows / cut.row_parts) / tile.rows) * tile.rows
    row_block = tile.rows if cut.rows_first else min(cut.row_block, part_rows)
    v_step, m_step = planes.patch * v_plane + _APART, row_block * tile.columns + _APART
    numbers = {
        "tiles_count": tiles, "spans": ceil(tiles / tile.columns), "groups": shape.groups, "rows": shape.rows,
        "channels": shape.channels, "x_plane": x_size, "x_image": shape.groups * shape.channels * x_size,
        "y_plane": y_size, "y_image": shape.groups * shape.rows * y_size, "row_step": shape.row_step,
        "channel_step": shape.channel_step, "group_step": shape.group_step,
        "first_tap": taps - 1 if shape.flipped else 0, "tap_step": -1 if shape.flipped else 1,
        "first_plane": (planes.filter - 1) * taps if shape.flipped else 0,
        "blocks": blocks, "block": block,
        "filter_step": block if cut.rows_first else shape.groups * blocks * block + _APART,
        "row_block": row_block, "row_parts": ceil(shape.rows / part_rows), "part_rows": part_rows, "v_step": v_step,
        "v_size": form.points * v_step, "m_step": m_step, "v_plane": v_plane, "filter_plane": filter_plane,
        "depth": planes.filter * shape.channels, "filter_planes": planes.filter, "result_planes": planes.result,
    }  # fmt: skip
    own_operand = form.points * (block if cut.rows_first else v_step)
    (_, taps_y, taps_x), (_, y, x) = (axis.taps for axis in form.axes), (axis.samples for axis in form.axes)
    numbers |= {
        "taps": taps, "taps_x": taps_x, "taps_yx": taps_y * taps_x,
        "filter_y": numbers["filter_step"] * x, "filter_z": numbers["filter_step"] * x * y,
        "points": form.points, "across": form.x.outputs, "reads": form.reads,
        "stored_rows": form.z.outputs * form.y.outputs, "tile_rows": tile.rows, "columns": tile.columns,
    }  # fmt: skip
    numbers |= _scratch(shape, form, tile, own_operand, m_step, slack)
    assert tuple(sorted(numbers)) == tuple(sorted(NUMBERS)), "every number has its slot"
    return numbers


def _scratch(shape: Shape, form: Form, tile: Tile, own_operand: int, m_step: int, slack: int) -> dict[str, int]:
    """Where the parts of a thread's workspace start, in bytes, and how many bytes there are.

    ``own_operand`` elements at ``v_at`` are the patches of a span, or the filters of a tile of rows.
    """
    patches, results = shape.phases(form)
    vectors = tile.vectors * form.x.outputs
    run = vectors * tile.lanes
    panel = max(GATHERED * form.reads * run, PACKED * shape.taps * tile.rows + slack)
    stores = form.z.outputs * form.y.outputs
    most = max(most_places(form.matrices(name)) for name in ("patch", "filter", "inverse"))
    passes = pixel_panels.most_passes(patches, tile.lanes)
    sizes = {
        "v_at": panel * _ITEM_BYTES,
        "m_at": own_operand * _ITEM_BYTES,
        "line_at": form.points * form.planes.result * m_step * _ITEM_BYTES,
        "spare_at": stores * run * _ITEM_BYTES,
        "fills_at": 2 * most * tile.lanes * _ITEM_BYTES,
        "merges_at": vectors * form.reads * ENTRY_BYTES,
        "stores_at": vectors * form.reads * (passes - 1) * ENTRY_BYTES,
        "more_stores_at": vectors * stores * ENTRY_BYTES,
        "own": vectors * stores * (pixel_panels.most_passes(results, tile.lanes) - 1) * ENTRY_BYTES,
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
    patches, filters = numbers["spans"] * numbers["groups"] * numbers["v_size"], form.points * numbers["filter_step"]
    lines = ceil((patches if cut.rows_first else filters) * _ITEM_BYTES / memory.ALIGN_BYTES)
    return lines * memory.ALIGN_BYTES


POINTERS = ("x", "w", "bias", "y", "shared", "scratch", "scale", "shift", "residual")
TABLES = ("none", "patches", "results", "tiles", "starts")
CODE = ("table", "pack", "pack_weights", "filter", "deal", "collect", "spread")
STEPS = ("filters", "span_patches", "multiply", "span_results")
NUMBERS = (
    "tiles_count", "spans", "groups", "rows", "channels", "x_plane", "x_image", "y_plane", "y_image", "row_step",
    "channel_step", "group_step", "first_tap", "tap_step", "first_plane", "taps", "taps_x", "taps_yx", "blocks",
    "block", "filter_step", "filter_y", "filter_z", "filter_plane", "filter_planes", "row_block", "row_parts",
    "part_rows", "points", "depth", "result_planes", "across", "reads", "stored_rows", "tile_rows", "columns", "v_step",
    "v_plane", "v_size", "m_step", "own", "v_at", "m_at", "line_at", "spare_at", "fills_at", "merges_at", "stores_at",
    "more_stores_at",
)  # fmt: skip


class Record:
    """A phase as the table's writer reads it, and the arrays that it points to."""

    def __init__(self, phase: Phase) -> None:
        self._tables = [np.array(rows, np.int64) for rows in pixel_panels.tap_tables(phase)]
        self._numbers = np.array(pixel_panels.gather_numbers(phase, [address(t) for t in self._tables]), np.int64)
        self.address = address(self._numbers)
