# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS to hosts whose certificates nobody signed: known by their fingerprint instead."""

from __future__ import annotations

import hashlib
import socket
import ssl
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from p2v.hosts.connection import Connection
from p2v.model.errors import HostUnreachableError

_TIMEOUT_S = 30.0
_JUST_THIS_ONE = 0x80000 | 0x200000
"""X509_V_FLAG_PARTIAL_CHAIN and NO_CHECK_TIME: no authority and no date says more than we know."""
_SHA1_DIGITS = 40
_OLD_KEYS = "DEFAULT:@SECLEVEL=1"
"""Hosts that were set up years ago have RSA keys of 1024 bits."""


def tls_context(connection: Connection, host: str, port: int) -> ssl.SSLContext:
    """Return a context that trusts the connection's certificate only, or else the system's.

    The certificate is fetched and compared once; the context then demands just that one, so that
    nobody can put another into a later connection.

    Raises:
        HostUnreachableError: nothing answers there, or with another certificate.
    """
    if not connection.fingerprint:
        return _signed_context(connection.name, host, port)
    return certificate_context(connection.name, host, port, connection.fingerprint)


def _signed_context(name: str, host: str, port: int) -> ssl.SSLContext:
    """Return the system's context; say what to do if it does not trust the host."""
    context = ssl.create_default_context()
    try:
        with (
            socket.create_connection((host, port), _TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return context
    except ssl.SSLCertVerificationError as error:
        pem = ssl.get_server_certificate((host, port), timeout=_TIMEOUT_S)
        found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        problem = (
            f"its certificate is not trusted ({error.verify_message}); look at the host for its "
            f"SHA-256 fingerprint, and if that is {found}, add it with --fingerprint"
        )
        raise HostUnreachableError(host=name, problem=problem) from None
    except (OSError, ValueError) as error:
        raise HostUnreachableError(host=name, problem=str(error)) from None


def certificate_context(name: str, host: str, port: int, fingerprint: str) -> ssl.SSLContext:
    """Return a context that trusts just the certificate of `fingerprint`, which `host` must show.

    `fingerprint` is hex, with or without colons: SHA-256, or the SHA-1 that vCenter gives out.

    Raises:
        HostUnreachableError: nothing answers there, or with another certificate; as `name`.
    """
    wanted = fingerprint.replace(":", "").lower()
    try:
        pem = ssl.get_server_certificate((host, port), timeout=_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise HostUnreachableError(host=name, problem=str(error)) from None
    digest = hashlib.sha1 if len(wanted) == _SHA1_DIGITS else hashlib.sha256
    found = digest(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    if found != wanted:
        problem = f"it shows the certificate {found}, not {wanted}"
        raise HostUnreachableError(host=name, problem=problem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= _JUST_THIS_ONE
    context.set_ciphers(_OLD_KEYS)
    context.load_verify_locations(cadata=pem)
    return context


class _Adapter(HTTPAdapter):
    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Give the pool our context."""
        kwargs["ssl_context"] = self._context
        if not self._context.check_hostname:
            kwargs["assert_hostname"] = False
        super().init_poolmanager(*args, **kwargs)

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Leave the check to the context: requests would load its own authorities."""


def session(context: ssl.SSLContext) -> requests.Session:
    """Return a session that uses `context` for all it does, whatever the environment says."""
    made = requests.Session()
    mount(made, context)
    return made


def mount(into: requests.Session, context: ssl.SSLContext) -> None:
    """Have a session use `context` for all it does, whatever the environment says."""
    into.trust_env = False
    into.mount("https://", _Adapter(context))
