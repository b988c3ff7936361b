"""What a kernel must know of an instruction set, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lucid.kernels.ir.types import Type


@dataclass(frozen=True, slots=True)
class ISA:
    """An instruction set: how wide its vectors are, how many it holds, and how LLVM is told to emit for it.

    ``requires`` are LLVM's names of the features that a CPU must have to run it. ``fma`` is the intrinsic for a b + c:
    ``fmuladd`` lets LLVM take two instructions where there is no fused one. With ``bf16_dot`` there are instructions
    that round float to bfloat and that add products of pairs of bfloats to a float.
    """

    name: str
    triple: str
    cpu: str
    features: str
    requires: tuple[str, ...]
    vector_bytes: int
    registers: int
    fma: str = "fma"
    bf16_dot: bool = False

    @property
    def arch(self) -> str:
        """The architecture, the first word of the triple."""
        return self.triple.partition("-")[0]

    @property
    def converts_f16(self) -> bool:
        """Whether there are instructions between float16 and float32."""
        return bool({"f16c", "avx512f", "neon"}.intersection(self.requires))

    @property
    def masks_halves(self) -> bool:
        """Whether loads and stores of 16-bit elements take masks, or are of one element."""
        return "avx512bw" in self.requires or not self.vector_bytes

    @property
    def slides(self) -> bool:
        """Whether there is an instruction for the vector that begins inside one of two neighbours."""
        return "avx512f" in self.requires

    def lanes(self, element: Type) -> int:
        """Elements of one vector register; 1 where there are no vectors."""
        return max(1, self.vector_bytes // element.bytes)
