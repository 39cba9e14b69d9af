# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may use the data folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from p2v.model.errors import AlreadyServedError


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
