"""Weights that are computed at every access: their originals, copies, files, gradients, and layers that are joined."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lucid
from lucid import nn, optim
from lucid.autograd import check_grads
from lucid.nn.utils import fuse, fusion, parametrize, weight_norm
from lucid.nn.utils.parametrizations import spectral_norm
from lucid.nn.utils.parametrizations import weight_norm as parametrized_weight_norm
from lucid.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations

NORMS: list[Callable[..., Any]] = [parametrized_weight_norm, weight_norm, spectral_norm]
X = lucid.linspace(-1, 1, 2 * 16 * 20).reshape(2, 16, 20)


class Doubled(nn.Module):
    def forward(self, x: Any) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        return x * 2

    def right_inverse(self, x: Any) -> Any:
        return x / 2


class Square(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * x


class Product(nn.Module):
    def forward(self, a: Any, b: Any) -> Any:
        return a * b

    def right_inverse(self, x: Any) -> Any:
        return x, lucid.ones_like(x)


def conv(**kwargs: Any) -> Any:
    """Weights of 4.6 KB: more than what is packed sooner than kept."""
    lucid.manual_seed(3)
    return nn.Conv1d(16, 24, 3, **kwargs)


def test_an_original_stands_in_the_place_of_the_weight() -> None:
    layer = conv()
    weight, before = layer.weight, layer.weight.detach().numpy().copy()
    assert register_parametrization(layer, "weight", Doubled()) is layer
    assert list(layer.state_dict()) == ["bias", "parametrizations.weight.original"]
    original = layer.parametrizations.weight.original
    assert original is weight and "weight" in dir(layer)  # an optimizer knows it
    np.testing.assert_array_equal(original.detach().numpy(), before / 2)
    np.testing.assert_array_equal(layer.weight.detach().numpy(), before)
    register_parametrization(layer, "weight", Square())
    np.testing.assert_array_equal(layer.weight.detach().numpy(), before**2)
    with pytest.raises(RuntimeError, match="the parametrization Square has no right_inverse"):
        layer.weight = lucid.ones(24, 16, 3)
    assert is_parametrized(layer) and is_parametrized(layer, "weight") and not is_parametrized(layer, "bias")
    assert remove_parametrizations(layer, "weight") is layer
    assert layer.weight is weight and list(layer.state_dict()) == ["bias", "weight"]
    assert not is_parametrized(layer) and not hasattr(layer, "parametrizations")
    np.testing.assert_array_equal(layer.weight.detach().numpy(), before**2)


def test_originals_are_left_where_that_is_asked_for() -> None:
    layer = register_parametrization(conv(), "weight", Doubled())
    layer.weight = lucid.full((24, 16, 3), 4.0)
    remove_parametrizations(layer, "weight", leave_parametrized=False)
    np.testing.assert_array_equal(layer.weight.detach().numpy(), 2.0)


def test_several_originals_and_buffers() -> None:
    layer = register_parametrization(conv(), "weight", Product())
    assert list(layer.state_dict()) == ["bias", *(f"parametrizations.weight.original{i}" for i in (0, 1))]
    layer.requires_grad_(False)
    with pytest.raises(ValueError, match="'weight' of Conv1d is made of 2 tensors, so leave_parametrized=False has"):
        remove_parametrizations(layer, "weight", leave_parametrized=False)
    remove_parametrizations(layer, "weight")
    assert isinstance(layer.weight, nn.Parameter) and not layer.weight.requires_grad

    norm = register_parametrization(nn.BatchNorm1d(4), "running_var", Doubled())
    assert [name for name, _ in norm.named_buffers()][-1] == "parametrizations.running_var.original"
    remove_parametrizations(norm, "running_var")
    assert [name for name, _ in norm.named_buffers()][-1] == "running_var" and float(norm.running_var.sum()) == 4


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_reach_the_originals(norm: Callable[..., Any]) -> None:
    layer = norm(nn.Conv1d(3, 4, 3, dtype="float64")).eval()
    x = lucid.linspace(-1, 1, 2 * 3 * 9, dtype="float64").reshape(2, 3, 9).cos()
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def result(*values: Any) -> Any:
        for name, value in zip(names, values, strict=True):
            owner, _, last = name.rpartition(".")
            layer.get_submodule(owner).__dict__[last] = value
        return layer(x)

    check_grads(result, [lucid.tensor(p.detach().numpy(), requires_grad=True) for p in parameters])


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_changes_what_the_next_call_computes_with(norm: Callable[..., Any]) -> None:
    """Also where weights would be kept packed: without a graph, after several calls, in a joined run."""
    for tail in ([], [nn.LeakyReLU(0.1)], [nn.BatchNorm1d(24), nn.LeakyReLU(0.1)]):
        net = nn.Sequential(norm(conv()), *tail).eval()
        for _ in range(3):
            with lucid.no_grad():
                joined = [net(X).numpy() for _ in range(3)][-1]
                plain = nn.functional.conv1d(X, net[0].weight, net[0].bias)
                for layer in tail:
                    plain = layer(plain)
            np.testing.assert_allclose(joined, plain.numpy(), rtol=1e-4, atol=1e-5)
            (net(X) * X[:, :1, 2:]).sum().backward()
            optim.SGD([p for p in net[0].parameters() if p is not net[0].bias], lr=0.01).step()
            with lucid.no_grad():
                assert np.abs(net(X).numpy() - joined).max() > 1e-3


@pytest.mark.parametrize("norm", NORMS)
def test_copies_are_their_own(norm: Callable[..., Any], tmp_path: Path) -> None:
    net = nn.Sequential(norm(conv()), nn.ReLU()).eval()
    y = net(X).detach().numpy()
    lucid.save(net.state_dict(), tmp_path / "net")
    loaded = nn.Sequential(norm(nn.Conv1d(16, 24, 3)), nn.ReLU()).eval()
    loaded.load_state_dict(lucid.load(tmp_path / "net"))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), loaded):
        np.testing.assert_array_equal(other(X).detach().numpy(), y)
        with lucid.no_grad():
            for parameter in other.parameters():
                parameter.fill_(0.25)
        assert not np.array_equal(other(X).detach().numpy(), y)
        np.testing.assert_array_equal(net(X).detach().numpy(), y)
    assert copy.deepcopy(net).double()(X.double()).dtype is lucid.float64


@pytest.mark.parametrize("norm", NORMS)
def test_fusing_fixes_the_weights(norm: Callable[..., Any]) -> None:
    net = nn.Sequential(norm(conv()), nn.BatchNorm1d(24), nn.ReLU())
    net[1].running_mean.fill_(0.1)
    net[1].running_var.fill_(2.0)
    names, y = list(net.state_dict()), net.eval()(X).detach().numpy()
    fused = fuse(net)
    assert sorted(fused.state_dict()) == ["0.bias", "0.weight"]
    np.testing.assert_allclose(fused(X).numpy(), y, rtol=1e-4, atol=1e-5)
    assert sorted(fuse(net[:1]).state_dict()) == ["0.bias", "0.weight"]
    one = fusion.fuse_conv_bn_eval(net[0], net[1])
    np.testing.assert_allclose(np.maximum(one(X).detach().numpy(), 0), y, rtol=1e-4, atol=1e-5)
    assert list(net.state_dict()) == names
    np.testing.assert_array_equal(net(X).detach().numpy(), y)


def test_a_fused_layer_shares_tensors_only() -> None:
    layer = conv()
    fused = register_parametrization(nn.FusedConv1d.of(layer, nn.ReLU()), "weight", Doubled())
    layer.weight = nn.Parameter(lucid.ones(24, 16, 3))
    assert is_parametrized(fused) and not is_parametrized(layer)


def test_a_joined_run_computes_a_weight_once() -> None:
    layer = register_parametrization(conv(), "weight", Doubled())
    net, parts = nn.Sequential(layer, nn.BatchNorm1d(24), nn.ReLU()).eval(), layer.parametrizations.weight
    for dtype in ("float32", "bfloat16"):
        net.to(dtype)
        parts[0].calls = 0
        with lucid.no_grad():
            net(X.to(dtype))
        assert parts[0].calls == 1


def test_cached_values_live_as_long_as_the_outermost_block() -> None:
    layer = register_parametrization(conv(), "weight", Doubled())
    parts = layer.parametrizations.weight
    parts[0].calls = 0
    with parametrize.cached():
        with parametrize.cached():
            first = layer.weight
        assert layer.weight is first and parts[0].calls == 1
        assert copy.deepcopy(layer).weight is not first
        layer.weight = lucid.ones(24, 16, 3)
        np.testing.assert_array_equal(layer.weight.detach().numpy(), 1.0)
        register_parametrization(layer, "weight", Doubled())
        np.testing.assert_array_equal(layer.weight.detach().numpy(), 2.0)
    second = layer.weight
    assert layer.weight is not second
    with parametrize.cached():
        (layer(X).sum() + layer(X).sum()).backward()
    again = parts.original.grad.numpy().copy()
    layer.zero_grad()
    (layer(X).sum() + layer(X).sum()).backward()
    np.testing.assert_allclose(parts.original.grad.numpy(), again, rtol=1e-5)


def test_state_of_the_form_of_old_can_be_loaded() -> None:
    old = nn.ModuleDict({"up": nn.Sequential(weight_norm(nn.ConvTranspose1d(16, 8, 4)), weight_norm(conv()))})
    new = nn.ModuleDict({"up": nn.Sequential(*map(parametrized_weight_norm, (nn.ConvTranspose1d(16, 8, 4), conv())))})
    state = old.state_dict()
    new.load_state_dict(state)
    for i in (0, 1):
        np.testing.assert_array_equal(new["up"][i].weight.detach().numpy(), old["up"][i].weight.detach().numpy())
    del state["up.1.weight_g"]
    with pytest.raises(RuntimeError, match=r"original0', '.*original1'.\n  Unexpected key\(s\): 'up.1.weight_v'"):
        new.load_state_dict(state)


def test_the_largest_singular_value_is_one() -> None:
    layer = spectral_norm(nn.ConvTranspose2d(4, 6, 3), n_power_iterations=200)
    rows = layer.weight.detach().numpy().transpose(1, 0, 2, 3).reshape(6, -1)
    np.testing.assert_allclose(np.linalg.svd(rows)[1][0], 1, rtol=1e-4)
    u = layer.parametrizations.weight[0]._u
    with lucid.no_grad():
        u.fill_(1.0)
        layer.eval().weight.sum()
    np.testing.assert_array_equal(u.numpy(), 1.0)  # no steps in evaluation
    vector = spectral_norm(nn.BatchNorm1d(4))
    np.testing.assert_allclose(vector.weight.detach().numpy(), 0.5, rtol=1e-6)


def test_explain_and_tune_take_the_layer(tmp_path: Path) -> None:
    layer = nn.Conv1d(2, 2, 3)
    plain = [part.problem for part in lucid.explain(layer, (1, 2, 8)).parts]
    assert [part.problem for part in lucid.explain(parametrized_weight_norm(layer), (1, 2, 8)).parts] == plain
    tuned = lucid.tune(layer, (1, 2, 8), tmp_path / "t.json", seconds=0.0)
    lucid.load_tuning(None)
    assert list(tuned.choices) == plain


class Cast(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.double()


def test_errors() -> None:
    layer = conv(bias=False)
    for name in ("bias", "padding", "other"):
        with pytest.raises(ValueError, match=f"Conv1d has no parameter or buffer '{name}'"):
            register_parametrization(layer, name, Doubled())
    with pytest.raises(ValueError, match=r"the parametrization makes lucid.float64 \(24, 16, 3\) of lucid.float32"):
        register_parametrization(layer, "weight", Cast())
    assert list(layer.state_dict()) == ["weight"] and not is_parametrized(layer)
    assert register_parametrization(copy.deepcopy(layer), "weight", Cast(), unsafe=True).weight.dtype is lucid.float64
    register_parametrization(layer, "weight", Doubled())
    with pytest.raises(ValueError, match=r"the parametrization makes lucid\.float64"):
        register_parametrization(layer, "weight", Cast())
    assert len(layer.parametrizations.weight) == 1
    with pytest.raises(KeyError, match="the parameter name 'weight' is already an attribute"):
        layer.register_parameter("weight", nn.Parameter(lucid.ones(1)))
    with pytest.raises(ValueError, match="'bias' of Conv1d is not parametrized"):
        remove_parametrizations(layer, "bias")
    with pytest.raises(ValueError, match="spectral_norm: n_power_iterations=0 must be at least 1"):
        spectral_norm(conv(), n_power_iterations=0)
    with pytest.raises(IndexError, match=r"spectral_norm: dim=3 is out of range for a weight \(24, 16, 3\)"):
        spectral_norm(conv(), dim=3)
