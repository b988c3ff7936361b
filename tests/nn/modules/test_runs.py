"""Sequential layers computed at once are what they are one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lucid
from lucid import nn
from lucid.autograd import check_grads
from lucid.core.errors import DTypeError
from lucid.kernels import kept
from lucid.kernels.convolution import observed
from lucid.ops.norm import taken_in
from tests.nn.test_fusion import CONVS, lively

ACTIVATIONS = [
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.LeakyReLU(0.3),
    nn.GELU("tanh"),
    nn.PReLU(dtype=lucid.float64),
    None,
]


def one_by_one(layers: Any, x: Any) -> np.ndarray:
    for layer in layers:
        x = layer(x)
    return x.detach().numpy()


def epilogues(layers: Any, x: Any) -> list[str]:
    """What the convolutions' kernels were asked to end with."""
    with lucid.no_grad(), observed() as problems:
        layers(x)
    return [str(problem.epilogue) for problem in problems]


@pytest.mark.parametrize(("conv", "bn"), CONVS.items())
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("normed", [True, False])
def test_at_once_as_one_by_one(conv: Any, bn: Any, activation: Any, normed: bool) -> None:
    rest = [lively(bn(6, dtype=lucid.float64))] * normed + [activation] * (activation is not None)
    layers = nn.Sequential(conv(4, 6, 3, stride=2, dtype=lucid.float64), *rest, conv(6, 2, 1, dtype=lucid.float64))
    layers.eval()
    x = lucid.randn(2, 4, *(7,) * conv.rank, dtype=lucid.float64)
    with lucid.no_grad():
        np.testing.assert_allclose(layers(x).numpy(), one_by_one(layers, x), rtol=1e-12, atol=1e-12)


def test_the_kernel_is_asked_for_all_of_it() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.LeakyReLU(0.1))
    x = lucid.randn(1, 3, 8, 8)
    assert epilogues(layers.eval(), x) == ["relu", "leaky_relu(0.1)"]


def test_a_batch_norm_is_in_sums_where_weights_could_change_unseen() -> None:
    layers, x = nn.Sequential(nn.Conv2d(3, 8, 3), lively(nn.BatchNorm2d(8)), nn.ReLU()).eval(), lucid.randn(1, 3, 8, 8)
    held = layers[0].weight.detach().numpy()
    assert epilogues(layers, x) == ["scale and shift, relu"]
    held *= 2
    with lucid.no_grad():
        np.testing.assert_allclose(layers(x).numpy(), one_by_one(layers, x), atol=1e-5)
    assert epilogues(layers.half(), x.half())[0].startswith("scale and shift"), "in halves weights would be rounded"


def test_a_batch_norm_leaves_weights_that_someone_holds_and_is_in_them_when_nobody_does_any_more() -> None:
    layers, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval(), lucid.randn(1, 3, 8, 8)
    for held in (layers[0].weight, layers[1].running_var, layers[1].bias):
        assert epilogues(layers, x) == epilogues(layers, x) == ["relu"]
        alias = held.detach()
        assert epilogues(layers, x) == ["scale and shift, relu"]
        alias.mul_(2.0)
        with lucid.no_grad():
            np.testing.assert_allclose(layers(x).numpy(), one_by_one(layers, x), atol=1e-5)
        del alias
    assert epilogues(layers, x) == ["relu"]


def test_weights_with_a_batch_norm_in_them_are_made_once() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    parts = layers[0].weight, layers[0].bias, False, layers[1].running_mean, layers[1].running_var
    with lucid.no_grad():
        first = taken_in(*parts, layers[1].weight, layers[1].bias, 1e-5)
        assert first is not None and taken_in(*parts, layers[1].weight, layers[1].bias, 1e-5) is first


def test_a_batch_norm_is_in_sums_where_there_is_no_room_for_more_weights() -> None:
    layers, limit = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval(), kept.stats().limit_bytes
    kept.set_limit(layers[0].weight.nbytes - 1)
    try:
        assert epilogues(layers, lucid.randn(1, 3, 8, 8)) == ["scale and shift, relu"]
    finally:
        kept.set_limit(limit)


@pytest.mark.parametrize(("conv", "bn"), [(nn.Conv1d, nn.BatchNorm1d), (nn.ConvTranspose1d, nn.BatchNorm1d)])
@pytest.mark.parametrize("part", ["0.weight", "0.bias", "1.running_mean", "1.running_var", "1.weight", "1.bias", "eps"])
def test_a_batch_norm_in_weights_sees_changes(conv: Any, bn: Any, part: str) -> None:
    layers = nn.Sequential(conv(4, 6, 3, groups=2), lively(bn(6)), nn.ReLU()).eval()
    x = lucid.randn(2, 4, 9)
    with lucid.no_grad():
        before = layers(x).numpy()
        if part == "eps":
            layers[1].eps = 0.5
        else:
            layers.state_dict()[part].mul_(1.5)
        after = layers(x).numpy()
        assert abs(after - before).max() > 1e-3
        np.testing.assert_allclose(after, one_by_one(layers, x), atol=1e-5)


