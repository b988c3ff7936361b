"""Arithmetic and functions: values of NumPy and SciPy, gradients against differences to second order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

import lucid
from lucid.autograd import check_grads, grad
from lucid.core.errors import DTypeError, ShapeError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 4))
Y = RNG.standard_normal((3, 4))
POSITIVE = RNG.uniform(0.3, 2.0, (3, 4))
INSIDE = RNG.uniform(-0.9, 0.9, (3, 4))
ABOVE_ONE = POSITIVE + 1


def leaf(array):
    return lucid.tensor(array, requires_grad=True)


UNARY = {
    "exp": (np.exp, X),
    "exp2": (np.exp2, X),
    "expm1": (np.expm1, X),
    "log": (np.log, POSITIVE),
    "log2": (np.log2, POSITIVE),
    "log10": (np.log10, POSITIVE),
    "log1p": (np.log1p, POSITIVE),
    "sqrt": (np.sqrt, POSITIVE),
    "rsqrt": (lambda x: x**-0.5, POSITIVE),
    "reciprocal": (lambda x: 1 / x, POSITIVE),
    "sin": (np.sin, X),
    "cos": (np.cos, X),
    "tan": (np.tan, INSIDE),
    "asin": (np.arcsin, INSIDE),
    "acos": (np.arccos, INSIDE),
    "atan": (np.arctan, X),
    "sinh": (np.sinh, X),
    "cosh": (np.cosh, X),
    "tanh": (np.tanh, X),
    "asinh": (np.arcsinh, X),
    "acosh": (np.arccosh, ABOVE_ONE),
    "atanh": (np.arctanh, INSIDE),
    "sigmoid": (special.expit, X),
    "erf": (special.erf, X),
    "erfc": (special.erfc, X),
    "neg": (np.negative, X),
    "positive": (lambda x: x, X),
    "square": (np.square, X),
    "abs": (np.abs, X),
    "sign": (np.sign, X),
    "floor": (np.floor, X),
    "ceil": (np.ceil, X),
    "trunc": (np.trunc, X),
    "round": (np.round, X),
}


@pytest.mark.parametrize("name", UNARY)
def test_functions(name):
    reference, x = UNARY[name]
    np.testing.assert_allclose(getattr(lucid, name)(lucid.tensor(x)).numpy(), reference(x), rtol=1e-13)
    check_grads(getattr(lucid, name), leaf(x), rtol=1e-4)
    written = lucid.tensor(x)
    if hasattr(written, f"{name}_"):
        assert getattr(written, f"{name}_")() is written
        np.testing.assert_allclose(written.numpy(), reference(x), rtol=1e-13)


@pytest.mark.parametrize("name", ["exp", "sqrt", "sigmoid", "erf", "sin"])
def test_functions_of_integers_are_float32(name):
    got = getattr(lucid, name)(lucid.tensor([0, 1, 4]))
    assert got.dtype is lucid.float32
    np.testing.assert_allclose(got.numpy(), UNARY[name][0](np.array([0.0, 1, 4])), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_functions_keep_the_element_type(dtype):
    x = lucid.tensor(POSITIVE, dtype=dtype)
    for name in UNARY:
        if name not in ("acosh", "asin", "acos", "atanh"):
            got = getattr(x, name)()
            assert got.dtype is x.dtype, name
            want = UNARY[name][0](x.double().numpy())
            np.testing.assert_allclose(
                got.double().numpy(), want, rtol={"float32": 1e-5, "float16": 1e-2}.get(dtype, 0.05)
            )


BINARY = {
    "add": (np.add, X, Y),
    "sub": (np.subtract, X, Y),
    "mul": (np.multiply, X, Y),
    "div": (np.divide, X, POSITIVE),
    "pow": (np.power, POSITIVE, Y),
    "remainder": (np.remainder, X, POSITIVE),
    "fmod": (np.fmod, X, POSITIVE),
    "maximum": (np.maximum, X, Y),
    "minimum": (np.minimum, X, Y),
    "atan2": (np.arctan2, X, Y),
    "floor_divide": (np.floor_divide, X, POSITIVE),
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 1), (1, 4)), ((), (3, 4)), ((0, 4), (1, 4))])
def test_two_operands_broadcast(name, shapes):
    reference, *arrays = BINARY[name]
    a, b = (
        np.ascontiguousarray(np.broadcast_to(x.ravel()[: int(np.prod(s))].reshape(s), s))
        for x, s in zip(arrays, shapes, strict=True)
    )
    function = getattr(lucid, name)
    np.testing.assert_allclose(function(lucid.tensor(a), lucid.tensor(b)).numpy(), reference(a, b), rtol=1e-13)
    check_grads(function, (leaf(a), leaf(b)), rtol=1e-4)


@pytest.mark.parametrize("name", BINARY)
def test_a_python_number_on_either_side(name):
    reference, a, b = BINARY[name]
    function = getattr(lucid, name)
    for x, y in ((a, 2.5), (2.5, b)):
        left, right = (v if isinstance(v, float) else lucid.tensor(v) for v in (x, y))
        np.testing.assert_allclose(function(left, right).numpy(), reference(x, y), rtol=1e-13)
    check_grads(lambda t: function(t, 2.5), leaf(a), rtol=1e-4)
    check_grads(lambda t: function(2.5, t), leaf(b), rtol=1e-4)


def test_symbols():
    x, y = lucid.tensor([7.0, -7.0]), lucid.tensor([2.0, 2.0])
    assert [(x + y).tolist(), (x - y).tolist(), (x * y).tolist()] == [[9, -5], [5, -9], [14, -14]]
    assert [(x / y).tolist(), (x // y).tolist(), (x % y).tolist()] == [[3.5, -3.5], [3, -4], [1, 1]]
    assert [(x**2).tolist(), (-x).tolist(), (+x).tolist(), abs(x).tolist()] == [[49, 49], [-7, 7], [7, -7], [7, 7]]
    assert [(1 + x).tolist(), (1 - x).tolist(), (2 * x).tolist()] == [[8, -6], [-6, 8], [14, -14]]
    assert [(14 / x).tolist(), (2**y).tolist(), (9 // y).tolist(), (9 % y).tolist()] == [
        [2, -2],
        [4, 4],
        [4, 4],
        [1, 1],
    ]
    assert round(lucid.tensor([1.26]), 1).item() == pytest.approx(1.3)


@pytest.mark.parametrize("alpha", [1, 2.5])
def test_alpha(alpha):
    x, y = lucid.tensor(X), lucid.tensor(Y)
    np.testing.assert_allclose(x.add(y, alpha=alpha).numpy(), X + alpha * Y, rtol=1e-14)
    np.testing.assert_allclose(x.sub(y, alpha=alpha).numpy(), X - alpha * Y, rtol=1e-14)
    np.testing.assert_allclose(x.clone().add_(y, alpha=alpha).numpy(), X + alpha * Y, rtol=1e-14)


def test_division_of_integers():
    x, y = lucid.tensor([7, -7]), lucid.tensor([2, 2])
    assert (x / y).dtype is lucid.float32 and (x / y).tolist() == [3.5, -3.5]
    assert (x / 2).tolist() == [3.5, -3.5] and (7 / y).tolist() == [3.5, 3.5]
    assert lucid.div(x, y, rounding_mode="floor").tolist() == [3, -4]
    assert lucid.div(x, y, rounding_mode="trunc").tolist() == [3, -3]


def test_element_types_meet():
    i, h, d = lucid.ones(2, dtype=int), lucid.ones(2, dtype=lucid.float16), lucid.ones(2, dtype=lucid.float64)
    assert (i + h).dtype is lucid.float16 and (h + d).dtype is lucid.float64
    assert (h + lucid.tensor(1.0, dtype=lucid.float64)).dtype is lucid.float16
    assert (i + 1.5).dtype is lucid.float32 and (i * True).dtype is lucid.int64 and (h * 1j).dtype is lucid.complex64
    assert (lucid.ones(2) * np.float64(2)).dtype is lucid.float32
    assert (lucid.ones(2, dtype=bool) + 1).dtype is lucid.int64
    with pytest.raises(DTypeError, match="logical_xor"):
        lucid.ones(2, dtype=bool) - lucid.ones(2, dtype=bool)


def test_gradients_return_to_the_type_they_came_from():
    x, y = lucid.ones(2, requires_grad=True), lucid.ones(2, dtype=lucid.float64, requires_grad=True)
    z = lucid.ones(2, dtype=lucid.complex64, requires_grad=True)
    (x * y * z).sum().real.backward()
    assert (x.grad.dtype, y.grad.dtype, z.grad.dtype) == (lucid.float32, lucid.float64, lucid.complex64)


def test_ties_share_the_gradient():
    x, y = (lucid.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    (lucid.maximum(x, y) + lucid.minimum(x, y) * 10).backward()
    assert x.grad.tolist() == y.grad.tolist() == [5.5, 5.5]


def test_powers_at_zero():
    x = lucid.zeros(2, requires_grad=True)
    (x**0 + x**1 + x**2).backward()
    assert x.grad.tolist() == [1, 1]
    b = lucid.tensor([2.0, 0.0], requires_grad=True)
    (lucid.zeros(2) ** b).backward()
    assert b.grad.tolist() == [0, 0]
    assert grad(0.0**b, b)[0].tolist() == [0, 0]
    x = lucid.zeros(2, requires_grad=True)
    (x ** b.detach()).backward()
    assert x.grad.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_of_what_was_broadcast_add_up_in_float32(dtype):
    b = lucid.zeros(1, dtype=dtype, requires_grad=True)
    (lucid.zeros(4096, 1, dtype=dtype) + b).backward()
    assert b.grad.item() == 4096


def test_nan_and_infinity_pass_without_warning():
    x = lucid.tensor([0.0, -1.0, float("inf"), float("nan")])
    assert (1 / x).tolist()[:3] == [float("inf"), -1, 0]
    assert x.log().isnan().tolist() == [False, True, False, True]
    assert x.maximum(lucid.zeros(4)).isnan().tolist() == [False, False, False, True]
    assert x.sigmoid().tolist()[2] == 1 and lucid.tensor(-1000.0).sigmoid().item() == 0


@pytest.mark.parametrize("bounds", [(-0.5, 0.5), (None, 0.2), (0.1, None)])
def test_clamp(bounds):
    np.testing.assert_array_equal(lucid.tensor(X).clamp(*bounds).numpy(), np.clip(X, *bounds))
    check_grads(lambda x: x.clamp(*bounds) * x, leaf(X))
    tensors = [None if b is None else lucid.full((4,), b, dtype=lucid.float64) for b in bounds]
    np.testing.assert_array_equal(lucid.clamp(lucid.tensor(X), *tensors).numpy(), np.clip(X, *bounds))


def test_clamp_needs_a_bound():
    with pytest.raises(ValueError, match="at least one"):
        lucid.ones(1).clamp()


def test_composites():
    x, y, z = (lucid.tensor(a) for a in (X, Y, POSITIVE))
    np.testing.assert_allclose(lucid.lerp(x, y, 0.3).numpy(), X + 0.3 * (Y - X), rtol=1e-14)
    np.testing.assert_allclose(lucid.addcmul(x, y, z, value=2).numpy(), X + 2 * Y * POSITIVE, rtol=1e-14)
    np.testing.assert_allclose(lucid.addcdiv(x, y, z, value=2).numpy(), X + 2 * Y / POSITIVE, rtol=1e-14)


COMPLEX = {
    "mul": lambda z: z * (z + 1) * 2j,
    "sign": lambda z: z.sign(),
    "div": lambda z: 1 / z,
    "square": lambda z: z.square(),
    "pow": lambda z: z**3,
    "exp": lambda z: z.exp(),
    "log": lambda z: z.log(),
    "sqrt": lambda z: z.sqrt(),
    "sin": lambda z: z.sin(),
    "tanh": lambda z: z.tanh(),
    "abs": lambda z: z.abs(),
    "real": lambda z: z.real * z.imag,
    "conj": lambda z: z.conj() * z,
    "angle": lambda z: z.angle(),
    "matmul": lambda z: z @ z.T,
    "sum": lambda z: z.sum(),
    "prod": lambda z: z.prod(0),
    "norm": lambda z: z.norm(),
    "var": lambda z: z.var(),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_gradients(name):
    check_grads(COMPLEX[name], leaf(X + 1j * Y), rtol=1e-4)


def test_parts_of_complex_numbers():
    z = lucid.tensor(X + 1j * Y)
    np.testing.assert_array_equal(z.real.numpy(), X)
    np.testing.assert_array_equal(z.imag.numpy(), Y)
    z.imag.zero_()
    assert lucid.imag(z).abs().sum().item() == 0
    assert lucid.tensor(X).conj().data_ptr() and lucid.real(lucid.ones(1)).item() == 1
    with pytest.raises(DTypeError, match="complex tensor is needed"):
        lucid.imag(lucid.ones(1))


def test_shapes_that_do_not_broadcast():
    with pytest.raises(ShapeError, match=r"add: the shapes \(2,\), \(3,\) do not broadcast"):
        lucid.ones(2) + lucid.ones(3)
    with pytest.raises(ShapeError, match="add_"):
        lucid.ones(2).add_(lucid.ones(3, 2))


def test_error_function_within_an_ulp():
    x = np.concatenate([np.linspace(-7, 30, 20001), RNG.standard_normal(1000) * 1e-3, [0.0, -0.0, np.inf, -np.inf]])
    ours = lucid.erf(lucid.tensor(x)).numpy()
    assert np.all(np.abs(ours - special.erf(x)) <= 2 * np.spacing(np.abs(special.erf(x))))
    exact = np.array([math.erfc(v) for v in x])  # SciPy's own loses digits in the tail
    np.testing.assert_allclose(lucid.erfc(lucid.tensor(x)).numpy(), exact, rtol=6e-16, atol=1e-323)
    assert lucid.erf(lucid.tensor(float("nan"))).isnan().item()
