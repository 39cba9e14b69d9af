# SPDX-License-Identifier: GPL-3.0-or-later
"""MBR partition types and the disk's signature, which libparted 3.5 does not give."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from agent.inventory.volume.window import VolumeDamagedError, Window

_BOOT = b"\x55\xaa"
_EXTENDED = (0x05, 0x0F, 0x85)
_MAX_LOGICAL = 256
LDM_TYPE = "0x42"

TYPES = {
    0x01: "FAT12",
    0x04: "FAT16",
    0x06: "FAT16",
    0x07: "HPFS/NTFS/exFAT",
    0x0B: "FAT32",
    0x0C: "FAT32 (LBA)",
    0x0E: "FAT16 (LBA)",
    0x27: "Windows recovery",
    0x42: "Windows dynamic disk",
    0x82: "Linux swap",
    0x83: "Linux",
    0x8E: "Linux LVM",
    0xEE: "GPT protective",
    0xEF: "EFI System",
    0xFD: "Linux RAID",
}


@dataclass(frozen=True, slots=True)
class Mbr:
    """The disk's signature (eight hex digits) and type bytes by the partition's start in bytes."""

    signature: str
    types: dict[int, int]


def read_mbr(window: Window, sector: int) -> Mbr:
    """Return what the MBR of the disk in `window` says, logical partitions included.

    Raises:
        VolumeDamagedError: there is no MBR.
    """
    boot = window.read(0, 512)
    if boot[510:512] != _BOOT:
        raise VolumeDamagedError(problem="no MBR")
    (signature,) = struct.unpack_from("<I", boot, 440)
    types: dict[int, int] = {}
    for kind, start in _entries(boot):
        if kind in _EXTENDED:
            types.update(_logical(window, start, sector))
        elif kind:
            types[start * sector] = kind
    return Mbr(f"{signature:08x}", types)


def _entries(raw: bytes) -> Iterator[tuple[int, int]]:
    for at in range(446, 510, 16):
        yield raw[at + 4], struct.unpack_from("<I", raw, at + 8)[0]


def _logical(window: Window, extended: int, sector: int) -> Iterator[tuple[int, int]]:
    """Follow the chain of boot records; a damaged one may form a ring, hence the bound."""
    at = extended
    for _ in range(_MAX_LOGICAL):
        try:
            raw = window.read(at * sector, 512)
        except VolumeDamagedError:
            return
        if raw[510:512] != _BOOT:
            return
        (kind, start), (link, following) = list(_entries(raw))[:2]
        if kind:
            yield (at + start) * sector, kind
        if link not in _EXTENDED or not following:
            return
        at = extended + following
