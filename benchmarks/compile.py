"""What kernels cost to make: the first call of every family of them, and a training step of a ResNet-18.

Run it with ``python -m benchmarks.compile``. Every figure is wall time in fresh processes, so let nothing else run. Of
a first call it is all, plan and kernels and the call: with an empty kernel cache, in a process that has run one tiny
kernel, so that neither LLVM's own start nor the thread pool's is counted; the same as the very first kernel of a
process, with all that; and with a filled cache, in a process that has run another convolution. The modules of an
algorithm, 1 to 15 ms once a process, are loaded before but in the very first call and in the training step.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

from lucid.core.geometry import ConvSpec
from lucid.kernels import jit, select, target, trial
from lucid.kernels.convolution import problem
from lucid.kernels.ir import Module
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Problem, Role
from lucid.kernels.runtime import threads

#: Channels in and out, kernel, stride and the input's side: every convolution of a ResNet-18 at 224 x 224, once.
RESNET18 = [
    (3, 64, 7, 2, 224), (64, 64, 3, 1, 56), (64, 128, 3, 2, 56), (64, 128, 1, 2, 56), (128, 128, 3, 1, 28),
    (128, 256, 3, 2, 28), (128, 256, 1, 2, 28), (256, 256, 3, 1, 14), (256, 512, 3, 2, 14), (256, 512, 1, 2, 14),
    (512, 512, 3, 1, 7),
]  # fmt: skip
ROLES: tuple[Role, ...] = ("forward", "grad_input", "grad_weight")
RUNS = 3


def asked(
    role: Role, channels: tuple[int, int], kernel: tuple[int, ...], stride: int, side: tuple[int, ...], groups: int = 1
) -> Problem:
    """One image, padded so that a stride of 1 keeps its size."""
    spec = ConvSpec(kernel, (stride,) * len(side), (1,) * len(side), tuple((k // 2, k // 2) for k in kernel), groups)
    x, y = (1, channels[0], *side), (1, channels[1], *spec.out_size(side))
    return problem(role, spec, x, y, "float32", False)


#: A problem for every algorithm and role.
FAMILIES: dict[str, tuple[str, Problem]] = {
    "dense": ("gemm", asked("forward", (64, 128), (3, 3), 2, (28, 28))),
    "dense, gradient of x": ("phase_split", asked("grad_input", (64, 128), (3, 3), 2, (28, 28))),
    "dense, gradient of w": ("weight_grad", asked("grad_weight", (64, 128), (3, 3), 2, (28, 28))),
    "overlap-add": ("overlap_add", asked("grad_input", (64, 128), (4, 4), 2, (28, 28))),
    "Winograd": ("winograd", asked("forward", (64, 64), (3, 3), 1, (56, 56))),
    "Winograd, gradient of w": ("winograd", asked("grad_weight", (64, 64), (3, 3), 1, (56, 56))),
    "Winograd, stride 2": ("winograd", asked("forward", (64, 128), (3, 3), 2, (56, 56))),
    "the same, gradient of x": ("winograd", asked("grad_input", (64, 128), (3, 3), 2, (56, 56))),
    "FFT": ("fft", asked("forward", (8, 8), (1023,), 1, (16384,))),
    "FFT, gradient of w": ("fft", asked("grad_weight", (8, 8), (1023,), 1, (16384,))),
    "depthwise": ("depthwise", asked("forward", (64, 64), (3, 3), 1, (28, 28), 64)),
    "depthwise, gradient of x": ("depthwise", asked("grad_input", (64, 64), (3, 3), 1, (28, 28), 64)),
    "depthwise, gradient of w": ("depthwise", asked("grad_weight", (64, 64), (3, 3), 1, (28, 28), 64)),
    "sliding": ("sliding", asked("forward", (64, 64), (3, 3), 1, (28, 28), 64)),
    "sliding, gradient of x": ("sliding", asked("grad_input", (64, 64), (3, 3), 1, (28, 28), 64)),
    "lines, gradient of x": ("lines", asked("grad_input", (1, 32), (15,), 1, (5000,))),
    "lines, gradient of w": ("lines", asked("grad_weight", (1, 32), (15,), 1, (5000,))),
    "mixing": ("mixing", asked("forward", (64, 128), (1, 1), 1, (28, 28), 64)),
    "mixing, gradient of w": ("mixing", asked("grad_weight", (64, 128), (1, 1), 1, (28, 28), 64)),
    "sliding, gradient of w": ("sliding", asked("grad_weight", (64, 64), (3, 3), 1, (28, 28), 64)),
}


#: One that shares no more than the dense kernels' common parts with any of them.
ANOTHER = asked("forward", (5, 7), (2, 2), 1, (9, 9))


def tiny(isa: ISA) -> Module:
    """A kernel that does nothing."""
    module = Module("tiny", isa)
    module.entry("run")
    return module


def first_call(family: str, before_it: str) -> tuple[float, int]:
    """Milliseconds from the question to the result, and the new modules."""
    algorithm, p = FAMILIES[family]
    data = trial.arrays(p)
    if before_it == "tiny":
        threads.run(jit.kernel("tiny", tiny).address("run"), (ctypes.c_int64 * 1)(0), 8)
    elif before_it == "another":
        select.executable(ANOTHER)(*trial.arrays(ANOTHER))
    if before_it != "nothing":
        for name in select.ALGORITHMS:
            select.algorithm_named(name)
    before, begin = jit.kernel_count(), time.perf_counter()
    select.executable(p, algorithm)(*data)
    return 1e3 * (time.perf_counter() - begin), jit.kernel_count() - before


def problems() -> Iterator[Problem]:
    """The convolutions of a training step with one image; the first layer needs no input gradient."""
    for c_in, c_out, kernel, stride, side in RESNET18:
        for role in ROLES:
            if role != "grad_input" or c_in > 3:
                yield asked(role, (c_in, c_out), (kernel, kernel), stride, (side, side))


def step() -> dict[str, float]:
    """Milliseconds for all plans and kernels, for making these good, and for the plans alone; and the new modules."""
    threads.run(jit.kernel("tiny", tiny).address("run"), (ctypes.c_int64 * 1)(0), 8)
    before, begin = jit.kernel_count(), time.perf_counter()
    for p in problems():
        select.executable(p)
    bound, new = time.perf_counter(), jit.kernel_count() - before
    jit.settle()
    settled = time.perf_counter()
    for p in problems():
        select.choose(p, target.isa())
    spent = {"all": bound - begin, "good": settled - bound, "plans": time.perf_counter() - settled}
    return {name: 1e3 * seconds for name, seconds in spent.items()} | {"new": new}


def in_new_process(directory: str, *asked: str) -> Any:
    """What ``main`` prints with those arguments in a process of its own, with that cache."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compile", *asked],
        env={**os.environ, "LUCID_CACHE_DIR": directory},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


