"""Pooling: maximum and average over windows."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

from lucid.core.geometry import PoolSpec, Sizes
from lucid.nn.functional._arguments import AXES, SizeArgument, an_int, as_pairs, integer, sizes
from lucid.nn.functional._geometry import PoolCall, check_image, pool_call
from lucid.ops import pool as ops
from lucid.ops.checked import check_tensor
from lucid.tensor import Tensor

Pooled = Tensor | tuple[Tensor, Tensor]

#: Samples of a window up to which the ordinary pooling, a pass for each, is quicker than to look for their places.
_FEW_TAPS = 25


def _call(
    caller: str, rank: int, x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> PoolCall:
    kernel = sizes(caller, "kernel_size", kernel, rank)
    stride = kernel if stride is None else sizes(caller, "stride", stride, rank)
    pads = as_pairs(sizes(caller, "padding", padding, rank, least=0))
    dilation = sizes(caller, "dilation", dilation, rank)
    return pool_call(caller, rank, x.shape, kernel, stride, pads, dilation, bool(ceil_mode))


def max_pool(
    caller: str, rank: int, input: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
    ceil_mode: bool, return_indices: bool,
) -> Pooled:  # fmt: skip
    """Maximum pooling of any rank; ``caller`` is the name errors give."""
    check_tensor(caller, "input", input)
    spec = _call(caller, rank, input, kernel_size, stride, padding, dilation, ceil_mode).spec
    result = ops.max_pool(input, spec)
    return (result, ops.max_pool_indices(input, spec)) if return_indices else result


def avg_pool(
    caller: str, rank: int, input: Tensor, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None,
) -> Tensor:  # fmt: skip
    """Average pooling of any rank; ``caller`` is the name errors give."""
    check_tensor(caller, "input", input)
    spec = _call(caller, rank, input, kernel_size, stride, padding, 1, ceil_mode).spec
    divisor = None if divisor_override is None else integer(caller, "divisor_override", divisor_override, 1)
    return ops.avg_pool(input, spec, count_include_pad, divisor)


def adaptive_avg_pool(caller: str, rank: int, input: Tensor, output_size: Any) -> Tensor:
    """Adaptive average pooling of any rank; ``caller`` is the name errors give."""
    check_tensor(caller, "input", input)
    check_image(caller, rank, input.shape)
    wanted = _wanted(caller, rank, output_size, input.shape[-rank:])
    if set(wanted) == {1}:
        result: Tensor = input.mean(tuple(range(-rank, 0)), keepdim=True)
        return result
    spec = _even_windows(input.shape[-rank:], wanted)
    return ops.adaptive_avg_pool(input, wanted) if spec is None else ops.avg_pool(input, spec)


def adaptive_max_pool(caller: str, rank: int, input: Tensor, output_size: Any, return_indices: bool) -> Pooled:
    """Adaptive maximum pooling of any rank; ``caller`` is the name errors give."""
    check_tensor(caller, "input", input)
    check_image(caller, rank, input.shape)
    wanted = _wanted(caller, rank, output_size, input.shape[-rank:])
    spec = None if return_indices else _even_windows(input.shape[-rank:], wanted)
    if spec is not None and prod(spec.kernel) <= _FEW_TAPS:
        return ops.max_pool(input, spec)
    indices = ops.adaptive_max_indices(input, wanted)
    flat = input.reshape(*input.shape[:-rank], -1)
    result = flat.gather(-1, indices.reshape(*indices.shape[:-rank], -1)).reshape(indices.shape)
    return (result, indices) if return_indices else result


def max_pool1d(
    input: Tensor, kernel_size: SizeArgument, stride: SizeArgument | None = None, padding: SizeArgument = 0,
    dilation: SizeArgument = 1, ceil_mode: bool = False, return_indices: bool = False,
) -> Pooled:  # fmt: skip
    """The largest sample of each window; ``stride`` defaults to ``kernel_size``. Padding never wins.

    Shape:
        input (N, C, L) or (C, L), result (N, C, L_out),
        L_out = floor((L + 2 padding - dilation (kernel_size - 1) - 1) / stride) + 1, or the ceiling with ``ceil_mode``.

    >>> max_pool1d(Tensor([[1.0, 3.0, 2.0, 5.0]]), 2)
    Tensor([[3., 5.]])
    """
    return max_pool("max_pool1d", 1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Tensor, kernel_size: SizeArgument, stride: SizeArgument | None = None, padding: SizeArgument = 0,
    dilation: SizeArgument = 1, ceil_mode: bool = False, return_indices: bool = False,
) -> Pooled:  # fmt: skip
    """As ``max_pool1d`` for images; indices are flat, h W + w."""
    return max_pool("max_pool2d", 2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Tensor, kernel_size: SizeArgument, stride: SizeArgument | None = None, padding: SizeArgument = 0,
    dilation: SizeArgument = 1, ceil_mode: bool = False, return_indices: bool = False,
) -> Pooled:  # fmt: skip
    """As ``max_pool1d`` for volumes; indices are flat, (d H + h) W + w."""
    return max_pool("max_pool3d", 3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def avg_pool1d(
    input: Tensor, kernel_size: SizeArgument, stride: SizeArgument | None = None, padding: SizeArgument = 0,
    ceil_mode: bool = False, count_include_pad: bool = True,
) -> Tensor:  # fmt: skip
    """The mean of each window; ``count_include_pad`` says whether the zeros of the padding count.

    >>> avg_pool1d(Tensor([[1.0, 3.0, 2.0, 6.0]]), 2)
    Tensor([[2., 4.]])
    """
    return avg_pool("avg_pool1d", 1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input: Tensor, kernel_size: SizeArgument, stride: SizeArgument | None = None, padding: SizeArgument = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """As ``avg_pool1d`` for images; ``divisor_override`` replaces the count."""
    return avg_pool(
        "avg_pool2d", 2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def avg_pool3d(
    input: Tensor, kernel_size: SizeArgument, stride: SizeArgument | None = None, padding: SizeArgument = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """As ``avg_pool1d`` for volumes; ``divisor_override`` replaces the count."""
    return avg_pool(
        "avg_pool3d", 3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def adaptive_avg_pool1d(input: Tensor, output_size: SizeArgument) -> Tensor:
    """Means over ``output_size`` windows that cover the signal: window i is floor(i L / out) to ceil((i + 1) L / out).

    >>> adaptive_avg_pool1d(Tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]), 2)
    Tensor([[2., 4.]])
    """
    return adaptive_avg_pool("adaptive_avg_pool1d", 1, input, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """As ``adaptive_avg_pool1d`` for images; None keeps the size of an axis."""
    return adaptive_avg_pool("adaptive_avg_pool2d", 2, input, output_size)


def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """As ``adaptive_avg_pool1d`` for volumes; None keeps the size of an axis."""
    return adaptive_avg_pool("adaptive_avg_pool3d", 3, input, output_size)


def adaptive_max_pool1d(input: Tensor, output_size: SizeArgument, return_indices: bool = False) -> Pooled:
    """The largest sample of each of ``output_size`` windows, as in ``adaptive_avg_pool1d``."""
    return adaptive_max_pool("adaptive_max_pool1d", 1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Pooled:
    """As ``adaptive_max_pool1d`` for images."""
    return adaptive_max_pool("adaptive_max_pool2d", 2, input, output_size, return_indices)


def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Pooled:
    """As ``adaptive_max_pool1d`` for volumes."""
    return adaptive_max_pool("adaptive_max_pool3d", 3, input, output_size, return_indices)


def _wanted(caller: str, rank: int, value: Any, size: Sizes) -> Sizes:
    """The output size, with the input's own where None is given."""
    entries = (value,) * rank if value is None or an_int(value) else value
    if not isinstance(entries, (tuple, list)) or len(entries) != rank:
        raise TypeError(
            f"{caller}: output_size={value!r} must be an int, None, or a tuple of one each per axis {AXES[rank]}"
        )
    return tuple(
        n if entry is None else integer(caller, "output_size", entry, 1) for entry, n in zip(entries, size, strict=True)
    )


@lru_cache
def _even_windows(size: Sizes, wanted: Sizes) -> PoolSpec | None:
    """The ordinary pooling that gives ``wanted`` windows, if they come out even."""
    if any(n % o for n, o in zip(size, wanted, strict=True)):
        return None
    kernel = tuple(n // o for n, o in zip(size, wanted, strict=True))
    return PoolSpec(kernel, kernel, (1,) * len(size), ((0, 0),) * len(size))
