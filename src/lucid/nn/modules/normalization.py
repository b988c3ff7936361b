"""Normalisation layers."""

from __future__ import annotations

from typing import Any, ClassVar

from lucid.core.dtypes import DTypeLike
from lucid.core.errors import ShapeError
from lucid.core.geometry import Sizes
from lucid.nn import functional as F
from lucid.nn import init
from lucid.nn.functional._arguments import integer
from lucid.nn.modules._fresh import fresh_parameter, fresh_tensor
from lucid.nn.modules.module import Module
from lucid.nn.parameter import Parameter
from lucid.tensor import Device, Tensor

DeviceLike = Device | str | None


class _RunningNorm(Module):
    """Scale and shift per channel, and running statistics if they are tracked."""

    ranks: ClassVar[tuple[int, ...]]  # of inputs that fit, the batch axis counted

    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: DeviceLike = None,
        dtype: DTypeLike = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = integer(type(self).__name__, "num_features", num_features, 1)
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        shape = (self.num_features,)
        self.register_parameter("weight", fresh_parameter(shape, device, dtype, 1.0) if affine else None)
        self.register_parameter("bias", fresh_parameter(shape, device, dtype) if affine and bias else None)
        tracked = track_running_stats
        self.register_buffer("running_mean", fresh_tensor(shape, device, dtype) if tracked else None)
        self.register_buffer("running_var", fresh_tensor(shape, device, dtype, 1.0) if tracked else None)
        self.register_buffer("num_batches_tracked", Tensor(0) if tracked else None)

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batches seen."""
        for buffer, value in ((self.running_mean, 0.0), (self.running_var, 1.0), (self.num_batches_tracked, 0)):
            if buffer is not None:
                init.constant_(buffer, value)

    def reset_parameters(self) -> None:
        """Scale 1, shift 0, and fresh statistics."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def _check_input(self, x: Tensor) -> None:
        name = type(self).__name__
        if x.ndim not in self.ranks:
            wanted = " or ".join(map(str, self.ranks))
            raise ShapeError(f"{name}: the input {x.shape} has {x.ndim} axes, but must have {wanted}")

    def extra_repr(self) -> str:
        """All arguments."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_RunningNorm):
    def _next_momentum(self) -> float:
        """The weight of this batch; without momentum, all batches weigh alike."""
        if self.num_batches_tracked is None:
            return self.momentum or 0.0
        self.num_batches_tracked._array[...] += 1
        self.num_batches_tracked._version[0] += 1
        return 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum

    def forward(self, input: Tensor) -> Tensor:
        """Standardised with the batch's statistics in training, with the running ones in evaluation."""
        return self.clamped(input, None)

    def clamped(self, input: Tensor, limits: tuple[float, float] | None) -> Tensor:
        """The same; in training cut off at the limits, as by an activation."""
        self._check_input(input)
        uses_batch = self.training or self.running_mean is None
        momentum = self._next_momentum() if self.training else 0.0
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, uses_batch, momentum, self.eps,
            caller=type(self).__name__, limits=limits,
        )  # fmt: skip


class BatchNorm1d(_BatchNorm):
    """Each channel of (N, C) or (N, C, L) standardised over the batch; see ``functional.batch_norm``.

    >>> BatchNorm1d(3)
    BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Each channel of (N, C, H, W) standardised over the batch; see ``functional.batch_norm``."""

    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """Each channel of (N, C, D, H, W) standardised over the batch; see ``functional.batch_norm``."""

    ranks = (5,)


class _InstanceNorm(_RunningNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: DeviceLike = None,
        dtype: DTypeLike = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """Standardised with the sample's own statistics; in evaluation, with running ones if they are tracked."""
        self._check_input(input)
        batch = input if input.ndim == max(self.ranks) else input.unsqueeze(0)
        uses_input = self.training or self.running_mean is None
        momentum = self.momentum or 0.0 if self.training else 0.0
        result = F.instance_norm(
            batch, self.running_mean, self.running_var, self.weight, self.bias, uses_input, momentum, self.eps
        )
        return result if batch is input else result.squeeze(0)


class InstanceNorm1d(_InstanceNorm):
    """Each channel of each signal (N, C, L) or (C, L) standardised; see ``functional.instance_norm``."""

    ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Each channel of each image (N, C, H, W) or (C, H, W) standardised; see ``functional.instance_norm``."""

    ranks = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """Each channel of each volume (N, C, D, H, W) or (C, D, H, W) standardised; see ``functional.instance_norm``."""

    ranks = (4, 5)


class LayerNorm(Module):
    """Each sample standardised over its last axes; see ``functional.layer_norm``."""

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sizes,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: DeviceLike = None,
        dtype: DTypeLike = None,
    ) -> None:
        super().__init__()
        entries: Any = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape = tuple(integer("LayerNorm", "normalized_shape", n, 1) for n in entries)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        shape = self.normalized_shape
        self.register_parameter("weight", fresh_parameter(shape, device, dtype, 1.0) if elementwise_affine else None)
        self.register_parameter("bias", fresh_parameter(shape, device, dtype) if elementwise_affine and bias else None)

    def forward(self, input: Tensor) -> Tensor:
        """The standardised input."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """All arguments."""
        arguments = f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        return f"{arguments}, bias={self.bias is not None}"


class GroupNorm(Module):
    """Each sample standardised over groups of channels; see ``functional.group_norm``."""

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: DeviceLike = None,
        dtype: DTypeLike = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_groups = integer("GroupNorm", "num_groups", num_groups, 1)
        self.num_channels = integer("GroupNorm", "num_channels", num_channels, 1)
        if self.num_channels % self.num_groups:
            raise ShapeError(f"GroupNorm: num_channels={num_channels} must be a multiple of num_groups={num_groups}")
        self.eps = eps
        self.affine = affine
        shape = (self.num_channels,)
        self.register_parameter("weight", fresh_parameter(shape, device, dtype, 1.0) if affine else None)
        self.register_parameter("bias", fresh_parameter(shape, device, dtype) if affine and bias else None)

    def forward(self, input: Tensor) -> Tensor:
        """The standardised input."""
        return self.leaked(input, None)

    def leaked(self, input: Tensor, slope: Tensor | None) -> Tensor:
        """The same, of what a PReLU of that slope makes of the input."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps, slope=slope)

    def extra_repr(self) -> str:
        """All arguments."""
        arguments = f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"
        return f"{arguments}, bias={self.bias is not None}"


class LocalResponseNorm(Module):
    """Each channel divided by what those around it come to; see ``functional.local_response_norm``."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = integer("LocalResponseNorm", "size", size, 1), alpha, beta, k

    def forward(self, input: Tensor) -> Tensor:
        """The divided input."""
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        """All arguments."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class RMSNorm(Module):
    """Each sample divided by the root of its mean square over the last axes; see ``functional.rms_norm``."""

    weight: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sizes,
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: DeviceLike = None,
        dtype: DTypeLike = None,
    ) -> None:
        super().__init__()
        entries: Any = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        shape = self.normalized_shape = tuple(integer("RMSNorm", "normalized_shape", n, 1) for n in entries)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.register_parameter("weight", fresh_parameter(shape, device, dtype, 1.0) if elementwise_affine else None)

    def forward(self, input: Tensor) -> Tensor:
        """The divided input."""
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """All arguments."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
