"""Jobs at once, and later."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from lucid.kernels.jobs import Ahead, Later


def notes(log: list[int], number: int) -> Callable[[], None]:
    return lambda: log.append(number)


@pytest.mark.parametrize("threads", [1, 3, 20])
def test_all_jobs_are_done(threads: int) -> None:
    log: list[int] = []
    ahead = Ahead(threads)
    for n in range(9):
        ahead.put(notes(log, n), n)
    ahead.finish()
    assert sorted(log) == list(range(9))
    if threads == 1:
        assert log == list(range(8, -1, -1))  # the largest first


def test_jobs_are_begun_while_more_are_put() -> None:
    log: list[int] = []
    ahead = Ahead(2)
    for n in range(2):
        ahead.put(notes(log, n), n)
    until(lambda: len(log) == 2)
    ahead.put(notes(log, 2), 2)
    until(lambda: len(log) == 3)
    ahead.finish()
    assert not [t for t in threading.enumerate() if t.name == "lucid-job"]


def test_the_only_job_is_done_by_who_puts_it() -> None:
    by: list[threading.Thread] = []
    ahead = Ahead(4)
    ahead.put(lambda: by.append(threading.current_thread()), 1)
    ahead.finish()
    assert by == [threading.current_thread()]


def test_who_helps_goes_home_when_nobody_finishes() -> None:
    log: list[int] = []
    ahead = Ahead(2)
    for n in range(2):
        ahead.put(notes(log, n), n)
    until(lambda: not [t for t in threading.enumerate() if t.name == "lucid-job"])
    assert sorted(log) == [0, 1]


def test_jobs_run_at_once() -> None:
    meet = threading.Barrier(2)
    ahead = Ahead(2)
    for _ in range(2):
        ahead.put(lambda: meet.wait(10), 1)
    ahead.finish()


def test_no_jobs() -> None:
    Ahead(4).finish()


def test_a_failing_job_stops_no_other() -> None:
    log: list[int] = []

    def fails() -> None:
        raise ZeroDivisionError

    ahead = Ahead(2)
    for job in (notes(log, 1), fails, notes(log, 2)):
        ahead.put(job, 1)
    with pytest.raises(ZeroDivisionError):
        ahead.finish()
    assert sorted(log) == [1, 2]


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not done():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_later_waits_until_it_is_quiet() -> None:
    log: list[int] = []
    later = Later(threading.RLock(), 0.1)
    for n in range(3):
        later.put(notes(log, n))
    for _ in range(30):
        time.sleep(0.01)
        later.stir()
    assert not log
    until(lambda: len(log) == 3)
    assert log == [2, 1, 0]
    later.put(notes(log, 3))  # its thread has ended, or is about to
    until(lambda: len(log) == 4)


def test_settling_does_it_now() -> None:
    log: list[int] = []
    later = Later(threading.RLock(), 1000)
    later.put(notes(log, 1))
    later.settle()
    assert log == [1]


def test_who_settles_waits_for_the_job_that_is_being_done() -> None:
    log: list[int] = []
    started = threading.Event()
    later = Later(threading.RLock(), 0)

    def slow() -> None:
        started.set()
        time.sleep(0.05)
        log.append(1)

    later.put(slow)
    started.wait(10)
    later.settle()
    assert log == [1]


def test_pausing_ends_the_thread_and_resuming_goes_on() -> None:
    log: list[int] = []
    later = Later(threading.RLock(), 0.02)
    later.put(notes(log, 1))
    later.pause()
    time.sleep(0.05)
    assert not log
    assert not [t for t in threading.enumerate() if t.name == "lucid-later"]
    later.resume()
    until(lambda: log == [1])


def test_an_interrupted_job_is_done_again() -> None:
    tries: list[int] = []
    later = Later(threading.RLock(), 1000)

    def job() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise KeyboardInterrupt

    later.put(job)
    with pytest.raises(KeyboardInterrupt):
        later.settle()
    later.settle()
    assert len(tries) == 2


def test_a_broken_job_is_not() -> None:
    log: list[int] = []
    later = Later(threading.RLock(), 1000)

    def broken() -> None:
        raise ZeroDivisionError

    later.put(notes(log, 1))
    later.put(broken)
    with pytest.raises(ZeroDivisionError):
        later.settle()
    later.settle()
    assert log == [1]
