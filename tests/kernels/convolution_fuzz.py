"""Random convolutions, every algorithm that accepts them, and the definition in float64 to compare with.

``run_case`` is shared by the tests and by ``benchmarks/fuzz.py``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any, Literal

import numpy as np

from lucid.core.geometry import ConvSpec, window_extent
from lucid.kernels import Ending, convolution, select, target
from lucid.kernels.algorithms import reference
from lucid.kernels.plan import PLAIN, Epilogue, Problem
from lucid.kernels.runtime import memory, threads
from tests.kernels.epilogue_oracle import ACTIVATIONS, through
from tests.kernels.guard import guarded

Array = np.ndarray[Any, Any]
Sizes = tuple[int, ...]
Role = Literal["forward", "grad_input", "grad_weight"]

ROLES: tuple[Role, ...] = ("forward", "grad_input", "grad_weight")
_DTYPES = ["float32"] * 6 + ["float64"] * 3 + ["float16", "bfloat16", "complex64"]
#: One of so many cases has a single window that is all of x, which hardly any size drawn at random is.
_ONE_WINDOW = 20
#: One of so many has taps as far apart as half of its samples, or more.
_FAR_TAPS = 16
#: One of so many has a kernel as long as x along the first axis.
_SPANNED_ROWS = 13
#: One of so many filters rows of one to four channels by 9 to 65 neighbouring taps, which hardly any draw has.
_FILTERED_ROWS = 8
#: One of so many is a 1x1 of many channels on few positions.
_MANY_CHANNELS = 19
#: Of the planes, those with three taps down in small groups, which hardly any draw of the others has.
_SMALL_GROUPS = 0.25


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest case: multiplications, channels of a dense case, samples of an axis by rank."""

    products: int
    channels: int
    samples: dict[int, int]


SMALL = Limits(1_000_000, 70, {1: 400, 2: 71, 3: 24})
LARGE = Limits(40_000_000, 400, {1: 5000, 2: 180, 3: 40})  # several blocks of everything


