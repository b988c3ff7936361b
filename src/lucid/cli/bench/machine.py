"""What this machine and this checkout are."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

import llvmlite.binding as llvm

HERE = Path(__file__).parent


def cpu_name() -> str:
    """The processor as the system names it, with its vector extension."""
    features = llvm.get_host_cpu_features()
    vectors = next((name for name in ("avx512f", "avx2", "neon") if features.get(name)), "scalar")
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()} ({llvm.get_host_cpu_name()}, {vectors})"
    return f"{platform.machine()} ({llvm.get_host_cpu_name()}, {vectors})"


def busy_cores(seconds: float = 0.5) -> float:
    """How many cores' time others take, seen over some seconds of rest; elsewhere than on Linux, the load average.

    The load average of a minute still holds what ended a minute ago, such as the benchmark before this one.
    """
    try:
        idle, total = _ticks()
        time.sleep(seconds)
        idle_after, total_after = _ticks()
    except FileNotFoundError:
        return os.getloadavg()[0]
    share = (idle_after - idle) / max(1, total_after - total)
    return (1 - share) * (os.cpu_count() or 1)


def _ticks() -> tuple[int, int]:
    """Time that all cores spent idle or waiting for disks, and in all."""
    counts = [int(word) for word in Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()[1:9]]
    return counts[3] + counts[4], sum(counts)


def commit() -> str:
    """The commit the working tree is at, marked where the tree differs from it; of an installed wheel, unknown."""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"
