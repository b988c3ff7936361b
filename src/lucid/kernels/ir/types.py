"""Types of the values in a kernel: scalars, vectors of them, pointers that know what they point to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Type:
    """An LLVM type. ``kind`` is int, float, ptr or void; ``bits`` is an element's width; a scalar has one lane."""

    name: str
    kind: str
    bits: int
    lanes: int = 1
    pointee: Type | None = None

    def __str__(self) -> str:
        return self.name if self.lanes == 1 else f"<{self.lanes} x {self.name}>"

    @property
    def element(self) -> Type:
        """The type of one lane."""
        return Type(self.name, self.kind, self.bits, 1, self.pointee)

    @property
    def bytes(self) -> int:
        """Bytes of one lane in memory."""
        return (self.bits + 7) // 8

    @property
    def suffix(self) -> str:
        """How an intrinsic's name spells the type, as in ``llvm.fma.v16f32``."""
        letter = {"int": "i", "float": "f", "ptr": "p"}[self.kind]
        scalar = "bf16" if self.name == "bfloat" else "p0" if letter == "p" else f"{letter}{self.bits}"
        return scalar if self.lanes == 1 else f"v{self.lanes}{scalar}"


void = Type("void", "void", 0)
i1 = Type("i1", "int", 1)
i8 = Type("i8", "int", 8)
i16 = Type("i16", "int", 16)
i32 = Type("i32", "int", 32)
i64 = Type("i64", "int", 64)
f16 = Type("half", "float", 16)
bf16 = Type("bfloat", "float", 16)
f32 = Type("float", "float", 32)
f64 = Type("double", "float", 64)


def vec(element: Type, lanes: int) -> Type:
    """``lanes`` values of one type; one lane is the scalar itself, so that code for vectors is code for scalars."""
    return Type(element.name, element.kind, element.bits, lanes)


def computed(stored: Type) -> Type:
    """The type that numbers are computed in: half precision is widened when it is read, and rounded when written."""
    return f32 if stored.bits == 16 else stored


def ptr(pointee: Type) -> Type:
    """A pointer to values of ``pointee``."""
    return Type("ptr", "ptr", 64, 1, pointee)


#: Element types by the name of the array's dtype.
BY_DTYPE = {
    "float16": f16,
    "bfloat16": bf16,
    "float32": f32,
    "float64": f64,
    "bool": i8,
    "int8": i8,
    "uint8": i8,
    "int16": i16,
    "int32": i32,
    "int64": i64,
}
