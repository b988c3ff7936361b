"""PyTorch, eager, on the CPU. Also the float64 oracle of the programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lucid.cli.bench import programs
from lucid.cli.bench.peers import Prepared
from lucid.cli.bench.problem import Layer
from lucid.cli.bench.programs import Program

NAMES = ("x", "w", "bias")


def start(threads: int) -> None:
    torch.set_num_threads(threads)


def version() -> str:
    return str(torch.__version__)


def _tensors(layer: Layer, backward: bool) -> tuple[list[torch.Tensor], torch.Tensor]:
    arrays = layer.arrays()
    tensors = [torch.from_numpy(arrays[name]).requires_grad_(backward) for name in NAMES]
    return tensors, torch.from_numpy(arrays["g"])


def _fetch(results: tuple[torch.Tensor, ...]) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in zip(("y", *NAMES), results, strict=False)}


def prepare(problem: Layer | Program, backward: bool) -> Prepared:
    if isinstance(problem, Program):
        return programs.prepare(problem, torch)
    return _prepare_layer(problem, backward)


def _prepare_layer(layer: Layer, backward: bool) -> Prepared:
    inputs, upstream = _tensors(layer, backward)
    conv, options = getattr(F, layer.op), layer.options

    def forward() -> Any:
        with torch.inference_mode():
            return (conv(*inputs, **options),)

    def forward_backward() -> Any:
        y = conv(*inputs, **options)
        return y, *torch.autograd.grad(y, inputs, upstream)

    return Prepared(forward_backward if backward else forward, _fetch)


def oracle(program: Program, calls: int) -> dict[str, np.ndarray]:
    """What the last of so many calls gives in float64."""
    exact = programs.prepare(program, torch, np.float64)
    *_, last = (exact.call() for _ in range(calls))
    return exact.fetch(last)
