"""Rows that slide through registers: the native code of ``sliding``.

A step reads the source rows of one row of results, once. A row of vectors meets every tap across by shifts between
neighbours, in registers: a load that straddles two lines would cost more than the products it serves. It meets every
tap down by the sums of several rows of results, which are held together; one is finished a step, and the others move
up. Rows outside are left out, columns outside are lanes that are not loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

from lucid.kernels.algorithms.correlation_kernel import widened
from lucid.kernels.algorithms.sliding_tile import AHEAD_ROWS, Slide
from lucid.kernels.epilogue import Arrays, Destination, parameters
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    bf16_dot,
    bitcast,
    computed,
    convert,
    fma,
    i16,
    i32,
    i64,
    interleave,
    lane_numbers,
    lanes_below,
    lanes_inside,
    loaded_as,
    maximum,
    minimum,
    ptr,
    select,
    shuffle,
    slid,
    splat,
    vec,
    zeros,
)
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Epilogue

#: How many steps before it is written a vector is asked for, where the caches have not all of the results.
_AHEAD_RESULTS = 8

_ARRAYS = ("x", "weights", "bias", "y", "scale", "shift", "residual", "own", "zeros")
NUMBERS = (
    "groups", "sources", "results", "boxes", "box_h", "rows", "columns", "h", "w", "size_h", "size_w",
    "low_h", "w_group", "w_source", "w_result", "bias_step", "private", "spare",
)  # fmt: skip

#: Rows of planes before this one that went through the ring, its own that are there, those behind it that may be.
_PLANES = ("before", "there", "behind")

#: Sums by phase of rows and lag, each a list over results, phases of columns and vectors.
Sums = dict[tuple[int, int], list[Value]]


def fields(element: Type) -> dict[str, Type]:
    """What the entry point ``slide`` reads."""
    arrays = {**dict.fromkeys(_ARRAYS, ptr(element)), "own": ptr(computed(element))}
    return {**arrays, **dict.fromkeys(NUMBERS, i64)}


def write(isa: ISA, element: Type, tile: Slide, epilogue: Epilogue) -> Module:
    """A task is a box of rows of the results of one image and group."""
    module, lanes = Module("sliding", isa), isa.lanes(computed(element))
    kind = _PairedStrip if tile.pairs else _DottedStrip if tile.dots else _FoldedStrip if tile.folds else _Strip
    last = strip = kind(module, element, lanes, tile.last, epilogue).function
    if tile.tail and not tile.alone:
        strip = kind(module, element, lanes, replace(tile, tail=0), epilogue, full=True).function
    f = module.entry("slide", **fields(element))
    a = f.args
    arrays, plane, wide = Arrays.of(epilogue, a.y, a), a.size_h * a.size_w, tile.vectors * lanes
    each = lanes if tile.spreads else 1  # numbers of a copied weight
    if tile.ring:
        _clear_ends(f, a.own.at(a.thread * a.private + wide), tile, lanes)
    with f.loop(a.begin, a.end) as task:
        image_group, first = _box(a, tile, task.i)
        group, source = image_group % a.groups, a.x.at(image_group * a.sources * (a.h * a.w))
        rows, spare = minimum(a.box_h, a.rows - first), a.own.at(a.thread * a.private)
        weights = a.weights.at(group * a.w_group)
        if not tile.holds:
            weights = copied(f, weights, spare.at(a.spare), a.w_group, tile, lanes)
        with f.loop(0, a.results, tile.results) as result, f.loop(0, a.columns, wide) as column:
            channel = group * a.results + result.i
            to = arrays.at(channel, (image_group * a.results + result.i) * plane + column.i * len(tile.across))
            given = (
                spare.cast(element), source, a.sources, a.h, a.w, column.i * tile.stride[1], a.low_h,
                weights.at(result.i * (a.w_result * each)), a.w_source * each, a.w_result * each,
                a.bias.at(channel * a.bias_step), a.bias_step, a.zeros, to.y, a.size_h, a.size_w,
                a.size_w - column.i * len(tile.across), first, rows, *(_planes(a, tile, task.i) if tile.ring else ()),
                *to.given.values(),
            )  # fmt: skip
            if strip is last:
                f.call(strip, *given)
            else:
                ends = column.i + wide >= a.columns
                for there, which in ((ends, last), (~ends, strip)):
                    with f.when(there):
                        f.call(which, *given)
    return module


def _box(a: Any, tile: Slide, task: Value) -> tuple[Value, Value]:
    """A task's image and group, and its first row."""
    if any(tile.edges):  # of whole planes
        return task, task.const(0)
    return task // a.boxes, task % a.boxes * a.box_h


