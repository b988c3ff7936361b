"""The loops of Winograd's weight gradient: dw = G^T [ sum over tiles of (A g A^T) * (B^T x B) ] G.

Lanes are channels. Boxes of tiles are framed with their zeros, turned so that a pixel's channels lie side by side, and
transformed; for each of a tile's products the sum over tiles is then a matrix product, with c_in in rows and c_out in
vectors::

    prepare(box):   for every vector of channels of x and of g:
                        frame, panel[pixel][lane] = turned(frame)           see frames
                        v[f][block of channels][tile][channel]              see winograd_passes
    multiply(box):  for each f, block of c_out, tile of c_in:
                        m[f][block][c_in][c_out] += sum over tiles of v[f][tile][c_in] * u[f][tile][c_out]
    results:        for each block of c_out, 16 of c_in: dw = G^T m G, turned back

With many tiles, a task is a chunk of the boxes for a part of the channels: all but x and g stays in its second level
cache, chunks have their own m, and a second step adds them up in order (``accumulate``, ``finish``). With few tiles and
many channels m is the large operand: all boxes are prepared beforehand, and a task is a part of the channels
(``prepare_all``, ``multiply_parts``). Tasks depend on the shape alone, so the bits do not depend on the threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from lucid.kernels import jit
from lucid.kernels.algorithms import panels
from lucid.kernels.algorithms.depthwise_sums import add_owned
from lucid.kernels.algorithms.frames import GEOMETRY, open_box, read_fields
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.implicit_gemm import alone
from lucid.kernels.algorithms.tile import Tile, write_tile
from lucid.kernels.algorithms.winograd_layout import Form
from lucid.kernels.algorithms.winograd_passes import write_transform
from lucid.kernels.ir import (
    ENTRY,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    convert,
    f32,
    i8,
    i64,
    lane_sum,
    lanes_below,
    minimum,
    ptr,
    select,
    zeros,
)
from lucid.kernels.isa import ISA
from lucid.kernels.runtime import memory

#: Channels of x whose results are made at once.
FINISHED = 16

#: What ``prepare`` reads of an operand: addresses, then sizes in elements.
OPERAND = (
    *GEOMETRY, "transform", "starts", "firsts", "image_step", "channel_step", "plane", "image", "layer", "row", "pixel",
    "residues", "residue", "places", "halo", "each", "channels", "vectors", "width", "block", "step", "slot",
)  # fmt: skip
_ADDRESSES = {"transform": i8, "starts": i64, "firsts": i64}

_ARRAYS, _WORK = ("x", "g", "gw", "gb"), ("sums", "shared", "scratch", "none")
_NUMBERS = (
    "sums_g", "sums_x", "boxes", "chunks", "groups", "group_in", "group_out", "taps", "k_part", "c_part", "k_parts",
    "c_parts", "parts", "products", "tile_rows", "m_step", "m_block", "m_residue", "m_size", "residues", "v_residue",
    "sums_step", "y_step", "z_step", "taps_x", "taps_y", "taps_z", "u_shared", "own", "u_at", "m_at", "frame_at",
    "panel_at", "spare_at", "line_at",
)  # fmt: skip
_CODE = ("fill", "add_rows", "turn", "turn_in", "tile", "collect", "prepare", "multiply", "results")


def fields(stored: Type) -> dict[str, Type]:
    """The slots of the entry points, for arrays of that type."""
    return {
        **dict.fromkeys(_ARRAYS, ptr(stored)), **dict.fromkeys(_WORK, ptr(f32)), "x_record": ptr(i64),
        "g_record": ptr(i64), "rows": ptr(i64), "taps_at": ptr(i64), **dict.fromkeys(_CODE, ptr(i8)),
        **dict.fromkeys(_NUMBERS, i64),
    }  # fmt: skip


def tile_address(tile: Tile, width: int) -> int:
    """Where the product of a tile lies, for rows that are ``width`` apart from tile to tile."""

    def written(isa: ISA) -> Module:
        module = Module("winograd_grad_tile", isa)
        write_tile(module, Grain(f32), tile, tile.columns, w_pitch=width).export = True
        return module

    return jit.kernel(("winograd grad tile", tile, width), written).address("tile")


def transforms(form: Form) -> jit.Code:
    """Of patches, of gradients of tiles, and of sums back to taps."""

    def write(module: Module, isa: ISA) -> None:
        for name in ("patch", "gradient", "collect"):
            write_transform(module, name, form.matrices(name), isa.lanes(f32))

    return alone(("winograd grad transforms", form), write)


def turn_address(stored: Type) -> int:
    """Where ``turn`` lies, see ``panels``, from numbers of a type to floats."""

    def written(isa: ISA) -> Module:
        module = Module("turn", isa)
        panels.write_turn(module, isa, Grain(stored)).export = True
        return module

    return jit.kernel(("turn", stored), written).address("turn")


def parts(stored: Type) -> jit.Code:
    """What the loops call, a module of its own: together they take longer to compile than a kernel should."""

    def written(isa: ISA) -> Module:
        module, lanes = Module("winograd_grad_parts", isa), isa.lanes(f32)
        _write_prepare(module, stored, lanes)
        _write_multiply(module)
        _write_results(module, stored, lanes)
        for function in module.functions:
            function.export = True
        return module

    return jit.kernel(("winograd grad parts", stored), written)


def loops(stored: Type) -> jit.Code:
    """The entry points, for any form, tile and size."""

    def written(isa: ISA) -> Module:
        module = Module("winograd_grad", isa)
        _write_accumulate(module, stored)
        _write_finish(module, isa.lanes(f32))
        _write_prepare_all(module, stored, isa.lanes(f32))
        _write_multiply_parts(module)
        return module

    return jit.kernel(("winograd grad", stored), written)


def _operand(record: Pointer, names: str) -> Any:
    """Some of an operand's numbers and addresses by name."""

    def read(name: str) -> Value:
        kind = ptr(_ADDRESSES[name]) if name in _ADDRESSES else i64
        return record.at(OPERAND.index(name)).cast(kind).load()

    return SimpleNamespace(**{name: read(name) for name in names.split()})


