"""Sums of a dense convolution on their way out: rows of a tile, segment by segment, to their places in the result."""

from __future__ import annotations

from lucid.kernels.algorithms.dense_layout import read_phase
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    convert,
    i64,
    interleave,
    lanes_below,
    maximum,
    minimum,
    ptr,
)


def write_finish(module: Module, element: Type, lanes: int, stack: int, stored: Type, turned: bool) -> Function:
    """Adds ``finish(record, sums, pitch, y, out_plane, out_image, position, room, rows, line)``.

    Rows of sums, or columns if they are ``turned``, ``pitch`` apart, go to their places in y, rounded to its type;
    ``line`` has room for a row of every residue that is stacked.
    """
    data = ptr(element)
    f = module.function(
        "finish", record=ptr(i64), sums=data, pitch=i64, y=ptr(stored), out_plane=i64, out_image=i64, position=i64,
        room=i64, rows=i64, line=data,
    )  # fmt: skip
    a = f.args
    r = read_phase(
        a.record,
        "positions store_x store_y store_z_step store_y_step store_start store_x_start store_x_step store_width",
    )
    with f.loop(0, a.room) as segment:  # its step is the length of the segment
        position = a.position + segment.i
        image, inner = position // r["positions"], position % r["positions"]
        row, ox = inner // r["store_x"], inner % r["store_x"]
        oz, oy = row // r["store_y"], row % r["store_y"]
        run = minimum(r["store_x"] - ox, a.room - segment.i)
        place = image * a.out_image + oz * r["store_z_step"] + oy * r["store_y_step"] + r["store_start"]
        with f.loop(0, a.rows, stack) as m:
            source = a.sums.at(m.i + segment.i * a.pitch if turned else m.i * a.pitch + segment.i)
            to = a.y.at(place + m.i // stack * a.out_plane)
            first = r["store_x_start"] + ox * r["store_x_step"]
            if turned:
                _store_turned(source, a.pitch, to.at(first), run, r["store_x_step"])
            elif stack == 1:
                _store_run(source, to.at(first), run, r["store_x_step"], lanes)
            else:
                _interleave_run(source, a.pitch, a.line, run, stack, lanes)
                _store_clipped(a.line, to, first, run * stack, r["store_width"], lanes)
        segment.step = run
    return f


def _store_turned(source: Pointer, pitch: Value, to: Pointer, run: Value, step: Value) -> None:
    with run.fn.loop(0, run) as n:
        to.store(convert(source.load(n.i * pitch), to.pointee), n.i * step)


def _store_run(source: Pointer, to: Pointer, run: Value, step: Value, lanes: int) -> None:
    f = run.fn
    with f.when(step.eq(1)):
        _copy(source, to, run, lanes)
    with f.when(step.ne(1)), f.loop(0, run) as lane:
        to.store(convert(source.load(lane.i), to.pointee), lane.i * step)


def _copy(source: Pointer, to: Pointer, count: Value, lanes: int) -> None:
    with count.fn.loop(0, count, lanes) as lane:
        mask = lanes_below(count.fn, count - lane.i, lanes)
        to.store(convert(source.load(lane.i, lanes, mask), to.pointee), lane.i, mask)


def _interleave_run(source: Pointer, pitch: Value, line: Pointer, run: Value, stack: int, lanes: int) -> None:
    """Rows ``stack`` side by side become one line, sample by sample; samples beyond the run are any number."""
    f = run.fn
    if stack & (stack - 1) or lanes == 1:
        with f.loop(0, run) as lane:
            for residue in range(stack):
                line.store(source.load(lane.i + pitch * residue), lane.i * stack + residue)
        return
    with f.loop(0, run, lanes) as lane:
        vectors = [source.load(lane.i + pitch * residue, lanes) for residue in range(stack)]
        for v, mixed in enumerate(interleave(vectors)):
            line.store(mixed, lane.i * stack + v * lanes)


def _store_clipped(line: Pointer, to: Pointer, first: Value, count: Value, width: Value, lanes: int) -> None:
    """The part of a line that lies in its row of the result; the line's sample 0 belongs at ``first``."""
    low, high = maximum(-first, 0), minimum(count, width - first)
    _copy(line.at(low), to.at(first + low), high - low, lanes)
