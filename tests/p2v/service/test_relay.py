# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib
import random
import socket
import ssl
import threading
import time
import tracemalloc

import pytest

from p2v.service import relay as relay_module
from p2v.service.certificate import ensure_certificate
from p2v.service.relay import relay


@pytest.fixture
def link(tmp_path):
    """A TLS client, the far socket that it reaches through a relay, and the relay's thread."""
    server_tcp = socket.create_server(("127.0.0.1", 0))
    client_tcp = socket.create_connection(server_tcp.getsockname())
    accepted, _ = server_tcp.accept()
    near, far = socket.socketpair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def run():
        with ensure_certificate(tmp_path).context().wrap_socket(accepted, server_side=True) as tls:
            relay(tls, near)
            near.close()

    thread = threading.Thread(target=run)
    thread.start()
    client = context.wrap_socket(client_tcp)
    client.settimeout(20)
    far.settimeout(20)
    yield client, far, thread
    for sock in (client, far, server_tcp):
        sock.close()
    thread.join(10)
    assert not thread.is_alive()


def read_all(sock):
    data = bytearray()
    while part := sock.recv(1 << 16):
        data += part
    return bytes(data)


def test_both_directions_carry_at_the_same_time_and_whole(link):
    client, far, _ = link
    up, down = random.Random(1).randbytes(5 << 20), random.Random(2).randbytes(5 << 20)
    got = {}

    def far_end():
        data = bytearray()
        far.setblocking(True)
        sender = threading.Thread(target=far.sendall, args=(down,))
        sender.start()
        while len(data) < len(up):
            data += far.recv(1 << 16)
        sender.join()
        far.shutdown(socket.SHUT_WR)
        got["up"] = bytes(data)

    thread = threading.Thread(target=far_end)
    thread.start()
    client.setblocking(False)
    sent, received = 0, bytearray()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if sent < len(up):
                sent += client.send(up[sent : sent + 16384])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        try:
            part = client.recv(1 << 16)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            continue
        if not part:
            break
        received += part
    thread.join(10)
    assert hashlib.sha256(received).digest() == hashlib.sha256(down).digest()
    assert got["up"] == up


def test_what_a_client_sent_before_it_left_arrives_and_then_its_end(link):
    client, far, thread = link
    client.sendall(b"question")
    client.close()
    assert read_all(far) == b"question"
    far.close()
    thread.join(10)
    assert not thread.is_alive()


def test_the_end_is_told_apart_from_a_cut(link):
    client, far, _ = link
    far.sendall(b"all of it")
    far.close()
    assert client.recv(100) == b"all of it"
    assert client.recv(100) == b""  # a close alert: a cut would raise SSLEOFError
    client.unwrap()


def test_a_client_that_reads_nothing_holds_the_sender_back(link):
    client, far, _ = link
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    far.setblocking(False)
    tracemalloc.start()
    sent, idle = 0, 0
    while idle < 20:
        try:
            sent += far.send(bytes(1 << 16))
            idle = 0
        except BlockingIOError:
            idle += 1
            time.sleep(0.02)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sent < 64 << 20, "it never stopped taking"
    assert peak < 2 << 20


def test_a_silent_connection_is_given_up(link, monkeypatch):
    monkeypatch.setattr(relay_module, "IDLE_S", 0.2)
    client, far, thread = link
    client.sendall(b"x")  # the wait under way still has the old limit
    assert far.recv(1) == b"x"
    thread.join(10)
    assert not thread.is_alive()


def test_a_client_that_vanishes_ends_the_relay(link):
    client, far, thread = link
    client.sendall(b"x")
    far.recv(1)
    client.close()
    far.sendall(b"y" * 100_000)
    far.close()
    thread.join(10)
    assert not thread.is_alive()
