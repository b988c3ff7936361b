"""The reference convolutions against loops over single numbers, SciPy, and the laws that any convolution obeys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal

from lucid.core.geometry import ConvSpec
from lucid.kernels.algorithms.reference import conv_forward, conv_grad_input, conv_grad_weight

Array = np.ndarray[Any, Any]
Sizes = tuple[int, ...]


def touched(size: Sizes, out: Sizes, spec: ConvSpec) -> Iterator[tuple[Sizes, Sizes, Sizes]]:
    """(output, tap, input) positions that meet, inside the input; index by index."""
    for p, t in product(product(*map(range, out)), product(*map(range, spec.kernel))):
        at = tuple(
            pi * s + ti * d - low
            for pi, ti, s, d, (low, _) in zip(p, t, spec.stride, spec.dilation, spec.padding, strict=True)
        )
        if all(0 <= a < n for a, n in zip(at, size, strict=True)):
            yield p, t, at


def channel_pairs(c_in: int, c_out: int, groups: int) -> Iterator[tuple[int, int, int]]:
    """(channel of y, channel of x, channel of w) that meet."""
    for o in range(c_out):
        group = o // (c_out // groups)
        for c in range(c_in // groups):
            yield o, group * (c_in // groups) + c, c


def loops(x: Array, w: Array, g: Array, spec: ConvSpec) -> tuple[Array, Array, Array]:
    """y = conv(x, w), and the gradients of <y, g> in x and w: one multiplication at a time in Python."""
    size, out = x.shape[2:], g.shape[2:]
    y, gx, gw = np.zeros(g.shape), np.zeros(x.shape), np.zeros(w.shape)
    places = list(touched(size, out, spec))
    for n, (o, c, cw) in product(range(len(x)), channel_pairs(x.shape[1], w.shape[0], spec.groups)):
        for p, t, at in places:
            y[(n, o, *p)] += float(w[(o, cw, *t)]) * float(x[(n, c, *at)])
            gx[(n, c, *at)] += float(w[(o, cw, *t)]) * float(g[(n, o, *p)])
            gw[(o, cw, *t)] += float(g[(n, o, *p)]) * float(x[(n, c, *at)])
    return y, gx, gw


def operands(spec: ConvSpec, batch: int, c_in: int, c_out: int, size: Sizes, seed: int) -> tuple[Array, Array, Array]:
    """x, w and something of y's shape."""
    rng = np.random.default_rng(seed)
    x, w = (batch, c_in, *size), (c_out, c_in // spec.groups, *spec.kernel)
    y = (batch, c_out, *spec.out_size(size))
    return rng.standard_normal(x), rng.standard_normal(w), rng.standard_normal(y)


@st.composite
def convolutions(draw: Any, rank: int | None = None) -> tuple[ConvSpec, tuple[Any, ...]]:
    """A geometry and the arguments of ``operands`` that follow it."""
    rank = draw(st.integers(1, 3)) if rank is None else rank

    def each(values: Any) -> Any:
        return tuple(draw(values) for _ in range(rank))

    kernel, stride, dilation = each(st.integers(1, 4 - rank // 2)), each(st.integers(1, 3)), each(st.integers(1, 3))
    padding = each(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    groups = draw(st.integers(1, 3))
    spec = ConvSpec(kernel, stride, dilation, padding, groups)
    least = [max(1, d * (k - 1) + 1 - sum(p)) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = tuple(n + draw(st.integers(0, 5 - rank)) for n in least)
    channels = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    return spec, (draw(st.integers(1, 2)), groups * channels[0], groups * channels[1], size, draw(st.integers(0, 99)))


@given(convolutions())
def test_all_roles_against_loops(case: tuple[ConvSpec, tuple[Any, ...]]) -> None:
    spec, more = case
    x, w, g = operands(spec, *more)
    y, gx, gw = loops(x, w, g, spec)
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(conv_forward(x, w, None, spec), y, **close)
    np.testing.assert_allclose(conv_grad_input(g, w, None, spec, x.shape[2:]), gx, **close)
    np.testing.assert_allclose(conv_grad_weight(x, g, spec), gw, **close)


@pytest.mark.parametrize("size", [(40,), (12, 17), (7, 8, 9)])
def test_forward_against_scipy(size: Sizes) -> None:
    rank = len(size)
    rng = np.random.default_rng(0)
    for stride, low, high in product((1, 2), (0, 2), (0, 3)):
        kernel = (5, 3, 4)[:rank]
        spec = ConvSpec(kernel, (stride,) * rank, (1,) * rank, ((low, high),) * rank)
        x, w = rng.standard_normal((1, 1, *size)), rng.standard_normal((1, 1, *kernel))
        whole = signal.correlate(np.pad(x[0, 0], ((low, high),) * rank), w[0, 0], mode="valid", method="direct")
        np.testing.assert_allclose(conv_forward(x, w, None, spec)[0, 0], whole[(slice(None, None, stride),) * rank])


def test_gradients_against_scipy() -> None:
    """Stride 1, no padding: the input gradient is the full convolution, the weight gradient the valid correlation."""
    rng = np.random.default_rng(1)
    spec = ConvSpec((5, 3), (1, 1), (1, 1), ((0, 0), (0, 0)))
    x, w, g = operands(spec, 1, 1, 1, (12, 17), 2)
    gx = signal.convolve(g[0, 0], w[0, 0], mode="full", method="direct")
    np.testing.assert_allclose(conv_grad_input(g, w, None, spec, (12, 17))[0, 0], gx)
    np.testing.assert_allclose(conv_grad_weight(x, g, spec)[0, 0], signal.correlate(x[0, 0], g[0, 0], mode="valid"))
    bias = rng.standard_normal(1)
    np.testing.assert_allclose(conv_grad_input(g, w, bias, spec, (12, 17))[0, 0], gx + bias)


@given(convolutions())
def test_adjoints(case: tuple[ConvSpec, tuple[Any, ...]]) -> None:
    """<conv(x, w), g> = <x, conv_grad_input(g, w)> = <w, conv_grad_weight(x, g)>."""
    spec, more = case
    x, w, g = operands(spec, *more)
    products = [
        np.vdot(conv_forward(x, w, None, spec), g),
        np.vdot(x, conv_grad_input(g, w, None, spec, x.shape[2:])),
        np.vdot(w, conv_grad_weight(x, g, spec)),
    ]
    np.testing.assert_allclose(products, products[0], rtol=1e-10, atol=1e-10)


@given(convolutions(), st.integers(0, 5))
def test_a_shifted_input_gives_a_shifted_output(case: tuple[ConvSpec, tuple[Any, ...]], shift: int) -> None:
    """Samples moved by the stride move the output by one, away from the edges."""
    spec, (batch, c_in, c_out, _, seed) = case
    spec = replace(spec, padding=((0, 0),) * spec.rank)
    wide = tuple(
        d * (k - 1) + 1 + (shift + 2) * s for k, s, d in zip(spec.kernel, spec.stride, spec.dilation, strict=True)
    )
    x, w, _ = operands(spec, batch, c_in, c_out, wide, seed)
    later = x[(..., *(slice(shift * s, None) for s in spec.stride))]
    inside = (..., *(slice(shift, None),) * spec.rank)
    np.testing.assert_allclose(conv_forward(later, w, None, spec), conv_forward(x, w, None, spec)[inside], atol=1e-12)


@given(convolutions())
def test_groups_are_convolutions_side_by_side(case: tuple[ConvSpec, tuple[Any, ...]]) -> None:
    spec, more = case
    x, w, g = operands(spec, *more)
    size = x.shape[2:]
    alone = replace(spec, groups=1)
    parts = list(zip(*(np.split(a, spec.groups, axis) for a, axis in ((x, 1), (w, 0), (g, 1))), strict=True))
    ys = [conv_forward(xi, wi, None, alone) for xi, wi, _ in parts]
    gxs = [conv_grad_input(gi, wi, None, alone, size) for _, wi, gi in parts]
    gws = [conv_grad_weight(xi, gi, alone) for xi, _, gi in parts]
    np.testing.assert_allclose(conv_forward(x, w, None, spec), np.concatenate(ys, 1), atol=1e-12)
    np.testing.assert_allclose(conv_grad_input(g, w, None, spec, size), np.concatenate(gxs, 1), atol=1e-12)
    np.testing.assert_allclose(conv_grad_weight(x, g, spec), np.concatenate(gws, 0), atol=1e-12)


@given(convolutions())
def test_dilation_is_a_kernel_with_zeros_between(case: tuple[ConvSpec, tuple[Any, ...]]) -> None:
    spec, more = case
    x, w, g = operands(spec, *more)
    extent = tuple(d * (k - 1) + 1 for k, d in zip(spec.kernel, spec.dilation, strict=True))
    taps = (..., *(slice(None, None, d) for d in spec.dilation))
    stuffed = np.zeros((*w.shape[:2], *extent))
    stuffed[taps] = w
    dense = replace(spec, kernel=extent, dilation=(1,) * spec.rank)
    np.testing.assert_allclose(conv_forward(x, w, None, spec), conv_forward(x, stuffed, None, dense), atol=1e-12)
    np.testing.assert_allclose(
        conv_grad_input(g, w, None, spec, x.shape[2:]),
        conv_grad_input(g, stuffed, None, dense, x.shape[2:]), atol=1e-12,
    )  # fmt: skip
    np.testing.assert_allclose(conv_grad_weight(x, g, spec), conv_grad_weight(x, g, dense)[taps], atol=1e-12)


@given(convolutions())
def test_padding_is_zeros_around(case: tuple[ConvSpec, tuple[Any, ...]]) -> None:
    spec, more = case
    x, w, g = operands(spec, *more)
    bare = replace(spec, padding=((0, 0),) * spec.rank)
    padded = np.pad(x, ((0, 0), (0, 0), *spec.padding))
    np.testing.assert_array_equal(conv_forward(x, w, None, spec), conv_forward(padded, w, None, bare))
    np.testing.assert_array_equal(conv_grad_weight(x, g, spec), conv_grad_weight(padded, g, bare))
    inside = (..., *(slice(low, low + n) for n, (low, _) in zip(x.shape[2:], spec.padding, strict=True)))
    whole = conv_grad_input(g, w, None, bare, padded.shape[2:])
    np.testing.assert_array_equal(conv_grad_input(g, w, None, spec, x.shape[2:]), whole[inside])


@given(convolutions(rank=2))
def test_lower_ranks_are_leading_axes_of_one(case: tuple[ConvSpec, tuple[Any, ...]]) -> None:
    spec, more = case
    x, w, g = operands(spec, *more)
    deep = spec.expanded(3)
    x3, w3, g3 = (a[:, :, None] for a in (x, w, g))
    np.testing.assert_allclose(conv_forward(x3, w3, None, deep)[:, :, 0], conv_forward(x, w, None, spec), atol=1e-12)
    np.testing.assert_allclose(conv_grad_weight(x3, g3, deep)[:, :, 0], conv_grad_weight(x, g, spec), atol=1e-12)


def test_float32_is_summed_in_float64_and_rounded_once() -> None:
    spec = ConvSpec((3,), (1,), (1,), ((0, 0),))
    x, w = np.array([[[1e8, 1.0, -1e8]]], np.float32), np.ones((1, 1, 3), np.float32)
    y = conv_forward(x, w, None, spec)
    assert y.dtype == np.float32
    assert y.item() == 1.0


def test_complex_is_not_conjugated() -> None:
    spec = ConvSpec((1,), (1,), (1,), ((0, 0),))
    x, w = np.array([[[1j]]]), np.array([[[1j]]])
    assert conv_forward(x, w, np.array([2j]), spec).item() == -1 + 2j
    assert conv_grad_input(x, w, None, spec, (1,)).item() == -1
    assert conv_grad_weight(x, w, spec).item() == -1
