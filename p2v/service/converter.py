# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole converter: the parts of `p2v serve`, put together, started and stopped in order."""

from __future__ import annotations

import logging
import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from p2v.images.durable import check_writable, write_durably
from p2v.model.errors import UsageError
from p2v.service.addresses import server_url
from p2v.service.adminclient import SOCKET_NAME
from p2v.service.announce import Announcer
from p2v.service.app import make_app
from p2v.service.certificate import Certificate, ensure_certificate
from p2v.service.context import Context
from p2v.service.deploy import Deployer
from p2v.service.deployments import DeploymentStore
from p2v.service.downloads import Digests, Downloads
from p2v.service.folderlock import FolderLock
from p2v.service.front import Front
from p2v.service.hosts import Hosts
from p2v.service.hoststore import HostStore
from p2v.service.migrations import Migrations
from p2v.service.pairing import PairingDesk
from p2v.service.secretbox import SecretBox
from p2v.service.store import Store, default_url
from p2v.service.web import WebServer
from p2v.service.workflow import DurableEngine, default_workflow_url

log = logging.getLogger(__name__)


_HTTP_SOCKET = "http.sock"
_ID_FILE = "converter.id"
LOCAL = "local"
"""The converter's name in a database of its own; also that of an agent's embedded converter."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What `p2v serve` is told. An empty `database` means files in `data`.

    With `announce` the local network is told of it, unless it listens on a loopback only.
    """

    data: Path
    host: str
    port: int
    database: str = ""
    announce: bool = True


class Converter:
    """A running converter; everything that it holds is given back by `close`."""

    def __init__(self, settings: Settings) -> None:
        """Start it; when this returns, agents are served and cut-off work goes on.

        Raises:
            AlreadyServedError, ListenError, NoRoomError, StoreError, UsageError: it can't be
                started.
        """
        with ExitStack() as stack:
            data = _make_folder(settings.data)
            check_writable(data)
            stack.callback(FolderLock(data).close)
            certificate = ensure_certificate(data)
            name = _name(data) if settings.database else LOCAL
            store = Store(settings.database or default_url(data), name)
            stack.callback(store.close)
            engine = DurableEngine(settings.database or default_workflow_url(data), name)
            stack.callback(engine.close)
            self.migrations = Migrations(data, store, engine)
            stack.callback(self.migrations.close)
            self._front = Front(
                settings.host,
                settings.port,
                certificate.context(),
                self.migrations,
                data / _HTTP_SOCKET,
            )
            stack.callback(self._front.stop)
            address = server_url(settings.host, self._front.port)
            deployer = make_deployer(data, self.migrations, certificate, address)
            self.migrations.deployer = deployer
            self._context = Context(
                self.migrations,
                PairingDesk(store, certificate.digest),
                certificate,
                address,
                deployer,
            )
            self._servers = (
                WebServer(make_app(self._context), data / _HTTP_SOCKET),
                WebServer(make_app(self._context, administrator=True), data / SOCKET_NAME),
            )
            engine.launch(self.migrations)
            self.migrations.recover()
            for server in self._servers:
                server.start()
                stack.callback(server.stop)
            self._context.ready = True
            self._front.start()
            deployer.hosts.start()
            stack.callback(deployer.hosts.stop)
            if settings.announce:
                announcer = Announcer(settings.host, self._front.port)
                announcer.start()
                stack.callback(announcer.stop)
            self._parts = stack.pop_all()

    @property
    def address(self) -> str:
        """The URL at which agents reach it."""
        return self._context.address

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._front.port

    @property
    def fingerprint(self) -> str:
        """That of its certificate, as people compare it."""
        return self._context.certificate.fingerprint

    @property
    def healthy(self) -> bool:
        """Whether all its threads are at work and its database answers."""
        if not self._front.alive or not all(server.alive for server in self._servers):
            return False
        try:
            self.migrations.store.ping()
        except Exception as error:  # whatever it is, the watchdog is to know
            log.error("the database does not answer: %s", error)  # noqa: TRY400
            return False
        return True

    def close(self) -> None:
        """Take no more work, make durable what was received, and give everything back."""
        self._context.ready = False
        self._parts.close()


def make_deployer(
    data: Path, migrations: Migrations, certificate: Certificate, address: str
) -> Deployer:
    """Return what makes virtual machines of the converter's images; it keeps its key in `data`."""
    return Deployer(
        Hosts(HostStore(migrations.store, SecretBox(data))),
        DeploymentStore(migrations.store),
        Downloads(),
        Digests(),
        certificate,
        address,
        migrations.finish_again,
    )


def _make_folder(data: Path) -> Path:
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(problem=f"no data folder can be had at {data}: {error.strerror}") from None
    return data.resolve()


def _name(data: Path) -> str:
    """Return this converter's name among those that share a database; drawn once, then kept."""
    path = data / _ID_FILE
    if not path.exists():
        write_durably(path, f"{secrets.token_hex(6)}\n".encode())
    return path.read_text(encoding="ascii").strip()
