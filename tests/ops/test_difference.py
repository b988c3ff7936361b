"""Losses of differences against float64, below and above the size from which kernels compute them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import lucid
from lucid.autograd import check_grads
from lucid.kernels.runtime import threads
from lucid.nn import functional as F

LOSSES: dict[str, tuple[Any, Callable[..., Any], Callable[..., Any]]] = {
    "squares": (F.mse_loss, np.square, lambda d: 2 * d),
    "sizes": (F.l1_loss, np.abs, np.sign),
}
DTYPES = {np.dtype(t): close for t, close in (
    (np.float32, 1e-6), (np.float64, 1e-14), (np.float16, 1e-3), (ml_dtypes.bfloat16, 8e-3)
)}  # fmt: skip
SHAPES = [(), (1,), (3, 5), (41, 50), (3, 70, 150)]


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def drawn(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[lucid.Tensor, lucid.Tensor]:
    """Two tensors, some elements of which are the same; the second lies in memory the other way round."""
    draw = np.random.default_rng(len(shape))
    x, y = (draw.integers(-40, 40, shape) / 64 for _ in range(2))
    return lucid.from_numpy(np.asarray(x, dtype)), lucid.from_numpy(np.asarray(y, dtype, order="F"))


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], mean: bool) -> None:
    loss, measure, slope = LOSSES[name]
    x, y = drawn(shape, dtype)
    d = x.numpy().astype(np.float64) - y.numpy()
    count, close = d.size if mean else 1, DTYPES[dtype]
    tiny = 2.0**-24 if dtype == np.float16 else 0.0  # its smallest number
    for wanted in ("xy", "x", "y"):
        x.requires_grad_("x" in wanted)
        y.requires_grad_("y" in wanted)
        x.grad = y.grad = None
        out = loss(x, y, reduction="mean" if mean else "sum")
        assert out.shape == () and out.dtype == x.dtype
        np.testing.assert_allclose(out.detach().numpy().astype(np.float64), measure(d).sum() / count, rtol=close)
        out.backward(lucid.tensor(3.0, dtype=x.dtype))
        for tensor, sign in ((x, 1), (y, -1)):
            if tensor.requires_grad:
                found = tensor.grad.numpy().astype(np.float64)
                assert tensor.grad.dtype == x.dtype and found.shape == shape
                np.testing.assert_allclose(found, sign * slope(d) * 3 / count, rtol=close, atol=tiny)


@pytest.mark.parametrize("name", LOSSES)
def test_bits_do_not_depend_on_threads(name: str) -> None:
    x, y = drawn((5, 70, 150), np.dtype(np.float32))
    x.requires_grad_(True)
    seen = set()
    for crew in (1, 2, 3):
        threads.set_num_threads(crew)
        out, x.grad = LOSSES[name][0](x / 3, y), None
        out.backward()
        seen.add((out.detach().numpy().tobytes(), x.grad.numpy().tobytes()))
    assert len(seen) == 1


@pytest.mark.parametrize("shape", [(4, 3), (41, 250)])
@pytest.mark.parametrize("name", LOSSES)
def test_the_recorded_gradient_is_the_fused_one_and_has_its_own(name: str, shape: tuple[int, ...]) -> None:
    loss = LOSSES[name][0]
    x, y = (t.requires_grad_(True) for t in drawn(shape, np.dtype(np.float64)))
    fused = lucid.autograd.grad(loss(x, y), (x, y))
    recorded = lucid.autograd.grad(loss(x, y), (x, y), create_graph=True)
    for a, b in zip(fused, recorded, strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-14, atol=1e-300)
    if len(x) < 10:
        check_grads(lambda x, y: loss(x * 1.37, y), (x, y), order=3)


@pytest.mark.parametrize("count", [4, 20000])
@pytest.mark.parametrize("name", LOSSES)
def test_nothing_is_hidden(name: str, count: int) -> None:
    loss = LOSSES[name][0]
    x = lucid.zeros(count)
    for odd in (float("nan"), float("inf")):
        y = lucid.zeros(count)
        y[count // 2] = odd
        assert np.isnan(loss(x, y).item()) == np.isnan(odd) and not np.isfinite(loss(x, y).item())
    assert loss(x[:0], x[:0], reduction="sum").item() == 0 and np.isnan(loss(x[:0], x[:0]).item())
    empty = lucid.zeros(0, 3).requires_grad_(True)
    loss(empty, lucid.zeros(0, 3)).backward()
    assert empty.grad.shape == (0, 3)


def test_whole_numbers_and_two_types_are_as_before() -> None:
    assert F.mse_loss(lucid.tensor([1, 4]), lucid.tensor([2, 2]), "sum").item() == 5
    mixed = F.l1_loss(lucid.tensor([1.0, 4.0]), lucid.tensor([2.0, 2.0]).double())
    assert mixed.item() == 1.5 and mixed.dtype == lucid.float64
