"""Convolution and its two adjoints, closed under differentiation.

All three come from one trilinear form, the sum over n, o, p of y[n, o, p] conv(x, w)[n, o, p]: each is its derivative
in one of x, w and y, so every gradient of one of them is another of them.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import getrefcount
from typing import Any, NamedTuple

import numpy as np

from lucid import kernels
from lucid.autograd import Op, apply
from lucid.autograd.mode import mode
from lucid.autograd.tracked import wrap
from lucid.core.geometry import ConvSpec, Sizes
from lucid.kernels import Call, Ending, Epilogue, kept
from lucid.ops import activation, elementwise
from lucid.ops.common import SOLE, conj, same_dtype
from lucid.ops.reduction import sum_forward

Array = np.ndarray[Any, Any]


def _forward(x: Array, w: Array, bias: Array | None, *, spec: ConvSpec, call: Call | None = None) -> Array:
    return kernels.conv_forward(x, w, bias, spec, call=call)


def _grad_input(
    y: Array, w: Array, bias: Array | None, *, spec: ConvSpec, size: Sizes, call: Call | None = None
) -> Array:
    return kernels.conv_grad_input(y, w, bias, spec, size, call=call)


def _grad_weight(x: Array, y: Array, *, spec: ConvSpec) -> Array:
    return kernels.conv_grad_weight(x, y, spec)


def _grad_weight_bias(x: Array, y: Array, *, spec: ConvSpec, transposed: bool) -> tuple[Array, Array] | None:
    return kernels.conv_grad_weight_bias(x, y, spec, transposed)


_ALL_BUT_CHANNELS = {rank + 2: (0, *range(2, rank + 2)) for rank in (1, 2, 3)}


def _channel_sum(g: Any) -> Any:
    dims = _ALL_BUT_CHANNELS[g._array.ndim]
    return g.sum(dims) if mode.recording else wrap(sum_forward(g._array, dims=dims, keepdim=False))


def _weight_and_bias(x: Any, y: Any, spec: ConvSpec, transposed: bool) -> tuple[Any, Any]:
    """Both gradients from one call, where there are kernels that give both; ``transposed`` says that x is upstream."""
    if mode.recording:
        if kernels.gives_both(x._array, y._array, spec, transposed):
            return tuple(apply(_conv_grad_weight_bias, x, y, spec=spec, transposed=transposed))
    elif (both := kernels.conv_grad_weight_bias(x._array, y._array, spec, transposed)) is not None:
        return wrap(both[0]), wrap(both[1])
    return conv_grad_weight(x, y, spec=spec), _channel_sum(x if transposed else y)


def _gradients(
    g: Any, inner: Any, w: Any, shape: Sizes, spec: ConvSpec, bias: bool, transposed: bool = False
) -> tuple[Any, ...]:
    """The gradients in a layer's input, which is ``inner`` and has that ``shape``, in w and, if there is one, the bias.

    In one call where that saves reading g twice, else one after the other.
    """
    x, y = (g, inner) if transposed else (inner, g)
    if not mode.recording:
        found = kernels.conv_gradients(x._array, y._array, w._array, spec, bias, transposed)
        if found is not None:
            return tuple(map(wrap, found))
    if transposed:
        through = conv(g, conj(w), None, spec=spec)
    else:
        through = conv_grad_input(g, conj(w), None, spec=spec, size=shape[2:])
    x, y = (g, conj(inner)) if transposed else (conj(inner), g)
    if bias:
        return (through, *_weight_and_bias(x, y, spec, transposed))
    return through, conv_grad_weight(x, y, spec=spec)


def _with_sum(through: Any, to_bias: Any, shape: Sizes) -> Any:
    """The gradient of what both sums are linear in: by way of the weight, and a value a channel at every place."""
    if to_bias is None:
        return through
    spread = to_bias.reshape(-1, *(1,) * (len(shape) - 2)).expand(shape)
    return spread if through is None else through + spread


def _x_of_both(g: tuple[Any, Any], y: Any, x_shape: Sizes, spec: ConvSpec, transposed: bool) -> Any:
    through = None if g[0] is None else conv_grad_input(y, g[0], None, spec=spec, size=x_shape[2:])
    return _with_sum(through, g[1] if transposed else None, x_shape)


def _y_of_both(g: tuple[Any, Any], x: Any, y_shape: Sizes, spec: ConvSpec, transposed: bool) -> Any:
    through = None if g[0] is None else conv(x, g[0], None, spec=spec)
    return _with_sum(through, None if transposed else g[1], y_shape)


_CONV_ROWS: dict[str | tuple[str, ...], Callable[..., Any]] = {
    ("x", "w", "bias"): lambda g, x, w, x_shape, spec: _gradients(g, x, w, x_shape, spec, bias=True),
    ("x", "w"): lambda g, x, w, x_shape, spec: _gradients(g, x, w, x_shape, spec, bias=False),
    "x": lambda g, w, x_shape, spec: conv_grad_input(g, conj(w), None, spec=spec, size=x_shape[2:]),
    ("w", "bias"): lambda g, x, spec: _weight_and_bias(conj(x), g, spec, transposed=False),
    "w": lambda g, x, spec: conv_grad_weight(conj(x), g, spec=spec),
    "bias": _channel_sum,
}  # fmt: skip
_conv = Op("conv", _forward, vjp=_CONV_ROWS)
_conv_grad_input = Op("conv_grad_input", _grad_input, vjp={
    ("y", "w", "bias"): lambda g, y, w, y_shape, spec: _gradients(g, y, w, y_shape, spec, True, transposed=True),
    ("y", "w"): lambda g, y, w, y_shape, spec: _gradients(g, y, w, y_shape, spec, False, transposed=True),
    "y": lambda g, w, spec: conv(g, conj(w), None, spec=spec),
    ("w", "bias"): lambda g, y, spec: _weight_and_bias(g, conj(y), spec, transposed=True),
    "w": lambda g, y, spec: conv_grad_weight(g, conj(y), spec=spec),
    "bias": _channel_sum,
})  # fmt: skip
_conv_grad_weight = Op("conv_grad_weight", _grad_weight, vjp={
    "x": lambda g, y, x_shape, spec: conv_grad_input(conj(y), g, None, spec=spec, size=x_shape[2:]),
    "y": lambda g, x, spec: conv(conj(x), g, None, spec=spec),
})  # fmt: skip
_conv_grad_weight_bias = Op("conv_grad_weight_bias", _grad_weight_bias, outputs=("gw", "gb"), vjp={
    "x": _x_of_both,
    "y": _y_of_both,
})  # fmt: skip


def _forward_ended(
    x: Array, w: Array, bias: Array | None, *, spec: ConvSpec, epilogue: Epilogue, call: Call | None = None
) -> Array:
    return kernels.conv_forward_ended(x, w, bias, spec, Ending(epilogue), call=call)


def _before_end(g: Any, out: Any, epilogue: Epilogue) -> Any:
    """The gradient of the sums that an activation, told by its result, ended."""
    _, pull = activation.BY_RESULT[epilogue.activation]
    return pull(g, out, epilogue.numbers)


_conv_ended = Op("conv_ended", _forward_ended, vjp=_CONV_ROWS, ended=_before_end)


def _versions(w: Any, bias: Any) -> kept.Versions | None:
    """What would tell of any change of the weights; None if they could change unseen.

    Writing through tensors counts up a version. NumPy's arrays tell nobody, so nobody but the tensor may have this one
    or a view of it; who is handed it, or was, has made ``kept`` forget it (``Tensor.numpy``), which keeps nothing of
    memory that is another's.
    """
    if w._array.nbytes < kept.FROM_BYTES:
        return None
    if getrefcount(w._array) != SOLE or (bias is not None and getrefcount(bias._array) != SOLE):
        kept.forget(w._array)
        return None
    return w._version[0], 0 if bias is None else bias._version[0]


def _alike(a: Any, b: Any, bias: Any = None) -> bool:
    """Whether all have one element type, seen at a glance."""
    dtype = a._array.dtype
    return b._array.dtype is dtype and (bias is None or bias._array.dtype is dtype)


def conv_computed(call: Call, a: Any, w: Any, bias: Any) -> Any:
    """The result of a call that nobody records."""
    compute = call.compute()
    versions = _versions(w, bias) if call.keeps else None  # first, since it counts who holds the arrays
    return wrap(compute(a._array, w._array, None if bias is None else bias._array, versions))


def conv(x: Any, w: Any, bias: Any = None, *, spec: ConvSpec, call: Call | None = None) -> Any:
    """y[n, o, p] = bias[o] + sum over c, t of w[o, c, t] x[n, c, p s + t d - low].

    Shape: x (N, C_in, *size), w (C_out, C_in / groups, *kernel), bias (C_out,) give (N, C_out, *spec.out_size(size)).

    ``call``: what ``kernels.call_of`` says of such operands, from one who asks often and knows their element types.

    Raises: DTypeError unless all have one element type.
    """
    if call is None and not _alike(x, w, bias):
        same_dtype("conv", x=x, w=w, bias=bias)
    if mode.recording:
        return apply(_conv, x, w, bias, spec=spec, call=call)
    if call is None:
        a = x._array
        call = kernels.call_of("forward", spec, a.shape, w._array.shape, (), a.dtype, bias is not None)
    return conv_computed(call, x, w, bias)


def conv_grad_input(g: Any, w: Any, bias: Any = None, *, spec: ConvSpec, size: Sizes, call: Call | None = None) -> Any:
    """The adjoint of ``conv`` in x, for an input of ``size``; with a bias, the transposed convolution.

    Shape: g (N, C_out, *spec.out_size(size)), w as in ``conv``, bias (C_in,) give (N, C_in, *size).
    """
    if call is None and not _alike(g, w, bias):
        same_dtype("conv_grad_input", g=g, w=w, bias=bias)
    if mode.recording:
        return apply(_conv_grad_input, g, w, bias, spec=spec, size=size, call=call)
    if call is None:
        a = g._array
        call = kernels.call_of("grad_input", spec, a.shape, w._array.shape, size, a.dtype, bias is not None)
    return conv_computed(call, g, w, bias)


def conv_grad_weight(x: Any, g: Any, *, spec: ConvSpec) -> Any:
    """The adjoint of ``conv`` in w.

    Shape: x (N, C_in, *size), g (N, C_out, *spec.out_size(size)) give (C_out, C_in / groups, *kernel).
    """
    if not _alike(x, g):
        same_dtype("conv_grad_weight", x=x, g=g)
    if not mode.recording:
        return wrap(kernels.conv_grad_weight(x._array, g._array, spec))
    return apply(_conv_grad_weight, x, g, spec=spec)


#: What is stored as it is summed: in half precision a pass of its own rounds once more.
_UNROUNDED = ("float32", "float64")


class Finish(NamedTuple):
    """An epilogue with its tensors: scale and shift have a number a channel, residual the result's shape."""

    epilogue: Epilogue
    scale: Any = None
    shift: Any = None
    residual: Any = None

    def in_steps(self, y: Any) -> Any:
        """The same as operations of their own, which have gradients."""
        each = (-1, *(1,) * (y.ndim - 2))
        if self.epilogue.affine:
            y = y * self.scale.reshape(each) + self.shift.reshape(each)
        if self.epilogue.residual:
            y = y + self.residual
        name = self.epilogue.activation
        if name:
            y = getattr(activation if hasattr(activation, name) else elementwise, name)(y, *self.epilogue.numbers)
        return y

    def takes_steps(self, *operands: Any) -> bool:
        """Whether no kernel does it all: a gradient may be asked for, or numbers are complex.

        Raises: DTypeError unless all have one element type.
        """
        dtype = operands[0]._array.dtype
        if not mode.recording and not self.has_operands:
            return bool(dtype.kind == "c")
        for t in self[1:]:
            if t is not None and t._array.dtype is not dtype:
                same_dtype("conv", x=operands[0], scale=self.scale, shift=self.shift, residual=self.residual)
        recorded = mode.recording and any(t is not None and t.requires_grad for t in (*operands, *self[1:]))
        return recorded or operands[0]._array.dtype.kind == "c"

    def is_told_by_result(self, x: Any) -> bool:
        """Whether it is an activation alone whose gradient its result tells, in the bits of a pass of its own."""
        epilogue = self.epilogue
        if epilogue.affine or epilogue.residual or x._array.dtype.name not in _UNROUNDED:
            return False
        tells, _ = activation.BY_RESULT.get(epilogue.activation, (None, None))
        return tells is not None and tells(*epilogue.numbers)

    @property
    def has_operands(self) -> bool:
        """Whether there are tensors."""
        return self.epilogue.affine or self.epilogue.residual

    def arrays(self) -> Ending:
        """What the kernels take."""
        if not self.has_operands:
            return Ending(self.epilogue)
        return Ending(self.epilogue, *(None if t is None else t._array for t in self[1:]))


