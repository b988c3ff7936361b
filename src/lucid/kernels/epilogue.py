"""What is done to a convolution's sums on their way out, as code: in a kernel's stores, or in a pass of its own.

::

    value = activation((sum + bias) scale + shift + residual)

``ended`` writes that down once, for both. So with the same algorithm the two give the same bits in float32 and float64;
in half precision a pass of its own rounds once more. The activations are those of ``activations`` and ``functions``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import Parameter, Signature
from math import prod
from typing import Any

import numpy as np

from lucid.kernels import activations, arithmetic
from lucid.kernels.algorithms.base import Executable
from lucid.kernels.elementwise import Elementwise, Formula
from lucid.kernels.ir import Pointer, Type, Value, convert, fma, ptr, select, splat
from lucid.kernels.plan import PLAIN, Epilogue, Problem

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

_SHORT = ("relu", "leaky_relu", "hardtanh")
_AFFINE, _RESIDUAL = ("scale", "shift"), ("residual",)
# 24 GB/s for a thread; the call is as dear as that of any kernel.
_PASS_NS, _PASS_BYTE_NS = 5000.0, 0.04


def operands(epilogue: Epilogue) -> tuple[str, ...]:
    """The arrays that it takes beside the sums."""
    return _AFFINE * epilogue.affine + _RESIDUAL * epilogue.residual


def in_registers(epilogue: Epilogue) -> bool:
    """Whether it is so little that a dense tile does it before it stores: an activation of a few instructions, alone.

    Others would make tiles of many registers long to compile, and end in a loop over what the tile has stored.
    """
    return bool(epilogue) and is_short(epilogue) and not operands(epilogue)


def is_short(epilogue: Epilogue) -> bool:
    """Whether it is a few instructions a vector, whatever its arrays."""
    return epilogue.activation in ("", *_SHORT)


def parameters(epilogue: Epilogue, element: Type) -> dict[str, Any]:
    """The operands as parameters of a kernel's function."""
    return dict.fromkeys(operands(epilogue), ptr(element))


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


@dataclass(frozen=True, slots=True)
class Destination:
    """A place in the result: every sum that is stored through it ends on the way, and is rounded to its type.

    ``scale`` and ``shift`` are the channel's numbers, or vectors where lanes are channels; ``residual`` is at the same
    place as ``y``.
    """

    y: Pointer
    epilogue: Epilogue = PLAIN
    scale: Value | None = None
    shift: Value | None = None
    residual: Pointer | None = None

    def at(self, index: Any) -> Destination:
        """The place ``index`` elements further on, in the same channel."""
        residual = None if self.residual is None else self.residual.at(index)
        return Destination(self.y.at(index), self.epilogue, self.scale, self.shift, residual)

    def unless(self, missing: Value, spare: Pointer) -> Destination:
        """This place, or one that is to be thrown away."""
        y, residual = (p if p is None else _chosen(missing, spare, p) for p in (self.y, self.residual))
        assert y is not None, "a result has a place"
        return Destination(y, self.epilogue, self.scale, self.shift, residual)

    def store(self, value: Value, index: Any = 0, mask: Value | None = None, nontemporal: bool = False) -> None:
        """Ends a vector of sums and puts it; one of halves was ``rounded`` before."""
        if value.type.element.bits == self.y.pointee.bits < 32:
            self.y.store(value, index, mask, nontemporal)
            return
        element, lanes, given = value.type.element, value.type.lanes, dict[str, Value]()
        if self.residual is not None:
            given["residual"] = convert(self.residual.load(index, lanes, mask), element)
        self.y.store(self._ended(value, given), index, mask, nontemporal)

    def rounded(self, value: Value) -> Value:
        """A vector of sums as it is stored, where that is in half precision and depends on no place."""
        done = self.residual is not None or self.y.pointee.bits == value.type.bits
        return value if done else self._ended(value, {})

    def _ended(self, value: Value, given: dict[str, Value]) -> Value:
        element, lanes = value.type.element, value.type.lanes
        for name, number in (("scale", self.scale), ("shift", self.shift)):
            if number is not None:
                wide = convert(number, element)
                given[name] = splat(wide, lanes) if wide.type.lanes == 1 else wide
        return convert(ended(self.epilogue, value, **given), self.y.pointee)


def _chosen(condition: Value, a: Pointer, b: Pointer) -> Pointer:
    chosen = select(condition, a, b)
    assert isinstance(chosen, Pointer)
    return chosen


@dataclass(frozen=True, slots=True)
class Arrays:
    """A result and the arrays of its epilogue, as a kernel has them; ``given`` are the ``operands`` by name."""

    epilogue: Epilogue
    y: Pointer
    given: Mapping[str, Pointer]

    @classmethod
    def of(cls, epilogue: Epilogue, y: Pointer, arguments: Any) -> Arrays:
        """Of a function that has the epilogue's ``parameters``."""
        return cls(epilogue, y, {name: getattr(arguments, name) for name in operands(epilogue)})

    def at(self, channel: Any, index: Any) -> Arrays:
        """The same from a channel and the result's element ``index`` on."""
        moved = {name: p.at(index if name in _RESIDUAL else channel) for name, p in self.given.items()}
        return Arrays(self.epilogue, self.y.at(index), moved)

    def destination(self, channel: Any = 0, index: Any = 0) -> Destination:
        """The result's element ``index``, which belongs to a channel."""
        here = self.at(channel, index)
        numbers: dict[str, Any] = {name: here.given[name].load() for name in _AFFINE if name in here.given}
        return Destination(here.y, self.epilogue, **numbers, residual=here.given.get("residual"))

    def of_channels(self, y: Pointer, channel: Value, lanes: int, mask: Value) -> Destination:
        """A place elsewhere whose lanes are channels from ``channel`` on, if there is no residual."""
        assert not self.epilogue.residual, "a residual lies as the result does"
        numbers: dict[str, Any] = {name: pointer.load(channel, lanes, mask) for name, pointer in self.given.items()}
        return Destination(y, self.epilogue, **numbers)


#: Where a bound plan finds them among its arguments.
ARGUMENTS = {"scale": 5, "shift": 6, "residual": 7}


def sources(epilogue: Epilogue, nothing: int) -> Sequence[int]:
    """The arguments that scale, shift and residual come from; ``nothing`` for those that there are not."""
    there = operands(epilogue)
    return [place if name in there else nothing for name, place in ARGUMENTS.items()]


@lru_cache(maxsize=256)
def _pass(epilogue: Epilogue) -> Elementwise:
    names = operands(epilogue)

    def formula(value: Value, *given: Value) -> Value:
        return ended(epilogue, value, **dict(zip(names, given, strict=True)))

    takes = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("value", *names)]
    formula.__signature__ = Signature(takes)  # type: ignore[attr-defined]
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
    return moving_ns(2 * problem.itemsize * problem.batch * y[0] * prod(y[1]))


def moving_ns(size_bytes: int) -> float:
    """What a pass of its own costs one thread that reads and writes so many bytes."""
    return _PASS_NS + _PASS_BYTE_NS * size_bytes
