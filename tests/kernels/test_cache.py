"""The object cache: what is damaged, foreign, full, forbidden or contended costs time and nothing else."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lucid.kernels import cache, jit
from lucid.kernels.cache import Statistics
from lucid.kernels.ir import Module, i64
from lucid.kernels.isa import ISA

TEXT = "define i64 @answer() {\n  ret i64 42\n}\n"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own, not made yet, and counts from zero."""
    jit.settle()  # or kernels of other tests would still be put here
    path = tmp_path / "objects"
    monkeypatch.setenv("LUCID_CACHE_DIR", str(path))
    monkeypatch.setattr(cache, "statistics", Statistics())
    cache._refusal.cache_clear()
    yield path
    cache._refusal.cache_clear()


def answer() -> int:
    """Compiles, or loads, and calls."""
    import ctypes

    return int(ctypes.CFUNCTYPE(ctypes.c_int64)(jit.compile_text(TEXT).address("answer"))())


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.exists() else []


def test_kept_and_found_again(directory: Path) -> None:
    assert cache.load("a") is None
    cache.save("a", b"object")
    assert cache.load("a") == b"object"
    assert cache.statistics == Statistics(hits=1, misses=1, saved=1)
    assert [f.name for f in files(directory)] == ["a.o"]


def test_the_second_time_nothing_is_generated(directory: Path) -> None:
    assert [answer(), answer()] == [42, 42]
    assert cache.statistics == Statistics(hits=1, misses=1, saved=1)


def test_the_directory_is_closed_to_others(directory: Path) -> None:
    cache.save("a", b"object")
    assert directory.stat().st_mode & 0o777 == 0o700
    assert files(directory)[0].stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [
    lambda blob: blob[:-1], lambda blob: blob[:20], lambda blob: b"", lambda blob: blob + b"x",
    lambda blob: blob[:-5] + bytes([blob[-5] ^ 1]) + blob[-4:], lambda blob: b"\x7fELF" + blob,
    lambda blob: blob.replace(b"lucid kernel 2", b"lucid kernel 1"), lambda blob: blob[15:],
], ids=["cut", "head only", "empty", "longer", "one bit", "object alone", "other version", "no magic"])  # fmt: skip
def test_damaged_and_foreign_files_are_made_again(directory: Path, damage: Any) -> None:
    answer()
    (file,) = files(directory)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert answer() == 42
    assert cache.statistics.damaged == 1
    assert file.read_bytes() == whole
    assert answer() == 42
    assert cache.statistics.hits == 1


def test_another_kernel_under_the_name_is_a_mismatch_of_names_only(directory: Path) -> None:
    """Names are digests of the text, the machine and the versions: any difference is another name."""
    names = {cache.key("text", "isa"), cache.key("text", "isb"), cache.key("texu", "isa"), cache.key("text\0isa")}
    assert len(names) == 4
    assert cache.key("text", "isa") == cache.key("text", "isa")


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o720, 0o702, 0o777])
def test_a_directory_that_others_may_write_to_is_not_used(directory: Path, mode: int) -> None:
    directory.mkdir()
    directory.chmod(mode)
    with pytest.warns(RuntimeWarning, match=f"LUCID_CACHE_DIR=.*mode {mode:04o}.* chmod go-w"):
        assert answer() == 42
    assert files(directory) == []
    assert cache.statistics == Statistics(misses=1)
    assert answer() == 42  # told once


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_a_directory_that_others_may_only_read_is_used(directory: Path, mode: int) -> None:
    directory.mkdir()
    directory.chmod(mode)
    assert [answer(), answer()] == [42, 42]
    assert cache.statistics == Statistics(hits=1, misses=1, saved=1)


