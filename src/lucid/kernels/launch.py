"""The call from Python into a kernel: where arrays lie, and the slots that an entry point reads."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from lucid.core.errors import PlanError
from lucid.kernels import target
from lucid.kernels.moving import contiguous
from lucid.kernels.runtime import threads
from lucid.kernels.runtime.bound_text import NOTHING, WORKSPACE
from lucid.kernels.runtime.memory import address

__all__ = [
    "A_RUN_EACH",
    "KEPT",
    "NOTHING",
    "WORKSPACE",
    "ByAlignment",
    "ByNumbers",
    "Halves",
    "Keeper",
    "Launch",
    "address",
    "in_order",
    "launch",
    "of_any_layout",
]

Array = np.ndarray[Any, Any]

_LINE_BYTES = 64
_KEPT_ARGUMENT = 4
_WEIGHT_ARGUMENTS = (1, 2, _KEPT_ARGUMENT)
#: A region that is worth fewer threads, 20 us of work, wakes nobody: the system call takes 10. Work on a machine whose
#: vectors take two turns takes longer, and its host longer to wake: 30 us behind a pause of 1 ms.
_WAKING_THREADS = 6
#: How many chunks the tasks of such a region may make where vectors take two turns, the first best: to take one, and to
#: begin it, costs as much as a plane of few rows.
_LITTLE_CHUNKS = (6, 8, 10, 12, 4)
_MOST_NUMBERS = 8
KEPT = -3  #: the base of a field that lies in what is made of the weights
A_RUN_EACH = 0  #: the chunk of a step of whose tasks each thread has one run: what begins a run is done once for all


def launch(entry: int, fields: Sequence[int], tasks: int, chunk: int = 1, crew: int | None = None) -> None:
    """Runs a native entry point over its tasks on the pool, or on a ``crew`` of so many threads."""
    slots = (ctypes.c_int64 * len(fields))(*fields)
    threads.run(entry, slots, tasks, chunk=chunk, threads=crew)


def in_order(names: Iterable[str], values: Mapping[str, int]) -> list[int]:
    """What a kernel is told by these names, in their order: a number too few would move all that follow.

    Raises: PlanError if a name has no value, or a value no such name.

    >>> in_order(("rows", "columns"), {"columns": 3, "rows": 2})
    [2, 3]
    """
    wanted = tuple(names)
    missing, unknown = [name for name in wanted if name not in values], sorted(values.keys() - set(wanted))
    if missing or unknown:
        raise PlanError(f"lucid.kernels: a kernel's numbers lack {missing} and have {unknown}, which it does not read")
    return [values[name] for name in wanted]


class Halves(NamedTuple):
    """A region in two. Both take (x, w, bias, y, kept); ``make`` writes ``kept`` and reads w and bias alone."""

    make: Callable[..., None]
    compute: Callable[..., None]
    kept_bytes: int


@runtime_checkable
class Keeper(Protocol):
    """A bound plan that may make something of the weights alone, once for several calls."""

    keeps: bool

    def halves(self) -> Halves | None:
        """What makes the kept part, and what computes from it; None where nothing is made of the weights alone."""

    def __call__(self, *arrays: Array | None) -> None: ...


class Launch:
    """A region of kernels with everything fixed but its arrays: call it with them.

    ``steps`` are (entry point, tasks, chunk), each after all of the one before, and all read the same ``fields``. The
    first fields are places: ``sources`` says for each whose address is added to the number there, that of an array by
    its position among the call's arguments, of the ``WORKSPACE``, of what is ``KEPT``, or of ``NOTHING``. The others
    are what they are; ``keep`` is what they point at. The fields of a call are written by native code on its own stack,
    so Python threads may call at once.

    Where there are ``kept_bytes`` the first step makes them, of w and bias alone, which are the arguments 1 and 2. A
    region that has no such step, because it reads weights as it goes, may name one ``in_advance`` that has.

    Where there are ``batch_parts`` the tasks of the first step go by so many parts of the images, in each by groups of
    channels, and in each of those by pieces, as many in all.
    """

    __slots__ = (
        "_given",
        "_halves",
        "arity",
        "batch_parts",
        "bound",
        "fields",
        "keeps",
        "most_threads",
        "own_bytes",
        "shared_bytes",
        "sources",
        "steps",
        "worth",
    )

    def __init__(
        self,
        steps: Sequence[tuple[int, int, int]],
        fields: Sequence[int],
        sources: Sequence[int],
        *,
        kept_bytes: int = 0,
        shared_bytes: int = 0,
        own_bytes: int = 0,
        most_threads: int,
        worth: int | None = None,
        keep: object = None,
        in_advance: Callable[[], Launch] | None = None,
        batch_parts: int = 0,
    ) -> None:
        """The workspace is what is kept, ``shared_bytes`` and, for every thread, ``own_bytes``: multiples of 64.

        A region is ``worth`` so many threads, however few its tasks; where nobody says, it is little work if it has
        fewer threads than any of its steps has tasks.
        """
        self._given = sources, fields, kept_bytes, shared_bytes, keep, in_advance
        self.arity, self.batch_parts = 1 + max(sources, default=-1), batch_parts
        self._halves: Halves | None = None
        self.keeps = kept_bytes > 0 or in_advance is not None
        self.most_threads, self.own_bytes, self.shared_bytes = most_threads, own_bytes, kept_bytes + shared_bytes
        first, rest = fields[: len(sources)], fields[len(sources) :]
        places = [n + kept_bytes * (source == WORKSPACE) for n, source in zip(first, sources, strict=True)]
        turns = target.cpu().turns(target.isa())
        waking = _WAKING_THREADS * turns
        self.worth = worth
        wakes = (most_threads >= min(waking, *(n for _, n, _ in steps))) if worth is None else worth >= waking
        if turns > 1 and not wakes:
            steps = [(entry, tasks, chunk and max(chunk, _even_chunk(tasks))) for entry, tasks, chunk in steps]
        self.steps = steps
        self.sources: Sequence[int] = [WORKSPACE if source == KEPT else source for source in sources]
        self.fields: Sequence[int] = [*places, *rest]
        lengths = len(steps), len(self.fields), len(sources)
        needs = most_threads, self.shared_bytes, own_bytes, int(wakes)
        numbers = *lengths, *needs, *(n for step in steps for n in step)
        record = np.array([*numbers, *self.sources, *self.fields], np.int64)  # in the order that the pool reads
        self.bound: tuple[Array, type] = record, np.ndarray

    def halves(self) -> Halves | None:
        """What makes the kept part, and what computes from it; None where nothing is made of the weights alone."""
        if self._halves is None and self.keeps:
            in_advance = self._given[-1]
            self._halves = self._split() if in_advance is None else in_advance().halves()
        return self._halves

    def _split(self) -> Halves:
        sources, fields, kept_bytes, shared_bytes, keep, _ = self._given
        last = [_KEPT_ARGUMENT if source == KEPT else source for source in sources]
        weights = [source if source in (*_WEIGHT_ARGUMENTS, WORKSPACE) else NOTHING for source in last]
        make, compute = (
            Launch(
                steps, fields, read, shared_bytes=shared_bytes, own_bytes=self.own_bytes,
                most_threads=self.most_threads, worth=self.worth, keep=keep,
            )
            for steps, read in ((self.steps[:1], weights), (self.steps[1:], last))
        )  # fmt: skip
        return Halves(make, compute, kept_bytes)

    __call__ = threads.launch
    method = threads.method


class ByNumbers(dict[bytes, Callable[..., None] | None]):
    """Bound regions of a plan by the numbers that they are given, as packed doubles; made when they are wanted.

    Each is a function of its arrays. Fields are places, numbers, ``geometry``. There are few: for who brings other
    numbers every time there is None in the end.
    """

    def __init__(
        self,
        steps: Sequence[tuple[int, int, int]],
        sources: Sequence[int],
        geometry: Sequence[int],
        worth: int,
        shared_bytes: int = 0,
    ) -> None:
        super().__init__()
        self._given = steps, sources, geometry, worth, shared_bytes

    def __missing__(self, numbers: bytes) -> Callable[..., None] | None:
        if len(self) >= _MOST_NUMBERS:
            return None
        steps, sources, geometry, worth, shared_bytes = self._given
        values = struct.unpack(f"{len(numbers) // 8}q", numbers)
        fields = [*[0] * len(sources), *values, *geometry]
        most_threads = max(tasks for _, tasks, _ in steps)
        made = Launch(steps, fields, sources, shared_bytes=shared_bytes, most_threads=most_threads, worth=worth)
        region = self[numbers] = of_any_layout(made)
        return region


def _even_chunk(tasks: int) -> int:
    """Tasks of a chunk, so that there are few and two threads' shares are as alike as may be."""

    def larger_share(count: int) -> int:
        chunk = max(1, ceil(tasks / count))
        first = ceil(tasks / chunk) // 2 * chunk
        return max(first, tasks - first)

    return ceil(tasks / min(_LITTLE_CHUNKS, key=larger_share))


class ByAlignment:
    """One region for results that begin with a line of the cache, and for others another, made when it is wanted."""

    __slots__ = ("aligned", "other")

    def __init__(self, aligned: Launch, other: Callable[[], Launch]) -> None:
        self.aligned, self.other = aligned, other

    def __call__(self, x: Array, w: Array, bias: Array | None, y: Array, *more: Array | None) -> None:
        region = self.other() if address(y) % _LINE_BYTES else self.aligned
        region(x, w, bias, y, *more)


def of_any_layout(run: Callable[..., None]) -> Callable[..., None]:
    """A bound plan for arrays of any strides: it is given contiguous copies where need be. Results are contiguous."""

    def careful(*arrays: Array | None) -> None:
        run(*map(_contiguous, arrays))

    return run.method(careful) if isinstance(run, Launch) else careful


def _contiguous(a: Any) -> Any:
    return a if a is None else contiguous(a)
