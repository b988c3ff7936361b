"""Jobs for Python's threads: ahead on several, or later when it is quiet."""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

Job = Callable[[], object]

_NAP_SECONDS = 0.01
_PATIENCE_SECONDS = 0.1  # of who helps, for the next job: an interrupt may keep the end from being announced


class Ahead:
    """Jobs that other threads begin while more are put, the largest first; who puts them helps at the end."""

    def __init__(self, threads: int) -> None:
        self._most_helpers = threads - 1
        self._waiting: list[tuple[float, Job]] = []  # by size
        self._helpers: list[threading.Thread] = []
        self._errors: list[Exception] = []
        self._news = threading.Condition()
        self._complete = False

    def put(self, job: Job, size: float) -> None:
        """A job to begin when a thread is free: the only one stays with who puts it."""
        with self._news:
            insort(self._waiting, (size, job), key=lambda sized: sized[0])
            self._news.notify()
            busy = len(self._waiting) > 1
        if busy and len(self._helpers) < self._most_helpers:
            helper = threading.Thread(target=self._work, name="lucid-job")
            with suppress(RuntimeError):  # no more threads, or the interpreter is at its end
                helper.start()
                self._helpers.append(helper)

    def finish(self) -> None:
        """Does and waits for all jobs. Raises what the first of them raised."""
        with self._news:
            self._complete = True
            self._news.notify_all()
        try:
            self._work()
        finally:
            for helper in self._helpers:
                helper.join()
        if self._errors:
            raise self._errors[0]

    def _work(self) -> None:
        while job := self._next():
            try:
                job()
            except Exception as error:
                self._errors.append(error)

    def _next(self) -> Job | None:
        with self._news:
            self._news.wait_for(lambda: self._waiting or self._complete, _PATIENCE_SECONDS)
            return self._waiting.pop()[1] if self._waiting else None


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
