"""The gradient of a bias, the sum of the upstream gradient, where no algorithm's own pass gives it."""

from __future__ import annotations

from typing import Any

import numpy as np

from lucid.kernels.algorithms.base import Executable
from lucid.kernels.plan import Problem
from lucid.kernels.reduction import scaled_sum

Array = np.ndarray[Any, Any]

#: Of one thread, fitted on arrays that are not in the cache.
_PASS_NS, _PASS_BYTE_NS = 5000.0, 0.04


def after(plain: Executable) -> Executable:
    """An executable that gives both gradients, from one that gives the weight's."""

    def run(x: Array, g: Array, gw: Array, gb: Array) -> None:
        plain(x, g, gw)
        gb[...] = scaled_sum(g, axes=(0, *range(2, g.ndim)), factor=1.0)

    return run


def pass_ns(problem: Problem) -> float:
    """What ``after`` costs one thread."""
    return _PASS_NS + _PASS_BYTE_NS * problem.itemsize * problem.batch * problem.c_out * problem.pixels
