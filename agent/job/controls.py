# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be asked of a migration while it runs."""

from __future__ import annotations

import os
import signal
import threading

from agent.stream.limiter import Limiter


class Controls:
    """The levers of a running migration. Thread-safe; each may be pulled again and again."""

    def __init__(self) -> None:
        self.limiter = Limiter()
        self.cutover = threading.Event()
        """Set when somebody asks for the final pass now."""
        self.discard = False
        """Whether the converter is to delete what it has, when the migration was stopped."""

    def stop(self, *, discard: bool) -> None:
        """End the process as SIGTERM does; with `discard` for good, or else to be resumed."""
        self.discard = discard
        self.limiter.go_on()
        os.kill(os.getpid(), signal.SIGTERM)
