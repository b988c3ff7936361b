"""One file a machine. A new one is a new row here."""

from lucid.kernels.isa.avx2 import AVX2
from lucid.kernels.isa.avx512 import AVX512, AVX512_BF16
from lucid.kernels.isa.machine import ISA
from lucid.kernels.isa.neon import NEON
from lucid.kernels.isa.scalar import SCALAR

#: By name, the best last.
ISAS = {isa.name: isa for isa in (SCALAR, NEON, AVX2, AVX512, AVX512_BF16)}

__all__ = ["AVX2", "AVX512", "AVX512_BF16", "ISA", "ISAS", "NEON", "SCALAR"]
