"""How much of an algorithm's error is allowed: what ``lucid.set_precision`` sets."""

from __future__ import annotations

from typing import get_args

from lucid.kernels import settings
from lucid.kernels.settings import Precision

#: Why an algorithm refuses that ``"strict"`` rules out.
STRICT = "its errors are larger than those of a sum, and the precision is strict"


def set_precision(precision: Precision) -> None:
    """``"strict"`` keeps to sums of the definition's products; ``"default"`` allows fewer: Winograd, FFT and others.

    Their float32 results are within some 1e-6 of the largest beside them, in place of 3e-7 of what their own products
    add up to without signs: what is quiet beside something loud loses digits. A NaN may spread.

    Raises: ValueError if it is neither.

    >>> set_precision("strict")
    >>> get_precision()
    'strict'
    >>> set_precision("default")
    """
    if precision not in get_args(Precision):
        words = " or ".join(map(repr, get_args(Precision)))
        raise ValueError(f"set_precision: precision={precision!r} must be {words}")
    settings.change(precision=precision)


def get_precision() -> Precision:
    """The precision that convolutions are planned for."""
    return settings.now.precision
