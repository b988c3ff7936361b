"""Layers joined for inference compute what they did apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lucid
from lucid import nn
from lucid.kernels.convolution import observed
from lucid.nn.modules.fused import FUSED, FUSIBLE
from lucid.nn.utils import fuse, fuse_conv_bn_eval, fuse_conv_bn_weights, fuse_modules

CONVS: dict[type[Any], type[Any]] = {
    nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d,
    nn.ConvTranspose1d: nn.BatchNorm1d, nn.ConvTranspose2d: nn.BatchNorm2d, nn.ConvTranspose3d: nn.BatchNorm3d,
}  # fmt: skip


def lively(bn: Any) -> Any:
    """With statistics, scales and shifts unlike those of a fresh one."""
    rng = np.random.default_rng(bn.num_features)
    for name in ("running_mean", "weight", "bias"):
        if getattr(bn, name) is not None:
            getattr(bn, name)._array[...] = rng.standard_normal(bn.num_features)
    bn.running_var._array[...] = rng.uniform(0.1, 3.0, bn.num_features)
    return bn


def same(model: Any, fused: Any, *shape: int) -> None:
    x = lucid.randn(*shape, dtype=lucid.float64)
    with lucid.no_grad():
        result = fused(x).numpy()
    np.testing.assert_allclose(result, model(x).detach().numpy(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("conv", "bn"), CONVS.items())
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_a_batch_norm_goes_into_the_weights(conv: Any, bn: Any, groups: int, bias: bool) -> None:
    layer = conv(4, 6, 3, stride=2, groups=groups, bias=bias, dtype=lucid.float64).eval()
    norm = lively(bn(6, dtype=lucid.float64, affine=bias)).eval()
    fused = fuse_conv_bn_eval(layer, norm)
    assert type(fused) is conv
    assert fused.weight is not layer.weight
    same(nn.Sequential(layer, norm).eval(), fused, 2, 4, *(7,) * conv.rank)


def test_the_weights_alone() -> None:
    conv, bn = nn.Conv1d(2, 4, 3), lively(nn.BatchNorm1d(4))
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    fused = fuse_conv_bn_eval(conv.eval(), bn.eval())
    np.testing.assert_array_equal(weight.detach().numpy(), fused.weight.detach().numpy())
    np.testing.assert_array_equal(bias.detach().numpy(), fused.bias.detach().numpy())


@pytest.mark.parametrize(
    ("bn", "message"),
    [
        (nn.BatchNorm2d(4), "training mode; call eval"),
        (nn.BatchNorm2d(4, track_running_stats=False).eval(), "must be a batch norm that tracks running statistics"),
        (nn.ReLU().eval(), "must be a batch norm"),
        (nn.BatchNorm2d(5).eval(), "is not for the 4 channels"),
    ],
)
def test_what_cannot_be_folded_is_said(bn: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fuse_conv_bn_eval(nn.Conv2d(2, 4, 3).eval(), bn)


def test_a_model_is_fused_wherever_layers_follow_each_other() -> None:
    model = nn.Sequential(
        {
            "stem": nn.Sequential(
                nn.Conv2d(3, 8, 3, dtype=lucid.float64), lively(nn.BatchNorm2d(8, dtype=lucid.float64)), nn.ReLU()
            ),
            "pool": nn.MaxPool2d(2),
            "up": nn.ConvTranspose2d(8, 6, 4, stride=2, groups=2),
            "act": nn.LeakyReLU(0.2),
            "bn": lively(nn.BatchNorm2d(6)),
            "last": nn.Conv2d(6, 2, 1),
        }
    ).to(lucid.float64)
    before = {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}
    fused = fuse(model)
    assert model.training
    assert not fused.training
    assert not any(p.requires_grad for p in fused.parameters())
    names = {name: type(module).__name__ for name, module in fused.named_modules()}
    assert names["stem.0"] == "FusedConv2d"
    assert names["stem.1"] == names["stem.2"] == names["act"] == "Identity"
    assert names["up"] == "FusedConvTranspose2d"
    assert (names["bn"], names["last"]) == ("BatchNorm2d", "Conv2d")
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.detach().numpy(), before[name])
    same(model.eval(), fused, 2, 3, 12, 13)
    with observed() as seen:
        fused(lucid.randn(1, 3, 12, 12, dtype=lucid.float64))
    assert [str(p.epilogue) for p in seen] == ["relu", "leaky_relu(0.2)", ""]


@pytest.mark.parametrize("kind", FUSIBLE, ids=lambda kind: kind.__name__)
def test_every_activation_that_is_fused(kind: Any) -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 3, dtype=lucid.float64), kind())
    fused = fuse(model)
    assert type(fused[0]) is nn.FusedConv1d
    same(model, fused, 2, 2, 50)


def test_one_activation_layer_may_serve_twice() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Conv1d(2, 4, 3), relu, nn.Conv1d(4, 4, 3), relu).to(lucid.float64)
    fused = fuse(model)
    assert [type(m).__name__ for m in fused] == ["FusedConv1d", "Identity", "FusedConv1d", "Identity"]
    same(model, fused, 1, 2, 9)


def test_layers_that_somebody_listens_to_stay() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU())
    model[2].register_forward_hook(lambda module, args, out: None)
    assert [type(m).__name__ for m in fuse(model)] == ["Conv1d", "Identity", "ReLU"]


class Residual(nn.Module):
    """A block whose forward says what follows what."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Any) -> Any:
        y = self.relu(self.bn1(self.conv1(x)))
        return nn.functional.relu(self.bn2(self.conv2(y)) + x)


