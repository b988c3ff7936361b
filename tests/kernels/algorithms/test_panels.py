"""Rows become panels at every instruction set, in every type, and nothing outside of the rows is read."""

import ctypes
from itertools import product

import numpy as np
import pytest

from lucid.core.dtypes import as_dtype
from lucid.kernels import jit, target
from lucid.kernels.algorithms.base import address
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.panels import slack, write_packs
from lucid.kernels.ir import BY_DTYPE, Module
from tests.kernels.guard import guarded, run_guarded_cases

WIDTHS = (4, 6, 14)


def _pack(dtype, width):
    """``pack(source, row_step, k_step, rows, depth, panel)`` of numbers that are widened one by one."""

    def write(isa):
        module = Module("packs", isa)
        write_packs(module, isa, Grain(BY_DTYPE[dtype]), [width])[width].export = True
        return module

    entry = jit.kernel(("test packs", dtype, width), write).address(f"pack{width}")
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)(entry)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("isa", [isa.name for isa in target.cpu().isas])
def test_rows_along_a_panel(isa, dtype):
    stored = as_dtype(dtype).numpy
    with target.using(isa) as machine:
        packs = {width: _pack(dtype, width) for width in WIDTHS}

        def check(case):
            width, depth = case
            element = Grain(BY_DTYPE[dtype]).packed
            for rows in (1, width - 1, width):
                numbers = np.arange(1, rows * depth + 1).reshape(rows, depth) % 97
                room = np.full(depth * width + slack(machine, element, width), np.nan, "f4")
                with guarded(numbers.astype(stored), readonly=True) as source:
                    packs[width](address(source), depth, 1, rows, depth, address(room))
                np.testing.assert_array_equal(room[: depth * width].reshape(depth, width)[:, :rows], numbers.T)

        run_guarded_cases(check, list(product(WIDTHS, (1, 2, 7, 8, 9, 15, 16, 17, 33))))
