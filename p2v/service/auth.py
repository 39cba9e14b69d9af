# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may use the converter: tokens, kept as digests only.

A token carries 256 bits from the system's generator, so its plain SHA-256 digest can't be turned
back, and looking it up by digest tells an attacker nothing by its timing.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass

from p2v.model.errors import AuthError
from p2v.service.store import Store, Token

_PREFIX = "p2v_"
NAME_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request: the holder of a token, or the administrator of this computer."""

    id: str
    name: str
    admin: bool = False


ADMINISTRATOR = Principal("admin", "administrator", admin=True)
EMBEDDED = Principal("embedded", "this computer", admin=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def issue_token(store: Store, name: str) -> tuple[Token, str]:
    """Make a token; return what is kept of it, and its text, which is shown this once."""
    text = _PREFIX + secrets.token_urlsafe(32)
    shown = "".join(char for char in name if char.isprintable())[:NAME_LENGTH] or "unnamed"
    token = Token(id=secrets.token_hex(4), name=shown, created=time.time())
    store.add_token(token, _digest(text))
    return token, text


def authorise(store: Store, text: str) -> Principal:
    """Return who holds the token.

    Raises:
        AuthError: nobody does.
    """
    token = store.token(_digest(text)) if text.startswith(_PREFIX) else None
    if token is None:
        problem = "it is unknown or was revoked" if text else "there is none in the request"
        raise AuthError(problem=problem)
    return Principal(token.id, token.name)
