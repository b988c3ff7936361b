"""The backward pass: gradients flow from results to leaves, each node once, the last created first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from sys import getrefcount
from typing import Any

import numpy as np

from lucid.autograd.anomaly import watch, watched_pull
from lucid.autograd.mode import mode
from lucid.autograd.tracked import Edge, Node, Tracked, edge_of, placed, wrap
from lucid.core import quiet
from lucid.core.errors import GradientError, ShapeError

_IMPLICIT = ("ones", "scalar")
_implicit = "ones"


def set_implicit_gradient(rule: str) -> str:
    """What ``backward()`` without a gradient does on a tensor of many elements; returns the rule until now.

    "ones" seeds with ones, the one deliberate difference from PyTorch; "scalar" refuses, as PyTorch does.
    """
    global _implicit
    if rule not in _IMPLICIT:
        raise ValueError(f"set_implicit_gradient: rule={rule!r} must be one of {_IMPLICIT}")
    before, _implicit = _implicit, rule
    return before


def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Sequence[Any] | None = None,
) -> None:
    """Add the gradient of ``tensors`` (weighted by ``grad_tensors``) to ``.grad`` of the leaves they came from.

    ``inputs`` limits it to some tensors. The graph's saved values are freed unless ``retain_graph``, which
    ``create_graph`` (record the backward pass itself) implies.
    """
    seeds = _seeds("backward", _listed(tensors), _listed(grad_tensors))
    places = _places("backward", inputs or ())
    wanted = None if inputs is None else set(places)
    found = _run(seeds, wanted, create_graph if retain_graph is None else retain_graph, create_graph)
    for x, place in zip(inputs or (), places, strict=True):
        if (g := found.get(place)) is not None:
            _accumulate(x, [g], create_graph)


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    *,
    materialize_grads: bool = False,
) -> tuple[Any, ...]:
    """The gradients of ``outputs`` (weighted by ``grad_outputs``) in ``inputs``, without touching any ``.grad``.

    An input that is not part of the outputs is an error; with ``allow_unused`` its gradient is None, with
    ``materialize_grads`` zeros. ``only_inputs`` can only be True.

    >>> import lucid
    >>> x = lucid.tensor([3.0], requires_grad=True)
    >>> (first,) = grad(x**3, x, create_graph=True)
    >>> grad(first, x)
    (Tensor([18.]),)
    """
    if not only_inputs:
        raise ValueError("grad: only_inputs=False is not there: backward() adds to the .grad of every leaf")
    inputs = _listed(inputs)
    seeds = _seeds("grad", _listed(outputs), _listed(grad_outputs))
    places = _places("grad", inputs)
    found = _run(seeds, set(places), create_graph if retain_graph is None else retain_graph, create_graph)
    grads = []
    for i, place in enumerate(places):
        g = found.get(place)
        if g is None and materialize_grads:
            g = wrap(np.zeros_like(inputs[i]._array))
        if g is None and not allow_unused:
            raise GradientError(
                f"grad: inputs[{i}], of shape {inputs[i].shape}, is not part of outputs; allow_unused=True gives None"
            )
        grads.append(g)
    return tuple(grads)


def _listed(tensors: Any) -> list[Any]:
    return list(tensors) if isinstance(tensors, list | tuple) else [tensors]


def _places(caller: str, inputs: Iterable[Any]) -> list[tuple[int, int]]:
    """Where the gradients of tensors arrive: a target's id, and which of its results."""
    places = []
    for i, x in enumerate(inputs):
        if x._view is not None:
            placed(x)
        if not x._requires_grad:
            raise GradientError(f"{caller}: inputs[{i}], of shape {x._array.shape}, does not require a gradient")
        target, slot = edge_of(x)
        places.append((id(target), slot))
    return places


def _seeds(caller: str, tensors: list[Any], grads: list[Any]) -> list[tuple[Edge, Any]]:
    if len(grads) == 1:
        grads = grads * len(tensors)
    if len(grads) != len(tensors):
        raise ValueError(f"{caller}: {len(tensors)} tensors but {len(grads)} gradients")
    seeds = []
    for tensor, gradient in zip(tensors, grads, strict=True):
        seeds.append((_root(caller, tensor), _seed(caller, tensor, gradient)))
    return seeds


def _root(caller: str, tensor: Any) -> Edge:
    if tensor._view is not None:
        placed(tensor)
    if not tensor._requires_grad:
        raise GradientError(
            f"{caller}: the tensor of shape {tensor._array.shape} does not require a gradient and has no graph: it was "
            f"made from tensors without requires_grad, under no_grad, or by detach()"
        )
    return edge_of(tensor)


def _seed(caller: str, tensor: Any, gradient: Any) -> Any:
    array = tensor._array
    if gradient is None:
        if _implicit == "scalar" and array.size != 1:
            raise GradientError(
                f"{caller}: a gradient can be implied only for one element, not for shape {array.shape}"
            )
        return wrap(np.ones(array.shape, array.dtype))
    if not isinstance(gradient, Tracked):
        gradient = wrap(np.asarray(gradient, array.dtype))
    given = gradient._array
    if given.shape != array.shape:
        raise ShapeError(f"{caller}: gradient has shape {given.shape}, its tensor has {array.shape}")
    if given.dtype is not array.dtype and given.dtype != array.dtype:
        gradient = gradient.to(tensor.dtype)
    return gradient


def _run(
    seeds: list[tuple[Edge, Any]], wanted: set[tuple[int, int]] | None, retain: bool, create: bool
) -> dict[tuple[int, int], Any]:
    """Pull gradients from the seeds to the leaves, or to the ``wanted`` places, whose gradients are returned.

    Gradients on their way are kept by the id of their target, which the graph keeps alive.
    """
    before, mode.recording = mode.recording, create
    noise = quiet.begin()
    try:
        return _flow(seeds, wanted, retain, create)
    finally:
        quiet.end(noise)
        mode.recording = before


