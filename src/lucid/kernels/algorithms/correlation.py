"""Correlation with pixels in lanes: the forward role and the input gradient of depthwise and small-group convolutions.

Both are sums over taps that lie at fixed offsets in a zero frame of the source::

    y[result][q stride_out + phase] = bias + sum over j of w[place[j]] * frame[start(q) + offset[j]]

The forward role has one phase, and its stride is the step of ``start``; a frame row is split by (position mod stride),
so that neighbours are one load. The input gradient steps by one, and its stride makes phases: position i takes the taps
t with (i + low - t d) divisible by s. Every phase has its own list of taps, and phases side by side are interleaved in
registers on the way out.

A tile is ``results`` by ``rows`` by ``vectors``. If neighbouring rows share source rows (``span`` taps down, next to
each other in the source), a load serves up to ``span`` of them. One call goes along rows; few taps are written out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np

from lucid.core.geometry import Sizes
from lucid.kernels import jit, target
from lucid.kernels.algorithms import toeplitz
from lucid.kernels.algorithms.base import Executable, address, memory_cycles, useful_threads
from lucid.kernels.algorithms.dense_layout import computed
from lucid.kernels.algorithms.frames import (
    GEOMETRY,
    Cut,
    call_fill_frame,
    fill_frame_address,
    open_box,
    plain_window,
    read_fields,
)
from lucid.kernels.epilogue import Arrays, parameters, sources
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    convert,
    fma,
    i64,
    interleave,
    lanes_below,
    minimum,
    ptr,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, Launch
from lucid.kernels.plan import PLAIN, RANK, Epilogue, Problem

Array = np.ndarray[Any, Any]

_MOST_SPAN = 7
_LINE_BYTES = 64
_MOST_LINES = 160  # of LLVM text, which taps that are written out may take: about 8 ms to compile


@dataclass(frozen=True, slots=True)
class Tile:
    """``results`` by ``rows`` by ``vectors`` of sums in registers, for each of ``phases`` side by side."""

    rows: int
    vectors: int
    span: int = 1  #: taps down that a source row serves
    step: int = 1  #: source rows from one row of results to the next, if it serves several
    results: int = 1
    phases: int = 1
    taps: int = 0  #: heads that are written out, the same number for every phase; 0: counted at run time
    group: int = 0  #: if positive, taps of a row are many and next to each other, and so many are held
    stream: bool = False  #: whole vectors go past the caches

    @property
    def sums(self) -> int:
        """Vectors of one phase."""
        return self.results * self.rows * self.vectors

    @property
    def sources(self) -> int:
        """Rows of the source that a head reads."""
        return (self.rows - 1) * self.step + self.span

    @property
    def registers(self) -> int:
        """How many its inner loop holds."""
        if self.group:
            return self.vectors + self.group + 1
        return self.phases * self.sums + self.vectors + self.results * self.span + 1

    @property
    def lines(self) -> int:
        """Of LLVM text, all taps written out."""
        head = self.sources * (self.vectors * 2 + 1) + self.results * self.span * (self.rows * self.vectors + 4)
        return self.phases * self.taps * (head + 4)

    def cycles(self, heads: float, row_taps: int, lanes: int, element: Type) -> float:
        """Of one tile with so many taps of all phases: two products or lines of the cache a cycle."""
        touched = toeplitz.straddle(lanes * element.bytes)
        if self.group:
            rows = heads / row_taps
            return rows * toeplitz.cycles(row_taps, lanes, self.vectors, self.group, touched) + 1.5 * self.vectors + 16
        products = self.sums * self.span
        lines = touched * self.sources * self.vectors + self.results * self.span + 2
        each = max(products, lines) / 2 if self.taps else max(products, lines, 8) / 2 + 1
        return heads / self.span * each + 1.5 * self.phases * self.sums + (6 if self.taps else 16 * self.phases)


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis: for every phase of the result, its (tap, offset in the source) pairs; offsets from 0."""

    phases: tuple[tuple[tuple[int, int], ...], ...]
    low: int

    @property
    def extent(self) -> int:
        """Source positions from the first offset to the last."""
        return 1 + max((offset for phase in self.phases for _, offset in phase), default=0)


