"""Input gradient by overlap-add: a matrix product of every tap of a line, and lines of its sums added where they meet.

::

    for each span of samples, group, part of the result channels:        tasks, in any order, on any thread
        gather the span's samples of g                                   in the second level cache
        for each chunk of result channels:
            for each residue of the outer axes:
                sums[row, tap of the line][sample] = w . g               register tiles; outer taps are summed here
                for each line: result[i] = sum of the taps that meet i   in the first or second level cache

A task owns its results: where a line is cut, the samples that two spans need are multiplied twice.
"""

from __future__ import annotations

from functools import partial
from math import ceil
from typing import Any

import numpy as np

from lucid.kernels import jit
from lucid.kernels.algorithms import implicit_gemm, pixel_panels
from lucid.kernels.algorithms.base import GHZ, useful_threads
from lucid.kernels.algorithms.dense_layout import FIELDS
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.overlap_layout import (
    ARRAYS,
    MEMBER,
    MEMBER_ARRAYS,
    NUMBERS,
    PACKED_TOGETHER,
    SUMMED,
    Bound,
)
from lucid.kernels.algorithms.pixel_gather import next_line
from lucid.kernels.algorithms.tile_sums import call_arrays
from lucid.kernels.epilogue import Destination, sources
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    computed,
    convert,
    i8,
    i32,
    i64,
    interleave,
    lane_numbers,
    lanes_below,
    maximum,
    minimum,
    ptr,
    select,
    splat,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import KEPT, NOTHING, WORKSPACE, Launch, address
from lucid.kernels.plan import PLAIN, Epilogue
from lucid.kernels.runtime import memory

#: Strides whose results are interleaved in registers; those of others are stored one by one.
_INTERLEAVED = (1, 2, 4)


def bind(bound: Bound, expected_ns: float) -> Launch:
    """A problem under a cut, bound to its kernel: call it with (g, w, bias or None, y), and what an epilogue takes.

    One thread is expected to take ``expected_ns``: of that depends how many are woken.
    """
    problem, tile, stride = bound.geometry.problem, bound.cut.tile, bound.geometry.stride
    dtype, stored = problem.dtype, BY_DTYPE[problem.dtype]
    residues = stride if stride in _INTERLEAVED else 0
    numbers, arrays = bound.numbers()
    members, more = bound.member_numbers()
    numbers |= implicit_gemm.gather_parts(Grain(stored), tile.lanes, pixel_panels.SIDE_BY_SIDE)
    numbers |= implicit_gemm.tile_parts(Grain(stored), tile)
    key = ("overlap spread", dtype, residues, problem.epilogue)
    spread = implicit_gemm.alone(key, lambda m, _: write_spread(m, stored, tile.lanes, residues, problem.epilogue))
    numbers["spread"] = spread.address("spread")
    constants = np.array([numbers.get(name, 0) for name in NUMBERS], np.int64), np.array(members, np.int64)
    code = jit.kernel(("overlap driver", dtype), lambda isa: _write(stored, isa))
    steps = [(code.address("run"), bound.tasks, 1)]
    if not bound.cut.lazy:
        steps.insert(0, (code.address("weights"), problem.groups * bound.chunks * bound.pieces, 1))
    return Launch(
        steps,
        (*[0] * (len(FIELDS) - 2), *map(address, constants)),
        (0, 1, 2 if problem.bias else NOTHING, 3, KEPT, WORKSPACE, *sources(problem.epilogue, NOTHING)),
        kept_bytes=ceil(bound.packed * bound.itemsize / memory.ALIGN_BYTES) * memory.ALIGN_BYTES,
        own_bytes=numbers["scratch_bytes"],
        most_threads=useful_threads(expected_ns * GHZ, bound.tasks),
        keep=(constants, arrays, more),
        in_advance=partial(bind, bound.in_advance(), expected_ns) if bound.cut.lazy else None,
    )


def _numbers(record: Pointer, names: str) -> dict[str, Any]:
    return pixel_panels.read_numbers(record, NUMBERS, ARRAYS, names.split())


def _member(record: Pointer, names: str) -> dict[str, Any]:
    return pixel_panels.read_numbers(record, MEMBER, MEMBER_ARRAYS, names.split())


def _field(fields: Pointer, name: str, pointee: Type) -> Pointer:
    pointer = fields.at(FIELDS.index(name)).cast(ptr(pointee)).load()
    assert isinstance(pointer, Pointer)
    return pointer


