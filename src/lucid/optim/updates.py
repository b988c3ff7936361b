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
        if decoupled:
            p *= 1 - lr * weight_decay
        d = _decayed(p, g, 0.0 if decoupled else weight_decay, maximize)
        m += (1 - beta1) * (d - m)
        v *= beta2
        v += (1 - beta2) * (d * d)
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


def _decayed(p: Array, g: Array, weight_decay: float, maximize: bool) -> Array:
    """The direction to go down: g (or -g), pulled towards smaller p."""
    d = -g if maximize else g
    return d + weight_decay * p if weight_decay else d
