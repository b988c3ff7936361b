"""The order of elements along the last axis: all of it, or where the first few are.

NumPy's stable order of indices compares element by element. An element of up to 32 bits and its place make one number
of 64, which is sorted in vectors: no two are equal, so any sort is stable. NaN is the largest.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lucid.core.dtypes import is_floating, widened

Array = np.ndarray[Any, Any]

#: Up to so many elements are found one after the other, a pass each; more by a partition.
_MOST_PASSES = 32
#: Elements of a line from which a partition is worth it.
_LEAST_PARTED = 64


def order(x: Array, descending: bool) -> Array:
    """Indices that sort the last axis; equal elements keep their order."""
    ranks = _ranks(x, descending)
    if ranks is None:
        found: Array = np.argsort(np.flip(x, -1) if descending else x, axis=-1, kind="stable")
        return x.shape[-1] - 1 - np.flip(found, -1) if descending else found
    keys = _keys(ranks)
    keys.sort(-1)
    return _places(keys)


def first(x: Array, k: int, largest: bool) -> Array:
    """Where the ``k`` largest or smallest elements are, in the order that ``order`` gives them."""
    found = _one_by_one(x, k, largest) if k <= min(_MOST_PASSES, x.shape[-1] // 8) else None
    if found is not None:
        return found
    ranks = _ranks(x, largest) if k < x.shape[-1] >= _LEAST_PARTED else None
    if ranks is None or k == 0:
        return order(x, largest)[..., :k]
    keys = _keys(ranks)
    keys.partition(k - 1, -1)
    few = keys[..., :k]
    few.sort(-1)
    return _places(few)


def _ranks(x: Array, descending: bool) -> Array | None:
    """Signed 32-bit numbers in the order of the elements, -0 with 0 and every NaN last; None for wider elements."""
    if (x.dtype.kind in "biu" and x.dtype.itemsize < 4) or x.dtype == np.int32:
        ranks = x.astype(np.int32)
    elif is_floating(x.dtype) and x.dtype.itemsize <= 4:
        wide = np.add(widened(x), np.float32(0))  # -0 + 0 is 0
        wide[np.isnan(wide)] = np.nan  # the positive one, above infinity
        ranks = wide.view(np.int32)
        ranks ^= (ranks >> 31) & np.int32(0x7FFFFFFF)
    else:
        return None
    return ~ranks if descending else ranks


def _keys(ranks: Array) -> Array:
    """Each rank above its index in 64 bits."""
    keys = ranks.astype(np.int64)
    keys <<= 32
    keys |= np.arange(ranks.shape[-1])
    return keys


def _places(keys: Array) -> Array:
    return keys & 0xFFFFFFFF


def _one_by_one(x: Array, k: int, largest: bool) -> Array | None:
    """The first among equals, which is then taken out, ``k`` times.

    None where that cannot be told: where what is found is NaN, or what stands for those taken out.
    """
    wide = widened(x)
    if wide.dtype.kind not in "fiu" or k == 0:
        return None
    limits = (-np.inf, np.inf) if wide.dtype.kind == "f" else (np.iinfo(wide.dtype).min, np.iinfo(wide.dtype).max)
    gone = wide.dtype.type(limits[0] if largest else limits[1])
    left = wide.reshape(-1, x.shape[-1]).copy()
    found, lines = np.empty((k, len(left)), np.int64), np.arange(len(left))
    for one in found:
        one[:] = left.argmax(-1) if largest else left.argmin(-1)
        values = left[lines, one]
        if np.isnan(values).any() or (values == gone).any():
            return None
        left[lines, one] = gone
    return np.ascontiguousarray(found.T).reshape(*x.shape[:-1], k)
