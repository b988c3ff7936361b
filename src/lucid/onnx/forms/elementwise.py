"""Arithmetic, functions of one element, comparison, choice, activations."""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi, sqrt
from typing import Any

import numpy as np

from lucid.onnx.forms.table import FORMS, Form, form
from lucid.onnx.graph import At, Graph
from lucid.ops.activation import GELU_CUBIC, SELU_ALPHA, SELU_SCALE

_SAME = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "pow": "Pow", "exp": "Exp", "log": "Log", "sqrt": "Sqrt",
    "reciprocal": "Reciprocal", "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin", "acos": "Acos",
    "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
    "tanh": "Tanh", "sigmoid": "Sigmoid", "erf": "Erf", "neg": "Neg", "abs": "Abs", "sign": "Sign", "floor": "Floor",
    "ceil": "Ceil", "maximum": "Max", "minimum": "Min", "prelu": "PRelu",
}  # fmt: skip
_WHOLE = ("floor", "ceil", "trunc")  # what leaves integers as they are, and ONNX has for floating-point numbers only


def _same(kind: str) -> Callable[[Graph, At], str]:
    def write(g: Graph, s: At) -> str:
        _numbers(g, s)
        return str(g.node(kind, *s.names()))

    return write


def _numbers(g: Graph, s: At) -> None:
    if s.dtype == np.bool_:
        raise g.error(f"{s.step.op} of booleans has no ONNX form; convert them with .to(lucid.int64) first")


FORMS.update({op: Form(_same(kind), False) for op, kind in _SAME.items()})


@form("clone", "contiguous", "positive")
def _itself(g: Graph, s: At) -> str:
    return s.name()


@form("cast")
def _cast(g: Graph, s: At) -> str:
    return g.cast(s.name(), g.dtype_of(s.step.inputs[0]), s.params["dtype"])


@form("div")
def _div(g: Graph, s: At) -> str:
    return str(g.node("Div", *s.names()))


@form("remainder")
def _remainder(g: Graph, s: At) -> str:
    a, b = s.names()
    if s.dtype.kind != "f":
        return str(g.node("Mod", a, b))
    return str(g.node("Sub", a, g.node("Mul", b, g.node("Floor", g.node("Div", a, b)))))


@form("fmod")
def _fmod(g: Graph, s: At) -> str:
    return str(g.node("Mod", *s.names(), fmod=1))


@form("floor_divide")
def _floor_divide(g: Graph, s: At) -> str:
    a, b = s.names()
    if s.dtype.kind == "f":
        return str(g.node("Floor", g.node("Div", a, b)))
    return str(g.node("Div", g.node("Sub", a, g.node("Mod", a, b)), b))  # ONNX divides towards zero


def _times(g: Graph, s: At, x: str, factor: float) -> str:
    return str(g.node("Mul", x, g.constant(factor, s.dtype)))


def _plus(g: Graph, s: At, x: str, term: float) -> str:
    return str(g.node("Add", x, g.constant(term, s.dtype)))


