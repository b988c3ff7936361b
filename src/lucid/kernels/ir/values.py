"""Values of a kernel under construction: Python's operators write the instructions.

A ``Value`` is a scalar or a vector, a ``Pointer`` also knows what it points to. Whole numbers and floats mix in as
constants of the other operand's type, and constants fold, so generic code costs nothing where its parameters are fixed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

from lucid.kernels.ir.types import Type, bf16, f16, f32, i1, i16, i32, i64, ptr, vec

if TYPE_CHECKING:
    from lucid.kernels.ir.builder import Function

Number = int | float

_INSTRUCTION: dict[
    str, tuple[str, str | None, Callable[[Any, Any], Number] | None]
] = {  # operator: (on whole numbers, on floats, fold)
    "add": ("add", "fadd", lambda a, b: a + b),
    "sub": ("sub", "fsub", lambda a, b: a - b),
    "mul": ("mul", "fmul", lambda a, b: a * b),
    "div": ("sdiv", "fdiv", None),
    "udiv": ("udiv", None, lambda a, b: a // b),
    "urem": ("urem", None, lambda a, b: a % b),
    "and": ("and", None, lambda a, b: a & b),
    "or": ("or", None, lambda a, b: a | b),
    "xor": ("xor", None, lambda a, b: a ^ b),
    "shl": ("shl", None, lambda a, b: a << b),
    "shr": ("lshr", None, None),
    "ashr": ("ashr", None, None),
}
_NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "udiv": 1, "or": 0, "xor": 0, "shl": 0, "shr": 0, "ashr": 0}
_PREDICATE = {"lt": ("slt", "olt"), "le": ("sle", "ole"), "gt": ("sgt", "ogt"), "ge": ("sge", "oge"),
              "eq": ("eq", "oeq"), "ne": ("ne", "une"), "ult": ("ult", "ult"), "uge": ("uge", "uge")}  # fmt: skip
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b,
}  # fmt: skip


def literal(type: Type, number: Number) -> str:
    """A constant in LLVM's spelling; floats as the bits of the double that holds them exactly."""
    if type.kind == "float":
        number = float(number)
        if type.bits == 32:
            number = struct.unpack("f", struct.pack("f", number))[0]
        scalar = f"0x{struct.unpack('Q', struct.pack('d', number))[0]:016X}"
    else:
        scalar = str(int(number))
    return scalar if type.lanes == 1 else f"splat ({type.element} {scalar})"