def _part(numbers: Pointer, name: str, further: Any = 0) -> Pointer:
    code = numbers.at(further).at(NUMBERS.index(name)).cast(ptr(i8)).load()
    assert isinstance(code, Pointer)
    return code


def _write(stored: Type, isa: ISA) -> Module:
    module = Module("overlap_driver", isa)
    element, data = computed(stored), ptr(stored)
    lanes = isa.lanes(element)
    fields = dict.fromkeys(FIELDS, data) | {"packed": ptr(element), "scratch": ptr(i8)}
    fields |= dict.fromkeys(FIELDS[-2:], ptr(i64))
    pack = _write_pack_rows(module, element, stored, lanes)
    _write_weights(module, fields, pack)
    product = _write_product(module, element, lanes)
    chunk = _write_chunk(module, element, stored, pack, product)
    _write_run(module, element, lanes, fields, chunk)
    return module


def _write_pack_rows(module: Module, element: Type, stored: Type, lanes: int) -> Function:
    """Adds ``pack_rows``: weights of channels [begin, end) and a chunk's rows as tiles read them, [tile][k][row].

    Rows that do not exist hold any number, since their sums go nowhere.
    """
    f = module.function(
        "pack_rows", numbers=ptr(i64), member=ptr(i64), w=ptr(stored), first=i64, rows=i64, begin=i64, end=i64,
        to=ptr(element),
    )  # fmt: skip
    a = f.args
    r, m = _numbers(a.numbers, "channel_step row_step row_run tile_rows"), _member(a.member, "taps steps")
    weight_offsets, tile_rows = _member(a.member, "weight_offsets")["weight_offsets"], r["tile_rows"]
    with f.loop(a.begin, a.end, PACKED_TOGETHER) as together, f.loop(0, a.rows, tile_rows) as o:
        last = minimum(together.i + PACKED_TOGETHER, a.end)
        exist = minimum(tile_rows, a.rows - o.i)
        with f.loop(0, exist) as run:  # its step is the length of the run of rows that lie side by side
            row = a.first + o.i + run.i
            block, within = row // r["row_run"], row % r["row_run"]
            length = minimum(minimum(r["row_run"] - within, exist - run.i), lanes)
            source = a.w.at(block * r["row_step"] + within)
            target = a.to.at(o.i * m["steps"] + run.i)
            mask = lanes_below(f, length, lanes)
            with f.loop(together.i, last) as c:
                some, place = source.at(c.i * r["channel_step"]), target.at(c.i * m["taps"] * tile_rows)
                with f.loop(0, m["taps"]) as t:
                    value = some.load(weight_offsets.load(t.i), lanes, mask)
                    place.store(convert(value, element), t.i * tile_rows, mask)
            run.step = length
    return f


def _write_weights(module: Module, fields: dict[str, Type], pack: Function) -> None:
    """Adds the entry ``weights``: a task packs a piece of the summed channels for a chunk of results."""
    f = module.entry("weights", **fields)
    a = f.args
    r = _numbers(
        a.shape,
        "chunks chunk out_channels stack members group_weights chunk_weights channels piece_channels pieces",
    )
    with f.loop(a.begin, a.end) as task, f.loop(0, r["members"]) as k:
        number, begin = task.i // r["pieces"], task.i % r["pieces"] * r["piece_channels"]
        group, first = number // r["chunks"], number % r["chunks"] * r["chunk"]
        rows = minimum(r["chunk"], r["out_channels"] - first) * r["stack"]
        member = a.phases.at(k.i * len(MEMBER))
        to = a.packed.at(number * r["chunk_weights"] + _member(member, "packed")["packed"])
        w, end = a.w.at(group * r["group_weights"]), minimum(begin + r["piece_channels"], r["channels"])
        f.call(pack, a.shape, member, w, first * r["stack"], rows, begin, end, to)


