"""``lucid export``: a trained network as an ONNX file, and a look at whether it says the same."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lucid
from lucid.cli.datasets import Data, FloatArray
from lucid.cli.errors import CommandError
from lucid.cli.progress import Screen, percent
from lucid.cli.run import Checkpoint
from lucid.nn import Module

BATCH = 50
TOLERANCE = 1e-4  # of scores between -20 and 20, in float32


def export(options: argparse.Namespace) -> int:
    """Run the command; its exit status: 1 where ONNX's own evaluator makes something else of the file."""
    checkpoint = Checkpoint.read(options.checkpoint)
    out = options.out or options.checkpoint.with_suffix(".onnx")
    if out.resolve() == options.checkpoint.resolve():
        raise CommandError(f"{out} is the checkpoint itself; name another --out")
    data, network, screen = checkpoint.task.load(), checkpoint.network(), Screen(sys.stdout)
    model = _written(network, data, out, options.opset)
    for line in table(model, out):
        screen.line(line)
    right, farthest = compared(network, data, out, screen)
    screen.line(
        f"checked by onnx.reference: {right} of {len(data.test_x)} held-out samples right, "
        f"{percent(right / len(data.test_x))}; scores differ by {farthest:.1e} at most"
    )
    return 0 if farthest <= TOLERANCE else 1


def _written(network: Module, data: Data, out: Path, opset: int | None) -> Any:
    """The model that the file holds. A batch may have any number of samples."""
    from lucid.onnx import export as write

    out.parent.mkdir(parents=True, exist_ok=True)
    names: dict[str, Any] = {"input_names": ["samples"], "output_names": ["scores"]}
    example = lucid.from_numpy(data.test_x[:2])
    try:
        return write(network, example, out, **names, dynamic_axes={"samples": {0: "batch"}}, opset_version=opset)
    except ImportError as error:
        raise CommandError(str(error)) from None
    except ValueError as error:
        raise CommandError(str(error).removeprefix("onnx.export: ")) from None


def table(model: Any, out: Path) -> Iterator[str]:
    """What was written, a fact a line."""
    graph = model.graph
    kinds = Counter(node.op_type for node in graph.node)
    weights = sum(int(np.prod(t.dims)) for t in graph.initializer)
    rows = {
        "file": f"{out}, {out.stat().st_size:,} bytes",
        "format": f"ONNX, opset {model.opset_import[0].version}",
        "input": _told(graph.input[0]),
        "output": _told(graph.output[0]),
        "nodes": f"{len(graph.node)}: " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()),
        "weights": f"{weights:,}, batch normalisation folded in",
    }
    width = max(map(len, rows))
    return (f"{name:<{width}}  {told}" for name, told in rows.items())


def _told(value: Any) -> str:
    dims = (d.dim_param or str(d.dim_value) for d in value.type.tensor_type.shape.dim)
    return f"{value.name} ({', '.join(dims)}), float32"


def compared(network: Module, data: Data, out: Path, screen: Screen) -> tuple[int, float]:
    """How many held-out samples the file gets right, and how far its scores are from the network's."""
    from onnx.reference import ReferenceEvaluator

    evaluator: Any = ReferenceEvaluator(str(out))
    right, farthest = 0, 0.0
    count = len(data.test_x)
    for begin in range(0, count, BATCH):
        x: FloatArray = data.test_x[begin : begin + BATCH]
        (scores,) = evaluator.run(None, {"samples": x})
        with lucid.no_grad():
            expected = network(lucid.from_numpy(x)).numpy()
        right += int((scores.argmax(1) == data.test_y[begin : begin + BATCH]).sum())
        farthest = max(farthest, float(np.abs(scores - expected).max()))
        screen.bar("checking", min(begin + BATCH, count) / count)
    return right, farthest
