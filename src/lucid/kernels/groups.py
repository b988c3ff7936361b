"""Norms whose statistics are of neighbours in memory, a group in a task: group and instance norm and their gradients,
layer norm's result, and its gradient where it has no weights.

An array is tasks of rows of n neighbours. A task is what shares a mean and a variance; each of its rows has a weight
and a bias (layer norm's one row has n), and after so many ``groups`` of tasks, a sample, these come again. A task is
summed and then mapped while a core has it in its cache, all in one bound region: where there were passes over all the
array, of which each was planned and begun for itself, and small operations between them.

Sums of exact products are kept in float64, and a task is summed by one thread: the bits do not depend on how many
there are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from lucid.core.geometry import Sizes
from lucid.kernels import jit, target
from lucid.kernels.channels import over_row, wide
from lucid.kernels.elementwise import Array, over_vectors, read, write
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    convert,
    f32,
    f64,
    fma,
    i64,
    lanes_below,
    ptr,
    select,
    splat,
    sqrt,
    vec,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import WORKSPACE, Launch, of_any_layout
from lucid.kernels.reduction_kernel import COMBINE, across_lanes
from lucid.kernels.runtime.memory import ALIGN_BYTES, empty

GRAIN = 8192  #: elements of a chunk of tasks, at least
_LEAST_ROW = 8  #: elements; of shorter rows vectors are mostly empty
_LEAST_TASKS = 8  #: fewer are too few for threads to share, if they are large
_DTYPES = ("float32", "float16", "bfloat16")
_STATISTIC = np.dtype(np.float32)
_Parameter = Callable[[Value, Value | None], Value]
_GEOMETRY = ("groups", "rows", "n", "tasks", "channels")


class Split(NamedTuple):
    """An array as ``tasks`` of ``rows`` of ``n``, of which ``groups`` tasks are a sample; whether weights are of n."""

    tasks: int
    groups: int
    rows: int
    n: int
    each: bool = False


def split(shape: Sizes, axes: Sizes, affine_shape: Sizes) -> Split | None:
    """The tasks of statistics over ``axes`` with weights of ``affine_shape``; None where a task's rows are not so.

    >>> split((4, 2, 3, 8, 8), (2, 3, 4), (1, 2, 3, 1, 1))  # group norm
    Split(tasks=8, groups=2, rows=3, n=64, each=False)
    >>> split((4, 3, 8, 8), (2, 3), (1, 3, 1, 1))  # instance norm
    Split(tasks=12, groups=3, rows=1, n=64, each=False)
    """
    first = len(shape) - len(axes)
    padded = (1,) * (len(shape) - len(affine_shape)) + affine_shape
    given = [k for k, n in enumerate(padded) if n != 1]
    begin, end = (given[0], given[-1] + 1) if given else (first, first)
    if axes != tuple(range(first, len(shape))) or padded[begin:end] != shape[begin:end] or begin > first:
        return None
    if end < first and prod(shape[end:first]) > 1:  # several tasks with one weight
        return None
    if 1 < prod(padded[first:]) == prod(shape[first:]) and begin == first:
        return Split(prod(shape[:first]), 1, 1, prod(shape[first:]), True)
    end = max(end, first)
    return Split(prod(shape[:first]), prod(shape[begin:first]), prod(shape[first:end]), prod(shape[end:]))


def fit(axes: Sizes, affine_shape: Sizes, *arrays: Array) -> Split | None:
    """How a kernel takes x, or g and x, apart; None if there is none, or a task would not stay in a core's cache."""
    x = arrays[0]
    for a in arrays:
        if a.dtype is not x.dtype or not a.flags.c_contiguous:
            return None
    return _fit(x.shape, x.dtype, len(arrays), axes, affine_shape, target.cpu().l2_bytes)


