"""Items into batches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

import lucid
from lucid.data import default_collate


class Pair(NamedTuple):
    x: float
    y: str


def test_kinds_of_items() -> None:
    assert default_collate([1.5, 2.5]).dtype == lucid.float32
    assert default_collate([1, 2]).dtype == lucid.int64
    assert default_collate([True, False]).dtype == lucid.bool
    assert default_collate([np.float64(1.5), np.float64(2)]).dtype == lucid.float64
    assert default_collate([np.ones((2, 3), np.float16)] * 4).shape == (4, 2, 3)
    assert default_collate([lucid.ones(2), lucid.zeros(2)]).tolist() == [[1, 1], [0, 0]]
    assert default_collate(["a", "b"]) == ["a", "b"]


def test_nested_items() -> None:
    batch = default_collate([{"x": (1, [2.0])}, {"x": (3, [4.0])}])
    assert batch["x"][0].tolist() == [1, 3] and isinstance(batch["x"], tuple)
    assert batch["x"][1][0].tolist() == [2, 4] and isinstance(batch["x"][1], list)
    pair = default_collate([Pair(1.0, "a"), Pair(2.0, "b")])
    assert isinstance(pair, Pair) and pair.x.tolist() == [1, 2] and pair.y == ["a", "b"]


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(lucid.ShapeError, match=r"the shapes \(2,\), \(3,\)"):
        default_collate([lucid.ones(2), lucid.ones(3)])
    with pytest.raises(lucid.ShapeError, match=r"have \[1, 2\] entries"):
        default_collate([(1,), (1, 2)])
    with pytest.raises(TypeError, match="items of type set"):
        default_collate([{1}])
