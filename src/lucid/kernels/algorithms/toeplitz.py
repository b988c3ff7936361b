"""Long runs of taps: sums[v][lane] += s[t] x[t + v lanes + lane] for all t, without reading x once a tap.

A tap is t = lanes q + r. For one r, the vector x[lanes j + r ...] serves every pair with v + q = j, so ``group`` taps
and V vectors take V + group - 1 loads for V * group products, although no load is aligned.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from lucid.kernels.ir import Function, Pointer, Type, Value, convert, fma, minimum, splat
from lucid.kernels.isa import ISA


def straddle(vector_bytes: int) -> float:
    """Cache lines that a load which is not aligned touches, on average."""
    return 1 + 0.9 * vector_bytes / 64


def cycles(taps: int, lanes: int, vectors: int, group: int, touched: float) -> float:
    """Expected, of a whole run: products, or cache lines, two a cycle, and the turns of the loops.

    A load touches so many lines.
    """
    many = max(vectors * group, touched * (vectors + group - 1) + group) / 2 + 2
    one = touched * vectors / 2 + 2
    counts = [ceil((taps - r) / lanes) for r in range(min(taps, lanes))]
    return sum(count // group * many + count % group * one + 6 for count in counts)


def shapes(taps: int, lanes: int, isa: ISA) -> list[tuple[int, int]]:
    """(vectors, group) to choose from, for rows of at least two vectors of taps, or nearly so."""
    if taps < max(3, 1.75 * lanes):
        return []
    groups = range(2, min(ceil(taps / lanes), group_of(isa)) + 1)
    return [(vectors, group) for group in groups for vectors in range(4, isa.registers - group)]


def group_of(isa: ISA) -> int:
    """Taps held in registers beside the sums."""
    return isa.registers // 4


def most_vectors(isa: ISA) -> int:
    """Sums that the registers hold beside a group of taps."""
    return isa.registers // 2


def spread(numbers: Pointer, index: Any, element: Type, lanes: int) -> Value:
    """A number in every lane, in the type that is computed in."""
    return splat(convert(numbers.load(index), element), lanes)


def toeplitz(
    f: Function, x: Pointer, s: Pointer, step: Value, taps: Value, lanes: int, group: int, start: Sequence[Value]
) -> list[Value]:
    """Writes the loops; tap t is ``s[t * step]``. Returns the sums, which begin as ``start``."""

    def taps_from(q: Value, count: int, row: Pointer, weight: Pointer, values: Sequence[Value]) -> list[Value]:
        sums, vectors = list(values), len(values)
        weights = [spread(weight, (q + u) * (step * lanes), x.pointee, lanes) for u in range(count)]
        for j in range(vectors + count - 1):
            value = row.load((q + j) * lanes, lanes)
            for u in range(max(0, j - vectors + 1), min(count, j + 1)):
                sums[j - u] = fma(weights[u], value, sums[j - u])
        return sums

    with f.loop(0, minimum(taps, lanes), carry=start) as r:
        count = (taps - r.i + (lanes - 1)) // lanes
        whole = count - count % group
        row, weight = x.at(r.i), s.at(r.i * step)
        with f.loop(0, whole, group, carry=r.values) as many:
            many.values = taps_from(many.i, group, row, weight, many.values)
        with f.loop(whole, count, carry=many.values) as one:
            one.values = taps_from(one.i, 1, row, weight, one.values)
        r.values = one.values
    return r.values
