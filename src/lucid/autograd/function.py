"""Operations of users' own, written as two functions on tensors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from typing import Any

import numpy as np

from lucid.autograd.mode import mode, no_grad
from lucid.autograd.tracked import Edge, Node, Tracked, edge_of, placed, restored, wrap
from lucid.core.errors import GradientError, ShapeError


class Context(Node):
    """What ``forward`` hands to ``backward``: saved tensors, and any attribute set on it."""

    def __init__(self, function: type[Function], inputs: Sequence[Any]) -> None:
        tensors = [x if isinstance(x, Tracked) else None for x in inputs]
        super().__init__([edge_of(x) if x is not None and x._requires_grad else None for x in tensors], 0)
        self.needs_input_grad = tuple(edge is not None for edge in self.edges)
        self._function = function
        self._shapes = [None if x is None else x._array.shape for x in tensors]
        self._saving: tuple[Any, ...] = ()
        self._saved: list[Any] | None = []
        self._dirty: tuple[Any, ...] = ()
        self._constant: tuple[Any, ...] = ()
        self._like: list[tuple[tuple[int, ...], Any]] = []
        self._materialize = True

    @property
    def name(self) -> str:
        """The function's name."""
        return self._function.__name__

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep inputs, results or intermediate tensors (or None) for ``backward``; writing into them is noticed."""
        self._saving = tensors

    def mark_dirty(self, *tensors: Any) -> None:
        """Say which inputs ``forward`` wrote into. They must be among its results."""
        self._dirty = tensors

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """Say which results have no gradient."""
        self._constant = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether a missing upstream gradient reaches ``backward`` as zeros (the default) or as None."""
        self._materialize = value

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What ``save_for_backward`` kept, each in its place in the graph."""
        if self._saved is None:
            raise GradientError(
                f"{self.name}: backward a second time through a graph whose saved tensors are already freed; "
                f"pass retain_graph=True to the first backward if the graph is needed again"
            )
        return tuple(None if entry is None else self._restored(*entry) for entry in self._saved)

    def _restored(self, saved: Any, edge: Any) -> Any:
        tensor = restored(saved, self.name)
        tensor._edge = (self, edge) if isinstance(edge, int) else edge
        tensor._requires_grad = edge is not None
        return tensor

    def finish(self, results: Sequence[Any]) -> None:
        """Place the results in the graph and turn saved tensors into arrays: a node holds no tensor of its own."""
        self.results = len(results)
        self._like = [(r._array.shape, r._array.dtype) for r in results]
        slots = {id(r): i for i, r in enumerate(results)}
        recorded = any(self.needs_input_grad)
        self._saved = []
        for x in self._saving:
            edge = None if x is None else slots.get(id(x), edge_of(x) if x._requires_grad else None)
            self._saved.append(None if x is None else ((x._array, x._version, x._version[0]), edge))
        for slot, result in enumerate(results):
            constant = any(result is c for c in self._constant) or result._array.dtype.kind in "biu"
            if recorded and not constant:
                result._edge, result._requires_grad = (self, slot), True
        self._saving = self._dirty = self._constant = ()

    def pull(self, upstream: list[Any], needed: Sequence[Edge | None], recording: bool) -> Sequence[Any]:
        """Run the user's ``backward`` and check what it returns."""
        if self._materialize:
            upstream = [wrap(np.zeros(*like)) if g is None else g for g, like in zip(upstream, self._like, strict=True)]
        grads = self._function.backward(self, *upstream)
        grads = list(grads) if isinstance(grads, tuple | list) else [grads]
        if len(grads) > len(self.edges) and all(g is None for g in grads[len(self.edges) :]):
            del grads[len(self.edges) :]
        if len(grads) != len(self.edges):
            raise GradientError(
                f"{self.name}.backward: returned {len(grads)} gradients for {len(self.edges)} arguments of forward"
            )
        for i, (g, shape) in enumerate(zip(grads, self._shapes, strict=True)):
            if g is not None and shape is not None and g._array.shape != shape:
                raise ShapeError(
                    f"{self.name}.backward: gradient {i} has shape {g._array.shape}, its argument has {shape}"
                )
        return grads

    def release(self) -> None:
        """Free what was saved, if anything was."""
        if self._saved:
            self._saved = None


class Function:
    """An operation with a gradient of your own. Subclass, write both halves, call ``apply``.

    ``backward`` gets one upstream gradient per result and returns one gradient (or None) per argument of ``forward``.
    Written in operations on tensors, it can be differentiated again.

    >>> import lucid
    >>> class Cube(Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x * x
    ...
    ...     @staticmethod
    ...     def backward(ctx, g):
    ...         (x,) = ctx.saved_tensors
    ...         return g * 3 * x * x
    >>> x = lucid.tensor([2.0], requires_grad=True)
    >>> Cube.apply(x).backward()
    >>> x.grad
    Tensor([12.])
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        """Compute the result or a tuple of results. Nothing inside is recorded."""
        raise NotImplementedError("Function: write a static method forward(ctx, *args)")

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradients of the arguments from the gradients of the results."""
        raise NotImplementedError("Function: write a static method backward(ctx, *grads)")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run ``forward``, recorded as one operation."""
        for x in args:
            if isinstance(x, Tracked) and x._view is not None:
                placed(x)
        ctx = Context(cls, args)
        recording = mode.recording
        if not recording:
            ctx.edges, ctx.needs_input_grad = [None] * len(args), (False,) * len(args)
        with no_grad():
            returned = cls.forward(ctx, *args)
        results = list(returned) if isinstance(returned, tuple) else [returned]
        tensors = [r for r in results if isinstance(r, Tracked)]
        for i, r in enumerate(results):
            if any(r is x for x in args) and isinstance(r, Tracked) and not any(r is d for d in ctx._dirty):
                tensors[tensors.index(r)] = results[i] = _alias(r)
        for d in ctx._dirty:
            _dirty(cls.__name__, d, recording)
        ctx.finish(tensors)
        return tuple(results) if isinstance(returned, tuple) else results[0]


def _alias(tensor: Any) -> Any:
    """The same memory as another tensor: an argument returned as it came is a result of its own."""
    return wrap(tensor._array, tensor._version)


def _dirty(name: str, tensor: Any, recording: bool) -> None:
    if recording and tensor._edge is None and tensor._requires_grad:
        raise GradientError(f"{name}: a leaf that requires a gradient was marked dirty; clone() it first")
    tensor._version[0] += 1


def once_differentiable(backward: Any) -> Any:
    """A ``backward`` that is not differentiated itself, as its operations may have no gradients."""

    @wraps(backward)
    def once(ctx: Any, *grads: Any) -> Any:
        with no_grad():
            return backward(ctx, *grads)

    return once
