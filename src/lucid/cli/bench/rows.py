"""What is measured of a layer, and the tables it is shown in."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from statistics import median

from lucid.cli.bench import oracle
from lucid.cli.bench.peers import PEERS
from lucid.cli.bench.problem import Layer
from lucid.cli.bench.report import Column, Table
from lucid.cli.bench.turns import Effort, Ratio, check, geometric_mean, ratios, take_turns
from lucid.cli.bench.worker import Worker
from lucid.kernels import roofline
from lucid.kernels.roofline import Roofline

MODES = {"forward": False, "forward+backward": True}
WITH_PLANS = ("lucid", "kernels")  #: the libraries that can say how much memory their plans take


@dataclass(slots=True)
class Row:
    """What was measured of one layer. ``faults`` names each library that failed or was wrong, and how.

    ``roofline`` is its part of the bound at the best peaks of the run, if memory were as fast as it copies; ``reached``
    that at the row's own ``peaks``, measured before and after it, where writing is held to the rate of filling.
    """

    layer: str
    mode: str
    gflop: float
    median_s: dict[str, float] = field(default_factory=dict)
    ratio: dict[str, Ratio] = field(default_factory=dict)
    rounds: int = 0
    roofline: float | None = None
    reached: float | None = None
    peaks: Roofline | None = None
    workspace_bytes: int = 0
    flop_per_byte: float = 0.0
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
    row.faults = check(layer, backward, able, lambda file: oracle.write(layer, backward, file))
    if base in row.faults:
        return row
    before = roofline.measure()
    times = take_turns({name: worker for name, worker in able.items() if name not in row.faults}, effort)
    row.median_s = {name: median(values) for name, values in times.items()}
    row.rounds = len(times[base])
    row.ratio = ratios(times, base)
    own = before.best(roofline.measure())
    row.peaks, row.reached = own, layer.reach_s(own, backward) / row.median_s[base]
    row.flop_per_byte = layer.flops / layer.traffic_bytes
    if base in WITH_PLANS:
        row.workspace_bytes = workers[base].ask("workspace_bytes")
    return row


def hold_to_best(rows: list[Row], layers: list[Layer], base: str) -> None:
    """Fills in each row's part of the roofline, at the best peaks of the run.

    They are measured before every row, and a moment in which the machine was busy would flatter the row.
    """
    by_name = {layer.short_name: layer for layer in layers}
    timed = [row for row in rows if base in row.median_s]
    if not timed:
        return
    peaks = reduce(Roofline.best, (row.peaks for row in timed if row.peaks))
    for row in timed:
        row.peak_gflop_per_s, row.copy_gb_per_s = peaks.gflop_per_s, peaks.copy_gb_per_s
        row.roofline = by_name[row.layer].limit_s(peaks, MODES[row.mode]) / row.median_s[base]


def table(rows: list[Row], mode: str, base: str, peers: list[str]) -> Table:
    """The rows of one mode as text cells, the geometric means last."""
    shown = [name for name in peers if name != base and (mode == "forward" or PEERS[name].gradients)]
    chosen = [row for row in rows if row.mode == mode]
    columns = [
        Column("layer", left=True),
        Column("GFLOP"),
        Column(f"{PEERS[base].title} ms"),
        Column("roofline"),
        Column("reached"),
        *_ratio_columns(shown),
        Column("workspace MiB"),
    ]
    body = [_cells(row, base, shown) for row in chosen]
    return Table(mode, columns, body, ["geometric mean", "", "", "", "", *_means(chosen, shown), ""] if shown else None)


def _ratio_columns(shown: list[str]) -> list[Column]:
    """A column for each peer, the first one's quartiles after it, and the fastest peer's if there are several."""
    ratio = [Column(f"{PEERS[name].title} ×") for name in shown]
    ratio[1:1] = [Column("quartiles")] if shown else []
    return [*ratio, Column("fastest ×")] if len(shown) > 1 else ratio


def _means(chosen: list[Row], shown: list[str]) -> list[str]:
    means = [_mean([row.ratio.get(name) for row in chosen]) for name in shown]
    means[1:1] = [""]
    return [*means, _mean([row.fastest for row in chosen])] if len(shown) > 1 else means


def _cells(row: Row, base: str, shown: list[str]) -> list[str]:
    ratios_wide = len(_ratio_columns(shown))
    if base in row.faults:
        return [row.layer, f"{row.gflop:.3g}", "FAILED", *[""] * (3 + ratios_wide)]
    found = [row.ratio.get(name) for name in shown]
    cells = [f"{ratio.median:.2f}" if ratio else "failed" for ratio in found]
    cells[1:1] = [f"{found[0].low:.2f}–{found[0].high:.2f}" if found[0] else ""] if found else []
    if len(shown) > 1:
        cells.append(f"{row.fastest.median:.2f}" if row.fastest else "")
    time = [f"{row.median_s[base] * 1e3:.4g}", f"{row.roofline:.0%}", f"{row.reached:.0%}"]
    return [row.layer, f"{row.gflop:.3g}", *time, *cells, f"{row.workspace_bytes / 2**20:.2f}"]


def _mean(found: list[Ratio | None]) -> str:
    values = [ratio.median for ratio in found if ratio]
    return f"{geometric_mean(values):.2f}" if values else ""
