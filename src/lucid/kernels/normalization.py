"""Normalization as kernels: statistics in one region of native code, and everything else in one pass. Batch norm whose
channels fit in a core's cache takes one region for both (``channels``).

Statistics of float32 and half precision come from one pass, sums of x and of x^2 in float64: exact enough as long as
the mean is below some 10^6 standard deviations, beyond which float32 itself cannot hold the differences. Those of
float64 take two.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from lucid.core.geometry import Sizes
from lucid.kernels import channels, groups, target
from lucid.kernels.activations import clamp
from lucid.kernels.channels import Channels
from lucid.kernels.elementwise import Elementwise
from lucid.kernels.ir import Value, select, sqrt
from lucid.kernels.moving import contiguous
from lucid.kernels.reduction import Reduction
from lucid.kernels.rows import Rows, Stage

Array = np.ndarray[Any, Any]

#: Elements that share a weight and a statistic from which their sums are made once, for both.
_LEAST_SHARED = 128


def _positive(variance: Value) -> Value:
    """Not below zero by rounding; NaN stays."""
    return select(variance < 0.0, 0.0, variance)


def _standardized(x: Value, mean: Value, rstd: Value, w: Value, b: Value) -> Value:
    return (x - mean) * (rstd * w) + b


def _slope(g: Value, x: Value, mean: Value, rstd: Value, w: Value, along: Value, across: Value) -> Value:
    """Its gradient in x, with the means of g w against 1 and against the standardised value."""
    return (g * w - along - (x - mean) * rstd * across) * rstd


def _finish_moments(s: Value, q: Value, *, inverse: Value, eps: Value) -> tuple[Value, Value, Value]:
    mean = s * inverse
    variance = _positive(q * inverse - mean * mean)
    return mean, variance, 1.0 / sqrt(variance + eps)


def _finish_spread(q: Value, *, inverse: Value, eps: Value) -> tuple[Value, Value]:
    variance = q * inverse
    return variance, 1.0 / sqrt(variance + eps)


_moments = Reduction("moments", terms=lambda x: (x, 1.0, x, x), finish=_finish_moments, combine="products", more=True)
_mean = Reduction("mean", terms=lambda x: x, finish=lambda s, *, inverse: s * inverse)
_spread = Reduction("spread", terms=lambda x, mean: (x - mean) * (x - mean), finish=_finish_spread)
_grad_sums = Reduction(
    "standardize_grad_sums",
    terms=lambda g, x, mean, rstd: (g, 1.0, g, (x - mean) * rstd),
    combine="products",
    more=True,
)
_weighted_grad_sums = Reduction(
    "standardize_weighted_grad_sums",
    terms=lambda g, x, mean, rstd, w: (g, w, g * w, (x - mean) * rstd),
    combine="products",
    more=True,
)
_rows = Rows(
    "standardize_rows",
    stages=[
        Stage("sum", lambda x, w, b: x, lambda total, *, inverse: total * inverse),
        Stage("sum", lambda x, w, b, mean: (x - mean) * (x - mean), lambda total, *, inverse: total * inverse),
    ],
    once=lambda mean, variance, *, eps: 1.0 / sqrt(variance + eps),
    results=lambda x, w, b, mean, variance, rstd: _standardized(x, mean, rstd, w, b),
    keep=(0, 1),
)
_rows_grad = Rows(
    "standardize_rows_grad",
    stages=[
        Stage("sum", lambda g, x, w, mean, rstd: g * w, lambda total, *, inverse: total * inverse),
        Stage(
            "sum",
            lambda g, x, w, mean, rstd, along: g * w * ((x - mean) * rstd),
            lambda total, *, inverse: total * inverse,
        ),
    ],
    results=lambda g, x, w, mean, rstd, along, across: _slope(g, x, mean, rstd, w, along, across),
)
_apply = Elementwise("standardize", _standardized)
affine = Elementwise("affine", lambda x, scale, shift: x * scale + shift)
#: The sums that are its gradients in scale and shift.
affine_sums = Reduction("affine_sums", terms=lambda g, x: (g, x, g, 1.0), combine="products")
_grad = Elementwise(
    "standardize_grad",
    lambda g, x, mean, rstd, w, sum_g, sum_gx, *, inverse: (
        (g * w - sum_g * inverse - (x - mean) * rstd * (sum_gx * inverse)) * rstd
    ),
)


def _inside(g: Value, value: Value, low: Value, high: Value) -> Value:
    """The gradient of a clamped value: none where a limit is reached."""
    return select(value <= low, 0.0, select(value >= high, 0.0, g))


def _clamped_terms(
    g: Value, x: Value, mean: Value, rstd: Value, w: Value, b: Value, *, low: Value, high: Value
) -> tuple[Value | float, ...]:
    h = _inside(g, _standardized(x, mean, rstd, w, b), low, high)
    return h, 1.0, h, (x - mean) * rstd


def _clamped_slope(
    g: Value, x: Value, mean: Value, rstd: Value, w: Value, b: Value, sum_g: Value, sum_gx: Value, *,
    inverse: Value, low: Value, high: Value,
) -> Value:  # fmt: skip
    unit = (x - mean) * rstd
    h = _inside(g, _standardized(x, mean, rstd, w, b), low, high)
    return (h * w - sum_g * inverse - unit * (sum_gx * inverse)) * rstd


_clamped = Elementwise(
    "standardize_clamped",
    lambda x, mean, rstd, w, b, *, low, high: clamp(_standardized(x, mean, rstd, w, b), low, high),
)
_clamped_grad_sums = Reduction("standardize_clamped_grad_sums", terms=_clamped_terms, combine="products", more=True)
_clamped_grad = Elementwise("standardize_clamped_grad", _clamped_slope)


def _channel_grad_sums(
    to_bias: Value, to_weight: Value, mean: Value, var: Value, w: Value, b: Value, rstd: Value, *, inverse: Value
) -> tuple[Value, ...]:
    """The gradients of bias and weight, and the means of the gradient against 1 and the standardised value."""
    return to_bias, to_weight, to_bias * w * inverse, to_weight * w * inverse


def _channel_moments(s: Value, q: Value, w: Value, b: Value, *, inverse: Value, eps: Value) -> tuple[Value, ...]:
    return _finish_moments(s, q, inverse=inverse, eps=eps)


def _rstd(mean: Value, var: Value, w: Value, b: Value, *, eps: Value) -> Value:
    return 1.0 / sqrt(var + eps)


def _clamped_channel_terms(
    g: Value, x: Value, mean: Value, var: Value, w: Value, b: Value, rstd: Value, *, low: Value, high: Value
) -> tuple[Value | float, ...]:
    h = _inside(g, _standardized(x, mean, rstd, w, b), low, high)
    return h, 1.0, h, (x - mean) * rstd


def _clamped_channel_slope(
    g: Value, x: Value, mean: Value, var: Value, w: Value, b: Value, rstd: Value, to_bias: Value, to_weight: Value,
    along: Value, across: Value, *, low: Value, high: Value,
) -> Value:  # fmt: skip
    h = _inside(g, _standardized(x, mean, rstd, w, b), low, high)
    return _slope(h, x, mean, rstd, w, along, across)


_channels = Channels(
    "standardize_channels",
    terms=lambda x, w, b: (x, 1.0, x, x),
    finish=_channel_moments,
    results=lambda x, w, b, mean, variance, rstd: _standardized(x, mean, rstd, w, b),
    keep=2,
)
_clamped_channels = Channels(
    "standardize_clamped_channels",
    terms=lambda x, w, b: (x, 1.0, x, x),
    finish=_channel_moments,
    results=lambda x, w, b, mean, variance, rstd, *, low, high: clamp(_standardized(x, mean, rstd, w, b), low, high),
    keep=2,
)
_channels_grad = Channels(
    "standardize_channels_grad",
    before=_rstd,
    terms=lambda g, x, mean, var, w, b, rstd: (g, 1.0, g, (x - mean) * rstd),
    finish=_channel_grad_sums,
    results=lambda g, x, mean, var, w, b, rstd, to_bias, to_weight, along, across: _slope(
        g, x, mean, rstd, w, along, across
    ),
    keep=2,
)
_clamped_channels_grad = Channels(
    "standardize_clamped_channels_grad",
    before=_rstd,
    terms=_clamped_channel_terms,
    finish=_channel_grad_sums,
    results=_clamped_channel_slope,
    keep=2,
)


def _leaked(x: Value, slope: Value) -> Value:
    """What a PReLU before it makes of x."""
    return select(x > 0.0, x, slope * x)


def _leaked_moments(x: Value, slope: Value) -> tuple[Value | float, ...]:
    h = _leaked(x, slope)
    return h, 1.0, h, h


def _leaked_terms(g: Value, x: Value, slope: Value, mean: Value, rstd: Value) -> tuple[Value | float, ...]:
    """Those of ``standardize``, then of what is below zero: x with g, x alone, and x with the standardised value."""
    unit = (_leaked(x, slope) - mean) * rstd
    below = select(x > 0.0, 0.0, x)
    return g, 1.0, g, unit, g, below, below, 1.0, unit, below


def _leaked_slope(
    g: Value, x: Value, slope: Value, mean: Value, rstd: Value, w: Value, sum_g: Value, sum_gx: Value, *,
    inverse: Value,
) -> Value:  # fmt: skip
    h = _leaked(x, slope)
    to_h = (g * w - sum_g * inverse - (h - mean) * rstd * (sum_gx * inverse)) * rstd
    return select(x > 0.0, to_h, slope * to_h)


_leaked_statistics = Reduction(
    "leaked_moments", terms=_leaked_moments, finish=_finish_moments, combine="products", more=True
)
_leaked_apply = Elementwise(
    "standardize_leaked", lambda x, slope, mean, rstd, w, b: (_leaked(x, slope) - mean) * (rstd * w) + b
)
_leaked_sums = Reduction("standardize_leaked_grad_sums", terms=_leaked_terms, combine="products", more=True)
_leaked_grad = Elementwise("standardize_leaked_grad", _leaked_slope)


def statistics(x: Array, axes: Sizes, eps: float) -> tuple[Array, Array, Array]:
    """Mean, biased variance and 1 / sqrt(variance + eps) over ``axes``, which stay as axes of size 1."""
    shape, inverse = _kept(x.shape, axes), _inverse_count(x.shape, axes)
    if x.dtype != np.float64:
        mean, variance, rstd = _moments(x, axes=axes, inverse=inverse, eps=eps)
    else:
        mean = _mean(x, axes=axes, inverse=inverse)
        variance, rstd = _spread(x, mean.reshape(shape), axes=axes, inverse=inverse, eps=eps)
    return mean.reshape(shape), variance.reshape(shape), rstd.reshape(shape)


def in_one_region(axes: Sizes, affine_shape: Sizes, *arrays: Array) -> bool:
    """Whether these are standardised, or their gradients found, by one planned call, of few numbers too."""
    return groups.fit(axes, affine_shape, *arrays) is not None


def standardize(
    x: Array, weight: Array | None, bias: Array | None, axes: Sizes, affine_shape: Sizes, eps: float
) -> tuple[Array, Array, Array]:
    """(x - mean) / sqrt(var + eps) weight + bias, then mean and biased variance over ``axes``, kept as size 1.

    ``weight`` and ``bias`` are taken as of ``affine_shape``, which broadcasts to x's. Statistics of half precision are
    float32.
    Cost: x is read twice (float64 three times), or once where rows stay in cache; the result is written.
    """
    x = _in_rows(x)
    if found := groups.fit(axes, affine_shape, x):
        y, *parts = groups.standardize(x, weight, bias, found, eps)
        shape = _kept(x.shape, axes)
        return y, parts[0].reshape(shape), parts[1].reshape(shape)
    if _per_channel(affine_shape, axes) and channels.fit(axes, x):
        return _by_channels(_channels, x, weight, bias, axes, eps=eps)
    w, b = _affine(weight, 1, affine_shape, x), _affine(bias, 0, affine_shape, x)
    if _are_rows(x, axes) and _rows.plan((x, w, b), axes) is not None:
        y, mean, variance = _rows(x, w, b, axes=axes, inverse=_inverse_count(x.shape, axes), eps=eps)
        return y, mean, variance
    mean, variance, rstd = statistics(x, axes, eps)
    return _apply(x, mean, rstd, w, b), mean, variance


def _are_rows(x: Array, axes: Sizes) -> bool:
    """Whether statistics cover rows that lie in memory as such, and stay in cache between the passes."""
    inside = axes == tuple(range(x.ndim - len(axes), x.ndim))
    return inside and prod(x.shape[k] for k in axes) * x.itemsize <= target.cpu().l1_bytes // 8


def standardize_grad(
    g: Array, x: Array, weight: Array | None, mean: Array, var: Array, axes: Sizes, affine_shape: Sizes, eps: float
) -> tuple[Array, Array, Array]:
    """Gradients of ``standardize`` in x, weight and bias, the last two of ``affine_shape``: () where there are none.

    Source: Ioffe & Szegedy, arXiv:1502.03167, section 3, with the sums collected.
    Cost: g and x are read twice (three times where few elements share both a statistic and a weight, in more than a
    row), and the gradient is written.
    """
    g, x = _in_rows(g), _in_rows(x)
    if found := groups.fit(axes, affine_shape, g, x):
        slope, *parts = groups.standardize_grad(g, x, weight, mean, var, found, eps, bool(affine_shape))
        return slope, parts[0].reshape(affine_shape), parts[1].reshape(affine_shape)
    if _per_channel(affine_shape, axes) and channels.fit(axes, g, x):
        return _grad_by_channels(_channels_grad, g, x, weight, None, mean, var, axes, affine_shape, eps=eps)
    rstd = (1.0 / np.sqrt(var + eps)).astype(var.dtype, copy=False)
    w = _affine(weight, 1, affine_shape, x)
    padded = (1,) * (x.ndim - len(affine_shape)) + affine_shape
    folded = tuple(k for k, n in enumerate(padded) if n == 1)
    shared = tuple(k for k in axes if k in folded)
    once = folded == axes or prod(x.shape[k] for k in shared) >= _LEAST_SHARED
    over = shared if once else folded
    parts = [s.reshape(_kept(x.shape, over)) for s in _grad_sums(g, x, mean, rstd, axes=over)]
    g_bias, g_weight = (_folded(s, folded).reshape(affine_shape).astype(x.dtype, copy=False) for s in parts)
    if _are_rows(x, axes) and _rows_grad.plan((g, x, w, mean, rstd), axes) is not None:
        rows: Array = _rows_grad(g, x, w, mean, rstd, axes=axes, inverse=_inverse_count(x.shape, axes))
        return rows, g_weight, g_bias
    if once:
        sums = [_folded(s * w.astype(s.dtype, copy=False), axes) for s in parts]
    else:
        sums = [s.reshape(mean.shape) for s in _weighted_grad_sums(g, x, mean, rstd, w, axes=axes)]
    gx: Array = _grad(g, x, mean, rstd, w, *sums, inverse=_inverse_count(x.shape, axes))
    return gx, g_weight, g_bias


def standardize_clamped(
    x: Array, weight: Array | None, bias: Array | None, axes: Sizes, affine_shape: Sizes, eps: float,
    low: float, high: float,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """``standardize`` between two limits, as by an activation, in the same passes."""
    x = _in_rows(x)
    if channels.fit(axes, x):
        return _by_channels(_clamped_channels, x, weight, bias, axes, eps=eps, low=low, high=high)
    w, b = _affine(weight, 1, affine_shape, x), _affine(bias, 0, affine_shape, x)
    mean, variance, rstd = statistics(x, axes, eps)
    return _clamped(x, mean, rstd, w, b, low=low, high=high), mean, variance


def standardize_clamped_grad(
    g: Array, x: Array, weight: Array | None, bias: Array | None, mean: Array, var: Array, axes: Sizes,
    affine_shape: Sizes, eps: float, low: float, high: float,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Its gradients in x, weight and bias, which share the statistics' axes: those of batch norm.

    Cost: g and x are read twice and the gradient is written; where a limit was reached is worked out again from x.
    """
    g, x = _in_rows(g), _in_rows(x)
    if channels.fit(axes, g, x):
        how: dict[str, Any] = {"eps": eps, "low": low, "high": high}
        return _grad_by_channels(_clamped_channels_grad, g, x, weight, bias, mean, var, axes, affine_shape, **how)
    rstd = (1.0 / np.sqrt(var + eps)).astype(var.dtype, copy=False)
    w, b = _affine(weight, 1, affine_shape, x), _affine(bias, 0, affine_shape, x)
    parts = [s.reshape(mean.shape) for s in _clamped_grad_sums(g, x, mean, rstd, w, b, axes=axes, low=low, high=high)]
    sums = [s * w.astype(s.dtype, copy=False) for s in parts]
    inverse = _inverse_count(x.shape, axes)
    gx: Array = _clamped_grad(g, x, mean, rstd, w, b, *sums, inverse=inverse, low=low, high=high)
    g_bias, g_weight = (s.reshape(affine_shape).astype(x.dtype, copy=False) for s in parts)
    return gx, g_weight, g_bias


