from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lucid.core.errors import DTypeError, ShapeError
from lucid.kernels import jit, target
from lucid.kernels.elementwise import BLOCK, Elementwise, layout
from lucid.kernels.ir import select
from lucid.kernels.runtime import threads
from tests.kernels.guard import guarded, run_guarded_cases

Array = np.ndarray[Any, Any]
ISAS = [isa.name for isa in target.cpu().isas]
SIZES = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 257, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5]

axpy = Elementwise("axpy", lambda x, y, *, a: a * x + y)
both = Elementwise("both", lambda x, y: (x + y, x < y))
pick = Elementwise("pick", lambda m, x, y: select(m, x, y))


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def normal(*shape: int, dtype: Any = np.float64) -> Array:
    return np.asarray(np.random.default_rng(sum(shape)).standard_normal(shape), dtype)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_size_stays_between_guard_pages(isa: str, dtype: Any) -> None:
    def check(case: tuple[int, Any]) -> None:
        size, where = case
        x, y, m = normal(size, dtype=dtype), normal(size + 1, dtype=dtype)[1:], normal(size + 2)[2:] > 0
        with (
            guarded(x, where=where, readonly=True) as gx,
            guarded(y, where=where, readonly=True) as gy,
            guarded(m, where=where, readonly=True) as gm,
            guarded(size, dtype, where) as total,
            guarded(size, bool, where) as less,
        ):
            both(gx, gy, out=(total, less))
            assert (total == x + y).all() and (less == (x < y)).all()
            assert (pick(gm, gx, gy, out=(total,)) == np.where(m, x, y)).all()

    with target.using(isa):
        both(normal(1, dtype=dtype), normal(1, dtype=dtype))
        run_guarded_cases(check, [(n, where) for n in SIZES for where in ("end", "start")])


SHAPES = [
    ((5,), (5,)),
    ((5,), ()),
    ((), (5,)),
    ((), ()),
    ((4, 7), (7,)),
    ((4, 7), (4, 1)),
    ((4, 1), (1, 7)),
    ((2, 3, 5, 7), (3, 1, 1)),
    ((2, 3, 5, 7), (2, 1, 5, 1)),
    ((2, 1, 5, 1), (1, 3, 1, 7)),
    ((2, 3, 5, 7), (3, 5, 7)),
    ((1, 1, 1), (1, 4, 1)),
    ((0, 3), (3,)),
    ((3, 0, 2), (1, 1, 2)),
    ((2, 3, BLOCK + 3), (3, 1)),
    ((2, 2, 2, 2, 3), (2, 1, 2, 1, 3)),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_broadcasting_is_numpys(left: tuple[int, ...], right: tuple[int, ...], isa: str) -> None:
    x, y = normal(*left), normal(*right)
    with target.using(isa):
        got = axpy(x, y, a=0.5)
        assert got.shape == np.broadcast_shapes(left, right)
        np.testing.assert_array_equal(got, 0.5 * x + y)
        np.testing.assert_array_equal(axpy(y, x, a=0.5), 0.5 * y + x)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.T,
        lambda x: x[::2, 1::3],
        lambda x: x[::-1],
        lambda x: x[:, ::-1],
        lambda x: x[3:4].T,
        lambda x: np.broadcast_to(x[0], (8, 9)),
        lambda x: x[:, 2:7],
    ],
)
def test_any_strides(view: Any) -> None:
    x, y = view(normal(8, 9)), view(normal(9, 8).T.copy())
    np.testing.assert_array_equal(axpy(x, y, a=2.0), 2 * x + y)
    np.testing.assert_array_equal(axpy(x, y.copy(), a=2.0), 2 * x + y)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_same_bits_on_any_number_of_threads(count: int) -> None:
    x, y = normal(37 * BLOCK + 11), normal(1)
    threads.set_num_threads(count)
    np.testing.assert_array_equal(axpy(x, y, a=3.0), 3.0 * x + y)


def test_results_may_replace_inputs() -> None:
    x, y = normal(1000), normal(1000)
    want = 2 * x + y
    assert axpy(x, y, a=2.0, out=(y,)) is y
    np.testing.assert_array_equal(y, want)


def test_a_new_size_and_a_new_number_compile_nothing() -> None:
    axpy(normal(10), normal(10), a=1.0)
    axpy(normal(3, 10), normal(3, 1), a=1.0)
    before = jit.kernel_count()
    axpy(normal(4, 5, 6), normal(4, 5, 6), a=2.0)
    axpy(normal(4, 7, 6, 2), normal(7, 1, 1), a=-1.0)
    assert jit.kernel_count() == before


