"""Frames: a box of output pixels and the zero-padded piece of x that it reads, as tables of offsets.

All of padding, stride, dilation and rank ends here. What reads a frame sees two lists of numbers: where each pixel
starts, and how far from there each tap lies::

    x padded        . . . . . . .      box of pixels: 2 rows of 3 (stride 2)      pixel starts   0  2  4
                    . a b c d e .      frame: rows 0 to 4, columns 0 to 6                       14 16 18
                    . f g h i j .      a pixel and a tap meet at                  tap offsets    0  1  2
                    . k l m n o .          frame[start + offset]                                 7  8  9 ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np

from lucid.core.geometry import ConvSpec, Sizes, window_extent
from lucid.kernels import jit
from lucid.kernels.ir import (
    BY_DTYPE,
    Function,
    Module,
    Pointer,
    Type,
    Value,
    computed,
    convert,
    deinterleave,
    i64,
    lanes_below,
    lift,
    maximum,
    minimum,
    ptr,
    select,
    zeros,
)
from lucid.kernels.isa import ISA
from lucid.kernels.plan import RANK, Problem

Array = np.ndarray[Any, Any]

#: Planes of at least so many rows, of at most so many vectors, are framed by columns of vectors.
_COLUMN_ROWS, _COLUMN_VECTORS = 4, 8

#: Strides whose phases are dealt out a vector of each at a time; of others, sample by sample.
DEALT = (2, 3, 4)

#: The geometry that a kernel takes at run time, in the order of ``Cut.fields``.
GEOMETRY = (
    "batch", "d", "h", "w", "od", "oh", "ow", "box_n", "box_d", "box_h", "box_w", "grid_d", "grid_h", "grid_w",
    "frame_d", "frame_h", "frame_w", "stride_d", "stride_h", "stride_w", "low_d", "low_h", "low_w",
    "fill_w", "ahead",
)  # fmt: skip


def grid(counts: Sequence[int], steps: Sequence[int]) -> Array:
    """Offsets of a grid of places, as many along every axis and so far apart, int64."""
    offsets: Array = np.zeros(1, np.int64)
    for count, step in zip(counts, steps, strict=True):
        offsets = np.add.outer(offsets, np.arange(count) * step).ravel()
    return offsets


@dataclass(frozen=True, slots=True)
class Window:
    """A convolution's geometry between an x of ``size`` and a y of ``out``, rank 3."""

    spec: ConvSpec
    batch: int
    size: Sizes
    out: Sizes

    @classmethod
    def of(cls, problem: Problem) -> Window:
        """The problem's; pointwise axes are merged into one, since a row of pixels is then as long as can be."""
        spec, size, out = problem.spec, problem.size, problem.out
        axes = zip(spec.kernel, spec.stride, spec.padding, strict=True)
        plain = [k == 1 and s == 1 and pad == (0, 0) for k, s, pad in axes]
        if plain[1] and plain[2]:
            keep = 0 if plain[0] else 1
            size, out = ((1,) * (2 - keep) + n[:keep] + (prod(n[keep:]),) for n in (size, out))
            kernel, stride, dilation = ((*n[:keep], 1) for n in (spec.kernel, spec.stride, spec.dilation))
            padding = (*spec.padding[:keep], (0, 0))
            spec = ConvSpec(kernel, stride, dilation, padding, spec.groups).expanded(RANK)
        return cls(spec, problem.batch, size, out)

    @property
    def pixels(self) -> int:
        """Output positions of the whole batch."""
        return self.batch * prod(self.out)

    def cut(self, target: int) -> Cut:
        """Boxes of about ``target`` pixels: whole inner axes, a piece of one axis, one of each outer axis.

        A box that is cut short at the end of its axis then has the first pixels of the full box's list.
        """
        box, inner = [1, 1, 1, 1], 1
        for axis, size in reversed(list(enumerate((self.batch, *self.out)))):
            pieces = -(-size // max(1, min(size, target // inner)))
            box[axis] = -(-size // pieces)
            inner *= box[axis]
            if pieces > 1:
                break
        return Cut(self, tuple(box))


@dataclass(frozen=True)
class Cut:
    """A window's output pixels cut into boxes of (images, depth, rows, columns)."""

    window: Window
    box: Sizes
    filled: int = 0  #: columns of a frame that are read, if not all

    @cached_property
    def grid(self) -> Sizes:
        """Boxes along every axis."""
        sizes = (self.window.batch, *self.window.out)
        return tuple(-(-size // box) for size, box in zip(sizes, self.box, strict=True))

    @cached_property
    def boxes(self) -> int:
        """How many there are."""
        return prod(self.grid)

    @cached_property
    def pixels(self) -> int:
        """Pixels of a full box."""
        return prod(self.box)

    @cached_property
    def frame(self) -> Sizes:
        """Sizes of the piece of padded x that a box of one image reads."""
        spec = self.window.spec
        return tuple(
            (b - 1) * s + window_extent(k, d)
            for b, s, k, d in zip(self.box[1:], spec.stride, spec.kernel, spec.dilation, strict=True)
        )

    @cached_property
    def plane(self) -> int:
        """Elements of a channel's frame, all images of a box."""
        return self.box[0] * prod(self.frame)

    def widened(self, columns: int) -> Cut:
        """The same boxes, in frames of ``columns`` columns, of which the new ones are not filled; no dilation."""
        spec = self.window.spec
        last = columns - (self.box[3] - 1) * spec.stride[2]
        window = replace(self.window, spec=replace(spec, kernel=(*spec.kernel[:2], last)))
        return Cut(window, self.box, self.frame[2])

    def starts(self) -> Array:
        """Where each pixel of a full box starts in the frame, int64."""
        _, rows, columns = self.frame
        pitches = zip((rows * columns, columns, 1), self.window.spec.stride, strict=True)
        return grid(self.box, (prod(self.frame), *(pitch * step for pitch, step in pitches)))

    def fields(self, following: int = 0) -> tuple[int, ...]:
        """The numbers named by ``GEOMETRY``. ``following`` elements of x on is what is read after the last box."""
        window, spec = self.window, self.window.spec
        lows = tuple(low for low, _ in spec.padding)
        return (
            window.batch, *window.size, *window.out, *self.box, *self.grid[1:], *self.frame, *spec.stride, *lows,
            self.filled or self.frame[2], self.ahead(self.window.size, self.window.spec.stride) or following,
        )  # fmt: skip

    def ahead(self, size: Sizes, stride: Sizes) -> int:
        """From an element of x or y, of ``size``, to the same place in the next box; 0 if there is only one."""
        pitches = (size[1] * size[2], size[2], 1)
        for axis in (2, 1, 0):
            if self.grid[axis + 1] > 1:
                return self.box[axis + 1] * stride[axis] * pitches[axis]
        return 0


def plain_window(size: Sizes, out: Sizes, extents: Sizes, stride: Sizes, lows: Sizes) -> Window:
    """One image's window without dilation: kernels as long as their ``extents``, ``lows`` zeros before each axis."""
    padding = tuple((low, 0) for low in lows)
    return Window(ConvSpec(extents, stride, (1,) * RANK, padding), 1, size, out)


@dataclass(frozen=True, slots=True)
class Box:
    """A box in a kernel: its first output position on every axis, and how much of it there is."""

    n: Value
    d: Value
    h: Value
    w: Value
    images: Value
    per_image: Value

    @property
    def pixels(self) -> Value:
        """Pixels of all images."""
        return self.images * self.per_image


def open_box(f: Function, a: Any, index: Value) -> Box:
    """The box of a number, from the fields of ``GEOMETRY`` in ``a``."""
    rest, w = index // a.grid_w, (index % a.grid_w) * a.box_w
    rest, h = rest // a.grid_h, (rest % a.grid_h) * a.box_h
    n, d = (rest // a.grid_d) * a.box_n, (rest % a.grid_d) * a.box_d
    inside = minimum(a.box_d, a.od - d) * minimum(a.box_h, a.oh - h) * minimum(a.box_w, a.ow - w)
    return Box(n, d, h, w, minimum(a.box_n, a.batch - n), inside)


def _write_fill_row(module: Module, element: Type, lanes: int) -> Function:
    """Adds ``fill_row(to, source, left, right, count, ahead)``: to[i] = source[i] where left <= i < right, else 0.

    For i below ``count``, but up to ``lanes - 1`` elements beyond become 0: whole vectors are written. Asks for what
    lies ``ahead``.
    """
    wide = computed(element)
    f = module.function("fill_row", to=ptr(wide), source=ptr(element), left=i64, right=i64, count=i64, ahead=i64)
    a = f.args
    right = minimum(a.right, a.count)
    first, last = minimum(a.left, a.count), right - (lanes - 1)

    def edge(i: Value) -> None:
        mask = lanes_below(f, right - i, lanes) & ~lanes_below(f, a.left - i, lanes)
        a.to.store(convert(a.source.load(i, lanes, mask), wide), i)

    with f.loop(0, first, lanes) as head:
        edge(head.i)
    start = (first + (lanes - 1)) // lanes * lanes
    with f.loop(start, last, lanes) as middle:
        a.source.prefetch(middle.i + a.ahead, locality=2)
        a.to.store(convert(a.source.load(middle.i, lanes), wide), middle.i)
    with f.loop(start + (maximum(last - start, 0) + (lanes - 1)) // lanes * lanes, a.count, lanes) as tail:
        edge(tail.i)
    return f


def _write_split_row(module: Module, element: Type, lanes: int, stride: int) -> Function:
    """Adds ``split_row(to, source, count, stride)``: to[phase][i] = source[i stride + phase].

    ``stride`` is one of ``DEALT``, where a phase is a multiple of ``lanes`` long, or 0 for any.
    """
    f = module.function("split_row", to=ptr(element), source=ptr(element), count=i64, stride=i64)
    a = f.args
    length = a.count // (stride or a.stride)
    if stride:
        with f.loop(0, length, lanes) as i:
            vectors = [a.source.load(i.i * stride + k * lanes, lanes) for k in range(stride)]
            for k, value in enumerate(deinterleave(vectors, stride)):
                a.to.store(value, k * length + i.i)
    else:
        with f.loop(0, a.stride) as phase, f.loop(0, length) as i:
            a.to[phase.i * length + i.i] = a.source[i.i * a.stride + phase.i]
    return f


def _write_fill_columns(module: Module, element: Type, lanes: int, stride: int) -> Function:
    """Adds ``fill_columns(to, source, above, below, rows, pitch, width, left, right, count, ahead)``: a plane of rows.

    Rows are ``pitch`` apart in ``to`` and ``width`` in ``source``; those before ``above`` and from ``below`` on are 0,
    and so are columns outside left <= i < right. One column of vectors at a time, since its masks serve every row; the
    last first, since it runs over into the next row. With a ``stride`` columns are dealt out into its phases.
    """
    kind, wide = computed(element), lanes * stride
    f = module.function(
        "fill_columns", to=ptr(kind), source=ptr(element), above=i64, below=i64, rows=i64, pitch=i64, width=i64,
        left=i64, right=i64, count=i64, ahead=i64,
    )  # fmt: skip
    a = f.args
    right, blank = minimum(a.right, a.count), [zeros(f, kind, lanes)] * stride
    with f.loop(0, a.count, wide) as turn:
        c = (a.count - 1) // wide * wide - turn.i
        masks = [
            lanes_below(f, right - at, lanes) & ~lanes_below(f, a.left - at, lanes)
            for at in (c + k * lanes for k in range(stride))
        ]
        to, source, half = a.to.at(c // stride if stride > 1 else c), a.source.at(c), a.pitch // stride

        def put(row: Value, values: list[Value], to: Pointer = to, half: Value = half) -> None:
            for k, value in enumerate(deinterleave(values, stride)):
                to.store(value, row * a.pitch + (k * half if k else 0))

        with f.loop(0, a.above) as y:
            put(y.i, blank)
        with f.loop(a.above, a.below) as y:
            here = source.at(y.i * a.width)
            here.prefetch(a.ahead, locality=2)
            put(y.i, [convert(here.load(k * lanes, lanes, mask), kind) for k, mask in enumerate(masks)])
        with f.loop(maximum(a.above, a.below), a.rows) as y:
            put(y.i, blank)
    return f


def _fill_parameters(element: Type) -> dict[str, Type]:
    """What ``fill_frame`` takes: the fields of ``GEOMETRY``, then the arguments of ``call_fill_frame``."""
    numbers = ("channels", "images", "image_stride", "d", "h", "w")
    return {"fields": ptr(i64), "to": ptr(computed(element)), "source": ptr(element), **dict.fromkeys(numbers, i64)}


def fill_frame_address(dtype: str, stride: int = 1) -> int:
    """Where ``fill_frame(fields, to, source, channels, images, image_stride, d, h, w)`` lies, for kernels to call.

    ``to[channel][image]`` become the frames of the box at output position (d, h, w); ``source`` is the first channel of
    the first image, planar. With a ``stride`` each row of a frame is split by phase, so that pixels side by side lie
    side by side; a row behind the last frame is scratch then. Half precision becomes float32.

    A module of its own: every kernel needs it, and to compile it takes as long as a kernel's own part.
    """
    element, stride = BY_DTYPE[dtype], stride if stride == 1 or stride in DEALT else 0
    code = jit.kernel(("fill_frame", dtype, stride), lambda isa: _write_fill_frame(isa, element, stride))
    return code.address("fill_frame")


def unit_of_fill(stride: int) -> str:
    """What a cost model calls the work of ``fill_frame`` for a vector of a frame."""
    if stride <= 2:
        return "fill"
    return "fill dealt" if stride in DEALT else "fill split"


def call_fill_frame(f: Function, element: Type, fields: dict[str, Type], *arguments: Any) -> None:
    """Calls the ``fill_frame`` that the field ``fill`` of an entry point ``f`` has the address of."""
    geometry = f.args.fields.at(list(fields).index(GEOMETRY[0]))
    wanted = _fill_parameters(element).values()
    values = [lift(f, v, t) for v, t in zip((geometry, *arguments), wanted, strict=True)]
    f.line(f"call void {f.args.fill.text}({', '.join(f'{v.type} {v.text}' for v in values)})")


def _write_fill_frame(isa: ISA, element: Type, stride: int) -> Module:
    lanes = isa.lanes(computed(element))
    if lanes == 1 and stride > 1:
        stride = 0
    module, fields = Module("fill_frame", isa), dict.fromkeys(GEOMETRY, i64)
    fill_row = _write_fill_row(module, element, lanes)
    split_row = _write_split_row(module, computed(element), lanes, stride) if stride != 1 else None
    fill_columns = _write_fill_columns(module, element, lanes, stride) if stride else None
    f = module.function("fill_frame", export=True, **_fill_parameters(element))
    p, a = f.args, read_fields(f, fields, GEOMETRY)
    top, up, left = (o * s - low for o, s, low in (
        (p.d, a.stride_d, a.low_d), (p.h, a.stride_h, a.low_h), (p.w, a.stride_w, a.low_w)
    ))  # fmt: skip
    size, frame = a.d * a.h * a.w, a.frame_d * a.frame_h * a.frame_w
    begin, end = maximum(-left, 0), a.w - left
    above = minimum(maximum(-up, 0), a.frame_h)
    spare = p.to.at(p.channels * a.box_n * frame)

    def by_rows(to: Pointer, source: Pointer, below: Value) -> list[Value]:
        with f.loop(0, a.frame_h) as y:
            stop = select((y.i >= above) & (y.i < below), end, 0)
            row, pixels = to.at(y.i * a.frame_w), source.at(y.i * a.w)
            if split_row is None:
                f.call(fill_row, row, pixels, begin, stop, a.fill_w, a.ahead)
            else:
                f.call(fill_row, spare, pixels, begin, stop, a.fill_w, a.ahead)
                f.call(split_row, row, spare, a.frame_w, a.stride_w)
        return []

    def by_columns(to: Pointer, source: Pointer, below: Value) -> list[Value]:
        assert fill_columns is not None, "any stride goes by rows"
        f.call(fill_columns, to, source, above, below, a.frame_h, a.frame_w, a.w, begin, end, a.fill_w, a.ahead)
        return []

    with f.loop(0, p.channels) as c, f.loop(0, p.images) as n, f.loop(0, a.frame_d) as z:
        depth = top + z.i
        below = select(depth.ult(a.d), minimum(a.h - up, a.frame_h), 0)
        to = p.to.at((c.i * a.box_n + n.i) * frame + z.i * (a.frame_h * a.frame_w))
        source = p.source.at(n.i * p.image_stride + c.i * size + (depth * a.h + up) * a.w + left)
        if fill_columns is None:
            by_rows(to, source, below)
        else:
            few = (a.frame_h < _COLUMN_ROWS) | (a.fill_w > _COLUMN_VECTORS * lanes * stride)
            f.choose(few, partial(by_rows, to, source, below), partial(by_columns, to, source, below))
    return module


def read_fields(f: Function, fields: dict[str, Type], names: Any) -> Any:
    """Some of an entry point's fields, read in a function that has their address as ``f.args.fields``."""
    slots = {name: slot for slot, name in enumerate(fields)}
    return SimpleNamespace(**{n: f.args.fields.at(slots[n]).cast(fields[n]).load() for n in names})
