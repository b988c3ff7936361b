"""The safetensors format: against the reference implementation, against bytes written by hand, and damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import lucid
from lucid import io
from lucid.core.errors import DTypeError, FormatError


def by_hand(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: str = "F32", shape: tuple[int, ...] = (2,), offsets: tuple[int, int] = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


SAMPLES = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "double": np.array([np.pi, np.inf, np.nan]),
    "half": np.array([1.5, -2.0], np.float16),
    "count": np.array(7),
    "bytes": np.array([[1], [255]], np.uint8),
    "flags": np.array([True, False, True]),
    "small": np.array([-3], np.int8),
    "none": np.zeros((0, 4), np.int32),
    "short": np.array([1, -1], np.int16),
}


def test_the_reference_implementation_reads_ours_and_we_read_its(tmp_path: Path) -> None:
    io.save_file(SAMPLES, tmp_path / "ours", {"epoch": "3"})
    safetensors.numpy.save_file(SAMPLES, tmp_path / "theirs", {"epoch": "3"})
    for name, array in safetensors.numpy.load_file(tmp_path / "ours").items():
        np.testing.assert_array_equal(array, SAMPLES[name])
        assert array.dtype == SAMPLES[name].dtype
    for name, tensor in io.load_file(tmp_path / "theirs").items():
        np.testing.assert_array_equal(tensor.numpy(), SAMPLES[name])
        assert tensor.numpy().dtype == SAMPLES[name].dtype
    assert io.load_metadata(tmp_path / "ours") == io.load_metadata(tmp_path / "theirs") == {"epoch": "3"}


def test_the_bytes_of_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    io.save_file({"b": np.array([1], np.uint8), "a": np.array([1.0, -2.0], np.float32)}, path)
    header = (
        b'{"b":{"dtype":"U8","shape":[1],"data_offsets":[8,9]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    )
    header += b" " * (-len(header) % 8)
    assert path.read_bytes() == len(header).to_bytes(8, "little") + header + b"\0\0\x80\x3f\0\0\0\xc0\x01"
    assert list(io.load_file(path)) == ["b", "a"]


def test_tensors_of_every_type_come_back(tmp_path: Path) -> None:
    path = tmp_path / "file"
    names = [
        "bool",
        "uint8",
        "int8",
        "int16",
        "int32",
        "int64",
        "float16",
        "bfloat16",
        "float32",
        "float64",
        "complex64",
    ]
    tensors = {name: lucid.tensor([[1, 0], [1, 1]]).to(name) for name in names}
    tensors["parameter"] = lucid.ones(3, requires_grad=True)
    io.save_file(tensors, path)
    for name, tensor in io.load_file(path).items():
        assert tensor.dtype == tensors[name].dtype and tensor.tolist() == tensors[name].tolist()
        assert not tensor.requires_grad


def test_strided_and_big_endian_arrays(tmp_path: Path) -> None:
    x = np.arange(24.0).reshape(4, 6)
    io.save_file(
        {"reversed": x[::-1, ::2], "turned": x.T, "big": x.astype(">f8"), "tensor": lucid.tensor(x).t()}, tmp_path / "f"
    )
    loaded = {name: tensor.numpy() for name, tensor in io.load_file(tmp_path / "f").items()}
    for name, expected in (("reversed", x[::-1, ::2]), ("turned", x.T), ("big", x), ("tensor", x.T)):
        np.testing.assert_array_equal(loaded[name], expected)


def test_bfloat16_is_stored_as_its_upper_half(tmp_path: Path) -> None:
    io.save_file({"x": np.array([1.0, -2.0], ml_dtypes.bfloat16)}, tmp_path / "f")
    assert (tmp_path / "f").read_bytes().endswith(b"\x80\x3f\x00\xc0")


def test_writing_to_a_loaded_tensor_changes_memory_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    io.save_file(SAMPLES, path)
    before = path.read_bytes()
    weight = io.load_file(path)["weight"]
    weight += 1
    io.save_file({"weight": weight}, path)
    assert io.load_file(path)["weight"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert before != path.read_bytes()


def test_arrays_at_odd_addresses_are_aligned(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = b"\x01" + np.array([1.0, 2.0], np.float32).tobytes()
    path.write_bytes(by_hand({"a": entry("U8", (1,), (0, 1)), "b": entry("F32", (2,), (1, 9))}, data))
    array = io.load_file(path)["b"].numpy()
    assert array.tolist() == [1, 2] and array.flags.aligned


def test_an_empty_file_of_tensors(tmp_path: Path) -> None:
    io.save_file({}, tmp_path / "f", {"only": "texts"})
    assert io.load_file(tmp_path / "f") == {} and io.load_metadata(tmp_path / "f") == {"only": "texts"}


DAMAGED = [
    (b"", "0 bytes is too short"),
    (b"\x01\0\0", "3 bytes is too short"),
    (b"PK\x03\x04" + b"\0" * 4 + b"zip", r"not safetensors, but .* torch\.save .* safetensors\.torch\.save_file"),
    (b"\x80\x02}q\0." + b"\0" * 9, r"not safetensors, but .* pickle"),
    ((648).to_bytes(8, "little") + b"{}", "cut off: the header should take 648 bytes, the file has 2 left"),
    (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "not safetensors: a header of"),
    (by_hand({"a": entry()}, b"\0" * 8, length=2**60), "the limit is 100000000"),
    (by_hand(b"\xff\xfe{}"), "the header is not JSON"),
    (by_hand(b'{"a": '), "the header is not JSON"),
    (by_hand(b"[" * 10000), "the header is not JSON"),
    (by_hand(b"[1]"), "must be a JSON object, not a list"),
    (by_hand(b'{"a": {"dtype":"F32","shape":[0],"data_offsets":[0,0]}, "a": 1}'), "names 'a' twice"),
    (by_hand({"__metadata__": {"a": 1}}), "__metadata__ must map texts to texts"),
    (by_hand({"a": [1]}), "'a' must have dtype, shape and data_offsets"),
    (by_hand({"a": {**entry(), "extra": 1}}, b"\0" * 8), "'a' must have dtype, shape and data_offsets"),
    (by_hand({"a": entry("F8_E5M2")}, b"\0" * 8), "'a' has dtype 'F8_E5M2'; known are BOOL"),
    (by_hand({"a": entry(shape=(-2,))}, b"\0" * 8), r"'a' has shape \[-2\]"),
    (by_hand({"a": {**entry(), "shape": [True]}}, b"\0" * 8), r"'a' has shape \[True\]"),
    (by_hand({"a": {**entry(), "shape": [2.0]}}, b"\0" * 8), r"'a' has shape \[2.0\]"),
    (by_hand({"a": entry(offsets=(8, 0))}, b"\0" * 8), r"'a' has data_offsets \[8, 0\]"),
    (by_hand({"a": entry(shape=(3,))}, b"\0" * 8), r"'a' spans 8 bytes, but F32 of shape \(3,\) takes 12"),
    (by_hand({"a": entry(shape=(2**62, 2**62))}, b"\0" * 8), "'a' spans 8 bytes"),
    (
        by_hand({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12),
        "'b' begins at byte 4, inside 'a', which ends at 8",
    ),
    (by_hand({"a": entry(), "b": entry(offsets=(0, 8))}, b"\0" * 8), "inside"),
    (by_hand({"a": entry(offsets=(4, 12))}, b"\0" * 12), "bytes 0 to 4, before 'a', belong to no tensor"),
    (by_hand({"a": entry()}, b"\0" * 7), "cut off: 'a' ends at byte 8 of the data, the file has 7"),
    (by_hand({"a": entry()}, b"\0" * 9), "1 bytes after the last tensor belong to none"),
]


@pytest.mark.parametrize(("content", "text"), DAMAGED)
def test_damaged_and_foreign_files_are_named(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "network.safetensors"
    path.write_bytes(content)
    for load in (io.load_file, io.load_metadata, io.load):
        with pytest.raises(FormatError, match=text) as caught:
            load(path)
        assert str(path) in str(caught.value)


def test_a_header_as_long_as_a_pickle_begins_is_read(tmp_path: Path) -> None:
    """640 is written 80 02, as pickles begin."""
    (tmp_path / "f").write_bytes(by_hand(b"{}" + b" " * 638))
    assert io.load_file(tmp_path / "f") == {}


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    io.save_file(SAMPLES, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError, match="file: "):
            io.load_file(path)


def test_every_damaged_header_byte_gives_an_error_or_another_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    io.save_file(SAMPLES, path)
    whole = bytearray(path.read_bytes())
    for i in range(0, int.from_bytes(whole[:8], "little") + 8, 3):
        for change in (0x01, 0x80):
            damaged = bytearray(whole)
            damaged[i] ^= change
            path.write_bytes(damaged)
            try:
                io.load_file(path)
            except FormatError:
                continue


def test_what_cannot_be_saved_is_refused_before_the_file_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "file"
    io.save_file(SAMPLES, path)
    before = path.read_bytes()
    for tensors, metadata, error, text in (
        ({"a": [1.0]}, None, TypeError, "'a' must be a Tensor or a NumPy array, not list"),
        ({"a": np.zeros(1, np.complex128)}, None, DTypeError, "'a' is complex128"),
        ({"a": np.array(["text"])}, None, DTypeError, "<U4"),
        ({1: np.zeros(1)}, None, TypeError, "the name 1 must be a str"),
        ({"__metadata__": np.zeros(1)}, None, ValueError, "the format's own"),
        ({"a": np.zeros(1)}, {"epoch": 3}, TypeError, "metadata 'epoch': 3 must be a str"),
    ):
        with pytest.raises(error, match=text):
            io.save_file(tensors, path, metadata)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_missing_file_is_the_usual_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        io.load_file(tmp_path / "nowhere")
