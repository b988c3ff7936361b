"""The examples of the five seed pages, run as printed, against values computed with loops and finite differences.

The pages' own numbers are wrong in places; ``shared/design/SEMANTICS.md`` (golden values A to E) has the right ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lucid
import lucid.nn as nn
from lucid import Tensor


def set_parameters(layer: nn.Module, weight: Any, bias: Any = None) -> None:
    """The weights that the page prints."""
    assert layer.weight.shape == np.shape(weight)
    layer.weight.data = Tensor(weight)
    if bias is not None:
        layer.bias.data = Tensor(bias)


def holds(tensor: Tensor, expected: Any) -> None:
    np.testing.assert_array_equal(tensor.detach().numpy(), np.array(expected, np.float32))


# Page 000, nn.Conv1d


def test_conv1d_without_bias() -> None:
    input_tensor = Tensor([[[1.0, 2.0, 3.0, 4.0]]], requires_grad=True)  # Shape: (1, 1, 4)
    conv1d = nn.Conv1d(in_channels=1, out_channels=1, kernel_size=2, bias=False)
    set_parameters(conv1d, [[[5.0, 6.0]]])
    assert repr(conv1d.weight) == "Tensor([[[5., 6.]]], requires_grad=True)"
    output = conv1d(input_tensor)  # Shape: (1, 1, 3)
    holds(output, [[[17, 28, 39]]])
    output.backward()
    holds(input_tensor.grad, [[[5, 11, 11, 6]]])
    holds(conv1d.weight.grad, [[[6, 9]]])
    assert conv1d.bias is None


def test_conv1d_with_bias() -> None:
    input_tensor = Tensor([
        [[1.0, 2.0, 3.0, 4.0, 5.0]],
        [[6.0, 7.0, 8.0, 9.0, 10.0]]
    ], requires_grad=True)  # Shape: (2, 1, 5)  # fmt: skip
    conv1d = nn.Conv1d(in_channels=1, out_channels=2, kernel_size=3, bias=True)
    set_parameters(conv1d, [[[11.0, 12.0, 13.0]], [[14.0, 15.0, 16.0]]], [17.0, 18.0])
    output = conv1d(input_tensor)  # Shape: (2, 2, 3)
    holds(output, [[[91, 127, 163], [110, 155, 200]], [[271, 307, 343], [335, 380, 425]]])
    output.backward()
    holds(input_tensor.grad, [[[25, 52, 81, 56, 29]]] * 2)
    holds(conv1d.weight.grad, [[[27, 33, 39]]] * 2)
    holds(conv1d.bias.grad, [6, 6])


def test_conv1d_in_a_model() -> None:
    class Conv1dModel(nn.Module):
        def __init__(self):
            super(Conv1dModel, self).__init__()  # noqa: UP008
            self.conv1 = nn.Conv1d(in_channels=1, out_channels=4, kernel_size=3, padding=1)
            self.relu = nn.ReLU()
            self.conv2 = nn.Conv1d(in_channels=4, out_channels=2, kernel_size=3)

        def forward(self, x):
            x = self.conv1(x)
            x = self.relu(x)
            x = self.conv2(x)
            return x

    model = Conv1dModel()
    input_data = Tensor([
        [[0.5, -1.2, 3.3, 0.7, 2.2]],
        [[1.5, 2.2, -0.3, 4.1, 5.5]]
    ], requires_grad=True)  # Shape: (2, 1, 5)  # fmt: skip
    output = model(input_data)
    assert output.shape == (2, 2, 3)
    output.backward()
    assert input_data.grad.shape == (2, 1, 5)
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


# Page 001, Conv1d


def test_the_basic_and_the_depthwise_convolution() -> None:
    conv = nn.Conv1d(in_channels=1, out_channels=8, kernel_size=3, padding=1)
    x = lucid.zeros(4, 1, 16)  # (N, C_in, L)
    y = conv(x)
    assert y.shape == (4, 8, 16)
    np.testing.assert_array_equal(y.detach().numpy(), np.broadcast_to(conv.bias.detach().numpy()[:, None], y.shape))

    depthwise = nn.Conv1d(
        in_channels=32, out_channels=32,
        kernel_size=5, padding=2, groups=32
    )  # fmt: skip
    x = lucid.zeros(2, 32, 64)
    y = depthwise(x)
    assert y.shape == (2, 32, 64)


# Page 002, nn_conv1d, from R


def test_the_r_example() -> None:
    m = nn.Conv1d(16, 33, 3, stride=2)
    input = lucid.randn(20, 16, 50)
    output = m(input)
    assert output.shape == (20, 33, 24)


# Page 003, nn.ConvTranspose1d


def test_conv_transpose1d() -> None:
    x = Tensor([[[1.0, 2.0, 3.0]]], requires_grad=True)  # Shape: (1, 1, 3)
    deconv1d = nn.ConvTranspose1d(in_channels=1, out_channels=1, kernel_size=2, stride=1, bias=False)
    set_parameters(deconv1d, [[[1.0, 0.5]]])
    y = deconv1d(x)
    holds(y, [[[1, 2.5, 4, 1.5]]])
    y.backward()
    holds(x.grad, [[[1.5, 1.5, 1.5]]])
    holds(deconv1d.weight.grad, [[[6, 6]]])


def test_conv_transpose1d_in_a_decoder() -> None:
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.deconv1 = nn.ConvTranspose1d(4, 2, kernel_size=3, stride=2, padding=1, output_padding=1)
            self.relu = nn.ReLU()

        def forward(self, x):
            x = self.deconv1(x)
            x = self.relu(x)
            return x

    model = Decoder()
    z = Tensor.randn(1, 4, 5, requires_grad=True)
    output = model(z)
    assert output.shape == (1, 2, 10)
    output.backward()
    assert z.grad.shape == (1, 4, 5)


# Page 004, nn.Conv2d


def test_conv2d_without_bias() -> None:
    input_tensor = Tensor([[
        [[1.0, 2.0, 3.0],
         [4.0, 5.0, 6.0],
         [7.0, 8.0, 9.0]]
    ]], requires_grad=True)  # Shape: (1, 1, 3, 3)  # fmt: skip
    conv2d = nn.Conv2d(in_channels=1, out_channels=1, kernel_size=2, bias=False)
    set_parameters(conv2d, [[[[1.0, 2.0], [3.0, 4.0]]]])
    output = conv2d(input_tensor)  # Shape: (1, 1, 2, 2)
    holds(output, [[[[37, 47], [67, 77]]]])
    output.backward()
    holds(input_tensor.grad, [[[[1, 3, 2], [4, 10, 6], [3, 7, 4]]]])
    holds(conv2d.weight.grad, [[[[12, 16], [24, 28]]]])


def test_conv2d_with_bias() -> None:
    input_tensor = Tensor(np.arange(1, 25, dtype=np.float32).reshape(2, 1, 3, 4), requires_grad=True)
    conv2d = nn.Conv2d(in_channels=1, out_channels=2, kernel_size=2, bias=True)
    set_parameters(conv2d, [[[[1.0, 2.0], [3.0, 4.0]]], [[[5.0, 6.0], [7.0, 8.0]]]], [9.0, 10.0])
    output = conv2d(input_tensor)  # Shape: (2, 2, 2, 3)
    holds(output, [
        [[[53, 63, 73], [93, 103, 113]], [[110, 136, 162], [214, 240, 266]]],
        [[[173, 183, 193], [213, 223, 233]], [[422, 448, 474], [526, 552, 578]]],
    ])  # fmt: skip
    output.backward()
    holds(input_tensor.grad, [[[[6, 14, 14, 8], [16, 36, 36, 20], [10, 22, 22, 12]]]] * 2)
    holds(conv2d.weight.grad, [[[[120, 132], [168, 180]]]] * 2)
    holds(conv2d.bias.grad, [12, 12])


class Conv2dModel(nn.Module):
    def __init__(self):
        super(Conv2dModel, self).__init__()  # noqa: UP008
        self.conv1 = nn.Conv2d(in_channels=3, out_channels=16, kernel_size=3, padding=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(in_channels=16, out_channels=32, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2D(kernel_size=2, stride=2)
        self.fc = nn.Linear(in_features=32 * 16 * 16, out_features=10)

    def forward(self, x):
        x = self.conv1(x)
        x = self.relu(x)
        x = self.conv2(x)
        x = self.relu(x)
        x = self.pool(x)
        x = x.reshape(x.shape[0], -1)
        x = self.fc(x)
        return x


def test_the_printed_model_fails_on_the_printed_input() -> None:
    model = Conv2dModel()
    input_data = Tensor([
        [
            [[0.5, -1.2, 3.3, 0.7],
             [1.5, 2.2, -0.3, 4.1],
             [5.5, 6.6, 7.7, 8.8],
             [9.9, 10.1, 11.2, 12.3]]
        ]], requires_grad=True)  # the page says (1, 3, 4, 4), it is (1, 1, 4, 4)  # fmt: skip
    with pytest.raises(lucid.ShapeError, match=r"Conv2d: the input \(1, 1, 4, 4\) has 1 channels .* takes 3"):
        model(input_data)


def test_the_printed_model_fails_on_three_channels_too() -> None:
    with pytest.raises(lucid.ShapeError, match=r"Linear: the input \(1, 128\) has 128 features .* in_features=8192"):
        Conv2dModel()(lucid.randn(1, 3, 4, 4))


def test_the_printed_model_runs_on_the_images_it_is_for() -> None:
    model = Conv2dModel()
    input_data = lucid.randn(1, 3, 32, 32, requires_grad=True)
    output = model(input_data)
    assert output.shape == (1, 10)
    output.backward()
    assert input_data.grad.shape == (1, 3, 32, 32)
    assert all(p.grad is not None for p in model.parameters())
