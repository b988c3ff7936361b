"""How an input gradient by overlap-add is cut up: axes, residues, spans, and the numbers that its kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import ceil, gcd, prod
from typing import Any

import numpy as np

from lucid.kernels.algorithms import pixel_panels
from lucid.kernels.algorithms.pixel_gather import ENTRY_BYTES
from lucid.kernels.algorithms.pixel_panels import GATHER, Axis, Layout, joined
from lucid.kernels.algorithms.tile import Tile, table_of
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.plan import Problem

Array = np.ndarray[Any, Any]

#: Numbers of a problem. Sizes are in elements but where they say bytes.
NUMBERS = (
    *GATHER,
    "image", "groups", "channels", "plane", "group_input", "group_weights", "channel_step", "row_step", "row_run",
    "out_channels",
    "out_plane", "out_image", "size_z", "size_y", "size_x", "stride_z", "stride_y", "stride_x", "fold_z", "fold_y",
    "kernel_x", "low_x", "stack", "samples", "lines_image", "lines_y", "lines_unit", "u_first", "u_end", "residues",
    "tap_step", "shift_step", "segmented", "back", "units", "unit", "gathered_unit", "halo", "span", "advance",
    "unit_spans", "spans", "gathered_taps", "vectors_tap", "slot", "channel_stride", "pitch", "members",
    "chunk", "chunks", "chunks_part", "parts", "chunk_weights", "pieces", "piece_channels",
    "tile_rows", "tile_columns", "widths", "lazy",
    "scratch_bytes", "entries_at", "merges_at", "weights_at", "sums_at", "lines_at", "spare_at",
    "table", "pack", "spread", "tile_1", "tile_2", "tile_3", "tile_4", "tile_5", "tile_6",
)  # fmt: skip
ARRAYS = {"z_table", "y_table", "x_table", "residues"}

#: Numbers of a member: the results of one residue of the outer axes. ``from`` and ``to`` are columns of a unit.
MEMBER = ("taps", "weight_offsets", "places", "steps", "packed", "z_start", "y_start", "from", "to")
MEMBER_ARRAYS = {"weight_offsets", "places"}

#: Summed channels whose weights are packed for all tiles of a chunk before the next, so that cache lines are read once.
PACKED_TOGETHER = 32
#: Tasks wanted of the packing of weights.
_PIECES = 16
#: Vectors of results that are summed at once.
SUMMED = 4


@dataclass(frozen=True, slots=True)
class Residue:
    """The results of an outer axis that meet the same taps: from ``start`` on, where position 0 is, a stride apart."""

    start: int
    taps: tuple[tuple[int, int], ...]  #: (tap, samples back that it is met)
    first: int  #: positions [first, end) are results
    end: int


@dataclass(frozen=True, slots=True)
class Outer:
    """An axis around the lines: position p meets samples ``first + p - shift`` of g.

    Where windows lie side by side (the kernel is the stride), all taps are ``fold`` rows of one product instead.
    """

    positions: int
    first: int
    samples: int
    fold: int
    residues: tuple[Residue, ...]

    @classmethod
    def of(cls, size: int, out: int, kernel: int, stride: int, dilation: int, low: int, may_fold: bool) -> Outer:
        if may_fold and kernel == stride > 1 and dilation == 1 and out * stride - low >= size:
            return cls(out, 0, out, kernel, (Residue(-low, ((0, 0),), 0, out),))
        first, last = low // stride, (low + size - 1) // stride
        residues = []
        for r in range(stride):
            taps = tuple((t, (t * dilation - r) // stride) for t in range(kernel) if t * dilation % stride == r)
            start = first * stride + r - low
            lowest, end = max(0, ceil(-start / stride)), ceil((size - start) / stride)
            if lowest < end:
                residues.append(Residue(start, taps, lowest, end))
        return cls(last - first + 1, first, out, 1, tuple(residues))

    @property
    def shifts(self) -> list[int]:
        """How far back samples are met, furthest first."""
        return sorted({shift for residue in self.residues for _, shift in residue.taps} or {0}, reverse=True)

    def axis(self) -> Axis:
        """The gather's view."""
        offsets = tuple(self.first - shift for shift in self.shifts)
        return Axis(self.positions, self.samples, 1, offsets, (), self.positions)


@dataclass(frozen=True, slots=True)
class Member:
    """One residue of each outer axis: its taps' places in the kernel and in the union of all taps' reads."""

    z: Residue
    y: Residue
    weights: tuple[int, ...]
    reads: tuple[int, ...]


