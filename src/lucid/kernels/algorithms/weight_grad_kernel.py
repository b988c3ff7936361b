"""The kernels of the dense weight gradient, modules by what they depend on.

``loops`` (element type) walk over tasks, boxes and blocks, make the frames and put the sums away; they call by address
a ``tile`` (its size), the only code that computes, and ``turn`` (element type), which transposes: g on the way in, sums
on the way out. ``Fields`` is all that they share.

Elements of a panel and of a frame are those of a ``Grain``, of pixels: two neighbours of a row, and the samples that
they meet at the same tap. The last of an odd row is paired with the one before it, whose g counts as 0 there: what it
meets is met in any case, so an infinity does no harm that it would not do otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from lucid.kernels import jit
from lucid.kernels.algorithms.base import turns_of
from lucid.kernels.algorithms.frames import read_fields
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.panels import either
from lucid.kernels.algorithms.tile import LAST
from lucid.kernels.ir import (
    ENTRY,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    bitcast,
    constant,
    convert,
    i8,
    i16,
    i32,
    i64,
    lane_numbers,
    lane_sum,
    lane_sums,
    lanes_below,
    loaded_as,
    maximum,
    minimum,
    ptr,
    select,
    splat,
    transpose_blocks,
    vec,
    zeros,
)
from lucid.kernels.isa import ISA

#: Vectors from which a tile has so many sums that they wait for each other to be put away: 24 of 4, not 16 of 2.
_MANY = 3

#: Vectors of a row asked for before they are read.
_AHEAD = 8

#: Bytes of a cache line.
LINE = 64

#: Vectors of a channel's sums that are put down together: its cache lines in gw follow each other.
RUN = 4

#: What ``loops`` are told, in this order: arrays, tables, code, numbers.
ARRAYS = ("x", "g", "gw", "gb", "slices", "own", "summed")
TABLES = ("boxes", "parts", "starts", "offsets", "asks", "staged")
CODE = ("tile", "tile_out", "turn_in", "turn_out", "add_rows", "stage")
NUMBERS = (
    "sums_g", "in_place", "straight", "wide", "steps", "x_image", "g_image", "g_channel", "gw_row", "swapped", "taps",
    "together", "lists",
    "rows", "staged_row", "staged_pitch",
    "box_count", "part_count", "chunks", "sub", "slice", "frame", "private", "asks_g", "asks_x", "asks_each",
    "d", "h", "w", "apart", "box_n", "frame_d", "frame_h", "frame_w",
    "sums_at", "sum_image", "sum_channel", "sum_plane", "sum_row",
)  # fmt: skip
#: All that follows the arrays.
FIELDS = (*TABLES, *CODE, *NUMBERS)
#: A row of ``boxes``: where its first image's x, its frame in it and its g begin, where the frame begins along every
#: axis, its images and their elements, pixels that follow each other as elements do and how far apart such runs are,
#: where its ``starts`` begin, which list of taps it is for, and 0 if it is that one's first, else -1. Then what it
#: owns of the array that is ``summed`` row by row: the first number, images, planes, rows and their length.
BOX = (
    "x", "corner", "g", "top", "up", "left", "images", "per_image", "row", "pitch", "starts", "list", "goes_on",
    "own", "own_images", "own_planes", "own_rows", "own_length",
)  # fmt: skip
#: A row of ``parts``: its channels' place in x, g, gw and gb, how many c_out and c_in, where its ``offsets`` begin,
#: its channels' place in what is summed row by row, and of how many it makes the sums, be it so or of g by panels.
PART = ("x", "g", "gw", "gb", "rows", "channels", "offsets", "summed", "sums")


#: Two bfloats that are 1.
_ONES = 0x3F803F80


def _fields(stored: Type, element: Type) -> dict[str, Type]:
    arrays = dict(zip(ARRAYS, [ptr(stored)] * 4 + [ptr(element)] * 2 + [ptr(stored)], strict=True))
    return {**arrays, **dict.fromkeys((*TABLES, *CODE), ptr(i64)), **dict.fromkeys(NUMBERS, i64)}


def _record(table: Pointer, names: tuple[str, ...], row: Any) -> Any:
    """A row of a table."""
    return SimpleNamespace(**{name: table.load(row * len(names) + k) for k, name in enumerate(names)})


def loops_code(grain: Grain) -> jit.Code:
    """The entry points ``accumulate`` and ``finish``."""
    return jit.kernel(("weight_grad loops", grain), lambda isa: _write_loops(isa, grain))


def tile_address(grain: Grain, in_place: bool, vectors: int, rows: int, columns: int, rounds_to: Type | None) -> int:
    """Where a tile lies; one that reads frames of what was widened is that of what need not be.

    One that ``rounds_to`` the type of gw leaves its sums there.
    """
    grain = grain if grain.depth > 1 or in_place else Grain(grain.sums)
    key = ("weight_grad tile", grain, vectors, rows, columns, rounds_to)
    return jit.kernel(key, lambda isa: _write_tile(isa, grain, vectors, rows, columns, rounds_to)).address("tile")


def turn_address(grain: Grain) -> int:
    """Where the transposition lies that reads numbers and writes elements."""
    return jit.kernel(("weight_grad turn", grain), lambda isa: _write_turn(isa, grain)).address("turn")


def stage_address(grain: Grain, stride: int) -> int:
    """Where the code lies that widens what a tile is about to read, samples a ``stride`` of 1 or 2 apart."""
    key = ("weight_grad stage", grain, stride)
    return jit.kernel(key, lambda isa: _write_stage(isa, grain, stride)).address("stage")


def _write_tile(isa: ISA, grain: Grain, vectors: int, rows: int, columns: int, rounds_to: Type | None) -> Module:
    """``tile(count, panel, frame, starts, offsets, to, apart, again, asks, next)``: to[s][v] is begun, or added to.

    Sums of a step are ``apart`` from the next one's; they are begun unless they go on ``again``. It adds
    panel[p][v] frame[starts[p] + offsets[row] + column] over ``count`` elements, for every s = (row, column), and asks
    for a line of what is to come at each: ``asks`` bytes from ``next`` on. That costs nothing, unless the tile is so
    narrow that it waits for loads. Numbers of the frame, which may be x itself, are widened on their way.

    One that rounds takes (…, out, row) too: what would be to[s][v] goes to out[s][v], whose steps are a ``row`` apart.
    """
    element, module = grain.sums, Module("weight_grad tile", isa)
    lanes, framed = isa.lanes(element), grain.stored if grain.depth == 1 else grain.packed
    f = module.function(
        "tile", export=True, count=i64, panel=ptr(grain.packed), frame=ptr(framed), starts=ptr(i64), offsets=ptr(i64),
        to=ptr(element), apart=i64, again=i64, asks=ptr(i64), next=ptr(i8),
        **({} if rounds_to is None else {"out": ptr(rounds_to), "row": i64}),
    )  # fmt: skip
    a = f.args
    size = _Tile(grain, lanes, vectors, rows, columns, rounds_to)
    last = LAST if turns_of(lanes, element) > 1 and vectors >= _MANY else 0
    if last:
        either(f, a.count < last, lambda: size.write_few(f), lambda: size.write(f, last))
    else:
        size.write(f, 0)
    return module


@dataclass(frozen=True, slots=True)
class _Tile:
    """So many ``vectors`` of g by steps, which are ``rows`` of taps of so many ``columns``."""

    grain: Grain
    lanes: int
    vectors: int
    rows: int
    columns: int
    rounds_to: Type | None

    @property
    def steps(self) -> int:
        """Sums of a vector of g."""
        return self.rows * self.columns

    def write(self, f: Function, last: int) -> None:
        """All sums in registers; the ``last`` pixels are taken step by step, each before its sums are put away.

        Where a vector takes two turns many sums would wait for each other: see ``tile.last_steps``.
        """
        a, lanes, vectors = f.args, self.lanes, self.vectors
        offsets = [a.offsets.load(row) for row in range(self.rows)]
        none = zeros(f, self.grain.sums, lanes)
        with f.loop(0, a.count - last if last else a.count, carry=[none] * (self.steps * vectors)) as p:
            upstream, value = self._upstream(f, p.i), self._values(f, p.i, offsets)
            following: list[Value] = []
            for step in range(self.steps):
                following += self._added(upstream, value(step), p.values[step * vectors : (step + 1) * vectors])
            if vectors > 1:
                a.next.prefetch(a.asks.load(p.i), locality=2)
            p.values = following
        again, ending = splat(a.again.ne(0), lanes), [a.count - n for n in range(last, 0, -1)]
        places = [self._values(f, p, offsets) for p in ending]
        for step in range(self.steps):
            totals = p.values[step * vectors : (step + 1) * vectors]
            for pixel, value in zip(ending, places, strict=True):
                totals = self._added(self._upstream(f, pixel), value(step), totals)  # products read them where they lie
            self._put(f, f.const(i64, step), totals, again)

    def write_few(self, f: Function) -> None:
        """Fewer pixels than are taken step by step: one sum after the other."""
        a, again = f.args, splat(f.args.again.ne(0), self.lanes)
        none = zeros(f, self.grain.sums, self.lanes)
        with f.loop(0, self.steps) as step:
            row = a.frame.at(a.offsets.load(step.i // self.columns) + step.i % self.columns)
            with f.loop(0, a.count, carry=[none] * self.vectors) as p:
                value = row.at(a.starts.load(p.i)).splat(0, self.lanes, self.grain.packed)
                p.values = self._added(self._upstream(f, p.i), value, p.values)
            self._put(f, step.i, p.values, again)

    def _upstream(self, f: Function, pixel: Value) -> list[Value]:
        panel = f.args.panel.at(pixel * (self.vectors * self.lanes))
        return [panel.load(v * self.lanes, self.lanes) for v in range(self.vectors)]

    def _values(self, f: Function, pixel: Value, offsets: list[Value]) -> Callable[[int], Value]:
        """What each step of a pixel multiplies."""
        here = f.args.frame.at(f.args.starts.load(pixel))
        rows = [here.at(offset) for offset in offsets]
        return lambda step: rows[step // self.columns].splat(step % self.columns, self.lanes, self.grain.packed)

    def _added(self, upstream: list[Value], value: Value, sums: list[Value]) -> list[Value]:
        return [self.grain.multiply_add(g, value, total) for g, total in zip(upstream, sums, strict=True)]

    def _put(self, f: Function, step: Value, totals: list[Value], again: Value) -> None:
        """Begins a step's sums, or adds to them."""
        to = f.args.to.at(f.args.apart * step)
        out = to if self.rounds_to is None else f.args.out.at(f.args.row * step)
        for v, total in enumerate(totals):
            total = to.load(v * self.lanes, self.lanes, again) + total
            out.store(convert(total, self.rounds_to or self.grain.sums), v * self.lanes)


