# SPDX-License-Identifier: GPL-3.0-or-later
"""The first exchange of a data connection: versions, credentials, the disks' sizes.

Both messages are a JSON object after its length (u32, little endian), 64 KiB at most.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from p2v.model.errors import ProtocolError
from p2v.wire.frame import VERSION

LENGTH = struct.Struct("<I")
MAX_HELLO = 64 * 1024


class Stream(Protocol):
    """The part of a socket that is needed here; a TLS socket is one."""

    def sendall(self, data: bytes | bytearray | memoryview, /) -> None:
        """Send all of `data`."""

    def recv_into(self, buffer: bytearray | memoryview, /) -> int:
        """Receive at most `buffer`; 0 at the end."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What the agent opens with.

    A connection takes the place of an earlier one of the same `lane`, which is ended first: what
    is still on its way there must not overwrite what the new one sends.
    """

    versions: list[int]
    token: str
    migration: str
    lease: str
    agent: str = ""
    lane: str = ""

    def __repr__(self) -> str:
        """Name the migration; never the secrets."""
        return f"Hello(migration={self.migration!r}, versions={self.versions})"


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the converter answers: the version chosen, and the size in bytes of each disk."""

    version: int
    chunk_size: int
    sizes: list[int]


def choose_version(offered: list[int]) -> int:
    """Return the version to speak with an agent that offers these.

    Raises:
        ProtocolError: none is spoken here.
    """
    if VERSION not in offered:
        raise ProtocolError(
            problem=f"the agent speaks versions {offered}, this converter only {VERSION}"
        )
    return VERSION


def send_message(stream: Stream, message: Hello | Welcome | dict[str, Any]) -> None:
    """Send `message` with its length."""
    body = json.dumps(message if isinstance(message, dict) else asdict(message)).encode()
    stream.sendall(LENGTH.pack(len(body)) + body)


def receive_exact(stream: Stream, buffer: bytearray | memoryview) -> bool:
    """Fill `buffer`; return False if the stream ended cleanly before its first byte.

    Raises:
        ConnectionAbortedError: the stream ended in the middle: the peer, or the network, is gone.
    """
    view = memoryview(buffer)
    got = 0
    while got < len(view):
        count = stream.recv_into(view[got:])
        if count == 0:
            if got == 0:
                return False
            raise ConnectionAbortedError(f"the connection ended {len(view) - got} bytes too soon")
        got += count
    return True


def receive_message(stream: Stream) -> dict[str, Any]:
    """Return the next message as a dictionary.

    Raises:
        ConnectionAbortedError: the stream ended before or in it.
        ProtocolError: it is too long or no JSON object.
    """
    head = bytearray(LENGTH.size)
    if not receive_exact(stream, head):
        raise ConnectionAbortedError("the connection ended before its first message")
    (length,) = LENGTH.unpack(head)
    if length > MAX_HELLO:
        raise ProtocolError(problem=f"a first message of {length} bytes")
    body = bytearray(length)
    if length and not receive_exact(stream, body):
        raise ConnectionAbortedError("the connection ended in its first message")
    try:
        message = json.loads(body)
    except ValueError:
        raise ProtocolError(problem="a first message that is no JSON") from None
    if not isinstance(message, dict):
        raise ProtocolError(problem="a first message that is no JSON object")
    return message


def _pick(cls: type[Any], message: dict[str, Any]) -> dict[str, Any]:
    return {field.name: message[field.name] for field in fields(cls) if field.name in message}


def read_hello(message: dict[str, Any]) -> Hello:
    """Return the agent's opening.

    Raises:
        ProtocolError: a field is missing or of the wrong type.
    """
    texts = ("token", "migration", "lease")
    versions = message.get("versions")
    if not isinstance(versions, list) or not all(isinstance(v, int) for v in versions):
        raise ProtocolError(problem="a hello without a list of versions")
    if not all(isinstance(message.get(name), str) for name in texts):
        raise ProtocolError(problem="a hello without token, migration or lease")
    if not isinstance(message.get("lane", ""), str):
        raise ProtocolError(problem="a hello whose lane is no text")
    return Hello(**_pick(Hello, message))


def read_welcome(message: dict[str, Any]) -> Welcome:
    """Return the converter's answer.

    Raises:
        ProtocolError: a field is missing or of the wrong type.
    """
    sizes = message.get("sizes")
    if not isinstance(sizes, list) or not all(isinstance(size, int) for size in sizes):
        raise ProtocolError(problem="a welcome without the disks' sizes")
    if message.get("version") != VERSION or not isinstance(message.get("chunk_size"), int):
        raise ProtocolError(problem=f"a welcome of version {message.get('version')}")
    return Welcome(**_pick(Welcome, message))
