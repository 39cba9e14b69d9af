# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames of one sender, applied in order: pauses while the store is full, knows what is durable."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

from p2v.model.errors import NoRoomError, P2VError, StoreError
from p2v.service.receiver import Receiver
from p2v.wire.codec import Buffer, Decoder
from p2v.wire.frame import Frame, Kind

log = logging.getLogger(__name__)

ROOM_POLL_S = 1.0
"""How often a paused sender looks whether there is room again."""


class Pausable(Protocol):
    """Where it is noted that a migration waits (p2v.service.migrations.Migrations is one)."""

    def paused(self, id: str, problem: P2VError | str) -> None:  # noqa: A002
        """Say that a migration can't go on for now, and why."""

    def resumed(self, id: str) -> None:  # noqa: A002
        """Say that it goes on."""


class Stop(Protocol):
    """What tells that nothing more is wanted; an Event is one."""

    def wait(self, timeout: float) -> bool:
        """Wait so many seconds at most; return whether it is so."""


class Applier:
    """Applies the frames of one connection to a receiver. Used by one thread."""

    def __init__(self, registry: Pausable, migration: str, receiver: Receiver, stop: Stop) -> None:
        self._registry = registry
        self._migration = migration
        self._receiver = receiver
        self._stop = stop
        self._decoder = Decoder()
        self._marks: dict[int, int] = {}
        """By epoch of the receiver, the last frame applied in it that is not durable yet."""

    def apply(self, frame: Frame, payload: Buffer) -> None:
        """Apply a frame; while the store is full, pause the migration and try again.

        Raises:
            ProtocolError: the frame is damaged.
            NoRoomError: nobody wanted it any more while the store was full.
            ImageError: the store fails.
        """
        if frame.kind is Kind.FLUSH:
            self._marks[self._receiver.epoch] = frame.sequence
            self._retry(self._receiver.checkpoint)
            return
        self._retry(partial(self._receiver.apply, frame, payload, self._decoder))
        self._marks[self._receiver.epoch] = frame.sequence
        self._retry(self._receiver.checkpoint_if_due)

    def durable(self) -> int | None:
        """Return up to which frame all has become durable since the last call, None if none."""
        done = [epoch for epoch in self._marks if epoch < self._receiver.durable]
        return max(self._marks.pop(epoch) for epoch in done) if done else None

    def _retry(self, action: Callable[[], None]) -> None:
        waited = noted = False
        while True:
            try:
                action()
            except NoRoomError as error:
                if not waited:
                    log.warning("migration %s paused: %s", self._migration, error)
                waited = True
                if not noted:
                    noted = self._noted(partial(self._registry.paused, self._migration, error))
                if self._stop.wait(ROOM_POLL_S):
                    raise
            else:
                if waited:
                    self._noted(partial(self._registry.resumed, self._migration))
                return

    def _noted(self, note: Callable[[], None]) -> bool:
        """Let the state be noted; a database on the same full disk may be unable to."""
        try:
            note()
        except StoreError as error:
            log.warning("migration %s: its state is not up to date: %s", self._migration, error)
            return False
        return True
