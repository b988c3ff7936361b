"""What the gradient graph knows of a tensor, and the nodes of that graph.

References run one way only, from results to what they came from: a tensor holds its edge, an edge its node, a node the
edges of its inputs and the arrays it saved. Nothing points forward, so a graph dies with the last result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np

from lucid.core.errors import GradientError

Array = np.ndarray[Any, Any]

_clock = count()
_new = object.__new__


class Tracked:
    """An array with its place in the gradient graph. ``Tensor`` is its only direct subclass.

    ``_edge`` is where this tensor's gradient goes: (node, index among the node's results), or None for a leaf.
    ``_version`` is a cell that all views of one storage share; every write in place adds one to it.
    """

    __slots__ = ("__weakref__", "_array", "_edge", "_grad", "_hooks", "_requires_grad", "_version", "_view")

    _array: Array
    _edge: Edge | None
    _grad: Any
    _hooks: dict[int, Callable[[Any], Any]] | None
    _requires_grad: bool
    _version: list[int]
    _view: View | None

    results = 1  # as a node has: how many gradients arrive


class View:
    """How a view comes from its base (itself no view): steps to replay when the base's place in the graph changes."""

    __slots__ = ("base", "edge", "steps")

    def __init__(self, base: Any, edge: Edge | None, steps: tuple[Callable[[Any], Any], ...]) -> None:
        self.base = base
        self.edge = edge  # the base's, when this view was last placed
        self.steps = steps

    def replay(self) -> Any:
        """The view once more, from the base as it is now."""
        tensor = self.base
        for step in self.steps:
            tensor = step(tensor)
        return tensor


class Node:
    """One recorded operation: turns gradients of its results into gradients of its inputs."""

    __slots__ = ("__weakref__", "edges", "hooks", "order", "results")

    edges: Sequence[Edge | None]
    results: int
    hooks: dict[int, dict[int, Callable[[Any], Any]]] | None

    def __init__(self, edges: Sequence[Edge | None], results: int) -> None:
        self.edges = edges
        self.results = results
        self.hooks = None
        self.order = next(_clock)  # a node is made after those it came from: creation order is a topological order

    @property
    def name(self) -> str:
        """The operation's name, for messages."""
        raise NotImplementedError

    def pull(self, upstream: list[Any], needed: Sequence[Edge | None], recording: bool) -> Sequence[Any]:
        """Gradients of the inputs, one per edge. ``needed`` are the edges that lead to where anybody waits."""
        raise NotImplementedError

    def release(self) -> None:
        """Let go of what was kept for ``pull``."""
        raise NotImplementedError

    def saved_result(self, slot: int) -> Array | None:
        """The array of a result that was kept for ``pull``."""
        return None

    def hand_over(self, slot: int, tensor: Tracked) -> None:
        """From now on writing through ``tensor`` is what changes that array."""
        raise NotImplementedError

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """The nodes (and leaves) gradients go to from here, with the index of the result each one is."""
        return tuple(edge for edge in self.edges if edge is not None)

    def __repr__(self) -> str:
        return f"<{self.name} backward>"


Edge = tuple[Node | Tracked, int]

_results: type[Any] = Tracked


def results_are(cls: type[Any]) -> type[Any]:
    """Name the class operations return. A decorator, used once, by ``Tensor``."""
    global _results
    _results = cls
    return cls


def wrap(array: Array, version: list[int] | None = None) -> Any:
    """An array as a new leaf tensor that requires no gradient; with the ``version`` of others that share its memory."""
    tensor = _new(_results)
    tensor._array = array
    tensor._edge = tensor._grad = tensor._hooks = tensor._view = None
    tensor._requires_grad = False
    tensor._version = [0] if version is None else version
    return tensor


def edge_of(tensor: Any) -> Edge:
    """Where the gradient of a tensor that requires one goes."""
    edge = tensor._edge
    return (tensor, 0) if edge is None else edge


def placed(tensor: Any) -> Any:
    """A view, brought up to date with its base.

    Writing into the base, or into another view of it, moves the base to another place in the graph. Views notice when
    they are used next.
    """
    view = tensor._view
    if view.edge is not view.base._edge:
        fresh = view.replay()
        tensor._edge, tensor._requires_grad = fresh._edge, fresh._requires_grad
        view.edge = view.base._edge
    return tensor


Saved = tuple[Array, list[int], int]
"""An array, its version cell and the version it had."""


def restored(saved: Saved, name: str) -> Any:
    """A saved tensor, in no graph; an error if it has been written to since."""
    array, version, then = saved
    if version[0] != then:
        raise GradientError(
            f"{name}: a tensor of shape {array.shape} that the backward pass needs was modified in place "
            f"(it is at version {version[0]}, saved at version {then}); use the operation that returns a new tensor "
            f"instead, or clone() before writing"
        )
    return wrap(array, version)


def Variable(data: Any, requires_grad: bool = False) -> Any:
    """The tensor itself, or a leaf on its memory that requires a gradient: what programs of old wrap tensors in."""
    return data.detach().requires_grad_() if requires_grad else data
