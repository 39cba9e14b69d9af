# SPDX-License-Identifier: GPL-3.0-or-later
"""The base block: the first page of a hive, and the first sector of each of its logs."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import ClassVar, Self

from p2v.model.units import KiB, MiB

PAGE = 4 * KiB
"""The length of a base block in a hive; bins follow it, and are multiples of this long."""
SECTOR = 512
"""The length of a base block in a log, whatever the disk's sectors are."""
MAX_HIVE = 256 * MiB
"""No SYSTEM hive that is larger is read: real ones have some tens of MiB."""

KTM_LOCKED = 0x1
"""In `flags`: transactions of the kernel's manager (\\*.TM.blf) were pending."""

_MASK = 0xFFFFFFFF


class HiveDamagedError(Exception):
    """A hive or log is not what the format demands; the message says where."""


class FileType(IntEnum):
    """What a base block begins."""

    PRIMARY = 0
    LOG = 1
    LOG_OF_2000 = 2
    LOG_OF_ENTRIES = 6


@dataclass(frozen=True, slots=True)
class BaseBlock:
    """The fields that matter of a base block ("Base block").

    Attributes:
        primary, secondary: sequence numbers; they differ while a hive is being written.
        written: FILETIME of the last write; 0 as of Windows 8.1.
        minor: version of the format, 1.`minor`.
        file_type: see `FileType`; other numbers occur in damaged files.
        root: offset of the root key's cell in the bins.
        length: bytes of all bins.
        flags: see `KTM_LOCKED`.
        intact: whether the checksum is right.
    """

    primary: int
    secondary: int
    written: int
    minor: int
    file_type: int
    root: int
    length: int
    flags: int
    intact: bool

    _FIELDS: ClassVar = struct.Struct("<4sIIQIIIIII")
    _FLAGS_AT: ClassVar = 144
    _CHECKSUM_AT: ClassVar = SECTOR - 4

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read a base block from the start of a file.

        Raises:
            HiveDamagedError: it is too short, or none.
        """
        if len(raw) < SECTOR:
            raise HiveDamagedError("it is shorter than a base block")
        fields = cls._FIELDS.unpack_from(raw)
        signature, primary, secondary, written, major, minor, file_type, _, root, length = fields
        if signature != b"regf":
            raise HiveDamagedError("it has no signature")
        if major != 1:
            raise HiveDamagedError(f"it is of the unknown version {major}.{minor}")
        (flags,) = struct.unpack_from("<I", raw, cls._FLAGS_AT)
        (stored,) = struct.unpack_from("<I", raw, cls._CHECKSUM_AT)
        return cls(
            primary=primary,
            secondary=secondary,
            written=written,
            minor=minor,
            file_type=file_type,
            root=root,
            length=length,
            flags=flags,
            intact=stored == checksum(raw),
        )

    @property
    def dirty(self) -> bool:
        """Whether the hive needs its logs ("Dirty state of a hive")."""
        return not self.intact or self.primary != self.secondary

    def settled(self, sequence: int) -> Self:
        """Return the base block of a hive that was written whole, with this sequence number."""
        number = sequence & _MASK
        return replace(
            self, primary=number, secondary=number, file_type=FileType.PRIMARY, intact=True
        )

    def write_to(self, raw: bytearray) -> None:
        """Put the fields that recovery changes into the base block of a hive."""
        struct.pack_into("<II", raw, 4, self.primary, self.secondary)
        struct.pack_into("<I", raw, 28, self.file_type)
        struct.pack_into("<I", raw, 40, self.length)
        struct.pack_into("<I", raw, self._FLAGS_AT, self.flags)
        struct.pack_into("<I", raw, self._CHECKSUM_AT, checksum(bytes(raw[:SECTOR])))


def checksum(raw: bytes) -> int:
    """Return the XOR-32 of a base block's first 508 bytes, which is never 0 or -1."""
    value = 0
    for (word,) in struct.iter_unpack("<I", raw[: SECTOR - 4]):
        value ^= word
    return {0: 1, _MASK: _MASK - 1}.get(value, value)


def distance(sequence: int, other: int) -> int:
    """Return how far `sequence` is ahead of `other`; they count around at 32 bits."""
    ahead = (sequence - other) & _MASK
    return ahead - (_MASK + 1) if ahead > _MASK // 2 else ahead
