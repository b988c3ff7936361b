"""The three convolution roles as plain sums over windows in float64: slow, obvious, the oracle and the last resort."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any

import numpy as np

from lucid.core.geometry import ConvSpec, Sizes
from lucid.kernels.algorithms.base import Executable
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Plan, Problem

Array = np.ndarray[Any, Any]
Index = tuple[Any, ...]

name = "reference"
dtypes = ("float32", "float64", "float16", "bfloat16")


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Nothing: it computes any geometry."""
    return None


def plan(problem: Problem, isa: ISA) -> Plan:
    """About a thousand times slower than a kernel, so it is taken only when asked for or when nothing else can."""
    wide = 8 * problem.batch * (problem.c_in * prod(problem.size) + problem.c_out * problem.pixels)
    return Plan(
        name, problem, isa.name, 1e5 + 10 * problem.flops, workspace_bytes=2 * wide, why="plain sums in float64"
    )


def bind(plan: Plan, isa: ISA) -> Executable:
    """The role's sum with the geometry filled in."""
    asked, spec = plan.problem, plan.problem.spec

    def lifted(array: Array, channels: int, size: Sizes) -> Array:
        return array.reshape(-1, channels, *size)

    def forward(x: Array, w: Array, bias: Array | None, y: Array) -> None:
        wide = w.reshape(asked.c_out, asked.group_in, *spec.kernel)
        y[...] = conv_forward(lifted(x, asked.c_in, asked.size), wide, bias, spec).reshape(y.shape)

    def grad_input(g: Array, w: Array, bias: Array | None, gx: Array) -> None:
        wide = w.reshape(asked.c_out, asked.group_in, *spec.kernel)
        gx[...] = conv_grad_input(lifted(g, asked.c_out, asked.out), wide, bias, spec, asked.size).reshape(gx.shape)

    def grad_weight(x: Array, g: Array, gw: Array) -> None:
        wide = lifted(g, asked.c_out, asked.out)
        gw[...] = conv_grad_weight(lifted(x, asked.c_in, asked.size), wide, spec).reshape(gw.shape)

    roles: dict[str, Executable] = {"forward": forward, "grad_input": grad_input, "grad_weight": grad_weight}
    return roles[asked.role]


def _window(spec: ConvSpec, tap: Sizes, out: Sizes) -> Index:
    """Where one tap reads the padded input, for every output position."""
    axes = zip(tap, spec.dilation, spec.stride, out, strict=True)
    return (..., *(slice(t * d, t * d + s * (o - 1) + 1, s) for t, d, s, o in axes))


def _taps(spec: ConvSpec) -> Iterator[tuple[Sizes, Index]]:
    """Every tap, and where its weights are."""
    return ((tap, (..., *tap)) for tap in product(*map(range, spec.kernel)))


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.complex128 if dtype.kind == "c" else np.float64)


def _padded(x: Array, spec: ConvSpec) -> Array:
    return np.pad(x.astype(_wide(x.dtype)), ((0, 0), (0, 0), *spec.padding))


def _grouped(x: Array, groups: int) -> Array:
    """(N, G C, *size) as (N, G, C, *size)."""
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])


def _flat(x: Array) -> Array:
    """The spatial axes of (N, G, C, *size) as one."""
    return x.reshape(*x.shape[:3], -1)


def conv_forward(x: Array, w: Array, bias: Array | None, spec: ConvSpec) -> Array:
    """y[n, o, p] = bias[o] + sum over c, t of w[o, c, t] x[n, c, p s + t d - low]."""
    out = spec.out_size(x.shape[2:])
    xp, g = _padded(x, spec), spec.groups
    wg = w.reshape(g, w.shape[0] // g, *w.shape[1:]).astype(xp.dtype)
    y = np.zeros((x.shape[0], g, w.shape[0] // g, *out), xp.dtype)
    for tap, weights in _taps(spec):
        window = _grouped(xp[_window(spec, tap, out)], g)
        y += np.einsum("ngc...,goc->ngo...", window, wg[weights])
    y = y.reshape(x.shape[0], w.shape[0], *out)
    if bias is not None:
        y += bias.astype(xp.dtype).reshape(-1, *(1,) * spec.rank)
    return y.astype(x.dtype)


def conv_grad_input(g: Array, w: Array, bias: Array | None, spec: ConvSpec, size: Sizes) -> Array:
    """The adjoint of ``conv_forward`` in x: every output adds its window back. ``size`` is the input's."""
    wide = _wide(g.dtype)
    groups = spec.groups
    gg = _grouped(g.astype(wide), groups)
    wg = w.reshape(groups, w.shape[0] // groups, *w.shape[1:]).astype(wide)
    padded = tuple(n + low + high for n, (low, high) in zip(size, spec.padding, strict=True))
    gx = np.zeros((g.shape[0], groups, w.shape[1], *padded), wide)
    for tap, weights in _taps(spec):
        gx[_window(spec, tap, g.shape[2:])] += np.einsum("ngo...,goc->ngc...", gg, wg[weights])
    inside: Index = (..., *(slice(low, low + n) for n, (low, _) in zip(size, spec.padding, strict=True)))
    gx = gx.reshape(g.shape[0], groups * w.shape[1], *padded)[inside]
    if bias is not None:
        gx = gx + bias.astype(wide).reshape(-1, *(1,) * spec.rank)
    return gx.astype(g.dtype)


def conv_grad_weight(x: Array, g: Array, spec: ConvSpec) -> Array:
    """The adjoint of ``conv_forward`` in w: dw[o, c, t] = sum over n, p of g[n, o, p] x[n, c, p s + t d - low]."""
    xp, groups, out = _padded(x, spec), spec.groups, g.shape[2:]
    gg = _flat(_grouped(g.astype(xp.dtype), groups))
    gw = np.zeros((groups, g.shape[1] // groups, x.shape[1] // groups, *spec.kernel), xp.dtype)
    for tap, weights in _taps(spec):
        window = _grouped(xp[_window(spec, tap, out)], groups)
        gw[weights] = np.einsum("ngop,ngcp->goc", gg, _flat(window))
    return gw.reshape(g.shape[1], x.shape[1] // groups, *spec.kernel).astype(x.dtype)
