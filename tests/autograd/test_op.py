"""Declarations of operations: what rows may name, and that nothing else is kept alive."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

import lucid
from lucid.autograd import Op, apply, grad
from lucid.core.errors import GradientError


def leaf(*values):
    return lucid.tensor(values, requires_grad=True, dtype=lucid.float64)


def test_rows_get_what_their_parameters_name():
    seen = {}

    def row(g, x, y, out, x_shape, factor, shift):
        seen.update(g=g, x=x, y=y, out=out, x_shape=x_shape, factor=factor, shift=shift)
        return g * factor

    op = Op("scaled", lambda x, y, *, factor, shift=5: x * factor + y, vjp={"x": row})
    x = leaf(1.0, 2.0)
    apply(op, x, 3.0, factor=4).backward(lucid.tensor([1.0, 10.0], dtype=lucid.float64))
    assert seen["g"].tolist() == [1, 10] and seen["x"].tolist() == [1, 2] and seen["y"] == 3.0
    assert seen["out"].tolist() == [7, 11] and seen["x_shape"] == (2,) and (seen["factor"], seen["shift"]) == (4, 5)
    assert x.grad.tolist() == [4, 40]


def test_the_rows_of_an_op_that_ends_in_another_get_what_that_one_makes_of_g():
    def ended(g, out, limit):
        return g * (out > limit) * 10

    rows = {"x": lambda g, w: g * w, "w": lambda x, g: x * g}
    op = Op("ended", lambda x, w, *, limit: np.maximum(x * w, limit), vjp=rows, ended=ended)
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    apply(op, x, w, limit=5.0).backward(lucid.tensor([1.0, 7.0], dtype=lucid.float64))
    assert x.grad.tolist() == [0, 280] and w.grad.tolist() == [0, 140]


@pytest.mark.parametrize(
    ("vjp", "text"),
    [({"z": lambda g: g}, "row 'z' names no input"), ({"x": lambda g, nothing: g}, r"asks for unknown \['nothing'\]")],
)
def test_wrong_rows_are_refused_when_declared(vjp, text):
    with pytest.raises(TypeError, match=text):
        Op("wrong", lambda x, *, size: x, vjp=vjp)


class Bytes(np.ndarray):
    """An array that can be watched."""


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        (lambda g, y: g * y, {"y"}),
        (lambda g, x: g * x, {"x"}),
        (lambda g, x_shape: g, set()),
        (lambda g, out: g, {"out"}),
    ],
)
def test_only_what_a_row_names_is_kept_alive(row, kept):
    op = Op("product", lambda x, y: x * y, vjp={"x": row})
    x, y = leaf(1.0) * 1, lucid.tensor([2.0], dtype=lucid.float64)
    out = apply(op, x, y)
    held = {name: weakref.ref(t._array) for name, t in (("x", x), ("y", y), ("out", out))}
    after = out.sum()
    del x, y, out
    assert {name for name, ref in held.items() if ref() is not None} == kept
    after.backward()
    assert all(ref() is None for ref in held.values())


def test_rows_of_inputs_that_need_no_gradient_do_not_run_or_keep():
    def never(g, x):
        raise AssertionError("y needs no gradient")

    op = Op("product", lambda x, y: x * y, vjp={"x": lambda g: g, "y": never})
    x, big = leaf(1.0), lucid.tensor([2.0])
    out = apply(op, big.double() * 1, 3.0)
    assert not out.requires_grad
    apply(op, x, lucid.tensor([2.0], dtype=lucid.float64)).backward()
    assert x.grad.tolist() == [1]


def test_one_row_for_several_inputs_and_several_outputs():
    op = Op(
        "both",
        lambda x, y: (x + y, x * y, np.array([7])),
        vjp={("x", "y"): lambda g, x, y, product: (g[0] + g[1] * y, g[0] + product * 0 + g[1] * x)},
        outputs=("total", "product", "code"),
    )
    x, y = leaf(2.0), leaf(5.0)
    total, product, code = apply(op, x, y)
    assert product.requires_grad and not code.requires_grad
    (total * 10 + product * 100).backward()
    assert (x.grad.tolist(), y.grad.tolist()) == ([510], [210])


def test_an_output_that_got_no_gradient_is_none():
    seen = []
    op = Op("two", lambda x: (x * 1, x * 2), vjp={"x": lambda g: seen.append(g) or g[1]}, outputs=("a", "b"))
    apply(op, leaf(1.0))[1].backward()
    assert seen[0][0] is None and seen[0][1].tolist() == [1]


def test_any_number_of_inputs():
    op = Op(
        "total",
        lambda *xs, weight: sum(xs) * weight,
        vjp={
            "xs": lambda g, xs, xs_shape, weight: tuple(g * weight for _ in xs_shape),
        },
    )
    xs = [leaf(1.0), lucid.tensor([2.0], dtype=lucid.float64), leaf(3.0)]
    apply(op, *xs, weight=2).backward()
    assert xs[0].grad.tolist() == xs[2].grad.tolist() == [2] and xs[1].grad is None


def test_a_shared_row_serves_only_where_all_its_inputs_need_it():
    used = []

    def both(g, x, y):
        used.append("both")
        return g * y, g * x

    op = Op(
        "product",
        lambda x, y: x * y,
        vjp={
            ("x", "y"): both,
            "x": lambda g, y: used.append("x") or g * y,
            "y": lambda g, x: used.append("y") or g * x,
        },
    )
    x, y = leaf(2.0), leaf(5.0)
    apply(op, x, y).backward()
    apply(op, x, y.detach()).backward()
    apply(op, x.detach(), y).backward()
    assert used == ["both", "x", "y"]
    assert (x.grad.tolist(), y.grad.tolist()) == ([10], [4])
    assert grad(apply(op, x, y), y)[0].tolist() == [2]
    assert used[3:] == ["y"]


def test_none_as_an_input():
    op = Op("maybe", lambda x, bias: x if bias is None else x + bias, vjp={"x": lambda g: g, "bias": lambda g: g})
    x = leaf(1.0)
    apply(op, x, None).backward()
    assert x.grad.tolist() == [1]


def test_a_stale_saved_tensor_is_an_error():
    x = leaf(1.0, 2.0)
    y = x * 3
    z = y * y
    y += 1
    with pytest.raises(GradientError, match=r"modified in place.*version 1, saved at version 0.*clone"):
        z.backward()


def test_a_stale_view_is_an_error():
    x = leaf(1.0, 2.0)
    y = x * 3
    z = y.exp() * y[0]
    with lucid.no_grad():
        y[1] = 0
    with pytest.raises(GradientError, match="modified in place"):
        z.backward()


def test_writing_what_nobody_saved_is_fine():
    x = leaf(1.0, 2.0)
    y = x * 3
    z = y + 1
    y += 1
    (z + y).backward()
    assert x.grad.tolist() == [6, 6]


def test_overflow_is_silent_and_the_callers_settings_stay():
    with np.errstate(over="raise"):
        assert lucid.tensor([1e30]).mul(1e30).isinf().item()
        assert np.geterr()["over"] == "raise"
