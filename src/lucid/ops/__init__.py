"""Operations on tensors, a family a file. Importing this attaches them to ``Tensor``.

``conv`` is not loaded here: the native engine behind it is, when a layer first asks for it.
"""

from lucid.ops import (
    array_protocol,
    broadcast,
    compare,
    creation,
    elementwise,
    index,
    inplace,
    linalg,
    random,
    reduction,
    shape,
)

__all__ = [
    "array_protocol",
    "broadcast",
    "compare",
    "creation",
    "elementwise",
    "index",
    "inplace",
    "linalg",
    "random",
    "reduction",
    "shape",
]
