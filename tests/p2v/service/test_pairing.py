# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager

import pytest

from p2v.model.errors import PairingError
from p2v.model.pairing import Code, PairingClient, fingerprint_of
from p2v.model.problem import error_of
from p2v.service import certificate, pairing
from p2v.service.auth import authorise
from p2v.service.certificate import ensure_certificate
from p2v.service.pairing import PairingDesk
from p2v.service.relay import relay


def agent(client, code, fingerprint):
    """Return the agent's side on a real connection, and how it posts."""

    def post(path, body):
        answer = client.call("POST", path, body)
        if answer.status != 200:
            raise error_of(answer.json)
        return answer.json

    return PairingClient(Code.parse(code), fingerprint, f"127.0.0.1:{client.port}"), post


def shown_fingerprint(port):
    """Return the digest of the certificate that is shown at a port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as tls:
        return fingerprint_of(tls.getpeercert(binary_form=True))


@contextmanager
def man_in_the_middle(port, folder):
    """Stand between agent and converter with a certificate of one's own; yield the port."""
    own = ensure_certificate(folder)
    listener = socket.create_server(("127.0.0.1", 0))

    def carry(plain):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        inner, outer = socket.socketpair()
        with own.context().wrap_socket(plain, server_side=True) as victim:
            upstream = socket.create_connection(("127.0.0.1", port))
            with context.wrap_socket(upstream) as converter, inner, outer:
                threading.Thread(target=relay, args=(converter, outer), daemon=True).start()
                relay(victim, inner)

    def accept():
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=carry, args=(plain,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def code(running):
    return running.admin.call("POST", "/admin/codes")["code"]


def test_an_agent_with_the_code_gets_a_token_that_works(running, code):
    client, post = agent(running.client(""), code, shown_fingerprint(running.port))
    token = client.run(post, "web01")
    assert running.client(token).call("GET", "/migrations").status == 200
    assert "web01" in [each["name"] for each in running.admin.call("GET", "/admin/tokens")]


def test_the_fingerprint_shown_to_people_is_the_certificates(running):
    answer = running.admin.call("POST", "/admin/codes")
    assert answer["fingerprint"] == certificate.format_fingerprint(shown_fingerprint(running.port))


def test_a_man_in_the_middle_fails_and_gets_no_token(running, code, tmp_path):
    before = running.admin.call("GET", "/admin/tokens")
    with man_in_the_middle(running.port, tmp_path) as port:
        seen = shown_fingerprint(port)
        assert seen != shown_fingerprint(running.port)
        client, post = agent(type(running.client())(port), code, seen)
        with pytest.raises(PairingError, match="somebody sits in between"):
            client.run(post)
    assert running.admin.call("GET", "/admin/tokens") == before


def test_the_relay_itself_is_no_reason_to_fail(running, code, tmp_path):
    """The man in the middle carries everything; an agent fooled about the certificate pairs."""
    with man_in_the_middle(running.port, tmp_path) as port:
        real = shown_fingerprint(running.port)
        client, post = agent(type(running.client())(port), code, real)
        assert client.run(post).startswith("p2v_")


def test_a_wrong_secret_fails_and_three_tries_end_the_code(running, code):
    wrong = code[:-1] + ("0" if code[-1] != "0" else "1")
    here = shown_fingerprint(running.port)
    for _ in range(3):
        client, post = agent(running.client(""), wrong, here)
        with pytest.raises(PairingError, match="the code is wrong"):
            client.run(post)
    client, post = agent(running.client(""), code, here)
    with pytest.raises(PairingError, match="tried too often"):
        client.run(post)


def test_a_code_serves_once(running, code):
    here = shown_fingerprint(running.port)
    for expected in (True, False):
        client, post = agent(running.client(""), code, here)
        if expected:
            client.run(post)
        else:
            with pytest.raises(PairingError, match="used"):
                client.run(post)


def test_a_finish_that_is_sent_again_gets_nothing(running, code):
    client, post = agent(running.client(""), code, shown_fingerprint(running.port))
    finish = client.finish(post("/pair/start", client.start()))
    post("/pair/finish", finish)
    with pytest.raises(PairingError, match="exchange is over"):
        post("/pair/finish", finish)


def test_of_two_exchanges_with_one_code_one_gets_the_token(running, code):
    here = shown_fingerprint(running.port)
    first, post = agent(running.client(""), code, here)
    second, _ = agent(running.client(""), code, here)
    finishes = [each.finish(post("/pair/start", each.start())) for each in (first, second)]
    post("/pair/finish", finishes[0])
    with pytest.raises(PairingError, match="in the meantime"):
        post("/pair/finish", finishes[1])


@pytest.fixture
def desk(store):
    return PairingDesk(store, b"\1" * 32)


def start(desk, code):
    client = PairingClient(code, b"\1" * 32, "c")
    return client, desk.start(code.name, client.start()["message"])


def test_a_code_runs_out(desk, monkeypatch):
    monkeypatch.setattr(pairing, "LIFETIME_S", -1)
    code, _ = desk.new_code()
    with pytest.raises(PairingError, match="too old"):
        start(desk, code)


def test_an_exchange_runs_out(desk, monkeypatch):
    code, _ = desk.new_code()
    monkeypatch.setattr(pairing, "EXCHANGE_S", -1)
    client, answer = start(desk, code)
    finish = client.finish(answer)
    with pytest.raises(PairingError, match="exchange is over"):
        desk.finish(finish["session"], finish["proof"], "")


def test_exchanges_are_bounded_and_room_comes_back(desk, monkeypatch):
    monkeypatch.setattr(pairing, "MAX_EXCHANGES", 1)
    code, _ = desk.new_code()
    start(desk, code)
    with pytest.raises(PairingError, match="too many"):
        start(desk, code)
    for exchange in desk._exchanges.values():
        object.__setattr__(exchange, "expires", 0.0)
    start(desk, code)


def test_a_code_survives_a_restart_of_the_converter(store):
    code, _ = PairingDesk(store, b"\1" * 32).new_code()
    later = PairingDesk(store, b"\1" * 32)
    client, answer = start(later, code)
    finish = client.finish(answer)
    granted = later.finish(finish["session"], finish["proof"], "web01")
    assert authorise(store, client.token(granted)).name == "web01"


def test_a_bad_message_costs_a_try_and_no_more(desk):
    code, _ = desk.new_code()
    with pytest.raises(PairingError, match="SPAKE2"):
        desk.start(code.name, "00")
    start(desk, code)
