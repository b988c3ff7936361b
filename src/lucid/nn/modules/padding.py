"""Layers that continue their input over its ends; see ``functional.pad``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lucid.core.errors import ShapeError
from lucid.nn import functional as F
from lucid.nn.functional._arguments import an_int
from lucid.nn.modules.module import Module
from lucid.tensor import Tensor


class _Pad(Module):
    """An int for all ends, or (left, right, top, bottom, …): the last axis comes first."""

    rank: ClassVar[int]
    mode: ClassVar[str]

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        ends = (padding,) * (2 * self.rank) if isinstance(padding, int) else tuple(padding)
        if len(ends) != 2 * self.rank or not all(map(an_int, ends)):
            raise ShapeError(f"{type(self).__name__}: padding={padding!r} must be an int or {2 * self.rank} ints")
        self.padding = ends

    def forward(self, input: Tensor) -> Tensor:
        """The input with its ends."""
        return F.pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        """Samples at each end."""
        return repr(self.padding)


class _ConstantPad(_Pad):
    mode = "constant"

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        """The input with its ends."""
        return F.pad(input, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        """Samples at each end, and their value."""
        return f"padding={self.padding}, value={self.value}"


class _ZeroPad(_Pad):
    mode = "constant"


class _ReflectionPad(_Pad):
    mode = "reflect"


class _ReplicationPad(_Pad):
    mode = "replicate"


class _CircularPad(_Pad):
    mode = "circular"


class ConstantPad1d(_ConstantPad):
    """(N, C, L) continued by a number."""

    rank = 1


class ConstantPad2d(_ConstantPad):
    """(N, C, H, W) continued by a number."""

    rank = 2


class ConstantPad3d(_ConstantPad):
    """(N, C, D, H, W) continued by a number."""

    rank = 3


class ZeroPad1d(_ZeroPad):
    """(N, C, L) continued by zeros."""

    rank = 1


class ZeroPad2d(_ZeroPad):
    """(N, C, H, W) continued by zeros."""

    rank = 2


class ZeroPad3d(_ZeroPad):
    """(N, C, D, H, W) continued by zeros."""

    rank = 3


class ReflectionPad1d(_ReflectionPad):
    """(N, C, L) continued by its reflection, the end itself not repeated.

    >>> ReflectionPad1d((2, 0))(Tensor([[[1.0, 2.0, 3.0]]])).tolist()
    [[[3.0, 2.0, 1.0, 2.0, 3.0]]]
    """

    rank = 1


class ReflectionPad2d(_ReflectionPad):
    """(N, C, H, W) continued by its reflection, the end itself not repeated."""

    rank = 2


class ReflectionPad3d(_ReflectionPad):
    """(N, C, D, H, W) continued by its reflection, the end itself not repeated."""

    rank = 3


class ReplicationPad1d(_ReplicationPad):
    """(N, C, L) continued by its last sample."""

    rank = 1


class ReplicationPad2d(_ReplicationPad):
    """(N, C, H, W) continued by its last sample."""

    rank = 2


class ReplicationPad3d(_ReplicationPad):
    """(N, C, D, H, W) continued by its last sample."""

    rank = 3


class CircularPad1d(_CircularPad):
    """(N, C, L) continued by itself from the other end."""

    rank = 1


class CircularPad2d(_CircularPad):
    """(N, C, H, W) continued by itself from the other end."""

    rank = 2


class CircularPad3d(_CircularPad):
    """(N, C, D, H, W) continued by itself from the other end."""

    rank = 3
