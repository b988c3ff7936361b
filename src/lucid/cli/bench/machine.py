"""What this machine and this checkout are."""

from __future__ import annotations

import platform
import subprocess
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


def commit() -> str:
    """The commit the working tree is at, marked where the tree differs from it; of an installed wheel, unknown."""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"