def _write_product(module: Module, element: Type, lanes: int) -> Function:
    """Adds ``product(numbers, member, weights, panel, sums, rows, low, high, spare)``: columns [low, high)."""
    data = ptr(element)
    f = module.function(
        "product", numbers=ptr(i64), member=ptr(i64), weights=data, panel=data, sums=data, rows=i64, low=i64,
        high=i64, spare=data,
    )  # fmt: skip
    a = f.args
    r, m = _numbers(a.numbers, "tile_rows tile_columns widths pitch"), _member(a.member, "steps places")
    zeros = a.spare.at(r["tile_columns"])
    with f.loop(0, a.rows, r["tile_rows"]) as o, f.loop(a.low, a.high, r["tile_columns"]) as j:
        width = minimum((a.high - j.i + (lanes - 1)) // lanes, r["widths"])
        count, exist = maximum((a.high - j.i) // r["tile_columns"], 1), minimum(r["tile_rows"], a.rows - o.i)
        f.call(
            _part(a.numbers, "tile_1", width - 1), m["steps"], a.weights.at(o.i * m["steps"]), a.panel.at(j.i), zeros,
            0, a.sums.at(o.i * r["pitch"] + j.i), r["pitch"], exist, a.spare, m["places"],
            r["tile_rows"] * m["steps"], count, r["tile_columns"], 0, 0,
        )  # fmt: skip
        j.step = count * r["tile_columns"]
    return f


def _write_chunk(module: Module, element: Type, stored: Type, pack: Function, product: Function) -> Function:
    """Adds ``chunk``: some result channels of a span, all their members."""
    f = module.function(
        "chunk", fields=ptr(i64), panel=ptr(element), own=ptr(i8), group=i64, index=i64, unit=i64, start=i64, count=i64
    )
    a = f.args
    w, packed = _field(a.fields, "w", stored), _field(a.fields, "packed", element)
    numbers, members = (_field(a.fields, name, i64) for name in FIELDS[-2:])
    r = _numbers(
        numbers,
        "chunks chunk out_channels stack members group_weights chunk_weights channels lazy weights_at sums_at lines_at "
        "spare_at",
    )
    sums, lines, spare = (a.own.at(r[name]).cast(element) for name in ("sums_at", "lines_at", "spare_at"))
    first, lazy = a.index * r["chunk"], r["lazy"].ne(0)
    channels = minimum(r["chunk"], r["out_channels"] - first)
    rows = channels * r["stack"]
    block = packed.at((a.group * r["chunks"] + a.index) * r["chunk_weights"])
    block = select(lazy, a.own.at(r["weights_at"]).cast(element), block)
    line, count, origin, u_low, u_high = _lines(numbers, a.unit, a.start, a.count)
    with f.loop(0, r["members"]) as k:
        member = members.at(k.i * len(MEMBER))
        m = _member(member, "packed from to")
        weights = block.at(m["packed"])
        with f.when(lazy):
            own = w.at(a.group * r["group_weights"])
            f.call(pack, numbers, member, own, first * r["stack"], rows, 0, r["channels"], weights)
        low = maximum(a.start, m["from"]) - a.start
        high = minimum(a.start + a.count, m["to"]) - a.start
        f.call(product, numbers, member, weights, a.panel, sums, rows, low, high, spare)
        f.call(
            _part(numbers, "spread"), a.fields, numbers, member, sums.at(origin), a.group, first, channels, line, count,
            u_low, u_high, lines,
        )  # fmt: skip
    return f


def _lines(numbers: Pointer, unit: Value, start: Value, count: Value) -> tuple[Value, Value, Value, Value, Value]:
    """Of a span: the first line, how many, where in its sums sample 0 would lie, and the steps of its results."""
    r = _numbers(numbers, "samples segmented back advance lines_unit u_first u_end")
    cut, end = r["segmented"].ne(0), start + r["advance"]
    line = select(cut, unit, unit * r["lines_unit"] + start // r["samples"])
    origin = select(cut, r["back"] - start, 0)
    u_low = select(cut, maximum(r["u_first"], start), r["u_first"])
    u_high = select(~cut | (end >= r["samples"]), r["u_end"], minimum(r["u_end"], end))
    return line, select(cut, 1, count // r["samples"]), origin, u_low, u_high


def _write_run(module: Module, element: Type, lanes: int, fields: dict[str, Type], chunk: Function) -> None:
    """Adds the entry ``run``: a task is a span of samples in one group, for a part of the result channels."""
    f = module.entry("run", **fields)
    a = f.args
    r = _numbers(
        a.shape,
        "scratch_bytes entries_at merges_at spare_at parts groups unit_spans advance span unit halo gathered_unit "
        "image vectors_tap slot gathered_taps group_input x_step channels plane channel_stride chunks chunks_part "
        "tile_rows tile_columns",
    )
    own = a.scratch.at(a.thread * r["scratch_bytes"])
    panel, entries, merges = own.cast(element), own.at(r["entries_at"]).cast(i64), own.at(r["merges_at"]).cast(i64)
    zeros = own.at(r["spare_at"]).cast(element).at(r["tile_columns"])
    with f.loop(0, r["tile_rows"]) as row:
        zeros.store(0, row.i)
    with f.loop(a.begin, a.end) as task:
        part, rest = task.i % r["parts"], task.i // r["parts"]
        group, span = rest % r["groups"], rest // r["groups"]
        unit, start = span // r["unit_spans"], span % r["unit_spans"] * r["advance"]
        count = minimum(r["span"], r["unit"] - start)
        gathered, p = count + r["halo"], unit * r["gathered_unit"] + start
        vectors = (gathered + (lanes - 1)) // lanes
        merge_count = f.call(
            _part(a.shape, "table"), a.shape, entries, merges, r["image"], p, p + gathered, vectors,
            r["vectors_tap"], r["slot"], returns=i64,
        )  # fmt: skip
        f.call(
            _part(a.shape, "pack"), entries, r["gathered_taps"] * vectors, merges, merge_count,
            a.x.at(group * r["group_input"]), r["x_step"], panel, r["channels"], r["plane"], r["channel_stride"],
        )  # fmt: skip
        first = part * r["chunks_part"]
        with f.loop(first, minimum(first + r["chunks_part"], r["chunks"])) as index:
            f.call(chunk, a.fields, panel, own, group, index.i, unit, start, count)


def write_spread(module: Module, stored: Type, lanes: int, residues: int, epilogue: Epilogue = PLAIN) -> Function:
    """Adds ``spread``: lines of sums, one a tap, added up where they meet and stored as lines of the result.

    ``sums`` is where sample 0 of the first line and tap lies. ``residues`` is the stride, or 0 for any. An epilogue is
    done to each line while it is in the first cache.
    """
    element = computed(stored)
    add = _write_add_line(module, element, stored, lanes, residues)
    f = module.function(
        "spread", fields=ptr(i64), numbers=ptr(i64), member=ptr(i64), sums=ptr(element), group=i64, first=i64,
        channels=i64, line=i64, lines=i64, u_low=i64, u_high=i64, room=ptr(element),
    )  # fmt: skip
    a, arrays, biases = f.args, call_arrays(f.args.fields, stored, epilogue), _field(f.args.fields, "bias", stored)
    r = _numbers(
        a.numbers,
        "out_channels out_plane out_image size_z size_y size_x stride_z stride_y fold_z fold_y kernel_x pitch samples "
        "lines_image lines_y stride_x low_x",
    )
    m = _member(a.member, "z_start y_start")
    with_bias = f.emit(i64, f"ptrtoint ptr {biases.text} to i64").ne(0)
    low = maximum(a.u_low * r["stride_x"] - r["low_x"], 0)
    high = minimum(a.u_high * r["stride_x"] - r["low_x"], r["size_x"])
    image, inner = a.line // r["lines_image"], a.line % r["lines_image"]
    lines_z = r["lines_image"] // r["lines_y"]
    place = [image, inner // r["lines_y"], inner % r["lines_y"]]
    with f.loop(0, a.channels) as c, f.loop(0, r["fold_z"]) as i, f.loop(0, r["fold_y"]) as j:
        channel = a.group * r["out_channels"] + a.first + c.i
        start = convert(biases.load(channel, 1, with_bias, f.const(stored, 0)), element)
        row = ((c.i * r["fold_z"] + i.i) * r["fold_y"] + j.i) * r["kernel_x"]
        source, plane = a.sums.at(row * r["pitch"]), channel * r["out_plane"]
        with f.loop(0, a.lines, carry=place) as line:
            image, at_z, at_y = line.values
            z, y = at_z * r["stride_z"] + m["z_start"] + i.i, at_y * r["stride_y"] + m["y_start"] + j.i
            with f.when(z.ult(r["size_z"]) & y.ult(r["size_y"])):
                to = arrays.destination(channel, plane + image * r["out_image"] + (z * r["size_y"] + y) * r["size_x"])
                f.call(add, a.numbers, source.at(line.i * r["samples"]), start, to.y, a.u_low, a.u_high, a.room)
                if epilogue:
                    _end_line(f, to, low, high, lanes)
            line.values = next_line(image, at_z, at_y, lines_z, r["lines_y"])
    return f


def _end_line(f: Function, to: Destination, low: Value, high: Value, lanes: int) -> None:
    """Results [low, high) of a line end where they lie."""
    with f.loop(low, high, lanes) as i:
        mask = lanes_below(f, high - i.i, lanes)
        to.store(to.y.load(i.i, lanes, mask), i.i, mask)


def _write_add_line(module: Module, element: Type, stored: Type, lanes: int, residues: int) -> Function:
    """Adds ``add_line(numbers, sums, start, to, u_low, u_high, room)``: steps [u_low, u_high) of a line."""
    f = module.function(
        "add_line", numbers=ptr(i64), sums=ptr(element), start=element, to=ptr(stored), u_low=i64, u_high=i64,
        room=ptr(element),
    )  # fmt: skip
    a, vectors = f.args, max(1, SUMMED // max(1, residues)) if residues else 1
    some = _scattered if residues == 0 else _interleaved
    begin = a.u_low
    for count in sorted({vectors, 1}, reverse=True):
        width = count * lanes
        end = a.u_high if count == 1 else a.u_high - (a.u_high - begin) % width
        with f.loop(begin, end, width) as u:
            some(f, u.i, count, lanes, residues)
        begin = end
    return f


def _interleaved(f: Function, u: Value, vectors: int, lanes: int, residues: int) -> None:
    """Steps from u on of all residues, a known number: interleaved in registers, to the result at once."""
    a, r = f.args, _numbers(f.args.numbers, "low_x size_x")
    by_residue = [_totals(f, u, f.const(i64, residue), vectors, lanes) for residue in range(residues)]
    mixed = [value for v in range(vectors) for value in _mixed([totals[v] for totals in by_residue], lanes)]
    first = u * residues - r["low_x"]
    end = minimum(r["size_x"], a.u_high * residues - r["low_x"])
    to, whole = a.to.pointee, vectors * residues * lanes

    def inside() -> list[Value]:
        for k, value in enumerate(mixed):
            a.to.store(convert(value, to), first + k * lanes)
        return []

    def across() -> list[Value]:
        for k, value in enumerate(mixed):
            place = first + k * lanes
            mask = _within(f, place, end, lanes)
            a.to.store(convert(value, to), place, mask)
        return []

    f.choose((first >= 0) & (first + whole <= end), inside, across)


def _mixed(vectors: list[Value], lanes: int) -> list[Value]:
    return vectors if lanes == 1 else interleave(vectors)


def _scattered(f: Function, u: Value, vectors: int, lanes: int, residues: int) -> None:
    """Steps from u on, residue by residue, stored one by one."""
    a, r = f.args, _numbers(f.args.numbers, "low_x size_x stride_x")
    steps = minimum(a.u_high - u, vectors * lanes)
    with f.loop(0, r["stride_x"]) as residue:
        for v, total in enumerate(_totals(f, u, residue.i, vectors, lanes)):
            a.room.store(total, v * lanes)
        first = u * r["stride_x"] + residue.i - r["low_x"]
        with f.loop(0, steps) as step:
            place = first + step.i * r["stride_x"]
            with f.when(place.ult(r["size_x"])):
                a.to.store(convert(a.room.load(step.i), a.to.pointee), place)


def _totals(f: Function, u: Value, residue: Value, vectors: int, lanes: int) -> list[Value]:
    """Steps from u on of one residue: the bias and the sums of all its taps, whose lines have ``samples`` each."""
    a, r = f.args, _numbers(f.args.numbers, "residues tap_step shift_step pitch samples")
    tap, count, shift = (r["residues"].load(residue * 3 + k) for k in range(3))
    with f.loop(0, count, carry=[splat(a.start, lanes)] * vectors) as t:
        q = u - shift - t.i * r["shift_step"]
        row = a.sums.at((tap + t.i * r["tap_step"]) * r["pitch"] + q)
        totals = list(t.values)

        def inside(row: Pointer = row) -> list[Value]:
            return [row.load(v * lanes, lanes) for v in range(vectors)]

        def across(row: Pointer = row, q: Value = q) -> list[Value]:
            masks = [_within(f, q + v * lanes, r["samples"], lanes) for v in range(vectors)]
            return [row.load(v * lanes, lanes, mask) for v, mask in enumerate(masks)]

        sums = f.choose((q >= 0) & (q + vectors * lanes <= r["samples"]), inside, across)
        t.values = [total + some for total, some in zip(totals, sums, strict=True)]
    return t.values


def _within(f: Function, first: Value, end: Value, lanes: int) -> Value:
    """The lanes of numbers from ``first`` on that are in [0, end)."""
    if lanes == 1:
        return first.ult(end)
    numbers = lane_numbers(f, lanes, element=i32) + splat(convert(first, i32), lanes)
    return numbers.ult(splat(convert(end, i32), lanes))
