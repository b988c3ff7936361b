"""Kernels from formulas: one pass over memory, whatever the formula says.

A formula is a Python function of vectors. Positional parameters are arrays, keyword-only ones are numbers that may
change from call to call; it returns a vector, or a tuple of them::

    gelu = Elementwise("gelu", lambda x: 0.5 * x * (1.0 + erf(x * SQRT_HALF)))
    leaky_relu = Elementwise("leaky_relu", lambda x, *, slope: select(x < 0.0, slope * x, x))
    y = leaky_relu(x, slope=0.01)

Arrays broadcast. Axes that lie in memory as one are joined first, so almost everything becomes rows in which an operand
is either consecutive or one number: (N, C, H, W) with a number for every channel is N C rows of H W. A kernel is made
for a formula, the dtypes, and which operands are one number a row; sizes are arguments.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from inspect import Parameter, signature
from math import prod
from typing import Any

import numpy as np

from lucid.core.dtypes import as_dtype
from lucid.core.errors import DTypeError, ShapeError
from lucid.core.geometry import Sizes, broadcast_shape
from lucid.kernels import jit, target
from lucid.kernels.casting import HALF
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    computed,
    convert,
    f64,
    i1,
    i8,
    i64,
    lanes_below,
    minimum,
    ptr,
    splat,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import ByNumbers, address
from lucid.kernels.moving import contiguous, join
from lucid.kernels.runtime import threads
from lucid.kernels.runtime.memory import making

Array = np.ndarray[Any, Any]

#: Elements of a task. A block of every operand fits in the first cache together.
BLOCK = 4096
#: Elements below which another thread costs more than it brings.
GRAIN = 16384
_LINE_BYTES = 64
_PLANS = 1024


@dataclass(frozen=True, slots=True)
class Layout:
    """Operands broadcast to rows: sizes (outer, middle, inner) and every operand's strides along them, in elements.

    An inner stride is 0 or 1. ``copies`` are the operands that had to be laid out afresh for that, each with the shape
    it then has, which still broadcasts: what is one number a row is that in its copy.
    """

    sizes: tuple[int, int, int]
    strides: tuple[tuple[int, int, int], ...]
    copies: tuple[tuple[int, Sizes], ...]


def layout(shape: Sizes, shapes: Sequence[Sizes], strides: Sequence[Sizes]) -> Layout:
    """The fewest rows in which operands of these shapes and strides (in elements) broadcast to ``shape``.

    >>> layout((8, 3, 5, 5), [(8, 3, 5, 5), (3, 1, 1)], [(75, 25, 5, 1), (1, 1, 1)])
    Layout(sizes=(8, 3, 25), strides=((75, 25, 1), (0, 1, 0)), copies=())
    """
    spread = [_spread(shape, s, t) for s, t in zip(shapes, strides, strict=True)]
    sizes, joined = join(shape, spread)
    copies = [k for k, s in enumerate(joined) if s[-1] not in (0, 1)]
    if len(sizes) > 3:
        copies = [k for k, s in enumerate(joined) if s != _contiguous(sizes)]
    grown = {k: _as_far_as_it_varies(shape, spread[k]) for k in copies}
    if copies:
        sizes, joined = _copied(shape, spread, grown)
    if len(sizes) > 3:  # copies that vary as far as several axes
        grown |= {k: shape for k, s in enumerate(joined) if s != _contiguous(sizes)}
        sizes, joined = _copied(shape, spread, grown)
    lead = 3 - len(sizes)
    return Layout(
        ((1,) * lead + sizes)[:3],  # type: ignore[arg-type]
        tuple(((0,) * lead + s)[:3] for s in joined),  # type: ignore[misc]
        tuple(grown.items()),
    )


def _spread(shape: Sizes, own: Sizes, strides: Sizes) -> Sizes:
    """The strides of an operand along the axes of what it broadcasts to."""
    lead = len(shape) - len(own)
    return (0,) * lead + tuple(0 if n == 1 else s for n, s in zip(own, strides, strict=True))


def _copied(shape: Sizes, spread: Sequence[Sizes], grown: dict[int, Sizes]) -> tuple[Sizes, list[Sizes]]:
    """The axes joined once some operands are in order, of the shapes that ``grown`` says."""
    fresh = [_spread(shape, grown[k], _contiguous(grown[k])) if k in grown else s for k, s in enumerate(spread)]
    return join(shape, fresh)


def _as_far_as_it_varies(shape: Sizes, spread: Sizes) -> Sizes:
    """The shape with 1 for the last axes along which an operand of these strides is the same."""
    varies = max((k + 1 for k, (n, step) in enumerate(zip(shape, spread, strict=True)) if n > 1 and step), default=0)
    return shape[:varies] + (1,) * (len(shape) - varies)


def _contiguous(shape: Sizes) -> Sizes:
    return tuple(prod(shape[k + 1 :]) if n != 1 else 0 for k, n in enumerate(shape))


class Formula:
    """A function of vectors with the names of its arrays and of its numbers, and how many vectors it gives."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        parameters = signature(function).parameters.values()
        self.name, self.function = name, function
        self.arrays = tuple(p.name for p in parameters if p.kind is not Parameter.KEYWORD_ONLY)
        self.numbers = tuple(p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY)

    def __call__(self, inputs: Sequence[Value], numbers: dict[str, Value]) -> tuple[Value, ...]:
        results = self.function(*inputs, **numbers)
        pattern = next(v for v in inputs if v.type.kind == "float")
        return tuple(
            v if isinstance(v, Value) else pattern.const(v)
            for v in (results if isinstance(results, tuple) else (results,))
        )

    @lru_cache(maxsize=64)  # noqa: B019 - formulas live as long as the program
    def result_types(self, dtypes: tuple[str, ...]) -> tuple[Type, ...]:
        """Element types of the results for arrays of these dtypes, found by writing the formula once."""
        f = Module("trace").function("trace")
        element = compute_type(dtypes)
        inputs = [Value(f, i1 if d == "bool" else element, "%x") for d in dtypes]
        return tuple(v.type.element for v in self(inputs, {n: Value(f, element, "%x") for n in self.numbers}))

    def result_dtypes(self, dtypes: tuple[str, ...]) -> tuple[np.dtype[Any], ...]:
        """Dtypes of the results for arrays of these dtypes."""
        stored = as_dtype(stored_name(dtypes)).numpy
        return tuple(np.dtype(np.bool_) if t == i1 else stored for t in self.result_types(dtypes))


