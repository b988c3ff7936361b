"""Operations and layers with random arguments, shapes, dtypes and views against PyTorch.

``LUCID_TEST_SEED=7`` draws other calls. To look into one that failed: ``compare(drawn("interpolate", 7, 12))``.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch

from tests.parity.drawn_call import FLOATS, INTS, Call, Draw, Operand, compare

CALLS = 12  # of each operation
MORE = {".__getitem__": 8, ".__setitem__": 8, "nn.functional.interpolate": 3}  # times as many, of many forms

Strategy = Callable[[Draw, str], Call]
Shape = tuple[int, ...]
F = "nn.functional."


# Values


def of_one(kind: str, *others: str, exact: bool = False) -> Strategy:
    """A function of one tensor of floats of a ``kind``, or of one of the ``others``."""
    return lambda d, name: Call(name, (d.tensor(d.shape(), d.dtype(*others), kind, name != "sign"),), exact=exact)


def number_like(d: Draw, dtype: str) -> Any:
    """A number of Python's for a tensor of that dtype."""
    return d.one(2, 3, 1, True) if dtype in INTS or d.chance(0.4) else d.one(0.5, -1.25, 3.0)


def of_two(
    kind: str = "normal", exact: bool = False, dtypes: tuple[str, ...] = (*FLOATS, *INTS, "bool"), numbers: bool = False
) -> Strategy:
    """A function of two: tensors that broadcast, seldom of two dtypes or one of none; where ``numbers`` go, of one."""

    def strategy(d: Draw, name: str) -> Call:
        dtype = d.one("float32", "float32", *dtypes)
        shape, other = d.shape(), dtype if d.chance(0.7) else d.one(*dtypes)
        x = d.tensor(shape, dtype, kind, exact)
        constant = {"constant": x.constant}
        if numbers and d.chance(0.15):
            return Call(name, (x, number_like(d, dtype)), exact=exact)
        y = d.tensor(() if d.chance(0.1) else d.broadcast(shape), other, kind, **constant)
        return Call(name, (x, y) if d.chance(0.7) else (y, x), exact=exact)

    return strategy


def operator(d: Draw, name: str) -> Call:
    """``x + 2``, ``2 - x`` and their like."""
    dtype = d.one("float32", *FLOATS, *INTS)
    return Call(name, (d.tensor(d.shape(), dtype, "positive"), number_like(d, dtype)))


def clamp(d: Draw, name: str) -> Call:
    dtype = d.dtype("int64", "int32")
    low, high = (d.one(None, -1, 0, 2) if dtype in INTS else d.one(None, -0.5, 0.25, -1, 1.5) for _ in range(2))
    return Call(name, (d.tensor(d.shape(), dtype, "ties"),), {"min": low, "max": high})


def where(d: Draw, name: str) -> Call:
    shape, dtype = d.shape(), d.dtype("int64", "bool")
    other = d.one(dtype, dtype, "float32", "int32")
    return Call(
        name,
        (d.tensor(d.broadcast(shape), "bool"), d.tensor(shape, dtype), d.tensor(d.broadcast(shape), other)),
        exact=True,
    )


def activation(d: Draw, name: str) -> Call:
    more = {
        "elu": {"alpha": 0.7}, "celu": {"alpha": 1.3}, "leaky_relu": {"negative_slope": 0.2},
        "hardtanh": {"min_val": -0.75, "max_val": 0.5}, "softplus": {"beta": 2.0, "threshold": 3.0},
        "gelu": {"approximate": d.one("none", "tanh")}, "softshrink": {"lambd": 0.3}, "hardshrink": {"lambd": 0.3},
    }  # fmt: skip
    kwargs = more.get(name.removeprefix(F), {}) if d.chance(0.6) else {}
    dtype = "float32" if name.endswith(("celu", "hardsigmoid")) else d.dtype()  # PyTorch's constants there are float32
    return Call(name, (d.tensor(d.shape(), dtype, d.one("normal", "far"), odd=True),), kwargs)


def along(kind: str, exact: bool = False, *others: str) -> Strategy:
    """A function along one dimension."""
    least = int(exact)  # PyTorch does not look at the dimension where there is nothing

    def strategy(d: Draw, name: str) -> Call:
        x = d.tensor(tuple(max(n, least) for n in d.shape()), d.dtype(*others), kind)
        return Call(name, (x,), {"dim": d.dim(x.values.ndim)}, exact=exact)

    return strategy


def glu(d: Draw, name: str) -> Call:
    *others, half = d.shape(1)
    return Call(name, (d.tensor((*others, 2 * half + d.slips()), d.dtype()),))


def prelu(d: Draw, name: str) -> Call:
    shape, dtype = d.shape(2), d.dtype()
    slopes = d.one(1, shape[1]) + d.slips()
    return Call(name, (d.tensor(shape, dtype), d.tensor((slopes,), dtype)))


# Reductions, orders


