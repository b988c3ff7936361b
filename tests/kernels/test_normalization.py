from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lucid.kernels import normalization, target
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases

Array = np.ndarray[Any, Any]
ISAS = [isa.name for isa in target.cpu().isas]
EPS = 1e-5

CASES = [  # shape, axes of the statistics, affine shape: batch norm of every rank, layer, instance and group norm
    ((6, 5), (0,), (1, 5)),
    ((4, 3, 17), (0, 2), (1, 3, 1)),
    ((4, 3, 7, 9), (0, 2, 3), (1, 3, 1, 1)),
    ((2, 3, 3, 4, 5), (0, 2, 3, 4), (1, 3, 1, 1, 1)),
    ((6, 33), (1,), (33,)),
    ((2, 5, 4, 8), (2, 3), (4, 8)),
    ((3, 4, 6, 6), (2, 3), (1, 4, 1, 1)),
    ((3, 2, 4, 6, 6), (2, 3, 4), (1, 2, 4, 1, 1)),
    ((3, 2, 4, 12, 12), (2, 3, 4), (1, 2, 4, 1, 1)),
    ((2, 1, 5, 300), (2, 3), (1, 1, 5, 1)),
    ((2, 5, 300), (2,), (1, 5, 1)),
]


def arrays(shape: tuple[int, ...], affine: tuple[int, ...]) -> tuple[Array, Array, Array, Array]:
    rng = np.random.default_rng(sum(shape))
    return (
        rng.standard_normal(shape) * 2 + 3,
        rng.standard_normal(affine),
        rng.standard_normal(affine),
        rng.standard_normal(shape),
    )


def reference(x: Array, w: Array, b: Array, axes: tuple[int, ...]) -> Array:
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return np.asarray((x - mean) / np.sqrt(var + EPS) * w + b)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axes", "affine"), CASES)
def test_forward(shape: Any, axes: Any, affine: Any, dtype: Any, isa: str) -> None:
    x, w, b, _ = (a.astype(dtype) for a in arrays(shape, affine))
    with target.using(isa):
        y, mean, var = normalization.standardize(x, w, b, axes, affine, EPS)
    wide = x.astype(np.float64)
    unit = np.finfo(dtype).eps
    np.testing.assert_allclose(mean, wide.mean(axes, keepdims=True), rtol=8 * unit, atol=8 * unit)
    np.testing.assert_allclose(var, wide.var(axes, keepdims=True), rtol=8 * unit)
    np.testing.assert_allclose(y, reference(wide, w, b, axes), rtol=16 * unit, atol=16 * unit)
    assert y.dtype == mean.dtype == var.dtype == dtype


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axes", "affine"), CASES)
def test_gradients_are_the_slopes(shape: Any, axes: Any, affine: Any, dtype: Any, isa: str) -> None:
    x, w, b, g = (a.astype(dtype) for a in arrays(shape, affine))
    with target.using(isa):
        _, mean, var = normalization.standardize(x, w, b, axes, affine, EPS)
        gx, gw, gb = normalization.standardize_grad(g, x, w, mean, var, axes, affine, EPS)
    wide = [a.astype(np.float64) for a in (x, w, b)]
    rng = np.random.default_rng(0)
    for k, got in enumerate((gx, gw, gb)):
        assert got.shape == wide[k].shape and got.dtype == dtype
        way, step = rng.standard_normal(got.shape), 1e-5
        ends = [[a + s * way if i == k else a for i, a in enumerate(wide)] for s in (-step, step)]
        slope = (g * (reference(*ends[1], axes) - reference(*ends[0], axes))).sum() / (2 * step)
        tolerance = 1e-4 if dtype is np.float32 else 1e-7
        np.testing.assert_allclose((got * way).sum(), slope, rtol=tolerance, atol=tolerance * np.abs(g).sum() * 0.1)


def test_without_parameters() -> None:
    x, _, _, g = arrays((4, 3, 5), (1, 3, 1))
    one, zero = np.ones((1, 3, 1)), np.zeros((1, 3, 1))
    plain = normalization.standardize(x, None, None, (0, 2), (1, 3, 1), EPS)
    full = normalization.standardize(x, one, zero, (0, 2), (1, 3, 1), EPS)
    np.testing.assert_array_equal(plain[0], full[0])
    grads = normalization.standardize_grad(g, x, None, *plain[1:], (0, 2), (1, 3, 1), EPS)
    np.testing.assert_array_equal(
        grads[0], normalization.standardize_grad(g, x, one, *full[1:], (0, 2), (1, 3, 1), EPS)[0]
    )


