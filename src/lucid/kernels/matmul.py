"""The matrix product: arrays of any strides in, an array out, in native code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, gcd, inf, isqrt, prod
from typing import Any

import numpy as np

from lucid.core.errors import DTypeError, ShapeError
from lucid.core.geometry import Sizes, broadcast_shape
from lucid.kernels import jit, target
from lucid.kernels.algorithms import product, product_direct, slim
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.tile import Tile
from lucid.kernels.casting import as_type, cast
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA
from lucid.kernels.launch import address
from lucid.kernels.runtime import memory, threads

Array = np.ndarray[Any, Any]

DTYPES = ("float32", "float64", "float16", "bfloat16")
#: Up to so many multiplications NumPy is faster than a call of our own, and too small for BLAS to use threads.
SMALL_PRODUCTS = 8192
#: Multiplications that are worth a task of their own, some 20 us, and how many tasks are enough.
_TASK_PRODUCTS, _MOST_TASKS = 1 << 21, 64
#: Likewise with a side of few rows, which memory bounds; up to how many times the tile's rows nothing is packed.
_SLIM_TASK_PRODUCTS, _SLIM_ROUNDS = 1 << 17, 4
#: Parts of a long sum, and numbers in all of them together.
_MOST_SPLITS, _MOST_SUMS = 16, 1 << 20
#: Smaller blocks of C pay too much for packing.
_LEAST_ROWS, _LEAST_COLUMNS = 96, 128
#: Tiles from which on a sum need not be split, products from which on A is read where it lies, and bytes of a column of
#: B that are packed at a time.
_LEAST_TILES, _LEAST_DIRECT, _DEPTH_BYTES = 16, 1 << 21, 3072
#: Nanoseconds on a Zen 4: a vector product, what a tile takes beside them, a number that is packed from rows along k or
#: across, a number of A that comes from the third cache.
_PRODUCT_NS, _TILE_NS, _TURNED_NS, _COPIED_NS, _FETCHED_NS = 0.272, 30.0, 0.13, 0.04, 0.05
_A_BYTE_NS = 0.05
#: Lines in a set of a cache of eight ways that leave room for what passes, and a way of the first level, a page.
_MOST_TOGETHER, _L1_WAY_BYTES = 6, 4096
#: Threads that may wait for the last task, and how much they count.
_CREWS = (2, 0.5), (4, 0.3), (8, 0.2)


@dataclass(frozen=True, slots=True)
class Grid:
    """How a product is cut: blocks of C, splits of the sum over k, and the depth that is packed at a time."""

    rows: int
    columns: int
    row_blocks: int
    column_blocks: int
    splits: int
    split: int
    depth: int

    @property
    def blocks(self) -> int:
        """Tasks of one item."""
        return self.row_blocks * self.column_blocks * self.splits


def grid(m: int, n: int, k: int, items: int, isa: ISA, grain: Grain) -> Grid:
    """The cut, from the sizes and the caches alone: the same bits on any number of threads."""
    tile = product.tile_for(isa, grain.sums)
    cpu = target.cpu()
    # A panel of B fills two thirds of the first level cache, the packed blocks two thirds of the second, or half of it
    # beside a block's sums in a quarter.
    depth = min(k, max(64, cpu.l1_bytes * 2 // 3 // (tile.columns * grain.packed.bytes)) * grain.depth)
    rounds = grain.stored != grain.sums
    room = (cpu.l2_bytes // 2 if rounds else cpu.l2_bytes * 2 // 3) // (int(grain.count(depth)) * grain.packed.bytes)
    if rounds:
        room = min(room, isqrt(cpu.l2_bytes // 4 // grain.sums.bytes * 9 // 2))
    most_rows, most_columns = max(tile.rows, room // 3), max(tile.columns, room * 2 // 3)
    wanted = min(_MOST_TASKS, ceil(m * n * k * items / _TASK_PRODUCTS))

    def cut(least_rows: int, least_columns: int) -> tuple[int, int]:
        down, across = ceil(m / most_rows), ceil(n / most_columns)
        while down * across * items < wanted:
            tall, wide = m / down >= 2 * least_rows, n / across >= 2 * least_columns
            if tall and (m / down >= n / across or not wide):
                down += 1
            elif wide:
                across += 1
            else:
                break
        return down, across

    down, across = cut(_LEAST_ROWS, _LEAST_COLUMNS)
    most = min(_MOST_SPLITS, _MOST_SUMS // (m * n * items))
    splits = max(1, min(most, wanted // (down * across * items), k // (2 * depth)))
    if splits * down * across * items < wanted:
        down, across = cut(2 * tile.rows, 2 * tile.columns)
    rows, columns = _even(m, down, tile.rows), _even(n, across, tile.columns)
    split = _even(k, splits, depth) if splits > 1 else k
    return Grid(rows, columns, ceil(m / rows), ceil(n / columns), ceil(k / split), split, depth)


def _even(size: int, parts: int, unit: int) -> int:
    """The size of equal parts that are whole units."""
    return ceil(ceil(size / parts) / unit) * unit


@dataclass(frozen=True, slots=True)
class _View:
    """Matrices in an array: steps in elements, and where each item of the batch starts."""

    items: Sizes
    rows: int
    columns: int
    row_step: int
    column_step: int
    item_steps: Sizes

    def offsets(self, items: Sizes) -> Array:
        """The start of every item of the batch shape ``items``, to which this one broadcasts."""
        numbers = np.arange(prod(self.items)).reshape(self.items)
        starts = np.zeros(self.items, np.int64)
        for number, step in zip(np.unravel_index(numbers, self.items), self.item_steps, strict=True):
            starts += number * step
        return np.broadcast_to(starts, items).ravel()


def _view(array: Array, axis: int) -> _View:
    """An operand as matrices; ``axis`` is the one that a vector lacks."""
    shape, steps = array.shape, tuple(step // array.itemsize for step in array.strides)
    if array.ndim == 1:
        shape, steps = ((1, *shape), (0, *steps)) if axis == 0 else ((*shape, 1), (*steps, 0))
    return _View(shape[:-2], shape[-2], shape[-1], steps[-2], steps[-1], steps[:-2])


def _folded(a: _View, b: _View, items: Sizes) -> tuple[_View, _View, Sizes]:
    """A's batch as more rows, if all items share B and A's rows are evenly spaced; else as it is."""
    rows, step = a.rows, a.row_step
    if prod(b.items) != 1:
        return a, b, items
    for n, item_step in zip(reversed(a.items), reversed(a.item_steps), strict=True):
        if rows == 1:
            step = item_step
        elif n > 1 and item_step != rows * step:
            return a, b, items
        rows *= n
    return replace(a, items=(), rows=rows, row_step=step, item_steps=()), replace(b, items=(), item_steps=()), ()


Run = Callable[[Array, Array, Array | None, Array, int], None]


def _bind(a: _View, b: _View, items: Sizes, dtype: np.dtype[Any]) -> Run:
    """Everything about a product but the addresses and what it starts from."""
    m, n, k, count = a.rows, b.columns, a.columns, prod(items)
    grain = Grain.of(BY_DTYPE[dtype.name], k, target.isa())
    g = grid(m, n, k, count, target.isa(), grain)
    code = jit.kernel(("matmul", grain), lambda isa: product.write(isa, grain))
    multiply = code.address("multiply")
    combine = _combine(dtype) if g.splits > 1 else 0
    work_items = product.work_items(target.isa(), grain, g.rows, g.columns, g.depth)
    shape = np.array(
        [m, n, k, a.row_step, a.column_step, b.row_step, b.column_step, g.rows, g.columns, g.row_blocks,
         g.column_blocks, g.splits, g.split, g.depth, work_items, product.block_items(grain, g.rows, g.columns)]
    )  # fmt: skip
    offsets = np.stack([a.offsets(items), b.offsets(items)], axis=1)
    tasks, thread_bytes = g.blocks * count, work_items * grain.sums.bytes
    summed = np.dtype(f"f{grain.sums.bytes}")
    at_shape, at_offsets = address(shape), address(offsets)

    def run(a: Array, b: Array, bias: Array | None, c: Array, start: int) -> None:
        crew = min(threads.get_num_threads(), tasks)
        work = _workspace(thread_bytes, crew)
        at_bias = 0 if bias is None else address(bias)
        sums = c if g.splits == 1 else memory.empty(count * g.splits * m * n, summed)
        fields = _Nine(
            address(a), address(b), address(c), at_bias, address(sums), -(-address(work) // 64) * 64, at_shape,
            at_offsets, start,
        )  # fmt: skip
        if g.splits == 1:
            threads.run(multiply, fields, tasks, threads=crew)
        else:
            steps = [(multiply, fields, tasks, 1), (combine, fields, count * m, ceil(m / 16))]
            threads.run_steps(steps, threads=crew)

    run.__dict__["constants"] = shape, offsets  # as long as their addresses are used
    return run


@dataclass(frozen=True, slots=True)
class DirectGrid:
    """How a product whose A is read where it lies is cut: blocks of C, and the depth of B that is packed at a time."""

    rows: int
    columns: int
    depth: int
    row_blocks: int
    column_blocks: int
    near: int  #: rows of A that stay in the second level cache

    whole: bool  #: whether a tile's sums are: its depth is all of k

    @property
    def blocks(self) -> int:
        """Tasks."""
        return self.row_blocks * self.column_blocks


def reads_in_place(isa: ISA) -> bool:
    """Whether products read A where it lies: measured where a vector takes two turns, and left to those."""
    return target.cpu().turns(isa) > 1


def direct_grid(
    m: int, n: int, k: int, along: bool, a_ns: float, b_ns: float, isa: ISA, grain: Grain
) -> DirectGrid | None:
    """The cut, from sizes and caches alone, if a number of A is fetched in ``a_ns`` and one of B packed in ``b_ns``.

    A that is read where it lies has rows ``along`` k or across. None where a long sum is better split, or a product
    is small.
    """
    cpu, tile = target.cpu(), product_direct.tile_of(isa, grain.sums, m)
    tiles = ceil(m / tile.rows) * ceil(n / tile.columns)
    if not reads_in_place(isa) or tiles < _LEAST_TILES or m * n * k < _LEAST_DIRECT:
        return None
    depth = _direct_depth(k, along, grain)
    quarter, step_bytes = cpu.l2_bytes // 4, int(grain.count(depth)) * grain.packed.bytes
    most_columns = max(1, quarter * 4 // 3 // step_bytes // tile.columns) * tile.columns
    near = max(1, quarter // step_bytes // tile.rows) * tile.rows
    most = max(2, min(_MOST_TASKS, m * n * k // _TASK_PRODUCTS))
    if grain.stored != grain.sums and depth < k:
        most = max(most, 2 * ceil(m * n * grain.sums.bytes / quarter))
    best, found = inf, None
    for across in range(ceil(n / most_columns), ceil(n / tile.columns) + 1):
        columns = _even(n, across, tile.columns)
        if ceil(n / columns) != across:
            continue
        for down in range(1, max(1, most // across) + 1):
            rows = _even(m, down, tile.rows)
            if ceil(m / rows) != down or _block_too_large(rows, columns, grain, depth == k, quarter):
                continue
            cost = _direct_ns(m, n, k, rows, columns, depth, a_ns, b_ns, tile)
            if cost < best:
                best, found = cost, DirectGrid(rows, columns, depth, down, across, min(near, rows), depth == k)
    return found


def _block_too_large(rows: int, columns: int, grain: Grain, whole: bool, most_bytes: int) -> bool:
    """Whether the sums of a block of halves leave the second level cache."""
    return product_direct.block_items(grain, rows, columns, whole) * grain.sums.bytes > most_bytes


def _direct_depth(k: int, along: bool, grain: Grain) -> int:
    """Numbers of k at a time: half as many where each is a line of its own, not ``along`` the rows of A."""
    deep = _DEPTH_BYTES if along else _DEPTH_BYTES // 2
    return min(k, _even(k, ceil(k * grain.packed.bytes / (deep * grain.depth)), 4 * grain.depth))


def _direct_ns(
    m: int, n: int, k: int, rows: int, columns: int, depth: int, a_ns: float, b_ns: float, tile: Tile
) -> float:  # fmt: skip
    """What a cut takes, to compare it with others: tiles, packing B, fetching A, and threads that wait for the last."""
    down, across = ceil(m / rows), ceil(n / columns)
    tiles = ceil(m / tile.rows) * ceil(n / tile.columns)
    block = rows // tile.rows * (columns // tile.columns)
    products = tiles * (k * tile.accumulators * _PRODUCT_NS + ceil(k / depth) * _TILE_NS)
    idle = sum(part * max(1.0, ceil(down * across / crew) * crew * block / tiles) for crew, part in _CREWS)
    return (products + down * n * k * b_ns + across * m * k * a_ns) * idle


def _way(a: _View, rows: int, depth: int, grain: Grain) -> int:
    """How a tile comes to A: lines of its rows, or of all k, must not drive each other out of a cache."""
    cpu, size = target.cpu(), grain.stored.bytes
    along, same = a.column_step == 1 and grain.depth == 1, grain.stored == grain.sums
    if same and along and _together(rows, a.row_step * size, _L1_WAY_BYTES) <= _MOST_TOGETHER:
        return product_direct.IN_PLACE
    if same and a.row_step == 1 and _together(depth, a.column_step * size, cpu.l2_bytes // 8) <= _MOST_TOGETHER:
        return product_direct.IN_PLACE
    return product_direct.COPIED if along else product_direct.PACKED


def _together(lines: int, step_bytes: int, way_bytes: int) -> float:
    """How many of so many lines, ``step_bytes`` apart, share a set of a cache."""
    return lines * max(64, gcd(step_bytes, way_bytes)) / way_bytes


def _bind_direct(a: _View, b: _View, dtype: np.dtype[Any]) -> Run | None:
    """``_bind`` with an A that is read where it lies, or None."""
    isa, m, n, k = target.isa(), a.rows, b.columns, a.columns
    grain = Grain.of(BY_DTYPE[dtype.name], k, isa)
    along, tile = a.column_step == 1, product_direct.tile_of(isa, grain.sums, m)
    way = _way(a, tile.rows, _direct_depth(k, along, grain), grain)
    along, a_ns = along and (not way or dtype.itemsize == 2), _FETCHED_NS + (_A_BYTE_NS * dtype.itemsize if way else 0)
    g = direct_grid(m, n, k, along, a_ns, _COPIED_NS if b.column_step == 1 else _TURNED_NS, isa, grain)
    if g is None:
        return None
    in_c = g.whole or grain.stored == grain.sums
    code = jit.kernel(("matmul", "direct", grain, tile, in_c), lambda isa: product_direct.write(isa, grain, tile, in_c))
    multiply = code.address("multiply")
    pitch = product_direct.row_pitch(isa, grain, g.depth)
    asks = in_c and m * n * dtype.itemsize > 2 * target.cpu().l2_bytes
    work_items = product_direct.work_items(isa, grain, tile, g.near, g.rows, g.columns, g.depth, in_c)
    shape = np.array(
        [m, n, k, a.row_step, a.column_step, b.row_step, b.column_step, g.rows, g.columns, g.column_blocks, g.depth,
         g.near, way, pitch, asks, work_items, product_direct.block_items(grain, g.rows, g.columns, in_c),
         product_direct.panel_items(isa, grain, g.columns, g.depth)]
    )  # fmt: skip
    at_shape, thread_bytes = address(shape), work_items * grain.sums.bytes

    def run(a: Array, b: Array, bias: Array | None, c: Array, start: int) -> None:
        crew = min(threads.get_num_threads(), g.blocks)
        work, at_bias = _workspace(thread_bytes, crew), 0 if bias is None else address(bias)
        at_work = -(-address(work) // 64) * 64
        fields = _Seven(address(a), address(b), address(c), at_bias, at_work, at_shape, start)
        threads.run(multiply, fields, g.blocks, threads=crew)

    run.__dict__["constants"] = (shape,)
    return run


@dataclass(frozen=True, slots=True)
class _Side:
    """An operand of a slim product: rows, their step, the step along k."""

    view: _View
    rows: int
    row: int
    k: int


def _slim(a: _View, b: _View, items: Sizes, dtype: np.dtype[Any]) -> Run | None:
    """The product if A has few rows or B few columns, and the larger operand can be read as it lies."""
    isa, element = target.isa(), BY_DTYPE[dtype.name]
    left = _Side(a, a.rows, a.row_step, a.column_step)
    right = _Side(b, b.columns, b.column_step, b.row_step)
    swapped = right.rows < left.rows
    few, many = (right, left) if swapped else (left, right)
    out_row, out_column = (1, few.rows) if swapped else (many.rows, 1)
    rows = slim.ROWS[isa.registers]
    if few.rows > _SLIM_ROUNDS * rows:
        return None
    # Read once for every few rows: from memory the first time, from the second level cache after that.
    stays = 256 * a.columns <= target.cpu().l2_bytes // 2
    if many.row == 1 and out_column == 1 and (few.rows <= rows or stays):
        name = "alone" if few.rows == 1 else "across"
    elif many.k == few.k == 1:
        name = "along"
    else:
        return None
    code = jit.kernel(("matmul", name, dtype.name), lambda isa: slim.write(isa, element, name))
    entry, depth, count = code.address(name), a.columns, prod(items)
    unit = slim.unit(isa, element, name)
    block = ceil(_SLIM_TASK_PRODUCTS / (few.rows * depth) / unit) * unit
    blocks = ceil(many.rows / block)
    shape = np.array([few.rows, many.rows, depth, few.row, few.k, many.k, many.row, out_row, out_column, block, blocks])
    offsets = np.stack([few.view.offsets(items), many.view.offsets(items)], axis=1)
    at_shape, at_offsets, tasks = address(shape), address(offsets), blocks * count
    nothing = np.zeros(1, dtype)
    starts = {
        product.FRESH: (0, 0, 0),
        product.EARLIER: (few.rows * many.rows, out_row, out_column),
        product.BIAS: (0, 1, 0) if swapped else (0, 0, 1),
    }

    def run(a: Array, b: Array, bias: Array | None, c: Array, start: int) -> None:
        if swapped:
            a, b = b, a
        begin = nothing if start == product.FRESH else c if bias is None else bias
        fields = _Nine(address(a), address(b), address(c), address(begin), *starts[start], at_shape, at_offsets)
        threads.run(entry, fields, tasks)

    run.__dict__["constants"] = shape, offsets
    return run


def _workspace(thread_bytes: int, crew: int) -> Array:
    """Scratch with room to start at a cache line; small ones from malloc, which is quicker than the pool."""
    if thread_bytes * crew < 64 << 10:
        return np.empty(thread_bytes * crew + 64, np.uint8)
    return memory.workspace(thread_bytes, crew)


def _combine(dtype: np.dtype[Any]) -> int:
    element = BY_DTYPE[dtype.name]
    code = jit.kernel(("matmul", "combine", dtype.name), lambda isa: product.write_combine(isa, element))
    return code.address("combine")


_Nine, _Seven = ctypes.c_int64 * 9, ctypes.c_int64 * 7


def _small(a: Array, b: Array, bias: Array | None, c: Array, start: int) -> None:
    """Left to NumPy: a call of our own would cost more than the product."""
    if start == product.EARLIER:
        c += np.matmul(a, b)
        return
    np.matmul(a, b, out=c)
    if bias is not None:
        c += bias


def _copied(a: Array, b: Array, bias: Array | None, c: Array, start: int) -> None:
    """Half precision that is too little for a kernel, or that the machine has no masks for: copies in float32."""
    single = np.dtype(np.float32)
    first, second = (as_type(x, single) for x in (a, b))
    before = as_type(c, single) if start == product.EARLIER else None
    cast(matmul(first, second, None if bias is None else as_type(bias, single), out=before), c)


def _plan(a: Array, b: Array) -> tuple[Sizes, Run]:
    """The result's shape, and how to compute it."""
    for name, array in (("a", a), ("b", b)):
        if array.dtype.name not in DTYPES:
            raise DTypeError(f"matmul: {name} is {array.dtype}; it must be {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
        if array.ndim == 0:
            raise ShapeError(f"matmul: {name} is a single number; it must have at least one axis")
    if a.dtype != b.dtype:
        raise DTypeError(f"matmul: a is {a.dtype} and b is {b.dtype}; they must be the same")
    left, right = _view(a, 0), _view(b, 1)
    if left.columns != right.rows:
        raise ShapeError(
            f"matmul: a {a.shape} has {left.columns} columns and b {b.shape} has {right.rows} rows; they must be equal"
        )
    items = broadcast_shape(left.items, right.items)
    shape = items + (left.rows,) * (a.ndim > 1) + (right.columns,) * (b.ndim > 1)
    small, half = prod(items) * left.rows * left.columns * right.columns <= SMALL_PRODUCTS, a.dtype.itemsize == 2
    if small:
        return shape, _copied if half else _small
    left, right, items = _folded(left, right, items)
    run = _slim(left, right, items, a.dtype)
    if run is None and not items:
        run = _bind_direct(left, right, a.dtype)
    return shape, run or _bind(left, right, items, a.dtype)


_MOST_BOUND = 4096
_bound: dict[Any, tuple[Sizes, Run]] = {}


def matmul(a: Array, b: Array, bias: Array | None = None, *, out: Array | None = None) -> Array:
    """a @ b + bias, or added onto ``out`` if that is given; any floats, any strides.

    Half precision is summed in float32 and rounded once.

    Shape: a (..., M, K), b (..., K, N), bias (N,), result (..., M, N); leading axes broadcast, and a vector is a row on
    the left and a column on the right, as in NumPy.
    Raises: ShapeError, DTypeError.
    Cost: 2 M N K flops an item, and some 5 us. The bits do not depend on the number of threads.

    >>> matmul(np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([10.0, 20.0]))
    array([[11., 22.],
           [13., 24.]])
    """
    a, b, shape, run = _ready(a, b)
    start = product.FRESH
    if bias is not None:
        bias, start = _checked_bias(bias, b.shape[-1] if b.ndim > 1 else 1, a.dtype), product.BIAS
    if out is None:
        out = memory.empty(shape, a.dtype)
    else:
        _check_out(out, bias, shape, a.dtype)
        start = product.EARLIER
    run(a, b, bias, out, start)
    return out


def matmul_into(out: Array, a: Array, b: Array, bias: Array | None = None) -> None:
    """``matmul`` whose result is put into a contiguous array of its shape and type."""
    a, b, _, run = _ready(a, b)
    run(a, b, bias, out, product.FRESH if bias is None else product.BIAS)


def _ready(a: Array, b: Array) -> tuple[Array, Array, Sizes, Run]:
    """The operands in native order, the result's shape, and how to compute it."""
    key = (a.shape, a.strides, b.shape, b.strides, a.dtype, b.dtype, target.isa().name)
    found = _bound.get(key)
    if found is None:
        a, b = _native(a), _native(b)
        found = _plan(a, b)
        if len(_bound) >= _MOST_BOUND:
            _bound.clear()
        _bound[key[0], a.strides, key[2], b.strides, a.dtype, b.dtype, key[-1]] = found
    return a, b, *found


def _native(array: Array) -> Array:
    """The array, or a copy if its numbers do not lie in memory as such: bytes swapped, steps that split elements."""
    if array.dtype.isnative and not any(step % array.itemsize for step in array.strides):
        return array
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def _check_out(out: Array, bias: Array | None, shape: Sizes, dtype: np.dtype[Any]) -> None:
    if bias is not None:
        raise ShapeError("matmul: bias and out exclude each other: the product is added onto either")
    if out.shape != shape or out.dtype != dtype or not out.flags.carray:
        raise ShapeError(
            f"matmul: out {out.dtype} {out.shape} must be {dtype} {shape}, writeable and contiguous in C order"
        )


def _checked_bias(bias: Array, columns: int, dtype: np.dtype[Any]) -> Array:
    if bias.shape != (columns,):
        raise ShapeError(f"matmul: bias {bias.shape} must have one number for each of {columns} columns")
    if bias.dtype != dtype:
        raise DTypeError(f"matmul: bias is {bias.dtype} and a is {dtype}; they must be the same")
    return np.ascontiguousarray(bias)
