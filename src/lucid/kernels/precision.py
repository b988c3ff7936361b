"""How much of an algorithm's error is allowed: what ``lucid.set_precision`` sets."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["default", "strict"]

_precision: Precision = "default"


def set_precision(precision: Precision) -> None:
    """``"strict"`` keeps to sums of the definition's products; ``"default"`` allows Winograd convolution too.

    Its float32 results are within some 1e-6 of the largest beside them, in place of 3e-7.

    Raises: ValueError if it is neither.

    >>> set_precision("strict")
    >>> get_precision()
    'strict'
    >>> set_precision("default")
    """
    global _precision
    if precision not in get_args(Precision):
        words = " or ".join(map(repr, get_args(Precision)))
        raise ValueError(f"set_precision: precision={precision!r} must be {words}")
    _precision = precision


def get_precision() -> Precision:
    """The precision that convolutions are planned for."""
    return _precision
