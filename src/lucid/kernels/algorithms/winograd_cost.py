"""What Winograd convolution is expected to take: of one thread, of two that share it, and what each waits for."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, prod

from lucid.kernels import target
from lucid.kernels.algorithms.base import (
    GHZ,
    IN_ORDER,
    SCATTERED,
    far_bytes,
    handed_ns,
    priced,
    shared_tasks,
)
from lucid.kernels.algorithms.tile import Tile
from lucid.kernels.algorithms.winograd_layout import Blocking, Form, Shape
from lucid.kernels.algorithms.winograd_transforms import Summed
from lucid.kernels.isa import ISA
from lucid.kernels.plan import mean_ns, two_threads_ns

_ITEM_BYTES = 4
TASKS = 8  #: wanted of a problem that has work for them

# Least squares over 301 plans of random layers, rounded, on one thread of a core at 4 GHz with two vector products a
# cycle: half of them are within 7 %, four fifths within 17 %. What was too rare there is measured by itself.
CALL_NS = {1: 8000.0, 2: 20000.0}  # by the turns of a vector; 3000 alone, but two threads wait for each other
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
#: Of filters alone on a Zen 4: half of 170 sets of them are within a fifth, nine tenths from 0.58 to 1.28.
_FILTERS_NS = {
    "weight": 0.18,  # read, and put in order
    "turned weight": 0.36,
    "filter line": 0.25,
    "partial filter": 0.08,
    "filter to third cache": 0.037,
    "filter to memory": 0.037,
}
_LESS, _NOTABLE = 0.85, 0.025  #: of a wait takes clearly less time; of one thread's time two wait notably


def sums_room(form: Form, tile: Tile) -> int:
    """Rows whose sums of a span take a quarter of the second level cache."""
    return target.cpu().l2_bytes // 4 // (form.points * form.planes.result * tile.columns * _ITEM_BYTES)


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
        "sum beyond its part": sums if 2 * tile.rows > 3 * sums_room(form, tile) else 0,
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


def expected_ns(sizes: Shape, form: Form, cut: Blocking, isa: ISA) -> float:
    """Time of one thread, beside that for moving the operands."""
    work = _work(sizes, form, cut, isa)
    turns = target.cpu().turns(isa)
    return CALL_NS[turns] + sizes.groups * priced(work, _COST_NS, _HALVED_NS, turns)


def filters_made_ns(sizes: Shape, form: Form, cut: Blocking, isa: ISA) -> float:
    """Time of one thread to transform the filters of a group, which is a task for every tile of rows.

    In what is expected it is less: that was fitted as a whole, mostly to layers that spend little on filters.
    """
    work = {unit: count for unit, count in _work(sizes, form, cut, isa).items() if unit.startswith(_OF_FILTERS)}
    if target.cpu().turns(isa) == 1:
        return priced(work, _COST_NS, _HALVED_NS, 1)
    rows = ceil(sizes.rows / cut.tile.rows) * cut.tile.rows
    work["turned weight" if sizes.flipped else "weight"] = sizes.sources * rows * sizes.packed_taps
    return sum(count * _FILTERS_NS.get(unit, 0.0) for unit, count in work.items())


def moving_ns(traffic_bytes: int) -> float:
    """Time of one thread for the operands."""
    return traffic_bytes * _BYTE_NS + far_bytes(traffic_bytes) * _FAR_BYTE_NS


def shared_ns(sizes: Shape, form: Form, cut: Blocking, isa: ISA, expected_ns: float) -> float:
    """The mean over one thread and two."""
    tasks = told_tasks(sizes, form, cut, isa, expected_ns)
    return mean_ns(expected_ns, two_threads_ns(expected_ns, tasks, *waits_ns(sizes, form, cut, isa)))


def waits_ns(sizes: Shape, form: Form, cut: Blocking, isa: ISA) -> tuple[float, float]:
    """What one thread takes while another waits, and two threads' wait for lines that the other has written."""
    apart = works_apart(sizes, form, cut, isa)
    return _alone_ns(sizes, form, cut, isa, apart), 0.0 if apart else _waited_ns(sizes, form, cut)


