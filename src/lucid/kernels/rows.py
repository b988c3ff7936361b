"""Kernels that sum over an axis and then map it, while it is in cache: softmax, layer normalization, their gradients.

A row is everything along one axis (or several that lie as one). Stages reduce it one after another, each seeing what
the stages before it found; then a formula gives the results, element by element::

    softmax = Rows(
        "softmax",
        stages=[Stage("top", lambda x: x), Stage("sum", lambda x, top: exp(x - top), lambda s: 1.0 / s)],
        results=lambda x, top, scale: exp(x - top) * scale,
    )

Sums are kept in float64. Rows are whole tasks, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from lucid.core.dtypes import as_dtype
from lucid.core.geometry import broadcast_shape
from lucid.kernels import jit, target
from lucid.kernels.elementwise import Array, Formula, compute_type, number_values, read, stored_name, write
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    convert,
    f64,
    i64,
    lanes_below,
    minimum,
    ptr,
    select,
    splat,
    vec,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import ByNumbers, address
from lucid.kernels.moving import contiguous
from lucid.kernels.reduction import Axis, arrange
from lucid.kernels.reduction_kernel import COMBINE, across_lanes
from lucid.kernels.runtime import threads
from lucid.kernels.runtime.memory import making

BAND = 64  #: neighbouring rows of one task, where rows lie across memory
GRAIN = 8192  #: elements of a chunk of tasks, at least
_PLANS = 1024
_GEOMETRY = ("kept", "n", "across", "bands")


def _same(total: Value) -> Value:
    return total


@dataclass(frozen=True)
class Stage:
    """A reduction of a row: terms combined by ``combine`` (a row of ``COMBINE``), then ``finish`` of the total.

    ``term`` takes the arrays and the values of the stages before; ``finish`` the total. Either may take numbers.
    """

    combine: str
    term: Callable[..., Value]
    finish: Callable[..., Value] = _same


class Rows:
    """A kernel of stages and a formula. Called with arrays, which broadcast, and the axes that make a row.

    The results are arrays of the whole shape, then the values of the stages listed in ``keep``, with the axes as 1,
    which are float32 for half precision.
    ``once`` makes one value more of those that the stages found, for what would be costly for every element.
    """

    def __init__(
        self,
        name: str,
        stages: Sequence[Stage],
        results: Callable[..., Any],
        keep: Sequence[int] = (),
        once: Callable[..., Value] | None = None,
    ) -> None:
        self.name, self.stages, self.keep = name, tuple(stages), tuple(keep)
        self.results = Formula(name, results)
        self.once = None if once is None else Formula(name, once)
        self.formulas = [(Formula(name, s.term), Formula(name, s.finish)) for s in stages]
        found = len(stages) + (once is not None)
        self.arrays = self.results.arrays[: len(self.results.arrays) - found]
        named = [n for pair in self.formulas for f in pair for n in f.numbers]
        named += [] if self.once is None else self.once.numbers
        self.numbers = tuple(dict.fromkeys([*named, *self.results.numbers]))
        self._plans: dict[Any, _Plan | None] = {}

    def __repr__(self) -> str:
        return f"Rows({self.name})"

    def __call__(self, *arrays: Array, axes: tuple[int, ...], **numbers: float) -> Any:
        """Raises nothing of its own; ask ``fits`` first where the arrays are not contiguous."""
        plan = self.plan(arrays, axes)
        if plan is None:
            whole = broadcast_shape(*(a.shape for a in arrays))
            order = (*(k for k in range(len(whole)) if k not in axes), *axes)
            back = np.argsort(order)
            moved = [contiguous(np.broadcast_to(a, whole).transpose(order)) for a in arrays]
            last: Any = tuple(range(len(whole) - len(axes), len(whole)))
            made = self(*moved, axes=last, **numbers)
            return made.transpose(back) if isinstance(made, np.ndarray) else tuple(r.transpose(back) for r in made)
        results = [make() for make in plan.makes]
        values = [*map(numbers.__getitem__, self.numbers)]
        region = plan.regions[plan.pack_numbers(*values)] if plan.plain else None
        if region is not None:
            region(*arrays, *results)
        elif plan.tasks:
            places = [address(a) for a in (*arrays, *results)]
            slots = plan.pack(*places, *values, *plan.geometry)
            threads.run(plan.entry, slots, plan.tasks, chunk=plan.chunk)
        return results[0] if len(results) == 1 else tuple(results)

    def plan(self, arrays: Sequence[Array], axes: tuple[int, ...]) -> _Plan | None:
        """What to run for such arrays, or None where their axes do not lie as rows."""
        key = (target.isa().name, axes, *[(a.shape, a.strides, a.dtype) for a in arrays])
        if key not in self._plans:
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            self._plans[key] = self._new_plan(arrays, axes)
        return self._plans[key]

    def _new_plan(self, arrays: Sequence[Array], axes: tuple[int, ...]) -> _Plan | None:
        shape = broadcast_shape(*(a.shape for a in arrays))
        dtypes = tuple(a.dtype.name for a in arrays)
        element = compute_type(dtypes)
        strides = [tuple(s // a.itemsize for s in np.broadcast_to(a, shape).strides) for a in arrays]
        fitted = _fit(arrange(shape, strides, axes), len(arrays))
        if fitted is None:
            return None
        along, (kept0, first, second) = fitted
        made = _Kernel(self, dtypes, along, second.strides)
        kept, n, across = (first.size, second.size, 1) if along else (1, first.size, second.size)
        bands = -(-across // BAND)
        work = max(1, n * min(across, BAND))
        entry = jit.kernel(made, made.write).address("run")
        geometry = (kept, n, across, bands, *(a.strides[k] for k in range(len(arrays)) for a in (kept0, first)))
        tasks, chunk = kept0.size * kept * bands if prod(shape) else 0, max(1, GRAIN // work)
        places = range(len(arrays) + made.results + len(self.keep))
        return _Plan(
            entry=entry,
            pack=struct.Struct(made.slots).pack,
            geometry=geometry,
            makes=(
                *[making(shape, as_dtype(stored_name(dtypes)).numpy)] * made.results,
                *[making([1 if k in axes else n for k, n in enumerate(shape)], f"float{element.bits}")]
                * len(self.keep),
            ),
            tasks=tasks,
            chunk=chunk,
            pack_numbers=struct.Struct(f"{len(self.numbers)}d").pack,
            plain=tasks > 0 and all(a.flags.c_contiguous for a in arrays),
            regions=ByNumbers([(entry, tasks, chunk)], places, geometry, worth=-(-prod(shape) // GRAIN)),
        )


def _fit(axes: Sequence[Axis], operands: int) -> tuple[bool, tuple[Axis, Axis, Axis]] | None:
    """Axes as (kept, kept, row), or as (kept, row, kept) where a row lies across memory; None if they are neither."""
    along = not axes or axes[-1].summed
    wanted = (False, False, True) if along else (False, True, False)
    slots, rest = [], list(axes)
    for summed in reversed(wanted):
        found = rest and rest[-1].summed == summed
        slots.append(rest.pop() if found else Axis(1, summed, (0,) * operands))
    if rest or any(s not in (0, 1) for s in slots[0].strides):
        return None
    return along, (slots[2], slots[1], slots[0])


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that a call with arrays of known shapes and strides needs."""

    entry: int
    pack: Callable[..., bytes]
    geometry: tuple[int, ...]
    makes: tuple[Callable[[], Array], ...]
    tasks: int
    chunk: int
    pack_numbers: Callable[..., bytes]
    plain: bool  #: the arrays lie as a bound region asks
    regions: ByNumbers


