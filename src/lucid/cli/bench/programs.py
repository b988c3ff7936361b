"""Programs that users write, in the words PyTorch and Lucid share: each runs on either library."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lucid.cli.bench.networks import DIGITS, NETWORKS, SINGLE, Network
from lucid.cli.bench.peers import Prepared

# A training step differs between float32 and float64 by rounding, amplified by a few layers.
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Program:
    """One of ``PROGRAMS``, ``TRAININGS`` or ``INFERENCES``. ``results`` names what a call returns."""

    name: str
    results: tuple[str, ...]

    def tolerances(self) -> dict[str, float]:
        """Largest admitted error of each result, relative to the result's root mean square."""
        return dict.fromkeys(self.results, TOLERANCE)


def prepare(program: Program, library: Any, dtype: type[np.floating[Any]] = np.float32) -> Prepared:
    """The program on ``library``, the module ``torch`` or ``lucid``, with the same numbers in both."""
    rng = np.random.default_rng(zlib.crc32(program.name.encode()))
    make = (PROGRAMS | TRAININGS | INFERENCES)[program]
    call = make(library, lambda *shape: library.from_numpy(rng.standard_normal(shape).astype(dtype)), rng)

    def fetch(results: tuple[Any, ...]) -> dict[str, np.ndarray]:
        return {name: value.detach().numpy() for name, value in zip(program.results, results, strict=True)}

    return Prepared(call, fetch)


Call = Callable[[], tuple[Any, ...]]
Normal = Callable[..., Any]


def _with_weights(module: Any, normal: Normal) -> Any:
    """The module in the numbers' dtype, with weights of the usual size drawn the same for every library."""
    module = module.to(dtype=normal(1).dtype)
    weights = module.state_dict()
    for key, parameter in module.named_parameters():
        if parameter.ndim > 1:
            weights[key] = normal(*parameter.shape) * int(np.prod(parameter.shape[1:])) ** -0.5
        elif key.endswith("bias"):
            weights[key] = normal(*parameter.shape) * 0.1
    module.load_state_dict(weights)
    return module


def _step(network: Any, optimizer: Any, criterion: Any, x: Any, y: Any) -> Call:
    """A step of training."""

    def call() -> tuple[Any, ...]:
        optimizer.zero_grad()
        loss = criterion(network(x), y)
        loss.backward()
        optimizer.step()
        return (loss,)

    return call


def _train(found: Network, library: Any, normal: Normal, rng: np.random.Generator) -> Call:
    network = _with_weights(found.build(library), normal)
    options = dict(found.optimizer)
    optimizer = getattr(library.optim, options.pop("name"))(network.parameters(), lr=1e-5, **options)
    x = normal(*found.shape)
    if found.classes:
        y = library.from_numpy(rng.integers(0, found.classes, found.shape[0]))
        return _step(network, optimizer, library.nn.CrossEntropyLoss(), x, y)
    with library.no_grad():
        y = normal(*network(x).shape)
    return _step(network, optimizer, library.nn.L1Loss(), x, y)


def _infer(found: Network, library: Any, normal: Normal, rng: np.random.Generator) -> Call:
    network, x = _with_weights(found.build(library), normal).eval(), normal(*found.shape)

    def call() -> tuple[Any, ...]:
        with library.inference_mode():
            return (network(x),)

    return call


def _tiny_forward(library: Any, normal: Normal, rng: np.random.Generator) -> Call:
    conv, x = _with_weights(library.nn.Conv1d(1, 8, 3, padding=1), normal), normal(4, 1, 16)

    def call() -> tuple[Any, ...]:
        with library.no_grad():
            return (conv(x),)

    return call


def _tiny_both(library: Any, normal: Normal, rng: np.random.Generator) -> Call:
    conv, x = _with_weights(library.nn.Conv1d(1, 8, 3, padding=1), normal), normal(4, 1, 16).requires_grad_()
    upstream = normal(4, 8, 16)

    def call() -> tuple[Any, ...]:
        x.grad = conv.weight.grad = conv.bias.grad = None
        y = conv(x)
        y.backward(upstream)
        return y, x.grad, conv.weight.grad, conv.bias.grad

    return call


Make = Callable[[Any, Normal, np.random.Generator], Call]

PROGRAMS: dict[Program, Make] = {
    Program("digits train step, batch 64", ("loss",)): partial(_train, DIGITS),
    Program("Conv1d(1, 8, 3) on (4, 1, 16), no_grad", ("y",)): _tiny_forward,
    Program("Conv1d(1, 8, 3) on (4, 1, 16), forward+backward", ("y", "x", "w", "bias")): _tiny_both,
}

# What a network is asked for tells its inference from its training.
INFERENCES: dict[Program, Make] = {
    Program(name, ("y",)): partial(_infer, network) for name, network in (NETWORKS | SINGLE).items()
}
TRAININGS: dict[Program, Make] = {
    Program(name, ("loss",)): partial(_train, network) for name, network in NETWORKS.items()
}
