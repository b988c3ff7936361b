"""Writing into tensors: the value of an operation, put into the memory of its first operand.

Without a graph the memory is simply written, by the operation's own kernel where it is one. With one, the tensor moves
to a new place in the graph: the operation is applied to what the tensor was, the result is written into its memory, and
the tensor takes the result's place. Through a view the base moves too: it becomes "the base with this part replaced",
and the view a fresh view of that; other views of the base find their new place when they are used next
(``autograd.tracked.placed``).

Where nobody else can see the memory, as that of a batch norm's result before a ReLU, nothing is written: the graph
keeps the old memory, if it needs it, and the tensor takes the result's, which the operation may have saved.

Every write counts up the version that all views of the memory share, so that a graph that had saved the old value
refuses to use the new one.
"""

# mypy: disable-error-code="has-type"
# The gradient rows name functions defined further down.

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from lucid.autograd import Op, apply
from lucid.autograd.mode import mode
from lucid.autograd.tracked import placed, wrap
from lucid.core import quiet
from lucid.core.errors import DTypeError, GradientError, ShapeError
from lucid.core.geometry import Sizes
from lucid.kernels import arithmetic
from lucid.ops import activation, compare, composed, elementwise, index, native
from lucid.ops.common import cast, is_saved, method, owns_alone, owns_with_origin
from lucid.tensor.tensor import Tensor

Array = np.ndarray[Any, Any]


def _writable(name: str, x: Any) -> None:
    if not x._array.flags.writeable:
        raise ValueError(
            f"{name}: the tensor of shape {x.shape} cannot be written: its memory is read-only, or several of its "
            f"elements share one place (after expand); clone() it first"
        )


def _checked(name: str, x: Any) -> None:
    """Refuse to write into a leaf that requires a gradient, or into a view of one."""
    _writable(name, x)
    if not mode.recording:
        return
    view = x._view
    if view is not None:
        placed(x)
        if view.base._requires_grad and view.base._edge is None:
            raise GradientError(
                f"{name}: a view of a leaf that requires a gradient is written in place; use no_grad() or clone()"
            )
        if view.base._requires_grad and not x._requires_grad:
            raise GradientError(
                f"{name}: a view made under no_grad is written in place while its base is recorded; make it again"
            )
    elif x._requires_grad and x._edge is None:
        raise GradientError(
            f"{name}: a leaf that requires a gradient is written in place; use no_grad(), "
            f"or an operation that returns a new tensor"
        )


_KINDS = {"b": 0, "u": 1, "i": 1, "V": 2, "f": 2, "c": 3}  # NumPy's letters; none can be written into one before it


def _fits(name: str, x: Any, value: Array) -> None:
    if _KINDS[value.dtype.kind] > _KINDS[x._array.dtype.kind]:
        raise DTypeError(f"{name}: a result of {value.dtype} cannot be written into {x.dtype!r}")
    if value.shape != x._array.shape:
        raise ShapeError(f"{name}: a result of shape {value.shape} cannot be written into shape {x.shape}")


def _write(x: Any, value: Array) -> None:
    with quiet.numpy():
        np.copyto(x._array, value, casting="unsafe")
    x._version[0] += 1


def overwrite(x: Any, name: str, value: Any) -> Any:
    """Replace all elements by constants (an array or a number): whatever ``x`` was gets no gradient any more."""
    _checked(name, x)
    if mode.recording and x._requires_grad:
        return _move(x, name, apply(_fill, _was(x), value=value))
    _write(x, value)
    return x


def update(x: Any, name: str, function: Callable[..., Any], *args: Any, **params: Any) -> Any:
    """x = function(x, *args), in the memory of ``x``."""
    _checked(name, x)
    if not mode.recording and not params and _in_its_place(x._array, function, args):
        x._version[0] += 1
        return x
    given = (*args, *params.values())
    recorded = mode.recording and (x._requires_grad or any(isinstance(a, Tensor) and a.requires_grad for a in given))
    alone = _is_unseen(x) if recorded else owns_alone(x) and not x._requires_grad  # a parameter stays where it is
    old = _was(x, alone) if recorded else wrap(x._array) if alone else x.detach()
    operands = [old if a is x else a for a in args]
    params = {name: old if a is x else a for name, a in params.items()}
    result = function(old, *operands, **params)
    _fits(name, x, result._array)
    if recorded:
        result = cast(result, x.dtype)
    if alone and (recorded or result.dtype == x.dtype):
        return _adopt(
            x, result, recorded, all(result is not a for a in (old, *operands, *params.values())) and _is_unseen(result)
        )
    if recorded:
        return _move(x, name, result)
    _write(x, result._array)
    return x


