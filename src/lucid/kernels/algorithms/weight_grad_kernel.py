"""The kernels of the dense weight gradient, modules by what they depend on.

``loops`` (element type) walk over tasks, boxes and blocks, make the frames and put the sums away; they call by address
a ``tile`` (its size), the only code that computes, and ``turn`` (element type), which transposes: g on the way in, sums
on the way out. ``Fields`` is all that they share.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace
from typing import Any

from lucid.kernels import jit
from lucid.kernels.algorithms.dense_layout import computed
from lucid.kernels.algorithms.frames import read_fields
from lucid.kernels.ir import (
    BY_DTYPE,
    ENTRY,
    Function,
    Module,
    Pointer,
    Type,
    convert,
    fma,
    i8,
    i32,
    i64,
    lane_numbers,
    lane_sums,
    lanes_below,
    maximum,
    minimum,
    ptr,
    select,
    splat,
    transpose_blocks,
    zeros,
)
from lucid.kernels.isa import ISA

#: Vectors of a row asked for before they are read.
_AHEAD = 8

#: Vectors of a channel's sums that are put down together: its cache lines in gw follow each other.
RUN = 4

#: What ``loops`` are told, in this order: arrays, tables, code, numbers.
ARRAYS = ("x", "g", "gw", "gb", "slices", "own")
TABLES = ("boxes", "parts", "starts", "offsets", "asks")
CODE = ("tile", "turn_in", "turn_out")
NUMBERS = (
    "has_bias", "in_place", "wide", "steps", "x_image", "g_image", "g_channel", "gw_row", "taps",
    "rows", "box_count", "part_count", "chunks", "sub", "slice", "frame", "private", "asks_g", "asks_x", "asks_each",
    "d", "h", "w", "box_n", "frame_d", "frame_h", "frame_w",
)  # fmt: skip
#: A row of ``boxes``: where its first image's x, its frame in it and its g begin, where the frame begins along every
#: axis, its images and their pixels.
BOX = ("x", "corner", "g", "top", "up", "left", "images", "per_image")
#: A row of ``parts``: its channels' place in x, g, gw and gb, how many c_out and c_in, where its ``offsets`` begin,
#: whether the sums of g are its.
PART = ("x", "g", "gw", "gb", "rows", "channels", "offsets", "sums_g")


def _fields(stored: Type, element: Type) -> dict[str, Type]:
    arrays = dict(zip(ARRAYS, [ptr(stored)] * 4 + [ptr(element)] * 2, strict=True))
    return {**arrays, **dict.fromkeys((*TABLES, *CODE), ptr(i64)), **dict.fromkeys(NUMBERS, i64)}


def _record(table: Pointer, names: tuple[str, ...], row: Any) -> Any:
    """A row of a table."""
    return SimpleNamespace(**{name: table.load(row * len(names) + k) for k, name in enumerate(names)})


def loops_code(dtype: str) -> jit.Code:
    """The entry points ``accumulate`` and ``finish``."""
    return jit.kernel(("weight_grad loops", dtype), lambda isa: _write_loops(isa, BY_DTYPE[dtype]))


def tile_address(element: Type, vectors: int, rows: int, columns: int) -> int:
    """Where a tile lies."""
    key = ("weight_grad tile", str(element), vectors, rows, columns)
    return jit.kernel(key, lambda isa: _write_tile(isa, element, vectors, rows, columns)).address("tile")


def turn_address(source: Type, to: Type) -> int:
    """Where the transposition lies that reads one type and writes another."""
    key = ("weight_grad turn", str(source), str(to))
    return jit.kernel(key, lambda isa: _write_turn(isa, source, to)).address("turn")


def _write_tile(isa: ISA, element: Type, vectors: int, rows: int, columns: int) -> Module:
    """``tile(count, panel, frame, starts, offsets, to, again, asks, next)``: to[s][v] is begun, or added to ``again``.

    It adds panel[p][v] frame[starts[p] + offsets[row] + column] over ``count`` pixels, for every s = (row, column), and
    asks for a line of what is to come at each: ``asks`` bytes from ``next`` on. That costs nothing, unless the tile is
    so narrow that it waits for loads.
    """
    lanes, data, module = isa.lanes(element), ptr(element), Module("weight_grad tile", isa)
    f = module.function(
        "tile", export=True, count=i64, panel=data, frame=data, starts=ptr(i64), offsets=ptr(i64), to=data, again=i64,
        asks=ptr(i64), next=ptr(i8),
    )  # fmt: skip
    a = f.args
    offsets = [a.offsets.load(row) for row in range(rows)]
    with f.loop(0, a.count, carry=[zeros(f, element, lanes)] * (rows * columns * vectors)) as p:
        pixel, here = a.panel.at(p.i * (vectors * lanes)), a.frame.at(a.starts.load(p.i))
        upstream = [pixel.load(v * lanes, lanes) for v in range(vectors)]
        sums, following = iter(p.values), []
        for row, column in product(map(here.at, offsets), range(columns)):
            value = row.splat(column, lanes)
            following += [fma(g, value, next(sums)) for g in upstream]
        if vectors > 1:
            a.next.prefetch(a.asks.load(p.i), locality=2)
        p.values = following
    again = splat(a.again.ne(0), lanes)
    for k, total in enumerate(p.values):
        a.to.store(a.to.load(k * lanes, lanes, again) + total, k * lanes)
    return module


def _write_turn(isa: ISA, source: Type, target: Type) -> Module:
    """``turn(to, step, source, rows, last, stride, count, sums, again)``: to[p step + r] = source[r stride + p].

    For r below ``rows``, of which those beyond ``last`` repeat it, and p below ``count``; what follows is written up to
    the next multiple of 128 bits, and of the lanes. Unless ``again`` is negative, the ``sums`` over p are begun, or
    added to if it is not 0.
    """
    element, module = computed(source), Module("weight_grad turn", isa)
    lanes = isa.lanes(element)
    group = min(lanes, 128 // element.bits)  # turned within 128 bits, and put down in one piece
    f = module.function(
        "turn", export=True, to=ptr(target), step=i64, source=ptr(source), rows=i64, last=i64, stride=i64, count=i64,
        sums=ptr(element), again=i64,
    )  # fmt: skip
    a = f.args
    with f.loop(0, a.rows, group) as r:
        rows = [a.source.at(minimum(r.i + k, a.last) * a.stride) for k in range(group)]
        with f.loop(0, a.count, lanes, carry=[zeros(f, element, lanes)] * group) as p:
            mask = lanes_below(f, a.count - p.i, lanes, i32) if lanes > 1 else None
            for row in rows:
                row.prefetch(p.i + _AHEAD * lanes)
            vectors = [convert(row.load(p.i, lanes, mask), element) for row in rows]
            to = a.to.at(p.i * a.step + r.i)
            for column in transpose_blocks(vectors):
                to.store(convert(column, target))
                to = to.at(a.step)
            p.values = [total + vector for total, vector in zip(p.values, vectors, strict=True)]
        with f.when(a.again >= 0):
            begun = splat(a.again.ne(0), group)
            a.sums.store(a.sums.load(r.i, group, begun) + lane_sums(p.values), r.i)
    return module


@dataclass(frozen=True, slots=True)
class _Kind:
    """What ``loops`` depend on."""

    stored: Type
    element: Type
    lanes: int

    @property
    def fields(self) -> dict[str, Type]:
        """Types of the fields."""
        return _fields(self.stored, self.element)


def _write_loops(isa: ISA, stored: Type) -> Module:
    element, module = computed(stored), Module("weight_grad loops", isa)
    kind = _Kind(stored, element, isa.lanes(element))
    fill, unpack = _write_fill(module, kind), _write_unpack(module, kind)
    multiply = _write_multiply(module, kind, _write_pack(module, kind))
    f = module.function("accumulate", export=True, **ENTRY)
    p = f.args
    a = read_fields(f, kind.fields, (
        "x", "g", "slices", "own", "boxes", "parts", "chunks", "box_count", "part_count", "slice", "private", "wide",
        "in_place", "frame", "offsets",
    ))  # fmt: skip
    with f.loop(p.begin, p.end) as task:
        chunk, number = task.i // a.part_count, task.i % a.part_count
        part = _record(a.parts, PART, number)
        x, g, own = a.x.at(part.x), a.g.at(part.g), a.own.at(p.thread * a.private)
        to = a.slices.at(select(a.chunks.eq(1), p.thread, task.i) * a.slice)
        first, past = chunk * a.box_count // a.chunks, (chunk + 1) * a.box_count // a.chunks
        with f.loop(first, past) as b:
            box, then = (_record(a.boxes, BOX, b.i + k) for k in (0, 1))
            position = (box.top, box.up, box.left)
            with f.when(a.in_place.eq(0)):
                f.call(fill, p.fields, own, x.at(box.x), part.channels, box.images, *position)
            frame = select(a.in_place.eq(0), own, x.at(box.corner).cast(kind.element))
            sizes = (part.rows, part.channels, box.per_image, box.images, b.i - first)
            read = (frame, a.offsets.at(part.offsets), g.at(box.g), x.at(then.corner), g.at(then.g))
            f.call(multiply, p.fields, own.at(a.frame), to, *sizes, *read)
        with f.when(a.chunks.eq(1)), f.loop(0, part.rows, a.wide) as k:
            f.call(unpack, p.fields, number, k.i, to, 1, 0, own)
    _write_finish(module, kind, unpack)
    return module


def _write_fill(module: Module, kind: _Kind) -> Function:
    """Adds ``fill(fields, to, source, channels, images, top, up, left)``: the frames of a box that begin there in x.

    to[channel][image][depth][row][column], 0 where x has nothing, and up to lanes - 1 zeros behind them.
    """
    lanes = kind.lanes
    f = module.function(
        "fill", fields=ptr(i64), to=ptr(kind.element), source=ptr(kind.stored), channels=i64, images=i64, top=i64,
        up=i64, left=i64,
    )  # fmt: skip
    p = f.args
    a = read_fields(f, kind.fields, ("x_image", "d", "h", "w", "box_n", "frame_d", "frame_h", "frame_w"))
    begin = minimum(maximum(-p.left, 0), a.frame_w)
    live = maximum(minimum(a.w - p.left, a.frame_w) - begin, 0)
    column = lane_numbers(f, lanes, element=i32) - splat(convert(begin, i32), lanes)
    with f.loop(0, p.channels) as c, f.loop(0, p.images) as n, f.loop(0, a.frame_d) as z, f.loop(0, a.frame_h) as y:
        depth, row = p.top + z.i, p.up + y.i
        there = splat(convert(select(depth.ult(a.d) & row.ult(a.h), live, 0), i32), lanes)
        source = p.source.at(n.i * a.x_image + ((c.i * a.d + depth) * a.h + row) * a.w + p.left)
        to = p.to.at((((c.i * a.box_n + n.i) * a.frame_d + z.i) * a.frame_h + y.i) * a.frame_w)
        with f.loop(0, a.frame_w, lanes, carry=[column]) as i:
            to.store(convert(source.load(i.i, lanes, i.values[0].ult(there)), kind.element), i.i)
            i.values = [i.values[0] + lanes]
    return f


def _write_pack(module: Module, kind: _Kind) -> Function:
    """Adds ``pack(fields, panel, source, rows, first, pixel, count, per_image, sums, again)``: a panel of g.

    panel[pixel][lane] are ``count`` pixels of a box, of channels from ``first`` on; lanes beyond the last of ``rows``
    repeat it. The ``sums`` of each channel over the pixels are begun, or added to ``again``.
    """
    data = ptr(kind.element)
    f = module.function(
        "pack", fields=ptr(i64), panel=data, source=ptr(kind.stored), rows=i64, first=i64, pixel=i64, count=i64,
        per_image=i64, sums=data, again=i64,
    )  # fmt: skip
    p, a = f.args, read_fields(f, kind.fields, ("turn_in", "has_bias", "wide", "g_image", "g_channel"))
    end = p.pixel + p.count
    with f.loop(p.pixel, end) as run:  # its step is the length of the run
        image, inside = run.i // p.per_image, run.i % p.per_image
        length, again = minimum(end - run.i, p.per_image - inside), select(a.has_bias.ne(0), p.again + run.i, -1)
        source = p.source.at(image * a.g_image + p.first * a.g_channel + inside)
        to, last = p.panel.at((run.i - p.pixel) * a.wide), p.rows - p.first - 1
        f.call(a.turn_in, to, a.wide, source, a.wide, last, a.g_channel, length, p.sums, again)
        run.step = length
    return f


def _write_multiply(module: Module, kind: _Kind, pack: Function) -> Function:
    """Adds ``multiply(fields, panel, to, rows, channels, per_image, images, again, frame, offsets, …)``: a box.

    Pieces of panels of ``g`` are made in L1 and used at once. Each tile asks for ``asks_each`` more lines of the next
    box, which begins at ``next_x`` and ``next_g``.
    """
    data, stored = ptr(kind.element), ptr(kind.stored)
    f = module.function(
        "multiply", fields=ptr(i64), panel=data, to=data, rows=i64, channels=i64, per_image=i64, images=i64, again=i64,
        frame=data, offsets=ptr(i64), g=stored, next_x=stored, next_g=stored,
    )  # fmt: skip
    p = f.args
    a = read_fields(f, kind.fields, (
        "starts", "asks", "tile", "wide", "steps", "taps", "sub", "asks_g", "asks_x", "asks_each",
        "rows",
    ))  # fmt: skip
    last, pixels = a.asks_g + a.asks_x - 1, p.images * p.per_image
    steps = (p.channels * a.taps + (a.steps - 1)) // a.steps
    block = (steps * a.steps + 1) * a.wide  # its sums and those of g
    pieces = (pixels + (a.sub - 1)) // a.sub
    with f.loop(0, p.rows, a.wide) as k, f.loop(0, pixels, a.sub) as pixel:
        to = p.to.at(k.i // a.wide * block)
        asked = ((k.i // a.wide * pieces) + pixel.i // a.sub) * steps * a.asks_each
        count, again = minimum(a.sub, pixels - pixel.i), p.again + pixel.i
        sums = to.at(steps * a.steps * a.wide)
        f.call(pack, p.fields, p.panel, p.g, p.rows, k.i, pixel.i, count, p.per_image, sums, p.again)
        with f.loop(0, steps, carry=[asked]) as s:
            ask = minimum(s.values[0], last)
            of_g, first = ask < a.asks_g, s.i * a.steps
            ahead = (a.asks.at(ask + select(of_g, 0, a.sub)), select(of_g, p.next_g, p.next_x))
            tables = (a.starts.at(pixel.i), p.offsets.at(s.i * a.rows))
            f.call(a.tile, count, p.panel, p.frame, *tables, to.at(first * a.wide), again, *ahead)
            s.values = [s.values[0] + a.asks_each]
    return f


def _write_unpack(module: Module, kind: _Kind) -> Function:
    """Adds ``unpack(fields, part, first, source, slices, stride, scratch)``: the sum of slices, turned, into gw.

    Of the block of c_out from ``first`` on. The sums of g, which follow its others, go into gb if they are asked for.
    """
    data, lanes, run = ptr(kind.element), kind.lanes, RUN * kind.lanes
    f = module.function(
        "unpack", fields=ptr(i64), part=i64, first=i64, source=data, slices=i64, stride=i64, scratch=data
    )
    p = f.args
    a = read_fields(f, kind.fields, ("gw", "gb", "parts", "turn_out", "has_bias", "wide", "steps", "taps", "gw_row"))
    part = _record(a.parts, PART, p.part)
    count, rows = part.channels * a.taps, minimum(a.wide, part.rows - p.first)
    padded = (count + (a.steps - 1)) // a.steps * a.steps
    source = p.source.at(p.first * (padded + 1))
    with f.loop(0, select(p.slices.eq(1), 0, (padded + 1) * a.wide), lanes) as v:
        with f.loop(1, p.slices, carry=[source.load(v.i, lanes)]) as j:
            j.values = [j.values[0] + source.at(j.i * p.stride).load(v.i, lanes)]
        source.store(j.values[0], v.i)
    gw = a.gw.at(part.gw + p.first * a.gw_row)
    with f.loop(0, rows, lanes) as v, f.loop(0, count, run) as at:  # few rows of gw at a time, whose lines go on
        left, high, here = count - at.i, minimum(rows - v.i, lanes), source.at(at.i * a.wide + v.i)
        deep = minimum(left, run)
        f.call(a.turn_out, p.scratch, run, here, deep, deep - 1, a.wide, high, p.scratch, -1)
        masks = [lanes_below(f, left - r * lanes, lanes, i32) for r in range(RUN)]
        with f.loop(0, high) as k:
            to, line = gw.at((v.i + k.i) * a.gw_row + at.i), p.scratch.at(k.i * run)
            for r, mask in enumerate(masks):
                to.store(convert(line.load(r * lanes, lanes), kind.stored), r * lanes, mask)
    with f.when(a.has_bias.ne(0) & part.sums_g.ne(0)), f.loop(0, rows) as k:
        a.gb.store(convert(source.load(padded * a.wide + k.i), kind.stored), part.gb + p.first + k.i)
    return f


def _write_finish(module: Module, kind: _Kind, unpack: Function) -> None:
    """The entry point ``finish``: a task adds up one block of c_out of one part, over the chunks in order."""
    f = module.function("finish", export=True, **ENTRY)
    p = f.args
    a = read_fields(f, kind.fields, ("slices", "own", "parts", "part_count", "chunks", "wide", "slice", "private"))
    with f.loop(p.begin, p.end) as task:
        part, first = task.i % a.part_count, task.i // a.part_count * a.wide
        with f.when(first < _record(a.parts, PART, part).rows):
            source, scratch = a.slices.at(part * a.slice), a.own.at(p.thread * a.private)
            f.call(unpack, p.fields, part, first, source, a.chunks, a.part_count * a.slice, scratch)
