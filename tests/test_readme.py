"""The README's Python runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lucid

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_there_is_code() -> None:
    assert BLOCKS


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs(number: int) -> None:
    lucid.manual_seed(0)
    exec(compile(BLOCKS[number], f"README.md, block {number}", "exec"), {})


def test_the_network_takes_most_of_the_noise_off(capsys: pytest.CaptureFixture[str]) -> None:
    lucid.manual_seed(0)
    exec(BLOCKS[0], {})
    noise, left = map(float, re.findall(r"\d\.\d+", capsys.readouterr().out))
    assert left < noise / 5


def test_its_files_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text("utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []
