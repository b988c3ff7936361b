"""Gradients against differences, in one random direction at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lucid.autograd.engine import grad
from lucid.autograd.mode import enable_grad, no_grad
from lucid.autograd.tracked import Array, Tracked, wrap
from lucid.core.errors import GradientError


def check_grads(
    function: Callable[..., Any],
    inputs: Any,
    order: int = 2,
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    seed: int = 0,
) -> None:
    """Compare the gradients of ``function`` with central differences, to second order by default.

    For a random direction v and random weights u, <u, (f(x + eps v) - f(x - eps v)) / 2 eps> must equal <grad, v>. The
    second order does the same to the function that computes the gradient. Inputs should be float64 or complex128.

    Cost: four calls of ``function`` and one backward pass per order.
    Source: HIPS/autograd, ``test_util.check_grads``.

    Raises: GradientError with both numbers.

    >>> import lucid
    >>> x = lucid.tensor([0.5, 1.0], dtype=lucid.float64, requires_grad=True)
    >>> check_grads(lambda x: x * x.exp(), x)
    """
    inputs = [inputs] if isinstance(inputs, Tracked) else list(inputs)
    arrays = [np.array(x._array) for x in inputs]
    active = [i for i, x in enumerate(inputs) if x._requires_grad]
    if not active:
        raise GradientError("check_grads: no input requires a gradient")
    _check(function, arrays, active, order, 1, (eps, rtol, atol), np.random.default_rng(seed))


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """``check_grads`` to first order, as PyTorch has it: True, or False or an error where gradients are wrong."""
    try:
        check_grads(func, inputs, 1, eps, rtol, atol)
    except GradientError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(
    func: Callable[..., Any], inputs: Any, *, eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3
) -> bool:
    """``check_grads`` to second order, as PyTorch has it: True, or an error where gradients are wrong."""
    check_grads(func, inputs, 2, eps, rtol, atol)
    return True


def _check(
    function: Callable[..., Any],
    arrays: list[Array],
    active: list[int],
    order: int,
    level: int,
    tolerances: tuple[float, float, float],
    rng: np.random.Generator,
) -> None:
    eps, rtol, atol = tolerances
    leaves = _leaves(arrays, active)
    results = _results(function(*leaves))
    weights = [_random(rng, r._array) for r in results]
    directions = {i: _random(rng, arrays[i]) for i in active}
    pulled = _grads(results, [leaves[i] for i in active], weights, create=False)
    analytic = sum(_dot(g._array, directions[i]) for i, g in zip(active, pulled, strict=True) if g is not None)

    with no_grad():
        high, low = (
            _results(function(*_leaves([a + s * eps * directions.get(i, 0) for i, a in enumerate(arrays)], [])))
            for s in (1, -1)
        )
    numeric = sum(_dot(w, (h._array - b._array) / (2 * eps)) for w, h, b in zip(weights, high, low, strict=True))
    if not np.isclose(analytic, numeric, rtol=rtol, atol=atol):
        raise GradientError(f"check_grads: order {level}: the gradient gives {analytic}, differences give {numeric}")

    if level < order:

        def gradient(*xs: Any) -> tuple[Any, ...]:
            xs = tuple(x if x._requires_grad or i not in active else x.requires_grad_() for i, x in enumerate(xs))
            from_graph = _grads(_results(function(*xs)), [xs[i] for i in active], weights, create=True)
            return tuple(g for g in from_graph if g is not None)

        _check(enable_grad(gradient), arrays, active, order, level + 1, tolerances, rng)


def _grads(results: list[Any], inputs: list[Any], weights: Sequence[Array], create: bool) -> tuple[Any, ...]:
    """Gradients of the results that have one; a result that is constant in the inputs adds nothing."""
    live = [(r, wrap(w)) for r, w in zip(results, weights, strict=True) if r._requires_grad]
    if not live:
        return (None,) * len(inputs)
    roots, seeds = zip(*live, strict=True)
    return grad(roots, inputs, seeds, create_graph=create, allow_unused=True)


def _leaves(arrays: list[Array], active: Sequence[int]) -> list[Any]:
    leaves = [wrap(np.array(a)) for a in arrays]
    for i in active:
        leaves[i]._requires_grad = True
    return leaves


def _results(returned: Any) -> list[Any]:
    listed = [returned] if isinstance(returned, Tracked) else list(returned)
    return [r for r in listed if r._array.dtype.kind in "fc"]


def _random(rng: np.random.Generator, like: Array) -> Array:
    values: Any = rng.standard_normal(like.shape)
    if like.dtype.kind == "c":
        values = values + 1j * rng.standard_normal(like.shape)
    return np.asarray(values, like.dtype)


def _dot(a: Array, b: Array) -> float:
    """The real inner product, for which a complex gradient g means df = Re <conj(g), dx>."""
    return float(np.sum(np.conj(a) * b).real)
