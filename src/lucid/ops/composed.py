"""Functions that are a line of others: PyTorch has names for them, and programs use these."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Any

import numpy as np

from lucid.autograd import Op, apply
from lucid.core.dtypes import DTypeLike, finfo, float32, int64
from lucid.core.errors import DTypeError, GradientError, ShapeError
from lucid.ops import compare, elementwise, reduction, shape
from lucid.ops.common import as_operand, attribute, axis, cast, method, result_type
from lucid.ops.creation import _new
from lucid.ops.index import _added, check_slices, gather, getitem, sort
from lucid.ops.linalg import matmul
from lucid.tensor import Device, Tensor


def is_tensor(obj: Any) -> bool:
    """Whether it is a tensor."""
    return isinstance(obj, Tensor)


def is_floating_point(input: Tensor) -> bool:
    """Whether the elements are real floating-point numbers."""
    return input.is_floating_point()


def is_complex(input: Tensor) -> bool:
    """Whether the elements are complex."""
    return input.is_complex()


def numel(input: Tensor) -> int:
    """How many elements there are."""
    return input.numel()


@method()
def clamp_min(input: Tensor, min: Any) -> Any:
    """At least ``min``."""
    return elementwise.clamp(input, min=min)


@method()
def clamp_max(input: Tensor, max: Any) -> Any:
    """At most ``max``."""
    return elementwise.clamp(input, max=max)


@method()
def hypot(input: Tensor, other: Tensor) -> Any:
    """√(x² + y²), without overflow.

    >>> hypot(Tensor([3e30]), Tensor([4e30]))
    Tensor([5.0000e+30])
    """
    kind = result_type(input, other)
    x, y = cast(input, kind), cast(other, kind)
    size = elementwise.maximum(elementwise.abs(x), elementwise.abs(y)).detach()
    size = compare.where((size > 0) & compare.isfinite(size), size, 1.0)
    return size * elementwise.sqrt(elementwise.square(x / size) + elementwise.square(y / size))


@method()
def logaddexp(input: Tensor, other: Tensor) -> Any:
    """log(exp(x) + exp(y)), without overflow.

    >>> logaddexp(Tensor([1000.0]), Tensor([1000.0]))
    Tensor([1000.6932])
    """
    kind = result_type(input, other)
    return reduction.logsumexp(shape.stack([cast(x, kind) for x in shape_alike(input, other)]), 0)


def shape_alike(input: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both in their common shape."""
    wide = np.broadcast_shapes(input.shape, other.shape)
    return input.broadcast_to(wide), other.broadcast_to(wide)


