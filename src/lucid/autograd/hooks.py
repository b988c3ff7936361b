"""Handles that undo a registration."""

from __future__ import annotations

from itertools import count
from types import TracebackType
from typing import TypeVar

_keys = count()

Hook = TypeVar("Hook")


class RemovableHandle:
    """Undoes a registration: by ``remove()``, or at the end of a ``with`` block."""

    __slots__ = ("_hooks", "_key")

    def __init__(self, hooks: dict[int, Hook], hook: Hook) -> None:
        self._hooks = hooks
        self._key = next(_keys)
        hooks[self._key] = hook

    def remove(self) -> None:
        """Take the hook out. Doing it twice is harmless."""
        self._hooks.pop(self._key, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.remove()
