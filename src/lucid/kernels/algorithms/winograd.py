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
from lucid.kernels.algorithms import winograd_cost as cost
from lucid.kernels.algorithms.base import GHZ, Executable, channels, useful_threads
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
from lucid.kernels.plan import WORKSPACE_BYTES, Plan, Problem, waiting

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
#: The work that is worth a task.
_TASK_PRODUCTS = 1 << 17
_TILES = 4
_MANY_SPANS = 32  #: of which an odd one or a short one is little
#: So few that rows may be the outer loop.
_FEW_TILES = 512
#: What all patches and the filters of a tile of rows may take together; half of it, what those of a span may.
_MOST_BYTES = WORKSPACE_BYTES * 7 // 4


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
        row_block = max(1, min(cost.sums_room(form, tile), sizes.rows) // tile.rows) * tile.rows
        spans = ceil(sizes.tiles(form) / tile.columns) * sizes.groups
        wanted = min(cost.TASKS, 1 + _products(sizes, form, tile) // _TASK_PRODUCTS)
        row_parts = min(ceil(wanted / spans), ceil(sizes.rows / tile.rows))
        column_bytes = _ITEM_BYTES * form.points * form.planes.patch * sizes.channels
        if column_bytes * tile.columns <= _MOST_BYTES // 2:
            yield Blocking(tile, row_block, row_parts, rows_first=False, chunk=sizes.channels)
        if tile.vectors > 1 or not whole:
            yield from _by_rows(sizes, form, tile)
    if whole:
        yield from _by_rows(sizes, form, Tile(lanes, 1, lanes))


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
    expected_ns = {option: cost.expected_ns(*option, isa) for option in options}
    if target.cpu().turns(isa) > 1:
        shared_ns = {
            option: cost.shared_ns(*option, isa, ns) * (_DISPLACED if len(ways) > 1 and option[1].uneven else 1)
            for option, ns in expected_ns.items()
        }
        sizes, form, cut = min(options, key=lambda option: shared_ns[option])
        return _planned(problem, isa, form, _halved(sizes, form, cut, isa))
    best = min(options, key=lambda option: expected_ns[option])
    if cost.task_count(*best) < cost.TASKS:
        best = min(options, key=lambda option: waiting(cost.task_count(*option)) * expected_ns[option])
    return _planned(problem, isa, *best[1:])


def _halved(sizes: Shape, form: Form, cut: Blocking, isa: ISA) -> Blocking:
    """The cut, with the last span in two parts of its rows where two threads gain more than one loses.

    One of an odd number of spans keeps a thread waiting, and so does a short one beside a whole one: then both are in
    parts. Parts gather the span's patches again.
    """
    spans, heights = cost.span_count(sizes, form, cut), ceil(sizes.rows / cut.tile.rows)
    if cut.rows_first or sizes.groups * cut.row_parts > 1 or not 2 < spans < _MANY_SPANS or heights < 2:
        return cut
    width = cut.tile.vectors
    last = ceil(sizes.tiles(form) / cut.tile.lanes) - (spans - 1) * width
    halved, vectors, most = (1, last, last) if spans % 2 else (2, last + width, width)
    once_ns = cost.expected_ns(sizes, form, replace(cut, row_parts=1), isa)
    gather_ns = cost.patches_made_ns(sizes, form, cut, isa)  # of all vectors, as what follows
    rest_ns = once_ns - cost.CALL_NS[target.cpu().turns(isa)] - cost.filters_made_ns(sizes, form, cut, isa) - gather_ns
    gained_ns = (most - vectors * ceil(heights / 2) / heights) * rest_ns + (most - vectors) * gather_ns
    return replace(cut, halved=halved) if 2 * gained_ns > vectors * gather_ns else cut


def _planned(problem: Problem, isa: ISA, form: Form, cut: Blocking) -> Plan:
    displaced = form.uneven and displaces(problem, isa)
    sizes, tile = shape(problem, displaced), cut.tile
    expected_ns = cost.expected_ns(sizes, form, cut, isa) + cost.moving_ns(problem.traffic_bytes)
    alone_ns, handed_ns = cost.waits_ns(sizes, form, cut, isa)
    return Plan(
        name,
        problem,
        isa.name,
        expected_ns,
        alone_ns=alone_ns,
        handed_ns=handed_ns,
        tasks=cost.told_tasks(sizes, form, cut, isa, expected_ns),
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
    apart = cost.works_apart(sizes, form, cut, isa)
    return winograd_kernel.bind(sizes, form, cut, isa, stored, problem.bias, problem.epilogue, worth, apart)
