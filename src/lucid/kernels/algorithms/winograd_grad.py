"""Winograd's weight gradient, the adjoint of F(m, r) in the filter: see ``winograd_grad_kernel`` for the loops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from math import ceil, prod
from operator import truediv
from typing import Any

import numpy as np

from lucid.core.geometry import ConvSpec, Sizes
from lucid.kernels import target
from lucid.kernels.algorithms import winograd_grad_kernel as kernel
from lucid.kernels.algorithms.base import (
    GHZ,
    IN_ORDER,
    SCATTERED,
    Executable,
    address,
    handed_ns,
    memory_cycles,
    priced,
    shared_tasks,
    turns_of,
    useful_threads,
)
from lucid.kernels.algorithms.depthwise_sums import rows_adder
from lucid.kernels.algorithms.frames import Cut, Window, fill_frame_address
from lucid.kernels.algorithms.tile import Tile
from lucid.kernels.algorithms.winograd_layout import MOST_GROWTH, MOST_POINTS, Form, divided, outputs_of
from lucid.kernels.algorithms.winograd_passes import most_places
from lucid.kernels.algorithms.winograd_transforms import Summed
from lucid.kernels.ir import BY_DTYPE, f32
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, Launch
from lucid.kernels.plan import WORKSPACE_BYTES, Plan, Problem

Array = np.ndarray[Any, Any]

_LINE_BYTES = 64
#: Elements between slices: a power of two apart they would share a few cache sets.
_APART = 16
#: Rows of the register tile, by the registers of the machine, and vectors, of which the problem takes what fits best.
_ROWS = {32: 8, 16: 4}
_VECTORS = {32: (1, 2, 3), 16: (1, 2)}
#: Tiles of outputs that are weighed, those of the least work, and of those with a summed axis; and tiles of a box.
_FORMS, _SUMMED_FORMS, _BOXES = 2, 1, (32, 64, 192)
_PARTS = (32, 64, 128)
_CHUNKS = (1, 2, 4, 8)
#: The most products that uneven strides may leave of the definition's, by the turns of a vector.
_SAVED = {1: 0.7, 2: 0.75}
#: Numbers of threads that a split is made for, and the work that each must have: all get the same tasks. A second one
#: is nearly always there; for more, more chunks would be added up.
_WORKERS_NS = {1: 0.0, 2: 30_000.0, 4: 250_000.0, 8: 250_000.0}

# Nanoseconds of one thread of a core at 4 GHz that issues two vector products a cycle. Least squares over 103 plans of
# random layers: half of them are within 9 %, four fifths within 20 %.
_WAITING = 1.33  # times what one stream waits for memory
_COST_NS = {
    "product": 0.15,  # of vectors
    "lone product": 0.15,  # of those, in tiles of one vector, which leave units idle where a product takes one turn
    "tile": 3.3,
    "sum": 0.03,  # a vector of m read or written, in the second level cache
    "far sum": 0.13,  # beyond it
    "line": 0.21,  # a vector read or written on the way through a transform
    "far": 0.1,  # a vector of a transformed operand stored beyond the second level cache
    "far read": 0.2,
    "operand": 0.0,  # a line of x or g from beyond the second level cache
    "fill": 0.55,  # a vector of a frame
    "turn": 0.57,
    "dealt": 0.05,  # a number of x, where residues are dealt out
    "plane": 2.4,  # a channel's plane of a frame
    "slice": 0.78,  # a vector of a slice added up
    "result": 2.0,  # a vector of gw
    "dealt result": 1.5,  # more for one whose taps are dealt out to residues
    "task": 195.0,
}
#: The same where they are others, on a Zen 4: vectors of 64 bytes are computed in halves. Least squares over 524 splits
#: of 134 random layers: half of them are within 4 %, nine tenths within 11 %.
_HALVED_NS = {
    "product": 0.29,
    "lone product": 0.195,
    "sum": 0.25,
    "far sum": 0.47,
    "line": 0.52,
    "operand": 2.6,
    "fill": 1.45,
    "result": 3.2,
}
_CALL_NS = 6000.0  # 3150 alone; two threads wait for each other


@dataclass(frozen=True, slots=True)
class Split:
    """The tiles of a box, the channels of a part, chunks of boxes; or all boxes ``prepared`` beforehand."""

    tile: Tile
    box: int
    k_part: int
    c_part: int
    chunks: int
    prepared: bool


def _aligned(elements: int) -> int:
    return ceil(elements / _APART) * _APART


def windows(problem: Problem, form: Form) -> tuple[Window, Window]:
    """The tiles as a strided window over x, and over g; where taps are dilated, a tile of every residue in one."""
    spec, apart, one = problem.spec, _apart(problem), (1, 1, 1)
    step, advance, samples = (
        _scaled(tuple(getattr(axis, name) for axis in form.axes), apart) for name in ("outputs", "advance", "samples")
    )
    tiles = tuple(-(-n // each) for n, each in zip(problem.out, step, strict=True))
    even = _even(spec)
    patches = ConvSpec(_scaled(samples, even), _scaled(advance, even), one, spec.padding)
    outputs = ConvSpec(step, step, one, ((0, 0),) * 3)
    return (
        Window(patches, problem.batch, problem.size, tiles),
        Window(outputs, problem.batch, problem.out, tiles),
    )


def _scaled(sizes: Sizes, by: Sizes) -> Sizes:
    return tuple(n * s for n, s in zip(sizes, by, strict=True))


def _apart(problem: Problem) -> Sizes:
    """From a tile's sample to its next, along each axis."""
    return tuple(d if k > 1 else 1 for k, d in zip(problem.spec.kernel, problem.spec.dilation, strict=True))