def test_layers_are_fused_by_name_where_a_forward_calls_them() -> None:
    model = nn.Sequential(Residual(4), Residual(4)).to(lucid.float64)
    for block in model:
        lively(block.bn1)
        lively(block.bn2)
    names = [[f"{i}.conv1", f"{i}.bn1", f"{i}.relu"] for i in range(2)] + [[f"{i}.conv2", f"{i}.bn2"] for i in range(2)]
    fused = fuse_modules(model, names)
    assert type(fused[0].conv1) is nn.FusedConv2d
    assert type(fused[1].conv2) is nn.Conv2d
    same(model.eval(), fused, 2, 4, 8, 9)
    assert type(fuse_modules(Residual(4), ["conv1", "bn1"]).bn1) is nn.Identity
    with pytest.raises(
        ValueError, match=r"fuse_modules: \['conv1', 'conv2'\] \(Conv2d, Conv2d\) must be a convolution"
    ):
        fuse_modules(Residual(4), ["conv1", "conv2"])


@pytest.mark.parametrize(("plain", "kind"), FUSED.items(), ids=lambda kind: kind.__name__)
def test_a_fused_layer_is_the_plain_one_with_an_end(plain: Any, kind: Any) -> None:
    layer = kind(4, 4, 3, padding=1, activation=nn.LeakyReLU(0.1), dtype=lucid.float64)
    base = plain(4, 4, 3, padding=1, dtype=lucid.float64)
    assert list(layer.state_dict()) == list(base.state_dict()) == ["weight", "bias"]
    base.load_state_dict(layer.state_dict())
    x = lucid.randn(2, 4, *(6,) * plain.rank, dtype=lucid.float64)
    with lucid.no_grad():
        np.testing.assert_allclose(
            layer(x, residual=x).numpy(), nn.functional.leaky_relu(base(x) + x, 0.1).numpy(), rtol=1e-12, atol=1e-12
        )
        none = kind.of(base, None)
        np.testing.assert_array_equal(none(x).numpy(), base(x).numpy())
        np.testing.assert_allclose(none(x, residual=x).numpy(), (base(x) + x).numpy(), rtol=1e-12)


def test_a_fused_layer_shows_what_it_is() -> None:
    assert repr(nn.FusedConv2d(2, 4, 3, activation=nn.GELU())) == (
        "FusedConv2d(\n  2, 4, kernel_size=(3, 3), stride=(1, 1)\n  (activation): GELU(approximate='none')\n)"
    )
    with pytest.raises(
        TypeError, match=r"FusedConv1d: activation=PReLU\(num_parameters=1\) must be None or one of ReLU"
    ):
        nn.FusedConv1d(2, 4, 3, activation=nn.PReLU())