_BINARY = {getattr(elementwise, name): arithmetic.BINARY[name] for name in ("add", "sub", "mul", "div")}


def _in_its_place(x: Array, function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether a kernel has put the function of ``x`` and the others where ``x`` lies, without other memory.

    Not for what is small, for other types than x's, and for operands that lie partly where x does.
    """
    if not x.flags.c_contiguous:
        return False
    if function in activation.KERNELS:
        kernel, least = activation.KERNELS[function]
        if not native.takes(least, x):
            return False
        kernel(x, out=[x], **dict(zip(kernel.formula.numbers, args, strict=True)))
        return True
    if function not in _BINARY or len(args) != 1 or not native.takes(native.ONE_PASS, x):
        return False
    other = args[0]
    if isinstance(other, Tensor):
        y = other._array
        if y.dtype != x.dtype or not _stretches(y.shape, x.shape) or (y is not x and np.may_share_memory(x, y)):
            return False
    elif type(other) in (int, float):
        y = np.asarray(other, x.dtype)
    else:
        return False
    _BINARY[function](x, y, out=[x])
    return True


def _stretches(small: Sizes, large: Sizes) -> bool:
    """Whether an array of the one shape broadcasts to the other."""
    return len(small) <= len(large) and all(n in (1, m) for n, m in zip(small[::-1], large[::-1], strict=False))


def _is_unseen(x: Any) -> bool:
    return owns_alone(x) or owns_with_origin(x)


def _adopt(x: Any, result: Any, recorded: bool, is_new: bool) -> Any:
    """Leave the memory of ``x``, which nobody else sees, to the graph, and take the result's, if that is nobody's."""
    x._array = result._array if is_new else result._array.copy()
    x._version[0] += 1
    if recorded:
        x._edge, x._requires_grad = result._edge, result._requires_grad
        _handed_over(x)
    return x


def _handed_over(x: Any) -> None:
    """Tell the operation that saved what is now this tensor's memory, if it did, who may write there."""
    if is_saved(x):
        node, slot = x._edge
        node.hand_over(slot, x)


def _was(x: Any, alone: bool = False) -> Any:
    """The tensor as it is now, for the graph to keep: in memory of its own, unless nobody writes to what it has."""
    old = wrap(x._array if alone else x._array.copy())
    old._edge, old._requires_grad = x._edge, x._requires_grad
    if alone:
        _handed_over(old)
    return old


_fill = Op("fill", lambda x, *, value: np.broadcast_to(np.asarray(value), x.shape).astype(x.dtype), vjp={
    "x": lambda g: g * 0,
})  # fmt: skip


def _with_part(base: Array, part: Array, *, cut: Callable[[Any], Any]) -> Array:
    out = base.copy()
    target = cut(wrap(out))._array
    target[...] = part
    return out


_replace = Op("copy_slices", _with_part, vjp={
    "base": lambda g, cut: apply(_clear, g, cut=cut),
    "part": lambda g, cut: cut(g),
})  # fmt: skip
_clear = Op("clear_slices", lambda x, *, cut: _with_part(x, np.zeros((), x.dtype), cut=cut), vjp={
    "x": lambda g, cut: apply(_clear, g, cut=cut),
})  # fmt: skip


def _move(x: Any, name: str, result: Any) -> Any:
    """Write a recorded result into the memory of ``x`` and give ``x`` its place in the graph."""
    view = x._view
    if view is None:
        _write(x, result._array)
        x._edge, x._requires_grad = result._edge, result._requires_grad
        return x
    base, steps = view.base, view.steps

    def cut(tensor: Any) -> Any:
        for step in steps:
            tensor = step(tensor)
        return tensor

    whole = apply(_replace, _was(base), result, cut=cut)
    _write(x, result._array)
    base._edge, base._requires_grad = whole._edge, whole._requires_grad
    placed(x)
    return x


def _in_place(name: str, function: Callable[..., Any], *symbols: str) -> None:
    @wraps(function)
    def written(x: Any, *args: Any, **params: Any) -> Any:
        return update(x, written.__name__, function, *args, **params)

    written.__name__ = written.__qualname__ = f"{name}_"
    written.__doc__ = f"``{name}``, written into the tensor itself."
    method(f"{name}_", *symbols)(written)


for _name, _symbol in {
    "add": "iadd", "sub": "isub", "mul": "imul", "div": "itruediv", "pow": "ipow", "remainder": "imod",
    "floor_divide": "ifloordiv",
}.items():  # fmt: skip
    _in_place(_name, getattr(elementwise, _name), f"__{_symbol}__")
for _name in (
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tan",
    "tanh", "sigmoid", "neg", "abs", "square", "sign", "floor", "ceil", "trunc", "round", "clamp", "lerp", "addcmul",
    "addcdiv", "erf", "fmod",
):  # fmt: skip
    _in_place(_name, getattr(elementwise, _name))
for _name in (
    "clamp_min",
    "clamp_max",
    "nan_to_num",
    "index_fill",
    "index_copy",
    "masked_scatter",
    "index_put",
    "renorm",
):
    _in_place(_name, getattr(composed, _name))
_in_place("relu", activation.relu)
_in_place("masked_fill", compare.masked_fill)
_in_place("scatter_add", index.scatter_add)
_in_place("scatter", index.scatter)
_in_place("index_add", index.index_add)
for _name in ("and", "or", "xor"):
    _in_place(f"bitwise_{_name}", getattr(compare, f"bitwise_{_name}"), f"__i{_name}__")


@method()
def zero_(x: Any) -> Any:
    """Overwrite with zeros."""
    return overwrite(x, "zero_", 0)


@method()
def fill_(x: Any, value: Any) -> Any:
    """Overwrite with one value."""
    if isinstance(value, Tensor):
        return copy_(x, value.broadcast_to(x.shape))
    return overwrite(x, "fill_", value)


@method()
def fill_diagonal_(x: Any, fill_value: Any, wrap: bool = False) -> Any:
    """Overwrite the diagonal with one value."""
    places = np.arange(min(x.shape))
    setitem(x, (places,) * x.ndim, fill_value)
    return x


@method()
def copy_(x: Any, other: Any, non_blocking: bool = False) -> Any:
    """Overwrite with the elements of another tensor (broadcast, converted); gradients go there."""
    return update(x, "copy_", _copied, other if isinstance(other, Tensor) else Tensor(other))


def _copied(x: Any, source: Any) -> Any:
    return cast(source, x.dtype).broadcast_to(x.shape)


def _fitted(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Without the ones that a shape begins with; NumPy takes no such value, and any shape where nothing is written."""
    more = value.ndim - len(shape)
    if more > 0 and value.shape[:more] == (1,) * more:
        value = value.reshape(value.shape[more:])
    if np.broadcast_shapes(value.shape, shape) != shape:
        raise ValueError(f"a value of shape {value.shape} does not broadcast to {shape}")
    return value


@method("__setitem__")
def setitem(x: Any, where: Any, value: Any) -> None:
    """``x[where] = value``, in place; the value is converted and broadcast."""
    _checked("setitem", x)
    chosen, basic = index.as_index(where)
    if not basic:
        integers, chosen = index.integers_first(chosen)
        if integers:
            x = index.getitem(x, integers)
    if not isinstance(value, Tensor):
        value = Tensor(value, dtype=x.dtype) if not isinstance(value, bool | int | float | complex) else value
    try:
        if isinstance(value, Tensor) and (value._array.size == 0 or value._array.shape[:1] == (1,)):
            value = _fitted(value, x._array[chosen].shape)
        if mode.recording and (x._requires_grad or (isinstance(value, Tensor) and value.requires_grad)):
            value = cast(value, x.dtype) if isinstance(value, Tensor) else value
            _move(x, "setitem", apply(index.write, _was(x), value, index=chosen))
        else:
            with quiet.numpy():
                x._array[chosen] = value._array if isinstance(value, Tensor) else value
            x._version[0] += 1
    except ValueError as error:
        raise ShapeError(f"setitem: {error}; the tensor has shape {x.shape}") from None
    except IndexError as error:
        raise IndexError(f"setitem: {error}; the tensor has shape {x.shape}") from None