@dataclass(frozen=True)
class _Kernel:
    """Rows of arrays of these dtypes, ``along`` memory or across it; ``inner`` are the strides of the last axis."""

    rows: Rows
    dtypes: tuple[str, ...]
    along: bool
    inner: tuple[int, ...]

    @property
    def element(self) -> Type:
        """The arrays' element type."""
        return compute_type(self.dtypes)

    @property
    def results(self) -> int:
        """How many results of the whole shape there are."""
        floating = tuple(d for d in self.dtypes if d != "bool")[:1] * (len(self.rows.results.arrays) - len(self.dtypes))
        return len(self.rows.results.result_types((*self.dtypes, *floating)))

    @property
    def slots(self) -> str:
        """The slots of the entry point in the spelling of ``struct``."""
        arrays = len(self.dtypes) + self.results + len(self.rows.keep)
        return f"{arrays}q{len(self.rows.numbers)}d{len(_GEOMETRY) + 2 * len(self.dtypes)}q"

    def write(self, isa: ISA) -> Module:
        """A task is a row, or a band of rows that lie across memory."""
        m = Module(f"{self.rows.name}_{'_'.join(self.dtypes)}", isa)
        names = self.rows.arrays
        fields: dict[str, Type] = {n: ptr(BY_DTYPE[d]) for n, d in zip(names, self.dtypes, strict=True)}
        outs = [f"out{k}" for k in range(self.results)]
        kept = [f"kept{k}" for k in range(len(self.rows.keep))]
        fields |= dict.fromkeys(outs, ptr(BY_DTYPE[stored_name(self.dtypes)]))
        fields |= dict.fromkeys(kept, ptr(self.element)) | dict.fromkeys(self.rows.numbers, f64)
        fields |= dict.fromkeys((*_GEOMETRY, *(f"{n}_{axis}" for n in names for axis in ("outer", "inner"))), i64)
        f = m.entry("run", **fields)
        _Body(self, f, isa.lanes(self.element), outs, kept).write()
        return m


