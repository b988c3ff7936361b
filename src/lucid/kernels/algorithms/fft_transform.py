"""Fourier transforms as native functions: every lane of a vector is a transform of its own, so nothing is shuffled.

A block is n complex numbers of ``lanes`` transforms, ``block[k][re, im][lane]``. Transforms work in place: the forward
one splits frequencies and leaves them digit-reversed, the inverse one undoes its steps in the opposite order, and what
lies between multiplies frequencies wherever they are. So there is no permutation either. The inverse is n times too
large.

The size is data: a transform is a list of steps, which ``Steps`` writes depth first, so that what fits the first level
cache is done there. One kernel computes all sizes.

Source: Gentleman and Sande, "Fast Fourier Transforms: for fun and profit", 1966; twiddle factors from float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import sqrt
from typing import Any

import numpy as np

from lucid.kernels import target
from lucid.kernels.ir import Function, Module, Pointer, Type, Value, fma, i64, ptr, splat
from lucid.kernels.isa import ISA

Array = np.ndarray[Any, Any]
Complex = tuple[Value, Value]

#: Numbers of a step: its radix (negative where there are no twiddle factors), where its first segment starts, how many
#: segments it has, how far apart the numbers of a butterfly are, where its twiddle factors start.
STEP = 5
_HALF = sqrt(0.5)


def radices(size: int, registers: int) -> list[int]:
    """The sizes of butterflies, whose product is ``size``: 8 where the registers hold one, else 4; the largest first.

    >>> radices(1024, 32), radices(128, 16)
    ([8, 8, 4, 4], [4, 4, 4, 2])
    """
    bits = size.bit_length() - 1
    assert bits >= 5, "shorter ones would need butterflies of 2 where there are those of 8"
    if registers < 32:
        return [4] * (bits // 2) + [2] * (bits % 2)
    fours = -bits % 3
    return [8] * ((bits - 2 * fours) // 3) + [4] * fours


class Steps:
    """The steps of a transform and its twiddle factors, as the arrays that kernels read."""

    def __init__(self, size: int, registers: int, number_bytes: int, dtype: str) -> None:
        self._twiddles: list[Array] = []
        self._place = 0
        self._room = target.cpu().l1_bytes * 3 // 4 // number_bytes
        steps = self._split(size, 0, 1, radices(size, registers))
        self.forward = np.array(steps, np.int64)
        self.inverse = np.array(steps[::-1], np.int64)
        self.twiddles = np.concatenate([*self._twiddles, np.zeros(2)]).astype(dtype)

    def _split(self, size: int, start: int, segments: int, rest: Sequence[int]) -> list[tuple[int, ...]]:
        if not rest:
            return []
        if segments == 1 or size * segments <= self._room:
            return self._level(size, start, segments, rest)
        return [step for k in range(segments) for step in self._split(size, start + k * size, 1, rest)]

    def _level(self, size: int, start: int, segments: int, rest: Sequence[int]) -> list[tuple[int, ...]]:
        radix, apart = rest[0], size // rest[0]
        step = (radix if apart > 1 else -radix, start, segments, apart, self._factors(size, radix))
        return [step, *self._split(apart, start, segments * radix, rest[1:])]

    def _factors(self, size: int, radix: int) -> int:
        """Where exp(-2 pi i j q / size) starts, for j below size / radix and 1 <= q < radix."""
        if not hasattr(self, "_known"):
            self._known: dict[int, int] = {}
        if size not in self._known:
            self._known[size] = self._place
            turns = np.outer(np.arange(size // radix), np.arange(1, radix)) / size
            angles = -2 * np.pi * turns
            table = np.stack([np.cos(angles), np.sin(angles)], -1).ravel()
            self._twiddles.append(table)
            self._place += table.size
        return self._known[size]


@lru_cache(maxsize=64)
def steps(size: int, registers: int, number_bytes: int, dtype: str) -> Steps:
    """The steps of a size, made once."""
    return Steps(size, registers, number_bytes, dtype)


def write_transform(way: str, module: Module, element: Type, isa: ISA) -> Function:
    """Adds ``forward(block, steps, count, twiddles)``, or ``inverse`` of the same parameters."""
    lanes, registers = isa.lanes(element), isa.registers
    sizes = (4, 8) if registers >= 32 else (2, 4)
    kinds = {
        sign * radix: _write_step(module, element, lanes, way, radix, sign > 0) for radix in sizes for sign in (1, -1)
    }
    data = ptr(element)
    f = module.function(way, block=data, steps=ptr(i64), count=i64, twiddles=data)
    a = f.args
    with f.loop(0, a.count) as turn:
        step = a.steps.at(turn.i * STEP)
        start, twiddles = a.block.at(step.load(1) * (2 * lanes)), a.twiddles.at(step.load(4))
        for kind, function in kinds.items():
            with f.when(step.load(0).eq(kind)):
                f.call(function, start, step.load(2), step.load(3), twiddles)
    return f


def _write_step(module: Module, element: Type, lanes: int, way: str, radix: int, turned: bool) -> Function:
    """Adds a step: butterflies of one radix over segments, their factors after them, in the inverse before."""
    data = ptr(element)
    name = f"{way}{radix}{'' if turned else '_plain'}"
    f = module.function(name, block=data, segments=i64, apart=i64, twiddles=data)
    a, pair = f.args, 2 * lanes
    with f.loop(0, a.segments) as segment, f.loop(0, a.apart) as j:
        first = a.block.at((segment.i * a.apart * radix + j.i) * pair)
        places = [first.at(a.apart * (pair * q)) for q in range(radix)]
        numbers = [(place.load(0, lanes), place.load(lanes, lanes)) for place in places]
        factors = a.twiddles.at(j.i * (2 * (radix - 1)))
        if way == "forward":
            numbers = _butterfly(numbers, 1)
            if turned:
                numbers = _turned(numbers, factors, lanes, 1)
        else:
            if turned:
                numbers = _turned(numbers, factors, lanes, -1)
            numbers = _butterfly(numbers, -1)
        for place, (re, im) in zip(places, numbers, strict=True):
            place.store(re)
            place.store(im, lanes)
    return f


def _turned(numbers: list[Complex], factors: Pointer, lanes: int, way: int) -> list[Complex]:
    """All but the first times their twiddle factor, or its conjugate."""
    out = numbers[:1]
    for q, number in enumerate(numbers[1:]):
        re, im = (splat(factors.load(2 * q + part), lanes) for part in (0, 1))
        out.append(times(number, (re, im), way))
    return out


def times(a: Complex, b: Complex, way: int = 1) -> Complex:
    """a b, or a times b's conjugate."""
    (x, y), (u, v) = a, b
    if way > 0:
        return fma(x, u, -(y * v)), fma(x, v, y * u)
    return fma(x, u, y * v), fma(y, u, -(x * v))


