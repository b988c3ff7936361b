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
                    ask for a line of the next box
                slice[block][s][v] += acc[s][v]

Tasks are (chunk of boxes) x (group, part of c_out, part of c_in). With several chunks each has a slice of its own, and
a second pass adds them in order; the split depends on the shape alone, so the bits do not depend on the threads.

Where halves are read in place, by kernels of one tap, what a tile is about to read may be ``staged``: widened just
before it into L1, and told apart where the stride is 2. A frame goes through L2, and has what strides leave out.

Of 1 x 1 kernels x and g may be swapped: lanes are c_in's then, and fewer channels are transposed where c_out is more.
A step's sums are then part of a row of gw, and where one box is all, whole tiles leave them there, not in a slice; of
half precision the last piece's do.

Of bfloat16, where there is an instruction for it, p are pairs of pixels: see ``weight_grad_kernel``.

The sums of g over its pixels, the gradient of a bias, are added up where the panels are made, if they are asked for.
A transposed layer's are those of x: every number of it belongs to one box, which adds its own up when it is about to
read them.

Where x is infinite or NaN, so is every dw that the definition says, and no other.
"""

from __future__ import annotations

from math import ceil, prod

from lucid.kernels.algorithms import weight_grad_kernel as kernel
from lucid.kernels.algorithms.base import GHZ, Executable, address, shared_tasks, sum_type, useful_threads
from lucid.kernels.algorithms.depthwise_sums import rows_adder
from lucid.kernels.algorithms.frames import Cut, Window
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.weight_grad_split import (
    Room,
    Split,
    Tile,
    Way,
    asks,
    boxes,
    on_stage,
    parts,
    places,
    split,
    split_as,
    swap_pays,
    swapped,
)
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, Launch, in_order
from lucid.kernels.plan import Plan, Problem

name = "weight_grad"
roles = ("grad_weight",)
dtypes = ("float32", "float64", "float16", "bfloat16")

_BOX = ("box_n", "box_d", "box_h", "box_w")


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Nothing."""
    return None


def plan(problem: Problem, isa: ISA) -> Plan:
    """The tile that wastes least, then the split into tasks that is expected to be fastest; x and g may be swapped."""
    turned = swap_pays(problem, isa)
    asked = swapped(problem) if turned else problem
    chosen, lanes_of = split(asked, isa, turned), "c_in" if turned else "c_out"
    tile, room = chosen.tile, Room.of(asked, chosen)
    filled = asked.group_out / (ceil(asked.group_out / chosen.wide) * chosen.wide)
    return Plan(
        name,
        problem,
        isa.name,
        expected_ns=chosen.cycles / GHZ,
        tasks=shared_tasks(chosen.cycles, chosen.parts * chosen.chunks),
        tile=(("vectors", tile.vectors), ("steps", tile.steps), ("columns", tile.columns)),
        blocking=(
            ("k_part", chosen.k_part),
            ("c_part", chosen.c_part),
            *zip(_BOX, chosen.cut.box, strict=True),
            ("chunks", chosen.chunks),
            ("swapped", int(turned)),
            ("in_place", int(chosen.in_place)),
            ("staged", int(chosen.staged)),
            ("depth", chosen.grain.depth),
        ),
        workspace_bytes=sum_type(problem).bytes * (room.shared + room.private),
        why=f"{lanes_of} in lanes ({filled:.0%} filled), {tile.steps} taps a pass, pixels in {chosen.chunks} chunks",
        sums_upstream=True,
    )


def _asked(plan: Plan) -> Problem:
    """What is computed, be it with x for g."""
    return swapped(plan.problem) if plan["swapped"] else plan.problem


