from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest

from lucid.core.errors import DTypeError
from lucid.kernels import jit, target
from lucid.kernels.reduction import SEGMENT_BYTES, SEGMENT_ROWS, Reduction, length
from lucid.kernels.reduction import product as multiplied
from lucid.kernels.reduction_kernel import BAND
from lucid.kernels.runtime import threads
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases

Array = np.ndarray[Any, Any]
ISAS = [isa.name for isa in target.cpu().isas]

total = Reduction("total", terms=lambda x: x)
product = Reduction("product", terms=lambda x, y: x * y)
largest = Reduction("largest", terms=lambda x: x, combine="max")
smallest = Reduction("smallest", terms=lambda x: x, combine="min")
moments = Reduction(
    "moments",
    terms=lambda x, *, shift: (x - shift, (x - shift) * (x - shift)),
    finish=lambda s, q, *, inverse, shift: (s * inverse + shift, q * inverse - (s * inverse) * (s * inverse)),
)
#: x y and x, then more sums than leave room for four vectors of each.
paired = Reduction(
    "paired",
    terms=lambda x, y, *, by: (x, y, x, 1.0, y, by, y, y, x, x),
    combine="products",
)


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def normal(*shape: int, dtype: Any = np.float64) -> Array:
    return np.asarray(np.random.default_rng(sum(shape)).standard_normal(shape), dtype)


def every_axes(rank: int) -> list[tuple[int, ...]]:
    return list(chain.from_iterable(combinations(range(rank), k) for k in range(rank + 1)))


