# SPDX-License-Identifier: GPL-3.0-or-later
"""A small VHDX builder that shares nothing with the project's writer or its validator."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

import pytest

from native import crc32c

MiB = 1 << 20
BAT = uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
FILE_PARAMETERS = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
DISK_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
PAGE_83 = uuid.UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
LOGICAL = uuid.UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
PHYSICAL = uuid.UUID("cda348c7-445d-4471-9cc9-e9885251c556")
INCOMPLETE = uuid.UUID("71cc85f0-1b69-4e28-9558-c3bf83ae75d3")
PARENT = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")


class Vhdx:
    """A VHDX as values that a test bends before `save` lays them out.

    Layout as Windows does it: log at 1 MiB, metadata at 2, BAT at 3, blocks from 4 on. The disk has
    5 GiB, so that the BAT holds a sector bitmap entry, and three blocks of 1 MiB: 0, 1 and 4097,
    the last one behind that entry.
    """

    def __init__(self) -> None:
        self.block = MiB
        self.size = 5 << 30
        self.logical, self.physical = 512, 4096
        self.parameters = 0
        self.sequences = [7, 8]
        self.log_guid = bytes(16)
        self.log = (MiB, MiB)
        self.version, self.log_version = 1, 0
        self.regions = [(BAT, 3 * MiB, MiB, 1), (METADATA, 2 * MiB, MiB, 1)]
        self.items = {
            FILE_PARAMETERS: (None, 4),
            DISK_SIZE: (None, 6),
            PAGE_83: (uuid.UUID(int=0x1234).bytes_le, 6),
            LOGICAL: (None, 6),
            PHYSICAL: (None, 6),
        }
        self.bat = {0: entry(4), 1: entry(5), 4098: entry(6)}
        self.end = 7 * MiB
        self.patches: list[tuple[int, bytes]] = []

    def patch(self, offset: int, data: bytes) -> None:
        """Overwrite bytes after everything, checksums included, is laid out."""
        self.patches.append((offset, data))

    def save(self, path: Path) -> Path:
        image = bytearray(max(self.end, 4 * MiB))
        image[:8] = b"vhdxfile"
        image[8:16] = "test".encode("utf-16-le")
        for offset, sequence in zip((64 << 10, 128 << 10), self.sequences, strict=True):
            header = bytearray(4096)
            fields = (sequence, bytes(16), bytes(16), self.log_guid, self.log_version, self.version)
            struct.pack_into("<4sIQ16s16s16sHH", header, 0, b"head", 0, *fields)
            struct.pack_into("<IQ", header, 68, self.log[1], self.log[0])
            put_summed(image, offset, header)
        table = bytearray(64 << 10)
        struct.pack_into("<4sII", table, 0, b"regi", 0, len(self.regions))
        for index, (guid, *fields) in enumerate(self.regions):
            struct.pack_into("<16sQII", table, 16 + index * 32, guid.bytes_le, *fields)
        for offset in (192 << 10, 256 << 10):
            put_summed(image, offset, table)
        self._put_metadata(image)
        for index, value in self.bat.items():
            struct.pack_into("<Q", image, 3 * MiB + index * 8, value)
        for offset in range(4 * MiB, len(image), 4096):
            image[offset : offset + 8] = struct.pack("<Q", offset)
        for offset, data in self.patches:
            image[offset : offset + len(data)] = data
        path.write_bytes(image[: self.end])
        return path

    def _put_metadata(self, image: bytearray) -> None:
        values = {
            FILE_PARAMETERS: struct.pack("<II", self.block, self.parameters),
            DISK_SIZE: struct.pack("<Q", self.size),
            LOGICAL: struct.pack("<I", self.logical),
            PHYSICAL: struct.pack("<I", self.physical),
        }
        start = 2 * MiB
        struct.pack_into("<8sHH", image, start, b"metadata", 0, len(self.items))
        at = 64 << 10
        for index, (guid, (data, flags)) in enumerate(self.items.items()):
            data = values[guid] if data is None else data
            fields = (guid.bytes_le, at if data else 0, len(data), flags)
            struct.pack_into("<16sIII", image, start + 32 + index * 32, *fields)
            image[start + at : start + at + len(data)] = data
            at += len(data)

    def item_entry(self, guid: uuid.UUID) -> int:
        """Return the file offset of an item's entry in the metadata table."""
        return 2 * MiB + 32 + list(self.items).index(guid) * 32


def entry(mib: int, state: int = 6) -> int:
    return mib << 20 | state


def put_summed(image: bytearray, offset: int, structure: bytearray) -> None:
    """Lay down a structure whose CRC-32C stands at its byte 4."""
    struct.pack_into("<I", structure, 4, 0)
    struct.pack_into("<I", structure, 4, crc32c(structure))
    image[offset : offset + len(structure)] = structure


@pytest.fixture
def vhdx() -> Vhdx:
    return Vhdx()
