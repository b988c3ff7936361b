"""The other verbs: their rules and their errors. Values are tested with the operations and against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lucid
from lucid.autograd import check_grads
from lucid.nn import functional as F

Z = lucid.zeros


def drawn(*shape: int, requires_grad: bool = True) -> lucid.Tensor:
    return lucid.tensor(np.random.default_rng(0).standard_normal(shape), requires_grad=requires_grad)


IN_PLACE = [F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.silu, F.mish, F.hardtanh, F.hardswish, F.hardsigmoid]


@pytest.mark.parametrize("verb", [*IN_PLACE, F.dropout])
def test_activations_in_place_write_their_input(verb: Callable[..., lucid.Tensor]) -> None:
    x = drawn(4, requires_grad=False)
    lucid.manual_seed(0)
    expected = verb(x).numpy()
    lucid.manual_seed(0)
    assert verb(x, inplace=True) is x
    np.testing.assert_array_equal(x.numpy(), expected)


@pytest.mark.parametrize("verb", IN_PLACE)
def test_activations_in_place_have_the_gradient_of_those_out_of_place(verb: Callable[..., lucid.Tensor]) -> None:
    check_grads(lambda x: verb(x * 2, inplace=True) ** 2, drawn(6))
    check_grads(lambda x, y: verb((x * 1).add_(y), inplace=True), [drawn(6), drawn(6) * 0.3])


@pytest.mark.parametrize("training", [True, False])
def test_normalizations_to_second_order(training: bool) -> None:
    x, w, b = drawn(3, 4, 5), drawn(4), drawn(4)
    mean, var = Z(4).double(), lucid.ones(4).double()
    check_grads(lambda x, w, b: F.batch_norm(x, mean.clone(), var.clone(), w, b, training=training), [x, w, b])
    check_grads(lambda x, w, b: F.group_norm(x, 2, w, b), [x, w, b])
    check_grads(
        lambda x, w, b: F.instance_norm(x, mean.clone(), var.clone(), w, b, use_input_stats=training), [x, w, b]
    )
    check_grads(lambda x: F.layer_norm(x, (4, 5)), x)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_to_second_order(reduction: str) -> None:
    x, t = drawn(4, 3), lucid.tensor(np.random.default_rng(1).random((4, 3)))
    classes, weight = lucid.tensor([0, 2, 1, 2]), lucid.tensor([0.3, 1.0, 2.0]).double()
    for loss in (
        lambda x: F.cross_entropy(x, classes, weight, 2, reduction),
        lambda x: F.cross_entropy(x, classes, weight, reduction=reduction, label_smoothing=0.1),
        lambda x: F.cross_entropy(x, t, weight, reduction=reduction),
        lambda x: F.nll_loss(x, classes, weight, reduction=reduction),
        lambda x: F.mse_loss(x, t, reduction),
        lambda x: F.smooth_l1_loss(x, t, reduction, 0.5),
        lambda x: F.huber_loss(x, t, reduction, 0.5),
        lambda x: F.l1_loss(x, t, reduction),
        lambda x: F.binary_cross_entropy(F.sigmoid(x), t, reduction=reduction),
        lambda x: F.binary_cross_entropy_with_logits(x, t, reduction=reduction),
    ):
        check_grads(loss, x)


def test_resampling_and_pooling_to_second_order() -> None:
    x = drawn(2, 4, 6, 4)
    for verb in (
        lambda x: F.interpolate(x, scale_factor=1.5),
        lambda x: F.interpolate(x, size=(3, 9)),
        lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"),
        lambda x: F.interpolate(x, size=(3, 9), mode="bilinear", align_corners=True),
        lambda x: F.pixel_shuffle(x, 2),
        lambda x: F.pixel_unshuffle(x, 2),
        lambda x: F.unfold(x, 3, padding=1, stride=2),
        lambda x: F.adaptive_avg_pool2d(x, (4, None)),
        lambda x: F.adaptive_avg_pool2d(x, 1),
        lambda x: F.adaptive_max_pool2d(x, (4, 3)),
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.pad(x, (1, 1, 2, 0), "reflect"),
    ):
        check_grads(lambda x, verb=verb: verb(x * x), x)


@pytest.mark.parametrize("wanted", [1, 2, (4, 2), 8])
@pytest.mark.parametrize("size", [4, 8, 40])
def test_adaptive_maxima_with_and_without_places(size: int, wanted: Any) -> None:
    x = lucid.tensor(np.random.default_rng(0).integers(-2, 3, (2, 3, size, size)) / 4.0, requires_grad=True)
    places, plain = F.adaptive_max_pool2d(x, wanted, return_indices=True)[0], F.adaptive_max_pool2d(x, wanted)
    np.testing.assert_array_equal(places.detach().numpy(), plain.detach().numpy())
    g = lucid.rand(plain.shape, dtype=x.dtype)
    given, found = (lucid.autograd.grad(y, x, g)[0].numpy() for y in (places, plain))
    np.testing.assert_allclose(given, found, rtol=1e-12)


def test_dropout_keeps_the_mean_and_the_share() -> None:
    lucid.manual_seed(0)
    x = lucid.ones(200, 500, requires_grad=True)
    y = F.dropout(x, 0.3)
    kept = y.detach().numpy() != 0
    assert kept.mean() == pytest.approx(0.7, abs=0.005)
    np.testing.assert_allclose(y.detach().numpy()[kept], 1 / 0.7, rtol=1e-6)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())
    assert F.dropout(x, 0.3, training=False) is x and F.dropout(x, 0.0) is x
    assert not F.dropout(x, 1.0).detach().numpy().any()
    lucid.manual_seed(0)
    np.testing.assert_array_equal(F.dropout(x, 0.3).detach().numpy(), y.detach().numpy())


@pytest.mark.parametrize(
    ("verb", "shape"), [(F.dropout1d, (50, 40, 6)), (F.dropout2d, (50, 40, 2, 3)), (F.dropout3d, (50, 40, 2, 1, 3))]
)
def test_channels_drop_together(verb: Any, shape: tuple[int, ...]) -> None:
    y = verb(lucid.ones(shape), 0.5).numpy().reshape(50 * 40, -1)
    assert ((y == y[:, :1]).all(1)).all() and 0.4 < (y[:, 0] == 0).mean() < 0.6


def test_running_statistics_move_by_momentum() -> None:
    x = lucid.tensor(np.arange(12.0).reshape(2, 2, 3))
    mean, var = Z(2).double(), lucid.ones(2).double()
    F.batch_norm(x, mean, var, training=True, momentum=0.5)
    by_channel = x.numpy().transpose(1, 0, 2).reshape(2, -1)
    np.testing.assert_allclose(mean.numpy(), 0.5 * by_channel.mean(1))
    np.testing.assert_allclose(var.numpy(), 0.5 + 0.5 * by_channel.var(1, ddof=1))


def test_evaluation_uses_the_running_statistics() -> None:
    x = np.random.default_rng(0).standard_normal((4, 2, 3))
    mean, var, w, b = np.array([1.0, -2.0]), np.array([0.5, 3.0]), np.array([2.0, 0.5]), np.array([0.1, 0.2])
    parts = [a[:, None] for a in (mean, var, w, b)]
    expected = (x - parts[0]) / np.sqrt(parts[1] + 0.25) * parts[2] + parts[3]
    y = F.batch_norm(*map(lucid.tensor, (x, mean, var, w, b)), eps=0.25)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-13)
    y = F.instance_norm(*map(lucid.tensor, (x, mean, var, w, b)), use_input_stats=False, eps=0.25)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-13)


def test_normalization_keeps_the_gradients_of_running_statistics_out() -> None:
    x = drawn(4, 2)
    mean, var = Z(2).double(), lucid.ones(2).double()
    F.batch_norm(x, mean, var, training=True).sum().backward()
    assert not mean.requires_grad and not var.requires_grad


ERRORS: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: F.linear(Z(2, 3), Z(4, 5)),
        lucid.ShapeError,
        r"linear: the input \(2, 3\) has 3 features .* in_features=5",
    ),
    (lambda: F.linear(Z(()), Z(4, 5)), lucid.ShapeError, r"has no features"),
    (lambda: F.linear(Z(2, 3).double(), Z(4, 3)), lucid.DTypeError, "the input is float64 and the weight float32"),
    (lambda: F.linear(Z(2, 3), Z(4, 3), Z(3)), lucid.ShapeError, r"the bias \(3,\) must have the shape \(4,\)"),
    (lambda: F.linear(Z(2, 3), Z(3)), lucid.ShapeError, r"must have the shape \(out_features, in_features\)"),
    (lambda: F.linear([1.0], Z(3, 3)), TypeError, "the input must be a Tensor, not list"),
    (
        lambda: F.max_pool2d(Z(1, 1, 4, 4), 5),
        lucid.ShapeError,
        r"max_pool2d: the kernel is larger than the padded input along H: .* = 5 samples, but size \+ padding = 4",
    ),
    (lambda: F.max_pool2d(Z(4, 4), 2), lucid.ShapeError, r"max_pool2d: the input \(4, 4\) has 2 axes, but must have 4"),
    (
        lambda: F.max_pool1d(Z(1, 1, 8), 3, padding=2),
        lucid.ShapeError,
        r"padding=2 must be at most half of the window, 3 samples",
    ),
    (lambda: F.max_pool1d(Z(1, 1, 0), 3), lucid.ShapeError, "no samples along L"),
    (lambda: F.avg_pool1d(Z(1, 1, 8), 3, stride=0), lucid.ShapeError, "avg_pool1d: stride=0"),
    (lambda: F.avg_pool2d(Z(1, 1, 8, 8), 3, divisor_override=0), lucid.ShapeError, "divisor_override=0"),
    (
        lambda: F.adaptive_avg_pool2d(Z(1, 1, 8, 8), (1, 2, 3)),
        TypeError,
        r"adaptive_avg_pool2d: output_size=\(1, 2, 3\)",
    ),
    (lambda: F.adaptive_max_pool1d(Z(1, 1, 8), 0), lucid.ShapeError, "output_size=0 must be at least 1"),
    (lambda: F.batch_norm(Z(4), None, None, training=True), lucid.ShapeError, r"must be \(N, C, …\)"),
    (lambda: F.batch_norm(Z(4, 3), Z(2), Z(3)), lucid.ShapeError, r"\(4, 3\) has 3 channels .* running_mean .* \(2,\)"),
    (lambda: F.batch_norm(np.zeros((4, 3)), None, None), TypeError, "batch_norm: the input must be a Tensor, not nd"),
    (lambda: F.cross_entropy(Z(4, 3), [0, 1, 2, 0]), TypeError, "cross_entropy: the target must be a Tensor, not list"),
    (lambda: F.nll_loss(np.zeros((4, 3)), Z(4)), TypeError, "nll_loss: the input must be a Tensor, not ndarray"),
    (lambda: F.cross_entropy(Z(4, 3), Z(4)), lucid.ShapeError, "class numbers must be integers"),
    (lambda: F.relu(np.zeros(3)), TypeError, "relu: the input must be a Tensor, not ndarray"),
    (lambda: F.batch_norm(Z(4, 3), None, None), ValueError, "running_mean and running_var are needed"),
    (lambda: F.batch_norm(Z(1, 3), None, None, training=True), lucid.ShapeError, "more than one value per channel"),
    (lambda: F.batch_norm(Z(4, 3).long(), None, None, training=True), lucid.DTypeError, "the input is int64"),
    (lambda: F.batch_norm(Z(4, 3), None, None, Z(3).double(), training=True), lucid.DTypeError, "the weight float64"),
    (
        lambda: F.layer_norm(Z(4, 3), (4,)),
        lucid.ShapeError,
        r"layer_norm: the input \(4, 3\) must end in normalized_shape=\(4,\)",
    ),
    (lambda: F.group_norm(Z(2, 3, 4), 2), lucid.ShapeError, "must be a multiple of num_groups=2"),
    (lambda: F.instance_norm(Z(2, 3, 1)), lucid.ShapeError, "more than one value per channel"),
    (lambda: F.dropout(Z(3), 1.5), ValueError, "dropout: p=1.5 must be in 0 … 1"),
    (lambda: F.dropout2d(Z(3)), lucid.ShapeError, r"dropout2d: the input \(3,\)"),
    (lambda: F.gelu(Z(3), "fast"), ValueError, "gelu: approximate='fast' must be one of 'none', 'tanh'"),
    (lambda: F.hardtanh(Z(3), 1.0, -1.0), ValueError, "min_val=1.0 must not be above max_val=-1.0"),
    (lambda: F.cross_entropy(Z(2, 3), lucid.tensor([0])), lucid.ShapeError, r"the target \(1,\) must be \(2,\)"),
    (lambda: F.cross_entropy(Z(2, 3), Z(2, 2)), lucid.ShapeError, "class probabilities"),
    (lambda: F.cross_entropy(Z(2, 3), lucid.tensor([True, False])), lucid.DTypeError, "the target is bool"),
    (
        lambda: F.cross_entropy(Z(2, 3), lucid.tensor([0, 3])),
        IndexError,
        "target class 3 is out of range for 3 classes",
    ),
    (lambda: F.cross_entropy(Z(2, 3), lucid.tensor([0, 1]), Z(2)), lucid.ShapeError, r"weight \(2,\) must be \(3,\)"),
    (lambda: F.cross_entropy(Z(2, 3), lucid.tensor([0, 1]), reduction="avg"), ValueError, "reduction='avg'"),
    (lambda: F.cross_entropy(Z(2, 3), lucid.tensor([0, 1]), label_smoothing=2), ValueError, "label_smoothing=2"),
    (lambda: F.cross_entropy(Z(()), lucid.tensor(0)), lucid.ShapeError, "not a single number"),
    (
        lambda: F.mse_loss(Z(4, 1), Z(4)),
        lucid.ShapeError,
        r"mse_loss: the input \(4, 1\) and the target \(4,\) must have the same shape",
    ),
    (lambda: F.smooth_l1_loss(Z(4), Z(4), beta=-1), ValueError, "beta=-1"),
    (lambda: F.huber_loss(Z(4), Z(4), delta=0), ValueError, "delta=0"),
    (lambda: F.binary_cross_entropy(Z(4) + 2, Z(4)), ValueError, "must hold probabilities"),
    (lambda: F.pad(Z(3), (1,)), lucid.ShapeError, r"pad: pad=\(1,\) must be \(low, high\) ints"),
    (lambda: F.pad(Z(3), (1, 1, 1, 1)), lucid.ShapeError, "for at most the 1 axes"),
    (lambda: F.pad(Z(3), (-4, 0)), lucid.ShapeError, r"pad=\(-4, 0\) cuts off more than the 3 samples"),
    (lambda: F.pad(Z(1, 3), (3, 0), "reflect"), lucid.ShapeError, r"padding \(3, 0\) along L must be less than its 3"),
    (lambda: F.pad(Z(1, 3), (-1, 0), "replicate"), lucid.ShapeError, "must be at least 0 with mode='replicate'"),
    (lambda: F.pad(Z(3), (1, 1), "reflect"), lucid.ShapeError, r"pads the last 1 to 3 axes of \(N, C, …\)"),
    (lambda: F.pad(Z(1, 3), (1, 1), "reflect", 2.0), ValueError, "value=2.0 belongs to mode='constant'"),
    (lambda: F.pad(Z(3), (1, 1), "mirror"), ValueError, "mode='mirror' must be one of 'constant'"),
    (lambda: F.interpolate(Z(1, 1, 4)), ValueError, "exactly one of size and scale_factor"),
    (
        lambda: F.interpolate(Z(1, 1, 4), 2, mode="cubic"),
        ValueError,
        "mode='cubic' must be one of 'nearest'",
    ),
    (lambda: F.interpolate(Z(1, 1, 4), 2, mode="bilinear"), ValueError, "'bilinear' is for 2 .* for 1 it is 'linear'"),
    (
        lambda: F.interpolate(Z(1, 1, 4), 2, align_corners=True),
        ValueError,
        "align_corners=True is for the linear",
    ),
    (lambda: F.one_hot(Z(3)), lucid.DTypeError, "one_hot: the tensor is float32; class numbers must be integers"),
    (lambda: F.one_hot(lucid.tensor([0, 3]), 3), IndexError, "one_hot: class 3 is out of range for 3 classes, 0 … 2"),
    (lambda: F.one_hot(lucid.tensor([1, -1])), IndexError, "one_hot: class -1 is out of range"),
    (lambda: F.one_hot(lucid.zeros(0, dtype="int64")), ValueError, "num_classes must be given"),
    (lambda: F.interpolate(Z(1, 1, 4, 4), 2, mode="bicubic", antialias=True), ValueError, "shrink with mode='area'"),
    (lambda: F.interpolate(lucid.zeros(1, 1, 4).long(), 2, mode="linear"), lucid.DTypeError, "interpolate: .* int64"),
    (lambda: F.interpolate(Z(1, 1, 0), 2), lucid.ShapeError, r"the input's sizes \(0,\) nor"),
    (lambda: F.interpolate(Z(1, 1, 4), 2, recompute_scale_factor=True), ValueError, "needs a scale_factor"),
    (lambda: F.interpolate(Z(1, 4), 2), lucid.ShapeError, r"the input \(1, 4\) must be \(N, C, …\)"),
    (lambda: F.interpolate(Z(1, 1, 4), scale_factor=-1), lucid.ShapeError, "scale_factor=-1 must be above 0"),
    (lambda: F.pixel_shuffle(Z(1, 3, 2, 2), 2), lucid.ShapeError, "the 3 channels .* multiple of upscale_factor² = 4"),
    (lambda: F.pixel_unshuffle(Z(1, 3, 3, 2), 2), lucid.ShapeError, "height 3 and width 2 must be multiples"),
    (lambda: F.unfold(Z(1, 2, 2, 2), 3), lucid.ShapeError, r"kernel_size=\(3, 3\) .* does not fit"),
    (lambda: F.softmax(Z(2, 2), 2), lucid.ShapeError, "softmax: dim=2"),
]


@pytest.mark.parametrize(("call", "error", "text"), ERRORS)
def test_errors_name_caller_argument_value_and_rule(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_straight_lines_between_samples() -> None:
    """Along two axes: along one and then the other. Corners stay where they are, if asked."""
    x = drawn(1, 2, 4, 5)
    for corners in (False, True):
        line = {"mode": "linear", "align_corners": corners}
        rows = F.interpolate(x.reshape(1, 8, 5), size=9, **line).reshape(1, 2, 4, 9)
        columns = F.interpolate(rows.movedim(2, 3).reshape(1, 18, 4), size=7, **line)
        plane = F.interpolate(x, size=(7, 9), mode="bilinear", align_corners=corners)
        np.testing.assert_allclose(
            plane.detach().numpy(), columns.reshape(1, 2, 9, 7).movedim(3, 2).detach().numpy(), rtol=1e-12
        )
    np.testing.assert_allclose(plane.detach().numpy()[..., ::6, ::8], x.detach().numpy()[..., ::3, ::4], rtol=1e-12)


A = np.zeros((2, 4, 4, 4), np.float32)
GIVEN_ARRAYS = {
    **{
        n: getattr(F, n)
        for n in ("relu", "gelu", "softplus", "softmax", "log_softmax", "softmin", "dropout", "dropout2d")
    },
    "prelu": lambda x: F.prelu(x, Z(1)),
    "pad": lambda x: F.pad(x, (1, 1)),
    "layer_norm": lambda x: F.layer_norm(x, (4,)),
    "group_norm": lambda x: F.group_norm(x, 2),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 2),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 3),
    "interpolate": lambda x: F.interpolate(x, 2),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "mse_loss": lambda x: F.mse_loss(x, Z(2)),
    "binary_cross_entropy": lambda x: F.binary_cross_entropy(x, Z(2)),
}


@pytest.mark.parametrize("name", GIVEN_ARRAYS)
@pytest.mark.parametrize("given", [A, [1.0, 2.0]], ids=["ndarray", "list"])
def test_what_is_no_tensor_is_told_how_to_become_one(name: str, given: Any) -> None:
    with pytest.raises(TypeError, match=rf"{name}: the input must be a Tensor, not \w+; lucid.tensor\(...\) makes one"):
        GIVEN_ARRAYS[name](given)
