# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import socket
import struct
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest

from agent.stream import remote
from agent.stream.converter import ConnectionLostError
from agent.stream.remote import Address, Credentials, RemoteConnection, RemoteConverter
from agent.stream.transfer import Options, Transfer
from agent.stream.work import blocks
from p2v.model.errors import (
    AuthError,
    FingerprintMismatchError,
    MigrationBusyError,
    MigrationStateError,
    NoRoomError,
    NoSuchMigrationError,
    ProtocolError,
    UnreachableError,
    UsageError,
)
from p2v.model.migration import MigrationState
from p2v.service.certificate import ensure_certificate
from p2v.wire.chunk import CHUNK_SIZE, digest
from p2v.wire.frame import Ack, AckKind, Frame, Kind
from tests.agent.serving import serving
from tests.agent.stream.conftest import plan_of


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path) as server:
        yield server


@pytest.fixture
def remote_converter(server):
    with closing(RemoteConverter(server.address, server.credentials())) as converter:
        yield converter


@pytest.fixture
def leased(remote_converter, disk):
    migration = remote_converter.create(plan_of(disk))
    remote_converter.lease(migration.id)
    return migration


def send(converter, migration, disk, **options):
    queue = blocks(0, disk.whole)
    transfer = Transfer(converter, migration.id, [disk], queue, Options(**options))
    transfer.start()
    assert transfer.wait(60), "it hangs"
    return transfer.result()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("https://host:9000", "https://host:9000"),
        ("https://host:9000/", "https://host:9000"),
        ("host", "https://host:8443"),
        ("10.0.0.1:1", "https://10.0.0.1:1"),
        ("https://[fe80::1]:77", "https://[fe80::1]:77"),
    ],
)
def test_addresses(text, wanted):
    assert str(Address.parse(text)) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "http://host", "ftp://x", "https://", "host:99999", "host:x", "https://h/path", "a host"],
)
def test_what_is_no_address(text):
    with pytest.raises(UsageError, match="is no converter's address"):
        Address.parse(text)


def test_a_token_is_not_shown():
    assert "secret" not in repr(Credentials(b"\0" * 32, "secret"))


def test_a_migration_from_beginning_to_end(server, remote_converter, leased, disk):
    counters = send(remote_converter, leased, disk)
    assert counters.durable == len(disk.content)
    remote_converter.complete(leased.id, {"notes": ["a note"]})
    found = remote_converter.get(leased.id)
    assert found.state is MigrationState.FINISHED
    assert found.plan == leased.plan and found.report == {"notes": ["a note"]}
    assert Path(found.images[0]).read_bytes() == disk.content


def test_nobody_at_the_address(server):
    credentials = server.credentials()
    server.stop()
    with (
        closing(RemoteConverter(server.address, credentials)) as converter,
        pytest.raises(UnreachableError, match="connection refused"),
    ):
        converter.get("x")
    server.start()


def test_a_wrong_token(server):
    credentials = replace(server.credentials(), token="p2v_wrong")
    with (
        closing(RemoteConverter(server.address, credentials)) as converter,
        pytest.raises(AuthError),
    ):
        converter.get("x")


def test_a_wrong_certificate_is_never_told_the_token(server, disk, monkeypatch):
    credentials = replace(server.credentials(), fingerprint=b"\1" * 32)
    with closing(RemoteConverter(server.address, credentials)) as converter:
        with pytest.raises(FingerprintMismatchError):
            converter.get("x")
        converter._leases["x"] = "lease"
        monkeypatch.setattr(remote, "send_message", None)
        with pytest.raises(FingerprintMismatchError):
            converter.connect("x")


def test_an_unknown_migration(remote_converter):
    with pytest.raises(NoSuchMigrationError):
        remote_converter.get("nobody-1")


def test_a_second_agent_is_refused_and_let_in_when_the_first_has_gone(
    server, remote_converter, leased
):
    with closing(RemoteConverter(server.address, server.credentials())) as second:
        with pytest.raises(MigrationBusyError):
            second.lease(leased.id)
        remote_converter.close()  # gives the lease back
        second.lease(leased.id)


