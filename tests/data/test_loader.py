"""The loader: order, randomness, workers that die, fail, hang or are left alone."""

from __future__ import annotations

import multiprocessing.util
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import lucid
from lucid.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    Subset,
    TensorDataset,
    get_worker_info,
)


class Numbers(Dataset):
    """Item i is i with draws from the three global streams."""

    def __init__(self, count: int = 23) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return index, np.random.rand(3), random.random(), lucid.rand(2)


def arrays(loader: DataLoader) -> list[list[np.ndarray]]:
    return [[part.numpy() for part in batch] for batch in loader]


def same(a: list[list[np.ndarray]], b: list[list[np.ndarray]]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


@pytest.mark.parametrize("num_workers", [1, 2, 3, 9])
def test_every_number_of_workers_gives_the_same_batches(num_workers: int) -> None:
    epochs = [
        [arrays(loader), arrays(loader)]
        for loader in (
            DataLoader(Numbers(), 4, True, seed=3, num_workers=n, pin_memory=n > 0) for n in (0, num_workers)
        )
    ]
    assert same(epochs[0][0], epochs[1][0]) and same(epochs[0][1], epochs[1][1])
    assert not same(epochs[0][0], epochs[0][1]), "another epoch has another order"
    assert sorted(np.concatenate([batch[0] for batch in epochs[0][0]])) == list(range(23))


def test_items_of_a_batch_draw_different_numbers() -> None:
    drawn = np.concatenate([batch[1] for batch in arrays(DataLoader(Numbers(), 4, num_workers=2))])
    assert len(np.unique(drawn)) == 23 * 3


def test_the_caller_s_random_numbers_are_left_alone() -> None:
    def after(use: bool) -> list[Any]:
        np.random.seed(1)
        random.seed(1)
        lucid.manual_seed(1)
        loader = DataLoader(Numbers(), 4, seed=0)
        if use:
            list(loader)
        return [np.random.rand(), random.random(), lucid.rand(1).item()]

    assert after(True) == after(False)


def test_seeds() -> None:
    data = TensorDataset(lucid.arange(20))
    order = lambda loader: [i for (batch,) in loader for i in batch.tolist()]  # noqa: E731
    loader, resumed = DataLoader(data, 3, shuffle=True, seed=5), DataLoader(data, 3, shuffle=True, seed=5)
    first, second = order(loader), order(loader)
    resumed.epoch = 1
    assert order(resumed) == second != first
    lucid.manual_seed(4)
    drawn = order(DataLoader(data, 3, shuffle=True))
    lucid.manual_seed(4)
    assert order(DataLoader(data, 3, shuffle=True)) == drawn
    generators = [lucid.Generator().manual_seed(8) for _ in range(2)]
    assert order(DataLoader(data, shuffle=True, generator=generators[0])) == order(
        DataLoader(data, shuffle=True, generator=generators[1])
    )


def test_lengths_and_what_is_dropped() -> None:
    data = TensorDataset(lucid.arange(10))
    assert [len(batch) for (batch,) in DataLoader(data, 4)] == [4, 4, 2] and len(DataLoader(data, 4)) == 3
    assert [len(batch) for (batch,) in DataLoader(data, 4, drop_last=True)] == [4, 4]
    assert len(DataLoader(data, 4, drop_last=True)) == 2
    assert len(DataLoader(data, 4, sampler=[1, 2, 3, 4, 5])) == 2
    batches = BatchSampler(SequentialSampler(data), 3)
    assert len(DataLoader(data, batch_sampler=batches)) == 4
    assert [b.tolist() for (b,) in DataLoader(data, batch_sampler=batches, num_workers=2)][-1] == [9]
    assert list(DataLoader(TensorDataset(lucid.zeros(0)), 4, num_workers=2)) == []


def test_a_plain_tensor_data_set_is_taken_whole() -> None:
    x, y = lucid.randn(10, 3), lucid.arange(10)
    part = Subset(Subset(TensorDataset(x, y), [9, 8, 7, 6]), [3, 0])
    ((a, b),) = list(DataLoader(part, 2))
    assert b.tolist() == [6, 9]
    np.testing.assert_array_equal(a.numpy(), x.numpy()[[6, 9]])

    class Doubled(TensorDataset):
        def __getitem__(self, index: Any) -> Any:
            return super().__getitem__(index)[1] * 2

    assert next(iter(DataLoader(Doubled(x, y), 2))).tolist() == [0, 2]


class Fails(Numbers):
    def __getitem__(self, index: int) -> Any:
        if index == 7:
            raise KeyError("seven")
        return index


class Odd(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} {two}")


class FailsOddly(Numbers):
    def __getitem__(self, index: int) -> Any:
        raise Odd(1, 2)


def test_an_error_in_a_worker_arrives_with_its_traceback() -> None:
    seen = []
    with pytest.raises(KeyError, match="seven") as caught:
        seen.extend(DataLoader(Fails(), num_workers=2))
    assert [batch.item() for batch in seen] == list(range(7))
    assert "DataLoader worker 1, batch 7" in caught.value.__notes__[0] and "__getitem__" in caught.value.__notes__[0]


def test_an_error_that_cannot_be_sent_arrives_as_text() -> None:
    with pytest.raises(RuntimeError, match="cannot be sent") as caught:
        list(DataLoader(FailsOddly(), num_workers=1))
    assert "Odd: 1 2" in caught.value.__notes__[0]


def test_a_batch_that_cannot_be_sent_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="cannot be sent"):
        list(DataLoader(Numbers(), num_workers=1, collate_fn=lambda items: lambda: items))


