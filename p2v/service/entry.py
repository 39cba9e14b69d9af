# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: A002 - `id` is the word of the API
"""What the converter holds in memory of one migration that is under way."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Protocol

from p2v.model.plan import Plan
from p2v.service.lease import Lease
from p2v.service.receiver import Receiver


class Receivers(Protocol):
    """What makes and opens receivers; the class `Receiver` is one."""

    def create(self, folder: Path, plan: Plan) -> Receiver:
        """Make empty images and maps in `folder`."""

    def resume(self, folder: Path, plan: Plan) -> Receiver:
        """Open what an earlier receiver left in `folder`."""


class Entry:
    """A migration's lease, and its receiver while that is needed."""

    def __init__(self, id: str, folder: Path, plan: Plan, receivers: Receivers) -> None:
        self.lease = Lease(id)
        self.work = threading.Lock()
        """Held while a step, or the clearing up after a cancellation, uses the files."""
        self.reading = threading.RLock()
        """Held for short reads; nobody closes the receiver meanwhile."""
        self.cancelled = threading.Event()
        self.verified = (0, 0)
        """How many bytes of how many were read back."""
        self._folder = folder
        self._plan = plan
        self._receivers = receivers
        self._receiver: Receiver | None = None
        self._past: dict[str, int] = {}

    def open(self) -> Receiver:
        """Return the receiver; resume it from its folder if it isn't open."""
        with self.reading:
            if self._receiver is None:
                self._receiver = self._receivers.resume(self._folder, self._plan)
            return self._receiver

    def renew(self) -> None:
        """Close a receiver that failed, so that the next use opens it anew; nobody may be sending.

        What it held since its last checkpoint is lost to it, and will be sent again.
        """
        with self.reading:
            if self._receiver is not None and self._receiver.failed:
                self.close()

    def close(self) -> None:
        """Close the receiver if it is open; nobody may be sending."""
        with self.reading:
            if self._receiver is None:
                return
            self._past = self.counters()
            self._receiver.close()
            self._receiver = None

    def suspend(self) -> None:
        """Make durable what was received, and close."""
        with self.reading:
            try:
                if self._receiver is not None:
                    self._receiver.checkpoint()
            finally:
                self.close()

    def counters(self) -> dict[str, int]:
        """Return the receiver's counters since this process began."""
        with self.reading:
            now: dict[str, Any] = {} if self._receiver is None else self._receiver.as_dict()
            return {key: self._past.get(key, 0) + now.get(key, 0) for key in self._past | now}
