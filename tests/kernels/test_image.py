"""Code laid out by itself: the same results as through LLVM's linker, and what needs the linker is left to it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest

from lucid.kernels import image, jit, target
from lucid.kernels.ir import Module, f64, i64, ptr
from lucid.kernels.isa import ISA

pytestmark = pytest.mark.skipif(target.isa().arch != "x86_64", reason="images are of x86-64 code")


def module() -> Module:
    """Constants that are loaded, calls within the module, of what is exported too, and several functions."""
    m = Module("several", target.isa())
    third = m.function("third", x=f64, returns=f64)
    third.ret(third.args.x * (1 / 3))
    more = m.function("more", export=True, x=ptr(f64), count=i64)
    with more.loop(0, more.args.count) as loop:
        value = more.call(third, more.args.x.load(loop.i), returns=f64)
        more.args.x.store(value + 0.123456789, loop.i)
    most = m.function("most", export=True, x=ptr(f64), count=i64)
    most.call(more, most.args.x, most.args.count)
    most.call(more, most.args.x, most.args.count)
    return m


def results(addresses: dict[str, int]) -> list[float]:
    numbers = (ctypes.c_double * 5)(1.5, -2, 1e300, 7, 0.25)
    for name in ("more", "most"):
        ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(addresses[name])(numbers, 5)
    return list(numbers)


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("isa", target.cpu().runnable, ids=lambda isa: isa.name)
def test_as_the_linker_would_load_it(isa: ISA, level: int) -> None:
    with target.using(isa.name):
        binary = jit._generated(str(module()), isa, level)
    made = image.image_of(binary, ["more", "most"])
    assert made is not None
    assert results(image.load(made)) == results(image.load(made)) == results(jit._linked(binary, ["more", "most"]))


def test_sections_keep_their_distances() -> None:
    """Every distance that a linker would fill in is one: the same bytes wherever they lie."""
    made = image.image_of(jit._generated(str(module()), target.isa()), ["most"])
    assert made is not None
    first, second = (ctypes.string_at(image.load(made)["most"] - made.entries["most"], len(made.code)) for _ in "ab")
    assert first == second == made.code


@pytest.mark.parametrize("text", [
    "declare i64 @getpid()\ndefine i64 @f() {\n  %r = call i64 @getpid()\n  ret i64 %r\n}\n",
    "@n = internal global i64 1\ndefine i64 @f() {\n  %r = load volatile i64, ptr @n\n  ret i64 %r\n}\n",
    "@n = internal global i64 0\ndefine i64 @f() {\n  %r = load volatile i64, ptr @n\n  ret i64 %r\n}\n",
    "define i64 @g() noinline {\n  ret i64 1\n}\ndefine i64 @f() {\n  %r = call i64 @g()\n  ret i64 %r\n}\n",
], ids=["names another", "writes data", "writes zeros", "through a table"])  # fmt: skip
def test_what_only_a_linker_can_load(text: str) -> None:
    with jit._lock:
        binary = jit._generated(text, target.isa())
        assert image.image_of(binary, ["f"]) is None
        assert ctypes.CFUNCTYPE(ctypes.c_int64)(jit.compile_text(text).address("f"))() >= 0


@pytest.mark.parametrize("spoil", [lambda b: b"MZ" + b[2:], lambda b: b[:18] + b"\xb7" + b[19:]], ids=["PE", "aarch64"])
def test_objects_of_other_kinds(spoil: Callable[[bytes], bytes]) -> None:
    assert image.image_of(spoil(jit._generated(str(module()), target.isa())), ["most"]) is None


def test_memory_is_not_writable_afterwards() -> None:
    """Neither before nor after: code that is run is never memory that is written."""
    made = image.image_of(jit._generated(str(module()), target.isa()), ["most"])
    assert made is not None
    address = image.load(made)["most"]
    with open("/proc/self/maps") as maps:
        (found,) = (line for line in maps if _within(line.split()[0], address))
    assert found.split()[1] == "r-xp"


def _within(span: str, address: int) -> bool:
    begin, end = (int(n, 16) for n in span.split("-"))
    return begin <= address < end


def test_a_system_that_makes_no_memory_executable(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        @staticmethod
        def mprotect(*_: object) -> int:
            return -1

    monkeypatch.setattr(image, "_libc", Refusing)
    with pytest.raises(OSError, match="cannot be made executable"):
        image.load(image.Image(b"\xc3", {"f": 0}))
