"""From LLVM text to addresses: the code generator, kernels kept in memory, objects kept on disk.

No optimisation pass runs: the text is in SSA form and vector code already. MCJIT stands behind this file only.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import lru_cache
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


def _machine(isa: ISA) -> Any:
    """A fresh one for every engine, since MCJIT takes ownership of it."""
    llvm = _llvm()
    best = isa is target.cpu().isas[-1]
    name, features = isa.cpu, isa.features
    if best:  # everything this very CPU has, and its own scheduling
        name = llvm.get_host_cpu_name()
        features = ",".join(filter(None, [llvm.get_host_cpu_features().flatten(), features]))
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=name, features=features, opt=_CODEGEN_LEVEL, reloc="pic", codemodel="jitdefault"
    )


# Keeps all code loaded, whoever drops its Code: addresses go everywhere, and threads stay in what they point at.
_engines: list[Any] = []


@dataclass(slots=True)
class Code:
    """A compiled module. It stays loaded as long as the process lives: kernels are few, and addresses are shared."""

    text: str
    isa: ISA
    engine: Any
    _addresses: dict[str, int] = field(default_factory=dict)

    def address(self, name: str) -> int:
        """Where an exported function starts."""
        if name not in self._addresses:
            with _lock:
                address = self.engine.get_function_address(name)
            if not address:
                raise KeyError(f"the module exports no function {name!r}")
            self._addresses[name] = address
        return self._addresses[name]

    def assembly(self) -> str:
        """What the code generator makes of the text."""
        return str(_machine(self.isa).emit_assembly(_llvm().parse_assembly(self.text)))


def compile_text(text: str, isa: ISA | None = None) -> Code:
    """Native code for LLVM text.

    Cost: 10 to 30 ms to generate, 2 ms from the cache.
    """
    with _lock:
        return _compile(text, isa or target.isa())


def _compile(text: str, isa: ISA) -> Code:
    """A function of its own: its LLVM objects die while the lock is held, since to free one is a call into LLVM."""
    llvm, machine = _llvm(), _machine(isa)
    key = cache.key(
        text, isa.name, target.cpu().name, llvm.get_host_cpu_features().flatten(), str(llvm.llvm_version_info)
    )
    binary = cache.load(key)
    if binary is None:
        module = llvm.parse_assembly(text)
        module.verify()
        binary = machine.emit_object(module)
        cache.save(key, binary)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(binary))
    engine.finalize_object()
    _engines.append(engine)
    return Code(text, isa, engine)


_kernels: dict[tuple[Hashable, str], Code] = {}


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
                code = _kernels[key, isa.name] = compile_text(str(write(isa)), isa)
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
