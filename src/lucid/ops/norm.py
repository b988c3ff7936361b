"""Standardisation: zero mean and unit variance over some axes, then a scale and a shift.

Batch, layer, group and instance normalisation are this one op over different axes.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from lucid.autograd import Op, apply, is_grad_enabled
from lucid.core.dtypes import DType, widened
from lucid.core.geometry import Sizes
from lucid.kernels import arithmetic, kept, normalization
from lucid.ops import native
from lucid.ops.activation import prelu, prelu_forward, prelu_pull
from lucid.ops.broadcast import product_sum_to, sum_to
from lucid.ops.common import held_alone, versions_alone
from lucid.tensor import Tensor

Array = np.ndarray[Any, Any]
Maybe = Tensor | None


class Standardized(NamedTuple):
    """The result, with the statistics it was made with (axes kept, length 1). The variance is the biased one."""

    out: Tensor
    mean: Tensor
    var: Tensor


def standardize(x: Tensor, weight: Maybe, bias: Maybe, axes: Sizes, affine_shape: Sizes, eps: float) -> Standardized:
    """(x - mean) / sqrt(var + eps) * weight + bias, mean and variance over ``axes``.

    ``weight`` and ``bias``, each of which may be None, have one shape and take part as if it were ``affine_shape``,
    which must broadcast against ``x``.
    """
    return Standardized(*apply(_standardize, x, weight, bias, axes=axes, affine_shape=affine_shape, eps=eps))


def standardize_clamped(
    x: Tensor, weight: Maybe, bias: Maybe, axes: Sizes, affine_shape: Sizes, eps: float, low: float, high: float
) -> Standardized:
    """``standardize`` and then all below ``low`` and above ``high`` cut off; ``affine_shape`` has 1 at ``axes``."""
    limits = {"low": low, "high": high}
    return Standardized(
        *apply(_standardize_clamped, x, weight, bias, axes=axes, affine_shape=affine_shape, eps=eps, **limits)
    )


def standardize_leaked(
    x: Tensor, slope: Tensor, weight: Maybe, bias: Maybe, axes: Sizes, affine_shape: Sizes, eps: float
) -> Standardized:
    """``standardize`` of ``prelu(x, slope)``; ``slope`` and ``affine_shape`` have as many axes as x."""
    leaked = apply(_standardize_leaked, x, slope, weight, bias, axes=axes, affine_shape=affine_shape, eps=eps)
    return Standardized(*leaked)


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x scale + shift, in one pass; scale and shift broadcast against x and are of its dtype."""
    result: Tensor = apply(_affine, x, scale, shift)
    return result


def folded(
    mean: Tensor, var: Tensor, weight: Maybe, bias: Maybe, eps: float, dtype: DType, shape: Sizes = (-1,)
) -> tuple[Tensor, Tensor]:
    """The scale and the shift that are (x - mean) / sqrt(var + eps) * weight + bias, in ``dtype`` and of ``shape``.

    The four have one value a channel. Where no gradient is recorded it is made again only when one of them has changed.
    """
    parts = mean, var, weight, bias
    given = [t for t in parts if t is not None]
    versions = None if is_grad_enabled() else versions_alone(given)  # first, since it counts who holds the arrays
    if versions is None:
        made: tuple[Tensor, Tensor] = apply(_fold, *parts, eps=eps, dtype=dtype, shape=shape)
        return made
    arrays, asked = [t._array for t in given], (versions, weight is None, eps, dtype, shape)
    kept_before: tuple[Tensor, Tensor] | None = kept.value_of(arrays, asked)
    if kept_before is not None:
        return kept_before
    made = apply(_fold, *parts, eps=eps, dtype=dtype, shape=shape)
    kept.keep_value(arrays, asked, made)
    return made