class Value:
    """A scalar or vector in a function, or a constant (``number`` is set, every lane the same)."""

    __slots__ = ("fn", "number", "text", "type")

    def __init__(self, fn: Function, type: Type, text: str, number: Number | None = None) -> None:
        self.fn, self.type, self.text, self.number = fn, type, text, number

    def __repr__(self) -> str:
        return f"{self.type} {self.text}"

    def const(self, number: Number) -> Value:
        """A constant of this value's type."""
        return constant(self.fn, self.type, number)

    def _lift(self, other: Any) -> Value:
        if not isinstance(other, Value):
            return self.const(other)
        if other.type != self.type:
            raise TypeError(f"kernel IR: {self!r} and {other!r} differ in type")
        return other

    def _binary(self, op: str, other: Any, swap: bool = False) -> Value:
        a, b = self, self._lift(other)
        if swap:
            a, b = b, a
        whole, floating, fold = _INSTRUCTION[op]
        if a.type.kind == "int":
            if a.number is not None and b.number is not None and fold is not None:
                return a.const(fold(a.number, b.number))
            if b.number is not None and b.number == _NEUTRAL.get(op):
                return a
            if a.number is not None and op in ("add", "mul", "or") and a.number == _NEUTRAL[op]:
                return b
            if op == "mul" and 0 in (a.number, b.number):
                return a.const(0)
        name = floating if a.type.kind == "float" else whole
        if name is None:
            raise TypeError(f"kernel IR: {op} of {a.type}")
        return self.fn.emit(a.type, f"{name} {a.type} {a.text}, {b.text}")

    def __add__(self, other: Any) -> Value:
        return self._binary("add", other)

    def __radd__(self, other: Any) -> Value:
        return self._binary("add", other, swap=True)

    def __sub__(self, other: Any) -> Value:
        return self._binary("sub", other)

    def __rsub__(self, other: Any) -> Value:
        return self._binary("sub", other, swap=True)

    def __mul__(self, other: Any) -> Value:
        return self._binary("mul", other)

    def __rmul__(self, other: Any) -> Value:
        return self._binary("mul", other, swap=True)

    def __truediv__(self, other: Any) -> Value:
        return self._binary("div", other)

    def __rtruediv__(self, other: Any) -> Value:
        return self._binary("div", other, swap=True)

    def __floordiv__(self, other: Any) -> Value:
        """Of sizes, which are never negative: unsigned."""
        return self._binary("udiv", other)

    def __mod__(self, other: Any) -> Value:
        """Of sizes, which are never negative: unsigned."""
        return self._binary("urem", other)

    def __and__(self, other: Any) -> Value:
        return self._binary("and", other)

    def __or__(self, other: Any) -> Value:
        return self._binary("or", other)

    def __xor__(self, other: Any) -> Value:
        return self._binary("xor", other)

    def __lshift__(self, other: Any) -> Value:
        return self._binary("shl", other)

    def __rshift__(self, other: Any) -> Value:
        """Logical: zeros come in from the left."""
        return self._binary("shr", other)

    def ashr(self, other: Any) -> Value:
        """Arithmetic shift right."""
        return self._binary("ashr", other)

    def __rlshift__(self, other: Any) -> Value:
        return self._binary("shl", other, swap=True)

    def __neg__(self) -> Value:
        if self.type.kind == "float":
            return self.fn.emit(self.type, f"fneg {self.type} {self.text}")
        return self.const(0) - self

    def __invert__(self) -> Value:
        return self ^ (-1 if self.type.bits > 1 else 1)

    def _compare(self, op: str, other: Any) -> Value:
        other = self._lift(other)
        result = vec(i1, self.type.lanes)
        if self.number is not None and other.number is not None and op in _COMPARE:
            return constant(self.fn, result, int(_COMPARE[op](self.number, other.number)))
        floating = self.type.kind == "float"
        head = "fcmp" if floating else "icmp"
        return self.fn.emit(result, f"{head} {_PREDICATE[op][floating]} {self.type} {self.text}, {other.text}")

    def __lt__(self, other: Any) -> Value:
        return self._compare("lt", other)

    def __le__(self, other: Any) -> Value:
        return self._compare("le", other)

    def __gt__(self, other: Any) -> Value:
        return self._compare("gt", other)

    def __ge__(self, other: Any) -> Value:
        return self._compare("ge", other)

    def eq(self, other: Any) -> Value:
        """Equality as a value; ``==`` stays Python's."""
        return self._compare("eq", other)

    def ne(self, other: Any) -> Value:
        """Inequality as a value; true for NaN."""
        return self._compare("ne", other)

    def ult(self, other: Any) -> Value:
        """Unsigned less-than: ``x.ult(n)`` is 0 <= x < n in one comparison. On floats: less or unordered."""
        return self._compare("ult", other)


