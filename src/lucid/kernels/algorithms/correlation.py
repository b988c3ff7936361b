"""Correlation with pixels in lanes: the forward role and the input gradient of depthwise and small-group convolutions.

Both are sums over taps that lie at fixed offsets in a zero frame of the source::

    y[result][q stride_out + phase] = bias + sum over j of w[place[j]] * frame[start(q) + offset[j]]

The forward role has one phase, and its stride is the step of ``start``; a frame row is split by (position mod stride),
so that neighbours are one load. The input gradient steps by one, and its stride makes phases: position i takes the taps
t with (i + low - t d) divisible by s. Every phase has its own list of taps, and phases side by side are interleaved in
registers on the way out.

The tile is in ``correlation_tile``, the loops around it in ``correlation_kernel``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np

from lucid.core.geometry import Sizes
from lucid.kernels import jit, target
from lucid.kernels.algorithms import toeplitz
from lucid.kernels.algorithms.base import (
    Executable,
    address,
    far_bytes,
    memory_cycles,
    priced,
    sum_type,
    turns_of,
    useful_threads,
)
from lucid.kernels.algorithms.correlation_kernel import NUMBERS, write
from lucid.kernels.algorithms.correlation_tile import Tile
from lucid.kernels.algorithms.frames import Cut, fill_frame_address, plain_window, unit_of_fill
from lucid.kernels.epilogue import sources
from lucid.kernels.ir import BY_DTYPE, Type
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, ByAlignment, Launch, in_order
from lucid.kernels.plan import RANK, Problem

Array = np.ndarray[Any, Any]

_POINTER_BYTES = 8
_MOST_SPAN = 7
_PART_SPANS = (4, 5)  # of more taps down than that
_LINE_BYTES = 64
_MOST_CHANNELS = 64  # of a group's c_in x c_out
_MOST_PHASES = 1 << 14  # to plan one takes some 0.3 ms
_LOAD_PRODUCTS, _STORE_PRODUCTS = 1.9, 1.6  # of a vector, where a product takes two turns
_MOST_LINES = 160  # of LLVM text, which taps that are written out may take: about 8 ms to compile

#: Cycles of one thread. Least squares over 254 random layers on a Zen 5 with AVX-512 at 4 GHz, rounded: half of them
#: are within 8 %, four fifths within 20 %.
_COST = {
    "tile": 0.92,  # what it takes in its loop
    "product": 0.0,  # of a tile whose loads are weighed against its products
    "line": 12.0,  # of tiles
    "fill": 1.9,  # a vector of a frame
    "fill split": 20.0,  # where single elements are dealt out by phase
    "fill dealt": 20.0,  # where vectors of each phase are
    "fill beyond first cache": 1.5,  # in addition
    "line from second cache": 1.0,  # of a tile's samples, where they are more than the first one holds
    "plane": 12.0,  # of a frame
    "merged": 20.0,  # a vector of results whose phases are stored one after the other
    "task": 75.0,
    "byte": 0.0156,  # of x, w and y, in the last cache
    "waiting": 0.57,  # for memory
    "fetched": 0.0,  # in addition, where results do not go past the caches
    "past": 0.0,  # where they do, as much of it as is read: of as much as is written all
    "call": 4800.0,
}
#: The same where they are others, on a Zen 4: vectors of 64 bytes are computed in halves.
#: 297 plans of random layers, half of them within 7 %, four fifths within 20 %. Loads straddle two lines of the cache
#: and take nearly two products' time, so a tile's have a price of their own.
_HALVED = {
    "tile": 1.76,
    "product": 1.09,
    "line": 32.0,
    "fill": 1.9,
    "fill dealt": 5.0,
    "plane": 32.0,
    "merged": 36.0,
    "fetched": 0.65,
    "past": 0.4,
    "call": 6500.0,
}


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis: for every phase of the result, its (tap, offset in the source) pairs; offsets from 0."""

    phases: tuple[tuple[tuple[int, int], ...], ...]
    low: int

    @property
    def extent(self) -> int:
        """Source positions from the first offset to the last."""
        return 1 + max((offset for phase in self.phases for _, offset in phase), default=0)