def test_a_mean_far_from_zero_keeps_the_variance() -> None:
    """The one-pass formula in float32 would lose all of it."""
    x = (np.random.default_rng(0).standard_normal((8, 2, 50)) + 3000).astype(np.float32)
    _, var, _ = normalization.statistics(x, (0, 2), EPS)
    np.testing.assert_allclose(var, x.astype(np.float64).var((0, 2), keepdims=True), rtol=1e-6)


def test_constant_input_has_no_variance() -> None:
    x = np.full((3, 2, 7), 0.1, np.float32)
    y, _, var = normalization.standardize(x, None, None, (0, 2), (1, 2, 1), EPS)
    assert (var >= 0).all() and np.abs(y).max() < 1e-3


@pytest.mark.parametrize("isa", ISAS)
def test_stays_between_guard_pages(isa: str) -> None:
    def check(case: tuple[int, Any]) -> None:
        n, where = case
        for axes, affine in (((0, 2), (1, 3, 1)), ((2,), (n,))):
            x, w, _, g = (a.astype(np.float32) for a in arrays((2, 3, n), affine))
            with (
                guarded(x, where=where, readonly=True) as gx,
                guarded(g, where=where, readonly=True) as gg,
                guarded(w, where=where, readonly=True) as gw,
                guarded_results(where),
            ):
                y, mean, var = normalization.standardize(gx, gw, gw, axes, affine, EPS)
                grads = normalization.standardize_grad(gg, gx, gw, mean, var, axes, affine, EPS)
                np.testing.assert_array_equal(y, normalization.standardize(x, w, w, axes, affine, EPS)[0])
                assert not any(np.isnan(a).any() for a in grads)
                if axes == (0, 2):
                    normalization.standardize_clamped(gx, gw, gw, axes, affine, EPS, 0.0, 0.5)
                    cut = gx, gw, gw, mean, var, axes, affine, EPS, 0.0, 0.5
                    assert not any(np.isnan(a).any() for a in normalization.standardize_clamped_grad(gg, *cut))
                    leaked = gx, gw.reshape(1, 3, 1)
                    _, mean, var = normalization.standardize_leaked(*leaked, gw, gw, axes, affine, EPS)
                    found = normalization.standardize_leaked_grad(gg, *leaked, gw, mean, var, axes, affine, EPS)
                    assert not any(np.isnan(a).any() for a in found)

    with target.using(isa):
        normalization.standardize(np.ones((2, 3, 4), "f"), None, None, (0, 2), (1, 3, 1), EPS)
        sizes = (1, 7, 8, 9, 15, 16, 17, 31, 33, 65)
        run_guarded_cases(check, [(n, where) for n in sizes for where in ("end", "start")])


LEAKED = [  # shape, axes of the statistics, affine shape, slope's shape
    ((2, 1, 5, 300), (2, 3), (1, 1, 5, 1), (1, 1, 1, 1)),
    ((3, 2, 4, 12, 12), (2, 3, 4), (1, 2, 4, 1, 1), (1, 2, 4, 1, 1)),
    ((3, 4, 6, 6), (2, 3), (1, 4, 1, 1), (1, 1, 1, 1)),
    ((2, 3, 4), (2,), (1, 3, 4), (1, 3, 4)),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("shape", "axes", "affine", "slopes"), LEAKED)
def test_through_a_leak_as_after_it(shape: Any, axes: Any, affine: Any, slopes: Any, isa: str) -> None:
    """Forward as by ``standardize``, gradients as by float64."""
    x, w, b, g = (a.astype(np.float32) for a in arrays(shape, affine))
    x -= 3
    slope = np.linspace(0.1, 0.7, int(np.prod(slopes)), dtype=np.float32).reshape(slopes)
    h = np.where(x > 0, x, slope * x)
    with target.using(isa):
        found = normalization.standardize_leaked(x, slope, w, b, axes, affine, EPS)
        for got, want in zip(found, (normalization.standardize(h, w, b, axes, affine, EPS)), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
        grads = normalization.standardize_leaked_grad(g, x, slope, w, *found[1:], axes, affine, EPS)
    wide = [a.astype(np.float64) for a in (g, x, slope, w, b, h)]
    mean, var = (a(axes, keepdims=True) for a in (wide[5].mean, wide[5].var))
    to_h, *rest = normalization.standardize_grad(wide[0], wide[5], wide[3], mean, var, axes, affine, EPS)
    lone = tuple(k for k, n in enumerate(slopes) if n == 1)
    to_slope = np.where(x > 0, 0, to_h * wide[1]).sum(lone, keepdims=True)
    for got, want in zip(grads, (np.where(x > 0, to_h, slope * to_h), to_slope, *rest), strict=True):
        assert got.shape == want.shape and got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6 * np.abs(want).max())
