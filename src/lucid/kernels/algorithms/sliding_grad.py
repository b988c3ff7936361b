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

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from math import ceil, prod

import numpy as np

from lucid.kernels import jit, target
from lucid.kernels.algorithms import sliding_grad_kernel
from lucid.kernels.algorithms.base import Executable, address, memory_cycles, priced, sum_type, turns_of, useful_threads
from lucid.kernels.algorithms.depthwise_sums import rows_adder
from lucid.kernels.algorithms.sliding_dealt import STEP, Dealt
from lucid.kernels.algorithms.sliding_grad_kernel import MOST_DOWN, GradTile
from lucid.kernels.algorithms.sliding_tile import ROOMY, WAITING
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, Launch, in_order
from lucid.kernels.plan import Problem

_LEAST_TASKS, _ENOUGH_TASKS = 8, 32
_MOST_ENDS = 2  # vectors of x at one end of a row that are not whole, each of which is code of its own
_FEWEST_SUMS = 6  # where g is dealt out: fewer wait for each other
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
    "pair": 0.45,  # likewise, of bfloats that are multiplied as they lie
    "apart alone": 0.15,  # the same beside rows of g that are kept
    "again": 2.2,  # a row of planes that are read for every pair of channels and leave the first cache
    "again widened": 2.2,  # the same of halves that are widened
    "sum": 2.7,
    "pass": 14.0,
    "plane": 33.0,
    "line": 0.0,  # of the cache, from beyond the second one
    "lane sum": 0.0,
    "waiting": WAITING,  # for memory
    "asked": WAITING,  # the same where the next planes of g alone are asked for
    # where g is dealt out, which is offered only where vectors take two turns
    "dealt plane": 0.0,
    "dealt row": 0.0,
    "dealt vector": 0.0,
    "dealt end": 0.0,
    "dealt product": 0.0,
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
    "pair": 0.0,
    "again": 3.5,
    "again widened": 0.0,
    "sum": 0.1,
    "pass": 42.0,
    "plane": 50.0,
    "line": 1.3,
    "lane sum": 5.8,
    "waiting": 2.5,
    "asked": 1.2,
    "dealt plane": 88.0,
    "dealt row": 1.9,
    "dealt vector": 1.85,
    "dealt end": 1.5,
    "dealt product": 1.15,
    "call": 5700.0,
}
_AT_LEAST = 1.86  # times what memory takes, on a Zen 4 that asks for the next planes of both: ten layers, 12 to 77 MB


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
        if self.tile.dealt:
            return [(0, 0, self.tile.downs)]
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
        strips = ceil(p.size[2] / self.lanes) if self.tile.dealt else ceil(p.out[2] / self.columns)
        rows = strips * len(self.passes) * p.out[1]
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
        of_g = (self.problem.out[1] + 2 * MOST_DOWN) * self.lanes
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
        work = self.near_cycles
        return max(work, _AT_LEAST * memory_cycles(self.problem.traffic_bytes)) if self.tile.by_planes else work

    @cached_property
    def near_cycles(self) -> float:
        """The same if what is asked for were there."""
        return priced(self._work(), _COST, _HALVED, turns_of(self.lanes, sum_type(self.problem)))

    def _work(self) -> dict[str, float]:
        """What one thread does, counted in the units of ``_COST``."""
        if self.tile.dealt:
            return self._dealt_work(self.tile.dealt)
        p, across, downs = self.problem, len(self.tile.across), [downs for *_, downs in self.passes]
        vectors = self.tile.parts(self.lanes) + 1  # of x, and one of g
        again = p.group_in * p.group_out > 1 and _planes_bytes(p) > target.cpu().l1_bytes
        planes = p.batch * p.c_out * p.group_in
        strips = planes * (ceil(p.out[2] / self.columns) - (1 - _HALF) * self.tile.half)
        rows, split = strips * p.out[1] * len(downs), self.tile.step > 1
        widened = rows / len(downs) if self.tile.keeps_x else rows
        apart = "pair" if self.tile.dots else "apart"
        narrow = p.itemsize < sum_type(p).bytes
        return {
            "row": rows,
            "product": strips * p.out[1] * across * sum(downs),
            "single": strips * p.out[1] * downs.count(1),
            "split": rows * split,
            "dealt": rows * split * across,
            "crowded": rows * max(0, self.tile.registers(self.lanes) - ROOMY),
            "widened": widened * vectors * (narrow and not self.tile.apart),
            apart: rows * vectors * self.tile.apart * (1 / self.each if self.tile.keeps else 1),
            "apart alone": rows * (vectors - 1) * (self.tile.apart and self.tile.keeps) * (1 - 1 / self.each),
            "again widened" if narrow and not self.tile.dots else "again": rows * again,
            "sum": strips * across * sum(downs),
            "pass": strips * len(downs),
        } | self._work_beside(planes)

    def _work_beside(self, planes: int) -> dict[str, float]:
        """What is counted alike in both: so many pairs of planes, memory, results."""
        p = self.problem
        return {
            "plane": planes,
            "line": max(0, p.traffic_bytes - target.cpu().l2_bytes) / _LINE_BYTES,
            "lane sum": p.c_out * p.group_in * p.spec.taps,
            "waiting": 0 if self.tile.by_planes else memory_cycles(p.traffic_bytes),
            "asked": memory_cycles(p.traffic_bytes) * (self.tile.by_planes and p.group_out > 1),
            "call": 1,
        }

    def _dealt_work(self, tile: Dealt) -> dict[str, float]:
        """The same where g is dealt out."""
        p = self.problem
        planes = p.batch * p.c_out * p.group_in
        rows = planes * p.out[1]
        vectors = rows * ceil(p.size[2] / self.lanes)
        return {
            "dealt plane": planes,
            "dealt row": rows,
            "dealt vector": vectors,
            "dealt end": rows * (tile.before + tile.behind),
            "dealt product": vectors * tile.sums,
            "widened": vectors * tile.loads * (p.itemsize < sum_type(p).bytes),
        } | self._work_beside(planes)


