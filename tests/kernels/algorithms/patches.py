"""The three roles of convolution in float64 from patches gathered index by index, and how far a kernel may be off."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any

import numpy as np

from lucid.core.geometry import ConvSpec
from lucid.kernels import convolution, target
from lucid.kernels.plan import Problem
from tests.kernels.guard import guarded

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A convolution to test; ``padding`` is one number, or (low, high) per axis."""

    batch: int
    c_in: int
    c_out: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...] | int = 1
    dilation: tuple[int, ...] | int = 1
    padding: tuple[tuple[int, int], ...] | int = 0
    groups: int = 1
    dtype: str = "float32"
    bias: bool = False

    @property
    def spec(self) -> ConvSpec:
        rank = len(self.size)
        stride, dilation = ((v,) * rank if isinstance(v, int) else v for v in (self.stride, self.dilation))
        padding = ((self.padding,) * 2,) * rank if isinstance(self.padding, int) else self.padding
        return ConvSpec(self.kernel, stride, dilation, padding, self.groups)

    @property
    def out(self) -> tuple[int, ...]:
        return self.spec.out_size(self.size)

    def problem(self, role: Any) -> Problem:
        x, y = (self.batch, self.c_in, *self.size), (self.batch, self.c_out, *self.out)
        return convolution.problem(role, self.spec, x, y, self.dtype, self.bias and role != "grad_weight")

    def arrays(self, seed: int = 0) -> dict[str, Array]:
        """Random x, w, y-shaped g and the two biases."""
        rng = np.random.default_rng(seed)
        shapes = {
            "x": (self.batch, self.c_in, *self.size),
            "w": (self.c_out, self.c_in // self.groups, *self.kernel),
            "g": (self.batch, self.c_out, *self.out),
            "b_out": (self.c_out,),
            "b_in": (self.c_in,),
        }
        return {name: rng.standard_normal(shape).astype(self.dtype) for name, shape in shapes.items()}

    def typed(self, dtype: str) -> Case:
        return replace(self, dtype=dtype)


OPERANDS = {"forward": ("x", "w", "b_out"), "grad_input": ("g", "w", "b_in"), "grad_weight": ("x", "g")}
RESULT = {"forward": "g", "grad_input": "x", "grad_weight": "w"}


@cache
def tap_places(case: Case) -> tuple[Array, Array]:
    """Flat positions in x that each (tap, pixel) reads, and whether they exist."""
    spec, rank = case.spec, len(case.size)
    taps = np.indices(spec.kernel).reshape(rank, -1, 1)
    pixels = np.indices(case.out).reshape(rank, 1, -1)
    at, exist = 0, True
    for axis in range(rank):
        low, size = spec.padding[axis][0], case.size[axis]
        place = pixels[axis] * spec.stride[axis] + taps[axis] * spec.dilation[axis] - low
        at, exist = at * size + place, exist & (place >= 0) & (place < size)
    return np.where(exist, at, 0), exist


def expected(case: Case, role: str, arrays: dict[str, Array]) -> Array:
    """The role by its definition in float64."""
    places, exist = tap_places(case)
    n, groups = case.batch, case.groups
    a = {k: v.astype(np.float64) for k, v in arrays.items()}
    w = a["w"].reshape(groups, case.c_out // groups, case.c_in // groups, -1)
    x = a["x"].reshape(n, groups, case.c_in // groups, -1)
    g = a["g"].reshape(n, groups, case.c_out // groups, -1)
    if role == "grad_input":
        patches = np.einsum("ngop,goct->ngctp", g, w)
        result = np.zeros_like(x)
        for t, places_of_tap in enumerate(places):  # no two pixels of a tap read the same place
            inside = exist[t]
            result[..., places_of_tap[inside]] += patches[:, :, :, t, inside]
        bias = a["b_in"]
    else:
        patches = np.where(exist, x[..., places], 0)
        if role == "grad_weight":
            return np.einsum("ngop,ngctp->goct", g, patches).reshape(a["w"].shape)
        result, bias = np.einsum("ngctp,goct->ngop", patches, w), a["b_out"]
    channels = case.c_in if role == "grad_input" else case.c_out
    result = result.reshape(n, channels, -1) + (bias[:, None] if case.bias else 0)
    return result.reshape(a[RESULT[role]].shape)


def terms(case: Case, role: str) -> int:
    """The most products in one sum, and the bias."""
    each = {
        "forward": case.c_in // case.groups * case.spec.taps,
        "grad_input": case.c_out // case.groups * case.spec.taps,
    }
    return each.get(role, case.batch * prod(case.out)) + 1


def bound(case: Case, role: str, arrays: dict[str, Array]) -> Array:
    """n u / (1 - n u) times the sum of absolute products: the most that a sum in any order is off.

    Twice that in float64, where what is expected is off as well.
    """
    unit = np.finfo(case.dtype).eps / 2 * terms(case, role)
    sums = 2 if case.dtype == "float64" else 1
    return sums * unit / (1 - unit) * expected(case, role, {k: np.abs(v) for k, v in arrays.items()})


def run(algorithm: Any, case: Case, role: str, arrays: dict[str, Array], where: Any = "end") -> Array:
    """The algorithm's result, computed between guard pages."""
    problem, isa = case.problem(role), target.isa()
    call = algorithm.bind(algorithm.plan(problem, isa), isa)
    names = OPERANDS[role]
    with (
        guarded(arrays[names[0]], where=where) as first,
        guarded(arrays[names[1]], where=where) as second,
        guarded(arrays[names[-1]], where=where) as third,
        guarded(arrays[RESULT[role]].shape, case.dtype, where=where) as result,
    ):
        bias = () if role == "grad_weight" else (third if case.bias else None,)
        call(first, second, *bias, result)
        return result.copy()


def run_both(algorithm: Any, case: Case, arrays: dict[str, Array], where: Any = "end") -> tuple[Array, Array]:
    """The gradients of the weight and of the bias from one pass, between guard pages."""
    isa = target.isa()
    plan = algorithm.plan(replace(case.problem("grad_weight"), bias=True), isa)
    assert plan.sums_upstream
    with (
        guarded(arrays["x"], where=where, readonly=True) as x,
        guarded(arrays["g"], where=where, readonly=True) as g,
        guarded(arrays["w"].shape, case.dtype, where=where) as gw,
        guarded((case.c_out,), case.dtype, where=where) as gb,
    ):
        algorithm.bind(plan, isa)(x, g, gw, gb)
        return gw.copy(), gb.copy()


def check_both(algorithm: Any, case: Case, where: Any = "end") -> None:
    """Both sums of one pass agree with the definition within the bound."""
    arrays = case.arrays()
    gw, gb = run_both(algorithm, case, arrays, where)
    worst = np.abs(gw - expected(case, "grad_weight", arrays)) - bound(case, "grad_weight", arrays)
    assert worst.max() <= 0, f"{case}: gw is {worst.max():.1e} beyond the bound"
    g = np.moveaxis(arrays["g"].astype(np.float64), 1, 0).reshape(case.c_out, -1)
    unit = np.finfo(case.dtype).eps / 2 * g.shape[1] * (2 if case.dtype == "float64" else 1)  # ours, and the oracle's
    assert (np.abs(gb - g.sum(1)) <= unit / (1 - unit) * np.abs(g).sum(1)).all(), f"{case}: gb"


def check(algorithm: Any, case: Case, role: str, where: Any = "end") -> None:
    """The algorithm agrees with the definition within the bound."""
    arrays = case.arrays()
    got, want = run(algorithm, case, role, arrays, where), expected(case, role, arrays)
    worst = np.abs(got - want) - bound(case, role, arrays)
    assert not np.isnan(got).any(), f"{role} {case}: {np.isnan(got).sum()} results were not written"
    assert worst.max() <= 0, f"{role} {case}: off by {np.abs(got - want).max():.1e}, {worst.max():.1e} beyond the bound"
