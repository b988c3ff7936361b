"""Layers that are thin: what they hold, their state, and that they call the right function with their arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lucid
from lucid import nn
from lucid.nn import functional as F

IMAGE = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)

PAIRS: list[tuple[nn.Module, Callable[[lucid.Tensor], Any]]] = [
    (nn.ReLU(), F.relu),
    (nn.ReLU6(), F.relu6),
    (nn.LeakyReLU(0.2), lambda x: F.leaky_relu(x, 0.2)),
    (nn.ELU(0.5), lambda x: F.elu(x, 0.5)),
    (nn.SELU(), F.selu),
    (nn.SiLU(), F.silu),
    (nn.Mish(), F.mish),
    (nn.GELU(), F.gelu),
    (nn.GELU("tanh"), lambda x: F.gelu(x, "tanh")),
    (nn.Sigmoid(), F.sigmoid),
    (nn.Tanh(), F.tanh),
    (nn.Softplus(2.0, 1.0), lambda x: F.softplus(x, 2.0, 1.0)),
    (nn.Hardtanh(-0.5, 0.3), lambda x: F.hardtanh(x, -0.5, 0.3)),
    (nn.Hardswish(), F.hardswish),
    (nn.Hardsigmoid(), F.hardsigmoid),
    (nn.Softmax(1), lambda x: F.softmax(x, 1)),
    (nn.LogSoftmax(2), lambda x: F.log_softmax(x, 2)),
    (nn.MaxPool2d(3, 2, 1, 1, ceil_mode=True), lambda x: F.max_pool2d(x, 3, 2, 1, 1, True)),
    (nn.AvgPool2d(3, 2, 1, True, False, 5), lambda x: F.avg_pool2d(x, 3, 2, 1, True, False, 5)),
    (nn.AdaptiveAvgPool2d((3, None)), lambda x: F.adaptive_avg_pool2d(x, (3, None))),
    (nn.AdaptiveMaxPool2d(4), lambda x: F.adaptive_max_pool2d(x, 4)),
    (nn.LayerNorm((6, 6), 0.1), lambda x: F.layer_norm(x, (6, 6), eps=0.1)),
    (nn.GroupNorm(2, 4, 0.1), lambda x: F.group_norm(x, 2, eps=0.1)),
    (nn.InstanceNorm2d(4, 0.1), lambda x: F.instance_norm(x, eps=0.1)),
    (nn.BatchNorm2d(4, 0.1), lambda x: F.batch_norm(x, None, None, training=True, eps=0.1)),
    (nn.Flatten(), lambda x: x.reshape(2, -1)),
    (nn.Unflatten(1, (2, 2)), lambda x: x.reshape(2, 2, 2, 6, 6)),
    (nn.Upsample(scale_factor=2), lambda x: F.interpolate(x, scale_factor=2)),
    (nn.PixelShuffle(2), lambda x: F.pixel_shuffle(x, 2)),
    (nn.PixelUnshuffle(3), lambda x: F.pixel_unshuffle(x, 3)),
    (nn.Identity(1, any="thing"), lambda x: x),
]


@pytest.mark.parametrize(("layer", "function"), PAIRS)
def test_layers_pass_their_arguments_on(layer: nn.Module, function: Callable[[lucid.Tensor], Any]) -> None:
    x = lucid.tensor(IMAGE)
    np.testing.assert_array_equal(layer(x).detach().numpy(), function(x).detach().numpy())


def test_both_spellings_of_the_pools() -> None:
    assert nn.MaxPool1D is nn.MaxPool1d and nn.MaxPool2D is nn.MaxPool2d and nn.MaxPool3D is nn.MaxPool3d
    values, indices = nn.MaxPool2d(2, return_indices=True)(lucid.tensor(IMAGE))
    flat = IMAGE.reshape(2, 4, -1)
    np.testing.assert_array_equal(
        np.take_along_axis(flat, indices.numpy().reshape(2, 4, -1), 2).reshape(values.shape), values.numpy()
    )


def test_pools_are_checked_when_made() -> None:
    for make, error, text in (
        (lambda: nn.MaxPool2d(0), lucid.ShapeError, "MaxPool2d: kernel_size=0"),
        (lambda: nn.MaxPool1d(2, padding=2), lucid.ShapeError, "MaxPool1d: padding=2 must be at most half"),
        (lambda: nn.AvgPool3d((2, 2)), TypeError, "AvgPool3d: kernel_size"),
        (lambda: nn.AvgPool2d(2, divisor_override=-1), lucid.ShapeError, "divisor_override=-1"),
    ):
        with pytest.raises(error, match=text):
            make()


def test_linear() -> None:
    lucid.manual_seed(0)
    layer = nn.Linear(50, 30)
    bound = 1 / math.sqrt(50)
    for values in (layer.weight.detach().numpy(), layer.bias.detach().numpy()):
        assert np.abs(values).max() <= bound and values.std() == pytest.approx(bound / math.sqrt(3), rel=0.2)
    assert nn.Linear(2, 3, bias=False).bias is None
    assert nn.Linear(2, 3, dtype="float64").weight.dtype == lucid.float64
    with pytest.raises(lucid.ShapeError, match="Linear: in_features=0"):
        nn.Linear(0, 3)
    with pytest.raises(lucid.DeviceError, match="cuda"):
        nn.Linear(1, 1, device="cuda")


def test_batch_norm_learns_in_training_and_uses_it_in_evaluation() -> None:
    layer = nn.BatchNorm1d(3)
    assert list(layer.state_dict()) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    x = lucid.tensor(np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32) * 2 + 1)
    for _ in range(200):
        y = layer(x)
    np.testing.assert_allclose(y.detach().numpy().mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(layer.running_mean.numpy(), x.numpy().mean(0), rtol=1e-4)
    np.testing.assert_allclose(layer.running_var.numpy(), x.numpy().var(0, ddof=1), rtol=1e-4)
    assert layer.num_batches_tracked.item() == 200
    layer.eval()
    single = layer(x[:1]).detach().numpy()
    expected = (x.numpy()[:1] - x.numpy().mean(0)) / np.sqrt(x.numpy().var(0, ddof=1) + 1e-5)
    np.testing.assert_allclose(single, expected, rtol=1e-3)
    assert layer.num_batches_tracked.item() == 200
    layer.reset_parameters()
    assert layer.running_mean.tolist() == [0, 0, 0] and layer.num_batches_tracked.item() == 0


def test_batch_norm_without_momentum_averages_all_batches() -> None:
    layer = nn.BatchNorm1d(2, momentum=None)
    batches = np.random.default_rng(0).standard_normal((5, 4, 2)).astype(np.float32)
    for batch in batches:
        layer(lucid.tensor(batch))
    np.testing.assert_allclose(layer.running_mean.numpy(), batches.mean((0, 1)), rtol=1e-5)


def test_batch_norm_options() -> None:
    bare = nn.BatchNorm1d(2, affine=False, track_running_stats=False)
    assert list(bare.state_dict()) == [] and bare.weight is None
    x = lucid.tensor([[1.0, 2.0], [3.0, 5.0]])
    np.testing.assert_array_equal(bare.eval()(x).numpy(), bare.train()(x).numpy())
    assert list(nn.BatchNorm1d(2, bias=False).state_dict())[:2] == ["weight", "running_mean"]
    with pytest.raises(lucid.ShapeError, match=r"BatchNorm2d: the input \(2, 2\) has 2 axes, but must have 4"):
        nn.BatchNorm2d(2)(x)
    with pytest.raises(lucid.ShapeError, match="BatchNorm1d: training needs more than one value"):
        nn.BatchNorm1d(2)(x[:1])
    with pytest.raises(lucid.ShapeError, match="GroupNorm: num_channels=3 must be a multiple of num_groups=2"):
        nn.GroupNorm(2, 3)


def test_instance_norm_takes_single_images_and_tracks() -> None:
    layer = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    x = lucid.tensor(IMAGE)
    np.testing.assert_allclose(layer(x[0]).detach().numpy(), layer(x)[0].detach().numpy(), atol=1e-6)
    assert layer.num_batches_tracked.item() == 0 and layer.running_mean.any()  # batch norms alone count
    assert layer.eval()(x).shape == x.shape


def test_dropout_follows_the_mode() -> None:
    x = lucid.ones(100, 10, 1, 1)
    for layer in (nn.Dropout(0.5), nn.Dropout2d(0.5)):
        assert 0.3 < (layer(x).numpy() == 0).mean() < 0.7
        assert layer.eval()(x) is x
    with pytest.raises(ValueError, match="Dropout: p=-1 must be in 0 … 1"):
        nn.Dropout(-1)


def test_losses() -> None:
    scores, classes = lucid.tensor([[1.0, 2.0], [0.5, 0.1]]), lucid.tensor([1, 0])
    p, t = lucid.tensor([0.2, 0.9]), lucid.tensor([0.0, 1.0])
    weight = lucid.tensor([1.0, 3.0])
    for loss, expected in (
        (
            nn.CrossEntropyLoss(weight, 0, "sum", 0.1)(scores, classes),
            F.cross_entropy(scores, classes, weight, 0, "sum", 0.1),
        ),
        (nn.NLLLoss(weight)(scores, classes), F.nll_loss(scores, classes, weight)),
        (nn.MSELoss("sum")(p, t), F.mse_loss(p, t, "sum")),
        (nn.L1Loss("none")(p, t), F.l1_loss(p, t, "none")),
        (nn.SmoothL1Loss(beta=0.1)(p, t), F.smooth_l1_loss(p, t, beta=0.1)),
        (nn.HuberLoss(delta=0.1)(p, t), F.huber_loss(p, t, delta=0.1)),
        (nn.BCELoss(weight)(p, t), F.binary_cross_entropy(p, t, weight)),
        (nn.BCEWithLogitsLoss(pos_weight=weight)(p, t), F.binary_cross_entropy_with_logits(p, t, pos_weight=weight)),
    ):
        assert loss.tolist() == expected.tolist()
    assert (
        list(nn.CrossEntropyLoss(weight).state_dict()) == ["weight"] and list(nn.CrossEntropyLoss().state_dict()) == []
    )


def test_pads_are_checked_when_made() -> None:
    assert nn.ConstantPad1d((1, 2), 3.0)(lucid.ones(1, 1, 1)).tolist() == [[[3, 1, 3, 3]]]
    for padding in ((1, 2, 3), (1.0, 2.0, 1.0, 2.0)):
        with pytest.raises(lucid.ShapeError, match=r"ReflectionPad2d: padding=.* must be an int or 4 ints"):
            nn.ReflectionPad2d(padding)
