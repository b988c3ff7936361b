"""Sums of a dense convolution on their way out: rows of a tile, segment by segment, to their places in the result."""

from __future__ import annotations

from contextlib import nullcontext
from math import prod

from lucid.core.geometry import Sizes
from lucid.kernels.algorithms.dense_layout import FIELDS, read_phase
from lucid.kernels.algorithms.panels import either
from lucid.kernels.algorithms.pixel_gather import next_line
from lucid.kernels.algorithms.woven import OUTWARD, PART, PLACE
from lucid.kernels.epilogue import Arrays, Destination, operands
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    i16,
    i64,
    interleave,
    lanes_below,
    lanes_inside,
    maximum,
    minimum,
    ptr,
    select,
    transpose,
)
from lucid.kernels.plan import PLAIN, Epilogue


def call_arrays(fields: Pointer, stored: Type, epilogue: Epilogue) -> Arrays:
    """Of a call, from its fields."""
    names = ("y", *operands(epilogue))
    pointers = {name: fields.at(FIELDS.index(name)).cast(ptr(stored)).load() for name in names}
    return Arrays(epilogue, pointers.pop("y"), pointers)  # type: ignore[arg-type]


def write_ending(module: Module, element: Type, lanes: int, epilogue: Epilogue) -> Function:
    """Adds ``ending(fields, channel, index, step, rows, columns)``: sums that lie in the result end where they are.

    ``rows`` of whole vectors, a channel each, from element ``index`` of the result on, ``step`` apart.
    """
    f = module.function("ending", fields=ptr(i64), channel=i64, index=i64, step=i64, rows=i64, columns=i64)
    a, arrays = f.args, call_arrays(f.args.fields, element, epilogue)
    with f.loop(0, a.rows) as m:
        to = arrays.destination(a.channel + m.i, a.index + m.i * a.step)
        with f.loop(0, a.columns, lanes) as j:
            if to.residual is not None:  # what the next tile of these rows will add
                to.residual.prefetch(a.columns + j.i)
            to.store(to.y.load(j.i, lanes), j.i)
    return f


