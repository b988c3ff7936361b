"""Group and instance norm a group at a time: sums and result of a group while it is in cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lucid
from lucid.core.dtypes import as_dtype
from lucid.kernels import groups, normalization, target
from tests.kernels.convolution_fuzz import using_threads
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases

Array = np.ndarray[Any, Any]
ISAS = [isa.name for isa in target.cpu().isas]
EPS = 1e-5
#: Shapes of x as (samples, groups, channels of a group, size): one row a group, rows of part of a vector and of more.
SHAPES = [
    (2, 4, 2, 4, 4), (3, 1, 5, 9), (1, 3, 1, 8), (2, 2, 3, 17), (4, 5, 4, 7, 9), (9, 3, 2, 65), (3, 33, 1, 31),
]  # fmt: skip
ULP = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def arrays(shape: tuple[int, ...], dtype: str = "float32") -> tuple[Array, ...]:
    """x, the gradient that arrives, weight and bias."""
    rng = np.random.default_rng(sum(shape))
    made = rng.standard_normal(shape) * 2 + 3, rng.standard_normal(shape), *rng.standard_normal((2, *shape[1:3]))
    return tuple(a.astype(np.float32).astype(as_dtype(dtype).numpy) for a in made)


def geometry(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of the statistics, and the weights' shape."""
    return tuple(range(2, len(shape))), (1, *shape[1:3], *(1,) * (len(shape) - 3))


def both(x: Array, g: Array, w: Array | None, b: Array | None) -> tuple[Array, ...]:
    """y, mean and variance, then the gradients of x, weight and bias."""
    axes, affine = geometry(x.shape)
    assert normalization.in_one_region(axes, affine, g, x)
    forward = normalization.standardize(x, w, b, axes, affine, EPS)
    return *forward, *normalization.standardize_grad(g, x, w, *forward[1:], axes, affine, EPS)


def in_float64(x: Array, g: Array, w: Array, b: Array) -> tuple[Array, ...]:
    """The same by the definition."""
    axes, affine = geometry(x.shape)
    x, g, w, b = (a.astype(np.float32).astype(np.float64) for a in (x, g, w, b))
    w, b = w.reshape(affine), b.reshape(affine)
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    rstd = 1 / np.sqrt(var + EPS)
    unit, arrived = (x - mean) * rstd, g * w
    folded = tuple(k for k, n in enumerate(affine) if n == 1)
    gx = rstd * (arrived - arrived.mean(axes, keepdims=True) - unit * (arrived * unit).mean(axes, keepdims=True))
    sums = (g * unit).sum(folded).reshape(affine), g.sum(folded).reshape(affine)
    return unit * w + b, mean, var, gx, *sums


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ULP)
@pytest.mark.parametrize("shape", SHAPES)
def test_by_the_definition(shape: tuple[int, ...], dtype: str, isa: str) -> None:
    x, g, w, b = arrays(shape, dtype)
    with target.using(isa):
        found = both(x, g, w, b)
    for k, (got, wanted) in enumerate(zip(found, in_float64(x, g, w, b), strict=True)):
        assert got.dtype == (np.float32 if k in (1, 2) else x.dtype) and got.shape == wanted.shape
        ulp = 16 * ULP["float32"] + (0 if k in (1, 2) else ULP[dtype])
        np.testing.assert_allclose(got.astype(np.float32), wanted, rtol=ulp, atol=ulp * np.abs(wanted).max())


