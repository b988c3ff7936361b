"""Winograd convolution: F(m, r) along one to three axes, all three roles, summed in float32.

Convolutions of dilation d along an axis are d undilated ones: see ``_unfolded``, and ``winograd_grad``. Strides s that
divide the kernel become stride 1 and k / s taps, in all roles: each residue of x is a channel of its own, or in the
input gradient, and so in a transposed convolution, each residue of the result a row of its own. Where residues have
different numbers of taps, they are parts of one form, see ``winograd_transforms.Strided``, or the kernel is filled up
with zeros: 7 taps of stride 2 are 8, four of each residue. More than 5 taps are taken in pieces, see ``Pieces``, or in
blocks if no other axis has taps, see ``Nested``; an outermost axis of more than 16, or of three, may be summed by
definition, of samples' rows transformed along the others alone. ::

    stride 2, kernel 4:    y[j] = sum over c, r = 0, 1, t = 0, 1 of w[c, 2 t + r] x[c, 2 (j + t) + r - low]
                           x[2 j + r - low] = sum over c, t = 0, 1 of w[c, 2 t + r] g[c, j - t]

A tile of F(4 x 4, 3 x 3) takes 36 products for 144, one of F(2 x 2, 3 x 3) 16 for 36, beside the transforms of patches,
filters and sums. The input gradient is the same with filters turned round and 2 zeros less the padding around. The
weight gradient is the adjoint in the filter and a module of its own, ``winograd_grad``.

Errors are those of a sum over the patch rather than the window, times a constant: see ``error_growth``. So a NaN or an
infinity may reach all outputs of the tiles whose patches it lies in, and an infinity may become NaN. Strict precision
rules the algorithm out: see ``lucid.set_precision``.

Source: Lavin and Gray, arXiv:1509.09308; fused while tiles are in cache as in Gelashvili and others, arXiv:1912.02165.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import ceil, prod
from typing import NamedTuple

from lucid.core.geometry import ConvSpec, Sizes
from lucid.kernels import target
from lucid.kernels.algorithms import panels, winograd_grad, winograd_kernel
from lucid.kernels.algorithms.base import (
    GHZ,
    IN_ORDER,
    SCATTERED,
    Executable,
    channels,
    far_bytes,
    handed_ns,
    priced,
    shared_tasks,
    useful_threads,
)
from lucid.kernels.algorithms.tile import Tile, fitting
from lucid.kernels.algorithms.winograd_layout import (
    MOST_GROWTH,
    MOST_POINTS,
    MOST_TAPS,
    PACKED,
    Blocking,
    Form,
    Shape,
    Side,
    filter_bytes,
    outputs_of,
    taken_apart,
    workspace_bytes,
)
from lucid.kernels.algorithms.winograd_transforms import Spread, Summed
from lucid.kernels.ir import BY_DTYPE, f32
from lucid.kernels.isa import ISA
from lucid.kernels.plan import WORKSPACE_BYTES, Plan, Problem, mean_ns, two_threads_ns, waiting

name = "winograd"
dtypes = ("float32", "float16", "bfloat16")

_MOST_STRIDE = 8
_MOST_DISPLACED = 6  # taps of an axis whose two residues are displaced each on its own
_DISPLACED = 1.1  # times what others are expected to take, which displaced ones must save to be sure of a gain
#: Outputs in the same tile where the outer axis of three, without strides, is summed as it is.
_SUMMED = (2, 4)
_MORE_SUMMED = (4, 8)  #: where there are strides, or its taps are more than tiles are for
#: Dilations of the last axis whose residues may stand side by side in a vector.
_IN_A_VECTOR = (2, 4, 8)
_ITEM_BYTES = 4
#: Tasks wanted of a problem that has work for them, and the work that is worth one.
_TASKS, _TASK_PRODUCTS = 8, 1 << 17
_TILES = 4
_MANY_SPANS = 32  #: of which an odd one or a short one is little
#: So few that rows may be the outer loop.
_FEW_TILES = 512
#: What all patches and the filters of a tile of rows may take together; half of it, what those of a span may.
_MOST_BYTES = WORKSPACE_BYTES * 7 // 4

# Least squares over 301 plans of random layers, rounded, on one thread of a core at 4 GHz with two vector products a
# cycle: half of them are within 7 %, four fifths within 17 %. What was too rare there is measured by itself.
_CALL_NS = {1: 8000.0, 2: 20000.0}  # by the turns of a vector; 3000 alone, but two threads wait for each other
_BYTE_NS = 0.009  # of x, w and y
_FAR_BYTE_NS = 0.052  # beyond the quarter of the last cache that stays there, in addition: rows of tiles are no streams
_COST_NS = {
    "product": 0.137,  # of vectors
    "tile": 1.0,
    "sum": 0.11,  # a vector of them, from a tile
    "sum beyond its part": 0.35,  # in addition, where a tile's take far more of the second cache than their quarter
    "again": 2.0,  # a vector of sums that a later chunk of channels is added to
    "gather": 0.79,  # a vector of pixels
    "shuffle": 0.0,  # to deal out or put together a vector of as many as are no power of two: beyond the two of four
    "residue": 0.5,  # of those, where samples are dealt out by residue
    "line": 0.3,  # a vector read or written on the way through a transform of samples or sums
    "summed line": 0.1,  # in addition, where the outermost axis is summed
    "filter line": 0.13,  # the same of filters
    "partial filter": 0.0,  # one to turn for a tile whose rows fill no whole vectors
    "entry": 4.5,
    "merge": 1.2,  # a vector gathered or stored, for every two pieces of rows that it has beyond the first two
    "output": 0.5,  # a vector
    "row": 0.93,  # of outputs
    "filter to second cache": 0.014,  # an element of a transformed filter
    "filter to third cache": 0.055,
    "filter to memory": 0.32,
    "filter from second cache": 0.0063,  # an element, read again for every span
    "filter from third cache": 0.0165,
    "filter from memory": 0.05,
    "patch from third cache": 0.075,  # a vector, read again for every block of rows
    "task": 300.0,
}
_OF_FILTERS = ("partial filter", "filter line", "filter to")  # how the units of their transforms begin
#: The same where they are others, on a Zen 4: vectors of 64 bytes are computed in halves.
_HALVED_NS = {
    "product": 0.284,
    "sum": 0.6,
    "sum beyond its part": 0.7,
    "gather": 1.45,
    "shuffle": 0.6,
    "partial filter": 0.25,
    "residue": 1.1,
    "line": 0.45,
    "output": 1.0,
    "patch from third cache": 0.3,
}
#: Of filters alone on a Zen 4: half of 170 sets of them are within 15 %, nine tenths within a third.
_FILTERS_NS = {
    "weight": 0.18,  # read, and put in order
    "turned weight": 0.36,
    "filter line": 0.25,
    "partial filter": 0.08,
    "filter to third cache": 0.037,
    "filter to memory": 0.037,
}
_LESS, _NOTABLE = 0.85, 0.025  #: of a wait takes clearly less time; of one thread's time two wait notably


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Strides beyond the kernel, most dilations, more taps than 16 but on the outermost axis."""
    spec = problem.spec
    if not _whole(spec):
        return f"it cannot split kernels of {spec.kernel} by strides of {spec.stride}"
    if problem.role == "grad_weight":
        return _refuses_gradient(problem, isa)
    lines = _unfolded(problem)
    if lines is None:
        return f"it cannot take a dilation of {spec.dilation} apart"
    if isa.lanes(f32) % lines[-1].dilation:
        return f"its vectors have no room for a dilation of {spec.dilation}"
    if not forms(problem):
        return f"it has no tiles for kernels of {spec.kernel}"
    sizes = shape(problem)
    if not _tiles(sizes, isa):
        return f"no register tile has a row for each residue of {spec.stride}"
    if not any(next(_blockings(sizes, form, isa), None) for form in forms(problem)):
        return f"patches of {sizes.channels} channels are more than its workspace"
    return None


