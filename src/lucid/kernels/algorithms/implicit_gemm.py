"""Dense convolution as an implicit matrix product: rows are result channels, columns positions, k = (c, tap).

::

    for each group, part of the rows, phase, span of positions:     tasks, in any order, on any thread
        write the table of the span                                 all geometry: see pixel_gather
        for each block of channels c:                               in this order on any number of threads
            pack the span's panels                                  in the second level cache
            for each tile of rows, for each panel:                  weights of the tile in the first level cache
                to += w[c, tap][row] * panel[c, tap][position]      one register tile: see tile
        store what could not be written in place

A phase is a set of result positions that meet the same taps. A forward convolution is one phase; a transposed one has
one for every residue of the stride. Residues that meet the same samples are stacked: each is a row of its own, beside
the others of its channel; on the way out those of the last axis are interleaved.

Where a tile's positions are neighbours in one row of the result, sums are written in place; all others go to
``sums`` and from there, segment by segment, to the result. Half precision is rounded by the tile, or, where sums
wait for more channels or for arrays of an epilogue, on the way from there.

Of a 1 x 1 convolution x itself may be the panel; tiles widen half precision then. The last tile of a span moves back
to end with it, so that none reads on: what two tiles have in common is written twice, by one thread, the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import ceil, prod
from typing import Any

import numpy as np

from lucid.core.geometry import Sizes
from lucid.kernels import jit
from lucid.kernels.algorithms import packed_weights, pixel_gather, pixel_panels
from lucid.kernels.algorithms.base import GHZ, turns_of, useful_threads
from lucid.kernels.algorithms.dense_layout import (
    FIELDS,
    SHAPE,
    Blocking,
    Cut,
    Packings,
    PhaseRecord,
    Shape,
    part,
    phase_record,
    read_packing,
    read_phase,
    read_shape,
    shape_numbers,
    woven,
)
from lucid.kernels.algorithms.grain import Grain
from lucid.kernels.algorithms.past_caches import gains, kept_rows
from lucid.kernels.algorithms.pixel_panels import Layout, Phase, Reading
from lucid.kernels.algorithms.tile import AnyTile, ChannelTile, Tile, last_steps, write_channel_tile, write_tile
from lucid.kernels.algorithms.tile_sums import write_ending, write_finish, write_places
from lucid.kernels.epilogue import in_registers, sources
from lucid.kernels.ir import (
    Function,
    Module,
    Pointer,
    Type,
    Value,
    convert,
    i8,
    i32,
    i64,
    maximum,
    minimum,
    ptr,
    select,
    to_whole_vector,
)
from lucid.kernels.isa import ISA
from lucid.kernels.launch import KEPT, NOTHING, WORKSPACE, Launch, address
from lucid.kernels.plan import PLAIN, Epilogue
from lucid.kernels.runtime import memory

Array = np.ndarray[Any, Any]

#: Tiles side by side, of which the first and the last line of the cache are stored as usual: with 4 and 9, rows that go
#: past the caches take 2 and 1.1 times as long, with 16 no longer.
LONG_RUN = 16


def bind(
    shape: Shape, blocking: Blocking, phases: Sequence[Phase], whole: Sequence[Phase], bias: bool, epilogue: Epilogue,
    expected_ns: float, past: int = 0,
) -> Launch:  # fmt: skip
    """A problem's phases bound to a kernel: call it with (x, w, bias or None, y), and what an epilogue takes.

    ``whole`` are the phases before they were cut into regions, which share packed weights. One thread is expected to
    take ``expected_ns``: of that depends how many are woken. Results may go ``past`` the caches.
    """
    cuts = [Cut.of(Layout.of(phase, blocking.shared, shape.batch), blocking) for phase in phases]
    leaves = _leaves(shape, blocking, epilogue)
    packings, in_place = Packings(phases, whole, shape, blocking), leaves == shape.grain.stored
    records = [
        PhaseRecord(cut, shape, blocking, packings.of(number, cut.layout.phase), in_place)
        for number, cut in enumerate(cuts)
    ]
    numbers = shape_numbers(shape, blocking, cuts, packings)
    read = pixel_panels.reading(cuts[0].layout.gathered[2], blocking.tile.lanes)  # other phases are read like the first
    layout = cuts[0].layout
    samples = shape.grain.stored if layout.in_place and not layout.widened else shape.grain.packed
    weaves = all(_weaves(shape, blocking, cut, epilogue) for cut in cuts)
    reaches = layout.in_place and not layout.widened and numbers["reaches"] > 0
    tile = _tile(blocking)
    last = _last_steps(shape, blocking, records)
    numbers |= parts(shape.grain, tile, read, shape.residues, epilogue, leaves, samples, weaves, past, reaches, last)
    if layout.widened:
        numbers |= widen_parts(shape.grain, blocking.tile.lanes)
    if blocking.channels < shape.channels:  # sums wait for more
        numbers |= tile_parts(shape.grain, tile, samples=samples, last=last)
    constants = (
        np.array([numbers.get(name, 0) for name in SHAPE], np.int64),
        np.array([record.numbers for record in records], np.int64),
    )
    tasks = len(cuts) * numbers["spans"] * shape.groups * numbers["row_parts"]
    code = driver(shape.grain, samples)
    steps = [(code.address("run"), tasks, 1)]
    if not blocking.lazy:
        steps.insert(0, (code.address("weights"), len(whole) * shape.groups * numbers["row_blocks"], 1))
    return Launch(
        steps,
        (*[0] * (len(FIELDS) - 2), *map(address, constants)),
        (0, 1, 2 if bias else NOTHING, 3, KEPT, WORKSPACE, *sources(epilogue, NOTHING)),
        kept_bytes=ceil(packings.elements * shape.itemsize / memory.ALIGN_BYTES) * memory.ALIGN_BYTES,
        own_bytes=numbers["scratch_bytes"],
        most_threads=useful_threads(expected_ns * GHZ, tasks),
        worth=useful_threads(expected_ns * GHZ),
        keep=(constants, records, packings),
        in_advance=partial(bind, shape, replace(blocking, lazy=False), phases, whole, bias, epilogue, expected_ns, past)
        if blocking.lazy
        else None,
    )


def _last_steps(shape: Shape, blocking: Blocking, records: Sequence[PhaseRecord]) -> int:
    """How many steps tiles take row by row: of the last block of channels, which may be short, and of every line."""
    channels = shape.channels % blocking.channels or blocking.channels
    least = shape.grain.count(channels) * min(record.least_taps for record in records)
    return last_steps(blocking.tile, least, turns_of(blocking.tile.lanes, shape.grain.sums))


def _tile(blocking: Blocking) -> AnyTile:
    """The tile as it is compiled: where each task packs its weights, which are then near, it asks for none."""
    tile = blocking.tile
    return replace(tile, asks=False) if blocking.lazy and isinstance(tile, ChannelTile) else tile


def _weaves(shape: Shape, blocking: Blocking, cut: Cut, epilogue: Epilogue) -> bool:
    """Whether tiles put lines of stacked residues into the result themselves."""
    later = epilogue and not in_registers(epilogue)
    return blocking.channels >= shape.channels and not later and woven(shape, cut.layout, blocking.tile.lanes)


def goes_past(shape: Shape, blocking: Blocking, phases: Sequence[Phase], epilogue: Epilogue, isa: ISA) -> int:
    """How many of a tile's rows leave past the caches, if any do: in long rows of whole tiles, and never read again."""
    tile = blocking.tile
    later = blocking.channels < shape.channels or tile.over_channels or shape.rows % tile.rows
    if later or shape.stack > 1 or (epilogue and not in_registers(epilogue)):
        return 0
    cuts = [Cut.of(Layout.of(phase, blocking.shared, shape.batch), blocking) for phase in phases]
    if any(min(cut.span, cut.layout.line) < LONG_RUN * tile.columns for cut in cuts):
        return 0
    written_bytes = shape.batch * shape.groups * shape.rows * shape.out_plane * shape.grain.stored.bytes
    if not all(map(pixel_panels.contiguous, phases)) or not gains(written_bytes, shape.grain.stored, isa):
        return 0
    read_bytes = shape.batch * shape.groups * shape.channels * shape.plane * shape.grain.stored.bytes
    return tile.rows - kept_rows(tile.rows, written_bytes, read_bytes)


