"""Weight gradient by rows that slide through registers: the native code of ``sliding_grad``.

A task keeps its sums, a vector of every tap of every pair of channels, in its part of the workspace. For every strip of
columns it makes a few passes over the rows of x: each has the sums of some taps down, and of all across, in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

from lucid.kernels.algorithms.depthwise_sums import arrays, write_add_chunks
from lucid.kernels.algorithms.sliding_dealt import Dealt, write_dealt
from lucid.kernels.algorithms.sliding_tile import AHEAD_ROWS, Row
from lucid.kernels.ir import (
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

MOST_DOWN = 4  #: taps down of a pass

#: Of one pass: channel of g among a task's, row of a step, steps from there to its first tap, taps down, whether it
#: reads what is kept.
PASS = ("result", "phase", "first", "downs", "reads")


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
    dealt: Dealt | None = None  #: x is read as it lies, in one pass, and rows of g are dealt out to its lanes

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
        if self.dealt:
            return self.dealt.registers
        return self.downs * (len(self.across) + 1) + (1 if self.apart else self.parts(lanes)) + 1

    def row(self, lanes: int) -> Row:
        """How a row of x is read, from its ``first`` column on."""
        shifts = tuple(at - self.first for at in self.across)
        half = self.narrow and self.step <= max(shifts) <= self.step * lanes // 2
        return Row(shifts, self.step, 1, lanes, in_turns=self.in_turns, half=half)

    def kept_row(self, lanes: int) -> int:
        """Elements of a row of x that is kept."""
        return self.parts(lanes) * lanes


NUMBERS = (
    "batch", "groups", "group_in", "group_out", "h", "w", "oh", "ow", "low_h", "stride_h", "kernel_h", "private",
    "passes", "table", "add_rows", "sums_g", "sums_x", "pieces", "each", "results", "chunks", "weights", "biases",
    "next_x", "next_g", "kept",
)  # fmt: skip


def fields(element: Type) -> dict[str, Type]:
    """What the entry points are told, by name."""
    return {**arrays(element), **dict.fromkeys(NUMBERS, i64), "table": ptr(i64), "add_rows": ptr(i64)}


def write(isa: ISA, element: Type, tile: GradTile, chunked: bool) -> Module:
    """If it is ``chunked`` a task is for one image, or some, and its results are parts, that ``finish`` adds."""
    module, wide, across = Module("sliding_grad", isa), computed(element), len(tile.across)
    lanes = isa.lanes(wide)
    every = list(product(tile.sizes, (False, True) if tile.half else (False,)))
    dealt = write_dealt(module, element, tile.dealt) if tile.dealt else None
    runs = {(size, half): _Run(module, element, tile, lanes, *size, half).f for size, half in every}
    widen = _write_widen(module, element, lanes) if tile.keeps_x else None
    f = module.entry("slide_grad", **fields(element))
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
        kept_g = kept_x.at(a.h * tile.kept_row(lanes) * tile.keeps_x + MOST_DOWN * lanes)
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
            image = _Image(
                f, tile, lanes, runs, widen, g, upstream, planes, plane, count, acc, kept_x, kept_g,
                following, following_g, ahead_x, ahead_g,
            )  # fmt: skip
            columns = lanes * tile.pixels
            if dealt:
                with f.loop(0, count) as s, f.loop(0, a.results) as k:
                    image.write_dealt(dealt, s.i, k.i)
            else:
                with f.loop(0, count) as s, f.loop(0, a.ow, columns) as column, f.loop(0, a.passes) as p:
                    image.write_pass(s.i, column.i, p.i)
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


@dataclass(frozen=True)
class _Image:
    """What passes over an image's planes share, of a task's channels."""

    f: Function
    tile: GradTile
    lanes: int
    runs: dict[tuple[tuple[int, bool], bool], Function]  #: by taps down, whether rows are kept, whether it is half
    widen: Function | None
    g: Pointer
    upstream: Value  #: elements of a plane of it
    x: Pointer
    plane: Value
    count: Value  #: of channels of x
    acc: Pointer  #: sums by channel of g, channel of x, tap
    kept_x: Pointer
    kept_g: Pointer
    following_x: Value  #: elements from a task's planes to those that come next
    following_g: Value
    ahead_x: Value  #: elements from a row to what is asked for beside it, where that is not by planes
    ahead_g: Value

    def write_dealt(self, run: Function, s: Value, result: Value) -> None:
        """All of channel ``s`` of x and of a channel of g, which is dealt out to the lanes of that."""
        a, tile, lanes = self.f.args, self.tile, self.lanes
        vectors = (a.w + (lanes - 1)) // lanes
        x, pixels = self.x.at(s * self.plane), self.g.at(result * self.upstream)
        asks: tuple[Any, ...] = (x.at(self.ahead_x), pixels.at(self.ahead_g))
        asks = (*asks, a.w * a.stride_h // vectors, a.ow // vectors)
        if tile.by_planes:
            asks = self._in_next_planes(s, result * (a.oh * vectors))
        pair = (result * a.each + s) * (a.kernel_h * (len(tile.across) * lanes))
        self.f.call(run, x, pixels, self.acc.at(pair), a.h, a.w, a.oh, a.ow, a.low_h, *asks)

    def write_pass(self, s: Value, column: Value, p: Value) -> None:
        """Pass ``p`` over a strip from a ``column`` of g on, of channel ``s`` of x."""
        f, a, tile, lanes, across = self.f, self.f.args, self.tile, self.lanes, len(self.tile.across)
        x = self.x.at(s * self.plane + column * tile.step)
        result, phase, first, downs, reads = (a.table.load(p * len(PASS) + k) for k in range(len(PASS)))
        # x's row r meets g's row q at tap (first + k) stride + phase: r = (q + first + k) stride + phase - low
        step, low = a.stride_h * (across * lanes), a.low_h - phase
        row = (result * a.each + s) * a.kernel_h + phase + first * a.stride_h
        to = self.acc.at(row * (across * lanes))
        begin = maximum((low + (a.stride_h - 1)) // a.stride_h - first, 0)
        end = minimum((a.h + low + (a.stride_h - 1)) // a.stride_h - first, a.oh + downs - 1)
        source, pixels = x.at((first * a.stride_h - low) * a.w), self.g.at(result * self.upstream + column)
        asks: tuple[Any, ...] = (source.at(self.ahead_x), pixels.at(self.ahead_g))
        if tile.by_planes:
            strip = column // (lanes * tile.pixels)
            asks = self._in_next_planes(s, (strip * a.passes + p) * a.oh - begin)
        first_row, pitch = first - low, tile.kept_row(lanes)  # of x, which row 0 of g meets
        wide_x, wide_g = self.kept_x.at(first_row * pitch), self.kept_g
        if tile.keeps and not tile.keeps_x:
            reads, wide_g = select(s > 0, 1, reads), self.kept_g.at(column * (a.oh + 2 * MOST_DOWN))
        if self.widen:
            there = self.x.at(s * self.plane + column + tile.first)
            from_x = there, a.w, column + tile.first, self.kept_x, pitch
            missed = _missed(a, begin, end, first_row, downs)
            for rows, spans in zip((from_x, (pixels, a.ow, column, wide_g, lanes)), missed, strict=True):
                for at, until in spans:
                    with f.when(reads.eq(0) & (at < until)):
                        f.call(self.widen, *rows, at, until)
        ends = column + lanes * tile.pixels >= a.ow
        for ((most, kept), half), run in self.runs.items():
            here = downs.eq(most) & (begin < end)
            here = here & reads.eq(int(kept)) if tile.keeps else here
            wide_rows = [wide_x, wide_g] if tile.keeps_x else [wide_g]
            given_x = (wide_x, pitch) if kept and tile.keeps_x else (source, a.w * a.stride_h)
            given_g = (wide_g, lanes) if kept else (pixels, a.ow)
            with f.when(here & (ends if half else ~ends) if tile.half else here):
                f.call(
                    run, given_x[0], given_g[0], to, step, a.w, column * tile.step, given_x[1], given_g[1],
                    a.ow - column, begin, end, a.oh, *asks, *(wide_rows if tile.keeps and not kept else ()),
                )  # fmt: skip

    def _in_next_planes(self, s: Value, done: Value) -> tuple[Any, ...]:
        """Where in the next planes it is asked from when so many rows are done, and for how much at each."""
        a, plane = self.f.args, self.plane
        last = s + 1 >= self.count
        on_x = select(last, self.following_x - (self.count - 1) * plane, plane)
        each_g, on_g = select(last, a.next_g, 0), select(last, self.following_g, 0)
        return (
            self.x.at(s * plane + on_x).at(done * a.next_x), self.g.at(on_g + done * each_g), a.next_x, each_g
        )  # fmt: skip


def _write_finish(module: Module, element: Type, lanes: int) -> None:
    """The entry point ``finish``: adds the chunks."""
    add = write_add_chunks(module, element, lanes)
    f = module.entry("finish", **fields(element))
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


class _Run:
    """Writes a function: acc[k step][across] += the products of rows of x and those of g that they meet.

    Of vectors of ``acc_lanes``, or of ``half`` of those. Rows that are ``kept`` are read as such; if others of the tile
    read them so, these are left in ``kept_x`` and ``kept_g``.

    Row ``q`` of x, from ``begin`` to ``end``, meets row q of g, of which there are ``oh``, at tap 0 down, and at tap k
    the one k rows before. At each it asks for a row more of ``next_x`` and ``next_g``, or, by planes, for so many
    elements of ``each``. Between rows for which some of these do not exist, each row of g is read once.
    """

    def __init__(
        self, module: Module, element: Type, tile: GradTile, acc_lanes: int, downs: int, kept: bool, half: bool
    ) -> None:
        self.tile, self.downs, self.kept, self.keeps = tile, downs, kept, tile.keeps and not kept
        self.wide, self.acc_lanes, self.lanes = computed(element), acc_lanes, acc_lanes // 2 if half else acc_lanes
        self.columns = self.lanes * tile.pixels
        self.f = f = module.function(f"run{downs}" + "_kept" * kept + "_half" * half, **self._parameters(element))
        self.a, self.row = f.args, tile.row(self.lanes)
        self.inside = lanes_below(f, self.a.left, self.columns, i32)
        #: Of what is read of x, which lanes are in it: by tap where it is ``apart``, else by vector.
        self.masks: dict[int, Value | None] = self._masks()
        places = [(self.a.step * k if k else 0, c * acc_lanes) for k in range(downs) for c in range(len(tile.across))]
        sums = [self.a.acc.at(at).load(c, self.lanes) for at, c in places]
        for total, (at, c) in zip(self._all_rows(sums), places, strict=True):
            self.a.acc.at(at).store(total, c)

    def _parameters(self, element: Type) -> dict[str, Any]:
        data, wide, tile = ptr(element), ptr(self.wide), self.tile
        x, g = wide if self.kept and tile.keeps_x else data, wide if self.kept else data
        every: dict[str, Any] = {"x": x, "g": g, "acc": wide}
        every |= dict.fromkeys(("step", "w", "column", "x_row", "g_row", "left", "begin", "end", "oh"), i64)
        every |= {"next_x": data, "next_g": data}
        every |= {"each_x": i64, "each_g": i64} if tile.by_planes else {}
        every |= {"kept_x": wide} if self.keeps and tile.keeps_x else {}
        return every | ({"kept_g": wide} if self.keeps else {})

    def _masks(self) -> dict[int, Value | None]:
        a, tile = self.a, self.tile
        if not tile.apart:
            whole = self.kept and tile.keeps_x
            return dict.fromkeys(self.row.reads) if whole else self.row.masks(self.f, a.column + tile.first, a.w)
        # pixels of a pair that are not both inside g: infinity by 0 is no number
        met = {at: lanes_inside(self.f, a.column + at, a.w, self.columns) for at in tile.across}
        return {at: mask & self.inside if tile.dots else mask for at, mask in met.items()}

    def _all_rows(self, sums: list[Value]) -> list[Value]:
        """The sums after all rows: those in the middle meet g at every tap down."""
        a, downs = self.a, self.downs
        if downs == 1:
            return self._rows(a.begin, a.end, sums, 0)
        whole = minimum(maximum(a.begin, downs - 1), a.end)
        after = maximum(whole, minimum(a.end, a.oh))
        sums = self._rows(a.begin, whole, sums, 0)
        sums = self._rows(whole, after, sums, downs - 1)
        return self._rows(after, a.end, sums, 0)

    def _rows(self, first: Value, stop: Value, sums: list[Value], held: int) -> list[Value]:
        """The sums after some rows; ``held`` rows of g stay in registers from one to the next, and all exist."""
        f, a, tile, downs = self.f, self.a, self.tile, self.downs
        all_there = held == downs - 1
        some = lanes_below(f, select(first < stop, a.left, 0), self.columns, i32)
        older = [self._upstream(first, k, some) for k in range(1, held + 1)]
        if self.keeps and held:
            with f.when(first < stop):
                self._keep(first, older, 1)
        with f.loop(first, stop, carry=[*older, *sums]) as q:
            older, sums, x = q.values[:held], q.values[held:], a.x.at(q.i * a.x_row)
            self._ask(q.i)
            left = [a.left] * downs if all_there else [select((q.i - k).ult(a.oh), a.left, 0) for k in range(downs)]
            live = [self.inside] * downs if all_there else [lanes_below(f, count, self.columns, i32) for count in left]
            masks = [None] * downs if self.kept and all_there else live
            seen = [*(self._upstream(q.i, k, masks[k]) for k in range(downs - held)), *older]
            self._keep(q.i, seen[: downs - held], 0)
            if tile.dots and not all_there:
                live = [lanes_below(f, count, self.lanes, i32) for count in left]
            value_at = self._read(x, q.i)
            for c, at in enumerate(tile.across):
                value = value_at(at)
                for k, (one, mask) in enumerate(zip(seen, live, strict=True)):
                    n = k * len(tile.across) + c
                    sums[n] = self._added(one, value, sums[n], None if all_there and tile.dots else mask)
            q.values = [*seen[:held], *sums]
        return q.values[held:]

    def _ask(self, q: Value) -> None:
        """For what comes beside row ``q``."""
        a, by_planes = self.a, self.tile.by_planes
        each_x, each_g = (a.each_x, a.each_g) if by_planes else (a.x_row, a.g_row)
        for part in range(self.tile.step):
            a.next_x.prefetch(q * each_x + part * self.lanes, locality=2 if by_planes else 3)
        a.next_g.prefetch(q * each_g, locality=2 if by_planes else 3)

    def _upstream(self, q: Value, k: int, there: Value | None) -> Value:
        """The row of g that row ``q`` of x meets at tap ``k`` down."""
        return self._widened(self.a.g.at((q - k) * self.a.g_row), 0, there)

    def _widened(self, row: Pointer, at: int, there: Value | None) -> Value:
        if self.tile.dots:
            return row.load(at, self.columns, there)
        if there is None:
            return convert(row.load(at, self.lanes), self.wide)
        return loaded_as(self.wide, row, at, self.lanes, there)

    def _keep(self, q: Value, seen: list[Value], first: int) -> None:
        """Leaves rows of g, the ``first`` of them at that tap down, if others read them so."""
        for k, one in enumerate(seen, first) if self.keeps else ():
            self.a.kept_g.at((q - k) * self.acc_lanes).store(one)

    def _read(self, x: Pointer, q: Value) -> Callable[[int], Value]:
        """What a row of x has for a place across; it is left in float32 if others read it so."""
        tile, row = self.tile, self.row
        if tile.apart:
            return lambda at: self._widened(x, at, self.masks[at])
        if tile.keeps_x:
            loaded = row.loaded(x if self.kept else x.at(tile.first), self.masks, self.wide)
            for i, part in loaded.items() if self.keeps else ():
                self.a.kept_x.at(q * tile.kept_row(self.acc_lanes)).store(part, i * self.lanes)
            shifted = row.shifted({(0, i): row.filled(part) for i, part in loaded.items()})
        else:
            shifted = row.read(x.at(tile.first), self.masks, self.wide)
        return lambda at: shifted(at - tile.first, 0)

    def _added(self, one: Value, value: Value, total: Value, live: Value | None) -> Value:
        """The sum, and the product in lanes that are ``live``: without a mask those beside g are zeros in both."""
        added = bf16_dot(one, value, total) if self.tile.dots else fma(one, value, total)
        return added if live is None else select(live, added, total)
