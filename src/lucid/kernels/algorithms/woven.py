"""Stacked residues that leave their tile as lines of the result: rows side by side are interleaved in registers.

::

    row of residue 0   a0 a1 a2 a3          a0 b0 a1 b1   a2 b2 a3 b3       a vector of results lies in one line of
    row of residue 1   b0 b1 b2 b3                                          the result or, where that ends, in two

Where a vector goes is the same for all channels, so the places of a span are found once, before its products.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from math import prod

from lucid.core.geometry import Sizes
from lucid.kernels.algorithms.panels import either
from lucid.kernels.epilogue import ended
from lucid.kernels.ir import Pointer, Value, convert, interleave, lanes_inside, select
from lucid.kernels.plan import Epilogue

#: Numbers of a place: of its parts in two lines each where lane 0 lies or would lie, minus the first lane that is
#: stored, and how many are; then how far the lines of the next residue of the two outer axes lie.
PLACE = 8
PART, OUTWARD = 3, 6


def weaves(residues: Sizes, lanes: int, line: int) -> bool:
    """Whether rows are interleaved as they leave the tile: a vector of results must not lie in more than two lines."""
    width = residues[2]
    return 1 < width <= lanes and width & (width - 1) == 0 and line * width >= lanes


def woven_lines(
    count: int, to: Pointer, stride: Value, rows: Value, places: Pointer, residues: Sizes
) -> list[tuple[int, Pointer]]:
    """The first row of every line of channels ``stride`` apart from ``to`` on, and where that lies.

    Of ``count`` rows only the first ``rows`` exist. Channels that do not go where the first one goes, which is last.
    """
    (depth, height, width), stack = residues, prod(residues)
    step_z, step_y = places.load(OUTWARD), places.load(OUTWARD + 1)
    lines = []
    for first in reversed(range(0, count, stack)):
        channel = select(rows > first, to.at(stride * (first // stack)), to) if first else to
        assert isinstance(channel, Pointer)
        for z, y in product(range(depth), range(height)):
            lines.append((first + (z * height + y) * width, channel.at(step_z * z + step_y * y)))
    return lines


def ask_woven(lines: Sequence[tuple[int, Pointer]], places: Pointer, vectors: int) -> None:
    """Asks for the lines of the cache where so many vectors of each line are going to lie."""
    for n in range(vectors):
        at = places.load(n * PLACE)
        for _, line in lines:
            line.at(at).prefetch(write=True)


def store_woven(
    columns: Iterable[Sequence[Value]], lines: Sequence[tuple[int, Pointer]], places: Pointer, residues: Sizes,
    epilogue: Epilogue,
) -> None:  # fmt: skip
    """Puts a tile's columns of vectors into the ``lines`` of their channels."""
    width = residues[2]
    for v, column in enumerate(columns):
        rows = [interleave(column[first : first + width]) for first, _ in lines]
        for n in range(width):
            vectors = [
                convert(ended(epilogue, row[n]), line.pointee) for row, (_, line) in zip(rows, lines, strict=True)
            ]
            _store_all([line for _, line in lines], vectors, places.at((v * width + n) * PLACE))


def _store_all(lines: Sequence[Pointer], vectors: Sequence[Value], place: Pointer) -> None:
    """A vector of each line, all of them whole or all in two parts."""
    lanes, f = vectors[0].type.lanes, place.fn
    at, _, count = (place.load(n) for n in range(PART))

    def whole() -> None:
        for line, value in zip(lines, vectors, strict=True):
            line.store(value, at)

    def parts() -> None:
        for part in (0, PART):
            at, before, count = (place.load(part + n) for n in range(PART))
            mask = lanes_inside(f, before, count, lanes)
            for line, value in zip(lines, vectors, strict=True):
                line.store(value, at, mask)

    either(f, count.eq(lanes), whole, parts)
