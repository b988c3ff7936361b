"""The float64 results that every library is held to, against the definition in plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lucid.cli.bench.oracle import results
from lucid.cli.bench.problem import Layer

LAYERS = [
    Layer("a", "conv1d", 2, 4, (9,), 6, (3,), (2,), (1,), (2,), 2),
    Layer("b", "conv2d", 1, 3, (5, 6), 4, (3, 2), (1, 2), (1, 0), (1, 2), 1),
    Layer("c", "conv3d", 1, 2, (3, 4, 3), 2, (2, 1, 3), (1, 1, 1), (1, 0, 1), (1, 1, 1), 2),
    Layer("d", "conv_transpose1d", 2, 4, (5,), 6, (4,), (3,), (1,), (2,), 2),
    Layer("e", "conv_transpose2d", 1, 2, (3, 2), 3, (2, 3), (2, 2), (0, 0), (1, 1), 1),
]


def pairs(layer: Layer):
    """Every product of the layer: indices into x, w and y."""
    groups = layer.groups
    inner, outer = layer.c_in // groups, layer.c_out // groups
    small = layer.size if layer.transposed else layer.out_size
    large = layer.out_size if layer.transposed else layer.size
    spaces = map(range, (layer.n, groups, inner, outer))
    for (n, group, c, o), at, tap in itertools.product(
        list(itertools.product(*spaces)), list(np.ndindex(small)), list(np.ndindex(layer.kernel))
    ):
        axes = zip(at, tap, layer.stride, layer.dilation, layer.padding, strict=True)
        to = tuple(i * s + t * d - p for i, t, s, d, p in axes)
        if all(0 <= i < size for i, size in zip(to, large, strict=True)):
            x_at, y_at = (at, to) if layer.transposed else (to, at)
            first = (group * inner + c, o) if layer.transposed else (group * outer + o, c)
            yield (n, group * inner + c, *x_at), (*first, *tap), (n, group * outer + o, *y_at)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.op + layer.name)
def test_results_are_sums_of_the_definitions_products(layer: Layer) -> None:
    x, w, bias, g = (layer.arrays()[name].astype(np.float64) for name in ("x", "w", "bias", "g"))
    exact = {"y": np.zeros(g.shape), "x": np.zeros(x.shape), "w": np.zeros(w.shape)}
    for at_x, at_w, at_y in pairs(layer):
        exact["y"][at_y] += x[at_x] * w[at_w]
        exact["x"][at_x] += g[at_y] * w[at_w]
        exact["w"][at_w] += g[at_y] * x[at_x]
    exact["y"] += bias.reshape(-1, *(1,) * len(layer.size))
    exact["bias"] = g.swapaxes(0, 1).reshape(layer.c_out, -1).sum(1)
    found = results(layer, backward=True)
    assert found.keys() == exact.keys()
    for name, value in exact.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(results(layer, backward=False)["y"], found["y"])
