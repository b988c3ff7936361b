"""Long runs of taps: sums[v][lane] += s[t] x[t + v lanes + lane] for all t, without reading x once a tap.

A tap is t = lanes q + r. For one r, the vector x[lanes j + r ...] serves every pair with v + q = j, so ``group`` taps
and V vectors take V + group - 1 loads for V * group products, although no load is aligned.
"""

from __future__ import annotations

from collections.abc import Sequence

from lucid.kernels.ir import Function, Pointer, Value, fma, minimum
from lucid.kernels.isa import ISA


def group_of(isa: ISA) -> int:
    """Taps held in registers beside the sums."""
    return isa.registers // 4


def most_vectors(isa: ISA) -> int:
    """Sums that the registers hold beside a group of taps."""
    return isa.registers // 2


def toeplitz(
    f: Function, x: Pointer, s: Pointer, step: Value, taps: Value, lanes: int, group: int, start: Sequence[Value]
) -> list[Value]:
    """Writes the loops; tap t is ``s[t * step]``. Returns the sums, which begin as ``start``."""

    def taps_from(q: Value, count: int, row: Pointer, weight: Pointer, values: Sequence[Value]) -> list[Value]:
        sums, vectors = list(values), len(values)
        weights = [weight.splat((q + u) * (step * lanes), lanes) for u in range(count)]
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
