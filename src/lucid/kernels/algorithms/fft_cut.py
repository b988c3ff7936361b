"""How a convolution by transforms is cut: into blocks, and into what the workspace holds the spectra of at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from lucid.kernels.algorithms.fft_kernel import RESULTS, computed_name
from lucid.kernels.algorithms.fft_rows import ROW
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.plan import Problem
from lucid.kernels.runtime import memory


@dataclass(frozen=True, slots=True)
class Samples:
    """How the samples of the blocks lie: a channel's and an image's distance, how many, and where a block's begin.

    A block has ``more`` samples than sums.
    """

    plane: int
    image: int
    size: int
    offset: int
    more: int


@dataclass(frozen=True, slots=True)
class Shares:
    """How much the workspace holds the spectra of at once: vectors of pairs, groups, a group's channels and results."""

    pairs: int
    groups: int
    channels: int
    results: int

    @classmethod
    def fitting(cls, problem: Problem, channels: int, results: int, pairs: int, room: int) -> Shares | None:
        """The most of a group's ``channels`` and ``results`` that ``room`` spectra allow; no more than ``pairs``.

        Where not all fit, channels or else results stay whole: then none is transformed twice, but for g if it is the
        results.
        """
        both, groups = channels + results, problem.groups
        if both <= room:
            each = min(groups, room // both)
            return cls(min(pairs, room // (groups * both)) if each == groups else 1, each, channels, results)
        if channels + RESULTS <= room:
            most = (room - channels) // RESULTS * RESULTS
            return cls(1, 1, channels, min(-(-even(results, most) // RESULTS) * RESULTS, most))
        if results + 2 <= room:
            return cls(1, 1, even(channels, room - results), results)
        if room < 2:
            return None
        summed = max(1, room // 4)
        return cls(1, 1, even(channels, summed), even(results, room - summed))


def even(count: int, most: int) -> int:
    """Parts of a count, as many as parts of at most ``most`` are, and no larger than need be."""
    return ceil(count / ceil(count / min(count, most)))


def spans(count: int, each: int) -> Iterator[tuple[int, int]]:
    """Where parts of a count begin, and how long they are."""
    for begin in range(0, count, each):
        yield begin, min(each, count - begin)


@dataclass(frozen=True, slots=True)
class Cut:
    """A problem in blocks of n: ``valid`` sums each, ``each`` of them to a sequence; the kernel in pieces of ``taps``.

    ``width`` rows of weights are summed at once. ``shares`` is none where nothing but filters leaves a thread's block.
    """

    problem: Problem
    n: int
    taps: int
    lanes: int
    width: int
    shares: Shares | None = None

    @property
    def pieces(self) -> int:
        """Of the kernel."""
        return ceil(self.problem.spec.kernel[2] / self.taps)

    @property
    def dilation(self) -> int:
        """Sequences of an image."""
        return self.problem.spec.dilation[2]

    @property
    def valid(self) -> int:
        """Sums of a block that do not wrap around."""
        return self.n - self.taps + 1

    @property
    def out(self) -> int:
        """Sums of an image and channel; in the weight gradient, terms."""
        return (self.problem.size if self.problem.role == "grad_input" else self.problem.out)[2]

    @property
    def each(self) -> int:
        """Blocks of a sequence."""
        return ceil(ceil(self.out / self.dilation) / self.valid)

    @property
    def blocks(self) -> int:
        """Of the batch, for one channel."""
        return self.problem.batch * self.dilation * self.each

    @property
    def pairs(self) -> int:
        """Vectors of pairs of blocks."""
        return ceil(self.blocks / (2 * self.lanes))

    @property
    def rows(self) -> int:
        """Of weights."""
        return self.problem.c_out * self.problem.group_in

    @property
    def row_vectors(self) -> int:
        """Vectors of rows of weights."""
        return ceil(self.rows / self.lanes)

    @property
    def region(self) -> int:
        """Elements of a block with room to read on for a vector; no power of two, so that caches keep several."""
        return (self.n + self.lanes + 1) * 2 * self.lanes

    @property
    def dtype(self) -> str:
        """Of blocks: what is computed in."""
        return computed_name(self.problem.dtype)

    @property
    def number_bytes(self) -> int:
        """Of a vector of complex numbers in a block."""
        return 2 * self.lanes * BY_DTYPE[self.dtype].bytes

    @property
    def region_bytes(self) -> int:
        return self.region * BY_DTYPE[self.dtype].bytes

    @property
    def channels(self) -> tuple[int, int]:
        """Of a group: summed and resulting ones; of x and of y in the weight gradient."""
        pair = (self.problem.group_in, self.problem.group_out)
        return pair[::-1] if self.problem.role == "grad_input" else pair

    @property
    def alone(self) -> bool:
        """Whether a thread's block is enough: results of one channel each, or weights that share none."""
        problem = self.problem
        if problem.role == "grad_weight":
            return problem.group_in == problem.group_out == 1 and self.row_vectors >= 4
        return self.channels[0] == 1 and self.pieces == 1

    def samples(self, which: str, piece: int = 0) -> Samples:
        """Of x, y or g, as the role reads or writes them, for a piece of the kernel."""
        problem, low = self.problem, self.problem.spec.padding[2][0]
        size, out = problem.size[2], problem.out[2]
        if which == "x":
            first = piece * self.taps * self.dilation - low
            return Samples(size, problem.c_in * size, size, first, self.taps - 1)
        return Samples(out, problem.c_out * out, out, 0, 0)

    def sides(self, piece: int = 0) -> tuple[Samples, Samples]:
        """What is transformed first, and what is stored; in the weight gradient, x and g."""
        x, y = self.samples("x", piece), self.samples("y")
        if self.problem.role != "grad_input":
            return x, y
        offset = self.problem.spec.padding[2][0] - (self.last_tap(piece) - 1) * self.dilation
        return (
            Samples(y.plane, y.image, y.size, offset, self.taps - 1),
            Samples(x.plane, x.image, x.size, 0, 0),
        )

    def last_tap(self, piece: int) -> int:
        """Behind the last tap that a piece has room for."""
        return (piece + 1) * self.taps

    def padded(self, channels: int, results: int) -> int:
        """Rows of weights with those many channels and results, where the more numerous are padded to be summed."""
        inner, outer = max(channels, results), min(channels, results)
        return ceil(inner / self.width) * self.width * outer

    @property
    def filters(self) -> int:
        """Vectors of spectra of weights that are kept: of all, or of the sums for some channels in all groups at once.

        They are beside the workspace's bound, as packed weights are.
        """
        if self.problem.role != "grad_weight":
            return self.row_vectors * self.pieces
        if self.shares is None:
            return 0
        channels, (_, results) = self.shares.channels, self.channels
        return sum(self.sum_vectors(channels, count) for _, count in spans(results, self.shares.results))

    def sum_vectors(self, channels: int, results: int) -> int:
        """Vectors of the sums for those many channels and results of a group, in all groups at once."""
        assert self.shares is not None, "sums are kept where spectra are"
        return ceil(self.shares.groups * self.padded(channels, results) / self.lanes)

    @property
    def spectra(self) -> tuple[int, int]:
        """Spectra in the workspace: of what is transformed first, and of results or g."""
        if self.shares is None:
            return 0, 0
        each = self.shares.pairs * self.shares.groups
        return each * self.shares.channels, each * self.shares.results

    @property
    def own_bytes(self) -> int:
        """A thread's part of the workspace: two tables of rows, and a block or, for weights, four."""
        blocks = 0 if self.shares else 4 if self.problem.role == "grad_weight" else 1
        tables = 2 * ROW * 2 * self.lanes * 8
        return -(-(tables + blocks * self.region_bytes) // memory.ALIGN_BYTES) * memory.ALIGN_BYTES

    @property
    def packed_bytes(self) -> int:
        return self.filters * self.region_bytes

    @property
    def working_bytes(self) -> int:
        """Beside the filters, for one thread."""
        return sum(self.spectra) * self.region_bytes + self.own_bytes
