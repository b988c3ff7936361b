"""Batch norm a channel at a time: sums and result of a channel while it is in cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lucid.kernels import channels, normalization, target
from tests.kernels.convolution_fuzz import using_threads
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases

Array = np.ndarray[Any, Any]
ISAS = [isa.name for isa in target.cpu().isas]
EPS = 1e-5
UNIT = np.finfo(np.float32).eps
SHAPES = [(1, 16, 32), (3, 17, 33), (2, 16, 7, 9), (5, 20, 64), (2, 18, 65), (4, 16, 3, 4, 11), (2, 19, 257)]
LIMITS = [None, (0.0, np.inf), (0.0, 1.5)]


def arrays(shape: tuple[int, ...]) -> tuple[Array, ...]:
    """x, the gradient that arrives, weight and bias."""
    rng = np.random.default_rng(sum(shape))
    made = rng.standard_normal(shape) * 2 + 3, rng.standard_normal(shape), *rng.standard_normal((2, shape[1]))
    return tuple(a.astype(np.float32) for a in made)


def both(x: Array, g: Array, w: Array, b: Array, limits: tuple[float, float] | None) -> tuple[Array, ...]:
    """y, mean and variance, then the gradients of x, weight and bias."""
    axes, affine = (0, *range(2, x.ndim)), (1, x.shape[1], *(1,) * (x.ndim - 2))
    if limits is None:
        forward = normalization.standardize(x, w, b, axes, affine, EPS)
        return *forward, *normalization.standardize_grad(g, x, w, *forward[1:], axes, affine, EPS)
    forward = normalization.standardize_clamped(x, w, b, axes, affine, EPS, *limits)
    return *forward, *normalization.standardize_clamped_grad(g, x, w, b, *forward[1:], axes, affine, EPS, *limits)


def in_float64(x: Array, g: Array, w: Array, b: Array, limits: tuple[float, float] | None) -> tuple[Array, ...]:
    """The same by the definition."""
    axes = (0, *range(2, x.ndim))
    x, g = x.astype(np.float64), g.astype(np.float64)
    w, b = (a.astype(np.float64).reshape(1, -1, *(1,) * (x.ndim - 2)) for a in (w, b))
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    rstd = 1 / np.sqrt(var + EPS)
    unit = (x - mean) * rstd
    y = unit * w + b
    if limits is not None:
        g = np.where((y <= limits[0]) | (y >= limits[1]), 0, g)
        y = np.clip(y, *limits)
    gb, gw = g.sum(axes, keepdims=True), (g * unit).sum(axes, keepdims=True)
    count = x.size / x.shape[1]
    return y, mean, var, w * rstd * (g - gb / count - unit * gw / count), gw, gb


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_by_the_definition(shape: tuple[int, ...], limits: Any, isa: str) -> None:
    x, g, w, b = arrays(shape)
    assert channels.fit((0, *range(2, x.ndim)), g, x)
    with target.using(isa):
        found = both(x, g, w, b, limits)
    for got, wanted in zip(found, in_float64(x, g, w, b, limits), strict=True):
        assert got.dtype == np.float32 and got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=16 * UNIT, atol=16 * UNIT * np.abs(wanted).max())


@pytest.mark.parametrize("shape", SHAPES)
def test_cut_off_as_after_it(shape: tuple[int, ...]) -> None:
    x, g, w, b = arrays(shape)
    np.testing.assert_array_equal(both(x, g, w, b, (0.0, 1.5))[0], np.clip(both(x, g, w, b, None)[0], 0, 1.5))


@pytest.mark.parametrize("limits", LIMITS)
def test_the_same_past_the_caches(limits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arrays((4, 16, 1024))  # large enough to begin a line of the cache
    plain = both(*given, limits)
    monkeypatch.setattr(channels, "_goes_past", lambda mapped, n: True)
    for a, b in zip(both(*given, limits), plain, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("limits", LIMITS)
def test_the_same_bits_on_any_number_of_threads(limits: Any) -> None:
    given = arrays((4, 37, 31, 33))
    found = []
    for count in (1, 2, 3):
        with using_threads(count):
            found.append(both(*given, limits))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_mean_far_from_zero_keeps_the_variance() -> None:
    x, g, w, b = arrays((8, 16, 50))
    x += 3000
    np.testing.assert_allclose(both(x, g, w, b, None)[2], in_float64(x, g, w, b, None)[2], rtol=1e-6)


def test_nan_stays_in_its_channel() -> None:
    x, g, w, b = arrays((2, 16, 40))
    clean = both(x, g, w, b, (0.0, 1.5))
    x[1, 3, 7] = np.nan
    found = both(x, g, w, b, (0.0, 1.5))
    others = [c for c in range(16) if c != 3]
    assert np.isnan(found[0][:, 3]).all()
    np.testing.assert_array_equal(found[0][:, others], clean[0][:, others])
    np.testing.assert_array_equal(found[3][:, others], clean[3][:, others])


def test_what_does_not_fit_is_left_to_passes() -> None:
    x = np.zeros((2, 16, 40), np.float32)
    assert channels.fit((0, 2), x)
    assert not channels.fit((2,), x)  # statistics of instances
    assert not channels.fit((0, 2), x.astype(np.float64))
    assert not channels.fit((0, 2), x[:, ::2])
    assert not channels.fit((0, 2), x[..., :20].copy())  # short rows
    assert not channels.fit((0, 2), np.broadcast_to(x[:1], (2, 16, 40)), x)
    assert not channels.fit((0, 2), np.empty((2, 16, target.cpu().l2_bytes), np.float32))


@pytest.mark.parametrize("isa", ISAS)
def test_stays_between_guard_pages(isa: str) -> None:
    def check(case: tuple[int, Any]) -> None:
        n, where = case
        x, g, w, b = arrays((2, 16, n))
        with (
            guarded(x, where=where, readonly=True) as gx,
            guarded(g, where=where, readonly=True) as gg,
            guarded(w, where=where, readonly=True) as gw,
            guarded(b, where=where, readonly=True) as gb,
            guarded_results(where),
        ):
            for limits in LIMITS:
                found = both(gx, gg, gw, gb, limits)
                for got, wanted in zip(found, both(x, g, w, b, limits), strict=True):
                    np.testing.assert_array_equal(got, wanted)

    with target.using(isa):
        both(*arrays((2, 16, 33)), None)
        both(*arrays((2, 16, 33)), (0.0, 1.5))
        run_guarded_cases(check, [(n, where) for n in (32, 33, 47, 48, 63, 64, 65, 129) for where in ("end", "start")])
