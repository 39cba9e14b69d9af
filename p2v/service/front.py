# SPDX-License-Identifier: GPL-3.0-or-later
"""The one port: TLS connections, sorted by ALPN into data sessions and HTTP.

`p2v/1` is a data session in its connection's thread; anything else is carried to the HTTP server
behind a private socket. Every stage is bounded on its own, so that strangers who fill one (open
connections that never finish a handshake, idle HTTP clients) don't keep agents out for long.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from p2v.model.errors import ListenError
from p2v.service import session, unixsocket
from p2v.service.certificate import ALPN_DATA
from p2v.service.migrations import Migrations
from p2v.service.relay import relay

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
"""For the whole handshake, however slowly its bytes drip in."""
MAX_HANDSHAKES = 64
MAX_HTTP = 128
MAX_SESSIONS = 512
BACKLOG = 128
_POLL_S = 0.5


def _cut(sock: ssl.SSLSocket) -> None:
    """End a connection that another thread uses: its next read sees the end.

    Not SSLSocket.shutdown, which drops the TLS state under the other thread's feet.
    """
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Front:
    """Listens and serves. `http` is the path of the HTTP server's socket."""

    def __init__(
        self, host: str, port: int, context: ssl.SSLContext, migrations: Migrations, http: Path
    ) -> None:
        """Bind; connections are taken from `start` on.

        Raises:
            ListenError: the address can't be had.
        """
        self._context = context
        self._migrations = migrations
        self._http = http
        self._listeners = _listen(host, port)
        self._stop = threading.Event()
        self._handshakes = threading.BoundedSemaphore(MAX_HANDSHAKES)
        self._requests = threading.BoundedSemaphore(MAX_HTTP)
        self._sessions = threading.BoundedSemaphore(MAX_SESSIONS)
        self._open: set[ssl.SSLSocket] = set()
        self._lock = threading.Lock()
        self._acceptor = threading.Thread(target=self._accept, name="front", daemon=True)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listeners[0].getsockname()[1])

    @property
    def alive(self) -> bool:
        """Whether connections are taken."""
        return self._acceptor.is_alive()

    def start(self) -> None:
        """Take connections."""
        self._acceptor.start()

    def stop(self) -> None:
        """Take no more connections and end all there are."""
        self._stop.set()
        if self._acceptor.ident is not None:
            self._acceptor.join()
        for listener in self._listeners:
            listener.close()
        with self._lock:
            ends = list(self._open)
        for sock in ends:
            _cut(sock)

    def _accept(self) -> None:
        while not self._stop.is_set():
            ready, _, _ = select.select(self._listeners, [], [], _POLL_S)
            for listener in ready:
                if not self._handshakes.acquire(timeout=_POLL_S):
                    break  # what waits in the backlog is not lost
                try:
                    plain, address = listener.accept()
                except OSError as error:
                    self._handshakes.release()
                    log.debug("accept: %s", error)
                    self._stop.wait(0.05)  # out of descriptors: let others end first
                    continue
                name = f"client-{address[0]}:{address[1]}"
                threading.Thread(
                    target=self._serve, args=(plain, name), name=name, daemon=True
                ).start()

    def _serve(self, plain: socket.socket, name: str) -> None:
        try:
            sock = self._shake_hands(plain)
        except OSError as error:
            log.info("%s: no TLS: %s", name, error)
            plain.close()
            return
        finally:
            self._handshakes.release()
        data = sock.selected_alpn_protocol() == ALPN_DATA
        bound = self._sessions if data else self._requests
        work = self._session if data else self._request
        with self._registered(sock):
            self._bounded(bound, work, sock, name)

    def _bounded(
        self,
        bound: threading.BoundedSemaphore,
        work: Callable[[ssl.SSLSocket], None],
        sock: ssl.SSLSocket,
        name: str,
    ) -> None:
        if not bound.acquire(blocking=False):
            log.warning("%s: too many connections of its kind; closed", name)
            return
        try:
            work(sock)
        except OSError as error:
            log.info("%s: %s", name, error)
        except Exception:
            log.exception("%s: the connection's thread failed", name)
        finally:
            bound.release()

    def _shake_hands(self, plain: socket.socket) -> ssl.SSLSocket:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        plain.settimeout(HANDSHAKE_S)
        return self._context.wrap_socket(plain, server_side=True)

    def _session(self, sock: ssl.SSLSocket) -> None:
        session.serve(sock, self._migrations, self._stop)

    def _request(self, sock: ssl.SSLSocket) -> None:
        with unixsocket.connect(self._http) as server:
            relay(sock, server)

    @contextmanager
    def _registered(self, sock: ssl.SSLSocket) -> Iterator[None]:
        with self._lock:
            self._open.add(sock)
        try:
            yield
        finally:
            with self._lock:
                self._open.remove(sock)
            sock.close()


def _listen(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets for all addresses of `host`.

    Raises:
        ListenError: there is none, or one can't be had.
    """
    listeners: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            listener = socket.socket(family, socket.SOCK_STREAM)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                both = host == "::"
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
            listener.bind(address)
            listener.listen(BACKLOG)
            listener.setblocking(False)
    except OSError as error:
        for listener in listeners:
            listener.close()
        reason = error.strerror or str(error)
        raise ListenError(address=f"{host}:{port}", problem=reason) from error
    return listeners
