"""Parameters: tensors that a module trains."""

from __future__ import annotations

from typing import Any

from lucid.tensor import Tensor


class Parameter(Tensor):
    """A tensor that becomes part of the module it is assigned to, and that optimizers find there.

    It shares memory with ``data`` and nothing of its graph.

    >>> Parameter(Tensor([1.0, 2.0]))
    Tensor([1., 2.], requires_grad=True)
    """

    def __new__(cls, data: Any = (), requires_grad: bool = True) -> Any:
        return super().__new__(cls, data, requires_grad)
