# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders for what an appliance or a rehearsal needs while it runs, which no `kill -9` leaves.

Each is locked for as long as its process lives, and whoever makes the next one deletes those whose
lock is free. flock(2): a lock ends with its process, and with what that has forked.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_YOUNG_S = 60
"""A folder that is younger may not be locked yet."""


class Scratch:
    """A new empty folder `path`, of this user alone; `close` deletes it, and may be called again.

    Leave it with `close`, or as a context manager.
    """

    def __init__(self, purpose: str, where: str | None = None) -> None:
        """Make it in `where`, or where temporary files belong; `purpose` becomes part of its name.

        Raises:
            OSError: it can't be made.
        """
        where = where or tempfile.gettempdir()
        prefix = f"p2v-{purpose}."
        _sweep(Path(where), prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=where))
        self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete it with all that is in it."""
        if self._fd < 0:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._fd)
        self._fd = -1


def _sweep(where: Path, prefix: str) -> None:
    """Delete this user's folders of that name whose processes have ended."""
    for path in where.glob(f"{prefix}*"):
        with suppress(OSError):
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            if time.time() - found.st_ctime < _YOUNG_S:
                continue
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(fd)
