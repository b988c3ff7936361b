"""Memory for results and workspace: large blocks come from a pool and go back to it when the last view dies.

To touch fresh pages costs more than many convolutions: a new 64 MiB result means tens of milliseconds of page faults, a
reused one none. Blocks are private anonymous mappings in size classes at most an eighth apart. Nothing is ever zeroed.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

Array = np.ndarray[Any, Any]

_pointer_at = ctypes.c_size_t.from_address
_DATA = object.__basicsize__  # NumPy's binary interface: the data pointer is the first field of an array object

ALIGN_BYTES = 64
POOLED_FROM_BYTES = 256 << 10  # malloc keeps the pages of smaller ones itself, and is faster
_HUGE_PAGE_BYTES = 2 << 20
_MOST_CACHED_BYTES = 4 << 30
_SMALL_BYTES = 32 << 10  # a workspace that malloc finds in cache as well as the pool does


def address(array: Array) -> int:
    """Where an array's first element lies.

    Cost: 0.1 us; ``array.ctypes.data`` and ``__array_interface__`` take eight times as long.

    >>> a = np.zeros(3)
    >>> address(a) == a.ctypes.data
    True
    """
    if not isinstance(array, np.ndarray):  # a NumPy scalar has a shape and a dtype too
        raise TypeError(f"address: {type(array).__name__} is no array")
    return _pointer_at(id(array) + _DATA).value


@dataclass(frozen=True, slots=True)
class Stats:
    """The pool in bytes: in live arrays, cached for reuse, the most that ever lived at once, the most it caches."""

    in_use_bytes: int
    cached_bytes: int
    peak_bytes: int
    limit_bytes: int


class _Lease(weakref.ref[Array]):
    """Watches the array that has a block. Views of the array keep the array alive, hence the block."""

    __slots__ = ("block", "shelf")
    block: _Block
    shelf: int


class _Block:
    """A mapping, from its first aligned byte on. Unmapped when it dies."""

    __slots__ = ("mapping", "offset", "size_bytes")

    def __init__(self, size_bytes: int) -> None:
        huge = size_bytes >= _HUGE_PAGE_BYTES
        align = _HUGE_PAGE_BYTES if huge else mmap.PAGESIZE
        self.size_bytes = size_bytes
        self.mapping = _map(size_bytes + align - mmap.PAGESIZE)
        self.offset = -address(np.frombuffer(self.mapping, np.uint8)) % align
        if huge and hasattr(mmap, "MADV_HUGEPAGE"):
            self.mapping.madvise(mmap.MADV_HUGEPAGE)

    @property
    def middle(self) -> int:
        """From its first byte."""
        return self.size_bytes // 2 // mmap.PAGESIZE * mmap.PAGESIZE


class _Mapping(mmap.mmap):
    """Memory of the pool's own: the base of its arrays, which nobody else gets hold of."""

    __slots__ = ()


def _map(size_bytes: int) -> _Mapping:
    if hasattr(mmap, "MAP_ANONYMOUS"):  # private: a forked child gets a copy and leaves the parent's alone
        return _Mapping(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return _Mapping(-1, size_bytes)


def owns_memory(array: Array) -> bool:
    """Whether an array's memory is its own: who holds neither it nor a view of it cannot write there."""
    base: object = array.base
    return array.flags.owndata if base is None else isinstance(base, _Mapping)


@lru_cache(maxsize=1024)
def size_class(size_bytes: int) -> int:
    """The block size that serves a request: the next multiple of an eighth of the power of two below.

    >>> size_class(1 << 20), size_class((1 << 20) + 1)
    (1048576, 1179648)
    """
    step = max(1 << max((size_bytes - 1).bit_length() - 4, 0), mmap.PAGESIZE)
    return -(-size_bytes // step) * step


class Pool:
    """Blocks on shelves, one a size class, reused last in, first out.

    When more than the limit is cached, the shelf unused for longest gives way. The lock is reentrant, because the
    garbage collector may free an array, and so return a block, inside any call.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._lock = threading.RLock()
        self._shelves: OrderedDict[int, list[_Block]] = OrderedDict()
        self._lent: dict[int, _Lease] = {}
        self._in_use = self._cached = self._peak = 0
        self._limit = limit_bytes
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._lock.release
            )

    def lend(
        self, shelf: int, size_bytes: int, shape: int | Sequence[int], dtype: DTypeLike, before: int | None = None
    ) -> Array:
        """An array on a block of its own, from a shelf or new. The block returns to the shelf when the array dies.

        It begins where the block does, or so many bytes ``before`` the block's middle.
        """
        with self._lock:
            blocks = self._shelves.get(shelf)
            if blocks:
                block = blocks.pop()
                self._cached -= block.size_bytes
                if block.size_bytes >= size_bytes:
                    return self._lease(block, shelf, shape, dtype, before)
        block = self._new(size_bytes)
        with self._lock:
            return self._lease(block, shelf, shape, dtype, before)

    def _lease(
        self, block: _Block, shelf: int, shape: int | Sequence[int], dtype: DTypeLike, before: int | None
    ) -> Array:
        """An array on a block. The lock must be held."""
        begin = 0 if before is None else block.middle - before
        array: Array = np.ndarray(shape, dtype, block.mapping, block.offset + begin)
        lease = _Lease(array, self._take_back)
        lease.block, lease.shelf = block, shelf
        self._lent[id(block)] = lease
        self._in_use += block.size_bytes
        if self._in_use > self._peak:
            self._peak = self._in_use
        return array

    def _take_back(self, lease: _Lease) -> None:
        block, shelf = lease.block, lease.shelf
        size_bytes = block.size_bytes
        with self._lock:
            del self._lent[id(block)]
            self._in_use -= size_bytes
            self._cached += size_bytes
            blocks = self._shelves.get(shelf)
            if blocks is None:
                self._shelves[shelf] = [block]
            else:
                blocks.append(block)
                self._shelves.move_to_end(shelf)
            if self._cached > self._limit:
                self._shed(self._limit)

    def _new(self, size_bytes: int) -> _Block:
        try:
            return _Block(size_bytes)
        except (OSError, OverflowError):
            self.trim()  # what is cached may be just what is missing
        try:
            return _Block(size_bytes)
        except (OSError, OverflowError) as error:
            raise MemoryError(f"empty: no {size_bytes} bytes to be had, {self._in_use} are in use") from error

    def _shed(self, limit_bytes: int) -> None:
        while self._cached > limit_bytes:
            shelf, blocks = next(iter(self._shelves.items()))
            if blocks:
                block = blocks.pop(0)
                self._cached -= block.size_bytes
            else:
                del self._shelves[shelf]

    def trim(self) -> None:
        """Gives what is cached back to the system."""
        with self._lock:
            self._shed(0)

    def set_limit(self, limit_bytes: int) -> None:
        """Caches no more than this from now on."""
        with self._lock:
            self._limit = limit_bytes
            self._shed(limit_bytes)

    def stats(self) -> Stats:
        """What it holds now."""
        with self._lock:
            return Stats(self._in_use, self._cached, self._peak, self._limit)


def _default_limit() -> int:
    """A quarter of what this process may have, but no more than 4 GiB."""
    memory = [_MOST_CACHED_BYTES * 4]
    if hasattr(os, "sysconf"):
        memory.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # a container's limit; "max" is none
        memory.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(memory) // 4


_pool = Pool(_default_limit())
SCRATCH = 0  # the shelf of workspaces: any size, so that the next convolution finds the last one's, still in cache


def empty(shape: int | Sequence[int], dtype: DTypeLike) -> Array:
    """An array that is not zeroed; a large one from the pool, aligned to 64 bytes.

    Cost: 0.4 us small, 1.5 us from the pool, page faults only when nothing of the size is cached.

    >>> empty((2, 3), "float32").shape
    (2, 3)
    """
    dtype = np.dtype(dtype)
    items = shape if isinstance(shape, int) else prod(shape)
    size_bytes = items * dtype.itemsize
    if size_bytes < POOLED_FROM_BYTES or dtype.hasobject:
        return np.empty(shape, dtype)
    size_bytes = size_class(size_bytes)
    return _pool.lend(size_bytes, size_bytes, shape, dtype)


def making(shape: Sequence[int], dtype: DTypeLike) -> Callable[[], Array]:
    """``empty`` for who asks for the same again and again: a function of nothing.

    Cost: 0.2 us small, 1.2 us from the pool.
    """
    dtype, shape = np.dtype(dtype), tuple(shape)
    size_bytes = prod(shape) * dtype.itemsize
    if size_bytes < POOLED_FROM_BYTES or dtype.hasobject:
        return partial(np.empty, shape, dtype)
    size_bytes = size_class(size_bytes)
    return partial(_pool.lend, size_bytes, size_bytes, shape, dtype)


def workspace(bytes_per_thread: int, threads: int, before: int | None = None) -> Array:
    """Scratch for kernels, ``(threads, at least bytes_per_thread)`` bytes; a thread's row starts a cache line.

    It belongs to the caller until the array dies, so Python threads that compute at once do not share it. The same
    memory serves again and again, and grows to the most that was asked for.

    Its middle row, or the byte that has so many ``before`` it, a multiple of 64, lies where that of every other
    workspace does. So of two threads each writes to its own half of the memory, however long their rows are: a line
    that another core wrote last is as dear to write as to read.

    Cost: 0.7 us small, 1.9 us from the pool.
    """
    row = -(-max(bytes_per_thread, 1) // ALIGN_BYTES) * ALIGN_BYTES
    if row * threads <= _SMALL_BYTES:
        block = np.empty(row * threads + ALIGN_BYTES, np.uint8)
        return np.ndarray((threads, row), np.uint8, block, -address(block) % ALIGN_BYTES)
    if before is None:
        before = (threads + 1) // 2 * row
    half = max(before, row * threads - before) + mmap.PAGESIZE
    return _pool.lend(SCRATCH, size_class(2 * half), (threads, row), np.uint8, before)


def region(shared_bytes: int, bytes_per_thread: int, threads: int) -> Array:
    """A workspace in one row: what threads share, then a part for each. Both sizes are multiples of 64."""
    first_half = shared_bytes + (threads + 1) // 2 * bytes_per_thread
    return workspace(shared_bytes + threads * bytes_per_thread, 1, first_half)


def set_limit(limit_bytes: int) -> None:
    """Bounds the bytes cached for reuse: a quarter of memory, at most 4 GiB, if not set."""
    if limit_bytes < 0:
        raise ValueError(f"set_limit: limit_bytes={limit_bytes} must be at least 0")
    _pool.set_limit(limit_bytes)


def trim() -> None:
    """Gives the cached blocks back to the system."""
    _pool.trim()


def stats() -> Stats:
    """What the pool holds now."""
    return _pool.stats()
