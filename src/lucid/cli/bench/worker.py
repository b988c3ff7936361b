"""A library in a process of its own, kept alive, that prepares problems and runs them when it is told to."""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from statistics import median
from typing import Any, BinaryIO

import numpy as np

from lucid.cli.bench.peers import PEERS, Prepared
from lucid.cli.bench.problem import errors

WARM_UP_CALLS = 2
WARM_UP_S = 0.01
FEWEST_CALLS, PATIENCE_S = 5, 0.1


class WorkerError(RuntimeError):
    """A library failed at a problem; the message is what it raised."""


class Worker:
    """The parent's end of a worker process.

    Messages are pickles, one answer each: (method name, arguments) one way, (ok, value or traceback) the other.
    """

    def __init__(self, peer: str, threads: int, isa: str | None = None) -> None:
        self.peer = peer
        held = dict(PEERS[peer].held[isa]) if isa else {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lucid.cli.bench.worker", peer, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **PEERS[peer].environment, **held, "OMP_NUM_THREADS": str(threads)},
        )

    def ask(self, method: str, *arguments: Any) -> Any:
        assert self._process.stdin and self._process.stdout, "both pipes are open"
        try:
            pickle.dump((method, arguments), self._process.stdin)
            self._process.stdin.flush()
            ok, value = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError):
            raise WorkerError(f"{self.peer} died with status {self._process.wait()}") from None
        if not ok:
            raise WorkerError(f"{self.peer}: {value}")
        return value

    @property
    def process_id(self) -> int:
        """The process that the library runs in."""
        return self._process.pid

    def pause(self) -> None:
        """Stop all its threads where they are: none takes a core from another library by waiting for work."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout, "both pipes are open"
        self.resume()
        with suppress(BrokenPipeError):  # what was asked of a process that had died is still to be written
            self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Served:
    """The child's end: the methods a parent may ask for."""

    def __init__(self, peer: str, threads: int) -> None:
        self._library = importlib.import_module(PEERS[peer].module)
        self._library.start(threads)
        self._prepared: Prepared | None = None

    def version(self) -> str:
        return str(self._library.version())

    def prepare(self, problem: Any, backward: bool) -> None:
        """Make ``problem`` ready and run it a little: the first calls may compile."""
        self._prepared = self._library.prepare(problem, backward)
        for _ in range(WARM_UP_CALLS):
            self._prepared.call()
        self._prepared.settle()

    def check(self, oracle_file: str) -> dict[str, float]:
        """Run once; errors of the results against the float64 values in ``oracle_file``."""
        assert self._prepared, "prepare comes first"
        with np.load(oracle_file) as oracle:
            return errors(self._prepared.fetch(self._prepared.call()), dict(oracle))

    def oracle(self, problem: Any, oracle_file: str) -> None:
        """Write what the call that ``check`` makes should give, in float64."""
        np.savez(oracle_file, **self._library.oracle(problem, WARM_UP_CALLS + 1))

    def workspace_bytes(self) -> int:
        """Memory beyond inputs and results that the largest step of a call takes, where the library can say."""
        assert self._prepared, "prepare comes first"
        return int(self._library.workspace_bytes(self._prepared))

    def turn(self, at_least_s: float, warm: bool) -> float:
        """Run for about ``at_least_s``: the median of the seconds a call.

        ``warm`` runs it for 10 ms before. The first calls after a rest are hundreds of times as slow as a small layer
        in libraries whose threads spin: the system wakes both on one core, where one waits for the other until its
        time slice ends. The median, because such a wait comes back whenever other processes take a core.
        """
        assert self._prepared, "prepare comes first"
        call = self._prepared.call
        if warm:
            rested = time.perf_counter()
            while time.perf_counter() - rested < WARM_UP_S:
                call()
        times: list[float] = []
        begin = last = time.perf_counter()
        while not times or last - begin < (at_least_s if len(times) >= FEWEST_CALLS else PATIENCE_S):
            call()
            now = time.perf_counter()
            times.append(now - last)
            last = now
        return median(times)


def serve(peer: str, threads: int, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the parent closes its end."""
    served = Served(peer, threads)
    while True:
        try:
            method, arguments = pickle.load(requests)
        except EOFError:
            return
        try:
            answer = True, getattr(served, method)(*arguments)
        except Exception:  # whatever a library raises is the parent's to report
            answer = False, traceback.format_exc(limit=-4)
        pickle.dump(answer, answers)
        answers.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    # What a library prints goes to stderr: stdout carries the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    peer, threads = sys.argv[1:]
    serve(peer, int(threads), sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
