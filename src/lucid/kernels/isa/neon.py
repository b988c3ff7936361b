"""AArch64 Advanced SIMD: 32 registers of 16 bytes, fused multiply-add everywhere."""

from lucid.kernels.isa.machine import ISA

NEON = ISA(
    name="neon",
    triple="aarch64-unknown-linux-gnu",
    cpu="generic",
    features="",
    requires=("neon",),
    vector_bytes=16,
    registers=32,
)
