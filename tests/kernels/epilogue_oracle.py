"""What epilogues make of a convolution's result, in double precision, and how far a kernel may be from that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import erf, expit

from lucid.kernels.plan import Epilogue

Array = np.ndarray[Any, Any]

_NARROW = {"float16": (2.0**-11, 2.0**-24), "bfloat16": (2.0**-8, 2.0**-133)}


@dataclass(frozen=True)
class Activation:
    """A function of z, the numbers to try it with, and how steep it is at most."""

    function: Callable[..., Array]
    steepest: float
    numbers: tuple[float, ...] = ()


def _gelu_tanh(z: Array) -> Array:
    return 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))


#: 1.1 and 1.13 are the largest slopes of silu and gelu, 1.5 that of hardswish at 3, 1.09 that of mish.
ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(lambda z: np.maximum(z, 0), 1.0),
    "leaky_relu": Activation(lambda z, slope: np.where(z > 0, z, slope * z), 1.0, (0.1,)),
    "silu": Activation(lambda z: z * expit(z), 1.1),
    "gelu": Activation(lambda z: z * 0.5 * (1 + erf(z / np.sqrt(2))), 1.13),
    "gelu_tanh": Activation(_gelu_tanh, 1.13),
    "hardtanh": Activation(lambda z, low, high: np.clip(z, low, high), 1.0, (0.0, 6.0)),
    "hardswish": Activation(lambda z: z * np.clip(z + 3, 0, 6) / 6, 1.5),
    "elu": Activation(lambda z, alpha: np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0))), 1.0, (1.0,)),
    "mish": Activation(lambda z: z * np.tanh(np.logaddexp(0, z)), 1.09),
    "softplus": Activation(
        lambda z, beta, threshold: np.where(z * beta > threshold, z, np.logaddexp(0, z * beta) / beta), 1.0, (1.5, 20.0)
    ),
    "sigmoid": Activation(expit, 0.25),
    "tanh": Activation(np.tanh, 1.0),
}


def through(
    epilogue: Epilogue,
    dtype: str,
    y: Array,
    bound: Array,
    scale: Array | None = None,
    shift: Array | None = None,
    residual: Array | None = None,
) -> tuple[Array, Array]:
    """The result for a convolution's exact ``y``, and the bound on it where ``bound`` holds for y.

    The error of y is scaled by the scale and the slope. Each of the sums adds a rounding of at most their terms'
    absolute values, and an activation 8 units of its own result or, where it subtracts, of its argument (its functions
    are within 2 units each). Half precision is rounded once more at the end, and before it where the epilogue is a pass
    of its own, which the bound on y counts.
    """
    unit = np.finfo(np.float64 if dtype == "float64" else np.float32).eps / 2
    z, size = y, np.abs(y)
    if scale is not None and shift is not None:
        each = (-1, *(1,) * (y.ndim - 2))
        scale, shift = scale.reshape(each), shift.reshape(each)
        z, size, bound = scale * z + shift, np.abs(scale) * size + np.abs(shift), np.abs(scale) * bound
    if residual is not None:
        z, size = z + residual, size + np.abs(residual)
    bound = bound + 4 * unit * size
    if epilogue.activation:
        activation = ACTIVATIONS[epilogue.activation]
        bound = activation.steepest * bound + 8 * unit * (1 + np.abs(z))
        z = activation.function(z, *epilogue.numbers)
    if dtype in _NARROW:
        half, tiny = _NARROW[dtype]
        bound = bound * (1 + half) + half * np.abs(z) + tiny
    return z, bound + np.finfo(np.float32).tiny
