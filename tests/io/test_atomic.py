"""Whatever happens while writing, the old file or the new one is there, and nothing else stays behind."""

from __future__ import annotations

import os
import platform
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lucid import io


def test_new_and_replaced_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"first", b"second"):
        with io.atomic_write(path) as file:
            file.write(content)
            assert not path.exists() or path.read_bytes() == b"first"
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), io.atomic_write(path) as file:
            file.write(b"half of the n")
            raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_permissions_are_kept_and_links_followed(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to(path)
    with io.atomic_write(link) as file:
        file.write(b"new")
    assert link.is_symlink() and path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_new_file_gets_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    with io.atomic_write(tmp_path / "file") as file:
        file.write(b"new")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the full disk: a write fails half-way."""
    path = tmp_path / "network.safetensors"
    io.save_file({"a": np.zeros(4)}, path)
    before = path.read_bytes()
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"too large: .*network\.safetensors"):
            io.save_file({"a": np.zeros(50_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_files_of_dead_writers_are_removed_and_of_living_ones_kept(tmp_path: Path) -> None:
    path = tmp_path / "file[1].bin"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here, elsewhere = platform.node(), "another-machine"
    abandoned = tmp_path / f".{path.name}.0123abcd.{dead.pid}@{here}.tmp"
    others = [
        tmp_path / f".{path.name}.0123abcd.{os.getpid()}@{here}.tmp",
        tmp_path / f".{path.name}.0123abcd.{dead.pid}@{elsewhere}.tmp",
        tmp_path / f".other.0123abcd.{dead.pid}@{here}.tmp",
    ]
    for leftover in (abandoned, *others):
        leftover.write_bytes(b"")
    with io.atomic_write(path) as file:
        file.write(b"new")
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


WRITER = """
import sys, numpy as np
from lucid import io
print("ready", flush=True)
for i in range(10**6):
    io.save_file({"a": np.full(200_000, i), "b": np.full(7, i)}, sys.argv[1], {"i": str(i)})
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    for kill_after_s in (0.01, 0.03, 0.05, 0.08):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        while not path.exists():  # the first writer, on a machine that may be busy
            time.sleep(0.001)
        time.sleep(kill_after_s)
        writer.kill()
        writer.wait()
        writer.stdout.close()
        loaded, number = io.load_file(path), int(io.load_metadata(path)["i"])
        assert all((tensor.numpy() == number).all() for tensor in loaded.values())
    io.save_file({"a": np.zeros(1)}, path)
    assert list(tmp_path.iterdir()) == [path], "what killed writers left behind is removed by the next write"


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "no" / "file"
    with pytest.raises(FileNotFoundError) as told, io.atomic_write(path):
        pass
    assert told.value.filename == str(path)


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"Only a file can be written to: .*pipe"), io.atomic_write(tmp_path / "pipe"):
        pass
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1
