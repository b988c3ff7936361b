"""Every form a user may write a size, a padding or a channel count in, checked and brought to one form."""

from __future__ import annotations

import operator
from typing import Any, Literal

import numpy as np

from lucid.core.errors import ShapeError
from lucid.core.geometry import Pads, Sizes, window_extent

PaddingWord = Literal["same", "valid", "causal"]
PaddingArgument = int | Sizes | Pads | PaddingWord
Padding = Sizes | Pads | PaddingWord  # a padding argument in one of its three checked forms
SizeArgument = int | Sizes

AXES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}
PADDING_WORDS = ("same", "valid", "causal")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
LARGEST = 2**31 - 1  # so that products of two sizes never leave 64 bits


def an_int(value: Any) -> bool:
    """Whether ``value`` is an integer that is meant as a number: NumPy's count, booleans do not."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def integer(caller: str, name: str, value: Any, least: int) -> int:
    """``value`` as an int of at least ``least``.

    >>> integer("Linear", "in_features", np.int64(3), 1)
    3
    """
    if not an_int(value):
        raise TypeError(f"{caller}: {name}={value!r} must be an int, not {type(value).__name__}")
    if not least <= value <= LARGEST:
        raise ShapeError(f"{caller}: {name}={value} must be at least {least}{_or_at_most(value)}")
    return operator.index(value)


def sizes(caller: str, name: str, value: Any, rank: int, least: int = 1) -> Sizes:
    """One int per spatial axis, from an int for all of them or a sequence of one each.

    >>> sizes("Conv2d", "stride", 2, rank=2), sizes("Conv2d", "stride", [1, 2], rank=2)
    ((2, 2), (1, 2))
    """
    if an_int(value):
        entries: tuple[Any, ...] = (value,) * rank
    elif isinstance(value, (tuple, list)) and len(value) == rank and all(map(an_int, value)):
        entries = tuple(value)
    else:
        raise TypeError(f"{caller}: {name}={value!r} must be an int or a tuple of {_ints(rank)}")
    if not least <= min(entries) or max(entries) > LARGEST:
        raise ShapeError(f"{caller}: {name}={value} must be at least {least}{_or_at_most(max(entries))} on every axis")
    return tuple(map(operator.index, entries))


def paddings(caller: str, value: Any, rank: int) -> Padding:
    """One int per axis where both sides agree, else (low, high) per axis. A word stays: what it means needs the kernel.

    >>> paddings("Conv2d", 1, rank=2), paddings("Conv1d", [(2, 0)], rank=1)
    ((1, 1), ((2, 0),))
    """
    if isinstance(value, str):
        return _padding_word(caller, value, rank)
    if isinstance(value, (tuple, list)) and len(value) == rank and all(map(_is_pair, value)):
        pairs = [sizes(caller, "padding", pair, 2, least=0) for pair in value]
        if all(low == high for low, high in pairs):
            return tuple(low for low, _ in pairs)
        return tuple((low, high) for low, high in pairs)
    if an_int(value) or (isinstance(value, (tuple, list)) and len(value) == rank and all(map(an_int, value))):
        return sizes(caller, "padding", value, rank, least=0)
    pair_form = ", ".join(["(low, high)"] * rank) + ("," if rank == 1 else "")
    raise TypeError(
        f"{caller}: padding={value!r} must be an int, a tuple of {_ints(rank)}, ({pair_form}), "
        f"or one of {', '.join(map(repr, PADDING_WORDS))}"
    )


def padding_mode(caller: str, value: Any) -> str:
    """One of the four ways to continue a signal over its edge."""
    if value not in PADDING_MODES:
        raise ValueError(f"{caller}: padding_mode={value!r} must be one of {', '.join(map(repr, PADDING_MODES))}")
    return str(value)


def as_pairs(padding: Sizes | Pads) -> Pads:
    """(low, high) per axis."""
    return tuple((side, side) if isinstance(side, int) else side for side in padding)


def same_pads(size: Sizes, kernel: Sizes, stride: Sizes, dilation: Sizes) -> Pads:
    """The padding that makes ceil(size / stride) outputs per axis, the extra sample on the right.

    >>> same_pads((5,), (4,), (1,), (1,)), same_pads((5,), (3,), (2,), (1,))
    (((1, 2),), ((1, 1),))
    """
    totals = (
        max((-(-n // s) - 1) * s + window_extent(k, d) - n, 0)
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
    )
    return tuple((total // 2, total - total // 2) for total in totals)


def _padding_word(caller: str, value: str, rank: int) -> PaddingWord:
    if value not in PADDING_WORDS:
        raise ValueError(f"{caller}: padding={value!r} must be one of {', '.join(map(repr, PADDING_WORDS))}")
    if value == "causal" and rank != 1:
        raise ValueError(f"{caller}: padding='causal' is for signals, with one spatial axis, not {rank}")
    return value  # type: ignore[return-value]


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(an_int, value))


def _ints(rank: int) -> str:
    return "1 int" if rank == 1 else f"{rank} ints"


def _or_at_most(value: int) -> str:
    return f" and at most {LARGEST}" if value > LARGEST else ""
