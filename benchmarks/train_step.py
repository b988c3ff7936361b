"""Small programs in Lucid and in PyTorch, side by side: ``python -m benchmarks.train_step``.

A training step of a digits network, and one tiny convolution where only the overhead counts. As in
``lucid bench``: turns, medians of ratios round by round, and a check against PyTorch in float64. With ``--networks``
training steps of whole networks instead.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from lucid.cli.bench.programs import PROGRAMS, TRAININGS, Program
from lucid.cli.bench.report import Column, Header, Table, table_text, write_results
from lucid.cli.bench.turns import FULL, QUICK, Effort, check, ratios, take_turns
from lucid.cli.bench.worker import Worker

PEERS = ("lucid", "torch", "torch-pages")
COLUMNS = [
    Column("program", left=True),
    Column("Lucid µs"),
    Column("PyTorch µs"),
    Column("PyTorch ×"),
    Column("quartiles"),
    Column("paged ×"),
]


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


def cells(row: dict[str, Any]) -> list[str]:
    if row["faults"]:
        return [row["program"], "FAILED", "", "", "", ""]
    low, middle, high = row["ratio"]["torch"]
    return [
        row["program"],
        *(f"{row['median_us'][name]:.1f}" for name in ("lucid", "torch")),
        f"{middle:.2f}",
        f"{low:.2f}–{high:.2f}",
        f"{row['ratio']['torch-pages'][1]:.2f}",
    ]


def main() -> int:
    made = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=__doc__.partition("\n")[0])
    made.add_argument("--quick", action="store_true", help="few rounds: for a look, not for a figure")
    made.add_argument("--threads", type=int, default=2, metavar="N", help="threads of each library (default 2)")
    made.add_argument("--out", type=Path, metavar="FILE", help="write FILE.json and FILE.md")
    made.add_argument("--networks", action="store_true", help="training steps of whole networks")
    options = made.parse_args()
    rows = []
    with ExitStack() as stack:
        workers = {name: Worker(name, options.threads) for name in PEERS}
        for worker in workers.values():
            stack.callback(worker.close)
        header = Header.of(options.threads, {name: worker.ask("version") for name, worker in workers.items()})
        for program in TRAININGS if options.networks else PROGRAMS:
            print(program.name, file=sys.stderr, flush=True)
            rows.append(measure(program, workers, QUICK if options.quick else FULL))
    tables = [Table("networks" if options.networks else "programs", COLUMNS, list(map(cells, rows)))]
    faults = [f"{row['program']}, {name}: {text}" for row in rows for name, text in row["faults"].items()]
    print(table_text(header, tables, faults))
    if options.out:
        write_results(options.out, header, {"header": asdict(header), "rows": rows}, tables, faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
