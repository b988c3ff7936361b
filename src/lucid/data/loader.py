"""``DataLoader``: a data set as batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from itertools import count, islice
from operator import itemgetter
from typing import Any

import numpy as np

from lucid.data.collate import default_collate
from lucid.data.dataset import IterableDataset, whole_batches
from lucid.data.sampler import BatchSampler
from lucid.data.workers import made_by_workers
from lucid.ops.random import Generator, default_generator


class DataLoader:
    """Goes through a data set in batches, once per ``for`` loop.

    An ``IterableDataset`` gives its items in order: it takes no sampler, nor workers, which would each read all of it.
    With ``batch_size=None`` its items come one by one, as they are.

    The order, and every random number drawn while a batch is made (from Lucid, NumPy or ``random``), depend on the
    epoch's seed and the batch's number only: they are the same for any number of workers. With ``seed`` the epoch's
    seed follows from it and from ``epoch``, which counts the loops begun and may be set to resume; otherwise it is
    drawn from ``generator``, or from the default one.

    Workers are forked at the start of each epoch and keep ``prefetch_factor`` batches each ahead. ``pin_memory`` and
    ``persistent_workers`` are taken, and do nothing: there is one memory, and a fork takes milliseconds.

    >>> from lucid.data import TensorDataset
    >>> from lucid.tensor import Tensor
    >>> loader = DataLoader(TensorDataset(Tensor([1.0, 2.0, 3.0])), batch_size=2)
    >>> [batch for (batch,) in loader]
    [Tensor([1., 2.]), Tensor([3.])]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[int] | None = None,
        batch_sampler: Iterable[Sequence[int]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0.0,
        worker_init_fn: Callable[[int], Any] | None = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        seed: int | None = None,
    ) -> None:
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
            raise ValueError("DataLoader: batch_sampler excludes batch_size, shuffle, sampler and drop_last")
        if sampler is not None and shuffle:
            raise ValueError("DataLoader: sampler and shuffle=True exclude each other")
        if seed is not None and generator is not None:
            raise ValueError("DataLoader: seed and generator exclude each other")
        prefetch_factor = 2 if prefetch_factor is None else prefetch_factor
        for name, value, least in (("num_workers", num_workers, 0), ("prefetch_factor", prefetch_factor, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"DataLoader: {name}={value!r} must be an int of at least {least}")
        if timeout < 0:
            raise ValueError(f"DataLoader: timeout={timeout} must be at least 0 seconds; 0 waits for ever")
        self.dataset = dataset
        self.is_stream = isinstance(dataset, IterableDataset)
        if self.is_stream:
            _check_stream(shuffle=shuffle, sampler=sampler, batch_sampler=batch_sampler, num_workers=num_workers)
        self.batch_size: Any = batch_size
        self.shuffle = bool(shuffle)
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.num_workers = num_workers
        self.collate_fn = collate_fn
        self.drop_last = drop_last
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.generator = generator
        self.prefetch_factor = prefetch_factor
        self.seed = seed
        self.epoch = 0
        if batch_sampler is None and not (self.is_stream and batch_size is None):
            self._batches(range(0))  # refuses a batch size that means nothing

    def __len__(self) -> int:
        """Batches per epoch."""
        if self.is_stream:
            return self._count_of_stream()
        items = range(len(self.dataset)) if self.sampler is None else self.sampler
        return len(self._batches(items))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        root = self._epoch_seed()
        self.epoch += 1
        if self.is_stream:
            return self._streamed(root)
        batches = self._batches(self._items(root))
        if not self.num_workers:
            return (self._made(indices, (*root, i)) for i, indices in enumerate(batches))
        if not isinstance(batches, Sized):
            raise TypeError("DataLoader: with workers, the batch_sampler must have a length")
        known = list(batches)
        return made_by_workers(
            lambda i: self._made(known[i], (*root, i)),
            len(known),
            self.num_workers,
            self.prefetch_factor,
            self.timeout,
            self.worker_init_fn,
        )

    def _count_of_stream(self) -> int:
        size, items = self.batch_size or 1, len(self.dataset)
        return items // size if self.drop_last else -(-items // size)

    def _streamed(self, root: tuple[int, ...]) -> Iterator[Any]:
        items, put_together = iter(self.dataset), self.collate_fn
        if put_together is None:
            put_together = default_collate if self.batch_size is not None else itemgetter(0)
        elif self.batch_size is None:
            put_together = _of_one(put_together)
        for number in count():
            with _streams_of((*root, number)):
                batch = list(islice(items, self.batch_size or 1))
                if not batch or (self.drop_last and len(batch) < (self.batch_size or 1)):
                    return
                made = put_together(batch)
            yield made

    def _epoch_seed(self) -> tuple[int, ...]:
        if self.seed is not None:
            return self.seed, self.epoch
        return (int((self.generator or default_generator()).numpy.integers(2**63)),)

    def _items(self, root: tuple[int, ...]) -> Iterable[int]:
        if self.sampler is not None:
            return self.sampler
        size = len(self.dataset)
        return np.random.default_rng(root).permutation(size).tolist() if self.shuffle else range(size)

    def _batches(self, items: Iterable[int]) -> Iterable[Sequence[int]]:
        if self.batch_sampler is not None:
            return self.batch_sampler
        return BatchSampler(items, self.batch_size, self.drop_last)

    def _made(self, indices: Sequence[int], seed: tuple[int, ...]) -> Any:
        if self.collate_fn is None and (whole := whole_batches(self.dataset)):
            return whole(indices)
        with _streams_of(seed):
            items = [self.dataset[i] for i in indices]
            return (self.collate_fn or default_collate)(items)


def _check_stream(**choices: Any) -> None:
    """Raises: ValueError for what has no meaning where items come in an order of their own."""
    for name, value in choices.items():
        if value:
            raise ValueError(f"DataLoader: an IterableDataset has its own order, in this process: no {name}={value!r}")


def _of_one(function: Callable[[Any], Any]) -> Callable[[list[Any]], Any]:
    return lambda items: function(items[0])


@contextmanager
def _streams_of(seed: tuple[int, ...]) -> Iterator[None]:
    """The three global streams of random numbers begin anew inside and go on after as if nothing had been drawn."""
    ours = default_generator()
    before = ours.get_state(), np.random.get_state(), random.getstate()
    words = np.random.SeedSequence(seed).generate_state(4)
    ours.set_state(Generator().manual_seed(int(words[:2].view(np.uint64)[0])).get_state())
    np.random.seed(words)
    random.seed(words.tobytes())
    try:
        yield
    finally:
        ours.set_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])
