# SPDX-License-Identifier: GPL-3.0-or-later
"""Pairing: a short one-time code becomes a token, bound to the converter's certificate.

SPAKE2 (RFC 9382, as the `spake2` package runs it: Ed25519, agent side A, converter side B) turns
the code's secret into a strong key without showing an eavesdropper, or a man in the middle,
anything to guess the code from offline. Both sides then prove that they hold the key with an HMAC
over the exchange *and the certificate's fingerprint that each of them sees*. Somebody in between
who shows a certificate of his own makes the two fingerprints differ, and both proofs fail.

    agent                                       converter
    start  {code: name, message: X}      ->
                                         <-     {session, message: Y}
    finish {session, proof: HMAC(agent)} ->     checks it; a code allows three starts
                                         <-     {token, proof: HMAC(converter)}
    checks it, and only then trusts token and certificate
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spake2 import SPAKE2_A, SPAKE2_B

from p2v.model.errors import PairingError, UsageError

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: no I, L, O, U
_ALIKE = str.maketrans("ILO", "110", " -\t")
_NAME_LENGTH = 3
_SECRET_LENGTH = 6
_AGENT = b"p2v-agent"
_CONVERTER = b"p2v-converter"


@dataclass(frozen=True, slots=True)
class Code:
    """A pairing code: a public name (which code is meant) and the secret (30 bits)."""

    name: str
    secret: str

    @classmethod
    def new(cls) -> Code:
        """Draw a code."""
        digits = "".join(secrets.choice(_ALPHABET) for _ in range(_NAME_LENGTH + _SECRET_LENGTH))
        return cls(digits[:_NAME_LENGTH], digits[_NAME_LENGTH:])

    @classmethod
    def parse(cls, text: str) -> Code:
        """Read a code as people type it: any case, spaces and dashes, O for 0, I and L for 1.

        Raises:
            UsageError: it cannot be a code.
        """
        digits = text.upper().translate(_ALIKE)
        if len(digits) != _NAME_LENGTH + _SECRET_LENGTH or not set(digits) <= set(_ALPHABET):
            raise UsageError(problem="that is not a pairing code; it looks like 7QK-3M9-X4T")
        return cls(digits[:_NAME_LENGTH], digits[_NAME_LENGTH:])

    def __str__(self) -> str:
        """Return the code as it is shown, in groups of three."""
        return f"{self.name}-{self.secret[:3]}-{self.secret[3:]}"

    def __repr__(self) -> str:
        """Name the code; never its secret."""
        return f"Code({self.name})"


def format_fingerprint(digest: bytes) -> str:
    """Return a SHA-256 digest of a DER certificate as it is shown: ``sha256:AB:CD:...``."""
    return "sha256:" + digest.hex(":").upper()


def parse_fingerprint(text: str) -> bytes:
    """Return the digest that `text` shows; colons, case and the ``sha256:`` prefix are free.

    Raises:
        UsageError: it is no SHA-256 fingerprint.
    """
    digits = text.strip().lower().removeprefix("sha256:").replace(":", "")
    try:
        digest = bytes.fromhex(digits)
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise UsageError(
            problem=f"'{text}' is not a fingerprint: 64 hex digits, the certificate's SHA-256"
        )
    return digest


def fingerprint_of(certificate: bytes) -> bytes:
    """Return the SHA-256 digest of a certificate in DER."""
    return hashlib.sha256(certificate).digest()


class _Exchange:
    """One side of an exchange, after its key is known."""

    def __init__(self, key: bytes, fingerprint: bytes, agent: bytes, converter: bytes) -> None:
        self._key = key
        self._context = fingerprint + agent + converter

    def proof(self, who: bytes) -> str:
        return hmac.new(self._key, who + self._context, hashlib.sha256).hexdigest()

    def proves(self, who: bytes, proof: object) -> bool:
        return isinstance(proof, str) and hmac.compare_digest(
            self.proof(who).encode(), proof.encode(errors="replace")
        )


def _agree(side: SPAKE2_A | SPAKE2_B, message: object, server: str) -> tuple[bytes, bytes]:
    """Return the key and the other side's message in bytes."""
    try:
        if not isinstance(message, str):
            raise TypeError
        other = bytes.fromhex(message)
        return side.finish(other), other
    except Exception:  # the library also raises plain Exception, ValueError, AssertionError
        raise PairingError(server=server, problem="its message is no SPAKE2 message") from None


class PairingServer:
    """The converter's side of one exchange; answers the agent's start at once."""

    def __init__(self, code: Code, fingerprint: bytes, message: str) -> None:
        side = SPAKE2_B(code.secret.encode(), idA=_AGENT, idB=_CONVERTER)
        own = side.start()
        self.message = own.hex()
        """To be sent to the agent."""
        key, other = _agree(side, message, "this converter")
        self._exchange = _Exchange(key, fingerprint, other, own)

    def accepts(self, proof: object) -> bool:
        """Return whether the agent knows the code and sees this converter's certificate."""
        return self._exchange.proves(_AGENT, proof)

    @property
    def proof(self) -> str:
        """What convinces the agent; to be sent only after `accepts`."""
        return self._exchange.proof(_CONVERTER)


class PairingClient:
    """The agent's side of one exchange.

    `fingerprint` is that of the certificate seen on the connections that carry the exchange; the
    caller makes sure that all of them show the same. `server` is the address, for messages.
    """

    def __init__(self, code: Code, fingerprint: bytes, server: str) -> None:
        self._code = code
        self._fingerprint = fingerprint
        self._server = server
        self._side = SPAKE2_A(code.secret.encode(), idA=_AGENT, idB=_CONVERTER)
        self._own: bytes = self._side.start()
        self._exchange: _Exchange | None = None
        self._session = ""

    def start(self) -> dict[str, str]:
        """Return the body of `POST /pair/start`."""
        return {"code": self._code.name, "message": self._own.hex()}

    def finish(self, answer: Mapping[str, Any], name: str = "") -> dict[str, str]:
        """Return the body of `POST /pair/finish` for the answer to the start.

        `name` is what the converter shows for the token, the machine's host name say.

        Raises:
            PairingError: the answer makes no sense.
        """
        key, other = _agree(self._side, answer.get("message"), self._server)
        self._exchange = _Exchange(key, self._fingerprint, self._own, other)
        self._session = str(answer.get("session", ""))
        return {"session": self._session, "proof": self._exchange.proof(_AGENT), "name": name}

    def token(self, answer: Mapping[str, Any]) -> str:
        """Return the token from the answer to the finish, if the converter proved itself.

        Raises:
            PairingError: it did not: it does not know the code, or has another certificate.
        """
        token = answer.get("token")
        if (
            self._exchange is None
            or not isinstance(token, str)
            or not self._exchange.proves(_CONVERTER, answer.get("proof"))
        ):
            raise PairingError(
                server=self._server,
                problem="the converter could not prove that it knows the code",
            )
        return token

    def run(self, post: Callable[[str, dict[str, str]], Mapping[str, Any]], name: str = "") -> str:
        """Run the whole exchange and return the token; `post` sends a body to a path under the API.

        Raises:
            PairingError: the code or the certificate is wrong.
        """
        answer = post("/pair/start", self.start())
        return self.token(post("/pair/finish", self.finish(answer, name)))
