"""``export``: a model, what it computes of an example, and the file that says so to others."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import Parameter as Argument
from inspect import signature
from typing import Any

import numpy as np

from lucid.core.errors import DTypeError, ExportError, ShapeError
from lucid.nn import Module
from lucid.onnx.assembly import Lengths, assembled
from lucid.onnx.dynamic import Names, grouped, named_axes
from lucid.onnx.files import write
from lucid.onnx.graph import TYPES
from lucid.onnx.trace import EXPORTING, Const, Ref, Trace, leaves, mapped, trace
from lucid.tensor import Tensor

OLDEST, NEWEST, DEFAULT = 18, 23, 18
"""Opsets. The nodes that are written mean the same in all of these."""


def export(
    model: Callable[..., Any],
    args: Any,
    path: str | os.PathLike[str],
    *,
    kwargs: Mapping[str, Any] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_axes: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    opset_version: int | None = None,
    export_params: bool = True,
    do_constant_folding: bool = True,
    verbose: bool | None = None,
    dynamo: bool = True,
) -> Any:
    """Write what ``model(*args)`` computes to an ONNX file, which ONNX Runtime, OpenVINO and others run.

    The model, a module or any function of tensors, runs in evaluation on ``args`` (a tensor or a tuple; other values
    than tensors are kept as they are), and what it does is written down operation by operation. It then runs again on
    other values and, for each dynamic axis, at another length: what differs in more than sizes is refused, and so is
    who asks for a value (``item()``, ``if y.sum() > 0``), so a file never holds what was true of the example only.

    ``dynamic_axes={"x": {0: "batch"}}`` (also for outputs, whose axes are found out) or
    ``dynamic_shapes=({0: "batch"},)``, one entry an input, name the axes that may have any length. Every other axis
    has the length that it has in ``args``. Convolutions have all their pads spelt out, batch normalisation is folded
    into the convolution before it.

    ``do_constant_folding``, ``verbose`` and ``dynamo`` are taken as in PyTorch, and choose nothing: there is one way.

    Inputs are named after the parameters of ``forward``, results "output" or "output_0", "output_1", …; weights have
    their names in the state dict. The file is written at once or not at all, and has passed ``onnx.checker``. Weights
    of more than 1.5 GB together are written beside it, to ``path`` with ".data" behind its name.

    Shape:
        as in ``args``; float32, float64, float16, integers and bool. bfloat16 and complex numbers are refused: runtimes
        hardly compute in them.
    Returns:
        the ``onnx.ModelProto`` that was written.
    Raises:
        ExportError: for an operation that has no form in ONNX, and for a model whose operations depend on values or
            on the length of a dynamic axis; with the way to the layer.
        ImportError: without the package onnx, which ``pip install 'lucid-conv[onnx]'`` brings.

    >>> import tempfile, lucid, lucid.nn as nn
    >>> net = nn.Sequential(nn.Conv1d(1, 8, 9, padding="causal"), nn.BatchNorm1d(8), nn.ReLU())
    >>> path = os.path.join(tempfile.mkdtemp(), "net.onnx")
    >>> model = export(net, lucid.zeros(1, 1, 100), path, dynamic_axes={"input": {0: "batch", 2: "time"}})
    >>> [node.op_type for node in model.graph.node]
    ['Conv', 'Relu']
    """
    if not export_params:
        raise ValueError("onnx.export: export_params=False is not there: a file has the weights")
    onnx = _package()
    opset = _opset(onnx, opset_version)
    args = args if isinstance(args, tuple) else (args,)
    given = dict(kwargs or {})
    tensors = leaves(mapped(_checked, _as_tensors((args, given))))
    shown = [x for x in tensors if isinstance(x, Tensor)]
    if not shown:
        raise TypeError("onnx.export: args must hold a tensor, the example that the model runs on")
    inputs = _names("input_names", input_names, _argument_names(model, args, given), len(shown))
    axes = _dynamic(dynamic_axes, dynamic_shapes, inputs, [x.ndim for x in shown])
    args, given = _as_tensors((args, given))
    with _evaluation(model):
        heard = trace(model, args, given, list(grouped(axes).values()))
    results = _result_names(heard, output_names, inputs)
    unknown = [name for name in dynamic_axes or {} if name not in (*inputs, *results)]
    if unknown:
        raise ValueError(f"onnx.export: dynamic_axes names {unknown}; there are {[*inputs, *results]}")
    asked = {name: dict(axes) for name, axes in (dynamic_axes or {}).items() if isinstance(axes, Mapping)}
    proto = assembled(model, heard, inputs, results, Lengths(heard, axes, asked), opset)
    write(proto, path)
    return proto


def is_in_onnx_export() -> bool:
    """Whether ``export`` is running the model: for what a ``forward`` does beside its result, as looking at values."""
    return EXPORTING.get()


def _package() -> Any:
    try:
        import onnx
    except ImportError:
        raise ImportError("onnx.export needs the package onnx: pip install 'lucid-conv[onnx]'") from None
    return onnx


def _opset(onnx: Any, wanted: int | None) -> int:
    if wanted is None:
        return DEFAULT
    newest = min(NEWEST, onnx.defs.onnx_opset_version())
    if type(wanted) is not int or not OLDEST <= wanted <= newest:
        raise ValueError(f"onnx.export: opset_version={wanted!r} must be an int from {OLDEST} to {newest}")
    return wanted


def _as_tensors(tree: Any) -> Any:
    """The same with NumPy's arrays as tensors."""
    if isinstance(tree, np.ndarray):
        return Tensor(tree)
    if isinstance(tree, dict):
        return {name: _as_tensors(x) for name, x in tree.items()}
    return type(tree)(map(_as_tensors, tree)) if type(tree) in (tuple, list) else tree


