"""Convolution and its gradients in float64, tap by tap with NumPy: what every library's results are checked against."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from lucid.cli.bench.problem import Layer

Array = np.ndarray[Any, Any]
Index = tuple[Any, ...]


def results(layer: Layer, backward: bool) -> dict[str, Array]:
    """What the layer gives on its arrays: y, and if ``backward`` the gradients of x, w and bias."""
    x, w, bias, g = (layer.arrays()[name].astype(np.float64) for name in ("x", "w", "bias", "g"))
    y_of, x_of, w_of = (_adjoint, _convolve, _weights) if layer.transposed else (_convolve, _adjoint, _weights)
    found = {"y": y_of(layer, x, w) + bias.reshape(-1, *(1,) * len(layer.size))}
    if backward:
        found["x"] = x_of(layer, g, w)
        found["w"] = w_of(layer, g, x) if layer.transposed else w_of(layer, x, g)
        found["bias"] = g.sum((0, *range(2, g.ndim)))
    return found


def write(layer: Layer, backward: bool, file: str) -> None:
    """``results`` into a .npz file."""
    found: dict[str, Any] = results(layer, backward)
    np.savez(file, **found)


def _taps(layer: Layer) -> Iterator[tuple[Index, Index]]:
    """Each tap's index in the kernel, and the elements of the padded large side that it meets."""
    small = layer.size if layer.transposed else layer.out_size
    for tap in np.ndindex(layer.kernel):
        axes = zip(tap, small, layer.stride, layer.dilation, strict=True)
        yield (..., *tap), (..., *(slice(t * d, t * d + (n - 1) * s + 1, s) for t, n, s, d in axes))


def _sides(layer: Layer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes of the side that a convolution reads, padded, and of the side that it writes."""
    large, small = (layer.out_size, layer.size) if layer.transposed else (layer.size, layer.out_size)
    return tuple(n + 2 * p for n, p in zip(large, layer.padding, strict=True)), small


def _grouped(layer: Layer, w: Array) -> Array:
    return w.reshape(layer.groups, -1, *w.shape[1:])


def _padded(layer: Layer, x: Array) -> Array:
    return np.pad(x, [(0, 0), (0, 0), *((p, p) for p in layer.padding)])


def _columns(layer: Layer, x: Array) -> Array:
    """(N, groups, channels, pixels) of the small side, or of the elements of the large side that one tap meets."""
    return x.reshape(x.shape[0], layer.groups, x.shape[1] // layer.groups, -1)


def _convolve(layer: Layer, x: Array, w: Array) -> Array:
    _, small = _sides(layer)
    x, w = _padded(layer, x), _grouped(layer, w)
    y = np.zeros((x.shape[0], layer.groups, w.shape[1], prod(small)))
    for tap, where in _taps(layer):
        y += w[tap] @ _columns(layer, x[where])
    return y.reshape(x.shape[0], -1, *small)


def _adjoint(layer: Layer, g: Array, w: Array) -> Array:
    large, small = _sides(layer)
    w = _grouped(layer, w)
    columns = _columns(layer, g)
    x = np.zeros((g.shape[0], layer.groups * w.shape[2], *large))
    for tap, where in _taps(layer):
        x[where] += (w[tap].swapaxes(1, 2) @ columns).reshape(*x.shape[:2], *small)
    inside: Index = (..., *(slice(p, n - p) for n, p in zip(large, layer.padding, strict=True)))
    return x[inside]


def _weights(layer: Layer, x: Array, g: Array) -> Array:
    x = _padded(layer, x)
    columns = _columns(layer, g)
    w = np.empty((layer.groups, columns.shape[2], x.shape[1] // layer.groups, *layer.kernel))
    for tap, where in _taps(layer):
        w[tap] = (columns @ _columns(layer, x[where]).swapaxes(2, 3)).sum(0)
    return w.reshape(-1, *w.shape[2:])
