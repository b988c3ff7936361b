from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy import special

import lucid
from lucid.kernels import softmax as native
from lucid.kernels import target
from lucid.kernels.runtime import threads
from lucid.kernels.target import using
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases

Array = np.ndarray[Any, Any]
ISAS = [isa.name for isa in target.cpu().isas]
CASES = [((5, 10), 1), ((5, 10), 0), ((3, 17, 33), 1), ((3, 17, 33), 2), ((2, 3, 1000), 2), ((1, 7), 1), ((9,), 0),
         ((2, 130, 5, 7), 1), ((0, 3), 1), ((4, 1), 1)]  # fmt: skip


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def normal(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Array:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape) * 5, dtype)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_forward(shape: tuple[int, ...], axis: int, dtype: Any, isa: str) -> None:
    x, unit = normal(shape, dtype), np.finfo(dtype).eps
    with target.using(isa):
        y, log_y = native.softmax(x, axes=(axis,)), native.log_softmax(x, axes=(axis,))
    if x.size:
        wide = x.astype(np.float64)
        # x - max is rounded first: half a unit of it, absolute, is what either result may be off by
        rounding = unit * np.ptp(wide, axis=axis, keepdims=True)
        assert (np.abs(y / special.softmax(wide, axis) - 1) < rounding + 8 * unit).all()
        assert (np.abs(log_y - special.log_softmax(wide, axis)) < 2 * rounding + 4 * unit).all()
    assert y.shape == log_y.shape == shape and y.dtype == log_y.dtype == dtype


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_gradients(shape: tuple[int, ...], axis: int, dtype: Any, isa: str) -> None:
    x, g = normal(shape, dtype), normal(shape, dtype, 1)
    wide, upstream = x.astype(np.float64), g.astype(np.float64)
    if not x.size:
        return
    p = special.softmax(wide, axis)
    unit = 64 * np.finfo(dtype).eps
    with target.using(isa):
        got = native.softmax_grad(g, p.astype(dtype), axes=(axis,))
        np.testing.assert_allclose(got, p * (upstream - (upstream * p).sum(axis, keepdims=True)), rtol=unit, atol=unit)
        got = native.log_softmax_grad(g, np.log(p).astype(dtype), axes=(axis,))
        want = upstream - p * upstream.sum(axis, keepdims=True)
        np.testing.assert_allclose(got, want, rtol=unit, atol=unit * np.abs(upstream).sum(axis).max())


def test_large_numbers_do_not_overflow() -> None:
    x = np.array([[1e4, 1e4, -1e4]], np.float32)
    np.testing.assert_allclose(native.softmax(x, axes=(1,)), [[0.5, 0.5, 0]])
    np.testing.assert_allclose(
        native.log_softmax(x, axes=(1,)), [[-np.log(2), -np.log(2), -2e4 - np.log(2)]], rtol=1e-6
    )


def test_infinities_and_nan() -> None:
    x = np.array([[-np.inf, 0, 0], [np.nan, 1, 2], [-np.inf] * 3])
    y = native.softmax(x, axes=(1,))
    np.testing.assert_array_equal(y[0], [0, 0.5, 0.5])
    assert np.isnan(y[1:]).all()
    np.testing.assert_allclose(native.log_softmax(x, axes=(1,))[0], [-np.inf, -np.log(2), -np.log(2)])


def test_any_strides_and_several_axes() -> None:
    x = normal((4, 5, 6), np.float64)
    for view in (x.transpose(2, 0, 1), x[::2, :, ::-1], x[:, 1:4, 2:5]):
        np.testing.assert_allclose(native.softmax(view, axes=(1,)), special.softmax(view, 1), rtol=1e-13)
        np.testing.assert_allclose(native.softmax(view, axes=(0, 2)), special.softmax(view, (0, 2)), rtol=1e-13)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_same_bits_on_any_number_of_threads(axis: int) -> None:
    x, results = normal((300, 301), np.float32), []
    for count in (1, 2, 3):
        threads.set_num_threads(count)
        results.append(native.softmax(x, axes=(axis,)).tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("isa", ISAS)
def test_stays_between_guard_pages(isa: str) -> None:
    def check(case: tuple[int, int, Any]) -> None:
        rows, n, where = case
        x = normal((rows, n), np.float32)
        with guarded(x, where=where, readonly=True) as g, guarded_results(where):
            for axis in (0, 1):
                np.testing.assert_allclose(native.softmax(g, axes=(axis,)), special.softmax(x, axis), rtol=1e-5)

    with target.using(isa):
        native.softmax(normal((3, 3), np.float32), axes=(1,))
        sizes = (1, 7, 8, 9, 15, 16, 17, 31, 33, 65)
        run_guarded_cases(check, [(3, n, where) for n in sizes for where in ("end", "start")])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), [c for c in CASES if 0 not in c[0]])