def _axis(role: str, size: int, kernel: int, stride: int, dilation: int, low: int) -> Axis:
    """``size`` is the result's."""
    if role == "forward":
        return Axis((tuple((t, t * dilation) for t in range(kernel)),), low)
    found = [
        [
            (t, (phase + low - t * dilation) // stride)
            for t in range(kernel)
            if phase < size and (phase + low - t * dilation) % stride == 0
        ]
        for phase in range(stride)
    ]
    first = min((offset for phase in found for _, offset in phase), default=0)
    phases = [[(t, offset - first) for t, offset in reversed(phase)] for phase in found]
    return Axis(tuple(map(tuple, phases)), -first)


@dataclass(frozen=True, slots=True)
class Correlation:
    """A problem as a correlation on a cut of positions q; ``results`` and ``sources`` are channels of one group."""

    problem: Problem
    axes: tuple[Axis, ...]
    cut: Cut
    tile: Tile
    lanes: int

    @property
    def element(self) -> Type:
        """What is computed in."""
        return computed(BY_DTYPE[self.problem.dtype])

    @property
    def forward(self) -> bool:
        """Whether it is the forward role."""
        return self.problem.role == "forward"

    @property
    def sources(self) -> int:
        """Source channels of a group."""
        return self.problem.group_in if self.forward else self.problem.group_out

    @property
    def results(self) -> int:
        """Result channels of a group."""
        return self.problem.group_out if self.forward else self.problem.group_in

    @property
    def size(self) -> Sizes:
        """Sizes of the result."""
        return self.problem.out if self.forward else self.problem.size

    @property
    def stride_in(self) -> Sizes:
        """Steps in the source."""
        return self.problem.spec.stride if self.forward else (1,) * RANK

    @property
    def stride_out(self) -> Sizes:
        """Steps in the result, which are its phases."""
        return (1,) * RANK if self.forward else self.problem.spec.stride

    @property
    def tasks(self) -> int:
        """Boxes of all images and groups."""
        return self.problem.batch * self.problem.groups * self.cut.boxes

    @property
    def frame_elements(self) -> int:
        """A thread's frames, a scratch row, and the rows that a tile reads beyond them."""
        width, spare_rows = self.cut.frame[2], self.tile.rows * self.stride_in[1] + 1
        return ceil((self.sources * self.cut.plane + spare_rows * width + self.lanes) / 16) * 16

    @property
    def private_elements(self) -> int:
        """A thread's workspace: frames, a tile's phases, a spare row of results, widened weights."""
        row = self.tile.vectors * self.lanes
        phases = self.stride_out[2] * self.tile.rows * row
        spare = ceil(self.cut.box[3] / row) * row * self.tile.phases
        return self.frame_elements + ceil((phases + spare) / 16) * 16 + self.weight_elements

    @property
    def weight_elements(self) -> int:
        """Weights of a group, where they are widened."""
        narrow = self.element.bytes > self.problem.itemsize
        return ceil(self.sources * self.results * self.problem.spec.taps / 16) * 16 if narrow else 0

    def taps(self) -> tuple[Array, Array, Array]:
        """Offsets in the frame, places in w, and where each phase begins in both lists."""
        spec, (_, rows, columns) = self.problem.spec, self.cut.frame
        step, pitch = self.stride_in[2], columns // self.stride_in[2]
        channel = spec.taps * (1 if self.forward else self.results)
        offsets, places, begins = [], [], [0]
        for depth, row, column in product(*(axis.phases for axis in self.axes)):
            heads = row[:1] if self.tile.span > 1 else row
            firsts = column[:1] if self.tile.group else column
            for s, (td, d), (th, h), (tw, w) in product(range(self.sources), depth, heads, firsts):
                offsets.append(s * self.cut.plane + (d * rows + h) * columns + w % step * pitch + w // step)
                places.append(s * channel + (td * spec.kernel[1] + th) * spec.kernel[2] + tw)
            begins.append(len(offsets))
        return tuple(np.array(a, np.int64) for a in (offsets or [0], places or [0], begins))  # type: ignore[return-value]

    @property
    def cycles(self) -> float:
        """Expected, of one thread."""
        p, tile = self.problem, self.tile
        heads = sum(
            len(column) * len(row) * len(depth) for depth, row, column in product(*(a.phases for a in self.axes))
        )
        phases = prod(self.stride_out) // tile.phases
        across = ceil(self.cut.box[3] / (tile.vectors * self.lanes)) * ceil(self.cut.box[2] / tile.rows)
        tiles = across * self.cut.box[1] * self.results // tile.results
        calls = ceil(self.cut.box[2] / tile.rows) * self.cut.box[1] * self.results // tile.results * phases
        fill = self.sources * self.cut.plane * (0.16 if self.stride_in[2] <= 2 else 1.5) * 16 / self.lanes
        fill *= 1 if self.frame_elements * self.element.bytes <= target.cpu().l1_bytes else 2
        merged = prod(self.cut.box) * prod(self.stride_out) * self.results
        out = 0.0 if self.stride_out[2] <= 2 else merged * 1.5 * 16 / self.lanes
        each = tile.cycles(heads * self.sources / phases, p.spec.kernel[2], self.lanes, self.element)
        sums = tiles * phases * each + calls * 10
        compute = self.tasks * (fill + out + sums + 100)
        return max(compute, memory_cycles(p.traffic_bytes))


def correlation(problem: Problem, isa: ISA) -> Correlation:
    """The cut and the tile: a frame that fits the first cache, rows of as many vectors as they need."""
    element, spec, forward = computed(BY_DTYPE[problem.dtype]), problem.spec, problem.role == "forward"
    lanes = isa.lanes(element)
    size, source = (problem.out, problem.size) if forward else (problem.size, problem.out)
    axes = tuple(
        _axis(problem.role, n, k, s, d, low)
        for n, k, s, d, (low, _) in zip(size, spec.kernel, spec.stride, spec.dilation, spec.padding, strict=True)
    )
    one = (1,) * RANK
    stride_in, stride_out = (spec.stride, one) if forward else (one, spec.stride)
    positions = tuple(ceil(n / s) for n, s in zip(size, stride_out, strict=True))
    extents = tuple(axis.extent for axis in axes)
    sources = problem.group_in if forward else problem.group_out
    room = (target.cpu().l1_bytes // 2 if sources == 1 else target.cpu().l2_bytes // 4) // element.bytes
    window = plain_window(source, positions, extents, stride_in, tuple(axis.low for axis in axes))
    cut = window.cut(max(64, room // (sources * prod(stride_in))))
    tile = _tile(problem, isa, axes, cut, lanes)
    wide, step = tile.vectors * lanes, stride_in[2]
    columns = ceil(cut.box[3] / wide) * wide + (extents[2] - 1) // step + 1
    columns = ceil(columns / lanes) * lanes  # so that vectors of a phase begin alike in every row
    return Correlation(problem, axes, cut.widened(columns * step), tile, lanes)


def _span(axis: Axis) -> int:
    """Taps of every phase, where they are equally many, few, and neighbours in the source; else 1."""
    count = len(axis.phases[0])
    if not 1 < count <= _MOST_SPAN or any(len(phase) != count for phase in axis.phases):
        return 1
    return count if all(at == k for phase in axis.phases for k, (_, at) in enumerate(phase, phase[0][1])) else 1


def _tile(problem: Problem, isa: ISA, axes: tuple[Axis, ...], cut: Cut, lanes: int) -> Tile:
    _, _, height, width = cut.box
    element = computed(BY_DTYPE[problem.dtype])
    spec, forward = problem.spec, problem.role == "forward"
    sources, results = problem.group_in, problem.group_out
    if not forward:
        sources, results = results, sources
    step = spec.stride[1] if forward else 1
    span = _span(axes[1]) if height > 1 and step <= 2 else 1
    phases = 2 if not forward and spec.stride[2] == 2 else 1
    counts = {sources * len(d) * len(h) * len(w) for d, h, w in product(*(axis.phases for axis in axes))}
    heads = sum(counts) / len(counts)

    def cost(tile: Tile) -> tuple[float, int]:
        tiles = ceil(width / (tile.vectors * lanes)) * ceil(height / tile.rows) * results / tile.results
        return tiles * tile.cycles(phases * heads, spec.kernel[2], lanes, element), -tile.vectors

    def unrolled(tile: Tile) -> Tile:
        every = replace(tile, taps=counts.copy().pop() // tile.span) if len(counts) == 1 else tile
        return every if every.lines <= _MOST_LINES else tile

    options = [
        unrolled(Tile(rows, vectors, down, step if down > 1 else 1, k, phases))
        for k, rows, vectors, down in product((1, 2, 3, 4), (1, 2, 4), (1, 2, 3, 4, 8), {1, span})
        if results % k == 0 and (k == 1 or problem.role == "forward" or spec.stride[2] == 1)
    ]
    if spec.stride[2] == spec.dilation[2] == 1:
        shapes = toeplitz.shapes(spec.kernel[2], lanes, isa)
        options += [Tile(1, vectors, group=group) for vectors, group in shapes]
    return min((tile for tile in options if tile.registers <= isa.registers or tile.sums == 1), key=cost)


# -- calls ------------------------------------------------------------------------------------------------------------

_POINTERS = ("x", "weights", "bias", "y", "own", "scale", "shift", "residual", "offsets", "places", "begins", "fill")
_NUMBERS = (
    "groups", "sources", "results", "boxes", "size_d", "size_h", "size_w", "out_d", "out_h", "out_w", "w_group",
    "w_result", "w_step", "bias_step", "frame", "private", "own_weights", "ahead_y", "row_taps",
)  # fmt: skip


def _fields(element: Type) -> dict[str, Type]:
    data, table = ptr(element), ptr(i64)
    pointers = dict(zip(_POINTERS, [data] * 8 + [table] * 4, strict=True))
    return {**pointers, "own": ptr(computed(element)), **dict.fromkeys(_NUMBERS + GEOMETRY, i64)}


def _stride_class(stride: int) -> int:
    """1 and 2 have code of their own; 0 is any other."""
    return stride if stride <= 2 else 0


def _streams(asked: Correlation, isa: ISA) -> bool:
    """Whether results go past the caches: rows of whole lines, written once, and more than the last cache holds.

    Otherwise a line that is written is first read, which is half as much traffic again.
    """
    row_bytes, itemsize = asked.size[2] * asked.problem.itemsize, asked.problem.itemsize
    large = asked.tasks * asked.results * prod(asked.size) // asked.cut.boxes * itemsize > target.cpu().l3_bytes // 2
    box_bytes = asked.cut.box[3] * asked.tile.phases * itemsize
    whole = row_bytes % _LINE_BYTES == 0 and (box_bytes >= row_bytes or box_bytes % _LINE_BYTES == 0)
    return large and whole and asked.lanes > 1 and asked.stride_out[2] == asked.tile.phases and isa.arch == "x86_64"


def bind(asked: Correlation, isa: ISA) -> Executable:
    """Tables of taps, and every number of the cut, fixed for the shape."""
    problem, spec = asked.problem, asked.problem.spec
    element = BY_DTYPE[problem.dtype]
    split, merge = _stride_class(asked.stride_in[2]), _stride_class(asked.stride_out[2])
    tables = asked.taps()
    rows = asked.axes[1].phases[0]
    step = (rows[1][0] - rows[0][0]) * spec.kernel[2] if asked.tile.span > 1 else 1 if asked.forward else -1
    numbers = (
        problem.groups, asked.sources, asked.results, asked.cut.boxes, *asked.size, *asked.stride_out,
        asked.sources * asked.results * spec.taps, spec.taps * (asked.sources if asked.forward else 1), step,
        int(problem.bias), asked.frame_elements, asked.private_elements,
        asked.private_elements - asked.weight_elements,
        asked.cut.ahead(asked.size, asked.stride_out) or asked.results * prod(asked.size), spec.kernel[2],
        *asked.cut.fields(asked.sources * prod(asked.cut.window.size)),
    )  # fmt: skip
    no_bias = np.zeros(1)
    fields = (
        0, 0, 0 if problem.bias else address(no_bias), *[0] * 5, *map(address, tables),
        fill_frame_address(problem.dtype, split), *numbers,
    )  # fmt: skip
    tasks = asked.tasks
    chunk = max(1, min(tasks // 64, int(50_000 / (asked.cycles / tasks + 1))))

    @cache
    def launch(tile: Tile) -> Launch:
        key = ("correlation", problem.dtype, tile, merge, problem.epilogue)
        code = jit.kernel(key, lambda isa: _write(isa, element, tile, merge, problem.epilogue))
        return Launch(
            [(code.address("correlate"), tasks, chunk)],
            fields,
            (0, 1, 2 if problem.bias else NOTHING, 3, WORKSPACE, *sources(problem.epilogue, NOTHING)),
            own_bytes=asked.private_elements * asked.element.bytes,
            most_threads=useful_threads(asked.cycles, tasks),
            keep=(tables, no_bias),
        )

    if not _streams(asked, isa):
        return launch(asked.tile)
    streaming = launch(replace(asked.tile, stream=True))

    def run(x: Array, w: Array, bias: Array | None, y: Array, *more: Array | None) -> None:
        (launch(asked.tile) if address(y) % _LINE_BYTES else streaming)(x, w, bias, y, *more)

    return run


# -- the kernel -------------------------------------------------------------------------------------------------------


def _write(isa: ISA, element: Type, tile: Tile, merge: int, epilogue: Epilogue) -> Module:
    """Phases that are merged are sums as they are until then, others end in the tile's stores."""
    wide, fields, merged = computed(element), _fields(element), tile.phases != merge
    module, lanes = Module("correlation", isa), isa.lanes(wide)
    ends = (wide, PLAIN) if merged else (element, epilogue)
    sums = _write_tile(module, element, lanes, tile, *ends)
    merge_row = _write_merge_row(module, element, epilogue) if merged else None
    box_rows = _write_rows(module, element, lanes, tile, fields, sums, merge_row, epilogue)
    f = module.entry("correlate", **fields)
    a = f.args
    arrays = Arrays.of(epilogue, a.y, a)
    with f.loop(a.begin, a.end) as task:
        box = open_box(f, a, task.i % a.boxes)
        image_group = task.i // a.boxes
        frame = a.own.at(a.thread * a.private)
        source = a.x.at(image_group * a.sources * (a.d * a.h * a.w))
        call_fill_frame(f, element, fields, frame, source, a.sources, 1, 0, box.d, box.h, box.w)
        weights = a.weights.at(image_group % a.groups * a.w_group)
        if element != wide:
            weights = _widened(f, weights, frame.at(a.own_weights), a.w_group, lanes)
        depth_boxes = minimum(a.box_d, a.od - box.d)
        with (
            f.loop(0, a.results, tile.results) as result,
            f.loop(0, depth_boxes) as depth,
            f.loop(0, a.out_d) as phase_d,
            f.loop(0, a.out_h) as phase_h,
        ):
            place = (box.d + depth.i) * a.out_d + phase_d.i
            with f.when(place < a.size_d):
                channel = image_group * a.results + result.i
                group_result = image_group % a.groups * a.results + result.i
                here = arrays.at(group_result, (channel * a.size_d + place) * (a.size_h * a.size_w))
                f.call(
                    box_rows,
                    a.fields,
                    frame,
                    frame.at(depth.i * a.stride_d * (a.frame_h * a.frame_w)),
                    weights.at(result.i * a.w_result),
                    a.bias.at(group_result * a.bias_step),
                    here.y,
                    (phase_d.i * a.out_h + phase_h.i) * a.out_w,
                    phase_h.i,
                    box.h,
                    box.w,
                    *here.given.values(),
                )
    return module


def _widened(f: Function, numbers: Pointer, to: Pointer, count: Value, lanes: int) -> Pointer:
    """Half precision as float32, once for all that read it again and again; whole vectors are written."""
    with f.loop(0, count, lanes) as i:
        to.store(convert(numbers.load(i.i, lanes, lanes_below(f, count - i.i, lanes)), to.pointee), i.i)
    return to


def _write_rows(
    module: Module, element: Type, lanes: int, tile: Tile, fields: dict[str, Type], sums: Function, merge_row: Any,
    epilogue: Epilogue,
) -> Function:  # fmt: skip
    """Adds ``box_rows``: one phase of depth and rows of a box; the phases of columns side by side."""
    data, framed, wide = ptr(element), ptr(computed(element)), tile.vectors * lanes
    f = module.function(
        "box_rows", fields=ptr(i64), own=framed, frame=framed, w=framed, bias=data, y=data, phase=i64, phase_h=i64,
        h=i64, w0=i64, **parameters(epilogue, element),
    )  # fmt: skip
    p = f.args
    results = Arrays.of(epilogue, p.y, p)
    a = read_fields(f, fields, [
        "offsets", "places", "begins", "frame", "frame_w", "stride_h", "box_h", "box_w", "size_d", "size_h", "size_w",
        "out_h", "out_w", "w_step", "w_result", "bias_step", "oh", "ow", "ahead_y",
        "row_taps",
    ])  # fmt: skip
    phases = p.own.at(a.frame)
    spare = phases.at(a.out_w * (tile.rows * wide))
    rows = minimum(a.box_h, (a.size_h - p.phase_h + (a.out_h - 1)) // a.out_h - p.h)
    row_step, plane = a.out_h * a.size_w, a.size_d * a.size_h * a.size_w
    pitch = a.frame_w if tile.span > 1 else a.stride_h * a.frame_w
    positions = minimum(a.box_w, a.ow - p.w0)  # beyond them is another box, which another thread may have written
    tables = (a.offsets, a.places, a.row_taps, p.w, a.w_step, a.w_result, p.bias, a.bias_step)
    with f.loop(0, rows, tile.rows) as r:
        to = results.at(0, ((p.h + r.i) * a.out_h + p.phase_h) * a.size_w + p.w0 * a.out_w)
        here, left = p.frame.at(r.i * a.stride_h * a.frame_w), rows - r.i
        if merge_row is None:
            count = minimum(positions * tile.phases, a.size_w - p.w0 * tile.phases)
            f.call(
                sums, here, pitch, a.begins.at(p.phase), *tables, to.y, row_step, plane, left, count,
                spare.cast(element), a.ahead_y, *to.given.values(),
            )  # fmt: skip
        else:
            with f.loop(0, positions, wide) as c:
                with f.loop(0, a.out_w) as phase_w:
                    begins, part = a.begins.at(p.phase + phase_w.i), phases.at(phase_w.i * (tile.rows * wide))
                    f.call(sums, here.at(c.i), pitch, begins, *tables, part, wide, 0, tile.rows, wide, spare, 0)
                count = minimum(a.size_w - (p.w0 + c.i) * a.out_w, a.out_w * minimum(wide, positions - c.i))
                with f.loop(0, minimum(left, tile.rows)) as row:
                    line = to.at(0, c.i * a.out_w + row.i * row_step)
                    part = phases.at(row.i * wide)
                    f.call(merge_row, line.y, part, tile.rows * wide, count, a.out_w, *line.given.values())
    return f


def _write_tile(module: Module, element: Type, lanes: int, tile: Tile, stored: Type, epilogue: Epilogue) -> Function:
    """Adds ``tile``: ``rows`` rows, at most the tile's, of ``columns`` elements; what is beyond is not stored."""
    table, framed, to = ptr(i64), ptr(computed(element)), ptr(stored)
    f = module.function(
        "tile", frame=framed, pitch=i64, begins=table, offsets=table, places=table, row_taps=i64, w=framed, w_step=i64,
        w_result=i64, bias=ptr(element), bias_step=i64, to=to, row_step=i64, plane=i64, rows=i64, columns=i64, spare=to,
        ahead=i64, **parameters(epilogue, element),
    )  # fmt: skip
    a, wide = f.args, tile.vectors * lanes * tile.phases
    results = Arrays.of(epilogue, a.to, a)
    targets = [
        results.destination(k, a.row_step * r + (a.plane * k if k else 0)).unless(a.rows <= r, a.spare)
        for k in range(tile.results)
        for r in range(tile.rows)
    ]
    with f.loop(0, a.columns, wide) as c:
        frame = a.frame.at(c.i // tile.phases)
        phases = [_phase_sums(f, tile, lanes, frame, phase) for phase in range(tile.phases)]
        left = a.columns - c.i

        def store(masks: list[Value | None]) -> list[Value]:
            for r, to in enumerate(targets):
                line = to.at(c.i)
                for v in range(tile.vectors):
                    row = [sums[r * tile.vectors + v] for sums in phases]
                    for k, value in enumerate(interleave(row)):
                        at, mask = (v * tile.phases + k) * lanes, masks[v * tile.phases + k]
                        if not tile.stream:
                            line.y.prefetch(a.ahead + at, write=True)
                        line.store(value, at, mask, tile.stream and mask is None)
            return []

        whole = tile.vectors * tile.phases
        f.choose(
            left >= wide,
            lambda: store([None] * whole),
            lambda: store([lanes_below(f, left - v * lanes, lanes) for v in range(whole)]),
        )
    return f


def _phase_sums(f: Function, tile: Tile, lanes: int, frame: Pointer, phase: int) -> list[Value]:
    """One phase's sums of a tile that begins at ``frame``: of all results, rows and vectors."""
    a = f.args
    begin = a.begins.load(phase)
    offsets, places = a.offsets.at(begin), a.places.at(begin)
    each = [toeplitz.spread(a.bias, a.bias_step * k if k else 0, frame.pointee, lanes) for k in range(tile.results)]
    sums = [start for start in each for _ in range(tile.rows * tile.vectors)]
    for j in range(tile.taps):
        sums = _tap(a, tile, lanes, frame.at(offsets.load(j)), a.w.at(places.load(j)), sums)
    if tile.taps:
        return sums
    with f.loop(0, a.begins.load(phase + 1) - begin, carry=sums) as many:
        x, w = frame.at(offsets.load(many.i)), a.w.at(places.load(many.i))
        if tile.group:
            many.values = toeplitz.toeplitz(f, x, w, a.w_step, a.row_taps, lanes, tile.group, many.values)
        else:
            many.values = _tap(a, tile, lanes, x, w, many.values)
    return many.values


def _tap(a: Any, tile: Tile, lanes: int, row: Pointer, w: Pointer, values: list[Value]) -> list[Value]:
    """The sums after one more tap, or ``span`` taps down."""
    weights = [
        [w.at(a.w_result * k if k else 0).splat(a.w_step * t if t else 0, lanes) for t in range(tile.span)]
        for k in range(tile.results)
    ]
    sums = list(values)
    for i in range(tile.sources):
        source = [row.load(v * lanes, lanes) for v in range(tile.vectors)]
        for r in range(tile.rows):
            if 0 <= i - r * tile.step < tile.span:
                for k, v in product(range(tile.results), range(tile.vectors)):
                    at = (k * tile.rows + r) * tile.vectors + v
                    sums[at] = fma(weights[k][i - r * tile.step], source[v], sums[at])
        row = row.at(a.pitch)
    return sums


def _write_merge_row(module: Module, element: Type, epilogue: Epilogue) -> Function:
    """Adds ``merge_row(to, source, step, count, stride)``: to[i stride + phase] = source[phase step + i].

    ``count`` elements in all.
    """
    data, wide = ptr(element), ptr(computed(element))
    more = parameters(epilogue, element)
    f = module.function("merge_row", to=data, source=wide, step=i64, count=i64, stride=i64, **more)
    a = f.args
    to = Arrays.of(epilogue, a.to, a).destination()
    with f.loop(0, a.stride) as phase, f.loop(0, (a.count - phase.i + (a.stride - 1)) // a.stride) as i:
        to.store(a.source.load(phase.i * a.step + i.i), i.i * a.stride + phase.i)
    return f
