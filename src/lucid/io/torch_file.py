"""What ``torch.save`` writes, read without running any of it.

Such a file is a zip of a pickle and of the tensors' bytes. A pickle is a little program that names functions to call;
here it may name those that make tensors and plain containers, each of which is one of ours, and nothing else.

::

    archive/data.pkl      the pickle: a tensor is (storage, offset, sizes, strides)
    archive/data/0        the bytes of storage "0"
    archive/byteorder     "little" or "big"
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from lucid.core import dtypes
from lucid.core.dtypes import DType
from lucid.core.errors import FormatError
from lucid.tensor import Tensor

Array = np.ndarray[Any, Any]

STORAGES: dict[str, DType] = {
    "FloatStorage": dtypes.float32,
    "DoubleStorage": dtypes.float64,
    "HalfStorage": dtypes.float16,
    "BFloat16Storage": dtypes.bfloat16,
    "LongStorage": dtypes.int64,
    "IntStorage": dtypes.int32,
    "ShortStorage": dtypes.int16,
    "CharStorage": dtypes.int8,
    "ByteStorage": dtypes.uint8,
    "BoolStorage": dtypes.bool_,
    "ComplexFloatStorage": dtypes.complex64,
    "ComplexDoubleStorage": dtypes.complex128,
}
PLAIN_DTYPES = {dtype.name: dtype for dtype in STORAGES.values()}


class _Storage(NamedTuple):
    """The kind of a storage, as the pickle names it."""

    dtype: DType


def is_torch_file(path: str | os.PathLike[str]) -> bool:
    """Whether it is such a zip."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def load_torch_file(path: str | os.PathLike[str]) -> Any:
    """The tree of tensors and plain values that ``torch.save`` was given, as a state dict or a checkpoint.

    Raises:
        FormatError: the file holds something else, such as a whole module, or is damaged; the message says what.
    """
    file = os.fspath(path)
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            root = pickled.removesuffix("data.pkl")
            if root + "byteorder" in archive.namelist() and archive.read(root + "byteorder") != b"little":
                raise FormatError(f"{file}: written on a big-endian machine, which is not read here")
            with archive.open(pickled) as stream:
                return _Reader(stream, archive, root, file).load()
    except FormatError:
        raise
    except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, IndexError, KeyError, TypeError, ValueError,
            AttributeError, StopIteration) as error:  # fmt: skip
        raise FormatError(f"{file}: damaged, or not what torch.save writes: {error!r}") from error


class _Reader(pickle.Unpickler):
    """A pickle's machine with a short list of what it may call."""

    def __init__(self, stream: Any, archive: zipfile.ZipFile, root: str, file: Any) -> None:
        super().__init__(stream, encoding="utf-8")
        self._archive, self._root, self._file = archive, root, file
        self._storages: dict[str, Array] = {}

    def find_class(self, module: str, name: str) -> Any:
        """One of ours in the place of what is named."""
        if module in ("torch", "torch.storage") and name in STORAGES:
            return _Storage(STORAGES[name])
        if module == "torch" and name in PLAIN_DTYPES:
            return PLAIN_DTYPES[name]
        found = CALLABLE.get((module, name))
        if found is None:
            raise FormatError(
                f"{self._file}: holds a {module}.{name}, which is not read here: nothing in a file is run; where "
                "PyTorch is, torch.save(model.state_dict(), path) writes what Lucid loads"
            )
        return found

    def persistent_load(self, pid: Any) -> Array:
        """A storage: ("storage", kind, key, device, elements)."""
        _, kind, key, _, count = pid
        if key not in self._storages:
            stored = self._archive.read(f"{self._root}data/{key}")
            if len(stored) < count * kind.dtype.itemsize:
                raise FormatError(f"{self._file}: storage {key!r} is cut off")
            self._storages[key] = np.frombuffer(bytearray(stored), kind.dtype.numpy)
        return self._storages[key]


def _tensor(
    storage: Array, offset: int, size: tuple[int, ...], stride: tuple[int, ...], requires_grad: bool = False, *_: Any
) -> Tensor:
    """A tensor of a part of a storage, sharing memory with what else lies there."""
    if len(size) != len(stride) or min((offset, *size, *stride), default=0) < 0:
        raise FormatError(f"a tensor of the sizes {size} and strides {stride} cannot be")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if prod(size) and last >= len(storage):
        raise FormatError(f"a tensor of the sizes {size} and strides {stride} does not fit its storage")
    if not prod(size):
        return Tensor(np.empty(size, storage.dtype))
    steps = [step * storage.itemsize for step in stride]
    view = np.lib.stride_tricks.as_strided(storage[offset:], size, steps)
    return Tensor(view, requires_grad=bool(requires_grad))


def _parameter(data: Tensor, requires_grad: bool, *_: Any) -> Tensor:
    made: Tensor = data.detach()
    return made.requires_grad_(requires_grad and made.dtype.is_differentiable)  # type: ignore[no-any-return]


def _array(*arguments: Any) -> Any:
    raise FormatError("the file holds NumPy arrays or numbers; where PyTorch is, save tensors and Python numbers")


CALLABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): tuple,
    ("torch", "device"): lambda *_: "cpu",
    ("builtins", "set"): set,
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
    ("numpy.core.multiarray", "scalar"): _array,
    ("numpy._core.multiarray", "scalar"): _array,
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
}