def _leaves(shape: Shape, blocking: Blocking, epilogue: Epilogue) -> Type:
    """The type of the sums as they leave their last tile: the result's, unless there is more to be done to them."""
    grain, later = shape.grain, epilogue and not in_registers(epilogue)
    waits = blocking.channels < shape.channels or blocking.tile.over_channels or later
    return grain.sums if waits else grain.stored


def driver(grain: Grain, samples: Type) -> jit.Code:
    """The loops, for tiles of any size over panels of ``samples``: they call a tile, and all else, by address."""
    return jit.kernel(("dense driver", grain, samples), lambda isa: _write(grain, samples, isa))


def alone(key: tuple[object, ...], write: Callable[[Module, ISA], object]) -> jit.Code:
    """Functions that loops call by address, in a module of their own."""

    def written(isa: ISA) -> Module:
        module = Module(str(key[0]), isa)
        write(module, isa)
        for function in module.functions:
            function.export = True
        return module

    return jit.kernel(key, written)


def gather_parts(grain: Grain, lanes: int, read: Reading) -> dict[str, int]:
    """Addresses of ``table`` and ``pack``, which gather samples."""
    table = alone(("dense table", lanes), lambda m, _: pixel_gather.write_table(m, lanes))
    pack = alone(("dense gather", grain, read), lambda m, _: pixel_gather.write_pack(m, grain, lanes, read))
    return {"table": table.address("table"), "pack": pack.address("pack")}


