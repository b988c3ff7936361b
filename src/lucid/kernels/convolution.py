"""The three roles of convolution: arrays in, an array out. Any rank up to 3, any dtype; arguments are checked above."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lucid.core import quiet
from lucid.core.errors import DTypeError
from lucid.core.geometry import ConvSpec, Sizes
from lucid.kernels import kept, pair, settings, target
from lucid.kernels.casting import HALF, as_type, cast
from lucid.kernels.kept import Versions
from lucid.kernels.launch import Keeper, of_any_layout
from lucid.kernels.plan import PLAIN, RANK, Epilogue, Problem, Role
from lucid.kernels.runtime import memory
from lucid.kernels.settings import Settings

if TYPE_CHECKING:
    from lucid.kernels.algorithms.base import Executable

Array = np.ndarray[Any, Any]

_FULL = ("float32", "float64")


@contextmanager
def algorithm(name: str) -> Iterator[None]:
    """Every convolution inside is computed by the algorithm of that name, or raises PlanError saying why it cannot.

    >>> import numpy as np
    >>> one, spec = np.ones((1, 1, 3)), ConvSpec((1,), (1,), (1,), ((0, 0),))
    >>> with algorithm("reference"):
    ...     conv_forward(one, one[..., :1], None, spec)
    array([[[1., 1., 1.]]])
    """
    before = settings.change(algorithm=name)
    try:
        yield
    finally:
        settings.change(algorithm=before.algorithm)


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


#: Computes one role on arrays of known shapes and type: (a, b, bias, versions, *what an epilogue takes), or (x, g).
Compute = Callable[..., Array]
#: Computes the gradients of weights and bias: (x, g).
ComputeBoth = Callable[[Array, Array], tuple[Array, Array]]


class Call:
    """One role on operands of known shapes and type. What computes it is looked up once for the settings in force."""

    __slots__ = ("_asked", "_ended", "_found", "_last", "keeps")

    def __init__(self, *asked: Any) -> None:
        self._asked = asked
        self._ended: dict[Epilogue, Call] = {}
        self._last: tuple[Epilogue | None, Call] = None, self
        self._found: tuple[Settings | None, Any] = None, None
        self.keeps = False  #: whether what ``compute`` last said keeps something of weights, so wants their versions

    def ended(self, epilogue: Epilogue) -> Call:
        """The same with what happens to the result before anybody sees it."""
        last, found = self._last
        if last is not epilogue:
            if epilogue not in self._ended:
                *asked, _, transposed = self._asked
                self._ended[epilogue] = call_of(*asked, epilogue, transposed)
            found = self._ended[epilogue]
            self._last = epilogue, found
        return found

    def compute(self) -> Compute:
        """What computes it for now."""
        now = settings.now
        found_for, compute = self._found
        if found_for is not now:
            compute, self.keeps = _compute(now, *self._asked)
            self._found = now, compute
        found: Compute = compute
        return found

    def compute_both(self) -> ComputeBoth | None:
        """The same for the gradients of weights and bias; None where no kernel gives them together."""
        found: Any = self.compute()
        both: ComputeBoth | None = found
        return both


@lru_cache(maxsize=4096)
def call_of(
    role: Role, spec: ConvSpec, first: Sizes, second: Sizes, size: Sizes, dtype: np.dtype[Any], bias: bool,
    epilogue: Epilogue = PLAIN, transposed: bool = False,
) -> Call:  # fmt: skip
    """``first`` and ``second`` are the shapes of a role's operands, ``size`` the sizes that ``grad_input`` makes.

    ``bias`` says whether there is one; of ``grad_weight``, whether its gradient is wanted too, ``transposed`` which.
    """
    return Call(role, spec, first, second, size, dtype, bias, epilogue, transposed)


@lru_cache(maxsize=4096)
def _compute(
    now: Settings, role: Role, spec: ConvSpec, first: Sizes, second: Sizes, size: Sizes, dtype: np.dtype[Any],
    bias: bool, epilogue: Epilogue, transposed: bool,
) -> tuple[Callable[..., Any] | None, bool]:  # fmt: skip
    """What computes it, None where no kernel gives both gradients, and whether it may keep something of weights."""
    both = bias and role == "grad_weight"
    if dtype.kind == "c":
        return None if both else partial(_complex, role, spec, size), False
    x_shape, y_shape, shape = _shapes(role, spec, first, second, size)
    name = _name(dtype)
    if 0 in (*first, *second, *shape):
        return None if both else partial(_bias_ended, epilogue, shape, dtype), False
    asked = problem(role, spec, x_shape, y_shape, name, bias, epilogue, transposed)
    if both and name in HALF and not _sums_narrow(asked):
        return None, False
    asked, run = _planned(asked)
    if role == "grad_weight":
        return _of_weights(asked, run, shape, dtype), False
    region = _keeper(run)
    return _of_pixels(asked, run, region, shape, dtype), region is not None


def _planned(asked: Problem) -> tuple[Problem, Executable]:
    """What is asked of a kernel, and the executable."""
    from lucid.kernels import select  # brings all algorithms, which `import lucid` can do without

    wanted = settings.now.algorithm
    if asked.dtype in HALF and not asked.sums and not select.stays_narrow(asked, target.isa(), wanted):
        asked = replace(asked, dtype="float32")
        return asked, _widened(select.executable(asked, wanted))
    return asked, select.executable(asked, wanted)


def _of_pixels(asked: Problem, run: Executable, region: Keeper | None, shape: Sizes, dtype: np.dtype[Any]) -> Compute:
    """The executable with a result of its own around it, forward or in the input."""
    fast, make = of_any_layout(run), memory.making(shape, dtype)

    def compute(
        a: Array, b: Array, bias: Array | None = None, versions: Versions | None = None, *extras: Array | None
    ) -> Array:
        if _observers:
            _observe(asked)
        result = make()
        ready = kept.ready(region, b, bias, versions) if versions and region else None
        if ready is not None:
            ready.compute(a, b, bias, result, ready.kept, *extras)
        elif extras:
            fast(a, b, bias, result, None, *extras)
        else:
            fast(a, b, bias, result)
        return result

    return compute


def _of_weights(asked: Problem, run: Executable, shape: Sizes, dtype: np.dtype[Any]) -> Callable[..., Any]:
    """The same for the gradient of the weights, or both gradients."""
    fast, both, make = of_any_layout(run), asked.sums, memory.making(shape, dtype)
    channels = asked.summed_channels

    def compute(a: Array, b: Array, *nothing: object) -> Array | tuple[Array, Array]:
        if _observers:
            _observe(asked)
        gw = make()
        if not both:
            fast(a, b, gw)
            return gw
        gb = np.empty(channels, dtype)
        fast(a, b, gw, gb)
        return gw, gb

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
        given = [None if a is None else as_type(a, wide.dtype) for a in (*arrays[:place], *arrays[place + 1 :])]
        run(*given[:place], wide, *given[place:])
        cast(wide, result)

    return widened


def problem(
    role: Role, spec: ConvSpec, x_shape: Sizes, y_shape: Sizes, dtype: str, bias: bool, epilogue: Epilogue = PLAIN,
    transposed: bool = False,
) -> Problem:  # fmt: skip
    """What is to be computed between an x and a y of these shapes (N, C, *size)."""
    more = (1,) * (RANK - spec.rank)
    asked = Problem(
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
        transposed,
    )
    return asked.canonical


def _name(dtype: np.dtype[Any]) -> str:
    if dtype.name not in (*_FULL, *HALF):
        raise DTypeError(
            f"convolution: dtype {dtype.name} is not supported; use float32, float64, float16, bfloat16 or complex"
        )
    return dtype.name


def _complex(
    role: Role, spec: ConvSpec, size: Sizes, a: Array, b: Array, bias: Array | None = None, versions: object = None
) -> Array:
    """(a + ib)(c + id) from four real convolutions, and the bias."""

    def real(a: Array, b: Array) -> Array:
        return call_of(role, spec, a.shape, b.shape, size, a.dtype, False).compute()(a, b)

    with quiet.numpy():
        above = real(a.real, b.real) - real(a.imag, b.imag)
        beside = real(a.real, b.imag) + real(a.imag, b.real)
        result = memory.empty(above.shape, a.dtype)
        result.real, result.imag = above, beside
        if bias is not None:
            result += bias.reshape(-1, *(1,) * spec.rank)
    return result


def _bias_ended(
    epilogue: Epilogue, shape: Sizes, dtype: np.dtype[Any], a: Array, b: Array, bias: Array | None = None,
    versions: object = None, *extras: Array | None,
) -> Array:  # fmt: skip
    """A sum of nothing, the bias, and what follows."""
    from lucid.kernels.epilogue import apply

    y = np.zeros(shape, dtype)
    if bias is not None:
        y += bias.reshape(-1, *(1,) * (len(shape) - 2))
    if y.size and epilogue:
        apply(epilogue, y, *extras)
    return y


def conv_forward(
    x: Array, w: Array, bias: Array | None, spec: ConvSpec, versions: Versions | None = None, call: Call | None = None
) -> Array:
    """y[n, o, p] = bias[o] + sum over c, t of w[o, c, t] x[n, c, p s + t d - low].

    Shape: x (N, C_in, *size), w (C_out, C_in / groups, *kernel), bias (C_out,); y (N, C_out, *spec.out_size(size)).
    Cost: 2 N C_out C_in / groups taps pixels flops. With ``versions`` what is made of w and bias is ``kept``. Who has
    the ``call`` of these operands at hand saves a look-up.
    """
    call = call or call_of("forward", spec, x.shape, w.shape, (), x.dtype, bias is not None)
    return call.compute()(x, w, bias, versions)


def conv_grad_input(
    g: Array, w: Array, bias: Array | None, spec: ConvSpec, size: Sizes, versions: Versions | None = None,
    call: Call | None = None,
) -> Array:  # fmt: skip
    """The adjoint of ``conv_forward`` in x, which is also the transposed convolution of g.

    Shape: g (N, C_out, *spec.out_size(size)), w (C_out, C_in / groups, *kernel), bias (C_in,); result (N, C_in, *size).
    """
    call = call or call_of("grad_input", spec, g.shape, w.shape, size, g.dtype, bias is not None)
    return call.compute()(g, w, bias, versions)


class Ending(NamedTuple):
    """An epilogue and its arrays: scale and shift have a number a channel, residual the result's shape."""

    epilogue: Epilogue
    scale: Array | None = None
    shift: Array | None = None
    residual: Array | None = None


