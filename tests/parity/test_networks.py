"""Whole networks as people write them: the same code, the same weights and the same numbers as in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import lucid
import lucid.nn

Network = Callable[[ModuleType], Any]


def resnet(library: Any) -> Any:
    """Basic blocks with stride and projection, batch norm, a global average."""
    nn = library.nn

    class Block(nn.Module):
        def __init__(self, c_in: int, c_out: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(c_out)
            self.relu = nn.ReLU(inplace=True)
            self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(c_out)
            self.downsample = None
            if stride != 1 or c_in != c_out:
                self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

        def forward(self, x: Any) -> Any:
            identity = x if self.downsample is None else self.downsample(x)
            out = self.relu(self.bn1(self.conv1(x)))
            out = self.bn2(self.conv2(out))
            out += identity
            return self.relu(out)

    return nn.Sequential(
        nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def mobilenet(library: Any) -> Any:
    """Inverted residuals: depthwise convolutions between pointwise ones."""
    nn = library.nn

    class Inverted(nn.Module):
        def __init__(self, c_in: int, c_out: int, stride: int, expand: int) -> None:
            super().__init__()
            wide = c_in * expand
            self.shortcut = stride == 1 and c_in == c_out
            self.conv = nn.Sequential(
                nn.Conv2d(c_in, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
                nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.Hardswish(),
                nn.Conv2d(wide, c_out, 1, bias=False), nn.BatchNorm2d(c_out),
            )  # fmt: skip

        def forward(self, x: Any) -> Any:
            return x + self.conv(x) if self.shortcut else self.conv(x)

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), Inverted(8, 8, 1, 4), Inverted(8, 16, 2, 6), Inverted(16, 16, 1, 6),
        nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(1), nn.Dropout(0.0), nn.Linear(16, 10),
    )  # fmt: skip


def tcn(library: Any) -> Any:
    """Dilated depthwise blocks of a Conv-TasNet separator, between an encoder and a transposed decoder."""
    nn = library.nn

    class Block(nn.Module):
        def __init__(self, channels: int, hidden: int, dilation: int) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv1d(channels, hidden, 1), nn.PReLU(),
                nn.GroupNorm(1, hidden),
                nn.Conv1d(hidden, hidden, 3, padding=dilation, dilation=dilation, groups=hidden), nn.GELU(),
                nn.GroupNorm(1, hidden), nn.Conv1d(hidden, channels, 1),
            )  # fmt: skip

        def forward(self, x: Any) -> Any:
            return x + self.net(x)

    return nn.Sequential(
        nn.Conv1d(1, 32, 16, stride=8, bias=False), *(Block(32, 48, 2**k) for k in range(4)), nn.Sigmoid(),
        nn.ConvTranspose1d(32, 1, 16, stride=8, bias=False),
    )  # fmt: skip


def vocoder(library: Any) -> Any:
    """A HiFi-GAN generator in small: transposed upsampling and dilated residual stacks."""
    nn = library.nn

    class Residual(nn.Module):
        def __init__(self, channels: int, kernel: int) -> None:
            super().__init__()
            self.convs = nn.ModuleList(
                nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel - 1) // 2) for d in (1, 3, 5)
            )
            self.act = nn.LeakyReLU(0.1)

        def forward(self, x: Any) -> Any:
            for conv in self.convs:
                x = x + conv(self.act(x))
            return x

    return nn.Sequential(
        nn.Conv1d(20, 32, 7, padding=3), nn.LeakyReLU(0.1), nn.ConvTranspose1d(32, 16, 16, 8, 4), Residual(16, 7),
        nn.LeakyReLU(0.1), nn.ConvTranspose1d(16, 8, 4, 2, 1), Residual(8, 11),
        nn.Conv1d(8, 1, 7, padding=3), nn.Tanh(),
    )  # fmt: skip


def unet3d(library: Any) -> Any:
    """Down, up and a skip, in three dimensions."""
    nn = library.nn

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1, padding_mode="replicate"), nn.ReLU())
            self.down = nn.Sequential(nn.MaxPool3d(2), nn.Conv3d(8, 16, 3, padding=1), nn.SiLU())
            self.up = nn.ConvTranspose3d(16, 8, 2, stride=2)
            self.leave = nn.Conv3d(16, 2, 1)

        def forward(self, x: Any) -> Any:
            fine = self.enter(x)
            return self.leave(library.cat([fine, self.up(self.down(fine))], dim=1))

    return UNet()


NETWORKS: dict[str, tuple[Network, tuple[int, ...]]] = {
    "resnet": (resnet, (2, 3, 64, 64)),
    "mobilenet": (mobilenet, (2, 3, 32, 32)),
    "tcn": (tcn, (2, 1, 800)),
    "vocoder": (vocoder, (1, 20, 25)),
    "unet3d": (unet3d, (1, 1, 8, 12, 10)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_same_network(name: str, training: bool):
    """In float64, where only a difference in meaning shows: outputs, every gradient, every buffer."""
    build, shape = NETWORKS[name]
    theirs = build(torch).double().train(training)
    ours = build(lucid).double().train(training)
    result = ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    assert not result.missing_keys and not result.unexpected_keys
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape)
    tx, lx = torch.from_numpy(x).requires_grad_(), lucid.Tensor(x, requires_grad=True)
    ty, ly = theirs(tx), ours(lx)
    g = rng.standard_normal(tuple(ty.shape))
    ty.backward(torch.from_numpy(g))
    ly.backward(lucid.Tensor(g))

    def same(mine: Any, other: Any) -> None:
        want = other.detach().numpy()
        np.testing.assert_allclose(mine.detach().numpy(), want, rtol=1e-9, atol=1e-11 * max(1.0, np.abs(want).max()))

    same(ly, ty)
    same(lx.grad, tx.grad)
    for (key, mine), (other_key, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert key == other_key
        same(mine.grad, other.grad)
    for (_, mine), (_, other) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        same(mine, other)
    assert str(ours) == str(theirs)
