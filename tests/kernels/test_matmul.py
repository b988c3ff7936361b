"""The matrix product against sums in float64, with the bound of a sum of k products."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import product as every
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucid.core.dtypes import as_dtype
from lucid.core.errors import DTypeError, ShapeError
from lucid.kernels import matmul as module
from lucid.kernels import target
from lucid.kernels.algorithms import product, product_direct
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.ir import bf16, f16, f32, f64
from lucid.kernels.matmul import direct_grid, grid, matmul
from tests.kernels.algorithms.dense_cases import HALF
from tests.kernels.convolution_fuzz import tasks_backwards, using_threads
from tests.kernels.guard import guarded, run_guarded_cases

Array = np.ndarray[Any, Any]

ISAS = [isa.name for isa in target.cpu().isas]
DTYPES = [as_dtype(name).numpy for name in module.DTYPES]
HALVES = [as_dtype(name).numpy for name in HALF]
SIZES = [1, 2, 4, 7, 8, 15, 16, 17, 31, 33]


@pytest.fixture(autouse=True, params=["packed", "in place"])
def everything_native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy gets nothing but what is empty; all products that are not slim pack both operands, or read A in place."""
    monkeypatch.setattr(module, "SMALL_PRODUCTS", 0)
    monkeypatch.setattr(module, "_bound", {})
    monkeypatch.setattr(module, "reads_in_place", lambda isa: request.param == "in place")
    for least in ("_LEAST_TILES", "_LEAST_DIRECT"):
        monkeypatch.setattr(module, least, 0)


def numbers(rng: np.random.Generator, *shape: int, dtype: Any = np.float32) -> Array:
    return rng.standard_normal(shape).astype(dtype)


def check(got: Array, a: Array, b: Array, start: Array | float = 0.0) -> None:
    """|got - exact| <= n u / (1 - n u) * sums of absolute values, with n = k + 1 roundings, one of them the start's.

    In half precision u is float32's, and what comes of that is rounded once.
    """
    wide_a, wide_b, wide_start = (np.asarray(v, np.longdouble) for v in (a, b, start))
    exact, absolute = wide_a @ wide_b + wide_start, np.abs(wide_a) @ np.abs(wide_b) + np.abs(wide_start)
    half = HALF.get(got.dtype.name)
    unit = (a.shape[-1] + 1) * np.finfo(np.float32 if half else got.dtype).eps / 2
    off = unit / (1 - unit) * absolute
    if half:
        off = off * (1 + half[0]) + half[0] * np.abs(exact) + half[1]
    excess = np.abs(got.astype(np.longdouble) - exact) - off
    assert got.shape == exact.shape
    assert excess.size == 0 or excess.max() <= 0, f"{excess.max():.3g} over the bound at {np.argmax(excess)}"