def _clear_ends(f: Function, ring: Pointer, tile: Slide, lanes: int) -> None:
    """Zeros before and behind every row of a ring, and where its last vector is not full."""
    nothing, row = zeros(f, ring.pointee, lanes), tile.ring_row(lanes)
    ring.store(nothing)
    with f.loop(row, (tile.ring_rows + 1) * row, row) as behind:
        ring.store(nothing, behind.i - lanes)
        ring.store(nothing, behind.i)


def _planes(a: Any, tile: Slide, task: Value) -> tuple[Value, Value, Value]:
    """The numbers of ``_PLANES``: where planes are tasks, the last steps of one put the first rows of the next."""
    steps = a.rows + max(lags[-1] for lags in tile.lags)
    joined = a.boxes.eq(1) & a.results.eq(tile.results) & (a.low_h >= 0) & (steps >= a.h + a.low_h)
    there = select(joined & (task > a.begin), a.h.const(tile.ahead), 0)
    return (task - a.begin) * a.h, there, select(joined, minimum((a.end - task - 1) * a.h, tile.ahead), 0)


def _line_elements(element: Type) -> int:
    """How many lie in a line of the cache."""
    return 64 // element.bytes


def copied(f: Function, numbers: Pointer, to: Pointer, count: Value, tile: Slide, lanes: int) -> Pointer:
    """A group's numbers of w as its steps read them: joined, in all lanes, widened, or as they lie."""
    if tile.dots:
        return joined(f, numbers, to, count // tile.kernel_w, tile, lanes if tile.spreads else 1)
    if tile.spreads:
        return spread(f, numbers, to, count, lanes)
    return numbers if numbers.pointee == to.pointee else widened(f, numbers, to, count, lanes)


def spread(f: Function, numbers: Pointer, to: Pointer, count: Value, lanes: int) -> Pointer:
    """Every number in all lanes of a vector."""
    with f.loop(0, count) as i:
        to.store(splat(convert(numbers.load(i.i), to.pointee), lanes), i.i * lanes)
    return to


def joined(f: Function, numbers: Pointer, to: Pointer, rows: Value, tile: Slide, lanes: int) -> Pointer:
    """The numbers of w that are multiplied together, two bfloats each, in all of so many lanes; by rows of taps."""
    words, pairs = numbers.cast(i16), to.cast(i32)
    with f.loop(0, rows) as row:
        first = row.i * tile.kernel_w
        for n, (one, other, _) in enumerate(tile.twos):
            pairs.store(splat(_pair(words.at(first), one, other), lanes), (first + n) * lanes)
    return to


def _pair(words: Pointer, one: int | None, other: int) -> Value:
    """Two numbers side by side, or 0 and one."""
    high = convert(words.load(other), i32, signed=False) << 16
    return high if one is None else high | convert(words.load(one), i32, signed=False)


class _Strip:
    """Writes ``strip``: so many vectors of columns, all rows of a box.

    ``column`` is that of the source's which tap 0 without padding meets first; ``y`` is the strip's place in the first
    row, and ``left`` how many columns of it there are.
    """

    def __init__(
        self, module: Module, element: Type, lanes: int, tile: Slide, epilogue: Epilogue, full: bool = False
    ) -> None:
        data = ptr(element)
        weights = data if tile.holds else ptr(computed(element))
        planes: dict[str, Any] = dict.fromkeys(_PLANES if tile.ring else (), i64)
        self.tile, self.lanes, self.wide, self.full = tile, lanes, computed(element), full
        self.function = f = module.function(
            f"strip{tile.tail or ''}", spare=data, source=data, sources=i64, h=i64, w=i64, column=i64, low_h=i64,
            weights=weights, w_source=i64, w_result=i64, bias=data, bias_step=i64, zeros=data, y=data,
            size_h=i64, size_w=i64, left=i64, first=i64, rows=i64, **planes, **parameters(epilogue, element),
        )  # fmt: skip
        self.a = a = f.args
        self.results = Arrays.of(epilogue, a.y, a)
        self.plane = a.size_h * a.size_w
        self.biases = [self._number(a.bias, a.bias_step * k) for k in range(tile.results)]
        self._prepare()
        self._write()

    def _prepare(self) -> None:
        """What all steps share."""
        f, a, tile, lanes = self.function, self.a, self.tile, self.lanes
        self._share_out()
        self.reading = tile.row(lanes)
        self.masks = self.reading.masks(f, a.column, a.w)
        self.held = self._weights(a.weights) if tile.holds else None
        self.beyond = {
            (at, v): lanes_inside(f, a.column + (v * lanes + at), a.w, lanes)
            for at, v in product(sorted(set(self.reading.shifts)), range(tile.vectors) if tile.apart else ())
            if not 0 <= v * lanes + at <= (tile.vectors - 1) * lanes
        }

    def _share_out(self) -> None:
        """Lanes of each vector of sums, where it is in a row of the result, and which of it there are."""
        tile, lanes, phases = self.tile, self.lanes, self.tile.phases
        self.widths = tile.widths(lanes)
        self.places = [
            (v * lanes * phases + c * width, width) for v, width in enumerate(self.widths) for c in range(phases)
        ]
        self.start = [self._part(bias, width) for bias in self.biases for _ in range(phases) for width in self.widths]
        columns = lanes * (tile.vectors * len(tile.across) - 1) + 1 if tile.whole else 0  # at least
        self.stored = self._stored(sum(at + width <= columns for at, width in self.places))

    def _stored(self, whole: int = 0) -> list[Value | None]:
        """Which lanes there are of each vector of a result's row: of ``whole`` ones, and in a full strip, all."""
        places = self.places[len(self.places) if self.full else whole :]
        cut = [lanes_below(self.function, self.a.left - at, width, i32) for at, width in places]
        return [*[None] * (len(self.places) - len(cut)), *cut]

    @staticmethod
    def _part(value: Value, lanes: int) -> Value:
        """The first lanes, which are a register of their own."""
        return value if lanes == value.type.lanes else shuffle(value, None, range(lanes))

    def _number(self, numbers: Pointer, index: Any) -> Value:
        return splat(convert(numbers.load(index), self.wide), self.lanes)

    def _weights(self, w: Pointer) -> dict[tuple[int, int, int], Value]:
        """Every tap of every result, in all lanes, by (result, tap down, tap across)."""
        taps = product(range(self.tile.results), self._taps(self.tile.downs), self._taps(self.tile.across))
        return {(k, h, t): self._weight(w, k, h, t) for k, h, t in taps}

    def _weight(self, w: Pointer, k: int, h: int, t: int) -> Value:
        of_result, tap = w.at(self.a.w_result * k if k else 0), h * self.tile.kernel_w + t
        return of_result.load(tap * self.lanes, self.lanes) if self.tile.spreads else self._number(of_result, tap)

    @staticmethod
    def _taps(phases: tuple[tuple[tuple[int, int], ...], ...]) -> Iterator[int]:
        return (tap for phase in phases for tap, _ in phase)

    def _write(self) -> None:
        """The steps that read rows, then those that only finish sums."""
        f, a, tile = self.function, self.a, self.tile
        stride, reach = tile.stride[0], max(lags[-1] for lags in tile.lags)
        end = a.first + a.rows + reach
        begin = maximum(a.first, a.low_h // stride)
        below = minimum(end, (a.h + a.low_h + (stride - 1)) // stride)
        keys = [(p, b) for p, lags in enumerate(tile.lags) for b in lags[1:]]
        start = [value for _ in keys for value in self.start]
        if tile.ring:
            beyond = below + a.behind
            self.last = beyond - 1
            with f.loop(begin + a.there, minimum(begin + tile.ahead, beyond)) as rows:
                self._put(rows.i, rows.i)
        top, bottom = tile.edges
        for n in range(top):
            start = self._step(begin + n, keys, start, read=True, above=top - n)
        with f.loop(begin + top if top else begin, below - bottom if bottom else below, carry=start) as steps:
            steps.values = self._step(steps.i, keys, steps.values, read=True)
        ended = steps.values
        for n in range(bottom):
            ended = self._step(below - (bottom - n), keys, ended, read=True, beneath=n + 1)
        with f.loop(maximum(begin, below), end, carry=ended) as rest:
            rest.values = self._step(rest.i, keys, rest.values, read=False)

    def _step(
        self, m: Value, keys: list[tuple[int, int]], carried: list[Value], read: bool, above: int = 0, beneath: int = 0
    ) -> list[Value]:
        """The sums of rows in flight after a step; so many rows ``above`` and ``beneath`` the results are left out."""
        tile, each = self.tile, len(self.start)
        sums = {(p, lags[0]): self.start for p, lags in enumerate(tile.lags)}
        sums |= {key: carried[n * each : (n + 1) * each] for n, key in enumerate(keys)}
        if read and tile.ends_first:
            sums = self._ended_first(m, sums)
        else:
            if read:
                there = {key: values for key, values in sums.items() if self._there(*key, above, beneath)}
                sums |= self._added(m, there)
            for p, lags in enumerate(tile.lags):
                if not above:
                    self._finish(m - lags[-1], p, sums[p, lags[-1]])
        return [value for p, b in keys for value in sums[p, b - 1]]

    def _ended_first(self, m: Value, sums: Sums) -> Sums:
        """The sums after a step whose first row alone ends some: those are stored before all other products."""
        tile, stride, w = self.tile, self.tile.stride[0], self.a.weights
        sums = {key: list(values) for key, values in sums.items()}
        for e in range(stride):
            shifted = self._shifted(self.a.source, m * stride + e)
            downs = [(p, at // stride, h) for p, phase in enumerate(tile.downs) for h, at in phase if at % stride == e]
            ended = [(p, lag, h) for p, lag, h in downs if lag == tile.lags[p][-1]]
            self._add_row(shifted, w, ended, sums)
            for p, lags in enumerate(tile.lags if e == 0 else ()):
                self._finish(m - lags[-1], p, sums[p, lags[-1]])
            self._add_row(shifted, w, [down for down in downs if down not in ended], sums)
        return sums

    def _there(self, phase: int, lag: int, above: int, beneath: int) -> bool:
        """Whether the row of results of a lag is neither among those ``above`` nor ``beneath``."""
        lags = self.tile.lags[phase]
        return lags[beneath] <= lag <= lags[-1 - above]

    def _added(self, m: Value, sums: Sums) -> Sums:
        """With the products of a step's source rows."""
        f, a = self.function, self.a
        if not self.tile.several:
            return self._added_source(m, a.source, a.weights, sums)
        flat = [value for values in sums.values() for value in values]
        with f.loop(0, a.sources, carry=flat) as s:
            each, w = len(self.start), a.weights.at(s.i * a.w_source)
            now = {key: s.values[n * each : (n + 1) * each] for n, key in enumerate(sums)}
            added = self._added_source(m, a.source.at(s.i * (a.h * a.w)), w, now)
            s.values = [value for values in added.values() for value in values]
        return {key: s.values[n * each : (n + 1) * each] for n, key in enumerate(sums)}

    def _added_source(self, m: Value, source: Pointer, w: Pointer, sums: Sums) -> Sums:
        tile, stride = self.tile, self.tile.stride[0]
        sums = {key: list(values) for key, values in sums.items()}
        rows = range(stride)
        for e in reversed(rows) if tile.in_turns else rows:  # last the one that ends sums, or LLVM stores them before
            shifted = self._shifted(source, m * stride + e)
            downs = [(p, at // stride, h) for p, phase in enumerate(tile.downs) for h, at in phase if at % stride == e]
            self._add_row(shifted, w, [(p, lag, h) for p, lag, h in downs if (p, lag) in sums], sums)
        return sums

    def _add_row(
        self, shifted: Callable[[int, int], Value], w: Pointer, downs: list[tuple[int, int, int]], sums: Sums
    ) -> None:
        """Adds a row's products with taps ``downs``, each the phase and the lag of its sums and its number."""
        tile = self.tile
        for c, (t, at) in ((c, tap) for c, phase in enumerate(tile.across) for tap in phase):
            for (p, lag, h), k in product(downs, range(tile.results)):
                weight = self.held[k, h, t] if self.held else self._weight(w, k, h, t)
                for v, width in enumerate(self.widths):
                    n, x = (k * len(tile.across) + c) * tile.vectors + v, self._part(shifted(at, v), width)
                    sums[p, lag][n] = fma(self._part(weight, width), x, sums[p, lag][n])

    def _shifted(self, source: Pointer, row: Value) -> Callable[[int, int], Value]:
        """The row of the source that so many rows and padding lie before, from a shift on."""
        if not self.tile.ring:
            read = self._row(source, row - self.a.low_h)
            within = self.reading.read(read, self.masks, self.wide)
            return self._or_loaded(within, read) if self.tile.apart else within
        ahead = row + self.tile.ahead
        self._put(ahead, minimum(ahead, self.last))
        here, made = self._slot(row), dict[tuple[int, int], Value]()

        def vector(at: int, v: int) -> Value:
            if (at, v) not in made:
                made[at, v] = here.load(v * self.lanes + at, self.widths[v])
            return made[at, v]

        return vector

    def _or_loaded(self, within: Callable[[int, int], Value], row: Pointer) -> Callable[[int, int], Value]:
        """Vectors of a row from a shift on: slid, or loaded where they are partly beyond those that were read."""
        return cache(lambda at, v: self._loaded(row, at, v) if (at, v) in self.beyond else within(at, v))

    def _loaded(self, row: Pointer, at: int, v: int) -> Value:
        return loaded_as(self.wide, row, v * self.lanes + at, self.lanes, self.beyond[at, v])

    def _put(self, slot: Value, row: Value) -> None:
        """Widens a row into the ring."""
        to, loaded = (
            self._slot(slot),
            self.reading.loaded(self._row(self.a.source, row - self.a.low_h), self.masks, self.wide),
        )
        for v, value in loaded.items():
            to.store(value, v * self.lanes)

    def _slot(self, row: Value) -> Pointer:
        """A row's place in the ring, behind the zeros that lie before it."""
        ring: Pointer = self.a.spare.cast(self.wide).at((self.tile.vectors + 1) * self.lanes)
        return ring.at((self.a.before + row & (self.tile.ring_rows - 1)) * self.tile.ring_row(self.lanes))

    def _row(self, source: Pointer, row: Value) -> Pointer:
        """A row of the source; with a stride one of a step's may lie outside."""
        here = source.at(row * self.a.w)
        if self.tile.stride[0] > 1:
            there = select(row.ult(self.a.h), here, self.a.zeros)
            assert isinstance(there, Pointer)
            here = there
        here = here.at(self.a.column)
        for place in range(0, self.tile.vectors * self.tile.stride[1] * self.lanes, _line_elements(here.pointee)):
            here.prefetch(self.a.w * AHEAD_ROWS + place)
        return here

    def _finish(self, q: Value, phase: int, sums: list[Value]) -> None:
        """Stores a phase's row of position ``q``, if it is one of the box and of the result."""
        f, a, tile = self.function, self.a, self.tile
        row = q * len(tile.downs) + phase
        there = (q - a.first).ult(a.rows)
        if len(tile.downs) > 1:
            there = there & (row < a.size_h)
        lines = [
            (to := self.results.destination(k, row * a.size_w + (self.plane * k if k else 0)), self._line(sums, k, to))
            for k in range(tile.results)
        ]
        if not tile.stream:  # without a branch, behind which LLVM would put products, far from what they read
            for to, values in lines:
                place = to.unless(~there, a.spare)
                for (at, _), value, mask in zip(self.places, values, self.stored, strict=True):
                    if tile.asks and at % _line_elements(to.y.pointee) == 0:
                        to.y.prefetch(a.size_w * (_AHEAD_RESULTS * len(tile.downs)) + at, write=True)
                    place.store(value, at, mask)
            return
        with f.when(there):
            for n, (at, _) in enumerate(self.places):
                with f.when(a.left > at):  # a store of no lanes would fetch its line all the same
                    for to, values in lines:
                        to.store(values[n], at, nontemporal=True)

    def _line(self, sums: list[Value], result: int, to: Destination) -> list[Value]:
        """A result's row, its phases of columns side by side."""
        count, phases = len(self.widths), self.tile.phases
        rows = [sums[at : at + count] for at in range(result * phases * count, (result + 1) * phases * count, count)]
        if phases > 1:  # halves are mixed as vectors of half the bits
            rows = [[to.rounded(value) for value in row] for row in rows]
        return [value for vectors in zip(*rows, strict=True) for value in interleave(vectors)]


class _PairedStrip(_Strip):
    """The same where the result's columns have two phases, which are the lanes of one vector by turns.

    A window of half a vector of columns, and what taps reach beyond, is loaded once, and its lanes dealt out for each
    of their taps by a shuffle of one vector, which takes a Zen 4 no time beside products. Phases that are summed apart
    are put together by shuffles of two, each of which takes it that of a product and more.
    """

    def _prepare(self) -> None:
        f, a, tile, lanes = self.function, self.a, self.tile, self.lanes
        half, count = lanes // 2, tile.tail or 2 * tile.vectors
        self.start = [bias for bias in self.biases for _ in range(count)]
        self.places = [(u * lanes, lanes) for u in range(count)]
        self.stored = self._stored()
        self.windows = [u * half + tile.first for u in range(count)]
        self.inside = [lanes_inside(f, a.column + at, a.w, lanes) for at in self.windows]
        self.twins = list(zip(*tile.across, strict=True))  # taps across of both phases that are computed together
        odd, w = (lane_numbers(f, lanes, element=i32) & 1).ne(0), a.weights
        self.pairs = {
            (k, h, j): select(odd, self._weight(w, k, h, second), self._weight(w, k, h, first))
            for k, h in product(range(tile.results), self._taps(tile.downs))
            for j, ((first, _), (second, _)) in enumerate(self.twins)
        }

    def _dealt(self, window: Value, j: int) -> Value:
        """The samples of a window that both phases meet at their tap ``j``, by turns."""
        places = [at - self.tile.first for _, at in self.twins[j]]
        return shuffle(window, None, [lane // 2 + places[lane % 2] for lane in range(self.lanes)])

    def _added_source(self, m: Value, source: Pointer, w: Pointer, sums: Sums) -> Sums:
        sums = {key: list(values) for key, values in sums.items()}
        row = self._row(source, m - self.a.low_h)
        loaded = [row.load(at, self.lanes, there) for at, there in zip(self.windows, self.inside, strict=True)]
        downs = [(p, at, h) for p, phase in enumerate(self.tile.downs) for h, at in phase]
        for j in range(len(self.twins)):
            dealt = [self._dealt(window, j) for window in loaded]
            for (p, lag, h), k, (u, x) in product(downs, range(self.tile.results), enumerate(dealt)):
                n = k * len(dealt) + u
                sums[p, lag][n] = fma(self.pairs[k, h, j], x, sums[p, lag][n])
        return sums

    def _line(self, sums: list[Value], result: int, to: Destination) -> list[Value]:
        count = len(self.windows)
        return sums[result * count : (result + 1) * count]


class _FoldedStrip(_Strip):
    """The same with a stride of 2 whose columns are not taken apart: even ones meet a tap and odd ones the next.

    ::

        x            x0 x1   x2 x3   x4 x5      as it lies, from the first tap on
        times        w0 w1   w0 w1   w0 w1      and from the third one on, times w2 w3
        sums         p0 q0   p1 q1   p2 q2      of all taps; a result is p + q, which are put together at the end

    Taken apart, every row of the source takes two shuffles of two vectors, and a slide a tap; a Zen 4 shuffles and
    multiplies on the same units. Here a row of results takes one shuffle of two for each vector of the source.
    """

    def _prepare(self) -> None:
        f, a, tile, lanes = self.function, self.a, self.tile, self.lanes
        self._share_out()
        count, odd = tile.halves, (lane_numbers(f, lanes, element=i32) & 1).ne(0)
        nothing = zeros(f, self.wide, lanes)
        self.start = [select(odd, nothing, bias) for bias in self.biases for _ in range(count)]
        self.windows = [u * lanes + tile.first for u in range(count + (len(tile.twos) > 1))]
        self.inside = [lanes_inside(f, a.column + at, a.w, lanes) for at in self.windows]
        self.numbers = {
            (k, h, n): select(odd, self._weight(a.weights, k, h, second), self._weight(a.weights, k, h, first))
            for k, h in product(range(tile.results), self._taps(tile.downs))
            for n, (first, second, _) in enumerate(tile.twos)
            if first is not None
        }

    def _added_source(self, m: Value, source: Pointer, w: Pointer, sums: Sums) -> Sums:
        tile, stride, count = self.tile, self.tile.stride[0], self.tile.halves
        sums = {key: list(values) for key, values in sums.items()}
        for e in reversed(range(stride)):
            row = self._row(source, m * stride + e - self.a.low_h)
            downs = [(p, at // stride, h) for p, phase in enumerate(tile.downs) for h, at in phase if at % stride == e]
            loaded = [row.load(at, self.lanes, there) for at, there in zip(self.windows, self.inside, strict=True)]
            for u, (n, (*_, at)) in product(range(count), enumerate(tile.twos)):
                x = slid(loaded[u], loaded[u + 1], at - tile.first) if n else loaded[u]
                for (p, lag, h), k in product(downs, range(tile.results)):
                    here = k * count + u
                    sums[p, lag][here] = fma(self.numbers[k, h, n], x, sums[p, lag][here])
        return sums

    def _line(self, sums: list[Value], result: int, to: Destination) -> list[Value]:
        count = self.tile.halves
        row = sums[result * count : (result + 1) * count]
        return [self._folded(*row[at : at + 2]) for at in range(0, count, 2)]

    def _folded(self, first: Value, second: Value | None = None) -> Value:
        """Sums of neighbours of two vectors, or half a vector of those of one."""
        columns = self.lanes * (1 if second is None else 2)
        even, odd = (shuffle(first, second, range(start, columns, 2)) for start in (0, 1))
        return even + odd


class _DottedStrip(_Strip):
    """The same where bfloats side by side are multiplied in pairs, as they lie: nothing is widened or shifted.

    With a stride of 2 a pair is at two taps of one result. With a stride of 1 lanes are every other result, and the
    ones between meet the pairs that begin a column further on. What is loaded straddles lines, but of 64 bytes that
    serve 32 results.
    """

    def _prepare(self) -> None:
        f, a, tile = self.function, self.a, self.tile
        self._share_out()
        firsts = [v * self.lanes * 2 for v in range(len(self.widths))]
        loads = {(v, at + c) for v in range(len(firsts)) for *_, at in tile.twos for c in range(tile.phases)}
        columns = self.lanes * (tile.vectors * tile.stride[1] - 1) + 1 if tile.whole else 0  # at least
        self.inside = {
            (v, at): None
            if firsts[v] + at >= 0 and firsts[v] + at + 2 * self.widths[v] <= columns
            else lanes_inside(f, a.column + firsts[v] + at, a.w, 2 * self.widths[v])
            for v, at in sorted(loads)
        }
        taps = product(range(tile.results), self._taps(tile.downs), range(len(tile.twos)))
        self.held = {(k, h, n): self._joined(k, h, n) for k, h, n in taps} if tile.holds else None

    def _joined(self, k: int, h: int, n: int) -> Value:
        """Numbers of w that are multiplied together, as they lie."""
        one, other, _ = self.tile.twos[n]
        row = self.a.weights.at(self.a.w_result * k if k else 0).at(h * self.tile.kernel_w)
        return splat(_pair(row.cast(i16), one, other), self.lanes)

    def _added_source(self, m: Value, source: Pointer, w: Pointer, sums: Sums) -> Sums:
        tile, stride, count = self.tile, self.tile.stride[0], len(self.widths)
        sums = {key: list(values) for key, values in sums.items()}
        for e in reversed(range(stride)):
            row = self._row(source, m * stride + e - self.a.low_h)
            loaded = {
                (v, at): row.load(v * self.lanes * 2 + at, 2 * self.widths[v], there)
                for (v, at), there in self.inside.items()
            }
            downs = [(p, at // stride, h) for p, phase in enumerate(tile.downs) for h, at in phase if at % stride == e]
            for n, (first, _, at) in enumerate(tile.twos):
                x = {(v, c): loaded[v, at + c] for v, c in product(range(count), range(tile.phases))}
                if first is None:  # infinity by 0 is no number
                    x = {key: bitcast(value, vec(i32, value.type.lanes // 2)) & ~0xFFFF for key, value in x.items()}
                for (p, lag, h), k in product(downs, range(tile.results)):
                    weight = self.held[k, h, n] if self.held else self._weight(w, k, h, n)
                    for (v, c), samples in x.items():
                        i, pair = (k * tile.phases + c) * count + v, self._part(weight, self.widths[v])
                        sums[p, lag][i] = bf16_dot(samples, pair, sums[p, lag][i])
        return sums
