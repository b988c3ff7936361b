"""A correlation's loops in native code: boxes, results, depth and rows; frames or tables of rows; phases merged."""

from __future__ import annotations

from typing import Any

from lucid.kernels.algorithms.correlation_tile import Tile, source_type, write_tile
from lucid.kernels.algorithms.frames import (
    GEOMETRY,
    call_fill_frame,
    open_box,
    read_fields,
)
from lucid.kernels.epilogue import Arrays, parameters
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    computed,
    convert,
    i32,
    i64,
    lanes_below,
    minimum,
    ptr,
    select,
)
from lucid.kernels.isa import ISA
from lucid.kernels.plan import PLAIN, Epilogue

_ARRAYS = ("x", "weights", "bias", "y", "own", "scale", "shift", "residual", "zeros")
_TABLES = ("offsets", "columns", "places", "begins", "fill")
NUMBERS = (
    "groups", "sources", "results", "boxes", "size_d", "size_h", "size_w", "out_d", "out_h", "out_w", "w_group",
    "w_result", "w_step", "bias_step", "frame", "private", "own_weights", "ahead_y", "row_taps",
    "spare_rows",
)  # fmt: skip


def _fields(element: Type) -> dict[str, Type]:
    pointers = dict.fromkeys(_ARRAYS, ptr(element)) | dict.fromkeys(_TABLES, ptr(i64))
    return {**pointers, "own": ptr(computed(element)), **dict.fromkeys(NUMBERS + GEOMETRY, i64)}


def write(isa: ISA, element: Type, tile: Tile, merge: int, epilogue: Epilogue) -> Module:
    """Phases that are merged are sums as they are until then, others end in the tile's stores."""
    wide, fields, merged = computed(element), _fields(element), tile.phases != merge
    module, lanes = Module("correlation", isa), isa.lanes(wide)
    ends = (wide, PLAIN) if merged else (element, epilogue)
    sums = write_tile(module, element, lanes, tile, *ends)
    merge_row = _write_merge_row(module, element, epilogue) if merged else None
    point_rows = _write_point_rows(module, element, fields) if tile.in_place else None
    box_rows = _write_rows(module, element, lanes, tile, fields, sums, merge_row, epilogue)
    f = module.entry("correlate", **fields)
    a = f.args
    arrays = Arrays.of(epilogue, a.y, a)
    with f.loop(a.begin, a.end) as task:
        box = open_box(f, a, task.i % a.boxes)
        image_group = task.i // a.boxes
        frame = a.own.at(a.thread * a.private)
        source = a.x.at(image_group * a.sources * (a.d * a.h * a.w))
        rows: Pointer = frame
        if point_rows is not None:
            rows = frame.cast(ptr(element))
            f.call(point_rows, a.fields, rows, source, box.d, box.h)
        else:
            call_fill_frame(f, element, fields, frame, source, a.sources, 1, 0, box.d, box.h, box.w)
        weights = a.weights.at(image_group % a.groups * a.w_group)
        if element != wide:
            weights = widened(f, weights, frame.at(a.own_weights), a.w_group, lanes)
        depth_boxes = minimum(a.box_d, a.od - box.d)
        with (
            f.loop(0, a.results, tile.results) as result,
            f.loop(0, depth_boxes) as depth,
            f.loop(0, a.out_d) as phase_d,
            f.loop(0, a.out_h) as phase_h,
        ):
            place = (box.d + depth.i) * a.out_d + phase_d.i
            with f.when(place < a.size_d):
                channel = image_group * a.results + result.i
                group_result = image_group % a.groups * a.results + result.i
                here = arrays.at(group_result, (channel * a.size_d + place) * (a.size_h * a.size_w))
                f.call(
                    box_rows,
                    a.fields,
                    frame,
                    rows.at(depth.i * a.stride_d * (a.frame_h * _row_pitch(tile, a))),
                    weights.at(result.i * a.w_result),
                    a.bias.at(group_result * a.bias_step),
                    here.y,
                    (phase_d.i * a.out_h + phase_h.i) * a.out_w,
                    phase_h.i,
                    box.h,
                    box.w,
                    *here.given.values(),
                )
    return module


def widened(f: Function, numbers: Pointer, to: Pointer, count: Value, lanes: int) -> Pointer:
    """Half precision as float32, once for all that read it again and again; whole vectors are written."""
    with f.loop(0, count, lanes) as i:
        to.store(convert(numbers.load(i.i, lanes, lanes_below(f, count - i.i, lanes, i32)), to.pointee), i.i)
    return to


def _row_pitch(tile: Tile, a: Any) -> Value:
    """From one row of a frame to the next, or of a table."""
    pitch: Value = a.frame_w.const(1) if tile.in_place else a.frame_w
    return pitch