def standardize_leaked(
    x: Array, slope: Array, weight: Array | None, bias: Array | None, axes: Sizes, affine_shape: Sizes, eps: float
) -> tuple[Array, Array, Array]:
    """``standardize`` of a PReLU of x, in the same passes. Not of float64, whose statistics take a pass more."""
    x = _in_rows(x)
    w, b = _affine(weight, 1, affine_shape, x), _affine(bias, 0, affine_shape, x)
    shape = _kept(x.shape, axes)
    found = _leaked_statistics(x, slope, axes=axes, inverse=_inverse_count(x.shape, axes), eps=eps)
    mean, variance, rstd = (part.reshape(shape) for part in found)
    return _leaked_apply(x, slope, mean, rstd, w, b), mean, variance


def standardize_leaked_grad(
    g: Array, x: Array, slope: Array, weight: Array | None, mean: Array, var: Array, axes: Sizes, affine_shape: Sizes,
    eps: float,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Its gradients in x, slope, weight and bias; the slope's has x's rank, weight and bias are of ``affine_shape``.

    The gradient h of the standardised value is (w g - a - b unit) rstd, with a and b its means against 1 and unit. So
    the slope's, the sum of h x below zero, is one of sums that the same pass finds.
    Cost: g and x are read twice and the gradient is written.
    """
    g, x = _in_rows(g), _in_rows(x)
    rstd = (1.0 / np.sqrt(var + eps)).astype(var.dtype, copy=False)
    w, inverse = _affine(weight, 1, affine_shape, x), _inverse_count(x.shape, axes)
    folded = tuple(k for k, n in enumerate(affine_shape) if n == 1)
    shared = tuple(k for k in axes if k in folded and slope.shape[k] == 1)
    parts = [s.reshape(_kept(x.shape, shared)) for s in _leaked_sums(g, x, slope, mean, rstd, axes=shared)]
    wide = w.astype(parts[0].dtype, copy=False)
    sums = [_folded(s * wide, axes) for s in parts[:2]]
    gx: Array = _leaked_grad(g, x, slope, mean, rstd, w, *sums, inverse=inverse)
    met, below, along = parts[2:]
    each = (met * wide - inverse * (sums[0] * below + sums[1] * along)) * rstd
    lone = tuple(k for k, n in enumerate(slope.shape) if n == 1)
    g_slope = _folded(each, lone).astype(x.dtype, copy=False)
    g_bias, g_weight = (_folded(s, folded).reshape(affine_shape).astype(x.dtype, copy=False) for s in parts[:2])
    return gx, g_slope, g_weight, g_bias


def _in_rows(x: Array) -> Array:
    """The array, or a copy where neighbours along its last axis lie apart, for each pass would make one."""
    return x if x.strides[-1] in (0, x.itemsize) else contiguous(x)


def _per_channel(affine_shape: Sizes, axes: Sizes) -> bool:
    """Whether weights and statistics are those of batch norm: one a channel."""
    return len(affine_shape) == len(axes) + 1 and all(affine_shape[k] == 1 for k in axes)


def _by_channels(
    kernel: Channels, x: Array, weight: Array | None, bias: Array | None, axes: Sizes, **numbers: float
) -> tuple[Array, Array, Array]:
    given = _given(weight, 1, x), _given(bias, 0, x)
    y, *statistics = kernel((x,), given, inverse=_inverse_count(x.shape, axes), **numbers)
    mean, variance = (part.reshape(_kept(x.shape, axes)) for part in statistics)
    return y, mean, variance


def _grad_by_channels(
    kernel: Channels, g: Array, x: Array, weight: Array | None, bias: Array | None, mean: Array, var: Array,
    axes: Sizes, affine_shape: Sizes, **numbers: float,
) -> tuple[Array, Array, Array]:  # fmt: skip
    given = *(np.ascontiguousarray(a.reshape(-1)) for a in (mean, var)), _given(weight, 1, x), _given(bias, 0, x)
    gx, *parts = kernel((g, x), given, inverse=_inverse_count(x.shape, axes), **numbers)
    g_bias, g_weight = (part.reshape(affine_shape) for part in parts)
    return gx, g_weight, g_bias


def _given(parameter: Array | None, neutral: float, x: Array) -> Array:
    """What each channel has of a parameter."""
    if parameter is None:
        return np.full(x.shape[1], neutral, x.dtype)
    return np.ascontiguousarray(parameter.reshape(-1), x.dtype)


def _folded(sums: Array, axes: Sizes) -> Array:
    """Sums of sums over those of the axes that are left."""
    if all(sums.shape[k] == 1 for k in axes):
        return sums
    total: Array = sums.sum(axes, np.float64, keepdims=True).astype(sums.dtype)
    return total


def _kept(shape: Sizes, axes: Sizes) -> Sizes:
    return tuple(1 if k in axes else n for k, n in enumerate(shape))


def _inverse_count(shape: Sizes, axes: Sizes) -> float:
    return 1.0 / max(prod(shape[k] for k in axes), 1)


def _affine(parameter: Array | None, neutral: float, shape: Sizes, x: Array) -> Array:
    if parameter is None:
        return np.full((1,) * x.ndim, neutral, x.dtype)
    return parameter.reshape(shape).astype(x.dtype, copy=False)
