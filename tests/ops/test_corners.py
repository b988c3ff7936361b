"""Corners of operations, as random calls found them: no dimension, no element, infinities, wrong arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lucid
from lucid.nn import functional as F

NUMBER = lucid.tensor(3.0)
LINE = lucid.tensor([1.0, 2.0, 3.0])


@pytest.mark.parametrize("name", ["cumsum", "cumprod", "cummax", "cummin"])
def test_a_number_is_a_line_of_one(name: str) -> None:
    x = lucid.tensor(3.0, requires_grad=True)
    found = getattr(x, name)(0)
    for part in found if isinstance(found, tuple) else (found,):
        assert part.shape == ()
    (found if name.startswith("cums") or name == "cumprod" else found.values).backward()
    assert x.grad.item() == 1


def test_a_number_has_a_product_along_its_axis_flips_and_has_windows() -> None:
    x = lucid.tensor(3.0, requires_grad=True)
    x.prod(0).backward()
    assert x.grad.item() == 1 and lucid.flip(NUMBER, (0,)).item() == 3 and NUMBER.unfold(0, 1, 1).shape == (1,)


def test_nothing_along_a_dimension() -> None:
    nothing = lucid.zeros(2, 0, 3)
    assert np.isneginf(nothing.logsumexp(1).numpy()).all()
    assert (
        lucid.softmax(nothing, 1).shape == lucid.log_softmax(nothing, 1).shape == F.glu(nothing, 1).shape == (2, 0, 3)
    )
    assert [part.shape for part in nothing.chunk(3, 1)] == [(2, 0, 3)] * 3
    assert F.prelu(lucid.zeros(2, 0, 3), lucid.zeros(0)).shape == (2, 0, 3)
    x, w = lucid.zeros(3, 2, 0, requires_grad=True), lucid.ones(4, 0, requires_grad=True)
    F.linear(x, w).sum().backward()
    assert x.grad.shape == (3, 2, 0) and w.grad.shape == (4, 0)


def test_dtypes_of_two() -> None:
    narrow, wide = lucid.ones(2), lucid.tensor([0.1, 0.2], dtype=lucid.float64)
    assert lucid.logaddexp(lucid.tensor(0.1, dtype=lucid.float64), narrow).dtype == lucid.float32
    np.testing.assert_allclose(lucid.hypot(narrow * 0.3, wide).numpy(), np.hypot(np.float32(0.3), wide.numpy()), 1e-15)
    assert lucid.hypot(lucid.tensor([300.0], dtype=lucid.float16), NUMBER * 0).item() == 300
    assert lucid.square(lucid.tensor([True])).dtype == lucid.int64
    bytes_ = lucid.tensor([3], dtype=lucid.uint8)
    assert bytes_.add_(lucid.tensor([4])).tolist() == [7] and bytes_.dtype == lucid.uint8


def test_infinities_and_nan() -> None:
    high = lucid.nan_to_num(lucid.tensor([float("inf")], dtype=lucid.bfloat16)).item()
    assert high == float(lucid.finfo(lucid.bfloat16).max)
    assert np.isnan(F.hardshrink(lucid.tensor([float("nan")])).item())


def test_the_gradient_of_a_value_with_leading_ones() -> None:
    x, value = lucid.zeros(2, 3), lucid.ones(1, 1, 3, requires_grad=True)
    y = x * 1
    y[lucid.tensor([0])] = value
    y.sum().backward()
    assert value.grad.tolist() == [[[1, 1, 1]]]


def test_an_integer_beside_a_tensor_of_indices_takes_its_axis_away_first() -> None:
    x = lucid.arange(24.0).reshape(2, 3, 4)
    few, mask = lucid.tensor([1, 3]), lucid.tensor([True, False, True])
    assert x[0, :, few].shape == (3, 2) and x[:, few - 1, 0].shape == (2, 2)
    assert x[1, None, mask].shape == (1, 2, 4) and x[None, 0, few - 1, few].tolist() == [[1.0, 11.0]]
    base, value = lucid.zeros(2, 3, 4), lucid.ones(3, 2, requires_grad=True)
    y = base * 1
    y[0, :, few] = value * 2
    (y * x).sum().backward()
    assert y[0].tolist() == [[0, 2, 0, 2]] * 3 and y[1].sum().item() == 0
    assert value.grad.tolist() == [[2.0, 6.0], [10.0, 14.0], [18.0, 22.0]]
    base[1, :, [0, 2]] = lucid.arange(6.0).reshape(3, 2)
    assert base[1].tolist() == [[0, 0, 1, 0], [2, 0, 3, 0], [4, 0, 5, 0]]


def test_nearest_takes_the_whole_step_that_rounding_makes() -> None:
    x = lucid.arange(36, dtype=lucid.float32).reshape(1, 1, 36)
    assert F.interpolate(x, scale_factor=1.3, mode="nearest-exact")[0, 0, 19].item() == 15  # 19.5 / 1.3


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: lucid.ones(3).__setitem__([0], lucid.ones(2, 0, 1)), lucid.ShapeError, "setitem: "),
    (lambda: lucid.tensor([1]) % 0, ZeroDivisionError, "remainder: an integer divided by 0"),
    (lambda: lucid.tensor([1]) // lucid.tensor([0]), ZeroDivisionError, "floor_divide: an integer divided by 0"),
    (lambda: lucid.tril(LINE), lucid.ShapeError, r"tril: the input \(3,\) has 1 dimensions, but must have at least 2"),
    (lambda: lucid.ones(2, 3).repeat(2), lucid.ShapeError, r"repeat: repeats=\(2,\) must be at least as many as"),
    (
        lambda: lucid.ones(3).index_copy(0, lucid.tensor([0, 1]), LINE),
        lucid.ShapeError,
        r"index_copy: source \(3,\) must be \(2,\)",
    ),
    (
        lambda: F.triplet_margin_loss(LINE, LINE, LINE, margin=0.0),
        ValueError,
        "triplet_margin_loss: margin=0.0 must be",
    ),
    (
        lambda: F.binary_cross_entropy(lucid.ones(2), lucid.ones(2), lucid.ones(1, 1, 2)),
        lucid.ShapeError,
        r"binary_cross_entropy: weight \(1, 1, 2\) must broadcast to the input \(2,\)",
    ),
]


@pytest.mark.parametrize(("call", "kind", "text"), WRONG)
def test_wrong_arguments_are_named(call: Callable[[], Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()