def stored_name(dtypes: Sequence[str]) -> str:
    """The dtype of a formula's results: that of its floating-point arrays, half precision where there is any."""
    return min((d for d in dtypes if d != "bool"), key=lambda d: BY_DTYPE[d].bits)


def compute_type(dtypes: Sequence[str]) -> Type:
    """The element type that a formula computes in: that of its floating-point arrays, float32 for half precision."""
    floating = {d for d in dtypes if d != "bool"}
    half = floating.intersection(HALF)
    if len(floating - {"float32"} if half else floating) != 1 or not floating <= {"float32", "float64", *half}:
        raise DTypeError(
            f"elementwise: dtypes {', '.join(dtypes)}; all must be float32 or all float64, or one half precision "
            "beside float32 (or bool)"
        )
    return computed(BY_DTYPE[stored_name(dtypes)])


def read(pointer: Pointer, index: Any, lanes: int, mask: Value | None) -> Value:
    """A vector of an array; one of booleans becomes a mask, half precision float32."""
    value = pointer.load(index, lanes, mask)
    if pointer.pointee is i8:
        return value.ne(0)
    return convert(value, computed(pointer.pointee))


def write(pointer: Pointer, value: Value, index: Any, mask: Value | None, stream: bool = False) -> None:
    """Puts a vector, rounded to the array's type; a mask becomes booleans.

    ``stream`` lets whole vectors of numbers go past the caches.
    """
    if value.type.element == i1:
        pointer.store(convert(value, i8, signed=False), index, mask)
    else:
        pointer.store(convert(value, pointer.pointee), index, mask, nontemporal=stream and mask is None)


def number_values(f: Function, element: Type, lanes: int, names: Sequence[str]) -> dict[str, Value]:
    """The numbers of a formula, from slots that hold doubles, in every lane."""
    return {n: splat(convert(getattr(f.args, n), element), lanes) for n in names}


