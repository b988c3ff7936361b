"""Runs native tasks on every core: a pool of our own, since a region must cost no more than a small kernel.

An entry point is ``void(ptr fields, i64 begin, i64 end, i64 thread)``: do tasks [begin, end) of what ``fields``
describes, with ``thread`` (below the number of threads) as the slot of the workspace. A range starts at a multiple of
``chunk`` and is ``chunk`` long, or it is all the tasks at once: a kernel must take any range. With a ``chunk`` of 0
each thread has one range of tasks, as long as any other's.

One region at a time has the pool. Who asks meanwhile, from another Python thread, runs its region alone. Kernels run
with denormals flushed to zero; the caller's floating-point control word is put back.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import count
from operator import index
from typing import Any, Protocol

import numpy as np

from lucid.kernels import jit, target  # before the pool: at a fork its lock is taken first, the compiler's inside
from lucid.kernels.runtime import memory
from lucid.kernels.runtime.bound_text import NOTHING, STACK_BYTES, WORKSPACE
from lucid.kernels.runtime.machines import MACHINES
from lucid.kernels.runtime.pool_text import STEP_SLOTS, pool_text

Fields = int | ctypes.Array[Any]
Step = tuple[int, Fields, int, int]

# Pauses before a thread sleeps, some 100 us, since to be woken takes 10 to 50. To spin for ever would be wrong even for
# one who waits for others to finish: on a busy machine they may not be running at all.
_SPINS = 4000

#: Of the largest set of signals that any C library has; Python's own calls make an enumeration's member of each signal.
_SIGSET_BYTES = 128

_UNUSED = (0,) * (STEP_SLOTS - 4)  # slots that the pool fills in

_i64, _ptr = ctypes.c_int64, ctypes.c_void_p


class _MethodDef(ctypes.Structure):
    """CPython's ``PyMethodDef``: a native function that the interpreter calls without a foreign call's conversions."""

    _fields_ = (("name", ctypes.c_char_p), ("function", _ptr), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p))


_METH_FASTCALL = 0x80
_new_function = ctypes.pythonapi.PyCFunction_NewEx
_new_function.argtypes, _new_function.restype = (_ptr, ctypes.py_object, _ptr), ctypes.py_object


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _architecture() -> str:
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def _functions(futex: bool, signatures: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    """The exported functions of the pool's text, callable, by name."""
    text = pool_text(MACHINES[_architecture()], futex=futex, spins=_SPINS)
    code = jit.compile_text(text)
    return {name: ctypes.CFUNCTYPE(*types)(code.address(name)) for name, types in signatures.items()}


class Launched(Protocol):
    """What ``launch.Launch`` binds. ``bound`` is for native code: steps, fields and sources as numbers of an array, and
    the type of arrays."""

    steps: Sequence[tuple[int, int, int]]
    fields: Sequence[int]
    sources: Sequence[int]
    bound: tuple[np.ndarray[Any, Any], type]
    arity: int
    most_threads: int
    shared_bytes: int
    own_bytes: int


class Pool(Protocol):
    """What runs regions. Arguments are right already."""

    def run(self, address: int, fields: Fields | bytes, tasks: int, chunk: int, threads: int) -> None:
        """One step."""

    def run_steps(self, slots: list[int], threads: int) -> None:
        """Steps in order, each after all of the one before, in the slots that ``pool_text`` describes."""

    def launch(self, region: Launched, arrays: tuple[Any, ...], workspace: int, spare: int, threads: int) -> int:
        """A bound region on its arrays; with no workspace, ``spare`` bytes of the stack.

        Returns -1, or runs nothing and returns the place of an argument that is no plain C-contiguous array.
        """

    def method(self, region: Launched, otherwise: Callable[..., Any]) -> Callable[..., Any]:
        """A region as a function of its arrays, which leaves what it cannot do to ``otherwise``."""

    def allow(self, threads: int) -> None:
        """Says how many threads a ``method`` uses."""

    def shrink(self) -> None:
        """Sends the workers home; a later region calls new ones."""


