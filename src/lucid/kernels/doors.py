"""Doors: addresses of functions that may be replaced by better ones while others call them.

A door is a jump to the address in its cell. Whoever calls a function through a door need not know when it is replaced:
that is one store of eight bytes, and who is inside the old function stays there until it returns.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import NamedTuple

_BATCH = 128


class _Jump(NamedTuple):
    """A jump through a cell, in registers that no calling convention keeps, and the bytes from one to the next."""

    assembly: str
    stride: int


_JUMPS = {
    "x86_64": _Jump("movabsq $${cell}, %r11; jmpq *(%r11); .p2align 4", 16),
    "aarch64": _Jump("ldr x16, .+16; ldr x16, [x16]; br x16; nop; .xword {cell}; .p2align 5", 32),
}


def exist(arch: str) -> bool:
    """Whether there are doors for an architecture."""
    return arch in _JUMPS


class Door:
    """A place that callers know, and the function behind it."""

    __slots__ = ("_cell", "address")

    def __init__(self, address: int, cell: ctypes.c_int64) -> None:
        self.address, self._cell = address, cell

    def lead_to(self, function: int) -> None:
        """From now on, who comes in finds that function."""
        self._cell.value = function


class Doors:
    """Makes doors, as many as are asked for; ``load`` turns text into the address of its function ``doors``."""

    def __init__(self, arch: str, load: Callable[[str], int]) -> None:
        self._jump, self._load = _JUMPS[arch], load
        self._spare: list[Door] = []

    def make(self) -> Door:
        """A door that leads nowhere as yet. It is never taken down."""
        if not self._spare:
            self._spare = self._batch()
        return self._spare.pop()

    def _batch(self) -> list[Door]:
        cells = (ctypes.c_int64 * _BATCH)()
        _kept.append(cells)
        first = self._load(_text(self._jump, ctypes.addressof(cells)))
        places = range(0, 8 * _BATCH, 8)
        return [
            Door(first + k * self._jump.stride, ctypes.c_int64.from_buffer(cells, place))
            for k, place in enumerate(places)
        ]


_kept: list[ctypes.Array[ctypes.c_int64]] = []  # cells must outlive all code


def _text(jump: _Jump, cells: int) -> str:
    jumps = "\\0A".join(jump.assembly.format(cell=cells + 8 * k).replace("; ", "\\0A") for k in range(_BATCH))
    return f"""define void @doors() naked noinline nounwind align {jump.stride} {{
  call void asm sideeffect "{jumps}", ""()
  unreachable
}}
"""
