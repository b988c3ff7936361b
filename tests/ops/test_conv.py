"""The three convolutions as one trilinear form: golden values, adjointness, gradients to second order."""

from __future__ import annotations

import numpy as np
import pytest

import lucid
from lucid.autograd import check_grads
from lucid.core.errors import DTypeError
from lucid.core.geometry import ConvSpec
from lucid.kernels.convolution import algorithm, gives_both, observed
from lucid.ops.conv import conv, conv_grad_input, conv_grad_weight

SPECS = {
    "plain": ((1, 2, 7), (3, 2, 3), ConvSpec((3,), (1,), (1,), ((0, 0),))),
    "strided": ((2, 2, 9), (4, 1, 3), ConvSpec((3,), (2,), (2,), ((1, 2),), 2)),
    "plane": ((1, 2, 5, 6), (2, 2, 2, 3), ConvSpec((2, 3), (2, 1), (1, 2), ((1, 0), (0, 2)))),
    "depthwise": ((1, 3, 5, 5), (3, 1, 3, 3), ConvSpec((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 3)),
    "volume": ((1, 2, 3, 4, 3), (2, 2, 2, 2, 2), ConvSpec((2,) * 3, (1,) * 3, (1,) * 3, ((1, 1),) * 3)),
}


def problem(name, dtype=lucid.float64):
    x_shape, w_shape, spec = SPECS[name]
    x, w, bias = (lucid.randn(*s, dtype=dtype, requires_grad=True) for s in (x_shape, w_shape, w_shape[:1]))
    g = lucid.randn(x_shape[0], w_shape[0], *spec.out_size(x_shape[2:]), dtype=dtype, requires_grad=True)
    return x, w, bias, g, spec


def test_golden_values():
    x = lucid.tensor([[[1.0, 2.0, 3.0, 4.0]]], requires_grad=True)
    w = lucid.tensor([[[5.0, 6.0]]], requires_grad=True)
    y = conv(x, w, spec=ConvSpec((2,), (1,), (1,), ((0, 0),)))
    y.backward()
    assert (y.tolist(), x.grad.tolist(), w.grad.tolist()) == ([[[17, 28, 39]]], [[[5, 11, 11, 6]]], [[[6, 9]]])


@pytest.mark.parametrize("name", SPECS)
def test_one_trilinear_form(name):
    x, w, _, g, spec = problem(name)
    form = (conv(x, w, spec=spec) * g).sum().item()
    assert (conv_grad_input(g, w, spec=spec, size=x.shape[2:]) * x).sum().item() == pytest.approx(form)
    assert (conv_grad_weight(x, g, spec=spec) * w).sum().item() == pytest.approx(form)


@pytest.mark.parametrize("name", SPECS)
def test_gradients_of_all_three(name):
    x, w, bias, g, spec = problem(name)
    check_grads(lambda x, w, b: conv(x, w, b, spec=spec), (x, w, bias), rtol=1e-4)
    check_grads(lambda g, w: conv_grad_input(g, w, spec=spec, size=x.shape[2:]), (g, w), rtol=1e-4)
    check_grads(lambda x, g: conv_grad_weight(x, g, spec=spec), (x, g), rtol=1e-4)
    channels = lucid.randn(x.shape[1], dtype=lucid.float64, requires_grad=True)
    check_grads(lambda b: conv_grad_input(g, w, b, spec=spec, size=x.shape[2:]), channels)


def test_weight_and_bias_from_one_pass():
    spec = ConvSpec((3,), (2,), (1,), ((1, 1),))
    shapes = ((2, 9, 6), (10, 9, 3), (10,))
    x, w, bias = (lucid.randn(*s, dtype=lucid.float64, requires_grad=True) for s in shapes)
    with observed() as problems:
        y = conv(x, w, bias, spec=spec)
        upstream = lucid.randn(*y.shape, dtype=lucid.float64)
        assert gives_both(x.detach().numpy(), upstream.numpy(), spec)
        y.backward(upstream)
    assert [p.role for p in problems] == ["forward", "grad_input", "grad_weight"]
    np.testing.assert_allclose(bias.grad.numpy(), upstream.numpy().sum((0, 2)), rtol=1e-12, atol=1e-13)
    with algorithm("reference"):
        alone = conv_grad_weight(x.detach(), upstream, spec=spec)
    np.testing.assert_allclose(w.grad.numpy(), alone.numpy(), rtol=1e-12, atol=1e-13)
    check_grads(lambda x, w, b: conv(x, w, b, spec=spec), (x, w, bias), rtol=1e-4)
    check_grads(lambda w, b: conv(x.detach(), w, b, spec=spec), (w, bias), rtol=1e-4)


@pytest.mark.parametrize("size", [(9, 9), (11, 10)], ids=["met", "gaps"])
def test_a_transposed_layer_s_weight_and_bias_from_one_pass(size):
    """Places that no window reads count too."""
    spec = ConvSpec((2, 2), (3, 3), (1, 1), ((0, 0), (0, 0)))
    shapes = ((2, 10, *spec.out_size(size)), (10, 9, 2, 2), (9,))
    y, w, bias = (lucid.randn(*s, dtype=lucid.float64, requires_grad=True) for s in shapes)

    def layer(y, w, bias):
        return conv_grad_input(y, w, bias, spec=spec, size=size)

    with observed() as problems:
        x = layer(y, w, bias)
        upstream = lucid.randn(*x.shape, dtype=lucid.float64)
        x.backward(upstream)
    assert [(p.role, p.transposed) for p in problems] == [
        ("grad_input", False), ("forward", False), ("grad_weight", True)
    ]  # fmt: skip
    np.testing.assert_allclose(bias.grad.numpy(), upstream.numpy().sum((0, 2, 3)), rtol=1e-12, atol=1e-13)
    with algorithm("reference"):
        alone = conv_grad_weight(upstream, y.detach(), spec=spec)
    np.testing.assert_allclose(w.grad.numpy(), alone.numpy(), rtol=1e-12, atol=1e-13)
    check_grads(layer, (y, w, bias), rtol=1e-4)


def test_only_what_needs_a_gradient_is_pulled():
    x, w, bias, _, spec = problem("plane")
    frozen = conv(x.detach(), w.detach(), bias, spec=spec)
    frozen.backward()
    assert bias.grad.shape == bias.shape and x.grad is None and w.grad is None


def test_mixed_element_types_are_refused():
    x, w, bias, _, spec = problem("plain", lucid.float32)
    with pytest.raises(
        DTypeError, match=r"conv: all of one dtype, not x lucid.float32, w lucid.float64, bias lucid.float32"
    ):
        conv(x, w.double(), bias, spec=spec)
    with pytest.raises(DTypeError, match="conv_grad_weight"):
        conv_grad_weight(x, x.double(), spec=spec)


def test_complex_gradients():
    x, w, bias, _, spec = problem("strided", lucid.complex128)
    check_grads(lambda x, w, b: conv(x, w, b, spec=spec), (x, w, bias), rtol=1e-4)


def test_an_empty_batch():
    y = conv(lucid.ones(0, 2, 7), lucid.ones(3, 2, 3), spec=SPECS["plain"][2])
    np.testing.assert_array_equal(y.shape, (0, 3, 5))
