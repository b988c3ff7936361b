"""Input gradient and transposed convolution as one product of all taps of a line, whose lines are then added up.

Sample q of g gives ``w[tap] . g[q]`` to result ``q * stride + tap * dilation - low``. Along the last axis all of these
are computed as rows of one matrix product, (result channel, tap) by samples, and added where they meet::

    stride 2, kernel 3, low 1       samples    q0     q1     q2
                                    tap 0      a0     a1     a2          result 1 = a1 + c0
                                    tap 1      b0     b1     b2          result 2 = b1
                                    tap 2      c0     c1     c2          result 3 = a2 + c1

So few result channels still fill a register tile, samples are gathered once for all taps, and nothing is computed that
is not wanted. The outer axes are split by phase: their taps lengthen the product's sum, or are rows too where windows
lie side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from lucid.kernels import target
from lucid.kernels.algorithms import dense_cost, dense_plan, overlap_kernel
from lucid.kernels.algorithms.base import GHZ, Executable, priced, shared_tasks, sum_type, turns_of
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.overlap_layout import Bound, Cut, Geometry, itemsize
from lucid.kernels.algorithms.tile import Tile, fitting
from lucid.kernels.ir import BY_DTYPE, computed
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Plan, Problem

name = "overlap_add"
roles = ("grad_input",)
dtypes = dense_plan.DTYPES

_WORKSPACE_BYTES = 3 << 20
_TASKS = 16
_TASK_FLOPS = 1 << 20
_TILES = 4
#: Wider tiles wait for the second cache, where the samples are; those of one vector for the weights.
_MOST_VECTORS = 4
#: Spans for which weights are packed anew each.
_LAZY_SPANS = 2
_SUMS_BYTES = 1 << 17

# Least squares over 356 plans of random layers, rounded, beside the dense algorithms' own, on one thread of a core at
# 4 GHz with two vector products a cycle: half of them are within 5 %, four fifths within 15 %.
_CALL_NS = 1250.0
_COST_NS = {
    "product": 0.117,  # of vectors
    "panel": 0.08,  # a vector of samples, read for a tile
    "tile": 4.0,
    "sum": 0.87,  # a vector of sums, stored and added to others
    "line": 6.3,
    "result": 0.018,
    "interleave": 0.04,  # a result
    "scatter": 0.43,
    "task": 20.0,
    "weight": 0.096,
    "weight from beyond the second cache": 0.2,  # in addition
    "run of weights": 0.8,
}
#: The same where they are others, on a Zen 4: vectors of 64 bytes are computed in halves.
_HALVED_NS = {"product": 0.27, "sum": 1.5, "line": 11.0}


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Pointwise products; lines too long for the cache."""
    if problem.spec.taps == 1 and problem.spec.stride == (1, 1, 1):
        return "a kernel of one tap that moves by one has nothing to add up"
    if next(_bounds(problem, isa), None) is None:
        return "its samples and sums of the shortest span do not fit the cache"
    return None


def fuses(problem: Problem) -> bool:
    """Every epilogue, line by line; in half precision that would round once more than in the stores."""
    return problem.itemsize >= 4


def _bounds(problem: Problem, isa: ISA) -> Iterator[Bound]:
    """Ways to cut the problem up."""
    size = itemsize(problem.dtype)
    for geometry in (Geometry(problem, False), Geometry(problem, True)):
        tiles = _tiles(geometry, isa, problem.dtype)
        for span in _spans(geometry, size):
            for tile in tiles:
                for cut in _cuts(geometry, span, tile, size):
                    bound = Bound(geometry, cut, size)
                    if bound.scratch()["scratch_bytes"] <= _WORKSPACE_BYTES:
                        yield bound