def finished_conv(x: Any, w: Any, bias: Any, finish: Finish, *, spec: ConvSpec, call: Call | None = None) -> Any:
    """``conv`` and what ``finish`` says, in one kernel; where a gradient is recorded in steps, but for an activation
    whose result tells its gradient.

    ``call``: what ``kernels.call_of`` says of such operands without the finish, from one who asks often.

    Raises: DTypeError unless all have one element type.
    """
    if finish.takes_steps(x, w, bias):
        if finish.is_told_by_result(x):
            same_dtype("conv", x=x, w=w, bias=bias)
            return apply(_conv_ended, x, w, bias, spec=spec, epilogue=finish.epilogue, call=call)
        return finish.in_steps(conv(x, w, bias, spec=spec))
    if not _alike(x, w, bias):
        same_dtype("conv", x=x, w=w, bias=bias)
    versions = _versions(w, bias)
    arrays = x._array, w._array, None if bias is None else bias._array
    return wrap(kernels.conv_forward_ended(*arrays, spec, finish.arrays(), versions, call))


def finished_conv_grad_input(g: Any, w: Any, bias: Any, finish: Finish, *, spec: ConvSpec, size: Sizes) -> Any:
    """``conv_grad_input`` and what ``finish`` says, in one kernel; in steps where a gradient is recorded.

    Raises: DTypeError unless all have one element type.
    """
    if finish.takes_steps(g, w, bias):
        return finish.in_steps(conv_grad_input(g, w, bias, spec=spec, size=size))
    same_dtype("conv_grad_input", g=g, w=w, bias=bias)
    versions = _versions(w, bias)
    arrays = g._array, w._array, None if bias is None else bias._array
    return wrap(kernels.conv_grad_input_ended(*arrays, spec, size, finish.arrays(), versions))
