"""Which axes of which inputs are dynamic, from the two forms that PyTorch takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lucid.core.errors import ShapeError

Names = dict[tuple[int, int], str]
"""(number of the input, axis): the name of its length."""


def named_axes(form: str, given: Any, inputs: Sequence[str], ranks: Sequence[int]) -> Names:
    """The dynamic axes of the inputs.

    ``given`` maps names of inputs to axes, or is a sequence of axes for each input in order. Axes are {axis: name},
    or a list of axes, which get names like "x_axis0".

    >>> named_axes("dynamic_axes", {"x": {0: "batch"}, "y": [0]}, ["x"], [4])
    {(0, 0): 'batch'}
    """
    found: Names = {}
    if isinstance(given, Mapping):
        known = {name: axes for name, axes in given.items() if name in inputs}
    else:
        known = dict(zip(inputs, given or (), strict=False))
    for name, axes in known.items():
        number = inputs.index(name)
        for axis, length in _pairs(form, name, axes):
            rank = ranks[number]
            if not -rank <= axis < rank:
                raise ShapeError(f"onnx.export: {form} names axis {axis} of {name!r}, which has {rank} axes")
            found[number, axis % rank] = length or f"{name}_axis{axis % rank}"
    return found


def _pairs(form: str, name: str, axes: Any) -> Iterable[tuple[int, str | None]]:
    pairs = list(axes.items()) if isinstance(axes, Mapping) else [(axis, None) for axis in axes or ()]
    for axis, length in pairs:
        if type(axis) is not int or not isinstance(length, (str, type(None))):
            raise TypeError(
                f"onnx.export: {form}[{name!r}]={axes!r} must be {{axis: name}} or a list of axes, axes as ints"
            )
    return pairs


def grouped(names: Names) -> dict[str, list[tuple[int, int]]]:
    """By the name of a length, the axes that have it."""
    found: dict[str, list[tuple[int, int]]] = {}
    for place, name in names.items():
        found.setdefault(name, []).append(place)
    return found
