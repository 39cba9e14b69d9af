# SPDX-License-Identifier: GPL-3.0-or-later
"""Room that images may not use up: the database beside them must be able to say that it is full."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from p2v.model.errors import NoRoomError
from p2v.model.units import MiB

RESERVE = 64 * MiB
FRACTION = 16
"""Of a small file system so much less is kept: a sixteenth."""
INTERVAL = 4 * MiB
"""The file system is asked once in so many bytes: on a network each time is a round trip."""


class Room:
    """Watches the file system of `folder`. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._left = 0

    def take(self, length: int) -> None:
        """Agree that `length` bytes be written.

        Raises:
            NoRoomError: the reserve would be touched; ask again later.
        """
        with self._lock:
            if self._left < length:
                self._look()
                self._left = INTERVAL
            self._left -= length

    def _look(self) -> None:
        found = os.statvfs(self._folder)
        reserve = min(RESERVE, found.f_blocks * found.f_frsize // FRACTION)
        free = found.f_bavail * found.f_frsize
        if free < reserve:
            raise NoRoomError(path=self._folder, needed=reserve - free)