class Pointer(Value):
    """An address of elements of ``type.pointee``; indices count elements."""

    __slots__ = ()

    @property
    def pointee(self) -> Type:
        """What it points to."""
        assert self.type.pointee is not None, "a pointer's type names what it points to"
        return self.type.pointee

    def at(self, index: Any) -> Pointer:
        """The address ``index`` elements further on."""
        index = lift(self.fn, index)
        if index.number == 0:
            return self
        text = f"getelementptr {self.pointee}, ptr {self.text}, {index.type} {index.text}"
        return self.fn.emit(self.type, text)  # type: ignore[return-value]

    def cast(self, pointee: Type) -> Pointer:
        """The same address, seen as another type."""
        return Pointer(self.fn, ptr(pointee), self.text)

    def load(self, index: Any = 0, lanes: int = 1, mask: Value | None = None, other: Value | None = None) -> Value:
        """``lanes`` consecutive elements. Where ``mask`` is off, ``other`` (0) comes and memory is not touched."""
        if self.pointee == bf16:  # LLVM moves bfloats as floats where there are no instructions for them
            words = other if other is None else bitcast(other, vec(i16, lanes))
            return bitcast(self.cast(i16).load(index, lanes, mask, words), vec(bf16, lanes))
        type, p, align = vec(self.pointee, lanes), self.at(index), self.pointee.bytes
        if self.pointee.kind == "ptr":
            type = self.pointee
        if mask is None:
            return self.fn.emit(type, f"load {type}, ptr {p.text}, align {align}")
        other = constant(self.fn, type, 0) if other is None else other
        if lanes == 1:
            choice = self.fn.choose(mask, lambda: [p.load()], lambda: [other])
            return choice[0]
        name = f"llvm.masked.load.{type.suffix}.p0"

        def some() -> list[Value]:
            return [self.fn.intrinsic(name, type, f"align {align}", p, mask, other)]

        loaded = self.fn.choose(all_of(mask), lambda: [p.load(0, lanes)], some) if self._one_by_one else some()
        return loaded[0]

    def store(self, value: Any, index: Any = 0, mask: Value | None = None, nontemporal: bool = False) -> None:
        """Puts a scalar or vector; ``nontemporal`` goes past the caches and wants an address aligned to the vector."""
        if not isinstance(value, Value):
            value = constant(self.fn, self.pointee, value)
        if value.type.element.bits != self.pointee.bits:
            raise TypeError(f"kernel IR: store of {value!r} through {self!r} to {self.pointee}")
        if value.type.element == bf16:
            words = bitcast(value, vec(i16, value.type.lanes))
            return self.cast(i16).store(words, index, mask, nontemporal)
        p, align = self.at(index), self.pointee.bytes
        if value.type.element == f16 and value.type.lanes > 1:  # one instruction that rounds and stores takes longer
            value = self.fn.emit(value.type, f"freeze {value.type} {value.text}")
        if mask is None:
            if nontemporal:
                align *= value.type.lanes
            hint = ", !nontemporal !0" if nontemporal else ""
            self.fn.line(f"store {value.type} {value.text}, ptr {p.text}, align {align}{hint}")
        elif value.type.lanes == 1:
            with self.fn.when(mask):
                p.store(value)
        else:
            name = f"llvm.masked.store.{value.type.suffix}.p0"

            def whole() -> list[Value]:
                p.store(value)
                return []

            def some() -> list[Value]:
                self.fn.intrinsic(name, None, f"align {align}", value, p, mask, align_operand=1)
                return []

            if self._one_by_one:
                self.fn.choose(all_of(mask), whole, some)
            else:
                some()

    @property
    def _one_by_one(self) -> bool:
        """Whether LLVM moves the elements under a mask one by one, which is only worth it where some are missing."""
        return self.pointee.bits == 16 and not self.fn.module.masks_halves

    def __getitem__(self, index: Any) -> Value:
        return self.load(index)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.store(value, index)

    def splat(self, index: Any, lanes: int, element: Type | None = None) -> Value:
        """One element in every lane, as it is or as another type."""
        if self.pointee == bf16 and element == f32 and lanes > 1:  # a broadcast of the word, twice a lane, and a shift
            words = splat(self.cast(i16).load(index), 2 * lanes)
            return bitcast(bitcast(words, vec(i32, lanes)) << 16, vec(f32, lanes))
        return convert(splat(self.load(index), lanes), element or self.pointee)

    def gather(self, indices: Value, mask: Value) -> Value:
        """The elements at a vector of indices; 0 where ``mask`` is off, and memory is not touched there."""
        lanes = indices.type.lanes
        if lanes == 1:
            return self.load(indices, 1, mask)
        pointers = vec(self.type.element, lanes)
        places = self.fn.emit(pointers, f"getelementptr {self.pointee}, ptr {self.text}, {indices.type} {indices.text}")
        type = vec(self.pointee, lanes)
        name = f"llvm.masked.gather.{type.suffix}.v{lanes}p0"
        attribute = f"align {self.pointee.bytes}"
        value: Value = self.fn.intrinsic(name, type, attribute, places, mask, constant(self.fn, type, 0))
        return value

    def prefetch(self, index: Any = 0, write: bool = False, locality: int = 3) -> None:
        """Asks for the cache line of an element; never faults."""
        p = self.at(index)
        self.fn.intrinsic(
            "llvm.prefetch.p0", None, "", p, *(constant(self.fn, i32, n) for n in (int(write), locality, 1))
        )


