"""Small vector idioms: lane numbers, masks, sums across lanes, interleaving and transposing in registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lucid.kernels.ir.builder import Function
from lucid.kernels.ir.types import Type, bf16, f16, f32, f64, i16, i32, i64, vec
from lucid.kernels.ir.values import Pointer, Value, bitcast, convert, extract, lift, shuffle, splat, vector_of


def lane_numbers(fn: Function, lanes: int, step: int = 1, element: Type = i64) -> Value:
    """0, step, 2 step, … one number a lane."""
    return vector_of(fn, element, [k * step for k in range(lanes)])


def lanes_below(fn: Function, count: Any, lanes: int, element: Type = i64) -> Value:
    """A mask of the lanes before ``count``; none if it is negative, all from ``lanes`` on."""
    return lane_numbers(fn, lanes, element=element) < splat(convert(lift(fn, count), element), lanes)


def lanes_inside(fn: Function, first: Value, size: Value, lanes: int) -> Value:
    """A mask of the lanes k for which 0 <= first + k < size, both less than 2^31."""
    place = lane_numbers(fn, lanes, element=i32) + splat(convert(first, i32), lanes)
    return place.ult(splat(convert(size, i32), lanes))


def to_whole_vector(x: Pointer, lanes: int) -> Value:
    """Elements from there to the next address that is a whole number of vectors."""
    address, size = x.fn.emit(i64, f"ptrtoint ptr {x.text} to i64"), x.pointee.bytes
    ahead: Value = (-address & (lanes * size - 1)) // size
    return ahead


def lane_sum(value: Value) -> Value:
    """The sum over the lanes, halves added to halves: a fixed tree."""
    while value.type.lanes > 1:
        half = value.type.lanes // 2
        low, high = (_part(value, start, half) for start in (0, half))
        value = low + high
    return value


def _part(value: Value, start: int, count: int) -> Value:
    if count == 1:
        return extract(value, start)
    return shuffle(value, None, range(start, start + count))


def lane_sums(vectors: Sequence[Value]) -> Value:
    """The sum over the lanes of each of a power of two of vectors, in as many lanes: neighbours added, a fixed tree."""
    current = list(vectors)
    while len(current) > 1:
        current = [_neighbours(a, b) for a, b in zip(current[0::2], current[1::2], strict=True)]
    (value,) = current
    while value.type.lanes > len(vectors):
        value = _neighbours(value, None)
    return value


def _neighbours(a: Value, b: Value | None) -> Value:
    """Sums of the neighbours in a, then in b."""
    count = a.type.lanes * (1 if b is None else 2)
    if count == 2 and b is None:
        return extract(a, 0) + extract(a, 1)
    low, high = (shuffle(a, b, range(start, count, 2)) for start in (0, 1))
    return low + high


def interleave(vectors: Sequence[Value], together: int = 1) -> list[Value]:
    """Vectors a, b, …: a0 b0 … a1 b1 … over as many vectors, ``together`` lanes standing as one.

    Source: the perfect shuffle, a round of two-way interleaves for every factor of 2.
    """
    lanes, n = vectors[0].type.lanes, len(vectors)
    if n == 1 or lanes == 1:
        return list(vectors)
    if n % 2:
        places = (divmod(place, together) for place in range(n * lanes))
        return picked(vectors, [(block % n, block // n * together + k) for block, k in places])
    even, odd, out = interleave(vectors[0::2], together), interleave(vectors[1::2], together), []
    pairs = [(*divmod(k, 2 * together), k % together) for k in range(2 * lanes)]
    picks = [block * together + k + lanes * (inner >= together) for block, inner, k in pairs]
    for a, b in zip(even, odd, strict=True):
        for start in (0, lanes):
            out.append(shuffle(a, b, picks[start : start + lanes]))
    return out


def deinterleave(vectors: Sequence[Value], count: int) -> list[Value]:
    """The inverse of ``interleave`` for any number n of vectors, its first ``count`` results: lane k of result r is
    element n k + r of all vectors side by side.
    """
    lanes, n = vectors[0].type.lanes, len(vectors)
    if n == 1 or lanes == 1:
        return list(vectors[:count])
    if n % 2 == 0:
        pairs = list(zip(vectors[0::2], vectors[1::2], strict=True))
        halves = [[shuffle(a, b, range(start, 2 * lanes, 2)) for a, b in pairs] for start in range(min(2, count))]
        rounds = [deinterleave(half, (count + 1 - start) // 2) for start, half in enumerate(halves)]
        return [rounds[r % 2][r // 2] for r in range(count)]
    return picked(vectors, [divmod(n * k + r, lanes) for r in range(count) for k in range(lanes)])


def told_apart(*vectors: Value) -> list[Value]:
    """``deinterleave`` of all, 2 or 4: of halves of a register, by one instruction for every two vectors.

    LLVM takes two or three, all of which want units that products want on Zen 4.
    """
    kind, fn, n = vectors[0].type, vectors[0].fn, len(vectors)
    if n not in (2, 4) or not fn.module.slides or kind.element.bytes != 2 or kind.lanes != 16:
        return deinterleave(vectors, n)
    words = [bitcast(each, vec(i16, kind.lanes)) for each in vectors]
    return [bitcast(each, kind) for each in _words_apart(words)]


def _words_apart(vectors: Sequence[Value]) -> list[Value]:
    """The same of words, as many as a power of 2, in rounds."""
    n, lanes = len(vectors), vectors[0].type.lanes
    if n == 1:
        return list(vectors)
    pairs = list(zip(vectors[0::2], vectors[1::2], strict=True))
    rounds = [_words_apart([_permuted(a, b, range(e, 2 * lanes, 2)) for a, b in pairs]) for e in range(2)]
    return [rounds[r % 2][r // 2] for r in range(n)]


def _permuted(first: Value, second: Value, lanes: Sequence[int]) -> Value:
    """So many lanes of two vectors of words, by one instruction."""
    places = vector_of(first.fn, i16, lanes)
    text = 'asm "vpermt2w $3, $2, $0", "=v,0,v,v"'
    operands = ", ".join(f"{each.type} {each.text}" for each in (first, places, second))
    return first.fn.emit(first.type, f"call {first.type} {text}({operands})")


def slid(first: Value, second: Value, lane: int) -> Value:
    """The vector that begins at a lane of the first of two neighbours.

    LLVM makes one instruction of it for integers alone. That for floats wants its lanes in a register, overwrites an
    operand, and keeps products from a unit of Zen 4: 48 of them beside 16 slides take 61 cycles, and 48 with this one.
    """
    lanes, element, fn = first.type.lanes, first.type.element, first.fn
    if not fn.module.slides or lanes * element.bytes not in (32, 64) or element not in (f32, f64):
        return shuffle(first, second, range(lane, lane + lanes))
    name = "valignd" if element == f32 else "valignq"
    text = f'asm "{name} $${lane}, $2, $1, $0", "=v,v,v"({second.type} {second.text}, {first.type} {first.text})'
    return fn.emit(first.type, f"call {first.type} {text}")


def loaded_as(element: Type, numbers: Pointer, index: Any, lanes: int, mask: Value) -> Value:
    """Consecutive numbers as another type, those that a ``mask`` lets through: halves by one instruction.

    LLVM makes two, of which the first, on Zen 4, takes units that are wanted: 48 products beside 12 such loads of
    float16 take 52 cycles, and 48 with this one.
    """
    fn, halves = numbers.fn, {f16: ("vcvtph2ps", f32), bf16: ("vpmovzxwd", i32)}
    if not fn.module.slides or element != f32 or lanes not in (8, 16) or numbers.pointee not in halves:
        return convert(numbers.load(index, lanes, mask), element)
    name, made = halves[numbers.pointee]
    text = f'asm "{name} $1, $0 {{$2}} {{z}}", "=v,*m,^Yk"'
    operands = f"ptr elementtype({vec(i16, lanes)}) {numbers.at(index).text}, {mask.type} {mask.text}"
    found = fn.emit(vec(made, lanes), f"call {vec(made, lanes)} {text}({operands}) readonly")
    return found if made == element else bitcast(found << 16, vec(element, lanes))


def picked(vectors: Sequence[Value], places: Sequence[tuple[int, int]]) -> list[Value]:
    """Vectors, or numbers, made of the lanes at these places: (vector, lane), as many as fill whole vectors."""
    lanes, results = vectors[0].type.lanes, []
    if lanes == 1:
        return [vectors[source] for source, _ in places]
    for first in range(0, len(places), lanes):
        wanted = places[first : first + lanes]
        sources = sorted({source for source, _ in wanted})
        result, kept = vectors[sources[0]], [at for _, at in wanted]  # what other vectors have comes with them
        for source in sources[1:] or sources:
            picks = [lanes + at if of == source else kept[k] for k, (of, at) in enumerate(wanted)]
            result, kept = shuffle(result, vectors[source], picks), list(range(lanes))
        results.append(result)
    return results


def transpose(rows: Sequence[Value]) -> list[Value]:
    """As many rows as lanes become columns, log2(lanes) rounds of shuffles: first within 128 bits, then of 128 bits.

    Both are one instruction each, on x86 the cheapest of those that mix two registers.
    """
    lanes = rows[0].type.lanes
    if len(rows) != lanes:
        raise TypeError(f"kernel IR: transposing {len(rows)} rows of {lanes} lanes")
    inner = min(lanes, max(1, 128 // rows[0].type.bits))
    columns = [column for k in range(0, lanes, inner) for column in _deal(rows[k : k + inner], 1)]
    turned = [_deal(columns[k::inner], inner) for k in range(inner)]
    return [turned[k % inner][k // inner] for k in range(lanes)]


def transpose_blocks(rows: Sequence[Value]) -> list[Value]:
    """A power of two of rows, at most as many as lanes: their columns, vectors of as many lanes as there are rows."""
    count, turned = len(rows), _deal(rows, 1)
    places = (divmod(column, count) for column in range(rows[0].type.lanes))
    return [_part(turned[k], block * count, count) for block, k in places]


def transpose_pieces(rows: Sequence[Value]) -> list[Value]:
    """As many rows as lanes, of no more numbers each than 128 bits hold, become their columns, whole vectors."""
    size = rows[0].type.lanes
    return _deal([_side_by_side(rows[k::size]) for k in range(size)], 1)


def _side_by_side(pieces: Sequence[Value]) -> Value:
    """A power of two of vectors, in one."""
    current = list(pieces)
    while len(current) > 1:
        both = range(2 * current[0].type.lanes)
        current = [shuffle(a, b, both) for a, b in zip(current[0::2], current[1::2], strict=True)]
    return current[0]


def _deal(rows: Sequence[Value], size: int) -> list[Value]:
    """Transposes rows of as many blocks of ``size`` lanes, in each stretch of so many lanes.

    Every round, pairs of rows become their even and their odd blocks.
    """
    lanes, current, step = rows[0].type.lanes, list(rows), 1
    while step < len(rows):
        rows[0].fn.part()
        for k in (k for k in range(len(rows)) if not k & step):
            a, b = current[k], current[k + step]
            for odd in (0, 1):
                current[k + odd * step] = shuffle(a, b, _halves(lanes, len(rows), size, odd))
        step *= 2
    return current


def _halves(lanes: int, count: int, size: int, odd: int) -> list[int]:
    """In each stretch of ``count`` blocks, the even or odd blocks of a first vector, then those of a second."""
    picks = []
    for lane in range(lanes):
        stretch, block = lane // (count * size), lane // size % count
        second, pair = divmod(block, count // 2)
        picks.append(second * lanes + (stretch * count + 2 * pair + odd) * size + lane % size)
    return picks


def zeros(fn: Function, element: Type, lanes: int) -> Value:
    """A vector of zeros."""
    return fn.const(vec(element, lanes), 0)