class Dies(Numbers):
    def __getitem__(self, index: int) -> Any:
        if index == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


class Leaves(Numbers):
    def __getitem__(self, index: int) -> Any:
        os._exit(3)


@pytest.mark.parametrize(
    ("data", "text"), [(Dies(), "worker 1 .* was killed by SIGKILL before batch 7"), (Leaves(), "ended with code 3")]
)
def test_a_dying_worker_is_an_error_and_no_hang(data: Dataset, text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        list(DataLoader(data, num_workers=2))


class Sleeps(Numbers):
    def __getitem__(self, index: int) -> Any:
        time.sleep(30)


def test_a_slow_worker_is_an_error_after_the_timeout() -> None:
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=r"worker 0 took more than 0.1 s for batch 0"):
        list(DataLoader(Sleeps(), num_workers=2, timeout=0.1))
    assert time.monotonic() - begin < 5


def children() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


def test_workers_end_when_the_loop_is_left_early() -> None:
    iterator: Iterator[Any] = iter(DataLoader(Numbers(1000), num_workers=3))
    next(iterator)
    inside = children()
    del iterator
    assert len(inside - children()) >= 3


def test_an_interrupt_while_a_worker_starts_is_the_parent_s_business() -> None:
    def interrupt(_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    begun = Numbers(4)  # as long as it lives, every fork begins with an interrupt
    multiprocessing.util.register_after_fork(begun, interrupt)
    assert [batch[0].item() for batch in DataLoader(begun, num_workers=2)] == [0, 1, 2, 3]


def test_an_interrupt_that_reaches_a_worker_is_the_parent_s_business() -> None:
    before = children()
    iterator = iter(DataLoader(Numbers(40), num_workers=2))
    found = [next(iterator)[0].item()]
    for worker in children() - before:
        os.kill(worker, signal.SIGINT)
    found += [batch[0].item() for batch in iterator]
    assert found == list(range(40))


class Computes(Numbers):
    """Uses native kernels inside the worker, after the parent has."""

    def __getitem__(self, index: int) -> Any:
        x = lucid.full((2, 8, 64), float(index))
        return lucid.nn.functional.conv1d(x, lucid.ones(8, 8, 3)).sum()


def test_workers_compute_after_the_parent_has() -> None:
    expected = [Computes()[i].item() for i in range(8)]
    found = [batch.item() for batch in DataLoader(Computes(8), num_workers=2)]
    assert found == expected


def test_large_batches_come_back_whole_and_writable() -> None:
    class Large(Numbers):
        def __getitem__(self, index: int) -> Any:
            return np.full((100, 1000), index)

    for i, batch in enumerate(DataLoader(Large(5), 2, num_workers=2)):
        assert (batch.numpy()[0] == 2 * i).all()
        batch += 1


def test_workers_are_told_their_number() -> None:
    class Named(Numbers):
        name = "nobody"

        def __getitem__(self, index: int) -> Any:
            return self.name

    data = Named(4)

    def name(index: int) -> None:
        data.name = f"worker {index}"

    assert [batch[0] for batch in DataLoader(data, num_workers=2, worker_init_fn=name)] == ["worker 0", "worker 1"] * 2
    assert data.name == "nobody"


INTERRUPTED = """
import signal, time
from lucid.data import DataLoader, Dataset
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
class Slow(Dataset):
    def __len__(self): return 1000
    def __getitem__(self, index):
        time.sleep(0.01)
        return index
for i, batch in enumerate(DataLoader(Slow(), num_workers=2)):
    if i == 3: print("running", flush=True)
"""


def test_an_interrupt_from_the_keyboard_ends_all_processes_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "running\n"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0 and errors.count("Traceback") == 1 and "KeyboardInterrupt" in errors
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.parametrize(("options", "text"), [
    ({"batch_size": 0}, "batch_size=0 must be an int of at least 1"),
    ({"batch_size": 2.0}, r"batch_size=2\.0 must be an int"),
    ({"num_workers": -1}, "num_workers=-1 must be an int of at least 0"),
    ({"prefetch_factor": 0}, "prefetch_factor=0 must be an int of at least 1"),
    ({"timeout": -1}, "timeout=-1 must be at least 0"),
    ({"shuffle": True, "sampler": [1]}, "sampler and shuffle=True exclude"),
    ({"batch_sampler": [[1]], "batch_size": 2}, "batch_sampler excludes"),
    ({"seed": 1, "generator": lucid.Generator()}, "seed and generator exclude"),
])  # fmt: skip
def test_arguments_are_checked(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        DataLoader(Numbers(), **options)


class Stream(IterableDataset):
    """Numbers with draws from the three global streams, made as they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        for k in range(self.count):
            yield k, np.random.rand(3), random.random(), lucid.rand(2)


class Counted(Stream):
    def __len__(self) -> int:
        return self.count


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("size", [0, 1, 8, 9])
def test_a_stream_comes_in_batches_in_order(size: int, drop_last: bool) -> None:
    loader = DataLoader(Counted(size), batch_size=4, drop_last=drop_last, seed=1)
    batches = arrays(loader)
    kept = size // 4 * 4 if drop_last else size
    assert [n for batch in batches for n in batch[0]] == list(range(kept)) and len(loader) == len(batches)
    assert len(np.unique([n for batch in batches for n in batch[1]])) == 3 * kept, "batches draw different numbers"
    loader.epoch = 0
    before = np.random.get_state()[1].copy()
    assert same(arrays(loader), batches), "the epoch's seed tells every draw"
    assert (np.random.get_state()[1] == before).all()


def test_a_stream_of_items_as_they_are() -> None:
    assert [item[0] for item in DataLoader(Stream(3), batch_size=None)] == [0, 1, 2]
    assert list(DataLoader(Stream(3), batch_size=None, collate_fn=lambda item: item[0] + 1)) == [1, 2, 3]
    assert list(DataLoader(Stream(3), batch_size=2, collate_fn=len)) == [2, 1]
    assert [batch[0].tolist() for batch in DataLoader(Stream(2) + Stream(1), batch_size=2)] == [[0, 1], [0]]


def test_a_stream_without_end_is_read_as_far_as_it_is_asked() -> None:
    read = []

    class Endless(IterableDataset):
        def __iter__(self) -> Iterator[int]:
            while True:
                read.append(len(read))
                yield read[-1]

    batches = iter(DataLoader(Endless(), batch_size=3))
    assert next(batches).tolist() == [0, 1, 2] and next(batches).tolist() == [3, 4, 5] and len(read) == 6


@pytest.mark.parametrize(
    ("name", "value"), [("shuffle", True), ("num_workers", 2), ("sampler", [0]), ("batch_sampler", [[0]])]
)
def test_a_stream_has_its_own_order_and_process(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"IterableDataset has its own order, in this process: no {name}="):
        DataLoader(Stream(3), **{name: value})


def test_a_stream_says_what_it_lacks() -> None:
    with pytest.raises(TypeError, match="has no len"):
        len(DataLoader(Stream(3)))
    with pytest.raises(NotImplementedError, match=r"IterableDataset has no __iter__\(\)"):
        next(iter(DataLoader(IterableDataset())))
    with pytest.raises(ValueError, match="batch_size=0 must be an int of at least 1"):
        DataLoader(Stream(3), batch_size=0)
    with pytest.raises(ValueError, match="batch_size=None must be an int of at least 1"):
        DataLoader(Numbers(), batch_size=None)


class Told(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        info = get_worker_info()
        return (-1, 0) if info is None else (info.id, info.num_workers)


def test_items_know_which_worker_makes_them():
    assert [batch[0].tolist() for batch in DataLoader(Told(), 3, num_workers=2)] == [[0, 0, 0], [1, 1, 1]]
    assert [batch[1].tolist() for batch in DataLoader(Told(), 3, num_workers=2)] == [[2, 2, 2], [2, 2, 2]]
    assert get_worker_info() is None and next(iter(DataLoader(Told(), 1)))[0].tolist() == [-1]
