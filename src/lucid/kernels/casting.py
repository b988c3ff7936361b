"""Half precision as float32 and back, where a kernel reads and writes float32 alone."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from lucid.core import quiet
from lucid.kernels import jit
from lucid.kernels.ir import BY_DTYPE, Module, Type, convert, f32, i64, minimum, ptr
from lucid.kernels.isa import ISA
from lucid.kernels.launch import launch
from lucid.kernels.runtime.memory import address, empty

Array = np.ndarray[Any, Any]

HALF = ("float16", "bfloat16")
_NAMES = ("float32", *HALF)
#: Elements of a task; up to half as many are NumPy's.
_TASK = 1 << 14


def as_type(array: Array, dtype: Any) -> Array:
    """A copy of the array with its numbers as floats of another type, rounded to nearest if that is narrower.

    Cost: for large contiguous arrays that of memory, on all threads.

    >>> as_type(np.array([1.0, 2.5], np.float16), np.dtype(np.float32))
    array([1. , 2.5], dtype=float32)
    """
    to = empty(array.shape, dtype)
    cast(array, to)
    return to


def cast(source: Array, to: Array) -> None:
    """to[...] = source, for float32 and half precision on all threads, if both are large and contiguous."""
    plain = all(a.flags.c_contiguous and a.dtype.isnative and a.dtype.name in _NAMES for a in (source, to))
    if not plain or 2 * to.size <= _TASK:
        with quiet.numpy():
            to[...] = source
        return
    pair = source.dtype.name, to.dtype.name
    code = jit.kernel(("cast", *pair), lambda isa: _write(isa, *map(BY_DTYPE.__getitem__, pair)))
    launch(code.address("cast"), (address(source), address(to), to.size), ceil(to.size / _TASK))


def _write(isa: ISA, source: Type, to: Type) -> Module:
    """The entry ``cast``: whole vectors, and what is left one by one, since not every machine has masks for halves."""
    module, lanes = Module("cast", isa), isa.lanes(f32)
    f = module.entry("cast", source=ptr(source), to=ptr(to), count=i64)
    a = f.args
    with f.loop(a.begin, a.end) as task:
        first = task.i * _TASK
        end = minimum(first + _TASK, a.count)
        vectors = first + (end - first) // lanes * lanes
        for begin, stop, width in ((first, vectors, lanes), (vectors, end, 1)):
            with f.loop(begin, stop, width) as k:
                a.to.store(convert(a.source.load(k.i, width), to), k.i)
    return module
