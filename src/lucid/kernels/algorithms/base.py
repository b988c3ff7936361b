"""What every algorithm offers to the selection."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

from lucid.kernels import target
from lucid.kernels.ir import BY_DTYPE, Type, computed
from lucid.kernels.isa import ISA
from lucid.kernels.launch import address, launch
from lucid.kernels.plan import Plan, Problem

__all__ = [
    "GHZ",
    "IN_ORDER",
    "MOST_PRODUCTS",
    "SCATTERED",
    "Algorithm",
    "Asked",
    "Executable",
    "address",
    "channels",
    "far_bytes",
    "handed_ns",
    "launch",
    "memory_cycles",
    "planned",
    "priced",
    "shared_tasks",
    "sum_type",
    "turns_of",
    "useful_threads",
]

#: What cycles are counted at.
GHZ = 4.0
_LINE_BYTES = 64
#: Products that a tile or a step writes out at most: about 10 ms to compile.
MOST_PRODUCTS = 120

#: A bound plan. Arrays are C-contiguous and of the problem's sizes; the last one of these is written:
#: forward (x, w, bias, y); grad_input (g, w, bias, gx); grad_weight (x, g, gw). What there is not is None.
#: Behind them comes what is kept of the weights, if anything, and with an epilogue scale, shift and residual.
Executable = Callable[..., None]


class Algorithm(Protocol):
    """An algorithm is a module with these names."""

    name: str

    def refuses(self, problem: Problem, isa: ISA) -> str | None:
        """Why it cannot compute the problem, or None if it can.

        Only asked for problems of its ``roles`` (all, if it does not say) and ``dtypes`` (full precision).
        """

    def fuses(self, problem: Problem) -> bool:
        """Whether its stores apply the problem's epilogue. One that does not say so is never asked to."""

    def least_ns(self, problem: Problem, isa: ISA) -> float:
        """No more than any plan is expected to take, before one is weighed. Who does not say so is always asked."""

    def error_growth(self, plan: Plan) -> float:
        """A result is within so many times the bound of direct summation. Strict precision rules out who says so.

        Who does not sums the definition's products.
        """

    def plan(self, problem: Problem, isa: ISA) -> Plan:
        """Its best plan for a problem that it does not refuse."""

    def bind(self, plan: Plan, isa: ISA) -> Executable:
        """Compiles, or finds, the kernels and fixes every number that does not change from call to call."""


def channels(problem: Problem) -> tuple[int, int]:
    """Sources and results of a group, in the forward role or an input gradient."""
    ends = problem.group_in, problem.group_out
    return ends if problem.role == "forward" else ends[::-1]


def sum_type(problem: Problem) -> Type:
    """What a problem's sums are in."""
    return computed(BY_DTYPE[problem.dtype])


def far_bytes(traffic_bytes: float) -> float:
    """How much of the traffic comes from memory: what is beyond the quarter of the last cache that stays there."""
    return max(0.0, traffic_bytes - target.cpu().l3_bytes / 4)


def memory_cycles(traffic_bytes: float) -> float:
    """What one thread waits for memory; of Zen 5, 24 GB/s."""
    return far_bytes(traffic_bytes) / 6


#: Nanoseconds that a thread waits for a line that another wrote, of a core with the same last cache and of one with
#: another, on a Zen 4: lines of long runs, and lines as they are needed.
IN_ORDER, SCATTERED = (4.5, 40.0), (12.0, 74.0)
_TOGETHER = 4  #: how much of the time the two share one, for each part that they do not


def handed_ns(handed_bytes: float, line_ns: tuple[float, float]) -> float:
    """What a thread waits for so much that another wrote, beyond what it waits for its own.

    Of cores that share their last cache, a thread's own would come from there too if it were far more than a second
    cache holds. Neither a program nor its guest system is told which two cores a virtual machine has for now, so a plan
    is chosen for both, weighed as they were met.
    """
    near_ns, far_ns = line_ns
    near_bytes = min(handed_bytes, max(0.0, 2 * target.cpu().l2_bytes - handed_bytes))
    return (_TOGETHER * near_bytes * near_ns + handed_bytes * far_ns) / ((_TOGETHER + 1) * _LINE_BYTES)


def turns_of(lanes: int, element: Type) -> int:
    """How many turns of a unit a vector takes."""
    return target.cpu().turns_of(lanes * element.bytes)


def priced(work: dict[str, float], usual: dict[str, float], halved: dict[str, float], turns: int) -> float:
    """What so many units cost, of which some have another price where vectors are computed in halves, in two turns."""
    if turns == 1:
        return sum(count * usual[unit] for unit, count in work.items())
    return sum(count * halved.get(unit, usual[unit]) for unit, count in work.items())


_WORTH_CYCLES = 14_000  #: 3.5 us of work, for which a thread is woken


def useful_threads(cycles: float, tasks: int = sys.maxsize) -> int:
    """The most threads that gain anything, and no more than tasks."""
    return max(1, min(tasks, int(cycles / _WORTH_CYCLES)))


class Asked(Protocol):
    """A problem with its tile and its cut."""

    @property
    def problem(self) -> Problem: ...

    @property
    def cycles(self) -> float:
        """Expected, of one thread."""

    @property
    def own_bytes(self) -> int:
        """A thread's workspace."""


def planned(name: str, asked: Asked, isa: ISA, tasks: int, **said: Any) -> Plan:
    """The plan of an algorithm whose threads share so many tasks; what else it says is the caller's."""
    return Plan(
        name,
        asked.problem,
        isa.name,
        expected_ns=asked.cycles / GHZ,
        tasks=shared_tasks(asked.cycles, tasks),
        workspace_bytes=asked.own_bytes,
        **said,
    )


def shared_tasks(cycles: float, tasks: int) -> int:
    """What a plan says of its tasks."""
    return tasks if cycles >= 2 * _WORTH_CYCLES else 0
