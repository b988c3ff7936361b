"""Lazy layers: shapes from the first input, then the layer they stand for."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lucid
from lucid import nn

LAYERS: list[tuple[Any, Any, tuple[int, ...]]] = [
    (lambda: nn.LazyConv1d(8, 3, groups=2), lambda: nn.Conv1d(4, 8, 3, groups=2), (2, 4, 9)),
    (lambda: nn.LazyConv2d(8, 3, stride=2, bias=False), lambda: nn.Conv2d(3, 8, 3, stride=2, bias=False), (2, 3, 9, 9)),
    (lambda: nn.LazyConv3d(2, 3, padding="same"), lambda: nn.Conv3d(3, 2, 3, padding="same"), (3, 4, 4, 4)),
    (lambda: nn.LazyConvTranspose1d(6, 4, 2), lambda: nn.ConvTranspose1d(3, 6, 4, 2), (2, 3, 9)),
    (lambda: nn.LazyConvTranspose2d(6, 3, groups=3), lambda: nn.ConvTranspose2d(3, 6, 3, groups=3), (2, 3, 5, 5)),
    (lambda: nn.LazyConvTranspose3d(2, 2), lambda: nn.ConvTranspose3d(3, 2, 2), (1, 3, 3, 3, 3)),
    (lambda: nn.LazyLinear(5), lambda: nn.Linear(7, 5), (2, 3, 7)),
    (lambda: nn.LazyBatchNorm1d(), lambda: nn.BatchNorm1d(6), (4, 6)),
    (lambda: nn.LazyBatchNorm2d(momentum=0.2), lambda: nn.BatchNorm2d(6, momentum=0.2), (4, 6, 3, 3)),
    (lambda: nn.LazyBatchNorm3d(affine=False), lambda: nn.BatchNorm3d(3, affine=False), (2, 3, 2, 2, 2)),
    (lambda: nn.LazyInstanceNorm1d(affine=True), lambda: nn.InstanceNorm1d(3, affine=True), (3, 8)),
    (lambda: nn.LazyInstanceNorm2d(), lambda: nn.InstanceNorm2d(3), (2, 3, 4, 4)),
    (lambda: nn.LazyInstanceNorm3d(affine=True), lambda: nn.InstanceNorm3d(2, affine=True), (1, 2, 4, 4, 4)),
]


@pytest.mark.parametrize(("lazy", "eager", "shape"), LAYERS)
def test_a_lazy_layer_becomes_the_one_it_stands_for(lazy: Any, eager: Any, shape: tuple[int, ...]) -> None:
    x = lucid.randn(*shape)
    layer = lazy()
    held = dict(layer.named_parameters())
    lucid.manual_seed(3)
    y = layer(x)
    lucid.manual_seed(3)
    other = eager()
    assert type(layer) is type(other) and repr(layer) == repr(other)
    np.testing.assert_array_equal(y.detach().numpy(), other(x).detach().numpy())
    assert all(parameter is held[name] for name, parameter in layer.named_parameters())
    assert {n: (t.shape, t.dtype) for n, t in layer.state_dict().items()} == {
        n: (t.shape, t.dtype) for n, t in other.state_dict().items()
    }
    if held:
        y.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize(("lazy", "eager", "shape"), LAYERS)
def test_a_state_dict_gives_shapes_and_values(lazy: Any, eager: Any, shape: tuple[int, ...]) -> None:
    layer, other, x = lazy(), eager(), lucid.randn(*shape)
    other(x)
    layer.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(layer.eval()(x).detach().numpy(), other.eval()(x).detach().numpy())
    assert repr(layer) == repr(other)


def net() -> nn.Sequential:
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))


def test_whole_networks_train_after_their_first_input() -> None:
    model = net()
    with pytest.raises(ValueError, match="lazy layer has no shape yet: call the network once"):
        lucid.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="no shape yet"):
        sum(p.numel() for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters()) and "LazyConv2d(0, 4" in repr(model)
    model(lucid.randn(2, 3, 6, 6))
    optimizer = lucid.optim.SGD(model.parameters(), lr=0.1)
    before = model[0].weight.detach().clone()
    model(lucid.randn(2, 3, 6, 6)).square().sum().backward()
    optimizer.step()
    assert not np.array_equal(before.numpy(), model[0].weight.detach().numpy())
    assert [type(layer) for layer in model][:2] == [nn.Conv2d, nn.BatchNorm2d]


def test_what_waits_can_be_cast_copied_and_saved() -> None:
    model = net().double()
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied[0].weight is not model[0].weight and copied[0].weight.dtype is lucid.float64
        copied(lucid.randn(2, 3, 6, 6, dtype=lucid.float64))
        assert copied[0].weight.dtype is lucid.float64 and model[0].has_uninitialized_params()
    waiting = model.state_dict()
    assert isinstance(waiting["0.weight"], nn.UninitializedParameter)
    model.load_state_dict(waiting)
    with pytest.raises(RuntimeError, match=r"Size mismatch for '0.weight': no shape yet in the state dict"):
        copied.load_state_dict(waiting)


def test_saving_before_the_first_input_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="call the network once"):
        lucid.save(net().state_dict(), tmp_path / "net.safetensors")


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda: nn.LazyConv2d(4, 3, groups=3), lucid.ShapeError, "LazyConv2d: out_channels=4"),
    (lambda: nn.LazyConv2d(4, 3, groups=2)(lucid.zeros(1, 3, 8, 8)), lucid.ShapeError, "LazyConv2d: in_channels=3"),
    (lambda: nn.LazyConv2d(4, 3)(lucid.zeros(8, 8)), lucid.ShapeError, r"LazyConv2d: the input \(8, 8\) has 2 axes"),
    (lambda: nn.LazyLinear(4)(np.zeros(3)), TypeError, "LazyLinear: the input must be a Tensor"),
    (lambda: nn.LazyBatchNorm2d()(lucid.zeros(2, 3)), lucid.ShapeError, "LazyBatchNorm2d: the input"),
    (lambda: nn.UninitializedParameter() + 1, ValueError, "no shape yet"),
])  # fmt: skip
def test_errors(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_a_wrong_first_input_leaves_the_layer_waiting() -> None:
    layer = nn.LazyConv2d(4, 3, groups=2)
    with pytest.raises(lucid.ShapeError):
        layer(lucid.zeros(1, 3, 8, 8))
    assert layer(lucid.zeros(1, 2, 8, 8)).shape == (1, 4, 6, 6)


def test_explain_and_tune_take_lazy_layers(tmp_path: Path) -> None:
    assert "Conv2d" in str(lucid.explain(nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU()), (1, 3, 8, 8)))
    lucid.tune(nn.LazyConv2d(4, 3), (1, 3, 8, 8), tmp_path / "tuning.json", seconds=0.0)
    lucid.load_tuning(None)
