"""Hearing of every operation on tensors, also of those that no gradient passes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Hear = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]
"""Called with the ``Op``, its inputs, its static parameters and its result: a tensor, or a tuple of tensors."""


class _Listener:
    __slots__ = ("hear",)

    def __init__(self) -> None:
        self.hear: Hear | None = None


listener = _Listener()


@contextmanager
def listening(hear: Hear) -> Iterator[None]:
    """Inside the block, ``hear`` is told of every operation of this thread that goes through ``apply``.

    Recording has to be on: without it convolutions and writes in place take shorter ways.

    >>> import lucid
    >>> with listening(lambda op, inputs, params, result: print(op.name, result.shape)):
    ...     _ = lucid.ones(2) * 3 + 1
    mul (2,)
    add (2,)
    """
    thread, outer = threading.get_ident(), listener.hear

    def here(op: Any, inputs: tuple[Any, ...], params: dict[str, Any], result: Any) -> None:
        if threading.get_ident() == thread:
            hear(op, inputs, params, result)

    listener.hear = here
    try:
        yield
    finally:
        listener.hear = outer
