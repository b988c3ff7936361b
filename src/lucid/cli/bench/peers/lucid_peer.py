"""Lucid, through the functionals that users call."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Any

import numpy as np

import lucid
import lucid.nn.functional as F
from lucid.cli.bench import programs
from lucid.cli.bench.peers import Prepared
from lucid.cli.bench.problem import Layer
from lucid.cli.bench.programs import Program
from lucid.kernels import jit, select, target
from lucid.kernels.convolution import observed

NAMES = ("x", "w", "bias")


def start(threads: int) -> None:
    lucid.set_num_threads(threads)


def workspace_bytes(prepared: Prepared) -> int:
    """The most that a plan of the call takes: what its threads share and one thread's part."""
    with observed() as problems:
        prepared.call()
    return max((select.choose(p, target.isa()).workspace_bytes for p in problems), default=0)


def version() -> str:
    return installed_version("lucid-conv")


def _fetch(results: tuple[lucid.Tensor, ...]) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in zip(("y", *NAMES), results, strict=False)}


def prepare(problem: Layer | Program, backward: bool) -> Prepared:
    if isinstance(problem, Program):
        return programs.prepare(problem, lucid)._replace(settle=jit.settle)
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

    return Prepared(forward_backward if backward else forward, _fetch, jit.settle)