_SIGNATURES: dict[str, tuple[Any, ...]] = {  # of the pool's text: result, arguments
    "run": (None, _ptr, _ptr, _i64, _i64, _i64),
    "run_steps": (None, _ptr, _i64, _i64),
    "launch": (_i64, ctypes.py_object, ctypes.py_object, _i64, _i64, _i64, _i64),
    "method": (ctypes.py_object, ctypes.py_object, _ptr, _i64),
    "hold": (_i64,),
    "release": (None,),
    "hire": (None, _i64),
    "allow": (None, _i64),
    "dismiss": (None, _i64),
    "worker": (_ptr, _ptr),
}


class NativePool:
    """Native threads that spin, then sleep on a futex (Linux). Nothing is compiled or started before a region asks.

    Workers go home before a fork, so a child starts with a clean pool and no thread is ever copied in mid-air.
    """

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._native: dict[str, Any] = {}
        self._crew: list[ctypes.c_ulong] = []
        self._most = sys.maxsize
        self._ready = 0  # threads that a region can have right away
        self._allowed = 0
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._after_fork)

    def run(self, address: int, fields: Fields | bytes, tasks: int, chunk: int, threads: int) -> None:
        if threads > self._ready:
            self._prepare(min(threads, -(-tasks // chunk) if chunk else tasks))
        self._run(address, fields, tasks, chunk, threads)

    def run_steps(self, slots: list[int], threads: int) -> None:
        if threads > self._ready:
            self._prepare(threads)
        self._run_steps((_i64 * len(slots))(*slots), len(slots) // STEP_SLOTS, threads)

    def launch(self, region: Launched, arrays: tuple[Any, ...], workspace: int, spare: int, threads: int) -> int:
        if threads > self._ready:
            self._prepare(threads)
        wrong: int = self._launch(region.bound, arrays, len(arrays), workspace, spare, threads)
        return wrong

    def method(self, region: Launched, otherwise: Callable[..., Any]) -> Callable[..., Any]:
        if not self._ready:
            self._prepare(1)
        made: Callable[..., Any] = _new_function(ctypes.byref(self._method), (*region.bound, otherwise), None)
        return made

    def allow(self, threads: int) -> None:
        with self._guard:
            self._allowed = threads
            if self._native:
                self._native["allow"](threads)

    def shrink(self) -> None:
        with self._guard:
            if self._crew:
                self._take()
                self._go_home()
                self._native["release"]()

    def _prepare(self, threads: int) -> None:
        with self._guard:
            if not self._native:
                self._load()
            helpers = min(threads, self._most) - 1
            if helpers > len(self._crew):
                self._hire(helpers)

    def _load(self) -> None:
        self._native = _functions(True, _SIGNATURES)
        self._run, self._run_steps, self._launch = (self._native[name] for name in ("run", "run_steps", "launch"))
        self._native["allow"](self._allowed)
        self._method = _MethodDef(b"region", ctypes.cast(self._native["method"], _ptr), _METH_FASTCALL, None)
        self._ready = 1

    def _hire(self, helpers: int) -> None:
        """Starts workers until there are so many. Signals are for Python's threads, but for their own faults."""
        libc, (blocked, before) = _libc(), [ctypes.create_string_buffer(_SIGSET_BYTES) for _ in range(2)]
        libc.sigfillset(blocked)
        for fault in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT):
            libc.sigdelset(blocked, fault)
        libc.pthread_sigmask(signal.SIG_BLOCK, blocked, before)
        try:
            while len(self._crew) < helpers and self._start_worker():
                pass
        finally:
            libc.pthread_sigmask(signal.SIG_SETMASK, before, None)
        self._native["hire"](len(self._crew))
        self._ready = len(self._crew) + 1

    def _start_worker(self) -> bool:
        libc, thread = _libc(), ctypes.c_ulong()
        number = _ptr(len(self._crew) + 1)
        error = libc.pthread_create(ctypes.byref(thread), None, self._native["worker"], number)
        if error:
            self._most = len(self._crew) + 1
            warnings.warn(f"lucid: {self._most} threads and no more: {os.strerror(error)}", RuntimeWarning, 2)
            return False
        self._crew.append(thread)
        libc.pthread_setname_np(thread, f"lucid-{len(self._crew)}".encode())
        return True

    def _take(self) -> None:
        while not self._native["hold"]():
            time.sleep(1e-4)  # someone's region is running; it ends without our help

    def _go_home(self) -> None:
        """Ends every worker. The pool must be held, so they are all idle."""
        self._native["hire"](0)
        self._native["dismiss"](1)
        join = _libc().pthread_join
        while self._crew:
            join(self._crew.pop(), None)
        self._native["dismiss"](0)
        self._ready = 1

    def _before_fork(self) -> None:
        self._guard.acquire()
        if self._native:
            self._take()
            self._go_home()

    def _after_fork(self) -> None:
        if self._native:
            self._native["release"]()
        self._guard.release()


class PythonPool:
    """Python threads that share the chunks: for systems without futexes. A region costs some 30 us."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._size = 0
        self._call: Any = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def run(self, address: int, fields: Fields | bytes, tasks: int, chunk: int, threads: int) -> None:
        if self._call is None:
            self._call = _functions(False, {"call": (None, _ptr, _ptr, _i64, _i64, _i64)})["call"]
        chunk = chunk or max(1, -(-tasks // threads))
        threads = min(threads, -(-tasks // chunk))
        if threads > 1 and self._guard.acquire(blocking=False):
            try:
                self._share(address, fields, tasks, chunk, threads)
            finally:
                self._guard.release()
        elif tasks:
            self._call(address, fields, 0, tasks, 0)

    def run_steps(self, slots: list[int], threads: int) -> None:
        for i in range(0, len(slots), STEP_SLOTS):
            address, fields, tasks, chunk = slots[i : i + 4]
            self.run(address, fields, tasks, chunk, threads)

    def launch(self, region: Launched, arrays: tuple[Any, ...], workspace: int, spare: int, threads: int) -> int:
        for n in region.sources:
            if n >= 0 and (type(arrays[n]) is not np.ndarray or not arrays[n].flags.c_contiguous):
                return n
        held = (ctypes.c_char * (0 if workspace else spare + memory.ALIGN_BYTES))()
        own = workspace or -(-ctypes.addressof(held) // memory.ALIGN_BYTES) * memory.ALIGN_BYTES
        bases = [own if n == WORKSPACE else 0 if n == NOTHING else memory.address(arrays[n]) for n in region.sources]
        fields = (_i64 * len(region.fields))(*region.fields)
        fields[: len(bases)] = [number + base for number, base in zip(region.fields, bases, strict=False)]
        for entry, tasks, chunk in region.steps:
            self.run(entry, fields, tasks, chunk, threads)
        return -1

    def method(self, region: Launched, otherwise: Callable[..., Any]) -> Callable[..., Any]:
        return otherwise

    def allow(self, threads: int) -> None:
        """Nothing to say: every call brings its number of threads."""

    def shrink(self) -> None:
        with self._guard:
            self._end()

    def _end(self) -> None:
        if self._executor:
            self._executor.shutdown()
        self._executor, self._size = None, 0

    def _share(self, address: int, fields: Fields | bytes, tasks: int, chunk: int, threads: int) -> None:
        starts = count(0, chunk)  # next() is atomic

        def work(thread: int) -> None:
            for begin in starts:
                if begin >= tasks:
                    return
                self._call(address, fields, begin, min(begin + chunk, tasks), thread)

        if self._executor is None or self._size < threads - 1:
            self._end()
            self._executor, self._size = ThreadPoolExecutor(threads - 1, "lucid"), threads - 1
        helpers = [self._executor.submit(work, thread) for thread in range(1, threads)]
        work(0)
        for helper in helpers:
            helper.result()

    def _forget(self) -> None:
        self._guard, self._executor, self._size = threading.Lock(), None, 0


_pool: Pool = NativePool() if sys.platform == "linux" and _architecture() in MACHINES else PythonPool()
_threads = 0  # 0: not asked for yet


def run(address: int, fields: Fields | bytes, tasks: int, *, chunk: int = 1, threads: int | None = None) -> None:
    """Runs tasks [0, tasks) of an entry point, a chunk at a time, on this thread and the pool's.

    ``fields`` is the address of the entry point's 64-bit slots, or a ctypes array or bytes of them. Tasks that fit in
    one chunk, and one thread, are a plain call.

    Cost: 0.7 us alone, 1 to 2 us with the workers awake, 10 to 50 us more when they sleep.
    """
    if tasks < 0 or chunk < 0:
        raise ValueError(f"run: tasks={tasks} and chunk={chunk} must be at least 0")
    crew = _threads if threads is None else threads
    _pool.run(address, fields, tasks, chunk, crew if crew > 0 else _crew("run", threads))


def run_steps(steps: Sequence[Step], *, threads: int | None = None) -> None:
    """Runs steps ``(address, fields, tasks, chunk)`` as one region, each after all tasks of the one before are done.

    Cost: 2 us alone; 1 us more with the workers awake, and 0.2 us a step.
    """
    slots: list[int] = []
    for address, fields, tasks, chunk in steps:
        if tasks < 0 or chunk < 0:
            raise ValueError(f"run_steps: tasks={tasks} and chunk={chunk} must be at least 0")
        where = fields if isinstance(fields, int) else ctypes.addressof(fields)
        slots += (address, where, tasks, chunk, *_UNUSED)
    crew = _threads if threads is None else threads
    if slots:
        _pool.run_steps(slots, crew if crew > 0 else _crew("run_steps", threads))


def launch(region: Launched, *arrays: Any) -> None:
    """Runs a bound region on its arrays, with a workspace of this call's own.

    Cost: 0.8 us alone.
    """
    if len(arrays) < region.arity:  # native code would read on
        raise TypeError(f"launch: {region.arity} arrays are needed, not {len(arrays)}")
    crew = _threads or get_num_threads()
    if crew > region.most_threads:
        crew = region.most_threads
    size_bytes = region.shared_bytes + crew * region.own_bytes
    if size_bytes <= STACK_BYTES:
        wrong = _pool.launch(region, arrays, 0, size_bytes, crew)
    else:
        scratch = memory.region(region.shared_bytes, region.own_bytes, crew)
        wrong = _pool.launch(region, arrays, memory.address(scratch), 0, crew)
    if wrong >= 0:
        launch(region, *_plain(arrays, region.sources))


def _plain(arrays: Sequence[Any], needed: Sequence[int]) -> list[Any]:
    """Arrays of NumPy's own type in place of those of types derived from it."""
    for n in needed:
        if n >= 0 and not (isinstance(arrays[n], np.ndarray) and arrays[n].flags.c_contiguous):
            kind = "one of other strides" if isinstance(arrays[n], np.ndarray) else type(arrays[n]).__name__
            raise TypeError(f"launch: argument {n} must be a C-contiguous array, not {kind}")
    return [a.view(np.ndarray) if isinstance(a, np.ndarray) else a for a in arrays]


def method(region: Launched, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """A region as a function of its arrays, for one to be called often; ``otherwise`` does what it cannot do.

    That is to take arrays that are not contiguous, to hire workers, and to find more workspace than the stack has.

    Cost: 0.2 us alone.
    """
    return _pool.method(region, otherwise) if region.shared_bytes + region.own_bytes <= STACK_BYTES else otherwise


def get_num_threads() -> int:
    """Threads that a region uses: one a core that this process may use, or ``LUCID_NUM_THREADS`` if that is less."""
    global _threads
    if not _threads:
        _threads = _default_threads()
        _pool.allow(_threads)
    return _threads


def set_num_threads(threads: int) -> None:
    """Sets how many threads a region uses; there may be more of them than cores."""
    global _threads
    try:
        threads = index(threads)
    except TypeError:
        raise TypeError(f"set_num_threads: threads={threads!r} must be an int") from None
    if threads < 1:
        raise ValueError(f"set_num_threads: threads={threads} must be at least 1")
    if threads < get_num_threads():
        _pool.shrink()
    _threads = threads
    _pool.allow(threads)


def _crew(caller: str, threads: int | None) -> int:
    if threads is None:
        return get_num_threads()
    raise ValueError(f"{caller}: threads={threads} must be at least 1")


def _default_threads() -> int:
    asked = os.environ.get("LUCID_NUM_THREADS", "")
    if not asked:
        return target.cores()
    if not asked.isdecimal() or int(asked) < 1:
        raise ValueError(f"LUCID_NUM_THREADS={asked!r} must be a number of threads, at least 1")
    return min(target.cores(), int(asked))
