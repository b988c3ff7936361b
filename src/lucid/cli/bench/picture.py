"""A picture of a comparison: how much faster each layer is, and how near the machine's limit it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from lucid.cli.bench.peers import PEERS
from lucid.cli.bench.turns import geometric_mean

INK, FAINT, GRID, PAPER = "#22303c", "#7a8794", "#e4e0d8", "#fbfaf7"
LUCID = "#c8502d"
#: Colour and marker of each peer; the first that was measured has its quartiles drawn.
LOOKS = {
    "torch": ("#2b5d8a", "o"),
    "torch-pages": ("#8fb3d1", "o"),
    "ort": ("#5f8f4e", "D"),
    "openvino": ("#a06bb0", "s"),
    "kernels": ("#b8923c", "^"),
    "lucid": (LUCID, "o"),
}
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
ROW_INCHES = 0.235
PANEL_INCHES = 3.1  #: what a roofline needs for its labels

Data = dict[str, Any]


def save(data: Data, path: Path) -> Path:
    """Draw what ``lucid bench`` wrote as JSON into ``path`` with .png."""
    file = path.with_suffix(".png")
    draw(data).savefig(file, dpi=110, facecolor=PAPER, metadata={"Software": None})
    return file


def draw(data: Data) -> Figure:
    """A panel of ratios for each mode beside each other, the roofline on the right."""
    rows = [row for row in data["rows"] if row["ratio"]]
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    names = list(dict.fromkeys(row["layer"] for row in rows))
    height = max(1.2 + PANEL_INCHES * len(modes), 1.9 + ROW_INCHES * len(names))
    figure = Figure(figsize=(4.6 + 4.1 * len(modes) + 1.6, height), facecolor=PAPER, layout="constrained")
    grid = figure.add_gridspec(len(modes), len(modes) + 1, width_ratios=[1] * len(modes) + [1.05])
    for place, mode in enumerate(modes):
        chosen = {row["layer"]: row for row in rows if row["mode"] == mode}
        _ratios(figure.add_subplot(grid[:, place]), chosen, names, mode, labelled=place == 0)
        _roofline(figure.add_subplot(grid[place, -1]), list(chosen.values()), data["base"], mode)
    header = data["header"]
    figure.suptitle(
        "Time of other libraries over Lucid's, and how near the machine's limit Lucid runs",
        color=INK, fontsize=14, fontweight="bold", x=0.01, ha="left",
    )  # fmt: skip
    versions = ", ".join(
        f"{PEERS[n].title} {v.partition('-')[0]}" for n, v in header["versions"].items() if n != "torch-pages"
    )
    note = f"{header['cpu']}, {header['threads']} threads · {versions} · {header['date']}"
    figure.supxlabel(note, color=FAINT, fontsize=8, x=0.01, ha="left")
    return figure


def _ratios(axes: Axes, rows: dict[str, Data], names: list[str], mode: str, labelled: bool) -> None:
    """A dot a peer and layer on a logarithmic axis; right of the line at 1, Lucid is faster."""
    heights = {name: -i for i, name in enumerate(names)}
    peers = list(dict.fromkeys(peer for row in rows.values() for peer in row["ratio"]))
    axes.axvline(1, color=INK, linewidth=1.2, zorder=1)
    for order, peer in reversed(list(enumerate(peers))):
        found = {name: row["ratio"][peer] for name, row in rows.items() if peer in row["ratio"]}
        color, marker = LOOKS[peer]
        y = [heights[name] for name in found]
        if order == 0:
            ends = [(ratio["low"], ratio["high"]) for ratio in found.values()]
            axes.hlines(y, *zip(*ends, strict=True), color=color, linewidth=2.2, alpha=0.45, zorder=3)
        mean = geometric_mean([ratio["median"] for ratio in found.values()])
        axes.scatter(
            [ratio["median"] for ratio in found.values()], y, s=34 if order == 0 else 20, marker=marker,
            zorder=4 - order / 9, facecolor=color if order == 0 else PAPER, edgecolor=color, linewidth=1.2,
            label=f"{PEERS[peer].title}  ×{mean:.2f}",
        )  # fmt: skip
    axes.set_xscale("log")
    _ratio_axis(axes)
    axes.set_ylim(min(heights.values()) - 0.7, 0.7)
    axes.set_yticks(list(heights.values()), names if labelled else [""] * len(names))
    axes.set_title(mode, color=INK, fontsize=12, fontweight="bold", loc="left")
    axes.set_xlabel("× Lucid's time (right of 1: Lucid is faster)", color=INK, fontsize=9)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1], labels[::-1], fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=5.5,
        ncols=2, frameon=False, labelcolor=INK, title="geometric means", title_fontsize=8,
    )  # fmt: skip
    _bare(axes)
    axes.grid(axis="both", color=GRID, linewidth=0.7, zorder=0)
    axes.tick_params(axis="y", length=0)


def _ratio_axis(axes: Axes) -> None:
    low, high = axes.get_xlim()
    low, high = min(low, 0.7), max(high, 1.5)
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _roofline(axes: Axes, rows: list[Data], base: str, mode: str) -> None:
    """Arithmetic done against arithmetic for each byte that must move, below the machine's two limits."""
    peak = float(np.median([row["peak_gflop_per_s"] for row in rows]))
    copy = float(np.median([row["copy_gb_per_s"] for row in rows]))
    intensity = np.array([row["flop_per_byte"] for row in rows])
    x = np.geomspace(min(intensity.min() / 1.6, peak / copy / 3), intensity.max() * 1.6, 200)
    axes.plot(x, np.minimum(peak, copy * x), color=INK, linewidth=1.5, zorder=2)
    above: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": 8, "color": INK}
    axes.annotate(f"{peak:.0f} GFLOP/s", (x[-1], peak), (0, 4), **above)
    for name, size in (("torch", 16), (base, 26)):
        done = [(row["flop_per_byte"], row["gflop"] / row["median_s"][name]) for row in rows if name in row["median_s"]]
        if done:
            across, up = zip(*done, strict=True)
            color, marker = LOOKS[name]
            axes.scatter(
                across, up, s=size, marker=marker, zorder=4 if name == base else 3, label=PEERS[name].title,
                facecolor=color if name == base else PAPER, edgecolor=color, linewidth=1.1,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(max(axes.get_ylim()[0] / 4, peak / 3000), peak * 3.2)  # the legend lies below the points
    axes.set_title(f"roofline, {mode}", color=INK, fontsize=12, fontweight="bold", loc="left")
    axes.set_xlabel(f"flop for each byte that must move ({copy:.0f} GB/s)", color=INK, fontsize=9)
    axes.set_ylabel("GFLOP/s of the direct algorithm", color=INK, fontsize=9)
    axes.legend(fontsize=8, loc="lower right", frameon=False, labelcolor=INK)
    _bare(axes)
    axes.grid(color=GRID, linewidth=0.7, zorder=0)


def _bare(axes: Axes) -> None:
    axes.set_facecolor(PAPER)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8.5, which="both")
