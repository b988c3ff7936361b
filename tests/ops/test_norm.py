"""Standardisation against its definition in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lucid
from lucid.autograd import check_grads
from lucid.ops.activation import prelu
from lucid.ops.norm import affine, folded, standardize, standardize_clamped, standardize_leaked

CASES = [
    ((4, 3, 5), (0, 2), (1, 3, 1)),  # batch
    ((4, 3, 5), (1, 2), (3, 5)),  # layer
    ((4, 2, 3, 5), (2, 3), (1, 2, 3, 1)),  # group
    ((6, 3), (0,), (1, 3)),
]


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape) * 3 + 1


@pytest.mark.parametrize(("shape", "axes", "affine"), CASES)
def test_the_definition(shape: tuple[int, ...], axes: tuple[int, ...], affine: tuple[int, ...]) -> None:
    x, w, b = drawn(0, *shape), drawn(1, *affine), drawn(2, *affine)
    count = int(np.prod([n for n in affine if n > 1]))
    out, mean, var = standardize(
        lucid.tensor(x), lucid.tensor(w.reshape(count)), lucid.tensor(b.reshape(count)), axes, affine, 1e-3
    )
    np.testing.assert_allclose(
        out.numpy(), (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-3) * w + b
    )
    np.testing.assert_allclose(mean.numpy(), x.mean(axes, keepdims=True))
    np.testing.assert_allclose(var.numpy(), x.var(axes, keepdims=True))


@pytest.mark.parametrize(("shape", "axes", "affine"), CASES)
@pytest.mark.parametrize("parts", ["wb", "w", "b", ""])
def test_gradients_to_third_order(
    shape: tuple[int, ...], axes: tuple[int, ...], affine: tuple[int, ...], parts: str
) -> None:
    x = lucid.tensor(drawn(0, *shape), requires_grad=True)
    given = [lucid.tensor(drawn(1 + i, *affine), requires_grad=True) for i in range(len(parts))]

    def run(x: lucid.Tensor, *rest: lucid.Tensor) -> lucid.Tensor:
        named = dict(zip(parts, rest, strict=True))
        return standardize(x, named.get("w"), named.get("b"), axes, affine, 1e-2).out

    check_grads(run, [x, *given], order=3 if parts == "wb" else 2, rtol=1e-4)


def test_gradients_of_the_statistics() -> None:
    x = lucid.tensor(drawn(0, 4, 3), requires_grad=True)
    check_grads(lambda x: standardize(x, None, None, (0,), (1, 3), 1e-2).mean, x)
    check_grads(lambda x: standardize(x, None, None, (0,), (1, 3), 1e-2).var, x)
    check_grads(lambda x: tuple(standardize(x, None, None, (0,), (1, 3), 1e-2)), x)


def test_a_large_mean_costs_no_digits() -> None:
    x = drawn(0, 1000, 2).astype(np.float32) + np.float32(10_000)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    out = standardize(lucid.tensor(x), None, None, (0,), (1, 2), 1e-5).out.numpy()
    np.testing.assert_allclose(out, exact, atol=2e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_keep_float32_statistics(dtype: str) -> None:
    x = lucid.tensor(drawn(0, 64, 2).astype(np.float32)).to(dtype)
    w = lucid.ones(2).to(dtype)
    out, mean, var = standardize(x.requires_grad_(), w, w, (0,), (1, 2), 1e-5)
    assert out.dtype == x.dtype and mean.dtype == var.dtype == lucid.float32
    out.backward()
    assert x.grad.dtype == x.dtype


@pytest.mark.parametrize("parts", ["wb", "w", "b", ""])
def test_fixed_statistics_as_a_scale_and_a_shift(parts: str) -> None:
    mean, var, w, b = (lucid.tensor(np.abs(drawn(seed, 5)) + 0.5) for seed in range(4))
    given = [w if "w" in parts else None, b if "b" in parts else None]

    def run(mean, var, *rest):
        rest = iter(rest)
        return folded(mean, var, *(None if t is None else next(rest) for t in given), 1e-2, lucid.float64)

    inputs = [mean, var, *(t for t in given if t is not None)]
    scale, shift = (t.numpy() for t in run(*inputs))
    gain, offset = w.numpy() if "w" in parts else 1, b.numpy() if "b" in parts else 0
    np.testing.assert_allclose(scale, gain / np.sqrt(var.numpy() + 1e-2))
    np.testing.assert_allclose(shift, offset - mean.numpy() * scale)
    for chosen in (run, lambda *t: run(*t)[0], lambda *t: run(*t)[1]):
        check_grads(chosen, [t.requires_grad_() for t in inputs])


@pytest.mark.parametrize("parts", ["wb", "w", "b", ""])
def test_gradients_between_limits(parts: str) -> None:
    x, w, b = (lucid.tensor(drawn(seed, *shape)) for seed, shape in ((0, (4, 3, 5)), (1, (3,)), (2, (3,))))
    given = [w if "w" in parts else None, b if "b" in parts else None]

    def run(x, *rest):
        rest = iter(rest)
        return standardize_clamped(
            x, *(None if t is None else next(rest) for t in given), (0, 2), (1, 3, 1), 1e-2, -0.5, 1.0
        )

    inputs = [t.requires_grad_() for t in (x, *given) if t is not None]
    plain = standardize(x, *given, (0, 2), (1, 3, 1), 1e-2).out.detach().numpy()
    np.testing.assert_allclose(run(*inputs).out.detach().numpy(), plain.clip(-0.5, 1.0))
    check_grads(lambda *t: run(*t).out, inputs, rtol=1e-4)
    check_grads(lambda *t: tuple(run(*t)), inputs, rtol=1e-4)


@pytest.mark.parametrize("parts", ["wb", "w", "b", ""])
@pytest.mark.parametrize("slopes", [(1, 1, 1), (1, 3, 1)])
def test_gradients_through_a_leak(parts: str, slopes: tuple[int, ...]) -> None:
    x, w, b = (lucid.tensor(drawn(seed, *shape)) for seed, shape in ((0, (4, 3, 5)), (1, (3,)), (2, (3,))))
    slope = lucid.tensor(np.abs(drawn(3, *slopes)))
    given = [w if "w" in parts else None, b if "b" in parts else None]

    def run(x, slope, *rest):
        rest = iter(rest)
        affine = (None if t is None else next(rest) for t in given)
        return standardize_leaked(x, slope, *affine, (1, 2), (1, 3, 1), 1e-2)

    inputs = [t.requires_grad_() for t in (x, slope, *given) if t is not None]
    plain = standardize(prelu(x, slope), *given, (1, 2), (1, 3, 1), 1e-2).out.detach().numpy()
    np.testing.assert_allclose(run(*inputs).out.detach().numpy(), plain)
    check_grads(lambda *t: run(*t).out, inputs, rtol=1e-4)
    check_grads(lambda *t: tuple(run(*t)), inputs, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "close"), [(np.float32, 1e-6), (np.float64, 1e-13), (np.float16, 2e-3)])
@pytest.mark.parametrize("shape", [(4, 3, 5), (3, 7, 11, 13), (2, 5, 4000)])
def test_gradients_of_a_scale_and_a_shift_a_channel(shape: tuple[int, ...], dtype: Any, close: float) -> None:
    per_channel = (1, shape[1], *(1,) * (len(shape) - 2))
    x, scale, shift, g = (
        drawn(k, *size).astype(dtype) for k, size in enumerate((shape, per_channel, per_channel, shape))
    )
    given = [lucid.tensor(a, requires_grad=True) for a in (x, scale, shift)]
    upstream = lucid.tensor(g)
    over = (0, *range(2, len(shape)))
    wide = g.astype(np.float64)
    wanted = wide * scale, (wide * x).sum(over).reshape(per_channel), wide.sum(over).reshape(per_channel)
    for recorded in (False, True):
        found = lucid.autograd.grad(affine(*given), given, upstream, create_graph=recorded)
        for a, b in zip(found, wanted, strict=True):
            assert a.dtype == given[0].dtype and a.shape == b.shape
            most = np.abs(b).max() * (20 if recorded else 1)  # a product of two halves is rounded before it is summed
            np.testing.assert_allclose(a.detach().numpy().astype(np.float64), b, rtol=close, atol=close * most)


def _statistics() -> list[Any]:
    return [lucid.rand(4) + 1 for _ in range(4)]


def _by_hand(parts: list[Any], eps: float) -> tuple[Any, Any]:
    mean, var, weight, bias = (part.numpy().astype(np.float64) for part in parts)
    scale = weight / np.sqrt(var + eps)
    return scale, bias - mean * scale


def _writes_through_numpy(t: Any) -> None:
    t.numpy()[1] = 7.0


CHANGES = {
    "in place": lambda t: t.mul_(3),
    "an element": lambda t: t.__setitem__(2, 5.0),
    "through a view": lambda t: t[1:].fill_(2.0),
    "through NumPy": _writes_through_numpy,
    "other memory": lambda t: setattr(t, "data", lucid.full((4,), 9.0)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("which", range(4))
def test_what_is_folded_is_kept_until_something_changes(which: int, change: Any) -> None:
    parts = _statistics()
    with lucid.no_grad():
        first = folded(*parts, 1e-5, lucid.float32)
        assert folded(*parts, 1e-5, lucid.float32) is first
        assert folded(*parts, 1e-3, lucid.float32) is not first
        folded(*parts, 1e-5, lucid.float32)
        change(parts[which])
        found = folded(*parts, 1e-5, lucid.float32)
    for got, wanted in zip(found, _by_hand(parts, 1e-5), strict=True):
        np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_what_is_folded_tells_weight_from_bias() -> None:
    mean, var, one, _ = _statistics()
    with lucid.no_grad():
        (scale, _), (other, _) = (folded(mean, var, *ends, 1e-5, lucid.float32) for ends in ((one, None), (None, one)))
    assert not np.array_equal(scale.numpy(), other.numpy())


def test_who_holds_an_array_changes_it_unseen() -> None:
    parts = _statistics()
    seen = parts[1].numpy()
    with lucid.no_grad():
        for value in (1.0, 2.0, 3.0):
            seen[...] = value
            np.testing.assert_allclose(
                folded(*parts, 0.0, lucid.float32)[0].numpy(), parts[2].numpy() / np.sqrt(value), rtol=1e-6
            )