def test_while_a_gradient_is_recorded_few_activations_are_the_kernels() -> None:
    """Those whose gradient the result tells: not GELU, nor a slope below 0, nor halves, rounded once more."""
    for activation, dtype, ends in (
        (nn.ReLU(inplace=True), lucid.float32, "relu"), (nn.LeakyReLU(0.5), lucid.float64, "leaky_relu(0.5)"),
        (nn.GELU(), lucid.float32, ""), (nn.LeakyReLU(-0.5), lucid.float32, ""), (nn.ReLU(), lucid.float16, ""),
    ):  # fmt: skip
        layers = nn.Sequential(nn.Conv1d(2, 3, 3, dtype=dtype), activation)
        with observed() as problems:
            layers(lucid.randn(1, 2, 9, dtype=dtype)).sum().backward()
        assert [str(p.epilogue) for p in problems if p.role == "forward"] == [ends]
        assert layers[0].weight.grad is not None


@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), nn.LeakyReLU(0.1)], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize(("conv", "size"), [(nn.Conv1d, (400,)), (nn.Conv2d, (20, 21)), (nn.Conv3d, (5, 6, 7))])
@pytest.mark.parametrize("asked", ["x w b", "x w", "w b", "w", "b", "x"])
def test_gradients_behind_an_activation_in_the_kernel(activation: Any, conv: Any, size: Any, asked: str) -> None:
    """The same bits as one by one, whatever is asked for."""
    layers, x = nn.Sequential(conv(8, 16, 3, padding=1), activation), lucid.randn(2, 8, *size)
    parts = {"x": x, "w": layers[0].weight, "b": layers[0].bias}
    for name, part in parts.items():
        part.requires_grad_(name in asked.split())
    found = []
    for at_once in (True, False):
        y = layers(x) if at_once else layers[1](layers[0](x))
        assert (y.grad_fn.name == "conv_ended") == at_once
        wanted = [parts[name] for name in asked.split()]
        gradients = lucid.autograd.grad(y, wanted, y.detach() * 2 - 1)
        found.append([y.detach().numpy(), *(g.numpy() for g in gradients)])
    for at_once, apart in zip(*found, strict=True):
        np.testing.assert_array_equal(at_once, apart)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.1)], ids=lambda a: type(a).__name__)
def test_second_gradients_behind_an_activation_in_the_kernel(activation: Any) -> None:
    layers = nn.Sequential(nn.Conv1d(2, 3, 3, dtype=lucid.float64), activation)
    x = lucid.randn(2, 2, 9, dtype=lucid.float64, requires_grad=True)
    check_grads(lambda x, w, b: layers(x) * layers(x), (x, *layers.parameters()), rtol=1e-4)


def test_statistics_of_the_batch_are_not_known_before() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    assert epilogues(layers, lucid.randn(2, 3, 8, 8)) == [""]
    assert layers[1].num_batches_tracked.item() == 1


def test_who_listens_hears_every_layer() -> None:
    layers, seen = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval(), []
    x = lucid.randn(1, 3, 8, 8)
    with layers[1].register_forward_hook(lambda m, args, y: seen.append("norm")):
        assert epilogues(layers, x) == [""]
    with layers[0].register_forward_pre_hook(lambda m, args: seen.append("conv")):
        assert epilogues(layers, x) == [""]
    assert seen == ["norm", "conv"]
    layers[2].forward = lambda y: y * 0.0  # type: ignore[method-assign]
    assert epilogues(layers, x) == [""] and not layers(x).any()


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(("first", "second"), [
    (nn.Conv2d(3, 8, 3), nn.ReLU()), (nn.BatchNorm2d(3), nn.ReLU()), (nn.PReLU(3), nn.GroupNorm(1, 3)),
])  # fmt: skip
def test_backward_hooks_hear_every_layer(first: Any, second: Any, at: int) -> None:
    layers, seen = nn.Sequential(first, second), []
    x = lucid.randn(2, 3, 8, 8, requires_grad=True)
    with layers[at].register_full_backward_hook(lambda m, g, up: seen.append((g[0].shape, up[0].shape))):
        y = layers(x)
        y.backward()
    assert seen == [((x if at == 0 else y).shape, y.shape)]
    with layers[at].register_full_backward_pre_hook(lambda m, up: seen.append(up[0].shape)):
        layers(x).backward()
    assert seen[1:] == [y.shape]


