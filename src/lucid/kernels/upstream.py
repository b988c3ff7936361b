"""The gradient of a bias, the sum of the upstream gradient, where no algorithm's own pass gives it.

A transposed layer's upstream gradient is the x of its weight gradient.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from lucid.kernels.algorithms.base import Executable
from lucid.kernels.epilogue import moving_ns
from lucid.kernels.plan import Problem
from lucid.kernels.reduction import scaled_sum

Array = np.ndarray[Any, Any]


def after(plain: Executable, transposed: bool) -> Executable:
    """An executable that gives both gradients, from one that gives the weight's."""

    def run(x: Array, g: Array, gw: Array, gb: Array) -> None:
        plain(x, g, gw)
        gb[...] = scaled_sum(x if transposed else g, axes=(0, *range(2, g.ndim)), factor=1.0)

    return run


def pass_ns(problem: Problem) -> float:
    """What ``after`` costs one thread."""
    pixels = prod(problem.size) if problem.transposed else problem.pixels
    return moving_ns(problem.itemsize * problem.batch * problem.summed_channels * pixels)
