"""Channels mixed pixel by pixel: the native code of ``mixing``.

Rows of pixels are read where they lie, some vectors of every source before the next columns, and meet all results of a
tile. Where all rows lie alike, columns begin on whole vectors: a load from the second cache that straddles two lines
takes one and a half times as long.
"""

from __future__ import annotations

from dataclasses import dataclass

from lucid.kernels.algorithms.correlation_kernel import widened
from lucid.kernels.epilogue import Arrays, parameters
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    computed,
    convert,
    fma,
    i64,
    lane_sum,
    lanes_below,
    lanes_inside,
    maximum,
    minimum,
    ptr,
    select,
    splat,
    to_whole_vector,
    zeros,
)
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Epilogue

_ARRAYS = ("x", "weights", "bias", "y", "scale", "shift", "residual")
NUMBERS = (
    "groups", "sources", "results", "pixels", "strip", "strips", "w_group", "w_source", "w_result", "bias_step",
    "alike", "private",
)  # fmt: skip
_GRAD_ARRAYS = ("x", "g", "gw", "gb")
GRAD_NUMBERS = ("batch", "groups", "sources", "results", "pixels", "blocks", "has_bias")
_AHEAD_BYTES = 512  # of a row, before they are read: rows of another tile come from the second cache
STAGED_NUMBERS = (*GRAD_NUMBERS, "private", "strip", "add_rows")


@dataclass(frozen=True, slots=True)
class MixTile:
    """``results`` by ``vectors`` of sums in registers."""

    results: int
    vectors: int

    @property
    def registers(self) -> int:
        """Sums, a number of w for each result, a vector of a source."""
        return self.results * (self.vectors + 1) + 1

    def cycles(self, sources: int) -> float:
        """Of a tile: two products or two loads a cycle, or one after the other; a store a cycle."""
        products = self.results * self.vectors
        return sources * max(products / 2, (self.results + self.vectors) / 2, 4.0) + products + self.results + 4


@dataclass(frozen=True, slots=True)
class MixGradTile:
    """``sources`` by ``results`` of sums in registers, with those of the results alone.

    If it is ``staged`` sums wait in memory while the next strip of pixels meets all results, and g is summed elsewhere.
    """

    sources: int
    results: int
    staged: bool = False

    @property
    def registers(self) -> int:
        """Sums, those of g, vectors of g, one of x."""
        return self.results * (self.sources + 2 - self.staged) + 1

    @property
    def cycles(self) -> float:
        """Of a vector of pixels: two products or two loads a cycle, or one after the other.

        Where it is staged, of a Zen 4: one product a cycle, or a conversion every two.
        """
        if self.staged:
            return max(self.sources * self.results, 2.2 * (self.sources + self.results)) + 1
        return max(self.sources * self.results / 2, (self.sources + self.results) / 2, 4.0) + 1


def fields(element: Type) -> dict[str, Type]:
    """What the entry point ``mix`` reads."""
    return {**dict.fromkeys(_ARRAYS, ptr(element)), "own": ptr(computed(element)), **dict.fromkeys(NUMBERS, i64)}


def grad_fields(element: Type) -> dict[str, Type]:
    """What the entry point ``mix_grad`` reads."""
    return {**dict.fromkeys(_GRAD_ARRAYS, ptr(element)), **dict.fromkeys(GRAD_NUMBERS, i64)}


