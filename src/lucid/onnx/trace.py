"""What a model computes of its inputs, as a list of operations: heard while it runs, and heard again to be sure.

One run cannot tell what follows from the inputs from what merely was so in that run. So the model runs twice or more:
on other values, and with each axis that is to be dynamic at another length. Runs that differ in more than sizes are
refused; sizes that differ are what has to be computed in the exported graph.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from lucid.autograd import enable_grad, inference_mode, listening
from lucid.core.errors import ExportError
from lucid.nn import Module
from lucid.tensor import Tensor

Array = np.ndarray[Any, Any]
Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ref:
    """A value that comes from the model's inputs: its number in the order of making."""

    number: int


@dataclass(frozen=True, slots=True, eq=False)
class Const:
    """A value that does not."""

    array: Array
    name: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation on values of which at least one comes from the inputs; the first run's, with what others had."""

    op: str
    inputs: tuple[Any, ...]  # Ref, Const, Python number or None
    params: dict[str, Any]
    results: tuple[Ref, ...]
    place: str  # the path of the module it happened in
    runs: tuple[dict[str, Any], ...] = ()  # the parameters in every run

    def refs(self) -> Iterator[Ref]:
        """The values that it reads."""
        yield from (x for x in self.inputs if isinstance(x, Ref))
        for value in self.params.values():
            yield from (x for x in value if isinstance(x, Ref)) if isinstance(value, tuple) else ()


@dataclass(frozen=True, slots=True)
class Value:
    """What a run made: its element type and its sizes in every run."""

    dtype: np.dtype[Any]
    shapes: tuple[Sizes, ...]


@dataclass(slots=True)
class Trace:
    """A model as operations: ``values`` by number, the inputs first; ``results`` nested as the model returns them."""

    inputs: list[Ref]
    steps: list[Step]
    values: list[Value]
    results: Any


def refuse(text: str, place: str, model: Any) -> ExportError:
    """The error, with the way to the layer."""
    name = type(model).__name__ if isinstance(model, Module) else getattr(model, "__name__", "the model")
    return ExportError(f"onnx.export: {text} (in {name}{': ' + place if place else ''})")


# One run

#: Whether a model is being heard.
EXPORTING: ContextVar[bool] = ContextVar("EXPORTING", default=False)


@dataclass(slots=True)
class _Known:
    """A value that was seen, and what tells that nobody has written to it since. Keeps the array's address taken."""

    ref: Ref
    array: Array
    edge: Any
    sum: int


class _Run:
    """Hears one run of a model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.steps: list[Step] = []
        self.values: list[Value] = []
        self.by_edge: dict[tuple[int, int], _Known] = {}
        self.by_array: dict[int, _Known] = {}
        self.path: list[str] = [""]

    def add(self, tensor: Tensor) -> Ref:
        """A new value."""
        array, edge = tensor._array, tensor._edge
        ref = Ref(len(self.values))
        self.values.append(Value(array.dtype, (array.shape,)))
        known = _Known(ref, array, edge, _sum(array))
        self.by_array[id(array)] = known
        if edge is not None:
            self.by_edge[id(edge[0]), edge[1]] = known
        return ref

    def find(self, tensor: Tensor) -> Ref | Const:
        """The value that a tensor is, by its place in the gradient graph or by its memory; else it is a constant."""
        edge, array = tensor._edge, tensor._array
        known = None if edge is None else self.by_edge.get((id(edge[0]), edge[1]))
        known = known or self.by_array.get(id(array))
        if known is None:
            return Const(array)
        if known.sum != _sum(array):
            raise refuse(
                "a value was written in place where no gradient is recorded, which cannot be followed; use the "
                "operation that returns a new tensor",
                self.path[-1],
                self.model,
            )
        return known.ref

    def hear(self, op: Any, inputs: tuple[Any, ...], params: dict[str, Any], result: Any) -> None:
        """Note an operation down, unless all that it reads are constants."""
        found = tuple(self.find(x) if isinstance(x, Tensor) else x for x in inputs)
        static = {name: self._index(value) for name, value in params.items() if name != "call"}
        step = Step(op.name, found, static, (), self.path[-1])
        if next(step.refs(), None) is None:
            return
        made = result if isinstance(result, tuple) else (result,)
        self.steps.append(replace(step, results=tuple(map(self.add, made))))

    def read(self, tensor: Tensor, how: str) -> None:
        """Refuses that Python is told a value that comes from the inputs."""
        if isinstance(self.find(tensor), Ref):
            raise refuse(
                f"{how}() takes a value out of the tensors, so what follows would stay as it is for this example; what "
                "is no part of the result can be left out where onnx.is_in_onnx_export()",
                self.path[-1],
                self.model,
            )

    def _index(self, value: Any) -> Any:
        """A parameter, with arrays in an index that were computed as the values they are."""
        if not isinstance(value, tuple):
            return value
        return tuple(self._part(x) if isinstance(x, np.ndarray) else x for x in value)

    def _part(self, array: Array) -> Ref | Const:
        known = self.by_array.get(id(array))
        return Const(array) if known is None else known.ref


def _sum(array: Array) -> int:
    """A checksum of the elements in order."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data) if array.size else 0


@contextmanager
def _paths(run: _Run) -> Iterator[None]:
    """Let the run know which module is being called. Modules that are watched also do not join their neighbours."""

    def leave(module: Any, args: Any, result: Any) -> None:
        run.path.pop()

    with ExitStack() as stack:
        for name, module in run.model.named_modules() if isinstance(run.model, Module) else ():
            stack.enter_context(module.register_forward_pre_hook(partial(_enter, run.path, name)))
            stack.enter_context(module.register_forward_hook(leave))
        yield


