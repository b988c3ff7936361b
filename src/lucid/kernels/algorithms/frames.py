"""Frames: a box of output pixels and the zero-padded piece of x that it reads, as tables of offsets.

All of padding, stride, dilation and rank ends here. What reads a frame sees two lists of numbers: where each pixel
starts, and how far from there each tap lies::

    x padded        . . . . . . .      box of pixels: 2 rows of 3 (stride 2)      pixel starts   0  2  4
                    . a b c d e .      frame: rows 0 to 4, columns 0 to 6                       14 16 18
                    . f g h i j .      a pixel and a tap meet at                  tap offsets    0  1  2
                    . k l m n o .          frame[start + offset]                                 7  8  9 ...
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np

from lucid.core.geometry import ConvSpec, Sizes, window_extent
from lucid.kernels.ir import Function, Module, Type, Value, i64, lanes_below, maximum, minimum, ptr, select, shuffle
from lucid.kernels.plan import RANK, Problem

Array = np.ndarray[Any, Any]

#: The geometry that a kernel takes at run time, in the order of ``Cut.fields``.
GEOMETRY = (
    "batch", "d", "h", "w", "od", "oh", "ow", "box_n", "box_d", "box_h", "box_w", "grid_d", "grid_h", "grid_w",
    "frame_d", "frame_h", "frame_w", "stride_d", "stride_h", "stride_w", "low_d", "low_h", "low_w",
)  # fmt: skip


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


@dataclass(frozen=True, slots=True)
class Cut:
    """A window's output pixels cut into boxes of (images, depth, rows, columns)."""

    window: Window
    box: Sizes

    @property
    def grid(self) -> Sizes:
        """Boxes along every axis."""
        sizes = (self.window.batch, *self.window.out)
        return tuple(-(-size // box) for size, box in zip(sizes, self.box, strict=True))

    @property
    def boxes(self) -> int:
        """How many there are."""
        return prod(self.grid)

    @property
    def pixels(self) -> int:
        """Pixels of a full box."""
        return prod(self.box)

    @property
    def frame(self) -> Sizes:
        """Sizes of the piece of padded x that a box of one image reads."""
        spec = self.window.spec
        return tuple(
            (b - 1) * s + window_extent(k, d)
            for b, s, k, d in zip(self.box[1:], spec.stride, spec.kernel, spec.dilation, strict=True)
        )

    @property
    def plane(self) -> int:
        """Elements of a channel's frame, all images of a box."""
        return self.box[0] * prod(self.frame)

    def widened(self, columns: int) -> Cut:
        """The same boxes, in frames of ``columns`` columns; the window has no dilation."""
        spec = self.window.spec
        last = columns - (self.box[3] - 1) * spec.stride[2]
        return replace(self, window=replace(self.window, spec=replace(spec, kernel=(*spec.kernel[:2], last))))

    def _offsets(self, counts: Sizes, steps: Sizes) -> Array:
        """Offsets in the frame of a grid of positions (d, h, w)."""
        _, rows, columns = self.frame
        strides = (rows * columns, columns, 1)
        axes = [np.arange(n) * s * p for n, s, p in zip(counts, steps, strides, strict=True)]
        offsets: Array = (axes[0][:, None, None] + axes[1][:, None] + axes[2]).astype(np.int64)
        return offsets.ravel()

    def starts(self) -> Array:
        """Where each pixel of a full box starts in the frame, int64."""
        one = self._offsets(self.box[1:], self.window.spec.stride)
        images = np.arange(self.box[0]) * prod(self.frame)
        return np.add.outer(images, one).ravel()

    def taps(self, channels: int) -> Array:
        """How far each (channel, tap) lies from a pixel's start, int64."""
        one = self._offsets(self.window.spec.kernel, self.window.spec.dilation)
        return np.add.outer(np.arange(channels) * self.plane, one).ravel()

    def fields(self) -> tuple[int, ...]:
        """The numbers named by ``GEOMETRY``."""
        window, spec = self.window, self.window.spec
        lows = tuple(low for low, _ in spec.padding)
        return (
            window.batch, *window.size, *window.out, *self.box, *self.grid[1:], *self.frame, *spec.stride, *lows,
        )  # fmt: skip


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


def write_fill_row(module: Module, element: Type, lanes: int) -> Function:
    """Adds ``fill_row(to, source, left, right, count)``: to[i] = source[i] for left <= i < right, else 0, i < count.

    Whole vectors are written, so up to ``lanes - 1`` elements beyond ``count`` become 0.
    """
    f = module.function("fill_row", to=ptr(element), source=ptr(element), left=i64, right=i64, count=i64)
    a = f.args
    right = minimum(a.right, a.count)
    first, last = minimum(a.left, a.count), right - (lanes - 1)

    def edge(i: Value) -> None:
        mask = lanes_below(f, right - i, lanes) & ~lanes_below(f, a.left - i, lanes)
        a.to.store(a.source.load(i, lanes, mask), i)

    with f.loop(0, first, lanes) as head:
        edge(head.i)
    start = (first + (lanes - 1)) // lanes * lanes
    with f.loop(start, last, lanes) as middle:
        a.to.store(a.source.load(middle.i, lanes), middle.i)
    with f.loop(start + (maximum(last - start, 0) + (lanes - 1)) // lanes * lanes, a.count, lanes) as tail:
        edge(tail.i)
    return f


def write_split_row(module: Module, element: Type, lanes: int, stride: int) -> Function:
    """Adds ``split_row(to, source, count, stride)``: to[phase][i] = source[i stride + phase], for whole rows of phases.

    ``stride`` is 2, where a phase is a multiple of ``lanes`` long, or 0 for any.
    """
    f = module.function("split_row", to=ptr(element), source=ptr(element), count=i64, stride=i64)
    a = f.args
    length = a.count // (stride or a.stride)
    if stride == 2 and lanes > 1:
        with f.loop(0, length, lanes) as i:
            low, high = (a.source.load(i.i * 2 + k, lanes) for k in (0, lanes))
            for k in (0, 1):
                a.to.store(shuffle(low, high, range(k, 2 * lanes, 2)), k * length + i.i)
    else:
        with f.loop(0, a.stride) as phase, f.loop(0, length) as i:
            a.to[phase.i * length + i.i] = a.source[i.i * a.stride + phase.i]
    return f


def write_fill_frame(module: Module, element: Type, lanes: int, fields: dict[str, Type], stride: int = 1) -> Function:
    """Adds ``fill_frame(fields, to, source, channels, images, image_stride, d, h, w)``.

    ``to[channel][image]`` become the frames of the box at output position (d, h, w); ``source`` is the first channel of
    the first image, planar. With a ``stride`` of 2, or 0 for any, each row of a frame is split by phase, so that pixels
    side by side lie side by side; a row behind the last frame is scratch then.
    """
    fill_row = write_fill_row(module, element, lanes)
    split_row = write_split_row(module, element, lanes, stride) if stride != 1 else None
    data = ptr(element)
    f = module.function(
        "fill_frame", fields=ptr(i64), to=data, source=data, channels=i64, images=i64, image_stride=i64,
        d=i64, h=i64, w=i64,
    )  # fmt: skip
    p, a = f.args, read_fields(f, fields, GEOMETRY)
    top, up, left = (o * s - low for o, s, low in (
        (p.d, a.stride_d, a.low_d), (p.h, a.stride_h, a.low_h), (p.w, a.stride_w, a.low_w)
    ))  # fmt: skip
    size, frame = a.d * a.h * a.w, a.frame_d * a.frame_h * a.frame_w
    begin, end = maximum(-left, 0), a.w - left
    spare = p.to.at(p.channels * a.box_n * frame)
    with f.loop(0, p.channels) as c, f.loop(0, p.images) as n:
        plane = p.source.at(n.i * p.image_stride + c.i * size)
        target = p.to.at((c.i * a.box_n + n.i) * frame)
        with f.loop(0, a.frame_d) as z, f.loop(0, a.frame_h) as y:
            depth, row = top + z.i, up + y.i
            exists = depth.ult(a.d) & row.ult(a.h)
            to = target.at((z.i * a.frame_h + y.i) * a.frame_w)
            source = plane.at((depth * a.h + row) * a.w + left)
            stop = select(exists, end, 0)
            f.call(fill_row, to if split_row is None else spare, source, begin, stop, a.frame_w)
            if split_row is not None:
                f.call(split_row, to, spare, a.frame_w, a.stride_w)
    return f


def read_fields(f: Function, fields: dict[str, Type], names: Any) -> Any:
    """Some of an entry point's fields, read in a function that has their address as ``f.args.fields``."""
    slots = {name: slot for slot, name in enumerate(fields)}
    return SimpleNamespace(**{n: f.args.fields.at(slots[n]).cast(fields[n]).load() for n in names})
