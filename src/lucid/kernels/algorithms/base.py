"""What every algorithm offers to the selection, and the call that starts a kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from lucid.kernels.isa import ISA
from lucid.kernels.plan import Plan, Problem
from lucid.kernels.runtime import threads

#: A bound plan. Arrays are C-contiguous and of the problem's sizes; the last one is written.
#: forward (x, w, bias, y); grad_input (g, w, bias, gx); grad_weight (x, g, gw). bias may be None.
Executable = Callable[..., None]


class Algorithm(Protocol):
    """An algorithm is a module with these names."""

    name: str

    def refuses(self, problem: Problem, isa: ISA) -> str | None:
        """Why it cannot compute the problem, or None if it can."""

    def plan(self, problem: Problem, isa: ISA) -> Plan:
        """Its best plan for a problem that it does not refuse."""

    def bind(self, plan: Plan, isa: ISA) -> Executable:
        """Compiles, or finds, the kernels and fixes every number that does not change from call to call."""


def address(array: np.ndarray) -> int:
    """Where an array's first element lies."""
    pointer: int = array.__array_interface__["data"][0]
    return pointer


def launch(entry: int, fields: Sequence[int], tasks: int, chunk: int = 1) -> None:
    """Runs a native entry point over its tasks on the pool."""
    slots = (ctypes.c_int64 * len(fields))(*fields)
    threads.run(entry, slots, tasks, chunk=chunk)
