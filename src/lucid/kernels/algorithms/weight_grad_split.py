"""Tile of a dense weight gradient, and its split into tasks: what is expected to be fastest, by the shape alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import product
from math import ceil, prod
from typing import NamedTuple

import numpy as np

from lucid.core.geometry import ConvSpec
from lucid.kernels import target
from lucid.kernels.algorithms.base import memory_cycles, priced, sum_type, turns_of, useful_threads
from lucid.kernels.algorithms.frames import Array, Cut, Window, grid
from lucid.kernels.algorithms.grain import HIDE_WIDENING, Grain
from lucid.kernels.algorithms.weight_grad_kernel import LINE, RUN
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Problem

SLICE_BYTES = 2 << 20  #: all slices that wait to be added, or a thread's own
_WORKERS = (2, 4, 8)  # numbers of threads that the split is made for: all of them get the same tasks
_USUAL_VECTORS, _MOST_VECTORS = 4, 7  # of a tile
_WIDER = 1.06  # what a wider one's panels cost, since fewer of their pixels stay in the first cache
#: Of a tile, where vectors pass their units in turns: cycles of a call and of a vector of sums met again, and of four
#: rows of g on the way into a panel; and what part of the usual tile's time makes a change sure.
_CALLED, _MET_AGAIN, _TURNED_ROWS, _SURE = 30.0, 2.0, 70.0, 0.97
_SUMMED = 4.5  # cycles of a vector of g that is added up alone
_FEWER_SURE, _MORE_SURE = 0.95, 0.9  # what makes it sure that swapped operands are faster, by the channels packed
_WIDENED_SURE = 0.99  # the same of fewer ones, where halves are no longer widened into frames
_STRAIGHT_SURE = 0.99  # the same, where tiles leave their sums in gw then
_MOST_ROWS = 9  # offsets live in general registers, of which there are 15

#: Cycles of one thread. Nonnegative least squares over 223 splits of random layers, rounded, on a Zen 5 with AVX-512 at
#: 4 GHz: half of them are within 5 %, four fifths within 12 %.
_COST = {
    "product": 0.97,  # what a tile takes in its loop
    "visit": 3.5,  # a vector of sums, read and written by a tile
    "pack": 4.8,  # a vector of g
    "pair": 4.8,  # one of pairs of pixels, which a channel of x alone meets: nothing hides what it waits for
    "run": 17.0,  # four channels of g, as far as they go on
    "frame": 5.0,  # a vector of x
    "stage": 3.5,  # one that is widened just before a tile
    "turn": 6.0,  # a vector of sums, on its way out
    "waiting": 0.2,  # for memory, and for the beginning of each run of pixels as for so many bytes more
    "call": 6500.0,
}
#: The same where they are others, on a Zen 4: vectors of 64 bytes are computed in halves.
_HALVED = {"product": 1.96, "visit": 13.0, "pack": 6.6, "pair": 9.3, "frame": 7.3}
TURNED = 4  #: channels of a run
_RUN_BYTES = 4096
_WIDENED = 0.25  # of a tile's cycles, a number that is widened beside products of two vectors or one
_RUN_VECTORS = 2.0  # what a run that is staged costs beside its vectors, as so many
_STEP_CYCLES = 8000.0  # until all threads have come to the second pass
_SLICED = 5.0  # cycles of a vector of sums that another thread adds up, where vectors take turns


@dataclass(frozen=True, slots=True)
class Tile:
    """``vectors`` of c_out by steps of (c_in, tap): ``rows`` of as many neighbouring ``columns``."""

    vectors: int
    rows: int
    columns: int = 1

    @property
    def steps(self) -> int:
        """Taps of all rows."""
        return self.rows * self.columns

    @property
    def cycles(self) -> float:
        """Of one pixel: two products or two loads a cycle; fewer than 8 sums in flight wait for each other.

        Beside its numbers a tile loads where the pixel starts, and asks, or, of one vector, waits a little longer.
        """
        return max(self.vectors * self.steps, self.vectors + self.steps + (3 if self.vectors > 1 else 2), 8) / 2

    def cycles_in(self, turns: int) -> float:
        """The same where vectors pass their units in so many turns: of two, one vector's rows wait for nothing."""
        waits = turns == 1 or self.vectors > 1 or self.columns > 1
        return self.cycles if waits else max(1 + self.steps, 8) / 2


