"""Shapes: views where memory allows, and joining and cutting."""

# mypy: disable-error-code="has-type"
# The gradient rows name functions defined further down.

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from inspect import signature
from itertools import accumulate
from typing import Any

import numpy as np

from lucid.autograd import Op, apply
from lucid.autograd.tracked import wrap
from lucid.core.dtypes import DTypeLike, as_dtype, promote_types
from lucid.core.errors import ShapeError
from lucid.kernels import empty, moving
from lucid.ops.common import Dims, as_operand, attribute, axes, axis, cast, method, sizes_of
from lucid.tensor.device import Device
from lucid.tensor.layout import MemoryFormat, check_memory_format
from lucid.tensor.tensor import Tensor

Array = np.ndarray[Any, Any]

#: Of NumPy's reshape, which has the word since 2.1: a view or an error.
_VIEW_ONLY: dict[str, Any] = {"copy": False} if "copy" in signature(np.reshape).parameters else {}


def _reshaped(x: Array, *, shape: tuple[int, ...]) -> Array:
    if x.flags.c_contiguous or x.size < moving.LEAST:
        return x.reshape(shape)
    try:
        return np.reshape(x, shape, **_VIEW_ONLY)
    except ValueError:
        return moving.contiguous(x).reshape(shape)


_reshape = Op("reshape", _reshaped, view=True, vjp={"x": lambda g, x_shape: reshape(g, x_shape)})
_permute = Op("permute", lambda x, *, dims: x.transpose(dims), view=True, vjp={
    "x": lambda g, dims: apply(_permute, g, dims=tuple(map(int, np.argsort(dims)))),
})  # fmt: skip


def _flip_forward(x: Array, *, dims: tuple[int, ...]) -> Array:
    view = np.flip(x, dims) if x.ndim else x
    if x.size < moving.LEAST:
        return view.copy()
    flipped: Array = empty(x.shape, x.dtype)
    moving.move(view, flipped)
    return flipped


_flip = Op("flip", _flip_forward, vjp={"x": lambda g, dims: flip(g, dims)})
_roll = Op("roll", lambda x, *, shifts, dims: np.roll(x, shifts, dims), vjp={
    "x": lambda g, shifts, dims: apply(_roll, g, shifts=tuple(-s for s in shifts), dims=dims),
})  # fmt: skip
_clone = Op("clone", lambda x: _copied(x) if x.flags.c_contiguous else x.copy(order="K"), vjp={"x": lambda g: g})
_contiguous = Op("contiguous", lambda x: _copied(x), vjp={"x": lambda g: g})


def _copied(x: Array) -> Array:
    """In row-major order."""
    to = empty(x.shape, x.dtype)
    moving.move(x, to)
    return to


