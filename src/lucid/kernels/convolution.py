"""The three roles of convolution: arrays in, an array out. Any rank up to 3, any dtype; arguments are checked above."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lucid.core.errors import DTypeError
from lucid.core.geometry import ConvSpec, Sizes
from lucid.kernels import precision, target, tuning
from lucid.kernels.isa import ISA
from lucid.kernels.plan import RANK, Problem, Role
from lucid.kernels.runtime.memory import empty

if TYPE_CHECKING:
    from lucid.kernels.algorithms.base import Executable
    from lucid.kernels.tuning import Tuning

Array = np.ndarray[Any, Any]

_FULL = ("float32", "float64")
_NATIVE = {np.dtype(name): name for name in _FULL}  # dtype.name takes NumPy 3 us
_HALF = ("float16", "bfloat16")
_wanted: str | None = None


@contextmanager
def algorithm(name: str) -> Iterator[None]:
    """Every convolution inside is computed by the algorithm of that name, or raises PlanError saying why it cannot.

    >>> import numpy as np
    >>> one, spec = np.ones((1, 1, 3)), ConvSpec((1,), (1,), (1,), ((0, 0),))
    >>> with algorithm("reference"):
    ...     conv_forward(one, one[..., :1], None, spec)
    array([[[1., 1., 1.]]])
    """
    global _wanted
    before, _wanted = _wanted, name
    try:
        yield
    finally:
        _wanted = before


_observers: dict[int, list[Problem]] = {}


@contextmanager
def observed() -> Iterator[list[Problem]]:
    """Collects every problem that is computed inside, in order, on any thread."""
    problems: list[Problem] = []
    _observers[id(problems)] = problems
    try:
        yield problems
    finally:
        del _observers[id(problems)]


class _Call(NamedTuple):
    """What one role does with operands of some shapes: one look-up on every call but the first."""

    shape: Sizes  # the result's
    problem: Problem | None = None
    run: Executable | None = None  # none where the result is a sum of nothing, or is better had in two passes


@lru_cache(maxsize=4096)
def _call(
    role: Role,
    spec: ConvSpec,
    first: Sizes,
    second: Sizes,
    size: Sizes,
    dtype: str,
    bias: bool,
    wanted: str | None,
    forced: ISA | None,
    allowed: precision.Precision,
    tuned: Tuning | None,
) -> _Call:
    """``first`` and ``second`` are the shapes of a role's operands, ``size`` the sizes that ``grad_input`` makes."""
    from lucid.kernels import select  # brings all algorithms, which `import lucid` can do without

    x_shape, y_shape, shape = _shapes(role, spec, first, second, size)
    if 0 in (*first, *second, *shape):
        return _Call(shape)
    full = problem(role, spec, x_shape, y_shape, dtype, bias)
    if dtype in _HALF and not select.narrow_pays(full, target.isa(), wanted):
        full = replace(full, dtype="float32")
        return _Call(shape, full, _widened(select.executable(full, wanted)))
    if role == "grad_weight" and bias and not select.choose(full, target.isa(), wanted).sums_upstream:
        return _Call(shape)
    return _Call(shape, full, select.executable(full, wanted))


