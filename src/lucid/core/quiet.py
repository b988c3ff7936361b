"""NumPy without warnings, at a tenth of what ``numpy.errstate`` takes: infinities and NaN are values here, not events.

NumPy keeps what it does about them in a context variable. Which one, and the value that ignores all, is found once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

import numpy as np


class _Errstate:
    """The same for a NumPy that keeps it elsewhere."""

    def set(self, value: object) -> Any:
        state = np.errstate(all="ignore")
        state.__enter__()
        return state

    def reset(self, state: Any) -> None:
        state.__exit__(None, None, None)


def _settings() -> tuple[Any, Any]:
    with np.errstate(all="ignore"):
        inside = copy_context()
    found = [(variable, value) for variable, value in inside.items() if variable.name.startswith("numpy.")]
    return found[0] if len(found) == 1 else (_Errstate(), None)


_variable, _ignoring = _settings()

#: From here on this thread's NumPy is quiet. Returns what ``end`` takes.
begin = partial(_variable.set, _ignoring)
#: As before ``begin``; call it whatever happens between.
end = _variable.reset


@contextmanager
def numpy() -> Iterator[None]:
    """Quiet inside a ``with``; what runs for every operation calls ``begin`` and ``end``."""
    noise = begin()
    try:
        yield
    finally:
        end(noise)