def test_one_signal_whose_channels_a_batch_norm_takes_for_samples() -> None:
    layers = nn.Sequential(nn.Conv1d(2, 6, 3), lively(nn.BatchNorm1d(6)), nn.ReLU()).eval()
    x = lucid.randn(2, 8)
    with lucid.no_grad():
        np.testing.assert_array_equal(layers(x).numpy(), one_by_one(layers, x))


@pytest.mark.parametrize(
    ("norm", "error"), [(nn.BatchNorm1d(8), ValueError), (nn.BatchNorm2d(8, dtype=lucid.float64), DTypeError)]
)
def test_layers_that_do_not_fit_say_so_themselves(norm: Any, error: type[Exception]) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), norm).eval()
    with lucid.no_grad(), pytest.raises(error, match=type(norm).__name__):
        layers(lucid.randn(1, 3, 8, 8))


@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), nn.ReLU6()], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize(("norm", "shape"), [
    (nn.BatchNorm1d, (40, 3)), (nn.BatchNorm1d, (4, 3, 200)), (nn.BatchNorm2d, (4, 3, 30, 20)),
    (nn.BatchNorm3d, (2, 3, 2, 2, 2)),
])  # fmt: skip
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [lucid.float32, lucid.float16, lucid.bfloat16], ids=str)
def test_training_at_once_as_one_by_one(
    activation: Any, norm: Any, shape: tuple[int, ...], affine: bool, dtype: Any
) -> None:
    """The same bits: results, statistics and gradients."""
    found, x, g = [], (lucid.randn(*shape) * 3).to(dtype), lucid.randn(*shape).to(dtype)
    for at_once in (True, False):
        layers = nn.Sequential(norm(3, affine=affine, dtype=dtype), activation)
        if affine:
            lively(layers[0])
        given = x.detach().requires_grad_()
        y = layers(given) if at_once else layers[1](layers[0](given))
        assert ("clamped" in y.grad_fn.name) == at_once
        y.backward(g)
        parts = [y, given.grad, *layers[0].buffers(), *(p.grad for p in layers.parameters())]
        found.append([part.detach().numpy() for part in parts])
    for at_once, apart in zip(*found, strict=True):
        np.testing.assert_array_equal(at_once, apart)
    assert (found[0][0] == 0).any() and (found[0][1] != 0).any()


@pytest.mark.parametrize("slopes", [1, 6])
@pytest.mark.parametrize("recording", [True, False])
@pytest.mark.parametrize(("dtype", "exact"), [(lucid.float32, 1e-6), (lucid.float64, 1e-12), (lucid.bfloat16, 0.03)])
def test_group_norm_reads_through_prelu(slopes: int, recording: bool, dtype: Any, exact: float) -> None:
    found, x, g = [], lucid.randn(2, 6, 300).to(dtype), lucid.randn(2, 6, 300).to(dtype)
    layers = nn.Sequential(nn.PReLU(slopes, dtype=dtype), nn.GroupNorm(3, 6, dtype=dtype))
    for at_once in (True, False):
        layers.zero_grad()
        given = x.detach().requires_grad_()
        with lucid.set_grad_enabled(recording):
            y = layers(given) if at_once else layers[1](layers[0](given))
        if recording:
            y.backward(g)
        parts = [y, *((given.grad, *(p.grad for p in layers.parameters())) if recording else ())]
        found.append([part.detach().to(lucid.float64).numpy() for part in parts])
    for got, want in zip(*found, strict=True):
        terms = x.numel() // want.size  # of a sum; half precision rounds each by itself between the layers
        np.testing.assert_allclose(got, want, rtol=exact, atol=exact * max(np.abs(want).max(), terms**0.5))


def test_prelu_of_other_channels_is_refused_as_alone() -> None:
    with pytest.raises(lucid.ShapeError, match="prelu: weight"):
        nn.Sequential(nn.PReLU(4), nn.GroupNorm(3, 6))(lucid.randn(2, 6, 9))


def test_in_training_too_who_listens_hears_every_layer() -> None:
    layers, seen = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()), []
    for layer, name in zip(layers, ("norm", "relu"), strict=True):
        layer.register_forward_hook(lambda m, args, y, name=name: seen.append((name, bool((y < 0).any()))))
    layers(lucid.randn(8, 3))
    assert seen == [("norm", True), ("relu", False)]
