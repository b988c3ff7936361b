"""Operations on tensors, a family a file. Importing this attaches them to ``Tensor``.

``conv`` is not loaded here: the native engine behind it is, when a layer first asks for it.
"""

from lucid.ops import (
    activation,
    array_protocol,
    broadcast,
    compare,
    composed,
    creation,
    elementwise,
    index,
    inplace,
    linalg,
    loss,
    quantile,
    random,
    reduction,
    shape,
)

__all__ = [
    "activation",
    "array_protocol",
    "broadcast",
    "compare",
    "composed",
    "creation",
    "elementwise",
    "index",
    "inplace",
    "linalg",
    "loss",
    "quantile",
    "random",
    "reduction",
    "shape",
]
