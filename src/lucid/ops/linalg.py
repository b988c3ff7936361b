"""Products of matrices, and sums over named indices."""

# mypy: disable-error-code="has-type"
# The gradient rows name functions defined further down.

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from lucid.autograd import Op, apply
from lucid.core.dtypes import is_floating, widened
from lucid.core.errors import DTypeError, ShapeError
from lucid.ops.autocast import lowered
from lucid.ops.broadcast import sum_to
from lucid.ops.checked import check_tensor
from lucid.ops.common import as_operand, axis, conj, method, same_dtype
from lucid.ops.shape import movedim, permute, reshape, transpose, unsqueeze
from lucid.tensor.tensor import Tensor

Array = np.ndarray[Any, Any]


def _matmul_forward(a: Array, b: Array) -> Array:
    return native_matmul()(a, b) if is_floating(a.dtype) else np.matmul(a, b)


@cache
def native_matmul() -> Callable[..., Array]:
    """The kernel, loaded with its engine when it is first asked for."""
    from lucid.kernels.matmul import matmul

    return matmul


_matmul = Op("matmul", _matmul_forward, vjp={
    "a": lambda g, b, a_shape: sum_to(_product(g, conj(transpose(b, -2, -1))), a_shape),
    "b": lambda g, a, b_shape: sum_to(_product(conj(transpose(a, -2, -1)), g), b_shape),
})  # fmt: skip


def _product(a: Any, b: Any) -> Any:
    """The product of (…, m, k) and (…, k, n). A batch against one matrix is one tall product."""
    if b._array.ndim == 2 and a._array.ndim > 2:
        shape = a._array.shape
        flat = apply(_matmul, reshape(a, (int(np.prod(shape[:-1])), shape[-1])), b)
        return reshape(flat, (*shape[:-1], b._array.shape[1]))
    return apply(_matmul, a, b)


@method("matmul", "__matmul__")
def matmul(input: Any, other: Any) -> Any:
    """The matrix product of the last two dimensions; the others broadcast. A vector counts as one row or one column.

    Shape: (…, m, k) @ (…, k, n) gives (…, m, n); (k,) @ (k,) gives ().
    """
    input, other = lowered(as_operand(input), as_operand(other))
    same_dtype("matmul", input=input, other=other)
    x, y = input._array, other._array
    if x.ndim == 0 or y.ndim == 0 or x.shape[-1] != y.shape[-2 if y.ndim > 1 else 0]:
        raise ShapeError(
            f"matmul: shapes {input.shape} and {other.shape} do not fit; "
            f"the last of the input must be the rows of the other"
        )
    if x.ndim > 1 and y.ndim > 1:
        return _product(input, other)
    out = _product(unsqueeze(input, 0) if x.ndim == 1 else input, unsqueeze(other, 1) if y.ndim == 1 else other)
    return reshape(out, out.shape[:-2] + input.shape[-2:-1] + (other.shape[-1:] if y.ndim > 1 else ()))


@method("__rmatmul__")
def _reflected(b: Any, a: Any) -> Any:
    return matmul(a, b)


def _of_rank(caller: str, **expected: tuple[Any, int]) -> None:
    for name, (x, rank) in expected.items():
        if x._array.ndim != rank:
            raise ShapeError(f"{caller}: {name} must have {rank} dimensions, not shape {x.shape}")


@method()
def mm(input: Tensor, mat2: Tensor) -> Any:
    """The product of two matrices."""
    _of_rank("mm", input=(input, 2), mat2=(mat2, 2))
    return matmul(input, mat2)


@method()
def bmm(input: Tensor, mat2: Tensor) -> Any:
    """The products of two batches of matrices."""
    _of_rank("bmm", input=(input, 3), mat2=(mat2, 3))
    return matmul(input, mat2)


@method()
def mv(input: Tensor, vec: Tensor) -> Any:
    """The product of a matrix and a vector."""
    _of_rank("mv", input=(input, 2), vec=(vec, 1))
    return matmul(input, vec)


@method()
def dot(input: Tensor, tensor: Tensor) -> Any:
    """The sum of products of two vectors."""
    _of_rank("dot", input=(input, 1), tensor=(tensor, 1))
    return matmul(input, tensor)


