"""Tables of vectors, looked up by number."""

from __future__ import annotations

from typing import Any, Self

from lucid.core.dtypes import DTypeLike
from lucid.core.errors import ShapeError
from lucid.nn import functional as F
from lucid.nn import init
from lucid.nn.functional._arguments import integer
from lucid.nn.modules._fresh import fresh_parameter
from lucid.nn.modules.module import Module
from lucid.nn.parameter import Parameter
from lucid.tensor import Device, Tensor


class Embedding(Module):
    """The rows of a table at given numbers; see ``functional.embedding``. Drawn from N(0, 1), ``padding_idx`` is 0.

    >>> Embedding(10, 3)(Tensor([[1, 2], [4, 9]])).shape
    (2, 2, 3)
    """

    weight: Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: Device | str | None = None,
        dtype: DTypeLike = None,
    ) -> None:
        super().__init__()
        if max_norm is not None or scale_grad_by_freq or sparse:
            raise ValueError("Embedding: max_norm, scale_grad_by_freq and sparse are not there")
        self.num_embeddings = integer("Embedding", "num_embeddings", num_embeddings, 1)
        self.embedding_dim = integer("Embedding", "embedding_dim", embedding_dim, 1)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"Embedding: padding_idx={padding_idx} must be one of the {num_embeddings} rows")
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        if _weight is None:
            self.weight = fresh_parameter((self.num_embeddings, self.embedding_dim), device, dtype)
            self.reset_parameters()
        else:
            if _weight.shape != (num_embeddings, embedding_dim):
                raise ShapeError(f"Embedding: the weight {_weight.shape} must be ({num_embeddings}, {embedding_dim})")
            self.weight = Parameter(_weight)
        self.weight.requires_grad_(not _freeze)

    def reset_parameters(self) -> None:
        """Draw the table from N(0, 1), and set the row ``padding_idx`` to 0."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight.detach()[self.padding_idx] = 0

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True, padding_idx: int | None = None) -> Self:
        """A layer with this table, frozen unless said otherwise."""
        rows, features = embeddings.shape
        return cls(rows, features, padding_idx, _weight=embeddings, _freeze=freeze)

    def forward(self, input: Tensor) -> Tensor:
        """The rows."""
        return F.embedding(input, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        """The sizes."""
        padding: Any = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
