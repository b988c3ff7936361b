import ctypes

import numpy as np
import pytest

from lucid.kernels import jit, target
from lucid.kernels.algorithms.base import address
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.tile import (
    ChannelTile,
    Tile,
    cover_products,
    fitting,
    fitting_channels,
    last_steps,
    table_of,
    write_tile,
)
from lucid.kernels.ir import BY_DTYPE, Module, f32
from lucid.kernels.isa import AVX2, AVX512, SCALAR

ISAS = [isa.name for isa in target.cpu().isas]


def run_tile(size, dtype, w, panel, start, again, to, rows):
    element = BY_DTYPE[dtype.name]

    def write(isa):
        module = Module("tile", isa)
        write_tile(module, Grain(element), size, size.columns).export = True
        return module

    entry = jit.kernel(("test tile", dtype.name, size), write).address("tile")
    spare = np.zeros(size.columns, dtype)
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 9)(entry)
    call(len(w), address(w), address(panel), address(start), again, address(to), to.shape[1], rows, address(spare))


@pytest.mark.parametrize("dtype", [np.dtype("f4"), np.dtype("f8")])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("rows", "vectors"), [(1, 1), (6, 2), (3, 3)])
@pytest.mark.parametrize("steps", [0, 1, 37])
def test_sums_products_and_leaves_other_rows_alone(isa, dtype, rows, vectors, steps):
    rng = np.random.default_rng(steps)
    with target.using(isa) as machine:
        size = Tile(rows, vectors, machine.lanes(BY_DTYPE[dtype.name]))
        w, panel = (rng.standard_normal((steps, n)).astype(dtype) for n in (rows, size.columns))
        start = rng.standard_normal(rows).astype(dtype)
        to = rng.standard_normal((rows, size.columns + 3)).astype(dtype)
        want, exist = to.copy(), max(1, rows - 1)
        product = w.astype("f8").T @ panel.astype("f8")
        bound = (
            np.finfo(dtype).eps * (steps + 2) * (np.abs(w).astype("f8").T @ np.abs(panel) + 2 * np.abs(to).max() + 9)
        )
        run_tile(size, dtype, w, panel, start, 0, to, exist)
        want[:exist, : size.columns] = (product + start[:, None])[:exist]
        assert np.all(np.abs(to - want)[:, : size.columns] <= bound)
        assert np.array_equal(to[:, size.columns :], want[:, size.columns :])
        run_tile(size, dtype, w, panel, start, 1, to, exist)
        want[:exist, : size.columns] += product[:exist]
        assert np.all(np.abs(to - want)[:, : size.columns] <= 3 * bound)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("asks", [0, 1])
@pytest.mark.parametrize(("last", "steps"), [(0, 5), (2, 2), (2, 5), (3, 3), (3, 5)])
def test_tiles_side_by_side_read_a_table_and_panels_apart(isa, asks, last, steps):
    rng, count, apart = np.random.default_rng(0), 3, 200
    with target.using(isa) as machine:
        size = Tile(2, 2, machine.lanes(f32))
        w, panel = rng.standard_normal((steps, 2)).astype("f4"), rng.standard_normal(count * apart + 900).astype("f4")
        offsets, order, start = rng.permutation(steps) * 7, rng.permutation(steps), rng.standard_normal(2).astype("f4")
        table = table_of(offsets, order * 2)
        samples = np.stack([panel[n * apart :][offsets[:, None] + range(size.columns)] for n in range(count)])
        to, spare = np.zeros((2, (count + 1) * size.columns), "f4"), np.zeros(size.columns, "f4")

        def write(isa):
            module = Module("tiles", isa)
            write_tile(module, Grain(f32), size, None, reaches=bool(asks), last=last).export = True
            return module

        call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 15)(
            jit.kernel(("test tiles", size, asks, last), write).address("tile")
        )
        arrays = [address(a) for a in (w, panel, start)]
        beside, numbers = [address(a) for a in (spare, table)], [steps * 2, count, apart, asks, 7]
        call(steps, *arrays, 0, address(to), to.shape[1], 2, *beside, *numbers)
        want = np.concatenate([w[order].T @ one + start[:, None] for one in samples], axis=1)
        assert np.allclose(to[:, : want.shape[1]], want, rtol=1e-5, atol=1e-5)
        assert not to[:, want.shape[1] :].any()


def test_steps_are_taken_row_by_row_where_stores_take_two_turns_and_there_are_as_many():
    assert last_steps(Tile(8, 3, 16), 3, 2) == 3
    assert last_steps(Tile(4, 6, 16), 3, 2) == 2
    assert last_steps(Tile(8, 3, 16), 2, 2) == last_steps(Tile(8, 3, 16), 64, 1) == 0
    assert last_steps(ChannelTile(10, 2, 16), 64, 2) == 0


def test_fitting_leaves_registers_for_the_panel_and_a_broadcast():
    assert {(t.rows, t.vectors) for t in fitting(AVX512, f32)} >= {(14, 2), (9, 3), (6, 4), (1, 6)}
    assert all(t.rows * t.vectors + t.vectors + 1 < AVX2.registers for t in fitting(AVX2, f32))


def test_rows_of_tiles_end_in_two_alike():
    wide = Tile(8, 3, 16)
    assert cover_products(wide, 8, 16) == 12
    assert cover_products(wide, 9, 96) == 2 * (24 + 24)
    assert cover_products(wide, 16, 64) == 2 * (16 + 16)
    assert cover_products(wide, 8, 7 * 16) == 24 + 16 + 16


def test_fitting_over_channels_nearly_divides_the_columns_and_reads_few_weights():
    tiles = fitting_channels(AVX512, f32, 49)
    assert [tile.vectors for tile in tiles] == [1, 2, 3, 4]
    assert ChannelTile(10, 2, 16) in tiles and ChannelTile(7, 3, 16) in tiles
    assert all((t.columns + 1) * t.vectors + 1 < AVX512.registers for t in tiles)
    assert all((t.columns + 1) * t.vectors + 1 < AVX2.registers for t in fitting_channels(AVX2, f32, 49))
    assert fitting_channels(SCALAR, f32, 49) == []
