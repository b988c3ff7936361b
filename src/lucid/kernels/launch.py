"""The call from Python into a kernel: where arrays lie, and the slots that an entry point reads."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from lucid.kernels.runtime import threads
from lucid.kernels.runtime.memory import address

__all__ = ["address", "launch"]


def launch(entry: int, fields: Sequence[int], tasks: int, chunk: int = 1) -> None:
    """Runs a native entry point over its tasks on the pool."""
    slots = (ctypes.c_int64 * len(fields))(*fields)
    threads.run(entry, slots, tasks, chunk=chunk)