def test_many_numbers_one_after_another() -> None:
    x, y = normal(5, 9), normal(5, 9)
    for a in (*np.linspace(-3.0, 3.0, 20), 2.0, -3.0):
        np.testing.assert_allclose(axpy(x, y, a=a), a * x + y, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_rounds_once(dtype: Any) -> None:
    x, y = normal(50).astype(dtype), normal(50).astype(dtype)
    got = axpy(x, y, a=0.3)
    assert got.dtype == dtype
    want = np.float32(0.3) * x.astype(np.float32) + y.astype(np.float32)
    np.testing.assert_array_equal(got.astype(np.float32), want.astype(dtype).astype(np.float32))


def test_layout_joins_axes() -> None:
    assert layout((4, 5, 6), [(4, 5, 6)], [(30, 6, 1)]).sizes == (1, 1, 120)
    assert layout((4, 5, 6), [(4, 5, 6), (5, 6)], [(30, 6, 1), (6, 1)]).sizes == (1, 4, 30)
    assert layout((4, 5), [(4, 5), ()], [(5, 1), ()]).strides == ((0, 0, 1), (0, 0, 0))
    assert layout((4, 5), [(4, 5)], [(1, 4)]).copies == ((0, (4, 5)),)


def test_what_is_one_number_a_row_is_that_in_its_copy() -> None:
    """As group norm's statistics and weights."""
    shape, strides = (2, 3, 4, 50), ((600, 200, 50, 1), (3, 1, 0, 0), (0, 4, 1, 0))
    found = layout(shape, [shape, (2, 3, 1, 1), (1, 3, 4, 1)], strides)
    assert found.sizes == (6, 4, 50) and found.strides[1:] == ((1, 0, 0), (4, 1, 0))
    assert found.copies == ((1, (2, 3, 1, 1)), (2, (2, 3, 4, 1)))


def test_operands_that_vary_along_any_axes_in_any_order() -> None:
    rng = np.random.default_rng(5)
    four = Elementwise("four", lambda x, y, z, w: x * y + z * w)
    shapes = (2, 1, 1, 1), (2, 3, 1, 1), (2, 3, 4, 1), (2, 3, 4, 5)
    x, y, z, w = (normal(*shape) for shape in shapes)
    np.testing.assert_allclose(four(x, y, z, w), x * y + z * w, rtol=1e-12, atol=1e-12)
    for _ in range(300):
        rank = int(rng.integers(1, 6))
        shape = tuple(rng.integers(1, 5, rank).tolist())
        given = []
        for _ in range(4):
            own = tuple(n if rng.random() < 0.6 else 1 for n in shape)
            order = rng.permutation(rank)
            given.append(normal(*(own[k] for k in order)).transpose(np.argsort(order)))
        x, y, z, w = given
        np.testing.assert_allclose(four(x, y, z, w), x * y + z * w, rtol=1e-12, atol=1e-12)


def test_refusals() -> None:
    with pytest.raises(DTypeError, match="float32, float64; all must be float32 or all float64"):
        axpy(normal(3, dtype=np.float32), normal(3), a=1.0)
    with pytest.raises(DTypeError, match="int64"):
        axpy(np.arange(3), np.arange(3), a=1.0)
    with pytest.raises(ShapeError, match="do not broadcast"):
        axpy(normal(3), normal(4), a=1.0)
    with pytest.raises(ShapeError, match=r"axpy: out is float64\[4\]; it must be float64\[3\]"):
        axpy(normal(3), normal(3), a=1.0, out=(normal(4),))
    with pytest.raises(TypeError, match="takes arrays"):
        axpy(normal(3), a=1.0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_too_large_for_the_caches(monkeypatch: pytest.MonkeyPatch, dtype: Any, isa: str) -> None:
    small = replace(target.cpu(), l3_bytes=1024)
    monkeypatch.setattr(target, "cpu", lambda: small)
    with target.using(isa):
        for left, right in (((100_003,), ()), ((70, 1024), (70, 1)), ((70, 1023), (70, 1)), ((3, 1 << 17), (1 << 17,))):
            x, y = normal(*left, dtype=dtype), normal(*right, dtype=dtype)
            fresh = Elementwise("axpy", lambda x, y, *, a: a * x + y)
            np.testing.assert_array_equal(fresh(x, y, a=2.0), 2 * x + y)
            np.testing.assert_array_equal(fresh(x, y, a=2.0, out=(np.empty_like(x),)), 2 * x + y)
