"""Modules, functions, loops and branches: the structure of a kernel, written as LLVM text.

The text is final: it is in SSA form and vector code already, so no optimisation pass runs on it, only the code
generator. Loops are context managers and carry values from turn to turn::

    with f.loop(0, n, lanes, carry=[total]) as loop:
        (total,) = loop.values
        loop.values = [total + x.load(loop.i, lanes)]
    (total,) = loop.values
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, overload

from lucid.kernels.ir.types import Type, i64, ptr, void
from lucid.kernels.ir.values import Pointer, Value, constant, lift, make

if TYPE_CHECKING:
    from lucid.kernels.isa import ISA

#: The signature of every native entry point: 64-bit slots, a range of tasks, the slot of the thread's workspace.
ENTRY = {"fields": ptr(i64), "begin": i64, "end": i64, "thread": i64}


class Module:
    """A unit of compilation: functions that may call each other, and the intrinsics they use."""

    def __init__(self, name: str, isa: ISA | None = None) -> None:
        self.name = name
        self.fma = isa.fma if isa else "fma"  #: the intrinsic for a * b + c: "fmuladd" without a fused instruction
        self.bf16_dot = bool(isa and isa.bf16_dot)  #: whether there are instructions for bfloat16
        self.converts_f16 = isa is None or isa.converts_f16  #: and for float16 from float and back
        self.registers = isa.registers if isa else 16  #: of vectors
        self.slides = bool(isa and isa.slides)  #: and for the vector between two neighbours
        self.masks_halves = isa is None or isa.masks_halves  #: and loads and stores of some of a vector of halves
        self.functions: list[Function] = []
        self._declared: dict[str, str] = {}

    def function(self, name: str, returns: Type = void, *, export: bool = False, **parameters: Type) -> Function:
        """A function; ``f.args`` has its parameters. Internal ones are not inlined: a tile is one loop in registers."""
        f = Function(self, name, returns, parameters, export)
        self.functions.append(f)
        return f

    def entry(self, name: str, **fields: Type) -> Function:
        """A native entry point. ``f.args`` has the fields, loaded from their slots in order, and begin, end, thread."""
        f = self.function(name, export=True, **ENTRY)
        for slot, (field, type) in enumerate(fields.items()):
            address = f.args.fields.at(slot).cast(type)
            setattr(f.args, field, address.load())
        return f

    def declare(self, name: str, returns: Type, parameters: Sequence[Type | str], attributes: str = "") -> None:
        """Makes an intrinsic or outside symbol known, once."""
        self._declared.setdefault(name, f"declare {returns} @{name}({', '.join(map(str, parameters))}) {attributes}")

    def __str__(self) -> str:
        return "\n".join([f"; {self.name}", *self._declared.values(), *map(str, self.functions), "!0 = !{i32 1}", ""])


class Function:
    """A function being written; instructions go to the end of the current block."""

    def __init__(self, module: Module, name: str, returns: Type, parameters: dict[str, Type], export: bool) -> None:
        self.module, self.name, self.returns, self.export = module, name, returns, export
        self.parameters = parameters
        self.args: Any = SimpleNamespace(**{n: make(self, t, f"%{n}") for n, t in parameters.items()})
        self._lines: list[str] = []
        self._count = 0
        self.block = "entry"
        self.cast_of: dict[str, Value] = {}  #: what a value was before ``bitcast``, by the value's name

    # -- instructions -------------------------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        """Adds an instruction that gives no value."""
        self._lines.append("  " + text)

    def emit(self, type: Type, text: str, like: Value | None = None) -> Value:
        """Adds an instruction and names its value."""
        self._count += 1
        name = f"%v{self._count}"
        self._lines.append(f"  {name} = {text}")
        return make(self, like.type if like is not None else type, name)

    def const(self, type: Type, number: float) -> Value:
        """A number in every lane."""
        return constant(self, type, number)

    @overload
    def intrinsic(
        self, name: str, returns: Type, attribute: str, *operands: Value, align_operand: int = 0
    ) -> Value: ...
    @overload
    def intrinsic(self, name: str, returns: None, attribute: str, *operands: Value, align_operand: int = 0) -> None: ...
    def intrinsic(
        self, name: str, returns: Type | None, attribute: str, *operands: Value, align_operand: int = 0
    ) -> Value | None:
        """Calls an LLVM intrinsic; ``attribute`` stands before one operand, as an alignment does."""
        result = returns or void
        self.module.declare(name, result, [v.type for v in operands])
        parts = [
            f"{v.type}{' ' + attribute if attribute and k == align_operand else ''} {v.text}"
            for k, v in enumerate(operands)
        ]
        text = f"call {result} @{name}({', '.join(parts)})"
        if returns:
            return self.emit(result, text)
        self.line(text)
        return None

    def call(self, callee: Function | Pointer | str, *operands: Any, returns: Type = void) -> Any:
        """Calls a function of this module, one at an address, or an outside symbol by name."""
        place = callee.text if isinstance(callee, Pointer) else None
        if isinstance(callee, Function):
            wanted = list(callee.parameters.values())
            if len(wanted) != len(operands):
                raise TypeError(f"kernel IR: {callee.name} takes {len(wanted)} operands, not {len(operands)}")
            values = [lift(self, v, t) for v, t in zip(operands, wanted, strict=True)]
            returns, name = callee.returns, callee.name
        else:
            values, name = [lift(self, v) for v in operands], str(callee)
            if place is None:
                self.module.declare(name, returns, [v.type for v in values])
        text = f"call {returns} {place or f'@{name}'}({', '.join(f'{v.type} {v.text}' for v in values)})"
        return self.line(text) if returns is void else self.emit(returns, text)

    def ret(self, value: Value | None = None) -> None:
        """Ends the function; a function that gives no value needs none at its end."""
        self.line("ret void" if value is None else f"ret {value.type} {value.text}")

    # -- blocks -------------------------------------------------------------------------------------------------------

    def label(self, hint: str) -> str:
        """A fresh block name."""
        self._count += 1
        return f"{hint}{self._count}"

    def open(self, block: str) -> None:
        """Starts a block; instructions go there from now on."""
        self._lines.append(f"{block}:")
        self.block = block

    def jump(self, block: str) -> None:
        """Goes to a block."""
        self.line(f"br label %{block}")

    def branch(self, condition: Value, yes: str, no: str) -> None:
        """Goes to one of two blocks."""
        self.line(f"br i1 {condition.text}, label %{yes}, label %{no}")

    def part(self) -> None:
        """Goes on in a block of its own.

        Good code is the same as without. Quick code, to which every block is a graph, takes long for the shuffles of
        shuffles in a large one.
        """
        after = self.label("part")
        self.jump(after)
        self.open(after)

    def phi(self, type: Type, incoming: Sequence[tuple[Value, str]]) -> Value:
        """The value of whichever block came before."""
        return self.emit(type, f"phi {type} " + ", ".join(f"[ {v.text}, %{b} ]" for v, b in incoming))

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """Instructions that run only if the condition holds."""
        then, after = self.label("then"), self.label("after")
        self.branch(condition, then, after)
        self.open(then)
        yield
        self.jump(after)
        self.open(after)

    def choose(
        self, condition: Value, yes: Callable[[], Sequence[Value]], no: Callable[[], Sequence[Value]]
    ) -> list[Value]:
        """The values made by one of two pieces of code; the other does not run. Either may give none."""
        then, other, after = self.label("then"), self.label("else"), self.label("after")
        self.branch(condition, then, other)
        made = []
        for block, piece in ((then, yes), (other, no)):
            self.open(block)
            made.append((piece(), self.block))
            self.jump(after)
        self.open(after)
        (a, from_a), (b, from_b) = made
        return [self.phi(x.type, [(x, from_a), (y, from_b)]) for x, y in zip(a, b, strict=True)]

    def loop(self, start: Any, stop: Any, step: Any = 1, carry: Sequence[Value] = ()) -> Loop:
        """Counts from start while below stop (both tested before the first turn)."""
        return Loop(self, lift(self, start), lift(self, stop), lift(self, step), list(carry))

    def __str__(self) -> str:
        if not self._lines or not self._lines[-1].startswith("  ret"):
            self.ret()
        kind = "dso_local " if self.export else "internal "  # what is local needs no table of addresses
        parameters = ", ".join(f"{t} %{n}" for n, t in self.parameters.items())
        return "\n".join(
            [
                f"define {kind}{self.returns} @{self.name}({parameters}) noinline nounwind {{",
                "entry:",
                *self._lines,
                "}",
            ]
        )


class Loop:
    """A counted loop. Inside: ``i`` and the carried ``values``, assigned for the next turn. After: the last."""

    def __init__(self, fn: Function, start: Value, stop: Value, step: Value, carry: list[Value]) -> None:
        self.fn, self.start, self.stop, self.step, self.values = fn, start, stop, step, carry

    def __enter__(self) -> Loop:
        f = self.fn
        self._initial, self._before = self.values, f.block
        self._body, self._end = f.label("loop"), f.label("end")
        certain = (
            self.start.number is not None and self.stop.number is not None and self.start.number < self.stop.number
        )
        self._guarded = not certain
        if self._guarded:
            f.branch(self.start < self.stop, self._body, self._end)
        else:
            f.jump(self._body)
        f.open(self._body)
        self._hole = len(f._lines)  # the phis are written on the way out, when the last values are known
        self.i = f.emit(i64, "")
        self.values = self._phis = [f.emit(v.type, "") for v in self._initial]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        f, latch = self.fn, self.fn.block
        following = self.i + self.step
        if len(self.values) != len(self._phis):
            raise TypeError(f"kernel IR: a loop in {f.name} carries {len(self._phis)} values, not {len(self.values)}")
        pairs = [(self.i, self.start, following), *zip(self._phis, self._initial, self.values, strict=True)]
        for k, (phi, first, then) in enumerate(pairs):
            if first.type != then.type:
                raise TypeError(f"kernel IR: a loop in {f.name} carries {first!r} and then {then!r}")
            f._lines[self._hole + k] = (
                f"  {phi.text} = phi {phi.type} [ {first.text}, %{self._before} ], [ {then.text}, %{latch} ]"
            )
        f.branch(following < self.stop, self._body, self._end)
        f.open(self._end)
        if self._guarded:
            self.values = [
                f.phi(x.type, [(x, self._before), (y, latch)]) for x, y in zip(self._initial, self.values, strict=True)
            ]
