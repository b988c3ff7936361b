"""Linear layers."""

from __future__ import annotations

import math

from lucid.core.dtypes import DTypeLike
from lucid.nn import functional as F
from lucid.nn import init
from lucid.nn.functional._arguments import integer
from lucid.nn.modules._fresh import fresh_parameter
from lucid.nn.modules.module import Module
from lucid.nn.parameter import Parameter
from lucid.tensor import Device, Tensor


class Identity(Module):
    """The input itself; takes any arguments and needs none."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        """The input."""
        return input


class Linear(Module):
    """x Wᵀ + b over the last axis. ``weight`` is (out_features, in_features), drawn from U(-1/√in, 1/√in), as ``bias``.

    >>> Linear(3, 2)
    Linear(in_features=3, out_features=2, bias=True)
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Device | str | None = None,
        dtype: DTypeLike = None,
    ) -> None:
        super().__init__()
        self.in_features = integer("Linear", "in_features", in_features, 1)
        self.out_features = integer("Linear", "out_features", out_features, 1)
        self.weight = fresh_parameter((self.out_features, self.in_features), device, dtype)
        self.register_parameter("bias", fresh_parameter((self.out_features,), device, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias from U(-1/√in_features, 1/√in_features)."""
        bound = 1 / math.sqrt(self.in_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """x Wᵀ + b."""
        return F.linear(input, self.weight, self.bias, caller="Linear")

    def extra_repr(self) -> str:
        """All arguments."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
