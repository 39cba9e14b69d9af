# SPDX-License-Identifier: GPL-3.0-or-later
"""A limit on the bytes a second that all lanes send together."""

from __future__ import annotations

import threading
import time


class Limiter:
    """A token bucket of one second's worth. A `rate` of 0 is no limit."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def take(self, count: int, stop: threading.Event) -> None:
        """Wait until `count` more bytes may be sent, or `stop` is set."""
        if self.rate <= 0:
            return
        with self._lock:
            now = time.monotonic()
            start = max(self._free_at, now - 1.0)
            self._free_at = start + count / self.rate
            wait = self._free_at - now
        if wait > 0:
            stop.wait(wait)
