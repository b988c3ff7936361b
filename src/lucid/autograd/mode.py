"""Whether operations are recorded, a setting of each thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class _Mode(threading.local):
    recording: bool
    inference: bool
    quiet: bool  # NumPy's warnings are already off, for the length of a backward pass

    def __init__(self) -> None:
        self.recording, self.inference, self.quiet = True, False, False


mode = _Mode()


def is_grad_enabled() -> bool:
    """Whether operations on this thread are recorded."""
    return mode.recording


def is_inference_mode_enabled() -> bool:
    """Whether this thread is inside ``inference_mode``."""
    return mode.inference


class _Setting:
    """Sets the mode inside a ``with`` block or a decorated function; blocks may nest and be reused."""

    recording: bool
    inference: bool | None = None

    def __init__(self) -> None:
        self._outer: list[tuple[bool, bool]] = []

    def __enter__(self) -> None:
        inference = mode.inference
        self._outer.append((mode.recording, inference))
        if self.inference is not None:
            mode.inference = inference = self.inference
        mode.recording = self.recording and not inference

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        mode.recording, mode.inference = self._outer.pop()

    def _set(self) -> None:
        if self.inference is not None:
            mode.inference = self.inference
        mode.recording = self.recording and not mode.inference

    def __call__(self, function: F) -> F:
        @wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return function(*args, **kwargs)

        return inside  # type: ignore[return-value]

    def _again(self) -> _Setting:
        """The same setting once more: a decorated function may run in several threads at once."""
        other = _Setting()
        other.recording, other.inference = self.recording, self.inference
        return other


class _Decorating(_Setting):
    """A setting without arguments, so that ``@no_grad`` works as well as ``@no_grad()``."""

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        self = object.__new__(cls)
        _Setting.__init__(self)
        return self if function is None else self(function)

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        """Everything happened in ``__new__``."""


class no_grad(_Decorating):
    """Operations inside are not recorded.

    >>> with no_grad():
    ...     is_grad_enabled()
    False
    """

    recording = False


class enable_grad(_Decorating):
    """Operations inside are recorded, also within ``no_grad``; ``inference_mode`` is stronger."""

    recording = True


class inference_mode(_Setting):
    """Operations inside are not recorded, and nothing inside can switch recording back on."""

    def __init__(self, mode: bool = True) -> None:
        self._outer = []
        self.recording = not mode
        self.inference = mode


class set_grad_enabled(_Setting):
    """Sets recording at once; as a ``with`` block, until its end."""

    def __init__(self, mode: bool) -> None:
        super().__init__()
        self.recording = mode
        self._before = (is_grad_enabled(), is_inference_mode_enabled())
        self._set()

    def __enter__(self) -> None:
        self._outer.append(self._before)
        self._set()

    def __call__(self, function: F) -> F:
        mode.recording, mode.inference = self._before  # a decorator acts when the function is called
        return super().__call__(function)
