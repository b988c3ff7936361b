"""Which algorithm computes a problem: every candidate is asked, the one expected to be fastest is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache
from importlib import import_module
from types import ModuleType

from lucid.core.errors import PlanError
from lucid.kernels import epilogue, jit, ledger, precision, target, tuning, upstream
from lucid.kernels.algorithms.base import Executable
from lucid.kernels.casting import HALF
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Plan, Problem, Role
from lucid.kernels.settings import Precision
from lucid.kernels.tuning import Tuning

#: Asked in this order; on a tie the first wins. Each is a module, loaded when it is first asked for: what is on record
#: needs one of them.
ALGORITHMS = (
    "depthwise", "sliding", "channel_lanes", "mixing", "lines", "gemm", "whole", "phase_split", "overlap_add",
    "weight_grad", "tap_by_tap", "winograd", "winograd_rows", "winograd_planes", "folded", "fast_fir",
    "strassen", "fft", "reference",
)  # fmt: skip

#: What an algorithm computes that does not say so.
_ALL_ROLES: tuple[Role, ...] = ("forward", "grad_input", "grad_weight")
_USUAL_DTYPES = ("float32", "float64")
#: How long plans take over what the cost models say, which were fitted with vectors of 64 bytes, where they have fewer.
#: Measured with AVX2 on 64 layers, over what it was for dense products.
_OVER_MODEL: dict[int, dict[tuple[str, Role], float]] = {
    32: {
        ("winograd", "grad_weight"): 0.7,
        ("fft", "forward"): 0.95,
        ("fft", "grad_weight"): 0.7,
        ("channel_lanes", "forward"): 0.8,
        ("channel_lanes", "grad_input"): 0.85,
        ("channel_lanes", "grad_weight"): 0.7,
    }
}
_WIDENED_NS, _WIDENED_BYTE_NS = 15_000.0, 0.07  # of half precision, through copies: their calls, a byte
#: Times another plan's expected time, and so many ns more, below which a plan is not sure to be slower.
_SURE, _SURE_NS = 1.04, 1000.0


@cache
def algorithm_named(name: str) -> ModuleType:
    """The module of one of ``ALGORITHMS``."""
    return import_module(f"lucid.kernels.algorithms.{name}")


def candidates(problem: Problem, isa: ISA) -> tuple[list[Plan], dict[str, str]]:
    """The plans of all algorithms that accept the problem, fastest first, and why the others of its role refuse."""
    plans, refusals = [], {}
    for algorithm in map(algorithm_named, ALGORITHMS):
        if problem.role not in _roles(algorithm):
            continue
        reason = _refuses(algorithm, problem, isa)
        if reason is None:
            plans.append(_planned(algorithm, problem, isa))
        else:
            refusals[algorithm.name] = reason
    return sorted(plans, key=lambda plan: plan.shared_ns), refusals


def error_growth(plan: Plan) -> float:
    """A result is within so many times the bound of direct summation, where that is largest in its channel."""
    growth: Callable[[Plan], float] | None = getattr(algorithm_named(plan.algorithm), "error_growth", None)
    return growth(plan) if growth is not None else 1.0


def _roles(algorithm: ModuleType) -> tuple[Role, ...]:
    roles: tuple[Role, ...] = getattr(algorithm, "roles", _ALL_ROLES)
    return roles


def _planned(algorithm: ModuleType, problem: Problem, isa: ISA) -> Plan:
    """An algorithm's plan, with a pass after it for what it leaves undone: an epilogue, the bias's gradient."""
    fuses: Callable[[Problem], bool] | None = getattr(algorithm, "fuses", None)
    if not problem.epilogue or (fuses is not None and fuses(problem)):
        plan = _scaled(algorithm.plan(problem, isa), isa)
        if plan.sums_upstream or not problem.sums:
            return plan
    plan = _scaled(algorithm.plan(problem.plain, isa), isa)
    again_ns = upstream.pass_ns(problem) if problem.sums else epilogue.pass_ns(problem)
    return replace(plan, problem=problem, expected_ns=plan.expected_ns + again_ns, passes_after=True)


def _scaled(plan: Plan, isa: ISA) -> Plan:
    factor = _OVER_MODEL.get(isa.vector_bytes, {}).get((plan.algorithm, plan.problem.role), 1.0)
    return plan if factor == 1 else replace(plan, expected_ns=plan.expected_ns * factor)


def _refuses(algorithm: ModuleType, problem: Problem, isa: ISA) -> str | None:
    """Why an algorithm cannot compute a problem: precision, an element type it does not know, reasons of its own."""
    known: tuple[str, ...] = getattr(algorithm, "dtypes", _USUAL_DTYPES)
    if problem.dtype not in known:
        return f"it computes {' and '.join(known)}, not {problem.dtype}"
    if precision.get_precision() == "strict" and hasattr(algorithm, "error_growth"):
        return precision.STRICT
    reason: str | None = algorithm.refuses(problem, isa)
    return reason


def narrow_pays(problem: Problem, isa: ISA, algorithm: str | None = None) -> bool:
    """Whether a half precision problem is computed as it is, sooner than widened copies of its arrays in float32.

    It always is by the algorithm that float32 would take, if that reads it. An algorithm that is asked for by name is
    given what it can read.
    """
    plans = candidates(problem, isa)[0]
    if algorithm is not None or not plans:
        return any(plan.algorithm == algorithm for plan in plans)
    wide = candidates(replace(problem, dtype="float32"), isa)[0][0]
    if any(plan.algorithm == wide.algorithm for plan in plans):
        return True
    return plans[0].expected_ns <= wide.expected_ns + _WIDENED_NS + _WIDENED_BYTE_NS * problem.traffic_bytes


def choose(problem: Problem, isa: ISA, algorithm: str | None = None) -> Plan:
    """The plan to run: the one that a tuning table names, else the one expected to be fastest.

    ``algorithm`` asks for one by name. Raises: PlanError if there is none of that name or it refuses the problem.
    """
    if algorithm is not None:
        return _named(problem, isa, algorithm)
    return _tuned(problem, isa) or _fastest(problem, isa)


def _fastest(problem: Problem, isa: ISA) -> Plan:
    """The one expected to be fastest; in half precision float32's algorithm, if it is not expected to lose much to it.

    That takes no longer than in float32, whereas models of two algorithms differ by what they err.
    """
    found = _worth_asking(problem, isa)
    least, _, first = min(found, key=lambda entry: entry[:2])
    near = [plan for ns, _, plan in found if ns <= _SURE * least + _SURE_NS]
    if problem.dtype not in HALF or len(near) == 1:
        return first
    usual = _fastest(replace(problem, dtype="float32"), isa).algorithm
    return next((plan for plan in near if plan.algorithm == usual), first)


def _worth_asking(problem: Problem, isa: ISA) -> list[tuple[float, int, Plan]]:
    """Expected times and plans. Who cannot be faster than another is not asked for one."""
    found: list[tuple[float, int, Plan]] = []
    modules = list(map(algorithm_named, ALGORITHMS))
    for least, place in sorted((_least_ns(module, problem, isa), place) for place, module in enumerate(modules)):
        algorithm = modules[place]
        hopeless = any(least > ns for ns, *_ in found)
        if problem.role in _roles(algorithm) and not hopeless and _refuses(algorithm, problem, isa) is None:
            plan = _planned(algorithm, problem, isa)
            found.append((plan.shared_ns, place, plan))
    return found


def _least_ns(algorithm: ModuleType, problem: Problem, isa: ISA) -> float:
    least: Callable[[Problem, ISA], float] | None = getattr(algorithm, "least_ns", None)
    return least(problem.plain, isa) if least is not None else 0.0


def _named(problem: Problem, isa: ISA, name: str) -> Plan:
    if name not in ALGORITHMS:
        raise PlanError(f"lucid.kernels: algorithm={name!r} does not exist; there are {', '.join(ALGORITHMS)}")
    asked = algorithm_named(name)
    roles = _roles(asked)
    if problem.role not in roles:
        reason: str | None = f"it computes {' and '.join(roles)}, not {problem.role}"
    else:
        reason = _refuses(asked, problem, isa)
    if reason is not None:
        raise PlanError(f"lucid.kernels: algorithm={name!r} cannot compute this: {reason}")
    return _planned(asked, problem, isa)


def _tuned(problem: Problem, isa: ISA) -> Plan | None:
    """The plan that was measured to be fastest, if the table in force has the problem and the plan is allowed now."""
    table = tuning.in_force()
    found = table.choice(problem, isa.name) if table else None
    if table is None or found is None:
        return None
    for plan in candidates(problem, isa)[0]:
        if plan.algorithm == found.algorithm:
            return replace(plan, why=f"measured, says the tuning file {table.source}: {found}")
    return None


@lru_cache(maxsize=4096)
def _executable(
    problem: Problem, isa_name: str, algorithm: str | None, allowed: Precision, tuned: Tuning | None
) -> Executable:
    return bound(problem, algorithm)


def decided(problem: Problem, isa: ISA, algorithm: str | None = None) -> Plan:
    """What ``choose`` says, now or in an earlier process: nothing is weighed that is on record."""
    if tuning.in_force():
        return choose(problem, isa, algorithm)
    question = "plan", problem, isa.name, algorithm, precision.get_precision()
    decision = ledger.decided(question, lambda: choose(problem, isa, algorithm).decision)
    return Plan.recalled(problem, isa.name, decision)


def stays_narrow(problem: Problem, isa: ISA, algorithm: str | None = None) -> bool:
    """What ``narrow_pays`` says, now or in an earlier process."""
    question = "narrow", problem, isa.name, algorithm, precision.get_precision()
    stays: bool = ledger.decided(question, lambda: narrow_pays(problem, isa, algorithm))
    return stays


def bound(problem: Problem, algorithm: str | None = None) -> Executable:
    """The plan for a problem on the current instruction set, bound anew."""
    isa = target.isa()
    plan = decided(problem, isa, algorithm)
    module = algorithm_named(plan.algorithm)
    with jit.together():
        if not plan.passes_after:
            made: Executable = module.bind(plan, isa)
            return made
        plain = module.bind(replace(plan, problem=problem.plain, passes_after=False), isa)
    return upstream.after(plain, problem.transposed) if problem.sums else epilogue.after(plain, problem.epilogue)


def executable(problem: Problem, algorithm: str | None = None) -> Executable:
    """The bound plan for a problem on the current instruction set, planned and compiled once."""
    return _executable(problem, target.isa().name, algorithm, precision.get_precision(), tuning.in_force())