def _alone_ns(sizes: Shape, form: Form, cut: Blocking, isa: ISA, apart: bool) -> float:
    """What one thread takes while another waits: for filters of a single tile of rows, for the last of a few spans.

    Or beside another that does the same: where each makes all filters or, if rows come first, all patches.
    """
    if cut.rows_first:
        return patches_made_ns(sizes, form, cut, isa) if apart else 0.0
    filters_ns = filters_made_ns(sizes, form, cut, isa)
    single_ns = sizes.groups * filters_ns if apart or sizes.groups * ceil(sizes.rows / cut.tile.rows) == 1 else 0.0
    if cut.halved or not _few_spans(sizes, form, cut):
        return single_ns
    vectors = ceil(sizes.tiles(form) / cut.tile.lanes)
    missing = -vectors % cut.tile.vectors
    waited = cut.tile.vectors - missing if ceil(vectors / cut.tile.vectors) % 2 else missing
    products_ns = expected_ns(sizes, form, cut, isa) - CALL_NS[target.cpu().turns(isa)] - filters_ns
    return single_ns + products_ns * waited / vectors


def patches_made_ns(sizes: Shape, form: Form, cut: Blocking, isa: ISA) -> float:
    """Time of one thread to gather all patches and to transform them."""
    once_ns, twice_ns = (expected_ns(sizes, form, replace(cut, row_parts=parts), isa) for parts in (1, 2))
    return twice_ns - once_ns


def works_apart(sizes: Shape, form: Form, cut: Blocking, isa: ISA) -> bool:
    """Whether few threads make all patches each, where rows come first and vectors take turns, or all filters.

    They do where to wait for the other's half takes longer than to make it (of patches, than to make all: they are
    read again for every tile of rows), and a copy for each leaves most of the last cache to others. Each then has one
    run of the tasks, so the wait must be worth it. Where rows are in parts a thread reads few filters of the others'.
    """
    if target.cpu().turns(isa) == 1 or cut.row_parts > 1:
        return False
    copy_bytes, waited_ns = 2 * _handed_bytes(sizes, form, cut), _waited_ns(sizes, form, cut)
    small = far_bytes(2 * copy_bytes) == 0
    if cut.rows_first:
        fits = copy_bytes <= target.cpu().l2_bytes
        return fits or (small and patches_made_ns(sizes, form, cut, isa) < _LESS * waited_ns)
    if not small or waited_ns <= _NOTABLE * expected_ns(sizes, form, cut, isa):
        return False
    return sizes.groups * filters_made_ns(sizes, form, cut, isa) / 2 < _LESS * waited_ns


def _few_spans(sizes: Shape, form: Form, cut: Blocking) -> bool:
    """Whether threads share a few spans, of which the last may be short."""
    return not cut.rows_first and sizes.groups * cut.row_parts == 1 and 1 < span_count(sizes, form, cut) < TASKS


def _waited_ns(sizes: Shape, form: Form, cut: Blocking) -> float:
    """What a thread waits if half of the patches, where rows come first, or of the filters is the other's."""
    return handed_ns(_handed_bytes(sizes, form, cut), IN_ORDER if cut.rows_first else SCATTERED)


def _handed_bytes(sizes: Shape, form: Form, cut: Blocking) -> float:
    """Half of the patches, or of the filters."""
    rows, columns = (
        ceil(size / tile) * tile for size, tile in ((sizes.rows, cut.tile.rows), (sizes.tiles(form), cut.tile.lanes))
    )
    unit, wide = ("patch", columns) if cut.rows_first else ("filter", rows)
    planes: int = getattr(form.planes, unit)
    return _ITEM_BYTES * sizes.groups * form.points * planes * sizes.channels * wide / 2


def task_count(sizes: Shape, form: Form, cut: Blocking) -> int:
    """Of the step with the products."""
    spans = span_count(sizes, form, cut)
    return sizes.groups * (ceil(sizes.rows / cut.tile.rows) if cut.rows_first else spans * cut.row_parts) + cut.halved


def span_count(sizes: Shape, form: Form, cut: Blocking) -> int:
    return ceil(sizes.tiles(form) / cut.tile.columns)


def told_tasks(sizes: Shape, form: Form, cut: Blocking, isa: ISA, expected_ns: float) -> int:
    """What a plan says of them; nothing where it says what one thread takes alone."""
    told = target.cpu().turns(isa) > 1 and _few_spans(sizes, form, cut)
    return 0 if told else shared_tasks(expected_ns * GHZ, task_count(sizes, form, cut))
