"""Losses."""

from __future__ import annotations

from math import inf

import numpy as np

from lucid.core.errors import DTypeError, ShapeError
from lucid.nn.functional.activation import log_softmax
from lucid.ops import activation, difference, elementwise
from lucid.ops import loss as ops
from lucid.ops.autocast import raised
from lucid.ops.checked import check_tensor
from lucid.ops.compare import where
from lucid.tensor import Tensor

REDUCTIONS = ("mean", "sum", "none")


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log of the softmax of the scores, at the right class or weighted by class probabilities.

    ``target`` holds class numbers, or probabilities in the shape of ``input``. ``weight`` is a factor per class, and
    "mean" divides by the sum of the factors that took part. Positions of class ``ignore_index`` take no part.
    ``label_smoothing`` gives that part of the probability to all classes alike.

    Shape:
        input (N, C, *size) or (C,), target (N, *size) of integers, or as input.

    >>> cross_entropy(Tensor([[0.0, 0.0]]), Tensor([1]))
    Tensor(0.6931)
    """
    check_tensor("cross_entropy", "input", input)
    check_tensor("cross_entropy", "target", target)
    input, target = raised(input, target)
    _check_reduction("cross_entropy", reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"cross_entropy: label_smoothing={label_smoothing} must be in 0 … 1")
    if input.ndim == 0:
        raise ShapeError("cross_entropy: the input must be (C,) or (N, C, …), not a single number")
    if input.ndim > 1 and not target.dtype.is_floating_point and not label_smoothing:
        _check_classes("cross_entropy", input, target, weight)
        return ops.cross_entropy(input, target, weight, ignored=ignore_index, reduction=reduction)
    log_p = log_softmax(input, 0 if input.ndim == 1 else 1)
    if target.dtype.is_floating_point:
        return _probability_loss(log_p, target, weight, reduction, label_smoothing)
    if not label_smoothing:
        return _class_loss("cross_entropy", log_p, target, weight, ignore_index, reduction)
    picked = _class_loss("cross_entropy", log_p, target, weight, ignore_index, "none")
    axis = 0 if input.ndim == 1 else 1
    spread = log_p if weight is None else log_p * _per_class(weight, log_p)
    smooth = where(target == ignore_index, 0.0, -spread.sum(axis))
    total = picked * (1 - label_smoothing) + smooth * (label_smoothing / input.shape[axis])
    if reduction != "mean":
        return _reduced(total, reduction)
    result: Tensor = total.sum() / _taking_part(target, weight, ignore_index, log_p)
    return result


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Minus the log-probability of the right class; ``input`` holds log-probabilities. Else as ``cross_entropy``."""
    check_tensor("nll_loss", "input", input)
    check_tensor("nll_loss", "target", target)
    (input,) = raised(input)
    _check_reduction("nll_loss", reduction)
    return _class_loss("nll_loss", input, target, weight, ignore_index, reduction)


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(input - target)².

    >>> mse_loss(Tensor([1.0, 2.0]), Tensor([1.0, 4.0]))
    Tensor(2.)
    """
    input, target = _pair("mse_loss", input, target, reduction)
    if reduction != "none" and difference.takes(input, target):
        return difference.squared_error(input, target, mean=reduction == "mean")
    return _reduced(elementwise.square(input - target), reduction)


def l1_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """|input - target|."""
    input, target = _pair("l1_loss", input, target, reduction)
    if reduction != "none" and difference.takes(input, target):
        return difference.absolute_error(input, target, mean=reduction == "mean")
    return _reduced(elementwise.abs(input - target), reduction)


def smooth_l1_loss(input: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """d²/(2 beta) where |d| < beta, else |d| - beta/2, for d = input - target."""
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta={beta} must be at least 0")
    d = _difference("smooth_l1_loss", input, target, reduction)
    if beta == 0:
        return _reduced(elementwise.abs(d), reduction)
    loss = activation.huber(d, float(beta))
    return _reduced(loss if beta == 1 else loss / beta, reduction)


def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """d²/2 where |d| < delta, else delta (|d| - delta/2), for d = input - target."""
    if delta <= 0:
        raise ValueError(f"huber_loss: delta={delta} must be above 0")
    return _reduced(activation.huber(_difference("huber_loss", input, target, reduction), float(delta)), reduction)


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """-(t log p + (1 - t) log(1 - p)) for probabilities p = input; logarithms are taken to be at least -100."""
    input, target = _pair("binary_cross_entropy", input, target, reduction)
    if input.numel() and not bool(((input.detach() >= 0) & (input.detach() <= 1)).all()):
        raise ValueError("binary_cross_entropy: the input must hold probabilities, 0 … 1")
    log_p = elementwise.clamp(elementwise.log(input), min=-100.0)
    log_q = elementwise.clamp(elementwise.log1p(-input), min=-100.0)
    loss = -(target * log_p + (1 - target) * log_q)
    return _reduced(_weighed("binary_cross_entropy", loss, weight), reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """``binary_cross_entropy`` of sigmoid(input), without overflow; ``pos_weight`` multiplies the positive part."""
    input, target = _pair("binary_cross_entropy_with_logits", input, target, reduction)
    surprise = activation.softplus(-input, 1.0, inf)
    loss = (1 - target) * input + (surprise if pos_weight is None else ((pos_weight - 1) * target + 1) * surprise)
    return _reduced(_weighed("binary_cross_entropy_with_logits", loss, weight), reduction)


def _weighed(caller: str, loss: Tensor, weight: Tensor | None) -> Tensor:
    """Times a weight that broadcasts to it."""
    if weight is None:
        return loss
    check_tensor(caller, "weight", weight)
    weighed: Tensor = loss * weight
    if weighed.shape != loss.shape:
        raise ShapeError(f"{caller}: weight {weight.shape} must broadcast to the input {loss.shape}")
    return weighed


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """For each class number a row of zeros with a one at its place; by default as long as the largest number needs.

    Shape:
        tensor (*) of integers, result (*, num_classes) of int64.

    >>> one_hot(Tensor([1, 0]), 3).tolist()
    [[0, 1, 0], [1, 0, 0]]
    """
    check_tensor("one_hot", "tensor", tensor)
    array = tensor._array
    if array.dtype.kind not in "iu":
        raise DTypeError(f"one_hot: the tensor is {tensor.dtype.name}; class numbers must be integers")
    if num_classes < 1:
        if not array.size:
            raise ValueError("one_hot: num_classes must be given where there is no class number")
        num_classes = int(array.max()) + 1
    if array.size and not 0 <= array.min() <= array.max() < num_classes:
        wrong = array[(array < 0) | (array >= num_classes)][0]
        raise IndexError(f"one_hot: class {wrong} is out of range for {num_classes} classes, 0 … {num_classes - 1}")
    return Tensor((array[..., None] == np.arange(num_classes)).astype(np.int64))


def _class_loss(
    caller: str, log_p: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> Tensor:
    if log_p.ndim == 1:
        single = _class_loss(caller, log_p.unsqueeze(0), target.reshape(1), weight, ignore_index, reduction)
        return single.squeeze(0) if reduction == "none" else single
    _check_classes(caller, log_p, target, weight)
    return ops.nll(log_p, target, weight, ignored=ignore_index, reduction=reduction, caller=caller)


def _probability_loss(log_p: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float) -> Tensor:
    if target.shape != log_p.shape:
        raise ShapeError(
            f"cross_entropy: class probabilities {target.shape} must have the shape of the input {log_p.shape}; "
            "class numbers must be integers"
        )
    axis = 0 if log_p.ndim == 1 else 1
    if smoothing:
        target = target * (1 - smoothing) + smoothing / log_p.shape[axis]
    if weight is not None:
        target = target * _per_class(weight, log_p)
    loss = -(target * log_p).sum(axis)
    return _reduced(
        loss.sum() / max(loss.numel(), 1) if reduction == "mean" else loss, "none" if reduction == "mean" else reduction
    )


def _taking_part(target: Tensor, weight: Tensor | None, ignore_index: int, like: Tensor) -> Tensor | float:
    """What "mean" divides by: the factors of all positions that are not ignored."""
    kept = target.numpy() != ignore_index
    if weight is None:
        return float(np.count_nonzero(kept)) or float("nan")
    factors = weight.detach().numpy()[np.where(kept, target.numpy(), 0)]
    result: Tensor = Tensor(np.where(kept, factors, 0).sum().astype(like.dtype.numpy))
    return result


def _per_class(weight: Tensor, scores: Tensor) -> Tensor:
    """The weight, shaped to multiply (N, C, *size) or (C,)."""
    if scores.ndim == 1:
        return weight
    result: Tensor = weight.reshape(1, -1, *(1,) * (scores.ndim - 2))
    return result


def _check_classes(caller: str, scores: Tensor, target: Tensor, weight: Tensor | None) -> None:
    expected = (scores.shape[0], *scores.shape[2:])
    if target.shape != expected:
        raise ShapeError(f"{caller}: the target {target.shape} must be {expected} for the input {scores.shape}")
    if target.dtype.is_differentiable or target.dtype.name == "bool":
        raise DTypeError(f"{caller}: the target is {target.dtype.name}; class numbers must be integers")
    if weight is not None and weight.shape != (scores.shape[1],):
        raise ShapeError(f"{caller}: weight {weight.shape} must be ({scores.shape[1]},), one per class")


def _difference(caller: str, input: Tensor, target: Tensor, reduction: str) -> Tensor:
    input, target = _pair(caller, input, target, reduction)
    result: Tensor = input - target
    return result


def _pair(caller: str, input: Tensor, target: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
    """Both, checked, in float32 inside ``autocast``."""
    check_tensor(caller, "input", input)
    check_tensor(caller, "target", target)
    _check_reduction(caller, reduction)
    # PyTorch broadcasts with a warning, which is nearly always a forgotten squeeze: (N, 1) against (N,) is (N, N).
    if input.shape != target.shape:
        raise ShapeError(f"{caller}: the input {input.shape} and the target {target.shape} must have the same shape")
    input, target = raised(input, target)
    return input, target


def _check_reduction(caller: str, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{caller}: reduction={reduction!r} must be one of {', '.join(map(repr, REDUCTIONS))}")


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    result: Tensor = loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.mean()
    return result
