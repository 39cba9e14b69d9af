# SPDX-License-Identifier: GPL-3.0-or-later
"""A client that was written after docs/wire.md alone, and what the converter says to bad frames.

Nothing of p2v.wire is used here: what both ends get wrong together would not be seen.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import urllib3
import zstandard
from blake3 import blake3

from p2v.model.plan import ImageFormat, Plan, PlannedDisk
from p2v.model.planfile import to_json
from tests.e2e import images
from tests.e2e.running import Agent, Converter, wait_for

pytestmark = pytest.mark.timeout(120)

CHUNK = 262144
SIZE = 3 * CHUNK + 512
DATA, ZERO, PAGES, FLUSH = 1, 2, 3, 4
NONE, ZSTD, LZF = 0, 1, 2
DURABLE, ERROR = 1, 2
BLOCK = os.urandom(CHUNK)


def crc32c(data: bytes) -> int:
    """RFC 3720, appendix B.4, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def frame(body=b"", *, good_crc=True, reserved=(0, 0, 0), **facts) -> bytes:
    """Return a frame: by default, the first chunk as it is."""
    given = {
        "magic": b"P2VF",
        "version": 1,
        "kind": DATA,
        "codec": NONE,
        "disk": 0,
        "payload": len(body),
        "offset": 0,
        "length": len(body),
        "sequence": 1,
        "digest": blake3(body).digest(),
    } | facts
    head = struct.pack(
        "<4sBBBBHHIQQQ32sI",
        given["magic"],
        given["version"],
        given["kind"],
        given["codec"],
        reserved[0],
        given["disk"],
        reserved[1],
        given["payload"],
        given["offset"],
        given["length"],
        given["sequence"],
        given["digest"],
        reserved[2],
    )
    return head + struct.pack("<I", crc32c(head) ^ (not good_crc)) + body


def flush(sequence: int) -> bytes:
    return frame(kind=FLUSH, sequence=sequence, digest=bytes(32))


class Client:
    """Speaks the control API and the wire to one migration."""

    def __init__(self, converter: Converter, token: str) -> None:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self.converter = converter
        self.token = token
        disk = PlannedDisk(name="sda", path="/dev/sda", size=SIZE)
        plan = Plan(name="raw-client", disks=(disk,), format=ImageFormat.RAW)
        self.id = self.call("POST", "/migrations", {"plan": to_json(plan)})["id"]
        self.lease = self.call("POST", f"/migrations/{self.id}/lease", {"agent": "raw"})["lease"]

    def call(self, method: str, path: str, body: dict | None = None) -> dict:
        answer = requests.request(
            method,
            f"{self.converter.address}/api/v1{path}",
            json=body,
            headers={"Authorization": f"Bearer {self.token}"},
            verify=False,
            timeout=20,
        )
        assert answer.ok, answer.text
        return answer.json() if answer.content else {}

    def dial(self) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["p2v/1"])
        plain = socket.create_connection(("127.0.0.1", self.converter.port), timeout=20)
        return context.wrap_socket(plain)

    def hello(self, stream: ssl.SSLSocket, **facts) -> dict:
        given = {"token": self.token, "migration": self.id, "lease": self.lease} | facts
        body = json.dumps({"versions": [1], "agent": "raw client"} | given).encode()
        stream.sendall(struct.pack("<I", len(body)) + body)
        (length,) = struct.unpack("<I", exactly(stream, 4))
        return json.loads(exactly(stream, length))

    def opened(self) -> ssl.SSLSocket:
        stream = self.dial()
        welcome = self.hello(stream)
        assert welcome == {"version": 1, "chunk_size": CHUNK, "sizes": [SIZE]}
        return stream

    def refusal(self, *frames: bytes) -> dict:
        """Send frames, the last of which is bad; return the error, after which all is closed."""
        with self.opened() as stream:
            stream.sendall(b"".join(frames))
            kind, text = DURABLE, b""
            while kind == DURABLE:
                kind, _, text = message(stream)
            assert kind == ERROR
            assert_closed(stream)
        return json.loads(text)

    def missing(self) -> int:
        """Return of how many chunks the converter knows nothing."""
        answer = requests.get(
            f"{self.converter.address}/api/v1/migrations/{self.id}/disks/0/digests/0",
            headers={"Authorization": f"Bearer {self.token}"},
            verify=False,
            timeout=20,
        )
        if answer.content[0] == 0:
            return 4
        return [answer.content[1 + 32 * i :][:32] for i in range(4)].count(bytes(32))


