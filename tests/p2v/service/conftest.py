# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry on real receivers, a real converter on a real port, and who talks to them."""

from __future__ import annotations

import http.client
import json
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from p2v.model.errors import UnreachableError
from p2v.model.plan import ImageFormat, Plan, PlannedDisk
from p2v.model.planfile import to_json
from p2v.service.adminclient import AdminClient
from p2v.service.converter import Converter, Settings
from p2v.service.engine import InlineEngine
from p2v.service.migrations import Migrations
from p2v.service.store import Store, default_url
from p2v.wire.chunk import CHUNK_SIZE, digest
from p2v.wire.codec import Decoder
from p2v.wire.frame import ACK_SIZE, ALPN, Frame, Kind
from p2v.wire.hello import Hello, read_welcome, receive_exact, receive_message, send_message

SIZE = 3 * CHUNK_SIZE


def make_plan(name="web01", disks=("sda",), size=SIZE, image=ImageFormat.RAW) -> Plan:
    return Plan(
        name=name,
        format=image,
        disks=tuple(PlannedDisk(name=disk, path=f"/dev/{disk}", size=size) for disk in disks),
    )


def send_all(receiver, seed=b"\x5a") -> bytes:
    """Send a whole disk of data through a receiver; return what it must read as."""
    disk = b""
    for offset in range(0, receiver.sizes[0], CHUNK_SIZE):
        length = min(CHUNK_SIZE, receiver.sizes[0] - offset)
        chunk = (seed + offset.to_bytes(8, "little")).ljust(length, seed)[:length]
        frame = Frame(Kind.DATA, 0, offset, length, payload=length, digest=digest(chunk))
        receiver.apply(frame, chunk, Decoder())
        disk += chunk
    receiver.checkpoint()
    return disk


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def insecure_context(*alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class Client:
    """Talks to the API over TLS, one connection a request."""

    def __init__(self, port: int, token: str = "") -> None:
        self.port = port
        self.token = token
        self.fingerprint = b""

    def call(self, method, path, body=None, headers=None, raw=None) -> Answer:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=insecure_context(), timeout=20
        )
        try:
            sent = dict(headers or {})
            if self.token:
                sent["Authorization"] = f"Bearer {self.token}"
            content = raw if body is None else json.dumps(body)
            if body is not None:
                sent["Content-Type"] = "application/json"
            connection.request(method, f"/api/v1{path}", content, sent)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()


class Running:
    """The converter of the tests, and ways to reach it."""

    def __init__(self, converter: Converter, data) -> None:
        self.converter = converter
        self.data = data
        self.admin = AdminClient(data)
        self.token = self.admin.call("POST", "/admin/tokens", {"name": "tests"})["token"]

    @property
    def port(self) -> int:
        return self.converter.port

    def client(self, token=None) -> Client:
        return Client(self.port, self.token if token is None else token)

    def connect(self, *alpn: str) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        return insecure_context(*alpn).wrap_socket(plain)

    def create(self, **changes) -> str:
        answer = self.client().call("POST", "/migrations", {"plan": to_json(make_plan(**changes))})
        assert answer.status == 201, answer.body
        return answer.json["id"]


@pytest.fixture(name="make_plan")
def _make_plan():
    return make_plan


@pytest.fixture(name="send_all")
def _send_all():
    return send_all


@pytest.fixture
def store(tmp_path):
    store = Store(default_url(tmp_path))
    yield store
    store.close()


@pytest.fixture
def migrations(tmp_path, store):
    migrations = Migrations(tmp_path, store, InlineEngine())
    yield migrations
    migrations.close()


@pytest.fixture(scope="session")
def running(tmp_path_factory):
    # A deep folder: its sockets' names are longer than sockaddr_un.
    data = tmp_path_factory.mktemp("converter") / ("d" * 60) / ("e" * 60)
    converter = Converter(Settings(data, "127.0.0.1", 0))
    yield Running(converter, data)
    converter.close()


MAIN = "import sys\nfrom p2v.cli.main import main\nsys.exit(main(sys.argv[1:]))\n"


class Serve:
    """A `p2v serve` of its own process."""

    def __init__(self, data: Path, *options: str) -> None:
        self.data = data
        self.options = options
        self.process: subprocess.Popen | None = None

    def start(self, prelude: str = "") -> Serve:
        command = [sys.executable, "-c", prelude + MAIN, "serve", "--data", str(self.data)]
        command += ["--listen", "127.0.0.1:0", "--json", *self.options]
        with (self.data.parent / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        document = ""
        while line := self.process.stdout.readline():
            document += line
            if line == "}\n":
                self.facts = json.loads(document)
                return self
        raise AssertionError(f"serve ended: {(self.data.parent / 'log').read_text()}")

    def kill(self, number: int = signal.SIGKILL) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def again(self) -> Serve:
        """Start it anew after it died."""
        self.process.stdout.close()
        return self.start()

    def complete(self, name, lease):
        """Say that all was sent; it may die before it answers."""
        body = {"lease": lease, "report": {"n": 1}}
        with suppress(UnreachableError):
            self.call("POST", f"/migrations/{name}/complete", body)

    def finishes_whole(self, name, disk, seconds=60):
        """Wait until a migration is finished, and hold its image against the disk."""
        deadline = time.monotonic() + seconds
        while (found := self.call("GET", f"/migrations/{name}"))["state"] != "finished":
            assert found["state"] in ("verifying", "committing"), found
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        image = Path(found["images"][0])
        assert image.read_bytes() == disk
        assert not list(image.parent.glob("*.partial"))
        report = json.loads((image.parent / "report.json").read_text())
        assert report["state"] == "finished" and report["report"] == {"n": 1}
        return [each["kind"] for each in self.call("GET", f"/migrations/{name}/events")]

    def call(self, method: str, path: str, body=None):
        return AdminClient(self.data).call(method, path, body)


@pytest.fixture
def serve(tmp_path):
    made = []

    def make(*options, folder="data"):
        made.append(Serve(tmp_path / folder, *options))
        return made[-1]

    yield make
    for each in made:
        if each.process is not None and each.process.poll() is None:
            each.kill()
        if each.process is not None:
            each.process.stdout.close()


@pytest.fixture
def send():
    """Give a converter a migration and all its data; return id, lease and the disk."""

    def run(serve, chunks=8):
        context = insecure_context(ALPN)
        plan = to_json(make_plan(size=chunks * CHUNK_SIZE))
        name = serve.call("POST", "/migrations", {"plan": plan})["id"]
        lease = serve.call("POST", f"/migrations/{name}/lease", {"agent": "tests"})["lease"]
        token = serve.call("POST", "/admin/tokens", {})["token"]
        disk = random.Random(1).randbytes(chunks * CHUNK_SIZE)
        plain = socket.create_connection(("127.0.0.1", serve.facts["port"]))
        with context.wrap_socket(plain) as sock:
            send_message(sock, Hello([1], token, name, lease))
            read_welcome(receive_message(sock))
            for offset in range(0, len(disk), CHUNK_SIZE):
                chunk = disk[offset : offset + CHUNK_SIZE]
                frame = Frame(Kind.DATA, 0, offset, len(chunk), 1, payload=len(chunk))
                sock.sendall(replace(frame, digest=digest(chunk)).pack() + chunk)
            sock.sendall(Frame(Kind.FLUSH, sequence=2).pack())
            assert receive_exact(sock, bytearray(ACK_SIZE))
        return name, lease, disk

    return run
