"""The kernels of convolution by Fourier transforms: blocks of samples in, products of their spectra, sums out.

A lane of a transform is a pair of blocks, one its real and one its imaginary part. Weights are real, so the two never
mix: ifft(fft(a + i b) W) = a * w + i (b * w). In the weight gradient they do, in the imaginary part only:
Re ifft(conj(fft(g + i h)) fft(a + i b)) is the sum of both correlations. So nothing takes real spectra apart.

Everything lies in parts of one workspace, in blocks ``[k][re, im][lane]``: see ``fft_transform``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

from lucid.kernels import jit, target
from lucid.kernels.algorithms.fft_rows import MOST_APART, ROW, write_load, write_place, write_store
from lucid.kernels.algorithms.fft_transform import times, write_transform
from lucid.kernels.algorithms.frames import read_fields
from lucid.kernels.epilogue import ARGUMENTS, is_short
from lucid.kernels.ir import (
    BY_DTYPE,
    ENTRY,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    computed,
    convert,
    fma,
    i8,
    i64,
    lane_sum,
    lane_sums,
    minimum,
    ptr,
    select,
    splat,
    zeros,
)
from lucid.kernels.isa import ISA
from lucid.kernels.plan import PLAIN, Epilogue

#: Result channels that are summed at once: 8 pairs of sums in registers.
RESULTS = 8

#: How samples lie: pointers in ``Field.POINTERS``, numbers below. See ``fft.Samples``.
SAMPLES = ("plane", "image", "size", "offset", "more")
_ARRAYS, _BLOCKS = ("x", "w", "bias", "y", "to", *ARGUMENTS), ("filters", "spectra", "others")
POINTERS = (*_ARRAYS, *_BLOCKS, "scratch")
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
#: What entry points call by address.
CODE = ("place", "load", "store", "forward", "inverse")


def fields(stored: Type) -> dict[str, Type]:
    """The slots of every entry point, for arrays of that type; blocks and tables are of the one computed in."""
    element = computed(stored)
    pointers = dict.fromkeys(_ARRAYS, ptr(stored)) | dict.fromkeys(_BLOCKS, ptr(element)) | {"scratch": ptr(i8)}
    tables = {"forward_steps": ptr(i64), "inverse_steps": ptr(i64), "twiddles": ptr(element)}
    return pointers | {name: i64 for name in _NUMBERS} | tables | dict.fromkeys(CODE, ptr(i8))


def rows_at_once(isa: ISA, element: Type) -> int:
    """Rows of weights that are summed at once: pairs of sums in registers, beside four operands."""
    return min(isa.lanes(element), 8 if isa.registers >= 32 else 4)


def address(name: str, dtype: str, epilogue: Epilogue = PLAIN, step: int = 1) -> int:
    """Where an entry point or one of ``CODE`` lies, whatever the sizes; an epilogue is for ``store`` alone.

    Each is a module of its own, made when it is first asked for: together they take 150 ms to compile. ``load`` and
    ``store`` are another for every ``step`` from a sample to the next that is dealt out in registers.
    """
    kind = computed_name(dtype) if name in _OF_BLOCKS else dtype
    how: tuple[int | Epilogue, ...] = ()
    if name in _OF_ROWS:
        how = (step if deals(dtype, step) and (name == "load" or is_short(epilogue)) else 1,)
    if epilogue and name == "store":
        how += (epilogue,)
    return jit.kernel(("fft", name, kind, *how), lambda isa: _write(name, kind, isa, *how)).address(name)


def deals(dtype: str, step: int) -> bool:
    """Whether samples so far apart are dealt out in registers; without masks for halves those are moved one by one."""
    return 1 < step <= MOST_APART and (BY_DTYPE[dtype].bits > 16 or target.isa().masks_halves)


def computed_name(dtype: str) -> str:
    """The dtype that an array's numbers are computed in."""
    return "float32" if BY_DTYPE[dtype].bits == 16 else dtype


