"""The dense weight gradient tap by tap: each over those pixels alone where it meets a sample of x.

Where padding is large beside the size, ``weight_grad`` multiplies zeros for the most part. Here each tap is the 1 x 1
gradient of its own pixels, which are a box along every axis::

    size 8, kernel 3, dilation 4, padding 4      pixel   0 1 2 3 4 5 6 7
                                                 tap 0   . . . . x x x x
                                                 tap 1   x x x x x x x x
                                                 tap 2   x x x x . . . .

All that it reads of x are samples, so there is no frame: x is read where it lies. The kernels, tables and the order of
sums are those of ``weight_grad``, whose list of taps is one of as many here: the boxes of one tap follow those of the
last, and its sums are every so many of the part's. g is packed anew for every tap, which many channels of x pay for.
Half precision is widened by the tile as it reads x, a number at a time. Before its first box a part adds up its
channels of the operand whose sum is the bias's gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise, product
from math import ceil, prod

import numpy as np

from lucid.core.geometry import Sizes
from lucid.kernels import target
from lucid.kernels.algorithms import weight_grad_kernel as kernel
from lucid.kernels.algorithms import weight_grad_split as usual
from lucid.kernels.algorithms.base import GHZ, Executable, address, shared_tasks, sum_type, turns_of, useful_threads
from lucid.kernels.algorithms.depthwise_sums import rows_adder
from lucid.kernels.algorithms.frames import Array, Window, grid
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, Launch, in_order
from lucid.kernels.plan import Plan, Problem

name = "tap_by_tap"
roles = ("grad_weight",)
dtypes = ("float32", "float64", "float16", "bfloat16")

_SAVES = 0.05  #: of the products, or it is not thought of
_MOST_BOXES = 1 << 12
_BOX = ("box_n", "box_h", "box_w")
_LINE = 64
#: Of what the kernels are told: frames, sums of g by panels, results straight in gw, rows of what is summed.
_UNUSED = (
    "sums_g", "straight", "swapped", "tile_out", "apart", "box_n", "frame_d", "frame_h", "frame_w", "sum_plane",
    "sum_row", "staged", "stage", "staged_row", "staged_pitch",
)  # fmt: skip


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Padding that is little beside the size, and so many boxes that their table would be large."""
    all_pairs = prod(problem.out) * problem.spec.taps
    if problem.spec.pairs(problem.size) > (1 - _SAVES) * all_pairs:
        return "few of its products are with padding"
    if problem.spec.taps * problem.batch * problem.out[0] > _MOST_BOXES:
        return f"its taps have more than {_MOST_BOXES} boxes of pixels"
    return None


def least_ns(problem: Problem, isa: ISA) -> float:
    """Its products at the full rate."""
    pairs = problem.batch * problem.spec.pairs(problem.size)
    return pairs * problem.groups * problem.group_out * problem.group_in / isa.lanes(sum_type(problem)) / 2 / GHZ


@dataclass(frozen=True, slots=True)
class Box:
    """Pixels of one tap: some images, one plane, some lines of it, some columns of these; none if there is no image."""

    tap: Sizes
    first: Sizes  #: image, plane, line, column
    images: int
    lines: int
    columns: int

    @property
    def pixels(self) -> int:
        """How many there are."""
        return self.images * self.lines * self.columns


