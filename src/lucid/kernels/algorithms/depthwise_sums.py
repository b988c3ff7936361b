"""What kernels of weight gradients with pixels in lanes share: rows added up, sums over lanes, chunks."""

from __future__ import annotations

from typing import Any

from lucid.kernels import jit
from lucid.kernels.algorithms.frames import GEOMETRY, Box, read_fields
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    computed,
    convert,
    i64,
    lane_sum,
    lanes_below,
    maximum,
    minimum,
    ptr,
    select,
    zeros,
)
from lucid.kernels.isa import ISA

TABLES = ("offsets", "places", "taps_down", "counts", "fill", "add_rows", "reduce")
NUMBERS = (
    "groups", "group_in", "group_out", "boxes", "all_boxes", "chunks", "passes", "weights", "group_weights", "frame",
    "private", "upstream", "ahead_g", "dilation_h", "kernel_w", "sums_g", "sums_x",
    "results", "lines", "columns", "down",
)  # fmt: skip


def arrays(element: Type) -> dict[str, Type]:
    """A weight gradient's, and what sums wait in."""
    stored, wide = ("x", "g", "gw", "gb"), ("parts", "bias_parts", "own")
    return dict.fromkeys(stored, ptr(element)) | dict.fromkeys(wide, ptr(computed(element)))


def fields(element: Type) -> dict[str, Type]:
    """What the entry points read."""
    return {**arrays(element), **dict.fromkeys(TABLES, ptr(i64)), **dict.fromkeys(NUMBERS + GEOMETRY, i64)}


def code(dtype: str) -> jit.Code:
    """The kinds of ``reduce``, and the entry point ``finish``."""
    return jit.kernel(("depthwise_sums", dtype), lambda isa: _write(isa, BY_DTYPE[dtype]))


def reducer(dtype: str, long: bool, rounds: bool) -> int:
    """Where ``reduce(fields, acc, to, first)`` lies: a group's sums to their places in w, from number ``first`` on.

    If the taps were in lanes, or not; as they are, or as the type that they end as.
    """
    return code(dtype).address(_reduce_name(long, rounds))


def _reduce_name(long: bool, rounds: bool) -> str:
    return "reduce" + "_long" * long + "_rounded" * rounds


def rows_adder(dtype: str) -> int:
    """Where ``add_rows(g, pitch, rows, width, to)`` lies, for kernels to call: to[lane] += all of the rows."""
    return jit.kernel(("add_rows", dtype), lambda isa: _write_add_rows(isa, BY_DTYPE[dtype])).address("add_rows")


def add_owned(f: Function, a: Any, add_rows: Pointer, box: Box, x: Pointer, to: Pointer) -> None:
    """to[lane] += what of a channel's x is one box's: from where its first window begins to where the next box's do.

    The first box of an axis begins with x and the last one ends with it, so that every number is one box's, whatever
    their windows read. ``a`` has the fields of ``GEOMETRY``.
    """
    spans = []
    for at, length, out, size, stride, low in (
        (box.d, a.box_d, a.od, a.d, a.stride_d, a.low_d),
        (box.h, a.box_h, a.oh, a.h, a.stride_h, a.low_h),
        (box.w, a.box_w, a.ow, a.w, a.stride_w, a.low_w),
    ):
        begin, end = (minimum(maximum(pixel * stride - low, 0), size) for pixel in (at, at + length))
        spans.append((select(at.eq(0), 0, begin), select(at + length < out, end, size)))
    (front, back), (top, bottom), (left, right) = spans
    whole = (right - left).eq(a.w)
    rows, width = select(whole, 1, bottom - top), select(whole, (bottom - top) * a.w, right - left)
    with f.loop(front, back) as z:
        f.call(add_rows, x.at((z.i * a.h + top) * a.w + left), a.w, rows, width, to)


def _write(isa: ISA, element: Type) -> Module:
    module = Module("depthwise_sums", isa)
    lanes = isa.lanes(computed(element))
    for rounds in sorted({False, element != computed(element)}):
        _write_reduce(module, element, lanes, rounds)
        _write_long_reduce(module, element, lanes, rounds)
    _write_finish(module, element, lanes)
    return module


def _reduce_function(module: Module, element: Type, long: bool, rounds: bool) -> tuple[Function, Pointer]:
    """What ``reducer`` is to find, and where its numbers go."""
    f = module.function(
        _reduce_name(long, rounds), export=True, fields=ptr(i64), acc=ptr(computed(element)), to=ptr(i64), first=i64
    )
    return f, f.args.to.cast(element if rounds else computed(element)).at(f.args.first)


