"""Random convolutions against the definition: ``python -m benchmarks.fuzz --cases 2000 --processes 2 --out fuzz.md``.

Every case runs on every instruction set and every algorithm that accepts it, on 1, 2 and 3 threads and with its tasks
backwards, between forbidden pages, in a child process that may crash. A part of them goes through the functionals
instead, with all words and modes of padding. Failures are made smaller and printed as code. The summary counts the runs
in every respect, each with the worst error as a part of its bound.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

import numpy as np

from lucid.kernels import target
from tests.kernels.convolution_fuzz import (
    LARGE,
    SMALL,
    Case,
    accepting,
    emptied,
    empty,
    random_case,
    run_case,
    smaller,
    valid,
)
from tests.kernels.guard import run_guarded
from tests.nn.functional.verb_fuzz import PLAIN, Verb, random_verb, run_verb

_CHUNK = 100  # cases of one child
_RUN_SECONDS = 60  # after which a run counts as one that ended its process
_VERBS, _EMPTY = 0.15, 0.01  # of the cases, those that go through the functionals, and those without samples


@dataclass(frozen=True, slots=True)
class Run:
    """A case on an instruction set by an algorithm, and at which end of its arrays the forbidden page is closest.

    With a ``verb`` it goes through the functional, which selects the algorithm.
    """

    case: Case
    isa: str
    algorithm: str
    where: Any
    verb: Verb = PLAIN


@dataclass(frozen=True, slots=True)
class Result:
    """``fault`` is empty if the run was right."""

    run: Run
    error: float
    fault: str


Job = tuple[Case, Verb]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What runs are asked for; none asks for all."""

    isa: str | None
    algorithm: str | None

    def runs(self, job: Job) -> Iterator[Run]:
        """Of a case, on every instruction set by every algorithm."""
        case, verb = job
        for isa in target.cpu().isas:
            if self.isa in (None, isa.name):
                for algorithm in ["functional"] if verb.used else planned(case, isa.name):
                    if algorithm != "reference" and self.algorithm in (None, algorithm):
                        yield Run(case, isa.name, algorithm, ("end", "start")[case.seed % 2], verb)


def planned(case: Case, isa: str) -> list[str]:
    """Algorithms for a case; if planning itself fails, its own name, so that the failure is one of the results."""
    if empty(case):
        return ["none"]
    try:
        return accepting(case, isa)
    except Exception:
        return ["planning"]


def attempt(run: Run) -> Result:
    """One run in this process."""
    try:
        if run.verb.used:
            outcome = run_verb(run.case, run.verb, run.isa, run.where)
        else:
            if run.algorithm == "planning":
                accepting(run.case, run.isa)
            outcome = run_case(run.case, run.isa, run.algorithm, run.where)
    except Exception as error:
        return Result(run, np.inf, f"{_title(run)}: {type(error).__name__}: {error}: {run.case!r}")
    return Result(run, outcome.error, "" if outcome.right else f"{outcome}{_by_verb(run)}")


def _title(run: Run) -> str:
    return f"{run.algorithm} on {run.isa}{_by_verb(run)}"


def _by_verb(run: Run) -> str:
    return f" as {run.verb!r}" if run.verb.used else ""


class Child:
    """A child process at work on some jobs, and again in a new one after a run that ends it."""

    def __init__(self, jobs: Sequence[Job], runs: Callable[[Job], Iterable[Run]]) -> None:
        self._jobs, self._runs, self._done = jobs, runs, 0
        self._start()

    def _start(self) -> None:
        self.pipe, sink = Pipe(duplex=False)
        self._begun: Run | None = None
        sys.stdout.flush()
        self._process = os.fork()
        if self._process == 0:
            self.pipe.close()
            with suppress(BrokenPipeError):
                self._work(sink)
            os._exit(0)
        sink.close()

    def _work(self, sink: Connection) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        every = (run for job in self._jobs for run in self._runs(job))
        for run in islice(every, self._done, None):
            sink.send(run)
            signal.alarm(_RUN_SECONDS)
            result = attempt(run)
            signal.alarm(0)
            sink.send((result.error, result.fault))

    def next(self) -> tuple[bool, Result | None]:
        """What there is to read: whether the child goes on, and a result if there is one."""
        try:
            message = self.pipe.recv()
        except EOFError:
            return self._ended()
        if isinstance(message, Run):
            self._begun = message
            return True, None
        assert self._begun is not None, "a result follows its run"
        result, self._begun = Result(self._begun, *message), None
        self._done += 1
        return True, result

    def _ended(self) -> tuple[bool, Result | None]:
        self.pipe.close()
        os.waitpid(self._process, 0)
        run = self._begun
        if run is None:
            return False, None
        self._done += 1
        self._start()
        return True, Result(run, np.inf, _crash(run))


def in_children(chunks: Iterator[Child], processes: int) -> Iterator[Result]:
    """The results of all, so many children at a time."""
    active = list(islice(chunks, processes))
    while active:
        ready = wait([child.pipe for child in active])
        for child in [child for child in active if child.pipe in ready]:
            goes_on, result = child.next()
            if result is not None:
                yield result
            if not goes_on:
                active.remove(child)
                active += islice(chunks, 1)


def again(run: Run) -> Result:
    """One run in a child."""
    return next(in_children(iter([Child([(run.case, run.verb)], lambda _: [run])]), 1))


