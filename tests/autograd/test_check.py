"""``check_grads`` finds wrong gradients of first and of second order, and passes right ones."""

from __future__ import annotations

import pytest

import lucid
from lucid.autograd import Op, apply, check_grads
from lucid.core.errors import GradientError


def leaf(*values, dtype=lucid.float64):
    return lucid.tensor(values, requires_grad=True, dtype=dtype)


def test_right_gradients_pass():
    check_grads(lambda x, y: (x * y).sin() + x, (leaf(0.3, 0.4), leaf(1.0, 2.0)), order=3, rtol=1e-4)


def test_a_wrong_first_order():
    op = Op("wrong", lambda x: x * x, vjp={"x": lambda g, x: g * x * 2.001})
    with pytest.raises(GradientError, match="order 1: the gradient gives"):
        check_grads(lambda x: apply(op, x), leaf(0.3, 0.4))


def test_a_wrong_second_order():
    op = Op("wrong", lambda x: x**3, vjp={"x": lambda g, x: g * 3 * (x * x).detach()})
    check_grads(lambda x: apply(op, x), leaf(0.3, 0.4), order=1)
    with pytest.raises(GradientError, match="order 2: the gradient gives"):
        check_grads(lambda x: apply(op, x), leaf(0.3, 0.4))


def test_a_complex_function_needs_the_conjugate():
    op = Op("wrong", lambda x: x * x, vjp={"x": lambda g, x: g * x * 2})
    z = leaf(0.3 + 1j, 0.4 - 2j, dtype=lucid.complex128)
    check_grads(lambda z: z * z, z)
    with pytest.raises(GradientError, match="order 1"):
        check_grads(lambda z: apply(op, z), z)


def test_linear_functions_have_no_second_order():
    check_grads(lambda x: x * 3, leaf(1.0, 2.0))


def test_nothing_to_check():
    with pytest.raises(GradientError, match="no input requires"):
        check_grads(lambda x: x, lucid.ones(2))


def test_the_names_of_pytorch() -> None:
    x = lucid.tensor([0.5, -1.0], dtype=lucid.float64, requires_grad=True)
    assert lucid.autograd.gradcheck(lambda x: x * x.exp(), (x,)) and lucid.autograd.gradgradcheck(lambda x: x**3, x)
    assert not lucid.autograd.gradcheck(lambda x: x * x.detach(), x, raise_exception=False)
    with pytest.raises(lucid.GradientError):
        lucid.autograd.gradcheck(lambda x: x * x.detach(), x)