def conv_forward_ended(
    x: Array, w: Array, bias: Array | None, spec: ConvSpec, ending: Ending, versions: Versions | None = None,
    call: Call | None = None,
) -> Array:  # fmt: skip
    """``conv_forward`` and what ``ending`` does to it. Not for complex numbers."""
    call = call or call_of("forward", spec, x.shape, w.shape, (), x.dtype, bias is not None)
    compute = call.ended(ending.epilogue).compute()
    return compute(x, w, bias, versions, *ending[1:])


def conv_grad_input_ended(
    g: Array, w: Array, bias: Array | None, spec: ConvSpec, size: Sizes, ending: Ending,
    versions: Versions | None = None,
) -> Array:  # fmt: skip
    """``conv_grad_input`` and what ``ending`` does to it. Not for complex numbers."""
    asked = call_of("grad_input", spec, g.shape, w.shape, size, g.dtype, bias is not None, ending.epilogue)
    return asked.compute()(g, w, bias, versions, *ending[1:])


def conv_grad_weight(x: Array, g: Array, spec: ConvSpec) -> Array:
    """The adjoint of ``conv_forward`` in w: dw[o, c, t] = sum over n, p of g[n, o, p] x[n, c, p s + t d - low].

    The sum is split by the shape alone and added in a fixed order: the same bits for every number of threads.
    """
    return call_of("grad_weight", spec, x.shape, g.shape, (), x.dtype, False).compute()(x, g)


