"""Linear maps."""

from __future__ import annotations

from lucid.core.errors import DTypeError, ShapeError
from lucid.ops import linear as ops
from lucid.ops.autocast import CONTEXTS, lowered
from lucid.ops.checked import check_tensor
from lucid.tensor import Tensor


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, *, caller: str = "linear") -> Tensor:
    """x Wᵀ + b over the last axis. ``caller`` is the name errors give.

    Shape:
        input (*, in_features), weight (out_features, in_features), bias (out_features,), result (*, out_features).

    >>> linear(Tensor([1.0, 2.0]), Tensor([[3.0, 4.0]]), Tensor([5.0]))
    Tensor([16.])
    """
    check_tensor(caller, "input", input)
    check_tensor(caller, "weight", weight)
    if bias is not None:
        check_tensor(caller, "bias", bias)
    if CONTEXTS:
        input, weight, bias = lowered(input, weight, bias)
    if weight.ndim != 2:
        raise ShapeError(f"{caller}: the weight {weight.shape} must have the shape (out_features, in_features)")
    if input.ndim == 0 or input.shape[-1] != weight.shape[1]:
        features = input.shape[-1] if input.ndim else "no"
        raise ShapeError(
            f"{caller}: the input {input.shape} has {features} features (its last axis), "
            f"but the weight {weight.shape} takes in_features={weight.shape[1]}"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype is not input.dtype:
            raise DTypeError(
                f"{caller}: the input is {input.dtype.name} and the {name} {tensor.dtype.name}; they must be the same"
            )
    if bias is not None and bias.shape != (weight.shape[0],):
        raise ShapeError(f"{caller}: the bias {bias.shape} must have the shape ({weight.shape[0]},)")
    return ops.linear(input, weight, bias)
