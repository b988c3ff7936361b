"""Worker processes: each makes every n-th batch of an epoch and sends it through a socket.

Workers are forked, so they have the data set and the epoch's batches without any copying. A socket of its own connects
each to the parent, which grants it batches, one byte each; a batch comes back as lengths, then a pickle, then the raw
memory of its arrays. Whoever dies closes its end, so the other one notices instead of waiting.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import socket
import struct
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

Make = Callable[[int], Any]  # batch number to batch
GRANT = b"+"
PATIENCE_S = 5.0  # how long a worker that was told to end may take


class WorkerInfo(NamedTuple):
    """Which worker this process is, counted from 0, and how many there may be."""

    id: int
    num_workers: int


_here: list[WorkerInfo] = []


def get_worker_info() -> WorkerInfo | None:
    """Which worker of a ``DataLoader`` this process is; None in the program itself.

    The items of an ``IterableDataset`` are always made there.
    """
    return _here[-1] if _here else None


class Worker(NamedTuple):
    """A process and the parent's end of its socket."""

    process: BaseProcess
    link: socket.socket


def made_by_workers(
    make: Make,
    count: int,
    num_workers: int,
    prefetch_factor: int,
    timeout_s: float,
    on_start: Callable[[int], Any] | None,
) -> Iterator[Any]:
    """``make(0)`` to ``make(count - 1)`` in order, each made in a worker, a few ahead of time.

    Raises: what ``make`` raises, with the worker's traceback as a note; RuntimeError when a worker dies or is too slow.
    """
    workers: list[Worker] = []
    try:
        for i in range(min(num_workers, count)):
            workers.append(_started(make, range(i, count, num_workers), workers, i, on_start))
        for worker in workers:
            worker.link.settimeout(timeout_s or None)
            worker.link.sendall(GRANT * prefetch_factor)
        for number in range(count):
            which = number % len(workers)
            batch = _received(workers[which], which, number, timeout_s)
            with suppress(BrokenPipeError, ConnectionResetError):  # it may be done already
                workers[which].link.sendall(GRANT)
            yield batch
    finally:
        _end(workers)


def _started(
    make: Make, numbers: range, others: list[Worker], index: int, on_start: Callable[[int], Any] | None
) -> Worker:
    ours, theirs = socket.socketpair()
    inherited = [ours, *(worker.link for worker in others)]
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_serve, args=(make, numbers, theirs, inherited, index, on_start), daemon=True)
    with warnings.catch_warnings():
        # Python warns of forking with threads; the thread pool starts anew in the child, which uses no other thread.
        warnings.simplefilter("ignore", DeprecationWarning)
        with _interrupts_held():
            process.start()
    theirs.close()
    return Worker(process, ours)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Interrupts from the keyboard wait: a child begins with them held too, until it says that it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    make: Make,
    numbers: range,
    link: socket.socket,
    inherited: list[socket.socket],
    index: int,
    on_start: Callable[[int], Any] | None,
) -> None:
    """A worker's life. An interrupt from the keyboard is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for end in inherited:
        end.close()
    _here.append(WorkerInfo(index, numbers.step))
    with suppress(BrokenPipeError, ConnectionResetError):
        for number in numbers:
            if link.recv(1) != GRANT:
                return
            _send(link, _outcome(make, number, index, on_start if number == index else None))


def _outcome(make: Make, number: int, index: int, on_start: Callable[[int], Any] | None) -> tuple[bool, Any]:
    """(True, the batch) or (False, the error and where it came from)."""
    try:
        if on_start is not None:
            on_start(index)
        return True, make(number)
    except Exception as error:
        return False, (error, traceback.format_exc())


def _send(link: socket.socket, outcome: tuple[bool, Any]) -> None:
    buffers: list[pickle.PickleBuffer] = []
    try:
        message = pickle.dumps(outcome, protocol=5, buffer_callback=buffers.append)
        if not outcome[0]:
            pickle.loads(message, buffers=buffers)  # errors with a constructor of their own may not come back
    except Exception as error:
        buffers.clear()
        cause = outcome[1][1] if not outcome[0] else traceback.format_exc()
        message = pickle.dumps(
            (False, (RuntimeError(f"DataLoader: a worker's result cannot be sent: {error!r}"), cause))
        )
    parts = [memoryview(message), *(buffer.raw() for buffer in buffers)]
    link.sendall(struct.pack(f"<Q{len(parts)}Q", len(parts), *(part.nbytes for part in parts)))
    for part in parts:
        link.sendall(part)


def _received(worker: Worker, index: int, number: int, timeout_s: float) -> Any:
    try:
        (count,) = struct.unpack("<Q", _read(worker.link, 8))
        lengths = struct.unpack(f"<{count}Q", _read(worker.link, 8 * count))
        message, *buffers = [_read(worker.link, length) for length in lengths]
    except TimeoutError:
        raise RuntimeError(f"DataLoader: worker {index} took more than {timeout_s} s for batch {number}") from None
    except (EOFError, ConnectionResetError):
        raise RuntimeError(_obituary(worker.process, index, number)) from None
    is_batch, content = pickle.loads(message, buffers=buffers)
    if is_batch:
        return content
    error, where = content
    error.add_note(f"In DataLoader worker {index}, batch {number}:\n{where}")
    raise error


def _read(link: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    rest = memoryview(data)
    while rest:
        received = link.recv_into(rest)
        if not received:
            raise EOFError
        rest = rest[received:]
    return data


def _obituary(process: BaseProcess, index: int, number: int) -> str:
    process.join(PATIENCE_S)
    code = process.exitcode
    how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with code {code}"
    return f"DataLoader: worker {index} (process {process.pid}) {how} before batch {number} was there"


def _end(workers: list[Worker]) -> None:
    for worker in workers:
        worker.link.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join(PATIENCE_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()
