"""Layers that learn how many channels or features come in from their first input.

Until then their parameters have no shape (``UninitializedParameter``). The first call gives them one, draws their
values and makes the layer what it stands for: a ``LazyConv2d`` is a ``Conv2d`` from then on.
"""

from __future__ import annotations

from typing import Any, ClassVar

from lucid.core.dtypes import DTypeLike
from lucid.core.errors import ShapeError
from lucid.nn.functional._arguments import PaddingArgument, SizeArgument
from lucid.nn.functional._geometry import check_channels
from lucid.nn.modules.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    DeviceLike,
    _Convolution,
)
from lucid.nn.modules.linear import Linear
from lucid.nn.modules.module import BUFFER, PARAMETER, Module, locate
from lucid.nn.modules.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    _RunningNorm,
)
from lucid.nn.parameter import UninitializedBuffer, UninitializedParameter, is_uninitialized
from lucid.ops.checked import check_tensor
from lucid.tensor import Tensor


class _Lazy(Module):
    """What they share: at the first call they become the layer that they stand for."""

    becomes: ClassVar[type[Module]]

    def reset_parameters(self) -> None:
        """Nothing: there are no parameters before the first input."""

    def _wait(self, *names: str) -> None:
        """Forget these parameters and buffers but for their element types; None stays."""
        for name in names:
            made = getattr(self, name)
            if made is not None:
                kind = {PARAMETER: UninitializedParameter, BUFFER: UninitializedBuffer}[self._kinds[name]]
                object.__setattr__(self, name, kind(dtype=made.dtype))

    def has_uninitialized_params(self) -> bool:
        """Whether some parameter or buffer has no shape yet."""
        return any(is_uninitialized(value) for _, value in self._registered(PARAMETER, BUFFER))

    def _shapes(self, x: Tensor) -> dict[str, tuple[int, ...]]:
        """Takes the number of channels or features from an input; the shapes that follow."""
        raise NotImplementedError

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            x: Any = args[0] if args else kwargs.get("input")
            check_tensor(type(self).__name__, "input", x)
            shapes, fresh = self._shapes(x), self.has_uninitialized_params()  # without, a state dict gave them values
            for name, shape in shapes.items():
                if is_uninitialized(value := getattr(self, name)):
                    value.materialize(shape)
        except Exception as error:
            locate(error, self)
            raise
        self.__class__ = self.becomes  # type: ignore[assignment]
        if fresh:
            self.reset_parameters()
        return Module.__call__(self, *args, **kwargs)


