# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: A002 - `id` is the word of the API
from __future__ import annotations

import json
import logging
import socket
import struct
import threading
from contextlib import contextmanager, suppress

import pytest

from p2v.model.errors import AuthError, MigrationBusyError, NoRoomError
from p2v.model.problem import error_of
from p2v.service import applier as applier_module
from p2v.service import session
from p2v.service.certificate import ensure_certificate
from p2v.service.receiver import Receiver
from p2v.wire.chunk import CHUNK_SIZE, digest
from p2v.wire.frame import ACK_SIZE, AckKind, Frame, Kind, parse_ack
from p2v.wire.hello import Hello, read_welcome, receive_exact, receive_message, send_message

DATA = b"\xa5" * CHUNK_SIZE
HELLO = Hello([1], "token", "m", "lease")


class Registry:
    """One migration; notes who comes and goes."""

    def __init__(self, receiver) -> None:
        self.receiver = receiver
        self.error: Exception | None = None
        self.told: list[str] = []
        self.hang_up = None
        self.paused_now = threading.Event()

    def authorise(self, token) -> None:
        if token != "token":
            raise AuthError(problem="nobody has it")

    def join(self, id, lease, hang_up=None, lane=""):
        if self.error is not None:
            raise self.error
        self.told.append("join")
        self.hang_up = hang_up
        return self.receiver

    def leave(self, id, lease, hang_up=None) -> None:
        assert hang_up is self.hang_up
        self.told.append("leave")

    def paused(self, id, problem) -> None:
        self.told.append("paused")
        self.paused_now.set()

    def resumed(self, id) -> None:
        self.told.append("resumed")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return ensure_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def registry(tmp_path, make_plan):
    receiver = Receiver.create(tmp_path, make_plan(size=8 * CHUNK_SIZE))
    yield Registry(receiver)
    receiver.close()


@pytest.fixture
def dial(certificate, registry):
    """Open a session with the registry; at the end of the block it must have ended."""
    from tests.p2v.service.conftest import insecure_context

    @contextmanager
    def open_session(stop=None):
        ours, theirs = socket.socketpair()

        def run() -> None:
            with certificate.context().wrap_socket(theirs, server_side=True) as stream:
                session.serve(stream, registry, stop)

        thread = threading.Thread(target=run)
        thread.start()
        sock = insecure_context().wrap_socket(ours)
        sock.settimeout(20)
        try:
            yield sock
        finally:
            sock.close()
            thread.join(20)
            assert not thread.is_alive(), "the session goes on without its agent"

    return open_session


def frame(chunk, sequence=1, data=DATA) -> bytes:
    head = Frame(
        Kind.DATA,
        0,
        chunk * CHUNK_SIZE,
        CHUNK_SIZE,
        sequence,
        payload=CHUNK_SIZE,
        digest=digest(data),
    )
    return head.pack() + data


def answer(sock):
    """Return the next message, an error as what it is."""
    head = bytearray(ACK_SIZE)
    assert receive_exact(sock, head)
    ack, length = parse_ack(head)
    text = bytearray(length)
    if length:
        assert receive_exact(sock, text)
    return error_of(json.loads(text)) if ack.kind is AckKind.ERROR else ack


def welcome(sock, hello=HELLO):
    send_message(sock, hello)
    return read_welcome(receive_message(sock))


def test_frames_become_durable_and_are_acknowledged(dial, registry):
    with dial() as sock:
        assert welcome(sock).sizes == [8 * CHUNK_SIZE]
        sock.sendall(frame(0) + frame(1, 2) + Frame(Kind.FLUSH, sequence=3).pack())
        assert answer(sock).sequence == 3
    assert registry.told == ["join", "leave"]
    assert registry.receiver.missing(0) == 6


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (Hello([7], "token", "m", "lease"), "protocol"),
        (Hello([1], "stolen", "m", "lease"), "not-authorised"),
        ({"versions": [1]}, "protocol"),
        ({"versions": "1", "token": "token", "migration": "m", "lease": "l"}, "protocol"),
    ],
)
def test_a_hello_that_is_none_is_refused_with_the_reason(dial, registry, hello, code):
    with dial() as sock:
        send_message(sock, hello)
        assert receive_message(sock)["error"]["type"] == code
    assert registry.told == []


