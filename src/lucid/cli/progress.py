"""What is written while a run goes on: a bar that lives on a terminal's last line, and rows of a table."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from typing import TextIO

REFRESH_S = 0.05
WIDEST_BAR = 40
NARROWEST_BAR = 8


def render(label: str, share: float, note: str, width: int, blocks: str = "━─") -> str:
    """A bar between a label and a note in less than ``width`` columns; the note goes first when room is short.

    >>> render("epoch 2", 0.5, "loss 0.12", 40, "#-")
    'epoch 2  ######------  50 %  loss 0.12'
    >>> render("epoch 2", 0.5, "loss 0.12", 30, "#-")
    'epoch 2  ######-------  50 %'
    """
    percent = f"{share:4.0%}".replace("%", " %")
    room = width - 1 - len(label) - len(percent) - 4
    if note and room - len(note) - 2 >= NARROWEST_BAR:
        room -= len(note) + 2
    else:
        note = ""
    if room < NARROWEST_BAR:
        return f"{label}{percent}"[: max(width - 1, 0)]
    length = min(room, WIDEST_BAR)
    full = int(length * share)
    bar = blocks[0] * full + blocks[1] * (length - full)
    return "  ".join(filter(None, [label, f"{bar} {percent}", note]))


class Screen:
    """Lines that stay, and on a terminal one bar below them that moves. Elsewhere only the lines are written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._blocks = "━─" if _can_write(stream, "━─") else "#-"
        self._shown_at = 0.0
        self._shown = False

    def bar(self, label: str, share: float, note: str = "") -> None:
        """Show the bar, at most every 50 ms."""
        now = time.monotonic()
        if not self._live or now - self._shown_at < REFRESH_S:
            return
        width = shutil.get_terminal_size().columns
        self._stream.write(f"\r\x1b[K{render(label, share, note, width, self._blocks)}")
        self._stream.flush()
        self._shown_at, self._shown = now, True

    def line(self, text: str = "") -> None:
        """Write a line that stays; the bar is gone until it is shown again."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._shown = False
        self._stream.write(plain(text, self._stream) + "\n")
        self._stream.flush()


def plain(text: str, stream: TextIO) -> str:
    """The text with what the stream's encoding cannot say replaced."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def _can_write(stream: TextIO, text: str) -> bool:
    return plain(text, stream) == text


def columns(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Cells to the right of their columns."""
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def percent(share: float, digits: int = 2) -> str:
    """
    >>> percent(447 / 450)
    '99.33 %'
    """
    return f"{100 * share:.{digits}f} %"
