"""Convolutions, products of matrices, normalisation, padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lucid.core.geometry import ConvSpec
from lucid.onnx.forms.elementwise import activated
from lucid.onnx.forms.matrices import along
from lucid.onnx.forms.table import form
from lucid.onnx.graph import At, Graph
from lucid.onnx.trace import Const, Ref, Step
from lucid.ops.norm import scaled_channels
from lucid.ops.pad import pad_adjoint
from lucid.tensor import Tensor

_FARTHEST = np.iinfo(np.int64).max


def _geometry(spec: ConvSpec) -> dict[str, Any]:
    """A convolution's attributes, every pad spelt out."""
    return {
        "kernel_shape": spec.kernel,
        "strides": spec.stride,
        "dilations": spec.dilation,
        "group": spec.groups,
        "pads": [low for low, _ in spec.padding] + [high for _, high in spec.padding],
    }


@form("conv", sized=True)
def _conv(g: Graph, s: At) -> str:
    spec = s.agreed("the padding", [run["spec"] for run in s.step.runs])
    return str(g.node("Conv", *_given(s), **_geometry(spec)))


def _given(s: At) -> list[str]:
    """Input, weight and, if there is one, the bias."""
    return [name for name in s.names() if name]


@form("conv_ended", sized=True)
def _conv_ended(g: Graph, s: At) -> str:
    end = s.params["epilogue"]
    return activated(g, s, end.activation, end.numbers, str(_conv(g, s)))


@form("conv_grad_input", sized=True)
def _conv_transpose(g: Graph, s: At) -> str:
    spec: ConvSpec = s.agreed("the padding", [run["spec"] for run in s.step.runs])
    extras = [
        tuple(n - m for n, m in zip(run["size"], spec.transposed_size(shape[2:]), strict=True))
        for run, shape in zip(s.step.runs, s.shapes(), strict=True)
    ]
    extra = s.agreed("the output size", extras)
    # More output is less cut off at the end. What the padding has none left for is output_padding.
    cut = tuple(min(e, high) for e, (_, high) in zip(extra, spec.padding, strict=True))
    pads = tuple((low, high - c) for c, (low, high) in zip(cut, spec.padding, strict=True))
    rest = [e - c for e, c in zip(extra, cut, strict=True)]
    more: dict[str, Any] = {"output_padding": rest} if any(rest) else {}
    return str(g.node("ConvTranspose", *_given(s), **_geometry(replace(spec, padding=pads)), **more))


def folded(steps: list[Step], uses: dict[int, int]) -> list[Step]:
    """Scales and shifts behind a convolution, as of a batch norm in evaluation, taken into its weight and bias.

    Where those are constants and nobody else reads the convolution's result.
    """
    makers = {s.results[0].number: k for k, s in enumerate(steps) if s.op in ("conv", "conv_grad_input")}
    made: list[Step | None] = list(steps)
    for k, step in enumerate(steps):
        x, *numbers = step.inputs
        maker = makers.get(x.number) if step.op == "affine" and isinstance(x, Ref) else None
        conv = None if maker is None else made[maker]
        if maker is not None and conv is not None and uses[x.number] == 1 and _takes(conv, numbers):
            parts = _scaled(conv, *(n.array for n in numbers))
            made[maker] = replace(conv, inputs=(conv.inputs[0], *parts), results=step.results)
            made[k] = None
    return [step for step in made if step is not None]


def _takes(conv: Step, numbers: list[Any]) -> bool:
    """Whether weight, bias, scale and shift are constants, the last two with a number for each channel."""
    parts = [p for p in (*conv.inputs[1:], *numbers) if p is not None]
    if not all(isinstance(p, Const) for p in parts):
        return False
    channels = _channels(conv)
    return all(n.array.shape[1:2] == (channels,) and n.array.size == channels for n in numbers)


def _channels(conv: Step) -> int:
    """Of its result."""
    shape = conv.inputs[1].array.shape
    return int(shape[0] if conv.op == "conv" else shape[1] * conv.params["spec"].groups)


def _scaled(conv: Step, scale: Any, shift: Any) -> tuple[Const, Const]:
    """Weight and bias of a convolution whose result is multiplied and shifted; rounded once."""
    _, w, bias = conv.inputs
    factor = scale.astype(np.float64).reshape(-1)
    wide = scaled_channels(w.array.astype(np.float64), factor, is_transposed=conv.op != "conv")
    moved = shift.astype(np.float64).reshape(-1)
    if bias is not None:
        moved = moved + bias.array * factor
    lead = f"{conv.place}." if conv.place else ""
    return Const(wide.astype(w.array.dtype), f"{lead}weight"), Const(moved.astype(w.array.dtype), f"{lead}bias")


@form("affine")
def _affine(g: Graph, s: At) -> str:
    x, scale, shift = s.names()
    return str(g.node("Add", g.node("Mul", x, scale), shift))


@form("linear")
def _linear(g: Graph, s: At) -> str:
    x, w, bias = s.names()
    if len(s.shape()) == 2:
        return str(g.node("Gemm", *filter(None, (x, w, bias)), transB=1))
    weight = s.const(1)
    turned = g.constant(np.ascontiguousarray(weight.T)) if weight is not None else g.node("Transpose", w, perm=[1, 0])
    y = g.node("MatMul", x, turned)
    return str(g.node("Add", y, bias) if bias else y)


