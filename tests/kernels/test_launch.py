from __future__ import annotations

from threading import Thread

import numpy as np
import pytest

from lucid.kernels import jit
from lucid.kernels.launch import KEPT, WORKSPACE, Launch, address
from lucid.kernels.runtime import threads


def test_address_is_where_the_first_element_lies() -> None:
    a = np.zeros((4, 6))
    for view in (a, a[2:], a[:, ::-1], a[1:1], a.T, np.asarray(3.0)):
        assert address(view) == view.ctypes.data


def test_a_scalar_has_no_address() -> None:
    with pytest.raises(TypeError, match="address: float64 is no array"):
        address(np.float64(1))  # type: ignore[arg-type]


KERNELS = """
; fields: w, bias, y, kept, own, factor. Two steps: kept[i] = w[i] + bias[i], then y[i] = kept[i] * factor, through own.
define void @make(ptr %fields, i64 %begin, i64 %end, i64 %thread) {
entry:
  %w = load ptr, ptr %fields
  %bias_at = getelementptr i64, ptr %fields, i64 1
  %bias = load ptr, ptr %bias_at
  %kept_at = getelementptr i64, ptr %fields, i64 3
  %kept = load ptr, ptr %kept_at
  br label %loop
loop:
  %i = phi i64 [%begin, %entry], [%next, %loop]
  %w_i = getelementptr i64, ptr %w, i64 %i
  %bias_i = getelementptr i64, ptr %bias, i64 %i
  %kept_i = getelementptr i64, ptr %kept, i64 %i
  %a = load i64, ptr %w_i
  %b = load i64, ptr %bias_i
  %sum = add i64 %a, %b
  store i64 %sum, ptr %kept_i
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %end
  br i1 %more, label %loop, label %out
out:
  ret void
}
define void @compute(ptr %fields, i64 %begin, i64 %end, i64 %thread) {
entry:
  %y_at = getelementptr i64, ptr %fields, i64 2
  %y = load ptr, ptr %y_at
  %kept_at = getelementptr i64, ptr %fields, i64 3
  %kept = load ptr, ptr %kept_at
  %own_at = getelementptr i64, ptr %fields, i64 4
  %all = load ptr, ptr %own_at
  %own = getelementptr [8 x i64], ptr %all, i64 %thread
  %factor_at = getelementptr i64, ptr %fields, i64 5
  %factor = load i64, ptr %factor_at
  br label %loop
loop:
  %i = phi i64 [%begin, %entry], [%next, %loop]
  %kept_i = getelementptr i64, ptr %kept, i64 %i
  %k = load i64, ptr %kept_i
  store i64 %k, ptr %own
  %again = load i64, ptr %own
  %product = mul i64 %again, %factor
  %y_i = getelementptr i64, ptr %y, i64 %i
  store i64 %product, ptr %y_i
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %end
  br i1 %more, label %loop, label %out
out:
  ret void
}
"""
FACTOR = 7


def bound(count: int, own_bytes: int = 64) -> Launch:
    code = jit.compile_text(KERNELS)
    return Launch(
        [(code.address("make"), count, 3), (code.address("compute"), count, 2)],
        (0, 0, 0, 0, 0, FACTOR),
        (1, 2, 3, KEPT, WORKSPACE),
        kept_bytes=-(-count * 8 // 64) * 64,
        own_bytes=own_bytes,
        most_threads=3,
    )


@pytest.fixture(params=["native", "python"])
def pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_pool", {"native": threads._pool, "python": threads.PythonPool()}[request.param])


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("count", [1, 5, 64, 1000])
@pytest.mark.parametrize("own_bytes", [64, 1 << 16])
def test_steps_see_their_arrays_and_their_workspace(count: int, own_bytes: int) -> None:
    w, bias, y = (np.arange(count) * n for n in (1, 10, 0))
    bound(count, own_bytes)(None, w, bias, y)
    assert (y == 11 * FACTOR * np.arange(count)).all()


@pytest.mark.usefixtures("pool")
def test_the_halves_are_the_whole() -> None:
    w, bias, y, kept = np.arange(50), np.ones(50, np.int64), np.zeros(50, np.int64), np.zeros(56, np.int64)
    halves = bound(50).halves()
    assert halves is not None
    assert halves.kept_bytes == kept.nbytes
    halves.make(None, w, bias, None, kept)
    halves.compute(None, w, bias, y, kept)
    assert (kept[:50] == w + 1).all()
    assert (y == FACTOR * (w + 1)).all()


def test_what_keeps_nothing_has_no_halves() -> None:
    assert Launch([(0, 1, 1)], (0,), (3,), most_threads=1).halves() is None


def test_too_few_arrays_are_refused() -> None:
    with pytest.raises(TypeError, match="launch: 4 arrays are needed, not 3"):
        bound(5)(None, np.arange(5), np.arange(5))


@pytest.mark.usefixtures("pool")
def test_python_threads_call_at_once() -> None:
    run, wrong = bound(200), []

    def work(n: int) -> None:
        w, bias, y = np.full(200, n), np.zeros(200, np.int64), np.zeros(200, np.int64)
        for _ in range(200):
            y[...] = 0
            run(None, w, bias, y)
            wrong.extend(y[y != n * FACTOR])

    workers = [Thread(target=work, args=(n,)) for n in range(1, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