def tiles(isa: ISA, spec: ConvSpec) -> Iterator[Tile]:
    """All that fit. Those of one vector wait for loads, one a product and some beside: the more sums, the fewer."""
    for vectors, rows in product(range(2, _MOST_VECTORS + 1), range(1, _MOST_ROWS + 1)):
        # LLVM reads the steps of a pixel first; beyond this it moves sums about.
        if vectors * rows + vectors + rows <= isa.registers + 2:
            yield Tile(vectors, rows)
    most = spec.kernel[2] if spec.dilation[2] == 1 else 1
    adjacent = [n for n in range(1, most + 1) if spec.kernel[2] % n == 0]
    for rows, columns in product(range(1, _MOST_ROWS + 1), adjacent):
        if rows * columns <= isa.registers - 3:
            yield Tile(1, rows, columns)


@dataclass(frozen=True, slots=True)
class Split:
    """Channels of a part, pixels of a box, chunks of boxes; and what it costs."""

    tile: Tile
    grain: Grain
    lanes: int
    k_part: int
    c_part: int
    cut: Cut
    parts: int
    chunks: int
    sub: int  #: pixels of a piece of a panel
    in_place: bool  #: whether x is read where it lies
    straight: bool = False  #: whether whole tiles leave their sums in gw
    staged: bool = False  #: whether a tile's numbers of x are widened just before it
    cycles: float = 0.0  #: of one thread
    needed: float = 0.0  #: those that threads are counted for: to stage numbers is worth none

    @property
    def staged_apart(self) -> int:
        """From a run of widened pixels to the next one, so that vectors are stored in whole lines; 0 if it is short."""
        row = min(self.cut.box[3], self.sub)
        return ceil(row / self.lanes) * self.lanes * (row >= 2 * self.lanes)

    @property
    def staged_pitch(self) -> int:
        """From a step's widened numbers to the next one's; 0 if there are none."""
        row = self.cut.box[3]
        runs = min(self.elements // row, (self.sub + row - 2) // row + 1)
        return (ceil((runs * self.staged_apart or self.sub) / self.lanes) + 1) * self.lanes * self.staged

    @property
    def elements(self) -> int:
        """Of a full box."""
        return prod(self.cut.box[:3]) * int(self.grain.count(self.cut.box[3]))

    @property
    def tail(self) -> int:
        """Pixels of a row that is cut short, if it ends in an element that no full one has there; else 0."""
        left = self.cut.window.out[2] % self.cut.box[3]
        return left if left % self.grain.depth else 0

    @property
    def wide(self) -> int:
        """Channels of a panel."""
        return self.tile.vectors * self.lanes

    @property
    def blocks(self) -> int:
        """Panels of a part."""
        return ceil(self.k_part / self.wide)

    @property
    def put_away(self) -> float:
        """What part of a 1 x 1 kernel's sums goes to gw in a pass of its own."""
        if not self.straight:
            return 1.0
        steps, wide = self.tile.steps, self.wide
        return 1 - (self.k_part // wide / self.blocks) * (self.c_part // steps / ceil(self.c_part / steps))

    @property
    def shared_cycles(self) -> float:
        """Of all threads until the last is done, on average over numbers of threads."""
        tasks, pixels = self.parts * self.chunks, self.cut.window.pixels
        uneven = ceil(self.cut.boxes / self.chunks) * self.cut.pixels * self.chunks / pixels - 1
        turns = turns_of(self.lanes, self.grain.sums)
        alone = waiting(self.needed, turns, tasks, uneven) * self.cycles
        return alone + (self.chunks > 1) * (_STEP_CYCLES + (turns > 1) * _SLICED * tasks * self.sum_vectors)

    @property
    def sum_vectors(self) -> int:
        """Vectors of a part's sums, in whole tiles."""
        steps = ceil(self.c_part * self.cut.window.spec.taps / self.tile.steps) * self.tile.steps
        return self.blocks * self.tile.vectors * steps


@dataclass(frozen=True, slots=True)
class Room:
    """Elements of the workspace: a slice of sums, all slices that wait to be added, what a thread has for a box."""

    sums_at: int  #: where in a slice the sums of x begin, a vector a channel; 0 if there are none
    slice: int
    shared: int
    frame: int
    private: int  #: frame, a panel's piece, and the slice if there is only one

    @classmethod
    def of(cls, problem: Problem, split: Split) -> Room:
        """Frames have a vector behind them, since whole ones are written; sums are turned where they lie."""
        wide, lanes = split.wide, split.lanes
        line = LINE // sum_type(problem).bytes
        sums = ceil(split.c_part * problem.spec.taps / split.tile.steps) * split.tile.steps
        framed = split.tile.rows * split.staged_pitch if split.in_place else split.c_part * split.cut.plane + lanes
        frame = max(framed, lanes * RUN * lanes)
        sums_at, of_x = split.blocks * (sums + 1) * wide, split.c_part * lanes if problem.transposed else 0
        frame, panel, slice_ = (ceil(n / line) * line for n in (frame, (split.sub + lanes) * wide, sums_at + of_x))
        alone = split.chunks == 1
        shared = 0 if alone else split.parts * split.chunks * slice_
        return cls(sums_at if of_x else 0, slice_, shared, frame, frame + panel + (slice_ if alone else 0))


class Way(NamedTuple):
    """How tiles read x: frames of it, itself, or what is ``staged``, which is in place too: widened just before."""

    in_place: bool
    staged: bool


FRAMED, IN_PLACE, STAGED = Way(False, False), Way(True, False), Way(True, True)


def swaps(problem: Problem) -> bool:
    """Whether x and g may change places: each pixel meets one sample, its own."""
    spec = problem.spec
    return spec.taps == 1 and set(spec.stride) == {1} and set(spec.padding) == {(0, 0)}


def swapped(problem: Problem) -> Problem:
    """The same sums with x for g and g for x, and gw turned: where c_out is many, fewer channels are packed."""
    return replace(problem, c_in=problem.c_out, c_out=problem.c_in, transposed=problem.sums_g)


def swap_pays(problem: Problem, isa: ISA) -> bool:
    """Whether that is allowed and sure to be faster. A bias's gradient is then a pass over g of its own."""
    if not swaps(problem):
        return False
    other = swapped(problem)
    ours, theirs = split(problem, isa), split(other, isa, turned=True)
    apart = _SUMMED * problem.batch * problem.c_out * problem.pixels / isa.lanes(sum_type(problem)) * other.transposed
    sure = _FEWER_SURE if problem.group_in < problem.group_out else _MORE_SURE
    if sure == _FEWER_SURE and theirs.in_place > ours.in_place and target.cpu().turns(isa) > 1:
        sure = _WIDENED_SURE
    if theirs.straight:
        sure = _STRAIGHT_SURE
    return theirs.shared_cycles < ours.shared_cycles and theirs.cycles + apart < sure * ours.cycles


def boxes(problem: Problem, split: Split) -> Array:
    """The rows of the kernel's ``BOX``, and the last again for what comes after it."""
    cut, window, grain = split.cut, split.cut.window, split.grain
    (depth, height, width), (d, h, w) = window.out, window.size
    n, z, y, x = (first.ravel() * size for first, size in zip(np.indices(cut.grid), cut.box, strict=True))
    lows, stride = [low for low, _ in window.spec.padding], window.spec.stride
    top, up, left = (at * s - low for at, s, low in zip((z, y, x), stride, lows, strict=True))
    *lines, row = (np.minimum(b, o - at) for b, o, at in zip(cut.box[1:], window.out, (z, y, x), strict=True))
    elements, run = prod(lines) * grain.count(row), np.where(row % grain.depth, row, prod(lines) * row)
    starts, list_ = (row < cut.box[3]) * bool(split.tail) * split.elements, np.zeros_like(x)
    image = n * problem.c_in * d * h * w
    g = n * problem.c_out * depth * height * width + (z * height + y) * width + x
    corner = image + (top * h + up) * w + left
    images = np.minimum(cut.box[0], window.batch - n)
    place, *owned = _owned(split, (z, y, x)) if problem.transposed else (0,) * 4
    own = image + place, images, *owned
    columns = (image, corner, g, top, up, left, images, elements, run, run, starts, list_, list_ - 1, *own)
    rows = np.stack(np.broadcast_arrays(*columns), 1)
    table: Array = np.concatenate([rows, rows[-1:]]).astype(np.int64)
    return table


def _owned(split: Split, first: Sequence[Array]) -> tuple[Array, ...]:
    """What of an x is a box's alone: from where its first window begins to where the next box's do.

    The first box of an axis begins with x and the last one ends with it, so that every number is one box's, whatever
    their windows read. The first number, planes, rows and numbers of a row; rows that follow each other are one.
    """
    cut, spec, size = split.cut, split.cut.window.spec, split.cut.window.size
    spans = []
    for at, box, out, n, s, (low, _) in zip(
        first, cut.box[1:], cut.window.out, size, spec.stride, spec.padding, strict=True
    ):
        begin, end = (np.clip(pixel * s - low, 0, n) for pixel in (at, at + box))
        spans.append((np.where(at == 0, 0, begin), np.where(at + box >= out, n, end)))
    (z, y, x), (planes, rows, length) = [a for a, _ in spans], [b - a for a, b in spans]
    whole = length == size[2]
    return (z * size[1] + y) * size[2] + x, planes, np.where(whole, 1, rows), length * np.where(whole, rows, 1)


def waiting(cycles: float, turns: int, tasks: int, uneven: float) -> float:
    """How much longer threads wait for the last task than one works, on average over numbers of threads.

    Where vectors take two turns, a task of so many cycles has half the work, and its packing and sums as much.
    """
    workers = [useful_threads(cycles / turns, n) for n in _WORKERS]
    longer = sum(n * (ceil(tasks / n) + uneven) / tasks for n in workers) / len(workers)
    return longer * _WORKERS[0] / workers[0]  # of two, one waits for nothing where work is too little to wake it


def parts(problem: Problem, tile: Tile, k_part: int, c_part: int, together: int, turned: bool = False) -> Array:
    """The rows of the kernel's ``PART``, for lists of so many taps; gw may be ``turned``, rows of it c_in's."""
    ks, cs = np.arange(0, problem.group_out, k_part), np.arange(0, problem.group_in, c_part)
    group, k, c = (axis.ravel() for axis in np.meshgrid(np.arange(problem.groups), ks, cs, indexing="ij"))
    row, channel, taps = group * problem.group_out + k, group * problem.group_in + c, problem.spec.taps
    x, g, rows = channel * prod(problem.size), row * problem.pixels, np.minimum(k_part, problem.group_out - k)
    channels, whole = np.minimum(c_part, problem.group_in - c), ceil(c_part * together / tile.steps) * tile.rows
    gb, summed, sums = (channel, x, channels * (k == 0)) if problem.transposed else (row, g, rows * (c == 0))
    gw = channel * problem.group_out + k if turned else (row * problem.group_in + c) * taps
    columns = [
        x, g, gw, gb, rows, channels, (c + c_part > problem.group_in) * whole,
        summed, sums,
    ]  # fmt: skip
    table: Array = np.stack(columns, 1).astype(np.int64)
    return table


def places(problem: Problem, split: Split) -> tuple[Array, Array]:
    """Where each element of a full box starts, and how far from there each row of taps lies: in the frame, or in x.

    A full box's elements are followed by those of a ``tail``. The rows of a part, then those of the last one if it has
    fewer channels; each list is filled up with its last row to whole tiles, where what is read is not kept.
    """
    cut, spec, tile = split.cut, split.cut.window.spec, split.tile
    size = cut.window.size if split.in_place else cut.frame
    line, plane, channel = size[2], size[1] * size[2], prod(size)
    image = channel * problem.c_in
    if not split.in_place:
        image, channel = channel, channel * cut.box[0]
    lines = grid(cut.box[:3], (image, plane * spec.stride[0], line * spec.stride[1]))
    starts = [np.add.outer(lines, _firsts(split.grain, n) * spec.stride[2]) for n in (cut.box[3], split.tail)]
    apart = (pitch * step for pitch, step in zip((plane, line, 1), spec.dilation, strict=True))
    rows = grid((split.c_part, *spec.kernel), (channel, *apart))[:: tile.columns]
    last = rows[: problem.group_in % split.c_part * (spec.taps // tile.columns)]
    lists = [np.concatenate([n, np.repeat(n[-1:], -len(n) % tile.rows)]) for n in (rows, last)]
    return np.concatenate(starts, axis=None), np.concatenate(lists)


def on_stage(split: Split) -> Array:
    """Where the rows of a tile lie among what is staged, then where in a row each pixel of a full box does.

    Runs that are cut by pieces go on with the next piece at its beginning.
    """
    rows, pixels, row = np.arange(split.tile.rows) * split.staged_pitch, np.arange(split.elements), split.cut.box[3]
    piece, run = pixels // split.sub * split.sub, pixels // row
    places = pixels - piece
    if split.staged_apart:
        places = (run - piece // row) * split.staged_apart + pixels - np.maximum(piece, run * row)
    table: Array = np.concatenate([rows, places]).astype(np.int64)
    return table


def _firsts(grain: Grain, pixels: int) -> Array:
    """The first pixel of each element of a row; that of an odd row's last one belongs to another element too."""
    firsts: Array = np.minimum(np.arange(grain.count(pixels)) * grain.depth, max(pixels - grain.depth, 0))
    return firsts


def asks(problem: Problem, split: Split) -> tuple[Array, int, int]:
    """Where the lines of a box lie, in bytes from its first pixel of g, then of x; and how many of each.

    Each list is followed by its last line once a pixel of a piece, since all tiles ask, to the last. Where a chunk has
    no other box that is all there is, one line of each.
    """
    if split.cut.boxes <= split.chunks:
        return np.zeros(2 * (1 + split.sub), np.int64), 1, 1
    cut, size = split.cut, split.cut.window.size
    pixels = prod(cut.window.out)
    g = np.add.outer(np.arange(cut.box[0]) * problem.c_out, np.arange(split.k_part)).ravel() * pixels
    planes = np.add.outer(np.arange(cut.box[0]) * problem.c_in, np.arange(split.c_part)).ravel() * prod(size)
    deep, high, wide = (min(a, b) for a, b in zip(cut.frame, size, strict=True))
    if wide == size[2]:
        high, wide = 1, high * wide
    rows = np.add.outer(np.arange(deep) * size[1], np.arange(high)).ravel() * size[2]
    lists = []
    for starts, length in ((g, cut.pixels // cut.box[0]), (np.add.outer(planes, rows).ravel(), wide)):
        lines = np.arange(0, length * problem.itemsize + LINE - 1, LINE)  # wherever in a line they begin
        lists.append(np.add.outer(starts * problem.itemsize, lines).ravel())
    ends = [np.repeat(one[-1:], split.sub) for one in lists]
    table: Array = np.concatenate([lists[0], ends[0], lists[1], ends[1]]).astype(np.int64)
    return table, len(lists[0]), len(lists[1])


def best_tile(tiles: Iterable[Tile], lanes: int, group_out: int, sums: int) -> Tile:
    """The one that takes least for so many sums of each result channel of a group."""

    def cost(tile: Tile) -> tuple[float, int]:
        blocks = ceil(group_out / (tile.vectors * lanes)) * ceil(sums / tile.steps)
        panels = _WIDER if tile.vectors > _USUAL_VECTORS else 1
        return blocks * (tile.cycles + 0.3) * panels, -tile.vectors

    return min(tiles, key=cost)


def narrower_tile(usual: Tile, tiles: Iterable[Tile], lanes: int, group_out: int, sums: int, vector_bytes: int) -> Tile:
    """The usual one, or one whose panels have more pixels in the first cache, if that is sure to take less.

    Where vectors pass their units in turns no tile waits for loads, so that narrow ones have only that against them.
    """

    def cost(tile: Tile) -> float:
        passes, pixels = ceil(sums / tile.steps), _panel_pixels(tile.vectors * vector_bytes)
        call = _CALLED + _MET_AGAIN * tile.vectors * tile.steps
        rows = tile.vectors * lanes / TURNED * _TURNED_ROWS
        return ceil(group_out / (tile.vectors * lanes)) * (passes * (2 * tile.cycles + call / pixels) + rows / pixels)

    best = min((tile for tile in tiles if tile.vectors <= usual.vectors), key=cost)
    return best if cost(best) < _SURE * cost(usual) else usual


def halvings(size: int, step: int) -> list[int]:
    """The size and its halves, quarters, …, rounded up to steps."""
    found = [size]
    while found[-1] > step:
        found.append(max(step, ceil(found[-1] / 2 / step) * step))
    return found


@lru_cache(maxsize=1024)
def split(problem: Problem, isa: ISA, turned: bool = False) -> Split:
    """The tile that wastes least, then the split into tasks that is expected to be fastest; gw may be ``turned``."""
    return min(splits(problem, isa, turned), key=lambda s: s.shared_cycles)


def splits(problem: Problem, isa: ISA, turned: bool = False) -> list[Split]:
    """All that are weighed."""
    window = Window.of(problem)
    most = 1 if window.pixels < 128 else min(64, window.pixels // 128)
    pieces = [n for n in sorted({1, 2, 4, 8, 16, 32, 64, most}) if n <= most]
    made = []
    for grain in grains(problem, isa):
        lanes = isa.lanes(grain.sums)
        cut = cache(lambda pixels, grain=grain: _of_elements(window.cut(pixels), grain))
        for tile in _weighed_tiles(problem, grain, isa):
            channels = product(halvings(problem.group_out, tile.vectors * lanes), halvings(problem.group_in, 1))
            ways = _ways(problem, tile, grain, lanes)
            options = ((k, c, n, finer, way) for k, c in channels for n in pieces for finer in (0, 1) for way in ways)
            made += [_split(problem, cut, window.pixels, tile, grain, lanes, *option, turned) for option in options]
    return [each for each in made if each is not None]


def _weighed_tiles(problem: Problem, grain: Grain, isa: ISA) -> list[Tile]:
    """The tile of least waste, or what ``_narrower`` says in its place."""
    lanes, every = isa.lanes(grain.sums), list(tiles(isa, problem.spec))
    usual = best_tile(every, lanes, problem.group_out, problem.group_in * problem.spec.taps)
    return _narrower(usual, every, problem, grain, lanes) if target.cpu().turns(isa) > 1 else [usual]


def grains(problem: Problem, isa: ISA) -> list[Grain]:
    """Pairs of pixels, if there are any; single ones too where the frames of pairs have what strides leave out."""
    stored, lanes = BY_DTYPE[problem.dtype], isa.lanes(sum_type(problem))
    pairs = Grain.of(stored, Window.of(problem).out[2], isa)
    return [pairs, Grain(stored)] if pairs.depth > 1 and _has_gaps(problem, lanes, pairs) else [pairs]


def _has_gaps(problem: Problem, lanes: int, grain: Grain) -> bool:
    """Whether frames would be the only ones to have samples that strides leave out, where vectors take turns."""
    plain = set(problem.spec.padding) == {(0, 0)} and prod(problem.spec.stride) > problem.spec.taps
    return plain and turns_of(lanes, grain.sums) > 1


def _narrower(usual: Tile, every: Sequence[Tile], problem: Problem, grain: Grain, lanes: int) -> list[Tile]:
    """The tile that ``narrower_tile`` says; and of halves one that hides widening, where that one does not."""
    sums, vector_bytes = problem.group_in * problem.spec.taps, lanes * grain.sums.bytes
    tile = narrower_tile(usual, every, lanes, problem.group_out, sums, vector_bytes)
    hides = usual.vectors >= HIDE_WIDENING and IN_PLACE in _ways(problem, usual, grain, lanes)
    if not grain.widened or tile.vectors >= HIDE_WIDENING or not hides:
        return [tile]
    wide = [other for other in every if other.vectors >= HIDE_WIDENING]
    return [tile, narrower_tile(usual, wide, lanes, problem.group_out, sums, vector_bytes)]


def _split(
    problem: Problem, cut_up: Callable[[int], Cut], pixels: int, tile: Tile, grain: Grain, lanes: int, k_part: int,
    c_part: int, pieces: int, finer: int, way: Way, turned: bool,
) -> Split | None:  # fmt: skip
    """With boxes that leave room in the second cache for the next one, and for sums; or ``finer`` ones.

    None if the slices take too much memory.
    """
    cpu, size, wide = target.cpu(), sum_type(problem).bytes, tile.vectors * lanes
    padded, sums = ceil(k_part / wide) * wide, ceil(c_part * problem.spec.taps / tile.steps) * tile.steps
    room = cpu.l2_bytes // 2 // size
    most_pixels = max(64, room // (padded + c_part * (prod(problem.spec.stride) + (not way.in_place))))
    each = ceil(pixels / pieces / most_pixels) + finer  # boxes of a chunk
    cut = cut_up(ceil(pixels / pieces / each))
    chunks = min(pieces, cut.boxes)
    slices = _parts(problem, k_part, c_part) * chunks if chunks > 1 else 1
    least = chunks == 1 and k_part <= wide and c_part == 1
    if slices * padded * sums * size > SLICE_BYTES and not least:
        return None
    return split_as(problem, tile, grain, lanes, k_part, c_part, cut, chunks, way, turned)


def _parts(problem: Problem, k_part: int, c_part: int) -> int:
    return problem.groups * ceil(problem.group_out / k_part) * ceil(problem.group_in / c_part)


def split_as(
    problem: Problem, tile: Tile, grain: Grain, lanes: int, k_part: int, c_part: int, cut: Cut, chunks: int,
    way: Way, turned: bool,
) -> Split:  # fmt: skip
    """The split into these parts, boxes and chunks."""
    parts = _parts(problem, k_part, c_part)
    made = Split(tile, grain, lanes, k_part, c_part, cut, parts, chunks, 1, way.in_place)
    turns = turns_of(lanes, grain.sums)
    straight = turned and turns > 1 and cut.boxes == 1
    made = replace(made, sub=piece(made.elements, made.wide * grain.sums.bytes), straight=straight, staged=way.staged)
    work = _work(problem, made)
    return replace(made, cycles=cycles(work, turns), needed=cycles(work | {"stage": 0.0}, turns))


def piece(pixels: int, pixel_bytes: int) -> int:
    """Pixels of a piece of a box's panel: what the first cache holds beside other things.

    Pieces are about alike, and begin where lines of g do if the box does.
    """
    most = _panel_pixels(pixel_bytes)
    return min(most, ceil(pixels / ceil(pixels / most) / 16) * 16)


def _panel_pixels(pixel_bytes: int) -> int:
    """The most of a piece."""
    return max(16, min(256, target.cpu().l1_bytes * 2 // 3 // pixel_bytes))


def cycles(work: dict[str, float], turns: int) -> float:
    """Of one thread for so many of the units of ``_COST``."""
    return priced(work, _COST, _HALVED, turns)


def _of_elements(cut: Cut, grain: Grain) -> Cut:
    """The cut with whole elements in a box's rows, and at least one in those that are cut short."""
    wide, row = cut.box[3], cut.window.out[2]
    while wide < row and (wide % grain.depth or 0 < row % wide < grain.depth):
        wide += 1
    return cut if wide == cut.box[3] else Cut(cut.window, (*cut.box[:3], wide))


def _ways(problem: Problem, tile: Tile, grain: Grain, lanes: int) -> list[Way]:
    """How x may be read. Padding is framed, and so are pairs, and halves, unless each is widened for enough products.

    Where vectors take turns and frames have more numbers than uses, what tiles of few vectors read in place is priced.
    """
    if set(problem.spec.padding) != {(0, 0)} or grain.depth > 1:
        return [FRAMED]
    staged = [STAGED] if _stages(problem, grain, lanes) else []
    if not grain.widened or (tile.vectors >= HIDE_WIDENING and lanes > 1):
        return [IN_PLACE, *staged]
    gaps = turns_of(lanes, grain.sums) > 1 and _left_out(problem, tile.vectors * lanes) > 1
    return [FRAMED, *[IN_PLACE] * gaps, *staged]


def _stages(problem: Problem, grain: Grain, lanes: int) -> bool:
    """Whether a tile's numbers of x may be widened just before it: halves of a kernel of one tap without padding.

    With a stride of 2 along rows they are told apart as words.
    """
    spec = Window.of(problem).spec
    plain = spec.taps == 1 and set(spec.padding) == {(0, 0)} and spec.stride[2] <= 2
    return plain and grain.widened and turns_of(lanes, grain.sums) > 1


def _left_out(problem: Problem, wide: int) -> float:
    """Samples that strides leave out of windows, and frames have too, for each use of one by a tap and a panel of g."""
    return prod(problem.spec.stride) / (problem.spec.taps * ceil(problem.group_out / wide))


def _work(problem: Problem, split: Split) -> dict[str, float]:
    """What one thread does, counted in the units of ``_COST``."""
    cut, lanes, (depth, height, row) = split.cut, split.lanes, split.cut.window.out
    elements, runs = cut.window.batch * depth * height * split.grain.count(row), cut.box[0]
    if row % split.grain.depth:
        runs = prod(cut.box[:3])
    padded, passes = split.blocks * split.wide, ceil(split.c_part * problem.spec.taps / split.tile.steps)
    pieces, sums = ceil(split.elements / split.sub) * cut.boxes, padded * passes * split.tile.steps / lanes
    run_bytes = cut.pixels // cut.box[0] * problem.itemsize
    hidden = split.staged or not (split.in_place and split.grain.widened) or split.tile.vectors >= HIDE_WIDENING
    tile_cycles = split.tile.cycles_in(turns_of(lanes, split.grain.sums))
    tile_cycles += 0 if hidden else _WIDENED * split.tile.steps
    rows, run = split.staged * split.parts * split.blocks * passes * split.tile.steps, min(cut.box[3], split.sub)
    staged = cut.window.pixels / run * (ceil(run / lanes) + _RUN_VECTORS)
    packed = "pair" if split.grain.depth > 1 and problem.group_in == 1 else "pack"
    return {
        "product": split.parts * elements * split.blocks * passes * tile_cycles,
        "visit": split.parts * pieces * sums,
        packed: split.parts * elements * padded / lanes,
        "run": split.parts * padded / TURNED * max(pieces, cut.boxes * runs),
        "frame": split.parts * split.c_part * _framed_vectors(problem, split),
        "stage": rows * staged,
        "turn": split.parts * sums * split.put_away,
        "waiting": memory_wait(problem, run_bytes),
        "call": 1,
    }


def _framed_vectors(problem: Problem, split: Split) -> float:
    """Of a channel. Each row of halves ends in a vector of its own, which counts where much is left out of them."""
    cut, lanes, grain = split.cut, split.lanes, split.grain
    if split.in_place:
        return 0
    if grain.stored != grain.packed and _has_gaps(problem, lanes, grain):
        return cut.boxes * cut.box[0] * prod(cut.frame[:2]) * ceil(cut.frame[2] / lanes)
    return cut.plane * cut.boxes / lanes


def memory_wait(problem: Problem, run_bytes: float) -> float:
    """Cycles for the traffic, of which x and g alone are read in runs of pixels: gw is written in rows."""
    read_share = 1 - problem.written_bytes / problem.traffic_bytes
    return memory_cycles(problem.traffic_bytes) * (1 + read_share * _RUN_BYTES / run_bytes)
