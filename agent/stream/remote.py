# SPDX-License-Identifier: GPL-3.0-or-later
"""A converter over TLS: the control API with `requests`, data connections on plain sockets.

The converter's certificate is self-signed and known by its fingerprint from the pairing; it is
compared before the first secret is sent. Nothing from the environment (proxies, CA bundles) gets a
say: `requests` lets REQUESTS_CA_BUNDLE override `verify` silently.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import ssl
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

import p2v
from agent.stream.converter import Connection, ConnectionLostError
from p2v.model.errors import (
    FingerprintMismatchError,
    MigrationStateError,
    P2VError,
    ProtocolError,
    UnreachableError,
    UsageError,
)
from p2v.model.migration import Migration, MigrationState
from p2v.model.pairing import fingerprint_of, format_fingerprint
from p2v.model.plan import Plan
from p2v.model.planfile import from_json, to_json
from p2v.model.problem import error_of
from p2v.wire.codec import Buffer
from p2v.wire.frame import ACK_SIZE, ALPN, VERSION, AckKind, Frame, Kind, parse_ack
from p2v.wire.hello import Hello, read_welcome, receive_exact, receive_message, send_message

DEFAULT_PORT = 8443
CONNECT_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 60.0
SEND_TIMEOUT_S = 60.0
FLUSH_TIMEOUT_S = 900.0
"""A flush waits for the converter's disk; a slow one with a full write cache takes minutes."""
RELEASE_TIMEOUT_S = 3.0
"""Giving a lease back saves the next agent a wait of seconds; it is not worth a longer one here."""
USER_TIMEOUT_MS = 30_000
HEARTBEAT_S = 5.0
SERVICE_UNAVAILABLE = 503
NO_LEASE = "none"
_HOST = re.compile(r"[\w.-]+|[0-9a-fA-F:.]+(%[\w.-]+)?")
"""A name, an IPv4 address, or an IPv6 address with or without a zone."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a converter listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address in ``https://host:8443``, ``host:port`` or ``host``.

        Raises:
            UsageError: `text` is no such address.
        """
        try:
            parts = urlsplit(text if "//" in text else f"https://{text}")
            if parts.scheme != "https" or parts.path not in ("", "/"):
                raise ValueError
            host = parts.hostname or ""
            if not _HOST.fullmatch(host):
                raise ValueError
            return cls(host, parts.port or DEFAULT_PORT)
        except ValueError:
            raise UsageError(
                problem=f"'{text}' is no converter's address; write https://HOST:PORT"
            ) from None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What pairing gave: the digest of the converter's certificate, and a token."""

    fingerprint: bytes
    token: str = field(repr=False)


class PinnedAdapter(HTTPAdapter):
    """Speaks TLS only with the certificate of one fingerprint."""

    def __init__(self, fingerprint: bytes) -> None:
        self._fingerprint = fingerprint.hex()
        super().__init__(pool_maxsize=16)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pool that compares fingerprints."""
        kwargs["assert_fingerprint"] = self._fingerprint
        super().init_poolmanager(*args, **kwargs)


def client_context() -> ssl.SSLContext:
    """Return a TLS context that checks no certificate: the caller compares its fingerprint."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def peer_fingerprint(address: Address) -> bytes:
    """Return the digest of the certificate that is shown at `address`.

    Raises:
        UnreachableError: nobody answers there in TLS.
    """
    with contextlib.closing(_dial(address, client_context())) as stream:
        return _peer(stream)


def _peer(stream: ssl.SSLSocket) -> bytes:
    certificate = stream.getpeercert(binary_form=True)
    if certificate is None:
        raise ProtocolError(problem="the converter shows no certificate")
    return fingerprint_of(certificate)


def _dial(address: Address, context: ssl.SSLContext) -> ssl.SSLSocket:
    try:
        plain = socket.create_connection((address.host, address.port), CONNECT_TIMEOUT_S)
    except OSError as error:
        raise UnreachableError(server=address, problem=_reason(error)) from error
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        return context.wrap_socket(plain, server_hostname=address.host)
    except OSError as error:
        plain.close()
        raise UnreachableError(server=address, problem=_reason(error)) from error


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[0].lower() + text[1:].rstrip(".")