def reduction(kind: str = "normal", exact: bool = False, *others: str, one: bool = False) -> Strategy:
    """Over all dimensions, one, or (unless only ``one``) some."""

    def strategy(d: Draw, name: str) -> Call:
        x = d.tensor(d.shape(), d.dtype(*others), kind)
        rank = x.values.ndim
        if d.chance(0.25) and name != "logsumexp":
            return Call(name, (x,), exact=exact)
        kwargs: dict[str, Any] = {"dim": d.dim(rank) if one else d.dims(rank)}
        if d.chance(0.5):
            kwargs["keepdim"] = d.one(True, False)
        if name in ("var", "std") and d.chance(0.5):
            kwargs["correction"] = d.number(0, 1)
        return Call(name, (x,), kwargs, exact=exact)

    return strategy


def norm(d: Draw, name: str) -> Call:
    x = d.tensor(d.shape(1), d.one("float32", "float64"))
    p = d.one(1, 2, 3, float("inf"), -float("inf"), 0.5)
    return Call(name, (x,), {"p": p, "dim": d.dims(x.values.ndim), "keepdim": d.one(True, False)})


def ranked(d: Draw, name: str) -> Call:
    """Different numbers, so that their order is one."""
    shape = d.shape(1)
    values = d.numbers.permutation(prod(shape)).reshape(shape).astype(float) - 20.0
    x = Operand(values, d.one("float32", "float64"), d.one("whole", "turned", "stepped"))
    kwargs: dict[str, Any] = {"dim": d.dim(len(shape))}
    if name in ("sort", "argsort", "topk"):
        kwargs["descending" if name != "topk" else "largest"] = d.one(True, False)
    if name in ("topk", "kthvalue"):
        n = shape[kwargs["dim"]] if -len(shape) <= kwargs["dim"] < len(shape) else 1
        kwargs["k"] = n + 1 if d.slips() else d.number(min(1, n), max(n, 1))
    return Call(name, (x,), kwargs, exact=True)


# Shapes


