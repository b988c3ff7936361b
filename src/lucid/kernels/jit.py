"""From LLVM text to addresses: the code generator, kernels kept in memory, objects kept on disk.

No optimisation pass runs: the text is in SSA form and vector code already. LLVM's compiler and linker stand behind this
file only. A kernel of Lucid's own is found on disk by its key, so that a warm start does not even write its text.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import count
from typing import Any

from lucid.kernels import cache, target
from lucid.kernels.ir import Module
from lucid.kernels.isa import ISA

_CODEGEN_LEVEL = 2  # 0 is 2 to 5 times slower code, 3 is no faster code

# Held by whoever is in LLVM, which takes one call at a time, and by a fork, whose child would find LLVM's lock taken
# for good.
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


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


def _new_machine(isa: ISA) -> Any:
    name, features = isa.cpu, isa.features
    if isa is target.cpu().isas[-1]:  # everything this very CPU has, and its own scheduling
        name, host, _ = _circumstances()
        features = ",".join(filter(None, [host, features]))
    return (
        _llvm()
        .Target.from_default_triple()
        .create_target_machine(cpu=name, features=features, opt=_CODEGEN_LEVEL, reloc="pic", codemodel="jitdefault")
    )


_machine = lru_cache(maxsize=8)(_new_machine)


@lru_cache(maxsize=1)
def _linker() -> Any:
    """One for all objects, each a library of its own in it: it takes ownership of the machine it is made with."""
    llvm = _llvm()
    return llvm.create_lljit_compiler(_new_machine(target.cpu().isas[-1]))


_library_number = count()
# Keeps all code loaded, whoever drops its Code: addresses go everywhere, and threads stay in what they point at.
_libraries: list[Any] = []
_EXPORTED = re.compile(r"^define (?!internal)[^@]*@([\w.]+)\(", re.MULTILINE)


class Code:
    """A compiled module. It stays loaded as long as the process lives: kernels are few, and addresses are shared."""

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
        name = _object_name(text, isa)
        return Code(isa, _linked(_object(name, text, isa), _EXPORTED.findall(text)), lambda: text)


def _object_name(text: str, isa: ISA) -> str:
    return cache.key(text, isa.name, str(_CODEGEN_LEVEL), *_circumstances())


def _object(name: str, text: str, isa: ISA) -> bytes:
    """A function of its own: its LLVM objects die while the lock is held, since to free one is a call into LLVM."""
    binary = cache.load(name)
    if binary is None:
        module = _llvm().parse_assembly(text)
        module.verify()
        binary = _machine(isa).emit_object(module)
        cache.save(name, binary)
    return binary


def _linked(binary: bytes, names: list[str]) -> dict[str, int]:
    """The addresses of an object's functions."""
    library = _llvm().JITLibraryBuilder().add_object_img(binary).add_current_process()
    for name in names:
        library.export_symbol(name)
    loaded = library.link(_linker(), f"lucid {next(_library_number)}")
    _libraries.append(loaded)
    return {name: loaded[name] for name in names}


_kernels: dict[tuple[Hashable, str], Code] = {}
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
        with _lock:
            code = _kernels.get((key, isa.name))
            if code is None:
                code = _kernels[key, isa.name] = _found(key, write, isa) or _written(key, write, isa)
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
    entry = shelf and cache.load(shelf)
    if not entry:
        return None
    name, *exported = entry.decode().split()
    binary = cache.load(name)
    return Code(isa, _linked(binary, exported), lambda: str(write(isa))) if binary else None


def _written(key: Hashable, write: Callable[[ISA], Module], isa: ISA) -> Code:
    text = str(write(isa))
    code = compile_text(text, isa)
    shelf = _shelf(key, write, isa)
    if shelf:
        cache.save(shelf, " ".join([_object_name(text, isa), *_EXPORTED.findall(text)]).encode())
    return code


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
