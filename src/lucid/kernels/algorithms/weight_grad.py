"""Weight gradient dw[k, c, t] = sum over n, p of g[n, k, p] x[n, c, p s + t d - low], dense or in groups.

Lanes run over c_out. A box of output pixels is prepared once: its piece of g is transposed in registers to a panel
[block of c_out][pixel][lanes], its piece of x is copied into a zero frame. Then every (channel, tap) is a plain offset
in the frame, whatever the taps, strides and dilations are, and so is every pixel::

    for box in boxes of the chunk:
        panel, frame = transposed(g), framed(x)
        for pixels in box by about 128:                          the panel's piece stays in L1
            for block of c_out, block of (c_in, tap):
                acc[s][v] = 0                                    s < steps, v < vectors: one loop, in registers
                for p in pixels:
                    acc[s][v] += panel[p][v] * frame[start[p] + offset[s]]
                slice[block][s][v] += acc[s][v]

Tasks are (chunk of boxes) x (group, part of c_out, part of c_in). With several chunks each has a slice of its own, and
a second pass adds them in order; the split depends on the shape alone, so the bits do not depend on the threads.

The sums of g over its pixels, the gradient of a bias, are added up where the panels are made, if they are asked for.

Where x is infinite or NaN, so is every dw that the definition says, and no other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np

from lucid.kernels import jit, target
from lucid.kernels.algorithms.base import Executable, address, useful_threads
from lucid.kernels.algorithms.frames import (
    GEOMETRY,
    Cut,
    Window,
    call_fill_frame,
    fill_frame_address,
    open_box,
    read_fields,
)
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    fma,
    i64,
    lanes_below,
    minimum,
    ptr,
    select,
    splat,
    transpose,
    zeros,
)
from lucid.kernels.isa import ISA
from lucid.kernels.plan import Plan, Problem
from lucid.kernels.runtime import memory, threads

name = "weight_grad"
roles = ("grad_weight",)

Array = np.ndarray[Any, Any]

_CHUNK_BYTES = 4 << 20  # all slices that wait to be added
_WORKERS = (2, 4, 8)  # numbers of threads that the split is made for: all of them get the same tasks
_MOST_STEPS = 9  # offsets live in general registers, of which there are 15

# Cycles, measured on Zen 5 with AVX-512.
_TILE_OVERHEAD = 30.0
_PACK_CYCLES = 0.8  # of one element of g transposed
_FRAME_CYCLES = 0.8  # of one element of x copied
_FINISH_CYCLES = 1.0  # of one element of a slice put down and added
_ROWS_OVERHEAD = 60.0  # of a channel's part of a box, once for x and once for g
_TASK_OVERHEAD = 1500.0
_STEP_OVERHEAD = 8000.0  # of a second pass, and of more threads taking part
_GHZ = 4.0


@dataclass(frozen=True, slots=True)
class Tile:
    """``vectors`` of c_out by ``steps`` of (c_in, tap)."""

    vectors: int
    steps: int

    @property
    def cycles(self) -> float:
        """Of one pixel: two products or two loads a cycle; fewer than 8 sums in flight wait for each other."""
        return max(self.vectors * self.steps, self.vectors + self.steps, 8) / 2


def _tiles(isa: ISA) -> Iterator[Tile]:
    for vectors, steps in product(range(1, 5), range(1, _MOST_STEPS + 1)):
        if vectors * (steps + 1) + 2 <= isa.registers:
            yield Tile(vectors, steps)


@dataclass(frozen=True, slots=True)
class _Split:
    """Channels of a part, pixels of a box, chunks of boxes; and what it costs."""

    k_part: int
    c_part: int
    cut: Cut
    parts: int
    chunks: int
    task_cycles: float
    finish_cycles: float

    @property
    def cycles(self) -> float:
        """Of one thread."""
        return self.task_cycles + self.finish_cycles

    @property
    def shared_cycles(self) -> float:
        """Of all threads until the last is done, on average over numbers of threads."""
        tasks = self.parts * self.chunks
        waiting = sum(n * ceil(tasks / n) / tasks for n in _WORKERS) / len(_WORKERS)
        return waiting * self.task_cycles + self.finish_cycles


def _best_tile(problem: Problem, isa: ISA) -> Tile:
    lanes, sums = isa.lanes(BY_DTYPE[problem.dtype]), problem.group_in * problem.spec.taps

    def cost(tile: Tile) -> tuple[float, int]:
        blocks = ceil(problem.group_out / (tile.vectors * lanes)) * ceil(sums / tile.steps)
        return blocks * (tile.cycles + 0.3), -tile.vectors

    return min(_tiles(isa), key=cost)


def _halvings(size: int, step: int) -> list[int]:
    """The size and its halves, quarters, …, rounded up to steps."""
    found = [size]
    while found[-1] > step:
        found.append(max(step, ceil(found[-1] / 2 / step) * step))
    return found


@lru_cache(maxsize=1024)
def _split(problem: Problem, isa: ISA) -> tuple[Tile, _Split]:
    tile, lanes = _best_tile(problem, isa), isa.lanes(BY_DTYPE[problem.dtype])
    window, cpu = Window.of(problem), target.cpu()
    taps, wide = problem.spec.taps, tile.vectors * lanes
    room = cpu.l2_bytes // 2 // problem.itemsize

    def split(k_part: int, c_part: int, pieces: int) -> _Split | None:
        padded, sums = ceil(k_part / wide) * wide, ceil(c_part * taps / tile.steps) * tile.steps
        spread = prod(problem.spec.stride) + 1
        pixels = max(1, min(ceil(window.pixels / pieces), max(64, room // (padded + c_part * spread))))
        cut = window.cut(pixels)
        chunks = min(pieces, cut.boxes)
        parts = problem.groups * ceil(problem.group_out / k_part) * ceil(problem.group_in / c_part)
        slice_bytes = padded * sums * problem.itemsize
        if chunks > 1 and parts * chunks * slice_bytes > _CHUNK_BYTES:
            return None
        passes = padded // wide * (sums // tile.steps)
        frame = c_part * cut.plane / cut.pixels * _FRAME_CYCLES
        per_pixel = passes * tile.cycles + (padded * _PACK_CYCLES + frame) * 16 / lanes
        visits = ceil(cut.pixels / _subpixels(problem, isa, tile)) * cut.boxes / chunks
        spill = 1 if padded * sums <= room else 3
        task = window.pixels / chunks * per_pixel + spill * visits * passes * _TILE_OVERHEAD + _TASK_OVERHEAD
        task += (c_part + padded) * cut.box[0] * cut.boxes / chunks * _ROWS_OVERHEAD
        finish = parts * padded * sums * (chunks + 1) * _FINISH_CYCLES * 16 / lanes + _STEP_OVERHEAD * (chunks > 1)
        return _Split(k_part, c_part, cut, parts, chunks, parts * chunks * task, finish)

    most = 1 if window.pixels < 128 else min(64, window.pixels // 128)
    options = product(
        _halvings(problem.group_out, wide), _halvings(problem.group_in, 1), {1, 2, 4, 8, 16, 32, 64, most} - {0}
    )
    made = [s for k, c, j in options if j <= most for s in [split(k, c, j)] if s is not None]
    return tile, min(made, key=lambda s: s.shared_cycles)


def _subpixels(problem: Problem, isa: ISA, tile: Tile) -> int:
    """Pixels whose panel fills two thirds of L1."""
    row = tile.vectors * max(1, isa.lanes(BY_DTYPE[problem.dtype])) * problem.itemsize
    return max(16, min(256, target.cpu().l1_bytes * 2 // 3 // row))


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Nothing."""
    return None


