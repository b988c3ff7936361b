"""A convolution of a signal that comes in chunks: what is left over of one goes with the next.

The state is a value that the caller holds, so a stream can be saved, copied, or taken up elsewhere. Outputs of the
chunks, joined, are those of the joined chunks, up to the rounding of their sums.

::

    x         chunk 1      | chunk 2      | …         kernel 3, stride 1, causal
    0 0 x x x x x x x x x x|x x x x x x x
    [carry] [outputs of 1 ] [carry]                   the last two samples heard go with the next chunk
"""

from __future__ import annotations

import numpy as np

from lucid.core.errors import ShapeError
from lucid.core.geometry import Sizes, window_extent
from lucid.nn.functional._arguments import Padding, as_pairs
from lucid.nn.functional.convolution import convolve, convolve_transposed
from lucid.ops.checked import check_tensor
from lucid.ops.shape import cat
from lucid.tensor import Tensor


def lead_in(caller: str, padding: Padding, padding_mode: str, kernel: Sizes, stride: Sizes, dilation: Sizes) -> int:
    """How many zeros come before the first sample of a stream.

    Raises: ShapeError if an output needs a later sample than those of its kernel, or samples between kernels are lost.
    """
    extent = window_extent(kernel[0], dilation[0])
    if stride[0] > extent:
        raise ShapeError(
            f"{caller}: a stream needs a stride of at most dilation * (kernel_size - 1) + 1 = {extent}, not {stride[0]}"
        )
    if padding == "causal":
        low, high = extent - 1, 0
    elif padding == "valid":
        low, high = 0, 0
    elif padding == "same":
        low, high = -1, -1
    else:
        ((low, high),) = as_pairs(padding)
    if high or (low and padding_mode != "zeros"):
        raise ShapeError(
            f"{caller}: a stream knows no end to pad, so padding={padding!r} with {padding_mode!r} must be 'causal', "
            "0 or ((low, 0),) with 'zeros'"
        )
    return low


def conv1d_step(
    caller: str, chunk: Tensor, carry: Tensor, weight: Tensor, bias: Tensor | None, stride: Sizes, dilation: Sizes,
    groups: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The outputs that a chunk completes, none if it is short, and the samples that later outputs need."""
    channels = weight.shape[1] * groups
    _check_alike(caller, chunk, carry, (channels, channels))
    heard = cat([carry, chunk], -1)
    extent = window_extent(weight.shape[2], dilation[0])
    count = max((heard.shape[-1] - extent) // stride[0] + 1, 0)
    if count == 0:
        return Tensor(np.empty((*chunk.shape[:-2], weight.shape[0], 0), chunk.dtype.numpy)), heard
    used = heard[..., : (count - 1) * stride[0] + extent]
    y = convolve(caller, 1, used, weight, bias, stride, (0,), dilation, groups, "zeros")
    return y, heard[..., count * stride[0] :]


def conv_transpose1d_step(
    caller: str, chunk: Tensor, carry: Tensor, weight: Tensor, bias: Tensor | None, stride: Sizes, dilation: Sizes,
    groups: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``stride`` outputs for every sample of a chunk, and the sums that later samples add to."""
    _check_alike(caller, chunk, carry, (weight.shape[0], weight.shape[1] * groups))
    if chunk.shape[-1] == 0:
        return Tensor(np.empty((*carry.shape[:-1], 0), chunk.dtype.numpy)), carry
    sums = convolve_transposed(caller, 1, chunk, weight, None, stride, (0,), (0,), dilation, groups, "zeros", None)
    made, left = chunk.shape[-1] * stride[0], carry.shape[-1]
    sums = cat([sums[..., :left] + carry, sums[..., left:]], -1) if left else sums
    y = sums[..., :made]
    return y if bias is None else y + bias.reshape(-1, 1), sums[..., made:]


def _check_alike(caller: str, chunk: Tensor, carry: Tensor, channels: tuple[int, int]) -> None:
    check_tensor(caller, "chunk", chunk)
    check_tensor(caller, "carry", carry)
    found = chunk.shape[-2:-1] + carry.shape[-2:-1]
    if carry.ndim not in (2, 3) or chunk.shape[:-2] != carry.shape[:-2] or found != channels:
        raise ShapeError(
            f"{caller}: the chunk {chunk.shape} and the carry {carry.shape} must have the same batch and "
            f"{channels[0]} and {channels[1]} channels, the carry from initial_state(batch) or from the chunk before"
        )
