# SPDX-License-Identifier: GPL-3.0-or-later
"""A limit on the bytes a second that all lanes send together, and a pause; both can be changed."""

from __future__ import annotations

import threading
import time

_STEP_S = 0.25
"""Longest wait at once: a changed rate, a pause and a stop are heeded within it."""


class Limiter:
    """A token bucket of one second's worth. A `rate` of 0 is no limit. Thread-safe."""

    def __init__(self, rate: int = 0) -> None:
        self._rate = rate
        self._running = threading.Event()
        self._running.set()
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    @property
    def rate(self) -> int:
        """Bytes a second, 0 for no limit."""
        return self._rate

    @rate.setter
    def rate(self, rate: int) -> None:
        with self._lock:
            self._rate = rate
            self._free_at = time.monotonic()  # what was owed at the old rate is forgiven

    @property
    def paused(self) -> bool:
        """Whether nothing may be read or sent for now."""
        return not self._running.is_set()

    def pause(self) -> None:
        """Make the lanes wait before their next block."""
        self._running.clear()

    def go_on(self) -> None:
        """End the pause."""
        self._running.set()

    def wait(self, stop: threading.Event) -> None:
        """Wait for the end of the pause, or until `stop` is set."""
        while not self._running.is_set() and not stop.is_set():
            self._running.wait(_STEP_S)

    def take(self, count: int, stop: threading.Event) -> None:
        """Wait until `count` more bytes may be sent, or `stop` is set."""
        with self._lock:
            if self._rate <= 0:
                return
            start = max(self._free_at, time.monotonic() - 1.0)
            self._free_at = due = start + count / self._rate
            rate = self._rate
        while (wait := due - time.monotonic()) > 0 and rate == self._rate:
            if stop.wait(min(wait, _STEP_S)):
                return
