"""Mixed precision by context: products in half precision, normalisation, softmax and losses in float32.

Inside ``autocast`` the functions of layers ask here for their operands: convolutions and matrix products for
``lowered`` ones, what is sensitive to rounding for ``raised`` ones. Everything else computes in what it is given;
operands of different types meet in the wider one. A parameter is cast once a context, and its gradient arrives in its
own type.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from lucid.autograd.mode import mode
from lucid.core.dtypes import DType, DTypeLike, as_dtype, bfloat16, float16, float32
from lucid.core.errors import DTypeError
from lucid.ops.common import cast
from lucid.tensor import Device, Tensor

P = ParamSpec("P")
R = TypeVar("R")


class _State(threading.local):
    dtype: DType | None = None  # what products are computed in; None outside of every context

    def __init__(self) -> None:
        self.casts: dict[tuple[int, bool], tuple[Tensor, list[int], int, Tensor]] = {}


_state = _State()
#: The blocks that some thread is in: as long as there are none, nobody needs to ask.
CONTEXTS: list[autocast] = []


def is_lowering() -> bool:
    """Whether this thread is inside an enabled ``autocast``."""
    return _state.dtype is not None


def is_autocast_enabled(device_type: str = "cpu") -> bool:
    """Whether this thread is inside an enabled ``autocast`` of a device; there is the CPU alone."""
    Device(device_type)
    return is_lowering()


class autocast:
    """Convolutions, linear layers and matrix products inside compute in ``dtype``, what rounding hurts in float32.

    A block or a decorator, around the forward pass and the loss; the backward pass follows the types of the forward
    pass. Parameters and buffers stay float32. float64 and complex numbers are left alone.

    >>> import lucid
    >>> layer, x = lucid.nn.Linear(3, 2), lucid.randn(4, 3)
    >>> with autocast("cpu", dtype=lucid.bfloat16):
    ...     y = layer(x)
    ...     loss = lucid.nn.functional.mse_loss(y, lucid.zeros(4, 2))
    >>> y.dtype, loss.dtype
    (lucid.bfloat16, lucid.float32)
    >>> loss.backward()
    >>> layer.weight.grad.dtype
    lucid.float32
    """

    def __init__(
        self,
        device_type: str = "cpu",
        dtype: DTypeLike = None,
        enabled: bool = True,
        cache_enabled: bool = True,
    ) -> None:
        Device(device_type)
        wanted = bfloat16 if dtype is None else as_dtype(dtype)
        if wanted not in (bfloat16, float16):
            raise DTypeError(f"autocast: dtype={wanted!r} must be lucid.bfloat16 or lucid.float16")
        self._dtype = wanted if enabled else None
        self._options = device_type, wanted, enabled, cache_enabled
        self._outer: list[DType | None] = []

    def __enter__(self) -> autocast:
        CONTEXTS.append(self)
        self._outer.append(_state.dtype)
        _state.dtype = self._dtype
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        CONTEXTS.remove(self)
        _state.dtype = self._outer.pop()
        if not self._outer and _state.dtype is None:
            _state.casts.clear()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            with autocast(*self._options):
                return function(*args, **kwargs)

        return inside


def lowered(*operands: Any) -> tuple[Any, ...]:
    """What a product's operands are inside ``autocast``: in half precision, if they are of floats up to float32."""
    dtype = _state.dtype
    if dtype is None:
        return operands
    return tuple(_lowered(x, dtype) if isinstance(x, Tensor) else x for x in operands)


def raised(*operands: Any) -> tuple[Any, ...]:
    """What the operands of something that rounding hurts are inside ``autocast``: float32 for half precision."""
    if _state.dtype is None:
        return operands
    return tuple(cast(x, float32) if isinstance(x, Tensor) and x.dtype in (bfloat16, float16) else x for x in operands)


def _lowered(x: Tensor, dtype: DType) -> Tensor:
    if x.dtype is dtype or x.dtype not in (float32, bfloat16, float16):
        return x
    if not (x._requires_grad and x._edge is None):
        made: Tensor = cast(x, dtype)
        return made
    key = (id(x), mode.recording)
    found = _state.casts.get(key)
    if found is None or found[0] is not x or found[1] is not x._version or found[2] != x._version[0]:
        _state.casts[key] = found = x, x._version, x._version[0], cast(x, dtype)
    return found[3] if found[3].dtype is dtype else cast(x, dtype)