def conv_grad_weight_bias(x: Array, g: Array, spec: ConvSpec, transposed: bool = False) -> tuple[Array, Array] | None:
    """``conv_grad_weight`` and the gradient of the bias, the sum over n and p of g; None unless ``gives_both``.

    Of a ``transposed`` layer, whose upstream gradient is x, the sum over n and all places of x.
    """
    compute = _both_of(x, g, spec, transposed).compute_both()
    return None if compute is None else compute(x, g)


def gives_both(x: Array, g: Array, spec: ConvSpec, transposed: bool = False) -> bool:
    """Whether the element type has kernels that give both gradients, most of them from one reading."""
    return _both_of(x, g, spec, transposed).compute_both() is not None


def conv_gradients(
    x: Array, y: Array, w: Array, spec: ConvSpec, bias: bool, transposed: bool = False
) -> tuple[Array, ...] | None:
    """All gradients of a layer at once: in its input, in w, and if it has a ``bias`` in that; None unless it pays.

    It does where both read the upstream gradient from memory, and one region reads it once: see ``kernels.pair``. One
    of x and y, of ``conv_forward``'s shapes, is the upstream gradient and the other the input: y is, or x of a
    ``transposed`` layer.
    """
    if x.nbytes + y.nbytes <= _near_bytes():
        return None
    compute = _pair(settings.now, spec, x.shape, y.shape, x.dtype, bias, transposed)
    return None if compute is None else compute(x, y, w)


