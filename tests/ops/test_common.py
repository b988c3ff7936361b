"""What all families share: dimensions, sizes, dtypes, and what is attached to ``Tensor``."""

from __future__ import annotations

import pytest

import lucid
from lucid.core.errors import DTypeError, ShapeError
from lucid.ops.common import axes, axis, result_type, same_dtype, sizes_of


def test_dimensions_count_from_either_end():
    assert [axis("f", d, 3) for d in (0, 2, -1, -3)] == [0, 2, 2, 0]
    assert axis("f", -1, 0) == 0
    with pytest.raises(ShapeError, match=r"f: dim=-4 is out of range for 3 dimensions, \[-3, 2\]"):
        axis("f", -4, 3)
    assert axes("f", None, 3) is None and axes("f", (0, -1), 3) == (0, 2) and axes("f", 1, 3) == (1,)
    with pytest.raises(ShapeError, match="twice"):
        axes("f", (1, -2), 3)


def test_sizes():
    assert sizes_of((2, 3)) == sizes_of(((2, 3),)) == sizes_of(([2, 3],)) == (2, 3) and sizes_of(()) == ()


def test_one_dtype():
    same_dtype("f", x=lucid.ones(1), y=None)
    with pytest.raises(DTypeError, match=r"f: all of one dtype, not x lucid\.float32, y lucid\.int64"):
        same_dtype("f", x=lucid.ones(1), y=lucid.ones(1, dtype=int))


def test_result_types():
    f, d, i = lucid.ones(2), lucid.tensor(1.0, dtype=lucid.float64), lucid.ones(2, dtype=int)
    assert result_type(f, d) is lucid.float32 and result_type(i, d) is lucid.float64
    assert result_type(i, 1.5) is lucid.float32 and result_type(2, 1.5) is lucid.float32


def test_functions_take_arrays_and_lists():
    assert lucid.exp([0.0]).dtype is lucid.float32 and lucid.add([1.0], 2).tolist() == [3]
    assert lucid.sum([1, 2]).item() == 3


@pytest.mark.parametrize("name", sorted(lucid.__all__))
def test_the_public_page_is_documented(name):
    value = getattr(lucid, name)
    assert callable(value) is False or value.__doc__
