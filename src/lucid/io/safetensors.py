"""The safetensors format: named arrays behind a JSON header, readable without running anything.

::

    8 bytes   length n of the header, little-endian
    n bytes   JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {...}}
    the rest  the arrays' bytes, little-endian, row-major, without holes

Source: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from lucid.core import dtypes
from lucid.core.dtypes import DType, of_numpy
from lucid.core.errors import DTypeError, FormatError
from lucid.io.atomic import atomic_write
from lucid.tensor import Tensor

DTYPES: dict[str, DType] = {
    "BOOL": dtypes.bool_,
    "U8": dtypes.uint8,
    "I8": dtypes.int8,
    "I16": dtypes.int16,
    "I32": dtypes.int32,
    "I64": dtypes.int64,
    "F16": dtypes.float16,
    "BF16": dtypes.bfloat16,
    "F32": dtypes.float32,
    "F64": dtypes.float64,
    "C64": dtypes.complex64,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
METADATA = "__metadata__"
LONGEST_HEADER_BYTES = 100_000_000  # the format's own limit
ALIGNMENT_BYTES = 8
PICKLED = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05")  # how zip files and pickles begin


@dataclass(frozen=True, slots=True)
class Entry:
    """One array of a file: its type, its shape and where its bytes are, counted from the end of the header."""

    dtype: DType
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about itself, checked."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    size_bytes: int  # with the 8 bytes of the length


def save_file(
    tensors: Mapping[str, Tensor | np.ndarray[Any, Any]],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write named tensors, atomically: ``path`` holds the old file or the new one, never a part.

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "two.safetensors")
    >>> save_file({"weight": np.float32([[1, 2]]), "count": np.int64(3)}, path, {"epoch": "7"})
    >>> load_file(path)["weight"].shape, load_metadata(path)
    ((1, 2), {'epoch': '7'})
    """
    arrays = {name: _storable(name, value) for name, value in tensors.items()}
    # Wide elements first: then every array begins at a multiple of its own element size.
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    header = _encode_header(arrays, order, metadata)
    with atomic_write(path) as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for name in order:
            file.write(arrays[name].reshape(-1).view(np.uint8).data)


