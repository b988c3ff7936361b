"""What kernels cost to make: cold, and warm from the disk cache, one by one and for a training step of a ResNet-18.

Run it with ``python -m benchmarks.compile``. Every figure is CPU time of a fresh process, so that a busy machine counts
little; imports and the start of LLVM come before the clock.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from lucid.core.geometry import ConvSpec
from lucid.kernels import jit, select, target
from lucid.kernels.convolution import problem
from lucid.kernels.plan import Problem, Role

#: Channels in and out, kernel, stride and the input's side: every convolution of a ResNet-18 at 224 x 224, once.
RESNET18 = [
    (3, 64, 7, 2, 224), (64, 64, 3, 1, 56), (64, 128, 3, 2, 56), (64, 128, 1, 2, 56), (128, 128, 3, 1, 28),
    (128, 256, 3, 2, 28), (128, 256, 1, 2, 28), (256, 256, 3, 1, 14), (256, 512, 3, 2, 14), (256, 512, 1, 2, 14),
    (512, 512, 3, 1, 7),
]  # fmt: skip
ROLES: tuple[Role, ...] = ("forward", "grad_input", "grad_weight")


def problems() -> Iterator[Problem]:
    """The convolutions of a training step with one image; the first layer needs no input gradient."""
    for c_in, c_out, kernel, stride, side in RESNET18:
        pad = kernel // 2
        spec = ConvSpec((kernel,) * 2, (stride,) * 2, (1, 1), ((pad, pad),) * 2)
        size = (side, side)
        for role in ROLES:
            if role != "grad_input" or c_in > 3:
                yield problem(role, spec, (1, c_in, *size), (1, c_out, *spec.out_size(size)), "float32", False)


def measure() -> dict[str, list[tuple[str, float, float, int]]]:
    """By role: every layer's name, CPU milliseconds for its plan, for its kernels, and how many were new."""
    jit.compile_text("define void @nothing() {\n  ret void\n}\n")
    rows: dict[str, list[tuple[str, float, float, int]]] = {role: [] for role in ROLES}
    for asked in problems():
        begun = time.process_time()
        plan = select.choose(asked, target.isa())
        planned, before = time.process_time(), jit.kernel_count()
        select.executable(asked, plan.algorithm)
        bound = time.process_time() - 2 * planned + begun  # it plans once more
        layer = f"{asked.c_in}->{asked.c_out} k{asked.spec.kernel[-1]} s{asked.spec.stride[-1]} {plan.algorithm}"
        rows[asked.role].append((layer, 1e3 * (planned - begun), 1e3 * bound, jit.kernel_count() - before))
    return rows


def in_new_process(directory: str) -> dict[str, list[tuple[str, float, float, int]]]:
    """The same in a process of its own, with that cache."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compile", "--measure"],
        env={**os.environ, "LUCID_CACHE_DIR": directory},
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, list[tuple[str, float, float, int]]] = json.loads(done.stdout)
    return found


def main() -> None:
    """Prints the table."""
    if "--measure" in sys.argv:
        json.dump(measure(), sys.stdout)
        return
    with tempfile.TemporaryDirectory() as directory:
        cold, warm, again = (in_new_process(directory) for _ in range(3))
    total = {"plan": 0.0, "cold": 0.0, "warm": 0.0, "kernels": 0.0}
    print(f"{'role':12}{'layer':36}{'new kernels':>12}{'plan ms':>10}{'cold ms':>10}{'warm ms':>10}")
    for role in ROLES:
        for (layer, plan, first, new), (_, _, second, _), (_, _, third, _) in zip(
            cold[role], warm[role], again[role], strict=True
        ):
            later = min(second, third)
            print(f"{role:12}{layer:36}{new:12}{plan:10.1f}{first:10.1f}{later:10.1f}")
            for name, value in zip(total, (plan, first, later, new), strict=True):
                total[name] += value
    print(f"{'all':48}{total['kernels']:12.0f}{total['plan']:10.1f}{total['cold']:10.1f}{total['warm']:10.1f}")


if __name__ == "__main__":
    main()