@dataclass(frozen=True)
class Split:
    """Channels of a part and the most pixels of a box."""

    problem: Problem
    tile: usual.Tile
    lanes: int
    k_part: int
    c_part: int
    box: Sizes  #: images, lines, columns

    @cached_property
    def boxes(self) -> list[Box]:
        """Those of each tap follow each other."""
        return _boxes(self.problem, self.box)

    @property
    def wide(self) -> int:
        """Channels of a panel."""
        return self.tile.vectors * self.lanes

    @property
    def padded(self) -> int:
        """Channels of all panels."""
        return ceil(self.k_part / self.wide) * self.wide

    @property
    def passes(self) -> int:
        """Tiles of a tap."""
        return ceil(self.c_part / self.tile.steps)

    @property
    def sums(self) -> int:
        """Steps of all taps, the last tile of each filled up."""
        return self.passes * self.tile.steps * self.problem.spec.taps

    @property
    def sums_at(self) -> int:
        """Where the sums of one operand begin behind those of products, a vector a channel."""
        return self.padded // self.wide * (self.sums + 1) * self.wide

    @property
    def parts(self) -> int:
        """Tasks."""
        return (
            self.problem.groups * ceil(self.problem.group_out / self.k_part) * ceil(self.problem.group_in / self.c_part)
        )

    @property
    def sub(self) -> int:
        """Pixels of a piece of a panel."""
        return usual.piece(prod(self.box), self.wide * sum_type(self.problem).bytes)

    @property
    def room(self) -> Sizes:
        """Elements of a thread's workspace: scratch, a panel's piece, the sums and those of one operand."""
        line = _LINE // sum_type(self.problem).bytes
        of_one = (self.c_part if self.problem.transposed else self.k_part) * self.problem.bias
        parts = self.lanes * kernel.RUN * self.lanes, (self.sub + self.lanes) * self.wide
        scratch, panel, sums = (ceil(n / line) * line for n in (*parts, self.sums_at + of_one * self.lanes))
        return scratch, panel, sums

    @cached_property
    def cycles(self) -> float:
        """Of one thread."""
        return usual.cycles(_work(self), turns_of(self.lanes, sum_type(self.problem)))

    @property
    def shared_cycles(self) -> float:
        """Of all threads until the last is done, on average over numbers of threads."""
        turns = turns_of(self.lanes, sum_type(self.problem))
        return usual.waiting(self.cycles, turns, self.parts, 0) * self.cycles


def _work(split: Split) -> dict[str, float]:
    """What one thread does, in the units of ``weight_grad_split``."""
    problem, vectors = split.problem, split.padded / split.lanes
    pixels = problem.batch * problem.spec.pairs(problem.size)
    images, lines, columns = split.box
    deep, high, wide = ([end - first for first, end in spans] for spans in _met(problem))
    across = sum(deep) * sum(ceil(n / columns) for n in wide)
    boxes = max(1, ceil(problem.batch / images) * across * sum(ceil(n / lines) for n in high))
    pieces = boxes * ceil(pixels / boxes / split.sub)
    run_bytes = lines * columns * problem.itemsize
    widened = split.tile.steps * (problem.itemsize < sum_type(problem).bytes)  # cycles, beside products
    return {
        "product": split.parts * pixels * split.padded / split.wide * split.passes * max(split.tile.cycles, widened),
        "visit": split.parts * pieces * vectors * split.passes * split.tile.steps,
        "pack": split.parts * pixels * vectors,
        "run": split.parts * split.padded / usual.TURNED * max(pieces, problem.batch * across * sum(high)),
        "turn": split.parts * vectors * split.sums,
        "waiting": usual.memory_wait(problem, run_bytes),
        "call": 1,
    }


