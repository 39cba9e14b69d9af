# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may send a migration: one agent at a time.

An agent takes the lease and shows it with every data connection. The lease is held while data
connections are open, and for `GRACE_S` after the last connection or heartbeat. The same agent (by
the name it gives itself) takes it anew at once, which ends what its earlier life left behind: no
frame of an old connection reaches the image after a new connection was let in.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from p2v.model.errors import MigrationBusyError, MigrationStateError

GRACE_S = 15.0
HANG_UP_S = 10.0
"""A session ends within this time once its connection was shut down: one chunk's write."""

HangUp = Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Connection:
    """A data connection that is open: how to end it, and which of the agent's lanes it is."""

    hang_up: HangUp | None
    lane: str


class Lease:
    """The lease of one migration. Thread-safe; lives as long as the process."""

    def __init__(self, migration: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._migration = migration
        self._clock = clock
        self._changed = threading.Condition()
        self._token = ""
        self._agent = ""
        self._seen = -math.inf
        self._connections: list[_Connection] = []

    @property
    def agent(self) -> str:
        """The agent that holds it, empty if nobody does."""
        with self._changed:
            return self._agent if self._held() else ""

    @property
    def connections(self) -> int:
        """How many data connections are open."""
        return len(self._connections)

    def take(self, agent: str) -> str:
        """Give the lease to `agent` and return its token; older tokens are worth nothing from now.

        Raises:
            MigrationBusyError: another agent holds it.
        """
        with self._changed:
            if self._held() and self._agent != agent:
                raise self._busy()
            self._token = secrets.token_urlsafe(16)
            self._agent = agent
            self._seen = self._clock()
            token = self._token
        if not self.hang_up():
            with self._changed:
                raise self._busy()
        return token

    def check(self, token: str) -> None:
        """Count as a sign of life of the holder.

        Raises:
            MigrationBusyError: another agent holds the lease.
            MigrationStateError: nobody holds it, or its holder took it anew.
        """
        with self._changed:
            self._check(token)
            self._seen = self._clock()

    def join(self, token: str, hang_up: HangUp | None = None, lane: str = "") -> None:
        """Count a data connection; `hang_up` is called to end it from another thread.

        An earlier connection of the same `lane` is ended first: after this returns no frame of it
        reaches the image.

        Raises:
            MigrationBusyError, MigrationStateError: like `check`; or the earlier one does not end.
        """
        with self._changed:
            self._check(token)
            earlier = self._of(lane)
        for connection in earlier:
            if connection.hang_up is not None:
                connection.hang_up()
        with self._changed:
            if not self._changed.wait_for(lambda: not self._of(lane), HANG_UP_S):
                raise self._busy()
            self._check(token)
            self._connections.append(_Connection(hang_up, lane))

    def leave(self, hang_up: HangUp | None = None) -> None:
        """Count a data connection no more."""
        with self._changed:
            ends = [connection.hang_up for connection in self._connections]
            del self._connections[ends.index(hang_up)]
            self._seen = self._clock()
            self._changed.notify_all()

    def release(self, token: str) -> None:
        """Give the lease free at once.

        Raises:
            MigrationBusyError, MigrationStateError: like `check`.
        """
        with self._changed:
            self._check(token)
            self._token = ""
            self._seen = -math.inf
        self.hang_up()

    def wait_idle(self, seconds: float) -> bool:
        """Wait until no data connection is open; return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._connections, seconds)

    def hang_up(self) -> bool:
        """End all data connections and wait for them; return whether none is left."""
        with self._changed:
            ends = [connection.hang_up for connection in self._connections]
        for end in ends:
            if end is not None:
                end()
        return self.wait_idle(HANG_UP_S)

    def _of(self, lane: str) -> list[_Connection]:
        return [connection for connection in self._connections if lane and connection.lane == lane]

    def _held(self) -> bool:
        return bool(self._connections) or self._clock() - self._seen < GRACE_S

    def _check(self, token: str) -> None:
        if self._token and secrets.compare_digest(token.encode(), self._token.encode()):
            return
        if self._held():
            raise self._busy()
        raise MigrationStateError(
            id=self._migration, state="not leased to you", problem="take its lease again"
        )

    def _busy(self) -> MigrationBusyError:
        left = GRACE_S if self._connections else GRACE_S - (self._clock() - self._seen)
        return MigrationBusyError(
            id=self._migration,
            agent=self._agent,
            seconds=max(1, math.ceil(left)),
            connections=len(self._connections),
        )
