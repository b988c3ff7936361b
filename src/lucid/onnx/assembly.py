"""From operations to a graph: what is needed, in order, with names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from lucid.core.errors import ShapeError
from lucid.nn import Module
from lucid.onnx.dynamic import Names, grouped
from lucid.onnx.forms import FORMS
from lucid.onnx.forms.layers import folded
from lucid.onnx.graph import TYPES, At, Graph
from lucid.onnx.trace import Const, Ref, Step, Trace, leaves, same_params


def assembled(model: Any, heard: Trace, inputs: list[str], results: list[str], lengths: Lengths, opset: int) -> Any:
    """The model as an ``onnx.ModelProto``."""
    from onnx import helper, numpy_helper

    found = leaves(heard.results)
    graph = _written(Graph(model, heard, _state_names(model)), inputs, results, found)
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            type(model).__name__ if isinstance(model, Module) else getattr(model, "__name__", "model"),
            [lengths.info(name, ref) for name, ref in zip(inputs, heard.inputs, strict=True)],
            [lengths.info(name, x) for name, x in zip(results, found, strict=True)],
            [numpy_helper.from_array(np.asarray(a, order="C"), name) for name, a in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        producer_name="lucid",
        producer_version=version("lucid-conv"),
    )
    proto.ir_version = helper.find_min_ir_version_for(proto.opset_import)
    return proto


def _written(graph: Graph, inputs: list[str], results: list[str], found: list[Any]) -> Graph:
    """The graph with the nodes of every step that the results need."""
    from onnx import helper

    heard = graph.trace
    for name in (*inputs, *results):
        graph.unique(name)  # nothing else may be called so
    graph.of_value.update((ref.number, name) for ref, name in zip(heard.inputs, inputs, strict=True))
    steps = _needed(heard.steps, found)
    for step in folded(steps, _uses(steps, found)):
        _add(graph, step)
    graph.at("")
    for name, x in zip(results, found, strict=True):
        last = helper.make_node("Identity", [graph.name_of(x)], [name], name=graph.unique("Identity"))
        graph.nodes.append(last)
    _without_identities(graph)
    return graph


def _state_names(model: Any) -> dict[int, str]:
    if not isinstance(model, Module):
        return {}
    held = [*model.named_parameters(), *model.named_buffers()]
    return {id(tensor._array): name for name, tensor in reversed(held)}


def _needed(steps: list[Step], results: list[Any]) -> list[Step]:
    """Those that the results come from."""
    wanted = {x.number for x in results if isinstance(x, Ref)}
    kept = []
    for step in reversed(steps):
        if any(r.number in wanted for r in step.results):
            wanted.update(x.number for x in step.refs())
            kept.append(step)
    return kept[::-1]


def _uses(steps: list[Step], results: list[Any]) -> dict[int, int]:
    """How often each value is read."""
    read = [x for step in steps for x in step.refs()]
    return Counter(x.number for x in (*read, *results) if isinstance(x, Ref))


def _add(graph: Graph, step: Step) -> None:
    """The nodes of one operation."""
    graph.at(step.place)
    form = FORMS.get(step.op)
    if form is None:
        raise graph.error(f"the operation {step.op} has no ONNX form")
    for ref in step.results:
        if (dtype := graph.dtype_of(ref)).name not in TYPES:
            raise graph.error(f"{step.op} gives {dtype.name}; ONNX is written in {', '.join(TYPES)}")
    at = At(graph, step)
    if not form.sized:
        alike = [same_params(run, step.params) for run in step.runs]
        at.agreed("a parameter", alike)
    made = form.write(graph, at)
    for ref, name in zip(step.results, (made,) if isinstance(made, str) else made, strict=True):
        if name is not None:
            graph.of_value[ref.number] = name


def _without_identities(graph: Graph) -> None:
    """Give results their names where they are made, in place of a copy at the end."""
    makers = {name: node for node in graph.nodes if node.op_type != "Identity" for name in node.output}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        source = node.input[0] if node.op_type == "Identity" else ""
        if source in makers and source not in renamed:
            renamed[source] = node.output[0]
        else:
            kept.append(node)
    for node in kept:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    graph.nodes[:] = kept


class Lengths:
    """What the lengths of axes are called: a number where it is one in every run, else a name."""

    def __init__(self, heard: Trace, axes: Names, asked: Mapping[str, Mapping[int, str]]) -> None:
        self.heard = heard
        self.asked = asked  # names for axes of inputs and results, by the user
        self.names = list(grouped(axes))
        firsts = [heard.values[ref.number].shapes[0] for ref in heard.inputs]
        self.sizes = [{firsts[i][axis] for i, axis in places} for places in grouped(axes).values()]
        for name, sizes in zip(self.names, self.sizes, strict=True):
            if len(sizes) > 1:
                raise ShapeError(f"onnx.export: axes of the lengths {sorted(sizes)} share the name {name!r}")

    def info(self, name: str, x: Ref | Const) -> Any:
        """An input or a result as the graph declares it."""
        from onnx import helper

        if isinstance(x, Const):
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.array.dtype), x.array.shape)
        value = self.heard.values[x.number]
        sizes = zip(*value.shapes, strict=True) if value.shapes[0] else ()
        dims = [self._length(name, k, n) for k, n in enumerate(sizes)]
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), dims)

    def _length(self, name: str, axis: int, sizes: tuple[int, ...]) -> int | str:
        moved = [k for k, n in enumerate(sizes[1:]) if n != sizes[0]]
        if not moved:
            return sizes[0]
        if axis in self.asked.get(name, ()):
            return self.asked[name][axis]
        same = len(moved) == 1 and sizes[0] in self.sizes[moved[0]] and sizes[moved[0] + 1] == 2 * sizes[0]
        return self.names[moved[0]] if same else f"{name}_axis{axis}"
