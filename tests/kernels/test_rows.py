from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lucid.kernels import target
from lucid.kernels.ir import sqrt
from lucid.kernels.rows import Rows, Stage

ISAS = [isa.name for isa in target.cpu().isas]

scaled = Rows(
    "scaled",
    stages=[
        Stage("max", lambda x, w: x),
        Stage("sum", lambda x, w, top: (x - top) * w, lambda total, *, factor: total * factor),
    ],
    once=lambda top, total: sqrt(total * total + 1.0),
    results=lambda x, w, top, total, length, *, shift: (x * length + shift, x - top),
    keep=(1, 0),
)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 40), (3, 7, 33), (2, 70, 3), (1, 1), (130, 2)])
def test_stages_numbers_and_kept_values_over_any_axis(shape: tuple[int, ...], dtype: Any, isa: str) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape[-1:]).astype(dtype)
    for axis in range(len(shape)):
        with target.using(isa):
            first, second, kept_total, kept_top = scaled(x, w, axes=(axis,), factor=0.5, shift=2.0)
        wide = x.astype(np.float64)
        top = wide.max(axis, keepdims=True)
        total = 0.5 * ((wide - top) * w).sum(axis, keepdims=True)
        tolerance = {"rtol": 64 * np.finfo(dtype).eps, "atol": 256 * np.finfo(dtype).eps}
        np.testing.assert_array_equal(kept_top, top)
        np.testing.assert_allclose(kept_total, total, **tolerance)
        np.testing.assert_allclose(first, wide * np.sqrt(total * total + 1) + 2, **tolerance)
        np.testing.assert_allclose(second, wide - top, **tolerance)
