"""One of Winograd's transforms as a function, axis by axis: vectors in, vectors out, all strides at run time.

The lanes are channels. Nothing but three small matrices is in the text, and each axis is a loop over the lines along
the other two, so that 36 numbers never want 36 registers and a form costs a few milliseconds to compile. Where two axes
leave few numbers between them, these stay in registers: of F(4x4, 3x3) 18, so that 27 vectors are moved in place of 81.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from math import prod
from typing import Any

from lucid.kernels.algorithms.winograd_transforms import IDENTITY, Matrix, Size, multiplied
from lucid.kernels.ir import Function, Module, Pointer, f32, i64, ptr

Matrices = tuple[Matrix, Matrix, Matrix]

#: Where a grid of vectors lies, and its steps along z, y and x.
Grid = tuple[Pointer, Sequence[Any]]


#: Registers beside those that hold what lies between two axes: a line on its way through a matrix.
_LINE_REGISTERS = 12


def most_places(sizes: Sequence[Size]) -> int:
    """At least as many vectors as lie between two axes of matrices of those sizes, whatever their order."""
    return prod(map(max, sizes))


def lines(sizes: Sequence[Size]) -> int:
    """Vectors read and written on the way of one grid through matrices of those sizes."""
    grid, total = [columns for _, columns in sizes], 0
    for axis in (2, 1, 0):
        if prod(sizes[axis]) > 1:
            total += prod(grid)
            grid[axis] = sizes[axis][0]
            total += prod(grid)
    return total


def write_transform(module: Module, name: str, matrices: Matrices, lanes: int) -> Function:
    """Adds ``name(source, starts, count, source_z, source_y, source_x, to, advance, to_z, to_y, to_x, spare)``.

    For t below ``count``, the grid of vectors at ``source + starts[t]`` becomes the one at ``to + t advance``, both
    with strides of their own. ``spare`` has room for two grids of ``most_places``.
    """
    data = ptr(f32)
    strides = {f"{array}_{axis}": i64 for array in ("source", "to") for axis in "zyx"}
    f = module.function(
        name, export=True, source=data, starts=ptr(i64), count=i64, to=data, advance=i64, spare=data, **strides
    )
    a: Any = f.args
    with f.loop(0, a.count) as t:
        source = a.source.at(a.starts.load(t.i)), [a.source_z, a.source_y, a.source_x]
        target = a.to.at(t.i * a.advance), [a.to_z, a.to_y, a.to_x]
        sizes = [len(matrix[0]) for matrix in matrices]
        axes = [axis for axis in (2, 1, 0) if matrices[axis] != IDENTITY]
        if _stays(matrices, axes, sizes, module.registers):
            _write_at_once(matrices, axes, sizes, source, target, lanes)
        else:
            write_axes(f, matrices, (2, 1, 0), sizes, source, target, a.spare, lanes)
    return f


def _stays(matrices: Matrices, axes: Sequence[int], sizes: Sequence[int], registers: int) -> bool:
    """Whether what lies between two axes fits the registers."""
    between = prod(sizes) // sizes[axes[0]] * len(matrices[axes[0]]) if axes else 0
    return len(axes) == 2 and between <= registers - _LINE_REGISTERS


def _write_at_once(
    matrices: Matrices, axes: Sequence[int], sizes: Sequence[int], source: Grid, target: Grid, lanes: int
) -> None:
    """A grid multiplied along two axes, with nothing stored between them."""
    (here, steps), (to, to_steps), (first, last) = source, target, axes
    between = [
        multiplied(
            matrices[first],
            [here.load(k * steps[last] + n * steps[first], lanes) for n in range(sizes[first])],
        )
        for k in range(sizes[last])
    ]
    for n, line in enumerate(zip(*between, strict=True)):
        for k, value in enumerate(multiplied(matrices[last], line)):
            to.store(value, n * to_steps[first] + k * to_steps[last])


def write_axes(
    f: Function, matrices: Matrices, order: Sequence[int], sizes: Sequence[int], source: Grid, target: Grid,
    spare: Pointer, lanes: int,
) -> None:  # fmt: skip
    """A grid of those sizes, multiplied along some axes, one after the other."""
    axes = [axis for axis in order if matrices[axis] != IDENTITY]
    between = most_places([(len(matrix), len(matrix[0])) for matrix in matrices])
    for number, axis in enumerate(axes):
        after = list(sizes)
        after[axis] = len(matrices[axis])
        to = target
        if axis != axes[-1]:
            place = spare.at(number % 2 * between * lanes)
            to = place, [after[1] * after[2] * lanes, after[2] * lanes, lanes]
        _write_axis(f, matrices[axis], axis, sizes, source, to, lanes)
        source, sizes = to, after


def _write_axis(
    f: Function, matrix: Matrix, axis: int, sizes: Sequence[int], source: Grid, target: Grid, lanes: int
) -> None:
    """Every line along the axis, multiplied with the matrix."""
    (here, steps), (to, to_steps) = source, target
    with ExitStack() as loops:
        for other in range(3):
            if other != axis and sizes[other] > 1:
                line = loops.enter_context(f.loop(0, sizes[other]))
                here, to = here.at(line.i * steps[other]), to.at(line.i * to_steps[other])
        values = [here.load(k * steps[axis], lanes) for k in range(sizes[axis])]
        for k, value in enumerate(multiplied(matrix, values)):
            to.store(value, k * to_steps[axis])
