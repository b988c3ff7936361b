"""Dropout: random zeros in training, the rest scaled so that the mean stays."""

from __future__ import annotations

import numpy as np

from lucid.core.errors import ShapeError
from lucid.core.geometry import Sizes
from lucid.ops.checked import check_tensor
from lucid.ops.random import Generator, default_generator
from lucid.tensor import Tensor


def dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Each element is zero with probability ``p``, else scaled by 1 / (1 - p); nothing happens outside training.

    Source: Srivastava et al., JMLR 15 (2014).
    """
    check_tensor("dropout", "input", input)
    return _dropped("dropout", input, p, training, inplace, input.shape, generator)


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """As ``dropout`` for whole channels of (N, C, L) or (C, L)."""
    return _channels_dropped("dropout1d", 1, input, p, training, inplace)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """As ``dropout`` for whole channels of (N, C, H, W) or (C, H, W)."""
    return _channels_dropped("dropout2d", 2, input, p, training, inplace)


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """As ``dropout`` for whole channels of (N, C, D, H, W) or (C, D, H, W)."""
    return _channels_dropped("dropout3d", 3, input, p, training, inplace)


def _channels_dropped(caller: str, rank: int, x: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
    check_tensor(caller, "input", x)
    if x.ndim not in (rank + 1, rank + 2):
        raise ShapeError(f"{caller}: the input {x.shape} must have {rank + 2} axes, or {rank + 1} without the batch")
    return _dropped(caller, x, p, training, inplace, x.shape[:-rank] + (1,) * rank, None)


def _dropped(
    caller: str, x: Tensor, p: float, training: bool, inplace: bool, shape: Sizes, generator: Generator | None
) -> Tensor:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{caller}: p={p} must be in 0 … 1")
    if not training or p == 0.0:
        return x
    scale = 0.0 if p == 1.0 else 1 / (1 - p)
    kept = (generator or default_generator()).numpy.random(shape, np.float32) >= p
    mask = Tensor(np.where(kept, *np.array([scale, 0.0]).astype(x.dtype.numpy)[:, None]))
    result: Tensor = x.mul_(mask) if inplace else x * mask
    return result