class _LazyConvolution(_Lazy, _Convolution):
    """A convolution whose ``in_channels`` are those of its first input."""

    def _shapes(self, x: Tensor) -> dict[str, tuple[int, ...]]:
        name, rank = type(self).__name__, self.rank
        if x.ndim not in (rank + 1, rank + 2):
            raise ShapeError(f"{name}: the input {x.shape} has {x.ndim} axes, but must have {rank + 2} or {rank + 1}")
        channels = x.shape[-rank - 1]
        check_channels(name, channels, self.out_channels, self.groups)
        self.in_channels = channels
        ends = (channels, self.out_channels) if self.is_transposed else (self.out_channels, channels)
        weight = (ends[0], ends[1] // self.groups, *self.kernel_size)
        return {"weight": weight, "bias": (self.out_channels,)}

    def _defer(self) -> None:
        self.in_channels = 0
        self._wait("weight", "bias")


class _LazyConv(_LazyConvolution):
    def __init__(
        self,
        out_channels: int,
        kernel_size: SizeArgument,
        stride: SizeArgument = 1,
        padding: PaddingArgument = 0,
        dilation: SizeArgument = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: DeviceLike = None,
        dtype: DTypeLike = None,
    ) -> None:
        self._set_up(
            groups, out_channels, kernel_size, stride, padding, 0, dilation, groups, bias, padding_mode, device, dtype
        )
        self._defer()


class _LazyConvTranspose(_LazyConvolution):
    def __init__(
        self,
        out_channels: int,
        kernel_size: SizeArgument,
        stride: SizeArgument = 1,
        padding: PaddingArgument = 0,
        output_padding: SizeArgument = 0,
        *,
        dilation: SizeArgument = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: DeviceLike = None,
        dtype: DTypeLike = None,
    ) -> None:
        self._set_up(
            groups, out_channels, kernel_size, stride, padding, output_padding, dilation, groups, bias, padding_mode,
            device, dtype,
        )  # fmt: skip
        self._defer()


class LazyConv1d(_LazyConv, Conv1d):
    """A ``Conv1d`` that takes ``in_channels`` from its first input.

    >>> layer = LazyConv1d(8, 3, padding=1)
    >>> layer
    LazyConv1d(0, 8, kernel_size=(3,), stride=(1,), padding=(1,))
    >>> layer(Tensor([[[1.0] * 16] * 2])).shape
    (1, 8, 16)
    >>> layer
    Conv1d(2, 8, kernel_size=(3,), stride=(1,), padding=(1,))
    """

    becomes = Conv1d


class LazyConv2d(_LazyConv, Conv2d):
    """A ``Conv2d`` that takes ``in_channels`` from its first input."""

    becomes = Conv2d


class LazyConv3d(_LazyConv, Conv3d):
    """A ``Conv3d`` that takes ``in_channels`` from its first input."""

    becomes = Conv3d


class LazyConvTranspose1d(_LazyConvTranspose, ConvTranspose1d):
    """A ``ConvTranspose1d`` that takes ``in_channels`` from its first input."""

    becomes = ConvTranspose1d


class LazyConvTranspose2d(_LazyConvTranspose, ConvTranspose2d):
    """A ``ConvTranspose2d`` that takes ``in_channels`` from its first input."""

    becomes = ConvTranspose2d


class LazyConvTranspose3d(_LazyConvTranspose, ConvTranspose3d):
    """A ``ConvTranspose3d`` that takes ``in_channels`` from its first input."""

    becomes = ConvTranspose3d


class LazyLinear(_Lazy, Linear):
    """A ``Linear`` that takes ``in_features`` from its first input.

    >>> layer = LazyLinear(2)
    >>> layer(Tensor([[1.0, 2.0, 3.0]])).shape, layer
    ((1, 2), Linear(in_features=3, out_features=2, bias=True))
    """

    becomes = Linear

    def __init__(
        self, out_features: int, bias: bool = True, device: DeviceLike = None, dtype: DTypeLike = None
    ) -> None:
        Linear.__init__(self, 1, out_features, bias, device, dtype)
        self.in_features = 0
        self._wait("weight", "bias")

    def _shapes(self, x: Tensor) -> dict[str, tuple[int, ...]]:
        if x.ndim == 0:
            raise ShapeError("LazyLinear: the input has no axes, but must have features in its last one")
        self.in_features = x.shape[-1]
        return {"weight": (self.out_features, self.in_features), "bias": (self.out_features,)}


class _LazyNorm(_Lazy, _RunningNorm):
    """A normalisation whose ``num_features`` are the channels of its first input."""

    batched: ClassVar[bool] = True  # whether the channels are axis 1 in any case

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: DeviceLike = None,
        dtype: DTypeLike = None,
        *,
        bias: bool = True,
    ) -> None:
        _RunningNorm.__init__(self, 1, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self.num_features = 0
        self._wait("weight", "bias", "running_mean", "running_var")

    def _shapes(self, x: Tensor) -> dict[str, tuple[int, ...]]:
        self._check_input(x)
        axis = 1 if self.batched or x.ndim == max(self.ranks) else 0
        self.num_features = x.shape[axis]
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (self.num_features,))


class LazyBatchNorm1d(_LazyNorm, BatchNorm1d):
    """A ``BatchNorm1d`` that takes ``num_features`` from its first input.

    >>> layer = LazyBatchNorm1d()
    >>> _ = layer(Tensor([[1.0, 2.0], [3.0, 5.0]]))
    >>> layer.num_features, layer.running_mean.shape
    (2, (2,))
    """

    becomes = BatchNorm1d


class LazyBatchNorm2d(_LazyNorm, BatchNorm2d):
    """A ``BatchNorm2d`` that takes ``num_features`` from its first input."""

    becomes = BatchNorm2d


class LazyBatchNorm3d(_LazyNorm, BatchNorm3d):
    """A ``BatchNorm3d`` that takes ``num_features`` from its first input."""

    becomes = BatchNorm3d


class _LazyInstanceNorm(_LazyNorm):
    batched = False

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: DeviceLike = None,
        dtype: DTypeLike = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(eps, momentum, affine, track_running_stats, device, dtype, bias=bias)


class LazyInstanceNorm1d(_LazyInstanceNorm, InstanceNorm1d):
    """An ``InstanceNorm1d`` that takes ``num_features`` from its first input."""

    becomes = InstanceNorm1d


class LazyInstanceNorm2d(_LazyInstanceNorm, InstanceNorm2d):
    """An ``InstanceNorm2d`` that takes ``num_features`` from its first input."""

    becomes = InstanceNorm2d


class LazyInstanceNorm3d(_LazyInstanceNorm, InstanceNorm3d):
    """An ``InstanceNorm3d`` that takes ``num_features`` from its first input."""

    becomes = InstanceNorm3d