def _checked(x: Tensor) -> Tensor:
    if x.dtype.name not in TYPES:
        hint = "; export the model in float32, with model.float()" if x.dtype.is_differentiable else ""
        raise DTypeError(f"onnx.export: an input is {x.dtype.name}, but must be one of {', '.join(TYPES)}{hint}")
    if 0 in x.shape:
        raise ShapeError(f"onnx.export: an input has the shape {x.shape}; the example must have elements")
    return x


def _argument_names(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """A name for every tensor: that of the parameter it is handed to, with a number for several in one."""
    call = model.forward if isinstance(model, Module) else model
    try:
        parameters = [p for p in signature(call).parameters.values() if p.kind is not Argument.VAR_KEYWORD]
    except (TypeError, ValueError):
        parameters = []
    many = [p.name for p in parameters if p.kind is Argument.VAR_POSITIONAL]
    plain = [p.name for p in parameters if p.kind in (Argument.POSITIONAL_ONLY, Argument.POSITIONAL_OR_KEYWORD)]
    rest = many * len(args) or [f"input_{k}" for k in range(len(args))]
    names: list[str] = []
    for name, value in [*zip((plain + rest)[: len(args)], args, strict=False), *kwargs.items()]:
        held = [x for x in leaves(_as_tensors(value)) if isinstance(x, Tensor)]
        names += [name if len(held) == 1 else f"{name}_{k}" for k in range(len(held))]
    counts = Counter(names)
    return [f"{name}_{names[:k].count(name)}" if counts[name] > 1 else name for k, name in enumerate(names)]


def _names(caller: str, given: Sequence[str] | None, default: list[str], count: int) -> list[str]:
    """Names given for the first ones, in order."""
    names = [] if given is None else list(given)
    if isinstance(given, str) or len(names) > count or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"onnx.export: {caller}={given!r} must be at most {count} texts, one for each tensor")
    names += default[len(names) :]
    if len(set(names)) != len(names):
        raise ValueError(f"onnx.export: {caller}={given!r} gives {names}, of which two are the same")
    return names


def _result_names(heard: Trace, given: Sequence[str] | None, inputs: list[str]) -> list[str]:
    found = leaves(heard.results)
    if not found or not all(isinstance(x, (Ref, Const)) for x in found):
        raise ExportError("onnx.export: the model must return tensors, in tuples, lists or dicts if several")
    default = ["output"] if len(found) == 1 else [f"output_{k}" for k in range(len(found))]
    names = _names("output_names", given, default, len(found))
    if both := sorted({*names} & {*inputs}):
        raise ValueError(f"onnx.export: {both} name inputs and results; give others by input_names or output_names")
    return names


def _dynamic(axes: Any, shapes: Any, inputs: list[str], ranks: list[int]) -> Names:
    if axes is not None and shapes is not None:
        raise ValueError("onnx.export: one of dynamic_axes and dynamic_shapes, not both")
    if shapes is not None:
        unknown = [name for name in shapes if name not in inputs] if isinstance(shapes, Mapping) else []
        if unknown or len(shapes) > len(inputs):
            raise ValueError(f"onnx.export: dynamic_shapes={shapes!r} names more than the inputs {inputs}")
        return named_axes("dynamic_shapes", shapes, inputs, ranks)
    return named_axes("dynamic_axes", axes, inputs, ranks)


@contextmanager
def _evaluation(model: Any) -> Iterator[None]:
    """All layers in evaluation, and each as it was again."""
    modules = list(model.modules()) if isinstance(model, Module) else []
    before = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training
