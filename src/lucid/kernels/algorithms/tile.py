"""The register tile that every dense kernel spends its time in: an outer product summed over k.

::

    acc[m][v] = initial values                            m < rows, v < vectors, each acc a vector register
    for k in range(steps):
        acc[m][v] += w[k][m] * panel[k][v]                vectors loads, rows broadcasts, rows * vectors fused products
    to[m][v] = acc[m][v]

``w[k]`` are ``rows`` numbers side by side, ``panel[k]`` are ``vectors`` vectors, both at a fixed pitch from one k to
the next or where a table says. One loop in a function of its own: LLVM keeps accumulators in registers there and
nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, product
from math import ceil
from typing import Any

import numpy as np

from lucid.core.geometry import Sizes
from lucid.kernels import target
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.past_caches import store_side_by_side
from lucid.kernels.algorithms.woven import PLACE, ask_woven, store_woven, woven_lines
from lucid.kernels.epilogue import Destination, ended
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    convert,
    i32,
    i64,
    ptr,
    select,
    splat,
)
from lucid.kernels.isa import ISA
from lucid.kernels.plan import PLAIN, Epilogue
from lucid.kernels.runtime import memory

#: Accumulators that keep two units busy: over a latency of four cycles and what comes in between.
_BUSY = 12
#: Registers left beside accumulators, panel vectors and the broadcast; with none the loop fills with moves.
_SPARE = 1
LAST = 3  #: steps row by row, of tiles of as many vectors
_WIDEST = 6
_MOST_CHANNEL_VECTORS = 4
#: What a load takes where a turned tile does little else: its samples are far apart, some in two lines of the cache.
_SAMPLE_PRODUCTS = 1.1
#: What a vector of weights from the second level cache holds up a turned tile, in vector products.
_WEIGHTS_PRODUCTS = 0.8

Array = np.ndarray[Any, Any]

#: Parameters of a tile that finds each k through a table.
TABLE: dict[str, Any] = {"table": ptr(i32), "next_w": i64, "count": i64, "apart": i64, "asks": i64, "next_x": i64}
MOST_REACHED = 1 << 31  #: elements of a panel or of weights that a table tells apart

#: Where a k lies in the panel and where in the weights.
Place = Callable[[Value], tuple[Value, Value]]


def table_of(panel: Array, weights: Array) -> Array:
    """The table that a tile reads: of every k, where it lies in the panel and where in the weights, in elements."""
    return np.stack([panel.ravel(), weights.ravel()], axis=-1).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile's size: ``rows`` broadcasts by ``vectors`` vectors of ``lanes`` elements."""

    rows: int
    vectors: int
    lanes: int

    @property
    def columns(self) -> int:
        """Elements of a row."""
        return self.vectors * self.lanes

    @property
    def widths(self) -> int:
        """How many tiles there are, this and the narrower ones."""
        return self.vectors

    @property
    def unit(self) -> int:
        """Columns of the narrowest."""
        return self.lanes

    @property
    def pitch(self) -> int:
        """From one row, or column, of sums in memory to the next."""
        return self.columns

    over_channels = False

    @property
    def accumulators(self) -> int:
        """Registers that sums are in."""
        return self.rows * self.vectors

    @property
    def few(self) -> bool:
        """Whether its sums leave beside other products: see ``fitting_few``."""
        return self.accumulators <= _BUSY

    def loads(self, columns: int) -> int:
        """Vectors read at each k for a row of tiles."""
        return ceil(columns / self.lanes)

    def across(self, columns: int) -> float:
        """Time of one k over a row of tiles, of which the last two are alike where one would be narrow."""
        whole, rest = divmod(ceil(columns / self.lanes), self.vectors)
        edge = [rest] if rest else []
        if whole and rest:
            whole, last = whole - 1, self.vectors + rest
            edge = [last - last // 2, last // 2]
        return whole * self.step_products + sum(Tile(self.rows, v, self.lanes).step_products for v in edge)

    @property
    def step_products(self) -> float:
        """Time of one k, in vector products at the full rate, two a cycle: products, loads and latency overlap.

        Loads are as fast as products, but the panel comes from the second level cache at half that.
        """
        return max(self.rows * self.vectors, self.rows + self.vectors, 2 * self.vectors, _BUSY)


@dataclass(frozen=True, slots=True)
class ChannelTile:
    """A tile turned round: its vectors are rows of the result, and it broadcasts ``columns`` samples of a panel.

    Where rows are pixels' channels, no lane is lost to a short row of an image. Samples are ``step`` apart. A tile that
    ``asks`` has the weights of the next rows brought to the second level cache, those of a step by each.
    """

    columns: int
    vectors: int
    lanes: int
    step: int = 1
    asks: bool = False

    widths = 1
    over_channels = True

    @property
    def rows(self) -> int:
        """Elements of a column."""
        return self.vectors * self.lanes

    @property
    def unit(self) -> int:
        """Columns of the only width."""
        return self.columns

    @property
    def pitch(self) -> int:
        """From one column of sums in memory to the next."""
        return self.rows

    @property
    def accumulators(self) -> int:
        """Registers that sums are in."""
        return self.columns * self.vectors

    few = False

    def loads(self, columns: int) -> int:
        """Vectors read at each k for a row of tiles: of weights, anew for each."""
        return ceil(columns / self.columns) * self.vectors

    def across(self, columns: int) -> float:
        """Time of one k over a row of tiles."""
        loads = _SAMPLE_PRODUCTS * (self.columns + self.vectors + 1)
        if target.cpu().turns_of(self.lanes * 4) > 1:  # loads are as many a cycle as products, each sample one of them
            loads = self.columns + self.vectors
        step = max(self.columns * self.vectors, loads, 2 * self.vectors, _BUSY)
        return ceil(columns / self.columns) * step

    def read(self, columns: int) -> float:
        """The same with weights that come from the second level cache for each tile."""
        return self.across(columns) + _WEIGHTS_PRODUCTS * self.loads(columns)


AnyTile = Tile | ChannelTile


@lru_cache(maxsize=256)
def fitting_channels(isa: ISA, element: Type, columns: int) -> list[ChannelTile]:
    """For every number of vectors, the tile that covers so many columns in the least time."""
    free, lanes, found = isa.registers - 1 - _SPARE, isa.lanes(element), []
    for vectors in range(1, _MOST_CHANNEL_VECTORS + 1):
        tiles = [ChannelTile(n, vectors, lanes) for n in range(1, (free - vectors) // vectors + 1)]
        found.append(min(tiles, key=lambda tile: tile.read(columns)))
    return found if lanes > 1 else []


@lru_cache(maxsize=64)
def fitting(isa: ISA, element: Type) -> tuple[Tile, ...]:
    """The widest tile of every number of rows that the registers hold: accumulators, one k of the panel, a broadcast.

    On AVX-512 among them are 4 x 5, 8 x 3 and 14 x 2, on AVX2 3 x 3 and 6 x 2. None is wider than 6: a kernel has a
    function for every width up to the tile's.
    """
    free = isa.registers - 1 - _SPARE
    lanes = isa.lanes(element)
    return tuple(Tile(m, min(_WIDEST, free // (m + 1)), lanes) for m in range(1, free))


@lru_cache(maxsize=64)
def fitting_few(isa: ISA, element: Type) -> tuple[Tile, ...]:
    """Tiles of as many sums as keep the units busy, no more.

    Where a vector takes two turns, sums that leave at once hold up products: it reads a vector that waits to be stored
    where the next products read theirs. Twelve are stored as they come from the unit. That is 36 of 288 cycles with ten
    steps and 24 sums, none with twelve.
    """
    return tuple(Tile(m, _BUSY // m, isa.lanes(element)) for m in range(2, _BUSY // 2 + 1))


def last_steps(tile: AnyTile, least: int, turns: int) -> int:
    """How many steps a tile of ``least`` steps and more takes row by row at its end, each row before it is stored.

    Where a vector takes two turns, so does its store, and sums that wait for theirs are read from where products read
    theirs: after 24 sums of one step that holds up 36 cycles. With three steps' products of a row between its stores
    and the next ones none wait. Wider tiles have no registers for so many steps' vectors.
    """
    wanted = LAST if tile.vectors <= LAST else LAST - 1
    return wanted if turns > 1 and not tile.over_channels and least >= wanted else 0


def cover_products(tile: AnyTile, rows: int, columns: int) -> float:
    """Time of one k over a whole result, in vector products at the full rate, edges included."""
    return ceil(rows / tile.rows) * tile.across(columns)


def write_tile(
    module: Module, grain: Grain, tile: Tile, pitch: int | None, name: str = "tile", w_pitch: int = 0,
    epilogue: Epilogue = PLAIN, ahead: int = 0, stored: Type | None = None, samples: Type | None = None,
    residues: Sizes | None = None, past: int = 0, reaches: bool = False, last: int = 0,
) -> Function:  # fmt: skip
    """Adds the function ``name(steps, w, panel, start, again, to, stride, rows, spare)`` to a module.

    ``start`` has an initial value for each of the tile's rows, as a bias; if ``again`` is not 0, the sums in ``to`` are
    continued instead. Row m of the result is at ``to + m * stride``. Only the first ``rows`` rows exist there: the
    others go to ``spare``, which has room for one row of the tile. From one k to the next the panel advances by
    ``pitch``. ``w`` advances by the tile's rows, or by ``w_pitch``, and is asked for so many elements ``ahead``, which
    a stream from memory wants. Sums end with the epilogue, which takes no arrays. Where they are rounded to another
    type, ``stored``, none are continued. Panels of another type, ``samples``, are widened as they are loaded.

    Where ``pitch`` is None there are the parameters of ``TABLE`` too: ``table`` says where each k lies, ``next_w``
    how far on the weights of the next tile do, which are asked for one by one, and ``count`` tiles are done side by
    side, their panels ``apart``. A tile that ``asks`` wants the lines of its result before its loop.
    If it ``reaches`` further, each k also asks for the samples ``next_x`` further on, for the second cache.

    Rows that are ``residues`` of channels leave as lines of the result, channels ``stride`` apart: ``spare`` has the
    places of the first tile's vectors then, as ``store_woven`` wants them, and those of the others behind them.

    Tiles whose rows go ``past`` the caches continue no sums, and all of their rows exist.

    The ``last`` of the steps, of which there are as many then, are taken row by row: see ``last_steps``.
    """
    data, sums_at, stored, panels = ptr(grain.packed), ptr(grain.sums), stored or grain.sums, samples or grain.packed
    f = module.function(
        name, steps=i64, w=data, panel=ptr(panels), start=sums_at, again=i64, to=ptr(stored), stride=i64, rows=i64,
        spare=ptr(i64 if residues else stored), **(TABLE if pitch is None else {}),
    )  # fmt: skip
    a, w_pitch = f.args, w_pitch or tile.rows
    if pitch is not None:
        _write_one(f, grain, tile, a.panel, a.to, lambda k: (k * pitch, k * w_pitch), ahead, epilogue, last=last)
        return f
    place, next_x = partial(_in_table, a.table), a.next_x if reaches else None
    if past:
        _write_past(f, grain, tile, place, epilogue, next_x, past)
        return f
    with f.loop(0, a.count) as n:
        panel, to = a.panel.at(n.i * a.apart), a.to.at(n.i * tile.columns)
        if residues:
            places = a.spare.at(n.i * (tile.vectors * residues[2] * PLACE))
            channels = woven_lines(tile.rows, a.to, a.stride, a.rows, places, residues)
            with f.when(a.asks.ne(0)):
                ask_woven(channels, places, tile.vectors * residues[2])
            sums = summed_rows(f, grain, tile, panel, _fresh(f, tile), place, a.next_w, next_x, last, down=True)
            store_woven(sums, channels, places, residues, epilogue)
        else:
            _write_one(f, grain, tile, panel, to, place, a.next_w, epilogue, a.asks, next_x, last)
    return f


def _write_one(
    f: Function, grain: Grain, tile: Tile, panel: Pointer, to: Pointer, place: Place, ahead: Value | int,
    epilogue: Epilogue, asks: Value | None = None, next_x: Value | None = None, last: int = 0,
) -> None:  # fmt: skip
    """A tile's sums, of a panel and weights whose every k is at its ``place``."""
    a, lanes, across = f.args, tile.lanes, range(tile.vectors)
    targets = [_row(to, m * a.stride, a.rows > m, a.spare) for m in range(tile.rows)]
    if asks is not None:
        with f.when(asks.ne(0)):
            for row, v in product(targets, across):
                row.prefetch(v * lanes, write=True)

    def fresh() -> list[Value]:
        return _fresh(f, tile)

    def earlier() -> list[Value]:
        return [row.load(v * lanes, lanes) for row in targets for v in across]

    begun = f.choose(a.again.eq(0), fresh, earlier) if to.pointee == grain.sums else fresh()
    lines = summed_rows(f, grain, tile, panel, begun, place, ahead, next_x, last)
    for row, line in zip(targets, lines, strict=True):
        for v, value in enumerate(line):
            Destination(row, epilogue).store(value, v * lanes)


def _write_past(
    f: Function, grain: Grain, tile: Tile, place: Place, epilogue: Epilogue, next_x: Value | None, past: int
) -> None:  # fmt: skip
    """Tiles side by side, whose last rows go ``past`` the caches."""
    a = f.args

    def lines(n: Value) -> list[list[Value]]:
        sums = summed(f, grain, tile, a.panel.at(n * a.apart), _fresh(f, tile), place, a.next_w, next_x)
        values = [ended(epilogue, value) for value in sums]
        return [values[m : m + tile.vectors] for m in range(0, tile.accumulators, tile.vectors)]

    store_side_by_side(f, [a.to.at(a.stride * m) for m in range(tile.rows)], past, a.count, tile.vectors, lines)


def _fresh(f: Function, tile: Tile) -> list[Value]:
    """What a tile's sums start from."""
    return [start for m in range(tile.rows) for start in [f.args.start.splat(m, tile.lanes)] * tile.vectors]


def summed(
    f: Function, grain: Grain, tile: Tile, panel: Pointer, begun: list[Value], place: Place, ahead: Value | int,
    next_x: Value | None = None,
) -> list[Value]:  # fmt: skip
    """The loop over k: all vectors of a row, row by row."""
    return list(chain(*summed_rows(f, grain, tile, panel, begun, place, ahead, next_x)))


def summed_rows(
    f: Function, grain: Grain, tile: Tile, panel: Pointer, begun: list[Value], place: Place, ahead: Value | int,
    next_x: Value | None = None, last: int = 0, down: bool = False,
) -> Iterator[list[Value]]:  # fmt: skip
    """The same, whose ``last`` steps are taken by each row when it is asked for: see ``last_steps``.

    Or each vector of all rows, where they are asked for going ``down``.
    """
    a, lanes = f.args, tile.lanes

    def operands(k: Value) -> tuple[Pointer, Pointer]:
        """Where samples and weights of one k lie, of which those ahead are asked for."""
        in_panel, in_weights = place(k)
        samples, w = panel.at(in_panel), a.w.at(in_weights)
        for line in range(0, tile.rows, memory.ALIGN_BYTES // grain.packed.bytes) if ahead else ():
            w.prefetch(ahead + line)
        if next_x is not None:
            samples.prefetch(next_x, locality=2)
        return samples, w

    def column(samples: Pointer, v: int) -> Value:
        return convert(samples.load(v * lanes, lanes), grain.packed)

    def row(w: Pointer, m: int, columns: list[Value], sums: list[Value]) -> list[Value]:
        weight = splat(w.load(m), lanes)  # folds into the product if it is used once
        return [grain.multiply_add(weight, *pair) for pair in zip(columns, sums, strict=True)]

    def rows(sums: list[Value]) -> Iterator[tuple[int, list[Value]]]:
        return enumerate(sums[m : m + tile.vectors] for m in range(0, tile.accumulators, tile.vectors))

    with f.loop(0, a.steps - last if last else a.steps, carry=begun) as k:
        samples, w = operands(k.i)
        columns = [column(samples, v) for v in range(tile.vectors)]
        k.values = [value for m, line in rows(k.values) for value in row(w, m, columns, line)]
    ending = [operands(a.steps - n) for n in range(last, 0, -1)]
    if down:
        for v in range(tile.vectors):
            line = k.values[v :: tile.vectors]
            for samples, w in ending:
                x = [column(samples, v)]
                line = [row(w, m, x, [value])[0] for m, value in enumerate(line)]
            yield line
        return
    steps = [(w, [column(samples, v) for v in range(tile.vectors)]) for samples, w in ending]
    for m, line in rows(k.values):
        for w, columns in steps:
            line = row(w, m, columns, line)
        yield line


def write_channel_tile(
    module: Module, grain: Grain, tile: ChannelTile, name: str = "tile", epilogue: Epilogue = PLAIN,
    samples: Type | None = None,
) -> Function:  # fmt: skip
    """Adds a function with the parameters of a tile's that reads through a table, for the tile turned round.

    ``w`` has vectors of rows, ``panel`` the columns' samples, and column n of the sums is at ``to + n * stride``.
    All rows and columns are stored, whatever ``rows`` says; ``spare`` is not touched.
    Of ``count`` tiles the sums follow each other. None ``asks``. Panels of another type, ``samples``, are widened one
    by one.
    """
    data, sums_at, panels = ptr(grain.packed), ptr(grain.sums), ptr(samples or grain.packed)
    f = module.function(
        name, steps=i64, w=data, panel=panels, start=sums_at, again=i64, to=sums_at, stride=i64, rows=i64,
        spare=sums_at, **TABLE,
    )  # fmt: skip
    with f.loop(0, f.args.count) as n:
        to = f.args.to.at(n.i * (tile.rows * tile.columns))
        _write_channels(f, grain, tile, f.args.panel.at(n.i * f.args.apart), to, epilogue)
    return f


def _write_channels(
    f: Function, grain: Grain, tile: ChannelTile, panel: Pointer, to: Pointer, epilogue: Epilogue
) -> None:
    """A turned tile's sums, of one panel."""
    a, lanes, along = f.args, tile.lanes, range(tile.vectors)
    targets = [to.at(a.stride * n) for n in range(tile.columns)]

    def fresh() -> list[Value]:
        return [a.start.load(v * lanes, lanes) for v in along] * tile.columns

    def earlier() -> list[Value]:
        return [column.load(v * lanes, lanes) for column in targets for v in along]

    with f.loop(0, a.steps, carry=f.choose(a.again.eq(0), fresh, earlier)) as k:
        in_panel, in_weights = _in_table(a.table, k.i)
        samples, w, sums = panel.at(in_panel), a.w.at(in_weights), iter(k.values)
        weights = [w.load(v * lanes, lanes) for v in along]
        for v in along if tile.asks else ():
            w.prefetch(a.next_w + v * lanes, locality=2)
        following: list[Value] = []
        for n in range(tile.columns):
            sample = samples.splat(n * tile.step, lanes, grain.packed)
            following += [grain.multiply_add(weight, sample, next(sums)) for weight in weights]
        k.values = following
    results = iter(k.values)
    for column in targets:
        for v in along:
            Destination(column, epilogue).store(next(results), v * lanes)


def _in_table(table: Pointer, k: Value) -> tuple[Value, Value]:
    return convert(table.load(k * 2), i64), convert(table.load(k * 2 + 1), i64)


def _row(to: Pointer, offset: Value, exists: Value, spare: Pointer) -> Pointer:
    chosen = select(exists, to.at(offset), spare)
    assert isinstance(chosen, Pointer)
    return chosen
