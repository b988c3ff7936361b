"""The kernels of convolution by Fourier transforms: blocks of samples in, products of their spectra, sums out.

A lane of a transform is a pair of blocks, one its real and one its imaginary part. Weights are real, so the two never
mix: ifft(fft(a + i b) W) = a * w + i (b * w). In the weight gradient they do, in the imaginary part only:
Re ifft(conj(fft(g + i h)) fft(a + i b)) is the sum of both correlations. So nothing takes real spectra apart.

Everything lies in parts of one workspace, in blocks ``[k][re, im][lane]``: see ``fft_transform``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lucid.kernels.algorithms.fft_transform import times, write_transforms
from lucid.kernels.algorithms.frames import read_fields
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    convert,
    fma,
    i8,
    i32,
    i64,
    lane_numbers,
    lane_sum,
    lane_sums,
    maximum,
    minimum,
    ptr,
    select,
    splat,
    transpose,
    void,
    zeros,
)
from lucid.kernels.isa import ISA

#: Numbers of a row of samples: where it starts, and between which of its samples there are any.
ROW = 3
#: Result channels that are summed at once: 8 pairs of sums in registers.
RESULTS = 8

#: How samples lie: pointers in ``Field.POINTERS``, numbers below. See ``fft.Samples``.
SAMPLES = ("plane", "image", "size", "offset", "more")
POINTERS = ("x", "w", "bias", "y", "to", "filters", "spectra", "others", "scratch")
#: Of channels and results, those of a group, and of groups and pairs: where what a step works on begins, how many.
CHOSEN = ("channel", "result", "group", "pair")
_NUMBERS = (
    "n", "k", "taps", "tap", "step", "valid", "blocks_each", "blocks", "out", "pairs", "own", "region", "first",
    "channels", "results", "rows", "row_step", "sum_step", "group_step", "sign", "step_count", "part", "parts", "more",
    "next", "row_groups", "inner", "outer", "inner_padded", "inner_step", "outer_step", "shared_is_x",
    *(f"{name}_{field}" for name in CHOSEN for field in ("begin", "count")),
    *(f"x_{field}" for field in SAMPLES), *(f"y_{field}" for field in SAMPLES),
)  # fmt: skip
_TABLES = ("forward_steps", "inverse_steps", "twiddles")


def fields(element: Type) -> dict[str, Type]:
    """The slots of every entry point."""
    pointers = {name: ptr(element) for name in POINTERS} | {"scratch": ptr(i8)}
    tables = {"forward_steps": ptr(i64), "inverse_steps": ptr(i64), "twiddles": ptr(element)}
    return pointers | {name: i64 for name in _NUMBERS} | tables


def rows_at_once(isa: ISA, element: Type) -> int:
    """Rows of weights that are summed at once: pairs of sums in registers, beside four operands."""
    return min(isa.lanes(element), 8 if isa.registers >= 32 else 4)


def write(dtype: str, isa: ISA) -> Module:
    """The module for an element type, whatever the sizes."""
    return _Writer(dtype, isa).module


class _Writer:
    """What all functions of the module share."""

    def __init__(self, dtype: str, isa: ISA) -> None:
        self.module = Module("fft", isa.fma)
        self.element = BY_DTYPE[dtype]
        self.lanes = isa.lanes(self.element)
        self.pair = 2 * self.lanes
        self.at_once = rows_at_once(isa, self.element)
        self.fields = fields(self.element)
        transforms = write_transforms(self.module, self.element, self.lanes, isa.registers)
        self.forward, self.inverse = transforms["forward"], transforms["inverse"]
        self.place = self._write_place()
        self.load, self.store = self._write_load(), self._write_store()
        self.multiply = self._write_multiply()
        self.accumulate, self.add_lanes = self._write_accumulate(), self._write_add_lanes()
        sums = {count: self._write_sums(count) for count in (RESULTS, 1)}
        self._write_filters()
        self._write_one_to_one()
        for which in ("x", "y"):
            self._write_spectra(which)
        self._write_products(sums)
        self._write_results()
        self._write_correlations()
        self._write_weights()
        self._write_weights_at_once()

    # -- rows of samples ----------------------------------------------------------------------------------------------

    def _write_place(self) -> Function:
        """Adds ``place``: the rows of a vector of pairs; row ``part * lanes + lane``."""
        names = ("first", "blocks_each", "valid", "step", "blocks", "out", "image", "size", "offset", "more")
        parameters: dict[str, Type] = {"rows": ptr(i64)} | {name: i64 for name in names}
        f = self.module.function("place", void, export=False, **parameters)
        a = f.args
        begin_block = a.first * 2
        sequence = begin_block // a.blocks_each
        place = [begin_block % a.blocks_each, sequence % a.step, sequence // a.step]
        with f.loop(0, self.pair, carry=place) as number:
            inside, phase, image = number.values
            begin = inside * a.valid * a.step + phase
            outputs = minimum(_steps_to(f, a.out - begin, a.step), a.valid)
            outputs = select(begin_block + number.i < a.blocks, outputs, f.const(i64, 0))
            start = begin + a.offset
            needed = select(outputs.ne(0), outputs + a.more, f.const(i64, 0))
            high = minimum(needed, _steps_to(f, a.size - start, a.step))
            low = minimum(_steps_to(f, f.const(i64, 0) - start, a.step), high)
            begins = select(low < high, image * a.image + start, f.const(i64, 0))
            row = (number.i & 1) * self.lanes + (number.i >> 1)
            for k, value in enumerate((begins, low, high)):
                a.rows.store(value, row * ROW + k)
            number.values = _next_place(f, inside, phase, image, a)
        return f

    def _row(self, rows: Pointer, number: Any) -> tuple[Value, Value, Value]:
        at = rows.at(number * ROW)
        return at.load(0), at.load(1), at.load(2)

    def _vector(
        self, f: Function, data: Pointer, row: tuple[Value, Value, Value], first: Value
    ) -> tuple[Pointer, Value]:
        """Where a row's samples from ``first`` on lie, and which of the lanes have one.

        Where none has, the address is the row's begin: to touch nothing at an address that is not mapped takes
        processors hundreds of cycles.
        """
        start, low, high = row
        numbers = lane_numbers(f, self.lanes, element=i32)
        begin, end = (splat(convert(bound - first, i32), self.lanes) for bound in (low, high))
        some = (low < first + self.lanes) & (first < high)
        return data.at(start + select(some, first, low)), (begin <= numbers) & (numbers < end)

    def _write_load(self) -> Function:
        """Adds ``load(source, rows, step, n, block, ahead, next)``: rows become lanes, zeros where there is no sample.

        Asks for what is read ``ahead`` and for the ``next`` block, which a following call may take.
        """
        data = ptr(self.element)
        f = self.module.function("load", source=data, rows=ptr(i64), step=i64, n=i64, block=data, ahead=i64, next=i64)
        a, lanes = f.args, self.lanes
        if lanes == 1:
            self._load_samples(f)
            return f
        f.choose(a.step.eq(1), lambda: self._load_vectors(f), lambda: self._load_samples(f))
        return f

    def _load_vectors(self, f: Function) -> list[Value]:
        a, lanes = f.args, self.lanes
        with f.loop(0, a.n, lanes) as first, f.loop(0, 2) as part:
            rows, vectors = a.rows.at(part.i * (lanes * ROW)), []
            for lane in range(lanes):
                at, mask = self._vector(f, a.source, self._row(rows, lane), first.i)
                vectors.append(at.load(0, lanes, mask))
                at.prefetch(a.ahead)
            to = a.block.at(first.i * self.pair + part.i * lanes)
            for k, vector in enumerate(transpose(vectors)):
                to.store(vector, k * self.pair)
                to.prefetch(a.next + k * self.pair, write=True)
        return []

    def _load_samples(self, f: Function) -> list[Value]:
        a = f.args
        with f.loop(0, a.n * 2) as k:
            a.block.store(zeros(f, self.element, self.lanes), k.i * self.lanes)
        with f.loop(0, self.pair) as row:
            start, low, high = self._row(a.rows, row.i)
            with f.loop(low, high) as k:
                a.block.store(a.source.load(start + k.i * a.step), k.i * self.pair + row.i)
        return []

    def _write_store(self) -> Function:
        """Adds ``store(block, rows, step, n, bias, to, ahead, next)``: the first n numbers of every lane, into rows.

        Asks for what is written ``ahead`` and for the ``next`` block, which a following call may take.
        """
        data = ptr(self.element)
        f = self.module.function(
            "store", block=data, rows=ptr(i64), step=i64, n=i64, bias=self.element, to=data, ahead=i64, next=i64
        )
        a = f.args
        if self.lanes == 1:
            self._store_samples(f)
            return f
        f.choose(a.step.eq(1), lambda: self._store_vectors(f), lambda: self._store_samples(f))
        return f

    def _store_vectors(self, f: Function) -> list[Value]:
        a, lanes = f.args, self.lanes
        bias = splat(a.bias, lanes)
        with f.loop(0, a.n, lanes) as first, f.loop(0, 2) as part:
            rows, source = a.rows.at(part.i * (lanes * ROW)), a.block.at(first.i * self.pair + part.i * lanes)
            vectors = [source.load(k * self.pair, lanes) for k in range(lanes)]
            for lane, vector in enumerate(transpose(vectors)):
                source.prefetch(a.next + lane * self.pair)
                at, mask = self._vector(f, a.to, self._row(rows, lane), first.i)
                at.store(vector + bias, 0, mask)
                at.prefetch(a.ahead, write=True)
        return []

    def _store_samples(self, f: Function) -> list[Value]:
        a = f.args
        with f.loop(0, self.pair) as row:
            start, low, high = self._row(a.rows, row.i)
            with f.loop(low, high) as k:
                a.to.store(a.block.load(k.i * self.pair + row.i) + a.bias, start + k.i * a.step)
        return []

    # -- products of spectra ------------------------------------------------------------------------------------------

    def _weight(self, a: Any, row: Value) -> Pointer:
        """Where a row of weights has its spectrum: its lane of a block."""
        pointer: Pointer = a.filters.at(row // self.lanes * a.region + row % self.lanes)
        return pointer

    def _pair(self, at: Pointer) -> tuple[Value, Value]:
        return at.load(0, self.lanes), at.load(self.lanes, self.lanes)

    def _broadcast(self, at: Pointer) -> tuple[Value, Value]:
        return splat(at.load(0), self.lanes), splat(at.load(self.lanes), self.lanes)

    def _write_multiply(self) -> Function:
        """Adds ``multiply(block, weight, n)``: all lanes by one spectrum."""
        data = ptr(self.element)
        f = self.module.function("multiply", block=data, weight=data, n=i64)
        a = f.args
        with f.loop(0, a.n) as k:
            at = a.block.at(k.i * self.pair)
            re, im = times(self._pair(at), self._broadcast(a.weight.at(k.i * self.pair)))
            at.store(re)
            at.store(im, self.lanes)
        return f

    def _write_sums(self, count: int) -> Function:
        """Adds ``sums``: so many results at one frequency, each a sum over channels of a group, or ``more`` of them."""
        data = ptr(self.element)
        f = self.module.function(f"sums{count}", fields=ptr(i64), source=data, row=i64, at=i64, to=data)
        p = f.args
        a = read_fields(f, self.fields, ("filters", "region", "row_step", "sum_step", "channel_count", "more"))
        kept = [p.to.at(a.region * k) for k in range(count)]
        nothing = [zeros(f, self.element, self.lanes)] * (2 * count)
        before = f.choose(a.more.ne(0), lambda: [part for at in kept for part in self._pair(at)], lambda: nothing)
        with f.loop(0, a.channel_count, carry=before) as c:
            re, im = self._pair(p.source.at(c.i * a.region))
            sums = list(c.values)
            for k in range(count):
                weight = self._weight(a, p.row + a.row_step * k + c.i * a.sum_step).at(p.at)
                u, v = self._broadcast(weight)
                sums[2 * k] = fma(re, u, fma(im, -v, sums[2 * k]))
                sums[2 * k + 1] = fma(re, v, fma(im, u, sums[2 * k + 1]))
            c.values = sums
        for k, to in enumerate(kept):
            to.store(c.values[2 * k])
            to.store(c.values[2 * k + 1], self.lanes)
        return f

    # -- entry points -------------------------------------------------------------------------------------------------

    def _own(self, a: Any) -> tuple[Pointer, Pointer, Pointer]:
        """A thread's rows of samples read, of samples written, and its block."""
        own = a.scratch.at(a.thread * a.own)
        table = self.pair * ROW
        rows = own.cast(i64)
        return rows, rows.at(table), rows.at(2 * table).cast(self.element)

    def _place_of(self, f: Function, a: Any, rows: Pointer, pair: Value, which: str) -> None:
        image, size, offset, more = (getattr(a, f"{which}_{name}") for name in SAMPLES[1:])
        f.call(
            self.place, rows, pair * self.lanes, a.blocks_each, a.valid, a.step, a.blocks, a.out, image, size, offset,
            more,
        )  # fmt: skip

    def _bias(self, f: Function, a: Any, channel: Value) -> Value:
        present = f.emit(i64, f"ptrtoint ptr {a.bias.text} to i64").ne(0)
        return a.bias.load(channel, 1, present)  # type: ignore[no-any-return]

    def _weight_rows(
        self, f: Function, a: Any, rows: Pointer, first: Value, which: Callable[[Value], tuple[Value, Value]]
    ) -> None:
        """The places of the rows of weights from ``first`` on, a vector of them.

        ``which`` has the row of a number, and whether there is one.
        """
        with f.loop(0, self.pair) as lane:
            number, there = which(first + lane.i)
            there, none = there & (lane.i < self.lanes), f.const(i64, 0)
            places = (select(there, number * a.taps + a.tap, none), none, select(there, a.k, none))
            for k, value in enumerate(places):
                rows.store(value, lane.i * ROW + k)

    def _write_filters(self) -> None:
        """Adds the entry ``filters``: a task transforms a vector of rows of weights, divided by n for the inverse."""
        f = self.module.entry("filters", **self.fields)
        a, one = f.args, f.const(self.element, 1)
        rows, _, _ = self._own(a)
        scale = one / convert(a.n, self.element)
        re, im = splat(scale, self.lanes), splat(scale * convert(a.sign, self.element), self.lanes)
        with f.loop(a.begin, a.end) as task:
            self._weight_rows(f, a, rows, task.i * self.lanes, lambda row: (row, row < a.rows))
            block = a.filters.at(task.i * a.region)
            f.call(self.load, a.w, rows, 1, a.n, block, a.taps * self.lanes, a.next)
            f.call(self.forward, block, a.forward_steps, a.step_count, a.twiddles)
            with f.loop(0, a.n) as k:
                at = block.at(k.i * self.pair)
                x, y = self._pair(at)
                at.store(x * re)
                at.store(y * im, self.lanes)

    def _write_one_to_one(self) -> None:
        """Adds the entry ``one_to_one``: results of a single channel, all in a thread's own block."""
        f = self.module.entry("one_to_one", **self.fields)
        a, lanes = f.args, self.lanes
        inputs, outputs, block = self._own(a)
        with f.loop(a.begin, a.end) as task:
            pair, result = task.i % a.pairs, task.i // a.pairs
            self._spectrum(f, a, "x", result // a.results, pair, inputs, block)
            self._place_of(f, a, outputs, pair, "y")
            f.call(self.multiply, block, self._weight(a, result), a.n)
            f.call(self.inverse, block, a.inverse_steps, a.step_count, a.twiddles)
            valid, to = block.at(a.first * (2 * lanes)), a.to.at(result * a.y_plane)
            f.call(self.store, valid, outputs, a.step, a.valid, self._bias(f, a, result), to, 0, 0)

    def _chosen(self, a: Any, task: Value, which: str) -> tuple[Value, Value]:
        """The pair and the channel, x's or y's, of the task of so many among those chosen."""
        name = {"x": "channel", "y": "result"}[which]
        begin, count, each = (getattr(a, field) for field in (f"{name}_begin", f"{name}_count", f"{name}s"))
        channel, rest = begin + task % count, task // count
        return a.pair_begin + rest // a.group_count, (a.group_begin + rest % a.group_count) * each + channel

    def _write_spectra(self, which: str) -> None:
        """Adds the entry ``spectra_x`` or ``spectra_y``: a task transforms a vector of pairs of one channel."""
        f = self.module.entry(f"spectra_{which}", **self.fields)
        a = f.args
        rows, _, _ = self._own(a)
        with f.loop(a.begin, a.end) as task:
            pair, channel = self._chosen(a, task.i, which)
            to = {"x": a.spectra, "y": a.others}[which].at(task.i * a.region)
            self._spectrum(f, a, which, channel, pair, rows, to, a.next)

    def _write_products(self, sums: dict[int, Function]) -> None:
        """Adds the entry ``products``: a task is a part of the frequencies of a vector of pairs in one group."""
        f = self.module.entry("products", **self.fields)
        a = f.args
        with f.loop(a.begin, a.end) as task:
            each = a.pair_count * a.group_count
            first, rest = task.i // each * a.part, task.i % each
            source, to = (
                block.at(rest * count * a.region)
                for block, count in ((a.spectra, a.channel_count), (a.others, a.result_count))
            )
            top = (a.group_begin + rest % a.group_count) * a.group_step + a.channel_begin * a.sum_step
            last, whole = minimum(first + a.part, a.n), a.result_count // RESULTS * RESULTS
            for begin, end, count in ((f.const(i64, 0), whole, RESULTS), (whole, a.result_count, 1)):
                with f.loop(begin, end, count) as result, f.loop(first, last) as k:
                    at = k.i * self.pair
                    row = top + (a.result_begin + result.i) * a.row_step
                    f.call(sums[count], a.fields, source.at(at), row, at, to.at(result.i * a.region + at))

    def _write_results(self) -> None:
        """Adds the entry ``results``: a task transforms a vector of pairs of one result back and stores it."""
        f = self.module.entry("results", **self.fields)
        a = f.args
        rows, _, _ = self._own(a)
        with f.loop(a.begin, a.end) as task:
            pair, channel = self._chosen(a, task.i, "y")
            self._place_of(f, a, rows, pair, "y")
            block = a.others.at(task.i * a.region)
            f.call(self.inverse, block, a.inverse_steps, a.step_count, a.twiddles)
            valid, to = block.at(a.first * self.pair), a.to.at(channel * a.y_plane)
            ahead = select(a.next.ne(0), a.y_plane, f.const(i64, 0))
            f.call(self.store, valid, rows, a.step, a.valid, self._bias(f, a, channel), to, ahead, a.next)

    # -- the weight gradient ------------------------------------------------------------------------------------------
    #
    # A row of weights is a channel and a result. Of the two the more numerous is the inner one: `at_once` of them share
    # what the outer one has, so rows are padded to multiples of that.

    def _write_correlations(self) -> None:
        """Adds the entry ``correlations``: a task sums conj(g) x over pairs and lanes, for a few rows of weights.

        It does a part of the frequencies, into the rows' lanes of ``filters``, on top of what is there if ``more``.
        """
        f = self.module.entry("correlations", **self.fields)
        a = f.args
        re, im = (splat(v, self.at_once) for v in self._scales(f, a))
        with f.loop(a.begin, a.end) as task:
            outers, rest = a.group_count * a.outer, task.i % a.row_groups
            first, outer, inner = task.i // a.row_groups * a.part, rest % outers, rest // outers * self.at_once
            shared, varied = (
                select(a.shared_is_x.ne(0), x, y) for x, y in ((a.spectra, a.others), (a.others, a.spectra))
            )
            own = outer // a.outer * a.inner
            rows = [varied.at((own + minimum(inner + j, a.inner - 1)) * a.region) for j in range(self.at_once)]
            steps = a.group_count * a.outer * a.region, a.group_count * a.inner * a.region
            to = self._weight(a, outer * a.inner_padded + inner)
            with f.loop(first, minimum(first + a.part, a.n)) as k:
                at = k.i * self.pair
                sums = self._correlated(f, shared.at(outer * a.region + at), [r.at(at) for r in rows], steps, a)
                here = to.at(at)
                for part, (value, scale, old) in enumerate(zip(sums, (re, im), self._before(f, a, here), strict=True)):
                    here.store(fma(value, scale, old), part * self.lanes)

    def _before(self, f: Function, a: Any, here: Pointer) -> list[Value]:
        """The sums so far, none unless there are ``more``."""
        return f.choose(
            a.more.ne(0),
            lambda: [here.load(part, self.at_once) for part in (0, self.lanes)],
            lambda: [zeros(f, self.element, self.at_once)] * 2,
        )

    def _scales(self, f: Function, a: Any) -> tuple[Value, Value]:
        """1 / n for both parts; with the other sign where it is x that is conjugated."""
        scale = f.const(self.element, 1) / convert(a.n, self.element)
        return scale, select(a.shared_is_x.ne(0), -scale, scale)

    def _correlated(self, f: Function, shared: Pointer, rows: list[Pointer], steps: Any, a: Any) -> list[Value]:
        """Sums over the pairs and lanes of conj(shared) times each row: a vector of real parts, one of imaginary."""
        nothing = [zeros(f, self.element, self.lanes)] * (2 * len(rows))
        with f.loop(0, a.pair_count, carry=nothing) as pair:
            re, im = self._pair(shared.at(pair.i * steps[0]))
            sums = list(pair.values)
            for j, row in enumerate(rows):
                u, v = self._pair(row.at(pair.i * steps[1]))
                sums[2 * j] = fma(re, u, fma(im, v, sums[2 * j]))
                sums[2 * j + 1] = fma(re, v, fma(-im, u, sums[2 * j + 1]))
            pair.values = sums
        return [lane_sums(pair.values[part::2]) for part in (0, 1)]

    def _write_weights(self) -> None:
        """Adds the entry ``weights``: a task transforms a vector of rows' sums back and stores their taps."""
        f = self.module.entry("weights", **self.fields)
        a = f.args
        rows, _, _ = self._own(a)
        top = a.channel_begin + a.result_begin * a.channels

        def which(row: Value) -> tuple[Value, Value]:
            outer, inner = row // a.inner_padded, row % a.inner_padded
            group, there = a.group_begin + outer // a.outer, (outer < a.group_count * a.outer) & (inner < a.inner)
            first = group * a.results * a.channels + top
            return first + outer % a.outer * a.outer_step + inner * a.inner_step, there

        with f.loop(a.begin, a.end) as task:
            block = a.filters.at(task.i * a.region)
            f.call(self.inverse, block, a.inverse_steps, a.step_count, a.twiddles)
            self._weight_rows(f, a, rows, task.i * self.lanes, which)
            f.call(self.store, block, rows, 1, a.k, f.const(self.element, 0), a.to, 0, 0)

    def _write_accumulate(self) -> Function:
        """Adds ``accumulate(x, g, sums, n)``: sums of conj(g) x, lane by lane."""
        data = ptr(self.element)
        f = self.module.function("accumulate", x=data, g=data, sums=data, n=i64)
        a = f.args
        with f.loop(0, a.n) as k:
            at = k.i * self.pair
            re, im = times(self._pair(a.x.at(at)), self._pair(a.g.at(at)), -1)
            to = a.sums.at(at)
            before = self._pair(to)
            to.store(before[0] + re)
            to.store(before[1] + im, self.lanes)
        return f

    def _write_add_lanes(self) -> Function:
        """Adds ``add_lanes(sums, scale, n, to)``: a fixed tree over the lanes, into one lane of a block."""
        data = ptr(self.element)
        f = self.module.function("add_lanes", sums=data, scale=self.element, n=i64, to=data)
        a = f.args
        with f.loop(0, a.n * 2) as k:
            a.to.store(lane_sum(a.sums.load(k.i * self.lanes, self.lanes)) * a.scale, k.i * self.lanes)
        return f

    def _zero(self, f: Function, block: Pointer, n: Value) -> None:
        with f.loop(0, n * 2) as k:
            block.store(zeros(f, self.element, self.lanes), k.i * self.lanes)

    def _write_weights_at_once(self) -> None:
        """Adds the entry ``weights_at_once``: a task is a vector of rows that share neither channel nor result.

        Each spectrum is made, used once and dropped; lanes are summed last.
        """
        f = self.module.entry("weights_at_once", **self.fields)
        a, lanes = f.args, self.lanes
        x_rows, g_rows, block = self._own(a)
        sums, x, g = (block.at(a.region * k) for k in (1, 2, 3))
        scale = f.const(self.element, 1) / convert(a.n, self.element)
        with f.loop(a.begin, a.end) as task:
            first = task.i * lanes
            self._zero(f, block, a.n)
            with f.loop(first, minimum(a.rows, first + lanes)) as row:
                self._zero(f, sums, a.n)
                with f.loop(0, a.pairs) as pair:
                    self._spectrum(f, a, "x", row.i, pair.i, x_rows, x)
                    self._spectrum(f, a, "y", row.i, pair.i, g_rows, g)
                    f.call(self.accumulate, x, g, sums, a.n)
                f.call(self.add_lanes, sums, scale, a.n, block.at(row.i - first))
            f.call(self.inverse, block, a.inverse_steps, a.step_count, a.twiddles)
            self._weight_rows(f, a, x_rows, first, lambda row: (row, row < a.rows))
            f.call(self.store, block, x_rows, 1, a.k, f.const(self.element, 0), a.to, 0, 0)

    def _spectrum(
        self, f: Function, a: Any, which: str, channel: Value, pair: Value, rows: Pointer, to: Pointer, next: Any = 0
    ) -> None:
        """Transforms a vector of pairs of one channel; the ``next`` one's block is so far from this one's."""
        source, plane = getattr(a, which), getattr(a, f"{which}_plane")
        self._place_of(f, a, rows, pair, which)
        f.call(self.load, source.at(channel * plane), rows, a.step, a.n, to, plane, next)
        f.call(self.forward, to, a.forward_steps, a.step_count, a.twiddles)


def _steps_to(f: Function, distance: Value, step: Value) -> Value:
    """Steps that cover a distance, none if it is negative. Divisions are slow, and the step is mostly 1."""
    distance = maximum(distance, 0)
    (count,) = f.choose(step.eq(1), lambda: [distance], lambda: [(distance + step - 1) // step])
    return count


def _next_place(f: Function, inside: Value, phase: Value, image: Value, a: Any) -> list[Value]:
    """The block after one: in its sequence, or the first of the image's next, or of the next image."""
    zero, inside = f.const(i64, 0), inside + 1
    wraps = inside.eq(a.blocks_each)
    phase = select(wraps, phase + 1, phase)
    ends = phase.eq(a.step)
    return [select(wraps, zero, inside), select(ends, zero, phase), select(ends, image + 1, image)]
