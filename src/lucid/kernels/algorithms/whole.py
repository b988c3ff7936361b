"""Convolutions of a single window, which is all of x: matrix products of the arrays as they lie.

With one window there is one output position, every tap meets a sample of its own, and (channel, tap) is one axis of x
and of w alike, K long::

    forward        y (N, C_out)  = x (N, K) w (C_out, K)^T
    grad_input     gx (N, K)     = g (N, C_out) w (C_out, K)
    grad_weight    gw (C_out, K) = g (N, C_out)^T x (N, K)

A generator's first layer, a discriminator's last, squeezed channels: weights are many beside the positions, so they are
read once, where they lie, and never packed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lucid.kernels.algorithms.base import Executable, far_bytes, sum_type
from lucid.kernels.isa import ISA
from lucid.kernels.matmul import DTYPES, matmul, matmul_into
from lucid.kernels.plan import Plan, Problem, Role

Array = np.ndarray[Any, Any]

name = "whole"
dtypes = DTYPES

#: Of one thread, in ns: a call, a vector product, a byte of the arrays, and one from memory. Measured on a Zen 5.
_CALL_NS, _PRODUCT_NS, _NEAR_BYTE_NS, _FAR_BYTE_NS = 5000.0, 0.12, 0.02, 0.03
_STAYS_BYTES, _WRITTEN_BYTE_NS = 4 << 20, 0.065  # of a result, and of what is beyond: a product reads what it writes


def refuses(problem: Problem, isa: ISA) -> str | None:
    """More windows than one, windows that are not all of x, groups."""
    spec = problem.spec
    if problem.pixels > 1 or spec.kernel != problem.size or any(map(any, spec.padding)) or spec.groups > 1:
        return "it computes one window, which is all of x, in one group"
    return None


def plan(problem: Problem, isa: ISA) -> Plan:
    """There is one way."""
    products, traffic = problem.flops / 2 / isa.lanes(sum_type(problem)), problem.traffic_bytes
    ns = _CALL_NS + _PRODUCT_NS * products + _NEAR_BYTE_NS * traffic + _FAR_BYTE_NS * far_bytes(traffic)
    ns += _WRITTEN_BYTE_NS * max(0, problem.written_bytes - _STAYS_BYTES)
    return Plan(name, problem, isa.name, ns, why="a matrix product of the arrays as they lie")


def bind(plan: Plan, isa: ISA) -> Executable:
    """The product of the problem's role."""
    made: dict[Role, Executable] = {"forward": _forward, "grad_input": _grad_input, "grad_weight": _grad_weight}
    return made[plan.problem.role]


def _rows(a: Array) -> Array:
    return a.reshape(len(a), -1)


def _forward(x: Array, w: Array, bias: Array | None, y: Array) -> None:
    matmul_into(_rows(y), _rows(x), _rows(w).T, bias)


def _grad_input(g: Array, w: Array, bias: Array | None, gx: Array) -> None:
    if bias is None:
        matmul_into(_rows(gx), _rows(g), _rows(w))
    else:
        gx[...] = bias.reshape(-1, *(1,) * (gx.ndim - 2))
        matmul(_rows(g), _rows(w), out=_rows(gx))


def _grad_weight(x: Array, g: Array, gw: Array) -> None:
    matmul_into(_rows(gw), _rows(g).T, _rows(x))
