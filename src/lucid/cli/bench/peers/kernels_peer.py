"""Lucid's kernels on bare arrays, below tensors and gradients: what the layers above could at best reach."""

from __future__ import annotations

from typing import Any

import numpy as np

from lucid import kernels
from lucid.cli.bench.peers import Prepared
from lucid.cli.bench.peers.lucid_peer import version, workspace_bytes
from lucid.cli.bench.problem import Layer
from lucid.core.geometry import ConvSpec
from lucid.kernels import jit
from lucid.kernels.runtime import threads as pool

__all__ = ["prepare", "start", "version", "workspace_bytes"]


def start(threads: int) -> None:
    pool.set_num_threads(threads)


def _spec(layer: Layer) -> ConvSpec:
    return ConvSpec(
        kernel=layer.kernel,
        stride=layer.stride,
        dilation=layer.dilation,
        padding=tuple((p, p) for p in layer.padding),
        groups=layer.groups,
    )


def prepare(layer: Layer, backward: bool) -> Prepared:
    spec, arrays = _spec(layer), layer.arrays()
    x, w, bias, g = (arrays[name] for name in ("x", "w", "bias", "g"))
    axes = (0, *range(2, g.ndim))

    def conv() -> dict[str, Any]:
        y = {"y": kernels.conv_forward(x, w, bias, spec)}
        if backward:
            y["x"] = kernels.conv_grad_input(g, w, None, spec, layer.size)
            y["w"] = kernels.conv_grad_weight(x, g, spec)
            y["bias"] = g.sum(axes)
        return y

    def conv_transpose() -> dict[str, Any]:
        y = {"y": kernels.conv_grad_input(x, w, bias, spec, layer.out_size)}
        if backward:
            y["x"] = kernels.conv_forward(g, w, None, spec)
            y["w"] = kernels.conv_grad_weight(g, x, spec)
            y["bias"] = g.sum(axes)
        return y

    def fetch(results: dict[str, Any]) -> dict[str, np.ndarray]:
        return results

    return Prepared(conv_transpose if layer.transposed else conv, fetch, jit.settle)
