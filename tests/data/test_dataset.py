"""Data sets and ways to cut them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import lucid
from lucid.data import ConcatDataset, Dataset, Subset, TensorDataset, random_split


def test_rows_of_tensors() -> None:
    data = TensorDataset(lucid.tensor([[1.0, 2.0], [3.0, 4.0]]), lucid.tensor([5, 6]))
    x, y = data[1]
    assert len(data) == 2 and x.tolist() == [3, 4] and y.item() == 6
    with pytest.raises(lucid.ShapeError, match=r"same length, not \[2, 3\]"):
        TensorDataset(lucid.zeros(2), lucid.zeros(3))


def test_subsets_and_sums() -> None:
    data = TensorDataset(lucid.arange(4))
    both = data + Subset(data, [3, 0])
    assert isinstance(both, ConcatDataset) and len(both) == 6
    assert [both[i][0].item() for i in range(6)] == [0, 1, 2, 3, 3, 0]
    assert both[-1][0].item() == 0
    for wrong in (6, -7):
        with pytest.raises(IndexError, match="out of range for 6 items"):
            both[wrong]
    assert len(pickle.loads(pickle.dumps(both))) == 6


@pytest.mark.parametrize(
    ("lengths", "expected"), [([3, 7], [3, 7]), ([0.25, 0.75], [3, 7]), ([0.5, 0.5], [5, 5]), ([0, 10], [0, 10])]
)
def test_random_parts_cover_everything_once(lengths: list[float], expected: list[int]) -> None:
    parts = random_split(TensorDataset(lucid.arange(10)), lengths, lucid.Generator().manual_seed(1))
    assert [len(part) for part in parts] == expected
    assert sorted(part[i][0].item() for part in parts for i in range(len(part))) == list(range(10))
    again = random_split(TensorDataset(lucid.arange(10)), lengths, lucid.Generator().manual_seed(1))
    assert [part.indices for part in parts] == [part.indices for part in again]


@pytest.mark.parametrize("lengths", [[3, 3], [0.5, 0.2], [11, -1]])
def test_lengths_that_do_not_fit_are_refused(lengths: list[float]) -> None:
    with pytest.raises(ValueError, match=r"random_split: lengths=.* sum to 10"):
        random_split(TensorDataset(lucid.arange(10)), lengths)


def test_the_base_class_says_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match="Dataset has no __getitem__"):
        Dataset()[0]
    assert np.array_equal(TensorDataset(lucid.arange(3)).batch([2, 0])[0].numpy(), [2, 0])
