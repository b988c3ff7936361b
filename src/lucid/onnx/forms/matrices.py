"""A matrix applied to every line along one axis."""

from __future__ import annotations

from typing import Any

from lucid.onnx.graph import At, Graph


def along(g: Graph, s: At, x: str, axis: int, matrix: Any) -> str:
    """``matrix`` (new, old) times every line of x, which has as many axes as the step's input."""
    rank = len(s.shape())
    order = [k for k in range(rank) if k != axis] + [axis]
    back = [order.index(k) for k in range(rank)]
    product = g.node("MatMul", g.node("Transpose", x, perm=order), g.constant(matrix.T.astype(s.dtype)))
    return str(g.node("Transpose", product, perm=back))