def widen_parts(grain: Grain, lanes: int) -> dict[str, int]:
    """The address of ``widen``, which copies halves."""
    widen = alone(("dense widen", grain, lanes), lambda m, _: pixel_gather.write_widen(m, grain, lanes))
    return {"widen": widen.address("widen")}


def tile_parts(
    grain: Grain, tile: AnyTile, name: str = "tile", epilogue: Epilogue = PLAIN, leaves: Type | None = None,
    samples: Type | None = None, residues: Sizes | None = None, past: int = 0, reaches: bool = False, last: int = 0,
) -> dict[str, int]:  # fmt: skip
    """Addresses of a tile of every width; what is widened before shares them with what need not be."""
    leaves, samples = leaves or grain.sums, samples or grain.packed
    if grain.depth == 1:
        grain = Grain(grain.sums)
    widths = range(1, tile.widths + 1)
    form = grain, tile, epilogue, leaves, samples, residues, past, reaches, last
    tiles = alone(("dense tile", *form), lambda m, _: write_tiles(m, *form))
    return {f"{name}_{v}": tiles.address(f"tile_{v}") for v in widths}


def parts(
    grain: Grain, tile: AnyTile, read: Reading, residues: Sizes, epilogue: Epilogue, leaves: Type, samples: Type,
    weaves: bool, past: int, reaches: bool, last: int,
) -> dict[str, int]:  # fmt: skip
    """Addresses of what the loops call: modules of their own, since each depends on little.

    Sums that ``leave`` the last tile in the result's type are put there as they are.
    """
    stored, lanes, turned, stack = grain.stored, tile.lanes, tile.over_channels, prod(residues)
    weave = packed_weights.woven(tile.rows, lanes, stack)
    early, late = (epilogue, PLAIN) if in_registers(epilogue) else (PLAIN, epilogue)
    code = {
        "pack_weights": alone(
            ("dense weights", grain, stack, weave),
            lambda m, _: packed_weights.write_pack(m, grain, lanes, stack, weave),
        ),
        "finish": alone(
            ("dense sums", leaves, stored, residues, turned, late),
            lambda m, _: write_finish(m, leaves, lanes, residues, stored, turned, late),
        ),
    }
    if late and leaves == stored and not turned:
        key = ("dense ending", stored, late)
        code["ending"] = alone(key, lambda m, _: write_ending(m, stored, lanes, late))
    if weaves:
        code["places"] = alone(("dense places", lanes, residues), lambda m, _: write_places(m, lanes, residues))
    own = {name: module.address(name) for name, module in code.items()}
    ends = tile_parts(grain, tile, "last", early, leaves, samples, residues if weaves else None, past, reaches, last)
    return gather_parts(grain, lanes, read) | own | ends


