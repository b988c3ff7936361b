"""What the loops of Winograd convolution call by address: lanes are tiles here, so pixels are dealt out and back.

Each is a module of its own, since it depends on little: pixels to patches and products to pixels on the form, the
register tiles on their sizes, the way out on nothing. The transform of filters is that of ``winograd_passes``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from lucid.kernels.algorithms import panels
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.implicit_gemm import alone, gather_parts
from lucid.kernels.algorithms.pixel_panels import ENTRY_BYTES, SIDE_BY_SIDE, lane_mask, read_entry
from lucid.kernels.algorithms.tile import Tile, write_tile
from lucid.kernels.algorithms.winograd_layout import Form
from lucid.kernels.algorithms.winograd_passes import Grid, transform_address, write_axes
from lucid.kernels.algorithms.winograd_transforms import IDENTITY, multiplied, split
from lucid.kernels.epilogue import Destination
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Value,
    f32,
    i64,
    interleave,
    ptr,
    splat,
)
from lucid.kernels.isa import ISA
from lucid.kernels.plan import PLAIN, Epilogue


def parts(form: Form, tile: Tile, epilogue: Epilogue) -> dict[str, int]:
    """Addresses by the names of ``winograd_layout.CODE``.

    Sums end as they are collected, in whole vectors; with a residual, where they are spread out and lie beside it.
    """
    lanes, rows = tile.lanes, tile.rows
    early, late = (PLAIN, epilogue) if epilogue.residual else (epilogue, PLAIN)
    wanted: dict[str, tuple[tuple[object, ...], Callable[[Module, ISA], object]]] = {
        f"pack{rows}": (("winograd weights", rows), lambda m, isa: panels.write_packs(m, isa, f32, [rows])),
        "deal": (("winograd deal", form), lambda m, _: _write_deal(m, form, lanes)),
        "collect": (("winograd collect", form, early), lambda m, _: _write_collect(m, form, lanes, early)),
        "spread": (("winograd spread", late), lambda m, _: _write_spread(m, lanes, late)),
    }
    found = {name: alone(key, write).address(name) for name, (key, write) in wanted.items()}
    found["pack_weights"] = found.pop(f"pack{rows}")
    return {
        **gather_parts(Grain(f32), lanes, SIDE_BY_SIDE),
        **found,
        "filter": transform_address("float32", form.matrices("filter")),
    }


def tile_addresses(tile: Tile) -> list[int]:
    """Of a tile of every width up to the full one."""

    def write(module: Module, _: ISA) -> None:
        for width in range(1, tile.vectors + 1):
            write_tile(module, Grain(f32), Tile(tile.rows, width, tile.lanes), tile.columns, f"tile{width}")

    code = alone(("winograd tile", tile), write)
    return [code.address(f"tile{width}") for width in range(1, tile.vectors + 1)]


def _write_deal(module: Module, form: Form, lanes: int) -> Function:
    """Adds ``deal(panel, v, channels, count, v_step, v_plane, columns, spare)``, from panel[c][read][pixel] to v.

    It is v[f][c][tile], or v[f][plane][c][tile] where an axis is summed; ``count`` tiles, of ``columns`` that v and
    panel have room for.
    """
    data, across = ptr(f32), form.x.outputs
    f = module.function(
        "deal", panel=data, v=data, channels=i64, count=i64, v_step=i64, v_plane=i64, columns=i64, spare=data
    )
    a, matrices, planes = f.args, form.matrices("patch"), form.planes.patch
    run, (z, y, x) = a.columns * across, (len(matrix) for matrix in matrices)
    to_steps = [a.v_step * (y * x), a.v_step * x, a.v_step]
    with f.loop(0, a.channels) as c, f.loop(0, a.count, lanes) as t, f.loop(0, planes) as plane:
        source = a.panel.at((c.i * planes + plane.i) * (run * (form.reads // planes)) + t.i * across)
        target: Grid = a.v.at(plane.i * a.v_plane + c.i * a.columns + t.i), to_steps
        dealt: Grid = source, [run * y, run, 1]
        if matrices[2] != IDENTITY:
            only = matrices[0] == matrices[1] == IDENTITY
            dealt = target if only else (a.spare.at(z * y * x * lanes), [y * x * lanes, x * lanes, lanes])
            _deal_rows(f, form, (z, y), source, run, dealt, lanes)
        write_axes(f, matrices, (1, 0), (z, y, x), dealt, target, a.spare, lanes)
    return f


def _deal_rows(
    f: Function, form: Form, rows: tuple[int, int], source: Pointer, run: Value, target: Grid, lanes: int
) -> None:
    """Every row of a patch, along z and y: its pixels dealt out by their column, and transformed along x."""
    to, steps = target
    across = form.x.outputs
    with ExitStack() as loops:
        for axis, count in enumerate(rows):
            if count > 1:
                line = loops.enter_context(f.loop(0, count))
                source = source.at(line.i * (run * form.x.reads * (rows[1] if axis == 0 else 1)))
                to = to.at(line.i * steps[axis])
        samples: list[Value] = []
        for read in range(form.x.reads):
            row = source.at(run * read)
            samples += split([row.load(p * lanes, lanes) for p in range(across)], form.apart)
        for k, value in enumerate(multiplied(form.x.patch, samples[: form.x.samples])):
            to.store(value, k * steps[2])


def _write_collect(module: Module, form: Form, lanes: int, epilogue: Epilogue) -> Function:
    """Adds ``collect(m, m_step, count, columns, bias, scale, shift, line, spare)`` for one channel.

    line[row of a tile][pixel] are the sums as the epilogue leaves them.
    """
    data, across = ptr(f32), form.x.outputs
    f = module.function(
        "collect", m=data, m_step=i64, count=i64, columns=i64, bias=f32, scale=f32, shift=f32, line=data, spare=data
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
            line = a.line.at(((plane.i * layers + oz.i) * rows + oy.i) * (a.columns * across) + t.i * across)
            to = Destination(line, epilogue, scale, shift)
            for p, pixels in enumerate(interleave([value + bias for value in values], form.apart)):
                to.store(pixels, p * lanes)
    return f


def _write_spread(module: Module, lanes: int, epilogue: Epilogue) -> Function:
    """Adds ``spread(entries, count, line, y, scale, shift, residual)`` for one channel.

    A packer's entries read backwards, from a panel to where it was.
    """
    data = ptr(f32)
    f = module.function("spread", entries=ptr(i64), count=i64, line=data, y=data, scale=f32, shift=f32, residual=data)
    a = f.args
    scale, shift = (a.scale, a.shift) if epilogue.affine else (None, None)
    to = Destination(a.y, epilogue, scale, shift, a.residual if epilogue.residual else None)
    with f.loop(0, a.count) as t:
        place, _, segments = read_entry(a.entries.at(t.i * (ENTRY_BYTES // 8)))
        value = a.line.load(place, lanes)
        for offset, lane_set in segments:
            with f.when(lane_set.ne(0)):
                to.at(offset).store(value, 0, lane_mask(lane_set, lanes))
    return f