def load_file(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file, in the order of its header.

    The file is mapped, not read: a tensor costs its memory when it is first touched, and writing to one does not
    change the file.

    Raises:
        FormatError: the file is damaged, cut off or not safetensors; the message says where.
    """
    with open(path, "rb") as file:
        header = _read_header(file.fileno(), path)
        if not any(entry.end > entry.begin for entry in header.entries.values()):
            return {name: Tensor(np.empty(e.shape, e.dtype.numpy)) for name, e in header.entries.items()}
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return {name: Tensor(_array(data, header, entry)) for name, entry in header.entries.items()}


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts a file carries beside its tensors."""
    with open(path, "rb") as file:
        return _read_header(file.fileno(), path).metadata


def _array(data: mmap.mmap, header: Header, entry: Entry) -> np.ndarray[Any, Any]:
    flat = np.frombuffer(data, entry.dtype.numpy, prod(entry.shape), header.size_bytes + entry.begin)
    # Writers other than ours may leave arrays at odd addresses.
    return np.require(flat.reshape(entry.shape), requirements="A")


def _storable(name: str, value: Tensor | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The value as a contiguous little-endian array of a type the format knows."""
    if not isinstance(name, str):
        raise TypeError(f"save_file: the name {name!r} must be a str, not {type(name).__name__}")
    if name == METADATA:
        raise ValueError(f"save_file: the name {METADATA!r} is the format's own")
    if not isinstance(value, (Tensor, np.ndarray, np.generic)):
        raise TypeError(f"save_file: {name!r} must be a Tensor or a NumPy array, not {type(value).__name__}")
    array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
    if of_numpy(array.dtype) not in CODES:
        raise DTypeError(
            f"save_file: {name!r} is {array.dtype}, which the format cannot hold; it can "
            f"{', '.join(dtype.name for dtype in CODES)}"
        )
    return array


def _encode_header(
    arrays: Mapping[str, np.ndarray[Any, Any]], order: list[str], metadata: Mapping[str, str] | None
) -> bytes:
    begins: dict[str, int] = {}
    end = 0
    for name in order:
        begins[name] = end
        end += arrays[name].nbytes
    fields: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    for name, array in arrays.items():
        offsets = [begins[name], begins[name] + array.nbytes]
        fields[name] = {"dtype": CODES[of_numpy(array.dtype)], "shape": list(array.shape), "data_offsets": offsets}
    for key, text in fields.get(METADATA, {}).items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"save_file: metadata {key!r}: {text!r} must be a str for a str")
    header = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % ALIGNMENT_BYTES)
    if len(header) > LONGEST_HEADER_BYTES:
        raise FormatError(f"save_file: the header would take {len(header)} bytes, more than {LONGEST_HEADER_BYTES}")
    return header


def _read_header(handle: int, path: str | os.PathLike[str]) -> Header:
    file = os.fspath(path)
    size_bytes = os.fstat(handle).st_size
    if size_bytes < 8:
        raise FormatError(f"{file}: {size_bytes} bytes is too short for a safetensors file: its length field takes 8")
    start = os.pread(handle, 8, 0)
    length = int.from_bytes(start, "little")
    if length > size_bytes - 8 and start.startswith(PICKLED):
        raise FormatError(
            f"{file}: not safetensors, but begins as what torch.save or pickle writes, which runs code when it is "
            "read; where PyTorch is, safetensors.torch.save_file(state_dict, path) writes what Lucid loads"
        )
    if length > LONGEST_HEADER_BYTES:
        raise FormatError(f"{file}: not safetensors: a header of {length} bytes, the limit is {LONGEST_HEADER_BYTES}")
    if length > size_bytes - 8:
        raise FormatError(f"{file}: cut off: the header should take {length} bytes, the file has {size_bytes - 8} left")
    fields = _parse_json(os.pread(handle, length, 8), file)
    metadata = _checked_metadata(fields.pop(METADATA, {}), file)
    entries = {name: _checked_entry(name, field, file) for name, field in fields.items()}
    _check_layout(entries, size_bytes - 8 - length, file)
    return Header(entries, metadata, 8 + length)


def _parse_json(text: bytes, file: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            names = [name for name, _ in pairs]
            raise FormatError(f"{file}: the header names {max(names, key=names.count)!r} twice")
        return fields

    try:
        fields = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{file}: the header is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise FormatError(f"{file}: the header must be a JSON object, not a {type(fields).__name__}")
    return fields


def _checked_metadata(metadata: Any, file: str) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise FormatError(f"{file}: {METADATA} must map texts to texts, not {metadata!r:.80}")
    return metadata


def _checked_entry(name: str, field: Any, file: str) -> Entry:
    if not isinstance(field, dict) or field.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{file}: {name!r} must have dtype, shape and data_offsets, not {field!r:.80}")
    code, shape, offsets = field["dtype"], field["shape"], field["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise FormatError(f"{file}: {name!r} has dtype {code!r}; known are {', '.join(DTYPES)}")
    if not _are_counts(shape):
        raise FormatError(f"{file}: {name!r} has shape {shape!r:.80}, which must be a list of sizes from 0")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"{file}: {name!r} has data_offsets {offsets!r:.80}, which must be [begin, end]")
    entry = Entry(DTYPES[code], tuple(shape), *offsets)
    need = prod(shape) * entry.dtype.itemsize
    if entry.end - entry.begin != need:
        raise FormatError(
            f"{file}: {name!r} spans {entry.end - entry.begin} bytes, but {code} of shape {entry.shape} takes {need}"
        )
    return entry


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_layout(entries: Mapping[str, Entry], data_bytes: int, file: str) -> None:
    """The arrays must cover the data exactly, each byte once."""
    reached, last = 0, ""
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin < reached:
            raise FormatError(
                f"{file}: {name!r} begins at byte {entry.begin}, inside {last!r}, which ends at {reached}"
            )
        if entry.begin > reached:
            raise FormatError(f"{file}: bytes {reached} to {entry.begin}, before {name!r}, belong to no tensor")
        reached, last = entry.end, name
    if reached > data_bytes:
        raise FormatError(f"{file}: cut off: {last!r} ends at byte {reached} of the data, the file has {data_bytes}")
    if reached < data_bytes:
        raise FormatError(f"{file}: {data_bytes - reached} bytes after the last tensor belong to none")
