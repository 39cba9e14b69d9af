# SPDX-License-Identifier: GPL-3.0-or-later
"""The VHDX metadata region ([MS-VHDX] 2.6): the table, then the items that every reader needs.

Nothing protects this region with a checksum, so each field is held to its exact rule.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from p2v.images.check.report import Findings
from p2v.images.check.vhdx_log import View
from p2v.model.units import KiB, MiB, TiB

_TABLE_SIZE = 64 * KiB
_HEAD = struct.Struct("<8sHH20s")
_ENTRY = struct.Struct("<16sIIII")
_MAX_ENTRIES = 2047
_MAX_USER_ENTRIES = 1024
_MAX_ITEM = MiB

_USER, _VIRTUAL_DISK, _REQUIRED = 1, 2, 4

_FILE_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
_DISK_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
_DISK_ID = UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
_LOGICAL_SECTOR = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
_PHYSICAL_SECTOR = UUID("cda348c7-445d-4471-9cc9-e9885251c556")
_PARENT_LOCATOR = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
_INCOMPLETE = UUID("71cc85f0-1b69-4e28-9558-c3bf83ae75d3")
_CHS = UUID("da02d7bc-3d3a-423c-ac88-2a36ab21479b")
_PMEM_LABELS = UUID("10e1ae8a-4b7e-4169-a40f-cd70de928393")

_NAMES = {
    _FILE_PARAMETERS: "File Parameters",
    _DISK_SIZE: "Virtual Disk Size",
    _DISK_ID: "Virtual Disk ID",
    _LOGICAL_SECTOR: "Logical Sector Size",
    _PHYSICAL_SECTOR: "Physical Sector Size",
    _PARENT_LOCATOR: "Parent Locator",
    _INCOMPLETE: "Incomplete File",
    _CHS: "CHS Parameters",
    _PMEM_LABELS: "PMEM Label Storage Area",
}
_NEEDED = {
    _FILE_PARAMETERS: (8, _REQUIRED),
    _DISK_SIZE: (8, _REQUIRED | _VIRTUAL_DISK),
    _DISK_ID: (16, _REQUIRED | _VIRTUAL_DISK),
    _LOGICAL_SECTOR: (4, _REQUIRED | _VIRTUAL_DISK),
    _PHYSICAL_SECTOR: (4, _REQUIRED | _VIRTUAL_DISK),
}
"""Length and exact flags of the items without which no disk can be read."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the metadata says of the disk; sizes are bytes."""

    block_size: int
    fixed: bool
    has_parent: bool
    disk_size: int
    disk_id: UUID
    logical_sector: int
    physical_sector: int
    incomplete: bool


@dataclass(frozen=True, slots=True)
class _Item:
    guid: UUID
    offset: int
    length: int
    flags: int
    reserved: int
    place: int
    """Byte of the file at which its table entry lies."""

    @property
    def name(self) -> str:
        return _NAMES.get(self.guid, str(self.guid))


def check_metadata(view: View, findings: Findings, start: int, length: int) -> Metadata | None:
    """Check the region and return what it says; None where the disk's shape remains unknown."""
    items = _read_table(view, findings, start)
    for item in items:
        _check_item(findings, item, length)
    _check_together(findings, items)
    system = {item.guid: item for item in items if not item.flags & _USER}
    if _INCOMPLETE in system:
        findings.error(
            "incomplete",
            "the image is marked incomplete: a migration into it has not finished",
            system[_INCOMPLETE].place,
        )
    values = {}
    for guid, (size, flags) in _NEEDED.items():
        value = _read_needed(view, findings, system.get(guid), guid, size, flags, start, length)
        if value is not None:
            values[guid] = value
    metadata = _decode(findings, values, start, _INCOMPLETE in system)
    if metadata is not None and metadata.has_parent:
        _check_parent(findings, _PARENT_LOCATOR in system)
    return metadata


def _read_table(view: View, findings: Findings, start: int) -> list[_Item]:
    raw = view.read(start, _TABLE_SIZE).ljust(_TABLE_SIZE, b"\0")
    signature, reserved, count, more = _HEAD.unpack_from(raw)
    if signature != b"metadata":
        findings.error("metadata-table", f"the table's signature is {signature!r}", start)
        return []
    if reserved or any(more):
        findings.error("metadata-reserved", "reserved fields of the table are not zero", start)
    if count > _MAX_ENTRIES:
        findings.error("metadata-count", f"the table claims {count} entries", start)
        count = _MAX_ENTRIES
    items = []
    for index in range(count):
        at = _HEAD.size + index * _ENTRY.size
        guid, offset, length, flags, unused = _ENTRY.unpack_from(raw, at)
        items.append(_Item(UUID(bytes_le=guid), offset, length, flags, unused, start + at))
    return items


