"""What was decided in earlier processes, kept on disk: a file of lines, each a question's digest and the answer.

Answers are plain data and follow from the question, the package's sources and this CPU alone. A line is added by one
write and carries its own digest, so that a reader takes it whole or not at all. A file that has grown too large is
begun anew. Nothing here raises: without the file, all is decided again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from lucid.kernels import cache, target

LIMIT_BYTES = 1 << 20
_DIGEST = 40


def decided(question: object, decide: Callable[[], Any]) -> Any:
    """The answer to a question: what is on record, else what ``decide`` says, which is put on record.

    A question is plain data: its ``repr`` says all of it. So is an answer, and tuples come back as lists.
    """
    path = _path()
    if path is None:
        return decide()
    name, known = _digest(repr(question)), _lines(path)
    if name not in known:
        answer = json.dumps(decide())
        known[name] = answer
        _append(path, name, answer)
    return json.loads(known[name])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]


def _path() -> Path | None:
    source, cpu = cache.source_digest(), target.cpu()
    directory = cache.usable_directory()
    if source is None or directory is None:
        return None
    return directory / _file_name(source, cpu)


@lru_cache(maxsize=8)
def _file_name(source: str, cpu: target.CPU) -> str:
    return cache.key(source, repr(cpu)) + cache.LEDGER


@lru_cache(maxsize=4)
def _lines(path: Path) -> dict[str, str]:
    """The answers of a file by their questions' digests."""
    found = {}
    with suppress(OSError):
        for line in path.read_text("ascii", "replace").splitlines():
            check, name, answer = line[:_DIGEST], line[_DIGEST : 2 * _DIGEST], line[2 * _DIGEST :]
            if check == _digest(name + answer):
                found[name] = answer
    return found


def _append(path: Path, name: str, answer: str) -> None:
    line = f"{_digest(name + answer)}{name}{answer}\n".encode("ascii")
    with suppress(OSError):
        if path.exists() and path.stat().st_size > LIMIT_BYTES:
            path.unlink()
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)
