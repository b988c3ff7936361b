"""Initial values, written into a tensor in place. All draw from the default generator unless given one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lucid.core.errors import ShapeError
from lucid.ops.random import Generator, default_generator
from lucid.tensor import Tensor

# Gain that keeps the variance through a nonlinearity. Source: He et al., arXiv:1502.01852; LeCun et al., 1998.
GAINS = {
    "linear": 1.0,
    **{f"conv{rank}d": 1.0 for rank in (1, 2, 3)},
    **{f"conv_transpose{rank}d": 1.0 for rank in (1, 2, 3)},
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
    "selu": 3 / 4,
}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps a signal's variance through ``nonlinearity``; ``param`` is the slope of "leaky_relu".

    >>> calculate_gain("relu") ** 2
    2.0000000000000004
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in GAINS:
        known = ", ".join(map(repr, [*GAINS, "leaky_relu"]))
        raise ValueError(f"calculate_gain: nonlinearity={nonlinearity!r} must be one of {known}")
    return GAINS[nonlinearity]


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform on [a, b)."""
    return _set(tensor, _draws(generator).random(tensor.shape) * (b - a) + a)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with this mean and standard deviation."""
    return _set(tensor, _draws(generator).standard_normal(tensor.shape) * std + mean)


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Normal, drawn again where outside [a, b]."""
    if not a < b:
        raise ValueError(f"trunc_normal_: a={a} must be below b={b}")
    low, high = ((bound - mean) / std for bound in (a, b))
    if low > 5 or high < -5:
        raise ValueError(
            f"trunc_normal_: [{a}, {b}] is more than 5 std away from mean={mean}: almost no draw falls inside"
        )
    draws = _draws(generator)
    values = draws.standard_normal(tensor.shape)
    while (outside := (values < low) | (values > high)).any():
        values[outside] = draws.standard_normal(int(outside.sum()))
    return _set(tensor, values * std + mean)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """One value everywhere."""
    return _set(tensor, val)


def ones_(tensor: Tensor) -> Tensor:
    """1 everywhere."""
    return _set(tensor, 1)


def zeros_(tensor: Tensor) -> Tensor:
    """0 everywhere."""
    return _set(tensor, 0)


def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix."""
    if tensor.ndim != 2:
        raise ShapeError(f"eye_: the tensor {tensor.shape} must have 2 axes")
    return _set(tensor, np.eye(tensor.shape[0], tensor.shape[1]))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A convolution weight that passes its input on: output o of each group is input o, by the kernel's centre."""
    if tensor.ndim not in (3, 4, 5):
        raise ShapeError(f"dirac_: the weight {tensor.shape} must have 1 to 3 spatial axes")
    if groups < 1 or tensor.shape[0] % groups:
        raise ShapeError(f"dirac_: the {tensor.shape[0]} output channels must be a multiple of groups={groups}")
    values = np.zeros(tensor.shape)
    centre = tuple(k // 2 for k in tensor.shape[2:])
    each = tensor.shape[0] // groups
    for group in range(groups):
        for channel in range(min(each, tensor.shape[1])):
            values[(group * each + channel, channel, *centre)] = 1
    return _set(tensor, values)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """U(-a, a), a = gain √(6 / (fan_in + fan_out)).

    Source: Glorot & Bengio, AISTATS 2010.
    """
    bound = gain * math.sqrt(6 / sum(_fans("xavier_uniform_", tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """N(0, std²), std = gain √(2 / (fan_in + fan_out)).

    Source: Glorot & Bengio, AISTATS 2010.
    """
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(_fans("xavier_normal_", tensor))), generator)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """U(-b, b), b = gain √(3 / fan); ``a`` is the slope of "leaky_relu". √5 gives the bound 1/√fan_in of the layers.

    Source: He et al., arXiv:1502.01852.
    """
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3 / _fan("kaiming_uniform_", tensor, mode))
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """N(0, std²), std = gain / √fan.

    Source: He et al., arXiv:1502.01852.
    """
    std = calculate_gain(nonlinearity, a) / math.sqrt(_fan("kaiming_normal_", tensor, mode))
    return normal_(tensor, 0.0, std, generator)


def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """A matrix (all but the first axis as one) with orthonormal rows or columns, times ``gain``.

    Source: Saxe et al., arXiv:1312.6120.
    """
    if tensor.ndim < 2:
        raise ShapeError(f"orthogonal_: the tensor {tensor.shape} must have at least 2 axes")
    rows = tensor.shape[0]
    columns = tensor.numel() // max(rows, 1)
    q, r = np.linalg.qr(_draws(generator).standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.where(np.diag(r) < 0, -1, 1)  # uniform over all such matrices
    return _set(tensor, gain * (q if rows >= columns else q.T).reshape(tensor.shape))


def icnr_(tensor: Tensor, upscale_factor: int = 2, initializer: Callable[[Tensor], Tensor] = kaiming_normal_) -> Tensor:
    """A weight for the convolution before a ``pixel_shuffle``: the filters of one square begin alike.

    So the image begins without a checkerboard. Source: Aitken et al., arXiv:1707.02937.
    """
    square = upscale_factor**2
    if upscale_factor < 1 or tensor.ndim < 1 or tensor.shape[0] % square:
        raise ShapeError(f"icnr_: the first axis of {tensor.shape} must be a multiple of upscale_factor² = {square}")
    one = initializer(Tensor(np.empty((tensor.shape[0] // square, *tensor.shape[1:]), tensor.dtype.numpy)))
    return _set(tensor, np.repeat(one.numpy(), square, axis=0))


def _draws(generator: Generator | None) -> np.random.Generator:
    return (generator or default_generator()).numpy


def _fans(caller: str, tensor: Tensor) -> tuple[int, int]:
    """Inputs and outputs of one unit: channels times kernel positions."""
    if tensor.ndim < 2:
        raise ShapeError(f"{caller}: the tensor {tensor.shape} must have at least 2 axes, to count inputs and outputs")
    taps = math.prod(tensor.shape[2:])
    return tensor.shape[1] * taps, tensor.shape[0] * taps


def _fan(caller: str, tensor: Tensor, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{caller}: mode={mode!r} must be 'fan_in' or 'fan_out'")
    return _fans(caller, tensor)[mode == "fan_out"]


def _set(tensor: Tensor, values: Any) -> Tensor:
    """Write past the graph, as under ``no_grad``."""
    tensor._array[...] = values
    tensor._version[0] += 1
    return tensor


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """PyTorch's name of ``_fans``, which layers of one's own are initialised by."""
    return _fans("_calculate_fan_in_and_fan_out", tensor)


def _calculate_correct_fan(tensor: Tensor, mode: str) -> int:
    """PyTorch's name of ``_fan``."""
    return _fan("_calculate_correct_fan", tensor, mode)


#: Names of old, without the underscore.
uniform, normal, constant, eye, dirac = uniform_, normal_, constant_, eye_, dirac_
xavier_uniform, xavier_normal, orthogonal = xavier_uniform_, xavier_normal_, orthogonal_
kaiming_uniform, kaiming_normal = kaiming_uniform_, kaiming_normal_
