"""The picture of a run holds what the run found."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from lucid.viz.report import Outcome, draw


def outcome(shape: tuple[int, ...], filters: tuple[int, ...], wrong: int) -> Outcome:
    """Thirty samples of three classes, so many of them taken for the next class."""
    rng = np.random.default_rng(0)
    truth = np.arange(30) % 3
    guess = np.where(np.arange(30) < wrong, (truth + 1) % 3, truth)
    found = np.full((30, 3), 0.1)
    found[np.arange(30), guess] = 0.8
    return Outcome(
        title="thirty things",
        kind="thing",
        classes="abc",
        history=[(1.0, 1.1, 0.5, 0.4), (0.1, 0.2, 0.9, 0.8)],
        samples=rng.standard_normal((30, *shape)),
        truth=truth,
        found=found,
        filters=rng.standard_normal(filters),
    )


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


@pytest.mark.parametrize(("shape", "filters"), [((1, 8, 8), (32, 1, 3, 3)), ((12, 29), (64, 12, 5))])
@pytest.mark.parametrize("wrong", [0, 3, 20, 30])
def test_the_picture_says_how_many_were_right(shape: tuple[int, ...], filters: tuple[int, ...], wrong: int) -> None:
    figure = draw(outcome(shape, filters, wrong))
    assert any(f"{30 - wrong} of 30 held-out samples right" in text for text in texts(figure))
    missed = [text for text in texts(figure) if "taken for" in text]
    assert len(missed) == min(wrong, 8)


def test_the_confusion_counts_every_sample() -> None:
    counts = [int(text) for text in texts(draw(outcome((1, 8, 8), (4, 1, 3, 3), 6))) if text in {"2", "8"}]
    assert sorted(counts)[-6:] == [2, 2, 2, 8, 8, 8]


def test_one_epoch_is_enough() -> None:
    one = replace(outcome((1, 8, 8), (4, 1, 3, 3), 1), history=[(1.0, 1.0, 0.5, 0.5)])
    file = io.BytesIO()
    draw(one).savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")
