"""Native code of ``fast_fir``: its weights, its lines of samples, and the loops over tiles.

::

    for each image and group, line of it, piece of that line:             tasks: no two write the same
        for each channel and line of the kernel: core = odd samples, ahead = even - odd, behind = next even - odd
        for each tile of rows, for each tile of positions:
            sums = (even + odd weights) core
            even results = sums + even weights * ahead, odd results = sums + odd weights * behind
            results, even and odd by turns, ended and stored

Half precision is widened with its weights and its samples, and rounded once as it is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.past_caches import store_side_by_side
from lucid.kernels.epilogue import Destination, ended
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    convert,
    deinterleave,
    fma,
    i32,
    i64,
    interleave,
    lanes_below,
    lanes_inside,
    minimum,
    ptr,
    select,
    splat,
)
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Epilogue

ARRAYS = ("x", "w", "bias", "y", "packed", "own")
NUMBERS = (
    "groups", "channels", "rows", "blocks", "taps", "core", "ahead", "behind", "low", "width", "plane", "out_width",
    "out_plane", "lines", "pieces", "piece", "pitch", "own_elements", "has_bias", "filters", "depth", "height",
    "out_height", "kernel_d", "kernel_h", "step_d", "step_h", "apart_d", "apart_h", "low_d", "low_h",
)  # fmt: skip
LINES = 3  #: of samples, for each channel: the core, what is ahead, what is behind
_STAGES = ("core", "ahead", "behind")


@dataclass(frozen=True, slots=True)
class Form:
    """What the code depends on: rows and vectors of a tile, how many rows go past the caches, what ends the sums.

    A tile that ``asks`` wants the lines of its results before they are due.
    """

    rows: int
    vectors: int
    lanes: int
    past: int
    asks: bool
    epilogue: Epilogue

    @property
    def columns(self) -> int:
        """Results of a row of a tile, of two phases."""
        return 2 * self.vectors * self.lanes


def fields(grain: Grain) -> dict[str, Type]:
    """Of both entry points."""
    arrays = dict.fromkeys(ARRAYS, ptr(grain.stored)) | dict.fromkeys(("packed", "own"), ptr(grain.sums))
    return {**arrays, "table": ptr(i32), **dict.fromkeys(NUMBERS, i64)}


def write(isa: ISA, stored: Type, form: Form) -> Module:
    """The module with the entry points ``weights`` and ``run``."""
    m, grain = Module("fast_fir", isa), Grain(stored)
    _write_weights(m, grain, form)
    tile, last = _Tile(m, grain, form, form.vectors).function, _Tile(m, grain, form, 1, masked=True).function
    _write_run(m, grain, form, _write_samples(m, grain, form.lanes), tile, last)
    return m


def _first_row(block: Value, rows: Value, form: Form) -> Value:
    """Of a tile; the last one ends with the rows."""
    return minimum(block * form.rows, rows - form.rows)


def _write_weights(m: Module, grain: Grain, form: Form) -> None:
    """Adds the entry ``weights``: a task makes those of a tile, [step][row], and behind them what sums start from."""
    f = m.entry("weights", **fields(grain))
    a = f.args
    half = (a.taps + 1) // 2
    steps = a.core + a.ahead + a.behind
    with f.loop(a.begin, a.end) as task, f.loop(0, form.rows) as row:
        channel = task.i // a.blocks * a.rows + _first_row(task.i % a.blocks, a.rows, form) + row.i
        to = a.packed.at(task.i * (steps + 1) * form.rows + row.i)
        with f.loop(0, a.filters) as c, f.loop(0, half) as j:
            w, k = a.w.at((channel * a.filters + c.i) * a.taps + j.i * 2), c.i * half + j.i
            there = a.taps > j.i * 2 + 1
            even, odd = (convert(value, grain.sums) for value in (w.load(), w.load(1, 1, there)))
            to.store(even + odd, k * form.rows)
            to.store(even, (a.core + k) * form.rows)
            with f.when(there):
                to.store(odd, (a.core + a.ahead + c.i * (a.taps // 2) + j.i) * form.rows)
        bias = a.bias.load(channel, 1, a.has_bias.ne(0))
        to.store(convert(bias, grain.sums), steps * form.rows)


def _write_samples(m: Module, grain: Grain, lanes: int) -> Function:
    """Adds ``samples``: the lines of a channel, ``pitch`` apart, of as many numbers each as fit.

    ``first`` is the sample of the first even one, in a row of so many; what lies outside is 0.
    """
    f = m.function("samples", source=ptr(grain.stored), first=i64, width=i64, to=ptr(grain.sums), pitch=i64)
    a = f.args
    with f.loop(0, a.pitch, lanes) as v:

        def halves(at: Value, count: int) -> list[Value]:
            places = (at, at + lanes)
            read = [a.source.load(n, lanes, lanes_inside(f, n, a.width, lanes)) for n in places]
            return deinterleave([convert(value, grain.sums) for value in read], count)

        even, odd = halves(a.first + v.i * 2, 2)
        (following,) = halves(a.first + v.i * 2 + 2, 1)
        for line, value in enumerate((odd, even - odd, following - odd)):
            a.to.store(value, a.pitch * line + v.i)
    return f


class _Tile:
    """Writes ``tile``: ``count`` of them side by side, or, ``masked``, as many as ``left`` results take."""

    def __init__(self, m: Module, grain: Grain, form: Form, vectors: int, masked: bool = False) -> None:
        data = ptr(grain.sums)
        self.form, self.vectors = form, vectors
        self.function = f = m.function(
            "last" if masked else "tile", w=data, panel=data, table=ptr(i32), core=i64, ahead=i64, behind=i64,
            to=ptr(grain.stored), stride=i64, count=i64, left=i64,
        )  # fmt: skip
        a, lanes = f.args, form.lanes
        targets = [a.to.at(a.stride * m) for m in range(form.rows)]
        if form.past and not masked:
            ended_lines = partial(self._lines, end=partial(ended, form.epilogue))
            store_side_by_side(f, targets, form.past, a.count, 2 * vectors, ended_lines)
            return
        with f.loop(0, a.count) as n:
            column = n.i * (2 * vectors * lanes)
            for to, v in product(targets, range(2 * vectors if form.asks and not masked else 0)):
                to.prefetch(column + v * lanes, write=True)
            for to, line in zip(targets, self._lines(n.i), strict=True):
                for v, value in enumerate(line):
                    at = column + v * lanes
                    mask = lanes_below(f, a.left - at, lanes) if masked else None
                    Destination(to, form.epilogue).store(value, at, mask)

    def _lines(self, n: Value, end: Callable[[Value], Value] = lambda value: value) -> list[list[Value]]:
        """The rows of a tile."""
        a, form, vectors = self.function.args, self.form, self.vectors
        steps = a.core + a.ahead + a.behind
        start = [a.w.splat(steps * form.rows + m, form.lanes) for m in range(form.rows) for _ in range(vectors)]
        panel = a.panel.at(n * (vectors * form.lanes))
        core = self._summed(panel, 0, a.core, start)
        even = self._summed(panel, a.core, a.core + a.ahead, core)
        odd = self._summed(panel, a.core + a.ahead, steps, core)
        made = [end(value) for pair in zip(even, odd, strict=True) for value in interleave(pair)]
        return [made[m : m + 2 * vectors] for m in range(0, len(made), 2 * vectors)]

    def _summed(self, panel: Pointer, first: Value | int, end: Value, start: list[Value]) -> list[Value]:
        """With the products of some steps."""
        f, form, lanes = self.function, self.form, self.form.lanes
        a = f.args
        with f.loop(first, end, carry=start) as k:
            samples, w, sums = panel.at(convert(a.table.load(k.i), i64)), a.w.at(k.i * form.rows), iter(k.values)
            columns = [samples.load(v * lanes, lanes) for v in range(self.vectors)]
            following = []
            for m in range(form.rows):
                weight = splat(w.load(m), lanes)
                following += [fma(weight, column, next(sums)) for column in columns]
            k.values = following
        return k.values


def _write_run(m: Module, grain: Grain, form: Form, samples: Function, tile: Function, last: Function) -> None:
    """Adds the entry ``run``: a task is a piece of a line of an image and a group."""
    f = m.entry("run", **fields(grain))
    a = f.args
    own, stages = a.own.at(a.thread * a.own_elements), [getattr(a, name) for name in _STAGES]
    block = (a.core + a.ahead + a.behind + 1) * form.rows
    with f.loop(a.begin, a.end) as task:
        first, rest = task.i % a.pieces * a.piece, task.i // a.pieces
        image_group, line = rest // a.lines, rest % a.lines
        x = a.x.at(image_group * a.channels * a.plane)
        with f.loop(0, a.filters) as n:
            tap, c = n.i % (a.kernel_d * a.kernel_h), n.i // (a.kernel_d * a.kernel_h)
            z = line // a.out_height * a.step_d + tap // a.kernel_h * a.apart_d - a.low_d
            row = line % a.out_height * a.step_h + tap % a.kernel_h * a.apart_h - a.low_h
            width = select(z.ult(a.depth) & row.ult(a.height), a.width, 0)  # what lies outside is 0
            source = x.at(c * a.plane + (z * a.height + row) * a.width)
            f.call(samples, source, first - a.low, width, own.at(n.i * a.pitch * LINES), a.pitch)
        results = minimum(a.piece, a.out_width - first)
        whole = results // form.columns
        done = whole * form.columns
        w, y = a.packed.at(image_group % a.groups * a.blocks * block), a.y.at(line * a.out_width + first)
        with f.loop(0, a.blocks) as o:
            row = _first_row(o.i, a.rows, form)
            to, weights = y.at((image_group * a.rows + row) * a.out_plane), w.at(o.i * block)
            with f.when(whole.ne(0)):
                f.call(tile, weights, own, a.table, *stages, to, a.out_plane, whole, 0)
            left = results - done
            f.call(
                last, weights, own.at(done // 2), a.table, *stages, to.at(done), a.out_plane,
                (left + (2 * form.lanes - 1)) // (2 * form.lanes), left,
            )  # fmt: skip
