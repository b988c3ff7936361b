"""Arithmetic and functions of one element as kernels, by name. NumPy is quicker on small arrays."""

from __future__ import annotations

from lucid.kernels import functions as fn
from lucid.kernels.elementwise import Elementwise
from lucid.kernels.ir import absolute, floor, maximum, minimum, select
from lucid.kernels.ir import sqrt as root

BINARY = {
    e.formula.name: e
    for e in (
        Elementwise("add", lambda a, b: a + b),
        Elementwise("sub", lambda a, b: a - b),
        Elementwise("mul", lambda a, b: a * b),
        Elementwise("div", lambda a, b: a / b),
        Elementwise("maximum", lambda a, b: maximum(a, b)),
        Elementwise("minimum", lambda a, b: minimum(a, b)),
    )
}

UNARY = {
    e.formula.name: e
    for e in (
        *(Elementwise(name, function) for name, function in fn.UNARY.items()),
        Elementwise("neg", lambda x: -x),
        Elementwise("abs", lambda x: absolute(x)),
        Elementwise("square", lambda x: x * x),
        Elementwise("cube", lambda x: x * x * x),
        Elementwise("floor", lambda x: floor(x)),
        Elementwise("sign", lambda x: select(x > 0.0, 1.0, select(x < 0.0, -1.0, x + 0.0))),
        Elementwise("sqrt", lambda x: root(x)),
        Elementwise("rsqrt", lambda x: 1.0 / root(x)),
        Elementwise("reciprocal", lambda x: 1.0 / x),
    )
}

#: The gradients of functions whose results tell them, in one pass: of ``g`` and the result.
BY_RESULT = {
    name: Elementwise(f"{name}_grad", formula)
    for name, formula in {
        "sigmoid": lambda g, out: g * out * (1.0 - out),
        "tanh": lambda g, out: g * (1.0 - out * out),
    }.items()
}

where = Elementwise("where", lambda condition, a, b: select(condition, a, b))
