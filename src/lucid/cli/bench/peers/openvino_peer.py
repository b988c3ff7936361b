"""OpenVINO on the CPU in float32, forward only."""

from __future__ import annotations

import openvino

from lucid.cli.bench.peers import Prepared
from lucid.cli.bench.peers.onnx_model import layer_model
from lucid.cli.bench.problem import Layer

settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1"}


def start(threads: int) -> None:
    settings["INFERENCE_NUM_THREADS"] = str(threads)


def version() -> str:
    return str(openvino.__version__)


def prepare(layer: Layer, backward: bool) -> Prepared:
    core = openvino.Core()
    request = core.compile_model(core.read_model(layer_model(layer)), "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(layer.arrays()["x"]))

    def call() -> openvino.InferRequest:
        request.infer()
        return request

    return Prepared(call, lambda done: {"y": done.get_output_tensor().data.copy()})
