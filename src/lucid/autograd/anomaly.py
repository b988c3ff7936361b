"""Finding the operation that first makes a NaN."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np

from lucid.autograd.tracked import Edge, Node

Array = np.ndarray[Any, Any]


class _Watch:
    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on = False


watch = _Watch()


class detect_anomaly:
    """Inside the block, an operation whose result or gradient holds a NaN raises FloatingPointError, and says whose.

    Every result is looked through, which costs about as much as a small operation: for looking, not for training runs.
    Operations that are not recorded may go unwatched. An error from inside a module has the way to it as a note.

    >>> import lucid
    >>> with detect_anomaly():
    ...     lucid.log(lucid.Tensor([-1.0], requires_grad=True))
    Traceback (most recent call last):
    FloatingPointError: log: NaN in the result of shape (1,); its inputs hold none
    """

    def __init__(self, check_nan: bool = True) -> None:
        self._outer: list[bool] = []
        self._on = check_nan

    def __enter__(self) -> None:
        self._outer.append(watch.on)
        watch.on = self._on

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        watch.on = self._outer.pop()


class set_detect_anomaly(detect_anomaly):
    """The same from here on, or until the end of a ``with`` block; ``mode=False`` ends it."""

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        super().__init__(mode and check_nan)
        self._outer.append(watch.on)
        watch.on = self._on

    def __enter__(self) -> None:
        """It has begun already."""


def check_result(name: str, inputs: Sequence[Any], result: Any) -> None:
    """Raises: FloatingPointError if the result holds a NaN, saying whether an input does."""
    for one in result if isinstance(result, tuple) else (result,):
        if _holds_nan(one):
            found = next(
                (f"input {i} of shape {x.shape} holds one" for i, x in enumerate(inputs) if _holds_nan(x)), None
            )
            raise FloatingPointError(
                f"{name}: NaN in the result of shape {one.shape}; {found or 'its inputs hold none'}"
            )


def watched_pull(node: Node, upstream: list[Any], needed: Sequence[Edge | None], recording: bool) -> Sequence[Any]:
    """``node.pull``; not its steps are looked through, but what comes of them.

    Raises: FloatingPointError if a gradient holds a NaN, saying whether the one upstream does.
    """
    watch.on = False
    try:
        gradients = node.pull(upstream, needed, recording)
    finally:
        watch.on = True
    for i, g in enumerate(gradients):
        if g is not None and _holds_nan(g._array):
            holds = any(u is not None and _holds_nan(u._array) for u in upstream)
            found = "holds one" if holds else "holds none"
            raise FloatingPointError(
                f"{node.name}: NaN in the gradient of input {i} of shape {g.shape}; the upstream gradient {found}"
            )
    return gradients


def _holds_nan(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind not in "biu" and bool(np.isnan(array).any())
