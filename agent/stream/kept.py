# SPDX-License-Identifier: GPL-3.0-or-later
"""Data connections that outlast a pass, so that the next one need not open its own.

Opening one takes a TLS handshake and looks into the converter's database. Of a pass over 10 MiB of
changes, 86 ms on a quiet machine with two cores, the first 25 ms went there.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from agent.stream.converter import Connection, ConnectionLostError, Connects
from p2v.model.errors import P2VError
from p2v.wire.codec import Buffer
from p2v.wire.frame import Frame


class Kept:
    """Connects to a converter, by a connection that the same lane has closed if there is one.

    Thread-safe. Only those are kept of which all is durable that was sent. A lane counts its frames
    on from there.
    """

    def __init__(self, converter: Connects) -> None:
        self._converter = converter
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str], Connection] = {}
        self._closed = False

    def connect(self, id: str, lane: str = "") -> Connection:  # noqa: A002
        """Return the connection that `lane` had before if it still stands, else a new one."""
        key = (id, lane)
        with self._lock:
            connection = self._idle.pop(key, None)
        if connection is None or not _stands(connection):
            connection = self._converter.connect(id, lane)
        return _KeptConnection(self, key, connection)

    def keep(self, key: tuple[str, str], connection: Connection) -> None:
        """Keep a connection of the migration and lane `key` on which nothing is under way."""
        with self._lock:
            if not self._closed and key not in self._idle:
                self._idle[key] = connection
                return
        connection.close()

    def close(self) -> None:
        """Close those that nobody uses now, and the others once they are closed."""
        with self._lock:
            self._closed = True
            idle = list(self._idle.values())
            self._idle.clear()
        for connection in idle:
            connection.close()


def _stands(connection: Connection) -> bool:
    """Whether a connection can be used; close it if not."""
    try:
        connection.durable()
    except (ConnectionLostError, P2VError):
        connection.close()
        return False
    return True


class _KeptConnection:
    def __init__(self, kept: Kept, key: tuple[str, str], connection: Connection) -> None:
        self._kept = kept
        self._key = key
        self._connection = connection
        self._idle = True

    def send(self, frames: Sequence[tuple[Frame, Buffer]]) -> None:
        self._idle = False
        self._connection.send(frames)

    def durable(self) -> int:
        return self._connection.durable()

    def flush(self, sequence: int) -> None:
        self._idle = False
        self._connection.flush(sequence)
        self._idle = True

    def close(self) -> None:
        if self._idle:
            self._kept.keep(self._key, self._connection)
        else:
            self._connection.close()