def all_of(mask: Value) -> Value:
    """Whether all lanes are on."""
    every: Value = mask.fn.intrinsic(f"llvm.vector.reduce.and.{mask.type.suffix}", i1, "", mask)
    return every


def make(fn: Function, type: Type, text: str) -> Value:
    """A value of the class its type asks for."""
    return Pointer(fn, type, text) if type.kind == "ptr" else Value(fn, type, text)


def constant(fn: Function, type: Type, number: Number) -> Value:
    """A number in every lane."""
    return Value(fn, type, literal(type, number), number)


def lift(fn: Function, value: Any, type: Type = i64) -> Value:
    """A Python number as a constant; a value as it is."""
    return value if isinstance(value, Value) else constant(fn, type, value)


def vector_of(fn: Function, element: Type, numbers: Sequence[Number]) -> Value:
    """A constant vector with a number for every lane."""
    if len(numbers) == 1:
        return constant(fn, element, numbers[0])
    body = ", ".join(f"{element} {literal(element, n)}" for n in numbers)
    return Value(fn, vec(element, len(numbers)), f"<{body}>")


def splat(value: Value, lanes: int) -> Value:
    """A scalar in every lane."""
    if lanes == 1:
        return value
    type = vec(value.type, lanes)
    if value.number is not None:
        return constant(value.fn, type, value.number)
    one = value.fn.emit(type, f"insertelement {type} poison, {value.type} {value.text}, i32 0")
    return value.fn.emit(type, f"shufflevector {type} {one.text}, {type} poison, <{lanes} x i32> zeroinitializer")


def shuffle(a: Value, b: Value | None, lanes: Sequence[int]) -> Value:
    """Lanes picked from ``a`` (0 …) and ``b`` (from ``a``'s lane count on)."""
    fn, other = a.fn, "poison" if b is None else b.text
    if a.type.lanes == 1 or len(lanes) == 1:
        raise TypeError("kernel IR: shuffle works on vectors; take lanes of scalars in Python")
    if a.type.element in (f16, bf16):  # which go from one piece of code to another as whole numbers
        words = bitcast(a, vec(i16, a.type.lanes))
        more = None if b is None else bitcast(b, words.type)
        return bitcast(shuffle(words, more, lanes), vec(a.type.element, len(lanes)))
    picks = ", ".join(f"i32 {n}" for n in lanes)
    return fn.emit(
        vec(a.type.element, len(lanes)),
        f"shufflevector {a.type} {a.text}, {a.type} {other}, <{len(lanes)} x i32> <{picks}>",
    )


def extract(value: Value, lane: int) -> Value:
    """One lane as a scalar."""
    if value.type.lanes == 1:
        return value
    return value.fn.emit(value.type.element, f"extractelement {value.type} {value.text}, i32 {lane}")


