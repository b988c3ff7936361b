"""Convolution layers and their transposes."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from lucid.core.dtypes import DTypeLike
from lucid.core.errors import ShapeError
from lucid.core.geometry import window_extent
from lucid.nn import init
from lucid.nn.functional._arguments import PaddingArgument, SizeArgument, integer, padding_mode, paddings, sizes
from lucid.nn.functional._geometry import check_channels, check_output_padding
from lucid.nn.functional.convolution import convolve, convolve_transposed, target_size
from lucid.nn.functional.streaming import conv1d_step, conv_transpose1d_step, lead_in
from lucid.nn.modules._fresh import fresh_parameter
from lucid.nn.modules.module import Module
from lucid.nn.parameter import Parameter
from lucid.ops.conv import Finish
from lucid.tensor import Device, Tensor

DeviceLike = Device | str | None
Weights = tuple[Tensor, Tensor | None]


class _Convolution(Module):
    """What the six layers share: their arguments, checked here, and their parameters."""

    rank: ClassVar[int]
    is_transposed: ClassVar[bool] = False

    weight: Parameter
    bias: Parameter | None

    def _set_up(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any, padding: Any, output_padding: Any,
        dilation: Any, groups: int, bias: bool, mode: str, device: DeviceLike, dtype: DTypeLike,
    ) -> None:  # fmt: skip
        super().__init__()
        name, rank = type(self).__name__, self.rank
        self.in_channels = integer(name, "in_channels", in_channels, 1)
        self.out_channels = integer(name, "out_channels", out_channels, 1)
        self.kernel_size = sizes(name, "kernel_size", kernel_size, rank)
        self.stride = sizes(name, "stride", stride, rank)
        self.padding = paddings(name, padding, rank)
        self.output_padding = sizes(name, "output_padding", output_padding, rank, least=0)
        self.dilation = sizes(name, "dilation", dilation, rank)
        self.groups = integer(name, "groups", groups, 1)
        self.padding_mode = padding_mode(name, mode)
        check_channels(name, self.in_channels, self.out_channels, self.groups)
        ends = (self.out_channels, self.in_channels)
        if self.is_transposed:
            check_output_padding(name, self.padding, self.output_padding, self.stride, self.dilation)
            ends = (self.in_channels, self.out_channels)
        shape = (ends[0], ends[1] // self.groups, *self.kernel_size)
        self.weight = fresh_parameter(shape, device, dtype)
        self.register_parameter("bias", fresh_parameter((self.out_channels,), device, dtype) if bias else None)
        self.reset_parameters()

    def finished(self, input: Tensor, finish: Finish | None = None, *, weights: Weights | None = None) -> Tensor:
        """The layer's result, with what is to be done to it in the same kernel.

        ``weights`` are used in place of the layer's weight and bias.
        """
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw weight and bias from U(-√k, √k), k = 1 / (weight.shape[1] · ∏ kernel_size)."""
        bound = 1 / math.sqrt(self.weight.shape[1] * math.prod(self.kernel_size))
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        """The arguments, those with a default only where they differ from it."""
        ones, zeros = (1,) * self.rank, (0,) * self.rank
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        options = (
            ("padding", self.padding, zeros),
            ("output_padding", self.output_padding, zeros),
            ("dilation", self.dilation, ones),
            ("groups", self.groups, 1),
            ("bias", self.bias is not None, True),
            ("padding_mode", self.padding_mode, "zeros"),
        )
        parts += [f"{name}={value}" for name, value, default in options if value != default]
        return ", ".join(parts)


_ConvNd = _Convolution  # PyTorch's name, for isinstance


