"""Matrix products and sums over named indices: NumPy's values, gradients to second order."""

from __future__ import annotations

import numpy as np
import pytest

import lucid
from lucid.autograd import check_grads
from lucid.core.errors import DTypeError, ShapeError


def pair(*shapes, requires_grad=False):
    rng = np.random.default_rng(5)
    return [lucid.tensor(rng.standard_normal(s), requires_grad=requires_grad) for s in shapes]


@pytest.mark.parametrize(
    "shapes",
    [
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 4)),
        ((2, 3), (3, 4)),
        ((5, 2, 3), (3, 4)),
        ((2, 3), (5, 3, 4)),
        ((5, 2, 3), (5, 3, 4)),
        ((6, 1, 2, 3), (5, 3, 4)),
        ((5, 2, 3), (3,)),
        ((3,), (5, 3, 4)),
        ((0, 3), (3, 4)),
        ((2, 0), (0, 4)),
        ((1, 17), (17, 33)),
        ((16, 8), (8, 15)),
    ],
)
def test_matmul(shapes):
    a, b = pair(*shapes, requires_grad=True)
    want = a.detach().numpy() @ b.detach().numpy()
    got = a @ b
    assert got.shape == want.shape
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-12, atol=1e-13)
    check_grads(lucid.matmul, (a, b), rtol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "rtol"), [("float16", 1e-3), ("bfloat16", 1e-2), ("float32", 1e-6), ("complex64", 1e-5)]
)
def test_matmul_of_other_types(dtype, rtol):
    a, b = (x.to(dtype) for x in pair((4, 50), (50, 3)))
    got = a @ b
    assert got.dtype is a.dtype
    wide = np.complex128 if dtype == "complex64" else np.float64
    np.testing.assert_allclose(
        got.numpy().astype(wide), a.numpy().astype(wide) @ b.numpy().astype(wide), rtol=rtol, atol=20 * rtol
    )
    assert (lucid.eye(2, dtype=int) @ lucid.tensor([1, 2])).tolist() == [1, 2]


def test_matmul_of_strided_views():
    a, b = pair((6, 8), (9, 8))
    np.testing.assert_allclose(
        (a[::2, ::-1] @ b.T[:, 1::3]).numpy(), a.numpy()[::2, ::-1] @ b.numpy().T[:, 1::3], rtol=1e-12
    )


@pytest.mark.parametrize(
    ("function", "error", "text"),
    [
        (lambda: lucid.ones(2, 3) @ lucid.ones(2, 3), ShapeError, r"\(2, 3\) and \(2, 3\) do not fit"),
        (lambda: lucid.ones(2) @ lucid.tensor(1.0), ShapeError, r"\(2,\) and \(\)"),
        (lambda: lucid.ones(2) @ lucid.ones(2).double(), DTypeError, r"input lucid.float32, other lucid.float64"),
        (lambda: lucid.mm(lucid.ones(2), lucid.ones(2)), ShapeError, "mm: input must have 2 dimensions"),
        (lambda: lucid.bmm(lucid.ones(2, 2), lucid.ones(2, 2)), ShapeError, "bmm: input must have 3"),
        (lambda: lucid.dot(lucid.ones(2), lucid.ones(1, 2)), ShapeError, "dot: tensor must have 1"),
        (lambda: lucid.einsum("ij,jk", lucid.ones(2, 2)), ShapeError, "names 2 operands, there are 1"),
        (lambda: lucid.einsum("ijk->i", lucid.ones(2, 2)), ShapeError, "'ijk'.*does not name the dimensions"),
        (lambda: lucid.einsum("i,i->", lucid.ones(2), lucid.ones(3)), ShapeError, "index 'i'.*sizes 2 and 3"),
        (lambda: lucid.einsum("ii", lucid.ones(2, 3)), ShapeError, "index 'i' has sizes 2 and 3"),
        (lambda: lucid.einsum("i->ij", lucid.ones(2)), ShapeError, r"names \['j'\], which no operand has"),
        (lambda: lucid.einsum("i,i", lucid.ones(2), lucid.ones(2).double()), DTypeError, "all operands of one dtype"),
    ],
)
def test_errors(function, error, text):
    with pytest.raises(error, match=text):
        function()