def _shapes(role: Role, spec: ConvSpec, first: Sizes, second: Sizes, size: Sizes) -> tuple[Sizes, Sizes, Sizes]:
    """x's, y's and the result's."""
    if role == "forward":
        y_shape = (first[0], second[0], *spec.out_size(first[2:]))
        return first, y_shape, y_shape
    if role == "grad_input":
        x_shape = (first[0], second[1] * spec.groups, *size)
        return x_shape, first, x_shape
    return first, second, (second[1], first[1] // spec.groups, *spec.kernel)


def _widened(run: Executable) -> Executable:
    """Half precision where no kernel of its own pays: computed in float32 and rounded once."""

    def widened(*arrays: Array | None) -> None:
        *inputs, result = arrays
        assert result is not None, "the last array is the result"
        wide = empty(result.shape, np.float32)
        with np.errstate(all="ignore"):  # infinities and NaN are values here, not events
            run(*(None if a is None else a.astype(np.float32) for a in inputs), wide)
            result[...] = wide

    return widened


def problem(role: Role, spec: ConvSpec, x_shape: Sizes, y_shape: Sizes, dtype: str, bias: bool) -> Problem:
    """What is to be computed between an x and a y of these shapes (N, C, *size)."""
    more = (1,) * (RANK - spec.rank)
    return Problem(
        role,
        spec.expanded(RANK),
        x_shape[0],
        x_shape[1],
        y_shape[1],
        more + x_shape[2:],
        more + y_shape[2:],
        dtype,
        bias,
    )


def _run(role: Role, spec: ConvSpec, a: Array, b: Array, bias: Array | None, size: Sizes = ()) -> Array:
    dtype = a.dtype
    name = _NATIVE.get(dtype)
    if name is None:
        if dtype.kind == "c":
            return _complex(role, spec, a, b, bias, size)
        name = _half(dtype)
    shape, asked, run = _call(
        role, spec, a.shape, b.shape, size, name, bias is not None,
        _wanted, target.forced(), precision.get_precision(), tuning.in_force(),
    )  # fmt: skip
    if run is None or asked is None:
        return _bias_alone(bias, shape, dtype)
    if _observers:
        for problems in _observers.values():
            problems.append(asked)
    result = empty(shape, dtype)
    a, b = _contiguous(a), _contiguous(b)
    if role == "grad_weight":
        run(a, b, result)
    else:
        run(a, b, None if bias is None else _contiguous(bias), result)
    return result


def _contiguous(a: Array) -> Array:
    return a if a.flags.c_contiguous else np.ascontiguousarray(a)


def _half(dtype: np.dtype[Any]) -> str:
    """The name of a half precision type, which is remembered: bfloat16 is known only when it is first met."""
    if dtype.name not in _HALF:
        raise DTypeError(
            f"convolution: dtype {dtype.name} is not supported; use float32, float64, float16, bfloat16 or complex"
        )
    return _NATIVE.setdefault(dtype, dtype.name)


def _complex(role: Role, spec: ConvSpec, a: Array, b: Array, bias: Array | None, size: Sizes) -> Array:
    """(a + ib)(c + id) from four real convolutions; the bias joins the real and the imaginary sum once each."""
    real, imag = (None, None) if bias is None else (bias.real, bias.imag)
    with np.errstate(all="ignore"):  # infinities and NaN are values here, not events
        above = _run(role, spec, a.real, b.real, real, size) - _run(role, spec, a.imag, b.imag, None, size)
        beside = _run(role, spec, a.real, b.imag, imag, size) + _run(role, spec, a.imag, b.real, None, size)
    result = empty(above.shape, a.dtype)
    result.real, result.imag = above, beside
    return result


def conv_forward(x: Array, w: Array, bias: Array | None, spec: ConvSpec) -> Array:
    """y[n, o, p] = bias[o] + sum over c, t of w[o, c, t] x[n, c, p s + t d - low].

    Shape: x (N, C_in, *size), w (C_out, C_in / groups, *kernel), bias (C_out,); y (N, C_out, *spec.out_size(size)).
    Cost: 2 N C_out C_in / groups taps pixels flops.
    """
    return _run("forward", spec, x, w, bias)


def conv_grad_input(g: Array, w: Array, bias: Array | None, spec: ConvSpec, size: Sizes) -> Array:
    """The adjoint of ``conv_forward`` in x, which is also the transposed convolution of g.

    Shape: g (N, C_out, *spec.out_size(size)), w (C_out, C_in / groups, *kernel), bias (C_in,); result (N, C_in, *size).
    """
    return _run("grad_input", spec, g, w, bias, size)


def conv_grad_weight(x: Array, g: Array, spec: ConvSpec) -> Array:
    """The adjoint of ``conv_forward`` in w: dw[o, c, t] = sum over n, p of g[n, o, p] x[n, c, p s + t d - low].

    The sum is split by the shape alone and added in a fixed order: the same bits for every number of threads.
    """
    return _run("grad_weight", spec, x, g, None)


def conv_grad_weight_bias(x: Array, g: Array, spec: ConvSpec) -> tuple[Array, Array]:
    """``conv_grad_weight`` and the gradient of the bias, the sum of g over n and p, where ``sums_in_one_pass``."""
    shape, asked, run = _both_call(x, g, spec)
    assert run is not None and asked is not None, "only where sums_in_one_pass"
    for problems in _observers.values():
        problems.append(asked)
    gw, gb = empty(shape, x.dtype), empty(shape[:1], x.dtype)
    run(_contiguous(x), _contiguous(g), gw, gb)
    return gw, gb


def sums_in_one_pass(x: Array, g: Array, spec: ConvSpec) -> bool:
    """Whether the algorithm that computes ``conv_grad_weight`` gets the sum of g over n and p for nothing."""
    return _NATIVE.get(x.dtype) in _FULL and _both_call(x, g, spec).run is not None


def _both_call(x: Array, g: Array, spec: ConvSpec) -> _Call:
    return _call(
        "grad_weight", spec, x.shape, g.shape, (), _NATIVE[x.dtype], True,
        _wanted, target.forced(), precision.get_precision(), tuning.in_force(),
    )  # fmt: skip


def _bias_alone(bias: Array | None, shape: Sizes, dtype: np.dtype[Any]) -> Array:
    y = np.zeros(shape, dtype)
    if bias is not None:
        y += bias.reshape(-1, *(1,) * (len(shape) - 2))
    return y
