"""Normalisation: zero mean, unit variance, then a learned scale and shift."""

from __future__ import annotations

from math import prod

from lucid.autograd import no_grad
from lucid.core import quiet
from lucid.core.dtypes import widened
from lucid.core.errors import DTypeError, ShapeError
from lucid.core.geometry import Sizes
from lucid.ops.autocast import raised
from lucid.ops.checked import check_tensor
from lucid.ops.inplace import overwrite
from lucid.ops.norm import affine, folded, standardize, standardize_clamped, standardize_leaked
from lucid.tensor import Tensor

Maybe = Tensor | None


def batch_norm(
    input: Tensor,
    running_mean: Maybe,
    running_var: Maybe,
    weight: Maybe = None,
    bias: Maybe = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    caller: str = "batch_norm",
    limits: tuple[float, float] | None = None,
) -> Tensor:
    """Each channel standardised over the batch and the spatial axes.

    In training with the batch's own mean and (biased) variance, which move the running ones by ``momentum`` (the
    unbiased variance is what runs), and cut off at ``limits`` in the same passes; otherwise with the running ones.

    Shape:
        input (N, C, *size), the others (C,).
    Source:
        Ioffe & Szegedy, arXiv:1502.03167.
    """
    check_tensor(caller, "input", input)
    (input,) = raised(input)
    if input.ndim < 2:
        raise ShapeError(f"{caller}: the input {input.shape} must be (N, C, …)")
    channels = input.shape[1]
    named = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, tensor in named.items():
        if tensor is not None and tensor.shape != (channels,):
            raise ShapeError(
                f"{caller}: the input {input.shape} has {channels} channels (axis 1), but {name} has the shape "
                f"{tensor.shape}"
            )
    _check_dtypes(caller, input, weight, bias)
    shape = (1, channels, *(1,) * (input.ndim - 2))
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError(f"{caller}: without training, running_mean and running_var are needed")
        return _with_fixed_statistics(input, running_mean, running_var, weight, bias, shape, eps)
    axes = (0, *range(2, input.ndim))
    count = prod(input.shape[a] for a in axes)
    if count <= 1:
        raise ShapeError(f"{caller}: training needs more than one value per channel, the input is {input.shape}")
    if limits is None:
        result = standardize(input, weight, bias, axes, shape, eps)
    else:
        result = standardize_clamped(input, weight, bias, axes, shape, eps, *limits)
    if running_mean is not None and running_var is not None:
        _move(running_mean, result.mean, momentum, 1.0)
        _move(running_var, result.var, momentum, count / (count - 1))
    return result.out


def layer_norm(
    input: Tensor, normalized_shape: int | Sizes, weight: Maybe = None, bias: Maybe = None, eps: float = 1e-5
) -> Tensor:
    """Each sample standardised over its last axes, those of ``normalized_shape``.

    Source: Ba et al., arXiv:1607.06450.

    >>> layer_norm(Tensor([[1.0, 3.0]]), 2, eps=0.0)
    Tensor([[-1.,  1.]])
    """
    check_tensor("layer_norm", "input", input)
    (input,) = raised(input)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or input.shape[-len(shape) :] != shape:
        raise ShapeError(f"layer_norm: the input {input.shape} must end in normalized_shape={shape}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.shape != shape:
            raise ShapeError(f"layer_norm: {name} {tensor.shape} must be normalized_shape={shape}")
    _check_dtypes("layer_norm", input, weight, bias)
    return standardize(input, weight, bias, tuple(range(input.ndim - len(shape), input.ndim)), shape, eps).out


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Maybe = None,
    bias: Maybe = None,
    eps: float = 1e-5,
    *,
    slope: Maybe = None,
) -> Tensor:
    """Each sample standardised over groups of channels and the spatial axes.

    With a ``slope``, of one number or one a channel, it is ``prelu(input, slope)`` that is standardised, in the same
    passes.

    Source: Wu & He, arXiv:1803.08494.
    """
    check_tensor("group_norm", "input", input)
    (input,) = raised(input)
    if input.ndim < 2:
        raise ShapeError(f"group_norm: the input {input.shape} must be (N, C, …)")
    n, channels = input.shape[:2]
    if num_groups < 1 or channels % num_groups:
        raise ShapeError(
            f"group_norm: the {channels} channels of {input.shape} must be a multiple of num_groups={num_groups}"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.shape != (channels,):
            raise ShapeError(f"group_norm: {name} {tensor.shape} must be ({channels},)")
    _check_dtypes("group_norm", input, weight, bias)
    size = input.shape[2:]
    grouped = input.reshape(n, num_groups, channels // num_groups, *size)
    affine = (1, num_groups, channels // num_groups, *(1,) * len(size))
    axes = tuple(range(2, grouped.ndim))
    if slope is None:
        result: Tensor = standardize(grouped, weight, bias, axes, affine, eps).out
    else:
        spread = slope.reshape(affine if slope.numel() > 1 else (1,) * grouped.ndim)
        result = standardize_leaked(grouped, spread, weight, bias, axes, affine, eps).out
    return result.reshape(input.shape)  # type: ignore[no-any-return]


def instance_norm(
    input: Tensor,
    running_mean: Maybe = None,
    running_var: Maybe = None,
    weight: Maybe = None,
    bias: Maybe = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Each channel of each sample standardised over its spatial axes.

    Source: Ulyanov et al., arXiv:1607.08022.
    """
    check_tensor("instance_norm", "input", input)
    (input,) = raised(input)
    if input.ndim < 3:
        raise ShapeError(f"instance_norm: the input {input.shape} must be (N, C, …) with a spatial axis")
    _check_dtypes("instance_norm", input, weight, bias)
    shape = (1, input.shape[1], *(1,) * (input.ndim - 2))
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise ValueError("instance_norm: without use_input_stats, running_mean and running_var are needed")
        return _with_fixed_statistics(input, running_mean, running_var, weight, bias, shape, eps)
    count = prod(input.shape[2:])
    if count <= 1:
        raise ShapeError(f"instance_norm: more than one value per channel is needed, the input is {input.shape}")
    result = standardize(input, weight, bias, tuple(range(2, input.ndim)), shape, eps)
    if running_mean is not None and running_var is not None:
        _move(running_mean, result.mean.detach().mean(0), momentum, 1.0)
        _move(running_var, result.var.detach().mean(0), momentum, count / (count - 1))
    return result.out


def _with_fixed_statistics(
    x: Tensor, mean: Tensor, var: Tensor, weight: Maybe, bias: Maybe, shape: Sizes, eps: float
) -> Tensor:
    """One pass with a multiplication and an addition a sample: everything of a channel is folded first."""
    return affine(x, *folded(mean, var, weight, bias, eps, x.dtype, shape))


def _move(running: Tensor, batch: Tensor, momentum: float, factor: float) -> None:
    """running += momentum (factor batch - running), in place."""
    held, target = running._array, widened(batch._array.reshape(running.shape))
    with no_grad(), quiet.numpy():
        overwrite(running, "running statistics", held * (1 - momentum) + target * (factor * momentum))


def _check_dtypes(caller: str, x: Tensor, weight: Maybe, bias: Maybe) -> None:
    if not x.dtype.is_floating_point:
        raise DTypeError(f"{caller}: the input is {x.dtype.name}, but must be floating-point")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype is not x.dtype:
            raise DTypeError(
                f"{caller}: the input is {x.dtype.name} and the {name} {tensor.dtype.name}; they must be the same"
            )
