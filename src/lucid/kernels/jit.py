"""From LLVM text to addresses: the code generator, kernels kept in memory, objects kept on disk.

No optimisation pass runs: the text is in SSA form and vector code already. LLVM's compiler and linker stand behind this
file only. A kernel of Lucid's own is found on disk by its key, so that a warm start does not even write its text.

Code is generated twice. The first call of a kernel gets it in a quarter of the time, a few times slower and with the
same bits; later, when nobody asks for kernels, it is generated well, kept on disk, and put behind the same door.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import re
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import count
from types import SimpleNamespace
from typing import Any

from lucid.kernels import cache, doors, image, target
from lucid.kernels.ir import Module
from lucid.kernels.isa import ISA
from lucid.kernels.jobs import Ahead, Later

_CODEGEN_LEVEL = 2  # 3 is no faster code
_QUICK_LEVEL = 0  # a quarter of the time, 2 to 5 times slower code
_QUIET_SECONDS = 0.05  # longer than what lies between two kernels of a layer, or two layers of a network

# Held by whoever is in LLVM, which takes one call at a time, and by a fork, whose child would find LLVM's lock taken
# for good. At the end of the process it is never let go: LLVM is taken down, and nobody may be in it.
_lock = threading.RLock()
_later = Later(_lock, _QUIET_SECONDS)
atexit.register(_lock.acquire)


def _before_fork() -> None:
    _later.pause()
    _lock.acquire()


def _after_fork() -> None:
    _lock.release()
    _later.resume()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


@lru_cache(maxsize=1)
def _llvm() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()  # inline assembly aborts the process without it
    return llvm


@lru_cache(maxsize=1)
def _circumstances() -> tuple[str, str, str]:
    """What object code depends on beside its text and instruction set: this CPU, and LLVM."""
    llvm = _llvm()
    return target.cpu().name, llvm.get_host_cpu_features().flatten(), str(llvm.llvm_version_info)


def _new_machine(isa: ISA, level: int = _CODEGEN_LEVEL) -> Any:
    name, features = isa.cpu, isa.features
    if isa is target.cpu().isas[-1]:  # everything this very CPU has, and its own scheduling
        name, host, _ = _circumstances()
        features = ",".join(filter(None, [host, features]))
    return (
        _llvm()
        .Target.from_default_triple()
        .create_target_machine(cpu=name, features=features, opt=level, reloc="pic", codemodel="jitdefault")
    )


_machine = lru_cache(maxsize=8)(_new_machine)


def _new_linker(isa: ISA, level: int) -> Any:
    """One for many objects, each a library of its own in it: it takes ownership of the machine it is made with."""
    return _llvm().create_lljit_compiler(_new_machine(isa, level))


@lru_cache(maxsize=1)
def _linker() -> Any:
    return _new_linker(target.cpu().isas[-1], _CODEGEN_LEVEL)


@lru_cache(maxsize=1)
def _doors() -> doors.Doors:
    return doors.Doors(
        target.isa().arch, lambda text: _loaded(_packed(_generated(text, target.isa()), ["doors"]))["doors"]
    )


_library_number = count()
# Keeps all code loaded, whoever drops its Code: addresses go everywhere, and threads stay in what they point at.
_libraries: list[Any] = []
_EXPORTED = re.compile(r"^define (?!internal)[^@]*@([\w.]+)\(", re.MULTILINE)


class Code:
    """A compiled module. It stays loaded as long as the process lives: kernels are few, and addresses are shared.

    Its addresses are those of doors while the code behind them may still be replaced.
    """

    __slots__ = ("_addresses", "_write", "isa")

    def __init__(self, isa: ISA, addresses: dict[str, int], write: Callable[[], str]) -> None:
        self.isa, self._addresses, self._write = isa, addresses, write

    @property
    def text(self) -> str:
        """The LLVM text; of code that came from disk, written now."""
        return self._write()

    def address(self, name: str) -> int:
        """Where an exported function starts."""
        if name not in self._addresses:
            raise KeyError(f"the module exports no function {name!r}")
        return self._addresses[name]

    def assembly(self) -> str:
        """What the code generator makes of the text."""
        with _lock:
            return str(_machine(self.isa).emit_assembly(_llvm().parse_assembly(self.text)))


def compile_text(text: str, isa: ISA | None = None) -> Code:
    """Native code for LLVM text.

    Cost: 0.05 ms a line to generate, 0.3 ms from the cache.
    """
    with _lock:
        isa = isa or target.isa()
        return Code(isa, _loaded(_kept(text, isa)), lambda: text)


def _object_name(text: str, isa: ISA) -> str:
    return cache.key(text, isa.name, str(_CODEGEN_LEVEL), *_circumstances())


def _kept(text: str, isa: ISA) -> bytes:
    """What the disk keeps of a text: its image, or where a linker is needed its object, behind a line that tells."""
    name = _object_name(text, isa)
    kept = cache.load(name)
    if kept is None:
        kept = _packed(_generated(text, isa), _EXPORTED.findall(text))
        cache.save(name, kept)
    return kept


def _packed(binary: bytes, names: list[str]) -> bytes:
    made = image.image_of(binary, names)
    head = {"names": names} if made is None else {"entries": made.entries}
    return json.dumps(head).encode() + b"\n" + (binary if made is None else made.code)


def _loaded(kept: bytes) -> dict[str, int]:
    """The addresses of the functions of what is kept."""
    head, _, body = kept.partition(b"\n")
    known = json.loads(head)
    return image.load(image.Image(body, known["entries"])) if "entries" in known else _linked(body, known["names"])


def _generated(text: str, isa: ISA, level: int = _CODEGEN_LEVEL) -> bytes:
    """A function of its own: its LLVM objects die while the lock is held, since to free one is a call into LLVM."""
    module = _llvm().parse_assembly(text)
    module.verify()
    binary: bytes = _machine(isa, level).emit_object(module)
    return binary


def _linked(binary: bytes, names: list[str]) -> dict[str, int]:
    """The addresses of an object's functions."""
    return _library(_llvm().JITLibraryBuilder().add_object_img(binary), names, _linker())


