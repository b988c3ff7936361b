"""What one call of a convolution or a pooling will do, worked out from shapes alone: every user error is raised here.

The two ``…_call`` functions are cached: a layer that sees the same shapes again pays for one look-up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from lucid.core.dtypes import DType, of_numpy
from lucid.core.errors import DTypeError, ShapeError
from lucid.core.geometry import ConvSpec, Pads, PoolSpec, Sizes, window_extent
from lucid.kernels import Call, call_of
from lucid.nn.functional._arguments import AXES, Padding, as_pairs, same_pads

CACHED_CALLS = 4096
#: What is known of input, weight and bias: their shapes, and the element type of all.
Operands = tuple[Sizes, Sizes, Sizes | None, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class ConvCall:
    """A convolution of one input shape: the zero-padded ``spec`` and what has to happen around it."""

    spec: ConvSpec
    is_batched: bool
    around: Pads | None = None  # padding that another mode than zeros adds before (transposed: folds back after)
    size: Sizes = ()  # transposed only: spatial size that the adjoint makes
    tail: Pads | None = None  # transposed only: positions that no tap reaches, appended as zeros
    direct: Call | None = None  # the kernels' own, where nothing has to happen around it
    made: Sizes = ()  # not transposed only: shape of the result of a batch


@dataclass(frozen=True, slots=True)
class PoolCall:
    """A pooling of one input shape."""

    spec: PoolSpec
    is_batched: bool


def check_channels(caller: str, in_channels: int, out_channels: int, groups: int) -> None:
    """Groups must divide both channel counts."""
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels % groups:
            raise ShapeError(f"{caller}: {name}={channels} must be a multiple of groups={groups}")


def resolved_pads(padding: Padding, size: Sizes, kernel: Sizes, stride: Sizes, dilation: Sizes) -> Pads:
    """The padding of a convolution whose input has ``size``."""
    if padding == "same":
        return same_pads(size, kernel, stride, dilation)
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding == "causal":
        return tuple((window_extent(k, d) - 1, 0) for k, d in zip(kernel, dilation, strict=True))
    return as_pairs(padding)


def transposed_pads(padding: Padding, kernel: Sizes, stride: Sizes, dilation: Sizes) -> tuple[Pads, Sizes | None]:
    """The padding of a transposed convolution, and the ``output_padding`` that a word fixes.

    ``"same"`` and ``"causal"`` both make size * stride outputs: they cut d(k - 1) + 1 - s samples, or add them where
    the kernel is shorter than the stride. ``"same"`` is the adjoint of the convolution's, the extra one on the right;
    ``"causal"`` cuts on the right, so that no output depends on a later input.
    """
    if padding == "valid":
        return ((0, 0),) * len(kernel), None
    if isinstance(padding, str):
        excess = tuple(window_extent(k, d) - s for k, d, s in zip(kernel, dilation, stride, strict=True))
        lows = (max(e, 0) // 2 if padding == "same" else 0 for e in excess)
        pads = tuple((low, max(e, 0) - low) for low, e in zip(lows, excess, strict=True))
        return pads, tuple(max(-e, 0) for e in excess)
    return as_pairs(padding), None


@lru_cache(CACHED_CALLS)
def conv_call(
    caller: str,
    rank: int,
    operands: Operands,
    stride: Sizes,
    padding: Padding,
    dilation: Sizes,
    groups: int,
    padding_mode: str,
) -> ConvCall:
    """Check a convolution of such shapes and resolve its padding. The weight is (C_out, C_in/groups, *kernel)."""
    x, w, bias, dtype = operands
    _check_weight(caller, rank, w, "C_out, C_in/groups")
    kernel, size = w[2:], x[-rank:]
    check_channels(caller, w[1] * groups, w[0], groups)
    _check_input(caller, rank, x, w[1] * groups, f"weight {w} with groups={groups}")
    _check_bias(caller, bias, w[0])
    _check_dtype(caller, dtype)
    pads = resolved_pads(padding, size, kernel, stride, dilation)
    _check_kernel_fits(caller, size, kernel, dilation, pads)
    spec = ConvSpec(kernel, stride, dilation, pads, groups)
    is_batched = len(x) == rank + 2
    made = (x[0] if is_batched else 1, w[0], *spec.out_size(size))
    if padding_mode == "zeros" or not any(map(any, pads)):
        direct = call_of("forward", spec, x, w, (), dtype, bias is not None) if is_batched else None
        return ConvCall(spec, is_batched, direct=direct, made=made)
    check_pads_fit(caller, padding_mode, size, pads)
    return ConvCall(replace(spec, padding=((0, 0),) * rank), is_batched, around=pads, made=made)


@lru_cache(CACHED_CALLS)
def conv_transpose_call(
    caller: str,
    rank: int,
    operands: Operands,
    stride: Sizes,
    padding: Padding,
    output_padding: Sizes,
    dilation: Sizes,
    groups: int,
    padding_mode: str,
    output_size: Sizes | None,
) -> ConvCall:
    """Check a transposed convolution and find its output size. The weight is (C_in, C_out/groups, *kernel)."""
    x, w, bias, dtype = operands
    _check_weight(caller, rank, w, "C_in, C_out/groups")
    kernel, size = w[2:], x[-rank:]
    check_channels(caller, w[0], w[1] * groups, groups)
    _check_input(caller, rank, x, w[0], f"weight {w}")
    _check_bias(caller, bias, w[1] * groups)
    _check_dtype(caller, dtype)
    check_output_padding(caller, padding, output_padding, stride, dilation)
    pads, fixed = transposed_pads(padding, kernel, stride, dilation)
    spec = ConvSpec(kernel, stride, dilation, pads, groups)
    least = spec.transposed_size(size)
    extra = fixed or output_padding
    if output_size is not None:
        extra = _output_padding_for(caller, least, output_size, stride, dilation)
    made = tuple(n + e for n, e in zip(least, extra, strict=True))
    _check_transposed_size(caller, size, made, extra, spec)
    is_batched = len(x) == rank + 2
    if padding_mode != "zeros" and any(map(any, pads)):
        check_pads_fit(caller, padding_mode, made, pads)
        made = tuple(n + low + high for n, (low, high) in zip(made, pads, strict=True))
        return _without_tail(replace(spec, padding=((0, 0),) * rank), is_batched, pads, made, extra)
    call = _without_tail(spec, is_batched, None, made, extra)
    if not is_batched or call.tail is not None:
        return call
    direct = call_of("grad_input", call.spec, x, w, call.size, dtype, bias is not None)
    return replace(call, direct=direct)


@lru_cache(CACHED_CALLS)
def pool_call(
    caller: str, rank: int, shape: Sizes, kernel: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, ceil_mode: bool
) -> PoolCall:
    """Check a pooling."""
    check_image(caller, rank, shape)
    check_pool_padding(caller, padding, kernel, dilation)
    spec = PoolSpec(kernel, stride, dilation, padding, ceil_mode)
    size = shape[-rank:]
    if min(spec.out_size(size)) < 1:
        _check_kernel_fits(caller, size, kernel, dilation, padding)
    return PoolCall(spec, len(shape) == rank + 2)


def check_image(caller: str, rank: int, shape: Sizes) -> None:
    """The input must be (N, C, *size) or (C, *size) with samples along every axis."""
    _check_rank(caller, rank, shape)
    _check_not_empty(caller, rank, shape)


def check_pool_padding(caller: str, padding: Pads, kernel: Sizes, dilation: Sizes) -> None:
    """A window must hold at least one sample of the input."""
    for (low, high), k, d in zip(padding, kernel, dilation, strict=True):
        if max(low, high) > window_extent(k, d) // 2:
            raise ShapeError(
                f"{caller}: padding={max(low, high)} must be at most half of the window, "
                f"{window_extent(k, d)} samples for kernel_size={k} and dilation={d}"
            )


def check_output_padding(caller: str, padding: Padding, output_padding: Sizes, stride: Sizes, dilation: Sizes) -> None:
    """``output_padding`` picks among the sizes that the convolution would have brought to one."""
    if padding in ("same", "causal"):
        if any(output_padding):
            raise ShapeError(
                f"{caller}: output_padding={output_padding} must be 0 with padding={padding!r}, "
                "which already gives input size * stride"
            )
        return
    for extra, s, d in zip(output_padding, stride, dilation, strict=True):
        if extra >= max(s, d):
            raise ShapeError(
                f"{caller}: output_padding={extra} must be in 0 … {max(s, d) - 1}, "
                f"less than the larger of stride={s} and dilation={d}"
            )


def check_pads_fit(caller: str, mode: str, size: Sizes, pads: Pads) -> None:
    """A reflection needs more samples than it adds, a circle at least as many."""
    spare = {"reflect": 1, "circular": 0}.get(mode)
    if spare is None:
        return
    for axis, n, (low, high) in zip(AXES[len(size)], size, pads, strict=True):
        if max(low, high) + spare > n:
            rule = "less than" if spare else "at most"
            raise ShapeError(
                f"{caller}: padding ({low}, {high}) along {axis} must be {rule} its {n} samples for {mode!r} padding"
            )


def _without_tail(spec: ConvSpec, is_batched: bool, around: Pads | None, size: Sizes, extra: Sizes) -> ConvCall:
    """The convolution of as many outputs as there are inputs here, which output_padding >= stride would make more.

    Padding on the right is taken back first: what it left out are outputs that taps reach. Those past the last tap are
    zeros that no convolution sees.
    """
    over = tuple(max(e - (s - 1), 0) for e, s in zip(extra, spec.stride, strict=True))
    pads = tuple((low, max(high - o, 0)) for (low, high), o in zip(spec.padding, over, strict=True))
    tail = tuple((0, max(o - high, 0)) for (_, high), o in zip(spec.padding, over, strict=True))
    made = tuple(n - o for n, (_, o) in zip(size, tail, strict=True))
    return ConvCall(replace(spec, padding=pads), is_batched, around, made, tail if any(map(any, tail)) else None)


def _output_padding_for(caller: str, least: Sizes, wanted: Sizes, stride: Sizes, dilation: Sizes) -> Sizes:
    extra = tuple(n - m for n, m in zip(wanted, least, strict=True))
    for axis, n, m, e, s, d in zip(AXES[len(least)], wanted, least, extra, stride, dilation, strict=True):
        most = max(s, d) - 1
        if not 0 <= e <= most:
            raise ShapeError(
                f"{caller}: output_size={n} along {axis} would take output_padding={e}; "
                f"valid is 0 … {most}, which gives sizes {m} … {m + most}"
            )
    return extra


def _check_transposed_size(caller: str, size: Sizes, made: Sizes, extra: Sizes, spec: ConvSpec) -> None:
    for i, axis in enumerate(AXES[spec.rank]):
        if made[i] < 1:
            n, s, d, k, (low, high) = size[i], spec.stride[i], spec.dilation[i], spec.kernel[i], spec.padding[i]
            raise ShapeError(
                f"{caller}: no output along {axis}: (size - 1) * stride - padding + dilation * (kernel_size - 1) + 1 "
                f"+ output_padding = ({n} - 1) * {s} - ({low} + {high}) + {d} * ({k} - 1) + 1 + {extra[i]} = {made[i]}"
            )


def _check_kernel_fits(caller: str, size: Sizes, kernel: Sizes, dilation: Sizes, pads: Pads) -> None:
    for axis, n, k, d, (low, high) in zip(AXES[len(size)], size, kernel, dilation, pads, strict=True):
        if window_extent(k, d) > n + low + high:
            raise ShapeError(
                f"{caller}: the kernel is larger than the padded input along {axis}: "
                f"dilation * (kernel_size - 1) + 1 = {d} * ({k} - 1) + 1 = {window_extent(k, d)} samples, "
                f"but size + padding = {n} + {low} + {high} = {n + low + high}"
            )


def _check_input(caller: str, rank: int, shape: Sizes, channels: int, reason: str) -> None:
    _check_rank(caller, rank, shape)
    axis = len(shape) - rank - 1
    if shape[axis] != channels:
        hint = ""
        if shape[-1] == channels:
            hint = f"; it looks channels-last: input.movedim(-1, {axis}) has the channels where they belong"
        elif axis == 0:
            hint = f"; it was read as one sample (C, {', '.join(AXES[rank])}), since it has only {rank + 1} axes"
            if channels == 1:
                hint += ": input.unsqueeze(1) makes it samples of one channel"
        raise ShapeError(
            f"{caller}: the input {shape} has {shape[axis]} channels (axis {axis}), but {reason} takes {channels}{hint}"
        )
    _check_not_empty(caller, rank, shape)


def _check_rank(caller: str, rank: int, shape: Sizes) -> None:
    if len(shape) not in (rank + 1, rank + 2):
        axes = ", ".join(AXES[rank])
        raise ShapeError(
            f"{caller}: the input {shape} has {len(shape)} axes, but must have {rank + 2} (N, C, {axes}) "
            f"or {rank + 1} (C, {axes})"
        )


def _check_not_empty(caller: str, rank: int, shape: Sizes) -> None:
    for axis, n in zip(AXES[rank], shape[-rank:], strict=True):
        if n == 0:
            raise ShapeError(f"{caller}: the input {shape} has no samples along {axis}; only the batch may be empty")


def _check_weight(caller: str, rank: int, shape: Sizes, form: str) -> None:
    if len(shape) != rank + 2 or 0 in shape:
        kernel = "K" if rank == 1 else ", ".join(f"K_{axis.lower()}" for axis in AXES[rank])
        raise ShapeError(f"{caller}: the weight {shape} must have the shape ({form}, {kernel}), each at least 1")


def _check_bias(caller: str, bias: Sizes | None, channels: int) -> None:
    if bias is not None and bias != (channels,):
        raise ShapeError(f"{caller}: the bias {bias} must have the shape ({channels},), one per output channel")


def _check_dtype(caller: str, dtype: np.dtype[Any]) -> None:
    known = of_numpy(dtype)
    if not known.is_differentiable:
        raise DTypeError(f"{caller}: the input is {known.name}; a convolution takes floating-point or complex numbers")


def check_alike(caller: str, x: np.dtype[Any], weight: np.dtype[Any], bias: np.dtype[Any] | None) -> None:
    """Weight and bias must have the input's element type."""
    wanted = of_numpy(x)
    for name, given in (("weight", weight), ("bias", bias)):
        if given is not None and given != x:
            other = of_numpy(given)
            raise DTypeError(
                f"{caller}: the input is {wanted.name} and the {name} {other.name}; they must be the same: "
                + _mended(name, wanted, other)
            )


def _mended(name: str, wanted: DType, other: DType) -> str:
    """How an element type that is unlike the input's is made like it."""
    if name == "bias":
        return f"convert the bias with .to({wanted})"
    layer = f" or the layer with .to({wanted})" if wanted.is_differentiable else ""
    return f"convert the input with .to({other}){layer}"
