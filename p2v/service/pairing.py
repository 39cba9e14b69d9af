# SPDX-License-Identifier: GPL-3.0-or-later
"""The converter's desk for pairing: hands out codes, runs the exchange, issues tokens.

A start already costs one of a code's tries: an attacker gets three guesses at 30 bits, no matter
how many exchanges he opens side by side. Exchanges under way live in memory, a bounded number for
a bounded time; agent and converter start over if the converter is restarted between.
"""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass

from p2v.model.errors import PairingError
from p2v.model.pairing import Code, PairingServer
from p2v.service.auth import issue_token
from p2v.service.store import Store

LIFETIME_S = 15 * 60
TRIES = 3
EXCHANGE_S = 60.0
MAX_EXCHANGES = 64
_ME = "this converter"


@dataclass(frozen=True, slots=True)
class _Exchange:
    code: str
    side: PairingServer
    expires: float


class PairingDesk:
    """Pairs agents with this converter. Thread-safe. `digest` is that of the certificate."""

    def __init__(self, store: Store, digest: bytes) -> None:
        self._store = store
        self._digest = digest
        self._exchanges: dict[str, _Exchange] = {}
        self._lock = threading.Lock()

    def new_code(self) -> tuple[Code, float]:
        """Return a fresh code and when it ends, in seconds since the epoch."""
        expires = time.time() + LIFETIME_S
        while not self._store.add_code(code := Code.new(), expires, TRIES):
            pass  # the name is in use by another code
        return code, expires

    def start(self, name: str, message: str) -> dict[str, str]:
        """Answer the agent's opening message.

        Raises:
            PairingError: there is no such code, or too much going on.
        """
        with self._lock:
            now = time.monotonic()
            self._exchanges = {k: e for k, e in self._exchanges.items() if e.expires > now}
            if len(self._exchanges) >= MAX_EXCHANGES:
                raise PairingError(server=_ME, problem="too many agents pair at once; try again")
        code = self._store.try_code(name)
        if code is None:
            raise PairingError(
                server=_ME, problem="the code is unknown, used, too old or was tried too often"
            )
        side = PairingServer(code, self._digest, message)
        session = secrets.token_urlsafe(16)
        with self._lock:
            self._exchanges[session] = _Exchange(name, side, time.monotonic() + EXCHANGE_S)
        return {"session": session, "message": side.message}

    def finish(self, session: str, proof: str, name: str) -> dict[str, str]:
        """Check the agent's proof; return a token with the converter's own proof.

        Raises:
            PairingError: the proof is wrong, or the exchange is over.
        """
        with self._lock:
            exchange = self._exchanges.pop(session, None)
        if exchange is None or exchange.expires <= time.monotonic():
            raise PairingError(server=_ME, problem="the exchange is over or was never begun")
        if not exchange.side.accepts(proof):
            raise PairingError(server=_ME, problem="the code is wrong, or somebody sits in between")
        if not self._store.use_code(exchange.code):
            raise PairingError(server=_ME, problem="the code was used in the meantime")
        _, token = issue_token(self._store, name)
        return {"token": token, "proof": exchange.side.proof}