SHAPES = [
    (),
    (1,),
    (33,),
    (SEGMENT_BYTES // 4 + 7,),
    (SEGMENT_BYTES // 2 + 7,),
    (5, 17),
    (SEGMENT_ROWS + 3, 35),
    (3, SEGMENT_ROWS + 3, 9),
    (2, BAND + 5),
    (6, 5, 49),
    (2, 3, 4, 5, 6, 7),
    (1, 3, 1, 5),
    (3, 0),
    (0, 3),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_any_axes_of_float32_give_the_rounded_sum(shape: tuple[int, ...], isa: str) -> None:
    x = normal(*shape, dtype=np.float32)
    with target.using(isa):
        for axes in every_axes(len(shape)):
            got = total(x, axes=axes)
            want = x.sum(axis=axes, dtype=np.float64)
            assert got.shape == want.shape and got.dtype == np.float32, axes
            np.testing.assert_array_equal(got, want.astype(np.float32), str(axes))
            if x.size:
                np.testing.assert_array_equal(largest(x, axes=axes), x.max(axis=axes))
                np.testing.assert_array_equal(smallest(x, axes=axes), x.min(axis=axes))
            wide = x.astype(np.float64)
            np.testing.assert_allclose(multiplied(x, axes=axes), wide.prod(axis=axes), rtol=1e-6, atol=1e-37)
            np.testing.assert_allclose(length(x, axes=axes), np.sqrt((wide * wide).sum(axis=axes)), rtol=1e-7)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_several_terms_and_a_finish(shape: tuple[int, ...], isa: str) -> None:
    x = normal(*shape)
    with target.using(isa):
        for axes in every_axes(len(shape)):
            count = int(np.prod([shape[k] for k in axes]))
            if x.size:
                mean, variance = moments(x, axes=axes, inverse=1 / count, shift=0.25)
                np.testing.assert_allclose(mean, x.mean(axis=axes), rtol=1e-13, atol=1e-14)
                np.testing.assert_allclose(variance, x.var(axis=axes), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_of_float32_are_summed_as_they_are(shape: tuple[int, ...], isa: str) -> None:
    x = normal(*shape, dtype=np.float32)
    y = np.asarray(np.flip(x))
    wide, turned = x.astype(np.float64), y.astype(np.float64)
    with target.using(isa):
        for axes in every_axes(len(shape)):
            got = paired(x, y, axes=axes, by=0.25)
            for part, whole in zip(got, (wide * turned, wide, turned / 4, turned**2, wide**2), strict=True):
                want = whole.sum(axis=axes)
                assert part.shape == want.shape and part.dtype == np.float32, axes
                np.testing.assert_array_equal(part, want.astype(np.float32), str(axes))


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_products_of_other_floats(dtype: str) -> None:
    x, y = normal(7, 130).astype(dtype), normal(130).astype(dtype)
    got = paired(x, y, axes=(1,), by=3.0)[0]
    want = (x.astype(np.float64) * y.astype(np.float64)).sum(1)
    np.testing.assert_allclose(got, want, rtol=2 * np.finfo(dtype).eps, atol=1e-14)


@pytest.mark.parametrize(
    ("left", "right", "axes"),
    [
        ((4, 5, 6), (5, 1), (0, 2)),
        ((4, 5, 6), (6,), (0, 1)),
        ((4, 5, 6), (4, 1, 1), (1, 2)),
        ((4, 5, 6), (4, 5, 1), (2,)),
        ((4, 1, 6), (1, 5, 1), (0, 1)),
        ((7, 300), (300,), (1,)),
    ],
)
def test_operands_broadcast(left: tuple[int, ...], right: tuple[int, ...], axes: tuple[int, ...]) -> None:
    x, y = normal(*left), normal(*right)
    np.testing.assert_allclose(product(x, y, axes=axes), (x * y).sum(axis=axes), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("view", [lambda x: x.T, lambda x: x[::2, ::-1], lambda x: x[1:, 3:], lambda x: x[:, :1]])
def test_any_strides(view: Any) -> None:
    x = view(normal(9, 11))
    for axes in every_axes(2):
        np.testing.assert_allclose(total(x, axes=axes), x.sum(axis=axes), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("shape", [(200_001,), (5, 70_003), (3001, 70), (16, 8, 1000)])
def test_the_same_bits_on_any_number_of_threads(shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    results = []
    for count in (1, 2, 3):
        threads.set_num_threads(count)
        results.append([total(x, axes=axes).tobytes() for axes in every_axes(len(shape))])
        results[-1] += [part.tobytes() for axes in every_axes(len(shape)) for part in paired(x, x, axes=axes, by=0.3)]
    assert results[0] == results[1] == results[2]


def test_float64_is_better_than_pairwise() -> None:
    x = normal(300_007) * 10.0 ** np.random.default_rng(0).integers(-8, 8, 300_007)
    exact = float(sum(map(Fraction, x.tolist())))
    scale = np.finfo(np.float64).eps * np.abs(x).sum()
    assert abs(float(total(x, axes=(0,))) - exact) <= 2 * scale


def test_infinities_and_nan() -> None:
    big = np.array([1.0, np.inf, 2.0])
    assert total(big, axes=(0,)) == np.inf
    assert np.isnan(total(np.array([np.inf, -np.inf]), axes=(0,)))
    assert np.isnan(total(np.array([1, np.nan]), axes=(0,)))
    assert np.isnan(largest(np.array([1, np.nan, 2]), axes=(0,)))
    assert np.isnan(smallest(np.array([[1, np.nan, 2]] * 3), axes=(0,))[1])
    assert total(np.full(100, 3e38, np.float32), axes=(0,)) == np.inf


@pytest.mark.parametrize("isa", ISAS)
def test_stays_between_guard_pages(isa: str) -> None:
    def check(case: tuple[int, int, int, Any]) -> None:
        *shape, where = case
        x = normal(*shape, dtype=np.float32)
        with guarded(x, where=where, readonly=True) as g, guarded_results(where):
            for axes in every_axes(3):
                want = x.sum(axis=axes, dtype=np.float64).astype("f")
                np.testing.assert_array_equal(total(g, axes=axes), want)
                np.testing.assert_array_equal(paired(g, g, axes=axes, by=1.0)[1], want)

    with target.using(isa):
        total(normal(3, 4, 5, dtype=np.float32), axes=(0,))
        paired(*[normal(3, 4, 5, dtype=np.float32)] * 2, axes=(0,), by=1.0)
        sizes = (1, 7, 8, 9, 15, 16, 17, 31, 33, 129)
        run_guarded_cases(check, [(2, 3, n, where) for n in sizes for where in ("end", "start")])


def test_a_new_size_compiles_nothing() -> None:
    total(normal(4, 5, 6), axes=(0, 2))
    total(normal(4, 5, 6), axes=(1,))
    before = jit.kernel_count()
    total(normal(7, 3, 900), axes=(0, 2))
    total(normal(7, 30, 9), axes=(0, 1))
    total(normal(50), axes=(0,))
    assert jit.kernel_count() == before


def test_refusals() -> None:
    with pytest.raises(DTypeError, match="int64"):
        total(np.arange(3), axes=(0,))


def test_every_choice_of_numbers_has_its_own() -> None:
    """Those of a bound region, those after as many as are kept, and zeros of either sign."""
    shifted = Reduction("shifted", terms=lambda x: x, finish=lambda s, *, by: s * by)
    for x in (normal(9, 40), normal(9, 80)[:, ::2]):
        for by in (*range(12), 0.0, -0.0, 3.0):
            found, wanted = shifted(x, axes=(1,), by=by), shifted(x, axes=(1,), by=1.0) * np.float32(by)
            np.testing.assert_allclose(found, wanted, rtol=3e-7)
            np.testing.assert_array_equal(np.signbit(found), np.signbit(wanted))
