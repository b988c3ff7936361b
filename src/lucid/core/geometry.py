"""Geometry of windows as values: what a convolution or a pooling touches, apart from any data."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from lucid.core.errors import ShapeError

Sizes = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]


def window_extent(kernel: int, dilation: int) -> int:
    """Samples from the first to the last tap, both included: d(k - 1) + 1."""
    return dilation * (kernel - 1) + 1


@dataclass(frozen=True, slots=True)
class ConvSpec:
    """Everything that defines a convolution but its channels and data.

    One entry per spatial axis. ``padding`` is (low, high) zeros per axis. "Convolution" is cross-correlation::

        y[n, o, p] = bias[o] + sum over c, t of w[o, c, t] * x[n, c, p * stride + t * dilation - low]
    """

    kernel: Sizes
    stride: Sizes
    dilation: Sizes
    padding: Pads
    groups: int = 1

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def taps(self) -> int:
        """Kernel positions, the product of the kernel's sizes."""
        return prod(self.kernel)

    def out_size(self, size: Sizes) -> Sizes:
        """Output samples per axis, floor((n + low + high - d(k - 1) - 1) / s) + 1; below 1 where nothing fits.

        Source: Dumoulin & Visin, arXiv:1603.07285.
        """
        return tuple(
            (n + low + high - window_extent(k, d)) // s + 1
            for n, k, s, d, (low, high) in zip(size, self.kernel, self.stride, self.dilation, self.padding, strict=True)
        )

    def pairs(self, size: Sizes) -> int:
        """Pairs of an output position and a tap that meet in a sample, those in padding left out.

        >>> ConvSpec((3,), (1,), (1,), ((1, 1),)).pairs((4,))
        10
        """
        axes = zip(size, self.out_size(size), self.kernel, self.stride, self.dilation, self.padding, strict=True)
        return prod(
            sum(max(0, min(out, -((t * d - low - n) // s)) - max(0, -((t * d - low) // s))) for t in range(k))
            for n, out, k, s, d, (low, _) in axes
        )

    def transposed_size(self, size: Sizes) -> Sizes:
        """Smallest input that gives ``size`` outputs, (n - 1)s - low - high + d(k - 1) + 1 per axis.

        It is the output size of the transposed convolution with ``output_padding=0``.
        """
        return tuple(
            (n - 1) * s - low - high + window_extent(k, d)
            for n, k, s, d, (low, high) in zip(size, self.kernel, self.stride, self.dilation, self.padding, strict=True)
        )

    def expanded(self, rank: int) -> ConvSpec:
        """The same convolution with leading axes of size 1, up to ``rank``."""
        more = rank - self.rank
        ones, zeros = (1,) * more, ((0, 0),) * more
        return ConvSpec(ones + self.kernel, ones + self.stride, ones + self.dilation, zeros + self.padding, self.groups)


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """Windows of a pooling, as in ``ConvSpec``; ``ceil_mode`` lets the last window hang over the edge."""

    kernel: Sizes
    stride: Sizes
    dilation: Sizes
    padding: Pads
    ceil_mode: bool = False

    def out_size(self, size: Sizes) -> Sizes:
        """Windows per axis. With ``ceil_mode`` the last window still starts inside the input or its low padding."""
        out = []
        for n, k, s, d, (low, high) in zip(size, self.kernel, self.stride, self.dilation, self.padding, strict=True):
            room = n + low + high - window_extent(k, d)
            count = -(-room // s) + 1 if self.ceil_mode else room // s + 1
            if self.ceil_mode and (count - 1) * s >= n + low:
                count -= 1
            out.append(count)
        return tuple(out)


def broadcast_shape(*shapes: Sizes) -> Sizes:
    """NumPy's broadcasting rule.

    >>> broadcast_shape((3, 1), (4,))
    (3, 4)
    """
    out: list[int] = []
    for axis in range(1, max(map(len, shapes), default=0) + 1):
        sizes = {s[-axis] for s in shapes if len(s) >= axis} - {1}
        if len(sizes) > 1:
            raise ShapeError(
                f"shapes {', '.join(map(str, shapes))} do not broadcast: axis {-axis} has sizes {sorted(sizes)}"
            )
        out.append(sizes.pop() if sizes else 1)
    return tuple(reversed(out))
