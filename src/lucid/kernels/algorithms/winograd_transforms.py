"""Winograd's minimal filtering F(m, r): m outputs of an r-tap filter by m + r - 1 products, and its transforms as code.

y = A^T [(G w) * (B^T x)], with x a patch of n = m + r - 1 samples. The three matrices come from n - 1 points and
infinity: the transposed product of polynomials, evaluated and interpolated there. In more than one dimension each axis
is transformed for itself.

Source: Winograd, Arithmetic Complexity of Computations (1980); Lavin and Gray, arXiv:1509.09308; the matrices as in
Barabasz and others, arXiv:1803.10986, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import combinations, pairwise
from math import prod
from typing import NamedTuple

from lucid.kernels.ir import Value, deinterleave, fma, picked, shuffle

Matrix = tuple[tuple[Fraction, ...], ...]
Size = tuple[int, int]
Place = tuple[int, int, int]

IDENTITY: Matrix = ((Fraction(1),),)

#: Beside infinity, taken in this order: small numbers and their negatives make the smallest errors. Five are best
#: without ±1, as numbers far from each other: that halves the growth of an axis. Six are pairs without 0, of
#: small fractions those with the smallest errors; so are eight, which only a single axis with taps takes.
_POINTS = tuple(Fraction(p) for p in ("0", "1", "-1", "2", "-2", "1/2", "-1/2"))
_BETTER = {
    5: tuple(Fraction(p) for p in ("0", "2", "-2", "1/2", "-1/2")),
    6: tuple(Fraction(p) for p in ("2", "-2", "3/4", "-3/4", "1/4", "-1/4")),
    8: tuple(Fraction(p) for p in ("5/2", "-5/2", "1", "-1", "2/3", "-2/3", "1/4", "-1/4")),
}

_PIECE = 4  #: taps of a piece of a longer filter


class Blocked(tuple[tuple[Fraction, ...], ...]):
    """The product of two matrices that go over lines: ``inner`` along each, then ``outer`` across them.

    Lines begin ``step`` entries apart and may overlap; those of the last that are beyond ``columns`` are zeros. Results
    are line by line, of which the first ``rows`` are wanted.
    """

    outer: Matrix
    inner: Matrix
    step: int

    def __new__(cls, outer: Matrix, inner: Matrix, step: int, size: Size) -> Blocked:
        """The product, a tuple of rows as every matrix."""
        rows, columns = size
        entries: list[list[Fraction]] = []
        for across in outer:
            for along in inner:
                row = [Fraction(0)] * columns
                places = ((k * step + n, a * b) for k, a in enumerate(across) if a for n, b in enumerate(along) if b)
                for place, entry in places:
                    if place < columns:
                        row[place] += entry
                entries.append(row)
        made = super().__new__(cls, map(tuple, entries[:rows]))
        made.outer, made.inner, made.step = outer, inner, step
        return made

    def applied(self, values: Sequence[Value]) -> list[Value]:
        """The product with values, by its factors."""
        width = len(self.inner[0])
        starts = [k * self.step for k in range(len(self.outer[0]))]
        lines = [_within(self.inner, values[start : start + width]) for start in starts]
        columns = [multiplied(self.outer, column) for column in zip(*lines, strict=True)]
        return [value for line in zip(*columns, strict=True) for value in line][: len(self)]


def _within(matrix: Matrix, values: Sequence[Value]) -> list[Value]:
    """A matrix times values of which the last may be missing: zeros."""
    return multiplied(tuple(row[: len(values)] for row in matrix), values)


class Planes(NamedTuple):
    """How many times an axis has the others' transforms: of a patch, of a filter, of a tile of outputs."""

    patch: int
    filter: int
    result: int


