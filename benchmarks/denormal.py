"""Time on denormal weights over normal time, for every algorithm of convolution: ``python -m benchmarks.denormal``.

Processors without the kernels' flushing take a hundred cycles for a product with a denormal number. The first operand
of a role's two is left normal; the second, weights or in a weight gradient g, is denormal all over. The figure is the
median ratio of calls in turns; more than 1.2 is a failure.
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import median

import numpy as np

from lucid.core.geometry import ConvSpec
from lucid.kernels import jit, select, target, trial
from lucid.kernels.convolution import problem
from lucid.kernels.plan import Problem, Role
from lucid.kernels.runtime.threads import set_num_threads

MOST = 1.2
TINY = 1e-40  #: below float32's smallest normal number, 1.2e-38
ROUNDS = 15
ROLES: tuple[Role, ...] = ("forward", "grad_input", "grad_weight")


def asked(role: Role, channels: int, size: tuple[int, ...], kernel: int, groups: int = 1, stride: int = 1) -> Problem:
    """A layer with padding that keeps the size."""
    rank = len(size)
    pads = ((kernel // 2, (kernel - 1) // 2),) * rank
    spec = ConvSpec((kernel,) * rank, (stride,) * rank, (1,) * rank, pads, groups)
    shape = (2, channels)
    return problem(role, spec, (*shape, *size), (*shape, *spec.out_size(size)), "float32", False)


def problems() -> list[Problem]:
    """Layers that between them every algorithm accepts."""
    return [
        p
        for role in ROLES
        for p in (
            asked(role, 64, (56, 56), 3),
            asked(role, 64, (56, 56), 4, stride=4),
            asked(role, 96, (56, 56), 5, groups=96),
            asked(role, 32, (4096,), 63),
            asked(role, 128, (4096,), 255, groups=128),
        )
    ]


def ratio(p: Problem, algorithm: str) -> float:
    """Denormal over normal, the median of the rounds."""
    run, normal = select.executable(p, algorithm), trial.arrays(p)
    tiny = [a if k != 1 or a is None else (a * TINY).astype(a.dtype) for k, a in enumerate(normal)]
    assert tiny[1] is not None and 0 < np.abs(tiny[1]).max() < np.finfo(np.float32).tiny
    jit.settle()
    times = []
    for done in range(ROUNDS + 2):
        pair = {}
        for data in (normal, tiny) if done % 2 else (tiny, normal):
            begin = time.perf_counter()
            run(*data)
            pair[data is tiny] = time.perf_counter() - begin
        times.append(pair[True] / pair[False])
    return median(times[2:])


def main() -> int:
    made = argparse.ArgumentParser(prog="python -m benchmarks.denormal", description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--threads", type=int, default=2, metavar="N")
    set_num_threads(made.parse_args().threads)
    worst = 0.0
    for p in problems():
        for plan in select.candidates(p, target.isa())[0]:
            if plan.algorithm != "reference":
                found = ratio(p, plan.algorithm)
                worst = max(worst, found)
                layer = f"{p.c_in}x{'x'.join(str(n) for n in p.size if n > 1)} k{p.spec.kernel[2]} g{p.groups}"
                print(f"{plan.algorithm:12} {p.role:12} {layer:20} x{found:.2f}{' !' if found > MOST else ''}")
    print(f"worst x{worst:.2f}")
    return int(worst > MOST)


if __name__ == "__main__":
    sys.exit(main())
