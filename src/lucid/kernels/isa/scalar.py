"""Plain x86-64, one number at a time: the slowest machine that must give right results."""

from lucid.kernels.isa.machine import ISA

SCALAR = ISA(
    name="scalar",
    triple="x86_64-unknown-linux-gnu",
    cpu="x86-64",
    features="",
    requires=(),
    vector_bytes=0,
    registers=16,
    fma="fmuladd",
)