def _split(plan: Plan, isa: ISA) -> Split:
    """The split that was chosen."""
    problem = _asked(plan)
    window = Window.of(problem)
    tile = Tile(plan["vectors"], plan["steps"] // plan["columns"], plan["columns"])
    grain = Grain(BY_DTYPE[problem.dtype], plan["depth"])
    cut = Cut(window, tuple(plan[name] for name in _BOX))
    parts = plan["k_part"], plan["c_part"]
    turned, *way = (bool(plan[name]) for name in ("swapped", "in_place", "staged"))
    return split_as(problem, tile, grain, isa.lanes(grain.sums), *parts, cut, plan["chunks"], Way(*way), turned)


def bind(plan: Plan, isa: ISA) -> Executable:
    """Tables of pixels, taps and lines, and every number of the split, fixed for the shape."""
    problem, chosen, turned = _asked(plan), _split(plan, isa), plan["swapped"]
    element, tile, cut, room = chosen.grain.sums, chosen.tile, chosen.cut, Room.of(problem, chosen)
    lines, asks_g, asks_x = asks(problem, chosen)
    starts, offsets = places(problem, chosen)
    tables = {
        "boxes": boxes(problem, chosen),
        "parts": parts(problem, tile, chosen.k_part, chosen.c_part, problem.spec.taps, bool(turned)),
        "starts": starts,
        "offsets": offsets,
        "asks": lines,
        "staged": on_stage(chosen),
    }
    calls = ceil(chosen.elements / chosen.sub) * chosen.blocks * ceil(chosen.c_part * problem.spec.taps / tile.steps)
    rounds_to = chosen.grain.stored if chosen.straight and chosen.grain.stored != element else None
    widens = chosen.in_place and not chosen.staged
    tile_codes = [
        kernel.tile_address(chosen.grain, widens, tile.vectors, tile.rows, tile.columns, rounded)
        for rounded in dict.fromkeys((None, rounds_to))
    ]
    code = {
        "tile": tile_codes[0],
        "tile_out": tile_codes[-1],
        "turn_in": kernel.turn_address(chosen.grain),
        "turn_out": kernel.turn_address(Grain(element)),
        "add_rows": rows_adder(problem.dtype) if problem.transposed else 0,
        "stage": kernel.stage_address(chosen.grain, cut.window.spec.stride[2]) if chosen.staged else 0,
    }
    gw_row = problem.group_out if turned else problem.group_in * problem.spec.taps
    (depth, height, width), alone = cut.window.size, chosen.chunks == 1  # then there are no slices to add up
    frame_d, frame_h, frame_w = cut.frame
    plane, taps = prod(problem.size), problem.spec.taps
    numbers = {
        "sums_g": int(problem.sums_g), "in_place": int(chosen.in_place), "straight": int(chosen.straight),
        "wide": chosen.wide, "steps": tile.steps, "x_image": problem.c_in * plane,
        "g_image": problem.c_out * problem.pixels, "g_channel": problem.pixels, "gw_row": gw_row, "swapped": turned,
        "taps": taps, "together": taps, "lists": 1, "rows": tile.rows,
        "staged_row": cut.box[3], "staged_pitch": chosen.staged_pitch, "box_count": cut.boxes,
        "part_count": chosen.parts, "chunks": chosen.chunks, "sub": chosen.sub,
        "slice": room.private if alone else room.slice, "frame": room.frame, "private": room.private,
        "asks_g": asks_g, "asks_x": asks_x, "asks_each": min(ceil((asks_g + asks_x) / calls), chosen.sub),
        "d": depth, "h": height, "w": width, "apart": cut.window.spec.stride[2], "box_n": cut.box[0],
        "frame_d": frame_d, "frame_h": frame_h, "frame_w": frame_w, "sums_at": room.sums_at,
        "sum_image": problem.c_in * plane, "sum_channel": plane, "sum_plane": height * width, "sum_row": width,
    }  # fmt: skip
    fields = in_order(kernel.FIELDS, {name: address(table) for name, table in tables.items()} | code | numbers)
    shared, own_slice = (size * element.bytes for size in (room.shared, room.private - room.slice))
    gb = 3 if problem.bias else NOTHING
    arrays = {"x": turned, "g": 1 - turned, "gw": 2, "gb": gb, "slices": WORKSPACE, "own": WORKSPACE, "summed": turned}
    loops = kernel.loops_code(chosen.grain)
    tasks = chosen.parts * chosen.chunks
    steps = [(loops.address("accumulate"), tasks, 1)]
    if not alone:
        steps.append((loops.address("finish"), chosen.parts * chosen.blocks, 1))
    return Launch(
        steps,
        (0, 0, 0, 0, own_slice if alone else 0, shared, 0, *fields),
        [arrays[name] for name in kernel.ARRAYS],
        shared_bytes=shared,
        own_bytes=room.private * element.bytes,
        most_threads=useful_threads(chosen.cycles, tasks),
        keep=tables,
    )