@method()
def nan_to_num(input: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Any:
    """NaN and the infinities replaced: by 0 and by the largest numbers there are.

    >>> from math import inf, nan
    >>> nan_to_num(Tensor([nan, 1.0, -inf]), neginf=-2.0)
    Tensor([ 0.,  1., -2.])
    """
    if not input.dtype.is_floating_point:
        return input.clone()
    info = finfo(input.dtype)
    high, low = info.max if posinf is None else posinf, info.min if neginf is None else neginf
    kept = compare.where(compare.isnan(input), nan, input)
    kept = compare.where(input == float("inf"), float(high), kept)
    return compare.where(input == float("-inf"), float(low), kept)


@method()
def diff(input: Tensor, n: int = 1, dim: int = -1) -> Any:
    """Each element minus the one before it, ``n`` times."""
    d = axis("diff", dim, input.ndim)
    for _ in range(n):
        size = input.shape[d]
        input = input.narrow(d, 1, size - 1) - input.narrow(d, 0, size - 1)
    return input


@method()
def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Any:
    """How often each of 0, 1, … occurs, or the sum of its weights. It has no gradient.

    >>> bincount(Tensor([1, 1, 3])).tolist()
    [0, 2, 0, 1]
    """
    array = input._array
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DTypeError(f"bincount: the input must be a row of integers, not {array.dtype} of shape {array.shape}")
    if array.size and array.min() < 0:
        raise ValueError(f"bincount: the input holds {array.min()}; it must not be negative")
    counts = np.bincount(array, None if weights is None else weights.detach().numpy(), minlength)
    return Tensor(counts if weights is None or weights._array.dtype == np.float64 else counts.astype(np.float32))


@method()
def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Any:
    """How many elements are in each of ``bins`` equal parts of [min, max], or of the input's range. No gradient."""
    array = input._array
    low, high = (array.min(), array.max()) if min == max == 0 and array.size else (min, max)
    low, high = (low - 1, high + 1) if low == high else (low, high)
    counts, _ = np.histogram(array, bins, (low, high))
    return Tensor(counts.astype(array.dtype))


@method()
def isin(elements: Tensor, test_elements: Tensor) -> Any:
    """Whether each element is one of the others."""
    return Tensor(np.isin(elements._array, test_elements._array))


def searchsorted(sorted_sequence: Tensor, input: Tensor, *, right: bool = False) -> Tensor:
    """Before which element of a sorted row each number belongs. It has no gradient."""
    if sorted_sequence.ndim != 1:
        raise ShapeError(f"searchsorted: the sorted_sequence {sorted_sequence.shape} must have 1 axis")
    found = np.searchsorted(sorted_sequence._array, input._array, "right" if right else "left")
    result: Tensor = Tensor(np.asarray(found, np.int64))
    return result


def bucketize(input: Tensor, boundaries: Tensor, *, right: bool = False) -> Tensor:
    """``searchsorted`` with the arguments the other way."""
    return searchsorted(boundaries, input, right=right)


@method()
def argwhere(input: Tensor) -> Any:
    """The places of what is not 0, one a row."""
    return compare.nonzero(input)


@method()
def fliplr(input: Tensor) -> Any:
    """Columns in reverse."""
    return shape.flip(input, (1,))


@method()
def flipud(input: Tensor) -> Any:
    """Rows in reverse."""
    return shape.flip(input, (0,))


@method()
def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Any:
    """Turned by ``k`` times 90 degrees in the plane of two axes, from the first towards the second.

    >>> rot90(Tensor([[1, 2], [3, 4]])).tolist()
    [[2, 4], [1, 3]]
    """
    first, second = (axis("rot90", d, input.ndim) for d in dims)
    if k % 4 == 2:
        return shape.flip(input, (first, second))
    if k % 4 == 0:
        return input.clone()
    turned = shape.flip(input, (second if k % 4 == 1 else first,))
    return shape.transpose(turned, first, second)


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Side by side: rows end to end, others along axis 1."""
    tensors = [as_operand(x) for x in tensors]
    result: Tensor = shape.cat(tensors, 0 if tensors[0].ndim <= 1 else 1)
    return result


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """One above the other; a row is a matrix of one."""
    tensors = [as_operand(x) for x in tensors]
    result: Tensor = shape.cat([x.reshape(1, -1) if x.ndim <= 1 else x for x in tensors], 0)
    return result


def var_mean(
    input: Tensor, dim: Any = None, *, correction: float = 1, unbiased: bool | None = None, keepdim: bool = False
) -> tuple[Any, Any]:
    """Variance and mean."""
    correction = correction if unbiased is None else int(unbiased)
    spread = reduction.var(input, dim, correction=correction, keepdim=keepdim)
    return spread, reduction.mean(input, dim, keepdim=keepdim)


def std_mean(
    input: Tensor, dim: Any = None, *, correction: float = 1, unbiased: bool | None = None, keepdim: bool = False
) -> tuple[Any, Any]:
    """Standard deviation and mean."""
    spread, mean = var_mean(input, dim, correction=correction, unbiased=unbiased, keepdim=keepdim)
    return spread.sqrt(), mean


@method()
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta x + alpha (a b), for batches of matrices."""
    return beta * input + alpha * matmul(batch1, batch2)


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0) -> Tensor:
    """Distances between the rows of two matrices: out[i, j] = |x1[i] - x2[j]|.

    Shape:
        x1 (…, P, M), x2 (…, R, M), result (…, P, R).
    """
    if x1.shape[-1:] != x2.shape[-1:]:
        raise ShapeError(f"cdist: the rows of x1 {x1.shape} and x2 {x2.shape} must be of one length")
    result: Tensor = reduction.norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)
    return result


@method("unfold")
def windows(input: Tensor, dimension: int, size: int, step: int) -> Any:
    """Windows of ``size`` elements along an axis, one every ``step``, as a new last axis.

    >>> Tensor([1, 2, 3, 4, 5]).unfold(0, 3, 2).tolist()
    [[1, 2, 3], [3, 4, 5]]
    """
    d = axis("unfold", dimension, input.ndim)
    if input.ndim == 0:
        return windows(shape.unsqueeze(input, 0), 0, size, step).squeeze(0)
    if size < 1 or step < 1 or size > input.shape[d]:
        raise ShapeError(
            f"unfold: size={size} must be in 1 … {input.shape[d]} along dimension={dimension}, step={step} at least 1"
        )
    starts = np.arange(0, input.shape[d] - size + 1, step)
    picked = getitem(input, (slice(None),) * d + (starts[:, None] + np.arange(size),))
    return shape.movedim(picked, d + 1, -1)