def _write_point_rows(module: Module, element: Type, fields: dict[str, Type]) -> Function:
    """Adds ``point_rows(fields, to, x, d, h)``: a table of rows in place of the frame at output position (d, h).

    ``to[channel][depth][row]`` become addresses in ``x``, the box's first channel, or of zeros; behind them too.
    """
    data = ptr(element)
    f = module.function("point_rows", fields=ptr(i64), to=ptr(data), x=data, d=i64, h=i64)
    p, a = f.args, read_fields(f, fields, [
        "zeros", "sources", "d", "h", "w", "frame_d", "frame_h", "stride_d", "stride_h", "low_d", "low_h", "spare_rows",
    ])  # fmt: skip
    top, up = p.d * a.stride_d - a.low_d, p.h * a.stride_h - a.low_h
    with f.loop(0, a.sources) as s, f.loop(0, a.frame_d) as z:
        depth = top + z.i
        height = select(depth.ult(a.d), a.h, 0)
        to, plane = p.to.at((s.i * a.frame_d + z.i) * a.frame_h), p.x.at((s.i * a.d + depth) * a.h * a.w)
        with f.loop(0, a.frame_h) as y:
            row = up + y.i
            to.store(select(row.ult(height), plane.at(row * a.w), a.zeros), y.i)
    behind = p.to.at(a.sources * a.frame_d * a.frame_h)
    with f.loop(0, a.spare_rows) as y:
        behind.store(a.zeros, y.i)
    return f


def _write_rows(
    module: Module, element: Type, lanes: int, tile: Tile, fields: dict[str, Type], sums: Function, merge_row: Any,
    epilogue: Epilogue,
) -> Function:  # fmt: skip
    """Adds ``box_rows``: one phase of depth and rows of a box; the phases of columns side by side."""
    data, framed, wide = ptr(element), ptr(computed(element)), tile.vectors * lanes
    f = module.function(
        "box_rows", fields=ptr(i64), own=framed, source=source_type(tile, element), w=framed, bias=data, y=data,
        phase=i64, phase_h=i64, h=i64, w0=i64, **parameters(epilogue, element),
    )  # fmt: skip
    p = f.args
    results = Arrays.of(epilogue, p.y, p)
    a = read_fields(f, fields, [
        "offsets", "columns", "places", "begins", "frame", "frame_w", "w", "low_w", "stride_h", "box_h", "box_w",
        "size_d", "size_h", "size_w", "out_h", "out_w", "w_step", "w_result", "bias_step", "oh", "ow", "ahead_y",
        "row_taps",
    ])  # fmt: skip
    phases = p.own.at(a.frame)
    spare = phases.at(a.out_w * (tile.rows * wide))
    rows = minimum(a.box_h, (a.size_h - p.phase_h + (a.out_h - 1)) // a.out_h - p.h)
    row_step, plane = a.out_h * a.size_w, a.size_d * a.size_h * a.size_w
    row_pitch = _row_pitch(tile, a)
    first = p.w0 - a.low_w if tile.in_place else f.const(i64, 0)
    pitch = row_pitch if tile.span > 1 else a.stride_h * row_pitch
    positions = minimum(a.box_w, a.ow - p.w0)  # beyond them is another box, which another thread may have written
    tables = (a.offsets, a.columns, a.places, a.row_taps, p.w, a.w_step, a.w_result, p.bias, a.bias_step)
    source_row = a.stride_h * row_pitch
    if merge_row is None:
        to = results.at(0, (p.h * a.out_h + p.phase_h) * a.size_w + p.w0 * a.out_w)
        count = minimum(positions * tile.phases, a.size_w - p.w0 * tile.phases)
        f.call(
            sums, p.source, source_row, pitch, a.begins.at(p.phase), *tables, to.y, row_step, plane, rows, count, first,
            a.w, spare.cast(element), a.ahead_y, *to.given.values(),
        )  # fmt: skip
        return f
    with f.loop(0, rows, tile.rows) as r:
        to = results.at(0, ((p.h + r.i) * a.out_h + p.phase_h) * a.size_w + p.w0 * a.out_w)
        here, left = p.source.at(r.i * source_row), rows - r.i
        with f.loop(0, positions, wide) as c:
            with f.loop(0, a.out_w) as phase_w:
                begins, part = a.begins.at(p.phase + phase_w.i), phases.at(phase_w.i * (tile.rows * wide))
                f.call(
                    sums, here, source_row, pitch, begins, *tables, part, wide, 0, tile.rows, wide, first + c.i, a.w,
                    spare, 0,
                )  # fmt: skip
            count = minimum(a.size_w - (p.w0 + c.i) * a.out_w, a.out_w * minimum(wide, positions - c.i))
            with f.loop(0, minimum(left, tile.rows)) as row:
                line = to.at(0, c.i * a.out_w + row.i * row_step)
                part = phases.at(row.i * wide)
                f.call(merge_row, line.y, part, tile.rows * wide, count, a.out_w, *line.given.values())
    return f


def _write_merge_row(module: Module, element: Type, epilogue: Epilogue) -> Function:
    """Adds ``merge_row(to, source, step, count, stride)``: to[i stride + phase] = source[phase step + i].

    ``count`` elements in all.
    """
    data, wide = ptr(element), ptr(computed(element))
    more = parameters(epilogue, element)
    f = module.function("merge_row", to=data, source=wide, step=i64, count=i64, stride=i64, **more)
    a = f.args
    to = Arrays.of(epilogue, a.to, a).destination()
    with f.loop(0, a.stride) as phase, f.loop(0, (a.count - phase.i + (a.stride - 1)) // a.stride) as i:
        to.store(a.source.load(phase.i * a.step + i.i), i.i * a.stride + phase.i)
    return f
