"""Shapes, joining, cutting, choosing and writing elements."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from lucid.onnx.forms.table import form
from lucid.onnx.graph import At, Graph
from lucid.onnx.trace import Const, Ref, Sizes
from lucid.tensor import Tensor

_FARTHEST = np.iinfo(np.int64).max


@form("reshape", sized=True)
def _reshape(g: Graph, s: At) -> str:
    """Sizes that differ from run to run are the input's own at that place, or the one that is left over, or are read
    off the input's shape."""
    wanted = list(zip(*(run["shape"] for run in s.step.runs), strict=True))
    had = list(zip(*s.shapes(), strict=True))
    sizes: list[int | None] = [
        n[0] if len(set(n)) == 1 else 0 if k < len(had) and n == had[k] else None for k, n in enumerate(wanted)
    ]
    open_ = [k for k, n in enumerate(sizes) if n is None]
    if len(open_) <= 1:
        return g.reshaped(s.name(), [-1 if n is None else n for n in sizes])
    parts = []
    for k, n in enumerate(sizes):
        if n is None and wanted[k] in had:
            place = had.index(wanted[k])
            parts.append(g.node("Gather", g.node("Shape", s.name()), g.ints(place)))
            open_.remove(k)
        else:
            parts.append(g.ints(-1 if n is None else n))
    if len(open_) > 1:
        raise g.error(f"reshape to {s.params['shape']}: {len(open_)} sizes depend on axes that are to be dynamic")
    return str(g.node("Reshape", s.name(), g.node("Concat", *parts, axis=0)))


@form("permute")
def _permute(g: Graph, s: At) -> str:
    return str(g.node("Transpose", s.name(), perm=s.params["dims"]))


@form("broadcast_to", sized=True)
def _broadcast_to(g: Graph, s: At) -> str:
    """A size that the input has is 1 here, which lets it be."""
    wanted = list(zip(*(run["shape"] for run in s.step.runs), strict=True))
    had = list(zip(*s.shapes(), strict=True))
    had = [(1,) * len(s.step.runs)] * (len(wanted) - len(had)) + had
    sizes = [1 if n == m else s.agreed("the shape", n) for n, m in zip(wanted, had, strict=True)]
    return str(g.node("Expand", s.name(), g.ints(*sizes)))


@form("flip")
def _flip(g: Graph, s: At) -> str:
    dims = s.params["dims"]
    ends = ([-1] * len(dims), [-_FARTHEST] * len(dims), dims, [-1] * len(dims))
    return str(g.node("Slice", s.name(), *(g.ints(*end) for end in ends)))


@form("roll", sized=True)
def _roll(g: Graph, s: At) -> str:
    x = s.name()
    shifts = s.agreed("the shift", [run["shifts"] for run in s.step.runs])
    for shift, axis in zip(shifts, s.params["dims"], strict=True):
        sizes = [shape[axis] for shape in s.shapes()]
        shift = shift if abs(shift) < min(sizes) else shift % s.agreed("a shift around the axis", sizes)
        if shift:
            tail, head = _cut(g, x, axis, -shift, _FARTHEST), _cut(g, x, axis, 0, -shift)
            x = g.node("Concat", tail, head, axis=axis)
    return x


def _cut(g: Graph, x: str, axis: int, start: int, stop: int) -> str:
    return str(g.node("Slice", x, g.ints(start), g.ints(stop), g.ints(axis)))


@form("cat")
def _cat(g: Graph, s: At) -> str:
    return str(g.node("Concat", *s.names(), axis=s.params["dim"]))


@form("stack")
def _stack(g: Graph, s: At) -> str:
    axis = s.params["dim"]
    return str(g.node("Concat", *(g.node("Unsqueeze", x, g.ints(axis)) for x in s.names()), axis=axis))


@form("split", sized=True)
def _split(g: Graph, s: At) -> tuple[str | None, ...]:
    ends = s.agreed("the cutting", [run["ends"] for run in s.step.runs])
    sizes = [b - a for a, b in pairwise((0, *ends))]
    return tuple(g.node("Split", s.name(), g.ints(*sizes), axis=s.params["dim"], outputs=len(sizes)))


@form("tril", "triu")
def _triangle(g: Graph, s: At) -> str:
    return str(g.node("Trilu", s.name(), g.constant(s.params["diagonal"], np.int64), upper=int(s.step.op == "triu")))


# Choosing


@form("getitem", sized=True)
def _getitem(g: Graph, s: At) -> str:
    index = s.agreed("an index", [_plain(run["index"]) for run in s.step.runs]) and s.params["index"]
    if any(isinstance(part, (Const, Ref)) for part in index):
        return _gathered(g, s, index)
    return _cut_out(g, s.name(), _whole(index, len(s.shape())))


def _plain(index: tuple[Any, ...]) -> tuple[Any, ...]:
    """An index that can be compared; what arrays hold is compared elsewhere."""
    return ("index", *(type(part) if isinstance(part, (Const, Ref)) else _spelt(part) for part in index))


def _spelt(part: Any) -> Any:
    return (part.start, part.stop, part.step) if isinstance(part, slice) else part


