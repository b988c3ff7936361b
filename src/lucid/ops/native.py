"""Which arrays go to native kernels: real floating-point ones that are large enough to be worth the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lucid.core.dtypes import is_floating
from lucid.kernels import arithmetic

Array = np.ndarray[Any, Any]
Forward = Callable[..., Array]

#: NumPy takes at least so many times as long in half precision.
_HALF_SLOWER = 16
#: Elements from which a kernel wins, where NumPy does the same in one pass, where it takes several, and where it takes
#: one for every tap of a window.
ONE_PASS = 16384
SEVERAL_PASSES = 1024
ALWAYS = 1
_SLOW_IN_NUMPY = ("erf", "sigmoid", "softplus")


def _worth(least: int, x: Array) -> bool:
    """Whether an array is one of those, of which ``least`` elements of float32 or float64 are large enough."""
    size = x.size
    if size < least // _HALF_SLOWER:
        return False
    return (size >= least or x.dtype.itemsize == 2) and is_floating(x.dtype)


def takes(least: int, *arrays: Array | None) -> bool:
    """Whether kernels are for these arrays: one floating-point dtype, the first not small. None is passed over."""
    first = arrays[0]
    if first is None or not _worth(least, first):
        return False
    return len(arrays) == 1 or all(a is None or a.dtype == first.dtype for a in arrays[1:])


def unary(name: str, plain: Forward) -> Forward:
    """A function of one array: ``plain`` on small ones, the kernel of that name, if there is one, on others."""
    kernel = arithmetic.UNARY.get(name)
    if kernel is None:
        return plain
    least = SEVERAL_PASSES if name in _SLOW_IN_NUMPY else ONE_PASS

    def forward(x: Array) -> Array:
        result: Array = kernel(x) if _worth(least, x) else plain(x)
        return result

    return forward


def binary(name: str, plain: Forward) -> Forward:
    """A function of two operands, arrays or numbers; otherwise as ``unary``."""
    kernel = arithmetic.BINARY[name]

    def forward(a: Any, b: Any) -> Any:
        if isinstance(a, np.ndarray) and _worth(ONE_PASS, a):
            large = a
        elif isinstance(b, np.ndarray) and _worth(ONE_PASS, b):
            large = b
        else:
            return plain(a, b)
        if isinstance(a, float | int):
            a = np.asarray(a, large.dtype)
        if isinstance(b, float | int):
            b = np.asarray(b, large.dtype)
        if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or a.dtype != b.dtype:
            return plain(a, b)
        return kernel(a, b)

    return forward