@method()
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Any:
    """One value at the given indices of an axis."""
    d = axis("index_fill", dim, input.ndim)
    along = np.zeros(input.shape[d], bool)
    along[index._array] = True
    return compare.masked_fill(input, Tensor(along.reshape(-1, *(1,) * (input.ndim - d - 1))), value)


@method()
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Any:
    """``input`` with slices of ``source`` at ``index`` of an axis."""
    d = axis("index_copy", dim, input.ndim)
    check_slices("index_copy", input, d, index, source)
    made = input.clone()
    made[(slice(None),) * d + (index,)] = source
    return made


@method()
def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Any:
    """``input`` with the elements where ``mask`` is True taken from ``source``, in order."""
    made = input.broadcast_to(np.broadcast_shapes(input.shape, mask.shape)).clone()
    where = mask.broadcast_to(made.shape)
    made[where] = source.reshape(-1)[: int(where._array.sum())]
    return made


@method()
def index_put(input: Tensor, indices: Sequence[Tensor], values: Tensor, accumulate: bool = False) -> Any:
    """``input`` with ``input[indices] = values``, or with the values added there."""
    if accumulate:
        where = tuple(index._array for index in indices)
        wide = cast(values, input.dtype).broadcast_to(input._array[where].shape)
        return input + apply(_added, wide, shape=input.shape, index=where)
    made = input.clone()
    made[tuple(indices)] = values
    return made


@method()
def renorm(input: Tensor, p: float, dim: int, maxnorm: float) -> Any:
    """The slices along ``dim`` that are longer than ``maxnorm``, shortened to it."""
    d = axis("renorm", dim, input.ndim)
    lengths = reduction.norm(input, p, tuple(i for i in range(input.ndim) if i != d), keepdim=True)
    return input * compare.where(lengths > maxnorm, maxnorm / (lengths + 1e-7), 1.0)


@method()
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """The ``k``-th smallest element along an axis, counted from 1, and where it is."""
    d = axis("kthvalue", dim, input.ndim)
    if not 1 <= k <= input.shape[d]:
        raise ShapeError(f"kthvalue: k={k} must be in 1 … {input.shape[d]}, the length of dim={dim}")
    values, indices = sort(input, d)
    values, indices = values.narrow(d, k - 1, 1), indices.narrow(d, k - 1, 1)
    return reduction.Extremes(*((values, indices) if keepdim else (values.squeeze(d), indices.squeeze(d))))


def _running(caller: str, input: Tensor, dim: int, extreme: Any) -> Any:
    """The largest (or smallest) element so far along an axis, and where its last one is."""
    d = axis(caller, dim, input.ndim)
    if input.ndim == 0:
        values, indices = _running(caller, shape.unsqueeze(input, 0), 0, extreme)
        return reduction.Extremes(values.squeeze(0), indices.squeeze(0))
    array = np.moveaxis(input._array, d, 0)
    found = extreme.accumulate(array, axis=0)
    places = np.arange(len(array)).reshape(-1, *(1,) * (array.ndim - 1))
    where = np.maximum.accumulate(np.where(array == found, places, 0), axis=0)
    indices = Tensor(np.ascontiguousarray(np.moveaxis(where, 0, d)))
    return reduction.Extremes(gather(input, d, indices), indices)


@method()
def cummax(input: Tensor, dim: int) -> Any:
    """The largest element so far along an axis, and where it is."""
    return _running("cummax", input, dim, np.maximum)


@method()
def cummin(input: Tensor, dim: int) -> Any:
    """The smallest element so far along an axis, and where it is."""
    return _running("cummin", input, dim, np.minimum)


@method()
def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """Elements, or slices along ``dim``, without those that are as the one before them.

    >>> unique_consecutive(Tensor([1, 1, 2, 1])).tolist()
    [1, 2, 1]
    """
    array = input._array.reshape(-1) if dim is None else np.moveaxis(input._array, axis("unique", dim, input.ndim), 0)
    new = np.ones(len(array), bool)
    new[1:] = (array[1:] != array[:-1]).reshape(max(len(array) - 1, 0), -1).any(1)
    starts = np.flatnonzero(new)
    kept = array[starts] if dim is None else np.moveaxis(array[starts], 0, dim)
    results = [Tensor(np.ascontiguousarray(kept))]
    if return_inverse:
        inverse = np.cumsum(new) - 1
        results.append(Tensor(inverse.reshape(input.shape) if dim is None else inverse))
    if return_counts:
        results.append(Tensor(np.diff(np.append(starts, len(array)))))
    return results[0] if len(results) == 1 else tuple(results)


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: DTypeLike = int64, device: Any = None) -> Tensor:
    """The places on and below a diagonal: two rows of numbers."""
    found = np.tril_indices(row, offset, col)
    return _new(Tensor(np.stack(found), dtype=dtype)._array, False, device)


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: DTypeLike = int64, device: Any = None) -> Tensor:
    """The places on and above a diagonal: two rows of numbers."""
    found = np.triu_indices(row, offset, col)
    return _new(Tensor(np.stack(found), dtype=dtype)._array, False, device)


