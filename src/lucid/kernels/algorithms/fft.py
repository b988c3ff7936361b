"""Convolution along one axis by Fourier transforms of overlapping blocks (overlap-save), for long kernels.

A block of n samples gives n - k + 1 sums for one transform each way, instead of k products each. Forward, input
gradient and weight gradient; a dilation d makes d sequences of every d-th sample.

Errors grow with log n, see ``error_growth``. A NaN or an infinity may reach all sums of the blocks that it lies in, and
of their partners: two blocks are transformed at once.

Source: Stockham, "High-speed convolution and correlation", 1966; ``fft_kernel`` and ``fft_transform`` have the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from math import ceil, log2, prod
from typing import Any

import numpy as np

from lucid.kernels import jit, target
from lucid.kernels.algorithms import fft_kernel
from lucid.kernels.algorithms.base import Executable
from lucid.kernels.algorithms.fft_kernel import RESULTS
from lucid.kernels.algorithms.fft_transform import steps
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA
from lucid.kernels.launch import address
from lucid.kernels.plan import WORKSPACE_BYTES, Plan, Problem
from lucid.kernels.runtime import memory, threads

Array = np.ndarray[Any, Any]

name = "fft"

_SMALLEST, _LARGEST = 64, 1 << 14
#: Sizes tried, from the smallest that holds the kernel; and from where on shorter ones, for pieces of the kernel.
_DOUBLINGS, _PIECED_FROM = 6, 1024
#: Frequencies of a task of products.
_PART, _LEAST_PART = 64, 8
#: Transforms that a thread takes at once where there are many: each asks for what the next one reads and writes.
_CHUNK = 4
#: Frequencies of a task of a weight gradient's sums, few, so that its rows stay in the first level cache for the next
#: tasks, which are in its chunk.
_SUMMED_PART, _SUMMED_CHUNK = 8, 16

# Least squares over 363 plans of 30 problems, the quickest quarter of several runs, on one core: half are within 10 %.
# All times 1.2, which is how far the other algorithms' times were from theirs on that machine.
_CALL_NS = 7900.0
_COST_NS = {
    "butterfly": 0.51,  # a vector of pairs, one doubling of the size
    "load": 2.9,  # a vector of pairs
    "store": 1.9,
    "scattered": 9.0,  # of either, sample by sample where there is a dilation
    "multiply": 0.2,  # in place
    "product": 0.77,  # of vectors of pairs, where they are summed
    "lane sum": 0.77,
    "again": 6.6,  # a vector of sums, taken up again
    "task": 90.0,
    "step": 1650.0,  # of a region
    "byte": 0.0085,  # of the workspace
    "traffic": 0.0055,  # a byte of x, w and y, from the third level cache
    "traffic far": 0.028,  # from beyond, or from a quarter of it, which is shared
    "filter read far": 0.2,  # a byte beyond that quarter, read again for every vector of pairs
}


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Planes and volumes, strides, half precision."""
    spec = problem.spec
    if problem.dtype not in ("float32", "float64"):
        return f"it computes float32 and float64, not {problem.dtype}"
    if spec.stride[2] != 1:
        return f"it computes every sum, and the stride is {spec.stride[2]}"
    lines = {problem.size[:2], problem.out[:2], spec.kernel[:2]}
    if lines != {(1, 1)} or spec.padding[:2] != ((0, 0), (0, 0)):
        return f"it transforms lines, not {spec.kernel} over {problem.size}"
    return None


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
            return cls(1, 1, channels, min(-(-_even(results, most) // RESULTS) * RESULTS, most))
        if results + 2 <= room:
            return cls(1, 1, _even(channels, room - results), results)
        if room < 2:
            return None
        summed = max(1, room // 4)
        return cls(1, 1, _even(channels, summed), _even(results, room - summed))


def _even(count: int, most: int) -> int:
    """Parts of a count, as many as parts of at most ``most`` are, and no larger than need be."""
    return ceil(count / ceil(count / min(count, most)))


def _spans(count: int, each: int) -> Iterator[tuple[int, int]]:
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
    def region_bytes(self) -> int:
        return self.region * self.problem.itemsize

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
        return sum(self.sum_vectors(channels, count) for _, count in _spans(results, self.shares.results))

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
        tables = 2 * fft_kernel.ROW * 2 * self.lanes * 8
        return -(-(tables + blocks * self.region_bytes) // memory.ALIGN_BYTES) * memory.ALIGN_BYTES

    @property
    def packed_bytes(self) -> int:
        return self.filters * self.region_bytes

    @property
    def working_bytes(self) -> int:
        """Beside the filters, for one thread."""
        return sum(self.spectra) * self.region_bytes + self.own_bytes


def _cuts(problem: Problem, isa: ISA) -> Iterator[Cut]:
    for cut in _sizes(problem, isa):
        yield from _within(cut)


def _within(cut: Cut) -> Iterator[Cut]:
    """The cut with shares that keep it within the bound of the workspace, if there are any."""
    room = (WORKSPACE_BYTES - replace(cut, shares=_NOTHING).own_bytes) // cut.region_bytes
    if cut.alone:
        tried: list[Shares | None] = [None]
    elif cut.problem.role == "grad_weight":
        # The more pairs at once, the fewer times lanes are summed.
        several = {min(cut.pairs, count) for count in (1, 2, 4, 8, cut.pairs)}
        tried = [_for_pairs(cut, count, room) for count in sorted(several)]
    else:
        tried = [Shares.fitting(cut.problem, *cut.channels, cut.pairs, room)]
    for shares in tried:
        made = replace(cut, shares=shares)
        if (cut.alone or shares) and made.working_bytes <= WORKSPACE_BYTES:
            yield made


#: What a cut shares that is not decided yet.
_NOTHING = Shares(0, 0, 0, 0)


def _for_pairs(cut: Cut, pairs: int, room: int) -> Shares | None:
    shares = Shares.fitting(cut.problem, *cut.channels, 1, room // pairs)
    return replace(shares, pairs=pairs) if shares else None


def _sizes(problem: Problem, isa: ISA) -> Iterator[Cut]:
    """Blocks that hold the whole kernel, then shorter ones for its pieces."""
    taps, element = problem.spec.kernel[2], BY_DTYPE[problem.dtype]
    lanes, width = isa.lanes(element), fft_kernel.rows_at_once(isa, element)
    first = max(_SMALLEST, 1 << taps.bit_length())
    for n in (first << doubling for doubling in range(_DOUBLINGS)):
        if n > _LARGEST:
            break
        yield Cut(problem, n, taps, lanes, width)
        if n - taps >= -(-problem.out[2] // problem.spec.dilation[2]) * 2:
            break
    n = _PIECED_FROM
    while n < min(first, 2 * _LARGEST):
        yield Cut(problem, n, _even(taps, n // 2), lanes, width)
        n *= 2


def _work(cut: Cut) -> dict[str, float]:
    """What one thread does, counted in the units of ``_COST_NS``."""
    problem, n, bits, pieces = cut.problem, cut.n, log2(cut.n), cut.pieces
    into, back, again, steps = _transforms(cut)
    forward = problem.role != "grad_weight"
    lane_sums = 0.0
    if cut.shares and not forward:
        rows = problem.groups * sum(
            cut.padded(channels, results)
            for _, channels in _spans(cut.channels[0], cut.shares.channels)
            for _, results in _spans(cut.channels[1], cut.shares.results)
        )
        lane_sums = pieces * rows * ceil(cut.pairs / cut.shares.pairs)
        summed = float(cut.pairs * rows * pieces)
    else:
        summed = 0 if forward and not cut.shares else cut.pairs * cut.rows * pieces
    multiplied = back if forward and not cut.shares else 0
    filters = cut.filters if forward else 0
    far = " far" if _far(problem.traffic_bytes) else ""
    return {
        "butterfly": n * bits * (into + back + filters),
        "load": n * (into + filters),
        "store": n * back,
        "scattered": n * (into + back * forward) if cut.dilation > 1 else 0,
        "multiply": n * (multiplied + filters),
        "product": n * summed,
        "lane sum": n * (lane_sums if cut.shares else cut.rows if not forward else 0),
        "again": n * again,
        "step": steps,
        "task": into + back + filters,
        "byte": cut.packed_bytes + cut.working_bytes,
        f"traffic{far}": problem.traffic_bytes,
        "filter read far": cut.packed_bytes * cut.pairs if forward and cut.shares and _far(cut.packed_bytes) else 0,
    }


def _transforms(cut: Cut) -> tuple[float, float, float, float]:
    """Vectors transformed forward but for filters, and back; of sums taken up again; steps of the region."""
    problem, shares, (channels, results) = cut.problem, cut.shares, cut.channels
    pairs, groups, pieces = cut.pairs, problem.groups, cut.pieces
    if problem.role == "grad_weight" and shares is None:
        return 2 * pairs * cut.rows * pieces, cut.row_vectors * pieces, 0, pieces
    if shares is None:
        return pairs * groups * results, pairs * groups * results, 0, 2
    several = ceil(pairs / shares.pairs) * ceil(groups / shares.groups)
    parts, result_parts = ceil(channels / shares.channels), ceil(results / shares.results)
    if problem.role == "grad_weight":
        into = pairs * groups * pieces * (channels + results * parts)
        vectors = pieces * ceil(groups / shares.groups) * parts * cut.filters
        return into, vectors, 0, several * pieces * parts * (1 + 2 * result_parts)
    again = result_parts if parts * pieces > 1 else 1
    steps = pieces + several * (1 + result_parts * (2 * parts * pieces + 1))
    into = pairs * groups * channels * pieces * again
    return into, pairs * groups * results, pairs * groups * results * (parts * pieces - 1), steps


def _far(size_bytes: int) -> bool:
    """Whether so much outgrows a quarter of the third level cache."""
    return size_bytes > target.cpu().l3_bytes // 4


def _expected_ns(cut: Cut) -> float:
    return _CALL_NS + sum(count * _COST_NS[unit] for unit, count in _work(cut).items())


def plan(problem: Problem, isa: ISA) -> Plan:
    """The block size that is expected to be fastest."""
    cut = min(_cuts(problem, isa), key=_expected_ns)
    return _planned(cut, isa)


def _planned(cut: Cut, isa: ISA) -> Plan:
    whole = "" if cut.pieces == 1 else f" of each of {cut.pieces} pieces of the kernel"
    return Plan(
        name,
        cut.problem,
        isa.name,
        _expected_ns(cut),
        tile=(("lanes", cut.lanes), ("width", cut.width)),
        blocking=(("n", cut.n), ("taps", cut.taps), *(asdict(cut.shares).items() if cut.shares else ())),
        workspace_bytes=cut.packed_bytes + cut.working_bytes,
        packed_bytes=cut.packed_bytes,
        why=f"blocks of {cut.n} samples for {cut.valid} sums{whole}, {cut.blocks} a channel, {2 * cut.lanes} at once",
    )


def error_growth(plan: Plan) -> float:
    """A result is within so many times the bound of direct summation, where that is largest in its channel.

    The error of a transform is within log2(n) times some 3 units of its norm; so the sum's is within 9 log2(n) + 3 of
    |x| |w|, the product of a block's and the kernel's norms over all channels, whereas direct summation's bound has as
    many units as there are terms. Norms are no more than sums of absolute values, which n windows make up.
    Source: Higham, Accuracy and Stability of Numerical Algorithms, theorem 24.2.
    """
    problem, n = plan.problem, plan["n"]
    terms = {
        "forward": problem.group_in * problem.spec.taps,
        "grad_input": problem.group_out * problem.spec.taps,
        "grad_weight": problem.batch * prod(problem.out),
    }[problem.role]
    return max(1.0, (9 * log2(n) + 3) * n / terms)


def bind(plan: Plan, isa: ISA) -> Executable:
    """The kernels with the problem's numbers."""
    numbers = dict(plan.blocking)
    shares = Shares(*(numbers[name] for name in Shares.__slots__)) if "pairs" in numbers else None
    return FourierConvolution(Cut(plan.problem, plan["n"], plan["taps"], plan["lanes"], plan["width"], shares), isa)


@dataclass(frozen=True, slots=True)
class Step:
    """One of a region's steps: its entry, its tasks, its numbers; a pointer's are the bytes from the usual place."""

    entry: str
    numbers: dict[str, int]
    tasks: int
    chunk: int = 1


def _transforming(entry: str, numbers: dict[str, int], tasks: int) -> Step:
    """A step of transforms, several of them in a row on a thread if there are enough for all."""
    return Step(entry, numbers, tasks, max(1, min(_CHUNK, tasks // 8)))


class FourierConvolution:
    """A bound plan: the steps of one region, each with its slots."""

    def __init__(self, cut: Cut, isa: ISA) -> None:
        problem = cut.problem
        code = jit.kernel(("fft", problem.dtype), lambda isa: fft_kernel.write(problem.dtype, isa))
        self._cut = cut
        slots = list(fft_kernel.fields(BY_DTYPE[problem.dtype]))
        self._plan = steps(cut.n, isa.registers, 2 * cut.lanes * problem.itemsize, problem.dtype)
        made = list(self._weight_gradient() if problem.role == "grad_weight" else self._result())
        self._rows = np.array([[step.numbers.get(slot, 0) for slot in slots] for step in made], np.int64)
        self._steps = [(code.address(step.entry), step.tasks, step.chunk) for step in made]
        self._most_tasks = max(step.tasks for step in made)
        self._call: Executable = self._for_weights if problem.role == "grad_weight" else self._for_results

    def __call__(self, *arrays: Array | None) -> None:
        self._call(*arrays)

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
            inverse_steps=address(self._plan.inverse), twiddles=address(self._plan.twiddles),
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
        for pair, group in product(_spans(cut.pairs, shares.pairs), _spans(groups, shares.groups)):
            each = pair[1] * group[1]
            for result in _spans(results, shares.results):
                for piece, channel in product(range(cut.pieces), _spans(channels, shares.channels)):
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
        room = target.cpu().l2_bytes // 4 // (channels * 2 * cut.lanes * cut.problem.itemsize)
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
            for group, channel in product(_spans(groups, shares.groups), _spans(channels, shares.channels)):
                place, kept = 0, []
                for result in _spans(results, shares.results):
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
        for pair in _spans(cut.pairs, shares.pairs):
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

    def _for_results(self, x: Array, w: Array, bias: Array | None, y: Array) -> None:
        self._run(x=address(x), w=address(w), to=address(y), bias=0 if bias is None else address(bias))

    def _for_weights(self, x: Array, g: Array, gw: Array) -> None:
        self._run(x=address(x), y=address(g), to=address(gw))

    def _run(self, **arrays: int) -> None:
        """One region."""
        cut = self._cut
        crew = threads.get_num_threads() if self._most_tasks > 1 else 1
        shared = cut.packed_bytes + sum(cut.spectra) * cut.region_bytes
        workspace = memory.workspace(shared + crew * cut.own_bytes, 1)
        filters = address(workspace)
        spectra = filters + cut.packed_bytes
        others = spectra + cut.spectra[0] * cut.region_bytes
        arrays |= {"filters": filters, "spectra": spectra, "others": others, "scratch": filters + shared}
        rows = self._rows.copy()
        rows[:, : len(fft_kernel.POINTERS)] += [arrays.get(name, 0) for name in fft_kernel.POINTERS]
        first, each = address(rows), rows.strides[0]
        threads.run_steps(
            [(entry, first + k * each, *tasks) for k, (entry, *tasks) in enumerate(self._steps)], threads=crew
        )


def _chosen(**spans: tuple[int, int]) -> dict[str, int]:
    """The slots of what a step works on."""
    return {f"{name}_{field}": span[k] for name, span in spans.items() for k, field in enumerate(("begin", "count"))}
