"""Tables of results, for the terminal and for benchmarks/results/."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lucid.cli.bench.machine import busy_cores, commit, cpu_name

# With others at work a thread pool's barrier waits for a core, and times of small layers grow a hundredfold.
BUSY = 0.25


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, and whether the cells below it stand left."""

    title: str
    left: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Text cells in rows, and perhaps a row that sums them up."""

    title: str
    columns: list[Column]
    rows: list[list[str]]
    total: list[str] | None = None

    @property
    def all_rows(self) -> list[list[str]]:
        return [*self.rows, *([self.total] if self.total else [])]


@dataclass(frozen=True, slots=True)
class Header:
    """Where and with what the figures were taken."""

    cpu: str
    threads: int
    versions: dict[str, str]
    commit: str
    date: str
    load: float

    @classmethod
    def of(cls, threads: int, versions: dict[str, str], isa: str | None = None) -> Header:
        """Taken before the work begins: ``load`` is how many cores others keep busy; all are held to ``isa``."""
        load = round(busy_cores(), 2)
        cpu = cpu_name() + (f", held to {isa}" if isa else "")
        return cls(cpu, threads, versions, commit(), datetime.now(UTC).date().isoformat(), load)

    def line(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        place = f"{self.cpu}, {self.threads} threads, {self.load} cores busy before"
        doubt = "" if self.load < BUSY else "; THE MACHINE WAS BUSY, these figures do not hold"
        return f"{place}; {versions}; commit {self.commit}; {self.date}{doubt}"


def table_lines(table: Table, width: int) -> list[str]:
    """The table for a terminal: where columns are too many, the quartiles go first, then those at the right."""
    keep = list(range(len(table.columns)))
    while len(keep) > 2 and sum(_width(table, i) + 2 for i in keep) - 2 > width:
        quartiles = [i for i in keep if table.columns[i].title == "quartiles"]
        keep.remove(quartiles[0] if quartiles else keep[-1])
    heads = [table.columns[i].title.split(" ") for i in keep]
    depth = max(map(len, heads))
    lines = [[*[""] * (depth - len(head)), *head] for head in heads]
    body = [list(line) for line in zip(*lines, strict=True)]
    rule = "  ".join("─" * _width(table, i) for i in keep)
    printed = [_line(table, keep, cells) for cells in body]
    rows = [_line(table, keep, [row[i] for i in keep]) for row in table.all_rows]
    if table.total:
        rows.insert(-1, rule)
    return [table.title, *printed, rule, *rows]


def _width(table: Table, i: int) -> int:
    return max(*map(len, table.columns[i].title.split(" ")), *(len(row[i]) for row in table.all_rows), 0)


def _line(table: Table, keep: list[int], cells: list[str]) -> str:
    padded = [
        cell.ljust(_width(table, i)) if table.columns[i].left else cell.rjust(_width(table, i))
        for i, cell in zip(keep, cells, strict=True)
    ]
    return "  ".join(padded).rstrip()


def table_text(header: Header, tables: list[Table], faults: list[str]) -> str:
    """Everything for the terminal, as wide as it is."""
    width = shutil.get_terminal_size((100, 24)).columns
    parts = [header.line(), *("\n".join(table_lines(table, width)) for table in tables)]
    return "\n\n".join(parts + (["FAILED\n" + "\n".join(faults)] if faults else []))


def _markdown(table: Table) -> str:
    head = "| " + " | ".join(column.title for column in table.columns) + " |"
    rule = "|" + "|".join("---" if column.left else "---:" for column in table.columns) + "|"
    total = [[f"**{cell}**" if cell else "" for cell in table.total]] if table.total else []
    rows = ["| " + " | ".join(row) + " |" for row in [*table.rows, *total]]
    return "\n".join([f"## {table.title}", "", head, rule, *rows])


def write_results(
    path: Path, title: str, header: Header, data: dict[str, Any], tables: list[Table], faults: list[str]
) -> list[Path]:
    """The same figures twice: ``path`` with .json for programs, with .md for people."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    note = "× is another library's time over Lucid's, the median over rounds of taking turns: above 1, Lucid is faster."
    parts = [f"# {title}", header.line(), note, *map(_markdown, tables)]
    if faults:
        parts.append("## failed\n\n" + "\n".join(f"- {fault}" for fault in faults))
    path.with_suffix(".md").write_text("\n\n".join(parts) + "\n", "utf-8")
    return [path.with_suffix(".json"), path.with_suffix(".md")]
