# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from dataclasses import replace
from pathlib import Path

import pytest

from p2v.model.errors import ListenError, MigrationBusyError
from p2v.model.problem import error_of
from p2v.service import front as front_module
from p2v.service.certificate import ensure_certificate
from p2v.service.front import Front
from p2v.wire.chunk import CHUNK_SIZE, digest
from p2v.wire.frame import ACK_SIZE, ALPN, AckKind, Frame, Kind, parse_ack
from p2v.wire.hello import Hello, read_welcome, receive_exact, receive_message, send_message
from tests.p2v.service.conftest import insecure_context


@pytest.fixture
def front(tmp_path, migrations):
    made = []

    def make(host="127.0.0.1", port=0):
        context = ensure_certificate(tmp_path).context()
        made.append(Front(host, port, context, migrations, tmp_path / "http.sock"))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.stop()


def ended(sock, within):
    """Whether the other side closes within so many seconds."""
    sock.settimeout(within)
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def data_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([ALPN])
    return context


def dial(port):
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def test_a_data_session_carries_a_migration_to_its_end(running):
    client = running.client()
    name = running.create()
    lease = client.call("POST", f"/migrations/{name}/lease", {"agent": "a"}).json["lease"]
    chunk = b"data" * (CHUNK_SIZE // 4)
    with running.connect(ALPN) as sock:
        assert sock.selected_alpn_protocol() == ALPN
        send_message(sock, Hello([1], running.token, name, lease))
        assert read_welcome(receive_message(sock)).sizes == [3 * CHUNK_SIZE]
        for index in range(3):
            offset = index * CHUNK_SIZE
            frame = Frame(Kind.DATA, 0, offset, CHUNK_SIZE, index + 1)
            frame = replace(frame, payload=CHUNK_SIZE, digest=digest(chunk))
            sock.sendall(frame.pack() + chunk)
        sock.sendall(Frame(Kind.FLUSH, sequence=4).pack())
        head = bytearray(ACK_SIZE)
        assert receive_exact(sock, head)
        ack, _ = parse_ack(head)
        assert ack.kind is AckKind.DURABLE and ack.sequence == 4
        progress = client.call("GET", f"/migrations/{name}").json["progress"]
        assert progress["connections"] == 1 and progress["wire_bytes"] == 3 * CHUNK_SIZE
    assert client.call("GET", f"/migrations/{name}/missing").json == {"missing": [0]}
    answer = client.call(
        "POST", f"/migrations/{name}/complete", {"lease": lease, "report": {"read": 1}}
    )
    assert answer.status == 202
    deadline = time.monotonic() + 20
    while (found := client.call("GET", f"/migrations/{name}").json)["state"] != "finished":
        assert time.monotonic() < deadline and found["state"] != "failed", found
        time.sleep(0.1)
    assert Path(found["images"][0]).read_bytes() == chunk * 3


def test_a_lease_that_another_agent_took_is_refused_in_the_hello(running):
    client = running.client()
    name = running.create()
    client.call("POST", f"/migrations/{name}/lease", {"agent": "first"})
    with running.connect(ALPN) as sock:
        send_message(sock, Hello([1], running.token, name, "stolen"))
        error = error_of(receive_message(sock)["error"])
    assert isinstance(error, MigrationBusyError) and error.fields["agent"] == "first"


def test_a_wrong_token_is_refused_in_the_hello(running):
    with running.connect(ALPN) as sock:
        send_message(sock, Hello([1], "p2v_wrong", "m", "l"))
        assert receive_message(sock)["error"]["type"] == "not-authorised"


def test_cancelling_cuts_the_agents_connection(running):
    client = running.client()
    name = running.create()
    lease = client.call("POST", f"/migrations/{name}/lease", {"agent": "a"}).json["lease"]
    with running.connect(ALPN) as sock:
        send_message(sock, Hello([1], running.token, name, lease))
        receive_message(sock)
        began = time.monotonic()
        assert client.call("POST", f"/migrations/{name}/cancel").json["state"] == "cancelled"
        assert time.monotonic() - began < 5
        assert ended(sock, 5)
    assert not (running.data / "migrations" / name).exists()


def test_http_is_kept_alive_over_one_connection(running):
    with running.connect("http/1.1") as sock:
        for _ in range(3):
            sock.sendall(b"GET /api/v1/healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while b"}" not in answer:
                answer += sock.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200")


def test_clients_that_come_and_go_never_fill_the_places(running):
    for _ in range(front_module.MAX_HTTP + 32):
        with running.connect() as sock:
            sock.sendall(b"GET /api/v1/healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_large_answer_and_a_large_request_cross_whole(running):
    body = b"x" * (9 << 20)
    answer = running.client().call("POST", "/migrations", raw=body)
    assert answer.status == 413
    document = running.client().call("GET", "/openapi.json")
    assert document.status == 200 and "/api/v1/migrations" in document.json["paths"]


def test_a_handshake_that_never_comes_is_cut_off(front, monkeypatch):
    monkeypatch.setattr(front_module, "HANDSHAKE_S", 0.5)
    with dial(front().port) as sock:
        assert ended(sock, 5)


def test_a_handshake_that_drips_in_is_cut_off_too(front, monkeypatch):
    monkeypatch.setattr(front_module, "HANDSHAKE_S", 0.6)
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
    with dial(front().port) as sock:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in hello:
                sock.sendall(bytes([byte]))
                time.sleep(0.05)
        assert time.monotonic() - began < 3


def test_idle_strangers_keep_agents_out_only_for_the_handshakes_time(front, monkeypatch):
    monkeypatch.setattr(front_module, "HANDSHAKE_S", 1.0)
    monkeypatch.setattr(front_module, "MAX_HANDSHAKES", 4)
    port = front().port
    strangers = [dial(port) for _ in range(12)]
    context = data_context()
    began = time.monotonic()
    with dial(port) as plain, context.wrap_socket(plain) as sock:
        send_message(sock, Hello([1], "p2v_wrong", "m", "l"))
        assert "error" in receive_message(sock)
    assert 0.5 < time.monotonic() - began < 10
    for each in strangers:
        each.close()


def test_too_many_sessions_are_turned_away_and_room_comes_back(front, monkeypatch):
    monkeypatch.setattr(front_module, "MAX_SESSIONS", 1)
    port = front().port
    context = data_context()
    with context.wrap_socket(dial(port)) as first:
        time.sleep(0.3)
        with context.wrap_socket(dial(port)) as second:
            assert ended(second, 5)
        send_message(first, Hello([1], "p2v_wrong", "m", "l"))
        assert "error" in receive_message(first)
    time.sleep(0.3)
    with context.wrap_socket(dial(port)) as third:
        send_message(third, Hello([1], "p2v_wrong", "m", "l"))
        assert "error" in receive_message(third)


def test_plain_http_on_the_port_harms_nothing(running):
    with dial(running.port) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert ended(sock, 5)
    assert running.client("").call("GET", "/healthz").status == 200


def test_a_port_in_use_is_named(front):
    port = front().port
    with pytest.raises(ListenError, match=f"127.0.0.1:{port}"):
        front(port=port)


def test_a_host_that_is_none_is_named(front):
    with pytest.raises(ListenError, match="no-such-host"):
        front(host="no-such-host.invalid")


def test_stopping_ends_idle_connections(front):
    each = front()
    context = data_context()
    with context.wrap_socket(dial(each.port)) as sock:
        time.sleep(0.2)
        each.stop()
        assert ended(sock, 5)


def test_a_connection_may_rest_for_as_long_as_agents_do(running):
    """Agents ask every five seconds: what was closed just then would look like a lost converter."""
    connection = http.client.HTTPSConnection(
        "127.0.0.1", running.port, context=insecure_context(), timeout=20
    )
    for rest_s in (0, 6):
        time.sleep(rest_s)
        connection.request("GET", "/api/v1/healthz")
        assert connection.getresponse().read()
    connection.close()