@lru_cache(maxsize=1024)
def _fit(
    shape: Sizes, dtype: np.dtype[Any], arrays: int, axes: Sizes, affine_shape: Sizes, cache_bytes: int
) -> Split | None:
    found, size = split(shape, axes, affine_shape), prod(shape)
    if (
        found is None
        or (found.each and arrays > 1)
        or not size
        or found.n < _LEAST_ROW
        or dtype.name not in _DTYPES
        or not dtype.isnative
    ):
        return None
    if found.tasks < _LEAST_TASKS and size > GRAIN:
        return None
    return found if size // found.tasks * dtype.itemsize * arrays <= cache_bytes else None


def standardize(
    x: Array, weight: Array | None, bias: Array | None, found: Split, eps: float
) -> tuple[Array, Array, Array]:
    """(x - mean) / sqrt(var + eps) weight + bias, then mean and biased variance as (tasks,) of float32."""
    run = _forward(found, x.dtype, eps, target.isa().name)
    y = empty(x.shape, x.dtype)
    mean, var = empty(found.tasks, _STATISTIC), empty(found.tasks, _STATISTIC)
    run(x, _given(weight, 1.0, found, x.dtype), _given(bias, 0.0, found, x.dtype), y, mean, var)
    return y, mean, var


def standardize_grad(
    g: Array, x: Array, weight: Array | None, mean: Array, var: Array, found: Split, eps: float, sums: bool
) -> tuple[Array, Array, Array]:
    """Gradients of ``standardize`` in x and, if these ``sums`` are wanted, weight and bias as (groups rows,)."""
    run = _backward(found, x.dtype, eps, sums, target.isa().name)
    gx = empty(x.shape, x.dtype)
    g_weight, g_bias = (empty(found.groups * found.rows if sums else 1, x.dtype) for _ in range(2))
    run(g, x, _given(weight, 1.0, found, x.dtype), mean, var, gx, g_weight, g_bias)
    return gx, g_weight, g_bias


def _given(parameter: Array | None, neutral: float, found: Split, dtype: np.dtype[Any]) -> Array:
    if parameter is None:
        return _neutral(neutral, found.n if found.each else found.groups * found.rows, dtype)
    return parameter


@lru_cache(maxsize=64)
def _neutral(value: float, count: int, dtype: np.dtype[Any]) -> Array:
    return np.full(count, value, dtype)


@lru_cache(maxsize=1024)
def _forward(found: Split, dtype: np.dtype[Any], eps: float, isa: str) -> Callable[..., None]:
    kernel = _Forward(dtype.name, found.each)
    entry = jit.kernel(kernel, kernel.write).address("run")
    launch = Launch(
        [(entry, found.tasks, _chunk(found))],
        [0] * 6 + _numbers(found, eps),
        range(6),
        most_threads=found.tasks,
        worth=_worth(found),
    )
    return of_any_layout(launch)