def taps(spec: ConvSpec) -> Sizes:
    """Of a residue of the stride, along each axis."""
    return tuple(k // s for k, s in zip(spec.kernel, _even(spec), strict=True))


def _even(spec: ConvSpec) -> Sizes:
    """Of each axis, residues of the stride that are channels of their own."""
    return tuple(divided(k, s)[0] for k, s in zip(spec.kernel, spec.stride, strict=True))


def _uneven(spec: ConvSpec) -> Sizes:
    return tuple(divided(k, s)[1] for k, s in zip(spec.kernel, spec.stride, strict=True))


def forms(problem: Problem) -> tuple[Form, ...]:
    """The tiles that a gradient can be summed over."""
    kernel, spec = taps(problem.spec), problem.spec
    strides, sizes = _uneven(spec), map(ceil, map(truediv, problem.out, _apart(problem)))
    summed = kernel[0] > 1 and kernel[1:] != (1, 1) and spec.dilation[0] == 1 and set(spec.stride) == {1}
    lone = sum(taps > 1 for taps in kernel) == 1
    choices = tuple(outputs_of(*axis, lone=lone) for axis in zip(kernel, sizes, strides, strict=True))
    return _forms(kernel, strides, choices, summed)


@lru_cache(maxsize=64)
def _forms(kernel: Sizes, strides: Sizes, choices: tuple[Sizes, ...], summed: bool) -> tuple[Form, ...]:
    """With all axes transformed, and perhaps with the outer one ``summed`` as it is: a tile is then of one plane."""
    if set(kernel) == {1}:
        return ()
    every = [Form.of(outputs, kernel, strides=strides) for outputs in product(*choices)]
    if summed:
        every += [Form.of((1, *outputs), kernel, summed=True) for outputs in product(*choices[1:])]
    return tuple(form for form in every if _is_offered(form))


def _is_offered(form: Form) -> bool:
    """Sums over tiles stay in the caches, errors are small, and an uneven stride saves a quarter of the products."""
    return form.points <= MOST_POINTS and growth(form) <= MOST_GROWTH and _saves(form, max(_SAVED.values()))


def _saves(form: Form, most: float) -> bool:
    """Whether an uneven stride leaves no more of the products.

    Frames of such strides are as large as the direct gradient's, and each sample is transformed for few tiles: where a
    product takes one turn, kernels of 3 taps along one axis, with a quarter fewer, take as long as without.
    """
    return not form.uneven or form.products <= most * form.outputs * form.taps


def growth(form: Form) -> float:
    """As ``winograd.growth``, of the gradient's transforms."""
    return prod(axis.gradient_growth for axis in form.axes)


def tiles(problem: Problem, form: Form) -> int:
    """Tiles of the whole batch."""
    axes = zip(problem.out, form.axes, _apart(problem), strict=True)
    return problem.batch * prod(ceil(n / (axis.outputs * d)) * d for n, axis, d in axes)


@lru_cache(maxsize=256)
def _cuts(problem: Problem, form: Form, box: int) -> tuple[Cut, Cut]:
    x, g = windows(problem, form)
    each = max(1, box // prod(_apart(problem)))
    if form.planes.filter == 1:
        return x.cut(each), g.cut(each)
    planes = _column(x.out, each, form.planes.filter)
    return Cut(x, planes), Cut(g, planes)


def _column(tiles: Sizes, each: int, taps: int) -> Sizes:
    """A box of about ``each`` tiles of one image, of several planes: x has ``taps - 1`` planes more than g.

    Boxes that are cut short must have the first of a full one's tiles, so the inner axes are cut into equal parts.
    """
    depth = ceil(tiles[0] / ceil(tiles[0] / (2 * taps)))
    across = _divisor(tiles[2], each // depth)
    down = _divisor(tiles[1], each // depth // across) if across == tiles[2] else 1
    return 1, depth, down, across


def _divisor(number: int, most: int) -> int:
    return next(part for part in range(max(1, min(most, number)), 0, -1) if number % part == 0)


def _halo(cut: Cut, form: Form) -> int:
    """Tiles of x that a box has beyond those of g: of the planes that its last ones meet."""
    return (form.planes.filter - 1) * cut.box[2] * cut.box[3]


def _residues_of(problem: Problem, form: Form) -> int:
    """Sums of a product: of the residues of the stride, or of the taps of a summed axis."""
    return prod(_even(problem.spec)) * form.planes.filter


def _row_width(isa: ISA, lanes: int) -> int:
    return max(lanes, _ROWS[isa.registers])


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that the loops must know of a plan, in elements; steps of operands are those of the tasks' boxes."""

    x_cut: Cut
    g_cut: Cut
    numbers: dict[str, int]
    x: dict[str, int]
    g: dict[str, int]
    shared: int
    sums: int

    def total(self, crew: int) -> int:
        """Of the workspace, for a number of threads."""
        return self.shared + self.sums + crew * self.numbers["own"]

    @classmethod
    def of(cls, problem: Problem, form: Form, split: Split, isa: ISA) -> Layout:
        """For a problem and the way it is split."""
        lanes, (x_cut, g_cut) = split.tile.lanes, _cuts(problem, form, split.box)
        k_parts, c_parts = ceil(problem.group_out / split.k_part), ceil(problem.group_in / split.c_part)
        k, c = (problem.group_out, problem.group_in) if split.prepared else (split.k_part, split.c_part)
        stride, one, residues, apart = _even(problem.spec), (1, 1, 1), _residues_of(problem, form), _apart(problem)
        width, halo = _row_width(isa, lanes), _halo(x_cut, form) * prod(apart)
        x = _operand(x_cut, form, lanes, width, c, problem.c_in, problem.group_in, stride, apart, halo)
        g = _operand(g_cut, form, lanes, split.tile.columns, k, problem.c_out, problem.group_out, one, apart)
        wide, rows = (ceil(part / o["width"]) * o["width"] for part, o in ((split.k_part, g), (split.c_part, x)))
        m_step, (_, kernel_y, kernel_x) = wide * rows * residues + _APART, problem.spec.kernel
        taps_apart = halo // max(form.planes.filter - 1, 1) * width
        numbers = {
            "boxes": x_cut.boxes, "chunks": split.chunks, "groups": problem.groups, "group_in": problem.group_in,
            "group_out": problem.group_out, "taps": problem.spec.taps, "k_part": split.k_part, "c_part": split.c_part,
            "k_parts": k_parts, "c_parts": c_parts, "parts": problem.groups * k_parts * c_parts,
            "products": form.points, "tile_rows": split.tile.rows, "m_step": m_step,
            "m_block": rows * residues * g["width"],
            "m_size": form.points * m_step, "sums_step": (x if problem.transposed else g)["vectors"] * lanes,
            "y_step": form.x.products, "z_step": form.x.products * form.y.products, "residues": residues,
            "m_residue": rows * g["width"], "v_residue": taps_apart or x["residue"],
            "taps_x": stride[2], "taps_y": stride[1] * kernel_x, "taps_z": stride[0] * kernel_y * kernel_x,
        }  # fmt: skip
        slots = x_cut.boxes * problem.groups
        numbers["u_shared"] = slots * x["slot"]
        numbers |= _own(form, split, numbers, x, g, lanes)
        shared = 0
        if split.prepared:
            shared = slots * (x["slot"] + g["slot"])
        elif split.chunks > 1:
            shared = numbers["parts"] * split.chunks * numbers["m_size"]
        sums = _aligned(slots * numbers["sums_step"]) if problem.bias else 0
        return cls(x_cut, g_cut, numbers, x, g, _aligned(shared), sums)


def _operand(
    cut: Cut, form: Form, lanes: int, width: int, part: int, channels: int, in_group: int, stride: Sizes,
    apart: Sizes, halo: int = 0,
) -> dict[str, int]:  # fmt: skip
    """The numbers of an operand's record that ``Cut.fields`` does not have; each residue has channels of its own.

    A place in a box is as many tiles as there are residues of the dilation; ``halo`` tiles lie behind the last.
    """
    size, frame, places = prod(cut.window.size), cut.frame, prod(apart)
    block, (z, y, x) = (cut.pixels * places + halo) * width, _scaled(stride, apart)
    residue = ceil(part / width) * block
    step = prod(stride) * residue + _APART
    return {
        "image_step": channels * size, "channel_step": size, "plane": cut.plane, "image": prod(frame),
        "layer": z * frame[1] * frame[2] * lanes, "row": y * frame[2] * lanes, "pixel": x * lanes,
        "residues": prod(stride), "residue": residue, "places": places, "halo": halo,
        "each": form.outputs * places if _is_part(cut) else 0, "channels": channels,
        "vectors": ceil(in_group / lanes), "width": width, "block": block, "step": step,
        "slot": form.points * step,
    }  # fmt: skip


def _starts(cut: Cut, apart: Sizes, more: int = 0) -> Array:
    """Where each tile of a full box and ``more`` planes starts in the frame, the residues of a place side by side."""
    images, depth, *rest = cut.box
    deeper = Cut(cut.window, (images, depth + more, *rest))
    starts: Array = np.add.outer(deeper.starts(), _residues(apart, cut.frame)).ravel()
    return starts


def _is_part(cut: Cut) -> bool:
    """Whether every frame is a run of an image as it is, so that none need be filled."""
    spec, size, frame, out = cut.window.spec, cut.window.size, cut.frame, cut.window.out
    whole = spec.kernel == spec.stride and size == tuple(n * step for n, step in zip(out, spec.stride, strict=True))
    rows, layers = frame[2] == size[2] or frame[:2] == (1, 1), frame[1] == size[1] or frame[0] == 1
    return whole and rows and layers


def _own(
    form: Form, split: Split, numbers: dict[str, int], x: dict[str, int], g: dict[str, int], lanes: int
) -> dict[str, int]:
    """Where the parts of a thread's workspace start: v of a box, u, m, a frame, the same turned, a grid, gw's rows."""
    plane, taps = max(x["plane"], g["plane"]), numbers["taps"]
    between = max(most_places(form.sizes(name)) for name in ("patch", "gradient", "collect"))
    sizes = {
        "u_at": 0 if split.prepared else x["slot"],
        "m_at": 0 if split.prepared else g["slot"],
        "frame_at": 0 if split.chunks > 1 else numbers["m_size"],
        "panel_at": lanes * plane + lanes,
        "spare_at": (plane + lanes) * lanes,
        "line_at": max(2 * between, lanes) * lanes,
        "own": (kernel.FINISHED * taps + lanes) * lanes,
    }
    at, starts = 0, {}
    for name, size in sizes.items():
        at = _aligned(at + size)
        starts[name] = at
    return starts


def plan(problem: Problem, isa: ISA) -> Plan:
    """The tiles and the split that are expected to be fastest."""
    found = best(problem, isa)
    assert found is not None, "what does not fit has been refused"
    return planned(problem, isa, *found)


def planned(problem: Problem, isa: ISA, form: Form, split: Split) -> Plan:
    """A form and a split as a plan."""
    sizes, tile = Layout.of(problem, form, split, isa), split.tile
    expected_ns = _expected_ns(problem, form, split, sizes)
    return Plan(
        "winograd",
        problem,
        isa.name,
        expected_ns,
        handed_ns=_handed_ns(split, sizes),
        tasks=shared_tasks(expected_ns * GHZ, sizes.numbers["parts"] * split.chunks),
        tile=(("rows", tile.rows), ("vectors", tile.vectors), ("lanes", tile.lanes)),
        blocking=(
            *((f"outputs_{axis}", minimal.outputs) for axis, minimal in zip("zyx", form.axes, strict=True)),
            ("summed", int(isinstance(form.z, Summed))),
            ("box", split.box),
            ("k_part", split.k_part),
            ("c_part", split.c_part),
            ("chunks", split.chunks),
            ("prepared", int(split.prepared)),
        ),
        workspace_bytes=f32.bytes * sizes.total(1),
        why=f"{form.products} products of a tile where the definition has {form.outputs * problem.spec.taps}",
        sums_upstream=True,
    )


def _form(plan: Plan) -> Form:
    spec, outputs = plan.problem.spec, [plan[f"outputs_{axis}"] for axis in "zyx"]
    return Form.of(outputs, taps(spec), summed=bool(plan["summed"]), strides=_uneven(spec))


def error_growth(plan: Plan) -> float:
    """A result is within so many times the bound of direct summation, where that is largest in its channels.

    A sum over tiles and its transforms' sums take the place of one over pixels.
    """
    problem, form = plan.problem, _form(plan)
    roundings = tiles(problem, form) + sum(axis.taps + 2 * axis.samples for axis in form.axes)
    return growth(form) * roundings / (problem.batch * problem.pixels)


def _vector_products(problem: Problem, tile: Tile) -> float:
    """Time of the steps of one tile of outputs and one sum, all channels, in vector products at the full rate."""
    return ceil(problem.group_in / tile.rows) * ceil(problem.group_out / tile.columns) * tile.step_products


def work(problem: Problem, form: Form, split: Split, sizes: Layout) -> dict[str, float]:
    """What one thread does for all groups, counted in the units of ``_COST_NS``."""
    tile, count, lanes, n = split.tile, tiles(problem, form), split.tile.lanes, sizes.numbers
    boxes, l2, step, multiplied = (
        n["boxes"],
        target.cpu().l2_bytes,
        prod(_even(problem.spec)),
        form.points * n["residues"],
    )
    calls = ceil(problem.group_in / tile.rows) * ceil(problem.group_out / tile.columns) * multiplied * boxes
    again = 1 if split.prepared or not split.chunks else split.chunks
    x_passes, g_passes = (1, 1) if split.prepared else (n["k_parts"], n["c_parts"])
    x_vectors, g_vectors = sizes.x["vectors"] * x_passes, sizes.g["vectors"] * g_passes
    patches = step * (1 + _halo(sizes.x_cut, form) / sizes.x_cut.pixels)  # of a tile of g
    stored = form.points * count * (x_vectors * patches + g_vectors)
    moved = count * (x_vectors * patches * form.lines("patch") + g_vectors * form.lines("gradient"))
    results = n["residues"] * problem.group_in * ceil(problem.group_out / lanes)
    moved += results * form.lines("collect")
    sums = calls * tile.rows * tile.vectors * (2 - again / boxes)
    m_bytes, read = n["m_size"] * f32.bytes, 0.0
    if split.prepared:
        rows_read = n["k_parts"] * patches * problem.group_in + n["c_parts"] * problem.group_out
        read = form.points * count * rows_read / lanes
    operands = [(sizes.x, sizes.x_cut, x_vectors), (sizes.g, sizes.g_cut, g_vectors)]
    filled = [operand for operand in operands if not operand[0]["each"]]
    counts = {
        "product" if tile.vectors > 1 else "lone product": multiplied * count * _vector_products(problem, tile),
        "tile": calls,
        "far sum" if m_bytes > l2 * 0.7 else "sum": sums,
        "line": moved,
        "far": stored if split.prepared else 0,
        "far read": read,
        "operand": _far_lines(problem, x_passes, g_passes),
        "turn": boxes * sum(operand["plane"] * vectors for operand, _, vectors in operands),
        "fill": boxes * sum(operand["plane"] * vectors for operand, _, vectors in filled),
        "dealt": problem.batch * prod(problem.size) * problem.group_in * x_passes if step > 1 else 0,
        "plane": lanes * boxes * sum(vectors * cut.box[0] * cut.frame[0] for _, cut, vectors in filled),
        "slice": form.points * results * split.chunks if split.chunks > 1 else 0,
        "result": results * n["taps"] // n["residues"],
        "dealt result": results * n["taps"] // n["residues"] if step > 1 else 0,
        "task": n["parts"] / problem.groups * split.chunks,
    }  # fmt: skip
    return {unit: problem.groups * number for unit, number in counts.items()}


def _far_lines(problem: Problem, x_passes: int, g_passes: int) -> float:
    """Lines of x and g, of one group, that so many passes bring from beyond the second level cache."""
    x, g = problem.group_in * prod(problem.size), problem.group_out * problem.pixels
    far = max(0.0, 1 - target.cpu().l2_bytes / (problem.batch * problem.groups * (x + g) * f32.bytes))
    return far * problem.batch * (x * x_passes + g * g_passes) * f32.bytes / _LINE_BYTES


def _expected_ns(problem: Problem, form: Form, split: Split, sizes: Layout) -> float:
    counts = work(problem, form, split, sizes)
    waiting = _WAITING * memory_cycles(problem.traffic_bytes) / GHZ
    return _CALL_NS + waiting + priced(counts, _COST_NS, _HALVED_NS, turns_of(split.tile.lanes, f32))


def _weighed_ns(problem: Problem, form: Form, split: Split, sizes: Layout) -> float:
    """Time of all threads, of which the last has more than its share, on average over numbers of threads."""
    expected, tasks = _expected_ns(problem, form, split, sizes), sizes.numbers["parts"] * split.chunks
    workers = [n for n, share in _WORKERS_NS.items() if expected >= n * share]
    waited = 2 * _handed_ns(split, sizes) * (2 in workers)  # what more of them wait for is not known
    return (expected * sum(n * ceil(tasks / n) / tasks for n in workers) + waited) / len(workers)


def _handed_ns(split: Split, sizes: Layout) -> float:
    """What each of two threads waits for what the other made.

    Of prepared operands a part reads all of one and a share of the other, 3/4 of them between two; of slices each
    thread adds up its half.
    """
    if turns_of(split.tile.lanes, f32) == 1:
        return 0.0
    others_bytes = sizes.shared * f32.bytes / 2
    return handed_ns(others_bytes * 3 / 4, IN_ORDER) if split.prepared else handed_ns(others_bytes / 2, SCATTERED)


def _splits(problem: Problem, form: Form, isa: ISA) -> Iterator[Split]:
    """Ways to cut the work that keep within the workspace."""
    lanes = isa.lanes(f32)
    rows = _ROWS[isa.registers]
    tile = min(
        (Tile(rows, v, lanes) for v in _VECTORS[isa.registers]),
        key=lambda tile: (ceil(problem.group_out / tile.columns) * tile.step_products, -tile.vectors),
    )
    width, count = _row_width(isa, lanes), tiles(problem, form)
    k_parts = {_whole(part, tile.columns, problem.group_out) for part in (*_PARTS, problem.group_out)}
    residues, step = _residues_of(problem, form), prod(_even(problem.spec))
    shares = (*(part // residues for part in _PARTS), problem.group_in)
    c_parts = {_whole(part, width, problem.group_in) for part in shares}
    parts = sorted(product(k_parts, c_parts))
    room = WORKSPACE_BYTES // (problem.c_out * problem.group_in * residues * form.points * f32.bytes)
    for box, (k_part, c_part) in product(sorted({min(box, count) for box in _BOXES}), parts):
        chunks = [n for n in _CHUNKS if n == 1 or n <= min(room, count // box)]
        yield from (Split(tile, box, k_part, c_part, n, False) for n in chunks)
        if (problem.c_out + step * problem.c_in) * form.points * count * f32.bytes <= WORKSPACE_BYTES:
            yield Split(tile, box, k_part, c_part, 1, True)


def _whole(part: int, step: int, channels: int) -> int:
    """About ``part`` channels, in steps, of so many."""
    return min(max(1, ceil(part / step)) * step, channels)


@lru_cache(maxsize=1024)
def best(problem: Problem, isa: ISA) -> tuple[Form, Split] | None:
    """The form and the split that are expected to be fastest; none if all take too much."""
    offered = [form for form in forms(problem) if _saves(form, _SAVED[target.cpu().turns(isa)])]
    every, options = sorted(offered, key=lambda form: form.products * tiles(problem, form)), []
    summed = [form for form in every if isinstance(form.z, Summed)]
    for form in [form for form in every if form not in summed][:_FORMS] + summed[:_SUMMED_FORMS]:
        for split in _splits(problem, form, isa):
            sizes = Layout.of(problem, form, split, isa)
            if split.chunks > sizes.numbers["boxes"] or sizes.total(1) * f32.bytes > WORKSPACE_BYTES:
                continue
            options.append((_weighed_ns(problem, form, split, sizes), form, split))
    if not options:
        return None
    _, form, split = min(options, key=lambda option: option[0])
    return form, _evened(problem, form, split)


def _evened(problem: Problem, form: Form, split: Split) -> Split:
    """The split with as many boxes for each of two threads, where vectors take two turns and a box so much longer."""
    boxes = _cuts(problem, form, split.box)[0].boxes
    if split.chunks == 1 or boxes % 2 == 0 or turns_of(split.tile.lanes, f32) == 1:
        return split
    smaller = replace(split, box=ceil(tiles(problem, form) / (boxes + 1)))
    found = _cuts(problem, form, smaller.box)[0].boxes
    return smaller if found % 2 == 0 and found <= boxes + max(1, boxes // 8) else split  # whole rows may make many more


def bind(plan: Plan, isa: ISA) -> Executable:
    """The kernels with the problem's numbers."""
    tile = Tile(plan["rows"], plan["vectors"], plan["lanes"])
    split = Split(tile, plan["box"], plan["k_part"], plan["c_part"], plan["chunks"], bool(plan["prepared"]))
    return bound(plan.problem, _form(plan), split, isa)


def bound(problem: Problem, form: Form, split: Split, isa: ISA) -> Executable:
    """Tables, records and every number of the split, fixed for the shape."""
    sizes, stored, lanes = Layout.of(problem, form, split, isa), BY_DTYPE[problem.dtype], split.tile.lanes
    records, tables, transforms = [], [], kernel.transforms(form)
    planes, stride = form.planes.filter, _even(problem.spec)
    operands = (
        (sizes.x_cut, sizes.x, "patch", stride, planes - 1),
        (sizes.g_cut, sizes.g, "gradient", (1, 1, 1), 0),
    )
    for cut, numbers, matrix, steps, more in operands:
        starts, firsts = _starts(cut, _apart(problem), more) * lanes, _residues(steps, cut.frame) * lanes
        tables += [starts, firsts]
        following = numbers["image_step"] * cut.box[0]
        records.append(
            np.array(
                [*cut.fields(following), transforms.address(matrix), *map(address, tables[-2:]), *numbers.values()],
                np.int64,
            )
        )
    rows = np.arange(kernel.FINISHED, dtype=np.int64) * sizes.g["width"]
    none = np.zeros(split.tile.rows, np.float32)
    taps_at = _residues((stride[0] * planes, *stride[1:]), problem.spec.kernel) * lanes
    code = kernel.loops(stored)
    parts = kernel.parts(stored)
    slots = kernel.fields(stored)
    fixed = {
        "sums_g": int(problem.sums_g), "sums_x": int(problem.transposed), "none": address(none),
        "x_record": address(records[0]), "g_record": address(records[1]), "rows": address(rows),
        "taps_at": address(taps_at), "fill": fill_frame_address(problem.dtype),
        "add_rows": rows_adder(problem.dtype) if problem.bias else 0,
        "turn": kernel.turn_address(f32), "turn_in": kernel.turn_address(stored),
        "tile": kernel.tile_address(split.tile, sizes.x["width"]),
        "collect": transforms.address("collect"),
        **{name: parts.address(name) for name in ("prepare", "multiply", "results")}, **sizes.numbers,
    }  # fmt: skip
    entries = _steps(code, problem, split, sizes)
    cycles = _expected_ns(problem, form, split, sizes) * GHZ
    places = dict.fromkeys(("x", "g", "gw", "gb", "shared"), 0)
    places |= {"sums": sizes.shared * f32.bytes, "scratch": (sizes.shared + sizes.sums) * f32.bytes}
    return Launch(
        entries,
        [(places | fixed)[name] for name in slots],
        (0, 1, 2, 3 if problem.bias else NOTHING, WORKSPACE, WORKSPACE, WORKSPACE),
        shared_bytes=places["scratch"],
        own_bytes=sizes.numbers["own"] * f32.bytes,
        most_threads=useful_threads(cycles, max(tasks for _, tasks, _ in entries)),
        keep=(records, tables, rows, none, taps_at),
    )


def _residues(stride: Sizes, grid: Sizes) -> Array:
    """Where each residue starts in a grid of samples or taps, int64."""
    z, y, x = (np.arange(n) for n in stride)
    firsts: Array = ((z[:, None, None] * grid[1] + y[:, None]) * grid[2] + x).ravel().astype(np.int64)
    return firsts


def _steps(code: Any, problem: Problem, split: Split, sizes: Layout) -> list[tuple[int, int, int]]:
    """Entry points, their tasks and how many go at once."""
    numbers, slots = sizes.numbers, sizes.numbers["boxes"] * problem.groups
    if split.prepared:
        steps = [
            ("prepare_all", slots * (sizes.x["vectors"] + sizes.g["vectors"])),
            ("multiply_parts", numbers["parts"]),
        ]
    else:
        steps = [("accumulate", numbers["parts"] * split.chunks)]
        if split.chunks > 1:
            units = ceil(split.k_part / sizes.g["width"]) * ceil(split.c_part / kernel.FINISHED)
            steps.append(("finish", numbers["parts"] * units))
    return [(code.address(name), tasks, 1) for name, tasks in steps]
