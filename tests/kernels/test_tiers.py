"""Quick code first, good code behind the same door later."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lucid.kernels import cache, convolution, jit, select, target
from lucid.kernels.ir import Function, Module, f32, i64, ptr, transpose
from lucid.kernels.isa import ISA
from lucid.kernels.runtime.threads import set_num_threads
from tests.kernels.convolution_fuzz import Case, accepting, random_case
from tests.kernels.guard import run_guarded

_keys = count()


@pytest.fixture(autouse=True)
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process with an empty cache, where it never becomes quiet."""
    jit.settle()
    monkeypatch.setenv("LUCID_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(jit, "_kernels", {})
    monkeypatch.setattr(jit._later, "quiet_seconds", 1e9)
    _forget_calls()
    yield
    jit.settle()
    _forget_calls()


def _forget_calls() -> None:
    for memo in (*vars(convolution).values(), select._executable):
        if hasattr(memo, "cache_clear"):
            memo.cache_clear()


def sums(isa: ISA) -> Module:
    """A function that adds up the numbers below n, the long way round."""
    m = Module("sums", isa)
    f = m.function("sums", returns=i64, export=True, n=i64)
    with f.loop(0, f.args.n, carry=[f.const(i64, 0)]) as loop:
        (total,) = loop.values
        loop.values = [total + loop.i]
    f.ret(loop.values[0])
    return m


def asked() -> jit.Code:
    return jit.kernel(("test_tiers", next(_keys)), sums)


def called(address: int, n: int) -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)(n))


def test_an_address_stays_and_leads_to_better_code() -> None:
    code = asked()
    door = code.address("sums")
    assert called(door, 10) == 45
    assert not list(cache.directory_path().glob("*.o"))
    jit.settle()
    assert code.address("sums") != door  # who asks now need not go through the door
    assert called(door, 10) == called(code.address("sums"), 10) == 45
    assert list(cache.directory_path().glob("*.o"))  # good code only is kept


def test_more_kernels_than_a_batch_of_doors() -> None:
    with jit.together():
        codes = [asked() for _ in range(300)]
    assert {called(code.address("sums"), 7) for code in codes} == {21}
    assert len({code.address("sums") for code in codes}) == 300


def test_kernels_that_are_made_together_are_asked_for_once() -> None:
    with jit.together(), jit.together():
        first, second = (jit.kernel(("test_tiers", "twice"), sums) for _ in range(2))
    assert first is second is jit.kernel(("test_tiers", "twice"), sums)
    assert called(first.address("sums"), 4) == 6


def test_kernels_asked_for_before_an_error_can_be_called() -> None:
    with pytest.raises(ZeroDivisionError), jit.together():
        code = asked()
        raise ZeroDivisionError
    assert called(code.address("sums"), 4) == 6


def test_text_that_cannot_be_generated_is_an_error_and_no_kernel() -> None:
    def broken(isa: ISA) -> Module:
        m = sums(isa)
        m.functions[0].line("this is no LLVM")
        return m

    with pytest.raises(RuntimeError):
        jit.kernel(("test_tiers", "broken"), broken)
    assert called(jit.kernel(("test_tiers", "broken"), sums).address("sums"), 4) == 6


def test_a_call_that_is_on_its_way_returns_from_the_code_it_is_in() -> None:
    door, n, results = asked().address("sums"), 300_000_000, []
    thread = threading.Thread(target=lambda: results.append(called(door, n)))
    thread.start()
    jit.settle()
    thread.join()
    assert results == [n * (n - 1) // 2]


def test_a_child_makes_its_kernels_good_too(monkeypatch: pytest.MonkeyPatch) -> None:
    code = asked()
    door = code.address("sums")

    def child() -> None:
        jit._later.quiet_seconds = 0
        while code.address("sums") == door:
            threading.Event().wait(0.001)
        assert called(door, 10) == 45

    run_guarded(child, seconds=20)
    assert code.address("sums") == door


SCRIPT = """
import sys
import numpy as np
from lucid import kernels
from lucid.core.geometry import ConvSpec
from lucid.kernels import jit
ones = np.ones((1, 1, 8), np.float32)
kernels.conv_forward(ones, ones[..., :3], None, ConvSpec((3,), (1,), (1,), ((0, 0),)))
print(len(jit._later._jobs), flush=True)
exec(sys.argv[1])
"""


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "raise KeyboardInterrupt"])
def test_a_process_ends_when_its_kernels_are_on_disk(end: str, tmp_path: Path) -> None:
    run = [sys.executable, "-c", SCRIPT, end]
    jobs = [
        int(subprocess.run(run, env=os.environ, capture_output=True, text=True, timeout=60).stdout) for _ in range(2)
    ]
    assert jobs[0] > 0
    assert jobs[1] == 0


@pytest.mark.parametrize("isa", target.cpu().isas, ids=lambda isa: isa.name)
def test_blocks_that_help_quick_code_leave_good_code_as_it_is(isa: ISA, monkeypatch: pytest.MonkeyPatch) -> None:
    def assembly() -> tuple[str, str]:
        m = Module("turn", isa)
        f = m.function("turn", export=True, x=ptr(f32), n=i64)
        lanes = isa.lanes(f32)
        with f.loop(0, f.args.n) as square:
            to = f.args.x.at(square.i * (lanes * lanes))
            for k, column in enumerate(transpose([to.load(k * lanes, lanes) for k in range(lanes)])):
                to.store(column, k * lanes)
        return str(m), jit.compile_text(str(m), isa).assembly()

    text, good = assembly()
    monkeypatch.setattr(Function, "part", lambda self: None)
    whole, same = assembly()
    assert good == same
    assert (text != whole) == (isa.lanes(f32) > 1)


def results(case: Case, name: str, inputs: list[Any]) -> bytes:
    with convolution.algorithm(name):
        return bytes(np.ascontiguousarray(case.call(inputs)).tobytes())


def test_quick_and_good_code_give_the_same_bits() -> None:
    rng = np.random.default_rng(3)
    cases = [random_case(rng) for _ in range(4)]
    runs = [(case, isa.name, name) for case in cases for isa in target.cpu().isas for name in accepting(case, isa.name)]
    seen = []
    for _ in range(2):
        for case, isa_name, name in runs:
            with target.using(isa_name):
                seen.append(results(case, name, case.inputs()))
        jit.settle()
    assert seen[: len(runs)] == seen[len(runs) :]


def test_code_that_changes_in_the_midst_of_a_region_gives_the_same_bits() -> None:
    set_num_threads(2)
    rng = np.random.default_rng(4)
    case = next(c for c in iter(lambda: random_case(rng), None) if c.role == "forward" and c.products > 500_000)
    inputs, seen, done = case.inputs(), set[bytes](), threading.Event()

    def calls() -> None:
        while not done.is_set():
            seen.add(case.call(inputs).tobytes())

    seen.add(case.call(inputs).tobytes())
    thread = threading.Thread(target=calls)
    thread.start()
    jit.settle()
    done.set()
    thread.join()
    seen.add(case.call(inputs).tobytes())
    assert len(seen) == 1