class _Conv(_Convolution):
    def __init__(
        self,
        in_channels: int,
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
            in_channels, out_channels, kernel_size, stride, padding, 0, dilation, groups, bias, padding_mode, device,
            dtype,
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of ``input`` with the layer's weight, plus its bias."""
        return self.finished(input)

    def finished(self, input: Tensor, finish: Finish | None = None, *, weights: Weights | None = None) -> Tensor:
        """The same with what is to be done to it in the kernel."""
        weight, bias = weights or (self.weight, self.bias)
        return convolve(
            type(self).__name__, self.rank, input, weight, bias, self.stride, self.padding, self.dilation,
            self.groups, self.padding_mode, finish,
        )  # fmt: skip


class _ConvTranspose(_Convolution):
    is_transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: SizeArgument,
        stride: SizeArgument = 1,
        padding: PaddingArgument = 0,
        output_padding: SizeArgument = 0,
        *swappable: Any,
        dilation: SizeArgument = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: DeviceLike = None,
        dtype: DTypeLike = None,
    ) -> None:
        if swappable:
            raise TypeError(
                f"{type(self).__name__}: what follows output_padding must be named "
                f"(here {', '.join(map(repr, swappable))}): PyTorch goes on with groups, bias, dilation, "
                "others with dilation, groups, bias, and a silent swap would compute something else"
            )
        self._set_up(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip

    def forward(self, input: Tensor, output_size: SizeArgument | None = None) -> Tensor:
        """The transposed convolution; ``output_size`` picks among the sizes that ``output_padding`` can reach."""
        return self.finished(input, None, output_size)

    def finished(
        self,
        input: Tensor,
        finish: Finish | None = None,
        output_size: SizeArgument | None = None,
        *,
        weights: Weights | None = None,
    ) -> Tensor:
        """The same with what is to be done to it in the kernel."""
        name, (weight, bias) = type(self).__name__, weights or (self.weight, self.bias)
        return convolve_transposed(
            name, self.rank, input, weight, bias, self.stride, self.padding, self.output_padding,
            self.dilation, self.groups, self.padding_mode, target_size(name, self.rank, output_size), finish,
        )  # fmt: skip


def _silence(layer: _Convolution, batch: int | None, channels: int, samples: int) -> Tensor:
    lead = () if batch is None else (integer(type(layer).__name__, "batch", batch, 0),)
    return Tensor(np.zeros((*lead, channels, samples), layer.weight.dtype.numpy))


class Conv1d(_Conv):
    """Convolution of signals (N, C_in, L), or one signal (C_in, L), with learned filters.

    Arguments as in ``functional.conv1d``; all are checked here. ``weight`` is (C_out, C_in/groups, K) and ``bias``
    (C_out,), both drawn from U(-√k, √k) with k = groups / (C_in · K).

    >>> Conv1d(1, 8, 3, padding=1)(Tensor([[[1.0] * 16] * 1] * 4)).shape
    (4, 8, 16)
    >>> Conv1d(4, 4, 3, padding="same", dilation=2, groups=4, bias=False)
    Conv1d(4, 4, kernel_size=(3,), stride=(1,), padding=same, dilation=(2,), groups=4, bias=False)

    A stream is taken in chunks, of any lengths, by a layer that looks at no later sample:

    >>> layer = Conv1d(1, 8, 3, padding="causal")
    >>> carry = layer.initial_state(batch=4)
    >>> for length in (5, 1, 10):
    ...     y, carry = layer.step(Tensor([[[1.0] * length] * 1] * 4), carry)
    >>> y.shape
    (4, 8, 10)
    """

    rank = 1

    def initial_state(self, batch: int | None = None) -> Tensor:
        """What ``step`` takes with a stream's first chunk (N, C_in, L), or without a batch (C_in, L): the padding.

        Raises: ShapeError unless the layer can be streamed: padding on the left only, no stride beyond the kernel.
        """
        low = lead_in(
            type(self).__name__, self.padding, self.padding_mode, self.kernel_size, self.stride, self.dilation
        )
        return _silence(self, batch, self.in_channels, low)

    def step(self, chunk: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs that a stream's next chunk completes, and the carry for the chunk after it.

        Outputs of all chunks, joined, are the layer's of the joined chunks. Within a graph the carry is a part of it:
        ``detach()`` it where gradients shall not go further back.
        """
        return conv1d_step(
            type(self).__name__, chunk, carry, self.weight, self.bias, self.stride, self.dilation, self.groups
        )


class Conv2d(_Conv):
    """Convolution of images (N, C_in, H, W), or one image (C_in, H, W), with learned filters.

    Arguments as in ``functional.conv2d``; all are checked here. ``weight`` is (C_out, C_in/groups, K_h, K_w).

    >>> Conv2d(3, 16, (3, 5), stride=2, padding=((1, 1), (2, 2)))
    Conv2d(3, 16, kernel_size=(3, 5), stride=(2, 2), padding=(1, 2))
    """

    rank = 2


class Conv3d(_Conv):
    """Convolution of volumes (N, C_in, D, H, W), or one volume (C_in, D, H, W), with learned filters."""

    rank = 3


class ConvTranspose1d(_ConvTranspose):
    """The adjoint of ``Conv1d``, for upsampling: (N, C_in, L) to (N, C_out, L_out).

    Arguments as in ``functional.conv_transpose1d``; those after ``output_padding`` must be named. ``weight`` is
    (C_in, C_out/groups, K), drawn like ``Conv1d``'s with k = groups / (C_out · K).

    >>> layer = ConvTranspose1d(4, 2, 3, stride=2, padding=1, output_padding=1)
    >>> layer(Tensor([[[1.0] * 5] * 4])).shape
    (1, 2, 10)

    With ``padding="causal"`` it takes streams in chunks, as ``Conv1d`` does.
    """

    rank = 1

    def initial_state(self, batch: int | None = None) -> Tensor:
        """What ``step`` takes with a stream's first chunk (N, C_in, L), or without a batch (C_in, L).

        Raises: ShapeError unless the layer can be streamed: causal padding, no stride beyond the kernel.
        """
        name, extent = type(self).__name__, window_extent(self.kernel_size[0], self.dilation[0])
        if self.padding != "causal" or self.padding_mode != "zeros" or self.stride[0] > extent:
            raise ShapeError(
                f"{name}: a stream needs padding='causal' with 'zeros' and a stride of at most {extent}, not "
                f"padding={self.padding!r} with {self.padding_mode!r} and stride={self.stride[0]}"
            )
        return _silence(self, batch, self.out_channels, extent - self.stride[0])

    def step(self, chunk: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        """``stride`` outputs for every sample of a stream's next chunk, and the carry for the chunk after it."""
        return conv_transpose1d_step(
            type(self).__name__, chunk, carry, self.weight, self.bias, self.stride, self.dilation, self.groups
        )


class ConvTranspose2d(_ConvTranspose):
    """The adjoint of ``Conv2d``, for upsampling: (N, C_in, H, W) to (N, C_out, H_out, W_out)."""

    rank = 2


class ConvTranspose3d(_ConvTranspose):
    """The adjoint of ``Conv3d``, for upsampling: (N, C_in, D, H, W) to (N, C_out, D_out, H_out, W_out)."""

    rank = 3
