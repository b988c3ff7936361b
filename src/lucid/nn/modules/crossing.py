"""What backward hooks see of a module: gradients on their way in through its results and out through its inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lucid.autograd.tracked import Edge, Node, View, edge_of, wrap
from lucid.core.errors import DTypeError, GradientError, ShapeError
from lucid.tensor import Tensor

Hook = Callable[..., Any]
Grads = tuple[Any, ...]


class _Gate(Node):
    """Tensors pass as they are, their gradients as ``passed`` makes them."""

    __slots__ = ("passed",)

    def __init__(self, tensors: Sequence[Tensor], passed: Callable[[list[Any]], Sequence[Any]]) -> None:
        super().__init__([edge_of(x) if x.requires_grad else None for x in tensors], len(tensors))
        self.passed = passed

    @property
    def name(self) -> str:
        """Whose work this is."""
        return "backward_hook"

    def pull(self, upstream: list[Any], needed: Sequence[Edge | None], recording: bool) -> Sequence[Any]:
        """Let the hooks see."""
        return self.passed(upstream)

    def release(self) -> None:
        """Nothing was kept."""


class _Side:
    """The arguments or the results of one call: how many, and which of them are tensors, of which shape and type."""

    def __init__(self, what: str, values: Sequence[Any]) -> None:
        self.what = what
        self.count = len(values)
        self.like = {i: (x.shape, x.dtype) for i, x in enumerate(values) if isinstance(x, Tensor)}
        self.is_gated = any(isinstance(x, Tensor) and x.requires_grad for x in values)

    def gated(self, values: tuple[Any, ...], passed: Callable[[list[Any]], Sequence[Any]]) -> tuple[Any, ...]:
        """The values, those that have gradients behind a gate."""
        gate = _Gate([values[i] for i in self.like], passed)
        changed = list(values)
        for slot, i in enumerate(self.like):
            if gate.edges[slot] is not None:
                changed[i] = _behind(gate, slot, values[i])
        return type(values)(*changed) if hasattr(values, "_fields") else tuple(changed)

    def spread(self, grads: Sequence[Any]) -> Grads:
        """Gradients of the tensors in their places, None in those of other values."""
        places: list[Any] = [None] * self.count
        for i, g in zip(self.like, grads, strict=True):
            places[i] = g
        return tuple(places)

    def taken(self, module: Any, changed: Any) -> Grads:
        """What a hook gave back in place of the gradients, checked."""
        caller = f"{type(module).__name__}: a backward hook"
        grads = (changed,) if isinstance(changed, Tensor) else tuple(changed)
        if len(grads) != self.count:
            raise GradientError(f"{caller} returned {len(grads)} gradients for {self.count} {self.what}s")
        for i, (shape, dtype) in self.like.items():
            g = grads[i]
            if g is not None and not isinstance(g, Tensor):
                raise TypeError(f"{caller} returned a {type(g).__name__} for {self.what} {i}: must be a Tensor or None")
            if g is not None and g.shape != shape:
                raise ShapeError(f"{caller} returned a gradient of shape {g.shape} for {self.what} {i} of {shape}")
            if g is not None and g.dtype is not dtype:
                raise DTypeError(f"{caller} returned a gradient of {g.dtype} for {self.what} {i} of {dtype}")
        return grads


class Crossing:
    """One recorded call of a module with backward hooks: arguments come in through a gate, results go out through one.

    Gradients come the other way: those that arrive at the results go to the hooks ``before`` and wait here until those
    of the arguments are there, too, for the hooks ``after``. Hooks are those of the time of the call.
    """

    def __init__(self, module: Any, before: Sequence[Hook], after: Sequence[Hook]) -> None:
        self.module, self.before, self.after = module, before, after
        self.waiting: Grads | None = None

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments as the module is to have them."""
        self.inputs = _Side("input", args)
        return self.inputs.gated(args, self._behind_inputs) if self.inputs.is_gated else args

    def leave(self, result: Any) -> Any:
        """The results as the caller is to have them."""
        if not isinstance(result, Tensor | tuple):
            warnings.warn(
                f"{type(self.module).__name__}: backward hooks are not called, for the result is a "
                f"{type(result).__name__}; it must be a Tensor or a tuple",
                stacklevel=4,
            )
            return result
        results = result if isinstance(result, tuple) else (result,)
        self.results = _Side("result", results)
        if self.results.is_gated:
            results = self.results.gated(results, self._at_results)
        return results if isinstance(result, tuple) else results[0]

    def _at_results(self, upstream: list[Any]) -> Sequence[Any]:
        grads = self.results.spread(upstream)
        for hook in self.before:
            changed = hook(self.module, grads)
            grads = grads if changed is None else self.results.taken(self.module, changed)
        if self.inputs.is_gated:
            self.waiting = grads
        else:
            self._without_inputs(grads)
        return [grads[i] for i in self.results.like]

    def _without_inputs(self, grads: Grads) -> None:
        """Where no argument has a gradient, hooks are called before the module's own gradients are there."""
        for hook in self.after:
            changed = hook(self.module, (None,) * self.inputs.count, grads)
            if changed is not None and any(g is not None for g in changed):
                raise GradientError(
                    f"{type(self.module).__name__}: a backward hook returned gradients, but no input requires one"
                )

    def _behind_inputs(self, upstream: list[Any]) -> Sequence[Any]:
        if self.waiting is None:  # they came another way than through the results, as second gradients may
            return upstream
        like = self.inputs.like.values()
        grads = self.inputs.spread([_zeros(*one) if g is None else g for g, one in zip(upstream, like, strict=True)])
        for hook in self.after:
            changed = hook(self.module, grads, self.waiting)
            grads = grads if changed is None else self.inputs.taken(self.module, changed)
        self.waiting = None
        return [grads[i] for i in self.inputs.like]


def _behind(gate: _Gate, slot: int, x: Any) -> Tensor:
    """The same memory behind a gate, and a view: writing into it moves the place of ``x`` in the graph, too."""
    tensor: Tensor = wrap(x._array, x._version)
    base, steps = (x, ()) if x._view is None else (x._view.base, x._view.steps)
    tensor._view = View(base, base._edge, steps)
    tensor._edge, tensor._requires_grad = (gate, slot), True
    return tensor


def _zeros(shape: tuple[int, ...], dtype: Any) -> Tensor:
    return Tensor(np.zeros(shape), dtype=dtype)
