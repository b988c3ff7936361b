"""Random numbers from generators with a seed, a state that can be kept, and streams of their own."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np

from lucid.core.dtypes import DType, DTypeLike, as_dtype, int64
from lucid.core.errors import DTypeError, FormatError
from lucid.ops.common import method, new_sizes
from lucid.ops.inplace import overwrite
from lucid.tensor.device import Device
from lucid.tensor.tensor import Tensor

Array = np.ndarray[Any, Any]

_WORD = (1 << 64) - 1


class Generator:
    """A stream of random numbers (PCG64). The same seed gives the same numbers on every machine.

    >>> Generator().manual_seed(7).initial_seed()
    7
    """

    def __init__(self, device: Device | str = "cpu") -> None:
        self.device = Device(device)
        self._lock = threading.Lock()
        self.seed()

    def seed(self) -> int:
        """Seed from the operating system, and return the seed."""
        seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) >> 1
        self.manual_seed(seed)
        return seed

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of ``seed``; negative seeds count from the top, as in PyTorch."""
        return self._start(np.random.SeedSequence(seed & _WORD), seed)

    def _start(self, sequence: np.random.SeedSequence, seed: int) -> Generator:
        self._seed = seed
        self._sequence = sequence
        self._bits = np.random.PCG64(sequence)
        self.numpy = np.random.Generator(self._bits)
        return self

    def initial_seed(self) -> int:
        """The seed the stream began with."""
        return self._seed

    def spawn(self, count: int) -> list[Generator]:
        """New streams, independent of this one and of each other; a second call gives further ones."""
        streams = [object.__new__(Generator) for _ in range(count)]
        for stream, sequence in zip(streams, self._sequence.spawn(count), strict=True):
            stream.device, stream._lock = self.device, threading.Lock()
            stream._start(sequence, self._seed)
        return streams

    def get_state(self) -> Tensor:
        """The position in the stream, 48 bytes of uint8."""
        state = self._bits.state
        inner = state["state"]
        words = [inner["state"] & _WORD, inner["state"] >> 64, inner["inc"] & _WORD, inner["inc"] >> 64]
        words += [state["has_uint32"], state["uinteger"]]
        return Tensor(np.array(words, "<u8").view(np.uint8))

    def set_state(self, state: Any) -> Generator:
        """Go to a position that ``get_state`` returned.

        Raises: FormatError if it is none.
        """
        data = np.asarray(state.numpy() if isinstance(state, Tensor) else state)
        if data.shape != (48,) or data.dtype != np.uint8:
            raise FormatError(f"set_state: a state is 48 bytes of uint8, not {data.dtype} of shape {data.shape}")
        low, high, step_low, step_high, has, rest = (int(w) for w in np.ascontiguousarray(data).view("<u8"))
        self._bits.state = {
            "bit_generator": "PCG64",
            "state": {"state": low | high << 64, "inc": step_low | step_high << 64},
            "has_uint32": has,
            "uinteger": rest,
        }
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"seed": self._seed, "sequence": self._sequence, "state": self.get_state().numpy()}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.device, self._lock = Device("cpu"), threading.Lock()
        self._start(kept["sequence"], kept["seed"])
        self.set_state(kept["state"])


_default: Generator | None = None


def default_generator() -> Generator:
    """The generator used where none is given; made (and numpy.random loaded) when first asked for."""
    global _default
    if _default is None:
        _default = Generator()
    return _default


def manual_seed(seed: int) -> Generator:
    """Start the default generator's stream of ``seed``."""
    return default_generator().manual_seed(seed)


def seed() -> int:
    """Seed the default generator from the operating system, and return the seed."""
    return default_generator().seed()


def initial_seed() -> int:
    """The seed of the default generator."""
    return default_generator().initial_seed()


def get_rng_state() -> Tensor:
    """The position of the default generator."""
    return default_generator().get_state()


def set_rng_state(new_state: Any) -> None:
    """Go to a position of the default generator."""
    default_generator().set_state(new_state)


def _source(generator: Generator | None) -> np.random.Generator:
    return (generator or default_generator()).numpy


def _floating(name: str, dtype: DTypeLike) -> DType:
    found = as_dtype("float32" if dtype is None else dtype)
    if not found.is_differentiable:
        raise DTypeError(f"{name}: dtype={found!r} must be floating point or complex")
    return found


def _draw(kind: str, generator: Generator | None, shape: tuple[int, ...], dtype: DType) -> Array:
    """``random`` (uniform on [0, 1)) or ``standard_normal`` numbers; other types by way of float32 or float64."""
    draw = getattr(_source(generator), kind)
    if dtype.is_complex:
        parts = np.float32 if dtype.itemsize == 8 else np.float64
        scale = math.sqrt(0.5) if kind == "standard_normal" else 1.0  # complex numbers of variance 1
        out = np.empty(shape, dtype.numpy)
        out.real, out.imag = draw(shape, parts) * parts(scale), draw(shape, parts) * parts(scale)
        return out
    if dtype.itemsize >= 4:
        return np.asarray(draw(shape, dtype.numpy))
    bits = {"float16": 11, "bfloat16": 8}[dtype.name]
    values = np.asarray(draw(shape, np.float32))
    if kind == "random":
        values = np.floor(values * 2.0**bits) * 2.0**-bits  # so that rounding never reaches 1
    return values.astype(dtype.numpy)


