"""How far apart things are: distances of vectors, and the losses that are made of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from lucid.core.errors import DTypeError, ShapeError
from lucid.nn.functional.loss import _check_reduction, _reduced
from lucid.ops import ctc as paths
from lucid.ops import elementwise, reduction
from lucid.ops.autocast import raised
from lucid.ops.checked import check_tensor
from lucid.ops.compare import where
from lucid.tensor import Tensor


def normalize(input: Tensor, p: float = 2.0, dim: int | tuple[int, ...] = 1, eps: float = 1e-12) -> Tensor:
    """Vectors along ``dim`` divided by their length, ``eps`` at least.

    >>> normalize(Tensor([[3.0, 4.0]]))
    Tensor([[0.6000, 0.8000]])
    """
    check_tensor("normalize", "input", input)
    length = reduction.norm(input, p, dim, keepdim=True)
    result: Tensor = input / elementwise.clamp(length, min=eps)
    return result


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine of the angle between the vectors along ``dim``; each length is taken to be ``eps`` at least."""
    x1, x2 = _both("cosine_similarity", x1=x1, x2=x2)
    lengths = [elementwise.clamp(reduction.norm(x, 2, dim, keepdim=True), min=eps) for x in (x1, x2)]
    result: Tensor = (x1 / lengths[0] * (x2 / lengths[1])).sum(dim)
    return result


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """The length of x1 - x2 + eps along the last axis."""
    x1, x2 = _both("pairwise_distance", x1=x1, x2=x2)
    result: Tensor = reduction.norm(x1 - x2 + eps, p, -1, keepdim=keepdim)
    return result


