"""Timing plans on random data, in turns: for ``tune``, ``explain`` and the cost model's check. Selection never does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

from lucid.core.geometry import Sizes
from lucid.kernels import jit, select, target
from lucid.kernels.plan import Problem
from lucid.kernels.runtime import empty

Array = np.ndarray[Any, Any]

#: A plan expected to take the first number of times the best one is not timed, seen to take the second not for long.
HOPELESS, BEATEN = 50.0, 3.0
_MOST_ROUNDS = 200


def arrays(p: Problem) -> list[Array | None]:
    """Normal values for a bound plan of the problem, in the order it takes them.

    They lie where a layer's lie, large ones from a cache line on: stores past the caches are chosen on that.
    """
    rng = np.random.default_rng(0)
    x, y, w = (p.batch, p.c_in, *p.size), (p.batch, p.c_out, *p.out), (p.c_out, p.group_in, *p.spec.kernel)
    result = y if p.role == "forward" else x
    bias, affine, residual = (
        shape if there else None
        for shape, there in ((result[1:2], p.bias), (result[1:2], p.epilogue.affine), (result, p.epilogue.residual))
    )
    shapes: dict[str, list[Sizes | None]] = {
        "forward": [x, w, bias, y],
        "grad_input": [y, w, bias, x],
        "grad_weight": [x, y, w, *[(p.summed_channels,)] * p.bias],
    }
    extras = [None, affine, affine, residual] if p.epilogue else []
    found = [None if s is None else empty(s, _numpy_dtype(p.dtype)) for s in shapes[p.role] + extras]
    for values in found:
        if values is not None:
            values[...] = rng.standard_normal(values.shape, np.float32)
    return found


def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def contenders(problem: Problem, most: float = HOPELESS) -> list[str]:
    """The algorithms that accept the problem and have a chance, the model's favourite first.

    Those have one that are expected to take at most so many times as long as that.
    """
    plans, _ = select.candidates(problem, target.isa())
    return [plan.algorithm for plan in plans if plan.expected_ns <= most * plans[0].expected_ns]


def race(problem: Problem, names: Sequence[str], seconds: float = 0.2) -> dict[str, float]:
    """The median ns of a call of each algorithm, in turns; one that is far behind after three is not called again.

    Cost: about ``seconds`` a contender, and compiling what is new.
    """
    data = arrays(problem)
    runs = {name: select.executable(problem, name) for name in names}
    jit.settle()
    times: dict[str, list[float]] = {}
    for name, run in runs.items():
        _timed(run, data)
        times[name] = [_timed(run, data) for _ in range(3)]
    best = min(map(min, times.values()))
    racing = [name for name, values in times.items() if min(values) <= BEATEN * best]
    end = time.perf_counter() + seconds * len(racing)
    for done in range(_MOST_ROUNDS):
        if time.perf_counter() > end:
            break
        for name in racing if done % 2 else reversed(racing):
            times[name].append(_timed(runs[name], data))
    return {name: median(values) for name, values in times.items()}


def _timed(run: Callable[..., None], data: list[Array | None]) -> float:
    start = time.perf_counter_ns()
    run(*data)
    return float(time.perf_counter_ns() - start)
