"""Writing a file so that, whatever happens, either the old one or the new one is there."""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when the block ends well.

    The bytes go to a temporary file in the same directory, reach the disk, and are then renamed: a reader never sees
    half a file. If the block raises (a full disk, an interrupt) the old file is untouched and the temporary one is
    removed. A writer that is killed can leave its temporary file behind; the next write of the same path removes it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "letter.bin"
    >>> with atomic_write(path) as file:
    ...     _ = file.write(b"new")
    >>> path.read_bytes()
    b'new'
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        # A rename would put a file in the place of the device or the pipe.
        raise OSError(errno.EINVAL, "Only a file can be written to", str(target))
    _remove_abandoned(target)
    temporary = target.parent / f".{target.name}.{secrets.token_hex(4)}.{os.getpid()}@{platform.node()}.tmp"
    try:
        with _created(temporary, target) as file:
            yield file
            file.flush()
            with suppress(FileNotFoundError):
                os.fchmod(file.fileno(), target.stat().st_mode & 0o7777)
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:  # a write's: it does not say which file it was
            error.filename = str(target)
        raise
    _sync_directory(target.parent)


def _created(temporary: Path, target: Path) -> BinaryIO:
    """A new file; where there can be none, the error names the file that was asked for."""
    try:
        return open(temporary, "xb")
    except OSError as error:
        error.filename = str(target)
        raise


def _remove_abandoned(target: Path) -> None:
    """Delete the temporary files of writers of this path that lived on this machine and no longer do."""
    name = re.compile(re.escape(f".{target.name}.") + r"[0-9a-f]{8}\.(\d+)@" + re.escape(platform.node()) + r"\.tmp")
    with suppress(FileNotFoundError), os.scandir(target.parent) as entries:
        for entry in entries:
            if (match := name.fullmatch(entry.name)) and not _alive(int(match[1])):
                with suppress(OSError):
                    os.unlink(entry.path)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_directory(directory: Path) -> None:
    """A rename is on the disk only when its directory is."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