class RemoteConverter:
    """A converter that was paired with. Keeps one lease alive with a heartbeat thread."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        self.address = str(address)
        self._address = address
        self._credentials = credentials
        self._agent = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = False
        self._session.mount("https://", PinnedAdapter(credentials.fingerprint))
        self._session.headers["Authorization"] = f"Bearer {credentials.token}"
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._context = client_context()
        self._context.set_alpn_protocols([ALPN])
        self._lock = threading.Lock()
        self._leases: dict[str, str] = {}

    def create(self, plan: Plan, id: str = "") -> Migration:  # noqa: A002
        """Start a migration, under an id of one's own if one is given; it may be repeated then."""
        body = {"plan": to_json(plan)} | ({"id": id} if id else {})
        return _migration(self._call("POST", "/migrations", body))

    def get(self, id: str) -> Migration:  # noqa: A002
        """Return a migration as it stands."""
        return _migration(self._call("GET", f"/migrations/{id}"))

    def lease(self, id: str) -> None:  # noqa: A002
        """Take the right to send a migration."""
        with self._lock:
            self._take_lease(id)

    def _take_lease(self, migration: str) -> str:
        answer = self._call("POST", f"/migrations/{migration}/lease", {"agent": self._agent})
        self._leases[migration] = str(answer["lease"])
        return self._leases[migration]

    def check(self) -> None:
        """Ask something harmless, to see whether the converter answers and knows us.

        Raises:
            P2VError: it does not; the error says why.
        """
        self._call("GET", "/migrations")

    def placement(self, plan: Plan) -> list[Any]:
        """Return the converter's ratings of its hosts for `plan` (docs/placement.md)."""
        ratings = self._call("POST", "/placement", {"plan": to_json(plan)}).get("ratings")
        return ratings if isinstance(ratings, list) else []

    def networks(self) -> list[str]:
        """Return the names of the networks that the converter's hosts have."""
        hosts = self._call("GET", "/hosts").get("hosts")
        facts = [each.get("facts", {}) for each in hosts] if isinstance(hosts, list) else []
        names = [str(net.get("name", "")) for each in facts for net in each.get("networks", ())]
        return sorted({name for name in names if name})

    def script(self, plan: Plan) -> tuple[str, str]:
        """Return for which hypervisor, and the script that will make the plan's machine there."""
        answer = self._call("POST", "/script", {"plan": to_json(plan)})
        return str(answer.get("kind", "")), str(answer.get("text", ""))

    def conversion(self, id: str) -> dict[str, Any]:  # noqa: A002
        """Return the report on a finished migration's guest (docs/guest.md)."""
        return self._call("GET", f"/migrations/{id}/conversion")

    def machine(self, id: str) -> dict[str, Any]:  # noqa: A002
        """Return what became of a migration's virtual machine (docs/hosts.md)."""
        return self._call("GET", f"/migrations/{id}/machine")

    def heartbeat(self, id: str) -> None:  # noqa: A002
        """Keep the lease while no data connection does."""
        lease = self._leases.get(id)
        if lease is not None:
            self._call("POST", f"/migrations/{id}/heartbeat", {"lease": lease})

    def digests(self, id: str, disk: int, group: int) -> bytes:  # noqa: A002
        """Return a group of a disk's digest map."""
        return self._request("GET", f"/migrations/{id}/disks/{disk}/digests/{group}").content

    def connect(self, id: str, lane: str = "") -> Connection:  # noqa: A002
        """Open a data connection; takes the lease anew if the converter no longer knows it."""
        return self._leased(id, partial(self._connect, id, lane))

    def _leased(self, migration: str, action: Callable[[str], T]) -> T:
        """Call `action` with the lease, and again with a new one if that one is worth nothing.

        The converter forgets leases when it is started anew.
        """
        lease = self._leases.get(migration, NO_LEASE)
        try:
            return action(lease)
        except MigrationStateError:
            with self._lock:
                if self._leases.get(migration, NO_LEASE) == lease:
                    self._take_lease(migration)
                lease = self._leases[migration]
            return action(lease)

    def _connect(self, migration: str, lane: str, lease: str) -> Connection:
        stream = _dial(self._address, self._context)
        try:
            actual = _peer(stream)
            if actual != self._credentials.fingerprint:
                raise FingerprintMismatchError(
                    server=self._address,
                    actual=format_fingerprint(actual),
                    expected=format_fingerprint(self._credentials.fingerprint),
                )
            if stream.selected_alpn_protocol() != ALPN:
                raise ProtocolError(problem=f"{self._address} does not speak {ALPN}")
            stream.settimeout(SEND_TIMEOUT_S)
            agent = f"p2v-agent {p2v.__version__}"
            hello = Hello([VERSION], self._credentials.token, migration, lease, agent, lane)
            send_message(stream, hello)
            answer = receive_message(stream)
            if "error" in answer:
                raise self._refusal(answer["error"])
            read_welcome(answer)
        except OSError as error:
            stream.close()
            raise UnreachableError(server=self._address, problem=_reason(error)) from error
        except BaseException:
            stream.close()
            raise
        return RemoteConnection(stream)

    def complete(self, id: str, report: dict[str, Any]) -> None:  # noqa: A002
        """Say that everything was sent."""

        def post(lease: str) -> None:
            body = {"lease": lease, "report": report}
            self._call("POST", f"/migrations/{id}/complete", body)

        self._leased(id, post)

    def keep_evidence(self, id: str, bundle: bytes) -> None:  # noqa: A002
        """Keep an evidence bundle with the migration."""
        self._request("PUT", f"/migrations/{id}/evidence", content=bundle)

    def cancel(self, id: str) -> None:  # noqa: A002
        """End a migration for good; its unfinished images are deleted."""
        self._call("POST", f"/migrations/{id}/cancel")

    def close(self) -> None:
        """Give the leases back, as far as the converter can be told, and close."""
        for migration, lease in self._leases.items():
            with contextlib.suppress(P2VError):
                path = f"/migrations/{migration}/release"
                self._request("POST", path, {"lease": lease}, RELEASE_TIMEOUT_S)
        self._session.close()

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self._request(method, path, body)
        document = answer.json() if answer.content else {}
        return document if isinstance(document, dict) else {"items": document}

    def _request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
        content: bytes | None = None,
    ) -> requests.Response:
        url = f"{self._address}/api/v1{path}"
        timeouts = (min(CONNECT_TIMEOUT_S, timeout_s), timeout_s)
        try:
            answer = self._session.request(method, url, json=body, data=content, timeout=timeouts)
        except requests.exceptions.SSLError as error:
            raise self._tls_error(error) from error
        except requests.exceptions.RequestException as error:
            raise UnreachableError(server=self._address, problem=_root(error)) from error
        if answer.ok:
            return answer
        try:
            document = json.loads(answer.content)
        except ValueError:
            document = {"detail": f"{self._address} answers {answer.status_code}"}
        raise self._refusal(document, answer.status_code)

    def _refusal(self, document: object, status: int = 0) -> P2VError:
        """Return the error that a problem document describes.

        A converter that is starting or stopping, or whose database is busy, is away for a while.
        """
        known = document if isinstance(document, dict) else {}
        if known.get("status", status) == SERVICE_UNAVAILABLE:
            problem = str(known.get("detail", "it is busy")).rstrip(".")
            return UnreachableError(server=self._address, problem=problem)
        return error_of(known)

    def _tls_error(self, error: Exception) -> P2VError:
        actual = peer_fingerprint(self._address)
        if actual == self._credentials.fingerprint:
            return UnreachableError(server=self._address, problem=_root(error))
        return FingerprintMismatchError(
            server=self._address,
            actual=format_fingerprint(actual),
            expected=format_fingerprint(self._credentials.fingerprint),
        )


