"""One layer as an ONNX model, for the runtimes that read those."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper

from lucid.cli.bench.problem import Layer


def layer_model(layer: Layer) -> bytes:
    """A model with the input ``x``, the output ``y``, and weight and bias as constants."""
    arrays = layer.arrays()
    node = helper.make_node(
        "ConvTranspose" if layer.transposed else "Conv",
        ["x", "w", "bias"],
        ["y"],
        kernel_shape=layer.kernel,
        strides=layer.stride,
        pads=layer.padding * 2,
        dilations=layer.dilation,
        group=layer.groups,
    )
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, layer.shapes["x"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, layer.shapes["g"])],
        [numpy_helper.from_array(arrays[name], name) for name in ("w", "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
