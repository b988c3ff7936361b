"""What weight gradients of kernels of one row share: the tile of sums in registers, and what its work costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from lucid.kernels.algorithms import lines_input, toeplitz
from lucid.kernels.algorithms.base import sum_type
from lucid.kernels.algorithms.depthwise_sums import write_add_chunks
from lucid.kernels.ir import Module, Type
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Problem

_MOST_RESULTS = 8
#: Cycles of one thread of a Zen 4, whose loads take longer than its products: 26 plans of random layers, four fifths of
#: them within 14 %.
HALVED = {
    "product": 0.37,
    "load": 1.4,
    "edge": 3.0,  # a product under masks
    "upstream": 0.6,  # a vector of g that is added up
    "lane sum": 10.0,
    "line": 1.25,  # of the cache, from beyond the second one
    "waiting": 0.35,  # for memory
    "call": 6400.0,
}


@dataclass(frozen=True, slots=True)
class Tile:
    """Sums in flight: ``results`` channels of g by up to the largest of ``passes``, numbers of taps."""

    results: int
    passes: tuple[int, ...]

    @property
    def first_asks(self) -> int:
        """For how many rows of g the first of passes that share this asks; each of the others asks for one."""
        return max(1, self.results - len(self.passes) + 1)

    @property
    def registers(self) -> int:
        """Sums, those of g, vectors of g, one of x."""
        return self.results * (max(self.passes) + 2) + 1

    @property
    def sums(self) -> int:
        """Vectors of them, of all taps."""
        return self.results * sum(self.passes)

    def cycles(self, vector_bytes: int) -> float:
        """Of a vector of pixels of every result."""
        touched = toeplitz.straddle(vector_bytes)
        each = [max(self.results * taps, touched * (self.results + taps), 4) / 2 + 0.5 for taps in self.passes]
        return sum(each)


@dataclass(frozen=True)
class RowSums(ABC):
    """A problem with its tile: a task is the results of a tile, over one chunk of what is summed."""

    problem: Problem
    tile: Tile
    lanes: int

    @property
    def element(self) -> Type:
        """What is computed in."""
        return sum_type(self.problem)

    @property
    def blocks(self) -> int:
        """Of results, in a group."""
        return self.problem.group_out // self.tile.results

    @property
    @abstractmethod
    def chunks(self) -> int:
        """Sums that are added up in the end."""

    @property
    def tasks(self) -> int:
        """Blocks of all groups and chunks."""
        return self.chunks * self.problem.groups * self.blocks

    @property
    @abstractmethod
    def segment(self) -> int:
        """Pixels of a row that are read at a time: whole vectors."""

    @property
    @abstractmethod
    def workspace_bytes(self) -> int:
        """Of all threads' chunks, and of one thread's own sums."""

    @property
    @abstractmethod
    def cycles(self) -> float:
        """Expected, of one thread."""


def fastest(problem: Problem, isa: ISA, most_passes: int | None = None) -> Tile | None:
    """The tile that is expected to be fastest, of those of at most so many passes, if any."""
    taps = problem.spec.kernel[2]
    tiles = [
        Tile(results, lines_input.even(taps, count))
        for results in range(1, _MOST_RESULTS + 1)
        for count in range(1, (most_passes or taps) + 1)
        if problem.group_out % results == 0
    ]
    fitting = [tile for tile in tiles if tile.registers <= isa.registers]
    return min(fitting, key=lambda tile: each_cycles(tile, problem, isa), default=None)


def each_cycles(tile: Tile, problem: Problem, isa: ISA) -> float:
    """Of a vector of pixels of one result."""
    element = sum_type(problem)
    return tile.cycles(isa.lanes(element) * element.bytes) / tile.results


def write_finish(module: Module, element: Type, lanes: int, fields: dict[str, Type]) -> None:
    """Adds the entry point ``finish``: one task adds the chunks."""
    add = write_add_chunks(module, element, lanes)
    f = module.entry("finish", **fields)
    a = f.args
    for to, parts, count in ((a.gw, a.parts, a.weights), (a.gb, a.bias_parts, a.channels * a.has_bias)):
        f.call(add, to, parts, count, count, a.chunks)
