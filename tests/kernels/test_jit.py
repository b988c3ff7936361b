"""From text to addresses."""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any

import pytest

from lucid.kernels import jit, target
from lucid.kernels.ir import Module, f32, i64, ptr
from lucid.kernels.isa import ISA
from tests.kernels.guard import run_guarded


def number(value: int, log: list[str]) -> Any:
    """Writes a function that gives a number, and notes that it was asked to."""

    def write(isa: ISA) -> Module:
        log.append(isa.name)
        m = Module(f"number {value}", isa)
        m.function("number", returns=i64, export=True).ret(m.functions[0].const(i64, value))
        return m

    return write


def value_of(code: jit.Code) -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int64)(code.address("number"))())


def test_a_kernel_is_written_once_for_every_instruction_set() -> None:
    log: list[str] = []
    names = [isa.name for isa in target.cpu().isas]
    before = jit.kernel_count()
    for _ in range(2):
        for name in names:
            with target.using(name):
                assert value_of(jit.kernel(("test_jit", 1), number(7, log))) == 7
    assert log == names
    assert jit.kernel_count() == before + len(names)


def test_keys_tell_kernels_apart() -> None:
    log: list[str] = []
    codes = [jit.kernel(("test_jit", "keys", k), number(k, log)) for k in (11, 12, 11)]
    assert [value_of(code) for code in codes] == [11, 12, 11]
    assert codes[0] is codes[2]


def test_threads_that_ask_at_once_get_one_kernel() -> None:
    log: list[str] = []
    codes: list[jit.Code] = []

    def slow(isa: ISA) -> Module:
        time.sleep(0.05)
        return number(5, log)(isa)

    asking = [threading.Thread(target=lambda: codes.append(jit.kernel(("test_jit", "slow"), slow))) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(log) == 1
    assert len({id(code) for code in codes}) == 1


def test_a_fork_while_another_thread_compiles() -> None:
    """The child finds the compiler free."""
    started = threading.Event()

    def slow(isa: ISA) -> Module:
        started.set()
        time.sleep(0.1)
        return number(6, [])(isa)

    thread = threading.Thread(target=lambda: jit.kernel(("test_jit", "fork"), slow))
    thread.start()
    started.wait()

    def child() -> None:
        assert value_of(jit.kernel(("test_jit", "in child"), number(8, []))) == 8
        assert value_of(jit.kernel(("test_jit", "fork"), slow)) == 6

    run_guarded(child, seconds=20)
    thread.join()


def test_a_kernel_that_could_not_be_written_can_be_asked_for_again() -> None:
    def broken(isa: ISA) -> Module:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        jit.kernel(("test_jit", "broken"), broken)
    assert value_of(jit.kernel(("test_jit", "broken"), number(3, []))) == 3


def test_unknown_functions_are_key_errors() -> None:
    code = jit.kernel(("test_jit", 2), number(2, []))
    with pytest.raises(KeyError, match="exports no function 'letter'"):
        code.address("letter")


@pytest.mark.parametrize("text", ["this is no LLVM", "define i64 @f() {\n  ret i32 1\n}\n"])
def test_wrong_text_is_an_error_and_not_a_crash(text: str) -> None:
    with pytest.raises(RuntimeError, match="LLVM IR parsing error"):
        jit.compile_text(text)


def scale(isa: ISA) -> Module:
    lanes = isa.lanes(f32)
    m = Module("scale", isa)
    f = m.entry("scale", x=ptr(f32))
    f.args.x.store(f.args.x.load(0, lanes) * 3.0)
    return m


@pytest.mark.parametrize(("isa", "register"), [("avx512", "%zmm"), ("avx2", "%ymm"), ("scalar", "%xmm")])
def test_assembly_uses_the_registers_it_may(isa: str, register: str) -> None:
    if isa not in [i.name for i in target.cpu().runnable]:
        with pytest.raises(Exception, match="does not run on this CPU"), target.using(isa):
            raise AssertionError
        return
    with target.using(isa):
        assembly = jit.compile_text(str(scale(target.isa()))).assembly()
    assert "scale:" in assembly
    used = {name for name in ("%xmm", "%ymm", "%zmm") if name in assembly}
    assert used == {register}
