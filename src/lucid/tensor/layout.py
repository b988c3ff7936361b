"""Memory formats of PyTorch's, by name: where they are taken, they ask for nothing."""

from __future__ import annotations

from enum import Enum
from typing import Any


class MemoryFormat(Enum):
    """How a tensor's axes lie in memory. Tensors here lie in row-major order, and kernels arrange what they read.

    >>> MemoryFormat.channels_last
    lucid.channels_last
    """

    contiguous_format = "contiguous_format"
    preserve_format = "preserve_format"
    channels_last = "channels_last"
    channels_last_3d = "channels_last_3d"

    def __repr__(self) -> str:
        return f"lucid.{self.value}"


def check_memory_format(caller: str, value: Any) -> None:
    """Take a memory format, or none, as advice that there is no need to follow.

    Raises: TypeError for anything else.
    """
    if value is not None and not isinstance(value, MemoryFormat):
        names = ", ".join(map(repr, MemoryFormat))
        raise TypeError(f"{caller}: memory_format={value!r} must be one of {names}")
