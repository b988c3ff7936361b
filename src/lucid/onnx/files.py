"""Writing a model: checked, at once or not at all, large weights beside it."""

from __future__ import annotations

import os
from typing import Any

from lucid.core.errors import ExportError
from lucid.io import atomic_write

BESIDE_FROM_BYTES = 1_500_000_000
"""Protocol buffers end at 2 GiB; weights of so much together are written to a file of their own."""


def write(model: Any, path: str | os.PathLike[str]) -> None:
    """Write an ``onnx.ModelProto``. The file takes its place when the checker has passed it."""
    import onnx

    if sum(len(t.raw_data) for t in model.graph.initializer) >= BESIDE_FROM_BYTES:
        model = _weights_beside(model, path)
    with atomic_write(path) as file:
        file.write(model.SerializeToString(deterministic=True))
        file.flush()
        try:
            onnx.checker.check_model(file.name, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ExportError(f"onnx.export: the file that was made is not valid ONNX: {error}") from None


def _weights_beside(model: Any, path: str | os.PathLike[str]) -> Any:
    """A copy of the model whose weights are in a file with ".data" behind its name, each from a whole page on."""
    import onnx

    name = f"{os.fspath(path)}.data"
    slim = onnx.ModelProto()
    slim.CopyFrom(model)
    at = 0
    with atomic_write(name) as file:
        for tensor in slim.graph.initializer:
            if len(tensor.raw_data) < 1024:
                continue
            at += file.write(bytes(-at % 4096))
            data = tensor.raw_data
            tensor.ClearField("raw_data")
            place = {"location": os.path.basename(name), "offset": str(at), "length": str(len(data))}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=value)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            at += file.write(data)
    return slim
