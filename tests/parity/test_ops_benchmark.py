"""The operations that ``benchmarks.ops`` times are the same in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lucid
from benchmarks import ops


@pytest.mark.parametrize("row", ops.ROWS, ids=lambda row: row.name)
def test_operations_beside_convolution_agree_with_pytorch(row: ops.Row) -> None:
    draw = np.random.default_rng(0)
    operands = [ops.made(kind, ops.SIZES["tiny"], draw) for kind in row.kinds]
    for ours, theirs in zip(ops.calls(row, lucid, operands), ops.calls(row, torch, operands), strict=True):
        assert ours is None or ops.distance(ours(), theirs()) <= ops.TOLERANCE