def test_cross_entropy_and_its_gradient(shape: tuple[int, ...], axis: int, dtype: Any, isa: str) -> None:
    x, n = normal(shape, dtype), shape[axis]
    rest = tuple(1 if k == axis else s for k, s in enumerate(shape))
    target = np.random.default_rng(0).integers(-1, n, rest)
    column = np.arange(n).reshape(n, *(1,) * (x.ndim - 1 - axis))
    scale = np.random.default_rng(1).uniform(0.5, 1.0, rest).astype(dtype)
    given = (x, column.astype(dtype), target.astype(dtype))
    with using(isa):
        loss = native.cross_entropy(*given, axes=(axis,))
        gradient = native.cross_entropy_grad(*given, scale, axes=(axis,))
    log_p = special.log_softmax(x.astype(np.float64), axis)
    here = column == target
    # Two differences of numbers below 16, the logarithm, and exp within 2 units of what that leaves.
    unit = np.finfo(dtype).eps
    np.testing.assert_allclose(loss, -np.where(here, log_p, 0).sum(axis, keepdims=True), atol=32 * unit)
    np.testing.assert_allclose(gradient, scale * (np.exp(log_p) - here), atol=32 * unit)


@pytest.mark.parametrize("isa", ISAS)
def test_cross_entropy_stays_between_guard_pages(isa: str) -> None:
    def check(case: tuple[int, Any]) -> None:
        n, where = case
        x, column, target = normal((3, n), np.float32), np.arange(n, dtype="f"), np.zeros((3, 1), np.float32)
        kwargs: dict[str, Any] = {"where": where, "readonly": True}
        arrays = guarded(x, **kwargs), guarded(column, **kwargs), guarded(target, **kwargs)
        with arrays[0] as g, arrays[1] as c, arrays[2] as t, guarded_results(where):
            assert not np.isnan(native.cross_entropy(g, c, t, axes=(1,))).any()
            assert not np.isnan(native.cross_entropy_grad(g, c, t, t + 1, axes=(1,))).any()

    with target.using(isa):
        run_guarded_cases(check, [(n, where) for n in (1, 7, 8, 10, 16, 17, 33) for where in ("end", "start")])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), CASES[:-2])
def test_logarithms_of_sums(shape: tuple[int, ...], axis: int, dtype: Any, isa: str) -> None:
    for worst in (0.0, np.inf, -np.inf, np.nan):
        x = normal(shape, dtype)
        if worst:
            x.reshape(-1)[::5] = worst
        if worst == -np.inf:
            x[(slice(None),) * axis] = worst
        with target.using(isa):
            got = native.logsumexp(x, axes=(axis,))
        with np.errstate(all="ignore"):
            want = special.logsumexp(x.astype(np.float64), axis, keepdims=True)
        assert got.shape == want.shape and got.dtype == dtype
        np.testing.assert_allclose(got, want, rtol=8 * np.finfo(dtype).eps, atol=8 * np.finfo(dtype).eps)


def test_logarithms_of_sums_over_several_axes_and_in_half_precision() -> None:
    x = lucid.randn(3, 40, 5, 31)
    for dims in ((1, 2), (0, 3), (0, 1, 2, 3), 2):
        want = special.logsumexp(x.numpy().astype("d"), dims)
        # Of a sum near one the logarithm is near zero: what the sum is wrong by is then an absolute error.
        np.testing.assert_allclose(x.logsumexp(dims).numpy(), want, rtol=1e-6, atol=1e-6)
        found = x.half().logsumexp(dims, keepdim=True)
        assert found.dtype == lucid.float16
        np.testing.assert_allclose(found.numpy().reshape(want.shape), want, rtol=2e-3, atol=2e-3)
