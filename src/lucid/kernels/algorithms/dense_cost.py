"""What a dense convolution is expected to cost as an implicit matrix product: its work in units, a price for each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import ceil, gcd, log2, prod
from typing import NamedTuple

from lucid.kernels import target
from lucid.kernels.algorithms import pixel_panels
from lucid.kernels.algorithms.base import priced, turns_of
from lucid.kernels.algorithms.dense_layout import (
    Blocking,
    Cut,
    Shape,
    packed_elements,
    phases_follow,
    row_blocks,
    weight_run,
    woven,
)
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.past_caches import gains
from lucid.kernels.algorithms.pixel_panels import Layout, Phase
from lucid.kernels.algorithms.tile import LAST, AnyTile, ChannelTile, cover_products, last_steps
from lucid.kernels.plan import Problem

# Least squares over 640 plans of 420 random layers on one thread of a Zen 5 with AVX-512 at 4 GHz, which issues two
# vector products a cycle; half of them are within 5 %, four fifths within 15 %. All are in ns.
CALL_NS = {1: 1350.0, 2: 1900.0}  # by the turns of a vector
#: A byte of x, w and y, up to half the third level cache and beyond.
_NEAR_BYTE_NS, _FAR_BYTE_NS = 0.0033, 0.03
_PAST_BYTE_NS = 0.022  # a far one of y, where y goes past the caches, on a Zen 4
_PAIR_READS = 1.2  # two channels read at once, as so many
_COST_NS = {
    "product": 0.116,  # of vectors
    "panel": 0.043,  # a vector of a panel, read for a tile
    "plane": 0.05,  # the same of x itself: each channel lies in pages of its own
    "crossing": 0.0,  # a line of a large x in place that a second thread reads
    "awaited": 1.5,  # a line of the cache of x, read in place from afar
    "skipping": 1.2,  # one of a row of x between rows that are skipped, which no machine guesses
    "page": 0.55,  # of x in place, whose place the machine must look up
    "plane from third cache": 0.14,
    "plane from memory": 0.7,
    "vector": 8.0,  # of positions: where it lies in the result, by division
    "piece": 5.0,  # a row's part of a vector
    "entry": 3.8,  # of the table of samples: a piece and a tap
    "gather": 0.8,  # a vector of a panel
    "widen": 1.2,  # the same of half precision, before it is one of numbers
    "copy widened": 1.3,  # a vector of halves into a copy of x
    "widen in place": 0.0,  # a vector of halves of x itself, by a tile: beside its products
    "read": 0.39,  # a vector of x for it, and a shuffle
    "pick": 0.32,  # a shuffle more for every doubling of the taps that are read at once
    "copy": 3.5,  # a vector of single samples
    "tile": 9.1,
    "tile of few": 9.1,  # sums
    "visit": 0.1,  # a vector of sums, to memory or from it
    "visit at once": 0.1,  # of sums that leave as they are made
    "visit from third cache": 3.0,  # where they wait for more channels and do not fit the second
    "round": 0.07,  # an element on its way out
    "ending": 8.8,  # a tile whose sums do not lie in the result as in memory
    "stretch": 3.3,  # a row of the result's positions in a tile's rows
    "line": 0.6,  # a row of the result
    "woven": 0.56,  # a vector of stacked phases that leave the tile as lines
    "place": 0.0,  # where a vector of each of a tile's channels goes, after few steps
    "brief": 0.0,  # a tile of few steps, which are done before its results have left
    "brief astride": 0.0,  # one whose results straddle lines of the cache
    "interleaved": 0.07,  # an element of a line of stacked phases
    "single": 0.27,  # an element that is stored alone, as its neighbours belong to other phases
    "square": 1.0,  # a vector of a turned tile: part of a line in each of as many rows
    "copied": 1.0,  # a vector of any other
    "row past": 0.0,  # a row of a tile over x in place, which leaves past the caches: its end waits for the next tile
    "read back": 0.0,  # one of a tile that is wider than what is left of its line: it was just stored
    "line from third cache": 0.26,  # one that another phase has written to, met again
    "line from memory": 1.2,
    "task": 60.0,
    "weight from second cache": 0.014,
    "weight from memory": 0.06,
    "weight copied": 0.05,  # packed, rows side by side
    "vector copied": 0.0,  # of a tile's rows, for each step
    "line copied": 0.0,  # of the cache, of those that such rows touch, from beyond the second
    "weight turned": 0.11,  # taps side by side
    "weight picked": 0.42,  # neither
    "weight line": 0.0,  # of the cache, of rows' weights that lie side by side: each phase asks for all of them
    "weight picked far": 0.75,  # the same from beyond the second cache, of whose lines a phase uses a part
}
#: The same where they are others, on a Zen 4: vectors of 64 bytes are computed in halves.
_HALVED_NS = {
    "tile": 6.0,
    "product": 0.275,
    "widen in place": 0.12,
    "visit": 0.4,
    "visit at once": 0.05,
    "tile of few": 3.0,
    "widen": 0.3,
    "read": 0.7,
    "row past": 1.0,
    "read back": 2.0,
    "awaited": 8.0,
    "crossing": 2.0,
    "vector copied": 1.5,
    "line copied": 4.0,
    "weight line": 1.0,
    "place": 5.0,
    "brief": 7.5,
    "brief astride": 22.0,
    "line from third cache": 1.5,
    "line from memory": 6.0,
}
_LINE_BYTES = 64
_L2_WAYS, _L3_WAYS = 16, 16
_PAGE_BYTES = 4096  # as the machine's table has them, since a host's may be small where the system's are large
_PAGES = 56  #: of x whose places are at hand: of 64 or 72, beside those of weights and results
#: Rows of a result from which the machine guesses the next lines, and what is then left of waiting for them.
_LONG_ROW_LINES, _GUESSED = 64, 0.4
#: What lines of the second cache keep a turned tile at, in vector products: of weights, one after the other, and of x.
_WEIGHTS_HOLD, _SAMPLES_HOLD = 3.0, 8.0
#: Steps of a tile between visits to its sums: long enough to hide them, short enough for weights in the first cache.
MOST_STEPS = 1280
_CROWDED = 26  # sums, beside more of which registers are short for the vectors of a tile's last steps
_PACKED_LINE_NS = 3.0  #: a line of packed weights, half of which another thread wrote; ten times as much at times
_BRIEF_STEPS = 4  #: of a tile that is done before its results have left


def traffic_ns(problem: Problem) -> float:
    """Time of one thread for x, w and y, beyond what the gather and the tiles take."""
    far = _far_bytes(problem)
    return (problem.traffic_bytes - far) * _NEAR_BYTE_NS + far * _FAR_BYTE_NS


def _far_bytes(problem: Problem) -> int:
    return max(0, problem.traffic_bytes - target.cpu().l3_bytes // (4 if target.cpu().fetches_overwritten else 2))


def saved_ns(problem: Problem) -> float:
    """What one thread saves of that where results go past the caches."""
    written = min(problem.written_bytes, _far_bytes(problem))
    return written * (_FAR_BYTE_NS - _PAST_BYTE_NS) if target.cpu().fetches_overwritten else 0.0


def ns(work: dict[str, float], turns: int = 1) -> float:
    """Time of one thread for so many of the units of ``_COST_NS``; of some it depends on the turns of a vector."""
    return priced(work, _COST_NS, _HALVED_NS, turns)


class Times(NamedTuple):
    """What a phase takes one thread, in ns: once, for every part of the rows, if there are several, if sums are far."""

    once: float
    part: float
    parted: float
    far: float
    heights: int
    waiting_bytes: int  #: of each height

    def of(self, row_parts: int) -> float:
        """With the rows in so many parts."""
        far = self.waiting_bytes * ceil(self.heights / row_parts) > target.cpu().l2_bytes // 2
        return self.once + row_parts * self.part + (row_parts > 1) * self.parted + far * self.far


class Rates(NamedTuple):
    """What a phase takes one thread with a tile, in ns, however its loops are cut."""

    sizes: Shape
    layout: Layout
    tile: AnyTile
    heights: int
    once: float
    across: float  #: a vector product of each row of tiles
    block: float  #: a block of channels
    far: float  #: the same, if sums wait in the third cache
    crossing: float  #: x in place, read by another thread too
    gathered: float  #: a position of a line, or of a halo
    span: float  #: all weights, read where they are packed beforehand
    own_span: float  #: the same where the task has just packed them
    packing: float

    @classmethod
    def of(cls, sizes: Shape, layout: Layout, tile: AnyTile, alone: bool = True) -> Rates:
        """From the units of ``_COST_NS``; unless ``alone`` it shares packed weights, which are paid elsewhere."""
        heights, groups = row_blocks(sizes, tile), sizes.groups
        tiles = groups * layout.units * layout.lines * ceil(layout.line / tile.columns) * heights
        steps, stored = sizes.elements * layout.taps, tiles * tile.accumulators
        weights, met = groups * heights * tile.rows * steps, groups * heights * steps * layout.met_part
        rows = layout.units * met
        turns = turns_of(tile.lanes, sizes.grain.sums)
        visit = _visit(sizes, layout, tile, turns)
        cost = partial(ns, turns=turns)
        return cls(
            sizes,
            layout,
            tile,
            heights,
            once=cost(
                {
                    _samples_home(sizes, layout, tile): rows * tile.loads(layout.unit),
                    "widen in place": rows * tile.loads(layout.unit) * (_reads_x(layout) and sizes.grain.widened),
                    visit: -stored,
                    "page": rows * ceil(layout.unit / tile.columns) * _page_part(sizes, layout, tile),
                    "awaited": _awaited(sizes, layout, turns),
                    "skipping": _skipping(sizes, layout),
                    **_leaving(sizes, layout, tile, tiles, turns),
                }
            ),
            across=cost({"product": rows * _held_up(sizes, layout, tile)}),
            block=cost({"tile of few" if _few(sizes, layout, tile) else "tile": tiles, visit: 2 * stored}),
            far=cost({"visit from third cache": stored}),
            crossing=cost({"crossing": _crossing(sizes, layout)}),
            gathered=groups * layout.units * gathered_ns(layout, tile.lanes, sizes.elements, sizes.grain),
            span=(turns if far(sizes, weights) else 1)
            * cost({_asked_weights_home(sizes, layout, tile, weights): met * tile.rows}),
            own_span=cost({"weight from second cache": met * tile.rows}),
            packing=packing_ns(sizes, layout.phase, tile) if alone else 0.0,
        )

    @property
    def least(self) -> float:
        """What every cut takes."""
        tile, layout = self.tile, self.layout
        across = cover_products(tile, tile.rows, layout.unit)
        samples = self.gathered * layout.lines * layout.pitch
        return self.once + self.across * across + self.block + samples + self.own_span * layout.units + self.packing

    def times(self, cut_up: Blocking) -> Times:
        """Whatever the parts of the rows."""
        tile, layout, cut, sizes = self.tile, self.layout, Cut.of(self.layout, cut_up), self.sizes
        run, blocks = min(cut.span, layout.line), ceil(sizes.channels / cut_up.channels)
        last = layout.unit - (cut.unit_spans - 1) * cut.span if run == cut.span else run
        across = cover_products(tile, tile.rows, last)
        runs = cut.unit_spans if run == cut.span else ceil(layout.unit / run)
        across += (runs - 1) * cover_products(tile, tile.rows, run)
        packings, span = (cut.spans, self.own_span) if cut_up.lazy else (1, self.span)
        return Times(
            self.once + self.across * across + self.block * blocks + cut.spans * span + packings * self.packing,
            self.gathered * cut.samples + sizes.groups * cut.spans * _COST_NS["task"],
            self.crossing,
            self.far * (blocks - 1),
            self.heights,
            cut.span * tile.rows * sizes.itemsize,
        )


def _reads_x(layout: Layout) -> bool:
    """Whether tiles read x itself."""
    return layout.in_place and not layout.widened


def _visit(sizes: Shape, layout: Layout, tile: AnyTile, turns: int) -> str:
    """What a visit to a tile's sums is called: whether they leave as they are made, or wait for each other.

    Rows that go past the caches wait for the next tile, and all of them leave after the last step, which holds up tiles
    of gathered samples. Wide tiles gain little by two steps.
    """
    apart = last_steps(tile, sizes.elements * layout.taps, turns) == LAST and tile.accumulators <= _CROWDED
    held_up = not layout.in_place and _past(sizes, layout, tile)
    return "visit at once" if _few(sizes, layout, tile) or (apart and not held_up) else "visit"


def _few(sizes: Shape, layout: Layout, tile: AnyTile) -> bool:
    """Whether a tile has few sums, which leave beside other products.

    Over x in place more of them go past the caches as fast, and read x less often.
    """
    return tile.few and not (layout.in_place and _past(sizes, layout, tile))


def _past(sizes: Shape, layout: Layout, tile: AnyTile) -> bool:
    """Whether rows of sums may leave past the caches."""
    if sizes.stack > 1 or sizes.rows % tile.rows or not pixel_panels.contiguous(layout.phase):
        return False
    written_bytes = sizes.batch * sizes.groups * sizes.rows * sizes.out_plane * sizes.grain.stored.bytes
    return gains(written_bytes, sizes.grain.stored, target.isa())


def _held_up(sizes: Shape, layout: Layout, tile: AnyTile) -> float:
    """How many times as long a tile takes, whose lines of x come from the second cache, a channel's from its own pages.

    Neighbouring taps find the same lines in the first cache.
    """
    if not layout.lines_in_place:
        return 1.0
    assert isinstance(tile, ChannelTile)
    lines = tile.columns * tile.step * sizes.itemsize / _LINE_BYTES + 0.5
    read = _WEIGHTS_HOLD * tile.vectors + _SAMPLES_HOLD * lines / max(1, len(layout.phase[2].offsets))
    return max(1.0, read / tile.accumulators)


def _crossing(sizes: Shape, layout: Layout) -> float:
    """Lines of x in place that a thread finds with another, where each has a part of the rows and so reads all of x.

    In a network it has just been written, half of it by the other thread. Of what a second cache holds little is won.
    """
    x_bytes = sizes.batch * sizes.groups * sizes.channels * sizes.plane * sizes.itemsize
    return x_bytes / _LINE_BYTES if layout.shared == pixel_panels.IN_PLACE and x_bytes > target.cpu().l2_bytes else 0.0


def _awaited(sizes: Shape, layout: Layout, turns: int) -> float:
    """Lines of the cache that come from afar while a tile reads them, or a copy is made: nobody asks for them ahead.

    Where vectors take two turns, results count as well: between two calls they drive samples out.
    """
    of_image = sizes.batch * sizes.groups * sizes.itemsize
    x_bytes = of_image * sizes.channels * sizes.plane
    y_bytes = of_image * sizes.rows // sizes.stack * sizes.out_plane if turns > 1 else 0
    far = layout.lines_in_place and x_bytes + y_bytes > target.cpu().l3_bytes // 4
    return x_bytes / _LINE_BYTES if far else 0.0


def _skipping(sizes: Shape, layout: Layout) -> float:
    """Lines of the cache of the rows that are gathered, where steps are longer than windows."""
    z, y, x = layout.phase
    if layout.in_place or y.step <= len(y.offsets):
        return 0.0
    rows = sizes.batch * sizes.groups * sizes.channels * z.positions * y.positions * len(y.offsets)
    return rows * x.size * sizes.itemsize / _LINE_BYTES


def gathered_ns(layout: Layout, lanes: int, elements: int, grain: Grain) -> float:
    """Time for all samples of a position: its part of the table, then every tap of so many channels, or pairs."""
    if layout.shared == pixel_panels.LINES_IN_PLACE:
        return 0.0
    if layout.widened:
        return elements / lanes * ns({"copy widened": 1.0}, turns_of(lanes, grain.sums))
    x = layout.gathered[2]
    read = pixel_panels.reading(x, lanes)
    samples = {
        "gather": 1.0,
        "widen": float(grain.widened),
        "read": read.step / read.taps,
        "pick": log2(read.taps),
        "copy": 0.0 if read.step else 1.0,
    }
    passes = max(1.0, 0.5 + 0.5 * lanes / x.positions)
    entries = layout.gathered_taps * passes / lanes
    cost = partial(ns, turns=turns_of(lanes, grain.sums))
    table = cost({"vector": 1 / lanes, "piece": 1 / x.positions, "entry": entries / read.taps})
    return table + entries * elements * (_PAIR_READS if grain.depth > 1 else 1) * cost(samples)


def _samples_home(sizes: Shape, layout: Layout, tile: AnyTile) -> str:
    """Where a tile's samples are; residues make so many rows of tiles that all but the first find them in a cache.

    Channels a power of two apart share ways of the second one, and wait in the third where those are too few. Of two
    threads each finds half of the third one's; where these are too few, every row of tiles waits for memory.
    """
    if not _reads_x(layout):
        return "panel"
    apart, l2_bytes, l3_bytes = sizes.plane * sizes.grain.stored.bytes, target.cpu().l2_bytes, target.cpu().l3_bytes
    if turns_of(tile.lanes, sizes.grain.sums) > 1 and sizes.channels * gcd(apart, l3_bytes // _L3_WAYS) > l3_bytes // 2:
        return "plane from memory"
    stays = sizes.channels * gcd(apart, l2_bytes // _L2_WAYS) <= l2_bytes
    return "plane" if stays or sizes.stack == 1 else "plane from third cache"


def _page_part(sizes: Shape, layout: Layout, tile: AnyTile) -> float:
    """The part of a tile's steps that wait for the place of a page of x in place: of more channels than are at hand.

    Twelve products of half a line each do not hide it, as 24 of a line in two turns do.
    """
    vector_bytes, page = tile.lanes * sizes.grain.sums.bytes, sizes.plane * sizes.grain.stored.bytes / _PAGE_BYTES
    short = vector_bytes == target.cpu().unit_bytes == _LINE_BYTES // 2
    many = sizes.channels * min(1.0, page) > _PAGES
    return min(1.0, page) if layout.shared == pixel_panels.IN_PLACE and short and many else 0.0


def _leaving(sizes: Shape, layout: Layout, tile: AnyTile, tiles: int, turns: int) -> dict[str, float]:
    """How sums come from their tiles to the result."""
    z, y, x = layout.phase
    if pixel_panels.contiguous(layout.phase) and not tile.over_channels:
        at_once = sizes.stored_whole or sizes.elements * layout.taps <= MOST_STEPS
        rounded = 0 if at_once else tiles * tile.accumulators * tile.lanes
        past = tiles * tile.rows * (layout.in_place and _past(sizes, layout, tile))
        work: dict[str, float] = {"round": rounded, "read back": _read_back(sizes, layout, tile), "row past": past}
        if layout.in_place and sizes.elements * layout.taps <= _BRIEF_STEPS:
            work["brief astride" if sizes.out_plane * sizes.grain.stored.bytes % _LINE_BYTES else "brief"] = tiles
        return work | _over_ends(layout, tile, tiles)
    if woven(sizes, layout, tile.lanes) and sizes.elements * layout.taps <= MOST_STEPS:
        results = sizes.batch * sizes.groups * sizes.rows * pixel_panels.positions(layout.phase)
        places = results / tile.lanes * sizes.stack / min(tile.rows, sizes.rows)
        brief = sizes.elements * layout.taps <= _BRIEF_STEPS
        return {"woven": results / tile.lanes, "place": places * brief}
    stretches = sizes.batch * sizes.groups * z.positions * y.positions
    lines = stretches * sizes.rows // sizes.stack
    work = {"ending": tiles, "stretch": stretches * row_blocks(sizes, tile), "line": lines}
    vectors = ceil(x.positions / tile.lanes)
    if sizes.stack > 1:
        return work | {"interleaved": lines * x.positions * sizes.stack}
    if x.out_step > 1:
        return work | {"single": lines * x.positions} | _met_again(sizes, layout.phase, tile, lines, turns)
    if tile.over_channels:
        return work | {"square": stretches * ceil(sizes.rows / tile.lanes) * tile.lanes * vectors}
    return work | {"copied": lines * vectors}


def _read_back(sizes: Shape, layout: Layout, tile: AnyTile) -> int:
    """Vectors of the last tiles of lines that end within one of theirs, which waits for its sums to be stored.

    Of short lines every tile is one. Over x in place the last tile begins earlier.
    """
    if layout.in_place or layout.line % tile.lanes == 0:
        return 0
    vectors = ceil((layout.line % tile.columns) / tile.lanes)
    return sizes.groups * layout.units * layout.lines * row_blocks(sizes, tile) * tile.rows * vectors


def _over_ends(layout: Layout, tile: AnyTile, tiles: int) -> dict[str, float]:
    """What tiles cost that positions of two images share, where a unit is the whole batch."""
    image = pixel_panels.positions(layout.phase)
    if layout.unit <= image:
        return {}
    over = tiles * min(1.0, tile.columns / image)
    return {"ending": over, "stretch": 2 * over, "copied": over * (tile.accumulators + tile.rows)}


def _met_again(sizes: Shape, phase: Phase, tile: AnyTile, lines: int, turns: int) -> dict[str, float]:
    """Lines of the cache that each phase of the last axis writes to, where they do not wait in the second one.

    On a Zen 4 stores wait for each other, so that a line costs as much as it takes to come, unless rows are so long
    that the machine asks for it; of results of many megabytes not half wait in the third cache. Where a span's phases
    follow each other the first one's lines are still in the second cache.
    """
    stored_bytes, half, x = sizes.grain.stored.bytes, target.cpu().l3_bytes / 2, phase[-1]
    weights = row_blocks(sizes, tile) * tile.rows * sizes.elements * pixel_panels.taps(phase)
    follow = turns > 1 and phases_follow(weights * prod(axis.out_step for axis in phase) * sizes.itemsize)
    row_lines = ceil(x.positions * x.out_step * stored_bytes / _LINE_BYTES)
    touched: float = lines * min(x.positions, row_lines)
    result_bytes = sizes.batch * sizes.groups * sizes.rows * sizes.out_plane * stored_bytes
    if result_bytes < target.cpu().l2_bytes // 2:
        return {}
    if turns > 1:
        half /= 4
        touched *= (_GUESSED if row_lines > _LONG_ROW_LINES else 1) / (x.out_step if follow else 1)
    far = max(0.0, 1 - half / result_bytes)
    return {"line from third cache": touched * (1 - far), "line from memory": touched * far}


def weights_home(sizes: Shape, weights: int) -> str:
    """What a weight of so many costs to read: where they are."""
    near = weights * sizes.itemsize < target.cpu().l2_bytes * sizes.groups
    return "weight from second cache" if near else "weight from memory"


def far(sizes: Shape, weights: int) -> bool:
    """Whether the third cache may not keep so many weights from one span to the next, as others have a part of it.

    Of 14 MB read anew for each of eight spans a Zen 4 waits a fifth of the time.
    """
    return weights * sizes.itemsize > target.cpu().l3_bytes // 4


def many(sizes: Shape, weights: int) -> bool:
    """Whether the second caches of all cores do not hold so many weights, which thus wait in the third.

    Turned tiles that ask for them are 1.03 to 1.22 times as fast there on a Zen 4; where they are near, 0.99 to 1.00.
    """
    return weights * sizes.itemsize > 2 * target.cpu().l2_bytes


def _asked_weights_home(sizes: Shape, layout: Layout, tile: AnyTile, weights: int) -> str:
    """The same of tiles over x in place, which are ready before their weights where products take no turns."""
    asked = layout.in_place and not tile.over_channels and turns_of(tile.lanes, sizes.grain.sums) > 1
    return "weight from second cache" if asked and not far(sizes, weights) else weights_home(sizes, weights)


def packing_ns(sizes: Shape, phase: Phase, tile: AnyTile) -> float:
    """Time to pack a phase's weights."""
    weights = sizes.groups * row_blocks(sizes, tile) * tile.rows * sizes.elements * pixel_panels.taps(phase)
    how, far = packed_by(sizes, phase), weights_home(sizes, weights) == "weight from memory"
    part = how == "picked" and sizes.stack == 1  # of every line; residues side by side take all of it
    rows = sizes.groups * row_blocks(sizes, tile) * tile.rows * sizes.elements
    asked = rows * sizes.row_step * sizes.grain.stored.bytes / _LINE_BYTES
    lines = asked if part and sizes.row_step < sizes.channel_step else 0.0
    work = {f"weight {how} far" if part and far else f"weight {how}": weights, "weight line": lines}
    if how == "copied":
        work |= _copied(sizes, tile, weights)
    return ns(work, turns_of(tile.lanes, sizes.grain.sums))