def laid_out(a: Array, layout: str) -> Array:
    """The same matrix with its numbers elsewhere."""
    spread = np.zeros((*a.shape[:-2], 2 * a.shape[-2], 3 * a.shape[-1]), a.dtype)
    if layout == "rows":
        return np.ascontiguousarray(a)
    if layout == "columns":
        return np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2)
    if layout == "backwards":
        return np.ascontiguousarray(a[..., ::-1, ::-1])[..., ::-1, ::-1]
    view = spread[..., ::2, 1::3]
    view[...] = a
    return view


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_around_the_vector(isa: str, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    with target.using(isa):
        for m, n, k in every(SIZES, SIZES, [1, 8, 17, 33]):
            a, b, bias = numbers(rng, m, k, dtype=dtype), numbers(rng, k, n, dtype=dtype), numbers(rng, n, dtype=dtype)
            check(matmul(a, b, bias), a, b, bias)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(isa: str, dtype: Any) -> None:
    rng, layouts = np.random.default_rng(2), ["rows", "columns", "backwards", "spread"]
    with target.using(isa):
        for (m, n, k), of_a, of_b in every([(40, 70, 37), (3, 50, 41), (50, 1, 41)], layouts, layouts):
            a, b = numbers(rng, m, k, dtype=dtype), numbers(rng, k, n, dtype=dtype)
            check(matmul(laid_out(a, of_a), laid_out(b, of_b)), a, b)


@pytest.mark.parametrize("shapes", [
    ((1000, 3), (3,)), ((3,), (3, 1000)), ((2000,), (2000,)), ((5, 20, 30), (30, 40)), ((5, 20, 30), (5, 30, 40)),
    ((2, 1, 20, 30), (3, 30, 40)), ((20, 30), (3, 30, 40)), ((4, 30), (3, 30, 40)), ((2, 3, 30), (30,)),
    ((30,), (2, 3, 30, 5)), ((1, 20, 30), (1, 30, 40)), ((5, 1, 30), (30, 40)),
])  # fmt: skip
def test_batches_and_vectors(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    rng = np.random.default_rng(3)
    a, b = (numbers(rng, *shape) for shape in shapes)
    check(matmul(a, b), a, b)


def test_batches_of_uneven_strides() -> None:
    rng = np.random.default_rng(4)
    a, b = numbers(rng, 4, 3, 20, 30), numbers(rng, 3, 30, 40)
    check(matmul(a[::2, ::-1], b[::-1]), a[::2, ::-1], b[::-1])
    check(matmul(a.transpose(1, 0, 2, 3)[:, :, ::2], b[0]), a.transpose(1, 0, 2, 3)[:, :, ::2], b[0])
    shared = np.broadcast_to(a[0, 0], (5, 20, 30))
    check(matmul(shared, b[0]), shared, b[0])


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), *HALVES])
@pytest.mark.parametrize("isa", ISAS)
def test_more_than_one_block_in_every_direction(isa: str, dtype: Any) -> None:
    rng = np.random.default_rng(5)
    with target.using(isa):
        for m, n, k in [(300, 400, 300), (20, 1100, 530), (1100, 20, 270), (17, 33, 3000), (49, 70, 1100)]:
            a, b, bias = (numbers(rng, *shape, dtype=dtype) for shape in ((m, k), (k, n), (n,)))
            check(matmul(a, b, bias), a, b, bias)


@pytest.mark.parametrize(("m", "n", "k"), [(50, 60, 70), (30, 20, 20_000), (2, 300, 70), (300, 2, 70), (300, 1, 70)])
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), *HALVES])
@pytest.mark.parametrize("isa", ISAS)
def test_adding_onto_out(m: int, n: int, k: int, isa: str, dtype: Any) -> None:
    rng = np.random.default_rng(6)
    with target.using(isa):
        for items in [(), (3,)]:
            a, b, c = (numbers(rng, *items, *shape, dtype=dtype) for shape in ((m, k), (k, n), (m, n)))
            before = c.copy()
            assert matmul(a, b, out=c) is c
            check(c, a, b, before)


@pytest.mark.parametrize(
    ("m", "n", "k"), [(64, 48, 40_000), (500, 300, 200), (3, 5000, 400), (400, 40, 400), (300, 900, 1024)]
)
def test_same_bits_on_any_number_of_threads(m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(7)
    a, b, bias = numbers(rng, m, k), numbers(rng, n, k).T, numbers(rng, n)
    results = []
    for count in (1, 2, 3):
        with using_threads(count):
            results.append(matmul(a, b, bias))
    with tasks_backwards():
        results.append(matmul(a, b, bias))
    check(results[0], a, b, bias)
    assert all((r == results[0]).all() for r in results)


def test_long_sums_are_split_and_no_others() -> None:
    isa = target.cpu().isas[-1]
    assert grid(64, 64, 100_000, 1, isa, Grain(f32)).splits > 4
    assert grid(2000, 2000, 2000, 1, isa, Grain(f32)).splits == 1
    assert grid(64, 64, 300, 1, isa, Grain(f64)).splits == 1


@given(
    st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 200_000), st.integers(1, 100),
    st.sampled_from(target.cpu().isas), st.sampled_from([Grain(f32), Grain(f64), Grain(f16), Grain(bf16, 2)]),
)  # fmt: skip
def test_a_grid_covers_all(m: int, n: int, k: int, items: int, isa: Any, grain: Grain) -> None:
    g = grid(m, n, k, items, isa, grain)
    for blocks, block, size in [
        (g.row_blocks, g.rows, m), (g.column_blocks, g.columns, n), (g.splits, g.split, k)
    ]:  # fmt: skip
        assert (blocks - 1) * block < size <= blocks * block
    assert g.split % grain.depth == 0 or g.splits == 1
    panels = grain.count(g.depth) * (g.rows + g.columns) * grain.packed.bytes
    assert panels + product.block_items(grain, g.rows, g.columns) * grain.sums.bytes <= target.cpu().l2_bytes


