# SPDX-License-Identifier: GPL-3.0-or-later
"""Ctrl-C for calls into libraries: Python runs no signal's handler until such a call returns.

A call into the appliance may take half an hour. The byte that Python's own handler leaves in the
wake-up descriptor at once is seen by a thread, which ends what the call waits for.

https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

_ENDING = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


class Signals:
    """Calls `end` in a thread when a signal that ends the program arrives, until it is closed.

    Only the main thread gets signals: elsewhere this does nothing. Signals that the program ignores
    or leaves to the kernel are not seen.
    """

    def __init__(self, end: Callable[[], None]) -> None:
        """Begin to listen."""
        self._end = end
        self._thread: threading.Thread | None = None
        if threading.current_thread() is not threading.main_thread():
            return
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self._read, True)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more; from the thread that made it."""
        if self._thread is None:
            return
        signal.set_wakeup_fd(self._before)
        os.close(self._write)
        self._thread.join()
        self._thread = None
        os.close(self._read)

    def _listen(self) -> None:
        while seen := os.read(self._read, 1):
            if seen[0] in _ENDING:
                self._end()
