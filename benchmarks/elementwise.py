"""Kernels other than convolution beside NumPy and PyTorch, in turns: ``python -m benchmarks.elementwise``.

Figures are medians. One thread unless ``--threads`` says otherwise: the waiting threads of one library would take the
cores from the next one. PyTorch's columns need PyTorch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks.matmul import in_turns
from lucid.core.geometry import PoolSpec
from lucid.kernels import activations, arithmetic, normalization, pooling, reduction, softmax, update
from lucid.kernels.runtime.threads import set_num_threads

Calls = dict[str, Callable[[], object]]
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
IMAGES = (32, 64, 56, 56)
WINDOW = PoolSpec((2, 2), (2, 2), (1, 1), ((0, 0), (0, 0)))
#: Shapes of the parameters of ResNet-18, near enough.
PARAMETERS = [
    (64, 3, 7, 7),
    *[(c, c, 3, 3) for c in (64, 128, 256, 512) for _ in range(4)],
    *[(512,)] * 40,
    (1000, 512),
]


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def maps(torch: Any) -> Iterator[tuple[str, Calls]]:
    """One array in, one out."""
    functions = {
        "relu": (activations.relu, lambda x: np.maximum(x, 0), "relu"),
        "exp": (arithmetic.UNARY["exp"], np.exp, "exp"),
        "tanh": (arithmetic.UNARY["tanh"], np.tanh, "tanh"),
        "gelu": (activations.gelu, None, "nn.functional.gelu"),
        "silu": (activations.silu, lambda x: x / (1 + np.exp(-x)), "nn.functional.silu"),
    }
    for name, (kernel, plain, path) in functions.items():
        for size in SIZES:
            x = normal(size)
            calls: Calls = {"lucid": lambda k=kernel, x=x: k(x)}
            if plain is not None:
                calls["numpy"] = lambda f=plain, x=x: f(x)
            if torch is not None:
                function = torch
                for part in path.split("."):
                    function = getattr(function, part)
                calls["torch"] = partial(function, torch.from_numpy(x))
            yield f"{name} {size}", calls


def folds(torch: Any) -> Iterator[tuple[str, Calls]]:
    """Sums over axes, and softmax."""
    for shape, axes in (((1_000_000,), (0,)), (IMAGES, (0, 2, 3)), ((4096, 1000), (0,)), ((4096, 1000), (1,))):
        x = normal(*shape)
        calls: Calls = {
            "lucid": lambda x=x, a=axes: reduction.scaled_sum(x, axes=a, factor=1.0),
            "numpy": lambda x=x, a=axes: x.sum(a),
        }
        if torch is not None:
            calls["torch"] = partial(torch.from_numpy(x).sum, axes)
        yield f"sum {shape} over {axes}", calls
    for shape in ((64, 10), (64, 1000), (512, 4096)):
        x = normal(*shape)
        calls = {"lucid": lambda x=x: softmax.log_softmax(x, axes=(1,))}
        if torch is not None:
            calls["torch"] = partial(torch.log_softmax, torch.from_numpy(x), 1)
        yield f"log_softmax {shape}", calls


def layers(torch: Any) -> Iterator[tuple[str, Calls]]:
    """What stands between convolutions, forward and backward."""
    x, g, w = normal(*IMAGES), normal(*IMAGES), normal(IMAGES[1])
    axes, shape = (0, 2, 3), (1, IMAGES[1], 1, 1)
    _, mean, var = normalization.standardize(x, w, w, axes, shape, 1e-5)
    h = pooling.max_pool(x, WINDOW)
    rows: dict[str, Calls] = {
        "add": {"lucid": lambda: arithmetic.BINARY["add"](x, g), "numpy": lambda: x + g},
        "batch_norm": {"lucid": lambda: normalization.standardize(x, w, w, axes, shape, 1e-5)},
        "batch_norm backward": {"lucid": lambda: normalization.standardize_grad(g, x, w, mean, var, axes, shape, 1e-5)},
        "max_pool": {"lucid": lambda: pooling.max_pool(x, WINDOW)},
        "max_pool backward": {"lucid": lambda: pooling.max_pool_grad(h, x, WINDOW)},
        "avg_pool": {"lucid": lambda: pooling.avg_pool(x, WINDOW, True, None)},
        "avg_pool backward": {"lucid": lambda: pooling.avg_pool_grad(h, WINDOW, IMAGES[2:], True, None)},
    }
    if torch is not None:
        f, tx, tg, tw = torch.nn.functional, *map(torch.from_numpy, (x, g, w))
        leaf = tx.clone().requires_grad_()
        forward = {
            "batch_norm": lambda x: f.batch_norm(x, None, None, tw, tw, True),
            "max_pool": lambda x: f.max_pool2d(x, 2),
            "avg_pool": lambda x: f.avg_pool2d(x, 2),
        }
        rows["add"]["torch"] = lambda: tx + tg
        for name, function in forward.items():
            y = function(leaf)
            upstream = torch.ones_like(y)
            rows[name]["torch"] = lambda function=function: function(tx)
            rows[f"{name} backward"]["torch"] = lambda y=y, u=upstream: torch.autograd.grad(
                y, leaf, u, retain_graph=True
            )
    for name, calls in rows.items():
        yield f"{name} {IMAGES}", calls


def steps(torch: Any) -> Iterator[tuple[str, Calls]]:
    """A step of Adam over all parameters of a network."""
    lists = [[normal(*s) for s in PARAMETERS] for _ in range(2)] + [
        [normal(*s) ** 2 for s in PARAMETERS] for _ in range(2)
    ]
    options: dict[str, Any] = {
        "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "decoupled": False, "maximize": False,
    }  # fmt: skip
    calls: Calls = {"lucid": lambda: update.adam(*lists, None, [3] * len(PARAMETERS), **options)}
    if torch is not None:
        params = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in lists[0]]
        for p, g in zip(params, lists[1], strict=True):
            p.grad = torch.from_numpy(g.copy())
        plain, fused = (torch.optim.Adam(params, **chosen) for chosen in ({}, {"fused": True}))
        calls |= {"torch": plain.step, "torch fused": fused.step}
    yield "adam, a ResNet-18", calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each row")
    parser.add_argument("--only", default="", help="rows whose name begins with this")
    arguments = parser.parse_args()
    try:
        import torch

        torch.set_num_threads(arguments.threads)
    except ImportError:
        torch = None
    set_num_threads(arguments.threads)
    print(f"float32, {arguments.threads} threads; us, and the peer's time over Lucid's")
    for family in (maps, folds, layers, steps):
        for name, calls in family(torch):
            if name.startswith(arguments.only):
                times = in_turns(calls, arguments.seconds)
                columns = [
                    f"{who} {t * 1e6:10.1f}" + (f" {t / times['lucid']:6.2f}" * (who != "lucid"))
                    for who, t in times.items()
                ]
                print(f"{name:42} " + "   ".join(columns), flush=True)


if __name__ == "__main__":
    main()