def _filled(caller: str, x: Tensor, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes with -1 worked out."""
    count = x._array.size
    if sizes.count(-1) == 1:
        rest = math.prod(n for n in sizes if n != -1)
        if rest and count % rest == 0:
            return tuple(count // rest if n == -1 else n for n in sizes)
    elif math.prod(sizes) == count and min(sizes, default=0) >= 0:
        return sizes
    raise ShapeError(f"{caller}: {count} elements of shape {x.shape} do not fill the sizes {sizes}")


@method()
def reshape(input: Tensor, *sizes: Any, shape: Any = None) -> Any:
    """The same elements in row-major order in another shape; one size may be -1. A view if possible, else a copy."""
    return apply(_reshape, input, shape=_filled("reshape", input, sizes_of(sizes, shape)))


@method()
def view(input: Tensor, *sizes: Any, size: Any = None) -> Any:
    """``reshape`` that never copies.

    Raises: ShapeError where only a copy would do.
    """
    shape = _filled("view", input, sizes_of(sizes, size))
    out = apply(_reshape, input, shape=shape)
    if out._view is None:
        raise ShapeError(
            f"view: shape {input.shape} with strides {input.stride()} has no view of shape {shape}; use reshape()"
        )
    return out


@method()
def reshape_as(input: Any, other: Tensor) -> Any:
    """``reshape`` to the shape of another tensor."""
    return reshape(input, other.shape)


@method()
def view_as(input: Any, other: Tensor) -> Any:
    """``view`` in the shape of another tensor."""
    return view(input, other.shape)


@method()
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Dimensions from ``start_dim`` to ``end_dim`` as one."""
    shape = input._array.shape
    first, last = axis("flatten", start_dim, len(shape)), axis("flatten", end_dim, len(shape))
    if last < first:
        raise ShapeError(f"flatten: end_dim={end_dim} lies before start_dim={start_dim}")
    return apply(_reshape, input, shape=(*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))


@method()
def ravel(input: Tensor) -> Any:
    """All elements in one dimension."""
    return flatten(input)


@method()
def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Any:
    """One dimension as several; one size may be -1."""
    shape, d = input._array.shape, axis("unflatten", dim, input._array.ndim)
    return reshape(input, (*shape[:d], *sizes, *shape[d + 1 :]))


@method()
def squeeze(input: Tensor, dim: Dims = None) -> Any:
    """Without the dimensions of size 1, or without those named that have size 1."""
    shape = input._array.shape
    named = axes("squeeze", dim, len(shape))
    drop = range(len(shape)) if named is None else named
    return apply(_reshape, input, shape=tuple(n for i, n in enumerate(shape) if n != 1 or i not in drop))


@method()
def unsqueeze(input: Tensor, dim: int) -> Any:
    """With a dimension of size 1 at ``dim``."""
    shape = input._array.shape
    d = axis("unsqueeze", dim, len(shape) + 1)
    return apply(_reshape, input, shape=(*shape[:d], 1, *shape[d:]))


@method()
def permute(input: Tensor, *order: Any, dims: Any = None) -> Any:
    """The dimensions in another order."""
    dims = tuple(axis("permute", d, input._array.ndim) for d in sizes_of(order, dims))
    if sorted(dims) != list(range(input._array.ndim)):
        raise ShapeError(f"permute: dims={dims} must name each of {input._array.ndim} dimensions once")
    return apply(_permute, input, dims=dims)


@method("transpose", "swapdims")
def transpose(input: Tensor, dim0: int, dim1: int) -> Any:
    """Two dimensions exchanged."""
    order = list(range(input._array.ndim))
    a, b = axis("transpose", dim0, len(order)), axis("transpose", dim1, len(order))
    if order:
        order[a], order[b] = order[b], order[a]
    return apply(_permute, input, dims=tuple(order))


@method()
def swapaxes(input: Tensor, axis0: int, axis1: int) -> Any:
    """Two dimensions exchanged: ``transpose``, under NumPy's names."""
    return transpose(input, axis0, axis1)


@method("movedim", "moveaxis")
def movedim(input: Tensor, source: Dims, destination: Dims) -> Any:
    """Dimensions moved to other places, the rest in order."""
    rank = input._array.ndim
    moved, to = axes("movedim", source, rank) or (), axes("movedim", destination, rank) or ()
    if len(moved) != len(to):
        raise ShapeError(f"movedim: source={source} and destination={destination} must be of one length")
    order = [d for d in range(rank) if d not in moved]
    for place, d in sorted(zip(to, moved, strict=True)):
        order.insert(place, d)
    return apply(_permute, input, dims=tuple(order))


@method()
def t(input: Tensor) -> Any:
    """A matrix transposed; fewer dimensions stay."""
    if input._array.ndim > 2:
        raise ShapeError(f"t: at most 2 dimensions, not shape {input.shape}; use transpose() or mT")
    return _reversed(input)


@attribute("T")
def _reversed(x: Any) -> Any:
    """The dimensions in reverse order."""
    return apply(_permute, x, dims=tuple(reversed(range(x._array.ndim))))


@attribute("mT")
def _matrices_transposed(x: Any) -> Any:
    """The last two dimensions exchanged."""
    return transpose(x, -2, -1)


@method()
def flip(input: Tensor, *places: Any, dims: Any = None) -> Any:
    """The order of elements reversed along dimensions."""
    return apply(_flip, input, dims=tuple(axis("flip", d, input._array.ndim) for d in sizes_of(places, dims)))


@method()
def roll(input: Tensor, shifts: int | Iterable[int], dims: Dims = None) -> Any:
    """Elements moved along dimensions; those that fall off the end come back at the start."""
    if dims is None:
        return reshape(roll(flatten(input), shifts, 0), input.shape)
    shifts = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    named = axes("roll", dims, input._array.ndim) or ()
    if len(shifts) != len(named):
        raise ShapeError(f"roll: shifts={shifts} and dims={dims} must be of one length")
    return apply(_roll, input, shifts=shifts, dims=named)


@method()
def repeat(input: Tensor, *counts: Any, repeats: Any = None) -> Any:
    """Copies side by side, ``repeats`` per dimension."""
    counts = sizes_of(counts, repeats)
    if len(counts) < input._array.ndim:
        raise ShapeError(f"repeat: repeats={counts} must be at least as many as the dimensions of {input.shape}")
    shape = (1,) * (len(counts) - input._array.ndim) + input._array.shape
    apart = reshape(input, tuple(n for size in shape for n in (1, size)))
    spread = tuple(n for count, size in zip(counts, shape, strict=True) for n in (count, size))
    joined = tuple(count * size for count, size in zip(counts, shape, strict=True))
    return apply(_contiguous, reshape(apart.broadcast_to(spread), joined))


@method()
def tile(input: Tensor, *counts: Any, dims: Any = None) -> Any:
    """``repeat``, with ``dims`` copies per dimension, of the last ones where they are fewer."""
    counts = sizes_of(counts, dims)
    return repeat(input, (1,) * (input._array.ndim - len(counts)) + counts)


@method()
def repeat_interleave(input: Tensor, repeats: int, dim: int | None = None) -> Any:
    """Every element ``repeats`` times in a row."""
    if dim is None:
        input, dim = flatten(input), 0
    d = axis("repeat_interleave", dim, input._array.ndim)
    shape = input._array.shape
    wide = unsqueeze(input, d + 1).broadcast_to((*shape[: d + 1], repeats, *shape[d + 1 :]))
    return reshape(wide, (*shape[:d], shape[d] * repeats, *shape[d + 1 :]))


@method()
def clone(input: Tensor, *, memory_format: MemoryFormat | None = None) -> Any:
    """A copy that gradients pass through; ``memory_format`` as in ``contiguous``."""
    check_memory_format("clone", memory_format)
    return apply(_clone, input)


@method()
def contiguous(input: Tensor, *, memory_format: MemoryFormat | None = None) -> Any:
    """The tensor itself if its elements lie in row-major order, else a copy in that order.

    ``memory_format`` is taken, and changes nothing: values do not depend on it, and kernels arrange what they read.
    """
    check_memory_format("contiguous", memory_format)
    return input if input._array.flags.c_contiguous else apply(_contiguous, input)


# Joining


def _cut(g: Any, shapes: tuple[tuple[int, ...], ...], dim: int) -> tuple[Any, ...]:
    return split(g, [s[dim] for s in shapes], dim)


def _joined(*xs: Array, dim: int) -> Array:
    shape = xs[0].shape
    sizes = [x.shape[dim] for x in xs]
    to = empty((*shape[:dim], sum(sizes), *shape[dim + 1 :]), xs[0].dtype)
    if to.size < moving.LEAST:
        return np.concatenate(xs, dim, out=to)
    start = 0
    for x, size in zip(xs, sizes, strict=True):
        moving.move(x, to[(slice(None),) * dim + (slice(start, start + size),)])
        start += size
    return to


_cat = Op("cat", _joined, vjp={"xs": lambda g, xs_shape, dim: _cut(g, xs_shape, dim)})
_stack = Op("stack", lambda *xs, dim: _joined(*(np.expand_dims(x, dim) for x in xs), dim=dim), vjp={
    "xs": lambda g, dim: unbind(g, dim),
})  # fmt: skip


def _one_dtype(caller: str, tensors: Any) -> list[Any]:
    if not isinstance(tensors, Iterable):
        raise TypeError(f"{caller}: tensors must be a list or tuple of Tensors, not {type(tensors).__name__}")
    found = [as_operand(x) for x in tensors]
    if not found:
        raise ShapeError(f"{caller}: at least one tensor is needed")
    kinds = {x._array.dtype for x in found}
    if len(kinds) == 1:
        return found
    dtype = found[0].dtype
    for x in found[1:]:
        dtype = promote_types(dtype, x.dtype)
    return [cast(x, dtype) for x in found]


def cat(tensors: Iterable[Any], dim: int = 0) -> Any:
    """Tensors one after the other along a dimension they have; all other sizes must agree."""
    found = _one_dtype("cat", tensors)
    rank = max(x._array.ndim for x in found)
    found = [x for x in found if x._array.shape != (0,) or rank == 1]  # PyTorch lets an empty list of numbers pass
    d = axis("cat", dim, rank)
    first = found[0]._array.shape
    for i, x in enumerate(found):
        shape = x._array.shape
        if len(shape) != rank or rank == 0 or shape[:d] + shape[d + 1 :] != first[:d] + first[d + 1 :]:
            raise ShapeError(f"cat: tensor {i} of shape {shape} does not fit {first} along dim={dim}")
    return apply(_cat, *found, dim=d)


concat = concatenate = cat


def stack(tensors: Iterable[Any], dim: int = 0) -> Any:
    """Tensors of one shape along a new dimension."""
    found = _one_dtype("stack", tensors)
    first = found[0]._array.shape
    for i, x in enumerate(found):
        if x._array.shape != first:
            raise ShapeError(f"stack: tensor {i} has shape {x.shape}, the first has {first}")
    return apply(_stack, *found, dim=axis("stack", dim, len(first) + 1))


# Cutting


@method()
def narrow(input: Tensor, dim: int, start: int, length: int) -> Any:
    """``length`` indices of a dimension from ``start`` on, as a view."""
    d = axis("narrow", dim, input._array.ndim)
    n = input._array.shape[d]
    start = start + n if start < 0 else start
    if not 0 <= start <= start + length <= n:
        raise ShapeError(f"narrow: [{start}, {start + length}) does not lie inside dimension {dim} of size {n}")
    return input[(slice(None),) * d + (slice(start, start + length),)]


@method()
def select(input: Tensor, dim: int, index: int) -> Any:
    """One index of a dimension, as a view without that dimension."""
    return input[(slice(None),) * axis("select", dim, input._array.ndim) + (index,)]


@method("split")
def _parts(input: Tensor, split_size: int | Sequence[int], dim: int = 0) -> tuple[Any, ...]:
    """``lucid.split``; PyTorch's method calls the sizes otherwise than its function."""
    return split(input, split_size, dim)


def split(tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Any, ...]:
    """Views of ``split_size_or_sections`` indices each (the last may be shorter), or of the sizes given."""
    d = axis("split", dim, tensor._array.ndim)
    n = tensor._array.shape[d]
    if isinstance(split_size_or_sections, int):
        if split_size_or_sections <= 0 and n:
            raise ShapeError(f"split: split_size={split_size_or_sections} must be positive")
        sizes = [min(split_size_or_sections, n - i) for i in range(0, n, split_size_or_sections)] if n else [0]
    else:
        sizes = list(split_size_or_sections)
        if sum(sizes) != n:
            raise ShapeError(f"split: the sizes {sizes} add up to {sum(sizes)}, dimension {dim} has {n}")
    ends = list(accumulate(sizes))
    if len(ends) > 1 and min(sizes) >= 0:
        parts: tuple[Any, ...] = apply(_split_op(len(ends)), tensor, ends=tuple(ends), dim=d)
        return parts
    return tuple(narrow(tensor, d, end - size, size) for end, size in zip(ends, sizes, strict=True))


@lru_cache(maxsize=64)
def _split_op(count: int) -> Op:
    """Views of so many parts of a dimension, whose gradients are put beside each other in one pass."""
    names = tuple(f"part{k}" for k in range(count))
    return Op("split", _split_forward, outputs=names, view=True, vjp={
        "x": lambda g, x_shape, ends, dim: _parts_joined(g, x_shape, ends, dim),
    })  # fmt: skip


def _split_forward(x: Array, *, ends: tuple[int, ...], dim: int) -> tuple[Array, ...]:
    lead = (slice(None),) * dim
    return tuple(x[(*lead, slice(start, end))] for start, end in zip((0, *ends), ends, strict=False))


def _parts_joined(parts: Sequence[Any], shape: tuple[int, ...], ends: tuple[int, ...], dim: int) -> Any:
    """Beside each other; zeros in place of those that are None."""
    nothing = np.zeros((), next(g for g in parts if g is not None)._array.dtype)
    joined = []
    for g, start, end in zip(parts, (0, *ends), ends, strict=False):
        sizes = (*shape[:dim], end - start, *shape[dim + 1 :])
        joined.append(wrap(np.broadcast_to(nothing, sizes)) if g is None else g)
    return apply(_cat, *joined, dim=dim)


@method()
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Any, ...]:
    """At most ``chunks`` views of equal size, but for the last; of nothing, as many as asked for."""
    if chunks < 1:
        raise ShapeError(f"chunk: chunks={chunks} must be at least 1")
    n = input._array.shape[axis("chunk", dim, input._array.ndim)]
    return split(input, -(-n // chunks) if n else [0] * chunks, dim)


@method()
def unbind(input: Tensor, dim: int = 0) -> tuple[Any, ...]:
    """A view per index of a dimension."""
    d = axis("unbind", dim, input._array.ndim)
    if input._array.ndim == 0:
        raise ShapeError("unbind: a 0-d tensor has no dimension to walk along")
    lead = (slice(None),) * d
    return tuple(input[(*lead, i)] for i in range(input._array.shape[d]))


@method("__iter__")
def _iterate(x: Any) -> Any:
    if x._array.ndim == 0:
        raise TypeError("iteration over a 0-d tensor")
    return iter(unbind(x))


# Element type, here because ``to`` and its short forms belong with the other ways to look at a tensor anew


@method("to")
def to(
    x: Any,
    *targets: Any,
    dtype: DTypeLike = None,
    device: Any = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: MemoryFormat | None = None,
) -> Any:
    """The tensor in another element type or on another device; itself if nothing changes and ``copy`` is not asked.

    ``non_blocking`` is taken, and has nothing to do on a CPU; nor has ``memory_format``, as in ``contiguous``.
    """
    check_memory_format("to", memory_format)
    for target in targets:
        if isinstance(target, Tensor):
            dtype = target.dtype
        elif isinstance(target, Device) or (isinstance(target, str) and not _names_dtype(target)):
            device = target
        elif target is not None:
            dtype = target
    if device is not None:
        Device(device)
    out = x if dtype is None else cast(x, as_dtype(dtype))
    return clone(x) if copy and out is x else out


def _names_dtype(name: str) -> bool:
    try:
        as_dtype(name)
    except TypeError:
        return False
    return True


@method("type")
def type_(x: Any, dtype: DTypeLike = None, non_blocking: bool = False) -> Any:
    """The values in another element type; without one PyTorch's name of the type there is, ``"torch.FloatTensor"``."""
    if dtype is None:
        return f"torch.{_TYPE_NAMES.get(x.dtype.name, x.dtype.name)}"
    names = {f"torch.{name}": found for found, name in _TYPE_NAMES.items()}
    return cast(x, as_dtype(names.get(dtype, dtype) if isinstance(dtype, str) else dtype))


_TYPE_NAMES = {
    "float32": "FloatTensor", "float64": "DoubleTensor", "float16": "HalfTensor", "bfloat16": "BFloat16Tensor",
    "int64": "LongTensor", "int32": "IntTensor", "int16": "ShortTensor", "int8": "CharTensor", "uint8": "ByteTensor",
    "bool": "BoolTensor",
}  # fmt: skip


@method()
def astype(x: Any, dtype: DTypeLike) -> Any:
    """The values in another element type."""
    return cast(x, as_dtype(dtype))


def _short_form(name: str, dtype: DTypeLike) -> None:
    def convert(x: Any) -> Any:
        return cast(x, as_dtype(dtype))

    convert.__name__ = name
    convert.__doc__ = f"The values as {as_dtype(dtype).name}."
    method()(convert)


for _name, _dtype in {
    "float": "float32", "double": "float64", "half": "float16", "bfloat16": "bfloat16", "int": "int32", "long": "int64",
    "short": "int16", "char": "int8", "byte": "uint8", "bool": "bool", "cfloat": "complex64", "cdouble": "complex128",
}.items():  # fmt: skip
    _short_form(_name, _dtype)


@method()
def cpu(x: Any) -> Any:
    """The tensor on the CPU: itself."""
    return x


@method()
def type_as(x: Any, other: Tensor) -> Any:
    """The values in the element type of another tensor."""
    return cast(x, other.dtype)
