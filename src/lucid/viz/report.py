"""A picture of a finished training run: how it went, what the network confuses, what it looks for, where it errs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

Array = np.ndarray[Any, Any]

LEARNED, HELD_OUT = "#8da0b6", "#c8502d"
INK, PAPER = "#22303c", "#fbfaf7"
COUNTS = "YlOrBr"
WEIGHTS = "RdBu_r"
CHANNELS = "viridis"
MARGINS = (0.01, 0.01, 0.98, 0.98)
FILTERS_SHOWN = 32
MISTAKES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run. ``history`` has a row an epoch: loss, held-out loss, accuracy, held-out accuracy.

    Shape: ``samples`` (N, C, *size), ``truth`` (N,), ``found`` (N, classes), ``filters`` (C_out, C_in, *kernel).
    """

    title: str
    kind: str
    classes: Sequence[str]
    history: Sequence[tuple[float, float, float, float]]
    samples: Array
    truth: Array
    found: Array
    filters: Array


def draw(outcome: Outcome) -> Figure:
    """The whole picture."""
    figure = Figure(figsize=(13, 9.2), facecolor=PAPER, layout=ConstrainedLayoutEngine(rect=MARGINS))
    right = int((outcome.found.argmax(1) == outcome.truth).sum())
    count = len(outcome.truth)
    head, upper, lower = figure.subfigures(3, 1, squeeze=False, height_ratios=(0.09, 1, 1), hspace=0.02).flat
    headline = f"{outcome.title}: {right} of {count} held-out samples right, {right / count:.2%}"
    head.text(0.5, 0.5, headline, color=INK, fontsize=15, fontweight="bold", ha="center", va="center")
    curves, confusion = upper.subfigures(1, 2, squeeze=False, width_ratios=(1.45, 1)).flat
    filters, mistakes = lower.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.25)).flat
    for part in (head, upper, lower, curves, confusion, filters, mistakes):
        part.set_facecolor(PAPER)
    _curves(curves, outcome)
    _confusion(confusion.subplots(), outcome)
    _filters(filters, outcome.filters)
    _mistakes(mistakes, outcome)
    return figure


def _title(part: SubFigure, text: str) -> None:
    part.suptitle(text, color=INK, fontsize=11)


def _curves(part: SubFigure, outcome: Outcome) -> None:
    """Loss, on a logarithmic axis, and accuracy over the epochs."""
    loss, accuracy = part.subplots(1, 2)
    epochs = range(1, len(outcome.history) + 1)
    columns = np.array(outcome.history).T
    for axes, rows, name in ((loss, columns[:2], "loss"), (accuracy, columns[2:], "accuracy")):
        for values, color, label in zip(rows, (LEARNED, HELD_OUT), ("learned from", "held out"), strict=True):
            axes.plot(epochs, values, color=color, linewidth=2, marker="o", markersize=3, label=label)
        axes.set_title(name, color=INK, fontsize=11)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _bare(axes)
    loss.set_yscale("log")
    loss.legend(frameon=False)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    last = columns[3][-1]
    accuracy.annotate(
        f"{last:.2%}", (epochs[-1], last), (0, -14), textcoords="offset points", color=HELD_OUT, fontsize=9, ha="right"
    )


def _bare(axes: Axes) -> None:
    axes.set_facecolor(PAPER)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e0d8")
    axes.tick_params(colors=INK, labelsize=9)


def _confusion(axes: Axes, outcome: Outcome) -> None:
    """Counts of truth against answer, each row coloured by its share."""
    size = len(outcome.classes)
    counts = np.zeros((size, size), int)
    np.add.at(counts, (outcome.truth, outcome.found.argmax(1)), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(np.ma.masked_equal(shares, 0) ** 0.5, cmap=COUNTS, vmin=0, vmax=1.1)
    axes.set_facecolor(PAPER)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#e4e0d8")
    for (i, j), value in np.ndenumerate(counts):
        if value:
            wrong = i != j
            axes.text(
                j,
                i,
                str(value),
                ha="center",
                va="center",
                fontsize=9,
                color="white" if shares[i, j] > 0.4 else INK,
                fontweight="bold" if wrong else "normal",
            )
    axes.set_xticks(range(size), outcome.classes)
    axes.set_yticks(range(size), outcome.classes)
    axes.set_xlabel("answer")
    axes.set_ylabel(outcome.kind)
    axes.set_title("confusion", color=INK, fontsize=11)
    axes.tick_params(which="both", length=0, colors=INK)
    axes.spines[:].set_visible(False)


def _filters(part: SubFigure, filters: Array) -> None:
    """The first layer's weights, one scale for all: red positive, blue negative."""
    shown = filters[:FILTERS_SHOWN]
    images = shown[:, 0] if shown.ndim == 4 else shown
    limit = float(np.abs(images).max())
    grid = part.subplots(4, -(-len(images) // 4), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image in zip(grid.flat, images, strict=False):
        axes.imshow(image, cmap=WEIGHTS, vmin=-limit, vmax=limit, aspect="equal" if shown.ndim == 4 else "auto")
    what = "×".join(map(str, filters.shape[2:] if shown.ndim == 4 else filters.shape[1:]))
    across = "" if shown.ndim == 4 else ", channel down, time across"
    _title(part, f"first layer: {len(images)} of {len(filters)} filters, {what}{across}")


def _mistakes(part: SubFigure, outcome: Outcome) -> None:
    """The samples whose answer was wrong, the surest first; where there are few, the least sure right ones follow."""
    guess = outcome.found.argmax(1)
    sure = outcome.found.max(1)
    wrong = np.flatnonzero(guess != outcome.truth)
    wrong = wrong[np.argsort(-sure[wrong])]
    doubtful = np.argsort(sure + (guess != outcome.truth))
    shown = [*wrong, *doubtful][:MISTAKES_SHOWN]
    for axes, i in zip(part.subplots(2, MISTAKES_SHOWN // 2).flat, shown, strict=False):
        missed = guess[i] != outcome.truth[i]
        said = f"{outcome.classes[guess[i]]} ({sure[i]:.0%})"
        truth = outcome.classes[outcome.truth[i]]
        text = f"{truth}, taken for {said}" if missed else f"{truth}, right at {sure[i]:.0%}"
        axes.set_title(text, fontsize=9, color=HELD_OUT if missed else INK)
        _sample(axes, outcome.samples[i])
    if len(wrong) > MISTAKES_SHOWN:
        _title(part, f"the {MISTAKES_SHOWN} surest of {len(wrong)} mistakes")
    else:
        _title(part, f"all {len(wrong)} mistakes, then the least sure right answers")


def _sample(axes: Axes, sample: Array) -> None:
    """An image as ink on paper, a signal as a line a channel over time."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#d8d3c8")
    if sample.ndim == 3:
        axes.imshow(sample[0], cmap="gray_r")
        return
    axes.set_facecolor(PAPER)
    length = int(np.flatnonzero(np.any(sample != 0, axis=0)).max(initial=0)) + 1
    for channel, color in zip(sample, colormaps[CHANNELS](np.linspace(0.05, 0.9, len(sample))), strict=True):
        axes.plot(channel[:length], color=color, linewidth=1.1)