class Geometry:
    """The axes of a problem, and how its samples are gathered.

    Spans are whole lines of samples, or with ``segmented`` parts of one that overlap by what a result looks back.
    """

    def __init__(self, problem: Problem, segmented: bool) -> None:
        spec = problem.spec
        axes = list(zip(problem.size, problem.out, spec.kernel, spec.stride, spec.dilation, spec.padding, strict=True))
        size, out, kernel, stride, dilation, (low, _) = axes[1]
        self.problem, self.segmented = problem, segmented
        self.y = Outer.of(size, out, kernel, stride, dilation, low, True)
        rows_lie_side_by_side = self.y.fold == kernel
        size, out, kernel, stride, dilation, (low, _) = axes[0]
        self.z = Outer.of(size, out, kernel, stride, dilation, low, rows_lie_side_by_side)
        self.size, self.samples, self.kernel, self.stride, self.dilation, (self.low, _) = axes[2]
        self.back = (self.kernel - 1) * self.dilation // self.stride if segmented else 0
        self.stack = self.z.fold * self.y.fold * self.kernel

    @property
    def u_range(self) -> tuple[int, int]:
        """Steps of the last axis that have results; step u is the results i with ``(i + low) // stride == u``."""
        return self.low // self.stride, (self.low + self.size - 1) // self.stride + 1

    @cached_property
    def layout(self) -> Layout:
        """Where gathered samples lie."""
        line = self.samples + self.back
        x = Axis(line, self.samples, 1, (-self.back,), (0,), line)
        axes = (self.z.axis(), self.y.axis(), x)
        if self.segmented:
            return Layout.of(axes, (2,), self.problem.batch)
        taps = prod(len(axis.offsets) for axis in axes)
        return Layout.of(joined(axes), (2,) if taps > 1 else (), self.problem.batch)

    @cached_property
    def members(self) -> list[Member]:
        """Residues of both outer axes."""
        _, y, x = self.problem.spec.kernel
        shifts_z, shifts_y = self.z.shifts, self.y.shifts
        return [
            Member(
                a,
                b,
                tuple(s * y * x + t * x for s, _ in a.taps for t, _ in b.taps),
                tuple(shifts_z.index(i) * len(shifts_y) + shifts_y.index(j) for _, i in a.taps for _, j in b.taps),
            )
            for a, b in product(self.z.residues, self.y.residues)
        ]

    def residue_table(self) -> Array:
        """For each residue of the last axis its first tap, how many there are, and how far back the first is met."""
        rows = []
        for r in range(self.stride):
            taps = [t for t in range(self.kernel) if t * self.dilation % self.stride == r]
            rows.append((taps[0], len(taps), (taps[0] * self.dilation - r) // self.stride) if taps else (0, 0, 0))
        return np.array(rows, np.int64)


@dataclass(frozen=True, slots=True)
class Cut:
    """The loops: ``span`` columns, in ``parts`` tasks, ``chunk`` result channels whose sums are held at a time.

    With ``lazy`` a task packs the weights of a chunk when it comes to them.
    """

    tile: Tile
    span: int
    chunk: int
    parts: int
    lazy: bool


def _multiple(count: int, unit: int) -> int:
    return ceil(count / unit) * unit


class Bound:
    """A geometry under a cut: sizes of all buffers, and the numbers."""

    def __init__(self, geometry: Geometry, cut: Cut, itemsize: int) -> None:
        problem, layout, tile = geometry.problem, geometry.layout, cut.tile
        self.geometry, self.cut, self.itemsize = geometry, cut, itemsize
        self.advance = cut.span - geometry.back
        self.unit_spans = ceil((layout.unit - geometry.back) / self.advance)
        self.spans = layout.units * self.unit_spans
        self.width = _multiple(_multiple(cut.span, tile.lanes) + layout.halo, tile.lanes) + tile.lanes
        self.pitch = _multiple(cut.span, tile.lanes) + tile.lanes
        self.chunks = ceil(problem.group_in / cut.chunk)
        self.tiles = ceil(cut.chunk * geometry.stack / tile.rows)
        self.channels = problem.group_out
        self.steps = [self.channels * len(member.weights) for member in geometry.members]
        self.chunk_weights = self.tiles * tile.rows * sum(self.steps)
        self.chunks_part = ceil(self.chunks / cut.parts)
        self.parts = ceil(self.chunks / self.chunks_part)
        pieces = min(ceil(self.channels / PACKED_TOGETHER), ceil(_PIECES / (problem.groups * self.chunks)))
        self.piece_channels = _multiple(ceil(self.channels / pieces), PACKED_TOGETHER)
        self.pieces = ceil(self.channels / self.piece_channels)
        self.tasks = self.spans * problem.groups * self.parts
        #: Rows whose weights lie side by side: those of a channel, or all of them.
        self.row_run = geometry.stack * (problem.group_in if geometry.stack == problem.spec.taps else 1)
        self.packed = 0 if cut.lazy else problem.groups * self.chunks * self.chunk_weights

    def in_advance(self) -> Bound:
        """The same with weights that are packed beforehand."""
        return Bound(self.geometry, replace(self.cut, lazy=False), self.itemsize)

    def scratch(self) -> dict[str, int]:
        """Where the parts of a thread's workspace start, in bytes."""
        layout, tile, geometry = self.geometry.layout, self.cut.tile, self.geometry
        gathered = ceil((self.cut.span + layout.halo) / tile.lanes) * layout.gathered_taps
        passes = pixel_panels.most_passes(layout.gathered, tile.lanes)
        summed = SUMMED * tile.lanes
        parts = {
            "entries_at": (self.channels * layout.gathered_taps * self.width + tile.lanes) * self.itemsize,
            "merges_at": gathered * ENTRY_BYTES,
            "weights_at": gathered * (passes - 1) * ENTRY_BYTES,
            "sums_at": self.chunk_weights * self.itemsize if self.cut.lazy else 0,
            "lines_at": (self.cut.chunk * geometry.stack * self.pitch + summed) * self.itemsize,
            "spare_at": summed * self.itemsize,
            "scratch_bytes": (tile.columns + tile.rows) * self.itemsize,
        }
        at, places = 0, {}
        for name, size in parts.items():
            at = ceil((at + size) / 64) * 64
            places[name] = at
        return places

    def numbers(self) -> tuple[dict[str, int], Sequence[Array]]:
        """``NUMBERS`` by name but for what is gathered from where, and the arrays that they point to."""
        geometry, cut, layout = self.geometry, self.cut, self.geometry.layout
        problem, tile = geometry.problem, cut.tile
        taps, (first, end) = problem.spec.taps, geometry.u_range
        plane, out_plane = problem.pixels, prod(problem.size)
        residues = geometry.residue_table()
        common = gcd(geometry.dilation, geometry.stride)
        tables = [np.array(rows, np.int64) for rows in pixel_panels.tap_tables(layout.gathered)]
        gather = pixel_panels.gather_numbers(layout.gathered, [table.ctypes.data for table in tables])
        channel_stride = layout.gathered_taps * self.width
        lines = geometry.y.positions
        numbers = dict(zip(GATHER, gather, strict=True)) | {
            "image": problem.c_out * plane, "groups": problem.groups, "channels": self.channels, "plane": plane,
            "group_input": self.channels * plane, "group_weights": self.channels * problem.group_in * taps,
            "channel_step": problem.group_in * taps, "row_step": taps,
            "row_run": self.row_run, "out_channels": problem.group_in,
            "out_plane": out_plane, "out_image": problem.c_in * out_plane,
            "size_z": problem.size[0], "size_y": problem.size[1], "size_x": problem.size[2],
            "stride_z": problem.spec.stride[0], "stride_y": problem.spec.stride[1], "stride_x": geometry.stride,
            "fold_z": geometry.z.fold, "fold_y": geometry.y.fold, "kernel_x": geometry.kernel, "low_x": geometry.low,
            "stack": geometry.stack, "samples": geometry.samples, "lines_image": geometry.z.positions * lines,
            "lines_y": lines, "lines_unit": 1 if geometry.segmented else layout.unit // geometry.samples,
            "u_first": first, "u_end": end, "residues": residues.ctypes.data,
            "tap_step": geometry.stride // common, "shift_step": geometry.dilation // common,
            "segmented": int(geometry.segmented), "back": geometry.back, "units": layout.units, "unit": layout.unit,
            "gathered_unit": layout.unit + layout.halo, "halo": layout.halo, "span": cut.span,
            "advance": self.advance, "unit_spans": self.unit_spans, "spans": self.spans,
            "gathered_taps": layout.gathered_taps, "vectors_tap": self.width // tile.lanes,
            "slot": self.channels * channel_stride, "channel_stride": channel_stride, "pitch": self.pitch,
            "members": len(geometry.members), "chunk": cut.chunk, "chunks": self.chunks,
            "chunks_part": self.chunks_part, "parts": self.parts, "chunk_weights": self.chunk_weights,
            "pieces": self.pieces, "piece_channels": self.piece_channels,
            "tile_rows": tile.rows, "tile_columns": tile.columns, "widths": tile.widths, "lazy": int(cut.lazy),
            **self.scratch(),
        }  # fmt: skip
        return numbers, [*tables, residues]

    def member_numbers(self) -> tuple[list[tuple[int, ...]], Sequence[Array]]:
        """``MEMBER`` for every member, and the arrays that they point to."""
        geometry, layout = self.geometry, self.geometry.layout
        reads = layout.reads()
        clipped = bool(layout.shared) and not geometry.segmented
        clipped &= layout.unit == geometry.y.positions * geometry.samples
        stride, packed = layout.gathered_taps * self.width, 0
        rows: list[tuple[int, ...]] = []
        arrays: list[Array] = []
        for member, steps in zip(geometry.members, self.steps, strict=True):
            taps = [tap * self.width + shift for tap, shift in (reads[k] for k in member.reads)]
            weights = np.array(member.weights, np.int64)
            panel = np.add.outer(np.arange(self.channels) * stride, np.array(taps, np.int64))
            places = table_of(panel, np.arange(panel.size) * self.cut.tile.rows)
            columns = (member.y.first, member.y.end) if clipped else (0, layout.unit)
            scale = geometry.samples if clipped else 1
            rows.append(
                (len(member.weights), weights.ctypes.data, places.ctypes.data, steps, packed, member.z.start,
                 member.y.start, columns[0] * scale, columns[1] * scale)
            )  # fmt: skip
            arrays += [weights, places]
            packed += self.tiles * self.cut.tile.rows * steps
        return rows, arrays


def itemsize(dtype: str) -> int:
    """Bytes of a sum."""
    return max(4, BY_DTYPE[dtype].bytes)
