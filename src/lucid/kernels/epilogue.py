"""What is done to a convolution's sums on their way out, as code: in a kernel's stores, or in a pass of its own.

::

    value = activation((sum + bias) scale + shift + residual)

``ended`` writes that down once, for both. So with the same algorithm the two give the same bits in float32 and float64;
in half precision a pass of its own rounds once more. The activations are those of ``activations`` and ``functions``.
"""

from __future__ import annotations

from functools import lru_cache
from inspect import Parameter, Signature
from math import prod
from typing import Any

import numpy as np

from lucid.kernels import activations, arithmetic
from lucid.kernels.algorithms.base import Executable
from lucid.kernels.elementwise import Elementwise, Formula
from lucid.kernels.ir import Value, fma
from lucid.kernels.plan import Epilogue, Problem

Array = np.ndarray[Any, Any]

#: The activations that an epilogue may name.
ACTIVATIONS: dict[str, Formula] = {
    kernel.formula.name: kernel.formula
    for kernel in (
        activations.relu,
        activations.hardtanh,
        activations.leaky_relu,
        activations.elu,
        activations.selu,
        activations.silu,
        activations.gelu,
        activations.gelu_tanh,
        activations.mish,
        activations.softplus,
        activations.hardswish,
        activations.hardsigmoid,
        arithmetic.UNARY["sigmoid"],
        arithmetic.UNARY["tanh"],
    )
}

_AFFINE, _RESIDUAL = ("scale", "shift"), ("residual",)
# A pass reads the result and writes it again, 24 GB/s for a thread; the call is as dear as that of any kernel.
_PASS_NS, _PASS_BYTE_NS = 5000.0, 0.04


def operands(epilogue: Epilogue) -> tuple[str, ...]:
    """The arrays that it takes beside the sums."""
    return _AFFINE * epilogue.affine + _RESIDUAL * epilogue.residual


def ended(epilogue: Epilogue, value: Value, **given: Value) -> Value:
    """What is stored for the sum ``value``, bias included; ``given`` are vectors of the ``operands``."""
    if epilogue.affine:
        value = fma(value, given["scale"], given["shift"])
    if epilogue.residual:
        value = value + given["residual"]
    if epilogue.activation:
        formula = ACTIVATIONS[epilogue.activation]
        numbers = zip(formula.numbers, map(value.const, epilogue.numbers), strict=True)
        (value,) = formula([value], dict(numbers))
    return value


@lru_cache(maxsize=256)
def _pass(epilogue: Epilogue) -> Elementwise:
    names = operands(epilogue)

    def formula(value: Value, *given: Value) -> Value:
        return ended(epilogue, value, **dict(zip(names, given, strict=True)))

    parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("value", *names)]
    formula.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return Elementwise("epilogue", formula)


def apply(
    epilogue: Epilogue,
    y: Array,
    scale: Array | None = None,
    shift: Array | None = None,
    residual: Array | None = None,
) -> None:
    """The epilogue of a result that is there already, in place."""
    each = (-1, *(1,) * (y.ndim - 2))
    arrays = {
        "scale": None if scale is None else scale.reshape(each),
        "shift": None if shift is None else shift.reshape(each),
        "residual": residual,
    }
    _pass(epilogue)(y, *(arrays[name] for name in operands(epilogue)), out=(y,))  # type: ignore[arg-type]


def after(plain: Executable, epilogue: Epilogue) -> Executable:
    """An executable that takes the epilogue's arrays, from one whose stores know nothing of it."""

    def run(a: Array, b: Array, bias: Array | None, y: Array, _: None, *extras: Array | None) -> None:
        plain(a, b, bias, y)
        apply(epilogue, y, *extras)

    return run


def pass_ns(problem: Problem) -> float:
    """What ``after`` costs one thread, beyond what the same arithmetic would in the stores."""
    y = (problem.c_out, problem.out) if problem.role == "forward" else (problem.c_in, problem.size)
    return _PASS_NS + 2 * _PASS_BYTE_NS * problem.itemsize * problem.batch * y[0] * prod(y[1])
