"""Libraries taking turns on one problem, and what the rounds add up to.

The machines this runs on are shared: a library was seen twice as slow minutes later. So only what was timed side by
side is compared, a ratio a round, and the figure is the median of those.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import exp, log
from statistics import median, quantiles
from typing import Protocol

from lucid.cli.bench.worker import Worker, WorkerError

Oracle = Callable[[str], None]

# What the last turn left behind in the system (a thread being stopped, an answer being read) is over by then.
SETTLE_S = 0.001
# Calls longer than this do not profit from a call before the clock starts.
WARM_BELOW_S = 0.05


class Problem(Protocol):
    """What can be measured: peers know how to prepare it."""

    def tolerances(self) -> dict[str, float]:
        """Largest admitted error of each result, relative to the result's root mean square."""
        ...


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure one problem: until both are reached, or the ceiling, and never less than three rounds."""

    rounds: int
    seconds: float
    ceiling_s: float
    turn_s: float = 0.02


FULL = Effort(rounds=15, seconds=2.0, ceiling_s=15.0)
QUICK = Effort(rounds=5, seconds=0.2, ceiling_s=2.0)


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median and the quartiles of one library's time over another's."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Ratio:
        low, _, high = quantiles(values, n=4, method="inclusive")
        return cls(median(values), low, high)


def check(problem: Problem, backward: bool, workers: dict[str, Worker], write_oracle: Oracle) -> dict[str, str]:
    """Prepare the problem in every library and compare with float64; what is wrong, by library.

    ``write_oracle`` writes the exact results to the file of the name it is given, as ``numpy.savez`` does.
    """
    faults: dict[str, str] = {}
    limits = problem.tolerances()
    with tempfile.TemporaryDirectory() as folder:
        oracle = f"{folder}/oracle.npz"
        write_oracle(oracle)
        for name, worker in workers.items():
            try:
                worker.ask("prepare", problem, backward)
                found = worker.ask("check", oracle)
            except WorkerError as error:
                faults[name] = str(error)
                continue
            if wrong := [f"{key} by {off:.1e}" for key, off in found.items() if not off <= limits[key]]:
                faults[name] = f"off by more than {limits}: {', '.join(wrong)}"
    return faults


def take_turns(workers: dict[str, Worker], effort: Effort) -> dict[str, list[float]]:
    """Seconds a call, by library, a value a round. Every worker has the problem prepared."""
    times: dict[str, list[float]] = {name: [] for name in workers}
    last = dict.fromkeys(workers, 0.0)
    with _only_one_runs(workers):
        begin = time.perf_counter()
        for done in _rounds(effort, begin):
            # Every other round runs backwards, so that no library always follows the same one.
            for name in workers if done % 2 == 0 else reversed(workers):
                last[name] = _turn(workers[name], effort.turn_s, last[name] < WARM_BELOW_S)
                times[name].append(last[name])
    return times


@contextmanager
def _only_one_runs(workers: dict[str, Worker]) -> Iterator[None]:
    """Every library is stopped but in its turn: their thread pools spin for milliseconds after work, some for good."""
    for worker in workers.values():
        worker.pause()
    try:
        yield
    finally:
        for worker in workers.values():
            worker.resume()


def _turn(worker: Worker, at_least_s: float, warm: bool) -> float:
    time.sleep(SETTLE_S)
    worker.resume()
    taken: float = worker.ask("turn", at_least_s, warm)
    worker.pause()
    return taken


def _rounds(effort: Effort, begin: float) -> Iterator[int]:
    done = 0
    while True:
        elapsed = time.perf_counter() - begin
        enough = done >= effort.rounds and elapsed >= effort.seconds
        if done >= 3 and (enough or elapsed >= effort.ceiling_s):
            return
        yield done
        done += 1


def ratios(times: dict[str, list[float]], base: str) -> dict[str, Ratio]:
    """Every other library's time over the base's, round by round: above 1 where the base is faster."""
    return {
        name: Ratio.of([other / own for other, own in zip(values, times[base], strict=True)])
        for name, values in times.items()
        if name != base
    }


def geometric_mean(values: list[float]) -> float:
    return exp(sum(map(log, values)) / len(values))