def _refuses_gradient(problem: Problem, isa: ISA) -> str | None:
    """Kernels without tiles, frames of far residues, sums of many channels."""
    if not forms(problem):
        return f"it has no tiles for kernels of {problem.spec.kernel}"
    if winograd_grad.best(problem, isa) is None:
        return "its frames and sums are more than its workspace"
    return None


def _whole(spec: ConvSpec) -> bool:
    """Whether every stride is 1, or its residues have taps, undilated."""
    axes = zip(spec.kernel, spec.stride, spec.dilation, strict=True)
    return all(s == 1 or (k >= s and d == 1 and s <= _MOST_STRIDE) for k, s, d in axes)


def fuses(problem: Problem) -> bool:
    """Every epilogue, on the way from tiles to pixels."""
    return True


def forms(problem: Problem, displaced: bool = False) -> tuple[Form, ...]:
    """The tiles that a problem can be cut into, or those of ``displaced`` residues."""
    if problem.role == "grad_weight":
        return winograd_grad.forms(problem)
    lines = _lines(problem, displaced)
    kernel, strides, firsts = zip(*((line.taps, line.stride, line.first) for line in lines), strict=True)
    lone = sum(line.taps > 1 for line in lines) == 1
    large = target.cpu().turns(target.isa()) > 1  # where products are what counts
    choices = tuple(line.outputs(lone, large) for line in lines)
    plain = set(problem.spec.stride) == {1} and lines[0].taps <= MOST_TAPS
    whole = lines[0].residues == 1 and firsts[0] is None and all(line.side.spread == 1 for line in lines)
    summed = (_SUMMED if plain else _MORE_SUMMED) if whole else ()
    return _forms(choices, kernel, strides, firsts, lines[-1].dilation, summed)


