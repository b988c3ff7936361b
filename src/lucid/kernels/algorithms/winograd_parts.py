"""What the loops of Winograd convolution call by address: lanes are tiles here, so pixels are dealt out and back.

Modules are cut by what they depend on: ways in (pixels to patches, filters) on the form, the way out on the epilogue
too, register tiles on their sizes. The transform of filters is that of ``winograd_passes``.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import product
from math import prod

from lucid.kernels.algorithms import panels
from lucid.kernels.algorithms.base import turns_of
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.implicit_gemm import alone, gather_parts
from lucid.kernels.algorithms.pixel_gather import ENTRY_BYTES, lane_mask, ranges, read_entry
from lucid.kernels.algorithms.tile import Tile, last_steps, write_tile
from lucid.kernels.algorithms.winograd_layout import Form, Shape, reading
from lucid.kernels.algorithms.winograd_passes import Grid, most_places, write_axes, write_transform
from lucid.kernels.algorithms.winograd_transforms import IDENTITY, multiplied, split
from lucid.kernels.epilogue import Destination
from lucid.kernels.ir import (
    Function,
    Module,
    Type,
    Value,
    constant,
    convert,
    f32,
    i64,
    interleave,
    lanes_below,
    picked,
    ptr,
    splat,
    vec,
)
from lucid.kernels.isa import ISA
from lucid.kernels.plan import PLAIN, Epilogue


def parts(shape: Shape, form: Form, tile: Tile, epilogue: Epilogue, stored: Type) -> dict[str, int]:
    """Addresses by the names of ``winograd_layout.CODE``; the arrays are of type ``stored``.

    Sums end as they are collected, in whole vectors; with a residual, where they are spread out and lie beside it.
    """
    lanes, (_, _, step), (_, _, spread) = tile.lanes, shape.step, shape.spread
    inward = alone(("winograd form", form), lambda m, _: _write_inward(m, form, lanes))
    outward = alone(
        ("winograd out", form, epilogue, spread, stored),
        lambda m, _: _write_outward(m, form, lanes, epilogue, spread, stored),
    )
    return {
        **gather_parts(Grain(stored), lanes, reading(step, lanes)),
        **{name: inward.address(name) for name in ("filter", "deal")},
        **{name: outward.address(name) for name in ("collect", "spread")},
        "pack_weights": _pack_address(shape, tile, stored),
    }


def _pack_address(shape: Shape, tile: Tile, stored: Type) -> int:
    """Of ``pack(source, row_step, k_step, rows, depth, panel)``: from the weights to panel[k][row]."""
    if shape.spread == (1, 1, 1):
        rows = [tile.rows]
        code = alone(
            ("winograd weights", tile.rows, stored), lambda m, isa: panels.write_packs(m, isa, Grain(stored), rows)
        )
        return code.address(f"pack{tile.rows}")
    key = ("winograd weights", tile.rows, shape.kernel, shape.stored_kernel, shape.spread, stored)
    return alone(key, lambda m, _: _write_pack_residues(m, shape, tile, stored)).address("pack")


def _write_pack_residues(module: Module, shape: Shape, tile: Tile, stored: Type) -> Function:
    """Adds ``pack`` for weights of which a tile of rows, residues of whole channels, is one run; zeros fill it up."""
    f = module.function(
        "pack", source=ptr(stored), row_step=i64, k_step=i64, rows=i64, depth=i64, panel=ptr(f32)
    )  # fmt: skip
    a, lanes, spread, each = f.args, tile.lanes, prod(shape.spread), prod(shape.stored_kernel)
    count = a.rows // spread * each
    masks = {v: lanes_below(f, count - v, lanes) for v in range(0, tile.rows // spread * each, lanes)}
    run = [convert(a.source.load(v, lanes, mask), f32) for v, mask in masks.items()]
    zero = len(run), 0
    places = [zero if place is None else divmod(place, lanes) for place in _residue_order(shape, tile.rows)]
    places += [zero] * (-len(places) % lanes)
    vectors = range(0, len(places), lanes)
    for v, vector in zip(vectors, picked([*run, constant(f, vec(f32, lanes), 0)], places), strict=True):
        a.panel.store(vector, v)
    return f


def _residue_order(shape: Shape, rows: int) -> list[int | None]:
    """For every tap of a residue and row of a tile, its place among the weights of the tile's channels, if any."""
    stored, size = list(product(*map(range, shape.stored_kernel))), prod(shape.stored_kernel)
    places = {tap: place for place, tap in enumerate(stored)}
    taps = product(*(range(0, kernel, step) for kernel, step in zip(shape.kernel, shape.spread, strict=True)))
    each = list(product(range(rows // prod(shape.spread)), *map(range, shape.spread)))
    found = [(channel * size, places.get((z + rz, y + ry, x + rx))) for z, y, x in taps for channel, rz, ry, rx in each]
    return [None if place is None else start + place for start, place in found]


def tile_addresses(tile: Tile, least: int, ahead: int = 0) -> list[int]:
    """Of a tile of every width up to the full one, which ask for filters so many elements ``ahead``.

    They sum over ``least`` channels or more.
    """
    last = last_steps(tile, least, turns_of(tile.lanes, f32))

    def write(module: Module, _: ISA) -> None:
        for v in range(1, tile.vectors + 1):
            narrower = Tile(tile.rows, v, tile.lanes)
            write_tile(module, Grain(f32), narrower, tile.columns, f"tile{v}", ahead=ahead, last=last)

    code = alone(("winograd tile", tile, ahead, last), write)
    return [code.address(f"tile{v}") for v in range(1, tile.vectors + 1)]


def _write_inward(module: Module, form: Form, lanes: int) -> None:
    write_transform(module, "filter", form.matrices("filter"), lanes)
    _write_deal(module, form, lanes)


def _write_outward(module: Module, form: Form, lanes: int, epilogue: Epilogue, spread: int, stored: Type) -> None:
    early, late = (PLAIN, epilogue) if epilogue.residual else (epilogue, PLAIN)
    _write_collect(module, form, lanes, early)
    _write_spread(module, lanes, late, spread, stored)


def _write_deal(module: Module, form: Form, lanes: int) -> Function:
    """Adds ``deal(panel, step, z, y, x, v, advance, v_step, v_plane, channels, count, spare)``: patches transformed.

    v[f][c][tile], or v[f][plane][c][tile] where an axis is summed, of ``count`` tiles from panel[c][read][pixel]. Reads
    are z, y and x apart along the axes, channels ``step``, and in v ``advance``.
    """
    data, across = ptr(f32), form.x.advance
    f = module.function(
        "deal", panel=data, step=i64, z=i64, y=i64, x=i64, v=data, advance=i64, v_step=i64, v_plane=i64, channels=i64,
        count=i64, spare=data,
    )  # fmt: skip
    a, matrices = f.args, form.matrices("patch")
    (_, to_y, x), (z, y, _) = (len(matrix) for matrix in matrices), (len(matrix[0]) for matrix in matrices)
    to_steps = [a.v_step * (to_y * x), a.v_step * x, a.v_step]
    with f.loop(0, a.channels) as c, f.loop(0, a.count, lanes) as t, f.loop(0, form.planes.patch) as plane:
        source: Grid = a.panel.at(c.i * a.step + plane.i * a.z + t.i * across), [a.z, a.y, a.x]
        target: Grid = a.v.at(plane.i * a.v_plane + c.i * a.advance + t.i), to_steps
        if matrices[2] != IDENTITY:
            only = matrices[0] == matrices[1] == IDENTITY
            dealt = (
                target
                if only
                else (a.spare.at(most_places(form.sizes("patch")) * lanes), [y * x * lanes, x * lanes, lanes])
            )
            _deal_rows(f, form, (z, y), source, dealt, lanes)
            source = dealt
        write_axes(f, matrices, (1, 0), (z, y, x), source, target, a.spare, lanes)
    return f


def _deal_rows(f: Function, form: Form, rows: tuple[int, int], source: Grid, target: Grid, lanes: int) -> None:
    """Every row of a patch, along z and y: its pixels dealt out by their column, and transformed along x."""
    (here, reads), (to, steps) = source, target
    with ExitStack() as loops:
        for axis, count in enumerate(rows):
            if count > 1:
                line = loops.enter_context(f.loop(0, count))
                here, to = here.at(line.i * reads[axis]), to.at(line.i * steps[axis])
        samples: list[Value] = []
        for read in range(form.x.reads):
            row = here.at(reads[2] * read)
            samples += split([row.load(p * lanes, lanes) for p in range(form.x.advance)], form.apart)
        for k, value in enumerate(multiplied(form.x.patch, samples[: form.x.samples])):
            to.store(value, k * steps[2])


def _write_collect(module: Module, form: Form, lanes: int, epilogue: Epilogue) -> Function:
    """Adds ``collect(m, m_step, count, bias, scale, shift, line, z, y, spare)`` for one row.

    line[row of a tile][pixel] are the sums as the epilogue leaves them; rows of a tile are z and y apart.
    """
    data, across = ptr(f32), form.x.outputs
    f = module.function(
        "collect", m=data, m_step=i64, count=i64, bias=f32, scale=f32, shift=f32, line=data, z=i64, y=i64, spare=data
    )
    a, matrices, planes = f.args, form.matrices("inverse"), form.planes.result
    (z, y, x), layers, rows = (len(matrix[0]) for matrix in matrices), len(matrices[0]), form.y.outputs
    bias = splat(a.bias, lanes)
    scale, shift = (a.scale, a.shift) if epilogue.affine else (None, None)
    with f.loop(0, a.count, lanes) as t, f.loop(0, planes) as plane:
        here: Grid = a.m.at(plane.i * (a.m_step * form.points) + t.i), [a.m_step * (y * x), a.m_step * x, a.m_step]
        if (matrices[0], matrices[1]) != (IDENTITY, IDENTITY):
            between: Grid = a.spare.at(z * y * x * lanes), [rows * x * lanes, x * lanes, lanes]
            write_axes(f, matrices, (0, 1), (z, y, x), here, between, a.spare, lanes)
            here = between
        source, steps = here
        with f.loop(0, layers) as oz, f.loop(0, rows) as oy:
            row = source.at(oz.i * steps[0] + oy.i * steps[1])
            values = multiplied(matrices[2], [row.load(k * steps[2], lanes) for k in range(x)])
            line = a.line.at((plane.i * layers + oz.i) * a.z + oy.i * a.y + t.i * across)
            to = Destination(line, epilogue, scale, shift)
            for p, pixels in enumerate(interleave([value + bias for value in values], form.apart)):
                to.store(pixels, p * lanes)
    return f


def _write_spread(module: Module, lanes: int, epilogue: Epilogue, residues: int, stored: Type) -> Function:
    """Adds ``spread(entries, count, line, y, plane, scale, shift, residual)`` for one channel.

    A packer's entries read backwards, from a panel to where it was; an entry may stand for several residues. The next
    channel's lines, a ``plane`` away, are asked for: no machine would guess them.
    """
    data = ptr(stored)
    f = module.function(
        "spread", entries=ptr(i64), count=i64, line=ptr(f32), y=data, plane=i64, scale=f32, shift=f32, residual=data
    )
    a, together = f.args, reading(residues, lanes).taps
    scale, shift = (a.scale, a.shift) if epilogue.affine else (None, None)
    to = Destination(a.y, epilogue, scale, shift, a.residual if epilogue.residual else None)
    with f.loop(0, a.count) as t:
        place, step, segments = read_entry(a.entries.at(t.i * (ENTRY_BYTES // 8)))
        for v in range(together):
            a.y.at(a.plane + segments[0][0]).prefetch(v * lanes, write=True)
        values = interleave([a.line.load(place + step * residue, lanes) for residue in range(together)])
        for offset, lane_set in segments:
            with f.when(lane_set.ne(0)):
                masks = ranges(f, lane_set, together, lanes) if together > 1 else [lane_mask(lane_set, lanes)]
                for v, (value, mask) in enumerate(zip(values, masks, strict=True)):
                    to.at(offset).store(value, v * lanes, mask)
    return f
