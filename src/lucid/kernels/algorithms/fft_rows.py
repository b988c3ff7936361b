"""Rows of samples become lanes of a block, and lanes become rows: what the entry points of ``fft_kernel`` call."""

from __future__ import annotations

from functools import partial
from typing import Any

from lucid.kernels.epilogue import Destination, is_short
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    bitcast,
    convert,
    deinterleave,
    i16,
    i32,
    i64,
    lane_numbers,
    maximum,
    minimum,
    picked,
    ptr,
    select,
    splat,
    transpose,
    vec,
    vector_of,
    void,
    zeros,
)
from lucid.kernels.plan import PLAIN, Epilogue

#: How many vectors of a residual's row to ask for before they are read: there are too many rows to be seen as streams.
_AHEAD = 8
#: Steps from a row's sample to its next, at most, where all between them is read too and dealt out in registers.
MOST_APART = 8
_NO_LANE = -(1 << 30)  # below any lane's number
#: Numbers of a row of samples: where it starts, and between which of its samples there are any.
ROW = 3


def write_place(module: Module, lanes: int) -> Function:
    """Adds ``place``: the rows of a vector of pairs; row ``part * lanes + lane``."""
    names = ("first", "blocks_each", "valid", "step", "blocks", "out", "image", "size", "offset", "more")
    parameters: dict[str, Type] = {"rows": ptr(i64)} | {name: i64 for name in names}
    f = module.function("place", void, export=False, **parameters)
    a = f.args
    begin_block = a.first * 2
    among = begin_block // a.step
    place = [among % a.blocks_each, begin_block % a.step, among // a.blocks_each]
    with f.loop(0, 2 * lanes, carry=place) as number:
        inside, phase, image = number.values
        begin = inside * a.valid * a.step + phase
        outputs = minimum(_steps_to(f, a.out - begin, a.step), a.valid)
        outputs = select(begin_block + number.i < a.blocks, outputs, f.const(i64, 0))
        start = begin + a.offset
        needed = select(outputs.ne(0), outputs + a.more, f.const(i64, 0))
        high = minimum(needed, _steps_to(f, a.size - start, a.step))
        low = minimum(_steps_to(f, f.const(i64, 0) - start, a.step), high)
        begins = select(low < high, image * a.image + start, f.const(i64, 0))
        row = (number.i & 1) * lanes + (number.i >> 1)
        for k, value in enumerate((begins, low, high)):
            a.rows.store(value, row * ROW + k)
        number.values = _next_place(f, inside, phase, image, a)
    return f


def _steps_to(f: Function, distance: Value, step: Value) -> Value:
    """Steps that cover a distance, none if it is negative. Divisions are slow, and the step is mostly 1."""
    distance = maximum(distance, 0)
    (count,) = f.choose(step.eq(1), lambda: [distance], lambda: [(distance + step - 1) // step])
    return count


def _next_place(f: Function, inside: Value, phase: Value, image: Value, a: Any) -> list[Value]:
    """The block after one: of the next sequence, in the same lines, or the next of the first, or the next image's."""
    zero, phase = f.const(i64, 0), phase + 1
    wraps = phase.eq(a.step)
    inside = select(wraps, inside + 1, inside)
    ends = inside.eq(a.blocks_each)
    return [select(ends, zero, inside), select(wraps, zero, phase), select(ends, image + 1, image)]


def _row(rows: Pointer, number: Any) -> tuple[Value, Value, Value]:
    at = rows.at(number * ROW)
    return at.load(0), at.load(1), at.load(2)


def _vector(f: Function, row: tuple[Value, Value, Value], first: Value, lanes: int) -> tuple[Value, Value]:
    """Where a row's samples from ``first`` on lie, and which of the lanes have one.

    Where none has, that is the row's begin: to touch nothing at an address that is not mapped takes processors hundreds
    of cycles.
    """
    start, low, high = row
    numbers = lane_numbers(f, lanes, element=i32)
    begin, end = (splat(convert(bound - first, i32), lanes) for bound in (low, high))
    some = (low < first + lanes) & (first < high)
    return start + select(some, first, low), (begin <= numbers) & (numbers < end)


def _vectors_apart(
    f: Function, row: tuple[Value, Value, Value], first: Value, lanes: int, apart: int, alone: bool
) -> tuple[Value, list[Value]]:
    """Where the samples from ``first`` on begin, and which lanes of the vectors that they are spread over to take.

    All from the first that there is to the last; or, ``alone``, those that are the row's.
    """
    start, low, high = row
    some = (low < first + lanes) & (first < high)
    begin, last = (splat(convert((bound - first) * apart, i32), lanes) for bound in (low, high - 1))
    masks = []
    for vector in range(apart):
        places = range(vector * lanes, (vector + 1) * lanes)
        numbers = vector_of(f, i32, [_NO_LANE if alone and place % apart else place for place in places])
        masks.append((begin <= numbers) & (numbers <= last))
    return start + select(some, first, low) * apart, masks


def write_load(module: Module, stored: Type, element: Type, lanes: int, apart: int = 1) -> Function:
    """Adds ``load(source, rows, step, n, block, ahead, next)``: rows become lanes, zeros where there is no sample.

    Samples are of the type ``stored``, and widened to a block's ``element``. Asks for what is read ``ahead`` and for
    the ``next`` block, which a following call may take. The step is 1 or ``apart``, or any if that is 1.
    """
    source, block = ptr(stored), ptr(element)
    f = module.function("load", source=source, rows=ptr(i64), step=i64, n=i64, block=block, ahead=i64, next=i64)
    if lanes == 1:
        _load_samples(f, element, lanes)
    else:
        others = partial(_load_samples, f, element, lanes) if apart == 1 else partial(_load_apart, f, lanes, apart)
        f.choose(f.args.step.eq(1), lambda: _load_vectors(f, lanes), others)
    return f


def _load_vectors(f: Function, lanes: int) -> list[Value]:
    a, pair = f.args, 2 * lanes
    with f.loop(0, a.n, lanes) as first, f.loop(0, 2) as part:
        rows, vectors = a.rows.at(part.i * (lanes * ROW)), []
        for lane in range(lanes):
            place, mask = _vector(f, _row(rows, lane), first.i, lanes)
            at = a.source.at(place)
            vectors.append(convert(at.load(0, lanes, mask), a.block.pointee))
            at.prefetch(a.ahead)
        to = a.block.at(first.i * pair + part.i * lanes)
        for k, vector in enumerate(transpose(vectors)):
            to.store(vector, k * pair)
            to.prefetch(a.next + k * pair, write=True)
    return []


def _load_apart(f: Function, lanes: int, apart: int) -> list[Value]:
    """A row's samples are picked from whole vectors, which other rows' come with, and turned where they will lie."""
    a, pair = f.args, 2 * lanes
    with f.loop(0, a.n, lanes) as first, f.loop(0, 2) as part:
        rows, to = a.rows.at(part.i * (lanes * ROW)), a.block.at(first.i * pair + part.i * lanes)
        with f.loop(0, lanes) as lane:
            place, masks = _vectors_apart(f, _row(rows, lane.i), first.i, lanes, apart, alone=False)
            at = a.source.at(place)
            vectors = [_word(at.load(v * lanes, lanes, mask)) for v, mask in enumerate(masks)]
            at.prefetch(a.ahead + (lane.i + part.i) % apart * lanes)  # together, neighbours ask for all lines
            samples = bitcast(deinterleave(vectors, 1)[0], vec(at.pointee, lanes))
            to.store(convert(samples, a.block.pointee), lane.i * pair)
        _turn(to, lanes)
    return []


def _word(numbers: Value) -> Value:
    """Halves as whole numbers, which LLVM moves as they are; others are left."""
    return bitcast(numbers, vec(i16, numbers.type.lanes)) if numbers.type.element.bits == 16 else numbers


def _turn(square: Pointer, lanes: int) -> None:
    """A square of a block, rows for columns."""
    pair = 2 * lanes
    for k, vector in enumerate(transpose([square.load(k * pair, lanes) for k in range(lanes)])):
        square.store(vector, k * pair)


def _load_samples(f: Function, element: Type, lanes: int) -> list[Value]:
    a, pair = f.args, 2 * lanes
    with f.loop(0, a.n * 2) as k:
        a.block.store(zeros(f, element, lanes), k.i * lanes)
    with f.loop(0, pair) as row:
        start, low, high = _row(a.rows, row.i)
        with f.loop(low, high) as k:
            a.block.store(convert(a.source.load(start + k.i * a.step), element), k.i * pair + row.i)
    return []


def write_store(
    module: Module, stored: Type, element: Type, lanes: int, apart: int = 1, epilogue: Epilogue = PLAIN
) -> Function:
    """Adds ``store(block, rows, step, n, bias, to, ahead, next, …)``: the first n numbers of every lane, into rows.

    The bias is a block's ``element``, and so are the channel's ``scale`` and ``shift``; with the ``residual``, which
    lies as ``to`` does, they are for an epilogue that takes them. What is written is rounded to the type ``stored``.
    Asks for what is written ``ahead`` and for the ``next`` block, which a following call may take.
    """
    f = module.function(
        "store", block=ptr(element), rows=ptr(i64), step=i64, n=i64, bias=element, to=ptr(stored), ahead=i64, next=i64,
        scale=element, shift=element, residual=ptr(stored),
    )  # fmt: skip
    if lanes == 1:
        _store_samples(f, epilogue, lanes)
    else:
        common = f, epilogue, lanes
        others = partial(_store_samples, *common) if apart == 1 else partial(_store_apart, *common, apart)
        f.choose(f.args.step.eq(1), partial(_store_vectors, *common), others)
    return f


def _destination(a: Any, epilogue: Epilogue, place: Value) -> Destination:
    scale, shift = (a.scale, a.shift) if epilogue.affine else (None, None)
    return Destination(a.to, epilogue, scale, shift, a.residual if epilogue.residual else None).at(place)


def _store_vectors(f: Function, epilogue: Epilogue, lanes: int) -> list[Value]:
    """Long epilogues are written once, for samples that are turned and put back."""
    a, pair = f.args, 2 * lanes
    bias = splat(a.bias, lanes)
    with f.loop(0, a.n, lanes) as first, f.loop(0, 2) as part:
        rows, source = a.rows.at(part.i * (lanes * ROW)), a.block.at(first.i * pair + part.i * lanes)

        def put(lane: Any, vector: Value) -> None:
            source.prefetch(a.next + lane * pair)
            place, mask = _vector(f, _row(rows, lane), first.i, lanes)
            if epilogue.residual:
                for further in (a.ahead, _AHEAD * lanes):
                    a.residual.at(place).prefetch(further)
            _destination(a, epilogue, place).store(vector + bias, 0, mask)
            a.to.at(place).prefetch(a.ahead, write=True)

        turned = transpose([source.load(k * pair, lanes) for k in range(lanes)])
        if is_short(epilogue):
            for lane, vector in enumerate(turned):
                put(lane, vector)
        else:
            for lane, vector in enumerate(turned):
                source.store(vector, lane * pair)
            with f.loop(0, lanes) as each:
                put(each.i, source.load(each.i * pair, lanes))
    return []


def _store_apart(f: Function, epilogue: Epilogue, lanes: int, apart: int) -> list[Value]:
    a, pair = f.args, 2 * lanes
    bias = splat(a.bias, lanes)
    with f.loop(0, a.n, lanes) as first, f.loop(0, 2) as part:
        rows, source = a.rows.at(part.i * (lanes * ROW)), a.block.at(first.i * pair + part.i * lanes)
        _turn(source, lanes)
        with f.loop(0, lanes) as lane:
            place, masks = _vectors_apart(f, _row(rows, lane.i), first.i, lanes, apart, alone=True)
            spread = [(0, place // apart) for place in range(lanes * apart)]
            to = _destination(a, epilogue, place)
            sums = to.rounded(source.load(lane.i * pair, lanes) + bias)
            for v, (vector, mask) in enumerate(zip(picked([_word(sums)], spread), masks, strict=True)):
                to.store(bitcast(vector, sums.type), v * lanes, mask)
            to.y.prefetch(a.ahead + (lane.i + part.i) % apart * lanes, write=True)
    return []


def _store_samples(f: Function, epilogue: Epilogue, lanes: int) -> list[Value]:
    a, pair = f.args, 2 * lanes
    with f.loop(0, pair) as row:
        start, low, high = _row(a.rows, row.i)
        with f.loop(low, high) as k:
            value = a.block.load(k.i * pair + row.i) + a.bias
            _destination(a, epilogue, start + k.i * a.step).store(value)
    return []
