"""Weight gradient of depthwise convolutions and of groups of few channels: pixels in lanes, sums of vectors a tap.

A frame of x (rows split by phase where there is a stride) meets rows of g as they lie in memory::

    for box in boxes of the chunk:
        frame = framed(x)
        for rows of g, 16 pixels at a time:                      one loop, sums in registers
            acc[k][down][line][column] += g[k][p - down rows] * frame[start(p) + offset[line] + column]

Taps below each other (``down``) meet one row of x with different rows of g, so a load of x serves them all. A *line* is
a place in the frame from which ``columns`` taps follow each other; with a dilation or a stride it is one tap. Pixels
that do not fill a vector go through the same loop under a mask, so an infinity in x meets only the pixels it belongs
to. At the end each vector is summed over its lanes, in a fixed order, and chunks are added in order.

Half precision that several passes would read is widened before the first: a box's rows of g, as its frame of x is.

If the gradient of a bias is wanted too, rows of g are added up while they are in the first cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np

from lucid.core.geometry import window_extent
from lucid.kernels import jit, target
from lucid.kernels.algorithms import depthwise_sums, toeplitz
from lucid.kernels.algorithms.base import Executable, address, memory_cycles, priced, sum_type, turns_of, useful_threads
from lucid.kernels.algorithms.depthwise_grad_kernel import Tile, write
from lucid.kernels.algorithms.frames import Cut, fill_frame_address, plain_window, unit_of_fill
from lucid.kernels.ir import BY_DTYPE, Type
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, Launch, in_order
from lucid.kernels.plan import Problem

Array = np.ndarray[Any, Any]

_TASKS = 16  # wanted at least; groups are split over images and boxes until there are as many
_LONG_VECTORS = 3  # rows of at least so many vectors of taps are long
_CHUNK_CYCLES = 40_000  # below this, more chunks cost more than they gain
_PART_BYTES = 4 << 20  # all sums that wait to be added

#: Cycles of one thread. Least squares over 118 random layers on a Zen 5 with AVX-512 at 4 GHz, rounded: half of them
#: are within 15 %, four fifths within 30 %.
_COST = {
    "product": 1.1,  # what a tile takes in its loop
    "long": 0.52,  # a lane of a vector of taps
    "vector": 0.5,  # of pixels
    "row": 2.9,  # of pixels, in a pass
    "whole row": 2.9,  # one of whole vectors
    "pass": 32.0,
    "sum": 2.0,  # a vector of them, once a pass
    "fill": 2.9,  # a vector of a frame
    "fill split": 20.0,  # where single elements are dealt out by phase
    "fill dealt": 20.0,  # where vectors of each phase are
    "plane": 26.0,  # of a frame
    "box": 36.0,
    "upstream": 2.2,  # a vector of g that is added up for the bias
    "widened": 0.0,  # one that is copied as it is computed with
    "finish": 14.0,  # a vector of sums, over its lanes
    "byte": 0.021,  # of x, w and y, in the last cache
    "waiting": 0.71,  # for memory
    "call": 4800.0,
}
#: The same where they are others, on a Zen 4: vectors of 64 bytes are computed in halves.
_HALVED = {
    "product": 2.16,
    "long": 1.05,
    "vector": 1.1,
    "row": 2.0,
    "whole row": 0.0,
    "sum": 4.7,
    "fill": 5.0,
    "fill split": 23.0,
    "fill dealt": 6.0,
    "plane": 36.0,
    "widened": 2.7,
    "finish": 22.0,
    "call": 6100.0,
}


@dataclass(frozen=True, slots=True)
class Sums:
    """A problem with its cut and tile."""

    problem: Problem
    cut: Cut
    tile: Tile
    lanes: int
    chunks: int

    @property
    def element(self) -> Type:
        """What is computed in."""
        return sum_type(self.problem)

    @property
    def narrow(self) -> bool:
        """Whether arrays have another type than sums."""
        return self.element != BY_DTYPE[self.problem.dtype]

    @property
    def alone(self) -> bool:
        """Whether there are no parts to add up, or sums of g to round."""
        return self.chunks == 1 and not (self.narrow and self.problem.bias)

    @property
    def lines(self) -> list[tuple[int, int, int, int]]:
        """(offset in the frame, place in w, taps down, columns that count) of every line, in whole passes."""
        spec, (_, rows, pitch) = self.problem.spec, self.cut.frame
        (depth, height, width), step, columns = spec.kernel, spec.stride[2], self.tile.columns
        found = []
        for s, d, h, w in product(
            range(self.problem.group_in), range(depth), range(0, height, self.tile.down), range(0, width, columns)
        ):
            at = w * spec.dilation[2]
            row = (d * spec.dilation[0] * rows + h * spec.dilation[1]) * pitch
            offset = s * self.cut.plane + row + at % step * (pitch // step) + at // step
            place = s * spec.taps + (d * spec.kernel[1] + h) * spec.kernel[2] + w
            found.append((offset, place, min(self.tile.down, height - h), min(columns, width - w)))
        return found + [(found[-1][0], 0, 0, 0)] * (-len(found) % self.tile.lines)

    @property
    def passes(self) -> int:
        """Groups of lines, or of taps."""
        if self.tile.long:
            return ceil(self.problem.spec.kernel[2] / (self.tile.columns * self.lanes))
        depth, height, width = self.problem.spec.kernel
        each = depth * ceil(height / self.tile.down) * ceil(width / self.tile.columns)
        return ceil(self.problem.group_in * each / self.tile.lines)

    @property
    def blocks(self) -> int:
        """Groups of results."""
        return ceil(self.problem.group_out / self.tile.results)

    @property
    def frame_elements(self) -> int:
        """A thread's frames, a scratch row, and what loads and stores run over."""
        width = self.cut.frame[2]
        slack = width * (self.problem.spec.stride[1] + 1) + 2 * self.lanes + self.tile.columns
        slack += width * (self.tile.down - 1) * self.problem.spec.dilation[1]
        return ceil((self.problem.group_in * self.cut.plane + slack) / 16) * 16

    @property
    def widens(self) -> bool:
        """Whether g is copied as it is computed with, since a box's is read again and again."""
        return self.narrow and (self.tile.long or self.tile.down > 1 or self.passes > 1)

    @property
    def upstream_elements(self) -> int:
        """The copy of g, rows of whole vectors; behind it those that taps down name, of which no lane loads."""
        if not self.widens:
            return 0
        over = self.problem.spec.dilation[1] * (self.tile.down - 1)
        return (self.tile.results * self.cut.box[2] + over) * ceil(self.cut.box[3] / 16) * 16

    @property
    def private_elements(self) -> int:
        """A thread's frames and sums, those of g behind the others, and a copy of g behind them."""
        vectors = self.blocks * self.passes * self.tile.sums + self.problem.summed_channels // self.problem.groups
        return self.frame_elements + vectors * ceil(self.lanes / 16) * 16 + self.upstream_elements

    @property
    def part_elements(self) -> int:
        """Results of all chunks."""
        p = self.problem
        each = p.c_out * p.group_in * p.spec.taps + p.summed_channels
        return 0 if self.alone else ceil(each * self.chunks / 16) * 16

    @property
    def cycles(self) -> float:
        """Expected, of one thread."""
        return priced(self._work(), _COST, _HALVED, turns_of(self.lanes, self.element))

    def _work(self) -> dict[str, float]:
        """What one thread does, counted in the units of ``_COST``."""
        p, (_, deep, high, wide), tile = self.problem, self.cut.box, self.tile
        boxes, groups = p.batch * p.groups * self.cut.boxes, self.blocks * self.passes
        rows = boxes * groups * deep * high
        vectors = rows * ceil(wide / self.lanes)
        of_g = boxes * p.group_out * deep * high * ceil(wide / self.lanes)
        return {
            **({"long": vectors * tile.columns * self.lanes} if tile.long else {"product": vectors * tile.cycles}),
            "vector": vectors,
            "whole row" if wide % self.lanes == 0 else "row": rows,
            "pass": boxes * groups,
            "sum": boxes * groups * tile.sums,
            unit_of_fill(p.spec.stride[2]): boxes * p.group_in * self.cut.plane / self.lanes,
            "plane": boxes * p.group_in * self.cut.frame[0],
            "box": boxes,
            "upstream": of_g * p.bias,
            "widened": of_g * self.widens,
            "finish": p.groups * self.chunks * groups * tile.sums,
            "byte": min(p.traffic_bytes, target.cpu().l3_bytes / 4),
            "waiting": memory_cycles(p.traffic_bytes),
            "call": 1,
        }