def write_tiles(
    module: Module, grain: Grain, tile: AnyTile, epilogue: Epilogue, leaves: Type, samples: Type,
    residues: Sizes | None, past: int, reaches: bool, last: int,
) -> None:  # fmt: skip
    """Adds ``tile_1`` and so on: a tile of every width up to the full one, whose rows may go ``past`` the caches."""
    if isinstance(tile, ChannelTile):
        write_channel_tile(module, grain, tile, "tile_1", epilogue, samples)
        return
    for v in range(1, tile.vectors + 1):
        narrower = Tile(tile.rows, v, tile.lanes)
        write_tile(
            module, grain, narrower, None, f"tile_{v}", epilogue=epilogue, stored=leaves, samples=samples,
            residues=residues, past=past if v == tile.vectors else 0, reaches=reaches, last=last,
        )  # fmt: skip


def _write(grain: Grain, samples: Type, isa: ISA) -> Module:
    module = Module("dense_driver", isa)
    data, p64 = ptr(grain.stored), ptr(i64)
    fields = dict.fromkeys(FIELDS, data) | {
        "packed": ptr(grain.packed), "scratch": ptr(i8), "shape": p64, "phases": p64,
    }  # fmt: skip
    packed_weights.write_entry(module, fields)
    _write_run(module, grain, samples, isa.lanes(grain.sums), fields)
    return module


