"""The three roles of convolution: arrays in, an array out. Any rank up to 3, any dtype; arguments are checked above."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from lucid.core.errors import DTypeError
from lucid.core.geometry import ConvSpec, Sizes
from lucid.kernels import kept, precision, target, tuning
from lucid.kernels.kept import Versions
from lucid.kernels.launch import Keeper
from lucid.kernels.plan import PLAIN, RANK, Epilogue, Problem, Role
from lucid.kernels.runtime import memory

if TYPE_CHECKING:
    from lucid.kernels.algorithms.base import Executable

Array = np.ndarray[Any, Any]

_FULL = ("float32", "float64")
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


class _Call(Protocol):
    """One role on operands of some shapes and a type, called with the arrays: a look-up finds it, with all it needs."""

    def __call__(self, a: Array, b: Array, bias: Array | None = None, versions: Versions | None = None) -> Array: ...


@lru_cache(maxsize=4096)
def _call(
    role: Role, spec: ConvSpec, first: Sizes, second: Sizes, size: Sizes, dtype: np.dtype[Any], bias: bool,
    *settings: Any,
) -> _Call:  # fmt: skip
    """``first`` and ``second`` are the shapes of a role's operands, ``size`` the sizes that ``grad_input`` makes."""
    if dtype.kind == "c":
        return partial(_complex, role, spec, size)
    name = _name(dtype)
    x_shape, y_shape, shape = _shapes(role, spec, first, second, size)
    if 0 in (*first, *second, *shape):
        return partial(_bias_alone, shape, dtype)
    return _bound(problem(role, spec, x_shape, y_shape, name, bias), shape, dtype)


def _settings() -> tuple[Any, ...]:
    """What a choice depends on beside the problem."""
    return _wanted, target.forced(), precision.get_precision(), tuning.in_force()


def _planned(asked: Problem) -> tuple[Problem, Executable]:
    """What is asked of a kernel, and the executable."""
    from lucid.kernels import select  # brings all algorithms, which `import lucid` can do without

    if asked.dtype in _HALF and not select.narrow_pays(asked, target.isa(), _wanted):
        asked = replace(asked, dtype="float32")
        return asked, _widened(select.executable(asked, _wanted))
    return asked, select.executable(asked, _wanted)


def _bound(asked: Problem, shape: Sizes, dtype: np.dtype[Any]) -> _Call:
    """The executable with a result of its own around it, of contiguous copies of the operands where need be."""
    asked, run = _planned(asked)
    size_bytes, has_bias = prod(shape) * dtype.itemsize, asked.role != "grad_weight"
    region = _keeper(run)

    def compute(a: Array, b: Array, bias: Array | None = None, versions: Versions | None = None) -> Array:
        if _observers:
            _observe(asked)
        result = np.empty(shape, dtype) if size_bytes < memory.POOLED_FROM_BYTES else memory.empty(shape, dtype)
        if not a.flags.c_contiguous:
            a = np.ascontiguousarray(a)
        if not b.flags.c_contiguous:
            b = np.ascontiguousarray(b)
        if not has_bias:
            run(a, b, result)
            return result
        bias = bias if bias is None else _contiguous(bias)
        ready = kept.ready(region, b, bias, versions) if region and versions else None
        if ready is not None:
            ready.compute(a, b, bias, result, ready.kept)
        else:
            run(a, b, bias, result)
        return result

    return compute


def _keeper(run: Executable) -> Keeper | None:
    return run if isinstance(run, Keeper) and run.keeps else None


def _observe(asked: Problem) -> None:
    for problems in list(_observers.values()):
        problems.append(asked)


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
        place = min(3, len(arrays) - 1)
        result = arrays[place]
        assert result is not None, "there is always a result"
        wide = memory.empty(result.shape, np.float32)
        with np.errstate(all="ignore"):  # infinities and NaN are values here, not events
            given = [None if a is None else a.astype(np.float32) for a in (*arrays[:place], *arrays[place + 1 :])]
            run(*given[:place], wide, *given[place:])
            result[...] = wide

    return widened


