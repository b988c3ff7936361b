"""ONNX Runtime on the CPU, forward only."""

from __future__ import annotations

import onnxruntime

from lucid.cli.bench.peers import Prepared
from lucid.cli.bench.peers.onnx_model import layer_model
from lucid.cli.bench.problem import Layer

options = onnxruntime.SessionOptions()


def start(threads: int) -> None:
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1


def version() -> str:
    return str(onnxruntime.__version__)


def prepare(layer: Layer, backward: bool) -> Prepared:
    session = onnxruntime.InferenceSession(layer_model(layer), options, providers=["CPUExecutionProvider"])
    feed = {"x": layer.arrays()["x"]}
    return Prepared(lambda: session.run(["y"], feed), lambda results: {"y": results[0]})