def _library(builder: Any, names: list[str], linker: Any) -> dict[str, int]:
    builder.add_current_process()
    for name in names:
        builder.export_symbol(name)
    loaded = builder.link(linker, f"lucid {next(_library_number)}")
    _libraries.append(loaded)
    return {name: loaded[name] for name in names}


_kernels: dict[tuple[Hashable, str], Code] = {}
_batch: _Batch | None = None  # of who is in ``together`` and so has the lock
_records: list[dict[Hashable, Code]] = []


@contextmanager
def recorded() -> Iterator[dict[Hashable, Code]]:
    """Collects the kernels that are asked for inside, by their keys."""
    codes: dict[Hashable, Code] = {}
    _records.append(codes)
    try:
        yield codes
    finally:
        _records.remove(codes)


def kernel(key: Hashable, write: Callable[[ISA], Module]) -> Code:
    """The kernel that ``write`` makes for the current instruction set, compiled once.

    ``key`` names everything that the text depends on but the instruction set.
    """
    isa = target.isa()
    code = _kernels.get((key, isa.name))
    if code is None:
        with together() as batch:
            code = _kernels.get((key, isa.name)) or _made(key, write, isa, batch)
    for record in _records:
        record[key] = code
    return code


def _shelf(key: Hashable, write: Callable[[ISA], Module], isa: ISA) -> str | None:
    """Where the name of a kernel's object is kept; only of kernels that this package writes, whose source is known."""
    if not (getattr(write, "__module__", None) or "").startswith("lucid.kernels."):
        return None
    stable, source = cache.stable_name(key), cache.source_digest()
    if stable is None or source is None:
        return None
    return cache.key(stable, source, isa.name, str(_CODEGEN_LEVEL), *_circumstances())


def _found(key: Hashable, write: Callable[[ISA], Module], isa: ISA) -> Code | None:
    """A kernel that an earlier process has compiled."""
    shelf = _shelf(key, write, isa)
    kept = shelf and cache.load(shelf)
    return Code(isa, _loaded(kept), lambda: str(write(isa))) if kept else None


