"""Random convolutions against the definition: ``python -m benchmarks.fuzz --cases 2000``.

Every case runs on every instruction set and every algorithm that accepts it, on 1, 2 and 3 threads, between forbidden
pages, in a child process that may crash. Failures are made smaller and printed as code. The summary has, by algorithm,
role, rank and instruction set, the number of runs and the worst error as a part of its bound.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lucid.kernels import target
from tests.kernels.convolution_fuzz import LARGE, SMALL, Case, accepting, random_case, run_case, smaller, valid
from tests.kernels.guard import run_guarded

_CHUNK = 200


@dataclass(frozen=True, slots=True)
class Run:
    """A case on an instruction set by an algorithm, and at which end of its arrays the forbidden page is closest."""

    case: Case
    isa: str
    algorithm: str
    where: Any


@dataclass(frozen=True, slots=True)
class Result:
    """``fault`` is empty if the run was right."""

    run: Run
    error: float
    fault: str


def attempt(run: Run) -> Result:
    """One run in this process."""
    try:
        if run.algorithm == "planning":
            accepting(run.case, run.isa)
        outcome = run_case(run.case, run.isa, run.algorithm, run.where)
    except Exception as error:
        return Result(run, np.inf, f"{run.algorithm} on {run.isa}: {type(error).__name__}: {error}: {run.case!r}")
    return Result(run, outcome.error, "" if outcome.right else str(outcome))


def in_child(runs: Sequence[Run]) -> Iterator[Result]:
    """Runs in a child process, again in a new one after a run that ends it."""
    first = 0
    while first < len(runs):
        for result in _one_child(runs[first:]):
            first += 1
            yield result
        if first < len(runs):
            yield Result(runs[first], np.inf, _crash(runs[first]))
            first += 1


def _one_child(runs: Sequence[Run]) -> Iterator[Result]:
    source, sink = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(source)
        with os.fdopen(sink, "wb") as pipe:
            for run in runs:
                result = attempt(run)
                pickle.dump((result.error, result.fault), pipe)
                pipe.flush()
        os._exit(0)
    os.close(sink)
    with os.fdopen(source, "rb") as pipe:
        for run in runs:
            try:
                error, fault = pickle.load(pipe)
            except EOFError:
                break
            yield Result(run, error, fault)
    os.waitpid(child, 0)


def _crash(run: Run) -> str:
    """What ended the child."""

    def again() -> None:
        run_case(run.case, run.isa, run.algorithm, run.where)

    try:
        run_guarded(again)
    except AssertionError as error:
        return f"{run.algorithm} on {run.isa}: {error}: {run.case!r}"
    return f"{run.algorithm} on {run.isa}: ended its process once: {run.case!r}"


def reduced(run: Run, seconds: float = 20) -> Result:
    """The same failure on a smaller case: any simplification that still fails is taken, until none does."""
    best, end = next(in_child([run])), time.monotonic() + seconds
    found = bool(best.fault)
    while found and time.monotonic() < end:
        found = False
        for case in smaller(best.run.case):
            if not valid(case) or run.algorithm not in planned(case, run.isa):
                continue
            tried = next(in_child([Run(case, run.isa, run.algorithm, run.where)]))
            if tried.fault:
                best, found = tried, True
                break
    return best


def runs_of(case: Case, number: int, arguments: argparse.Namespace) -> Iterator[Run]:
    for isa in target.cpu().isas:
        if arguments.isa in (None, isa.name):
            for algorithm in planned(case, isa.name):
                if algorithm != "reference" and arguments.algorithm in (None, algorithm):
                    yield Run(case, isa.name, algorithm, ("end", "start")[number % 2])


def planned(case: Case, isa: str) -> list[str]:
    """Algorithms for a case; if planning itself fails, its own name, so that the failure is one of the results."""
    try:
        return accepting(case, isa)
    except Exception:
        return ["planning"]


def summary(results: Sequence[Result]) -> str:
    table: dict[tuple[str, str, int, str], list[Result]] = defaultdict(list)
    for result in results:
        case = result.run.case
        table[result.run.algorithm, case.role, case.spec.rank, result.run.isa].append(result)
    lines = [f"{'algorithm':14}{'role':13}{'rank':>4}  {'isa':8}{'runs':>6}{'wrong':>7}   worst error / bound"]
    for (algorithm, role, rank, isa), rows in sorted(table.items()):
        wrong = sum(bool(r.fault) for r in rows)
        worst = max(r.error for r in rows)
        lines.append(f"{algorithm:14}{role:13}{rank:4}  {isa:8}{len(rows):6}{wrong:7}   {worst:.3g}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--algorithm")
    parser.add_argument("--isa")
    parser.add_argument("--role")
    parser.add_argument("--large", action="store_true", help="cases of several blocks in every direction; slow")
    parser.add_argument("--failures", type=int, default=5, help="made smaller and printed, for each algorithm")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    limits = LARGE if arguments.large else SMALL
    cases = [random_case(rng, limits) for _ in range(arguments.cases)]
    if arguments.role:
        cases = [case for case in cases if case.role == arguments.role]
    runs = [run for number, case in enumerate(cases) for run in runs_of(case, number, arguments)]
    results: list[Result] = []
    shown: dict[tuple[str, str], int] = defaultdict(int)
    for start in range(0, len(runs), _CHUNK):
        for result in in_child(runs[start : start + _CHUNK]):
            results.append(result)
            key = (result.run.algorithm, result.run.case.role)
            if result.fault and shown[key] < arguments.failures:
                shown[key] += 1
                print("WRONG", reduced(result.run).fault or f"{result.fault} (not again)", flush=True)
        wrong = sum(bool(r.fault) for r in results)
        print(f"{len(results)} of {len(runs)} runs, {wrong} wrong", file=sys.stderr, flush=True)
    print(summary(results))
    return int(any(r.fault for r in results))


if __name__ == "__main__":
    sys.exit(main())