def _migration(document: dict[str, Any]) -> Migration:
    """Return the migration that the API shows; what a newer converter adds is passed over."""
    try:
        return Migration(
            id=str(document["id"]),
            plan=from_json(document["plan"]),
            state=MigrationState(document["state"]),
            created=float(document["created"]),
            updated=float(document["updated"]),
            owner=str(document.get("owner", "")),
            problem=str(document.get("problem", "")),
            problem_code=str(document.get("problem_code", "")),
            images=tuple(str(path) for path in document.get("images", ())),
            verified=_verified(document.get("progress", {})),
            report=dict(document.get("report", {})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(problem=f"the converter's migration can't be read ({error})") from None


def _verified(progress: dict[str, Any]) -> tuple[int, int]:
    return int(progress.get("verified_bytes", 0)), int(progress.get("verify_bytes", 0))


def _root(error: Exception) -> str:
    """Return the innermost reason; urllib3 and requests each wrap it."""
    seen: BaseException = error
    while isinstance(inner := getattr(seen, "reason", None) or seen.__context__, BaseException):
        seen = inner
    return _reason(seen)


class RemoteConnection:
    """A data connection over TLS."""

    def __init__(self, stream: ssl.SSLSocket) -> None:
        self._stream = stream
        self._durable = 0
        self._head = bytearray(ACK_SIZE)

    def send(self, frames: Sequence[tuple[Frame, Buffer]]) -> None:
        """Send frames in one write: a TLS record costs more than the copy."""
        parts: list[Buffer] = []
        for frame, payload in frames:
            parts.append(frame.pack())
            parts.append(payload)
        try:
            self._stream.sendall(b"".join(parts))
        except OSError as error:
            self._read_reason()
            raise ConnectionLostError(_reason(error)) from error

    def durable(self) -> int:
        """Return the last sequence number heard of, without waiting."""
        try:
            while self._readable():
                self._read_ack()
        except OSError as error:
            raise ConnectionLostError(_reason(error)) from error
        return self._durable

    def flush(self, sequence: int) -> None:
        """Ask for durability and wait for it."""
        self.send([(Frame(Kind.FLUSH, sequence=sequence), b"")])
        try:
            self._stream.settimeout(FLUSH_TIMEOUT_S)
            while self._durable < sequence:
                self._read_ack()
            self._stream.settimeout(SEND_TIMEOUT_S)
        except OSError as error:
            raise ConnectionLostError(_reason(error)) from error

    def close(self) -> None:
        """Close the socket."""
        self._stream.close()

    def _readable(self) -> bool:
        return self._stream.pending() > 0 or bool(select.select([self._stream], [], [], 0)[0])

    def _read_ack(self) -> None:
        try:
            if not receive_exact(self._stream, self._head):
                raise ConnectionLostError("the converter closed the connection")
            ack, length = parse_ack(self._head)
            text = bytearray(length)
            if length and not receive_exact(self._stream, text):
                raise ConnectionLostError("the converter closed the connection")
        except ProtocolError as error:
            raise ConnectionLostError(str(error)) from error
        if ack.kind is AckKind.ERROR:
            raise error_of(json.loads(text))
        self._durable = max(self._durable, ack.sequence)

    def _read_reason(self) -> None:
        """Raise the error that the converter sent before it hung up, if there is one."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.settimeout(2.0)
            while True:
                self._read_ack()
