"""Panels of pixels: what a dense kernel multiplies with its weights, gathered from x a block of channels at a time.

A panel is ``panel[c][tap][position]``, the sample of x that an output position meets at that tap, or 0 outside x.
Positions are flat over the batch and the spatial axes. Here is what they mean as numbers: stride, dilation of either
sign, padding, edges, batch. ``pixel_gather`` makes a table of them and gathers what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import gcd, prod
from typing import Any, NamedTuple

from lucid.kernels.ir import Pointer, i64, ptr


class Reading(NamedTuple):
    """How the samples of a vector, ``step`` apart, are read: for so many neighbouring ``taps`` at once.

    ``step`` vectors lie side by side, and each tap picks its lanes from them. With step 0 samples come one at a time.
    """

    step: int
    taps: int

    @property
    def scale(self) -> int:
        """Elements that stand side by side for a lane."""
        return max(1, self.step)


SIDE_BY_SIDE, ONE_AT_A_TIME = Reading(1, 1), Reading(0, 1)
#: Vectors that are read at once, at most, and for each tap: beyond, single samples are as fast.
_MOST_READ, _MOST_READ_TAP = 16, 8
_LEAST_PIECE, _MOST_PIECE = 4, 16  # vectors


def reading(axis: Axis, lanes: int) -> Reading:
    """How the samples of the last axis are read."""
    step, offsets = axis.step, axis.offsets
    if lanes == 1 or step == 1 or not offsets:
        return SIDE_BY_SIDE
    neighbours = offsets == tuple(range(offsets[0], offsets[0] + len(offsets)))
    taps = min(step, len(offsets)) if neighbours else 1
    return Reading(step, taps) if step <= min(_MOST_READ, _MOST_READ_TAP * taps) else ONE_AT_A_TIME


def _in_groups(axis: Axis) -> Axis:
    """The axis with more taps at the end, so that all are read as many at once."""
    taps = reading(axis, 2).taps
    more = -len(axis.offsets) % taps
    return replace(axis, offsets=(*axis.offsets, *(axis.offsets[-1] + 1 + k for k in range(more))))


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis of a dense convolution: position p meets sample ``p * step + offsets[t]`` at tap t.

    Position p is written to ``out_start + p * out_step`` of ``out_size``; tap t's weight is ``weights[t]`` elements
    into the kernel.

    An axis may be a piece of a ``line`` of so many samples, ``size`` of them for each of the axis around it. The last
    piece may be short, and with an offset a piece begins in the one before.

    Samples that lie otherwise than one after the other with the axes inside are so many elements ``apart``, and so are
    the results.
    """

    positions: int
    size: int
    step: int
    offsets: tuple[int, ...]
    weights: tuple[int, ...]
    out_size: int
    out_start: int = 0
    out_step: int = 1
    line: int = 0
    apart: int = 0

    def inside(self, offset: int) -> tuple[int, int]:
        """Positions [first, end) whose sample at that offset lies in x, counted from the start of a line."""
        if self.line:
            return -offset, self.line - offset
        first = max(0, -(offset // self.step))
        end = min(self.positions, -((offset - self.size) // self.step))
        return first, max(first, end)

    @property
    def plain(self) -> bool:
        """Whether every position meets its own sample and nothing else."""
        return self.offsets == (0,) and self.step == 1 and self.positions == self.size and self.contiguous

    @property
    def unpadded(self) -> bool:
        """Whether every position meets a sample at every tap."""
        reach = (self.positions - 1) * self.step + max(self.offsets, default=0)
        return min(self.offsets, default=0) >= 0 and reach < self.size and not self.line and not self.apart

    @property
    def contiguous(self) -> bool:
        """Whether the positions are the whole axis of the result."""
        return self.positions == self.out_size and self.out_step == 1

    def over(self, inner: Axis) -> Axis:
        """This axis and a plain one inside it as a single long one."""
        n = inner.size
        return Axis(
            self.positions * n,
            self.size * n,
            1,
            tuple(o * n for o in self.offsets),
            tuple(w + inner.weights[0] for w in self.weights),
            self.out_size * n,
            self.out_start * n,
        )

    def shared(self) -> tuple[Axis, tuple[tuple[int, int], ...]]:
        """The axis with taps that are whole steps apart read from the same samples, and (tap, positions on) of each.

        Tap t at position p meets what tap ``first`` of its residue meets at ``p + (offsets[t] - first) / step``::

            step 1, three taps          one tap, two positions more
            tap 0   a b c d             a b c d e f
            tap 1     b c d e             tap 1 starts here
            tap 2       c d e f             tap 2 here
        """
        first: dict[int, int] = {}
        for offset in sorted(self.offsets):
            first.setdefault(offset % self.step, offset)
        residues = list(first)
        reads = tuple((residues.index(o % self.step), (o - first[o % self.step]) // self.step) for o in self.offsets)
        more = max((shift for _, shift in reads), default=0)
        return replace(self, positions=self.positions + more, offsets=tuple(first.values()), weights=()), reads

    def undealt(self, whole: int = 1) -> Axis:
        """The axis with all samples from the first that is met, and ``whole`` at a time where that adds few."""
        first = min(self.offsets, default=0)
        reach = max(self.offsets, default=0) - first + 1
        count = max((self.positions - 1) * self.step + reach, self.positions * self.step)
        more = -count % whole
        count += more if more <= count * _MOST_MORE else 0
        return replace(self, positions=count, step=1, offsets=(first,), weights=())


_POINT = Axis(1, 1, 1, (0,), (0,), 1)

Phase = tuple[Axis, Axis, Axis]

#: Instead of axes whose taps share samples: samples are read where they lie in x.
IN_PLACE = (-1,)
#: The last two axes, where lines are gathered as they are, so that neighbours are steps apart for the tile.
AS_LINES = (-2, -1)
#: The same lines, read where they lie in x.
LINES_IN_PLACE = (-2, -2, -1)
#: The same of a copy of x that a span widens: laid out as x is, but that channels lie nearer to each other.
LINES_WIDENED = (-3, -2, -1)
#: Samples of a line that are gathered at once, where it is not much longer with more at its end.
_WHOLE, _MOST_MORE = 16, 1 / 8


def joined(axes: Sequence[Axis]) -> Phase:
    """The same phase with plain inner axes merged into the ones around them, so that rows are long.

    A 1 x 1 convolution of stride 1 becomes one row an image.
    """
    outer, axes = list(axes), []
    while outer:
        axis = outer.pop()
        while outer and axis.plain and outer[-1].step == 1 and outer[-1].out_step == 1:
            axis = outer.pop().over(axis)
        axes.insert(0, axis)
    z, y, x = [_POINT] * (3 - len(axes)) + axes
    return z, y, x


def in_pieces(phase: Phase, count: int) -> Phase:
    """The same phase with the plain axis inside its taps cut into so many pieces, which come outermost.

    All positions of the axis around it are then near each other, and each sample is gathered once for all of them::

        time 0   a b c d e f g h i j k l        a b c d | time 0 e f g h | time 0 i j k l
        time 1   m n o p q r s t u v w x        m n o p | time 1 q r s t | time 1 u v w x
    """
    if count == 1:
        return phase
    z, y, x = _parted(phase)
    length = x.size // count
    outer = replace(z, positions=count, size=count, out_size=count, apart=length)
    return outer, replace(y, apart=x.size), replace(x, positions=length, size=length, out_size=length)


def piece_counts(phase: Phase, lanes: int) -> list[int]:
    """Into how many pieces of whole vectors a phase may be cut."""
    z, y, x = _parted(phase)
    if not (z.plain and z.size == 1 and x.plain and len(y.offsets) > 1) or lanes == 1:
        return []
    lengths = range(_LEAST_PIECE * lanes, min(_MOST_PIECE * lanes, x.size // 2) + 1, lanes)
    return [x.size // length for length in lengths if x.size % length == 0]


def _parted(phase: Phase) -> Phase:
    """The phase as it was before a plain axis was merged into one with taps: they are whole lines of it apart."""
    z, y, x = phase
    line = gcd(x.positions, x.size, x.out_size, x.out_start, *x.offsets)
    if not (z.size == y.size == x.step == x.out_step == 1 and len(x.offsets) > 1 and line > 1):
        return phase
    count, size, out_size, start = (n // line for n in (x.positions, x.size, x.out_size, x.out_start))
    outer = Axis(count, size, 1, tuple(o // line for o in x.offsets), x.weights, out_size, start)
    return z, outer, Axis(line, line, 1, (0,), (0,), line)


def pieces(phase: Phase) -> int:
    """How many the last axis is cut into."""
    return phase[0].positions if phase[0].apart else 1


def contiguous(phase: Phase) -> bool:
    """Whether the positions, in their order, are the whole result."""
    return all(axis.contiguous and not axis.apart for axis in phase)


def flat(phase: Phase) -> bool:
    """Whether every position meets its own sample and nothing else: a 1 x 1 convolution of stride 1."""
    return all(
        axis.offsets == (0,) and axis.step == 1 and axis.positions == axis.size and not axis.line and not axis.apart
        for axis in phase
    )


def taps(phase: Phase) -> int:
    """Taps of all axes together."""
    return prod(len(axis.offsets) for axis in phase)


def weights(phase: Phase) -> tuple[int, ...]:
    """Where each tap's weight lies in the kernel; no two phases that are not regions of one have any in common."""
    z, y, x = phase
    return tuple(a + b + c for a in z.weights for b in y.weights for c in x.weights)


def positions(phase: Phase) -> int:
    """Positions in one image."""
    return prod(axis.positions for axis in phase)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a phase's samples lie in its panels.

    Where no axis is ``shared`` every tap has vectors of its own, and a unit of positions is the whole batch. Otherwise
    taps along that axis share them, and a unit is what lies inside the axis: no span crosses its end. With two axes,
    neighbours, a span is whole lines of the inner one, each followed in the panel by the samples that only its last
    positions meet. ``AS_LINES`` are such lines as x has them: neighbours are ``column_step`` apart.

    Of a flat phase x itself may be the panel, ``IN_PLACE``: nothing is gathered, and a unit is an image. Where no
    position meets padding the lines may be x's own, ``LINES_IN_PLACE``, or halves' copies, ``LINES_WIDENED``.
    """

    phase: Phase
    shared: tuple[int, ...]
    gathered: Phase  #: the phase as the table sees it: fewer taps, more positions
    taps: int
    gathered_taps: int
    units: int
    unit: int  #: positions of a unit
    halo: int  #: positions gathered beyond those of a span's lines
    line: int  #: positions that lie side by side in a panel: a whole unit's but where two axes are shared
    pitch: int  #: from one line in a panel to the next

    @classmethod
    def of(cls, phase: Phase, shared: tuple[int, ...], batch: int) -> Layout:
        """The layout of a phase whose taps share samples along some axes."""
        if not shared:
            count, unit = taps(phase), batch * positions(phase)
            z, y, x = phase
            gathered = z, y, _in_groups(x)
            return cls(phase, shared, gathered, count, taps(gathered), 1, unit, 0, unit, unit)
        if shared == IN_PLACE:
            return cls(phase, shared, phase, 1, 0, batch, positions(phase), 0, positions(phase), 0)
        if shared in (LINES_IN_PLACE, LINES_WIDENED):
            z, y, x = phase
            unit, pitch = y.positions * x.positions, y.step * x.size
            return cls(phase, shared, phase, taps(phase), 0, batch * z.positions, unit, 0, x.positions, pitch)
        if shared == AS_LINES:
            gathered, lines_apart = (phase[0], phase[1].undealt(), phase[2].undealt(_WHOLE)), phase[1].step
        else:
            z, y, x = (axis.shared()[0] if k in shared else axis for k, axis in enumerate(phase))
            gathered, lines_apart = (z, y, _in_groups(x)), 1
        first, last = shared[0] % 3, shared[-1] % 3
        unit, gathered_unit = (prod(axis.positions for axis in axes[first:]) for axes in (phase, gathered))
        line, pitch = (prod(axis.positions for axis in axes[last:]) for axes in (phase, gathered))
        pitch *= lines_apart
        if first == last:
            pitch = line
        units = batch * prod(axis.positions for axis in phase[:first])
        halo = gathered_unit - unit // line * pitch
        return cls(phase, shared, gathered, taps(phase), taps(gathered), units, unit, halo, line, pitch)

    @property
    def lines(self) -> int:
        """Lines of a unit."""
        return self.unit // self.line

    @property
    def gathered_unit(self) -> int:
        """From one unit in a panel to the next."""
        return self.lines * self.pitch + self.halo

    @property
    def in_place(self) -> bool:
        """Whether x is the panel, or its copy."""
        return self.shared in (IN_PLACE, LINES_IN_PLACE, LINES_WIDENED)

    @property
    def widened(self) -> bool:
        """Whether the panel is a copy of x."""
        return self.shared == LINES_WIDENED

    @property
    def lines_in_place(self) -> bool:
        """Whether lines are x's own, or its copy's."""
        return self.shared in (LINES_IN_PLACE, LINES_WIDENED)

    @property
    def met_of_line(self) -> int:
        """Elements from the first to the last that a line in place meets."""
        return (self.line - 1) * self.column_step + max(shift for _, shift in self.reads()) + 1

    @property
    def depth(self) -> int:
        """Planes of an image whose lines are read in place, each a unit; 1 otherwise."""
        return self.phase[0].positions if self.lines_in_place else 1

    @property
    def column_step(self) -> int:
        """From one position of a line in a panel to the next."""
        return self.phase[2].step if self.shared == AS_LINES or self.lines_in_place else 1

    @property
    def _around(self) -> Sequence[Axis]:
        """The axes whose positions have lines of their own."""
        return self.phase[: self.shared[-1] % 3] if len(self.shared) > 1 else ()

    @property
    def met_part(self) -> float:
        """The part of all products that is left where taps are left out of the lines that they do not meet."""
        met = (sum(end - first for first, end in map(axis.inside, axis.offsets)) for axis in self._around)
        pairs = (max(1, axis.positions * len(axis.offsets)) for axis in self._around)
        return prod(met) / prod(pairs)

    def met(self) -> list[tuple[int, ...]]:
        """The taps that each line of an image meets, one line after the other: where lines are units, all of them once.

        At other taps all of a line is padding, along an axis around it.
        """
        inner = range(prod(len(axis.offsets) for axis in self.phase[len(self._around) :]))
        found: dict[tuple[tuple[int, ...], ...], tuple[int, ...]] = {}
        lines = []
        for along in product(*map(_met, self._around)):
            if along not in found:
                taps = [0]
                for axis, own in zip(self._around, along, strict=True):
                    taps = [n * len(axis.offsets) + t for n in taps for t in own]
                found[along] = tuple(n * len(inner) + t for n in taps for t in inner)
            lines.append(found[along])
        return lines

    def reads(self) -> list[tuple[int, int]]:
        """For every tap, the gathered tap and how many positions further on it reads."""
        if self.lines_in_place:
            far, near, _ = _apart(self.phase)
            return [(0, k * far + i * near + j) for k, i, j in product(*(axis.offsets for axis in self.phase))]
        if self.shared == AS_LINES:
            outer, *axes = self.phase
            first, pitch = [axis.offsets[0] for axis in self.gathered[1:]], self.gathered[2].positions
            down, along = ([o - low for o in axis.offsets] for axis, low in zip(axes, first, strict=True))
            return [(tap, i * pitch + j) for tap in range(len(outer.offsets)) for i in down for j in along]
        each = []
        for k, axis in enumerate(self.phase):
            inner = prod(further.positions for further in self.gathered[k + 1 :])
            of_axis = axis.shared()[1] if k in self.shared else tuple((t, 0) for t in range(len(axis.offsets)))
            each.append([(tap, shift * inner) for tap, shift in of_axis])
        _, y, x = (len(axis.offsets) for axis in self.gathered)
        return [((a * y + b) * x + c, i + j + k) for a, i in each[0] for b, j in each[1] for c, k in each[2]]


def _met(axis: Axis) -> list[tuple[int, ...]]:
    """The taps that meet a sample at each position."""
    bounds = [axis.inside(offset) for offset in axis.offsets]
    return [tuple(t for t, (first, end) in enumerate(bounds) if first <= p < end) for p in range(axis.positions)]


def most_passes(phase: Phase, lanes: int) -> int:
    """Entries for the rows that a vector of positions can touch."""
    segments = min(lanes, (lanes - 2) // phase[2].positions + 2) if lanes > 1 else 1
    return (segments + 1) // 2


#: What the table's writer reads of a gathered phase. Offsets and steps are in elements.
GATHER = (
    "image_positions", "y_positions", "x_positions", "z_step", "y_step", "x_step", "z_taps", "y_taps", "x_taps",
    "z_table", "y_table", "x_table", "scale", "read_taps", "z_along", "y_along",
)  # fmt: skip
GATHER_ARRAYS = {"z_table", "y_table", "x_table"}


def gather_numbers(phase: Phase, table_at: Sequence[int], reading: Reading = SIDE_BY_SIDE) -> tuple[int, ...]:
    """The numbers of ``GATHER``; ``table_at`` says where the arrays of ``tap_tables`` lie."""
    z, y, x = phase
    counts = len(z.offsets), len(y.offsets), len(x.offsets) // reading.taps
    along = z.step * _piece(y), y.step * _piece(x)
    steps = (axis.step * n for axis, n in zip(phase, _apart(phase), strict=True))
    return positions(phase), y.positions, x.positions, *steps, *counts, *table_at, reading.scale, reading.taps, *along


def _apart(phase: Phase) -> tuple[int, int, int]:
    """Elements from one sample of each axis to the next."""
    z, y, x = phase
    return z.apart or x.line or y.size * x.size, y.apart or x.size, 1


def _piece(axis: Axis) -> int:
    """How far along its line the next piece begins."""
    return axis.size if axis.line else 0


#: Numbers of a tap in its axis's table.
TAP = 4


def tap_tables(phase: Phase, reading: Reading = SIDE_BY_SIDE) -> list[list[tuple[int, int, int, int]]]:
    """For every tap of each axis: its offset in elements, and the positions [first, end) where it meets x.

    Then how much further along its line it is, if the axis inside is a piece of one.
    On the last axis the taps that are read at once are one, and instead of positions the elements behind its first.
    """
    z, y, x = phase
    tables = [
        [(o * scale, *axis.inside(o), o * _piece(inner)) for o in axis.offsets]
        for axis, inner, scale in zip((z, y), (y, x), _apart(phase), strict=False)
    ]
    if reading.step < 2:
        return [*tables, [(o, *x.inside(o), 0) for o in x.offsets]]
    return [*tables, [(o, max(0, -o), max(0, -o, x.size - o), 0) for o in x.offsets[:: reading.taps]]]


def read_numbers(record: Pointer, slots: Sequence[str], arrays: set[str], names: Sequence[str]) -> dict[str, Any]:
    """Some of a record's slots by name: numbers, and pointers to arrays of numbers."""
    return {name: record.at(slots.index(name)).cast(ptr(i64) if name in arrays else i64).load() for name in names}
