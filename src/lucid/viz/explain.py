"""What a layer will run, and why: the plans weighed, the one taken, and how near it comes to the machine's limit."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from lucid.core.geometry import Sizes
from lucid.kernels import jit, roofline, select, target
from lucid.kernels.convolution import observed, shares_region
from lucid.kernels.jit import Code
from lucid.kernels.launch import Keeper
from lucid.kernels.plan import Plan, Problem
from lucid.kernels.roofline import Roofline
from lucid.kernels.runtime.threads import get_num_threads
from lucid.kernels.trial import HOPELESS, race

if TYPE_CHECKING:
    from lucid.nn import Module

_COLUMNS = 80
_MOSTLY = 0.9  # of the products are with samples: how many is not worth a word
_ROLES = {"forward": "a convolution", "grad_input": "a convolution's input gradient", "grad_weight": ""}
_FORWARD, _INPUT_GRADIENT = "forward", "input gradient"
#: What a layer's passes usually are; a transposed one's are the other way round.
_USUAL = {"forward": _FORWARD, "grad_input": _INPUT_GRADIENT, "grad_weight": "weight gradient"}
_HEADING = "    algorithm      expected   workspace  error bound"
_NAME = 13  # of the longest algorithm


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
    """One problem: its plans, fastest expected first, the one taken, who refused and why, and the time it took.

    ``part`` says which of the layer's passes it is: forward or one of the gradients.
    ``kernels`` has the text of each module that the one taken calls, by name, at the level asked for. In inference
    ``kept_bytes`` that are made of its weights stay from call to call.
    """

    part: str
    problem: Problem
    plans: list[Plan]
    taken: Plan
    refusals: dict[str, str]
    measured_ns: float
    machine: Roofline
    kernels: dict[str, str] = field(default_factory=dict)
    kept_bytes: int = 0
    shares: bool = False  #: a region with the input gradient, which reads the upstream gradient for both

    def __str__(self) -> str:
        text = [self._work(), _HEADING, *map(self._plan, self.plans)]
        text += [f"    {name:<{_NAME}} refuses: {reason}" for name, reason in self.refusals.items()]
        text += [*self._reasons(), self._measured()]
        modules = [f"\n; {name}\n{module.strip()}" for name, module in self.kernels.items()]
        return "\n".join([*map(_wrapped, text), *modules])

    @property
    def _limit_ns(self) -> float:
        p = self.problem
        return self.machine.bound_ns(p.met_flops, p.traffic_bytes, p.written_bytes)

    @property
    def _bound_by(self) -> str:
        p, machine = self.problem, self.machine
        causes = {"arithmetic": p.met_flops / machine.gflop_per_s, "writing": p.written_bytes / machine.fill_gb_per_s}
        return next((cause for cause, ns in causes.items() if ns >= self._limit_ns), "memory traffic")

    def _work(self) -> str:
        p, limit = self.problem, self._limit_ns
        moved = f"{_size(p.traffic_bytes)} moved, {p.flops / p.traffic_bytes:.3g} flop/byte"
        computed = "" if self.part == _USUAL[p.role] else f", as {_ROLES[p.role]}"
        met = f" ({p.met_flops / p.flops:.0%} not with padding)" if p.met_flops < _MOSTLY * p.flops else ""
        return (
            f"{self.part}{computed}: {p.flops / 1e9:.3g} GFLOP{met}, {moved}; "
            f"at best {_duration(limit)}, bound by {self._bound_by}"
        )

    def _plan(self, plan: Plan) -> str:
        expected = _duration(self._expected_ns(plan))
        if plan != self.taken and not self._worth_it(plan):
            return f"    {plan.algorithm:<{_NAME}} not worth it: {expected} expected"
        mark, workspace = "->" if plan == self.taken else "  ", _size(plan.workspace_bytes)
        bound = _error(select.error_growth(plan))
        return f" {mark} {plan.algorithm:<{_NAME}} {expected:>9} {workspace:>11}  {bound}"

    def _worth_it(self, plan: Plan) -> bool:
        return plan.shared_ns <= HOPELESS * self.plans[0].shared_ns

    def _expected_ns(self, plan: Plan) -> float:
        return plan.shared_ns / self.machine.threads

    def _reasons(self) -> Iterator[str]:
        """What is planned, why the plan taken is taken and what it is, in lines."""
        yield f"    planned as {_geometry(self.problem)}"
        if self.problem.epilogue:
            place = "in a pass after it" if self.taken.passes_after else "in its stores"
            yield f"    epilogue: {self.problem.epilogue}, {place}"
        yield f"    why: {self._choice()}"
        for name, numbers in (("tile", self.taken.tile), ("blocks", self.taken.blocking)):
            if numbers:
                yield f"    {name}: " + ", ".join(f"{key} {value}" for key, value in numbers)
        if self.shares:
            yield "    in one region with the input gradient, group by group: g comes from memory once"
        if self.kept_bytes:
            yield f"    in inference, {_size(self.kept_bytes)} made of the weights are kept from call to call"

    def _choice(self) -> str:
        first, others = self.plans[0], self.plans[1:]
        if self.taken.why != first.why or not others or not self._worth_it(others[0]):  # measured, or as good as alone
            return self.taken.why
        share = first.shared_ns / others[0].shared_ns
        return f"expected in {share:.0%} of {others[0].algorithm}'s time; {self.taken.why}"

    def _measured(self) -> str:
        rate, share = self.problem.flops / self.measured_ns, self._limit_ns / self.measured_ns
        return f"    measured {_duration(self.measured_ns)}, {rate:.3g} GFLOP/s, {share:.0%} of the roofline"


def _geometry(problem: Problem) -> str:
    """From x to y, whatever the role, along the axes that there are."""
    spec = problem.spec
    axes = [i for i, (n, kernel) in enumerate(zip(problem.size, spec.kernel, strict=True)) if n * kernel > 1] or [-1]

    def told(numbers: Sizes) -> str:
        return "x".join(str(numbers[i]) for i in axes)

    more = {"stride": spec.stride, "dilation": spec.dilation}
    steps = [f", {name} {told(numbers)}" for name, numbers in more.items() if max(numbers) > 1]
    groups = f" in {spec.groups} groups" * (spec.groups > 1)
    channels = f"{problem.c_in} to {problem.c_out} channels{groups}"
    return f"{channels}, kernel {told(spec.kernel)}{''.join(steps)}, on {told(problem.size)}"


def _error(growth: float) -> str:
    times = f"{growth:.2g}" if growth < 100 else f"{growth:.0f}"
    return "direct summation's" if growth <= 1 else f"{times} x direct summation's"


def _wrapped(line: str) -> str:
    """The line in a terminal's width, what does not fit further in below it."""
    lines = textwrap.wrap(
        line, _COLUMNS, subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False
    )  # a path stays in one piece, to be copied
    return "\n".join(lines) or line


