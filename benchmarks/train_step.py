"""Programs in Lucid and in PyTorch, side by side: ``python -m benchmarks.train_step``.

A training step of a digits network, and one tiny convolution where only the overhead counts. As in
``lucid bench``: turns, medians of ratios round by round, and a check against PyTorch in float64. With ``--networks``
whole networks instead, inference and training steps, in some five minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from lucid.cli.bench.programs import INFERENCES, PROGRAMS, TRAININGS, Program
from lucid.cli.bench.report import Column, Header, Table, table_text, write_results
from lucid.cli.bench.turns import FULL, QUICK, Effort, check, geometric_mean, ratios, take_turns
from lucid.cli.bench.worker import Worker
from lucid.cli.progress import Screen

PEERS = ("lucid", "torch", "torch-pages")


class Unit(NamedTuple):
    """What times are written in."""

    symbol: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """What one run measures: a table a set of programs."""

    title: str
    unit: Unit
    sets: dict[str, Iterable[Program]]


SMALL = Report("Programs", Unit("µs", 1e-6), {"programs": PROGRAMS})
WHOLE = Report("Networks", Unit("ms", 1e-3), {"inference": INFERENCES, "training step": TRAININGS})


def measure(program: Program, workers: dict[str, Worker], effort: Effort) -> dict[str, Any]:
    """One program: check, then take turns."""
    if faults := check(program, True, workers, lambda file: workers["torch"].ask("oracle", program, file)):
        return {"program": program.name, "faults": faults}
    times = take_turns(workers, effort)
    found = ratios(times, "lucid")
    return {
        "program": program.name,
        "faults": {},
        "median_us": {name: median(values) * 1e6 for name, values in times.items()},
        "rounds": len(times["lucid"]),
        "ratio": {name: [ratio.low, ratio.median, ratio.high] for name, ratio in found.items()},
    }


def measured(report: Report, only: str, workers: dict[str, Worker], effort: Effort) -> Iterator[dict[str, Any]]:
    """Row after row, saying on stderr what is being done and what was found."""
    work = [(name, program) for name, chosen in report.sets.items() for program in chosen if only in program.name]
    screen, begin = Screen(sys.stderr), time.monotonic()
    for done, (name, program) in enumerate(work):
        label = f"{program.name}, {name}"
        left = f"{(time.monotonic() - begin) / done * (len(work) - done) / 60:.0f} min left" if done else ""
        screen.bar(label, done / len(work), left)
        row = {"set": name, **measure(program, workers, effort)}
        verdict = "FAILED" if row["faults"] else f"×{row['ratio']['torch'][1]:.2f}"
        screen.line(f"[{done + 1}/{len(work)}] {label}: {verdict}")
        yield row


def table(report: Report, name: str, rows: list[dict[str, Any]]) -> Table:
    """One set's rows as text cells, the geometric means last."""
    symbol, second = report.unit.symbol, report.unit.seconds * 1e6
    columns = [
        Column("program", left=True),
        Column(f"Lucid {symbol}"),
        Column(f"PyTorch {symbol}"),
        Column("PyTorch ×"),
        Column("quartiles"),
        Column("paged ×"),
    ]
    right = [row for row in rows if not row["faults"]]
    means = [f"{geometric_mean([row['ratio'][peer][1] for row in right]):.2f}" for peer in PEERS[1:] if right]
    total = ["geometric mean", "", "", means[0], "", means[1]] if right else None
    return Table(name, columns, [cells(row, second) for row in rows], total)


def cells(row: dict[str, Any], unit_us: float) -> list[str]:
    if row["faults"]:
        return [row["program"], "FAILED", "", "", "", ""]
    low, middle, high = row["ratio"]["torch"]
    return [
        row["program"],
        *(f"{row['median_us'][name] / unit_us:.4g}" for name in ("lucid", "torch")),
        f"{middle:.2f}",
        f"{low:.2f}–{high:.2f}",
        f"{row['ratio']['torch-pages'][1]:.2f}",
    ]


def main() -> int:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.train_step", description=(__doc__ or "").partition("\n")[0]
    )
    made.add_argument("--quick", action="store_true", help="few rounds: for a look, not for a figure")
    made.add_argument("--threads", type=int, default=2, metavar="N", help="threads of each library (default 2)")
    made.add_argument("--out", type=Path, metavar="FILE", help="write FILE.json and FILE.md")
    made.add_argument("--only", default="", metavar="TEXT", help="only the programs whose name contains TEXT")
    made.add_argument("--networks", action="store_const", const=WHOLE, default=SMALL, help="whole networks instead")
    options = made.parse_args()
    report: Report = options.networks
    with ExitStack() as stack:
        workers = {name: Worker(name, options.threads) for name in PEERS}
        for worker in workers.values():
            stack.callback(worker.close)
        header = Header.of(options.threads, {name: worker.ask("version") for name, worker in workers.items()})
        rows = list(measured(report, options.only, workers, QUICK if options.quick else FULL))
    sets = {name: [row for row in rows if row["set"] == name] for name in report.sets}
    tables = [table(report, name, chosen) for name, chosen in sets.items() if chosen]
    faults = [f"{row['program']}, {name}: {text}" for row in rows for name, text in row["faults"].items()]
    print(table_text(header, tables, faults))
    if options.out:
        write_results(options.out, report.title, header, {"header": asdict(header), "rows": rows}, tables, faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
