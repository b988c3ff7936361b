"""Whether operations are recorded, a setting of each thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class _Mode(threading.local):
    recording: bool
    inference: bool

    def __init__(self) -> None:
        self.recording, self.inference = True, False


mode = _Mode()


def is_grad_enabled() -> bool:
    """Whether operations on this thread are recorded."""
    return mode.recording


def is_inference_mode_enabled() -> bool:
    """Whether this thread is inside ``inference_mode``."""
    return mode.inference


class _Setting:
    """Sets the mode inside a ``with`` block or a decorated function; blocks may nest and be reused."""

    __slots__ = ("_outer", "inference", "recording")

    _outer: Any  # recording and inference before, and the same of the block around with this setting
    recording: bool
    inference: bool | None

    def __enter__(self) -> None:
        here = mode.__dict__  # this thread's; every access through ``mode`` looks for it
        before = here["inference"]
        self._outer = here["recording"], before, self._outer
        inside = self.inference
        here["inference"] = inside = before if inside is None else inside
        here["recording"] = self.recording and not inside

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        here = mode.__dict__
        here["recording"], here["inference"], self._outer = self._outer

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._again():
                return function(*args, **kwargs)

        return inside

    def _again(self) -> _Setting:
        """The same setting once more: a decorated function may run in several threads at once."""
        again = _Setting()
        again._outer, again.recording, again.inference = None, self.recording, self.inference
        return again


class _Decorating(_Setting):
    """A setting without arguments, so that ``@no_grad`` works as well as ``@no_grad()``."""

    __slots__ = ()
    records: bool

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        self = object.__new__(cls)
        self._outer, self.recording, self.inference = None, cls.records, None
        return self if function is None else self(function)

    if TYPE_CHECKING:  # for who reads types; at run time it would be one more call a block

        def __init__(self, function: Callable[..., Any] | None = None) -> None: ...


class no_grad(_Decorating):
    """Operations inside are not recorded.

    >>> with no_grad():
    ...     is_grad_enabled()
    False
    """

    __slots__ = ()
    records = False


class enable_grad(_Decorating):
    """Operations inside are recorded, also within ``no_grad``; ``inference_mode`` is stronger."""

    __slots__ = ()
    records = True


class inference_mode(_Setting):
    """Operations inside are not recorded, and nothing inside can switch recording back on."""

    __slots__ = ()

    def __init__(self, mode: bool = True) -> None:
        self._outer = None
        self.recording = not mode
        self.inference = mode


class set_grad_enabled(_Setting):
    """Sets recording at once; as a ``with`` block, until its end."""

    __slots__ = ("_before",)

    def __init__(self, mode: bool) -> None:
        self._outer, self.recording, self.inference = None, mode, None
        self._before = (is_grad_enabled(), is_inference_mode_enabled())
        self._set()

    def __enter__(self) -> None:
        self._outer = *self._before, self._outer
        self._set()

    def _set(self) -> None:
        mode.recording = self.recording and not mode.inference

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        mode.recording, mode.inference = self._before  # a decorator acts when the function is called
        return super().__call__(function)