@form("matmul")
def _matmul(g: Graph, s: At) -> str:
    return str(g.node("MatMul", *s.names()))


@form("einsum")
def _einsum(g: Graph, s: At) -> str:
    return str(g.node("Einsum", *s.names(), equation=s.params["equation"]))


# Normalisation


@form("standardize")
def _standardize(g: Graph, s: At) -> tuple[str | None, ...]:
    x, weight, bias = s.names()
    return _standardized(g, s, x, weight, bias), None, None


@form("standardize_leaked")
def _leaked(g: Graph, s: At) -> tuple[str | None, ...]:
    x, slope, weight, bias = s.names()
    return _standardized(g, s, g.node("PRelu", x, slope), weight, bias), None, None


def _standardized(g: Graph, s: At, x: str, weight: str, bias: str) -> str:
    """As LayerNormalization or InstanceNormalization where it is one, else in steps."""
    shape, axes, affine = s.shape(), s.params["axes"], s.params["affine_shape"]
    eps, rank = s.params["eps"], len(s.shape())
    trailing = tuple(range(rank - len(axes), rank)) == tuple(axes)
    if trailing and affine == shape[rank - len(axes) :]:
        ones = weight or g.constant(np.ones(affine, s.dtype))
        return str(g.node("LayerNormalization", x, ones, *filter(None, [bias]), axis=axes[0], epsilon=eps))
    if trailing and axes[0] == 2:
        whole = tuple(affine) == (1, shape[1], *(1,) * (rank - 2))
        scale = weight if weight and whole else g.constant(np.ones(shape[1], s.dtype))
        shift = bias if bias and whole else g.constant(np.zeros(shape[1], s.dtype))
        y = str(g.node("InstanceNormalization", x, scale, shift, epsilon=eps))
        return y if whole else _moved(g, s, y, weight, bias)
    over = g.ints(*axes)
    away = g.node("Sub", x, g.node("ReduceMean", x, over, keepdims=1))
    var = g.node("ReduceMean", g.node("Mul", away, away), over, keepdims=1)
    root = g.node("Sqrt", g.node("Add", var, g.constant(eps, s.dtype)))
    return _moved(g, s, g.node("Div", away, root), weight, bias)


def _moved(g: Graph, s: At, y: str, weight: str, bias: str) -> str:
    """Scaled and shifted by numbers in the shape that they take part in."""
    affine = s.params["affine_shape"]
    for kind, name in (("Mul", weight), ("Add", bias)):
        if name:
            array = g.constants.get(name)
            there = g.reshaped(name, affine) if array is None else g.constant(array.reshape(affine))
            y = g.node(kind, y, there)
    return y


# Padding


@form("pad", sized=True)
def _pad(g: Graph, s: At) -> str:
    pads = s.agreed("the padding", [run["pads"] for run in s.step.runs])
    mode, still = s.params["mode"], len(s.shape()) - len(pads)
    if mode == "circular":
        return _wrapped(g, s, pads, still)
    x = s.name()
    for axis, (low, high) in enumerate(pads, start=still):
        if low < 0 or high < 0:
            x = _slice(g, x, axis, max(-low, 0), min(high, 0) or _FARTHEST)
    counts = [0] * still + [max(low, 0) for low, _ in pads] + [0] * still + [max(high, 0) for _, high in pads]
    if mode == "zeros":
        return str(g.node("Pad", x, g.ints(*counts), g.constant(s.params["value"], s.dtype)))
    return str(g.node("Pad", x, g.ints(*counts), mode={"reflect": "reflect", "replicate": "edge"}[mode]))


def _wrapped(g: Graph, s: At, pads: Any, still: int) -> str:
    """Both ends of each axis put before its start and behind its end; Pad has no such mode before opset 19."""
    x = s.name()
    for axis, (low, high) in enumerate(pads, start=still):
        before = [_slice(g, x, axis, -low, _FARTHEST)] if low else []
        behind = [_slice(g, x, axis, 0, high)] if high else []
        x = g.node("Concat", *before, x, *behind, axis=axis) if before or behind else x
    return x


def _slice(g: Graph, x: str, axis: int, start: int, stop: int) -> str:
    return str(g.node("Slice", x, g.ints(start), g.ints(stop), g.ints(axis)))


@form("pad_adjoint", sized=True)
def _pad_adjoint(g: Graph, s: At) -> str:
    """What was copied to the border, added back where it came from: along each axis a product with a matrix."""
    pads = s.agreed("the padding", [run["pads"] for run in s.step.runs])
    x = s.name()
    for axis, (low, high) in enumerate(pads, start=len(s.shape()) - len(pads)):
        if low or high:
            size = s.agreed("the size of an axis that is padded", [shape[axis] for shape in s.shapes()])
            turned = pad_adjoint(Tensor(np.eye(size)), ((low, high),), s.params["mode"])
            x = along(g, s, x, axis, turned._array.T)
    return x
