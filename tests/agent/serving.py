# SPDX-License-Identifier: GPL-3.0-or-later
"""A converter on a real port, in this process; the work at the end is done inline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agent.stream.remote import Address, Credentials
from p2v.service import auth
from p2v.service.app import make_app
from p2v.service.certificate import ensure_certificate
from p2v.service.context import Context
from p2v.service.converter import make_deployer
from p2v.service.engine import InlineEngine
from p2v.service.front import Front
from p2v.service.migrations import Migrations
from p2v.service.pairing import PairingDesk
from p2v.service.store import Store, default_url
from p2v.service.web import WebServer


class Server:
    """Started and stopped like a process; keeps its port and its data."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.port = 0
        self.context: Context
        self._parts = ExitStack()

    def start(self) -> None:
        with ExitStack() as stack:
            certificate = ensure_certificate(self.data)
            self.store = Store(default_url(self.data))
            stack.callback(self.store.close)
            migrations = Migrations(self.data, self.store, InlineEngine())
            stack.callback(migrations.close)
            socket = self.data / "http.sock"
            front = Front("127.0.0.1", self.port, certificate.context(), migrations, socket)
            stack.callback(front.stop)
            self.port = front.port
            desk = PairingDesk(self.store, certificate.digest)
            deployer = make_deployer(self.data, migrations, certificate, str(self.address))
            self.context = Context(migrations, desk, certificate, str(self.address), deployer)
            web = WebServer(make_app(self.context), socket)
            web.start()
            stack.callback(web.stop)
            self.context.ready = True
            front.start()
            self.fingerprint = certificate.digest
            self._parts = stack.pop_all()

    def stop(self) -> None:
        self.context.ready = False
        self._parts.close()

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    def credentials(self) -> Credentials:
        _, token = auth.issue_token(self.store, "tests")
        return Credentials(self.fingerprint, token)


@contextmanager
def serving(data: Path) -> Iterator[Server]:
    """Run a server for the block's duration."""
    server = Server(data)
    server.start()
    try:
        yield server
    finally:
        server.stop()