def _made(array: Array, requires_grad: bool, device: Any) -> Tensor:
    return Tensor(array, requires_grad=requires_grad, device=device)


def rand(
    *sizes: Any,
    size: Any = None,
    generator: Generator | None = None,
    dtype: DTypeLike = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform on [0, 1)."""
    return _made(_draw("random", generator, new_sizes(sizes, size), _floating("rand", dtype)), requires_grad, device)


def randn(
    *sizes: Any,
    size: Any = None,
    generator: Generator | None = None,
    dtype: DTypeLike = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normal with mean 0 and variance 1."""
    return _made(
        _draw("standard_normal", generator, new_sizes(sizes, size), _floating("randn", dtype)), requires_grad, device
    )


def randint(
    low: int = 0,
    high: Any = None,
    size: Sequence[int] = (),
    *,
    generator: Generator | None = None,
    dtype: DTypeLike = int64,
    device: Any = None,
) -> Tensor:
    """Integers from ``low`` up to and without ``high``; ``randint(high, size)`` begins at 0."""
    if high is None or isinstance(high, tuple | list):
        size = size if high is None else high
        low, high = 0, low
    if low >= high:
        raise ValueError(f"randint: low={low} must be below high={high}")
    values = _source(generator).integers(low, high, tuple(size), np.int64)
    return _made(values.astype(as_dtype(dtype).numpy), False, device)


def randperm(n: int, *, generator: Generator | None = None, dtype: DTypeLike = int64, device: Any = None) -> Tensor:
    """The numbers 0 to n - 1 in random order."""
    return _made(_source(generator).permutation(index(n)).astype(as_dtype(dtype).numpy), False, device)


def rand_like(
    input: Tensor, *, generator: Generator | None = None, dtype: DTypeLike = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """``rand`` in the shape and type of a tensor."""
    dtype = dtype or input.dtype
    return rand(input.shape, generator=generator, dtype=dtype, device=device, requires_grad=requires_grad)


def randn_like(
    input: Tensor, *, generator: Generator | None = None, dtype: DTypeLike = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """``randn`` in the shape and type of a tensor."""
    dtype = dtype or input.dtype
    return randn(input.shape, generator=generator, dtype=dtype, device=device, requires_grad=requires_grad)


def randint_like(input: Tensor, low: int, high: int | None = None, *, generator: Generator | None = None) -> Tensor:
    """``randint`` in the shape and type of a tensor."""
    return randint(low, high, input.shape, generator=generator, dtype=input.dtype)


def normal(mean: Any, std: Any = 1.0, size: Sequence[int] | None = None, *, generator: Generator | None = None) -> Any:
    """Normal with a mean and a standard deviation, numbers (then ``size`` is needed) or tensors."""
    shape = np.broadcast_shapes(*(np.shape(m._array) for m in (mean, std) if isinstance(m, Tensor)))
    return randn(shape if size is None else size, generator=generator) * std + mean


@method()
def bernoulli(input: Tensor, *, generator: Generator | None = None) -> Any:
    """1 with the probabilities ``input``, else 0, in the type of ``input``."""
    hits = _source(generator).random(input.shape) < input._array.astype(np.float64)
    return Tensor(hits.astype(input._array.dtype))


@method()
def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Indices drawn with the weights ``input`` of the last dimension."""
    rows = input._array.astype(np.float64).reshape(-1, input.shape[-1])
    draw = _source(generator).choice
    drawn = [draw(len(row), num_samples, replacement, row / row.sum()) for row in rows]
    return Tensor(np.array(drawn, np.int64).reshape(*input.shape[:-1], num_samples))


@method()
def normal_(x: Any, mean: float = 0, std: float = 1, *, generator: Generator | None = None) -> Any:
    """Overwrite with normal numbers."""
    return overwrite(
        x,
        "normal_",
        _draw("standard_normal", generator, x.shape, x.dtype) * x._array.dtype.type(std) + x._array.dtype.type(mean),
    )


@method()
def uniform_(x: Any, from_: float = 0, to: float = 1, *, generator: Generator | None = None) -> Any:
    """Overwrite with numbers uniform on [low, high)."""
    scale = x._array.dtype.type(to - from_)
    return overwrite(x, "uniform_", _draw("random", generator, x.shape, x.dtype) * scale + x._array.dtype.type(from_))


@method()
def bernoulli_(x: Any, p: float = 0.5, *, generator: Generator | None = None) -> Any:
    """Overwrite with 1 at probability ``p``, else 0."""
    return overwrite(x, "bernoulli_", _source(generator).random(x.shape) < p)


@method()
def random_(x: Any, from_: int = 0, to: int | None = None, *, generator: Generator | None = None) -> Any:
    """Overwrite with integers from ``from_`` up to and without ``to``."""
    top = (2 ** (8 * x.itemsize - 1) if x._array.dtype.kind in "iu" else 2**24) if to is None else to
    return overwrite(x, "random_", _source(generator).integers(from_, top, x.shape))


for _function in (rand, randn, randint, randperm):
    setattr(Tensor, _function.__name__, staticmethod(_function))
