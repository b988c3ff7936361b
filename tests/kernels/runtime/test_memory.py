"""The memory pool: warm, aligned, bounded, never shared by two arrays, safe in threads, forks and finalizers."""

from __future__ import annotations

import gc
import multiprocessing
import random
import resource
import sys
import threading
import weakref
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucid.kernels.runtime import memory
from tests.kernels.guard import run_guarded

MIB = 1 << 20
PAGE = resource.getpagesize()


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """A pool of its own for every test."""
    pool = memory.Pool(256 * MIB)
    monkeypatch.setattr(memory, "_pool", pool)
    return pool


def faults():
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt  # others may be generating code


def address(array):
    return array.ctypes.data


# What an array is


@pytest.mark.parametrize("shape", [(), 0, 5, (0, 3), (2, 3), (70000,), 70000, [300, 400], (1, 2, 70000), (64, 64, 64)])
@pytest.mark.parametrize("dtype", ["f4", np.float64, np.dtype("i8"), bool, "c8", "f2", ml_dtypes.bfloat16])
def test_shape_and_dtype_are_as_asked(shape, dtype):
    array, want = memory.empty(shape, dtype), np.empty(shape, dtype)
    assert type(array) is np.ndarray
    assert (array.shape, array.dtype, array.strides) == (want.shape, want.dtype, want.strides)
    assert array.flags.c_contiguous and array.flags.writeable and array.flags.aligned
    array[...] = 1
    assert (array == np.ones(shape, dtype)).all()


@pytest.mark.parametrize("kib", [256, 257, 1000, 1024, 2048, 2049, 5000, 65536])
def test_large_arrays_are_aligned(kib):
    for array in [memory.empty(kib * 1024, "u1") for _ in range(3)]:
        assert address(array) % memory.ALIGN_BYTES == 0
        assert kib < 2048 or address(array) % (2 * MIB) == 0


def test_objects_are_never_pooled():
    array = memory.empty(100_000, object)
    assert array.base is None and array[0] is None


@pytest.mark.parametrize("shape", [(-1,), (-600, -600), (600, -600), -5])
def test_negative_sizes_are_refused(shape, fresh):
    with pytest.raises(ValueError, match="negative dimensions"):
        memory.empty(shape, "f4")
    assert fresh.stats().in_use_bytes == 0


@pytest.mark.parametrize("items", [1 << 50, 1 << 62, 1 << 70])
def test_too_much_memory_is_an_error_and_the_pool_stays_right(items, fresh):
    kept = memory.empty(MIB, "f4")
    with pytest.raises((MemoryError, ValueError)):
        memory.empty(items, "f4")
    assert fresh.stats().in_use_bytes == kept.nbytes


@given(st.integers(1, 1 << 40))
def test_size_classes_waste_little(size):
    block = memory.size_class(size)
    assert size <= block < size + max(size / 8, PAGE)
    assert block % PAGE == 0
    assert memory.size_class(block) == block


def test_size_classes_are_few():
    assert len({memory.size_class(size) for size in range(MIB, 2 * MIB, 1024)}) <= 9


# Reuse


def test_a_reused_result_is_warm_and_not_zeroed():
    array = memory.empty((16, MIB), "f4")
    array[...] = 3
    where = address(array)
    del array
    before = faults()
    array = memory.empty((16, MIB), "f4")
    assert (address(array), array[7, 9]) == (where, 3)
    array[...] = 4
    assert faults() - before <= 8  # a few are the interpreter's own; fresh huge pages would be 32, small ones 16384


def test_the_same_block_serves_any_shape_of_its_class():
    where = address(memory.empty((1000, 1000), "f4"))
    assert address(memory.empty((1000, 500), "f8")) == where
    assert address(memory.empty((3_999_999,), "u1")) == where


def test_live_arrays_never_overlap():
    rng, live = random.Random(0), []
    for _ in range(500):
        if live and rng.random() < 0.5:
            live.pop(rng.randrange(len(live)))
        else:
            live.append(memory.empty(rng.randrange(256 * 1024, 2 * MIB), "u1"))
        spans = sorted((address(a), address(a) + a.nbytes) for a in live)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