@given(
    st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 20_000), st.booleans(),
    st.sampled_from(target.cpu().isas), st.sampled_from([Grain(f32), Grain(f64), Grain(f16), Grain(bf16, 2)]),
)  # fmt: skip
def test_a_grid_in_place_covers_all(m: int, n: int, k: int, along: bool, isa: Any, grain: Grain) -> None:
    g = direct_grid(m, n, k, along, 0.05, 0.1, isa, grain) if module.reads_in_place(isa) else None
    if g is None:
        return
    for blocks, block, size in [(g.row_blocks, g.rows, m), (g.column_blocks, g.columns, n)]:
        assert (blocks - 1) * block < size <= blocks * block
    assert g.depth % grain.depth == 0 or g.depth == k
    panels = grain.count(g.depth) * (g.near + g.columns) * grain.packed.bytes
    assert (
        panels + product_direct.block_items(grain, g.rows, g.columns, g.whole) * grain.sums.bytes
        <= target.cpu().l2_bytes
    )


def test_few_rows_have_tiles_of_their_height() -> None:
    wide = [isa for isa in target.cpu().isas if isa.registers == 32]
    rows = {m: product_direct.tile_of(isa, f32, m).rows for isa in wide for m in (49, 64, 3136)}
    assert not wide or rows == {49: 10, 64: 13, 3136: 12}


@pytest.mark.parametrize(("steps", "way"), [
    ((500, 1), "IN_PLACE"), ((1, 500), "IN_PLACE"), ((8192, 1), "COPIED"), ((1, 1 << 17), "PACKED"),
    ((500, 3), "PACKED"),
])  # fmt: skip
def test_rows_whose_lines_share_a_set_of_a_cache_are_not_read_in_place(steps: tuple[int, int], way: str) -> None:
    view = module._View((), 24, 400, *steps, ())
    assert module._way(view, 12, 384, Grain(f32)) == getattr(product_direct, way)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("where", ["start", "end"])
