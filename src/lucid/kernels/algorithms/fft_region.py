"""A convolution by transforms bound to its kernels: the steps of one region, each with its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any

import numpy as np

from lucid.kernels import target
from lucid.kernels.algorithms import fft_kernel
from lucid.kernels.algorithms.fft_cut import Cut, spans
from lucid.kernels.algorithms.fft_transform import steps
from lucid.kernels.epilogue import ARGUMENTS
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA
from lucid.kernels.launch import Halves, address
from lucid.kernels.runtime import memory, threads

Array = np.ndarray[Any, Any]

#: Frequencies of a task of products.
_PART, _LEAST_PART = 64, 8
#: Transforms that a thread takes at once where there are many: each asks for what the next one reads and writes.
_CHUNK = 4
#: Frequencies of a task of a weight gradient's sums, few, so that its rows stay in the first level cache for the next
#: tasks, which are in its chunk.
_SUMMED_PART, _SUMMED_CHUNK = 8, 16


@dataclass(frozen=True, slots=True)
class Step:
    """One of a region's steps: its entry, its tasks, its numbers; a pointer's are the bytes from the usual place."""

    entry: str
    numbers: dict[str, int]
    tasks: int
    chunk: int = 1


def _transforming(entry: str, numbers: dict[str, int], tasks: int) -> Step:
    """A step of transforms, several of them in a row on a thread if there are enough for all.

    Only then does one ask for the next one's block, which another thread would be writing to.
    """
    chunk = max(1, min(_CHUNK, tasks // 8))
    return Step(entry, numbers | {"next": numbers["region"] if chunk > 1 else 0}, tasks, chunk)


class FourierConvolution:
    """A bound plan: the steps of one region, each with its slots."""

    def __init__(self, cut: Cut, isa: ISA) -> None:
        problem = cut.problem
        self._cut = cut
        slots = list(fft_kernel.fields(BY_DTYPE[problem.dtype]))
        self._plan = steps(cut.n, isa.registers, cut.number_bytes, cut.dtype)
        self.keeps = problem.role != "grad_weight"
        self._code = {
            name: fft_kernel.address(name, problem.dtype, problem.epilogue, cut.dilation) for name in fft_kernel.CODE
        }
        made = list(self._result() if self.keeps else self._weight_gradient())
        self._rows = np.array([[step.numbers.get(slot, 0) for slot in slots] for step in made], np.int64)
        self._steps = [(fft_kernel.address(step.entry, problem.dtype), step.tasks, step.chunk) for step in made]
        self._made_first = cut.pieces if self.keeps else 0  #: steps that make the spectra of weights

    def __call__(self, *arrays: Array | None) -> None:
        if not self.keeps:
            x, g, gw, *_ = arrays
            self._run(slice(None), self._cut.packed_bytes, x=x, y=g, to=gw)
        else:
            x, w, bias, y, *rest = arrays
            self._run(slice(None), self._cut.packed_bytes, x=x, w=w, bias=bias, to=y, **_ending(rest[1:]))

    def halves(self) -> Halves | None:
        """What makes the spectra of weights, and what computes from them."""
        return Halves(self._make, self._compute, self._cut.packed_bytes) if self.keeps else None

    def _make(self, x: Array | None, w: Array, bias: Array | None, y: Array | None, kept: Array) -> None:
        self._run(slice(self._made_first), 0, w=w, filters=kept)

    def _compute(self, x: Array, w: Array, bias: Array | None, y: Array, kept: Array, *rest: Array | None) -> None:
        self._run(slice(self._made_first, None), 0, x=x, bias=bias, to=y, filters=kept, **_ending(rest))

    def _numbers(self, piece: int = 0) -> dict[str, int]:
        """What the slots hold for a piece of the kernel but pointers into arrays, and what a step works on."""
        cut, problem = self._cut, self._cut.problem
        forward, (channels, results), taps = problem.role != "grad_input", cut.channels, problem.spec.kernel[2]
        row_step, sum_step = (problem.group_in, 1) if forward else (1, problem.group_in)
        numbers = dict(
            n=cut.n, k=min(cut.taps, taps - piece * cut.taps), taps=taps, tap=piece * cut.taps, step=cut.dilation,
            valid=cut.valid, blocks_each=cut.each, blocks=cut.blocks, out=cut.out, pairs=cut.pairs, own=cut.own_bytes,
            region=cut.region, first=0 if forward else cut.taps - 1, channels=channels, results=results, rows=cut.rows,
            row_step=row_step, sum_step=sum_step, group_step=problem.group_in * problem.group_out,
            sign=-1 if forward else 1, step_count=len(self._plan.forward),
            part=_PART, parts=ceil(cut.n / _PART), forward_steps=address(self._plan.forward),
            inverse_steps=address(self._plan.inverse), twiddles=address(self._plan.twiddles), **self._code,
        )  # fmt: skip
        for which, samples in zip("xy", cut.sides(piece), strict=True):
            numbers |= {f"{which}_{field}": getattr(samples, field) for field in fft_kernel.SAMPLES}
        return numbers

    def _result(self) -> Iterator[Step]:
        """Forward and input gradient: filters, then a block of pairs and groups after the other."""
        cut, shares = self._cut, self._cut.shares
        groups, (channels, results) = cut.problem.groups, cut.channels
        every = [self._numbers(piece) for piece in range(cut.pieces)]
        for piece, numbers in enumerate(every):
            numbers["filters"] = piece * cut.row_vectors * cut.region_bytes
            yield _transforming("filters", numbers, cut.row_vectors)
        if shares is None:
            yield Step("one_to_one", every[0], groups * results * cut.pairs)
            return
        kept = cut.pieces == 1 and shares.channels == channels
        for pair, group in product(spans(cut.pairs, shares.pairs), spans(groups, shares.groups)):
            each = pair[1] * group[1]
            for result in spans(results, shares.results):
                for piece, channel in product(range(cut.pieces), spans(channels, shares.channels)):
                    chosen = every[piece] | _chosen(pair=pair, group=group, result=result, channel=channel)
                    if not kept or result[0] == 0:
                        yield _transforming("spectra_x", chosen, each * channel[1])
                    more = piece > 0 or channel[0] > 0
                    part = self._part(channel[1])
                    numbers = chosen | {"more": more, "part": part}
                    yield Step("products", numbers, each * ceil(cut.n / part))
                yield _transforming("results", chosen, each * result[1])

    def _part(self, channels: int) -> int:
        """Frequencies of a task of products: of so many channels they fit a quarter of the second level cache."""
        cut = self._cut
        room = target.cpu().l2_bytes // 4 // (channels * cut.number_bytes)
        return max(_LEAST_PART, min(_PART, room // _LEAST_PART * _LEAST_PART))

    def _weight_gradient(self) -> Iterator[Step]:
        """Pieces of the kernel, groups and channels one after the other; for each, all pairs and results."""
        cut, shares = self._cut, self._cut.shares
        (channels, results), groups = cut.channels, cut.problem.groups
        for piece in range(cut.pieces):
            numbers = self._numbers(piece)
            if shares is None:
                yield Step("weights_at_once", numbers, cut.row_vectors)
                continue
            for group, channel in product(spans(groups, shares.groups), spans(channels, shares.channels)):
                place, kept = 0, []
                for result in spans(results, shares.results):
                    chosen = _chosen(group=group, channel=channel, result=result)
                    chosen |= self._sum_numbers(channel[1], result[1])
                    kept.append(numbers | chosen | {"filters": place * cut.region_bytes})
                    place += cut.sum_vectors(channel[1], result[1])
                yield from self._sums(kept)
                for chosen in kept:
                    rows = chosen["inner_padded"] * chosen["outer"] * group[1]
                    yield Step("weights", chosen, ceil(rows / cut.lanes))

    def _sums(self, kept: list[dict[str, int]]) -> Iterator[Step]:
        """The sums over all pairs: spectra of x, and for each part of the results those of g."""
        cut, shares = self._cut, self._cut.shares
        assert shares is not None, "sums are kept where spectra are"
        for pair in spans(cut.pairs, shares.pairs):
            for chosen in kept:
                part = chosen | _chosen(pair=pair) | {"more": pair[0] > 0}
                each = pair[1] * chosen["group_count"]
                if chosen is kept[0]:
                    yield _transforming("spectra_x", part, each * chosen["channel_count"])
                yield _transforming("spectra_y", part, each * chosen["result_count"])
                groups = chosen["inner_padded"] * chosen["outer"] * chosen["group_count"] // cut.width
                part |= {"row_groups": groups, "part": _SUMMED_PART, "parts": ceil(cut.n / _SUMMED_PART)}
                yield Step("correlations", part, groups * part["parts"], _SUMMED_CHUNK)

    def _sum_numbers(self, channels: int, results: int) -> dict[str, int]:
        """How rows of weights are numbered where they are summed; see the kernel."""
        swapped, each = channels < results, self._cut.channels[0]
        inner, outer = (results, channels) if swapped else (channels, results)
        inner_step, outer_step = (each, 1) if swapped else (1, each)
        padded = ceil(inner / self._cut.width) * self._cut.width
        return dict(
            inner=inner, outer=outer, inner_padded=padded, inner_step=inner_step, outer_step=outer_step,
            shared_is_x=swapped,
        )  # fmt: skip

    def _run(self, which: slice, packed_bytes: int, **arrays: Array | None) -> None:
        """Some of the steps, as one region. The workspace begins with so much for the spectra of weights."""
        cut, rows, entries = self._cut, self._rows[which].copy(), self._steps[which]
        crew = threads.get_num_threads() if max(tasks for _, tasks, _ in entries) > 1 else 1
        shared = packed_bytes + sum(cut.spectra) * cut.region_bytes
        workspace = memory.region(shared, cut.own_bytes, crew)
        begin = address(workspace)
        spectra = begin + packed_bytes
        others = spectra + cut.spectra[0] * cut.region_bytes
        places = {"filters": begin, "spectra": spectra, "others": others, "scratch": begin + shared}
        places |= {name: 0 if array is None else address(array) for name, array in arrays.items()}
        rows[:, : len(fft_kernel.POINTERS)] += [places.get(name, 0) for name in fft_kernel.POINTERS]
        first, each = address(rows), rows.strides[0]
        placed = [(entry, first + k * each, tasks, chunk) for k, (entry, tasks, chunk) in enumerate(entries)]
        threads.run_steps(placed, threads=crew)


def _ending(arrays: Sequence[Array | None]) -> dict[str, Array | None]:
    """The arrays that an epilogue takes by name."""
    return dict(zip(ARGUMENTS, arrays, strict=False))


def _chosen(**spans: tuple[int, int]) -> dict[str, int]:
    """The slots of what a step works on."""
    return {f"{name}_{field}": span[k] for name, span in spans.items() for k, field in enumerate(("begin", "count"))}