def _write_turn(isa: ISA, grain: Grain) -> Module:
    """``turn(to, step, source, rows, last, stride, count, sums, again)``: to[p step + r] = source[r stride + p].

    For r below ``rows``, of which those beyond ``last`` repeat it, and elements p of ``count`` numbers; what follows is
    written up to the next multiple of 128 bits, and of the lanes. Unless ``again`` is negative, the ``sums`` over p are
    begun, or added to if it is not 0.
    """
    element, module = grain.sums, Module("weight_grad turn", isa)
    lanes = isa.lanes(element)
    group = min(lanes, 128 // element.bits)  # turned within 128 bits, and put down in one piece
    f = module.function(
        "turn", export=True, to=ptr(grain.packed), step=i64, source=ptr(grain.stored), rows=i64, last=i64, stride=i64,
        count=i64, sums=ptr(element), again=i64,
    )  # fmt: skip
    a, depth = f.args, grain.depth
    with f.loop(0, a.rows, group) as r:
        rows = [a.source.at(minimum(r.i + k, a.last) * a.stride) for k in range(group)]
        with f.loop(0, grain.count(a.count), lanes, carry=[zeros(f, element, lanes)] * group) as p:
            first = p.i * depth
            mask = lanes_below(f, a.count - first, depth * lanes, i32) if lanes > 1 else None
            for row in rows:
                row.prefetch(first + _AHEAD * depth * lanes)
            vectors = _elements(grain, [row.load(first, depth * lanes, mask) for row in rows], a.count // 2 - p.i)
            to = a.to.at(p.i * a.step + r.i)
            for column in transpose_blocks(vectors):
                to.store(column)
                to = to.at(a.step)
            p.values = [_added(grain, total, vector) for total, vector in zip(p.values, vectors, strict=True)]
        with f.when(a.again >= 0):
            begun = splat(a.again.ne(0), group)
            a.sums.store(a.sums.load(r.i, group, begun) + lane_sums(p.values), r.i)
    return module


def _write_stage(isa: ISA, grain: Grain, stride: int) -> Module:
    """``stage(to, places, pitch, source, starts, offsets, rows, begin, count, per_image, row)``: numbers of x, widened.

    to[r pitch + places[p]] = source[starts[p] + offsets[r]] for r below ``rows`` and ``count`` pixels of a box from
    ``begin`` on, of which ``row`` follow each other, a ``stride`` apart in x; lanes - 1 numbers behind those are any.
    Samples with a stride of 2 are the lower halves of words; of the last one x may not have the upper half.
    """
    element, module = grain.sums, Module("weight_grad stage", isa)
    lanes = isa.lanes(element)
    f = module.function(
        "stage", export=True, to=ptr(element), places=ptr(i64), pitch=i64, source=ptr(grain.stored), starts=ptr(i64),
        offsets=ptr(i64), rows=i64, begin=i64, count=i64, per_image=i64, row=i64,
    )  # fmt: skip
    a = f.args

    def widened(source: Pointer, first: Value, mask: Value | None = None) -> Value:
        if stride == 1 and mask is not None:
            return loaded_as(element, source, first, lanes, mask)
        if stride == 1:
            return convert(source.load(first, lanes), element)
        words = source.load(first * stride, stride * lanes, mask)
        halves = convert(bitcast(words, vec(i32, lanes)), i16)
        return convert(bitcast(halves, vec(grain.stored, lanes)), element)

    with f.loop(0, a.count) as run:  # its step is the length of the run
        inside = (a.begin + run.i) % a.per_image
        length = minimum(minimum(a.count - run.i, a.per_image - inside), a.row - inside % a.row)
        last = (length - 1) // lanes * lanes
        mask = lanes_below(f, (length - last) * stride - (stride - 1), stride * lanes, i32 if stride == 1 else i16)
        source, to = a.source.at(a.starts.load(run.i)), a.to.at(a.places.load(run.i))
        with f.loop(0, a.rows) as r:
            numbers, staged = source.at(a.offsets.load(r.i)), to.at(r.i * a.pitch)
            with f.loop(0, last, lanes) as i:
                staged.store(widened(numbers, i.i), i.i)
            staged.store(widened(numbers, last, mask), last)
        run.step = length
    return module


def _elements(grain: Grain, numbers: list[Value], odd: Value) -> list[Value]:
    """Elements of numbers side by side; of one that is missing its second, ``odd``, the first becomes that."""
    elements = [grain.side_by_side(vector) for vector in numbers]
    if grain.depth == 1:
        return elements
    f, lanes = odd.fn, elements[0].type.lanes
    alone = lane_numbers(f, lanes, element=i32).eq(splat(convert(odd, i32), lanes))
    shift = select(alone, splat(constant(f, i32, 16), lanes), splat(constant(f, i32, 0), lanes))
    return [element << shift for element in elements]


def _added(grain: Grain, total: Value, vector: Value) -> Value:
    """Sums with all numbers of a vector of elements."""
    if grain.depth == 1:
        return total + vector
    return grain.multiply_add(vector, splat(constant(total.fn, i32, _ONES), total.type.lanes), total)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What ``loops`` depend on."""

    grain: Grain
    lanes: int

    @property
    def stored(self) -> Type:
        """The arrays' type."""
        return self.grain.stored

    @property
    def element(self) -> Type:
        """That of the sums."""
        return self.grain.sums

    @property
    def packed(self) -> Type:
        """That of panels and frames."""
        return self.grain.packed

    @property
    def fields(self) -> dict[str, Type]:
        """Types of the fields."""
        return _fields(self.stored, self.element)


def _write_loops(isa: ISA, grain: Grain) -> Module:
    module, kind = Module("weight_grad loops", isa), _Kind(grain, isa.lanes(grain.sums))
    fill, unpack = _write_fill(module, kind), _write_unpack(module, kind)
    multiply, add_owned = _write_multiply(module, kind, _write_pack(module, kind)), _write_add_owned(module, kind)
    f = module.function("accumulate", export=True, **ENTRY)
    p = f.args
    a = read_fields(f, kind.fields, (
        "x", "g", "slices", "own", "boxes", "parts", "chunks", "box_count", "part_count", "slice", "private", "wide",
        "in_place", "frame", "starts", "offsets", "sums_at", "gw",
    ))  # fmt: skip
    with f.loop(p.begin, p.end) as task:
        chunk, number = task.i // a.part_count, task.i % a.part_count
        part = _record(a.parts, PART, number)
        x, g, own = a.x.at(part.x), a.g.at(part.g), a.own.at(p.thread * a.private)
        to = a.slices.at(select(a.chunks.eq(1), p.thread, task.i) * a.slice)
        first, past = chunk * a.box_count // a.chunks, (chunk + 1) * a.box_count // a.chunks
        by_rows = select(a.sums_at.ne(0), part.sums, 0)
        with f.loop(0, by_rows) as c:
            to.at(a.sums_at).store(zeros(f, kind.element, kind.lanes), c.i * kind.lanes)
        with f.loop(first, past) as b:
            f.call(add_owned, p.fields, b.i, part.summed, by_rows, to.at(a.sums_at))
            box, then = (_record(a.boxes, BOX, b.i + k) for k in (0, 1))
            position = (box.top, box.up, box.left)
            with f.when(a.in_place.eq(0)):
                f.call(fill, p.fields, own.cast(kind.packed), x.at(box.x), part.channels, box.images, *position)
            frame = select(a.in_place.eq(0), own, x.at(box.corner).cast(kind.element))
            sizes = (part.rows, part.channels, box.per_image, box.row, box.pitch, box.images, box.list)
            again = (b.i - first) & box.goes_on
            tables = (a.starts.at(box.starts), a.offsets.at(part.offsets))
            read = (frame, *tables, g.at(box.g), x.at(then.corner), g.at(then.g))
            f.call(multiply, p.fields, own, own.at(a.frame), to, *sizes, again, *read, a.gw.at(part.gw))
        with f.when(a.chunks.eq(1)), f.loop(0, part.rows, a.wide) as k:
            f.call(unpack, p.fields, number, k.i, to, 1, 0, own)
    _write_finish(module, kind, unpack)
    return module


def _write_add_owned(module: Module, kind: _Kind) -> Function:
    """Adds ``add_owned(fields, box, first, channels, to)``: to[channel][lane] += the rows that a box owns.

    Every number of what is summed is one box's.
    """
    f = module.function("add_owned", fields=ptr(i64), box=i64, first=i64, channels=i64, to=ptr(kind.element))
    p = f.args
    a = read_fields(f, kind.fields, (
        "summed", "boxes", "add_rows", "sum_image", "sum_channel", "sum_plane", "sum_row",
    ))  # fmt: skip
    box = _record(a.boxes, BOX, p.box)
    source = a.summed.at(p.first + box.own)
    with f.loop(0, p.channels) as c, f.loop(0, box.own_images) as n, f.loop(0, box.own_planes) as z:
        rows = source.at(n.i * a.sum_image + c.i * a.sum_channel + z.i * a.sum_plane)
        f.call(a.add_rows, rows, a.sum_row, box.own_rows, box.own_length, p.to.at(c.i * kind.lanes))
    return f


def _write_fill(module: Module, kind: _Kind) -> Function:
    """Adds ``fill(fields, to, source, channels, images, top, up, left)``: the frames of a box that begin there in x.

    to[channel][image][depth][row][column], 0 where x has nothing, and up to lanes - 1 zeros behind them. Numbers of an
    element are ``apart``, as pixels are.
    """
    lanes = kind.lanes
    f = module.function(
        "fill", fields=ptr(i64), to=ptr(kind.packed), source=ptr(kind.stored), channels=i64, images=i64, top=i64,
        up=i64, left=i64,
    )  # fmt: skip
    p = f.args
    a = read_fields(f, kind.fields, ("x_image", "d", "h", "w", "apart", "box_n", "frame_d", "frame_h", "frame_w"))
    apart = splat(convert(a.apart, i32), lanes)
    begin = minimum(maximum(-p.left, 0), a.frame_w)
    live = maximum(minimum(a.w - p.left, a.frame_w + (kind.grain.depth - 1) * a.apart) - begin, 0)
    column = lane_numbers(f, lanes, element=i32) - splat(convert(begin, i32), lanes)
    with f.loop(0, p.channels) as c, f.loop(0, p.images) as n, f.loop(0, a.frame_d) as z, f.loop(0, a.frame_h) as y:
        depth, row = p.top + z.i, p.up + y.i
        there = splat(convert(select(depth.ult(a.d) & row.ult(a.h), live, 0), i32), lanes)
        source = p.source.at(n.i * a.x_image + ((c.i * a.d + depth) * a.h + row) * a.w + p.left)
        to = p.to.at((((c.i * a.box_n + n.i) * a.frame_d + z.i) * a.frame_h + y.i) * a.frame_w)
        with f.loop(0, a.frame_w, lanes, carry=[column]) as i:
            numbers, (column,) = [source.load(i.i, lanes, i.values[0].ult(there))], i.values
            if kind.grain.depth > 1:
                numbers.append(source.load(i.i + a.apart, lanes, (column + apart).ult(there)))
            to.store(kind.grain.element(numbers), i.i)
            i.values = [column + lanes]
    return f


def _write_pack(module: Module, kind: _Kind) -> Function:
    """Adds ``pack(fields, panel, source, rows, first, begin, count, per_image, row, pitch, …)``: a panel of g.

    panel[p][lane] are ``count`` elements of a box, of channels from ``first`` on; lanes beyond the last of ``rows``
    repeat it. The ``sums`` of each channel over the pixels are begun, or added to ``again``.
    """
    grain = kind.grain
    f = module.function(
        "pack", fields=ptr(i64), panel=ptr(kind.packed), source=ptr(kind.stored), rows=i64, first=i64, begin=i64,
        count=i64, per_image=i64, row=i64, pitch=i64, sums=ptr(kind.element), again=i64,
    )  # fmt: skip
    p, a = f.args, read_fields(f, kind.fields, ("turn_in", "sums_g", "wide", "g_image", "g_channel"))
    end, row_elements = p.begin + p.count, grain.count(p.row)
    with f.loop(p.begin, end) as run:  # its step is the length of the run
        image, inside = run.i // p.per_image, run.i % p.per_image
        at = inside % row_elements * grain.depth
        length = minimum((end - run.i) * grain.depth, p.row - at)
        again = select(a.sums_g.ne(0), p.again + run.i, -1)
        source = p.source.at(image * a.g_image + p.first * a.g_channel + inside // row_elements * p.pitch + at)
        to, last = p.panel.at((run.i - p.begin) * a.wide), p.rows - p.first - 1
        f.call(a.turn_in, to, a.wide, source, a.wide, last, a.g_channel, length, p.sums, again)
        run.step = grain.count(length)
    return f


def _write_multiply(module: Module, kind: _Kind, pack: Function) -> Function:
    """Adds ``multiply(fields, stage, panel, to, rows, channels, per_image, row, pitch, images, list, …)``: a box.

    The sums of its list of taps are every so many of all, and are begun even if it has no pixels.
    Pieces of panels of ``g`` are made in L1 and used at once; so are a tile's numbers of x that are ``staged``. Each
    tile asks for ``asks_each`` more lines of the next box, which begins at ``next_x`` and ``next_g``. Where sums go
    ``straight`` to gw, the part's ``result``, a whole tile's lines there are asked for before it begins. Of half
    precision that is the tile of the last piece, which rounds them.
    """
    data, stored = ptr(kind.element), ptr(kind.stored)
    f = module.function(
        "multiply", fields=ptr(i64), stage=data, panel=data, to=data, rows=i64, channels=i64, per_image=i64, row=i64,
        pitch=i64, images=i64, list=i64, again=i64, frame=data, starts=ptr(i64), offsets=ptr(i64), g=stored,
        next_x=stored, next_g=stored, result=stored,
    )  # fmt: skip
    p = f.args
    a = read_fields(f, kind.fields, (
        "asks", "tile", "tile_out", "wide", "steps", "together", "lists", "sub", "asks_g", "asks_x", "asks_each",
        "rows", "straight", "gw_row", "staged", "stage", "staged_row", "staged_pitch",
    ))  # fmt: skip
    rounds = kind.stored != kind.element
    last, pixels, staged = a.asks_g + a.asks_x - 1, p.images * p.per_image, a.staged_pitch.ne(0)
    steps, apart = (p.channels * a.together + (a.steps - 1)) // a.steps, a.lists * a.wide
    block = steps * a.steps * apart + a.wide  # its sums and those of g
    pieces = (pixels + (a.sub - 1)) // a.sub
    with f.loop(0, p.rows, a.wide) as k, f.loop(0, maximum(pixels, 1), a.sub) as pixel:
        to = p.to.at(k.i // a.wide * block)
        asked = ((k.i // a.wide * pieces) + pixel.i // a.sub) * steps * a.asks_each
        count, again = minimum(a.sub, pixels - pixel.i), p.again + pixel.i
        sums = to.at(steps * a.steps * apart)
        here = (pixel.i, count, p.per_image, p.row, p.pitch)
        f.call(pack, p.fields, p.panel.cast(kind.packed), p.g, p.rows, k.i, *here, sums, p.again)
        with f.loop(0, steps, carry=[asked]) as s:
            ask = minimum(s.values[0], last)
            of_g, first = ask < a.asks_g, s.i * a.steps
            ahead = (a.asks.at(ask + select(of_g, 0, a.sub)), select(of_g, p.next_g, p.next_x))
            read = (p.frame, p.starts.at(pixel.i), p.offsets.at(s.i * a.rows))
            on_stage = (p.stage, a.staged.at(a.rows + pixel.i), a.staged)
            with f.when(staged):
                x, *tables = read
                sizes = (a.rows, pixel.i, count, p.per_image, a.staged_row)
                f.call(a.stage, *on_stage[:2], a.staged_pitch, x.cast(kind.stored), *tables, *sizes)
            read = tuple(select(staged, there, where) for there, where in zip(on_stage, read, strict=True))
            own, there = to.at(first * apart + p.list * a.wide), p.result.at(first * a.gw_row + k.i)

            def aside() -> None:
                f.call(a.tile, count, p.panel, *read, own, apart, again, *ahead)

            def straight() -> None:
                new_rows = a.steps if rounds else select(again.eq(0), a.steps, 0)
                with f.loop(0, new_rows) as step, f.loop(0, a.wide, LINE // kind.stored.bytes) as v:
                    there.at(step.i * a.gw_row + v.i).prefetch(write=True)
                if rounds:
                    f.call(a.tile_out, count, p.panel, *read, own, apart, again, *ahead, there, a.gw_row)
                else:
                    f.call(a.tile, count, p.panel, *read, there, a.gw_row, again, *ahead)

            whole = (p.rows - k.i >= a.wide) & (p.channels - first >= a.steps) & a.straight.ne(0)
            either(f, whole & (pixel.i + a.sub >= pixels) if rounds else whole, straight, aside)
            s.values = [s.values[0] + a.asks_each]
    return f


def _write_unpack(module: Module, kind: _Kind) -> Function:
    """Adds ``unpack(fields, part, first, source, slices, stride, scratch)``: the sum of slices, turned, into gw.

    Of the block of c_out from ``first`` on. The sums of g, which follow its others, go into gb if they are asked for;
    those by rows with the first block. Where x and g are ``swapped`` sums lie as they go out: a step's are part of a
    row of gw, and those of whole tiles may have gone ``straight`` there.
    """
    data, lanes, run = ptr(kind.element), kind.lanes, RUN * kind.lanes
    f = module.function(
        "unpack", fields=ptr(i64), part=i64, first=i64, source=data, slices=i64, stride=i64, scratch=data
    )
    p = f.args
    a = read_fields(f, kind.fields, (
        "gw", "gb", "parts", "turn_out", "sums_g", "sums_at", "wide", "steps", "taps", "together", "lists", "gw_row",
        "swapped", "straight",
    ))  # fmt: skip
    part, swapped = _record(a.parts, PART, p.part), a.swapped.ne(0)
    count, rows = part.channels * a.taps, minimum(a.wide, part.rows - p.first)
    padded = (part.channels * a.together + (a.steps - 1)) // a.steps * a.steps * a.lists
    source = p.source.at(p.first * (padded + 1))
    with f.loop(0, select(p.slices.eq(1), 0, (padded + 1) * a.wide), lanes) as v:
        with f.loop(1, p.slices, carry=[source.load(v.i, lanes)]) as j:
            j.values = [j.values[0] + source.at(j.i * p.stride).load(v.i, lanes)]
        source.store(j.values[0], v.i)
    gw = a.gw.at(part.gw + p.first * select(swapped, 1, a.gw_row))
    done = select(a.straight.ne(0) & rows.eq(a.wide), part.channels // a.steps * a.steps, 0)
    with f.loop(done, select(swapped, count, 0)) as step, f.loop(0, rows, lanes) as v:
        total = convert(source.load(step.i * a.wide + v.i, lanes), kind.stored)
        gw.store(total, step.i * a.gw_row + v.i, lanes_below(f, rows - v.i, lanes, i32))
    turned = select(swapped, 0, count)
    with f.loop(0, rows, lanes) as v, f.loop(0, turned, run) as at:  # few rows of gw at a time, whose lines go on
        left, high, here = count - at.i, minimum(rows - v.i, lanes), source.at(at.i * a.wide + v.i)
        deep = minimum(left, run)
        f.call(a.turn_out, p.scratch, run, here, deep, deep - 1, a.wide, high, p.scratch, -1)
        masks = [lanes_below(f, left - r * lanes, lanes, i32) for r in range(RUN)]
        with f.loop(0, high) as k:
            to, line = gw.at((v.i + k.i) * a.gw_row + at.i), p.scratch.at(k.i * run)
            for r, mask in enumerate(masks):
                to.store(convert(line.load(r * lanes, lanes), kind.stored), r * lanes, mask)
    with f.loop(0, select(a.sums_g.ne(0), minimum(rows, part.sums - p.first), 0)) as k:
        a.gb.store(convert(source.load(padded * a.wide + k.i), kind.stored), part.gb + p.first + k.i)
    with f.loop(0, select(a.sums_at.ne(0) & p.first.eq(0), part.sums, 0)) as c:
        total = p.source.at(a.sums_at + c.i * lanes)
        with f.loop(1, p.slices, carry=[total.load(0, lanes)]) as j:
            j.values = [j.values[0] + total.at(j.i * p.stride).load(0, lanes)]
        a.gb.store(convert(lane_sum(j.values[0]), kind.stored), part.gb + c.i)
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