def write_finish(
    module: Module, element: Type, lanes: int, residues: Sizes, stored: Type, turned: bool, epilogue: Epilogue = PLAIN
) -> Function:
    """Adds ``finish(fields, record, sums, pitch, channel, out_plane, out_image, position, room, rows, line)``.

    Rows of sums, or columns if they are ``turned``, ``pitch`` apart, end and go to their places in y, rounded to its
    type; the first is of that channel. ``line`` has room for a row of every residue that is stacked: those of the last
    axis are interleaved, those of the others are lines of their own. Of columns it takes a vector.
    """
    data, stack = ptr(element), prod(residues)
    f = module.function(
        "finish", fields=ptr(i64), record=ptr(i64), sums=data, pitch=i64, channel=i64, out_plane=i64, out_image=i64,
        position=i64, room=i64, rows=i64, line=data,
    )  # fmt: skip
    a, arrays = f.args, call_arrays(f.args.fields, stored, epilogue)
    r = read_phase(
        a.record,
        "positions store_x store_y store_z store_x_step store_y_step store_z_step store_start store_x_start "
        "store_width",
    )
    if turned and epilogue and not epilogue.residual:
        _end_columns(a.sums, a.pitch, arrays, a.channel, a.rows, a.room, lanes)
        arrays = Arrays(PLAIN, arrays.y, {})
    image, inner = a.position // r["positions"], a.position % r["positions"]
    row, ox = inner // r["store_x"], inner % r["store_x"]
    start = [image, row // r["store_y"], row % r["store_y"], ox]
    with f.loop(0, a.room, carry=start) as segment:  # its step is the length of the segment
        image, oz, oy, ox = segment.values
        run = minimum(r["store_x"] - ox, a.room - segment.i)
        place = image * a.out_image + oz * r["store_z_step"] + oy * r["store_y_step"] + r["store_start"]
        first, step = r["store_x_start"] + ox * r["store_x_step"], r["store_x_step"]

        def by_rows() -> None:
            with f.loop(0, a.rows, stack) as m:
                source = a.sums.at(m.i + segment.i * a.pitch if turned else m.i * a.pitch + segment.i)
                channel = a.channel + m.i // stack
                to = arrays.destination(channel, channel * a.out_plane + place)
                if turned:
                    _store_turned(source, a.pitch, a.line, to.at(first), run, step, lanes)
                elif stack == 1:
                    _store_run(source, to.at(first), run, step, lanes)
                else:
                    by_residues(source, to)

        def by_residues(source: Pointer, to: Destination) -> None:
            depth, height, width = residues
            steps = r["store_z_step"] // depth, r["store_y_step"] // height
            with f.loop(0, depth * height) if depth * height > 1 else nullcontext() as outer:
                row = outer.i if outer else f.const(i64, 0)
                there = to.at(row // height * steps[0] + row % height * steps[1])
                rows = source.at(row * width * a.pitch)
                _store_stacked(rows, a.pitch, there, first, run, r["store_width"], width, a.line, lanes)

        def by_squares() -> None:
            to = arrays.y.at(a.channel * a.out_plane + place + first)
            _store_squares(a.sums.at(segment.i * a.pitch), a.pitch, to, a.out_plane, a.rows, run, lanes)

        if turned and not arrays.epilogue:
            either(f, step.eq(1), by_squares, by_rows)
        else:
            by_rows()
        segment.step = run
        segment.values = [*next_line(image, oz, oy, r["store_z"], r["store_y"]), f.const(i64, 0)]
    return f


def write_places(module: Module, lanes: int, residues: Sizes) -> Function:
    """Adds ``places(record, out_image, position, count, to)``: where vectors of results go, see ``woven``.

    They are those of ``count`` positions and what fills their last vector, of which nothing is stored.
    """
    depth, height, width = residues
    f = module.function("places", record=ptr(i64), out_image=i64, position=i64, count=i64, to=ptr(i64))
    a, each = f.args, lanes // width
    r = read_phase(
        a.record,
        "positions store_x store_y store_z store_y_step store_z_step store_start store_x_start store_width",
    )
    image, inner = a.position // r["positions"], a.position % r["positions"]
    row, ox = inner // r["store_x"], inner % r["store_x"]
    outward = r["store_z_step"] // depth, r["store_y_step"] // height
    end = (a.count + (lanes - 1)) // lanes * lanes
    with f.loop(0, end, each, carry=[image, row // r["store_y"], row % r["store_y"], ox]) as q:
        *line, ox = image, oz, oy, ox = q.values
        exist = maximum(minimum(each, a.count - q.i), 0)
        here = minimum(exist, r["store_x"] - ox)
        behind = next_line(image, oz, oy, r["store_z"], r["store_y"])
        first, cut = r["store_x_start"], here * width
        place = a.to.at(q.i // each * PLACE)
        for part, of, begin, low, high in (
            (0, line, first + ox * width, f.const(i64, 0), cut),
            (PART, behind, first - cut, cut, exist * width),
        ):
            at = of[0] * a.out_image + of[1] * r["store_z_step"] + of[2] * r["store_y_step"] + r["store_start"] + begin
            low, high = maximum(low, -begin), minimum(high, r["store_width"] - begin)
            for n, value in enumerate((at, -low, maximum(high - low, 0))):
                place.store(value, part + n)
        for n, value in enumerate(outward):
            place.store(value, OUTWARD + n)
        over = ox + each >= r["store_x"]
        ox = ox + each - select(over, r["store_x"], 0)
        q.values = [*(select(over, b, c) for b, c in zip(behind, line, strict=True)), ox]
    return f


def _store_turned(
    source: Pointer, pitch: Value, line: Pointer, to: Destination, run: Value, step: Value, lanes: int
) -> None:
    """A number of every column; with a residual through a line, a vector at a time, where they end as vectors."""
    f = run.fn
    if to.residual is None:
        with f.loop(0, run) as n:
            to.store(source.load(n.i * pitch), n.i * step)
        return
    with f.loop(0, run, lanes) as first:
        count = minimum(lanes, run - first.i)
        with f.loop(0, count) as n:
            line.store(source.load((first.i + n.i) * pitch), n.i)
        _store_run(line, to.at(first.i * step), count, step, lanes)


def _store_squares(
    sums: Pointer, pitch: Value, to: Pointer, plane: Value, rows: Value, columns: Value, lanes: int
) -> None:
    """Columns of channels become rows of neighbours, a square of lanes after the other.

    The last square of a row of them ends with the last column, so that only one of fewer columns than lanes has a mask.
    What a square has beyond the last row goes where that one does, which is stored after it.
    """

    def squares(mask: Value | None) -> None:
        with rows.fn.loop(0, rows, lanes) as m, rows.fn.loop(0, columns, lanes) as n:
            first = n.i if mask is not None else minimum(n.i, columns - lanes)
            places = [first + k if mask is None else minimum(first + k, columns - 1) for k in range(lanes)]
            square = transpose([sums.load(place * pitch + m.i, lanes) for place in places])
            for k, row in reversed([*enumerate(square)]):
                Destination(to).store(row, minimum(m.i + k, rows - 1) * plane + first, mask)

    either(rows.fn, columns >= lanes, lambda: squares(None), lambda: squares(lanes_below(rows.fn, columns, lanes)))


def _end_columns(
    sums: Pointer, pitch: Value, arrays: Arrays, channel: Value, rows: Value, columns: Value, lanes: int
) -> None:
    """Sums of turned tiles end where they are, channels in lanes."""
    f = rows.fn
    with f.loop(0, rows, lanes) as m:
        mask = lanes_below(f, rows - m.i, lanes)
        to = arrays.of_channels(sums.at(m.i), channel + m.i, lanes, mask)
        with f.loop(0, columns) as n:
            to.store(sums.load(m.i + n.i * pitch, lanes, mask), n.i * pitch, mask)


def _store_run(source: Pointer, to: Destination, run: Value, step: Value, lanes: int) -> None:
    f = run.fn
    with f.when(step.eq(1)):
        _copy(source, to, run, lanes)
    with f.when(step.ne(1)), f.loop(0, run) as lane:
        if source.pointee.bits == 16:  # rounded before; LLVM moves halves through a vector register, words not
            to.y.cast(i16).store(source.cast(i16).load(lane.i), lane.i * step)
        else:
            to.store(source.load(lane.i), lane.i * step)


def _copy(source: Pointer, to: Destination, count: Value, lanes: int) -> None:
    with count.fn.loop(0, count, lanes) as lane:
        mask = lanes_below(count.fn, count - lane.i, lanes)
        to.store(source.load(lane.i, lanes, mask), lane.i, mask)


def _interleaves(stack: int, lanes: int) -> bool:
    """Whether rows side by side are interleaved in registers: others take too many shuffles."""
    return lanes > 1 and (stack & (stack - 1) == 0 or stack == 3)


def _store_stacked(
    source: Pointer, pitch: Value, to: Destination, first: Value, run: Value, width: Value, stack: int, line: Pointer,
    lanes: int,
) -> None:  # fmt: skip
    """Rows ``stack`` side by side become one line, that of sample 0 at ``first``; what lies in [0, width) is stored."""
    if _interleaves(stack, lanes) and not to.epilogue:
        _store_interleaved(source, pitch, to, first, run, width, stack, lanes)
    else:
        _interleave_run(source, pitch, line, run, stack, lanes)
        _store_clipped(line, to, first, run * stack, width, lanes)


def _store_interleaved(
    source: Pointer, pitch: Value, to: Destination, first: Value, run: Value, width: Value, stack: int, lanes: int
) -> None:
    """Straight from registers. Something is stored: ``first`` is above ``-stack``."""
    f = run.fn
    end = minimum(width, first + run * stack)
    with f.loop(0, run, lanes) as lane:
        mixed = interleave([source.load(lane.i + pitch * residue, lanes) for residue in range(stack)])
        place = first + lane.i * stack

        def inside(place: Value = place, mixed: list[Value] = mixed) -> list[Value]:
            for v, value in enumerate(mixed):
                to.store(value, place + v * lanes)
            return []

        def across(place: Value = place, mixed: list[Value] = mixed) -> list[Value]:
            for v, value in enumerate(mixed):
                at = place + v * lanes
                to.store(value, at, lanes_inside(f, at, end, lanes))
            return []

        f.choose((place >= 0) & (place + stack * lanes <= end), inside, across)


def _interleave_run(source: Pointer, pitch: Value, line: Pointer, run: Value, stack: int, lanes: int) -> None:
    """Rows ``stack`` side by side become one line, sample by sample; samples beyond the run are any number."""
    f = run.fn
    if not _interleaves(stack, lanes):
        with f.loop(0, run) as lane:
            for residue in range(stack):
                line.store(source.load(lane.i + pitch * residue), lane.i * stack + residue)
        return
    with f.loop(0, run, lanes) as lane:
        vectors = [source.load(lane.i + pitch * residue, lanes) for residue in range(stack)]
        for v, mixed in enumerate(interleave(vectors)):
            line.store(mixed, lane.i * stack + v * lanes)


def _store_clipped(line: Pointer, to: Destination, first: Value, count: Value, width: Value, lanes: int) -> None:
    """The part of a line that lies in its row of the result; the line's sample 0 belongs at ``first``."""
    low, high = maximum(-first, 0), minimum(count, width - first)
    _copy(line.at(low), to.at(first + low), high - low, lanes)
