"""Regions of a dense convolution: positions of an axis that meet samples at the same taps, and padding at all others.

Where padding is large beside the size, most products would be with its zeros. A tap that never meets a sample is left
out, and an axis may be cut where the taps that do change::

    kernel 3, dilation 4, padding 4      position   0 1 2 3 4 5 6 7
                                         tap 0      . . . . x x x x
                                         tap 1      x x x x x x x x
                                         tap 2      x x x x . . . .
                                                    two regions of two taps each

Every region is a phase of its own. What that saves in products it costs in weights, which each region packs anew, so
an axis may also be cut into fewer pieces than it has regions: each then has all the taps that any of it needs.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, product
from math import ceil, prod

from lucid.core.geometry import Sizes
from lucid.kernels.algorithms import pixel_panels
from lucid.kernels.algorithms.pixel_panels import Axis, Phase, joined

WHOLE = (1, 1, 1)  #: no axis is cut

_COUNTS = (1, 2, 3, 4, 6, 8)
_MOST_EDGES = 16
#: Pieces are weighed if they leave out so much of an axis' products.
_SAVES = 0.1


def phases(axes: Sequence[Sequence[Axis]], cut: Sizes = WHOLE) -> list[Phase]:
    """All combinations of the pieces of three axes, each cut into so many; those of most work first."""
    pieces = (_all_pieces(along, n) for along, n in zip(axes, cut, strict=True))
    return sorted(map(joined, product(*pieces)), key=_work, reverse=True)


def cuts(axes: Sequence[Sequence[Axis]]) -> Iterator[tuple[Sizes, int, int]]:
    """The ways to cut three axes that are worth a thought, uncut first, with the products and the weights of each.

    The last is not cut where its pieces would be read differently.
    """
    ways = [[(n, _all_pieces(along, n)) for n in sorted(set().union(*map(_counts, along)))] for along in axes]
    ways[2] = [(n, found) for n, found in ways[2] if n == 1 or len({pixel_panels.reading(p, 2) for p in found}) == 1]
    for way in product(*ways):
        products = prod(_products(found) for _, found in way)
        weights = prod(sum(len(piece.offsets) for piece in found) for _, found in way)
        yield tuple(n for n, _ in way), products, weights


def _work(phase: Phase) -> int:
    return pixel_panels.taps(phase) * pixel_panels.positions(phase)


def _met(axis: Axis) -> list[tuple[int, int]]:
    """For every tap, the positions [first, end) where it meets a sample."""
    return [(min(first, axis.positions), min(end, axis.positions)) for first, end in map(axis.inside, axis.offsets)]


def _edges(axis: Axis) -> list[int]:
    """Where the taps that meet samples change; some of the places if there are many."""
    edges = sorted({0, axis.positions}.union(*_met(axis)))
    return [*edges[: -1 : ceil(len(edges) / _MOST_EDGES)], axis.positions]


def _counts(axis: Axis) -> list[int]:
    """Into how many pieces an axis may be cut, each time with a good part fewer products."""
    counts, left = [1], _products(_pieces(axis, 1))
    if sum(end - first for first, end in _met(axis)) > (1 - _SAVES) * left:
        return counts
    for n in _COUNTS[1 : len(_edges(axis)) - 1]:
        products = _products(_pieces(axis, n))
        if products <= (1 - _SAVES) * left:
            counts.append(n)
            left = products
    return counts


def _products(pieces: Sequence[Axis]) -> int:
    return sum(piece.positions * len(piece.offsets) for piece in pieces)


def _all_pieces(along: Sequence[Axis], count: int) -> list[Axis]:
    return [piece for axis in along for piece in _pieces(axis, count)]


def _pieces(axis: Axis, count: int) -> list[Axis]:
    """The axis in so many pieces, or as many as it has regions, with the fewest products."""
    edges = _edges(axis)
    met = [span for span in _met(axis) if span[0] < span[1]]
    firsts, ends = (sorted(places) for places in (zip(*met, strict=True) if met else ((), ())))

    def products(first: int, end: int) -> int:
        return (end - first) * (bisect_left(firsts, end) - bisect_right(ends, first))

    ways: dict[int, tuple[int, Sizes]] = {0: (0, (0,))}
    for _ in range(min(count, len(edges) - 1)):
        ways = {
            end: min((ways[first][0] + products(first, end), (*ways[first][1], end)) for first in ways if first < end)
            for end in edges
            if min(ways) < end
        }
    bounds = ways[axis.positions][1]
    return [_piece(axis, *ends) for ends in pairwise(bounds)]


def _piece(axis: Axis, first: int, end: int) -> Axis:
    """Positions [first, end) with the taps that meet a sample there."""
    met = [t for t, (a, b) in enumerate(_met(axis)) if a < end and b > first]
    return replace(
        axis,
        positions=end - first,
        offsets=tuple(axis.offsets[t] + first * axis.step for t in met),
        weights=tuple(axis.weights[t] for t in met),
        out_start=axis.out_start + first * axis.out_step,
    )
