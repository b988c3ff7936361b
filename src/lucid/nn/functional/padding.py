"""Padding as a verb."""

from __future__ import annotations

from collections.abc import Sequence

from lucid.core.errors import ShapeError
from lucid.nn.functional._arguments import AXES, an_int
from lucid.nn.functional._geometry import check_pads_fit
from lucid.ops import pad as ops
from lucid.ops.checked import check_tensor
from lucid.tensor import Tensor

MODES = {"constant": "zeros", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """The input continued over its ends; the last axis comes first in ``pad``: (left, right, top, bottom, …).

    "constant" fills with ``value`` and takes negative counts, which cut off; "reflect", "replicate" and "circular"
    continue (N, C, …) along its last one to three axes.

    >>> pad(Tensor([1.0, 2.0, 3.0]), (1, 2)).tolist()
    [0.0, 1.0, 2.0, 3.0, 0.0, 0.0]
    >>> pad(Tensor([[1.0, 2.0, 3.0]]), (2, 0), mode="reflect").tolist()
    [[3.0, 2.0, 1.0, 2.0, 3.0]]
    """
    check_tensor("pad", "input", input)
    if mode not in MODES:
        raise ValueError(f"pad: mode={mode!r} must be one of {', '.join(map(repr, MODES))}")
    if len(pad) % 2 or len(pad) > 2 * input.ndim or not all(map(an_int, pad)):
        raise ShapeError(
            f"pad: pad={tuple(pad)} must be (low, high) ints for at most the {input.ndim} axes of {input.shape}"
        )
    if value and mode != "constant":
        raise ValueError(f"pad: value={value} belongs to mode='constant', not {mode!r}")
    pads = tuple((int(pad[i]), int(pad[i + 1])) for i in range(len(pad) - 2, -1, -2))
    if not any(map(any, pads)):
        result: Tensor = input.clone()
        return result
    size = input.shape[input.ndim - len(pads) :]
    if mode != "constant":
        _check_border(input, mode, size, pads)
    for n, (low, high) in zip(size, pads, strict=True):
        if n + low + high < 0 or n + min(low, 0) < 0 or n + min(high, 0) < 0:
            raise ShapeError(f"pad: pad=({low}, {high}) cuts off more than the {n} samples of an axis of {input.shape}")
    return ops.pad(input, pads, MODES[mode], value or 0.0)


def _check_border(x: Tensor, mode: str, size: tuple[int, ...], pads: tuple[tuple[int, int], ...]) -> None:
    if len(pads) not in AXES or x.ndim - len(pads) not in (1, 2):
        raise ShapeError(
            f"pad: mode={mode!r} pads the last 1 to 3 axes of (N, C, …) or (C, …); "
            f"{2 * len(pads)} counts do not fit the input {x.shape}"
        )
    if min(map(min, pads)) < 0:
        raise ShapeError(f"pad: counts must be at least 0 with mode={mode!r}, not {pads}")
    if 0 in size:
        raise ShapeError(f"pad: mode={mode!r} needs a sample to continue, the input is {x.shape}")
    check_pads_fit("pad", mode, size, pads)
