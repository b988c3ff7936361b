"""The matrix product beside NumPy's and PyTorch's, in turns: ``OPENBLAS_NUM_THREADS=1 python benchmarks/matmul.py``.

Figures are medians. One thread unless ``--threads`` says otherwise: the waiting threads of one library would take the
cores from the next one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from lucid.kernels import jit

#: M, N, K, whether A and B are transposed: small, vectors, Linear forward, its weight gradient, square.
SHAPES = [
    (4, 4, 4, 0, 0), (16, 16, 16, 0, 0), (32, 32, 32, 0, 0), (64, 10, 256, 0, 1), (64, 64, 64, 0, 0),
    (1, 1000, 512, 0, 1), (1, 1000, 512, 0, 0), (1000, 1, 512, 0, 0), (16, 1000, 512, 0, 1),
    (128, 128, 128, 0, 1), (64, 1000, 512, 0, 1), (1000, 512, 64, 1, 0), (64, 128, 50_000, 1, 0),
    (256, 256, 256, 0, 0), (512, 512, 512, 0, 0), (1024, 1024, 1024, 0, 0), (2048, 2048, 2048, 0, 0),
]  # fmt: skip


def matrix(rng: np.random.Generator, rows: int, columns: int, transposed: bool, dtype: str) -> np.ndarray:
    if transposed:
        return rng.standard_normal((columns, rows)).astype(dtype).T
    return rng.standard_normal((rows, columns)).astype(dtype)


def in_turns(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median seconds of each call."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in (*calls.values(), *calls.values()):
        call()
    jit.settle()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def peers(a: np.ndarray, b: np.ndarray, threads: int) -> dict[str, Callable[[], object]]:
    calls: dict[str, Callable[[], object]] = {"numpy": lambda: a @ b}
    try:
        import torch
    except ImportError:
        return calls
    torch.set_num_threads(threads)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    return {**calls, "torch": lambda: x @ y}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each shape")
    arguments = parser.parse_args()

    from lucid.kernels.matmul import matmul
    from lucid.kernels.runtime.threads import set_num_threads

    set_num_threads(arguments.threads)
    rng = np.random.default_rng(0)
    print(f"{arguments.dtype}, {arguments.threads} threads; us, GFLOP/s, and the peer's time over Lucid's")
    for m, n, k, a_transposed, b_transposed in SHAPES:
        a = matrix(rng, m, k, bool(a_transposed), arguments.dtype)
        b = matrix(rng, k, n, bool(b_transposed), arguments.dtype)
        calls = {"lucid": lambda a=a, b=b: matmul(a, b), **peers(a, b, arguments.threads)}
        times = in_turns(calls, arguments.seconds)
        shape = f"{m}x{k}{'t' * a_transposed} @ {k}x{n}{'t' * b_transposed}"
        columns = [
            f"{name} {t * 1e6:9.1f} us {2e-9 * m * n * k / t:6.1f}"
            + (f" {t / times['lucid']:5.2f}" * (name != "lucid"))
            for name, t in times.items()
        ]
        print(f"{shape:26} " + "   ".join(columns), flush=True)


if __name__ == "__main__":
    main()