def write(isa: ISA, element: Type, tile: MixTile, epilogue: Epilogue) -> Module:
    """A task of ``mix`` is a strip of pixels of one image and group; ``alike`` names what lies alike in all rows.

    The source (1), the result (2) or nothing (0).
    """
    module, lanes = Module("mixing", isa), isa.lanes(computed(element))
    whole, edge = (_write_columns(module, element, lanes, tile, epilogue, edge) for edge in (False, True))
    f = module.entry("mix", **fields(element))
    a, wide = f.args, tile.vectors * lanes
    arrays = Arrays.of(epilogue, a.y, a)
    with f.loop(a.begin, a.end) as task:
        image_group, first = task.i // a.strips, task.i % a.strips * a.strip
        group, count = image_group % a.groups, minimum(a.strip, a.pixels - first)
        source = a.x.at(image_group * a.sources * a.pixels + first)
        weights = a.weights.at(group * a.w_group)
        if element != computed(element):
            weights = widened(f, weights, a.own.at(a.thread * a.private), a.w_group, lanes)
        begun = arrays.at(group * a.results, image_group * a.results * a.pixels + first)
        lead = select(a.alike.eq(1), to_whole_vector(source, lanes), to_whole_vector(begun.y, lanes))
        lead = select(a.alike.eq(0), 0, lead)
        start = select(lead > 0, lead - lanes, 0)  # the first columns of a tile may lie before the strip
        inner = select(lead > 0, minimum(start + wide, count), 0)
        outer = inner + maximum(count - inner, 0) // wide * wide
        with f.loop(0, a.results, tile.results) as block:
            result = minimum(block.i, a.results - tile.results)
            to = begun.at(result, result * a.pixels)
            bias = a.bias.at((group * a.results + result) * a.bias_step)
            w = weights.at(result * a.w_result)
            for columns, begin, end in ((edge, start, inner), (whole, inner, outer), (edge, outer, count)):
                with f.when(begin < end):
                    f.call(
                        columns, source, a.pixels, a.sources, w, a.w_source, a.w_result, bias, a.bias_step, to.y,
                        begin, end, count, *to.given.values(),
                    )  # fmt: skip
    return module


def _write_columns(
    module: Module, element: Type, lanes: int, tile: MixTile, epilogue: Epilogue, edge: bool
) -> Function:
    """Adds ``whole`` or ``edge``: the results of a tile at columns from ``begin`` to ``end``, of which ``edge`` takes
    those that there are, 0 to ``count``."""
    data, wide = ptr(element), computed(element)
    f = module.function(
        "edge" if edge else "whole", source=data, pitch=i64, sources=i64, w=ptr(wide), w_source=i64, w_result=i64,
        bias=data, bias_step=i64, y=data, begin=i64, end=i64, count=i64, **parameters(epilogue, element),
    )  # fmt: skip
    a = f.args
    each = [splat(convert(a.bias.load(a.bias_step * k if k else 0), wide), lanes) for k in range(tile.results)]
    rows = [a.w.at(a.w_result * k if k else 0) for k in range(tile.results)]
    arrays = Arrays.of(epilogue, a.y, a)
    places = [arrays.destination(k, a.pitch * k if k else 0) for k in range(tile.results)]
    with f.loop(a.begin, a.end, tile.vectors * lanes) as c:
        masks: list[Value | None] = [None] * tile.vectors
        if edge:
            masks = [lanes_inside(f, c.i + v * lanes, a.count, lanes) for v in range(tile.vectors)]
        column = a.source.at(c.i)
        with f.loop(0, a.sources, carry=[start for start in each for _ in masks]) as s:
            line = column.at(s.i * a.pitch)
            values = [convert(line.load(v * lanes, lanes, mask), wide) for v, mask in enumerate(masks)]
            numbers = [row.splat(s.i * a.w_source, lanes) for row in rows]
            pairs = [(w, value) for w in numbers for value in values]
            s.values = [fma(w, value, total) for (w, value), total in zip(pairs, s.values, strict=True)]
        for k, place in enumerate(places):
            for v, mask in enumerate(masks):
                place.at(c.i).store(s.values[k * tile.vectors + v], v * lanes, mask)
    return f


