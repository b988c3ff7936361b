"""Data sets: anything with a length and items by number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np

from lucid.core.errors import ShapeError
from lucid.ops.random import Generator, default_generator
from lucid.tensor import Tensor


class Dataset:
    """Base of data sets: a subclass has ``__len__`` and ``__getitem__``."""

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no __getitem__()")

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} has no __len__()")

    def __add__(self, other: Dataset) -> ConcatDataset:
        return ConcatDataset([self, other])


class IterableDataset:
    """Base of streams: a subclass has ``__iter__``, and a length if it is known.

    A loader goes through it in order, in its own process.

    >>> class Squares(IterableDataset):
    ...     def __iter__(self):
    ...         return (n * n for n in range(4))
    >>> list(Squares() + Squares())
    [0, 1, 4, 9, 0, 1, 4, 9]
    """

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__} has no __iter__()")

    def __add__(self, other: IterableDataset) -> ChainDataset:
        return ChainDataset([self, other])


class ChainDataset(IterableDataset):
    """Streams one after the other."""

    def __init__(self, datasets: Iterable[IterableDataset]) -> None:
        self.datasets = list(datasets)

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.datasets)

    def __len__(self) -> int:
        return sum(map(len, self.datasets))  # type: ignore[arg-type]


class TensorDataset(Dataset):
    """Item i is the i-th row of every tensor.

    >>> TensorDataset(Tensor([[1.0], [2.0]]), Tensor([0, 1]))[1]
    (Tensor([2.]), Tensor(1))
    """

    def __init__(self, *tensors: Tensor) -> None:
        lengths = [len(tensor) for tensor in tensors]
        if len(set(lengths)) != 1:
            raise ShapeError(f"TensorDataset: all tensors must have the same length, not {lengths}")
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """The rows of these numbers, of every tensor."""
        return tuple(Tensor(tensor.detach().numpy()[np.asarray(indices)]) for tensor in self.tensors)


class Subset(Dataset):
    """Some items of another data set, by number."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]

    def __len__(self) -> int:
        return len(self.indices)


class ConcatDataset(Dataset):
    """Data sets one after the other."""

    def __init__(self, datasets: Iterable[Dataset]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset: at least one data set is needed")
        self.ends = list(accumulate(len(dataset) for dataset in self.datasets))

    def __getitem__(self, index: int) -> Any:
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"ConcatDataset: index {index} is out of range for {len(self)} items")
        which = int(np.searchsorted(self.ends, position, side="right"))
        return self.datasets[which][position - (self.ends[which - 1] if which else 0)]

    def __len__(self) -> int:
        return self.ends[-1]


def whole_batches(dataset: Any) -> Callable[[Sequence[int]], Any] | None:
    """How to take a batch at once instead of item by item, where that gives the same."""
    if isinstance(dataset, Subset):
        inner = whole_batches(dataset.dataset)
        return inner and (lambda chosen: inner([dataset.indices[i] for i in chosen]))
    is_plain = isinstance(dataset, TensorDataset) and type(dataset).__getitem__ is TensorDataset.__getitem__
    return dataset.batch if is_plain else None


def random_split(dataset: Dataset, lengths: Sequence[int | float], generator: Generator | None = None) -> list[Subset]:
    """The data set cut at random into parts of these lengths, or of these fractions if they sum to 1.

    >>> [len(part) for part in random_split(TensorDataset(Tensor([0] * 10)), [0.75, 0.25])]
    [8, 2]
    """
    counts = _counts(lengths, len(dataset))
    order = (generator or default_generator()).numpy.permutation(len(dataset)).tolist()
    ends = list(accumulate(counts))
    return [Subset(dataset, order[end - count : end]) for count, end in zip(counts, ends, strict=True)]


def _counts(lengths: Sequence[int | float], total: int) -> list[int]:
    """Lengths as given; fractions rounded down, with what is left over handed out from the first part on."""
    if any(isinstance(length, float) for length in lengths) and math.isclose(sum(lengths), 1.0):
        counts = [math.floor(total * fraction) for fraction in lengths]
        for i in range(total - sum(counts)):
            counts[i % len(counts)] += 1
        return counts
    if sum(lengths) != total or not all(isinstance(n, int) and n >= 0 for n in lengths):
        raise ValueError(
            f"random_split: lengths={list(lengths)} must be sizes that sum to {total}, or fractions that sum to 1"
        )
    return [int(n) for n in lengths]
