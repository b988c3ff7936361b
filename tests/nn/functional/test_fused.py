"""Fused convolutions: what the steps one after the other give, errors that name who and what, gradients in steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lucid
import lucid.nn.functional as F
from lucid.autograd import check_grads
from lucid.core.errors import DTypeError, ShapeError
from lucid.kernels import Epilogue
from lucid.kernels.convolution import observed
from lucid.nn.functional import fused

CONVS = [(F.fused_conv1d, F.conv1d, 1), (F.fused_conv2d, F.conv2d, 2), (F.fused_conv3d, F.conv3d, 3)]
TRANSPOSED = [
    (F.fused_conv_transpose1d, F.conv_transpose1d, 1),
    (F.fused_conv_transpose2d, F.conv_transpose2d, 2),
    (F.fused_conv_transpose3d, F.conv_transpose3d, 3),
]
PARAMETERS: dict[str, dict[str, Any]] = {
    "leaky_relu": {"negative_slope": 0.2},
    "gelu": {"approximate": "tanh"},
    "elu": {"alpha": 0.5},
    "softplus": {"beta": 2.0, "threshold": 5.0},
    "hardtanh": {"min_val": -0.5, "max_val": 0.25},
}
X, W = lucid.ones(1, 2, 5), lucid.ones(3, 2, 3)


def tensors(*shapes: tuple[int, ...], dtype: Any = lucid.float64, requires_grad: bool = False) -> list[Any]:
    rng = np.random.default_rng(0)
    return [lucid.tensor(rng.standard_normal(s), dtype=dtype, requires_grad=requires_grad) for s in shapes]


@pytest.mark.parametrize(("fused_conv", "conv", "rank"), CONVS + TRANSPOSED)
def test_all_at_once_is_the_steps_one_after_the_other(fused_conv: Any, conv: Any, rank: int) -> None:
    is_transposed = conv in [entry[1] for entry in TRANSPOSED]
    x, w, b, scale, shift = tensors((2, 4, *(6,) * rank), (4, 4, *(3,) * rank), (4,), (4,), (4,))
    y = conv(x, w, b, 2, 1)
    (residual,) = tensors(y.shape)
    each = (-1, *(1,) * rank)
    z = y * scale.reshape(each) + shift.reshape(each) + residual
    ours = fused_conv(x, w, b, 2, 1, activation="silu", scale=scale, shift=shift, residual=residual)
    np.testing.assert_allclose(ours.numpy(), F.silu(z).numpy(), rtol=1e-12, atol=1e-12)
    if not is_transposed:
        alone = fused_conv(x[0], w, b, 2, 1, activation="silu", scale=scale, shift=shift, residual=residual[0])
        np.testing.assert_allclose(alone.numpy(), F.silu(z).numpy()[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", fused._ACTIVATIONS)
def test_an_activation_is_the_function_of_that_name(name: str) -> None:
    x, w = tensors((2, 3, 40), (5, 3, 3))
    for parameters in ({}, PARAMETERS.get(name, {})):
        ours = F.fused_conv1d(x * 3, w, activation=name, **parameters)
        wanted = getattr(F, name)(F.conv1d(x * 3, w), **parameters)
        np.testing.assert_allclose(ours.numpy(), wanted.numpy(), rtol=1e-12, atol=1e-12)


def test_scale_and_shift_go_without_each_other() -> None:
    x, w, c = tensors((2, 3, 9), (5, 3, 3), (5,))
    y = F.conv1d(x, w).numpy()
    np.testing.assert_allclose(F.fused_conv1d(x, w, scale=c).numpy(), y * c.numpy()[:, None], rtol=1e-12)
    np.testing.assert_allclose(F.fused_conv1d(x, w, shift=c).numpy(), y + c.numpy()[:, None], rtol=1e-12)
    np.testing.assert_array_equal(F.fused_conv1d(x, w).numpy(), y)


@pytest.mark.parametrize("padding_mode", ["reflect", "circular", "replicate"])
def test_padding_that_needs_a_pass_of_its_own(padding_mode: str) -> None:
    x, w, b = tensors((2, 4, 9), (4, 4, 3), (4,))
    for fused_conv, conv in ((F.fused_conv1d, F.conv1d), (F.fused_conv_transpose1d, F.conv_transpose1d)):
        wanted = F.relu(conv(x, w, b, padding=1, padding_mode=padding_mode) + x)
        ours = fused_conv(x, w, b, padding=1, padding_mode=padding_mode, activation="relu", residual=x)
        np.testing.assert_allclose(ours.numpy(), wanted.numpy(), rtol=1e-12, atol=1e-12)


def test_outputs_that_no_tap_reaches_end_like_all_others() -> None:
    x, w, b = tensors((1, 2, 4), (2, 3, 1), (3,))
    wanted = F.sigmoid(F.conv_transpose1d(x, w, b, stride=1, dilation=3, output_padding=2))
    ours = F.fused_conv_transpose1d(x, w, b, stride=1, dilation=3, output_padding=2, activation="sigmoid")
    np.testing.assert_allclose(ours.numpy(), wanted.numpy(), rtol=1e-12)


def test_gradients_are_those_of_the_steps() -> None:
    operands = tensors((2, 3, 6), (4, 3, 3), (4,), (4,), (4,), (2, 4, 6), requires_grad=True)

    def apply(x: Any, w: Any, b: Any, scale: Any, shift: Any, residual: Any) -> Any:
        return F.fused_conv1d(x, w, b, padding=1, activation="gelu", scale=scale, shift=shift, residual=residual)

    check_grads(apply, operands)


def test_one_kernel_does_it_all_where_nothing_is_recorded() -> None:
    x, w = tensors((1, 2, 9), (4, 2, 3), requires_grad=True)
    with observed() as seen:
        F.fused_conv1d(x, w, activation="silu")
        with lucid.no_grad():
            F.fused_conv1d(x, w, activation="leaky_relu", negative_slope=0.3)
    assert [p.epilogue for p in seen] == [Epilogue(), Epilogue("leaky_relu", (0.3,))]


def test_where_a_gradient_is_recorded_a_relu_alone_is_in_the_kernel() -> None:
    x, w = tensors((1, 2, 9), (4, 2, 3), requires_grad=True)
    residual = lucid.ones(1, 4, 7, dtype=x.dtype)
    with observed() as seen:
        F.fused_conv1d(x, w, activation="relu")
        F.fused_conv1d(x, w, activation="relu", residual=residual)
    assert [p.epilogue for p in seen] == [Epilogue("relu"), Epilogue()]


def test_complex_numbers_go_in_steps() -> None:
    x, w = lucid.tensor([[[1 + 1j, 2.0]]]), lucid.tensor([[[1j]]])
    y = F.fused_conv1d(x, w, residual=x)
    np.testing.assert_allclose(y.numpy(), [[[(1 + 1j) * 1j + 1 + 1j, 2j + 2]]])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"activation": "reloo"}, ValueError, r"fused_conv1d: activation='reloo' must be None or one of 'relu', "),
        ({"activation": "relu", "negative_slope": 1}, TypeError, r"'relu' takes no parameters, not negative_slope"),
        ({"activation": "elu", "slope": 1}, TypeError, r"fused_conv1d: activation='elu' takes alpha, not slope"),
        ({"alpha": 1}, TypeError, r"fused_conv1d: alpha given, but no activation"),
        ({"activation": "gelu", "approximate": "x"}, ValueError, r"gelu: approximate='x' must be one of"),
        (
            {"scale": lucid.ones(2)},
            ShapeError,
            r"fused_conv1d: scale \(2,\) must be \(3,\) for a result of",
        ),
        ({"residual": lucid.ones(1, 3, 1)}, ShapeError, r"residual \(1, 3, 1\) must be \(1, 3, 3\)"),
        ({"residual": lucid.ones(1, 3, 3, dtype=lucid.float64)}, DTypeError, r"residual lucid.float64"),
    ],
)
def test_what_cannot_be_is_said(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        F.fused_conv1d(X, W, **arguments)
