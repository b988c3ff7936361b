"""Activations as modules."""

from __future__ import annotations

from lucid.core.dtypes import DTypeLike
from lucid.nn import functional as F
from lucid.nn.modules._fresh import fresh_parameter
from lucid.nn.modules.module import Module
from lucid.tensor import Device, Tensor


class _InPlace(Module):
    """An activation that may overwrite its input."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        """``inplace`` where it is set."""
        return "inplace=True" if self.inplace else ""


class ReLU(_InPlace):
    """max(x, 0)."""

    def forward(self, input: Tensor) -> Tensor:
        """max(x, 0)."""
        return F.relu(input, self.inplace)


class ReLU6(_InPlace):
    """x between 0 and 6."""

    def forward(self, input: Tensor) -> Tensor:
        """x between 0 and 6."""
        return F.relu6(input, self.inplace)


class SELU(_InPlace):
    """A scaled ELU that keeps mean 0 and variance 1."""

    def forward(self, input: Tensor) -> Tensor:
        """The scaled ELU."""
        return F.selu(input, self.inplace)


class SiLU(_InPlace):
    """x sigmoid(x)."""

    def forward(self, input: Tensor) -> Tensor:
        """x sigmoid(x)."""
        return F.silu(input, self.inplace)


class Mish(_InPlace):
    """x tanh(softplus(x))."""

    def forward(self, input: Tensor) -> Tensor:
        """x tanh(softplus(x))."""
        return F.mish(input, self.inplace)


class Hardswish(_InPlace):
    """x hardsigmoid(x)."""

    def forward(self, input: Tensor) -> Tensor:
        """x hardsigmoid(x)."""
        return F.hardswish(input, self.inplace)


class Hardsigmoid(_InPlace):
    """x / 6 + 1/2 between 0 and 1."""

    def forward(self, input: Tensor) -> Tensor:
        """x / 6 + 1/2 between 0 and 1."""
        return F.hardsigmoid(input, self.inplace)


class LeakyReLU(_InPlace):
    """x where positive, else negative_slope x."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.negative_slope = negative_slope

    def forward(self, input: Tensor) -> Tensor:
        """x where positive, else negative_slope x."""
        return F.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        """The slope."""
        return ", ".join(filter(None, [f"negative_slope={self.negative_slope}", super().extra_repr()]))


class PReLU(Module):
    """x where positive, else weight x, with a learnable weight for all channels or for each.

    Source: He et al., arXiv:1502.01852.
    """

    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        device: Device | str | None = None,
        dtype: DTypeLike = None,
    ) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.weight = fresh_parameter((num_parameters,), device, dtype, init)

    def forward(self, input: Tensor) -> Tensor:
        """x where positive, else weight x."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        """How many weights."""
        return f"num_parameters={self.num_parameters}"


class ELU(_InPlace):
    """x where positive, else alpha (exp(x) - 1)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.alpha = alpha

    def forward(self, input: Tensor) -> Tensor:
        """x where positive, else alpha (exp(x) - 1)."""
        return F.elu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        """Alpha."""
        return ", ".join(filter(None, [f"alpha={self.alpha}", super().extra_repr()]))


class Hardtanh(_InPlace):
    """x between two bounds."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.min_val = min_val
        self.max_val = max_val

    def forward(self, input: Tensor) -> Tensor:
        """x between the bounds."""
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)

    def extra_repr(self) -> str:
        """The bounds."""
        return ", ".join(filter(None, [f"min_val={self.min_val}, max_val={self.max_val}", super().extra_repr()]))


class GELU(Module):
    """x Φ(x), Φ the normal distribution function; ``approximate="tanh"`` approximates it."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """x Φ(x)."""
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        """Which form."""
        return f"approximate={self.approximate!r}"


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, input: Tensor) -> Tensor:
        """1 / (1 + exp(-x))."""
        return F.sigmoid(input)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, input: Tensor) -> Tensor:
        """tanh(x)."""
        return F.tanh(input)


class Softplus(Module):
    """log(1 + exp(beta x)) / beta; x itself where beta x > threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, input: Tensor) -> Tensor:
        """log(1 + exp(beta x)) / beta."""
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        """Both parameters."""
        return f"beta={self.beta}, threshold={self.threshold}"


class _Along(Module):
    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        """The axis."""
        return f"dim={self.dim}"


class Softmax(_Along):
    """exp(x) / sum(exp(x)) along ``dim``."""

    def forward(self, input: Tensor) -> Tensor:
        """The softmax."""
        return F.softmax(input, self.dim)


class LogSoftmax(_Along):
    """log(softmax(x)) along ``dim``."""

    def forward(self, input: Tensor) -> Tensor:
        """The log-softmax."""
        return F.log_softmax(input, self.dim)


class LogSigmoid(Module):
    """log(sigmoid(x))."""

    def forward(self, input: Tensor) -> Tensor:
        """log(sigmoid(x))."""
        return F.logsigmoid(input)


class Softsign(Module):
    """x / (1 + |x|)."""

    def forward(self, input: Tensor) -> Tensor:
        """x / (1 + |x|)."""
        return F.softsign(input)


class Tanhshrink(Module):
    """x - tanh(x)."""

    def forward(self, input: Tensor) -> Tensor:
        """x - tanh(x)."""
        return F.tanhshrink(input)


class _Shrink(Module):
    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def extra_repr(self) -> str:
        """The bound."""
        return str(self.lambd)


class Softshrink(_Shrink):
    """x moved towards 0 by ``lambd``."""

    def forward(self, input: Tensor) -> Tensor:
        """x moved towards 0."""
        return F.softshrink(input, self.lambd)


class Hardshrink(_Shrink):
    """x where |x| > lambd, else 0."""

    def forward(self, input: Tensor) -> Tensor:
        """x, or 0."""
        return F.hardshrink(input, self.lambd)


class CELU(_InPlace):
    """x where positive, else alpha (exp(x / alpha) - 1)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.alpha = alpha

    def forward(self, input: Tensor) -> Tensor:
        """x where positive, else alpha (exp(x / alpha) - 1)."""
        return F.celu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        """Alpha."""
        return ", ".join(filter(None, [f"alpha={self.alpha}", super().extra_repr()]))


class Threshold(_InPlace):
    """x where above ``threshold``, else ``value``."""

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.threshold, self.value = threshold, value

    def forward(self, input: Tensor) -> Tensor:
        """x, or the value."""
        return F.threshold(input, self.threshold, self.value, self.inplace)

    def extra_repr(self) -> str:
        """Both numbers."""
        return ", ".join(filter(None, [f"threshold={self.threshold}, value={self.value}", super().extra_repr()]))


class GLU(_Along):
    """The first half along ``dim``, times the sigmoid of the second."""

    def forward(self, input: Tensor) -> Tensor:
        """The gated half."""
        return F.glu(input, self.dim)


class Softmin(_Along):
    """softmax(-x) along ``dim``."""

    def forward(self, input: Tensor) -> Tensor:
        """The softmin."""
        return F.softmin(input, self.dim)


class Softmax2d(Module):
    """softmax over the channels of (N, C, H, W) or (C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """The softmax."""
        return F.softmax(input, -3)
