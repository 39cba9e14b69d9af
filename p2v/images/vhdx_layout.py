# SPDX-License-Identifier: GPL-3.0-or-later
"""Where everything is in a VHDX file: parsed and checked in the order a reader meets it.

Specification: [MS-VHDX] 2.2. Tolerated, because programs have written it: headers with equal
sequence numbers (Disk2vhd), regions not marked as required (QEMU 1.6), one damaged copy of the
header or of the region table.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from uuid import UUID

from p2v.images import c_vhdx as c
from p2v.images.vhdx_metadata import Metadata, Parameters, read_metadata, read_parameters
from p2v.images.vhdx_view import FileView
from p2v.model.extent import Extent


@dataclass(frozen=True, slots=True)
class Layout:
    """A VHDX file's disk, and where its structures lie in the file.

    `reserved` are all parts of the file that hold no payload, in order.
    """

    creator: str
    bat: Extent
    metadata: Metadata
    disk: Parameters
    reserved: tuple[Extent, ...]


def read_header(view: FileView) -> tuple[int, c.Header]:
    """Return the current header and the index of its slot (2.2.2.1).

    Raises:
        ImageError: the file is no VHDX, or neither header can be used.
    """
    signature = view.read(0, 8) if view.size >= c.HEADER_AREA_LENGTH else b""
    if signature != c.FILE_SIGNATURE:
        view.refuse(f"it is no VHDX file: it begins with {signature!r}")
    found = []
    for slot, offset in enumerate(c.HEADER_OFFSETS):
        header = c.Header.unpack(view.read(offset, c.HEADER_LENGTH))
        if header is not None:
            found.append((header.sequence, slot, header))
    if not found:
        view.refuse("both headers are damaged: neither has a valid checksum")
    _, slot, header = max(found, key=lambda each: each[:2])
    if header.version != 1:
        view.refuse(f"its format version is {header.version}, not 1")
    _check_log(view, header)
    return slot, header


def read_layout(view: FileView, header: c.Header) -> Layout:
    """Return the layout of the file whose current header is `header`; replay its log before.

    Raises:
        ImageError: a structure is damaged or asks for what is not known.
    """
    log = Extent(header.log_offset, header.log_length)
    regions, reserved = _read_regions(view, log)
    bat, metadata = regions[c.BAT_REGION], read_metadata(view, regions[c.METADATA_REGION])
    disk = read_parameters(view, metadata)
    if not disk.has_parent and bat.length < disk.bat_length:
        view.refuse(f"its block table has {bat.length} bytes, {disk.bat_length} are needed")
    creator = view.read(len(c.FILE_SIGNATURE), c.CREATOR_LENGTH).decode("utf-16-le", "replace")
    return Layout(creator.split("\0")[0], bat, metadata, disk, reserved)


def _check_log(view: FileView, header: c.Header) -> None:
    log = Extent(header.log_offset, header.log_length)
    if header.log_id == c.NO_ID and log.length == 0:
        return
    if header.log_id != c.NO_ID and header.log_version != 0:
        view.refuse(f"its log has version {header.log_version}, not 0")
    _check_place(view, "the log", log)


def _check_place(view: FileView, name: str, place: Extent) -> None:
    """Refuse what is not in the file, in whole MiB, behind the header area."""
    if place.length == 0 or place.offset % c.UNIT or place.length % c.UNIT:
        view.refuse(
            f"{name} is not in whole MiB: {place.length} bytes at byte {place.offset} of the file"
        )
    if place.offset < c.HEADER_AREA_LENGTH or place.end > view.size:
        view.refuse(
            f"{name} ({place.length} bytes at byte {place.offset}) leaves the file's {view.size}"
        )


def _read_region_entries(view: FileView) -> list[c.RegionEntry]:
    tables = []
    for offset in c.REGION_TABLE_OFFSETS:
        raw = view.read(offset, c.REGION_TABLE_LENGTH)
        count = c.unpack_region_count(raw)
        if count is not None:
            tables.append((raw, count))
    if not tables:
        view.refuse("both region tables are damaged: neither has a valid checksum")
    if len(tables) == 2 and tables[0] != tables[1]:
        view.refuse("its two region tables differ")
    raw, count = tables[0]
    if count > c.MAX_REGIONS:
        view.refuse(f"its region table claims {count} entries, {c.MAX_REGIONS} is the most")
    return c.unpack_regions(raw, count)


def _read_regions(view: FileView, log: Extent) -> tuple[dict[UUID, Extent], tuple[Extent, ...]]:
    """Return the regions by id (2.2.3), and with header area and log all that is no payload."""
    known: dict[UUID, Extent] = {}
    placed = [Extent(0, c.HEADER_AREA_LENGTH), *([log] if log.length else [])]
    for entry in _read_region_entries(view):
        place = Extent(entry.offset, entry.length)
        if entry.id in known:
            view.refuse(f"region {entry.id} occurs twice")
        if entry.id not in (c.BAT_REGION, c.METADATA_REGION) and entry.required:
            view.refuse(f"it needs a region that is not known: {entry.id}")
        _check_place(view, f"region {entry.id}", place)
        known[entry.id] = place
        placed.append(place)
    placed.sort()
    for one, other in pairwise(placed):
        if one.end > other.offset:
            view.refuse(f"two regions overlap at byte {other.offset} of the file")
    for guid, name in ((c.BAT_REGION, "block table"), (c.METADATA_REGION, "metadata")):
        if guid not in known:
            view.refuse(f"it has no {name} region")
    return known, tuple(placed)
