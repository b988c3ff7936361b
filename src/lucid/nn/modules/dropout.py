"""Dropout layers."""

from __future__ import annotations

from lucid.nn import functional as F
from lucid.nn.modules.module import Module
from lucid.tensor import Tensor


class _Dropout(Module):
    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"{type(self).__name__}: p={p} must be in 0 … 1")
        self.p = p
        self.inplace = inplace

    def extra_repr(self) -> str:
        """Both arguments."""
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """In training each element is zero with probability ``p``, else scaled by 1 / (1 - p)."""

    def forward(self, input: Tensor) -> Tensor:
        """The thinned input."""
        return F.dropout(input, self.p, self.training, self.inplace)


class Dropout1d(_Dropout):
    """As ``Dropout`` for whole channels of (N, C, L)."""

    def forward(self, input: Tensor) -> Tensor:
        """The thinned input."""
        return F.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(_Dropout):
    """As ``Dropout`` for whole channels of (N, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """The thinned input."""
        return F.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(_Dropout):
    """As ``Dropout`` for whole channels of (N, C, D, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """The thinned input."""
        return F.dropout3d(input, self.p, self.training, self.inplace)
