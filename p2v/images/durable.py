# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and names that survive a loss of power."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from p2v.model.errors import NoRoomError, UsageError
from p2v.model.units import KiB

_ROOM = 256 * KiB
"""A database needs so much to be opened: SQLite's shared memory and log, several of its pages."""


def sync_folder(folder: Path) -> None:
    """Make durable which names `folder` holds."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_writable(folder: Path) -> None:
    """Write a little to a file in `folder` that has no name, and drop it.

    Raises:
        NoRoomError: the file system is full.
        UsageError: nothing can be written there.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_ROOM))
            file.flush()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoomError(path=folder, needed=_ROOM) from None
        raise UsageError(problem=f"{folder} can't be written: {error.strerror}") from None


def write_durably(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Put `content` under `path`: after a crash there is the old file or the new one, whole."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)
    temporary.replace(path)
    sync_folder(path.parent)