@dataclass(frozen=True, slots=True)
class Case:
    """One convolution. Its repr makes it again."""

    role: Role
    dtype: str
    batch: int
    c_in: int
    c_out: int
    size: Sizes
    spec: ConvSpec
    bias: bool
    seed: int = 0
    epilogue: Epilogue = PLAIN

    @property
    def x_shape(self) -> Sizes:
        return (self.batch, self.c_in, *self.size)

    @property
    def y_shape(self) -> Sizes:
        return (self.batch, self.c_out, *self.spec.out_size(self.size))

    @property
    def w_shape(self) -> Sizes:
        return (self.c_out, self.c_in // self.spec.groups, *self.spec.kernel)

    @property
    def products(self) -> int:
        """Multiplications of the definition."""
        return prod(self.y_shape) * self.c_in // self.spec.groups * self.spec.taps

    @property
    def terms(self) -> int:
        """The most products that one result is a sum of, and its bias."""
        if self.role == "grad_weight":
            return self.batch * prod(self.y_shape[2:])
        channels = self.c_in if self.role == "forward" else self.c_out
        return channels // self.spec.groups * self.spec.taps + self.bias

    @property
    def shapes(self) -> tuple[Sizes | None, ...]:
        """Of the three inputs, and of an epilogue's where there is one: scale, shift, residual."""
        if self.role == "grad_weight":
            return self.x_shape, self.y_shape, None
        first, result = (self.x_shape, self.y_shape) if self.role == "forward" else (self.y_shape, self.x_shape)
        inputs = first, self.w_shape, result[1:2] if self.bias else None
        if not self.epilogue:
            return inputs
        each = result[1:2] if self.epilogue.affine else None
        return *inputs, each, each, result if self.epilogue.residual else None

    @property
    def problem(self) -> Problem:
        """What a kernel is asked; half precision asks for float32, complex numbers for their real parts."""
        dtype = {"float16": "float32", "bfloat16": "float32", "complex64": "float32"}.get(self.dtype, self.dtype)
        has_bias = self.bias and self.role != "grad_weight" and _numpy(self.dtype).kind != "c"
        shapes = self.x_shape, self.y_shape
        return convolution.problem(self.role, self.spec, *shapes, dtype, has_bias, self.epilogue)

    def inputs(self) -> list[Array | None]:
        """Random arrays of a spread of magnitudes."""
        rng, dtype = np.random.default_rng(self.seed), _numpy(self.dtype)
        arrays: list[Array | None] = []
        for shape in self.shapes:
            numbers = None
            if shape is not None:
                numbers = rng.standard_normal(shape)
                if dtype.kind == "c":
                    numbers = numbers + 1j * rng.standard_normal(shape)
                numbers = numbers.astype(dtype)
            arrays.append(numbers)
        return arrays

    def call(self, inputs: list[Array | None], module: Any = convolution) -> Array:
        """The door's function for the role, or the reference's, which knows of no epilogue."""
        a, b, bias, *extras = inputs
        ended, more = (
            ("_ended", [Ending(self.epilogue, *extras)]) if self.epilogue and module is convolution else ("", [])
        )
        result: Array
        if self.role == "forward":
            result = getattr(module, f"conv_forward{ended}")(a, b, bias, self.spec, *more)
        elif self.role == "grad_input":
            result = getattr(module, f"conv_grad_input{ended}")(a, b, bias, self.spec, self.size, *more)
        else:
            result = module.conv_grad_weight(a, b, self.spec)
        return result


def _numpy(name: str) -> np.dtype[Any]:
    from lucid.core.dtypes import as_dtype

    return as_dtype(name).numpy


def random_case(rng: np.random.Generator, limits: Limits = SMALL) -> Case:
    """A case within the limits, with a window to compute."""
    rank = int((1, 1, 2, 2, 2, 3)[rng.integers(6)])
    while True:
        case = _any_case(rng, limits, rank)
        if case.seed % _ONE_WINDOW == 0:
            case = _of_one_window(case)
        elif case.seed % _FAR_TAPS == 0:
            case = _of_far_taps(case)
        elif case.seed % _SPANNED_ROWS == 0:
            case = _of_spanned_rows(case)
        elif case.seed % _FILTERED_ROWS == 0:
            case = _of_filtered_rows(case)
        elif case.seed % _MANY_CHANNELS == 0:
            case = _of_many_channels(case)
        if valid(case) and case.products <= limits.products:
            return case


def _of_one_window(case: Case) -> Case:
    """The case with a single window, which is all of x."""
    kernel, each = case.spec.kernel, (1,) * len(case.size)
    return replace(case, size=kernel, spec=ConvSpec(kernel, case.spec.stride, each, ((0, 0),) * len(each)))


def _of_far_taps(case: Case) -> Case:
    """The case with three taps along each axis, a dilation of half of it and some more, and as much padding."""
    ones = (1,) * len(case.size)
    dilation = tuple((size + 1) // 2 + case.seed % 7 for size in case.size)
    padding = tuple((d, d) for d in dilation)
    return replace(case, spec=ConvSpec((3,) * len(ones), ones, dilation, padding, case.spec.groups))


def _of_spanned_rows(case: Case) -> Case:
    """The case with a kernel that spans all rows, slices where there are some: they may count as channels."""
    spec = case.spec
    dilation, padding = (1, *spec.dilation[1:]), ((0, 0), *spec.padding[1:])
    size = (spec.kernel[0], *case.size[1:])
    return replace(case, size=size, spec=ConvSpec(spec.kernel, spec.stride, dilation, padding, spec.groups))


def _of_filtered_rows(case: Case) -> Case:
    """The case with many taps along the last axis, from few channels to any number; one in three in several lines."""
    spec, number, drawn = case.spec, case.seed // _FILTERED_ROWS, []
    for most in (57, 4, 2, 3, 2, 4):
        number, choice = divmod(number, most)
        drawn.append(choice)
    taps, each_in, groups, lines, centred, strided = drawn
    taps, each_in, groups, each_out = taps + 9, each_in + 1, groups + 1, number % 80 + 1
    ones = (1,) * (spec.rank - 1)
    outer = (spec.kernel, spec.stride, spec.dilation, spec.padding) if not lines else (ones, ones, ones, ((0, 0),) * 2)
    kernel, stride, dilation, padding = (values[: spec.rank - 1] for values in outer)
    last = (taps // 2, taps // 2) if centred else spec.padding[-1]
    filtered = ConvSpec(
        (*kernel, taps), (*stride, 1 if strided else spec.stride[-1]), (*dilation, 1), (*padding, last), groups
    )
    return replace(case, c_in=groups * each_in, c_out=groups * each_out, spec=filtered)


def _of_many_channels(case: Case) -> Case:
    """The case with one tap and about a hundred channels on each side, which leaves products for some positions."""
    number, each_in = divmod(case.seed // _MANY_CHANNELS, 50)
    each_out, ones = number % 50, (1,) * len(case.size)
    size = tuple(samples % {1: 80, 2: 9, 3: 4}[len(ones)] + 1 for samples in case.size)
    spec = ConvSpec(ones, ones, ones, ((0, 0),) * len(ones))
    return replace(case, batch=min(case.batch, 2), c_in=90 + each_in, c_out=90 + each_out, size=size, spec=spec)


def _any_case(rng: np.random.Generator, limits: Limits, rank: int) -> Case:
    def pick(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    each = range(rank)
    kernel = tuple(int(rng.integers(1, 10)) for _ in each)
    if rank == 1 and rng.random() < 0.15:
        kernel = (int(rng.integers(10, 300)),)
    elif rng.random() < 0.3:
        kernel = (kernel[0],) * rank
    stride = tuple(int(pick(1, 1, 1, 2, 2, 3, 4, 5)) for _ in each)
    dilation = tuple(int(pick(1, 1, 1, 2, 3, 4)) for _ in each)
    if rng.random() < 0.4:
        stride, dilation = (stride[0],) * rank, (dilation[0],) * rank
    if rng.random() < 0.2:  # as networks have them, which more algorithms accept
        kernel, stride, dilation = (int(pick(1, 2, 3, 3, 5)),) * rank, (1,) * rank, (1,) * rank
    groups, c_in, c_out = _channels(rng, limits.channels)
    if rank == 2 and rng.random() < _SMALL_GROUPS:
        kernel, stride, dilation = (3, pick(1, 3, 3, 3, 5, 8)), (1, 1), (1, 1)
        groups = int(rng.integers(1, 5))
        c_in, c_out = (groups * pick(1, 3, 4, 4, 6, 8) for _ in range(2))
    padding = tuple(_padding(rng, k, d) for k, d in zip(kernel, dilation, strict=True))
    size = tuple(int(rng.integers(1, limits.samples[rank])) for _ in each)
    if rng.random() < 0.3:
        size = tuple(int(pick(1, 7, 8, 9, 15, 16, 17, 31, 32, 33)) for _ in each)
    case = Case(
        pick(*ROLES), pick(*_DTYPES), int(pick(1, 1, 2, 3)), c_in, c_out, size,
        ConvSpec(kernel, stride, dilation, padding, groups), bool(rng.random() < 0.5), int(rng.integers(1 << 30)),
    )  # fmt: skip
    if case.role == "grad_weight" or _numpy(case.dtype).kind == "c" or rng.random() < 0.5:
        return case
    return replace(case, epilogue=random_epilogue(rng))


def random_epilogue(rng: np.random.Generator) -> Epilogue:
    """Any activation or none, with and without the rest."""
    name = ["", *ACTIVATIONS][rng.integers(len(ACTIVATIONS) + 1)]
    numbers = ACTIVATIONS[name].numbers if name else ()
    return Epilogue(name, numbers, affine=bool(rng.random() < 0.3), residual=bool(rng.random() < 0.4))


def emptied(rng: np.random.Generator, case: Case) -> Case:
    """The case with no images or no samples along an axis; with padding there may still be windows."""
    axis = int(rng.integers(case.spec.rank))
    without = replace(case, size=(*case.size[:axis], 0, *case.size[axis + 1 :]))
    return without if rng.random() < 0.5 and valid(without) else replace(case, batch=0)


def _padding(rng: np.random.Generator, kernel: int, dilation: int) -> tuple[int, int]:
    extent = window_extent(kernel, dilation)
    kind = rng.integers(5)
    if kind == 0:
        return 0, 0
    if kind == 1:
        return (extent - 1) // 2, extent // 2
    if kind == 2:
        return extent - 1, 0
    low, high = rng.integers(0, extent + 3, 2)
    return int(low), int(high)


def _channels(rng: np.random.Generator, most: int) -> tuple[int, int, int]:
    """Groups, channels in, channels out: dense, depthwise with a multiplier, grouped."""
    kind = rng.integers(4)
    if kind == 0:
        groups, each_in, each_out = int(rng.integers(1, most)), 1, 1
    elif kind == 1:
        groups, each_in, each_out = int(rng.integers(1, 12)), 1, int(rng.integers(1, 6))
    elif kind == 2:
        groups, each_in, each_out = int(rng.integers(1, 6)), int(rng.integers(1, 20)), int(rng.integers(1, 20))
    else:
        groups, each_in, each_out = 1, int(rng.integers(1, most)), int(rng.integers(1, most))
    return groups, groups * each_in, groups * each_out


def expected(case: Case, inputs: list[Array | None]) -> tuple[Array, Array]:
    """The definition in double precision, and how far a sum in the case's type may be from it.

    A sum of n products in any order is within n u / (1 - n u) of the sum of their absolute values; the oracle's own
    error adds to that in double precision; a narrow result is rounded once more; denormals may count as zeros.
    """
    dtype = _numpy(case.dtype)
    if empty(case):
        return _sums_of_nothing(case, inputs)
    exact = case.call(_map(inputs, lambda a: a.astype(np.complex128 if dtype.kind == "c" else np.float64)), reference)
    if dtype.kind == "c":  # the real part is a c - b d: two sums of n products each, and one subtraction
        size = case.call(_map(inputs, lambda a: (np.abs(a.real) + np.abs(a.imag)).astype(np.float64)), reference)
    else:
        size = case.call(_map(inputs, lambda a: np.abs(a).astype(np.float64)), reference)
    computed = np.dtype({2: np.float32, 8: np.float32 if dtype.kind == "c" else np.float64}.get(dtype.itemsize, dtype))
    n, unit, tiny = case.terms + 2, np.finfo(computed).eps / 2, np.finfo(computed).tiny
    bound = n * unit / (1 - n * unit) * size + n * tiny
    if case.dtype in ("float16", "bfloat16"):
        narrow = {"float16": (2.0**-11, 2.0**-24), "bfloat16": (2.0**-8, 2.0**-133)}[case.dtype]
        bound = bound * (1 + narrow[0]) + narrow[0] * np.abs(exact) + narrow[1]
    return exact, bound * (2 if computed == np.float64 else 1)


def _sums_of_nothing(case: Case, inputs: list[Array | None]) -> tuple[Array, Array]:
    """Zeros, or the bias, exactly."""
    shape = {"forward": case.y_shape, "grad_input": case.x_shape, "grad_weight": case.w_shape}[case.role]
    exact: Array = np.zeros(shape, np.complex128 if _numpy(case.dtype).kind == "c" else np.float64)
    if case.bias and case.role != "grad_weight":
        exact = exact + inputs[2].reshape(-1, *(1,) * case.spec.rank)
    return exact, np.full(exact.shape, np.finfo(np.float64).tiny)


@lru_cache(maxsize=512)
def prepared(case: Case) -> tuple[list[Array | None], Array, Array]:
    """Inputs, the definition's result and the bound, made once for all algorithms."""
    inputs = case.inputs()
    return inputs, *expected(case, inputs)


def final(case: Case, inputs: list[Array | None], exact: Array, bound: Array) -> tuple[Array, Array]:
    """What the epilogue makes of the definition's result and of the bound on it."""
    if not case.epilogue:
        return exact, bound
    extras = _map(inputs[3:], lambda a: a.astype(np.float64))
    return through(case.epilogue, case.dtype, exact, bound, *extras)


def _map(inputs: list[Array | None], change: Any) -> list[Array | None]:
    return [None if a is None else change(a) for a in inputs]


def error(got: Array, exact: Array, bound: Array) -> float:
    """The worst error as a part of its bound; infinite where a number is missing."""
    if got.shape != exact.shape:
        return np.inf
    wide = got.astype(exact.dtype)
    off = np.abs(wide - exact) if wide.dtype.kind != "c" else np.maximum(*_parts(wide - exact))
    ratio = off / bound
    return float(np.inf if np.isnan(ratio).any() else ratio.max(initial=0))


def _parts(z: Array) -> tuple[Array, Array]:
    return np.abs(z.real), np.abs(z.imag)


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """So many threads inside."""
    before = threads.get_num_threads()
    threads.set_num_threads(count)
    try:
        yield
    finally:
        threads.set_num_threads(before)


@lru_cache(maxsize=1)
def _flushing_call() -> Any:
    signature = (None, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3)
    return threads._functions(False, {"call": signature})["call"]


class _Backwards(threads.PythonPool):
    def run(self, address: int, fields: Any, tasks: int, chunk: int, threads: int) -> None:
        chunk = chunk or max(1, -(-tasks // 2))
        for begin in reversed(range(0, tasks, chunk)):
            _flushing_call()(address, fields, begin, min(begin + chunk, tasks), 0)


@contextmanager
def tasks_backwards() -> Iterator[None]:
    """Regions run their last task first, on this thread: what one task spoils of another's shows without luck.

    Denormals are flushed as they always are.
    """
    usual, threads._pool = threads._pool, _Backwards()
    try:
        yield
    finally:
        threads._pool = usual


def empty(case: Case) -> bool:
    """Whether there is nothing to sum, so that no algorithm is asked."""
    return 0 in (*case.x_shape, *case.y_shape)


def accepting(case: Case, isa: str) -> list[str]:
    """Names of the algorithms that compute the case."""
    with target.using(isa) as machine:
        plans, _ = select.candidates(case.problem, machine)
    return [plan.algorithm for plan in plans]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One algorithm's result: the worst error as a part of its bound, whether thread counts agree bit for bit."""

    case: Case
    algorithm: str
    isa: str
    error: float
    same_bits: bool

    @property
    def right(self) -> bool:
        return self.error <= 1 and self.same_bits

    def __str__(self) -> str:
        what = (
            f"{self.error:.3g} of the bound"
            if self.same_bits
            else "other bits on other numbers of threads, or backwards"
        )
        return f"{self.algorithm} on {self.isa}: {what}: {self.case!r}"


def run_case(case: Case, isa: str, algorithm: str, where: Literal["end", "start"] = "end") -> Outcome:
    """Runs one algorithm on 1, 2 and 3 threads and with its tasks backwards, its arrays between forbidden pages."""
    inputs, exact, bound = prepared(case)
    results: list[Array] = []
    with ExitStack() as stack:
        stack.enter_context(target.using(isa))
        if not empty(case):
            stack.enter_context(convolution.algorithm(algorithm))
        placed = _map(inputs, lambda a: stack.enter_context(guarded(a, where=where, readonly=True)))
        stack.enter_context(_guarded_results(where, stack))
        for count in (1, 2, 3):
            with using_threads(count):
                results.append(case.call(placed))
        with using_threads(1), tasks_backwards():
            results.append(case.call(placed))
        exact, bound = final(case, inputs, exact, allowed(case, algorithm, inputs, bound))
        worst = max(error(result, exact, bound) for result in results)
        same = all(result.tobytes() == results[0].tobytes() for result in results)
    return Outcome(case, algorithm, isa, worst, same)


def allowed(case: Case, algorithm: str, inputs: list[Array | None], bound: Array) -> Array:
    """An algorithm's own bound: of the definition's, the largest nearby, as many times as it says its errors grow."""
    module = select.algorithm_named(algorithm) if algorithm in select.ALGORITHMS else None
    if not hasattr(module, "error_growth"):
        return bound
    plan = select.choose(case.problem, target.isa(), algorithm)
    bounds = [bound] if case.role == "grad_weight" else [bound, expected(_met(case), inputs[:3])[1]]
    largest = np.max([b.max(axis=tuple(range(2, b.ndim)), keepdims=True) for b in bounds], axis=0)
    return np.broadcast_to(largest * module.error_growth(plan), bound.shape)


def _met(case: Case) -> Case:
    """The case on the same inputs, with results wherever a tap meets a sample: transforms see those taps too."""
    spec, plain = case.spec, replace(case, epilogue=PLAIN)
    extents = [window_extent(k, d) for k, d in zip(spec.kernel, spec.dilation, strict=True)]
    if case.role == "forward":
        return replace(
            plain, spec=replace(spec, stride=(1,) * spec.rank, padding=tuple((e - 1, e - 1) for e in extents))
        )
    outs = spec.out_size(case.size)
    size = tuple((n - 1) * s + e for n, s, e in zip(outs, spec.stride, extents, strict=True))
    return replace(plain, size=size, spec=replace(spec, padding=((0, 0),) * spec.rank))


@contextmanager
def _guarded_results(where: Literal["end", "start"], stack: ExitStack) -> Iterator[None]:
    """The door's results lie between forbidden pages too, and start as NaNs; so do the algorithms' workspaces."""

    def empty(shape: Any, dtype: Any) -> Array:
        array: Array = stack.enter_context(guarded(shape, dtype, where, name="result"))
        return array

    def workspace(bytes_per_thread: int, threads: int, before: int | None = None) -> Array:
        row = -(-max(bytes_per_thread, 1) // 64) * 64
        array: Array = stack.enter_context(guarded((threads, row), np.uint8, where, name="workspace"))
        return array

    usual = memory.empty, memory.workspace, memory.POOLED_FROM_BYTES, threads.STACK_BYTES
    memory.empty, memory.workspace, memory.POOLED_FROM_BYTES, threads.STACK_BYTES = empty, workspace, 0, -1
    try:
        yield
    finally:
        memory.empty, memory.workspace, memory.POOLED_FROM_BYTES, threads.STACK_BYTES = usual


def smaller(case: Case) -> Iterator[Case]:
    """Simpler cases nearby: fewer images, channels, samples; plainer geometry."""
    spec = case.spec
    if case.batch > 1:
        yield replace(case, batch=1)
    if case.bias:
        yield replace(case, bias=False)
    if case.epilogue:
        yield replace(case, epilogue=PLAIN)
    if spec.groups > 1:
        yield replace(
            case, c_in=case.c_in // spec.groups, c_out=case.c_out // spec.groups, spec=replace(spec, groups=1)
        )
        if spec.groups > 2:
            yield replace(
                case,
                c_in=case.c_in // spec.groups * 2,
                c_out=case.c_out // spec.groups * 2,
                spec=replace(spec, groups=2),
            )
    else:
        for field in ("c_in", "c_out"):
            for channels in (getattr(case, field) // 2, getattr(case, field) - 1):
                if channels > 0:
                    yield replace(case, **{field: channels})
    for axis in range(spec.rank):
        for name, plain in (("stride", 1), ("dilation", 1), ("padding", (0, 0)), ("kernel", 1)):
            values = getattr(spec, name)
            if values[axis] != plain:
                yield replace(case, spec=replace(spec, **{name: (*values[:axis], plain, *values[axis + 1 :])}))
        for n in (case.size[axis] // 2, case.size[axis] - 1):
            if n > 0:
                yield replace(case, size=(*case.size[:axis], n, *case.size[axis + 1 :]))


def valid(case: Case) -> bool:
    """Whether there is a window to compute."""
    return min(case.spec.out_size(case.size)) > 0