def kl_div(input: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """t (log t - input): ``input`` holds log-probabilities, ``target`` probabilities or, with ``log_target``, theirs.

    "batchmean" divides by the length of the first axis, which gives what is called so; "mean" by all elements.

    >>> kl_div(Tensor([[0.5, 0.5]]).log(), Tensor([[0.5, 0.5]]), reduction="batchmean")
    Tensor(0.)
    """
    input, target = _both("kl_div", input=input, target=target)
    if reduction != "batchmean":
        _check_reduction("kl_div", reduction)
    if log_target:
        loss = elementwise.exp(target) * (target - input)
    else:
        known = where(target > 0, target, 1.0)
        loss = target * elementwise.log(known) - target * input
    if reduction == "batchmean":
        result: Tensor = loss.sum() / max(input.shape[0] if input.ndim else 1, 1)
        return result
    return _reduced(loss, reduction)


def triplet_margin_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, p: float = 2.0, eps: float = 1e-6,
    swap: bool = False, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, |anchor - positive| - |anchor - negative| + margin), the lengths along the last axis.

    With ``swap`` the nearer one of anchor and positive counts for the negative.
    """
    for name, x in (("anchor", anchor), ("positive", positive), ("negative", negative)):
        check_tensor("triplet_margin_loss", name, x)
    _check_reduction("triplet_margin_loss", reduction)
    if margin <= 0:
        raise ValueError(f"triplet_margin_loss: margin={margin} must be above 0")
    near = pairwise_distance(anchor, positive, p, eps)
    far = pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = elementwise.minimum(far, pairwise_distance(positive, negative, p, eps))
    return _reduced(elementwise.clamp(near - far + margin, min=0), reduction)


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """max(0, -t (x1 - x2) + margin): t = 1 where x1 should be the larger, -1 where x2."""
    _check_reduction("margin_ranking_loss", reduction)
    check_tensor("margin_ranking_loss", "target", target)
    input1, input2 = _both("margin_ranking_loss", input1=input1, input2=input2)
    return _reduced(elementwise.clamp(-target * (input1 - input2) + margin, min=0), reduction)


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """1 - cos where the target is 1, max(0, cos - margin) where it is -1."""
    _check_reduction("cosine_embedding_loss", reduction)
    check_tensor("cosine_embedding_loss", "target", target)
    input1, input2 = _both("cosine_embedding_loss", input1=input1, input2=input2)
    cos = cosine_similarity(input1, input2, -1)
    apart = elementwise.clamp(cos - margin, min=0)
    return _reduced(where(target == 1, 1 - cos, where(target == -1, apart, 0.0)), reduction)


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor | tuple[int, ...],
    target_lengths: Tensor | tuple[int, ...],
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """-log of the probability of a sequence of labels over all ways to spread it, and blanks, over the steps.

    "mean" divides each loss by the number of its labels first. ``zero_infinity`` makes the loss, and the gradient, of a
    sequence that does not fit into its steps 0.

    Shape:
        log_probs (T, N, C) or (T, C), targets (N, labels) or all in a row, lengths (N,); (N,) without reduction.

    Source: Graves et al., ICML 2006.

    >>> ctc_loss(Tensor([[[0.5, 0.5]], [[0.5, 0.5]]]).log(), Tensor([[1]]), (2,), (1,))
    Tensor(0.2877)
    """
    check_tensor("ctc_loss", "log_probs", log_probs)
    check_tensor("ctc_loss", "targets", targets)
    _check_reduction("ctc_loss", reduction)
    (log_probs,) = raised(log_probs)
    if log_probs.ndim == 2:
        one = ctc_loss(
            log_probs.unsqueeze(1),
            targets.reshape(1, -1),
            input_lengths,
            target_lengths,
            blank,
            reduction,
            zero_infinity,
        )
        return one.squeeze(0) if reduction == "none" else one
    if log_probs.ndim != 3:
        raise ShapeError(f"ctc_loss: log_probs {log_probs.shape} must be (T, N, C) or (T, C)")
    steps, count, classes = log_probs.shape
    lengths = _lengths("input_lengths", input_lengths, count)
    spoken = _lengths("target_lengths", target_lengths, count)
    if lengths.size and not 1 <= lengths.min() <= lengths.max() <= steps:
        raise ValueError(f"ctc_loss: input_lengths {lengths.tolist()} must be in 1 … {steps}, the steps of log_probs")
    if not 0 <= blank < classes:
        raise ValueError(f"ctc_loss: blank={blank} must be one of the {classes} classes, 0 … {classes - 1}")
    losses = paths.ctc(log_probs, _labels(targets, spoken, classes), lengths, spoken, blank)
    if zero_infinity:
        losses = where(losses == float("inf"), 0.0, losses)
    if reduction != "mean":
        return _reduced(losses, reduction)
    result: Tensor = (losses / Tensor(np.maximum(spoken, 1).astype(losses.dtype.numpy))).mean()
    return result


def _lengths(name: str, given: Tensor | tuple[int, ...], count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    array = given._array if isinstance(given, Tensor) else np.asarray(given, np.int64)
    if array.dtype.kind not in "iu":
        raise DTypeError(f"ctc_loss: {name} must be integers, not {array.dtype}")
    array = array.reshape(-1).astype(np.int64)
    if len(array) != count:
        raise ShapeError(f"ctc_loss: {name} has {len(array)} entries for the {count} sequences of log_probs")
    return array


def _labels(targets: Tensor, lengths: np.ndarray[Any, Any], classes: int) -> np.ndarray[Any, Any]:
    """One row a sequence."""
    array, count = targets._array, len(lengths)
    if array.dtype.kind not in "iu":
        raise DTypeError(f"ctc_loss: the targets are {targets.dtype.name}; class numbers must be integers")
    most = int(lengths.max(initial=0))
    rows = np.zeros((count, most), np.int64)
    if array.ndim == 1:
        if array.size != lengths.sum():
            raise ShapeError(f"ctc_loss: {array.size} targets in a row, but target_lengths add up to {lengths.sum()}")
        for row, part in zip(rows, np.split(array, np.cumsum(lengths)[:-1]) if count else (), strict=True):
            row[: len(part)] = part
    elif array.ndim != 2 or len(array) != count or array.shape[1] < most:
        raise ShapeError(f"ctc_loss: targets {array.shape} must be ({count}, {most}) or longer, or all in a row")
    else:
        rows[...] = np.where(np.arange(most) < lengths[:, None], array[:, :most], 0)
    if rows.size and not 0 <= rows.min() <= rows.max() < classes:
        wrong = rows[(rows < 0) | (rows >= classes)][0]
        raise IndexError(f"ctc_loss: target class {wrong} is out of range for {classes} classes, 0 … {classes - 1}")
    return rows


def _both(caller: str, **named: Tensor) -> tuple[Tensor, Tensor]:
    """Both, checked, in float32 inside ``autocast``."""
    for name, x in named.items():
        check_tensor(caller, name, x)
    first, second = named.values()
    try:
        np.broadcast_shapes(first.shape, second.shape)
    except ValueError:
        raise ShapeError(f"{caller}: {first.shape} and {second.shape} do not go together") from None
    first, second = raised(first, second)
    return first, second
