# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from p2v.model.errors import AuthError
from p2v.service.auth import authorise, issue_token


@pytest.mark.parametrize("text", ["", "p2v_", "p2v_wrong", "x", "p2v_\ud800", "é" * 1000])
def test_what_is_no_token_is_refused(store, text):
    issue_token(store, "other")
    with pytest.raises(AuthError):
        authorise(store, text)


def test_a_revoked_token_is_refused(store):
    token, text = issue_token(store, "web01")
    assert authorise(store, text).id == token.id
    assert store.remove_token(token.id)
    assert not store.remove_token(token.id)
    with pytest.raises(AuthError, match="revoked"):
        authorise(store, text)


def test_a_hostile_name_is_shown_harmless(store):
    token, _ = issue_token(store, "\x1b[2J" + "n" * 500)
    assert token.name.isprintable() and len(token.name) == 64