def moved(d: Draw, name: str) -> Call:
    """Elements in another place."""
    shape = d.shape(d.one(0, 1, 2))
    rank, x = len(shape), d.tensor(shape, d.dtype("int64", "bool", "uint8"), odd=True)
    order = d.random.sample(range(rank), rank)
    args = {
        "permute": lambda: (tuple(n - rank * d.chance(0.3) for n in order),),
        "transpose": lambda: (d.dim(rank), d.dim(rank)),
        "movedim": lambda: (d.dim(rank), d.dim(rank)),
        "flip": lambda: ((d.dim(rank),) if d.chance(0.5) else tuple(d.random.sample(order, len(order) // 2)),),
        "roll": lambda: (d.number(-9, 9), *((d.dim(rank),) if d.chance(0.7) else ())),
        "tile": lambda: (tuple(d.number(1, 3) for _ in range(d.number(1, 3))),),
        "repeat": lambda: tuple(d.number(0, 2) for _ in range(max(rank + d.number(0, 1) - d.slips(), 1))),
        "repeat_interleave": lambda: (d.number(0, 3), *((d.dim(rank),) if d.chance(0.7) else ())),
        "squeeze": lambda: (d.dim(rank),) if d.chance(0.6) else (),
        "unsqueeze": lambda: (d.dim(rank + 1),),
        "flatten": lambda: (d.dim(rank), d.dim(rank)),
        "rot90": lambda: (d.number(-3, 3), (0, 1)),
        "tril": lambda: (d.number(-3, 3),),
        "triu": lambda: (d.number(-3, 3),),
        "diagonal": lambda: (d.number(-2, 2), *(order[:2] if rank > 1 else (0, 1))),
        "expand": lambda: (d.number(1, 3), *(-1 if d.chance(0.5) else n for n in shape)),
        "reshape": lambda: (_other_shape(d, prod(shape)),),
        "view": lambda: (_other_shape(d, prod(shape)),),
        "select": lambda: (d.dim(rank), d.number(-3, 3)),
        "narrow": lambda: (d.dim(rank), d.number(-2, 3), d.number(0, 4)),
        "split": lambda: (d.number(1, 5), d.dim(rank)),
        "chunk": lambda: (d.number(1, 5), d.dim(rank)),
        "unbind": lambda: (d.dim(rank),),
        "unfold": lambda: (d.dim(rank), d.number(1, 3), d.number(1, 3)),
    }[name.lstrip(".")]()
    return Call(name, (x, *args), exact=True)


def _other_shape(d: Draw, elements: int) -> Shape:
    """One of so many elements; one number may be left out, or wrong."""
    first = d.one(*(n for n in range(1, 20) if elements % n == 0))
    return (d.one(first, first, -1), d.one(elements // first, elements // first, -1) + d.slips())


def joined(d: Draw, name: str) -> Call:
    shape, dtype = d.shape(1, 3, 150), d.dtype("int64", "bool")
    dim = d.dim(len(shape))
    parts = []
    for _ in range(d.number(1, 4)):
        own = list(shape)
        if name == "cat" and abs(dim) < len(shape):
            own[dim] = d.size(0)
        if d.slips():
            own[0] += 1
        parts.append(d.tensor(tuple(own), d.one(dtype, dtype, dtype, "float32", "int32")))
    return Call(name, (parts,), {"dim": dim}, exact=True)


# Indices


def subscript(d: Draw, shape: Shape) -> tuple[Any, ...]:
    """What stands in brackets: numbers, slices, None, ..., lists, tensors of indices and masks."""
    found: list[Any] = []
    together = d.broadcast(d.shape(1, 2, 12)) or (1,)  # what tensors of indices broadcast to
    wide = d.chance(0.2)
    for axis, n in enumerate(shape[: d.number(0, len(shape))]):
        if d.chance(0.1):
            found.append(None)
        kind = d.one("int", "slice", "slice", "tensor", "list", "mask")
        if kind == "int" and n:
            found.append(d.number(-n, n - 1) + n * d.slips())
        elif kind == "tensor" and n:
            found.append(Operand(d.numbers.integers(-n, n, together), "int64"))
        elif kind == "list" and n and len(together) == 1:
            found.append([d.number(-n, n - 1) for _ in range(together[-1])])
        elif kind == "mask" and not any(isinstance(f, (Operand, list)) for f in found):
            found.append(d.tensor((n + d.slips(),), "bool"))
            return tuple(found)
        else:
            ends = [d.one(None, d.number(-n - 2, n + 2)) for _ in range(2)]
            found.append(slice(*ends, d.one(None, 1, 2, 3)))
        if wide and axis == 0:
            found.append(...)
            break
    return tuple(found)


def read(d: Draw, name: str) -> Call:
    shape = d.shape(1)
    x = d.tensor(shape, d.dtype("int64", "bool"), odd=True)
    found = subscript(d, shape)
    return Call(name, (x, found[0] if len(found) == 1 and d.chance(0.5) else found), exact=True)


def assigned(d: Draw, name: str) -> Call:
    """Through indices that meet no place twice."""
    shape, dtype = tuple(max(n, 1) for n in d.shape(1)), d.dtype("int64")
    found = tuple(
        _once(d, part, n) if isinstance(part, (Operand, list)) else part
        for part, n in _axes(subscript(d, shape), shape)
    )
    try:
        place = torch.zeros(shape)[tuple(torch.tensor(f.values) if isinstance(f, Operand) else f for f in found)].shape
    except (IndexError, RuntimeError):
        place = ()
    value: Any = (
        d.tensor(d.broadcast(tuple(place)), d.one(dtype, dtype, "float32")) if d.chance(0.7) else number_like(d, dtype)
    )
    return Call(name, (d.tensor(shape, dtype, written=True), found, value), exact=True)


def _axes(found: tuple[Any, ...], shape: Shape) -> list[tuple[Any, int]]:
    """Each part with the length of the axis that it takes."""
    axes, told = iter(shape), []
    for part in found:
        told.append((part, 0 if part is None or part is ... else next(axes)))
    return told


def _once(d: Draw, part: Any, n: int) -> Any:
    values = part.values if isinstance(part, Operand) else torch.tensor(part).numpy()
    if values.dtype == bool:
        return part
    count = min(values.size, n)
    return (
        Operand(d.numbers.permutation(n)[:count] - n * d.chance(0.3), "int64")
        if isinstance(part, Operand)
        else list(range(count))
    )


def by_index(d: Draw, name: str) -> Call:
    """Along one dimension, by a tensor of indices."""
    shape, dtype = tuple(max(n, 1) for n in d.shape(1)), d.dtype("int64")
    x, dim = d.tensor(shape, dtype, "ties", written=name.endswith("_")), d.dim(len(shape))
    n = shape[dim] if -len(shape) <= dim < len(shape) else 1
    if name.strip("._") in ("index_select", "index_add", "index_copy", "index_fill"):
        count = d.number(0, 6)
        index = d.index((count,), n)
        if name.strip("._") in ("index_copy", "index_fill"):
            index = Operand(d.numbers.permutation(n)[:count], "int64")
        taken = list(shape)
        taken[dim % len(shape)] = len(index.values) + d.slips()
        more: tuple[Any, ...] = (d.tensor(tuple(taken), dtype, "ties"),)
        more = {"index_select": (), "index_fill": (number_like(d, dtype),)}.get(name.strip("._"), more)
        return Call(
            name, (x, dim, index, *more), exact=dtype != "float16" and dtype != "bfloat16" and name != "index_add"
        )
    picked = tuple(
        d.number(0, 5) if axis == dim % len(shape) else d.number(min(1, m), m) for axis, m in enumerate(shape)
    )
    index = d.index(picked, n)
    if name.strip("._") == "scatter":
        rows = d.numbers.permuted(
            d.numbers.integers(0, 1, picked) + _counting(picked, dim % len(shape)), axis=dim % len(shape)
        )
        index = Operand(rows % max(n, 1), "int64")
        if picked[dim % len(shape)] > n:
            return Call(name, (x, dim, index, number_like(d, dtype)), exact=True)
    if name == "take_along_dim":  # PyTorch takes what is too large for what goes around
        index = Operand(index.values % max(n, 1), "int64", index.view)
    if name.strip("._") in ("gather", "take_along_dim"):
        return Call(name, (x, index, dim) if name == "take_along_dim" else (x, dim, index), exact=True)
    return Call(name, (x, dim, index, d.tensor(picked, dtype, "ties")), exact=name.strip("._") == "scatter")


def _counting(shape: Shape, dim: int) -> Any:
    """Numbers from 0 along a dimension."""
    return torch.arange(shape[dim]).reshape([-1 if n == dim else 1 for n in range(len(shape))]).expand(shape).numpy()


def masked(d: Draw, name: str) -> Call:
    shape, dtype = d.shape(), d.dtype("int64")
    x, mask = d.tensor(shape, dtype, written=name.endswith("_")), d.tensor(d.broadcast(shape), "bool")
    return Call(name, (x, mask) if "select" in name else (x, mask, number_like(d, dtype)), exact=True)


def embedding(d: Draw, name: str) -> Call:
    rows = d.number(1, 20)
    kwargs = {"padding_idx": d.number(-rows, rows - 1)} if d.chance(0.3) else {}
    return Call(name, (d.index(d.shape(0, 3, 60), rows), d.tensor((rows, d.size()), d.dtype())), kwargs, exact=False)


# In place


def in_place(d: Draw, name: str) -> Call:
    dtype = d.one("float32", *FLOATS, *INTS)
    shape, other = d.shape(), dtype if d.chance(0.7) else d.one(*FLOATS, *INTS)
    x = d.tensor(shape, dtype, "positive", written=True)
    y = number_like(d, dtype) if d.chance(0.3) else d.tensor(d.broadcast(shape), other, "positive")
    return Call(name, (x, y))


def in_place_of_one(d: Draw, name: str) -> Call:
    kwargs = {"min": -0.5, "max": d.one(None, 0.75)} if name == ".clamp_" else {}
    return Call(name, (d.tensor(d.shape(), d.dtype(), "positive", written=True),), kwargs)


# Products


def product(d: Draw, name: str) -> Call:
    dtype = d.one("float32", "float32", "float64", "bfloat16", "float16")
    m, k, n, b = (d.one(0, 1, 2, 3, 5, 8, 16, 17, 33) if d.chance(0.9) else 1 for _ in range(4))
    off = k + d.slips()
    batch = d.shape(0, 2, 12)
    left, right = {
        "mm": ((m, k), (off, n)),
        "bmm": ((b, m, k), (b, off, n)),
        "mv": ((m, k), (off,)),
        "dot": ((k,), (off,)),
        "outer": ((m,), (n,)),
        F + "linear": ((*batch, k), (n, off)),
        "matmul": d.one(
            ((k,), (off,)), ((*batch, m, k), (off, n)), ((m, k), (*batch, off, n)),
            ((*batch, m, k), (*d.broadcast(batch), off, n)),
        ),
    }[name]  # fmt: skip
    bias = (d.tensor((n,), dtype),) if name == F + "linear" and d.chance(0.5) else ()
    return Call(name, (d.tensor(left, dtype), d.tensor(right, dtype), *bias))


def einsum(d: Draw, name: str) -> Call:
    equation = d.one(
        "ij,jk->ik",
        "bij,bjk->bik",
        "bchw,c->bhw",
        "ij,ij->",
        "i,j->ij",
        "bi,oi->bo",
        "...i,ij->...j",
        "ii->i",
        "abc->cab",
    )
    sizes = {letter: d.number(1, 6) for letter in "abchijkow"}
    shapes = [tuple(sizes[c] for c in part.replace("...", "ab")) for part in equation.split("->")[0].split(",")]
    return Call(
        name,
        (
            equation,
            *(d.tensor(shape, d.one("float32", "float64") if n < 0 else "float32") for n, shape in enumerate(shapes)),
        ),
    )


# Convolutions


def _per_axis(d: Draw, rank: int, *options: int) -> Any:
    """A number for all axes, or one for each."""
    return d.one(*options) if d.chance(0.4) else tuple(d.one(*options) for _ in range(rank))


def _plane(d: Draw, rank: int, least: int = 3) -> Shape:
    most = {1: 40, 2: 14, 3: 7}[rank]
    return tuple(d.number(least, most) for _ in range(rank))


def convolution(d: Draw, name: str) -> Call:
    rank, dtype = int(name[-2]), d.one("float32", "float32", *FLOATS)
    transposed = "transpose" in name
    groups = d.one(1, 1, 2, 3)
    c_in, c_out = (groups * d.number(1, 4) for _ in range(2))
    kernel = tuple(d.number(1, 3) for _ in range(rank))
    kwargs: dict[str, Any] = {"groups": groups}
    if d.chance(0.6):
        kwargs["stride"] = _per_axis(d, rank, 1, 2, 3)
    if d.chance(0.4):
        kwargs["dilation"] = _per_axis(d, rank, 1, 2)
    if d.chance(0.6):
        kwargs["padding"] = _per_axis(d, rank, 0, 1, 2)
        if not transposed and d.chance(0.3):
            kwargs["padding"] = d.one("valid", "same")
            kwargs.pop("stride", None)
    if transposed and d.chance(0.4):
        kwargs["output_padding"] = _per_axis(d, rank, 0, 1)
    batch = () if d.chance(0.15) else (0 if d.chance(0.03) and not transposed else d.number(1, 3),)
    x = d.tensor((*batch, c_in + d.slips(), *_plane(d, rank)), dtype)
    ends = (c_in, c_out // groups) if transposed else (c_out, c_in // groups)
    w = d.tensor((*ends, *kernel), dtype)
    args = (x, w, d.tensor((c_out,), dtype)) if d.chance(0.6) else (x, w)
    return Call(name, args, kwargs)


def _layer(d: Draw, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], x: Operand) -> Call:
    """A layer on x, with random parameters; of none where PyTorch does not build it."""
    try:
        layer = getattr(torch.nn, name.removeprefix("nn."))(*args, **kwargs)
    except (ValueError, TypeError, RuntimeError):
        return Call(name, args, kwargs)
    parameters = {n: d.tensor(tuple(p.shape), x.dtype) for n, p in layer.named_parameters()}
    return Call(name, args, kwargs, on={"input": x, **parameters})


def conv_layer(d: Draw, name: str) -> Call:
    rank, groups = int(name[-2]), d.one(1, 1, 2)
    c_in, c_out = groups * d.number(1, 3), groups * d.number(1, 3) + d.slips() * (groups > 1)
    kwargs: dict[str, Any] = {"groups": groups, "bias": d.one(True, False)}
    if d.chance(0.5):
        kwargs["stride"] = _per_axis(d, rank, 1, 2)
    if "Transpose" in name:
        kwargs |= {"padding": _per_axis(d, rank, 0, 1), "output_padding": d.one(0, 0, 1)}
    else:
        kwargs["padding_mode"] = d.one("zeros", "reflect", "replicate", "circular")
        kwargs["padding"] = _per_axis(d, rank, 0, 1, 2)
        if d.chance(0.3):
            kwargs["padding"] = d.one("same", "valid")
            kwargs.pop("stride", None)
    if d.chance(0.3):
        kwargs["dilation"] = _per_axis(d, rank, 1, 2)
    x = d.tensor((d.number(1, 3), c_in, *_plane(d, rank)), d.one("float32", "float64"))
    return _layer(d, name, (c_in, c_out, _per_axis(d, rank, 1, 2, 3)), kwargs, x)


# Windows


def pooling(d: Draw, name: str) -> Call:
    rank, largest = int(name[-2]), "max" in name
    window = tuple(d.number(1, 4) for _ in range(rank))
    kwargs: dict[str, Any] = {"ceil_mode": d.one(True, False)}
    if d.chance(0.7):
        kwargs["stride"] = _per_axis(d, rank, 1, 2, 3)
    if d.chance(0.6):
        kwargs["padding"] = tuple(d.number(0, n // 2) + d.slips() for n in window)
    if largest and d.chance(0.4):
        kwargs["dilation"] = _per_axis(d, rank, 1, 2)
    if largest and d.chance(0.3):
        kwargs["return_indices"] = True
    if not largest:
        kwargs["count_include_pad"] = d.one(True, False)
        if rank > 1 and d.chance(0.3):
            kwargs["divisor_override"] = d.number(1, 7)
    batch = (d.number(1, 3),) if d.chance(0.85) else ()
    x = d.tensor((*batch, d.number(1, 4), *_plane(d, rank)), d.dtype(), d.one("normal", "ties"))
    return Call(name, (x, window if d.chance(0.7) else window[0]), kwargs, exact=largest)


def adaptive_pooling(d: Draw, name: str) -> Call:
    rank = int(name[-2])
    x = d.tensor((d.number(1, 3), d.number(1, 4), *_plane(d, rank)), d.one("float32", "float64"))
    size = tuple(d.number(1, 6) if rank == 1 or d.chance(0.8) else None for _ in range(rank))
    return Call(name, (x, size if d.chance(0.6) else d.number(1, 6)), exact="max" in name)


def pad(d: Draw, name: str) -> Call:
    mode, rank = d.one("constant", "reflect", "replicate", "circular"), d.number(1, 3)
    plane = _plane(d, rank)
    low = -2 if mode == "constant" else 0
    most = {"reflect": lambda n: n - 1, "circular": lambda n: n}.get(mode, lambda n: 4)
    amounts = [d.number(low, min(4, most(n)) + d.slips()) for n in reversed(plane) for _ in range(2)]
    x = d.tensor((d.number(1, 2), d.number(1, 3), *plane), d.dtype(*(("int64",) if mode == "constant" else ())))
    kwargs: dict[str, Any] = {"mode": mode} | (
        {"value": d.one(0, 1.5, -1)} if mode == "constant" and d.chance(0.5) else {}
    )
    return Call(name, (x, amounts), kwargs, exact=True)


def interpolate(d: Draw, name: str) -> Call:
    rank = d.number(1, 3)
    mode = d.one(
        "nearest",
        "nearest-exact",
        "area",
        {1: "linear", 2: "bilinear", 3: "trilinear"}[rank],
        *(("bicubic",) if rank == 2 else ()),
    )
    kwargs: dict[str, Any] = {"mode": mode}
    if d.chance(0.5):
        kwargs["size"] = tuple(d.number(1, 12) for _ in range(rank)) if d.chance(0.7) else d.number(1, 9)
    else:
        kwargs["scale_factor"] = (
            d.one(2, 0.5, 1.7, 3.0) if d.chance(0.6) else tuple(d.one(2.0, 0.5, 1.3) for _ in range(rank))
        )
        kwargs |= {"recompute_scale_factor": True} if d.chance(0.2) else {}
    if "linear" in mode or mode == "bicubic":
        kwargs["align_corners"] = d.one(True, False, None)
    own = "nearest" in mode and "scale_factor" in kwargs  # PyTorch's gradient takes other places than its result
    dtype = d.one("float32", "float32", "float64")
    x = d.tensor((d.number(1, 2), d.number(1, 3), *_plane(d, rank)), dtype, constant=own)
    return Call(name, (x,), kwargs)


def pixels(d: Draw, name: str) -> Call:
    r, (h, w) = d.number(1, 3), _plane(d, 2, 1)
    c = d.number(1, 3)
    shape = (c * r * r + d.slips(), h, w) if name.endswith("_shuffle") else (c, h * r + d.slips(), w * r)
    return Call(name, (d.tensor((d.number(1, 2), *shape), d.dtype()), r), exact=True)


def columns(d: Draw, name: str) -> Call:
    """``unfold``, and ``fold`` of as many columns as there are."""
    window = {
        "kernel_size": (d.number(1, 3), d.number(1, 3)),
        "stride": d.number(1, 2),
        "padding": d.number(0, 1),
        "dilation": d.number(1, 2),
    }
    n, c, plane = d.number(1, 2), d.number(1, 3), _plane(d, 2, 5)
    if name.endswith("unfold"):
        return Call(name, (d.tensor((n, c, *plane), "float32"),), window, exact=True)
    shape = torch.nn.functional.unfold(torch.zeros(n, c, *plane), **window).shape
    return Call(name, (d.tensor((*shape[:2], shape[2] + d.slips()), "float32"), plane), window)


# Norms


def layer_norm(d: Draw, name: str) -> Call:
    shape, dtype = d.shape(1), d.dtype()
    own = shape[-d.number(1, len(shape)) :]
    if prod(own) < 3:  # a few numbers less their mean cancel
        shape = own = (3, 5)
    given = (*own[:-1], own[-1] + 1) if d.slips() else own
    more = [d.tensor(own, dtype) for _ in range(1 if "rms" in name else 2)] if d.chance(0.6) else []
    return Call(name, (d.tensor(shape, dtype), given, *more), {"eps": d.one(1e-5, 1e-3)})


def group_norm(d: Draw, name: str) -> Call:
    groups, dtype = d.one(1, 2, 4), d.dtype()
    c = groups * d.number(1, 4) + d.slips()
    more = [d.tensor((c,), dtype) for _ in range(2)] if d.chance(0.6) else []
    return Call(name, (d.tensor((d.number(1, 3), c, *_plane(d, d.number(1, 2))), dtype), groups, *more))


def batch_norm_layer(d: Draw, name: str) -> Call:
    c, rank = d.number(1, 6), int(name[-2])
    kwargs: dict[str, Any] = {"affine": d.one(True, False), "momentum": d.one(0.1, 0.3, None), "eps": d.one(1e-5, 1e-2)}
    if d.chance(0.3):
        kwargs["track_running_stats"] = d.one(True, False)
    if "Instance" in name:
        kwargs["momentum"] = 0.1
    x = d.tensor((d.number(1, 3), c + d.slips(), *_plane(d, rank)), d.one("float32", "float64"))
    return _layer(d, name, (c,), kwargs, x)


def local_norm(d: Draw, name: str) -> Call:
    x = d.tensor((d.number(1, 3), d.number(1, 7), *_plane(d, d.number(1, 2))), "float32")
    return Call(name, (x, d.number(1, 5)), {"alpha": 0.1, "beta": d.one(0.75, 0.5), "k": d.one(1.0, 2.0)})


def normalize(d: Draw, name: str) -> Call:
    x = d.tensor(d.shape(1), d.one("float32", "float64"), "positive")
    return Call(name, (x,), {"p": d.one(1.0, 2.0, 3.0), "dim": d.dim(x.values.ndim)})


# Losses


def loss_of_two(kind: str = "normal", target: str = "normal", **options: tuple[Any, ...]) -> Strategy:
    """Of a prediction and a target of its shape."""

    def strategy(d: Draw, name: str) -> Call:
        shape, dtype = d.shape(1), d.one("float32", "float32", "float64")
        kwargs = {"reduction": d.one("mean", "sum", "none", *(("off",) if d.slips() else ()))}
        kwargs |= {option: d.one(*values) for option, values in options.items() if d.chance(0.6)}
        return Call(name, (d.tensor(shape, dtype, kind), d.tensor(shape, dtype, target)), kwargs)

    return strategy


def weighted_loss(d: Draw, name: str) -> Call:
    """Binary cross entropy."""
    shape, kwargs = d.shape(1), {"reduction": d.one("mean", "sum", "none")}
    kwargs |= {"weight": d.tensor(d.broadcast(shape), "float32", "positive", constant=True)} if d.chance(0.5) else {}
    if "logits" in name and d.chance(0.5):
        kwargs["pos_weight"] = d.tensor(shape[-1:], "float32", "positive", constant=True)
    x = d.tensor(shape, "float32", "far" if "logits" in name else "share")
    return Call(name, (x, d.tensor(shape, "float32", "share")), kwargs)


def class_loss(d: Draw, name: str) -> Call:
    n, c, plane = d.number(1, 5), d.number(1, 9), tuple(d.number(1, 4) for _ in range(d.number(0, 2)))
    kwargs: dict[str, Any] = {"reduction": d.one("mean", "sum", "none")}
    if d.chance(0.4):
        kwargs["weight"] = d.tensor((c,), "float32", "positive", constant=True)
    x = d.tensor((n, c, *plane), "float32", "far")
    smooth = "cross" in name and d.chance(0.4)
    if smooth:
        kwargs["label_smoothing"] = d.one(0.1, 0.5)
    if "cross" in name and d.chance(0.3):
        return Call(name, (x, d.tensor((n, c, *plane), "float32", "share")), kwargs)
    if d.chance(0.4):
        kwargs["ignore_index"] = d.number(0, c - 1)
    return Call(name, (x, d.index((n, *plane), c)), kwargs)


def similarity(d: Draw, name: str) -> Call:
    n, size, kwargs = (
        d.number(1, 5),
        d.number(2, 9),
        {"margin": d.one(0.3, 1.0), "reduction": d.one("mean", "sum", "none")},
    )
    rows = [d.tensor((n, size), "float32") for _ in range(3)]
    sign = Operand(d.numbers.choice([-1.0, 1.0], n), "float32", constant=True)
    if "triplet" in name:
        return Call(name, tuple(rows), kwargs | {"p": d.one(1.0, 2.0)} | ({"swap": True} if d.chance(0.4) else {}))
    if "ranking" in name:
        return Call(name, (*(d.tensor((n,), "float32") for _ in range(2)), sign), kwargs)
    return Call(name, (*rows[:2], sign), kwargs)


ACTIVATIONS = (
    "relu", "relu6", "elu", "celu", "selu", "gelu", "silu", "mish", "leaky_relu", "hardtanh", "hardsigmoid",
    "hardswish", "softplus", "softsign", "tanhshrink", "softshrink", "hardshrink", "logsigmoid",
)  # fmt: skip

#: Names, and how their calls are drawn.
TABLE: tuple[tuple[str, Strategy], ...] = (
    ("exp exp2 expm1 sin cos tan atan sinh cosh tanh asinh sigmoid erf erfc square", of_one("normal", "int64", "bool")),
    ("log log2 log10 log1p sqrt rsqrt reciprocal", of_one("positive", "int64")),
    ("asin acos atanh", of_one("unit")),
    ("abs neg sign floor ceil trunc round relu", of_one("normal", "int64", "uint8", exact=True)),
    ("isnan isfinite isinf logical_not nan_to_num", of_one("normal", "int64", "bool", exact=True)),
    ("add sub mul", of_two(numbers=True)),
    ("div", of_two("positive", numbers=True)),
    ("fmod remainder", of_two("positive", dtypes=("float32", "float64", *INTS), numbers=True)),  # a quotient is cut off
    ("logical_and logical_xor", of_two()),
    ("maximum minimum", of_two("ties", exact=True)),
    ("atan2 hypot logaddexp", of_two("positive", dtypes=FLOATS)),
    ("pow", of_two("positive", dtypes=FLOATS, numbers=True)),
    ("eq ne lt le gt ge", of_two("ties", exact=True, numbers=True)),
    ("bitwise_and bitwise_or bitwise_xor", of_two(exact=True, dtypes=(*INTS, "bool"))),
    (".__radd__ .__rsub__ .__rmul__ .__rtruediv__ .__floordiv__ .__mod__", operator),
    ("clamp", clamp),
    ("where", where),
    (" ".join(F + n for n in ACTIVATIONS), activation),
    (f"{F}glu", glu),
    (f"{F}prelu", prelu),
    (f"softmax log_softmax {F}softmin", along("far")),
    ("cumsum cumprod", along("unit")),
    ("cummax cummin", along("ties", True, "int64")),
    ("sum mean", reduction("normal", False, "int64", "bool")),
    ("var std", reduction()),
    ("prod", reduction("positive", False, "int64", one=True)),
    ("amax amin", reduction("ties", True, "int64")),
    ("max min argmax argmin", reduction("ties", True, "int64", one=True)),
    ("logsumexp", reduction("far")),
    ("any all", reduction("ties", True, "bool", "int64")),
    ("count_nonzero", lambda d, name: Call(name, (d.tensor(d.shape(), d.dtype("int64", "bool"), "ties"),), exact=True)),
    ("norm", norm),
    ("sort argsort topk kthvalue median", ranked),
    (
        "permute transpose movedim flip roll tile .repeat repeat_interleave squeeze unsqueeze flatten rot90 tril triu "
        "diagonal .expand reshape .view select narrow split chunk unbind .unfold",
        moved,
    ),
    ("cat stack", joined),
    (".__getitem__", read),
    (".__setitem__", assigned),
    ("gather take_along_dim scatter scatter_add index_select index_add index_copy index_fill", by_index),
    (".scatter_ .scatter_add_ .index_add_ .index_copy_ .index_fill_", by_index),
    ("masked_fill masked_select .masked_fill_", masked),
    (f"{F}embedding", embedding),
    (".add_ .sub_ .mul_ .div_ .copy_", in_place),
    (".relu_ .exp_ .sqrt_ .neg_ .sigmoid_ .tanh_ .zero_ .clamp_ .reciprocal_", in_place_of_one),
    (f"mm bmm mv dot outer matmul {F}linear", product),
    ("einsum", einsum),
    (" ".join(f"{F}conv{how}{n}d" for how in ("", "_transpose") for n in (1, 2, 3)), convolution),
    (" ".join(f"nn.Conv{how}{n}d" for how in ("", "Transpose") for n in (1, 2, 3)), conv_layer),
    (" ".join(f"{F}{how}_pool{n}d" for how in ("max", "avg") for n in (1, 2, 3)), pooling),
    (" ".join(f"{F}adaptive_{how}_pool{n}d" for how in ("max", "avg") for n in (1, 2, 3)), adaptive_pooling),
    (f"{F}pad", pad),
    (f"{F}interpolate", interpolate),
    (f"{F}pixel_shuffle {F}pixel_unshuffle", pixels),
    (f"{F}unfold {F}fold", columns),
    (f"{F}layer_norm {F}rms_norm", layer_norm),
    (f"{F}group_norm", group_norm),
    (" ".join(f"nn.{how}Norm{n}d" for how in ("Batch", "Instance") for n in (1, 2, 3)), batch_norm_layer),
    (f"{F}local_response_norm", local_norm),
    (f"{F}normalize", normalize),
    (f"{F}mse_loss {F}l1_loss", loss_of_two()),
    (f"{F}smooth_l1_loss", loss_of_two(beta=(0.5, 1.0, 2.0))),
    (f"{F}huber_loss", loss_of_two(delta=(0.5, 1.0, 2.0))),
    (f"{F}kl_div", loss_of_two("normal", "share", log_target=(False,))),
    (f"{F}binary_cross_entropy {F}binary_cross_entropy_with_logits", weighted_loss),
    (f"{F}cross_entropy {F}nll_loss", class_loss),
    (f"{F}triplet_margin_loss {F}cosine_embedding_loss {F}margin_ranking_loss", similarity),
)  # fmt: skip
BY_NAME = {name: strategy for names, strategy in TABLE for name in names.split()}


def drawn(name: str, seed: int, n: int) -> Call:
    """The n-th call of an operation."""
    return BY_NAME[name](Draw(seed, name, n), name)


@pytest.mark.filterwarnings("ignore")  # PyTorch's, of what is deprecated and of degrees of freedom
@pytest.mark.parametrize("name", BY_NAME)
def test_random_calls_do_what_pytorch_s_do(name: str, seed: int) -> None:
    told = [compare(drawn(name, seed, n)) for n in range(CALLS * MORE.get(name, 1))]
    assert sum(told) >= len(told) // 6, f"{name}: PyTorch could tell of {sum(told)} of {len(told)} calls"
