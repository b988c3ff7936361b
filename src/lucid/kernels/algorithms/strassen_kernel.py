"""Native code of ``strassen``: the weights' sums, and the loops over spans of vectors of positions.

::

    for each group, part of the rows, span:               tasks: no two write the same
        for each tile of the span: gather the seven sums of its four quarters of x    in the second level cache
        for each pair of tiles of rows, for each tile of the span:
            seven products, whose sums wait in two small arrays on their way to the four quarters of y

A vector of positions is of one image, as is the one beside it that shares its sums; an image's last is short or holds
nothing, as do those that fill up the last span. Half precision is widened as it is gathered and rounded as it is
stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.tile import Tile, summed_rows
from lucid.kernels.epilogue import Destination
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    absolute,
    bitcast,
    convert,
    fma,
    i32,
    i64,
    lanes_below,
    maximum,
    minimum,
    ptr,
    select,
    shuffle,
    transpose,
    vec,
    zeros,
)
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Epilogue

ARRAYS = ("x", "w", "bias", "y", "packed", "own")
NUMBERS = (
    "groups", "rows", "pairs", "blocks", "part_blocks", "parts", "plane", "couples", "image_couples", "half", "tiles",
    "narrow", "spans", "row_step", "channel_step", "group_step", "term", "block", "panel_term",
    "panel_tile", "panels_at", "own_elements",
)  # fmt: skip
#: Numbers of a vector of positions: where its samples are, where its results, how many it holds.
PLACE = 3
TERMS = 7
HEADS = 3  # numbers of each row before its terms
_ASKS = 3  # of the seven sums that ask for samples
_AHEAD = 4  # pairs of channels that are asked for before they are gathered

Use = Callable[[Value, Any, list[Value]], None]


@dataclass(frozen=True, slots=True)
class Form:
    """What the code depends on: the tile, how weights lie, and what is done to results.

    Weights are read ``"one by one"``, or, where a vector holds those of two tiles of rows, whose weights of a channel
    lie ``"side by side"``, or those of a row, which are ``"turned"``. The ``last`` steps of a tile are row by row.
    """

    tile: Tile
    packing: str
    epilogue: Epilogue
    last: int = 0

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """The full one, and one that is a vector narrower."""
        return tuple(Tile(self.tile.rows, v, self.tile.lanes) for v in (self.tile.vectors, self.tile.vectors - 1))


def in_lines(elements: int) -> int:
    """Elements in whole lines of the cache."""
    return -(-elements // 16) * 16


def fields(grain: Grain) -> dict[str, Type]:
    """Of both entry points."""
    arrays = dict.fromkeys(ARRAYS, ptr(grain.stored)) | dict.fromkeys(("packed", "own"), ptr(grain.sums))
    return {**arrays, **dict.fromkeys(NUMBERS, i64)}


def write(isa: ISA, stored: Type, form: Form) -> Module:
    """The module with the entry points ``weights`` and ``run``."""
    m, grain = Module("strassen", isa), Grain(stored)
    _write_weights(m, grain, form)
    calls = [_write_gather(m, grain, form.tile.columns, tile) for tile in form.tiles]
    quads = [_write_quad(m, grain, form, tile) for tile in form.tiles]
    _write_run(m, grain, form.tile, calls, quads)
    return m


def _weight_terms(a11: Value, a12: Value, a21: Value, a22: Value) -> list[Value]:
    """The left factors, in the order of their use; the fifth is subtracted."""
    s1 = a21 + a22
    s2 = s1 - a11
    return [a11, a12, s2, a11 - a21, -a22, s1, a12 - s2]


def _sample_terms(b11: Value, b12: Value, b21: Value, b22: Value) -> list[Value]:
    """The right factors, in the order of their use."""
    t1 = b12 - b11
    t2 = b22 - t1
    return [b11, b21, t2, b22 - b12, t2 - b21, t1, b22]


def _write_weights(m: Module, grain: Grain, form: Form) -> None:
    """Adds the entry ``weights``: a task makes those of a pair of tiles of rows.

    Biases, scales and their reciprocals, [row] each, then [term][pair][row]. Rows beyond the last are the last again,
    or zeros.
    """
    f = m.entry("weights", **fields(grain))
    a, rows = f.args, form.tile.rows
    has_bias = f.emit(i64, f"ptrtoint ptr {a.bias.text} to i64").ne(0)
    with f.loop(a.begin, a.end) as task:
        group, first = task.i // a.blocks, task.i % a.blocks * (2 * rows)
        to, last = a.packed.at(task.i * a.block), a.rows - 1
        w, scales, inverse = a.w.at(group * a.group_step), to.at(in_lines(2 * rows)), to.at(2 * in_lines(2 * rows))
        with f.loop(0, 2 * rows) as r:
            channel = group * a.rows + minimum(first + r.i, last)
            to.store(convert(a.bias.load(channel, 1, has_bias), grain.sums), r.i)
            scales.store(0, r.i)
        _each_four(f, grain, form, w, first, lambda _, row, four: _keep_largest(scales, rows, row, four))
        with f.loop(0, 2 * rows) as r:
            scale = _power_of_two(scales.load(r.i))
            scales.store(scale, r.i)
            inverse.store(1 / maximum(scale, 1 / _most(scale)), r.i)

        def divided(pair: Value, row: Any, four: list[Value]) -> None:
            lanes = four[0].type.lanes
            top, bottom = (inverse.load(row + n, lanes) for n in (0, rows))
            a11, a12, a21, a22 = four
            values = _weight_terms(a11 * top, a12 * top, a21 * bottom, a22 * bottom)
            _store_terms(a, values, inverse.at(in_lines(2 * rows) + pair * rows + row))

        _each_four(f, grain, form, w, first, divided)


def _keep_largest(to: Pointer, rows: int, row: Any, four: list[Value]) -> None:
    """The largest size of a row's weights so far: sizes are in the order of their bits, and NaN above all."""
    sizes = [absolute(v) for v in four]
    whole = {4: i32, 8: i64}[sizes[0].type.element.bytes]
    lanes = sizes[0].type.lanes
    for n, pair in ((0, sizes[:2]), (rows, sizes[2:])):
        place = to.cast(whole).at(row + n)
        one, other = (bitcast(v, vec(whole, lanes) if lanes > 1 else whole) for v in pair)
        place.store(maximum(maximum(one, other), place.load(0, lanes)))


