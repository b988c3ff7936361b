"""The pool's text: right for every machine it names, also those that cannot run here."""

from __future__ import annotations

import subprocess
import sys

import llvmlite.binding as llvm
import pytest

from lucid.kernels.runtime.machines import MACHINES
from lucid.kernels.runtime.pool_text import pool_text


@pytest.mark.parametrize("futex", [True, False])
@pytest.mark.parametrize("arch", MACHINES)
def test_the_text_is_valid(arch, futex):
    module = llvm.parse_assembly(pool_text(MACHINES[arch], futex=futex, spins=10))
    module.verify()
    exported = {f.name for f in module.functions if not f.is_declaration and f.linkage.name == "external"}
    pool = {"allow", "launch", "method", "run", "run_steps", "worker", "hold", "release", "hire", "dismiss", "part"}
    assert exported == {"call"} | (pool if futex else set())


# What must appear: denormals flushed, a pause that pauses, and the futex call's number.
EXPECTED = {
    "x86_64": ["ldmxcsr", "pause", "lock", "202"],
    "aarch64": ["msr\tfpcr", "isb", "#98"],
}


@pytest.mark.parametrize("arch", MACHINES)
def test_the_text_becomes_instructions(arch):
    """In a process of its own, since LLVM aborts on what it cannot lower."""
    text = pool_text(MACHINES[arch], futex=True, spins=10)
    isa = {"x86_64": "avx2", "aarch64": "neon"}[arch]
    code = f"from lucid.kernels import isa, jit; print(jit.emit_elsewhere({text!r}, isa.ISAS[{isa!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert [word for word in EXPECTED[arch] if word not in done.stdout.lower()] == []
