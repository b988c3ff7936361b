"""The backward pass: order, accumulation, freeing, hooks, and what it leaves behind."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

import lucid
from lucid import autograd
from lucid.core.errors import GradientError, ShapeError


def leaf(*values):
    return lucid.tensor(values, requires_grad=True, dtype=lucid.float64)


@pytest.fixture
def no_gc():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_a_diamond_is_pulled_once():
    calls = []
    x = leaf(2.0)
    y = x * 3
    y.register_hook(lambda g: calls.append(g.item()))
    (y * y + y).backward()
    assert calls == [13.0]
    assert x.grad.tolist() == [39]


def test_gradients_add_up_over_backward_passes():
    x = leaf(1.0, 2.0)
    (x * x).backward()
    first = x.grad
    (x * x).backward()
    assert x.grad is first and first.tolist() == [4, 8]


def test_non_scalars_are_seeded_with_ones_unless_asked_otherwise():
    x = leaf(1.0, 2.0)
    (x * x).backward()
    assert x.grad.tolist() == [2, 4]
    assert autograd.set_implicit_gradient("scalar") == "ones"
    try:
        with pytest.raises(GradientError, match=r"one element, not for shape \(2,\)"):
            (x * x).backward()
        (x * x).sum().backward()
    finally:
        autograd.set_implicit_gradient("ones")
    with pytest.raises(ValueError, match="rule='twos'"):
        autograd.set_implicit_gradient("twos")


def test_explicit_gradients():
    x = leaf(1.0, 2.0)
    (x * x).backward(gradient=lucid.tensor([1.0, 10.0], dtype=lucid.float64))
    assert x.grad.tolist() == [2, 40]
    (x * x).backward(np.array([1.0, 0.0]))
    assert x.grad.tolist() == [4, 40]
    with pytest.raises(ShapeError, match=r"gradient has shape \(3,\), its tensor has \(2,\)"):
        (x * x).backward(lucid.ones(3))


def test_second_backward_needs_retain_graph():
    x = leaf(3.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [12]
    with pytest.raises(GradientError, match=r"second time.*retain_graph=True"):
        y.backward()


def test_backward_without_a_graph():
    with pytest.raises(GradientError, match="does not require a gradient and has no graph"):
        lucid.ones(2).backward()
    with lucid.no_grad():
        y = leaf(1.0) * 2
    with pytest.raises(GradientError, match="under no_grad"):
        y.backward()


def test_a_leaf_may_be_its_own_result():
    x = leaf(1.0)
    x.backward()
    assert x.grad.tolist() == [1]


def test_grads_never_alias():
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    seed = lucid.tensor([1.0, 1.0], dtype=lucid.float64)
    (x + y).backward(seed)
    x.grad.mul_(5)
    assert y.grad.tolist() == [1, 1] and seed.tolist() == [1, 1]
    kept = []
    y.grad = None
    y.register_hook(kept.append)
    (y * 2).backward()
    y.grad.mul_(5)
    assert kept[0].tolist() == [2, 2]


def test_a_fresh_gradient_is_taken_without_a_copy():
    x = leaf(*range(4))
    seen = []
    op = autograd.Op("watched", lambda x: x * 1, vjp={"x": lambda g: remember(g * 2, seen)})
    autograd.apply(op, x).backward()
    assert x.grad.data_ptr() == seen[0]


def remember(g, seen):
    seen.append(g.data_ptr())
    return g


def test_grad_returns_without_accumulating():
    x, y = leaf(2.0), leaf(3.0)
    gx, gy = autograd.grad(x * y, (x, y))
    assert (gx.tolist(), gy.tolist()) == ([3], [2])
    assert x.grad is None and y.grad is None


def test_grad_in_an_inner_tensor():
    x = leaf(2.0)
    y = x * 3
    (g,) = autograd.grad(y * y, y)
    assert g.tolist() == [12]


def test_grad_prunes_what_leads_nowhere():
    def never(g):
        raise AssertionError("not on the way")

    x, y = leaf(2.0), leaf(3.0)
    side = y * 2
    side.register_hook(never)
    assert autograd.grad(x * 5 + side, x)[0].tolist() == [5]


def test_unused_inputs():
    x, y = leaf(2.0), leaf(3.0)
    with pytest.raises(GradientError, match=r"inputs\[1\].*allow_unused=True"):
        autograd.grad(x * 2, (x, y))
    assert autograd.grad(x * 2, (x, y), allow_unused=True)[1] is None
    with pytest.raises(GradientError, match="does not require a gradient"):
        autograd.grad(x * 2, lucid.ones(1))


def test_several_outputs_and_weights():
    x = leaf(1.0, 2.0)
    (g,) = autograd.grad((x * 2, x * x), x, (lucid.ones(2).double(), lucid.full((2,), 10.0).double()))
    assert g.tolist() == [22, 42]
    with pytest.raises(ValueError, match="2 tensors but 3 gradients"):
        autograd.grad((x * 2, x * x), x, [None] * 3)


def test_backward_limited_to_inputs():
    x, y = leaf(2.0), leaf(3.0)
    (x * y).backward(inputs=[x])
    assert x.grad.tolist() == [3] and y.grad is None


def test_third_derivative():
    x = leaf(2.0)
    y = x**5
    for want in (80.0, 160.0, 240.0):
        (y,) = autograd.grad(y, x, create_graph=True)
        assert y.item() == pytest.approx(want)


def test_create_graph_through_grad_attributes():
    x = leaf(3.0)
    (x**3).backward(create_graph=True)
    first, x.grad = x.grad, None
    first.backward()
    assert x.grad.tolist() == [18]


def test_create_graph_inside_no_grad():
    x = leaf(3.0)
    y = x**3
    with lucid.no_grad():
        (g,) = autograd.grad(y, x, create_graph=True)
        assert not lucid.is_grad_enabled()
    assert g.requires_grad


def test_a_wrong_gradient_shape_is_noticed_at_the_leaf():
    op = autograd.Op("wrong", lambda x: x * 2, vjp={"x": lambda g: g.sum()})
    with pytest.raises(ShapeError, match=r"gradient of shape \(\) arrived at a leaf of shape \(2,\)"):
        autograd.apply(op, leaf(1.0, 2.0)).backward()


def test_a_chain_of_a_hundred_thousand():
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y + 1
    y.backward()
    assert x.grad.tolist() == [1]
    del y  # the chain is taken down without recursion


# Hooks


def test_hooks_see_and_replace_the_whole_gradient():
    x = leaf(1.0)
    handle = x.register_hook(lambda g: g * 10)
    (x + x).backward()
    assert x.grad.tolist() == [20]
    handle.remove()
    handle.remove()
    x.grad = None
    (x + x).backward()
    assert x.grad.tolist() == [2]


def test_hooks_of_inner_tensors_run_in_order():
    x = leaf(1.0)
    y = x * 1
    y.register_hook(lambda g: g * 2)
    with y.register_hook(lambda g: g + 1):
        y.backward(retain_graph=True)
        assert x.grad.tolist() == [3]
    y.backward()
    assert x.grad.tolist() == [5]


def test_hooks_need_a_gradient():
    with pytest.raises(GradientError, match="register_hook"):
        lucid.ones(1).register_hook(print)


def test_retain_grad():
    x = leaf(2.0)
    y = x * 3
    y.retain_grad()
    (y * y).backward()
    assert y.grad.tolist() == [12] and x.grad.tolist() == [36]
    with pytest.raises(GradientError, match="retain_grad"):
        lucid.ones(1).retain_grad()


# What is left behind


def test_no_cycles(no_gc):
    x = leaf(1.0, 2.0)
    y = x * 2
    view = y[0]
    z = (y.exp() + view) * 3
    z.retain_grad()
    z[0] = y[1]
    out = z.prod()
    refs = [weakref.ref(t) for t in (x, y, view, z, out)] + [weakref.ref(out.grad_fn), weakref.ref(y._array)]
    out.backward(create_graph=False)
    del x, y, view, z, out
    assert [ref() for ref in refs] == [None] * len(refs)


def test_no_cycles_without_backward(no_gc):
    x = leaf(1.0, 2.0)
    y = x.exp()
    y.mul_(2)
    y[0].add_(x[1])
    refs = [weakref.ref(y), weakref.ref(y.grad_fn), weakref.ref(y._array)]
    del x, y
    assert [ref() for ref in refs] == [None] * len(refs)


def test_saved_arrays_are_freed_on_the_way(no_gc):
    x = leaf(1.0)
    y = x.exp()
    saved = weakref.ref(y._array)
    z = y.exp()
    del y
    assert saved() is not None
    z.backward()
    assert saved() is None and z.grad_fn is not None


def test_a_training_loop_needs_no_more_memory(no_gc):
    w = lucid.randn(64, 64, requires_grad=True)
    x = lucid.randn(32, 64)

    def step():
        loss = ((x @ w).tanh() ** 2).mean()
        loss.backward()
        with lucid.no_grad():
            w.sub_(w.grad, alpha=0.1)
        w.grad = None

    for _ in range(3):
        step()
    tracemalloc.start()
    step()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(20):
        step()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 16384  # one tensor of the 20 steps


def test_backward_in_several_threads():
    def work(results, i):
        x = lucid.full((8,), float(i + 1), requires_grad=True)
        for _ in range(50):
            x.grad = None
            (x * x).sum().backward()
        results[i] = x.grad.tolist()

    results = {}
    threads = [threading.Thread(target=work, args=(results, i)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == {i: [2.0 * (i + 1)] * 8 for i in range(4)}
