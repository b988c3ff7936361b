"""Whole programs as their authors write them for PyTorch, run here by changing their imports: the same numbers.

A program in ``programs/`` makes networks (``make``) and trains them on arrays (``run``), telling what it comes by.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import lucid

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.py"))


def ported(text: str) -> str:
    """The program by what docs/differences.md says: other imports."""
    for before, after in (
        (r"^from torch\b", "from lucid"),
        (r"^import torch$", "import lucid as torch"),
        (r"^import torch\.", "import lucid."),
    ):
        text = re.sub(before, after, text, flags=re.MULTILINE)
    return text


def loaded(path: Path, text: str) -> Any:
    module = ModuleType(path.stem)
    exec(compile(text, path, "exec"), vars(module))
    return module


def told(value: Any) -> Any:
    return np.asarray(value.detach().numpy() if hasattr(value, "detach") else value)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_program_comes_by_the_same_numbers(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    torch.manual_seed(0)
    theirs, ours = loaded(path, text), loaded(path, ported(text))
    networks, copies = theirs.make(), ours.make()
    for name, network in networks.items():
        torch.save(network.state_dict(), tmp_path / name)
        copies[name].load_state_dict(lucid.load(tmp_path / name))
    expected, found = (
        list(program.run(nets, np.random.default_rng(1))) for program, nets in ((theirs, networks), (ours, copies))
    )
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (name, one), (_, other) in zip(found, expected, strict=True):
        a, b = told(one), told(other)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        if a.dtype.kind in "US":
            assert a == b, name
        elif a.size:
            # Float32 by two orders of summation, after some steps of training: errors of the largest number.
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-3 * max(float(np.abs(b).max()), 1e-3), err_msg=name)
