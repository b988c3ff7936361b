"""Weights as kernels read them, packed or transformed, kept from call to call for as long as they stay what they are.

A stale weight would be a silent wrong answer, so a caller vouches for its weights: it names their ``versions`` if every
change from now on would change these, or replace the array, or be told to ``forget``. Something is made of weights when
a region meets the same ones for the second time, so that weights that are used once cost nothing. It is dropped when
they die, and what was met the longest ago gives way when all of it is more than the limit.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lucid.kernels.launch import Keeper, address, of_any_layout
from lucid.kernels.runtime import memory

Array = np.ndarray[Any, Any]
Versions = tuple[int, int]

FROM_BYTES = 4 << 10  #: smaller weights are packed sooner than looked up


@dataclass(frozen=True, slots=True)
class Stats:
    """How many weights are kept, in how many forms, the bytes of these, and the most bytes that may be."""

    weights: int
    forms: int
    size_bytes: int
    limit_bytes: int


class Ready(NamedTuple):
    """The rest of a region, and what is kept of its weights."""

    compute: Callable[..., None]
    kept: Array


class _Weights:
    """One array of weights, with the biases that go into what is made of it: None for a region that met it once.

    ``keeps`` is whether anything may be: not where they lie in others' memory, or out of order, since a kernel is given
    copies of those, new ones every time.
    """

    __slots__ = ("bias", "keeps", "made", "parts", "ref", "versions")

    def __init__(self, w: Array, bias: Array | None, versions: Versions) -> None:
        self.ref = weakref.ref(w, partial(_died, id(w)))
        self.bias: Callable[[], Array | None] = _nothing if bias is None else weakref.ref(bias)
        self.versions = versions
        self.parts = (id(w),) if bias is None else (id(w), id(bias))
        self.made: dict[Keeper, Ready | None] = {}
        self.keeps = all(a is None or (a.flags.c_contiguous and memory.owns_memory(a)) for a in (w, bias))

    @property
    def size_bytes(self) -> int:
        """Of everything made."""
        return sum(ready.kept.nbytes for ready in self.made.values() if ready)


class _Value(NamedTuple):
    """What was made of some arrays in some versions."""

    refs: tuple[weakref.ref[Array], ...]
    parts: tuple[int, ...]
    versions: object
    value: Any
    size_bytes: int


def _nothing() -> None:
    return None


_lock = threading.RLock()  # reentrant, since an array may die inside any call
_known: OrderedDict[int, _Weights] = OrderedDict()  # by the id of the weights
_values: dict[int, _Value] = {}  # by the id of the first array
_users: dict[int, set[int]] = {}  # by the id of an array, the keys above that it is part of
_excluded: dict[int, weakref.ref[Array]] = {}
_size_bytes = 0
_limit_bytes = memory.stats().limit_bytes // 4


def ready(region: Keeper, w: Array, bias: Array | None, versions: Versions) -> Ready | None:
    """What is kept of ``w`` and ``bias`` for a region; None if they are new to it.

    Cost: 0.5 us; at the second meeting, what the region's first step takes.
    """
    known = _known.get(id(w))
    if known is None or known.versions != versions or known.ref() is not w or known.bias() is not bias:
        _meet(region, w, bias, versions)
        return None
    found = known.made.get(region)
    return found or _make(known, region, w, bias)


def _meet(region: Keeper, w: Array, bias: Array | None, versions: Versions) -> None:
    with _lock:
        _drop(id(w))
        if id(w) in _excluded or id(bias) in _excluded:
            return
        _known[id(w)] = new = _Weights(w, bias, versions)
        new.made[region] = None
        for part in new.parts:
            _users.setdefault(part, set()).add(id(w))


def _make(known: _Weights, region: Keeper, w: Array, bias: Array | None) -> Ready | None:
    """At the second meeting."""
    global _size_bytes
    if not known.keeps:
        return None
    halves = region.halves() if region in known.made else None
    if halves is None or halves.kept_bytes > _limit_bytes:
        known.made[region] = None
        return None
    block = memory.empty(halves.kept_bytes + memory.ALIGN_BYTES, np.uint8)
    first = -address(block) % memory.ALIGN_BYTES
    made = Ready(of_any_layout(halves.compute), block[first : first + halves.kept_bytes])
    halves.make(None, w, bias, None, made.kept)
    with _lock:
        if _known.get(id(w)) is known and not known.made[region]:
            known.made[region] = made
            _size_bytes += made.kept.nbytes
            _shed(_limit_bytes)
    return made


def value_of(arrays: Sequence[Array], versions: object) -> Any:
    """The value that is kept of these very arrays in these versions; None if there is none.

    Cost: 1 us.
    """
    found = _values.get(id(arrays[0]))
    if found is None or found.versions != versions or len(found.refs) != len(arrays):
        return None
    for ref, array in zip(found.refs, arrays, strict=True):
        if ref() is not array:
            return None
    return found.value


def has_room(size_bytes: int) -> bool:
    """Whether so many bytes more may be kept and nothing has to give way."""
    return _size_bytes + size_bytes <= _limit_bytes


def keep_value(arrays: Sequence[Array], versions: object, value: Any, size_bytes: int = 0) -> None:
    """Keeps a value for ``value_of``, in place of the one before; arrays must be vouched for as weights are.

    ``size_bytes`` is what counts of it, 0 of a small one.
    """
    global _size_bytes
    key = id(arrays[0])
    with _lock:
        _drop(key)
        refs = tuple(weakref.ref(array, partial(_died, key)) for array in arrays)
        _values[key] = found = _Value(refs, tuple(map(id, arrays)), versions, value, size_bytes)
        _size_bytes += size_bytes
        for part in found.parts:
            _users.setdefault(part, set()).add(key)


def _died(key: int, ref: weakref.ref[Array]) -> None:
    with _lock:
        known, value = _known.get(key), _values.get(key)
        if (known is not None and known.ref is ref) or (value is not None and any(ref is r for r in value.refs)):
            _drop(key)


def _drop(key: int) -> None:
    global _size_bytes
    known, value = _known.pop(key, None), _values.pop(key, None)
    _size_bytes -= (known.size_bytes if known else 0) + (value.size_bytes if value else 0)
    for part in {*(known.parts if known else ()), *(value.parts if value else ())}:
        users = _users[part]
        users.discard(key)
        if not users:
            del _users[part]


def _shed(limit_bytes: int) -> None:
    while _size_bytes > limit_bytes:
        _drop(next(iter(_known or _values)))


def forget(array: Array) -> None:
    """Drops what is kept of an array, or of the one that it is a view of: someone may write to it now, unseen."""
    if _known or _values:
        with _lock:
            for part in (array, array.base):
                for key in list(_users.get(id(part), ())):
                    _drop(key)


def exclude(array: Array) -> None:
    """``forget``, and keep nothing of the array ever again: someone may write to it at any time."""
    with _lock:
        forget(array)
        for part in (array, array.base):
            if isinstance(part, np.ndarray):
                _excluded[id(part)] = weakref.ref(part, partial(_excluded_died, id(part)))


def is_excluded(array: Array) -> bool:
    """Whether anybody was told where an array lies."""
    return id(array) in _excluded


def _excluded_died(key: int, ref: weakref.ref[Array]) -> None:
    if _excluded.get(key) is ref:
        del _excluded[key]


def set_limit(limit_bytes: int) -> None:
    """Keeps no more than this from now on: a sixteenth of memory, at most 1 GiB, if not set."""
    global _limit_bytes
    if limit_bytes < 0:
        raise ValueError(f"set_limit: limit_bytes={limit_bytes} must be at least 0")
    with _lock:
        _limit_bytes = limit_bytes
        _shed(limit_bytes)


def stats() -> Stats:
    """What is kept now."""
    with _lock:
        forms = [ready for known in _known.values() for ready in known.made.values() if ready]
        return Stats(sum(any(known.made.values()) for known in _known.values()), len(forms), _size_bytes, _limit_bytes)
