"""Operations on tensors, a family a file. Importing this attaches them to ``Tensor``."""

from lucid.ops import array_protocol, broadcast, compare, conv, creation, elementwise, index, inplace, linalg
from lucid.ops import random, reduction, shape

__all__ = [
    "array_protocol",
    "broadcast",
    "compare",
    "conv",
    "creation",
    "elementwise",
    "index",
    "inplace",
    "linalg",
    "random",
    "reduction",
    "shape",
]
