"""Where a source lies whose channels are lanes: a ring of slices, rows with zeros at both ends; and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np

from lucid.core.geometry import Sizes
from lucid.kernels import target
from lucid.kernels.algorithms.correlation import Axis

Array = np.ndarray[Any, Any]

#: Pixels of a row that a tile may have: enough for rows of most lengths, and few kernels.
COLUMNS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)

#: Cycles to turn a number, on its way in or out, where the first cache holds the planes and where it does not.
_NEAR, _FAR = 0.25, 0.37
_HALVED, _FAR_HALVED = 1.75, 1.2  # times as long where vectors pass their units in halves: shuffles hide the caches
_NEAR_BYTES = 16 << 10  # of a block of planes: several of them are in the first cache


@dataclass(frozen=True)
class LaneFrame:
    """Of a ``source`` that is read at ``axes``, ``stride`` from one of so many ``positions`` to the next.

    All places are in numbers: vectors of ``lanes``.
    """

    axes: tuple[Axis, ...]
    source: Sizes
    positions: Sizes
    stride: Sizes
    kernel: Sizes
    lanes: int
    bare: bool = False  #: rows have no zeros around them, as nothing outside is read

    @property
    def lead(self) -> int:
        """Columns of zeros before a row."""
        return 0 if self.bare else max(self.axes[2].low, 0)

    @property
    def first(self) -> int:
        """Column of the frame that the first position's columns are counted from."""
        return 0 if self.bare else self.lead - self.axes[2].low

    @property
    def width(self) -> int:
        """Columns of a row."""
        if self.bare:
            return self.source[2]
        read = self.first + (self.positions[2] - 1) * self.stride[2] + self.axes[2].extent
        return max(read, self.lead + self.source[2])

    @property
    def ring(self) -> int:
        """Slices that are held."""
        return self.axes[0].extent

    @property
    def slot(self) -> int:
        """Numbers of a slice, and a vector that is thrown away."""
        return (self.source[1] * self.width + 1) * self.lanes

    @property
    def elements(self) -> int:
        """Of all slices."""
        return self.ring * self.slot

    def pixels(self) -> Array:
        """Where the pixels of a slice lie, in whole vectors."""
        rows, columns = np.divmod(np.arange(prod(self.source[1:])), self.source[2])
        return self.whole(rows * self.width + self.lead + columns, self.slot // self.lanes - 1)

    def whole(self, places: Array, spare: int) -> Array:
        """Numbers of these vectors, with a ``spare`` one's for lanes that are not filled."""
        padding = np.full(-len(places) % self.lanes, spare)
        return np.concatenate([places, padding]).astype(np.int64) * self.lanes

    def met(self, axis: int, count: int) -> list[list[tuple[int, int]]]:
        """For every result along an axis, the (place in the source, tap) pairs inside, in their order."""
        phases, low, stride = self.axes[axis].phases, self.axes[axis].low, self.stride[axis]
        every = (divmod(n, len(phases)) for n in range(count))
        places = [[(q * stride + at - low, t) for t, at in phases[phase]] for q, phase in every]
        return [[(at, t) for at, t in pairs if 0 <= at < self.source[axis]] for pairs in places]

    def meetings(self, axis: int, count: int) -> int:
        """Of results along an axis with taps."""
        return sum(map(len, self.met(axis, count)))

    def depths(self, count: int) -> tuple[Array, Array]:
        """For every depth where its ``slices`` begin and end, and how many slices of the source it needs; and those."""
        slices = self.met(0, count)
        taps = prod(self.kernel[1:]) * self.lanes
        pairs = [(at % self.ring * self.slot, t * taps) for places in slices for at, t in places]
        ends = np.cumsum([0, *map(len, slices)])
        needed = [max((at + 1 for at, _ in places), default=0) for places in slices]
        return np.stack([ends[:-1], ends[1:], needed], 1), table(pairs)

    def rows(self, count: int) -> tuple[Array, Array]:
        """For every row where its ``lines`` begin and end; and those."""
        lines = self.met(1, count)
        pairs = [
            ((at * self.width + self.first) * self.lanes, t * self.kernel[2] * self.lanes)
            for places in lines
            for at, t in places
        ]
        ends = np.cumsum([0, *map(len, lines)])
        return np.stack([ends[:-1], ends[1:]], 1), table(pairs)


def table(pairs: Sequence[tuple[int, int]]) -> Array:
    """Numbers that a kernel reads, at least one pair."""
    return np.array(pairs or [(0, 0)], np.int64)


def turned(pixels: int, lanes: int, itemsize: int) -> float:
    """Cycles to turn so many pixels of a block of channels: squares, and what is left by blocks of 128 bits."""
    few = 16 // itemsize
    numbers = ceil(pixels / few) * few * lanes
    near, far = (_HALVED, _FAR_HALVED) if target.cpu().turns_of(lanes * itemsize) > 1 else (1.0, 1.0)
    return numbers * (near * _NEAR if numbers * itemsize <= _NEAR_BYTES else far * _FAR)


def most_bytes() -> int:
    """What a thread's frames and sums may take of the second cache."""
    return target.cpu().l2_bytes // 2