def _flow(
    seeds: list[tuple[Edge, Any]], wanted: set[tuple[int, int]] | None, retain: bool, create: bool
) -> dict[tuple[int, int], Any]:
    pending: dict[int, list[Any]] = {}
    found: dict[tuple[int, int], Any] = {}
    stack = []
    for edge, g in seeds:
        stack.append(edge[0])
        _add(pending, edge, g)
    nodes, leaves = _reachable(stack)
    useful, inner = (None, None) if wanted is None else _narrowed(nodes, leaves, wanted)
    for node in nodes:
        _pull(node, pending, inner, useful, found, retain, create)
    for leaf in leaves:
        slots = pending.pop(id(leaf), None)
        if slots is None:
            continue
        if wanted is None:
            _accumulate(leaf, slots, create)
        elif (place := (id(leaf), 0)) in wanted:
            found[place] = _hooked(leaf._hooks, slots[0])
    return found


def _reachable(stack: list[Any]) -> tuple[list[Node], list[Any]]:
    """Every node and leaf that is on the stack or behind one that is, the nodes in reverse order of creation."""
    seen: set[int] = set()
    nodes: list[Node] = []
    leaves: list[Any] = []
    while stack:
        target = stack.pop()
        if id(target) in seen:
            continue
        seen.add(id(target))
        if isinstance(target, Node):
            nodes.append(target)
            for edge in target.edges:
                if edge is not None:
                    stack.append(edge[0])
        else:
            leaves.append(target)
    nodes.sort(key=_order, reverse=True)
    return nodes, leaves


_order = attrgetter("order")


def _narrowed(
    nodes: list[Node], leaves: list[Any], wanted: set[tuple[int, int]]
) -> tuple[set[int] | None, set[tuple[int, int]] | None]:
    """Which targets are useful, None for all; and the wanted places if any of them is not a leaf."""
    reached = 0
    for leaf in leaves:
        reached += (id(leaf), 0) in wanted
    useful = None if reached == len(leaves) else _useful(nodes, wanted)  # every way leads to a leaf
    return useful, None if reached == len(wanted) else wanted


def _useful(nodes: list[Node], wanted: set[tuple[int, int]]) -> set[int]:
    """Ids of the targets that lie on a way to a wanted place."""
    useful = {target for target, _ in wanted}
    for node in reversed(nodes):
        for edge in node.edges:
            if edge is not None and id(edge[0]) in useful:
                useful.add(id(node))
                break
    return useful


def _pull(
    node: Node,
    pending: dict[int, list[Any]],
    inner: set[tuple[int, int]] | None,
    useful: set[int] | None,
    found: dict[tuple[int, int], Any],
    retain: bool,
    create: bool,
) -> None:
    """One node's step: hooks, then its rows; what they return waits at the targets."""
    upstream = pending.pop(id(node), None)
    if upstream is None:
        return
    if node.hooks is not None:
        for slot, hooks in node.hooks.items():
            if upstream[slot] is not None:
                upstream[slot] = _hooked(hooks, upstream[slot])
    if inner is not None:
        for i, g in enumerate(upstream):
            if g is not None and (id(node), i) in inner:
                found[id(node), i] = g
    needed: Sequence[Any] = node.edges
    if useful is not None:
        needed = [None if edge is None or id(edge[0]) not in useful else edge for edge in needed]
        if not any(needed):
            return
    grads = watched_pull(node, upstream, needed, create) if watch.on else node.pull(upstream, needed, create)
    if not retain:
        node.release()
    for edge, g in zip(needed, grads, strict=True):
        if edge is not None and g is not None:
            _add(pending, edge, g)


def _add(pending: dict[int, list[Any]], edge: Edge, g: Any) -> None:
    target, slot = edge
    place = id(target)
    slots = pending.get(place)
    if slots is None:
        slots = pending[place] = [None] * target.results
    held = slots[slot]
    slots[slot] = g if held is None else held + g


def _hooked(hooks: dict[int, Any] | None, g: Any) -> Any:
    if hooks:
        for hook in list(hooks.values()):
            changed = hook(g)
            if changed is not None:
                g = changed
    return g


def _taken(slots: list[Any]) -> tuple[Any, tuple[int, int]]:
    """The gradient in a list of one, with how many hold it and its array."""
    g = slots.pop()
    array = g._array
    return g, (getrefcount(g), getrefcount(array))


_SOLE = _taken([wrap(np.empty(0))])[1]


def _accumulate(leaf: Any, slots: list[Any], create: bool) -> None:
    """Add a gradient to ``leaf.grad``. The first one becomes it, copied if anyone else holds it: grads never alias."""
    if leaf._hooks:
        slots = [_hooked(leaf._hooks, slots.pop())]
    holders: tuple[int, int] | None
    g, holders = _taken(slots)
    array, like = g._array, leaf._array
    if array.shape != like.shape:
        raise ShapeError(f"backward: a gradient of shape {array.shape} arrived at a leaf of shape {like.shape}")
    if array.dtype != like.dtype:
        g, holders = g.to(leaf.dtype), None
    held = leaf._grad
    if create or (held is not None and held._requires_grad):
        leaf._grad = g.clone() if held is None else held + g
    elif held is None:
        own = holders == _SOLE and not isinstance(array.base, np.ndarray) and array.flags.writeable
        leaf._grad = wrap(array) if own else wrap(np.array(g._array, copy=True))
    else:
        np.add(held._array, g._array, out=held._array)
        held._version[0] += 1