def taken_in(
    w: Tensor, b: Maybe, is_transposed: bool, mean: Tensor, var: Tensor, weight: Maybe, bias: Maybe, eps: float
) -> tuple[Tensor, Tensor] | None:
    """Weights and bias of the convolution that does what one with ``w`` and ``b`` and a batch norm behind it do.

    They are made again only when one of the six has changed. None where they would be made for every call, or rounded
    to halves, which a scale and a shift of the sums are not: then ``folded`` is the way. Not where a gradient is
    recorded.
    """
    given = [t for t in (w, b, mean, var, weight, bias) if t is not None]
    arrays = [t._array for t in given]
    asked = *[t._version[0] for t in given], b is None, weight is None, eps, is_transposed
    found: tuple[Tensor, Tensor] | None = kept.value_of(arrays, asked)
    if found is not None:
        if held_alone(arrays):
            return found
        kept.forget(arrays[0])
    del arrays  # since it is counted who holds them
    if versions_alone(given) is None or w.dtype.name not in ("float32", "float64") or not kept.has_room(w.nbytes):
        return None
    scale, shift = folded(mean, var, weight, bias, eps, w.dtype)
    offset = shift if b is None else b * scale + shift
    found = Tensor(scaled_channels(w._array, scale._array, is_transposed)), offset
    kept.keep_value([t._array for t in given], asked, found, w.nbytes)
    return found


