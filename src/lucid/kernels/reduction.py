"""Sums, products of sums, largest and smallest elements along any axes, from formulas, in one pass over memory.

A reduction has two formulas. ``terms`` makes what is summed, of arrays that broadcast; ``finish`` makes of the sums
the results. Both may take numbers, keyword-only, that change from call to call::

    moments = Reduction(
        "moments",
        terms=lambda x: (x, x * x),
        finish=lambda s, q, *, inverse: (s * inverse, q * inverse - (s * inverse) * (s * inverse)),
    )
    mean, variance = moments(x, axes=(0, 2, 3), inverse=1 / 1000)

Terms, sums and products are float64, whatever the arrays are. Where ``combine`` is "products", ``terms`` gives two
factors for each sum, in the arrays' own precision, and it is their product, exact for float32, that is summed: one
instruction each where converting and adding would share a unit. What is summed is cut into segments by the shape alone;
the segments' sums are added in order with compensation. So the bits do not depend on the number of threads, and a sum
of float32 is right to the last bit but for rare ties.

Cost: the arrays are read once; 8 bytes of scratch a segment (16384 elements) and result.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from lucid.core.dtypes import as_dtype
from lucid.core.geometry import Sizes, broadcast_shape
from lucid.kernels import jit, target
from lucid.kernels.elementwise import Array, Formula, compute_type
from lucid.kernels.ir import Value, sqrt
from lucid.kernels.launch import WORKSPACE, ByNumbers, address
from lucid.kernels.moving import contiguous
from lucid.kernels.reduction_kernel import BAND, COMBINE, Formulas, Kernel
from lucid.kernels.runtime import threads
from lucid.kernels.runtime.memory import ALIGN_BYTES, empty, making

SEGMENT_BYTES = 64 << 10  #: what one partial sum covers, of one array, where rows are summed along themselves
SEGMENT_ROWS = 256  #: rows of one partial sum, where rows are added to each other
GRAIN = 16384  #: elements of a chunk of tasks, at least
_BLOCKS = 16  #: vectors of results that are finished together
_PLANS = 1024


@dataclass(frozen=True, slots=True)
class Axis:
    """Axes joined to one: its size, whether it is summed over, every operand's stride in elements."""

    size: int
    summed: bool
    strides: Sizes


def arrange(shape: Sizes, strides: Sequence[Sizes], axes: Sequence[int]) -> list[Axis]:
    """The axes of broadcast operands: those of size 1 dropped, neighbours of one kind joined where they can be."""
    joined: list[Axis] = []
    for k, n in enumerate(shape):
        step = tuple(s[k] for s in strides)
        last = joined[-1] if joined else None
        if n == 1:
            continue
        alike = last is not None and last.summed == (k in axes)
        if last and alike and all(b == a * n for b, a in zip(last.strides, step, strict=True)):
            joined[-1] = Axis(last.size * n, last.summed, step)
        else:
            joined.append(Axis(n, k in axes, step))
    return joined


def _fit(axes: Sequence[Axis], operands: int) -> tuple[bool, list[Axis]] | None:
    """Axes as (kept, summed, kept, summed[, kept]), missing ones of size 1; None if they do not alternate like that.

    The flag says whether the innermost is summed.
    """
    along = not axes or axes[-1].summed
    wanted = (False, True, False, True) if along else (False, True, False, True, False)
    slots, rest = [], list(axes)
    for summed in reversed(wanted):
        if rest and rest[-1].summed == summed:
            slots.append(rest.pop())
        else:
            slots.append(Axis(1, summed, (0,) * operands))
    if rest or any(s not in (0, 1) for s in slots[0].strides):
        return None
    return along, slots[::-1]


def _same(*sums: Value) -> tuple[Value, ...]:
    return sums


