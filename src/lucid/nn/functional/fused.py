"""Convolutions with what follows them: scale and shift, a residual, an activation, all while sums are in registers.

For inference. Where a gradient is recorded they are computed in steps, as if written one after the other, but for a
ReLU or LeakyReLU alone behind a convolution in float32 or float64, whose gradient the result tells.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from inspect import signature
from typing import Any

import numpy as np

from lucid.kernels import Epilogue
from lucid.nn.functional._arguments import PaddingArgument, SizeArgument
from lucid.nn.functional.convolution import conv_of, conv_transpose_of
from lucid.ops.conv import Finish
from lucid.tensor import Tensor

_GELU = {"none": "gelu", "tanh": "gelu_tanh"}


def _gelu(approximate: str = "none") -> tuple[str, tuple[float, ...]]:
    if approximate not in _GELU:
        raise ValueError(f"gelu: approximate={approximate!r} must be one of {', '.join(map(repr, _GELU))}")
    return _GELU[approximate], ()


#: What an epilogue calls the activations of this package, and the numbers it takes, from their own parameters.
_ACTIVATIONS: dict[str, Callable[..., tuple[str, tuple[float, ...]]]] = {
    "relu": lambda: ("relu", ()),
    "relu6": lambda: ("hardtanh", (0.0, 6.0)),
    "leaky_relu": lambda negative_slope=0.01: ("leaky_relu", (negative_slope,)),
    "silu": lambda: ("silu", ()),
    "gelu": _gelu,
    "elu": lambda alpha=1.0: ("elu", (alpha,)),
    "selu": lambda: ("selu", ()),
    "mish": lambda: ("mish", ()),
    "softplus": lambda beta=1.0, threshold=20.0: ("softplus", (beta, threshold)),
    "hardtanh": lambda min_val=-1.0, max_val=1.0: ("hardtanh", (min_val, max_val)),
    "hardswish": lambda: ("hardswish", ()),
    "hardsigmoid": lambda: ("hardsigmoid", ()),
    "sigmoid": lambda: ("sigmoid", ()),
    "tanh": lambda: ("tanh", ()),
}


@lru_cache(maxsize=256)
def _epilogue(
    caller: str, activation: str | None, parameters: tuple[tuple[str, Any], ...], affine: bool, residual: bool
) -> Epilogue:
    """Raises: ValueError for an activation that cannot be fused, TypeError for a parameter that it does not have."""
    if activation is None:
        if parameters:
            raise TypeError(f"{caller}: {', '.join(dict(parameters))} given, but no activation")
        return Epilogue("", (), affine, residual)
    if activation not in _ACTIVATIONS:
        known = ", ".join(map(repr, _ACTIVATIONS))
        raise ValueError(f"{caller}: activation={activation!r} must be None or one of {known}")
    spelled = _ACTIVATIONS[activation]
    unknown = [name for name, _ in parameters if name not in signature(spelled).parameters]
    if unknown:
        takes = ", ".join(signature(spelled).parameters) or "no parameters"
        raise TypeError(f"{caller}: activation={activation!r} takes {takes}, not {', '.join(unknown)}")
    name, numbers = spelled(**dict(parameters))
    return Epilogue(name, tuple(map(float, numbers)), affine, residual)


def finish_of(
    caller: str,
    activation: str | None,
    parameters: dict[str, Any],
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
) -> Finish | None:
    """What is to be done to a convolution's result; None for nothing."""
    affine = scale is not None or shift is not None
    epilogue = _epilogue(caller, activation, tuple(parameters.items()), affine, residual is not None)
    if not epilogue:
        return None
    if affine and scale is None:
        scale = _same(shift, 1.0)
    elif affine and shift is None:
        shift = _same(scale, 0.0)
    return Finish(epilogue, scale, shift, residual)


def _same(like: Tensor | None, number: float) -> Tensor:
    assert like is not None, "one of scale and shift is given"
    return Tensor(np.full(like.shape, number, like._array.dtype))