class _Line(NamedTuple):
    """An axis of a problem."""

    taps: int
    dilation: int
    side: Side
    stride: int = 1  #: one that does not divide the taps
    first: int | None = None  #: residue of the first output, where those are strided
    missing: int = 0  #: taps that are zero, behind those of the kernel

    @property
    def residues(self) -> int:
        """Of the problem's stride, where they are channels or rows."""
        return self.side.step * self.side.spread

    @property
    def kernel(self) -> int:
        """Taps of all residues, those that are missing too."""
        return self.taps * self.residues

    def outputs(self, lone: bool, large: bool) -> Sizes:
        """Of the tiles that it may be cut into, if it is ``lone``, the only one with taps, or not."""
        positions, spreads = ceil(self.side.out / self.dilation), self.first is not None
        return outputs_of(self.taps, positions, self.stride, spreads, lone, large)

    @property
    def single(self) -> bool:
        """Whether it is only there to make three."""
        return self.taps == 1 and self.side == Side(1, 1, 0)

    @property
    def folded(self) -> tuple[_Line, _Line]:
        """The axis as rows of a sample for each residue, which are no longer dilated."""
        each, (size, out, low, *_) = self.dilation, self.side
        rows_before, before = divmod(low, each)
        rows = Side(ceil((size + before) / each), ceil(out / each), rows_before)
        return _Line(self.taps, 1, rows), _Line(1, 1, Side(each, each, before, lines=(size, out)))


def displaces(problem: Problem, isa: ISA) -> bool:
    """Whether residues of an input gradient may also be displaced each on its own, though they have as many taps each.

    Rows of their own begin at the same position, so that where padding is not a multiple of the stride the first and
    the last position are cut, 17 for 16. Displaced, they are parts of one form, which transforms patches for each: it
    pays where products are what counts.
    """
    strides = zip(problem.spec.kernel, problem.spec.stride, strict=True)
    apart = [k for k, s in strides if (s, k % s) == (2, 0) and 2 < k <= _MOST_DISPLACED]
    plain = problem.spec.stride.count(1) + len(apart) == len(problem.spec.stride)
    return problem.role == "grad_input" and len(apart) > 1 and plain and target.cpu().turns(isa) > 1


