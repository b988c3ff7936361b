"""A model exported, run elsewhere, and compared with Lucid's own result, also at other lengths of dynamic axes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import lucid
from lucid import Tensor
from lucid.onnx import export
from lucid.onnx.trace import leaves
from tests.onnx.cases import Case

Run = Callable[[Path, dict[str, Any]], list[Any]]


def check_roundtrip(case: Case, path: Path, run: Run, **options: Any) -> None:
    """The runtime's results of the exported file are the model's, in shape, type and value."""
    lucid.manual_seed(1)
    model = case.build()
    made = export(model, tuple(_arguments(case, 1)), path, dynamic_shapes=case.dynamic or None, **options)
    if hasattr(model, "eval"):
        model.eval()
    for factor in (1, 3) if case.dynamic else (1,):
        args = _arguments(case, factor)
        tensors = [x for x in args if isinstance(x, Tensor)]
        found = run(path, {v.name: x.numpy() for v, x in zip(made.graph.input, tensors, strict=True)})
        for x, y in zip(leaves(model(*args)), found, strict=True):
            _check_alike(x.detach().numpy(), np.asarray(y))


def _arguments(case: Case, factor: int) -> list[Any]:
    """Random numbers of the shapes, dynamic axes ``factor`` times as long."""
    rng = np.random.default_rng(3)
    made: list[Any] = []
    for k, given in enumerate(case.args):
        if isinstance(given, tuple):
            free = case.dynamic[k] if k < len(case.dynamic) else {}
            shape = [n * factor if axis in free else n for axis, n in enumerate(given)]
            given = rng.standard_normal(shape).astype(np.float32)
        made.append(Tensor(given) if isinstance(given, np.ndarray) else given)
    return made


def _check_alike(x: Any, y: Any) -> None:
    """Up to roundings of some tens of sums: results here are of the order of 1."""
    assert (x.shape, x.dtype) == (y.shape, y.dtype)
    if x.dtype.kind != "f":
        assert (x == y).all()
        return
    bound = 64 * np.finfo(x.dtype).eps * max(1.0, float(np.abs(x).max()))
    assert np.abs(x.astype(np.float64) - y).max() <= bound
