"""Every operation on tensors against PyTorch: values, element types, gradients with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lucid

N = np.float64


def values(*shape, kind="normal", seed=0):
    rng = np.random.default_rng([seed, *shape])
    if kind == "positive":
        return rng.uniform(0.3, 2.0, shape)
    if kind == "unit":
        return rng.uniform(-0.9, 0.9, shape)
    if kind == "ties":
        return rng.integers(-2, 3, shape).astype(N)
    if kind == "complex":
        return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    return rng.standard_normal(shape)


INDEX = np.array([[0, 2, 1, 0], [1, 0, 2, 2]])
MASK = np.array([[True, False, True, True], [False, True, False, True], [True, True, False, False]])

A = values(3, 4)
B = values(3, 4, seed=1)
P = values(3, 4, kind="positive")
U = values(3, 4, kind="unit")
T = values(3, 4, kind="ties")
S = values(3, 4, kind="ties", seed=5)
C = values(3, 4, kind="complex")
D = values(3, 4, kind="complex", seed=2)
V = values(4)
CUBE = values(2, 3, 4)
ZERO = np.where(values(3, 4) > 0.3, 0.0, values(3, 4))

CASES = {
    # arithmetic
    "add": (lambda m, x, y: x + y, A, B),
    "add_broadcast": (lambda m, x, y: x + y, A, V),
    "add_alpha": (lambda m, x, y: m.add(x, y, alpha=2.5), A, B),
    "sub": (lambda m, x, y: x - y, A, V),
    "rsub": (lambda m, x: 2 - x, A),
    "mul": (lambda m, x, y: x * y, A, CUBE),
    "div": (lambda m, x, y: x / y, A, P),
    "rdiv": (lambda m, x: 1 / x, P),
    "div_floor": (lambda m, x, y: m.div(x, y, rounding_mode="floor"), A, P),
    "pow": (lambda m, x, y: x**y, P, A),
    "pow_2": (lambda m, x: x**2, A),
    "pow_3": (lambda m, x: x**3, A),
    "pow_half": (lambda m, x: x**0.5, P),
    "pow_0": (lambda m, x: x**0, ZERO),
    "pow_zero_base": (lambda m, x, y: x.abs() ** y.abs(), ZERO, P),
    "rpow": (lambda m, x: 2.5**x, A),
    "remainder": (lambda m, x, y: x % y, A, P),
    "fmod": (lambda m, x, y: m.fmod(x, y), A, P),
    "floordiv": (lambda m, x, y: x.detach() // y.detach(), A, P),
    "maximum": (lambda m, x, y: m.maximum(x, y), T, S),
    "minimum": (lambda m, x, y: m.minimum(x, y), T, S),
    "atan2": (lambda m, x, y: m.atan2(x, y), A, B),
    "lerp": (lambda m, x, y: m.lerp(x, y, 0.3), A, B),
    "addcmul": (lambda m, x, y, z: m.addcmul(x, y, z, value=0.5), A, B, P),
    "addcdiv": (lambda m, x, y, z: m.addcdiv(x, y, z, value=0.5), A, B, P),
    # functions
    **{
        n: (lambda m, x, n=n: getattr(m, n)(x), A)
        for n in (
            "exp",
            "exp2",
            "expm1",
            "sin",
            "cos",
            "tan",
            "atan",
            "sinh",
            "cosh",
            "tanh",
            "asinh",
            "sigmoid",
            "erf",
            "erfc",
            "neg",
            "square",
            "abs",
            "sign",
            "floor",
            "ceil",
            "trunc",
            "round",
            "isnan",
            "isfinite",
            "isinf",
            "positive",
        )
    },
    **{
        n: (lambda m, x, n=n: getattr(m, n)(x), P)
        for n in ("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal")
    },
    **{n: (lambda m, x, n=n: getattr(m, n)(x), U) for n in ("asin", "acos", "atanh")},
    "acosh": (lambda m, x: m.acosh(x + 1), P),
    "clamp": (lambda m, x: x.clamp(-0.5, 0.7), A),
    "clamp_min": (lambda m, x: x.clamp(min=0), T),
    "clamp_tensor": (lambda m, x, y: m.clamp(x, max=y), A, V),
    # complex
    "complex_mul": (lambda m, x, y: x * y, C, D),
    "complex_div": (lambda m, x, y: x / y, C, D),
    "complex_real_mul": (lambda m, x, y: x * y, C, A),
    "complex_exp": (lambda m, x: m.exp(x), C),
    "complex_log": (lambda m, x: m.log(x), C),
    "complex_sqrt": (lambda m, x: m.sqrt(x), C),
    "complex_pow": (lambda m, x: x**3, C),
    "complex_abs": (lambda m, x: x.abs(), C),
    "complex_angle": (lambda m, x: m.angle(x), C),
    "complex_real": (lambda m, x: m.real(x) * 2, C),
    "complex_imag": (lambda m, x: m.imag(x) * 2, C),
    "complex_conj": (lambda m, x: x.conj() * x, C),
    "complex_matmul": (lambda m, x, y: x @ y.T, C, D),
    "complex_sum": (lambda m, x: x.sum(0), C),
    "complex_sin": (lambda m, x: m.sin(x), C),
    "complex_tanh": (lambda m, x: m.tanh(x), C),
    "complex_var": (lambda m, x: x.var(), C),
    "complex_prod": (lambda m, x: x.prod(1), C),
    # choice
    "where": (lambda m, x, y: m.where(x > y, x, y), A, V),
    "where_scalar": (lambda m, x: m.where(x > 0, x, 0.0), A),
    "masked_fill": (lambda m, x: x.masked_fill(x > 0, 2.0), A),
    # reductions
    "sum": (lambda m, x: x.sum(), A),
    "sum_dim": (lambda m, x: x.sum(1), CUBE),
    "sum_dims": (lambda m, x: x.sum((0, -1), keepdim=True), CUBE),
    "mean": (lambda m, x: x.mean(), A),
    "mean_dim": (lambda m, x: x.mean(-1, keepdim=True), CUBE),
    "var": (lambda m, x: x.var(), A),
    "var_dim": (lambda m, x: x.var((0, 2), unbiased=False), CUBE),
    "std": (lambda m, x: x.std(1), A),
    "std_correction": (lambda m, x: x.std(1, correction=2, keepdim=True), A),
    "std_zero": (lambda m, x: (x * 0).std(1), A),
    "prod": (lambda m, x: x.prod(), A),
    "prod_dim": (lambda m, x: x.prod(1, keepdim=True), CUBE),
    "prod_zero": (lambda m, x: x.prod(1), ZERO),
    "amax": (lambda m, x: x.amax(1), T),
    "amin_all": (lambda m, x: x.amin(), T),
    "max": (lambda m, x: x.max(), T),
    "max_dim": (lambda m, x: x.max(1).values, A),
    "max_indices": (lambda m, x: x.max(1, keepdim=True).indices, T),
    "min_dim": (lambda m, x: x.min(0)[0], A),
    "argmax": (lambda m, x: x.argmax(), A),
    "argmin_dim": (lambda m, x: x.argmin(1, keepdim=True), A),
    "cumsum": (lambda m, x: x.cumsum(1), CUBE),
    "cumprod": (lambda m, x: x.cumprod(0), P),
    "logsumexp": (lambda m, x: x.logsumexp(1), A),
    "logsumexp_inf": (lambda m, x: (x.masked_fill(x > 0, -float("inf"))).logsumexp((0, 1), keepdim=True), A),
    "norm": (lambda m, x: x.norm(), A),
    "norm_dim": (lambda m, x: x.norm(dim=1), A),
    "norm_zero": (lambda m, x: (x * 0).norm(dim=1), A),
    "norm_1": (lambda m, x: x.norm(1, dim=0), A),
    "norm_3": (lambda m, x: x.norm(3, dim=0, keepdim=True), A),
    "norm_inf": (lambda m, x: x.norm(float("inf"), dim=0), A),
    "any": (lambda m, x: (x > 1).any(1), A),
    "all": (lambda m, x: (x > -1).all(), A),
    "count_nonzero": (lambda m, x: m.count_nonzero(x, 1), T),
    # shapes
    "reshape": (lambda m, x: x.reshape(2, -1) * 2, A),
    "view": (lambda m, x: x.view(12), A),
    "flatten": (lambda m, x: x.flatten(1), CUBE),
    "unflatten": (lambda m, x: x.unflatten(1, (2, 2)), A),
    "squeeze": (lambda m, x: x.sum(1, keepdim=True).squeeze(), A),
    "squeeze_dim": (lambda m, x: x.sum(1, keepdim=True).squeeze(0), A),
    "unsqueeze": (lambda m, x: x.unsqueeze(-1), A),
    "permute": (lambda m, x: x.permute(2, 0, 1) * 2, CUBE),
    "transpose": (lambda m, x: x.transpose(0, -1), CUBE),
    "T": (lambda m, x: x.T, A),
    "mT": (lambda m, x: x.mT, CUBE),
    "movedim": (lambda m, x: x.movedim((0, 1), (2, 0)), CUBE),
    "expand": (lambda m, x: x.unsqueeze(1).expand(-1, 5, -1), A),
    "broadcast_to": (lambda m, x: x.broadcast_to((2, 3, 4)), A),
    "flip": (lambda m, x: x.flip(0, 2), CUBE),
    "roll": (lambda m, x: x.roll((1, -2), (0, 1)), A),
    "roll_flat": (lambda m, x: x.roll(5), A),
    "repeat": (lambda m, x: x.repeat(2, 1, 3), A),
    "tile": (lambda m, x: x.tile((2,)), A),
    "repeat_interleave": (lambda m, x: x.repeat_interleave(3, 1), A),
    "cat": (lambda m, x, y: m.cat([x, y, x], 1), A, B),
    "stack": (lambda m, x, y: m.stack((x, y), -1), A, B),
    "split": (lambda m, x: m.cat([p * i for i, p in enumerate(x.split(3, 1))], 1), A),
    "split_sizes": (lambda m, x: x.split([1, 3], 1)[1], A),
    "chunk": (lambda m, x: x.chunk(3, 1)[-1], A),
    "unbind": (lambda m, x: x.unbind(1)[2], A),
    "iter": (lambda m, x: list(x)[1], A),
    "narrow": (lambda m, x: x.narrow(1, 1, 2), A),
    "select": (lambda m, x: x.select(1, -1), A),
    "contiguous": (lambda m, x: x.t().contiguous(), A),
    "clone": (lambda m, x: x.clone() * x, A),
    "double": (lambda m, x: x.float().double(), A),
    # indexing
    "index_int": (lambda m, x: x[1], A),
    "index_slice": (lambda m, x: x[:, 1:3], A),
    "index_step": (lambda m, x: x[::2, None, ..., 1::2], CUBE),
    "index_list": (lambda m, x: x[[0, 2, 0]], A),
    "index_tensor": (lambda m, x: x[m.tensor(INDEX) % 3], A),
    "index_pair": (lambda m, x: x[m.tensor([0, 1, 1]), m.tensor([2, 3, 3])], A),
    "index_mixed": (lambda m, x: x[:, [0, 1, 1], 2:], CUBE),
    "index_mask": (lambda m, x: x[m.tensor(MASK)], A),
    "index_compare": (lambda m, x: x[x > 0], A),
    "gather": (lambda m, x: x.gather(0, m.tensor(INDEX)), A),
    "scatter_add": (lambda m, x, y: x.scatter_add(0, m.tensor(INDEX), y), A, B[:2]),
    "scatter": (lambda m, x: x.scatter(1, m.tensor(INDEX[:, :1]), 3.0), A),
    "index_select": (lambda m, x: x.index_select(1, m.tensor([3, 0, 0])), A),
    "index_add": (lambda m, x, y: x.index_add(0, m.tensor([2, 0, 2]), y), A, B),
    "take_along_dim": (lambda m, x: m.take_along_dim(x, m.tensor(INDEX[:1]), 0), A),
    "masked_select": (lambda m, x: x.masked_select(m.tensor(MASK)), A),
    "sort": (lambda m, x: x.sort(1, True).values, A),
    "sort_indices": (lambda m, x: m.sort(x, dim=1, stable=True).indices, T),
    "topk": (lambda m, x: x.topk(2, 1).values, A),
    "topk_small": (lambda m, x: x.topk(2, 0, largest=False).values, A),
    "argsort": (lambda m, x: x.argsort(0), A),
    "nonzero": (lambda m, x: m.nonzero(x > 0), A),
    "unique": (lambda m, x: m.unique(x.detach()), T),
    # products
    "matmul": (lambda m, x, y: x @ y.T, A, B),
    "matmul_vector": (lambda m, x, y: x @ y, A, V),
    "vector_matmul": (lambda m, x, y: y @ x.T, A, V),
    "dot": (lambda m, x: x @ x, V),
    "matmul_batch": (lambda m, x, y: x @ y.mT, CUBE, values(2, 5, 4)),
    "matmul_batch_one": (lambda m, x, y: x @ y.T, CUBE, A),
    "matmul_one_batch": (lambda m, x, y: x @ y.mT, A, CUBE),
    "matmul_batch_vector": (lambda m, x, y: x @ y, CUBE, V),
    "matmul_broadcast": (lambda m, x, y: x.unsqueeze(1) @ y, CUBE, values(3, 4, 2)),
    "outer": (lambda m, x: m.outer(x, x * 2), V),
    "addmm": (lambda m, x, y: m.addmm(x @ y.T, x, y.T, beta=0.5, alpha=2), A, B),
    "tril": (lambda m, x: x.tril(-1), CUBE),
    "triu": (lambda m, x: x.triu(1), A),
    "diagonal": (lambda m, x: m.diagonal(x, 1, 1, 2), CUBE),
    "diag": (lambda m, x: m.diag(x, -1), V),
    "trace": (lambda m, x: m.trace(x), A),
    "tensordot": (lambda m, x, y: m.tensordot(x, y, 2), CUBE, A),
    "einsum": (lambda m, x, y: m.einsum("bij,kj->bki", x, y), CUBE, A),
    "einsum_implicit": (lambda m, x, y: m.einsum("ij,kj", x, y), A, B),
    "einsum_ellipsis": (lambda m, x, y: m.einsum("...j,kj->...k", x, y), CUBE, A),
    "einsum_sum": (lambda m, x: m.einsum("bij->i", x), CUBE),
    "einsum_diagonal": (lambda m, x: m.einsum("ii->i", x[:, :3]), A),
    "einsum_trace": (lambda m, x: m.einsum("ii", x[:, :3]), A),
    "einsum_three": (lambda m, x, y, z: m.einsum("ij,ij,j->i", x, y, z), A, B, V),
    "einsum_outer": (lambda m, x, y: m.einsum("i,j->ij", x, y), V, V),
    # writing in place
    "inplace_add": (lambda m, x, y: (x * 2).add_(y), A, B),
    "inplace_symbols": (lambda m, x, y: inplace_symbols(x * 1, y), A, P),
    "inplace_mul_saved": (lambda m, x, y: (x * 2).mul_(y), A, V),
    "inplace_exp": (lambda m, x: (x * 2).exp_(), A),
    "inplace_into_constant": (lambda m, x: m.zeros(3, 4, dtype=m.float64).add_(x).mul_(x), A),
    "setitem": (lambda m, x, y: written(x * 1, (slice(None), 1), y[:, 0]), A, B),
    "setitem_scalar": (lambda m, x: written(x * 1, 0, 7.0), A),
    "setitem_mask": (lambda m, x: written(x * 1, m.tensor(MASK), 7.0), A),
    "setitem_list": (lambda m, x, y: written(x * 1, [0, 2], y[:2]), A, B),
    "setitem_broadcast": (lambda m, x, y: written(x * 1, slice(0, 2), y), A, V),
    "through_view": (lambda m, x: through_view(x * 1), A),
    "through_views_of_views": (lambda m, x: through_views_of_views(x * 1), CUBE),
    "view_sees_base": (lambda m, x: view_sees_base(x * 1), A),
    "zero": (lambda m, x: zero_half(x * 1), A),
    "copy": (lambda m, x, y: (x * 1).copy_(y), A, V),
    "fill": (lambda m, x: (x * 1).fill_(3.0) + x, A),
    "masked_fill_": (lambda m, x: (x * 2).masked_fill_(x > 0, 1.0), A),
}


def inplace_symbols(x, y):
    x += y
    x *= 3
    x -= 1
    x /= y
    x **= 2
    return x


def written(x, index, value):
    x[index] = value
    return x


def through_view(x):
    row = x[1]
    row.mul_(3)
    x.t()[2].add_(x[0, 0])
    return x * row.sum()


def through_views_of_views(x):
    part = x[:, 1:][0].t()
    part.mul_(2)
    part[1:].mul_(part[:-1].detach().clone())
    return x + part.sum()


def view_sees_base(x):
    row = x[0]
    x.mul_(2)
    return row * row


def zero_half(x):
    x[:, :2].zero_()
    return x


@pytest.mark.parametrize("name", CASES)
def test_as_pytorch(name):
    function, *arrays = CASES[name]
    ours, theirs = ([make(a.copy(), m) for a in arrays] for m, make in ((lucid, leaf), (torch, leaf)))
    out, want = function(lucid, *ours), function(torch, *theirs)
    assert str(out.dtype).split(".")[1] == str(want.dtype).split(".")[1]
    assert out.shape == tuple(want.shape)
    np.testing.assert_allclose(out.detach().numpy(), want.detach().resolve_conj().numpy(), rtol=1e-12, atol=1e-13)
    assert out.requires_grad == want.requires_grad
    if not out.requires_grad:
        return
    weights = values(*out.shape, kind="complex" if out.is_complex() else "normal", seed=9)
    out.backward(lucid.tensor(weights))
    want.backward(torch.tensor(weights))
    for x, y in zip(ours, theirs, strict=True):
        got, want = (np.zeros(1) if t.grad is None else np.asarray(plain(t.grad)) for t in (x, y))
        np.testing.assert_allclose(got + np.zeros(x.shape), want + np.zeros(x.shape), rtol=1e-10, atol=1e-12)


def plain(tensor):
    return tensor.resolve_conj() if isinstance(tensor, torch.Tensor) else tensor


def leaf(array, m):
    return m.tensor(array, requires_grad=True)


NAMES = [
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "complex64",
    "complex128",
]


@pytest.mark.parametrize("a", NAMES)
def test_promotion(a):
    for b in NAMES:
        want = torch.promote_types(getattr(torch, a), getattr(torch, b))
        assert repr(lucid.promote_types(getattr(lucid, a), getattr(lucid, b))) == str(want).replace("torch", "lucid")
        for left, right in (((2,), ()), ((), (2,)), ((), ())):
            if {a, b} == {"float16", "complex64"} or {a, b} == {"float16", "complex128"}:
                continue  # PyTorch goes by way of complex32
            got, want = (m.ones(left, dtype=getattr(m, a)) * m.ones(right, dtype=getattr(m, b)) for m in (lucid, torch))
            assert got.dtype.name == str(want.dtype)[6:], (a, left, b, right)


@pytest.mark.parametrize("a", NAMES)
@pytest.mark.parametrize("scalar", [True, 2, 1.5, 1j], ids=str)
def test_promotion_with_python_scalars(a, scalar):
    for shape in ((2,), ()):
        x, y = (m.ones(shape, dtype=getattr(m, a)) for m in (lucid, torch))
        if (x.dtype, scalar) != (lucid.float16, 1j):  # PyTorch has complex32
            assert (x * scalar).dtype.name == str((y * scalar).dtype)[6:]
            assert (scalar + x).dtype.name == str((scalar + y).dtype)[6:]


@pytest.mark.parametrize("name", ["exp", "sqrt", "sigmoid", "sum", "cumsum", "prod", "abs", "floor", "square"])
def test_element_types_of_integers(name):
    for dtype in ("int32", "uint8", "int64"):
        x, y = (m.ones(3, dtype=getattr(m, dtype)) for m in (lucid, torch))
        args = (0,) if name == "cumsum" else ()
        got, want = getattr(lucid, name)(x, *args), getattr(torch, name)(y, *args)
        assert got.dtype.name == str(want.dtype)[6:]


REPRS = [
    [1.0, 2.0],
    [1.5, -2.25],
    [1e-5, 1.0],
    [1e10, 1.0],
    [float("nan"), 1.0],
    [float("inf"), 1.5],
    [1, -20],
    [True, False],
    3.0,
    3,
    [],
    [[]],
    [[1.0, 2.5], [3.0, 4.0]],
    [[[5.0, 6.0]]],
    list(range(2000)),
    [0.1] * 30,
    [1 + 2j, 0.5 - 1j],
    [[float(i * j) for i in range(60)] for j in range(60)],
    [-0.0, 0.0],
    [123456.7, 0.1],
    [100000.0, 1.0],
    1e-9,
]


@pytest.mark.parametrize("data", REPRS, ids=lambda d: str(d)[:30])
def test_text(data):
    want = repr(torch.tensor(data)).replace("tensor(", "Tensor(").replace("torch.", "lucid.")
    assert squeezed(repr(lucid.tensor(data))) == squeezed(want)


def squeezed(text):
    """Without the indentation, which is one more column for ``Tensor(`` under the same line width."""
    return " ".join(text.split())


def test_text_of_a_big_cube():
    x = np.arange(12 * 9 * 20, dtype=np.float32).reshape(12, 9, 20) / 7
    assert repr(lucid.tensor(x)) == repr(torch.tensor(x)).replace("tensor(", "Tensor(")


def test_dlpack_both_ways():
    x = lucid.arange(6.0).reshape(2, 3)
    y = torch.from_dlpack(x)
    y[0, 0] = 9
    assert x[0, 0].item() == 9
    z = lucid.from_dlpack(torch.arange(4.0))
    assert z.tolist() == [0, 1, 2, 3]


def test_dlpack_of_bfloat16_both_ways():
    x = lucid.tensor([1.5, -2.0], dtype=lucid.bfloat16)
    y = torch.from_dlpack(x)
    assert y.dtype is torch.bfloat16 and y.tolist() == [1.5, -2.0]
    y[0] = 3
    assert x.tolist() == [3, -2]
    z = lucid.from_dlpack(torch.tensor([[1.5, 2.5]], dtype=torch.bfloat16).T)
    assert z.dtype is lucid.bfloat16 and z.tolist() == [[1.5], [2.5]]


def test_gradient_at_every_place_a_tensor_is_used():
    got, want = (sum_of_uses(m, *(m.tensor(a, requires_grad=True) for a in (A, B))) for m in (lucid, torch))
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g.numpy(), w.numpy(), rtol=1e-12)


def sum_of_uses(m, x, y):
    h = x * y
    k = (h.exp() + h * x).sum(0)
    (k * k).sum().backward()
    return x.grad, y.grad


def test_second_derivatives():
    got, want = ([g.detach().numpy() for g in second(m)] for m in (lucid, torch))
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-11)


def second(m):
    x, y = (m.tensor(a, requires_grad=True) for a in (A, V))
    out = ((x @ y).tanh() * x.exp().sum(1)).sum()
    first = m.autograd.grad(out, (x, y), create_graph=True)
    return m.autograd.grad((first[0] * first[0]).sum() + first[1].sum(), (x, y))


@pytest.mark.parametrize("name", ["cuda", "cuda.matmul", "cudnn", "mkldnn"])
def test_backends_have_the_settings_and_defaults_that_pytorch_has(name: str) -> None:
    ours, theirs = lucid.backends, torch.backends
    for step in name.split("."):
        ours, theirs = getattr(ours, step), getattr(theirs, step)
    for setting, value in vars(ours).items():
        if isinstance(value, bool):
            assert getattr(theirs, setting) in (value, None)  # PyTorch has no value without the library
