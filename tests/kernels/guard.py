"""Proof that a kernel stays inside its arrays: memory that ends at a forbidden page, and a child process to crash in.

    def check(size):
        with guarded((size,), np.float32) as y:
            fill(y)
            assert (y == 1).all()

    run_guarded_cases(check, range(100))     # one fork for all; a crash names the case, the array and the place

Arrays lie against a page that may not be touched, at their end (``where="end"``) or at their start. With ``readonly``
they may not be written at all. New arrays hold NaNs (bytes 0xFF), so what a kernel leaves out shows. What kernels
allocate themselves, results and workspaces, is guarded inside ``with guarded_results():``.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from lucid.kernels import jit
from lucid.kernels.runtime import memory, threads

Array = np.ndarray[Any, Any]
Case = TypeVar("Case")

_PAGE = mmap.PAGESIZE
_FORBIDDEN, _READ_ONLY = 0, 1  # PROT_NONE, PROT_READ
_MOST_FAILURES = 10
_PATIENCE_SECONDS = 240  # with a child that may share its machine with many
_MOST_NAMED = 200  # arrays that fit on the board

# Runs on the thread that faults, which may be a worker: notes the address (si_addr) on the board and ends the process.
_HANDLER = """
@board = internal global ptr null
declare void @_exit(i32)
define void @watch(ptr %board) {
  store ptr %board, ptr @board
  ret void
}
define void @on_fault(i32 %signal, ptr %info, ptr %context) {
  %board = load ptr, ptr @board
  %address_at = getelementptr i8, ptr %info, i64 16
  %address = load i64, ptr %address_at
  store i64 %address, ptr %board
  %code = add i32 %signal, 128
  call void @_exit(i32 %code)
  unreachable
}
"""


class _SigAction(ctypes.Structure):
    """``struct sigaction`` of Linux's C libraries."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class _Board:
    """Memory that a child shares with its parent: where it faulted, which case it was at, what it has to say."""

    _TEXT_AT, _SIZE = 24, 1 << 16

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._SIZE)
        self.slots = np.frombuffer(self._memory, np.int64, 3)  # fault address, case, bytes of text

    def write(self, text: str) -> None:
        encoded = text.encode()[: self._SIZE - self._TEXT_AT]
        self._memory[self._TEXT_AT : self._TEXT_AT + len(encoded)] = encoded
        self.slots[2] = len(encoded)

    def read(self) -> str:
        return self._memory[self._TEXT_AT : self._TEXT_AT + int(self.slots[2])].decode(errors="replace")

    def address(self) -> int:
        return int(self.slots.ctypes.data)


_board: _Board | None = None  # in a child: where to leave word
_layout: dict[int, tuple[str, int, int]] = {}  # name, first byte, end of the guarded arrays alive, by first byte


@contextmanager
def guarded(
    array: Array | int | tuple[int, ...],
    dtype: DTypeLike = None,
    where: Literal["end", "start"] = "end",
    *,
    readonly: bool = False,
    name: str = "",
) -> Iterator[Array]:
    """A copy of an array, or a new one, against a page that may not be touched. ``name`` serves messages."""
    source = array if isinstance(array, np.ndarray) else None
    shape = source.shape if source is not None else array
    result = _place(shape, np.dtype(source.dtype if source is not None and dtype is None else dtype), where)
    if source is not None:
        result[...] = source
    if readonly:
        before = result.ctypes.data % _PAGE
        _protect(result.ctypes.data - before, result.nbytes + before, _READ_ONLY)
    _enter(name or "array", result)
    yield result


@contextmanager
def guarded_results(where: Literal["end", "start"] = "end") -> Iterator[None]:
    """Guards all that ``empty`` and ``workspace`` hand out meanwhile: results and scratch that kernels allocate."""

    class GuardedPool:
        def lend(self, shelf: int, size_bytes: int, shape: Any, dtype: DTypeLike, before: int | None = None) -> Array:
            array = _place(shape, np.dtype(dtype), where)
            _enter("workspace" if shelf == memory.SCRATCH else "result", array)
            return array

    before = memory._pool, memory.POOLED_FROM_BYTES, memory._SMALL_BYTES, threads.STACK_BYTES
    memory._pool, memory.POOLED_FROM_BYTES, memory._SMALL_BYTES, threads.STACK_BYTES = GuardedPool(), 0, 0, -1
    try:
        yield
    finally:
        memory._pool, memory.POOLED_FROM_BYTES, memory._SMALL_BYTES, threads.STACK_BYTES = before