def scaled_channels(w: Array, scale: Array, is_transposed: bool) -> Array:
    """A convolution's weights, those of each channel that it makes times the channel's number.

    Shape: w (C_out, C_in / groups, *kernel), ``is_transposed`` (C_in, C_out / groups, *kernel); scale (C_out,).
    """
    rows = scale
    if is_transposed:
        groups = len(scale) // w.shape[1]
        rows = np.repeat(scale.reshape(groups, -1), w.shape[0] // groups, axis=0)
    return w * rows.reshape(*rows.shape, *(1,) * (w.ndim - rows.ndim))


def _fold_forward(
    mean: Array, var: Array, weight: Array | None, bias: Array | None, *, eps: float, dtype: DType, shape: Sizes
) -> tuple[Array, Array]:
    scale = widened(var) + eps
    np.sqrt(scale, scale)
    np.divide(1 if weight is None else weight, scale, scale)
    shift = mean * scale
    np.subtract(0 if bias is None else bias, shift, shift)
    scale, shift = (part.astype(dtype.numpy, copy=False).reshape(shape) for part in (scale, shift))
    return scale, shift


def _fold_gradients(
    g: tuple[Maybe, Maybe], mean: Tensor, var: Tensor, weight: Maybe, bias: Maybe, eps: float
) -> tuple[Maybe, Maybe, Maybe, Maybe]:
    """shift = bias - mean scale, scale = weight rstd. One operation where nobody differentiates the result."""
    to_scale, to_shift = (None if part is None else part.reshape(mean.shape) for part in g)
    if not is_grad_enabled():
        to_mean, to_var, to_weight = apply(_fold_grad, to_scale, to_shift, mean, var, weight, eps=eps)
        return to_mean, to_var, None if weight is None else to_weight, None if bias is None else to_shift
    rstd = (var + eps) ** -0.5
    scale = rstd if weight is None else rstd * weight
    total = None if to_shift is None else to_shift * -mean
    if to_scale is not None:
        total = to_scale if total is None else total + to_scale
    assert total is not None, "one of both is asked for"
    to_mean = None if to_shift is None else to_shift * -scale
    to_var = total * scale / (var + eps) * -0.5
    return to_mean, to_var, None if weight is None else total * rstd, None if bias is None else to_shift


def _fold_grad_forward(
    to_scale: Array | None, to_shift: Array | None, mean: Array, var: Array, weight: Array | None, *, eps: float
) -> tuple[Array, Array, Array]:
    """The gradients in mean, variance and weight."""
    rstd = 1 / np.sqrt(widened(var) + eps)
    scale = rstd if weight is None else rstd * weight
    shifted = np.zeros_like(scale) if to_shift is None else to_shift
    total = -mean * shifted if to_scale is None else to_scale - mean * shifted
    return -scale * shifted, total * scale * rstd * rstd * -0.5, total * rstd


def _affine_forward(x: Array, scale: Array, shift: Array) -> Array:
    if native.takes(native.SEVERAL_PASSES, x, scale, shift):
        y: Array = normalization.affine(x, scale, shift)
        return y
    return x * scale + shift


def _affine_gradients(g: Tensor, x: Tensor, scale: Tensor, shift_shape: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """The sums in one pass where nobody differentiates the result."""
    alone = not is_grad_enabled() and scale.shape == shift_shape
    if alone and native.takes(native.SEVERAL_PASSES, g._array, x._array, scale._array):
        made: tuple[Tensor, Tensor, Tensor] = apply(_affine_grad, g, x, scale)
        return made
    return g * scale, product_sum_to(g, x, scale.shape), sum_to(g, shift_shape)


def _affine_grad_forward(h: Array, x: Array, scale: Array) -> tuple[Array, Array, Array]:
    to_scale, to_shift = normalization.affine_sums(h, x, axes=_broadcast_axes(x.ndim, scale.shape))
    return arithmetic.BINARY["mul"](h, scale), to_scale.reshape(scale.shape), to_shift.reshape(scale.shape)


def _forward(
    x: Array, weight: Array | None, bias: Array | None, *, axes: Sizes, affine_shape: Sizes, eps: float
) -> tuple[Array, Array, Array]:
    if weight is None and bias is None:
        affine_shape = ()
    if native.takes(_least(axes, affine_shape, x), x, weight, bias):
        return normalization.standardize(x, weight, bias, axes, affine_shape, eps)
    wide = widened(x)
    mean = _mean(wide, axes)
    y = wide - mean
    var = _mean(np.square(y), axes)
    y *= _scale(var, weight, affine_shape, eps)
    if bias is not None:
        y += bias.reshape(affine_shape)
    return y.astype(x.dtype, copy=False), mean, var


def _least(axes: Sizes, affine_shape: Sizes, *arrays: Array) -> int:
    """Elements from which kernels win."""
    return native.ALWAYS if normalization.in_one_region(axes, affine_shape, *arrays) else native.SEVERAL_PASSES


def _clamped_forward(
    x: Array, weight: Array | None, bias: Array | None, *, axes: Sizes, affine_shape: Sizes, eps: float,
    low: float, high: float,
) -> tuple[Array, Array, Array]:  # fmt: skip
    if native.takes(native.SEVERAL_PASSES, x, weight, bias):
        return normalization.standardize_clamped(x, weight, bias, axes, affine_shape, eps, low, high)
    y, mean, var = _forward(x, weight, bias, axes=axes, affine_shape=affine_shape, eps=eps)
    return np.clip(y, y.dtype.type(low), y.dtype.type(high)), mean, var


def _leaked_forward(
    x: Array, slope: Array, weight: Array | None, bias: Array | None, *, axes: Sizes, affine_shape: Sizes, eps: float
) -> tuple[Array, Array, Array]:
    if _reads_through(x, slope, weight, bias):
        return normalization.standardize_leaked(x, slope, weight, bias, axes, affine_shape, eps)
    return _forward(prelu_forward(x, slope), weight, bias, axes=axes, affine_shape=affine_shape, eps=eps)


def _reads_through(x: Array, *others: Array | None) -> bool:
    """Whether the kernels of ``standardize_leaked`` are for these: their statistics are those of one pass."""
    return x.dtype != np.float64 and native.takes(native.SEVERAL_PASSES, x, *others)


def _mean(x: Array, axes: Sizes) -> Array:
    """Summed in float64: along an outer axis NumPy adds row to row, which loses digits."""
    result: Array = x.mean(axes, np.float64, keepdims=True).astype(x.dtype)
    return result


def _scale(var: Array, weight: Array | None, affine_shape: Sizes, eps: float) -> Array:
    rstd: Array = 1 / np.sqrt(var + var.dtype.type(eps))
    return rstd if weight is None else rstd * weight.reshape(affine_shape).astype(rstd.dtype, copy=False)


def _gradients(
    g: tuple[Maybe, Maybe, Maybe], x: Tensor, weight: Maybe, bias: Maybe, mean: Tensor, var: Tensor,
    axes: Sizes, affine_shape: Sizes, eps: float,
) -> tuple[Maybe, Maybe, Maybe]:  # fmt: skip
    """One pass where nobody differentiates the result; otherwise the same in ops, which carry their own gradients."""
    g_out, g_mean, g_var = g
    if not is_grad_enabled() and g_out is not None and g_mean is None and g_var is None:
        given = next((part.shape for part in (weight, bias) if part is not None), (-1,))
        gradients: tuple[Tensor, ...] = apply(
            _standardize_grad, g_out, x, weight, mean, var,
            axes=axes, affine_shape=affine_shape, given_shape=given, eps=eps,
        )  # fmt: skip
        return gradients[0], gradients[1] if weight is not None else None, gradients[2] if bias is not None else None
    count = prod(x.shape[a] for a in axes)
    centred = x - mean
    grads: list[Maybe] = [None, None, None]
    if g_out is not None:
        rstd = (var + eps) ** -0.5
        unit = centred * rstd
        scaled = g_out if weight is None else g_out * weight.reshape(affine_shape)
        along = (scaled * unit).mean(axes, keepdim=True)
        grads[0] = rstd * (scaled - scaled.mean(axes, keepdim=True) - unit * along)
        if weight is not None:
            grads[1] = _folded(g_out * unit, affine_shape, weight.shape)
        if bias is not None:
            grads[2] = _folded(g_out, affine_shape, bias.shape)
    for extra in (None if g_mean is None else g_mean / count, None if g_var is None else centred * (g_var * 2 / count)):
        if extra is not None:
            grads[0] = extra.expand(x.shape) if grads[0] is None else grads[0] + extra
    return grads[0], grads[1], grads[2]


def _clamped_gradients(
    g: tuple[Maybe, Maybe, Maybe], x: Tensor, weight: Maybe, bias: Maybe, mean: Tensor, var: Tensor,
    axes: Sizes, affine_shape: Sizes, eps: float, low: float, high: float,
) -> tuple[Maybe, Maybe, Maybe]:  # fmt: skip
    """One pass where nobody differentiates the result; otherwise those of ``standardize``, and nothing at a limit."""
    g_out, g_mean, g_var = g
    how: dict[str, Any] = {"axes": axes, "affine_shape": affine_shape, "eps": eps}
    alone = not is_grad_enabled() and g_mean is None and g_var is None
    if alone and g_out is not None and native.takes(native.SEVERAL_PASSES, g_out._array, x._array):
        given = next((part.shape for part in (weight, bias) if part is not None), (-1,))
        gradients: tuple[Tensor, ...] = apply(
            _standardize_clamped_grad, g_out, x, weight, bias, mean, var, given_shape=given, low=low, high=high, **how
        )
        return gradients[0], gradients[1] if weight is not None else None, gradients[2] if bias is not None else None
    if g_out is not None:
        y = (x - mean) * (var + eps) ** -0.5
        y = y if weight is None else y * weight.reshape(affine_shape)
        y = y if bias is None else y + bias.reshape(affine_shape)
        g_out = g_out.masked_fill((y <= low) | (y >= high), 0.0)
    return _gradients((g_out, g_mean, g_var), x, weight, bias, mean, var, **how)


def _clamped_gradients_forward(
    h: Array, x: Array, weight: Array | None, bias: Array | None, mean: Array, var: Array, *, axes: Sizes,
    affine_shape: Sizes, given_shape: Sizes, eps: float, low: float, high: float,
) -> tuple[Array, Array, Array]:  # fmt: skip
    gx, g_weight, g_bias = normalization.standardize_clamped_grad(
        h, x, weight, bias, mean, var, axes, affine_shape, eps, low, high
    )
    return gx, g_weight.reshape(given_shape), g_bias.reshape(given_shape)


def _leaked_gradients(
    g: tuple[Maybe, Maybe, Maybe], x: Tensor, slope: Tensor, weight: Maybe, bias: Maybe, mean: Tensor, var: Tensor,
    axes: Sizes, affine_shape: Sizes, eps: float,
) -> tuple[Maybe, ...]:  # fmt: skip
    """One pass where nobody differentiates the result; otherwise those of ``standardize``, then those of ``prelu``."""
    g_out, g_mean, g_var = g
    how: dict[str, Any] = {"axes": axes, "affine_shape": affine_shape, "eps": eps}
    alone = not is_grad_enabled() and g_mean is None and g_var is None
    if alone and g_out is not None and _reads_through(g_out._array, x._array, slope._array):
        given = next((part.shape for part in (weight, bias) if part is not None), (-1,))
        gradients: tuple[Tensor, ...] = apply(
            _standardize_leaked_grad, g_out, x, slope, weight, mean, var, given_shape=given, **how
        )
        return (
            *gradients[:2], gradients[2] if weight is not None else None, gradients[3] if bias is not None else None
        )  # fmt: skip
    to_h, to_weight, to_bias = _gradients(g, prelu(x, slope), weight, bias, mean, var, **how)
    assert to_h is not None, "something is asked for"
    return *prelu_pull(to_h, x, slope), to_weight, to_bias


def _leaked_gradients_forward(
    h: Array, x: Array, slope: Array, weight: Array | None, mean: Array, var: Array, *, axes: Sizes,
    affine_shape: Sizes, given_shape: Sizes, eps: float,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    gx, g_slope, g_weight, g_bias = normalization.standardize_leaked_grad(
        h, x, slope, weight, mean, var, axes, affine_shape, eps
    )
    return gx, g_slope, g_weight.reshape(given_shape), g_bias.reshape(given_shape)


def _folded(g: Tensor, affine_shape: Sizes, shape: Sizes) -> Tensor:
    """The gradient of something that was broadcast from ``affine_shape``."""
    result: Tensor = g.sum(_broadcast_axes(g.ndim, affine_shape)).reshape(shape)
    return result


def _broadcast_axes(ndim: int, shape: Sizes) -> Sizes:
    """The axes along which an array of ``shape`` is repeated."""
    new = ndim - len(shape)
    return (*range(new), *(new + i for i, n in enumerate(shape) if n == 1))


def _gradients_forward(
    h: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    var: Array,
    *,
    axes: Sizes,
    affine_shape: Sizes,
    given_shape: Sizes,
    eps: float,
) -> tuple[Array, Array, Array]:
    if given_shape == (-1,):  # neither weight nor bias
        affine_shape = ()
    if native.takes(_least(axes, affine_shape, h, x), h, x, weight):
        gx, g_weight, g_bias = normalization.standardize_grad(h, x, weight, mean, var, axes, affine_shape, eps)
        return gx, g_weight.reshape(given_shape), g_bias.reshape(given_shape)
    rstd = _scale(var, None, affine_shape, eps)
    g = h.astype(mean.dtype, copy=False)
    unit = (x - mean) * rstd
    folded = _broadcast_axes(x.ndim, affine_shape)
    product = g * unit
    g_weight, g_bias = product.sum(folded), g.sum(folded)
    if weight is not None:
        wide = weight.reshape(affine_shape).astype(g.dtype, copy=False)
        g, product = g * wide, product * wide
    unit *= _mean(product, axes)
    gx = g - _mean(g, axes)
    gx -= unit
    gx *= rstd
    g_weight, g_bias = (part.reshape(given_shape).astype(x.dtype, copy=False) for part in (g_weight, g_bias))
    return gx.astype(x.dtype, copy=False), g_weight, g_bias


_standardize = Op("standardize", _forward, vjp={("x", "weight", "bias"): _gradients}, outputs=("out", "mean", "var"))

_standardize_clamped = Op(
    "standardize_clamped", _clamped_forward, vjp={("x", "weight", "bias"): _clamped_gradients},
    outputs=("out", "mean", "var"),
)  # fmt: skip

_standardize_leaked = Op(
    "standardize_leaked", _leaked_forward, vjp={("x", "slope", "weight", "bias"): _leaked_gradients},
    outputs=("out", "mean", "var"),
)  # fmt: skip

_fold = Op("fold", _fold_forward, vjp={("mean", "var", "weight", "bias"): _fold_gradients}, outputs=("scale", "shift"))

# Only for the pass that nobody differentiates again.
_fold_grad = Op("fold_grad", _fold_grad_forward, outputs=("to_mean", "to_var", "to_weight"))

# Only for the pass that nobody differentiates again.
_affine_grad = Op("affine_grad", _affine_grad_forward, outputs=("gx", "g_scale", "g_shift"))

_affine = Op("affine", _affine_forward, vjp={
    ("x", "scale", "shift"): _affine_gradients,
    "x": lambda g, scale: g * scale,
    "scale": lambda g, x, scale_shape: product_sum_to(g, x, scale_shape),
    "shift": lambda g, shift_shape: sum_to(g, shift_shape),
})  # fmt: skip

# Only for the pass that nobody differentiates again.
_standardize_grad = Op("standardize_grad", _gradients_forward, outputs=("gx", "g_weight", "g_bias"))
_standardize_clamped_grad = Op(
    "standardize_clamped_grad", _clamped_gradients_forward, outputs=("gx", "g_weight", "g_bias")
)
_standardize_leaked_grad = Op(
    "standardize_leaked_grad", _leaked_gradients_forward, outputs=("gx", "g_slope", "g_weight", "g_bias")
)