@method("outer", "ger")
def outer(input: Tensor, vec2: Tensor) -> Any:
    """All products of the elements of two vectors."""
    _of_rank("outer", input=(input, 1), vec2=(vec2, 1))
    return unsqueeze(input, 1) * unsqueeze(vec2, 0)


@method()
def addmm(input: Tensor, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta input + alpha (mat1 @ mat2)."""
    product = matmul(mat1, mat2)
    return (input if beta == 1 else input * beta) + (product if alpha == 1 else product * alpha)


def _triangle(name: str, keep: Any) -> Op:
    return Op(name, lambda x, *, diagonal: keep(x, diagonal).astype(x.dtype, copy=False), vjp={
        "x": lambda g, diagonal: apply(_TRIANGLES[name], g, diagonal=diagonal),
    })  # fmt: skip


_TRIANGLES = {"tril": _triangle("tril", np.tril), "triu": _triangle("triu", np.triu)}


@method()
def tril(input: Tensor, diagonal: int = 0) -> Any:
    """The part on and below a diagonal, 0 elsewhere."""
    return _of_matrices("tril", input, diagonal)


@method()
def triu(input: Tensor, diagonal: int = 0) -> Any:
    """The part on and above a diagonal, 0 elsewhere."""
    return _of_matrices("triu", input, diagonal)


def _of_matrices(name: str, input: Tensor, diagonal: int) -> Any:
    if input._array.ndim < 2:
        raise ShapeError(
            f"{name}: the input {input.shape} has {input._array.ndim} dimensions, but must have at least 2"
        )
    return apply(_TRIANGLES[name], input, diagonal=diagonal)


@method()
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """Elements whose indices in two dimensions differ by ``offset``, in a last dimension of their own."""
    a, b = axis("diagonal", dim1, input._array.ndim), axis("diagonal", dim2, input._array.ndim)
    front = movedim(input, (a, b), (0, 1))
    rows, columns = front.shape[:2]
    n = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    steps = np.arange(n)
    return movedim(front[steps - min(offset, 0), steps + max(offset, 0)], 0, -1)


@method()
def diag(input: Tensor, diagonal: int = 0) -> Any:
    """The diagonal of a matrix, or the matrix with a vector as its diagonal."""
    if input._array.ndim == 2:
        return input.diagonal(diagonal)
    _of_rank("diag", input=(input, 1))
    n = input.shape[0] + abs(diagonal)
    steps = np.arange(input.shape[0])
    flat = (steps - min(diagonal, 0)) * n + steps + max(diagonal, 0)
    zeros = Tensor(np.zeros(n * n, input._array.dtype))
    return reshape(zeros.index_add(0, Tensor(flat), input), (n, n))


@method()
def trace(input: Tensor) -> Any:
    """The sum of the diagonal of a matrix."""
    _of_rank("trace", input=(input, 2))
    return diagonal(input).sum()


# Sums over named indices


def _einsum_forward(*xs: Array, equation: str) -> Array:
    out = np.einsum(equation, *map(widened, xs), optimize=len(xs) > 1)
    return np.asarray(out).astype(xs[0].dtype, copy=False)


def _einsum_rows(g: Any, xs: tuple[Any, ...], equation: str) -> tuple[Any, ...]:
    left, result = equation.split("->")
    names = left.split(",")
    return tuple(_einsum_row(g, result, i, names, xs) for i in range(len(xs)))


def _einsum_row(g: Any, result: str, i: int, names: list[str], xs: tuple[Any, ...]) -> Any:
    """The sum over all but the indices of operand i; an index nothing else has is spread over its size."""
    others = [(n, x) for j, (n, x) in enumerate(zip(names, xs, strict=True)) if j != i]
    known = set(result).union(*(set(n) for n, _ in others))
    kept = "".join(c for c in names[i] if c in known)
    equation = ",".join([result, *(n for n, _ in others)]) + "->" + kept
    part = apply(_einsum, g, *(conj(x) for _, x in others), equation=equation)
    shape = xs[i].shape
    wide = tuple(n if c in known else 1 for c, n in zip(names[i], shape, strict=True))
    return reshape(part, wide).broadcast_to(shape)


_einsum = Op("einsum", _einsum_forward, vjp={"xs": _einsum_rows})


def _explicit(equation: str, xs: list[Any]) -> tuple[list[str], str]:
    """Names of the dimensions of all operands and of the result: letters for ``...``, an implicit result spelt out."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    names = left.split(",")
    if len(names) != len(xs):
        raise ShapeError(f"einsum: {equation!r} names {len(names)} operands, there are {len(xs)}")
    used = set(left)
    spare = [c for c in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if c not in used]
    longest = 0
    for i, (name, x) in enumerate(zip(names, xs, strict=True)):
        extra = x._array.ndim - len(name.replace("...", ""))
        if extra < 0 or (extra and "..." not in name):
            raise ShapeError(f"einsum: {name!r} in {equation!r} does not name the dimensions of shape {x.shape}")
        names[i] = name.replace("...", "".join(reversed(spare[:extra])))
        longest = max(longest, extra)
    dots = "".join(reversed(spare[:longest]))
    if not arrow:
        once = sorted(c for c in used - set(".,") if left.count(c) == 1)
        result = dots + "".join(once)
    return names, result.replace("...", dots)


def _without_repeats(x: Any, name: str) -> tuple[Any, str]:
    """An operand that names an index twice, as its diagonal."""
    for c in dict.fromkeys(name):
        while name.count(c) > 1:
            first = name.index(c)
            second = name.index(c, first + 1)
            if x.shape[first] != x.shape[second]:
                raise ShapeError(f"einsum: index {c!r} has sizes {x.shape[first]} and {x.shape[second]}")
            x = diagonal(x, 0, first, second)
            name = name[:first] + name[first + 1 : second] + name[second + 1 :] + c
    return x, name


def einsum(equation: str, *operands: Any) -> Any:
    """The sum of products over the indices that ``->`` does not keep.

    >>> import lucid
    >>> lucid.einsum("ij,j->i", lucid.eye(2), lucid.tensor([1.0, 2.0]))
    Tensor([1., 2.])
    """
    if not isinstance(equation, str):
        raise TypeError(f"einsum: the equation must be a string like 'ij,jk->ik', not {type(equation).__name__}")
    xs = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], list | tuple) else list(operands)
    for x in xs:
        check_tensor("einsum", "operands", x)
    if len({x.dtype for x in xs}) > 1:
        raise DTypeError(f"einsum: all operands of one dtype, not {', '.join(repr(x.dtype) for x in xs)}")
    names, result = _explicit(equation, xs)
    sizes: dict[str, int] = {}
    for i, (x, name) in enumerate(zip(xs, names, strict=True)):
        xs[i], names[i] = _without_repeats(x, name)
        for c, n in zip(names[i], xs[i].shape, strict=True):
            if 1 != sizes.get(c, n) != n != 1:
                raise ShapeError(f"einsum: index {c!r} of {equation!r} has sizes {sizes[c]} and {n}")
            sizes[c] = max(sizes.get(c, 1), n) if n else 0
    if missing := set(result) - set(sizes):
        raise ShapeError(f"einsum: the result of {equation!r} names {sorted(missing)}, which no operand has")
    xs = [x.broadcast_to(tuple(sizes[c] for c in name)) for x, name in zip(xs, names, strict=True)]
    return apply(_einsum, *xs, equation=",".join(names) + "->" + result)


def tensordot(a: Tensor, b: Tensor, dims: int | tuple[Any, Any] = 2) -> Any:
    """The sum of products over the last ``dims`` dimensions of a and the first of b, or over those named."""
    if isinstance(dims, int):
        dims = (list(range(a.ndim - dims, a.ndim)), list(range(dims)))
    left, right = ([axis("tensordot", d, x.ndim) for d in ds] for x, ds in zip((a, b), dims, strict=True))
    free_a = [d for d in range(a.ndim) if d not in left]
    free_b = [d for d in range(b.ndim) if d not in right]
    inner = int(np.prod([a.shape[d] for d in left]))
    x = reshape(permute(a, free_a + left), (-1, inner))
    y = reshape(permute(b, right + free_b), (inner, -1))
    return reshape(matmul(x, y), [a.shape[d] for d in free_a] + [b.shape[d] for d in free_b])
