"""Kernels that walk along one axis, as many lines side by side as fit: running sums and products, weighted neighbours.

Lines that lie beside each other in memory are vectors as they are. Lines that lie along memory are turned, as many as a
vector has lanes, into scratch of the thread's, walked there, and turned back::

    across   (outer, n, inner): a task is a band of neighbouring lines
    along    (outer, n): a task is as many lines as there are lanes

A line is one task's, from its first element to its last, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lucid.kernels import jit, target
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    convert,
    f64,
    fma,
    i64,
    lanes_below,
    minimum,
    ptr,
    splat,
    vec,
)
from lucid.kernels.isa import ISA
from lucid.kernels.moving import contiguous, write_block
from lucid.kernels.runtime import memory, threads
from lucid.kernels.runtime.memory import address, empty

Array = np.ndarray[Any, Any]

_VECTORS = 4  #: walked together across memory
_BAND = 256  #: lines of a task across memory
_GRAIN = 16384  #: elements of a chunk of tasks, at least
_GEOMETRY = ("lines", "n", "m", "inner", "bands")


@dataclass(frozen=True, slots=True)
class _Column:
    """Some vectors of neighbouring lines: where they begin, the step along the axis, which of them there are."""

    x: Pointer
    y: Pointer
    step: Value
    lanes: int
    vectors: int
    mask: Value | None

    def load(self, k: Value) -> list[Value]:
        """Element k of every line of the source."""
        return [self.x.load(k * self.step + v * self.lanes, self.lanes, self.mask) for v in range(self.vectors)]

    def store(self, k: Value, values: Sequence[Value]) -> None:
        """Element k of every line of the result."""
        for v, value in enumerate(values):
            self.y.store(value, k * self.step + v * self.lanes, self.mask)


@dataclass(frozen=True)
class _Running:
    """y[k] = x[0] ∘ … ∘ x[k], or of x[k] to the last if ``reverse``; kept in float64."""

    name: str
    two: Callable[[Value, Value], Value]
    neutral: float
    reverse: bool = False
    tables: ClassVar[tuple[str, ...]] = ()

    def write(self, f: Function, element: Type, column: _Column) -> None:
        """The code of some lines."""
        first = [f.const(vec(f64, column.lanes), self.neutral)] * column.vectors
        with f.loop(0, f.args.n, carry=first) as loop:
            place = f.args.n - 1 - loop.i if self.reverse else loop.i
            terms = [convert(x, f64) for x in column.load(place)]
            loop.values = [self.two(total, x) for total, x in zip(loop.values, terms, strict=True)]
            column.store(place, [convert(total, element) for total in loop.values])


@dataclass(frozen=True)
class _Weighted:
    """y[o] = the sum over k of weights[o, k] x[first[o] + k]."""

    name: str = "weighted"
    tables: ClassVar[tuple[str, ...]] = ("first", "weights")

    def write(self, f: Function, element: Type, column: _Column) -> None:
        """The code of some lines. The first table has (sample, weight, end of its weights) for every result."""
        a = f.args
        with f.loop(0, a.m) as result:
            sample, start, stop = (a.first.load(result.i * 3 + part) for part in range(3))
            ahead = sample - start
            with f.loop(start, stop, carry=[f.const(vec(element, column.lanes), 0.0)] * column.vectors) as tap:
                weight = splat(a.weights.load(tap.i), column.lanes)
                terms = column.load(ahead + tap.i)
                tap.values = [fma(weight, x, total) for x, total in zip(terms, tap.values, strict=True)]
            column.store(result.i, tap.values)


_Body = _Running | _Weighted


def _sum(a: Value, b: Value) -> Value:
    return a + b


def _product(a: Value, b: Value) -> Value:
    return a * b


_SUMS = tuple(_Running("running_sum", _sum, 0.0, reverse) for reverse in (False, True))
_PRODUCTS = _Running("running_product", _product, 1.0)


def running_sum(x: Array, axis: int, reverse: bool = False) -> Array:
    """The sums of the elements up to each along an axis, or of those from each on; float32 or float64.

    >>> running_sum(np.arange(4, dtype="f"), 0), running_sum(np.arange(4, dtype="f"), 0, reverse=True)
    (array([0., 1., 3., 6.], dtype=float32), array([6., 6., 5., 3.], dtype=float32))
    """
    return _walked(_SUMS[reverse], x, axis, x.shape[axis])


def running_product(x: Array, axis: int) -> Array:
    """The products of the elements up to each along an axis."""
    return _walked(_PRODUCTS, x, axis, x.shape[axis])


class Band:
    """A matrix (m, n) whose rows have their nonzeros side by side, and its transpose, which is one too.

    Given by its nonzeros: values at (row, column); those at one place add up.

    >>> Band(2, 3, [0, 0, 1], [0, 1, 2], [0.5, 0.5, 1.0]).apply(np.array([2.0, 4.0, 7.0]), 0)
    array([3., 7.])
    """

    def __init__(self, m: int, n: int, rows: Any, columns: Any, values: Any) -> None:
        self.m, self.n = m, n
        self._places = np.asarray(rows, np.int64).reshape(-1), np.asarray(columns, np.int64).reshape(-1)
        self._values = np.asarray(values, np.float64).reshape(-1)
        self._tables: dict[np.dtype[Any], tuple[Array, Array]] = {}
        self._transposed: Band | None = None

    @property
    def transposed(self) -> Band:
        """The band (n, m)."""
        if self._transposed is None:
            rows, columns = self._places
            self._transposed = Band(self.n, self.m, columns, rows, self._values)
            self._transposed._transposed = self
        return self._transposed

    def tables(self, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """(sample, weight, end of the weights) for every row, and the weights of all."""
        if dtype not in self._tables:
            rows, columns = self._places
            first, last = np.full(self.m, self.n), np.full(self.m, -1)
            np.minimum.at(first, rows, columns)
            np.maximum.at(last, rows, columns)
            counts = np.maximum(last - first + 1, 0)
            ends = np.cumsum(counts)
            weights = np.zeros(max(int(counts.sum()), 1))
            np.add.at(weights, (ends - counts)[rows] + columns - first[rows], self._values)
            places = np.stack([np.where(counts, first, 0), ends - counts, ends], axis=1)
            self._tables[dtype] = np.ascontiguousarray(places, np.int64), weights.astype(dtype)
        return self._tables[dtype]

    def apply(self, x: Array, axis: int) -> Array:
        """The matrix times every line of float32 or float64 along an axis of n elements, which has m then."""
        return _walked(_WEIGHTED, x, axis, self.m, self.tables(x.dtype))


_WEIGHTED = _Weighted()


def _walked(body: _Body, x: Array, axis: int, m: int, tables: Sequence[Array] = ()) -> Array:
    """What ``body`` makes of the lines of ``x`` along ``axis``: as many, of m elements."""
    axis %= x.ndim
    x = contiguous(x)
    y = empty((*x.shape[:axis], m, *x.shape[axis + 1 :]), x.dtype)
    if not y.size:
        return y
    plan = _plan(body, x.shape[:axis], x.shape[axis], m, x.shape[axis + 1 :], x.dtype.name, target.isa().name)
    crew = threads.get_num_threads()
    scratch = memory.workspace(plan.scratch_bytes, crew) if plan.scratch_bytes else None
    places = [address(a) for a in (x, y, *tables)]
    work, row = (0, 0) if scratch is None else (address(scratch), scratch.strides[0] // x.itemsize)
    slots = plan.pack(*places, work, *plan.geometry, row)
    threads.run(plan.entry, slots, plan.tasks, chunk=plan.chunk, threads=crew)
    return y


class _Plan(NamedTuple):
    """All that a call with arrays of known shapes needs; ``scratch_bytes`` are a thread's."""

    entry: int
    pack: Callable[..., bytes]
    geometry: tuple[int, ...]
    tasks: int
    chunk: int
    scratch_bytes: int


