"""Maximum and average over windows, and their gradients: vectors of neighbouring outputs, one tap after another.

Arrays are (..., *size) with one trailing axis per axis of the ``PoolSpec``; everything before is a batch of planes.
Where all lanes of a vector lie inside the input, taps are plain loads; at the edges they are masked. A stride of 2
along the last axis takes the even elements of two vectors, a larger one gathers. Gradients scatter, a plane a task, in
the order of the outputs: the same bits for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from lucid.core.geometry import PoolSpec, Sizes
from lucid.kernels import jit, pool_tiles, pool_windows, target
from lucid.kernels.casting import as_type
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    convert,
    extract,
    i32,
    i64,
    interleave,
    lane_numbers,
    lanes_below,
    maximum,
    minimum,
    ptr,
    select,
    shuffle,
    splat,
    vec,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import Launch, of_any_layout
from lucid.kernels.pool_windows import window_count
from lucid.kernels.runtime.memory import empty

Array = np.ndarray[Any, Any]
Mode = Literal["max", "indices", "max_grad", "max_pick", "avg", "avg_grad"]

RANK = 3
GRAIN = 8192  #: taps of a chunk of tasks, at least
_AXES = ("d", "h", "w")
_PER_AXIS = ("size", "out", "kernel", "stride", "dilation", "low", "first", "last")
_SCATTERS = ("max_grad", "avg_grad")


def max_pool(x: Array, spec: PoolSpec) -> Array:
    """The largest sample of each window. NaN wins, padding never does.

    Shape: x (..., *size), result (..., *spec.out_size(size)).
    """
    return _run("max", spec, _size(x, spec), x, None)


def max_pool_indices(x: Array, spec: PoolSpec) -> Array:
    """Where in its plane each window's largest sample is, as flat index (int64): the first of equals, the last NaN."""
    return _run("indices", spec, _size(x, spec), x, None)


def max_pool_grad(h: Array, x: Array, spec: PoolSpec) -> Array:
    """Every element of ``h`` added to the place that its window's maximum of ``x`` came from."""
    return _run("max_grad", spec, _size(x, spec), x, h)


def max_pool_pick(h: Array, x: Array, spec: PoolSpec) -> Array:
    """``h`` where each window's maximum of ``x`` is: the adjoint of ``max_pool_grad``."""
    return _run("max_pick", spec, _size(x, spec), x, h)


def avg_pool(x: Array, spec: PoolSpec, count_include_pad: bool, divisor: int | None) -> Array:
    """The mean of each window; ``divisor`` replaces the count. What hangs over the padding never counts."""
    return _run("avg", spec, _size(x, spec), x, None, count_include_pad, divisor)


def avg_pool_grad(h: Array, spec: PoolSpec, size: Sizes, count_include_pad: bool, divisor: int | None) -> Array:
    """The adjoint of ``avg_pool`` on planes of ``size``."""
    return _run("avg_grad", spec, size, None, h, count_include_pad, divisor)


def _size(x: Array, spec: PoolSpec) -> Sizes:
    size: Sizes = x.shape[x.ndim - len(spec.kernel) :]
    return size