def test_named_products():
    a, b, v = pair((2, 3), (3, 4), (3,))
    np.testing.assert_allclose(lucid.mm(a, b).numpy(), a.numpy() @ b.numpy(), rtol=1e-12)
    np.testing.assert_allclose(lucid.mv(a, v).numpy(), a.numpy() @ v.numpy(), rtol=1e-12)
    np.testing.assert_allclose(lucid.dot(v, v).numpy(), v.numpy() @ v.numpy(), rtol=1e-12)
    np.testing.assert_allclose(lucid.outer(v, v).numpy(), np.outer(v.numpy(), v.numpy()), rtol=1e-12)
    np.testing.assert_allclose(lucid.bmm(a[None], b[None]).numpy()[0], a.numpy() @ b.numpy(), rtol=1e-12)
    c = lucid.ones(2, 4).double()
    np.testing.assert_allclose(
        lucid.addmm(c, a, b, beta=2, alpha=3).numpy(), 2 + 3 * (a.numpy() @ b.numpy()), rtol=1e-12
    )
    np.testing.assert_allclose(lucid.tensordot(a, b, 1).numpy(), a.numpy() @ b.numpy(), rtol=1e-12)
    np.testing.assert_allclose(lucid.tensordot(a, b, ([1], [0])).numpy(), a.numpy() @ b.numpy(), rtol=1e-12)


@pytest.mark.parametrize("k", [-2, -1, 0, 1, 5])
def test_triangles_and_diagonals(k):
    (x,) = pair((3, 4), requires_grad=True)
    a = x.detach().numpy()
    np.testing.assert_array_equal(x.tril(k).detach().numpy(), np.tril(a, k))
    np.testing.assert_array_equal(x.triu(k).detach().numpy(), np.triu(a, k))
    np.testing.assert_array_equal(lucid.diagonal(x, k).detach().numpy(), np.diagonal(a, k))
    np.testing.assert_array_equal(lucid.diag(x[0], k).detach().numpy(), np.diag(a[0], k))
    np.testing.assert_array_equal(lucid.diag(x, k).detach().numpy(), np.diag(a, k))
    check_grads(lambda x: x.tril(k).exp() * x.triu(-k), x)
    if abs(k) < 3:
        check_grads(lambda x: lucid.diagonal(x, k) ** 2, x)
        check_grads(lambda x: lucid.diag(x[0], k) ** 2, x)


def test_diagonals_of_any_two_dimensions():
    (x,) = pair((2, 3, 4))
    np.testing.assert_array_equal(lucid.diagonal(x, 1, 2, 0).numpy(), np.diagonal(x.numpy(), 1, 2, 0))
    assert lucid.trace(x[0]).item() == pytest.approx(np.trace(x.numpy()[0]))


EQUATIONS = {
    "ij,jk->ik": ((2, 3), (3, 4)),
    "ij,jk": ((2, 3), (3, 4)),
    "bij,bjk->bik": ((2, 3, 4), (2, 4, 5)),
    "ij->ji": ((2, 3),),
    "ij->": ((2, 3),),
    "ij->j": ((2, 3),),
    "i,j->ij": ((2,), (3,)),
    "ii->i": ((3, 3),),
    "ii": ((3, 3),),
    "iij->j": ((3, 3, 2),),
    "...ij,...jk->...ik": ((5, 2, 3), (3, 4)),
    "...i->...": ((2, 3),),
    "i...,i...->...": ((3, 2), (3, 2)),
    "ij,kj,l->il": ((2, 3), (4, 3), (2,)),
    "abc,cd,de,b->ae": ((2, 3, 4), (4, 2), (2, 3), (3,)),
    "ijj,jk->ik": ((2, 3, 3), (3, 2)),
    "i,i->i": ((3,), (3,)),
    "ba": ((2, 3),),
    "ij,ij->": ((2, 3), (2, 3)),
    "...": ((2, 3),),
    "i,i": ((0,), (0,)),
}


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum(equation):
    xs = pair(*EQUATIONS[equation], requires_grad=True)
    want = np.einsum(equation, *(x.detach().numpy() for x in xs))
    got = lucid.einsum(equation, *xs)
    assert got.shape == want.shape
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-12, atol=1e-14)
    check_grads(lambda *xs: lucid.einsum(equation, *xs), xs, rtol=1e-4)


def test_einsum_of_a_list_and_of_narrow_types():
    xs = pair((2, 3), (3, 4))
    np.testing.assert_array_equal(lucid.einsum("ij,jk", xs).numpy(), lucid.einsum("ij,jk", *xs).numpy())
    assert lucid.einsum("i,i->", *[lucid.ones(4096, dtype=lucid.bfloat16)] * 2).item() == 4096
