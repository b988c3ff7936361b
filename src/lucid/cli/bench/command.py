"""``lucid bench``: layers in Lucid and in its peers, side by side on this machine.

The libraries take turns in processes of their own; a row's figure is the median over the rounds of a peer's time over
Lucid's (above 1: Lucid is faster), with its quartiles. Results are first checked against float64 on the same data: a
wrong row is a failure and has no figure. The roofline column is the time no direct algorithm can beat, at the
best multiply-add rate and copy bandwidth of the run, as a share of Lucid's time; Winograd can pass 100 %. For the
column reached the peaks are those right before and after the row, and writing is held to the rate of filling memory.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from lucid.cli.bench.peers import PEERS
from lucid.cli.bench.problem import Layer, suite
from lucid.cli.bench.report import Header, Table, table_text, write_results
from lucid.cli.bench.rows import MODES, Row, hold_to_best, measure, table
from lucid.cli.bench.turns import FULL, QUICK
from lucid.cli.bench.worker import Worker
from lucid.cli.errors import CommandError
from lucid.cli.progress import Screen
from lucid.kernels.runtime.threads import set_num_threads
from lucid.kernels.target import cores, using

WRONG_RESULTS = 1
INTERRUPTED = 130
TITLES = {
    "layers": "Layers",
    "heldout": "Held-out layers",
    "drawn": "Layers drawn at random",
}  #: of the result files, by suite


def bench(options: argparse.Namespace) -> int:
    """Run the command; its exit status."""
    layers = list(suite(options.only, options.suite))
    if not layers:
        raise CommandError(f"no layer's name contains {options.only!r}; see them all with: lucid bench --list")
    if options.list:
        print("\n".join(layer.name for layer in layers))
        return 0
    peers = able_peers(options.base, options.peers.split(",") if options.peers else [], options.isa)
    rows: list[Row] = []
    status = 0
    with ExitStack() as stack:
        if options.isa:
            stack.enter_context(using(options.isa))  # the roofline's kernels
        workers = _started(peers, options.threads or cores(), options.isa, stack)
        versions = {name: worker.ask("version") for name, worker in workers.items()}
        header = Header.of(options.threads or cores(), versions, options.isa)
        try:
            for row in measured(options, layers, workers):
                rows.append(row)
        except KeyboardInterrupt:
            status = INTERRUPTED
    hold_to_best(rows, layers, options.base)
    tables = [table(rows, mode, options.base, peers) for mode in MODES if any(row.mode == mode for row in rows)]
    faults = [f"{row.layer}, {row.mode}, {name}: {text}" for row in rows for name, text in row.faults.items()]
    print(table_text(header, tables, faults))
    if options.out and rows and not status:
        _write(options, header, rows, tables, faults)
    return status or (WRONG_RESULTS if faults else 0)


def able_peers(base: str, asked: list[str], isa: str | None = None) -> list[str]:
    """The base and the libraries asked for that are installed; of the others, stderr says how to install them.

    With an ``isa``, only those that can be held to it.

    Raises: CommandError if there is no library of a name, or the base is not installed.
    """
    names = list(dict.fromkeys([base, *asked]))
    if unknown := [name for name in names if name not in PEERS]:
        raise CommandError(f"there is no peer {', '.join(unknown)}; choose from {', '.join(PEERS)}")
    missing = {name: packages for name in names if (packages := PEERS[name].missing())}
    if base in missing:
        raise CommandError(f"{PEERS[base].title} is not installed; get it with: pip install {' '.join(missing[base])}")
    for name, packages in missing.items():
        print(f"without {PEERS[name].title}, not installed: pip install {' '.join(packages)}", file=sys.stderr)
    free = [name for name in names if isa and isa not in PEERS[name].held and name not in missing]
    for name in free:
        print(f"without {PEERS[name].title}, which nothing holds to {isa}", file=sys.stderr)
    return [name for name in names if name not in missing and name not in free]


def _started(peers: list[str], threads: int, isa: str | None, stack: ExitStack) -> dict[str, Worker]:
    set_num_threads(threads)
    workers = {}
    for name in peers:
        workers[name] = Worker(name, threads, isa)
        stack.callback(workers[name].close)
    return workers


def measured(options: argparse.Namespace, layers: list[Layer], workers: dict[str, Worker]) -> Iterator[Row]:
    """Row after row, saying on stderr what is being done and what was found."""
    modes = ["forward"] if options.forward_only else list(MODES)
    effort, screen = QUICK if options.quick else FULL, Screen(sys.stderr)
    work = [(layer, mode) for mode in modes for layer in layers]
    begin = time.monotonic()
    for done, (layer, mode) in enumerate(work):
        left = f"{(time.monotonic() - begin) / done * (len(work) - done) / 60:.0f} min left" if done else ""
        screen.bar(f"{layer.short_name}, {mode}", done / len(work), left)
        row = measure(layer, mode, workers, options.base, effort)
        screen.line(f"[{done + 1}/{len(work)}] {layer.short_name}, {mode}: {_verdict(row)}")
        yield row


def _verdict(row: Row) -> str:
    """A finished row in a line: what failed, and the ratios."""
    faults = [f"{name} FAILED" for name in row.faults]
    ratios = [f"{name} ×{ratio.median:.2f}" for name, ratio in row.ratio.items()]
    return "  ".join(faults + ratios) or f"{next(iter(row.median_s.values())) * 1e3:.4g} ms"


def _write(
    options: argparse.Namespace, header: Header, rows: list[Row], tables: list[Table], faults: list[str]
) -> None:
    """The result files; the picture too where Matplotlib is there to draw it."""
    records: list[dict[str, Any]] = [asdict(row) for row in rows]
    data = {"header": asdict(header), "base": options.base, "rows": records}
    title = TITLES[options.suite] + (f", held to {options.isa.upper()}" if options.isa else "")
    files = write_results(options.out, title, header, data, tables, faults)
    if find_spec("matplotlib") is None:
        print("no picture without Matplotlib: pip install matplotlib", file=sys.stderr)
    elif any(row.ratio for row in rows):
        from lucid.cli.bench.picture import save

        files.append(save(data, options.out))
    print(f"\nwritten: {', '.join(str(file) for file in files)}")
