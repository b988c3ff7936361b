"""Models that tests export: every layer in its variants, and functional code. Both runtimes' tests share them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np

import lucid
import lucid.nn as nn
import lucid.nn.functional as F
from lucid import Tensor
from lucid.cli.bench import networks


class Case(NamedTuple):
    """A model, the shapes (or arrays) of its arguments, and the axes that are dynamic."""

    build: Callable[[], Any]
    args: tuple[Any, ...]
    dynamic: tuple[dict[int, str], ...] = ()


BATCH = ({0: "batch"},)
SIZE = {1: (13,), 2: (9, 11), 3: (6, 7, 8)}
ALL = {rank: ({0: "batch", **{2 + k: f"axis{k}" for k in range(rank)}},) for rank in (1, 2, 3)}
CASES: dict[str, Case] = {}


def case(name: str, model: Any, *args: Any, dynamic: Any = ()) -> None:
    """Enter a case. ``model`` is a function of tensors, or makes a module of nothing."""
    assert name not in CASES, name
    CASES[name] = Case(model, args, dynamic)


def layer(name: str, make: Callable[[], nn.Module], *args: Any, dynamic: Any = BATCH) -> None:
    """Enter a module."""
    case(name, make, *args, dynamic=dynamic)


def verb(name: str, function: Callable[..., Any], *args: Any, dynamic: Any = ()) -> None:
    """Enter a function of tensors."""
    case(name, lambda: function, *args, dynamic=dynamic)


def with_statistics(module: nn.Module) -> nn.Module:
    """Running statistics and affine numbers that a mistake would show in."""
    rng = np.random.default_rng(7)
    for one in module.modules():
        for name, low in (("running_mean", -0.5), ("running_var", 0.5), ("weight", 0.5), ("bias", -0.5)):
            held = getattr(one, name, None)
            if held is not None and held.ndim == 1:
                held._array[...] = rng.random(held.shape) + low
    return module


# Convolutions

_CONV = [
    {}, {"stride": 2}, {"padding": 2, "dilation": 2}, {"groups": 2}, {"groups": 4, "stride": 2, "padding": 1},
    {"bias": False, "stride": 3}, {"padding": "same"}, {"padding": "same", "dilation": 2},
    *({"padding": 2, "padding_mode": mode} for mode in ("reflect", "replicate", "circular")),
]  # fmt: skip
_TRANSPOSED = [
    {}, {"stride": 2}, {"stride": 2, "padding": 1, "output_padding": 1}, {"stride": 3, "output_padding": 2},
    {"dilation": 2, "padding": 1}, {"groups": 2, "stride": 2}, {"groups": 4, "bias": False},
    {"stride": 2, "padding": "same"}, {"stride": 4, "padding": "same"}, {"dilation": 3, "output_padding": 2},
    *({"padding": 1, "stride": 2, "padding_mode": mode} for mode in ("reflect", "replicate", "circular")),
]  # fmt: skip


def _told(options: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in options.items()) or "plain"


for _rank, _options in product((1, 2, 3), _CONV):
    _free = ALL[_rank] if _options.get("padding") != "same" else BATCH
    layer(f"Conv{_rank}d {_told(_options)}", lambda r=_rank, o=_options: getattr(nn, f"Conv{r}d")(4, 8, 3, **o),
          (2, 4, *SIZE[_rank]), dynamic=_free)  # fmt: skip
for _rank, _options in product((1, 2, 3), _TRANSPOSED):
    layer(f"ConvTranspose{_rank}d {_told(_options)}",
          lambda r=_rank, o=_options: getattr(nn, f"ConvTranspose{r}d")(4, 8, 3, **o),
          (2, 4, *(n // 2 + 1 for n in SIZE[_rank])))  # fmt: skip
layer("Conv1d causal", lambda: nn.Conv1d(4, 8, 5, padding="causal", dilation=2), (2, 4, 13), dynamic=ALL[1])
layer("Conv1d causal, circular", lambda: nn.Conv1d(4, 8, 3, padding="causal", padding_mode="circular"), (2, 4, 13))
layer("Conv1d pads 3, 1", lambda: nn.Conv1d(4, 8, 4, padding=((3, 1),), stride=2), (2, 4, 13), dynamic=ALL[1])
layer("Conv2d pads", lambda: nn.Conv2d(4, 8, (3, 2), padding=((0, 2), (1, 0)), stride=(2, 1)), (2, 4, 9, 11))
layer("Conv2d pads, reflect", lambda: nn.Conv2d(4, 8, 3, padding=((0, 2), (1, 0)), padding_mode="reflect"),
      (2, 4, 9, 11))  # fmt: skip
layer("Conv2d same, stride 2", lambda: nn.Conv2d(4, 8, (4, 3), padding="same", stride=2), (2, 4, 9, 11))
layer("Conv2d one image", lambda: nn.Conv2d(4, 8, 3), (4, 9, 11), dynamic=())
layer("Conv1d one signal, reflect", lambda: nn.Conv1d(4, 8, 3, padding=1, padding_mode="reflect"), (4, 9), dynamic=())
layer("ConvTranspose1d causal", lambda: nn.ConvTranspose1d(4, 8, 5, stride=2, padding="causal"), (2, 4, 9))
layer("ConvTranspose1d causal, short", lambda: nn.ConvTranspose1d(4, 8, 2, stride=4, padding="causal"), (2, 4, 9))
layer("ConvTranspose2d pads", lambda: nn.ConvTranspose2d(4, 8, 4, 2, ((1, 2), (0, 1)), 1), (2, 4, 5, 6))
layer("ConvTranspose2d one image", lambda: nn.ConvTranspose2d(4, 8, 3, 2), (4, 5, 6), dynamic=())
verb("conv_transpose2d to a size", lambda x, w: F.conv_transpose2d(x, w, stride=2, output_size=(12, 11)),
     (2, 4, 5, 5), (4, 3, 3, 3))  # fmt: skip
verb("conv1d of a weight that is computed", lambda x, w: F.conv1d(x, w.tanh() * 2), (2, 4, 9), (8, 4, 3))
layer("FusedConv2d", lambda: nn.FusedConv2d(4, 8, 3, activation=nn.LeakyReLU(0.2)), (2, 4, 9, 11))
verb("fused_conv1d", lambda x, w, r: F.fused_conv1d(x, w, padding=1, activation="gelu", residual=r),
     (2, 4, 9), (8, 4, 3), (2, 8, 9))  # fmt: skip


# What follows them

for _rank in (1, 2, 3):
    for _kind, _more in (("Conv", {"groups": 2}), ("ConvTranspose", {"groups": 2, "stride": 2})):
        layer(f"{_kind}{_rank}d, BatchNorm, ReLU",
              lambda r=_rank, k=_kind, m=_more: with_statistics(nn.Sequential(
                  getattr(nn, f"{k}{r}d")(4, 8, 3, **m), getattr(nn, f"BatchNorm{r}d")(8), nn.ReLU())),
              (2, 4, *SIZE[_rank]), dynamic=ALL[_rank])  # fmt: skip
    layer(f"BatchNorm{_rank}d", lambda r=_rank: with_statistics(getattr(nn, f"BatchNorm{r}d")(4)), (2, 4, *SIZE[_rank]))
    layer(f"BatchNorm{_rank}d, no statistics",
          lambda r=_rank: with_statistics(getattr(nn, f"BatchNorm{r}d")(4, track_running_stats=False)),
          (2, 4, *SIZE[_rank]))  # fmt: skip
    layer(f"InstanceNorm{_rank}d", lambda r=_rank: with_statistics(getattr(nn, f"InstanceNorm{r}d")(4, affine=True)),
          (2, 4, *SIZE[_rank]), dynamic=ALL[_rank])  # fmt: skip
layer("fuse", lambda: nn.utils.fuse(with_statistics(nn.Sequential(
    nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Hardswish())).eval()), (2, 4, 9, 11))  # fmt: skip
layer("weight_norm", lambda: nn.utils.weight_norm(nn.Conv1d(4, 8, 3)), (2, 4, 13))
layer("parametrized weight_norm", lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 8, 3)), (2, 4, 13))
layer("parametrized spectral_norm",
      lambda: nn.utils.parametrizations.spectral_norm(nn.Conv1d(4, 8, 3)).eval(), (2, 4, 13))  # fmt: skip
layer("InstanceNorm2d plain", lambda: nn.InstanceNorm2d(4), (2, 4, 9, 11))
layer("GroupNorm", lambda: with_statistics(nn.GroupNorm(2, 4)), (2, 4, 9, 11))
layer("GroupNorm one group", lambda: with_statistics(nn.GroupNorm(1, 4)), (2, 4, 13), dynamic=ALL[1])
layer("GroupNorm not affine", lambda: nn.GroupNorm(2, 4, affine=False), (2, 4, 13))
layer("PReLU, GroupNorm", lambda: with_statistics(nn.Sequential(nn.PReLU(4), nn.GroupNorm(2, 4))), (2, 4, 13))
verb("group_norm with a slope", lambda x: F.group_norm(x, 2, slope=Tensor(np.full(1, 0.3, np.float32))), (2, 4, 13))
layer("LayerNorm", lambda: with_statistics(nn.LayerNorm(11)), (2, 4, 9, 11))
layer("LayerNorm two axes", lambda: nn.LayerNorm((9, 11)), (2, 4, 9, 11))
verb("layer_norm", lambda x: F.layer_norm(x, 11), (2, 4, 11), dynamic=BATCH)
for _name, _made in {
    "ReLU": nn.ReLU, "ReLU in place": lambda: nn.ReLU(inplace=True), "ReLU6": nn.ReLU6,
    "LeakyReLU": lambda: nn.LeakyReLU(0.1), "PReLU": nn.PReLU, "PReLU of channels": lambda: nn.PReLU(4),
    "ELU": lambda: nn.ELU(0.7), "SELU": nn.SELU, "SiLU": nn.SiLU, "GELU": nn.GELU,
    "GELU tanh": lambda: nn.GELU("tanh"), "Mish": nn.Mish, "Sigmoid": nn.Sigmoid, "Tanh": nn.Tanh,
    "Softplus": nn.Softplus, "Softplus beta": lambda: nn.Softplus(2.0, 1.0), "Hardtanh": lambda: nn.Hardtanh(-0.5, 0.7),
    "Hardsigmoid": nn.Hardsigmoid, "Hardswish": nn.Hardswish, "Softmax": lambda: nn.Softmax(1),
    "LogSoftmax": lambda: nn.LogSoftmax(1), "Dropout": nn.Dropout, "Dropout2d": nn.Dropout2d,
    "Identity": nn.Identity, "Flatten": nn.Flatten, "PixelShuffle": lambda: nn.PixelShuffle(2),
}.items():  # fmt: skip
    layer(_name, _made, (2, 4, 9, 11))
layer("Unflatten", lambda: nn.Unflatten(1, (2, 3)), (2, 6, 5))
layer("PixelUnshuffle", lambda: nn.PixelUnshuffle(2), (2, 4, 8, 6))
layer("Linear", lambda: nn.Linear(11, 5), (3, 11))
layer("Linear of more axes", lambda: nn.Linear(11, 5), (2, 3, 11), dynamic=({0: "batch", 1: "time"},))
layer("Linear without bias", lambda: nn.Linear(11, 5, bias=False), (3, 11))

# Pooling and resampling

_POOLS = [
    {}, {"stride": 1}, {"padding": 1}, {"ceil_mode": True}, {"padding": 1, "ceil_mode": True, "stride": 2},
    {"stride": 3, "ceil_mode": True},
]  # fmt: skip
for _rank in (1, 2, 3):
    for _options in _POOLS:
        _free = BATCH if _options.get("ceil_mode") else ALL[_rank]
        layer(f"MaxPool{_rank}d {_told(_options)}", lambda r=_rank, o=_options: getattr(nn, f"MaxPool{r}d")(3, **o),
              (2, 4, *SIZE[_rank]), dynamic=_free)  # fmt: skip
        for _included in (True, False):
            layer(f"AvgPool{_rank}d {_told(_options)}, include={_included}",
                  lambda r=_rank, o=_options, i=_included: getattr(nn, f"AvgPool{r}d")(3, **o, count_include_pad=i),
                  (2, 4, *SIZE[_rank]), dynamic=_free)  # fmt: skip
    for _out in (1, 2, 5):
        layer(f"AdaptiveAvgPool{_rank}d {_out}", lambda r=_rank, o=_out: getattr(nn, f"AdaptiveAvgPool{r}d")(o),
              (2, 4, *SIZE[_rank]), dynamic=ALL[_rank] if _out == 1 else BATCH)  # fmt: skip
    layer(f"AdaptiveMaxPool{_rank}d", lambda r=_rank: getattr(nn, f"AdaptiveMaxPool{r}d")(2),
          (2, 4, *(6 for _ in range(_rank))))  # fmt: skip
layer("MaxPool2d dilated", lambda: nn.MaxPool2d(2, 1, dilation=3), (2, 4, 9, 11))
layer("MaxPool2d dilated, ceil", lambda: nn.MaxPool2d(2, 3, dilation=4, padding=1, ceil_mode=True), (2, 4, 9, 11))
layer("MaxPool1d one signal", lambda: nn.MaxPool1d(2), (4, 9), dynamic=())
verb("max_pool2d with indices", lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True), (2, 4, 9, 11), dynamic=BATCH)
verb("avg_pool2d with a divisor", lambda x: F.avg_pool2d(x, 3, 2, 1, divisor_override=5), (2, 4, 9, 11), dynamic=BATCH)
for _mode, _rank in (
    ("nearest", 1),
    ("nearest", 2),
    ("nearest", 3),
    ("linear", 1),
    ("bilinear", 2),
    ("trilinear", 3),
    ("bicubic", 2),
):
    layer(f"Upsample{_rank}d {_mode}", lambda m=_mode: nn.Upsample(scale_factor=2, mode=m), (2, 4, *SIZE[_rank]),
          dynamic=ALL[_rank])  # fmt: skip
    layer(f"Upsample{_rank}d {_mode} to a size", lambda m=_mode, r=_rank: nn.Upsample(size=(17, 5, 9)[:r], mode=m),
          (2, 4, *SIZE[_rank]))  # fmt: skip
for _aligned, _mode in product((False, True), ("bilinear", "bicubic")):
    verb(f"interpolate {_mode}, aligned={_aligned}",
         lambda x, m=_mode, a=_aligned: F.interpolate(x, scale_factor=(1.5, 3), mode=m, align_corners=a), (2, 4, 8, 6),
         dynamic=ALL[2])  # fmt: skip
verb("interpolate nearest-exact, area", lambda x: [F.interpolate(x, size=(7, 5), mode=m) for m in (
    "nearest-exact", "area")], (2, 4, 9, 11), dynamic=BATCH)  # fmt: skip
layer("Upsample bilinear, aligned", lambda: nn.Upsample(scale_factor=1.5, mode="bilinear", align_corners=True),
      (2, 4, 9, 11))  # fmt: skip
verb("unfold", lambda x: F.unfold(x, 3, 2, 1, 2), (2, 4, 9, 11), dynamic=BATCH)
for _mode in ("constant", "reflect", "replicate", "circular"):
    verb(f"pad {_mode}", lambda x, m=_mode: F.pad(x, (2, 1, 0, 3), m), (2, 4, 9, 11), dynamic=BATCH)
verb("pad with a value", lambda x: F.pad(x, (2, -1), value=1.5), (2, 4, 9))

# Functional code


def shared(x: Tensor) -> Any:
    """Cut, joined, turned, summed."""
    a, b, c = x.split([1, 2, 1], 1)
    joined = lucid.cat([b, a.repeat(1, 2, 1), c.expand(-1, 2, -1)], 1)
    turned = lucid.stack([joined, joined.flip(2)], 1).permute(0, 2, 1, 3)
    return {"turned": turned.reshape(x.shape[0], -1), "rest": [joined[:, 1:, ::2], joined[:, -1], x.roll(3, 2)]}


verb("shapes", shared, (2, 4, 9), dynamic=BATCH)
verb("arithmetic", lambda x, y: ((x + 2) * y - x / (y.abs() + 1)) ** 2 / 3 + 1 / (x * x + 1), (2, 4, 9), (4, 1))
verb("functions", lambda x: (x.exp() + x.abs().log1p()).sqrt() + x.sin() * x.cos() - x.sigmoid().rsqrt() + x.erf(),
     (3, 5))  # fmt: skip
verb("more functions", lambda x: [getattr(x.abs() + 1.2, name)() for name in (
    "log", "log2", "log10", "expm1", "exp2", "square", "reciprocal", "neg", "sign", "floor", "ceil", "trunc", "round",
    "tan", "sinh", "cosh", "tanh", "asinh", "acosh", "atan", "erfc")], (3, 5))  # fmt: skip
verb("remainders", lambda x: [x % 0.3, x // 0.3, lucid.fmod(x, 0.3), x.maximum(0.1), x.clamp(min=-0.5), x.clamp(-1, 1)],
     (3, 5))  # fmt: skip
verb("reductions", lambda x: [x.sum(), x.mean(1), x.amax((0, 2), keepdim=True), x.amin(-1), x.prod(1), x.norm(),
     x.var(1), x.std((0, 1), unbiased=False), x.logsumexp(2), x.argmax(1), x.argmin(), x.cumsum(1)],
     (2, 4, 9))  # fmt: skip
verb("reductions of a batch", lambda x: x - x.mean((1, 2), keepdim=True) / x.std(2, keepdim=True), (2, 4, 9),
     dynamic=BATCH)  # fmt: skip
verb("choices", lambda x: [lucid.where(x > 0, x, -2.0), (x > 0) & (x < 1), x.masked_fill(x <= 0.1, 0), ~(x == x),
     (x > 0).any(1), (x > -9).all(), (x > 0).sum(1), lucid.isfinite(x)], (2, 4, 9))  # fmt: skip
verb("extremes", lambda x: [*x.max(1), *x.min(2), *x.topk(3, 1), *x.sort(2, descending=True)], (2, 4, 9))
verb("indices", lambda x: [x[:, 1], x[..., None, 2:-1], x[:, [2, 0, 3]], x.index_select(2, Tensor([1, 1, 5])),
     x.gather(1, Tensor(np.array([[[2, 1], [0, 0]]] * 2)))], (2, 4, 9))  # fmt: skip
verb("products", lambda x, w: [x @ w, lucid.einsum("ncl,lk->nkc", x, w), x.transpose(1, 2) @ x], (2, 4, 9), (9, 5))
verb("integers", lambda x: [x + 1, x // 3, x % 3, x.float() / 2, x * 2 > 5, x & 3, x > 1.5, x.sum(), -x],
     np.arange(-6, 6).reshape(3, 4))  # fmt: skip
verb("a table read", lambda x, w: F.softmax(w[x], -1), np.array([[1, 0], [2, 2]]), (4, 5))
verb("the input itself", lambda x: (x, x, lucid.ones(2)), (3, 4))
verb("triangles", lambda x: [x.tril(), x.triu(1)], (4, 4))


def written(x: Tensor) -> Tensor:
    """Writes in place: into values, views and places."""
    y = x * 2
    y += x
    y[:, 0] = 0.5
    y[:, 1].mul_(3)
    y[..., 2:4] += 1
    return F.relu(y, inplace=True)


class Curve(lucid.autograd.Function):
    """An operation with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        return x * 2 + x.sigmoid()


