"""Input gradient of kernels of one row on one channel: a product of all taps, read in place, added up where taps meet.

::

    for a segment of a row of gx, for channels of g, some at a time:
        for columns of g that meet it, some vectors at a time, for taps, some at a time:     sums in registers
            for these channels:   sum[tap] += w[channel][tap] * g[channel][columns]
    gx[i] = sum over taps of sum[tap][i + low - tap]                                         in the first caches

The same as ``overlap_add`` for one result channel, but nothing is gathered: rows of g are read where they lie, while
the next channels' or segment's are asked for. With a stride every residue of it has taps of its own, whose results are
stored one by one. Half precision is widened as it is loaded, rows of w once a segment, and rounded as gx is stored:
taps are added up in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np

from lucid.kernels import jit, target
from lucid.kernels.algorithms import toeplitz
from lucid.kernels.algorithms.base import Executable, address, memory_cycles, sum_type, turns_of, useful_threads
from lucid.kernels.algorithms.correlation_kernel import widened
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    computed,
    convert,
    fma,
    i32,
    i64,
    lanes_below,
    lanes_inside,
    minimum,
    ptr,
    select,
    splat,
    zeros,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, Launch, in_order
from lucid.kernels.plan import Problem

Array = np.ndarray[Any, Any]

_LEAST_CHANNELS = 4  # of g: with fewer, adding up takes as long as the products
_BLOCK = 64  # rows of g that are read side by side; sums of more are carried on
_MOST_HALO = 256  # columns that two segments both multiply
_MOST_VECTORS = 4
_SEGMENT = 1024
_TASKS = 8  # wanted at least, of segments that are not
_SHORT = 128
_HIDING = 13  # taps of one vector at a time, of halves
#: Cycles of one thread of a Zen 4, whose loads take longer than its products: 16 plans of random layers, half of them
#: within 4 %.
_HALVED = {
    "product": 0.83,
    "load": 2.3,
    "store": 1.8,
    "pass": 8.0,  # of a tile
    "added": 3.0,  # a vector of gx, at every tap
    "weights": 3.0,  # a vector of them, widened
    "carried": 2.5,  # a vector of sums, from one block of channels to the next
    "scattered": 3.0,  # a result, where the stride is not 1
    "waiting": 0.6,  # for memory
    "call": 4800.0,
}


@dataclass(frozen=True, slots=True)
class Tile:
    """Sums in flight: ``vectors`` of columns by up to the largest of ``passes``, numbers of taps."""

    vectors: int
    passes: tuple[int, ...]

    @property
    def registers(self) -> int:
        """Sums, vectors of g, a number of w."""
        return self.vectors * (max(self.passes) + 1) + 1

    def cycles(self, vector_bytes: int) -> float:
        """Of a channel's vector of columns, at every tap; it lies in so many bytes, and is widened beside products."""
        touched = toeplitz.straddle(vector_bytes)
        each = [max(taps * self.vectors, touched * self.vectors + taps) / 2 for taps in self.passes]
        return sum(each) / self.vectors


@dataclass(frozen=True, slots=True)
class Form:
    """A tile, whether sums are ``carried`` from one block of channels to the next, whether results are ``strided``."""

    tile: Tile
    carried: bool
    strided: bool