@lru_cache(maxsize=1024)
def _plan(body: _Body, before: tuple[int, ...], n: int, m: int, after: tuple[int, ...], dtype: str, isa: str) -> _Plan:
    outer, inner, element = prod(before), prod(after), BY_DTYPE[dtype]
    lanes = target.isa().lanes(element)
    along = inner == 1 and lanes > 1
    kernel = _Kernel(body, dtype, along)
    bands = 1 if along else -(-inner // _BAND)
    work = max(n, m) * (lanes if along else min(inner, _BAND))
    return _Plan(
        entry=jit.kernel(kernel, kernel.write).address("run"),
        pack=struct.Struct(f"{3 + len(body.tables) + len(_GEOMETRY) + 1}q").pack,
        geometry=(outer, n, m, inner, bands),
        tasks=-(-outer // lanes) if along else outer * bands,
        chunk=max(1, _GRAIN // max(work, 1)),
        scratch_bytes=(n + m) * lanes * element.bytes if along else 0,
    )


@dataclass(frozen=True)
class _Kernel:
    """A walk of arrays of this dtype, ``along`` memory or across it."""

    body: _Body
    dtype: str
    along: bool

    def write(self, isa: ISA) -> Module:
        """One entry point; ``row`` is how many elements of scratch a thread has."""
        element = BY_DTYPE[self.dtype]
        m, lanes = Module(f"{self.body.name}_{self.dtype}", isa), isa.lanes(element)
        block = write_block(m, element, lanes) if self.along else None
        tables: dict[str, Type] = {name: ptr(i64 if name == "first" else element) for name in self.body.tables}
        fields = {"x": ptr(element), "y": ptr(element), **tables, "work": ptr(element)}
        f = m.entry("run", **fields, **dict.fromkeys((*_GEOMETRY, "row"), i64))
        with f.loop(f.args.begin, f.args.end) as task:
            if block is None:
                self._across(f, element, lanes, task.i)
            else:
                self._along(f, element, lanes, task.i, block)
        return m

    def _across(self, f: Function, element: Type, lanes: int, task: Value) -> None:
        """A band of lines: whole vectors, several together, then one by one under a mask."""
        a = f.args
        outer, start = task // a.bands, task % a.bands * _BAND
        stop = minimum(start + _BAND, a.inner)
        whole = stop - (stop - start) % (_VECTORS * lanes)
        x, y = a.x.at(outer * a.n * a.inner), a.y.at(outer * a.m * a.inner)

        def column(at: Value, vectors: int, mask: Value | None) -> None:
            self.body.write(f, element, _Column(x.at(at), y.at(at), a.inner, lanes, vectors, mask))

        with f.loop(start, whole, _VECTORS * lanes) as i:
            column(i.i, _VECTORS, None)
        with f.loop(whole, stop, lanes) as i:
            column(i.i, 1, None if lanes == 1 else lanes_below(f, stop - i.i, lanes))

    def _along(self, f: Function, element: Type, lanes: int, task: Value, block: Function) -> None:
        """As many lines as lanes, turned into scratch, walked there and turned back."""
        a, zero = f.args, f.const(i64, 0)
        first = task * lanes
        count = minimum(a.lines - first, lanes)
        turned = a.work.at(a.thread * a.row)
        made = turned.at(a.n * lanes)
        f.call(block, a.x.at(first * a.n), turned, a.n, f.const(i64, lanes), zero, a.n, count)
        self.body.write(f, element, _Column(turned, made, f.const(i64, lanes), lanes, 1, None))
        with f.loop(0, a.m, lanes) as k:
            to = a.y.at(first * a.m + k.i)
            f.call(block, made.at(k.i * lanes), to, f.const(i64, lanes), a.m, zero, count, a.m - k.i)
