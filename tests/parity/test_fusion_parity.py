"""Batch norms folded into weights: the numbers that PyTorch's helpers of the same names make."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import lucid
from lucid import nn

CASES = [
    (name, groups, bias)
    for name in ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
    for groups in (1, 2)
    for bias in (True, False)
    if groups == 1 or "Transpose" not in name  # PyTorch does not fold into groups of transposed ones
]


def pair(name: str, groups: int, bias: bool, affine: bool = True) -> tuple[Any, Any, Any, Any]:
    """A convolution and a batch norm with the same numbers in both libraries."""
    options = {"groups": groups, "bias": bias}
    theirs = getattr(torch.nn, name)(4, 6, 3, dtype=torch.float64, **options)
    ours = getattr(nn, name)(4, 6, 3, dtype=lucid.float64, **options)
    norm = f"BatchNorm{name[-2:]}"
    their_norm = getattr(torch.nn, norm)(6, affine=affine, dtype=torch.float64)
    our_norm = getattr(nn, norm)(6, affine=affine, dtype=lucid.float64)
    with torch.no_grad():
        for tensor in (*their_norm.parameters(), their_norm.running_mean):
            tensor.normal_()
        their_norm.running_var.uniform_(0.1, 3.0)
    for mine, other in ((ours, theirs), (our_norm, their_norm)):
        mine.load_state_dict({key: lucid.tensor(value.numpy()) for key, value in other.state_dict().items()})
        mine.eval()
        other.eval()
    return ours, our_norm, theirs, their_norm


@pytest.mark.parametrize(("name", "groups", "bias"), CASES)
@pytest.mark.parametrize("affine", [True, False])
def test_fuse_conv_bn_eval(name: str, groups: int, bias: bool, affine: bool) -> None:
    ours, our_norm, theirs, their_norm = pair(name, groups, bias, affine)
    transpose = "Transpose" in name
    mine = nn.utils.fusion.fuse_conv_bn_eval(ours, our_norm)
    other = torch.nn.utils.fusion.fuse_conv_bn_eval(theirs, their_norm, transpose=transpose)
    assert list(mine.state_dict()) == list(other.state_dict())
    for key, value in other.state_dict().items():
        np.testing.assert_allclose(mine.state_dict()[key].detach().numpy(), value.numpy(), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", ["ConvTranspose1d", "ConvTranspose2d"])
def test_groups_of_a_transposed_convolution_are_folded_right(name: str) -> None:
    ours, our_norm, theirs, their_norm = pair(name, 2, True)
    x = np.random.default_rng(0).standard_normal((2, 4, *(5,) * ours.rank))
    wanted = their_norm(theirs(torch.tensor(x))).detach().numpy()
    fused = nn.utils.fusion.fuse_conv_bn_eval(ours, our_norm)
    np.testing.assert_allclose(fused(lucid.tensor(x)).detach().numpy(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ["ReLU", "ReLU6", "LeakyReLU", "SiLU", "GELU", "Hardswish", "Tanh"])
def test_a_fused_model(activation: str) -> None:
    ours, our_norm, theirs, their_norm = pair("Conv2d", 1, True)
    fused = nn.utils.fuse(nn.Sequential(ours, our_norm, getattr(nn, activation)()))
    assert type(fused[0]) is nn.FusedConv2d
    wanted = torch.nn.Sequential(theirs, their_norm, getattr(torch.nn, activation)()).eval()
    x = np.random.default_rng(0).standard_normal((2, 4, 9, 11))
    np.testing.assert_allclose(
        fused(lucid.tensor(x)).numpy(), wanted(torch.tensor(x)).detach().numpy(), rtol=1e-11, atol=1e-12
    )
