"""The three roles of convolution: arrays in, an array out. Any rank up to 3, any dtype; arguments are checked above."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from lucid.core.errors import DTypeError
from lucid.core.geometry import ConvSpec, Sizes
from lucid.kernels import precision, target
from lucid.kernels.isa import ISA
from lucid.kernels.plan import RANK, Problem, Role
from lucid.kernels.runtime.memory import empty

if TYPE_CHECKING:
    from lucid.kernels.algorithms.base import Executable

Array = np.ndarray[Any, Any]

_NATIVE = {np.dtype(name): name for name in ("float32", "float64")}  # dtype.name takes NumPy 3 us
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


@lru_cache(maxsize=4096)
def _bound(
    asked: tuple[Role, ConvSpec, Sizes, Sizes, str, bool],
    wanted: str | None,
    forced: ISA | None,
    allowed: precision.Precision,
) -> tuple[Problem, Executable]:
    """A problem and the plan bound for it: one look-up on every call but the first."""
    from lucid.kernels import select  # brings all algorithms, which `import lucid` can do without

    full = problem(*asked)
    return full, select.executable(full, wanted)


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


def _run(
    role: Role, spec: ConvSpec, x_shape: Sizes, y_shape: Sizes, inputs: tuple[Array | None, ...], shape: Sizes
) -> Array:
    first = inputs[0]
    assert first is not None, "the first input of every role is an array"
    dtype = first.dtype
    name = _NATIVE.get(dtype)
    if name is None:
        return _converted(role, spec, x_shape, y_shape, inputs, shape)
    result = empty(shape, dtype)
    if result.size == 0:
        return result
    has_bias = role != "grad_weight" and inputs[2] is not None
    asked, run = _bound(
        (role, spec, x_shape, y_shape, name, has_bias), _wanted, target.forced(), precision.get_precision()
    )
    for problems in _observers.values():
        problems.append(asked)
    run(*(a if a is None or a.flags.c_contiguous else np.ascontiguousarray(a) for a in inputs), result)
    return result


def _converted(
    role: Role, spec: ConvSpec, x_shape: Sizes, y_shape: Sizes, inputs: tuple[Array | None, ...], shape: Sizes
) -> Array:
    """Element types without kernels: half precision computes in float32 and rounds once, complex by parts."""
    dtype = inputs[0].dtype  # type: ignore[union-attr]
    if dtype.name in ("float16", "bfloat16"):
        wide = tuple(None if a is None else a.astype(np.float32) for a in inputs)
        return _run(role, spec, x_shape, y_shape, wide, shape).astype(dtype)
    if dtype.kind == "c":
        return _complex(role, spec, x_shape, y_shape, inputs, shape)
    raise DTypeError(
        f"convolution: dtype {dtype.name} is not supported; use float32, float64, float16, bfloat16 or complex"
    )


def _complex(
    role: Role, spec: ConvSpec, x_shape: Sizes, y_shape: Sizes, inputs: tuple[Array | None, ...], shape: Sizes
) -> Array:
    """(a + ib)(c + id) from four real convolutions; the bias joins the real and the imaginary sum once each."""
    a, b, *rest = inputs
    assert a is not None and b is not None, "the first two inputs of every role are arrays"

    def real(p: Array, q: Array, bias: Array | None) -> Array:
        return _run(role, spec, x_shape, y_shape, (p, q, bias)[: len(inputs)], shape)

    bias = rest[0] if rest else None
    result = empty(shape, a.dtype)
    result.real = real(a.real, b.real, None if bias is None else bias.real) - real(a.imag, b.imag, None)
    result.imag = real(a.real, b.imag, None if bias is None else bias.imag) + real(a.imag, b.real, None)
    return result


def conv_forward(x: Array, w: Array, bias: Array | None, spec: ConvSpec) -> Array:
    """y[n, o, p] = bias[o] + sum over c, t of w[o, c, t] x[n, c, p s + t d - low].

    Shape: x (N, C_in, *size), w (C_out, C_in / groups, *kernel), bias (C_out,); y (N, C_out, *spec.out_size(size)).
    Cost: 2 N C_out C_in / groups taps pixels flops.
    """
    y_shape = (x.shape[0], w.shape[0], *spec.out_size(x.shape[2:]))
    if 0 in w.shape:  # a sum of nothing
        return _bias_alone(bias, y_shape, x.dtype)
    return _run("forward", spec, x.shape, y_shape, (x, w, bias), y_shape)


def conv_grad_input(g: Array, w: Array, bias: Array | None, spec: ConvSpec, size: Sizes) -> Array:
    """The adjoint of ``conv_forward`` in x, which is also the transposed convolution of g.

    Shape: g (N, C_out, *spec.out_size(size)), w (C_out, C_in / groups, *kernel), bias (C_in,); result (N, C_in, *size).
    """
    x_shape = (g.shape[0], w.shape[1] * spec.groups, *size)
    if 0 in g.shape or 0 in w.shape:
        return _bias_alone(bias, x_shape, g.dtype)
    return _run("grad_input", spec, x_shape, g.shape, (g, w, bias), x_shape)


def conv_grad_weight(x: Array, g: Array, spec: ConvSpec) -> Array:
    """The adjoint of ``conv_forward`` in w: dw[o, c, t] = sum over n, p of g[n, o, p] x[n, c, p s + t d - low].

    The sum is split by the shape alone and added in a fixed order: the same bits for every number of threads.
    """
    shape = (g.shape[1], x.shape[1] // spec.groups, *spec.kernel)
    if 0 in x.shape or 0 in g.shape:
        return np.zeros(shape, x.dtype)
    return _run("grad_weight", spec, x.shape, g.shape, (x, g), shape)


def _bias_alone(bias: Array | None, shape: Sizes, dtype: np.dtype[Any]) -> Array:
    y = np.zeros(shape, dtype)
    if bias is not None:
        y += bias.reshape(-1, *(1,) * (len(shape) - 2))
    return y