@lru_cache(maxsize=256)
def _met(problem: Problem) -> list[list[tuple[int, int]]]:
    """For every axis and tap, the pixels [first, end) where it meets a sample."""
    spec, found = problem.spec, []
    for size, out, k, s, d, (low, _) in zip(
        problem.size, problem.out, spec.kernel, spec.stride, spec.dilation, spec.padding, strict=True
    ):
        ends = [(max(0, -((t * d - low) // s)), min(out, -((t * d - low - size) // s))) for t in range(k)]
        found.append([(first, max(first, end)) for first, end in ends])
    return found


def _boxes(problem: Problem, box: Sizes) -> list[Box]:
    found: list[Box] = []
    axes = [list(enumerate(spans)) for spans in _met(problem)]
    for (tz, planes), (ty, lines), (tx, columns) in product(*axes):
        tap, images = (tz, ty, tx), _pieces(0, problem.batch, box[0])
        rows, deep = list(product(_pieces(*lines, box[1]), _pieces(*columns, box[2]))), range(*planes)
        made = [
            Box(tap, (n, z, y, x), many, high, wide)
            for (n, many), z, ((y, high), (x, wide)) in product(images, deep, rows)
        ]
        found += made or [Box(tap, (0, 0, 0, 0), 0, 1, 1)]
    return found


def _pieces(first: int, end: int, most: int) -> list[tuple[int, int]]:
    """Where pieces of about the same length begin, and how long they are."""
    count = ceil((end - first) / most)
    places = [first + (end - first) * n // count for n in range(count + 1)] if count else []
    return [(a, b - a) for a, b in pairwise(places)]


@lru_cache(maxsize=256)
def split(problem: Problem, isa: ISA) -> Split:
    """The tile that wastes least, then the split into tasks that is expected to be fastest."""
    lanes = isa.lanes(sum_type(problem))
    alone = (tile for tile in usual.tiles(isa, problem.spec) if tile.columns == 1)
    tile = usual.best_tile(alone, lanes, problem.group_out, problem.group_in)
    channels = product(
        usual.halvings(problem.group_out, tile.vectors * lanes), usual.halvings(problem.group_in, tile.steps)
    )
    made = [Split(problem, tile, lanes, k, c, (1, 1, 1)) for k, c in channels]
    small = [each for each in made if each.room[2] * sum_type(problem).bytes <= usual.SLICE_BYTES]
    return min((replace(each, box=box) for each in small or made[-1:] for box in _sizes(each)), key=_shared_cycles)


def _shared_cycles(split: Split) -> float:
    return split.shared_cycles


def _sizes(split: Split) -> Iterator[Sizes]:
    """Boxes that leave room in the second cache for the next one, and for sums."""
    problem = split.problem
    room = target.cpu().l2_bytes // 2 // sum_type(problem).bytes
    most = max(64, room // (split.padded + split.c_part * prod(problem.spec.stride)))
    columns = ceil(problem.out[2] / ceil(problem.out[2] / most))
    lines = min(problem.out[1], max(1, most // columns))
    whole = lines == problem.out[1] and columns == problem.out[2]
    yield min(problem.batch, max(1, most // (lines * columns))) if whole else 1, lines, columns


def plan(problem: Problem, isa: ISA) -> Plan:
    """The tile that wastes least, then the split into tasks that is expected to be fastest."""
    chosen = split(problem, isa)
    tile, met = chosen.tile, problem.spec.pairs(problem.size) / (prod(problem.out) * problem.spec.taps)
    return Plan(
        name,
        problem,
        isa.name,
        expected_ns=chosen.cycles / GHZ,
        tasks=shared_tasks(chosen.cycles, chosen.parts),
        tile=(("vectors", tile.vectors), ("steps", tile.steps)),
        blocking=(("k_part", chosen.k_part), ("c_part", chosen.c_part), *zip(_BOX, chosen.box, strict=True)),
        workspace_bytes=sum_type(problem).bytes * sum(chosen.room),
        why=f"{met:.0%} of the products are not with padding",
        sums_upstream=True,
    )


def _split(plan: Plan, isa: ISA) -> Split:
    """The split that was chosen."""
    box = tuple(plan[name] for name in _BOX)
    tile = usual.Tile(plan["vectors"], plan["steps"])
    return Split(plan.problem, tile, isa.lanes(sum_type(plan.problem)), plan["k_part"], plan["c_part"], box)


def _tables(split: Split) -> tuple[Array, Array]:
    """The rows of the kernel's ``BOX``, the last again for what comes after it, and the list of pixels' places in x."""
    problem, spec, before = split.problem, split.problem.spec, None
    _, height, width = problem.out
    steps = _steps(problem)
    starts: dict[Sizes, int] = {}
    summed = prod(problem.size if problem.transposed else problem.out)
    lists: list[Array] = []
    rows: list[tuple[int, ...]] = []
    for box in split.boxes:
        if (shape := (box.lines, box.columns)) not in starts:
            starts[shape] = sum(map(len, lists))
            apart = (steps[1] * spec.stride[1], spec.stride[2])
            lists.append(grid((split.box[0], *shape), (problem.c_in * prod(problem.size), *apart)))
        n, *place = box.first
        axes = zip(place, spec.stride, box.tap, spec.dilation, spec.padding, strict=True)
        corner = sum(step * (at * s + t * d - low) for step, (at, s, t, d, (low, _)) in zip(steps, axes, strict=True))
        x = n * problem.c_in * prod(problem.size) + corner if box.images else 0
        z, line, column = place
        g = n * problem.c_out * problem.pixels + (z * height + line) * width + column
        run = box.lines * width if box.columns == width else box.columns
        tap = int(np.ravel_multi_index(box.tap, spec.kernel))
        goes_on = -int(box.tap == before)
        own = (0, problem.batch, 1, 1, summed) if not rows else (0,) * 5
        row = (0, x, g, 0, 0, 0, box.images, box.lines * box.columns, run, width, starts[shape], tap, goes_on, *own)
        rows.append(row)
        before = box.tap
    return np.array([*rows, rows[-1]], np.int64), np.concatenate(lists)


def _steps(problem: Problem) -> Sizes:
    """From a sample to the next along every axis."""
    return problem.size[1] * problem.size[2], problem.size[2], 1


def _offsets(split: Split) -> Array:
    """How far apart the channels of a part are, then those of the last one if it has fewer, each for whole tiles."""
    channels = np.arange(split.c_part) * prod(split.problem.size)
    last = channels[: split.problem.group_in % split.c_part]
    lists = [np.concatenate([n, np.repeat(n[-1:], -len(n) % split.tile.steps)]) for n in (channels, last)]
    return np.concatenate(lists).astype(np.int64)


def _asks(split: Split) -> tuple[Array, int, int]:
    """Where the lines of a full box lie, in bytes from its first pixel of g, then of x; and how many of each.

    Each list is followed by its last line once a pixel of a piece, since the last tile asks that often.
    """
    problem, (images, lines, columns) = split.problem, split.box
    stride, lists = problem.spec.stride, []
    for channels, all_channels, plane, width, step, length in (
        (split.k_part, problem.c_out, problem.pixels, problem.out[2], 1, columns),
        (split.c_part, problem.c_in, prod(problem.size), problem.size[2], stride[1], (columns - 1) * stride[2] + 1),
    ):
        rows = grid((images, channels, lines), (all_channels * plane, plane, width * step))
        within = np.arange(0, length * problem.itemsize + _LINE - 1, _LINE)  # wherever in a line they begin
        lists.append(np.add.outer(rows * problem.itemsize, within).ravel())
    ends = [np.repeat(one[-1:], split.sub) for one in lists]
    table: Array = np.concatenate([lists[0], ends[0], lists[1], ends[1]]).astype(np.int64)
    return table, len(lists[0]), len(lists[1])


def bind(plan: Plan, isa: ISA) -> Executable:
    """Tables of boxes, pixels, channels and lines, and every number of the split, fixed for the shape."""
    problem, window, grain = plan.problem, Window.of(plan.problem), Grain(BY_DTYPE[plan.problem.dtype])
    chosen = _split(plan, isa)
    tile, (scratch, panel, sums) = chosen.tile, chosen.room
    channels, plane = problem.summed_channels, prod(problem.size if problem.transposed else problem.out)
    own = scratch + panel + sums
    (boxes, starts), (lines, asks_g, asks_x) = _tables(chosen), _asks(chosen)
    parts = usual.parts(problem, tile, chosen.k_part, chosen.c_part, 1)
    tables = {"boxes": boxes, "parts": parts, "starts": starts, "offsets": _offsets(chosen), "asks": lines}
    code = {
        "tile": kernel.tile_address(grain, True, tile.vectors, tile.rows, 1, None),
        "turn_in": kernel.turn_address(grain),
        "turn_out": kernel.turn_address(Grain(grain.sums)),
        "add_rows": rows_adder(problem.dtype) if problem.bias else 0,
    }
    calls = ceil(prod(chosen.box) / chosen.sub) * chosen.padded // chosen.wide * chosen.passes
    taps, (depth, height, width) = problem.spec.taps, window.size
    numbers = {
        "in_place": 1, "wide": chosen.wide, "steps": tile.steps, "x_image": problem.c_in * prod(problem.size),
        "g_image": problem.c_out * problem.pixels, "g_channel": problem.pixels, "gw_row": problem.group_in * taps,
        "taps": taps, "together": 1, "lists": taps, "rows": tile.rows, "box_count": len(chosen.boxes),
        "part_count": chosen.parts, "chunks": 1, "sub": chosen.sub, "slice": own, "frame": scratch, "private": own,
        "asks_g": asks_g, "asks_x": asks_x, "asks_each": min(ceil((asks_g + asks_x) / calls), chosen.sub),
        "d": depth, "h": height, "w": width, "sums_at": chosen.sums_at * problem.bias,
        "sum_image": channels * plane, "sum_channel": plane,
    }  # fmt: skip
    fields = in_order(
        kernel.FIELDS,
        dict.fromkeys(_UNUSED, 0) | {name: address(table) for name, table in tables.items()} | code | numbers,
    )
    gb, summed = 3 if problem.bias else NOTHING, int(not problem.transposed)
    arrays = {"x": 0, "g": 1, "gw": 2, "gb": gb, "slices": WORKSPACE, "own": WORKSPACE, "summed": summed}
    return Launch(
        [(kernel.loops_code(grain).address("accumulate"), chosen.parts, 1)],
        (0, 0, 0, 0, (scratch + panel) * grain.sums.bytes, 0, 0, *fields),
        [arrays[name] for name in kernel.ARRAYS],
        own_bytes=own * grain.sums.bytes,
        most_threads=useful_threads(chosen.cycles, chosen.parts),
        keep=tables,
    )
