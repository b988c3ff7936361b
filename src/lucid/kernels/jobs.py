"""Jobs for Python's threads: at once on several, or later when it is quiet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress

Job = Callable[[], object]

_NAP_SECONDS = 0.01


def at_once(jobs: Sequence[Job], threads: int) -> None:
    """Does all jobs, the last first, on this thread and others. Raises what the first of them raised."""
    left, errors = list(jobs), list[Exception]()

    def work() -> None:
        while left:
            with suppress(IndexError):  # another has taken the last
                job = left.pop()
                try:
                    job()
                except Exception as error:
                    errors.append(error)

    helpers = [threading.Thread(target=work, name="lucid-job") for _ in range(min(threads, len(left)) - 1)]
    for helper in helpers:
        with suppress(RuntimeError):  # no more threads, or the interpreter is at its end
            helper.start()
    try:
        work()
    finally:
        for helper in helpers:
            if helper.ident is not None:
                helper.join()
    if errors:
        raise errors[0]


class Later:
    """Jobs for a quiet moment, the newest first, one at a time under a lock, by a thread that ends with the last.

    The interpreter waits at its end until all are done.
    """

    def __init__(self, lock: AbstractContextManager[object], quiet_seconds: float) -> None:
        self._lock, self.quiet_seconds = lock, quiet_seconds
        self._jobs: list[Job] = []
        self._stirred = 0.0
        self._paused = False
        self._thread: threading.Thread | None = None

    def put(self, job: Job) -> None:
        """A job to do later."""
        with self._lock:
            self._jobs.append(job)
            self.stir()
            self.resume()

    def stir(self) -> None:
        """Something happens: it is not quiet."""
        self._stirred = time.monotonic()

    def pause(self) -> None:
        """Ends the thread, before a fork. Not for who has the lock."""
        self._paused, thread = True, self._thread
        if thread is not None:
            thread.join()

    def resume(self) -> None:
        """Goes on where there are jobs left, in a child too."""
        self._paused = False
        if self._jobs and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._work, name="lucid-later")
            with suppress(RuntimeError):  # the interpreter is at its end
                self._thread.start()

    def settle(self) -> None:
        """Does all jobs now."""
        while self._do_next():
            pass

    def _do_next(self) -> bool:
        with self._lock:
            if not self._jobs:
                return False
            job = self._jobs.pop()
            try:
                job()
            except KeyboardInterrupt:
                self._jobs.append(job)
                raise
            return True

    def _work(self) -> None:
        while not self._leaves():
            noise = self._stirred + self.quiet_seconds - time.monotonic()
            if noise > 0 and threading.main_thread().is_alive():
                time.sleep(min(noise, _NAP_SECONDS))
            else:
                self._do_next()

    def _leaves(self) -> bool:
        with self._lock:
            leaves = self._paused or not self._jobs
            if leaves:
                self._thread = None
            return leaves
