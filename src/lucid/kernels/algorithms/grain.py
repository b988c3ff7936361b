"""What a dense kernel multiplies: numbers widened to the type of their sums, or pairs of bfloats.

An element holds ``depth`` numbers along the axis that is summed, at the same place in both operands: of channels in
panels and packed weights, of pixels where a weight gradient sums over them. A channel that is missing from the last
element is 0 in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lucid.kernels.ir import Type, Value, bf16, bf16_dot, bitcast, computed, convert, fma, i16, i32, vec
from lucid.kernels.isa import ISA

HIDE_WIDENING = 3  #: vectors of products with one factor, beside which it costs nothing to widen that


@dataclass(frozen=True, slots=True)
class Grain:
    """Elements that hold ``depth`` numbers of the type ``stored``, which is that of the arrays."""

    stored: Type
    depth: int = 1

    @classmethod
    def of(cls, stored: Type, count: int, isa: ISA) -> Grain:
        """The one with most products to an instruction, for sums over so many channels, or rows of so many pixels."""
        return cls(stored, 2 if stored == bf16 and isa.bf16_dot and count > 1 else 1)

    @property
    def sums(self) -> Type:
        """The type of the sums."""
        return computed(self.stored)

    @property
    def packed(self) -> Type:
        """The type of an element."""
        return self.sums if self.depth == 1 else i32

    @property
    def widened(self) -> bool:
        """Whether numbers are of another type before they are elements."""
        return self.depth == 1 and self.packed != self.stored

    def count(self, numbers: Any) -> Any:
        """Elements that hold so many; numbers or values."""
        return numbers if self.depth == 1 else (numbers + 1) // 2

    def element(self, numbers: Sequence[Value]) -> Value:
        """The elements made of a vector of each number."""
        if self.depth == 1:
            return convert(numbers[0], self.packed)
        low, high = (convert(bitcast(v, vec(i16, v.type.lanes)), i32, signed=False) for v in numbers)
        return low | high << 16

    def side_by_side(self, numbers: Value) -> Value:
        """The elements made of a vector of numbers that follow each other."""
        if self.depth == 1:
            return convert(numbers, self.packed)
        return bitcast(numbers, vec(self.packed, numbers.type.lanes // self.depth))

    def multiply_add(self, a: Value, b: Value, sums: Value) -> Value:
        """Sums of one more product, or two."""
        return fma(a, b, sums) if self.depth == 1 else bf16_dot(a, b, sums)
