"""Kernels that sum over a channel and then map it, while a core has it in its cache: batch norm and its gradient.

A channel of an array (N, C, L) is N rows of L neighbours, C rows apart. It is summed, its sums make what all of it
needs, and a formula maps it, the rows read last first::

    standardize = Channels(
        "standardize",
        terms=lambda x, w: (x, 1.0, x, x),
        finish=lambda s, q, w, *, inverse: moments(s * inverse, q * inverse),
        results=lambda x, w, mean, rstd: (x - mean) * (rstd * w),
    )

So what two passes over all channels read from memory twice is read once. Sums of products are kept in float64. A
channel is a whole task: the bits do not depend on the number of threads.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from lucid.core.geometry import Sizes
from lucid.kernels import jit, target
from lucid.kernels.elementwise import Array, Formula, number_values, over_vectors
from lucid.kernels.ir import (
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
    vec,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import address
from lucid.kernels.reduction_kernel import COMBINE, across_lanes
from lucid.kernels.runtime import threads
from lucid.kernels.runtime.memory import empty

GRAIN = 8192  #: elements of a chunk of channels, at least
_LEAST_CHANNELS = 16  #: fewer are too few for threads to share
_LEAST_ROW = 32  #: elements; of shorter rows most vectors are not full
_LINE_BYTES = 64
_AHEAD_BYTES = 2048  #: how far ahead a row is asked for, as rows far apart are more streams than a machine foresees
_GEOMETRY = ("rows", "channels", "n")


def wide(x: Value) -> Value:
    """In the type of the sums."""
    return convert(x, f64)


def over_row(
    f: Function,
    n: Value,
    lanes: int,
    unroll: int,
    totals: list[Value],
    vector: Callable[[list[Value], Value, Value | None, int], list[Value]],
    ahead: Callable[[Value], None] = lambda at: None,
) -> list[Value]:
    """Totals with a row of n: whole vectors, ``unroll`` at a time and numbered, then what is left under a mask.

    ``ahead`` is told where several begin.
    """
    whole, fast = n - n % lanes, n - n % (lanes * unroll)
    with f.loop(0, fast, lanes * unroll, carry=totals) as loop:
        ahead(loop.i)
        for u in range(unroll):
            loop.values = vector(loop.values, loop.i + u * lanes, None, u)
    with f.loop(fast, whole, lanes, carry=loop.values) as single:
        single.values = vector(single.values, single.i, None, 0)
    before = single.values
    if lanes == 1:
        return before
    mask = lanes_below(f, n - whole, lanes)
    return f.choose(whole < n, lambda: vector(before, whole, mask, 0), lambda: before)


def fit(axes: Sizes, *arrays: Array) -> bool:
    """Whether there are kernels for arrays of one shape and these axes to sum over, and what they read twice stays in a
    core's cache."""
    x = arrays[0]
    channels, n = x.shape[1] if x.ndim > 1 else 0, prod(x.shape[2:])
    if channels < _LEAST_CHANNELS or n < _LEAST_ROW or axes != (0, *range(2, x.ndim)):
        return False
    if any(a.dtype != np.float32 or not a.flags.c_contiguous for a in arrays):
        return False
    return x.nbytes // channels * len(arrays) <= target.cpu().l2_bytes