def _write_reduce(module: Module, element: Type, lanes: int, rounds: bool) -> None:
    """Adds each sum over its lanes."""
    f, to = _reduce_function(module, element, False, rounds)
    p, a = f.args, read_fields(f, fields(element), [
        "group_out", "passes", "weights", "places", "taps_down", "counts", "kernel_w", "results", "lines", "columns",
        "down",
    ])  # fmt: skip
    sums = a.results * a.down * a.lines * a.columns
    with f.loop(0, a.group_out) as k, f.loop(0, a.passes * a.lines) as line:
        block, row = k.i // a.results, k.i % a.results
        first = (block * a.passes + line.i // a.lines) * sums
        with f.loop(0, a.taps_down.load(line.i)) as down:
            vector = first + ((row * a.down + down.i) * a.lines + line.i % a.lines) * a.columns
            place = to.at(k.i * a.weights + a.places.load(line.i) + down.i * a.kernel_w)
            with f.loop(0, a.counts.load(line.i)) as c:
                place[c.i] = convert(lane_sum(p.acc.load((vector + c.i) * lanes, lanes)), to.pointee)


def _write_long_reduce(module: Module, element: Type, lanes: int, rounds: bool) -> None:
    """Taps are in lanes, so sums are what they should be."""
    f, to = _reduce_function(module, element, True, rounds)
    p, a = f.args, read_fields(f, fields(element), ["group_out", "passes", "weights", "columns"])
    with f.loop(0, a.group_out) as k, f.loop(0, a.weights, lanes) as t:
        value = p.acc.load(k.i * a.passes * (a.columns * lanes) + t.i, lanes)
        to.store(convert(value, to.pointee), k.i * a.weights + t.i, lanes_below(f, a.weights - t.i, lanes))


def _write_add_rows(isa: ISA, element: Type) -> Module:
    """``add_rows(g, pitch, rows, width, to)``: to[lane] += all of the rows, in two chains."""
    module, wide = Module("add_rows", isa), computed(element)
    lanes = isa.lanes(wide)
    f = module.function("add_rows", export=True, g=ptr(element), pitch=i64, rows=i64, width=i64, to=ptr(wide))
    a = f.args
    pairs = a.width // (2 * lanes) * (2 * lanes)
    with f.loop(0, a.rows, carry=[a.to.load(0, lanes)]) as row:
        g = a.g.at(row.i * a.pitch)
        with f.loop(0, pairs, 2 * lanes, carry=[*row.values, zeros(f, wide, lanes)]) as i:
            i.values = [total + convert(g.load(i.i + k * lanes, lanes), wide) for k, total in enumerate(i.values)]
        with f.loop(pairs, a.width, lanes, carry=i.values[:1]) as rest:
            left = lanes_below(f, a.width - rest.i, lanes)
            rest.values = [rest.values[0] + convert(g.load(rest.i, lanes, left), wide)]
        row.values = [rest.values[0] + i.values[1]]
    a.to.store(row.values[0])
    return module


def write_add_chunks(module: Module, element: Type, lanes: int) -> Function:
    """Adds ``add_chunks(to, parts, count, step, chunks)``: to[i] = the sum of parts[i + chunk step], in order."""
    wide = computed(element)
    add = module.function("add_chunks", to=ptr(element), parts=ptr(wide), count=i64, step=i64, chunks=i64)
    p = add.args
    with add.loop(0, p.count, lanes) as i:
        mask = lanes_below(add, p.count - i.i, lanes)
        with add.loop(0, p.chunks, carry=[zeros(add, wide, lanes)]) as j:
            j.values = [j.values[0] + p.parts.load(i.i + j.i * p.step, lanes, mask)]
        p.to.store(convert(j.values[0], element), i.i, mask)
    return add


def _write_finish(module: Module, element: Type, lanes: int) -> None:
    """The entry point ``finish``: a task adds the chunks of one group."""
    add = write_add_chunks(module, element, lanes)
    f = module.entry("finish", **fields(element))
    a = f.args
    with f.loop(a.begin, a.end) as group:
        bias_count = a.sums_g + a.sums_x
        for to, parts, count in ((a.gw, a.parts, a.group_weights), (a.gb, a.bias_parts, bias_count)):
            at = group.i * count
            f.call(add, to.at(at), parts.at(at), count, a.groups * count, a.chunks)
