"""Layers joined for inference: batch norms go into the weights before them, activations into the same kernel."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np

from lucid.nn.modules.computed import fix
from lucid.nn.modules.containers import Sequential
from lucid.nn.modules.conv import _Convolution
from lucid.nn.modules.fused import FUSED, _Fused, fusible_activation
from lucid.nn.modules.linear import Identity
from lucid.nn.modules.module import Module
from lucid.nn.modules.normalization import _BatchNorm
from lucid.nn.modules.runs import foldable
from lucid.nn.parameter import Parameter
from lucid.ops.norm import scaled_channels
from lucid.tensor import Tensor

ConvT = TypeVar("ConvT", bound=_Convolution)
M = TypeVar("M", bound=Module)


def fuse_conv_bn_weights(
    conv_w: Tensor,
    conv_b: Tensor | None,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Tensor | None,
    bn_b: Tensor | None,
    transpose: bool = False,
) -> tuple[Parameter, Parameter]:
    """Weight and bias of the convolution that does what a convolution and a batch norm after it did.

    With s = bn_w / sqrt(bn_rv + eps): weight conv_w s, a row for each output channel, and bias
    (conv_b - bn_rm) s + bn_b. Computed in float64 and rounded once. With ``transpose`` output channels are the weight's
    second axis, within groups that are its first.
    """
    wide = {
        name: None if t is None else t._array.astype(np.float64)
        for name, t in (("bias", conv_b), ("mean", bn_rm), ("var", bn_rv), ("gain", bn_w), ("offset", bn_b))
    }
    mean, var = wide["mean"], wide["var"]
    assert mean is not None and var is not None, "a batch norm that has statistics"
    scale = 1.0 / np.sqrt(var + bn_eps)
    if wide["gain"] is not None:
        scale = scale * wide["gain"]
    bias = ((0.0 if wide["bias"] is None else wide["bias"]) - mean) * scale
    if wide["offset"] is not None:
        bias = bias + wide["offset"]
    weight, dtype = scaled_channels(conv_w._array, scale, transpose), conv_w._array.dtype
    return (
        Parameter(Tensor(weight.astype(dtype)), requires_grad=conv_w.requires_grad),
        Parameter(Tensor(bias.astype(dtype)), requires_grad=conv_w.requires_grad),
    )


def fuse_conv_bn_eval(conv: ConvT, bn: Module, transpose: bool = False) -> ConvT:
    """A copy of ``conv``, a convolution or a transposed one, that does what ``bn(conv(x))`` does in evaluation.

    ``transpose`` is what PyTorch needs to be told; here the layer knows.

    Raises:
        ValueError: One of them is in training mode, or the batch norm keeps no statistics or is for other channels.

    >>> from lucid.nn import BatchNorm2d, Conv2d
    >>> fuse_conv_bn_eval(Conv2d(3, 8, 3, bias=False).eval(), BatchNorm2d(8).eval())
    Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
    """
    for module in (conv, bn):
        if module.training:
            raise ValueError(f"fuse_conv_bn_eval: {module!r} is in training mode; call eval() on it first")
    if not isinstance(bn, _BatchNorm) or bn.running_mean is None or bn.running_var is None:
        raise ValueError(f"fuse_conv_bn_eval: {bn!r} must be a batch norm that tracks running statistics")
    if bn.num_features != conv.out_channels:
        raise ValueError(f"fuse_conv_bn_eval: {bn!r} is not for the {conv.out_channels} channels that {conv!r} makes")
    fused = deepcopy(conv)
    fix(fused)
    weight, bias = fuse_conv_bn_weights(
        fused.weight, fused.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias,
        transpose or conv.is_transposed,
    )  # fmt: skip
    fused.weight, fused.bias = weight, bias
    return fused


def fuse(model: M) -> M:
    """A copy of ``model`` for inference, in which convolutions do what the layers after them did.

    In every ``Sequential``, a convolution or transposed convolution takes in the batch norm behind it and the
    activation behind that: the first goes into its weights, the second into its kernel. Their places are taken by
    ``Identity``, so the other layers keep their names. Layers with hooks are left alone, and so is what a ``forward``
    of your own calls: name those with ``fuse_modules``.

    The copy is in evaluation mode and its parameters are frozen: nothing is left of the batch norms to train, and
    weights that parametrizations or a weight norm compute are plain ones. Results differ by roundings only.

    >>> from lucid.nn import BatchNorm1d, Conv1d, ReLU
    >>> fuse(Sequential(Conv1d(1, 4, 3, bias=False), BatchNorm1d(4), ReLU()))
    Sequential(
      (0): FusedConv1d(
        1, 4, kernel_size=(3,), stride=(1,)
        (activation): ReLU()
      )
      (1): Identity()
      (2): Identity()
    )
    """
    fused = _for_inference(model)
    for container in [module for module in fused.modules() if isinstance(module, Sequential)]:
        if type(container).forward is Sequential.forward:
            names = container._names()
            for start in range(len(names)):
                _fuse_run(container, names[start : start + 3])
    return fused.requires_grad_(False)


def fuse_modules(model: M, modules_to_fuse: Sequence[Any]) -> M:
    """A copy of ``model`` for inference in which the layers of each list of names are one.

    ``modules_to_fuse`` is a list of names, or a list of such lists, each a convolution and then a batch norm, an
    activation or both, as in ``["layer1.conv", "layer1.bn", "layer1.relu"]``. The first becomes all of them, the
    others ``Identity``: they must be called one after the other and nowhere else.

    Raises:
        ValueError: The layers named are no such run.
    """
    fused = _for_inference(model)
    lists = [modules_to_fuse] if modules_to_fuse and isinstance(modules_to_fuse[0], str) else modules_to_fuse
    for names in lists:
        layers = [fused.get_submodule(name) for name in names]
        taken, joined = _joined(layers)
        if joined is None or taken < len(layers):
            kinds = ", ".join(type(layer).__name__ for layer in layers)
            raise ValueError(
                f"fuse_modules: {list(names)} ({kinds}) must be a convolution, then a batch norm, an activation or both"
            )
        for name, layer in zip(names, [joined, *[Identity() for _ in layers[1:]]], strict=True):
            owner, _, attribute = name.rpartition(".")
            setattr(fused.get_submodule(owner), attribute, layer.eval())
    return fused.requires_grad_(False)


def _for_inference(model: M) -> M:
    """A copy in evaluation mode whose parametrized tensors are parameters, computed once."""
    copied = deepcopy(model).eval()
    for module in list(copied.modules()):
        fix(module)
    return copied


def _fuse_run(container: Sequential, names: Sequence[str]) -> None:
    """Joins what follows the first of these entries to it, if they are a run that can be joined."""
    taken, joined = _joined([getattr(container, name) for name in names])
    if joined is not None:
        for name, layer in zip(names[:taken], [joined, *[Identity() for _ in range(1, taken)]], strict=True):
            setattr(container, name, layer.eval())


def _joined(layers: Sequence[Module]) -> tuple[int, Module | None]:
    """How many of the layers from the first on become one, and that one; none if it would be the first alone."""
    first, *rest = layers
    if type(first) not in FUSED or first.is_watched:
        return 1, None
    assert isinstance(first, _Convolution), "what can be fused is a convolution"
    conv, taken = first, 1
    if rest and foldable(conv, rest[0]):
        conv, taken, rest = fuse_conv_bn_eval(conv, rest[0]), 2, rest[1:]
    if rest and fusible_activation(rest[0]):
        fused: _Fused = FUSED[type(conv)].of(conv, rest[0])
        return taken + 1, fused
    return taken, conv if taken > 1 else None
