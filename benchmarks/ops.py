"""Operations beside convolution, in Lucid and in PyTorch, in turns: ``python -m benchmarks.ops``.

The same call runs in both libraries on the same float32 data, whose names are PyTorch's; a figure is PyTorch's time
over Lucid's, the median over turns. Results and gradients are compared first. A turn begins with a rest, in which the
other library's waiting threads go to sleep, and a call that nobody times. Needs PyTorch.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log
from statistics import median
from typing import Any

import numpy as np
import torch

import lucid
import lucid.nn.functional
from lucid.kernels import jit
from lucid.kernels.runtime.threads import set_num_threads

Array = np.ndarray[Any, Any]
#: Shapes (N, C, H, W): a few elements, a network's map of 1 MB, one of 32 MB.
SIZES = {"tiny": (2, 8, 4, 4), "1 MB": (4, 64, 32, 32), "32 MB": (32, 64, 64, 64)}
REST_S = 2e-3  #: longer than PyTorch's threads spin
TURN_S = 1e-3
TOLERANCE = 2e-4  #: of the largest element


@dataclass(frozen=True, slots=True)
class Row:
    """An operation: ``run`` gets the library, its functions and tensors of ``kinds``, the first with a gradient."""

    name: str
    run: Callable[..., Any]
    kinds: str = "x"
    gradient: bool = True


def made(kind: str, shape: tuple[int, ...], draw: np.random.Generator) -> Array:
    """An operand: x and y maps, m a matrix of the same size, c channels, i row numbers, l labels, e an embedding."""
    n, channels, height, width = shape
    rows, columns = n * channels, height * width
    if kind in "xy":
        return draw.standard_normal(shape, np.float32)
    if kind == "m":
        return draw.standard_normal((rows, columns), np.float32)
    if kind == "c":
        return draw.random(channels, np.float32) + 0.5
    if kind == "i":
        return draw.integers(0, columns, (rows, columns))
    if kind == "l":
        return draw.integers(0, columns, rows)
    return draw.integers(0, rows, rows)


ROWS = (
    Row("add", lambda L, F, x, y: x + y, "xy"),
    Row("mul by a number", lambda L, F, x: x * 2.5),
    Row("add channels' numbers", lambda L, F, x, c: x + c[:, None, None], "xc"),
    Row("relu", lambda L, F, x: F.relu(x)),
    Row("leaky_relu", lambda L, F, x: F.leaky_relu(x, 0.1)),
    Row("gelu", lambda L, F, x: F.gelu(x)),
    Row("silu", lambda L, F, x: F.silu(x)),
    Row("sigmoid", lambda L, F, x: F.sigmoid(x)),
    Row("tanh", lambda L, F, x: x.tanh()),
    Row("hardswish", lambda L, F, x: F.hardswish(x)),
    Row("elu", lambda L, F, x: F.elu(x)),
    Row("clamp", lambda L, F, x: x.clamp(-1, 1)),
    Row("where", lambda L, F, x, y: L.where(x > 0, x, y), "xy"),
    Row("GLU by hand", lambda L, F, x: x[:, : x.shape[1] // 2] * x[:, x.shape[1] // 2 :].sigmoid()),
    Row("dropout", lambda L, F, x: F.dropout(x, 0.0)),
    Row("batch_norm training", lambda L, F, x, c: F.batch_norm(x, None, None, c, c, True), "xc"),
    Row("batch_norm inference", lambda L, F, x, c: F.batch_norm(x, c.detach(), c.detach(), c, c, False), "xc"),
    Row("group_norm", lambda L, F, x, c: F.group_norm(x, 4, c, c), "xc"),
    Row("instance_norm", lambda L, F, x, c: F.instance_norm(x, None, None, c, c), "xc"),
    Row("layer_norm", lambda L, F, x: F.layer_norm(x, x.shape[-1:]), "m"),
    Row("max_pool 2", lambda L, F, x: F.max_pool2d(x, 2)),
    Row("max_pool 3 s2 p1", lambda L, F, x: F.max_pool2d(x, 3, 2, 1)),
    Row("avg_pool 2", lambda L, F, x: F.avg_pool2d(x, 2)),
    Row("adaptive_avg_pool 1", lambda L, F, x: F.adaptive_avg_pool2d(x, 1)),
    Row("adaptive_avg_pool 3", lambda L, F, x: F.adaptive_avg_pool2d(x, 3)),
    Row("adaptive_max_pool 1", lambda L, F, x: F.adaptive_max_pool2d(x, 1)),
    Row("adaptive_max_pool 2", lambda L, F, x: F.adaptive_max_pool2d(x, 2)),
    Row("adaptive_max_pool 3", lambda L, F, x: F.adaptive_max_pool2d(x, 3)),
    Row("interpolate nearest", lambda L, F, x: F.interpolate(x, scale_factor=2, mode="nearest")),
    Row("interpolate bilinear", lambda L, F, x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    Row("interpolate bicubic", lambda L, F, x: F.interpolate(x, scale_factor=2, mode="bicubic")),
    Row("interpolate bilinear 1.5", lambda L, F, x: F.interpolate(x, scale_factor=1.5, mode="bilinear")),
    Row("interpolate area 1/2", lambda L, F, x: F.interpolate(x, scale_factor=0.5, mode="area")),
    Row("pixel_shuffle", lambda L, F, x: F.pixel_shuffle(x, 2)),
    Row("pixel_unshuffle", lambda L, F, x: F.pixel_unshuffle(x, 2)),
    Row("pad zeros", lambda L, F, x: F.pad(x, (1, 1, 1, 1))),
    Row("pad reflect", lambda L, F, x: F.pad(x, (1, 1, 1, 1), "reflect")),
    Row("pad replicate", lambda L, F, x: F.pad(x, (2, 2, 2, 2), "replicate")),
    Row("pad circular", lambda L, F, x: F.pad(x, (1, 1, 1, 1), "circular")),
    Row("cat", lambda L, F, x, y: L.cat([x, y], 1), "xy"),
    Row("stack", lambda L, F, x, y: L.stack([x, y]), "xy"),
    Row("permute, contiguous", lambda L, F, x: x.permute(0, 2, 3, 1).contiguous()),
    Row("flip", lambda L, F, x: x.flip(-1)),
    Row("roll", lambda L, F, x: x.roll(1, -1)),
    Row("chunk, add", lambda L, F, x: sum(x.chunk(2, 1))),
    Row("sum", lambda L, F, x: x.sum()),
    Row("mean of planes", lambda L, F, x: x.mean((2, 3))),
    Row("var of rows", lambda L, F, x: x.var(-1), "m"),
    Row("amax of rows", lambda L, F, x: x.amax(-1), "m"),
    Row("amin of columns", lambda L, F, x: x.amin(0), "m"),
    Row("max of rows", lambda L, F, x: x.max(-1)[0], "m"),
    Row("argmax of rows", lambda L, F, x: x.argmax(-1), "m", gradient=False),
    Row("argmax of channels", lambda L, F, x: x.argmax(1), gradient=False),
    Row("cumsum of rows", lambda L, F, x: x.cumsum(-1), "m"),
    Row("cumsum of channels", lambda L, F, x: x.cumsum(1)),
    Row("logsumexp", lambda L, F, x: x.logsumexp(-1), "m"),
    Row("softmax of rows", lambda L, F, x: F.softmax(x, -1), "m"),
    Row("softmax of channels", lambda L, F, x: F.softmax(x, 1)),
    Row("log_softmax of rows", lambda L, F, x: F.log_softmax(x, -1), "m"),
    Row("cross_entropy", lambda L, F, x, i: F.cross_entropy(x, i), "ml"),
    Row("mse_loss", lambda L, F, x, y: F.mse_loss(x, y), "xy"),
    Row("l1_loss", lambda L, F, x, y: F.l1_loss(x, y), "xy"),
    Row("gather", lambda L, F, x, i: x.gather(-1, i), "mi"),
    Row("embedding", lambda L, F, x, i: x[i], "me"),
    Row("index_select", lambda L, F, x, i: x.index_select(0, i), "me"),
    Row("x[:, 1:]", lambda L, F, x: x[:, 1:]),
    Row("reshape", lambda L, F, x: x.reshape(x.shape[0], -1)),
)  # fmt: skip


def calls(row: Row, library: Any, operands: list[Array]) -> tuple[Callable[[], Any], Callable[[], Any] | None]:
    """The forward without a graph, and, if there is one, the forward with it and the gradients."""
    functions = library.nn.functional
    tensors = [library.from_numpy(a) for a in operands]

    def forward() -> Any:
        with library.no_grad():
            return row.run(library, functions, *tensors)

    if not row.gradient:
        return forward, None
    out = forward()
    upstream = library.from_numpy(np.random.default_rng(1).standard_normal(tuple(out.shape), np.float32))
    leaves = [library.from_numpy(a) for a in operands]
    asked = [leaf.requires_grad_() for leaf, a in zip(leaves, operands, strict=True) if a.dtype.kind == "f"]

    def both() -> Any:
        for leaf in asked:
            leaf.grad = None
        row.run(library, functions, *leaves).backward(upstream)
        return [leaf.grad for leaf in asked]

    return forward, both


def distance(found: Any, wanted: Any) -> float:
    """The largest difference over the largest element; tensors, or lists of them."""
    if isinstance(found, list):
        return max(map(distance, found, wanted))
    ours, theirs = (np.asarray(t.detach().numpy(), np.float64) for t in (found, wanted))
    if ours.shape != theirs.shape:
        return float("inf")
    return float(np.abs(ours - theirs).max(initial=0) / max(np.abs(theirs).max(initial=0), 1))


def turn(call: Callable[[], Any]) -> float:
    """Seconds of a call, of as many as fill a turn."""
    time.sleep(REST_S)
    call()
    times: list[float] = []
    end = time.perf_counter() + TURN_S
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)


def ratio(ours: Callable[[], Any], theirs: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """Our seconds, and the median of their time over ours."""
    for call in (ours, theirs):
        call()
    jit.settle()
    pairs = []
    end = time.perf_counter() + seconds
    while len(pairs) < 3 or time.perf_counter() < end:
        pairs.append((turn(ours), turn(theirs)))
    return median(a for a, _ in pairs), median(b / a for a, b in pairs)


def cells(row: Row, shape: tuple[int, ...], seconds: float) -> tuple[list[str], list[float]]:
    """A row's columns at one size, and its ratios; a wrong result has no time."""
    draw = np.random.default_rng(0)
    operands = [made(kind, shape, draw) for kind in row.kinds]
    text, ratios = [], []
    for ours, theirs in zip(calls(row, lucid, operands), calls(row, torch, operands), strict=True):
        if ours is None or theirs is None:
            text += ["", ""]
        elif (off := distance(ours(), theirs())) > TOLERANCE:
            text += ["wrong", f"{off:.1e}"]
        else:
            own, found = ratio(ours, theirs, seconds)
            text += [f"{own * 1e6:.3g}", f"{found:.2f}"]
            ratios.append(found)
    return text, ratios


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--match", default="", metavar="WORD", help="only rows with one of these words, split by |")
    parser.add_argument("--sizes", default=",".join(SIZES), help="some of these, split by commas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.1, help="for each figure")
    args = parser.parse_args()
    set_num_threads(args.threads)
    torch.set_num_threads(args.threads)
    print(f"float32, {args.threads} threads, PyTorch {torch.__version__}: Lucid's µs, PyTorch's time over Lucid's\n")
    head = ["operation", "size", "forward µs", "ratio", "with gradients µs", "ratio"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
    ratios: dict[str, list[float]] = {}
    wrong = 0
    for size in args.sizes.split(","):
        for row in ROWS:
            if any(word in row.name for word in args.match.split("|")):
                text, found = cells(row, SIZES[size], args.seconds)
                ratios.setdefault(size, []).extend(found)
                wrong += text.count("wrong")
                print("| " + " | ".join([row.name, size, *text]) + " |", flush=True)
    for size, found in ratios.items():
        mean = exp(sum(map(log, found)) / len(found))
        print(f"\n{size}: geometric mean {mean:.2f}, {sum(r < 1 for r in found)} of {len(found)} below 1")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