def write_grad(isa: ISA, element: Type, tile: MixGradTile) -> Module:
    """A task of ``mix_grad`` is a block of sources of one group, in all images in order."""
    module, lanes = Module("mixing_grad", isa), isa.lanes(computed(element))
    add = _write_add(module, element, lanes, tile)
    f = module.entry("mix_grad", **grad_fields(element))
    a = f.args
    with f.loop(a.begin, a.end) as task:
        group, block = task.i // a.blocks, task.i % a.blocks
        source = minimum(block * tile.sources, a.sources - tile.sources)
        before = block * tile.sources - source  # that are another block's
        with f.loop(0, a.results, tile.results) as r:
            result = minimum(r.i, a.results - tile.results)
            channel = group * a.results + result
            x, g = a.x.at((group * a.sources + source) * a.pixels), a.g.at(channel * a.pixels)
            to, biases = a.gw.at(channel * a.sources + source), select(block.eq(0), a.has_bias * tile.results, 0)
            f.call(
                add, x, g, a.pixels, a.batch, a.groups * a.sources * a.pixels, a.groups * a.results * a.pixels, to,
                a.sources, before, a.gb.at(channel), biases,
            )  # fmt: skip
    return module


def _write_add(module: Module, element: Type, lanes: int, tile: MixGradTile) -> Function:
    """Adds ``add``: to[result][source] = the sum of products of their rows, for sources from ``before`` on.

    And of ``biases`` results the sums of g. Rows are ``pitch`` long and apart; there are ``images`` of them.
    """
    data, wide = ptr(element), computed(element)
    f = module.function(
        "add", x=data, g=data, pitch=i64, images=i64, x_image=i64, g_image=i64, to=data, to_row=i64, before=i64,
        bias=data, biases=i64,
    )  # fmt: skip
    a, full = f.args, f.args.pitch // lanes * lanes

    def added(x: Pointer, g: Pointer, mask: Value | None, sums: list[Value]) -> list[Value]:
        upstream = [convert(g.load(a.pitch * k if k else 0, lanes, mask), wide) for k in range(tile.results)]
        sums = list(sums)
        for s in range(tile.sources):
            value = convert(x.load(a.pitch * s if s else 0, lanes, mask), wide)
            for k, one in enumerate(upstream):
                sums[k * tile.sources + s] = fma(one, value, sums[k * tile.sources + s])
        of_g = sums[tile.results * tile.sources :]
        return sums[: -tile.results] + [total + one for total, one in zip(of_g, upstream, strict=True)]

    with f.loop(0, a.images, carry=[zeros(f, wide, lanes)] * (tile.results * (tile.sources + 1))) as n:
        x, g = a.x.at(n.i * a.x_image), a.g.at(n.i * a.g_image)
        with f.loop(0, full, lanes, carry=n.values) as i:
            i.values = added(x.at(i.i), g.at(i.i), None, i.values)
        with f.loop(full, a.pitch, lanes, carry=i.values) as rest:
            there = lanes_below(f, a.pitch - rest.i, lanes)
            rest.values = added(x.at(rest.i), g.at(rest.i), there, rest.values)
        n.values = rest.values
    totals = [convert(lane_sum(total), element) for total in n.values]
    for k in range(tile.results):
        for s in range(tile.sources):
            with f.when(a.before <= s):
                a.to.store(totals[k * tile.sources + s], a.to_row * k + s)
        with f.when(a.biases > k):
            a.bias.store(totals[tile.results * tile.sources + k], k)
    return f


def staged_fields(element: Type) -> dict[str, Type]:
    """What the entry point ``mix_grad`` of a staged tile reads."""
    own = {"own": ptr(computed(element))}
    arrays = {**dict.fromkeys(_GRAD_ARRAYS, ptr(element)), **own}
    return {**arrays, **dict.fromkeys(STAGED_NUMBERS, i64), "add_rows": ptr(i64)}