def _made(key: Hashable, write: Callable[[ISA], Module], isa: ISA, batch: _Batch) -> Code:
    """A kernel from disk; else one that is generated with the batch, where there can be doors."""
    place = key, isa.name
    if place in batch.quick:
        return batch.quick[place].code
    code = _found(key, write, isa)
    if code is None:
        text, shelf = str(write(isa)), _shelf(key, write, isa)
        if doors.exist(isa.arch) and cache.load(_object_name(text, isa)) is None:
            return batch.add(place, _Quick(text, isa, shelf))
        code = _well(text, isa, shelf)
    _kernels[place] = code
    return code


def _well(text: str, isa: ISA, shelf: str | None) -> Code:
    kept = _kept(text, isa)
    if shelf:
        cache.name_again(_object_name(text, isa), shelf, kept)
    return Code(isa, _loaded(kept), lambda: text)


class _Quick:
    """Code behind doors: nothing as yet, quick code, and later good code."""

    def __init__(self, text: str, isa: ISA, shelf: str | None) -> None:
        self._text, self._isa, self._shelf = text, isa, shelf
        self._doors = {name: _doors().make() for name in _EXPORTED.findall(text)}
        self.code = Code(isa, {name: door.address for name, door in self._doors.items()}, lambda: text)

    def __len__(self) -> int:
        return len(self._text)

    def generate(self) -> None:
        """May be called on several threads at once: whoever holds the lock waits for them."""
        idle = _quick_linkers.setdefault(self._isa, [])
        try:
            linker = idle.pop()
        except IndexError:
            linker = _unlocked(_new_linker(self._isa, _QUICK_LEVEL))
        self._lead_to(_library(_llvm().JITLibraryBuilder().add_ir(self._text), list(self._doors), linker))
        idle.append(linker)

    def improve(self) -> None:
        """Changes the code under its callers' feet."""
        good = _well(self._text, self._isa, self._shelf)
        self._lead_to(good._addresses)
        self.code._addresses = good._addresses

    def _lead_to(self, addresses: dict[str, int]) -> None:
        for name, door in self._doors.items():
            door.lead_to(addresses[name])


_quick_linkers: dict[ISA, list[Any]] = {}  # that nobody is using


def _unlocked(linker: Any) -> Any:
    """Lets a linker run beside others, each with a context of its own; llvmlite takes one call of any kind at a time.

    A version of llvmlite that is built otherwise generates one after the other.
    """
    with suppress(AttributeError):
        lib = linker._capi
        link = ctypes.CDLL(lib._name).LLVMPY_LLJIT_Link
        link.argtypes, link.restype = lib.LLVMPY_LLJIT_Link.argtypes, lib.LLVMPY_LLJIT_Link.restype
        linker._capi = SimpleNamespace(LLVMPY_LLJIT_Link=link, LLVMPY_LLJITDispose=lib.LLVMPY_LLJITDispose)
    return linker


class _Batch:
    """Kernels that other cores generate while the next are written."""

    def __init__(self) -> None:
        self.quick: dict[tuple[Hashable, str], _Quick] = {}
        self._ahead = Ahead(target.cores())

    def add(self, place: tuple[Hashable, str], quick: _Quick) -> Code:
        self.quick[place] = quick
        self._ahead.put(quick.generate, len(quick))
        return quick.code

    def finish(self) -> None:
        self._ahead.finish()
        for place, quick in self.quick.items():
            _kernels[place] = quick.code
            _later.put(quick.improve)
        _later.stir()


@contextmanager
def together() -> Iterator[_Batch]:
    """Generates the kernels that are asked for inside on all cores: until its end nobody may call them."""
    global _batch
    with _lock:
        if _batch is not None:  # inside another
            yield _batch
            return
        batch = _batch = _Batch()
        try:
            yield batch
        finally:
            _batch = None
            batch.finish()


def settle() -> None:
    """Generates well whatever is quick code as yet: before a measurement."""
    _later.settle()


def kernel_count() -> int:
    """Kernels in memory."""
    return len(_kernels)


def emit_elsewhere(text: str, isa: ISA) -> str:
    """Assembly for any machine. LLVM aborts the process on what it cannot lower: call it in a subprocess."""
    llvm = _llvm()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(isa.triple).create_target_machine(
        cpu=isa.cpu, features=isa.features, opt=_CODEGEN_LEVEL, reloc="pic"
    )
    module = llvm.parse_assembly(text)
    module.verify()
    return str(machine.emit_assembly(module))
