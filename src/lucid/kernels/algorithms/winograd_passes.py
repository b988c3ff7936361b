"""One of Winograd's transforms as a function, axis by axis: vectors in, vectors out, all strides at run time.

The lanes are channels. Nothing but three small matrices is in the text, and each axis is a loop over the lines along
the other two, so that 36 numbers never want 36 registers and a form costs a few milliseconds to compile.
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
        write_axes(f, matrices, (2, 1, 0), [len(matrix[0]) for matrix in matrices], source, target, a.spare, lanes)
    return f


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
