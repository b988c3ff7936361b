"""Accuracy over the whole range, against extended precision, on every machine that runs here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import special

from lucid.kernels import functions, target
from lucid.kernels.elementwise import Elementwise

Array = np.ndarray[Any, Any]
ISAS = [isa.name for isa in target.cpu().isas]
WIDE = {np.float32: np.float64, np.float64: np.longdouble}
KERNELS = {name: Elementwise(name, f) for name, f in functions.UNARY.items()}
exp_of_negative = Elementwise("exp_of_negative", functions.exp_of_negative)


def _erf_extended(x: Array) -> Array:
    """erf in extended precision: its series up to 2, 1 minus the continued fraction of erfc beyond."""
    if x.dtype == np.float64:
        return np.asarray(special.erf(x))
    a = np.abs(x)
    small, total = np.minimum(a, 2), np.zeros_like(a)
    term = small.copy()
    for k in range(60):
        total = total + term / (2 * k + 1)
        term = -term * small * small / (k + 1)
    root_pi = np.sqrt(np.arctan(np.longdouble(1)) * 4)
    large, fraction = np.maximum(a, 2), np.zeros_like(a)
    for k in range(120, 0, -1):
        fraction = np.longdouble(k) / 2 / (large + fraction)
    tail = np.exp(-large * large) / (large + fraction) / root_pi
    return np.copysign(np.where(a < 2, 2 / root_pi * total, 1 - tail), x)


ORACLES = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(x, 0),
    "erf": _erf_extended,
}


def samples(dtype: Any) -> Array:
    """Bit patterns at an odd stride through the whole format, and every size of number near the interesting places."""
    whole = np.uint32 if dtype is np.float32 else np.uint64
    bits = (np.arange(300_000, dtype=np.uint64) * (2**64 // 300_000 | 1) >> (64 - 8 * dtype().itemsize)).astype(whole)
    rng = np.random.default_rng(0)
    near = np.concatenate([rng.uniform(-r, r, 50_000) for r in (1e-3, 1, 7, 100, 800)]).astype(dtype)
    logarithmic = np.exp(rng.uniform(-30, 30, 50_000)).astype(dtype)
    return np.concatenate([bits.view(dtype), near, logarithmic, -logarithmic])


def ulps(got: Array, want: Array) -> Array:
    """Distance in units in the last place of the rounded true value; 0 where both are the same infinity or NaN.

    Results near the smallest normal number count as 0: kernels flush them, or a term of them.
    """
    dtype, tiny = got.dtype, np.finfo(got.dtype).tiny
    with np.errstate(over="ignore", under="ignore"):
        rounded = want.astype(dtype)
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    flushed = (np.abs(rounded) < 16 * tiny) & (np.abs(got) < 16 * tiny)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(got.astype(want.dtype) - want) / np.spacing(np.abs(rounded)).astype(want.dtype)
    return np.where(same | flushed, 0, np.where(np.isfinite(distance), distance, np.inf)).astype(np.float64)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", KERNELS)
def test_accuracy_over_the_whole_range(name: str, dtype: Any, isa: str) -> None:
    x = samples(dtype)
    x = x[~(np.abs(x) < np.finfo(dtype).tiny)]
    with np.errstate(all="ignore"):
        want = ORACLES[name](x.astype(WIDE[dtype]))
    with target.using(isa):
        got = KERNELS[name](x)
    distance = ulps(got, want)
    worst = distance.argmax()
    assert distance[worst] <= 2, (
        f"{name}({x[worst]!r}) = {got[worst]!r}, not {want[worst]!r}: {distance[worst]:.2f} ulp"
    )


LIMITS = {  # at -inf, -0, 0, inf
    "exp": (0, 1, 1, np.inf),
    "expm1": (-1, -0.0, 0, np.inf),
    "log": (np.nan, -np.inf, -np.inf, np.inf),
    "log1p": (np.nan, -0.0, 0, np.inf),
    "tanh": (-1, -0.0, 0, 1),
    "sigmoid": (0, 0.5, 0.5, 1),
    "softplus": (0, np.log(2), np.log(2), np.inf),
    "erf": (-1, -0.0, 0, 1),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", KERNELS)
def test_limits(name: str, dtype: Any, isa: str) -> None:
    x = np.array([-np.inf, -0.0, 0.0, np.inf, np.nan], dtype)
    with target.using(isa):
        got = KERNELS[name](x)
    np.testing.assert_array_equal(got, np.array([*LIMITS[name], np.nan], dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_denormals_are_flushed(dtype: Any) -> None:
    tiny = np.finfo(dtype).tiny
    low = np.array([np.log(float(tiny)) - 1], dtype)
    assert KERNELS["exp"](low)[0] == 0
    assert KERNELS["log"](np.array([tiny / 4], dtype))[0] == -np.inf


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normal_distribution_keeps_its_small_values(dtype: Any, isa: str) -> None:
    kernel = Elementwise("normal_cdf", functions.normal_cdf)
    x = np.linspace(-5.5, 9, 20_001).astype(dtype)
    # The exponent of 2 reaches 25 (float64: 57), where half a unit is 8 (16) eps, of the polynomial and of the product.
    with target.using(isa):
        np.testing.assert_allclose(kernel(x), special.ndtr(x.astype(np.float64)), rtol=48 * np.finfo(dtype).eps)
        limits = kernel(np.array([-np.inf, -40, 0, 40, np.inf, np.nan], dtype))
    np.testing.assert_array_equal(limits, np.array([0, 0, 0.5, 1, 1, np.nan], dtype))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_shorter_exp_of_what_is_not_above_zero(dtype: Any, isa: str) -> None:
    x = samples(dtype)
    x = np.append(x[~(x > 0)], np.array([0, -0.0, -np.inf, np.nan, np.log(np.finfo(dtype).tiny)], dtype))
    with np.errstate(all="ignore"):
        want = np.exp(x.astype(WIDE[dtype]))
    with target.using(isa):
        got = exp_of_negative(x)
    close = np.abs(got - want) < np.finfo(dtype).tiny  # a product may be flushed where no instruction adds to it
    distance = np.where(close, 0, ulps(got, want))
    assert distance.max() <= 1, f"exp({x[distance.argmax()]!r}): {distance.max():.2f} ulp"
    assert not got[x < -800].any() and (got[x == 0] == 1).all()
