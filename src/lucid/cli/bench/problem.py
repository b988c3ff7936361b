"""What is measured, as data: one convolution layer with its input, weights and upstream gradient."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lucid.kernels.runtime import memory

if TYPE_CHECKING:
    from lucid.kernels.roofline import Roofline

_FILES = {"layers": "suite.json", "heldout": "heldout.json", "drawn": "drawn.json"}
#: What the bar of the project is measured on; layers of other networks on which no cost was fitted, though some led to
#: better kernels; and one layer of each of 22 networks, drawn at random from all of theirs and looked at by nobody.
SUITES = {name: Path(__file__).with_name(file) for name, file in _FILES.items()}
FLOAT32_ROUNDING = 2.0**-24
AXES = ("size", "kernel", "stride", "padding", "dilation")  #: the fields with a number an axis
# Rows that touch more bytes than this do not stay in a cache between calls, so memory bounds them too.
CACHE_BYTES = 24 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """One row of the suite. ``op`` is the functional's name, conv1d … conv_transpose3d.

    In a file, a scalar for one of ``AXES`` holds for every axis.
    """

    name: str
    op: str
    n: int
    c_in: int
    size: tuple[int, ...]
    c_out: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Layer:
        """A row of a suite's file; ``from``, the network it was drawn from, is for its readers."""
        plain = {key: value for key, value in row.items() if key != "from"}
        return cls(**plain | {name: _an_axis(row[name], len(row["size"])) for name in AXES})

    @property
    def transposed(self) -> bool:
        return self.op.startswith("conv_transpose")

    @property
    def short_name(self) -> str:
        """The name with ``conv_transpose`` as ``convT``, to fit a terminal."""
        return self.name.replace("conv_transpose", "convT")

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the functional, as they are mostly written: one number for axes that are alike."""
        axes = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        alike = {name: values[0] if len(set(values)) == 1 else values for name, values in axes.items()}
        return alike | {"groups": self.groups}

    @property
    def out_size(self) -> tuple[int, ...]:
        axes = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        if self.transposed:
            return tuple((n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in axes)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        ends = (self.c_in, self.c_out // self.groups) if self.transposed else (self.c_out, self.c_in // self.groups)
        return {
            "x": (self.n, self.c_in, *self.size),
            "w": (*ends, *self.kernel),
            "bias": (self.c_out,),
            "g": (self.n, self.c_out, *self.out_size),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Standard normal float32 values, the same in every process; large ones begin with a line of the cache."""
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        empty = {name: memory.empty(shape, np.float32) for name, shape in self.shapes.items()}
        return {name: rng.standard_normal(None, np.float32, out=array) for name, array in empty.items()}

    @property
    def flops(self) -> int:
        """Multiplications and additions of the direct algorithm, forward; each gradient takes as many."""
        pixels = prod(self.size if self.transposed else self.out_size)
        return 2 * self.n * self.c_in * self.c_out // self.groups * prod(self.kernel) * pixels

    @property
    def traffic_bytes(self) -> int:
        """Bytes that the forward must at least move: input, weight and output once. Each gradient moves as many."""
        return 4 * sum(prod(self.shapes[name]) for name in ("x", "w", "g"))

    def limit_s(self, peaks: Roofline, backward: bool) -> float:
        """The time no direct algorithm beats at these peaks, if memory were as fast as it copies."""
        return peaks.bound_ns(self.flops, self._far_bytes) * 1e-9 * (3 if backward else 1)

    def reach_s(self, peaks: Roofline, backward: bool) -> float:
        """The same where each role's result can be written no faster than memory is filled."""
        far = self._far_bytes
        written = [4 * prod(self.shapes[name]) for name in (("g", "x", "w") if backward else ("g",))]
        return sum(peaks.bound_ns(self.flops, far, size if far else 0) for size in written) * 1e-9

    @property
    def _far_bytes(self) -> int:
        """Traffic with memory: none where a cache keeps it all."""
        return self.traffic_bytes if self.traffic_bytes > CACHE_BYTES else 0

    def tolerances(self) -> dict[str, float]:
        """Largest admitted error of each result, relative to the result's root mean square.

        A sum of n products of standard normal values has root mean square √n and, summed in any order in float32, an
        error of about u√n times that. The factor 64 covers the largest of many results (16 would) and the constants of
        Winograd F(4, 3), which OpenVINO takes too.
        """
        out, inner = self.c_out // self.groups, self.c_in // self.groups
        pixels = self.n * prod(self.size if self.transposed else self.out_size)
        taps = prod(self.kernel)
        terms = {"y": inner * taps, "x": out * taps, "w": pixels, "bias": self.n * prod(self.out_size)}
        return {name: 64 * FLOAT32_ROUNDING * sqrt(count) for name, count in terms.items()}


def _an_axis(value: int | list[int], rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def suite(only: str | None = None, name: str = "layers") -> Iterator[Layer]:
    """The layers of one of ``SUITES`` whose name contains ``only``."""
    for row in json.loads(SUITES[name].read_text("utf-8"))["layers"]:
        layer = Layer.from_json(row)
        if only is None or only in layer.name or only in layer.short_name:
            yield layer


def errors(results: dict[str, np.ndarray], oracle: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest deviation of each result from the float64 oracle, relative to the oracle's root mean square."""
    return {
        name: float(np.abs(value - oracle[name]).max() / np.sqrt(np.square(oracle[name]).mean()))
        for name, value in results.items()
    }
