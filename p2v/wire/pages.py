# SPDX-License-Identifier: GPL-3.0-or-later
"""PAGES payloads: the 4 KiB pages of a chunk that changed.

Uncompressed: u16 count of runs, then a run each (u16 first page, u16 pages), then the pages' bytes
in order. The whole is compressed like a chunk; its length before compression is sent as u32 first.
The frame's digest is that of the chunk after the pages were put in.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import native
from p2v.model.errors import ProtocolError
from p2v.wire.codec import Buffer, Decoder, Encoder
from p2v.wire.frame import MAX_PAGES_HEAD, WireCodec

PAGE_SIZE = 4096
_COUNT = struct.Struct("<H")
_RUN = struct.Struct("<HH")
_LENGTH = struct.Struct("<I")


Runs = Sequence[tuple[int, int]]
"""Pages of a chunk: (first page, count of pages), ascending and merged."""


def page_bytes(runs: Runs) -> int:
    """Return the bytes of these pages; a disk's last page may have fewer."""
    return sum(count for _, count in runs) * PAGE_SIZE


def pack(new: Buffer, runs: Runs, encoder: Encoder) -> tuple[WireCodec, bytes]:
    """Return the payload that carries the pages `runs` of the chunk `new`."""
    return pack_taken(native.pack_pages(new, runs, PAGE_SIZE), runs, encoder)


def pack_taken(taken: Buffer, runs: Runs, encoder: Encoder) -> tuple[WireCodec, bytes]:
    """Return the payload that carries the pages `runs`, whose bytes in order are `taken`."""
    head = _COUNT.pack(len(runs)) + b"".join(_RUN.pack(*run) for run in runs)
    body = head + taken
    codec, packed = encoder.encode(body)
    return codec, _LENGTH.pack(len(body)) + bytes(packed)


def apply(chunk: bytearray, codec: WireCodec, payload: Buffer, decoder: Decoder) -> Runs:
    """Put the pages that `payload` carries into `chunk`; return which they are.

    Raises:
        ProtocolError: the payload is damaged, or has pages outside the chunk.
    """
    view = memoryview(payload)
    if len(view) < _LENGTH.size:
        raise ProtocolError(problem="a PAGES payload without its length")
    (length,) = _LENGTH.unpack_from(view)
    if not _COUNT.size <= length <= len(chunk) + MAX_PAGES_HEAD:
        raise ProtocolError(problem=f"a PAGES payload of {length} bytes")
    body = memoryview(decoder.decode(codec, view[_LENGTH.size :], length))
    (count,) = _COUNT.unpack_from(body)
    start = _COUNT.size + count * _RUN.size
    if start > len(body):
        raise ProtocolError(problem=f"a PAGES payload with {count} runs in {length} bytes")
    runs = [_RUN.unpack_from(body, _COUNT.size + i * _RUN.size) for i in range(count)]
    try:
        native.apply_pages(chunk, runs, body[start:], PAGE_SIZE)
    except ValueError as error:
        raise ProtocolError(problem=f"a PAGES payload whose runs do not fit ({error})") from None
    return runs
