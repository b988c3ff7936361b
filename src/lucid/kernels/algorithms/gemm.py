"""Dense forward convolution as an implicit matrix product: all output positions are one phase."""

from __future__ import annotations

from lucid.kernels.algorithms import dense_plan
from lucid.kernels.algorithms.base import Executable
from lucid.kernels.algorithms.pixel_panels import Axis
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Plan, Problem

name = "gemm"
roles = ("forward",)
dtypes = dense_plan.DTYPES


def refuses(problem: Problem, isa: ISA) -> str | None:
    """What the dense plan refuses."""
    return dense_plan.refuses(axes(problem))


def fuses(problem: Problem) -> bool:
    """Every epilogue, as sums leave their tile."""
    return True


def axes(problem: Problem) -> list[list[Axis]]:
    """All output positions: position p meets sample p * stride + t * dilation - low."""
    spec = problem.spec
    _, y, x = spec.kernel
    return [
        [
            Axis(
                positions=out,
                size=size,
                step=stride,
                offsets=tuple(t * dilation - low for t in range(kernel)),
                weights=tuple(t * weight_step for t in range(kernel)),
                out_size=out,
            )
        ]
        for size, out, kernel, stride, dilation, (low, _), weight_step in zip(
            problem.size, problem.out, spec.kernel, spec.stride, spec.dilation, spec.padding, (y * x, x, 1), strict=True
        )
    ]


def least_ns(problem: Problem, isa: ISA) -> float:
    """The time of its products at the full rate."""
    return dense_plan.least_ns(problem, isa)


def plan(problem: Problem, isa: ISA) -> Plan:
    """The tile that covers channels and pixels with least waste, blocks that fit the caches."""
    return dense_plan.plan(name, problem, isa, axes(problem))


def bind(plan: Plan, isa: ISA) -> Executable:
    """The kernel with the problem's numbers."""
    return dense_plan.bind(plan, axes(plan.problem))