def write_staged_grad(isa: ISA, element: Type, tile: MixGradTile) -> Module:
    """A task of ``mix_grad`` is a block of sources of one group, in all images in order.

    A ``strip`` of their pixels stays in the first cache while it meets all results, whose sums wait in ``own``. The
    last tile has results again that the one before has, as it has sources again, and writes the same.
    """
    module, wide = Module("mixing_staged_grad", isa), computed(element)
    lanes, each = isa.lanes(wide), tile.sources * tile.results
    add = _write_staged_add(module, element, lanes, tile)
    f = module.entry("mix_grad", **staged_fields(element))
    a = f.args
    with f.loop(a.begin, a.end) as task:
        group, block = task.i // a.blocks, task.i % a.blocks
        source = minimum(block * tile.sources, a.sources - tile.sources)
        channel, acc = group * a.results, a.own.at(a.thread * a.private)
        bias_acc, tiles = acc.at(a.private - lanes), (a.results + (tile.results - 1)) // tile.results
        with f.loop(0, tiles * (each * lanes), lanes) as at:
            acc.store(zeros(f, wide, lanes), at.i)
        with f.loop(0, a.batch) as n, f.loop(0, a.pixels, a.strip) as column, f.loop(0, tiles) as t:
            result = minimum(t.i * tile.results, a.results - tile.results)
            x = a.x.at(((n.i * a.groups + group) * a.sources + source) * a.pixels + column.i)
            g = a.g.at((n.i * (a.groups * a.results) + channel + result) * a.pixels + column.i)
            f.call(add, x, g, a.pixels, minimum(a.strip, a.pixels - column.i), acc.at(t.i * (each * lanes)))
        with f.loop(0, tiles) as t, f.loop(0, tile.results) as k, f.loop(0, tile.sources) as s:
            result = minimum(t.i * tile.results, a.results - tile.results) + k.i
            total = lane_sum(acc.load(((t.i * tile.results + k.i) * tile.sources + s.i) * lanes, lanes))
            a.gw.store(convert(total, element), (channel + result) * a.sources + source + s.i)
        with f.loop(0, select(block.eq(0), a.has_bias * a.results, 0)) as k:
            bias_acc.store(zeros(f, wide, lanes))
            with f.loop(0, a.batch) as n:
                g = a.g.at((n.i * (a.groups * a.results) + channel + k.i) * a.pixels)
                f.call(a.add_rows, g, a.pixels, 1, a.pixels, bias_acc)
            a.gb.store(convert(lane_sum(bias_acc.load(0, lanes)), element), channel + k.i)
    return module


def _write_staged_add(module: Module, element: Type, lanes: int, tile: MixGradTile) -> Function:
    """Adds ``add``: acc[result][source] += products of ``count`` pixels of rows that are ``pitch`` apart."""
    data, wide = ptr(element), computed(element)
    f = module.function("add", x=data, g=data, pitch=i64, count=i64, acc=ptr(wide))
    a, full = f.args, f.args.count // lanes * lanes

    def added(at: Value, mask: Value | None, sums: list[Value]) -> list[Value]:
        x, g = a.x.at(at), a.g.at(at)
        if mask is None:
            for rows, count in ((g, tile.results), (x, tile.sources)):
                for k in range(count):
                    rows.prefetch((a.pitch * k if k else 0) + _AHEAD_BYTES // element.bytes)
        upstream = [convert(g.load(a.pitch * k if k else 0, lanes, mask), wide) for k in range(tile.results)]
        sums = list(sums)
        for s in range(tile.sources):
            value = convert(x.load(a.pitch * s if s else 0, lanes, mask), wide)
            for k, one in enumerate(upstream):
                sums[k * tile.sources + s] = fma(one, value, sums[k * tile.sources + s])
        return sums

    sums = [a.acc.load(n * lanes, lanes) for n in range(tile.sources * tile.results)]
    with f.loop(0, full, lanes, carry=sums) as i:
        i.values = added(i.i, None, i.values)
    with f.loop(full, a.count, lanes, carry=i.values) as rest:
        rest.values = added(rest.i, lanes_below(f, a.count - rest.i, lanes), rest.values)
    for n, total in enumerate(rest.values):
        a.acc.store(total, n * lanes)
    return f
