"""The table of forms: by the name of an operation, the function that writes its nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lucid.onnx.graph import At, Graph

Write = Callable[[Graph, At], "str | tuple[str | None, ...]"]


class Form(NamedTuple):
    """``write`` adds the nodes of a step and names its results, None for one that ONNX does not give."""

    write: Write
    #: Whether it looks itself at parameters that differ from run to run, where axes are dynamic.
    sized: bool


FORMS: dict[str, Form] = {}


def form(*ops: str, sized: bool = False) -> Callable[[Write], Write]:
    """Enter a function under the names of operations."""

    def enter(write: Write) -> Write:
        FORMS.update(dict.fromkeys(ops, Form(write, sized)))
        return write

    return enter
