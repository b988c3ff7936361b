"""What this CPU is: the instruction sets it runs, its caches."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lucid.core.errors import PlanError
from lucid.kernels import settings
from lucid.kernels.isa import ISA, ISAS

_CACHE_FALLBACK = {1: 32 << 10, 2: 512 << 10, 3: 8 << 20}
#: Of a vector unit, by LLVM's name of the CPU, where the widest registers are wider: Zen 4 runs AVX-512 in halves.
_UNIT_BYTES = {"znver4": 32}
#: Those that were seen to fetch lines which they overwrite whole: 64 MB filled at 41 GB/s, past the caches at 97.
_FETCHING = {"znver4"}


@dataclass(frozen=True, slots=True)
class CPU:
    """This machine. ``runnable`` are the instruction sets that it can be asked for, the best last.

    ``l1_bytes`` and ``l2_bytes`` are a core's, ``l3_bytes`` is shared.
    """

    name: str
    runnable: tuple[ISA, ...]
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int

    @property
    def unit_bytes(self) -> int:
        """Of a vector unit: no wider than registers."""
        return min(_UNIT_BYTES.get(self.name, 64), self.runnable[-1].vector_bytes)

    def turns(self, isa: ISA) -> int:
        """How many turns of a vector unit an instruction takes: as many as fill a register."""
        return self.turns_of(isa.vector_bytes)

    def turns_of(self, vector_bytes: int) -> int:
        """The same of vectors of so many bytes."""
        return max(1, vector_bytes // _UNIT_BYTES.get(self.name, 64))

    @property
    def fetches_overwritten(self) -> bool:
        """Whether a line that is overwritten whole comes from memory first, unless it is written past the caches."""
        return self.name in _FETCHING

    @property
    def isas(self) -> tuple[ISA, ...]:
        """The best of every width of vectors."""
        return tuple({isa.vector_bytes: isa for isa in self.runnable}.values())


@lru_cache(maxsize=1)
def cpu() -> CPU:
    """This machine, looked at once."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    arch = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    runnable = tuple(i for i in ISAS.values() if i.arch == arch and all(features.get(f, False) for f in i.requires))
    if not runnable:
        raise PlanError(f"lucid.kernels: no instruction set for {arch}; there are {', '.join(ISAS)}")
    return CPU(llvm.get_host_cpu_name(), runnable, *(_cache_bytes(level) for level in (1, 2, 3)))


def _cache_bytes(level: int) -> int:
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, of_level, size = ((index / n).read_text().strip() for n in ("type", "level", "size"))
        except OSError:
            continue
        if kind != "Instruction" and of_level == str(level):
            number, unit = size[:-1], size[-1]
            return int(number) << {"K": 10, "M": 20, "G": 30}[unit]
    return _CACHE_FALLBACK[level]


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def isa() -> ISA:
    """The instruction set that kernels are generated for: the best this CPU runs, unless one is forced.

    ``LUCID_ISA`` in the environment names one for the whole process.
    """
    return settings.now.isa or _usual()


@lru_cache(maxsize=1)
def _usual() -> ISA:
    return _runnable("LUCID_ISA", name) if (name := os.environ.get("LUCID_ISA")) else cpu().isas[-1]


def _runnable(caller: str, name: str) -> ISA:
    names = [i.name for i in cpu().runnable]
    if name not in names:
        raise PlanError(f"{caller}: isa={name!r} does not run on this CPU; {', '.join(names)} do")
    return ISAS[name]


@contextmanager
def using(name: str) -> Iterator[ISA]:
    """Forces an instruction set, for tests and comparisons.

    >>> with using("scalar"):
    ...     isa().name
    'scalar'
    """
    wanted = _runnable("using", name)
    before = settings.change(isa=wanted)
    try:
        yield wanted
    finally:
        settings.change(isa=before.isa)
