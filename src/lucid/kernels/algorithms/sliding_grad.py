"""Weight gradient of small kernels of planes by rows that slide through registers.

The rows of g that meet a row of x at taps below each other are held in registers and age by a row a step, so both are
read once for up to ``downs`` taps down and all across, where they lie::

    for a row r of x, in vectors:                            one loop, its sums in registers
        for every tap across:   x shifted out of neighbours
            for every tap down:  sum[down][across] += g[r - down] * shifted

Halves of few taps across are loaded and widened at each tap instead, and bfloats multiplied in pairs of pixels, as they
lie. Where taps down are several passes and widening costs, the first pass, which has most products beside it, leaves
the rows of its strip in float32, on whole lines, and the others read those; or the first channel of x those of g. Rows
where not all of these taps meet one of g go through the same code for one tap down. Lanes outside g add nothing: an
infinity in x meets only the pixels it belongs to. A task is one channel of g with its group's channels of x, or all few
of g with some of x, which then comes once from where it is; all images of it in order, so that bits do not depend on
the number of threads. Of arrays that come from memory it is one image, so that tasks follow memory, and a second step
adds up the images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise, product
from math import ceil, prod
from typing import Any

import numpy as np

from lucid.kernels import jit, target
from lucid.kernels.algorithms.base import Executable, address, memory_cycles, priced, sum_type, turns_of, useful_threads
from lucid.kernels.algorithms.depthwise_sums import arrays, rows_adder, write_add_chunks
from lucid.kernels.algorithms.sliding_kernel import AHEAD_ROWS, ROOMY, WAITING, Row
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    bf16_dot,
    computed,
    convert,
    fma,
    i32,
    i64,
    lane_sum,
    lanes_below,
    lanes_inside,
    loaded_as,
    maximum,
    minimum,
    ptr,
    select,
    zeros,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, Launch
from lucid.kernels.plan import Problem

_LEAST_TASKS, _ENOUGH_TASKS = 8, 32
_MOST_DOWN = 4
_HALF = 0.6  # of a strip's cycles, if it is half a vector on a machine that takes a whole one in two turns
_LINE_BYTES = 64
_FEW_ACROSS = 5  # taps of halves that are widened at each: of more, slides take less
_KEPT_PART = 4  # of the second cache: what the rows of a strip that are kept may be, and no larger part
_PLANES_PART = 2  # of the second cache: what the planes at hand and the next ones may be, and no larger part
#: Cycles of one thread, fitted to 86 tiles in the second cache, 76 % of them within 10 %. A row is one vector long.
_COST = {
    "row": 2.2,
    "product": 0.34,
    "single": 0.6,  # a row that meets one tap down
    "split": 0.6,  # one whose vectors are dealt out
    "dealt": 0.0,  # a tap across of such a row
    "crowded": 0.38,  # a register beyond those that leave room
    "widened": 0.25,  # a vector of halves, which every channel of g does to x again
    "apart": 0.45,  # one that is loaded at its tap
    "apart alone": 0.15,  # the same beside rows of g that are kept
    "again": 2.2,  # a row of planes that are read for every pair of channels and leave the first cache
    "sum": 2.7,
    "pass": 14.0,
    "plane": 33.0,
    "line": 0.0,  # of the cache, from beyond the second one
    "lane sum": 0.0,
    "waiting": WAITING,  # for memory
    "asked": WAITING,  # the same where the next planes of g alone are asked for
    "call": 4000.0,
}
#: The same where they are others, on a Zen 4: 54 plans of random layers, half within 6 %, four fifths within 14.
_HALVED = {
    "row": 2.1,
    "product": 0.92,
    "single": 2.1,
    "split": 0.3,
    "dealt": 0.68,
    "crowded": 0.0,
    "widened": 0.7,
    "again": 3.5,
    "sum": 0.1,
    "pass": 42.0,
    "plane": 50.0,
    "line": 1.3,
    "lane sum": 5.8,
    "waiting": 2.5,
    "asked": 1.2,
    "call": 5700.0,
}
_AT_LEAST = 1.86  # times what memory takes, on a Zen 4 that asks for the next planes of both: ten layers, 12 to 77 MB
#: Of one pass: channel of g among a task's, row of a step, steps from there to its first tap, taps down, whether it
#: reads what is kept.
_PASS = ("result", "phase", "first", "downs", "reads")


@dataclass(frozen=True)
class GradTile:
    """``downs`` taps down by all of ``across`` (places in the source from a lane's first column on)."""

    downs: int
    across: tuple[int, ...]
    step: int  #: columns of the source from one lane to the next
    in_turns: bool = False  #: a unit takes an instruction in two turns
    half: bool = False  #: the last strip is half a vector, which takes one
    by_planes: bool = False  #: the next planes are asked for, into the second cache, not rows of these into the first
    apart: bool = False  #: x is loaded at every tap across, not shifted out of neighbours
    dots: bool = False  #: and bfloats side by side are multiplied in pairs, as they lie
    sizes: tuple[tuple[int, bool], ...] = ()  #: taps down that passes have, and whether they read what is kept
    from_first: bool = False  #: vectors of x begin at the first tap, and have no neighbours before
    narrow: bool = False  #: and of the one behind, for taps across, only half is read where that is enough
    keeps: bool = False  #: rows of g are left widened for who reads them again: other channels of x
    keeps_x: bool = False  #: or other passes of a strip, of which the first leaves both its rows

    @property
    def pixels(self) -> int:
        """Of a lane, side by side."""
        return 2 if self.dots else 1

    @property
    def first(self) -> int:
        """Column of x at which a lane's row of vectors begins."""
        return min(self.across) if self.from_first else 0

    def parts(self, lanes: int) -> int:
        """Vectors that are loaded of a row of x."""
        return len(self.across) if self.apart else len(self.row(lanes).places) * self.step

    def registers(self, lanes: int) -> int:
        """Sums, rows of g, vectors of x and one that is shifted."""
        return self.downs * (len(self.across) + 1) + (1 if self.apart else self.parts(lanes)) + 1

    def row(self, lanes: int) -> Row:
        """How a row of x is read, from its ``first`` column on."""
        shifts = tuple(at - self.first for at in self.across)
        half = self.narrow and 0 < max(shifts) <= lanes // 2
        return Row(shifts, self.step, 1, lanes, in_turns=self.in_turns, half=half)

    def kept_row(self, lanes: int) -> int:
        """Elements of a row of x that is kept."""
        return self.parts(lanes) * lanes


@dataclass(frozen=True)
class SlidingGrad:
    """A problem with its tile."""

    problem: Problem
    tile: GradTile
    lanes: int

    @property
    def columns(self) -> int:
        """Of g in a strip."""
        return self.lanes * self.tile.pixels

    @cached_property
    def passes(self) -> list[tuple[int, int, int]]:
        """(row of a step, steps to the first tap, taps down) of every pass."""
        found = _passes(self.problem, self.tile.downs)
        return _middle_first([downs for *_, downs in found]) if self.tile.keeps_x else found

    @property
    def chunks(self) -> int:
        """Parts of the images: one each where the arrays come from memory."""
        return self.problem.batch if self.problem.traffic_bytes > target.cpu().l3_bytes // 2 else 1

    @property
    def next_each(self) -> tuple[int, int]:
        """Elements of the next planes, of x and of g, that a row asks for, strip by strip and pass by pass."""
        p = self.problem
        rows = ceil(p.out[2] / self.columns) * len(self.passes) * p.out[1]
        return ceil(prod(p.size) / (rows * self.results)), ceil(p.pixels / rows)

    @property
    def part_elements(self) -> int:
        """Results of all chunks, with those of the bias; whole lines."""
        p = self.problem
        each = p.c_out * p.group_in * p.spec.taps + p.summed_channels
        return ceil(each * self.chunks / 16) * 16 if self.chunks > 1 else 0

    @property
    def results(self) -> int:
        """Channels of g of a task: all of a group's where they are few and channels of x are enough tasks."""
        p = self.problem
        return p.group_out if p.c_out < _LEAST_TASKS and p.c_in >= _ENOUGH_TASKS else 1

    @property
    def each(self) -> int:
        """Channels of x of a task: all of the group's, unless channels of g are too few tasks."""
        p = self.problem
        if p.c_out >= _LEAST_TASKS:
            return p.group_in
        return max(1, p.group_in // ceil(_ENOUGH_TASKS * self.results / p.c_out))

    @property
    def parts(self) -> int:
        """Tasks of the same channels of g."""
        return ceil(self.problem.group_in / self.each)

    @property
    def tasks(self) -> int:
        """Parts of all channels of g, of every chunk."""
        return self.chunks * self.problem.c_out // self.results * self.parts

    @property
    def private_elements(self) -> int:
        """A thread's sums, of every pair and of either's channels, vectors of them, whole lines."""
        sums = self.each * self.results * self.problem.spec.taps + max(self.each, self.results)
        return sums * max(self.lanes, 16)

    @property
    def kept_elements(self) -> int:
        """Rows of a strip of x and g, or of all strips of g; with rows outside g at both ends."""
        of_g = (self.problem.out[1] + 2 * _MOST_DOWN) * self.lanes
        if self.tile.keeps_x:
            return self.problem.size[1] * self.tile.kept_row(self.lanes) + of_g
        return ceil(self.problem.out[2] / self.lanes) * of_g

    @property
    def own_bytes(self) -> int:
        """The sums and what is kept, in bytes."""
        kept = self.kept_elements if self.tile.keeps else 0
        return (self.private_elements + kept) * sum_type(self.problem).bytes

    @property
    def cycles(self) -> float:
        """Expected, of one thread."""
        work = priced(self._work(), _COST, _HALVED, turns_of(self.lanes, sum_type(self.problem)))
        return max(work, _AT_LEAST * memory_cycles(self.problem.traffic_bytes)) if self.tile.by_planes else work

    def _work(self) -> dict[str, float]:
        """What one thread does, counted in the units of ``_COST``."""
        p, across, downs = self.problem, len(self.tile.across), [downs for *_, downs in self.passes]
        vectors = self.tile.parts(self.lanes) + 1  # of x, and one of g
        again = p.group_in * p.group_out > 1 and _planes_bytes(p) > target.cpu().l1_bytes
        planes = p.batch * p.c_out * p.group_in
        strips = planes * (ceil(p.out[2] / self.columns) - (1 - _HALF) * self.tile.half)
        rows, split = strips * p.out[1] * len(downs), self.tile.step > 1
        widened = rows / len(downs) if self.tile.keeps_x else rows
        return {
            "row": rows,
            "product": strips * p.out[1] * across * sum(downs),
            "single": strips * p.out[1] * downs.count(1),
            "split": rows * split,
            "dealt": rows * split * across,
            "crowded": rows * max(0, self.tile.registers(self.lanes) - ROOMY),
            "widened": widened * vectors * (p.itemsize < sum_type(p).bytes and not self.tile.apart),
            "apart": rows * vectors * self.tile.apart * (1 / self.each if self.tile.keeps else 1),
            "apart alone": rows * (vectors - 1) * (self.tile.apart and self.tile.keeps) * (1 - 1 / self.each),
            "again": rows * again,
            "sum": strips * across * sum(downs),
            "pass": strips * len(downs),
            "plane": planes,
            "line": max(0, p.traffic_bytes - target.cpu().l2_bytes) / _LINE_BYTES,
            "lane sum": p.c_out * p.group_in * p.spec.taps,
            "waiting": 0 if self.tile.by_planes else memory_cycles(p.traffic_bytes),
            "asked": memory_cycles(p.traffic_bytes) * (self.tile.by_planes and p.group_out > 1),
            "call": 1,
        }


def sliding_grad(problem: Problem, isa: ISA, downs: int | None = None) -> SlidingGrad | None:
    """The tile that is expected to be fastest, if any fits; or that of so many taps down."""
    spec, lanes = problem.spec, isa.lanes(sum_type(problem))
    across = tuple(t - spec.padding[2][0] for t in range(spec.kernel[2]))
    most = min(_MOST_DOWN, ceil(spec.kernel[1] / spec.stride[1]))
    in_turns = target.cpu().turns(isa) > 1
    side_by_side, few = spec.stride[2] == 1, len(across) <= _FEW_ACROSS
    dots = side_by_side and problem.dtype == "bfloat16" and isa.bf16_dot
    apart = dots or (side_by_side and problem.dtype == "float16" and in_turns and few)
    from_first = in_turns and (problem.itemsize < sum_type(problem).bytes or (side_by_side and few))
    narrow = from_first and side_by_side and problem.itemsize < sum_type(problem).bytes
    tile = GradTile(1, across, spec.stride[2], in_turns, apart=apart, dots=dots, from_first=from_first, narrow=narrow)
    columns = lanes * tile.pixels
    half = in_turns and 0 < problem.out[2] % columns <= columns // 2
    tile = replace(tile, half=half, by_planes=in_turns and _by_planes(problem))
    downs_asked = range(1, most + 1) if downs is None else (downs,)
    tiles = [_in_passes(problem, replace(tile, downs=n), lanes) for n in downs_asked]
    options = [SlidingGrad(problem, tile, lanes) for tile in tiles if tile.registers(lanes) <= isa.registers]
    return min(options, key=lambda option: option.cycles, default=None)


def _in_passes(problem: Problem, tile: GradTile, lanes: int) -> GradTile:
    """With the sizes of its passes, and what is kept where several passes, or several channels of x, widen the same."""
    downs = [downs for *_, downs in _passes(problem, tile.downs)]
    several = len(downs) > 1
    kept = SlidingGrad(problem, replace(tile, keeps=True, keeps_x=several, apart=tile.apart and not several), lanes)
    pays = tile.in_turns and problem.dtype == "float16" and problem.spec.stride[1:] == (1, 1)
    pays &= several or kept.results == 1 < kept.each
    near = target.cpu().l2_bytes // _KEPT_PART if several else target.cpu().l1_bytes // 2
    if not pays or kept.kept_elements * sum_type(problem).bytes > near:
        return replace(tile, sizes=tuple(sorted({(count, False) for count in downs})))
    again = {(count, True) for count in (downs[1:] if several else downs)}
    return replace(kept.tile, sizes=tuple(sorted({(downs[0], False), *again})))


def _passes(problem: Problem, downs: int) -> list[tuple[int, int, int]]:
    """The fewest of up to so many taps down, dealt out evenly: a row of one tap is read for few products."""
    kernel, stride = problem.spec.kernel[1], problem.spec.stride[1]
    found = []
    for phase in range(min(stride, kernel)):
        taps = ceil((kernel - phase) / stride)
        count = ceil(taps / downs)
        ends = [ceil(taps * n / count) for n in range(count + 1)]
        found += [(phase, first, end - first) for first, end in pairwise(ends)]
    return found


def _middle_first(sizes: list[int]) -> list[tuple[int, int, int]]:
    """Passes of a stride of 1, the longest in the middle: it meets most rows of x and of g, and comes first."""
    middle = len(sizes) // 2
    dealt = [*sizes[1 : middle + 1], sizes[0], *sizes[middle + 1 :]]
    ends = [0, *accumulate(dealt)]
    found = [(0, first, end - first) for first, end in pairwise(ends)]
    return [found[middle], *found[:middle], *found[middle + 1 :]]


def _by_planes(problem: Problem) -> bool:
    """Whether the next planes are asked for: of several channels small ones follow each other as rows do."""
    cpu, planes_bytes = target.cpu(), _planes_bytes(problem)
    return (problem.group_in == 1 or planes_bytes > cpu.l1_bytes) and planes_bytes <= cpu.l2_bytes // _PLANES_PART


def _planes_bytes(problem: Problem) -> int:
    """Of a plane of x and one of g."""
    return problem.itemsize * (prod(problem.size) + prod(problem.out))


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Dilations, few channels, long rows of taps."""
    if problem.spec.dilation[1:] != (1, 1):
        return "taps are apart"
    asked = sliding_grad(problem, isa)
    if asked is None:
        return "the rows in flight do not fit in registers"
    return f"{asked.tasks} pairs of channels are too few tasks" if asked.tasks < _LEAST_TASKS else None


_NUMBERS = (
    "batch", "groups", "group_in", "group_out", "h", "w", "oh", "ow", "low_h", "stride_h", "kernel_h", "private",
    "passes", "table", "add_rows", "sums_g", "sums_x", "pieces", "each", "results", "chunks", "weights", "biases",
    "next_x", "next_g", "kept",
)  # fmt: skip


def _fields(element: Type) -> dict[str, Type]:
    return {**arrays(element), **dict.fromkeys(_NUMBERS, i64), "table": ptr(i64), "add_rows": ptr(i64)}


def bind(asked: SlidingGrad, isa: ISA) -> Executable:
    """Every number of the shape is fixed."""
    problem, spec, tile = asked.problem, asked.problem.spec, asked.tile
    element, chunks = BY_DTYPE[problem.dtype], asked.chunks
    key = ("sliding_grad", problem.dtype, tile, chunks > 1)
    code = jit.kernel(key, lambda isa: _write(isa, element, tile, chunks > 1))
    passes = [(*one, tile.keeps_x and n > 0) for n, one in enumerate(asked.passes)]
    table = np.array([(k, *one) for k in range(asked.results) for one in passes], np.int64)
    weights, itemsize = problem.c_out * problem.group_in * spec.taps, sum_type(problem).bytes
    numbers = (
        problem.batch, problem.groups, problem.group_in, problem.group_out, *problem.size[1:], *problem.out[1:],
        spec.padding[1][0], spec.stride[1], spec.kernel[1], asked.own_bytes // itemsize, len(table), address(table),
        rows_adder(problem.dtype), int(problem.sums_g), int(problem.transposed),
        asked.parts, asked.each, asked.results, chunks, weights, problem.summed_channels * problem.bias,
        *asked.next_each, asked.private_elements,
    )  # fmt: skip
    part_bytes = asked.part_elements * itemsize
    steps = [(code.address("slide_grad"), asked.tasks, max(1, asked.tasks // 64))]
    parts = NOTHING
    if chunks > 1:
        parts = WORKSPACE
        steps.append((code.address("finish"), 1, 1))
    return Launch(
        steps,
        (0, 0, 0, 0, 0, chunks * weights * itemsize, part_bytes, *numbers),
        (0, 1, 2, 3 if problem.bias else NOTHING, parts, parts, WORKSPACE),
        shared_bytes=part_bytes,
        own_bytes=asked.own_bytes,
        most_threads=useful_threads(asked.cycles, asked.tasks),
        keep=table,
        batch_parts=chunks,
    )


def _write(isa: ISA, element: Type, tile: GradTile, chunked: bool) -> Module:
    """If it is ``chunked`` a task is for one image, or some, and its results are parts, that ``finish`` adds."""
    module, wide, fields = Module("sliding_grad", isa), computed(element), _fields(element)
    lanes, across = isa.lanes(wide), len(tile.across)
    columns = lanes * tile.pixels
    every = list(product(tile.sizes, (False, True) if tile.half else (False,)))
    runs = {(size, half): _write_run(module, element, tile, lanes, *size, half) for size, half in every}
    widen, pitch = _write_widen(module, element, lanes) if tile.keeps_x else None, tile.kept_row(lanes)
    f = module.entry("slide_grad", **fields)
    a = f.args
    plane, upstream, taps = a.h * a.w, a.oh * a.ow, a.kernel_h * across
    with f.loop(a.begin, a.end) as task:
        in_all, before = task.i // a.pieces, task.i % a.pieces * a.each
        in_image = a.groups * a.group_out // a.results
        chunk, channel = in_all // in_image, in_all % in_image * a.results
        group, count = channel // a.group_out, minimum(a.each, a.group_in - before)
        acc = a.own.at(a.thread * a.private)
        bias_acc = acc.at(a.results * a.each * taps * lanes)
        kept_x = acc.at(a.kept)
        kept_g = kept_x.at(a.h * pitch * tile.keeps_x + _MOST_DOWN * lanes)
        of_x = select((channel % a.group_out).eq(0), a.sums_x, 0) * count  # whose sums are this task's
        of_g = select(before.eq(0), a.sums_g, 0) * a.results
        with f.loop(0, a.results * a.each * taps + maximum(a.results, a.each)) as i:
            acc.store(zeros(f, wide, lanes), i.i * lanes)
        with f.loop(chunk * a.batch // a.chunks, (chunk + 1) * a.batch // a.chunks) as n:
            g = a.g.at((n.i * a.groups * a.group_out + channel) * upstream)
            planes = a.x.at(((n.i * a.groups + group) * a.group_in + before) * plane)
            following = _following(f, a, n.i, count * plane, a.groups * a.group_in * plane)
            following_g = _following(f, a, n.i, a.results * upstream, a.groups * a.group_out * upstream)
            ahead_x = select(of_x.ne(0), following, a.w * a.stride_h * AHEAD_ROWS)
            ahead_g = select(of_g.ne(0), following_g, a.ow * AHEAD_ROWS)
            with f.loop(0, of_g) as k:
                f.call(a.add_rows, g.at(k.i * upstream), a.ow, a.oh, a.ow, bias_acc.at(k.i * lanes))
            with f.loop(0, of_x) as s:
                f.call(a.add_rows, planes.at(s.i * plane), plane, 1, plane, bias_acc.at(s.i * lanes))
            with f.loop(0, count) as s, f.loop(0, a.ow, columns) as column, f.loop(0, a.passes) as p:
                x = planes.at(s.i * plane + column.i * tile.step)
                result, phase, first, downs, reads = (a.table.load(p.i * len(_PASS) + k) for k in range(len(_PASS)))
                # x's row r meets g's row q at tap (first + k) stride + phase: r = (q + first + k) stride + phase - low
                step, low = a.stride_h * (across * lanes), a.low_h - phase
                row = (result * a.each + s.i) * a.kernel_h + phase + first * a.stride_h
                to = acc.at(row * (across * lanes))
                begin = maximum((low + (a.stride_h - 1)) // a.stride_h - first, 0)
                end = minimum((a.h + low + (a.stride_h - 1)) // a.stride_h - first, a.oh + downs - 1)
                source, pixels = x.at((first * a.stride_h - low) * a.w), g.at(result * upstream + column.i)
                asks: tuple[Any, ...] = (source.at(ahead_x), pixels.at(ahead_g))
                if tile.by_planes:
                    last, done = s.i + 1 >= count, (column.i // columns * a.passes + p.i) * a.oh - begin
                    on_x, each_g = select(last, following - (count - 1) * plane, plane), select(last, a.next_g, 0)
                    on_g = select(last, following_g, 0)
                    x = planes.at(s.i * plane + on_x)
                    asks = (x.at(done * a.next_x), g.at(on_g + done * each_g), a.next_x, each_g)
                first_row = first - low  # of x, which row 0 of g meets
                wide_x, wide_g = kept_x.at(first_row * pitch), kept_g
                if tile.keeps and not tile.keeps_x:
                    reads, wide_g = select(s.i > 0, 1, reads), kept_g.at(column.i * (a.oh + 2 * _MOST_DOWN))
                if widen:
                    from_x = (planes.at(s.i * plane + column.i + tile.first), a.w, column.i + tile.first, kept_x, pitch)
                    of_both = (from_x, (pixels, a.ow, column.i, wide_g, lanes))
                    for rows, spans in zip(of_both, _missed(a, begin, end, first_row, downs), strict=True):
                        for at, until in spans:
                            with f.when(reads.eq(0) & (at < until)):
                                f.call(widen, *rows, at, until)
                ends = column.i + columns >= a.ow
                for ((most, kept), half), run in runs.items():
                    here = downs.eq(most) & (begin < end)
                    here = here & reads.eq(int(kept)) if tile.keeps else here
                    wide_rows = [wide_x, wide_g] if tile.keeps_x else [wide_g]
                    given_x = (wide_x, pitch) if kept and tile.keeps_x else (source, a.w * a.stride_h)
                    given_g = (wide_g, lanes) if kept else (pixels, a.ow)
                    with f.when(here & (ends if half else ~ends) if tile.half else here):
                        f.call(
                            run, given_x[0], given_g[0], to, step, a.w, column.i * tile.step, given_x[1], given_g[1],
                            a.ow - column.i, begin, end, a.oh, *asks, *(wide_rows if tile.keeps and not kept else ()),
                        )  # fmt: skip
        to_w, to_b = (a.parts.at(chunk * a.weights), a.bias_parts.at(chunk * a.biases)) if chunked else (a.gw, a.gb)
        with f.loop(0, a.results) as k, f.loop(0, count * taps) as i:
            total = lane_sum(acc.load((k.i * a.each * taps + i.i) * lanes, lanes))
            to_w.store(convert(total, to_w.pointee), ((channel + k.i) * a.group_in + before) * taps + i.i)
        first = select(a.sums_x.eq(0), channel, group * a.group_in + before)
        with f.loop(0, of_x + of_g) as k:
            to_b.store(convert(lane_sum(bias_acc.load(k.i * lanes, lanes)), to_b.pointee), first + k.i)
    if chunked:
        _write_finish(module, element, lanes)
    return module


def _write_finish(module: Module, element: Type, lanes: int) -> None:
    """The entry point ``finish``: adds the chunks."""
    add = write_add_chunks(module, element, lanes)
    f = module.entry("finish", **_fields(element))
    a = f.args
    for to, parts, count in ((a.gw, a.parts, a.weights), (a.gb, a.bias_parts, a.biases)):
        f.call(add, to, parts, count, count, a.chunks)


def _following(f: Function, a: Any, image: Value, task: Value, images: Value) -> Value:
    """How far on the planes lie that come next: those of the next image, or of the next ``task`` in the first one."""
    last = ((image + 1) * a.chunks % a.batch).eq(0)  # of a chunk; one of several chunks has one image
    return select(last, task - select(a.chunks.eq(1), image * images, 0), images)


def _missed(a: Any, begin: Value, end: Value, first_row: Value, downs: Value) -> list[list[tuple[Any, Any]]]:
    """Rows of x, and those of g, that a pass from ``begin`` to ``end`` does not read: before it and after it.

    Of x it reads those from ``first_row`` on, of g ``downs`` at once.
    """
    read_x = begin + first_row, end + first_row
    read_g = select(begin < end, begin - downs + 1, end), end
    return [
        [(0, minimum(at, count)), (maximum(minimum(until, count), 0), count)]
        for (at, until), count in ((read_x, a.h), (read_g, a.oh))
    ]


def _write_widen(module: Module, element: Type, lanes: int) -> Function:
    """Adds ``widen``: rows from ``begin`` to ``end``, from a ``column`` on, are kept as ``count`` numbers each."""
    f = module.function(
        "widen", rows=ptr(element), width=i64, column=i64, to=ptr(computed(element)), count=i64, begin=i64, end=i64
    )
    a = f.args
    with f.loop(a.begin, a.end) as row, f.loop(0, a.count, lanes) as at:
        there = lanes_inside(f, a.column + at.i, a.width, lanes)
        value = convert(a.rows.at(row.i * a.width).load(at.i, lanes, there), a.to.pointee)
        a.to.store(value, row.i * a.count + at.i)
    return f


def _write_run(
    module: Module, element: Type, tile: GradTile, acc_lanes: int, downs: int, kept: bool, half: bool
) -> Function:
    """Adds a function: acc[k step][across] += the products of rows of x and those of g that they meet.

    Of vectors of ``acc_lanes``, or of ``half`` of those. Rows that are ``kept`` are read as such; if others of the tile
    read them so, these are left in ``kept_x`` and ``kept_g``.

    Row ``q`` of x, from ``begin`` to ``end``, meets row q of g, of which there are ``oh``, at tap 0 down, and at tap k
    the one k rows before. At each it asks for a row more of ``next_x`` and ``next_g``, or, by planes, for so many
    elements of ``each``. Between rows for which some of these do not exist, each row of g is read once.
    """
    data, wide, across = ptr(element), computed(element), len(tile.across)
    lanes, keeps = acc_lanes // 2 if half else acc_lanes, tile.keeps and not kept
    more: dict[str, Any] = {"each_x": i64, "each_g": i64} if tile.by_planes else {}
    more |= {"kept_x": ptr(wide)} if keeps and tile.keeps_x else {}
    more |= {"kept_g": ptr(wide)} if keeps else {}
    of_x, of_g = (ptr(wide) if kept and there else data for there in (tile.keeps_x, True))
    f = module.function(
        f"run{downs}" + "_kept" * kept + "_half" * half, x=of_x, g=of_g, acc=ptr(wide), step=i64, w=i64,
        column=i64, x_row=i64, g_row=i64, left=i64, begin=i64, end=i64, oh=i64, next_x=data, next_g=data, **more,
    )  # fmt: skip
    a, row, locality = f.args, tile.row(lanes), 2 if tile.by_planes else 3
    each_x, each_g = (a.each_x, a.each_g) if tile.by_planes else (a.x_row, a.g_row)
    columns = lanes * tile.pixels
    inside = lanes_below(f, a.left, columns, i32)
    if tile.apart:  # pixels of a pair that are not both inside g: infinity by 0 is no number
        met = {at: lanes_inside(f, a.column + at, a.w, columns) for at in tile.across}
        met = {at: mask & inside if tile.dots else mask for at, mask in met.items()}
    else:
        masks = dict.fromkeys(row.reads) if kept and tile.keeps_x else row.masks(f, a.column + tile.first, a.w)
    places = [(a.step * k if k else 0, c * acc_lanes) for k in range(downs) for c in range(across)]

    def upstream(q: Value, k: int, there: Value | None) -> Value:
        return widened(a.g.at((q - k) * a.g_row), 0, there)

    def widened(row: Pointer, at: int, there: Value | None) -> Value:
        if tile.dots:
            return row.load(at, columns, there)
        return convert(row.load(at, lanes), wide) if there is None else loaded_as(wide, row, at, lanes, there)

    def read(x: Pointer, q: Value) -> Callable[[int], Value]:
        if tile.apart:
            return lambda at: widened(x, at, met[at])
        if tile.keeps_x:
            loaded = row.loaded(x if kept else x.at(tile.first), masks, wide)
            for i, part in loaded.items() if keeps else ():
                a.kept_x.at(q * tile.kept_row(acc_lanes)).store(part, i * lanes)
            shifted = row.shifted({(0, i): row.filled(part) for i, part in loaded.items()})
        else:
            shifted = row.read(x.at(tile.first), masks, wide)
        return lambda at: shifted(at - tile.first, 0)

    def added(one: Value, value: Value, total: Value, live: Value, all_there: bool) -> Value:
        if not tile.dots:
            return select(live, fma(one, value, total), total)
        both = bf16_dot(one, value, total)  # beside g both are zeros
        return both if all_there else select(live, both, total)

    def keep(q: Value, seen: list[Value], first: int) -> None:
        for k, one in enumerate(seen, first) if keeps else ():
            a.kept_g.at((q - k) * acc_lanes).store(one)

    def rows(first: Value, stop: Value, sums: list[Value], held: int) -> list[Value]:
        """The sums after some rows; ``held`` rows of g stay in registers from one to the next, and all exist."""
        some = lanes_below(f, select(first < stop, a.left, 0), columns, i32)
        older = [upstream(first, k, some) for k in range(1, held + 1)]
        if keeps and held:
            with f.when(first < stop):
                keep(first, older, 1)
        with f.loop(first, stop, carry=[*older, *sums]) as q:
            older, sums, x = q.values[:held], q.values[held:], a.x.at(q.i * a.x_row)
            for part in range(tile.step):
                a.next_x.prefetch(q.i * each_x + part * lanes, locality=locality)
            a.next_g.prefetch(q.i * each_g, locality=locality)
            live = [inside] * downs
            all_there = held == downs - 1
            if not all_there:
                left = [select((q.i - k).ult(a.oh), a.left, 0) for k in range(downs)]
                live = [lanes_below(f, count, columns, i32) for count in left]
            whole = kept and all_there
            seen = [*(upstream(q.i, k, None if whole else live[k]) for k in range(downs - held)), *older]
            keep(q.i, seen[: downs - held], 0)
            if tile.dots and not all_there:
                live = [lanes_below(f, count, lanes, i32) for count in left]
            value_at = read(x, q.i)
            for c, at in enumerate(tile.across):
                value = value_at(at)
                for k, (one, mask) in enumerate(zip(seen, live, strict=True)):
                    n = k * across + c
                    sums[n] = added(one, value, sums[n], mask, all_there)
            q.values = [*seen[:held], *sums]
        return q.values[held:]

    sums = [a.acc.at(at).load(c, lanes) for at, c in places]
    if downs == 1:
        sums = rows(a.begin, a.end, sums, 0)
    else:
        whole = minimum(maximum(a.begin, downs - 1), a.end)
        after = maximum(whole, minimum(a.end, a.oh))
        sums = rows(a.begin, whole, sums, 0)
        sums = rows(whole, after, sums, downs - 1)
        sums = rows(after, a.end, sums, 0)
    for total, (at, c) in zip(sums, places, strict=True):
        a.acc.at(at).store(total, c)
    return f
