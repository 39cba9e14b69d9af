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
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Protocol

from p2v.model.errors import P2VError
from p2v.model.problem import problem_document
from p2v.service.applier import Applier, Pausable
from p2v.service.receiver import Receiver
from p2v.wire.chunk import CHUNK_SIZE
from p2v.wire.frame import HEADER_SIZE, MAX_PAGES_HEAD, Ack, AckKind, parse_frame
from p2v.wire.hello import (
    Welcome,
    choose_version,
    read_hello,
    receive_exact,
    receive_message,
    send_message,
)

log = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 10.0
"""Until somebody has shown a token, he holds a place for so long."""
IDLE_TIMEOUT_S = 120.0
"""A connection that sends nothing for so long is given up; the agent opens another."""


class Registry(Pausable, Protocol):
    """What a session needs of the converter's migrations."""

    def authorise(self, token: str) -> object:
        """Return who holds `token`, or raise AuthError."""

    def join(
        self,
        id: str,  # noqa: A002
        lease: str,
        hang_up: Callable[[], None] | None = None,
        lane: str = "",
    ) -> Receiver:
        """Return the receiver of a migration to the holder of its lease."""

    def leave(self, id: str, lease: str, hang_up: Callable[[], None] | None = None) -> None:  # noqa: A002
        """Say that a connection of the lease has ended."""


def serve(stream: ssl.SSLSocket, registry: Registry, stop: threading.Event | None = None) -> None:
    """Run a data session until the agent closes the connection or breaks the protocol.

    The caller closes the socket. A failure of the session is told to the agent and ends here.
    """
    stop = stop or threading.Event()

    def hang_up() -> None:
        with contextlib.suppress(OSError):  # the TLS object is not ours to touch from this thread
            socket.socket.shutdown(stream, socket.SHUT_RDWR)

    stream.settimeout(HELLO_TIMEOUT_S)
    try:
        hello = read_hello(receive_message(stream))
        version = choose_version(hello.versions)
        registry.authorise(hello.token)
        receiver = registry.join(hello.migration, hello.lease, hang_up, hello.lane)
    except P2VError as error:
        log.info("data session refused: %s", error)
        _refuse(stream, error)
        return
    except OSError as error:
        log.info("data session ended before its hello: %s", error)
        return
    try:
        stream.settimeout(IDLE_TIMEOUT_S)
        send_message(stream, Welcome(version, CHUNK_SIZE, list(receiver.sizes)))
        applier = Applier(registry, hello.migration, receiver, _Hangup(stream))
        _run(stream, receiver, applier, stop)
    except P2VError as error:
        log.warning("migration %s: data session ends: %s", hello.migration, error)
        _tell(stream, error)
    except OSError as error:  # of the connection: the receiver has other names for its own
        log.info("migration %s: connection lost: %s", hello.migration, error)
    except Exception:
        # An agent that is not told takes it for a broken connection, and tries for ever.
        log.exception("migration %s: data session failed", hello.migration)
        _tell(stream, P2VError(problem="the converter made a mistake; its log has the details"))
    finally:
        registry.leave(hello.migration, hello.lease, hang_up)


class _Hangup:
    """Tells whether the connection is over, without reading what may be left of it."""

    def __init__(self, stream: ssl.SSLSocket) -> None:
        self._poll = select.poll()
        self._poll.register(stream, select.POLLRDHUP)

    def wait(self, timeout: float) -> bool:
        """Wait so many seconds at most; return whether either side has hung up."""
        return bool(self._poll.poll(timeout * 1000))


def _run(
    stream: ssl.SSLSocket, receiver: Receiver, applier: Applier, stop: threading.Event
) -> None:
    header = bytearray(HEADER_SIZE)
    space = bytearray(CHUNK_SIZE + MAX_PAGES_HEAD)
    while not stop.is_set() and receive_exact(stream, header):
        frame = parse_frame(header, receiver.sizes)
        payload = memoryview(space)[: frame.payload]
        if frame.payload and not receive_exact(stream, payload):
            raise ConnectionAbortedError("the connection ended before a payload")
        applier.apply(frame, payload)
        if (durable := applier.durable()) is not None:
            stream.sendall(Ack(AckKind.DURABLE, durable).pack())


def _refuse(stream: ssl.SSLSocket, error: P2VError) -> None:
    with contextlib.suppress(OSError):
        send_message(stream, {"error": problem_document(error)})
        _drain(stream)


def _tell(stream: ssl.SSLSocket, error: P2VError) -> None:
    """Send the reason, and read on for a moment so that a reset does not overtake it."""
    with contextlib.suppress(OSError):
        stream.sendall(Ack(AckKind.ERROR, text=json.dumps(problem_document(error))).pack())
        _drain(stream)


def _drain(stream: ssl.SSLSocket, seconds: float = 2.0) -> None:
    deadline = time.monotonic() + seconds
    scrap = bytearray(64 * 1024)
    stream.settimeout(seconds)
    while time.monotonic() < deadline and stream.recv_into(scrap):
        pass
