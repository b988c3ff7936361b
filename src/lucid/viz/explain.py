"""What a layer will run, and why: the plans weighed, the one taken, and how near it comes to the machine's limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lucid.kernels import roofline, select, target
from lucid.kernels.convolution import observed
from lucid.kernels.plan import Plan, Problem
from lucid.kernels.roofline import Roofline
from lucid.kernels.trial import HOPELESS, race

if TYPE_CHECKING:
    from lucid.nn import Module

_ROLES = {"forward": "forward", "grad_input": "input gradient", "grad_weight": "weight gradient"}


def _duration(ns: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.0f} ns"


def _size(count: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


@dataclass(frozen=True, slots=True)
class Weighed:
    """One problem: its plans, fastest expected first, the one taken, who refused and why, and the time it took."""

    problem: Problem
    plans: list[Plan]
    taken: Plan
    refusals: dict[str, str]
    measured_ns: float
    machine: Roofline

    def __str__(self) -> str:
        p, best = self.problem, self.plans[0]
        intensity = p.flops / p.traffic_bytes
        limit = self.machine.bound_ns(p.flops, p.traffic_bytes)
        bound = "arithmetic" if p.flops / self.machine.gflop_per_s >= limit else "memory traffic"
        lines = [
            f"{_ROLES[p.role]}: {p.flops / 1e9:.3g} GFLOP, {_size(p.traffic_bytes)} moved, {intensity:.3g} flop/byte; "
            f"at best {_duration(limit)}, bound by {bound}"
        ]
        for plan in self.plans:
            if plan != self.taken and plan.expected_ns > HOPELESS * best.expected_ns:
                lines.append(f"    {plan.algorithm:<12} not worth it: {_duration(plan.expected_ns)} expected")
                continue
            numbers = ", ".join(f"{name} {value}" for name, value in (*plan.tile, *plan.blocking))
            taken = "->" if plan == self.taken else "  "
            lines.append(
                f" {taken} {plan.algorithm:<12} {_duration(plan.expected_ns / self.machine.threads):>8} expected, "
                f"{_size(plan.workspace_bytes)} workspace; {numbers}"
            )
        lines += [f"    {name:<12} refuses: {reason}" for name, reason in self.refusals.items()]
        if p.epilogue:
            place = "in a pass after it" if self.taken.passes_after else "in its stores"
            lines.append(f"    epilogue: {p.epilogue}, {place}")
        if self.taken.why:
            lines.append(f"    why: {self.taken.why}")
        lines.append(
            f"    measured {_duration(self.measured_ns)}, {p.flops / self.measured_ns:.3g} GFLOP/s, "
            f"{limit / self.measured_ns:.0%} of the roofline"
        )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What ``explain`` found; print it."""

    title: str
    parts: list[Weighed]

    def __str__(self) -> str:
        return "\n".join([self.title, *map(str, self.parts)])

    __repr__ = __str__


def explain(layer: Module, input_shape: tuple[int, ...]) -> Explanation:
    """What ``layer`` runs on an input of ``input_shape``: every convolution, forward and both gradients.

    For each: the work and its bound, every algorithm's expected time and memory, the one taken and why, and the time
    measured on random data. The layer's own gradients are left as they were. Where convolutions are fused with what
    follows them, which is for inference, only the forward pass is explained.

    Cost: one forward and backward pass, and 0.2 s a convolution and role.

    >>> import lucid.nn as nn
    >>> print(explain(nn.Conv1d(8, 16, 3), (2, 8, 100)))    # doctest: +ELLIPSIS
    Conv1d(8, 16, kernel_size=(3,), stride=(1,)) on (2, 8, 100), float32, ...
    """
    from lucid.autograd import grad, no_grad
    from lucid.ops.random import randn

    parameters = list(layer.parameters())
    dtype = parameters[0].dtype if parameters else None
    x = randn(*input_shape, dtype=dtype, requires_grad=True)
    with observed() as problems, no_grad():
        layer(x)
    if not any(p.epilogue for p in problems):
        with observed() as problems:
            y = layer(x)
            grad(y, [x, *parameters], grad_outputs=[randn(*y.shape, dtype=y.dtype)], allow_unused=True)
    machine, isa = roofline.measure(str(x.dtype.name)), target.isa()
    title = f"{layer!r} on {tuple(input_shape)}, {x.dtype.name}, {isa.name}, {machine.threads} threads"
    parts = []
    for p in dict.fromkeys(problems):
        plans, refusals = select.candidates(p, isa)
        taken = select.choose(p, isa)
        measured = race(p, [taken.algorithm])
        parts.append(Weighed(p, plans, taken, refusals, measured[taken.algorithm], machine))
    return Explanation(title, parts)
