# SPDX-License-Identifier: GPL-3.0-or-later
"""Who the converter is and how it knows us: from the environment, from files, or by pairing.

What pairing gave is kept in `converters.toml` (0600), so that a resume needs no new code. Nothing
secret is taken from the command line, which every user of the machine can read.
"""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import requests
import tomli_w
import urllib3

from agent.stream.remote import (
    CONNECT_TIMEOUT_S,
    Address,
    Credentials,
    PinnedAdapter,
    peer_fingerprint,
)
from p2v.model.errors import (
    FingerprintMismatchError,
    P2VError,
    PairingError,
    UnreachableError,
    UsageError,
    reason,
)
from p2v.model.pairing import Code, PairingClient, format_fingerprint, parse_fingerprint
from p2v.model.problem import error_of

PAIRING_TIMEOUT_S = 30.0
NO_CODE = (
    "no token and no pairing code: run 'p2v pair' on the converter and give its code when asked, "
    "in P2V_CODE or with --code-file; unattended, use P2V_TOKEN and P2V_FINGERPRINT"
)


def store_path() -> Path:
    """Return the file that keeps what pairing gave."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "p2v" / "converters.toml"


def find_credentials(
    address: Address,
    *,
    fingerprint: str = "",
    token_file: Path | None = None,
    code_file: Path | None = None,
    ask: Callable[[], str] | None = None,
) -> Credentials:
    """Return credentials for the converter at `address`.

    In this order: a code (file, P2V_CODE) pairs anew; a token (file, P2V_TOKEN) with a fingerprint
    is used as it is; then what an earlier pairing left; then `ask` is called for a code.

    Raises:
        UsageError: there are none, or they are malformed.
        PairingError, FingerprintMismatchError, UnreachableError: pairing failed.
    """
    expected = fingerprint or os.environ.get("P2V_FINGERPRINT", "")
    digest = parse_fingerprint(expected) if expected else None
    code = _secret("P2V_CODE", code_file)
    token = _secret("P2V_TOKEN", token_file)
    if not code and token:
        kept = _load(address)
        if digest is None and kept is None:
            raise UsageError(
                problem="a token needs the converter's P2V_FINGERPRINT or --fingerprint"
            )
        return Credentials(digest or (kept.fingerprint if kept else b""), token)
    if not code:
        kept = _load(address)
        if kept is not None and digest in (None, kept.fingerprint):
            return kept
        code = ask() if ask is not None else ""
    if not code:
        raise UsageError(problem=NO_CODE)
    credentials = pair(address, Code.parse(code), digest)
    _save(address, credentials)
    return credentials


def known_converters() -> list[str]:
    """Return the addresses of the converters that were paired with."""
    try:
        return sorted(tomllib.loads(store_path().read_text()))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return []


def pair_and_keep(address: Address, code: Code) -> None:
    """Pair with the converter at `address` and keep what that gave for later.

    Raises:
        PairingError, UnreachableError: see `pair`.
    """
    _save(address, pair(address, code))


def pair(address: Address, code: Code, expected: bytes | None = None) -> Credentials:
    """Pair with the converter at `address`.

    The exchange proves that the certificate seen here is the one of the converter that printed the
    code: somebody in between would have to guess it.

    Raises:
        PairingError: wrong code, or somebody in between.
        FingerprintMismatchError: the certificate is not the `expected` one.
        UnreachableError: nobody answers.
    """
    fingerprint = peer_fingerprint(address)
    if expected is not None and fingerprint != expected:
        raise FingerprintMismatchError(
            server=address,
            actual=format_fingerprint(fingerprint),
            expected=format_fingerprint(expected),
        )
    with requests.Session() as session:
        session.trust_env = False
        session.verify = False
        session.mount("https://", PinnedAdapter(fingerprint))
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

        def post(path: str, body: dict[str, str]) -> Mapping[str, Any]:
            try:
                answer = session.post(
                    f"{address}/api/v1{path}",
                    json=body,
                    timeout=(CONNECT_TIMEOUT_S, PAIRING_TIMEOUT_S),
                )
                document = answer.json()
            except (requests.RequestException, ValueError) as error:
                raise UnreachableError(server=address, problem=str(error)) from error
            if not isinstance(document, dict):
                raise PairingError(server=address, problem="its answer makes no sense")
            if not answer.ok:
                raise _named(error_of(document), address)
            return document

        token = PairingClient(code, fingerprint, str(address)).run(post, socket.gethostname())
    return Credentials(fingerprint, token)


def _named(error: P2VError, address: Address) -> P2VError:
    """Return `error`; one of pairing names the address, which the converter does not know."""
    if isinstance(error, PairingError):
        return PairingError(server=address, problem=error.fields.get("problem", "it refuses"))
    return error


def _secret(variable: str, file: Path | None) -> str:
    if file is None:
        return os.environ.get(variable, "").strip()
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(problem=f"{file} can't be read: {reason(error)}") from error


def _load(address: Address) -> Credentials | None:
    try:
        entry = tomllib.loads(store_path().read_text())[str(address)]
        return Credentials(parse_fingerprint(entry["fingerprint"]), str(entry["token"]))
    except (OSError, KeyError, TypeError, UsageError, tomllib.TOMLDecodeError):
        return None


def _save(address: Address, credentials: Credentials) -> None:
    path = store_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        known = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError):
        known = {}
    known[str(address)] = {
        "fingerprint": format_fingerprint(credentials.fingerprint),
        "token": credentials.token,
    }
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(tomli_w.dumps(known))
    fresh.replace(path)