def fused_conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: SizeArgument = 1,
    padding: PaddingArgument = 0,
    dilation: SizeArgument = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    *,
    activation: str | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    **parameters: Any,
) -> Tensor:
    """activation(conv1d(input, …) scale + shift + residual), without a pass over memory for anything but the first.

    ``activation`` is the name of a function of this package, ``parameters`` are its own: ``activation="leaky_relu",
    negative_slope=0.1``. ``scale`` and ``shift`` have a number for each output channel, ``residual`` the shape of the
    result. The result is that of the steps one after the other, up to the rounding of what they would have stored.

    For inference: where a gradient is recorded, it is mostly computed in those steps.

    >>> x, w = Tensor([[[1.0, -2.0, 3.0]]]), Tensor([[[2.0]]])
    >>> fused_conv1d(x, w, activation="relu", residual=Tensor([[[1.0, 1.0, 1.0]]]))
    Tensor([[[3., 0., 7.]]])
    """
    finish = finish_of("fused_conv1d", activation, parameters, scale, shift, residual)
    return conv_of("fused_conv1d", 1, input, weight, bias, stride, padding, dilation, groups, padding_mode, finish)


def fused_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: SizeArgument = 1,
    padding: PaddingArgument = 0,
    dilation: SizeArgument = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    *,
    activation: str | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    **parameters: Any,
) -> Tensor:
    """activation(conv2d(input, …) scale + shift + residual); see ``fused_conv1d``."""
    finish = finish_of("fused_conv2d", activation, parameters, scale, shift, residual)
    return conv_of("fused_conv2d", 2, input, weight, bias, stride, padding, dilation, groups, padding_mode, finish)


def fused_conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: SizeArgument = 1,
    padding: PaddingArgument = 0,
    dilation: SizeArgument = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    *,
    activation: str | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    **parameters: Any,
) -> Tensor:
    """activation(conv3d(input, …) scale + shift + residual); see ``fused_conv1d``."""
    finish = finish_of("fused_conv3d", activation, parameters, scale, shift, residual)
    return conv_of("fused_conv3d", 3, input, weight, bias, stride, padding, dilation, groups, padding_mode, finish)


def fused_conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: SizeArgument = 1,
    padding: PaddingArgument = 0,
    output_padding: SizeArgument = 0,
    groups: int = 1,
    dilation: SizeArgument = 1,
    padding_mode: str = "zeros",
    output_size: SizeArgument | None = None,
    *,
    activation: str | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    **parameters: Any,
) -> Tensor:
    """activation(conv_transpose1d(input, …) scale + shift + residual); see ``fused_conv1d``."""
    finish = finish_of("fused_conv_transpose1d", activation, parameters, scale, shift, residual)
    return conv_transpose_of(
        "fused_conv_transpose1d", 1, input, weight, bias, stride, padding, output_padding, groups, dilation,
        padding_mode, output_size, finish,
    )  # fmt: skip


def fused_conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: SizeArgument = 1,
    padding: PaddingArgument = 0,
    output_padding: SizeArgument = 0,
    groups: int = 1,
    dilation: SizeArgument = 1,
    padding_mode: str = "zeros",
    output_size: SizeArgument | None = None,
    *,
    activation: str | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    **parameters: Any,
) -> Tensor:
    """activation(conv_transpose2d(input, …) scale + shift + residual); see ``fused_conv1d``."""
    finish = finish_of("fused_conv_transpose2d", activation, parameters, scale, shift, residual)
    return conv_transpose_of(
        "fused_conv_transpose2d", 2, input, weight, bias, stride, padding, output_padding, groups, dilation,
        padding_mode, output_size, finish,
    )  # fmt: skip


def fused_conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: SizeArgument = 1,
    padding: PaddingArgument = 0,
    output_padding: SizeArgument = 0,
    groups: int = 1,
    dilation: SizeArgument = 1,
    padding_mode: str = "zeros",
    output_size: SizeArgument | None = None,
    *,
    activation: str | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    **parameters: Any,
) -> Tensor:
    """activation(conv_transpose3d(input, …) scale + shift + residual); see ``fused_conv1d``."""
    finish = finish_of("fused_conv_transpose3d", activation, parameters, scale, shift, residual)
    return conv_transpose_of(
        "fused_conv_transpose3d", 3, input, weight, bias, stride, padding, output_padding, groups, dilation,
        padding_mode, output_size, finish,
    )  # fmt: skip