def test_a_converter_that_was_started_anew_is_asked_for_a_new_lease(
    server, remote_converter, leased, disk
):
    server.stop()
    server.start()
    send(remote_converter, leased, disk)
    server.stop()
    server.start()
    remote_converter.complete(leased.id, {})
    assert remote_converter.get(leased.id).state is MigrationState.FINISHED


def test_completing_without_all_the_data_says_what_is_missing(remote_converter, leased):
    with pytest.raises(MigrationStateError, match="61 chunks have not arrived"):
        remote_converter.complete(leased.id, {})


def test_a_converter_that_is_starting_is_away_for_a_while(server, remote_converter, leased):
    server.context.ready = False
    with pytest.raises(UnreachableError, match="starting or stopping"):
        remote_converter.lease(leased.id)
    server.context.ready = True


def test_closing_does_not_wait_for_a_converter_that_is_gone(server, remote_converter, leased):
    server.stop()
    begun = monotonic()
    remote_converter.close()
    assert monotonic() - begun < 4 * remote.RELEASE_TIMEOUT_S
    server.start()


def test_a_cut_connection_is_lost_and_not_an_error(server, remote_converter, leased):
    connection = remote_converter.connect(leased.id)
    server.stop()
    with pytest.raises(ConnectionLostError):
        connection.flush(1)
    connection.close()
    server.start()


def test_the_converters_reason_comes_before_the_reset(remote_converter, leased):
    connection = remote_converter.connect(leased.id)
    bad = Frame(
        Kind.DATA, 0, 0, CHUNK_SIZE, 1, payload=CHUNK_SIZE, digest=digest(b"something else")
    )

    def send_for_ever() -> None:
        while True:  # until the converter no longer reads it
            connection.send([(bad, bytes(CHUNK_SIZE))])

    with pytest.raises(ProtocolError, match="digest of the chunk at 0 is wrong"):
        send_for_ever()
    connection.close()


# --- what a converter may say


@pytest.fixture
def talking():
    """Give a connection, and the plain end that talks to it."""
    ours, theirs = socket.socketpair()

    class Stream(socket.socket):
        def pending(self) -> int:
            return 0

    stream = Stream(fileno=ours.detach())
    stream.settimeout(5)
    connection = RemoteConnection(stream)
    yield connection, theirs
    connection.close()
    theirs.close()


def test_durable_does_not_wait(talking):
    connection, converter = talking
    assert connection.durable() == 0
    converter.sendall(Ack(AckKind.DURABLE, 7).pack() + Ack(AckKind.DURABLE, 9).pack())
    assert connection.durable() == 9
    converter.sendall(Ack(AckKind.DURABLE, 3).pack())
    assert connection.durable() == 9


@pytest.mark.parametrize(
    "said",
    [b"", b"P2VA", b"\0" * 24, Ack(AckKind.DURABLE, 1).pack()[:-1] + b"?", b"\xff" * 100],
)
def test_nonsense_is_a_lost_connection(talking, said):
    connection, converter = talking
    converter.sendall(said)
    converter.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionLostError):
        connection.flush(1)


def test_an_error_is_raised_as_what_it_is(talking):
    connection, converter = talking
    text = '{"type": "no-room", "detail": "No room left in /srv: 5 more bytes are needed."}'
    converter.sendall(Ack(AckKind.ERROR, text=text).pack())
    with pytest.raises(NoRoomError, match="No room left in /srv"):
        connection.durable()


def test_a_refusal_without_sense_does_not_pass_for_a_converter(tmp_path):
    certificate = ensure_certificate(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            plain, _ = listener.accept()
            with certificate.context().wrap_socket(plain, server_side=True) as stream:
                stream.recv(4096)
                stream.sendall(struct.pack("<I", 2) + b"{}")

        thread = threading.Thread(target=serve)
        thread.start()
        address = Address("127.0.0.1", listener.getsockname()[1])
        converter = RemoteConverter(address, Credentials(certificate.digest, "token"))
        converter._leases["x"] = "lease"
        with pytest.raises(ProtocolError, match="welcome"):
            converter.connect("x")
        thread.join(20)