def joined(scalars: Sequence[Value]) -> Value:
    """The vector whose lanes they are."""
    first, *_ = scalars
    if len(scalars) == 1:
        return first
    if first.type in (f16, bf16):  # which are joined as whole numbers wherever they are not computed with
        return bitcast(joined([bitcast(scalar, i16) for scalar in scalars]), vec(first.type, len(scalars)))
    type = vec(first.type, len(scalars))
    vector = make(first.fn, type, "poison")
    for lane, scalar in enumerate(scalars):
        vector = first.fn.emit(type, f"insertelement {type} {vector.text}, {scalar.type} {scalar.text}, i32 {lane}")
    return vector


@overload
def select(condition: Value, yes: Pointer, no: Pointer) -> Pointer: ...
@overload
def select(condition: Value, yes: Any, no: Any) -> Value: ...
def select(condition: Value, yes: Any, no: Any) -> Value:
    """``yes`` where the condition holds, else ``no``; lane by lane if it is a vector."""
    pattern = yes if isinstance(yes, Value) else no
    yes, no = pattern._lift(yes), pattern._lift(no)
    if condition.number is not None:
        chosen: Value = yes if condition.number else no
        return chosen
    if yes.type.element == bf16:  # LLVM aborts on 9 bfloats that are chosen, and on whatever it makes wider or narrower
        words = vec(i16, yes.type.lanes)
        return bitcast(select(condition, bitcast(yes, words), bitcast(no, words)), yes.type)
    return condition.fn.emit(
        yes.type,
        f"select {condition.type} {condition.text}, {yes.type} {yes.text}, {no.type} {no.text}",
        like=yes,
    )


def convert(value: Value, element: Type, signed: bool = True) -> Value:
    """The same numbers as another element type; floats to whole numbers truncate, to narrower floats round.

    half converts to and from float only. The instruction that rounds to bfloat takes subnormal numbers for 0.
    """
    source, target = value.type, vec(element, value.type.lanes)
    if source == target:
        return value
    if value.number is not None:
        return constant(value.fn, target, value.number)
    if source.kind == "int" and target.kind == "int":
        name = "trunc" if target.bits < source.bits else "sext" if signed else "zext"
    elif source.kind == "int":
        name = "sitofp" if signed else "uitofp"
    elif target.kind == "int":
        name = "fptosi" if signed else "fptoui"
    elif source.element == bf16:
        return convert(_from_bfloat(value), element)
    elif target.element == bf16 and not value.fn.module.bf16_dot:
        return _to_bfloat(value)
    elif source.element == f16 and not value.fn.module.converts_f16:
        return convert(_from_half(value), element)
    elif target.element == f16 and not value.fn.module.converts_f16:
        return _to_half(value)
    else:
        name = "fptrunc" if target.bits < source.bits else "fpext"
    return value.fn.emit(target, f"{name} {source} {value.text} to {target}")


def _from_bfloat(value: Value) -> Value:
    """The float whose upper half it is."""
    lanes = value.type.lanes
    bits = convert(bitcast(value, vec(i16, lanes)), i32, signed=False) << 16
    return bitcast(bits, vec(f32, lanes))


def _to_bfloat(value: Value) -> Value:
    """float to bfloat, ties to even, without the instruction: LLVM would call a function that few C libraries have."""
    lanes = value.type.lanes
    bits = bitcast(value, vec(i32, lanes))
    rounded = bits + ((bits >> 16) & 1) + 0x7FFF
    quiet = bits | 0x400000
    return bitcast(convert(select(value.ne(value), quiet, rounded) >> 16, i16), vec(bf16, lanes))


def _from_half(value: Value) -> Value:
    """The float of a half without the instruction: exponents are 112 apart but at both ends."""
    lanes = value.type.lanes
    bits = convert(bitcast(value, vec(i16, lanes)), i32, signed=False)
    size = bits & 0x7FFF
    moved = size << 13
    subnormal = bitcast(convert(size, f32) * 2.0**-24, bits.type)
    whole = select(size < 0x400, subnormal, moved + (112 << 23))
    return bitcast(select(size >= 0x7C00, moved | 0xFF << 23, whole) | (bits & 0x8000) << 16, vec(f32, lanes))


