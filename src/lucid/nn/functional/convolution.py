"""Convolutions and their transposes over one, two and three spatial axes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from lucid.autograd.mode import mode
from lucid.core.errors import ShapeError
from lucid.core.geometry import Sizes
from lucid.nn.functional._arguments import (
    Padding,
    PaddingArgument,
    SizeArgument,
    integer,
    padding_mode,
    paddings,
    sizes,
)
from lucid.nn.functional._geometry import (
    CACHED_CALLS,
    ConvCall,
    Operands,
    check_alike,
    conv_call,
    conv_transpose_call,
)
from lucid.ops.autocast import CONTEXTS, lowered
from lucid.ops.checked import check_tensor
from lucid.ops.conv import Finish, conv, conv_computed, conv_grad_input, finished_conv, finished_conv_grad_input
from lucid.ops.pad import pad, pad_adjoint
from lucid.tensor import Tensor


def convolve(
    caller: str,
    rank: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Padding,
    dilation: Sizes,
    groups: int,
    padding_mode: str,
    finish: Finish | None = None,
) -> Tensor:
    """A convolution whose arguments are already in their one form; ``caller`` is the name errors give."""
    if CONTEXTS:
        x, weight, bias = lowered(x, weight, bias)
    call = conv_call(caller, rank, _operands(caller, x, weight, bias), stride, padding, dilation, groups, padding_mode)
    return _convolved(caller, call, x, weight, bias, padding_mode, finish)


def _convolved(
    caller: str, call: ConvCall, x: Tensor, weight: Tensor, bias: Tensor | None, mode: str, finish: Finish | None
) -> Tensor:
    if call.direct is not None and finish is None:
        y: Tensor = conv(x, weight, bias, spec=call.spec, call=call.direct)
        return y
    batch = x if call.is_batched else x.unsqueeze(0)
    if call.around is not None:
        batch = pad(batch, pads=call.around, mode=mode)
    if finish is None:
        y = conv(batch, weight, bias, spec=call.spec)
    else:
        finish = _fitting(caller, finish, call.made, call.is_batched)
        y = finished_conv(batch, weight, bias, finish, spec=call.spec, call=call.direct)
    return y if call.is_batched else y.squeeze(0)


def convolve_transposed(
    caller: str,
    rank: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Padding,
    output_padding: Sizes,
    dilation: Sizes,
    groups: int,
    padding_mode: str,
    output_size: Sizes | None,
    finish: Finish | None = None,
) -> Tensor:
    """The adjoint of ``convolve``, its padding mode included, and then the bias."""
    if CONTEXTS:
        x, weight, bias = lowered(x, weight, bias)
    call = conv_transpose_call(
        caller, rank, _operands(caller, x, weight, bias), stride, padding, output_padding, dilation, groups,
        padding_mode, output_size,
    )  # fmt: skip
    return _transposed(caller, call, x, weight, bias, padding_mode, finish)


def _transposed(
    caller: str, call: ConvCall, x: Tensor, weight: Tensor, bias: Tensor | None, mode: str, finish: Finish | None
) -> Tensor:
    if call.direct is not None and finish is None:
        y: Tensor = conv_grad_input(x, weight, bias, spec=call.spec, size=call.size, call=call.direct)
        return y
    batch = x if call.is_batched else x.unsqueeze(0)
    bias_is_last = call.around is not None or call.tail is not None
    if finish is not None and not bias_is_last:
        made = (batch.shape[0], weight.shape[1] * call.spec.groups, *call.size)
        finish = _fitting(caller, finish, made, call.is_batched)
        y = finished_conv_grad_input(batch, weight, bias, finish, spec=call.spec, size=call.size)
        return y if call.is_batched else y.squeeze(0)
    y = conv_grad_input(batch, weight, None if bias_is_last else bias, spec=call.spec, size=call.size)
    if call.tail is not None:
        y = pad(y, pads=call.tail, mode="zeros")
    if call.around is not None:
        y = pad_adjoint(y, pads=call.around, mode=mode)
    if bias_is_last and bias is not None:
        y = y + bias.reshape(-1, *(1,) * call.spec.rank)
    if finish is not None:
        y = _fitting(caller, finish, y.shape, call.is_batched).in_steps(y)
    return y if call.is_batched else y.squeeze(0)


def _fitting(caller: str, finish: Finish, made: Sizes, is_batched: bool) -> Finish:
    """The finish of a batch of results, after a check of its tensors' shapes."""
    if not finish.has_operands:
        return finish
    finish = Finish(finish.epilogue, *lowered(*finish[1:]))
    each, shown = made[1:2], made if is_batched else made[1:]
    _, scale, shift, residual = finish
    for name, given, shape in (("scale", scale, each), ("shift", shift, each), ("residual", residual, shown)):
        if given is not None and given.shape != shape:
            raise ShapeError(f"{caller}: {name} {given.shape} must be {shape} for a result of {shown}")
    if is_batched or finish.residual is None:
        return finish
    return finish._replace(residual=finish.residual.unsqueeze(0))


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: SizeArgument = 1,
    padding: PaddingArgument = 0,
    dilation: SizeArgument = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolution of signals; each output channel is a sum of the input channels of its group, filtered.

    "Convolution" is cross-correlation: the kernel is not reversed. ``padding`` is samples on both sides, ``"valid"``
    (none), ``"same"`` (ceil(L / stride) outputs, the extra sample on the right), ``"causal"`` (all on the left: no
    output sees a later input) or ``((low, high),)``. ``padding_mode`` says what they hold: ``"zeros"``, ``"reflect"``,
    ``"replicate"`` or ``"circular"``.

    Shape:
        input (N, C_in, L) or (C_in, L), weight (C_out, C_in/groups, K), bias (C_out,), result (N, C_out, L_out):
        L_out = floor((L + low + high - dilation (K - 1) - 1) / stride) + 1.
    Cost:
        2 N C_out L_out K C_in / groups flops.
    Source:
        Dumoulin & Visin, arXiv:1603.07285.

    >>> conv1d(Tensor([[[1.0, 2.0, 3.0, 4.0]]]), Tensor([[[5.0, 6.0]]]))
    Tensor([[[17., 28., 39.]]])
    """
    return conv_of("conv1d", 1, input, weight, bias, stride, padding, dilation, groups, padding_mode)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: SizeArgument = 1,
    padding: PaddingArgument = 0,
    dilation: SizeArgument = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolution of images. As ``conv1d``, per axis; there is no ``"causal"``.

    Shape:
        input (N, C_in, H, W) or (C_in, H, W), weight (C_out, C_in/groups, K_h, K_w), result (N, C_out, H_out, W_out).

    >>> x = Tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]]])
    >>> conv2d(x, Tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).tolist()
    [[[[37.0, 47.0], [67.0, 77.0]]]]
    """
    return conv_of("conv2d", 2, input, weight, bias, stride, padding, dilation, groups, padding_mode)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: SizeArgument = 1,
    padding: PaddingArgument = 0,
    dilation: SizeArgument = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolution of volumes. As ``conv2d`` with a depth axis.

    Shape:
        input (N, C_in, D, H, W) or (C_in, D, H, W), weight (C_out, C_in/groups, K_d, K_h, K_w).
    """
    return conv_of("conv3d", 3, input, weight, bias, stride, padding, dilation, groups, padding_mode)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: SizeArgument = 1,
    padding: PaddingArgument = 0,
    output_padding: SizeArgument = 0,
    groups: int = 1,
    dilation: SizeArgument = 1,
    padding_mode: str = "zeros",
    output_size: SizeArgument | None = None,
) -> Tensor:
    """The adjoint of ``conv1d``: every input sample adds the kernel, times its value, to the output.

    Several input sizes of the convolution give the same output size; ``output_padding`` (less than the larger of stride
    and dilation) or ``output_size`` picks one. ``"same"`` and ``"causal"`` give L * stride outputs. With a
    ``padding_mode`` other than zeros it is the exact adjoint of the convolution with that mode: what would have been
    read in the padding is added back where it was copied from.

    Shape:
        input (N, C_in, L) or (C_in, L), weight (C_in, C_out/groups, K), bias (C_out,), result (N, C_out, L_out):
        L_out = (L - 1) stride - low - high + dilation (K - 1) + 1 + output_padding.
    Cost:
        2 N C_in L K C_out / groups flops.

    >>> conv_transpose1d(Tensor([[[1.0, 2.0, 3.0]]]), Tensor([[[1.0, 0.5]]])).tolist()
    [[[1.0, 2.5, 4.0, 1.5]]]
    """
    return conv_transpose_of(
        "conv_transpose1d", 1, input, weight, bias, stride, padding, output_padding, groups, dilation, padding_mode,
        output_size,
    )  # fmt: skip


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: SizeArgument = 1,
    padding: PaddingArgument = 0,
    output_padding: SizeArgument = 0,
    groups: int = 1,
    dilation: SizeArgument = 1,
    padding_mode: str = "zeros",
    output_size: SizeArgument | None = None,
) -> Tensor:
    """The adjoint of ``conv2d``. As ``conv_transpose1d``, per axis.

    Shape:
        input (N, C_in, H, W) or (C_in, H, W), weight (C_in, C_out/groups, K_h, K_w), result (N, C_out, H_out, W_out).
    """
    return conv_transpose_of(
        "conv_transpose2d", 2, input, weight, bias, stride, padding, output_padding, groups, dilation, padding_mode,
        output_size,
    )  # fmt: skip


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: SizeArgument = 1,
    padding: PaddingArgument = 0,
    output_padding: SizeArgument = 0,
    groups: int = 1,
    dilation: SizeArgument = 1,
    padding_mode: str = "zeros",
    output_size: SizeArgument | None = None,
) -> Tensor:
    """The adjoint of ``conv3d``. As ``conv_transpose1d``, per axis.

    Shape:
        input (N, C_in, D, H, W) or (C_in, D, H, W), weight (C_in, C_out/groups, K_d, K_h, K_w).
    """
    return conv_transpose_of(
        "conv_transpose3d", 3, input, weight, bias, stride, padding, output_padding, groups, dilation, padding_mode,
        output_size,
    )  # fmt: skip


def target_size(caller: str, rank: int, value: Any) -> Sizes | None:
    """``output_size`` as one int per axis; the batch and channel axes may stand before them."""
    if isinstance(value, (tuple, list)) and len(value) in (rank + 1, rank + 2):
        value = tuple(value)[-rank:]
    return None if value is None else sizes(caller, "output_size", value, rank)


def conv_of(
    caller: str, rank: int, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any,
    groups: Any, padding_mode: Any, finish: Finish | None = None,
) -> Tensor:  # fmt: skip
    """A convolution of arguments as users write them."""
    if CONTEXTS:
        x, weight, bias = lowered(x, weight, bias)
    find = _call_again if _plain(stride, dilation, groups, padding, padding_mode) else _call_of
    call = find(caller, rank, _operands(caller, x, weight, bias), stride, padding, dilation, groups, padding_mode)
    if call.direct is not None and finish is None and not mode.recording:  # as in there, for a call that is short
        y: Tensor = conv_computed(call.direct, x, weight, bias)
        return y
    return _convolved(caller, call, x, weight, bias, padding_mode, finish)


def conv_transpose_of(
    caller: str, rank: int, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any,
    output_padding: Any, groups: Any, dilation: Any, mode: Any, output_size: Any, finish: Finish | None = None,
) -> Tensor:  # fmt: skip
    """A transposed convolution of arguments as users write them."""
    plain = _plain(stride, dilation, groups, padding, mode) and type(output_padding) is int and output_size is None
    if CONTEXTS:
        x, weight, bias = lowered(x, weight, bias)
    find = _transposed_call_again if plain else _transposed_call_of
    call = find(
        caller, rank, _operands(caller, x, weight, bias), stride, padding, output_padding, dilation, groups, mode,
        output_size,
    )  # fmt: skip
    return _transposed(caller, call, x, weight, bias, mode, finish)


def _plain(stride: Any, dilation: Any, groups: Any, padding: Any, mode: Any) -> bool:
    """Whether a cache may tell arguments apart: it takes 1.0 and True for 1, and no list."""
    return (
        type(groups) is int
        and type(mode) is str
        and (type(stride) is int or _integers(stride))
        and (type(dilation) is int or _integers(dilation))
        and (type(padding) is int or type(padding) is str or _integers(padding))
    )


def _integers(value: Any) -> bool:
    """A tuple of integers and of nothing else."""
    if type(value) is not tuple:
        return False
    for n in value:  # noqa: SIM110  all() takes three times as long
        if type(n) is not int:
            return False
    return True


def _call_of(
    caller: str, rank: int, operands: Operands, stride: Any, padding: Any, dilation: Any, groups: Any, mode: Any
) -> ConvCall:
    return conv_call(
        caller, rank, operands,
        sizes(caller, "stride", stride, rank),
        paddings(caller, padding, rank),
        sizes(caller, "dilation", dilation, rank),
        integer(caller, "groups", groups, 1),
        padding_mode(caller, mode),
    )  # fmt: skip


def _transposed_call_of(
    caller: str, rank: int, operands: Operands, stride: Any, padding: Any, output_padding: Any, dilation: Any,
    groups: Any, mode: Any, output_size: Any,
) -> ConvCall:  # fmt: skip
    return conv_transpose_call(
        caller, rank, operands,
        sizes(caller, "stride", stride, rank),
        paddings(caller, padding, rank),
        sizes(caller, "output_padding", output_padding, rank, least=0),
        sizes(caller, "dilation", dilation, rank),
        integer(caller, "groups", groups, 1),
        padding_mode(caller, mode),
        target_size(caller, rank, output_size),
    )  # fmt: skip


_call_again = lru_cache(CACHED_CALLS)(_call_of)
_transposed_call_again = lru_cache(CACHED_CALLS)(_transposed_call_of)


def _operands(caller: str, x: Any, weight: Any, bias: Any) -> Operands:
    """What a call is looked up by, in one item: the shapes, and the element type of all."""
    try:
        a, w, b = x._array, weight._array, None if bias is None else bias._array
    except AttributeError:
        check_tensor(caller, "input", x)
        check_tensor(caller, "weight", weight)
        check_tensor(caller, "bias", bias)
        raise
    dtype = a.dtype
    if w.dtype is not dtype or (b is not None and b.dtype is not dtype):
        check_alike(caller, dtype, w.dtype, None if b is None else b.dtype)
    return a.shape, w.shape, None if b is None else b.shape, dtype
