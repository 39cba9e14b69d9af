# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds VHDX logs by the specification's words ([MS-VHDX] 2.3), apart from the code that reads."""

from __future__ import annotations

import struct
from pathlib import Path
from uuid import UUID

from native import crc32c

LOG_ID = UUID("0a6b6f0e-3a43-4d9d-93a5-4c1c0c6c3c11")
LOG_AT, LOG_LENGTH = 1 << 20, 1 << 20
Change = tuple[int, bytes] | tuple[int, int]


def sealed(raw: bytearray) -> bytes:
    raw[4:8] = bytes(4)
    raw[4:8] = crc32c(bytes(raw)).to_bytes(4, "little")
    return bytes(raw)


def entry(sequence: int, tail: int, changes: list[Change], file_size: int) -> bytes:
    """One log entry: pages of 4096 bytes to write, or (offset, length) to clear."""
    descriptors, data = b"", b""
    for offset, what in changes:
        if isinstance(what, int):
            descriptors += struct.pack("<4s4xQQQ", b"zero", what, offset, sequence)
            continue
        descriptors += struct.pack("<4s4s8sQQ", b"desc", what[-4:], what[:8], offset, sequence)
        high, low = sequence >> 32, sequence & 0xFFFFFFFF
        data += b"data" + struct.pack("<I", high) + what[8:-4] + struct.pack("<I", low)
    head = -(-(64 + len(descriptors)) // 4096) * 4096
    raw = bytearray(head + len(data))
    raw[head:] = data
    raw[64 : 64 + len(descriptors)] = descriptors
    struct.pack_into(
        "<4sIIIQII16sQQ",
        raw,
        0,
        b"loge",
        0,
        len(raw),
        tail,
        sequence,
        len(changes),
        0,
        LOG_ID.bytes_le,
        file_size,
        file_size,
    )
    return sealed(raw)


def put_log(path: Path, at: int, entries: list[bytes]) -> None:
    """Lay entries into the ring from byte `at` on, and say in the header that there is a log."""
    with path.open("r+b") as file:
        for raw in entries:
            for start in range(0, len(raw), 4096):
                file.seek(LOG_AT + (at + start) % LOG_LENGTH)
                file.write(raw[start : start + 4096])
            at += len(raw)
    point_to_log(path)


def point_to_log(path: Path) -> None:
    with path.open("r+b") as file:
        for slot in (0x10000, 0x20000):
            file.seek(slot)
            header = bytearray(file.read(4096))
            header[48:64] = LOG_ID.bytes_le
            file.seek(slot)
            file.write(sealed(header))
