"""Saving trees of tensors and plain values, such as state dicts, as safetensors files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from lucid.core.errors import FormatError
from lucid.io.safetensors import load_file, load_metadata, save_file
from lucid.io.torch_file import is_torch_file, load_torch_file
from lucid.tensor import Device, Tensor

TREE = "lucid.tree"  # the metadata entry that holds everything but the tensors' values

PLAIN = (bool, int, float, str, type(None))


def save(state: Any, path: str | os.PathLike[str] | IO[bytes]) -> None:
    """Write a tree of dicts, lists and tuples with tensors and plain values at its leaves, atomically.

    The file is safetensors: a dict of tensors has the same names in it, so other libraries read a state dict saved
    here. ``path`` may be an open file, too. Keys are texts or ints, plain values are bool, int, float, str, bytes and
    None. Nothing is pickled.

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "checkpoint.safetensors")
    >>> save({"epoch": 3, "model": {"weight": Tensor([1.0, 2.0])}, "betas": (0.9, 0.999)}, path)
    >>> load(path)
    {'epoch': 3, 'model': {'weight': Tensor([1., 2.])}, 'betas': (0.9, 0.999)}
    """
    tensors: dict[str, Tensor | np.ndarray[Any, Any]] = {}
    tree = _pack(state, "", tensors)
    metadata = {TREE: json.dumps(tree, separators=(",", ":"))}
    if isinstance(path, (str, os.PathLike)):
        return save_file(tensors, path, metadata)
    with _beside() as name:
        save_file(tensors, name, metadata)
        path.write(Path(name).read_bytes())


@contextmanager
def _beside() -> Iterator[str]:
    """The name of a file for as long as the block takes."""
    with tempfile.TemporaryDirectory() as folder:
        yield os.path.join(folder, "state")


def load(
    path: str | os.PathLike[str] | IO[bytes], map_location: Device | str | None = None, *, weights_only: bool = True
) -> Any:
    """What ``save`` wrote; of a safetensors file from elsewhere, the dict of its tensors; what ``torch.save`` wrote.

    ``map_location`` can only be the CPU. Nothing in a file is run: one of ``torch.save`` may hold tensors and plain
    values, as state dicts and checkpoints do, no modules.
    """
    if not isinstance(path, (str, os.PathLike)):
        with _beside() as name:
            Path(name).write_bytes(path.read())
            return load(name, map_location)
    if map_location is not None and not callable(map_location):
        Device(map_location)
    if is_torch_file(path):
        return load_torch_file(path)
    tensors, text = load_file(path), load_metadata(path).get(TREE)
    if text is None:
        return tensors
    try:
        return _unpack(json.loads(text), tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"{os.fspath(path)}: the metadata {TREE!r} does not fit the tensors: {error!r}") from error


def _pack(value: Any, name: str, tensors: dict[str, Tensor | np.ndarray[Any, Any]]) -> Any:
    """The value as JSON; what JSON cannot say becomes an object with one key, its kind. Tensors go to ``tensors``."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, (Tensor, np.ndarray)):
        unique = _unique(name or "value", tensors)
        tensors[unique] = value
        return {"tensor" if isinstance(value, Tensor) else "array": unique}
    if isinstance(value, (list, tuple)):
        items = [_pack(item, _join(name, str(i)), tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, Mapping):
        return {"dict": [[_key(key, name), _pack(item, _join(name, str(key)), tensors)] for key, item in value.items()]}
    raise TypeError(f"save: {name or 'the state'} is a {type(value).__name__}, which a state file cannot hold")


def _key(key: Any, name: str) -> str | int:
    if isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool)):
        return key
    raise TypeError(f"save: the key {key!r} of {name or 'the state'} must be a str or an int")


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _unique(name: str, tensors: Mapping[str, Any]) -> str:
    """The name, with a number where {"a": {"b": …}} and {"a.b": …} would share one."""
    count, unique = 1, name
    while unique in tensors:
        count += 1
        unique = f"{name}#{count}"
    return unique


def _unpack(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_unpack(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    return KINDS[kind](content, tensors)


KINDS: dict[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "bytes": lambda text, tensors: bytes.fromhex(text),
    "tensor": lambda name, tensors: tensors[name],
    "array": lambda name, tensors: tensors[name].numpy(),
    "tuple": lambda items, tensors: tuple(_unpack(item, tensors) for item in items),
    "dict": lambda pairs, tensors: {key: _unpack(item, tensors) for key, item in pairs},
}
