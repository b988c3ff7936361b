"""Sizes and paddings in every form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lucid.core.errors import ShapeError
from lucid.nn.functional._arguments import as_pairs, integer, paddings, same_pads, sizes


@pytest.mark.parametrize(("value", "rank", "expected"), [
    (3, 2, (3, 3)), (np.int16(3), 1, (3,)), ([1, 2], 2, (1, 2)), ((np.int64(1), 2, 3), 3, (1, 2, 3)), ((5,), 1, (5,)),
])  # fmt: skip
def test_sizes(value: Any, rank: int, expected: tuple[int, ...]) -> None:
    found = sizes("caller", "name", value, rank)
    assert found == expected and all(type(n) is int for n in found)


@pytest.mark.parametrize(
    "value", [1.0, True, np.bool_(True), "1", None, (1,), (1, 2, 3), (1, 2.0), (True, 1), {1, 2}, np.array([1, 2])]
)
def test_what_is_no_size(value: Any) -> None:
    with pytest.raises(TypeError, match=r"caller: name=.* must be an int or a tuple of 2 ints"):
        sizes("caller", "name", value, 2)


@pytest.mark.parametrize(("value", "rank", "expected"), [
    (1, 2, (1, 1)), ((1, 2), 2, (1, 2)), (((1, 1), (2, 2)), 2, (1, 2)), ([[1, 2], (3, 4)], 2, ((1, 2), (3, 4))),
    (((0, 3),), 1, ((0, 3),)), ("same", 3, "same"), ("valid", 1, "valid"), ("causal", 1, "causal"),
])  # fmt: skip
def test_paddings(value: Any, rank: int, expected: Any) -> None:
    assert paddings("caller", value, rank) == expected


@pytest.mark.parametrize("value", [1.5, True, (1, 2, 3), ((1, 2), 3), ((1, 2, 3), (1, 2, 3)), None])
def test_what_is_no_padding(value: Any) -> None:
    with pytest.raises(
        TypeError, match=r"caller: padding=.*\(\(low, high\), \(low, high\)\), or one of 'same', 'valid', 'causal'"
    ):
        paddings("caller", value, 2)


def test_integers() -> None:
    assert integer("caller", "name", np.uint8(3), 1) == 3
    with pytest.raises(ShapeError, match=r"caller: name=0 must be at least 1$"):
        integer("caller", "name", 0, 1)
    with pytest.raises(TypeError, match=r"caller: name=2\.5 must be an int, not float"):
        integer("caller", "name", 2.5, 1)


@pytest.mark.parametrize("n", range(1, 9))
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_pads_give_the_ceiling_and_lean_right(n: int, kernel: int, stride: int, dilation: int) -> None:
    ((low, high),) = same_pads((n,), (kernel,), (stride,), (dilation,))
    assert (n + low + high - dilation * (kernel - 1) - 1) // stride + 1 == -(-n // stride)
    assert low >= 0 and high - low in (0, 1)
    assert as_pairs((2, 3)) == ((2, 2), (3, 3))