_STEPS: dict[str, Callable[[Graph, At, str], str]] = {
    "exp2": lambda g, s, x: g.node("Pow", g.constant(2, s.dtype), x),
    "expm1": lambda g, s, x: _plus(g, s, g.node("Exp", x), -1),
    "log2": lambda g, s, x: _times(g, s, g.node("Log", x), 1 / log(2)),
    "log10": lambda g, s, x: _times(g, s, g.node("Log", x), 1 / log(10)),
    "log1p": lambda g, s, x: g.node("Log", _plus(g, s, x, 1)),
    "rsqrt": lambda g, s, x: g.node("Reciprocal", g.node("Sqrt", x)),
    "square": lambda g, s, x: g.node("Mul", x, x),
    "erfc": lambda g, s, x: g.node("Sub", g.constant(1, s.dtype), g.node("Erf", x)),
    "trunc": lambda g, s, x: g.node("Mul", g.node("Sign", x), g.node("Floor", g.node("Abs", x))),
    "relu": lambda g, s, x: g.node("Relu", x),
    "silu": lambda g, s, x: g.node("Mul", x, g.node("Sigmoid", x)),
    "mish": lambda g, s, x: g.node("Mul", x, g.node("Tanh", g.node("Softplus", x))),
    "hardsigmoid": lambda g, s, x: g.node("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "hardswish": lambda g, s, x: g.node("HardSwish", x),
    "gelu": lambda g, s, x: _gate(g, s, x, g.node("Erf", _times(g, s, x, sqrt(0.5)))),
    "gelu_tanh": lambda g, s, x: _gate(g, s, x, g.node("Tanh", _cubic(g, s, x))),
    "selu": lambda g, s, x: g.node("Selu", x, alpha=SELU_ALPHA, gamma=SELU_SCALE),
}


def _gate(g: Graph, s: At, x: str, t: str) -> str:
    """x (1 + t) / 2."""
    return _times(g, s, g.node("Mul", x, _plus(g, s, t, 1)), 0.5)


def _cubic(g: Graph, s: At, x: str) -> str:
    cube = _times(g, s, g.node("Mul", g.node("Mul", x, x), x), GELU_CUBIC)
    return _times(g, s, g.node("Add", x, cube), sqrt(2 / pi))


def _softplus(g: Graph, s: At, x: str, beta: float, threshold: float) -> str:
    z = _times(g, s, x, beta) if beta != 1 else x
    y = g.node("Softplus", z)
    y = _times(g, s, y, 1 / beta) if beta != 1 else y
    return str(g.node("Where", g.node("Greater", z, g.constant(threshold, s.dtype)), x, y))


def _clipped(g: Graph, s: At, x: str, low: float, high: float) -> str:
    bounds = (g.constant(b, s.dtype) if np.isfinite(b) else "" for b in (low, high))
    return str(g.node("Clip", x, *bounds))


#: Activations with numbers.
_NUMBERED: dict[str, Callable[..., str]] = {
    "leaky_relu": lambda g, s, x, slope: g.node("LeakyRelu", x, alpha=slope),
    "elu": lambda g, s, x, alpha: g.node("Elu", x, alpha=alpha),
    "softplus": _softplus,
    "hardtanh": _clipped,
}


def activated(g: Graph, s: At, name: str, numbers: tuple[Any, ...], x: str) -> str:
    """The activation of that name of x."""
    if name in _NUMBERED:
        return _NUMBERED[name](g, s, x, *numbers)
    return str(_STEPS[name](g, s, x) if name in _STEPS else g.node(_SAME[name], x))


@form(*_STEPS, *_NUMBERED)
def _in_steps(g: Graph, s: At) -> str:
    if s.dtype.kind != "f" and s.step.op in _WHOLE:
        return s.name()
    return activated(g, s, s.step.op, s.params.get("params", ()), s.name())


@form("floor", "ceil")
def _whole(g: Graph, s: At) -> str:
    return s.name() if s.dtype.kind != "f" else str(g.node(_SAME[s.step.op], s.name()))


@form("round")
def _round(g: Graph, s: At) -> str:
    if s.dtype.kind != "f":
        raise g.error("round of integers has no ONNX form")
    scale = 10.0 ** s.params["decimals"]
    if scale == 1:
        return str(g.node("Round", s.name()))
    return _times(g, s, g.node("Round", _times(g, s, s.name(), scale)), 1 / scale)


@form("clamp")
def _clamp(g: Graph, s: At) -> str:
    return str(g.node("Clip", *s.names()))


# Comparison and logic


def _alike(g: Graph, s: At) -> tuple[str, str]:
    """Two operands in one type: a fraction beside integers makes fractions of them."""
    types = [g.dtype_of(x) for x in s.step.inputs]
    plain = [x if isinstance(x, (bool, int, float)) else t for x, t in zip(s.step.inputs, types, strict=True)]
    common = np.result_type(*plain)
    a, b = (
        g.constant(x, common) if isinstance(x, (bool, int, float)) else g.cast(s.name(k), types[k], common)
        for k, x in enumerate(s.step.inputs)
    )
    return a, b


_COMPARED = {
    "eq": ("Equal", False), "ne": ("Equal", True), "lt": ("Less", False), "gt": ("Greater", False),
    "le": ("LessOrEqual", False), "ge": ("GreaterOrEqual", False),
}  # fmt: skip


@form(*_COMPARED)
def _compared(g: Graph, s: At) -> str:
    kind, opposite = _COMPARED[s.step.op]
    found = g.node(kind, *_alike(g, s))
    return str(g.node("Not", found) if opposite else found)


def _truth(g: Graph, s: At, k: int = 0) -> str:
    x = s.step.inputs[k]
    if isinstance(x, (bool, int, float)):
        return g.constant(bool(x))
    return g.cast(s.name(k), g.dtype_of(x), np.bool_)


_LOGIC = {"logical_and": "And", "logical_or": "Or", "logical_xor": "Xor"}
_BITS = {"bitwise_and": "And", "bitwise_or": "Or", "bitwise_xor": "Xor"}


@form(*_LOGIC)
def _logic(g: Graph, s: At) -> str:
    return str(g.node(_LOGIC[s.step.op], _truth(g, s, 0), _truth(g, s, 1)))


@form(*_BITS)
def _bits(g: Graph, s: At) -> str:
    kind = _BITS[s.step.op]
    return str(g.node(kind if s.dtype == np.bool_ else f"Bitwise{kind}", *s.names()))


@form("logical_not")
def _not(g: Graph, s: At) -> str:
    return str(g.node("Not", _truth(g, s)))


@form("bitwise_not")
def _invert(g: Graph, s: At) -> str:
    return str(g.node("Not" if s.dtype == np.bool_ else "BitwiseNot", s.name()))


@form("isnan", "isinf", "isfinite")
def _kinds(g: Graph, s: At) -> str:
    nan = g.node("IsNaN", s.name()) if s.step.op != "isinf" else ""
    inf = g.node("IsInf", s.name()) if s.step.op != "isnan" else ""
    return str(g.node("Not", g.node("Or", nan, inf)) if nan and inf else nan or inf)


@form("where")
def _where(g: Graph, s: At) -> str:
    sides = (
        g.constant(x, s.dtype) if not hasattr(x, "number") and not hasattr(x, "array") else s.name(k)
        for k, x in enumerate(s.step.inputs[1:], start=1)
    )
    return str(g.node("Where", _truth(g, s), *sides))
