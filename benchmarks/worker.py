"""A library in a process of its own, kept alive, that prepares problems and runs them when it is told to."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from benchmarks.peers import PEERS, Prepared
from benchmarks.problem import errors

ROOT = Path(__file__).parents[1]
WARM_UP_CALLS = 2


class WorkerError(RuntimeError):
    """A library failed at a problem; the message is what it raised."""


class Worker:
    """The parent's end of a worker process.

    Messages are pickles, one answer each: (method name, arguments) one way, (ok, value or traceback) the other.
    """

    def __init__(self, peer: str, threads: int) -> None:
        self.peer = peer
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", peer, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | PEERS[peer].environment | {"OMP_NUM_THREADS": str(threads)},
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

    def close(self) -> None:
        assert self._process.stdin, "the pipe is open"
        self._process.stdin.close()
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

    def check(self, oracle_file: str) -> dict[str, float]:
        """Run once; errors of the results against the float64 values in ``oracle_file``."""
        assert self._prepared, "prepare comes first"
        with np.load(oracle_file) as oracle:
            return errors(self._prepared.fetch(self._prepared.call()), dict(oracle))

    def oracle(self, problem: Any, backward: bool, oracle_file: str) -> None:
        """Write what the call that ``check`` makes should give, in float64."""
        np.savez(oracle_file, **self._library.oracle(problem, backward, WARM_UP_CALLS + 1))

    def turn(self, at_least_s: float, warm: bool) -> float:
        """Run for about ``at_least_s``: seconds a call. ``warm`` calls once before the clock starts, for the caches."""
        assert self._prepared, "prepare comes first"
        call = self._prepared.call
        if warm:
            call()
        calls, begin = 0, time.perf_counter()
        while True:
            call()
            calls += 1
            elapsed = time.perf_counter() - begin
            if elapsed >= at_least_s:
                return elapsed / calls


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
    # What a library prints goes to stderr: stdout carries the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    peer, threads = sys.argv[1:]
    serve(peer, int(threads), sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