def _run(
    mode: Mode,
    spec: PoolSpec,
    size: Sizes,
    x: Array | None,
    h: Array | None,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Array:
    given = x if x is not None else h
    assert given is not None, "a pooling has an input"
    found = _made(mode, spec, size, given.shape, given.dtype, count_include_pad, divisor, target.isa().name)
    if found.run is not None:
        result = empty(found.shape, found.dtype)
        found.run(x, h, result)
        return result
    if given.dtype.itemsize == 2 and given.size:  # gradients are added up where they lie
        single = np.dtype(np.float32)
        x, h = (a if a is None else as_type(a, single) for a in (x, h))
        wide = _run(mode, spec, size, x, h, count_include_pad, divisor)
        return wide if mode == "indices" else as_type(wide, given.dtype)
    return np.zeros(found.shape, found.dtype)


class _Made(NamedTuple):
    """A pooling of arrays of known shapes; nothing to run where there is nothing to compute, or only in float32."""

    run: Callable[..., None] | None
    shape: Sizes
    dtype: np.dtype[Any]


@lru_cache(maxsize=1024)
def _made(
    mode: Mode, spec: PoolSpec, size: Sizes, shape: Sizes, dtype: np.dtype[Any], count_include_pad: bool,
    divisor: int | None, isa: str,
) -> _Made:  # fmt: skip
    out, lead = spec.out_size(size), shape[: len(shape) - len(size)]
    result = (*lead, *(size if mode in _SCATTERS else out))
    made = np.dtype(np.int64) if mode == "indices" else dtype
    if 0 in (*shape, *result):
        return _Made(None, result, made)
    if mode != "indices" and mode != "max_pick":
        if pool_tiles.fit(spec, size):
            tiles = pool_tiles.region(mode, spec, lead, size, dtype.name, divisor or prod(spec.kernel))
            return _Made(of_any_layout(tiles), result, made)
        if pool_windows.fit(spec, size):
            windows = pool_windows.region(mode, spec, lead, size, dtype.name, count_include_pad, divisor)
            return _Made(of_any_layout(windows), result, made)
    if dtype.itemsize == 2:
        return _Made(None, result, made)
    kernel = _Kernel(mode, dtype.name, min(spec.stride[-1], 3), _unrolled(spec.kernel[-1]), divisor is not None)
    tasks = prod(lead) * (1 if mode in _SCATTERS else prod(out[:-1]))
    taps = prod(spec.kernel) * (prod(out) if mode in _SCATTERS else out[-1])
    launch = Launch(
        [(jit.kernel(kernel, kernel.write).address("run"), tasks, max(1, GRAIN // taps))],
        [0, 0, 0, divisor or 0, *_geometry(spec, size, out, count_include_pad)],
        pool_tiles.sources(mode),
        most_threads=tasks,
        worth=-(-tasks * taps // GRAIN),
    )
    return _Made(of_any_layout(launch), result, made)


def _unrolled(taps: int) -> int:
    """Few taps are written out, so that what they have in common on every line of a window is found once."""
    return taps if taps <= 3 else 0


def _geometry(spec: PoolSpec, size: Sizes, out: Sizes, count_include_pad: bool) -> list[int]:
    """The numbers of ``_PER_AXIS`` for every axis, leading axes of size 1 added."""
    numbers = [1, 1, 1, 1, 1, 0, 0, 1] * (RANK - len(size))
    for n, o, k, s, d, (low, high) in zip(
        size, out, spec.kernel, spec.stride, spec.dilation, spec.padding, strict=True
    ):
        first, last = (0, low + n + high) if count_include_pad else (low, low + n)
        numbers += [n, o, k, s, d, low, first, last]
    return numbers


@dataclass(frozen=True)
class _Kernel:
    """A pooling of one dtype; ``fixed`` is the divisor.

    Along the last axis ``stride`` is 1, 2 or, as 3, anything, and ``taps`` is how many there are, or 0 for any number.
    """

    mode: Mode
    dtype: str
    stride: int
    taps: int
    fixed: bool

    def write(self, isa: ISA) -> Module:
        """A task is a row of outputs, or a plane where the mode scatters."""
        element = BY_DTYPE[self.dtype]
        m = Module(f"pool_{self.mode}_{self.dtype}", isa)
        result = i64 if self.mode == "indices" else element
        geometry = {f"{n}_{axis}": i64 for axis in _AXES for n in _PER_AXIS}
        f = m.entry("run", x=ptr(element), h=ptr(element), y=ptr(result), divisor=i64, **geometry)
        _Writer(self, f, isa.lanes(element), element).write()
        return m


State = list[Value]


@dataclass(frozen=True, slots=True)
class _Edge:
    """Which lanes of a tap lie inside the input; at stride 2 also which elements of the two vectors they come from."""

    lanes: Value
    halves: tuple[Value, ...]


class _Writer:
    """The code of a pooling's task."""

    def __init__(self, kernel: _Kernel, f: Function, lanes: int, element: Type) -> None:
        self.kernel, self.f, self.a, self.lanes, self.element = kernel, f, f.args, lanes, element
        self.along = lane_numbers(f, lanes, element=i32) * splat(convert(self.a.stride_w, i32), lanes)

    def write(self) -> None:
        f, a = self.f, self.a
        if self.kernel.mode in _SCATTERS:
            with f.loop(a.begin, a.end) as task:
                self._clear(task.i)
                with f.loop(0, a.out_d) as d, f.loop(0, a.out_h) as h:
                    self._outputs(task.i, d.i, h.i)
            return
        lines = a.begin // a.out_h  # divided once, then counted up
        first = [lines // a.out_d, lines % a.out_d, a.begin % a.out_h]
        with f.loop(a.begin, a.end, carry=first) as task:
            plane, line, row = task.values
            self._outputs(plane, line, row)
            over = row + 1 >= a.out_h
            next_line = select(over, line + 1, line)
            past = next_line >= a.out_d
            task.values = [
                select(past, plane + 1, plane),
                select(past, 0, next_line),
                select(over, 0, row + 1),
            ]

    def _clear(self, plane: Value) -> None:
        f, a, lanes = self.f, self.a, self.lanes
        n = a.size_d * a.size_h * a.size_w
        y, zero = a.y.at(plane * n), f.const(vec(self.element, lanes), 0)
        whole = n - n % lanes
        with f.loop(0, whole, lanes) as loop:
            y.store(zero, loop.i)
        if lanes > 1:
            y.store(zero, whole, lanes_below(f, n - whole, lanes))

    def _inside(self, axis: str, start: Value) -> tuple[Value, Value]:
        """The taps along an axis that lie inside the input. Divisions are for the edges."""
        size, kernel, dilation = (getattr(self.a, f"{n}_{axis}") for n in ("size", "kernel", "dilation"))

        def at_an_edge() -> list[Value]:
            first = maximum(0 - start, 0) + dilation - 1
            return [first // dilation, minimum(kernel, maximum(size - start + dilation - 1, 0) // dilation)]

        whole = (start >= 0) & (start + (kernel - 1) * dilation < size)
        first, end = self.f.choose(whole, lambda: [self.f.const(i64, 0), kernel], at_an_edge)
        return first, end

    def _outputs(self, plane: Value, d: Value, h: Value) -> None:
        """A row of outputs, a vector at a time."""
        f, a, lanes = self.f, self.a, self.lanes
        start_d, start_h = d * a.stride_d - a.low_d, h * a.stride_h - a.low_h
        taps_d, taps_h = self._inside("d", start_d), self._inside("h", start_h)
        row = ((plane * a.out_d + d) * a.out_h + h) * a.out_w
        origin = plane * a.size_d * a.size_h * a.size_w
        with f.loop(0, a.out_w, lanes) as column:
            start_w = column.i * a.stride_w - a.low_w
            there = lanes_below(f, a.out_w - column.i, lanes)
            at = row + column.i

            def visit(edge: bool, state: State, body: Callable[..., State]) -> State:
                def place_of(tap: Any) -> tuple[Value, _Edge | None]:
                    place = start_w + tap * a.dilation_w
                    return place, self._edge(place) if edge else None

                ready = [place_of(self._number(k)) for k in range(self.kernel.taps)]
                with f.loop(*taps_d, carry=state) as kd:
                    line_d = (start_d + kd.i * a.dilation_d) * a.size_h
                    with f.loop(*taps_h, carry=kd.values) as kh:
                        line = (line_d + start_h + kh.i * a.dilation_h) * a.size_w
                        if ready:
                            for place, inside in ready:
                                kh.values = body(kh.values, line, place, inside)
                        else:
                            with f.loop(0, a.kernel_w, carry=kh.values) as kw:
                                kw.values = body(kw.values, line, *place_of(kw.i))
                            kh.values = kw.values
                    kd.values = kh.values
                return kd.values

            far = start_w + (a.kernel_w - 1) * a.dilation_w + lanes * a.stride_w
            inside = (start_w >= 0) & (far <= a.size_w) & (column.i + lanes <= a.out_w)

            def taps(state: State, body: Callable[..., State]) -> State:
                if lanes == 1:
                    return visit(True, state, body)
                return f.choose(inside, lambda: visit(False, state, body), lambda: visit(True, state, body))

            self._vector(taps, origin, at, there, (d, h, column.i))

    def _number(self, k: int) -> Value:
        return self.f.const(i64, k)

    def _edge(self, place: Value) -> _Edge:
        """The lanes and elements of a tap that lie inside the row."""
        lanes, size = self.lanes, splat(convert(self.a.size_w, i32), self.lanes)
        start = splat(convert(place, i32), lanes)
        near = lane_numbers(self.f, lanes, element=i32) + start
        halves = (near.ult(size), (near + lanes).ult(size)) if self.kernel.stride == 2 and lanes > 1 else ()
        return _Edge((self.along + start).ult(size), halves)

    def _load(self, row: Pointer, place: Value, edge: _Edge | None) -> Value:
        """Elements a stride apart, 0 outside."""
        lanes = self.lanes
        if self.kernel.stride == 1 or lanes == 1:
            return row.load(place, lanes, None if edge is None else edge.lanes)
        if self.kernel.stride == 2:
            halves = [row.load(place + k * lanes, lanes, None if edge is None else edge.halves[k]) for k in range(2)]
            return shuffle(halves[0], halves[1], range(0, 2 * lanes, 2))
        return row.at(place).gather(self.along, self.along >= 0 if edge is None else edge.lanes)

    def _vector(
        self,
        taps: Callable[[State, Callable[..., State]], State],
        origin: Value,
        at: Value,
        there: Value,
        place: tuple[Value, Value, Value],
    ) -> None:
        mode, a = self.kernel.mode, self.a
        if mode == "max":
            lowest = self.f.const(vec(self.element, self.lanes), -np.inf)
            (best,) = taps([lowest], self._larger(a.x.at(origin)))
            a.y.store(best, at, there)
        elif mode == "avg":
            zero = self.f.const(vec(self.element, self.lanes), 0.0)
            (total,) = taps([zero], self._summed(a.x.at(origin)))
            a.y.store(total / self._count(place), at, there)
        elif mode == "avg_grad":
            share = a.h.load(at, self.lanes, there) / self._count(place)
            taps([], self._shared(a.y.at(origin), share, there))
        else:
            self._winner(taps, origin, at, there)

    def _larger(self, plane: Pointer) -> Callable[..., State]:
        def body(state: State, line: Value, place: Value, edge: _Edge | None) -> State:
            value, (best,) = self._load(plane.at(line), place, edge), state
            better = (value > best) | value.ne(value)
            return [select(better if edge is None else better & edge.lanes, value, best)]

        return body

    def _summed(self, plane: Pointer) -> Callable[..., State]:
        def body(state: State, line: Value, place: Value, edge: _Edge | None) -> State:
            return [state[0] + self._load(plane.at(line), place, edge)]

        return body

    def _shared(self, plane: Pointer, share: Value, there: Value) -> Callable[..., State]:
        def body(state: State, line: Value, place: Value, edge: _Edge | None) -> State:
            self._add(plane.at(line), place, share, edge, there)
            return state

        return body

    def _add(self, row: Pointer, place: Value, value: Value, edge: _Edge | None, there: Value) -> None:
        """Adds lanes to elements a stride apart. Without an edge all of them are inside, and all are ``there``."""
        lanes, wanted = self.lanes, None if edge is None else edge.lanes & there
        if self.kernel.stride == 1 or lanes == 1:
            row.store(row.load(place, lanes, wanted) + value, place, wanted)
        elif self.kernel.stride == 2:
            spread = interleave([value if wanted is None else select(wanted, value, 0.0), value.const(0.0)])
            for k, half in enumerate(spread):
                mask = None if edge is None else edge.halves[k]
                row.store(row.load(place + k * lanes, lanes, mask) + half, place + k * lanes, mask)
        else:
            for lane in range(lanes):
                with self.f.when(extract(there if wanted is None else wanted, lane)):
                    one = row.at(place + self.a.stride_w * lane)
                    one.store(one.load() + extract(value, lane))

    def _winner(
        self, taps: Callable[[State, Callable[..., State]], State], origin: Value, at: Value, there: Value
    ) -> None:
        """Finds where the maximum is, and does with it what the mode says."""
        f, a, lanes, plane = self.f, self.a, self.lanes, self.a.x.at(origin)

        def body(state: State, line: Value, place: Value, edge: _Edge | None) -> State:
            value, (best, index) = self._load(plane.at(line), place, edge), state
            better = (value > best) | value.ne(value) | (index < 0)
            better = better if edge is None else better & edge.lanes
            here = self.along + splat(convert(line + place, i32), lanes)
            return [select(better, value, best), select(better, here, index)]

        lowest, none = f.const(vec(self.element, lanes), -np.inf), f.const(vec(i32, lanes), -1)
        _, index = taps([lowest, none], body)
        if self.kernel.mode == "indices":
            a.y.store(convert(index, i64), at, there)
        elif self.kernel.mode == "max_pick":
            a.y.store(a.h.at(origin).gather(convert(index, i64), (index >= 0) & there), at, there)
        else:
            value = a.h.load(at, lanes, there)

            def put(state: State, line: Value, place: Value, edge: _Edge | None) -> State:
                here = self.along + splat(convert(line + place, i32), lanes)
                self._add(a.y.at(origin + line), place, select(here.eq(index), value, 0.0), edge, there)
                return state

            taps([], put)

    def _count(self, place: Sequence[Value]) -> Value:
        """What the sums are divided by, in every lane."""
        lanes = self.lanes
        if self.kernel.fixed:
            return splat(convert(self.a.divisor, self.element), lanes)
        d, h, w = place
        return window_count(self.f, lanes, self.element, d=d, h=h, w=w)