def _unfolded(problem: Problem, displaced: bool = False) -> tuple[_Line, _Line, _Line] | None:
    """The problem's axes where only the last has a dilation, one that fits into a vector: None if there are no such.

    A dilated axis is two: residues stand side by side, in rows, and the kernel moves from row to row. So it takes the
    place of one of size 1. Beyond that, tiles of neighbouring residues are neighbouring lanes of a vector.
    """
    spec, forward = problem.spec, problem.role == "forward"
    lines: list[_Line] = []
    for axis, (kernel, size, out, stride, (low, _)) in enumerate(
        zip(spec.kernel, problem.size, problem.out, spec.stride, spec.padding, strict=True)
    ):
        long = forward and not lines and axis + 1 < len(spec.kernel) and (kernel > MOST_TAPS or _filled_volume(spec))
        residues, uneven = (1, stride) if long or displaced else taken_apart(kernel, stride)
        taps, dilation = ceil(kernel / residues), spec.dilation[axis] if kernel > 1 else 1
        missing = taps * residues - kernel
        if forward:
            line = _Line(taps, dilation, Side(size, out, low, residues), uneven, missing=missing)
        elif uneven > 1:
            before = Spread(uneven, taps, uneven, low % uneven).before
            line = _Line(taps, dilation, Side(out, size, before - low // uneven), uneven, low % uneven)
        else:
            side = _backward(size, out, dilation * (taps - 1) + 1, residues, low)
            line = _Line(taps, dilation, side, missing=missing)
        if dilation == 1 or (axis == len(spec.kernel) - 1 and dilation in _IN_A_VECTOR):
            lines += [] if line.single else [line]
        else:
            lines += line.folded
    if len(lines) > 3:
        return None
    others = [_Line(1, 1, Side(1, 1, 0))] * (3 - len(lines))
    tall = len(lines) == 2 and lines[0].taps > MOST_TAPS  # summed, as the outermost can be
    z, y, x = [lines[0], *others, lines[1]] if tall else others + lines
    return z, y, x


def _filled_volume(spec: ConvSpec) -> bool:
    """Whether three axes have taps and the outermost would be filled up: it is summed as it is."""
    (kernel, *_), (stride, *_) = spec.kernel, spec.stride
    return len(spec.kernel) == 3 and min(spec.kernel) > 1 and kernel > 2 * stride and kernel % stride > 0


def _backward(size: int, out: int, extent: int, stride: int, low: int) -> Side:
    """An axis of the input gradient: position j stands for the results where (i + low) // stride is j.

    Each of them meets the samples j, j - 1 and so on of g, with taps of its own residue; see ``phase_split``.
    """
    first, last = low // stride, (low + size - 1) // stride
    trim = low - first * stride, (last + 1) * stride - low - size
    return Side(out, last - first + 1, extent - 1 - first, 1, stride, trim)


def _lines(problem: Problem, displaced: bool = False) -> tuple[_Line, _Line, _Line]:
    lines = _unfolded(problem, displaced)
    assert lines is not None, "what cannot be taken apart has been refused"
    return lines


@lru_cache(maxsize=64)
def _forms(
    choices: tuple[Sizes, ...],
    kernel: Sizes,
    strides: Sizes,
    firsts: tuple[int | None, ...],
    dilation: int,
    summed: Sizes,
) -> tuple[Form, ...]:
    if set(kernel) == {1}:
        return ()
    every = [Form.of(outputs, kernel, dilation, strides=strides, firsts=firsts) for outputs in product(*choices)]
    if kernel[0] > 1 and kernel[1:] != (1, 1):
        tiles = product(summed, *choices[1:])
        every += [Form.of(outputs, kernel, dilation, True, strides, firsts) for outputs in tiles]
    return tuple(form for form in every if form.points <= MOST_POINTS and growth(form) <= MOST_GROWTH)


def growth(form: Form) -> float:
    """By how much the errors may exceed those of the definition's sum, over a patch of numbers all alike.

    Each product's error is bounded by its factors' absolute values, and the transforms of these by |G| |w| |G^T| and
    |B^T| |x| |B|; |A^T| sums them up. Source: Barabasz and others, arXiv:1803.10986, theorem 3.
    """
    return prod(axis.growth for axis in form.axes)


def error_growth(plan: Plan) -> float:
    """A result is within so many times the bound of direct summation, where that is largest in or beside its channel.

    A sum of C products and its transforms' sums take the place of one of C taps products. It is never less than one:
    a result in half precision is rounded once more, as that of direct summation is.
    """
    if plan.problem.role == "grad_weight":
        return winograd_grad.error_growth(plan)
    form, sizes = _form(plan), shape(plan.problem, bool(plan["displaced"]))
    roundings = sizes.channels * form.planes.filter + sum(axis.taps + 2 * axis.samples for axis in form.axes)
    filled = prod(sizes.kernel) / prod(sizes.stored_kernel)
    return max(1.0, growth(form) * filled * roundings / (sizes.sources * plan.problem.spec.taps))


def shape(problem: Problem, displaced: bool = False) -> Shape:
    """Rows, sum and sides for the problem's role, or those of ``displaced`` residues."""
    taps, forward = problem.spec.taps, problem.role == "forward"
    sources, results = channels(problem)
    result_step, source_step = problem.group_in * taps, taps
    planes = prod(problem.size), problem.pixels
    if not forward:
        result_step, source_step, planes = source_step, result_step, planes[::-1]
    z, y, x = _lines(problem, displaced)
    residues = z.residues * y.residues * x.residues
    return Shape(
        sides=(z.side, y.side, x.side),
        planes=planes,
        batch=problem.batch,
        groups=problem.groups,
        rows=results * (1 if forward else residues),
        channels=sources * (residues if forward else 1),
        row_step=result_step,
        channel_step=source_step,
        group_step=problem.group_out * problem.group_in * taps,
        kernel=(z.kernel, y.kernel, x.kernel),
        stored_kernel=(z.kernel - z.missing, y.kernel - y.missing, x.kernel - x.missing),
        flipped=not forward,
    )


def _tiles(sizes: Shape, isa: ISA) -> list[Tile]:
    """Tiles that waste least of the rows, whatever the pixels, one of each width; rows of a channel are in one."""
    return _least_waste(isa, sizes.rows, prod(sizes.spread))


@lru_cache(maxsize=256)
def _least_waste(isa: ISA, rows: int, spread: int) -> list[Tile]:
    by_width: dict[int, Tile] = {}
    for tile in fitting(isa, f32):
        if tile.rows % spread:
            continue
        covered = ceil(rows / tile.rows) * tile.step_products / tile.vectors
        best = by_width.get(tile.vectors)
        if best is None or covered <= ceil(rows / best.rows) * best.step_products / best.vectors:
            by_width[tile.vectors] = tile
    return [by_width[width] for width in sorted(by_width)[:_TILES]]


def _blockings(sizes: Shape, form: Form, isa: ISA) -> Iterator[Blocking]:
    """Sums of a block of rows fit a quarter of the second level cache. Rows are cut if there are few spans.

    If rows come first, tiles of one vector have rows that are whole vectors of filters: 27 of 512@7 took 1.3 times as
    long as 16.
    """
    lanes = isa.lanes(f32)
    whole = lanes > 1 and lanes % prod(sizes.spread) == 0
    for tile in _tiles(sizes, isa):
        row_block = max(1, min(_sums_room(form, tile), sizes.rows) // tile.rows) * tile.rows
        spans = ceil(sizes.tiles(form) / tile.columns) * sizes.groups
        wanted = min(_TASKS, 1 + _products(sizes, form, tile) // _TASK_PRODUCTS)
        row_parts = min(ceil(wanted / spans), ceil(sizes.rows / tile.rows))
        column_bytes = _ITEM_BYTES * form.points * form.planes.patch * sizes.channels
        if column_bytes * tile.columns <= _MOST_BYTES // 2:
            yield Blocking(tile, row_block, row_parts, rows_first=False, chunk=sizes.channels)
        if tile.vectors > 1 or not whole:
            yield from _by_rows(sizes, form, tile)
    if whole:
        yield from _by_rows(sizes, form, Tile(lanes, 1, lanes))


def _sums_room(form: Form, tile: Tile) -> int:
    """Rows whose sums of a span take a quarter of the second level cache."""
    return target.cpu().l2_bytes // 4 // (form.points * form.planes.result * tile.columns * _ITEM_BYTES)


def _by_rows(sizes: Shape, form: Form, tile: Tile) -> Iterator[Blocking]:
    """Filters of a tile of rows, of as many channels as half of the second level cache has room for."""
    row_bytes, least = _ITEM_BYTES * form.points * tile.rows, PACKED * prod(sizes.step)
    room = max(target.cpu().l2_bytes // 2 // row_bytes // least, 1) * least
    chunk = min(sizes.channels, room) if form.planes.filter == 1 else sizes.channels
    columns = ceil(sizes.tiles(form) / tile.columns) * tile.columns
    patch_bytes = _ITEM_BYTES * form.points * form.planes.patch * sizes.groups * sizes.channels * columns
    if sizes.tiles(form) <= _FEW_TILES and patch_bytes + chunk * form.planes.filter * row_bytes <= _MOST_BYTES:
        yield Blocking(tile, tile.rows, 1, rows_first=True, chunk=chunk)


def _products(sizes: Shape, form: Form, tile: Tile) -> int:
    vectors = ceil(sizes.tiles(form) / tile.lanes)
    return sizes.groups * form.products * sizes.channels * sizes.rows * vectors


def _home(size_bytes: float) -> str:
    """The cache that keeps so much and what is worked on beside it."""
    cpu = target.cpu()
    if size_bytes < cpu.l2_bytes * 0.6:
        return "second cache"
    return "third cache" if size_bytes < cpu.l3_bytes // 3 else "memory"


def _merges(row: int, lanes: int) -> float:
    """Entries of a table beyond its first that a vector of positions takes, where a row has so many."""
    pieces = lanes / row if lanes % row == 0 else 1 + (lanes - 1) / row
    return max(0.0, pieces / 2 - 1)


def _shuffles(vectors: int) -> int:
    """For each of so many that are dealt out to as many, beyond those for four: see ``winograd_transforms.split``."""
    halved = (vectors & -vectors).bit_length() - 1
    return max(0, halved + (vectors >> halved) - 3)


def _work(sizes: Shape, form: Form, cut: Blocking, isa: ISA) -> dict[str, float]:
    """What one thread does for one group, counted in the units of ``_COST_NS``."""
    tile, tiles, channels, points, planes = cut.tile, sizes.tiles(form), sizes.channels, form.points, form.planes
    vectors, spans, heights = ceil(tiles / tile.lanes), ceil(tiles / tile.columns), ceil(sizes.rows / tile.rows)
    whole, rest = divmod(vectors, tile.vectors)
    across = whole * tile.step_products + (Tile(tile.rows, rest, tile.lanes).step_products if rest else 0)
    rows_covered, passes = heights * tile.rows, cut.row_parts
    gathered = passes * vectors * channels * form.reads * form.x.advance
    patches, filters = points * planes.patch * channels, points * planes.filter * channels * rows_covered
    filter_bytes, patch_bytes = filters * sizes.groups * _ITEM_BYTES, patches * tile.columns * _ITEM_BYTES
    blocks = heights if cut.rows_first else ceil(sizes.rows / cut.row_block)
    sums = points * planes.result * heights * spans * tile.rows * tile.vectors
    home = _home(filter_bytes / heights / sizes.groups * cut.chunk / channels if cut.rows_first else filter_bytes)
    stays = not cut.rows_first and _home(patch_bytes) == "second cache"
    lines = passes * channels * vectors * planes.patch * form.lines("patch")
    lines += sizes.rows * vectors * planes.result * form.lines("inverse")
    outputs = sizes.rows * vectors * form.outputs
    turned = prod(sizes.spread) == 1  # others' weights are put in order by constant shuffles
    dealt = passes * vectors * channels * planes.patch * (form.samples // form.z.planes.patch)
    across_x = sizes.sides[2].tiles(form.x, form.apart)
    merges_in, merges_out = (_merges(across_x * run, tile.lanes) for run in (form.x.advance, form.x.outputs))
    entries_in, entries_out = passes * form.reads * form.x.advance, blocks * form.outputs
    return {
        "product": form.products * channels * heights * across,
        "tile": points * planes.result * heights * spans,
        "sum": sums,
        "sum beyond its part": sums if 2 * tile.rows > 3 * _sums_room(form, tile) else 0,
        "again": (ceil(channels / cut.chunk) - 1) * points * planes.result * heights * tile.rows * vectors,
        "gather": gathered,
        "shuffle": dealt * _shuffles(form.x.advance) + outputs * _shuffles(form.x.outputs),
        "residue": gathered if sizes.sources < channels else 0,
        "line": lines,
        "summed line": lines if isinstance(form.z, Summed) else 0,
        "partial filter": channels * rows_covered * planes.filter if turned and tile.rows % tile.lanes else 0,
        "filter line": channels * heights * ceil(tile.rows / tile.lanes) * planes.filter * form.lines("filter"),
        "output": outputs,
        "row": outputs / form.x.outputs,
        f"filter to {home}": filters,
        f"filter from {home}": filters * spans,
        "entry": (entries_in * (1 + merges_in) + entries_out * (1 + merges_out)) * vectors,
        "merge": gathered * merges_in + outputs * merges_out,
        "patch from third cache": 0 if stays else patches * vectors * blocks,
        "task": passes * spans + heights,
    }


def _expected_ns(sizes: Shape, form: Form, cut: Blocking, isa: ISA) -> float:
    """Time of one thread, beside that for moving the operands."""
    work = _work(sizes, form, cut, isa)
    turns = target.cpu().turns(isa)
    return _CALL_NS[turns] + sizes.groups * priced(work, _COST_NS, _HALVED_NS, turns)


def _filters_ns(sizes: Shape, form: Form, cut: Blocking, isa: ISA) -> float:
    """Time of one thread to transform the filters of a group, which is a task for every tile of rows.

    In what is expected it is less: that was fitted as a whole, mostly to layers that spend little on filters.
    """
    work = {unit: count for unit, count in _work(sizes, form, cut, isa).items() if unit.startswith(_OF_FILTERS)}
    if target.cpu().turns(isa) == 1:
        return priced(work, _COST_NS, _HALVED_NS, 1)
    rows = ceil(sizes.rows / cut.tile.rows) * cut.tile.rows
    work["turned weight" if sizes.flipped else "weight"] = sizes.sources * rows * sizes.packed_taps
    return sum(count * _FILTERS_NS.get(unit, 0.0) for unit, count in work.items())


def _moving_ns(traffic_bytes: int) -> float:
    """Time of one thread for the operands."""
    return traffic_bytes * _BYTE_NS + far_bytes(traffic_bytes) * _FAR_BYTE_NS


def plan(problem: Problem, isa: ISA) -> Plan:
    """The tiles, register tile and blocks that are expected to be fastest.

    Of few tasks an odd one counts; of many, it is less than what prices err.
    """
    if problem.role == "grad_weight":
        return winograd_grad.plan(problem, isa)
    ways = (False, True) if displaces(problem, isa) else (False,)
    options = [
        (sizes, form, cut)
        for sizes, found in ((shape(problem, way), forms(problem, way)) for way in ways)
        for form in found
        for cut in _blockings(sizes, form, isa)
    ]
    expected_ns = {option: _expected_ns(*option, isa) for option in options}
    if target.cpu().turns(isa) > 1:
        shared_ns = {
            option: _shared_ns(*option, isa, ns) * (_DISPLACED if len(ways) > 1 and option[1].uneven else 1)
            for option, ns in expected_ns.items()
        }
        sizes, form, cut = min(options, key=lambda option: shared_ns[option])
        return _planned(problem, isa, form, _halved(sizes, form, cut, isa))
    best = min(options, key=lambda option: expected_ns[option])
    if _tasks(*best) < _TASKS:
        best = min(options, key=lambda option: waiting(_tasks(*option)) * expected_ns[option])
    return _planned(problem, isa, *best[1:])


def _shared_ns(sizes: Shape, form: Form, cut: Blocking, isa: ISA, expected_ns: float) -> float:
    """The mean over one thread and two."""
    tasks = _told_tasks(sizes, form, cut, isa, expected_ns)
    two_ns = two_threads_ns(expected_ns, tasks, _alone_ns(sizes, form, cut, isa), _handed_ns(sizes, form, cut, isa))
    return mean_ns(expected_ns, two_ns)


def _halved(sizes: Shape, form: Form, cut: Blocking, isa: ISA) -> Blocking:
    """The cut, with the last span in two parts of its rows where two threads gain more than one loses.

    One of an odd number of spans keeps a thread waiting, and so does a short one beside a whole one: then both are in
    parts. Parts gather the span's patches again.
    """
    spans, heights, width = _spans(sizes, form, cut), ceil(sizes.rows / cut.tile.rows), cut.tile.vectors
    if cut.rows_first or sizes.groups * cut.row_parts > 1 or not 2 < spans < _MANY_SPANS or heights < 2:
        return cut
    last = ceil(sizes.tiles(form) / cut.tile.lanes) - (spans - 1) * width
    halved, vectors, most = (1, last, last) if spans % 2 else (2, last + width, width)
    once_ns = _expected_ns(sizes, form, replace(cut, row_parts=1), isa)
    gather_ns = _patches_ns(sizes, form, cut, isa)  # of all vectors, as what follows
    rest_ns = once_ns - _CALL_NS[target.cpu().turns(isa)] - _filters_ns(sizes, form, cut, isa) - gather_ns
    gained_ns = (most - vectors * ceil(heights / 2) / heights) * rest_ns + (most - vectors) * gather_ns
    return replace(cut, halved=halved) if 2 * gained_ns > vectors * gather_ns else cut


def _alone_ns(sizes: Shape, form: Form, cut: Blocking, isa: ISA) -> float:
    """What one thread takes while another waits: for filters of a single tile of rows, for the last of a few spans.

    Or beside another that does the same: where each makes all filters or, if rows come first, all patches.
    """
    apart = _works_apart(sizes, form, cut, isa)
    if cut.rows_first:
        return _patches_ns(sizes, form, cut, isa) if apart else 0.0
    filters_ns = _filters_ns(sizes, form, cut, isa)
    single_ns = sizes.groups * filters_ns if apart or sizes.groups * ceil(sizes.rows / cut.tile.rows) == 1 else 0.0
    if cut.halved or not _few_spans(sizes, form, cut):
        return single_ns
    vectors = ceil(sizes.tiles(form) / cut.tile.lanes)
    missing = -vectors % cut.tile.vectors
    waited = cut.tile.vectors - missing if ceil(vectors / cut.tile.vectors) % 2 else missing
    products_ns = _expected_ns(sizes, form, cut, isa) - _CALL_NS[target.cpu().turns(isa)] - filters_ns
    return single_ns + products_ns * waited / vectors


def _patches_ns(sizes: Shape, form: Form, cut: Blocking, isa: ISA) -> float:
    """Time of one thread to gather all patches and to transform them."""
    once_ns, twice_ns = (_expected_ns(sizes, form, replace(cut, row_parts=parts), isa) for parts in (1, 2))
    return twice_ns - once_ns


def _works_apart(sizes: Shape, form: Form, cut: Blocking, isa: ISA) -> bool:
    """Whether few threads make all patches each, where rows come first and vectors take turns, or all filters.

    They do where to wait for the other's half takes longer than to make it, and a copy for each leaves most of the last
    cache to others. Each then has one run of the tasks, so the wait must be worth it; patches are no longer asked for
    by whoever is free, and read again for every tile of rows. Where rows are in parts a thread reads few filters of the
    others'.
    """
    if target.cpu().turns(isa) == 1 or cut.row_parts > 1:
        return False
    copy_bytes, waited_ns = 2 * _handed_bytes(sizes, form, cut), _waited_ns(sizes, form, cut)
    small = far_bytes(2 * copy_bytes) == 0
    if cut.rows_first:
        fits = copy_bytes <= target.cpu().l2_bytes
        return fits or (small and _patches_ns(sizes, form, cut, isa) < _LESS * waited_ns)
    made_ns = sizes.groups * _filters_ns(sizes, form, cut, isa)
    notable = waited_ns > _NOTABLE * _expected_ns(sizes, form, cut, isa)
    return notable and small and made_ns / 2 < _LESS * waited_ns


def _few_spans(sizes: Shape, form: Form, cut: Blocking) -> bool:
    """Whether threads share a few spans, of which the last may be short."""
    return not cut.rows_first and sizes.groups * cut.row_parts == 1 and 1 < _spans(sizes, form, cut) < _TASKS


def _handed_ns(sizes: Shape, form: Form, cut: Blocking, isa: ISA) -> float:
    """Two threads' wait for lines that the other has written."""
    return 0.0 if _works_apart(sizes, form, cut, isa) else _waited_ns(sizes, form, cut)


def _waited_ns(sizes: Shape, form: Form, cut: Blocking) -> float:
    """The same if half of the patches, where rows come first, or of the filters is the other's."""
    return handed_ns(_handed_bytes(sizes, form, cut), IN_ORDER if cut.rows_first else SCATTERED)


def _handed_bytes(sizes: Shape, form: Form, cut: Blocking) -> float:
    """Half of the patches, or of the filters."""
    rows, columns = (
        ceil(size / tile) * tile for size, tile in ((sizes.rows, cut.tile.rows), (sizes.tiles(form), cut.tile.lanes))
    )
    unit, wide = ("patch", columns) if cut.rows_first else ("filter", rows)
    planes: int = getattr(form.planes, unit)
    return _ITEM_BYTES * sizes.groups * form.points * planes * sizes.channels * wide / 2


def _tasks(sizes: Shape, form: Form, cut: Blocking) -> int:
    """Of the step with the products."""
    spans = _spans(sizes, form, cut)
    return sizes.groups * (ceil(sizes.rows / cut.tile.rows) if cut.rows_first else spans * cut.row_parts) + cut.halved


def _spans(sizes: Shape, form: Form, cut: Blocking) -> int:
    return ceil(sizes.tiles(form) / cut.tile.columns)


def _told_tasks(sizes: Shape, form: Form, cut: Blocking, isa: ISA, expected_ns: float) -> int:
    """What a plan says of them; nothing where it says what one thread takes alone."""
    told = target.cpu().turns(isa) > 1 and _few_spans(sizes, form, cut)
    return 0 if told else shared_tasks(expected_ns * GHZ, _tasks(sizes, form, cut))


def _planned(problem: Problem, isa: ISA, form: Form, cut: Blocking) -> Plan:
    displaced = form.uneven and displaces(problem, isa)
    sizes, tile = shape(problem, displaced), cut.tile
    expected_ns = _expected_ns(sizes, form, cut, isa) + _moving_ns(problem.traffic_bytes)
    return Plan(
        name,
        problem,
        isa.name,
        expected_ns,
        alone_ns=_alone_ns(sizes, form, cut, isa),
        handed_ns=_handed_ns(sizes, form, cut, isa),
        tasks=_told_tasks(sizes, form, cut, isa, expected_ns),
        tile=(("rows", tile.rows), ("vectors", tile.vectors), ("lanes", tile.lanes)),
        blocking=(
            *((f"outputs_{axis}", minimal.outputs) for axis, minimal in zip("zyx", form.axes, strict=True)),
            ("summed", int(isinstance(form.z, Summed))),
            ("displaced", int(displaced)),
            ("row_block", cut.row_block),
            ("row_parts", cut.row_parts),
            ("halved", cut.halved),
            ("rows_first", int(cut.rows_first)),
            ("chunk", cut.chunk),
        ),
        workspace_bytes=workspace_bytes(sizes, form, cut, panels.slack(isa, f32, tile.rows)),
        packed_bytes=filter_bytes(sizes, form, cut, panels.slack(isa, f32, tile.rows)),
        why=f"{form.products} products of a tile where the definition has {form.outputs * form.taps}",
    )


def _form(plan: Plan) -> Form:
    z, y, x = _lines(plan.problem, bool(plan["displaced"]))
    outputs = [plan[f"outputs_{axis}"] for axis in "zyx"]
    taps, strides, firsts = zip(*((line.taps, line.stride, line.first) for line in (z, y, x)), strict=True)
    return Form.of(outputs, taps, x.dilation, bool(plan["summed"]), strides, firsts)


def bind(plan: Plan, isa: ISA) -> Executable:
    """The kernels with the problem's numbers."""
    if plan.problem.role == "grad_weight":
        return winograd_grad.bind(plan, isa)
    tile = Tile(plan["rows"], plan["vectors"], plan["lanes"])
    cut = Blocking(tile, plan["row_block"], plan["row_parts"], bool(plan["rows_first"]), plan["chunk"], plan["halved"])
    problem = plan.problem
    stored = BY_DTYPE[problem.dtype]
    worth = useful_threads(plan.expected_ns * GHZ)
    sizes, form = shape(problem, bool(plan["displaced"])), _form(plan)
    apart = _works_apart(sizes, form, cut, isa)
    return winograd_kernel.bind(sizes, form, cut, isa, stored, problem.bias, problem.epilogue, worth, apart)
