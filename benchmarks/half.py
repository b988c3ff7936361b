"""Time in half precision over time in float32, for every layer and role: ``python -m benchmarks.half``.

float16, bfloat16 and float32 take turns on the same layer; a figure is the median of the ratios. More than 1 is slower
than float32, which half precision never should be. ``--torch`` adds PyTorch's time over Lucid's, both in the same type.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from benchmarks.selection import problems
from lucid.cli.bench.problem import SUITES, suite
from lucid.kernels import convolution, jit, select, target, trial
from lucid.kernels.plan import Problem
from lucid.kernels.runtime.threads import get_num_threads, set_num_threads

Array = np.ndarray[Any, Any]
Call = Callable[[], object]

DTYPES = ("float32", "float16", "bfloat16")
SLOWER = 1.03  #: beyond what repeated runs differ by


def lucid_call(p: Problem) -> Call:
    """What a layer calls for the problem, on random data."""
    first, second, bias, *_ = trial.arrays(p)
    assert first is not None and second is not None
    if p.role == "forward":
        return lambda: convolution.conv_forward(first, second, bias, p.spec)
    if p.role == "grad_input":
        return lambda: convolution.conv_grad_input(first, second, bias, p.spec, p.size)
    return lambda: convolution.conv_grad_weight(first, second, p.spec)


def torch_call(p: Problem) -> Call:
    """PyTorch's, of the rank that the layer has."""
    import torch

    torch.set_num_threads(get_num_threads())
    flat = sum(n == k == 1 for n, k in zip(p.size[:2], p.spec.kernel[:2], strict=True))
    kind = getattr(torch, p.dtype)
    shapes = (p.batch, p.c_in, *p.size[flat:]), (p.batch, p.c_out, *p.out[flat:])
    x, g = (torch.randn(shape).to(kind) for shape in shapes)
    w = torch.randn(p.c_out, p.group_in, *p.spec.kernel[flat:]).to(kind)
    low = [a for a, _ in p.spec.padding[flat:]]
    rest = (list(p.spec.stride[flat:]), low, list(p.spec.dilation[flat:]), False, [0] * len(low), p.groups)
    if p.role == "forward":
        return lambda: torch.convolution(x, w, None, *rest)
    mask = [p.role == "grad_input", p.role == "grad_weight", False]
    return lambda: torch.ops.aten.convolution_backward(g, x, w, None, *rest, mask)


def in_turns(calls: dict[str, Call], seconds: float) -> dict[str, list[float]]:
    """Times of each call, one after the other, again and again; each is timed behind itself.

    Behind another algorithm's a call takes up to 1.35 times as long, or as little: what that left of a workspace in
    which core's cache, packed weights most.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    jit.settle()
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for name, call in calls.items():
            call()
            start = time.perf_counter_ns()
            call()
            times[name].append(time.perf_counter_ns() - start)
    return times


def ratio(times: dict[str, list[float]], above: str, below: str) -> float:
    """The median of the ratios of neighbours in time."""
    return median(a / b for a, b in zip(times[above], times[below], strict=True))


def row(of_float32: Problem, seconds: float, torch: bool) -> dict[str, str | float]:
    """A problem's figures by column."""
    asked = {dtype: replace(of_float32, dtype=dtype) for dtype in DTYPES}
    calls = {dtype: lucid_call(p) for dtype, p in asked.items()}
    chosen = {}
    for dtype, call in calls.items():
        with convolution.observed() as seen:
            call()
        wide = " in float32" * (seen[0].dtype != dtype)
        chosen[dtype] = select.choose(seen[0], target.isa()).algorithm + wide
    times = in_turns(calls, seconds)
    found: dict[str, str | float] = {"float32 ms": median(times["float32"]) / 1e6, "float32": chosen["float32"]}
    for dtype in DTYPES[1:]:
        found |= {f"{dtype} / float32": ratio(times, dtype, "float32"), dtype: chosen[dtype]}
    for dtype in DTYPES if torch else ():
        own = in_turns({"lucid": calls[dtype], "torch": torch_call(asked[dtype])}, seconds)
        found[f"torch / lucid {dtype}"] = ratio(own, "torch", "lucid")
    return found


def cell(value: str | float) -> str:
    """A figure with three digits."""
    return value if isinstance(value, str) else f"{value:.3g}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, default="layers")
    parser.add_argument("--match", metavar="WORD", help="only layers with this in their names")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.1, help="for each call")
    parser.add_argument("--torch", action="store_true", help="PyTorch's times too")
    args = parser.parse_args()
    set_num_threads(args.threads)
    head, slower = [], 0
    for layer in suite(args.match, args.suite):
        for asked in problems(layer):
            found = row(asked, args.seconds, args.torch)
            if not head:
                head = ["layer", "role", *found]
                print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
            print("| " + " | ".join([layer.short_name, asked.role, *map(cell, found.values())]) + " |", flush=True)
            slower += sum(float(found[f"{dtype} / float32"]) > SLOWER for dtype in DTYPES[1:])
    print(f"\n{slower} more than {SLOWER - 1:.0%} slower than float32")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