class Elementwise:
    """A kernel from a formula. Called with arrays, which broadcast, and the formula's numbers.

    ``out`` takes the results. It may name inputs: every element is read before it is written. Arrays may not overlap
    otherwise.

    >>> axpy = Elementwise("axpy", lambda x, y, *, a: a * x + y)
    >>> axpy(np.ones((2, 3), "f"), np.arange(3, dtype="f"), a=2.0)
    array([[2., 3., 4.],
           [2., 3., 4.]], dtype=float32)
    """

    def __init__(self, name: str, formula: Callable[..., Any]) -> None:
        self.formula = Formula(name, formula)
        self._plans: dict[Any, _Plan] = {}

    def __repr__(self) -> str:
        return f"Elementwise({self.formula.name})"

    def __call__(self, *arrays: Array, out: Sequence[Array] = (), **numbers: float) -> Any:
        return self.of(arrays, [*map(numbers.__getitem__, self.formula.numbers)], out)

    def of(self, arrays: Sequence[Array], values: Sequence[float], out: Sequence[Array] = ()) -> Any:
        """The same with the values of the formula's numbers in order."""
        key = (target.isa().name, *[(a.shape, a.strides, a.dtype) for a in arrays])
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plan(key, arrays)
        for k, grown in plan.copies:
            whole = np.broadcast_to(arrays[k], plan.shape)[tuple(slice(n) for n in grown)]
            arrays = (*arrays[:k], contiguous(whole), *arrays[k + 1 :])
        if out:
            plan.check(self.formula.name, out)
        results = out or [make() for make in plan.makes]
        region = plan.regions[plan.pack_numbers(*values)] if plan.plain else None
        if region is not None:
            region(*arrays, *results)
        elif plan.tasks:
            places = [address(a) for a in results]
            slots = plan.pack(*[address(a) for a in arrays], *places, *values, *plan.geometry)
            entry = plan.entry
            if plan.streaming is not None and not out and not any(p % _LINE_BYTES for p in places):
                entry = plan.streaming
            threads.run(entry, slots, plan.tasks, chunk=plan.chunk)
        return results[0] if len(results) == 1 else tuple(results)

    def _plan(self, key: Any, arrays: Sequence[Array]) -> _Plan:
        if len(arrays) != len(self.formula.arrays):
            raise TypeError(f"{self.formula.name}: takes arrays {self.formula.arrays}, not {len(arrays)}")
        shape = broadcast_shape(*(a.shape for a in arrays))
        rows = layout(shape, [a.shape for a in arrays], [tuple(s // a.itemsize for s in a.strides) for a in arrays])
        inner = tuple(s[2] for s in rows.strides)
        dtypes = tuple(a.dtype.name for a in arrays)
        compute_type(dtypes)
        if not all(a.dtype.isnative for a in arrays):
            raise DTypeError(f"{self.formula.name}: arrays must be in the machine's byte order")
        usual = _Kernel(self.formula, dtypes, inner)
        outer, middle, n = rows.sizes
        blocks = -(-n // BLOCK)
        if len(self._plans) >= _PLANS:
            self._plans.clear()
        entry, streaming = jit.kernel(usual, usual.write).address("run"), self._streaming(usual, rows)
        geometry = (middle, n, blocks, *(s for step in rows.strides for s in step[:2]))
        tasks, chunk = outer * middle * blocks, max(1, GRAIN // min(max(n, 1), BLOCK))
        results = self.formula.result_dtypes(dtypes)
        plan = self._plans[key] = _Plan(
            entry=entry,
            streaming=streaming,
            pack=struct.Struct(usual.slots).pack,
            geometry=geometry,
            copies=rows.copies,
            shape=shape,
            dtypes=results,
            makes=tuple(making(shape, dtype) for dtype in results),
            tasks=tasks,
            chunk=chunk,
            pack_numbers=struct.Struct(f"{len(self.formula.numbers)}d").pack,
            plain=tasks > 0 and streaming is None and not rows.copies and all(a.flags.c_contiguous for a in arrays),
            regions=ByNumbers(
                [(entry, tasks, chunk)], range(len(arrays) + len(results)), geometry, worth=-(-prod(shape) // GRAIN)
            ),
        )
        return plan

    def _streaming(self, usual: _Kernel, rows: Layout) -> int | None:
        """The kernel for results of our own that will not stay in cache: written past it, they are not read first."""
        lanes = target.isa().lanes(compute_type(usual.dtypes))
        large = prod(rows.sizes) * BY_DTYPE[stored_name(usual.dtypes)].bytes > target.cpu().l3_bytes // 2
        if not large or lanes == 1 or (rows.sizes[2] % lanes and prod(rows.sizes[:2]) > 1):
            return None  # small, or vectors would straddle cache lines
        streaming = replace(usual, stream=True)
        return jit.kernel(streaming, streaming.write).address("run")


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that a call with arrays of known shapes and strides needs."""

    entry: int
    streaming: int | None
    pack: Callable[..., bytes]
    geometry: tuple[int, ...]
    copies: tuple[tuple[int, Sizes], ...]
    shape: Sizes
    dtypes: tuple[np.dtype[Any], ...]
    makes: tuple[Callable[[], Array], ...]
    tasks: int
    chunk: int
    pack_numbers: Callable[..., bytes]
    plain: bool  #: the arrays lie as a bound region asks, whose results do not go past the caches
    regions: ByNumbers

    def check(self, name: str, out: Sequence[Array]) -> None:
        """Raises ShapeError if results cannot be put in ``out``."""
        for a, dtype in zip(out, self.dtypes, strict=True):
            if a.shape != self.shape or a.dtype != dtype or not a.flags.c_contiguous:
                raise ShapeError(
                    f"{name}: out is {a.dtype}{list(a.shape)}; it must be {dtype}{list(self.shape)} and C-contiguous"
                )


@dataclass(frozen=True)
class _Kernel:
    """A formula for arrays of these dtypes, of which those with ``inner`` 0 are one number a row."""

    formula: Formula
    dtypes: tuple[str, ...]
    inner: tuple[int, ...]
    stream: bool = False

    @property
    def slots(self) -> str:
        """The slots of the entry point in the spelling of ``struct``: arrays, numbers, geometry."""
        arrays, numbers = len(self.dtypes) + len(self.formula.result_types(self.dtypes)), len(self.formula.numbers)
        return f"{arrays}q{numbers}d{3 + 2 * len(self.dtypes)}q"

    def write(self, isa: ISA) -> Module:
        """Rows split into blocks; a task is a block. Whole vectors, then one masked."""
        element = compute_type(self.dtypes)
        lanes = isa.lanes(element)
        sources = {n: ptr(BY_DTYPE[d]) for n, d in zip(self.formula.arrays, self.dtypes, strict=True)}
        stored, types = BY_DTYPE[stored_name(self.dtypes)], self.formula.result_types(self.dtypes)
        results = {f"out{k}": ptr(i8 if t == i1 else stored) for k, t in enumerate(types)}
        steps = {f"{n}_{axis}": i64 for n in sources for axis in ("outer", "middle")}
        m = Module(f"{self.formula.name}_{'_'.join(self.dtypes)}", isa)
        numbers = dict.fromkeys(self.formula.numbers, f64)
        f = m.entry("run", **sources, **results, **numbers, middle=i64, n=i64, blocks=i64, **steps)
        a = f.args
        constants = number_values(f, element, lanes, self.formula.numbers)
        with f.loop(a.begin, a.end) as task:
            row, start = task.i // a.blocks, task.i % a.blocks * BLOCK
            stop = minimum(start + BLOCK, a.n)
            outer, middle = row // a.middle, row % a.middle
            inputs: list[Pointer | Value] = []
            for name, step in zip(sources, self.inner, strict=True):
                first = getattr(a, name).at(outer * getattr(a, f"{name}_outer") + middle * getattr(a, f"{name}_middle"))
                inputs.append(first if step else splat(read(first, 0, 1, None), lanes))
            outputs = [getattr(a, name).at(row * a.n) for name in results]

            def vector(i: Value, mask: Value | None) -> None:
                values = [read(x, i, lanes, mask) if isinstance(x, Pointer) else x for x in inputs]
                for pointer, value in zip(outputs, self.formula(values, constants), strict=True):
                    write(pointer, value, i, mask, self.stream)

            over_vectors(f, start, stop, lanes, vector)
        return m


def over_vectors(
    f: Function, start: Value, stop: Value, lanes: int, body: Callable[[Value, Value | None], None]
) -> None:
    """Runs ``body`` over [start, stop): whole vectors with no mask, then what is left under one."""
    whole = stop - (stop - start) % lanes
    with f.loop(start, whole, lanes) as loop:
        body(loop.i, None)
    if lanes > 1:
        with f.when(whole < stop):
            body(whole, lanes_below(f, stop - whole, lanes))