def _to_half(value: Value) -> Value:
    """float to half, ties to even, without the instruction: below 2^-14 adding 1/2 rounds to multiples of 2^-24."""
    lanes = value.type.lanes
    bits = bitcast(value, vec(i32, lanes))
    size = bits & 0x7FFFFFFF
    subnormal = bitcast(bitcast(size, value.type) + 0.5, bits.type) - (126 << 23)
    rounded = (size + ((size >> 13) & 1) + (0xFFF - (112 << 23))) >> 13
    finite = select(size < 113 << 23, subnormal, rounded)
    most = select(size > 0xFF << 23, 0x7E00, select(size >= 143 << 23, 0x7C00, finite))
    return bitcast(convert(most | (bits >> 16) & 0x8000, i16), vec(f16, lanes))


def bitcast(value: Value, type: Type) -> Value:
    """The same bits as another type of equal width; of a cast back, what was cast.

    Words that are seen as bfloats and stored are never bfloats to LLVM, which has no moves of those on most machines.
    """
    cast = value.fn.cast_of
    if value.text in cast and cast[value.text].type == type:
        return cast[value.text]
    made = value.fn.emit(type, f"bitcast {value.type} {value.text} to {type}")
    cast[made.text] = value
    return made


def _same(name: str, *operands: Any) -> Value:
    pattern = next(v for v in operands if isinstance(v, Value))
    values = [pattern._lift(v) for v in operands]
    return pattern.fn.intrinsic(f"llvm.{name}.{pattern.type.suffix}", pattern.type, "", *values)


def fma(a: Value, b: Value, c: Value) -> Value:
    """a * b + c, rounded once where the machine can."""
    return _same(a.fn.module.fma, a, b, c)


def bf16_dot(a: Value, b: Value, c: Value) -> Value:
    """c + a0 b0 + a1 b1 of whole numbers of 32 bits that are two bfloats each; c are floats.

    Products are exact, each sum is rounded to the nearest float, ties to even. Subnormal numbers are taken for 0.
    """
    lanes = c.type.lanes
    pairs = vec(bf16, 2 * lanes)
    return c.fn.intrinsic(
        f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}", c.type, "", c, bitcast(a, pairs), bitcast(b, pairs)
    )


def minimum(a: Any, b: Any) -> Value:
    """The smaller; of floats, NaN if either is."""
    pattern = a if isinstance(a, Value) else b
    a, b = pattern._lift(a), pattern._lift(b)
    if pattern.type.kind == "int" and a.number is not None and b.number is not None:
        return pattern.const(min(a.number, b.number))
    return _same("smin" if pattern.type.kind == "int" else "minimum", a, b)


def maximum(a: Any, b: Any) -> Value:
    """The larger; of floats, NaN if either is."""
    pattern = a if isinstance(a, Value) else b
    a, b = pattern._lift(a), pattern._lift(b)
    if pattern.type.kind == "int" and a.number is not None and b.number is not None:
        return pattern.const(max(a.number, b.number))
    return _same("smax" if pattern.type.kind == "int" else "maximum", a, b)


def sqrt(a: Value) -> Value:
    """Square root, correctly rounded."""
    return _same("sqrt", a)


def absolute(a: Value) -> Value:
    """|a| of floats."""
    return _same("fabs", a)


def floor(a: Value) -> Value:
    """Towards minus infinity, still a float."""
    return _same("floor", a)


def rint(a: Value) -> Value:
    """To the nearest whole number, ties to even, still a float."""
    return _same("rint", a)


def copysign(a: Value, sign: Value) -> Value:
    """|a| with the sign of ``sign``."""
    return _same("copysign", a, sign)