class _Body:
    """The code of a task."""

    def __init__(self, kernel: _Kernel, f: Function, lanes: int, outs: list[str], kept: list[str]) -> None:
        self.kernel, self.rows, self.f, self.lanes = kernel, kernel.rows, f, lanes
        self.outs, self.kept = outs, kept
        self.numbers = number_values(f, kernel.element, lanes, self.rows.numbers)
        total_lanes = 1 if kernel.along else lanes
        self.total_numbers = number_values(f, f64, total_lanes, self.rows.numbers)

    def write(self) -> None:
        f, a = self.f, self.f.args
        with f.loop(a.begin, a.end) as task:
            if self.kernel.along:
                k0, k1 = task.i // a.kept, task.i % a.kept
                first = [p.at(k0 * self._stride(n, "outer") + k1 * self._stride(n, "inner")) for n, p in self._arrays()]
                outs = [getattr(a, n).at(task.i * a.n) for n in self.outs]
                self._row(first, outs, task.i)
            else:
                k0, start = task.i // a.bands, task.i % a.bands * BAND
                stop = minimum(start + BAND, a.across)
                first = [p.at(k0 * self._stride(n, "outer")) for n, p in self._arrays()]
                with f.loop(start, stop, self.lanes) as column:
                    mask = None if self.lanes == 1 else lanes_below(f, stop - column.i, self.lanes)
                    shifted = [p.at(column.i) if step else p for p, step in zip(first, self.kernel.inner, strict=True)]
                    outs = [getattr(a, n).at(k0 * a.n * a.across + column.i) for n in self.outs]
                    self._column(shifted, outs, k0 * a.across + column.i, mask)

    def _arrays(self) -> list[tuple[str, Pointer]]:
        return [(n, getattr(self.f.args, n)) for n in self.rows.arrays]

    def _stride(self, name: str, axis: str) -> Value:
        value: Value = getattr(self.f.args, f"{name}_{axis}")
        return value

    def _picked(self, formula: Formula, numbers: dict[str, Value]) -> dict[str, Value]:
        return {n: numbers[n] for n in formula.numbers}

    def _row(self, pointers: list[Pointer], outs: list[Pointer], row: Value) -> None:
        """A row along memory: whole vectors, then one masked; a total is a scalar."""
        f, lanes, stop = self.f, self.lanes, self.f.args.n
        whole, pairs = stop - stop % lanes, stop - stop % (2 * lanes)
        mask = lanes_below(f, stop - whole, lanes)
        operands = [
            p if step else splat(read(p, 0, 1, None), lanes)
            for p, step in zip(pointers, self.kernel.inner, strict=True)
        ]

        def vector(i: Value, mask: Value | None) -> list[Value]:
            return [read(p, i, lanes, mask) if isinstance(p, Pointer) else p for p in operands]

        found: list[Value] = []
        scalars: list[Value] = []
        for k, stage in enumerate(self.rows.stages):
            two = COMBINE[stage.combine].two
            with f.loop(0, pairs, 2 * lanes, carry=[self._nothing(stage)] * 2) as loop:  # an addition takes its time
                loop.values = [
                    self._step(k, part, vector(loop.i + p * lanes, None), found, None)
                    for p, part in enumerate(loop.values)
                ]
            with f.loop(pairs, whole, lanes, carry=[two(*loop.values)]) as last:
                last.values = [self._step(k, last.values[0], vector(last.i, None), found, None)]
            total = last.values[0]
            if lanes > 1:
                total = self._tail(k, total, whole < stop, lambda: vector(whole, mask), found, mask)
            scalar = self._finish(k, across_lanes(total, two))
            scalars.append(scalar)
            found.append(splat(scalar, lanes))
        found += [splat(value, lanes) for value in self._once(scalars)]
        with f.loop(0, whole, lanes) as loop:
            self._map(outs, loop.i, vector(loop.i, None), found, None)
        if lanes > 1:
            with f.when(whole < stop):
                self._map(outs, whole, vector(whole, mask), found, mask)
        for name, k in zip(self.kept, self.rows.keep, strict=True):
            getattr(f.args, name).store(scalars[k], row)

    def _column(self, pointers: list[Pointer], outs: list[Pointer], at: Value, mask: Value | None) -> None:
        """As many rows as lanes, side by side; a total is a vector."""
        f, a, lanes = self.f, self.f.args, self.lanes

        def vector(r: Value) -> list[Value]:
            values = []
            for p, n, step in zip(pointers, self.rows.arrays, self.kernel.inner, strict=True):
                place = p.at(r * self._stride(n, "inner"))
                values.append(read(place, 0, lanes, mask) if step else splat(read(place, 0, 1, None), lanes))
            return values

        found: list[Value] = []
        for k, stage in enumerate(self.rows.stages):
            with f.loop(0, a.n, 1, carry=[self._nothing(stage)]) as loop:
                loop.values = [self._step(k, loop.values[0], vector(loop.i), found, None)]
            found.append(self._finish(k, loop.values[0]))
        found += self._once(found)
        with f.loop(0, a.n) as loop:
            self._map(outs, loop.i * a.across, vector(loop.i), found, mask)
        for name, k in zip(self.kept, self.rows.keep, strict=True):
            getattr(a, name).store(found[k], at, mask)

    def _sums(self, stage: Stage) -> Type:
        return self.kernel.element if COMBINE[stage.combine].exact else f64

    def _nothing(self, stage: Stage) -> Value:
        return self.f.const(vec(self._sums(stage), self.lanes), COMBINE[stage.combine].neutral)

    def _step(self, k: int, total: Value, inputs: list[Value], found: Sequence[Value], mask: Value | None) -> Value:
        """A total with one vector's terms."""
        stage, formula = self.rows.stages[k], self.rows.formulas[k][0]
        (term,) = formula([*inputs, *found], self._picked(formula, self.numbers))
        term = convert(term, self._sums(stage))
        combine = COMBINE[stage.combine]
        return combine.two(total, term if mask is None else select(mask, term, combine.neutral))

    def _tail(
        self, k: int, total: Value, some: Value, inputs: Callable[[], list[Value]], found: list[Value], mask: Value
    ) -> Value:
        """A total with the terms of the last, partial vector, if there is one."""
        (value,) = self.f.choose(some, lambda: [self._step(k, total, inputs(), found, mask)], lambda: [total])
        return value

    def _finish(self, k: int, total: Value) -> Value:
        """What a stage finds, in the arrays' element type."""
        formula = self.rows.formulas[k][1]
        (value,) = formula([convert(total, f64)], self._picked(formula, self.total_numbers))
        return convert(value, self.kernel.element)

    def _once(self, found: list[Value]) -> list[Value]:
        """What is made of the values of all stages, if anything."""
        once = self.rows.once
        if once is None:
            return []
        values = once([convert(v, f64) for v in found], self._picked(once, self.total_numbers))
        return [convert(v, self.kernel.element) for v in values]

    def _map(self, outs: list[Pointer], i: Value, inputs: list[Value], found: list[Value], mask: Value | None) -> None:
        formula = self.rows.results
        values = formula([*inputs, *found], self._picked(formula, self.numbers))
        for pointer, value in zip(outs, values, strict=True):
            write(pointer, value, i, mask)