def test_a_busy_migration_is_refused_with_who_has_it(dial, registry):
    registry.error = MigrationBusyError(id="m", agent="web02", seconds=9)
    with dial() as sock:
        send_message(sock, HELLO)
        error = error_of(receive_message(sock)["error"])
    assert isinstance(error, MigrationBusyError) and "web02" in str(error)


def test_a_hello_of_absurd_length_is_not_waited_for(dial):
    with dial() as sock:
        sock.sendall(struct.pack("<I", 1 << 31))
        assert receive_message(sock)["error"]["type"] == "protocol"


@pytest.mark.parametrize("sent", [b"", b"\x10", struct.pack("<I", 100) + b"{"])
def test_an_agent_that_goes_before_its_hello_leaves_nothing(dial, registry, sent, caplog):
    caplog.set_level(logging.INFO)
    with dial() as sock:
        sock.sendall(sent)
    assert registry.told == []
    assert [record.levelname for record in caplog.records] == ["INFO"]


@pytest.mark.parametrize("cut", [1, 79, 80, 81, 80 + CHUNK_SIZE - 1])
def test_an_agent_that_is_killed_within_a_frame_is_a_lost_connection(dial, registry, cut, caplog):
    caplog.set_level(logging.INFO)
    with dial() as sock:
        welcome(sock)
        sock.sendall(frame(0)[:cut])
    assert registry.told == ["join", "leave"]
    assert [(r.levelname, "connection lost" in r.message) for r in caplog.records] == [
        ("INFO", True)
    ]


def test_a_wrong_digest_ends_the_session_with_the_reason(dial, registry):
    with dial() as sock:
        welcome(sock)
        sock.sendall(frame(0, data=DATA)[:80] + bytes(CHUNK_SIZE))
        assert "digest of the chunk at 0 is wrong" in str(answer(sock))
        assert sock.recv(1) == b""
    assert registry.receiver.stats.frames == 0


def test_a_failure_of_the_converters_disk_is_told_to_the_agent(dial, registry, monkeypatch):
    def broken(offset, data) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(registry.receiver._disks[0].image, "write", broken)
    with dial() as sock:
        welcome(sock)
        sock.sendall(frame(0))
        error = answer(sock)
    assert error.code == "bad-image" and "Input/output error" in str(error)


def test_a_mistake_in_the_converter_is_told_and_logged(dial, registry, monkeypatch, caplog):
    def mistaken(offset, data) -> None:
        raise IndexError("no such thing")

    monkeypatch.setattr(registry.receiver._disks[0].image, "write", mistaken)
    with dial() as sock:
        welcome(sock)
        sock.sendall(frame(0))
        assert "its log has the details" in str(answer(sock))
    assert "no such thing" in caplog.text
    assert registry.told == ["join", "leave"]


@pytest.fixture
def full(registry, monkeypatch):
    """A store without room."""

    def write(offset, data) -> None:
        raise NoRoomError(path="/srv", needed=len(data))

    monkeypatch.setattr(applier_module, "ROOM_POLL_S", 60.0)
    monkeypatch.setattr(registry.receiver._disks[0].image, "write", write)


def test_a_session_that_waits_for_room_ends_with_its_agent(dial, registry, full):
    with dial() as sock:
        welcome(sock)
        sock.sendall(frame(0) + frame(1, 2)[:1000])  # the rest is never read
        assert registry.paused_now.wait(20)
    assert registry.told == ["join", "paused", "leave"]


def test_a_session_that_waits_for_room_ends_when_it_is_hung_up(dial, registry, full):
    with dial() as sock:
        welcome(sock)
        sock.sendall(frame(0))
        assert registry.paused_now.wait(20)
        registry.hang_up()
        assert sock.recv(1) == b""
    assert registry.told == ["join", "paused", "leave"]


def test_a_session_ends_when_the_converter_stops(dial, registry):
    stop = threading.Event()
    with dial(stop) as sock:
        welcome(sock)
        stop.set()
        with suppress(OSError):  # it may be gone already
            sock.sendall(frame(0))
        assert sock.recv(1) == b""
    assert registry.told == ["join", "leave"]
