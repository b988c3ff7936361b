"""Networks that people train, in the words PyTorch and Lucid share: each is built on either library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, slots=True)
class Network:
    """One of ``NETWORKS``: how it is built on a library, what it reads, and among how many classes it chooses.

    Without classes it is trained to meet a signal.
    """

    build: Callable[[Any], Any]
    shape: tuple[int, ...]
    classes: int = 0
    optimizer: Mapping[str, Any] = field(default_factory=lambda: {"name": "SGD", "momentum": 0.9})


def _digits(library: Any) -> Any:
    """As for scikit-learn's handwritten digits, of 8 by 8 pixels."""
    nn = library.nn
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 4 * 4, 10),
    )  # fmt: skip


def _residual(library: Any, rank: int, kernel: int) -> type:
    """The basic block of a ResNet of that rank."""
    nn = library.nn
    conv, norm = getattr(nn, f"Conv{rank}d"), getattr(nn, f"BatchNorm{rank}d")

    class Residual(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, c_in: int, c_out: int, stride: int) -> None:
            super().__init__()
            self.conv1 = conv(c_in, c_out, kernel, stride, kernel // 2, bias=False)
            self.bn1 = norm(c_out)
            self.relu = nn.ReLU(inplace=True)
            self.conv2 = conv(c_out, c_out, kernel, padding=kernel // 2, bias=False)
            self.bn2 = norm(c_out)
            self.downsample = nn.Sequential()
            if stride != 1 or c_in != c_out:
                self.downsample = nn.Sequential(conv(c_in, c_out, 1, stride, bias=False), norm(c_out))

        def forward(self, x: Any) -> Any:
            out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            out += self.downsample(x)
            return self.relu(out)

    return Residual


def _resnet18(library: Any) -> Any:
    nn, block = library.nn, _residual(library, 2, 3)
    widths = (64, 64, 128, 256, 512)
    blocks = [
        block(c_in if first else c_out, c_out, 2 if first and c_in != c_out else 1)
        for c_in, c_out in pairwise(widths)
        for first in (True, False)
    ]
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000),
    )  # fmt: skip


def _resnet_1d(library: Any) -> Any:
    """As for electrocardiograms: 12 leads, rhythms to tell apart."""
    nn, block = library.nn, _residual(library, 1, 17)
    widths = (64, 128, 192, 256)
    return nn.Sequential(
        nn.Conv1d(12, 64, 17, 2, 8, bias=False), nn.BatchNorm1d(64), nn.ReLU(inplace=True),
        *(block(c_in, c_out, 4) for c_in, c_out in pairwise(widths)),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(256, 9),
    )  # fmt: skip


def _mobilenet_v2(library: Any) -> Any:
    nn = library.nn

    def act(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[Any]:
        conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(c_out), nn.ReLU6(inplace=True)]

    class Inverted(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, c_in: int, c_out: int, stride: int, expand: int) -> None:
            super().__init__()
            wide = c_in * expand
            self.shortcut = stride == 1 and c_in == c_out
            self.conv = nn.Sequential(
                *(act(c_in, wide, 1) if expand > 1 else []), *act(wide, wide, 3, stride, wide),
                nn.Conv2d(wide, c_out, 1, bias=False), nn.BatchNorm2d(c_out),
            )  # fmt: skip

        def forward(self, x: Any) -> Any:
            return x + self.conv(x) if self.shortcut else self.conv(x)

    layers, c_in = act(3, 32, 3, 2), 32
    for expand, c_out, count, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for number in range(count):
            layers.append(Inverted(c_in, c_out, 1 if number else stride, expand))
            c_in = c_out
    pooled = (nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(1280, 1000))
    return nn.Sequential(*layers, *act(320, 1280, 1), *pooled)


def _conv_tasnet(library: Any) -> Any:
    """The separator's blocks of dilated depthwise convolutions, between an encoder and a transposed decoder."""
    nn = library.nn

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, channels: int, hidden: int, dilation: int) -> None:
            super().__init__()
            depthwise = nn.Conv1d(hidden, hidden, 3, padding=dilation, dilation=dilation, groups=hidden)
            self.net = nn.Sequential(
                nn.Conv1d(channels, hidden, 1), nn.PReLU(), nn.GroupNorm(1, hidden),
                depthwise, nn.PReLU(), nn.GroupNorm(1, hidden), nn.Conv1d(hidden, channels, 1),
            )  # fmt: skip

        def forward(self, x: Any) -> Any:
            return x + self.net(x)

    return nn.Sequential(
        nn.Conv1d(1, 512, 16, 8, bias=False), nn.GroupNorm(1, 512), nn.Conv1d(512, 128, 1),
        *(Block(128, 512, 2**k) for k in range(8)), nn.PReLU(), nn.Conv1d(128, 512, 1), nn.Sigmoid(),
        nn.ConvTranspose1d(512, 1, 16, 8, bias=False),
    )  # fmt: skip


def _hifigan(library: Any) -> Any:
    """The generator: transposed upsampling, then the mean of dilated residual stacks of three kernel sizes."""
    nn = library.nn

    class Stack(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, channels: int, kernel: int) -> None:
            super().__init__()
            self.pairs = nn.ModuleList(
                nn.Sequential(
                    nn.LeakyReLU(0.1), nn.Conv1d(channels, channels, kernel, padding=d * (kernel // 2), dilation=d),
                    nn.LeakyReLU(0.1), nn.Conv1d(channels, channels, kernel, padding=kernel // 2),
                )
                for d in (1, 3, 5)
            )  # fmt: skip

        def forward(self, x: Any) -> Any:
            for pair in self.pairs:
                x = x + pair(x)
            return x

    class Up(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, c_in: int, kernel: int, stride: int) -> None:
            super().__init__()
            self.act = nn.LeakyReLU(0.1)
            self.up = nn.ConvTranspose1d(c_in, c_in // 2, kernel, stride, (kernel - stride) // 2)
            self.stacks = nn.ModuleList(Stack(c_in // 2, k) for k in (3, 7, 11))

        def forward(self, x: Any) -> Any:
            x = self.up(self.act(x))
            return sum(stack(x) for stack in self.stacks) / len(self.stacks)

    ups = (Up(c, k, s) for c, k, s in ((256, 16, 8), (128, 16, 8), (64, 4, 2), (32, 4, 2)))
    return nn.Sequential(
        nn.Conv1d(80, 256, 7, padding=3), *ups, nn.LeakyReLU(), nn.Conv1d(16, 1, 7, padding=3), nn.Tanh()
    )  # fmt: skip


DIGITS = Network(_digits, (64, 1, 8, 8), 10, {"name": "Adam"})

NETWORKS: dict[str, Network] = {
    "digits, batch 64": DIGITS,
    "ResNet-18, batch 8, 224²": Network(_resnet18, (8, 3, 224, 224), 1000),
    "MobileNetV2, batch 8, 224²": Network(_mobilenet_v2, (8, 3, 224, 224), 1000),
    "Conv-TasNet-like, 4 × 1 s at 16 kHz": Network(_conv_tasnet, (4, 1, 16000)),
    "1-D ResNet, 32 × 5000": Network(_resnet_1d, (32, 12, 5000), 9),
    "HiFi-GAN generator, 100 frames": Network(_hifigan, (1, 80, 100)),
}
# As they serve: an image at a time.
SINGLE: dict[str, Network] = {
    "ResNet-18, one image, 224²": Network(_resnet18, (1, 3, 224, 224), 1000),
    "MobileNetV2, one image, 224²": Network(_mobilenet_v2, (1, 3, 224, 224), 1000),
}