def _whole(index: tuple[Any, ...], rank: int) -> list[Any]:
    """An index with a part for every axis, ``...`` spelt out."""
    parts = [p for p in index if p is not None and p is not Ellipsis]
    rest = [slice(None)] * (rank - len(parts))
    if Ellipsis not in index:
        return [*index, *rest]
    place = index.index(Ellipsis)
    return [*index[:place], *rest, *index[place + 1 :]]


def _cut_out(g: Graph, x: str, parts: list[Any]) -> str:
    """Slices, integers and new axes."""
    cuts: list[tuple[int, int, int, int]] = []
    lost: list[int] = []
    new: list[int] = []
    axis = 0
    for part in parts:
        if part is None:
            new.append(axis - len(lost) + len(new))
            continue
        if isinstance(part, int):
            cuts.append((part, part + 1 if part != -1 else _FARTHEST, axis, 1))
            lost.append(axis)
        elif part != slice(None):
            step = 1 if part.step is None else part.step
            cuts.append((part.start or 0, _FARTHEST if part.stop is None else part.stop, axis, step))
        axis += 1
    if cuts:
        x = g.node("Slice", x, *(g.ints(*column) for column in zip(*cuts, strict=True)))
    x = g.node("Squeeze", x, g.ints(*lost)) if lost else x
    return str(g.node("Unsqueeze", x, g.ints(*new)) if new else x)


def _gathered(g: Graph, s: At, index: tuple[Any, ...]) -> str:
    """By whole numbers along one axis, or by one array of the input's rank along one axis."""
    rank, parts = len(s.shape()), _whole(index, len(s.shape()))
    chosen = [k for k, part in enumerate(parts) if isinstance(part, (Const, Ref))]
    if len(chosen) == 1 and all(part == slice(None) for k, part in enumerate(parts) if k != chosen[0]):
        return str(g.node("Gather", s.name(), _numbers(g, parts[chosen[0]]), axis=chosen[0]))
    full = [k for k in chosen if len(g.shapes_of(parts[k])[0]) == rank and not _is_grid(g, parts[k], k)]
    if len(chosen) == rank and len(full) <= 1:
        axis = full[0] if full else rank - 1
        return str(g.node("GatherElements", _narrowed(g, s, parts, axis), _numbers(g, parts[axis]), axis=axis))
    raise g.error("an index of several arrays has no ONNX form; index_select, gather and slices have one")


@form("gather", sized=True)
def _gather(g: Graph, s: At) -> str:
    (places,), axis = s.params["index"], s.params["dim"]
    parts = [places] * len(s.shape())
    return str(g.node("GatherElements", _narrowed(g, s, parts, axis), _numbers(g, places), axis=axis))


def _narrowed(g: Graph, s: At, parts: list[Any], axis: int) -> str:
    """The input, cut to the index's sizes along other axes."""
    x, used = s.name(), g.shapes_of(parts[axis])
    for a, (n, m) in enumerate(zip(s.shape(), used[0], strict=True)):
        if a != axis and n != m:
            x = _cut(g, x, a, 0, s.agreed("the size of the index", [shape[a] for shape in used]))
    return x


def _is_grid(g: Graph, part: Any, axis: int) -> bool:
    """Whether it only counts along its own axis."""
    if not isinstance(part, Const):
        return False
    a = part.array
    return a.size == a.shape[axis] and bool((a.reshape(-1) == np.arange(a.size)).all())


def _numbers(g: Graph, part: Const | Ref) -> str:
    dtype = g.dtype_of(part)
    if dtype.kind not in "iu":
        raise g.error("an index of booleans has no ONNX form, since the result's size depends on values")
    return g.cast(g.name_of(part), dtype, np.int64)


# Writing: elements by their places in the flattened tensor


@form("setitem")
def _setitem(g: Graph, s: At) -> str:
    index = tuple(part.array if isinstance(part, Const) else part for part in s.params["index"])
    if any(isinstance(part, Ref) for part in index):
        raise g.error("writing at places that are computed has no ONNX form here; use where()")
    return _written(g, s, _places(g, s)[index])


@form("copy_slices")
def _copy_slices(g: Graph, s: At) -> str:
    places = _places(g, s)
    parts = [run["cut"](Tensor(places))._array for run in s.step.runs]
    s.agreed("the place", [(part.shape, part.tobytes()) for part in parts])
    return _written(g, s, parts[0])


def _places(g: Graph, s: At) -> Any:
    shape: Sizes = s.agreed("the places", s.shapes())
    return np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)


def _written(g: Graph, s: At, places: Any) -> str:
    x, value = s.name(0), s.step.inputs[1]
    shape = s.shape()
    if isinstance(value, Ref):
        there = g.shapes_of(value)[0]
        spread = s.name(1) if there == places.shape else g.node("Expand", s.name(1), g.ints(*places.shape))
        update = g.reshaped(spread, [-1])
    else:
        plain = value.array if isinstance(value, Const) else value
        update = g.constant(np.broadcast_to(np.asarray(plain, s.dtype), places.shape).reshape(-1).copy())
    flat = g.node("ScatterElements", g.reshaped(x, [-1]), g.constant(places.reshape(-1)), update, axis=0)
    return g.reshaped(flat, shape)
