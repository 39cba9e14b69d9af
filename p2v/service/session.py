# SPDX-License-Identifier: GPL-3.0-or-later
"""A data session: the converter's end of one data connection, from hello to close.

It runs in its connection's thread and does everything there: receive, decompress, verify, write,
acknowledge. So the memory of a session is two chunks, and what the disk can't take the TCP window
holds back. One thread also keeps to TLS's rule that a connection is not read and written at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from p2v.model.errors import NoRoomError, P2VError, ProtocolError
from p2v.service.receiver import Receiver
from p2v.wire.chunk import CHUNK_SIZE
from p2v.wire.codec import Decoder
from p2v.wire.frame import HEADER_SIZE, MAX_PAGES_HEAD, Ack, AckKind, Frame, Kind, parse_frame
from p2v.wire.hello import (
    Stream,
    Welcome,
    choose_version,
    read_hello,
    receive_exact,
    receive_message,
    send_message,
)

log = logging.getLogger(__name__)

ROOM_POLL_S = 1.0
"""How often a paused session looks whether there is room again."""
IDLE_TIMEOUT_S = 120.0
"""A connection that sends nothing for so long is given up; the agent opens another."""


class Registry(Protocol):
    """What a session needs of the converter's migrations."""

    def authorise(self, token: str) -> object:
        """Return who holds `token`, or raise AuthError."""

    def join(self, id: str, lease: str) -> Receiver:  # noqa: A002
        """Return the receiver of a migration to the holder of its lease."""

    def leave(self, id: str, lease: str) -> None:  # noqa: A002
        """Say that a connection of the lease has ended."""

    def paused(self, id: str, problem: str) -> None:  # noqa: A002
        """Say that a migration can't go on for now, and why."""

    def resumed(self, id: str) -> None:  # noqa: A002
        """Say that it goes on."""


def serve(stream: ssl.SSLSocket, registry: Registry, stop: threading.Event | None = None) -> None:
    """Run a data session until the agent closes the connection or breaks the protocol.

    The caller closes the socket. A failure of the session is told to the agent and ends here.
    """
    stream.settimeout(IDLE_TIMEOUT_S)
    try:
        hello = read_hello(receive_message(stream))
        version = choose_version(hello.versions)
        registry.authorise(hello.token)
        receiver = registry.join(hello.migration, hello.lease)
    except P2VError as error:
        log.info("data session refused: %s", error)
        _refuse(stream, error)
        return
    except OSError as error:
        log.info("data session ended before its hello: %s", error)
        return
    try:
        send_message(stream, Welcome(version, CHUNK_SIZE, list(receiver.sizes)))
        _Session(stream, registry, hello.migration, receiver, stop or threading.Event()).run()
    except P2VError as error:
        log.warning("migration %s: data session ends: %s", hello.migration, error)
        _tell(stream, error)
    except OSError as error:
        log.info("migration %s: connection lost: %s", hello.migration, error)
    finally:
        registry.leave(hello.migration, hello.lease)


class _Session:
    """The loop of a session that was let in."""

    def __init__(
        self,
        stream: Stream,
        registry: Registry,
        migration: str,
        receiver: Receiver,
        stop: threading.Event,
    ) -> None:
        self._stream = stream
        self._registry = registry
        self._migration = migration
        self._receiver = receiver
        self._stop = stop
        self._decoder = Decoder()
        self._header = bytearray(HEADER_SIZE)
        self._payload = bytearray(CHUNK_SIZE + MAX_PAGES_HEAD)
        self._applied = 0

    def run(self) -> None:
        while not self._stop.is_set() and receive_exact(self._stream, self._header):
            frame = parse_frame(self._header, self._receiver.sizes)
            payload = memoryview(self._payload)[: frame.payload]
            if frame.payload and not receive_exact(self._stream, payload):
                raise ProtocolError(problem="the connection ended before a payload")
            if frame.kind is Kind.FLUSH:
                self._applied = frame.sequence
                self._retry(self._receiver.checkpoint)
                self._acknowledge()
                continue
            self._retry(partial(self._apply, frame, payload))
            if self._receiver.checkpoint_due():
                self._retry(self._receiver.checkpoint)
                self._acknowledge()

    def _apply(self, frame: Frame, payload: memoryview) -> None:
        self._receiver.apply(frame, payload, self._decoder)
        self._applied = frame.sequence

    def _acknowledge(self) -> None:
        self._stream.sendall(Ack(AckKind.DURABLE, self._applied).pack())

    def _retry(self, action: Callable[[], None]) -> None:
        """Do `action`; while the store is full, pause the migration and try again."""
        paused = False
        while True:
            try:
                action()
            except NoRoomError as error:
                if not paused:
                    log.warning("migration %s paused: %s", self._migration, error)
                    self._registry.paused(self._migration, str(error))
                    paused = True
                if self._stop.wait(ROOM_POLL_S):
                    raise
            else:
                if paused:
                    self._registry.resumed(self._migration)
                return


def _problem(error: P2VError) -> dict[str, object]:
    fields = {key: str(value) for key, value in error.fields.items()}
    return {"type": error.code, "detail": str(error), "hint": error.way_out, "fields": fields}


def _refuse(stream: ssl.SSLSocket, error: P2VError) -> None:
    with contextlib.suppress(OSError):
        send_message(stream, {"error": _problem(error)})
        _drain(stream)


def _tell(stream: ssl.SSLSocket, error: P2VError) -> None:
    """Send the reason, and read on for a moment so that a reset does not overtake it."""
    with contextlib.suppress(OSError):
        stream.sendall(Ack(AckKind.ERROR, text=json.dumps(_problem(error))).pack())
        _drain(stream)


def _drain(stream: ssl.SSLSocket, seconds: float = 2.0) -> None:
    deadline = time.monotonic() + seconds
    scrap = bytearray(64 * 1024)
    stream.settimeout(seconds)
    while time.monotonic() < deadline and stream.recv_into(scrap):
        pass
