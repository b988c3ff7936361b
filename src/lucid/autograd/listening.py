"""Hearing of every operation on tensors, also of those that no gradient passes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Hear = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]
"""Called with the ``Op``, its inputs, its static parameters and its result: a tensor, or a tuple of tensors."""

Read = Callable[[Any, str], None]
"""Called with a tensor whose elements go to Python or NumPy, and the name of the method that takes them there."""


class _Listener:
    __slots__ = ("hear", "read")

    def __init__(self) -> None:
        self.hear: Hear | None = None
        self.read: Read | None = None


listener = _Listener()


@contextmanager
def listening(hear: Hear, read: Read | None = None) -> Iterator[None]:
    """Inside the block, ``hear`` is told of every operation of this thread that goes through ``apply``.

    ``read`` is told of every tensor whose elements leave it, as by ``item()``, before they do.

    Recording has to be on: without it convolutions and writes in place take shorter ways.

    >>> import lucid
    >>> with listening(lambda op, inputs, params, result: print(op.name, result.shape)):
    ...     _ = lucid.ones(2) * 3 + 1
    mul (2,)
    add (2,)
    """
    thread, outer = threading.get_ident(), (listener.hear, listener.read)

    def here(op: Any, inputs: tuple[Any, ...], params: dict[str, Any], result: Any) -> None:
        if threading.get_ident() == thread:
            hear(op, inputs, params, result)

    def read_here(tensor: Any, how: str) -> None:
        if read is not None and threading.get_ident() == thread:
            read(tensor, how)

    listener.hear, listener.read = here, read_here
    try:
        yield
    finally:
        listener.hear, listener.read = outer
