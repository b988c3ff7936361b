"""Planes of a forward role or an input gradient, cut into boxes of rows: what kernels that run down rows share."""

from __future__ import annotations

from math import ceil

from lucid.kernels import target
from lucid.kernels.algorithms.base import channels
from lucid.kernels.plan import Problem

_TASKS = 16  # wanted at least; planes are cut into boxes of rows until there are as many
_FEW_ROWS = 8  # in a box: with fewer, too many are read twice


class RowBoxes:
    """A problem of planes in boxes of ``box_h`` rows of positions."""

    __slots__ = ()
    problem: Problem
    box_h: int

    @property
    def forward(self) -> bool:
        """Whether it is the forward role."""
        return self.problem.role == "forward"

    @property
    def sources(self) -> int:
        """Source channels of a group."""
        return channels(self.problem)[0]

    @property
    def results(self) -> int:
        """Result channels of a group."""
        return channels(self.problem)[1]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the result."""
        return (self.problem.out if self.forward else self.problem.size)[1:]  # type: ignore[return-value]

    @property
    def source(self) -> tuple[int, int]:
        """Rows and columns of the source."""
        return (self.problem.size if self.forward else self.problem.out)[1:]  # type: ignore[return-value]

    @property
    def positions(self) -> tuple[int, int]:
        """Rows and columns that steps and lanes run over: the result's, where it has no phases."""
        return self.size

    @property
    def boxes(self) -> int:
        """Of a plane."""
        return ceil(self.positions[0] / self.box_h)

    @property
    def tasks(self) -> int:
        """Boxes of all images and groups."""
        return self.problem.batch * self.problem.groups * self.boxes

    @property
    def numbers(self) -> dict[str, int]:
        """What every such kernel is told of the shape, by name."""
        sources, results, taps = self.sources, self.results, self.problem.spec.taps
        return {
            "groups": self.problem.groups, "sources": sources, "results": results, "boxes": self.boxes,
            "box_h": self.box_h, "columns": self.positions[1], "h": self.source[0], "w": self.source[1],
            "size_h": self.size[0], "size_w": self.size[1],
            "w_group": sources * results * taps, "w_source": taps * (1 if self.forward else results),
            "w_result": taps * (sources if self.forward else 1), "bias_step": int(self.problem.bias),
        }  # fmt: skip

    def box_rows(self, row_bytes: int, step: int = 1, again: int = 0) -> int:
        """Enough boxes for some threads, of whole steps, and rows that a cache holds from one strip to the next.

        ``row_bytes`` are those of all sources that a row of positions moves on by, 0 if they are read once. Each box
        takes ``again`` rows more than it has, by which fewer boxes may be better where units take an instruction in
        two turns.
        """
        rows, planes = self.positions[0], self.problem.batch * self.problem.groups
        held = max(_FEW_ROWS, target.cpu().l2_bytes // 4 // row_bytes) if row_bytes else rows
        most = min(ceil(_TASKS / planes), ceil(rows / _FEW_ROWS))

        def waited(pieces: int) -> int:
            """Rows that the busiest of so many threads takes, on 2, 4 and 8."""
            return sum(ceil(planes * pieces / threads) for threads in (2, 4, 8)) * (ceil(rows / pieces) + again)

        pieces = min(range(1, most + 1), key=waited) if again else most
        return ceil(rows / max(pieces, ceil(rows / held)) / step) * step
