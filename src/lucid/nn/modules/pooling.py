"""Pooling layers. The seed pages spell them ``MaxPool2D``; both spellings are the same class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lucid.nn.functional._arguments import SizeArgument, as_pairs, integer, sizes
from lucid.nn.functional._geometry import check_pool_padding
from lucid.nn.functional.pooling import Pooled, adaptive_avg_pool, adaptive_max_pool, avg_pool, max_pool
from lucid.nn.functional.sampling import max_unpool1d, max_unpool2d, max_unpool3d
from lucid.nn.modules.module import Module
from lucid.tensor import Tensor


class _Windowed(Module):
    """The arguments of a pooling, checked here."""

    rank: ClassVar[int]

    def _set_up(self, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> None:
        super().__init__()
        name, rank = type(self).__name__, self.rank
        kernel = sizes(name, "kernel_size", kernel_size, rank)
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        sizes(name, "stride", self.stride, rank)
        check_pool_padding(
            name,
            as_pairs(sizes(name, "padding", padding, rank, least=0)),
            kernel,
            sizes(name, "dilation", dilation, rank),
        )


class _MaxPool(_Windowed):
    def __init__(
        self,
        kernel_size: SizeArgument,
        stride: SizeArgument | None = None,
        padding: SizeArgument = 0,
        dilation: SizeArgument = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        self._set_up(kernel_size, stride, padding, dilation, ceil_mode)
        self.dilation = dilation
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Pooled:
        """The largest sample of each window, with its place if ``return_indices``."""
        return max_pool(
            type(self).__name__, self.rank, input, self.kernel_size, self.stride, self.padding, self.dilation,
            self.ceil_mode, self.return_indices,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """All arguments."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """The largest sample of each window of (N, C, L); see ``functional.max_pool1d``.

    >>> MaxPool1d(2)(Tensor([[[1.0, 3.0, 2.0, 5.0]]])).tolist()
    [[[3.0, 5.0]]]
    """

    rank = 1


class MaxPool2d(_MaxPool):
    """The largest sample of each window of (N, C, H, W); see ``functional.max_pool2d``."""

    rank = 2


class MaxPool3d(_MaxPool):
    """The largest sample of each window of (N, C, D, H, W); see ``functional.max_pool3d``."""

    rank = 3


class _AvgPool(_Windowed):
    def __init__(
        self,
        kernel_size: SizeArgument,
        stride: SizeArgument | None = None,
        padding: SizeArgument = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        self._set_up(kernel_size, stride, padding, 1, ceil_mode)
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override
        if divisor_override is not None:
            integer(type(self).__name__, "divisor_override", divisor_override, 1)

    def forward(self, input: Tensor) -> Tensor:
        """The mean of each window."""
        return avg_pool(
            type(self).__name__, self.rank, input, self.kernel_size, self.stride, self.padding, self.ceil_mode,
            self.count_include_pad, self.divisor_override,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """The geometry."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPool):
    """The mean of each window of (N, C, L); see ``functional.avg_pool1d``."""

    rank = 1

    def __init__(
        self,
        kernel_size: SizeArgument,
        stride: SizeArgument | None = None,
        padding: SizeArgument = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        self.kernel_size, self.stride, self.padding = (
            sizes("AvgPool1d", name, getattr(self, name), 1, least=0) for name in ("kernel_size", "stride", "padding")
        )


class AvgPool2d(_AvgPool):
    """The mean of each window of (N, C, H, W); see ``functional.avg_pool2d``."""

    rank = 2


class AvgPool3d(_AvgPool):
    """The mean of each window of (N, C, D, H, W); see ``functional.avg_pool3d``."""

    rank = 3


class _Adaptive(Module):
    rank: ClassVar[int]

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def extra_repr(self) -> str:
        """The size asked for."""
        return f"output_size={self.output_size}"


class _AdaptiveAvgPool(_Adaptive):
    def forward(self, input: Tensor) -> Tensor:
        """Means over as many windows as were asked for."""
        return adaptive_avg_pool(type(self).__name__, self.rank, input, self.output_size)


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Means over ``output_size`` windows of (N, C, L), whatever L is."""

    rank = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Means over ``output_size`` windows of (N, C, H, W), whatever H and W are; None keeps an axis."""

    rank = 2


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """Means over ``output_size`` windows of (N, C, D, H, W); None keeps an axis."""

    rank = 3


class _AdaptiveMaxPool(_Adaptive):
    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Pooled:
        """The largest sample of each of as many windows as were asked for."""
        return adaptive_max_pool(type(self).__name__, self.rank, input, self.output_size, self.return_indices)


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """The largest sample of each of ``output_size`` windows of (N, C, L)."""

    rank = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """The largest sample of each of ``output_size`` windows of (N, C, H, W)."""

    rank = 2


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """The largest sample of each of ``output_size`` windows of (N, C, D, H, W)."""

    rank = 3


MaxPool1D, MaxPool2D, MaxPool3D = MaxPool1d, MaxPool2d, MaxPool3d


class _MaxUnpool(Module):
    """Numbers back at the places that a max pooling took them from, 0 elsewhere."""

    def __init__(
        self, kernel_size: SizeArgument, stride: SizeArgument | None = None, padding: SizeArgument = 0
    ) -> None:
        super().__init__()
        self.kernel_size, self.padding = kernel_size, padding
        self.stride = kernel_size if stride is None else stride

    def extra_repr(self) -> str:
        """All arguments."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpool):
    """The inverse of ``MaxPool1d(return_indices=True)``; see ``functional.max_unpool1d``."""

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The larger signal."""
        return max_unpool1d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool2d(_MaxUnpool):
    """The inverse of ``MaxPool2d(return_indices=True)``; see ``functional.max_unpool2d``."""

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The larger image."""
        return max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool3d(_MaxUnpool):
    """The inverse of ``MaxPool3d(return_indices=True)``; see ``functional.max_unpool3d``."""

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The larger volume."""
        return max_unpool3d(input, indices, self.kernel_size, self.stride, self.padding, output_size)