def shares_region(first: Problem, second: Problem) -> bool:
    """Whether these gradients, of a layer's input and of its weights, are computed in one region."""
    alike = (first.spec, first.batch, first.size, first.out) == (second.spec, second.batch, second.size, second.out)
    return (
        alike and first.role != second.role and pair.paired(first, _planned(first)[1], _planned(second)[1]) is not None
    )


@cache
def _near_bytes() -> int:
    """What x and y may have together without being of interest to a pair: the gradient in the input is as large."""
    return target.cpu().l3_bytes // 4


@lru_cache(maxsize=1024)
def _pair(
    now: Settings, spec: ConvSpec, x_shape: Sizes, y_shape: Sizes, dtype: np.dtype[Any], bias: bool, transposed: bool
) -> Callable[[Array, Array, Array], tuple[Array, ...]] | None:
    """Both gradients' kernels in one region, with results of its own around it."""
    if dtype.kind == "c":
        return None
    role: Role = "forward" if transposed else "grad_input"
    first = problem(role, spec, x_shape, y_shape, _name(dtype), False)
    second = problem("grad_weight", spec, x_shape, y_shape, _name(dtype), bias, PLAIN, transposed and bias)
    if bias and dtype.name in HALF and not _sums_narrow(second):
        return None
    (first, run_first), (second, run_second) = _planned(first), _planned(second)
    run = pair.paired(first, run_first, run_second)
    if run is None:
        return None
    fast, (result_shape, source) = of_any_layout(run), (y_shape, 0) if transposed else (x_shape, 1)
    w_shape = (y_shape[1], x_shape[1] // spec.groups, *spec.kernel)

    def compute(x: Array, y: Array, w: Array) -> tuple[Array, ...]:
        if _observers:
            _observe(first)
            _observe(second)
        result, gw = memory.empty(result_shape, dtype), np.empty(w_shape, dtype)
        gb = (np.empty(second.summed_channels, dtype),) if bias else ()
        fast((x, y)[source], w, None, result, x, y, gw, *gb)
        return result, gw, *gb

    return compute


def _both_of(x: Array, g: Array, spec: ConvSpec, transposed: bool) -> Call:
    return call_of("grad_weight", spec, x.shape, g.shape, (), x.dtype, True, PLAIN, transposed)


def _sums_narrow(asked: Problem) -> bool:
    """Whether half precision is read as it is, and what reads it sums the upstream gradient too."""
    from lucid.kernels import select

    isa, wanted = target.isa(), settings.now.algorithm
    return select.stays_narrow(asked, isa, wanted) and not select.decided(asked, isa, wanted).passes_after