def _copied(sizes: Shape, tile: AnyTile, weights: int) -> dict[str, float]:
    """What a tile's rows cost that lie side by side, as each step's are a page from the last one's.

    Tiles whose rows are half a line fetch it twice: until the second is packed, others have driven it out.
    """
    steps, near_bytes = weights / tile.rows, sizes.groups * target.cpu().l2_bytes * 0.6
    far = max(0.0, 1 - near_bytes / (weights * sizes.itemsize))
    lines = max(1.0, tile.rows * sizes.grain.stored.bytes / _LINE_BYTES)
    return {"vector copied": steps * ceil(tile.rows / tile.lanes), "line copied": far * steps * lines}


def shared_packing_ns(sizes: Shape, whole: Sequence[Phase], tile: AnyTile) -> float:
    """Time to pack the weights that regions share, and to send them where all find them."""
    taps = sum(map(pixel_panels.taps, whole))
    weights = sizes.groups * row_blocks(sizes, tile) * tile.rows * sizes.elements * taps
    return sum(packing_ns(sizes, phase, tile) for phase in whole) + ns({weights_home(sizes, weights): weights})


def awaited_weights_ns(sizes: Shape, cut_up: Blocking, whole: Sequence[Phase]) -> float:
    """What turned tiles wait for weights that another thread packed, on average over one thread and two.

    It is weighed beside cuts of which each task packs its own, and is part of no expected time.
    """
    if cut_up.lazy or not cut_up.tile.over_channels:
        return 0.0
    weights = packed_elements(sizes, cut_up, sum(map(pixel_panels.taps, whole)))
    return weights * sizes.itemsize / _LINE_BYTES * _PACKED_LINE_NS


def packed_by(sizes: Shape, phase: Phase) -> str:
    """How weights come to lie as a tile reads them."""
    length, step = weight_run(sizes, pixel_panels.weights(phase))
    if sizes.stack > 1 or not length or 1 not in (step, sizes.row_step):
        return "picked"
    return "copied" if sizes.row_step == 1 else "turned"