def _window(length: int, periodic: bool, terms: Sequence[float], dtype: DTypeLike, **place: Any) -> Tensor:
    """Cosines added: a₀ - a₁ cos(2πn/N) + …"""
    whole = length if periodic else max(length - 1, 1)
    at = 2 * pi * np.arange(length) / whole
    values = sum((-1) ** k * a * np.cos(k * at) for k, a in enumerate(terms))
    values = np.ones(1) if length == 1 else np.asarray(values)
    made = Tensor(values, dtype=float32 if dtype is None else dtype)
    return _new(made._array, place.get("requires_grad", False), place.get("device"))


def hann_window(
    window_length: int,
    periodic: bool = True,
    *,
    dtype: DTypeLike = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """sin²(πn/N), for ``periodic`` over N = window_length, else N - 1."""
    return _window(window_length, periodic, (0.5, 0.5), dtype, device=device, requires_grad=requires_grad)


def hamming_window(
    window_length: int, periodic: bool = True, alpha: float = 0.54, beta: float = 0.46, *, dtype: DTypeLike = None,
    device: Any = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """alpha - beta cos(2πn/N)."""
    return _window(window_length, periodic, (alpha, beta), dtype, device=device, requires_grad=requires_grad)


def blackman_window(
    window_length: int,
    periodic: bool = True,
    *,
    dtype: DTypeLike = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """0.42 - 0.5 cos(2πn/N) + 0.08 cos(4πn/N)."""
    return _window(window_length, periodic, (0.42, 0.5, 0.08), dtype, device=device, requires_grad=requires_grad)


def _as_complex(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    kind = np.complex128 if x.dtype == np.float64 else np.complex64
    return np.ascontiguousarray(x).view(kind)[..., 0]


def _as_real(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(z)[..., None].view(z.real.dtype)


_view_as_complex = Op("view_as_complex", _as_complex, vjp={"x": lambda g: apply(_view_as_real, g)})
_view_as_real: Op = Op("view_as_real", _as_real, vjp={"z": lambda g: apply(_view_as_complex, g)})


def view_as_real(input: Tensor) -> Tensor:
    """Real and imaginary parts along a new last axis; a copy."""
    if not input.is_complex():
        raise DTypeError(f"view_as_real: the input is {input.dtype.name}, but must be complex")
    result: Tensor = apply(_view_as_real, input)
    return result


def view_as_complex(input: Tensor) -> Tensor:
    """Complex numbers of the two entries of the last axis; a copy."""
    if input.shape[-1:] != (2,) or input.dtype.name not in ("float32", "float64"):
        raise DTypeError(f"view_as_complex: the input must be float32 or float64 of (…, 2), not {input.dtype.name} of "
                         f"{input.shape}")  # fmt: skip
    result: Tensor = apply(_view_as_complex, input)
    return result


@attribute("is_sparse")
def _is_sparse(x: Any) -> bool:
    """Whether the zeros are left out: never."""
    return False


@method()
def cuda(x: Any, device: Any = None, non_blocking: bool = False) -> Any:
    """Raises: DeviceError: there is no GPU."""
    return x.to(Device("cuda"))


@method()
def pin_memory(x: Any) -> Any:
    """The tensor itself: no device would read it faster."""
    return x


def _reshape(x: Any, name: str, view: Any) -> Any:
    """Change the shape of the tensor itself, which a graph could not know of."""
    if x.requires_grad or x._view is not None:
        raise GradientError(f"{name}_: a tensor in a graph keeps its shape: write x = x.{name}(…)")
    x._array = view._array
    x._version[0] += 1
    return x


@method()
def squeeze_(x: Any, dim: Any = None) -> Any:
    """``squeeze`` of the tensor itself; refused in a graph."""
    return _reshape(x, "squeeze", shape.squeeze(x, dim))


@method()
def unsqueeze_(x: Any, dim: int) -> Any:
    """``unsqueeze`` of the tensor itself; refused in a graph."""
    return _reshape(x, "unsqueeze", shape.unsqueeze(x, dim))


@method()
def transpose_(x: Any, dim0: int, dim1: int) -> Any:
    """``transpose`` of the tensor itself; refused in a graph."""
    return _reshape(x, "transpose", shape.transpose(x, dim0, dim1))


@method()
def t_(x: Any) -> Any:
    """``t`` of the tensor itself; refused in a graph."""
    return _reshape(x, "t", shape.t(x))
