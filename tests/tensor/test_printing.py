"""Tensors as text: the pages' form, PyTorch's numbers. (``tests/parity`` compares with PyTorch itself.)"""

from __future__ import annotations

import pytest

import lucid


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([[[5.0, 6.0]]], "Tensor([[[5., 6.]]])"),
        ([1.5, -2.0], "Tensor([ 1.5000, -2.0000])"),
        ([1, -20], "Tensor([  1, -20])"),
        ([True, False], "Tensor([ True, False])"),
        (3.0, "Tensor(3.)"),
        ([], "Tensor([])"),
        ([1e-5, 1.0], "Tensor([1.0000e-05, 1.0000e+00])"),
        ([float("nan"), float("inf"), 1.0], "Tensor([nan, inf, 1.])"),
        ([1 + 2j, -1.5j], "Tensor([1.+2.0000j, -0.-1.5000j])"),
        ([[1, 2], [3, 4]], "Tensor([[1, 2],\n        [3, 4]])"),
    ],
)
def test_text(data, text):
    assert repr(lucid.tensor(data)) == str(lucid.tensor(data)) == text


def test_what_is_not_default_is_said():
    assert repr(lucid.ones(1, requires_grad=True)) == "Tensor([1.], requires_grad=True)"
    assert repr(lucid.ones(1, dtype=lucid.float16)) == "Tensor([1.], dtype=lucid.float16)"
    assert repr(lucid.ones(1, dtype=lucid.bfloat16)) == "Tensor([1.], dtype=lucid.bfloat16)"
    assert repr(lucid.zeros(0, 3, dtype=int)) == "Tensor([], size=(0, 3), dtype=lucid.int64)"


def test_big_tensors_are_summarised():
    assert repr(lucid.arange(2000)) == "Tensor([   0,    1,    2,  ..., 1997, 1998, 1999])"
    text = repr(lucid.zeros(100, 100))
    assert text.count("\n") == 6 and text.splitlines()[3].strip() == "...,"


def test_long_rows_are_wrapped():
    lines = repr(lucid.full((40,), 0.5)).splitlines()
    assert max(map(len, lines)) <= 80 and all(line.startswith("        0.5") for line in lines[1:])
