"""A call drawn at random, made in PyTorch and in Lucid, and what both give compared.

How far they may differ is derived, for any operation, by backward errors: a stable algorithm gives the exact result of
operands that are off by some roundings. How far those move a result is found by moving them: in float64, by random
factors close to one. Source: Kenney & Laub, "Small-sample statistical condition estimates for general matrix
functions", SIAM J. Sci. Comput. 15 (1994). Results that only choose among the operands have the same bits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce
from math import prod
from typing import Any

import numpy as np
import torch

import lucid

Array = np.ndarray[Any, Any]

FLOATS = ("float32", "float64", "float16", "bfloat16")
INTS = ("int64", "int32", "int16", "int8", "uint8")
#: What one rounding is off by at most, relative to the number. Sums of halves are kept in float32.
ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
#: Below these, results may be flushed to zero.
SMALLEST = {"float64": 1e-300, "float32": 2.0**-126, "float16": 2.0**-14, "bfloat16": 2.0**-126}
_STEPS = 8  # roundings of a result beside those of its sums
_PROBES = 2
_MOVE = 2.0**-20
_UPSTREAM = 2.0  # the largest number of an upstream gradient
_ERRORS = (ValueError, TypeError, RuntimeError, IndexError, ArithmeticError)
#: PyTorch's errors for what it could tell, but does not.
_UNTOLD = (
    "not implemented for",
    "not supported",
    "smaller than kernel size",
    "at most half of kernel size",
    "source and destination dtypes",
)

#: How an operand lies in memory: the tensor it is a view of, from its values, and the view.
VIEWS: dict[str, tuple[Callable[[Array], Array], Callable[[Any], Any]]] = {
    "whole": (lambda a: a, lambda t: t),
    "turned": (lambda a: a.T.copy(), lambda t: t.permute(*reversed(range(t.ndim)))),
    "stepped": (lambda a: np.repeat(a, 2, -1), lambda t: t[..., ::2]),
    "offset": (lambda a: np.concatenate([a[:1], a]), lambda t: t[1:]),
    "padded": (lambda a: np.pad(a, [(1, 2)] * a.ndim), lambda t: t[(slice(1, -2),) * t.ndim]),
}


@dataclass(frozen=True, eq=False)
class Operand:
    """A tensor to be; ``values`` are of ``dtype``, floats held as float64."""

    values: Array
    dtype: str
    view: str = "whole"
    written: bool = False  #: the call writes into it, so it gets a copy
    constant: bool = False  #: it takes no gradient

    def __repr__(self) -> str:
        return f"{self.dtype}{list(self.values.shape)}{'' if self.view == 'whole' else ' ' + self.view}"

    @property
    def has_grad(self) -> bool:
        return self.dtype in FLOATS and not self.constant


@dataclass(frozen=True)
class Call:
    """What is called, a name of the library's or ``.name``, a method of the first operand's; and with what.

    A layer is built of the arguments and called ``on`` its input and its parameters, by name.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    exact: bool = False  #: results are chosen from the operands, or counted
    on: dict[str, Operand] | None = None

    def __str__(self) -> str:
        told = [repr(a) for a in self.args] + [f"{k}={v!r}" for k, v in self.kwargs.items()]
        return f"{self.name}({', '.join(told)})" + (f" on {self.on}" if self.on else "")

    @property
    def operands(self) -> list[Operand]:
        """In the order in which ``made`` asks for them."""
        return list(_found((self.args, self.kwargs, self.on)))

    def made(self, lib: Any, tensors: dict[int, Any], kind: str | None) -> Any:
        """Its results in a library, with a tensor for each operand, by identity; layers are of the float ``kind``."""
        args, kwargs, on = (_replaced(part, tensors) for part in (self.args, self.kwargs, self.on))
        if self.name.startswith("."):
            result = getattr(args[0], self.name[1:])(*args[1:], **kwargs)
            return args[0] if result is None else result
        called = reduce(getattr, self.name.split("."), lib)(*args, **kwargs)
        if on is None:
            return called
        layer, x = called.to(getattr(lib, kind or "float32")), on.pop("input")
        return lib.func.functional_call(layer, on, (x,)), *layer.buffers()


