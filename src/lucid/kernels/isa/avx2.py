"""AVX2 with FMA (Haswell, Zen and later): 16 registers of 32 bytes."""

from lucid.kernels.isa.machine import ISA

AVX2 = ISA(
    name="avx2",
    triple="x86_64-unknown-linux-gnu",
    cpu="x86-64-v3",
    features="",
    requires=("avx2", "fma", "f16c"),
    vector_bytes=32,
    registers=16,
)
