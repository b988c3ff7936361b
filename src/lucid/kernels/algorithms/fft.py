"""Convolution along one axis by Fourier transforms of overlapping blocks (overlap-save), for long kernels.

A block of n samples gives n - k + 1 sums for one transform each way, instead of k products each. Forward, input
gradient and weight gradient; a dilation d makes d sequences of every d-th sample.

Errors grow with log n, see ``error_growth``. A NaN or an infinity may reach all sums of the blocks that it lies in, and
of their partners: two blocks are transformed at once.

Source: Stockham, "High-speed convolution and correlation", 1966; ``fft_kernel`` and ``fft_transform`` have the rest.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, log2, prod
from typing import Any

import numpy as np

from lucid.kernels import jit, target
from lucid.kernels.algorithms import fft_kernel
from lucid.kernels.algorithms.base import Executable
from lucid.kernels.algorithms.fft_transform import steps
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA
from lucid.kernels.launch import address
from lucid.kernels.plan import Plan, Problem
from lucid.kernels.runtime import memory, threads

Array = np.ndarray[Any, Any]

name = "fft"

_SMALLEST, _LARGEST = 64, 1 << 18
#: Sizes tried, from the smallest that holds the kernel.
_DOUBLINGS = 6
#: Frequencies of a task of products.
_PART = 64

# Least squares over 110 plans of 28 problems, the fastest of several runs, on one core at 4 GHz: half are within
# 20 %. A tenth is added, since the model should not choose what it is not sure of.
_CALL_NS = 6000.0
_COST_NS = {
    "butterfly": 0.5,  # a vector of pairs, one doubling of the size
    "load": 2.9,  # a vector of pairs
    "store": 1.5,
    "multiply": 0.5,  # in place
    "product": 0.75,  # of vectors of pairs, where they are summed
    "lane sum": 2.3,
    "task": 70.0,
    "byte": 0.014,  # of the workspace
    "traffic": 0.03,  # a byte of x, w and y, from the third level cache
    "traffic far": 0.06,  # from beyond, or from a quarter of it, which is shared
    "filter read far": 0.035,  # a byte, read again for every vector of pairs
    "spectrum read far": 0.007,  # a byte, read again for every row of weights
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
    if 2 * spec.kernel[2] > _LARGEST:
        return f"its blocks of {_LARGEST} samples are too short for {spec.kernel[2]} taps"
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
class Cut:
    """A problem in blocks of n: ``valid`` sums each, ``each`` of them to a sequence."""

    problem: Problem
    n: int
    lanes: int

    @property
    def taps(self) -> int:
        """Along the axis."""
        return self.problem.spec.kernel[2]

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
    def channels(self) -> tuple[int, int]:
        """Of a group: summed and resulting ones; of x and of y in the weight gradient."""
        pair = (self.problem.group_in, self.problem.group_out)
        return pair[::-1] if self.problem.role == "grad_input" else pair

    @property
    def at_once(self) -> bool:
        """Whether a weight gradient's rows share no channel, and are enough for tasks: spectra are used once."""
        problem = self.problem
        return problem.role == "grad_weight" and {problem.group_in, problem.group_out} == {1} and self.row_vectors >= 4

    @property
    def single(self) -> bool:
        """Whether results are of one channel each, so that nothing but filters leaves the cache."""
        return self.problem.role != "grad_weight" and self.channels[0] == 1

    def samples(self, which: str) -> Samples:
        """Of x, y or g, as the role reads or writes them."""
        problem, low = self.problem, self.problem.spec.padding[2][0]
        size, out = problem.size[2], problem.out[2]
        if which == "x":
            return Samples(size, problem.c_in * size, size, -low, self.taps - 1)
        return Samples(out, problem.c_out * out, out, 0, 0)

    def sides(self) -> tuple[Samples, Samples]:
        """What is transformed first, and what is stored."""
        x, y = self.samples("x"), self.samples("y")
        if self.problem.role != "grad_input":
            return x, y
        offset = self.problem.spec.padding[2][0] - (self.taps - 1) * self.dilation
        return (
            Samples(y.plane, y.image, y.size, offset, self.taps - 1),
            Samples(x.plane, x.image, x.size, 0, 0),
        )

    def shares(self) -> tuple[int, int, int]:
        """Elements of the workspace: filters, spectra, products of spectra."""
        if self.problem.role == "grad_weight":
            c_in, c_out = (0, 0) if self.at_once else (self.problem.c_in, self.problem.c_out)
            return 0, self.pairs * c_in * self.region, self.pairs * c_out * self.region
        filters = self.row_vectors * self.region
        if self.single:
            return filters, 0, 0
        each = self.pairs * self.problem.groups * self.region
        return filters, each * self.channels[0], each * self.channels[1]

    @property
    def own_bytes(self) -> int:
        """A thread's part of the workspace: two tables of rows and a block, or four for a weight gradient."""
        blocks = {"grad_weight": 2}.get(self.problem.role, 1) + 2 * self.at_once
        tables = 2 * fft_kernel.ROW * 2 * self.lanes * 8
        return -(-(tables + blocks * self.region * self.problem.itemsize) // memory.ALIGN_BYTES) * memory.ALIGN_BYTES


def _cuts(problem: Problem, isa: ISA) -> Iterator[Cut]:
    taps, lanes = problem.spec.kernel[2], isa.lanes(BY_DTYPE[problem.dtype])
    first = max(_SMALLEST, 1 << taps.bit_length())
    for doubling in range(_DOUBLINGS):
        n = first << doubling
        if doubling and n > _LARGEST:
            return
        yield Cut(problem, n, lanes)
        if n - taps >= -(-problem.out[2] // problem.spec.dilation[2]) * 2:
            return


def _work(cut: Cut) -> dict[str, float]:
    """What one thread does, counted in the units of ``_COST_NS``."""
    problem, n, bits = cut.problem, cut.n, log2(cut.n)
    if problem.role == "grad_weight":
        into, back = cut.pairs * (problem.c_in + problem.c_out), cut.row_vectors
        summed, multiplied, filters = cut.pairs * cut.rows, 0, 0
    else:
        into, back = (cut.pairs * problem.groups * channels for channels in cut.channels)
        if cut.single:
            into = back
        summed = 0 if cut.single else cut.pairs * cut.rows
        multiplied, filters = back if cut.single else 0, cut.row_vectors
    far = " far" if problem.traffic_bytes > target.cpu().l3_bytes // 4 else ""
    shares = [share * problem.itemsize for share in cut.shares()]
    return {
        "butterfly": n * bits * (into + back + filters),
        "load": n * (into + filters),
        "store": n * back,
        "multiply": n * (multiplied + filters),
        "product": n * summed,
        "lane sum": n * cut.rows if problem.role == "grad_weight" else 0,
        "task": into + back + filters,
        "byte": sum(shares),
        f"traffic{far}": problem.traffic_bytes,
        "filter read far": shares[0] * cut.pairs if _far(shares[0]) and not cut.single else 0,
        "spectrum read far": 2 * summed * cut.region * problem.itemsize
        if problem.role == "grad_weight" and _far(shares[1] + shares[2])
        else 0,
    }


def _far(size_bytes: int) -> bool:
    """Whether so much outgrows the second level cache."""
    return size_bytes > target.cpu().l2_bytes


def _expected_ns(cut: Cut) -> float:
    return _CALL_NS + sum(count * _COST_NS[unit] for unit, count in _work(cut).items())


def plan(problem: Problem, isa: ISA) -> Plan:
    """The block size that is expected to be fastest."""
    cut = min(_cuts(problem, isa), key=_expected_ns)
    return _planned(cut, isa)


def _planned(cut: Cut, isa: ISA) -> Plan:
    return Plan(
        name,
        cut.problem,
        isa.name,
        _expected_ns(cut),
        tile=(("lanes", cut.lanes),),
        blocking=(("n", cut.n), ("valid", cut.valid), ("pairs", cut.pairs)),
        workspace_bytes=sum(cut.shares()) * cut.problem.itemsize + cut.own_bytes,
        why=f"blocks of {cut.n} samples for {cut.valid} sums, {cut.blocks} a channel, {2 * cut.lanes} at once",
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
    return FourierConvolution(Cut(plan.problem, plan["n"], plan["lanes"]), isa)


class FourierConvolution:
    """A bound plan: the steps of one region, each with its slots."""

    def __init__(self, cut: Cut, isa: ISA) -> None:
        problem = cut.problem
        self._code = jit.kernel(("fft", problem.dtype), lambda isa: fft_kernel.write(problem.dtype, isa))
        self._cut, self._item = cut, problem.itemsize
        self._slots = list(fft_kernel.fields(BY_DTYPE[problem.dtype]))
        self._plan = steps(cut.n, isa.registers, 2 * cut.lanes * problem.itemsize, problem.dtype)
        self._shares = [share * problem.itemsize for share in cut.shares()]
        weight_gradient = problem.role == "grad_weight"
        self._steps = self._weight_gradient() if weight_gradient else self._result()
        self._call: Executable = self._for_weights if weight_gradient else self._for_results

    def __call__(self, *arrays: Array | None) -> None:
        self._call(*arrays)

    def _numbers(self, x: Samples, y: Samples, source_channels: int) -> dict[str, int]:
        """What the slots hold but pointers into arrays."""
        cut, problem = self._cut, self._cut.problem
        forward, taps = problem.role != "grad_input", cut.taps
        channels, results = cut.channels
        row_step, sum_step = (problem.group_in, 1) if forward else (1, problem.group_in)
        numbers = dict(
            n=cut.n, k=taps, step=cut.dilation, valid=cut.valid, blocks_each=cut.each, blocks=cut.blocks, out=cut.out,
            pairs=cut.pairs, own=cut.own_bytes, region=cut.region, first=0 if forward else taps - 1, channels=channels,
            results=results, groups=problem.groups, rows=cut.rows, row_step=row_step, sum_step=sum_step,
            group_step=problem.group_in * problem.group_out, sign=-1 if forward else 1,
            step_count=len(self._plan.forward), part=_PART, parts=ceil(cut.n / _PART), source_channels=source_channels,
            forward_steps=address(self._plan.forward), inverse_steps=address(self._plan.inverse),
            twiddles=address(self._plan.twiddles),
        )  # fmt: skip
        for which, samples in (("x", x), ("y", y)):
            numbers |= {f"{which}_{field}": getattr(samples, field) for field in fft_kernel.SAMPLES}
        return numbers

    def _result(self) -> list[tuple[int, dict[str, int], int]]:
        """Entry, numbers and tasks of each step of forward and input gradient."""
        cut = self._cut
        groups, (channels, results) = cut.problem.groups, cut.channels
        numbers = self._numbers(*cut.sides(), channels * groups)
        filters = (self._code.address("filters"), numbers, cut.row_vectors)
        if cut.single:
            return [filters, (self._code.address("one_to_one"), numbers, groups * results * cut.pairs)]
        return [
            filters,
            (self._code.address("spectra"), numbers, cut.pairs * groups * channels),
            (self._code.address("products"), numbers, cut.pairs * groups * numbers["parts"]),
            (self._code.address("results"), numbers, cut.pairs * groups * results),
        ]

    def _weight_gradient(self) -> list[tuple[int, dict[str, int], int]]:
        cut, problem = self._cut, self._cut.problem
        if cut.at_once:
            numbers = self._numbers(cut.samples("x"), cut.samples("y"), 0)
            return [(self._code.address("weights_at_once"), numbers, cut.row_vectors)]
        x, g, spectra = cut.samples("x"), cut.samples("y"), self._code.address("spectra")
        return [
            (spectra, self._numbers(x, x, problem.c_in), cut.pairs * problem.c_in),
            (spectra, self._numbers(g, g, problem.c_out), cut.pairs * problem.c_out),
            (self._code.address("weights"), self._numbers(x, g, 0), cut.row_vectors),
        ]

    def _for_results(self, x: Array, w: Array, bias: Array | None, y: Array) -> None:
        arrays = {"x": address(x), "w": address(w), "to": address(y), "bias": 0 if bias is None else address(bias)}
        self._run([arrays] * len(self._steps))

    def _for_weights(self, x: Array, g: Array, gw: Array) -> None:
        arrays = {"x": address(x), "y": address(g), "to": address(gw)}
        if self._cut.at_once:
            self._run([arrays])
        else:
            self._run([arrays, arrays | {"x": address(g), "spectra": 1}, arrays])

    def _run(self, pointers: list[dict[str, int]]) -> None:
        """One region. ``spectra`` in a step's pointers says that it writes those of the second array."""
        crew = threads.get_num_threads() if max(tasks for *_, tasks in self._steps) > 1 else 1
        workspace = memory.workspace(sum(self._shares) + crew * self._cut.own_bytes, 1)
        filters = address(workspace)
        spectra = filters + self._shares[0]
        others = spectra + self._shares[1]
        shared = {"filters": filters, "spectra": spectra, "others": others, "scratch": others + self._shares[2]}
        steps = []
        for (entry, numbers, tasks), own in zip(self._steps, pointers, strict=True):
            slots = numbers | shared | own
            if own.get("spectra"):
                slots["spectra"] = others
            fields = (ctypes.c_int64 * len(self._slots))(*[slots.get(slot, 0) for slot in self._slots])
            steps.append((entry, fields, tasks, 1))
        threads.run_steps(steps, threads=crew)
