"""The ONNX graph under construction: names, constants, nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lucid.core.errors import ExportError
from lucid.onnx.trace import Const, Ref, Sizes, Step, Trace, refuse

Array = np.ndarray[Any, Any]

#: Element types that are written. bfloat16 and complex numbers are not: runtimes compute hardly anything in them.
TYPES = ("float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "bool")


class Graph:
    """Nodes and constants in the order in which they are needed."""

    def __init__(self, model: Any, trace: Trace, names: dict[int, str]) -> None:
        self.model = model
        self.trace = trace
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}
        self.of_value: dict[int, str] = {}  # the name of every value that is there
        self._given = names  # of parameters, by the address of their arrays
        self._of_array: dict[int, str] = {}
        self._small: dict[tuple[Any, ...], str] = {}
        self._taken: set[str] = set()
        self._place = ""

    def unique(self, name: str) -> str:
        """The name, with a number where it is taken."""
        found, number = name, 1
        while found in self._taken:
            number += 1
            found = f"{name}_{number}"
        self._taken.add(found)
        return found

    def at(self, place: str) -> None:
        """From here on nodes are named after this module."""
        self._place = place

    def error(self, text: str) -> ExportError:
        """A refusal that names the layer."""
        return refuse(text, self._place, self.model)

    def node(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; the name of its result, or of each of several."""
        from onnx import helper

        name = self.unique(f"{self._place}/{kind}" if self._place else kind)
        made = [self.unique(f"{name}.out" if outputs == 1 else f"{name}.out{k}") for k in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), made, name=name, **attributes))
        return made[0] if outputs == 1 else tuple(made)

    def constant(self, value: Any, dtype: Any = None, name: str = "") -> str:
        """The name of a constant; an array that is met again has one name, and small ones of one value too."""
        array = np.asarray(value, dtype)
        if array.dtype.name not in TYPES:
            raise self.error(f"a constant is {array.dtype.name}; ONNX is written in {', '.join(TYPES)}")
        found = self._of_array.get(id(array))
        if found is not None and self.constants[found] is array:
            return found
        key = (array.dtype.name, array.shape, array.tobytes()) if array.size <= 16 and not name else ()
        if key and key in self._small:
            return self._small[key]
        plain = f"{self._place}/constant" if self._place else "constant"
        made = self.unique(name or self._given.get(id(array)) or plain)
        self.constants[made] = array
        self._of_array[id(array)] = made
        if key:
            self._small[key] = made
        return made

    def ints(self, *values: int) -> str:
        """A constant list of sizes, axes or places."""
        return self.constant(values, np.int64)

    def name_of(self, x: Any, dtype: Any = None) -> str:
        """The name of a step's operand; a number is a constant of ``dtype``."""
        if x is None:
            return ""
        if isinstance(x, Ref):
            if x.number not in self.of_value:
                raise self.error("a second result of an operation is used that ONNX does not give")
            return self.of_value[x.number]
        return self.constant(x.array, name=x.name) if isinstance(x, Const) else self.constant(x, dtype)

    def dtype_of(self, x: Any) -> np.dtype[Any]:
        """The element type of an operand; a Python number's own."""
        if isinstance(x, Ref):
            return self.trace.values[x.number].dtype
        return x.array.dtype if isinstance(x, Const) else np.asarray(x).dtype

    def shapes_of(self, x: Any) -> tuple[Sizes, ...]:
        """The sizes of an operand in every run."""
        runs = len(self.trace.values[0].shapes)
        if isinstance(x, Ref):
            return self.trace.values[x.number].shapes
        return (np.shape(x.array if isinstance(x, Const) else x),) * runs

    def cast(self, name: str, source: Any, target: Any) -> str:
        """In another element type."""
        from onnx import helper

        if np.dtype(source) == np.dtype(target):
            return name
        return str(self.node("Cast", name, to=helper.np_dtype_to_tensor_dtype(np.dtype(target))))

    def reshaped(self, name: str, shape: Sequence[int]) -> str:
        """In another shape of numbers known now, or 0 for a size that stays."""
        return str(self.node("Reshape", name, self.ints(*shape)))


class At:
    """One step as a form sees it: names of its operands, its parameters, and the sizes in every run."""

    def __init__(self, graph: Graph, step: Step) -> None:
        self.graph = graph
        self.step = step
        self.params = step.params

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the result."""
        return self.graph.dtype_of(self.step.results[0])

    def name(self, k: int = 0) -> str:
        """Of operand k; numbers take the type of the first operand that has one."""
        x = self.step.inputs[k]
        like = next((self.graph.dtype_of(i) for i in self.step.inputs if isinstance(i, (Ref, Const))), None)
        return self.graph.name_of(x, like)

    def names(self) -> list[str]:
        """Of all operands."""
        return [self.name(k) for k in range(len(self.step.inputs))]

    def shapes(self, k: int = 0) -> tuple[Sizes, ...]:
        """The sizes of operand k in every run."""
        return self.graph.shapes_of(self.step.inputs[k])

    def shape(self, k: int = 0) -> Sizes:
        """The sizes of operand k in the first run."""
        return self.shapes(k)[0]

    def out_shapes(self) -> tuple[Sizes, ...]:
        """The sizes of the result in every run."""
        return self.graph.shapes_of(self.step.results[0])

    def const(self, k: int) -> Array | None:
        """Operand k, if it is a constant."""
        x = self.step.inputs[k]
        return x.array if isinstance(x, Const) else None

    def agreed(self, what: str, values: Sequence[Any]) -> Any:
        """A number that is the same in every run.

        Raises: ExportError, since the graph would hold for one size only.
        """
        if any(value != values[0] for value in values):
            raise self.graph.error(
                f"{what} of {self.step.op} depends on an axis that is to be dynamic, or on values; leave that axis out "
                "of dynamic_axes, or let the layer not depend on it"
            )
        return values[0]
