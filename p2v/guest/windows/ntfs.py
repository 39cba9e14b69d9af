# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an NTFS volume is marked dirty, which drivers for it do not tell.

https://flatcap.github.io/linux-ntfs/ntfs/ ($Boot, FILE record, $Volume)
"""

from __future__ import annotations

import struct
from collections.abc import Callable

_VOLUME_RECORD = 3
_VOLUME_INFORMATION = 0x70
_END = 0xFFFFFFFF
_DIRTY = 0x1
_SECTOR = 512
_MAX_RECORD = 4096


def marked_dirty(read: Callable[[int, int], bytes]) -> bool:
    """Return whether Windows would run chkdsk on a volume; one that makes no sense is dirty.

    `read` returns so many bytes from an offset of the volume.
    """
    try:
        return _flags(_record(read)) & _DIRTY != 0
    except (struct.error, IndexError, ValueError):
        return True


def _record(read: Callable[[int, int], bytes]) -> bytes:
    """Return the record of $Volume; it always lies in the first piece of the table of files."""
    boot = read(0, _SECTOR)
    sector, clusters = struct.unpack_from("<HB", boot, 11)
    cluster = sector * (clusters if clusters <= 0x80 else 1 << 256 - clusters)
    (table,) = struct.unpack_from("<Q", boot, 48)
    (per_record,) = struct.unpack_from("<b", boot, 64)
    size = per_record * cluster if per_record > 0 else 1 << -per_record
    if not _SECTOR <= size <= _MAX_RECORD:
        raise ValueError(size)
    return _unprotected(read(table * cluster + _VOLUME_RECORD * size, size))


def _unprotected(raw: bytes) -> bytes:
    """Undo the update sequence: the last two bytes of each sector are kept apart."""
    if raw[:4] != b"FILE":
        raise ValueError(raw[:4])
    at, count = struct.unpack_from("<HH", raw, 4)
    record = bytearray(raw)
    for number in range(1, count):
        end = number * _SECTOR
        if record[end - 2 : end] != raw[at : at + 2]:
            raise ValueError(end)
        record[end - 2 : end] = raw[at + 2 * number : at + 2 * number + 2]
    return bytes(record)


def _flags(record: bytes) -> int:
    (at,) = struct.unpack_from("<H", record, 20)
    while at < len(record):
        kind, length = struct.unpack_from("<II", record, at)
        if kind == _VOLUME_INFORMATION:
            (content,) = struct.unpack_from("<H", record, at + 20)
            return int(struct.unpack_from("<H", record, at + content + 10)[0])
        if kind == _END or length == 0:
            break
        at += length
    raise ValueError(at)
