"""Sums, extremes, counts and softmax."""

from __future__ import annotations

from math import prod

import numpy as np

from lucid.onnx.forms.table import form
from lucid.onnx.graph import At, Graph

_REDUCED = {
    "sum": "ReduceSum", "mean": "ReduceMean", "amax": "ReduceMax", "amin": "ReduceMin", "prod": "ReduceProd",
    "norm": "ReduceL2", "logsumexp": "ReduceLogSumExp",
}  # fmt: skip


def _axes(g: Graph, s: At) -> tuple[str, ...]:
    """The axes as an operand; none for all."""
    dims = s.params["dims"]
    return () if dims is None else (g.ints(*dims),)


def _in_result_type(g: Graph, s: At) -> str:
    return g.cast(s.name(), g.dtype_of(s.step.inputs[0]), s.dtype)


@form(*_REDUCED)
def _reduced(g: Graph, s: At) -> str:
    keep = int(s.params["keepdim"])
    dims = s.params["dims"]
    if dims == ():
        return _in_result_type(g, s)
    return str(g.node(_REDUCED[s.step.op], _in_result_type(g, s), *_axes(g, s), keepdims=keep))


@form("var", "std")
def _var(g: Graph, s: At) -> str:
    axes, keep, x = _axes(g, s), int(s.params["keepdim"]), s.name()
    dims = s.params["dims"]
    counts = [prod(n for k, n in enumerate(shape) if dims is None or k in dims) for shape in s.shapes()]
    correction = s.params["correction"]
    ratio = s.agreed("the count of elements", [n / (n - correction) for n in counts])
    away = g.node("Sub", x, g.node("ReduceMean", x, *axes, keepdims=1))
    mean = g.node("ReduceMean", g.node("Mul", away, away), *axes, keepdims=keep)
    total = mean if ratio == 1 else g.node("Mul", mean, g.constant(ratio, s.dtype))
    return str(g.node("Sqrt", total) if s.step.op == "std" else total)


@form("all", "any")
def _holds(g: Graph, s: At) -> str:
    truth = g.cast(s.name(), g.dtype_of(s.step.inputs[0]), np.bool_)
    kind = "ReduceMin" if s.step.op == "all" else "ReduceMax"
    found = g.node(kind, g.cast(truth, np.bool_, np.int32), *_axes(g, s), keepdims=int(s.params["keepdim"]))
    return g.cast(found, np.int32, np.bool_)


@form("argmax", "argmin")
def _arg(g: Graph, s: At) -> str:
    kind, dim, x = {"argmax": "ArgMax", "argmin": "ArgMin"}[s.step.op], s.params["dim"], s.name()
    if dim is not None:
        return str(g.node(kind, x, axis=dim, keepdims=int(s.params["keepdim"])))
    found = g.node(kind, g.reshaped(x, [-1]), axis=0, keepdims=0)
    return g.reshaped(found, (1,) * len(s.shape())) if s.params["keepdim"] else str(found)


@form("argsort", sized=True)
def _argsort(g: Graph, s: At) -> str:
    dim = s.params["dim"]
    size = s.agreed("the size of the axis", [shape[dim] for shape in s.shapes()])
    largest = int(s.params["descending"])
    return str(g.node("TopK", s.name(), g.ints(size), axis=dim, largest=largest, sorted=1, outputs=2)[1])


@form("topk")
def _topk(g: Graph, s: At) -> str:
    dim, largest, count = s.params["dim"], int(s.params["largest"]), g.ints(s.params["k"])
    return str(g.node("TopK", s.name(), count, axis=dim, largest=largest, sorted=1, outputs=2)[1])


@form("cumsum")
def _cumsum(g: Graph, s: At) -> str:
    axis, reverse = g.constant(s.params["dim"], np.int64), int(s.params.get("reverse", False))
    return str(g.node("CumSum", _in_result_type(g, s), axis, reverse=reverse))


@form("softmax")
def _softmax(g: Graph, s: At) -> str:
    return str(g.node("Softmax", s.name(), axis=s.params["axis"]))


@form("log_softmax")
def _log_softmax(g: Graph, s: At) -> str:
    return str(g.node("LogSoftmax", s.name(), axis=s.params["axis"]))
