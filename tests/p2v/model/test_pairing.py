# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2v.model.errors import PairingError, UsageError
from p2v.model.pairing import (
    Code,
    PairingClient,
    PairingServer,
    fingerprint_of,
    format_fingerprint,
    parse_fingerprint,
)

CODE = Code("7QK", "3M9X4T")
OURS = fingerprint_of(b"our certificate")
THEIRS = fingerprint_of(b"another certificate")


def exchange(client_code=CODE, server_code=CODE, seen=OURS, own=OURS):
    """Run an exchange; return the client, and the server before its verdict with the proof."""
    client = PairingClient(client_code, seen, "https://c:8443")
    server = PairingServer(server_code, own, client.start()["message"])
    finish = client.finish({"session": "s", "message": server.message})
    return client, server, finish["proof"]


def test_the_same_code_and_certificate_pair():
    client, server, proof = exchange()
    assert server.accepts(proof)
    assert client.token({"token": "t", "proof": server.proof}) == "t"


def test_a_wrong_secret_fails_on_both_sides():
    client, server, proof = exchange(client_code=Code("7QK", "3M9X4V"))
    assert not server.accepts(proof)
    with pytest.raises(PairingError, match="could not prove"):
        client.token({"token": "t", "proof": server.proof})


def test_another_certificate_fails_on_both_sides():
    client, server, proof = exchange(seen=THEIRS)
    assert not server.accepts(proof)
    with pytest.raises(PairingError):
        client.token({"token": "t", "proof": server.proof})


def test_a_proof_does_not_serve_for_another_exchange_of_the_same_code():
    _, _, proof = exchange()
    _, server, _ = exchange()
    assert not server.accepts(proof)


def test_the_agents_proof_is_not_the_converters():
    client, _, proof = exchange()
    with pytest.raises(PairingError):
        client.token({"token": "t", "proof": proof})


def test_a_converter_that_sends_the_agents_own_message_back_is_refused():
    client = PairingClient(CODE, OURS, "https://c:8443")
    with pytest.raises(PairingError, match="no SPAKE2 message"):
        client.finish({"session": "s", "message": client.start()["message"]})


@settings(max_examples=40, deadline=None)
@given(st.one_of(st.none(), st.integers(), st.text(), st.binary(max_size=40).map(bytes.hex)))
def test_a_message_that_is_none_is_a_pairing_error(message):
    with pytest.raises(PairingError):
        PairingServer(CODE, OURS, message)


@pytest.mark.parametrize("proof", [None, 7, "", "zz", "é" * 64, "00" * 32])
def test_a_proof_that_is_none_is_not_accepted(proof):
    _, server, _ = exchange()
    assert not server.accepts(proof)


def test_a_token_before_the_exchange_is_refused():
    with pytest.raises(PairingError):
        PairingClient(CODE, OURS, "c").token({"token": "t", "proof": "00"})


def test_run_posts_both_messages_and_returns_the_token():
    posted = []

    def post(path, body):
        posted.append((path, body))
        if path == "/pair/start":
            post.server = PairingServer(CODE, OURS, body["message"])
            return {"session": "s1", "message": post.server.message}
        assert post.server.accepts(body["proof"])
        return {"token": "t", "proof": post.server.proof}

    assert PairingClient(CODE, OURS, "c").run(post, "web01") == "t"
    assert posted[0][1]["code"] == "7QK"
    assert posted[1][1]["session"] == "s1" and posted[1][1]["name"] == "web01"
    assert "3M9X4T" not in str(posted)


def test_a_code_reads_back_however_it_is_typed():
    code = Code.new()
    shown = str(code)
    assert Code.parse(shown) == code
    assert Code.parse(shown.lower().replace("-", " ")) == code
    assert Code.parse(shown.replace("-", "").replace("0", "o").replace("1", "l")) == code


@pytest.mark.parametrize("text", ["", "7QK", "7QK-3M9-X4TT", "7QK-3M9-X4!", "UUU-UUU-UUU"])
def test_what_can_be_no_code_is_a_usage_error(text):
    with pytest.raises(UsageError, match="7QK-3M9-X4T"):
        Code.parse(text)


@given(st.text(max_size=20))
def test_parsing_any_text_gives_a_code_or_a_usage_error(text):
    try:
        code = Code.parse(text)
    except UsageError:
        return
    assert Code.parse(str(code)) == code


def test_a_code_does_not_show_its_secret_in_logs():
    assert "3M9" not in repr(CODE)


def test_fingerprints_read_back():
    shown = format_fingerprint(OURS)
    assert shown.startswith("sha256:") and shown[9] == ":"
    assert parse_fingerprint(shown) == OURS
    assert parse_fingerprint(OURS.hex()) == OURS


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:AB:CD", "sha1:" + "00" * 32, "zz" * 32])
def test_what_is_no_fingerprint_is_a_usage_error(text):
    with pytest.raises(UsageError):
        parse_fingerprint(text)
