# SPDX-License-Identifier: GPL-3.0-or-later
"""Structures, identifiers and limits of the VHDX format, as bytes.

Specification: [MS-VHDX], https://learn.microsoft.com/openspecs/windows_protocols/ms-vhdx
(section numbers below are its own). All integers are little endian; all checksums are CRC-32C of
the whole structure with the checksum's own four bytes zero.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar
from uuid import UUID

from native import crc32c
from p2v.images.base import Buffer
from p2v.model.units import KiB, MiB, TiB

NO_ID = UUID(int=0)

# 2.2: the header area, the first MiB of the file.
FILE_SIGNATURE = b"vhdxfile"
FILE_ID_LENGTH = 64 * KiB
CREATOR_LENGTH = 512
HEADER_OFFSETS = (64 * KiB, 128 * KiB)
HEADER_LENGTH = 4 * KiB
REGION_TABLE_OFFSETS = (192 * KiB, 256 * KiB)
REGION_TABLE_LENGTH = 64 * KiB
HEADER_AREA_LENGTH = MiB
UNIT = MiB
"""Everything outside the header area lies at, and is long, a multiple of this."""

# 2.2.3: what the region table points to.
BAT_REGION = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA_REGION = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
MAX_REGIONS = 2047

# 2.6: metadata.
METADATA_TABLE_LENGTH = 64 * KiB
MAX_METADATA_ITEMS = 2047
MAX_METADATA_ITEM_LENGTH = MiB
FILE_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
VIRTUAL_DISK_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
VIRTUAL_DISK_ID = UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
LOGICAL_SECTOR_SIZE = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
PHYSICAL_SECTOR_SIZE = UUID("cda348c7-445d-4471-9cc9-e9885251c556")
PARENT_LOCATOR = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
INCOMPLETE_FILE = UUID("71cc85f0-1b69-4e28-9558-c3bf83ae75d3")
"""Present while a file is not fully initialised; a reader must refuse the file then."""

MAX_SIZE = 64 * TiB
MIN_BLOCK_SIZE = MiB
MAX_BLOCK_SIZE = 256 * MiB
SECTOR_SIZES = (512, 4096)
SECTORS_PER_BITMAP_BLOCK = 1 << 23  # 2.5: a sector bitmap block is 1 MiB, a bit a sector

# 2.3: the log.
LOG_SECTOR = 4 * KiB
LOG_SIGNATURE = b"loge"
DATA_DESCRIPTOR = b"desc"
ZERO_DESCRIPTOR = b"zero"
DATA_SECTOR = b"data"
FIRST_LOGGED_OFFSET = 192 * KiB  # the headers themselves are never logged


class ItemFlag(IntFlag):
    """Flags of a metadata item (2.6.1.2)."""

    IS_USER = 1
    IS_VIRTUAL_DISK = 2
    IS_REQUIRED = 4


class ParameterFlag(IntFlag):
    """Flags of the File Parameters item (2.6.2.1)."""

    LEAVE_BLOCKS_ALLOCATED = 1
    HAS_PARENT = 2


class BlockState(IntEnum):
    """States of a payload block (2.5.1.1); without a parent the first four read as zeros."""

    NOT_PRESENT = 0
    UNDEFINED = 1
    ZERO = 2
    UNMAPPED = 3
    FULLY_PRESENT = 6
    PARTIALLY_PRESENT = 7


STATE_MASK = 0b111
RESERVED_MASK = 0xFFFF8
OFFSET_MASK = ~0xFFFFF & (1 << 64) - 1
BAT_ENTRY = struct.Struct("<Q")

_CHECKSUM_AT = 4
_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
_REGION_TABLE = struct.Struct("<4sIII")
_REGION = struct.Struct("<16sQII")
_METADATA_TABLE = struct.Struct("<8sHH20x")
_ITEM = struct.Struct("<16sIII4x")
_LOG_ENTRY = struct.Struct("<4sIIIQII16sQQ")
_DESCRIPTOR = struct.Struct("<4s4s8sQQ")
_CHECKPOINT = struct.Struct("<8sQ")
_CHECKPOINT_MAGIC = b"p2v mark"


def checksum(structure: Buffer) -> int:
    """Return the CRC-32C of a structure, taking its checksum field as zero."""
    view = memoryview(structure)
    value = crc32c(bytes(4), crc32c(view[:_CHECKSUM_AT]))
    return crc32c(view[_CHECKSUM_AT + 4 :], value)


def is_sealed(structure: Buffer, signature: bytes) -> bool:
    """Tell whether a structure carries its signature and the right checksum."""
    view = memoryview(structure)
    stored = int.from_bytes(view[_CHECKSUM_AT : _CHECKSUM_AT + 4], "little")
    return view[: len(signature)] == signature and stored == checksum(view)


def seal(structure: bytearray) -> bytes:
    """Put the checksum in its field and return the finished structure."""
    struct.pack_into("<I", structure, _CHECKSUM_AT, checksum(structure))
    return bytes(structure)


def pack_file_id(creator: str) -> bytes:
    """Return the file type identifier (2.2.1)."""
    return (FILE_SIGNATURE + creator.encode("utf-16-le")[:CREATOR_LENGTH]).ljust(4 * KiB, b"\0")


@dataclass(frozen=True, slots=True)
class Header:
    """One of the two headers (2.2.2); the valid one with the larger sequence counts."""

    sequence: int
    file_write_id: UUID
    data_write_id: UUID
    log_id: UUID
    log_length: int
    log_offset: int
    log_version: int = 0
    version: int = 1

    def pack(self) -> bytes:
        """Return its 4 KiB, sealed."""
        raw = bytearray(HEADER_LENGTH)
        _HEADER.pack_into(
            raw,
            0,
            b"head",
            0,
            self.sequence,
            self.file_write_id.bytes_le,
            self.data_write_id.bytes_le,
            self.log_id.bytes_le,
            self.log_version,
            self.version,
            self.log_length,
            self.log_offset,
        )
        return seal(raw)

    @classmethod
    def unpack(cls, raw: Buffer) -> Header | None:
        """Return the header, or None where signature or checksum are wrong."""
        if not is_sealed(raw, b"head"):
            return None
        _, _, sequence, file, data, log, log_version, version, length, offset = _HEADER.unpack_from(
            raw
        )
        ids = (UUID(bytes_le=file), UUID(bytes_le=data), UUID(bytes_le=log))
        return cls(sequence, *ids, length, offset, log_version, version)


@dataclass(frozen=True, slots=True)
class RegionEntry:
    """A region: `length` bytes at `offset` of the file (2.2.3.2)."""

    id: UUID
    offset: int
    length: int
    required: bool = True


def pack_region_table(entries: Iterable[RegionEntry]) -> bytes:
    """Return a region table of 64 KiB, sealed."""
    raw = bytearray(REGION_TABLE_LENGTH)
    count = 0
    for count, entry in enumerate(entries, 1):
        at = _REGION_TABLE.size + (count - 1) * _REGION.size
        _REGION.pack_into(raw, at, entry.id.bytes_le, entry.offset, entry.length, entry.required)
    _REGION_TABLE.pack_into(raw, 0, b"regi", 0, count, 0)
    return seal(raw)


def unpack_region_count(raw: Buffer) -> int | None:
    """Return how many entries a region table claims, or None where it is not sealed."""
    if not is_sealed(raw, b"regi"):
        return None
    count: int = _REGION_TABLE.unpack_from(raw)[2]
    return count


def unpack_regions(raw: Buffer, count: int) -> list[RegionEntry]:
    """Return the first `count` entries, at most `MAX_REGIONS`, of a region table."""
    found = []
    for index in range(count):
        at = _REGION_TABLE.size + index * _REGION.size
        guid, offset, length, required = _REGION.unpack_from(raw, at)
        found.append(RegionEntry(UUID(bytes_le=guid), offset, length, bool(required & 1)))
    return found


@dataclass(frozen=True, slots=True)
class MetadataItem:
    """A metadata item; `offset` counts from the start of the metadata region (2.6.1.2)."""

    id: UUID
    offset: int
    length: int
    flags: ItemFlag


def pack_metadata_table(items: Iterable[MetadataItem]) -> bytes:
    """Return a metadata table of 64 KiB; the format gives it no checksum."""
    raw = bytearray(METADATA_TABLE_LENGTH)
    count = 0
    for count, item in enumerate(items, 1):
        at = count * _ITEM.size
        _ITEM.pack_into(raw, at, item.id.bytes_le, item.offset, item.length, item.flags)
    _METADATA_TABLE.pack_into(raw, 0, b"metadata", 0, count)
    return bytes(raw)


def unpack_metadata_count(raw: Buffer) -> int | None:
    """Return how many items a metadata table claims, or None where the signature is wrong."""
    signature, _, count = _METADATA_TABLE.unpack_from(raw)
    return count if signature == b"metadata" else None


def unpack_metadata_items(raw: Buffer, count: int) -> list[MetadataItem]:
    """Return the first `count` entries, at most `MAX_METADATA_ITEMS`, of a metadata table."""
    found = []
    for index in range(1, count + 1):
        guid, offset, length, flags = _ITEM.unpack_from(raw, index * _ITEM.size)
        found.append(MetadataItem(UUID(bytes_le=guid), offset, length, ItemFlag(flags & 0b111)))
    return found


def pack_checkpoint(end: int) -> bytes:
    """Return our content of the Incomplete item: the file is durable up to byte `end`."""
    return _CHECKPOINT.pack(_CHECKPOINT_MAGIC, end)


def unpack_checkpoint(raw: Buffer) -> int | None:
    """Return the byte up to which the file is durable, or None where the item is not ours."""
    if len(raw) != _CHECKPOINT.size:
        return None
    magic, end = _CHECKPOINT.unpack(raw)
    return end if magic == _CHECKPOINT_MAGIC else None


CHECKPOINT_LENGTH = _CHECKPOINT.size


@dataclass(frozen=True, slots=True)
class LogEntry:
    """The head of a log entry (2.3.1.1)."""

    length: int
    tail: int
    sequence: int
    descriptors: int
    log_id: UUID
    flushed_offset: int
    last_offset: int

    SIZE: ClassVar[int] = _LOG_ENTRY.size

    @classmethod
    def unpack(cls, raw: Buffer) -> LogEntry | None:
        """Return the entry's head, or None where no entry starts here."""
        signature, _, length, tail, sequence, count, _, guid, flushed, last = (
            _LOG_ENTRY.unpack_from(raw)
        )
        if signature != LOG_SIGNATURE:
            return None
        return cls(length, tail, sequence, count, UUID(bytes_le=guid), flushed, last)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a log entry does to one place of the file (2.3.1.2, 2.3.1.3).

    `leading` and `trailing` are the bytes that the data sector has no room for; of a zero
    descriptor, `leading` is the length.
    """

    signature: bytes
    trailing: bytes
    leading: bytes
    offset: int
    sequence: int

    SIZE: ClassVar[int] = _DESCRIPTOR.size

    @classmethod
    def unpack(cls, raw: Buffer, at: int) -> Descriptor:
        """Return the descriptor at byte `at`."""
        return cls(*_DESCRIPTOR.unpack_from(raw, at))

    @property
    def zero_length(self) -> int:
        """Bytes that a zero descriptor clears."""
        return int.from_bytes(self.leading, "little")