@pytest.mark.parametrize("shape", SHAPES)
def test_without_parameters_as_with_neutral_ones(shape: tuple[int, ...]) -> None:
    x, g, w, _ = arrays(shape)
    for a, b in zip(both(x, g, None, None), both(x, g, np.ones_like(w), np.zeros_like(w)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_same_bits_on_any_number_of_threads() -> None:
    given = arrays((5, 7, 3, 31, 33))
    found = []
    for count in (1, 2, 3):
        with using_threads(count):
            found.append(both(*given))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_mean_far_from_zero_keeps_the_variance_and_nan_stays_in_its_group() -> None:
    x, g, w, b = arrays((2, 4, 3, 50))
    np.testing.assert_allclose(both(x + 3000, g, w, b)[2], in_float64(x + np.float32(3000), g, w, b)[2], rtol=1e-6)
    clean = both(x, g, w, b)
    x[1, 3, 2, 7] = np.nan
    found = both(x, g, w, b)
    for k in (0, 3):
        assert np.isnan(found[k][1, 3]).all()
        np.testing.assert_array_equal(found[k][:, :3], clean[k][:, :3])
        np.testing.assert_array_equal(found[k][0], clean[k][0])


def test_constants_have_no_variance_by_rounding() -> None:
    _, g, w, b = arrays((200, 4, 3, 50))
    x = np.random.default_rng(0).standard_normal((200, 4, 1, 1), np.float32) + np.zeros_like(g)
    assert (both(x, g, w, b)[2] >= 0).all()


def test_what_does_not_fit_is_left_to_passes() -> None:
    x = np.zeros((4, 3, 2, 8, 8), np.float32)
    axes, affine = geometry(x.shape)
    assert groups.fit(axes, affine, x) == (12, 3, 2, 64, False)
    assert groups.fit(axes, (1, 3, 1, 1, 1), x) == (12, 3, 1, 128, False)
    assert groups.fit((4,), (1, 3, 2, 1, 1), x) is None  # many statistics with one weight
    assert groups.fit((0, 2, 3, 4), (1, 3, 1, 1, 1), x) is None  # batch norm
    assert groups.fit(axes, (2, 8, 8), x) == (12, 1, 1, 128, True)  # layer norm: a weight for each place
    assert groups.fit(axes, (2, 8, 8), x, x) is None  # and a gradient for each
    assert groups.fit(axes, (8,), x) is None  # one that many rows share
    assert groups.fit((0, 1), (8,), np.zeros((5, 8), np.float32)) is None
    assert groups.fit(axes, affine, x.astype(np.float64)) is None
    assert groups.fit(axes, affine, x[..., ::2]) is None
    assert groups.fit(axes, affine, x[:0]) is None
    assert groups.fit(axes, affine, np.zeros((2, 1, 2, 100, 100), np.float32)) is None  # two large tasks
    assert groups.fit(axes, affine, np.empty((8, 3, 2, target.cpu().l2_bytes), np.float32)) is None


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ULP)
@pytest.mark.parametrize("shape", [(3, 8), (2, 5, 17), (9, 3, 31), (40, 129)])
def test_layer_norm_by_the_definition(shape: tuple[int, ...], dtype: str, isa: str) -> None:
    """Between guard pages, on three threads; two axes where there are three."""
    axes, affine = tuple(range(1, len(shape))), shape[1:]
    rng = np.random.default_rng(5)
    x, w, b = (rng.standard_normal(s).astype("f").astype(as_dtype(dtype).numpy) for s in (shape, affine, affine))
    assert normalization.in_one_region(axes, affine, x)
    wide, scale, shift = (a.astype(np.float32).astype(np.float64) for a in (x, w, b))
    mean, var = wide.mean(axes, keepdims=True), wide.var(axes, keepdims=True)
    with (
        target.using(isa),
        using_threads(3),
        guarded(x, readonly=True) as gx,
        guarded(w, readonly=True) as gw,
        guarded(b, readonly=True) as gb,
        guarded_results(),
    ):
        y, *found = normalization.standardize(gx, gw, gb, axes, affine, EPS)
        wanted = (wide - mean) / np.sqrt(var + EPS) * scale + shift
        np.testing.assert_allclose(y.astype("f"), wanted, rtol=ULP[dtype], atol=8e-6 + ULP[dtype])
        np.testing.assert_allclose(found[0], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[1], var, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parameters", ["", "weight", "weight bias", "bias"])
@pytest.mark.parametrize("shape", [(2, 6, 3, 4), (9, 6, 11), (8, 1, 8)])
def test_functions_have_the_slopes_of_float64(shape: tuple[int, ...], parameters: str) -> None:
    """Through the graph: which gradients there are depends on what was given."""
    rng = np.random.default_rng(3)
    given, upstream = rng.standard_normal(shape), rng.standard_normal(shape)
    pair = {name: rng.standard_normal(shape[1]) for name in parameters.split()}
    found = []
    for dtype in (lucid.float32, lucid.float64):
        for norm in (lambda *a, **k: lucid.nn.functional.group_norm(a[0], (a[0].shape[1] + 1) // 2, **k),
                     lucid.nn.functional.instance_norm):  # fmt: skip
            x = lucid.tensor(given, dtype=dtype, requires_grad=True)
            named = {name: lucid.tensor(v, dtype=dtype, requires_grad=True) for name, v in pair.items()}
            y = norm(x, **named)
            y.backward(lucid.tensor(upstream, dtype=dtype))
            found.append([y.detach().numpy(), *(t.grad.numpy() for t in (x, *named.values()))])
    for k in range(2):
        for got, wanted in zip(found[k], found[k + 2], strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_stays_between_guard_pages(isa: str) -> None:
    def check(case: tuple[int, Any]) -> None:
        n, where = case
        x, g, w, b = arrays((2, 2, 3, n))
        with (
            guarded(x, where=where, readonly=True) as gx,
            guarded(g, where=where, readonly=True) as gg,
            guarded(w, where=where, readonly=True) as gw,
            guarded(b, where=where, readonly=True) as gb,
            guarded_results(where),
        ):
            for got, wanted in zip(both(gx, gg, gw, gb), both(x, g, w, b), strict=True):
                np.testing.assert_array_equal(got, wanted)

    with target.using(isa):
        both(*arrays((2, 2, 3, 33)))
        run_guarded_cases(check, [(n, where) for n in (8, 15, 16, 17, 31, 33, 65, 129) for where in ("end", "start")])
