# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames: what the agent sends, and the acknowledgements that come back (docs/wire.md).

A frame is an 80-byte header and a payload. Offsets are absolute, so that a frame may arrive twice
or out of order without harm. Everything in a header is checked against the disk's size and the
grid before a byte of payload is read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

import native
from p2v.model.errors import ProtocolError
from p2v.wire.chunk import CHUNK_SIZE, DIGEST_SIZE, UNKNOWN, chunk_length

VERSION = 1
ALPN = "p2v/1"
FRAME_MAGIC = b"P2VF"
ACK_MAGIC = b"P2VA"

_HEADER = struct.Struct("<4sBBBBHHIQQQ32sI")
_CRC = struct.Struct("<I")
HEADER_SIZE = _HEADER.size + _CRC.size
_ACK = struct.Struct("<4sBBHQI")
ACK_SIZE = _ACK.size + _CRC.size
MAX_ACK_TEXT = 64 * 1024
MAX_ZERO_LENGTH = 1 << 62


class Kind(IntEnum):
    """What a frame says about its range."""

    DATA = 1
    """The payload is the chunk."""
    ZERO = 2
    """The range reads as zeros; no payload, any number of whole chunks."""
    PAGES = 3
    """The payload holds the 4 KiB pages of the chunk that changed; the rest is as it was."""
    FLUSH = 4
    """Make durable all that this connection has sent, then say so; no range, no payload."""
    FORGET = 5
    """The range is about to be sent anew, so what is known of it counts no more; no payload."""


class WireCodec(IntEnum):
    """How a payload is compressed."""

    NONE = 0
    ZSTD = 1
    LZF = 2


class AckKind(IntEnum):
    """What the converter says."""

    DURABLE = 1
    """Every frame up to `sequence` survives a loss of power."""
    ERROR = 2
    """The session ends; the text is a problem document (JSON)."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame's header. `length` are bytes of disk, `payload` bytes that follow on the wire."""

    kind: Kind
    disk: int = 0
    offset: int = 0
    length: int = 0
    sequence: int = 0
    codec: WireCodec = WireCodec.NONE
    payload: int = 0
    digest: bytes = UNKNOWN

    def pack(self) -> bytes:
        """Return the header as `HEADER_SIZE` bytes."""
        head = _HEADER.pack(
            FRAME_MAGIC,
            VERSION,
            self.kind,
            self.codec,
            0,
            self.disk,
            0,
            self.payload,
            self.offset,
            self.length,
            self.sequence,
            self.digest,
            0,
        )
        return head + _CRC.pack(native.crc32c(head))


@dataclass(frozen=True, slots=True)
class Ack:
    """A message from the converter."""

    kind: AckKind
    sequence: int = 0
    text: str = ""

    def pack(self) -> bytes:
        """Return the message as bytes, its text included."""
        text = self.text.encode()[:MAX_ACK_TEXT]
        head = _ACK.pack(ACK_MAGIC, VERSION, self.kind, 0, self.sequence, len(text))
        return head + _CRC.pack(native.crc32c(head)) + text


def parse_frame(
    header: bytes | bytearray | memoryview, sizes: list[int] | tuple[int, ...]
) -> Frame:
    """Return the frame that `header` describes, checked against the disks' `sizes` in bytes.

    Raises:
        ProtocolError: anything in it breaks docs/wire.md; the connection can't go on, as nothing
            says where the next frame begins.
    """
    _check_crc(header, HEADER_SIZE, "frame")
    magic, version, kind, codec, flags, disk, pad, payload, offset, length, seq, digest, pad2 = (
        _HEADER.unpack_from(header)
    )
    if magic != FRAME_MAGIC:
        raise ProtocolError(problem=f"a frame starts with {magic!r}, not {FRAME_MAGIC!r}")
    if version != VERSION:
        raise ProtocolError(problem=f"frame version {version}; this converter speaks {VERSION}")
    if flags or pad or pad2:
        raise ProtocolError(problem="reserved bits of a frame are set")
    try:
        frame = Frame(Kind(kind), disk, offset, length, seq, WireCodec(codec), payload, digest)
    except ValueError as error:
        raise ProtocolError(problem=f"a frame of {error}") from None
    _check_range(frame, sizes)
    return frame


def _check_crc(header: bytes | bytearray | memoryview, size: int, what: str) -> None:
    view = memoryview(header)
    if len(view) != size:
        raise ProtocolError(problem=f"a {what} header of {len(view)} bytes, expected {size}")
    (crc,) = _CRC.unpack_from(view, size - _CRC.size)
    if native.crc32c(view[: -_CRC.size]) != crc:
        raise ProtocolError(problem=f"the checksum of a {what} header is wrong")


def _check_range(frame: Frame, sizes: list[int] | tuple[int, ...]) -> None:
    if frame.kind is Kind.FLUSH:
        if frame.payload or frame.length or frame.offset:
            raise ProtocolError(problem="a FLUSH frame has a range or a payload")
        return
    if frame.disk >= len(sizes):
        raise ProtocolError(problem=f"disk {frame.disk} of {len(sizes)}")
    size = sizes[frame.disk]
    where = f"at {frame.offset}+{frame.length} of a disk of {size} bytes"
    if frame.offset % CHUNK_SIZE or not 0 < frame.length <= size - frame.offset:
        raise ProtocolError(problem=f"a range off the grid or off the disk, {where}")
    if frame.kind in (Kind.ZERO, Kind.FORGET):
        if frame.payload or (frame.length % CHUNK_SIZE and frame.offset + frame.length != size):
            name = frame.kind.name
            raise ProtocolError(
                problem=f"a {name} frame with a payload or a partial chunk, {where}"
            )
        return
    if frame.length != chunk_length(frame.offset // CHUNK_SIZE, size):
        raise ProtocolError(problem=f"not one whole chunk, {where}")
    if frame.kind is Kind.PAGES and frame.codec is WireCodec.NONE:
        limit = frame.length + MAX_PAGES_HEAD
    else:
        limit = frame.length
    if not 0 < frame.payload <= limit:
        raise ProtocolError(problem=f"a payload of {frame.payload} bytes, {where}")
    if frame.kind is Kind.DATA and frame.codec is WireCodec.NONE and frame.payload != frame.length:
        raise ProtocolError(problem=f"an uncompressed payload of {frame.payload} bytes, {where}")


def parse_ack(header: bytes | bytearray | memoryview) -> tuple[Ack, int]:
    """Return the message in `header` and the length of the text that follows it.

    Raises:
        ProtocolError: it breaks docs/wire.md.
    """
    _check_crc(header, ACK_SIZE, "message")
    magic, version, kind, pad, sequence, length = _ACK.unpack_from(header)
    if magic != ACK_MAGIC or version != VERSION or pad or length > MAX_ACK_TEXT:
        raise ProtocolError(problem="a message that is none of this version")
    try:
        return Ack(AckKind(kind), sequence), length
    except ValueError as error:
        raise ProtocolError(problem=f"a message of {error}") from None


MAX_PAGES_HEAD = 4 + 2 + 4 * (CHUNK_SIZE // 4096)
"""Bytes before the pages of a PAGES payload at most: its length, a count, a run a page."""

assert len(UNKNOWN) == DIGEST_SIZE  # noqa: S101 - the header's layout depends on it
