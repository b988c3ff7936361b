"""Items put together into a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lucid.core.errors import ShapeError
from lucid.tensor import Tensor


def default_collate(batch: Sequence[Any]) -> Any:
    """Tensors, arrays and numbers stacked along a new first axis; dicts and tuples entry by entry; texts in a list.

    >>> default_collate([(Tensor([1.0]), 0), (Tensor([2.0]), 1)])
    (Tensor([[1.],
            [2.]]), Tensor([0, 1]))
    """
    items = batch
    first = items[0]
    if isinstance(first, Tensor):
        return _stacked([item.detach().numpy() for item in items])
    if isinstance(first, (np.ndarray, np.generic)):
        return _stacked([np.asarray(item) for item in items])
    if isinstance(first, (bool, int, float, complex)):
        return Tensor(list(items))
    if isinstance(first, (str, bytes)):
        return list(items)
    if isinstance(first, Mapping):
        return {key: default_collate([item[key] for item in items]) for key in first}
    if isinstance(first, (tuple, list)):
        return _entry_by_entry(first, items)
    raise TypeError(f"default_collate: items of type {type(first).__name__} need a collate_fn of your own")


def _entry_by_entry(first: Any, items: Sequence[Any]) -> Any:
    lengths = {len(item) for item in items}
    if len(lengths) > 1:
        raise ShapeError(
            f"default_collate: items of a batch have {sorted(lengths)} entries; all must have the same number"
        )
    entries = [default_collate(entry) for entry in zip(*items, strict=True)]
    if hasattr(first, "_fields"):
        return type(first)(*entries)
    return tuple(entries) if isinstance(first, tuple) else entries


def _stacked(arrays: list[np.ndarray[Any, Any]]) -> Tensor:
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise ShapeError(
            f"default_collate: items of a batch have the shapes {', '.join(map(str, sorted(shapes)))}; "
            "they must be the same, or be brought together by a collate_fn of your own"
        )
    result: Tensor = Tensor(np.stack(arrays))
    return result