def _entry(module: Module, name: str, stored: Type, names: str) -> tuple[Function, Any]:
    """An entry point, and the fields that it needs."""
    f = module.function(name, export=True, **ENTRY)
    return f, read_fields(f, fields(stored), names.split())


#: What ``open_box`` reads.
_BOX = "batch od oh ow box_n box_d box_h box_w grid_d grid_h grid_w"


def _write_prepare(module: Module, stored: Type, lanes: int) -> None:
    """Adds ``prepare(fields, record, data, own, box, channel, count, to, sums, wanted)``: an operand of a box.

    ``count`` channels from ``channel`` on, over all groups, to where the first of them belongs. Their sums over the box
    are ``wanted`` or not.
    """
    work = ptr(f32)
    f = module.function(
        "prepare", fields=ptr(i64), record=ptr(i64), data=ptr(stored), own=work, box=i64, channel=i64, count=i64,
        to=work, sums=work, wanted=i64,
    )  # fmt: skip
    p = f.args
    a = read_fields(
        f,
        fields(stored),
        ["fill", "add_rows", "turn", "turn_in", "frame_at", "panel_at", "spare_at", "z_step", "y_step"],
    )
    sizes = "d h w stride_d stride_h stride_w low_d low_h low_w image_step channel_step plane image layer row pixel"
    r = _operand(p.record, f"{_BOX} {sizes} transform starts firsts residues residue places halo each width block step")
    box, frame, panel, spare = (open_box(f, r, p.box), *(p.own.at(at) for at in (a.frame_at, a.panel_at, a.spare_at)))
    per_image = select(r.each.ne(0), box.per_image * r.each, r.image)
    pixels = box.images * per_image
    tiles = box.pixels * r.places + r.halo
    with f.loop(0, p.count, lanes) as c:
        channels = minimum(p.count - c.i, lanes)
        source = p.data.at(box.n * r.image_step + (p.channel + c.i) * r.channel_step)

        def framed(source: Pointer = source, channels: Value = channels) -> None:
            f.call(a.fill, p.record, frame, source, channels, box.images, r.image_step, box.d, box.h, box.w)
            f.call(a.turn, frame, r.plane, channels, pixels, panel, lanes)

        def as_it_is(source: Pointer = source, channels: Value = channels) -> None:
            first = (box.d * r.stride_d * r.h + box.h * r.stride_h) * r.w + box.w * r.stride_w
            with f.loop(0, box.images) as n:
                here, to = source.at(n.i * r.image_step + first), panel.at(n.i * r.image * lanes)
                f.call(a.turn_in, here, r.channel_step, channels, per_image, to, lanes)

        panels.either(f, r.each.ne(0), as_it_is, framed)
        with f.loop(0, select(p.wanted.ne(0), channels, 0)) as one:
            spare.store(zeros(f, f32, lanes))
            with f.loop(0, box.images) as n:
                here = source.at(n.i * r.image_step + one.i * r.channel_step)
                add_owned(f, r, a.add_rows, box, here, spare)
            p.sums[c.i + one.i] = lane_sum(spare.load(0, lanes))
        to = p.to.at(c.i // r.width * r.block + c.i % r.width)
        with f.loop(0, r.residues) as k:
            f.call(
                r.transform, panel.at(r.firsts.load(k.i)), r.starts, tiles, to.at(k.i * r.residue),
                r.width, spare, r.layer, r.row, r.pixel, r.step * a.z_step, r.step * a.y_step, r.step,
            )  # fmt: skip


def _write_multiply(module: Module) -> None:
    """Adds ``multiply(fields, v, u, m, rows, columns, box, again)``: the products of one box."""
    data = ptr(f32)
    f = module.function("multiply", fields=ptr(i64), v=data, u=data, m=data, rows=i64, columns=i64, box=i64, again=i64)
    p = f.args
    names = ["tile", "none", "products", "tile_rows", "m_step", "m_block", "m_residue", "residues", "v_residue"]
    names += ["x_record", "g_record"]
    a = read_fields(f, fields(f32), names)
    x_box = _operand(a.x_record, f"{_BOX} places")
    count = open_box(f, x_box, p.box).pixels * x_box.places
    x, g = (_operand(record, "width block step") for record in (a.x_record, a.g_record))
    columns, rows = (p.columns + (g.width - 1)) // g.width, (p.rows + (x.width - 1)) // x.width
    with f.loop(0, a.products) as k, f.loop(0, columns) as column, f.loop(0, a.residues) as residue:
        v, u = p.v.at(k.i * x.step + residue.i * a.v_residue), p.u.at(k.i * g.step + column.i * g.block)
        m = p.m.at(k.i * a.m_step + column.i * a.m_block + residue.i * a.m_residue)
        with f.loop(0, rows) as block:
            left = minimum(p.rows - block.i * x.width, x.width)
            w, to = v.at(block.i * x.block), m.at(block.i * x.width * g.width)
            with f.loop(0, left, a.tile_rows) as row:
                here = to.at(row.i * g.width)
                f.call(a.tile, count, w.at(row.i), u, a.none, p.again, here, g.width, a.tile_rows, here)


@dataclass(frozen=True, slots=True)
class _Part:
    """Channels of a task: group, first and count of c_out, first and count of c_in, both within the group."""

    group: Value
    k: Value
    columns: Value
    c: Value
    rows: Value


def _part(a: Any, part: Value) -> _Part:
    rest, c = part // a.c_parts, part % a.c_parts * a.c_part
    group, k = rest // a.k_parts, rest % a.k_parts * a.k_part
    return _Part(group, k, minimum(a.k_part, a.group_out - k), c, minimum(a.c_part, a.group_in - c))


#: What ``_part`` reads.
_PART = "k_parts c_parts k_part c_part group_in group_out"


def _write_results(module: Module, stored: Type, lanes: int) -> None:
    """Adds ``results(fields, part, column, row, m, own)``: gw of a block of columns and up to ``FINISHED`` rows."""
    data = ptr(f32)
    f = module.function("results", fields=ptr(i64), part=i64, column=i64, row=i64, m=data, own=data)
    p = f.args
    a = read_fields(f, fields(stored), [
        *_PART.split(), "gw", "gb", "sums_g", "sums_x", "sums", "sums_step", "boxes", "groups", "taps", "turn",
        "collect", "rows", "m_step", "m_block", "m_residue", "residues", "taps_at", "z_step", "y_step", "taps_z",
        "taps_y", "taps_x", "spare_at", "line_at", "g_record",
    ])  # fmt: skip
    where, width = _part(a, p.part), _operand(a.g_record, "width").width
    line, row_length = p.own.at(a.line_at), a.group_in * a.taps
    count = minimum(where.rows - p.row, FINISHED)
    length, square = count * a.taps, p.own.at(a.spare_at)
    to = a.gw.at(where.group * a.group_out * row_length + (where.c + p.row) * a.taps)
    with f.loop(0, minimum(width, where.columns - p.column), lanes) as v:
        m = p.m.at(p.column // width * a.m_block + p.row * width + v.i)
        live = minimum(where.columns - p.column - v.i, lanes)
        first = to.at((where.k + p.column + v.i) * row_length)
        with f.loop(0, live) as k, f.loop(0, length, memory.ALIGN_BYTES // stored.bytes) as ahead:
            first.prefetch(k.i * row_length + ahead.i, write=True)  # a row apart, which no machine would guess
        with f.loop(0, a.residues) as residue:
            f.call(
                a.collect, m.at(residue.i * a.m_residue), a.rows, count, line.at(a.taps_at.load(residue.i)),
                a.taps * lanes, p.own.at(a.spare_at), a.m_step * a.z_step, a.m_step * a.y_step, a.m_step,
                a.taps_z * lanes, a.taps_y * lanes, a.taps_x * lanes,
            )  # fmt: skip
        with f.loop(0, length, lanes) as s:
            mask = lanes_below(f, length - s.i, lanes) if lanes > 1 else None
            f.call(a.turn, line.at(s.i * lanes), lanes, lanes, lanes, square, lanes)
            with f.loop(0, live) as k:
                turned = convert(square.load(k.i * lanes, lanes), stored)
                first.store(turned, k.i * row_length + s.i, mask)
    column, row = where.k + p.column, where.c + p.row
    of_g = select(row.eq(0), a.sums_g, 0) * minimum(width, where.columns - p.column)
    of_x = select(column.eq(0), a.sums_x, 0) * count
    first = select(a.sums_x.eq(0), column, row)
    each = select(a.sums_x.eq(0), a.group_out, a.group_in)
    _write_bias(f, a, where.group, first, each, of_g + of_x, lanes)


def _write_bias(f: Function, a: Any, group: Value, first: Value, each: Value, count: Value, lanes: int) -> None:
    """Some of gb: the sums of all boxes, in order."""
    with f.loop(0, count, lanes) as v:
        source = a.sums.at(group * a.sums_step + first + v.i)
        with f.loop(0, a.boxes, carry=[zeros(f, source.pointee, lanes)]) as box:
            box.values = [box.values[0] + source.load(box.i * a.groups * a.sums_step, lanes)]
        live = lanes_below(f, count - v.i, lanes)
        a.gb.store(convert(box.values[0], a.gb.pointee), group * each + first + v.i, live)


def _call_results(f: Function, a: Any, part: Value, where: _Part, m: Pointer, own: Pointer) -> None:
    """All results of a part."""
    width = _operand(a.g_record, "width").width
    with f.loop(0, where.columns, width) as column, f.loop(0, where.rows, FINISHED) as row:
        f.call(a.results, f.args.fields, part, column.i, row.i, m, own)


def _write_accumulate(module: Module, stored: Type) -> None:
    """The entry ``accumulate``: task t is part t % parts of chunk t / parts."""
    f, a = _entry(
        module, "accumulate", stored, f"{_PART} prepare multiply results x g sums shared scratch x_record g_record "
        "sums_g sums_x boxes chunks groups parts m_size sums_step own u_at m_at",
    )  # fmt: skip
    p = f.args
    own = a.scratch.at(p.thread * a.own)
    with f.loop(p.begin, p.end) as task:
        part, chunk = task.i % a.parts, task.i // a.parts
        where, u = _part(a, part), own.at(a.u_at)
        m = select(a.chunks.eq(1), own.at(a.m_at), a.shared.at(task.i * a.m_size))
        first = chunk * a.boxes // a.chunks
        of_x, of_g = select(where.k.eq(0), a.sums_x, 0), select(where.c.eq(0), a.sums_g, 0)
        with f.loop(first, (chunk + 1) * a.boxes // a.chunks) as b:
            sums = a.sums.at((b.i * a.groups + where.group) * a.sums_step)
            channel = where.group * a.group_in + where.c
            f.call(a.prepare, p.fields, a.x_record, a.x, own, b.i, channel, where.rows, own, sums.at(where.c), of_x)
            channel = where.group * a.group_out + where.k
            f.call(a.prepare, p.fields, a.g_record, a.g, own, b.i, channel, where.columns, u, sums.at(where.k), of_g)
            f.call(a.multiply, p.fields, own, u, m, where.rows, where.columns, b.i, b.i - first)
        with f.when(a.chunks.eq(1)):
            _call_results(f, a, part, where, m, own)


def _write_finish(module: Module, lanes: int) -> None:
    """The entry ``finish``: a task adds up, over the chunks in order, what one call of ``results`` needs."""
    f, a = _entry(
        module,
        "finish",
        f32,
        f"{_PART} results shared scratch g_record chunks parts products m_step m_block m_residue m_size residues own",
    )
    p = f.args
    own, width = a.scratch.at(p.thread * a.own), _operand(a.g_record, "width").width
    blocks, groups_of_rows = (a.k_part + (width - 1)) // width, (a.c_part + (FINISHED - 1)) // FINISHED
    with f.loop(p.begin, p.end) as task:
        row, rest = task.i % groups_of_rows * FINISHED, task.i // groups_of_rows
        column, part = rest % blocks * width, rest // blocks
        where, m = _part(a, part), a.shared.at(part * a.m_size)
        with f.when((column < where.columns) & (row < where.rows)):
            here = m.at(column // width * a.m_block + row * width)
            length = minimum(where.rows - row, FINISHED) * width
            with f.loop(0, a.products) as k, f.loop(0, a.residues) as residue, f.loop(0, length, lanes) as at:
                place = here.at(k.i * a.m_step + residue.i * a.m_residue + at.i)
                with f.loop(1, a.chunks, carry=[place.load(0, lanes)]) as j:
                    j.values = [j.values[0] + place.load(j.i * a.parts * a.m_size, lanes)]
                place.store(j.values[0])
            f.call(a.results, p.fields, part, column, row, m, own)


def _write_prepare_all(module: Module, stored: Type, lanes: int) -> None:
    """The entry ``prepare_all``: a task is a vector of channels of x or g, in one group and box.

    They are in the order of ``multiply_parts``, those of x spread evenly among those of g: so who has a share of both
    steps prepares what it multiplies of g, and as much of x as the others.
    """
    f, a = _entry(
        module, "prepare_all", stored, "prepare x g sums shared scratch x_record g_record sums_g sums_x boxes groups "
        "group_in group_out sums_step u_shared own",
    )  # fmt: skip
    p, own = f.args, a.scratch.at(f.args.thread * a.own)
    vectors = _operand(a.x_record, "vectors").vectors
    each = vectors + _operand(a.g_record, "vectors").vectors
    with f.loop(p.begin, p.end) as task:
        box, rest = task.i % a.boxes, task.i // a.boxes
        turn, group = rest % each, rest // each
        before = turn * vectors // each
        of_x, number = before < (turn + 1) * vectors // each, box * a.groups + group
        vector = select(of_x, before, turn - before)
        record, data = select(of_x, a.x_record, a.g_record), select(of_x, a.x, a.g)
        to, in_group = select(of_x, a.shared, a.shared.at(a.u_shared)), select(of_x, a.group_in, a.group_out)
        r, c = _operand(record, "slot width block"), vector * lanes
        f.call(
            a.prepare, p.fields, record, data, own, box, group * in_group + c, minimum(in_group - c, lanes),
            to.at(number * r.slot + c // r.width * r.block + c % r.width), a.sums.at(number * a.sums_step + c),
            select(of_x, a.sums_x, a.sums_g),
        )  # fmt: skip


def _write_multiply_parts(module: Module) -> None:
    """The entry ``multiply_parts``: a task is a part of the channels, for all boxes."""
    f, a = _entry(
        module, "multiply_parts", f32,
        f"{_PART} multiply results shared scratch x_record g_record boxes groups u_shared own m_at",
    )  # fmt: skip
    p = f.args
    own = a.scratch.at(p.thread * a.own)
    x, g = (_operand(record, "slot width block") for record in (a.x_record, a.g_record))
    m = own.at(a.m_at)
    with f.loop(p.begin, p.end) as task:
        where = _part(a, task.i)
        with f.loop(0, a.boxes) as b:
            number = b.i * a.groups + where.group
            v = a.shared.at(number * x.slot + where.c // x.width * x.block)
            u = a.shared.at(a.u_shared + number * g.slot + where.k // g.width * g.block)
            f.call(a.multiply, p.fields, v, u, m, where.rows, where.columns, b.i, b.i)
        _call_results(f, a, task.i, where, m, own)
