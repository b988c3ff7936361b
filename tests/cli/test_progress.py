"""The bar and the lines, on streams that are terminals and streams that are not."""

from __future__ import annotations

import io

import pytest

from lucid.cli import progress
from lucid.cli.progress import Screen, columns, render


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Ascii(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="ascii")


@pytest.mark.parametrize("share", [0.0, 0.49, 1.0])
def test_a_bar_never_wraps(share: float) -> None:
    for width in range(121):
        assert len(render("epoch  12/15", share, "loss 0.1234  accuracy 99.11 %", width)) <= max(width - 1, 0)


@pytest.mark.parametrize(("share", "full"), [(0.0, 0), (0.5, 20), (1.0, 40)])
def test_a_bar_shows_the_share(share: float, full: int) -> None:
    text = render("e", share, "n", 200, "#-")
    assert (text.count("#"), text.count("-")) == (full, 40 - full)


def test_the_note_goes_before_the_bar_does() -> None:
    assert "loss" not in render("epoch 1", 0.5, "loss 0.1", 30, "#-")
    assert "#" in render("epoch 1", 0.5, "loss 0.1", 30, "#-")


def test_a_terminal_gets_a_bar_that_a_line_wipes() -> None:
    stream = Terminal()
    screen = Screen(stream)
    screen.bar("epoch 1", 0.5)
    screen.line("done")
    assert "━" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[Kdone\n")


def test_bars_come_at_most_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.01, 100.06])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = Terminal()
    screen = Screen(stream)
    for label in ("first", "second", "third"):
        screen.bar(label, 0.5)
    assert ("first" in stream.getvalue(), "second" in stream.getvalue(), "third" in stream.getvalue()) == (
        True,
        False,
        True,
    )


def test_a_file_gets_lines_only() -> None:
    stream = io.StringIO()
    screen = Screen(stream)
    screen.bar("epoch 1", 0.5)
    screen.line("one")
    screen.line("two")
    assert stream.getvalue() == "one\ntwo\n"


def test_an_ascii_stream_gets_no_other_letters() -> None:
    stream = Ascii()
    Screen(stream).line("8×8 … ok")
    stream.flush()
    assert stream.buffer.getvalue() == b"8?8 ? ok\n"  # type: ignore[attr-defined]


def test_columns_are_right_aligned() -> None:
    assert columns(("1", "22"), (3, 4)) == "  1    22"
