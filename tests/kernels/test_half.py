"""Half precision in the kernels beside convolution: float32's result on the same numbers, rounded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lucid.core.dtypes import as_dtype
from lucid.core.errors import DTypeError
from lucid.core.geometry import PoolSpec
from lucid.kernels import normalization, pooling, softmax, target, update
from lucid.kernels.elementwise import Elementwise
from lucid.kernels.reduction import scaled_sum
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases

Array = np.ndarray[Any, Any]

ISAS = [isa.name for isa in target.cpu().runnable]
HALVES = [as_dtype(name).numpy for name in ("float16", "bfloat16")]
SIZES = (1, 2, 7, 8, 15, 16, 17, 31, 33, 66)

axpy = Elementwise("half_axpy", lambda x, y, *, a: (a * x + y, x < y))
TILES = PoolSpec((2, 2), (2, 2), (1, 1), ((0, 0), (0, 0)))
LAPPING = PoolSpec((3, 3), (2, 2), (1, 1), ((1, 1), (1, 1)))


def _updated(p: Array, g: Array) -> Array:
    mine = p.copy()
    update.sgd([mine], [g], None, [True], lr=0.3, momentum=0, dampening=0, nesterov=False, weight_decay=0.1,
               maximize=False)  # fmt: skip
    return mine


def _standardized(x: Array, g: Array) -> tuple[Array, ...]:
    """What a batch normalization gives, forward and back; the statistics are float32."""
    y, mean, var = normalization.standardize(x, None, None, (0, 2), (1, x.shape[1], 1), 1e-5)
    assert mean.dtype == var.dtype == np.float32
    gradients = normalization.standardize_grad(g, x, None, mean, var, (0, 2), (1, x.shape[1], 1), 1e-5)
    return (y, *gradients)


def _pooled(x: Array, spec: PoolSpec) -> tuple[Array, ...]:
    wide = np.concatenate([x, x], axis=2)
    y = pooling.max_pool(wide, spec)
    return y, pooling.max_pool_grad(y, wide, spec), pooling.avg_pool(wide, spec, True, None)


KERNELS: dict[str, Callable[[Array, Array], Any]] = {
    "elementwise": lambda x, y: axpy(x, y, a=0.3),
    "one number a row": lambda x, y: axpy(x, y[:, :, :1], a=0.3),
    "sum along": lambda x, y: scaled_sum(x, axes=(2,), factor=0.1),
    "sum across": lambda x, y: scaled_sum(x, axes=(0,), factor=0.1),
    "softmax along": lambda x, y: softmax.softmax(x, axes=(2,)),
    "softmax across": lambda x, y: softmax.softmax(x, axes=(1,)),
    "update": _updated,
    "standardize": _standardized,
    "tiles": lambda x, y: _pooled(x, TILES),
    "windows": lambda x, y: _pooled(x, LAPPING),
}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_rounds_float32_once_and_stays_between_guard_pages(isa: str, dtype: Any) -> None:
    def check(case: tuple[str, int, Any]) -> None:
        name, n, where = case
        rng = np.random.default_rng(n)
        x, y = (rng.standard_normal((2, 4, n)).astype(dtype) for _ in range(2))
        want = KERNELS[name](x.astype(np.float32), y.astype(np.float32))
        with (
            guarded(x, where=where, readonly=True) as gx,
            guarded(y, where=where, readonly=True) as gy,
            guarded_results(where),
        ):
            got = KERNELS[name](gx, gy)
            for mine, wide in zip(*(r if isinstance(r, tuple) else (r,) for r in (got, want)), strict=True):
                assert mine.dtype in (dtype, bool)
                np.testing.assert_array_equal(mine.astype(np.float32), wide.astype(mine.dtype).astype(np.float32))

    with target.using(isa):
        run_guarded_cases(check, [(name, n, where) for name in KERNELS for n in SIZES for where in ("end", "start")])


def test_one_half_precision_beside_float32() -> None:
    x = np.ones(3, np.float16)
    total, _ = axpy(x, np.full(3, 1e-4, np.float32), a=1.0)
    assert total.dtype == np.float16
    for other in (np.ones(3, as_dtype("bfloat16").numpy), np.ones(3)):
        with pytest.raises(DTypeError, match="one half precision beside float32"):
            axpy(x, other, a=1.0)