VIEWS = {
    "slice": lambda a: a[5:9],
    "slice of slice": lambda a: a[5:][::-2][3:],
    "reshape": lambda a: a.reshape(2, -1).T,
    "dtype": lambda a: a.view(np.uint8),
    "element": lambda a: a[3:4].reshape(()),
    "memoryview": memoryview,
    "frombuffer": np.frombuffer,
    "asarray": lambda a: np.asarray(memoryview(a)),
    "dlpack": np.from_dlpack,
    "subclass": lambda a: a.view(np.recarray),
    "as_strided": lambda a: np.lib.stride_tricks.as_strided(a, (3,), (8,)),
    "broadcast": lambda a: np.broadcast_to(a, (2, len(a))),
    "iterator": lambda a: a.flat,
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_view_keeps_the_block(view, fresh):
    array = memory.empty(MIB, "f4")
    kept = view(array)
    del array
    assert fresh.stats().in_use_bytes == 4 * MIB
    other = memory.empty(MIB, "f4")
    assert not np.shares_memory(other, np.asarray(kept)) or isinstance(kept, np.flatiter)
    assert fresh.stats().in_use_bytes == 8 * MIB
    del kept
    gc.collect()
    assert fresh.stats() == memory.Stats(4 * MIB, 4 * MIB, 8 * MIB, 256 * MIB)


def test_arrays_in_a_cycle_come_back(fresh):
    class Holder:
        pass

    holder = Holder()
    holder.array, holder.self = memory.empty(MIB, "f4"), holder
    del holder
    gc.collect()
    assert fresh.stats().in_use_bytes == 0


def test_weak_references_to_results_work():
    array = memory.empty(MIB, "f4")
    gone = []
    watch = weakref.ref(array, gone.append)
    del array
    assert gone == [watch]


# Bounds


def test_what_is_cached_is_bounded(fresh):
    memory.set_limit(10 * MIB)
    arrays = [memory.empty(MIB, "u1") for _ in range(30)]
    assert fresh.stats() == memory.Stats(30 * MIB, 0, 30 * MIB, 10 * MIB)
    del arrays
    assert fresh.stats() == memory.Stats(0, 10 * MIB, 30 * MIB, 10 * MIB)
    memory.set_limit(3 * MIB)
    assert fresh.stats().cached_bytes == 3 * MIB
    with pytest.raises(ValueError, match="set_limit: limit_bytes=-1 must be at least 0"):
        memory.set_limit(-1)


def test_a_block_over_the_limit_is_not_kept(fresh):
    memory.set_limit(MIB)
    del (arrays := [memory.empty(5 * MIB, "u1")])[:]
    assert fresh.stats().cached_bytes == 0 and arrays == []


def test_the_class_unused_for_longest_gives_way(fresh):
    memory.set_limit(10 * MIB)
    old = address(memory.empty(4 * MIB, "u1"))
    memory.empty(3 * MIB, "u1")
    assert address(memory.empty(4 * MIB, "u1")) == old
    memory.empty(5 * MIB, "u1")
    assert fresh.stats().cached_bytes == 9 * MIB
    assert sorted(size for size, blocks in fresh._shelves.items() if blocks) == [4 * MIB, 5 * MIB]


def mapped_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * PAGE


def test_trim_gives_memory_back():
    start = mapped_bytes()
    arrays = [memory.empty(16 * MIB, "u1") for _ in range(5)]
    kept = arrays.pop()
    del arrays
    assert mapped_bytes() - start > 79 * MIB
    memory.trim()
    assert mapped_bytes() - start < 20 * MIB
    assert memory.stats().in_use_bytes == kept.nbytes and memory.stats().cached_bytes == 0


def test_the_default_limit_is_sensible():
    assert 64 * MIB < memory._default_limit() <= 4096 * MIB


def test_what_is_cached_makes_room_when_memory_is_short():
    def check():
        free = mapped_bytes() + 150 * MIB
        resource.setrlimit(resource.RLIMIT_AS, (free, free))
        memory.empty(100 * MIB, "u1")
        with pytest.raises(MemoryError, match=r"empty: no 218103808 bytes to be had, 0 are in use"):
            memory.empty(200 * MIB, "u1")
        del (arrays := [memory.empty(100 * MIB, "u1")])[:]
        assert memory.empty(120 * MIB, "u1").nbytes == 120 * MIB and arrays == []

    run_guarded(check, seconds=20)


# Many users


def test_threads_share_the_pool_and_never_a_block(fresh):
    wrong = []

    def use(seed):
        rng = random.Random(seed)
        for _ in range(400):
            array = memory.empty(rng.choice([300_000, MIB, 2 * MIB]), "u1")
            array[::4096] = seed
            again = memory.workspace(rng.randrange(1, 500_000), 2)
            again[:] = seed
            if (array[::4096] != seed).any() or (again != seed).any():
                wrong.append(seed)
            del array, again

    users = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for user in users:
            user.start()
        for user in users:
            user.join()
    finally:
        sys.setswitchinterval(switch)
    assert not wrong
    stats = fresh.stats()
    blocks = [block for shelf in fresh._shelves.values() for block in shelf]
    assert stats.in_use_bytes == 0 and stats.cached_bytes == sum(block.size_bytes for block in blocks)
    assert not fresh._lent


def test_a_finalizer_may_allocate_and_free(fresh):
    class Chatty:
        def __del__(self):
            memory.empty(MIB, "u1")

    for _ in range(200):
        chatty = Chatty()
        chatty.self, chatty.array = chatty, memory.empty(MIB, "u1")
        del chatty
        memory.empty(2 * MIB, "u1")
        gc.collect(0)
    gc.collect()
    assert fresh.stats().in_use_bytes == 0


def test_a_child_has_memory_of_its_own():
    array = memory.empty(MIB, "u1")
    array[...] = 1
    cached = memory.empty(MIB, "u1")
    cached[...] = 2
    where = address(cached)
    del cached

    def check():
        mine = memory.empty(MIB, "u1")
        assert address(mine) == where and (mine == 2).all()
        array[...] = mine[...] = 9

    run_guarded(check, seconds=20)
    assert (array == 1).all() and (memory.empty(MIB, "u1") == 2).all()


def test_fork_while_other_threads_allocate():
    going = True

    def use():
        while going:
            memory.empty(MIB, "u1")

    users = [threading.Thread(target=use) for _ in range(2)]
    for user in users:
        user.start()
    try:
        for _ in range(20):
            run_guarded(lambda: memory.empty(MIB, "u1").fill(1), seconds=20)
    finally:
        going = False
        for user in users:
            user.join()


def total(n):
    array = memory.empty((n, MIB), "u1")
    array[...] = 1
    return int(array.sum())


def test_multiprocessing_by_fork():
    total(3)
    with multiprocessing.get_context("fork").Pool(2) as processes:
        assert processes.map(total, [1, 2, 3, 4]) == [n * MIB for n in (1, 2, 3, 4)]


# Workspace


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 100_000, 3 * MIB])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_workspace_has_a_cache_line_aligned_row_a_thread(size, threads):
    rows = memory.workspace(size, threads)
    assert rows.dtype == np.uint8 and rows.shape[0] == threads and rows.shape[1] >= size
    assert all(address(row) % 64 == 0 and row.flags.c_contiguous for row in rows)
    rows[...] = 7