def _crash(run: Run) -> str:
    """What ended the child."""

    def repeat() -> None:
        attempt(run)

    try:
        run_guarded(repeat)
    except AssertionError as error:
        return f"{_title(run)}: {error}: {run.case!r}"
    return f"{_title(run)}: ended its process once: {run.case!r}"


def reduced(run: Run, seconds: float = 20) -> Result:
    """The same failure on a smaller case: any simplification that still fails is taken, until none does."""
    best, end = again(run), time.monotonic() + seconds
    found = bool(best.fault) and not run.verb.used
    while found and time.monotonic() < end:
        found = False
        for case in smaller(best.run.case):
            if not valid(case) or run.algorithm not in planned(case, run.isa):
                continue
            tried = again(replace(run, case=case))
            if tried.fault:
                best, found = tried, True
                break
    return best


def jobs(rng: np.random.Generator, count: int, large: bool, role: str | None) -> Iterator[Job]:
    """Cases drawn one after the other, some of them for the functionals."""
    for _ in range(count):
        case = random_case(rng, LARGE if large else SMALL)
        verb = PLAIN
        if rng.random() < _VERBS:
            case, verb = random_verb(rng, case)
        elif rng.random() < _EMPTY:
            case = emptied(rng, case)
        if role in (None, case.role):
            yield case, verb


class Tally:
    """Runs counted in every respect, with what was wrong and the worst error."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0, 0.0])
        self.cases: set[Case] = set()
        self.faults: list[str] = []

    def add(self, result: Result) -> None:
        run, case = result.run, result.run.case
        self.cases.add(case)
        if result.fault:
            self.faults.append(result.fault)
        respects = {
            "role": case.role, "rank": str(case.spec.rank), "element type": case.dtype, "algorithm": run.algorithm,
            "instruction set": run.isa, "padding": f"{run.verb.mode} {run.verb.form}",
            "epilogue": case.epilogue.activation or ("other" if case.epilogue else "none"),
            "algorithm, role, rank": f"{run.algorithm} {case.role} {case.spec.rank}",
        }  # fmt: skip
        for respect, value in respects.items():
            row = self._rows[respect, value]
            row[0] += 1
            row[1] += bool(result.fault)
            row[2] = max(row[2], result.error)

    @property
    def runs(self) -> int:
        return int(sum(row[0] for (respect, _), row in self._rows.items() if respect == "role"))

    def text(self) -> str:
        """A table for each respect, in Markdown."""
        lines: list[str] = []
        last = ""
        for (respect, value), (runs, wrong, worst) in sorted(self._rows.items(), key=lambda entry: entry[0]):
            if respect != last:
                lines += ["", f"| {respect} | runs | wrong | worst error / bound |", "|---|---:|---:|---:|"]
                last = respect
            lines.append(f"| {value} | {runs:.0f} | {wrong:.0f} | {worst:.3g} |")
        return "\n".join(lines)


def head(tally: Tally, options: argparse.Namespace, seconds: float) -> str:
    """What ran, and how it went, in a paragraph."""
    limits, cases, wrong = "large" if options.large else "small", len(tally.cases), len(tally.faults)
    return (
        "# Random convolutions\n\n"
        f"{cases} {limits} geometries from seed {options.seed}, {tally.runs} runs, {wrong} wrong; each run on 1, 2 and "
        "3 threads, then with its tasks backwards, the same bits asked for, arrays and workspaces between forbidden "
        f"pages. Commit {_commit()}, {target.cpu().name}, {options.processes} processes, {seconds / 60:.1f} minutes.\n"
    )


def _commit() -> str:
    with suppress(OSError, subprocess.CalledProcessError):
        asked = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*")
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=300, help="geometries (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, metavar="N")
    parser.add_argument("--algorithm")
    parser.add_argument("--isa")
    parser.add_argument("--role")
    parser.add_argument("--large", action="store_true", help="cases of several blocks in every direction; slow")
    parser.add_argument("--failures", type=int, default=5, help="made smaller and printed, for each algorithm")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the summary here too")
    return parser.parse_args()


def _chunks(options: argparse.Namespace) -> Iterator[Child]:
    drawn = jobs(np.random.default_rng(options.seed), options.cases, options.large, options.role)
    wanted = Wanted(options.isa, options.algorithm)
    while chunk := list(islice(drawn, _CHUNK)):
        yield Child(chunk, wanted.runs)


def main() -> int:
    options, tally, begin = _arguments(), Tally(), time.monotonic()
    shown: dict[tuple[str, str], int] = defaultdict(int)
    said = begin
    for result in in_children(_chunks(options), options.processes):
        tally.add(result)
        key = (result.run.algorithm, result.run.case.role)
        if result.fault and shown[key] < options.failures:
            shown[key] += 1
            print("WRONG", reduced(result.run).fault or f"{result.fault} (not again)", flush=True)
        if time.monotonic() > said + 5:
            said = time.monotonic()
            done = f"{len(tally.cases)} of {options.cases} cases, {tally.runs} runs, {len(tally.faults)} wrong"
            print(f"{done}, {said - begin:.0f} s", file=sys.stderr, flush=True)
    summary = f"{head(tally, options, time.monotonic() - begin)}{tally.text()}\n"
    if tally.faults:
        summary += "\n".join(["\n## Wrong\n", *(f"- `{fault}`" for fault in tally.faults[:100]), ""])
    print(summary)
    if options.out:
        options.out.write_text(summary)
    return int(bool(tally.faults))


if __name__ == "__main__":
    sys.exit(main())
