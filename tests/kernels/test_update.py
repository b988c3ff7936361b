from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest

from lucid.kernels import target, update
from lucid.kernels.runtime import threads
from tests.kernels.guard import guarded, run_guarded_cases

Array = np.ndarray[Any, Any]
ISAS = [isa.name for isa in target.cpu().isas]
SIZES = [(3,), (), (0,), (17, 5), (update.BLOCK,), (2, update.BLOCK + 1), (1,), (7, 3, 3, 3)]


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def arrays(seed: int, dtype: Any, positive: bool = False) -> list[Array]:
    rng = np.random.default_rng(seed)
    made = [np.asarray(rng.standard_normal(s), dtype) for s in SIZES]
    return [np.asarray(np.abs(a)) for a in made] if positive else made


def sgd(p: Array, g: Array, b: Array | None, first: bool, o: dict[str, Any]) -> None:
    """PyTorch's documented algorithm, one rounding per operation."""
    d = -g if o["maximize"] else g.copy()
    if o["weight_decay"]:
        d = d + p.dtype.type(o["weight_decay"]) * p
    if b is not None:
        b[...] = d if first else p.dtype.type(o["momentum"]) * b + p.dtype.type(1 - o["dampening"]) * d
        d = d + p.dtype.type(o["momentum"]) * b if o["nesterov"] else b
    p -= p.dtype.type(o["lr"]) * d


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sgd_bit_for_bit(dtype: Any, isa: str) -> None:
    with target.using(isa):
        for momentum, nesterov, decay, maximize in product((0, 0.9), (False, True), (0, 0.01), (False, True)):
            options = {"lr": 0.1, "momentum": momentum, "dampening": 0.0 if nesterov else 0.2, "nesterov": nesterov,
                       "weight_decay": decay, "maximize": maximize}  # fmt: skip
            params, grads, buffers = arrays(0, dtype), arrays(1, dtype), arrays(2, dtype)
            want = [(p.copy(), b.copy()) for p, b in zip(params, buffers, strict=True)]
            first = [k % 2 == 0 for k in range(len(params))]
            update.sgd(params, grads, buffers if momentum else None, first, **options)
            for k, (p, b) in enumerate(want):
                sgd(p, grads[k], b if momentum else None, first[k], options)
                np.testing.assert_array_equal(params[k], p)
                np.testing.assert_array_equal(buffers[k], b)


def adam(p: Array, g: Array, m: Array, v: Array, top: Array | None, step: int, o: dict[str, Any]) -> None:
    """PyTorch's documented algorithm, one rounding per operation."""
    number, (beta1, beta2) = p.dtype.type, o["betas"]
    if o["decoupled"]:
        p *= number(1 - o["lr"] * o["weight_decay"])
    d = -g if o["maximize"] else g.copy()
    if o["weight_decay"] and not o["decoupled"]:
        d = d + number(o["weight_decay"]) * p
    m += number(1 - beta1) * (d - m)
    v[...] = v * number(beta2) + number(1 - beta2) * (d * d)
    if top is not None:
        top[...] = np.maximum(top, v)
    root = np.sqrt(v if top is None else top) / number(np.sqrt(1 - beta2**step)) + number(o["eps"])
    p -= number(o["lr"] / (1 - beta1**step)) * (m / root)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adam_bit_for_bit(dtype: Any, isa: str) -> None:
    with target.using(isa):
        for amsgrad, decay, decoupled, maximize in product((False, True), (0, 0.01), (False, True), (False, True)):
            options = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": decay, "decoupled": decoupled,
                       "maximize": maximize}  # fmt: skip
            params, grads, means = arrays(0, dtype), arrays(1, dtype), arrays(2, dtype)
            squares, largest = arrays(3, dtype, True), arrays(4, dtype, True)
            want = [[a.copy() for a in row] for row in zip(params, means, squares, largest, strict=True)]
            steps = list(range(1, len(params) + 1))
            update.adam(params, grads, means, squares, largest if amsgrad else None, steps, **options)
            for k, (p, m, v, top) in enumerate(want):
                adam(p, grads[k], m, v, top if amsgrad else None, steps[k], options)
                for got, a in zip((params[k], means[k], squares[k], largest[k]), (p, m, v, top), strict=True):
                    np.testing.assert_array_equal(got, a)


@pytest.mark.parametrize("isa", ISAS)
def test_rmsprop_bit_for_bit(isa: str) -> None:
    number = np.float32
    with target.using(isa):
        for centered, momentum, decay, maximize in product((False, True), (0, 0.9), (0, 0.01), (False, True)):
            params, grads, squares = (
                arrays(0, number),
                arrays(1, number),
                [np.asarray(a + 2) for a in arrays(2, number, True)],
            )
            buffers, means = arrays(3, number), arrays(4, number)
            means = [np.asarray(a / 8) for a in means]
            want = [[a.copy() for a in row] for row in zip(params, squares, buffers, means, strict=True)]
            update.rmsprop(
                params, grads, squares, buffers if momentum else None, means if centered else None,
                lr=0.01, alpha=0.9, eps=1e-8, weight_decay=decay, momentum=momentum, maximize=maximize,
            )  # fmt: skip
            for k, (p, v, b, m) in enumerate(want):
                d = -grads[k] if maximize else grads[k].copy()
                d = d + number(decay) * p if decay else d
                v[...] = v * number(0.9) + number(1 - 0.9) * (d * d)
                m[...] = m + number(1 - 0.9) * (d - m) if centered else m
                d = d / (np.sqrt(v - m * m if centered else v) + number(1e-8))
                b[...] = b * number(momentum) + d if momentum else b
                p -= number(0.01) * (b if momentum else d)
                for got, a in zip((params[k], squares[k], buffers[k], means[k]), (p, v, b, m), strict=True):
                    np.testing.assert_array_equal(got, a)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_threads_and_parameters(count: int) -> None:
    threads.set_num_threads(count)
    half = update.Update("half", lambda p, *, by, own: p * by + own, writes=("p",), rows=("own",))
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(n) for n in rng.integers(0, 3 * update.BLOCK, 60)]
    want = [p * 0.5 + k for k, p in enumerate(params)]
    half({"p": params}, {"own": [float(k) for k in range(60)]}, by=0.5)
    for p, w in zip(params, want, strict=True):
        np.testing.assert_array_equal(p, w)
    half({"p": []}, {"own": []}, by=0.5)


@pytest.mark.parametrize("isa", ISAS)
def test_stays_between_guard_pages(isa: str) -> None:
    double = update.Update("double", lambda p, g: p + g, writes=("p",))

    def check(case: tuple[int, Any]) -> None:
        n, where = case
        with guarded(np.ones(n, "f"), where=where) as p, guarded(np.ones(n, "f"), where=where, readonly=True) as g:
            double({"p": [p, p[: n // 2]], "g": [g, g[: n // 2]]})
            assert p.sum() == 2 * n + n // 2

    with target.using(isa):
        double({"p": [np.ones(1, "f")], "g": [np.ones(1, "f")]})
        sizes = (1, 2, 7, 8, 9, 15, 16, 17, 31, 33, update.BLOCK + 1)
        run_guarded_cases(check, [(n, where) for n in sizes for where in ("end", "start")])