class Channels:
    """A kernel of sums over channels and a formula. Called with float32 arrays that ``fit`` and, as (C,), what each
    channel is given; it returns the mapped array and, as (C,), the first ``keep`` of what the sums made.

    ``before`` makes more of what is given. ``terms`` sees arrays, what is given and that, and gives two factors for
    each sum, whose product is exact there. ``finish`` sees the sums in place of the arrays, and ``results`` all but the
    sums, then what ``finish`` made.
    """

    def __init__(
        self,
        name: str,
        terms: Callable[..., Any],
        finish: Callable[..., Any],
        results: Callable[..., Value],
        before: Callable[..., Value] | None = None,
        keep: int = 0,
    ) -> None:
        self.name, self.keep = name, keep
        self.terms, self.finish, self.results = (Formula(name, formula) for formula in (terms, finish, results))
        self.before = None if before is None else Formula(name, before)
        named = [n for f in (self.before, self.terms, self.finish, self.results) if f is not None for n in f.numbers]
        self.numbers = tuple(dict.fromkeys(named))

    def __repr__(self) -> str:
        return f"Channels({self.name})"

    def __call__(self, arrays: Sequence[Array], given: Sequence[Array], **numbers: float) -> tuple[Array, ...]:
        rows, channels, *size = arrays[0].shape
        n = prod(size)
        mapped = empty(arrays[0].shape, np.float32)
        plan = _plan(self, len(arrays), len(given), _goes_past(mapped, n), target.isa().name)
        kept = [empty(channels, np.float32) for _ in range(self.keep)]
        places = [address(a) for a in (*arrays, *given, mapped, *kept)]
        slots = plan.pack(*places, *[numbers[name] for name in self.numbers], rows, channels, n)
        if rows:
            threads.run(plan.entry, slots, channels, chunk=max(1, GRAIN // (rows * n)))
        return mapped, *kept


@dataclass(frozen=True, slots=True)
class _Plan:
    entry: int
    pack: Callable[..., bytes]


def _goes_past(mapped: Array, n: int) -> bool:
    """Whether a result will not stay in cache: written past it, its lines are not read first."""
    whole_lines = n % (_LINE_BYTES // 4) == 0 and address(mapped) % _LINE_BYTES == 0
    return whole_lines and mapped.nbytes > target.cpu().l3_bytes // 2


@lru_cache(maxsize=64)
def _plan(made: Channels, arrays: int, given: int, stream: bool, isa: str) -> _Plan:
    kernel = _Kernel(made.name, arrays, given, stream)
    slots = f"{arrays + given + 1 + made.keep}q{len(made.numbers)}d{len(_GEOMETRY)}q"
    entry = jit.kernel(kernel, lambda isa: _Body(made, kernel, isa).module).address("run")
    return _Plan(entry, struct.Struct(slots).pack)


@dataclass(frozen=True, slots=True)
class _Kernel:
    """What tells kernels apart."""

    name: str
    arrays: int
    given: int
    stream: bool


class _Body:
    """The code of a task, which is a channel."""

    def __init__(self, made: Channels, kernel: _Kernel, isa: ISA) -> None:
        self.made, self.stream = made, kernel.stream and isa.lanes(f32) > 1
        self.arrays = [f"array{k}" for k in range(kernel.arrays)]
        self.given = [f"given{k}" for k in range(kernel.given)]
        self.kept = [f"kept{k}" for k in range(made.keep)]
        fields: dict[str, Type] = dict.fromkeys((*self.arrays, *self.given, "mapped", *self.kept), ptr(f32))
        fields |= dict.fromkeys(made.numbers, f64) | dict.fromkeys(_GEOMETRY, i64)
        self.module = Module(made.name, isa)
        self.f: Function = self.module.entry("run", **fields)
        self.lanes = isa.lanes(f32)
        self.unroll = isa.registers // 8  # vectors summed apart from each other: an addition need not wait
        self.numbers = number_values(self.f, f32, self.lanes, made.numbers)
        self._write()

    def _write(self) -> None:
        made, f, a = self.made, self.f, self.f.args
        alone, summed = (number_values(f, element, 1, made.numbers) for element in (f32, f64))
        with f.loop(a.begin, a.end) as task:
            given = [getattr(a, name).load(task.i) for name in self.given]
            if made.before is not None:
                given += made.before(given, _picked(made.before, alone))
            every = [splat(value, self.lanes) for value in given]
            sums = self._summed(task.i, every)
            found = made.finish([*sums, *map(wide, given)], _picked(made.finish, summed))
            found = tuple(convert(value, f32) for value in found)
            for name, value in zip(self.kept, found, strict=False):
                getattr(a, name).store(value, task.i)
            self._mapped(task.i, [*every, *(splat(value, self.lanes) for value in found)])

    def _row(self, names: Sequence[str], row: Value, channel: Value) -> list[Pointer]:
        a = self.f.args
        at = (row * a.channels + channel) * a.n
        return [getattr(a, name).at(at) for name in names]

    def _summed(self, channel: Value, every: list[Value]) -> list[Value]:
        """The sums of a channel: whole vectors, several at a time, then what is left of a row under a mask."""
        f, n, lanes = self.f, self.f.args.n, self.lanes
        terms = len(self.made.terms.result_types(("float32",) * (len(self.arrays) + len(every)))) // 2
        nothing = f.const(vec(f64, lanes), 0.0)
        with f.loop(0, f.args.rows, carry=[nothing] * (terms * self.unroll)) as row:
            pointers = self._row(self.arrays, row.i, channel)

            def vector(totals: list[Value], at: Value, mask: Value | None, u: int) -> list[Value]:
                return self._added(totals, pointers, at, every, mask, u)

            def ahead(at: Value) -> None:
                self._ask_ahead(pointers, at)

            row.values = over_row(f, n, lanes, self.unroll, row.values, vector, ahead)
        two, sums = COMBINE["sum"].two, []
        for t in range(terms):
            total = row.values[t]
            for u in range(1, self.unroll):
                total = two(total, row.values[u * terms + t])
            sums.append(across_lanes(total, two))
        return sums

    def _added(
        self, totals: list[Value], pointers: list[Pointer], at: Value, every: list[Value], mask: Value | None, u: int
    ) -> list[Value]:
        """Totals with the terms of one vector of every array."""
        inputs = [p.load(at, self.lanes, mask) for p in pointers]
        made = self.made.terms([*inputs, *every], _picked(self.made.terms, self.numbers))
        factors = [wide(v if mask is None else select(mask, v, 0.0)) for v in made]
        out, first = list(totals), u * (len(factors) // 2)
        for t in range(len(factors) // 2):
            out[first + t] = fma(factors[2 * t], factors[2 * t + 1], out[first + t])
        return out

    def _ask_ahead(self, pointers: list[Pointer], at: Value) -> None:
        for p in pointers:
            for u in range(0, self.unroll * self.lanes, _LINE_BYTES // 4):
                p.prefetch(at + (u + _AHEAD_BYTES // 4), locality=2)

    def _mapped(self, channel: Value, every: list[Value]) -> None:
        """The channel's result, from what was read last on: that is most likely still near."""
        f, a = self.f, self.f.args
        numbers = _picked(self.made.results, self.numbers)
        with f.loop(0, a.rows) as row:
            *pointers, result = self._row([*self.arrays, "mapped"], a.rows - 1 - row.i, channel)

            def vector(i: Value, mask: Value | None) -> None:
                inputs = [p.load(i, self.lanes, mask) for p in pointers]
                (value,) = self.made.results([*inputs, *every], numbers)
                result.store(value, i, mask, nontemporal=self.stream and mask is None)

            over_vectors(f, f.const(i64, 0), a.n, self.lanes, vector)


def _picked(formula: Formula, numbers: dict[str, Value]) -> dict[str, Value]:
    return {name: numbers[name] for name in formula.numbers}
