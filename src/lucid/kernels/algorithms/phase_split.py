"""Input gradient and transposed convolution, split by the phase of the stride: no zero inserted, nothing scattered.

Result position i meets sample q of g at tap t where i + low = q * stride + t * dilation. Positions with the same
residue r of i + low by the stride form a phase: they meet the taps with t * dilation = r modulo the stride, and from
one of them to the next q grows by one. So each phase is a dense convolution of stride 1, with its own taps::

    stride 2, kernel 3, low 1       i      0 1 2 3 4 5 6
                                    r      1 0 1 0 1 0 1
                                    taps   1 . 1 . 1 . 1        r = 1: tap 1
                                             0   0   0          r = 0: taps 0 and 2
                                             2   2   2

A phase without taps is the bias. With stride 1 there is one phase, and the taps run backwards.

Where the kernel is a multiple of the stride, all residues of an axis meet the same samples, only with other weights.
Those of the last axis are then stacked as rows of one phase, x is packed once for all, and the sums are interleaved.
Where windows lie side by side (the kernel is the stride), so are those of the axes around it.
"""

from __future__ import annotations

from lucid.core.geometry import Sizes
from lucid.kernels.algorithms import dense_plan
from lucid.kernels.algorithms.base import Executable, sum_type
from lucid.kernels.algorithms.correlation import many_phases
from lucid.kernels.algorithms.pixel_panels import Axis
from lucid.kernels.algorithms.tile import fitting
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Plan, Problem

name = "phase_split"
roles = ("grad_input",)
dtypes = dense_plan.DTYPES


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Long strides, and what the dense plan refuses."""
    return many_phases(problem) or dense_plan.refuses(axes(problem, isa))


def fuses(problem: Problem) -> bool:
    """Every epilogue, as sums leave their tile."""
    return True


def axis_phases(size: int, out: int, kernel: int, stride: int, dilation: int, low: int, weight_step: int) -> list[Axis]:
    """The phases of one axis that have positions; ``size`` is the result's, ``out`` is g's."""
    found = []
    for residue in range(stride):
        start = (residue - low) % stride
        met = [t for t in range(kernel) if t * dilation % stride == residue]
        axis = Axis(
            positions=len(range(start, size, stride)),
            size=out,
            step=1,
            offsets=tuple((start + low - t * dilation) // stride for t in met),
            weights=tuple(t * weight_step for t in met),
            out_size=size,
            out_start=start,
            out_step=stride,
        )
        if axis.positions:
            found.append(axis)
    return found


def stacked_axis(size: int, out: int, kernel: int, stride: int, low: int) -> Axis:
    """All residues of an axis at once, the last or one of a single tap.

    Position j stands for the results where (i + low) // stride is j. Row r of a channel has the weights r further on,
    and writes r further on.
    """
    first, last = low // stride, (low + size - 1) // stride
    taps_each = range(kernel // stride)
    return Axis(
        positions=last - first + 1,
        size=out,
        step=1,
        offsets=tuple(first - t for t in taps_each),
        weights=tuple(t * stride for t in taps_each),
        out_size=size,
        out_start=first * stride - low,
        out_step=stride,
    )


def stacked(problem: Problem, isa: ISA) -> Sizes:
    """How many residues of each axis become rows side by side: all or 1, from the last axis outwards."""
    spec = problem.spec
    most = max(tile.rows for tile in fitting(isa, sum_type(problem))) // 2
    x = spec.stride[2] if spec.kernel[2] % spec.stride[2] == 0 and spec.dilation[2] == 1 else 1
    if not 1 < x <= most:
        return dense_plan.ALONE
    y = spec.stride[1] if x == spec.kernel[2] and _side_by_side(problem, 1) and x * spec.stride[1] <= most else 1
    z = spec.stride[0] if y > 1 and _side_by_side(problem, 0) and x * y * spec.stride[0] <= most else 1
    return z, y, x


def _side_by_side(problem: Problem, axis: int) -> bool:
    """Whether the windows of an axis around the last lie side by side and cover it."""
    spec, stride = problem.spec, problem.spec.stride[axis]
    covered = problem.size[axis] == problem.out[axis] * stride and spec.padding[axis][0] == 0
    return spec.kernel[axis] == stride > 1 and spec.dilation[axis] == 1 and covered


def axes(problem: Problem, isa: ISA) -> list[list[Axis]]:
    """The phases of every axis, or all that are stacked as one."""
    spec = problem.spec
    _, y, x = spec.kernel
    found = [
        axis_phases(size, out, kernel, stride, dilation, low, weight_step)
        for size, out, kernel, stride, dilation, (low, _), weight_step in zip(
            problem.size, problem.out, spec.kernel, spec.stride, spec.dilation, spec.padding, (y * x, x, 1), strict=True
        )
    ]
    for axis, residues in enumerate(stacked(problem, isa)):
        if residues > 1:
            kernel, low = spec.kernel[axis], spec.padding[axis][0]
            found[axis] = [stacked_axis(problem.size[axis], problem.out[axis], kernel, residues, low)]
    return found


def least_ns(problem: Problem, isa: ISA) -> float:
    """The time of its products at the full rate."""
    return dense_plan.least_ns(problem, isa)


def plan(problem: Problem, isa: ISA) -> Plan:
    """The tile that covers channels and positions with least waste, blocks that fit the caches."""
    return dense_plan.plan(name, problem, isa, axes(problem, isa), stacked(problem, isa))


def bind(plan: Plan, isa: ISA) -> Executable:
    """The kernel with the problem's numbers."""
    problem = plan.problem
    return dense_plan.bind(plan, axes(problem, isa), stacked(problem, isa))
