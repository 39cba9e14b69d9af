# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import tomllib

import pytest

from agent.credentials import find_credentials, store_path
from agent.stream.remote import Address, Credentials
from p2v.model.errors import (
    FingerprintMismatchError,
    PairingError,
    UnreachableError,
    UsageError,
)
from p2v.model.pairing import format_fingerprint
from tests.agent.serving import serving

NOBODY = Address("127.0.0.1", 1)
PRINT = format_fingerprint(b"\7" * 32)


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("P2V_CODE", "P2V_TOKEN", "P2V_FINGERPRINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture
def code(server):
    return str(server.context.desk.new_code()[0])


def test_nothing_at_all_says_what_to_do():
    with pytest.raises(UsageError, match="run 'p2v pair' on the converter"):
        find_credentials(NOBODY)


def test_a_token_with_a_fingerprint_is_taken_as_it_is(monkeypatch):
    monkeypatch.setenv("P2V_TOKEN", "p2v_x\n")
    monkeypatch.setenv("P2V_FINGERPRINT", PRINT)
    assert find_credentials(NOBODY) == Credentials(b"\7" * 32, "p2v_x")
    assert not store_path().exists()


def test_a_token_alone_is_not_sent_to_just_anybody(monkeypatch):
    monkeypatch.setenv("P2V_TOKEN", "p2v_x")
    with pytest.raises(UsageError, match="FINGERPRINT"):
        find_credentials(NOBODY)


def test_a_token_comes_from_a_file(tmp_path):
    file = tmp_path / "token"
    file.write_text("p2v_x\n")
    assert find_credentials(NOBODY, fingerprint=PRINT, token_file=file).token == "p2v_x"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match="token can't be read"):
        find_credentials(NOBODY, fingerprint=PRINT, token_file=file)


def test_a_malformed_fingerprint_is_refused():
    with pytest.raises(UsageError):
        find_credentials(NOBODY, fingerprint="sha256:nonsense")


def test_pairing_is_kept_for_the_next_time_and_only_for_its_owner(server, code, monkeypatch):
    monkeypatch.setenv("P2V_CODE", code)
    made = find_credentials(server.address)
    monkeypatch.delenv("P2V_CODE")
    assert made.fingerprint == server.fingerprint
    assert server.context.migrations.authorise(made.token)
    assert find_credentials(server.address) == made
    assert store_path().stat().st_mode & 0o777 == 0o600
    assert store_path().parent.stat().st_mode & 0o077 == 0


def test_converters_are_kept_side_by_side(server, code, tmp_path):
    store_path().parent.mkdir(parents=True)
    store_path().write_text(f'["https://other:1"]\nfingerprint = "{PRINT}"\ntoken = "p2v_o"\n')
    file = tmp_path / "code"
    file.write_text(code)
    find_credentials(server.address, code_file=file)
    kept = tomllib.loads(store_path().read_text())
    assert set(kept) == {"https://other:1", str(server.address)}
    assert find_credentials(Address("other", 1)).token == "p2v_o"


def test_a_person_is_asked_when_there_is_nothing_else(server, code):
    assert find_credentials(server.address, ask=lambda: code).fingerprint == server.fingerprint
    find_credentials(server.address, ask=lambda: pytest.fail("asked again"))


@pytest.mark.parametrize(
    "text", ["", "not toml [", "x = 1", '["https://127.0.0.1:1"]\ntoken = "p2v_x"\n']
)
def test_a_damaged_file_is_as_good_as_none(text):
    store_path().parent.mkdir(parents=True)
    store_path().write_text(text)
    with pytest.raises(UsageError):
        find_credentials(NOBODY)


def test_a_wrong_code_pairs_nobody(server, code):
    wrong = code[:-1] + ("2" if code[-1] != "2" else "3")
    with pytest.raises(PairingError):
        find_credentials(server.address, ask=lambda: wrong)
    assert not store_path().exists()


def test_a_code_is_not_tried_on_another_certificate(server, code):
    with pytest.raises(FingerprintMismatchError):
        find_credentials(server.address, fingerprint=PRINT, ask=lambda: code)
    find_credentials(server.address, ask=lambda: code)  # no try was used up


def test_an_old_pairing_is_not_used_for_another_fingerprint(server, code):
    find_credentials(server.address, ask=lambda: code)
    with pytest.raises(UsageError):
        find_credentials(server.address, fingerprint=PRINT)


def test_nobody_answers():
    with pytest.raises(UnreachableError):
        find_credentials(NOBODY, ask=lambda: "ABC-DEF-GHJ")
