"""Sizes as tuples, under the names that layers of one's own import from PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def _repeated(count: int) -> Callable[[Any], tuple[Any, ...]]:
    def repeat(x: Any) -> tuple[Any, ...]:
        return tuple(x) if isinstance(x, Iterable) else (x,) * count

    return repeat


_single, _pair, _triple, _quadruple = map(_repeated, (1, 2, 3, 4))