def family_row(family: str) -> str:
    """Medians of several processes."""
    first, bare, warm = [], [], []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory() as another:
            first.append(in_new_process(directory, "tiny", family))
            in_new_process(directory, "another", family)
            warm.append(in_new_process(directory, "another", family)[0])
            bare.append(in_new_process(another, "nothing", family)[0])
    return f"{family:28}{first[0][1]:8}{median(ms for ms, _ in first):12.1f}{median(bare):12.1f}{median(warm):12.1f}"


def main() -> None:
    """Prints the tables."""
    if len(sys.argv) > 1:
        what, *family = sys.argv[1:]
        json.dump(first_call(*family, before_it=what) if family else step(), sys.stdout)
        return
    print(f"{'first call of':28}{'modules':>8}{'cold ms':>12}{'very first':>12}{'warm ms':>12}")
    for family in FAMILIES:
        print(family_row(family), flush=True)
    print("\na training step of a ResNet-18")
    with tempfile.TemporaryDirectory() as directory:
        for start in ("cold", "warm"):
            found = in_new_process(directory, "step")
            print(
                f"{start}: {found['new']} kernels with their plans {found['all']:.0f} ms, made good afterwards in "
                f"{found['good']:.0f} ms; the plans alone {found['plans']:.0f} ms"
            )


if __name__ == "__main__":
    main()