def exactly(stream: ssl.SSLSocket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        assert more, "the connection ended too soon"
        data += more
    return data


def message(stream: ssl.SSLSocket) -> tuple[int, int, bytes]:
    head = exactly(stream, 24)
    magic, version, kind, reserved, sequence, length, crc = struct.unpack("<4sBBHQII", head)
    assert (magic, version, reserved, crc) == (b"P2VA", 1, 0, crc32c(head[:20]))
    return kind, sequence, exactly(stream, length)


def assert_closed(stream: ssl.SSLSocket) -> None:
    """The converter ends the connection, once it can be sure that its last words were read."""
    socket.socket.shutdown(stream, socket.SHUT_WR)
    assert stream.recv(1) == b""


@pytest.fixture
def client(shared_converter: Converter, shared_agent: Agent) -> Iterator[Client]:
    made = Client(shared_converter, shared_agent.env["P2V_TOKEN"])
    yield made
    left = shared_converter.show(made.id)
    assert left["state"] in ("receiving", "finished")
    if left["state"] == "receiving":
        shared_converter.p2v("migrations", "cancel", made.id)
    assert not list(shared_converter.data.rglob("*.partial"))


BAD = {
    "checksum": frame(BLOCK, good_crc=False),
    "magic": frame(BLOCK, magic=b"P2VX"),
    "version": frame(BLOCK, version=2),
    "reserved byte": frame(BLOCK, reserved=(1, 0, 0)),
    "reserved word": frame(BLOCK, reserved=(0, 1, 0)),
    "reserved end": frame(BLOCK, reserved=(0, 0, 1)),
    "kind": frame(BLOCK, kind=9),
    "codec": frame(BLOCK, codec=7),
    "disk": frame(BLOCK, disk=1),
    "off the grid": frame(BLOCK, offset=512),
    "behind the end": frame(BLOCK, offset=4 * CHUNK),
    "far behind the end": frame(BLOCK, offset=(1 << 64) - CHUNK),
    "half a chunk": frame(BLOCK[: CHUNK // 2]),
    "two chunks": frame(BLOCK, length=2 * CHUNK),
    "no payload": frame(b"", length=CHUNK),
    "payload without an end": frame(b"", length=CHUNK, payload=0xFFFFFFFF, codec=ZSTD),
    "zeros with a payload": frame(BLOCK, kind=ZERO),
    "zeros off the grid": frame(kind=ZERO, length=CHUNK // 2),
    "zeros beyond the end": frame(kind=ZERO, length=1 << 60),
    "flush with a range": frame(kind=FLUSH, length=CHUNK),
    "digest": frame(BLOCK, digest=bytes(32)),
    "data": frame(BLOCK[:-1] + bytes([BLOCK[-1] ^ 1]), digest=blake3(BLOCK).digest()),
    "garbage as zstd": frame(b"\x00" * 999, codec=ZSTD, length=CHUNK),
    "garbage as lzf": frame(b"\xff" * 999, codec=LZF, length=CHUNK),
    "zstd bomb": frame(zstandard.compress(bytes(64 * CHUNK)), codec=ZSTD, length=CHUNK),
    "zstd too short": frame(zstandard.compress(bytes(CHUNK - 1)), codec=ZSTD, length=CHUNK),
    "pages that leave the chunk": frame(
        struct.pack("<IHHH", 6 + 4096, 1, 64, 1) + bytes(4096), kind=PAGES, length=CHUNK
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_frame_is_refused_and_changes_nothing(client, what):
    before = frame(BLOCK, offset=CHUNK)
    error = client.refusal(before, flush(2), BAD[what])
    assert error["type"] == "protocol"
    assert error["detail"].startswith("Bad data on the wire: ")
    assert "sent again" in error["hint"]
    wait_for(lambda: client.missing() == 3)


def test_an_unknown_version_of_a_frame_is_named(client):
    error = client.refusal(frame(BLOCK, version=7))
    assert "version 7" in error["detail"]
    assert "same version" in error["hint"]


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"versions": [2, 3]}, "protocol"),
        ({"versions": "1"}, "protocol"),
        ({"token": "p2v_wrong"}, "not-authorised"),
        ({"migration": "no-such-00000000"}, "no-such-migration"),
        ({"migration": "../../etc/passwd"}, "no-such-migration"),
        ({"lease": "another"}, "migration-busy"),
    ],
    ids=str,
)
def test_a_bad_hello_is_refused_with_the_reason(client, facts, code):
    with client.dial() as stream:
        answer = client.hello(stream, **facts)
        assert answer["error"]["type"] == code, answer
        assert answer["error"]["detail"]
        assert_closed(stream)


@pytest.mark.parametrize(
    "opening",
    [b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\xff", struct.pack("<I", 3) + b"{}{", b"\0" * 4],
    ids=["http", "endless", "no json", "empty"],
)
def test_an_opening_that_is_no_hello_is_refused(client, opening):
    with client.dial() as stream:
        stream.sendall(opening)
        (length,) = struct.unpack("<I", exactly(stream, 4))
        assert json.loads(exactly(stream, length))["error"]["type"] == "protocol"


@pytest.mark.parametrize("cut", [1, 79, 80, 81, 80 + CHUNK - 1])
def test_a_frame_that_is_cut_off_changes_nothing(client, cut):
    with client.opened() as stream:
        stream.sendall(frame(BLOCK, offset=CHUNK) + flush(2) + frame(BLOCK, sequence=3)[:cut])
        assert message(stream)[:2] == (DURABLE, 2)
        assert client.missing() == 3
    wait_for(lambda: client.missing() == 3)
    with client.opened() as stream:
        stream.sendall(frame(BLOCK) + flush(2))
        assert message(stream)[:2] == (DURABLE, 2)
    assert client.missing() == 2


def test_completing_too_early_is_refused_and_the_page_is_enough_for_a_whole_migration(
    client, shared_converter
):
    tail = os.urandom(512)
    changed = bytes(4096) + BLOCK[4096:]
    with client.opened() as stream:
        stream.sendall(
            frame(BLOCK, offset=CHUNK)
            + frame(
                zstandard.compress(changed),
                codec=ZSTD,
                length=CHUNK,
                sequence=2,
                digest=blake3(changed).digest(),
            )
            + frame(tail, offset=3 * CHUNK, sequence=3)
            + flush(4)
        )
        assert message(stream)[:2] == (DURABLE, 4)
    done = {"lease": client.lease, "report": {}}
    with pytest.raises(AssertionError, match="1 chunks have not arrived"):
        client.call("POST", f"/migrations/{client.id}/complete", done)
    run = struct.pack("<HHH", 1, 1, 1) + tail * 8
    patched = BLOCK[:4096] + tail * 8 + BLOCK[8192:]
    with client.opened() as stream:
        stream.sendall(
            frame(kind=ZERO, offset=2 * CHUNK, length=CHUNK, digest=bytes(32))
            + frame(
                struct.pack("<I", len(run)) + run,
                kind=PAGES,
                offset=CHUNK,
                length=CHUNK,
                sequence=2,
                digest=blake3(patched).digest(),
            )
            + flush(3)
        )
        assert message(stream)[:2] == (DURABLE, 3)
    client.call("POST", f"/migrations/{client.id}/complete", done)
    wait_for(lambda: shared_converter.show(client.id)["state"] == "finished")
    image = Path(shared_converter.show(client.id)["images"][0])
    images.check(image, 512)
    assert image.read_bytes() == changed + patched + bytes(CHUNK) + tail
    image.unlink()