@dataclass(frozen=True, slots=True)
class Explanation:
    """What ``explain`` found; print it."""

    title: str
    parts: list[Weighed]

    def __str__(self) -> str:
        parts = list(map(str, self.parts)) or ["no convolution is computed"]
        return "\n".join([*map(_wrapped, self.title.splitlines()), *parts])

    __repr__ = __str__


#: What is shown of the kernels.
LEVELS: dict[str, Callable[[Code], str] | None] = {"plan": None, "ir": lambda code: code.text, "asm": Code.assembly}


def explain(layer: Module, input_shape: tuple[int, ...] | list[int], level: str = "plan") -> Explanation:
    """What ``layer`` runs on an input of ``input_shape``: every convolution, forward and both gradients.

    For each: the work and its bound, every algorithm's expected time and memory, the one taken and why, and the time
    measured on random data. The layer's own gradients are left as they were. Where convolutions end with what follows
    them, which they do in inference, that comes first; where nothing is left to learn, it is all.

    The work is the definition's products and the arrays, read or written once: "at best" they take what this machine's
    arithmetic and memory, as measured, allow, and that is the roofline. An algorithm of fewer products (Winograd, FFT)
    and arrays that a cache holds can be above 100 %. An error bound is over that of a plain sum of the products. What
    is planned may have fewer axes: rows that a kernel spans count as channels, as in filters over all electrodes.

    With ``level="ir"`` the kernels of the plan that is taken follow as LLVM text, with ``"asm"`` as assembly.

    Cost: one forward and backward pass, and 0.2 s a convolution and role.

    Raises: TypeError for what is no layer or no shape; the layer's own errors for an input that it does not take.

    >>> import lucid.nn as nn
    >>> print(explain(nn.Conv1d(8, 16, 3), (2, 8, 100)))    # doctest: +ELLIPSIS
    Conv1d(8, 16, kernel_size=(3,), stride=(1,)) on (2, 8, 100), float32, ...
    """
    if level not in LEVELS:
        raise ValueError(f"explain: level={level!r} must be one of {', '.join(map(repr, LEVELS))}")
    from lucid.autograd import grad, no_grad
    from lucid.nn import Module
    from lucid.ops.random import randn

    if not isinstance(layer, Module):
        raise TypeError(f"explain: layer must be a Module, not {type(layer).__name__}")
    if not isinstance(input_shape, tuple | list):
        raise TypeError(f"explain: input_shape={input_shape!r} must be a tuple of ints, such as (1, 3, 224, 224)")
    parameters = list(layer.parameters())
    dtype = parameters[0].dtype if parameters else None
    x = randn(*input_shape, dtype=dtype, requires_grad=True)
    with observed() as inferred, no_grad():
        layer(x)
    learned = [p for p in parameters if p.requires_grad]
    with observed() as forward:
        y = layer(x)
    with observed() as backward:
        grad(y, [x, *learned], grad_outputs=[randn(*y.shape, dtype=y.dtype)], allow_unused=True)
    ended = any(p.epilogue for p in inferred)
    trained = [*forward, *backward] * (bool(learned) or not ended)
    every, isa = list(dict.fromkeys([*inferred * ended, *trained])), target.isa()
    machines = {dtype: roofline.measure(dtype) for dtype in dict.fromkeys(p.dtype for p in every)}
    title = f"{layer!r} on {tuple(input_shape)}, {x.dtype.name}, {isa.name}, {get_num_threads()} threads"
    parts, sharing = [], _sharing(backward)
    for p in every:
        plans, refusals = select.candidates(p, isa)
        taken = select.choose(p, isa)
        measured = race(p, [taken.algorithm])[taken.algorithm]
        kernels = _kernels(p, taken.algorithm, LEVELS[level])
        part = _FORWARD if p in inferred or p in forward else _gradient(p)
        kept_bytes = _kept_bytes(p) if p in inferred else 0
        machine, shares = machines[p.dtype], p in sharing
        parts.append(Weighed(part, p, plans, taken, refusals, measured, machine, kernels, kept_bytes, shares))
    return Explanation(title, parts)


def _sharing(backward: list[Problem]) -> set[Problem]:
    """The weight gradients among these, in the order in which they ran, that share a region with the one before."""
    return {p for before, p in pairwise(backward) if p.role == "grad_weight" and shares_region(before, p)}


def _gradient(problem: Problem) -> str:
    """The name of a pass that is none forward."""
    return _USUAL["grad_weight"] if problem.role == "grad_weight" else _INPUT_GRADIENT


def _kept_bytes(problem: Problem) -> int:
    region = select.executable(problem)
    halves = region.halves() if isinstance(region, Keeper) else None
    return halves.kept_bytes if halves else 0


def _kernels(problem: Problem, algorithm: str, shown: Callable[[Code], str] | None) -> dict[str, str]:
    """The modules that an algorithm's plan calls, by their keys."""
    if shown is None:
        return {}
    with jit.recorded() as codes:
        select.bound(problem, algorithm)
    return {_title(key): shown(code) for key, code in codes.items()}


def _title(key: Hashable) -> str:
    return " ".join(map(str, key)) if isinstance(key, tuple) else str(key)