def _write(name: str, dtype: str, isa: ISA, *how: int | Epilogue) -> Module:
    module, stored = Module(f"fft {name}", isa), BY_DTYPE[dtype]
    if name in _CODE:
        _CODE[name](module, stored, isa, *how).export = True
    else:
        _ENTRIES[name](_Writer(module, stored, isa))
    return module


def _write_rows(
    write: Callable[..., Function], module: Module, stored: Type, isa: ISA, *how: int | Epilogue
) -> Function:
    element = computed(stored)
    return write(module, stored, element, isa.lanes(element), *how)


_CODE: dict[str, Callable[..., Function]] = {
    "place": lambda module, element, isa: write_place(module, isa.lanes(element)),
    "load": partial(_write_rows, write_load),
    "store": partial(_write_rows, write_store),
    "forward": partial(write_transform, "forward"),
    "inverse": partial(write_transform, "inverse"),
}
#: Which know nothing of arrays: one for all types that are computed in the same.
_OF_BLOCKS = ("place", "forward", "inverse", "products", "correlations")
_OF_ROWS = ("load", "store")


#: What functions below read: a thread's part of the workspace, what transforms and stores, where rows lie.
_OWN, _TRANSFORM, _PLACE = "scratch own", "n region step_count twiddles", "place blocks_each valid step blocks out"
_TO, _BACK = f"load forward forward_steps {_TRANSFORM}", f"inverse inverse_steps store {_TRANSFORM}"
_WEIGHT_ROWS, _ENDED = "taps tap k filters", f"to bias {' '.join(ARGUMENTS)}"


def _samples(which: str) -> str:
    """What says how x or y lies."""
    return " ".join(f"{which}_{name}" for name in SAMPLES)


def _ranges(*names: str) -> str:
    """What says which of them a step works on."""
    return " ".join(f"{name}_{field}" for name in names for field in ("begin", "count"))