def _enter(path: list[str], name: str, module: Any, args: Any) -> None:
    path.append(name)


def _heard(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[_Run, list[Ref], Any]:
    """Run the model once."""
    run = _Run(model)
    refs: list[Ref] = []

    def enter(x: Tensor) -> Tensor:
        # A copy, made where gradients are recorded: floating-point values have a place in the graph from here on.
        fresh: Tensor = Tensor(x._array.copy(), requires_grad=x.dtype.is_differentiable).clone()
        refs.append(run.add(fresh))
        return fresh

    with inference_mode(False), enable_grad():
        args, kwargs = mapped(enter, args), mapped(enter, kwargs)
        with _paths(run), listening(run.hear, run.read), _exporting():
            result = model(*args, **kwargs)
        return run, refs, mapped(run.find, result)


@contextmanager
def _exporting() -> Iterator[None]:
    token = EXPORTING.set(True)
    try:
        yield
    finally:
        EXPORTING.reset(token)


def mapped(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """A tree of tuples, lists and dicts with every tensor replaced."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {name: mapped(function, x) for name, x in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(mapped(function, x) for x in tree))
    return type(tree)(mapped(function, x) for x in tree) if isinstance(tree, (tuple, list)) else tree


def leaves(tree: Any) -> list[Any]:
    """The values of a tree, in order."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [leaf for x in tree for leaf in leaves(x)] if isinstance(tree, (tuple, list)) else [tree]


# Several runs


Axes = Sequence[tuple[int, int]]
"""Axes that have one length: (number of the input, axis)."""


def trace(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: Sequence[Axes]) -> Trace:
    """A model on such inputs. For each entry of ``dynamic`` it runs once more, those axes twice as long.

    Raises: ExportError where the runs differ in more than sizes, naming the layer.
    """
    first, inputs, results = _heard(model, args, kwargs)
    runs = []
    for axes in dynamic or [()]:
        others = _others(args, kwargs, axes)
        try:
            runs.append(_heard(model, *others))
        except Exception as error:
            shapes = ", ".join(str(x.shape) for x in leaves(others) if isinstance(x, Tensor))
            error.add_note(f"onnx.export ran the model once more, on {shapes}, to see what depends on values and sizes")
            raise
    return _merged(model, (first, inputs, results), runs)


def _others(args: tuple[Any, ...], kwargs: dict[str, Any], axes: Axes) -> tuple[Any, Any]:
    """Other arguments, twice as long along ``axes``."""
    numbers = count()

    def grown(x: Tensor) -> Tensor:
        number = next(numbers)
        return _other(x, [axis for i, axis in axes if i == number])

    return mapped(grown, args), mapped(grown, kwargs)


def _other(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Other values of the same kind, twice as long along ``axes``."""
    array = np.roll(x._array, 1)
    if x.dtype.is_differentiable:
        array = (array * 0.875 + 0.03125).astype(array.dtype)
    for axis in axes:
        array = np.concatenate([array, np.roll(array, 1, axis)], axis)
    return Tensor(array)


def _merged(model: Any, first: tuple[_Run, list[Ref], Any], others: list[tuple[_Run, list[Ref], Any]]) -> Trace:
    base, inputs, results = first
    for run, _, found in others:
        for k, (a, b) in enumerate(zip(base.steps, run.steps, strict=False)):
            _check_alike(model, a, b, k)
        if len(base.steps) != len(run.steps):
            rest = max(base.steps, run.steps, key=len)[min(len(base.steps), len(run.steps))]
            raise refuse(f"forward takes another way for other values or sizes, from {rest.op} on", rest.place, model)
        if not _same_results(leaves(results), leaves(found)):
            raise refuse(f"a result does not come from the inputs, as far as one can follow: {_LOST}", "", model)
    runs = [base, *(run for run, _, _ in others)]
    steps = [replace(s, runs=tuple(r.steps[k].params for r in runs)) for k, s in enumerate(base.steps)]
    values = [Value(value.dtype, tuple(run.values[k].shapes[0] for run in runs)) for k, value in enumerate(base.values)]
    return Trace(inputs, steps, values, results)


def _same_results(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(map(_same, a, b))


_LOST = (
    "numpy(), item(), random numbers, no_grad() or sizes of axes that are dynamic made it, and it would stay what it "
    "was in this run"
)


def _check_alike(model: Any, a: Step, b: Step, k: int) -> None:
    """The same operation on the same values and constants."""
    if a.op != b.op or a.results != b.results or len(a.inputs) != len(b.inputs):
        text = f"forward takes another way for other values or sizes: {a.op} in one run, {b.op} in another"
        raise refuse(text, a.place, model)
    for x, y in zip(a.inputs, b.inputs, strict=True):
        if _same(x, y):
            continue
        if isinstance(x, Const) and isinstance(y, Const) and x.array.shape != y.array.shape:
            text = (
                f"an operand of {a.op} is made for one length of an axis that is to be dynamic: its shape is "
                f"{x.array.shape} or {y.array.shape}; leave that axis out of dynamic_axes"
            )
        else:
            text = f"an operand of {a.op} is no constant, and it is not known how it was made: {_LOST}"
        raise refuse(text, a.place, model)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Const) and isinstance(b, Const):
        a, b = a.array, b.array
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a is b or (a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    return type(a) is type(b) and bool(a == b)


def same_params(a: Any, b: Any) -> bool:
    """Whether parameters are alike; functions are passed over."""
    if isinstance(a, dict):
        return all(same_params(a[name], b[name]) for name in a)
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return all(map(same_params, a, b))
    return (callable(a) and callable(b)) or _same(a, b)
