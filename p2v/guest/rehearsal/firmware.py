# SPDX-License-Identifier: GPL-3.0-or-later
"""Which firmware a disk boots with, told by its partition table.

GPT: UEFI specification 2.10, section 5.3. Every field read is bounded; a damaged table is no table.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from uuid import UUID

from p2v.images.base import ImageReader
from p2v.model.machine import FirmwareKind

_MBR_SIGNATURE = b"\x55\xaa"
_MBR_ESP = 0xEF
_GPT_SIGNATURE = b"EFI PART"
_ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").bytes_le
_BIOS_BOOT = UUID("21686148-6449-6e6f-744e-656564454649").bytes_le
_MAX_ENTRIES = 1024


def firmware_of(disk: ImageReader) -> FirmwareKind:
    """Return UEFI for a disk with an EFI system partition and no boot code for a BIOS."""
    first = _read(disk, 0, 512)
    gpt = set(_gpt_types(disk))
    bios_code = first[510:] == _MBR_SIGNATURE and any(first[:440])
    mbr = {first[446 + 16 * number + 4] for number in range(4)}
    has_esp = _ESP in gpt or (not gpt and _MBR_ESP in mbr)
    if has_esp and not (_BIOS_BOOT in gpt and bios_code):
        return FirmwareKind.UEFI
    return FirmwareKind.BIOS


def _gpt_types(disk: ImageReader) -> Iterator[bytes]:
    """Yield the partition type of each used entry; nothing where there is no valid GPT."""
    for sector in dict.fromkeys((disk.sector_size, 512, 4096)):
        header = _read(disk, sector, 92)
        if header[:8] != _GPT_SIGNATURE:
            continue
        size, checksum = struct.unpack_from("<II", header, 12)
        start, count, length = struct.unpack_from("<QII", header, 72)
        blank = header[:16] + bytes(4) + header[20:]
        if size != len(header) or zlib.crc32(blank) != checksum or not 128 <= length <= 4096:
            continue
        for number in range(min(count, _MAX_ENTRIES)):
            kind = _read(disk, start * sector + number * length, 16)
            if any(kind):
                yield kind
        return


def _read(disk: ImageReader, offset: int, length: int) -> bytes:
    """Return bytes of the disk; zeros where it has ended."""
    data = bytearray(length)
    if offset >= 0 and offset + length <= disk.size:
        disk.readinto(offset, data)
    return bytes(data)
