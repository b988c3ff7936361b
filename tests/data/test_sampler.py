"""Orders of items."""

from __future__ import annotations

from collections import Counter

import pytest

import lucid
from lucid.data import BatchSampler, RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler


def seeded() -> lucid.Generator:
    return lucid.Generator().manual_seed(3)


def test_orders() -> None:
    assert list(SequentialSampler(range(4))) == [0, 1, 2, 3]
    assert sorted(RandomSampler(range(9), generator=seeded())) == list(range(9))
    assert list(RandomSampler(range(9), generator=seeded())) == list(RandomSampler(range(9), generator=seeded()))
    twice = RandomSampler(range(4), num_samples=10, generator=seeded())
    assert len(list(twice)) == len(twice) == 10 and max(Counter(twice).values()) == 3
    drawn = list(RandomSampler(range(3), replacement=True, num_samples=300, generator=seeded()))
    assert len(drawn) == 300 and min(Counter(drawn).values()) > 60
    assert sorted(SubsetRandomSampler([5, 3, 8], seeded())) == [3, 5, 8]


def test_weights() -> None:
    drawn = Counter(WeightedRandomSampler([1.0, 0.0, 3.0], 4000, generator=seeded()))
    assert drawn[1] == 0 and 2.5 < drawn[2] / drawn[0] < 3.5
    assert sorted(WeightedRandomSampler([1.0, 0.0, 3.0], 2, replacement=False, generator=seeded())) == [0, 2]


def test_batches() -> None:
    assert list(BatchSampler(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(BatchSampler(range(5), 2, drop_last=True)) == [[0, 1], [2, 3]]
    assert len(BatchSampler(range(5), 2)) == 3 and len(BatchSampler(range(5), 2, True)) == 2


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="BatchSampler: batch_size=True"):
        BatchSampler(range(5), True)
    with pytest.raises(ValueError, match="RandomSampler: num_samples=0"):
        RandomSampler(range(5), num_samples=0)
    with pytest.raises(ValueError, match="not all 0"):
        WeightedRandomSampler([0.0], 1)
    with pytest.raises(ValueError, match="only 1 weights are above 0"):
        WeightedRandomSampler([0.0, 1.0], 2, replacement=False)