def test_stays_inside_its_arrays_and_its_workspace(isa: str, where: Any) -> None:
    def run(case: tuple[int, int, int, str, str, Any]) -> None:
        m, n, k, of_a, of_b, dtype = case
        rng = np.random.default_rng(8)
        a = numbers(rng, *((k, m) if of_a == "columns" else (m, k)), dtype=dtype)
        b = numbers(rng, *((n, k) if of_b == "columns" else (k, n)), dtype=dtype)
        with (
            ExitStack() as stack,
            target.using(isa),
            guarded(a, where=where, readonly=True, name="a") as a,
            guarded(b, where=where, readonly=True, name="b") as b,
            guarded(numbers(rng, n, dtype=dtype), where=where, readonly=True, name="bias") as bias,
            guarded(numbers(rng, m, n, dtype=dtype), where=where, name="c") as c,
        ):

            def workspace(thread_bytes: int, crew: int) -> Array:
                rows = crew, -(-thread_bytes // 64) * 64
                return stack.enter_context(guarded(rows, np.uint8, where, name="workspace"))

            module._workspace = workspace  # in the child only
            a, b = (x.T if of == "columns" else x for x, of in ((a, of_a), (b, of_b)))
            before = c.copy()
            matmul(a, b, out=c)
            check(c, a, b, before)
            check(matmul(a, b, bias), a, b, bias)

    sizes = [(1, 1, 1), (1, 50, 33), (50, 1, 33), (3, 17, 9), (17, 33, 31), (15, 20, 7), (70, 40, 300), (5, 7, 3000)]
    layouts = ["rows", "columns"]
    cases = [(*size, of_a, of_b, dtype) for size, of_a, of_b, dtype in every(sizes, layouts, layouts, DTYPES)]
    run_guarded_cases(run, cases)


@pytest.mark.parametrize("shapes", [((0, 5), (5, 3)), ((4, 0), (0, 3)), ((4, 5), (5, 0)), ((0, 4, 5), (5, 3))])
def test_zero_sizes(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = (np.ones(shape, np.float32) for shape in shapes)
    bias = np.arange(b.shape[-1], dtype=np.float32)
    got = matmul(a, b, bias)
    assert got.shape == (a @ b).shape
    assert (got == bias).all() or got.size == 0 or prod(a.shape) > 0


def test_nan_and_infinity_go_where_the_sum_takes_them() -> None:
    rng = np.random.default_rng(9)
    for m, n in [(20, 30), (2, 30), (30, 2)]:
        a, b = numbers(rng, m, 40), numbers(rng, 40, n)
        a[1, 7], b[3, 1] = np.nan, np.inf
        with np.errstate(invalid="ignore"):
            want = a.astype(np.float64) @ b.astype(np.float64)
        got = matmul(a, b)
        assert (np.isnan(got) == np.isnan(want)).all()
        assert (np.isinf(got) == np.isinf(want)).all()


def test_swapped_bytes_and_split_elements_are_copied() -> None:
    rng = np.random.default_rng(10)
    a, b = numbers(rng, 20, 30), numbers(rng, 30, 40)
    check(matmul(a.astype(">f4"), b), a, b)
    packed = np.zeros(30, [("skip", "i1"), ("row", "f4", (40,))])
    packed["row"] = b
    check(matmul(a, packed["row"]), a, b)
    check(matmul(a, packed["row"]), a, b)  # again, since plans are kept


def test_small_products_are_numpy_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL_PRODUCTS", 8192)
    rng = np.random.default_rng(11)
    a, b, bias, c = numbers(rng, 4, 5), numbers(rng, 5, 6), numbers(rng, 6), numbers(rng, 4, 6)
    check(matmul(a, b, bias), a, b, bias)
    before = c.copy()
    check(matmul(a, b, out=c), a, b, before)


ONES = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(("arguments", "error", "text"), [
    ((ONES, ONES), ShapeError, r"matmul: a \(3, 4\) has 4 columns and b \(3, 4\) has 3 rows; they must be equal"),
    ((ONES, np.float32(1)), ShapeError, "matmul: b is a single number"),
    ((ONES, ONES.T.astype(np.float64)), DTypeError, "matmul: a is float32 and b is float64; they must be the same"),
    ((ONES.astype(int), ONES.T.astype(int)), DTypeError, "matmul: a is int64; it must be float32, float64, float16 or"),
    ((ONES, ONES.T, ONES[0]), ShapeError, r"matmul: bias \(4,\) must have one number for each of 3 columns"),
    ((ONES, ONES.T, np.ones(3)), DTypeError, "matmul: bias is float64 and a is float32"),
    ((np.ones((2, 3, 4)), np.ones((3, 4, 5))), ShapeError, "do not broadcast"),
])  # fmt: skip
def test_errors(arguments: tuple[Array, ...], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        matmul(*arguments)


def test_errors_of_out() -> None:
    b, bias = ONES.T, np.ones(3, np.float32)
    wrong = [np.zeros((3, 4), np.float32), np.zeros((3, 3)), np.zeros((3, 6), np.float32)[:, ::2]]
    for out in wrong:
        with pytest.raises(ShapeError, match=r"matmul: out .* must be float32 \(3, 3\), writeable and contiguous"):
            matmul(ONES, b, out=out)
    with pytest.raises(ShapeError, match="matmul: bias and out exclude each other"):
        matmul(ONES, b, bias, out=np.zeros((3, 3), np.float32))
