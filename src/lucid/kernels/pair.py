"""Two gradients of one layer in one region, group by group: the second finds in a cache what the first has read.

The gradients in the input and in the weights both read the upstream gradient. Each has a kernel of its own that goes
through all of it, so what the caches do not hold comes from memory twice. A task of a pair is what a group of an image,
or of all images, takes of both::

    for a group, of one image or of all:
        tasks of the first kernel                 read g, write the input's gradient
        tasks of the second kernel                read g again, from the second cache, and x

The kernels and their tasks are the same as apart, so are the bits.
"""

from __future__ import annotations

from typing import Any

from lucid.kernels import jit, target
from lucid.kernels.algorithms.base import Executable
from lucid.kernels.ir import ENTRY, Module, Value, i64, ptr
from lucid.kernels.isa import ISA
from lucid.kernels.launch import NOTHING, WORKSPACE, ByAlignment, Launch
from lucid.kernels.plan import Problem

_SLOT_BYTES, _LINE_SLOTS = 8, 8
_FIRST_ARGUMENTS = 4  # of the first kernel: source, weights, bias, result; those of the second follow
_NUMBERS = ("entry_first", "entry_second", "own", "own_slots", "groups", "images", "each_first", "each_second")


def paired(problem: Problem, first: Executable, second: Executable) -> Launch | None:
    """Both in one region, on the arguments of the first, which has this ``problem``, and then those of the second.

    None where the caches hold the arrays anyway, or where a task of both would not fit in the second one.
    """
    touched_bytes = problem.traffic_bytes + problem.written_bytes  # the second's other array is as large as the result
    if touched_bytes <= _held_bytes():
        return None
    if isinstance(first, ByAlignment):
        first = first.aligned  # as large results are
    if not (isinstance(first, Launch) and isinstance(second, Launch) and second.batch_parts):
        return None
    images = problem.batch // second.batch_parts
    if first.batch_parts != problem.batch or touched_bytes // problem.batch // problem.groups * images > _room_bytes():
        return None
    return _region(first, second, problem.groups, images)


def _held_bytes() -> int:
    """What stays in the last cache from one kernel to the next."""
    return target.cpu().l3_bytes // 2


def _room_bytes() -> int:
    """What stays in the second one from one kernel's tasks to the other's; three quarters were measured on a Zen 4."""
    cpu = target.cpu()
    return cpu.l2_bytes * 3 // 4 if cpu.turns(target.isa()) > 1 else cpu.l2_bytes // 2


def _region(first: Launch, second: Launch, groups: int, images: int) -> Launch:
    """The fields of the second, which may have more steps, then ``_NUMBERS``, then the fields of the first.

    Both share a thread's workspace, one after the other; what stands before it there is a copy of the fields.
    """
    (entry_first, tasks_first, _), (entry_second, tasks_second, _) = first.steps[0], second.steps[0]
    tasks = second.batch_parts * groups
    slots = len(second.fields) + len(_NUMBERS) + len(first.fields)
    copied = -(-slots // _LINE_SLOTS) * _LINE_SLOTS
    own_bytes = copied * _SLOT_BYTES + max(first.own_bytes, second.own_bytes)
    numbers = (
        entry_first, entry_second, second.shared_bytes, own_bytes // _SLOT_BYTES, groups, images,
        tasks_first // (first.batch_parts * groups), tasks_second // tasks,
    )  # fmt: skip
    sources = [
        *(n + _FIRST_ARGUMENTS if n >= 0 else n for n in second.sources),
        *[NOTHING] * (len(second.fields) - len(second.sources)),
        *(WORKSPACE if name == "own" else NOTHING for name in _NUMBERS),
        *first.sources,
    ]
    sizes = len(second.fields), slots, _own_slot(second), _own_slot(first)
    code = jit.kernel(("pair", *sizes), lambda isa: _write(isa, *sizes))
    return Launch(
        [(code.address("pair"), tasks, max(1, tasks // 64)), *second.steps[1:]],
        (*second.fields, *numbers, *first.fields),
        sources,
        shared_bytes=second.shared_bytes,
        own_bytes=own_bytes,
        most_threads=min(tasks, max(first.most_threads, second.most_threads)),
        keep=(first, second),
    )


def _own_slot(region: Launch) -> int:
    """Where the fields say where the threads' workspace begins: behind what they share."""
    (slot,) = (
        k
        for k, (number, source) in enumerate(zip(region.fields, region.sources, strict=False))
        if source == WORKSPACE and number == region.shared_bytes
    )
    return slot


def _write(isa: ISA, second_slots: int, slots: int, own_second: int, own_first: int) -> Module:
    """The entry point ``pair``. Both kernels are given this thread's workspace as if it were the first one's."""
    module = Module("pair", isa)
    f = module.function("pair", export=True, **ENTRY)
    p, first_slot = f.args, second_slots + len(_NUMBERS)
    numbers = {name: p.fields.at(second_slots + k) for k, name in enumerate(_NUMBERS)}
    entry_first, entry_second, own = (numbers.pop(name).cast(ptr(i64)).load() for name in _NUMBERS[:3])
    own_slots, groups, images, each_first, each_second = (place.load() for place in numbers.values())
    fields = own.at(p.thread * own_slots)
    with f.loop(0, slots) as k:
        fields.store(p.fields.load(k.i), k.i)
    for slot in (own_second, first_slot + own_first):
        fields.at(slot).cast(ptr(i64)).store(fields.at(-(-slots // _LINE_SLOTS) * _LINE_SLOTS))

    def call(entry: Any, fields: Value, number: Value, each: Value) -> None:
        f.call(entry, fields, number * each, (number + 1) * each, f.const(i64, 0))

    with f.loop(p.begin, p.end) as task:
        part, group = task.i // groups, task.i % groups
        with f.loop(part * images, (part + 1) * images) as image:
            call(entry_first, fields.at(first_slot), image.i * groups + group, each_first)
        call(entry_second, fields, task.i, each_second)
    return module
