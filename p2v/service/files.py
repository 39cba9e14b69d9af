# SPDX-License-Identifier: GPL-3.0-or-later
"""Small files that must survive a loss of power, and who may use the data folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from p2v.model.errors import AlreadyServedError


def sync_folder(folder: Path) -> None:
    """Make durable which names `folder` holds."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


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


class FolderLock:
    """Holds a data folder for one process; the kernel lets go when the process ends."""

    def __init__(self, data: Path) -> None:
        """Take the folder.

        Raises:
            AlreadyServedError: another process has it.
        """
        self._fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise AlreadyServedError(path=data) from None

    def close(self) -> None:
        """Give the folder free."""
        os.close(self._fd)