class _Writer:
    """What the functions of an entry point's module share."""

    def __init__(self, module: Module, stored: Type, isa: ISA) -> None:
        self.module, self.element = module, computed(stored)
        self.lanes = isa.lanes(self.element)
        self.pair = 2 * self.lanes
        self.at_once = rows_at_once(isa, self.element)
        self.fields = fields(stored)

    def _entry(self, name: str, names: str) -> tuple[Function, Any]:
        """An entry point; its arguments and the fields that it needs."""
        f = self.module.function(name, export=True, **ENTRY)
        return f, SimpleNamespace(**vars(f.args), **vars(read_fields(f, self.fields, dict.fromkeys(names.split()))))

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
        """Adds ``sums``: so many results at one frequency, each a sum over channels of a group, or ``more`` of them.

        Weights of the next frequency are asked for as it goes: they come from many places at once, a vector of rows
        each, and nothing foresees them. A channel asks for one result's; a vector of rows has as many channels or more.
        """
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
            if count > 1:
                coming = self._weight(a, p.row + a.row_step * (c.i % count) + c.i * a.sum_step).at(p.at + self.pair)
                coming.prefetch()
                coming.prefetch(self.lanes)
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
            a.place, rows, pair * self.lanes, a.blocks_each, a.valid, a.step, a.blocks, a.out, image, size, offset,
            more,
        )  # fmt: skip

    def _store(self, f: Function, a: Any, valid: Pointer, rows: Pointer, channel: Value, ahead: Any, next: Any) -> None:
        """Ends a result's sums and puts them to their places."""
        first = channel * a.y_plane
        bias, scale, shift = (self._number(f, pointer, channel) for pointer in (a.bias, a.scale, a.shift))
        f.call(
            a.store, valid, rows, a.step, a.valid, bias, a.to.at(first), ahead, next, scale, shift, a.residual.at(first)
        )

    def _number(self, f: Function, pointer: Pointer, channel: Value) -> Value:
        """A channel's number of an array that may not be there."""
        present = f.emit(i64, f"ptrtoint ptr {pointer.text} to i64").ne(0)
        return convert(pointer.load(channel, 1, present), self.element)

    def _store_weights(self, f: Function, a: Any, block: Pointer, rows: Pointer) -> None:
        nothing = f.const(self.element, 0)
        f.call(a.store, block, rows, 1, a.k, nothing, a.to, 0, 0, nothing, nothing, a.to)

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
        f, a = self._entry("filters", f"{_OWN} {_TO} {_WEIGHT_ROWS} rows w sign next")
        rows, _, _ = self._own(a)
        scale = f.const(self.element, 1) / convert(a.n, self.element)
        re, im = splat(scale, self.lanes), splat(scale * convert(a.sign, self.element), self.lanes)
        with f.loop(a.begin, a.end) as task:
            self._weight_rows(f, a, rows, task.i * self.lanes, lambda row: (row, row < a.rows))
            block = a.filters.at(task.i * a.region)
            f.call(a.load, a.w, rows, 1, a.n, block, a.taps * self.lanes, a.next)
            f.call(a.forward, block, a.forward_steps, a.step_count, a.twiddles)
            with f.loop(0, a.n) as k:
                at = block.at(k.i * self.pair)
                x, y = self._pair(at)
                at.store(x * re)
                at.store(y * im, self.lanes)

    def _write_one_to_one(self) -> None:
        """Adds the entry ``one_to_one``: results of a single channel, all in a thread's own block."""
        multiply = self._write_multiply()
        f, a = self._entry(
            "one_to_one",
            f"{_OWN} {_TO} {_BACK} {_PLACE} {_samples('x')} {_samples('y')} {_ENDED} x filters first pairs results",
        )
        inputs, outputs, block = self._own(a)
        with f.loop(a.begin, a.end) as task:
            pair, result = task.i % a.pairs, task.i // a.pairs
            self._spectrum(f, a, "x", result // a.results, pair, inputs, block)
            self._place_of(f, a, outputs, pair, "y")
            f.call(multiply, block, self._weight(a, result), a.n)
            f.call(a.inverse, block, a.inverse_steps, a.step_count, a.twiddles)
            self._store(f, a, block.at(a.first * self.pair), outputs, result, 0, 0)

    def _chosen(self, a: Any, task: Value, which: str) -> tuple[Value, Value]:
        """The pair and the channel, x's or y's, of the task of so many among those chosen."""
        name = {"x": "channel", "y": "result"}[which]
        begin, count, each = (getattr(a, field) for field in (f"{name}_begin", f"{name}_count", f"{name}s"))
        channel, rest = begin + task % count, task // count
        return a.pair_begin + rest // a.group_count, (a.group_begin + rest % a.group_count) * each + channel

    def _write_spectra(self, which: str) -> None:
        """Adds the entry ``spectra_x`` or ``spectra_y``: a task transforms a vector of pairs of one channel."""
        each, to = {"x": ("channel", "spectra"), "y": ("result", "others")}[which]
        f, a = self._entry(
            f"spectra_{which}",
            f"{_OWN} {_TO} {_PLACE} {_samples(which)} {_ranges('pair', 'group', each)} {each}s {which} {to} next",
        )
        rows, _, _ = self._own(a)
        with f.loop(a.begin, a.end) as task:
            pair, channel = self._chosen(a, task.i, which)
            block = getattr(a, to).at(task.i * a.region)
            self._spectrum(f, a, which, channel, pair, rows, block, a.next)

    def _write_products(self) -> None:
        """Adds the entry ``products``: a task is a part of the frequencies of a vector of pairs in one group."""
        sums = {count: self._write_sums(count) for count in (RESULTS, 1)}
        f, a = self._entry("products", f"n region part spectra others group_step sum_step row_step {_ranges(*CHOSEN)}")
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
        f, a = self._entry(
            "results",
            f"{_OWN} {_BACK} {_PLACE} {_samples('y')} {_ranges('pair', 'group', 'result')} results first others "
            f"next {_ENDED}",
        )
        rows, _, _ = self._own(a)
        with f.loop(a.begin, a.end) as task:
            pair, channel = self._chosen(a, task.i, "y")
            self._place_of(f, a, rows, pair, "y")
            block = a.others.at(task.i * a.region)
            f.call(a.inverse, block, a.inverse_steps, a.step_count, a.twiddles)
            ahead = select(a.next.ne(0), a.y_plane, f.const(i64, 0))
            self._store(f, a, block.at(a.first * self.pair), rows, channel, ahead, a.next)

    # -- the weight gradient ------------------------------------------------------------------------------------------
    #
    # A row of weights is a channel and a result. Of the two the more numerous is the inner one: `at_once` of them share
    # what the outer one has, so rows are padded to multiples of that.

    def _write_correlations(self) -> None:
        """Adds the entry ``correlations``: a task sums conj(g) x over pairs and lanes, for a few rows of weights.

        It does a part of the frequencies, into the rows' lanes of ``filters``, on top of what is there if ``more``.
        """
        f, a = self._entry(
            "correlations",
            f"n region part {_ranges('pair', 'group')} spectra others filters more row_groups inner outer inner_padded "
            "shared_is_x",
        )
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
        f, a = self._entry(
            "weights",
            f"{_OWN} {_BACK} {_WEIGHT_ROWS} {_ranges(*CHOSEN)} to inner outer inner_padded inner_step outer_step "
            "channels results",
        )
        rows, _, _ = self._own(a)
        top = a.channel_begin + a.result_begin * a.channels

        def which(row: Value) -> tuple[Value, Value]:
            outer, inner = row // a.inner_padded, row % a.inner_padded
            group, there = a.group_begin + outer // a.outer, (outer < a.group_count * a.outer) & (inner < a.inner)
            first = group * a.results * a.channels + top
            return first + outer % a.outer * a.outer_step + inner * a.inner_step, there

        with f.loop(a.begin, a.end) as task:
            block = a.filters.at(task.i * a.region)
            f.call(a.inverse, block, a.inverse_steps, a.step_count, a.twiddles)
            self._weight_rows(f, a, rows, task.i * self.lanes, which)
            self._store_weights(f, a, block, rows)

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
        accumulate, add_lanes = self._write_accumulate(), self._write_add_lanes()
        f, a = self._entry(
            "weights_at_once",
            f"{_OWN} {_TO} {_BACK} {_PLACE} {_samples('x')} {_samples('y')} {_WEIGHT_ROWS} rows x y to pairs",
        )
        lanes = self.lanes
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
                    f.call(accumulate, x, g, sums, a.n)
                f.call(add_lanes, sums, scale, a.n, block.at(row.i - first))
            f.call(a.inverse, block, a.inverse_steps, a.step_count, a.twiddles)
            self._weight_rows(f, a, x_rows, first, lambda row: (row, row < a.rows))
            self._store_weights(f, a, block, x_rows)

    def _spectrum(
        self, f: Function, a: Any, which: str, channel: Value, pair: Value, rows: Pointer, to: Pointer, next: Any = 0
    ) -> None:
        """Transforms a vector of pairs of one channel; the ``next`` one's block is so far from this one's."""
        source, plane = getattr(a, which), getattr(a, f"{which}_plane")
        self._place_of(f, a, rows, pair, which)
        f.call(a.load, source.at(channel * plane), rows, a.step, a.n, to, plane, next)
        f.call(a.forward, to, a.forward_steps, a.step_count, a.twiddles)


_ENTRIES: dict[str, Callable[[_Writer], None]] = {
    "filters": _Writer._write_filters,
    "one_to_one": _Writer._write_one_to_one,
    "spectra_x": partial(_Writer._write_spectra, which="x"),
    "spectra_y": partial(_Writer._write_spectra, which="y"),
    "products": _Writer._write_products,
    "results": _Writer._write_results,
    "correlations": _Writer._write_correlations,
    "weights": _Writer._write_weights,
    "weights_at_once": _Writer._write_weights_at_once,
}
