# SPDX-License-Identifier: GPL-3.0-or-later
"""GPT type and partition GUIDs, which libparted 3.5 does not give, and names.

Source: UEFI Specification 2.10, section 5.3. A copy at the disk's end stands in for a damaged
first header.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from agent.inventory.volume.window import VolumeDamagedError, Window

_SIGNATURE = b"EFI PART"
_MAX_ENTRIES = 1024
_HEADER = struct.Struct("<8sIIII QQQQ 16s QIII")

TYPES = {
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI System",
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot",
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux filesystem",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root (x86-64)",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "Linux home",
    "3b8f8425-20e0-4f3b-907f-1a25a76f98e8": "Linux server data",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "Linux extended boot",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "Microsoft basic data",
    "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3": "Microsoft LDM metadata",
    "af9b60a0-1431-4f62-bc68-3311714a69ad": "Microsoft LDM data",
    "e75caf8f-f680-4cee-afa3-b001e56efc2d": "Microsoft Storage Spaces",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery",
    "9e1a2d38-c612-4316-aa26-8b49521e5a8b": "PowerPC PReP boot",
}
LDM_TYPES = ("5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "af9b60a0-1431-4f62-bc68-3311714a69ad")


@dataclass(frozen=True, slots=True)
class GptEntry:
    """A used entry. `start` is in bytes."""

    start: int
    type: str
    uuid: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Gpt:
    """The disk's GUID and used entries."""

    uuid: str
    entries: tuple[GptEntry, ...]


def read_gpt(window: Window, sector: int) -> Gpt:
    """Return the GPT of the disk in `window`.

    Raises:
        VolumeDamagedError: neither header is valid.
    """
    last = window.size // sector - 1
    try:
        return _read(window, 1, sector)
    except VolumeDamagedError:
        return _read(window, last, sector)


def _read(window: Window, lba: int, sector: int) -> Gpt:
    raw = window.read(lba * sector, 512)
    fields = _HEADER.unpack_from(raw)
    signature, _, size, crc = fields[:4]
    uuid, entries_at, count, entry_size = fields[9:13]
    if signature != _SIGNATURE or not 92 <= size <= 512:
        raise VolumeDamagedError(problem="no GPT header")
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:size]) != crc:
        raise VolumeDamagedError(problem="the GPT header's checksum is wrong")
    if not 0 < count <= _MAX_ENTRIES or not 128 <= entry_size <= 4096 or entry_size % 8:
        raise VolumeDamagedError(problem="the GPT header makes no sense")
    table = window.read(entries_at * sector, count * entry_size)
    return Gpt(_guid(uuid), tuple(_entries(table, entry_size, sector)))


def _entries(table: bytes, entry_size: int, sector: int) -> Iterator[GptEntry]:
    for at in range(0, len(table), entry_size):
        type_, uuid, start = struct.unpack_from("<16s16sQ", table, at)
        if any(type_):
            name = table[at + 56 : at + 128].decode("utf-16-le", errors="replace")
            yield GptEntry(start * sector, _guid(type_), _guid(uuid), name.split("\0")[0])


def _guid(raw: bytes) -> str:
    return str(UUID(bytes_le=raw))


def is_gpt(window: Window, sector: int) -> bool:
    """Whether a GPT header stands where a disk of sectors of `sector` bytes has it."""
    try:
        return window.read(sector, 8) == _SIGNATURE
    except VolumeDamagedError:
        return False
