"""Optimizer steps: one native call over all parameters, in place, whatever their number and sizes.

An update is a formula of vectors, as in ``elementwise``; what differs between parameters (a bias correction, say) is
a number of the parameter's row in a table. The arithmetic is element by element and rounds where the formula is written
to round, so the bits depend neither on threads nor on vector width.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import sqrt as root_of
from typing import Any

import numpy as np

from lucid.kernels import jit
from lucid.kernels.elementwise import Array, Formula, compute_type, number_values, over_vectors, read, write
from lucid.kernels.ir import BY_DTYPE, Module, Pointer, Value, convert, f64, i64, maximum, minimum, ptr, splat, sqrt
from lucid.kernels.isa import ISA
from lucid.kernels.launch import address
from lucid.kernels.runtime import threads

Arrays = Sequence[Array]

BLOCK = 4096  #: elements of a task
_CHUNK = 4


class Update:
    """A formula over lists of arrays: positional parameters are arrays, keyword-only ones numbers.

    Its values replace the arrays named in ``writes``. ``rows`` names the numbers that every parameter has its own of;
    ``arrays`` the arrays, where the formula takes a varying number of them.

    >>> decay = Update("decay", lambda p, *, by: p * by, writes=("p",))
    >>> a, b = np.ones(2, "f"), np.ones(3, "f")
    >>> decay({"p": [a, b]}, by=0.5)
    >>> a, b
    (array([0.5, 0.5], dtype=float32), array([0.5, 0.5, 0.5], dtype=float32))
    """

    def __init__(
        self,
        name: str,
        formula: Callable[..., Any],
        writes: tuple[str, ...],
        rows: tuple[str, ...] = (),
        arrays: tuple[str, ...] = (),
    ) -> None:
        self.formula, self.writes, self.rows = Formula(name, formula), writes, rows
        self.arrays = arrays or self.formula.arrays
        self.shared = tuple(n for n in self.formula.numbers if n not in rows)

    def __repr__(self) -> str:
        return f"Update({self.formula.name})"

    def __call__(
        self, arrays: Mapping[str, Arrays], rows: Mapping[str, Sequence[float]] | None = None, **numbers: float
    ) -> None:
        """Entry i of every list belongs together. Arrays are C-contiguous, of one floating-point dtype."""
        lists = [arrays[n] for n in self.arrays]
        sizes = [a.size for a in lists[0]]
        starts = [0, *accumulate(-(-n // BLOCK) for n in sizes)]
        if not starts[-1]:
            return
        own = [(rows or {})[n] for n in self.rows]
        record = struct.Struct(f"{len(lists) + 2}q{len(own)}d").pack
        table = b"".join(
            record(*map(address, row[0]), size, start, *row[1])
            for row, size, start in zip(_zipped(lists, own, len(sizes)), sizes, starts, strict=False)
        )
        holder = np.frombuffer(table, np.int64)
        kernel = _Kernel(self, lists[0][0].dtype.name)
        fields = struct.pack(f"2q{len(self.shared)}d", address(holder), len(sizes), *(numbers[n] for n in self.shared))
        threads.run(jit.kernel(kernel, kernel.write).address("run"), fields, starts[-1], chunk=_CHUNK)


def _zipped(lists: Sequence[Arrays], own: Sequence[Sequence[float]], count: int) -> list[tuple[Any, Any]]:
    """For every parameter its arrays and its numbers."""
    numbers = zip(*own, strict=True) if own else ((),) * count
    return list(zip(zip(*lists, strict=True), numbers, strict=True))


@dataclass(frozen=True)
class _Kernel:
    """An update of arrays of one dtype."""

    update: Update
    dtype: str

    def write(self, isa: ISA) -> Module:
        """A task is a block of a parameter. Every row of the table is asked which of the tasks are its own."""
        update, element = self.update, compute_type((self.dtype,))
        lanes, names = isa.lanes(element), self.update.arrays
        slots = len(names) + 2 + len(update.rows)
        m = Module(f"update_{update.formula.name}_{self.dtype}", isa)
        f = m.entry("run", table=ptr(i64), count=i64, **dict.fromkeys(update.shared, f64))
        a = f.args
        shared = number_values(f, element, lanes, update.shared)
        with f.loop(0, a.count) as row:
            record = a.table.at(row.i * slots)
            n, first = record[len(names)], record[len(names) + 1]
            begin, end = maximum(a.begin, first), minimum(a.end, first + (n + BLOCK - 1) // BLOCK)
            with f.when(begin < end):
                arrays = {name: _pointer(record, k, self.dtype) for k, name in enumerate(names)}
                own = {
                    name: splat(convert(record.at(len(names) + 2 + k).cast(f64).load(), element), lanes)
                    for k, name in enumerate(update.rows)
                }
                numbers = {**shared, **own}

                def vector(i: Value, mask: Value | None) -> None:
                    values = [read(p, i, lanes, mask) for p in arrays.values()]
                    for name, value in zip(update.writes, update.formula(values, numbers), strict=True):
                        write(arrays[name], value, i, mask)

                start = (begin - first) * BLOCK
                over_vectors(f, start, minimum((end - first) * BLOCK, n), lanes, vector)
        return m


def _pointer(record: Pointer, slot: int, dtype: str) -> Pointer:
    value = record.at(slot).cast(ptr(BY_DTYPE[dtype])).load()
    assert isinstance(value, Pointer), "the slot holds a pointer"
    return value


# The optimizers


def sgd(
    params: Arrays,
    grads: Arrays,
    buffers: Arrays | None,
    is_first: Sequence[bool],
    *,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
    maximize: bool,
) -> None:
    """p -= lr d, d = g + weight_decay p, through a momentum buffer b = momentum b + (1 - dampening) d if there is one.

    The first b is d itself. With ``nesterov`` the step goes along d + momentum b.
    Source: Sutskever et al., ICML 2013.
    """
    numbers: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "rest": 1 - dampening}
    for first in {False} if buffers is None else set(is_first):
        update = _sgd(buffers is not None, first, nesterov, weight_decay != 0, maximize)
        chosen = [i for i in range(len(params)) if buffers is None or is_first[i] == first]
        arrays = {"p": [params[i] for i in chosen], "g": [grads[i] for i in chosen]}
        if buffers is not None:
            arrays["b"] = [buffers[i] for i in chosen]
        update(arrays, **{n: numbers[n] for n in update.shared})


@lru_cache(maxsize=32)
def _sgd(buffered: bool, first: bool, nesterov: bool, decay: bool, maximize: bool) -> Update:
    def plain(p: Value, g: Value, *, lr: Value, weight_decay: Value) -> Value:
        return p - lr * _direction(p, g, weight_decay, decay, maximize)

    def heavy(
        p: Value, g: Value, b: Value, *, lr: Value, weight_decay: Value, momentum: Value, rest: Value
    ) -> tuple[Value, Value]:
        d = _direction(p, g, weight_decay, decay, maximize)
        b = d if first else b * momentum + rest * d
        return p - lr * (d + momentum * b if nesterov else b), b

    return Update("sgd_momentum", heavy, ("p", "b")) if buffered else Update("sgd", plain, ("p",))


def adam(
    params: Arrays,
    grads: Arrays,
    means: Arrays,
    squares: Arrays,
    largest: Arrays | None,
    steps: Sequence[int],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> None:
    """p -= lr m̂ / (√v̂ + eps), m and v the decaying means of g and g², m̂ and v̂ freed of their bias towards zero.

    ``decoupled`` shrinks p by lr weight_decay itself (AdamW) instead of adding weight_decay p to g. With ``largest``
    the largest v so far takes the place of v (AMSGrad). ``steps`` counts from 1.
    Source: Kingma & Ba, arXiv:1412.6980; Loshchilov & Hutter, arXiv:1711.05101; Reddi et al., ICLR 2018.
    """
    beta1, beta2 = betas
    arrays = {"p": params, "g": grads, "m": means, "v": squares}
    if largest is not None:
        arrays["top"] = largest
    _adam(largest is not None, weight_decay != 0 and not decoupled, decoupled, maximize)(
        arrays,
        {"rate": [lr / (1 - beta1**t) for t in steps], "bias": [root_of(1 - beta2**t) for t in steps]},
        rest1=1 - beta1,
        beta2=beta2,
        rest2=1 - beta2,
        eps=eps,
        weight_decay=weight_decay,
        shrink=1 - lr * weight_decay,
    )


@lru_cache(maxsize=32)
def _adam(amsgrad: bool, decay: bool, decoupled: bool, maximize: bool) -> Update:
    def formula(
        p: Value, g: Value, m: Value, v: Value, *top: Value, rate: Value, bias: Value, rest1: Value,
        beta2: Value, rest2: Value, eps: Value, weight_decay: Value, shrink: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        p = p * shrink if decoupled else p
        d = _direction(p, g, weight_decay, decay, maximize)
        m = m + rest1 * (d - m)
        v = v * beta2 + rest2 * (d * d)
        largest = [maximum(t, v) for t in top]
        root = sqrt(largest[0] if amsgrad else v)
        return (p - rate * (m / (root / bias + eps)), m, v, *largest)

    extra = ("top",) if amsgrad else ()
    return Update("adam", formula, ("p", "m", "v", *extra), ("rate", "bias"), ("p", "g", "m", "v", *extra))


def rmsprop(
    params: Arrays,
    grads: Arrays,
    squares: Arrays,
    buffers: Arrays | None,
    means: Arrays | None,
    *,
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
    maximize: bool,
) -> None:
    """p -= lr g / (√v + eps), v the decaying mean of g², less the square of the mean of g if ``means`` are kept.

    Source: Hinton, Coursera lecture 6e; Graves, arXiv:1308.0850.
    """
    arrays = {"p": params, "g": grads, "v": squares}
    if means is not None:
        arrays["m"] = means
    if buffers is not None:
        arrays["b"] = buffers
    update = _rmsprop(means is not None, buffers is not None, weight_decay != 0, maximize)
    update(arrays, lr=lr, alpha=alpha, rest=1 - alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)


@lru_cache(maxsize=32)
def _rmsprop(centered: bool, buffered: bool, decay: bool, maximize: bool) -> Update:
    names = ("v", *(("m",) if centered else ()), *(("b",) if buffered else ()))

    def formula(
        p: Value, g: Value, *state: Value, lr: Value, alpha: Value, rest: Value, eps: Value, weight_decay: Value,
        momentum: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        held = dict(zip(names, state, strict=True))
        d = _direction(p, g, weight_decay, decay, maximize)
        spread = held["v"] = held["v"] * alpha + rest * (d * d)
        if centered:
            held["m"] = held["m"] + rest * (d - held["m"])
            spread = spread - held["m"] * held["m"]
        d = d / (sqrt(spread) + eps)
        if buffered:
            held["b"] = d = held["b"] * momentum + d
        return (p - lr * d, *held.values())

    return Update("rmsprop", formula, ("p", *names), arrays=("p", "g", *names))


def _direction(p: Value, g: Value, weight_decay: Value, decay: bool, maximize: bool) -> Value:
    """The way down: g (or -g), pulled towards smaller p."""
    d = -g if maximize else g
    return d + weight_decay * p if decay else d