def _power_of_two(largest: Value) -> Value:
    """The largest that is no larger and has a reciprocal: its exponent alone. 0 of zeros and of subnormal numbers."""
    whole, exponent = {4: (i32, 0xFF << 23), 8: (i64, 0x7FF << 52)}[largest.type.bytes]
    power = bitcast(bitcast(largest, whole) & exponent, largest.type)
    return minimum(power, _most(largest))


def _most(pattern: Value) -> float:
    """The largest power of two whose reciprocal is no subnormal number."""
    return float({4: 2.0**126, 8: 2.0**1022}[pattern.type.element.bytes])


def _each_four(f: Function, grain: Grain, form: Form, w: Pointer, first: Value, use: Use) -> None:
    """Calls ``use`` with each pair of channels, the first row, and a11, a12, a21, a22: of one row or of a tile's."""
    a, rows, lanes = f.args, form.tile.rows, form.tile.lanes

    def both(pair: Value, columns: list[Value]) -> None:
        """Of two channels, each a vector of both tiles' rows."""
        tiles = [[shuffle(v, None, range(n, n + rows)) for v in columns] for n in (0, rows)]
        use(pair, 0, [convert(v, grain.sums) for tile in tiles for v in tile])

    if form.packing == "one by one":
        with f.loop(0, rows) as r, f.loop(0, a.pairs) as i:
            lines = [w.at(minimum(first + n + r.i, a.rows - 1) * a.row_step) for n in (0, rows)]
            four = [line.load((i.i * 2 + k) * a.channel_step) for line in lines for k in (0, 1)]
            use(i.i, r.i, [convert(v, grain.sums) for v in four])
    elif form.packing == "side by side":
        mask = lanes_below(f, a.rows - first, lanes)
        with f.loop(0, a.pairs) as i:
            both(i.i, [w.at((i.i * 2 + k) * a.channel_step + first).load(0, lanes, mask) for k in (0, 1)])
    else:  # as many channels of a row as there are rows, the last moved back
        with f.loop(0, a.pairs, lanes // 2) as i:
            start = minimum(i.i, a.pairs - lanes // 2)
            lines = [w.at(minimum(first + r, a.rows - 1) * a.row_step) for r in range(lanes)]
            columns = transpose([convert(line.load(start * 2, lanes), grain.sums) for line in lines])
            for n in range(lanes // 2):
                both(start + n, columns[2 * n : 2 * n + 2])


def _store_terms(a: Any, values: list[Value], to: Pointer) -> None:
    for number, value in enumerate(values):
        to.store(value, a.term * number)


def _write_gather(m: Module, grain: Grain, pitch: int, tile: Tile) -> Function:
    """Adds ``gather``: the seven right factors of two tiles of positions, [term][pair of channels][position]."""
    f = m.function(
        f"gather_{tile.vectors}", x=ptr(grain.stored), plane=i64, pairs=i64, places=ptr(i64), half=i64,
        panel=ptr(grain.sums), term=i64,
    )  # fmt: skip
    a, lanes = f.args, tile.lanes
    ends = [[a.places.at((a.half * h + v) * PLACE) for v in range(tile.vectors)] for h in (0, 1)]
    sources = [[a.x.at(place.load(0)) for place in half] for half in ends]
    masks = [[lanes_below(f, place.load(2), lanes) for place in half] for half in ends]
    with f.loop(0, a.pairs) as pair:
        at = pair.i * (2 * a.plane)
        for v in range(tile.vectors):
            quarters = []  # b11, b21, b12, b22
            for half, k in product((0, 1), (0, 1)):
                source = sources[half][v].at(at + a.plane * k)
                source.prefetch(a.plane * (2 * _AHEAD))
                quarters.append(convert(source.load(0, lanes, masks[half][v]), grain.sums))
            b11, b21, b12, b22 = quarters
            _store_terms(a, _sample_terms(b11, b12, b21, b22), a.panel.at(pair.i * pitch + v * lanes))
    return f


def _write_product(m: Module, grain: Grain, form: Form, tile: Tile, kind: str) -> Function:
    """Adds one of three products of a term: sums begin where ``begin`` says, and go on by ``steps``.

    ``sum`` puts them to ``sums``, and asks for one of the ``samples`` with each step; ``end`` puts them to the result.
    ``fork`` adds what they are without a beginning to both: to ``begin`` on the way to the result, and to ``sums``.
    """
    sums, stored = ptr(grain.sums), ptr(grain.stored)
    f = m.function(
        f"{kind}_{tile.vectors}", steps=i64, w=sums, panel=sums, ahead=i64, begin=sums, sums=sums, to=stored,
        stride=i64, places=ptr(i64), rows=i64, bias=sums, spare=stored, samples=stored, apart=i64,
    )  # fmt: skip
    a, lanes, pitch = f.args, tile.lanes, form.tile.columns
    cells = list(product(range(tile.rows), range(tile.vectors)))
    targets = [a.to.at(a.places.load(v * PLACE + 1)) for v in range(tile.vectors)]
    if kind != "sum":
        for row, v in cells:
            targets[v].prefetch(a.stride * row, write=True)

    def earlier(p: Pointer) -> list[Value]:
        return [p.load(row * pitch + v * lanes, lanes) for row, v in cells]

    begun = earlier(a.begin) if kind != "fork" else [zeros(f, grain.sums, lanes)] * len(cells)

    def place(k: Value) -> tuple[Value, Value]:
        if kind == "sum":
            a.samples.prefetch(k * a.apart, locality=2)
        return k * pitch, k * tile.rows

    masks = [lanes_below(f, a.places.load(v * PLACE + 2), lanes) for v in range(tile.vectors)] if kind != "sum" else []
    for row, line in enumerate(summed_rows(f, grain, tile, a.panel, begun, place, a.ahead, last=form.last)):
        for v, value in enumerate(line):
            at = row * pitch + v * lanes
            if kind != "end":
                a.sums.store(value + a.sums.load(at, lanes) if kind == "fork" else value, at)
            if kind != "sum":
                whole = value + a.begin.load(at, lanes) if kind == "fork" else value
                to = select(a.rows > row, targets[v].at(a.stride * row), a.spare)
                assert isinstance(to, Pointer)
                scale = a.bias.splat(in_lines(2 * tile.rows) + row, lanes)
                Destination(to, form.epilogue).store(fma(whole, scale, a.bias.splat(row, lanes)), 0, masks[v])
    return f


def _write_quad(m: Module, grain: Grain, form: Form, tile: Tile) -> Function:
    """Adds ``quad``: two tiles of rows by two of positions. ``u`` and ``v`` hold sums on their way, ``none`` zeros.

    The last ones of a span, of which so many are ``left``, ask for the samples of the ``following`` one, which would
    not stay in the second cache for long.
    """
    sums = ptr(grain.sums)
    f = m.function(
        f"quad_{tile.vectors}", pairs=i64, weights=sums, term=i64, block=i64, panel=sums, panel_term=i64, none=sums,
        u=sums, v=sums, y=ptr(grain.stored), stride=i64, places=ptr(i64), half=i64, rows=i64, spare=ptr(grain.stored),
        following=ptr(grain.stored), left=i64,
    )  # fmt: skip
    a, rows = f.args, tile.rows
    kinds = {kind: _write_product(m, grain, form, tile, kind) for kind in ("sum", "end", "fork")}
    factors, right = a.weights.at(HEADS * in_lines(2 * rows)), a.places.at(a.half * PLACE)
    bottom = a.y.at(a.stride * rows), a.rows - rows, a.weights.at(rows)
    top = a.y, a.rows, a.weights
    steps: list[tuple[str, Pointer, Pointer, tuple[Any, Any, Any], Pointer]] = [
        ("sum", a.none, a.u, top, a.places),
        ("end", a.u, a.u, top, a.places),
        ("sum", a.u, a.u, top, a.places),
        ("sum", a.u, a.v, top, a.places),
        ("end", a.v, a.v, bottom, a.places),
        ("fork", a.v, a.u, bottom, right),
        ("end", a.u, a.u, top, right),
    ]
    lines, asked = (a.half * 2 + 1) * 2, 0
    for number, (kind, begin, to, (y, exist, bias), places) in enumerate(steps):
        line = a.left * _ASKS + asked
        asked += kind == "sum"
        samples, wanted = a.following.at(line % 2 * a.stride + line // 2 * tile.lanes), line < lines
        f.call(
            kinds[kind], a.pairs, factors.at(a.term * number), a.panel.at(a.panel_term * number), a.block, begin, to, y,
            a.stride, places, exist, bias, a.spare, samples, select(wanted, a.stride * 2, 0),
        )  # fmt: skip
    return f


def _write_run(m: Module, grain: Grain, tile: Tile, gathers: list[Function], quads: list[Function]) -> None:
    """Adds the entry ``run``: a task is a part of the rows and a span of the positions of a group."""
    f = m.entry("run", **fields(grain))
    a, cells = f.args, tile.rows * tile.columns
    none = a.own.at(a.thread * a.own_elements)
    u, v = none.at(in_lines(cells)), none.at(2 * in_lines(cells))
    spare, places = none.at(3 * in_lines(cells)), none.at(3 * in_lines(cells) + in_lines(tile.columns)).cast(i64)
    panels = none.at(a.panels_at)
    with f.loop(0, cells, tile.lanes) as k:
        none.store(zeros(f, grain.sums, tile.lanes), k.i)

    def each(of_width: list[Function], call: Any) -> None:
        """Calls one of two functions for each tile of the span, the last ones narrow."""
        with f.loop(0, a.tiles) as t:
            full = t.i < a.tiles - a.narrow
            start = t.i * tile.vectors - select(full, 0, t.i - (a.tiles - a.narrow))
            for wanted, function in ((1, of_width[0]), (0, of_width[1])):
                with f.when(convert(full, i64, signed=False).eq(wanted)):
                    call(function, panels.at(t.i * a.panel_tile), places.at(start * PLACE), t.i)

    with f.loop(a.begin, a.end) as task:
        span, rest = task.i % a.spans, task.i // a.spans
        part, group = rest % a.parts, rest // a.parts
        _place(f, a, places, span * a.half, tile.lanes)
        x = a.x.at(group * (2 * a.pairs) * a.plane)
        following = x.at(_source(a, *_position(a, (span + 1) * a.half, tile.lanes)))
        each(gathers, lambda gather, panel, at, _: f.call(gather, x, a.plane, a.pairs, at, a.half, panel, a.panel_term))
        low = part * a.part_blocks
        end = minimum(low + a.part_blocks, a.blocks)
        with f.loop(low, end) as block:
            first = block.i * (2 * tile.rows)
            weights, y = a.packed.at((group * a.blocks + block.i) * a.block), a.y.at((group * a.rows + first) * a.plane)
            each(
                quads,
                lambda quad, panel, at, t: f.call(
                    quad, a.pairs, weights, a.term, a.block, panel, a.panel_term, none, u, v, y, a.plane, at, a.half,
                    a.rows - first, spare.cast(grain.stored), following, (end - block.i) * a.tiles - t - 1,
                ),
            )  # fmt: skip


def _place(f: Function, a: Any, places: Pointer, first: Value, lanes: int) -> None:
    """Where the vectors of a span lie, first the left ones of all couples; those beyond an image hold nothing."""
    with f.loop(0, 2) as side, f.loop(0, a.half) as k:
        couple = first + k.i
        image, left = _position(a, couple, lanes)
        at = left + side.i * lanes
        count = select(couple < a.couples, minimum(a.plane - at, lanes), 0)
        holds = count > 0
        image, at = select(holds, image, 0), select(holds, at, 0)
        place = places.at((side.i * a.half + k.i) * PLACE)
        place.store(_source(a, image, at), 0)
        place.store(image * (a.groups * a.rows) * a.plane + at, 1)
        place.store(maximum(count, 0), 2)


def _position(a: Any, couple: Value, lanes: int) -> tuple[Value, Value]:
    """The image that a couple of vectors is of, and its first position there."""
    return couple // a.image_couples, couple % a.image_couples * (2 * lanes)


def _source(a: Any, image: Value, at: Value) -> Value:
    """Where the samples of a position begin, in a group's first channel."""
    start: Value = image * (a.groups * 2 * a.pairs) * a.plane + at
    return start
