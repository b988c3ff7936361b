"""Attributes of modules that are computed at every access, from parameters that have other names."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lucid.tensor import Tensor


class Computed:
    """How a module computes one of its tensors.

    It holds nothing of the module, which can so be copied and pickled with it. A module has those of its attributes in
    ``_computed``, by their names.
    """

    def get(self, module: Any) -> Tensor:
        """The value."""
        raise NotImplementedError

    def set(self, module: Any, value: Tensor) -> None:
        """Change the parameters that it is computed from so that it becomes this."""
        raise NotImplementedError

    def fix(self, module: Any) -> None:
        """Put a parameter with the value of now in the place of those that it is computed from."""
        raise NotImplementedError

    def earlier_names(self, module: Any) -> Mapping[str, str]:
        """Names in state dicts of other forms, which stand for others in those of this one: all of them or none."""
        return {}


class _Cache(threading.local):
    def __init__(self) -> None:
        self.users = 0
        self.values: dict[tuple[int, str], tuple[Any, Tensor]] = {}  # with the modules, so that ids stay theirs


_cache = _Cache()


@contextmanager
def cached() -> Iterator[None]:
    """Compute each attribute once inside the block, at its first access, on this thread.

    Values are forgotten at the end of the outermost block, and where the attribute is assigned to: not where what it
    is computed from changes.
    """
    _cache.users += 1
    try:
        yield
    finally:
        _cache.users -= 1
        if not _cache.users:
            _cache.values.clear()


def value_of(module: Any, name: str) -> Tensor:
    """What the attribute is now, or was at the first access inside ``cached()``."""
    computed: Computed = module._computed[name]
    if not _cache.users:
        return computed.get(module)
    key = id(module), name
    if key not in _cache.values:
        _cache.values[key] = module, computed.get(module)
    return _cache.values[key][1]


def forget(module: Any, name: str) -> None:
    """Compute the attribute anew, also inside ``cached()``."""
    _cache.values.pop((id(module), name), None)


def fix(module: Any) -> None:
    """Let the attributes be parameters with the values that they have."""
    for computed in list(module._computed.values()):
        computed.fix(module)
