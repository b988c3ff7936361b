"""Users' own operations."""

from __future__ import annotations

import gc
import weakref

import pytest

import lucid
from lucid.autograd import Function, check_grads, grad
from lucid.core.errors import GradientError, ShapeError


def leaf(*values):
    return lucid.tensor(values, requires_grad=True, dtype=lucid.float64)


class Exp(Function):
    @staticmethod
    def forward(ctx, x):
        out = x.exp()
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx, g):
        (out,) = ctx.saved_tensors
        return g * out


class Scaled(Function):
    @staticmethod
    def forward(ctx, x, factor, y):
        ctx.factor = factor
        ctx.needed = ctx.needs_input_grad
        ctx.save_for_backward(x, y)
        return x * factor, x * y

    @staticmethod
    def backward(ctx, g, h):
        x, y = ctx.saved_tensors
        return g * ctx.factor + h * y, None, h * x


def test_both_orders():
    check_grads(Exp.apply, leaf(0.5, -1.0))
    check_grads(lambda x, y: Scaled.apply(x, 3.0, y), (leaf(0.5, -1.0), leaf(2.0, 3.0)))


def test_missing_gradients_arrive_as_zeros():
    x, y = leaf(2.0), leaf(5.0)
    _, product = Scaled.apply(x, 3.0, y)
    product.backward()
    assert (x.grad.tolist(), y.grad.tolist()) == ([5], [2])


def test_which_inputs_need_a_gradient():
    x, y = leaf(2.0), lucid.tensor([5.0], dtype=lucid.float64)
    out, _ = Scaled.apply(x, 3.0, y)
    assert out.grad_fn.needed == (True, False, False)
    assert out.grad_fn.name == "Scaled"
    with lucid.no_grad():
        assert not Exp.apply(x).requires_grad
    assert not Exp.apply(y).requires_grad


def test_second_backward_and_stale_values():
    x = leaf(1.0)
    y = Exp.apply(x)
    y.backward()
    with pytest.raises(GradientError, match="Exp: backward a second time"):
        y.backward()
    y = Exp.apply(x)
    y += 1
    with pytest.raises(GradientError, match="Exp: a tensor of shape"):
        y.backward()


def test_wrong_backward():
    class Short(Exp):
        @staticmethod
        def backward(ctx, g):
            return g, g

    class Flat(Exp):
        @staticmethod
        def backward(ctx, g):
            return g.sum()

    with pytest.raises(GradientError, match=r"Short.backward: returned 2 gradients for 1 arguments"):
        Short.apply(leaf(1.0)).backward()
    with pytest.raises(ShapeError, match=r"Flat.backward: gradient 0 has shape \(\)"):
        Flat.apply(leaf(1.0, 2.0)).backward()


def test_non_differentiable_and_dirty():
    class Clip(Function):
        @staticmethod
        def forward(ctx, x):
            mask = (x > 0).double()
            ctx.save_for_backward(mask)
            ctx.mark_non_differentiable(mask)
            return x * mask, mask

        @staticmethod
        def backward(ctx, g, _):
            return g * ctx.saved_tensors[0]

    class Twice(Function):
        @staticmethod
        def forward(ctx, x):
            x.mul_(2)
            ctx.mark_dirty(x)
            return x

        @staticmethod
        def backward(ctx, g):
            return g * 2

    x = leaf(1.0, -1.0)
    out, mask = Clip.apply(x)
    assert not mask.requires_grad
    out.backward()
    assert x.grad.tolist() == [1, 0]
    y = leaf(3.0)
    z = y * 1
    assert Twice.apply(z) is z
    z.backward()
    assert y.grad.tolist() == [2]
    with pytest.raises(GradientError, match="leaf that requires a gradient was marked dirty"):
        Twice.apply(y)


def test_an_input_returned_as_it_is():
    class Same(Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, g):
            return g * 7

    x = leaf(1.0)
    y = Same.apply(x)
    assert y is not x
    assert grad(y, x)[0].tolist() == [7]


def test_no_cycle():
    gc.disable()
    try:
        x = leaf(1.0)
        y = Exp.apply(x)
        ref = weakref.ref(y)
        del y
        assert ref() is None
    finally:
        gc.enable()