def _butterfly(numbers: list[Complex], way: int) -> list[Complex]:
    """The discrete Fourier transform of 2, 4 or 8 numbers in registers, in natural order."""
    if len(numbers) == 1:
        return numbers
    even, odd = _butterfly(numbers[0::2], way), _butterfly(numbers[1::2], way)
    size, half = len(numbers), len(numbers) // 2
    odd = [_rotated(number, 8 // size * k, way) for k, number in enumerate(odd)]
    low = [(a + c, b + d) for (a, b), (c, d) in zip(even, odd, strict=True)]
    high = [(a - c, b - d) for (a, b), (c, d) in zip(even, odd, strict=True)]
    assert len(low) == half
    return low + high


def _rotated(number: Complex, eighths: int, way: int) -> Complex:
    """Times exp(-2 pi i eighths / 8), or its conjugate; eighths below 4."""
    x, y = number
    if eighths == 0:
        return number
    if eighths == 2:
        return (y, -x) if way > 0 else (-y, x)
    plus, minus = (x + y) * _HALF, (y - x) * _HALF
    if way > 0:
        return (plus, minus) if eighths == 1 else (minus, -plus)
    turned = ((x - y) * _HALF, (x + y) * _HALF)
    return turned if eighths == 1 else (-turned[1], turned[0])
