"""Gradients of kernels of one row on one channel: pixels in lanes, both arrays read where they lie.

Filter banks and depthwise layers of long rows. Input gradients are in ``lines_input``; for those of weights a row of g
is met by its row of x at every tap, a segment that the first cache holds at a time::

    for rows, for segments of a row:
        for taps, some at a time:                            sums in registers, kept in the first cache
            for 16 pixels at a time:
                sum[result][tap] += g[result][pixels] * x[pixels + tap]

The first taps ask for what comes next in memory, the next segment or the first of the next row, so memory is read while
products are made; where vectors take two turns, and the first cache holds no two segments, all taps share that, and ask
for it in the second one. Only where a window leaves x are lanes masked. A task is ``results`` channels of g and some of
the images; parts are added in order, so bits do not depend on the number of threads. Where vectors take two turns, a
segment of x in half precision that several rows of g meet is widened once, into the first cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from math import ceil, prod

from lucid.kernels import jit, target
from lucid.kernels.algorithms import lines_input, lines_strided, lines_tile
from lucid.kernels.algorithms.base import (
    GHZ,
    Executable,
    far_bytes,
    memory_cycles,
    sum_type,
    turns_of,
    useful_threads,
)
from lucid.kernels.algorithms.depthwise_sums import arrays
from lucid.kernels.algorithms.lines_tile import HALVED, RowSums, Tile
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    computed,
    convert,
    fma,
    i32,
    i64,
    lane_sum,
    lanes_below,
    lanes_inside,
    maximum,
    minimum,
    ptr,
    select,
    zeros,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, Launch, in_order
from lucid.kernels.plan import Plan, Problem, Role

name = "lines"
roles: tuple[Role, ...] = ("grad_input", "grad_weight")
dtypes = ("float32", "float64", "float16", "bfloat16")

_MOST_TAPS = 32
_MOST_OF_WEIGHTS = 65  # where vectors take two turns, and neighbours are as many
_TASKS = 16  # wanted at least
_LONG_ROW = 16  # pixels for each sum that is made of them
_SEGMENT_BYTES = 4096  # of each row that is read
_LINE_BYTES = 64
_MOST_HALO = 256  # columns of x that two segments both widen
_WAITING = 0.85  #: for memory, of what others wait: rows are read a page at a time


class Lines(RowSums):
    """The images in chunks."""

    @property
    def rows(self) -> int:
        """Of an image's channel."""
        return prod(self.problem.out[:2])

    @cached_property
    def chunks(self) -> int:
        """Parts of the images.

        An image each where rows of g share one of x, so that x stays in a cache; and where rows come from memory, in
        whose order tasks then are, and are long enough to make little of the parts.
        """
        p, tasks = self.problem, self.problem.groups * self.blocks
        long = p.pixels >= _LONG_ROW * (sum(self.tile.passes) + 1)
        by_image = self.blocks > 1 or (long and far_bytes(p.traffic_bytes) > 0)
        return p.batch if by_image else min(p.batch, ceil(_TASKS / tasks))

    @property
    def halo(self) -> int:
        """Columns of x that meet a segment beyond as many as it has."""
        return (self.problem.spec.kernel[2] - 1) * self.problem.spec.dilation[2]

    @property
    def widens(self) -> bool:
        """Whether a segment of x is widened once: a conversion at every tap takes as long as two products there."""
        narrow = self.problem.itemsize < self.element.bytes and turns_of(self.lanes, self.element) > 1
        return narrow and self.tile.results > 1 and sum(self.tile.passes) > 1 and self.halo <= _MOST_HALO

    @property
    def segment(self) -> int:
        """Pixels of a row that are read at a time: whole vectors, and as even as may be."""
        width = self.problem.out[2]
        pieces = ceil(width * (self.element.bytes if self.widens else self.problem.itemsize) / _SEGMENT_BYTES)
        return ceil(width / pieces / self.lanes) * self.lanes

    @property
    def alone(self) -> bool:
        """Whether there are no parts to add, or to round."""
        return self.chunks == 1 and self.element == BY_DTYPE[self.problem.dtype]

    @property
    def private_elements(self) -> int:
        """A thread's sums, with those of g, once and for passes where they are not wanted again; x; whole lines."""
        room = ceil((self.segment + self.halo + 2 * self.lanes) / 16) * 16 if self.widens else 0
        return (self.tile.sums + 2 * self.tile.results) * max(self.lanes, 16) + room

    @property
    def part_elements(self) -> int:
        """Results of all chunks, with those of the bias."""
        return 0 if self.alone else ceil(self.chunks * self.problem.c_out * (sum(self.tile.passes) + 1) / 16) * 16

    @property
    def workspace_bytes(self) -> int:
        """Parts, and a thread's sums."""
        return (self.private_elements + self.part_elements) * self.element.bytes

    @property
    def cycles(self) -> float:
        """Expected, of one thread."""
        p, width = self.problem, self.problem.out[2]
        vectors, segments = ceil(width / self.lanes), ceil(width / self.segment)
        if turns_of(self.lanes, self.element) > 1:
            return self._in_turns(p.batch * p.groups * self.blocks * self.rows * vectors)
        each = self.tile.cycles(self.lanes * self.element.bytes)
        row = vectors * each + segments * (2 * self.tile.sums + 30 * len(self.tile.passes))
        sums = p.batch * p.groups * self.blocks * self.rows * row + self.tasks * 6 * self.tile.sums
        return max(1.05 * sums, _WAITING * memory_cycles(p.traffic_bytes)) + 3000

    @property
    def _edges(self) -> int:
        """Vectors of a row, at every tap, whose lanes are masked in its pass as they may be outside."""
        p, first, found = self.problem, 0, 0
        whole = p.out[2] // self.lanes
        for taps in self.tile.passes:
            low = first * p.spec.dilation[2] - p.spec.padding[2][0]
            high = low + (taps - 1) * p.spec.dilation[2]
            inside = min(max(0, ceil(-low / self.lanes)), whole)
            outside = max(inside, min(whole, (p.size[2] - high) // self.lanes))
            found += taps * (inside + ceil(p.out[2] / self.lanes) - outside)
            first += taps
        return found

    def _in_turns(self, vectors: int) -> float:
        """The same where a vector takes two turns, and loads that straddle two lines of the cache four, of so many."""
        p, tile = self.problem, self.tile
        lines = max(0, p.traffic_bytes - target.cpu().l2_bytes // 2) / _LINE_BYTES
        work = {
            "product": vectors * tile.sums,
            "load": vectors * (tile.results * len(tile.passes) + sum(tile.passes)),
            "upstream": vectors * tile.results,
            "edge": p.batch * p.groups * self.blocks * self.rows * tile.results * self._edges,
            "lane sum": self.tasks * tile.sums,
            "line": lines,
            "waiting": memory_cycles(p.traffic_bytes),
            "call": 1,
        }
        return sum(HALVED[unit] * count for unit, count in work.items())


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Planes, strides, several channels, many taps."""
    spec = problem.spec
    rows = spec.kernel[:2] == (1, 1) and spec.padding[:2] == ((0, 0), (0, 0)) and spec.stride[:2] == (1, 1)
    strided = target.cpu().turns(isa) > 1  # as far as it has been measured
    if not rows or (spec.stride[2] > 1 and not strided):
        return "a row of g meets several of x, or not every pixel of one"
    if problem.group_in > 1:
        return f"{problem.group_in} channels of x in a group"
    weights = problem.role == "grad_weight" and strided and spec.stride[2] == 1
    if spec.kernel[2] > (_MOST_OF_WEIGHTS if weights else _MOST_TAPS):
        return f"{spec.kernel[2]} taps are too many"
    if problem.role == "grad_input":
        return lines_input.refuses(problem, isa)
    return lines_strided.refuses(problem, isa) if spec.stride[2] > 1 else None


def lines(problem: Problem, isa: ISA, chosen: Tile | None = None) -> Lines:
    """With the tile that is expected to be fastest, unless one has been chosen."""
    best = chosen or lines_tile.fastest(problem, isa)
    assert best is not None, "one result of one tap fits any registers"
    return Lines(problem, best, isa.lanes(sum_type(problem)))


def _in_rows(problem: Problem) -> Problem:
    """With all of a channel's pixels in one row, where each meets but one."""
    if problem.spec.taps > 1 or problem.spec.padding[2] != (0, 0) or problem.spec.stride[2] > 1:
        return problem
    return replace(problem, size=(1, 1, prod(problem.size)), out=(1, 1, prod(problem.out)))


def plan(problem: Problem, isa: ISA) -> Plan:
    """The tile and the cut."""
    if problem.role == "grad_input":
        return _plan_input(problem, isa)
    if problem.spec.stride[2] > 1:
        strided = lines_strided.lines_strided(problem, isa)
        return _plan_weights(strided, problem, isa, "pixels in lanes, x dealt out by the stride")
    return _plan_weights(lines(_in_rows(problem), isa), problem, isa, "pixels in lanes, rows read in place")


def _plan_weights(asked: RowSums, problem: Problem, isa: ISA, way: str) -> Plan:
    return Plan(
        name,
        problem,
        isa.name,
        expected_ns=asked.cycles / GHZ,
        tile=(("results", asked.tile.results), ("passes", len(asked.tile.passes))),
        blocking=(("segment", asked.segment), ("chunks", asked.chunks)),
        workspace_bytes=asked.workspace_bytes,
        why=f"{way}, {max(asked.tile.passes)} taps at a time",
        sums_upstream=not problem.transposed,
    )


def _plan_input(problem: Problem, isa: ISA) -> Plan:
    asked = lines_input.lines_input(_in_rows(problem), isa)
    return Plan(
        name,
        problem,
        isa.name,
        expected_ns=asked.cycles / GHZ,
        tile=(("vectors", asked.tile.vectors), ("passes", len(asked.tile.passes))),
        blocking=(("segment", asked.segment),),
        workspace_bytes=asked.private_elements * asked.element.bytes,
        why=f"rows read in place, {max(asked.tile.passes)} taps at a time, added up where they meet",
    )


def bind(plan: Plan, isa: ISA) -> Executable:
    """The kernel with every number of the shape fixed."""
    problem = _in_rows(plan.problem)
    if problem.role == "grad_input":
        tile = lines_input.Tile(plan["vectors"], lines_input.even(problem.spec.kernel[2], plan["passes"]))
        return lines_input.bound(lines_input.lines_input(problem, isa, tile))
    sums = Tile(plan["results"], lines_input.even(problem.spec.kernel[2], plan["passes"]))
    if problem.spec.stride[2] > 1:
        return lines_strided.bound(lines_strided.lines_strided(problem, isa, sums))
    return bound(lines(problem, isa, sums), isa)


# -- calls ------------------------------------------------------------------------------------------------------------

_NUMBERS = (
    "batch", "groups", "blocks", "rows", "w", "ow", "chunks", "segment", "low", "dilation", "private",
    "next_g", "next_x", "sharing", "has_bias", "weights", "channels", "halo",
)  # fmt: skip


def _fields(element: Type) -> dict[str, Type]:
    return arrays(element) | dict.fromkeys(_NUMBERS, i64)


def bound(asked: Lines, isa: ISA) -> Executable:
    """One tile's kernel, likewise."""
    problem, spec, tile, rows = asked.problem, asked.problem.spec, asked.tile, asked.rows
    element, itemsize = BY_DTYPE[problem.dtype], asked.element.bytes
    widens = asked.widens
    code = jit.kernel(("lines", problem.dtype, tile, widens), lambda isa: _write(isa, element, tile, widens))
    by_image = asked.chunks == problem.batch  # then blocks follow each other in memory
    numbers = in_order(_NUMBERS, {
        "batch": problem.batch, "groups": problem.groups, "blocks": asked.blocks, "rows": rows,
        "w": problem.size[2], "ow": problem.out[2], "chunks": asked.chunks, "segment": asked.segment,
        "low": spec.padding[2][0], "dilation": spec.dilation[2], "private": asked.private_elements,
        "next_g": (tile.results if by_image else problem.c_out) * rows * problem.out[2],
        "next_x": (1 if by_image else problem.c_in) * rows * problem.size[2],
        "sharing": asked.blocks - 1 if by_image else 0, "has_bias": int(problem.bias),
        "weights": problem.c_out * spec.kernel[2], "channels": problem.c_out, "halo": asked.halo,
    })  # fmt: skip
    part_bytes, gb = asked.part_elements * itemsize, 3 if problem.bias else NOTHING
    bias_parts = 0 if asked.alone else asked.chunks * problem.c_out * spec.kernel[2] * itemsize
    steps = [(code.address("accumulate"), asked.tasks, max(1, asked.tasks // 64))]
    if not asked.alone:
        rest = jit.kernel(("lines_finish", problem.dtype), lambda isa: _write_finish(isa, element))
        steps.append((rest.address("finish"), 1, 1))
    return Launch(
        steps,
        (0, 0, 0, 0, 0, bias_parts, part_bytes, *numbers),
        (0, 1, 2, gb, *((2, gb) if asked.alone else (WORKSPACE, WORKSPACE)), WORKSPACE),
        shared_bytes=part_bytes,
        own_bytes=asked.private_elements * itemsize,
        most_threads=useful_threads(asked.cycles, asked.tasks),
        batch_parts=asked.chunks if asked.chunks in (1, problem.batch) else 0,
    )


# -- the kernel -------------------------------------------------------------------------------------------------------


def _write(isa: ISA, element: Type, tile: Tile, widens: bool) -> Module:
    module, wide, fields = Module("lines", isa), computed(element), _fields(element)
    lanes = isa.lanes(wide)
    add = _Segments(module, element, lanes, tile, widens)
    f = module.entry("accumulate", **fields)
    a = f.args
    with f.loop(a.begin, a.end) as task:
        block, rest = task.i % a.blocks, task.i // a.blocks
        group, chunk = rest % a.groups, rest // a.groups
        acc = a.own.at(a.thread * a.private)
        bias_acc, room = acc.at(tile.sums * lanes), (tile.sums + 2 * tile.results) * lanes
        with f.loop(0, tile.sums + tile.results) as i:
            acc.store(zeros(f, wide, lanes), i.i * lanes)
        channel, plane = (group * a.blocks + block) * tile.results, a.rows * a.ow
        with f.loop(chunk * a.batch // a.chunks, (chunk + 1) * a.batch // a.chunks) as n, f.loop(0, a.rows) as row:
            x = a.x.at(((n.i * a.groups + group) * a.rows + row.i) * a.w)
            g = a.g.at((n.i * a.channels + channel) * plane + row.i * a.ow)
            last = row.i.eq(a.rows - 1)
            after_g, after_x = select(last, a.next_g - row.i * a.ow, a.ow), select(last, a.next_x - row.i * a.w, a.w)
            after_x = select(last & (block < a.sharing), -(row.i * a.w), after_x)
            with f.loop(0, a.ow, a.segment) as at:
                stop = minimum(at.i + a.segment, a.ow)
                ended = stop.eq(a.ow)
                ahead_g = select(ended, after_g - at.i, a.segment)
                ahead_x = select(ended, after_x - at.i, a.segment)
                near = _widened(f, x, acc.at(room), lanes, at.i, stop, ahead_x) if widens else x
                add(f, near, g, acc, plane, at.i, stop, ahead_g, ahead_x)
        taps, first = sum(tile.passes), 0
        to = a.parts.at(chunk * a.weights + channel * taps)
        for count in tile.passes:
            with f.loop(0, tile.results) as k, f.loop(0, count) as c:
                total = acc.load((k.i * count + c.i + first * tile.results) * lanes, lanes)
                to[k.i * taps + c.i + first] = lane_sum(total)
            first += count
        with f.loop(0, tile.results * a.has_bias) as k:
            a.bias_parts[chunk * a.channels + channel + k.i] = lane_sum(bias_acc.load(k.i * lanes, lanes))
    return module


def _widened(
    f: Function, x: Pointer, room: Pointer, lanes: int, start: Value, stop: Value, ahead: Value
) -> Pointer:  # fmt: skip
    """A row of x, of which ``room`` has the columns that a segment meets, in float32; asks for the next ones."""
    a = f.args
    begin, end = maximum(start - a.low, f.const(i64, 0)), minimum(stop + a.halo - a.low, a.w)
    row, whole = room.at(-begin), end - (end - begin) % lanes
    for first, stop_at, masked in ((begin, whole, False), (whole, end, True)):
        with f.loop(first, stop_at, lanes) as i:
            live = lanes_below(f, end - i.i, lanes, i32) if masked else None
            x.prefetch(i.i + ahead, locality=2)
            row.store(convert(x.load(i.i, lanes, live), room.pointee), i.i)
    return row


class _Segments:
    """The functions that add a segment's products, for every number of taps; called, all passes."""

    def __init__(self, module: Module, element: Type, lanes: int, tile: Tile, widened: bool) -> None:
        def sums(taps: int, **kind: bool) -> Function:
            return _write_sums(module, element, lanes, tile, taps, widened, **kind)

        self.tile, self.lanes = tile, lanes
        self.edges = {taps: sums(taps, edge=True) for taps in {*tile.passes}}
        self.first = sums(tile.passes[0], asks=True)
        self.others = {taps: sums(taps) for taps in {*tile.passes[1:]}}

    def __call__(
        self, f: Function, x: Pointer, g: Pointer, acc: Pointer, plane: Value, start: Value, stop: Value,
        ahead_g: Value, ahead_x: Value,
    ) -> None:  # fmt: skip
        """Columns from ``start`` to ``stop``: those whose windows leave x go under masks, the others as they are."""
        a, lanes, first = f.args, self.lanes, 0
        whole_lines = start + (stop - start) // lanes * lanes
        for n, taps in enumerate(self.tile.passes):
            low = first * a.dilation - a.low  # of x's column, from g's
            high = low + (taps - 1) * a.dilation
            inside = minimum(maximum(start, (lanes - 1 - low) // lanes * lanes), whole_lines)
            outside = maximum(inside, minimum(whole_lines, (a.w - high) // lanes * lanes))
            of_g = acc.at((self.tile.sums + self.tile.results * (n > 0)) * lanes)
            shared = (x, g, acc.at(first * self.tile.results * lanes), of_g, plane, low, a.dilation)
            whole = self.others[taps] if n else self.first
            asked = plane * min(self.tile.first_asks + max(n - 1, 0), self.tile.results - 1)
            for function, begin, end in (
                (self.edges[taps], start, inside), (whole, inside, outside), (self.edges[taps], outside, stop),
            ):  # fmt: skip
                with f.when(begin < end):
                    f.call(function, *shared, begin, end, a.w, a.ow, ahead_g, ahead_x, asked)
            first += taps


def _write_sums(
    module: Module, element: Type, lanes: int, tile: Tile, taps: int, widened: bool,
    edge: bool = False, asks: bool = False,
) -> Function:  # fmt: skip
    """Adds a function: acc[result][tap] += the products of the columns from ``begin`` to ``end``; x may be ``widened``.

    One that ``asks`` for the columns that are so much ahead in both arrays adds g itself to ``of_g`` too, as one does
    for an ``edge``, where columns may be outside. Where asking is shared, others ask for the row that is ``asked``.
    """
    wide = computed(element)
    shared = turns_of(lanes, wide) > 1
    kind = "edge" if edge else "first" if asks else "sums"
    f = module.function(
        f"{kind}{taps}", x=ptr(wide if widened else element), g=ptr(element), acc=ptr(wide), of_g=ptr(wide),
        plane=i64, low=i64, dilation=i64, begin=i64, end=i64, w=i64, ow=i64, ahead_g=i64, ahead_x=i64, asked=i64,
    )  # fmt: skip
    a = f.args
    planes = [a.plane * k if k else f.const(i64, 0) for k in range(tile.results)]
    offsets = [a.low + a.dilation * c if c else a.low for c in range(taps)]
    places = [a.acc.at(k * lanes) for k in range(tile.results * taps)]
    if edge or asks:
        places += [a.of_g.at(k * lanes) for k in range(tile.results)]
    with f.loop(a.begin, a.end, lanes, carry=[place.load(0, lanes) for place in places]) as i:
        live = lanes_below(f, a.ow - i.i, lanes, i32) if edge else None
        rows = [a.g.at(plane).at(i.i) for plane in planes]
        if asks:
            if not widened:  # or it was asked for there
                a.x.prefetch(i.i + a.ahead_x, locality=2 if shared else 3)
            for row in rows[: tile.first_asks if shared else None]:
                row.prefetch(a.ahead_g, locality=2 if shared else 3)
        elif shared and not edge:
            a.g.prefetch(a.asked + i.i + a.ahead_g, locality=2)
        upstream = [convert(row.load(0, lanes, live), wide) for row in rows]
        i.values = _products(f, a.x.at(i.i), i.i, offsets, upstream, i.values, live)
    for place, total in zip(places, i.values, strict=True):
        place.store(total)
    return f


def _products(
    f: Function, x: Pointer, column: Value, offsets: Sequence[Value], upstream: Sequence[Value],
    sums: Sequence[Value], live: Value | None,
) -> list[Value]:  # fmt: skip
    """The sums after a vector of pixels, of which some are ``live``, or all."""
    lanes, taps, added = upstream[0].type.lanes, len(offsets), list(sums)
    for c, offset in enumerate(offsets):
        there = None if live is None else lanes_inside(f, column + offset, f.args.w, lanes)
        value = convert(x.at(offset).load(0, lanes, there), upstream[0].type.element)
        for k, one in enumerate(upstream):
            n = k * taps + c
            total = fma(one, value, added[n])
            added[n] = total if live is None else select(live, total, added[n])
    products = taps * len(upstream)
    return added[:products] + [total + one for total, one in zip(added[products:], upstream, strict=False)]


def _write_finish(isa: ISA, element: Type) -> Module:
    """The entry point ``finish``: adds the chunks."""
    module = Module("lines_finish", isa)
    lines_tile.write_finish(module, element, isa.lanes(computed(element)), _fields(element))
    return module