def _check_item(findings: Findings, item: _Item, region: int) -> None:
    """Check what an entry says of itself."""

    def error(code: str, problem: str) -> None:
        findings.error(code, f"metadata item {item.name}: {problem}", item.place)

    if not item.guid.int:
        error("metadata-guid", "its identifier is zero")
    if item.reserved or item.flags & ~7:
        error("metadata-reserved", "reserved bits are set")
    if item.length > _MAX_ITEM:
        error("metadata-item-size", f"{item.length} bytes are more than 1 MiB")
    if not item.length:
        if item.offset:
            error("metadata-offset", f"it is empty but has offset {item.offset:#x}")
    elif item.offset < _TABLE_SIZE:
        error("metadata-offset", f"its offset {item.offset:#x} lies inside the table")
    elif item.offset + item.length > region:
        error("metadata-offset", f"it ends beyond the region, at {item.offset + item.length:#x}")
    if item.flags & _USER and item.flags & _REQUIRED:
        error("metadata-user-required", "a user's item is marked required")
    elif item.flags & _REQUIRED and item.guid not in _NAMES:
        error("metadata-unknown", "it is required but unknown")


def _check_together(findings: Findings, items: list[_Item]) -> None:
    """Check what the entries must not be to each other."""
    seen: set[tuple[UUID, int]] = set()
    for item in items:
        key = (item.guid, item.flags & _USER)
        if key in seen:
            findings.error("metadata-duplicate", f"item {item.name} is listed twice", item.place)
        seen.add(key)
    if sum(item.flags & _USER for item in items) > _MAX_USER_ENTRIES:
        findings.error("metadata-count", f"more than {_MAX_USER_ENTRIES} items are a user's")
    end, owner = 0, ""
    stored = [item for item in items if item.length]
    for item in sorted(stored, key=lambda item: item.offset):
        if item.offset < end:
            findings.error(
                "metadata-overlap", f"item {item.name} overlaps item {owner}", item.place
            )
        if item.offset + item.length > end:
            end, owner = item.offset + item.length, item.name


def _read_needed(
    view: View,
    findings: Findings,
    item: _Item | None,
    guid: UUID,
    size: int,
    flags: int,
    start: int,
    region: int,
) -> bytes | None:
    name = _NAMES[guid]
    if item is None:
        findings.error("metadata-missing", f"metadata item {name} is missing", start)
        return None
    if item.flags & 7 != flags:
        findings.error(
            "metadata-flags",
            f"metadata item {name} has flags {item.flags & 7:#05b}, expected {flags:#05b}",
            item.place,
        )
    if item.length != size:
        findings.error(
            "metadata-item-size",
            f"metadata item {name} has {item.length} bytes, expected {size}",
            item.place,
        )
        return None
    if item.offset + size > region:
        return None
    raw = view.read(start + item.offset, size)
    return raw if len(raw) == size else None


def _decode(
    findings: Findings, values: dict[UUID, bytes], start: int, incomplete: bool
) -> Metadata | None:
    """Check the values; None where they do not tell the shape of the BAT."""
    numbers = {guid: int.from_bytes(value, "little") for guid, value in values.items()}
    block, flags = struct.unpack("<II", values.get(_FILE_PARAMETERS, bytes(8)))
    logical = numbers.get(_LOGICAL_SECTOR, 0)
    physical = numbers.get(_PHYSICAL_SECTOR, 0)
    size = numbers.get(_DISK_SIZE, 0)
    if _FILE_PARAMETERS in values:
        if flags & ~3:
            findings.error("metadata-reserved", f"File Parameters has bits {flags:#x}", start)
        if block & block - 1 or not MiB <= block <= 256 * MiB:
            findings.error(
                "block-size", f"block size {block} is no power of two from 1 to 256 MiB", start
            )
            block = 0
    for guid, value in ((_LOGICAL_SECTOR, logical), (_PHYSICAL_SECTOR, physical)):
        if guid in values and value not in (512, 4096):
            findings.error("sector-size", f"{_NAMES[guid]} is {value}, not 512 or 4096", start)
    if logical == 4096:
        findings.note("sector-4096", "4096-byte logical sectors: Hyper-V reads it, QEMU does not")
    if _DISK_SIZE in values and not _good_size(size, logical):
        findings.error("disk-size", f"Virtual Disk Size {size} is zero, uneven or over 64 TiB")
        size = 0
    if not (block and size and logical in (512, 4096)):
        return None
    return Metadata(
        block_size=block,
        fixed=bool(flags & 1),
        has_parent=bool(flags & 2),
        disk_size=size,
        disk_id=UUID(bytes_le=values.get(_DISK_ID, bytes(16))),
        logical_sector=logical,
        physical_sector=physical,
        incomplete=incomplete,
    )


def _good_size(size: int, logical: int) -> bool:
    return 0 < size <= 64 * TiB and (logical not in (512, 4096) or not size % logical)


def _check_parent(findings: Findings, has_locator: bool) -> None:
    if has_locator:
        findings.warn("differencing", "a differencing disk: it needs its parent, not checked here")
    else:
        findings.error("parent-locator", "it has a parent but no Parent Locator")
