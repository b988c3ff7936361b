"""Random convolutions through the functionals: every word and mode of padding, forward, transposed and by autograd.

What the kernels' doors do not know, other paddings than zeros, is taken apart here with NumPy, and the rest is the
definition's.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any, Literal

import numpy as np

import lucid
from lucid.autograd import grad
from lucid.core.geometry import window_extent
from lucid.kernels import select, target
from lucid.kernels.algorithms import reference
from lucid.kernels.plan import Epilogue
from lucid.nn import functional as F
from tests.kernels.convolution_fuzz import (
    Case,
    Outcome,
    _guarded_results,
    _map,
    _numpy,
    allowed,
    error,
    expected,
    using_threads,
    valid,
)
from tests.kernels.guard import guarded

Array = np.ndarray[Any, Any]

NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
FORMS = ("pairs", "numbers", "same", "valid", "causal")


@dataclass(frozen=True, slots=True)
class Verb:
    """How a call of a functional asks for its padding."""

    mode: str = "zeros"
    form: str = "pairs"
    used: bool = True  # else the kernels' doors are called, which know pairs of zeros only


PLAIN = Verb(used=False)


def random_verb(rng: np.random.Generator, case: Case) -> tuple[Case, Verb]:
    """The case with a padding that a form asks for and a mode allows."""
    case = replace(case, epilogue=Epilogue())  # which the verbs have no argument for
    spec = case.spec
    form = FORMS[rng.integers(len(FORMS) if spec.rank == 1 else len(FORMS) - 1)]
    mode = list(NUMPY_MODES)[rng.integers(len(NUMPY_MODES))]
    if case.role == "grad_input" and case.bias:
        form = ("pairs", "numbers")[rng.integers(2)]  # transposed: the words mean something else there
    axes = zip(case.size, spec.kernel, spec.stride, spec.dilation, spec.padding, strict=True)
    pads = tuple(_pads(form, *axis) for axis in axes)
    dtype = "float32" if case.dtype == "complex64" else case.dtype
    made = replace(case, dtype=dtype, spec=replace(spec, padding=pads))
    if not valid(made) or not all(_fits(mode, n, pad) for n, pad in zip(case.size, pads, strict=True)):
        return replace(case, dtype=dtype), Verb()
    return made, Verb(mode, form)


def _pads(form: str, n: int, k: int, s: int, d: int, pad: tuple[int, int]) -> tuple[int, int]:
    extent = window_extent(k, d)
    total = max((-(-n // s) - 1) * s + extent - n, 0)
    return {
        "pairs": pad, "numbers": (pad[0], pad[0]), "same": (total // 2, total - total // 2), "valid": (0, 0),
        "causal": (extent - 1, 0),
    }[form]  # fmt: skip


def _fits(mode: str, n: int, pad: tuple[int, int]) -> bool:
    most = {"reflect": n - 1, "circular": n}.get(mode)
    return most is None or max(pad) <= most


def run_verb(case: Case, verb: Verb, isa: str, where: Literal["end", "start"] = "end") -> Outcome:
    """One call on 1, 2 and 3 threads, its arrays between forbidden pages."""
    inputs, exact, bound = _prepared(case, verb)
    results = []
    with ExitStack() as stack:
        machine = stack.enter_context(target.using(isa))
        placed = _map(inputs, lambda a: stack.enter_context(guarded(a, where=where)))
        stack.enter_context(_guarded_results(where, stack))
        for count in (1, 2, 3):
            with using_threads(count):
                results.append(_call(case, verb, placed))
        asked = case if verb.mode == "zeros" else _padded_case(case)  # kernels know zeros themselves
        chosen = select.choose(asked.problem, machine).algorithm
        bound = allowed(asked, chosen, inputs, bound)
        worst = max(error(result, exact, bound) for result in results)
        same = all(result.tobytes() == results[0].tobytes() for result in results)
    return Outcome(case, f"functional ({chosen})", isa, worst, same)


def _call(case: Case, verb: Verb, inputs: list[Array | None]) -> Array:
    a, b, bias = (None if array is None else lucid.from_numpy(array) for array in inputs)
    spec = case.spec
    padding: Any = {"pairs": spec.padding, "numbers": tuple(low for low, _ in spec.padding)}.get(verb.form, verb.form)
    options = dict(
        stride=spec.stride, padding=padding, dilation=spec.dilation, groups=spec.groups, padding_mode=verb.mode
    )
    conv = getattr(F, f"conv{spec.rank}d")
    if case.role == "forward":
        result = conv(a, b, bias, **options)
    elif case.role == "grad_input" and case.bias:
        result = getattr(F, f"conv_transpose{spec.rank}d")(a, b, bias, output_size=case.size, **options)
    elif case.role == "grad_input":
        x = lucid.zeros(*case.x_shape, dtype=a.dtype, requires_grad=True)
        (result,) = grad(conv(x, b, **options), [x], [a])
    else:
        w = lucid.zeros(*case.w_shape, dtype=a.dtype, requires_grad=True)
        (result,) = grad(conv(a, w, **options), [w], [b])
    array: Array = result.detach().numpy()
    return array


def _padded_case(case: Case) -> Case:
    """What is left to compute when x has been padded."""
    size = tuple(n + low + high for n, (low, high) in zip(case.size, case.spec.padding, strict=True))
    return replace(case, size=size, spec=replace(case.spec, padding=((0, 0),) * case.spec.rank))


@lru_cache(maxsize=64)
def _prepared(case: Case, verb: Verb) -> tuple[list[Array | None], Array, Array]:
    """Inputs, the result in double precision, and how far the functional's may be from it."""
    inputs, padded = case.inputs(), _padded_case(case)
    if case.role != "grad_input":
        x = np.pad(inputs[0], [(0, 0), (0, 0), *case.spec.padding], mode=NUMPY_MODES[verb.mode])  # type: ignore[call-overload]
        return inputs, *expected(padded, [x, *inputs[1:]])
    return inputs, *_folded(case, verb, inputs, padded)


def _folded(case: Case, verb: Verb, inputs: list[Array | None], padded: Case) -> tuple[Array, Array]:
    """The adjoint of the padding after that of the convolution.

    It adds up to m numbers where there was one, and a bias after that, each with an error of a unit of the sum.
    """
    g, w, bias = inputs
    exact, bound = expected(padded, [g, w, None])
    size = padded.call(_map([g, w, None], lambda a: np.abs(a).astype(np.float64)), reference)
    exact, bound, size = (_fold(array, case, verb) for array in (exact, bound, size))
    if bias is not None:
        exact = exact + bias.astype(np.float64).reshape(-1, *(1,) * case.spec.rank)
        size = size + np.abs(bias.astype(np.float64)).reshape(-1, *(1,) * case.spec.rank)
    most = prod(1 + low + high for low, high in case.spec.padding) if verb.mode != "zeros" else 1
    unit = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(case.dtype) or float(np.finfo(_numpy(case.dtype)).eps)
    return exact, bound + (most + 2) * unit * (size + bound)


def _fold(array: Array, case: Case, verb: Verb) -> Array:
    """Sums over the samples that a padded axis has copies of; with zeros the copies are dropped."""
    for axis, (n, pad) in enumerate(zip(case.size, case.spec.padding, strict=True), 2):
        fill = {"constant_values": -1} if verb.mode == "zeros" else {}
        places = np.pad(np.arange(n), pad, NUMPY_MODES[verb.mode], **fill)  # type: ignore[call-overload]
        spread = (places[:, None] == np.arange(n)).astype(np.float64)
        array = np.moveaxis(np.tensordot(array, spread, (axis, 0)), -1, axis)
    return array
