"""Large arrays go to kernels and small ones to NumPy; a large array in small pieces is the oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lucid
from lucid.autograd import check_grads
from lucid.core.geometry import PoolSpec
from lucid.kernels import jit, normalization
from lucid.ops import activation, loss, native, norm, pool
from lucid.ops.broadcast import sum_to

Array = np.ndarray[Any, Any]
ROWS, COLUMNS = 96, 512  # more than native.ONE_PASS elements; a row is fewer than native.SEVERAL_PASSES


def tensor(*shape: int, dtype: Any = np.float32, seed: int = 0) -> lucid.Tensor:
    return lucid.Tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype) * 3)


def in_pieces(function: Callable[..., Any], *inputs: lucid.Tensor) -> Array:
    """Row by row, each too small for a kernel."""
    small = 128
    parts = [
        function(*(x[r : r + 1, c : c + small] for x in inputs)).numpy()
        for r in range(ROWS)
        for c in range(0, COLUMNS, small)
    ]
    width = COLUMNS // small
    return np.concatenate([np.concatenate(parts[r : r + width], 1) for r in range(0, len(parts), width)])


ACTIVATIONS: dict[str, tuple[Any, ...]] = {
    "relu": (), "leaky_relu": (0.2,), "elu": (0.7,), "selu": (), "silu": (), "gelu": (), "gelu_tanh": (), "mish": (),
    "softplus": (2.0, 5.0), "hardtanh": (-1.0, 2.0), "hardsigmoid": (), "hardswish": (), "huber": (1.5,),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_their_gradients(name: str) -> None:
    verb, params = getattr(activation, name), ACTIVATIONS[name]
    x, g = tensor(ROWS, COLUMNS), tensor(ROWS, COLUMNS, seed=1)
    np.testing.assert_allclose(verb(x, *params).numpy(), in_pieces(lambda x: verb(x, *params), x), rtol=2e-5, atol=2e-6)

    def gradient(x: lucid.Tensor, g: lucid.Tensor) -> Any:
        leaf = lucid.Tensor(x.numpy(), requires_grad=True)
        verb(leaf, *params).backward(g)
        return leaf.grad

    np.testing.assert_allclose(gradient(x, g).numpy(), in_pieces(gradient, x, g), rtol=2e-5, atol=2e-5)


FUNCTIONS = (
    "exp",
    "expm1",
    "log",
    "log1p",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "tanh",
    "sigmoid",
    "erf",
    "neg",
    "square",
    "abs",
)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    x = tensor(ROWS, COLUMNS).abs() + 0.1
    verb = getattr(lucid.Tensor, name)
    np.testing.assert_allclose(verb(x).numpy(), in_pieces(verb, x), rtol=1e-6)


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_gradients_that_the_result_tells(name: str) -> None:
    def gradient(x: lucid.Tensor, g: lucid.Tensor) -> Any:
        leaf = lucid.Tensor(x.numpy(), requires_grad=True)
        getattr(leaf, name)().backward(g)
        return leaf.grad

    x, g = tensor(ROWS, COLUMNS), tensor(ROWS, COLUMNS, seed=1)
    np.testing.assert_allclose(gradient(x, g).numpy(), in_pieces(gradient, x, g), rtol=1e-4, atol=1e-5)


def test_choices_and_bounds() -> None:
    x, y = tensor(ROWS, COLUMNS), tensor(ROWS, COLUMNS, seed=1)
    x[0, :3] = lucid.Tensor([np.nan, np.inf, -np.inf])
    for verb in (
        lambda x, y: lucid.where(x < y, x, y),
        lambda x, y: lucid.where(x < 0, x, 0.5),
        lambda x, y: x.masked_fill(y > 1, -np.inf),
        lambda x, y: x.clamp(-1, 2.0),
        lambda x, y: x.clamp(min=0.25),
        lambda x, y: x.clamp(max=-0.25),
    ):
        np.testing.assert_array_equal(verb(x, y).numpy(), in_pieces(verb, x, y))
    row = lucid.where(x < 0, y[0], y[:, :1]).numpy()
    np.testing.assert_array_equal(row, np.where(x.numpy() < 0, y.numpy()[0], y.numpy()[:, :1]))


def test_views_that_a_reshape_must_copy() -> None:
    x = tensor(4, 18, 20, 24)
    for order, shape in (((0, 2, 3, 1), (4, -1, 18)), ((0, 3, 1, 2), (96, 360)), ((0, 1, 3, 2), (72, 480))):
        want = np.transpose(x.numpy(), order)
        np.testing.assert_array_equal(x.permute(order).reshape(shape).numpy(), want.reshape(shape))
    squares = x[:, :16].reshape(4, 4, 2, 2, 20, 24).permute(0, 1, 4, 2, 5, 3)
    np.testing.assert_array_equal(squares.reshape(4, 4, 40, 48).numpy(), squares.numpy().reshape(4, 4, 40, 48))
    assert x.permute(1, 0, 2, 3).reshape(18, 4, 480)._view is not None


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64])
def test_the_nearest_sample_at_whole_factors(dtype: Any) -> None:
    x = lucid.Tensor((np.random.default_rng(0).standard_normal((3, 8, 24, 20)) * 9).astype(dtype))
    got = lucid.nn.functional.interpolate(x, scale_factor=(2, 3)).numpy()
    np.testing.assert_array_equal(got, x.numpy().repeat(2, 2).repeat(3, 3))
    if dtype == np.float32:
        leaf, g = x.detach().requires_grad_(), tensor(3, 8, 48, 60)
        lucid.nn.functional.interpolate(leaf, (48, 60)).backward(g)
        want = g.numpy().astype(np.float64).reshape(3, 8, 24, 2, 20, 3).sum((3, 5))
        np.testing.assert_allclose(leaf.grad.numpy(), want, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gradients_at_indices_that_repeat(axis: int) -> None:
    leaf = tensor(5, 6, 7, dtype=np.float64).requires_grad_()
    index = np.array([3, -1, 3, 0, 3, -2, 4])
    chosen = leaf[(slice(None),) * axis + (index,)]
    g = tensor(*chosen.shape, dtype=np.float64, seed=1)
    chosen.backward(g)
    want = np.zeros(leaf.shape)
    np.add.at(want, (slice(None),) * axis + (index,), g.numpy())
    np.testing.assert_allclose(leaf.grad.numpy(), want, rtol=1e-14)


def test_arithmetic_with_arrays_and_numbers() -> None:
    x, y = tensor(ROWS, COLUMNS), tensor(ROWS, COLUMNS, seed=1).abs() + 0.1
    for verb in (lambda x, y: x + y, lambda x, y: x - y, lambda x, y: x * y, lambda x, y: x / y):
        np.testing.assert_array_equal(verb(x, y).numpy(), in_pieces(verb, x, y))
        np.testing.assert_array_equal(verb(x, 2.5).numpy(), in_pieces(lambda x, v=verb: v(x, 2.5), x))
        np.testing.assert_array_equal(verb(3, y).numpy(), in_pieces(lambda y, v=verb: v(3, y), y))
    np.testing.assert_array_equal((x * y[0]).numpy(), x.numpy() * y.numpy()[0])
    assert (x + 1j).dtype is lucid.complex64
    assert (x + tensor(ROWS, COLUMNS, dtype=np.float64)).dtype is lucid.float64
    assert (x + lucid.ones(COLUMNS, dtype=lucid.int64)).dtype is lucid.float32


def test_sums_and_means() -> None:
    x = tensor(8, ROWS, COLUMNS // 4)
    for dims in (None, 0, 1, 2, (0, 2), (2, 0), (0, 1, 2)):
        wide = x.numpy().astype(np.float64)
        for keepdim in (False, True):
            want = wide.sum(dims, keepdims=keepdim)
            np.testing.assert_array_equal(x.sum(dims, keepdim).numpy(), want.astype(np.float32))
            mean = wide.mean(dims, keepdims=keepdim)
            np.testing.assert_allclose(x.mean(dims, keepdim).numpy(), mean, rtol=2e-7)


def test_a_large_array_compiles_a_kernel_and_a_small_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "_kernels", {})  # as in a fresh process
    activation.leaky_relu(tensor(4, 4, dtype=np.float64), 0.3)
    assert jit.kernel_count() == 0
    activation.leaky_relu(tensor(ROWS, COLUMNS, dtype=np.float64), 0.3)
    assert jit.kernel_count() == 1
    assert not native.takes(1, np.zeros(5, np.int64)) and not native.takes(1, np.zeros(5), np.zeros(5, np.float32))


CASES: dict[str, Callable[..., Any]] = {
    "softmax": lambda x: loss.softmax(x, 1),
    "log_softmax": lambda x: loss.log_softmax(x, 0),
    "max_pool": lambda x: pool.max_pool(x, PoolSpec((2, 3), (2, 2), (1, 1), ((0, 0), (1, 1)))),
    "avg_pool": lambda x: pool.avg_pool(x, PoolSpec((2, 3), (2, 2), (1, 1), ((0, 0), (1, 1)))),
    "adaptive_avg_pool": lambda x: pool.adaptive_avg_pool(x, (50, 20)),
    "global_avg_pool": lambda x: pool.adaptive_avg_pool(x.reshape(20, 10, 10, 10), (1, 1)),
    "gelu": activation.gelu,
    "sum": lambda x: x.sum(0) * x.sum(1).sum(),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_to_second_order(name: str) -> None:
    x = lucid.Tensor(np.random.default_rng(0).permutation(200 * 100).reshape(200, 100) / 1e4, requires_grad=True)
    check_grads(CASES[name], (x,))


@pytest.mark.parametrize(("axes", "affine"), [((0, 2), (1, 20, 1)), ((2,), (50,))])
def test_gradients_of_standardization_to_second_order(axes: tuple[int, ...], affine: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, w, b = (
        lucid.Tensor(rng.standard_normal(s), requires_grad=True)
        for s in ((20, 20, 50), np.prod(affine), np.prod(affine))
    )
    check_grads(lambda x, w, b: norm.standardize(x, w, b, axes, affine, 1e-5).out, (x, w, b))


def test_large_standardization_runs_kernels_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("standardize", "standardize_grad"):
        kernel = getattr(normalization, name)
        monkeypatch.setattr(normalization, name, lambda *a, n=name, k=kernel: calls.append(n) or k(*a))
    x = lucid.randn(8, 4, 10, 10, requires_grad=True)
    norm.standardize(x, None, None, (0, 2, 3), (1, 4, 1, 1), 1e-5).out.backward()
    assert calls == ["standardize", "standardize_grad"]


def test_a_bias_without_a_weight_has_its_own_shape_of_gradient() -> None:
    x, b = lucid.randn(8, 4, 10, 10, requires_grad=True), lucid.zeros(4, requires_grad=True)
    norm.standardize(x, None, b, (0, 2, 3), (1, 4, 1, 1), 1e-5).out.backward()
    assert b.grad.shape == (4,)
    np.testing.assert_allclose(b.grad.numpy(), 800.0)


@pytest.mark.parametrize("shape", [(4, 3, 40, 50), (2, 3, 4)])
def test_affine_to_second_order(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    channels = (3, *(1,) * (len(shape) - 2))
    x, scale, shift = (lucid.Tensor(rng.standard_normal(s), requires_grad=True) for s in (shape, channels, channels))
    with lucid.no_grad():
        got = norm.affine(x, scale, shift).numpy()
    np.testing.assert_allclose(got, x._array * scale._array + shift._array, rtol=1e-14)
    check_grads(norm.affine, (x, scale, shift))


@pytest.mark.parametrize("out", [(1, 1), (2, 4), (8, 8)])
def test_even_adaptive_windows(out: tuple[int, int]) -> None:
    x = tensor(4, 8, 16, 16)
    blocks = x.numpy().reshape(4, 8, out[0], 16 // out[0], out[1], 16 // out[1])
    got = pool.adaptive_avg_pool(x, out).numpy()
    np.testing.assert_allclose(got, blocks.mean((3, 5), np.float64), rtol=1e-5, atol=1e-6)
    g = tensor(4, 8, *out, seed=1)
    leaf = lucid.Tensor(x.numpy(), requires_grad=True)
    pool.adaptive_avg_pool(leaf, out).backward(g)
    want = np.broadcast_to(g.numpy()[:, :, :, None, :, None], blocks.shape) / (blocks.shape[3] * blocks.shape[5])
    np.testing.assert_allclose(leaf.grad.numpy(), want.reshape(x.shape), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(40, 1, 1), (8, 1, 20, 30), (1, 1, 30), (1,), ()])
def test_sums_what_broadcasting_repeated(shape: tuple[int, ...], dtype: str) -> None:
    x = tensor(8, 40, 20, 30).to(getattr(lucid, dtype))
    repeated = tuple(k for k in range(4) if k < 4 - len(shape) or shape[k - 4] == 1)
    want = x.numpy().astype(np.float64).sum(repeated).reshape(shape)
    got = sum_to(x, shape)
    assert got.shape == shape and got.dtype is x.dtype
    # Kept in float64, whose rounding is the second term, and rounded once.
    unit = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}.get(dtype, 2.0**-53)
    np.testing.assert_allclose(got.numpy().astype(np.float64), want, rtol=unit, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 64, 1), (8, 64, 1), (64, 1), (50,), (8, 1, 50), (), (1, 1, 50)])
def test_gradients_of_factors_that_are_repeated(shape: tuple[int, ...]) -> None:
    x, g = tensor(8, 64, 50), tensor(8, 64, 50, seed=1)
    factor = tensor(*shape, seed=2).requires_grad_()
    (x * factor).backward(g)
    grown = tuple(k for k, n in enumerate((1,) * (3 - len(shape)) + shape) if n == 1)
    want = (x.numpy().astype(np.float64) * g.numpy()).sum(grown).reshape(shape)
    np.testing.assert_allclose(factor.grad.numpy(), want, rtol=1e-7)
    second = tensor(*shape, seed=2).requires_grad_()
    (first,) = lucid.autograd.grad((x * second * second).sum(), second, create_graph=True)
    (twice,) = lucid.autograd.grad(first.sum(), second)
    np.testing.assert_allclose(
        twice.numpy(), 2 * x.numpy().astype(np.float64).sum(grown).reshape(shape), rtol=1e-3, atol=1e-3
    )
