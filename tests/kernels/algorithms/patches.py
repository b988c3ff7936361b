"""The three roles of convolution in float64 from patches gathered index by index, and how far a kernel may be off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from lucid.core.dtypes import as_dtype
from lucid.core.geometry import ConvSpec
from lucid.kernels import convolution, select, target
from lucid.kernels.plan import Problem
from tests.kernels.convolution_fuzz import using_threads
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
        kind = as_dtype(self.dtype).numpy
        return {name: rng.standard_normal(shape).astype(kind) for name, shape in shapes.items()}

    def typed(self, dtype: str) -> Case:
        return replace(self, dtype=dtype)


HALF = ("float16", "bfloat16")
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

    Twice that in float64, where what is expected is off as well. Half precision is summed in float32 and rounded once.
    """
    most = summed(case, terms(case, role)) * expected(case, role, {k: np.abs(v) for k, v in arrays.items()})
    return most + rounded(case, np.abs(expected(case, role, arrays)) + most)


def summed(case: Case, count: int) -> float:
    """By how much of their absolute sum so many terms are off."""
    kind = "float32" if case.dtype in HALF else case.dtype
    unit = np.finfo(kind).eps / 2 * count
    return (2 if kind == "float64" else 1) * unit / (1 - unit)


def rounded(case: Case, size: Array) -> Array:
    """How far numbers of a size are moved when they become half precision; by nothing in other types."""
    if case.dtype not in HALF:
        return np.zeros_like(size)
    kind = ml_dtypes.finfo(as_dtype(case.dtype).numpy)
    return float(kind.eps) / 2 * size + float(kind.smallest_subnormal)


def run(algorithm: Any, case: Case, role: str, arrays: dict[str, Array], where: Any = "end") -> Array:
    """The algorithm's result, computed between guard pages."""
    problem, isa = case.problem(role), target.isa()
    call = algorithm.bind(algorithm.plan(problem, isa), isa)
    names = OPERANDS[role]
    with (
        guarded(arrays[names[0]], where=where) as first,
        guarded(arrays[names[1]], where=where) as second,
        guarded(arrays[names[-1]], where=where) as third,
        guarded(arrays[RESULT[role]].shape, arrays["w"].dtype, where=where) as result,
    ):
        bias = () if role == "grad_weight" else (third if case.bias else None,)
        call(first, second, *bias, result)
        return result.copy()


def run_both(
    algorithm: Any, case: Case, arrays: dict[str, Array], where: Any = "end", transposed: bool = False
) -> tuple[Array, Array]:
    """The gradients of the weight and of the bias, a transposed layer's or not, from one pass, between guard pages."""
    isa = target.isa()
    plan = algorithm.plan(replace(case.problem("grad_weight"), bias=True, transposed=transposed), isa)
    assert plan.sums_upstream
    with (
        guarded(arrays["x"], where=where, readonly=True) as x,
        guarded(arrays["g"], where=where, readonly=True) as g,
        guarded(arrays["w"].shape, arrays["w"].dtype, where=where) as gw,
        guarded((plan.problem.summed_channels,), arrays["w"].dtype, where=where) as gb,
    ):
        algorithm.bind(plan, isa)(x, g, gw, gb)
        return gw.copy(), gb.copy()


def check_both(algorithm: Any, case: Case, where: Any = "end", transposed: bool = False) -> None:
    """Both sums of one pass agree with the definition within the bound."""
    arrays = case.arrays()
    gw, gb = run_both(algorithm, case, arrays, where, transposed)
    worst = np.abs(gw - expected(case, "grad_weight", arrays)) - bound(case, "grad_weight", arrays)
    assert worst.max() <= 0, f"{case}: gw is {worst.max():.1e} beyond the bound"
    g = np.moveaxis(arrays["x" if transposed else "g"].astype(np.float64), 1, 0).reshape(gb.size, -1)
    most = summed(case, g.shape[1]) * np.abs(g).sum(1)
    most += rounded(case, np.abs(g.sum(1)) + most)
    assert (np.abs(gb.astype(np.float64) - g.sum(1)) <= most).all(), f"{case}: gb"


def check_threads(compute: Callable[[], Array | tuple[Array, ...]]) -> None:
    """The same bits on any number of threads."""
    found = []
    for count in (1, 2, 3, 4):
        with using_threads(count):
            results = compute()
            found.append(results if isinstance(results, tuple) else (results,))
    for others in found[1:]:
        for first, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(first, other)


def check_infinity(algorithm: Any, case: Case, role: str, place: tuple[int, ...]) -> None:
    """An infinity at a place of the operand with pixels reaches only the results that read it."""
    arrays = case.arrays()
    arrays[OPERANDS[role][0]][place] = np.inf
    got, want = run(algorithm, case, role, arrays), expected(case, role, arrays)
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))


def check_within_channel(
    algorithm: Any, case: Case, role: str, where: Any = "end", arrays: dict[str, Array] | None = None
) -> None:
    """An algorithm of fewer products is within its own bound, of the largest in its channel of its image."""
    arrays = arrays or case.arrays()
    plan = algorithm.plan(case.problem(role), target.isa())
    got, want = run(algorithm, case, role, arrays, where).astype(np.float64), expected(case, role, arrays)
    axes = tuple(range(2, got.ndim))
    most = bound(case, role, arrays).max(axis=axes, keepdims=True) * select.error_growth(plan)
    most = most + rounded(case, np.abs(want) + most)
    assert not np.isnan(got).any(), f"{role} {case}: {np.isnan(got).sum()} results were not written"
    worst = (np.abs(got - want) / most).max()
    assert worst <= 1, f"{role} {case}: {worst:.1e} of the bound"


def check(algorithm: Any, case: Case, role: str, where: Any = "end") -> None:
    """The algorithm agrees with the definition within the bound."""
    arrays = case.arrays()
    got, want = run(algorithm, case, role, arrays, where).astype(np.float64), expected(case, role, arrays)
    worst = np.abs(got - want) - bound(case, role, arrays)
    assert not np.isnan(got).any(), f"{role} {case}: {np.isnan(got).sum()} results were not written"
    assert worst.max() <= 0, f"{role} {case}: off by {np.abs(got - want).max():.1e}, {worst.max():.1e} beyond the bound"
