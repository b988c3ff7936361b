"""``Tensor``: a NumPy array with a place in the gradient graph. Operations attach themselves from ``lucid.ops``."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lucid.autograd import engine
from lucid.autograd.hooks import RemovableHandle
from lucid.autograd.listening import listener
from lucid.autograd.tracked import Array, Tracked, placed, results_are, wrap
from lucid.core.dtypes import DType, DTypeLike, of_numpy
from lucid.core.errors import DTypeError, GradientError, ShapeError
from lucid.kernels import kept
from lucid.tensor.convert import as_array
from lucid.tensor.device import CPU, Device
from lucid.tensor.printing import tensor_repr


@results_are
class Tensor(Tracked):
    """An array that can take part in gradients.

    A NumPy array is held without a copy and keeps its dtype. Of nested lists, Python floats become float32, ints int64,
    bools bool and complex numbers complex64. Two and more ints are sizes: ``Tensor(2, 3)`` is 0 everywhere.

    >>> Tensor([[[5, 6.0]]], requires_grad=True)
    Tensor([[[5., 6.]]], requires_grad=True)
    """

    __slots__ = ()

    __array_priority__ = 1000

    if TYPE_CHECKING:  # operations are attached on import of lucid.ops

        def __getattr__(self, name: str) -> Any: ...
        def __getitem__(self, index: Any) -> Any: ...
        def __eq__(self, other: object) -> Any: ...
        def __ne__(self, other: object) -> Any: ...
        def __setitem__(self, index: Any, value: Any) -> None: ...
        def __iter__(self) -> Any: ...
        def __add__(self, other: Any) -> Any: ...
        def __radd__(self, other: Any) -> Any: ...
        def __iadd__(self, other: Any) -> Any: ...
        def __sub__(self, other: Any) -> Any: ...
        def __rsub__(self, other: Any) -> Any: ...
        def __isub__(self, other: Any) -> Any: ...
        def __mul__(self, other: Any) -> Any: ...
        def __rmul__(self, other: Any) -> Any: ...
        def __imul__(self, other: Any) -> Any: ...
        def __truediv__(self, other: Any) -> Any: ...
        def __rtruediv__(self, other: Any) -> Any: ...
        def __itruediv__(self, other: Any) -> Any: ...
        def __floordiv__(self, other: Any) -> Any: ...
        def __rfloordiv__(self, other: Any) -> Any: ...
        def __ifloordiv__(self, other: Any) -> Any: ...
        def __mod__(self, other: Any) -> Any: ...
        def __rmod__(self, other: Any) -> Any: ...
        def __imod__(self, other: Any) -> Any: ...
        def __pow__(self, other: Any) -> Any: ...
        def __rpow__(self, other: Any) -> Any: ...
        def __ipow__(self, other: Any) -> Any: ...
        def __matmul__(self, other: Any) -> Any: ...
        def __rmatmul__(self, other: Any) -> Any: ...
        def __and__(self, other: Any) -> Any: ...
        def __rand__(self, other: Any) -> Any: ...
        def __iand__(self, other: Any) -> Any: ...
        def __or__(self, other: Any) -> Any: ...
        def __ror__(self, other: Any) -> Any: ...
        def __ior__(self, other: Any) -> Any: ...
        def __xor__(self, other: Any) -> Any: ...
        def __rxor__(self, other: Any) -> Any: ...
        def __ixor__(self, other: Any) -> Any: ...
        def __lt__(self, other: Any) -> Any: ...
        def __le__(self, other: Any) -> Any: ...
        def __gt__(self, other: Any) -> Any: ...
        def __ge__(self, other: Any) -> Any: ...
        def __neg__(self) -> Any: ...
        def __pos__(self) -> Any: ...
        def __abs__(self) -> Any: ...
        def __invert__(self) -> Any: ...

    def __new__(
        cls,
        data: Any = (),
        requires_grad: bool = False,
        dtype: DTypeLike = None,
        device: Device | str | None = None,
        *sizes: int,
    ) -> Self:
        if type(requires_grad) is int:  # Tensor(2, 3), as PyTorch's: sizes
            given: Any = (data, requires_grad, dtype, device, *sizes)
            data = np.zeros([n for n in given if n is not None], np.float32)
            requires_grad, dtype, device = False, None, None
        if device is not None:
            Device(device)
        self = object.__new__(cls)
        self._array = as_array(data, dtype)
        self._edge = self._grad = self._hooks = self._view = None
        self._version = data._version if isinstance(data, Tracked) and data._array is self._array else [0]
        self._requires_grad = False
        if requires_grad:
            self.requires_grad = True
        return self

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""
        shape: tuple[int, ...] = self._array.shape
        return shape

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the length of one dimension."""
        return self._array.shape if dim is None else self._array.shape[dim]

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self._array.ndim

    def dim(self) -> int:
        """Number of dimensions."""
        return self._array.ndim

    def numel(self) -> int:
        """Number of elements."""
        return self._array.size

    nelement = numel

    @property
    def dtype(self) -> DType:
        """Element type."""
        return of_numpy(self._array.dtype)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self._array.itemsize

    def element_size(self) -> int:
        """Bytes of one element."""
        return self._array.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._array.nbytes

    @property
    def device(self) -> Device:
        """Where the elements are."""
        return CPU

    @property
    def is_cuda(self) -> bool:
        """Whether the elements are on a GPU: never."""
        return False

    def stride(self, dim: int | None = None) -> Any:
        """Elements (not bytes) from one index to the next, per dimension."""
        strides = tuple(s // self._array.itemsize for s in self._array.strides)
        return strides if dim is None else strides[dim]

    def is_contiguous(self) -> bool:
        """Whether the elements lie in memory in row-major order without gaps."""
        return bool(self._array.flags.c_contiguous)

    def is_floating_point(self) -> bool:
        """Whether the elements are real floating point numbers."""
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        """Whether the elements are complex."""
        return self.dtype.is_complex

    def data_ptr(self) -> int:
        """Address of the first element."""
        kept.exclude(self._array)
        return self._array.ctypes.data

    # Its place in the graph

    @property
    def requires_grad(self) -> bool:
        """Whether operations on this tensor are recorded, so that gradients reach it."""
        if self._view is not None:
            placed(self)
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value and not self.dtype.is_differentiable:
            size = self._array.item() if self._array.ndim == 0 and self._array.dtype.kind == "i" else None
            hint = "" if size is None else f"; Tensor({size}) is the number {size}, lucid.zeros({size}) a row"
            raise DTypeError(
                f"requires_grad: only floating point and complex tensors have gradients, not {self.dtype}{hint}"
            )
        if self._edge is not None and not value:
            raise GradientError("requires_grad: only a leaf can stop requiring a gradient; use detach()")
        self._requires_grad = bool(value)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Set ``requires_grad`` and return the tensor."""
        self.requires_grad = requires_grad
        return self

    @property
    def grad(self) -> Any:
        """The gradient that backward passes have added up here, or None."""
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(f"grad: must be a Tensor or None, not {type(value).__name__}")
            if value._array.shape != self._array.shape:
                raise ShapeError(f"grad: shape {value._array.shape} must be that of its tensor, {self._array.shape}")
            if value._array.dtype != self._array.dtype:
                raise DTypeError(f"grad: {value.dtype} must be the dtype of its tensor, {self.dtype}")
        self._grad = value

    @property
    def grad_fn(self) -> Any:
        """The node that made this tensor, or None for a leaf."""
        if self._view is not None:
            placed(self)
        return None if self._edge is None else self._edge[0]

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor was made by the user rather than by a recorded operation."""
        return self.grad_fn is None

    @property
    def data(self) -> Any:
        """The same memory outside the graph. Setting it replaces the elements, seen by no graph."""
        return self.detach()

    @data.setter
    def data(self, value: Any) -> None:
        self._array = as_array(value, self.dtype)
        kept.forget(self._array)  # if it is another tensor's, that one's version does not tell of writing to this one
        self._version[0] += 1

    @property
    def version(self) -> int:
        """How often the memory has been written in place, by this tensor or a view of it."""
        return self._version[0]

    def detach(self) -> Any:
        """The same memory as a leaf that requires no gradient."""
        tensor = wrap(self._array)
        tensor._version = self._version
        return tensor

    def detach_(self) -> Any:
        """Take this tensor out of the graph."""
        self._edge = self._view = None
        self._requires_grad = False
        return self

    def backward(
        self,
        gradient: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Sequence[Any] | None = None,
    ) -> None:
        """Add the gradient of this tensor to ``.grad`` of the leaves it came from.

        Without ``gradient`` every element counts once, see ``lucid.autograd.set_implicit_gradient``.
        """
        engine.backward(self, gradient, retain_graph, create_graph, inputs)

    def register_hook(self, hook: Callable[[Any], Any]) -> RemovableHandle:
        """Call ``hook(grad)`` when this tensor's gradient is complete; what it returns, if not None, replaces it."""
        return RemovableHandle(self._hook_table(), hook)

    def retain_grad(self) -> None:
        """Keep ``.grad`` although this is not a leaf."""
        if self.is_leaf:
            if not self._requires_grad:
                raise GradientError("retain_grad: the tensor does not require a gradient")
            return
        me = weakref.ref(self)  # the node holds the hook: a strong reference would close a circle

        def keep(g: Any) -> None:
            tensor = me()
            if tensor is not None:
                tensor._grad = g.clone() if tensor._grad is None else tensor._grad + g

        self.register_hook(keep)

    def _hook_table(self) -> dict[int, Callable[[Any], Any]]:
        if not self.requires_grad:
            raise GradientError("register_hook: the tensor does not require a gradient")
        if self._edge is None:
            if self._hooks is None:
                self._hooks = {}
            return self._hooks
        node: Any
        node, slot = self._edge
        if node.hooks is None:
            node.hooks = {}
        table: dict[int, Callable[[Any], Any]] = node.hooks.setdefault(slot, {})
        return table

    # Out of Lucid

    def numpy(self, force: bool = False) -> Array:
        """The elements as a NumPy array that shares memory.

        Raises: GradientError if the tensor requires a gradient, unless ``force`` detaches it.
        """
        if self.requires_grad and not force:
            raise GradientError("numpy: the tensor requires a gradient, which an array cannot carry; detach() it first")
        self._tell("numpy")
        kept.forget(self._array)
        return self._array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        if self.requires_grad:
            raise BufferError("__dlpack__: the tensor requires a gradient; detach() it first")
        self._tell("__dlpack__")
        kept.forget(self._array)
        if self._array.dtype.kind == "V":
            from lucid.tensor.dlpack import export_bfloat16

            return export_bfloat16(self._array, **options)
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    def item(self) -> Any:
        """The only element as a Python number.

        Raises: ShapeError unless there is exactly one.
        """
        if self._array.size != 1:
            raise ShapeError(f"item: a tensor of one element is needed, this one has shape {self._array.shape}")
        self._tell("item")
        return self._number()

    def _number(self) -> Any:
        value = self._array.item()
        return float(value) if self._array.dtype.kind == "V" else value

    def _tell(self, how: str) -> None:
        """Who listens is told that the elements leave."""
        if listener.read is not None:
            listener.read(self, how)

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers."""
        self._tell("tolist")
        array = self._array
        return (array.astype(np.float32) if array.dtype.kind == "V" else array).tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        if self._array.dtype.kind not in "biu":
            raise TypeError(f"only integer tensors of one element can be an index, not {self.dtype}")
        return int(self.item())

    def __bool__(self) -> bool:
        if self._array.size != 1:
            raise ShapeError(
                f"the truth value of a tensor of shape {self._array.shape} is ambiguous; use any() or all()"
            )
        self._tell("bool")
        return bool(self._array.item())

    def __len__(self) -> int:
        if self._array.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return len(self._array)

    def __repr__(self) -> str:
        return tensor_repr(self._array, self.requires_grad)

    def __format__(self, spec: str) -> str:
        return format(self._number(), spec) if spec and self._array.ndim == 0 else format(repr(self), spec)

    __hash__ = object.__hash__

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = getattr(self, "__dict__", None) or None
        kept.forget(self._array)  # pickle may pass it on without a copy
        return _rebuild, (type(self), self._array, self.requires_grad, state)

    def __copy__(self) -> Any:
        other = _rebuild(type(self), self._array, self._requires_grad, getattr(self, "__dict__", None))
        other._version = self._version
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if not self.is_leaf:
            raise GradientError(
                "deepcopy: only leaf tensors can be copied with their place in the graph; detach() it first"
            )
        if id(self) in memo:
            return memo[id(self)]
        state = copy.deepcopy(getattr(self, "__dict__", None), memo)
        other = memo[id(self)] = _rebuild(type(self), self._array.copy(), self._requires_grad, state)
        if self._grad is not None:
            other._grad = copy.deepcopy(self._grad, memo)
        return other


def _rebuild(cls: type[Tensor], array: Array, requires_grad: bool, state: dict[str, Any] | None) -> Tensor:
    """A tensor or parameter from its parts, without running the subclass's constructor."""
    tensor = wrap(array)
    if cls is not Tensor:
        plain = tensor
        tensor = object.__new__(cls)
        for slot in Tracked.__slots__:
            if slot != "__weakref__":
                setattr(tensor, slot, getattr(plain, slot))
    tensor._requires_grad = requires_grad
    if state:
        tensor.__dict__.update(state)
    return tensor  # type: ignore[no-any-return]