def _write_run(module: Module, grain: Grain, samples: Type, lanes: int, fields: dict[str, Type]) -> None:
    """Adds the entry ``run``: a task is a phase's span of positions in one group, for a part of the rows.

    Spans are side by side: a thread, whose share of the tasks is a run of them, reads few parts' weights. Those of each
    span are its phases, or of each phase its spans.
    """
    multiply = _Multiply(module, grain, samples).f
    f = module.entry("run", **fields)
    a = f.args
    s = read_shape(
        a.shape,
        "scratch_bytes entries_at merges_at row_parts kinds spans span_tasks kind_tasks image channels channel_block "
        "group_input plane task_rows places places_at tail_places tile_columns out_image",
    )
    own = a.scratch.at(a.thread * s["scratch_bytes"])
    panel, entries, merges = own.cast(grain.packed), own.at(s["entries_at"]).cast(i64), own.at(s["merges_at"]).cast(i64)
    table, pack = part(a.shape, "table"), part(a.shape, "pack")
    with f.loop(a.begin, a.end) as task:
        span, phase = task.i // s["span_tasks"] % s["spans"], task.i // s["kind_tasks"] % s["kinds"]
        rest = task.i // (s["spans"] * s["kinds"])
        row_part, group = rest % s["row_parts"], rest // s["row_parts"]
        record = phase_record(a.phases, phase)
        r = read_phase(
            record,
            "unit_spans span units unit halo gathered_unit gathered_span per_panel slot fills x_step channel_stride "
            "reads_x aligned z_step depth span_apart span_units widened_pitch met_of_line line line_pitch",
        )
        unit, number = span // r["unit_spans"] * r["span_units"], span % r["unit_spans"]
        with f.when(unit < r["units"]):
            image = a.x.at(group * s["group_input"] + unit * s["image"])
            moved = minimum(to_whole_vector(image, lanes), r["aligned"])  # spans begin so much later, but the first
            first, gathered_start = number.eq(0), number * r["gathered_span"]
            start = number * r["span"] + select(first, 0, moved)
            together = minimum(r["span_units"], r["units"] - unit)
            last = (number + 1).eq(r["unit_spans"])
            count = select(last, r["unit"] * together, (number + 1) * r["span"] + moved) - start
            gathered = minimum(r["gathered_span"] + r["halo"], r["gathered_unit"] * together - gathered_start)
            p = unit * r["gathered_unit"] + gathered_start
            vectors = (gathered + (lanes - 1)) // lanes
            merge_count = f.call(
                table, record, entries, merges, s["image"], p, p + gathered, vectors, r["per_panel"], r["slot"],
                returns=i64,
            )  # fmt: skip
            with f.when(s["places"].ne(0)):
                _find_places(f, s, part(a.shape, "places"), record, own, unit * r["unit"] + start, count)
            fills, reads_x = r["fills"] * vectors, r["reads_x"].ne(0)
            read_from = unit // r["depth"] * s["image"] + unit % r["depth"] * r["z_step"]
            read_from += number * r["span_apart"] + select(first, 0, moved)
            with f.loop(0, s["channels"], s["channel_block"]) as c:
                channels = minimum(s["channel_block"], s["channels"] - c.i)
                x = a.x.at(group * s["group_input"] + c.i * s["plane"])
                with f.when(~reads_x):
                    f.call(
                        pack, entries, fills, merges, merge_count, x, r["x_step"], panel, channels, s["plane"],
                        r["channel_stride"],
                    )  # fmt: skip
                itself = reads_x
                if grain.widened and samples == grain.packed:
                    itself = itself & r["widened_pitch"].eq(0)
                    with f.when(r["widened_pitch"].ne(0)):
                        f.call(
                            part(a.shape, "widen"), x.at(read_from), panel, channels, s["plane"], r["widened_pitch"],
                            (count // r["line"] - 1) * r["line_pitch"] + r["met_of_line"],
                        )  # fmt: skip
                source = select(itself, x.at(read_from).cast(samples), panel.cast(samples))
                f.call(
                    multiply, a.fields, record, source, group, unit * r["unit"] + start, count,
                    row_part * s["task_rows"], c.i, channels, own, select(first, moved, 0),
                )  # fmt: skip


def _find_places(
    f: Function, s: dict[str, Value], places: Pointer, record: Pointer, own: Pointer, position: Value, count: Value
) -> None:
    """Of a span's vectors, behind those of a tile that ends with it."""
    tail, to = minimum(count, s["tile_columns"]), own.at(s["places_at"]).cast(i64)
    for first, length, at in ((count - tail, tail, to), (0, count, to.at(s["tail_places"]))):
        f.call(places, record, s["out_image"], position + first, length, at)


class _Multiply:
    """Writes ``multiply``: a span's panels by a part of the rows, for one block of channels.

    Sums wait in place or in ``sums`` for the next block; after the last they are all in the result. Those of a line of
    turned tiles leave together: squares of them have few columns to spare. The first ``lead`` positions, less than a
    vector, are a tile of their own, so that the others read whole vectors of x.
    """

    def __init__(self, module: Module, grain: Grain, samples: Type) -> None:
        self.grain, self.panel_product = grain, _write_panel_product(module, grain, samples)
        self.f = f = module.function(
            "multiply", fields=ptr(i64), record=ptr(i64), panel=ptr(samples), group=i64, position=i64, count=i64,
            first=i64, c=i64, channels=i64, own=ptr(i8), lead=i64,
        )  # fmt: skip
        self.a = a = f.args
        stored, data = ptr(grain.stored), ptr(grain.packed)
        self.w, self.bias, self.packed, self.shape = (
            a.fields.at(FIELDS.index(name)).cast(kind).load()
            for name, kind in (("w", stored), ("bias", stored), ("packed", data), ("shape", ptr(i64)))
        )
        self.s = s = read_shape(
            self.shape,
            "sums_at lazy weights_at task_rows rows row_blocks image channels out_plane out_image stack tile_rows "
            "tile_columns widths unit pitch turned line_items places_at vector_places tail_places",
        )
        self.r = r = read_phase(
            a.record,
            "packing steps image_lines row_sums panel_sums panel_step line line_pitch line_tiles halved_below reads_x "
            "column_step halo unit_lines units span unit_spans",
        )
        self.k = read_packing(r["packing"], "taps packed block")
        self.own_weights, self.lazy = a.own.at(s["weights_at"]).cast(grain.packed), s["lazy"].ne(0)
        self.spare = a.own.at(s["sums_at"]).cast(grain.sums)
        self.sums, self.places = self.spare.at((s["stack"] + 1) * s["line_items"]), a.own.at(s["places_at"]).cast(i64)
        self.pack_weights, self.first_line = (
            part(self.shape, "pack_weights"),
            a.position // r["line"] % r["image_lines"],
        )
        self.next_w, self.elements = select(self.lazy, 0, self.k["block"]), grain.count(a.channels)
        self.next_span = select(r["unit_spans"].eq(1), select(r["units"].eq(1), 0, s["image"]), r["span"])
        with f.loop(a.first, minimum(a.first + s["task_rows"], s["rows"]), s["tile_rows"]) as o:
            self._write_rows(o.i)

    def _write_rows(self, o: Value) -> None:
        """A tile's rows from ``o`` on, line by line of the span."""
        f, a, s, r, k = self.f, self.a, self.s, self.r, self.k
        tile_rows = s["tile_rows"]
        with f.when(self.lazy):
            f.call(
                self.pack_weights, self.w, self.bias, self.shape, r["packing"], a.group, o, a.c, a.channels,
                self.own_weights,
            )  # fmt: skip
        block = self.packed.at(k["packed"] + (a.group * s["row_blocks"] + o // tile_rows) * k["block"])
        start = select(self.lazy, self.own_weights, block)
        weights = start.at((select(self.lazy, 0, a.c // self.grain.depth) * k["taps"] + 1) * tile_rows)
        channel = (a.group * s["rows"] + o) // s["stack"]
        height = (o - a.first) // tile_rows
        row_sums = self.sums.at(height * r["row_sums"])
        asked = r["reads_x"].ne(0) & (height < s["widths"])  # each row of tiles a line of each step
        next_x = select(asked, self.next_span + height * s["unit"], 0)
        with f.loop(0, a.count, r["line"]) as line:
            number, end = line.i // r["line"], minimum(r["line"], a.count - line.i)
            first = self._write_line(line.i, number, end, o, start, weights, channel, row_sums, next_x)
            with f.when(s["turned"].ne(0) & (a.c + a.channels >= s["channels"])):
                self._write_leave(line.i, end, o, channel, row_sums, first)

    def _write_line(
        self, line: Value, number: Value, end: Value, o: Value, start: Pointer, weights: Pointer, channel: Value,
        row_sums: Pointer, next_x: Value,
    ) -> Value:  # fmt: skip
        """A line's tiles, as wide as there is room for; the number of the first."""
        f, a, s, r, columns = self.f, self.a, self.s, self.r, self.s["tile_columns"]
        halos = number // r["unit_lines"] * r["halo"]  # each unit's are behind its lines
        panel = a.panel.at(number * r["line_pitch"] + halos)
        first: Value = number * r["line_tiles"]
        of_line = r["steps"].at((self.first_line + number) % r["image_lines"] * 2)
        steps, table = self.elements * of_line.load(), of_line.at(1).cast(ptr(i32)).load()
        with f.loop(0, end, columns, carry=[first]) as j:
            room, (tile,) = end - j.i, j.values
            units = (room + (s["unit"] - 1)) // s["unit"]
            halved = (room > columns) & (room < r["halved_below"])  # two tiles alike, rather than a narrow one
            leads = j.i < a.lead
            width = select(leads, 1, minimum(select(halved, (units + 1) // 2, units), s["widths"]))
            back = select(r["reads_x"].ne(0), maximum(width * s["unit"] - room, 0), 0)  # no further than x
            along = (j.i - back) * r["column_step"]
            place = select(r["halved_below"].eq(0), (tile - first) * r["panel_step"], along)
            ends = s["tail_places"] - width * s["vector_places"]
            vector = select(back.ne(0), ends, s["tail_places"] + j.i // s["unit"] * s["vector_places"])
            done = f.call(
                self.panel_product, a.fields, self.shape, a.record, weights, start, panel.at(place), channel,
                row_sums.at(tile * r["panel_sums"]), self.spare, self.places.at(vector), a.position + line + j.i - back,
                room + back, width, s["rows"] - o, a.c, a.channels, steps, table, self.next_w, next_x,
            )  # fmt: skip
            j.step, j.values = select(leads, a.lead, done * width * s["unit"]), [tile + done]
        return first

    def _write_leave(
        self, line: Value, end: Value, o: Value, channel: Value, row_sums: Pointer, first: Value
    ) -> None:  # fmt: skip
        """What a line's turned tiles, from the ``first`` on, have summed up leaves for the result."""
        f, a, s, r, columns = self.f, self.a, self.s, self.r, self.s["tile_columns"]
        moved = select(r["reads_x"].ne(0), end % columns, 0)  # what the last tile has that the others have not
        alike = end - moved
        begun = row_sums.at(first * r["panel_sums"])
        last = begun.at(alike // columns * r["panel_sums"] + (columns - moved) * s["pitch"])
        for source, begin, count in ((begun, 0, alike), (last, alike, moved)):
            f.call(
                part(self.shape, "finish"), a.fields, a.record, source, s["pitch"], channel, s["out_plane"],
                s["out_image"], a.position + line + begin, count, minimum(s["rows"] - o, s["tile_rows"]),
                self.spare.at(s["line_items"]),
            )  # fmt: skip


def _write_panel_product(module: Module, grain: Grain, samples: Type) -> Function:
    """Adds ``panel_product``: one tile of rows by ``width`` units of positions, ``room`` of which exist.

    Whole tiles that may be written in place, or find their ``places``, are done together, but those that end in two
    alike. So are turned ones, whose sums wait in ``sums``. It returns how many. ``table`` says where so many ``steps``
    lie.
    """
    data, sums, p64 = ptr(grain.packed), ptr(grain.sums), ptr(i64)
    f = module.function(
        "panel_product", i64, fields=p64, shape=p64, record=p64, weights=data, start=data, panel=ptr(samples),
        channel=i64, sums=sums, spare=sums, places=p64, position=i64, room=i64, width=i64, rows=i64, c=i64,
        channels=i64, steps=i64, table=ptr(i32), next_w=i64, next_x=i64,
    )  # fmt: skip
    a = f.args
    s = read_shape(a.shape, "channels out_plane out_image tile_rows tile_columns unit pitch ending turned places asks")
    r = read_phase(
        a.record,
        "positions in_place store_x store_y store_z_step store_y_step store_x_start store_start halved_below "
        "panel_step",
    )
    y = a.fields.at(FIELDS.index("y")).cast(ptr(grain.stored)).load()
    assert isinstance(y, Pointer)
    whole_rows = s["tile_rows"]
    covered, image, inner = a.width * s["unit"], a.position // r["positions"], a.position % r["positions"]
    row, ox = inner // r["store_x"], inner % r["store_x"]
    in_place = r["in_place"].ne(0) & (covered <= a.room) & (ox + covered <= r["store_x"])
    weaves = s["places"].ne(0)
    turned = s["turned"].ne(0)
    direct, side_by_side = in_place | weaves, select(weaves | turned, a.room, r["store_x"] - ox)
    (count,) = f.choose(
        turned | (direct & s["ending"].eq(0) & covered.eq(s["tile_columns"])),
        lambda: [_together(a.room, side_by_side, s["tile_columns"], r["halved_below"].ne(0) & ~turned)],
        lambda: [f.const(i64, 1)],  # without divisions, which tiles that end alone would wait for
    )
    place = image * s["out_image"] + a.channel * s["out_plane"] + r["store_start"] + r["store_x_start"] + ox
    place += row // r["store_y"] * r["store_z_step"] + row % r["store_y"] * r["store_y_step"]
    place = select(weaves, a.channel * s["out_plane"], place)
    to = select(direct, y.at(place).cast(grain.sums), a.sums)
    step = select(direct, s["out_plane"], s["pitch"])
    rows = minimum(a.rows, whole_rows)
    exist = select(direct, rows, whole_rows)
    last = a.c + a.channels >= s["channels"]
    ends = f.const(i64, SHAPE.index("last_1") - SHAPE.index("tile_1"))
    tile = part(a.shape.at(select(last, ends, 0) + a.width - 1), "tile_1")
    f.call(
        tile, a.steps, a.weights, a.panel, a.start, a.c, to, step, exist,
        select(weaves, a.places.cast(grain.sums), a.spare), a.table, a.next_w, count, r["panel_step"],
        select(direct, s["asks"], 0), a.next_x,
    )  # fmt: skip
    with f.when(last & ~direct & ~turned):
        f.call(
            part(a.shape, "finish"), a.fields, a.record, a.sums, s["pitch"], a.channel, s["out_plane"], s["out_image"],
            a.position, minimum(a.room, covered), rows, a.spare.at(s["tile_columns"]),
        )  # fmt: skip
    with f.when(last & in_place & s["ending"].ne(0)):
        f.call(part(a.shape, "ending"), a.fields, a.channel, place, s["out_plane"], rows, covered)
    f.ret(count)
    return f


def _together(room: Value, row: Value, columns: Value, halves: Value) -> Value:
    """Whole tiles, one at least, in ``room`` and in a row of the result; one less if what is left is to be halved."""
    fewer = convert(halves & (room % columns).ne(0), i64, signed=False)
    return maximum(minimum(room // columns - fewer, row // columns), 1)
