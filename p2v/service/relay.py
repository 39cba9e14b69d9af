# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries bytes between a TLS connection and the HTTP server's socket, both ways, in one thread.

One thread, because a TLS connection must not be read and written at the same time by two.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl

from p2v.model.units import KiB

BUFFER = 64 * KiB
IDLE_S = 75.0
"""A connection on which nothing moves for so long is closed; the HTTP server's own limit for idle
connections is shorter, so this only ends those that never finish a request."""
GOODBYE_S = 1.0


def relay(client: ssl.SSLSocket, server: socket.socket) -> None:
    """Carry bytes until the server is done, both are silent, or the client is gone.

    A client's end is passed on, so that the server lets go of the connection at once: whoever
    closes his sending half before he has his answer does not get it. Closes neither socket.
    """
    client.setblocking(False)
    server.setblocking(False)
    with contextlib.suppress(OSError, ValueError):
        _Relay(client, server).run()


class _Relay:
    def __init__(self, client: ssl.SSLSocket, server: socket.socket) -> None:
        self._client = client
        self._server = server
        self._to_server = bytearray()
        self._to_client = bytearray()
        self._client_ended = False
        self._server_ended = False
        self._end_passed_on = False
        self._wants_write = False
        """TLS has something of its own to send before it can go on."""

    def run(self) -> None:
        while not (self._server_ended and not self._to_client):
            self._wait()
            self._wants_write = False
            self._receive_from_client()
            self._send_to_server()
            self._receive_from_server()
            self._send_to_client()
        self._say_goodbye()

    def _wait(self) -> None:
        """Wait until something can move.

        Raises:
            TimeoutError: nothing could for `IDLE_S`.
        """
        room = not self._client_ended and len(self._to_server) < BUFFER
        if room and self._client.pending():
            return
        reading: list[socket.socket] = [self._client] if room else []
        writing: list[socket.socket] = []
        if not self._server_ended and len(self._to_client) < BUFFER:
            reading.append(self._server)
        if self._to_server:
            writing.append(self._server)
        if self._to_client or self._wants_write:
            writing.append(self._client)
        if not any(select.select(reading, writing, [], IDLE_S)):
            raise TimeoutError

    def _receive_from_client(self) -> None:
        if self._client_ended or len(self._to_server) >= BUFFER:
            return
        try:
            data = self._client.recv(BUFFER)
        except ssl.SSLWantReadError:
            return
        except ssl.SSLWantWriteError:
            self._wants_write = True
            return
        self._to_server += data
        self._client_ended = not data

    def _send_to_server(self) -> None:
        if self._to_server:
            with contextlib.suppress(BlockingIOError):
                del self._to_server[: self._server.send(self._to_server)]
        if self._client_ended and not self._to_server and not self._end_passed_on:
            self._server.shutdown(socket.SHUT_WR)
            self._end_passed_on = True

    def _receive_from_server(self) -> None:
        if self._server_ended or len(self._to_client) >= BUFFER:
            return
        with contextlib.suppress(BlockingIOError):
            data = self._server.recv(BUFFER)
            self._to_client += data
            self._server_ended = not data

    def _send_to_client(self) -> None:
        if self._to_client:
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                del self._to_client[: self._client.send(self._to_client)]

    def _say_goodbye(self) -> None:
        """Send the close alert, so that the client can tell the end from a cut."""
        self._client.settimeout(GOODBYE_S)
        with contextlib.suppress(OSError, ValueError):
            self._client.unwrap()