def sums(problem: Problem, isa: ISA, chosen: Tile | None = None) -> Sums:
    """The cut, a frame that fits the first cache; and the tile that fills the registers, unless one has been chosen."""
    spec, element = problem.spec, sum_type(problem)
    lanes = isa.lanes(element)
    extents = tuple(map(window_extent, spec.kernel, spec.dilation))
    window = plain_window(problem.size, problem.out, extents, spec.stride, tuple(low for low, _ in spec.padding))
    small = problem.group_in == 1
    room = (target.cpu().l1_bytes // 3 if small else target.cpu().l2_bytes // 4) // element.bytes
    cut = window.cut(max(64, room // (problem.group_in * prod(spec.stride))))
    tile = chosen or _tile(problem, isa, lanes)
    step = spec.stride[2]
    width = ceil(cut.box[3] / lanes) * lanes + (extents[2] - 1) // step + tile.columns * (lanes if tile.long else 1)
    if step > 1:
        width = ceil(width / lanes) * lanes
    whole = Sums(problem, cut.widened(width * step), tile, lanes, 1)
    chunks = min(problem.batch * cut.boxes, ceil(_TASKS / problem.groups), int(whole.cycles / _CHUNK_CYCLES))
    by_image = replace(whole, chunks=problem.batch)
    if memory_cycles(problem.traffic_bytes) > 0 and by_image.part_elements * element.bytes <= _PART_BYTES:
        chunks = max(chunks, problem.batch)  # then boxes follow each other in memory
    return replace(whole, chunks=max(1, chunks))


def _tile(problem: Problem, isa: ISA, lanes: int) -> Tile:
    spec = problem.spec
    lines = problem.group_in * spec.kernel[0] * spec.kernel[1]
    adjacent = spec.stride[2] == 1 and spec.dilation[2] == 1
    if lines == 1 and adjacent and spec.kernel[2] >= _LONG_VECTORS * lanes:
        return _long_tile(isa, ceil(spec.kernel[2] / lanes))

    def cost(tile: Tile) -> tuple[float, int]:
        rows = problem.group_in * spec.kernel[0] * ceil(spec.kernel[1] / tile.down)
        passes = ceil(rows * ceil(spec.kernel[2] / tile.columns) / tile.lines)
        return passes * ceil(problem.group_out / tile.results) * (tile.cycles + 1), tile.sums

    def fits(tile: Tile) -> bool:
        return tile.sums + tile.upstreams + 2 <= isa.registers and tile.columns <= spec.kernel[2]

    shared = spec.stride[1] == 1 and spec.dilation[1] * 4 <= problem.out[1]
    shapes = [(k, 1, lines) for k in (1, 2, 4) for lines in range(1, 10)]
    shapes += [(1, down, 1) for down in range(2, spec.kernel[1] + 1) if shared]
    tiles = (
        Tile(results, lines, columns, down)
        for results, down, lines in shapes
        for columns in range(1, 29 if adjacent else 2)
    )
    options = [tile for tile in tiles if fits(tile)]
    return min(options, key=cost)


def _long_tile(isa: ISA, across: int) -> Tile:
    most = toeplitz.most_vectors(isa)
    options = [Tile(1, 1, vectors, long=True) for vectors in range(most // 2, most + 1)]
    return min(options, key=lambda tile: (ceil(across / tile.columns) * tile.columns, -tile.columns))


def bind(asked: Sums, isa: ISA) -> Executable:
    """Tables of lines, and every number of the cut, fixed for the shape."""
    problem, tile = asked.problem, asked.tile
    element = BY_DTYPE[problem.dtype]
    step = problem.spec.stride[2]
    fill = fill_frame_address(problem.dtype, step)
    widens = asked.widens
    code = jit.kernel(("depthwise_grad", problem.dtype, tile, widens), lambda isa: write(isa, element, tile, widens))
    weights, alone, itemsize = problem.group_in * problem.spec.taps, asked.alone, asked.element.bytes
    rest = depthwise_sums.code(problem.dtype)
    tables = np.array(asked.lines, np.int64).T.copy()
    offsets, places, taps_down, counts = map(address, tables)
    following = 1 if asked.chunks == problem.batch else problem.groups  # groups from one box to the next
    told = in_order((*depthwise_sums.TABLES, *depthwise_sums.NUMBERS), {
        "offsets": offsets, "places": places, "taps_down": taps_down, "counts": counts, "fill": fill,
        "add_rows": depthwise_sums.rows_adder(problem.dtype),
        "reduce": depthwise_sums.reducer(problem.dtype, tile.long, alone and asked.narrow),
        "groups": problem.groups, "group_in": problem.group_in, "group_out": problem.group_out,
        "boxes": asked.cut.boxes, "all_boxes": problem.batch * asked.cut.boxes, "chunks": asked.chunks,
        "passes": asked.passes, "weights": weights, "group_weights": problem.group_out * weights,
        "frame": asked.frame_elements, "private": asked.private_elements,
        "upstream": asked.private_elements - asked.upstream_elements,
        "ahead_g": asked.cut.ahead(problem.out, (1, 1, 1)) or following * problem.group_out * problem.pixels,
        "dilation_h": problem.spec.dilation[1], "kernel_w": problem.spec.kernel[2],
        "sums_g": problem.group_out * problem.sums_g, "sums_x": problem.group_in * problem.transposed,
        "results": tile.results, "lines": tile.lines, "columns": tile.columns, "down": tile.down,
    })  # fmt: skip
    geometry = asked.cut.fields(following * problem.group_in * prod(problem.size))
    part_bytes, gb = asked.part_elements * itemsize, 3 if problem.bias else NOTHING
    bias_parts = 0 if alone else asked.chunks * problem.c_out * weights * itemsize
    fields = (0, 0, 0, 0, 0, bias_parts, 0 if alone else part_bytes, *told, *geometry)
    tasks = problem.groups * asked.chunks
    chunk = max(1, min(tasks // 32, int(50_000 / (asked.cycles / tasks + 1))))
    steps = [(code.address("accumulate"), tasks, chunk)]
    if not alone:
        steps.append((rest.address("finish"), problem.groups, 1))
    return Launch(
        steps,
        fields,
        (0, 1, 2, gb, *((2, gb) if alone else (WORKSPACE, WORKSPACE)), WORKSPACE),
        shared_bytes=0 if alone else part_bytes,
        own_bytes=asked.private_elements * itemsize,
        most_threads=useful_threads(asked.cycles, tasks),
        keep=tables,
        batch_parts=asked.chunks if asked.chunks in (1, problem.batch) else 0,
    )