@lru_cache(maxsize=1024)
def _backward(found: Split, dtype: np.dtype[Any], eps: float, sums: bool, isa: str) -> Callable[..., None]:
    kernel = _Backward(dtype.name)
    code = jit.kernel(kernel, kernel.write)
    each = -(-found.tasks * found.rows * f64.bytes // ALIGN_BYTES) * ALIGN_BYTES
    steps = [(code.address("run"), found.tasks, _chunk(found))]
    if sums:
        steps.append((code.address("fold"), -(-found.groups * found.rows // kernel.lanes(target.isa())), 1))
    launch = Launch(
        steps,
        [0] * 8 + [0, each] + _numbers(found, eps),
        [*range(8), WORKSPACE, WORKSPACE],
        shared_bytes=2 * each,
        most_threads=found.tasks,
        worth=2 * _worth(found),
    )
    return of_any_layout(launch)


def _numbers(found: Split, eps: float) -> list[int]:
    numbers = struct.unpack("2q", struct.pack("2d", eps, 1.0 / (found.rows * found.n)))
    return [*numbers, found.groups, found.rows, found.n, found.tasks, found.groups * found.rows]


def _chunk(found: Split) -> int:
    return max(1, GRAIN // (found.rows * found.n))


def _worth(found: Split) -> int:
    return -(-found.tasks * found.rows * found.n // GRAIN)


def _unroll(isa: ISA) -> int:
    """Vectors summed apart from each other, so that an addition need not wait."""
    return isa.registers // 8


def _entries(m: Module, names: Sequence[str], arrays: dict[str, Type]) -> list[Function]:
    """Entry points over the same fields."""
    fields = {**arrays, "eps": f64, "inverse": f64, **dict.fromkeys(_GEOMETRY, i64)}
    return [m.entry(name, **fields) for name in names]


def _sums(f: Function, n: Value, isa: ISA, factors: Callable[[Value, Value | None], Sequence[Value]]) -> list[Value]:
    """Two sums over a row of products, each of two ``factors`` of a vector."""
    lanes, unroll = isa.lanes(f32), _unroll(isa)

    def vector(totals: list[Value], at: Value, mask: Value | None, u: int) -> list[Value]:
        made = [wide(v if mask is None else select(mask, v, 0.0)) for v in factors(at, mask)]
        out = list(totals)
        for t in range(2):
            out[2 * u + t] = fma(made[2 * t], made[2 * t + 1], out[2 * u + t])
        return out

    start = [f.const(vec(f64, lanes), 0.0)] * (2 * unroll)
    totals, two = over_row(f, n, lanes, unroll, start, vector), COMBINE["sum"].two
    found = []
    for t in range(2):
        total = totals[t]
        for u in range(1, unroll):
            total = two(total, totals[2 * u + t])
        found.append(across_lanes(total, two))
    return found


@dataclass(frozen=True, slots=True)
class _Forward:
    """A group is summed, and mapped row by row."""

    dtype: str
    each: bool

    def write(self, isa: ISA) -> Module:
        """One entry point; a task is a group."""
        stored, lanes = BY_DTYPE[self.dtype], isa.lanes(f32)
        m = Module(f"standardize_{'rows' if self.each else 'groups'}_{self.dtype}", isa)
        arrays: dict[str, Type] = dict.fromkeys(("x", "w", "b", "y"), ptr(stored))
        (f,) = _entries(m, ["run"], arrays | dict.fromkeys(("mean", "var"), ptr(f32)))
        a = f.args
        one = f.const(vec(f32, lanes), 1.0)
        with f.loop(a.begin, a.end) as task:
            size = a.rows * a.n
            x, y, channel = a.x.at(task.i * size), a.y.at(task.i * size), task.i % a.groups * a.rows

            def factors(at: Value, mask: Value | None, x: Pointer = x) -> tuple[Value, ...]:
                value = read(x, at, lanes, mask)
                return value, one, value, value

            s, q = _sums(f, size, isa, factors)
            mean = s * a.inverse
            var = q * a.inverse - mean * mean
            var = select(var < 0.0, 0.0, var)  # by rounding; NaN stays
            rstd = convert(1.0 / sqrt(var + a.eps), f32)
            mean = convert(mean, f32)
            a.mean.store(mean, task.i)
            a.var.store(convert(var, f32), task.i)
            middle, rstd = splat(mean, lanes), splat(rstd, lanes)
            with f.loop(0, a.rows) as row:
                at = f.const(i64, 0) if self.each else channel + row.i
                w, b = (self._parameter(p.at(at), lanes) for p in (a.w, a.b))
                source, to = x.at(row.i * a.n), y.at(row.i * a.n)

                def mapped(
                    i: Value, mask: Value | None, source: Pointer = source, to: Pointer = to, middle: Value = middle,
                    rstd: Value = rstd, w: _Parameter = w, b: _Parameter = b,
                ) -> None:  # fmt: skip
                    write(to, (read(source, i, lanes, mask) - middle) * (rstd * w(i, mask)) + b(i, mask), i, mask)

                over_vectors(f, f.const(i64, 0), a.n, lanes, mapped)
        return m

    def _parameter(self, first: Pointer, lanes: int) -> _Parameter:
        """A row's parameter by its place: one number, or one for each place."""
        if self.each:
            return lambda i, mask: read(first, i, lanes, mask)
        same = splat(read(first, 0, 1, None), lanes)
        return lambda i, mask: same


@dataclass(frozen=True, slots=True)
class _Backward:
    """A group's gradient from sums over its rows, which are folded over samples for weights and biases."""

    dtype: str

    @staticmethod
    def lanes(isa: ISA) -> int:
        """Channels of a task that folds."""
        return isa.lanes(f32)

    def write(self, isa: ISA) -> Module:
        """Two entry points over the same fields: a task is a group, then a vector of channels."""
        stored = ptr(BY_DTYPE[self.dtype])
        m = Module(f"standardize_groups_grad_{self.dtype}", isa)
        arrays: dict[str, Type] = {"g": stored, "x": stored, "w": stored, "mean": ptr(f32), "var": ptr(f32)}
        arrays |= dict.fromkeys(("gx", "g_weight", "g_bias"), stored) | dict.fromkeys(("met", "summed"), ptr(f64))
        run, fold = _entries(m, ["run", "fold"], arrays)
        self._write_groups(run, isa)
        self._write_fold(fold, isa)
        return m

    def _write_groups(self, f: Function, isa: ISA) -> None:
        a, lanes = f.args, self.lanes(isa)
        one, nothing = f.const(vec(f32, lanes), 1.0), f.const(f64, 0.0)
        with f.loop(a.begin, a.end) as task:
            channel = task.i % a.groups * a.rows
            middle = splat(a.mean.load(task.i), lanes)
            rstd = splat(convert(1.0 / sqrt(wide(a.var.load(task.i)) + a.eps), f32), lanes)
            first = task.i * a.rows
            with f.loop(0, a.rows, carry=[nothing, nothing]) as row:
                g, x = (p.at((first + row.i) * a.n) for p in (a.g, a.x))

                def factors(at: Value, mask: Value | None, g: Pointer = g, x: Pointer = x) -> tuple[Value, ...]:
                    upstream = read(g, at, lanes, mask)
                    return upstream, one, upstream, (read(x, at, lanes, mask) - middle) * rstd

                sums = _sums(f, a.n, isa, factors)
                w = wide(read(a.w, channel + row.i, 1, None))
                for scratch, value in zip((a.summed, a.met), sums, strict=True):
                    scratch.store(value, first + row.i)
                row.values = [fma(w, value, total) for value, total in zip(sums, row.values, strict=True)]
            along, across = (splat(convert(total * a.inverse, f32), lanes) for total in row.values)
            with f.loop(0, a.rows) as row:
                w = splat(read(a.w, channel + row.i, 1, None), lanes)
                g, x, gx = (p.at((first + row.i) * a.n) for p in (a.g, a.x, a.gx))

                def mapped(
                    i: Value, mask: Value | None, g: Pointer = g, x: Pointer = x, gx: Pointer = gx, w: Value = w,
                    along: Value = along, across: Value = across,
                ) -> None:  # fmt: skip
                    unit = (read(x, i, lanes, mask) - middle) * rstd
                    write(gx, (read(g, i, lanes, mask) * w - along - unit * across) * rstd, i, mask)

                over_vectors(f, f.const(i64, 0), a.n, lanes, mapped)

    def _write_fold(self, f: Function, isa: ISA) -> None:
        a, lanes = f.args, self.lanes(isa)
        nothing = f.const(vec(f64, lanes), 0.0)
        with f.loop(a.begin, a.end) as task:
            at = task.i * lanes
            mask = lanes_below(f, a.channels - at, lanes) if lanes > 1 else None
            with f.loop(0, a.tasks // a.groups, carry=[nothing, nothing]) as sample:
                sample.values = [
                    total + p.load(sample.i * a.channels + at, lanes, mask)
                    for p, total in zip((a.met, a.summed), sample.values, strict=True)
                ]
            for to, total in zip((a.g_weight, a.g_bias), sample.values, strict=True):
                write(to, convert(total, f32), at, mask)
