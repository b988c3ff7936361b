"""The arithmetic of one step, over all parameters of a group at once and in place.

Everything here is element by element, so the bits depend on nothing but the values. Lists run in parallel: entry i of
``params``, ``grads`` and each state belong together. Where all arrays are of one dtype that kernels know, one native
call does it all (``kernels.update``); the functions here are for the rest, and give the same bits, but for half
precision, which the kernel rounds once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from math import sqrt
from typing import Any

import numpy as np

from lucid.core.dtypes import is_floating
from lucid.kernels import update

Array = np.ndarray[Any, Any]
Arrays = Sequence[Array]
Step = Callable[..., None]


def _unless_native(kernel: Step) -> Callable[[Step], Step]:
    """Lets the kernel take the step wherever it can."""

    def decorate(plain: Step) -> Step:
        @wraps(plain)
        def step(*lists: Any, **options: Any) -> None:
            arrays = [a for entries in lists if entries is not None for a in entries if isinstance(a, np.ndarray)]
            dtypes = {a.dtype for a in arrays}
            known = len(dtypes) == 1 and is_floating(next(iter(dtypes)))
            native = known and all(a.flags.c_contiguous for a in arrays)
            (kernel if native else plain)(*lists, **options)

        return step

    return decorate


@_unless_native(update.sgd)
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
    """``kernels.update.sgd`` in NumPy."""
    for i, (p, g) in enumerate(zip(params, grads, strict=True)):
        d = _decayed(p, g, weight_decay, maximize)
        if buffers is not None:
            b = buffers[i]
            if is_first[i]:
                b[...] = d
            else:
                b *= momentum
                b += (1 - dampening) * d
            d = d + momentum * b if nesterov else b
        p -= lr * d


@_unless_native(update.adam)
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
    """``kernels.update.adam`` in NumPy."""
    beta1, beta2 = betas
    for i, (p, g, m, v, step) in enumerate(zip(params, grads, means, squares, steps, strict=True)):
        _averaged(p, g, m, v, lr, betas, weight_decay, decoupled, maximize)
        if largest is not None:
            np.maximum(largest[i], v, out=largest[i])
        root = np.sqrt(v if largest is None else largest[i])
        root /= sqrt(1 - beta2**step)
        root += eps
        p -= lr / (1 - beta1**step) * (m / root)


@_unless_native(update.rmsprop)
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
    """``kernels.update.rmsprop`` in NumPy."""
    for i, (p, g, v) in enumerate(zip(params, grads, squares, strict=True)):
        d = _decayed(p, g, weight_decay, maximize)
        v *= alpha
        v += (1 - alpha) * (d * d)
        spread = v
        if means is not None:
            means[i] += (1 - alpha) * (d - means[i])
            spread = v - means[i] * means[i]
        d = d / (np.sqrt(spread) + eps)
        if buffers is not None:
            b = buffers[i]
            b *= momentum
            b += d
            d = b
        p -= lr * d


def adagrad(
    params: Arrays,
    grads: Arrays,
    sums: Arrays,
    steps: Sequence[int],
    *,
    lr: float,
    lr_decay: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    """p ← p - lr / (1 + (t - 1) lr_decay) · d / (√s + eps), s the sum of d²."""
    for p, g, s, step in zip(params, grads, sums, steps, strict=True):
        d = _decayed(p, g, weight_decay, maximize)
        s += d * d
        p -= lr / (1 + (step - 1) * lr_decay) * (d / (np.sqrt(s) + eps))


def adadelta(
    params: Arrays,
    grads: Arrays,
    squares: Arrays,
    moves: Arrays,
    *,
    lr: float,
    rho: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    """p ← p - lr δ, δ = d √(u + eps) / √(v + eps), with v and u the running means of d² and δ²."""
    for p, g, v, u in zip(params, grads, squares, moves, strict=True):
        d = _decayed(p, g, weight_decay, maximize)
        v *= rho
        v += (1 - rho) * (d * d)
        move = np.sqrt(u + eps) / np.sqrt(v + eps) * d
        u *= rho
        u += (1 - rho) * (move * move)
        p -= lr * move


def adamax(
    params: Arrays,
    grads: Arrays,
    means: Arrays,
    largest: Arrays,
    steps: Sequence[int],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    """p ← p - lr / (1 - β₁ᵗ) · m / n, n ← max(β₂ n, |d| + eps)."""
    beta1, beta2 = betas
    for p, g, m, n, step in zip(params, grads, means, largest, steps, strict=True):
        d = _decayed(p, g, weight_decay, maximize)
        m += (1 - beta1) * (d - m)
        np.maximum(beta2 * n, np.abs(d) + eps, out=n)
        p -= lr / (1 - beta1**step) * (m / n)


def nadam_momentum(beta: float, decay: float, step: int) -> float:
    """How much of the running mean a step takes: half of ``beta`` at first."""
    return float(beta * (1 - 0.5 * 0.96 ** (step * decay)))


def nadam(
    params: Arrays,
    grads: Arrays,
    means: Arrays,
    squares: Arrays,
    steps: Sequence[int],
    momenta: Sequence[Sequence[float]],
    products: Sequence[float],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> None:
    """``momenta`` are those of this step and the next, ``products`` those of all steps up to this one multiplied."""
    for p, g, m, v, step, (now, following), product in zip(
        params, grads, means, squares, steps, momenta, products, strict=True
    ):
        d = _averaged(p, g, m, v, lr, betas, weight_decay, decoupled, maximize)
        root = np.sqrt(v / (1 - betas[1] ** step)) + eps
        p -= lr * (1 - now) / (1 - product) * (d / root)
        p -= lr * following / (1 - product * following) * (m / root)


def radam(
    params: Arrays,
    grads: Arrays,
    means: Arrays,
    squares: Arrays,
    steps: Sequence[int],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> None:
    """Adam's step times a factor below 1 that grows with the steps; without the squares until they are of 5."""
    beta1, beta2 = betas
    most = 2 / (1 - beta2) - 1
    for p, g, m, v, step in zip(params, grads, means, squares, steps, strict=True):
        _averaged(p, g, m, v, lr, betas, weight_decay, decoupled, maximize)
        left = 1 - beta2**step
        length = most - 2 * step * beta2**step / left
        move = m / (1 - beta1**step)
        if length > 5:
            sure = (length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length)
            move = move * (sqrt(sure) * sqrt(left) / (np.sqrt(v) + eps))
        p -= lr * move


def _averaged(
    p: Array,
    g: Array,
    mean: Array,
    square: Array,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> Array:
    """The direction, after it has gone into the two running means."""
    if decoupled:
        p *= 1 - lr * weight_decay
    d = _decayed(p, g, 0.0 if decoupled else weight_decay, maximize)
    mean += (1 - betas[0]) * (d - mean)
    square *= betas[1]
    square += (1 - betas[1]) * (d * d)
    return d


def _decayed(p: Array, g: Array, weight_decay: float, maximize: bool) -> Array:
    """The direction to go down: g (or -g), pulled towards smaller p."""
    d = -g if maximize else g
    return d + weight_decay * p if weight_decay else d
