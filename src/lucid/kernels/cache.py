"""Object files of kernels on disk, so that the next process need not generate them.

An object is named by the digest of its text. A second name of the same file, the digest of the kernel's key and of the
sources that write it, is there so that not even the text need be written.

A file is a line of magic, the SHA-256 of the rest, and the object. It is written under a temporary name and renamed, so
that a reader sees all of it or nothing. What is in it is run, so the directory must be our user's and nobody else may
write to it, or it is not used, with a warning where ``LUCID_CACHE_DIR`` named it; what does not match its checksum is
deleted and made again. Nothing here raises: without a cache, kernels are generated.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path

_MAGIC = b"lucid kernel 2\n"
LIMIT_BYTES = 256 << 20
OBJECT, LEDGER = ".o", ".ledger"
_UNFINISHED = ".new-"
_ABANDONED_SECONDS = 3600


@dataclass(slots=True)
class Statistics:
    """What became of the look-ups of this process."""

    hits: int = 0
    misses: int = 0
    damaged: int = 0
    saved: int = 0


statistics = Statistics()


def directory_path() -> Path:
    """Where objects are kept: ``LUCID_CACHE_DIR``, or ``lucid`` in the user's cache directory."""
    chosen = os.environ.get("LUCID_CACHE_DIR")
    return _expanded(chosen or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "lucid"))


def usable_directory() -> Path | None:
    """The same, if it can be used."""
    path = directory_path()
    return path if _refusal(path) is None else None


@lru_cache(maxsize=4)
def _expanded(name: str) -> Path:
    path = Path(name)
    try:
        return path.expanduser()
    except RuntimeError:  # a user without a home
        return path


@lru_cache(maxsize=4)
def _refusal(path: Path) -> str | None:
    """Why the directory is not used, None if it is; made if it is missing, told once if the user asked for it."""
    refusal = _flaw(path)
    if refusal is not None and os.environ.get("LUCID_CACHE_DIR"):
        told = f"lucid: LUCID_CACHE_DIR={path} is not used, every process generates its kernels anew: {refusal}"
        warnings.warn(told, RuntimeWarning, stacklevel=2)
    return refusal


def _flaw(path: Path) -> str | None:
    """What keeps a directory from being used: that it is none, is another user's, or lets others write."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        return error.strerror or type(error).__name__
    if os.name == "nt":
        return None
    if status.st_uid != os.getuid():
        return f"it belongs to user {status.st_uid}, and code that another user wrote must not run as {os.getuid()}"
    if status.st_mode & 0o022:
        mode = status.st_mode & 0o777
        return f"others may write to it (mode {mode:04o}), and what is in it is run: chmod go-w {path}"
    return None


@lru_cache(maxsize=1)
def package_version() -> str:
    """Lucid's version as installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lucid-conv")
    except PackageNotFoundError:
        return "checkout"


def key(text: str, *circumstances: str) -> str:
    """The name of an object: everything its bytes depend on."""
    digest = hashlib.sha256("\0".join((*circumstances, _MAGIC.decode(), text)).encode())
    return digest.hexdigest()[:40]


def stable_name(key: object) -> str | None:
    """What a kernel's key is, in words that mean the same in every process; None if it holds anything but data.

    >>> stable_name(("matmul", 3, "float32"))
    "builtins.tuple('matmul', 3, 'float32')"
    """
    if key is None or isinstance(key, (str, int, float, bool)):
        return repr(key)
    kind = type(key)
    parts: list[str | None] = [None]
    if isinstance(key, tuple):
        parts = [stable_name(part) for part in key]
    elif is_dataclass(kind):
        parts = [stable_name(getattr(key, field.name)) for field in fields(kind) if field.compare]
    named = [part for part in parts if part is not None]
    return f"{kind.__module__}.{kind.__qualname__}({', '.join(named)})" if len(named) == len(parts) else None


@lru_cache(maxsize=1)
def source_digest() -> str | None:
    """What tells this package's sources from any other: their names, sizes and times, as Python's own cache does."""
    try:
        lines = sorted(_states(os.path.dirname(__file__)))
    except OSError:
        return None
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else None


def _states(directory: str) -> Iterator[str]:
    for entry in os.scandir(directory):
        if entry.is_dir():
            yield from _states(entry.path)
        elif entry.name.endswith(".py"):
            state = entry.stat()
            yield f"{entry.path} {state.st_size} {state.st_mtime_ns}"


def load(name: str) -> bytes | None:
    """The object of that name, or None; a damaged file is removed."""
    directory = usable_directory()
    if directory is None:
        statistics.misses += 1
        return None
    path = os.path.join(directory, name + OBJECT)  # as text: a warm start asks for every module of a kernel
    try:
        with open(path, "rb") as file:
            blob = file.read()
    except OSError:
        statistics.misses += 1
        return None
    head, payload = blob[: len(_MAGIC) + 32], blob[len(_MAGIC) + 32 :]
    if head != _MAGIC + hashlib.sha256(payload).digest():
        statistics.damaged += 1
        _remove(Path(path))
        return None
    statistics.hits += 1
    return payload


def save(name: str, payload: bytes) -> None:
    """Keeps an object if the directory can be used and the disk has room."""
    directory = usable_directory()
    if directory is None:
        return
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=directory, prefix=_UNFINISHED)
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(payload).digest() + payload)
        os.replace(temporary, directory / (name + OBJECT))
        statistics.saved += 1
        if statistics.saved % 64 == 1:
            _trim(directory)
    except OSError:
        if temporary is not None:
            _remove(Path(temporary))


def name_again(name: str, other: str, payload: bytes) -> None:
    """Gives an object that is kept a second name; where the file system knows no links, a second copy."""
    directory = usable_directory()
    if directory is None:
        return
    new = directory / (other + OBJECT)
    _remove(new)
    try:
        os.link(directory / (name + OBJECT), new)
    except OSError:
        save(other, payload)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _trim(directory: Path) -> None:
    """Removes what killed processes left half written, and the files longest unread until all are within the limit."""
    entries = []
    for path in directory.iterdir():
        status = path.stat()
        if path.suffix in (OBJECT, LEDGER):
            entries.append((max(status.st_atime, status.st_mtime), status.st_size / status.st_nlink, path))
        elif path.name.startswith(_UNFINISHED) and status.st_mtime < time.time() - _ABANDONED_SECONDS:
            _remove(path)
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= LIMIT_BYTES:
            break
        _remove(path)
        total -= size