verb("an operation of one's own", lambda x: Curve.apply(x).tanh(), (2, 4), dynamic=BATCH)
layer("lazy layers", lambda: nn.Sequential(nn.LazyConv1d(8, 3), nn.LazyBatchNorm1d(), nn.ReLU()), (2, 4, 9))
verb("writes in place", written, (2, 4, 9))


class Attended(nn.Module):
    """Squeeze and excitation, a gate, a skip: code in ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding=1)
        self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        a, b = self.conv(x).chunk(2, 1)
        y = a.tanh() * b.sigmoid()
        weight = self.up(F.relu(self.down(y.mean(-1)))).sigmoid()
        return (y * weight.unsqueeze(-1) + x) * scale


layer("gates", Attended, (2, 4, 13), dynamic=ALL[1])
layer("another argument", Attended, (2, 4, 13), 0.5, dynamic=ALL[1])


class UNet(nn.Module):
    """Down and up again, with what was there before beside it."""

    def __init__(self) -> None:
        super().__init__()

        def block(c_in: int, c_out: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))

        self.first, self.second, self.last = block(1, 8), block(8, 16), block(24, 8)
        self.down, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        return self.head(self.last(lucid.cat([self.up(self.second(self.down(skip))), skip], 1)))


layer("U-Net", lambda: with_statistics(UNet()), (1, 1, 16, 24), dynamic=ALL[2])
layer("Conv-TasNet-like", lambda: networks._conv_tasnet(lucid), (1, 1, 160), dynamic=BATCH)
layer("DigitsNet", lambda: with_statistics(lucid.models.DigitsNet()), (2, 1, 8, 8))
layer("VowelsNet", lambda: with_statistics(lucid.models.VowelsNet()), (2, 12, 29), dynamic=ALL[1])


# Other element types


for _type in ("float64", "float16"):
    layer(f"{_type}", lambda t=_type: nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.AvgPool1d(2)).to(dtype=t),
          np.linspace(-1, 1, 2 * 4 * 13, dtype=_type).reshape(2, 4, 13))  # fmt: skip