def middle(rows: np.ndarray) -> int:
    """Where the second half of a workspace's rows begins."""
    return address(rows) + (len(rows) + 1) // 2 * rows.shape[1]


def test_workspaces_are_kept_and_grown(fresh):
    where = middle(memory.workspace(MIB, 2))
    assert middle(memory.workspace(20_000, 3)) == where
    memory.workspace(2 * MIB, 2)
    where = middle(memory.workspace(40_000, 1))
    assert middle(memory.workspace(2 * MIB, 2)) == where
    assert 4 * MIB < fresh.stats().cached_bytes <= 5 * MIB


def test_of_two_threads_each_has_its_half_of_the_memory_whatever_it_asks_for(fresh):
    memory.workspace(3 * MIB, 2)
    where = {middle(memory.workspace(size, 2)) for size in (20_000, 100_001, MIB, 3 * MIB)}
    asked = (MIB, 64), (MIB, MIB), (2 * MIB, 4096)
    behind = [address(memory.workspace(size, 1, before)) + before for size, before in asked]
    assert where == set(behind) and len(where) == 1, "rows of one, and all before and behind a byte of another"


def test_workspaces_in_use_at_once_are_apart():
    for size in (100, MIB):
        first, second = memory.workspace(size, 1), memory.workspace(size, 1)
        assert not np.shares_memory(first, second)


def test_small_workspaces_leave_the_pool_alone(fresh):
    memory.workspace(10_000, 3)[...] = 1
    assert fresh.stats().peak_bytes == 0