def _found(part: Any) -> Iterator[Operand]:
    if isinstance(part, Operand):
        yield part
    elif isinstance(part, (tuple, list, dict)):
        for each in part.values() if isinstance(part, dict) else part:
            yield from _found(each)


def _replaced(part: Any, tensors: dict[int, Any]) -> Any:
    if isinstance(part, Operand):
        return tensors[id(part)]
    if isinstance(part, dict):
        return {name: _replaced(each, tensors) for name, each in part.items()}
    return type(part)(_replaced(each, tensors) for each in part) if isinstance(part, (tuple, list)) else part


class Draw:
    """Numbers, shapes and operands for a call; the same ones for the same seed."""

    def __init__(self, *seed: object) -> None:
        self.random = random.Random(repr(seed))
        self.numbers = np.random.default_rng(self.random.getrandbits(64))

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def slips(self) -> bool:
        """Whether an argument is to be wrong: where PyTorch raises, Lucid does."""
        return self.chance(0.03)

    def one(self, *options: Any) -> Any:
        return self.random.choice(options)

    def number(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def size(self, low: int = 1) -> int:
        """Of an axis: on both sides of a vector's width, seldom none."""
        if low == 0 and self.chance(0.04):
            return 0
        return self.one(1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33)

    def shape(self, least: int = 0, most: int = 4, elements: int = 500) -> tuple[int, ...]:
        while True:
            shape = tuple(self.size(0) for _ in range(self.number(least, most)))
            if prod(shape) <= elements:
                return shape

    def dtype(self, *others: str) -> str:
        """Mostly float32."""
        return "float32" if self.chance(0.5) else self.one(*FLOATS, *others)

    def dim(self, rank: int) -> int:
        if self.slips():
            return rank + self.number(0, 1)
        return self.number(-rank, rank - 1) if rank else self.one(-1, 0)

    def dims(self, rank: int) -> int | tuple[int, ...]:
        """One dimension, or some."""
        if rank == 0 or self.chance(0.4):
            return self.dim(rank)
        chosen = self.random.sample(range(rank), self.number(1, rank))
        return tuple(d - rank * self.chance(0.3) for d in chosen)

    def broadcast(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What broadcasts with it."""
        found = tuple(1 if self.chance(0.25) else n for n in shape)[
            self.number(0, len(shape)) if self.chance(0.3) else 0 :
        ]
        if self.slips() and found:
            return (*found[:-1], found[-1] + 1)
        return (self.number(1, 3), *found) if self.chance(0.1) else found

    def values(self, shape: tuple[int, ...], dtype: str, kind: str) -> Array:
        """``kind`` of floats; ints lie around zero."""
        rng = self.numbers
        if dtype == "bool":
            return rng.integers(0, 2, shape).astype(bool)
        if dtype in INTS:
            return rng.integers(0 if dtype == "uint8" else -5, 6, shape).astype(dtype)
        found = np.asarray({
            "normal": lambda: rng.standard_normal(shape),
            "odd": lambda: rng.standard_normal(shape),
            "positive": lambda: rng.uniform(0.3, 2.0, shape),
            "unit": lambda: rng.uniform(-0.9, 0.9, shape),
            "share": lambda: rng.uniform(0.05, 0.95, shape),
            "ties": lambda: rng.integers(-2, 3, shape).astype(float),
            "far": lambda: rng.standard_normal(shape) * 6,
        }[kind]())  # fmt: skip
        if kind == "odd":
            odd = np.array([0.0, -0.0, 1.0, -1.0, 0.5, np.inf, -np.inf, np.nan])
            found = np.where(rng.random(shape) < 0.2, rng.choice(odd, shape), found)
        return torch.tensor(found).to(getattr(torch, dtype)).double().numpy()

    def tensor(
        self, shape: tuple[int, ...], dtype: str = "float32", kind: str = "normal", odd: bool = False, **more: Any
    ) -> Operand:
        """Of a ``kind`` of numbers; seldom, where ``odd`` ones are meant to be, with infinities and NaN."""
        view = self.one(*VIEWS) if shape and self.chance(0.3) else "whole"
        if odd and self.chance(0.15):
            kind, more = "odd", {"constant": True, **more}
        return Operand(self.values(shape, dtype, kind), dtype, view, **more)

    def index(self, shape: tuple[int, ...], below: int, low: int = 0) -> Operand:
        """Of an axis of so many; a wrong one is too large, as negative ones count from the end here."""
        view = self.one("whole", *VIEWS) if shape else "whole"
        if below <= 0 or self.slips():
            low, below = max(below, 0), max(below, 0) + 2
        return Operand(self.numbers.integers(low, below, shape), "int64", view)


@dataclass
class Outcome:
    """Results, and the gradients of those operands that take one."""

    results: list[Any]
    gradients: list[Any]


def run(
    lib: Any, call: Call, kind: str | None = None, move: np.random.Generator | None = None, learn: bool = True
) -> Outcome:
    """Makes a call, floats of a ``kind`` in place of their own, operands and upstream gradients moved a little."""
    leaves, tensors = [], {}
    for operand in call.operands:
        if id(operand) in tensors:
            continue
        base, view = VIEWS[operand.view]
        values, dtype = operand.values, operand.dtype
        if kind and dtype in FLOATS:
            dtype = kind
        if move is not None and operand.dtype in FLOATS and not call.exact:
            values = values * (1 + _MOVE * move.standard_normal(values.shape))
        leaf = lib.tensor(base(values), dtype=getattr(lib, dtype))
        if learn and operand.has_grad:
            leaves.append(leaf.requires_grad_())
        tensors[id(operand)] = view(leaf).clone() if operand.written else view(leaf)
    made = call.made(lib, tensors, kind or next((o.dtype for o in call.operands if o.dtype in FLOATS), None))
    results = list(_tensors(made, lib))
    given = [r for r in results if r.requires_grad] if learn else []
    rng = np.random.default_rng(7)
    upstream = [rng.integers(-16, 17, tuple(r.shape)) * (_UPSTREAM / 16) for r in given]  # no dtype rounds them
    if move is not None:
        upstream = [g * (1 + _MOVE * move.standard_normal(g.shape)) for g in upstream]
    seeds = [lib.tensor(g, dtype=r.dtype) for g, r in zip(upstream, given, strict=True)]
    found = lib.autograd.grad(given, leaves, seeds, allow_unused=True) if given and leaves else []
    return Outcome([r.detach() for r in results], list(found))


def _tensors(made: Any, lib: Any) -> Iterator[Any]:
    if isinstance(made, lib.Tensor):
        yield made
    elif isinstance(made, Sequence):
        for each in made:
            yield from _tensors(each, lib)


def compare(call: Call) -> bool:
    """Asserts that Lucid does as PyTorch does: raises, or gives the same; False where PyTorch cannot tell."""
    try:
        native = run(torch, call, learn=False)
    except _ERRORS as error:
        if not any(text in str(error) for text in _UNTOLD):
            _raises(call, error)
        return False
    told = None
    for learn in (True, False):  # it may not differentiate it, or raise in float64 alone
        with suppress(*_ERRORS):
            told = told or run(torch, call, "float64", learn=learn)
    if told is None:
        return False
    moved = [
        run(torch, call, "float64", np.random.default_rng([probe]), learn=bool(told.gradients))
        for probe in range(_PROBES)
    ]
    with lucid.no_grad():
        _compare_results(call, run(lucid, call, learn=False), native, told, moved)
    ours = run(lucid, call, learn=bool(told.gradients))
    _compare_results(call, ours, native, told, moved)
    learning = [operand for operand in {id(o): o for o in call.operands}.values() if operand.has_grad]
    for n, (got, wanted) in enumerate(
        zip(ours.gradients or [None] * len(learning), told.gradients, strict=bool(told.gradients))
    ):
        if wanted is None or got is None:
            assert all(g is None or not g.any() for g in (got, wanted)), f"{call}: gradient {n} is {got}, not {wanted}"
            continue
        dtype = learning[n].dtype
        assert _dtype(got) == dtype, f"{call}: gradient {n} of {got.dtype}"
        _close(f"{call}: gradient {n}", call, got, wanted, [m.gradients[n] for m in moved], dtype, _UPSTREAM)
    return True


def _raises(call: Call, error: Exception) -> None:
    try:
        ours = run(lucid, call)
    except _ERRORS:
        return
    shapes = [tuple(r.shape) for r in ours.results]
    raise AssertionError(f"{call}: Lucid gives {shapes}, PyTorch raises {str(error)[:200]}")


def _compare_results(call: Call, ours: Outcome, native: Outcome, told: Outcome, moved: list[Outcome]) -> None:
    assert len(ours.results) == len(native.results), f"{call}: {len(ours.results)} results, not {len(native.results)}"
    for n, (got, wanted) in enumerate(zip(ours.results, native.results, strict=True)):
        what = f"{call}: result {n}"
        assert _dtype(got) == _dtype(wanted), f"{what} of {got.dtype}, not {wanted.dtype}"
        assert tuple(got.shape) == tuple(wanted.shape), f"{what} of {tuple(got.shape)}, not {tuple(wanted.shape)}"
        if call.exact or _dtype(wanted) not in FLOATS:
            np.testing.assert_array_equal(_numbers(got), _numbers(wanted), err_msg=what)
        else:
            largest = max((_largest(o.values) for o in call.operands if o.dtype in FLOATS), default=0.0)
            _close(what, call, got, told.results[n], [m.results[n] for m in moved], _dtype(wanted), largest)


def _largest(values: Array) -> float:
    """Of what is finite."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _close(what: str, call: Call, got: Any, wanted: Any, moved: list[Any], dtype: str, scale: float) -> None:
    """Errors are as large as the largest numbers have them, of the result, of what moves it, or of a ``scale``."""
    wanted = wanted.detach()
    a, b = _numbers(got), _numbers(wanted)
    assert a.shape == b.shape, f"{what} of {a.shape}, not {b.shape}"
    b = _numbers(wanted.to(getattr(torch, dtype))) if not np.isfinite(wanted.numpy()).all() else b
    terms = max((prod(o.values.shape) for o in call.operands), default=1)
    coarsest = max(ROUNDING[d] for d in (dtype, *(o.dtype for o in call.operands)) if d in FLOATS)
    with np.errstate(invalid="ignore", over="ignore"):
        condition = np.sqrt(sum(((_numbers(m) - b) / _MOVE) ** 2 for m in moved))
        roundings = _STEPS * coarsest + terms * (2**-53 if coarsest == 2**-53 else 2**-24)
        bound = roundings * (_largest(b) + _largest(condition) + scale) + SMALLEST[dtype]
        known = np.isfinite(a) & np.isfinite(b)
        wrong = np.where(known, np.abs(a - b) > bound, (a != b) & ~(np.isnan(a) & np.isnan(b)))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        told = f"{int(wrong.sum())} of {wrong.size} wrong"
        raise AssertionError(f"{what} at {at} is {float(a[at])}, not {float(b[at])} within {bound:.2g} ({told})")


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).rpartition(".")[2]


def _numbers(tensor: Any) -> Array:
    found = tensor.detach()
    return (found.double() if _dtype(found) in FLOATS else found).numpy()
