"""Tensors as text, by PyTorch's rules for numbers, widths and summaries."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

PRECISION = 4
THRESHOLD = 1000
EDGE_ITEMS = 3
LINE_WIDTH = 80

_DEFAULT_DTYPES = ("float32", "int64", "bool", "complex64")


def tensor_repr(array: np.ndarray[Any, Any], requires_grad: bool, name: str = "Tensor") -> str:
    """``Tensor([[1., 2.]], requires_grad=True)``.

    >>> print(tensor_repr(np.array([[1.5, 2.0]], np.float32), False))
    Tensor([[1.5000, 2.0000]])
    """
    prefix = f"{name}("
    suffixes = []
    if array.size == 0:
        text = "[]"
        if array.shape != (0,):
            suffixes.append(f"size={array.shape}")
    else:
        text = _body(array, len(prefix))
    if array.dtype.name not in _DEFAULT_DTYPES or (array.size == 0 and array.dtype.name != "float32"):
        suffixes.append(f"dtype=lucid.{array.dtype.name}")
    if requires_grad:
        suffixes.append("requires_grad=True")
    text = prefix + text
    width = len(text) - text.rfind("\n")
    for suffix in suffixes:
        wraps = width + len(suffix) + 2 > LINE_WIDTH
        text += f",\n{' ' * len(prefix)}{suffix}" if wraps else f", {suffix}"
        width = len(prefix) + len(suffix) if wraps else width + len(suffix) + 2
    return text + ")"


def _body(array: np.ndarray[Any, Any], indent: int) -> str:
    summarize = array.size > THRESHOLD
    shown = _edges(array) if summarize else array
    if array.dtype.kind == "c":
        form = _complex_format(shown)
    elif array.dtype.kind in "biu":
        form = _whole_format(shown)
    else:
        form = _number_format(shown.astype(np.float64).ravel().tolist())
    return _nested(array, form, indent, summarize)


def _whole_format(shown: np.ndarray[Any, Any]) -> Callable[[Any], str]:
    width = max(len(str(v)) for v in shown.ravel().tolist())
    return lambda v: str(v).rjust(width)


def _complex_format(shown: np.ndarray[Any, Any]) -> Callable[[Any], str]:
    real, imaginary = (_number_format(part.ravel().tolist()) for part in (shown.real, shown.imag))

    def form(z: Any) -> str:
        text = imaginary(z.imag).lstrip()
        return real(z.real) + (text if text.startswith("-") else "+" + text) + "j"

    return form


def _edges(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The corners that a summary shows."""
    for axis, n in enumerate(array.shape):
        if n > 2 * EDGE_ITEMS:
            keep = [*range(EDGE_ITEMS), *range(n - EDGE_ITEMS, n)]
            array = array.take(keep, axis)
    return array


def _number_format(values: Iterable[float]) -> Callable[[float], str]:
    """One format for all values: whole numbers as ``5.``, else four decimals, or powers of ten for a wide range."""
    finite = [v for v in values if math.isfinite(v) and v != 0]
    whole = all(v == math.ceil(v) for v in finite)
    sizes = [abs(v) for v in finite]
    scientific = bool(sizes) and (max(sizes) / min(sizes) > 1000.0 or max(sizes) > 1e8 or min(sizes) < 1e-4)

    def plain(v: float) -> str:
        if scientific:
            return f"{v:.{PRECISION}e}"
        if whole:
            return f"{v:.0f}." if math.isfinite(v) else f"{v:.0f}"
        return f"{v:.{PRECISION}f}"

    width = max(map(len, map(plain, finite)), default=1)
    return lambda v: plain(v).rjust(width)


def _nested(array: np.ndarray[Any, Any], form: Callable[[Any], str], indent: int, summarize: bool) -> str:
    if array.ndim == 0:
        return form(_python(array[()]))
    cut = summarize and len(array) > 2 * EDGE_ITEMS
    if array.ndim == 1:
        return _row(array, form, indent, cut)
    rows = [*array[:EDGE_ITEMS], None, *array[-EDGE_ITEMS:]] if cut else list(array)
    parts = ["..." if row is None else _nested(row, form, indent + 1, summarize) for row in rows]
    between = "," + "\n" * (array.ndim - 1) + " " * (indent + 1)
    return "[" + between.join(parts) + "]"


def _row(array: np.ndarray[Any, Any], form: Callable[[Any], str], indent: int, cut: bool) -> str:
    if cut:
        items = [*map(form, map(_python, array[:EDGE_ITEMS])), " ...", *map(form, map(_python, array[-EDGE_ITEMS:]))]
    else:
        items = [form(_python(v)) for v in array]
    per_line = max(1, (LINE_WIDTH - indent) // (max(map(len, items), default=1) + 2))
    lines = [", ".join(items[i : i + per_line]) for i in range(0, len(items), per_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"


def _python(value: Any) -> Any:
    """A NumPy scalar as a Python number; ml_dtypes' scalars by way of float."""
    return float(value) if value.dtype.kind in "fV" else value.item()
