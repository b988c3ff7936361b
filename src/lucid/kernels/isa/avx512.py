"""AVX-512 (Skylake-X, Zen 4 and later): 32 registers of 64 bytes, masks in registers of their own."""

from dataclasses import replace

from lucid.kernels.isa.machine import ISA

AVX512 = ISA(
    name="avx512",
    triple="x86_64-unknown-linux-gnu",
    cpu="x86-64-v4",
    features="-prefer-256-bit",  # LLVM holds back from 512-bit registers on some CPUs; these kernels are built on them
    requires=("avx512f", "avx512bw", "avx512dq", "avx512vl"),
    vector_bytes=64,
    registers=32,
)

#: With products of pairs of bfloats (Cooper Lake, Zen 4 and later).
AVX512_BF16 = replace(
    AVX512,
    name="avx512_bf16",
    features="-prefer-256-bit,+avx512bf16",
    requires=(*AVX512.requires, "avx512bf16"),
    bf16_dot=True,
)
