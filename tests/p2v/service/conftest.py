# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry on real receivers, a real converter on a real port, and who talks to them."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from dataclasses import dataclass
from typing import Any

import pytest

from p2v.model.plan import ImageFormat, Plan, PlannedDisk
from p2v.model.planfile import to_json
from p2v.service.adminclient import AdminClient
from p2v.service.converter import Converter, Settings
from p2v.service.engine import InlineEngine
from p2v.service.migrations import Migrations
from p2v.service.store import Store, default_url
from p2v.wire.chunk import CHUNK_SIZE, digest
from p2v.wire.codec import Decoder
from p2v.wire.frame import Frame, Kind

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
