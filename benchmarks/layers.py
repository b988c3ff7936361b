"""Every layer of suite.json in Lucid and in its peers, side by side: ``python -m benchmarks.layers``.

The libraries take turns in processes of their own; a row's figure is the median over the rounds of a peer's time over
Lucid's (above 1: Lucid is faster), with its quartiles. Results are first checked against PyTorch in float64 on the same
data: a wrong row is a failure and has no figure. The roofline column is the time no direct algorithm can beat, at the
multiply-add rate and the copy bandwidth measured beside the row, as a share of Lucid's time; Winograd can pass 100 %.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers import PEERS
from benchmarks.problem import Layer, suite
from benchmarks.report import Column, Header, Table, table_text, write_results
from benchmarks.turns import FULL, ORACLE, QUICK, Effort, Ratio, check, geometric_mean, ratios, take_turns
from benchmarks.worker import Worker
from lucid.kernels import roofline
from lucid.kernels.runtime.threads import set_num_threads

MODES = {"forward": False, "forward+backward": True}


@dataclass(slots=True)
class Row:
    """What was measured of one layer. ``faults`` names each library that failed or was wrong, and how."""

    layer: str
    mode: str
    gflop: float
    median_s: dict[str, float] = field(default_factory=dict)
    ratio: dict[str, Ratio] = field(default_factory=dict)
    rounds: int = 0
    roofline: float | None = None
    peak_gflop_per_s: float = 0.0
    copy_gb_per_s: float = 0.0
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def fastest(self) -> Ratio | None:
        """The ratio of whichever peer is fastest here."""
        return min(self.ratio.values(), key=lambda ratio: ratio.median, default=None)


def measure(layer: Layer, mode: str, workers: dict[str, Worker], base: str, effort: Effort) -> Row:
    """One row: check, then take turns."""
    backward = MODES[mode]
    row = Row(layer.short_name, mode, layer.flops * (3 if backward else 1) / 1e9)
    able = {name: worker for name, worker in workers.items() if PEERS[name].gradients or not backward}
    row.faults = check(layer, backward, able)
    if base in row.faults:
        return row
    peaks = roofline.measure()
    times = take_turns({name: worker for name, worker in able.items() if name not in row.faults}, effort)
    row.median_s = {name: median(values) for name, values in times.items()}
    row.rounds = len(times[base])
    row.ratio = ratios(times, base)
    row.peak_gflop_per_s, row.copy_gb_per_s = peaks.gflop_per_s, peaks.copy_gb_per_s
    row.roofline = layer.limit_s(peaks, backward) / row.median_s[base]
    return row


def table(rows: list[Row], mode: str, base: str, peers: list[str]) -> Table:
    """The rows of one mode as text cells, the geometric means last."""
    shown = [name for name in peers if name != base and (mode == "forward" or PEERS[name].gradients)]
    columns = [Column("layer", left=True), Column("GFLOP"), Column(f"{PEERS[base].title} ms"), Column("roofline")]
    columns += [Column(f"{PEERS[name].title} ×") for name in shown]
    columns[4:5] += [Column("quartiles")] if shown else []
    columns += [Column("fastest ×")] if len(shown) > 1 else []
    chosen = [row for row in rows if row.mode == mode]
    means = ["geometric mean", "", "", ""] + [_mean([row.ratio.get(name) for row in chosen]) for name in shown]
    means[5:5] = [""] if shown else []
    means += [_mean([row.fastest for row in chosen])] if len(shown) > 1 else []
    body = [_cells(row, base, shown) for row in chosen]
    return Table(mode, columns, body, means)


def _cells(row: Row, base: str, shown: list[str]) -> list[str]:
    if base in row.faults:
        return [row.layer, f"{row.gflop:.3g}", "FAILED", *[""] * (1 + len(shown) + bool(shown) + (len(shown) > 1))]
    cells = [row.layer, f"{row.gflop:.3g}", f"{row.median_s[base] * 1e3:.4g}", f"{row.roofline:.0%}"]
    for place, name in enumerate(shown):
        ratio = row.ratio.get(name)
        cells.append(f"{ratio.median:.2f}" if ratio else "failed")
        if place == 0:
            cells.append(f"{ratio.low:.2f}–{ratio.high:.2f}" if ratio else "")
    if len(shown) > 1:
        cells.append(f"{row.fastest.median:.2f}" if row.fastest else "")
    return cells


def _mean(found: list[Ratio | None]) -> str:
    values = [ratio.median for ratio in found if ratio]
    return f"{geometric_mean(values):.2f}" if values else ""


def run(options: argparse.Namespace, layers: list[Layer], peers: list[str]) -> tuple[Header, list[Row]]:
    """Measure everything, saying what is being done on stderr."""
    set_num_threads(options.threads)
    modes = ["forward"] if options.forward_only else list(MODES)
    effort = QUICK if options.quick else FULL
    rows = []
    with ExitStack() as stack:
        workers = {name: Worker(name, options.threads) for name in peers}
        for worker in workers.values():
            stack.callback(worker.close)
        header = Header.of(options.threads, {name: worker.ask("version") for name, worker in workers.items()})
        for done, (layer, mode) in enumerate(_plan(layers, modes)):
            _say(f"[{done + 1}/{len(layers) * len(modes)}] {layer.short_name}, {mode} ")
            rows.append(measure(layer, mode, workers, options.base, effort))
            _say(_verdict(rows[-1]) + "\n")
    return header, rows


def _plan(layers: list[Layer], modes: list[str]) -> Iterator[tuple[Layer, str]]:
    for mode in modes:
        for layer in layers:
            yield layer, mode


def _verdict(row: Row) -> str:
    """One line on a finished row: what failed, and the ratios."""
    faults = [f"{name} FAILED" for name in row.faults]
    return "  ".join(faults + [f"{name} ×{ratio.median:.2f}" for name, ratio in row.ratio.items()])


def _say(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.layers", description=__doc__.partition("\n")[0])
    made.add_argument("--only", metavar="TEXT", help="only the layers whose name contains TEXT")
    made.add_argument("--forward-only", action="store_true", help="leave the gradients out")
    made.add_argument("--quick", action="store_true", help="few rounds: for a look, not for a figure")
    made.add_argument("--threads", type=int, default=2, metavar="N", help="threads of each library (default 2)")
    made.add_argument(
        "--peers",
        default="torch,torch-pages,ort,openvino",
        metavar="NAMES",
        help=f"who takes turns with Lucid, of {', '.join(PEERS)} (default %(default)s)",
    )
    made.add_argument("--base", default="lucid", choices=list(PEERS), help="whose time the ratios are over")
    made.add_argument("--out", type=Path, metavar="FILE", help="write FILE.json and FILE.md")
    return made


def main() -> int:
    options = parser().parse_args()
    layers = list(suite(options.only))
    if not layers:
        print(f"no layer's name contains {options.only!r}", file=sys.stderr)
        return 2
    peers = list(dict.fromkeys([options.base, ORACLE, *options.peers.split(",")]))
    if unknown := [name for name in peers if name not in PEERS]:
        print(f"no such peer: {', '.join(unknown)}; there are {', '.join(PEERS)}", file=sys.stderr)
        return 2
    header, rows = run(options, layers, peers)
    tables = [table(rows, mode, options.base, peers) for mode in MODES if any(row.mode == mode for row in rows)]
    faults = [f"{row.layer}, {row.mode}, {name}: {text}" for row in rows for name, text in row.faults.items()]
    print(table_text(header, tables, faults))
    if options.out:
        records: list[dict[str, Any]] = [asdict(row) for row in rows]
        write_results(options.out, header, records, tables, faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