def test_a_directory_of_someone_else_is_not_used(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.mkdir(mode=0o700)
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    with pytest.warns(RuntimeWarning, match=f"belongs to user {mine}"):
        assert answer() == 42
    assert files(directory) == []


def test_a_path_that_cannot_be_a_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.write_text("a file")
    with pytest.warns(RuntimeWarning, match="File exists"):
        assert answer() == 42
    monkeypatch.setenv("LUCID_CACHE_DIR", str(directory / "below"))
    with pytest.warns(RuntimeWarning, match="Not a directory"):
        assert answer() == 42
    assert directory.read_text() == "a file"


def test_nobody_is_told_of_a_directory_nobody_named(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LUCID_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "lucid").write_text("a file")
    assert answer() == 42


def test_no_home(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(path: Any) -> Any:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    assert answer() == 42


def test_a_full_disk(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of a file that could not be written whole."""

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fdopen", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            assert answer() == 42
        assert files(directory) == []
    assert answer() == 42
    assert len(files(directory)) == 1


def test_a_directory_that_became_read_only(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer()
    (file,) = files(directory)
    file.write_bytes(b"damaged")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(cache.tempfile, "mkstemp", refuse)
    assert answer() == 42
    assert file.read_bytes() == b"damaged"


def test_a_directory_that_went_away(directory: Path) -> None:
    answer()
    for file in files(directory):
        file.unlink()
    directory.rmdir()
    assert answer() == 42


def test_bounded_in_size(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files longest unread go first, and what a killed process left unfinished long ago."""
    monkeypatch.setattr(cache, "LIMIT_BYTES", 5000)
    for k in range(10):
        cache.save(f"{k}", bytes(900))
        os.utime(directory / f"{k}.o", (1000 + k, 1000 + k))
    os.utime(directory / "2.o", (5000, 1000))  # read lately
    (directory / "stranger").write_bytes(bytes(9000))
    for name, age in (("lately", 10), ("long-ago", 9999)):
        (directory / f".new-{name}").write_bytes(b"half")
        os.utime(directory / f".new-{name}", (time.time() - age,) * 2)
    cache._trim(directory)
    assert [f.name for f in files(directory)] == [".new-lately", "2.o", "6.o", "7.o", "8.o", "9.o", "stranger"]


def test_a_second_name_takes_no_room_and_outlives_the_first(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.save("a", b"object")
    for _ in range(2):
        cache.name_again("a", "b", b"object")
    assert (directory / "a.o").samefile(directory / "b.o")
    monkeypatch.setattr(cache, "LIMIT_BYTES", (directory / "a.o").stat().st_size)
    cache._trim(directory)
    assert len(files(directory)) == 2
    (directory / "a.o").unlink()
    assert cache.load("b") == b"object"


def test_without_links_a_second_name_is_a_copy(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*names: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refused)
    cache.save("a", b"object")
    cache.name_again("a", "b", b"object")
    assert cache.load("b") == b"object" and not (directory / "a.o").samefile(directory / "b.o")


def test_trimming_happens_while_saving(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LIMIT_BYTES", 5000)
    for k in range(130):
        cache.save(f"{k}", bytes(900))
    assert sum(f.stat().st_size for f in files(directory)) < 5000 + 64 * 1000


@dataclass(frozen=True)
class Square:
    side: int
    note: str = field(default="", compare=False)


@dataclass(frozen=True)
class Circle:
    side: int


def test_keys_by_their_values() -> None:
    different = [None, 1, 1.0, True, "1", (1,), ((1,),), (1, 2), (), Square(1), Circle(1), Square(2), (Square(1), 2)]
    assert len({cache.stable_name(key) for key in different}) == len(different)
    assert cache.stable_name(Square(1, "a")) == cache.stable_name(Square(1, "b"))


@pytest.mark.parametrize("key", [object(), len, Square, (1, [2]), Square(lambda: 1), {1}])  # type: ignore[arg-type]
def test_keys_that_are_not_all_data_have_no_name(key: Any) -> None:
    assert cache.stable_name(key) is None


class Writer:
    """Writes a function that gives a number, as a module of the package would, and counts how often."""

    def __init__(self, number: int, module: str = "lucid.kernels.somewhere") -> None:
        self.number, self.__module__, self.times = number, module, 0

    def __call__(self, isa: ISA) -> Module:
        self.times += 1
        m = Module(f"number {self.number}", isa)
        m.function("number", returns=i64, export=True).ret(m.functions[0].const(i64, self.number))
        return m


def number_of(key: object, write: Writer) -> int:
    """As a new process that asks for a kernel."""
    import ctypes

    jit._kernels.clear()
    number = int(ctypes.CFUNCTYPE(ctypes.c_int64)(jit.kernel(key, write).address("number"))())
    jit.settle()
    return number


@pytest.fixture
def kernels(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "_kernels", {})


@pytest.mark.usefixtures("kernels")
def test_a_kernel_found_by_its_key_is_not_written_again() -> None:
    write = Writer(5)
    assert [number_of(Square(1), write) for _ in range(3)] == [5, 5, 5]
    assert write.times == 1
    assert "ret i64 5" in jit.kernel(Square(1), write).text


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("change", ["key", "source", "processor"])
def test_a_kernel_of_another_key_source_or_processor_is_written(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert number_of(Square(1), Writer(5)) == 5
    if change == "source":
        monkeypatch.setattr(cache, "source_digest", lambda: "edited")
    if change == "processor":
        monkeypatch.setattr(jit, "_circumstances", lambda: ("another", "features", "LLVM"))
    assert number_of(Square(2 if change == "key" else 1), Writer(6)) == 6


@pytest.mark.usefixtures("kernels")
def test_kernels_written_elsewhere_are_not_found_by_key() -> None:
    """Nobody knows when a user's source changes."""
    assert [number_of("mine", Writer(n, "users.module")) for n in (1, 2)] == [1, 2]


@pytest.mark.usefixtures("kernels")
def test_kernels_that_are_gone_or_damaged(directory: Path) -> None:
    """What is kept by its key stands for what is kept by its text, and the other way round; else it is made anew."""
    number_of(Square(1), Writer(5))
    whole = {file: file.read_bytes() for file in files(directory)}
    assert len(whole) == 2
    for spoil in (Path.unlink, lambda file: file.write_bytes(b"damaged")):
        for file in whole:
            spoil(file)
            assert number_of(Square(1), Writer(5)) == 5
            file.write_bytes(whole[file])
        for file in whole:
            spoil(file)
        write = Writer(5)
        assert number_of(Square(1), write) == 5
        assert write.times == 1
        assert {file: file.read_bytes() for file in files(directory)} == whole


PROGRAM = """
import numpy as np
from lucid.kernels import cache, jit
from lucid.kernels.matmul import matmul
a = np.arange(900, dtype=np.float32).reshape(30, 30)
assert np.allclose(matmul(a, a), a @ a)
jit.settle()
print(cache.statistics.hits, cache.statistics.misses + cache.statistics.damaged, cache.statistics.saved)
"""


def processes(directory: Path, count: int) -> list[list[int]]:
    """Hits, misses and saves of processes that start at the same time."""
    environment = {**os.environ, "LUCID_CACHE_DIR": str(directory)}
    started = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(count)
    ]
    return [[int(n) for n in process.communicate(timeout=100)[0].split()] for process in started]


def test_processes_at_once_and_a_warm_start(directory: Path) -> None:
    """All compute, whoever wrote first; a later process generates nothing."""
    together = processes(directory, 3)
    assert all(hits + misses > 1 for hits, misses, _ in together)
    assert all(saved <= misses for _, misses, saved in together)
    assert all(f.suffix == ".o" for f in files(directory))
    ((hits, misses, saved),) = processes(directory, 1)
    assert hits > 1
    assert (misses, saved) == (0, 0)