def _axis(role: str, size: int, kernel: int, stride: int, dilation: int, low: int) -> Axis:
    """``size`` is the result's."""
    if role == "forward":
        return Axis((tuple((t, t * dilation) for t in range(kernel)),), low)
    found = [
        [
            (t, (phase + low - t * dilation) // stride)
            for t in range(kernel)
            if phase < size and (phase + low - t * dilation) % stride == 0
        ]
        for phase in range(stride)
    ]
    first = min((offset for phase in found for _, offset in phase), default=0)
    phases = [[(t, offset - first) for t, offset in reversed(phase)] for phase in found]
    return Axis(tuple(map(tuple, phases)), -first)


def axes_of(problem: Problem) -> tuple[Axis, ...]:
    """The three axes of a forward role or an input gradient."""
    spec, size = problem.spec, problem.out if problem.role == "forward" else problem.size
    return tuple(
        _axis(problem.role, n, k, s, d, low)
        for n, k, s, d, (low, _) in zip(size, spec.kernel, spec.stride, spec.dilation, spec.padding, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Correlation:
    """A problem as a correlation on a cut of positions q; ``results`` and ``sources`` are channels of one group."""

    problem: Problem
    axes: tuple[Axis, ...]
    cut: Cut
    tile: Tile
    lanes: int

    @property
    def element(self) -> Type:
        """What is computed in."""
        return sum_type(self.problem)

    @property
    def forward(self) -> bool:
        """Whether it is the forward role."""
        return self.problem.role == "forward"

    @property
    def sources(self) -> int:
        """Source channels of a group."""
        return self.problem.group_in if self.forward else self.problem.group_out

    @property
    def results(self) -> int:
        """Result channels of a group."""
        return self.problem.group_out if self.forward else self.problem.group_in

    @property
    def size(self) -> Sizes:
        """Sizes of the result."""
        return self.problem.out if self.forward else self.problem.size

    @property
    def stride_in(self) -> Sizes:
        """Steps in the source."""
        return self.problem.spec.stride if self.forward else (1,) * RANK

    @property
    def stride_out(self) -> Sizes:
        """Steps in the result, which are its phases."""
        return (1,) * RANK if self.forward else self.problem.spec.stride

    @property
    def tasks(self) -> int:
        """Boxes of all images and groups."""
        return self.problem.batch * self.problem.groups * self.cut.boxes

    @property
    def ahead(self) -> int:
        """How far on the next task's results lie, which are asked for; 0 where they stay in the caches.

        There another thread may be writing them, and would have to hand over every line twice.
        """
        following = self.cut.ahead(self.size, self.stride_out) or self.results * prod(self.size)
        return following if far_bytes(self.problem.traffic_bytes) else 0

    @property
    def spare_rows(self) -> int:
        """Rows that a tile reads beyond the frames, or a scratch row."""
        return self.tile.rows * self.stride_in[1] + 1

    @property
    def frame_elements(self) -> int:
        """A thread's frames, or in their place tables of their rows."""
        depth, rows, columns = self.cut.frame
        if self.tile.in_place:
            pointers = self.sources * depth * rows + self.spare_rows
            return ceil(pointers * _POINTER_BYTES / self.element.bytes / 16) * 16
        return ceil((self.sources * self.cut.plane + self.spare_rows * columns + self.lanes) / 16) * 16

    @property
    def private_elements(self) -> int:
        """A thread's workspace: frames, a tile's phases, a spare row of results, widened weights."""
        row = self.tile.vectors * self.lanes
        phases = self.stride_out[2] * self.tile.rows * row
        spare = ceil(self.cut.box[3] / row) * row * self.tile.phases
        return self.frame_elements + ceil((phases + spare) / 16) * 16 + self.weight_elements

    @property
    def weight_elements(self) -> int:
        """Weights of a group, where they are widened."""
        narrow = self.element.bytes > self.problem.itemsize
        return ceil(self.sources * self.results * self.problem.spec.taps / 16) * 16 if narrow else 0

    def taps(self) -> tuple[Array, Array, Array, Array]:
        """Offsets in the frame, or in the table of rows, and columns there; places in w; where each phase begins."""
        spec, (frame_depth, frame_rows, frame_columns) = self.problem.spec, self.cut.frame
        step, pitch = self.stride_in[2], frame_columns // self.stride_in[2]
        channel = spec.taps * (1 if self.forward else self.results)
        width = 1 if self.tile.in_place else frame_columns
        heads, places, begins = [], [], [0]
        for depth, row, column in product(*(axis.phases for axis in self.axes)):
            whole = len(row) - self.tile.rest
            firsts = column[:1] if self.tile.group else column
            for downs in (row[: whole : self.tile.span], row[whole : whole + 1])[: 1 + (self.tile.rest > 0)]:
                for s, (td, d), (th, h), (tw, w) in product(range(self.sources), depth, downs, firsts):
                    place = ((s * frame_depth + d) * frame_rows + h) * width
                    heads.append((place, w) if self.tile.in_place else (place + w % step * pitch + w // step, 0))
                    places.append(s * channel + (td * spec.kernel[1] + th) * spec.kernel[2] + tw)
                begins.append(len(heads))
        offsets, columns = np.array(heads or [(0, 0)], np.int64).T.copy()
        return offsets, columns, np.array(places or [0], np.int64), np.array(begins, np.int64)

    @property
    def cycles(self) -> float:
        """Expected, of one thread."""
        return priced(self._work(), _COST, _HALVED, turns_of(self.lanes, self.element))

    def _work(self) -> dict[str, float]:
        """What one thread does, counted in the units of ``_COST``."""
        p, tile, (_, deep, high, wide) = self.problem, self.tile, self.cut.box
        heads = sum(
            len(column) * len(row) * len(depth) for depth, row, column in product(*(a.phases for a in self.axes))
        )
        phases, results = prod(self.stride_out) // tile.phases, self.results // tile.results
        lines = ceil(high / tile.rows) * deep * results * phases
        tiles = self.tasks * lines * ceil(wide / (tile.vectors * self.lanes))
        each = self._tile_work(heads * self.sources / phases)
        filled = 0 if tile.in_place else self.tasks * self.sources * self.cut.plane / self.lanes
        beyond = self.frame_elements * self.element.bytes > target.cpu().l1_bytes
        merged = prod(self.cut.box) * prod(self.stride_out) * self.results if self.stride_out[2] > 2 else 0
        return {
            **{unit: tiles * count for unit, count in each.items()},
            "line": self.tasks * lines,
            unit_of_fill(self.stride_in[2]): filled,
            "fill beyond first cache": filled if beyond else 0,
            "line from second cache": tiles * self._far_lines,
            "plane": 0 if tile.in_place else self.tasks * self.sources * self.cut.frame[0],
            "merged": self.tasks * merged / self.lanes,
            "task": self.tasks,
            "byte": min(p.traffic_bytes, target.cpu().l3_bytes / 4),
            "waiting": memory_cycles(p.traffic_bytes),
            "fetched": 0 if self.streams else memory_cycles(p.traffic_bytes),
            "past": memory_cycles(p.traffic_bytes) * self.streams * min(1, 2 - 2 * p.written_bytes / p.traffic_bytes),
            "call": 1,
        }

    @property
    def streams(self) -> bool:
        """Whether results may go past the caches: rows of whole lines, written once, more than the last one holds.

        Otherwise a line that is written is first read, which is half as much traffic again.
        """
        row_bytes, itemsize = self.size[2] * self.problem.itemsize, self.problem.itemsize
        large = self.tasks * self.results * prod(self.size) // self.cut.boxes * itemsize > target.cpu().l3_bytes // 2
        box_bytes = self.cut.box[3] * self.tile.phases * itemsize
        whole = row_bytes % _LINE_BYTES == 0 and (box_bytes >= row_bytes or box_bytes % _LINE_BYTES == 0)
        return large and whole and self.lanes > 1 and self.stride_out[2] == self.tile.phases

    def _tile_work(self, heads: float) -> dict[str, float]:
        """The same of one tile, with so many taps of all phases."""
        tile = self.tile
        if tile.group or turns_of(self.lanes, self.element) == 1:
            return {"tile": tile.cycles(heads, self.problem.spec.kernel[2], self.lanes, self.element)}

        def products(span: int) -> float:
            loaded = ((tile.rows - 1) * tile.step + span) * tile.vectors
            return max(tile.sums * span, _LOAD_PRODUCTS * loaded)

        count = len(self.axes[1].phases[0]) if tile.rest else tile.span
        each = count // tile.span * products(tile.span) + (products(tile.rest) if tile.rest else 0)
        return {"product": heads / count * each + _STORE_PRODUCTS * tile.phases * tile.sums}

    @property
    def _far_lines(self) -> float:
        """Lines of a frame that a tile reads, unless the first level cache still has them for the next tile."""
        deep, down, along = (axis.extent for axis in self.axes)
        rows = (self.tile.rows - 1) * self.stride_in[1] + down
        row_bytes = (self.tile.vectors * self.lanes * self.stride_in[2] + along) * self.element.bytes
        read_bytes = self.sources * deep * rows * row_bytes
        return read_bytes / _LINE_BYTES if read_bytes > target.cpu().l1_bytes else 0


def many_channels(problem: Problem, most: int = _MOST_CHANNELS) -> str | None:
    """Why not, where a load should serve more results than one: more than so many pairs in a group."""
    if problem.group_in * problem.group_out > most:
        return f"groups of {problem.group_in} x {problem.group_out} channels have more than {most} pairs"
    return None


def many_phases(problem: Problem) -> str | None:
    """Why not, where each phase of the result would be looked at by itself, and a stride makes more than so many."""
    count = prod(problem.spec.stride) if problem.role == "grad_input" else 1
    return f"a stride of {problem.spec.stride} makes {count} phases" if count > _MOST_PHASES else None


def correlation(problem: Problem, isa: ISA, chosen: Tile | None = None) -> Correlation:
    """The cut and the tile: a frame that fits the first cache, rows of as many vectors as they need.

    The tile that takes least, unless one has been ``chosen``.
    """
    element, spec, forward = sum_type(problem), problem.spec, problem.role == "forward"
    lanes = isa.lanes(element)
    size, source = (problem.out, problem.size) if forward else (problem.size, problem.out)
    axes = axes_of(problem)
    one = (1,) * RANK
    stride_in, stride_out = (spec.stride, one) if forward else (one, spec.stride)
    positions = tuple(ceil(n / s) for n, s in zip(size, stride_out, strict=True))
    extents = tuple(axis.extent for axis in axes)
    sources = problem.group_in if forward else problem.group_out
    room = (target.cpu().l1_bytes // 2 if sources == 1 else target.cpu().l2_bytes // 4) // element.bytes
    window = plain_window(source, positions, extents, stride_in, tuple(axis.low for axis in axes))
    cut = window.cut(max(64, room // (sources * prod(stride_in))))
    step = stride_in[2]

    def framed(tile: Tile) -> Correlation:
        columns = ceil(cut.box[3] / (tile.vectors * lanes)) * tile.vectors * lanes + (extents[2] - 1) // step + 1
        columns = ceil(columns / lanes) * lanes  # so that vectors of a phase begin alike in every row
        rest = len(axes[1].phases[0]) % tile.span if tile.span > 1 else 0
        made = Correlation(problem, axes, cut.widened(columns * step), replace(tile, rest=rest), lanes)
        return replace(made, tile=replace(made.tile, in_place=_reads_in_place(made, isa)))

    if chosen:
        return framed(chosen)
    parted = _parts(axes, turns_of(lanes, element))
    tiles = [_tile(problem, isa, axes, cut, lanes, spans) for spans in ((_span(axes[1]),), parted) if spans]
    return min(map(framed, tiles), key=lambda option: option.cycles)


def _span(axis: Axis) -> int:
    """Taps of every phase, where they are equally many, few, and neighbours in the source; else 1."""
    count = len(axis.phases[0])
    if not 1 < count <= _MOST_SPAN or any(len(phase) != count for phase in axis.phases):
        return 1
    return count if all(at == k for phase in axis.phases for k, (_, at) in enumerate(phase, phase[0][1])) else 1


def _parts(axes: tuple[Axis, ...], turns: int) -> tuple[int, ...]:
    """Of so many taps down that a load cannot serve all, how many it may, if they are neighbours and of one phase.

    Where a vector takes two turns: what such kernels wait for there are loads that straddle two lines of the cache.
    """
    rows = axes[1].phases[0]
    one = all(len(axis.phases) == 1 for axis in axes) and len(rows) > _MOST_SPAN and turns > 1
    return _PART_SPANS if one and all(at == k for k, (_, at) in enumerate(rows, rows[0][1])) else ()


def _tile(problem: Problem, isa: ISA, axes: tuple[Axis, ...], cut: Cut, lanes: int, spans: tuple[int, ...]) -> Tile:
    _, _, height, width = cut.box
    element = sum_type(problem)
    spec, forward = problem.spec, problem.role == "forward"
    sources, results = problem.group_in, problem.group_out
    if not forward:
        sources, results = results, sources
    step = spec.stride[1] if forward else 1
    spans = tuple({1, *spans}) if height > 1 and step <= 2 else (1,)
    phases = 2 if not forward and spec.stride[2] == 2 else 1
    counts = {sources * len(d) * len(h) * len(w) for d, h, w in product(*(axis.phases for axis in axes))}
    heads = sum(counts) / len(counts)

    def cost(tile: Tile) -> tuple[float, int]:
        tiles = ceil(width / (tile.vectors * lanes)) * ceil(height / tile.rows) * results / tile.results
        return tiles * tile.cycles(phases * heads, spec.kernel[2], lanes, element), -tile.vectors

    def unrolled(tile: Tile) -> Tile:
        whole = len(counts) == 1 and (tile.span == 1 or len(axes[1].phases[0]) % tile.span == 0)
        every = replace(tile, taps=counts.copy().pop() // tile.span) if whole else tile
        return every if every.lines <= _MOST_LINES else tile

    options = [
        unrolled(Tile(rows, vectors, down, step if down > 1 else 1, k, phases))
        for k, rows, vectors, down in product((1, 2, 3, 4), (1, 2, 4), (1, 2, 3, 4, 8), spans)
        if results % k == 0 and (k == 1 or problem.role == "forward" or spec.stride[2] == 1)
    ]
    if spec.stride[2] == spec.dilation[2] == 1:
        shapes = toeplitz.shapes(spec.kernel[2], lanes, isa)
        options += [Tile(1, vectors, group=group) for vectors, group in shapes]
    return min((tile for tile in options if tile.registers <= isa.registers or tile.sums == 1), key=cost)


def _stride_class(stride: int) -> int:
    """1 and 2 have code of their own; 0 is any other."""
    return stride if stride <= 2 else 0


def _streams(asked: Correlation, isa: ISA) -> bool:
    return asked.streams and isa.arch == "x86_64"


def _reads_in_place(asked: Correlation, isa: ISA) -> bool:
    """Whether the source is read where it lies: long rows, bound by memory, which frames would read in bursts.

    Tiles of several rows are bound by products, for which LLVM holds fewer masked vectors in registers than it should.
    """
    neighbours = asked.stride_in[2] == 1 and asked.tile.rows == 1 and not asked.tile.group
    return neighbours and asked.problem.itemsize >= 4 and "avx512f" in isa.requires and _streams(asked, isa)


def bind(asked: Correlation, isa: ISA) -> Executable:
    """Tables of taps, and every number of the cut, fixed for the shape."""
    problem, spec = asked.problem, asked.problem.spec
    element = BY_DTYPE[problem.dtype]
    merge = _stride_class(asked.stride_out[2])
    tables = asked.taps()
    rows = asked.axes[1].phases[0]
    step = (rows[1][0] - rows[0][0]) * spec.kernel[2] if asked.tile.span > 1 else 1 if asked.forward else -1
    (size_d, size_h, size_w), (out_d, out_h, out_w) = asked.size, asked.stride_out
    numbers = in_order(NUMBERS, {
        "groups": problem.groups, "sources": asked.sources, "results": asked.results, "boxes": asked.cut.boxes,
        "size_d": size_d, "size_h": size_h, "size_w": size_w, "out_d": out_d, "out_h": out_h, "out_w": out_w,
        "w_group": asked.sources * asked.results * spec.taps,
        "w_result": spec.taps * (asked.sources if asked.forward else 1), "w_step": step,
        "bias_step": int(problem.bias), "frame": asked.frame_elements, "private": asked.private_elements,
        "own_weights": asked.private_elements - asked.weight_elements, "ahead_y": asked.ahead,
        "row_taps": spec.kernel[2], "spare_rows": asked.spare_rows,
    })  # fmt: skip
    geometry = asked.cut.fields(asked.sources * prod(asked.cut.window.size))
    outside_bytes = asked.cut.window.size[2] * asked.tile.in_place * problem.itemsize
    no_bias, zeros = np.zeros(1), np.zeros(outside_bytes, np.uint8)
    fields = (
        0, 0, 0 if problem.bias else address(no_bias), *[0] * 5, address(zeros), *map(address, tables),
        0 if asked.tile.in_place else fill_frame_address(problem.dtype, asked.stride_in[2]), *numbers, *geometry,
    )  # fmt: skip
    tasks = asked.tasks
    chunk = max(1, min(tasks // 64, int(50_000 / (asked.cycles / tasks + 1))))

    @cache
    def launch(tile: Tile) -> Launch:
        key = ("correlation", problem.dtype, tile, merge, problem.epilogue)
        code = jit.kernel(key, lambda isa: write(isa, element, tile, merge, problem.epilogue))
        return Launch(
            [(code.address("correlate"), tasks, chunk)],
            fields,
            (0, 1, 2 if problem.bias else NOTHING, 3, WORKSPACE, *sources(problem.epilogue, NOTHING)),
            own_bytes=asked.private_elements * asked.element.bytes,
            most_threads=useful_threads(asked.cycles, tasks),
            keep=(tables, no_bias, zeros),
            batch_parts=problem.batch,
        )

    plain = partial(launch, asked.tile)
    return ByAlignment(launch(replace(asked.tile, stream=True)), plain) if _streams(asked, isa) else plain()