@dataclass(frozen=True)
class Minimal:
    """F(outputs, taps) of one axis. With one tap it leaves an axis as it is.

    >>> [[int(entry) for entry in row] for row in Minimal(2, 3).patch]
    [[-1, 0, 1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]]
    """

    outputs: int
    taps: int

    @property
    def samples(self) -> int:
        """Samples of a patch."""
        return self.outputs + self.taps - 1

    @property
    def advance(self) -> int:
        """Samples from a tile's patch to the next tile's."""
        return self.outputs

    @property
    def products(self) -> int:
        """Of a patch and a filter."""
        return self.samples

    def size(self, name: str) -> Size:
        """Rows and columns of the matrix of that name, which need not be made for it."""
        products, outputs = self.products, self.outputs
        sizes = {
            "patch": (products, self.samples), "filter": (products, self.taps), "inverse": (outputs, products),
            "gradient": (products, outputs), "collect": (self.taps, products),
        }  # fmt: skip
        return sizes[name]

    @property
    def _met(self) -> Sequence[int]:
        """Taps that each output meets a sample with."""
        return [self.taps] * self.outputs

    @property
    def reads(self) -> int:
        """Times ``advance`` samples that hold a patch."""
        return -(-self.samples // self.advance)

    @property
    def planes(self) -> Planes:
        """One of each: it is transformed itself."""
        return Planes(1, 1, 1)

    @property
    def _points(self) -> tuple[Fraction, ...]:
        count = self.samples - 1
        return _BETTER.get(count, _POINTS[:count])

    @cached_property
    def patch(self) -> Matrix:
        """B^T: from the samples of a patch to the products' first factors."""
        if self.taps == 1:
            return _unit(self.outputs)
        rows = [_roots([p for p in self._points if p != at]) for at in self._points] + [_roots(self._points)]
        return tuple(tuple(row + [Fraction(0)] * (self.samples - len(row))) for row in rows)

    @cached_property
    def filter(self) -> Matrix:
        """G: from a filter's taps to the products' second factors."""
        if self.taps == 1:
            return ((Fraction(1),),) * self.outputs
        scales = [prod((at - p for p in self._points if p != at), start=Fraction(1)) for at in self._points]
        rows = [tuple(at**t / scale for t in range(self.taps)) for at, scale in zip(self._points, scales, strict=True)]
        return (*rows, _last(self.taps))

    @cached_property
    def inverse(self) -> Matrix:
        """A^T: from the products to the outputs."""
        if self.taps == 1:
            return _unit(self.outputs)
        infinity = _last(self.outputs)
        return tuple((*(at**k for at in self._points), infinity[k]) for k in range(self.outputs))

    @cached_property
    def gradient(self) -> Matrix:
        """A: from the gradients of the outputs to the products' second factors, where the filter's is wanted."""
        return _transposed(self.inverse)

    @cached_property
    def collect(self) -> Matrix:
        """G^T: from the products, summed over all tiles, to the taps of a filter's gradient."""
        return _transposed(self.filter)

    @cached_property
    def gradient_growth(self) -> float:
        """The most that |G^T| (|A| |g| * |B^T| |x|) is above the sum of |g| |x|, for |g| and |x| all alike."""
        sizes = [sum(map(abs, a)) * sum(map(abs, b)) for a, b in zip(self.gradient, self.patch, strict=True)]
        most = max(sum(abs(g) * s for g, s in zip(row, sizes, strict=True)) for row in self.collect)
        return float(most / self.outputs)

    @cached_property
    def growth(self) -> float:
        """The most that |A^T| (|G| |w| * |B^T| |x|) is above the sum of |w| |x|, for |w| and |x| all alike."""
        sizes = [sum(map(abs, g)) * sum(map(abs, b)) for g, b in zip(self.filter, self.patch, strict=True)]
        sums = [sum(abs(a) * s for a, s in zip(row, sizes, strict=True)) for row in self.inverse]
        return float(max(total / taps for total, taps in zip(sums, self._met, strict=True)))


class _OfParts(Minimal):
    """Forms side by side: each has products from samples and taps of its own. Their outputs are added up."""

    @cached_property
    def _parts(self) -> list[Minimal]:
        return [Minimal(self.outputs, len(taps)) for taps in self._taps_of]

    @property
    def _samples_of(self) -> list[range]:
        """The samples of each part."""
        raise NotImplementedError

    @property
    def _taps_of(self) -> list[range]:
        """The taps of each part."""
        raise NotImplementedError

    @cached_property
    def products(self) -> int:
        """Of all parts."""
        return sum(part.products for part in self._parts)

    @cached_property
    def patch(self) -> Matrix:
        """Each part's, of its samples."""
        return _stacked([part.patch for part in self._parts], self._samples_of, self.samples)

    @cached_property
    def filter(self) -> Matrix:
        """Each part's, of its taps."""
        return _stacked([part.filter for part in self._parts], self._taps_of, self.taps)

    @cached_property
    def inverse(self) -> Matrix:
        """Parts are added up."""
        return tuple(sum(rows, ()) for rows in zip(*(part.inverse for part in self._parts), strict=True))


class Pieces(_OfParts):
    """F(outputs, taps) of a long filter: pieces of up to four taps, whose few points make small errors.

    ::

        seven taps, four outputs: F(4, 4) of a ... g by taps 0 to 3 and F(4, 3) of e ... j by taps 4 to 6
            a b c d e f g h i j        13 products for 28
    """

    @property
    def _samples_of(self) -> list[range]:
        return [range(taps.start, taps.stop + self.outputs - 1) for taps in self._taps_of]

    @property
    def _taps_of(self) -> list[range]:
        count = -(-self.taps // _PIECE)
        starts = [-(-self.taps * n // count) for n in range(count + 1)]
        return [range(*ends) for ends in pairwise(starts)]


class Nested(Minimal):
    """F(outputs, taps) of a long filter in blocks: F of blocks, whose products are F(4, 4) each.

    Blocks are four taps, results and samples' steps, so a patch is lines of seven samples that begin four apart. Taps
    that a last block lacks are zeros; what they would meet is in no patch. ::

        seven taps, eight outputs: F(2, 2) of three lines a ... g, e ... k, i ... n by blocks of taps 0 to 3, 4 to 6
            a b c d e f g h i j k l m n        21 products for 56
    """

    @cached_property
    def _blocks(self) -> Minimal:
        return Minimal(self.outputs // _PIECE, -(-self.taps // _PIECE))

    @cached_property
    def _each(self) -> Minimal:
        return Minimal(_PIECE, _PIECE)

    @cached_property
    def products(self) -> int:
        """Of all pairs."""
        return self._blocks.products * self._each.products

    def _of_both(self, name: str, step: int) -> Matrix:
        return Blocked(getattr(self._blocks, name), getattr(self._each, name), step, self.size(name))

    @cached_property
    def patch(self) -> Matrix:
        """B^T of every line, then across them."""
        return self._of_both("patch", _PIECE)

    @cached_property
    def filter(self) -> Matrix:
        """G of every block, then across them."""
        return self._of_both("filter", _PIECE)

    @cached_property
    def inverse(self) -> Matrix:
        """A^T of the products of every block, then across them."""
        return self._of_both("inverse", self._each.products)

    @cached_property
    def gradient(self) -> Matrix:
        """A of every block, then across them."""
        return self._of_both("gradient", _PIECE)

    @cached_property
    def collect(self) -> Matrix:
        """G^T of the products of every block, then across them."""
        return self._of_both("collect", self._each.products)

    @cached_property
    def gradient_growth(self) -> float:
        """Both."""
        return self._blocks.gradient_growth * self._each.gradient_growth

    @cached_property
    def growth(self) -> float:
        """Both, of taps that are all there."""
        return self._blocks.growth * self._each.growth * self._blocks.taps * _PIECE / self.taps


@dataclass(frozen=True)
class Strided(_OfParts):
    """F(outputs, taps) of a stride that need not divide the taps: each residue of the samples has a filter of its own.

    ::

        stride 2, three taps, two outputs: F(2, 2) of a, c, e by taps 0, 2 and F(2, 1) of b, d by tap 1
            a b c d e        5 products for 6, and 9 for 12 with four outputs
    """

    stride: int

    @property
    def samples(self) -> int:
        """Of all residues, side by side."""
        return self.advance + self.taps - self.stride

    @property
    def advance(self) -> int:
        """A stride for every output."""
        return self.outputs * self.stride

    @property
    def _samples_of(self) -> list[range]:
        return [range(r, self.samples, self.stride) for r in range(self.stride)]

    @property
    def _taps_of(self) -> list[range]:
        return [range(r, self.taps, self.stride) for r in range(self.stride)]


@dataclass(frozen=True)
class Spread(_OfParts):
    """The adjoint of ``Strided`` in the samples: each residue of the outputs has a filter of its own, of one patch.

    Output ``stride j + r - first`` meets samples j and before with taps r, r + stride and so on; as the patch runs
    forwards, the taps are given backwards. With a ``first`` residue other than 0, those before it are a sample late.
    """

    stride: int
    first: int = 0

    @cached_property
    def samples(self) -> int:
        """Those that any residue meets."""
        return max(samples.stop for samples in self._samples_of)

    @cached_property
    def before(self) -> int:
        """Samples of a patch before the one with the number of its first output."""
        return max(part.taps - 1 - (r < self.first) for r, part in enumerate(self._parts))

    @property
    def advance(self) -> int:
        """One for every output of a residue."""
        return self.outputs // self.stride

    @property
    def _met(self) -> Sequence[int]:
        parts = self._parts[self.first :] + self._parts[: self.first]
        return [part.taps for part in parts] * self.advance

    @cached_property
    def _parts(self) -> list[Minimal]:
        return [Minimal(self.advance, len(taps)) for taps in self._taps_of]

    @cached_property
    def _samples_of(self) -> list[range]:
        starts = [self.before + (r < self.first) + 1 - part.taps for r, part in enumerate(self._parts)]
        return [range(start, start + part.samples) for start, part in zip(starts, self._parts, strict=True)]

    @property
    def _taps_of(self) -> list[range]:
        return [range(self.taps - 1 - r, -1, -self.stride)[::-1] for r in range(self.stride)]

    @cached_property
    def inverse(self) -> Matrix:
        """Each residue's, one after the other for every position."""
        rows = [range((r - self.first) % self.stride, self.outputs, self.stride) for r in range(self.stride)]
        return _transposed(_stacked([part.gradient for part in self._parts], rows, self.outputs))


@dataclass(frozen=True)
class Summed(Minimal):
    """An axis summed by definition, whose outputs, a stride apart, share the transformed planes of their samples."""

    stride: int = 1

    patch = filter = inverse = gradient = collect = IDENTITY
    growth = gradient_growth = 1.0
    products = 1

    @property
    def samples(self) -> int:
        """From the first output's first to the last one's last."""
        return self.advance - self.stride + self.taps

    @property
    def advance(self) -> int:
        """A stride for every output."""
        return self.outputs * self.stride

    def size(self, name: str) -> Size:
        """They leave every number as it is."""
        return 1, 1

    @property
    def planes(self) -> Planes:
        """Each sample, tap and output has its own."""
        return Planes(self.samples, self.taps, self.outputs)


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _stacked(matrices: Sequence[Matrix], columns: Sequence[Sequence[int]], width: int) -> Matrix:
    """Matrices one below the other, with their columns at those places of so many."""
    rows = [
        dict(zip(places, row, strict=True)) for matrix, places in zip(matrices, columns, strict=True) for row in matrix
    ]
    return tuple(tuple(row.get(k, Fraction(0)) for k in range(width)) for row in rows)


def _unit(size: int) -> Matrix:
    return tuple(tuple(Fraction(i == k) for k in range(size)) for i in range(size))


def _last(size: int) -> tuple[Fraction, ...]:
    return (*[Fraction(0)] * (size - 1), Fraction(1))


def _roots(points: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the polynomial with these roots, lowest first."""
    coefficients = [Fraction(1)]
    for p in points:
        shifted, scaled = [Fraction(0), *coefficients], [*(-p * c for c in coefficients), Fraction(0)]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def along(matrix: Matrix, grid: Mapping[Place, Value], axis: int) -> dict[Place, Value]:
    """A grid of values, multiplied with the matrix along one of its three axes."""
    result: dict[Place, Value] = {}
    for place in grid:
        if place[axis] == 0:
            line = [(*place[:axis], k, *place[axis + 1 :]) for k in range(max(len(matrix), len(matrix[0])))]
            values = [grid[_place(at)] for at in line[: len(matrix[0])]]
            result |= {_place(at): value for at, value in zip(line, multiplied(matrix, values), strict=False)}
    return result


def _place(numbers: Sequence[int]) -> Place:
    z, y, x = numbers
    return z, y, x


def multiplied(matrix: Matrix, values: Sequence[Value]) -> list[Value]:
    """Matrix times vector, with what two rows or two columns have in common computed once.

    Points come with their negatives. So columns of A^T come in pairs that differ in signs alone: their values are
    replaced by a sum and a difference. And so do rows of B^T and G: they are the sum and the difference of two halves.
    """
    if isinstance(matrix, Blocked):
        return matrix.applied(values)
    values = list(values)
    rows = [list(row) for row in matrix]
    for j, k in _alike(list(zip(*rows, strict=True))):
        values[j], values[k] = values[j] + values[k], values[j] - values[k]
        for row in rows:
            same = row[j] == row[k]
            row[k], row[j] = (Fraction(0), row[j]) if same else (row[j], Fraction(0))
    result: dict[int, Value] = {}
    for i, k in _alike(rows):
        both = [a if a == b else Fraction(0) for a, b in zip(rows[i], rows[k], strict=True)]
        first, second = _dot(both, values), _dot([a - b for a, b in zip(rows[i], both, strict=True)], values)
        result[i], result[k] = first + second, first - second
    return [result[i] if i in result else _dot(row, values) for i, row in enumerate(rows)]


def _alike(lines: Sequence[Sequence[Fraction]]) -> list[tuple[int, int]]:
    """Pairs of lines that differ in signs alone, at some places and not at others."""
    pairs: list[tuple[int, int]] = []
    for j, k in combinations(range(len(lines)), 2):
        a, b = lines[j], lines[k]
        signs = {p == q for p, q in zip(a, b, strict=True) if p or q}
        alike = all(abs(p) == abs(q) for p, q in zip(a, b, strict=True))
        if alike and signs == {True, False} and not any({j, k} & set(pair) for pair in pairs):
            pairs.append((j, k))
    return pairs


def _dot(row: Sequence[Fraction], values: Sequence[Value]) -> Value:
    """A row times the values; what needs no product comes first."""
    terms = sorted(
        ((f, v) for f, v in zip(row, values, strict=True) if f), key=lambda term: (abs(term[0]) != 1, -term[0])
    )
    if not terms:  # of a tap that is missing
        return values[0].const(0.0)
    (factor, value), *others = terms
    total = value if factor == 1 else value * float(factor)
    for factor, value in others:
        if abs(factor) == 1:
            total = total + value if factor > 0 else total - value
        else:
            total = fma(value, value.const(float(factor)), total)
    return total


def split(vectors: Sequence[Value], together: int = 1) -> list[Value]:
    """As many vectors of samples as they are apart: sample k n + p in lane k of vector p of n.

    Samples that are ``together``, a divisor of the lanes, are dealt out as one.
    """
    lanes, n = vectors[0].type.lanes, len(vectors)
    if n == 1 or lanes == 1:
        return list(vectors)
    if together == 1:
        return deinterleave(vectors, n)
    if n % 2:
        blocks = range(lanes // together)
        places = [(block * n + r) * together + k for r in range(n) for block in blocks for k in range(together)]
        return picked(vectors, [divmod(place, lanes) for place in places])
    picks = [[k for k in range(2 * lanes) if k // together % 2 == p] for p in (0, 1)]
    pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
    halves = [split([shuffle(a, b, pick) for a, b in pairs], together) for pick in picks]
    return [vector for pair in zip(*halves, strict=True) for vector in pair]