@dataclass(frozen=True)
class LinesInput:
    """A problem with its tile."""

    problem: Problem
    tile: Tile
    lanes: int

    @property
    def element(self) -> Type:
        """What is computed in."""
        return sum_type(self.problem)

    @property
    def stride(self) -> int:
        """Results of a step, which is a column of g."""
        return self.problem.spec.stride[2]

    @property
    def halo(self) -> int:
        """Columns of g beyond a segment's own that meet it."""
        return (self.problem.spec.kernel[2] - 1) * self.problem.spec.dilation[2] // self.stride

    @property
    def first(self) -> int:
        """The step of the first result."""
        return self.problem.spec.padding[2][0] // self.stride

    @property
    def steps(self) -> int:
        """Of a row of gx."""
        return (self.problem.size[2] - 1 + self.problem.spec.padding[2][0]) // self.stride - self.first + 1

    @property
    def blocks(self) -> int:
        """Of channels."""
        return ceil(self.problem.group_out / _BLOCK)

    @property
    def form(self) -> Form:
        """What the code depends on."""
        return Form(self.tile, self.blocks > 1, self.stride > 1)

    @property
    def wide(self) -> int:
        """Columns of a tile."""
        return self.tile.vectors * self.lanes

    @property
    def pieces(self) -> int:
        """Segments of a row."""
        rows = self.problem.batch * self.problem.groups * prod(self.problem.size[:2])
        some = min(ceil(_TASKS / rows), self.steps // _SHORT) if self.form.carried or self.form.strided else 1
        return max(ceil(self.steps / _SEGMENT), some)

    @property
    def segment(self) -> int:
        """Steps of gx that are summed at a time: whole vectors, and as even as may be."""
        return ceil(self.steps / self.pieces / self.lanes) * self.lanes

    @property
    def pitch(self) -> int:
        """From one tap's sums of a segment to the next one's: whole tiles, and a vector that is read beyond them."""
        return ceil((self.segment + self.halo) / self.wide) * self.wide + self.lanes

    @property
    def weight_elements(self) -> int:
        """A group's weights, where they are widened; whole lines."""
        narrow = self.element.bytes > self.problem.itemsize
        return ceil(self.problem.group_out * self.problem.spec.kernel[2] / 16) * 16 if narrow else 0

    @property
    def private_elements(self) -> int:
        """A thread's weights, its sums of a segment, and where the stride is not 1 a residue's results; whole lines."""
        return self.weight_elements + ceil(self.sum_elements / 16) * 16

    @property
    def sum_elements(self) -> int:
        """Of those, sums and results."""
        return (self.problem.spec.kernel[2] + (self.stride > 1)) * self.pitch

    @property
    def tasks(self) -> int:
        """Segments of all rows."""
        return self.problem.batch * self.problem.groups * prod(self.problem.size[:2]) * self.pieces

    @property
    def cycles(self) -> float:
        """Expected, of one thread."""
        p, taps = self.problem, self.problem.spec.kernel[2]
        tiles = ceil((self.segment + self.halo) / self.wide)
        if turns_of(self.lanes, sum_type(p)) > 1:
            return self._in_turns(self.tasks * tiles)
        each = self.tile.cycles(self.lanes * p.itemsize)
        products = tiles * (self.tile.vectors * (p.group_out * each * 1.2 + 2 * taps) + 20 * len(self.tile.passes))
        added = ceil(self.segment / self.lanes) * (1.5 * taps + 3)
        weights = 3 * self.weight_elements / self.lanes
        return max(self.tasks * (weights + products + added + 60), memory_cycles(p.traffic_bytes)) + 3000

    def _in_turns(self, tiles: int) -> float:
        """The same where a vector takes two turns, and loads that straddle two lines of the cache four."""
        p, taps, vectors = self.problem, self.problem.spec.kernel[2], tiles * self.tile.vectors
        work = {
            "product": vectors * p.group_out * taps,
            "load": vectors * p.group_out * len(self.tile.passes),
            "store": vectors * taps,
            "pass": tiles * len(self.tile.passes),
            "added": self.tasks * ceil(self.segment / self.lanes) * taps,
            "carried": (self.blocks - 1) * vectors * taps,
            "scattered": prod(p.size) * p.batch * p.c_in * (self.stride > 1),
            "weights": self.tasks * self.weight_elements / self.lanes,
            "waiting": memory_cycles(p.traffic_bytes),
            "call": 1,
        }
        return sum(_HALVED[unit] * count for unit, count in work.items())


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Few channels, or very many of machines where they have not been measured; taps far apart."""
    spec = problem.spec
    many = problem.group_out > _BLOCK and target.cpu().turns(isa) == 1
    if many or problem.group_out < _LEAST_CHANNELS:
        return f"g has {problem.group_out} channels a group"
    return "taps are far apart" if (spec.kernel[2] - 1) * spec.dilation[2] > _MOST_HALO else None


def lines_input(problem: Problem, isa: ISA, chosen: Tile | None = None) -> LinesInput:
    """The tile that is expected to be fastest, unless one has been chosen."""
    lanes, taps = isa.lanes(sum_type(problem)), problem.spec.kernel[2]
    tiles = [
        Tile(vectors, even(taps, count)) for vectors in range(1, _MOST_VECTORS + 1) for count in range(1, taps + 1)
    ]
    fitting = [tile for tile in tiles if tile.registers <= isa.registers]
    narrow = problem.itemsize < sum_type(problem).bytes
    if chosen or (narrow and turns_of(lanes, sum_type(problem)) > 1):
        return LinesInput(problem, chosen or _beside_conversions(problem, fitting, lanes), lanes)
    best = min(fitting, key=lambda tile: (tile.cycles(lanes * problem.itemsize), len(tile.passes)))
    return LinesInput(problem, best, lanes)


def _beside_conversions(problem: Problem, fitting: list[Tile], lanes: int) -> Tile:
    """The tile for halves where a vector takes two turns.

    Conversions hide beside the products of one vector with some taps at a time; of few taps, of as many vectors as
    there are.
    """
    taps = problem.spec.kernel[2]
    if taps >= 8:
        return Tile(1, even(taps, max(2, ceil(taps / _HIDING))))
    asked = [LinesInput(problem, tile, lanes) for tile in fitting if len(tile.passes) == 1]
    return min(asked, key=lambda a: ceil((a.segment + a.halo) / a.wide) * (taps * a.tile.vectors + 2)).tile


def even(taps: int, passes: int) -> tuple[int, ...]:
    """As many numbers, as even as may be, the larger ones first."""
    return tuple(sorted((taps * (k + 1) // passes - taps * k // passes for k in range(passes)), reverse=True))


_ARRAYS = ("g", "weights", "bias", "gx")
_NUMBERS = (
    "groups", "channels", "rows", "w", "ow", "pieces", "segment", "low", "dilation", "taps", "pitch", "private",
    "own_weights", "halo", "bias_step", "first", "steps", "stride", "block",
)  # fmt: skip


def _fields(element: Type) -> dict[str, Type]:
    own = {"own": ptr(computed(element)), "table": ptr(i32)}
    return {**dict.fromkeys(_ARRAYS, ptr(element)), **own, **dict.fromkeys(_NUMBERS, i64)}


def bound(asked: LinesInput) -> Executable:
    """The kernel with every number of the shape fixed."""
    problem, spec = asked.problem, asked.problem.spec
    element = BY_DTYPE[problem.dtype]
    form = asked.form
    code = jit.kernel(("lines_input", problem.dtype, form), lambda isa: _write(isa, element, form))
    no_bias, table = np.zeros(1), _table(asked)
    numbers = in_order(_NUMBERS, {
        "groups": problem.groups, "channels": problem.group_out, "rows": prod(problem.size[:2]),
        "w": problem.size[2], "ow": problem.out[2], "pieces": asked.pieces, "segment": asked.segment,
        "low": spec.padding[2][0], "dilation": spec.dilation[2], "taps": spec.kernel[2], "pitch": asked.pitch,
        "private": asked.private_elements, "own_weights": asked.weight_elements, "halo": asked.halo,
        "bias_step": int(problem.bias), "first": asked.first, "steps": asked.steps, "stride": asked.stride,
        "block": ceil(problem.group_out / asked.blocks),
    })  # fmt: skip
    return Launch(
        [(code.address("add_up"), asked.tasks, max(1, asked.tasks // 64))],
        (0, 0, 0 if problem.bias else address(no_bias), 0, 0, address(table), *numbers),
        (0, 1, 2 if problem.bias else NOTHING, 3, WORKSPACE),
        own_bytes=asked.private_elements * asked.element.bytes,
        most_threads=useful_threads(asked.cycles, asked.tasks),
        keep=(no_bias, table),
        batch_parts=problem.batch,
    )


def _table(asked: LinesInput) -> Array:
    """For every residue where its taps begin, and for the last one where they end; then where sums of taps lie.

    Those of the first step of a segment, at which a result of the residue is the sum of them all.
    """
    spec, stride = asked.problem.spec, asked.stride
    taps = np.arange(spec.kernel[2])
    residues = taps * spec.dilation[2] % stride
    places = taps * asked.pitch + asked.halo - taps * spec.dilation[2] // stride
    order = np.argsort(residues, kind="stable")
    bounds = stride + 1 + np.searchsorted(residues[order], np.arange(stride + 1))
    return np.concatenate([bounds, places[order]]).astype(np.int32)


def _write(isa: ISA, element: Type, form: Form) -> Module:
    module, tile, lanes = Module("lines_input", isa), form.tile, isa.lanes(computed(element))
    edges = {taps: _write_tile(module, element, lanes, form, taps, edge=True) for taps in {*tile.passes}}
    first = _write_tile(module, element, lanes, form, tile.passes[0], asks=True)
    others = {taps: _write_tile(module, element, lanes, form, taps) for taps in {*tile.passes[1:]}}
    add_taps = (_write_scatter if form.strided else _write_add_taps)(module, element, lanes)
    f = module.entry("add_up", **_fields(element))
    a, wide = f.args, tile.vectors * lanes
    with f.loop(a.begin, a.end) as task:
        piece, line = task.i % a.pieces, task.i // a.pieces
        row, channel = line % a.rows, line // a.rows
        group, start = channel % a.groups, piece * a.segment
        plane, private = a.rows * a.ow, a.own.at(a.thread * a.private)
        g = a.g.at(channel * a.channels * plane + row * a.ow)
        w, own = a.weights.at(group * a.channels * a.taps), private.at(a.own_weights)
        if element != computed(element):
            w = widened(f, w, private, a.channels * a.taps, lanes)
        count = minimum(a.segment, a.steps - start)
        left = start + a.first - a.halo  # the first column of g that meets the segment
        after = select(row.eq(a.rows - 1), a.channels * plane - row * a.ow, a.ow) - start
        ahead = select(piece.eq(a.pieces - 1), after, a.segment)
        with f.loop(0, a.channels, a.block) as c, f.loop(0, count + a.halo, wide) as at:
            column, tap, channels = left + at.i, 0, minimum(a.block, a.channels - c.i)
            inside = column.ult(a.ow) & (column + wide <= a.ow)
            next_rows = select((c.i + a.block).ult(a.channels), a.block * plane, ahead - c.i * plane)
            for n, taps in enumerate(tile.passes):
                shared = (
                    g.at(c.i * plane), plane, w.at(c.i * a.taps + tap), a.taps, channels,
                    own.at(at.i + a.pitch * tap), a.pitch, column, a.ow, next_rows, c.i,
                )  # fmt: skip
                whole = others[taps] if n else first
                f.choose(inside, _calling(f, whole, shared), _calling(f, edges[taps], shared))
                tap += taps
        to, bias = a.gx.at((channel * a.rows + row) * a.w), a.bias.at(group * a.bias_step)
        if form.strided:
            _add_residues(f, add_taps, own, bias, to, start, count)
        else:
            f.call(add_taps, own.at(a.halo), a.pitch - a.dilation, a.taps, bias, to.at(start), count)
    return module


def _add_residues(
    f: Function, scatter: Function, own: Pointer, bias: Pointer, to: Pointer, start: Value, count: Value
) -> None:
    """The results of ``count`` steps of a row, residue by residue of the stride."""
    a = f.args
    with f.loop(0, a.stride) as residue:
        begin = (start + a.first) * a.stride + residue.i - a.low  # may be before the first
        low, high = select(begin < 0, f.const(i64, 1), 0), minimum(count, (a.w - begin + (a.stride - 1)) // a.stride)
        places = [convert(a.table.load(residue.i + k), i64) for k in (0, 1)]
        f.call(scatter, own, a.table, *places, bias, to.at(begin), a.stride, low, high, own.at(a.taps * a.pitch))


def _calling(f: Function, function: Function, operands: tuple[Any, ...]) -> Callable[[], list[Value]]:
    def call() -> list[Value]:
        f.call(function, *operands)
        return []

    return call


def _write_tile(
    module: Module, element: Type, lanes: int, form: Form, taps: int, edge: bool = False, asks: bool = False
) -> Function:
    """Adds a function: to[tap][column] = the sum over ``channels`` of w[channel][tap] g[channel][column].

    It ``asks`` for the columns that are so much ahead. At an ``edge`` columns may be outside, where sums are 0. Where
    sums are carried it goes on with those of the channels that are ``before``, if any.
    """
    wide, kind, tile = computed(element), "edge" if edge else "first" if asks else "tile", form.tile
    f = module.function(
        f"{kind}{taps}", g=ptr(element), plane=i64, w=ptr(wide), w_step=i64, channels=i64, to=ptr(wide), pitch=i64,
        column=i64, ow=i64, ahead=i64, before=i64,
    )  # fmt: skip
    a, zero = f.args, zeros(f, wide, lanes)
    vectors = range(tile.vectors)
    masks = [lanes_inside(f, a.column + v * lanes, a.ow, lanes) if edge else None for v in vectors]
    first, start = a.g.at(a.column), [zero] * (taps * tile.vectors)
    if form.carried:
        carried = lanes_below(f, a.before, lanes)  # all or none
        start = [a.to.at(a.pitch * t).load(v * lanes, lanes, carried) for t in range(taps) for v in vectors]
    with f.loop(0, a.channels, carry=start) as c:
        row, w, sums = first.at(c.i * a.plane), a.w.at(c.i * a.w_step), list(c.values)
        if asks:
            for v in vectors:
                row.prefetch(a.ahead + v * lanes, locality=2)
        values = [convert(row.load(v * lanes, lanes, masks[v]), wide) for v in vectors]
        for t in range(taps):
            weight = w.splat(t, lanes)
            for v, value in enumerate(values):
                sums[t * tile.vectors + v] = fma(weight, value, sums[t * tile.vectors + v])
        c.values = sums
    for t in range(taps):
        for v, mask in enumerate(masks):
            total = c.values[t * tile.vectors + v]
            a.to.at(a.pitch * t if t else 0).store(total if mask is None else select(mask, total, zero), v * lanes)
    return f


def _write_add_taps(module: Module, element: Type, lanes: int) -> Function:
    """Adds ``add_taps``: to[i] = bias + the sum over taps of sums[tap step + i], ``count`` of them."""
    wide = computed(element)
    f = module.function(
        "add_taps", sums=ptr(wide), step=i64, taps=i64, bias=ptr(element), to=ptr(element), count=i64
    )  # fmt: skip
    a = f.args
    start = splat(convert(a.bias.load(), wide), lanes)
    with f.loop(0, a.count, lanes) as i:
        here = a.sums.at(i.i)
        with f.loop(0, a.taps, carry=[start]) as t:
            t.values = [t.values[0] + here.load(t.i * a.step, lanes)]
        a.to.store(convert(t.values[0], element), i.i, lanes_below(f, a.count - i.i, lanes))
    return f


def _write_scatter(module: Module, element: Type, lanes: int) -> Function:
    """Adds ``scatter``: to[step i] = bias + the sum over a residue's taps of sums[place + i], from ``low`` to ``high``.

    Places are those of ``table`` from ``begin`` to ``end``. Vectors of results wait in ``room``.
    """
    wide = computed(element)
    f = module.function(
        "scatter", sums=ptr(wide), table=ptr(i32), begin=i64, end=i64, bias=ptr(element), to=ptr(element), step=i64,
        low=i64, high=i64, room=ptr(wide),
    )  # fmt: skip
    a = f.args
    start = splat(convert(a.bias.load(), wide), lanes)
    with f.loop(0, a.high, lanes) as i:
        with f.loop(a.begin, a.end, carry=[start]) as t:
            t.values = [t.values[0] + a.sums.load(convert(a.table.load(t.i), i64) + i.i, lanes)]
        a.room.store(t.values[0], i.i)
    with f.loop(a.low, a.high) as i:
        a.to.store(convert(a.room.load(i.i), element), i.i * a.step)
    return f
