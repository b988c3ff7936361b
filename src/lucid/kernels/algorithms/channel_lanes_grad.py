"""Weight gradient of depthwise convolutions of small planes with channels in lanes.

Planes of x and of g are turned as in the forward role; then a row of taps is a few sums, to which the rows of both that
meet there add. A task is a block of channels and all images of it in order, so that bits do not depend on the number of
threads. A sum is in several copies where taps in a row are few, so that products need not wait for each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, prod

import numpy as np

from lucid.kernels import jit
from lucid.kernels.algorithms.base import (
    MOST_PRODUCTS,
    Executable,
    address,
    memory_cycles,
    sum_type,
    turns_of,
    useful_threads,
)
from lucid.kernels.algorithms.channel_lanes_frame import COLUMNS, LaneFrame, most_bytes, turned
from lucid.kernels.algorithms.channel_lanes_kernel import clear, fill, write_back, write_turn
from lucid.kernels.algorithms.correlation import axes_of
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Type,
    computed,
    convert,
    fma,
    i32,
    i64,
    lanes_below,
    maximum,
    minimum,
    ptr,
    zeros,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, Launch, in_order
from lucid.kernels.plan import Problem

_LATENCY = 4.0  # cycles of a product
_CHAINS = 8  # of sums that depend on each other, which two products a cycle of four cycles each want
_ARRAYS = ("x", "g", "gw", "gb")
_TABLES = ("pixels", "upstream_pixels", "taps_at", "depths", "slices", "lines")
_NUMBERS = (
    "channels", "images", "plane", "volume", "g_plane", "g_volume", "g_depth", "slot", "ring", "frame", "upstream",
    "private", "taps", "kernel_h", "columns", "x_row", "g_row", "has_bias",
)  # fmt: skip

#: Cycles of one thread; of 15 problems on a Zen 5 with AVX-512, 12 are within 15 %.
_COST = {
    "tile": 1.03,  # of what its products take
    "row": 0.5,  # of g, at a row of taps
    "line": 2.0,  # a row of taps, in a slice
    "task": 100.0,
    "waiting": 0.8,  # for memory
    "call": 3000.0,
}


@dataclass(frozen=True, slots=True)
class LaneGradTile:
    """``columns`` pixels of a row of g by a row of taps, ``across`` columns of the frame apart; sums in ``copies``."""

    columns: int
    across: tuple[int, ...]
    stride: int
    copies: int

    @property
    def products(self) -> int:
        """Of a row of taps."""
        return self.columns * len(self.across)

    @property
    def registers(self) -> int:
        """Sums, pixels of g, one of x."""
        return len(self.across) * self.copies + self.columns + 1

    @property
    def pixels(self) -> list[int]:
        """Columns of the frame that are read, from the first pixel's on."""
        return sorted({q * self.stride + at for q in range(self.columns) for at in self.across})

    @property
    def cycles(self) -> float:
        """Two products or two loads a cycle, or as long as the sums of a copy wait for each other."""
        waiting = _LATENCY * ceil(self.columns / self.copies)
        return max(self.products / 2, (len(self.pixels) + self.columns) / 2, waiting)


@dataclass(frozen=True)
class ChannelLanesGrad:
    """A problem with its frame and tile."""

    problem: Problem
    frame: LaneFrame
    tile: LaneGradTile

    @property
    def blocks(self) -> int:
        """Of channels."""
        return ceil(self.problem.c_in / self.frame.lanes)

    @property
    def upstream_elements(self) -> int:
        """A slice of g, and a vector that is thrown away."""
        return (prod(self.problem.out[1:]) + 1) * self.frame.lanes

    @property
    def own_bytes(self) -> int:
        """A thread's frame, slice of g, sums and that of g itself."""
        elements = self.frame.elements + self.upstream_elements + (self.problem.spec.taps + 1) * self.frame.lanes
        return ceil(elements * sum_type(self.problem).bytes / 64) * 64

    @property
    def cycles(self) -> float:
        """Expected, of one thread."""
        p, frame, tile, lanes = self.problem, self.frame, self.tile, self.frame.lanes
        itemsize = sum_type(p).bytes
        depths, rows = frame.meetings(0, p.out[0]), frame.meetings(1, p.out[1])
        row = p.out[2] // tile.columns * (_COST["tile"] * turns_of(lanes, sum_type(p)) * tile.cycles + 1) + _COST["row"]
        turning = sum(sizes[0] * turned(prod(sizes[1:]), lanes, itemsize) for sizes in (p.size, p.out))
        image = turning + depths * (rows * row + p.spec.kernel[1] * _COST["line"])
        task = _COST["task"] + frame.elements / lanes + turned(p.spec.taps, lanes, itemsize)
        waiting = _COST["waiting"] * memory_cycles(p.traffic_bytes)
        return self.blocks * (p.batch * image + task) + waiting + _COST["call"]