def plan(problem: Problem, isa: ISA) -> Plan:
    """The tile that wastes least, then the split into tasks that is expected to be fastest."""
    tile, split = _split(problem, isa)
    lanes = isa.lanes(BY_DTYPE[problem.dtype])
    sizes = _Sizes.of(problem, tile, split, lanes)
    filled = problem.group_out / (ceil(problem.group_out / (tile.vectors * lanes)) * tile.vectors * lanes)
    return Plan(
        name,
        problem,
        isa.name,
        expected_ns=split.cycles / _GHZ,
        tile=(("vectors", tile.vectors), ("steps", tile.steps)),
        blocking=(
            ("k_part", split.k_part),
            ("c_part", split.c_part),
            ("box_pixels", split.cut.pixels),
            ("chunks", split.chunks),
        ),
        workspace_bytes=problem.itemsize * sizes.total(1),
        why=f"c_out in lanes ({filled:.0%} filled), {tile.steps} taps a pass, pixels in {split.chunks} chunks",
        sums_upstream=True,
    )


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Elements of the workspace: a slice of sums, and what each thread has for a box."""

    slice: int
    frame: int
    panel: int
    slices: int

    @classmethod
    def of(cls, problem: Problem, tile: Tile, split: _Split, lanes: int) -> _Sizes:
        """``slices`` is 0 if each thread needs only one."""
        wide, line = tile.vectors * lanes, 64 // problem.itemsize
        blocks = ceil(split.k_part / wide)
        sums = ceil(split.c_part * problem.spec.taps / tile.steps) * tile.steps
        frame = ceil((split.c_part * split.cut.plane + lanes) / line) * line  # whole vectors are written past the end
        panel = blocks * (split.cut.pixels + lanes) * wide
        slice_ = ceil((blocks * sums + lanes + blocks) * wide / line) * line  # the sums of g are the last blocks
        return cls(slice_, frame, panel, split.parts * split.chunks if split.chunks > 1 else 0)

    def total(self, crew: int) -> int:
        """For a number of threads."""
        return (self.slices or crew) * self.slice + crew * (self.frame + self.panel)


_NUMBERS = (
    "c_in", "c_out", "k_part", "c_part", "k_parts", "c_parts", "parts", "group_in", "group_out", "taps", "boxes",
    "chunks", "sub", "out_pixels", "slice", "frame", "private",
)  # fmt: skip


def _fields(element: Type) -> dict[str, Type]:
    data = ptr(element)
    return {
        "x": data, "g": data, "gw": data, "gb": data, "has_bias": i64, "slices": data,
        "own": data, "starts": ptr(i64), "offsets": ptr(i64), "fill": ptr(i64),
        **dict.fromkeys(_NUMBERS, i64), **dict.fromkeys(GEOMETRY, i64),
    }  # fmt: skip


def bind(plan: Plan, isa: ISA) -> Executable:
    """Tables of pixels and taps, and every number of the split, fixed for the shape."""
    problem = plan.problem
    element, (tile, split) = BY_DTYPE[problem.dtype], _split(problem, isa)
    lanes, cut = isa.lanes(element), split.cut
    sizes = _Sizes.of(problem, tile, split, lanes)
    code = jit.kernel((name, problem.dtype, tile), lambda isa: _write(isa, element, tile))
    k_parts, c_parts = ceil(problem.group_out / split.k_part), ceil(problem.group_in / split.c_part)
    starts, offsets = cut.starts(), _padded(cut.taps(split.c_part), tile.steps)
    numbers = (
        problem.c_in, problem.c_out, split.k_part, split.c_part, k_parts, c_parts, split.parts, problem.group_in,
        problem.group_out, problem.spec.taps, cut.boxes, split.chunks, _subpixels(problem, isa, tile),
        prod(cut.window.out), sizes.slice, sizes.frame, sizes.frame + sizes.panel, *cut.fields(),
    )  # fmt: skip
    template = (ctypes.c_int64 * (10 + len(numbers)))(
        0, 0, 0, 0, 0, 0, 0, address(starts), address(offsets), fill_frame_address(problem.dtype), *numbers
    )
    accumulate, finish = code.address("accumulate"), code.address("finish")
    tasks, finish_tasks = split.parts * split.chunks, split.parts * ceil(split.k_part / (tile.vectors * lanes))
    most = useful_threads(split.cycles, tasks)

    def run(x: Array, g: Array, gw: Array, gb: Array | None = None, keep: Any = (starts, offsets)) -> None:
        crew = min(threads.get_num_threads(), most)
        scratch = memory.workspace(sizes.total(crew) * problem.itemsize, 1)
        slices = address(scratch)
        own = slices + (sizes.slices or crew) * sizes.slice * problem.itemsize
        fields = type(template).from_buffer_copy(template)
        fields[:7] = [
            address(x),
            address(g),
            address(gw),
            0 if gb is None else address(gb),
            gb is not None,
            slices,
            own,
        ]
        if split.chunks == 1:
            threads.run(accumulate, fields, tasks, threads=crew)
        else:
            threads.run_steps([(accumulate, fields, tasks, 1), (finish, fields, finish_tasks, 1)], threads=crew)

    return run


def _padded(offsets: Array, steps: int) -> Array:
    """As many as fill the last tile; what is read there is not kept."""
    return np.concatenate([offsets, np.repeat(offsets[-1:], -len(offsets) % steps)])


# -- the kernel -------------------------------------------------------------------------------------------------------


def _write(isa: ISA, element: Type, tile: Tile) -> Module:
    lanes, fields = isa.lanes(element), _fields(element)
    module = Module(name, isa.fma)
    pack = _write_pack(module, element, lanes, tile)
    product_ = _write_tile(module, element, lanes, tile)
    unpack = _write_unpack(module, element, lanes, tile, fields)
    _write_accumulate(module, element, lanes, tile, fields, (pack, product_, unpack))
    _write_finish(module, tile, lanes, fields, unpack)
    return module


def _write_tile(module: Module, element: Type, lanes: int, tile: Tile) -> Function:
    """Adds ``tile(count, panel, frame, starts, offsets, to, again)``: the sum over ``count`` pixels into to[s][v]."""
    data, across = ptr(element), range(tile.vectors)
    f = module.function(
        "tile", count=i64, panel=data, frame=data, starts=ptr(i64), offsets=ptr(i64), to=data, again=i64
    )
    a = f.args
    offsets = [a.offsets.load(s) for s in range(tile.steps)]
    with f.loop(0, a.count, carry=[zeros(f, element, lanes)] * (tile.steps * tile.vectors)) as p:
        pixel, here = a.panel.at(p.i * (tile.vectors * lanes)), a.frame.at(a.starts.load(p.i))
        upstream = [pixel.load(v * lanes, lanes) for v in across]
        sums, following = iter(p.values), []
        for offset in offsets:
            value = here.splat(offset, lanes)
            following += [fma(upstream[v], value, next(sums)) for v in across]
        p.values = following
    again = splat(a.again.ne(0), lanes)
    for k, total in enumerate(p.values):
        a.to.store(a.to.load(k * lanes, lanes, again) + total, k * lanes)
    return f


def _write_pack(module: Module, element: Type, lanes: int, tile: Tile) -> Function:
    """Adds ``pack(to, source, rows, stride, pixels, block, ahead, sums, again)``: ``rows`` channels of g as panels.

    to[row / wide][pixel][row % wide], ``block`` elements from panel to panel. Lanes beyond the last row repeat it.
    Asks for what lies ``ahead``. ``sums`` of each channel over the pixels are begun, or added to ``again``.
    """
    data, wide = ptr(element), tile.vectors * lanes
    f = module.function(
        "pack", to=data, source=data, rows=i64, stride=i64, pixels=i64, block=i64, ahead=i64, sums=data, again=i64
    )
    a = f.args
    again = splat(a.again.ne(0), lanes)
    with f.loop(0, a.rows, wide) as b, f.loop(0, wide, lanes) as v:
        first, to = b.i + v.i, a.to.at(b.i // wide * a.block + v.i)
        rows = [a.source.at(minimum(first + k, a.rows - 1) * a.stride) for k in range(lanes)]

        with f.loop(0, a.pixels, lanes, carry=[a.sums.load(first, lanes, again)]) as p:
            left = a.pixels - p.i

            def whole(rows: list[Pointer] = rows, p: Value = p.i) -> list[Value]:
                for row in rows:
                    row.prefetch(p + a.ahead, locality=2)
                return [row.load(p, lanes) for row in rows]

            def edge(rows: list[Pointer] = rows, p: Value = p.i, left: Value = left) -> list[Value]:
                mask = lanes_below(f, left, lanes)
                return [row.load(p, lanes, mask) for row in rows]

            columns = transpose(f.choose(left >= lanes, whole, edge) if lanes > 1 else whole())
            for k, column in enumerate(columns):
                to.store(column, (p.i + k) * wide)
            p.values = [p.values[0] + _tree_sum(columns)]
        a.sums.store(p.values[0], first)
    return f


def _tree_sum(values: Sequence[Value]) -> Value:
    """Pairs, and pairs of those: adders do not wait for each other, and the error grows with the logarithm."""
    while len(values) > 1:
        values = [a + b for a, b in zip(values[0::2], values[1::2], strict=True)]
    return values[0]


def _write_unpack(module: Module, element: Type, lanes: int, tile: Tile, fields: dict[str, Type]) -> Function:
    """Adds ``unpack(fields, part, block, source, slices, stride)``: the sum of slices, turned and put into gw.

    Lanes beyond the last channel have its values and are stored over it. The sums of g, if asked for, go into gb.
    """
    data, wide = ptr(element), tile.vectors * lanes
    f = module.function("unpack", fields=ptr(i64), part=i64, block=i64, source=data, slices=i64, stride=i64)
    p = f.args
    a = read_fields(f, fields, [
        "gw", "gb", "has_bias", "slice", "group_in", "group_out", "taps", "k_part", "c_part", "k_parts", "c_parts",
    ])  # fmt: skip
    where = _part(a, p.part)
    count = where.channels * a.taps
    padded = (count + (tile.steps - 1)) // tile.steps * (tile.steps * wide)
    last, row_length = where.k + where.rows - 1, a.group_in * a.taps
    to = a.gw.at((where.group * a.group_out) * row_length + where.c * a.taps)
    with f.loop(0, wide, lanes) as v, f.loop(0, count, lanes) as s:
        source = p.source.at(p.block * padded + s.i * wide + v.i)
        with f.loop(0, p.slices, carry=[zeros(f, element, lanes)] * lanes) as j:
            here = source.at(j.i * p.stride)
            j.values = [total + here.load(k * wide, lanes) for k, total in enumerate(j.values)]
        mask = lanes_below(f, count - s.i, lanes) if lanes > 1 else None
        for k, row in enumerate(transpose(j.values)):
            target = minimum(where.k + p.block * wide + v.i + k, last)
            to.store(row, target * row_length + s.i, mask)
    with f.when(a.has_bias.ne(0) & where.c.eq(0)), f.loop(0, wide, lanes) as v:
        row = p.block * wide + v.i
        source = p.source.at(_first_sum(a, wide) + row)
        with f.loop(0, p.slices, carry=[zeros(f, element, lanes)]) as j:
            j.values = [j.values[0] + source.load(j.i * p.stride, lanes)]
        live = lanes_below(f, where.rows - row, lanes)
        a.gb.at(where.group * a.group_out + where.k).store(j.values[0], row, live)
    return f


def _first_sum(a: Any, wide: int) -> Value:
    """Where the sums of g begin in a slice."""
    first: Value = a.slice - (a.k_part + (wide - 1)) // wide * wide
    return first


@dataclass(frozen=True, slots=True)
class _Part:
    """Channels of a task: group, first and count of c_out, first and count of c_in, both within the group."""

    group: Value
    k: Value
    rows: Value
    c: Value
    channels: Value


def _part(a: Any, part: Value) -> _Part:
    rest, c = part // a.c_parts, part % a.c_parts * a.c_part
    group, k = rest // a.k_parts, rest % a.k_parts * a.k_part
    return _Part(group, k, minimum(a.k_part, a.group_out - k), c, minimum(a.c_part, a.group_in - c))


def _write_accumulate(
    module: Module, element: Type, lanes: int, tile: Tile, fields: dict[str, Type], functions: tuple[Function, ...]
) -> None:
    """The entry point ``accumulate``: task t is part t % parts of chunk t / parts."""
    pack, product_, unpack = functions
    wide = tile.vectors * lanes
    f = module.entry("accumulate", **fields)
    a = f.args
    with f.loop(a.begin, a.end) as task:
        part, chunk = task.i % a.parts, task.i // a.parts
        where = _part(a, part)
        frame = a.own.at(a.thread * a.private)
        panel = frame.at(a.frame)
        panel_pixels = a.box_n * a.box_d * a.box_h * a.box_w + lanes  # whole vectors are written past the end
        blocks = (where.rows + (wide - 1)) // wide
        to = a.slices.at(select(a.chunks.eq(1), a.thread, task.i) * a.slice)
        steps = (where.channels * a.taps + (tile.steps - 1)) // tile.steps
        first, x_size = chunk * a.boxes // a.chunks, a.d * a.h * a.w
        with f.loop(first, (chunk + 1) * a.boxes // a.chunks) as b:
            box = open_box(f, a, b.i)
            x = a.x.at((box.n * a.c_in + where.group * a.group_in + where.c) * x_size)
            place = (frame, x, where.channels, box.images, a.c_in * x_size, box.d, box.h, box.w)
            call_fill_frame(f, element, fields, *place)
            inside = (box.d * a.oh + box.h) * a.ow + box.w
            with f.loop(0, box.images) as n:
                channel = (box.n + n.i) * a.c_out + where.group * a.group_out + where.k
                g, to_panel = a.g.at(channel * a.out_pixels + inside), panel.at(n.i * box.per_image * wide)
                sums, again = to.at(_first_sum(a, wide)), (b.i - first) + n.i
                layout = (where.rows, a.out_pixels, box.per_image, panel_pixels * wide, box.per_image)
                f.call(pack, to_panel, g, *layout, sums, again)
            with f.loop(0, box.pixels, a.sub) as p:
                count = minimum(a.sub, box.pixels - p.i)
                again = (b.i - first) + p.i
                with f.loop(0, blocks) as k, f.loop(0, steps) as s:
                    f.call(
                        product_,
                        count,
                        panel.at((k.i * panel_pixels + p.i) * wide),
                        frame,
                        a.starts.at(p.i),
                        a.offsets.at(s.i * tile.steps),
                        to.at((k.i * steps + s.i) * (tile.steps * wide)),
                        again,
                    )
        with f.when(a.chunks.eq(1)), f.loop(0, blocks) as k:
            f.call(unpack, a.fields, part, k.i, to, 1, 0)


def _write_finish(module: Module, tile: Tile, lanes: int, fields: dict[str, Type], unpack: Function) -> None:
    """The entry point ``finish``: a task adds up one block of c_out of one part, over the chunks in order."""
    wide = tile.vectors * lanes
    f = module.entry("finish", **fields)
    a = f.args
    most = (a.k_part + (wide - 1)) // wide
    with f.loop(a.begin, a.end) as task:
        part, block = task.i // most, task.i % most
        with f.when(block * wide < _part(a, part).rows):
            source = a.slices.at(part * a.slice)
            f.call(unpack, a.fields, part, block, source, a.chunks, a.parts * a.slice)
