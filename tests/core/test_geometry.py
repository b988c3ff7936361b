"""Windows as values: counted one by one, and PyTorch's formulas."""

from __future__ import annotations

from math import ceil, floor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucid.core.errors import ShapeError
from lucid.core.geometry import ConvSpec, PoolSpec, broadcast_shape, window_extent
from lucid.kernels.convolution import problem

AXIS = st.tuples(
    st.integers(0, 40), st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 5), st.integers(0, 5)
)


def conv(*axes: tuple[int, int, int, int, int, int], groups: int = 1) -> tuple[tuple[int, ...], ConvSpec]:
    """Sizes and the geometry of (size, kernel, stride, dilation, low, high) per axis."""
    size, kernel, stride, dilation, low, high = zip(*axes, strict=True)
    return size, ConvSpec(kernel, stride, dilation, tuple(zip(low, high, strict=True)), groups)


def windows(n: int, k: int, s: int, d: int, low: int, high: int) -> int:
    """Starts, a stride apart, from which every tap is inside the padded axis."""
    return sum(all(0 <= start + t * d < n + low + high for t in range(k)) for start in range(0, n + low + high, s))


@given(st.lists(AXIS, min_size=1, max_size=3))
def test_output_size_counts_windows(axes: list[tuple[int, int, int, int, int, int]]) -> None:
    size, spec = conv(*axes)
    assert tuple(max(o, 0) for o in spec.out_size(size)) == tuple(windows(*axis) for axis in axes)


@given(AXIS)
def test_output_size_is_pytorch_s(axis: tuple[int, int, int, int, int, int]) -> None:
    """floor((L + 2 p - d (k - 1) - 1) / s + 1), from the documentation of Conv1d."""
    n, k, s, d, p, _ = axis
    size, spec = conv((n, k, s, d, p, p))
    assert spec.out_size(size) == (floor((n + 2 * p - d * (k - 1) - 1) / s + 1),)


@given(AXIS)
def test_transposed_size_is_pytorch_s(axis: tuple[int, int, int, int, int, int]) -> None:
    """(L - 1) s - 2 p + d (k - 1) + output_padding + 1, from the documentation of ConvTranspose1d."""
    n, k, s, d, p, _ = axis
    size, spec = conv((n, k, s, d, p, p))
    assert spec.transposed_size(size) == ((n - 1) * s - 2 * p + d * (k - 1) + 0 + 1,)


@given(st.lists(AXIS, min_size=1, max_size=3))
def test_transposed_size_is_the_smallest_input(axes: list[tuple[int, int, int, int, int, int]]) -> None:
    """Inputs of that size and up to s - 1 more give the output; one less does not."""
    size, spec = conv(*axes)
    least = spec.transposed_size(size)
    assert spec.out_size(least) == size
    assert spec.out_size(tuple(n + s - 1 for n, s in zip(least, spec.stride, strict=True))) == size
    assert all(a < b for a, b in zip(spec.out_size(tuple(n - 1 for n in least)), size, strict=True))


@pytest.mark.parametrize(("kernel", "dilation", "extent"), [(1, 1, 1), (1, 9, 1), (3, 1, 3), (3, 4, 9), (255, 2, 509)])
def test_window_extent(kernel: int, dilation: int, extent: int) -> None:
    assert window_extent(kernel, dilation) == extent


def test_expanding_adds_leading_axes_that_do_nothing() -> None:
    spec = ConvSpec((3, 5), (2, 1), (1, 2), ((0, 1), (2, 3)), 4)
    deep = spec.expanded(3)
    assert deep == ConvSpec((1, 3, 5), (1, 2, 1), (1, 1, 2), ((0, 0), (0, 1), (2, 3)), 4)
    assert deep.out_size((1, 9, 20)) == (1, *spec.out_size((9, 20)))
    assert (deep.rank, deep.taps, spec.rank, spec.taps) == (3, 15, 2, 15)
    assert deep.expanded(3) == deep


def test_geometries_are_values() -> None:
    a, b = (conv((9, 3, 1, 1, 0, 0), groups=2)[1] for _ in range(2))
    assert a == b
    assert len({a, b}) == 1
    with pytest.raises(AttributeError):
        a.groups = 3  # type: ignore[misc]


def pool(n: int, k: int, s: int, d: int, low: int, high: int, ceil_mode: bool) -> int:
    return PoolSpec((k,), (s,), (d,), ((low, high),), ceil_mode).out_size((n,))[0]


@given(AXIS)
def test_pooling_counts_windows(axis: tuple[int, int, int, int, int, int]) -> None:
    assert max(pool(*axis, False), 0) == windows(*axis)


@given(AXIS)
def test_pooling_with_ceil_mode(axis: tuple[int, int, int, int, int, int]) -> None:
    """The documentation of MaxPool1d: round up, and leave out a window that would start in the right padding."""
    n, k, s, d, p, _ = axis
    want = ceil((n + 2 * p - d * (k - 1) - 1) / s + 1)
    if (want - 1) * s >= n + p:
        want -= 1
    assert pool(n, k, s, d, p, p, True) == want


@pytest.mark.parametrize(("axis", "floor_mode", "ceil_mode"), [
    ((5, 2, 2, 1, 0, 0), 2, 3),  # the last window hangs over by one
    ((6, 2, 2, 1, 0, 0), 3, 3),
    ((4, 1, 3, 1, 0, 0), 2, 2),
    ((3, 2, 4, 1, 1, 1), 1, 1),  # a second window would start in the right padding
    ((7, 3, 2, 2, 1, 1), 3, 3),
    ((32, 3, 2, 1, 1, 1), 16, 17),
])  # fmt: skip
def test_pooling_by_hand(axis: tuple[int, int, int, int, int, int], floor_mode: int, ceil_mode: int) -> None:
    assert (pool(*axis, False), pool(*axis, True)) == (floor_mode, ceil_mode)


def test_sizes_beyond_32_bits() -> None:
    """More elements than 2^31 in an axis, a row, an image: sizes are Python's whole numbers, and exact."""
    size, spec = conv((3 * 2**31, 3, 2, 5, 7, 8))
    assert spec.out_size(size) == ((3 * 2**31 + 15 - 11) // 2 + 1,)
    assert spec.transposed_size(spec.out_size(size)) == ((spec.out_size(size)[0] - 1) * 2 - 15 + 11,)
    assert pool(2**40, 3, 3, 1, 1, 1, True) == 2**40 // 3 + 1
    wide = ConvSpec((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
    asked = problem(
        "forward", wide, (4, 2**10, 2**16, 2**16), (4, 2**11, *wide.out_size((2**16, 2**16))), "float32", True
    )
    assert asked.pixels == 2**32
    assert asked.flops == 2 * 4 * 2**11 * 2**10 * 9 * 2**32
    assert asked.traffic_bytes == 4 * (2**44 + 2**45 + 2**11 * 2**10 * 9)


SHAPES = st.lists(st.lists(st.sampled_from([0, 1, 2, 3]), max_size=4).map(tuple), max_size=4)


@given(SHAPES)
def test_broadcasting_is_numpy_s(shapes: list[Any]) -> None:
    try:
        want = np.broadcast_shapes(*shapes)
    except ValueError:
        with pytest.raises(ShapeError, match="do not broadcast: axis -"):
            broadcast_shape(*shapes)
    else:
        assert broadcast_shape(*shapes) == want


def test_broadcasting_names_the_axis() -> None:
    with pytest.raises(ShapeError, match=r"shapes \(2, 3\), \(4, 3\) do not broadcast: axis -2 has sizes \[2, 4\]"):
        broadcast_shape((2, 3), (4, 3))