def _enter(name: str, array: Array) -> None:
    """Adds an array to the layout that messages refer to, until it dies."""
    start = array.ctypes.data
    _layout[start] = f"{name} {array.dtype}{list(array.shape)}", start, start + array.nbytes
    weakref.finalize(array, _layout.pop, start, None)
    if _board is not None:
        _board.write(json.dumps(list(_layout.values())[-_MOST_NAMED:]))


def _place(shape: Any, dtype: np.dtype[Any], where: Literal["end", "start"]) -> Array:
    size = int(np.prod(shape)) * dtype.itemsize
    inside = max(-(-size // _PAGE), 1) * _PAGE
    memory = mmap.mmap(-1, inside + 2 * _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = np.frombuffer(memory, np.uint8)
    whole[_PAGE : _PAGE + inside] = 0xFF
    for forbidden in (0, _PAGE + inside):
        _protect(whole.ctypes.data + forbidden, _PAGE, _FORBIDDEN)
    offset = {"start": _PAGE, "end": _PAGE + inside - size}[where]
    return np.ndarray(shape, dtype, memory, offset)


def _protect(address: int, size: int, allowed: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(-(-size // _PAGE) * _PAGE), allowed):
        raise OSError(ctypes.get_errno(), f"mprotect: {os.strerror(ctypes.get_errno())}")


def run_guarded(check: Callable[[], None], *, seconds: int = _PATIENCE_SECONDS) -> None:
    """Calls ``check`` in a child process. Whatever goes wrong there, a crash too, is an ``AssertionError`` here."""
    run_guarded_cases(lambda _: check(), [""], seconds=seconds)


def run_guarded_cases(
    check: Callable[[Case], None], cases: Iterable[Case], *, seconds: int = _PATIENCE_SECONDS
) -> None:
    """Calls ``check`` with every case in a child process, and again in a new one after a case that crashed it.

    Raises: AssertionError, with what went wrong in the first ten cases that failed.
    """
    todo, failures, first = list(cases), [], 0
    while first < len(todo) and len(failures) < _MOST_FAILURES:
        failed, message = _run_child(check, todo, first, seconds)
        if message:
            failures.append(f"{todo[failed]!r}: {message}" if todo[failed] != "" else message)
        first = failed + 1
    assert not failures, "\n".join(failures)


def _run_child(check: Callable[[Case], None], cases: list[Case], first: int, seconds: int) -> tuple[int, str]:
    """Runs cases from ``first`` on. Returns the case it stopped at and why, or the last case and nothing."""
    board = _Board()
    handler = _handler()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():  # Python 3.12 warns of threads, which some tests have on purpose
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _be_child(check, cases, first, seconds, board, handler)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return int(board.slots[1]), _verdict(status, board, seconds)


def _be_child(
    check: Callable[[Case], None], cases: list[Case], first: int, seconds: int, board: _Board, handler: Any
) -> None:
    global _board
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        _board = board
        _catch_faults(board, handler)
        for board.slots[1] in range(first, len(cases)):
            check(cases[board.slots[1]])
        status = 0
    except BaseException:
        board.write(traceback.format_exc())
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(status)


def _verdict(status: int, board: _Board, seconds: int) -> str:
    if status == 0:
        return ""
    if status == 1:
        return board.read()
    if status == -signal.SIGALRM:
        return f"not done after {seconds} s"
    if status > 128:
        return f"{signal.Signals(status - 128).name} {_describe(int(board.slots[0]), json.loads(board.read() or '[]'))}"
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _describe(address: int, layout: list[tuple[str, int, int]]) -> str:
    """Where an address lies, told from the nearest guarded array."""
    if not layout:
        return f"at {address:#x}"
    name, start, end = min(layout, key=lambda entry: max(entry[1] - address, address - entry[2] + 1, 0))
    if start <= address < end:
        return f"writing byte {address - start} of {name}, which is read-only"
    if address >= end:
        return f"at byte {address - end} past the end of {name}"
    return f"at byte {start - address} before the start of {name}"


@cache
def _handler() -> Any:
    return jit.compile_text(_HANDLER)


def _catch_faults(board: _Board, handler: Any) -> None:
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(handler.address("watch"))(board.address())
    action = _SigAction(handler=handler.address("on_fault"), flags=4)  # SA_SIGINFO
    libc = ctypes.CDLL(None)
    for number in (signal.SIGSEGV, signal.SIGBUS):
        libc.sigaction(int(number), ctypes.byref(action), None)