def _spans(geometry: Geometry, size: int) -> Iterator[int]:
    """Columns of a span: those whose samples fill half the second cache, and fewer so that there are more tasks."""
    layout, problem = geometry.layout, geometry.problem
    room = _samples_bytes() // (size * problem.group_out * layout.gathered_taps) - layout.halo
    step = geometry.samples if not geometry.segmented else 1
    unit = layout.unit - geometry.back
    most = max(1, (room - geometry.back) // step) * step
    if geometry.segmented and geometry.layout.unit <= most:
        return
    spans = ceil(unit / min(unit, most))
    found = set()
    for finer in (1, 2, 4, 8):
        found.add(ceil(unit / step / min(unit // step, spans * finer)) * step + geometry.back)
    yield from sorted(found)


def _samples_bytes() -> int:
    return target.cpu().l2_bytes // 2


def _tiles(geometry: Geometry, isa: ISA, dtype: str) -> list[Tile]:
    """The tiles of least waste; they depend on channels and the kernel only."""
    rows = geometry.problem.group_in * geometry.stack
    fit = [
        Tile(tile.rows, min(tile.vectors, _MOST_VECTORS), tile.lanes)
        for tile in fitting(isa, computed(BY_DTYPE[dtype]))
        if tile.rows <= rows and tile.vectors > 1
    ]
    return sorted(fit, key=lambda tile: dense_plan.waste(tile, rows))[:_TILES]


def _cuts(geometry: Geometry, span: int, tile: Tile, size: int) -> Iterator[Cut]:
    problem, layout = geometry.problem, geometry.layout
    most = max(1, _SUMS_BYTES // (size * geometry.stack * span))
    chunk = min(problem.group_in, most)
    if chunk < problem.group_in:  # whole tiles, where a few channels make them
        whole = [n for n in range(1, chunk + 1) if n * geometry.stack % tile.rows == 0]
        chunk = whole[-1] if whole else chunk
    spans = layout.units * ceil((layout.unit - geometry.back) / (span - geometry.back))
    wanted = min(_TASKS, max(1, problem.flops // _TASK_FLOPS))
    lazy = spans <= _LAZY_SPANS
    parts = min(ceil(problem.group_in / chunk), ceil(wanted / (spans * problem.groups)))
    for count in {parts, ceil(parts / 2)}:
        yield Cut(tile, span, chunk, count, lazy)


def _tile_rows(bound: Bound) -> int:
    """Rows of tiles that cover the rows of a group, chunk by chunk."""
    stack, rows, chunk = bound.geometry.stack, bound.cut.tile.rows, bound.cut.chunk
    whole, rest = divmod(bound.geometry.problem.group_in, chunk)
    return int(whole * ceil(chunk * stack / rows) + ceil(rest * stack / rows))


def _work(bound: Bound) -> dict[str, float]:
    """What one thread does, counted in the units of ``_COST_NS``."""
    geometry, cut, problem = bound.geometry, bound.cut, bound.geometry.problem
    tile, layout, groups = cut.tile, geometry.layout, problem.groups
    rows = _tile_rows(bound)
    last = layout.unit - (bound.unit_spans - 1) * bound.advance
    spans = (layout.units * (bound.unit_spans - 1), cut.span), (layout.units, last)
    columns = sum(count * span for count, span in spans)
    across = sum(count * tile.across(span) for count, span in spans)
    steps = sum(bound.steps)
    tiles = sum(count * ceil(span / tile.columns) for count, span in spans)
    members, channels = len(geometry.members), problem.group_in
    lines = members * problem.batch * geometry.z.positions * geometry.y.positions * channels * geometry.z.fold
    lines *= geometry.y.fold
    results = problem.batch * problem.c_in * problem.size[0] * problem.size[1] * problem.size[2]
    weights = bound.chunks * bound.chunk_weights
    packings = bound.spans if cut.lazy else 1
    far = weights * problem.itemsize > target.cpu().l2_bytes
    segments = bound.unit_spans if geometry.segmented else 1
    outward = "interleave" if geometry.stride in (1, 2, 4) else "scatter"
    return {
        "product": groups * rows * across * steps,
        "panel": groups * rows * sum(count * tile.loads(span) for count, span in spans) * steps,
        "tile": groups * rows * tiles * len(bound.steps),
        "sum": groups * members * channels * geometry.stack * columns / tile.lanes,
        "line": groups * lines * segments,
        "result": results,
        outward: results if geometry.stride > 1 else 0,
        "task": bound.tasks,
        "weight": groups * weights * packings,
        "weight from beyond the second cache": groups * weights * packings * far,
        "run of weights": groups * weights / min(bound.row_run, tile.rows) * packings,
    }


def _gathered_ns(bound: Bound) -> float:
    """Time of one thread for the samples of all spans, each with its halo."""
    problem, layout = bound.geometry.problem, bound.geometry.layout
    again = (bound.unit_spans - 1) * bound.geometry.back + bound.unit_spans * layout.halo
    samples = problem.groups * bound.parts * layout.units * (layout.unit + again)
    return samples * dense_cost.gathered_ns(
        layout, bound.cut.tile.lanes, problem.group_out, Grain(BY_DTYPE[problem.dtype])
    )


def _expected_ns(bound: Bound) -> float:
    turns = turns_of(bound.cut.tile.lanes, sum_type(bound.geometry.problem))
    work = _gathered_ns(bound) + priced(_work(bound), _COST_NS, _HALVED_NS, turns)
    return _CALL_NS + work + dense_cost.traffic_ns(bound.geometry.problem)


def _best(problem: Problem, isa: ISA) -> Bound:
    return min(_bounds(problem, isa), key=lambda bound: _expected_ns(bound) * (1 + 0.5 / min(_TASKS, bound.tasks)))


def plan(problem: Problem, isa: ISA) -> Plan:
    """The cheapest tile with its spans and chunks."""
    return _as_plan(_best(problem, isa), isa)


def _as_plan(bound: Bound, isa: ISA) -> Plan:
    cut, geometry, expected_ns = bound.cut, bound.geometry, _expected_ns(bound)
    blocking = {
        "span": cut.span,
        "chunk": cut.chunk,
        "parts": cut.parts,
        "lazy": int(cut.lazy),
        "segmented": int(geometry.segmented),
    }
    return Plan(
        name,
        geometry.problem,
        isa.name,
        expected_ns,
        tasks=shared_tasks(expected_ns * GHZ, bound.tasks) if target.cpu().turns(isa) > 1 else 0,
        tile=(("rows", cut.tile.rows), ("vectors", cut.tile.vectors), ("lanes", cut.tile.lanes)),
        blocking=tuple(blocking.items()),
        workspace_bytes=bound.packed * bound.itemsize + bound.scratch()["scratch_bytes"],
        packed_bytes=bound.packed * bound.itemsize,
        why=f"{geometry.stack} taps of {geometry.problem.group_in} channels are rows, added up where they meet",
    )


def bind(plan: Plan, isa: ISA) -> Executable:
    """The kernel with the problem's numbers."""
    problem = plan.problem
    tile = Tile(plan["rows"], plan["vectors"], plan["lanes"])
    cut = Cut(tile, plan["span"], plan["chunk"], plan["parts"], bool(plan["lazy"]))
    bound = Bound(Geometry(problem, bool(plan["segmented"])), cut, itemsize(problem.dtype))
    return overlap_kernel.bind(bound, plan.expected_ns)