def channel_lanes_grad(problem: Problem, isa: ISA) -> ChannelLanesGrad | None:
    """The tile that is expected to be fastest, if any fits."""
    spec, lanes = problem.spec, isa.lanes(sum_type(problem))
    frame = LaneFrame(
        axes_of(replace(problem, role="forward")), problem.size, problem.out, spec.stride, spec.kernel, lanes
    )
    (taps,) = frame.axes[2].phases
    across, width = tuple(at for _, at in taps), problem.out[2]
    widths = [n for n in COLUMNS if width % n == 0 and n * len(across) <= MOST_PRODUCTS]
    tiles = [LaneGradTile(n, across, spec.stride[2], min(n, ceil(_CHAINS / len(across)))) for n in widths]
    options = [ChannelLanesGrad(problem, frame, tile) for tile in tiles if tile.registers <= isa.registers]
    return min(options, key=lambda option: option.cycles, default=None)


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Long rows of taps, planes that do not fit."""
    asked = channel_lanes_grad(problem, isa)
    if asked is None:
        return "a row of taps does not fit in registers"
    return None if asked.own_bytes <= most_bytes() else "its planes do not fit in the second cache"


def _fields(element: Type) -> dict[str, Type]:
    arrays = {**dict.fromkeys(_ARRAYS, ptr(element)), "own": ptr(computed(element))}
    return {**arrays, **dict.fromkeys(_TABLES, ptr(i64)), **dict.fromkeys(_NUMBERS, i64)}


def bind(asked: ChannelLanesGrad) -> Executable:
    """Every number of the shape is fixed."""
    problem, spec, tile, frame = asked.problem, asked.problem.spec, asked.tile, asked.frame
    element = BY_DTYPE[problem.dtype]
    code = jit.kernel(("channel_lanes_grad", problem.dtype, tile), lambda isa: _write(isa, element, tile))
    plane = prod(problem.out[1:])
    tables = (
        frame.pixels(), frame.whole(np.arange(plane), plane), frame.whole(np.arange(spec.taps), 0),
        *frame.depths(problem.out[0]), _lines(frame, problem.out[1]),
    )  # fmt: skip
    numbers = in_order(_NUMBERS, {
        "channels": problem.c_in, "images": problem.batch, "plane": prod(problem.size[1:]),
        "volume": prod(problem.size), "g_plane": plane, "g_volume": prod(problem.out), "g_depth": problem.out[0],
        "slot": frame.slot, "ring": frame.ring, "frame": frame.elements, "upstream": asked.upstream_elements,
        "private": asked.own_bytes // sum_type(problem).bytes, "taps": spec.taps, "kernel_h": spec.kernel[1],
        "columns": problem.out[2], "x_row": spec.stride[1] * frame.width * frame.lanes,
        "g_row": problem.out[2] * frame.lanes, "has_bias": int(problem.bias),
    })  # fmt: skip
    return Launch(
        [(code.address("accumulate"), asked.blocks, 1)],
        (0, 0, 0, 0, 0, *map(address, tables), *numbers),
        (0, 1, 2, 3 if problem.bias else NOTHING, WORKSPACE),
        own_bytes=asked.own_bytes,
        most_threads=useful_threads(asked.cycles, asked.blocks),
        keep=tables,
    )


def _lines(frame: LaneFrame, rows: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """For every row of taps: the first row of g that meets x there, how many do, and where x lies for the first."""
    met: list[list[tuple[int, int]]] = [[] for _ in range(frame.kernel[1])]
    for row, places in enumerate(frame.met(1, rows)):
        for at, t in places:
            met[t].append((row, (at * frame.width + frame.first) * frame.lanes))
    return np.array([(*pairs[0], len(pairs)) if pairs else (0, 0, 0) for pairs in met], np.int64)


def _write(isa: ISA, element: Type, tile: LaneGradTile) -> Module:
    module, wide = Module("channel_lanes_grad", isa), computed(element)
    lanes, across = isa.lanes(wide), len(tile.across)
    turn, back = write_turn(module, element, lanes), write_back(module, element, lanes)
    add, add_all = _write_add(module, wide, lanes, tile), _write_add_all(module, wide, lanes)
    f = module.entry("accumulate", **_fields(element))
    a = f.args
    with f.loop(a.begin, a.end) as task:
        channel = task.i * lanes
        last, frame = minimum(a.channels - channel, lanes) - 1, a.own.at(a.thread * a.private)
        g = frame.at(a.frame)
        sums = g.at(a.upstream)
        total = sums.at(a.taps * lanes)
        clear(f, frame, a.frame, lanes)
        clear(f, sums, (a.taps + 1) * lanes, lanes)
        with f.loop(0, a.images) as image:
            planes = image.i * a.channels + channel
            x, upstream = a.x.at(planes * a.volume), a.g.at(planes * a.g_volume)
            with f.loop(0, a.g_depth, carry=[f.const(i64, 0)]) as d:
                begin, end, needed = (a.depths.load(d.i * 3 + k) for k in range(3))
                fill(f, turn, a, frame, x, d.values[0], needed, last)
                d.values = [maximum(d.values[0], needed)]
                f.call(turn, g, upstream.at(d.i * a.g_plane), a.g_volume, a.upstream_pixels, a.g_plane, last)
                with f.when(a.has_bias.ne(0)):
                    f.call(add_all, g, a.g_plane, total)
                with f.loop(begin, end) as s, f.loop(0, a.kernel_h) as t:
                    first, at, count = (a.lines.load(t.i * 3 + k) for k in range(3))
                    to = sums.at(a.slices.load(s.i * 2 + 1) + t.i * (across * lanes))
                    f.call(
                        add, frame.at(a.slices.load(s.i * 2) + at), g.at(first * a.g_row), to, count, a.columns,
                        a.x_row, a.g_row,
                    )  # fmt: skip
        f.call(back, sums, a.taps_at, a.gw.at(channel * a.taps), a.taps, a.taps, last)
        with f.when(a.has_bias.ne(0)):
            a.gb.store(convert(total.load(0, lanes), element), channel, lanes_below(f, last + 1, lanes, i32))
    return module


def _write_add_all(module: Module, wide: Type, lanes: int) -> Function:
    """Adds ``add_all``: total += so many vectors, in as many chains as additions want."""
    f = module.function("add_all", values=ptr(wide), count=i64, total=ptr(wide))
    a = f.args
    full = a.count // _CHAINS * _CHAINS
    with f.loop(0, full, _CHAINS, carry=[zeros(f, wide, lanes)] * _CHAINS) as i:
        i.values = [sum + a.values.at(i.i * lanes).load(k * lanes, lanes) for k, sum in enumerate(i.values)]
    start = a.total.load(0, lanes)
    for value in i.values:
        start = start + value
    with f.loop(full, a.count, carry=[start]) as i:
        i.values = [i.values[0] + a.values.load(i.i * lanes, lanes)]
    a.total.store(i.values[0])
    return f


def _write_add(module: Module, wide: Type, lanes: int, tile: LaneGradTile) -> Function:
    """Adds ``add``: sums += the products of ``count`` rows of g, ``columns`` long, and those of x that they meet."""
    data, taps = ptr(wide), len(tile.across)
    f = module.function(
        "add", x=data, g=data, sums=data, count=i64, columns=i64, x_row=i64, g_row=i64
    )  # fmt: skip
    a = f.args
    start = [a.sums.load(t * lanes, lanes) for t in range(taps)]
    start += [zeros(f, wide, lanes)] * (taps * (tile.copies - 1))
    with f.loop(0, a.count, carry=start) as row:
        with f.loop(0, a.columns, tile.columns, carry=row.values) as column:
            x = a.x.at(row.i * a.x_row + column.i * (tile.stride * lanes))
            g = a.g.at(row.i * a.g_row + column.i * lanes)
            pixels, sums = [g.load(q * lanes, lanes) for q in range(tile.columns)], list(column.values)
            for place in tile.pixels:
                value = x.load(place * lanes, lanes)
                for t, at in enumerate(tile.across):
                    q, beyond = divmod(place - at, tile.stride)
                    if not beyond and 0 <= q < tile.columns:
                        n = q % tile.copies * taps + t
                        sums[n] = fma(pixels[q], value, sums[n])
            column.values = sums
        row.values = column.values
    for t in range(taps):
        total = row.values[t]
        for copy in range(1, tile.copies):
            total = total + row.values[copy * taps + t]
        a.sums.store(total, t * lanes)
    return f