def problem(
    role: Role, spec: ConvSpec, x_shape: Sizes, y_shape: Sizes, dtype: str, bias: bool, epilogue: Epilogue = PLAIN
) -> Problem:
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
        epilogue,
    )


def _contiguous(a: Array) -> Array:
    return a if a.flags.c_contiguous else np.ascontiguousarray(a)


def _name(dtype: np.dtype[Any]) -> str:
    if dtype.name not in (*_FULL, *_HALF):
        raise DTypeError(
            f"convolution: dtype {dtype.name} is not supported; use float32, float64, float16, bfloat16 or complex"
        )
    return dtype.name


def _complex(
    role: Role, spec: ConvSpec, size: Sizes, a: Array, b: Array, bias: Array | None = None, versions: object = None
) -> Array:
    """(a + ib)(c + id) from four real convolutions; the bias joins the real and the imaginary sum once each."""

    def real(a: Array, b: Array, bias: Array | None = None) -> Array:
        return _call(role, spec, a.shape, b.shape, size, a.dtype, bias is not None, *_settings())(a, b, bias)

    more = (None, None) if bias is None else (bias.real, bias.imag)
    with np.errstate(all="ignore"):  # infinities and NaN are values here, not events
        above = real(a.real, b.real, more[0]) - real(a.imag, b.imag)
        beside = real(a.real, b.imag, more[1]) + real(a.imag, b.real)
    result = memory.empty(above.shape, a.dtype)
    result.real, result.imag = above, beside
    return result


def _bias_alone(
    shape: Sizes, dtype: np.dtype[Any], a: Array, b: Array, bias: Array | None = None, versions: object = None
) -> Array:
    """A sum of nothing, and the bias."""
    y = np.zeros(shape, dtype)
    if bias is not None:
        y += bias.reshape(-1, *(1,) * (len(shape) - 2))
    return y


def conv_forward(x: Array, w: Array, bias: Array | None, spec: ConvSpec, versions: Versions | None = None) -> Array:
    """y[n, o, p] = bias[o] + sum over c, t of w[o, c, t] x[n, c, p s + t d - low].

    Shape: x (N, C_in, *size), w (C_out, C_in / groups, *kernel), bias (C_out,); y (N, C_out, *spec.out_size(size)).
    Cost: 2 N C_out C_in / groups taps pixels flops. With ``versions`` what is made of w and bias is ``kept``.
    """
    return _call("forward", spec, x.shape, w.shape, (), x.dtype, bias is not None, *_settings())(x, w, bias, versions)


def conv_grad_input(
    g: Array, w: Array, bias: Array | None, spec: ConvSpec, size: Sizes, versions: Versions | None = None
) -> Array:
    """The adjoint of ``conv_forward`` in x, which is also the transposed convolution of g.

    Shape: g (N, C_out, *spec.out_size(size)), w (C_out, C_in / groups, *kernel), bias (C_in,); result (N, C_in, *size).
    """
    return _call("grad_input", spec, g.shape, w.shape, size, g.dtype, bias is not None, *_settings())(
        g, w, bias, versions
    )


class Ending(NamedTuple):
    """An epilogue and its arrays: scale and shift have a number a channel, residual the result's shape."""

    epilogue: Epilogue
    scale: Array | None = None
    shift: Array | None = None
    residual: Array | None = None


def conv_forward_ended(
    x: Array, w: Array, bias: Array | None, spec: ConvSpec, ending: Ending, versions: Versions | None = None
) -> Array:
    """``conv_forward`` and what ``ending`` does to it. Not for complex numbers."""
    return _ended("forward", spec, x.shape, w.shape, (), x.dtype, bias is not None, ending.epilogue, *_settings())(
        versions, x, w, bias, *ending[1:]
    )


def conv_grad_input_ended(
    g: Array, w: Array, bias: Array | None, spec: ConvSpec, size: Sizes, ending: Ending,
    versions: Versions | None = None,
) -> Array:  # fmt: skip
    """``conv_grad_input`` and what ``ending`` does to it. Not for complex numbers."""
    return _ended("grad_input", spec, g.shape, w.shape, size, g.dtype, bias is not None, ending.epilogue, *_settings())(
        versions, g, w, bias, *ending[1:]
    )


