"""Runs native tasks: a pool is coming; until then, on the calling thread."""

from __future__ import annotations

import ctypes
from typing import Any

_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


def run(address: int, fields: Any, tasks: int, *, chunk: int = 1, threads: int | None = None) -> None:
    """Calls an entry point for tasks [0, tasks)."""
    _ENTRY(address)(ctypes.addressof(fields), 0, tasks, 0)