def sliding_grad(problem: Problem, isa: ISA, downs: int | None = None) -> SlidingGrad | None:
    """The tile that is expected to be fastest, if any fits; or that of so many taps down."""
    spec, lanes = problem.spec, isa.lanes(sum_type(problem))
    across = tuple(t - spec.padding[2][0] for t in range(spec.kernel[2]))
    most = min(MOST_DOWN, ceil(spec.kernel[1] / spec.stride[1]))
    in_turns = target.cpu().turns(isa) > 1
    side_by_side, few = spec.stride[2] == 1, len(across) <= _FEW_ACROSS
    dots = side_by_side and problem.dtype == "bfloat16" and isa.bf16_dot
    apart = dots or (side_by_side and problem.dtype == "float16" and in_turns and few)
    from_first = in_turns and (problem.itemsize < sum_type(problem).bytes or (side_by_side and few))
    narrow = from_first and spec.stride[2] <= 2 and problem.itemsize < sum_type(problem).bytes
    tile = GradTile(1, across, spec.stride[2], in_turns, apart=apart, dots=dots, from_first=from_first, narrow=narrow)
    columns = lanes * tile.pixels
    half = in_turns and 0 < problem.out[2] % columns <= columns // 2
    tile = replace(tile, half=half, by_planes=in_turns and _by_planes(problem))
    downs_asked = range(1, most + 1) if downs is None else (downs,)
    tiles = [_in_passes(problem, replace(tile, downs=n), lanes) for n in downs_asked]
    if in_turns and downs in (None, spec.kernel[1]):
        tiles += _dealt(problem, tile, lanes)
    options = [SlidingGrad(problem, tile, lanes) for tile in tiles if tile.registers(lanes) <= isa.registers]
    return min(options, key=lambda option: (option.cycles, option.near_cycles), default=None)


def _dealt(problem: Problem, tile: GradTile, lanes: int) -> list[GradTile]:
    """The tile that deals rows of g out to lanes of x, where those of x have two taps each."""
    downs = problem.spec.kernel[1]
    if problem.spec.stride[2] != STEP:
        return []
    dealt = Dealt.of(downs, tile.across, problem.spec.stride[1], lanes, problem.size[2], problem.out[2])
    held = dealt.reach[1] - dealt.reach[0] <= lanes // STEP and max(dealt.before, dealt.behind) <= _MOST_ENDS
    if not held or dealt.sums < _FEWEST_SUMS:
        return []
    return [replace(tile, downs=downs, half=False, dealt=dealt)]


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


def bind(asked: SlidingGrad, isa: ISA) -> Executable:
    """Every number of the shape is fixed."""
    problem, spec, tile = asked.problem, asked.problem.spec, asked.tile
    element, chunks = BY_DTYPE[problem.dtype], asked.chunks
    key = ("sliding_grad", problem.dtype, tile, chunks > 1)
    code = jit.kernel(key, lambda isa: sliding_grad_kernel.write(isa, element, tile, chunks > 1))
    passes = [(*one, tile.keeps_x and n > 0) for n, one in enumerate(asked.passes)]
    table = np.array([(k, *one) for k in range(asked.results) for one in passes], np.int64)
    weights, itemsize = problem.c_out * problem.group_in * spec.taps, sum_type(problem).bytes
    (_, h, w), (_, oh, ow), (next_x, next_g) = problem.size, problem.out, asked.next_each
    numbers = in_order(sliding_grad_kernel.NUMBERS, {
        "batch": problem.batch, "groups": problem.groups, "group_in": problem.group_in,
        "group_out": problem.group_out, "h": h, "w": w, "oh": oh, "ow": ow, "low_h": spec.padding[1][0],
        "stride_h": spec.stride[1], "kernel_h": spec.kernel[1], "private": asked.own_bytes // itemsize,
        "passes": len(table), "table": address(table), "add_rows": rows_adder(problem.dtype),
        "sums_g": int(problem.sums_g), "sums_x": int(problem.transposed), "pieces": asked.parts, "each": asked.each,
        "results": asked.results, "chunks": chunks, "weights": weights,
        "biases": problem.summed_channels * problem.bias, "next_x": next_x, "next_g": next_g,
        "kept": asked.private_elements,
    })  # fmt: skip
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