@lru_cache(maxsize=4096)
def _ended(
    role: Role, spec: ConvSpec, first: Sizes, second: Sizes, size: Sizes, dtype: np.dtype[Any], bias: bool,
    epilogue: Epilogue, *settings: Any,
) -> Callable[..., Array]:  # fmt: skip
    """As ``_call``, for a problem with an epilogue; its arrays come after the bias."""
    x_shape, y_shape, shape = _shapes(role, spec, first, second, size)
    if 0 in (*first, *second, *shape):
        return partial(_bias_ended, epilogue, shape, dtype)
    asked, run = _planned(problem(role, spec, x_shape, y_shape, _name(dtype), bias, epilogue))
    region = _keeper(run)

    def compute(versions: Versions | None, a: Array, b: Array, *extras: Array | None) -> Array:
        if _observers:
            _observe(asked)
        result = memory.empty(shape, dtype)
        a, b = _contiguous(a), _contiguous(b)
        bias, *more = (e if e is None else _contiguous(e) for e in extras)
        ready = kept.ready(region, b, bias, versions) if region and versions else None
        if ready is not None:
            ready.compute(a, b, bias, result, ready.kept, *more)
        else:
            run(a, b, bias, result, None, *more)
        return result

    return compute


def _bias_ended(
    epilogue: Epilogue, shape: Sizes, dtype: np.dtype[Any], versions: object, a: Array, b: Array,
    bias: Array | None, *extras: Array | None,
) -> Array:  # fmt: skip
    from lucid.kernels.epilogue import apply

    y = _bias_alone(shape, dtype, a, b, bias)
    if y.size:
        apply(epilogue, y, *extras)
    return y


def conv_grad_weight(x: Array, g: Array, spec: ConvSpec) -> Array:
    """The adjoint of ``conv_forward`` in w: dw[o, c, t] = sum over n, p of g[n, o, p] x[n, c, p s + t d - low].

    The sum is split by the shape alone and added in a fixed order: the same bits for every number of threads.
    """
    return _call("grad_weight", spec, x.shape, g.shape, (), x.dtype, False, *_settings())(x, g)


def conv_grad_weight_bias(x: Array, g: Array, spec: ConvSpec) -> tuple[Array, Array]:
    """``conv_grad_weight`` and the gradient of the bias, the sum of g over n and p, where ``sums_in_one_pass``."""
    both = _both(spec, x.shape, g.shape, x.dtype, *_settings())
    assert both is not None, "only where sums_in_one_pass"
    asked, run = both
    if _observers:
        _observe(asked)
    gw = memory.empty((asked.c_out, asked.group_in, *spec.kernel), x.dtype)
    gb = np.empty(asked.c_out, x.dtype)
    run(_contiguous(x), _contiguous(g), gw, gb)
    return gw, gb


def sums_in_one_pass(x: Array, g: Array, spec: ConvSpec) -> bool:
    """Whether the element type has kernels that give both gradients, most of them from one reading of g."""
    return _both(spec, x.shape, g.shape, x.dtype, *_settings()) is not None


@lru_cache(maxsize=4096)
def _both(
    spec: ConvSpec, x_shape: Sizes, y_shape: Sizes, dtype: np.dtype[Any], *settings: Any
) -> tuple[Problem, Executable] | None:
    """The problem and its executable, where there are kernels of the element type."""
    from lucid.kernels import select

    if dtype.name not in (*_FULL, *_HALF) or 0 in (*x_shape, *y_shape):
        return None
    asked = problem("grad_weight", spec, x_shape, y_shape, dtype.name, bias=True)
    if dtype.name in _HALF and not _sums_narrow(asked):
        return None
    return asked, select.executable(asked, _wanted)


def _sums_narrow(asked: Problem) -> bool:
    """Whether half precision is read as it is, and what reads it sums the upstream gradient too."""
    from lucid.kernels import select

    isa = target.isa()
    return select.narrow_pays(asked, isa, _wanted) and not select.choose(asked, isa, _wanted).passes_after
