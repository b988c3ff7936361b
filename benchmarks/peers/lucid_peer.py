"""Lucid, through the functionals that users call."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Any

import numpy as np

import lucid
import lucid.nn.functional as F
from benchmarks import programs
from benchmarks.peers import Prepared
from benchmarks.problem import Layer
from benchmarks.programs import Program

NAMES = ("x", "w", "bias")


def start(threads: int) -> None:
    lucid.set_num_threads(threads)


def version() -> str:
    return installed_version("lucid-conv")


def _fetch(results: tuple[lucid.Tensor, ...]) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in zip(("y", *NAMES), results, strict=False)}


def prepare(problem: Layer | Program, backward: bool) -> Prepared:
    if isinstance(problem, Program):
        return programs.prepare(problem, lucid)
    return _prepare_layer(problem, backward)


def _prepare_layer(layer: Layer, backward: bool) -> Prepared:
    arrays = layer.arrays()
    inputs = [lucid.from_numpy(arrays[name]).requires_grad_(backward) for name in NAMES]
    upstream = lucid.from_numpy(arrays["g"])
    conv, options = getattr(F, layer.op), layer.options

    def forward() -> Any:
        with lucid.inference_mode():
            return (conv(*inputs, **options),)

    def forward_backward() -> Any:
        y = conv(*inputs, **options)
        return y, *lucid.autograd.grad(y, inputs, upstream)

    return Prepared(forward_backward if backward else forward, _fetch)