class Reduction:
    """A kernel that sums the terms of one formula and makes the results of another.

    They have the dtype of the arrays, or where they are for ``more`` computing that in which these are computed with.

    >>> total = Reduction("total", terms=lambda x, y: x * y)
    >>> total(np.ones((2, 3), "f"), np.arange(3, dtype="f"), axes=(1,))
    array([3., 3.], dtype=float32)
    """

    def __init__(
        self,
        name: str,
        terms: Callable[..., Any],
        finish: Callable[..., Any] | None = None,
        combine: str = "sum",
        more: bool = False,
    ) -> None:
        self.formulas = Formulas(Formula(name, terms), Formula(name, finish or _same), COMBINE[combine], more)
        self.numbers = self.formulas.numbers
        self._plans: dict[Any, _Plan] = {}

    def __repr__(self) -> str:
        return f"Reduction({self.formulas.terms.name})"

    def __call__(self, *arrays: Array, axes: tuple[int, ...], **numbers: float) -> Any:
        """Sums over ``axes`` (not negative) of what the arrays broadcast to. The results have the other axes."""
        key = (target.isa().name, axes, *[(a.shape, a.strides, a.dtype) for a in arrays])
        plan = self._plans.get(key) or self._plan(key, arrays, axes)
        if plan.order:
            arrays = tuple(contiguous(np.broadcast_to(a, plan.shape).transpose(plan.order)) for a in arrays)
        results = [make() for make in plan.makes]
        values = [*map(numbers.__getitem__, self.numbers)]
        region = plan.regions[plan.pack_numbers(*values)] if plan.plain else None
        if region is not None:
            region(*arrays, *results)
            return results[0] if len(results) == 1 else tuple(results)
        scratch = empty(plan.scratch, plan.scratch_dtype)
        packed = plan.pack(
            *[address(a) for a in arrays],
            *[address(a) for a in results],
            address(scratch),
            *values,
            *plan.geometry,
        )
        slots = (ctypes.c_int64 * (len(packed) // 8)).from_buffer_copy(packed)
        partial, finish = plan.entries
        threads.run_steps(((partial, slots, plan.tasks, plan.chunk), (finish, slots, plan.blocks, _BLOCKS)))
        return results[0] if len(results) == 1 else tuple(results)

    def _plan(self, key: Any, arrays: Sequence[Array], axes: tuple[int, ...]) -> _Plan:
        dtypes = tuple(a.dtype.name for a in arrays)
        element = compute_type(dtypes)
        shape = broadcast_shape(*(a.shape for a in arrays))
        spread = [np.broadcast_to(a, shape) for a in arrays]
        fitted = _fit(arrange(shape, [_strides(a) for a in spread], axes), len(arrays))
        order: tuple[int, ...] = ()
        if fitted is None:
            order = tuple(k for k in range(len(shape)) if k not in axes) + tuple(sorted(axes))
            sizes = tuple(shape[k] for k in order)
            step = tuple(prod(sizes[k + 1 :]) for k in range(len(sizes)))
            inside = range(len(shape) - len(axes), len(shape))
            fitted = _fit(arrange(sizes, [step] * len(arrays), inside), len(arrays))
            assert fitted is not None, "kept axes before summed ones always fit"
        along, slots = fitted
        made = Kernel(self.formulas, dtypes, along, tuple(slots[-1].strides))
        code = jit.kernel(made, made.write)
        cut = _Cut.of(along, slots, element.bytes)
        kept = tuple(n for k, n in enumerate(shape) if k not in axes)
        lanes = target.isa().lanes(element)
        if len(self._plans) >= _PLANS:
            self._plans.clear()
        entries, blocks = (code.address("partial"), code.address("finish")), -(-prod(kept) // lanes)
        geometry = (*cut.geometry, *(axis.strides[k] for k in range(len(arrays)) for axis in slots[:-1]))
        scratch = made.terms * cut.segments * prod(kept)
        scratch_bytes = scratch * made.sums.bytes
        plan = self._plans[key] = _Plan(
            entries=entries,
            pack=struct.Struct(made.slots).pack,
            geometry=geometry,
            order=order,
            shape=shape,
            makes=(making(kept, as_dtype(made.result_dtype).numpy),) * made.results,
            scratch=scratch,
            scratch_dtype=np.dtype(f"float{made.sums.bits}"),
            tasks=cut.tasks,
            chunk=cut.chunk,
            blocks=blocks,
            pack_numbers=struct.Struct(f"{len(self.numbers)}d").pack,
            plain=cut.tasks > 0 and (bool(order) or all(a.flags.c_contiguous for a in arrays)),
            regions=ByNumbers(
                [(entries[0], cut.tasks, cut.chunk), (entries[1], blocks, _BLOCKS)],
                [*range(len(arrays) + made.results), WORKSPACE],
                geometry,
                worth=-(-prod(shape) // GRAIN),
                shared_bytes=scratch_bytes + -scratch_bytes % ALIGN_BYTES,
            ),
        )
        return plan


def _strides(a: Array) -> Sizes:
    return tuple(0 if n == 1 else s // a.itemsize for n, s in zip(a.shape, a.strides, strict=True))


@dataclass(frozen=True, slots=True)
class _Cut:
    """What is summed, cut into segments: groups of outer steps, or pieces of the inner axis; and the grid of tasks."""

    geometry: tuple[int, ...]
    segments: int
    tasks: int
    chunk: int

    @staticmethod
    def of(along: bool, slots: Sequence[Axis], element_bytes: int) -> _Cut:
        """The cut of (kept, summed, kept, summed[, kept]) axes; it depends on nothing else."""
        kept0, outer, kept1, inner = (a.size for a in slots[:4])
        across = 1 if along else slots[4].size
        most = SEGMENT_BYTES // element_bytes if along else SEGMENT_ROWS
        piece, group = min(max(inner, 1), most), max(1, most // max(inner, 1))
        pieces, groups, bands = -(-inner // piece), -(-outer // group), -(-across // BAND)
        segments = pieces * groups
        work = max(1, piece * min(group, max(outer, 1)) * min(across, BAND))
        return _Cut(
            (outer, kept1, inner, across, group, piece, pieces, segments, bands, kept0 * kept1 * across),
            segments,
            kept0 * kept1 * segments * bands,
            max(1, GRAIN // work),
        )


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that a call with arrays of known shapes and strides needs."""

    entries: tuple[int, int]
    pack: Callable[..., bytes]
    geometry: tuple[int, ...]
    order: tuple[int, ...]
    shape: Sizes
    makes: tuple[Callable[[], Array], ...]
    scratch: int
    scratch_dtype: np.dtype[Any]
    tasks: int
    chunk: int
    blocks: int
    pack_numbers: Callable[..., bytes]
    plain: bool  #: the arrays lie as a bound region asks
    regions: ByNumbers


sum_of_products = Reduction("sum_of_products", terms=lambda a, b: a * b)
#: factor times the sum over the axes; with factor 1 / n their mean.
scaled_sum = Reduction(
    "scaled_sum", terms=lambda x: (x, 1.0), finish=lambda total, *, factor: total * factor, combine="products"
)
largest = Reduction("largest", terms=lambda x: x, combine="max")
smallest = Reduction("smallest", terms=lambda x: x, combine="min")
product = Reduction("product", terms=lambda x: x, combine="product")
#: The square root of the sum of squares.
length = Reduction("length", terms=lambda x: x * x, finish=sqrt)
